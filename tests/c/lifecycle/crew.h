/* What the programs here share: ranks as processes or threads, clocks, and what a rank should find. */
#ifndef CREW_H_
#define CREW_H_

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "nccl.h"
#include "shoal.h"

/* A check that names its line; a failed one ends the process. */
#define CHECK(truth)                                                                                  \
  do {                                                                                                \
    if (!(truth)) {                                                                                   \
      fprintf(stderr, "%s:%d (process %d): %s; last error: %s\n", __FILE__, __LINE__, (int)getpid(),  \
              #truth, ncclGetLastError(NULL));                                                        \
      _exit(1);                                                                                       \
    }                                                                                                 \
  } while (0)

#define GOOD(call) CHECK((call) == ncclSuccess)

/* The last error says all of this. */
#define CHECK_SAID(words) CHECK(strstr(ncclGetLastError(NULL), words) != NULL)

enum { CREW_LIMIT = 64, CREW_SECONDS = 60 };

typedef struct {
  int rank, ranks;
  ncclUniqueId id;
} Seat;

typedef void (*Body)(Seat seat);

static pid_t crew[CREW_LIMIT];

static double now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static void sleep_ms(int milliseconds) {
  struct timespec time = {milliseconds / 1000, (milliseconds % 1000) * 1000000L};
  while (nanosleep(&time, &time) != 0) {
  }
}

static ncclComm_t sit(Seat seat) {
  ncclComm_t comm = NULL;
  GOOD(ncclCommInitRank(&comm, seat.ranks, seat.id, seat.rank));
  CHECK(comm != NULL);
  return comm;
}

/* With CREW_HOSTS=N ranks in processes of their own are dealt to N hosts, as far as the library knows. */
static void crew_choose_host(int rank) {
  const char* hosts = getenv("CREW_HOSTS");
  char name[32];
  if (hosts == NULL) return;
  snprintf(name, sizeof name, "host-%d", rank % atoi(hosts));
  setenv("SHOAL_HOSTID", name, 1);
}

/* Starts one rank in a process of its own. */
static void crew_start_one(Seat seat, Body body) {
  fflush(NULL);
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    alarm(CREW_SECONDS);
    crew_choose_host(seat.rank);
    body(seat);
    fflush(NULL);
    _exit(0);
  }
  crew[seat.rank] = child;
}

/* Starts all ranks, each in a process of its own; this one made the id. */
static void crew_start_with_id(int ranks, Body body) {
  Seat seat = {0, ranks, {{0}}};
  GOOD(ncclGetUniqueId(&seat.id));
  for (seat.rank = 0; seat.rank < ranks; seat.rank++) crew_start_one(seat, body);
}

typedef struct {
  ncclUniqueId id;
  int is_there;
} Desk;

static Desk* crew_desk;
static Body crew_body;

static void crew_meet(Seat seat) {
  if (seat.rank == 0) {
    GOOD(ncclGetUniqueId(&crew_desk->id));
    __atomic_store_n(&crew_desk->is_there, 1, __ATOMIC_RELEASE);
  }
  while (!__atomic_load_n(&crew_desk->is_there, __ATOMIC_ACQUIRE)) sleep_ms(1);
  seat.id = crew_desk->id;
  crew_body(seat);
}

/* Starts all ranks, each in a process of its own; rank 0 makes the id, which the others find on a desk. */
static void crew_start(int ranks, Body body) {
  Seat seat = {0, ranks, {{0}}};
  crew_desk = mmap(NULL, sizeof *crew_desk, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(crew_desk != MAP_FAILED);
  crew_body = body;
  for (seat.rank = 0; seat.rank < ranks; seat.rank++) crew_start_one(seat, crew_meet);
}

/* Waits for one rank; it ended by itself and well, or by the signal that is expected. */
static void crew_join_one(int rank, int expected_signal) {
  int status = 0;
  CHECK(waitpid(crew[rank], &status, 0) == crew[rank]);
  int good = expected_signal == 0 ? WIFEXITED(status) && WEXITSTATUS(status) == 0
                                  : WIFSIGNALED(status) && WTERMSIG(status) == expected_signal;
  if (!good) fprintf(stderr, "rank %d ended with status %#x\n", rank, (unsigned)status);
  CHECK(good);
}

static void crew_join(int ranks) {
  for (int rank = 0; rank < ranks; rank++) crew_join_one(rank, 0);
}

static void crew_run(int ranks, Body body) {
  crew_start(ranks, body);
  crew_join(ranks);
}

/* A few words that the processes of a crew share. */
typedef struct {
  volatile int words[256];
} Board;

static Board* board_make(void) {
  Board* board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(board != MAP_FAILED);
  return board;
}

static void board_wait(Board* board, int word, int value) {
  while (__atomic_load_n(&board->words[word], __ATOMIC_ACQUIRE) < value) sleep_ms(1);
}

static void board_add(Board* board, int word) { __atomic_fetch_add(&board->words[word], 1, __ATOMIC_ACQ_REL); }

/* One allreduce whose result every rank knows. */
static ncclResult_t sum_once(ncclComm_t comm, int rank, int ranks, size_t count, int32_t* buffer) {
  for (size_t i = 0; i < count; i++) buffer[i] = rank + (int32_t)(i % 97);
  ncclResult_t result = ncclAllReduce(buffer, buffer, count, ncclInt32, ncclSum, comm, NULL);
  if (result != ncclSuccess) return result;
  int32_t ranks_sum = ranks * (ranks - 1) / 2;
  for (size_t i = 0; i < count; i++) CHECK(buffer[i] == ranks_sum + ranks * (int32_t)(i % 97));
  return ncclSuccess;
}

static ncclResult_t async_error(ncclComm_t comm) {
  ncclResult_t state = ncclInternalError;
  GOOD(ncclCommGetAsyncError(comm, &state));
  return state;
}

/* Keeps the compiler from naming what one of the programs does not use. */
static inline void crew_unused(void) {
  (void)crew_run, (void)sit, (void)now_ms, (void)board_make, (void)board_wait, (void)board_add;
  (void)sum_once, (void)async_error, (void)crew_start_with_id, (void)crew_join_one, (void)crew_unused;
}

/* The cases of a program: the first argument names one. */
typedef struct {
  const char* name;
  void (*run)(void);
} Case;

static inline int crew_main(int count, char** arguments, const Case* cases) {
  alarm(CREW_SECONDS);
  for (const Case* one = cases; one->name != NULL; one++) {
    if (count > 1 && strcmp(one->name, arguments[1]) == 0) {
      one->run();
      return 0;
    }
  }
  fprintf(stderr, "no such case\n");
  return 2;
}

#endif
