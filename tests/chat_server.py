"""A stand-in for a language model on this machine: speaks OpenAI's chat completions and grades as it is told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = str | None | tuple[int, str]


@dataclass
class Chat:
    """What clients have asked: bodies and keys in the order of their coming, and the most that were at work at once."""

    reply: Callable[[str], Reply]
    address: str = ""
    seconds: float = 0.0
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    at_work: int = 0
    most_at_work: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def texts(self) -> list[str]:
        """The users' messages."""
        return [body["messages"][-1]["content"] for body in self.asked]

    def answer(self, path: str, body: bytes, key: str | None) -> tuple[int, str]:
        """Status and body for one request; a reply that is a pair stands for itself."""
        with self.lock:
            self.at_work += 1
            self.most_at_work = max(self.most_at_work, self.at_work)
        time.sleep(self.seconds)
        asked = json.loads(body)
        with self.lock:
            self.asked.append(asked)
            self.keys.add(key)
            self.at_work -= 1
        if path != "/v1/chat/completions":
            return 404, '{"error": {"message": "no such path"}}'
        said = self.reply(asked["messages"][-1]["content"])
        if isinstance(said, tuple):
            return said
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
        made = {"id": "c", "object": "chat.completion", "created": 0, "model": asked["model"], "choices": [choice]}
        return 200, json.dumps(made)


@contextmanager
def running_chat(reply: Callable[[str], Reply]) -> Iterator[Chat]:
    """Serve on a free port of the loopback address; `reply` says what a user's message gets."""
    chat = Chat(reply)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, content = chat.answer(self.path, body, self.headers.get("Authorization"))
            sent = content.encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            if status in (429, 503):
                self.send_header("Retry-After", "0.01")
            with suppress(BrokenPipeError, ConnectionResetError):  # of a client that was killed
                self.end_headers()
                self.wfile.write(sent)

        def log_message(self, format: str, *args: object) -> None:
            """Stay quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        chat.address = f"http://127.0.0.1:{server.server_port}/v1"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield chat
        finally:
            server.shutdown()
