#!/bin/sh
# Measures every algorithm of every collective on some ranks of this machine, for `shoal simulate --fit`: one JSON
# object a line, as `shoal bench` writes it, with the algorithm and the cores added.
#     scripts/simulate_measure.sh RANKS [OPERATION...] >> RECORD
set -eu
ranks=$1
shift
[ $# -gt 0 ] || set -- allreduce reduce broadcast allgather reducescatter alltoall gather scatter
shoal=${SHOAL_COMMAND:-target/release/shoal}
sizes=${SIMULATE_SIZES:-64,4K,64K,1M}
cores=$(nproc)

algorithms() {
    case $1 in
    allreduce) echo exchange two-shot ring tree tree4 tree8 double-tree doubling rabenseifner bruck pairwise ;;
    reduce) echo exchange two-shot ring tree tree4 tree8 double-tree doubling rabenseifner ;;
    broadcast) echo exchange two-shot ring tree tree4 tree8 double-tree bruck ;;
    allgather) echo exchange ring tree tree8 doubling bruck pairwise pat ;;
    reducescatter) echo exchange ring rabenseifner bruck pairwise pat ;;
    alltoall) echo exchange bruck pairwise ;;
    gather | scatter) echo exchange tree tree4 tree8 ;;
    *) echo "no operation $1" >&2; exit 1 ;;
    esac
}

for operation; do
    for algorithm in $(algorithms "$operation"); do
        SHOAL_ALGORITHM=$algorithm "$shoal" bench --op "$operation" --ranks "$ranks" --sizes "$sizes" --in-place 0 \
            --check 0 --warmup 3 --batches 5 --seconds "${SIMULATE_SECONDS:-0.06}" --format json |
            grep '"op"' | sed "s/^{/{\"algorithm\":\"$algorithm\",\"cores\":$cores,/"
    done
done
