/* What a communicator says of itself, what a group would take, and what needs a GPU. */
#include "check.h"
#include "nccl.h"

enum { RANKS = 2 };

static ncclComm_t comms[RANKS];

/* As the initializer of NVIDIA's header leaves it, which names the first three fields only. */
static ncclCommProperties_t blank(void) {
  ncclCommProperties_t made;
  memset(&made, 0, sizeof made);
  made.size = sizeof made;
  made.magic = NCCL_API_MAGIC;
  made.version = NCCL_VERSION_CODE;
  return made;
}

static void properties(void) {
  ncclCommProperties_t of[RANKS];
  for (int rank = 0; rank < RANKS; rank++) {
    of[rank] = blank();
    CHECK(ncclCommQueryProperties(comms[rank], &of[rank]) == ncclSuccess);
    CHECK(of[rank].size == sizeof of[rank] && of[rank].magic == NCCL_API_MAGIC);
    CHECK(of[rank].rank == rank && of[rank].nRanks == RANKS && of[rank].cudaDev == 0);
    CHECK(!of[rank].deviceApiSupport && !of[rank].multimemSupport && of[rank].hostRmaSupport);
    CHECK(of[rank].ginType == NCCL_GIN_TYPE_NONE && of[rank].nLsaTeams == RANKS);
    CHECK(!of[rank].cftSupport && !of[rank].ginSupport[2]);
  }
  CHECK(of[0].commHash == of[1].commHash && of[0].commHash != 0);

  ncclCommProperties_t old = blank();
  old.size = 56;
  old.version = 22907;
  old.commHash = 77;
  CHECK(ncclCommQueryProperties(comms[1], &old) == ncclSuccess);
  CHECK(old.rank == 1 && old.hostRmaSupport && old.commHash == 77);
  old.magic = 0;
  CHECK(ncclCommQueryProperties(comms[1], &old) == ncclInvalidUsage);
  CHECK_SAID("ncclCommQueryProperties: props ");
  CHECK(ncclCommQueryProperties(comms[1], NULL) == ncclInvalidArgument);
  CHECK(ncclCommQueryProperties(NULL, &old) == ncclInvalidArgument);
}

static void teams(void) {
  for (int rank = 0; rank < RANKS; rank++) {
    ncclTeam_t world = ncclTeamWorld(comms[rank]), rail = ncclTeamRail(comms[rank]);
    ncclTeam_t lsa = ncclTeamLsa(comms[rank]);
    CHECK(world.nRanks == RANKS && world.rank == rank && world.stride == 1);
    CHECK(lsa.nRanks == 1 && lsa.rank == 0 && lsa.nRanks * rail.nRanks == world.nRanks);
    for (int other = 0; other < RANKS; other++)
      CHECK(ncclTeamRankToWorld(comms[rank], world, other) == other);
    CHECK(ncclTeamRankToWorld(comms[rank], lsa, 0) == rank);
    CHECK(ncclTeamRankToLsa(comms[rank], lsa, 0) == 0);
  }
  CHECK(ncclTeamWorld(NULL).nRanks == 0);
  CHECK_SAID("ncclTeamWorld: comm is NULL");
  CHECK(ncclLLA2ACalcSlots(4, 100) == 52);
}

static void device(void) {
  void* pointer = NULL;
  CHECK(ncclDevCommCreate(comms[0], NULL, NULL) == ncclInvalidUsage);
  CHECK_SAID("ncclDevCommCreate: ");
  CHECK_SAID("GPU");
  CHECK(ncclGetLsaDevicePointer(NULL, 0, 0, &pointer) == ncclInvalidUsage && pointer == NULL);
  CHECK_SAID("ncclGetLsaDevicePointer: ");
}

static void encryption(void) {
  ncclEncryptionConfig_t config = NCCL_ENCRYPTION_CONFIG_INITIALIZER;
  CHECK(ncclSetEncryption(NULL) == ncclInvalidArgument);
  CHECK(ncclSetEncryption(&config) == ncclSuccess);
  config.mode = NCCL_ENCRYPTION_MODE_PSK;
  config.psk = "key";
  CHECK(ncclSetEncryption(&config) == ncclInvalidUsage);
  CHECK_SAID("ncclSetEncryption: ");
  CHECK_SAID("would not be encrypted");
  config.mode = 9;
  CHECK(ncclSetEncryption(&config) == ncclInvalidArgument);
  CHECK_SAID("config.mode is 9");
  config.magic = 9;
  CHECK(ncclSetEncryption(&config) == ncclInvalidArgument);
}

static float simulated(size_t count) {
  static float in[1 << 16], out[RANKS][1 << 16];
  ncclSimInfo_t info = NCCL_SIM_INFO_INITIALIZER;
  CHECK(ncclGroupStart() == ncclSuccess);
  for (int rank = 0; rank < RANKS; rank++) {
    out[rank][0] = 5;
    CHECK(ncclAllReduce(in, out[rank], count, ncclFloat, ncclSum, comms[rank], NULL) == ncclSuccess);
  }
  CHECK(ncclGroupSimulateEnd(&info) == ncclSuccess);
  CHECK(out[0][0] == 5 && out[1][0] == 5);
  return info.estimatedTime;
}

static void simulation(void) {
  ncclSimInfo_t info = NCCL_SIM_INFO_INITIALIZER;
  float few = simulated(1), many = simulated(1 << 16);
  CHECK(few > 0 && many > few);

  CHECK(ncclGroupSimulateEnd(&info) == ncclInvalidUsage);
  CHECK_SAID("no group is open");
  CHECK(ncclGroupStart() == ncclSuccess);
  CHECK(ncclGroupSimulateEnd(NULL) == ncclInvalidArgument);
  CHECK_SAID("ncclGroupSimulateEnd: simInfo is NULL");
  CHECK(ncclGroupEnd() == ncclInvalidUsage);
  CHECK(ncclGroupStart() == ncclSuccess);
  info.magic = 1;
  CHECK(ncclGroupSimulateEnd(&info) == ncclInvalidArgument);
  CHECK(ncclGroupEnd() == ncclInvalidUsage);
  info.magic = 0x74685283;

  /* An invalid call of the group is told; what was simulated leaves no trace. */
  CHECK(ncclGroupStart() == ncclSuccess);
  CHECK(ncclSend(NULL, 1, ncclInt8, 0, comms[0], NULL) == ncclInvalidArgument);
  CHECK(ncclGroupSimulateEnd(&info) == ncclInvalidArgument);
  CHECK(ncclGroupStart() == ncclSuccess);
  CHECK(ncclGroupStart() == ncclSuccess);
  CHECK(ncclGroupSimulateEnd(&info) == ncclSuccess && info.estimatedTime == -1.0f);
  CHECK(ncclGroupEnd() == ncclSuccess);
}

int main(void) {
  alarm(WATCHDOG_SECONDS);
  CHECK(ncclCommInitAll(comms, RANKS, NULL) == ncclSuccess);
  properties();
  teams();
  device();
  encryption();
  simulation();
  for (int rank = 0; rank < RANKS; rank++) CHECK(ncclCommDestroy(comms[rank]) == ncclSuccess);
  return 0;
}
