"""Run a tool of a server or of the JDK to its end."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.servers.problems import NoServer

_LONGEST = 300


def run(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return what the command wrote to its standard output.

    Raises:
        NoServer: It failed, or took five minutes; the message has its name and last words, never its arguments.
    """
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_LONGEST,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise NoServer(f"{name} did not end within {_LONGEST} s") from None
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip())[-400:].replace("\n", " | ")
        raise NoServer(f"{name} failed: {last}")
    return done.stdout
