"""One server process on loopback: start, kill, start again on the same data, stop."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from tests.servers.archives import Kind
from tests.servers.java import find_java
from tests.servers.problems import NoServer
from tests.servers.security import USER, Access, new_password, write_security
from tests.servers.settings import (
    PLAIN,
    check_enterable,
    environment,
    hand_over,
    unprivileged,
    write_folders,
    write_settings,
)

_GUARD = Path(__file__).with_name("guard.py")
LONGEST_START = 300.0
_PATIENCE = 20.0


class Server:
    """A server of our own; a context manager that starts it and removes all of it at the end.

    Attributes:
        kind: Which server.
        access: Where it listens, on 127.0.0.1, and who may do what there; the same after a restart.
        folder: Its configuration, data and logs.
        pid: The process group of the running server, None while it does not run.
    """

    def __init__(self, kind: Kind, home: Path, *, port: int | None = None, secure: bool = False) -> None:
        """Choose the ports and write the settings; nothing runs yet.

        Args:
            kind: Which server.
            home: Its installation, see `installing`.
            port: Of HTTP; a free one without it.
            secure: With TLS and a user.

        Raises:
            NoServer: There is no Java, or the folder for passing files is closed to the server's user.
        """
        check_enterable(Path(tempfile.gettempdir()))
        self.kind = kind
        self.pid: int | None = None
        self._home = home
        self._java = find_java()
        self._guard: subprocess.Popen[str] | None = None
        self.folder = Path(tempfile.mkdtemp(prefix=f"secondpass-{kind}-"))
        port = port or free_port()
        try:
            self.access = self._settle(port, secure)
        except BaseException:
            shutil.rmtree(self.folder)
            raise
        self._client = client(self.access)

    @property
    def url(self) -> str:
        """Where it listens, with no slash at the end."""
        return self.access.url

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start it, on the data it has, and wait until it answers.

        Raises:
            NoServer: It ended, or did not answer in time; the message has its last words.
        """
        if self._guard is not None:
            raise RuntimeError(f"{self.kind} runs already")
        user = unprivileged()
        order = {
            "command": [str(self._home / "bin" / self.kind)],
            "environment": environment(self.kind, self.folder, self._java.home),
            "folder": str(self.folder),
            "log": str(self.folder / "console.log"),
            "credentials": {} if user is None else {"user": user[0], "group": user[1], "extra_groups": []},
            "parent": os.getpid(),
            "patience": _PATIENCE,
        }
        self._guard = subprocess.Popen(
            [sys.executable, "-I", str(_GUARD), json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._guard.stdout is not None
        first = self._guard.stdout.readline()
        if not first.strip().isdigit():
            self._gone()
            raise NoServer(f"{self.kind} cannot be started: {first.strip() or 'its guard ended'}")
        self.pid = int(first)
        self._await_answer()

    def kill(self) -> None:
        """End it at once, with no chance to write anything, as a power cut would."""
        if self._guard is None or self.pid is None:
            raise RuntimeError(f"{self.kind} does not run")
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, 9)
        self._gone()

    def stop(self) -> None:
        """End it politely and keep its data; nothing happens when it does not run."""
        if self._guard is None:
            return
        assert self._guard.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._guard.stdin.write("stop\n")
            self._guard.stdin.flush()
        self._gone()

    def close(self) -> None:
        """Stop it and remove its folder."""
        self.stop()
        self._client.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def last_words(self) -> str:
        """The last errors on its console, else its last lines, as one line."""
        log = self.folder / "console.log"
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
        errors = [
            line.strip() for line in lines if line.startswith(("Caused by", "ERROR", "Likely")) or "][ERROR]" in line
        ]
        return " | ".join(line[:300] for line in (errors or lines)[-4:]) or "it wrote nothing"

    def _settle(self, port: int, secure: bool) -> Access:
        write_folders(self._home, self.folder)
        access, settings = Access(f"http://127.0.0.1:{port}"), PLAIN[self.kind]
        if secure:
            authority = self.folder / "config" / "certificates" / "ca.pem"
            access = Access(f"https://127.0.0.1:{port}", authority, USER, new_password())
            settings = write_security(self.kind, self._home, self.folder, self._java, access.password)
        write_settings(self.kind, self.folder, (port, free_port()), settings)
        hand_over(self.folder)
        return access

    def _gone(self) -> None:
        assert self._guard is not None
        self._guard.wait()
        for pipe in (self._guard.stdin, self._guard.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._guard = self.pid = None

    def _await_answer(self) -> None:
        """Wait until all shards it had are there again."""
        assert self._guard is not None
        end = time.monotonic() + LONGEST_START
        while time.monotonic() < end:
            if self._guard.poll() is not None:
                self._gone()
                raise NoServer(f"{self.kind} ended while starting: {self.last_words()}")
            with contextlib.suppress(httpx.TransportError):
                if self._client.get("/_cluster/health?wait_for_status=yellow&timeout=5s").status_code == 200:
                    return
            time.sleep(0.25)
        self.stop()
        raise NoServer(f"{self.kind} did not answer within {LONGEST_START:.0f} s: {self.last_words()}")


def client(access: Access) -> httpx.Client:
    """A client with the rights of `access`, which asks nobody but that server."""
    verify = True if access.ca_file is None else ssl.create_default_context(cafile=str(access.ca_file))
    auth = httpx.BasicAuth(access.user, access.password) if access.user else None
    return httpx.Client(base_url=access.url, auth=auth, verify=verify, timeout=15, trust_env=False)


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
