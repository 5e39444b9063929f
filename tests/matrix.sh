#!/usr/bin/env bash
# The tests that need Envoy, against one Envoy after the other, and a table. VERSIONS="1.38.2 1.40.0" chooses; `matrix.sh
# oldest` runs a part of them against the oldest one only.
set -uo pipefail
cd -P "$(dirname "$0")/.."

: "${CARGO:=cargo}" "${VERSIONS:=1.36.4 1.37.0 1.38.2 1.39.3 1.40.0}"
what=(--test e2e --test deploy)
filters=()
if [ "${1:-}" = oldest ]; then
    VERSIONS=${VERSIONS%% *}
    # Streams and their ends, storms, replies that once crashed it, updates, other accounts, and the ways in which files are read.
    filters=(aborts:: storm:: a_reply_that_is_the_last_one a_drained_envoy a_bad_update bridge redis_tls:: sidecar:: istio:: examples:: failover:: failover_clusters:: endpoints::)
fi

# Envoy 1.38.3 was built without V8: it refuses any wasm.
failed=0 table=
for version in $VERSIONS; do
    envoy=$(scripts/setup.sh envoy "$version") || exit 1
    log=$(mktemp)
    begin=$SECONDS
    ENVOY=$envoy "$CARGO" test --no-fail-fast "${what[@]}" -- "${filters[@]}" 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    passed=$(awk '/^test result:/ {n += $4} END {print n + 0}' "$log")
    broken=$(awk '/^test result:/ {n += $6} END {print n + 0}' "$log")
    table+=$(printf '%-9s %6s %6s %5s s' "$version" "$passed" "$broken" $((SECONDS - begin)))$'\n'
    # Cargo's own status counts as well: a suite that does not build or crashes has no result.
    [ "$status" = 0 ] && [ "$passed" -gt 0 ] || failed=1
    rm -f "$log"
done
printf '\n%-9s %6s %6s\n%s' Envoy passed failed "$table"
exit "$failed"
