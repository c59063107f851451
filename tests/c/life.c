/* One rank alone: what is checked of every call, what a group forgives and what not, what a handle is after
 * its end. */
#include "check.h"
#include "nccl.h"
#include "shoal.h"

static ncclComm_t birth(void) {
  ncclUniqueId id;
  ncclComm_t comm = NULL;
  CHECK(ncclGetUniqueId(&id) == ncclSuccess);
  CHECK(ncclCommInitRank(&comm, 1, id, 0) == ncclSuccess && comm != NULL);
  return comm;
}

static void answers(ncclComm_t comm) {
  int number = -1;
  ncclResult_t state = ncclInternalError;
  CHECK(ncclCommCount(comm, &number) == ncclSuccess && number == 1);
  CHECK(ncclCommUserRank(comm, &number) == ncclSuccess && number == 0);
  CHECK(ncclCommCuDevice(comm, &number) == ncclSuccess && number >= 0);
  CHECK(ncclCommGetAsyncError(comm, &state) == ncclSuccess && state == ncclSuccess);
  CHECK(ncclCommCount(comm, NULL) == ncclInvalidArgument);
  CHECK(ncclCommGetAsyncError(comm, NULL) == ncclInvalidArgument);
}

static void arguments(ncclComm_t comm) {
  float from[4] = {1, 2, 3, 4}, into[4] = {0, 0, 0, 0};
  CHECK(ncclAllReduce(from, into, 4, (ncclDataType_t)12, ncclSum, comm, NULL) == ncclInvalidArgument);
  CHECK_SAID("ncclAllReduce: datatype is 12; ");
  CHECK(ncclAllReduce(from, into, 4, (ncclDataType_t)-1, ncclSum, comm, NULL) == ncclInvalidArgument);
  CHECK(ncclAllReduce(from, into, 4, ncclFloat, (ncclRedOp_t)-1, comm, NULL) == ncclInvalidArgument);
  CHECK(ncclAllReduce(from, into, 4, ncclFloat, (ncclRedOp_t)77, comm, NULL) == ncclInvalidArgument);
  CHECK(ncclReduce(from, into, 4, ncclFloat, ncclSum, 1, comm, NULL) == ncclInvalidArgument);
  CHECK_SAID("ncclReduce: root is 1, and the communicator has 1 ranks; ");
  CHECK(ncclBroadcast(from, into, 4, ncclFloat, -1, comm, NULL) == ncclInvalidArgument);
  CHECK(ncclSend(from, 4, ncclFloat, 1, comm, NULL) == ncclInvalidArgument);
  CHECK_SAID("ncclSend: peer is 1");
  CHECK(ncclRecv(into, 4, ncclFloat, -2, comm, NULL) == ncclInvalidArgument);
  CHECK(ncclAllGather(from, into, (size_t)-1 / 4, ncclFloat, comm, NULL) == ncclInvalidArgument);
  CHECK_SAID("ncclAllGather: count is ");
  CHECK(ncclAllReduce(NULL, into, 4, ncclFloat, ncclSum, comm, NULL) == ncclInvalidArgument);
  CHECK_SAID("ncclAllReduce: sendbuff is NULL");
  CHECK(ncclAllReduce(from, NULL, 4, ncclFloat, ncclSum, comm, NULL) == ncclInvalidArgument);
  CHECK_SAID("ncclAllReduce: recvbuff is NULL");
  CHECK(ncclBcast(NULL, 4, ncclFloat, 0, comm, NULL) == ncclInvalidArgument);
  CHECK_SAID("ncclBcast: buff is NULL");
  CHECK(ncclAllReduce(from, into, 4, ncclFloat, ncclSum, comm, (cudaStream_t)2) == ncclInvalidArgument);
  /* Nothing to do is no reason not to look, nor to ask for memory. */
  CHECK(ncclAllReduce(NULL, NULL, 0, (ncclDataType_t)12, ncclSum, comm, NULL) == ncclInvalidArgument);
  CHECK(ncclAllReduce(NULL, NULL, 0, ncclFloat, ncclSum, comm, NULL) == ncclSuccess);
  CHECK(into[0] == 0);
  CHECK(ncclAllReduce(from, into, 4, ncclFloat, ncclSum, comm, NULL) == ncclSuccess && into[3] == 4);
}

static void operators(ncclComm_t comm) {
  float from[2] = {1, 2}, into[2] = {0, 0}, scalar = 3;
  ncclRedOp_t op = ncclSum;
  CHECK(ncclRedOpCreatePreMulSum(NULL, &scalar, ncclFloat, ncclScalarHostImmediate, comm) ==
        ncclInvalidArgument);
  CHECK(ncclRedOpCreatePreMulSum(&op, NULL, ncclFloat, ncclScalarDevice, comm) == ncclInvalidArgument);
  CHECK(ncclRedOpCreatePreMulSum(&op, &scalar, ncclFloat, (ncclScalarResidence_t)2, comm) ==
        ncclInvalidArgument);
  CHECK(ncclRedOpCreatePreMulSum(&op, &scalar, ncclFloat, ncclScalarHostImmediate, comm) == ncclSuccess);
  CHECK((int)op >= ncclNumOps);
  scalar = 100;
  CHECK(ncclAllReduce(from, into, 2, ncclFloat, op, comm, NULL) == ncclSuccess && into[1] == 6);
  CHECK(ncclAllReduce(from, into, 2, ncclDouble, op, comm, NULL) == ncclInvalidArgument);
  CHECK(ncclRedOpDestroy(op, comm) == ncclSuccess);
  CHECK(ncclRedOpDestroy(op, comm) == ncclInvalidArgument);
  CHECK(ncclRedOpDestroy(ncclSum, comm) == ncclInvalidArgument);
  CHECK(ncclAllReduce(from, into, 2, ncclFloat, op, comm, NULL) == ncclInvalidArgument);
}

static void groups(ncclComm_t comm) {
  float from[2] = {1, 2}, into[2] = {0, 0};
  CHECK(ncclGroupEnd() == ncclInvalidUsage);
  CHECK(ncclGroupStart() == ncclSuccess && ncclGroupStart() == ncclSuccess);
  CHECK(ncclSend(from, 2, ncclFloat, 0, comm, NULL) == ncclSuccess);
  CHECK(ncclGroupEnd() == ncclSuccess);
  CHECK(ncclRecv(into, 2, ncclFloat, 0, comm, NULL) == ncclSuccess && into[1] == 0);
  CHECK(ncclGroupEnd() == ncclSuccess && into[1] == 2);
  CHECK(ncclGroupEnd() == ncclInvalidUsage);

  /* One wrong call, and nothing of the group happens; the next group is another. */
  into[1] = 0;
  CHECK(ncclGroupStart() == ncclSuccess);
  CHECK(ncclAllReduce(from, into, 2, ncclFloat, ncclSum, comm, NULL) == ncclSuccess);
  CHECK(ncclSend(from, 2, ncclFloat, 9, comm, NULL) == ncclInvalidArgument);
  CHECK(ncclGroupEnd() == ncclInvalidArgument && into[1] == 0);
  CHECK_SAID("ncclSend: peer is 9");
  CHECK(ncclGroupEnd() == ncclInvalidUsage);

  CHECK(ncclGroupStart() == ncclSuccess);
  CHECK(ncclAllReduce(from, into, 2, ncclFloat, ncclSum, comm, NULL) == ncclSuccess);
  CHECK(ncclGroupSimulateEnd(NULL) == ncclInvalidArgument && into[1] == 0);
  CHECK(ncclGroupEnd() == ncclInvalidUsage);

  CHECK(ncclAllReduce(from, into, 2, ncclFloat, ncclSum, comm, NULL) == ncclSuccess && into[1] == 2);
}

static void streams(ncclComm_t comm) {
  float from[2] = {1, 2}, into[2] = {0, 0};
  shoalStream_t stream = NULL;
  CHECK(shoalStreamCreate(&stream) == ncclSuccess && stream != NULL);
  CHECK(ncclAllReduce(from, into, 2, ncclFloat, ncclSum, comm, stream) == ncclSuccess);
  CHECK(shoalStreamSynchronize(stream) == ncclSuccess && into[1] == 2);
  CHECK(shoalStreamQuery(stream) == ncclSuccess);
  CHECK(shoalStreamDestroy(stream) == ncclSuccess);
  CHECK(shoalStreamQuery(stream) == ncclInvalidArgument);
  CHECK(ncclAllReduce(from, into, 2, ncclFloat, ncclSum, comm, stream) == ncclInvalidArgument);
}

static void all_in_one_thread(void) {
  ncclComm_t comms[3];
  const int devices[3] = {0, 0, 0};
  int in[3] = {1, 10, 100}, out[3] = {0, 0, 0}, rank;
  CHECK(ncclCommInitAll(comms, 3, devices) == ncclSuccess);
  CHECK(ncclGroupStart() == ncclSuccess);
  for (rank = 0; rank < 3; rank++)
    CHECK(ncclAllReduce(&in[rank], &out[rank], 1, ncclInt, ncclSum, comms[rank], NULL) == ncclSuccess);
  CHECK(ncclGroupEnd() == ncclSuccess);
  for (rank = 0; rank < 3; rank++) CHECK(out[rank] == 111);
  for (rank = 0; rank < 3; rank++) CHECK(ncclCommAbort(comms[rank]) == ncclSuccess);
}

static void ends(ncclComm_t comm) {
  int number;
  CHECK(ncclCommFinalize(comm) == ncclSuccess);
  CHECK(ncclCommCount(comm, &number) == ncclSuccess);
  CHECK(ncclCommDestroy(comm) == ncclSuccess);
  CHECK(ncclCommDestroy(comm) == ncclInvalidArgument);
  CHECK_SAID("was destroyed or aborted");
  CHECK(ncclCommCount(comm, &number) == ncclInvalidArgument);
  CHECK(ncclAllReduce(&number, &number, 1, ncclInt, ncclSum, comm, NULL) == ncclInvalidArgument);
}

int main(void) {
  ncclComm_t comm, other;
  alarm(WATCHDOG_SECONDS);
  comm = birth();
  answers(comm);
  arguments(comm);
  operators(comm);
  groups(comm);
  streams(comm);
  all_in_one_thread();
  ends(comm);
  other = birth();
  CHECK(other != comm);
  CHECK(ncclCommAbort(other) == ncclSuccess);
  CHECK(ncclCommAbort(other) == ncclInvalidArgument);
  return 0;
}
