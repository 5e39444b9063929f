#!/usr/bin/env bash
# Builds the previous release's wasm from git and runs it beside this one, on one Redis. PREVIOUS=REVISION names another.
set -euo pipefail
cd -P "$(dirname "$0")/.."

: "${CARGO:=cargo}"
# The last tag; before the first release, the first revision whose ledger this one must still get on with.
PREVIOUS=${PREVIOUS:-$(git describe --tags --abbrev=0 2>/dev/null || echo 44da430)}
revision=$(git rev-parse --verify --quiet "$PREVIOUS^{commit}") || {
    echo "SKIPPED: make test-upgrade, since this clone has no $PREVIOUS (is it shallow?)" >&2
    exit
}
home=target/previous/$revision
if [ ! -f "$home/target/slotgate.wasm" ]; then
    rm -rf "$home" && mkdir -p "$home"
    git archive "$revision" | tar -x -C "$home"
    # Before 0.2 the scripts stood among the tests.
    build=$home/scripts/wasm.sh
    [ -f "$build" ] || build=$home/tests/wasm.sh
    (unset CARGO_TARGET_DIR; "$build")
fi
PREVIOUS_WASM=$PWD/$home/target/slotgate.wasm "$CARGO" test --test deploy upgrade -- --ignored --nocapture --test-threads 1
