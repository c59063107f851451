/*
 * Streams without a GPU: calls that return at once, and work that runs in order behind them.
 *
 *   cc -Iinclude examples/05_streams.c target/release/libshoal.so -o streams
 *   LD_PRELOAD=target/release/libshoal.so ./streams
 *
 * A shoalStream_t goes where NCCL takes a cudaStream_t. Each rank has a stream of its own and starts three
 * operations on it, each of which reads what the one before wrote. The program is free to compute until it
 * asks for the result.
 */
#include <nccl.h>
#include <shoal.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(call)                                                                                       \
    do {                                                                                                  \
        ncclResult_t result = (call);                                                                     \
        if (result != ncclSuccess) {                                                                      \
            fprintf(stderr, "%s: %s: %s\n", #call, ncclGetErrorString(result), ncclGetLastError(NULL));   \
            exit(1);                                                                                      \
        }                                                                                                 \
    } while (0)

enum { RANKS = 2, COUNT = 1000 };
static double data[RANKS][COUNT];

int main(void) {
    ncclComm_t comms[RANKS];
    shoalStream_t streams[RANKS];
    CHECK(ncclCommInitAll(comms, RANKS, NULL));
    for (int rank = 0; rank < RANKS; rank++) {
        CHECK(shoalStreamCreate(&streams[rank]));
        for (int i = 0; i < COUNT; i++) data[rank][i] = rank + 1;
    }

    /* Each rank in place: the sum of 1 and 2 is 3, then 6, then 12. */
    for (int step = 0; step < 3; step++) {
        CHECK(ncclGroupStart());
        for (int rank = 0; rank < RANKS; rank++)
            CHECK(ncclAllReduce(data[rank], data[rank], COUNT, ncclDouble, ncclSum, comms[rank], streams[rank]));
        CHECK(ncclGroupEnd());
    }

    long looked = 0;
    while (shoalStreamQuery(streams[0]) == ncclInProgress) looked++; /* or something useful */
    for (int rank = 0; rank < RANKS; rank++) {
        CHECK(shoalStreamSynchronize(streams[rank]));
        printf("rank %d: %g to %g after three steps\n", rank, data[rank][0], data[rank][COUNT - 1]);
    }
    fprintf(stderr, "looked %ld times before the first stream was done\n", looked);
    for (int rank = 0; rank < RANKS; rank++) {
        CHECK(shoalStreamDestroy(streams[rank]));
        CHECK(ncclCommDestroy(comms[rank]));
    }
    return 0;
}
