"""Waiting for a server."""

from __future__ import annotations

import threading

import pytest

from secondpass_indexing.errors import IndexingError, ServerAway, TooBusy
from secondpass_indexing.patience import Patience, Stopped
from secondpass_indexing.settings import IndexingSettings
from tests.indexing.sinks import away, busy


class Answers:
    """Raises what it was given, one after another, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)

    def __call__(self) -> str:
        if self._errors:
            raise self._errors.pop(0)
        return "answer"


def waits(patience: Patience, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record waits instead of waiting."""
    seconds: list[float] = []
    monkeypatch.setattr(patience.stop, "wait", lambda time: bool(seconds.append(time)))
    return seconds


def test_waits_double_up_to_a_ceiling_less_a_random_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of each is left to chance."""
    patience = Patience(IndexingSettings(first_wait=1, longest_wait=8, patience=1_000))
    seconds = waits(patience, monkeypatch)
    assert patience.call(Answers(*[away()] * 7)) == "answer"
    for wait, longest in zip(seconds, [1, 2, 4, 8, 8, 8, 8], strict=True):
        assert longest / 2 <= wait <= longest


def test_retry_after_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even beyond the ceiling, but not beyond the end of patience."""
    patience = Patience(IndexingSettings(first_wait=1, longest_wait=2, patience=50))
    seconds = waits(patience, monkeypatch)
    patience.call(Answers(busy(20), busy(1_000)))
    assert seconds[0] == 20
    assert 49 <= seconds[1] <= 50


def test_the_end_of_patience_is_an_error_of_the_same_kind() -> None:
    """It says how long nothing got through."""
    patience = Patience(IndexingSettings(first_wait=0, patience=0.01))
    for error, kind in ((away(), ServerAway), (busy(), TooBusy)):
        with pytest.raises(kind, match="nothing got through for 0 seconds"):
            patience.call(Answers(*[error] * 1_000_000))


def test_success_renews_patience_and_is_told() -> None:
    """A short break after a long time is no reason to give up."""
    notices: list[str] = []
    patience = Patience(IndexingSettings(first_wait=0, patience=0.2), notices.append)
    for _ in range(3):
        patience.call(Answers(away()))
    assert [notice == "" for notice in notices] == [False, True] * 3


def test_a_refusal_that_stays_is_not_waited_for() -> None:
    """No right to write does not pass."""
    with pytest.raises(IndexingError, match=r"^no right$"):
        Patience(IndexingSettings()).call(Answers(IndexingError("no right")))


def test_the_end_of_the_run_ends_a_wait() -> None:
    """Within moments, however long the wait was to be."""
    patience = Patience(IndexingSettings(first_wait=200, patience=300))
    threading.Timer(0.02, patience.stop.set).start()
    with pytest.raises(Stopped):
        patience.call(Answers(away()))
