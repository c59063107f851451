#include "lane.hpp"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/record_function.h>

#include <pthread.h>

#include <algorithm>
#include <sstream>
#include <thread>

namespace shoal {
namespace {

// How often the clock looks while work lies around, and otherwise.
constexpr auto kSoon = std::chrono::microseconds(500);
constexpr auto kSeldom = Milliseconds(20);
// Quick looks after the last work that lay around, so that a series of calls wakes nobody.
constexpr int kQuickLooks = 40;
// Looks of a waiter before it sleeps, while another thread runs its work.
constexpr int kYields = 50;

int64_t ticks(Clock::time_point time) { return time.time_since_epoch().count(); }

int64_t ticksAfter(Milliseconds timeout) {
  return ticks(Clock::now()) + std::chrono::duration_cast<Clock::duration>(timeout).count();
}

// One thread that looks after all lanes of the process. It is never ended: it may run while the process ends.
class Watch {
 public:
  // A forked child has none of its parent's threads, so it gets another one.
  static Watch& get() {
    static std::atomic<Watch*> watch = [] {
      pthread_atfork(nullptr, nullptr, [] { watch = new Watch(); });
      return new Watch();
    }();
    return *watch.load(std::memory_order_acquire);
  }

  void add(const std::shared_ptr<Lane>& lane) {
    std::lock_guard<std::mutex> lock(mutex_);
    lanes_.push_back(lane);
    if (!has_thread_) {
      has_thread_ = true;
      std::thread([this] { run(); }).detach();
    }
  }

  void nudge() {
    if (!is_slow_.load(std::memory_order_acquire)) return;
    std::lock_guard<std::mutex> lock(mutex_);
    is_slow_ = false;
    come_.notify_one();
  }

 private:
  void run() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (int quiet = 0;; quiet++) {
      if (quiet > kQuickLooks) {
        is_slow_.store(true, std::memory_order_release);
        come_.wait_for(lock, kSeldom, [this] { return !is_slow_.load(); });
        if (!is_slow_.exchange(false)) quiet = 0;
      } else {
        come_.wait_for(lock, kSoon);
      }
      auto lanes = alive();
      lock.unlock();
      for (auto& lane : lanes)
        if (lane->look(Clock::now())) quiet = 0;
      lanes.clear();
      lock.lock();
    }
  }

  std::vector<std::shared_ptr<Lane>> alive() {
    std::vector<std::shared_ptr<Lane>> found;
    auto end = std::remove_if(lanes_.begin(), lanes_.end(), [&](auto& lane) {
      auto held = lane.lock();
      if (held) found.push_back(std::move(held));
      return lane.expired();
    });
    lanes_.erase(end, lanes_.end());
    return found;
  }

  std::mutex mutex_;
  std::condition_variable come_;
  std::vector<std::weak_ptr<Lane>> lanes_;
  bool has_thread_ = false;
  std::atomic<bool> is_slow_{false};
};

c10::intrusive_ptr<c10::ivalue::Future> newFuture() {
  return c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()));
}

}  // namespace

LaneWork::LaneWork(int rank, c10d::OpType type, const char* name, std::vector<Task> tasks,
                   std::vector<at::Tensor> outputs, Milliseconds timeout, uint64_t sequence)
    // A title costs even where nobody profiles.
    : Work(rank, type, at::hasCallbacks() ? (std::string("shoal:") + name).c_str() : nullptr),
      name_(name),
      tasks_(std::move(tasks)),
      outputs_(std::move(outputs)),
      timeout_(timeout),
      deadline_(ticksAfter(timeout)),
      sequence_(sequence) {}

bool LaneWork::wait(Milliseconds timeout) {
  if (!isDone()) {
    if (timeout != kNoTimeout) {
      int64_t earlier = ticksAfter(timeout);
      if (earlier < deadline_) {
        timeout_ = timeout;
        deadline_ = earlier;
      }
    }
    lane->runUntil(*this);
  }
  if (exception_) std::rethrow_exception(exception_);
  return true;
}

void LaneWork::abort() { lane->close(true); }
std::vector<at::Tensor> LaneWork::result() { return outputs_; }
uint64_t LaneWork::getSequencenumber() const { return sequence_; }
int LaneWork::sourceRank() const { return sourceRank_; }

c10::intrusive_ptr<c10::ivalue::Future> LaneWork::getFuture() {
  std::unique_lock<std::mutex> lock(mutex_);
  if (future_) return future_;
  future_ = newFuture();
  auto future = future_;
  if (completed_) {
    lock.unlock();
    exception_ ? future->setError(exception_) : future->markCompleted(at::IValue(outputs_));
  } else {
    lock.unlock();
    lane->hurry();
  }
  return future;
}

std::string LaneWork::lateness() const {
  std::ostringstream text;
  text << "Timed out waiting " << timeout_.count() << "ms for " << name_ << " operation to complete";
  return text.str();
}

std::exception_ptr LaneWork::blame(const Lane& on, const std::string& cause) const {
  std::string text = "[" + on.who() + "] " + name_ + ": " + (isLate_ ? lateness() + ": " : "") + cause;
  return std::make_exception_ptr(c10::DistBackendError({__func__, __FILE__, uint32_t(__LINE__)}, text));
}

void LaneWork::run(Lane& on) {
  std::exception_ptr problem;
  try {
    // Tensors are written below autograd, as other backends write their memory.
    at::AutoDispatchBelowADInplaceOrView guard;
    runTasks(on.connect(*this));
  } catch (const c10::Error& error) {
    problem = blame(on, error.what_without_backtrace());
  } catch (const std::exception& error) {
    problem = blame(on, error.what());
  }
  end(problem);
}

void LaneWork::runTasks(ncclComm_t comm) {
  for (auto& task : tasks_)
    for (auto& step : task.before) step();
  bool isAlone = std::any_of(tasks_.begin(), tasks_.end(), [](auto& task) { return task.isAlone; });
  if (tasks_.size() == 1 || isAlone) {
    for (auto& task : tasks_) task.calls(comm);
  } else {
    check(library().groupStart(), "ncclGroupStart");
    std::exception_ptr problem;
    try {
      for (auto& task : tasks_) task.calls(comm);
    } catch (...) {
      problem = std::current_exception();
    }
    auto result = library().groupEnd();
    if (problem) std::rethrow_exception(problem);
    check(result, "ncclGroupEnd");
  }
  for (auto& task : tasks_)
    for (auto& step : task.after) step();
}

void LaneWork::end(std::exception_ptr problem) {
  tasks_.clear();
  isDone_.store(true, std::memory_order_release);
  c10::intrusive_ptr<c10::ivalue::Future> future;
  finish(problem);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    future = future_;
  }
  if (future) problem ? future->setError(problem) : future->markCompleted(at::IValue(outputs_));
}

JointWork::JointWork(int rank, std::vector<c10::intrusive_ptr<LaneWork>> parts)
    : Work(rank, c10d::OpType::COALESCED), parts_(std::move(parts)) {}

bool JointWork::isCompleted() {
  return std::all_of(parts_.begin(), parts_.end(), [](auto& part) { return part->isDone(); });
}

std::exception_ptr JointWork::exception() const {
  for (auto& part : parts_)
    if (part->isDone() && part->exception()) return part->exception();
  return nullptr;
}

bool JointWork::isSuccess() const {
  return std::all_of(parts_.begin(), parts_.end(), [](auto& part) { return part->isDone() && part->isSuccess(); });
}

bool JointWork::wait(Milliseconds timeout) {
  for (auto& part : parts_) part->wait(timeout);
  return true;
}

void JointWork::abort() {
  for (auto& part : parts_) part->abort();
}

std::vector<at::Tensor> JointWork::result() {
  std::vector<at::Tensor> all;
  for (auto& part : parts_)
    for (auto& tensor : part->result()) all.push_back(tensor);
  return all;
}

c10::intrusive_ptr<c10::ivalue::Future> JointWork::getFuture() {
  auto joint = newFuture();
  auto left = std::make_shared<std::atomic<size_t>>(parts_.size());
  auto outputs = result();
  for (auto& part : parts_) {
    part->getFuture()->addCallback([joint, left, outputs](c10::ivalue::Future& done) {
      if (done.hasError()) joint->setErrorIfNeeded(done.exception_ptr());
      if (--*left == 0 && !joint->completed()) joint->markCompleted(at::IValue(outputs));
    });
  }
  return joint;
}

Lane::Lane(c10::intrusive_ptr<c10d::Store> store, std::string key, int rank, int size)
    : store_(std::move(store)), key_(std::move(key)), rank_(rank), size_(size) {}

Lane::~Lane() { close(false); }

std::string Lane::who() const {
  std::ostringstream text;
  text << "shoal, " << key_ << ", rank " << rank_ << " of " << size_;
  return text.str();
}

void Lane::add(const c10::intrusive_ptr<LaneWork>& work) {
  work->lane = shared_from_this();
  {
    std::lock_guard<std::mutex> lock(mutex_);
    queue_.push_back(work);
  }
  Watch::get().nudge();
}

// The first in the queue, without the lock.
void Lane::runFront(std::unique_lock<std::mutex>& lock) {
  auto work = std::move(queue_.front());
  queue_.pop_front();
  taken_count_++;
  running_ = work.get();
  lock.unlock();
  work->run(*this);
  lock.lock();
  running_ = nullptr;
  if (waiter_count_ > 0) done_.notify_all();
}

void Lane::runUntil(LaneWork& work) {
  for (int i = 0; i < kYields && running_ && !work.isDone(); i++) std::this_thread::yield();
  std::unique_lock<std::mutex> lock(mutex_);
  waiter_count_++;
  while (!work.isDone()) {
    if (running_ || queue_.empty()) {
      done_.wait(lock);
    } else {
      runFront(lock);
    }
  }
  waiter_count_--;
}

void Lane::hurry() {
  std::lock_guard<std::mutex> lock(mutex_);
  startThread();
  come_.notify_one();
}

void Lane::startThread() {
  if (has_thread_) return;
  has_thread_ = true;
  std::thread([lane = shared_from_this()] { lane->serve(); }).detach();
}

void Lane::serve() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (!is_closed_ || !queue_.empty()) {
    if (running_) {
      // Whoever runs it may leave the rest behind.
      waiter_count_++;
      done_.wait(lock);
      waiter_count_--;
    } else if (queue_.empty()) {
      come_.wait(lock);
    } else {
      runFront(lock);
    }
  }
  has_thread_ = false;
}

bool Lane::look(Clock::time_point now) {
  std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
  if (!lock) return true;
  LaneWork* running = running_;
  if (running && ticks(now) > running->deadline_ && !running->isLate_.exchange(true)) abortComm();
  // What lay here the last time already has nobody who waits for it.
  bool has_work = !queue_.empty();
  if (has_work && saw_work_ && seen_count_ == taken_count_ && !running) {
    startThread();
    come_.notify_one();
  }
  seen_count_ = taken_count_;
  saw_work_ = has_work;
  return has_work;
}

void Lane::abortComm() {
  std::lock_guard<std::mutex> lock(comm_mutex_);
  if (broken_.empty()) broken_ = "it was aborted";
  if (comm_) library().abort(comm_);
  comm_ = nullptr;
}

void Lane::close(bool isAbort) {
  std::unique_lock<std::mutex> lock(mutex_);
  is_closed_ = true;
  if (isAbort || running_) {
    abortComm();
  } else {
    std::lock_guard<std::mutex> comm_lock(comm_mutex_);
    if (broken_.empty()) broken_ = "the process group was destroyed";
    if (comm_) library().destroy(comm_);
    comm_ = nullptr;
  }
  // Nobody runs what is left: it ends with the error.
  while (!running_ && !queue_.empty()) runFront(lock);
  come_.notify_all();
  done_.notify_all();
}

ncclComm_t Lane::connect(LaneWork& work) {
  {
    std::lock_guard<std::mutex> lock(comm_mutex_);
    TORCH_CHECK(broken_.empty(), "the communicator cannot be used: ", broken_);
    if (comm_) return comm_;
  }
  ncclUniqueId id;
  if (rank_ == 0) {
    check(library().getUniqueId(&id), "ncclGetUniqueId");
    const auto* bytes = reinterpret_cast<const uint8_t*>(id.internal);
    store_->set(key_ + "/id", std::vector<uint8_t>(bytes, bytes + sizeof(id)));
  }
  // Who comes first waits here, where the deadline holds, and not in the library.
  int64_t here = store_->add(key_ + "/here", 1);
  for (int pause_us = 100; here < size_; pause_us = std::min(pause_us * 2, 5000)) {
    if (ticks(Clock::now()) > work.deadline_) work.isLate_ = true;
    TORCH_CHECK(!work.isLate_ && !is_closed_, "only ", here, " of ", size_, " ranks have come");
    std::this_thread::sleep_for(std::chrono::microseconds(pause_us));
    here = store_->add(key_ + "/here", 0);
  }
  if (rank_ != 0) {
    auto bytes = store_->get(key_ + "/id");
    TORCH_CHECK(bytes.size() == sizeof(id), "the id in the store has ", bytes.size(), " bytes");
    std::copy(bytes.begin(), bytes.end(), reinterpret_cast<uint8_t*>(id.internal));
  }
  ncclComm_t comm = nullptr;
  check(library().initRank(&comm, size_, id, rank_), "ncclCommInitRank");
  std::lock_guard<std::mutex> lock(comm_mutex_);
  if (!broken_.empty()) {
    library().abort(comm);
    TORCH_CHECK(false, "the communicator cannot be used: ", broken_);
  }
  return comm_ = comm;
}

std::shared_ptr<Lane> watched(std::shared_ptr<Lane> lane) {
  Watch::get().add(lane);
  return lane;
}

}  // namespace shoal
