"""The archives on this disk: fetched by Maven once, checked byte for byte, safe with several processes."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from filelock import FileLock

from tests.servers.archives import Archive
from tests.servers.java import find_maven
from tests.servers.problems import BrokenDownload, NoServer

PLACE = "SECONDPASS_SERVERS"
Say = Callable[[str], None]
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"
_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
<modelVersion>4.0.0</modelVersion>
<groupId>secondpass</groupId><artifactId>servers</artifactId><version>1</version><packaging>pom</packaging>
<build><plugins><plugin>
<groupId>org.apache.maven.plugins</groupId><artifactId>maven-dependency-plugin</artifactId>
<configuration><artifactItems>
{items}
</artifactItems></configuration>
</plugin></plugins></build>
</project>
"""
_ITEM = (
    "<artifactItem><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version><type>{}</type></artifactItem>"
)
_LONGEST_FETCH = 1800
_FETCHING = "fetching-"


def cache_folder() -> Path:
    """The folder SECONDPASS_SERVERS names, else one of this user, for root one that other users can read."""
    if named := os.environ.get(PLACE):
        return Path(named).expanduser().absolute()
    return Path("/var/cache/secondpass/servers") if os.geteuid() == 0 else Path.home() / ".cache/secondpass/servers"


def locked(cache: Path, name: str) -> FileLock:
    """Let one process at a time do what `name` says; the lock goes with the process, however it ends."""
    cache.mkdir(parents=True, exist_ok=True)
    return FileLock(cache / f"{name}.lock")


def fetched(archives: Sequence[Archive], cache: Path, say: Say) -> dict[Archive, Path]:
    """Return every archive as a checked file, fetching what is not there or no longer what it was.

    Args:
        archives: What to fetch.
        cache: The cache folder.
        say: Is told which file is fetched and which one is broken.

    Raises:
        BrokenDownload: An archive is not what was published, and was not when fetched again.
        NoServer: Maven is missing or failed.
    """
    folder = cache / "archives"
    with locked(cache, "archives"):
        folder.mkdir(exist_ok=True)
        sweep(cache, _FETCHING)
        missing = [archive for archive in archives if not _kept(folder / archive.file_name, archive, say)]
        for attempt in range(2):
            if missing:
                missing = _fetch(missing, folder, say, last=attempt == 1)
    return {archive: folder / archive.file_name for archive in archives}


def _kept(path: Path, archive: Archive, say: Say) -> bool:
    """Whether the file is there and whole; a broken one is named and removed."""
    if not path.is_file():
        return False
    if (found := sha256_of(path)) == archive.sha256:
        return True
    say(f"{path} is broken (SHA-256 {found[:12]}…, not {archive.sha256[:12]}…): fetching it again")
    path.unlink()
    return False


def _fetch(archives: Sequence[Archive], folder: Path, say: Say, *, last: bool) -> list[Archive]:
    """Fetch into a folder aside, check, move what is whole; return what is not, or raise when this was the last try."""
    repository = folder.parent / "maven"
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=_FETCHING) as aside:
        say(f"fetching {', '.join(archive.file_name for archive in archives)}")
        run_maven(archives, Path(aside), repository)
        broken = []
        for archive in archives:
            arrived = Path(aside) / archive.file_name
            if not arrived.is_file():
                raise NoServer(f"Maven brought no {archive.file_name} for {archive.coordinates}")
            _forget(archive, repository)
            if (found := sha256_of(arrived)) == archive.sha256:
                arrived.replace(folder / archive.file_name)
                continue
            told = f"{archive.coordinates} arrived broken (SHA-256 {found}, expected {archive.sha256})"
            if last:
                raise BrokenDownload(f"{told}, twice")
            say(f"{told}: fetching it again")
            broken.append(archive)
    return broken


def _forget(archive: Archive, repository: Path) -> None:
    """Remove Maven's own copy: a whole one is kept elsewhere by now, a broken one would come again."""
    group, artifact, version, _ = archive.coordinates.split(":")
    shutil.rmtree(repository.joinpath(*group.split("."), artifact, version), ignore_errors=True)


def run_maven(archives: Sequence[Archive], target: Path, repository: Path) -> None:
    """Copy the archives into `target`, through a repository beside it that keeps Maven's own parts.

    Raises:
        NoServer: Maven is missing, failed, or took half an hour.
    """
    items = "\n".join(_ITEM.format(*map(escape, archive.coordinates.split(":"))) for archive in archives)
    pom = target / "pom.xml"
    pom.write_text(_POM.format(items=items), encoding="utf-8")
    command = [find_maven(), "-B", "-ntp", "-f", str(pom), f"-Dmaven.repo.local={repository}", _COPY]
    command.append(f"-DoutputDirectory={target}")
    # it is over before Java's second compiler pays
    quick = {"MAVEN_OPTS": f"-XX:TieredStopAtLevel=1 {os.environ.get('MAVEN_OPTS', '')}"}
    try:
        done = subprocess.run(
            command,
            env=os.environ | quick,
            capture_output=True,
            text=True,
            timeout=_LONGEST_FETCH,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as late:
        raise NoServer(f"Maven did not fetch the archives within {_LONGEST_FETCH} s") from late
    if done.returncode != 0:
        errors = [line for line in done.stdout.splitlines() if line.startswith("[ERROR]")]
        raise NoServer(f"Maven failed: {errors[0][8:] if errors else done.stderr.strip()[-300:] or 'without a word'}")


def sweep(cache: Path, prefix: str) -> None:
    """Remove what a killed process left half done; only under the lock that guards such folders."""
    for left in cache.glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
