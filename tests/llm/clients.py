"""The providers' own clients, told what to do by lines of JSON: clients.py.

{"base": URL, "client": "openai" | "anthropic", "do": …, …} is answered by one line of JSON: what the client got, or the error it raised.
"""

import base64
import json
import sys

import anthropic
import openai

CLIENTS = {
    # Keys that no provider takes: the gateway puts its own in their place.
    "openai": openai.OpenAI(base_url="http://127.0.0.1:1/v1", api_key="of-the-client", max_retries=2, timeout=60),
    "anthropic": anthropic.Anthropic(base_url="http://127.0.0.1:1", api_key="of-the-client", max_retries=2, timeout=60),
}
streams = []


def client_of(ask, retries=0):
    base = ask["base"] + ("/v1" if ask["client"] == "openai" else "")
    return CLIENTS[ask["client"]].with_options(base_url=base, max_retries=retries)


def content(ask, kind):
    """A question, with an image of so many bytes if one is asked for."""
    if not ask.get("image"):
        return "hello"
    data = base64.b64encode(b"\x89PNG" * (ask["image"] // 4)).decode()
    if kind == "openai":
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + data}}
    else:
        image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
    return [{"type": "text", "text": "hello"}, image]


def text_of(kind, event):
    if kind == "openai":
        return (event.choices[0].delta.content or "") if event.choices else ""
    return getattr(getattr(event, "delta", None), "text", None) or ""


def ask_model(ask):
    kind = ask["client"]
    client = client_of(ask, ask.get("retries", 0))
    messages = [{"role": "user", "content": content(ask, kind)}]
    more = {"extra_headers": ask.get("headers", {}), "stream": ask.get("stream", False)}
    if kind == "openai":
        if "user" in ask:
            more["user"] = ask["user"]
        got = client.chat.completions.create(model=ask["model"], messages=messages, **more)
    else:
        if "user" in ask:
            more["metadata"] = {"user_id": ask["user"]}
        got = client.messages.create(model=ask["model"], messages=messages, max_tokens=10, **more)
    if not more["stream"]:
        return {"text": got.choices[0].message.content if kind == "openai" else got.content[0].text}
    events = iter(got)
    streams.append((kind, events))
    first = ""
    while not first:
        first = text_of(kind, next(events))
    return {"first": first}


def act(ask):
    match ask["do"]:
        case "ask":
            return ask_model(ask)
        case "rest":
            kind, events = streams.pop(0)
            return {"rest": "".join(text_of(kind, event) for event in events)}
        case "models":
            return {"models": len(client_of(ask).models.list().data)}
        case "transcribe":
            file = ("a.wav", b"RIFF" * 1000, "audio/wav")
            return {"text": client_of(ask).audio.transcriptions.create(model="whisper-1", file=file).text}


print(json.dumps({"openai": openai.__version__, "anthropic": anthropic.__version__}), flush=True)
for line in sys.stdin:
    try:
        answer = act(json.loads(line))
    except (openai.APIStatusError, anthropic.APIStatusError) as error:
        answer = {"error": type(error).__name__, "status": error.status_code, "body": error.body}
    print(json.dumps(answer), flush=True)
