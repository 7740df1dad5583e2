"""Archives are fetched by a real Maven: the smallest of them stands for all."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers.archives import OPENSEARCH, Archive
from tests.servers.cache import cache_folder, fetched, locked
from tests.servers.fixtures import absent
from tests.servers.problems import BrokenDownload, NoServer

ROOT = Path(__file__).parents[2]
SMALL = next(archive for archive in OPENSEARCH.archives if "painless-spi" in archive.coordinates)
FETCH = """
import sys
from pathlib import Path
from tests.servers.cache import fetched
from tests.servers.archives import Archive
fetched([Archive(sys.argv[1], sys.argv[2])], Path(sys.argv[3]), lambda line: print(line, flush=True))
"""


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with an archive that a real Maven brought; that it comes into a folder not there yet is proved here.

    Maven's own parts, where they were fetched for the servers, come from there: 20 MB that nobody waits for again.
    """
    cache = tmp_path_factory.mktemp("cache") / "not" / "there"
    try:
        if (cache_folder() / "maven").is_dir():
            with locked(cache_folder(), "archives"):
                shutil.copytree(cache_folder() / "maven", cache / "maven")
        fetched([SMALL], cache, lambda line: None)
    except BrokenDownload:
        raise
    except NoServer as missing:
        absent(missing)
    return cache


@pytest.fixture
def cache(filled: Path) -> Iterator[Path]:
    """The same, mended after each test."""
    file = filled / "archives" / SMALL.file_name
    whole = file.read_bytes()
    yield filled
    file.write_bytes(whole)


@pytest.fixture
def no_maven(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever fetches now fails."""
    monkeypatch.setenv("PATH", "")


@pytest.mark.usefixtures("no_maven")
def test_what_is_there_is_not_fetched_again(cache: Path) -> None:
    """A second time needs no Maven and says nothing."""
    said: list[str] = []
    assert fetched([SMALL], cache, said.append) == {SMALL: cache / "archives" / SMALL.file_name}
    assert said == []


def cut(whole: bytes) -> bytes:
    """Half of it."""
    return whole[: len(whole) // 2]


def flipped(whole: bytes) -> bytes:
    """All of it, one bit changed."""
    return whole[:-1] + bytes([whole[-1] ^ 1])


def empty(whole: bytes) -> bytes:
    """Nothing."""
    return b""


@pytest.mark.usefixtures("no_maven")
@pytest.mark.parametrize("damage", [cut, flipped, empty])
def test_a_broken_file_is_named_and_never_used(cache: Path, damage: Callable[[bytes], bytes]) -> None:
    """It is removed, and without Maven there is no server rather than a broken one."""
    file = cache / "archives" / SMALL.file_name
    file.write_bytes(damage(file.read_bytes()))
    said: list[str] = []
    with pytest.raises(NoServer, match="no Maven"):
        fetched([SMALL], cache, said.append)
    assert said[0].startswith(f"{file} is broken (SHA-256 ")
    assert not file.exists()


def test_what_arrives_broken_twice_is_named(cache: Path) -> None:
    """Other bytes than were published: fetched twice, kept never, told with both checksums."""
    file = cache / "archives" / SMALL.file_name
    file.unlink()
    other = dataclasses.replace(SMALL, sha256="0" * 64)
    said: list[str] = []
    with pytest.raises(BrokenDownload, match=rf"{SMALL.coordinates} arrived broken .*{SMALL.sha256}.*0000.*twice"):
        fetched([other], cache, said.append)
    assert not file.exists()
    assert len([line for line in said if line.startswith("fetching")]) == 2
    assert sorted(path.name for path in cache.iterdir()) == ["archives", "archives.lock", "maven"]


def test_an_archive_nobody_published_is_said_in_a_line(cache: Path) -> None:
    """Maven's own error, without its stack."""
    unknown = Archive("org.opensearch.plugin:no-such-thing:2.19.1:jar", "0" * 64)
    with pytest.raises(NoServer, match=r"^Maven failed: .*no-such-thing") as raised:
        fetched([unknown], cache, lambda line: None)
    assert "\n" not in str(raised.value)


def test_two_processes_at_once_fetch_a_broken_file_again_once(cache: Path) -> None:
    """The first mends the cache, and Maven keeps no second copy; the second waits for it and finds the file."""
    file = cache / "archives" / SMALL.file_name
    whole = file.read_bytes()
    file.write_bytes(cut(whole))
    command = [sys.executable, "-c", FETCH, SMALL.coordinates, SMALL.sha256, str(cache)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)]
    said = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    nothing, told = sorted(said)
    assert nothing == ""
    assert [line.split()[0] for line in told.splitlines()] == [str(file), "fetching"]
    assert file.read_bytes() == whole
    assert list((cache / "maven").rglob(SMALL.file_name)) == []


def test_the_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """SECONDPASS_SERVERS, made absolute; without it a folder of caches."""
    monkeypatch.setenv("SECONDPASS_SERVERS", "~/somewhere")
    assert cache_folder() == Path.home() / "somewhere"
    monkeypatch.delenv("SECONDPASS_SERVERS")
    assert cache_folder().parts[-2:] == ("secondpass", "servers")
