"""`secondpass mine`: groups from a BEIR folder or files, by each source, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from transformers import AutoModel, AutoTokenizer
from typer.testing import CliRunner, Result

from secondpass import CrossEncoder
from secondpass.cli.program import Program
from secondpass.cli.train import mine
from tests.cli.conftest import only_line
from tests.small_collection import write_json_lines
from tests.tiny_models import make_decoder

Mine = Callable[..., Result]


@pytest.fixture
def run_mine(tmp_path: Path) -> Mine:
    """The command in this process, with errors as the program shows them; the groups go to groups.jsonl."""
    app = typer.Typer(cls=Program, pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    app.command("mine")(mine)

    def invoke(*arguments: str | Path) -> Result:
        whole = ["mine", "--output", tmp_path / "groups.jsonl", *arguments]
        return CliRunner().invoke(app, [str(argument) for argument in whole])

    return invoke


def groups(tmp_path: Path) -> dict[str, dict[str, object]]:
    """What was written, by query id."""
    lines = (tmp_path / "groups.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["query_id"]: row for row in map(json.loads, lines)}


def test_bm25_over_a_folder(run_mine, beir, tmp_path):
    """Judged and wrong documents first, then what shares words; the report is printed."""
    done = run_mine("--dataset", beir, "--split", "test", "-n", "2")
    assert done.exit_code == 0, done.stderr
    made = groups(tmp_path)
    assert list(made) == ["q3"]
    assert made["q3"]["document_ids"] == ["d5", "d2", "d1"]
    assert made["q3"]["labels"] == [1.0, 0.0, 0.0]
    assert made["q3"]["first_pass_scores"][1] is None
    assert "Queries with a group: 1 of 4; positives 1, negatives 2 (judged and not relevant: 1)" in done.stdout
    assert "nothing is judged relevant: 1 (unjudged)" in done.stdout
    assert "no candidate is left: 2 (q1, q2)" in done.stdout


def test_single_files_and_grades(run_mine, beir, tmp_path):
    """The three files by name, labels as they were judged, one positive a query."""
    qrels = beir / "qrels" / "test.tsv"
    qrels.write_text(qrels.read_text() + "q2\td2\t0\n")
    files = ["--corpus", beir / "corpus.jsonl", "--queries", beir / "queries.jsonl", "--qrels", qrels]
    done = run_mine(*files, "--graded", "--positives", "1")
    assert done.exit_code == 0, done.stderr
    assert groups(tmp_path)["q2"]["document_ids"] == ["d4", "d2"]
    assert groups(tmp_path)["q2"]["labels"] == [2.0, 0.0]
    assert "beyond the number that a query may have: 1" in done.stdout


@pytest.mark.parametrize(
    ("options", "own"), [((), False), (("--keep-identical-ids",), True), (("--files",), True),
                         (("--files", "--ignore-identical-ids"), False)],
)  # fmt: skip
def test_a_query_that_is_a_document_is_no_negative_of_its_own(run_mine, beir, tmp_path, options, own):
    """ArguAna's: the document under the query's id has its title too. Left out by default for a BEIR folder only."""
    with (beir / "corpus.jsonl").open("a") as corpus:
        corpus.write('{"_id": "q1", "title": "Argument", "text": "reset my password"}\n')
    names = ("--corpus", "corpus.jsonl", "--queries", "queries.jsonl", "--qrels", "qrels/test.tsv")
    files = [name if name.startswith("-") else beir / name for name in names]
    given = files if options[:1] == ("--files",) else ["--dataset", beir, "--split", "test"]
    done = run_mine(*given, *(option for option in options if option != "--files"), "--last", "1")
    assert done.exit_code == 0, done.stderr
    assert groups(tmp_path).get("q1", {}).get("document_ids", ["d1"]) == ["d1", *(["q1"] if own else [])]
    assert ("1 the query itself" in done.stdout) is not own


def test_clicks(run_mine, beir, tmp_path):
    """Pairs of texts, whose documents are the candidates, with those of a corpus; ids with corpus and queries."""
    clicks = tmp_path / "clicks.csv"
    clicks.write_text("query,document\ncat food,food for a cat\ndog food,food for a dog\ncat food,cat care\n")
    done = run_mine("--clicks", clicks)
    assert done.exit_code == 0, done.stderr
    made = {row["query"]: row for row in groups(tmp_path).values()}
    assert made["cat food"]["documents"] == ["food for a cat", "cat care", "food for a dog"]
    assert made["cat food"]["labels"] == [1.0, 1.0, 0.0]
    write_json_lines(tmp_path / "c.jsonl", [{"_id": "1", "text": "food for a cat"}, {"_id": "2", "text": "food"}])
    assert run_mine("--clicks", clicks, "--corpus", tmp_path / "c.jsonl").exit_code == 0
    assert groups(tmp_path)["dog food"]["document_ids"][-2:] == ["2", "1"]
    clicks.write_text("query,document,gold\ncat food,food for a cat,1\ndog food,food for a dog,1\n")
    assert "--column label=NAME" in only_line(run_mine("--clicks", clicks))
    assert run_mine("--clicks", clicks, "--column", "label=gold").exit_code == 0
    clicks.write_text("query,document,clicked\ncat food,food for a cat,TRUE\ncat food,tax law,false\n")
    assert "judged and not relevant: 1" in run_mine("--clicks", clicks).stdout
    clicks.write_text("query,document\n")
    assert f"{clicks} has no rows" in only_line(run_mine("--clicks", clicks))
    clicks.write_text("query_id,doc_id,clicks\nq3,d5,4\nq3,d2,0\n")
    files = ["--corpus", beir / "corpus.jsonl", "--queries", beir / "queries.jsonl"]
    assert run_mine("--clicks", clicks, *files, "-n", "1").exit_code == 0
    assert groups(tmp_path)["q3"]["document_ids"] == ["d5", "d2"]


def test_a_run_with_ranks_and_margin(run_mine, beir, tmp_path):
    """A run file is known as such; the window and the margin hold."""
    run = tmp_path / "first.trec"
    lines = [f"q1 Q0 {name} {rank} {score} x" for rank, (name, score) in
             enumerate([("d1", 9.0), ("d2", 8.9), ("d3", 8.0), ("d4", 4.0), ("d5", 3.0)], start=1)]  # fmt: skip
    run.write_text("\n".join(lines) + "\n")
    options = ["--dataset", beir, "--split", "test", "--from", run]
    assert run_mine(*options, "--first", "2", "--last", "3").exit_code == 0
    assert groups(tmp_path)["q1"]["document_ids"] == ["d1", "d3", "d4"]
    assert run_mine(*options, "--margin", "0.2").exit_code == 0
    assert groups(tmp_path)["q1"]["document_ids"] == ["d1", "d4", "d5"]
    assert run_mine(*options, "--absolute-margin", "0.5", "--max-score", "3.5").exit_code == 0
    assert groups(tmp_path)["q1"]["first_pass_scores"] == [9.0, 3.0]


def test_a_bi_encoder_and_a_cross_encoder(run_mine, beir, tmp_path, tiny_folder):
    """Both are loaded by folder; the report says how much the cross-encoder read."""
    AutoModel.from_pretrained(tiny_folder).save_pretrained(tmp_path / "encoder")
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(tmp_path / "encoder")
    options = ["--dataset", beir, "--split", "test", "--from", tmp_path / "encoder", "--device", "cpu"]
    done = run_mine(*options, "--query-prefix", "query: ", "--rescore", tiny_folder, "--sampling", "random")
    assert done.exit_code == 0, done.stderr
    assert "Documents read by the cross-encoder: " in done.stdout
    assert all(len(row["cross_encoder_scores"]) == len(row["documents"]) for row in groups(tmp_path).values())


def test_a_second_pass_is_told_what_its_folder_does_not_say(run_mine, beir, tmp_path, tiny_model_folder):
    """A template with the tokens of the answer, or by which of several labels it ranks."""
    plain = str(make_decoder(tmp_path / "plain", "qwen3", chat=None))
    options = ["--dataset", beir, "--split", "test", "--device", "cpu", "--rescore"]
    answer = {"template": "Q {query} D {document}", "true_token": "yes", "false_token": "no"}
    told = [part for name, value in answer.items() for part in (f"--{name.replace('_', '-')}", value)]
    labels = tiny_model_folder("bert", 2)
    assert "must be said: template=" in run_mine(*options, plain).stderr
    assert "say relevance=" in run_mine(*options, labels).stderr
    assert "neither a label's number" in only_line(run_mine(*options, labels, "--relevance", "best"))
    for folder, given, encoder, rule in (
        (plain, told, CrossEncoder(plain, device="cpu", **answer), None),
        (labels, ["--relevance", "1"], CrossEncoder(labels, device="cpu"), 1),
    ):
        done = run_mine(*options, folder, *given)
        assert done.exit_code == 0, done.stderr
        for row in groups(tmp_path).values():
            (ranking,) = encoder.rank_many([row["query"]], [row["documents"]], relevance=rule)
            wanted = {one.index: pytest.approx(one.score, abs=1e-5) for one in ranking.documents}
            read = [place for place, score in enumerate(row["cross_encoder_scores"]) if score is not None]
            assert read
            assert [row["cross_encoder_scores"][place] for place in read] == [wanted[place] for place in read]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "give --dataset, or --corpus, --queries and --qrels"),
        (["-d", "{}", "--corpus", "{}"], "give either --dataset"),
        (["-d", "{}"], "no qrels/train.tsv; its splits are test"),
        (["-d", "{}", "--split", "test", "--first", "9", "--last", "3"], "--last 3 is before --first 9"),
        (["-d", "{}", "--split", "test", "--query-prefix", "q"], "are for a bi-encoder"),
        (["--clicks", "{}/corpus.jsonl", "-d", "{}"], "goes without --dataset"),
        (["--clicks", "{}/corpus.jsonl", "--queries", "{}/queries.jsonl"], "--queries with --corpus"),
        (["-d", "{}", "--split", "test", "--from", "{}/nowhere"], "there is no folder"),
        (["-d", "{}", "--split", "test", "--from", "run.trec"], "--from: there is no file run.trec with a run"),
        (["-d", "{}", "--split", "test", "--true-token", "a"], "--true-token is for the cross-encoder of --rescore"),
        (["-d", "{}", "--split", "test", "--relevance", "1"], "--relevance is for the cross-encoder of --rescore"),
        (["-d", "{}", "--split", "test", "-o", "{}/g.csv"], "end in .jsonl"),
        (["-d", "{}", "--split", "test", "-o", "{}/no/g.jsonl"], "there is no folder"),
    ],
)
def test_refused_as_one_line(run_mine, beir, tmp_path, arguments, reason):
    """Exit code 2 or 1 and what is wrong; nothing is written."""
    done = run_mine(*(argument.format(beir) for argument in arguments))
    assert done.exit_code in (1, 2)
    assert reason in only_line(done)
    assert not (tmp_path / "groups.jsonl").exists()


def test_nothing_left_is_an_error(run_mine, beir, tmp_path):
    """An empty file would only fail later; the report says where everything went."""
    (beir / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq3\td5\t1\n")
    done = run_mine("-d", beir, "--split", "test", "--first", "90")
    assert done.exit_code == 2
    assert "no query has a negative that the rule allows" in done.stderr
    assert "1 judged relevant, 1 outside the ranks" in done.stderr
    assert not (tmp_path / "groups.jsonl").exists()


def test_help_loads_no_torch():
    """Nor does mining by BM25."""
    program = (
        "import sys, secondpass.cli.train, secondpass.training.negatives.mining, "
        "secondpass.training.negatives.candidates; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=90, check=True)
    assert done.stdout.split() == ["False"]
