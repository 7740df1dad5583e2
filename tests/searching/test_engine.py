"""The engines' own words, held against what their servers know."""

from __future__ import annotations

from tests.searching.places import Place


def test_names(place: Place) -> None:
    """A message names engine and address; the command is the program's."""
    assert place.engine.at("http://h:1/docs") == f"{place.engine.title} http://h:1/docs"
    assert f"{place.engine.command} [OPTIONS]" in place.run("--help").stdout


def test_words_of_requests(place: Place) -> None:
    """Type and length of embeddings, and the highlighter's limit, as this engine calls them."""
    index = place.create(dims=3)
    place.fill({"a": {"content": "one cat. " * 50}})
    answer = index.field_mapping("embedding")
    assert answer is not None
    mapping = answer[place.name]["mappings"]["embedding"]["mapping"]["embedding"]
    assert (mapping["type"], mapping[place.engine.length_key]) == (place.engine.vector_type, 3)
    highlight = {"fields": {"content": {}}, place.engine.analysed_key: 20}
    (hit,) = index.hits({"query": {"match": {"content": "cat"}}, "highlight": highlight})
    assert hit["highlight"]["content"]
