/* The lives of a communicator that no other program here leads: births and ends that go on behind the caller,
 * aborts while ranks meet and from third threads, revocation, deaths that nobody waits for. */
#include "crew.h"

enum { COUNT = 5000, SOON_MS = 1000, DEATH_MS = 2000 };

static int32_t words[COUNT];
static Board* board;

static ncclConfig_t behind(void) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  return config;
}

/* Polls as torch does. */
static ncclResult_t settled(ncclComm_t comm) {
  ncclResult_t state = ncclInProgress;
  double start_ms = now_ms();
  while (state == ncclInProgress) {
    GOOD(ncclCommGetAsyncError(comm, &state));
    CHECK(now_ms() - start_ms < CREW_SECONDS * 1e3);
    if (state == ncclInProgress) sched_yield();
  }
  return state;
}

static void begun(ncclResult_t result) { CHECK(result == ncclInProgress || result == ncclSuccess); }

static void refuses_while_unborn(ncclComm_t comm) {
  int number = 0;
  CHECK(ncclCommCount(comm, &number) == ncclInvalidUsage);
  CHECK_SAID("ncclCommCount: the communicator is not born yet; ");
  CHECK(ncclAllReduce(words, words, 1, ncclInt32, ncclSum, comm, NULL) == ncclInvalidUsage);
  CHECK_SAID("ncclAllReduce: the communicator is not born yet; ");
  CHECK(ncclCommFinalize(comm) == ncclInvalidUsage);
  CHECK(ncclCommRevoke(comm, NCCL_REVOKE_DEFAULT) == ncclInvalidUsage);
}

static void non_blocking_body(Seat seat) {
  ncclComm_t comm = NULL;
  ncclConfig_t config = behind();
  shoalStream_t stream = NULL;
  int number = -1;
  if (seat.rank == 1) board_wait(board, 0, 1);
  ncclResult_t result = ncclCommInitRankConfig(&comm, seat.ranks, seat.id, seat.rank, &config);
  begun(result);
  CHECK(comm != NULL);
  if (seat.rank == 0) {
    /* Rank 1 waits for this word, so nothing can have been born. */
    CHECK(result == ncclInProgress && async_error(comm) == ncclInProgress);
    refuses_while_unborn(comm);
    CHECK(async_error(comm) == ncclInProgress);
    board_add(board, 0);
  }
  CHECK(settled(comm) == ncclSuccess);
  GOOD(ncclCommCount(comm, &number));
  CHECK(number == seat.ranks);
  GOOD(ncclCommUserRank(comm, &number));
  CHECK(number == seat.rank);
  for (int i = 0; i < 5; i++) GOOD(sum_once(comm, seat.rank, seat.ranks, COUNT, words));
  /* What the peer sends late keeps the end waiting, and not the caller. */
  GOOD(shoalStreamCreate(&stream));
  int32_t word = seat.rank;
  if (seat.rank == 0) {
    GOOD(ncclRecv(&word, 1, ncclInt32, 1, comm, stream));
    CHECK(ncclCommFinalize(comm) == ncclInProgress && async_error(comm) == ncclInProgress);
    CHECK(ncclSend(&word, 1, ncclInt32, 1, comm, NULL) == ncclInvalidUsage);
    CHECK_SAID("was finalized");
    board_add(board, 1);
  } else {
    board_wait(board, 1, 1);
    GOOD(ncclSend(&word, 1, ncclInt32, 0, comm, stream));
    begun(ncclCommFinalize(comm));
  }
  CHECK(settled(comm) == ncclSuccess && word == 1);
  GOOD(ncclCommDestroy(comm));
  GOOD(shoalStreamDestroy(stream));
}

/* All ranks of two communicators on one thread, in one group. */
static void non_blocking_group(void) {
  ncclComm_t comms[6];
  ncclUniqueId ids[2];
  ncclConfig_t config = behind();
  for (int i = 0; i < 2; i++) GOOD(ncclGetUniqueId(&ids[i]));
  GOOD(ncclGroupStart());
  for (int i = 0; i < 6; i++) {
    GOOD(ncclCommInitRankConfig(&comms[i], 3, ids[i / 3], i % 3, &config));
    CHECK(comms[i] != NULL && async_error(comms[i]) == ncclInProgress);
  }
  CHECK(ncclGroupEnd() == ncclInProgress);
  for (int i = 0; i < 6; i++) CHECK(settled(comms[i]) == ncclSuccess);
  int32_t ones[6] = {1, 1, 1, 1, 1, 1};
  GOOD(ncclGroupStart());
  for (int i = 0; i < 6; i++) GOOD(ncclAllReduce(&ones[i], &ones[i], 1, ncclInt32, ncclSum, comms[i], NULL));
  begun(ncclGroupEnd());
  for (int i = 0; i < 6; i++) CHECK(settled(comms[i]) == ncclSuccess && ones[i] == 3);
  GOOD(ncclGroupStart());
  for (int i = 0; i < 6; i++) begun(ncclCommFinalize(comms[i]));
  begun(ncclGroupEnd());
  for (int i = 0; i < 6; i++) CHECK(settled(comms[i]) == ncclSuccess);
  for (int i = 0; i < 6; i++) GOOD(ncclCommDestroy(comms[i]));
}

static void run_non_blocking(void) {
  board = board_make();
  crew_run(2, non_blocking_body);
  non_blocking_group();
}

/* Of a group with both kinds nothing happens, and all of it is usable after. */
static void run_mixed(void) {
  ncclComm_t waits[2], goes_on[2], none[2] = {NULL, NULL};
  ncclUniqueId id;
  ncclConfig_t config = behind();
  int32_t word = 1;
  GOOD(ncclCommInitAll(waits, 2, NULL));
  GOOD(ncclGetUniqueId(&id));
  GOOD(ncclGroupStart());
  for (int i = 0; i < 2; i++) GOOD(ncclCommInitRankConfig(&goes_on[i], 2, id, i, &config));
  CHECK(ncclGroupEnd() == ncclInProgress);
  for (int i = 0; i < 2; i++) CHECK(settled(goes_on[i]) == ncclSuccess);

  GOOD(ncclGroupStart());
  GOOD(ncclAllReduce(&word, &word, 1, ncclInt32, ncclSum, waits[0], NULL));
  CHECK(ncclAllReduce(&word, &word, 1, ncclInt32, ncclSum, goes_on[0], NULL) == ncclInvalidArgument);
  CHECK_SAID("ncclAllReduce: comm is a non-blocking communicator, in a group with blocking ones");
  CHECK(ncclGroupEnd() == ncclInvalidArgument && word == 1);

  GOOD(ncclGetUniqueId(&id));
  GOOD(ncclGroupStart());
  GOOD(ncclCommInitRankConfig(&none[0], 2, id, 0, &config));
  CHECK(none[0] != NULL);
  CHECK(ncclCommInitRank(&none[1], 2, id, 1) == ncclInvalidArgument);
  CHECK(ncclGroupEnd() == ncclInvalidArgument && none[0] == NULL && none[1] == NULL);

  for (int kind = 0; kind < 2; kind++) {
    ncclComm_t* comms = kind ? goes_on : waits;
    int32_t ones[2] = {1, 1};
    GOOD(ncclGroupStart());
    for (int i = 0; i < 2; i++) GOOD(ncclAllReduce(&ones[i], &ones[i], 1, ncclInt32, ncclSum, comms[i], NULL));
    begun(ncclGroupEnd());
    CHECK(ones[0] == 2 && ones[1] == 2);
    for (int i = 0; i < 2; i++) GOOD(ncclCommDestroy(comms[i]));
  }
}

/* Nobody else comes: an abort from here ends the birth, which blocks another thread or nobody. */
static ncclComm_t unborn;

static void* meet_in_vain(void* argument) {
  Seat* seat = argument;
  ncclResult_t result = ncclCommInitRank(&unborn, seat->ranks, seat->id, seat->rank);
  CHECK(result != ncclSuccess && result != ncclInProgress);
  CHECK_SAID("abort");
  CHECK(unborn == NULL);
  return NULL;
}

static void run_unborn(void) {
  for (int round = 0; round < 6; round++) {
    Seat seat = {round % 2, 2, {{0}}};
    GOOD(ncclGetUniqueId(&seat.id));
    if (round < 3) {
      pthread_t thread;
      CHECK(pthread_create(&thread, NULL, meet_in_vain, &seat) == 0);
      while (__atomic_load_n(&unborn, __ATOMIC_ACQUIRE) == NULL) sleep_ms(1);
      sleep_ms(round * 40);
      double start_ms = now_ms();
      GOOD(ncclCommAbort(__atomic_load_n(&unborn, __ATOMIC_ACQUIRE)));
      CHECK(now_ms() - start_ms < SOON_MS);
      CHECK(pthread_join(thread, NULL) == 0);
      CHECK(now_ms() - start_ms < SOON_MS);
      continue;
    }
    ncclConfig_t config = behind();
    CHECK(ncclCommInitRankConfig(&unborn, 2, seat.id, seat.rank, &config) == ncclInProgress);
    sleep_ms((round - 3) * 40);
    CHECK(async_error(unborn) == ncclInProgress);
    double start_ms = now_ms();
    GOOD((round == 4 ? ncclCommDestroy : ncclCommAbort)(unborn));
    CHECK(now_ms() - start_ms < SOON_MS);
    CHECK(ncclCommAbort(unborn) == ncclInvalidArgument);
    unborn = NULL;
  }
}

/* Two communicators on two threads of every process, in no order between them; torch's watchdog looks on. */
typedef struct {
  ncclComm_t comm;
  int rank, ranks, rounds;
  ncclResult_t result;
} Lane;

static volatile int watched = 1;

static void* lane(void* argument) {
  Lane* lane = argument;
  int32_t* buffer = calloc(COUNT, sizeof *buffer);
  CHECK(buffer != NULL);
  for (int i = 0; i < lane->rounds && lane->result == ncclSuccess; i++) {
    lane->result = sum_once(lane->comm, lane->rank, lane->ranks, 1 + (size_t)(i * 97 % COUNT), buffer);
  }
  free(buffer);
  return NULL;
}

static void* watch(void* argument) {
  Lane* lanes = argument;
  while (watched) {
    for (int i = 0; i < 2; i++) CHECK(async_error(lanes[i].comm) == ncclSuccess);
    sleep_ms(2);
  }
  return NULL;
}

static ncclUniqueId second;

static void two_lanes(Seat seat, Lane* lanes, int rounds) {
  for (int i = 0; i < 2; i++) {
    seat.id = i == 0 ? seat.id : second;
    lanes[i] = (Lane){sit(seat), seat.rank, seat.ranks, rounds, ncclSuccess};
  }
}

static void two_threads_body(Seat seat) {
  Lane lanes[2];
  pthread_t threads[2], watchdog;
  two_lanes(seat, lanes, 300);
  CHECK(pthread_create(&watchdog, NULL, watch, lanes) == 0);
  for (int i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, lane, &lanes[i]) == 0);
  for (int i = 0; i < 2; i++) CHECK(pthread_join(threads[i], NULL) == 0 && lanes[i].result == ncclSuccess);
  watched = 0;
  CHECK(pthread_join(watchdog, NULL) == 0);
  for (int i = 0; i < 2; i++) GOOD(ncclCommDestroy(lanes[i].comm));
}

static void run_two_threads(void) {
  GOOD(ncclGetUniqueId(&second));
  crew_run(2, two_threads_body);
}

/* Torch's way out: both communicators are blocked in calls of their threads, and a third thread aborts them inside
 * a group. */
static void third_thread_body(Seat seat) {
  Lane lanes[2];
  pthread_t threads[2];
  two_lanes(seat, lanes, 1 << 30);
  for (int i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, lane, &lanes[i]) == 0);
  if (seat.rank == 1) {
    /* Rank 0 blocks, since this one takes part no more. */
    sleep_ms(150);
  } else {
    sleep_ms(300);
  }
  double start_ms = now_ms();
  GOOD(ncclGroupStart());
  for (int i = 0; i < 2; i++) GOOD(ncclCommAbort(lanes[i].comm));
  begun(ncclGroupEnd());
  CHECK(now_ms() - start_ms < SOON_MS);
  for (int i = 0; i < 2; i++) CHECK(pthread_join(threads[i], NULL) == 0 && lanes[i].result != ncclSuccess);
  CHECK(now_ms() - start_ms < SOON_MS);
}

static void run_third_thread(void) {
  GOOD(ncclGetUniqueId(&second));
  crew_run(3, third_thread_body);
}

/* Workers are forked after init and hand batches through pipes while their parent communicates, as a DataLoader's
 * do; one ends by itself, one is killed, one outlives the communicator. */
static void loader_body(Seat seat) {
  enum { WORKERS = 3, BATCHES = 20, BATCH = 256 };
  ncclComm_t comm = sit(seat);
  GOOD(sum_once(comm, seat.rank, seat.ranks, COUNT, words));
  int pipes[WORKERS][2];
  pid_t workers[WORKERS];
  fflush(NULL);
  for (int worker = 0; worker < WORKERS; worker++) {
    CHECK(pipe(pipes[worker]) == 0);
    workers[worker] = fork();
    CHECK(workers[worker] >= 0);
    if (workers[worker] == 0) {
      int32_t batch[BATCH];
      for (int i = 0; i < BATCHES; i++) {
        for (int at = 0; at < BATCH; at++) batch[at] = worker + i;
        CHECK(write(pipes[worker][1], batch, sizeof batch) == (ssize_t)sizeof batch);
      }
      if (worker > 0) pause();
      exit(0);
    }
  }
  for (int i = 0; i < BATCHES; i++) {
    for (int worker = 0; worker < WORKERS; worker++) {
      int32_t batch[BATCH];
      size_t have = 0;
      while (have < sizeof batch) {
        ssize_t more = read(pipes[worker][0], (char*)batch + have, sizeof batch - have);
        CHECK(more > 0);
        have += (size_t)more;
      }
      GOOD(ncclAllReduce(batch, batch, BATCH, ncclInt32, ncclSum, comm, NULL));
      for (int at = 0; at < BATCH; at++) CHECK(batch[at] == seat.ranks * (worker + i));
    }
    if (i == BATCHES / 2) CHECK(kill(workers[1], SIGKILL) == 0 || errno == ESRCH);
    if (i == BATCHES / 2) break;
  }
  GOOD(sum_once(comm, seat.rank, seat.ranks, COUNT, words));
  CHECK(async_error(comm) == ncclSuccess);
  GOOD(ncclCommDestroy(comm));
  CHECK(kill(workers[2], SIGTERM) == 0);
  for (int worker = 0; worker < WORKERS; worker++) {
    int status = 0;
    CHECK(waitpid(workers[worker], &status, 0) == workers[worker]);
    CHECK(worker == 0 ? status == 0 : WIFSIGNALED(status));
  }
}

static void run_loader(void) { crew_run(2, loader_body); }

/* Rank 2 is killed, or exits, while nobody waits for it; who polls hears of the death, and not of the exit. */
static int dies;

static void silent_body(Seat seat) {
  ncclComm_t comm = sit(seat);
  GOOD(sum_once(comm, seat.rank, seat.ranks, COUNT, words));
  CHECK(async_error(comm) == ncclSuccess);
  if (seat.rank == 2) {
    board_wait(board, dies, 2);
    if (dies) raise(SIGKILL);
    exit(0);
  }
  board_add(board, dies);
  board_wait(board, dies, 2);
  double start_ms = now_ms();
  ncclResult_t state = ncclSuccess;
  while (state == ncclSuccess && now_ms() - start_ms < (dies ? DEATH_MS : 600)) {
    state = async_error(comm);
    sleep_ms(5);
  }
  if (!dies) {
    CHECK(state == ncclSuccess);
    int32_t word = seat.rank, other = -1;
    GOOD(ncclGroupStart());
    GOOD(ncclSend(&word, 1, ncclInt32, 1 - seat.rank, comm, NULL));
    GOOD(ncclRecv(&other, 1, ncclInt32, 1 - seat.rank, comm, NULL));
    GOOD(ncclGroupEnd());
    GOOD(ncclCommDestroy(comm));
    return;
  }
  printf("rank %d saw it after %.0f ms: %s\n", seat.rank, now_ms() - start_ms, ncclGetLastError(NULL));
  CHECK(state == ncclRemoteError);
  CHECK_SAID("rank 2 is gone");
  CHECK(ncclAllReduce(words, words, 1, ncclInt32, ncclSum, comm, NULL) == ncclInvalidUsage);
  int number = -1;
  GOOD(ncclCommCount(comm, &number));
  GOOD(ncclCommUserRank(comm, &number));
  GOOD(ncclCommCuDevice(comm, &number));
  if (seat.rank == 0) GOOD(ncclCommFinalize(comm));
  GOOD((seat.rank == 0 ? ncclCommDestroy : ncclCommAbort)(comm));
}

static void run_silent(void) {
  board = board_make();
  for (dies = 0; dies < 2; dies++) {
    crew_start(3, silent_body);
    for (int rank = 0; rank < 3; rank++) crew_join_one(rank, rank == 2 && dies ? SIGKILL : 0);
  }
}

/* What runs is stopped on every rank, and nothing new starts. */
static void* receive(void* argument) {
  Lane* lane = argument;
  int32_t word;
  lane->result = ncclRecv(&word, 1, ncclInt32, 1 - lane->rank, lane->comm, NULL);
  return NULL;
}

static void revoked_body(Seat seat) {
  Lane lane = {sit(seat), seat.rank, seat.ranks, 0, ncclSuccess};
  ncclComm_t comm = lane.comm;
  pthread_t thread;
  int number = -1;
  CHECK(ncclCommRevoke(comm, 1) == ncclInvalidArgument);
  CHECK(pthread_create(&thread, NULL, receive, &lane) == 0);
  sleep_ms(50);
  if (seat.rank == 0) {
    double start_ms = now_ms();
    begun(ncclCommRevoke(comm, NCCL_REVOKE_DEFAULT));
    CHECK(now_ms() - start_ms < SOON_MS);
  }
  CHECK(pthread_join(thread, NULL) == 0 && lane.result != ncclSuccess);
  CHECK(lane.result == (seat.rank == 0 ? ncclInvalidUsage : ncclRemoteError));
  if (seat.rank == 1) begun(ncclCommRevoke(comm, NCCL_REVOKE_DEFAULT));
  CHECK(settled(comm) == ncclSuccess);
  CHECK(ncclAllReduce(words, words, 1, ncclInt32, ncclSum, comm, NULL) == ncclInvalidUsage);
  CHECK_SAID("was revoked");
  CHECK(ncclCommRevoke(comm, NCCL_REVOKE_DEFAULT) == ncclInvalidUsage);
  CHECK(ncclCommFinalize(comm) == ncclInvalidUsage);
  GOOD(ncclCommCount(comm, &number));
  GOOD((seat.rank == 0 ? ncclCommDestroy : ncclCommAbort)(comm));
}

static void run_revoked(void) { crew_run(2, revoked_body); }

int main(int count, char** arguments) {
  const Case cases[] = {
      {"non-blocking", run_non_blocking}, {"mixed", run_mixed},   {"unborn", run_unborn},
      {"two-threads", run_two_threads},   {"loader", run_loader}, {"third-thread", run_third_thread},
      {"silent", run_silent},             {"revoked", run_revoked}, {NULL, NULL},
  };
  return crew_main(count, arguments, cases);
}
