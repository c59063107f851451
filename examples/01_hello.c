/*
 * Two ranks in one process: the smallest program that communicates.
 *
 *   cc -Iinclude examples/01_hello.c target/release/libshoal.so -o hello
 *   LD_PRELOAD=target/release/libshoal.so ./hello
 *
 * The ranks are driven by one thread, so their calls stand in one group: nothing waits before the group ends.
 * On host memory every pointer is ordinary memory and the stream is NULL: when ncclGroupEnd returns, the work
 * is done.
 */
#include <nccl.h>
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

enum { RANKS = 2, COUNT = 4 };

int main(void) {
    ncclComm_t comms[RANKS];
    CHECK(ncclCommInitAll(comms, RANKS, NULL));

    float mine[RANKS][COUNT], sum[RANKS][COUNT];
    for (int rank = 0; rank < RANKS; rank++)
        for (int i = 0; i < COUNT; i++) mine[rank][i] = (float)(10 * rank + i);

    CHECK(ncclGroupStart());
    for (int rank = 0; rank < RANKS; rank++)
        CHECK(ncclAllReduce(mine[rank], sum[rank], COUNT, ncclFloat, ncclSum, comms[rank], NULL));
    CHECK(ncclGroupEnd());

    for (int rank = 0; rank < RANKS; rank++) {
        printf("rank %d of %d: the sum is", rank, RANKS);
        for (int i = 0; i < COUNT; i++) printf(" %g", sum[rank][i]);
        printf("\n");
        CHECK(ncclCommDestroy(comms[rank]));
    }
    return 0;
}
