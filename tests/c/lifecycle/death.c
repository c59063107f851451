/* A rank is killed or stopped. Every survivor's call ends with an error that names the dead one within two
 * seconds, even if a forked child of the dead one lives; a rank that is only stopped is waited for. */
#include "crew.h"

enum { RANKS = 3, VICTIM = 1, LARGE = 16 << 20, ERROR_MS = 2000, ABORT_MS = 1000 };
enum { READY, CHILD };

static Board* board;
static volatile double* killed_at_ms;
static int has_child;

static size_t count_of_step;

static void survive(ncclComm_t comm, int rank, ncclResult_t result) {
  double error_ms = now_ms() - *killed_at_ms;
  CHECK(*killed_at_ms > 0 && result != ncclSuccess);
  CHECK_SAID("rank 1");
  CHECK_SAID("gone");
  CHECK(async_error(comm) != ncclSuccess);
  CHECK_SAID("rank 1");
  double start_ms = now_ms();
  GOOD(ncclCommAbort(comm));
  double abort_ms = now_ms() - start_ms;
  printf("rank %d knew after %.0f ms, abort took %.0f ms\n", rank, error_ms, abort_ms);
  CHECK(error_ms < ERROR_MS && abort_ms < ABORT_MS);
}

static void leave_a_child(void) {
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    pause();
    _exit(0);
  }
  board->words[CHILD] = child;
}

static void loop_body(Seat seat) {
  ncclComm_t comm = sit(seat);
  int32_t* buffer = malloc(count_of_step * sizeof *buffer);
  CHECK(buffer != NULL);
  GOOD(sum_once(comm, seat.rank, RANKS, count_of_step, buffer));
  if (seat.rank == VICTIM && has_child) leave_a_child();
  board_add(board, READY);
  ncclResult_t result;
  do {
    result = sum_once(comm, seat.rank, RANKS, count_of_step, buffer);
  } while (result == ncclSuccess);
  survive(comm, seat.rank, result);
  free(buffer);
}

static void recv_body(Seat seat) {
  ncclComm_t comm = sit(seat);
  int32_t words[4];
  if (seat.rank == VICTIM && has_child) leave_a_child();
  board_add(board, READY);
  if (seat.rank == VICTIM) pause();
  survive(comm, seat.rank, ncclRecv(words, 4, ncclInt32, VICTIM, comm, NULL));
}

/* The survivors' work lies on a stream, where the thread behind the calls has to find out. */
static void stream_body(Seat seat) {
  ncclComm_t comm = sit(seat);
  shoalStream_t stream = NULL;
  int32_t words[4] = {0, 0, 0, 0};
  GOOD(shoalStreamCreate(&stream));
  if (seat.rank == VICTIM && has_child) leave_a_child();
  board_add(board, READY);
  if (seat.rank == VICTIM) pause();
  GOOD(ncclAllReduce(words, words, 4, ncclInt32, ncclSum, comm, stream));
  ncclResult_t result = shoalStreamSynchronize(stream);
  survive(comm, seat.rank, result);
  GOOD(shoalStreamDestroy(stream));
}

static void kill_one(Body body) {
  for (has_child = 0; has_child < 2; has_child++) {
    board->words[READY] = 0;
    *killed_at_ms = 0;
    crew_start(RANKS, body);
    board_wait(board, READY, RANKS);
    sleep_ms(150);
    *killed_at_ms = now_ms();
    CHECK(kill(crew[VICTIM], SIGKILL) == 0);
    crew_join_one(VICTIM, SIGKILL);
    crew_join_one(0, 0);
    crew_join_one(2, 0);
    if (has_child) CHECK(kill(board->words[CHILD], SIGKILL) == 0);
  }
}

static void run_small(void) { count_of_step = 2, kill_one(loop_body); }
static void run_large(void) { count_of_step = LARGE, kill_one(loop_body); }
static void run_recv(void) { kill_one(recv_body); }
static void run_stream(void) { kill_one(stream_body); }

/* Small steps, one rank stopped in the middle of them for three seconds. */
static void stopped_body(Seat seat) {
  ncclComm_t comm = sit(seat);
  int32_t words[100], is_over = 0;
  double longest_ms = 0;
  board_add(board, READY);
  while (!is_over) {
    double start_ms = now_ms();
    GOOD(sum_once(comm, seat.rank, RANKS, 100, words));
    is_over = *killed_at_ms > 0;
    GOOD(ncclAllReduce(&is_over, &is_over, 1, ncclInt32, ncclMin, comm, NULL));
    double step_ms = now_ms() - start_ms;
    if (step_ms > longest_ms) longest_ms = step_ms;
  }
  CHECK(async_error(comm) == ncclSuccess && longest_ms > 2000);
  GOOD(ncclCommDestroy(comm));
}

static void run_stopped(void) {
  crew_start(RANKS, stopped_body);
  board_wait(board, READY, RANKS);
  sleep_ms(100);
  CHECK(kill(crew[VICTIM], SIGSTOP) == 0);
  sleep_ms(3000);
  CHECK(kill(crew[VICTIM], SIGCONT) == 0);
  *killed_at_ms = now_ms();
  crew_join(RANKS);
}

int main(int count, char** arguments) {
  const Case cases[] = {
      {"small", run_small},   {"large", run_large},     {"recv", run_recv},
      {"stream", run_stream}, {"stopped", run_stopped}, {NULL, NULL},
  };
  board = board_make();
  killed_at_ms = (volatile double*)&board->words[128];
  return crew_main(count, arguments, cases);
}
