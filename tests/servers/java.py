"""A JDK that both servers run on, and Maven: where they are on this machine, or which one is missing."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.servers.problems import NoServer

# Both servers need 17; from 24 on Java has no security manager, which OpenSearch 2 asks for.
OLDEST, NEWEST = 17, 23
_PLACES = ("/usr/lib/jvm", "/opt/java", "/opt/hostedtoolcache", "/Library/Java/JavaVirtualMachines")


@dataclass(frozen=True, slots=True)
class Java:
    """The home of a JDK."""

    home: Path

    @property
    def compiler(self) -> Path:
        """The path of javac."""
        return self.home / "bin" / "javac"


def find_java() -> Java:
    """Return the first JDK 17 to 23 of: JAVA_HOME, the one on the path, the usual folders.

    Raises:
        NoServer: There is none.
    """
    for home in _homes():
        if (home / "bin" / "javac").is_file() and OLDEST <= _major(home) <= NEWEST:
            return Java(home)
    raise NoServer(f"no JDK {OLDEST} to {NEWEST} with javac: install one or set JAVA_HOME")


def find_maven() -> str:
    """Return the path of mvn.

    Raises:
        NoServer: There is none.
    """
    found = shutil.which("mvn")
    if found is None:
        raise NoServer("no Maven: mvn is not on the path")
    return found


def _homes() -> Iterator[Path]:
    if named := os.environ.get("JAVA_HOME"):
        yield Path(named)
    if found := shutil.which("javac"):
        yield Path(found).resolve().parents[1]
    for place in map(Path, _PLACES):
        yield from sorted(place.glob("*"))
        yield from sorted(place.glob("*/*/*"))
        yield from sorted(place.glob("*/Contents/Home"))


def _major(home: Path) -> int:
    """Read the version from the file every JDK has in its home; 0 where there is none."""
    release = home / "release"
    if not release.is_file():
        return 0
    found = re.search(r'^JAVA_VERSION="(\d+)', release.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return int(found[1]) if found else 0
