// What every rank has for every other one, in messages of different sizes; and sums of sparse tensors, which need it.
#pragma once

#include "tensors.hpp"

namespace shoal {

// inputs[r] to rank r, outputs[r] from rank r, as one group; tensors that are not defined do not travel.
inline void exchange(ncclComm_t comm, const std::vector<at::Tensor>& inputs, const std::vector<at::Tensor>& outputs) {
  check(library().groupStart(), "ncclGroupStart");
  ncclResult_t result = ncclSuccess;
  for (size_t rank = 0; rank < inputs.size() && result == ncclSuccess; rank++) {
    const auto &in = inputs[rank], &out = outputs[rank];
    if (in.defined() && in.nbytes() > 0)
      result = library().send(in.data_ptr(), in.nbytes(), ncclUint8, int(rank), comm, nullptr);
    if (result == ncclSuccess && out.defined() && out.nbytes() > 0)
      result = library().recv(out.data_ptr(), out.nbytes(), ncclUint8, int(rank), comm, nullptr);
  }
  // The group is closed in any case.
  auto closed = library().groupEnd();
  check(result, "ncclSend or ncclRecv");
  check(closed, "ncclGroupEnd");
}

// The sum of every rank's sparse tensor, in the order of the ranks.
inline at::Tensor sparseSum(ncclComm_t comm, const at::Tensor& tensor, int size) {
  auto mine = tensor.coalesce();
  auto indices = mine._indices().contiguous(), values = mine._values().contiguous();
  auto count = at::full({1}, values.size(0), at::kLong), counts = at::empty({size}, at::kLong);
  check(library().allGather(count.data_ptr(), counts.data_ptr(), 1, ncclInt64, comm, nullptr), "ncclAllGather");
  std::vector<at::Tensor> allIndices, allValues;
  auto shape = values.sizes().vec();
  for (int rank = 0; rank < size; rank++) {
    shape[0] = counts[rank].item<int64_t>();
    allIndices.push_back(at::empty({indices.size(0), shape[0]}, indices.options()));
    allValues.push_back(at::empty(shape, values.options()));
  }
  exchange(comm, std::vector<at::Tensor>(size, indices), allIndices);
  exchange(comm, std::vector<at::Tensor>(size, values), allValues);
  return at::sparse_coo_tensor(at::cat(allIndices, 1), at::cat(allValues, 0), tensor.sizes()).coalesce();
}

inline Task sparseTask(const at::Tensor& tensor, const ReduceOp& op, int size) {
  TORCH_CHECK(tensor.device().is_cpu(), "shoal: tensors must lie on the CPU, this one is on ", tensor.device());
  TORCH_CHECK(op.op_ == ReduceOp::SUM, "shoal: of sparse tensors there is a sum only");
  Task task;
  task.isAlone = true;
  task.calls = [tensor, size](ncclComm_t comm) { tensor.copy_(sparseSum(comm, tensor, size)); };
  return task;
}

}  // namespace shoal
