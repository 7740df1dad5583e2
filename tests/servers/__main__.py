"""`python -m tests.servers start [elasticsearch|opensearch|both]`: servers to play with, until Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time

from tests.servers.archives import KINDS, Kind
from tests.servers.installing import installation
from tests.servers.instance import Server
from tests.servers.problems import NoServer
from tests.servers.security import Access
from tests.servers.sources import with_api_key


def main() -> int:
    """Start what was asked for, print where it listens as lines of a shell, wait."""
    parser = argparse.ArgumentParser(prog="python -m tests.servers")
    start = parser.add_subparsers(required=True).add_parser("start", help="start servers and keep them until Ctrl-C")
    start.add_argument("which", nargs="?", default="both", choices=[*KINDS, "both"])
    start.add_argument("--ports", nargs="+", type=int, default=[], help="a port for each server; else free ones")
    start.add_argument("--secure", action="store_true", help="with TLS, a user and, for Elasticsearch, an API key")
    asked = parser.parse_args()
    kinds: tuple[Kind, ...] = KINDS if asked.which == "both" else (asked.which,)
    if asked.ports and len(asked.ports) != len(kinds):
        parser.error(f"--ports: {len(kinds)} wanted, {len(asked.ports)} given")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.ExitStack() as stack, contextlib.suppress(KeyboardInterrupt):
        for kind, port in zip(kinds, asked.ports or [None] * len(kinds), strict=True):
            try:
                server = stack.enter_context(Server(kind, installation(kind, _say), port=port, secure=asked.secure))
            except NoServer as missing:
                _say(f"no {kind}: {missing}")
                return 1
            access = with_api_key(server.access) if asked.secure and kind == "elasticsearch" else server.access
            sys.stdout.write("".join(f"export {kind.upper()}_{name}={value}\n" for name, value in _words(access)))
            sys.stdout.flush()
        _say("Ctrl-C stops and removes them")
        while True:
            time.sleep(3600)
    return 0


def _words(access: Access) -> list[tuple[str, str]]:
    """What a person needs, as name and value; a password made for these hours is shown."""
    words = [
        ("URL", access.url),
        ("CA_FILE", str(access.ca_file or "")),
        ("USER", access.user),
        ("PASSWORD", access.password),
        ("API_KEY", access.api_key),
    ]
    return [(name, value) for name, value in words if value]


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
