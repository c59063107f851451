/* Ranks that call different things: an error that shows both calls, on the rank that waits, else from
 * GetAsyncError and the next call; and calls that are wrong by themselves, of which nothing starts. */
#include "crew.h"

static char from[1 << 20], into[1 << 20];

typedef ncclResult_t (*Call)(ncclComm_t comm);

#define CALL(name, body) \
  static ncclResult_t name(ncclComm_t comm) { return body; }
CALL(sum_10, ncclAllReduce(from, into, 10, ncclInt32, ncclSum, comm, NULL))
CALL(sum_11, ncclAllReduce(from, into, 11, ncclInt32, ncclSum, comm, NULL))
CALL(sum_100000, ncclAllReduce(from, into, 100000, ncclInt32, ncclSum, comm, NULL))
CALL(max_10, ncclAllReduce(from, into, 10, ncclInt32, ncclMax, comm, NULL))
CALL(sum_10_floats, ncclAllReduce(from, into, 10, ncclFloat32, ncclSum, comm, NULL))
CALL(broadcast_0, ncclBroadcast(from, into, 10, ncclInt32, 0, comm, NULL))
CALL(broadcast_1, ncclBroadcast(from, into, 10, ncclInt32, 1, comm, NULL))
CALL(reduce_0, ncclReduce(from, into, 10, ncclInt32, ncclSum, 0, comm, NULL))
CALL(reduce_1, ncclReduce(from, into, 10, ncclInt32, ncclSum, 1, comm, NULL))
CALL(gather_all, ncclAllGather(from, into, 10, ncclInt32, comm, NULL))
CALL(all_to_all, ncclAlltoAll(from, into, 10, ncclInt32, comm, NULL))
CALL(send_10, ncclSend(from, 10, ncclInt32, 1, comm, NULL))
CALL(receive_9, ncclRecv(into, 9, ncclInt32, 0, comm, NULL))
CALL(send_large, ncclSend(from, 1 << 20, ncclInt8, 1, comm, NULL))
CALL(receive_large, ncclRecv(into, (1 << 20) - 1, ncclInt8, 0, comm, NULL))
CALL(receive_from_0, ncclRecv(into, 10, ncclInt32, 0, comm, NULL))

/* What rank 0 calls, what rank 1 calls, and words of both that an error shows. */
typedef struct {
  Call calls[2];
  const char* words[2];
} Pair;

static const Pair PAIRS[] = {
    {{sum_10, sum_11}, {"10", "11"}},
    {{sum_10, sum_100000}, {"10", "100000"}},
    {{sum_10, max_10}, {"sum", "max"}},
    {{sum_10, sum_10_floats}, {"int32", "float"}},
    {{sum_10, gather_all}, {"AllReduce", "AllGather"}},
    {{gather_all, all_to_all}, {"AllGather", "AlltoAll"}},
    {{broadcast_0, broadcast_1}, {"root 0", "root 1"}},
    {{reduce_0, reduce_1}, {"root 0", "root 1"}},
    {{broadcast_0, sum_10}, {"Broadcast", "AllReduce"}},
    {{send_10, receive_9}, {"40 bytes", "36 bytes"}},
    {{send_large, receive_large}, {"1048576", "1048575"}},
    {{sum_10, receive_from_0}, {"AllReduce", "message of 40 bytes"}},
    /* Both wait for the other, and nothing was sent by which one could notice. */
    {{broadcast_1, receive_from_0}, {"Broadcast", "Recv of 40 bytes"}},
};
enum { PAIR_COUNT = sizeof PAIRS / sizeof *PAIRS };
static const Pair* pair;

static void pair_body(Seat seat) {
  ncclComm_t comm = sit(seat);
  ncclResult_t result = pair->calls[seat.rank](comm);
  int waited = result != ncclSuccess;
  double start_ms = now_ms();
  while (result == ncclSuccess && now_ms() - start_ms < 300) {
    result = async_error(comm);
    sleep_ms(5);
  }
  /* Where nobody waited, the next call tells. */
  if (result == ncclSuccess) result = sum_10(comm);
  CHECK(result == ncclInvalidUsage || result == ncclRemoteError);
  printf("pair %d, rank %d%s: %s\n", (int)(pair - PAIRS), seat.rank, waited ? "" : " (later)", ncclGetLastError(NULL));
  CHECK_SAID("rank 0");
  CHECK_SAID("rank 1");
  if (waited) {
    CHECK_SAID(pair->words[0]);
    CHECK_SAID(pair->words[1]);
  }
  /* Nothing starts any more, and the end works. */
  CHECK(async_error(comm) != ncclSuccess);
  CHECK(sum_10(comm) != ncclSuccess);
  CHECK_SAID("failed earlier");
  int count = 0;
  CHECK(ncclCommCount(comm, &count) == ncclSuccess && count == 2);
  GOOD((seat.rank == 0 ? ncclCommAbort : ncclCommDestroy)(comm));
}

static void run_pairs(void) {
  for (pair = PAIRS; pair < PAIRS + PAIR_COUNT; pair++) crew_run(2, pair_body);
}

static ncclUniqueId second;

static void good_steps(ncclComm_t* comms, int rank) {
  int32_t words[50];
  for (int i = 0; i < 2; i++) {
    CHECK(async_error(comms[i]) == ncclSuccess);
    GOOD(sum_once(comms[i], rank, 2, 50, words));
  }
}

/* Groups with one wrong call. Rank 0 makes them, rank 1 does not: were anything started, it would come. */
static void group_body(Seat seat) {
  Seat other = {seat.rank, seat.ranks, second};
  ncclComm_t comms[2] = {sit(seat), sit(other)};
  shoalStream_t stream = NULL;
  GOOD(shoalStreamCreate(&stream));
  good_steps(comms, seat.rank);
  int32_t words[4] = {1, 2, 3, 4};
  for (int kind = 0; kind < 6 && seat.rank == 0; kind++) {
    ncclComm_t last = comms[kind % 2];
    shoalStream_t place = kind % 3 == 0 ? stream : NULL;
    ncclResult_t wrong = ncclSuccess;
    GOOD(ncclGroupStart());
    GOOD(ncclAllReduce(words, words, 4, ncclInt32, ncclSum, comms[0], place));
    GOOD(ncclSend(words, 4, ncclInt32, 1, comms[0], NULL));
    GOOD(ncclGroupStart());
    switch (kind) {
      case 0: wrong = ncclAllReduce(words, words, 4, (ncclDataType_t)99, ncclSum, last, NULL); break;
      case 1: wrong = ncclSend(words, 4, ncclInt32, 7, last, NULL); break;
      case 2: wrong = ncclBroadcast(words, words, 4, ncclInt32, -1, last, place); break;
      case 3: wrong = ncclRecv(words, 4, ncclInt32, 1, NULL, NULL); break;
      case 4: wrong = ncclRecv(NULL, 4, ncclInt32, 1, last, NULL); break;
      default: wrong = ncclRecv(words, 4, ncclInt32, 1, last, (shoalStream_t)words); break;
    }
    CHECK(wrong == ncclInvalidArgument);
    GOOD(ncclGroupEnd());
    GOOD(ncclAllReduce(words, words, 4, ncclInt32, ncclSum, comms[1], NULL));
    CHECK(ncclGroupEnd() == ncclInvalidArgument);
    GOOD(shoalStreamSynchronize(stream));
    CHECK(words[0] == 1 && words[3] == 4);
    CHECK(ncclGroupEnd() == ncclInvalidUsage);
  }
  good_steps(comms, seat.rank);
  for (int i = 0; i < 2; i++) GOOD(ncclCommDestroy(comms[i]));
  GOOD(shoalStreamDestroy(stream));
}

static void run_groups(void) {
  GOOD(ncclGetUniqueId(&second));
  crew_run(2, group_body);
}

/* A group over a communicator that failed and one that did not: the latter is left alone. */
static void half_body(Seat seat) {
  Seat other = {seat.rank, seat.ranks, second};
  ncclComm_t comms[2] = {sit(seat), sit(other)};
  int32_t words[50];
  CHECK((seat.rank == 0 ? sum_10 : sum_11)(comms[0]) != ncclSuccess);
  GOOD(ncclGroupStart());
  GOOD(sum_10(comms[1]));
  (void)sum_10(comms[0]);
  CHECK(ncclGroupEnd() != ncclSuccess);
  CHECK(async_error(comms[1]) == ncclSuccess);
  GOOD(sum_once(comms[1], seat.rank, 2, 50, words));
  GOOD(ncclCommAbort(comms[0]));
  GOOD(ncclCommDestroy(comms[1]));
}

static void run_half(void) {
  GOOD(ncclGetUniqueId(&second));
  crew_run(2, half_body);
}

/* A failure on one thread is told to another that asks what went wrong, and each thread's own comes first. */
static void* ask(void* argument) {
  const char** expected = argument;
  CHECK_SAID(*expected);
  return NULL;
}

static void* ask_twice(void* argument) {
  Board* board = argument;
  CHECK_SAID("nranks is 0");
  board_add(board, 0);
  board_wait(board, 1, 1);
  CHECK_SAID("nranks is -5");
  CHECK(ncclSend(NULL, 1, ncclInt32, 0, NULL, NULL) == ncclInvalidArgument);
  CHECK_SAID("ncclSend: comm is NULL");
  board_add(board, 0);
  board_wait(board, 1, 2);
  CHECK_SAID("ncclSend: comm is NULL");
  return NULL;
}

static void run_last_error(void) {
  Board* board = board_make();
  ncclComm_t comm = NULL;
  ncclUniqueId id;
  memset(&id, 0, sizeof id);
  pthread_t thread;
  CHECK(ncclCommInitRank(&comm, 0, id, 0) == ncclInvalidArgument);
  const char* expected = "nranks is 0";
  CHECK(pthread_create(&thread, NULL, ask, &expected) == 0 && pthread_join(thread, NULL) == 0);
  CHECK(pthread_create(&thread, NULL, ask_twice, board) == 0);
  board_wait(board, 0, 1);
  CHECK(ncclCommInitRank(&comm, -5, id, 0) == ncclInvalidArgument);
  board_add(board, 1);
  board_wait(board, 0, 2);
  CHECK(ncclCommInitRank(&comm, -6, id, 0) == ncclInvalidArgument);
  board_add(board, 1);
  CHECK(pthread_join(thread, NULL) == 0);
  CHECK_SAID("nranks is -6");
}

int main(int count, char** arguments) {
  const Case cases[] = {
      {"pairs", run_pairs}, {"groups", run_groups}, {"half", run_half}, {"last-error", run_last_error}, {NULL, NULL},
  };
  return crew_main(count, arguments, cases);
}
