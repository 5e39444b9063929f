#!/usr/bin/env bash
# Format, lints, purity and documents. Where rustfmt or clippy cannot be had, says so and checks the rest.
set -euo pipefail
cd -P "$(dirname "$0")/.."

: "${CARGO:=cargo}"
skipped=()
if "$CARGO" fmt --version >/dev/null 2>&1; then
    "$CARGO" fmt --all --check
else
    skipped+=(rustfmt)
fi
if "$CARGO" clippy --version >/dev/null 2>&1; then
    "$CARGO" clippy --workspace --all-targets --all-features -- -D warnings
else
    skipped+=(clippy)
fi
"$CARGO" test --features cli --test purity --test docs --test fragments
[ ${#skipped[@]} = 0 ] || echo "check: NOT checked, for want of the tool: ${skipped[*]}" >&2
