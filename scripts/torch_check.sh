#!/usr/bin/env bash
# The Python package with the torch of that Python: every test of python/tests, and which library torch's NCCL
# symbols are bound to when ours is preloaded.
#   scripts/torch_check.sh PYTHON                 fails if torch is not there
#   scripts/torch_check.sh --if-there PYTHON      says what was not run instead
set -euo pipefail
cd "$(dirname "$0")/.."

is_optional=
if [ "$1" = --if-there ]; then
    is_optional=yes
    shift
fi
python=$1
if ! "$python" -c 'import torch' 2>/dev/null; then
    echo "NOT RUN: python/tests and torch's bindings, since $python has no torch (make torch-check brings it)" >&2
    [ -n "$is_optional" ] && exit 0
    exit 1
fi
export SHOAL_HOME=${SHOAL_HOME:-$PWD} PYTHONPATH=$PWD/python
bounded() { timeout --kill-after=30 "$@"; }
bounded 600 "$python" -m shoal.torch
bounded 900 "$python" -m unittest discover -s python/tests -v
bounded 300 "$python" scripts/torch_bindings.py
