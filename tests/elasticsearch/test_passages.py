"""The best passage of a document, by the highlighter of a real server."""

from __future__ import annotations

import pytest
from elasticsearch import Elasticsearch

from secondpass_elasticsearch.index_definition import IndexDefinition, create_index
from secondpass_elasticsearch.passages import CHARACTERS, best_passages

FILLER = "Nothing of interest is said in this sentence, which only makes the text longer. " * 20


@pytest.fixture
def filled(client: Elasticsearch, index: str) -> str:
    """Documents whose answer is in the middle, in nothing, or beyond the first million characters."""
    create_index(client, "THE SERVER", IndexDefinition(index))
    texts = {
        "middle": f"{FILLER}The wing stalls at low speed. {FILLER}",
        "other": FILLER,
        "empty": "",
        "huge": "filler words " * 100_000 + "the wing stalls",
        "a/ü": "One <b>wing</b> stalls.",
    }
    for name, text in texts.items():
        client.index(index=index, id=name, document={"content": text}, refresh=True)
    return index


def test_passages(client: Elasticsearch, filled: str) -> None:
    """The sentence that shares words, else the beginning; no marks in it, and nothing for an empty text."""
    wanted = ["middle", "other", "empty", "huge", "a/ü", "absent"]
    found = best_passages(client, "THE SERVER", filled, wanted, "wing stalls", ["content"])
    assert set(found) == {"middle", "other", "huge", "a/ü"}
    assert "The wing stalls at low speed." in found["middle"]
    assert FILLER.startswith(found["other"].rstrip("…")[:50])
    assert found["huge"].startswith("filler words")
    assert found["a/ü"] == "One <b>wing</b> stalls."
    assert all(len(passage) < 3 * CHARACTERS for passage in found.values())


def test_a_document_that_two_fields_describe(client: Elasticsearch, index: str) -> None:
    """The passage is of the last field that has one."""
    client.indices.create(index=index, mappings={"properties": {"title": {"type": "text"}, "body": {"type": "text"}}})
    client.index(index=index, id="a", document={"title": "the wing", "body": "it stalls"}, refresh=True)
    client.index(index=index, id="b", document={"title": "the wing"}, refresh=True)
    found = best_passages(client, "THE SERVER", index, ["a", "b"], "wing stalls", ["title", "body"])
    assert found == {"a": "it stalls", "b": "the wing"}
