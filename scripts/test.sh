#!/usr/bin/env bash
# Builds and runs every test, each in bounded time. The last line is the summary of whoever ran them.
set -euo pipefail
cd "$(dirname "$0")/.."

profile=default run_ignored=default limit_s=1500
if [ "${1:-}" = --long ]; then
    profile=long run_ignored=all limit_s=14400
fi
bounded() { timeout --kill-after=30 "$@"; }

# First, so that the summary stays last. It says so where there is no torch, which counts as no test.
with_torch() {
    local python=${SHOAL_TORCH_PYTHON:-python3}
    if "$python" -c "import torch" 2>/dev/null && [ ! -e target/release/libshoal.so ]; then
        bounded 1200 cargo build --release --locked
    fi
    scripts/torch_check.sh --if-there "$python"
}

with_torch

if cargo nextest --version >/dev/null 2>&1; then
    bounded 2400 cargo nextest run --locked --no-run
    # nextest knows nothing of the examples in the documentation, so they go first.
    bounded 600 cargo test --locked --doc --quiet
    bounded "$limit_s" cargo nextest run --locked --profile "$profile" --run-ignored "$run_ignored"
    exit
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
ignored=()
if [ "$run_ignored" = all ]; then ignored=(-- --include-ignored --skip nvidias --skip the_release_); fi
bounded 2400 cargo test --locked --no-run
status=0
bounded "$limit_s" cargo test --locked --no-fail-fast "${ignored[@]}" 2>&1 | tee "$log" || status=$?
awk '/^test result:/ { for (i = 2; i <= NF; i++) { if ($i ~ /^passed/) passed += $(i - 1); if ($i ~ /^failed/) failed += $(i - 1) } }
     END { printf "%d passed, %d failed\n", passed, failed }' "$log"
exit "$status"
