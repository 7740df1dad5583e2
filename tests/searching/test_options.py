"""What the commands' options may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from secondpass.corpora import read_corpus
from secondpass_searching.options import corpus_path


def test_the_packaged_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a name, unless a folder of that name is there."""
    monkeypatch.chdir(tmp_path)
    assert next(read_corpus(corpus_path(Path("secondpass/demo")))).text
    (tmp_path / "secondpass" / "demo").mkdir(parents=True)
    assert corpus_path(Path("secondpass/demo")) == Path("secondpass/demo")
    assert corpus_path(tmp_path) == tmp_path
