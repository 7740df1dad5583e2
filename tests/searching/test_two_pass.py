"""Both passes on real indexes: the order is the cross-encoder's over the same texts."""

from __future__ import annotations

from typing import NoReturn

import pytest

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput
from secondpass_searching.candidates import FirstPass, find_candidates
from secondpass_searching.searched_index import SearchedIndex
from secondpass_searching.two_pass import two_pass_search
from tests.searching.places import Place
from tests.small_collection import CORPUS

QUERY = "the cat and the train to Paris, second account"
FIRST = FirstPass(QUERY)


@pytest.fixture
def index(place: Place) -> SearchedIndex:
    """The small collection."""
    made = place.create(shards=1)
    place.fill({row["_id"]: {"content": f"{row['title']} {row['text']}"} for row in CORPUS})
    return made


def test_the_order_is_the_encoders(index: SearchedIndex, tiny: CrossEncoder) -> None:
    """Scores, order, first ranks and passages belong together."""
    found = find_candidates(index, FIRST)
    answer = two_pass_search(index, FIRST, lambda: tiny, passages=True)
    expected = tiny.rank(QUERY, [candidate.text for candidate in found])
    assert [hit.candidate for hit in answer.hits] == [found[row["corpus_id"]] for row in expected]
    assert [hit.score for hit in answer.hits] == pytest.approx([float(row["score"]) for row in expected])
    assert answer.candidates == len(found) == 5
    assert [hit.candidate.was for hit in answer.hits] != sorted(hit.candidate.was for hit in answer.hits)
    assert all(hit.passage and hit.passage in hit.candidate.text for hit in answer.hits)


def test_top_k_and_batches(index: SearchedIndex, tiny: CrossEncoder) -> None:
    """The best of all candidates, not of the first ones."""
    whole = two_pass_search(index, FIRST, lambda: tiny)
    best = two_pass_search(index, FIRST, lambda: tiny, top_k=2, batch_size=1)
    assert [hit.candidate.id for hit in best.hits] == [hit.candidate.id for hit in whole.hits][:2]
    assert (best.candidates, best.hits[0].passage) == (5, None)
    with pytest.raises(InvalidInput, match="top_k"):
        two_pass_search(index, FIRST, lambda: tiny, top_k=0)


def never() -> NoReturn:
    """A model that must not be loaded."""
    raise AssertionError("loaded")


def test_nothing_found_loads_no_model(place: Place, index: SearchedIndex) -> None:
    """Neither do an index and a field that are not there: they are refused, not searched in vain."""
    assert two_pass_search(index, FirstPass("zebra"), never).hits == ()
    with pytest.raises(InvalidInput, match="has no field body"):
        two_pass_search(index, FirstPass("cat", ("body",)), never)
    with pytest.raises(InvalidInput, match="no such index"):
        two_pass_search(place.opened(f"{place.name}-x"), FIRST, never)


def test_documents_without_the_text(place: Place, tiny: CrossEncoder) -> None:
    """Some are counted; if none has the text, the wrong field was named, and no order is made up."""
    index = place.create(dims=2)
    place.fill({"a": {"embedding": [1, 0]}, "blank": {"content": " \n", "embedding": [1, 0]}})
    first = FirstPass("cat", bm25=False, vector=[1.0, 0.0])
    with pytest.raises(InvalidInput, match="none of the 2 documents found has a text in content"):
        two_pass_search(index, first, lambda: tiny)
    place.fill({"b": {"content": "cat", "embedding": [1, 0]}})
    answer = two_pass_search(index, first, lambda: tiny)
    assert (answer.candidates, answer.without_text) == (3, 2)


def test_a_field_whose_values_are_elsewhere(place: Place) -> None:
    """A multi-field matches, but the source has no such name."""
    place.create(mappings={"content": {"type": "text", "fields": {"exact": {"type": "text"}}}})
    place.fill({"a": {"content": "Paris"}})
    with pytest.raises(InvalidInput, match=r"a text in content\.exact"):
        two_pass_search(place.opened(), FirstPass("Paris", ("content.exact",)), never)


def test_two_indexes_of_one_name(place: Place, tiny: CrossEncoder) -> None:
    """The same id in both is two documents, each with a passage of its own."""
    for suffix in ("-1", "-2"):
        place.create(suffix=suffix)
        place.fill({"a": {"content": f"cat {suffix}"}}, suffix)
    answer = two_pass_search(place.opened(f"{place.name}-*"), FirstPass("cat"), lambda: tiny, passages=True)
    assert {(hit.candidate.index, hit.passage) for hit in answer.hits} == {
        (f"{place.name}{suffix}", f"cat {suffix}") for suffix in ("-1", "-2")
    }


def test_cut_documents_are_named(place: Place, tiny: CrossEncoder) -> None:
    """A text longer than the model's window is read in part, and the answer says whose."""
    index = place.create()
    place.fill({"long": {"content": "cat " * 5_000}, "short": {"content": "cat"}})
    assert two_pass_search(index, FirstPass("cat"), lambda: tiny).cut == ("long",)
