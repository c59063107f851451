/*
 * What one call costs in instructions: `tests/instructions.rs` runs this under valgrind's callgrind, which counts
 * what happens inside the functions whose names begin with counted_. Two ranks live on this one thread, so that
 * nothing waits and every run executes the same instructions.
 *
 *     count CASE TURNS
 */
#include <shoal.h>

#include "check.h"

#define MESSAGES 64
#define WARM_UP 200
#define MOMENT_US 1000

static ncclComm_t comms[2];
static shoalStream_t stream;
static float source[2][MESSAGES * 2];
static float target[2][MESSAGES * 2];

/* One 8-byte message: the sender's call, which returns when the bytes are on their way. */
__attribute__((noinline)) void counted_send(void) {
  CHECK(ncclSend(source[0], 2, ncclFloat, 1, comms[0], NULL) == ncclSuccess);
}

/* The receiver's call, which finds the message there. */
__attribute__((noinline)) void counted_receive(void) {
  CHECK(ncclRecv(target[1], 2, ncclFloat, 0, comms[1], NULL) == ncclSuccess);
}

static void messages(int rank, int sends) {
  CHECK(ncclGroupStart() == ncclSuccess);
  for (int message = 0; message < MESSAGES; message++) {
    ncclResult_t result = sends ? ncclSend(source[rank] + 2 * message, 2, ncclFloat, 1 - rank, comms[rank], NULL)
                                : ncclRecv(target[rank] + 2 * message, 2, ncclFloat, 1 - rank, comms[rank], NULL);
    CHECK(result == ncclSuccess);
  }
  CHECK(ncclGroupEnd() == ncclSuccess);
}

__attribute__((noinline)) void counted_send_64(void) { messages(0, 1); }

__attribute__((noinline)) void counted_receive_64(void) { messages(1, 0); }

/* One rank's 8-byte allreduce, to which the other rank has come already. */
static void allreduce(int rank, shoalStream_t on) {
  CHECK(ncclAllReduce(source[rank], target[rank], 2, ncclFloat, ncclSum, comms[rank], on) == ncclSuccess);
}

__attribute__((noinline)) void counted_allreduce(void) { allreduce(0, NULL); }

/* One rank's group of 64 of them. */
static void allreduces(int rank, shoalStream_t on) {
  CHECK(ncclGroupStart() == ncclSuccess);
  for (int one = 0; one < MESSAGES; one++) {
    float *from = source[rank] + 2 * one, *into = target[rank] + 2 * one;
    CHECK(ncclAllReduce(from, into, 2, ncclFloat, ncclSum, comms[rank], on) == ncclSuccess);
  }
  CHECK(ncclGroupEnd() == ncclSuccess);
}

__attribute__((noinline)) void counted_allreduce_64(void) { allreduces(0, NULL); }

/* What has nothing to do: the way through the ABI and back. */
__attribute__((noinline)) void counted_empty(void) {
  CHECK(ncclAllReduce(source[0], target[0], 0, ncclFloat, ncclSum, comms[0], NULL) == ncclSuccess);
}

static void nothing(void) {}
static void warm_send(void) { CHECK(ncclSend(source[0], 2, ncclFloat, 1, comms[0], NULL) == ncclSuccess); }
static void warm_receive(void) { CHECK(ncclRecv(target[1], 2, ncclFloat, 0, comms[1], NULL) == ncclSuccess); }
static void warm_send_64(void) { messages(0, 1); }
static void warm_receive_64(void) { messages(1, 0); }
static void warm_allreduce(void) { allreduce(0, NULL); }
static void warm_allreduce_64(void) { allreduces(0, NULL); }

/* The other rank calls on a stream, so that the library's own thread brings its part; that takes a moment. */
static void other_comes(void) {
  allreduce(1, stream);
  usleep(MOMENT_US);
}

static void others_come(void) {
  allreduces(1, stream);
  usleep(MOMENT_US);
}

static void other_leaves(void) { CHECK(shoalStreamSynchronize(stream) == ncclSuccess); }

/* A case: its name, what is done before it uncounted, what is counted, what is done after it uncounted. */
static const struct {
  const char* name;
  void (*before)(void);
  void (*counted)(void);
  void (*after)(void);
  void (*plain)(void);
} cases[] = {
    {"send", nothing, counted_send, warm_receive, warm_send},
    {"receive", warm_send, counted_receive, nothing, warm_receive},
    {"send-64", nothing, counted_send_64, warm_receive_64, warm_send_64},
    {"receive-64", warm_send_64, counted_receive_64, nothing, warm_receive_64},
    {"allreduce", other_comes, counted_allreduce, other_leaves, warm_allreduce},
    {"allreduce-64", others_come, counted_allreduce_64, other_leaves, warm_allreduce_64},
    {"empty", nothing, counted_empty, nothing, nothing},
};

int main(int count, char** words) {
  CHECK(count == 3);
  alarm(10 * WATCHDOG_SECONDS);
  int turns = atoi(words[2]);
  CHECK(shoalStreamCreate(&stream) == ncclSuccess);
  CHECK(ncclCommInitAll(comms, 2, NULL) == ncclSuccess);
  for (int index = 0; index < MESSAGES * 2; index++) source[0][index] = source[1][index] = 1;
  for (unsigned number = 0; number < sizeof cases / sizeof *cases; number++) {
    if (strcmp(cases[number].name, words[1]) != 0) continue;
    for (int turn = 0; turn < WARM_UP; turn++) {
      cases[number].before();
      cases[number].plain();
      cases[number].after();
    }
    for (int turn = 0; turn < turns; turn++) {
      cases[number].before();
      cases[number].counted();
      cases[number].after();
    }
    /* So many calls of the case were counted. */
    printf("%d\n", turns);
    for (int rank = 0; rank < 2; rank++) CHECK(ncclCommDestroy(comms[rank]) == ncclSuccess);
    return 0;
  }
  fprintf(stderr, "there is no case %s\n", words[1]);
  return 1;
}
