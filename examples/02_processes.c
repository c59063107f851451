/*
 * Two processes, and small messages that travel together.
 *
 *   cc -Iinclude examples/02_processes.c target/release/libshoal.so -o processes
 *   LD_PRELOAD=target/release/libshoal.so ./processes
 *
 * Rank 0 makes the unique id; the program itself carries it to the other rank, here through a pipe. Then each
 * rank sends the other a header and 16 small messages in one group: without any change to the program, they
 * leave as one frame.
 */
#include <nccl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(call)                                                                                       \
    do {                                                                                                  \
        ncclResult_t result = (call);                                                                     \
        if (result != ncclSuccess) {                                                                      \
            fprintf(stderr, "%s: %s: %s\n", #call, ncclGetErrorString(result), ncclGetLastError(NULL));   \
            exit(1);                                                                                      \
        }                                                                                                 \
    } while (0)

enum { RANKS = 2, MESSAGES = 16, COUNT = 8 };

/* What message `index` of `rank` holds at `place`. */
static int32_t value(int rank, int index, int place) { return 10000 * rank + 100 * index + place; }

static void run(int rank, ncclUniqueId id) {
    ncclComm_t comm;
    CHECK(ncclCommInitRank(&comm, RANKS, id, rank));

    int peer = 1 - rank;
    int64_t header_out = MESSAGES, header_in = 0;
    int32_t out[MESSAGES][COUNT], in[MESSAGES][COUNT];
    for (int index = 0; index < MESSAGES; index++)
        for (int place = 0; place < COUNT; place++) out[index][place] = value(rank, index, place);

    CHECK(ncclGroupStart());
    CHECK(ncclSend(&header_out, 1, ncclInt64, peer, comm, NULL));
    CHECK(ncclRecv(&header_in, 1, ncclInt64, peer, comm, NULL));
    for (int index = 0; index < MESSAGES; index++) {
        CHECK(ncclSend(out[index], COUNT, ncclInt32, peer, comm, NULL));
        CHECK(ncclRecv(in[index], COUNT, ncclInt32, peer, comm, NULL));
    }
    CHECK(ncclGroupEnd());

    int right = header_in == MESSAGES;
    for (int index = 0; index < MESSAGES; index++)
        for (int place = 0; place < COUNT; place++) right &= in[index][place] == value(peer, index, place);
    printf("rank %d: %d messages from rank %d, %s\n", rank, (int)header_in, peer, right ? "all right" : "WRONG");
    CHECK(ncclCommDestroy(comm));
    if (!right) exit(1);
}

int main(void) {
    int ends[2];
    if (pipe(ends) != 0) return perror("pipe"), 1;
    pid_t child = fork();
    if (child < 0) return perror("fork"), 1;

    /* Each keeps its own end only, so that a parent that fails ends the child's wait. */
    close(ends[child == 0 ? 1 : 0]);
    ncclUniqueId id;
    if (child == 0) {
        if (read(ends[0], &id, sizeof id) != (ssize_t)sizeof id) return fprintf(stderr, "no id came\n"), 1;
        run(1, id);
        return 0;
    }
    CHECK(ncclGetUniqueId(&id));
    if (write(ends[1], &id, sizeof id) != (ssize_t)sizeof id) return perror("write"), 1;
    run(0, id);
    int status = 1;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
