/*
 * shoal.h: what Shoal offers beside NCCL's interface.
 *
 * Without a GPU there are no CUDA streams. A call with the NULL stream (or the outermost ncclGroupEnd) returns
 * when its work is done; with a shoalStream_t in place of the cudaStream_t it returns at once, and the work of
 * one stream runs in order behind it.
 */
#ifndef SHOAL_H_
#define SHOAL_H_

#include <stdint.h>

#include "nccl.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The type that NCCL's functions take, so that it goes where a stream goes. */
typedef struct CUstream_st* shoalStream_t;

/* Makes a stream. */
ncclResult_t shoalStreamCreate(shoalStream_t* stream);

/* Waits until all work of the stream is done. NULL has none left. */
ncclResult_t shoalStreamSynchronize(shoalStream_t stream);

/* ncclSuccess if all work of the stream is done, ncclInProgress if some remains. */
ncclResult_t shoalStreamQuery(shoalStream_t stream);

/* Waits for the stream's work, then forgets it. NULL is accepted. */
ncclResult_t shoalStreamDestroy(shoalStream_t stream);

/* What a communicator has counted on this rank since its birth; names that end in _bytes count bytes. */
typedef struct {
  const char* name; /* lives as long as the library */
  uint64_t value;
} shoalCounter_t;

/*
 * Writes up to room counters, and to count how many there are; room may be 0, and out is then not looked at. It may
 * be called at any time from any thread, and waits for nothing. Names may be added in later versions, none changes
 * its meaning:
 *   batches                               groups, lone calls and one-sided calls that were handed over
 *   messages, message_bytes               messages sent to other ranks
 *   frames                                packets that carried them. Why each left, when its batch was done:
 *     frames_sealed                         it held the batch's last message to that rank
 *     frames_full                           the next message had no room (SHOAL_FRAME_BYTES)
 *     frames_long                           a message too long to share a frame (SHOAL_COALESCE_BYTES) was in it or next
 *     frames_held                           it holds messages of several batches, queued while the path was busy
 *   received_messages, received_message_bytes, received_frames     the same from other ranks
 *   collective_packets, collective_bytes  sent by collectives
 *   collectives_fused                     small collectives that ran at once with others of their group
 *   plans_made, plans_found               batches of a new shape, and of one that was known
 *   records                               what the recorder wrote (SHOAL_RECORDS)
 *   bulk_direct, bulk_mapped, bulk_attached, bulk_streamed
 *                                         by which paths large packets came: from another thread's rank, from memory
 *                                         that both ranks map, by the kernel, through shared memory
 */
ncclResult_t shoalCommCounters(ncclComm_t comm, shoalCounter_t* out, int room, int* count);

/*
 * Options for one collective, in the list ncclCollConfig_t.ext; equal on every rank. Other libraries pass them
 * over.
 */
#define SHOAL_CONFIG_VENDOR 0x53484c
/* val.s: algorithms in the form of algSelection, which this option replaces. */
#define SHOAL_OPTION_ALGORITHM 1
/* val.i: 0 runs the call by itself, where it could run at once with others of its group. */
#define SHOAL_OPTION_COALESCE 2

/*
 * From now on `table` says which algorithms the communicator uses, in the form of the files that `shoal tune` writes;
 * where it says nothing, and if it is NULL, the built-in tables do. Every rank passes the same text, between the same
 * operations and when all of them are done.
 */
ncclResult_t shoalCommSetTable(ncclComm_t comm, const char* table);

#ifdef __cplusplus
}
#endif

#endif
