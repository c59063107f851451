/* The ways in which programs start ranks, each with every collective: processes that were executed and got
 * the id through a pipe, forked processes, threads, one thread for all, two communicators at once, streams. */
#include "collectives.h"

static const size_t COUNTS[] = {1, 17, 1001, 33333};
enum { COUNTS_COUNT = 4 };

static void all_counts(ncclComm_t comm, int rank, int ranks) {
  for (int i = 0; i < COUNTS_COUNT; i++) every_collective(comm, rank, ranks, COUNTS[i], NULL);
}

static void collectives_body(Seat seat) {
  ncclComm_t comm = sit(seat);
  all_counts(comm, seat.rank, seat.ranks);
  GOOD(ncclCommFinalize(comm));
  GOOD(ncclCommDestroy(comm));
}

static void run_forked(void) {
  const int sizes[] = {1, 2, 3, 7, 8};
  for (int i = 0; i < 5; i++) {
    crew_start_with_id(sizes[i], collectives_body);
    crew_join(sizes[i]);
  }
}

/* An executed rank: "rank RANK RANKS INPUT OUTPUT...": rank 0 makes the id and writes it to every output,
 * the others read theirs. */
static int executed(int count, char** arguments) {
  Seat seat = {atoi(arguments[2]), atoi(arguments[3]), {{0}}};
  alarm(CREW_SECONDS);
  if (seat.rank == 0) {
    GOOD(ncclGetUniqueId(&seat.id));
    for (int i = 5; i < count; i++) {
      CHECK(write(atoi(arguments[i]), &seat.id, sizeof seat.id) == (ssize_t)sizeof seat.id);
    }
  } else {
    CHECK(read(atoi(arguments[4]), &seat.id, sizeof seat.id) == (ssize_t)sizeof seat.id);
  }
  collectives_body(seat);
  return 0;
}

static char* program;

static void execute(int ranks) {
  int ends[CREW_LIMIT][2];
  for (int rank = 1; rank < ranks; rank++) CHECK(pipe(ends[rank]) == 0);
  for (int rank = 0; rank < ranks; rank++) {
    static char words[CREW_LIMIT + 8][16];
    char* arguments[CREW_LIMIT + 8] = {program, "rank", words[0], words[1], words[2]};
    int count = 5;
    snprintf(words[0], sizeof words[0], "%d", rank);
    snprintf(words[1], sizeof words[1], "%d", ranks);
    snprintf(words[2], sizeof words[2], "%d", rank == 0 ? -1 : ends[rank][0]);
    for (int peer = 1; rank == 0 && peer < ranks; peer++, count++) {
      snprintf(words[count], sizeof words[count], "%d", ends[peer][1]);
      arguments[count] = words[count];
    }
    crew[rank] = fork();
    CHECK(crew[rank] >= 0);
    if (crew[rank] == 0) {
      execv(arguments[0], arguments);
      _exit(127);
    }
  }
  for (int rank = 1; rank < ranks; rank++) close(ends[rank][0]), close(ends[rank][1]);
  crew_join(ranks);
}

static void run_executed(void) {
  execute(1);
  execute(3);
  execute(8);
}

static void* thread_body(void* seat) {
  collectives_body(*(Seat*)seat);
  return NULL;
}

static void run_threads(void) {
  enum { RANKS = 4 };
  Seat seats[RANKS];
  pthread_t threads[RANKS];
  GOOD(ncclGetUniqueId(&seats[0].id));
  for (int rank = 0; rank < RANKS; rank++) {
    seats[rank] = (Seat){rank, RANKS, seats[0].id};
    CHECK(pthread_create(&threads[rank], NULL, thread_body, &seats[rank]) == 0);
  }
  for (int rank = 0; rank < RANKS; rank++) CHECK(pthread_join(threads[rank], NULL) == 0);
}

enum { OWN = 3, OWN_COUNT = 40000 };
static int32_t own[OWN][OWN_COUNT];

/* One thread drives all ranks: every call of one step lies in one group. */
static void drive(ncclComm_t* comms, shoalStream_t* streams) {
  for (int round = 0; round < 3; round++) {
    for (int rank = 0; rank < OWN; rank++) {
      for (int i = 0; i < OWN_COUNT; i++) own[rank][i] = rank + i + round;
    }
    GOOD(ncclGroupStart());
    for (int rank = 0; rank < OWN; rank++) {
      GOOD(ncclAllReduce(own[rank], own[rank], OWN_COUNT, ncclInt32, ncclSum, comms[rank], streams[rank]));
    }
    GOOD(ncclGroupEnd());
    for (int rank = 0; rank < OWN; rank++) {
      GOOD(shoalStreamSynchronize(streams[rank]));
      for (int i = 0; i < OWN_COUNT; i++) CHECK(own[rank][i] == 3 + 3 * (i + round));
    }
  }
}

static void run_one_thread(void) {
  ncclComm_t comms[OWN];
  shoalStream_t none[OWN] = {NULL, NULL, NULL}, streams[OWN] = {NULL, NULL, NULL};
  GOOD(ncclCommInitAll(comms, OWN, NULL));
  drive(comms, none);
  for (int rank = 0; rank < OWN; rank++) GOOD(ncclCommDestroy(comms[rank]));

  ncclUniqueId id;
  GOOD(ncclGetUniqueId(&id));
  GOOD(ncclGroupStart());
  for (int rank = 0; rank < OWN; rank++) GOOD(ncclCommInitRank(&comms[rank], OWN, id, rank));
  GOOD(ncclGroupEnd());
  drive(comms, none);
  for (int rank = 0; rank < OWN; rank++) GOOD(shoalStreamCreate(&streams[rank]));
  drive(comms, streams);
  /* One rank on the NULL stream, the others behind the call. */
  shoalStream_t mixed[OWN] = {streams[0], NULL, streams[2]};
  drive(comms, mixed);
  GOOD(ncclGroupStart());
  for (int rank = 0; rank < OWN; rank++) GOOD(ncclCommDestroy(comms[rank]));
  GOOD(ncclGroupEnd());
  for (int rank = 0; rank < OWN; rank++) GOOD(shoalStreamDestroy(streams[rank]));
}

typedef struct {
  Seat seat;
  int count;
} Worker;

static void* worker_body(void* argument) {
  Worker* worker = argument;
  ncclComm_t comm = sit(worker->seat);
  for (int i = 0; i < 20; i++) every_collective(comm, worker->seat.rank, worker->seat.ranks, (size_t)worker->count, NULL);
  GOOD(ncclCommDestroy(comm));
  return NULL;
}

static ncclUniqueId second;

static void two_body(Seat seat) {
  Worker workers[2] = {{seat, 300}, {{seat.rank, seat.ranks, second}, 5000}};
  pthread_t threads[2];
  for (int i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, worker_body, &workers[i]) == 0);
  for (int i = 0; i < 2; i++) CHECK(pthread_join(threads[i], NULL) == 0);
}

static void run_two_communicators(void) {
  GOOD(ncclGetUniqueId(&second));
  crew_run(2, two_body);
}

static void streams_body(Seat seat) {
  ncclComm_t comm = sit(seat);
  shoalStream_t streams[2];
  for (int i = 0; i < 2; i++) GOOD(shoalStreamCreate(&streams[i]));
  for (int i = 0; i < COUNTS_COUNT; i++) every_collective(comm, seat.rank, seat.ranks, COUNTS[i], streams[i % 2]);
  /* A chain over two streams in one group, then on NULL: each step reads what the one before wrote. */
  static int32_t words[5000];
  for (int i = 0; i < 5000; i++) words[i] = 1;
  int32_t expected = 1;
  for (int round = 0; round < 6; round++) {
    GOOD(ncclGroupStart());
    GOOD(ncclAllReduce(words, words, 2500, ncclInt32, ncclSum, comm, streams[0]));
    GOOD(ncclAllReduce(words + 2500, words + 2500, 2500, ncclInt32, ncclSum, comm, streams[1]));
    GOOD(ncclGroupEnd());
    GOOD(ncclAllReduce(words, words, 5000, ncclInt32, ncclSum, comm, round % 2 == 0 ? streams[1] : NULL));
    expected *= seat.ranks * seat.ranks;
  }
  for (int i = 0; i < 2; i++) GOOD(shoalStreamSynchronize(streams[i]));
  for (int i = 0; i < 5000; i++) CHECK(words[i] == expected);
  /* Destroyed with work under way, which is done first. */
  GOOD(ncclAllReduce(words, words, 5000, ncclInt32, ncclMax, comm, streams[0]));
  GOOD(ncclCommDestroy(comm));
  GOOD(shoalStreamQuery(streams[0]));
  for (int i = 0; i < 2; i++) GOOD(shoalStreamDestroy(streams[i]));
}

static void run_streams(void) { crew_run(3, streams_body); }

int main(int count, char** arguments) {
  const Case cases[] = {
      {"forked", run_forked},   {"executed", run_executed},
      {"threads", run_threads}, {"one-thread", run_one_thread},
      {"two", run_two_communicators}, {"streams", run_streams},
      {NULL, NULL},
  };
  program = arguments[0];
  if (count > 4 && strcmp(arguments[1], "rank") == 0) return executed(count, arguments);
  return crew_main(count, arguments, cases);
}
