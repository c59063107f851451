/*
 * What a program linked on a new machine asks its C library for, and an old one does not have.
 *
 * Linked into the release only. Everything here works the same on every glibc: the system call where the
 * function moved, the old way to start a program where the new start-up file leaves work to a new library.
 */
#include <fcntl.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Up to 2.32 these were in the static part of glibc, since then in the shared one. The kernel fills the same
 * structure on 64-bit machines, which is also that of the names with 64, so the system call is the whole
 * function; it sets errno. */
struct stat;

#define BOTH_NAMES(name, arguments, body)    \
  int name arguments { return (int)(body); } \
  int name##64 arguments { return (int)(body); }

BOTH_NAMES(stat, (const char* path, struct stat* answer), syscall(SYS_newfstatat, AT_FDCWD, path, answer, 0))
BOTH_NAMES(lstat, (const char* path, struct stat* answer),
           syscall(SYS_newfstatat, AT_FDCWD, path, answer, AT_SYMLINK_NOFOLLOW))
BOTH_NAMES(fstat, (int file, struct stat* answer), syscall(SYS_fstat, file, answer))
BOTH_NAMES(fstatat, (int folder, const char* path, struct stat* answer, int flags),
           syscall(SYS_newfstatat, folder, path, answer, flags))

/* A start-up file made for 2.34 or newer lets the library run the program's constructors; an older library
 * runs only what it is handed. The linker sends the start-up file's call here (--wrap). */
#ifdef SHOAL_PROGRAM
typedef int (*main_function)(int, char**, char**);
typedef void (*constructor)(int, char**, char**);
extern int __real___libc_start_main(main_function, int, char**, constructor, void (*)(void), void (*)(void),
                                    void*);
extern constructor __init_array_start[] __attribute__((visibility("hidden")));
extern constructor __init_array_end[] __attribute__((visibility("hidden")));
extern void _init(void) __attribute__((visibility("hidden")));

static void construct(int count, char** arguments, char** environment) {
  _init();
  for (constructor* next = __init_array_start; next != __init_array_end; next++)
    (*next)(count, arguments, environment);
}

int __wrap___libc_start_main(main_function entry, int count, char** arguments, constructor construction,
                             void (*destruction)(void), void (*loader_end)(void), void* stack_end) {
  return __real___libc_start_main(entry, count, arguments, construction ? construction : construct,
                                  destruction, loader_end, stack_end);
}
#endif
