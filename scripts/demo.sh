#!/usr/bin/env bash
# The main job, on this machine, in a minute: small messages with and without coalescing, and the collectives.
# Ranks are started by the command itself. Each measurement ends by itself; the bound is for a machine in trouble.
set -euo pipefail
cd "$(dirname "$0")/.."

shoal=${SHOAL_COMMAND:-target/release/shoal}
if [ ! -x "$shoal" ]; then
    echo "demo: $shoal is not there; make demo builds it first" >&2
    exit 1
fi
measure() {
    local status=0
    timeout --kill-after=5 90 "$shoal" bench --ranks 2 --format table "$@" || status=$?
    if [ "$status" -eq 124 ]; then echo "demo: stopped after 90 s; a busy machine?" >&2; fi
    return "$status"
}

echo "Two ranks, $(nproc) cores. Small fish travel as one: the same messages, in turn, with coalescing (the default)"
echo "and each message a packet of its own (SHOAL_COALESCE=0). A ratio above 1: coalescing is faster."
echo
echo "1. 64 messages each way in one group:"
measure --op exchange -m 64 --sizes 8,512 -d uint8 --seconds 0.02 --turns 3 --against SHOAL_COALESCE=0
echo
echo "2. A pipeline's stage boundary, three messages forward and two back, of which two are of 72 bytes:"
measure --op neox --tensor 2 --sizes 256 --seconds 0.02 --turns 3 --against SHOAL_COALESCE=0
echo
echo "3. The collectives:"
measure --op allreduce,allgather,reducescatter,broadcast,alltoall -b 8 -e 1M -f 32
echo
echo "Next: make test, then LD_PRELOAD in the README's first lines."
