/* More bytes than 32 bits count: every place whose number is cut short somewhere would be another one's. */
#include "crew.h"

enum { RANKS = 2, STRIDE = (1 << 20) + 61 };
static const size_t COUNT = ((size_t)1 << 32) + 4099;

/* Of a rank's buffer few places are not zero, so that few of its pages are there before they are written. */
static uint8_t mark(int rank, size_t place) { return (uint8_t)(1 + rank * 60 + place / STRIDE % 59); }

static int is_marked(size_t place) { return place % STRIDE == 0 || place == COUNT - 1; }

static uint8_t* made(void) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  uint8_t* bytes = mmap(NULL, COUNT, PROT_READ | PROT_WRITE, flags, -1, 0);
  CHECK(bytes != MAP_FAILED);
  return bytes;
}

static void fill(uint8_t* bytes, int rank) {
  for (size_t place = 0; place < COUNT; place += STRIDE) bytes[place] = mark(rank, place);
  bytes[COUNT - 1] = mark(rank, COUNT - 1);
}

/* Each place is the sum of the marks of ranks `first` to `last`. */
static void check_place(const uint8_t* bytes, size_t place, int first, int last) {
  uint8_t expected = 0;
  for (int rank = first; is_marked(place) && rank <= last; rank++) expected += mark(rank, place);
  if (bytes[place] == expected) return;
  fprintf(stderr, "place %zu: %u instead of %u\n", place, bytes[place], expected);
  CHECK(0);
}

/* Every mark, and of what lies between them one byte a page. */
static void check(const uint8_t* bytes, int first, int last) {
  for (size_t place = 0; place < COUNT; place += STRIDE) check_place(bytes, place, first, last);
  for (size_t place = 0; place < COUNT; place += 4093) check_place(bytes, place, first, last);
  check_place(bytes, COUNT - 1, first, last);
}

static void messages(Seat seat) {
  ncclComm_t comm = sit(seat);
  uint8_t* bytes = made();
  if (seat.rank == 0) {
    fill(bytes, 0);
    GOOD(ncclSend(bytes, COUNT, ncclUint8, 1, comm, NULL));
  } else {
    GOOD(ncclRecv(bytes, COUNT, ncclUint8, 0, comm, NULL));
    check(bytes, 0, 0);
  }
  GOOD(ncclCommDestroy(comm));
}

static void broadcast(Seat seat) {
  ncclComm_t comm = sit(seat);
  uint8_t* bytes = made();
  if (seat.rank == 1) fill(bytes, 1);
  GOOD(ncclBroadcast(bytes, bytes, COUNT, ncclUint8, 1, comm, NULL));
  check(bytes, 1, 1);
  GOOD(ncclCommDestroy(comm));
}

static void all_reduce(Seat seat) {
  ncclComm_t comm = sit(seat);
  uint8_t* bytes = made();
  fill(bytes, seat.rank);
  GOOD(ncclAllReduce(bytes, bytes, COUNT, ncclUint8, ncclSum, comm, NULL));
  check(bytes, 0, RANKS - 1);
  GOOD(ncclCommDestroy(comm));
}

static void run_messages(void) { crew_run(RANKS, messages); }
static void run_broadcast(void) { crew_run(RANKS, broadcast); }
static void run_all_reduce(void) { crew_run(RANKS, all_reduce); }

int main(int count, char** arguments) {
  crew_unused();
  static const Case cases[] = {
      {"messages", run_messages}, {"broadcast", run_broadcast}, {"allreduce", run_all_reduce}, {NULL, NULL}};
  return crew_main(count, arguments, cases);
}
