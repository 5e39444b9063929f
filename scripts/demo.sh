#!/usr/bin/env bash
# The demo in the background: `up` starts it and waits until it answers, `down` stops it and waits until it is gone.
set -euo pipefail
cd -P "$(dirname "$0")/.."

: "${CARGO:=cargo}"

# Sets pid if the demo runs. The name is looked at too: after a crash the number may be another program's.
running() {
    pid=$(cat .run/pid 2>/dev/null) && tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -q 'demo.* up '
}

up() {
    running && echo "already up, pid $pid" && { cat .run/ready 2>/dev/null || true; } && return
    "$CARGO" build --example demo
    mkdir -p .run
    rm -f .run/ready
    # Cargo replaces itself by the demo, so this is the demo's pid. A session of its own outlives the terminal.
    setsid "$CARGO" run --quiet --example demo -- up >.run/demo.log 2>&1 </dev/null &
    echo $! >.run/pid
    local tries
    for ((tries = 0; tries < 600; tries++)); do
        # Whole when it has its last line.
        if grep -q '^console' .run/ready 2>/dev/null; then
            cat .run/ready
            echo "up, pid $(cat .run/pid); what to try is in .run/demo.log, make down stops it"
            return
        fi
        kill -0 $! 2>/dev/null || break
        sleep 0.1
    done
    tail -n 20 .run/demo.log >&2
    down
    echo "the demo did not come up; logs in .run/" >&2
    return 1
}

down() {
    if running; then
        kill -TERM "$pid"
        local tries
        for ((tries = 0; tries < 300; tries++)); do
            running || break
            sleep 0.1
        done
        running && echo "pid $pid does not stop; logs in .run/" >&2 && return 1
        echo "stopped pid $pid"
    fi
    rm -f .run/pid .run/ready
}

case ${1:-} in
up) up ;;
down) down ;;
*) echo "usage: demo.sh up|down" >&2 && exit 2 ;;
esac
