// Lanes: work in order, done by whoever waits for it.
//
// A lane is one communicator and a queue. Who waits for a piece of work runs the queue up to it himself, on the
// NULL stream, so a blocking call costs no other thread. Work for which nobody waits is found by the clock, which
// wakes the lane's own thread. Lanes do not wait for each other: a group has one for its collectives, and one for
// each peer, direction and tag of its messages.
#pragma once

#include "library.hpp"

#include <torch/csrc/distributed/c10d/Store.hpp>
#include <torch/csrc/distributed/c10d/Work.hpp>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

namespace shoal {

using Clock = std::chrono::steady_clock;
using Milliseconds = std::chrono::milliseconds;

// One operation: copies before and after for tensors that do not lie in one piece, and calls that may share a group.
struct Task {
  std::vector<std::function<void()>> before;
  std::function<void(ncclComm_t)> calls;
  std::vector<std::function<void()>> after;
  // Reads what its own calls bring, so it shares no group.
  bool isAlone = false;
};

class Lane;

// Operations that were handed over together, as torch sees them.
class LaneWork : public c10d::Work {
 public:
  LaneWork(int rank, c10d::OpType type, const char* name, std::vector<Task> tasks, std::vector<at::Tensor> outputs,
           Milliseconds timeout, uint64_t sequence);

  bool wait(Milliseconds timeout) override;
  void abort() override;
  std::vector<at::Tensor> result() override;
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override;
  uint64_t getSequencenumber() const override;
  int sourceRank() const override;

  bool isDone() const { return isDone_.load(std::memory_order_acquire); }
  // Where it runs; set once, before anybody waits.
  std::shared_ptr<Lane> lane;
  int sourceRank_ = -1;

 private:
  friend class Lane;
  void run(Lane& lane);
  void runTasks(ncclComm_t comm);
  void end(std::exception_ptr problem);
  std::string lateness() const;
  std::exception_ptr blame(const Lane& on, const std::string& cause) const;

  const char* name_;
  std::vector<Task> tasks_;
  std::vector<at::Tensor> outputs_;
  Milliseconds timeout_;
  // When it gives up, in the clock's ticks. An earlier one may come with wait().
  std::atomic<int64_t> deadline_;
  uint64_t sequence_;
  std::atomic<bool> isDone_{false};
  std::atomic<bool> isLate_{false};
  c10::intrusive_ptr<c10::ivalue::Future> future_;
};

// Several pieces of work that end as one.
class JointWork : public c10d::Work {
 public:
  JointWork(int rank, std::vector<c10::intrusive_ptr<LaneWork>> parts);
  bool isCompleted() override;
  bool isSuccess() const override;
  std::exception_ptr exception() const override;
  bool wait(Milliseconds timeout) override;
  void abort() override;
  std::vector<at::Tensor> result() override;
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override;

 private:
  std::vector<c10::intrusive_ptr<LaneWork>> parts_;
};

class Lane : public std::enable_shared_from_this<Lane> {
 public:
  // The ranks meet in the store under a key of their own.
  Lane(c10::intrusive_ptr<c10d::Store> store, std::string key, int rank, int size);
  ~Lane();

  // Queues work; it starts when somebody waits for it, or a moment later.
  void add(const c10::intrusive_ptr<LaneWork>& work);
  // Runs the queue until the work is done.
  void runUntil(LaneWork& work);
  // Somebody waits where the lane cannot see it.
  void hurry();
  // Ends it; what runs is aborted, and so is everything if `isAbort`.
  void close(bool isAbort);
  // The clock looks: is work late, does work lie around? True while something does.
  bool look(Clock::time_point now);

  // The communicator, made with the first work.
  ncclComm_t connect(LaneWork& work);
  std::string who() const;

 private:
  void runFront(std::unique_lock<std::mutex>& lock);
  void serve();
  void startThread();
  void abortComm();

  c10::intrusive_ptr<c10d::Store> store_;
  const std::string key_;
  const int rank_, size_;
  std::mutex mutex_;
  std::condition_variable done_, come_;
  std::deque<c10::intrusive_ptr<LaneWork>> queue_;
  // The work that somebody runs.
  std::atomic<LaneWork*> running_{nullptr};
  uint64_t taken_count_ = 0;
  // What the clock saw the last time.
  uint64_t seen_count_ = 0;
  bool saw_work_ = false;
  int waiter_count_ = 0;
  bool has_thread_ = false;
  std::atomic<bool> is_closed_{false};
  // Guards the handle against an abort while it is used up.
  std::mutex comm_mutex_;
  ncclComm_t comm_ = nullptr;
  std::string broken_;
};

// Makes the clock look after a lane.
std::shared_ptr<Lane> watched(std::shared_ptr<Lane> lane);

}  // namespace shoal
