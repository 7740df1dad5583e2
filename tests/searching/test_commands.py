"""`secondpass ENGINE create`, `index` and `search` from end to end, the same on both engines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.searching.places import NOBODY, Place, only_line
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
    program = f"import sys, secondpass_{engine}.commands; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=90, check=True)
    assert done.stdout.strip() == "[]"


def test_options_are_the_same() -> None:
    """Names and help of `index` and `search` are equal but for the engine's name; `create` shares all it can."""
    import typer

    from secondpass_elasticsearch.commands import commands as elasticsearch
    from secondpass_opensearch.commands import commands as opensearch

    def described(commands: typer.Typer, name: str) -> dict[str, object]:
        command = typer.main.get_command(commands).commands[name]  # type: ignore[attr-defined]
        return {option.name: (option.opts, getattr(option, "help", "")) for option in command.params}

    for name in ("index", "search"):
        assert described(elasticsearch, name) == described(opensearch, name)
    theirs = described(elasticsearch, "create")
    theirs.pop("similarity")
    assert theirs == described(opensearch, "create")
