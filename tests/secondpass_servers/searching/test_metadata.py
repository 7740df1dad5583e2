"""Metadata from a JSON line into an index of either server, filtered by, and back as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from secondpass.cli import app
from secondpass.corpora import CorpusDocument, note_kinds, read_corpus
from secondpass.errors import InvalidInput
from secondpass_servers.index import MetadataFields, gathered, laid_out, require_fields
from secondpass_servers.indexing.entries import item
from secondpass_servers.indexing.journal import DeadLetter, IndexingJournal
from secondpass_servers.two_pass import Condition, FirstPass, filter_clauses, find_candidates
from tests.secondpass_servers.searching.places import Place, only_line
from tests.small_collection import write_json_lines

Kinds = dict[tuple[str, ...], set[str]]
FACETS = {"id": 17, "note": "two ids: the first is the document's"}
# What a line holds beside id, title and text; a filter that finds it alone; the same for Haystack's stores.
LINES: list[tuple[dict[str, Any], str | None, tuple[str, str, Any] | None]] = [
    ({}, None, None),
    ({"lang": "en"}, "lang == en", ("meta.lang", "==", "en")),
    ({"lang": "de AT "}, 'lang == "de AT "', ("meta.lang", "==", "de AT ")),
    ({"word": "null"}, 'word == "null"', ("meta.word", "==", "null")),
    ({"word": 'ünï 😀 \u2028 \\ " = >= x'}, None, ("meta.word", "==", 'ünï 😀 \u2028 \\ " = >= x')),
    ({"empty": ""}, 'empty == ""', ("meta.empty", "==", "")),
    ({"long": "w" * 40_000}, None, None),
    ({"year": 1999}, "year < 2000", ("meta.year", "<", 2000)),
    ({"year": 2024}, "year>=2024", ("meta.year", ">=", 2024)),
    ({"tweet": 9007199254740993}, "tweet == 9007199254740993", ("meta.tweet", "==", 9007199254740993)),
    ({"tweet": 9007199254740992}, "tweet == 9007199254740992", ("meta.tweet", "==", 9007199254740992)),
    ({"huge": 12345678901234567890123}, "huge == 12345678901234567890123", None),
    ({"price": 5}, "price == 5", ("meta.price", "==", 5)),
    ({"price": 5.5}, "price == 5.50", ("meta.price", "==", 5.5)),
    ({"price": -0.1, "tiny": 1e-300}, "tiny < 1e-299", ("meta.price", "==", -0.1)),
    ({"draft": True}, "draft == true", ("meta.draft", "==", True)),
    ({"draft": False}, "draft = false", ("meta.draft", "==", False)),
    ({"nothing": None}, None, None),
    ({"published": "2024-02-29"}, "published == 2024-02-29", ("meta.published", "==", "2024-02-29")),
    ({"published": "2031-05-01T12:30:00.25+02:00"}, "published > 2030-01-01", ("meta.published", ">", "2030-01-01")),
    ({"about": "2024-01-01"}, "about == 2024-01-01", ("meta.about", "==", "2024-01-01")),
    ({"about": "spring 2024"}, "about == spring 2024", ("meta.about", "==", "spring 2024")),
    ({"tags": ["a", "b"]}, "tags == a", ("meta.tags", "in", ["a"])),
    ({"tags": []}, None, None),
    ({"tags": ["c d", None]}, 'tags == ["c d", "z"]', ("meta.tags", "in", ["c d", "z"])),
    ({"counts": [1, 2.5, 3]}, "counts == 2.5", ("meta.counts", "in", [2.5])),
    ({"mixed": [1, "x", True]}, "mixed == x", ("meta.mixed", "in", ["x"])),
    ({"metadata": {"url": "https://a.b/?c=d", "deep": {"er": [1]}}}, "metadata.deep.er == 1", None),
    ({"metadata": {}}, None, None),
    ({"people": [{"name": "Ada", "born": 1815}, {"name": "Alan"}]}, "people.born == 1815", None),
    ({"a.b": 1, "c": {"d": "dotted"}}, "a.b == 1", ("meta.a.b", "==", 1)),
    ({"either": 1}, None, None),
    ({"either": {"or": 1}, "odd": [[1], [[2]]]}, "odd == 2", None),
    ({"score": 0.5}, "score == 0.5", ("meta.score", "==", 0.5)),
    ({"score": 7, "blob": "b"}, "score > 1", ("meta.score", ">", 1)),
    (FACETS, "id == 17", ("meta.meta.id", "==", 17)),
    ({"content": "of another kind", "contents": "c"}, "content == of another kind", None),
    ({"embedding": "ada", "dataframe": "x"}, "embedding == ada", ("meta.dataframe", "==", "x")),
    ({"meta": {"score": 3, "meta": {"x": 1}}}, "meta.score == 3", None),
    ({"_private": 1, "Case Key-1": "x", "größe": 2}, "Case Key-1 == x", ("meta._private", "==", 1)),
    ({"dot": 1, "dot.": 5.5}, "dot == 5.5", ("meta.dot", "==", 1)),
    ({"price": 6.25, "lang": "fr", "passage": "p"}, "lang != en", None),
]
DOCUMENTS = {f"d{place}": meta for place, (meta, *_) in enumerate(LINES)}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A line for each."""
    rows = [{"_id": name, "title": "T", "text": "wing", **meta} for name, meta in DOCUMENTS.items()]
    return write_json_lines(tmp_path / "corpus.jsonl", rows)


def test_every_line_comes_back_and_is_found(
    place: Place, corpus: Path, tiny_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into the index, through a filter, and back: in hits and in Haystack's documents all keys are as they were."""
    monkeypatch.chdir(corpus.parent)
    index = place.create(dims=2)
    said = place.run("index", place.name, corpus).stdout
    assert f"{len(LINES)} of {len(LINES)} documents indexed" in said
    assert said.splitlines()[-1] == '  kept, but nothing can be filtered by: "either"'
    searched = ("search", place.name, "wing", "-m", tiny_folder, "-f", "jsonl", "-k", 100)
    rows = {row["id"]: row for row in map(json.loads, place.run(*searched).stdout.split("\n")[:-1])}
    assert {name: row.get("meta", {}) for name, row in rows.items()} == DOCUMENTS
    assert {row["text"] for row in rows.values()} == {"T wing"}
    for name, given in ((f"d{at}", line[1]) for at, line in enumerate(LINES) if line[1]):
        found = find_candidates(index, FirstPass("wing", filters=filter_clauses(index, [given])))
        expected = [name] if given != "lang != en" else [other for other in DOCUMENTS if other != "d1"]
        assert sorted(each.id for each in found) == sorted(expected), given
    both = place.run(*searched, "--filter", "price >= 5", "--filter", '{"term": {"lang": "fr"}}').stdout
    assert [json.loads(line)["meta"] for line in both.splitlines()] == [LINES[-1][0]]
    store = haystacks(place)
    assert {document.id: document.meta for document in store.filter_documents()} == DOCUMENTS
    for name, wanted in ((f"d{at}", line[2]) for at, line in enumerate(LINES) if line[2]):
        asked = dict(zip(("field", "operator", "value"), wanted, strict=True))
        assert [document.id for document in store.filter_documents(asked)] == [name], asked
    store.close()


def haystacks(place: Place) -> Any:
    """Haystack's store on the index."""
    if place.engine.command == "elasticsearch":
        module = pytest.importorskip("haystack_integrations.document_stores.elasticsearch")
        return module.ElasticsearchDocumentStore(hosts=place.url, index=place.name, api_key=None, api_key_id=None)
    module = pytest.importorskip("haystack_integrations.document_stores.opensearch")
    return module.OpenSearchDocumentStore(hosts=place.url, index=place.name)


def test_a_pipeline_writes_the_same(place: Place, corpus: Path) -> None:
    """An index that Haystack's store makes gets the same fields, BM25 reads the content alone, and nothing is lost."""
    pytest.importorskip(f"haystack_integrations.document_stores.{place.engine.command}")
    done = CliRunner().invoke(
        app, ["index", "-p", f"index_{place.engine.command}", "--index", place.name, "-c", str(corpus)]
    )
    assert done.exit_code == 0, done.output
    store = haystacks(place)
    assert {document.id: document.meta for document in store.filter_documents()} == DOCUMENTS
    for field, value, name in (
        ("meta.price", 5.5, "d13"),
        ("meta.tweet", 9007199254740993, "d9"),
        ("meta.score", 7, "d34"),
    ):
        found = store.filter_documents({"field": field, "operator": "==", "value": value})
        assert [document.id for document in found] == [name]
    store.close()
    answer = place.client.search(index=place.name, body={"query": {"query_string": {"query": "fr OR spring"}}})
    assert answer["hits"]["hits"] == []


def test_what_cannot_be_filtered_by_is_refused(place: Place) -> None:
    """By name, with the fields that there are; also with vectors a filter holds before the nearest are taken."""
    index = place.create(dims=2)
    near, far = {"content": "x", "embedding": [1.0, 0.0]}, {"content": "x", "embedding": [0.0, 1.0]}
    place.fill({"a": {**near, "code": "7"}, "b": {**far, "code": "8"}})
    for given, said in (
        ("codes == 7", "has no field codes to filter by; it has code, content, embedding, id"),
        ("content == x", "words of the field content are searched"),
        ("code > 7", "the field code holds strings, and > compares numbers"),
        ("code", "neither KEY OPERATOR VALUE"),
        ("code ==", "neither KEY OPERATOR VALUE"),
        ("code > null", "> compares with no such value"),
        ('["code"]', "neither KEY OPERATOR VALUE"),
    ):
        with pytest.raises(InvalidInput, match=said):
            filter_clauses(index, [given])
    only = filter_clauses(index, ["code == 8"])
    found = find_candidates(index, FirstPass("x", depth=1, bm25=False, vector=[1.0, 0.0], filters=only))
    assert [candidate.id for candidate in found] == ["b"]


def test_what_is_nested_is_filtered_by_in_the_servers_words_alone(place: Place) -> None:
    """A plain condition finds nothing there, and its opposite everything; as a field to search it is refused too."""
    inner = {"author": {"type": "keyword"}, "text": {"type": "text"}, "at": {"properties": {"year": {"type": "long"}}}}
    comments = {"type": "nested", "properties": inner}
    index = place.create({"content": {"type": "text"}, "comments": comments, "plain": {"properties": inner}})
    note = {"author": "ada", "text": "well", "at": {"year": 2024}}
    place.fill({"a": {"content": "x", "comments": [note], "plain": note}, "b": {"content": "x"}})
    for given in ("comments.author == ada", "comments.author != ada", "comments.at.year > 2000", "comments == null"):
        key = given.split()[0]
        with pytest.raises(InvalidInput, match=f"the field comments is nested: only a nested query finds {key}$"):
            filter_clauses(index, [given])
    query = {"nested": {"path": "comments", "query": {"term": {"comments.author": "ada"}}}}
    for given in (json.dumps(query), "plain.author == ada", "plain.at.year > 2000"):
        found = find_candidates(index, FirstPass("x", filters=filter_clauses(index, [given])))
        assert [candidate.id for candidate in found] == ["a"], given
    require_fields(index, ["content", "plain.text"])
    with pytest.raises(InvalidInput, match=r"comments is nested: only a nested query finds comments\.text$"):
        require_fields(index, ["content", "comments.text"])


def test_an_index_that_would_round_is_refused(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fractions do not go where whole numbers are; a new key gets its field, a known one keeps its own."""
    monkeypatch.chdir(tmp_path)
    place.create(suffix="-x")
    for number, row in enumerate(({"n": 1}, {"n": 2.5}, {"n": 3, "new": {"er": 0.5}})):
        file = write_json_lines(tmp_path / f"{number}.jsonl", [{"_id": str(number), "text": "x", **row}])
        done = place.run("index", f"{place.name}-x", file, "--add", code=2 if number == 1 else 0)
        if number == 1:
            assert "the field n holds whole numbers (long), and the corpus has fractions" in only_line(done)
        assert list(tmp_path.glob("*.journal")) == []
    (found,) = dict(place.client.indices.get_mapping(index=f"{place.name}-x")).values()
    assert found["mappings"]["properties"]["n"] == {"type": "long", "coerce": False}
    assert found["mappings"]["properties"]["new"] == {"properties": {"er": {"type": "double"}}}


def test_a_run_that_is_refused_leaves_the_mapping_as_it_is(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal is compared before the index gets fields."""
    monkeypatch.chdir(tmp_path)
    place.create(suffix="-j")
    file = write_json_lines(tmp_path / "c.jsonl", [{"_id": "a", "text": "x", "fresh": 1}])
    about = {"corpus": "another", "index": "another", "embedding": ""}
    IndexingJournal(tmp_path / f"{place.name}-j.journal", about).close()
    assert "was begun with another corpus" in only_line(place.run("index", f"{place.name}-j", file, code=2))
    (found,) = dict(place.client.indices.get_mapping(index=f"{place.name}-j")).values()
    assert found["mappings"]["properties"].keys() == {"id", "content"}


def kinds_of(*metas: dict[str, Any]) -> Kinds:
    """Kinds of several documents."""
    kinds: Kinds = {}
    for meta in metas:
        note_kinds(meta, kinds)
    return kinds


def test_more_keys_than_an_index_takes() -> None:
    """An object used as a dictionary is kept and not indexed; as many keys outside of objects are refused."""
    wide = MetadataFields.of(kinds_of({"by_user": {f"u{number}": 1 for number in range(2_000)}, "n": 1}))
    assert wide.properties == {"by_user": {"type": "object", "enabled": False}, "n": {"type": "long", "coerce": False}}
    assert wide.unindexed == ("by_user",)
    with pytest.raises(InvalidInput, match="2000 different metadata keys are more than the 900"):
        MetadataFields.of(kinds_of({f"k{number}": 1 for number in range(2_000)}))
    deep: dict[str, Any] = {}
    for _ in range(30):
        deep = {"in": deep}
    assert MetadataFields.of(kinds_of(deep)).unindexed == ("in",)


@pytest.mark.parametrize("meta", [line[0] for line in LINES])
def test_layout_and_dead_letters_lose_nothing(tmp_path: Path, meta: dict[str, Any]) -> None:
    """What is gathered was laid out; a refused document is read back from its file without the reason."""
    assert gathered(laid_out(meta)) == meta
    document = CorpusDocument("d", "T", "x", {**meta, "title": "own", "reason": "mine", "text": 1})
    file = write_json_lines(tmp_path / "dead.jsonl", [DeadLetter(document, "no good").to_json()])
    assert list(read_corpus(file)) == [document]


def test_what_json_has_not_got() -> None:
    """NaN is a dead letter with the reason, a lone surrogate is replaced wherever it stands."""
    assert "NaN" in item(0, CorpusDocument("d", "", "x", {"n": [float("nan")]})).reason
    entry = item(0, CorpusDocument("d", "", "x", {"a\ud800": ["b\udc00", 1]})).entry
    assert entry is not None
    assert entry.source["a\ufffd"] == ["b\ufffd", 1]


def test_a_condition_is_read() -> None:
    """The first operator ends the key; the value is JSON where that is a string, a list or null, else as it stands."""
    assert Condition.of("a.b >= 2024-01-01") == Condition("a.b", ">=", "2024-01-01")
    assert Condition.of(' k = "x = y" ') == Condition("k", "==", "x = y")
    assert Condition.of('k != ["a", 1]') == Condition("k", "!=", ["a", 1])
    assert Condition.of("k == null") == Condition("k", "==", None)
    assert Condition.of("k == 1.50") == Condition("k", "==", "1.50")
