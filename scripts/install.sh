#!/usr/bin/env bash
# Installs the command line, the wasm, shell completions and manual pages below $DESTDIR$PREFIX. `install.sh PROGRAM WASM`
# takes them from elsewhere than from where make builds them.
set -euo pipefail
cd -P "$(dirname "$0")/.."

: "${PREFIX:=/usr/local}" "${DESTDIR:=}"
program=${1:-${CARGO_TARGET_DIR:-target}/release/slotgate}
wasm=${2:-target/slotgate.wasm}
for file in "$program" "$wasm"; do
    [ -f "$file" ] || { echo "install: there is no $file; make cli wasm" >&2; exit 1; }
done
case $PREFIX in
/*) ;;
*) echo "install: PREFIX=$PREFIX is not a path from /" >&2; exit 1 ;;
esac

to=$DESTDIR$PREFIX
install -d "$to/bin" "$to/share/slotgate"
install -m 755 "$program" "$to/bin/slotgate"
install -m 644 "$wasm" "$to/share/slotgate/slotgate.wasm"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$program" generate "$work" >/dev/null
(cd "$work" && find share -type f | LC_ALL=C sort) | while read -r file; do
    install -D -m 644 "$work/$file" "$to/$file"
    echo "$to/$file"
done
echo "$to/share/slotgate/slotgate.wasm"
echo "$to/bin/slotgate"
