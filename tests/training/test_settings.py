"""Settings are checked when they are made."""

from __future__ import annotations

import json

import pytest

from secondpass.errors import InvalidInput
from secondpass.training.settings import LoraSettings, TrainingSettings


def test_defaults_are_sound():
    """And as JSON they are all there."""
    made = TrainingSettings(lora=LoraSettings(targets=("query",))).as_json()
    assert json.loads(json.dumps(made)) == made
    assert made["lora"]["targets"] == ["query"]
    assert set(made) == set(TrainingSettings.__dataclass_fields__)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("epochs", 1.5),
        ("epochs", True),
        ("max_steps", 0),
        ("groups_per_step", -1),
        ("micro_batch_tokens", "many"),
        ("evaluate_every", -1),
        ("seed", None),
        ("frozen_layers", 1.0),
        ("learning_rate", 0),
        ("learning_rate", "2e-5"),
        ("learning_rate", float("nan")),
        ("warmup", 1.1),
        ("max_grad_norm", 0),
        ("layer_decay", 0),
        ("layer_decay", 1.01),
        ("dropout", 1.0),
        ("averaging", 1.0),
        ("precision", "int8"),
    ],
)
def test_refused(name, value):
    """The message names the setting."""
    with pytest.raises(InvalidInput, match=name):
        TrainingSettings(**{name: value})
