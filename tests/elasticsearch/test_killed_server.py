"""A server that is killed under a search, and comes back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.elasticsearch.conftest import invoke, only_line
from tests.small_collection import write_beir


@pytest.mark.stacks
def test_search_before_during_and_after(
    no_credentials: None,
    own_elasticsearch: Callable[[], AbstractContextManager[Any]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny_folder: str,
) -> None:
    """An answer, one clear line, and the same answer again: what was indexed is there."""
    monkeypatch.chdir(tmp_path)
    search = ("search", "articles", "cat", "-m", tiny_folder, "-f", "jsonl", "--timeout", "10")
    with own_elasticsearch() as server:
        monkeypatch.setenv("ELASTICSEARCH_URL", server.url)
        invoke("create", "articles", "--replicas", 0)
        indexed = invoke("index", "articles", write_beir(tmp_path / "beir"))
        assert indexed.exit_code == 0, indexed.output
        before = invoke(*search)
        server.kill()
        dead = invoke(*search)
        server.start()
        after = invoke(*search)
    assert (before.exit_code, after.exit_code) == (0, 0), after.output
    assert before.stdout == after.stdout != ""
    assert (dead.exit_code, only_line(dead)) == (
        1,
        f"secondpass: Elasticsearch {server.url}: cannot be reached (Connection refused)",
    )
