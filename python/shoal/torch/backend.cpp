#include "backend.hpp"
#include "exchange.hpp"

#include <pybind11/chrono.h>
#include <torch/csrc/utils/pybind.h>

#include <thread>

namespace shoal {
namespace {

constexpr auto kBytes = ncclUint8;

const at::Tensor& only(const Tensors& tensors, const char* call) {
  TORCH_CHECK(tensors.size() == 1, "shoal: ", call, " takes one tensor of each rank, not ", tensors.size());
  return tensors[0];
}

std::string rankList(const std::vector<int>& ranks) {
  std::string text;
  for (int rank : ranks) text += (text.empty() ? "" : ", ") + std::to_string(rank);
  return text;
}

}  // namespace

ShoalBackend::ShoalBackend(c10::intrusive_ptr<c10d::Store> store, int rank, int size, Milliseconds timeout)
    // A wait for a key would block the store for everybody else, so it gets one of its own.
    : Backend(rank, size), store_(store->clone()), options_(c10::make_intrusive<Options>("shoal", timeout)) {
  collectives_ = newLane("all", rank, size);
}

ShoalBackend::~ShoalBackend() { close(false); }

std::shared_ptr<Lane> ShoalBackend::newLane(const std::string& key, int rank, int size) {
  return watched(std::make_shared<Lane>(store_, key, rank, size));
}

void ShoalBackend::close(bool isAbort) {
  std::lock_guard<std::mutex> lock(mutex_);
  is_closed_ = true;
  collectives_->close(isAbort);
  for (auto& [key, lane] : messages_) lane->close(isAbort);
}

void ShoalBackend::abort() { close(true); }
void ShoalBackend::shutdown() { close(false); }

WorkPtr ShoalBackend::submit(const std::shared_ptr<Lane>& lane, c10d::OpType type, const char* name,
                             std::vector<Task> tasks, Tensors outputs, Milliseconds timeout) {
  if (is_collecting_) {
    for (auto& task : tasks) collected_.emplace_back(lane, std::move(task));
    for (auto& output : outputs) collected_outputs_.push_back(std::move(output));
    return nullptr;
  }
  if (timeout == c10d::kUnsetTimeout) timeout = options_->timeout;
  auto work = c10::make_intrusive<LaneWork>(rank_, type, name, std::move(tasks), std::move(outputs), timeout, sequence_);
  lane->add(work);
  return work;
}

WorkPtr ShoalBackend::collective(c10d::OpType type, const char* name, std::vector<Task> tasks, Tensors outputs,
                                 Milliseconds timeout) {
  sequence_++;
  return submit(collectives_, type, name, std::move(tasks), std::move(outputs), timeout);
}

void ShoalBackend::startCoalescing() { is_collecting_ = true; }

// What goes the same way leaves as one group.
WorkPtr ShoalBackend::endCoalescing() {
  is_collecting_ = false;
  std::vector<std::pair<std::shared_ptr<Lane>, std::vector<Task>>> batches;
  for (auto& [lane, task] : collected_) {
    auto same = [lane = lane](auto& batch) { return batch.first == lane; };
    auto place = std::find_if(batches.begin(), batches.end(), same);
    if (place == batches.end()) place = batches.emplace(place, lane, std::vector<Task>());
    place->second.push_back(std::move(task));
  }
  collected_.clear();
  auto outputs = std::exchange(collected_outputs_, {});
  std::vector<c10::intrusive_ptr<LaneWork>> parts;
  for (auto& [lane, tasks] : batches) {
    auto work = c10::make_intrusive<LaneWork>(rank_, c10d::OpType::COALESCED, "coalesced", std::move(tasks),
                                              parts.empty() ? std::move(outputs) : Tensors(), options_->timeout, sequence_);
    lane->add(work);
    parts.push_back(std::move(work));
  }
  if (parts.size() == 1) return parts[0];
  return c10::make_intrusive<JointWork>(rank_, std::move(parts));
}

// AllReduce, or Reduce to a root that is not negative.
Task ShoalBackend::reduceTask(const at::Tensor& input, const at::Tensor& output, const ReduceOp& op, int root) {
  Task task;
  auto from = realView(input, op), to = realView(output, op);
  auto type = to.scalar_type();
  checkBits(op, type);
  bool isTarget = root < 0 || root == rank_;
  auto in = source(task, factored(task, from, op));
  // A rank that is not the root keeps its tensor.
  auto out = isTarget ? target(task, to) : in;
  if (isCombinedHere(op, type)) {
    auto all = at::empty({size_, in.numel()}, in.options().requires_grad(false));
    task.calls = [in, all](ncclComm_t comm) {
      check(library().allGather(in.data_ptr(), all.data_ptr(), in.nbytes(), kBytes, comm, nullptr), "ncclAllGather");
    };
    if (isTarget)
      task.after.insert(task.after.begin(), [all, out, op] { out.copy_(combined(op, all).view(out.sizes())); });
    return task;
  }
  auto number = ncclDataType_t(numberType(type));
  auto how = ncclRedOp_t(operatorOf(op, type));
  task.calls = [in, out, number, how, root](ncclComm_t comm) {
    size_t count = in.numel();
    if (root < 0) {
      check(library().allReduce(in.data_ptr(), out.data_ptr(), count, number, how, comm, nullptr), "ncclAllReduce");
    } else {
      check(library().reduce(in.data_ptr(), out.data_ptr(), count, number, how, root, comm, nullptr), "ncclReduce");
    }
  };
  return task;
}

WorkPtr ShoalBackend::allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) {
  auto& tensor = only(tensors, "all_reduce");
  std::vector<Task> tasks;
  bool isSparse = tensor.layout() == at::kSparse;
  tasks.push_back(isSparse ? sparseTask(tensor, options.reduceOp, size_) : reduceTask(tensor, tensor, options.reduceOp, -1));
  return collective(c10d::OpType::ALLREDUCE, "all_reduce", std::move(tasks), tensors, options.timeout);
}

WorkPtr ShoalBackend::allreduce_coalesced(Tensors& tensors, const c10d::AllreduceCoalescedOptions& options) {
  std::vector<Task> tasks;
  for (auto& tensor : tensors) tasks.push_back(reduceTask(tensor, tensor, options.reduceOp, -1));
  return collective(c10d::OpType::ALLREDUCE_COALESCED, "all_reduce_coalesced", std::move(tasks), tensors,
                    options.timeout);
}

WorkPtr ShoalBackend::reduce(Tensors& tensors, const c10d::ReduceOptions& options) {
  auto& tensor = only(tensors, "reduce");
  std::vector<Task> tasks;
  tasks.push_back(reduceTask(tensor, tensor, options.reduceOp, int(options.rootRank)));
  return collective(c10d::OpType::REDUCE, "reduce", std::move(tasks), tensors, options.timeout);
}

WorkPtr ShoalBackend::broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) {
  auto& tensor = only(tensors, "broadcast");
  int root = int(options.rootRank);
  std::vector<Task> tasks(1);
  auto data = staged(tasks[0], tensor, rank_ == root, rank_ != root);
  tasks[0].calls = [data, root](ncclComm_t comm) {
    check(library().broadcast(data.data_ptr(), data.data_ptr(), data.nbytes(), kBytes, root, comm, nullptr),
          "ncclBroadcast");
  };
  return collective(c10d::OpType::BROADCAST, "broadcast", std::move(tasks), tensors, options.timeout);
}

Task ShoalBackend::gatherTask(const at::Tensor& input, const at::Tensor& output) {
  TORCH_CHECK(input.dtype() == output.dtype(), "output tensor must have the same type as input tensor");
  TORCH_CHECK(output.numel() == input.numel() * size_,
              "output tensor size must be equal to world_size times input tensor size");
  Task task;
  auto in = source(task, input), out = target(task, output);
  task.calls = [in, out](ncclComm_t comm) {
    check(library().allGather(in.data_ptr(), out.data_ptr(), in.nbytes(), kBytes, comm, nullptr), "ncclAllGather");
  };
  return task;
}

// Everybody's input into a list. Sizes may differ; then each rank sends its own to all.
Task ShoalBackend::listTask(Tensors& outputs, const at::Tensor& input) {
  TORCH_CHECK(int(outputs.size()) == size_, "Tensor list input to all_gather must match number of ranks: ",
              outputs.size(), " and ", size_);
  for (auto& output : outputs)
    TORCH_CHECK(output.scalar_type() == input.scalar_type(), "Invalid usage of tensors with different dtypes: found ",
                input.scalar_type(), " and ", output.scalar_type());
  if (!isSameSize(outputs, input.numel())) return exchangeTask(outputs, Tensors(size_, input), "all_gather");
  Task task;
  auto in = source(task, input);
  auto all = at::empty({size_, in.numel()}, in.options().requires_grad(false));
  for (int rank = 0; rank < size_; rank++) {
    TORCH_CHECK(outputs[rank].device().is_cpu(), "shoal: tensors must lie on the CPU");
    task.after.push_back([all, rank, output = outputs[rank]] { output.copy_(all[rank].view(output.sizes())); });
  }
  task.calls = [in, all](ncclComm_t comm) {
    check(library().allGather(in.data_ptr(), all.data_ptr(), in.nbytes(), kBytes, comm, nullptr), "ncclAllGather");
  };
  return task;
}

// inputs[r] to rank r, outputs[r] from rank r; tensors that are not defined do not travel.
Task ShoalBackend::exchangeTask(Tensors outputs, Tensors inputs, const char* call) {
  Task task;
  TORCH_CHECK(int(outputs.size()) == size_ && int(inputs.size()) == size_, "shoal: ", call, " takes one tensor for each of ",
              size_, " ranks");
  for (auto& input : inputs)
    if (input.defined()) input = source(task, input);
  for (auto& output : outputs)
    if (output.defined()) output = target(task, output);
  task.calls = [inputs, outputs](ncclComm_t comm) { exchange(comm, inputs, outputs); };
  return task;
}

WorkPtr ShoalBackend::allgather(std::vector<Tensors>& outputs, Tensors& inputs, const c10d::AllgatherOptions& options) {
  auto& input = only(inputs, "all_gather");
  TORCH_CHECK(outputs.size() == 1, "shoal: all_gather takes one list of outputs");
  std::vector<Task> tasks;
  tasks.push_back(listTask(outputs[0], input));
  return collective(c10d::OpType::ALLGATHER, "all_gather", std::move(tasks), outputs[0], options.timeout);
}

WorkPtr ShoalBackend::allgather_coalesced(std::vector<Tensors>& outputs, Tensors& inputs,
                                          const c10d::AllgatherOptions& options) {
  std::vector<Task> tasks;
  Tensors all;
  TORCH_CHECK(int(outputs.size()) == size_, "shoal: all_gather_coalesced takes one list for each rank");
  // The lists are by rank, each with all tensors of that rank.
  for (size_t i = 0; i < inputs.size(); i++) {
    Tensors row;
    for (auto& list : outputs) {
      TORCH_CHECK(list.size() == inputs.size(), "invalid argument: output lists have another length than the inputs");
      row.push_back(list[i]);
    }
    tasks.push_back(listTask(row, inputs[i]));
    all.insert(all.end(), row.begin(), row.end());
  }
  return collective(c10d::OpType::ALLGATHER_COALESCED, "all_gather_coalesced", std::move(tasks), all, options.timeout);
}

WorkPtr ShoalBackend::_allgather_base(at::Tensor& output, at::Tensor& input, const c10d::AllgatherOptions& options) {
  std::vector<Task> tasks;
  tasks.push_back(gatherTask(input, output));
  return collective(c10d::OpType::_ALLGATHER_BASE, "all_gather_into_tensor", std::move(tasks), {output}, options.timeout);
}

WorkPtr ShoalBackend::allgather_into_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                                      const c10d::AllgatherOptions& options) {
  std::vector<Task> tasks;
  for (size_t i = 0; i < inputs.size(); i++) tasks.push_back(gatherTask(inputs[i], outputs.at(i)));
  return collective(c10d::OpType::COALESCED, "all_gather_into_tensor_coalesced", std::move(tasks), outputs,
                    options.timeout);
}

Task ShoalBackend::scatterTask(const at::Tensor& input, const at::Tensor& output, const ReduceOp& op) {
  TORCH_CHECK(input.dtype() == output.dtype(), "input tensor must have the same type as output tensor");
  TORCH_CHECK(input.numel() == output.numel() * size_,
              "input tensor must be the same size as output size times world size");
  Task task;
  auto from = realView(input, op), to = realView(output, op);
  auto type = to.scalar_type();
  checkBits(op, type);
  auto in = source(task, factored(task, from, op)), out = target(task, to);
  if (isCombinedHere(op, type)) {
    auto all = at::empty({size_, out.numel()}, out.options().requires_grad(false));
    task.calls = [in, all, bytes = out.nbytes()](ncclComm_t comm) {
      check(library().allToAll(in.data_ptr(), all.data_ptr(), bytes, kBytes, comm, nullptr), "ncclAlltoAll");
    };
    task.after.insert(task.after.begin(), [all, out, op] { out.copy_(combined(op, all).view(out.sizes())); });
    return task;
  }
  auto number = ncclDataType_t(numberType(type));
  auto how = ncclRedOp_t(operatorOf(op, type));
  task.calls = [in, out, number, how](ncclComm_t comm) {
    check(library().reduceScatter(in.data_ptr(), out.data_ptr(), out.numel(), number, how, comm, nullptr),
          "ncclReduceScatter");
  };
  return task;
}

WorkPtr ShoalBackend::reduce_scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                                     const c10d::ReduceScatterOptions& options) {
  auto& output = only(outputs, "reduce_scatter");
  TORCH_CHECK(inputs.size() == 1 && int(inputs[0].size()) == size_, "shoal: reduce_scatter takes one input for each rank");
  auto& list = inputs[0];
  std::vector<Task> tasks;
  if (isSameSize(list, output.numel())) {
    auto flat = at::empty({size_, output.numel()}, output.options().requires_grad(false));
    auto task = scatterTask(flat, output, options.reduceOp);
    task.before.insert(task.before.begin(), [flat, list] {
      for (size_t rank = 0; rank < list.size(); rank++) flat[int64_t(rank)].view(list[rank].sizes()).copy_(list[rank]);
    });
    tasks.push_back(std::move(task));
  } else {
    TORCH_CHECK(list[rank_].numel() == output.numel(), "shoal: reduce_scatter's output is not of the size of its input");
    for (int root = 0; root < size_; root++)
      tasks.push_back(reduceTask(list[root], root == rank_ ? output : list[root], options.reduceOp, root));
  }
  return collective(c10d::OpType::REDUCE_SCATTER, "reduce_scatter", std::move(tasks), outputs, options.timeout);
}

WorkPtr ShoalBackend::_reduce_scatter_base(at::Tensor& output, at::Tensor& input,
                                           const c10d::ReduceScatterOptions& options) {
  std::vector<Task> tasks;
  tasks.push_back(scatterTask(input, output, options.reduceOp));
  return collective(c10d::OpType::_REDUCE_SCATTER_BASE, "reduce_scatter_tensor", std::move(tasks), {output},
                    options.timeout);
}

WorkPtr ShoalBackend::reduce_scatter_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                                      const c10d::ReduceScatterOptions& options) {
  std::vector<Task> tasks;
  for (size_t i = 0; i < inputs.size(); i++) tasks.push_back(scatterTask(inputs[i], outputs.at(i), options.reduceOp));
  return collective(c10d::OpType::COALESCED, "reduce_scatter_tensor_coalesced", std::move(tasks), outputs,
                    options.timeout);
}

WorkPtr ShoalBackend::alltoall_base(at::Tensor& output, at::Tensor& input, std::vector<int64_t>& outputSplits,
                                    std::vector<int64_t>& inputSplits, const c10d::AllToAllOptions& options) {
  TORCH_CHECK(input.dtype() == output.dtype(), "Tensors are not the same type");
  std::vector<Task> tasks;
  if (outputSplits.empty() && inputSplits.empty()) {
    TORCH_CHECK(output.numel() == input.numel(), "Tensors are not equal in size or data type");
    TORCH_CHECK(output.dim() == 0 || output.size(0) % size_ == 0, "Tensor's dim 0 does not divide equally across group size");
    tasks.emplace_back();
    auto in = source(tasks[0], input), out = target(tasks[0], output);
    tasks[0].calls = [in, out, bytes = in.nbytes() / size_](ncclComm_t comm) {
      check(library().allToAll(in.data_ptr(), out.data_ptr(), bytes, kBytes, comm, nullptr), "ncclAlltoAll");
    };
  } else {
    c10d::checkSplitSizes(inputSplits, input, size_);
    c10d::checkSplitSizes(outputSplits, output, size_);
    auto cut = [&](const at::Tensor& whole, const std::vector<int64_t>& splits) {
      Tensors parts;
      int64_t at = 0;
      for (int rank = 0; rank < size_; rank++) {
        int64_t rows = splits.empty() ? whole.size(0) / size_ : splits[rank];
        parts.push_back(whole.narrow(0, at, rows));
        at += rows;
      }
      return parts;
    };
    tasks.push_back(exchangeTask(cut(output, outputSplits), cut(input, inputSplits), "all_to_all_single"));
  }
  return collective(c10d::OpType::ALLTOALL_BASE, "all_to_all_single", std::move(tasks), {output}, options.timeout);
}

WorkPtr ShoalBackend::alltoall(Tensors& outputs, Tensors& inputs, const c10d::AllToAllOptions& options) {
  std::vector<Task> tasks;
  tasks.push_back(exchangeTask(outputs, inputs, "all_to_all"));
  return collective(c10d::OpType::ALLTOALL, "all_to_all", std::move(tasks), outputs, options.timeout);
}

WorkPtr ShoalBackend::gather(std::vector<Tensors>& outputs, Tensors& inputs, const c10d::GatherOptions& options) {
  auto& input = only(inputs, "gather");
  bool isRoot = rank_ == options.rootRank;
  TORCH_CHECK(isRoot ? outputs.size() == 1 && int(outputs[0].size()) == size_ : outputs.empty(),
              "shoal: gather takes one list of ", size_, " outputs on the root, and none elsewhere");
  Tensors to(size_);
  to[options.rootRank] = input;
  std::vector<Task> tasks;
  tasks.push_back(exchangeTask(isRoot ? outputs[0] : Tensors(size_), to, "gather"));
  return collective(c10d::OpType::GATHER, "gather", std::move(tasks), isRoot ? outputs[0] : Tensors(), options.timeout);
}

WorkPtr ShoalBackend::scatter(Tensors& outputs, std::vector<Tensors>& inputs, const c10d::ScatterOptions& options) {
  auto& output = only(outputs, "scatter");
  bool isRoot = rank_ == options.rootRank;
  TORCH_CHECK(isRoot ? inputs.size() == 1 && int(inputs[0].size()) == size_ : inputs.empty(),
              "shoal: scatter takes one list of ", size_, " inputs on the root, and none elsewhere");
  Tensors from(size_);
  from[options.rootRank] = output;
  std::vector<Task> tasks;
  tasks.push_back(exchangeTask(from, isRoot ? inputs[0] : Tensors(size_), "scatter"));
  return collective(c10d::OpType::SCATTER, "scatter", std::move(tasks), outputs, options.timeout);
}

WorkPtr ShoalBackend::barrier(const c10d::BarrierOptions& options) {
  auto nothing = at::zeros({1}, at::kByte);
  std::vector<Task> tasks;
  tasks.push_back(reduceTask(nothing, nothing, ReduceOp(ReduceOp::SUM), -1));
  return collective(c10d::OpType::BARRIER, "barrier", std::move(tasks), {}, options.timeout);
}

// Through the store, since it shall say who is missing and leave the group usable.
void ShoalBackend::monitoredBarrier(const c10d::BarrierOptions& options, bool waitsForAll) {
  auto timeout = options.timeout == c10d::kUnsetTimeout ? options_->timeout : options.timeout;
  auto end = Clock::now() + timeout;
  std::string key = "monitored/" + std::to_string(monitored_count_++) + "/";
  auto waits = [&](const std::string& name) {
    while (!store_->check({key + name})) {
      if (Clock::now() > end) return false;
      std::this_thread::sleep_for(std::chrono::microseconds(500));
    }
    return true;
  };
  if (rank_ != 0) {
    store_->set(key + std::to_string(rank_), "here");
    TORCH_CHECK(waits("go"), "Rank ", rank_, " successfully reached monitoredBarrier, but received errors while waiting "
                "for send/recv from rank 0. Please check rank 0 logs for faulty rank.");
    return;
  }
  std::vector<int> missing;
  for (int rank = 1; rank < size_ && (missing.empty() || waitsForAll); rank++)
    if (!waits(std::to_string(rank))) missing.push_back(rank);
  TORCH_CHECK(missing.empty(), "[Rank 0]: Rank", missing.size() > 1 ? "s " : " ", rankList(missing),
              " failed to pass monitoredBarrier in ", timeout.count(), " ms");
  store_->set(key + "go", "go");
}

std::shared_ptr<Lane> ShoalBackend::messageLane(bool isSend, int peer, int tag) {
  TORCH_CHECK(peer >= 0 && peer < size_ && peer != rank_, "shoal: rank ", rank_, " of ", size_,
              " cannot exchange messages with rank ", peer);
  std::lock_guard<std::mutex> lock(mutex_);
  TORCH_CHECK(!is_closed_, "shoal: the process group was destroyed");
  auto& lane = messages_[{isSend, peer, tag}];
  if (!lane) {
    int from = isSend ? rank_ : peer, to = isSend ? peer : rank_;
    auto key = std::to_string(from) + " to " + std::to_string(to) + (tag ? ", tag " + std::to_string(tag) : "");
    lane = newLane(key, isSend ? 0 : 1, 2);
  }
  return lane;
}

WorkPtr ShoalBackend::message(bool isSend, Tensors& tensors, int peer, int tag) {
  auto lane = messageLane(isSend, peer, tag);
  auto& tensor = only(tensors, isSend ? "send" : "recv");
  std::vector<Task> tasks(1);
  auto data = isSend ? source(tasks[0], tensor) : target(tasks[0], tensor);
  tasks[0].calls = [data, isSend](ncclComm_t comm) {
    if (isSend) {
      check(library().send(data.data_ptr(), data.nbytes(), kBytes, 1, comm, nullptr), "ncclSend");
    } else {
      check(library().recv(data.data_ptr(), data.nbytes(), kBytes, 0, comm, nullptr), "ncclRecv");
    }
  };
  auto type = isSend ? c10d::OpType::SEND : c10d::OpType::RECV;
  auto work = submit(lane, type, isSend ? "send" : "recv", std::move(tasks), tensors, c10d::kUnsetTimeout);
  if (work && !isSend) static_cast<LaneWork*>(work.get())->sourceRank_ = peer;
  return work;
}

WorkPtr ShoalBackend::send(Tensors& tensors, int target, int tag) { return message(true, tensors, target, tag); }
WorkPtr ShoalBackend::recv(Tensors& tensors, int source, int tag) { return message(false, tensors, source, tag); }

c10::intrusive_ptr<c10d::Backend> ShoalBackend::split(const c10::intrusive_ptr<c10d::Store>& store,
                                                      const std::vector<int>& ranks,
                                                      const c10::intrusive_ptr<Options>& options) {
  auto place = std::find(ranks.begin(), ranks.end(), rank_);
  if (place == ranks.end()) return nullptr;
  auto timeout = options ? options->timeout : options_->timeout;
  return c10::make_intrusive<ShoalBackend>(store, int(place - ranks.begin()), int(ranks.size()), timeout);
}

}  // namespace shoal

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  module.doc() = "torch's process group over Shoal";
  module.def("open", &shoal::open, "Loads the library.");
  module.def(
      "create",
      [](const c10::intrusive_ptr<c10d::Store>& store, int rank, int size, std::chrono::milliseconds timeout) {
        return c10::intrusive_ptr<c10d::Backend>(
            c10::make_intrusive<shoal::ShoalBackend>(store, rank, size, timeout));
      },
      "A process group's part for CPU tensors.", pybind11::call_guard<pybind11::gil_scoped_release>());
}
