#!/usr/bin/env bash
# Builds the command line as it is released, for the target given or this machine's, and prints where it is. Wherever the
# checkout and cargo's home are, the bytes are the same.
set -euo pipefail
cd -P "$(dirname "$0")/.."

: "${CARGO:=cargo}"
flags=(
    "--remap-path-prefix=$PWD=slotgate"
    "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo"
)
build=(build --release --locked --features cli --bin slotgate)
folder=${CARGO_TARGET_DIR:-target}
if [ -n "${1:-}" ]; then
    build+=(--target "$1")
    folder=$folder/$1
fi
# The encoded form, separated by 0x1f: a path may hold a space.
encoded=$(printf '%s\037' "${flags[@]}")
CARGO_ENCODED_RUSTFLAGS=${encoded%?} "$CARGO" "${build[@]}" >&2
echo "$folder/release/slotgate"
