"""Averages of weights: the numbers, the way in and out of the model, and through a checkpoint."""

from __future__ import annotations

import pytest
import torch

from secondpass.errors import CheckpointError, InvalidInput, TrainingError
from secondpass.training.checkpoints.checkpoints import Checkpoint, Checkpoints
from secondpass.training.weights.optimisation import BestWeights, WeightAverages, mean_weights, with_changes
from tests.tiny_models import make_model


def small(dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """A model with a frozen weight and a buffer."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 1)).to(dtype)
    model[2].weight.requires_grad_(False)
    return model


def move(model: torch.nn.Module, seed: int) -> None:
    """Change the trainable weights as a step does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape, generator=generator).to(weight.dtype))


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_formula(decay):
    """Each average is d old + (1 - d) new with d = min(decay, (1 + t) / (10 + t))."""
    model = small()
    averages = WeightAverages(model, decay)
    expected = {name: weight.detach().double() for name, weight in model.named_parameters() if weight.requires_grad}
    for step in range(1, 40):
        move(model, step)
        averages.update(step)
        share = min(decay, (1 + step) / (10 + step))
        for name, weight in model.named_parameters():
            if name in expected:
                expected[name] = share * expected[name] + (1 - share) * weight.detach().double()
    found = averages.tensors()
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[name].double(), value, atol=1e-5) for name, value in expected.items())


def test_average_of_what_does_not_move():
    """Is the same bits, whatever the number of steps."""
    model = small()
    averages = WeightAverages(model, 0.999)
    for step in range(1, 50):
        averages.update(step)
    assert all(
        torch.equal(averages.tensors()[name], dict(model.named_parameters())[name]) for name in averages.tensors()
    )


def test_only_trainable_weights_are_averaged():
    """Frozen weights and buffers have no average."""
    assert sorted(WeightAverages(small(), 0.9).tensors()) == ["0.bias", "0.weight", "1.bias", "1.weight", "2.bias"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_swapped(dtype):
    """Inside the block the model has the averages, rounded to its dtype; after it the same bits as before."""
    model = small(dtype)
    averages = WeightAverages(model, 0.9)
    move(model, 1)
    averages.update(1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with averages.swapped():
        inside = dict(model.named_parameters())
        for name, average in averages.tensors().items():
            assert average.dtype == torch.float32
            assert torch.equal(inside[name], average.to(dtype))
            assert not torch.equal(inside[name], before[name])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_small_steps_of_coarse_weights_are_not_lost():
    """In bfloat16 a thousandth of the way would be rounded away; float32 masters keep it."""
    model = torch.nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    model.weight.data.fill_(1.0)
    averages = WeightAverages(model, 0.999)
    model.weight.data.fill_(1.25)
    for step in range(20_000, 22_000):
        averages.update(step)
    assert averages.tensors()["weight"].item() == pytest.approx(1.25 - 0.25 * 0.999**2000, abs=1e-3)


def test_back_after_an_error():
    """Also when evaluation fails, and then averaging goes on."""
    model = small()
    averages = WeightAverages(model, 0.9)
    move(model, 1)
    before = model[0].weight.clone()
    with pytest.raises(ZeroDivisionError), averages.swapped():
        raise ZeroDivisionError
    assert torch.equal(model[0].weight, before)
    averages.update(1)


def test_optimizer_and_gradients_stay():
    """The weights are the same objects all along."""
    model = small()
    averages = WeightAverages(model, 0.9)
    model(torch.randn(4, 3)).sum().backward()
    weights, grad = [id(weight) for weight in model.parameters()], model[0].weight.grad.clone()
    with averages.swapped():
        model(torch.randn(4, 3))
    assert [id(weight) for weight in model.parameters()] == weights
    assert torch.equal(model[0].weight.grad, grad)


def test_no_updates_while_swapped():
    """The averages would be averaged into themselves."""
    averages = WeightAverages(small(), 0.9)
    with averages.swapped():
        with pytest.raises(TrainingError, match="holds the averages"):
            averages.update(1)
        with pytest.raises(TrainingError, match="holds the averages"), averages.swapped():
            pass
    averages.update(1)


def test_goes_on_from_a_checkpoint(tmp_path):
    """With the same bits as without the break."""
    model = small()
    averages = WeightAverages(model, 0.99)
    for step in range(1, 4):
        move(model, step)
        averages.update(step)
    stored = {"model": model.state_dict(), "average": averages.tensors()}
    Checkpoints(tmp_path, 1, {}).save(Checkpoint(3, stored, {}))
    found = Checkpoints(tmp_path, 1, {}).newest()
    assert found is not None
    twin = small()
    twin.load_state_dict(found.tensors["model"])
    others = WeightAverages(twin, 0.99)
    others.restore(found.tensors["average"])
    for step in range(4, 7):
        for one, kept in ((model, averages), (twin, others)):
            move(one, step)
            kept.update(step)
    assert all(torch.equal(others.tensors()[name], average) for name, average in averages.tensors().items())


def test_restore_refuses_others_and_changes_nothing():
    """Other names, shapes, dtypes, by name."""
    averages = WeightAverages(small(), 0.9)
    right = {name: torch.zeros_like(tensor) for name, tensor in averages.tensors().items()}
    before = {name: tensor.clone() for name, tensor in averages.tensors().items()}
    for wrong, words in (
        (
            {name: tensor for name, tensor in right.items() if name != "0.bias"},
            "only the model has an average of 0.bias",
        ),
        (right | {"x": torch.ones(1)}, "only the checkpoint has an average of x"),
        (right | {"2.bias": torch.ones(2)}, r"2\.bias is torch.float32 \[2\] in the checkpoint, torch.float32 \[1\]"),
        (right | {"2.bias": torch.ones(1).double()}, r"2\.bias is torch.float64 \[1\]"),
    ):
        with pytest.raises(CheckpointError, match=words):
            averages.restore(wrong)
    assert all(torch.equal(averages.tensors()[name], tensor) for name, tensor in before.items())
    averages.restore(right)
    right["2.bias"].fill_(5)
    assert averages.tensors()["2.bias"].item() == 0


@pytest.mark.parametrize("decay", [0, 1, -0.1, 1.5, float("nan"), None, "0.9", True])
def test_refused_decays(decay):
    """0 is no average and 1 never moves."""
    with pytest.raises(InvalidInput, match="decay="):
        WeightAverages(small(), decay)


def test_refused_models_and_steps():
    """All frozen; a step before the first."""
    with pytest.raises(InvalidInput, match="no trainable weights"):
        WeightAverages(small().requires_grad_(False), 0.9)
    with pytest.raises(InvalidInput, match="step=0"):
        WeightAverages(small(), 0.9).update(0)


def test_tied_weights_are_averaged_once():
    """And swapped once."""
    model = make_model("bert", 60)
    model.twin = model.classifier
    averages = WeightAverages(model, 0.9)
    assert not any(name.startswith("twin") for name in averages.tensors())
    move(model, 1)
    before = model.classifier.weight.clone()
    with averages.swapped():
        pass
    assert torch.equal(model.classifier.weight, before)


def test_runs_are_averaged_weight_by_weight():
    """The mean in float32, whatever the runs computed in; what is no number is the first one's."""
    states = [
        {"w": torch.tensor([1.0, 2.0]).bfloat16(), "ids": torch.tensor([3])},
        {"w": torch.tensor([2.0, 4.0]), "ids": torch.tensor([9])},
    ]
    made = mean_weights(states)
    assert (made["w"].tolist(), made["w"].dtype, made["ids"].tolist()) == ([1.5, 3.0], torch.float32, [3])
    for others, reason in (([], "empty"), ([*states, {"w": torch.zeros(3)}], r"states\[2\]: ")):
        with pytest.raises(InvalidInput, match=reason):
            mean_weights(others)


def test_changes_are_added_by_their_shares():
    """In the weights that are named, and nowhere else; the start stays as it is."""
    start = {"low": torch.ones(2), "high": torch.ones(2), "ids": torch.arange(2)}
    up, down = ({name: tensor + step for name, tensor in start.items()} for step in (2, 4))
    made = with_changes(start, [(up, 1.0), (down, -0.25)], {"low", "ids"})
    assert {name: tensor.tolist() for name, tensor in made.items()} == {
        "low": [2.0, 2.0],
        "high": [1.0, 1.0],
        "ids": [0, 1],
    }
    assert start["low"].tolist() == [1.0, 1.0]
    with pytest.raises(InvalidInput, match=r"states\[1\]: high is absent"):
        with_changes(start, [({"low": start["low"], "ids": start["ids"]}, 1.0)], {"low"})


def model_at(value: float) -> torch.nn.Linear:
    """Make a model with one weight."""
    model = torch.nn.Linear(1, 1, bias=False)
    set_to(model, value)
    return model


def set_to(model: torch.nn.Linear, value: float) -> None:
    """Change its weight in place, as training does."""
    with torch.no_grad():
        model.weight.fill_(value)


def after_offers(scores: list[float], keeps: bool = True) -> tuple[BestWeights, float, list[float]]:
    """Offer weight 0, 1, 2, ... with `scores`; -> the object, the weight restored, the weights saved."""
    model, saved = model_at(0.0), []
    best = BestWeights(model, keeps, lambda: saved.append(model.weight.item()))
    for number, score in enumerate(scores):
        set_to(model, float(number))
        best.offer(score)
    best.restore()
    return best, model.weight.item(), saved


@pytest.mark.parametrize(
    ("scores", "restored", "saved"),
    [
        ([0.1, 0.9, 0.2], 1.0, [0.0, 1.0]),
        ([0.5, 0.5], 0.0, [0.0]),
        ([float("nan"), 0.2, float("nan")], 1.0, [1.0]),
        ([-1e12, float("-inf")], 0.0, [0.0]),
        ([float("nan")], 0.0, []),
    ],
)
def test_highest_score_wins(scores, restored, saved):
    """The first of the highest scores is kept and saved, however low it is; NaN never is."""
    _, weight, written = after_offers(scores)
    assert weight == restored
    assert written == saved


def test_score_without_weights():
    """Told not to keep weights, it remembers the score and leaves the last weights."""
    best, weight, saved = after_offers([0.9, 0.1], keeps=False)
    assert (best.score, weight, saved) == (0.9, 1.0, [])


def test_nan_is_logged(caplog):
    """A NaN score is told."""
    assert not BestWeights(model_at(0.0), keeps=True).offer(float("nan"))
    assert "NaN" in caplog.text


def test_copy_does_not_change_with_the_model():
    """The kept weights are copies, on the CPU, and the model keeps its own tensors when they come back."""
    model = model_at(1.0)
    weight = model.weight
    best = BestWeights(model, keeps=True)
    best.offer(1.0)
    set_to(model, 5.0)
    best.restore()
    assert model.weight is weight
    assert weight.item() == 1.0
    assert weight.requires_grad
