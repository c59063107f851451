// What `shoal bench --contender gloo` needs of Gloo, which has a C++ interface only: a context over TCP, messages
// by slots of unbound buffers, and the collectives that Gloo has. Every function answers 0, or 1 with the words of
// the exception in gloo_wrapper_error. One context per process, used by one thread.
#include <gloo/allgather.h>
#include <gloo/allreduce.h>
#include <gloo/alltoall.h>
#include <gloo/barrier.h>
#include <gloo/broadcast.h>
#include <gloo/math.h>
#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/file_store.h>
#include <gloo/transport/tcp/device.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <string>

namespace {

std::shared_ptr<gloo::rendezvous::Context> context;
std::string error;
constexpr auto kPatience = std::chrono::seconds(60);
// Messages of ours lie apart from what the collectives use.
constexpr uint64_t kSlots = uint64_t(1) << 40;

template <typename Work>
int guarded(Work work) {
  try {
    work();
    return 0;
  } catch (const std::exception& caught) {
    error = caught.what();
    return 1;
  }
}

using Buffer = gloo::transport::UnboundBuffer;

}  // namespace

extern "C" {

const char* gloo_wrapper_error() { return error.c_str(); }

// Meets the other ranks at a folder that all of them see.
int gloo_wrapper_join(int rank, int ranks, const char* folder) {
  return guarded([&] {
    // Between hosts, the interface that torch's variable names.
    gloo::transport::tcp::attr where("127.0.0.1");
    const char* interface = std::getenv("GLOO_SOCKET_IFNAME");
    if (interface != nullptr) {
      where.hostname.clear();
      where.iface = interface;
    }
    auto device = gloo::transport::tcp::CreateDevice(where);
    gloo::rendezvous::FileStore store(folder);
    context = std::make_shared<gloo::rendezvous::Context>(rank, ranks);
    context->setTimeout(kPatience);
    context->connectFullMesh(store, device);
  });
}

int gloo_wrapper_leave() {
  return guarded([&] { context.reset(); });
}

// Memory between which and peers messages move; given back with gloo_wrapper_forget.
void* gloo_wrapper_region(void* start, size_t bytes) {
  void* region = nullptr;
  guarded([&] { region = context->createUnboundBuffer(start, bytes).release(); });
  return region;
}

void gloo_wrapper_forget(void* region) { delete static_cast<Buffer*>(region); }

int gloo_wrapper_send(void* region, int peer, uint64_t slot, size_t offset, size_t bytes) {
  return guarded([&] { static_cast<Buffer*>(region)->send(peer, kSlots + slot, offset, bytes); });
}

int gloo_wrapper_receive(void* region, int peer, uint64_t slot, size_t offset, size_t bytes) {
  return guarded([&] { static_cast<Buffer*>(region)->recv(peer, kSlots + slot, offset, bytes); });
}

int gloo_wrapper_wait(void* region, size_t sends, size_t receives) {
  return guarded([&] {
    auto* buffer = static_cast<Buffer*>(region);
    for (size_t done = 0; done < receives; done++) buffer->waitRecv(nullptr, kPatience);
    for (size_t done = 0; done < sends; done++) buffer->waitSend(nullptr, kPatience);
  });
}

int gloo_wrapper_allreduce(const float* source, float* target, size_t count) {
  return guarded([&] {
    gloo::AllreduceOptions options(context);
    options.setInput(const_cast<float*>(source), count);
    options.setOutput(target, count);
    options.setReduceFunction(static_cast<void (*)(void*, const void*, const void*, size_t)>(&gloo::sum<float>));
    gloo::allreduce(options);
  });
}

int gloo_wrapper_allgather(const uint8_t* source, uint8_t* target, size_t bytes, int ranks) {
  return guarded([&] {
    gloo::AllgatherOptions options(context);
    options.setInput(const_cast<uint8_t*>(source), bytes);
    options.setOutput(target, bytes * ranks);
    gloo::allgather(options);
  });
}

int gloo_wrapper_alltoall(const uint8_t* source, uint8_t* target, size_t bytes, int ranks) {
  return guarded([&] {
    gloo::AlltoallOptions options(context);
    options.setInput(const_cast<uint8_t*>(source), bytes * ranks);
    options.setOutput(target, bytes * ranks);
    gloo::alltoall(options);
  });
}

int gloo_wrapper_broadcast(const uint8_t* source, uint8_t* target, size_t bytes, int root, int rank) {
  return guarded([&] {
    gloo::BroadcastOptions options(context);
    if (rank == root) options.setInput(const_cast<uint8_t*>(source), bytes);
    options.setOutput(target, bytes);
    options.setRoot(root);
    gloo::broadcast(options);
  });
}

int gloo_wrapper_barrier() {
  return guarded([&] {
    gloo::BarrierOptions options(context);
    gloo::barrier(options);
  });
}
}
