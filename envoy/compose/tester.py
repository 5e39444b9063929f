"""The tester of docker-compose.yaml: what must hold for two Envoys that share 35 slots. Its exit code is the verdict."""

import http.client
import json
import os
import socket
import sys
import time

ENVOYS = ("envoy", "envoy-2")
SLOTS = {"acct-1": 5, "acct-2": 10, "acct-3": 20}
PATIENCE_S = 30


def request(envoy, path, session=None):
    """The response, its body unread."""
    connection = http.client.HTTPConnection(envoy, 10000, timeout=PATIENCE_S)
    connection.request("GET", path, headers={"x-session-id": session} if session else {})
    response = connection.getresponse()
    response.connection = connection  # kept open for as long as the response is
    return response


def way(response):
    return response.status, response.getheader("x-slotgate-path")


def redis(*command):
    """One command to Redis: a number, a line or a list of strings."""
    with socket.create_connection(("redis", 6379), PATIENCE_S) as connection:
        password = os.environ["SLOTGATE_REDIS_PASSWORD"]
        for words in (("AUTH", password), command):
            parts = "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
            connection.sendall(f"*{len(words)}\r\n{parts}".encode())
        replies = connection.makefile("rb")
        assert replies.readline() == b"+OK\r\n", "Redis refuses the password"
        return reply(replies)


def reply(replies):
    line = replies.readline().decode().strip()
    kind, rest = line[0], line[1:]
    if kind == "*":
        return [reply(replies) for _ in range(int(rest))]
    if kind == "$":
        return replies.read(int(rest) + 2)[:-2].decode()
    assert kind != "-", rest
    return int(rest) if kind == ":" else rest


def eventually(what, holds):
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S} s: {what}"
        time.sleep(0.1)


def live():
    return redis("ZCARD", "slotgate:{demo}:leases")


def used():
    flat = redis("HGETALL", "slotgate:{demo}:used")
    return {name: int(count) for name, count in zip(flat[::2], flat[1::2]) if not name.startswith("#")}


def main():
    # A worker's first requests may leave before its pipe is open, and there are several workers.
    for envoy in ENVOYS:
        for _ in range(20):
            eventually(f"{envoy} takes slots", lambda: way(request(envoy, "/")) == (200, "atomic"))
    eventually("no slot is held", lambda: live() == 0)
    print("both Envoys take slots from one ledger")

    accounts = {request(envoy, "/", "alice").getheader("x-slotgate-account") for envoy in ENVOYS * 5}
    assert len(accounts) == 1, f"a session has one account, not {accounts}"
    headers = json.load(request("envoy", "/echo", "alice"))["headers"]
    assert headers["x-slotgate-account"] in accounts and len(headers["x-slotgate-lease"]) == 24, headers
    print(f"a session keeps its account through both: {accounts}")

    eventually("no slot is held", lambda: live() == 0)
    streams = [request(ENVOYS[number % 2], "/sse?events=100000&interval_ms=200") for number in range(sum(SLOTS.values()))]
    assert all(way(stream) == (200, "atomic") for stream in streams), [way(stream) for stream in streams]
    assert used() == SLOTS, used()
    for envoy in ENVOYS:
        refused = request(envoy, "/")
        assert refused.status == 429 and int(refused.getheader("retry-after")) >= 1, refused.status
        assert json.load(refused)["error"]["type"] == "slotgate_saturated"
    print(f"{len(streams)} streams hold every slot, one more is refused by either: {used()}")

    for stream in streams:
        stream.connection.sock and stream.connection.sock.close()
        stream.close()
    eventually("every slot is free again", lambda: live() == 0 and not any(used().values()))
    assert way(request("envoy", "/")) == (200, "atomic")
    print("their clients left: every slot is free")


try:
    main()
except (AssertionError, OSError, http.client.HTTPException, KeyError, ValueError) as error:
    sys.exit(f"FAILED: {type(error).__name__}: {error}")
print("OK")
