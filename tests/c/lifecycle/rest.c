/* Suspend, Resume, and what they say of memory, against what the system says. */
#include <malloc.h>

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

/* What this process has allocated. */
static uint64_t allocated(void) {
  struct mallinfo2 known = mallinfo2();
  return known.uordblks + known.hblkhd;
}

/* What a peer on another host sends lies here until it is received, and then waits for the next message. */
static void far(Seat seat) {
  enum { EACH = 60000, MESSAGES = 60 };
  static char from[EACH], into[EACH];
  ncclComm_t comm = sit(seat);
  CHECK(seat.ranks == 2);
  for (int round = 0; round < 2; round++) {
    int word = round * 3;
    int32_t number;
    GOOD(sum_once(comm, seat.rank, seat.ranks, 1, &number));
    uint64_t before = allocated(), lasting = said(comm, ncclStatGpuMemPersist);
    uint64_t spare = said(comm, ncclStatGpuMemSuspend);
    together(word, seat.ranks);
    if (seat.rank == 0) {
      for (int message = 0; message < MESSAGES; message++) {
        memset(from, message, EACH);
        GOOD(ncclSend(from, EACH, ncclChar, 1, comm, NULL));
      }
      board_add(board, word + 1);
    } else {
      board_wait(board, word + 1, 1);
      double begin_ms = now_ms();
      while (said(comm, ncclStatGpuMemPersist) - lasting < MESSAGES * EACH) {
        CHECK(now_ms() - begin_ms < 20000);
        sleep_ms(1);
      }
      sleep_ms(20);
      uint64_t held = said(comm, ncclStatGpuMemPersist) - lasting;
      uint64_t more = held + said(comm, ncclStatGpuMemSuspend) - spare, real = allocated() - before;
      printf("held %lu of %d, so %lu more, measured %lu\n", held, MESSAGES * EACH, more, real);
      CHECK(held < MESSAGES * EACH * 5 / 4 && more + more / 8 > real && real + real / 8 > more);
      for (int message = 0; message < MESSAGES; message++) {
        GOOD(ncclRecv(into, EACH, ncclChar, 0, comm, NULL));
        CHECK(into[0] == (char)message && into[EACH - 1] == (char)message);
      }
      CHECK(said(comm, ncclStatGpuMemPersist) < lasting + EACH);
      uint64_t kept = said(comm, ncclStatGpuMemSuspend), full = allocated();
      CHECK(kept >= MESSAGES * EACH);
      GOOD(ncclCommSuspend(comm, NCCL_SUSPEND_MEM));
      CHECK(said(comm, ncclStatGpuMemSuspend) < EACH && allocated() < full - MESSAGES * EACH);
      GOOD(ncclCommResume(comm));
    }
    together(word + 2, seat.ranks);
  }
  GOOD(ncclCommDestroy(comm));
}

static void run_far(void) {
  board = board_make();
  crew_run(2, far);
}

static void run_restless(void) { crew_run(RANKS, restless); }

int main(int count, char** arguments) {
  static const Case cases[] = {{"measured", run_measured}, {"restless", run_restless}, {"far", run_far}, {NULL, NULL}};
  crew_unused();
  return crew_main(count, arguments, cases);
}
