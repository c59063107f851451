/*
 * How many lines of shared memory one call writes: `tests/lines.rs` holds the figures. A line that another core has
 * just read is fetched anew for each write, so lines are what a small message costs beside instructions.
 *
 * Two ranks live on this one thread. Before a call all shared memory is copied, after it compared; what is sent differs
 * from what lay there before, and noise is sent in between, so that a written line is a changed line.
 *
 *     lines CASE TURNS
 */
#include <inttypes.h>
#include <shoal.h>

#include "check.h"

#define LINE 64
#define MESSAGES 64
#define REGIONS 64
#define WARM_UP 300
#define NOISE 512

static ncclComm_t comms[2];
static uint64_t source[2][MESSAGES], target[2][MESSAGES], noise[2][NOISE], number;

/* Memory that processes share, each piece once, however often it is mapped here. */
static struct {
  unsigned char *start, *copy;
  size_t bytes;
  unsigned long inode, offset;
} regions[REGIONS];
static int region_count;

static void find_regions(void) {
  FILE* maps = fopen("/proc/self/maps", "r");
  char line[512], rights[8];
  CHECK(maps != NULL);
  while (fgets(line, sizeof line, maps) != NULL) {
    unsigned long first, last, offset, inode;
    int place, is_known = 0;
    if (sscanf(line, "%lx-%lx %7s %lx %*s %lu", &first, &last, rights, &offset, &inode) != 5) continue;
    if (rights[0] != 'r' || rights[3] != 's' || strstr(line, "memfd:") == NULL) continue;
    for (place = 0; place < region_count; place++)
      is_known |= regions[place].inode == inode && regions[place].offset == offset;
    if (is_known) continue;
    CHECK(region_count < REGIONS);
    regions[region_count].start = (unsigned char*)first;
    regions[region_count].bytes = last - first;
    regions[region_count].copy = malloc(last - first);
    regions[region_count].inode = inode;
    regions[region_count].offset = offset;
    CHECK(regions[region_count].copy != NULL);
    region_count++;
  }
  fclose(maps);
  CHECK(region_count > 0);
}

static void remember(void) {
  int place;
  for (place = 0; place < region_count; place++)
    memcpy(regions[place].copy, regions[place].start, regions[place].bytes);
}

static long changed_lines(void) {
  long count = 0;
  int place;
  for (place = 0; place < region_count; place++) {
    size_t at;
    for (at = 0; at < regions[place].bytes; at += LINE)
      count += memcmp(regions[place].copy + at, regions[place].start + at, LINE) != 0;
  }
  return count;
}

static uint64_t next(void) {
  number += UINT64_C(0x9e3779b97f4a7c15);
  return (number ^ (number >> 29)) * UINT64_C(0xbf58476d1ce4e5b9);
}

/* New words to send, and others where they will lie. */
static void renew(void) {
  int message, rank;
  for (rank = 0; rank < 2; rank++) {
    for (message = 0; message < MESSAGES; message++) source[rank][message] = next();
    for (message = 0; message < NOISE; message++) noise[rank][message] = next();
    CHECK(ncclSend(noise[rank], sizeof noise[0], ncclInt8, 1 - rank, comms[rank], NULL) == ncclSuccess);
    CHECK(ncclRecv(noise[rank], sizeof noise[0], ncclInt8, rank, comms[1 - rank], NULL) == ncclSuccess);
  }
}

static void post(int rank, int sends, int messages) {
  int message;
  if (messages > 1) CHECK(ncclGroupStart() == ncclSuccess);
  for (message = 0; message < messages; message++) {
    ncclResult_t result = sends ? ncclSend(&source[rank][message], 8, ncclInt8, 1 - rank, comms[rank], NULL)
                                : ncclRecv(&target[rank][message], 8, ncclInt8, 1 - rank, comms[rank], NULL);
    CHECK(result == ncclSuccess);
  }
  if (messages > 1) CHECK(ncclGroupEnd() == ncclSuccess);
}

static void nothing(void) {}
static void send_one(void) { post(0, 1, 1); }
static void receive_one(void) { post(1, 0, 1); }
static void send_all(void) { post(0, 1, MESSAGES); }
static void receive_all(void) { post(1, 0, MESSAGES); }

/* Both ranks' part. */
static void allreduce(void) {
  int rank;
  CHECK(ncclGroupStart() == ncclSuccess);
  for (rank = 0; rank < 2; rank++)
    CHECK(ncclAllReduce(source[rank], target[rank], 1, ncclUint64, ncclSum, comms[rank], NULL) == ncclSuccess);
  CHECK(ncclGroupEnd() == ncclSuccess);
}

/* A group of 64 of them. */
static void allreduces(void) {
  int rank, one;
  CHECK(ncclGroupStart() == ncclSuccess);
  for (one = 0; one < MESSAGES; one++)
    for (rank = 0; rank < 2; rank++) {
      uint64_t *from = &source[rank][one], *into = &target[rank][one];
      CHECK(ncclAllReduce(from, into, 1, ncclUint64, ncclSum, comms[rank], NULL) == ncclSuccess);
    }
  CHECK(ncclGroupEnd() == ncclSuccess);
}

static const struct {
  const char* name;
  void (*before)(void);
  void (*counted)(void);
  void (*after)(void);
} cases[] = {
    {"send", nothing, send_one, receive_one},
    {"receive", send_one, receive_one, nothing},
    {"send-64", nothing, send_all, receive_all},
    {"receive-64", send_all, receive_all, nothing},
    {"allreduce", nothing, allreduce, nothing},
    {"allreduce-64", nothing, allreduces, nothing},
};

int main(int count, char** words) {
  size_t place;
  CHECK(count == 3);
  alarm(10 * WATCHDOG_SECONDS);
  CHECK(ncclCommInitAll(comms, 2, NULL) == ncclSuccess);
  for (place = 0; place < sizeof cases / sizeof *cases; place++) {
    int turn, turns = atoi(words[2]);
    long lines = 0;
    if (strcmp(cases[place].name, words[1]) != 0) continue;
    for (turn = 0; turn < WARM_UP; turn++) {
      renew();
      cases[place].before(), cases[place].counted(), cases[place].after();
    }
    find_regions();
    for (turn = 0; turn < turns; turn++) {
      renew();
      cases[place].before();
      remember();
      cases[place].counted();
      lines += changed_lines();
      cases[place].after();
    }
    printf("%ld lines in %d turns\n", lines, turns);
    return 0;
  }
  fprintf(stderr, "no such case\n");
  return 2;
}
