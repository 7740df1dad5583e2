"""All steps of a run, known before the first."""

from __future__ import annotations

import pytest

from secondpass.training.running.plan import measured, planned
from secondpass.training.settings import TrainingSettings
from tests.training.toy_run import toy_groups


def test_lengths_are_those_of_the_model_inputs(tiny):
    """Group by group, however the pairs are chunked; cut pairs are counted."""
    groups = toy_groups(3, 30)
    lengths, cut = measured(groups, tiny.tokens)
    for number, group in enumerate(groups):
        made = tiny.tokens([group.query] * len(group), group.documents)
        assert lengths.of(number).tolist() == [len(item) for item in made]
    assert cut == 0
    assert len(lengths) == 30


def test_cut_pairs_are_counted(own_tiny):
    """Those that do not fit into the window."""
    own_tiny.max_length = 12
    groups = toy_groups(3, 30)
    lengths, cut = measured(groups, own_tiny.tokens)
    made = [own_tiny.tokens([group.query] * len(group), group.documents) for group in groups]
    assert cut == sum(item.cut is not None for part in made for item in part) > 0
    assert int(lengths.tokens.max()) == 12


@pytest.mark.parametrize("max_steps", [None, 1, 7, 40])
def test_steps_are_counted(tiny, max_steps):
    """By epochs, or as many epochs as `max_steps` takes; `steps` gives what is left of an epoch."""
    settings = TrainingSettings(tokens_per_step=300, epochs=3, max_steps=max_steps)
    plan = planned(toy_groups(3, 30), tiny.tokens, settings)
    assert plan.total == (sum(plan.sizes) if max_steps is None else max_steps)
    assert plan.epochs == (3 if max_steps is None else len(plan.sizes))
    assert sum(plan.sizes[:-1]) < plan.total <= sum(plan.sizes)
    for epoch, size in enumerate(plan.sizes):
        whole = list(plan.steps(epoch, 0))
        assert len(whole) == size
        assert list(plan.steps(epoch, 2)) == whole[2:]
