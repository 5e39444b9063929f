#!/usr/bin/env bash
# Each fuzz target for FUZZ_SECONDS, with the executions at the end. What is found and finds are kept in target/fuzz.
set -euo pipefail
cd -P "$(dirname "$0")/.."

: "${CARGO:=cargo}" "${FUZZ_SECONDS:=60}" "${FUZZ:=}"
targets=${FUZZ:-$(sed -n 's/^name = "\([a-z_]*\)"$/\1/p' tests/fuzz/Cargo.toml)}

# No sanitizer: the code is safe Rust, and a sanitizer needs a nightly compiler.
run() { (cd tests/fuzz && "$CARGO" fuzz "$@"); }
out=$PWD/target/fuzz
failed=()
for target in $targets; do
    mkdir -p "$out/found/$target" "$out/artifacts"
    CARGO_TARGET_DIR=$out/build run run --fuzz-dir . --sanitizer none "$target" \
        "$out/found/$target" "$PWD/tests/fuzz/corpus/$target" -- \
        -max_total_time="$FUZZ_SECONDS" -max_len=4096 -print_final_stats=1 \
        -artifact_prefix="$out/artifacts/$target-" >"$out/$target.log" 2>&1 || failed+=("$target")
    echo "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$out/$target.log") executions"
done
for target in "${failed[@]}"; do
    echo "$target FAILED:" >&2
    grep -A3 'panicked\|ERROR' "$out/$target.log" >&2 || tail -20 "$out/$target.log" >&2
done
[ ${#failed[@]} = 0 ]
