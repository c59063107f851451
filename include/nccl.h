/*
 * nccl.h: the C interface of libnccl.so.2, as Shoal provides it.
 *
 * Types, values, layouts and functions are those of NCCL 2.32.3, so a program compiled with this header runs
 * with either library, and one compiled with the other header runs with Shoal. Plain C99 and C++11; nothing
 * else need be installed.
 *
 * Every ncclX is a weak symbol beside a strong twin pncclX of the same type: a profiler defines ncclX itself
 * and calls pncclX. What Shoal does not do answers ncclInvalidUsage, and ncclGetLastError says so.
 */
#ifndef NCCL_H_
#define NCCL_H_

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A stream and an event of the CUDA runtime: its own types if its header came first, else the same types,
 * incomplete. Without a GPU a stream is NULL or a shoalStream_t. */
#if !defined(__CUDA_RUNTIME_H__) && !defined(__DRIVER_TYPES_H__)
typedef struct CUstream_st* cudaStream_t;
typedef struct CUevent_st* cudaEvent_t;
#endif

#define NCCL_MAJOR 2
#define NCCL_MINOR 32
#define NCCL_PATCH 3
#define NCCL_SUFFIX ""
/* The number of a version, as ncclGetVersion reports it; it was formed otherwise up to 2.8. */
#define NCCL_VERSION(major, minor, patch)                                       \
  (((major) <= 2 && (minor) <= 8) ? (major) * 1000 + (minor) * 100 + (patch)    \
                                  : (major) * 10000 + (minor) * 100 + (patch))
#define NCCL_VERSION_CODE 23203

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Handles ---------------------------------------------------------------------------------------- */

/* One rank's end of a communicator. */
typedef struct ncclComm* ncclComm_t;
#define NCCL_COMM_NULL NULL

/* Memory that peers may reach. */
typedef struct ncclWindow_vidmem* ncclWindow_t;

/* A setting of the library. */
typedef struct ncclParamHandle* ncclParamHandle_t;

/* What the ranks of a new communicator share; made by one of them and carried to the others by the program. */
#define NCCL_UNIQUE_ID_BYTES 128
typedef struct {
  char internal[NCCL_UNIQUE_ID_BYTES];
} ncclUniqueId;

/* ---- Numbers ---------------------------------------------------------------------------------------- */

typedef enum {
  ncclSuccess = 0,
  ncclUnhandledCudaError = 1,
  ncclSystemError = 2,
  ncclInternalError = 3,
  ncclInvalidArgument = 4,
  ncclInvalidUsage = 5,
  ncclRemoteError = 6,
  ncclInProgress = 7,
  ncclTimeout = 8,
  ncclNumResults = 9
} ncclResult_t;

typedef enum {
  ncclInt8 = 0,
  ncclChar = 0,
  ncclUint8 = 1,
  ncclInt32 = 2,
  ncclInt = 2,
  ncclUint32 = 3,
  ncclInt64 = 4,
  ncclUint64 = 5,
  ncclFloat16 = 6,
  ncclHalf = 6,
  ncclFloat32 = 7,
  ncclFloat = 7,
  ncclFloat64 = 8,
  ncclDouble = 8,
  ncclBfloat16 = 9,
  ncclFloat8e4m3 = 10,
  ncclFloat8e5m2 = 11,
  ncclNumTypes = 12
} ncclDataType_t;

/* From ncclNumOps on: operators made by ncclRedOpCreatePreMulSum. */
typedef enum { ncclNumOps_dummy = 5 } ncclRedOp_dummy_t;
typedef enum {
  ncclSum = 0,
  ncclProd = 1,
  ncclMax = 2,
  ncclMin = 3,
  ncclAvg = 4,
  ncclNumOps = 5,
  ncclMaxRedOp = 0x7fffffff
} ncclRedOp_t;

/* Where a scalar lies: read when the operation runs, or before the call that names it returns. */
typedef enum { ncclScalarDevice = 0, ncclScalarHostImmediate = 1 } ncclScalarResidence_t;

typedef enum {
  ncclStatGpuMemSuspend = 0,
  ncclStatGpuMemSuspended = 1,
  ncclStatGpuMemPersist = 2,
  ncclStatGpuMemTotal = 3
} ncclCommMemStat_t;

typedef enum { NCCL_ENCRYPTION_MODE_NONE = 0, NCCL_ENCRYPTION_MODE_PSK = 1 } ncclEncryptionMode_t;

/* Fields of structures that were not set. */
#define NCCL_CONFIG_UNDEF_INT INT_MIN
#define NCCL_CONFIG_UNDEF_PTR NULL
#define NCCL_UNDEF_FLOAT -1.0f
/* Marks a structure that went through its initializer. */
#define NCCL_API_MAGIC 0xcafebeef

/* Color of a rank that takes part in a split and gets no communicator. */
#define NCCL_SPLIT_NOCOLOR -1
/* ncclCommShrink: as it stands, or after ending what runs on the parent. */
#define NCCL_SHRINK_DEFAULT 0x00
#define NCCL_SHRINK_ABORT 0x01
/* ncclCommRevoke. */
#define NCCL_REVOKE_DEFAULT 0x00
/* ncclCommSuspend. */
#define NCCL_SUSPEND_MEM 0x01
/* ncclCommWindowRegister. */
#define NCCL_WIN_DEFAULT 0x00
#define NCCL_WIN_COLL_SYMMETRIC 0x01
#define NCCL_WIN_STRICT_ORDERING 0x02
#define NCCL_WIN_GIN_ONLY 0x04
#define NCCL_WIN_CFT_COUNTED 0x08
#define NCCL_WIN_REQUIRED_ALIGNMENT 4096
/* ncclConfig_t.CTAPolicy. */
#define NCCL_CTA_POLICY_DEFAULT 0x00
#define NCCL_CTA_POLICY_EFFICIENCY 0x01
#define NCCL_CTA_POLICY_ZERO 0x02

typedef enum {
  ncclHostCftDefault = NCCL_CONFIG_UNDEF_INT,
  ncclHostCftEnable = 1,
  ncclHostCftDisable = 2,
  ncclHostCftFallback = 3
} ncclHostCftMode_t;

typedef enum {
  ncclNvlsHostModeDefault = NCCL_CONFIG_UNDEF_INT,
  ncclNvlsHostModeEnable = 0,
  ncclNvlsHostModeDisableTransport = 1,
  ncclNvlsHostModeDisableSymmetricMultimem = 2,
  ncclNvlsHostModeDisable = INT_MAX
} ncclNvlsHostMode_t;

/* ---- Structures: start from the initializer, then set what you want otherwise ----------------------- */

/* How a communicator shall be. Shoal takes commName, checks the rest, and tunes itself. */
typedef struct ncclConfig_v23100 {
  size_t size;
  unsigned int magic;
  unsigned int version;
  int blocking;
  int cgaClusterSize;
  int minCTAs;
  int maxCTAs;
  const char* netName;
  int splitShare;
  int trafficClass;
  const char* commName;
  int collnetEnable;
  int CTAPolicy;
  int shrinkShare;
  int nvlsCTAs;
  int nChannelsPerNetPeer;
  int nvlinkCentricSched;
  int graphUsageMode;
  int numRmaCtx;
  int maxP2pPeers;
  int graphStreamOrdering;
  int launchOrderImplicit;
  int numRmaSig;
  int rmaEagerInit;
  int hostCftMode;
  int nvlsHostMode;
} ncclConfig_t;

#define NCCL_CONFIG_INITIALIZER                                                                              \
  {                                                                                                          \
    sizeof(ncclConfig_t), NCCL_API_MAGIC, NCCL_VERSION_CODE,                                                 \
    NCCL_CONFIG_UNDEF_INT /* blocking */, NCCL_CONFIG_UNDEF_INT /* cgaClusterSize */,                        \
    NCCL_CONFIG_UNDEF_INT /* minCTAs */, NCCL_CONFIG_UNDEF_INT /* maxCTAs */,                                \
    NCCL_CONFIG_UNDEF_PTR /* netName */, NCCL_CONFIG_UNDEF_INT /* splitShare */,                             \
    NCCL_CONFIG_UNDEF_INT /* trafficClass */, NCCL_CONFIG_UNDEF_PTR /* commName */,                          \
    NCCL_CONFIG_UNDEF_INT /* collnetEnable */, NCCL_CONFIG_UNDEF_INT /* CTAPolicy */,                        \
    NCCL_CONFIG_UNDEF_INT /* shrinkShare */, NCCL_CONFIG_UNDEF_INT /* nvlsCTAs */,                           \
    NCCL_CONFIG_UNDEF_INT /* nChannelsPerNetPeer */, NCCL_CONFIG_UNDEF_INT /* nvlinkCentricSched */,         \
    NCCL_CONFIG_UNDEF_INT /* graphUsageMode */, NCCL_CONFIG_UNDEF_INT /* numRmaCtx */,                       \
    NCCL_CONFIG_UNDEF_INT /* maxP2pPeers */, NCCL_CONFIG_UNDEF_INT /* graphStreamOrdering */,                \
    NCCL_CONFIG_UNDEF_INT /* launchOrderImplicit */, NCCL_CONFIG_UNDEF_INT /* numRmaSig */,                  \
    NCCL_CONFIG_UNDEF_INT /* rmaEagerInit */, NCCL_CONFIG_UNDEF_INT /* hostCftMode */,                       \
    NCCL_CONFIG_UNDEF_INT /* nvlsHostMode */                                                                 \
  }

/* One option of one vendor's library, in a list that other libraries pass over. */
typedef struct ncclConfigExt {
  struct ncclConfigExt* next;
  struct {
    int vendorId;
    int optionId;
  } key;
  union {
    int i;
    const char* s;
    void* raw;
  } val;
} ncclConfigExt_t;

/* How one collective shall be. */
typedef struct ncclCollConfig_v23200 {
  size_t size;
  unsigned int magic;
  unsigned int version;
  ncclConfigExt_t* ext;
  int minCTAs;
  int maxCTAs;
  int nvlsCTAs;
  int cgaClusterSize;
  const char* algSelection;
  int forceAlgSelection;
  int CTAPolicy;
  uint64_t userProfilerTag;
  cudaEvent_t launchCompletionEvent;
} ncclCollConfig_t;

#define NCCL_COLLCONFIG_INITIALIZER                                                                          \
  {                                                                                                          \
    sizeof(ncclCollConfig_t), NCCL_API_MAGIC, NCCL_VERSION_CODE, NCCL_CONFIG_UNDEF_PTR /* ext */,            \
    NCCL_CONFIG_UNDEF_INT /* minCTAs */, NCCL_CONFIG_UNDEF_INT /* maxCTAs */,                                \
    NCCL_CONFIG_UNDEF_INT /* nvlsCTAs */, NCCL_CONFIG_UNDEF_INT /* cgaClusterSize */,                        \
    NCCL_CONFIG_UNDEF_PTR /* algSelection */, 1 /* forceAlgSelection */,                                     \
    NCCL_CONFIG_UNDEF_INT /* CTAPolicy */, 0 /* userProfilerTag */,                                          \
    NCCL_CONFIG_UNDEF_PTR /* launchCompletionEvent */                                                        \
  }

/* What a group is estimated to take. */
typedef struct ncclSimInfo_v22200 {
  size_t size;
  unsigned int magic;
  unsigned int version;
  float estimatedTime;
} ncclSimInfo_t;

#define NCCL_SIM_INFO_INITIALIZER { sizeof(ncclSimInfo_t), 0x74685283, NCCL_VERSION_CODE, NCCL_UNDEF_FLOAT }

/* How sockets are encrypted. */
typedef struct ncclEncryptionConfig_v23200 {
  size_t size;
  unsigned int magic;
  unsigned int version;
  int mode;
  const char* psk;
} ncclEncryptionConfig_t;

#define NCCL_ENCRYPTION_CONFIG_INITIALIZER                                                                   \
  {                                                                                                          \
    sizeof(ncclEncryptionConfig_t), NCCL_API_MAGIC, NCCL_VERSION_CODE, NCCL_ENCRYPTION_MODE_NONE,            \
    NCCL_CONFIG_UNDEF_PTR /* psk */                                                                          \
  }

/* How many signals to wait for: from whom, which, in which context. */
typedef struct {
  int opCnt;
  int peer;
  int sigIdx;
  int ctx;
} ncclWaitSignalDesc_t;

/* ---- Functions -------------------------------------------------------------------------------------- */

/* Declares a function and its twin, which cannot come to differ. */
#define SHOAL_TWINS(result, name, arguments) \
  result nccl##name arguments;               \
  result pnccl##name arguments;

/* About the library. GetLastError ignores its argument and never answers NULL. */
SHOAL_TWINS(ncclResult_t, GetVersion, (int* version))
SHOAL_TWINS(const char*, GetErrorString, (ncclResult_t result))
SHOAL_TWINS(const char*, GetLastError, (ncclComm_t comm))
SHOAL_TWINS(void, ResetDebugInit, (void))
void ncclResetDebugInitInternal(void);

/* Birth. All ranks of an id meet; a failed call leaves NULL in *comm. */
SHOAL_TWINS(ncclResult_t, GetUniqueId, (ncclUniqueId* uniqueId))
SHOAL_TWINS(ncclResult_t, CommInitRank, (ncclComm_t* comm, int nranks, ncclUniqueId commId, int rank))
SHOAL_TWINS(ncclResult_t, CommInitRankConfig,
            (ncclComm_t* comm, int nranks, ncclUniqueId commId, int rank, ncclConfig_t* config))
SHOAL_TWINS(ncclResult_t, CommInitRankScalable,
            (ncclComm_t* newcomm, int nranks, int myrank, int nId, ncclUniqueId* commIds, ncclConfig_t* config))
SHOAL_TWINS(ncclResult_t, CommInitAll, (ncclComm_t* comm, int ndev, const int* devlist))
SHOAL_TWINS(ncclResult_t, CommSplit,
            (ncclComm_t comm, int color, int key, ncclComm_t* newcomm, ncclConfig_t* config))
SHOAL_TWINS(ncclResult_t, CommShrink,
            (ncclComm_t comm, int* excludeRanksList, int excludeRanksCount, ncclComm_t* newcomm,
             ncclConfig_t* config, int shrinkFlags))
SHOAL_TWINS(ncclResult_t, CommGetUniqueId, (ncclComm_t comm, ncclUniqueId* uniqueId))
SHOAL_TWINS(ncclResult_t, CommGrow,
            (ncclComm_t comm, int nRanks, const ncclUniqueId* uniqueId, int rank, ncclComm_t* newcomm,
             ncclConfig_t* config))
SHOAL_TWINS(ncclResult_t, SetEncryption, (const ncclEncryptionConfig_t* config))

/* Life and end. Finalize drains; Destroy finalizes if that was not done; Abort stops what runs and may come
 * from another thread. NULL is accepted by these three. */
SHOAL_TWINS(ncclResult_t, CommFinalize, (ncclComm_t comm))
SHOAL_TWINS(ncclResult_t, CommDestroy, (ncclComm_t comm))
SHOAL_TWINS(ncclResult_t, CommAbort, (ncclComm_t comm))
SHOAL_TWINS(ncclResult_t, CommRevoke, (ncclComm_t comm, int revokeFlags))
SHOAL_TWINS(ncclResult_t, CommSuspend, (ncclComm_t comm, int flags))
SHOAL_TWINS(ncclResult_t, CommResume, (ncclComm_t comm))
SHOAL_TWINS(ncclResult_t, CommGetAsyncError, (ncclComm_t comm, ncclResult_t* asyncError))
SHOAL_TWINS(ncclResult_t, CommCount, (const ncclComm_t comm, int* count))
SHOAL_TWINS(ncclResult_t, CommCuDevice, (const ncclComm_t comm, int* device))
SHOAL_TWINS(ncclResult_t, CommUserRank, (const ncclComm_t comm, int* rank))
SHOAL_TWINS(ncclResult_t, CommMemStats, (ncclComm_t comm, ncclCommMemStat_t stat, uint64_t* value))

/* Memory that peers can reach. Without a GPU ncclMemAlloc gives host memory that they can map. */
SHOAL_TWINS(ncclResult_t, MemAlloc, (void** ptr, size_t size))
SHOAL_TWINS(ncclResult_t, MemFree, (void* ptr))
SHOAL_TWINS(ncclResult_t, CommRegister, (const ncclComm_t comm, void* buff, size_t size, void** handle))
SHOAL_TWINS(ncclResult_t, CommDeregister, (const ncclComm_t comm, void* handle))
SHOAL_TWINS(ncclResult_t, CommWindowRegister,
            (ncclComm_t comm, void* buff, size_t size, ncclWindow_t* win, int winFlags))
SHOAL_TWINS(ncclResult_t, CommWindowDeregister, (ncclComm_t comm, ncclWindow_t win))
SHOAL_TWINS(ncclResult_t, WinGetUserPtr, (ncclComm_t comm, ncclWindow_t win, void** outUserPtr))

/* Operators of one communicator: each rank's data times its own scalar, then the sum. */
SHOAL_TWINS(ncclResult_t, RedOpCreatePreMulSum,
            (ncclRedOp_t * op, void* scalar, ncclDataType_t datatype, ncclScalarResidence_t residence,
             ncclComm_t comm))
SHOAL_TWINS(ncclResult_t, RedOpDestroy, (ncclRedOp_t op, ncclComm_t comm))

/* Collectives. Counts are in elements. In place: sendbuff == recvbuff for AllReduce, Reduce and Broadcast;
 * this rank's own slice of the larger buffer for AllGather, ReduceScatter, Gather and Scatter. */
SHOAL_TWINS(ncclResult_t, AllReduce,
            (const void* sendbuff, void* recvbuff, size_t count, ncclDataType_t datatype, ncclRedOp_t op,
             ncclComm_t comm, cudaStream_t stream))
SHOAL_TWINS(ncclResult_t, Reduce,
            (const void* sendbuff, void* recvbuff, size_t count, ncclDataType_t datatype, ncclRedOp_t op,
             int root, ncclComm_t comm, cudaStream_t stream))
SHOAL_TWINS(ncclResult_t, Bcast,
            (void* buff, size_t count, ncclDataType_t datatype, int root, ncclComm_t comm,
             cudaStream_t stream))
SHOAL_TWINS(ncclResult_t, Broadcast,
            (const void* sendbuff, void* recvbuff, size_t count, ncclDataType_t datatype, int root,
             ncclComm_t comm, cudaStream_t stream))
SHOAL_TWINS(ncclResult_t, ReduceScatter,
            (const void* sendbuff, void* recvbuff, size_t recvcount, ncclDataType_t datatype, ncclRedOp_t op,
             ncclComm_t comm, cudaStream_t stream))
SHOAL_TWINS(ncclResult_t, AllGather,
            (const void* sendbuff, void* recvbuff, size_t sendcount, ncclDataType_t datatype, ncclComm_t comm,
             cudaStream_t stream))
SHOAL_TWINS(ncclResult_t, AlltoAll,
            (const void* sendbuff, void* recvbuff, size_t count, ncclDataType_t datatype, ncclComm_t comm,
             cudaStream_t stream))
SHOAL_TWINS(ncclResult_t, Gather,
            (const void* sendbuff, void* recvbuff, size_t count, ncclDataType_t datatype, int root,
             ncclComm_t comm, cudaStream_t stream))
SHOAL_TWINS(ncclResult_t, Scatter,
            (const void* sendbuff, void* recvbuff, size_t count, ncclDataType_t datatype, int root,
             ncclComm_t comm, cudaStream_t stream))

/* The same with wishes for this one call, equal on every rank. */
SHOAL_TWINS(ncclResult_t, AllReduceConfig,
            (const void* sendbuff, void* recvbuff, size_t count, ncclDataType_t datatype, ncclRedOp_t op,
             ncclComm_t comm, cudaStream_t stream, const ncclCollConfig_t* config))
SHOAL_TWINS(ncclResult_t, ReduceConfig,
            (const void* sendbuff, void* recvbuff, size_t count, ncclDataType_t datatype, ncclRedOp_t op,
             int root, ncclComm_t comm, cudaStream_t stream, const ncclCollConfig_t* config))
SHOAL_TWINS(ncclResult_t, BroadcastConfig,
            (const void* sendbuff, void* recvbuff, size_t count, ncclDataType_t datatype, int root,
             ncclComm_t comm, cudaStream_t stream, const ncclCollConfig_t* config))
SHOAL_TWINS(ncclResult_t, ReduceScatterConfig,
            (const void* sendbuff, void* recvbuff, size_t recvcount, ncclDataType_t datatype, ncclRedOp_t op,
             ncclComm_t comm, cudaStream_t stream, const ncclCollConfig_t* config))
SHOAL_TWINS(ncclResult_t, AllGatherConfig,
            (const void* sendbuff, void* recvbuff, size_t sendcount, ncclDataType_t datatype, ncclComm_t comm,
             cudaStream_t stream, const ncclCollConfig_t* config))
SHOAL_TWINS(ncclResult_t, AlltoAllConfig,
            (const void* sendbuff, void* recvbuff, size_t count, ncclDataType_t datatype, ncclComm_t comm,
             cudaStream_t stream, const ncclCollConfig_t* config))
SHOAL_TWINS(ncclResult_t, GatherConfig,
            (const void* sendbuff, void* recvbuff, size_t count, ncclDataType_t datatype, int root,
             ncclComm_t comm, cudaStream_t stream, const ncclCollConfig_t* config))
SHOAL_TWINS(ncclResult_t, ScatterConfig,
            (const void* sendbuff, void* recvbuff, size_t count, ncclDataType_t datatype, int root,
             ncclComm_t comm, cudaStream_t stream, const ncclCollConfig_t* config))

/* Messages between two ranks. Those of one group travel side by side. */
SHOAL_TWINS(ncclResult_t, Send,
            (const void* sendbuff, size_t count, ncclDataType_t datatype, int peer, ncclComm_t comm,
             cudaStream_t stream))
SHOAL_TWINS(ncclResult_t, Recv,
            (void* recvbuff, size_t count, ncclDataType_t datatype, int peer, ncclComm_t comm,
             cudaStream_t stream))
/* One-sided: a put is written into the peer's window without its doing, and then gives a signal; who has seen
 * the signal sees the bytes. sigIdx is 0 to 63, ctx 0 to 15, flags 0. Calls of one context are done in their
 * order; those of different contexts in one group may pass each other. A wait uses up what it waited for. The
 * source of a put may be any memory. Once ncclCommWindowDeregister, ncclCommDestroy or ncclCommAbort has
 * returned, nobody writes the window. */
SHOAL_TWINS(ncclResult_t, PutSignal,
            (const void* localbuff, size_t count, ncclDataType_t datatype, int peer, ncclWindow_t peerWin,
             size_t peerWinOffset, int sigIdx, int ctx, unsigned int flags, ncclComm_t comm,
             cudaStream_t stream))
SHOAL_TWINS(ncclResult_t, Signal,
            (int peer, int sigIdx, int ctx, unsigned int flags, ncclComm_t comm, cudaStream_t stream))
SHOAL_TWINS(ncclResult_t, WaitSignal,
            (int nDesc, ncclWaitSignalDesc_t* signalDescs, ncclComm_t comm, cudaStream_t stream))

/* Groups nest; the outermost end starts everything. */
SHOAL_TWINS(ncclResult_t, GroupStart, (void))
SHOAL_TWINS(ncclResult_t, GroupEnd, (void))
SHOAL_TWINS(ncclResult_t, GroupSimulateEnd, (ncclSimInfo_t * simInfo))

/* Settings, by handle or by name. */
SHOAL_TWINS(ncclResult_t, ParamBind, (ncclParamHandle_t * out, const char* key))
SHOAL_TWINS(ncclResult_t, ParamGetI8, (ncclParamHandle_t h, int8_t* out))
SHOAL_TWINS(ncclResult_t, ParamGetI16, (ncclParamHandle_t h, int16_t* out))
SHOAL_TWINS(ncclResult_t, ParamGetI32, (ncclParamHandle_t h, int32_t* out))
SHOAL_TWINS(ncclResult_t, ParamGetI64, (ncclParamHandle_t h, int64_t* out))
SHOAL_TWINS(ncclResult_t, ParamGetU8, (ncclParamHandle_t h, uint8_t* out))
SHOAL_TWINS(ncclResult_t, ParamGetU16, (ncclParamHandle_t h, uint16_t* out))
SHOAL_TWINS(ncclResult_t, ParamGetU32, (ncclParamHandle_t h, uint32_t* out))
SHOAL_TWINS(ncclResult_t, ParamGetU64, (ncclParamHandle_t h, uint64_t* out))
SHOAL_TWINS(ncclResult_t, ParamGetStr, (ncclParamHandle_t h, const char** out))
SHOAL_TWINS(ncclResult_t, ParamGet, (ncclParamHandle_t h, void* out, int maxLen, int* len))
SHOAL_TWINS(ncclResult_t, ParamGetParameter, (const char* key, const char** value, int* valueLen))
SHOAL_TWINS(ncclResult_t, ParamGetAllParameterKeys, (const char*** table, int* tableLen))
SHOAL_TWINS(void, ParamDumpAll, (void))

/* ---- The host side of the device API, for its symbols: Shoal answers that it has none --------------- */

typedef struct ncclTeam {
  int nRanks, rank, stride;
} ncclTeam_t;

typedef enum {
  NCCL_GIN_CONNECTION_NONE,
  NCCL_GIN_CONNECTION_FULL,
  NCCL_GIN_CONNECTION_RAIL,
  NCCL_GIN_CONNECTION_CUSTOM_STRIDE
} ncclGinConnectionType_t;

typedef enum {
  NCCL_GIN_TYPE_NONE = 0,
  NCCL_GIN_TYPE_PROXY = 2,
  NCCL_GIN_TYPE_GDAKI = 3,
  NCCL_GIN_TYPE_GPI = 4,
  NCCL_GIN_TYPE_EFA_GDA = 5,
  NCCL_GIN_MAX_TYPES = 6
} ncclGinType_t;

typedef enum { NCCL_CFT_TEAM_FLAT, NCCL_CFT_TEAM_HIER_MULTIMEM, NCCL_CFT_TEAM_HIER_LSA } ncclCftTeamMode_t;

/* What a communicator can do; filled as far as the caller's size and version reach. */
typedef struct ncclCommProperties {
  size_t size;
  unsigned int magic;
  unsigned int version;
  int rank;
  int nRanks;
  int cudaDev;
  int nvmlDev;
  bool deviceApiSupport;
  bool multimemSupport;
  ncclGinType_t ginType;
  int nLsaTeams;
  bool hostRmaSupport;
  ncclGinType_t railedGinType;
  uint64_t commHash;
  int ginMinStride;
  ncclGinConnectionType_t ginConnectionType;
  bool ginSupport[64];
  size_t devCommRuntimeVersionSize;
  bool cftSupport;
  bool cftMulticastSupport;
  bool cftCountedSupport;
} ncclCommProperties_t;

#define NCCL_COMM_PROPERTIES_INITIALIZER { sizeof(ncclCommProperties_t), NCCL_API_MAGIC, NCCL_VERSION_CODE, }

typedef uint32_t ncclCftLeId;
typedef ncclCftLeId ncclCftLeId_t;
typedef struct ncclMultimemHandle {
  void* mcBasePtr;
} ncclMultimemHandle_t;

/* These live in kernels and are never looked into here. */
typedef struct ncclDevComm ncclDevComm_t;
typedef struct ncclDevCommRequirements ncclDevCommRequirements_t;
typedef struct ncclDevResourceRequirements ncclDevResourceRequirements_t;
typedef struct ncclLsaBarrierHandle ncclLsaBarrierHandle_t;
typedef struct ncclGinBarrierHandle ncclGinBarrierHandle_t;
typedef struct ncclLLA2AHandle ncclLLA2AHandle_t;
typedef struct ncclGinOutboxHandle ncclGinOutboxHandle_t;
typedef struct ncclGinInboxA2AHandle ncclGinInboxA2AHandle_t;

SHOAL_TWINS(ncclResult_t, CommQueryProperties, (ncclComm_t comm, ncclCommProperties_t* props))
SHOAL_TWINS(ncclResult_t, DevCommCreate,
            (ncclComm_t comm, const ncclDevCommRequirements_t* reqs, ncclDevComm_t* outDevComm))
SHOAL_TWINS(ncclResult_t, DevCommDestroy, (ncclComm_t comm, const ncclDevComm_t* devComm))
SHOAL_TWINS(ncclResult_t, GetLsaMultimemDevicePointer, (ncclWindow_t window, size_t offset, void** outPtr))
SHOAL_TWINS(ncclResult_t, GetMultimemDevicePointer,
            (ncclWindow_t window, size_t offset, ncclMultimemHandle_t multimem, void** outPtr))
SHOAL_TWINS(ncclResult_t, GetLsaDevicePointer,
            (ncclWindow_t window, size_t offset, int lsaRank, void** outPtr))
SHOAL_TWINS(ncclResult_t, GetPeerDevicePointer, (ncclWindow_t window, size_t offset, int peer, void** outPtr))
SHOAL_TWINS(ncclResult_t, GetMultimemDeviceLeInfo,
            (ncclWindow_t window, size_t offset, ncclCftLeId* leId, size_t* leOffset))
SHOAL_TWINS(ncclResult_t, GetCftDeviceLeInfo,
            (ncclWindow_t window, size_t offset, int peerCft, ncclTeam_t cftTeam, ncclCftLeId* leId,
             size_t* leOffset))
SHOAL_TWINS(ncclResult_t, GetPeerDeviceLeInfo,
            (ncclWindow_t window, size_t offset, int peerWorld, ncclCftLeId* leId, size_t* leOffset))
SHOAL_TWINS(ncclTeam_t, TeamWorld, (ncclComm_t comm))
SHOAL_TWINS(ncclTeam_t, TeamLsa, (ncclComm_t comm))
SHOAL_TWINS(ncclTeam_t, TeamRail, (ncclComm_t comm))
#ifdef __cplusplus
SHOAL_TWINS(ncclTeam_t, TeamCft, (ncclComm_t comm, ncclCftTeamMode_t mode = NCCL_CFT_TEAM_FLAT))
#else
SHOAL_TWINS(ncclTeam_t, TeamCft, (ncclComm_t comm, ncclCftTeamMode_t mode))
#endif
SHOAL_TWINS(ncclTeam_t, TeamCftMultimem, (ncclComm_t comm))
SHOAL_TWINS(int, TeamRankToWorld, (ncclComm_t comm, ncclTeam_t team, int rank))
SHOAL_TWINS(int, TeamRankToLsa, (ncclComm_t comm, ncclTeam_t team, int rank))
SHOAL_TWINS(ncclResult_t, LsaBarrierCreateRequirement,
            (ncclTeam_t team, int nBarriers, ncclLsaBarrierHandle_t* outHandle,
             ncclDevResourceRequirements_t* outReq))
SHOAL_TWINS(ncclResult_t, GinBarrierCreateRequirement,
            (ncclComm_t comm, ncclTeam_t team, int nBarriers, ncclGinBarrierHandle_t* outHandle,
             ncclDevResourceRequirements_t* outReq))
SHOAL_TWINS(int, LLA2ACalcSlots, (int maxElts, int maxEltSize))
SHOAL_TWINS(ncclResult_t, LLA2ACreateRequirement,
            (int nBlocks, int nSlots, ncclLLA2AHandle_t* outHandle, ncclDevResourceRequirements_t* outReq))
SHOAL_TWINS(ncclResult_t, GinOutboxCreateRequirement,
            (int nBlocks, int size_log2, ncclGinOutboxHandle_t* outHandle,
             ncclDevResourceRequirements_t* outReq))
SHOAL_TWINS(ncclResult_t, GinInboxA2ACreateRequirement,
            (ncclTeam_t peers, int nBlocks, int size_log2, ncclGinInboxA2AHandle_t* outHandle,
             ncclDevResourceRequirements_t* outReq))

#undef SHOAL_TWINS

#ifdef __cplusplus
}
#endif

#endif
