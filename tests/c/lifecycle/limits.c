/* Little of what a rank needs: a clear error or success, never a crash or a hang; and with enough again, all
 * works. Then more ranks than processors, and how much memory and time a machine full of ranks takes. */
#include <sys/resource.h>

#include "crew.h"

/* Ranks of one process, with one step each; whether it came to life. */
static int try_to_live(void) {
  ncclComm_t comms[2] = {NULL, NULL};
  int32_t words[2] = {20, 22};
  ncclResult_t result = ncclCommInitAll(comms, 2, NULL);
  if (result != ncclSuccess) {
    CHECK(result == ncclSystemError || result == ncclRemoteError || result == ncclTimeout);
    CHECK(strlen(ncclGetLastError(NULL)) > 20);
    CHECK(comms[0] == NULL && comms[1] == NULL);
    printf("%s\n", ncclGetLastError(NULL));
    return 0;
  }
  GOOD(ncclGroupStart());
  for (int rank = 0; rank < 2; rank++) {
    GOOD(ncclAllReduce(&words[rank], &words[rank], 1, ncclInt32, ncclSum, comms[rank], NULL));
  }
  GOOD(ncclGroupEnd());
  CHECK(words[0] == 42 && words[1] == 42);
  for (int rank = 0; rank < 2; rank++) GOOD(ncclCommDestroy(comms[rank]));
  return 1;
}

static int more;

static void few_files(Seat seat) {
  (void)seat;
  struct rlimit before, limit;
  CHECK(getrlimit(RLIMIT_NOFILE, &before) == 0);
  limit = before;
  for (int file = 3; file < 1024; file++) close(file);
  limit.rlim_cur = (rlim_t)(3 + more);
  CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  double start_ms = now_ms();
  int lives = try_to_live();
  printf("%d files more: %s after %.0f ms\n", more, lives ? "lives" : "does not", now_ms() - start_ms);
  CHECK(now_ms() - start_ms < 5000);
  CHECK(setrlimit(RLIMIT_NOFILE, &before) == 0);
  CHECK(try_to_live());
}

static void run_files(void) {
  Seat seat = {0, 1, {{0}}};
  for (more = 0; more < 24; more += more < 12 ? 1 : 4) {
    crew_start_one(seat, few_files);
    crew_join_one(0, 0);
  }
}

static size_t mapped_bytes(void) {
  FILE* file = fopen("/proc/self/statm", "r");
  size_t pages = 0;
  CHECK(file != NULL && fscanf(file, "%zu", &pages) == 1);
  fclose(file);
  return pages * (size_t)sysconf(_SC_PAGESIZE);
}

static void little_space(Seat seat) {
  (void)seat;
  struct rlimit before, limit;
  CHECK(getrlimit(RLIMIT_AS, &before) == 0);
  limit = before;
  limit.rlim_cur = (rlim_t)(mapped_bytes() + ((size_t)more << 10));
  CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
  double start_ms = now_ms();
  int lives = try_to_live();
  printf("%d KiB more: %s after %.0f ms\n", more, lives ? "lives" : "does not", now_ms() - start_ms);
  CHECK(now_ms() - start_ms < 5000);
  CHECK(setrlimit(RLIMIT_AS, &before) == 0);
  CHECK(try_to_live());
}

static void run_space(void) {
  Seat seat = {0, 1, {{0}}};
  const int steps[] = {600, 1500, 2600, 3200, 4500, 6000, 8500, 20000, 200000};
  for (int i = 0; i < 9; i++) {
    more = steps[i];
    crew_start_one(seat, little_space);
    crew_join_one(0, 0);
  }
}

static Board* board;
enum { BORN, DONE, PEAK = 2, BIRTH_MS = 20000 };

/* Shared memory that this process has touched, as its share, in KiB. */
static int shared_kib(void) {
  FILE* file = fopen("/proc/self/smaps", "r");
  char line[512];
  int is_ours = 0, sum_kib = 0, part_kib;
  if (file == NULL) return 0;
  while (fgets(line, sizeof line, file) != NULL) {
    if (strchr(line, '-') != NULL && strstr(line, " r") != NULL) is_ours = strstr(line, "shoal-segment") != NULL;
    if (is_ours && sscanf(line, "Pss: %d kB", &part_kib) == 1) sum_kib += part_kib;
  }
  fclose(file);
  return sum_kib;
}

static void crowd_body(Seat seat) {
  enum { BYTES = 256 };
  double start_ms = now_ms();
  ncclComm_t comm = sit(seat);
  board_add(board, BORN);
  if (seat.rank == 0) printf("rank 0 was born after %.0f ms\n", now_ms() - start_ms);
  int64_t word = seat.rank + 1;
  GOOD(ncclAllReduce(&word, &word, 1, ncclInt64, ncclSum, comm, NULL));
  CHECK(word == (int64_t)seat.ranks * (seat.ranks + 1) / 2);
  unsigned char from[CREW_LIMIT * BYTES], into[CREW_LIMIT * BYTES];
  for (int peer = 0; peer < seat.ranks; peer++) memset(from + peer * BYTES, seat.rank * 3 + peer, BYTES);
  GOOD(ncclAlltoAll(from, into, BYTES, ncclChar, comm, NULL));
  for (int peer = 0; peer < seat.ranks; peer++) {
    for (int i = 0; i < BYTES; i++) CHECK(into[peer * BYTES + i] == (unsigned char)(peer * 3 + seat.rank));
  }
  __atomic_fetch_add(&board->words[PEAK], shared_kib(), __ATOMIC_ACQ_REL);
  board_add(board, DONE);
  board_wait(board, DONE, seat.ranks);
  GOOD(ncclCommDestroy(comm));
}

static void crowd(int ranks) {
  board = board_make();
  double start_ms = now_ms();
  crew_start(ranks, crowd_body);
  board_wait(board, BORN, ranks);
  double birth_ms = now_ms() - start_ms;
  printf("%d ranks were born after %.0f ms\n", ranks, birth_ms);
  CHECK(birth_ms < BIRTH_MS);
  crew_join(ranks);
  /* Each ordered pair that talks has a ring of 128 KiB of data and 16 KiB of slots. What was touched of it
   * is: the page of the credit line and the first slots, and one page of data for an eager packet (two where
   * it lies across an edge). An alltoall uses all pairs; the front page and the control areas are shared. */
  int pairs = ranks * (ranks - 1), page_kib = (int)(sysconf(_SC_PAGESIZE) / 1024);
  int bound_kib = pairs * 3 * page_kib + (ranks / 16 + 2) * page_kib + ranks * page_kib;
  printf("%d ranks, %d pairs: %d KiB of shared memory, bound %d KiB\n", ranks, pairs, board->words[PEAK], bound_kib);
  CHECK(board->words[PEAK] > 0 && board->words[PEAK] <= bound_kib);
  printf("all was over after %.0f ms\n", now_ms() - start_ms);
}

static void run_16(void) { crowd(16); }
static void run_64(void) { crowd(64); }

int main(int count, char** arguments) {
  const Case cases[] = {
      {"files", run_files}, {"space", run_space}, {"16-ranks", run_16}, {"64-ranks", run_64}, {NULL, NULL},
  };
  return crew_main(count, arguments, cases);
}
