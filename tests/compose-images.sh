#!/usr/bin/env bash
# Makes what envoy/docker-compose.yaml runs, under the same names, on a machine that can't pull images: one Debian from
# its packages, with the Envoy of .venv in one of them. Images that are there already are left alone. Grafana is not in
# Debian. `compose-images.sh missing` only lists what it would make.
set -euo pipefail
cd -P "$(dirname "$0")/.."

: "${ENVOY:=$PWD/.venv/envoy}"
base=slotgate-debian:bookworm
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)

die() { echo "compose-images: $*" >&2; exit 1; }
# What is being done, after how many seconds.
say() { echo "compose-images: ${SECONDS} s: $*"; }
there() { docker image inspect "$1" >/dev/null 2>&1; }
names() { sed -n 's/^ *image: *//p' envoy/docker-compose.yaml | grep -v '^grafana/' | sort -u; }
missing() { local name; for name in $(names); do there "$name" || echo "$name"; done; }
[ "${1:-}" = missing ] && missing && exit

# Everything any of them needs, so that there is one to make.
debian() {
    there "$base" && return
    work=$(mktemp -d)
    trap '"${as_root[@]}" rm -rf "$work"' EXIT
    say "image 0 of $count: $base, a Debian with Redis, Python and Prometheus from its packages (two to four minutes)"
    # Each package is named when it is retrieved, unpacked and configured: the first of each, and every 25th.
    "${as_root[@]}" debootstrap --variant=minbase --include=redis-tools,python3,prometheus bookworm "$work/root" 2>&1 |
        tee "$work/log" | awk '
            $1 == "I:" && $2 ~ /^(Retrieving|Extracting|Unpacking|Configuring)$/ && $3 != "the" && $3 !~ /Release|Packages/ {
                if (seen[$2]++ % 25 == 0) { print "    " $2 " package " seen[$2] ": " $3; fflush() }
            }' || { tail -n 20 "$work/log" >&2; die "debootstrap failed"; }
    say "image 0 of $count: into the engine"
    "${as_root[@]}" tar -C "$work/root" --exclude=./var/cache/apt/* --exclude=./var/lib/apt/lists/* \
        --exclude=./usr/share/doc/* --exclude=./usr/share/locale/* -c . | docker import - "$base" >/dev/null
}

# From a Dockerfile on standard input, and one file beside it or none.
image() {
    local name=$1 file=${2:-} context
    context=$(mktemp -d)
    cat >"$context/Dockerfile"
    [ -z "$file" ] || cp -L "$file" "$context/"
    # The classic builder: BuildKit may be absent, and would ask a registry for the base.
    DOCKER_BUILDKIT=0 docker build --quiet --tag "$name" "$context" >/dev/null 2>"$context.log" ||
        { cat "$context.log" >&2; die "$name can't be built"; }
    rm -rf "$context" "$context.log"
    say "made $name"
}

todo=$(missing)
[ -n "$todo" ] || { echo "every image is there"; exit; }
count=$(wc -w <<<"$todo")
debian
number=0
for name in $todo; do
    number=$((number + 1))
    say "image $number of $count: $name"
    # A version in a name is the version inside, or the build fails.
    version=${name##*:}
    version=${version#v}
    version=${version%%-*}
    case $name in
    envoyproxy/envoy:*)
        "$ENVOY" --version | grep -F "/$version/" >/dev/null || die "$ENVOY is not $version"
        # The official one runs as a user of this number too.
        image "$name" "$ENVOY" <<END
FROM $base
COPY envoy /usr/local/bin/
USER 101
END
        ;;
    redis:*)
        # Debian has the server in redis-tools; it goes by the name it is called by.
        image "$name" <<END
FROM $base
RUN ln -s redis-check-rdb /usr/bin/redis-server && redis-server --version | grep -F v=$version
USER redis
END
        ;;
    python:*)
        image "$name" <<END
FROM $base
RUN python3 --version | grep -F $version
END
        ;;
    prom/prometheus:*)
        image "$name" <<END
FROM $base
RUN prometheus --version 2>&1 | grep -F $version && mkdir /prometheus && chown nobody /prometheus
USER nobody
ENTRYPOINT ["/bin/prometheus"]
END
        ;;
    *) die "no way to make $name" ;;
    esac
done
