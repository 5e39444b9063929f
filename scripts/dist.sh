#!/usr/bin/env bash
# What is released, in target/dist: the wasm, its sum, its bill of materials, an OCI layout. Built twice, in two folders;
# unless both are the same to the byte there is nothing to release.
set -euo pipefail
cd -P "$(dirname "$0")/.."

for program in git python3 sha256sum; do
    command -v "$program" >/dev/null || { echo "dist: no $program here" >&2; exit 1; }
done
out=target/dist
rm -rf "$out" && mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for home in "$work/one" "$work/another one"; do
    mkdir -p "$home"
    # What git knows, as it is now.
    git ls-files -z --cached | tar --null --no-recursion -T - -c | tar -x -C "$home"
    (unset CARGO_TARGET_DIR; "$home/scripts/wasm.sh")
done
cmp "$work/one/target/slotgate.wasm" "$work/another one/target/slotgate.wasm" ||
    { echo "dist: two builds of the same source differ" >&2; exit 1; }
cp "$work/one/target/slotgate.wasm" "$out/"
(cd "$out" && sha256sum slotgate.wasm >slotgate.wasm.sha256)
python3 scripts/dist.py "$out"
echo "target/dist: built twice, the same both times"
cat "$out/slotgate.wasm.sha256"
