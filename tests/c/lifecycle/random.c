/* Random lives: processes make, split, shrink, grow, revoke, abort and destroy communicators and are killed, by a
 * plan that follows from a seed alone and that every process works out for itself. Steps are kept apart by a
 * barrier, so that it is known what each of them must come to; within a step things happen at once.
 *
 * random FIRST COUNT runs so many lives. What a life left behind in a process is a failure, as is a wrong sum. */
#include "random.h"

#include <dirent.h>

enum { ABORT_MS = 1000, DEATH_MS = 5000, WORDS = 4000 };

/* What the processes of a life share. */
typedef struct {
  volatile int arrived[STEPS + 2], killed[MOST], id_is_there[STEPS];
  ncclUniqueId ids[STEPS];
} Shared;

static Shared* shared;
static int32_t words[WORDS];

/* ---- what one process does ---- */

static Line* mine_of(Life* life, int index) { return &life->lines[index]; }

static Line* add_line(Life* life, int goes_on) {
  CHECK(life->line_count < LINES);
  Line* line = &life->lines[life->line_count++];
  memset(line, 0, sizeof *line);
  line->goes_on = goes_on;
  return line;
}

static ncclResult_t settled(ncclComm_t comm) {
  ncclResult_t state = ncclInProgress;
  while (state == ncclInProgress) {
    GOOD(ncclCommGetAsyncError(comm, &state));
    if (state == ncclInProgress) sched_yield();
  }
  return state;
}

/* The call's result, once it is known. */
static void done(ncclResult_t result, ncclComm_t asked, int goes_on) {
  if (result == ncclInProgress && goes_on) result = settled(asked);
  CHECK(result == ncclSuccess);
}

static void is_sound(const Line* line, int me) {
  int rank = rank_in(line, me), number = -1;
  GOOD(ncclCommUserRank(line->mine, &number));
  CHECK(number == rank);
  GOOD(ncclCommCount(line->mine, &number));
  CHECK(number == line->count);
  GOOD(sum_once(line->mine, rank, line->count, 1 + (size_t)(line->count * 37), words));
}

static void abort_soon(Line* line) {
  double start_ms = now_ms();
  GOOD(ncclCommAbort(line->mine));
  double took_ms = now_ms() - start_ms;
  if (took_ms >= ABORT_MS) fprintf(stderr, "abort took %.0f ms\n", took_ms);
  CHECK(took_ms < ABORT_MS);
  line->mine = NULL;
}

static ncclUniqueId wait_for_id(int step) {
  while (!__atomic_load_n(&shared->id_is_there[step], __ATOMIC_ACQUIRE)) sleep_ms(1);
  return shared->ids[step];
}

static void show_id(int step, const ncclUniqueId* id) {
  shared->ids[step] = *id;
  __atomic_store_n(&shared->id_is_there[step], 1, __ATOMIC_RELEASE);
}

static ncclConfig_t config_of(int goes_on) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = !goes_on;
  return config;
}

/* Some of the living, in an order of their own. */
static void choose(const Life* life, const Plan* plan, Line* line) {
  int start = plan->victim;
  for (int i = 0; i < life->processes; i++) {
    int process = (start + i) % life->processes;
    if (life->alive[process] && (plan->chosen[process] || process == plan->victim)) {
      line->members[line->count++] = process;
    }
  }
}

static void make(Life* life, const Plan* plan) {
  Line* line = add_line(life, plan->goes_on);
  choose(life, plan, line);
  int rank = rank_in(line, life->me);
  if (rank < 0) return;
  ncclConfig_t config = config_of(plan->goes_on);
  ncclUniqueId id;
  if (rank == 0) {
    GOOD(ncclGetUniqueId(&id));
    show_id(life->step, &id);
  }
  id = wait_for_id(life->step);
  ncclResult_t result = ncclCommInitRankConfig(&line->mine, line->count, id, rank, &config);
  done(result, line->mine, line->goes_on);
  is_sound(line, life->me);
}

typedef struct {
  ncclComm_t comm;
  ncclUniqueId id;
  int rank, ranks;
  ncclResult_t result;
} Task;

static void* init_in_thread(void* argument) {
  Task* task = argument;
  task->result = ncclCommInitRank(&task->comm, task->ranks, task->id, task->rank);
  return NULL;
}

/* One more rank is waited for than there is. */
static void make_in_vain(Life* life, const Plan* plan) {
  Line line = {0};
  choose(life, plan, &line);
  Task task = {.rank = rank_in(&line, life->me), .ranks = line.count + 1};
  if (task.rank < 0) return;
  if (task.rank == 0) {
    GOOD(ncclGetUniqueId(&task.id));
    show_id(life->step, &task.id);
  }
  task.id = wait_for_id(life->step);
  if (plan->goes_on) {
    ncclConfig_t config = config_of(1);
    CHECK(ncclCommInitRankConfig(&line.mine, task.ranks, task.id, task.rank, &config) == ncclInProgress);
    sleep_ms(plan->delay_ms);
    abort_soon(&line);
    return;
  }
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, init_in_thread, &task) == 0);
  double start_ms = now_ms();
  while ((line.mine = __atomic_load_n(&task.comm, __ATOMIC_ACQUIRE)) == NULL && now_ms() - start_ms < 200) sleep_ms(1);
  sleep_ms(plan->delay_ms);
  /* It may have heard already that another rank gave up. */
  line.mine = __atomic_load_n(&task.comm, __ATOMIC_ACQUIRE);
  if (line.mine != NULL) {
    start_ms = now_ms();
    ncclResult_t result = ncclCommAbort(line.mine);
    CHECK((result == ncclSuccess || result == ncclInvalidArgument) && now_ms() - start_ms < ABORT_MS);
  }
  CHECK(pthread_join(thread, NULL) == 0);
  CHECK(task.result != ncclSuccess && task.comm == NULL && now_ms() - start_ms < 2 * ABORT_MS);
}

static void use(Life* life, const Plan* plan) {
  Line* line = mine_of(life, plan->line);
  int rank = rank_in(line, life->me), ranks = line->count;
  if (rank < 0) return;
  if (plan->way < 2) {
    for (int i = 0; i < 5; i++) GOOD(sum_once(line->mine, rank, ranks, (size_t)(1 + plan->delay_ms * 200 + i), words));
  } else if (plan->way < 4) {
    int32_t from[MOST], into[MOST];
    GOOD(ncclGroupStart());
    for (int peer = 0; peer < ranks; peer++) {
      from[peer] = rank * 100 + peer;
      GOOD(ncclSend(&from[peer], 1, ncclInt32, peer, line->mine, NULL));
      GOOD(ncclRecv(&into[peer], 1, ncclInt32, peer, line->mine, NULL));
    }
    GOOD(ncclGroupEnd());
    for (int peer = 0; peer < ranks; peer++) CHECK(into[peer] == peer * 100 + rank);
  } else {
    shoalStream_t stream;
    int32_t word = rank;
    GOOD(shoalStreamCreate(&stream));
    for (int i = 0; i < 3; i++) GOOD(ncclAllReduce(&word, &word, 1, ncclInt32, ncclMax, line->mine, stream));
    GOOD(shoalStreamSynchronize(stream));
    CHECK(word == ranks - 1);
    GOOD(shoalStreamDestroy(stream));
  }
}

/* Lines for the children of a split, by color, each by (key, rank); the index of this process's own or -1. */
static int add_children(Life* life, const Plan* plan, const Line* parent, int goes_on) {
  int own = -1;
  for (int color = 0; color < 3; color++) {
    Line* line = NULL;
    for (int key = -1; key < 2; key++) {
      for (int rank = 0; rank < parent->count; rank++) {
        if (plan->colors[rank] != color || plan->keys[rank] != key) continue;
        if (line == NULL) line = add_line(life, goes_on);
        if (parent->members[rank] == life->me) own = (int)(line - life->lines);
        line->members[line->count++] = parent->members[rank];
      }
    }
  }
  return own;
}

static void split(Life* life, const Plan* plan) {
  Line* parent = mine_of(life, plan->line);
  int rank = rank_in(parent, life->me);
  int goes_on = plan->way < 2 ? plan->goes_on : parent->goes_on;
  int own = add_children(life, plan, parent, goes_on);
  if (rank < 0) return;
  ncclComm_t child = NULL;
  ncclConfig_t config = config_of(goes_on);
  int color = plan->colors[rank];
  ncclResult_t result = ncclCommSplit(parent->mine, color, plan->keys[rank], &child, plan->way < 2 ? &config : NULL);
  done(result, parent->mine, parent->goes_on);
  CHECK((child == NULL) == (color == NCCL_SPLIT_NOCOLOR) && (own < 0) == (child == NULL));
  if (own < 0) return;
  life->lines[own].mine = child;
  is_sound(&life->lines[own], life->me);
}

static void shrink(Life* life, const Plan* plan) {
  Line *parent = mine_of(life, plan->line), *line = add_line(life, parent->goes_on);
  int excluded[MOST], excluded_count = 0, keeper = -1;
  for (int rank = 0; rank < parent->count; rank++) {
    if (life->alive[parent->members[rank]] && (keeper < 0 || plan->way % 2)) keeper = rank;
  }
  for (int rank = 0; rank < parent->count; rank++) {
    int stays = life->alive[parent->members[rank]] && (plan->chosen[rank] || rank == keeper);
    if (stays) line->members[line->count++] = parent->members[rank];
    else excluded[excluded_count++] = rank;
  }
  /* A list without a rank is not taken. */
  if (excluded_count == 0) {
    int rank = keeper == 0 ? 1 : 0;
    excluded[excluded_count++] = rank;
    memmove(&line->members[rank], &line->members[rank + 1], (size_t)(--line->count - rank) * sizeof(int));
  }
  int stops = plan->way >= 4 || parent->state == BROKEN, flags = stops ? NCCL_SHRINK_ABORT : NCCL_SHRINK_DEFAULT;
  if (rank_in(line, life->me) >= 0) {
    ncclResult_t result = ncclCommShrink(parent->mine, excluded, excluded_count, &line->mine, NULL, flags);
    done(result, parent->mine, parent->goes_on);
    is_sound(line, life->me);
  }
  if (stops) {
    if (rank_in(parent, life->me) >= 0) abort_soon(parent);
    parent->state = OVER;
  }
}

static void grow(Life* life, const Plan* plan) {
  Line *parent = mine_of(life, plan->line), *line = add_line(life, parent->goes_on);
  int maker = plan->delay_ms % parent->count, old = rank_in(parent, life->me);
  memcpy(line->members, parent->members, sizeof line->members);
  line->count = parent->count;
  for (int i = 0; i < life->processes; i++) {
    if (life->alive[i] && rank_in(parent, i) < 0 && plan->chosen[i]) line->members[line->count++] = i;
  }
  for (int i = 0; i < life->processes && line->count == parent->count; i++) {
    if (life->alive[i] && rank_in(parent, i) < 0) line->members[line->count++] = i;
  }
  ncclConfig_t config = config_of(parent->goes_on);
  ncclUniqueId id;
  if (old >= 0) {
    if (old == maker) {
      GOOD(ncclCommGetUniqueId(parent->mine, &id));
      show_id(life->step, &id);
    }
    done(ncclCommGrow(parent->mine, line->count, old == maker ? &id : NULL, -1, &line->mine, NULL), parent->mine, parent->goes_on);
  } else if (rank_in(line, life->me) >= 0) {
    id = wait_for_id(life->step);
    ncclResult_t result = ncclCommGrow(NULL, line->count, &id, rank_in(line, life->me), &line->mine, &config);
    done(result, line->mine, line->goes_on);
  } else {
    return;
  }
  is_sound(line, life->me);
}

/* Nothing starts on a broken line, and the rest answers. */
static void is_broken(Line* line) {
  ncclComm_t child = NULL;
  int number = -1;
  CHECK(ncclAllReduce(words, words, 1, ncclInt32, ncclSum, line->mine, NULL) == ncclInvalidUsage);
  CHECK(ncclCommSplit(line->mine, 0, 0, &child, NULL) == ncclInvalidUsage && child == NULL);
  GOOD(ncclCommCount(line->mine, &number));
  CHECK(number == line->count);
}

static void kill_one(Life* life, const Plan* plan) {
  int in_call = -1, victim = plan->victim;
  for (int i = 0; i < life->line_count && plan->way % 2; i++) {
    if (life->lines[i].state == SOUND && rank_in(&life->lines[i], victim) >= 0) in_call = i;
  }
  Line* busy = in_call < 0 ? NULL : &life->lines[in_call];
  if (busy != NULL && rank_in(busy, life->me) >= 0) is_sound(busy, life->me);
  if (life->me == victim) {
    sleep_ms(plan->delay_ms);
    __atomic_store_n(&shared->killed[victim], 1, __ATOMIC_RELEASE);
    raise(SIGKILL);
  }
  life->alive[victim] = 0;
  double start_ms = now_ms();
  if (busy != NULL && rank_in(busy, life->me) >= 0) {
    while (ncclAllReduce(words, words, 1, ncclInt32, ncclMax, busy->mine, NULL) == ncclSuccess) {
    }
    char name[16];
    snprintf(name, sizeof name, "rank %d", rank_in(busy, victim));
    CHECK_SAID(name);
  }
  for (int i = 0; i < life->line_count; i++) {
    Line* line = &life->lines[i];
    if (line->state == OVER || rank_in(line, victim) < 0) continue;
    line->has_dead = 1;
    if (line->state == SOUND) line->state = BROKEN;
    if (line->state != BROKEN || rank_in(line, life->me) < 0) continue;
    while (async_error(line->mine) == ncclSuccess) {
      CHECK(now_ms() - start_ms < DEATH_MS);
      sleep_ms(2);
    }
    is_broken(line);
  }
  CHECK(now_ms() - start_ms < DEATH_MS);
}

static void revoke_all(Life* life, const Plan* plan) {
  Line* line = mine_of(life, plan->line);
  int rank = rank_in(line, life->me), has_receive = plan->way % 2 && line->count > 1;
  line->state = REVOKED;
  if (rank < 0) return;
  shoalStream_t stream = NULL;
  int32_t word;
  GOOD(shoalStreamCreate(&stream));
  int received = has_receive && ncclRecv(&word, 1, ncclInt32, (rank + 1) % line->count, line->mine, stream) == ncclSuccess;
  sleep_ms(rank % 2 ? plan->delay_ms : 0);
  done(ncclCommRevoke(line->mine, NCCL_REVOKE_DEFAULT), line->mine, 1);
  if (received) CHECK(shoalStreamSynchronize(stream) != ncclSuccess);
  GOOD(shoalStreamDestroy(stream));
  CHECK(ncclAllReduce(words, words, 1, ncclInt32, ncclSum, line->mine, NULL) == ncclInvalidUsage);
  CHECK(ncclCommFinalize(line->mine) == ncclInvalidUsage && settled(line->mine) == ncclSuccess);
}

static void* use_until_error(void* argument) {
  Task* task = argument;
  int32_t word = 1;
  while ((task->result = ncclAllReduce(&word, &word, 1, ncclInt32, ncclMax, task->comm, NULL)) == ncclSuccess) {
  }
  return NULL;
}

static void abort_all(Life* life, const Plan* plan) {
  Line* line = mine_of(life, plan->line);
  int rank = rank_in(line, life->me), is_busy = line->state == SOUND && plan->way % 2;
  line->state = OVER;
  if (rank < 0) return;
  if (!is_busy) {
    abort_soon(line);
    return;
  }
  /* Rank 0 aborts under a thread of its own, the others once they hear of it or by themselves. */
  Task task = {.comm = line->mine};
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, use_until_error, &task) == 0);
  sleep_ms(plan->delay_ms);
  if (rank > 0 && plan->chosen[rank]) CHECK(pthread_join(thread, NULL) == 0);
  double start_ms = now_ms();
  abort_soon(line);
  if (rank == 0 || !plan->chosen[rank]) CHECK(pthread_join(thread, NULL) == 0);
  CHECK(task.result != ncclSuccess && now_ms() - start_ms < 2 * ABORT_MS);
}

static void destroy(Life* life, const Plan* plan) {
  Line* line = mine_of(life, plan->line);
  State before = line->state;
  line->state = OVER;
  if (rank_in(line, life->me) < 0) return;
  if (plan->way % 2 && before != REVOKED) {
    ncclResult_t result = ncclCommFinalize(line->mine);
    if (result == ncclInProgress && line->goes_on) result = before == SOUND ? settled(line->mine) : ncclSuccess;
    CHECK(result == ncclSuccess);
  }
  GOOD(ncclCommDestroy(line->mine));
  line->mine = NULL;
}

/* ---- what is left in a process ---- */

typedef struct {
  int files, maps, threads;
} Traces;

static int count_in(const char* folder, int is_tasks) {
  DIR* open = opendir(folder);
  CHECK(open != NULL);
  int count = 0;
  for (struct dirent* entry; (entry = readdir(open)) != NULL;) {
    char path[400], name[32] = "";
    if (entry->d_name[0] == '.') continue;
    snprintf(path, sizeof path, "/proc/self/task/%s/comm", entry->d_name);
    FILE* file = is_tasks ? fopen(path, "r") : NULL;
    if (file != NULL) {
      if (fgets(name, sizeof name, file) == NULL) name[0] = 0;
      fclose(file);
    }
    /* The one thread that stays, asleep, once streams were used. */
    count += strncmp(name, "shoal-progress", 14) != 0;
  }
  closedir(open);
  return count;
}

static Traces traces(void) {
  Traces found = {count_in("/proc/self/fd", 0), 0, count_in("/proc/self/task", 1)};
  FILE* maps = fopen("/proc/self/maps", "r");
  CHECK(maps != NULL);
  for (char line[512]; fgets(line, sizeof line, maps) != NULL;) {
    found.maps += strstr(line, "memfd") != NULL && strstr(line, "shoal") != NULL;
  }
  fclose(maps);
  return found;
}

static void left_nothing(Traces before) {
  Traces now = traces();
  for (int look = 0; look < 500 && memcmp(&now, &before, sizeof now) != 0; look++) {
    sleep_ms(10);
    now = traces();
  }
  if (memcmp(&now, &before, sizeof now) != 0) {
    fprintf(stderr, "files %d -> %d, maps %d -> %d, threads %d -> %d\n", before.files, now.files, before.maps, now.maps,
            before.threads, now.threads);
    CHECK(!"something is left");
  }
}

/* ---- lives ---- */

static void step(Life* life, const Plan* plan) {
  static void (*const ways[KINDS])(Life*, const Plan*) = {make, make_in_vain, use, split, shrink, grow, kill_one, revoke_all, abort_all, destroy};
  ways[plan->kind](life, plan);
}

static void arrive(Life* life) {
  __atomic_fetch_add(&shared->arrived[life->step], 1, __ATOMIC_ACQ_REL);
  while (__atomic_load_n(&shared->arrived[life->step], __ATOMIC_ACQUIRE) < alive_count(life)) sleep_ms(1);
}

static uint64_t seed;
static int is_loud;

static void live(Seat seat) {
  static const char* const names[KINDS] = {"make", "make in vain", "use", "split", "shrink", "grow", "kill", "revoke", "abort", "destroy"};
  static Life life;
  Traces before = traces();
  life.seed = seed, life.me = seat.rank, life.processes = seat.ranks;
  for (int i = 0; i < seat.ranks; i++) life.alive[i] = 1;
  for (life.step = 0; life.step < STEPS; life.step++) {
    Plan plan = plan_of(&life);
    if (is_loud) fprintf(stderr, "%d: step %d, %s, line %d, way %d\n", life.me, life.step, names[plan.kind], plan.line, plan.way);
    step(&life, &plan);
    arrive(&life);
  }
  for (int i = 0; i < life.line_count; i++) {
    Line* line = &life.lines[i];
    if (line->state == OVER || line->mine == NULL) continue;
    if ((i + seed) % 2) abort_soon(line);
    else GOOD(ncclCommDestroy(line->mine));
  }
  left_nothing(before);
}

static void run_life(void) {
  dice_state = seed;
  int processes = 2 + below(MOST - 1), left = processes;
  memset((void*)shared, 0, sizeof *shared);
  Seat seat = {0, processes, {{0}}};
  for (; seat.rank < processes; seat.rank++) crew_start_one(seat, live);
  while (left > 0) {
    int status = 0, rank = 0;
    pid_t ended = wait(&status);
    CHECK(ended > 0);
    while (rank < processes && crew[rank] != ended) rank++;
    CHECK(rank < processes);
    int was_killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && shared->killed[rank];
    left--;
    if (was_killed || (WIFEXITED(status) && WEXITSTATUS(status) == 0)) continue;
    fprintf(stderr, "life %llu, process %d of %d ended with status %#x\n", (unsigned long long)seed, rank, processes, (unsigned)status);
    for (int i = 0; i < processes; i++) kill(crew[i], SIGKILL);
    _exit(1);
  }
}

int main(int count, char** arguments) {
  CHECK(count > 2);
  uint64_t first = strtoull(arguments[1], NULL, 0), lives = strtoull(arguments[2], NULL, 0);
  is_loud = count > 3;
  shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(shared != MAP_FAILED);
  double start_ms = now_ms();
  for (seed = first; seed < first + lives; seed++) run_life();
  printf("%llu lives from %llu on in %.1f s\n", (unsigned long long)lives, (unsigned long long)first, (now_ms() - start_ms) / 1e3);
  return 0;
}
