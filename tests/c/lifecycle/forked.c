/* Children of a rank: what they inherit stays their parent's, whatever they do. */
#include "crew.h"

enum { COUNT = 20000 };
static int32_t words[COUNT];

/* A child calls into what it inherited. */
static void meddle(ncclComm_t comm) {
  int32_t word = 1;
  ncclResult_t state = ncclSuccess;
  CHECK(ncclAllReduce(&word, &word, 1, ncclInt32, ncclSum, comm, NULL) == ncclInvalidUsage);
  CHECK_SAID("before this process was forked");
  GOOD(ncclGroupStart());
  CHECK(ncclSend(&word, 1, ncclInt32, 0, comm, NULL) == ncclInvalidUsage);
  CHECK(ncclGroupEnd() == ncclInvalidUsage);
  CHECK(ncclCommGetAsyncError(comm, &state) == ncclInvalidUsage);
  CHECK(ncclCommFinalize(comm) == ncclInvalidUsage);
}

static void own_communicator(void) {
  ncclComm_t comms[2];
  shoalStream_t stream = NULL;
  int32_t pair[2] = {20, 22};
  GOOD(ncclCommInitAll(comms, 2, NULL));
  GOOD(shoalStreamCreate(&stream));
  for (int round = 0; round < 2; round++) {
    pair[0] = 20, pair[1] = 22;
    GOOD(ncclGroupStart());
    for (int rank = 0; rank < 2; rank++) {
      GOOD(ncclAllReduce(&pair[rank], &pair[rank], 1, ncclInt32, ncclSum, comms[rank], round ? stream : NULL));
    }
    GOOD(ncclGroupEnd());
    GOOD(shoalStreamSynchronize(stream));
    CHECK(pair[0] == 42 && pair[1] == 42);
  }
  for (int rank = 0; rank < 2; rank++) GOOD(ncclCommDestroy(comms[rank]));
  GOOD(shoalStreamDestroy(stream));
}

static void child(int kind, ncclComm_t comm) {
  switch (kind) {
    case 0: exit(0);
    case 1: meddle(comm); exit(0);
    case 2: meddle(comm); CHECK(ncclCommDestroy(comm) == ncclInvalidUsage); exit(0);
    case 3: own_communicator(); exit(0);
    case 4: CHECK(ncclCommAbort(comm) == ncclInvalidUsage); own_communicator(); exit(0);
    default: _exit(0);
  }
}

static void rank_body(Seat seat) {
  ncclComm_t comm = sit(seat);
  shoalStream_t stream = NULL;
  GOOD(shoalStreamCreate(&stream));
  GOOD(sum_once(comm, seat.rank, seat.ranks, COUNT, words));
  for (int kind = 0; kind < 6; kind++) {
    static int32_t behind[COUNT];
    for (int i = 0; i < COUNT; i++) behind[i] = 1;
    /* Forked with work under way on a stream. */
    for (int i = 0; i < 4; i++) {
      GOOD(ncclAllReduce(behind, behind, COUNT, ncclInt32, ncclSum, comm, stream));
    }
    fflush(NULL);
    pid_t other = fork();
    CHECK(other >= 0);
    if (other == 0) child(kind, comm);
    GOOD(sum_once(comm, seat.rank, seat.ranks, COUNT, words));
    int status = 0;
    CHECK(waitpid(other, &status, 0) == other && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    GOOD(sum_once(comm, seat.rank, seat.ranks, COUNT, words));
    GOOD(shoalStreamSynchronize(stream));
    for (int i = 0; i < COUNT; i++) CHECK(behind[i] == seat.ranks * seat.ranks * seat.ranks * seat.ranks);
    CHECK(async_error(comm) == ncclSuccess);
  }
  GOOD(ncclCommDestroy(comm));
  GOOD(shoalStreamDestroy(stream));
}

static void run_children(void) { crew_run(2, rank_body); }

/* Children of two ranks meet in a communicator of their own, while their parents go on. */
static ncclUniqueId second;

static void meeting_body(Seat seat) {
  ncclComm_t comm = sit(seat);
  GOOD(sum_once(comm, seat.rank, seat.ranks, COUNT, words));
  pid_t other = fork();
  CHECK(other >= 0);
  if (other == 0) {
    ncclComm_t mine = sit((Seat){seat.rank, seat.ranks, second});
    for (int i = 0; i < 50; i++) GOOD(sum_once(mine, seat.rank, seat.ranks, COUNT, words));
    GOOD(ncclCommDestroy(mine));
    exit(0);
  }
  for (int i = 0; i < 50; i++) GOOD(sum_once(comm, seat.rank, seat.ranks, COUNT, words));
  int status = 0;
  CHECK(waitpid(other, &status, 0) == other && status == 0);
  GOOD(ncclCommDestroy(comm));
}

static void run_meeting(void) {
  GOOD(ncclGetUniqueId(&second));
  crew_run(2, meeting_body);
}

int main(int count, char** arguments) {
  const Case cases[] = {{"children", run_children}, {"meeting", run_meeting}, {NULL, NULL}};
  return crew_main(count, arguments, cases);
}
