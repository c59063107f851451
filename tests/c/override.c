/* What a profiler does: its own ncclAllReduce in front, the library's behind it as pncclAllReduce. */
#include "check.h"
#include "nccl.h"

static int calls = 0;

ncclResult_t ncclAllReduce(const void* sendbuff, void* recvbuff, size_t count, ncclDataType_t datatype,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  calls++;
  return pncclAllReduce(sendbuff, recvbuff, count, datatype, op, comm, stream);
}

int main(void) {
  int version = 0;
  alarm(WATCHDOG_SECONDS);
  CHECK(ncclAllReduce(NULL, NULL, 0, ncclInt8, ncclSum, NULL, NULL) == ncclInvalidArgument);
  CHECK(calls == 1);
  CHECK_SAID("ncclAllReduce: comm is NULL; ");
  CHECK(pncclAllReduce(NULL, NULL, 0, ncclInt8, ncclSum, NULL, NULL) == ncclInvalidArgument);
  CHECK(calls == 1);
  CHECK(ncclGetVersion(&version) == ncclSuccess && version > 0);
  return 0;
}
