/* deny ERROR NUMBER... -- PROGRAM ARGUMENT...: runs a program for which these system calls fail with this error, as
 * under the filters of container engines (EPERM) or on old kernels (ENOSYS). */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { LIMIT = 32 };

int main(int count, char** arguments) {
  struct sock_filter code[2 + 2 * LIMIT];
  unsigned short length = 0;
  int at = 2;
  if (count < 4) return 2;
  code[length++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
  for (; at < count && at <= LIMIT + 1 && strcmp(arguments[at], "--") != 0; at++) {
    code[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)atoi(arguments[at]), 0, 1);
    code[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)atoi(arguments[1]));
  }
  code[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  if (at + 1 >= count) return 2;
  struct sock_fprog program = {length, code};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
    perror("prctl");
    return 2;
  }
  execvp(arguments[at + 1], arguments + at + 1);
  perror(arguments[at + 1]);
  return 2;
}
