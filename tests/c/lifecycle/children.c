/* Children of a communicator: split, shrunk after whatever happened to the parent, and grown. */
#include "crew.h"

enum { COUNT = 3000, SOON_MS = 2000 };

static int32_t words[COUNT];
static Board* board;

static int ranks_of(ncclComm_t comm) {
  int number = -1;
  GOOD(ncclCommCount(comm, &number));
  return number;
}

static int rank_of(ncclComm_t comm) {
  int number = -1;
  GOOD(ncclCommUserRank(comm, &number));
  return number;
}

/* It works, and this is rank `rank` of `ranks`. */
static void is_sound(ncclComm_t comm, int rank, int ranks) {
  CHECK(comm != NULL && rank_of(comm) == rank && ranks_of(comm) == ranks);
  for (int i = 0; i < 3; i++) GOOD(sum_once(comm, rank, ranks, 1 + (size_t)i * 1499, words));
  CHECK(async_error(comm) == ncclSuccess);
}

static ncclResult_t settled(ncclComm_t comm) {
  ncclResult_t state = ncclInProgress;
  while (state == ncclInProgress) {
    GOOD(ncclCommGetAsyncError(comm, &state));
    if (state == ncclInProgress) sched_yield();
  }
  return state;
}

static void split_body(Seat seat) {
  ncclComm_t comm = sit(seat), child = NULL, grandchild = NULL, all = NULL;
  int rank = seat.rank, ranks = seat.ranks;
  CHECK(ncclCommSplit(comm, -2, 0, &child, NULL) == ncclInvalidArgument && child == NULL);
  CHECK_SAID("ncclCommSplit: color is -2; ");
  CHECK(ncclCommSplit(comm, 0, 0, NULL, NULL) == ncclInvalidArgument);
  /* Even and odd, in reverse. */
  GOOD(ncclCommSplit(comm, rank % 2, -rank, &child, NULL));
  int of_color = (ranks + 1 - rank % 2) / 2;
  is_sound(child, of_color - 1 - rank / 2, of_color);
  /* Of the children's ranks the first one is left out; keys are alike, so old ranks count. */
  int mine = rank_of(child);
  GOOD(ncclCommSplit(child, mine == 0 ? NCCL_SPLIT_NOCOLOR : 7, 5, &grandchild, NULL));
  if (mine == 0) {
    CHECK(grandchild == NULL);
  } else {
    is_sound(grandchild, mine - 1, of_color - 1);
    GOOD(ncclCommDestroy(grandchild));
  }
  /* Parents may go first. */
  GOOD(ncclCommSplit(comm, 3, 0, &all, NULL));
  GOOD(ncclCommDestroy(comm));
  is_sound(all, rank, ranks);
  is_sound(child, mine, of_color);
  GOOD(ncclCommDestroy(child));
  GOOD(ncclCommDestroy(all));
}

/* All ranks on one thread, twice in one group; then behind the caller, with a name and another kind of child. */
static void split_on_one_thread(void) {
  enum { RANKS = 4 };
  ncclComm_t comms[RANKS], first[RANKS], second[RANKS];
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  ncclUniqueId id;
  for (int goes_on = 0; goes_on < 2; goes_on++) {
    config.blocking = !goes_on;
    GOOD(ncclGetUniqueId(&id));
    GOOD(ncclGroupStart());
    for (int i = 0; i < RANKS; i++) GOOD(ncclCommInitRankConfig(&comms[i], RANKS, id, i, &config));
    CHECK(ncclGroupEnd() == (goes_on ? ncclInProgress : ncclSuccess));
    for (int i = 0; i < RANKS; i++) CHECK(settled(comms[i]) == ncclSuccess);
    GOOD(ncclGroupStart());
    for (int i = 0; i < RANKS; i++) {
      GOOD(ncclCommSplit(comms[i], i / 2, 0, &first[i], NULL));
      GOOD(ncclCommSplit(comms[i], i % 2, -i, &second[i], &config));
    }
    CHECK(ncclGroupEnd() == (goes_on ? ncclInProgress : ncclSuccess));
    for (int i = 0; i < RANKS; i++) CHECK(settled(comms[i]) == ncclSuccess);
    int32_t sums[2][RANKS];
    GOOD(ncclGroupStart());
    for (int i = 0; i < RANKS; i++) {
      CHECK(first[i] != NULL && rank_of(first[i]) == i % 2 && rank_of(second[i]) == 1 - i / 2);
      sums[0][i] = sums[1][i] = i;
      GOOD(ncclAllReduce(&sums[0][i], &sums[0][i], 1, ncclInt32, ncclSum, first[i], NULL));
      GOOD(ncclAllReduce(&sums[1][i], &sums[1][i], 1, ncclInt32, ncclSum, second[i], NULL));
    }
    GOOD(ncclGroupEnd());
    for (int i = 0; i < RANKS; i++) CHECK(sums[0][i] == (i < 2 ? 1 : 5) && sums[1][i] == (i % 2 ? 4 : 2));
    for (int i = 0; i < RANKS; i++) {
      GOOD(ncclCommDestroy(comms[i]));
      GOOD(ncclCommDestroy(first[i]));
      GOOD(ncclCommAbort(second[i]));
    }
  }
}

static void run_split(void) {
  crew_run(5, split_body);
  split_on_one_thread();
}

/* A rank leaves, is killed while the others are in a call or not, or is merely unwanted; then all but it go on. */
enum { WELCOME, LEFT, KILLED, KILLED_IN_CALL, IN_FLIGHT, REVOKED, WAYS };
static int way;

static void shrink_body(Seat seat) {
  ncclComm_t comm = sit(seat), child = NULL;
  int out = 1, rank = seat.rank, left = seat.ranks - 1, wrong = 9;
  is_sound(comm, rank, seat.ranks);
  board_add(board, 20 + way);
  if (rank == out) {
    /* Who polls hears of a death at once. */
    board_wait(board, 20 + way, seat.ranks);
    board_add(board, way);
    if (way == KILLED || way == KILLED_IN_CALL) raise(SIGKILL);
    if (way == WELCOME) is_sound(comm, rank, seat.ranks);
    if (way == IN_FLIGHT) board_wait(board, 10, left);
    GOOD((way == IN_FLIGHT || way == REVOKED ? ncclCommAbort : ncclCommDestroy)(comm));
    return;
  }
  CHECK(ncclCommShrink(comm, &wrong, 1, &child, NULL, NCCL_SHRINK_DEFAULT) == ncclInvalidArgument && child == NULL);
  CHECK_SAID("names rank 9, and the communicator has");
  CHECK(ncclCommShrink(comm, &seat.rank, 1, &child, NULL, NCCL_SHRINK_DEFAULT) == ncclInvalidArgument);
  CHECK(ncclCommShrink(comm, &out, 0, &child, NULL, NCCL_SHRINK_DEFAULT) == ncclInvalidArgument);
  CHECK(ncclCommShrink(comm, &out, 1, &child, NULL, 2) == ncclInvalidArgument);
  shoalStream_t stream = NULL;
  int flags = NCCL_SHRINK_DEFAULT;
  board_wait(board, way, 1);
  switch (way) {
    case WELCOME: is_sound(comm, rank, seat.ranks); break;
    case KILLED_IN_CALL:
      while (ncclAllReduce(words, words, 100, ncclInt32, ncclSum, comm, NULL) == ncclSuccess) {
      }
      CHECK_SAID("rank 1");
      CHECK(ncclCommSplit(comm, 0, 0, &child, NULL) == ncclInvalidUsage && child == NULL);
      CHECK_SAID("failed earlier");
      break;
    case IN_FLIGHT:
      GOOD(shoalStreamCreate(&stream));
      GOOD(ncclRecv(words, 1, ncclInt32, out, comm, stream));
      flags = NCCL_SHRINK_ABORT;
      break;
    case REVOKED:
      GOOD(ncclCommRevoke(comm, NCCL_REVOKE_DEFAULT));
      break;
    default: break;
  }
  double start_ms = now_ms();
  GOOD(ncclCommShrink(comm, &out, 1, &child, NULL, flags));
  if (stream != NULL) {
    CHECK(shoalStreamSynchronize(stream) != ncclSuccess);
    GOOD(shoalStreamDestroy(stream));
    board_add(board, 10);
  }
  printf("way %d, rank %d: shrunk after %.0f ms\n", way, rank, now_ms() - start_ms);
  is_sound(child, rank > out ? rank - 1 : rank, left);
  if (way == WELCOME) {
    ncclComm_t again = NULL;
    GOOD(ncclCommShrink(comm, &out, 1, &again, NULL, NCCL_SHRINK_DEFAULT));
    is_sound(again, rank > out ? rank - 1 : rank, left);
    GOOD(ncclCommDestroy(again));
  }
  GOOD((rank == 0 ? ncclCommDestroy : ncclCommAbort)(comm));
  is_sound(child, rank > out ? rank - 1 : rank, left);
  GOOD(ncclCommDestroy(child));
}

static void run_shrink(void) {
  board = board_make();
  for (way = 0; way < WAYS; way++) {
    crew_start(4, shrink_body);
    for (int rank = 0; rank < 4; rank++) {
      crew_join_one(rank, rank == 1 && (way == KILLED || way == KILLED_IN_CALL) ? SIGKILL : 0);
    }
  }
}

/* Revoked on every rank, it is still a parent of all its ranks. */
static void revoked_body(Seat seat) {
  ncclComm_t comm = sit(seat), child = NULL;
  int32_t word = 0;
  if (seat.rank == 0) {
    GOOD(ncclCommRevoke(comm, NCCL_REVOKE_DEFAULT));
  } else {
    /* Rank 1 hears of rank 0, and rank 2 of rank 1. */
    CHECK(ncclRecv(&word, 1, ncclInt32, seat.rank - 1, comm, NULL) == ncclRemoteError);
    CHECK_SAID("revoked");
    CHECK(ncclCommSplit(comm, 0, 0, &child, NULL) == ncclInvalidUsage);
    GOOD(ncclCommRevoke(comm, NCCL_REVOKE_DEFAULT));
  }
  GOOD(ncclCommSplit(comm, 0, -seat.rank, &child, NULL));
  is_sound(child, seat.ranks - 1 - seat.rank, seat.ranks);
  GOOD(ncclCommDestroy(comm));
  GOOD(ncclCommDestroy(child));
}

static void run_revoked(void) { crew_run(3, revoked_body); }

/* Three ranks become five; then again seven, with another rank's id. */
static Desk* desks;

static void show(ncclComm_t comm, ncclUniqueId* id, int desk) {
  ncclUniqueId other;
  GOOD(ncclCommGetUniqueId(comm, id));
  CHECK(ncclCommGetUniqueId(comm, &other) == ncclInvalidUsage);
  desks[desk].id = *id;
  __atomic_store_n(&desks[desk].is_there, 1, __ATOMIC_RELEASE);
}

static ncclUniqueId find(int desk) {
  while (!__atomic_load_n(&desks[desk].is_there, __ATOMIC_ACQUIRE)) sleep_ms(1);
  return desks[desk].id;
}

static void grow_body(Seat seat) {
  ncclComm_t comm = NULL, grown = NULL, again = NULL;
  ncclUniqueId id;
  int rank = seat.rank;
  if (rank < 3) {
    seat.ranks = 3;
    comm = sit(seat);
    CHECK(ncclCommGrow(comm, 3, NULL, -1, &grown, NULL) == ncclInvalidArgument);
    CHECK(ncclCommGrow(comm, 5, NULL, rank, &grown, NULL) == ncclInvalidArgument && grown == NULL);
    if (rank == 1) show(comm, &id, 0);
    GOOD(ncclCommGrow(comm, 5, rank == 1 ? &id : NULL, -1, &grown, NULL));
    GOOD(ncclCommDestroy(comm));
  } else if (rank < 5) {
    id = find(0);
    CHECK(ncclCommGrow(NULL, 5, NULL, rank, &grown, NULL) == ncclInvalidArgument);
    GOOD(ncclCommGrow(NULL, 5, &id, rank, &grown, NULL));
  }
  if (rank < 5) {
    is_sound(grown, rank, 5);
    if (rank == 4) show(grown, &id, 1);
    GOOD(ncclCommGrow(grown, 7, rank == 4 ? &id : NULL, -1, &again, NULL));
    if (rank == 4) {
      ncclUniqueId next;
      GOOD(ncclCommGetUniqueId(grown, &next));
    }
    GOOD(ncclCommDestroy(grown));
  } else {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    id = find(1);
    ncclResult_t result = ncclCommGrow(NULL, 7, &id, rank, &again, &config);
    CHECK(again != NULL && (result == ncclInProgress || result == ncclSuccess) && settled(again) == ncclSuccess);
  }
  is_sound(again, rank, 7);
  GOOD(ncclCommDestroy(again));
}

static void run_grow(void) {
  desks = mmap(NULL, 2 * sizeof *desks, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(desks != MAP_FAILED);
  crew_run(7, grow_body);
}

/* Several ids, as the scalable birth takes them; whoever has none of the roots may go. */
static void scalable_body(Seat seat) {
  ncclComm_t comm = NULL;
  ncclUniqueId ids[3];
  if (seat.rank < 3) {
    GOOD(ncclGetUniqueId(&desks[seat.rank].id));
    __atomic_store_n(&desks[seat.rank].is_there, 1, __ATOMIC_RELEASE);
  }
  for (int i = 0; i < 3; i++) ids[i] = find(i);
  CHECK(ncclCommInitRankScalable(&comm, seat.ranks, seat.rank, 0, ids, NULL) == ncclInvalidArgument);
  CHECK(ncclCommInitRankScalable(&comm, seat.ranks, seat.rank, 3, NULL, NULL) == ncclInvalidArgument);
  GOOD(ncclCommInitRankScalable(&comm, seat.ranks, seat.rank, 3, ids, NULL));
  is_sound(comm, seat.rank, seat.ranks);
  GOOD(ncclCommDestroy(comm));
}

static void run_scalable(void) {
  desks = mmap(NULL, 3 * sizeof *desks, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(desks != MAP_FAILED);
  crew_run(5, scalable_body);
}

/* Nobody else splits: the parent is aborted meanwhile, and all else can still be done. */
static void* split_alone(void* argument) {
  ncclComm_t child = NULL;
  CHECK(ncclCommSplit(argument, 0, 0, &child, NULL) != ncclSuccess && child == NULL);
  CHECK_SAID("abort");
  return NULL;
}

static void cancelled_body(Seat seat) {
  ncclComm_t comm = sit(seat);
  if (seat.rank == 1) {
    board_wait(board, 0, 1);
    GOOD(ncclCommAbort(comm));
    return;
  }
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, split_alone, comm) == 0);
  sleep_ms(100);
  double start_ms = now_ms();
  GOOD(ncclCommAbort(comm));
  CHECK(pthread_join(thread, NULL) == 0);
  CHECK(now_ms() - start_ms < 1000);
  board_add(board, 0);
}

static void run_cancelled(void) {
  board = board_make();
  crew_run(2, cancelled_body);
}

int main(int count, char** arguments) {
  const Case cases[] = {
      {"split", run_split},       {"shrink", run_shrink},       {"revoked", run_revoked}, {"grow", run_grow},
      {"scalable", run_scalable}, {"cancelled", run_cancelled}, {NULL, NULL},
  };
  return crew_main(count, arguments, cases);
}
