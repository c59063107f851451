#!/usr/bin/env bash
# Brings what the tests need. As root on Debian it installs what is missing; otherwise it says what to install
# and fails. What is there already is left alone, so a second run costs nothing.
set -euo pipefail

# Not libclang-cpp, which is another library.
libclang_is_there() { compgen -G '/usr/lib/llvm-*/lib/libclang[-.][0-9s]*' >/dev/null || ldconfig -p | grep -qE 'libclang(-[0-9.]+)?\.so'; }
ucx_is_there() { ldconfig -p | grep -q 'libucp\.so\.0'; }

# Each Debian package, and how to see that what it brings is there.
missing=()
need() {
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}
need gcc command -v gcc
need g++ command -v g++
need valgrind command -v valgrind
need python3 command -v python3
need python3-venv python3 -c 'import ensurepip, venv'
need pkg-config command -v pkg-config
need procps command -v ps
need util-linux command -v unshare
need util-linux command -v setpriv
need iproute2 command -v ip
need openmpi-bin command -v mpirun.openmpi
need libopenmpi-dev command -v mpicc.openmpi
need mpich command -v mpirun.mpich
need libmpich-dev command -v mpicc.mpich
need libclang-dev libclang_is_there
need libucx0 ucx_is_there
need libgloo-dev test -e /usr/include/gloo/context.h
need libucx-dev test -e /usr/include/ucp/api/ucp.h

if ! command -v cargo >/dev/null 2>&1; then
    echo "bring: there is no cargo; install Rust 1.90 or newer (https://rustup.rs), then run this again" >&2
    exit 1
fi
if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "bring: the tests need what these Debian packages hold: ${missing[*]}" >&2
    echo "bring: on Debian or Ubuntu: sudo apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
fi
echo "bring: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
timeout 300 apt-get update -qq
timeout 1200 apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
