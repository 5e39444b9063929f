#!/usr/bin/env bash
# All tests, side by side as tests/nextest.toml says; what is given is given to `cargo nextest run`. TEST_THREADS is how many
# run at once. Without nextest: one suite after the other, by `cargo test`.
set -euo pipefail
cd -P "$(dirname "$0")/.."

: "${CARGO:=cargo}" "${TEST_THREADS:=$((3 * $(nproc)))}"
nextest=$(command -v cargo-nextest || echo .venv/nextest/bin/cargo-nextest)
if [ ! -x "$nextest" ]; then
    echo "test: no cargo-nextest, so it takes twice as long" >&2
    exec "$CARGO" test --features cli
fi
exec "$nextest" nextest run --features cli --config-file tests/nextest.toml \
    --test-threads "$TEST_THREADS" "$@"
