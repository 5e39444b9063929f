"""The upstream of docker-compose.yaml, by Python's standard library alone.

/echo answers what it was sent, as JSON; /sse?events=N&interval_ms=M streams N events, M ms apart; anything else: ok.
"""

import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class Upstream(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body are two writes: the second must not wait for an acknowledgement of the first.
    disable_nagle_algorithm = True

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        url = urlsplit(self.path)
        if url.path == "/sse":
            return self.stream({name: int(values[0]) for name, values in parse_qs(url.query).items()})
        if url.path == "/echo":
            headers = {name.lower(): value for name, value in self.headers.items()}
            echo = {"method": self.command, "path": self.path, "headers": headers, "body_length": len(body)}
            return self.answer("application/json", json.dumps(echo).encode())
        return self.answer("text/plain", b"ok\n")

    do_POST = do_GET

    def answer(self, kind, body):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, query):
        # Ends with the connection, so that no chunks need be written.
        self.close_connection = True
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        try:
            for number in range(query.get("events", 10)):
                self.wfile.write(b"data: %d\n\n" % number)
                time.sleep(query.get("interval_ms", 100) / 1000)
            self.wfile.write(b"data: [DONE]\n\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client has left

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    # Each stream is a connection: a burst of them must not be refused.
    request_queue_size = 128


Server(("", 8080), Upstream).serve_forever()
