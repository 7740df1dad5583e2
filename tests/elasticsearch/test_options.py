"""What the commands' options and the environment may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from secondpass.corpora import read_corpus
from secondpass.errors import InvalidInput
from secondpass_elasticsearch.index_definition import SIMILARITIES
from secondpass_elasticsearch.options import Similarity, corpus_path, service_key


def test_similarities_are_those_of_the_index() -> None:
    """Said twice, so checked once."""
    assert tuple(Similarity) == SIMILARITIES


def test_the_packaged_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a name, unless a folder of that name is there."""
    monkeypatch.chdir(tmp_path)
    assert next(read_corpus(corpus_path(Path("secondpass/demo")))).text
    (tmp_path / "secondpass" / "demo").mkdir(parents=True)
    assert corpus_path(Path("secondpass/demo")) == Path("secondpass/demo")
    assert corpus_path(tmp_path) == tmp_path


@pytest.mark.parametrize(("value", "key"), [(None, None), ("", None), ("  ", None), (" abc\n", "abc")])
def test_the_services_key(
    no_credentials: None, monkeypatch: pytest.MonkeyPatch, value: str | None, key: str | None
) -> None:
    """Blank is none, and the line end of a file is no part of it."""
    if value is not None:
        monkeypatch.setenv("SECONDPASS_API_KEY", value)
    assert service_key() == key


@pytest.mark.parametrize("value", ["ké", "a\nb", "a\x7f"])
def test_keys_that_no_header_takes(no_credentials: None, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Refused without showing them."""
    monkeypatch.setenv("SECONDPASS_API_KEY", value)
    with pytest.raises(InvalidInput, match="SECONDPASS_API_KEY holds a character") as refused:
        service_key()
    assert value not in str(refused.value)
