"""`secondpass evaluate`: runs against judgements from files, and what is refused."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest
from typer.testing import Result

from secondpass.evaluation.qrels import read_qrels
from secondpass.evaluation.runs import read_run
from tests.cli.conftest import Run, only_line

QUERIES = 30


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A BEIR folder with judgements, a first pass, the same order again, and a better order of the same candidates."""
    rng = random.Random(3)
    (tmp_path / "qrels").mkdir()
    judged, first, second = ["query-id\tcorpus-id\tscore"], [], []
    for number in range(QUERIES):
        documents = [f"d{number}-{place}" for place in range(20)]
        relevant = set(rng.sample(documents, 3))
        judged += [f"q{number}\t{document}\t{int(document in relevant)}" for document in documents[:15]]
        judged += [f"q{number}\t{document}\t1" for document in sorted(relevant - set(documents[:15]))]
        better = sorted(documents, key=lambda document: rng.random() + 0.5 * (document not in relevant))
        first += [f"q{number} Q0 {d} {rank} {20 - rank} bm25" for rank, d in enumerate(documents, start=1)]
        second += [f"q{number} Q0 {d} {rank} {20 - rank} ours" for rank, d in enumerate(better, start=1)]
    (tmp_path / "qrels" / "test.tsv").write_text("\n".join(judged) + "\n")
    (tmp_path / "bm25.trec").write_text("\n".join(first) + "\n")
    (tmp_path / "same.trec").write_text("\n".join(first) + "\n")
    (tmp_path / "ours.trec").write_text("\n".join(second) + "\n")
    texts = [json.dumps({"_id": f"q{number}", "text": f"question {number}"}) for number in range(QUERIES)]
    (tmp_path / "queries.jsonl").write_text("\n".join(texts))
    return tmp_path


def _evaluated(run: Run, files: Path, *arguments: str) -> Result:
    runs = ("--run", str(files / "bm25.trec"), "--run", f"reranked={files / 'ours.trec'}")
    return run("evaluate", "--qrels", str(files / "qrels" / "test.tsv"), *runs, *arguments)


def test_the_terminal_says_what_changed(run: Run, files: Path) -> None:
    """Names of the runs, the primary measure, an interval and the share of the possible gain."""
    done = _evaluated(run, files, "-m", "nDCG@10", "-m", "RR@10")
    assert done.exit_code == 0, done.stderr
    for word in ("bm25", "reranked", "nDCG@10", "RR@10", "95 %"):
        assert word in done.stdout, done.stdout


def test_all_reports_are_written(run: Run, files: Path) -> None:
    """A page, one JSON object, and a line per query and system, with the values that the run has."""
    made = {name: files / f"report.{name}" for name in ("html", "json", "csv")}
    options = [part for name, path in made.items() for part in (f"--{name}", str(path))]
    done = _evaluated(run, files, "-m", "nDCG@10", *options, "--queries", str(files / "queries.jsonl"))
    assert done.exit_code == 0, done.stderr
    assert "<html" in made["html"].read_text()
    assert json.loads(made["json"].read_text())["primary"] == "nDCG@10"
    rows = list(csv.DictReader(made["csv"].read_text().splitlines()))
    assert len(rows) == 2 * QUERIES
    from secondpass.evaluation.measures import evaluate

    qrels = read_qrels(files / "qrels" / "test.tsv")
    expected = evaluate(qrels, read_run(files / "ours.trec"), ["nDCG@10"]).values["nDCG@10"]
    found = {row["query"]: float(row["nDCG@10"]) for row in rows if row["system"] == "reranked"}
    assert found == pytest.approx(expected, abs=1e-9)


def test_a_folder_brings_its_queries_along(run: Run, files: Path) -> None:
    """Judgements by a BEIR folder: the texts of changed queries are shown."""
    done = run(
        "evaluate", "--qrels", str(files), "-r", str(files / "bm25.trec"), "-r", str(files / "ours.trec"), "-m", "AP"
    )
    assert done.exit_code == 0, done.stderr
    assert "question " in done.stdout


def test_the_same_order_gains_exactly_nothing(run: Run, files: Path) -> None:
    """A second pass that changed nothing is reported as that."""
    report = files / "r.json"
    runs = ("-r", str(files / "bm25.trec"), "-r", str(files / "same.trec"))
    done = run("evaluate", "--qrels", str(files), *runs, "-m", "nDCG@10", "--json", str(report))
    assert done.exit_code == 0, done.stderr
    (comparison,) = json.loads(report.read_text())["comparisons"]
    assert comparison["difference"] == 0.0
    assert comparison["p_randomisation"] == 1.0
    assert comparison["helped"] == comparison["hurt"] == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--qrels", "{}/qrels/test.tsv"], "give --qrels and at least one --run"),
        (["--run", "{}/bm25.trec"], "give --qrels and at least one --run"),
        (["--pipeline", "evaluate_rerank"], "--pipeline and --dataset go together"),
        (["--pipeline", "evaluate_rerank", "--dataset", "{}", "--run", "{}/bm25.trec"], "give either"),
        (["--qrels", "{}", "--run", "{}/no.trec"], "no.trec: no such file"),
        (["--qrels", "{}", "--run", "{}/bm25.trec", "-m", "nDCC@10"], "measure 'nDCC@10' is unknown"),
        (["--qrels", "{}", "--run", "{}/bm25.trec", "--html", "{}/none/r.html"], "there is no folder"),
        (["--qrels", "{}", "--run", "{}/bm25.trec", "--run", "{}/bm25.trec"], "has the name 'bm25'"),
        (["--qrels", "{}", "--split", "dev", "--run", "{}/bm25.trec"], "its splits are test"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(run: Run, files: Path, arguments: list[str], reason: str) -> None:
    """Exit code 2 and the argument, file or line that is wrong."""
    done = run("evaluate", *(argument.format(files) for argument in arguments))
    assert done.exit_code == 2
    assert reason in only_line(done)
