#!/usr/bin/env bash
# Brings a version of torch from PyPI into target/torch/VERSION: about 3 GB, with CUDA's libraries, which it links with.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$1
place=target/torch/$version
trap 'rm -rf "$place"' ERR
python3 -m venv "$place"
timeout 1800 "$place/bin/pip" install --quiet --disable-pip-version-check "torch==$version" numpy expecttest
