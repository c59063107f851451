/* Every collective once, on counts that fit nothing, against what a rank can work out alone. */
#ifndef COLLECTIVES_H_
#define COLLECTIVES_H_

#include "crew.h"

/* What place `place` of rank `rank` holds. */
static int64_t value(int rank, size_t place) { return (int64_t)rank * 1000003 + (int64_t)(place * 7 + 1); }

static int64_t* filled(int rank, size_t count) {
  int64_t* words = malloc((count + 1) * sizeof *words);
  CHECK(words != NULL);
  for (size_t i = 0; i < count; i++) words[i] = value(rank, i);
  words[count] = -77;
  return words;
}

static int64_t* empty(size_t count) {
  int64_t* words = malloc((count + 1) * sizeof *words);
  CHECK(words != NULL);
  for (size_t i = 0; i <= count; i++) words[i] = -77;
  return words;
}

/* Nothing was written behind the end. */
static void let_go(int64_t* words, size_t count) {
  CHECK(words[count] == -77);
  free(words);
}

static int64_t sum(int ranks, size_t place) {
  int64_t total = 0;
  for (int rank = 0; rank < ranks; rank++) total += value(rank, place);
  return total;
}

static void rooted(ncclComm_t comm, int rank, int ranks, size_t count, int root, shoalStream_t stream) {
  size_t all = count * (size_t)ranks;
  int64_t *from = filled(rank, count), *into = empty(count);
  GOOD(ncclBroadcast(from, into, count, ncclInt64, root, comm, stream));
  GOOD(shoalStreamSynchronize(stream));
  for (size_t i = 0; i < count; i++) CHECK(into[i] == value(root, i));
  GOOD(ncclReduce(from, into, count, ncclInt64, ncclSum, root, comm, stream));
  GOOD(shoalStreamSynchronize(stream));
  for (size_t i = 0; i < count; i++) CHECK(rank != root || into[i] == sum(ranks, i));
  int64_t *gathered = empty(all), *scattered = empty(count), *whole = filled(root, all);
  GOOD(ncclGather(from, gathered, count, ncclInt64, root, comm, stream));
  GOOD(ncclScatter(whole, scattered, count, ncclInt64, root, comm, stream));
  GOOD(shoalStreamSynchronize(stream));
  for (size_t i = 0; i < all; i++) {
    CHECK(gathered[i] == (rank == root ? value((int)(i / count), i % count) : -77));
  }
  for (size_t i = 0; i < count; i++) CHECK(scattered[i] == value(root, (size_t)rank * count + i));
  let_go(from, count), let_go(into, count);
  let_go(gathered, all), let_go(scattered, count), let_go(whole, all);
}

static void rootless(ncclComm_t comm, int rank, int ranks, size_t count, shoalStream_t stream) {
  size_t all = count * (size_t)ranks;
  int64_t *from = filled(rank, all), *into = empty(all);
  GOOD(ncclAllReduce(from, into, count, ncclInt64, ncclSum, comm, stream));
  GOOD(shoalStreamSynchronize(stream));
  for (size_t i = 0; i < count; i++) CHECK(into[i] == sum(ranks, i));
  GOOD(ncclAllReduce(from, into, count, ncclInt64, ncclMax, comm, stream));
  GOOD(shoalStreamSynchronize(stream));
  for (size_t i = 0; i < count; i++) CHECK(into[i] == value(ranks - 1, i));
  GOOD(ncclAllGather(from, into, count, ncclInt64, comm, stream));
  GOOD(shoalStreamSynchronize(stream));
  for (size_t i = 0; i < all; i++) CHECK(into[i] == value((int)(i / count), i % count));
  GOOD(ncclReduceScatter(from, into, count, ncclInt64, ncclSum, comm, stream));
  GOOD(shoalStreamSynchronize(stream));
  for (size_t i = 0; i < count; i++) CHECK(into[i] == sum(ranks, (size_t)rank * count + i));
  GOOD(ncclAlltoAll(from, into, count, ncclInt64, comm, stream));
  GOOD(shoalStreamSynchronize(stream));
  for (size_t i = 0; i < all; i++) CHECK(into[i] == value((int)(i / count), (size_t)rank * count + i % count));
  let_go(from, all), let_go(into, all);
}

/* Messages in a ring, both directions, in one group. */
static void messages(ncclComm_t comm, int rank, int ranks, size_t count, shoalStream_t stream) {
  int next = (rank + 1) % ranks, before = (rank + ranks - 1) % ranks;
  int64_t *from = filled(rank, count), *forth = empty(count), *back = empty(count);
  GOOD(ncclGroupStart());
  GOOD(ncclSend(from, count, ncclInt64, next, comm, stream));
  GOOD(ncclRecv(forth, count, ncclInt64, before, comm, stream));
  GOOD(ncclSend(from, count, ncclInt64, before, comm, stream));
  GOOD(ncclRecv(back, count, ncclInt64, next, comm, stream));
  GOOD(ncclGroupEnd());
  GOOD(shoalStreamSynchronize(stream));
  for (size_t i = 0; i < count; i++) CHECK(forth[i] == value(before, i) && back[i] == value(next, i));
  let_go(from, count), let_go(forth, count), let_go(back, count);
}

static void every_collective(ncclComm_t comm, int rank, int ranks, size_t count, shoalStream_t stream) {
  rooted(comm, rank, ranks, count, 0, stream);
  rooted(comm, rank, ranks, count, ranks - 1, stream);
  rootless(comm, rank, ranks, count, stream);
  messages(comm, rank, ranks, count, stream);
}

#endif
