#!/usr/bin/env bash
# The C tests and examples under valgrind, ranks in other processes included: a wrong read, a wrong write or a
# definite leak fails.
#   scripts/valgrind.sh [FILE.c ...]    without files: tests/c/*.c and examples/*.c
set -euo pipefail
cd "$(dirname "$0")/.."

library=target/debug/libshoal.so
out=target/valgrind
mkdir -p "$out"
ln -sf "$PWD/$library" "$out/libnccl.so.2"
if [ ! -e "$library" ]; then
    echo "valgrind: $library is not there; make valgrind builds it first" >&2
    exit 1
fi
shopt -s nullglob
files=("$@")
if [ ${#files[@]} -eq 0 ]; then files=(tests/c/*.c examples/*.c); fi

failed=0
for file in "${files[@]}"; do
    name=$(basename "$file" .c)
    cc -std=gnu11 -g -O1 -pthread -Iinclude "$file" -L"$out" -Wl,-rpath,"$PWD/$out" -l:libnccl.so.2 -ldl -lm -o "$out/$name"
    # Valgrind runs one thread at a time, so waits take long: bounded, and generously.
    if timeout --kill-after=5 300 valgrind --quiet --error-exitcode=99 --trace-children=yes --fair-sched=yes \
        --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite \
        "$out/$name" >"$out/$name.log" 2>&1; then
        echo "passed  $name"
    else
        echo "FAILED  $name, $out/$name.log ends with"
        tail -n 15 "$out/$name.log"
        failed=$((failed + 1))
    fi
done
echo "$((${#files[@]} - failed)) passed, $failed failed"
[ "$failed" -eq 0 ]
