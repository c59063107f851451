// torch's process group over Shoal.
#pragma once

#include "tensors.hpp"

#include <torch/csrc/distributed/c10d/Backend.hpp>

#include <map>
#include <optional>

namespace shoal {

using WorkPtr = c10::intrusive_ptr<c10d::Work>;
using Tensors = std::vector<at::Tensor>;

class ShoalBackend : public c10d::Backend {
 public:
  ShoalBackend(c10::intrusive_ptr<c10d::Store> store, int rank, int size, Milliseconds timeout);
  ~ShoalBackend() override;

  const std::string getBackendName() const override { return "shoal"; }
  c10::intrusive_ptr<Options> getBackendOptions() override { return options_; }
  bool supportsCoalescing() const override { return true; }
  bool supportsSplitting() const override { return true; }
  void setTimeout(Milliseconds timeout) override { options_->timeout = timeout; }
  void setSequenceNumberForGroup() override {}
  uint64_t getSequenceNumberForGroup() override { return sequence_; }
  c10d::ErrorType getError() override { return c10d::ErrorType::SUCCESS; }

  void startCoalescing() override;
  WorkPtr endCoalescing() override;

  WorkPtr broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) override;
  WorkPtr allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) override;
  WorkPtr allreduce_coalesced(Tensors& tensors, const c10d::AllreduceCoalescedOptions& options) override;
  WorkPtr reduce(Tensors& tensors, const c10d::ReduceOptions& options) override;
  WorkPtr allgather(std::vector<Tensors>& outputs, Tensors& inputs, const c10d::AllgatherOptions& options) override;
  WorkPtr allgather_coalesced(std::vector<Tensors>& outputs, Tensors& inputs,
                              const c10d::AllgatherOptions& options) override;
  WorkPtr _allgather_base(at::Tensor& output, at::Tensor& input, const c10d::AllgatherOptions& options) override;
  WorkPtr allgather_into_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                          const c10d::AllgatherOptions& options) override;
  WorkPtr reduce_scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                         const c10d::ReduceScatterOptions& options) override;
  WorkPtr _reduce_scatter_base(at::Tensor& output, at::Tensor& input,
                               const c10d::ReduceScatterOptions& options) override;
  WorkPtr reduce_scatter_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                          const c10d::ReduceScatterOptions& options) override;
  WorkPtr alltoall_base(at::Tensor& output, at::Tensor& input, std::vector<int64_t>& outputSplits,
                        std::vector<int64_t>& inputSplits, const c10d::AllToAllOptions& options) override;
  WorkPtr alltoall(Tensors& outputs, Tensors& inputs, const c10d::AllToAllOptions& options) override;
  WorkPtr gather(std::vector<Tensors>& outputs, Tensors& inputs, const c10d::GatherOptions& options) override;
  WorkPtr scatter(Tensors& outputs, std::vector<Tensors>& inputs, const c10d::ScatterOptions& options) override;
  WorkPtr barrier(const c10d::BarrierOptions& options) override;
  void monitoredBarrier(const c10d::BarrierOptions& options, bool waitsForAll) override;
  WorkPtr send(Tensors& tensors, int target, int tag) override;
  WorkPtr recv(Tensors& tensors, int source, int tag) override;
  c10::intrusive_ptr<Backend> split(const c10::intrusive_ptr<c10d::Store>& store, const std::vector<int>& ranks,
                                    const c10::intrusive_ptr<Options>& options) override;
  void abort() override;
  void shutdown() override;

 private:
  using Collected = std::pair<std::shared_ptr<Lane>, Task>;

  WorkPtr submit(const std::shared_ptr<Lane>& lane, c10d::OpType type, const char* name, std::vector<Task> tasks,
                 Tensors outputs, Milliseconds timeout);
  WorkPtr collective(c10d::OpType type, const char* name, std::vector<Task> tasks, Tensors outputs,
                     Milliseconds timeout);
  WorkPtr message(bool isSend, Tensors& tensors, int peer, int tag);
  std::shared_ptr<Lane> messageLane(bool isSend, int peer, int tag);
  std::shared_ptr<Lane> newLane(const std::string& key, int rank, int size);
  void close(bool isAbort);

  Task reduceTask(const at::Tensor& input, const at::Tensor& output, const ReduceOp& op, int root);
  Task gatherTask(const at::Tensor& input, const at::Tensor& output);
  Task scatterTask(const at::Tensor& input, const at::Tensor& output, const ReduceOp& op);
  Task listTask(Tensors& outputs, const at::Tensor& input);
  Task exchangeTask(Tensors outputs, Tensors inputs, const char* call);

  c10::intrusive_ptr<c10d::Store> store_;
  c10::intrusive_ptr<Options> options_;
  std::mutex mutex_;
  std::shared_ptr<Lane> collectives_;
  // By direction, peer and tag.
  std::map<std::tuple<bool, int, int>, std::shared_ptr<Lane>> messages_;
  bool is_collecting_ = false;
  std::vector<Collected> collected_;
  Tensors collected_outputs_;
  uint64_t sequence_ = 0;
  uint64_t monitored_count_ = 0;
  bool is_closed_ = false;
};

}  // namespace shoal
