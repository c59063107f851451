/* Prints what a header says, so that two headers can be compared line by line. HEADER names the one. */
#include HEADER
#ifdef HOST_HEADER
#include HOST_HEADER
#endif

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define NUMBER(value) printf("%s %lld\n", #value, (long long)(value))
#define SIZE(type) printf("sizeof %s %zu\n", #type, sizeof(type))
#define FIELD(type, field) \
  printf("%s.%s %zu %zu\n", #type, #field, offsetof(type, field), sizeof(((type*)0)->field))
/* The bytes of an initializer. Its padding is cleared first. */
#define INITIAL(type, initializer)                                         \
  do {                                                                     \
    static const type value = initializer;                                 \
    const unsigned char* bytes = (const unsigned char*)&value;             \
    size_t index;                                                          \
    printf("%s ", #initializer);                                           \
    for (index = 0; index < sizeof value; index++) printf("%02x", bytes[index]); \
    printf("\n");                                                          \
  } while (0)

static void numbers(void) {
  NUMBER(NCCL_MAJOR); NUMBER(NCCL_MINOR); NUMBER(NCCL_PATCH); NUMBER(NCCL_VERSION_CODE);
  NUMBER(sizeof NCCL_SUFFIX); NUMBER(NCCL_VERSION(2, 8, 1)); NUMBER(NCCL_VERSION(2, 9, 1));
  NUMBER(NCCL_VERSION(3, 1, 1)); NUMBER(NCCL_COMM_NULL); NUMBER(NCCL_UNIQUE_ID_BYTES);
  NUMBER(ncclSuccess); NUMBER(ncclUnhandledCudaError); NUMBER(ncclSystemError); NUMBER(ncclInternalError);
  NUMBER(ncclInvalidArgument); NUMBER(ncclInvalidUsage); NUMBER(ncclRemoteError); NUMBER(ncclInProgress);
  NUMBER(ncclTimeout); NUMBER(ncclNumResults);
  NUMBER(ncclInt8); NUMBER(ncclChar); NUMBER(ncclUint8); NUMBER(ncclInt32); NUMBER(ncclInt);
  NUMBER(ncclUint32); NUMBER(ncclInt64); NUMBER(ncclUint64); NUMBER(ncclFloat16); NUMBER(ncclHalf);
  NUMBER(ncclFloat32); NUMBER(ncclFloat); NUMBER(ncclFloat64); NUMBER(ncclDouble); NUMBER(ncclBfloat16);
  NUMBER(ncclFloat8e4m3); NUMBER(ncclFloat8e5m2); NUMBER(ncclNumTypes);
  NUMBER(ncclNumOps_dummy); NUMBER(ncclSum); NUMBER(ncclProd); NUMBER(ncclMax); NUMBER(ncclMin);
  NUMBER(ncclAvg); NUMBER(ncclNumOps); NUMBER(ncclMaxRedOp);
  NUMBER(ncclScalarDevice); NUMBER(ncclScalarHostImmediate);
  NUMBER(ncclStatGpuMemSuspend); NUMBER(ncclStatGpuMemSuspended); NUMBER(ncclStatGpuMemPersist);
  NUMBER(ncclStatGpuMemTotal); NUMBER(NCCL_ENCRYPTION_MODE_NONE); NUMBER(NCCL_ENCRYPTION_MODE_PSK);
  NUMBER(NCCL_CONFIG_UNDEF_INT); NUMBER(NCCL_CONFIG_UNDEF_PTR); NUMBER(NCCL_UNDEF_FLOAT * 8);
  NUMBER(NCCL_API_MAGIC); NUMBER(NCCL_SPLIT_NOCOLOR); NUMBER(NCCL_SHRINK_DEFAULT);
  NUMBER(NCCL_SHRINK_ABORT); NUMBER(NCCL_REVOKE_DEFAULT); NUMBER(NCCL_SUSPEND_MEM);
  NUMBER(NCCL_WIN_DEFAULT); NUMBER(NCCL_WIN_COLL_SYMMETRIC); NUMBER(NCCL_WIN_STRICT_ORDERING);
  NUMBER(NCCL_WIN_GIN_ONLY); NUMBER(NCCL_WIN_CFT_COUNTED); NUMBER(NCCL_WIN_REQUIRED_ALIGNMENT);
  NUMBER(NCCL_CTA_POLICY_DEFAULT); NUMBER(NCCL_CTA_POLICY_EFFICIENCY); NUMBER(NCCL_CTA_POLICY_ZERO);
  NUMBER(ncclHostCftDefault); NUMBER(ncclHostCftEnable); NUMBER(ncclHostCftDisable);
  NUMBER(ncclHostCftFallback);
  NUMBER(ncclNvlsHostModeDefault); NUMBER(ncclNvlsHostModeEnable); NUMBER(ncclNvlsHostModeDisableTransport);
  NUMBER(ncclNvlsHostModeDisableSymmetricMultimem); NUMBER(ncclNvlsHostModeDisable);
}

static void sizes(void) {
  SIZE(ncclComm_t); SIZE(ncclWindow_t); SIZE(ncclParamHandle_t); SIZE(ncclUniqueId); SIZE(ncclResult_t);
  SIZE(ncclDataType_t); SIZE(ncclRedOp_t); SIZE(ncclRedOp_dummy_t); SIZE(ncclScalarResidence_t);
  SIZE(ncclCommMemStat_t); SIZE(ncclEncryptionMode_t); SIZE(ncclHostCftMode_t); SIZE(ncclNvlsHostMode_t);
  SIZE(ncclConfig_t); SIZE(struct ncclConfig_v23100); SIZE(ncclConfigExt_t); SIZE(struct ncclConfigExt);
  SIZE(ncclCollConfig_t); SIZE(struct ncclCollConfig_v23200); SIZE(ncclSimInfo_t);
  SIZE(struct ncclSimInfo_v22200); SIZE(ncclEncryptionConfig_t); SIZE(struct ncclEncryptionConfig_v23200);
  SIZE(ncclWaitSignalDesc_t);
}

static void fields(void) {
  FIELD(ncclUniqueId, internal);
  FIELD(ncclConfig_t, size); FIELD(ncclConfig_t, magic); FIELD(ncclConfig_t, version);
  FIELD(ncclConfig_t, blocking); FIELD(ncclConfig_t, cgaClusterSize); FIELD(ncclConfig_t, minCTAs);
  FIELD(ncclConfig_t, maxCTAs); FIELD(ncclConfig_t, netName); FIELD(ncclConfig_t, splitShare);
  FIELD(ncclConfig_t, trafficClass); FIELD(ncclConfig_t, commName); FIELD(ncclConfig_t, collnetEnable);
  FIELD(ncclConfig_t, CTAPolicy); FIELD(ncclConfig_t, shrinkShare); FIELD(ncclConfig_t, nvlsCTAs);
  FIELD(ncclConfig_t, nChannelsPerNetPeer); FIELD(ncclConfig_t, nvlinkCentricSched);
  FIELD(ncclConfig_t, graphUsageMode); FIELD(ncclConfig_t, numRmaCtx); FIELD(ncclConfig_t, maxP2pPeers);
  FIELD(ncclConfig_t, graphStreamOrdering); FIELD(ncclConfig_t, launchOrderImplicit);
  FIELD(ncclConfig_t, numRmaSig); FIELD(ncclConfig_t, rmaEagerInit); FIELD(ncclConfig_t, hostCftMode);
  FIELD(ncclConfig_t, nvlsHostMode);
  FIELD(ncclConfigExt_t, next); FIELD(ncclConfigExt_t, key.vendorId); FIELD(ncclConfigExt_t, key.optionId);
  FIELD(ncclConfigExt_t, val.i); FIELD(ncclConfigExt_t, val.s); FIELD(ncclConfigExt_t, val.raw);
  FIELD(ncclCollConfig_t, size); FIELD(ncclCollConfig_t, magic); FIELD(ncclCollConfig_t, version);
  FIELD(ncclCollConfig_t, ext); FIELD(ncclCollConfig_t, minCTAs); FIELD(ncclCollConfig_t, maxCTAs);
  FIELD(ncclCollConfig_t, nvlsCTAs); FIELD(ncclCollConfig_t, cgaClusterSize);
  FIELD(ncclCollConfig_t, algSelection); FIELD(ncclCollConfig_t, forceAlgSelection);
  FIELD(ncclCollConfig_t, CTAPolicy); FIELD(ncclCollConfig_t, userProfilerTag);
  FIELD(ncclCollConfig_t, launchCompletionEvent);
  FIELD(ncclSimInfo_t, size); FIELD(ncclSimInfo_t, magic); FIELD(ncclSimInfo_t, version);
  FIELD(ncclSimInfo_t, estimatedTime);
  FIELD(ncclEncryptionConfig_t, size); FIELD(ncclEncryptionConfig_t, magic);
  FIELD(ncclEncryptionConfig_t, version); FIELD(ncclEncryptionConfig_t, mode);
  FIELD(ncclEncryptionConfig_t, psk);
  FIELD(ncclWaitSignalDesc_t, opCnt); FIELD(ncclWaitSignalDesc_t, peer); FIELD(ncclWaitSignalDesc_t, sigIdx);
  FIELD(ncclWaitSignalDesc_t, ctx);
}

static void initializers(void) {
  INITIAL(ncclConfig_t, NCCL_CONFIG_INITIALIZER);
  INITIAL(ncclCollConfig_t, NCCL_COLLCONFIG_INITIALIZER);
  INITIAL(ncclSimInfo_t, NCCL_SIM_INFO_INITIALIZER);
  INITIAL(ncclEncryptionConfig_t, NCCL_ENCRYPTION_CONFIG_INITIALIZER);
}

/* The host side of the device API, which the other library keeps in a header of its own. */
static void device(void) {
  NUMBER(NCCL_GIN_CONNECTION_NONE); NUMBER(NCCL_GIN_CONNECTION_FULL); NUMBER(NCCL_GIN_CONNECTION_RAIL);
  NUMBER(NCCL_GIN_CONNECTION_CUSTOM_STRIDE); NUMBER(NCCL_GIN_TYPE_NONE); NUMBER(NCCL_GIN_TYPE_PROXY);
  NUMBER(NCCL_GIN_TYPE_GDAKI); NUMBER(NCCL_GIN_TYPE_GPI); NUMBER(NCCL_GIN_TYPE_EFA_GDA);
  NUMBER(NCCL_GIN_MAX_TYPES); NUMBER(NCCL_CFT_TEAM_FLAT); NUMBER(NCCL_CFT_TEAM_HIER_MULTIMEM);
  NUMBER(NCCL_CFT_TEAM_HIER_LSA);
  SIZE(ncclTeam_t); SIZE(ncclGinType_t); SIZE(ncclGinConnectionType_t); SIZE(ncclCftTeamMode_t);
  SIZE(ncclCommProperties_t); SIZE(ncclCftLeId); SIZE(ncclMultimemHandle_t);
  FIELD(ncclTeam_t, nRanks); FIELD(ncclTeam_t, rank); FIELD(ncclTeam_t, stride);
  FIELD(ncclCommProperties_t, size); FIELD(ncclCommProperties_t, magic);
  FIELD(ncclCommProperties_t, version); FIELD(ncclCommProperties_t, rank);
  FIELD(ncclCommProperties_t, nRanks); FIELD(ncclCommProperties_t, cudaDev);
  FIELD(ncclCommProperties_t, nvmlDev); FIELD(ncclCommProperties_t, deviceApiSupport);
  FIELD(ncclCommProperties_t, multimemSupport); FIELD(ncclCommProperties_t, ginType);
  FIELD(ncclCommProperties_t, nLsaTeams); FIELD(ncclCommProperties_t, hostRmaSupport);
  FIELD(ncclCommProperties_t, railedGinType); FIELD(ncclCommProperties_t, commHash);
  FIELD(ncclCommProperties_t, ginMinStride); FIELD(ncclCommProperties_t, ginConnectionType);
  FIELD(ncclCommProperties_t, ginSupport); FIELD(ncclCommProperties_t, devCommRuntimeVersionSize);
  FIELD(ncclCommProperties_t, cftSupport); FIELD(ncclCommProperties_t, cftMulticastSupport);
  FIELD(ncclCommProperties_t, cftCountedSupport);
}

int main(void) {
  numbers();
  sizes();
  fields();
  initializers();
  device();
  return 0;
}
