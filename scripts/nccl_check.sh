#!/usr/bin/env bash
# Compares our header, our symbols and what we know of versions with NVIDIA's library, from PyPI's package.
#   scripts/nccl_check.sh                    fails if the package cannot be had
#   scripts/nccl_check.sh --if-reachable     says so instead; what was had and disagrees fails all the same
set -euo pipefail
cd "$(dirname "$0")/.."

package=nvidia-nccl-cu13==2.32.3
folder=$PWD/target/nccl/${package##*==}

# 300 MB.
if ! scripts/fetch_wheel.sh "$package" "$folder" .h .so.2; then
    echo "nccl_check: $package could not be had; nothing was compared" >&2
    [ "${1:-}" = --if-reachable ] && exit 0
    exit 1
fi
SHOAL_TEST_NCCL_WHEEL=$folder timeout --kill-after=5 900 cargo test --locked --test abi -- --ignored
