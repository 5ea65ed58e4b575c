"""A chat endpoint in this process that answers as it is told, well or badly."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


class ChatServer:
    """Serves replies in turn, the last one for ever; keeps every request."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.replies: list[Reply] = []
        self.url = ""
        self._lock = threading.Lock()

    def take(self, handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
        with self._lock:
            self.requests.append(request)
            reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        reply(handler, request)


def says(text: str, finish: str = "stop", usage: dict[str, int] | None = None) -> Reply:
    """A good answer with this text."""

    def reply(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
        choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
        body = {"id": "1", "object": "chat.completion", "created": 0, "model": request["model"], "choices": [choice]}
        if usage:
            body["usage"] = {**usage, "total_tokens": sum(usage.values())}
        send(handler, 200, json.dumps(body))

    return reply


def refuses(status: int, message: str = "no", headers: dict[str, str] | None = None, code: str = "") -> Reply:
    """An error of HTTP, in OpenAI's form."""
    body = json.dumps({"error": {"message": message, "type": "error", "code": code}})
    return lambda handler, _: send(handler, status, body, headers)


def sends(body: str, content_type: str = "application/json") -> Reply:
    """Status 200 and any body."""
    return lambda handler, _: send(handler, 200, body, {"Content-Type": content_type})


def hangs(seconds: float) -> Reply:
    """No answer for so long."""
    return lambda handler, _: time.sleep(seconds)


def breaks_off(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
    """Promises more than it sends."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    handler.wfile.write(b'{"id": "1", "choices": [{"mess')
    handler.close_connection = True


def send(handler: BaseHTTPRequestHandler, status: int, body: str, headers: dict[str, str] | None = None) -> None:
    content = body.encode()
    handler.send_response(status)
    for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


@contextlib.contextmanager
def chat_server(*replies: Reply) -> Iterator[ChatServer]:
    """A server on a free port of this machine."""
    chat = ChatServer()
    chat.replies = list(replies)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", "0"))
            request = json.loads(self.rfile.read(length))
            request["authorization"] = self.headers.get("Authorization")
            request["path"] = self.path
            with contextlib.suppress(OSError):
                chat.take(self, request)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    chat.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield chat
    finally:
        server.shutdown()
        server.server_close()
