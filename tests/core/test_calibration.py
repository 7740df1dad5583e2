"""Rules of `secondpass.calibration`, and of the file that a model keeps one in."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from secondpass import CrossEncoder, Windows
from secondpass.calibration import FILE, AnswerRule, Calibration, Conditions, Step
from secondpass.errors import InvalidInput, ModelLoadError
from secondpass.models.card import MARK, PROBABILITIES
from secondpass.models.folders import ELSEWHERE, WANTED
from secondpass.models.identity import marks_of
from secondpass.models.loading import Loaded
from secondpass.models.stored import StoredModel
from secondpass.training import drop_layers
from secondpass.training.running.loop import claimed

WHOLE = Calibration(
    "logistic",
    slope=1.5,
    intercept=-0.5,
    edges=(0.0, 1.0),
    low=(0.1, 0.2, 0.5),
    high=(0.2, 0.4, 0.9),
    sequence=(Step(1.0, 10, 9, 8, 9.5), Step(0.5, 20, 15, 9, 14.0)),
    answers=AnswerRule(0.25, 9, 0.9, 0.8),
    queries=9,
    rows=30,
    relevant=12,
    unjudged=4,
    origin="clicks",
    error=0.0125,
    model="one",
    marks=(0.5, -0.5),
    conditions=Conditions(128, "windows most=2", "query: "),
)


@pytest.fixture
def known(own_tiny: CrossEncoder) -> CrossEncoder:
    """The tiny model with a calibration by which it is known."""
    made = replace(WHOLE, model=own_tiny.name, marks=marks_of(own_tiny), conditions=own_tiny.conditions())
    own_tiny.use_calibration(made)
    return own_tiny


def test_a_file_holds_all_of_it(tmp_path: Path) -> None:
    """Written to a file or a folder, read from either, nothing changed; what is none is refused by its place."""
    (tmp_path / "folder.json").mkdir()
    for path in (tmp_path, tmp_path / "other.json", tmp_path / "folder.json"):
        WHOLE.save(path)
        assert Calibration.load(path) == WHOLE
    for text, said in (("[]", "no object"), ("{", "is no calibration"), ('{"version": 2}', "version 2")):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(InvalidInput, match=rf"other\.json .*{said}"):
            Calibration.load(tmp_path / "other.json")
    with pytest.raises(InvalidInput, match="cannot be read"):
        Calibration.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("slope", float("nan"), "slope=nan"),
        ("slope", 10**400, "no calibration"),
        ("slope", None, "slope=None"),
        ("beta", [1.0], "beta must have 3 numbers"),
        ("otherwise", [], "otherwise must have 2 numbers"),
        ("unjudged_as", "x", "neither 'other' nor 'absent'"),
        ("rows", "x", "rows='x'"),
        ("relevance", [1], r"relevance=\[1\]"),
        ("origin", 3, "origin is no text"),
        ("error", "x", "error='x'"),
        ("answers", {"logit": "x", "queries": 1, "answered": 1.0, "refused": 1.0}, "logit='x'"),
        ("sequence", [{"logit": 1.0, "kept": 0, "relevant": 0, "queries": 0, "trials": 0.0}], "kept=0"),
        ("sequence", [asdict(step) for step in WHOLE.sequence[::-1]], "the highest first"),
        ("knots", ..., "it has no knots"),
    ],
)
def test_a_file_edited_by_hand_is_refused_when_it_is_read(tmp_path: Path, name: str, value: Any, said: str) -> None:
    """Not when a query is asked, and never taken for another calibration."""
    page = {**WHOLE.to_dict(), name: value}
    if value is ...:
        del page[name]
    (tmp_path / FILE).write_text(json.dumps(page))
    with pytest.raises(InvalidInput, match=said):
        Calibration.load(tmp_path)


def test_a_writer_that_fails_leaves_the_file_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written stands in the folder whole or not at all, and nothing else."""
    WHOLE.save(tmp_path)
    monkeypatch.setattr("os.replace", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(InvalidInput, match=f"{FILE} cannot be written: Permission denied"):
        replace(WHOLE, slope=2.0).save(tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == [FILE]
    assert Calibration.load(tmp_path) == WHOLE


def test_a_level_probability_promises_no_more_than_its_logit() -> None:
    """What is as probable as the last threshold that holds and below it was not tried: the one above is given."""
    steps = (Step(3.0, 30, 30, 30, 30.0), Step(1.5, 60, 58, 60, 60.0), Step(0.2, 90, 60, 80, 80.0))
    level = replace(WHOLE, method="isotonic", knots=((0.0, 0.1), (1.0, 0.9), (2.0, 0.9), (4.0, 1.0)), sequence=steps)
    promise = level.threshold_for(0.9)
    assert (promise.logit, promise.kept) == (3.0, 30)
    assert promise.threshold == level.probabilities([3.0])[0]
    assert replace(level, knots=((0.0, 0.1), (1.5, 0.9), (2.0, 0.9))).threshold_for(0.9).logit == 1.5
    assert replace(level, method="logistic", slope=0.0).threshold_for(0.9).threshold is None


@pytest.mark.parametrize("kind", [StoredModel, Loaded])
def test_a_model_keeps_its_calibration(known: CrossEncoder, tmp_path: Path, kind: type) -> None:
    """Saved with the model, told in its card, downloaded from the hub, and read with torch and without."""
    known.save(str(tmp_path))
    options: dict[str, Any] = {"automodel_args": {"attn_implementation": "eager"}} if kind is Loaded else {}
    again = CrossEncoder(str(tmp_path), device="cpu", **options)
    assert isinstance(again._loaded, kind)
    assert again.calibration is not None
    assert again.calibration.weights
    assert replace(again.calibration, weights=None) == known.calibration
    hit = again.rank("cat", ["the cat sat"])[0]
    logit = again.rank_many(["cat"], [["the cat sat"]])[0].documents[0].logit
    assert hit["probability"] == WHOLE.probabilities([logit])[0]
    assert f"{PROBABILITIES}\n\n`{FILE}` makes probabilities" in (tmp_path / "README.md").read_text()
    assert any(fnmatch(FILE, pattern) for pattern in WANTED)
    assert not any(fnmatch(FILE, pattern) for pattern in ELSEWHERE)


def test_weights_written_anew_are_known_by_their_logits(known: CrossEncoder, tmp_path: Path) -> None:
    """Rounded to int8 they have another digest and nearly the same logits; another model's are refused in words."""
    known.save(str(tmp_path), storage="int8")
    stored = CrossEncoder(str(tmp_path), device="cpu")
    assert stored.calibration is not None
    assert stored.calibration.weights is None
    assert stored.calibration.slope == WHOLE.slope
    page = json.loads((tmp_path / FILE).read_text())
    page["marks"] = [-one for one in page["marks"]]
    (tmp_path / FILE).write_text(json.dumps(page))
    with pytest.raises(ModelLoadError, match=f"calibration of another model .*delete {FILE} to go on without"):
        CrossEncoder(str(tmp_path), device="cpu")
    with pytest.raises(InvalidInput, match="calibration of another model"):
        known.use_calibration(tmp_path)
    (tmp_path / FILE).write_text(json.dumps({**page, "marks": None, "weights": "0"}))
    with pytest.raises(ModelLoadError, match="of other weights than those beside it"):
        CrossEncoder(str(tmp_path), device="cpu")
    (tmp_path / FILE).unlink()
    assert CrossEncoder(str(tmp_path), device="cpu").calibration is None


def test_other_logits_of_the_same_weights_are_no_others(known: CrossEncoder, tmp_path: Path) -> None:
    """Read inside a template, the model that was calibrated is another one, and known by its logits."""
    known.save(str(tmp_path))
    with pytest.raises(ModelLoadError, match="calibration of another model"):
        CrossEncoder(str(tmp_path), device="cpu", template="the cat {query} and all of the {document} in a house")
    same = CrossEncoder(str(tmp_path), device="cpu", num_labels=1).calibration
    assert same is not None
    assert same.slope == WHOLE.slope


def _trained(encoder: CrossEncoder) -> None:
    with claimed(encoder):
        pass


def _replaced(encoder: CrossEncoder) -> None:
    encoder.model = encoder.model


@pytest.mark.parametrize("change", [_trained, _replaced, lambda encoder: drop_layers(encoder, 1)])
def test_other_weights_have_no_calibration(
    known: CrossEncoder, change: Callable[[CrossEncoder], object], caplog: pytest.LogCaptureFixture
) -> None:
    """Training, fewer layers and another model drop it, with a line in the log."""
    change(known)
    assert known.calibration is None
    assert "its calibration is dropped" in caplog.text


def test_weights_changed_unseen_are_saved_without(
    known: CrossEncoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is stored is never of other weights; the file and the words of the model before are gone."""
    known.save(str(tmp_path))
    before = (tmp_path / "README.md").read_text()
    with torch.no_grad():
        known.model.classifier.weight.mul_(-3.0)
    known.save(str(tmp_path))
    assert "saved without probabilities" in caplog.text
    assert not (tmp_path / FILE).exists()
    text = (tmp_path / "README.md").read_text()
    assert MARK in text
    assert text == before[: before.index(PROBABILITIES)].rstrip() + "\n"
    assert CrossEncoder(str(tmp_path), device="cpu").calibration is None


def test_pairs_read_otherwise_are_said_once(known: CrossEncoder, caplog: pytest.LogCaptureFixture) -> None:
    """Window, cut, prompt and template of a call other than those of the labelled pairs are told in one line.

    What differs is also told where logits for the sample pairs are others because of it.
    """
    known.rank("cat", ["the cat sat"])
    assert caplog.text == ""
    for _ in range(2):
        known.rank("cat", ["the cat sat"], truncation=Windows(most=2), prompt="find: ")
    assert caplog.text.count("read otherwise: truncation, prompt\n") == 1
    with pytest.raises(InvalidInput, match=r"logits for sample pairs are others \(window 9 instead of 128\): delete"):
        CrossEncoder(known.name, device="cpu", max_length=9).use_calibration(known.calibration)
