/* Abort from another thread ends a blocked call; and once Abort or Destroy has returned, nobody touches the
 * buffers, which are taken away at once. */
#include "crew.h"

#include <fcntl.h>

enum { RETURN_MS = 1000, LARGE_BYTES = 8 << 20, ROUNDS = 12 };

static Board* board;
static int kind_of_block;

typedef struct {
  ncclComm_t comm;
  int kind;
  double returned_at_ms;
  ncclResult_t result;
  char* from;
  char* into;
} Blocked;

enum { RECV, SMALL, BIG, GROUP, SEND, STREAM, KINDS };

static void* block(void* argument) {
  Blocked* blocked = argument;
  ncclComm_t comm = blocked->comm;
  char *from = blocked->from, *into = blocked->into;
  switch (blocked->kind) {
    case RECV: blocked->result = ncclRecv(into, 8, ncclChar, 1, comm, NULL); break;
    case SMALL: blocked->result = ncclAllReduce(from, into, 8, ncclChar, ncclSum, comm, NULL); break;
    case BIG: blocked->result = ncclAllReduce(from, into, LARGE_BYTES, ncclChar, ncclSum, comm, NULL); break;
    case SEND: blocked->result = ncclSend(from, LARGE_BYTES, ncclChar, 1, comm, NULL); break;
    case GROUP:
      GOOD(ncclGroupStart());
      GOOD(ncclSend(from, LARGE_BYTES, ncclChar, 1, comm, NULL));
      GOOD(ncclRecv(into, LARGE_BYTES, ncclChar, 1, comm, NULL));
      blocked->result = ncclGroupEnd();
      break;
    default: {
      shoalStream_t stream;
      GOOD(shoalStreamCreate(&stream));
      GOOD(ncclAllReduce(from, into, LARGE_BYTES, ncclChar, ncclSum, comm, stream));
      blocked->result = shoalStreamSynchronize(stream);
      CHECK(blocked->result != ncclSuccess);
      GOOD(shoalStreamDestroy(stream));
    }
  }
  blocked->returned_at_ms = now_ms();
  return NULL;
}

static char* pages(void) {
  char* start = mmap(NULL, LARGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(start != MAP_FAILED);
  return start;
}

static void blocked_body(Seat seat) {
  ncclComm_t comm = sit(seat);
  if (seat.rank == 1) {
    board_wait(board, 0, kind_of_block + 1);
    char buffer[8] = {0};
    CHECK(ncclRecv(buffer, 8, ncclChar, 0, comm, NULL) != ncclSuccess);
    CHECK_SAID("rank 0");
    /* Of the other kinds there may be packets that are none of a message. */
    if (kind_of_block == RECV) CHECK_SAID("abort");
    CHECK(async_error(comm) != ncclSuccess);
    GOOD(ncclCommAbort(comm));
    return;
  }
  Blocked blocked = {comm, kind_of_block, 0, ncclSuccess, pages(), pages()};
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, block, &blocked) == 0);
  sleep_ms(100);
  double start_ms = now_ms();
  GOOD(ncclCommAbort(comm));
  double abort_ms = now_ms() - start_ms;
  /* From here on the memory is the program's again. */
  CHECK(mprotect(blocked.from, LARGE_BYTES, PROT_NONE) == 0);
  CHECK(mprotect(blocked.into, LARGE_BYTES, PROT_NONE) == 0);
  CHECK(pthread_join(thread, NULL) == 0);
  double return_ms = blocked.returned_at_ms - start_ms;
  printf("kind %d: abort took %.0f ms, the call returned after %.0f ms\n", kind_of_block, abort_ms, return_ms);
  CHECK(blocked.result != ncclSuccess && abort_ms < RETURN_MS && return_ms < RETURN_MS);
  board_add(board, 0);
}

static void run_blocked(void) {
  board = board_make();
  for (kind_of_block = 0; kind_of_block < KINDS; kind_of_block++) crew_run(2, blocked_body);
}

/* Both ranks exchange large messages until one aborts, at any moment, and takes its memory away. */
static int uses_own_memory, leaver, delay_us;

typedef struct {
  Seat seat;
  char *from, *into;
  ncclComm_t comm;
} Mover;

static char* take(void) {
  if (uses_own_memory) return pages();
  void* start = NULL;
  GOOD(ncclMemAlloc(&start, LARGE_BYTES));
  return start;
}

static void give(char* start) {
  if (uses_own_memory) {
    CHECK(munmap(start, LARGE_BYTES) == 0);
  } else {
    GOOD(ncclMemFree(start));
  }
}

static void* move(void* argument) {
  Mover* mover = argument;
  int peer = 1 - mover->seat.rank;
  ncclResult_t result = ncclSuccess;
  for (int step = 0; result == ncclSuccess; step++) {
    if (step % 3 == 2) {
      result = ncclAllReduce(mover->from, mover->into, LARGE_BYTES, ncclChar, ncclMax, mover->comm, NULL);
      continue;
    }
    if (ncclGroupStart() != ncclSuccess) break;
    ncclSend(mover->from, LARGE_BYTES, ncclChar, peer, mover->comm, NULL);
    ncclRecv(mover->into, LARGE_BYTES, ncclChar, peer, mover->comm, NULL);
    result = ncclGroupEnd();
  }
  return NULL;
}

static void* taken_body(void* argument) {
  Mover* mover = argument;
  mover->comm = sit(mover->seat);
  mover->from = take(), mover->into = take();
  pthread_t thread;
  if (mover->seat.rank == leaver) {
    CHECK(pthread_create(&thread, NULL, move, mover) == 0);
    struct timespec delay = {0, 1000L * delay_us};
    nanosleep(&delay, NULL);
    GOOD(ncclCommAbort(mover->comm));
    give(mover->from), give(mover->into);
    CHECK(pthread_join(thread, NULL) == 0);
  } else {
    move(mover);
    CHECK(async_error(mover->comm) != ncclSuccess);
    GOOD(ncclCommAbort(mover->comm));
    give(mover->from), give(mover->into);
  }
  return NULL;
}

static void taken_process(Seat seat) {
  Mover mover = {seat, NULL, NULL, NULL};
  taken_body(&mover);
}

static void in_threads(void) {
  Mover movers[2];
  pthread_t threads[2];
  GOOD(ncclGetUniqueId(&movers[0].seat.id));
  for (int rank = 0; rank < 2; rank++) {
    movers[rank] = (Mover){{rank, 2, movers[0].seat.id}, NULL, NULL, NULL};
    CHECK(pthread_create(&threads[rank], NULL, taken_body, &movers[rank]) == 0);
  }
  for (int rank = 0; rank < 2; rank++) CHECK(pthread_join(threads[rank], NULL) == 0);
}

static void run_taken(void) {
  for (int round = 0; round < ROUNDS; round++) {
    leaver = round % 2, uses_own_memory = round / 2 % 2, delay_us = 700 + round * 3700;
    crew_run(2, taken_process);
    in_threads();
  }
}

/* What was sent before Destroy arrives after it, from memory that is gone. */
static void left_body(Seat seat) {
  ncclComm_t comm = sit(seat);
  char* bytes = pages();
  if (seat.rank == 0) {
    for (int i = 0; i < 3000; i++) bytes[i] = (char)i;
    for (int i = 0; i < 3; i++) GOOD(ncclSend(bytes, 3000, ncclChar, 1, comm, NULL));
    GOOD(ncclCommDestroy(comm));
    CHECK(munmap(bytes, LARGE_BYTES) == 0);
    board_add(board, 0);
    return;
  }
  board_wait(board, 0, 1);
  for (int i = 0; i < 3; i++) {
    memset(bytes, 0, 3000);
    GOOD(ncclRecv(bytes, 3000, ncclChar, 0, comm, NULL));
    for (int at = 0; at < 3000; at++) CHECK(bytes[at] == (char)at);
  }
  CHECK(ncclRecv(bytes, 3000, ncclChar, 0, comm, NULL) != ncclSuccess);
  CHECK_SAID("rank 0 left the communicator");
  GOOD(ncclCommDestroy(comm));
}

static void run_left(void) {
  board = board_make();
  crew_run(2, left_body);
}

/* Communicators, one after the other: nothing stays behind in the process. */
static int open_files(void) {
  int count = 0;
  for (int file = 0; file < 1024; file++) count += fcntl(file, F_GETFD) != -1;
  return count;
}

static int shared_maps(void) {
  FILE* maps = fopen("/proc/self/maps", "r");
  CHECK(maps != NULL);
  char line[512];
  int count = 0;
  while (fgets(line, sizeof line, maps) != NULL) count += strstr(line, "shoal") != NULL && strstr(line, "memfd") != NULL;
  fclose(maps);
  return count;
}

static void run_returned(void) {
  int files = open_files();
  for (int round = 0; round < 20; round++) {
    ncclComm_t comms[3];
    int32_t words[3][5000];
    GOOD(ncclCommInitAll(comms, 3, NULL));
    GOOD(ncclGroupStart());
    for (int rank = 0; rank < 3; rank++) {
      for (int i = 0; i < 5000; i++) words[rank][i] = i;
      GOOD(ncclAllReduce(words[rank], words[rank], 5000, ncclInt32, ncclSum, comms[rank], NULL));
    }
    GOOD(ncclGroupEnd());
    for (int rank = 0; rank < 3; rank++) {
      GOOD((round % 2 == 0 ? ncclCommDestroy : ncclCommAbort)(comms[rank]));
    }
    CHECK(shared_maps() == 0);
  }
  /* The sockets at which the ranks met are closed by a thread, soon. */
  for (int look = 0; look < 200 && open_files() != files; look++) sleep_ms(10);
  CHECK(open_files() == files);
}

int main(int count, char** arguments) {
  const Case cases[] = {
      {"blocked", run_blocked}, {"taken", run_taken}, {"left", run_left}, {"returned", run_returned}, {NULL, NULL},
  };
  return crew_main(count, arguments, cases);
}
