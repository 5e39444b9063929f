#!/usr/bin/env bash
# Counts the instructions of the pure hot path, per request, and compares them with tests/guard/baseline.txt; nothing is
# timed. `guard.sh --update` writes that file.
set -euo pipefail
cd -P "$(dirname "$0")/.."

: "${CARGO:=cargo}"
# Another compiler, or C library, counts a little otherwise.
TOLERANCE=10

command -v valgrind >/dev/null || { echo "guard: NOT counted, for want of valgrind" >&2; exit; }
"$CARGO" build --quiet --release --manifest-path tests/guard/Cargo.toml --target-dir target/guard
count() {
    local out
    out=$(valgrind --tool=callgrind --callgrind-out-file=/dev/null target/guard/release/guard "$@" 2>&1) ||
        { echo "$out" >&2; return 1; }
    sed -n 's/.*Collected : \([0-9]*\).*/\1/p' <<<"$out"
}
failed=0
seen=
for way in acquire together out handed heard refused full failover; do
    few=$(count "$way" 1000)
    many=$(count "$way" 3000)
    each=$(((many - few) / 2000))
    seen+="$way $each"$'\n'
    base=$(sed -n "s/^$way //p" tests/guard/baseline.txt)
    echo "guard: $way: $each instructions per request, baseline $base"
    if [ "${1:-}" != --update ] && [ $((each * 100)) -gt $((base * (100 + TOLERANCE))) ]; then
        echo "guard: $way takes more than $TOLERANCE % more than it did; if that is worth it: tests/guard.sh --update" >&2
        failed=1
    fi
done
[ "${1:-}" != --update ] || printf %s "$seen" >tests/guard/baseline.txt
exit $failed
