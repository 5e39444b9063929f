"""Two providers on this machine, by TLS: the parts of their APIs that the tests of envoy/llm.yaml use.

upstream.py DIR: each one's certificate is DIR/<host>.pem and DIR/<host>-key.pem. The first line of output has their ports, each
later one a request as it came. A stream sends its second event when the file DIR/go is there. Ends with its input.
"""

import json
import os
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DIR = sys.argv[1]
HOSTS = {"openai": "api.openai.com", "anthropic": "api.anthropic.com"}
TEXT = ["hello ", "from ", "upstream"]
lock = threading.Lock()


def say(line):
    with lock:
        print(json.dumps(line), flush=True)


def images(value):
    """How many bytes of images a body has, in either API's form."""
    if isinstance(value, list):
        return sum(images(entry) for entry in value)
    if not isinstance(value, dict):
        return 0
    kind = value.get("type")
    if kind == "image":
        return len(value["source"]["data"])
    if kind == "image_url":
        return len(value["image_url"]["url"].split(",", 1)[1])
    return sum(images(entry) for entry in value.values())


class Provider(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    name = ""

    def log_message(self, *_):
        pass

    def key(self):
        if self.name == "anthropic":
            return self.headers.get("x-api-key", "")
        return self.headers.get("authorization", "").removeprefix("Bearer ")

    def body(self):
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        whole = b""
        while size := int(self.rfile.readline(), 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def chunk(self, text):
        data = text.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def stream(self, events):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number, event in enumerate(events):
            if number == len(events) // 2:
                while not os.path.exists(os.path.join(DIR, "go")):
                    time.sleep(0.01)
            self.chunk(event)
        self.chunk("")

    def do_GET(self):
        self.serve()

    def do_POST(self):
        self.serve()

    def serve(self):
        body = self.body()
        try:
            asked = json.loads(body)
        except ValueError:
            asked = {}
        key = self.key()
        headers = {name.lower(): value for name, value in self.headers.items()}
        say({"provider": self.name, "path": self.path, "key": key, "length": len(body), "images": images(asked), "headers": headers})
        if not key.startswith(f"key-of-{self.name}-"):
            error = {"type": "authentication_error", "message": "that is no key of ours"}
            return self.answer(401, {"type": "error", "error": error})
        if os.path.exists(os.path.join(DIR, "refuse-" + key)):
            error = {"type": "rate_limit_error", "message": "too many"}
            return self.answer(429, {"type": "error", "error": error})
        if self.path.endswith("/chat/completions"):
            return self.chat(asked)
        if self.path.split("?")[0].endswith("/messages"):
            return self.messages(asked)
        if "/audio/" in self.path:
            return self.answer(200, {"text": "".join(TEXT)})
        return self.answer(200, {"object": "list", "data": [], "has_more": False, "first_id": None, "last_id": None})

    def chat(self, asked):
        common = {"id": "chatcmpl-1", "created": 0, "model": asked["model"]}
        if not asked.get("stream"):
            message = {"role": "assistant", "content": "".join(TEXT)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
            return self.answer(200, {**common, "object": "chat.completion", "choices": [choice], "usage": usage})
        events = []
        for text in TEXT:
            choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
            events.append({**common, "object": "chat.completion.chunk", "choices": [choice]})
        events.append({**common, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        self.stream([f"data: {json.dumps(event)}\n\n" for event in events] + ["data: [DONE]\n\n"])

    def messages(self, asked):
        usage = {"input_tokens": 1, "output_tokens": 3}
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": asked["model"], "content": [], "usage": usage}
        message |= {"stop_reason": None, "stop_sequence": None}
        if not asked.get("stream"):
            return self.answer(200, message | {"content": [{"type": "text", "text": "".join(TEXT)}], "stop_reason": "end_turn"})
        events = [
            {"type": "message_start", "message": message},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        ]
        events += [{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}} for text in TEXT]
        events += [
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": usage},
            {"type": "message_stop"},
        ]
        self.stream([f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events])


def start(name):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    file = os.path.join(DIR, HOSTS[name])
    context.load_cert_chain(file + ".pem", file + "-key.pem")

    class Server(ThreadingHTTPServer):
        def get_request(self):
            connection, address = super().get_request()
            # The handshake is the connection's own thread's business.
            return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

        def handle_error(self, *_):
            pass

    handler = type(name, (Provider,), {"name": name})
    server = Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


say({name: start(name) for name in HOSTS})
sys.stdin.read()
os._exit(0)
