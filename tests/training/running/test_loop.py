"""The loop: when the evaluator and the callback hear what, and when training must stop."""

from __future__ import annotations

import logging
import signal

import pytest
import torch

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput, TrainingError
from secondpass.fit import fit
from tests.toy_task import Scripted, examples, loader, same, state

QUIET = {"show_progress_bar": False, "warmup_steps": 0}


@pytest.mark.parametrize(
    ("evaluation_steps", "steps"), [(0, [-1]), (2, [2, 4, -1]), (3, [3, -1]), (5, [5, -1]), (9, [-1]), (-1, [-1])]
)
def test_sequence_of_evaluations(own_tiny, evaluation_steps, steps, tmp_path):
    """The evaluator runs every `evaluation_steps` of an epoch, counted from its start, and always at its end."""
    evaluator, heard = Scripted([0.1 * number for number in range(20)]), []
    path = str(tmp_path / "model")
    fit(
        own_tiny,
        loader(20),
        evaluator,
        epochs=2,
        evaluation_steps=evaluation_steps,
        output_path=path,
        callback=lambda *arguments: heard.append(arguments),
        **QUIET,
    )
    expected = [(epoch, step) for epoch in range(2) for step in steps]
    assert evaluator.calls == [(path, *when) for when in expected]
    assert heard == [(pytest.approx(0.1 * number), *when) for number, when in enumerate(expected)]
    assert own_tiny.best_score == pytest.approx(0.1 * (len(expected) - 1))


def test_callback_comes_before_the_score_counts(own_tiny):
    """As in the seed, the callback hears a score before `best_score` does."""
    seen = []
    fit(
        own_tiny,
        loader(4),
        Scripted([0.5, 0.7]),
        epochs=2,
        callback=lambda *_: seen.append(own_tiny.best_score),
        **QUIET,
    )
    assert seen == [-9999999, 0.5]


def test_no_evaluator_no_callback(own_tiny):
    """Without an evaluator the callback is not called and `best_score` keeps the seed's start value."""
    fit(own_tiny, loader(4), callback=lambda *_: pytest.fail("called"), evaluation_steps=1, **QUIET)
    assert own_tiny.best_score == -9999999


def test_evaluator_may_score_and_training_goes_on(own_tiny):
    """An evaluator's own predict works in the training thread, and dropout is back on afterwards."""
    modes = []

    def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        modes.append(own_tiny.model.training)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)

    evaluator = Scripted([0.1] * 6, then=lambda encoder: encoder.predict([("how to", "reset")]))
    fit(own_tiny, loader(8), evaluator, epochs=2, loss_fct=loss, evaluation_steps=1, save_best_model=False, **QUIET)
    assert modes == [True] * 4


def test_evaluator_dict_with_a_primary_metric(own_tiny):
    """An evaluator of sentence-transformers' newer kind gives a dict; the metric it names counts."""
    evaluator = Scripted([{"map": 0.1, "dev_ndcg": 0.75}])
    evaluator.primary_metric = "dev_ndcg"
    heard = []
    fit(own_tiny, loader(4), evaluator, callback=lambda *arguments: heard.append(arguments), **QUIET)
    assert own_tiny.best_score == 0.75
    assert heard == [(0.75, 0, -1)]


@pytest.mark.parametrize("result", [None, "good", {"map": 0.5}])
def test_evaluator_without_a_number(own_tiny, result):
    """An evaluator that gives no number is told so."""
    with pytest.raises(InvalidInput, match="evaluator gives"):
        fit(own_tiny, loader(4), Scripted([result]), **QUIET)


class NaNAt:
    """Binary cross-entropy that gives NaN in the step of that number, counted over the run from 1."""

    def __init__(self, step: int, value: float = float("nan")) -> None:
        self.left, self.value = step, value

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Count down, and multiply the loss by `value` at nought."""
        self.left -= 1
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
        return loss * self.value if self.left == 0 else loss


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_loss_not_finite(own_tiny, value, tmp_path):
    """A NaN or infinite loss raises with epoch, step and guids; the saved best model and the weights stay good."""
    path = tmp_path / "best"
    evaluator = Scripted([0.9, 0.1])
    with pytest.raises(TrainingError, match=rf"epoch 1, step 2: the loss is {value} \(examples 'e\d+'(, 'e\d+')+\)"):
        fit(own_tiny, loader(12), evaluator, epochs=2, loss_fct=NaNAt(5, value), output_path=str(path), **QUIET)
    assert same(state(CrossEncoder(str(path), device="cpu")), evaluator.weights[0])
    assert all(torch.isfinite(weight).all() for weight in own_tiny.model.parameters())


def test_gradient_not_finite(own_tiny):
    """A finite loss with a NaN gradient raises too, before the weights take it."""
    before = state(own_tiny)
    with pytest.raises(TrainingError, match="epoch 0, step 1: the gradient's norm is nan"):
        fit(own_tiny, loader(4), loss_fct=lambda logits, _: torch.sqrt(0 * logits).sum(), **QUIET)
    assert same(state(own_tiny), before)


class Interrupting(torch.optim.AdamW):
    """Ctrl-C comes between gradients and weights, in the fifth step of the run."""

    left = 5

    def step(self, *arguments):
        """Send the process what Ctrl-C sends."""
        self.left -= 1
        if not self.left:
            signal.raise_signal(signal.SIGINT)
        return super().step(*arguments)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c(own_tiny, tmp_path):
    """Ctrl-C in a step ends training at once; the next call works, and the best model so far is on disk."""
    data, evaluator = loader(12), Scripted([0.9])
    collate = data.collate_fn
    with pytest.raises(KeyboardInterrupt):
        fit(own_tiny, data, evaluator, epochs=3, optimizer_class=Interrupting, output_path=str(tmp_path), **QUIET)
    assert data.collate_fn is collate
    assert own_tiny.training_thread is None
    assert not own_tiny.model.training
    assert all(weight.grad is None for weight in own_tiny.model.parameters())
    first, second = (own_tiny.predict([("how to", "reset")]) for _ in range(2))
    assert first == second
    assert same(state(CrossEncoder(str(tmp_path), device="cpu")), evaluator.weights[0])


@pytest.mark.parametrize(("shown", "labels"), [(True, ["Epoch", "Iteration"]), (False, [])])
def test_progress_bars(own_tiny, shown, labels, capsys):
    """The bars are the seed's, and can be switched off."""
    fit(own_tiny, loader(4), show_progress_bar=shown, warmup_steps=0)
    written = capsys.readouterr().err
    assert [label for label in ("Epoch", "Iteration") if f"{label}:" in written] == labels
    assert bool(written) is shown


def test_loader_that_runs_dry(own_tiny):
    """A loader that can be read only once is an error in the second epoch, not an epoch of nothing."""

    class Once:
        def __init__(self) -> None:
            self.left = iter([examples(4)])

        def __len__(self) -> int:
            return 1

        def __iter__(self):
            return self.left

    with pytest.raises(TrainingError, match="epoch 1: train_dataloader gave no batches"):
        fit(own_tiny, Once(), epochs=2, **QUIET)


def test_loss_and_rate_are_logged(own_tiny, caplog):
    """Every 50 steps, loss and learning rate of that step are logged at DEBUG."""
    losses = []

    def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        losses.append(torch.nn.functional.binary_cross_entropy_with_logits(logits, labels))
        return losses[-1]

    with caplog.at_level(logging.DEBUG, "secondpass"):
        fit(own_tiny, loader(101, batch_size=1), loss_fct=loss, show_progress_bar=False, warmup_steps=100)
    lines = [record.getMessage() for record in caplog.records if record.name == "secondpass.training.running.loop"]
    assert lines == [
        f"epoch 0, step 50: loss {losses[49].item():.6g}, learning rate 9.8e-06",
        f"epoch 0, step 100: loss {losses[99].item():.6g}, learning rate 1.98e-05",
    ]
