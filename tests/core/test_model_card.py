"""Rules of `secondpass.model_card`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from secondpass import CrossEncoder
from secondpass.model_card import MARK, Measured, ModelCardData


class Evaluator:
    """Has a name, as sentence-transformers' evaluators do."""

    def __init__(self, name: str = "") -> None:
        self.name = name


def test_the_latest_figures_of_each_evaluator_are_kept() -> None:
    """By its class and name; in the order of first measurement, as plain floats, or as the text that it gave."""
    data = ModelCardData()
    data.set_evaluation_metrics(Evaluator("dev"), {"dev_map": np.float64(0.5)}, epoch=1, step=10)
    data.set_evaluation_metrics(Evaluator("test"), {"test_map": "0.4 (+0.1)"})
    metrics = {"dev_map": np.float32(0.75)}
    data.set_evaluation_metrics(Evaluator("dev"), metrics, epoch=2, step=20)
    metrics.clear()
    assert data.measured == [
        Measured("Evaluator dev", {"dev_map": 0.75}, 2, 20),
        Measured("Evaluator test", {"test_map": "0.4 (+0.1)"}, -1, -1),
    ]
    assert type(data.measured[0].metrics["dev_map"]) is float


def test_a_card_is_a_table_with_front_matter() -> None:
    """Text of others cannot break out of its cell; without figures there is no card."""
    data = ModelCardData()
    assert data.text() is None
    data.set_evaluation_metrics(Evaluator("a|b\nc"), {"map": 1 / 3}, 1, 2)
    text = data.text()
    assert text.startswith("---\nlibrary_name: sentence-transformers\ntags:\n- cross-encoder\n---\n")
    assert "| Evaluator a\\|b c | 1 | 2 | map | 0.333333 |\n" in text


def test_saving_tells_the_figures(own_tiny: CrossEncoder, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """README.md is written and replaced by ours; one that somebody wrote stays, with a warning."""
    own_tiny.save(str(tmp_path))
    assert not (tmp_path / "README.md").exists()
    for figure in (0.25, 0.125):
        own_tiny.model_card_data.set_evaluation_metrics(Evaluator(), {"map": figure})
        own_tiny.save(str(tmp_path))
        text = (tmp_path / "README.md").read_text(encoding="utf-8")
        assert f"| map | {figure} |" in text
        assert MARK in text
    (tmp_path / "README.md").write_text("mine")
    own_tiny.save(str(tmp_path))
    assert (tmp_path / "README.md").read_text() == "mine"
    assert "was written by somebody" in caplog.text
