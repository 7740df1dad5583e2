"""A search in two passes on real indexes of both engines: candidates, their texts, their order, their passages."""

from __future__ import annotations

import re
from typing import Any, NoReturn

import pytest

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput
from secondpass_servers import two_pass
from secondpass_servers.index import SearchedIndex
from secondpass_servers.two_pass import (
    CHARACTERS,
    MAX_CLAUSES,
    FirstPass,
    find_candidates,
    joined,
    looked_up,
    most_words,
    shortened,
    two_pass_search,
)
from tests.secondpass_servers.searching.places import Place
from tests.small_collection import CORPUS

DOCUMENTS: dict[str, dict[str, Any]] = {
    "a": {"content": "the cat sat on the mat", "embedding": [1.0, 0.0]},
    "b": {"content": "a cat and a cat", "embedding": [0.1, 1.0], "title": "cats"},
    "c": {"content": "nothing of it", "embedding": [0.9, 0.1]},
    "d": {"title": "no content, but a cat"},
}


@pytest.fixture
def index(place: Place) -> SearchedIndex:
    """An index of four documents."""
    made = place.create(dims=2)
    place.fill(DOCUMENTS)
    return made


def ids(index: SearchedIndex, **first: Any) -> list[str]:
    """Ids of candidates in order."""
    given: dict[str, Any] = {"query": "cat", "depth": 10, **first}
    return [candidate.id for candidate in find_candidates(index, FirstPass(**given))]


def test_bm25(place: Place, index: SearchedIndex) -> None:
    """Words of the content, best first, with rank, score and text."""
    found = find_candidates(index, FirstPass("cat"))
    assert [(c.index, c.id, c.was, c.text) for c in found] == [
        (place.name, "b", 1, "a cat and a cat"),
        (place.name, "a", 2, "the cat sat on the mat"),
    ]
    assert found[0].scores["bm25"] > found[1].scores["bm25"] > 0


def test_depth_and_dense(index: SearchedIndex) -> None:
    """As many as asked for, by nearness."""
    assert ids(index, depth=1) == ["b"]
    assert ids(index, bm25=False, vector=[2.0, 0.0]) == ["a", "c", "b"]
    assert ids(index, bm25=False, vector=[2.0, 0.0], depth=2) == ["a", "c"]
    assert len(ids(index, bm25=False, vector=[2.0, 0.0], depth=10_000)) == 3


def test_hybrid_takes_a_document_once(index: SearchedIndex) -> None:
    """With both scores and the better rank."""
    found = {c.id: c for c in find_candidates(index, FirstPass("cat", depth=2, vector=[1.0, 0.0]))}
    assert list(found) == ["b", "a", "c"]
    assert set(found["a"].scores) == {"bm25", "dense"}
    assert (found["a"].was, found["b"].was, found["c"].was) == (1, 1, 2)


def test_several_fields(place: Place) -> None:
    """Both are searched and read one after another."""
    text = {"type": "text"}
    index = place.create(mappings={"title": text, "body": {"properties": {"text": text}}})
    place.fill({"x": {"title": "cats", "body": {"text": ["one", "two"]}}})
    (found,) = find_candidates(index, FirstPass("two", ("title", "body.text"), 5))
    assert found.text == "cats one two"


@pytest.mark.parametrize("query", ['"cat', "cat AND -mat", "+cat* (content : cat)", "cat\n\\ 😀", "{{cat}} \x00"])
def test_a_query_is_text_and_no_syntax(index: SearchedIndex, query: str) -> None:
    """Quotes, operators, line breaks and emoji are words or nothing."""
    assert "a" in ids(index, query=query)


@pytest.mark.parametrize("fields", [("content",), ("content", "title"), ("content", "title", "more")])
@pytest.mark.parametrize(
    "rest",
    [
        " ".join(f"w{number}" for number in range(5_000)),
        "cat " * 5_000,
        "東京" * 3_000,
        "😀" * 3_000,
        "x" * 400_000,
        "\U00020ac0" * 3_000 + "\U0001d400" * 200_000,
        "don't_3.14 " * 2_000,
    ],
    ids=["words", "one word", "ideographs", "emoji", "a long word", "astral letters", "joined"],
)
def test_a_query_of_thousands_of_words(place: Place, fields: tuple[str, ...], rest: str) -> None:
    """The engines refuse more than 1,024 clauses, a word in a field each: its beginning is searched, and found."""
    index = place.create(mappings={name: {"type": "text"} for name in ("content", "title", "more")})
    place.fill({"a": {"content": "a cat"}})
    assert ids(index, query=f"cat {rest}", fields=fields) == ["a"]


def test_what_the_server_refuses(place: Place, index: SearchedIndex) -> None:
    """A missing index, other dims, no vector field: one line each, with engine and address."""
    with pytest.raises(InvalidInput, match=rf"no such index.*secondpass {place.engine.command} create"):
        ids(place.opened(f"{place.name}-missing"))
    with pytest.raises(InvalidInput, match=rf"^{place.engine.title} {place.url}.*dimension"):
        ids(index, vector=[1.0])
    with pytest.raises(InvalidInput, match=place.url):
        ids(index, vector=[1.0, 0.0], vector_field="content")


@pytest.mark.parametrize("wrong", [{"query": " "}, {"fields": ()}, {"fields": ("",)}, {"depth": 0}, {"depth": 10_001}])
def test_what_is_refused(wrong: dict[str, Any]) -> None:
    """Before anything is sent."""
    with pytest.raises(InvalidInput):
        FirstPass(**({"query": "x"} | wrong))


@pytest.mark.parametrize(
    "query", ["", "a short one", "x" * 50_000, "  \n ", "?!" * 3_000, " ".join(["word"] * MAX_CLAUSES)]
)
def test_queries_of_few_terms_stay(query: str) -> None:
    """However long their terms, or what is between them."""
    assert shortened(query) is query


@pytest.mark.parametrize(
    ("query", "terms"),
    [
        (" ".join(f"w{n}" for n in range(5_000)), r"w\d+"),
        ("a-b_c," * 2_000, "[abc]"),
        ("東京" * 2_000, "[東京]"),
        ("über-größe! " * 900, r"\w+"),
        ("\U0001f600 one" * 2_000, "one|\U0001f600"),
        ("☺" * 2_000, "☺"),
        ("y" * 400_000, "y{127}"),
    ],
)
def test_the_first_terms_are_kept(query: str, terms: str) -> None:
    """Exactly as many as are allowed, and the query's own beginning."""
    short = shortened(query)
    assert query.startswith(short)
    assert len(re.findall(terms, short)) == MAX_CLAUSES


def test_a_word_is_a_clause_in_every_field() -> None:
    """So several fields share the limit; there is always room for a word."""
    assert [most_words(fields) for fields in (1, 2, 3, 5_000)] == [1_024, 512, 341, 1]


def test_fields_are_joined_in_their_order() -> None:
    """Numbers, lists, objects by dots, dotted keys and nothing at all."""
    source = {"a": 1, "b": None, "c": ["x", None, 2.5], "d.e": "dotted", "meta": {"year": 1999, "none": ""}}
    assert joined(source, ("a", "b", "c", "d.e", "meta.year", "meta.none", "f", "a.b")) == "1 x 2.5 dotted 1999"
    assert joined({}, ("a",)) == ""


def test_an_object_is_no_text() -> None:
    """Also inside a list."""
    for value in ({"b": "c"}, ["x", {"b": "c"}]):
        with pytest.raises(InvalidInput, match="the field 'a' holds objects"):
            joined({"a": value}, ("a",))


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
    monkeypatch.setattr(two_pass, "AT_ONCE", at_once)
    index = place.create()
    place.fill({id_: {"content": text} for id_, text in TEXTS.items()})
    wanted = ["middle", "other", "empty", "huge", "a/ü", "absent"]
    details = looked_up(index, place.name, wanted, FirstPass("wing stalls"), passages=True)
    found = {id_: passage for id_, (_, passage) in details.items() if passage is not None}
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
        found = looked_up(index, place.name, ["a", "b"], FirstPass(query, ("title", "body")), passages=True)
        assert found == {"a": ({}, "it stalls"), "b": ({}, "the wing")}


QUERY = "the cat and the train to Paris, second account"
FIRST = FirstPass(QUERY)


@pytest.fixture
def collection(place: Place) -> SearchedIndex:
    """The small collection."""
    made = place.create(shards=1)
    place.fill({row["_id"]: {"content": f"{row['title']} {row['text']}"} for row in CORPUS})
    return made


def test_the_order_is_the_encoders(collection: SearchedIndex, tiny: CrossEncoder) -> None:
    """Scores, order, first ranks and passages belong together."""
    found = find_candidates(collection, FIRST)
    answer = two_pass_search(collection, FIRST, lambda: tiny, passages=True)
    expected = tiny.rank(QUERY, [candidate.text for candidate in found])
    assert [hit.candidate for hit in answer.hits] == [found[row["corpus_id"]] for row in expected]
    assert [hit.score for hit in answer.hits] == pytest.approx([float(row["score"]) for row in expected])
    assert answer.candidates == len(found) == 5
    assert [hit.candidate.was for hit in answer.hits] != sorted(hit.candidate.was for hit in answer.hits)
    assert all(hit.passage and hit.passage in hit.candidate.text for hit in answer.hits)


def test_top_k_and_batches(collection: SearchedIndex, tiny: CrossEncoder) -> None:
    """The best of all candidates, not of the first ones."""
    whole = two_pass_search(collection, FIRST, lambda: tiny)
    best = two_pass_search(collection, FIRST, lambda: tiny, top_k=2, batch_size=1)
    assert [hit.candidate.id for hit in best.hits] == [hit.candidate.id for hit in whole.hits][:2]
    assert (best.candidates, best.hits[0].passage) == (5, None)
    with pytest.raises(InvalidInput, match="top_k"):
        two_pass_search(collection, FIRST, lambda: tiny, top_k=0)


def never() -> NoReturn:
    """A model that must not be loaded."""
    raise AssertionError("loaded")


def test_nothing_found_loads_no_model(place: Place, collection: SearchedIndex) -> None:
    """Neither do an index and a field that are not there: they are refused, not searched in vain."""
    assert two_pass_search(collection, FirstPass("zebra"), never).hits == ()
    with pytest.raises(InvalidInput, match="has no field body"):
        two_pass_search(collection, FirstPass("cat", ("body",)), never)
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
