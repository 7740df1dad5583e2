"""A stand-in for a model hub on this machine: takes the calls of an upload and keeps the files."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What clients have sent: repositories asked for, files by name, commit messages, tokens, cards by repository.

    `served` are files that they can fetch, by "owner/name/file".
    """

    address: str = ""
    created: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    summaries: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    cards: dict[str, str] = field(default_factory=dict)
    served: dict[str, bytes] = field(default_factory=dict)

    def answer(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Do what one request asks for; gives status and JSON."""
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            return 200, {"url": f"{self.address}/{json.loads(body)['organization']}/{json.loads(body)['name']}"}
        if "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            return 200, {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]}
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "header":
                    self.summaries.append(line["value"]["summary"])
                else:
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            repository = path.partition("/commit/")[0].removeprefix("/api/models/")
            self.cards[repository] = self.files["README.md"].decode()
            return 200, {"commitUrl": f"{self.address}/me/mine/commit/{COMMIT}", "commitOid": COMMIT}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        return 404, {"error": "Entry not found"}


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Serve on a free port of the loopback address."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            hub.tokens.add(self.headers.get("Authorization"))
            there = hub.served.get(self.path.removeprefix("/").replace("/resolve/main/", "/"))
            status, content = hub.answer(self.path, body)
            status, sent = (200, there) if there else (status, json.dumps(content).encode())
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            if there:
                self.send_header("ETag", f'"{len(there)}"')
                self.send_header("X-Repo-Commit", COMMIT)
            if status == 404:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(sent)

        do_GET = do_POST  # noqa: N815
        do_HEAD = do_POST  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            """Stay quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield hub
        finally:
            server.shutdown()
