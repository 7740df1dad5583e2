"""`secondpass ENGINE create`, `index` and `search` from end to end, the same on both engines."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from secondpass import CrossEncoder
from secondpass.cli.output import Format
from secondpass.errors import InvalidInput, ModelLoadError
from secondpass_servers.commands import (
    embedding_of,
    length_of,
    notes,
    run_index,
    run_search,
    show_hits,
    show_notes,
)
from secondpass_servers.contract import TooBusy
from secondpass_servers.indexing.entries import IndexingSettings
from secondpass_servers.indexing.journal import RunFiles
from secondpass_servers.indexing.run import IndexingRequest
from secondpass_servers.two_pass import Candidate, FirstPass, TwoPassAnswer, TwoPassHit
from tests.secondpass_servers.searching.places import NOBODY, Place, only_line
from tests.small_collection import CORPUS, write_beir, write_json_lines

ENGINES = ("elasticsearch", "opensearch")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A BEIR folder; what a command writes lies beside it."""
    monkeypatch.chdir(tmp_path)
    return write_beir(tmp_path / "beir")


def rows(text: str) -> list[dict[str, object]]:
    """Lines of JSON."""
    return [json.loads(line) for line in text.splitlines()]


def test_from_an_empty_server_to_a_reranked_query(place: Place, folder: Path, tiny_folder: str) -> None:
    """create, index, search: the page for newcomers."""
    created = place.run("create", place.name)
    expected = f"Created {place.url}/{place.name}: BM25 on content, analyzer standard, no embeddings.\n"
    assert created.stdout == expected
    assert place.run("index", place.name, folder).stdout.startswith("5 of 5 documents indexed")
    query = ("search", place.name, "a train to Paris", "-m", tiny_folder)
    found = rows(place.run(*query, "-f", "jsonl", "--passages", "-k", 2).stdout)
    assert [row["rank"] for row in found] == [1, 2]
    texts = {row["_id"]: f"{row['title']} {row['text']}".strip() for row in CORPUS}
    assert all(row["text"] == texts[str(row["id"])] and row["passage"] and row["index"] == place.name for row in found)
    table = place.run(*query, "-k", 1).stdout.splitlines()
    assert (table[0].split(), len(table)) == (["rank", "was", "score", "id", "text"], 2)
    assert place.run("search", place.name, "zebra", "-m", tiny_folder).stderr == "secondpass: no document found\n"


def test_long_documents_within_a_time_and_from_kept_scores(place: Place, tiny_folder: str, tmp_path: Path) -> None:
    """Documents are read whole, their best windows shown by their places; a second search asks no model."""
    place.create()
    place.fill({"long": {"content": "water the tree. " * 90 + "the cat sat."}, "short": {"content": "a cat and a dog"}})
    cache = tmp_path / "scores.db"
    query = ("search", place.name, "the cat", "-f", "jsonl", "--long", "windows", "--passages", "-m", tiny_folder)
    kept = (*query, "--budget-ms", 60_000, "--score-cache", cache)
    first = place.run(*kept).stdout
    for row in rows(first):
        text = str(row["text"])
        assert row["passage"] == text[row["passage_start"] : row["passage_end"]]  # type: ignore[misc]
        assert (len(str(row["passage"])) < len(text)) == (row["id"] == "long")
    assert len(rows(first)) == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secondpass.scoring.score_rows", lambda *given: pytest.fail("the model was asked"))
        assert place.run(*kept).stdout == first
        assert rows(place.run(*kept, "-m", tiny_folder, "--keep", 1).stdout)[0] == rows(first)[0]
    assert "--max-windows goes with --long windows" in only_line(
        place.run("search", place.name, "cat", "--max-windows", 2, code=2)
    )


def test_the_packaged_corpus(place: Place, folder: Path) -> None:
    """It comes with the package, and the server may be named on the command line."""
    place.run("create", place.name, "--url", place.url)
    done = place.run("index", place.name, "secondpass/demo", "--url", place.url)
    assert "documents indexed" in done.stdout


def test_an_index_is_never_written_over(place: Place, folder: Path) -> None:
    """Neither by create, nor by a second corpus that was not meant to be added."""
    place.run("create", place.name)
    place.run("index", place.name, folder)
    again = only_line(place.run("create", place.name, code=2))
    assert again == (
        f"secondpass: {place.engine.title} {place.url} has an index '{place.name}' already, "
        "and it is left as it is: take another name"
    )
    assert "holds 5 documents already" in only_line(place.run("index", place.name, folder, code=2))
    assert "5 written over" in place.run("index", place.name, folder, "--add").stdout


def test_refused_documents_are_dead_letters(place: Place, folder: Path) -> None:
    """A wrong mapping: the good documents are indexed, the others named with the reason, and the exit code says so."""
    index = place.create(mappings={"content": {"type": "integer"}})
    lines = [{"_id": "1", "text": "7"}, {"_id": "2", "text": "seven 😀"}, {"_id": "x" * 600, "text": "8"}]
    corpus = write_json_lines(folder / "mixed.jsonl", lines)
    done = place.run("index", place.name, corpus, "--files", folder, code=1)
    assert "2 of 3 documents were refused" in done.stderr
    letters = rows((folder / f"{place.name}.dead.jsonl").read_text(encoding="utf-8"))
    told = json.dumps(letters, ensure_ascii=False)
    assert all(word in told for word in ("seven 😀", "integer", "600 bytes"))
    assert [hit["_id"] for hit in index.hits({})] == ["1"]


def test_dense_and_hybrid(place: Place, folder: Path, tiny_folder: str, minilm: str) -> None:
    """Embedded by the same model, a document is found by its meaning; the second pass orders both lists."""
    place.run("create", place.name, "--dims", 384)
    place.run("index", place.name, folder, "--embedder", minilm)
    common = ("--embedder", minilm, "-m", tiny_folder, "-f", "jsonl")
    query = "forgot login credentials"
    dense = rows(place.run("search", place.name, query, "--first", "dense", "--depth", 1, *common).stdout)
    assert [row["id"] for row in dense] == ["d1"]
    hybrid = place.run("search", place.name, f"{query} cat", "--first", "hybrid", "--depth", 2, *common)
    found = [str(row["id"]) for row in rows(hybrid.stdout)]
    assert {"d1", "d2"} <= set(found)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(("dims", "words"), [(None, "has no field embedding"), (3, "takes embeddings of 3 numbers")])
def test_an_embedder_that_does_not_fit(place: Place, folder: Path, minilm: str, dims: int | None, words: str) -> None:
    """Refused before a document is written, and by a search in the same words; no journal is left."""
    place.run("create", place.name, *(() if dims is None else ("--dims", dims)))
    for arguments in (("index", place.name, folder), ("search", place.name, "cat", "--first", "dense")):
        line = only_line(place.run(*arguments, "--embedder", minilm, code=2))
        assert line.startswith(f"secondpass: {place.engine.title} {place.url}/{place.name}")
        assert words in line
    assert place.opened().hits({}) == []
    assert list(Path().glob("*.journal")) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("search", "INDEX", "  "), "the query is blank"),
        (("search", "INDEX-missing", "cat"), "no such index"),
        (("search", "INDEX", "cat", "--field", "body"), "has no field body"),
        (("search", "INDEX", "cat", "--field", " "), "a field's name is blank"),
        (("search", "INDEX", "cat", "--depth", "10001"), "depth"),
        (("index", "INDEX", "nowhere.jsonl"), "nowhere.jsonl: no such file"),
        (("create", "INDEX-2", "--analyzer", "klingon"), "klingon"),
        (("create", " "), "the name of the index is blank"),
        (("create", "x", "--url", "http://u:S3CRET@h:1"), "--url holds a user or a password"),
    ],
)
def test_refusals(place: Place, folder: Path, arguments: tuple[str, ...], words: str) -> None:
    """One line, exit code 2, no secret."""
    place.run("create", place.name)
    refused = place.run(*(argument.replace("INDEX", place.name) for argument in arguments), code=2)
    assert words in only_line(refused)
    assert "S3CRET" not in refused.output


def test_indexing_into_nothing(place: Place, folder: Path, minilm: str) -> None:
    """No index is made by accident: its mapping would be a guess."""
    for more in ((), ("--embedder", minilm)):
        failed = only_line(place.run("index", place.name, folder, *more, code=1))
        assert f"secondpass {place.engine.command} create" in failed


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("command", ["create", "index", "index --embedder", "search"])
def test_a_dead_server(
    engine: str,
    command: str,
    folder: Path,
    minilm: str,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """One line with engine and host, without what was in the URL, exit code 1; indexing ends with its patience."""
    from typer.testing import CliRunner

    from secondpass.cli import app

    pytest.importorskip("elasticsearch" if engine == "elasticsearch" else "opensearchpy")
    monkeypatch.setenv(f"{engine.upper()}_URL", NOBODY.replace("//", "//joe:S3CRET@"))
    arguments = {
        "create": ["create", "x"],
        "index": ["index", "x", str(folder), "--patience", "0.2"],
        "index --embedder": ["index", "x", str(folder), "--patience", "0.2", "--embedder", minilm],
        "search": ["search", "x", "cat"],
    }[command]
    failed = CliRunner().invoke(app, [engine, *arguments])
    assert failed.exit_code == 1, failed.output
    title = {"elasticsearch": "Elasticsearch", "opensearch": "OpenSearch"}[engine]
    line = failed.stderr.splitlines()[-1]
    assert line.startswith(f"secondpass: {title} {NOBODY}")
    assert "cannot be reached (Connection refused)" in line
    assert "S3CRET" not in failed.output
    assert "joe" not in failed.output


@pytest.mark.parametrize("engine", ENGINES)
def test_a_dry_run_needs_no_server(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request that would be sent, and nothing else."""
    from typer.testing import CliRunner

    from secondpass.cli import app

    monkeypatch.setenv(f"{engine.upper()}_URL", NOBODY)
    shown = CliRunner().invoke(app, [engine, "create", "articles", "--dry-run", "--replicas", "0", "--dims", "4"])
    assert shown.exit_code == 0, shown.output
    head, _, body = shown.stdout.partition("\n")
    assert head == "PUT /articles"
    assert json.loads(body)["settings"]["index"]["number_of_replicas"] == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_help_loads_nothing_heavy(engine: str) -> None:
    """Neither torch nor haystack nor a client."""
    heavy = ("torch", "transformers", "haystack", "elasticsearch", "opensearchpy")
    program = f"import sys, secondpass_servers.{engine}.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=90, check=True)
    assert done.stdout.strip() == "[]"


def test_options_are_the_same() -> None:
    """Names and help of `index` and `search` are equal but for the engine's name; `create` shares all it can."""
    import typer

    from secondpass_servers.elasticsearch.cli import commands as elasticsearch
    from secondpass_servers.opensearch.cli import commands as opensearch

    def described(commands: typer.Typer, name: str) -> dict[str, object]:
        command = typer.main.get_command(commands).commands[name]  # type: ignore[attr-defined]
        return {option.name: (option.opts, getattr(option, "help", "")) for option in command.params}

    for name in ("index", "search"):
        assert described(elasticsearch, name) == described(opensearch, name)
    theirs = described(elasticsearch, "create")
    theirs.pop("similarity")
    assert theirs == described(opensearch, "create")


def never() -> NoReturn:
    """A model that must not be loaded."""
    raise AssertionError("loaded")


def test_a_busy_server_is_waited_for_before_the_model_is_loaded(
    place: Place, beir: Path, minilm: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As with every later request; then the corpus goes in with embeddings."""
    place.create(dims=384)
    access = importlib.import_module(f"secondpass_servers.{place.engine.command}.client").ACCESS
    with access.sink(None, 30.0, place.name) as sink:
        ask, tries = sink.field_mapping, []

        def busy_once(field: str) -> Mapping[str, Any]:
            tries.append(field)
            if len(tries) == 1:
                raise TooBusy("full")
            return dict(ask(field))

        monkeypatch.setattr(sink, "field_mapping", busy_once)
        settings = IndexingSettings(first_wait=0.01)
        request = IndexingRequest(beir, sink, RunFiles.of_index(place.name, beir.parent), settings)
        run_index(request, minilm)
    assert len(tries) == 2
    told = capsys.readouterr()
    assert "full; next try" in told.err
    assert told.out.startswith("5 of 5 documents indexed")
    (hit, *_) = place.opened().hits({"query": {"exists": {"field": "embedding"}}})
    assert len(hit["_source"]["embedding"]) == 384


def test_a_search_by_words_loads_no_embedder(place: Place, tiny: CrossEncoder) -> None:
    """And one by embeddings refuses an index without them before any model is loaded."""
    index = place.create()
    place.fill({"a": {"content": "a cat"}})
    answer = run_search(index, FirstPass("cat"), lambda: tiny, top_k=5, passages=True)
    assert [(hit.candidate.id, hit.passage) for hit in answer.hits] == [("a", "a cat")]
    with pytest.raises(InvalidInput, match="has no field embedding"):
        run_search(index, FirstPass("cat", bm25=False), never, "no/model", top_k=5)


FOUND = Candidate("articles", "a/ü", "line\u2028end 😀\nmore", 7, {"bm25": 1.5, "dense": 0.25})


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """A line a hit, whatever the text holds; a passage where there is one, and its place where that is known."""
    hits = (TwoPassHit(FOUND, 0.5), TwoPassHit(FOUND, 0.25, "a passage"), TwoPassHit(FOUND, 0.25, "end", place=(5, 8)))
    show_hits(TwoPassAnswer((*hits, TwoPassHit(FOUND, 0.25, scored=False)), 4), Format.jsonl)
    first, second, third, last = capsys.readouterr().out.splitlines()
    assert list(json.loads(first).items()) == [
        ("rank", 1),
        ("was", 7),
        ("score", 0.5),
        ("index", "articles"),
        ("id", "a/ü"),
        ("first_pass", {"bm25": 1.5, "dense": 0.25}),
        ("text", "line\u2028end 😀\nmore"),
    ]
    assert json.loads(second)["passage"] == "a passage"
    placed = json.loads(third)
    assert (placed["passage"], placed["passage_start"], placed["passage_end"]) == ("end", 5, 8)
    assert [json.loads(line).get("scored") for line in (second, third, last)] == [None, None, False]


def test_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Texts on one line as they are, the passage before the text: brackets are no markup."""
    candidate = Candidate("articles", "[red]", "[bold]text[/bold]\nmore", 1, {})
    hits = (TwoPassHit(candidate, 0.5), TwoPassHit(candidate, 0.25, "a passage"))
    show_hits(TwoPassAnswer((*hits, TwoPassHit(candidate, 0.25, scored=False)), 1), Format.table)
    head, first, second, third = capsys.readouterr().out.splitlines()
    assert third.split()[:4] == ["3", "1", "-", "[red]"]
    assert head.split() == ["rank", "was", "score", "id", "text"]
    assert first.split() == ["1", "1", "0.5000", "[red]", "[bold]text[/bold]", "more"]
    assert second.split() == ["2", "1", "0.2500", "[red]", "a", "passage"]
    show_hits(TwoPassAnswer(()), Format.table)
    assert capsys.readouterr().out == ""


def test_notes(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is silently cut or left out."""
    long = " ".join(map(str, range(2_000)))
    answer = TwoPassAnswer((TwoPassHit(FOUND, 0.5),), 9, 2, tuple("abcdefg"), 3)
    assert notes(answer, FirstPass(long, ("title", "body"))) == [
        "BM25 searched for the first 512 words of the query; the second pass read all of it",
        "2 of 9 documents have no text in title, body: ranked as empty",
        "7 of 9 documents cut to fit the model (id a, b, c, d, e, ...)",
        "3 of 9 documents not scored in time: they follow as they were found",
    ]
    show_notes(TwoPassAnswer((TwoPassHit(FOUND, 0.25),), 1), FirstPass("x"))
    assert capsys.readouterr().err == ""
    show_notes(TwoPassAnswer(()), FirstPass(long, bm25=False))
    assert capsys.readouterr() == ("", "secondpass: no document found\n")


@pytest.mark.filterwarnings("default::DeprecationWarning", "default::FutureWarning")
def test_the_vectors_are_those_of_haystacks_embedder(minilm: str, capfd: pytest.CaptureFixture[str]) -> None:
    """So that the pipelines can read what the command wrote; nothing is drawn or said."""
    pytest.importorskip("haystack_integrations.components.embedders.sentence_transformers")
    from haystack_integrations.components.embedders.sentence_transformers import SentenceTransformersTextEmbedder

    texts = ["how do I reset my password", "a much longer text about cats " * 200, "é 🙂", ""]
    embedding = embedding_of(minilm, "cpu")
    made = np.asarray(embedding.embed(texts))
    assert capfd.readouterr() == ("", "")
    assert (embedding.name, length_of(embedding)) == (minilm, 384)
    assert np.linalg.norm(made, axis=1) == pytest.approx([1.0] * 4)
    embedder = SentenceTransformersTextEmbedder(model=minilm, progress_bar=False)
    embedder.warm_up()
    theirs = np.asarray([embedder.run(text=text)["embedding"] for text in texts])
    cosines = (made * theirs).sum(axis=1) / np.linalg.norm(theirs, axis=1)
    assert cosines == pytest.approx([1.0] * 4, abs=1e-5)


def test_a_model_that_is_none(tmp_path: Path, tiny_folder: str) -> None:
    """An empty folder, or a cross-encoder: a line that names it."""
    for folder in (str(tmp_path), tiny_folder):
        with pytest.raises(ModelLoadError, match=folder):
            embedding_of(folder)
