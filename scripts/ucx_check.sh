#!/usr/bin/env bash
# Runs the tests of the network with the newest UCX, from PyPI's package, in place of the one that the system has.
set -euo pipefail
cd "$(dirname "$0")/.."

package=libucx-cu12==1.22.0
folder=$PWD/target/ucx/${package##*==}

# 43 MB.
if ! scripts/fetch_wheel.sh "$package" "$folder" .so.0; then
    echo "ucx_check: $package could not be had; nothing was run" >&2
    exit 1
fi
export SHOAL_UCX=$folder/libucx/lib/libucp.so.0
timeout --kill-after=5 1500 cargo test --locked --test network --test random_operations
