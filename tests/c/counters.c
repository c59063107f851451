/* What a communicator counts: two ranks on one thread, whose every frame is known. */
#include "check.h"
#include "nccl.h"
#include "shoal.h"

#define MESSAGES 64

static ncclComm_t comms[2];
static char from[2][MESSAGES][8], into[2][MESSAGES][8];
static char large[2][4 << 20], copy[2][4 << 20];

static uint64_t value(int rank, const char* name) {
  shoalCounter_t all[64];
  int count = 0, place;
  CHECK(shoalCommCounters(comms[rank], all, 64, &count) == ncclSuccess && count > 10 && count <= 64);
  for (place = 0; place < count; place++)
    if (strcmp(all[place].name, name) == 0) return all[place].value;
  CHECK(!"there is such a counter");
  return 0;
}

/* What both ranks have counted, by the same name or by the name that the receiver gives it. */
static uint64_t sum(const char* name) { return value(0, name) + value(1, name); }

static void reasons_add_up(void) {
  int rank;
  for (rank = 0; rank < 2; rank++) {
    CHECK(value(rank, "frames") == value(rank, "frames_sealed") + value(rank, "frames_full") +
                                       value(rank, "frames_long") + value(rank, "frames_held"));
  }
  CHECK(sum("messages") == sum("received_messages"));
  CHECK(sum("message_bytes") == sum("received_message_bytes"));
  CHECK(sum("frames") == sum("received_frames"));
}

static void exchange(int messages) {
  int rank, message;
  CHECK(ncclGroupStart() == ncclSuccess);
  for (rank = 0; rank < 2; rank++) {
    for (message = 0; message < messages; message++) {
      CHECK(ncclSend(from[rank][message], 8, ncclInt8, 1 - rank, comms[rank], NULL) == ncclSuccess);
      CHECK(ncclRecv(into[rank][message], 8, ncclInt8, 1 - rank, comms[rank], NULL) == ncclSuccess);
    }
  }
  CHECK(ncclGroupEnd() == ncclSuccess);
}

static void frames(void) {
  CHECK(value(0, "frames") == 0 && value(0, "batches") == 0);
  exchange(MESSAGES);
  CHECK(value(0, "batches") == 1 && value(0, "messages") == MESSAGES && value(1, "messages") == MESSAGES);
  CHECK(value(0, "message_bytes") == 8 * MESSAGES);
  CHECK(value(0, "frames") == 1 && value(0, "frames_sealed") == 1 && value(1, "received_frames") == 1);
  CHECK(value(0, "plans_made") == 1);
  exchange(MESSAGES);
  CHECK(value(0, "plans_made") == 1 && value(0, "plans_found") >= 1);
  exchange(1);
  CHECK(value(0, "frames") == 3 && value(0, "messages") == 2 * MESSAGES + 1 && value(0, "plans_made") == 2);
  reasons_add_up();
}

static void lone(void) {
  uint64_t before[2];
  int turn;
  before[0] = value(0, "frames"), before[1] = value(1, "batches");
  for (turn = 0; turn < 10; turn++) {
    CHECK(ncclSend(from[0][0], 8, ncclInt8, 1, comms[0], NULL) == ncclSuccess);
    CHECK(ncclRecv(into[1][0], 8, ncclInt8, 0, comms[1], NULL) == ncclSuccess);
  }
  CHECK(value(0, "frames") == before[0] + 10 && value(1, "batches") == before[1] + 10);
  reasons_add_up();
}

static void long_messages(void) {
  uint64_t before = value(0, "frames"), sealed = value(0, "frames_sealed");
  int rank;
  CHECK(ncclGroupStart() == ncclSuccess);
  for (rank = 0; rank < 2; rank++) {
    CHECK(ncclSend(from[rank][0], 8, ncclInt8, 1 - rank, comms[rank], NULL) == ncclSuccess);
    CHECK(ncclSend(large[rank], sizeof large[rank], ncclInt8, 1 - rank, comms[rank], NULL) == ncclSuccess);
    CHECK(ncclSend(from[rank][1], 8, ncclInt8, 1 - rank, comms[rank], NULL) == ncclSuccess);
    CHECK(ncclRecv(into[rank][0], 8, ncclInt8, 1 - rank, comms[rank], NULL) == ncclSuccess);
    CHECK(ncclRecv(copy[rank], sizeof copy[rank], ncclInt8, 1 - rank, comms[rank], NULL) == ncclSuccess);
    CHECK(ncclRecv(into[rank][1], 8, ncclInt8, 1 - rank, comms[rank], NULL) == ncclSuccess);
  }
  CHECK(ncclGroupEnd() == ncclSuccess);
  CHECK(value(0, "frames") == before + 3 && value(0, "frames_sealed") == sealed + 1);
  CHECK(value(0, "frames_long") == 2);
  CHECK(sum("bulk_direct") + sum("bulk_mapped") + sum("bulk_attached") + sum("bulk_streamed") == 2);
  reasons_add_up();
}

static void collectives(void) {
  uint64_t messages = value(0, "messages");
  float mine[2] = {1, 2}, all[2] = {0, 0};
  int rank;
  CHECK(ncclGroupStart() == ncclSuccess);
  for (rank = 0; rank < 2; rank++)
    CHECK(ncclAllReduce(&mine[rank], &all[rank], 1, ncclFloat, ncclSum, comms[rank], NULL) == ncclSuccess);
  CHECK(ncclGroupEnd() == ncclSuccess);
  CHECK(all[0] == 3 && all[1] == 3);
  CHECK(value(0, "messages") == messages && value(0, "collective_packets") >= 1);
  CHECK(value(0, "collective_bytes") >= 4);
}

/* Three allreduces of each rank in one group; each reads its own source, or what the one before it wrote. */
static uint64_t fused(int chained) {
  uint64_t before = value(0, "collectives_fused");
  float mine[2][3] = {{1, 2, 3}, {4, 5, 6}}, all[2][3] = {{0, 0, 0}, {0, 0, 0}};
  int rank, one;
  CHECK(ncclGroupStart() == ncclSuccess);
  for (one = 0; one < 3; one++)
    for (rank = 0; rank < 2; rank++) {
      float* source = chained && one > 0 ? &all[rank][one - 1] : &mine[rank][one];
      CHECK(ncclAllReduce(source, &all[rank][one], 1, ncclFloat, ncclSum, comms[rank], NULL) == ncclSuccess);
    }
  CHECK(ncclGroupEnd() == ncclSuccess);
  for (rank = 0; rank < 2; rank++)
    for (one = 0; one < 3; one++) CHECK(all[rank][one] == (chained ? 5 << one : 5 + 2 * one));
  return value(0, "collectives_fused") - before;
}

static void collectives_of_a_group(void) {
  CHECK(fused(0) == 3);
  CHECK(fused(1) == 0);
  CHECK(fused(0) == 3);
}

static void arguments(void) {
  shoalCounter_t few[2];
  int all = 0, count = 0;
  CHECK(shoalCommCounters(comms[0], NULL, 0, &all) == ncclSuccess && all > 2);
  few[1].value = 77;
  CHECK(shoalCommCounters(comms[0], few, 1, &count) == ncclSuccess && count == all);
  CHECK(strcmp(few[0].name, "batches") == 0 && few[1].value == 77);
  CHECK(shoalCommCounters(comms[0], NULL, 1, &count) == ncclInvalidArgument);
  CHECK_SAID("shoalCommCounters: out is NULL; ");
}

int main(void) {
  int rank;
  alarm(WATCHDOG_SECONDS);
  CHECK(ncclCommInitAll(comms, 2, NULL) == ncclSuccess);
  frames();
  lone();
  long_messages();
  collectives();
  collectives_of_a_group();
  arguments();
  for (rank = 0; rank < 2; rank++) CHECK(ncclCommDestroy(comms[rank]) == ncclSuccess);
  return 0;
}
