"""The best passage of a document, by the highlighters of real servers."""

from __future__ import annotations

import pytest

from secondpass_searching import passages
from secondpass_searching.candidates import FirstPass
from secondpass_searching.passages import CHARACTERS, best_passages
from tests.searching.places import Place

FILLER = "Nothing of interest is said in this sentence, which only makes the text longer. " * 20
TEXTS = {
    "middle": f"{FILLER}The wing stalls at low speed. {FILLER}",
    "other": FILLER,
    "empty": "",
    "huge": "filler words " * 100_000 + "the wing stalls",
    "a/ü": "One <b>wing</b> stalls.",
}


@pytest.mark.parametrize("at_once", [1_000, 2])
def test_passages(place: Place, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    """The sentence that shares words, else the beginning; no marks in it, and nothing for an empty text."""
    monkeypatch.setattr(passages, "AT_ONCE", at_once)
    index = place.create()
    place.fill({id_: {"content": text} for id_, text in TEXTS.items()})
    wanted = ["middle", "other", "empty", "huge", "a/ü", "absent"]
    found = best_passages(index, place.name, wanted, FirstPass("wing stalls"))
    assert set(found) == {"middle", "other", "huge", "a/ü"}
    assert "The wing stalls at low speed." in found["middle"]
    assert FILLER.startswith(found["other"].rstrip("…")[:50])
    assert found["huge"].startswith("filler words")
    assert found["a/ü"] == "One <b>wing</b> stalls."
    assert all(len(passage) < 3 * CHARACTERS for passage in found.values())


def test_a_document_that_two_fields_describe(place: Place) -> None:
    """The passage is of the last field that has one; a long query is no obstacle."""
    index = place.create(mappings={"title": {"type": "text"}, "body": {"type": "text"}})
    place.fill({"a": {"title": "the wing", "body": "it stalls"}, "b": {"title": "the wing"}})
    long = "wing stalls " + " ".join(f"w{number}" for number in range(5_000))
    for query in ("wing stalls", long):
        found = best_passages(index, place.name, ["a", "b"], FirstPass(query, ("title", "body")))
        assert found == {"a": "it stalls", "b": "the wing"}
