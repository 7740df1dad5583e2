"""`secondpass serve` as a process of its own on a free loopback port."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests import fork_server

START_S = 180
STOP_S = 120


class RealService:
    """A running service: its address, its process, and the JSON lines it logs."""

    def __init__(self, process: fork_server.Popen, log: Path) -> None:
        self.process = process
        self._log = log
        self.url = self._address()
        self._wait_until_ready()

    def requests(self) -> list[dict[str, Any]]:
        """What it has logged of scoring requests so far; a line that is no JSON object fails the test."""
        lines = [json.loads(line) for line in self._log.read_text(encoding="utf-8").splitlines()]
        return [line for line in lines if line["event"] == "request" and line["path"] != "/ready"]

    def _address(self) -> str:
        """Wait until it listens and say where."""
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            assert self.process.poll() is None, self._log.read_text(encoding="utf-8")
            for line in self._log.read_text(encoding="utf-8").splitlines():
                if line.endswith("}") and "address" in json.loads(line):
                    return str(json.loads(line)["address"])
            time.sleep(0.05)
        raise AssertionError("the service did not start in time")

    def _wait_until_ready(self) -> None:
        """The address is told before the first connection is taken."""
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            try:
                assert httpx.get(f"{self.url}/ready", trust_env=False).status_code == 200
                return
            except httpx.ConnectError:
                time.sleep(0.05)
        raise AssertionError("the service took no connection in time")

    def resident_mb(self) -> float:
        """Memory of the process in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)


@contextmanager
def real_service(folder: Path, model: str, *options: str) -> Iterator[RealService]:
    """Start the command on a model and end it however the block ends; its log goes into `folder`."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "error", "-m", "secondpass.cli", "serve", "--model", f"served={model}"]
    log = folder / "service.jsonl"
    with log.open("wb") as stderr:
        process = fork_server.Popen([*command, "--port", "0", *options], env=environment, stderr=stderr)
        try:
            yield RealService(process, log)
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
