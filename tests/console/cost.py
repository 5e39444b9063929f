#!/usr/bin/env python3
"""What consoles cost the data path on one worker: requests/s beside none open, and CPU time of Envoy and Redis for each
request, which a busy machine blurs less; and, blurred least, what share of a core each row takes alone. Consoles that refresh every second, as the page does, and clients that ask again
at once when they have their answer. Rounds in turn. Usage: cost.py STAGE [ROUNDS] [ACCOUNTS]"""

import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

STAGE = sys.argv[1]
ROUNDS, ACCOUNTS = (int(given or usual) for given, usual in zip(sys.argv[2:4] + ["", ""], (15, 500)))

# What is asked, how many ask, and how long each waits in between, in s.
ROWS = {
    "none": ("", 0, 0),
    "1 console": ("status", 1, 1),
    "10 consoles": ("status", 10, 1),
    "32 clients, status": ("status", 32, 0),
    "32 clients, the page": ("page", 32, 0),
    "32 clients, explain": ("explain", 32, 0),
}
REQUESTS = {
    "status": ("GET", "/api/status", None),
    "page": ("GET", "/", None),
    "explain": ("POST", "/api/explain", "{}"),
}


def poll(address, request, rest, stop, took):
    method, path, body = request
    connection = http.client.HTTPConnection(address, timeout=20)
    while not stop.wait(rest):
        begin = time.monotonic()
        connection.request(method, path, body, {"content-type": "application/json"} if body else {})
        reply = connection.getresponse()
        reply.read()
        took.append((time.monotonic() - begin, reply.status))
    connection.close()


def cpu_s(pids):
    ticks = 0
    for pid in pids:
        fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def flood(at):
    command = ["wrk", "-t1", "-c32", "-d3s", "--latency", "-s", "tests/bench/wrk.lua", f"http://{at['envoy']}/", "--", "session"]
    before = cpu_s(at["pids"])
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    seen = json.loads(next(line for line in lines if line.startswith("{")))
    assert seen["failed"] == 0, seen
    return seen["requests"] / seen["seconds"], (cpu_s(at["pids"]) - before) / seen["requests"] * 1e6


def open_consoles(address, name, took):
    """What ends them."""
    kind, clients, rest = ROWS[name]
    stop = threading.Event()
    threads = [threading.Thread(target=poll, args=(address, REQUESTS.get(kind), rest, stop, took)) for _ in range(clients)]
    for thread in threads:
        thread.start()

    def close():
        stop.set()
        for thread in threads:
            thread.join()

    return close


def alone(at, address):
    for name in ROWS:
        close = open_consoles(address, name, [])
        time.sleep(1)
        before = [cpu_s([pid]) for pid in at["pids"]]
        time.sleep(5)
        envoy, redis = ((cpu_s([pid]) - begin) * 20 for pid, begin in zip(at["pids"], before))
        close()
        print(f"{name:>20}: alone Envoy takes {envoy:.1f} % of a core, Redis {redis:.1f} %", flush=True)


def main():
    stage = subprocess.Popen([STAGE, str(ACCOUNTS), "0", "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    at = json.loads(stage.stdout.readline())
    address = urlsplit(at["console"]).netloc
    alone(at, address)
    flood(at)
    figures = {name: [] for name in ROWS}
    took = {name: [] for name in ROWS}
    for _ in range(ROUNDS):
        for name in random.sample(list(ROWS), len(ROWS)):
            close = open_consoles(address, name, took[name])
            figures[name].append(flood(at))
            close()
    stage.stdin.close()
    stage.wait(30)
    print(f"{ACCOUNTS} accounts, one worker, {ROUNDS} rounds of 3 s in turn; medians, and the rounds' ratios to none")
    for name, rounds in figures.items():
        rate, each = (statistics.median(column) for column in zip(*rounds))
        rates, costs = ([one[n] / none[n] for one, none in zip(rounds, figures["none"])] for n in (0, 1))
        said = ""
        if took[name]:
            waits = sorted(wait for wait, _ in took[name])
            failed = sum(status != 200 for _, status in took[name])
            said = (f"; {len(waits) / ROUNDS / 3:.0f} answers/s after {waits[len(waits) // 2] * 1000:.0f} ms,"
                    f" the slowest {waits[-1] * 1000:.0f} ms, {failed} not 200")
        print(f"{name:>20}: {rate:6.0f} requests/s ({statistics.median(rates):.3f}),"
              f" {each:6.1f} us of CPU each ({statistics.median(costs):.3f}){said}")


main()
