"""The process between a test session and a server: when the session is gone, however it ended, so is the server.

Started by `instance` as a script of its own with an order as JSON. It starts the server, prints its process id, and
waits for the first of: the server ends; the line "stop" on its standard input; the end of that input, or a parent
that is gone, which both mean that nobody is left to use the server: then its folder goes as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path


def main() -> int:
    """Run the server the first argument describes; return its exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    order = json.loads(sys.argv[1])
    parent = order["parent"]
    with Path(order["log"]).open("ab") as log:
        server = subprocess.Popen(
            order["command"],
            env=order["environment"],
            cwd=order["folder"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **order["credentials"],
        )
    sys.stdout.write(f"{server.pid}\n")
    sys.stdout.flush()
    orphan = _wait(server, parent)
    _stop(server, order["patience"])
    if orphan:
        shutil.rmtree(order["folder"], ignore_errors=True)
    return server.returncode


def _wait(server: subprocess.Popen[bytes], parent: int) -> bool:
    """Wait until the server ends or is to end; True when nobody is left to use it."""
    while server.poll() is None:
        if os.getppid() != parent:
            return True
        if select.select([sys.stdin], [], [], 0.5)[0]:
            return sys.stdin.readline().strip() != "stop"
    return False


def _stop(server: subprocess.Popen[bytes], patience: float) -> None:
    """End the whole process group, politely first, and see it gone."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        _signal(server.pid, number)
        end = time.monotonic() + patience
        while time.monotonic() < end and _alive(server):
            time.sleep(0.05)
    server.wait()


def _alive(server: subprocess.Popen[bytes]) -> bool:
    """Whether any process of the group is left: the launcher may go before the server it launched."""
    server.poll()
    try:
        os.killpg(server.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(main())
