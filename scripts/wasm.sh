#!/usr/bin/env bash
# Builds target/slotgate.wasm. `wasm.sh which` only names the toolchain it would use: rustup or debian.
set -euo pipefail
cd -P "$(dirname "$0")/.."

: "${CARGO:=cargo}"

# Any rustc whose own library has the target will do, rustup's or not.
rustup_ready() {
    local sysroot
    sysroot=$(rustc --print sysroot 2>/dev/null) && [ -d "$sysroot/lib/rustlib/wasm32-wasip1/lib" ]
}

# Debian ships std as source, to be built with the crate.
debian_ready() {
    [ -x /usr/bin/cargo ] && [ -x /usr/bin/rustc ] && [ -d /usr/lib/rustlib/src/rust/library ] &&
        [ -f /usr/lib/wasm32-wasi/libc.a ] && command -v wasm-ld >/dev/null
}

which_toolchain() {
    local way
    for way in ${WASM_TOOLCHAIN:-rustup debian}; do
        "${way}_ready" && echo "$way" && return
    done
    return 1
}

toolchain=$(which_toolchain) || { echo "wasm: no toolchain for wasm32-wasip1; run make setup" >&2; exit 1; }
[ "${1:-}" = which ] && echo "$toolchain" && exit

# The same bytes wherever the checkout and cargo's home are.
flags=(
    "--remap-path-prefix=$PWD=slotgate"
    "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo"
)
# Less inlining than opt-level 3 has by itself: a twelfth smaller, and no slower in Envoy.
flags+=("-Cllvm-args=-inline-threshold=75")
build=(build --release --lib --target wasm32-wasip1)
target_dir=${CARGO_TARGET_DIR:-target}
if [ "$toolchain" = debian ]; then
    target_dir=$target_dir/debian # or the two would rebuild each other's work
    flags+=(-L native=/usr/lib/wasm32-wasi)
    build+=(-Z "build-std=std,panic_abort")
    CARGO=/usr/bin/cargo
    # RUSTC_BOOTSTRAP: -Z is refused on a stable compiler otherwise.
    export RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 CARGO_TARGET_WASM32_WASIP1_LINKER=wasm-ld
fi
# The encoded form, separated by 0x1f: a path may hold a space.
encoded=$(printf '%s\037' "${flags[@]}")
CARGO_ENCODED_RUSTFLAGS=${encoded%?} "$CARGO" "${build[@]}" --target-dir "$target_dir"

# Cargo knows best whether anything changed; an unchanged file keeps its time.
built=$target_dir/wasm32-wasip1/release/slotgate.wasm
plain=target/plain.wasm
wasm=target/slotgate.wasm
mkdir -p target
if ! cmp -s "$built" "$plain" || [ ! -f "$wasm" ]; then
    # A tenth smaller. The features are those that rustc's target has by itself.
    if command -v wasm-opt >/dev/null; then
        wasm-opt -O2 --enable-bulk-memory --enable-multivalue --enable-mutable-globals --enable-nontrapping-float-to-int \
            --enable-reference-types --enable-sign-ext "$built" -o "$wasm"
    else
        echo "wasm: NOT optimised, for want of wasm-opt (package binaryen)" >&2
        cp "$built" "$wasm"
    fi
    # Last: one that was interrupted is made again.
    cp "$built" "$plain"
fi
echo "$wasm: $(wc -c <"$wasm") bytes ($toolchain)"
