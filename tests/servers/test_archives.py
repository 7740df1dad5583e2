"""The list of what is fetched."""

from __future__ import annotations

import re

import pytest

from tests.servers.archives import KINDS, RECIPES, Archive, Kind


@pytest.mark.parametrize("kind", KINDS)
def test_every_archive_is_named_whole_and_bound_to_its_bytes(kind: Kind) -> None:
    """Four coordinates, a SHA-256, and a file name no other archive has."""
    archives = RECIPES[kind].archives
    assert all(re.fullmatch(r"[\w.-]+:[\w.-]+:[\d.]+:(zip|jar)", archive.coordinates) for archive in archives)
    assert all(re.fullmatch(r"[0-9a-f]{64}", archive.sha256) for archive in archives)
    assert len({archive.file_name for archive in archives}) == len(archives)


@pytest.mark.parametrize("kind", KINDS)
def test_the_server_s_archive_is_of_its_version(kind: Kind) -> None:
    """The folder inside the archive is named by it."""
    assert RECIPES[kind].server.file_name == f"{kind}-{RECIPES[kind].version}.zip"


def test_the_file_name_is_maven_s() -> None:
    """Artifact, version, type."""
    assert Archive("org.example:thing:1.2:jar", "").file_name == "thing-1.2.jar"
