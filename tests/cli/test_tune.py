"""`secondpass tune`: from a labelled folder to what applies it, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from secondpass import CrossEncoder
from secondpass.fusion import Candidates, Tuned
from secondpass.models.identity import marks_of
from tests.cli.conftest import Run, only_line
from tests.cli.test_search import hybrid
from tests.tiny_models import make_decoder

FEW = ("--dataset", "secondpass/demo", "--limit", "12", "--depth", "8", "--splits", "4")


def test_bm25_and_the_packaged_model_are_tuned_where_nothing_else_is_said(run: Run, tmp_path: Path) -> None:
    """What is written orders candidates; the JSON has every way's figures and each query's."""
    found = run("tune", *FEW, "--output", str(tmp_path / "tuned"), "--json", str(tmp_path / "all.json"))
    assert found.exit_code == 0, found.output
    assert "Of 12 labelled queries" in found.stdout
    page = json.loads((tmp_path / "all.json").read_text())
    assert [one["name"] for one in page["outcomes"]] == ["first pass", "reranker", "sum with reranker"]
    assert len(page["held_out"]["choice"]) == 12
    tuned = Tuned.from_dict(json.loads((tmp_path / "tuned" / "tuned.json").read_text()))
    assert tuned.first == ("bm25",)
    assert tuned.figures["recommended"] == page["recommended"]
    candidates = Candidates.of({"bm25": [("a", 2.0), ("b", 1.0)]})
    read = tuned.to_read(candidates)
    assert {one.id for one in tuned.order(candidates, read, [0.0] * len(read))} == {"a", "b"}


def test_how_pairs_were_read_is_kept(run: Run, tmp_path: Path) -> None:
    """The window and the instruction, under which the model's logits for the sample pairs are taken too."""
    folder = make_decoder(tmp_path / "Qwen3-Reranker-tiny", "qwen3", length=600)
    options = ("--model", folder, "--instruction", "is it about invoices", "--max-length", "560", "-o", tmp_path)
    found = run("tune", *FEW, *options)
    assert found.exit_code == 0, found.output
    tuned = Tuned.from_dict(json.loads((tmp_path / "tuned.json").read_text()))
    model = CrossEncoder(str(folder), max_length=560, instruction="is it about invoices")
    assert tuned.conditions == model.conditions()
    assert (model.conditions().window, model.conditions().prompt) == (560, "is it about invoices")
    assert tuned.marks == pytest.approx(marks_of(model), abs=1e-4)
    plain = CrossEncoder(str(folder)).conditions()
    assert list(plain.differences(tuned.conditions)) == ["window", "prompt"]


def test_a_template_is_given_where_the_folder_has_none(run: Run, tmp_path: Path) -> None:
    """Kept as the model reads it; beside a pipeline, which says that itself, it is refused by name."""
    folder = make_decoder(tmp_path / "plain", "qwen3", length=600)
    own: Any = {"template": "Is {document} about {query}? ", "true_token": "yes", "false_token": "no"}
    told = [part for name, value in own.items() for part in (f"--{name.replace('_', '-')}", value)]
    found = run("tune", *FEW, "--model", folder, *told, "-o", tmp_path)
    assert found.exit_code == 0, found.output
    tuned = Tuned.from_dict(json.loads((tmp_path / "tuned.json").read_text()))
    model = CrossEncoder(str(folder), **own)
    assert tuned.conditions == model.conditions()
    assert tuned.marks == pytest.approx(marks_of(model), abs=1e-4)
    refused = run("tune", *FEW, "--pipeline", "rerank_bm25", *told)
    assert refused.exit_code == 2
    assert "--template goes with --first: a pipeline says how texts are read" in " ".join(refused.output.split())


def test_mistakes_are_told_before_a_model_is_loaded(run: Run, tmp_path: Path, tiny_folder: str) -> None:
    """Names that stand for two, fields that are no numbers, too few labels; a pipeline's likewise, before it runs."""
    runs = [tmp_path / name / "run.trec" for name in ("a", "b")]
    for file in (*runs, tmp_path / "reranker.trec"):
        file.parent.mkdir(exist_ok=True)
        file.write_text("q1 Q0 d1 1 1.0 x\n")
    same = tuple(argument for file in runs for argument in ("--first", str(file)))
    reranker = hybrid(tmp_path / "p.yaml", tiny_folder)
    reranker.write_text(reranker.read_text().replace("words", "reranker"))
    pipeline = ("--pipeline", "rerank_bm25")
    for options, said in (
        (same, f"--first {runs[1]}: --first {runs[0]} is called 'run' too; say NAME=FILE"),
        (("--first", str(tmp_path / "reranker.trec")), "the reranker is called 'reranker' too; say NAME=FILE"),
        (("--first", f"reranker={runs[0]}"), "the reranker is called 'reranker' too; say NAME=FILE"),
        (("--field", "reranker"), "--field reranker: the reranker is called 'reranker' too"),
        (("--field", "bm25"), "--field bm25: --first bm25 is called 'bm25' too"),
        (("--field", "colour"), "--field colour: no document has it"),
        (
            ("--limit", "5"),
            "5 queries (of --split, within --limit) have a relevant document; 8 are the fewest to halve",
        ),
        ((*pipeline, "--field", "colour"), "--field colour: no document has it"),
        ((*pipeline, "--limit", "5"), "5 queries (of --split, within --limit) have a relevant document"),
        (("--pipeline", str(reranker)), "the component 'reranker' has the name of"),
        (("--json", tmp_path / "none" / "x.json"), f"there is no folder {tmp_path / 'none'}"),
        (("--json", tmp_path), "is a folder, not a file"),
        (("-o", runs[0] / "tuned"), f"{runs[0]} is a file, and tuned.json goes into a folder"),
    ):
        found = run("tune", *FEW, "--model", tmp_path / "absent", *options)
        assert (found.exit_code, said in only_line(found)) == (2, True), (options, found.stderr)
    assert run("tune", *FEW, "--model", tmp_path / "absent").exit_code == 1


def test_first_passes_come_from_files_and_fields_from_the_documents(run: Run, tmp_path: Path) -> None:
    """Without a reranker nothing is loaded; a field is one of the inputs."""
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    queries = [{"_id": f"q{number}", "text": f"question {number}"} for number in range(10)]
    documents = [{"_id": f"d{place}", "text": f"text {place}", "year": 2000 + place} for place in range(6)]
    for name, rows in (("queries", queries), ("corpus", documents)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "qrels" / "test.tsv").write_text("".join(f"q{number}\td5\t1\n" for number in range(10)))
    lines = [f"q{number} Q0 d{place} 1 {-place} run" for number in range(10) for place in range(6)]
    for name in ("one", "two"):
        (tmp_path / f"{name}.trec").write_text("\n".join(lines) + "\n")
    files = ("--first", str(tmp_path / "one.trec"), "--first", f"other={tmp_path / 'two.trec'}")
    options = ("--field", "year", "--no-reranker", "--splits", "4", "-o", str(tmp_path / "tuned"))
    found = run("tune", "-d", str(folder), *files, *options)
    assert found.exit_code == 0, found.output
    written = (tmp_path / "tuned" / "tuned.json").read_text()
    tuned = Tuned.from_dict(json.loads(written))
    assert tuned.first == ("one", "other")
    assert tuned.after is None
    assert tuned.before.weights["year"] > 0.5
    # a report that fails at the end costs nothing else
    assert run("tune", "-d", folder, *files, *options[:-1], tmp_path / "full", "--json", "/dev/full").exit_code == 1
    assert (tmp_path / "full" / "tuned.json").read_text() == written
    graded = tmp_path / "graded.jsonl"
    for names in ([f"d{place}" for place in range(6)], None):
        labels = [{"query_id": one["_id"], "query": one["text"], "documents": [each["text"] for each in documents],
                   "labels": [0, 0, 0, 0, 0, 1], **({} if names is None else {"document_ids": names})}
                  for one in [*queries, {"_id": "q10", "text": "nothing"}]]  # fmt: skip
        labels[-1]["labels"] = [0] * 6
        graded.write_text("".join(json.dumps(row) + "\n" for row in labels))
        found = run("tune", "-d", graded, "--corpus", folder, *files, *options)
        assert found.exit_code == 0, found.output
        assert (tmp_path / "tuned" / "tuned.json").read_text() == written
    for more, said in (
        (("--pipeline", "rerank_bm25"), "is a file, and --pipeline takes a BEIR folder"),
        (("--split", "train"), "--split train goes with a BEIR folder"),
    ):
        assert said in only_line(run("tune", "-d", graded, *more))
    graded.write_text(json.dumps({"query": "a", "documents": ["x"], "labels": [0.5]}) + "\n")
    assert "grade 0.5" in only_line(run("tune", "-d", graded, "--first", "bm25", "--no-reranker"))


def test_questions_without_an_answer_are_read_too(run: Run, tmp_path: Path, pocket_folder: Path) -> None:
    """Of a folder and of a file of graded documents; they are no labelled queries of the measure, but of the rule."""
    demo = pocket_folder.parent / "demo"
    documents = [json.loads(line) for line in (demo / "corpus.jsonl").read_text().splitlines()]
    asked = [json.loads(line) for line in (demo / "queries.jsonl").read_text().splitlines()][:12]
    judged = [line.split("\t") for line in (demo / "qrels" / "test.tsv").read_text().splitlines()[1:]]
    grades = {one["_id"]: {name: int(grade) for query, name, grade in judged if query == one["_id"]} for one in asked}
    others = [{"_id": f"n{row}", "text": f"how far is it to the moon in {row} months"} for row in range(10)]
    grades |= {one["_id"]: {documents[0]["_id"]: 0} for one in others}
    asked += others
    # the first pass has what is relevant last, so that the model is worth its time
    names = [one["_id"] for one in documents]
    found = {query: [*(name for name in names if name not in own), *own][-8:] for query, own in grades.items()}
    lines = [f"{query} Q0 {name} 1 {-row} first" for query, own in found.items() for row, name in enumerate(own)]
    (tmp_path / "first.trec").write_text("\n".join(lines) + "\n")
    folder, graded = tmp_path / "beir", tmp_path / "graded.jsonl"
    (folder / "qrels").mkdir(parents=True)
    rows = [f"{query}\t{name}\t{grade}\n" for query, own in grades.items() for name, grade in own.items()]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(rows))
    texts = {one["_id"]: f"{one['title']} {one['text']}" for one in documents}
    groups = [{"query_id": one["_id"], "query": one["text"], "document_ids": list(grades[one["_id"]]),
               "documents": [texts[name] for name in grades[one["_id"]]], "labels": list(grades[one["_id"]].values())}
              for one in asked]  # fmt: skip
    for file, each in (("beir/queries", asked), ("beir/corpus", documents), ("graded", groups)):
        (tmp_path / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in each))
    for labels in (folder, graded):
        options = ("--corpus", folder, "--first", tmp_path / "first.trec", "--splits", "4", "-o", tmp_path / "tuned")
        done = run("tune", "-d", labels, *options)
        assert done.exit_code == 0, done.output
        assert "Of 12 labelled queries, half of them fitted on and half measured, 4 times\n" in done.stdout
        assert "10 queries without a relevant document are not measured" in " ".join(done.stdout.split())
        tuned = Tuned.from_dict(json.loads((tmp_path / "tuned" / "tuned.json").read_text()))
        assert tuned.calibration is not None
        assert tuned.calibration.queries == 22
        assert tuned.calibration.answers is not None
        assert tuned.calibration.answers.unanswered == 10


def test_what_is_not_installed_is_said_before_anything_is_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the extra that brings all of it."""
    monkeypatch.setitem(sys.modules, "venn_abers", None)
    found = run("tune", "--dataset", "nowhere")
    assert found.exit_code == 1
    assert 'pip install "secondpass[tune]"' in only_line(found)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--first", "bm25", "--pipeline", "rerank_bm25"), "either --first or --pipeline"),
        (("--field", "colour", "--no-reranker"), "--field colour: no document has it"),
        (("--measure", "magic@10"), "magic@10"),
        (("--no-reranker", "--model", "some"), "either --model or --no-reranker"),
    ],
)
def test_what_cannot_be_tuned_is_refused(run: Run, options: tuple[str, ...], said: str) -> None:
    """In one line, with exit code 2."""
    found = run("tune", *FEW, *options)
    assert found.exit_code == 2
    assert said in only_line(found)
