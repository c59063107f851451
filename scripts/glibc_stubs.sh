#!/usr/bin/env bash
# Makes stand-ins for the C library to link a release with, so that it runs with glibc 2.28 on whatever newer
# machine it was built.
#
# A symbol of glibc has versions, and the linker takes the newest: a program linked today wants today's. But
# every glibc still has the old ones. The stand-ins define each symbol of this machine's libraries once, with
# its newest version that is not above the floor; what is younger is missing, so that the link fails if it is
# needed (and a weak symbol stays weak). They hold no code, and are never loaded: at run time the machine's own
# libraries come by the same names.
#
# usage: scripts/glibc_stubs.sh FOLDER
#   makes FOLDER/lib{c,m,pthread,dl,rt,util}.so, for -L, and FOLDER/{library,program}.o from link/glibc.c.
# Needs a C compiler, its nm, and awk. Where the C library is not glibc it makes nothing and says so.
set -euo pipefail
cd "$(dirname "$0")/.."

floor=2.28
: "${CC:=cc}" "${NM:=nm}"
rm -rf "${1:?the folder to make}"
mkdir -p "$1"
folder=$(cd "$1" && pwd)

place_of() { $CC -print-file-name="$1"; }
if [ ! -e "$(place_of libc.so.6)" ]; then
    echo "glibc_stubs: this compiler's C library is not glibc; the release is linked with what there is" >&2
    exit 0
fi

# Lines "symbol version type", the best version of each symbol of the given libraries.
symbols_of() {
    for name in "$@"; do
        file=$(place_of "$name")
        if [ -e "$file" ]; then $NM -D --defined-only --with-symbol-versions "$file"; fi
    done | awk -v floor="$floor" '
        function rank(version, part, n) { n = split(version, part, "."); return part[1] * 1e6 + part[2] * 1e3 + (n > 2 ? part[3] : 0) }
        {
            if (!match($3, /@+GLIBC_[0-9.]+$/)) next
            symbol = substr($3, 1, RSTART - 1); version = substr($3, RSTART); sub(/^@+GLIBC_/, "", version)
            if (rank(version) > rank(floor)) next
            if (!(symbol in best) || rank(version) > rank(best[symbol])) { best[symbol] = version; type[symbol] = $2 }
        }
        END { for (symbol in best) print symbol, best[symbol], type[symbol] }' | LC_ALL=C sort
}

# Where a symbol was before 2.34 put everything into one library: that file is what an old loader must be told
# to bring. The newer libraries still answer to these names.
library_of='
    function library_of(symbol) {
        if (symbol ~ /^(pthread_|__pthread_|sem_)/) return "pthread"
        if (symbol ~ /^(dlopen|dlclose|dlsym|dlvsym|dlerror|dladdr1?|dlinfo|dlmopen)$/) return "dl"
        if (symbol ~ /^(aio_|lio_|mq_|shm_|timer_)/) return "rt"
        if (symbol ~ /^(openpty|forkpty|login_tty|login|logout|logwtmp)$/) return "util"
        return "c"
    }'

# One library, from lines as above: its name for -l, the name that a loader knows, the file.
make_stub() {
    local name=$1 loaded_as=$2 file=$3 base=$folder/$1
    awk '{
            kind = $3 ~ /[BDRVbdrv]/ ? "object" : "function"
            print ".globl " $1; print ".type " $1 ", %" kind; print $1 ":"; print ".quad 0"; print ".size " $1 ", 8"
        } BEGIN { print ".data" }' >"$base.s" <"$base.list"
    awk '{ of[$2] = of[$2] " " $1 ";" }
        END { for (version in of) print "GLIBC_" version " { global:" of[version] " };" }' >"$base.map" <"$base.list"
    $CC -shared -nostdlib -o "$file" "$base.s" -Wl,-soname,"$loaded_as" -Wl,--version-script="$base.map" \
        -Wl,-z,noexecstack
}

symbols_of libc.so.6 libpthread.so.0 libdl.so.2 librt.so.1 libutil.so.1 >"$folder/all.list"
for pair in pthread:0 dl:2 rt:1 util:1; do
    name=${pair%:*}
    awk -v name="$name" "$library_of"' library_of($1) == name' <"$folder/all.list" >"$folder/$name.list"
    make_stub "$name" "lib$name.so.${pair#*:}" "$folder/lib$name.so"
done
symbols_of libm.so.6 >"$folder/m.list"
make_stub m libm.so.6 "$folder/libm.so"

# As everywhere, -lc is three things: the library, its static part, and the loader, which has some functions.
case $($CC -dumpmachine) in
    x86_64-*) loader=ld-linux-x86-64.so.2 ;;
    aarch64-*) loader=ld-linux-aarch64.so.1 ;;
    *) echo "glibc_stubs: nobody has said what the loader of $($CC -dumpmachine) is called" >&2; exit 1 ;;
esac
awk "$library_of"' library_of($1) == "c"' <"$folder/all.list" >"$folder/c.list"
make_stub c libc.so.6 "$folder/libc.so.6"
symbols_of "$loader" >"$folder/loader.list"
make_stub loader "$loader" "$folder/$loader"
static=$(place_of libc_nonshared.a)
if [ ! -e "$static" ]; then static=; fi
echo "GROUP ( $folder/libc.so.6 $static AS_NEEDED ( $folder/$loader ) )" >"$folder/libc.so"

$CC -O2 -fPIC -fno-builtin -c link/glibc.c -o "$folder/library.o"
$CC -O2 -fPIC -fno-builtin -DSHOAL_PROGRAM -c link/glibc.c -o "$folder/program.o"
rm -f "$folder"/*.s "$folder"/*.map "$folder"/*.list
