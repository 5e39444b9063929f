#!/usr/bin/env bash
# What is released, in target/dist: the wasm with its bill of materials and as an OCI layout, the command line with its own
# bill, an archive with all that `make install` installs, and the sums of these. Wasm and command line are built twice, in
# two folders; unless both are the same to the byte there is nothing to release.
set -euo pipefail
cd -P "$(dirname "$0")/.."

say() { echo "dist: $*" >&2; }
die() { say "$@"; exit 1; }

for program in git python3 sha256sum; do
    command -v "$program" >/dev/null || die "no $program here"
done

number=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
# What the builds say that they are. A tree that was changed since says so.
: "${SLOTGATE_VERSION:=$number+$(git rev-parse --short=12 HEAD)$(git diff --quiet HEAD || echo .changed)}"
# The only time in what is made, so that who builds this commit later gets the same bytes.
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct)}"
export SLOTGATE_VERSION SOURCE_DATE_EPOCH

# A command line without libc runs on any Linux of this machine's kind.
host=$(rustc -vV | sed -n 's/^host: //p')
target=${host%%-*}-unknown-linux-musl
has_target() { [ -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ]; }
has_target || ! command -v rustup >/dev/null || rustup target add "$target" || true
if ! has_target; then
    say "no $target here: the command line needs this system's libc, or a newer one"
    target=$host
fi

out=target/dist
rm -rf "$out" && mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
part=0
for home in "$work/one" "$work/another one"; do
    part=$((part + 1))
    mkdir -p "$home"
    # What git knows, as it is now.
    git ls-files -z --cached | tar --null --no-recursion -T - -c | tar -x -C "$home"
    say "build $part of 2: the wasm"
    (unset CARGO_TARGET_DIR; "$home/scripts/wasm.sh")
    say "build $part of 2: the command line for $target"
    (unset CARGO_TARGET_DIR; "$home/scripts/cli.sh" "$target")
done
built=target/$target/release/slotgate
for file in target/slotgate.wasm "$built"; do
    cmp "$work/one/$file" "$work/another one/$file" || die "two builds of the same source differ"
done

cp "$work/one/target/slotgate.wasm" "$out/"
(cd "$out" && sha256sum slotgate.wasm >slotgate.wasm.sha256)
cp "$work/one/$built" "$out/slotgate"
[ "$("$out/slotgate" --version)" = "slotgate $SLOTGATE_VERSION" ] || die "the command line is of another version"
case $target in
*-musl)
    # What needs a libc names the loader that brings it.
    ! LC_ALL=C readelf --program-headers "$out/slotgate" | grep -q INTERP || die "the command line is not static"
    ;;
esac
python3 scripts/dist.py "$out" "$target"

# An archive of what is installed, below one folder.
archive=slotgate-$number-$target
PREFIX=/$archive DESTDIR=$work scripts/install.sh "$out/slotgate" "$out/slotgate.wasm" >/dev/null
mkdir -p "$work/$archive/share/doc/slotgate"
install -m 644 LICENSE README.md CHANGELOG.md "$work/$archive/share/doc/slotgate/"
tar -C "$work" --sort=name --mode=u=rwX,go=rX --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" --format=ustar \
    -c "$archive" | gzip -n -9 >"$out/$archive.tar.gz"

(cd "$out" && sha256sum slotgate slotgate.wasm ./*.cdx.json ./*.tar.gz | sed 's,\./,,' >SHA256SUMS)
(cd "$out" && sha256sum --quiet --check SHA256SUMS)
echo "target/dist: slotgate $SLOTGATE_VERSION, built twice, the same both times"
cat "$out/SHA256SUMS"
