"""The values of a configuration: what they refuse by themselves."""

from __future__ import annotations

from typing import Any

import pytest

from secondpass.errors import InvalidInput
from secondpass.evaluation.measures import DEFAULT_MEASURES
from secondpass.training.configuration import (
    MEASURES,
    DataConfig,
    DevSource,
    HeldOutTest,
    OutputConfig,
    TrainingConfig,
    TrainSource,
)

SOURCE = TrainSource(path="a.jsonl")


@pytest.mark.parametrize(
    ("kind", "values", "reason"),
    [
        (TrainSource, {"path": "a", "limit": 0}, "limit=0"),
        (HeldOutTest, {"path": "a", "depth": 0}, "depth=0"),
        (HeldOutTest, {"path": "a", "limit": -1}, "limit=-1"),
        (HeldOutTest, {"path": "a", "measures": ()}, "measures is empty"),
        (DataConfig, {"train": ()}, "train is empty"),
        (DataConfig, {"train": (SOURCE,), "dev_share": 1.0}, "dev_share=1.0"),
        (DataConfig, {"train": (SOURCE,), "dev_share": float("nan")}, "dev_share=nan"),
        (
            DataConfig,
            {"train": (SOURCE,), "dev": (DevSource(path="b"),), "dev_share": 0.1},
            "dev_share goes without dev",
        ),
    ],
)
def test_refusals(kind: Any, values: dict[str, Any], reason: str) -> None:
    """The message begins with the name of the field, which places it in the file."""
    with pytest.raises(InvalidInput, match=reason):
        kind(**values)


def test_defaults() -> None:
    """Held-out queries of a folder are not those of its training part unless somebody says so."""
    config = TrainingConfig(data=DataConfig(train=(SOURCE,)), output=OutputConfig(folder="out"))
    assert (config.data.train[0].split, DevSource(path="a").split, HeldOutTest(path="a").split) == (
        "train",
        "dev",
        "test",
    )
    assert set(MEASURES) <= set(DEFAULT_MEASURES)
    assert config.model.name == "secondpass/pocket"
