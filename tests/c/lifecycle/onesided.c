/* One-sided calls between processes and threads: right bytes by every path, in every order that is promised; and
 * nobody writes a window that was closed. */
#include "crew.h"

enum { BIG_BYTES = 9 << 20, RETURN_MS = 1000 };

static Board* board;

/* ---- Two processes play ball, with memory of each kind. ---- */

static int ordinary_memory;

static char* take(size_t bytes) {
  void* start = NULL;
  if (ordinary_memory) {
    start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(start != MAP_FAILED);
  } else {
    GOOD(ncclMemAlloc(&start, bytes));
  }
  return start;
}

static void give(char* start, size_t bytes) {
  if (ordinary_memory) {
    CHECK(munmap(start, bytes) == 0);
  } else {
    GOOD(ncclMemFree(start));
  }
}

static ncclResult_t wait_for(ncclComm_t comm, int peer, int count) {
  ncclWaitSignalDesc_t wait = {count, peer, 0, 0};
  return ncclWaitSignal(1, &wait, comm, NULL);
}

static void ball_body(Seat seat) {
  ncclComm_t comm = sit(seat);
  int peer = 1 - seat.rank;
  char *window_at = take(BIG_BYTES), *source = malloc(BIG_BYTES);
  ncclWindow_t window = NULL;
  GOOD(ncclCommWindowRegister(comm, window_at + 64, BIG_BYTES - 64, &window, NCCL_WIN_COLL_SYMMETRIC));
  for (int round = 0; round < 40; round++) {
    size_t bytes = round % 10 == 9 ? BIG_BYTES - 200 : (size_t)(1 + round * 331 % 70000);
    size_t offset = (size_t)(round % 7);
    if (round % 2 == seat.rank) {
      memset(source, round + 1, bytes);
      GOOD(ncclPutSignal(source, bytes, ncclChar, peer, window, offset, 0, 0, 0, comm, NULL));
      memset(source, 0, bytes);
    } else {
      GOOD(wait_for(comm, peer, 1));
      for (size_t i = 0; i < bytes; i++) CHECK(window_at[64 + offset + i] == (char)(round + 1));
    }
  }
  GOOD(ncclCommWindowDeregister(comm, window));
  GOOD(ncclCommDestroy(comm));
  give(window_at, BIG_BYTES);
  free(source);
}

static void run_ball(void) {
  for (ordinary_memory = 0; ordinary_memory < 2; ordinary_memory++) crew_run(2, ball_body);
}

/* Without any way to the peer's memory the put says so, at once, and all else still works. */
static void unreachable_body(Seat seat) {
  ncclComm_t comm = sit(seat);
  int peer = 1 - seat.rank;
  char memory[64] = {0};
  int32_t numbers[10];
  ncclWindow_t window = NULL;
  GOOD(ncclCommWindowRegister(comm, memory, sizeof memory, &window, 0));
  CHECK(ncclPutSignal(memory, 1, ncclChar, peer, window, 0, 0, 0, 0, comm, NULL) == ncclInvalidUsage);
  CHECK_SAID("ncclPutSignal: rank ");
  CHECK_SAID("cannot write the window of rank ");
  CHECK_SAID("register memory of ncclMemAlloc");
  GOOD(ncclSignal(peer, 0, 0, 0, comm, NULL));
  GOOD(wait_for(comm, peer, 1));
  GOOD(sum_once(comm, seat.rank, 2, 10, numbers));
  GOOD(ncclCommWindowDeregister(comm, window));
  GOOD(ncclCommDestroy(comm));
}

static void run_unreachable(void) { crew_run(2, unreachable_body); }

/* ---- Random programs, whose end every rank computes by itself. ---- */

enum { MOST_RANKS = 4, CONTEXTS = 3, SIGNALS = 2, AREA_BYTES = 3000, CALLS = 40, ROUNDS = 6 };
enum { WINDOW_BYTES = MOST_RANKS * CONTEXTS * AREA_BYTES };

static uint64_t campaign_seed;

static uint64_t dice(uint64_t* state) {
  *state += 0x9e3779b97f4a7c15u;
  uint64_t mixed = *state;
  mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9u;
  mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111ebu;
  return mixed ^ mixed >> 31;
}

static int below(uint64_t* state, int most) { return (int)(dice(state) % (uint64_t)most); }

typedef struct {
  int from, to, context, number, bytes, offset;
  unsigned char value;
} Call;

/* The same on every rank. Each sender has an area of its own in each context of each window, so the order of its
 * calls decides what is there. */
static void make_calls(uint64_t* state, int ranks, Call* calls) {
  for (int i = 0; i < CALLS; i++) {
    Call* call = &calls[i];
    call->from = below(state, ranks);
    call->to = below(state, ranks);
    call->context = below(state, CONTEXTS);
    call->number = below(state, SIGNALS);
    call->bytes = below(state, 3) == 0 ? 0 : 1 + below(state, AREA_BYTES);
    call->offset = (call->from * CONTEXTS + call->context) * AREA_BYTES + below(state, AREA_BYTES + 1 - call->bytes);
    call->value = (unsigned char)dice(state);
  }
}

static void random_rank(Seat seat) {
  uint64_t common = campaign_seed, own = campaign_seed * 1000 + (uint64_t)seat.rank;
  ncclComm_t comm = sit(seat);
  char* memory = take(WINDOW_BYTES);
  unsigned char expected[WINDOW_BYTES] = {0};
  static _Thread_local unsigned char sources[CALLS][AREA_BYTES];
  memset(memory, 0, WINDOW_BYTES);
  ncclWindow_t window = NULL;
  shoalStream_t stream = NULL;
  GOOD(ncclCommWindowRegister(comm, memory, WINDOW_BYTES, &window, 0));
  GOOD(shoalStreamCreate(&stream));
  for (int round = 0; round < ROUNDS; round++) {
    Call calls[CALLS];
    int counts[MOST_RANKS][CONTEXTS][SIGNALS] = {{{0}}};
    int is_in_group = 0;
    make_calls(&common, seat.ranks, calls);
    for (int i = 0; i < CALLS; i++) {
      const Call* call = &calls[i];
      if (call->to == seat.rank) {
        counts[call->from][call->context][call->number]++;
        memset(expected + call->offset, call->value, (size_t)call->bytes);
      }
      if (call->from != seat.rank) continue;
      if (!is_in_group && below(&own, 3) == 0) {
        GOOD(ncclGroupStart());
        is_in_group = 1;
      }
      shoalStream_t at = below(&own, 2) ? stream : NULL;
      memset(sources[i], call->value, (size_t)call->bytes);
      if (call->bytes == 0 && below(&own, 2)) {
        GOOD(ncclSignal(call->to, call->number, call->context, 0, comm, at));
      } else {
        GOOD(ncclPutSignal(sources[i], (size_t)call->bytes, ncclUint8, call->to, window, (size_t)call->offset,
                           call->number, call->context, 0, comm, at));
      }
      if (is_in_group && below(&own, 3) == 0) {
        GOOD(ncclGroupEnd());
        is_in_group = 0;
      }
    }
    if (is_in_group) GOOD(ncclGroupEnd());
    ncclWaitSignalDesc_t waits[MOST_RANKS * CONTEXTS * SIGNALS];
    int wait_count = 0;
    for (int from = 0; from < seat.ranks; from++)
      for (int context = 0; context < CONTEXTS; context++)
        for (int number = 0; number < SIGNALS; number++)
          if (counts[from][context][number] > 0) {
            ncclWaitSignalDesc_t wait = {counts[from][context][number], from, number, context};
            waits[wait_count++] = wait;
          }
    if (wait_count > 0) GOOD(ncclWaitSignal(wait_count, waits, comm, below(&own, 2) ? stream : NULL));
    GOOD(shoalStreamSynchronize(stream));
    for (int i = 0; i < WINDOW_BYTES; i++) {
      if ((unsigned char)memory[i] != expected[i]) {
        fprintf(stderr, "seed %llu, round %d, rank %d: byte %d is %d, not %d\n",
                (unsigned long long)campaign_seed, round, seat.rank, i, (unsigned char)memory[i], expected[i]);
        CHECK(0);
      }
    }
    /* Nobody writes for the next round before all have looked. */
    int32_t numbers[3];
    GOOD(sum_once(comm, seat.rank, seat.ranks, 3, numbers));
  }
  GOOD(shoalStreamDestroy(stream));
  GOOD(ncclCommWindowDeregister(comm, window));
  GOOD(ncclCommDestroy(comm));
  give(memory, WINDOW_BYTES);
}

static void* random_thread(void* seat) {
  random_rank(*(Seat*)seat);
  return NULL;
}

static void random_threads(int ranks) {
  Seat seats[MOST_RANKS];
  pthread_t threads[MOST_RANKS];
  ncclUniqueId id;
  GOOD(ncclGetUniqueId(&id));
  for (int rank = 0; rank < ranks; rank++) {
    seats[rank].rank = rank;
    seats[rank].ranks = ranks;
    seats[rank].id = id;
    CHECK(pthread_create(&threads[rank], NULL, random_thread, &seats[rank]) == 0);
  }
  for (int rank = 0; rank < ranks; rank++) CHECK(pthread_join(threads[rank], NULL) == 0);
}

static int seed_count(int few, int many) {
  const char* campaign = getenv("SHOAL_TEST_CAMPAIGN");
  return campaign != NULL && strcmp(campaign, "full") == 0 ? many : few;
}

static void run_random(void) {
  int count = seed_count(8, 200);
  for (int seed = 1; seed <= count; seed++) {
    campaign_seed = (uint64_t)seed;
    ordinary_memory = seed % 3 == 0;
    crew_run(1 + seed % MOST_RANKS, random_rank);
  }
}

static void run_random_threads(void) {
  int count = seed_count(12, 300);
  for (int seed = 1; seed <= count; seed++) {
    campaign_seed = (uint64_t)seed + 100000;
    ordinary_memory = seed % 3 == 0;
    random_threads(1 + seed % MOST_RANKS);
  }
}

/* ---- Ends. ---- */

static void death_body(Seat seat) {
  ncclComm_t comm = sit(seat);
  if (seat.rank == 1) {
    sleep_ms(100);
    raise(SIGKILL);
  }
  double start_ms = now_ms();
  CHECK(wait_for(comm, 1, 1) == ncclRemoteError);
  CHECK_SAID("rank 1 is gone");
  CHECK_SAID("WaitSignal for 1 of signal 0 in context 0 from rank 1");
  CHECK(now_ms() - start_ms < 2100);
  CHECK(ncclSignal(1, 0, 0, 0, comm, NULL) != ncclSuccess);
  GOOD(ncclCommAbort(comm));
}

static void run_death(void) {
  crew_start(3, death_body);
  crew_join_one(0, 0);
  crew_join_one(1, SIGKILL);
  crew_join_one(2, 0);
}

typedef struct {
  ncclComm_t comm;
  ncclResult_t result;
  double returned_at_ms;
} Waiting;

static void* wait_long(void* argument) {
  Waiting* waiting = argument;
  waiting->result = wait_for(waiting->comm, 1, 1);
  waiting->returned_at_ms = now_ms();
  return NULL;
}

static void abort_body(Seat seat) {
  ncclComm_t comm = sit(seat);
  if (seat.rank == 1) {
    board_wait(board, 0, 1);
    GOOD(ncclCommAbort(comm));
    return;
  }
  Waiting waiting = {comm, ncclSuccess, 0};
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, wait_long, &waiting) == 0);
  sleep_ms(50);
  double start_ms = now_ms();
  GOOD(ncclCommAbort(comm));
  CHECK(pthread_join(thread, NULL) == 0);
  CHECK(waiting.result != ncclSuccess && waiting.returned_at_ms - start_ms < RETURN_MS);
  board_add(board, 0);
}

static void run_abort(void) {
  board = board_make();
  crew_run(2, abort_body);
}

/* Rank 1 puts and puts; rank 0 closes its window in one of three ways, and from then on its memory stays as it
 * is, or is gone. */
enum { DEREGISTER, DESTROY, ABORT, WAYS };
static int way;

static void putting_body(Seat seat) {
  ncclComm_t comm = sit(seat);
  char* memory = take(BIG_BYTES);
  ncclWindow_t window = NULL;
  GOOD(ncclCommWindowRegister(comm, memory, BIG_BYTES, &window, 0));
  if (seat.rank == 1) {
    char* source = malloc(BIG_BYTES);
    memset(source, 7, BIG_BYTES);
    ncclResult_t result = ncclSuccess;
    while (result == ncclSuccess)
      result = ncclPutSignal(source, BIG_BYTES, ncclChar, 0, window, 0, 0, 0, 0, comm, NULL);
    CHECK(result == ncclRemoteError);
    CHECK_SAID("rank 0");
    GOOD(ncclCommAbort(comm));
    free(source);
    return;
  }
  GOOD(wait_for(comm, 1, 2));
  sleep_ms(way);
  switch (way % WAYS) {
    case DEREGISTER: GOOD(ncclCommWindowDeregister(comm, window)); break;
    case DESTROY: GOOD(ncclCommDestroy(comm)); break;
    default: GOOD(ncclCommAbort(comm));
  }
  memset(memory, 1, BIG_BYTES);
  sleep_ms(20);
  for (int i = 0; i < BIG_BYTES; i++) CHECK(memory[i] == 1);
  give(memory, BIG_BYTES);
  if (way % WAYS == DEREGISTER) GOOD(ncclCommAbort(comm));
}

static void* putting_thread(void* seat) {
  putting_body(*(Seat*)seat);
  return NULL;
}

static void run_closed(void) {
  for (way = 0; way < 4 * WAYS; way++) {
    ordinary_memory = way / WAYS % 2;
    crew_run(2, putting_body);
  }
}

static void run_closed_threads(void) {
  for (way = 0; way < 6 * WAYS; way++) {
    ordinary_memory = way / WAYS % 2;
    Seat seats[2] = {{0, 2, {{0}}}, {1, 2, {{0}}}};
    pthread_t threads[2];
    GOOD(ncclGetUniqueId(&seats[0].id));
    seats[1].id = seats[0].id;
    for (int rank = 0; rank < 2; rank++)
      CHECK(pthread_create(&threads[rank], NULL, putting_thread, &seats[rank]) == 0);
    for (int rank = 0; rank < 2; rank++) CHECK(pthread_join(threads[rank], NULL) == 0);
  }
}

int main(int count, char** arguments) {
  static const Case cases[] = {
      {"ball", run_ball},       {"unreachable", run_unreachable},
      {"random", run_random},   {"random-threads", run_random_threads},
      {"death", run_death},     {"abort", run_abort},
      {"closed", run_closed},   {"closed-threads", run_closed_threads},
      {NULL, NULL},
  };
  crew_unused();
  return crew_main(count, arguments, cases);
}
