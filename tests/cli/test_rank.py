"""`secondpass rank`: what it reads, prints and refuses."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from secondpass import Cascade, CrossEncoder
from secondpass.calibration import AnswerRule, Calibration
from secondpass.explanation import explain
from secondpass.score_cache import ScoreCache
from secondpass.windows import Windows
from tests.cli.conftest import Run, Start, command, only_line
from tests.small_collection import write_json_lines
from tests.tiny_models import make_folder, make_reranker

QUERY = "reset the password"
TEXTS = ["the cat sat on the mat", "open a bank account", "reset the password of your account", "paris in france"]


def rows(output: str) -> list[dict[str, Any]]:
    """Objects of JSON lines, read by a reader that breaks lines wherever Unicode does."""
    return [json.loads(line) for line in output.splitlines()]


@pytest.fixture
def lines_file(tmp_path: Path) -> Path:
    """`TEXTS`, one a line."""
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    return file


def test_order_and_scores_are_the_engines(run: Run, lines_file: Path, tiny_folder: str, tiny: CrossEncoder) -> None:
    """JSON lines hold the ranks, indices, scores and texts that `CrossEncoder.rank` gives."""
    result = run("rank", QUERY, "-d", lines_file, "-m", tiny_folder, "-f", "jsonl")
    assert result.exit_code == 0, result.output
    expected = tiny.rank(QUERY, TEXTS)
    assert rows(result.stdout) == [
        {"rank": place, "score": float(item["score"]), "index": item["corpus_id"], "text": TEXTS[item["corpus_id"]]}
        for place, item in enumerate(expected, start=1)
    ]
    assert result.stderr == ""


def test_table_shows_every_document(run: Run, lines_file: Path, tiny_folder: str) -> None:
    """The table has a line with rank, score, index and text for each document, no wider than the terminal."""
    result = run("rank", QUERY, "-d", lines_file, "-m", tiny_folder)
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["rank", "score", "index", "text"]
    assert sorted(line.split(maxsplit=3)[3].strip() for line in lines[1:]) == sorted(TEXTS)
    assert all(len(line) <= 80 for line in lines)


def test_table_keeps_markup_and_cuts_only_the_text(run: Run, tmp_path: Path, tiny_folder: str) -> None:
    """Square brackets and colons in a text are shown as they are, and a long text ends in an ellipsis."""
    file = write_json_lines(tmp_path / "d.jsonl", [{"_id": "a" * 20, "text": "[red]one[/red] :cat: " + "word " * 50}])
    shown = run("rank", QUERY, "-d", file, "-m", tiny_folder).stdout.splitlines()[1]
    assert "a" * 20 in shown
    assert "[red]one[/red] :cat: word" in shown
    assert shown.rstrip().endswith("…")


def test_index_is_the_line(run: Run, tmp_path: Path, tiny_folder: str) -> None:
    """Blank lines are skipped but counted, so that the index finds the line."""
    file = tmp_path / "d.txt"
    file.write_text("\none\n\n \ntwo\n")
    found = rows(run("rank", QUERY, "-d", file, "-m", tiny_folder, "-f", "jsonl").stdout)
    assert sorted((row["index"], row["text"]) for row in found) == [(1, "one"), (4, "two")]


@pytest.mark.parametrize("name", ["d.jsonl", "d.jsonl.gz", "d.json"])
def test_json_documents(run: Run, tmp_path: Path, tiny_folder: str, name: str) -> None:
    """JSON documents are strings or objects; a title stands before the text, and ids come back as given."""
    documents = ["plain", {"_id": "a", "title": "the title", "text": "the text"}, {"id": 7, "text": "été \u2028"}]
    lines = json.dumps(documents) if name == "d.json" else "\n".join(map(json.dumps, documents))
    content = lines.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    found = rows(run("rank", QUERY, "-d", tmp_path / name, "-m", tiny_folder, "-f", "jsonl").stdout)
    by_index = {row["index"]: (row.get("id"), row["text"]) for row in found}
    assert by_index == {0: (None, "plain"), 1: ("a", "the title the text"), 2: ("7", "été \u2028")}


def test_stdin_is_told_apart(run: Run, tiny_folder: str) -> None:
    """From stdin, a first line that is a JSON object makes JSON Lines of it, anything else plain texts."""
    options = ("rank", QUERY, "-m", tiny_folder, "-f", "jsonl")
    plain = rows(run(*options, input="one\n{two}\n").stdout)
    found = rows(run(*options, "-d", "-", input='{"text": "one"}\n{"text": "two"}\n').stdout)
    forced = rows(run(*options, "--input-format", "txt", input='{"text": "one"}\n').stdout)
    assert {row["text"] for row in plain} == {"one", "{two}"}
    assert {row["text"] for row in found} == {"one", "two"}
    assert [row["text"] for row in forced] == ['{"text": "one"}']


def test_a_table_of_ids_and_texts(run: Run, tmp_path: Path, tiny_folder: str) -> None:
    """MS MARCO's collection.tsv has ids, by its name and through a pipe; texts with tabs that are no table stay so."""
    options = ("rank", QUERY, "-m", tiny_folder, "-f", "jsonl")
    table = "0\tthe cat\rsat\n\n7\topen a bank account\n"
    (tmp_path / "collection.tsv").write_bytes(table.encode())
    named = rows(run(*options, "-d", tmp_path / "collection.tsv").stdout)
    piped = rows(run(*options, input=table).stdout)
    assert named == piped
    assert {(row["index"], row["id"], row["text"]) for row in piped} == {
        (0, "0", "the cat\rsat"),
        (2, "7", "open a bank account"),
    }
    for texts in (["one\ttwo", "three"], ["a\tone", "a\ttwo"], ["one two\tthree"], ["a\tb\tc"]):
        found = rows(run(*options, input="\n".join(texts)).stdout)
        assert {row["text"] for row in found} == set(texts)
        assert not any("id" in row for row in found)
    forced = rows(run(*options, "--input-format", "txt", input="0\tx\n").stdout)
    assert [row["text"] for row in forced] == ["0\tx"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("7\topen\ta bank account", "stdin:3: not an id, one tab and a text, but 2 of 3 lines are a table of ids"),
        ("0\topen a bank account", "stdin:3: id '0' comes twice, but 2 of 3 lines"),
        ("open a bank account", "stdin:3: not an id, one tab"),
        ("no id\topen", "stdin:3: not an id, one tab"),
    ],
)
def test_a_bad_line_does_not_make_texts_of_a_table(run: Run, tiny_folder: str, line: str, reason: str) -> None:
    """A piped table with one other line is refused by that line; the user can say that all of them are texts."""
    given = f"0\tthe cat\n\n{line}\n8\tthe dog\n"
    done = run("rank", QUERY, "-m", tiny_folder, input=given)
    assert done.exit_code == 2
    assert reason in only_line(done)
    texts = rows(run("rank", QUERY, "-m", tiny_folder, "-f", "jsonl", "--input-format", "txt", input=given).stdout)
    assert {row["text"] for row in texts} == {"0\tthe cat", line, "8\tthe dog"}


def test_top_k(run: Run, lines_file: Path, tiny_folder: str) -> None:
    """--top-k prints the best of what would be printed without it."""
    options = ("rank", QUERY, "-d", lines_file, "-m", tiny_folder, "-f", "jsonl")
    assert rows(run(*options, "--top-k", "2").stdout) == rows(run(*options).stdout)[:2]


def test_cuts_are_told(run: Run, tmp_path: Path, tiny_folder: str) -> None:
    """A document that was cut is named on stderr by its index, and its row says how many tokens it lost."""
    file = tmp_path / "d.txt"
    file.write_text("small\n\n" + "big " * 40 + "\n")
    result = run("rank", QUERY, "-d", file, "-m", tiny_folder, "-f", "jsonl", "--max-length", "16")
    assert result.stderr == "secondpass: 1 of 2 cut to fit 16 tokens (index 2)\n"
    by_index = {row["index"]: row for row in rows(result.stdout)}
    # 16 tokens hold three special ones and the query's three.
    assert by_index[2]["cut_tokens"] == 40 - 10
    assert "cut_tokens" not in by_index[0]


LONG = "a dog sat. " * 78 + "The cat sat on the mat. " + "water the tree. " * 30


def test_long_documents_are_read_in_windows(run: Run, tmp_path: Path, tiny_folder: str, tiny: CrossEncoder) -> None:
    """JSON lines carry the best window of each, the table shows it in place of the text."""
    file = write_json_lines(tmp_path / "d.jsonl", [{"_id": "long", "text": LONG}, {"_id": "blank", "text": " "}])
    options = ("rank", "where is the cat", "-d", file, "-m", tiny_folder, "--long", "windows", "--window-tokens", "40")
    how = Windows(tokens=40, overlap=8, most=3, select="bm25")
    chosen = ("--window-overlap", "8", "--max-windows", "3", "--select", "bm25")
    found = rows(run(*options, *chosen, "--passages", "-f", "jsonl").stdout)
    expected = tiny.rank("where is the cat", [LONG, " "], truncation=how, return_documents=True)
    assert [row["score"] for row in found] == [item["score"] for item in expected]
    assert found[0]["passage"] == expected[0]["passage"]
    assert found[0]["passage"]["text"] == LONG[found[0]["passage"]["start"] : found[0]["passage"]["end"]]
    assert found[0]["text"] == LONG
    assert "passage" not in found[1]
    bare = rows(run(*options, "-f", "jsonl").stdout)[0]["passage"]
    assert sorted(bare) == ["end", "score", "start", "windows"]
    shown = run(*options, *chosen, "--passages").stdout.splitlines()
    assert shown[0].split() == ["rank", "score", "id", "passage"]
    assert shown[1].split(maxsplit=3)[3][:20] == found[0]["passage"]["text"][:20]
    assert "32" in run(*options, "--help").stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--passages",), "--passages goes with --long windows"),
        (("--long", "error", "--passages"), "--passages goes with --long windows"),
        (("--window-tokens", "40"), "--window-tokens goes with --long windows"),
        (("--long", "error", "--select", "bm25"), "--select goes with --long windows"),
        (("--long", "windows", "--select", "bm25"), "windows: select='bm25' chooses among windows"),
        (("--long", "whole"), "--long"),
        (("--budget-ms", "0"), "budget_ms=0.0 is not above 0"),
        (("--keep", "3"), "--keep goes with several --model"),
        (("--json", "--format", "jsonl"), "give either"),
        (("--score-cache", "."), "is no file"),
        (("--long", "error"), "pair 0 has"),
    ],
)
def test_wishes_that_do_not_go_together_are_refused(
    run: Run, tmp_path: Path, tiny_folder: str, options: tuple[str, ...], said: str
) -> None:
    """In one line, with code 2."""
    (tmp_path / "d.txt").write_text(LONG)
    refused = run("rank", QUERY, "-d", tmp_path / "d.txt", "-m", tiny_folder, *options)
    assert (refused.exit_code, said in only_line(refused)) == (2, True), refused.stderr


def test_a_budget_is_told(run: Run, tmp_path: Path, tiny_folder: str) -> None:
    """What was not scored in time follows in the order given, and says so."""
    (tmp_path / "d.txt").write_text("\n".join(f"the {number} " + "cat " * 100 for number in range(300)))
    options = ("rank", QUERY, "-d", tmp_path / "d.txt", "-m", tiny_folder, "--budget-ms")
    late = run(*options, "0.01", "-f", "jsonl")
    scored = [row["scored"] for row in rows(late.stdout)]
    count = sum(scored)
    assert 0 < count < 300
    assert scored == [True] * count + [False] * (300 - count)
    assert [row["index"] for row in rows(late.stdout)][count:] == list(range(count, 300))
    assert late.stderr.splitlines()[-1] == f"secondpass: {300 - count} of 300 not scored within 0.01 ms"
    assert run(*options, "0.01").stdout.splitlines()[-1].split()[:3] == ["300", "-", "299"]
    assert all(row["scored"] for row in rows(run(*options, "60000", "-f", "jsonl").stdout))


def test_probabilities_are_told(run: Run, lines_file: Path, tmp_path: Path, tiny_folder: str) -> None:
    """By the calibration that is named: in the table, and with intervals in JSON; and that nothing is relevant."""
    file = tmp_path / "calibration.json"
    Calibration("logistic", answers=AnswerRule(1e9, 40, 0.9, 0.9), low=(0.25,), high=(0.75,)).save(file)
    common = ("rank", QUERY, "-d", lines_file, "-m", tiny_folder, "--calibration", file)
    found = rows(run(*common, "-f", "jsonl").stdout)
    assert [row["probability"] for row in found] == pytest.approx([row["score"] for row in found], abs=1e-6)
    assert {tuple(row["probability_interval"]) for row in found} == {(0.25, 0.75)}
    shown = run(*common)
    assert shown.stdout.splitlines()[0].split() == ["rank", "score", "probability", "index", "text"]
    assert [line.split()[2] for line in shown.stdout.splitlines()[1:]] == [f"{row['probability']:.3f}" for row in found]
    assert "nothing relevant" in shown.stderr
    Calibration("logistic").save(file)
    least = found[1]["probability"]
    kept = run(*common, "-f", "jsonl", "--min-probability", str(least))
    assert [row["index"] for row in rows(kept.stdout)] == [row["index"] for row in found[:2]]
    assert kept.stderr == ""
    none = run(*common, "--min-probability", "1")
    assert "no document is relevant with a probability of 1" in only_line(none)
    pair = f"{QUERY}\t{TEXTS[found[0]['index']]}\n"
    scored = ("score", "-m", tiny_folder, "--calibration", file)
    (row,) = rows(run(*scored, "-f", "jsonl", input=pair).stdout)
    assert [row["score"], row["probability"]] == pytest.approx([found[0]["score"], found[0]["probability"]])
    assert run(*scored, input=pair).stdout.split()[:3] == ["index", "score", "probability"]
    refused = run("rank", QUERY, "-d", lines_file, "-m", tiny_folder, "--min-probability", "0.5")
    assert (refused.exit_code, "needs a model with a calibration" in only_line(refused)) == (2, True)


def test_an_instruction_goes_to_models_with_a_place(
    run: Run, lines_file: Path, tmp_path: Path, tiny_folder: str
) -> None:
    """As in Python; cuts are counted among the documents, not among what all models read."""
    judge = make_reranker(tmp_path / "judge")
    lines_file.write_text("\n".join([*TEXTS, "cat " * 400]))
    done = run("rank", QUERY, "-d", lines_file, "-m", tiny_folder, "-m", judge, "--instruction", "x", "-f", "jsonl")
    expected = Cascade([tiny_folder, str(judge)], device="cpu").rank(QUERY, [*TEXTS, "cat " * 400], instruction="x")
    assert [row["score"] for row in rows(done.stdout)] == [item["score"] for item in expected]
    assert "1 of 5 cut" in only_line(done)


def test_scores_are_kept_in_a_file(run: Run, lines_file: Path, tmp_path: Path, tiny_folder: str) -> None:
    """A second run prints the same and asks the model nothing; so does `score`."""
    cache = tmp_path / "scores.db"
    options = ("rank", QUERY, "-d", lines_file, "-m", tiny_folder, "-f", "jsonl", "--score-cache", cache)
    first = run(*options)
    with ScoreCache(cache) as kept:
        assert len(kept) == len(TEXTS)
    explained = run(*options, "--explain")
    (tmp_path / "pairs.tsv").write_text("".join(f"{QUERY}\t{text}\n" for text in TEXTS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secondpass.scoring.score_rows", lambda *given: pytest.fail("the model was asked"))
        assert run(*options).stdout == first.stdout
        assert run(*options, "--explain").stdout == explained.stdout
        scores = rows(run("score", tmp_path / "pairs.tsv", *options[4:]).stdout)
    by_text = {row["text"]: row["score"] for row in rows(first.stdout)}
    assert {row["document"]: row["score"] for row in scores} == by_text


def test_several_models_are_a_cascade(run: Run, lines_file: Path, tiny_folder: str, tiny_model_folder: Any) -> None:
    """The first ranks all, the last so many; rows tell whose score it is."""
    other = tiny_model_folder("roberta", 1)
    options = ("rank", QUERY, "-d", lines_file, "-m", tiny_folder, "-m", other, "-f", "jsonl")
    found = rows(run(*options, "--keep", "2").stdout)
    cascade = Cascade([tiny_folder, other], 2, device="cpu")
    expected = cascade.rank(QUERY, TEXTS)
    assert [(row["index"], row["score"], row["stage"]) for row in found] == [
        (item["corpus_id"], item["score"], item["stage"]) for item in expected
    ]
    assert [row["stage"] for row in found] == [1, 1, 0, 0]
    assert [row["stage"] for row in rows(run(*options).stdout)] == [1] * 4
    cascade.save(lines_file.with_name("cascade.json"))
    saved = (*options[:4], "-m", lines_file.with_name("cascade.json"), "-f", "jsonl")
    assert rows(run(*saved).stdout) == found
    assert "--max-length: the models of" in only_line(run(*saved, "--max-length", "9"))
    for given in (options, saved):
        assert "template is for one model, and here are" in only_line(run(*given, "--template", "zerank"))
    refused = run(*options, "--keep", "2", "--keep", "1")
    assert "keep has 2, and 2 models have 1 steps" in only_line(refused)


def test_labels(run: Run, lines_file: Path, tiny_model_folder: Any) -> None:
    """A model with several labels is ranked by the label asked for, and refused without one."""
    folder = tiny_model_folder("bert", 3)
    options = ("rank", QUERY, "-d", lines_file, "-m", folder, "-f", "jsonl")
    found = rows(run(*options, "--relevance", "2").stdout)
    expected = CrossEncoder(folder, device="cpu").rank(QUERY, TEXTS, relevance=2)
    assert [row["index"] for row in found] == [item["corpus_id"] for item in expected]
    assert len(rows(run(*options, "--relevance", "expected").stdout)) == len(TEXTS)
    refused = run(*options)
    assert refused.exit_code == 2
    assert "num_labels" in only_line(refused)
    assert "neither a label's number nor 'expected'" in only_line(run(*options, "--relevance", "best"))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("d.jsonl", b'{"text": "a"}\n{"title": "b"}\n', 'd.jsonl:2: no "text"'),
        ("d.jsonl", b'{"text": "a"}\n\n{"text": 1}\n', 'd.jsonl:3: "text" is int, not a string'),
        ("d.jsonl", b'"a"\n[1]\n', "d.jsonl:2: neither a string nor an object"),
        ("d.jsonl", b"{\n", "d.jsonl:1: not JSON"),
        ("d.json", b'["a",\n\n"b"', "d.json:3: not JSON"),
        ("d.json", b'{"text": "a"}', "d.json: not a JSON list"),
        ("d.json", b'["a", null]', "d.json: document:1: neither a string nor an object"),
        ("d.txt", b"good\nb\xffd\n", "d.txt:2: not UTF-8: byte 0xff at position 2"),
        ("d.txt", b"\n \n", "d.txt: no document in it"),
        ("d.dat", b"a\n", "d.dat: say what it is with --input-format"),
    ],
)
def test_bad_input_is_named(run: Run, tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    """A document that cannot be read is named by file and line in one line, with exit code 2, before a model loads."""
    (tmp_path / name).write_bytes(content)
    result = run("rank", QUERY, "-d", tmp_path / name, "-m", tmp_path / "no model here")
    assert result.exit_code == 2
    assert reason in only_line(result)
    assert result.stdout == ""


def test_missing_documents_file(run: Run, tmp_path: Path) -> None:
    """A documents file that is not there is refused with its name."""
    result = run("rank", QUERY, "-d", tmp_path / "absent.txt")
    assert result.exit_code == 2
    assert "absent.txt: No such file" in only_line(result)


def test_blank_query(run: Run, lines_file: Path) -> None:
    """A blank query is refused."""
    result = run("rank", "  ", "-d", lines_file)
    assert (result.exit_code, only_line(result)) == (2, "secondpass: the query is blank")


def test_no_documents_at_a_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without documents at a terminal the program says what to give instead of waiting for input."""
    monkeypatch.setattr("secondpass.cli.arguments._at_terminal", lambda: True)
    result = run("rank", QUERY)
    assert result.exit_code == 2
    assert "give --documents a file" in only_line(result)


def test_model_that_cannot_be_loaded(run: Run, lines_file: Path, tmp_path: Path) -> None:
    """A model that is not there is one line and exit code 1."""
    result = run("rank", QUERY, "-d", lines_file, "-m", tmp_path / "absent")
    assert result.exit_code == 1
    assert "absent" in only_line(result)


def test_non_finite_score(run: Run, lines_file: Path, tmp_path: Path) -> None:
    """A model that gives NaN is one line and exit code 1, with nothing on stdout."""
    weights = make_folder(tmp_path / "nan", "bert") / "model.safetensors"
    tensors = load_file(weights)
    tensors["classifier.weight"] = torch.full_like(tensors["classifier.weight"], float("nan"))
    save_file(tensors, weights, metadata={"format": "pt"})
    result = run("rank", QUERY, "-d", lines_file, "-m", tmp_path / "nan")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "NaN" in only_line(result)


def test_process_reads_stdin_and_speaks_utf8(tiny_folder: str) -> None:
    """As a process under a C locale, UTF-8 goes in by stdin and by argument and comes out unharmed."""
    texts = "über die Brücke\n東京の天気\n"
    done = subprocess.run(
        command("rank", "wie ist das Wetter in 東京", "-m", tiny_folder, "-f", "jsonl"),
        input=texts.encode(), capture_output=True, timeout=300, check=False,
        env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {row["text"] for row in rows(done.stdout.decode("utf-8"))} == set(texts.split("\n")[:2])


def test_process_exit_codes(start: Start, lines_file: Path, tmp_path: Path) -> None:
    """As a process: 2 for refused input and 1 for a missing model, one line on stderr, no traceback."""
    refused = start("rank", QUERY, "-d", str(tmp_path / "absent.txt"))
    failed = start("rank", QUERY, "-d", str(lines_file), "-m", str(tmp_path / "absent"))
    assert (refused.returncode, failed.returncode) == (2, 1)
    for done in (refused, failed):
        assert done.stdout == b""
        assert done.stderr.count(b"\n") == 1
        assert b"Traceback" not in done.stderr


@pytest.mark.usefixtures("pocket_folder")
def test_pocket_is_the_default(run: Run) -> None:
    """Without --model the packaged model ranks, and puts the answer first."""
    texts = "Bread is made of flour and water.\nParis is the capital of France.\nBerlin is a city in Germany.\n"
    found = rows(run("rank", "What is the capital of France?", "-f", "jsonl", input=texts).stdout)
    assert found[0]["text"] == "Paris is the capital of France."


@pytest.mark.parametrize("command", [("rank", "cat"), ("score",)])
def test_precision_reaches_the_model(
    run: Run, tmp_path: Path, tiny_folder: str, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is none is refused before any model is loaded."""
    file = tmp_path / "pairs.tsv"
    file.write_text("cat\ta mat\n")
    asked: list[object] = []
    init = CrossEncoder.__init__
    monkeypatch.setattr(
        CrossEncoder,
        "__init__",
        lambda self, *given, **named: (asked.append(named["precision"]), init(self, *given, **named))[1],
    )
    source = (*command, "-d", file, "--input-format", "txt") if command[0] == "rank" else (*command, file)
    for options, precision in (((), None), (("--precision", "bf16"), "bf16")):
        result = run(*source, "-m", tiny_folder, *options)
        assert result.exit_code == 0, result.output
        assert asked.pop() == precision
    refused = run(*source, "-m", "/no/such/folder", "--precision", "fp16")
    assert refused.exit_code == 2
    assert "--precision" in only_line(refused)
    assert asked == []


def test_the_best_are_explained(run: Run, lines_file: Path, tiny_folder: str, tiny: CrossEncoder) -> None:
    """--explain the first, --explain-best as many as it says: as `explain` does, in JSON lines and below the table."""
    options = ("rank", QUERY, "-d", lines_file, "-m", tiny_folder)
    plain = rows(run(*options, "-f", "jsonl").stdout)
    one, three = (
        rows(run(*options, "-f", "jsonl", *given).stdout) for given in (["--explain"], ["--explain-best", "3"])
    )
    assert ["explanation" in row for row in one] == [True, False, False, False]
    assert ["explanation" in row for row in three] == [True, True, True, False]
    assert [{key: row[key] for key in row if key != "explanation"} for row in three] == plain
    for row in three[:3]:
        expected = explain(tiny, QUERY, row["text"]).to_dict()
        assert {"query": QUERY, "document": row["text"], **row["explanation"]} == expected
    told = run(*options, "--explain-best", "2").stdout
    assert told.count("Leave-one-out") == 2
    assert f"1. score {plain[0]['score']:.4f}\n{QUERY}\n{plain[0]['text']}\n" in told
