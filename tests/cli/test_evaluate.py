"""`secondpass evaluate` and `compare`: runs from files, or made by models, against judgements; what is refused."""

from __future__ import annotations

import csv
import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModel, AutoTokenizer
from typer.testing import Result

from secondpass import CrossEncoder
from secondpass.evaluation.qrels import read_qrels
from secondpass.evaluation.runs import read_run
from secondpass.explanation import explain
from secondpass.windows import Windows
from tests.cli.conftest import Run, only_line
from tests.cli.test_search import hybrid
from tests.small_collection import CORPUS, write_beir
from tests.small_collection import QUERIES as QUERIES_OF_SMALL
from tests.tiny_models import make_decoder

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


def test_a_second_evaluation_asks_no_model_again(
    run: Run, tmp_path: Path, tiny_folder: str, tiny_model_folder: Callable[..., str]
) -> None:
    """With a file of scores, for a cascade that reads in windows too."""
    beir = tmp_path / "beir"
    write_beir(beir)
    options = ("evaluate", "--pipeline", "rerank_bm25", "--dataset", beir, "--model", tiny_folder, "-m", "nDCG@10")
    more = ("--model", tiny_model_folder("roberta", 1), "--keep", "2", "--long", "windows", "--window-tokens", "40")
    given = (*options, *more, "--score-cache", tmp_path / "scores.db", "--json", tmp_path / "report.json")
    first = run(*given)
    assert first.exit_code == 0, first.output
    figures = json.loads((tmp_path / "report.json").read_text())["reports"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secondpass.scoring.score_rows", lambda *given: pytest.fail("the model was asked"))
        again = run(*given)
    assert again.exit_code == 0, again.output
    assert json.loads((tmp_path / "report.json").read_text())["reports"] == figures
    refused = run("evaluate", "--qrels", beir, "--run", "x.trec", "--score-cache", "scores.db")
    assert "--score-cache goes with --pipeline" in only_line(refused)
    assert "--max-windows goes with --long windows" in only_line(run(*options, "--max-windows", "3"))


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


def test_second_passes_are_compared_as_equals(run: Run, files: Path) -> None:
    """Nothing is guessed from the order: without a first pass there is neither headroom nor a gain over it."""
    done = _evaluated(run, files, "-m", "AP", "--first-pass", "none")
    assert done.exit_code == 0, done.stderr
    assert "reranked is better than bm25" in done.stdout
    assert "first pass: none of the runs" in done.stdout
    assert "Headroom" not in done.stdout
    named = _evaluated(run, files, "-m", "AP", "--first-pass", "reranked").stdout
    assert "bm25 against reranked" in named
    assert "first pass: reranked\n" in named
    assert "first pass: bm25, as the first run given" in _evaluated(run, files, "-m", "AP").stdout


def test_three_runs_are_compared_in_pairs(run: Run, files: Path) -> None:
    """Two rerankers of one first pass are compared with each other too, corrected together."""
    done = _evaluated(run, files, "-m", "AP", "--run", str(files / "same.trec"))
    for title in ("reranked against bm25", "same against bm25", "same against reranked"):
        assert f"\n{title}\n" in done.stdout
    assert "adjusted for 3 comparisons" in done.stdout


def test_queries_are_grouped_by_their_lengths_and_those_of_their_documents(run: Run, files: Path) -> None:
    """The texts come with the folder and --documents; the margins of this first pass are all the same."""
    texts = [json.dumps({"_id": f"d{number}-{place}", "text": "cat " * (number + 1)})
             for number in range(QUERIES) for place in range(20)]  # fmt: skip
    (files / "texts.jsonl").write_text("\n".join(texts))
    runs = ("-r", files / "bm25.trec", "-r", files / "ours.trec", "-m", "AP", "--json", files / "r.json")
    done = run("evaluate", "--qrels", files, *runs, "--documents", files / "texts.jsonl")
    assert done.exit_code == 0, done.stderr
    assert "\nWhen ours hurts\n" in done.stdout
    assert "\nDocuments that moved, bm25 to ours\n" in done.stdout
    (second,) = json.loads((files / "r.json").read_text())["second_passes"]
    groups = {
        each["by"]: [(group["low"], group["queries"]) for group in each["groups"]] for each in second["groupings"]
    }
    assert groups == {"query length": [(10, 10), (11, 20)], "document length": [(3, 10), (43, 10), (83, 10)]}


@pytest.fixture
def arguana(tmp_path: Path) -> Path:
    """A BEIR folder whose queries are documents that find themselves first; one judged query has no text."""
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("a\tb\t1\nc\td\t1\nlost\ta\t1\n")
    (tmp_path / "queries.jsonl").write_text("".join(f'{{"_id": "{name}", "text": "t"}}\n' for name in "ac"))
    (tmp_path / "run.tsv").write_text("a\ta\t1\na\tb\t2\nc\tc\t1\nc\td\t2\n")
    return tmp_path


@pytest.mark.parametrize(
    ("judgements", "options", "value", "said"),
    [
        ("", (), 1.0, ["as BEIR does (2 of run; --keep-identical-ids)", "have no text, so they are left out (lost)"]),
        ("", ("--keep-identical-ids",), 0.6309297535714575, ["have no text, so they are left out (lost)"]),
        ("qrels/test.tsv", ("--queries", "queries.jsonl"), 0.6309297535714575, ["so they are left out (lost)"]),
        ("qrels/test.tsv", ("--ignore-identical-ids",), 2 / 3, ["1 of 3 measured queries without an answer"]),
    ],
)
def test_what_counts_is_beir_s_for_its_folder_and_said(
    run: Run, arguana: Path, judgements: str, options: tuple[str, ...], value: float, said: list[str]
) -> None:
    """1.0 is what BEIR's EvaluateRetrieval gives; the reports in files say it as the terminal does."""
    report = arguana / "r.json"
    given = [str(arguana / part) if "queries" in part and not part.startswith("-") else part for part in options]
    done = run("evaluate", "--qrels", arguana / judgements, "-r", arguana / "run.tsv", "-m", "nDCG@10", *given,
               "--json", report)  # fmt: skip
    assert done.exit_code == 0, done.stderr
    found = json.loads(report.read_text())
    assert found["reports"][0]["means"]["nDCG@10"] == pytest.approx(value)
    everything = " ".join(done.stdout.split())
    for words in said:
        assert words in everything
    if options != ("--ignore-identical-ids",):
        assert any(said[-1] in note for note in found["notes"])


def test_identical_ids_are_counted_where_they_were_removed(run: Run, arguana: Path) -> None:
    """Of two queries that are judged relevant to themselves one finds itself: one is said, whatever is judged."""
    (arguana / "qrels" / "test.tsv").write_text("a\ta\t1\na\tb\t1\nc\tc\t1\nc\td\t1\n")
    (arguana / "run.tsv").write_text("a\ta\t1\na\tb\t2\nc\td\t1\n")
    done = run("evaluate", "--qrels", arguana, "-r", arguana / "run.tsv", "-m", "nDCG@10")
    said = " ".join(done.stdout.split())
    assert "as BEIR does (1 of run; --keep-identical-ids)" in said
    assert "judged relevant to their query are 1 of these documents" in said


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--pipeline", "evaluate_rerank", "--dataset", "{}", "-m", "RBP"], "measure 'RBP' needs the parameter rel"),
        (["--qrels", "{}", "--run", "{}/bm25.trec", "--first-pass", "x"], "first_pass='x' is none of the runs bm25"),
        (["--qrels", "{}/qrels/test.tsv"], "give --qrels and at least one --run"),
        (["--run", "{}/bm25.trec"], "give --qrels and at least one --run"),
        (["--pipeline", "evaluate_rerank"], "--pipeline and --dataset go together"),
        (["--pipeline", "evaluate_rerank", "--dataset", "{}", "--run", "{}/bm25.trec"], "give either"),
        (["--qrels", "{}", "--run", "{}/no.trec"], "no.trec: no such file"),
        (["--qrels", "{}", "--run", "{}/bm25.trec", "-m", "nDCC@10"], "measure 'nDCC@10' is unknown"),
        (["--qrels", "{}", "--run", "{}/bm25.trec", "--html", "{}/none/r.html"], "there is no folder"),
        (["--qrels", "{}", "--run", "{}/bm25.trec", "--run", "{}/bm25.trec"], "has the name 'bm25'"),
        (["--qrels", "{}", "--run", "{}/bm25.trec", "--html", "{}"], "is a folder, not a file"),
        (["--pipeline", "evaluate_rerank", "--dataset", "{}", "-o", "{}"], "is a folder, not a file"),
        (["--pipeline", "evaluate_rerank", "--dataset", "{}", "--queries", "x"], "--queries goes with --run"),
        (["--pipeline", "evaluate_rerank", "--dataset", "{}", "--documents", "{}/none"], "none: no such file"),
        (["--qrels", "{}", "--run", "{}/bm25.trec", "--limit", "3"], "--limit goes with --pipeline"),
        (["--qrels", "{}", "--run", "{}/bm25.trec", "--depth", "3"], "--depth goes with --pipeline"),
        (["--qrels", "{}", "--run", "{}/bm25.trec", "-o", "x.trec"], "--output goes with --pipeline"),
        (["--qrels", "{}", "--run", "{}/bm25.trec", "--model", "x"], "--model goes with --pipeline or --explain"),
        (["--qrels", "{}", "--run", "{}/bm25.trec", "--instruction", "x"], "goes with --pipeline or --explain"),
        (["--qrels", "{}", "--split", "dev", "--run", "{}/bm25.trec"], "its splits are test"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(run: Run, files: Path, arguments: list[str], reason: str) -> None:
    """Exit code 2 and the argument, file or line that is wrong."""
    done = run("evaluate", *(argument.format(files) for argument in arguments))
    assert done.exit_code == 2
    assert reason in only_line(done)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_report_in_a_locked_folder_is_refused_before_the_work(run: Run, files: Path) -> None:
    """A device in such a folder is written to all the same."""
    locked = files / "locked"
    locked.mkdir(mode=0o500)
    assert f"{locked}/r.html: cannot be written" in only_line(_evaluated(run, files, "--html", f"{locked}/r.html"))
    assert _evaluated(run, files, "-m", "AP", "--json", "/dev/null").exit_code == 0


@pytest.fixture
def corpus(files: Path) -> Path:
    """The folder with the texts of its documents."""
    texts = (f"the cat sat on the mat of {place}. a dog!" for place in range(20))
    lines = [
        json.dumps({"_id": f"d{number}-{place}", "text": text})
        for place, text in enumerate(texts)
        for number in range(QUERIES)
    ]
    (files / "corpus.jsonl").write_text("\n".join(lines))
    return files


def test_documents_that_moved_are_explained(run: Run, corpus: Path, tiny_folder: str) -> None:
    """At most as many as asked for, helped and hurt in turn, in the page and JSON; a run by other means is told."""
    page, report = corpus / "r.html", corpus / "r.json"
    runs = ("-r", str(corpus / "bm25.trec"), "-r", str(corpus / "ours.trec"), "-m", "nDCG@10")
    options = ("--qrels", str(corpus), *runs, "--model", tiny_folder, "--html", str(page), "--json", str(report))
    done = run("evaluate", *options, "--explain", "5")
    assert done.exit_code == 0, done.stderr
    assert "5 of the documents explained have another score in ours" in done.stdout
    assert page.read_text().count("Leave-one-out") == 5
    (second,) = json.loads(report.read_text())["second_passes"]
    counts = {
        kind: [one["explanation"] for change in second[kind] for one in change["moved"] if one["explanation"]]
        for kind in ("helped", "hurt")
    }
    assert [len(made) for made in counts.values()] == [3, 2]
    (shown, *_), change = counts["helped"], second["helped"][0]
    found = explain(CrossEncoder(tiny_folder, device="cpu"), change["text"], shown["document"])
    assert shown == json.loads(json.dumps(found.to_dict()))
    assert {one["document"] for one in change["moved"]} <= {f"d{change['query'][1:]}-{place}" for place in range(20)}
    assert "explanations: 5 documents, leave-one-out by " in done.stdout
    windows = Windows(tokens=6)
    assert run("evaluate", *options, "--explain", "1", "--long", "windows", "--window-tokens", "6").exit_code == 0
    (second,) = json.loads(report.read_text())["second_passes"]
    (shown,) = [one["explanation"] for change in second["helped"] for one in change["moved"] if one["explanation"]]
    found = explain(CrossEncoder(tiny_folder, device="cpu"), change["text"], shown["document"], truncation=windows)
    assert shown == json.loads(json.dumps(found.to_dict()))
    assert not all(part["read"] for part in shown["sentences"])


def test_queries_that_the_second_run_lacks_are_explained(run: Run, corpus: Path, tiny_folder: str) -> None:
    """Their documents moved out of it, and have no score there that could be another one."""
    answered = [line for line in (corpus / "ours.trec").read_text().splitlines() if line.startswith("q1 ")]
    (corpus / "ours.trec").write_text("\n".join(answered) + "\n")
    runs = ("-r", corpus / "bm25.trec", "-r", corpus / "ours.trec", "-m", "AP", "--json", corpus / "r.json")
    done = run("evaluate", "--qrels", corpus, *runs, "--model", tiny_folder, "--explain", "4")
    assert done.exit_code == 0, done.stderr
    (second,) = json.loads((corpus / "r.json").read_text())["second_passes"]
    explained = {change["query"] for change in second["hurt"] if any(one["explanation"] for one in change["moved"])}
    assert explained - {"q1"}


@pytest.mark.parametrize("labels", [1, 3])
def test_of_a_pipeline_the_rankers_run_is_explained(
    run: Run, tmp_path: Path, tiny_model_folder: Callable[..., str], labels: int
) -> None:
    """Though lists of several retrievers count as passes over their union too; by the label that it ranks by."""
    folder, report = tiny_model_folder("bert", labels), tmp_path / "r.json"
    pipeline = hybrid(tmp_path / "hybrid.yaml", folder)
    rule = 1 if labels > 1 else None
    if rule is not None:
        pipeline.write_text(pipeline.read_text().replace("device: cpu", "device: cpu, relevance: 1"))
    asked = ("evaluate", "-p", pipeline, "-d", write_beir(tmp_path / "beir"), "-m", "nDCG@10", "--json", report)
    done = run(*asked, "--explain", "2")
    assert done.exit_code == 0, done.stderr
    found = json.loads(report.read_text())
    assert "explanations" in found["settings"]
    assert len(found["second_passes"]) > 1
    for each in found["second_passes"]:
        moved = [(change, one) for change in (*each["helped"], *each["hurt"]) for one in change["moved"]]
        shown = [(change["text"], one["explanation"]) for change, one in moved if one["explanation"]]
        assert len(shown) == (min(2, len(moved)) if each["system"] == "second pass (ranker)" else 0)
        for query, one in shown:
            again = explain(CrossEncoder(folder, device="cpu"), query, one["document"], relevance=rule)
            assert one["logit"] == pytest.approx(again.logit, abs=1e-4)
    done = run(*asked, "--explain", "2", "--first-pass", "none")
    assert done.exit_code == 0, done.stderr
    (told,) = (note for note in json.loads(report.read_text())["notes"] if "explain" in note)
    assert told == "no document is explained: --explain is about one second pass; here are 0"


def test_an_instruction_is_for_the_models_with_a_place_for_it(run: Run, tmp_path: Path, tiny_folder: str) -> None:
    """The last of a cascade explains without it, as it ranked."""
    first = make_decoder(tmp_path / "Qwen3-Reranker-tiny", "qwen3", length=600)
    given = ("-p", "rerank_bm25", "-d", write_beir(tmp_path / "beir"), "-m", "nDCG@10", "--instruction", "find it")
    models = ("--model", first, "--model", tiny_folder, "--explain", "1", "--json", tmp_path / "r.json")
    done = run("evaluate", *given, *models)
    assert done.exit_code == 0, done.stderr
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["settings"]["explanations"].endswith(f"leave-one-out by {tiny_folder}")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--html", "r.html"), "--explain needs the --model"),
        (("--model", "secondpass/pocket"), "--explain goes with --html or --json"),
        (("--html", "r.html", "--model", "secondpass/pocket", "-r", "same.trec"), "one second pass; here are 2"),
    ],
)
def test_what_cannot_be_explained_is_refused(
    run: Run, corpus: Path, options: tuple[str, ...], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a model, a report to put it into, or one run that it is about."""
    monkeypatch.chdir(corpus)
    done = run("evaluate", "--qrels", ".", "-r", "bm25.trec", "-r", "ours.trec", "-m", "AP", "--explain", "1", *options)
    assert done.exit_code == 2
    assert reason in only_line(done)
    file = ("--qrels", "qrels/test.tsv", "-r", "bm25.trec", "-r", "ours.trec", "--model", "m", "--json", "r.json")
    assert "its --documents" in only_line(run("evaluate", *file, "--explain", "1"))


@pytest.fixture
def models(tmp_path: Path, tiny_folder: str, tiny_model_folder: Callable[..., str]) -> tuple[str | Path, ...]:
    """The small collection and two models for it."""
    write_beir(tmp_path / "beir")
    more = ("--model", f"one={tiny_folder}", "--model", f"other={tiny_model_folder('roberta', 1)}", "--device", "cpu")
    return ("compare", "--dataset", tmp_path / "beir", *more, "-m", "nDCG@10", "-m", "AP")


def test_models_are_compared_on_the_candidates_of_one_first_pass(
    run: Run, tmp_path: Path, models: tuple[str | Path, ...], tiny_folder: str
) -> None:
    """All pairs in every report, the runs beside it as `evaluate` reads them, and no pair scored twice."""
    made = {name: tmp_path / f"report.{name}" for name in ("html", "json", "csv")}
    reports = [part for name, path in made.items() for part in (f"--{name}", path)]
    given = (*models, "--depth", "3", "--precision", "fp32", "--score-cache", tmp_path / "scores.db")
    done = run(*given, "--first", "bm25", *reports, "--output", tmp_path / "run.trec")
    assert done.exit_code == 0, done.output
    for title in ("one against bm25", "other against bm25", "other against one"):
        assert f"\n{title}\n" in done.stdout
    found = json.loads(made["json"].read_text())
    assert [report["system"] for report in found["reports"]] == ["bm25", "one", "other"]
    assert found["ms"].keys() == {"bm25", "one", "other"}
    assert [(each["system"], each["baseline"]) for each in found["contrasts"]] == [("other", "one")]
    assert len(found["comparisons"]) == 6
    assert found["settings"]["model one"] == f"{tiny_folder}, float32 on cpu"
    assert found["settings"]["first pass"] == "bm25"
    assert "<html" in made["html"].read_text()
    assert len(made["csv"].read_text().splitlines()) == 1 + 3 * 3

    corpus = {row["_id"]: " ".join(filter(None, (row["title"], row["text"]))) for row in CORPUS}
    runs = {name: read_run(tmp_path / f"run.{name}.trec") for name in ("bm25", "one", "other")}
    encoder = CrossEncoder(tiny_folder, device="cpu")
    for query in QUERIES_OF_SMALL[:3]:
        names = list(runs["bm25"][query["_id"]])
        assert set(names) == set(runs["other"][query["_id"]])
        hits = encoder.rank(query["text"], [corpus[name] for name in names])
        told = {names[hit["corpus_id"]]: pytest.approx(float(hit["score"]), abs=1e-5) for hit in hits}
        assert list(runs["one"][query["_id"]].items()) == list(told.items())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secondpass.scoring.score_rows", lambda *given: pytest.fail("the model was asked"))
        again = run(*given, "--first", f"run.bm25={tmp_path / 'run.bm25.trec'}", "--depth", "1")
    assert again.exit_code == 0, again.output
    assert re.search(r"[1-9] documents of run.bm25 are beyond the depth of 1 ", " ".join(again.stdout.split()))
    assert "milliseconds are the models' alone: run.bm25 was not timed" in " ".join(again.stdout.split())
    files = [part for name in runs for part in ("-r", f"{name}={tmp_path / f'run.{name}.trec'}")]
    same = run("evaluate", "--qrels", tmp_path / "beir", *files, "-m", "nDCG@10", "-m", "AP", "--json", made["json"])
    assert same.exit_code == 0, same.output
    for key in ("reports", "comparisons", "contrasts"):
        assert json.loads(made["json"].read_text())[key] == found[key]


def test_what_a_budget_allows_is_in_every_report(run: Run, files: Path, models: tuple[str | Path, ...]) -> None:
    """A depth of each second pass, that none fits, or that no time is known: each of them costs nothing else."""
    made = files / "r.json", files / "r.html"
    done = _evaluated(run, files, "-m", "AP", "--budget-ms", "5", "--json", str(made[0]), "--html", str(made[1]))
    assert done.exit_code == 0, done.stderr
    said = "reranked within 5 ms a query: no depth is told, since its milliseconds by depth are not known"
    assert said in " ".join(done.stdout.split())
    assert all(said in file.read_text() for file in made)
    for budget, words in (("0", "no depth fits; the least takes "), ("1e9", "depth ")):
        notes = json.loads(run(*models, "--budget-ms", budget, "--json").stdout)["notes"]
        told = [note.partition(" within ")[0] for note in notes if f" ms a query: {words}" in note]
        assert told == ["one", "other"]


def test_a_model_is_told_what_its_folder_does_not_say(
    run: Run, tmp_path: Path, models: tuple[str | Path, ...], tiny_model_folder: Callable[..., str]
) -> None:
    """A template is for one model, and a label to rank by for those that have several; nothing is guessed."""
    plain, labels = str(make_decoder(tmp_path / "plain", "qwen3", chat=None)), tiny_model_folder("bert", 3)
    answer: dict[str, Any] = {"template": "Q {query} D {document}", "true_token": "yes", "false_token": "no"}
    told = [part for name, value in answer.items() for part in (f"--{name.replace('_', '-')}", value)]
    assert "template is for one model, and here are" in only_line(run(*models, *told))
    given = ("compare", "--dataset", tmp_path / "beir", "--device", "cpu", "-m", "nDCG@10", "-o", tmp_path / "run.trec")
    assert "must be said: template=" in run(*given, "--model", f"m={plain}").stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secondpass.scoring.score_rows", lambda *given: pytest.fail("a model before it was asked"))
        for more in ([], ["--relevance", "3"], ["--relevance", "-1"]):
            refused = run(*models, "--model", f"m={labels}", *more).stderr
            assert f"--model m={labels}: it has 3 labels; say by which to rank, --relevance 0 to 2 or" in refused
        assert "/nowhere holds no config.json" in run(*models, "--model", "/nowhere").stderr
    corpus = {row["_id"]: " ".join(filter(None, (row["title"], row["text"]))) for row in CORPUS}
    for folder, more, encoder, rule in (
        (plain, told, CrossEncoder(plain, device="cpu", **answer), None),
        (labels, ["--relevance", "2"], CrossEncoder(labels, device="cpu"), 2),
    ):
        done = run(*given, "--model", f"m={folder}", *more)
        assert done.exit_code == 0, done.output
        made = read_run(tmp_path / "run.m.trec")
        for query in QUERIES_OF_SMALL[:3]:
            names = list(made[query["_id"]])
            (ranking,) = encoder.rank_many([query["text"]], [[corpus[name] for name in names]], relevance=rule)
            wanted = {names[one.index]: pytest.approx(one.score, abs=1e-5) for one in ranking.documents}
            assert dict(made[query["_id"]]) == wanted


def test_rankings_that_lose_their_scores_are_counted(run: Run, tmp_path: Path, models: tuple[str | Path, ...]) -> None:
    """A first pass whose scores rise is written by its ranks, and a note says so."""
    rows = [("q1", 1.0, 2.0), ("q2", 2.0, 1.0), ("q3", 2.0, 2.0)]
    documents = [(query, [{"id": "d1", "score": one}, {"id": "d2", "score": two}]) for query, one, two in rows]
    lines = [json.dumps({"query_id": query, "documents": given}) + "\n" for query, given in documents]
    (tmp_path / "first.jsonl").write_text("".join(lines))
    done = run(*models, "--first", tmp_path / "first.jsonl", "-o", tmp_path / "run.trec")
    assert "secondpass: 1 rankings are written with ranks for scores" in done.stderr
    made = read_run(tmp_path / "run.first.trec")
    assert [next(iter(made[query].values())) for query in ("q1", "q2", "q3")] == [2.0, 2.0, 2.0]
    assert [list(made[query]) for query in made] == [["d1", "d2"]] * 3


def test_a_bi_encoder_finds_candidates_by_its_name(
    run: Run, tmp_path: Path, models: tuple[str | Path, ...], tiny_folder: str
) -> None:
    """Every document has a cosine, so each of three queries has as many candidates as the depth."""
    AutoModel.from_pretrained(tiny_folder).save_pretrained(tmp_path / "dense")
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(tmp_path / "dense")
    done = run(*models, "--first", tmp_path / "dense", "--depth", "4", "-o", tmp_path / "run.trec", "--limit", "2")
    assert done.exit_code == 0, done.output
    assert {query: len(ranking) for query, ranking in read_run(tmp_path / "run.dense.trec").items()} == {
        "q1": 4,
        "q2": 4,
    }
    assert "one against dense" in done.stdout


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--model", "one=x"), "is called 'one' too; say NAME=MODEL"),
        (("--model", "bm25=x"), "the first pass is called 'bm25' too"),
        (("--model", "=x"), "it has no name"),
        (("--first", "{}/strange.trec"), "document 'd9' of query 'q1' is not in the dataset"),
        (("--first", "{}/other.trec"), "it finds nothing for any of the 3 queries"),
        (("--first", "{}/none.trec"), "--first: there is no file {}/none.trec with a run, and as a bi-encoder: there"),
        (("--first", "bm=none.trec"), "--first: there is no file none.trec with a run, and as a bi-encoder: "),
        (("--model", "o/e=x", "--model", "o_e=y", "-o", "{}/run.trec"), "would both go to"),
        (("--output", "{}/none/run.trec"), "there is no folder"),
        (("--output", "{}"), "is a folder, not a file"),
        (("--split", "dev"), "its splits are test"),
        (("--max-windows", "3"), "--max-windows goes with --long windows"),
        (("-m", "nDCC@10"), "measure 'nDCC@10' is unknown"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    run: Run, tmp_path: Path, models: tuple[str | Path, ...], options: tuple[str, ...], reason: str
) -> None:
    """Before any model is loaded."""
    (tmp_path / "strange.trec").write_text("q1 Q0 d1 1 2.0 x\nq1 Q0 d9 2 1.0 x\n")
    (tmp_path / "other.trec").write_text("nobody Q0 d1 1 2.0 x\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secondpass.cli.arguments.load", lambda *given: pytest.fail("a model was loaded"))
        done = run(*models, *(option.format(tmp_path) for option in options))
    assert done.exit_code == (1 if "bi-encoder" in reason else 2), done.output
    assert reason.format(tmp_path) in only_line(done)
