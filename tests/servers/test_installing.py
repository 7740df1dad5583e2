"""From archives to a complete installation, once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.archives import ELASTICSEARCH
from tests.servers.cache import cache_folder, fetched
from tests.servers.fixtures import absent
from tests.servers.java import find_java
from tests.servers.problems import NoServer
from tests.servers.sources import tell

INSTALL = "from tests.servers.installing import installation; print(installation('elasticsearch', print))"


@pytest.fixture
def fresh_cache() -> Iterator[Path]:
    """A cache with the archive only, in a place other users may enter, as pytest's own folders are not."""
    try:
        find_java()
        archive = fetched([ELASTICSEARCH.server], cache_folder(), tell)[ELASTICSEARCH.server]
    except NoServer as missing:
        absent(missing)
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        cache.chmod(0o755)
        (cache / "archives").mkdir()
        shutil.copy(archive, cache / "archives")
        yield cache


def test_two_processes_at_once_make_one_installation(fresh_cache: Path) -> None:
    """The second waits and uses the same; what a killed process left half done is swept away."""
    left = fresh_cache / "completing-elasticsearch-killed"
    (left / "bin").mkdir(parents=True)
    environment = os.environ | {"SECONDPASS_SERVERS": str(fresh_cache), "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", INSTALL]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    said = sorted(process.communicate(timeout=600)[0].splitlines() for process in both)
    assert [process.returncode for process in both] == [0, 0]
    home = Path(said[0][-1])
    assert said == sorted([[str(home)], ["completing elasticsearch 8.19.0", str(home)]])
    assert sorted(plugin.name for plugin in (home / "plugins").iterdir()) == ["RootInfoPlugin", "TextAnalysisPlugin"]
    assert all(path.stat().st_mode & 0o004 for path in home.rglob("*"))
    assert os.access(home / "bin" / "elasticsearch", os.X_OK)
    assert not left.exists()
    assert [path.name for path in fresh_cache.glob("elasticsearch-*")] == [home.name]
