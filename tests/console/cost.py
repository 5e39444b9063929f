#!/usr/bin/env python3
"""What consoles that refresh every second, as the page does, cost the data path: requests/s beside none open, and CPU time
of Envoy and Redis for each request, which a busy machine blurs less. Rounds in turn. Usage: cost.py STAGE [ROUNDS]"""

import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
import urllib.request

STAGE, ROUNDS = sys.argv[1], int((sys.argv[2:] or [15])[0])


def poll(url, stop, took):
    while not stop.wait(1):
        begin = time.monotonic()
        json.load(urllib.request.urlopen(url, timeout=5))
        took.append(time.monotonic() - begin)


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


def main():
    stage = subprocess.Popen([STAGE, "500", "0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    at = json.loads(stage.stdout.readline())
    flood(at)
    figures = {0: [], 1: [], 10: []}
    took = []
    for _ in range(ROUNDS):
        for consoles, rounds in random.sample(list(figures.items()), len(figures)):
            stop = threading.Event()
            threads = [threading.Thread(target=poll, args=(at["console"] + "api/status", stop, took)) for _ in range(consoles)]
            for thread in threads:
                thread.start()
            rounds.append(flood(at))
            stop.set()
            for thread in threads:
                thread.join()
    stage.stdin.close()
    stage.wait(30)
    for consoles, rounds in figures.items():
        rate, each = (statistics.median(column) for column in zip(*rounds))
        rates, costs = ([one[n] / none[n] for one, none in zip(rounds, figures[0])] for n in (0, 1))
        print(f"{consoles:2} consoles: {rate:.0f} requests/s, {each:.1f} us of CPU each;"
              f" medians of the rounds' ratios to none: {statistics.median(rates):.3f} and {statistics.median(costs):.3f}")
    print(f"a look at 500 accounts took {statistics.median(took) * 1000:.1f} ms under that load")


main()
