/* What PyTorch's ProcessGroupNCCL calls, in its order, on host memory: eager birth, a split for a subgroup, a pair of
 * ranks with a communicator of its own, every collective inside a group on a stream of its own, operators, a pool of
 * registered memory, a watchdog that polls beside it, and both ways out: finalize and destroy, or abort from another
 * thread inside a group. */
#include "crew.h"

enum { COUNT = 1000, COMMS = 3 };

static int goes_on, aborts;

/* A process group: its communicator, and the stream that its work runs on. */
typedef struct {
  ncclComm_t comm;
  shoalStream_t stream;
  int rank, ranks;
} Group;

static Group groups[COMMS];

/* A segment of the allocator's pool of ncclMemAlloc, registered with the first group as a buffer and as a window. */
static struct {
  float* memory;
  void* buffer;
  ncclWindow_t window;
} pool;

static volatile int is_over;

/* C10D_NCCL_CHECK_TIMEOUT: the call's result, or the one that is polled for. */
static void checked(ncclResult_t result, ncclComm_t comm) {
  while (result == ncclInProgress) {
    GOOD(ncclCommGetAsyncError(comm, &result));
    if (result == ncclInProgress) sched_yield();
  }
  if (result != ncclSuccess) fprintf(stderr, "%s: %s\n", ncclGetErrorString(result), ncclGetLastError(NULL));
  CHECK(result == ncclSuccess);
}

static ncclConfig_t config_of(const char* name) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  if (goes_on) config.blocking = 0;
  config.commName = name;
  return config;
}

static ncclComm_t birth(int ranks, ncclUniqueId id, int rank, const char* name) {
  ncclComm_t comm = NULL;
  ncclConfig_t config = config_of(name);
  ncclResult_t result = ncclCommInitRankConfig(&comm, ranks, id, rank, &config);
  CHECK(comm != NULL);
  checked(result, comm);
  return comm;
}

/* NCCLComm::split: the parent's success, then the pointer. */
static ncclComm_t split(ncclComm_t parent, int color, int rank) {
  ncclComm_t comm = NULL;
  ncclConfig_t config = config_of("a subgroup");
  config.splitShare = 1;
  checked(ncclCommSplit(parent, color, rank, &comm, &config), parent);
  while (comm == NULL) sched_yield();
  checked(ncclInProgress, comm);
  return comm;
}

/* AutoNcclGroup. */
static void group_end(ncclComm_t comm) { checked(ncclGroupEnd(), comm); }

static void* watchdog(void* argument) {
  (void)argument;
  while (!is_over) {
    for (int i = 0; i < COMMS; i++) {
      ncclResult_t state = ncclSuccess;
      if (groups[i].comm == NULL) continue;
      GOOD(ncclCommGetAsyncError(groups[i].comm, &state));
      CHECK(state == ncclSuccess || state == ncclInProgress);
    }
    sleep_ms(5);
  }
  return NULL;
}

static float* tensor(size_t count, float first) {
  float* values = malloc(count * sizeof *values);
  CHECK(values != NULL);
  for (size_t i = 0; i < count; i++) values[i] = first + (float)(i % 10);
  return values;
}

/* An average multiplies by a third before it sums. */
static void equals(const float* values, size_t count, float factor, float first) {
  for (size_t i = 0; i < count; i++) {
    float error = values[i] - factor * (first + (float)(i % 10));
    CHECK(-1e-4f < error && error < 1e-4f);
  }
}

static void wait_for(const Group* group) { GOOD(shoalStreamSynchronize(group->stream)); }

static void reductions(const Group* group) {
  int ranks = group->ranks;
  float *values = tensor(COUNT, 1), *out = tensor(COUNT, 0), *all = tensor((size_t)ranks * COUNT, 2), scale = 0.5f;
  GOOD(ncclGroupStart());
  GOOD(ncclAllReduce(values, values, COUNT, ncclFloat, ncclSum, group->comm, group->stream));
  group_end(group->comm);
  wait_for(group);
  equals(values, COUNT, (float)ranks, 1);
  /* ReduceOp.PREMUL_SUM */
  ncclRedOp_t operator;
  GOOD(ncclRedOpCreatePreMulSum(&operator, &scale, ncclFloat, ncclScalarHostImmediate, group->comm));
  GOOD(ncclGroupStart());
  GOOD(ncclAllReduce(values, out, COUNT, ncclFloat, operator, group->comm, group->stream));
  group_end(group->comm);
  GOOD(ncclRedOpDestroy(operator, group->comm));
  wait_for(group);
  equals(out, COUNT, (float)(ranks * ranks) * scale, 1);
  GOOD(ncclGroupStart());
  GOOD(ncclReduce(all, all, COUNT, ncclFloat, ncclMax, 0, group->comm, group->stream));
  GOOD(ncclReduceScatter(all, out, COUNT, ncclFloat, ncclAvg, group->comm, group->stream));
  group_end(group->comm);
  wait_for(group);
  equals(out, COUNT, 1, 2);
  free(values), free(out), free(all);
}

static void movers(const Group* group) {
  int ranks = group->ranks, rank = group->rank;
  float *mine = tensor(COUNT, (float)rank), *all = tensor((size_t)ranks * COUNT, -1), *spread = tensor((size_t)ranks * COUNT, 0);
  GOOD(ncclGroupStart());
  GOOD(ncclAllGather(mine, all, COUNT, ncclFloat, group->comm, group->stream));
  group_end(group->comm);
  wait_for(group);
  for (int r = 0; r < ranks; r++) equals(all + r * COUNT, COUNT, 1, (float)r);
  /* all_gather of tensors of unequal sizes: broadcasts, coalesced. */
  GOOD(ncclGroupStart());
  for (int r = 0; r < ranks; r++) {
    GOOD(ncclBroadcast(mine, all + r * COUNT, (size_t)(COUNT - r), ncclFloat, r, group->comm, group->stream));
  }
  group_end(group->comm);
  /* all_to_all: sends and receives, a pair for each peer. */
  GOOD(ncclGroupStart());
  for (int r = 0; r < ranks; r++) {
    GOOD(ncclSend(mine, COUNT, ncclFloat, r, group->comm, group->stream));
    GOOD(ncclRecv(spread + r * COUNT, COUNT, ncclFloat, r, group->comm, group->stream));
  }
  group_end(group->comm);
  wait_for(group);
  for (int r = 0; r < ranks; r++) equals(spread + r * COUNT, COUNT, 1, (float)r);
  GOOD(ncclAlltoAll(spread, all, COUNT, ncclFloat, group->comm, group->stream));
  /* gather and scatter by the same means. */
  GOOD(ncclGroupStart());
  for (int r = 0; rank == 0 && r < ranks; r++) GOOD(ncclRecv(all + r * COUNT, COUNT, ncclFloat, r, group->comm, group->stream));
  GOOD(ncclSend(mine, COUNT, ncclFloat, 0, group->comm, group->stream));
  group_end(group->comm);
  wait_for(group);
  for (int r = 0; rank == 0 && r < ranks; r++) equals(all + r * COUNT, COUNT, 1, (float)r);
  free(mine), free(all), free(spread);
}

static void barrier(const Group* group) {
  float one = 1;
  GOOD(ncclGroupStart());
  GOOD(ncclAllReduce(&one, &one, 1, ncclFloat, ncclSum, group->comm, group->stream));
  group_end(group->comm);
  wait_for(group);
  CHECK(one == (float)group->ranks);
}

/* register_mem_pool, without and with symm: every group registers each segment of the pool, and the collectives work
 * in it; deregister_mem_pool takes the handles back, here that of another group. */
static void registered(void) {
  const Group* group = &groups[0];
  size_t bytes = 2 * COUNT * sizeof *pool.memory;
  void *memory = NULL, *user = NULL;
  GOOD(ncclMemAlloc(&memory, bytes));
  pool.memory = memory;
  checked(ncclCommRegister(group->comm, memory, bytes, &pool.buffer), group->comm);
  CHECK(pool.buffer != NULL);
  checked(ncclCommWindowRegister(group->comm, memory, bytes, &pool.window, NCCL_WIN_COLL_SYMMETRIC), group->comm);
  CHECK(pool.window != NULL);
  GOOD(ncclWinGetUserPtr(group->comm, pool.window, &user));
  CHECK(user == memory);
  for (int i = 0; i < COUNT; i++) pool.memory[i] = (float)(1 + i % 10);
  GOOD(ncclGroupStart());
  GOOD(ncclAllReduce(memory, pool.memory + COUNT, COUNT, ncclFloat, ncclSum, group->comm, group->stream));
  group_end(group->comm);
  wait_for(group);
  equals(pool.memory + COUNT, COUNT, (float)group->ranks, 1);
  if (groups[1].comm == NULL) return;
  void* handle = NULL;
  GOOD(ncclCommRegister(groups[1].comm, memory, bytes, &handle));
  GOOD(ncclCommDeregister(groups[1].comm, handle));
}

/* Before a communicator ends its handles are taken back; the memory goes when the allocator does. */
static void deregister(ncclComm_t comm) {
  GOOD(ncclCommDeregister(comm, pool.buffer));
  GOOD(ncclCommWindowDeregister(comm, pool.window));
}

/* A lone send or receive goes over the pair's own communicator, whose ranks are in the order of the pair's. */
static void pair_up(const Group* pair) {
  float* values = tensor(COUNT, pair->rank == 0 ? 7 : 0);
  for (int round = 0; round < 5; round++) {
    int sends = pair->rank == round % 2;
    if (sends) GOOD(ncclSend(values, COUNT, ncclFloat, 1 - pair->rank, pair->comm, pair->stream));
    else GOOD(ncclRecv(values, COUNT, ncclFloat, 1 - pair->rank, pair->comm, pair->stream));
  }
  wait_for(pair);
  equals(values, COUNT, 1, 7);
  free(values);
}

/* shutdown(): finalize and destroy each; or abort(): all inside one group, from a thread of its own. */
static void* leave(void* argument) {
  (void)argument;
  double start_ms = now_ms();
  if (aborts) GOOD(ncclGroupStart());
  for (int i = 0; i < COMMS; i++) {
    ncclComm_t comm = groups[i].comm;
    if (comm == NULL) continue;
    if (i == 0) deregister(comm);
    if (aborts) {
      GOOD(ncclCommAbort(comm));
    } else {
      checked(ncclCommFinalize(comm), comm);
      GOOD(ncclCommDestroy(comm));
    }
    groups[i].comm = NULL;
  }
  if (aborts) GOOD(ncclGroupEnd());
  if (aborts) printf("abort took %.0f ms\n", now_ms() - start_ms);
  return NULL;
}

static void torch_body(Seat seat) {
  pthread_t watch, leaver;
  int version = 0;
  GOOD(ncclGetVersion(&version));
  CHECK(version >= 22200);
  groups[0] = (Group){birth(seat.ranks, seat.id, seat.rank, "default_pg"), NULL, seat.rank, seat.ranks};
  CHECK(pthread_create(&watch, NULL, watchdog, NULL) == 0);
  for (int i = 0; i < COMMS; i++) GOOD(shoalStreamCreate(&groups[i].stream));
  barrier(&groups[0]);
  /* new_group: ranks 0 and 1, split off; the others take part without a color. */
  int is_in = seat.rank < 2;
  if (is_in) {
    groups[1].rank = seat.rank, groups[1].ranks = 2;
    groups[1].comm = split(groups[0].comm, 12345, seat.rank);
  } else {
    ncclComm_t none = NULL;
    ncclConfig_t config = config_of(NULL);
    checked(ncclCommSplit(groups[0].comm, NCCL_SPLIT_NOCOLOR, seat.rank, &none, &config), groups[0].comm);
    CHECK(none == NULL);
  }
  for (int i = 0; i < (is_in ? 2 : 1); i++) {
    reductions(&groups[i]);
    movers(&groups[i]);
  }
  if (is_in) {
    /* The store carries the pair's id: here the pair's own broadcast does. */
    ncclUniqueId id = {{0}};
    if (seat.rank == 0) GOOD(ncclGetUniqueId(&id));
    GOOD(ncclBroadcast(&id, &id, sizeof id, ncclChar, 0, groups[1].comm, NULL));
    groups[2].rank = seat.rank, groups[2].ranks = 2;
    groups[2].comm = birth(2, id, seat.rank, "0:1");
    pair_up(&groups[2]);
  }
  registered();
  barrier(&groups[0]);
  is_over = 1;
  CHECK(pthread_join(watch, NULL) == 0);
  CHECK(pthread_create(&leaver, NULL, leave, NULL) == 0 && pthread_join(leaver, NULL) == 0);
  GOOD(ncclMemFree(pool.memory));
  for (int i = 0; i < COMMS; i++) GOOD(shoalStreamDestroy(groups[i].stream));
}

static void run_blocking(void) { crew_run(3, torch_body); }

static void run_non_blocking(void) {
  goes_on = 1;
  crew_run(3, torch_body);
}

static void run_aborted(void) {
  aborts = 1;
  crew_run(3, torch_body);
}

int main(int count, char** arguments) {
  const Case cases[] = {{"blocking", run_blocking}, {"non-blocking", run_non_blocking}, {"aborted", run_aborted}, {NULL, NULL}};
  return crew_main(count, arguments, cases);
}
