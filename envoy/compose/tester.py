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


def open_stream(envoy, path, session=None):
    """A response whose body is left to be read, and its connection."""
    connection = http.client.HTTPConnection(envoy, 10000, timeout=PATIENCE_S)
    connection.request("GET", path, headers={"x-session-id": session} if session else {})
    return connection.getresponse(), connection


def request(envoy, path, session=None):
    """A whole response, and its body beside it."""
    response, connection = open_stream(envoy, path, session)
    response.content = response.read()
    connection.close()
    return response


def way(response):
    return response.status, response.getheader("x-slotgate-path")


def insist(ask):
    """Asks again while the answer went without a slot: on a busy machine 50 ms may pass before the ledger has answered."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        answer = ask()
        response = answer[0] if isinstance(answer, tuple) else answer
        if way(response) != (200, "traditional"):
            return answer
        assert time.monotonic() < deadline, f"no slot within {PATIENCE_S} s"
        if response is not answer:
            answer[1].close()


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

    accounts = set()
    for envoy in ENVOYS * 5:
        # One at a time: an account that is full would send the session elsewhere.
        eventually("no slot is held", lambda: live() == 0)
        headers = json.loads(insist(lambda: request(envoy, "/echo", "alice")).content)["headers"]
        assert len(headers["x-slotgate-lease"]) == 24, headers
        accounts.add(headers["x-slotgate-account"])
    assert len(accounts) == 1, f"a session has one account, not {accounts}"
    print(f"a session keeps its account through both: {accounts}")

    eventually("no slot is held", lambda: live() == 0)
    events = "/sse?events=100000&interval_ms=200"
    streams = [insist(lambda: open_stream(ENVOYS[number % 2], events)) for number in range(sum(SLOTS.values()))]
    assert all(way(response) == (200, "atomic") for response, _ in streams)
    assert used() == SLOTS, used()
    for envoy in ENVOYS:
        refused = insist(lambda: request(envoy, "/"))
        assert refused.status == 429 and int(refused.getheader("retry-after")) >= 1, refused.status
        assert json.loads(refused.content)["error"]["type"] == "slotgate_saturated"
    print(f"{len(streams)} streams hold every slot, one more is refused by either: {used()}")

    for response, connection in streams:
        response.close()
        connection.close()
    eventually("every slot is free again", lambda: live() == 0 and not any(used().values()))
    assert way(insist(lambda: request("envoy", "/"))) == (200, "atomic")
    print("their clients left: every slot is free")


try:
    main()
except (AssertionError, OSError, http.client.HTTPException, KeyError, ValueError) as error:
    sys.exit(f"FAILED: {type(error).__name__}: {error}")
print("OK")
