"""`secondpass score`: what it reads, prints and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from secondpass import CrossEncoder
from secondpass.cli import rank as score_module
from tests.cli.conftest import Run, Start, only_line

PAIRS = [("reset the password", "open a bank account"), ("the cat", "the cat sat on the mat"), ("paris", "in france")]
TSV = "".join(f"{query}\t{document}\n" for query, document in PAIRS)


def rows(output: str) -> list[dict[str, Any]]:
    """Objects of JSON lines."""
    return [json.loads(line) for line in output.splitlines()]


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    """`PAIRS` as a table."""
    file = tmp_path / "pairs.tsv"
    file.write_text(TSV, encoding="utf-8")
    return file


def test_scores_are_the_engines(run: Run, pairs_file: Path, tiny_folder: str, tiny: CrossEncoder) -> None:
    """JSON lines hold the scores of `CrossEncoder.predict` in the order given."""
    result = run("score", pairs_file, "-m", tiny_folder, "-f", "jsonl")
    assert result.exit_code == 0, result.output
    assert rows(result.stdout) == [
        {"index": index, "score": value, "query": query, "document": document}
        for index, ((query, document), value) in enumerate(zip(PAIRS, tiny.predict(PAIRS).tolist(), strict=True))
    ]


def test_long_documents_are_read_in_windows(run: Run, tmp_path: Path, tiny_folder: str, tiny: CrossEncoder) -> None:
    """The scores are those of `predict` by the same rule."""
    long = "a dog sat. " * 78 + "the cat sat on the mat. " * 9
    (tmp_path / "pairs.tsv").write_text(f"the cat\t{long}\n")
    found = rows(run("score", tmp_path / "pairs.tsv", "-m", tiny_folder, "-f", "jsonl", "--long", "windows").stdout)
    expected = tiny.predict([("the cat", long)], truncation="windows").tolist()
    assert [row["score"] for row in found] == pytest.approx(expected, abs=1e-6)
    assert expected != tiny.predict([("the cat", long)]).tolist()


def test_every_form_gives_the_same(run: Run, pairs_file: Path, tmp_path: Path, tiny_folder: str) -> None:
    """TSV, JSON objects, JSON lists, a file and stdin give the same rows."""
    objects = "".join(json.dumps({"query": query, "text": text}) + "\n" for query, text in PAIRS)
    (tmp_path / "lists.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    options = ("-m", tiny_folder, "-f", "jsonl")
    expected = run("score", pairs_file, *options).stdout
    assert run("score", *options, input=TSV).stdout == expected
    assert run("score", "-", *options, input=objects).stdout == expected
    assert run("score", tmp_path / "lists.jsonl", *options).stdout == expected


def test_table(run: Run, pairs_file: Path, tiny_folder: str) -> None:
    """The table has index, score, query and document, in the order given."""
    lines = run("score", pairs_file, "-m", tiny_folder).stdout.splitlines()
    assert lines[0].split()[:2] == ["index", "score"]
    assert [line.split()[0] for line in lines[1:]] == ["0", "1", "2"]
    assert "the cat → the cat sat on the mat" in lines[2]


def test_labels_come_as_a_list(run: Run, pairs_file: Path, tiny_model_folder: Any) -> None:
    """A model with several labels gives all their scores."""
    found = rows(run("score", pairs_file, "-m", tiny_model_folder("bert", 3), "-f", "jsonl").stdout)
    assert [len(row["score"]) for row in found] == [3, 3, 3]


def test_chunks_change_nothing(run: Run, pairs_file: Path, tiny_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file longer than one chunk gets the rows that one chunk gives, blank lines counted, cuts named by line."""
    pairs_file.write_text(TSV.replace("in france", "\n" + "in france " * 30).replace("paris\t\n", "\n\nparis\t"))
    options = ("score", pairs_file, "-m", tiny_folder, "-f", "jsonl", "--max-length", "24")
    whole = run(*options)
    monkeypatch.setattr(score_module, "CHUNK", 2)
    chunked = run(*options)
    assert [row["index"] for row in rows(whole.stdout)] == [0, 1, 4]
    for one, other in zip(rows(whole.stdout), rows(chunked.stdout), strict=True):
        assert other.pop("score") == pytest.approx(one.pop("score"), abs=1e-6)
        assert other == one
    assert "1 of 3 cut to fit 24 tokens (index 4)" in whole.stderr
    assert "1 of 1 cut to fit 24 tokens (index 4)" in chunked.stderr


@pytest.mark.parametrize(
    ("name", "line", "reason"),
    [
        ("p.tsv", "only a query", "3 columns by spaces; a pair is a query, a tab and a document"),
        ("p.tsv", "a\tb\tc", "3 columns by tabs"),
        ("p.tsv", " \tb", "the query is blank"),
        ("p.jsonl", '["a"]', "not a list of two strings"),
        ("p.jsonl", '["a", 1]', "not a list of two strings"),
        ("p.jsonl", '"a"', "neither a list of two strings nor an object"),
        ("p.jsonl", '{"query": "a"}', 'no "document"'),
        ("p.jsonl", '{"document": "a"}', 'no "query"'),
        ("p.jsonl", '{"query": 1, "document": "a"}', '"query" is int, not a string'),
    ],
)
def test_bad_pair_is_named(run: Run, tmp_path: Path, name: str, line: str, reason: str) -> None:
    """A line that is no pair is refused by file and number with exit code 2, before a model is loaded."""
    good = "a\tb" if name.endswith(".tsv") else '["a", "b"]'
    (tmp_path / name).write_text(f"{good}\n\n{line}\n")
    result = run("score", tmp_path / name, "-m", tmp_path / "absent")
    assert result.exit_code == 2
    assert f"{name}:3: {reason}" in only_line(result)


def test_one_object_or_one_a_line(run: Run, pairs_file: Path, tiny_folder: str) -> None:
    """Not both."""
    refused = run("score", pairs_file, "-m", tiny_folder, "--json", "--format", "jsonl")
    assert (refused.exit_code, "give either" in only_line(refused)) == (2, True)


def test_nothing_to_score(run: Run, tiny_folder: str) -> None:
    """Empty input is refused."""
    result = run("score", "-m", tiny_folder, input="")
    assert (result.exit_code, only_line(result)) == (2, "secondpass: stdin: no pair in it")


def test_process_pipes(start: Start, tiny_folder: str) -> None:
    """As a process: pairs by stdin, JSON lines by stdout, nothing on stderr."""
    done = start("score", "-m", tiny_folder, "-f", "jsonl", stdin=TSV.encode())
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(rows(done.stdout.decode())) == len(PAIRS)
