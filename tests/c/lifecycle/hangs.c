/* Planted hangs: in a job worked out from a seed one rank does not come to an operation, and every rank that waits
 * must say which rank is missing, from which operation, and what it does instead, within two seconds of the bound.
 * Arguments: the first seed, how many jobs (which run at once); or `stopped`. */
#include "crew.h"

enum { BOUND_S = 1, SLOW_BOUND_S = 4, LATE_S = 2, PATIENCE_MS = 30000, FINAL_COUNT = 3, LINE = 4096 };

typedef enum { AWAY, STOPPED, KILLED, ASLEEP, OTHER_COUNT, ELSEWHERE, SLOW, FAULTS } Fault;
typedef enum { SUM, BROADCAST, GATHER, REDUCE, CIRCLE, MESSAGE, SHAPES } Shape;

static const char* const FAULT_NAMES[FAULTS] = {"away",   "stopped",   "killed", "asleep",
                                                "count", "elsewhere", "slow"};
/* How the verdict names the operation of a shape. */
static const char* const NAMES[SHAPES] = {" in AllReduce of ", " in Broadcast of ", " in AllGather of ",
                                          " in Reduce of ",    " in a group of ",   " in Recv of "};

typedef struct {
  Fault fault;
  int ranks, victim, steps, is_split;
  Shape shapes[12];
  size_t counts[12];
} Plan;

static Plan plan;
static Board* board;
enum { DONE };

static uint64_t dice_state;

static int below(int bound) {
  uint64_t mixed = dice_state += 0x9e3779b97f4a7c15u;
  mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
  mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
  return (int)((mixed ^ (mixed >> 31)) % (uint64_t)bound);
}

static void make_plan(int seed) {
  dice_state = (uint64_t)seed * 0x2545f4914f6cdd1du + 1;
  plan.fault = (Fault)(seed % FAULTS);
  plan.ranks = 2 + below(7);
  plan.is_split = plan.ranks >= 4 && below(3) == 0;
  plan.victim = below(plan.ranks);
  plan.steps = 2 + below(10);
  for (int step = 0; step < plan.steps; step++) {
    plan.shapes[step] = (Shape)below(SHAPES);
    plan.counts[step] = below(3) == 0 ? 100000 : 1 + (size_t)below(3000);
  }
  /* Of others the ranks may differ in count without harm. */
  if (plan.fault == OTHER_COUNT) plan.shapes[plan.steps - 1] = SUM;
}

/* Whether the rank belongs to the communicator in which it happens. */
static int takes_part(int rank) { return !plan.is_split || rank % 2 == plan.victim % 2; }

static int inner(int rank) { return plan.is_split ? rank / 2 : rank; }

static ncclResult_t operate(ncclComm_t comm, Shape shape, size_t count, int32_t* from, int32_t* to) {
  int rank = 0, ranks = 0, victim = inner(plan.victim);
  GOOD(ncclCommUserRank(comm, &rank));
  GOOD(ncclCommCount(comm, &ranks));
  int next = (rank + 1) % ranks, before = (rank + ranks - 1) % ranks, partner = (victim + 1) % ranks;
  switch (shape) {
    case SUM: return ncclAllReduce(from, to, count, ncclInt32, ncclSum, comm, NULL);
    case BROADCAST: return ncclBroadcast(from, to, count, ncclInt32, victim, comm, NULL);
    case GATHER: return ncclAllGather(from, to, count, ncclInt32, comm, NULL);
    case REDUCE: return ncclReduce(from, to, count, ncclInt32, ncclSum, partner, comm, NULL);
    case CIRCLE:
      GOOD(ncclGroupStart());
      GOOD(ncclSend(from, count, ncclInt32, next, comm, NULL));
      GOOD(ncclRecv(to, count, ncclInt32, before, comm, NULL));
      return ncclGroupEnd();
    default:
      if (rank == victim) return ncclSend(from, count, ncclInt32, partner, comm, NULL);
      if (rank == partner) return ncclRecv(to, count, ncclInt32, victim, comm, NULL);
      return ncclSuccess;
  }
}

/* What the victim does in place of the last step; whether it goes on with that. */
static int fail(ncclComm_t comm, ncclComm_t other, int32_t* from, int32_t* to) {
  switch (plan.fault) {
    case STOPPED: raise(SIGSTOP); break;
    case KILLED: raise(SIGKILL); break;
    case ASLEEP: sleep_ms((BOUND_S + LATE_S) * 1000 + 500); return 1;
    case OTHER_COUNT: (void)operate(comm, SUM, plan.counts[plan.steps - 1] + 1, from, to); break;
    case ELSEWHERE: (void)ncclAllReduce(from, to, 5, ncclInt32, ncclSum, other, NULL); break;
    case SLOW: return 1;
    default: break;
  }
  for (;;) pause();
}

static void body(Seat seat) {
  ncclComm_t world = sit(seat), part = NULL, other = NULL;
  GOOD(ncclCommSplit(world, takes_part(seat.rank), seat.rank, &part, NULL));
  GOOD(ncclCommSplit(world, 0, seat.rank, &other, NULL));
  ncclComm_t comm = plan.is_split ? part : world;
  int32_t* from = calloc(100001, sizeof *from);
  int32_t* to = calloc(100001 * 8, sizeof *to);
  CHECK(from != NULL && to != NULL);
  int is_good = 1;
  for (int step = 0; takes_part(seat.rank) && is_good && step <= plan.steps; step++) {
    int is_last = step == plan.steps - 1;
    if (plan.fault == SLOW && (seat.rank + step) % 3 == 0) sleep_ms(150);
    if (is_last && seat.rank == plan.victim && !fail(comm, other, from, to)) break;
    Shape shape = step == plan.steps ? SUM : plan.shapes[step];
    size_t count = step == plan.steps ? FINAL_COUNT : plan.counts[step];
    is_good = operate(comm, shape, count, from, to) == ncclSuccess;
  }
  int has_to_be_good = plan.fault == ASLEEP || plan.fault == SLOW;
  CHECK(is_good || !has_to_be_good);
  board_add(board, DONE);
  /* Nobody's end is to be part of the picture. */
  board_wait(board, DONE, 1000);
}

/* The line with these words in the log of a process; 0 if there is none yet. */
static int find_line(int seed, pid_t process, const char* words, char* line) {
  char name[64];
  snprintf(name, sizeof name, "hang.%d.%d", seed, (int)process);
  FILE* log = fopen(name, "r");
  int is_found = 0;
  while (log != NULL && !is_found && fgets(line, LINE, log) != NULL) {
    is_found = strstr(line, words) != NULL && strchr(line, '\n') != NULL;
  }
  if (log != NULL) fclose(log);
  return is_found;
}

static void await_line(int seed, int rank, const char* words, char* line) {
  double start_ms = now_ms();
  while (!find_line(seed, crew[rank], words, line)) {
    if (now_ms() - start_ms > PATIENCE_MS) fprintf(stderr, "seed %d: rank %d never said %s\n", seed, rank, words);
    CHECK(now_ms() - start_ms <= PATIENCE_MS);
    sleep_ms(20);
  }
}

/* The verdict of a rank names the victim, the operation, and what the victim does. */
static void check_verdict(int seed, int rank) {
  static const char* const INSTEAD[FAULTS] = {
      [AWAY] = "waits in no call", [STOPPED] = "is stopped", [ASLEEP] = "waits in no call",
      [ELSEWHERE] = "waits on another communicator, in AllReduce of 5 elements"};
  char line[LINE], victim[32], final[64];
  await_line(seed, rank, "has waited", line);
  const char* waited = strstr(line, "has waited ");
  const char* named = strstr(line, "missing: ");
  if (named == NULL) named = strstr(line, "it waits for: ");
  snprintf(victim, sizeof victim, "rank %d (process %d)", inner(plan.victim), (int)crew[plan.victim]);
  snprintf(final, sizeof final, " in AllReduce of %d elements", FINAL_COUNT);
  int has_operation = strstr(line, NAMES[plan.shapes[plan.steps - 1]]) != NULL || strstr(line, final) != NULL;
  int seconds = atoi(waited + strlen("has waited "));
  const char* there = named == NULL ? NULL : strstr(named, victim);
  int is_right = there != NULL && strstr(there, INSTEAD[plan.fault]) != NULL && has_operation &&
                 seconds >= BOUND_S && seconds <= BOUND_S + LATE_S;
  if (!is_right) fprintf(stderr, "seed %d, rank %d, %s: %s\n", seed, rank, victim, line);
  CHECK(is_right);
}

/* Who is dead, or calls something else, is known before any verdict. */
static void check_error(int seed) {
  char line[LINE], gone[64];
  snprintf(gone, sizeof gone, "rank %d is gone", inner(plan.victim));
  double start_ms = now_ms();
  for (int rank = 0; ; rank = (rank + 1) % plan.ranks) {
    const char* words = plan.fault == KILLED ? gone : "disagree";
    if (find_line(seed, crew[rank], words, line)) return;
    CHECK(now_ms() - start_ms <= PATIENCE_MS);
    sleep_ms(5);
  }
}

static void check(int seed) {
  char line[LINE];
  if (plan.fault == KILLED || plan.fault == OTHER_COUNT) {
    check_error(seed);
  } else if (plan.fault != SLOW) {
    for (int rank = 0; rank < plan.ranks; rank++) {
      if (rank != plan.victim && takes_part(rank)) check_verdict(seed, rank);
    }
  }
  if (plan.fault != SLOW && plan.fault != ASLEEP) return;
  board_wait(board, DONE, plan.ranks);
  if (plan.fault == SLOW) {
    for (int rank = 0; rank < plan.ranks; rank++) CHECK(!find_line(seed, crew[rank], "has waited", line));
  }
}

static void one_job(int seed) {
  char file[64], bound[8];
  make_plan(seed);
  board = board_make();
  snprintf(file, sizeof file, "hang.%d.%%p", seed);
  snprintf(bound, sizeof bound, "%d", plan.fault == SLOW ? SLOW_BOUND_S : BOUND_S);
  setenv("SHOAL_DEBUG_FILE", file, 1);
  setenv("SHOAL_STALL_SECONDS", bound, 1);
  crew_start(plan.ranks, body);
  check(seed);
  for (int rank = 0; rank < plan.ranks; rank++) kill(crew[rank], SIGKILL);
  for (int rank = 0; rank < plan.ranks; rank++) {
    CHECK(waitpid(crew[rank], NULL, 0) == crew[rank]);
    snprintf(file, sizeof file, "hang.%d.%d", seed, (int)crew[rank]);
    unlink(file);
  }
  printf("seed %d: %s, rank %d of %d%s\n", seed, FAULT_NAMES[plan.fault], plan.victim, plan.ranks,
         plan.is_split ? ", split" : "");
  fflush(NULL);
}

/* Three ranks, of which one stops behind its first operation, for somebody who looks from outside. */
static void stopped_body(Seat seat) {
  int32_t words[77] = {0};
  ncclComm_t comm = sit(seat);
  GOOD(ncclAllReduce(words, words, 5, ncclInt32, ncclSum, comm, NULL));
  if (seat.rank == 1) raise(SIGSTOP);
  (void)ncclAllReduce(words, words, 77, ncclInt32, ncclSum, comm, NULL);
}

int main(int count, char** arguments) {
  alarm(CREW_SECONDS);
  if (count == 2 && strcmp(arguments[1], "stopped") == 0) {
    crew_run(3, stopped_body);
    return 0;
  }
  CHECK(count == 3);
  int first = atoi(arguments[1]), jobs = atoi(arguments[2]), is_good = 1;
  CHECK(jobs > 0 && jobs <= CREW_LIMIT);
  pid_t children[CREW_LIMIT];
  for (int job = 0; job < jobs; job++) {
    children[job] = fork();
    CHECK(children[job] >= 0);
    if (children[job] == 0) {
      alarm(CREW_SECONDS);
      one_job(first + job);
      _exit(0);
    }
  }
  for (int job = 0; job < jobs; job++) {
    int status = 0;
    CHECK(waitpid(children[job], &status, 0) == children[job]);
    if (status != 0) fprintf(stderr, "seed %d failed\n", first + job);
    is_good &= status == 0;
  }
  return is_good ? 0 : 1;
}
