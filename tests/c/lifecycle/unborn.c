/* A rank is killed while it is being born, and a child that it forked in the meantime lives on, with a copy of
 * everything that its parent had open. Whoever waits for the dead one hears of it within two seconds all the same. */
#include "crew.h"

enum { RANKS = 3, ERROR_MS = 2000 };
enum { READY, CHILD, LATE, HEARD };

static Board* board;
static volatile double* killed_at_ms;
static int victim;

typedef struct {
  Seat seat;
  ncclComm_t parent;
} Task;

static ncclResult_t come(const Task* task) {
  ncclComm_t comm = NULL;
  if (task->parent != NULL) return ncclCommSplit(task->parent, 0, task->seat.rank, &comm, NULL);
  return ncclCommInitRank(&comm, task->seat.ranks, task->seat.id, task->seat.rank);
}

static void* come_in_vain(void* task) {
  come(task);
  return NULL;
}

/* Its own thread waits for the others while this one forks, as a loader of data would. */
static void die(Task task) {
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, come_in_vain, &task) == 0);
  sleep_ms(200);
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    pause();
    _exit(0);
  }
  board->words[CHILD] = child;
  board_add(board, READY);
  pause();
}

static void survive(Task task) {
  board_add(board, READY);
  ncclResult_t result = come(&task);
  double error_ms = now_ms() - *killed_at_ms;
  printf("rank %d: %s after %.0f ms: %s\n", task.seat.rank, ncclGetErrorString(result), error_ms, ncclGetLastError(NULL));
  CHECK(result != ncclSuccess && *killed_at_ms > 0 && error_ms < ERROR_MS);
  /* Who waits for the process that made the id knows where that was, and not yet which rank it is. */
  if (task.parent == NULL && victim == 0) CHECK_SAID("root");
  else CHECK_SAID(victim == 0 ? "rank 0" : "rank 1");
  /* Who goes now is missed as well. */
  board_add(board, HEARD);
  board_wait(board, HEARD, RANKS - 1);
}

/* One rank more is waited for than there is. */
static void init_body(Seat seat) {
  seat.ranks = RANKS + 1;
  Task task = {seat, NULL};
  if (seat.rank == victim) die(task);
  else survive(task);
}

/* The last rank comes when the victim is dead. */
static void split_body(Seat seat) {
  Task task = {seat, sit(seat)};
  if (seat.rank == victim) {
    die(task);
  } else if (seat.rank < RANKS - 1) {
    survive(task);
  } else {
    board_add(board, READY);
    board_wait(board, LATE, 1);
    survive(task);
  }
  GOOD(ncclCommAbort(task.parent));
}

static void kill_one(Body body, int who) {
  memset((void*)board, 0, sizeof *board);
  victim = who;
  crew_start(RANKS, body);
  board_wait(board, READY, RANKS);
  sleep_ms(300);
  *killed_at_ms = now_ms();
  CHECK(kill(crew[victim], SIGKILL) == 0);
  board_add(board, LATE);
  for (int rank = 0; rank < RANKS; rank++) crew_join_one(rank, rank == victim ? SIGKILL : 0);
  CHECK(kill(board->words[CHILD], SIGKILL) == 0);
}

static void run_root(void) { kill_one(init_body, 0); }
static void run_rank(void) { kill_one(init_body, 1); }

static void run_split(void) {
  kill_one(split_body, 0);
  kill_one(split_body, 1);
}

int main(int count, char** arguments) {
  const Case cases[] = {{"root", run_root}, {"rank", run_rank}, {"split", run_split}, {NULL, NULL}};
  board = board_make();
  killed_at_ms = (volatile double*)&board->words[128];
  return crew_main(count, arguments, cases);
}
