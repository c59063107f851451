/* What the library answers with no communicator at all: numbers, words, NULL. */
#include "check.h"
#include "nccl.h"
#include "shoal.h"

static void strings(void) {
  const char* const words[] = {
      "no error",
      "unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
      "unhandled system error (run with NCCL_DEBUG=INFO for details)",
      "internal error - please report this issue to the NCCL developers",
      "invalid argument (run with NCCL_DEBUG=WARN for details)",
      "invalid usage (run with NCCL_DEBUG=WARN for details)",
      "remote process exited or there was a network error",
      "NCCL operation in progress",
      "timeout",
      "unknown result code",
  };
  for (int code = 0; code < 10; code++) CHECK(!strcmp(ncclGetErrorString((ncclResult_t)code), words[code]));
  CHECK(!strcmp(ncclGetErrorString((ncclResult_t)-1), "unknown result code"));
  CHECK(!strcmp(ncclGetErrorString((ncclResult_t)12345), "unknown result code"));
}

static void information(void) {
  int version = 0;
  CHECK(!strcmp(ncclGetLastError(NULL), ""));
  CHECK(ncclGetVersion(&version) == ncclSuccess && version >= 22809);
  CHECK(pncclGetVersion(&version) == ncclSuccess);
  CHECK(!strcmp(ncclGetLastError(NULL), ""));
  CHECK(ncclGetVersion(NULL) == ncclInvalidArgument);
  CHECK_SAID("ncclGetVersion: version is NULL; ");
  ncclResetDebugInit();
  ncclResetDebugInitInternal();
  ncclParamDumpAll();
}

static void communicators(void) {
  int number = 7;
  ncclResult_t result = ncclSuccess;
  char buffer[64];
  ncclComm_t foreign = (ncclComm_t)(void*)buffer;
  ncclUniqueId id;
  ncclComm_t comm = foreign;
  memset(&id, 0, sizeof id);

  CHECK(ncclCommFinalize(NULL) == ncclSuccess);
  CHECK(ncclCommDestroy(NULL) == ncclSuccess);
  CHECK(ncclCommAbort(NULL) == ncclSuccess);
  CHECK(ncclCommCount(NULL, &number) == ncclInvalidArgument);
  CHECK_SAID("ncclCommCount: comm is NULL; ");
  CHECK(ncclCommCuDevice(NULL, &number) == ncclInvalidArgument);
  CHECK(ncclCommUserRank(NULL, &number) == ncclInvalidArgument);
  CHECK(ncclCommGetAsyncError(NULL, &result) == ncclInvalidArgument);
  CHECK(number == 7);

  /* Memory that is no communicator is not looked into. */
  CHECK(ncclCommCount(foreign, &number) == ncclInvalidArgument);
  CHECK_SAID("is no communicator of this library");
  CHECK(ncclCommDestroy(foreign) == ncclInvalidArgument);
  CHECK(ncclCommAbort((ncclComm_t)16) == ncclInvalidArgument);
  CHECK(ncclCommFinalize((ncclComm_t)-1) == ncclInvalidArgument);
  CHECK(ncclAllReduce(buffer, buffer, 1, ncclInt8, ncclSum, foreign, NULL) == ncclInvalidArgument);
  CHECK_SAID("ncclAllReduce: comm ");
  CHECK(ncclSend(buffer, 1, ncclInt8, 0, NULL, NULL) == ncclInvalidArgument);
  CHECK_SAID("ncclSend: comm is NULL; ");

  CHECK(ncclGetUniqueId(NULL) == ncclInvalidArgument);
  CHECK(ncclCommInitRank(NULL, 1, id, 0) == ncclInvalidArgument);
  CHECK(ncclCommInitRank(&comm, 0, id, 0) == ncclInvalidArgument && comm == NULL);
  CHECK_SAID("ncclCommInitRank: nranks is 0; ");
  CHECK(ncclCommInitRank(&comm, 2, id, 2) == ncclInvalidArgument);
  CHECK_SAID("ncclCommInitRank: rank is 2, with nranks 2; ");
  CHECK(ncclCommInitRank(&comm, 2, id, -1) == ncclInvalidArgument);
  CHECK(ncclCommInitAll(NULL, 1, NULL) == ncclInvalidArgument);
  CHECK(ncclCommInitAll(&comm, -1, NULL) == ncclInvalidArgument);
}

static void children(void) {
  ncclUniqueId id;
  ncclComm_t comm = (ncclComm_t)16, foreign = (ncclComm_t)16;
  int excluded = 0;
  memset(&id, 0, sizeof id);
  CHECK(ncclCommSplit(NULL, 0, 0, NULL, NULL) == ncclInvalidArgument);
  CHECK_SAID("ncclCommSplit: newcomm is NULL; ");
  CHECK(ncclCommSplit(NULL, 0, 0, &comm, NULL) == ncclInvalidArgument && comm == NULL);
  CHECK_SAID("ncclCommSplit: comm is NULL; ");
  CHECK(ncclCommSplit(foreign, 0, 0, &comm, NULL) == ncclInvalidArgument);
  CHECK_SAID("ncclCommSplit: comm 0x10 is no communicator of this library; ");
  CHECK(ncclCommShrink(NULL, &excluded, 1, &comm, NULL, NCCL_SHRINK_DEFAULT) == ncclInvalidArgument);
  CHECK_SAID("ncclCommShrink: comm is NULL; ");
  CHECK(ncclCommGetUniqueId(NULL, &id) == ncclInvalidArgument);
  CHECK_SAID("ncclCommGetUniqueId: comm is NULL; ");
  CHECK(ncclCommGetUniqueId(foreign, NULL) == ncclInvalidArgument);
  CHECK(ncclCommGrow(NULL, 2, NULL, 1, &comm, NULL) == ncclInvalidArgument);
  CHECK_SAID("ncclCommGrow: uniqueId is NULL; ");
  CHECK(ncclCommGrow(NULL, 2, &id, -1, &comm, NULL) == ncclInvalidArgument);
  CHECK(ncclCommGrow(NULL, 2, &id, 1, &comm, NULL) == ncclInvalidArgument && comm == NULL);
  CHECK(ncclCommGrow(foreign, 2, &id, -1, &comm, NULL) == ncclInvalidArgument);
  CHECK(ncclCommRevoke(foreign, NCCL_REVOKE_DEFAULT) == ncclInvalidArgument);
  CHECK(ncclCommRevoke(NULL, NCCL_REVOKE_DEFAULT) == ncclInvalidArgument);
}

static void configurations(void) {
  ncclUniqueId id;
  ncclComm_t comm = (ncclComm_t)16;
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  memset(&id, 0, sizeof id);
  config.magic = 1;
  CHECK(ncclCommInitRankConfig(&comm, 1, id, 0, &config) == ncclInvalidArgument && comm == NULL);
  CHECK_SAID("magic 0x1");
  config.magic = NCCL_API_MAGIC;
  config.blocking = 2;
  CHECK(ncclCommInitRankConfig(&comm, 1, id, 0, &config) == ncclInvalidArgument);
  CHECK_SAID("config.blocking is 2");
  config.size = 15;
  CHECK(ncclCommInitRankConfig(&comm, 1, id, 0, &config) == ncclInvalidArgument);
  CHECK_SAID("15 bytes");
}

static void memory(void) {
  void* block = &block;
  CHECK(ncclMemAlloc(NULL, 8) == ncclInvalidArgument);
  CHECK(ncclMemAlloc(&block, 0) == ncclSuccess && block == NULL);
  CHECK(ncclMemFree(NULL) == ncclSuccess);
  CHECK(ncclMemAlloc(&block, 100000) == ncclSuccess && block != NULL);
  memset(block, 1, 100000);
  CHECK(ncclMemFree(block) == ncclSuccess);
  CHECK(ncclMemFree(&block) == ncclInvalidArgument);
}

static void streams(void) {
  CHECK(shoalStreamCreate(NULL) == ncclInvalidArgument);
  CHECK(shoalStreamSynchronize(NULL) == ncclSuccess);
  CHECK(shoalStreamQuery(NULL) == ncclSuccess);
  CHECK(shoalStreamDestroy(NULL) == ncclSuccess);
}

static void unbuilt(void) {
  ncclTeam_t team = ncclTeamWorld(NULL);
  uint64_t value = 3;
  CHECK(pncclCommMemStats(NULL, ncclStatGpuMemTotal, &value) == ncclInvalidUsage && value == 3);
  CHECK_SAID("ncclCommMemStats is not built yet");
  CHECK(ncclAllReduceConfig(NULL, NULL, 0, ncclInt8, ncclSum, NULL, NULL, NULL) == ncclInvalidUsage);
  CHECK(team.nRanks == 0 && team.rank == 0 && team.stride == 0);
  CHECK(ncclLLA2ACalcSlots(4, 4) == 0);
}

int main(void) {
  alarm(WATCHDOG_SECONDS);
  information();
  strings();
  communicators();
  children();
  configurations();
  memory();
  streams();
  unbuilt();
  return 0;
}
