"""`secondpass calibrate`: labelled candidates into a file or the model's folder."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from secondpass import CrossEncoder
from secondpass.calibration import FILE, Calibration
from secondpass.errors import InvalidInput
from secondpass.models.card import PROBABILITIES
from tests.cli.conftest import Run, only_line
from tests.small_collection import write_json_lines
from tests.tiny_models import WORDS, make_decoder, make_folder

QUERIES = 14


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's folder."""
    return make_folder(tmp_path_factory.mktemp("model"), "bert")


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """A BEIR folder with a relevant, another and an unjudged document of each query, a run of them, and groups."""
    draw = random.Random(0)
    texts = [" ".join(draw.sample(WORDS, 5)) for _ in range(3 * QUERIES)]
    write_json_lines(tmp_path / "corpus.jsonl", [{"_id": f"d{row}", "text": text} for row, text in enumerate(texts)])
    asked = [" ".join(draw.sample(WORDS, 3)) for _ in range(QUERIES)]
    write_json_lines(tmp_path / "queries.jsonl", [{"_id": f"q{row}", "text": text} for row, text in enumerate(asked)])
    (tmp_path / "qrels").mkdir()
    judged = [f"q{row}\td{3 * row + place}\t{1 - place}\n" for row in range(QUERIES) for place in range(2)]
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judged))
    ranked = [
        f"q{row} Q0 d{3 * row + place} {place} {3 - place} first\n" for row in range(QUERIES) for place in range(3)
    ]
    (tmp_path / "first.trec").write_text("".join(ranked))
    groups = [
        {"query": query, "documents": texts[3 * row : 3 * row + 3], "labels": [1, 0, 0]}
        for row, query in enumerate(asked)
    ]
    write_json_lines(tmp_path / "groups.jsonl", groups)
    return tmp_path


def test_judgements_and_a_run(run: Run, model: Path, collection: Path) -> None:
    """Candidates that nobody judged are told, with what that leaves open; the file applies beside the model."""
    out = collection / "out.json"
    done = run(
        "calibrate", collection, "--run", collection / "first.trec", "-m", model, "-o", out, "--origin", "clicks"
    )
    assert done.exit_code == 0, done.stderr
    made = Calibration.load(out)
    assert (made.queries, made.rows, made.relevant, made.unjudged, made.origin) == (14, 42, 14, 14, "clicks")
    assert made.weights is None
    assert f"{out}: {made.method}, expected calibration error on held-out halves" in done.stdout
    assert "14 queries, 42 documents, 14 relevant (33.3%): probabilities hold where" in done.stdout
    assert "Nobody judged 14 documents, which count as not relevant: what is given as" in done.stdout
    assert "Precision 50%: no threshold can be promised with 42 rows of 14 queries." in done.stdout
    assert "Nothing is relevant where the best logit is below" in done.stdout or made.answers is None
    shallow = run("calibrate", collection, "-r", collection / "first.trec", "-m", model, "-o", out, "--depth", "2")
    assert shallow.exit_code == 0
    assert Calibration.load(out).rows == 28


def test_groups_into_the_models_folder(run: Run, model: Path, collection: Path) -> None:
    """By default the model's own: with the digest of its weights, told in its card."""
    done = run("calibrate", collection / "groups.jsonl", "-m", model, "--answered", "0.9")
    assert done.exit_code == 0, done.stderr
    page = json.loads((model / FILE).read_text())
    assert (page["rows"], page["unjudged"]) == (42, 0)
    assert page["weights"]
    assert PROBABILITIES in (model / "README.md").read_text()
    assert "Nobody judged" not in done.stdout
    ranked = run("rank", "cat", "-m", model, "--format", "jsonl", input="a dog\nthe cat\n")
    assert ranked.exit_code == 0, ranked.stderr


def test_a_model_is_told_what_its_folder_does_not_say(run: Run, collection: Path, tmp_path: Path) -> None:
    """A template with the tokens of the answer; which label is ranked by is read as everywhere."""
    plain, out = str(make_decoder(tmp_path / "plain", "qwen3", chat=None)), tmp_path / "out.json"
    answer: dict[str, Any] = {"template": "Q {query} D {document}", "true_token": "yes", "false_token": "no"}
    told = [part for name, value in answer.items() for part in (f"--{name.replace('_', '-')}", value)]
    given = ("calibrate", collection / "groups.jsonl", "-m", plain, "-o", out)
    assert "must be said: template=" in only_line(run(*given))
    done = run(*given, *told)
    assert done.exit_code == 0, done.stderr
    CrossEncoder(plain, device="cpu", **answer).use_calibration(out)
    other = CrossEncoder(plain, device="cpu", **answer | {"template": "{document} answers {query}"})
    with pytest.raises(InvalidInput, match="logits"):
        other.use_calibration(out)
    labels = str(make_folder(tmp_path / "labels", "bert", 2))
    given = ("calibrate", collection / "groups.jsonl", "-m", labels, "-o", out)
    assert run(*given, "--relevance", "1").exit_code == 0
    assert Calibration.load(out).relevance == 1
    assert "neither a label's number nor 'expected'" in only_line(run(*given, "--relevance", "best"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{0}/groups.jsonl"], "secondpass/pocket is no folder of yours: say with --output"),
        (["{0}", "-m", "{1}"], "judgements need --run"),
        (["{0}/twice.jsonl", "-m", "{1}"], "a document of query 'q' has the label 0 and 1: 'a dog'"),
        (
            ["{0}/qrels/test.tsv", "-r", "{0}/first.trec", "-m", "{1}"],
            "is no BEIR folder: give --corpus and --queries too",
        ),
        (["{0}/groups.jsonl", "-o", "{0}/none/x.json"], "there is no folder"),
        (["{0}/groups.jsonl", "-o", "{0}/folder.json"], f"{FILE}: is a folder, not a file"),
        (["{0}", "-r", "{0}/other.trec", "-m", "{1}"], "has no candidates of a judged query"),
        (["{0}", "-r", "{0}/lacking.trec", "-m", "{1}"], "1 of its documents have no text, 'd99' is one"),
    ],
)
def test_what_is_wrong_is_said(run: Run, model: Path, collection: Path, arguments: list[str], said: str) -> None:
    """In one line, before a model is loaded."""
    (collection / "folder.json" / FILE).mkdir(parents=True)
    twice = [{"query": "q", "documents": ["a dog"], "labels": [label]} for label in (1, 0)]
    (collection / "twice.jsonl").write_text("".join(json.dumps(one) + "\n" for one in twice))
    (collection / "other.trec").write_text("x Q0 d1 1 1 first\n")
    (collection / "lacking.trec").write_text("q0 Q0 d99 1 1 first\n")
    done = run("calibrate", *(one.format(collection, model) for one in arguments))
    assert done.exit_code == 2
    assert said in only_line(done)
