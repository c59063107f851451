/* The numbers and layouts that compiled programs rely on, in both languages; there is nothing to run. */
#include "nccl.h"
#include "shoal.h"

#include <stddef.h>

/* C99 has no static assertion; an array of size -1 is one. */
#define JOIN_(left, right) left##right
#define JOIN(left, right) JOIN_(left, right)
#define HOLDS(truth) extern char JOIN(holds_in_line_, __LINE__)[(truth) ? 1 : -1]
#define AT(type, field, offset) HOLDS(offsetof(type, field) == (offset))

HOLDS(sizeof(void*) == 8);
HOLDS(sizeof(int) == 4);

HOLDS(NCCL_VERSION_CODE == NCCL_VERSION(2, 32, 3));
HOLDS(NCCL_VERSION(2, 8, 3) == 2803);
HOLDS(NCCL_MAJOR == 2 && NCCL_MINOR == 32 && NCCL_PATCH == 3);

HOLDS(sizeof(ncclUniqueId) == 128 && sizeof(ncclUniqueId) == NCCL_UNIQUE_ID_BYTES);
HOLDS(sizeof(ncclComm_t) == 8 && sizeof(cudaStream_t) == 8 && sizeof(shoalStream_t) == 8);
HOLDS(sizeof(ncclResult_t) == 4 && sizeof(ncclDataType_t) == 4 && sizeof(ncclRedOp_t) == 4);
HOLDS(sizeof(ncclScalarResidence_t) == 4 && sizeof(ncclCommMemStat_t) == 4);

HOLDS(ncclSuccess == 0 && ncclUnhandledCudaError == 1 && ncclSystemError == 2 && ncclInternalError == 3);
HOLDS(ncclInvalidArgument == 4 && ncclInvalidUsage == 5 && ncclRemoteError == 6 && ncclInProgress == 7);
HOLDS(ncclTimeout == 8 && ncclNumResults == 9);
HOLDS(ncclInt8 == 0 && ncclChar == 0 && ncclUint8 == 1 && ncclInt32 == 2 && ncclInt == 2 && ncclUint32 == 3);
HOLDS(ncclInt64 == 4 && ncclUint64 == 5 && ncclFloat16 == 6 && ncclHalf == 6 && ncclFloat32 == 7);
HOLDS(ncclFloat == 7 && ncclFloat64 == 8 && ncclDouble == 8 && ncclBfloat16 == 9 && ncclFloat8e4m3 == 10);
HOLDS(ncclFloat8e5m2 == 11 && ncclNumTypes == 12);
HOLDS(ncclSum == 0 && ncclProd == 1 && ncclMax == 2 && ncclMin == 3 && ncclAvg == 4 && ncclNumOps == 5);
HOLDS(ncclMaxRedOp == 0x7fffffff);
HOLDS(ncclScalarDevice == 0 && ncclScalarHostImmediate == 1);
HOLDS(ncclStatGpuMemSuspend == 0 && ncclStatGpuMemSuspended == 1);
HOLDS(ncclStatGpuMemPersist == 2 && ncclStatGpuMemTotal == 3);
HOLDS(NCCL_CONFIG_UNDEF_INT == INT_MIN && NCCL_API_MAGIC == 0xcafebeef);
HOLDS(NCCL_WIN_DEFAULT == 0 && NCCL_WIN_COLL_SYMMETRIC == 1 && NCCL_WIN_STRICT_ORDERING == 2);
HOLDS(NCCL_WIN_REQUIRED_ALIGNMENT == 4096);
HOLDS(NCCL_CTA_POLICY_DEFAULT == 0 && NCCL_CTA_POLICY_EFFICIENCY == 1 && NCCL_CTA_POLICY_ZERO == 2);
HOLDS(NCCL_SHRINK_DEFAULT == 0 && NCCL_SHRINK_ABORT == 1 && NCCL_REVOKE_DEFAULT == 0);
HOLDS(NCCL_SPLIT_NOCOLOR == -1 && NCCL_SUSPEND_MEM == 1);

HOLDS(sizeof(ncclConfig_t) == 120);
AT(ncclConfig_t, size, 0);
AT(ncclConfig_t, magic, 8);
AT(ncclConfig_t, version, 12);
AT(ncclConfig_t, blocking, 16);
AT(ncclConfig_t, cgaClusterSize, 20);
AT(ncclConfig_t, minCTAs, 24);
AT(ncclConfig_t, maxCTAs, 28);
AT(ncclConfig_t, netName, 32);
AT(ncclConfig_t, splitShare, 40);
AT(ncclConfig_t, trafficClass, 44);
AT(ncclConfig_t, commName, 48);
AT(ncclConfig_t, collnetEnable, 56);
AT(ncclConfig_t, CTAPolicy, 60);
AT(ncclConfig_t, shrinkShare, 64);
AT(ncclConfig_t, nvlsCTAs, 68);
AT(ncclConfig_t, nChannelsPerNetPeer, 72);
AT(ncclConfig_t, nvlinkCentricSched, 76);
AT(ncclConfig_t, graphUsageMode, 80);
AT(ncclConfig_t, numRmaCtx, 84);
AT(ncclConfig_t, maxP2pPeers, 88);
AT(ncclConfig_t, graphStreamOrdering, 92);
AT(ncclConfig_t, launchOrderImplicit, 96);
AT(ncclConfig_t, numRmaSig, 100);
AT(ncclConfig_t, rmaEagerInit, 104);
AT(ncclConfig_t, hostCftMode, 108);
AT(ncclConfig_t, nvlsHostMode, 112);

HOLDS(sizeof(ncclSimInfo_t) == 24);
AT(ncclSimInfo_t, magic, 8);
AT(ncclSimInfo_t, version, 12);
AT(ncclSimInfo_t, estimatedTime, 16);

HOLDS(sizeof(ncclConfigExt_t) == 24);
AT(ncclConfigExt_t, key, 8);
AT(ncclConfigExt_t, val, 16);
HOLDS(sizeof(ncclCollConfig_t) == 72);
AT(ncclCollConfig_t, magic, 8);
AT(ncclCollConfig_t, version, 12);
AT(ncclCollConfig_t, ext, 16);
AT(ncclCollConfig_t, minCTAs, 24);
AT(ncclCollConfig_t, maxCTAs, 28);
AT(ncclCollConfig_t, nvlsCTAs, 32);
AT(ncclCollConfig_t, cgaClusterSize, 36);
AT(ncclCollConfig_t, algSelection, 40);
AT(ncclCollConfig_t, forceAlgSelection, 48);
AT(ncclCollConfig_t, CTAPolicy, 52);
AT(ncclCollConfig_t, userProfilerTag, 56);
AT(ncclCollConfig_t, launchCompletionEvent, 64);

HOLDS(sizeof(ncclEncryptionConfig_t) == 32);
AT(ncclEncryptionConfig_t, mode, 16);
AT(ncclEncryptionConfig_t, psk, 24);
HOLDS(sizeof(ncclWaitSignalDesc_t) == 16);
AT(ncclWaitSignalDesc_t, peer, 4);
AT(ncclWaitSignalDesc_t, sigIdx, 8);
AT(ncclWaitSignalDesc_t, ctx, 12);
HOLDS(sizeof(ncclTeam_t) == 12);
HOLDS(sizeof(ncclCommProperties_t) == 152);

int main(void) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  ncclCollConfig_t coll = NCCL_COLLCONFIG_INITIALIZER;
  ncclSimInfo_t simulation = NCCL_SIM_INFO_INITIALIZER;
  ncclEncryptionConfig_t encryption = NCCL_ENCRYPTION_CONFIG_INITIALIZER;
  return !(config.size == 120 && config.magic == 0xcafebeef && config.version == 23203 &&
           config.blocking == INT_MIN && config.netName == NULL && config.commName == NULL &&
           config.nvlsHostMode == INT_MIN && coll.size == 72 && coll.forceAlgSelection == 1 &&
           simulation.magic == 0x74685283 && encryption.mode == NCCL_ENCRYPTION_MODE_NONE);
}
