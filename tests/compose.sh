#!/usr/bin/env bash
# Runs envoy/docker-compose.yaml for real where a Docker engine answers, and says so where none does.
set -euo pipefail
cd -P "$(dirname "$0")/.."

: "${CARGO:=cargo}"
if ! timeout 10 docker version >/dev/null 2>&1; then
    echo "SKIPPED: make test-compose, since no Docker engine answers here" >&2
    exit
fi
scripts/setup.sh compose
[ -z "$(tests/compose-images.sh missing)" ] || tests/compose-images.sh
"$CARGO" test --test compose -- --ignored --nocapture
