/* Registered memory and one-sided calls, on the ranks of one process: what is right works, what is wrong is
 * told apart. */
#include "check.h"
#include "nccl.h"
#include "shoal.h"

enum { RANKS = 3, COUNT = 5000 };

static ncclComm_t comms[RANKS];
static int* memory[RANKS];
static ncclWindow_t windows[RANKS];

static void buffers(void) {
  int numbers[4];
  void *first = NULL, *second = NULL;
  CHECK(ncclCommRegister(comms[0], numbers, sizeof numbers, &first) == ncclSuccess && first != NULL);
  CHECK(ncclCommRegister(comms[0], numbers, sizeof numbers, &second) == ncclSuccess && second != first);
  CHECK(ncclCommDeregister(comms[1], first) == ncclInvalidArgument);
  CHECK_SAID("of another communicator");
  CHECK(ncclCommWindowDeregister(comms[0], (ncclWindow_t)first) == ncclInvalidArgument);
  CHECK_SAID("is a registered buffer");
  CHECK(ncclCommDeregister(comms[0], first) == ncclSuccess);
  CHECK(ncclCommDeregister(comms[0], first) == ncclInvalidArgument);
  CHECK_SAID("was deregistered before");
  CHECK(ncclCommDeregister(comms[0], numbers) == ncclInvalidArgument);
  CHECK_SAID("was not made by this library");
  CHECK(ncclCommDeregister(comms[0], NULL) == ncclSuccess);
  CHECK(ncclCommRegister(comms[0], NULL, 4, &first) == ncclInvalidArgument && first == NULL);
  CHECK_SAID("ncclCommRegister: buff is NULL");
  CHECK(ncclCommRegister(comms[0], numbers, 0, &first) == ncclInvalidArgument);
  CHECK(ncclCommRegister(comms[0], numbers, 4, NULL) == ncclInvalidArgument);
  CHECK(ncclCommRegister(NULL, numbers, 4, &first) == ncclInvalidArgument);
  CHECK(ncclCommDeregister(comms[0], second) == ncclSuccess);
}

static void open_all(void) {
  CHECK(ncclGroupStart() == ncclSuccess);
  for (int rank = 0; rank < RANKS; rank++)
    CHECK(ncclCommWindowRegister(comms[rank], memory[rank], COUNT * sizeof(int), &windows[rank],
                                 NCCL_WIN_COLL_SYMMETRIC) == ncclSuccess &&
          windows[rank] == NULL);
  CHECK(ncclGroupEnd() == ncclSuccess);
  for (int rank = 0; rank < RANKS; rank++) {
    void* pointer = NULL;
    CHECK(windows[rank] != NULL);
    CHECK(ncclWinGetUserPtr(comms[rank], windows[rank], &pointer) == ncclSuccess && pointer == memory[rank]);
  }
}

static void close_all(void) {
  for (int rank = 0; rank < RANKS; rank++)
    CHECK(ncclCommWindowDeregister(comms[rank], windows[rank]) == ncclSuccess);
  CHECK(ncclCommWindowDeregister(comms[0], windows[0]) == ncclInvalidArgument);
  CHECK(ncclCommWindowDeregister(comms[0], NULL) == ncclSuccess);
}

/* Every rank puts its block to every rank, itself too, and waits for all. */
static void all_to_all(shoalStream_t* streams) {
  static int mine[RANKS][COUNT];
  ncclWaitSignalDesc_t waits[RANKS];
  const int each = COUNT / RANKS;
  for (int rank = 0; rank < RANKS; rank++) {
    for (int i = 0; i < COUNT; i++) mine[rank][i] = rank * 100000 + i;
    memset(memory[rank], 0xff, COUNT * sizeof(int));
    waits[rank].opCnt = 2;
    waits[rank].peer = rank;
    waits[rank].sigIdx = 3;
    waits[rank].ctx = 2;
  }
  CHECK(ncclGroupStart() == ncclSuccess);
  for (int rank = 0; rank < RANKS; rank++) {
    shoalStream_t stream = streams ? streams[rank] : NULL;
    for (int peer = 0; peer < RANKS; peer++) {
      CHECK(ncclPutSignal(mine[rank] + peer * each, each, ncclInt, peer, windows[rank],
                          rank * each * sizeof(int), 3, 2, 0, comms[rank], stream) == ncclSuccess);
      CHECK(ncclSignal(peer, 3, 2, 0, comms[rank], stream) == ncclSuccess);
    }
  }
  CHECK(ncclGroupEnd() == ncclSuccess);
  CHECK(ncclGroupStart() == ncclSuccess);
  for (int rank = 0; rank < RANKS; rank++)
    CHECK(ncclWaitSignal(RANKS, waits, comms[rank], streams ? streams[rank] : NULL) == ncclSuccess);
  CHECK(ncclGroupEnd() == ncclSuccess);
  for (int rank = 0; rank < RANKS; rank++) {
    if (streams) CHECK(shoalStreamSynchronize(streams[rank]) == ncclSuccess);
    for (int from = 0; from < RANKS; from++)
      for (int i = 0; i < each; i++)
        CHECK(memory[rank][from * each + i] == from * 100000 + rank * each + i);
  }
}

/* A wait in one context does not hold up a signal in another: rank 0 waits for what rank 1 gives only after
 * rank 0's own signal, which stands behind the wait. */
static void contexts(void) {
  ncclWaitSignalDesc_t first = {1, 1, 0, 0}, both[2] = {{1, 1, 0, 0}, {1, 0, 0, 1}};
  CHECK(ncclGroupStart() == ncclSuccess);
  CHECK(ncclWaitSignal(1, &first, comms[0], NULL) == ncclSuccess);
  CHECK(ncclSignal(1, 0, 1, 0, comms[0], NULL) == ncclSuccess);
  CHECK(ncclSignal(1, 0, 0, 0, comms[1], NULL) == ncclSuccess);
  CHECK(ncclWaitSignal(2, both, comms[1], NULL) == ncclSuccess);
  CHECK(ncclSignal(0, 0, 0, 0, comms[1], NULL) == ncclSuccess);
  CHECK(ncclGroupEnd() == ncclSuccess);
}

static void wrong(void) {
  int number = 0;
  ncclWaitSignalDesc_t wait = {1, 0, 0, 0};
  void* pointer = NULL;
  ncclWindow_t none = NULL;
#define PUT(win, count, offset, peer, sig, ctx, flags) \
  ncclPutSignal(&number, count, ncclInt, peer, win, offset, sig, ctx, flags, comms[0], NULL)
  CHECK(PUT(windows[0], 1, COUNT * sizeof(int), 1, 0, 0, 0) == ncclInvalidArgument);
  CHECK_SAID("ncclPutSignal: peerWinOffset is 20000, with 4 bytes to write, and rank 1 registered 20000 bytes");
  CHECK(PUT(windows[0], (size_t)-1, 0, 1, 0, 0, 0) == ncclInvalidArgument);
  CHECK(PUT(windows[0], 1, (size_t)-1, 1, 0, 0, 0) == ncclInvalidArgument);
  CHECK(PUT(windows[0], 1, 0, RANKS, 0, 0, 0) == ncclInvalidArgument);
  CHECK_SAID("ncclPutSignal: peer is 3");
  CHECK(PUT(windows[0], 1, 0, 1, 64, 0, 0) == ncclInvalidArgument);
  CHECK_SAID("ncclPutSignal: sigIdx is 64; pass 0 to 63");
  CHECK(PUT(windows[0], 1, 0, 1, 0, -1, 0) == ncclInvalidArgument);
  CHECK_SAID("ncclPutSignal: ctx is -1; pass 0 to 15");
  CHECK(PUT(windows[0], 1, 0, 1, 0, 0, 1) == ncclInvalidArgument);
  CHECK(PUT(windows[1], 1, 0, 1, 0, 0, 0) == ncclInvalidArgument);
  CHECK_SAID("is a window of another communicator");
  CHECK(PUT(NULL, 1, 0, 1, 0, 0, 0) == ncclInvalidArgument);
  CHECK(ncclPutSignal(NULL, 1, ncclInt, 1, windows[0], 0, 0, 0, 0, comms[0], NULL) == ncclInvalidArgument);
  CHECK(ncclSignal(-1, 0, 0, 0, comms[0], NULL) == ncclInvalidArgument);
  CHECK(ncclWaitSignal(0, &wait, comms[0], NULL) == ncclInvalidArgument);
  CHECK(ncclWaitSignal(-1, &wait, comms[0], NULL) == ncclInvalidArgument);
  CHECK(ncclWaitSignal(1, NULL, comms[0], NULL) == ncclInvalidArgument);
  wait.opCnt = 0;
  CHECK(ncclWaitSignal(1, &wait, comms[0], NULL) == ncclInvalidArgument);
  CHECK_SAID("opCnt of 0");
  CHECK(ncclWinGetUserPtr(comms[0], windows[1], &pointer) == ncclInvalidArgument && pointer == NULL);
  CHECK(ncclWinGetUserPtr(comms[0], NULL, &pointer) == ncclInvalidArgument);
  CHECK(ncclWinGetUserPtr(comms[0], windows[0], NULL) == ncclInvalidArgument);
  CHECK(ncclCommWindowRegister(comms[0], NULL, 4, &none, 0) == ncclInvalidArgument);
  CHECK(ncclCommWindowRegister(comms[0], &number, 4, NULL, 0) == ncclInvalidArgument);
  CHECK(ncclCommWindowRegister(comms[0], &number, 4, &none, 0x100) == ncclInvalidArgument);
#undef PUT
}

/* Memory that is freed while it is a window stays until it is none. */
static void freed_early(void) {
  int number = 77;
  open_all();
  CHECK(ncclMemFree(memory[1]) == ncclSuccess);
  CHECK(ncclPutSignal(&number, 1, ncclInt, 1, windows[0], 0, 0, 0, 0, comms[0], NULL) == ncclSuccess);
  CHECK(memory[1][0] == 77);
  close_all();
}

int main(void) {
  static int ordinary[COUNT];
  shoalStream_t streams[RANKS];
  alarm(WATCHDOG_SECONDS);
  CHECK(ncclCommInitAll(comms, RANKS, NULL) == ncclSuccess);
  buffers();
  memory[0] = ordinary;
  for (int rank = 1; rank < RANKS; rank++)
    CHECK(ncclMemAlloc((void**)&memory[rank], COUNT * sizeof(int)) == ncclSuccess);
  for (int rank = 0; rank < RANKS; rank++) CHECK(shoalStreamCreate(&streams[rank]) == ncclSuccess);
  for (int round = 0; round < 3; round++) {
    open_all();
    all_to_all(NULL);
    all_to_all(streams);
    if (round == 0) wrong();
    close_all();
  }
  freed_early();
  contexts();
  for (int rank = 0; rank < RANKS; rank++) {
    CHECK(shoalStreamDestroy(streams[rank]) == ncclSuccess);
    CHECK(ncclCommDestroy(comms[rank]) == ncclSuccess);
  }
  return 0;
}
