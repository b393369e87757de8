#!/bin/sh
# Instructions of one inference on one CPU thread, counted by valgrind: figures that no other load moves.
#
#     scripts/instruction_counts.sh PROGRAM MODEL...      # PROGRAM: target/release/eyas or an older one
#
# Two runs of `eyas bench` that differ in the number of inferences are subtracted, so that loading does not count. Valgrind
# knows AVX2, not AVX-512.
set -eu
[ $# -ge 2 ] || { sed -n '4p' "$0" | cut -c3- >&2; exit 2; }
program=$1
shift
count() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" bench --backend cpu --threads 1 --runs "$2" -m "$1" 2>&1 >/dev/null |
        sed -n 's/.*Collected : \([0-9]*\).*/\1/p'
}
for model in "$@"; do
    few=$(count "$model" 1)
    more=$(count "$model" 3)
    [ -n "$few" ] && [ -n "$more" ] || { echo "$model: valgrind or the program failed" >&2; exit 1; }
    echo "$(basename "$model" .onnx) $(((more - few) / 2))"
done
