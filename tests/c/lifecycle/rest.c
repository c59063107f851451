/* Suspend, Resume, and what they say of memory, against what the system says. */
#include "crew.h"

enum { COUNT = 300000, RANKS = 3 };

static Board* board;

static uint64_t said(ncclComm_t comm, ncclCommMemStat_t which) {
  uint64_t bytes = 77;
  GOOD(ncclCommMemStats(comm, which, &bytes));
  return bytes;
}

/* What this process has touched of its segments, by the system's account. */
static uint64_t measured(void) {
  FILE* file = fopen("/proc/self/smaps", "r");
  char line[512];
  uint64_t sum = 0, kilobytes = 0;
  int is_ours = 0;
  CHECK(file != NULL);
  while (fgets(line, sizeof line, file) != NULL) {
    if (strstr(line, "-") != NULL && strstr(line, "kB") == NULL) is_ours = strstr(line, "shoal-segment") != NULL;
    if (is_ours && sscanf(line, "Rss: %lu kB", &kilobytes) == 1) sum += kilobytes * 1024;
  }
  fclose(file);
  return sum;
}

/* Everybody is here: without a call of the library. */
static void together(int word, int ranks) {
  board_add(board, word);
  board_wait(board, word, ranks);
}

static void body(Seat seat) {
  static int32_t numbers[COUNT];
  ncclComm_t comm = sit(seat);
  CHECK(said(comm, ncclStatGpuMemSuspended) == 0);
  for (int round = 0; round < 3; round++) {
    int word = round * 4;
    GOOD(sum_once(comm, seat.rank, seat.ranks, COUNT, numbers));
    together(word, seat.ranks);
    uint64_t total = said(comm, ncclStatGpuMemTotal), real = measured();
    uint64_t spare = said(comm, ncclStatGpuMemSuspend), lasting = said(comm, ncclStatGpuMemPersist);
    printf("rank %d: said %lu, measured %lu, spare %lu\n", seat.rank, total, real, spare);
    CHECK(total == spare + lasting && spare > 100000 && lasting > 0);
    /* What only peers touched is said and not measured here: credit and control pages. */
    CHECK(total >= real && total - real <= total / 4);
    together(word + 1, seat.ranks);

    GOOD(ncclCommSuspend(comm, NCCL_SUSPEND_MEM));
    together(word + 2, seat.ranks);
    CHECK(said(comm, ncclStatGpuMemSuspended) == 1);
    CHECK(said(comm, ncclStatGpuMemSuspend) == 0);
    CHECK(said(comm, ncclStatGpuMemPersist) <= lasting);
    CHECK(measured() <= real - spare / 2);
    CHECK(sum_once(comm, seat.rank, seat.ranks, 10, numbers) == ncclInvalidUsage);
    CHECK_SAID("ncclAllReduce: the communicator is suspended; call ncclCommResume first");
    CHECK(ncclCommSuspend(comm, NCCL_SUSPEND_MEM) == ncclInvalidUsage);
    CHECK(ncclCommFinalize(comm) == ncclInvalidUsage);
    CHECK(async_error(comm) == ncclSuccess);
    if (round == 2) break;
    together(word + 3, seat.ranks);
    /* Some go on at once, and send to those that still rest. */
    if (seat.rank == 1) sleep_ms(20);
    GOOD(ncclCommResume(comm));
    CHECK(ncclCommResume(comm) == ncclInvalidUsage);
  }
  GOOD(ncclCommDestroy(comm));
}

static void run_measured(void) {
  board = board_make();
  crew_run(RANKS, body);
}

/* Each rank rests and goes on at moments of its own, with messages under way. */
static void restless(Seat seat) {
  ncclComm_t comm = sit(seat);
  int next = (seat.rank + 1) % seat.ranks, last = (seat.rank + seat.ranks - 1) % seat.ranks;
  char from[2000], into[2000];
  for (int step = 0; step < 300; step++) {
    memset(from, step, sizeof from);
    /* It arrives whoever rests. */
    GOOD(ncclSend(from, sizeof from, ncclChar, next, comm, NULL));
    if ((step + seat.rank) % 3 != 0) {
      GOOD(ncclCommSuspend(comm, NCCL_SUSPEND_MEM));
      GOOD(ncclCommResume(comm));
    }
    GOOD(ncclRecv(into, sizeof into, ncclChar, last, comm, NULL));
    for (size_t i = 0; i < sizeof into; i++) CHECK(into[i] == (char)step);
  }
  CHECK(ncclCommSuspend(comm, 4) == ncclInvalidArgument);
  CHECK_SAID("ncclCommSuspend: flags is 0x4");
  GOOD(ncclCommSuspend(comm, 0));
  CHECK(ncclCommMemStats(comm, ncclStatGpuMemTotal, NULL) == ncclInvalidArgument);
  CHECK(ncclCommMemStats(comm, (ncclCommMemStat_t)4, NULL) == ncclInvalidArgument);
  GOOD(ncclCommDestroy(comm));
}

static void run_restless(void) { crew_run(RANKS, restless); }

int main(int count, char** arguments) {
  static const Case cases[] = {{"measured", run_measured}, {"restless", run_restless}, {NULL, NULL}};
  crew_unused();
  return crew_main(count, arguments, cases);
}
