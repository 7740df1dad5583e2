"""`secondpass search`: what it refuses, and how it says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import BM25, Run, only_line
from tests.small_collection import write_json_lines

pytest.importorskip("haystack")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ((), "give one of --query, --queries and --data-queries"),
        (("-q", "a", "--data-queries"), "give one of --query, --queries and --data-queries"),
        (("-q", "a", "--qrels", "x"), "--qrels needs query ids"),
        (("-q", " "), "--query is blank"),
        (("--data-queries", "--split", "dev"), "no qrels/dev.tsv; its splits are test"),
        (("-q", "a", "-o", "x.trec", "-f", "table"), "--format table is for the terminal"),
        (("-q", "a", "-o", "/dev/null/x.trec"), "/dev/null/x.trec.partial: cannot be written"),
        (("--queries", "absent.tsv"), "absent.tsv: no such file"),
        (("-q", "a", "-p", "nonsense"), "the packaged ones are evaluate_rerank, "),
        (("-q", "a", "--index", "docs"), "--index docs: the pipeline has no store of Elasticsearch or OpenSearch"),
    ],
)
def test_refusals(run: Run, beir: Path, options: tuple[str, ...], reason: str) -> None:
    """What cannot be searched is refused in one line with exit code 2."""
    result = run(*BM25, "-c", beir, *options)
    assert result.exit_code == 2
    assert reason in only_line(result)


def test_bad_corpus_is_named_before_anything_is_done(run: Run, beir: Path, tmp_path: Path) -> None:
    """A bad corpus line is named by file and number, and no output or partial file is left."""
    with (beir / "corpus.jsonl").open("a") as corpus:
        corpus.write('{"_id": "d1", "text": "again"}\n')
    result = run(*BM25, "-c", beir, "-q", "a", "-o", tmp_path / "x.trec")
    assert result.exit_code == 2
    assert "corpus.jsonl:6: id 'd1' was given before" in only_line(result)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["beir"]


def test_ids_that_no_run_can_hold(run: Run, tmp_path: Path, tiny_folder: str) -> None:
    """A document id with a space is refused for a TREC run before the first query, and is fine in JSON."""
    file = write_json_lines(tmp_path / "c.jsonl", [{"_id": "a b", "text": "the cat"}])
    options = (*BM25, "-c", file, "-m", tiny_folder, "-q", "cat")
    refused = run(*options, "-f", "trec")
    assert refused.exit_code == 2
    assert "'a b' cannot stand in a TREC run" in only_line(refused)
    assert json.loads(run(*options, "-f", "json").stdout)["queries"][0]["second"][0]["id"] == "a b"


@pytest.mark.parametrize(
    ("yaml", "reason"),
    [
        ("a: [", "not a YAML file that can be read"),
        ("- a", "not a Haystack pipeline"),
        ("components: {x: {type: os.path.join}}", "cannot be loaded"),
        ("components: {x: {type: haystack.no.Such}}", "cannot be loaded"),
        (
            "components: {r: {type: haystack_integrations.components.rankers.secondpass.ranker.SecondPassRanker,"
            " init_parameters: {top_k: 0}}}",
            "top_k",
        ),
        (
            "components: {r: {type: haystack_integrations.components.rankers.secondpass.ranker.SecondPassRanker}}",
            "'documents', which a search has not got",
        ),
        ("components: {j: {type: haystack.components.joiners.branch.BranchJoiner, init_parameters: {type_: str}}}",
         "none does"),
    ],
)  # fmt: skip
def test_bad_pipelines_are_named(run: Run, beir: Path, tmp_path: Path, yaml: str, reason: str) -> None:
    """A file that is no pipeline, or not one that can search, is refused in one line with exit code 2."""
    (tmp_path / "p.yaml").write_text(yaml)
    result = run("search", "-p", tmp_path / "p.yaml", "-c", beir, "-q", "a")
    assert result.exit_code == 2
    assert reason in only_line(result)


def test_model_that_cannot_be_loaded(run: Run, beir: Path, tmp_path: Path) -> None:
    """A ranker's model that is not there is one line and exit code 1."""
    result = run(*BM25, "-c", beir, "-q", "a", "-m", tmp_path / "absent")
    assert result.exit_code == 1
    assert "absent" in only_line(result)


def test_missing_haystack_is_one_line(run: Run, beir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Haystack the commands say what to install, with exit code 1."""
    monkeypatch.setitem(sys.modules, "haystack", None)
    for arguments in ((*BM25, "-c", beir, "-q", "a"), ("demo",)):
        result = run(*arguments)
        assert result.exit_code == 1
        assert only_line(result).endswith('pip install "secondpass[haystack]"')


def test_missing_ir_measures_is_one_line(run: Run, beir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ir_measures a measured search says what to install before it begins; an unmeasured one runs."""
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    result = run(*BM25, "-c", beir, "--data-queries")
    assert result.exit_code == 1
    assert only_line(result).endswith('pip install "secondpass[eval]"')


def test_commands_are_light() -> None:
    """The module of the commands imports neither Haystack nor torch by itself."""
    code = "import sys, importlib.util\nimport secondpass_pipelines.commands\nprint('haystack' in sys.modules)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((*BM25, "-q", "a"), "InMemoryDocumentStore holds no documents: give --corpus, or index them first"),
        ((*BM25, "--data-queries"), "--data-queries needs a BEIR folder: give --dataset, or --corpus"),
        ((*BM25, "-q", "a", "--add"), "--add is for --corpus"),
        ((*BM25, "-q", "a", "--dataset", "x"), "give one of --query, --queries and --data-queries"),
        (("evaluate", "--qrels", "x", "-r", "y", "--indexed"), "--indexed, --index and --add go with --pipeline"),
        (("evaluate", "-p", "x", "-d", "y", "--indexed", "--add"), "give either --indexed or --add"),
        (("evaluate", "-p", "rerank_bm25", "-d", "BEIR", "--indexed"), "InMemoryDocumentStore holds no documents"),
    ],
)
def test_stores_as_they_are(run: Run, beir: Path, arguments: tuple[str, ...], reason: str) -> None:
    """What makes no sense without a corpus, or without a server, is refused in one line."""
    result = run(*(str(beir) if argument == "BEIR" else argument for argument in arguments))
    assert result.exit_code == 2
    assert reason in only_line(result)
