/* One rank of a job whose ranks are started one by one, wherever: rank RANK RANKS FOLDER WHAT. They meet by an
 * id that rank 0 leaves in the folder. The last rank is the one to which something happens. */
#include "../lifecycle/crew.h"

#include <errno.h>
#include <sys/stat.h>
#include <sys/time.h>

enum { LARGE = 1 << 20, ERROR_MS = 2000 };

static Seat seat;
static const char* folder;
static int32_t words[LARGE];

static FILE* open_file(const char* name, const char* how) {
  char path[600];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return fopen(path, how);
}

static void publish(const char* name, const void* bytes, size_t count) {
  char from[600], to[600];
  FILE* file = open_file("new", "w");
  CHECK(file != NULL && fwrite(bytes, count, 1, file) == 1 && fclose(file) == 0);
  snprintf(from, sizeof from, "%s/new", folder);
  snprintf(to, sizeof to, "%s/%s", folder, name);
  CHECK(rename(from, to) == 0);
}

static void await(const char* name, void* bytes, size_t count) {
  FILE* file;
  while ((file = open_file(name, "r")) == NULL) sleep_ms(2);
  CHECK(fread(bytes, count, 1, file) == 1);
  fclose(file);
}

static ncclComm_t meet(int round) {
  char name[32];
  snprintf(name, sizeof name, "id%d", round);
  if (seat.rank == 0) {
    GOOD(ncclGetUniqueId(&seat.id));
    publish(name, &seat.id, sizeof seat.id);
  } else {
    await(name, &seat.id, sizeof seat.id);
  }
  return sit(seat);
}

/* To the next rank, from the one before, in memory of the library. */
static void pass_round(ncclComm_t comm, size_t bytes) {
  char *from, *into;
  int next = (seat.rank + 1) % seat.ranks, before = (seat.rank + seat.ranks - 1) % seat.ranks;
  GOOD(ncclMemAlloc((void**)&from, bytes));
  GOOD(ncclMemAlloc((void**)&into, bytes));
  memset(from, seat.rank + 1, bytes);
  GOOD(ncclGroupStart());
  GOOD(ncclSend(from, bytes, ncclChar, next, comm, NULL));
  GOOD(ncclRecv(into, bytes, ncclChar, before, comm, NULL));
  GOOD(ncclGroupEnd());
  for (size_t at = 0; at < bytes; at++) CHECK(into[at] == (char)(before + 1));
  GOOD(ncclMemFree(from));
  GOOD(ncclMemFree(into));
}

static void work_some(ncclComm_t comm) {
  for (int round = 0; round < 3; round++) {
    GOOD(sum_once(comm, seat.rank, seat.ranks, 10, words));
    GOOD(sum_once(comm, seat.rank, seat.ranks, LARGE, words));
    pass_round(comm, 3 << 20);
  }
}

static void work(ncclComm_t comm) {
  work_some(comm);
  GOOD(ncclCommDestroy(comm));
}

static int is_last(void) { return seat.rank == seat.ranks - 1; }

static void say_when(void) {
  double when_ms = now_ms();
  publish("when", &when_ms, sizeof when_ms);
}

/* What went wrong is the last rank's end, and was seen soon. */
static void check_verdict(ncclComm_t comm, const char* words_of_error) {
  double seen_ms = now_ms(), when_ms;
  char name[32], text[1024];
  snprintf(text, sizeof text, "%s", ncclGetLastError(NULL));
  snprintf(name, sizeof name, "rank %d", seat.ranks - 1);
  await("when", &when_ms, sizeof when_ms);
  printf("rank %d knew after %.0f ms: %s\n", seat.rank, seen_ms - when_ms, text);
  CHECK(seen_ms - when_ms < ERROR_MS);
  CHECK(strstr(text, name) != NULL && strstr(text, words_of_error) != NULL);
  CHECK(async_error(comm) != ncclSuccess);
  GOOD(ncclCommAbort(comm));
}

static void wait_for_last(ncclComm_t comm) {
  CHECK(ncclRecv(words, 4, ncclInt32, seat.ranks - 1, comm, NULL) == ncclRemoteError);
  check_verdict(comm, "is gone");
}

/* A child that holds on to every descriptor, for longer than a verdict may take. */
static void leave_a_child(void) {
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    alarm(4);
    pause();
    _exit(0);
  }
}

static void dies(ncclComm_t comm) {
  work_some(comm);
  if (!is_last()) {
    wait_for_last(comm);
    return;
  }
  leave_a_child();
  sleep_ms(200);
  say_when();
  kill(getpid(), SIGKILL);
}

/* Nobody waits in a call: it is learned by asking. */
static void dies_unawaited(ncclComm_t comm) {
  GOOD(sum_once(comm, seat.rank, seat.ranks, 10, words));
  if (is_last()) {
    leave_a_child();
    sleep_ms(200);
    say_when();
    kill(getpid(), SIGKILL);
  }
  while (async_error(comm) == ncclSuccess) sleep_ms(10);
  check_verdict(comm, "is gone");
}

/* Until the kernel ends it, or there is nothing left to eat. */
static void eats(ncclComm_t comm) {
  enum { BITE = 1 << 20 };
  GOOD(sum_once(comm, seat.rank, seat.ranks, 10, words));
  if (!is_last()) {
    wait_for_last(comm);
    return;
  }
  say_when();
  for (char* bite = malloc(BITE); bite != NULL; bite = malloc(BITE)) memset(bite, 1, BITE);
  kill(getpid(), SIGKILL);
}

static void executes(ncclComm_t comm) {
  work_some(comm);
  if (!is_last()) {
    wait_for_last(comm);
    return;
  }
  say_when();
  execlp("sleep", "sleep", "3", (char*)NULL);
  CHECK(0);
}

/* Stopped for three seconds by a child, and continued by it. */
static void stops(ncclComm_t comm) {
  work_some(comm);
  if (is_last()) {
    pid_t self = getpid(), child = fork();
    CHECK(child >= 0);
    if (child == 0) {
      sleep_ms(100);
      kill(self, SIGSTOP);
      sleep_ms(3000);
      kill(self, SIGCONT);
      _exit(0);
    }
    sleep_ms(500);
    int status = 0;
    while (waitpid(child, &status, 0) != child) CHECK(errno == EINTR);
  }
  double start_ms = now_ms();
  GOOD(sum_once(comm, seat.rank, seat.ranks, 10, words));
  if (!is_last()) CHECK(now_ms() - start_ms > 1500);
  CHECK(async_error(comm) == ncclSuccess);
  work(comm);
}

/* The last rank's host is cut off from the others in the middle of their work. */
static void cut(ncclComm_t comm) {
  ncclResult_t result = ncclSuccess;
  work_some(comm);
  if (is_last()) say_when();
  while (result == ncclSuccess) result = sum_once(comm, seat.rank, seat.ranks, LARGE, words);
  CHECK(result == ncclRemoteError);
  if (!is_last()) {
    check_verdict(comm, "is gone");
    return;
  }
  printf("rank %d knew: %s\n", seat.rank, ncclGetLastError(NULL));
  GOOD(ncclCommAbort(comm));
}

static int rounds_wanted(void) {
  const char* wanted = getenv("CYCLES");
  return wanted == NULL ? 20 : atoi(wanted);
}

/* Born and ended again and again, so that nothing connects the ranks in between. */
static void reborn(ncclComm_t comm) {
  int rounds = rounds_wanted();
  for (int round = 1; round <= rounds; round++) {
    GOOD((round + seat.rank) % 3 == 0 ? ncclCommAbort(comm) : ncclCommDestroy(comm));
    comm = meet(round);
    GOOD(sum_once(comm, seat.rank, seat.ranks, round % 2 == 0 ? 10 : LARGE / 16, words));
  }
  work(comm);
}

/* Children of one communicator come and go, sometimes with messages that nobody took. */
static void cycles(ncclComm_t comm) {
  int rounds = rounds_wanted(), next = (seat.rank + 1) % seat.ranks;
  for (int round = 0; round < rounds; round++) {
    ncclComm_t child = NULL;
    GOOD(ncclCommSplit(comm, 0, seat.rank, &child, NULL));
    if (round % 3 != 0) GOOD(sum_once(child, seat.rank, seat.ranks, 10, words));
    if (round % 5 == 4) {
      GOOD(ncclSend(words, 100, ncclChar, next, child, NULL));
      GOOD(ncclCommAbort(child));
    } else {
      GOOD(ncclCommDestroy(child));
    }
  }
  work(comm);
}

/* The last rank takes nothing of what rank 0 sends, in one communicator, while another one works. */
static void flooded(ncclComm_t comm) {
  enum { MESSAGE = 1 << 14, MESSAGES = 1000 };
  ncclComm_t other = NULL;
  shoalStream_t stream = NULL;
  char* message = calloc(1, MESSAGE);
  CHECK(message != NULL);
  GOOD(ncclCommSplit(comm, 0, seat.rank, &other, NULL));
  GOOD(shoalStreamCreate(&stream));
  if (seat.rank == 0) {
    for (int at = 0; at < MESSAGES; at++) GOOD(ncclSend(message, MESSAGE, ncclChar, seat.ranks - 1, other, stream));
  }
  for (int round = 0; round < 20; round++) GOOD(sum_once(comm, seat.rank, seat.ranks, 1000, words));
  if (is_last()) {
    for (int at = 0; at < MESSAGES; at++) GOOD(ncclRecv(message, MESSAGE, ncclChar, 0, other, stream));
  }
  GOOD(shoalStreamSynchronize(stream));
  GOOD(shoalStreamDestroy(stream));
  GOOD(ncclCommDestroy(other));
  free(message);
  work(comm);
}

static void on_signal(int number) { (void)number; }

static void start_storm(void) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  /* No SA_RESTART: every system call that can be interrupted is. */
  action.sa_handler = on_signal;
  CHECK(sigaction(SIGALRM, &action, NULL) == 0);
  struct itimerval often = {{0, 500}, {0, 500}};
  CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
}

int main(int count, char** arguments) {
  CHECK(count == 5);
  /* What is broken shows as a signal that nobody handles. */
  signal(SIGPIPE, SIG_DFL);
  seat.rank = atoi(arguments[1]), seat.ranks = atoi(arguments[2]), folder = arguments[3];
  const char* what = arguments[4];
  if (strcmp(what, "storm") == 0) start_storm(); else alarm(CREW_SECONDS);
  const struct {
    const char* name;
    void (*run)(ncclComm_t comm);
  } parts[] = {{"work", work}, {"storm", work}, {"dies", dies}, {"dies-unawaited", dies_unawaited}, {"executes", executes}, {"eats", eats}, {"stops", stops}, {"cut", cut}, {"reborn", reborn}, {"cycles", cycles}, {"flooded", flooded}};
  ncclComm_t comm = meet(0);
  for (size_t part = 0; part < sizeof parts / sizeof *parts; part++) {
    if (strcmp(what, parts[part].name) == 0) {
      parts[part].run(comm);
      printf("rank %d is good\n", seat.rank);
      return 0;
    }
  }
  fprintf(stderr, "no such part\n");
  return 2;
}
