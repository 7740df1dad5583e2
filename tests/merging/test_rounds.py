"""Rules of `secondpass.merging.rounds`: together as alone, and an error only where it belongs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from torch import nn

from secondpass import CrossEncoder
from secondpass.errors import NonFiniteScore, OutOfMemory
from secondpass.merging.calls import Call
from secondpass.merging.rounds import score_shares
from secondpass.merging.turns import Share
from secondpass.scoring import Logits
from secondpass.tokens import Tokens
from tests.merging.watched_forward import watched

DOCUMENTS = [["mat", "dog " * 30, "cat"], ["open account"], ["sun " * 60, "mat", "river", "sun " * 60]]


def shares(encoder: CrossEncoder, budget: int = 10**6) -> list[Share]:
    """All the documents as calls of one query each."""
    made = []
    for number, documents in enumerate(DOCUMENTS):
        call = Call([f"query {number}"] * len(documents), documents, None)
        call.add(encoder.tokens(call.queries, call.documents), 0.0)
        made.append(Share(call, call.take(budget, False)))
    return made


def expected(encoder: CrossEncoder, share: Share) -> np.ndarray:
    """Logits of the share's rows, scored by the encoder itself."""
    pairs = [(share.call.queries[row], share.call.documents[row]) for row in share.rows]
    return np.asarray(encoder.predict(pairs, activation_fct=nn.Identity())).reshape(len(pairs), -1)


@pytest.mark.parametrize("budget", [10**6, 130, 1])
def test_together_as_alone(own_tiny: CrossEncoder, budget: int) -> None:
    """Whatever the batches: each share gets its own logits in the order of its rows."""
    parts = shares(own_tiny)
    references = [expected(own_tiny, share) for share in parts]
    forward = watched(own_tiny)
    outcomes = score_shares(forward.ready(), budget, parts)
    assert len(forward.lengths) == 1 or budget < 10**6
    for outcome, reference in zip(outcomes, references, strict=True):
        assert not isinstance(outcome, Exception)
        assert outcome[0] == pytest.approx(reference, abs=1e-5)


@pytest.mark.parametrize("labels", [1, 3])
def test_labels_stay_beside_each_other(tiny_model_folder: Callable[..., str], labels: int) -> None:
    """Any number of them."""
    encoder = CrossEncoder(tiny_model_folder("bert", labels), device="cpu")
    parts = shares(encoder)
    for share, outcome in zip(parts, score_shares(watched(encoder).ready(), 10**6, parts), strict=True):
        assert not isinstance(outcome, Exception)
        assert outcome[0].shape == (len(share.rows), labels)
        assert outcome[0] == pytest.approx(expected(encoder, share), abs=1e-5)


def test_a_non_finite_score_reaches_its_call_only(own_tiny: CrossEncoder) -> None:
    """The error counts pairs as its caller does and names all equal ones; the others have their logits."""

    def spoil(inputs: Sequence[Tokens], logits: Logits) -> Logits:
        return np.where(np.array([[len(item) > 60] for item in inputs]), np.float32(np.nan), logits)

    parts = shares(own_tiny)
    references = [expected(own_tiny, share) for share in parts]
    outcomes = score_shares(watched(own_tiny, spoil).ready(), 10**6, parts)
    error = outcomes[2]
    assert isinstance(error, NonFiniteScore)
    assert error.indices == (0, 3)
    for outcome, reference in list(zip(outcomes, references, strict=True))[:2]:
        assert not isinstance(outcome, Exception)
        assert outcome[0] == pytest.approx(reference, abs=1e-5)


def test_a_pair_that_does_not_fit_fails_its_call_only(own_tiny: CrossEncoder) -> None:
    """Batches are halved down to the pair; its caller hears which one it is."""

    def full(inputs: Sequence[Tokens], logits: Logits) -> Logits:
        if sum(map(len, inputs)) > 60:
            raise MemoryError
        return logits

    outcomes = score_shares(watched(own_tiny, full).ready(), 10**6, shares(own_tiny))
    assert isinstance(outcomes[2], OutOfMemory)
    assert str(outcomes[2]).startswith("pair 0 alone, ")
    for outcome in outcomes[:2]:
        assert not isinstance(outcome, Exception)


def test_an_error_of_the_model_itself_reaches_everybody(own_tiny: CrossEncoder) -> None:
    """Tried together and once alone each."""

    def broken(inputs: Sequence[Tokens], logits: Logits) -> Logits:
        raise RuntimeError("device lost")

    forward = watched(own_tiny, broken)
    outcomes = score_shares(forward.ready(), 10**6, shares(own_tiny))
    assert [str(outcome) for outcome in outcomes] == ["device lost"] * 3
    assert len(forward.lengths) == 4


def test_the_work_of_a_round_is_told(own_tiny: CrossEncoder) -> None:
    """Batches, tokens and places of what was computed."""
    parts = shares(own_tiny)
    forward = watched(own_tiny)
    for outcome in score_shares(forward.ready(), 150, parts):
        assert not isinstance(outcome, Exception)
        work = outcome[1]
        assert work.batches == len(forward.lengths) > 1
        assert work.tokens == sum(map(sum, forward.lengths)) == sum(share.tokens for share in parts)
        assert work.places == sum(len(batch) * max(batch) for batch in forward.lengths)
        assert work.seconds > 0
