// Shoal's library, loaded beside whatever NCCL torch brings: by its path, so that the two never mix.
#pragma once

#include <dlfcn.h>
#include <nccl.h>

#include <c10/util/Exception.h>

#include <string>
#include <type_traits>

namespace shoal {

// The functions that the backend calls.
struct Library {
  decltype(&::ncclGetUniqueId) getUniqueId;
  decltype(&::ncclCommInitRank) initRank;
  decltype(&::ncclCommDestroy) destroy;
  decltype(&::ncclCommAbort) abort;
  decltype(&::ncclGetErrorString) errorString;
  decltype(&::ncclGetLastError) lastError;
  decltype(&::ncclGroupStart) groupStart;
  decltype(&::ncclGroupEnd) groupEnd;
  decltype(&::ncclAllReduce) allReduce;
  decltype(&::ncclReduce) reduce;
  decltype(&::ncclBroadcast) broadcast;
  decltype(&::ncclAllGather) allGather;
  decltype(&::ncclReduceScatter) reduceScatter;
  decltype(&::ncclAlltoAll) allToAll;
  decltype(&::ncclSend) send;
  decltype(&::ncclRecv) recv;
};

// What open() loaded. Never unloaded, since a thread of the library may run in it.
inline Library& library() {
  static Library loaded{};
  return loaded;
}

inline void open(const std::string& path) {
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  TORCH_CHECK(handle, "shoal: ", path, " cannot be loaded: ", dlerror());
  auto find = [&](auto& place, const char* name) {
    void* symbol = dlsym(handle, name);
    TORCH_CHECK(symbol, "shoal: ", path, " has no ", name, "; it is of another version than this package");
    place = reinterpret_cast<std::remove_reference_t<decltype(place)>>(symbol);
  };
  Library& to = library();
  find(to.getUniqueId, "ncclGetUniqueId");
  find(to.initRank, "ncclCommInitRank");
  find(to.destroy, "ncclCommDestroy");
  find(to.abort, "ncclCommAbort");
  find(to.errorString, "ncclGetErrorString");
  find(to.lastError, "ncclGetLastError");
  find(to.groupStart, "ncclGroupStart");
  find(to.groupEnd, "ncclGroupEnd");
  find(to.allReduce, "ncclAllReduce");
  find(to.reduce, "ncclReduce");
  find(to.broadcast, "ncclBroadcast");
  find(to.allGather, "ncclAllGather");
  find(to.reduceScatter, "ncclReduceScatter");
  find(to.allToAll, "ncclAlltoAll");
  find(to.send, "ncclSend");
  find(to.recv, "ncclRecv");
}

// Turns a result that is no success into torch's error for it. The library's last error names call, rank and peer.
inline void check(ncclResult_t result, const char* call) {
  if (C10_LIKELY(result == ncclSuccess)) return;
  const char* text = library().lastError(nullptr);
  TORCH_CHECK_WITH(DistBackendError, false, "shoal: ", call, ": ", library().errorString(result), ": ",
                   text ? text : "");
}

}  // namespace shoal
