#!/usr/bin/env bash
# Compares our header, our symbols and what we know of versions with NVIDIA's library, from PyPI's package.
#   scripts/nccl_check.sh                    fails if the package cannot be had
#   scripts/nccl_check.sh --if-reachable     says so instead; what was had and disagrees fails all the same
set -euo pipefail
cd "$(dirname "$0")/.."

package=nvidia-nccl-cu13==2.32.3
folder=$PWD/target/nccl/${package##*==}

fetch() {
    [ -e target/python/bin/pip ] || python3 -m venv target/python || return 1
    # 300 MB.
    timeout --kill-after=5 300 target/python/bin/pip download --quiet --disable-pip-version-check --retries 1 \
        --no-deps --only-binary :all: --dest "$folder.new" "$package" || return 1
    python3 - "$folder.new" <<'END' || return 1
import pathlib, sys, zipfile
folder = pathlib.Path(sys.argv[1])
wheel = next(folder.glob("*.whl"))
with zipfile.ZipFile(wheel) as archive:
    names = [name for name in archive.namelist() if name.endswith((".h", ".so.2"))]
    archive.extractall(folder, names)
wheel.unlink()
END
    mv "$folder.new" "$folder"
}

if [ ! -e "$folder" ]; then
    rm -rf "$folder.new"
    mkdir -p "$(dirname "$folder")"
    if ! fetch; then
        rm -rf "$folder.new"
        echo "nccl_check: $package could not be had; nothing was compared" >&2
        [ "${1:-}" = --if-reachable ] && exit 0
        exit 1
    fi
fi
SHOAL_TEST_NCCL_WHEEL=$folder timeout --kill-after=5 900 cargo test --locked --test abi -- --ignored
