/* Programs that just end: without destroy, in the middle of a collective, with work on streams, by a signal
 * handler's _exit. They end, and their peers get an error. */
#include "crew.h"

enum { COUNT = 100000, ERROR_MS = 2000 };
static int32_t words[COUNT];
static Board* board;

static void forgetful_body(Seat seat) {
  ncclComm_t comm = sit(seat);
  shoalStream_t stream = NULL;
  GOOD(shoalStreamCreate(&stream));
  GOOD(sum_once(comm, seat.rank, seat.ranks, COUNT, words));
  GOOD(ncclAllReduce(words, words, COUNT, ncclInt32, ncclMax, comm, stream));
  GOOD(shoalStreamSynchronize(stream));
  exit(0);
}

static void run_forgetful(void) {
  crew_run(1, forgetful_body);
  crew_run(3, forgetful_body);
}

static int kind;

static void* wait_for_ever(void* comm) {
  int32_t word;
  ncclRecv(&word, 1, ncclInt32, 0, comm, NULL);
  return NULL;
}

static void on_signal(int number) {
  (void)number;
  _exit(0);
}

/* Rank 1 ends in different ways while the others are in a collective with it. */
static void leaving_body(Seat seat) {
  ncclComm_t comm = sit(seat);
  GOOD(sum_once(comm, seat.rank, seat.ranks, COUNT, words));
  if (seat.rank == 1) {
    shoalStream_t stream = NULL;
    pthread_t thread;
    switch (kind) {
      case 0: break;
      case 1: /* with work under way on a stream */
        GOOD(shoalStreamCreate(&stream));
        GOOD(ncclAllReduce(words, words, 10, ncclInt32, ncclSum, comm, stream));
        GOOD(ncclRecv(words, 10, ncclInt32, 0, comm, stream));
        break;
      case 2: /* with a thread in a call */
        CHECK(pthread_create(&thread, NULL, wait_for_ever, comm) == 0);
        sleep_ms(50);
        break;
      default: /* from a signal handler, in a call */
        signal(SIGALRM, on_signal);
        ualarm(50000, 0);
        wait_for_ever(comm);
    }
    board_add(board, kind);
    exit(0);
  }
  if (kind != 3) board_wait(board, kind, 1);
  double start_ms = now_ms();
  ncclResult_t result = ncclSuccess;
  while (result == ncclSuccess) {
    result = ncclAllReduce(words, words, 10, ncclInt32, ncclSum, comm, NULL);
  }
  double error_ms = now_ms() - start_ms;
  printf("way %d, rank %d: %.0f ms, %s\n", kind, seat.rank, error_ms, ncclGetLastError(NULL));
  CHECK_SAID("rank 1");
  CHECK(error_ms < ERROR_MS && async_error(comm) != ncclSuccess);
  GOOD((seat.rank == 0 ? ncclCommDestroy : ncclCommAbort)(comm));
}

static void run_leaving(void) {
  for (kind = 0; kind < 4; kind++) crew_run(3, leaving_body);
}

/* Who is done aborts, exits or destroys at once, and takes nothing from those who still read what it sent. */
static void finishing_body(Seat seat) {
  ncclComm_t comm = sit(seat);
  for (int i = 0; i < 3; i++) GOOD(sum_once(comm, seat.rank, seat.ranks, COUNT, words));
  /* The larger ones go straight between the buffers, the small ones through lines. */
  GOOD(sum_once(comm, seat.rank, seat.ranks, 10, words));
  if ((seat.rank + kind) % 3 == 0) GOOD(ncclCommAbort(comm));
  if ((seat.rank + kind) % 3 == 1) GOOD(ncclCommDestroy(comm));
  exit(0);
}

static void run_finishing(void) {
  for (kind = 0; kind < 3; kind++) crew_run(5, finishing_body);
}

/* Threads that ended, and communicators that others destroy. */
static ncclComm_t passed;

static void* make(void* seat) {
  passed = sit(*(Seat*)seat);
  GOOD(sum_once(passed, 0, 1, COUNT, words));
  return NULL;
}

static void run_threads(void) {
  for (int round = 0; round < 20; round++) {
    Seat seat = {0, 1, {{0}}};
    pthread_t thread;
    GOOD(ncclGetUniqueId(&seat.id));
    CHECK(pthread_create(&thread, NULL, make, &seat) == 0 && pthread_join(thread, NULL) == 0);
    GOOD(sum_once(passed, 0, 1, COUNT, words));
    if (round % 2 == 0) GOOD(ncclCommDestroy(passed));
  }
}

int main(int count, char** arguments) {
  const Case cases[] = {
      {"forgetful", run_forgetful}, {"leaving", run_leaving}, {"finishing", run_finishing}, {"threads", run_threads}, {NULL, NULL}};
  board = board_make();
  return crew_main(count, arguments, cases);
}
