"""A run written down and read back; the whole story is in `test_trainer` and `test_killed_runs`."""

from __future__ import annotations

from dataclasses import replace

import torch

from secondpass import CrossEncoder
from secondpass.training.measuring.dev_ranking import DevRanking
from secondpass.training.running.checkpointing import FREE, LATER, fingerprint_of_weights, identity_of
from secondpass.training.running.plan import planned
from secondpass.training.settings import TrainingSettings
from tests.training.toy_run import SETTINGS, toy_groups


def test_weights_have_a_fingerprint(tiny_folder, own_tiny):
    """The same for the same weights, another when one number or one type differs."""
    first = fingerprint_of_weights(own_tiny.model)
    assert first == fingerprint_of_weights(CrossEncoder(tiny_folder, device="cpu").model)
    with torch.no_grad():
        own_tiny.model.classifier.bias += 1e-6
    assert fingerprint_of_weights(own_tiny.model) != first
    assert fingerprint_of_weights(own_tiny.model.to(torch.bfloat16)) != first


def test_identity_holds_what_decides_the_weights(own_tiny):
    """Every setting but the free ones, the groups, the dev groups, the model."""
    groups, dev = toy_groups(1, 10), DevRanking(toy_groups(2, 5))

    def identity(settings=SETTINGS, groups=groups, dev=dev):
        return identity_of(planned(groups, own_tiny.tokens, settings), own_tiny.model, own_tiny.device, dev)

    assert identity() == identity()
    assert set(identity()["settings"]) == set(TrainingSettings.__dataclass_fields__) - {*FREE, *LATER}
    assert identity(replace(SETTINGS, keep=9)) == identity()
    assert identity(replace(SETTINGS, seed=9)) != identity()
    assert identity(groups=toy_groups(1, 11)) != identity()
    assert identity(dev=DevRanking(toy_groups(3, 5))) != identity()


def test_settings_that_came_later_do_not_break_older_checkpoints(own_tiny):
    """At the value that stands for what was done before they are no part of the identity; at any other they are."""
    groups = toy_groups(1, 10)
    for name, before in LATER.items():
        assert getattr(TrainingSettings(), name) == before
    changed = replace(SETTINGS, minutes=5.0, beta2=0.98)
    identity = identity_of(planned(groups, own_tiny.tokens, changed), own_tiny.model, own_tiny.device, None)
    assert (identity["settings"]["minutes"], identity["settings"]["beta2"]) == (5.0, 0.98)
