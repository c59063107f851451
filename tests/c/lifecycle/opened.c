/* A program that opens the library by itself and closes it again, as Python does. It closes it after destroy,
 * and with a communicator that lives: neither may unload code that still runs. Copies in other places, each a
 * library of its own, work beside it. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "nccl.h"
#include "shoal.h"

#define CHECK(truth)                                                             \
  do {                                                                           \
    if (!(truth)) {                                                              \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #truth);                \
      return 1;                                                                  \
    }                                                                            \
  } while (0)

/* ISO C has no cast from an object pointer to a function's. */
static void find(void* library, const char* name, void* function) {
  void* found = dlsym(library, name);
  memcpy(function, &found, sizeof found);
}

static int use(const char* path, int destroys) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) fprintf(stderr, "%s\n", dlerror());
  CHECK(library != NULL);
  ncclResult_t (*init_all)(ncclComm_t*, int, const int*);
  ncclResult_t (*destroy)(ncclComm_t);
  ncclResult_t (*start)(void);
  ncclResult_t (*end)(void);
  ncclResult_t (*stream_create)(shoalStream_t*);
  ncclResult_t (*stream_synchronize)(shoalStream_t);
  ncclResult_t (*all_reduce)(const void*, void*, size_t, ncclDataType_t, ncclRedOp_t, ncclComm_t, shoalStream_t);
  find(library, "ncclCommInitAll", &init_all);
  find(library, "ncclCommDestroy", &destroy);
  find(library, "ncclGroupStart", &start);
  find(library, "ncclGroupEnd", &end);
  find(library, "ncclAllReduce", &all_reduce);
  find(library, "shoalStreamCreate", &stream_create);
  find(library, "shoalStreamSynchronize", &stream_synchronize);
  CHECK(init_all && destroy && start && end && all_reduce && stream_create && stream_synchronize);
  ncclComm_t comms[2];
  shoalStream_t stream = NULL;
  CHECK(init_all(comms, 2, NULL) == ncclSuccess && stream_create(&stream) == ncclSuccess);
  int words[2] = {20, 22};
  CHECK(start() == ncclSuccess);
  for (int rank = 0; rank < 2; rank++) {
    CHECK(all_reduce(&words[rank], &words[rank], 1, ncclInt32, ncclSum, comms[rank], stream) == ncclSuccess);
  }
  CHECK(end() == ncclSuccess && stream_synchronize(stream) == ncclSuccess);
  CHECK(words[0] == 42 && words[1] == 42);
  for (int rank = 0; destroys && rank < 2; rank++) CHECK(destroy(comms[rank]) == ncclSuccess);
  CHECK(dlclose(library) == 0);
  return 0;
}

int main(int count, char** arguments) {
  if (count < 2) return 2;
  alarm(30);
  for (int copy = 2; copy < count; copy++) {
    if (use(arguments[copy], 0) != 0) return 1;
  }
  for (int round = 0; round < 3; round++) {
    if (use(arguments[1], 1) != 0) return 1;
  }
  return use(arguments[1], 0);
}
