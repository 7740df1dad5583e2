"""Gradients of a step: those of the mean loss over all of it, whatever the memory, the cache or the processes."""

from __future__ import annotations

import random
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from secondpass.errors import TrainingError
from secondpass.training.cpu.forward import PaddedForward
from secondpass.training.data.groups import Group, Teaching
from secondpass.training.losses.named import make_loss
from secondpass.training.running.group_learner import GroupLearner, arranged, arranged_teachings
from secondpass.training.running.processes import ALONE, Processes
from secondpass.training.survival.random_state import random_state, restore_random_state
from secondpass.training.weights.optimisation import Optimisation

WORDS = "how to reset the password of my account when it is locked and mail does not come".split()


def step_of_groups(seed: int = 0, size: int = 6) -> list[Group]:
    """Groups of one to five documents of uneven length, one positive each."""
    rng = random.Random(seed)
    made = []
    for number in range(size):
        documents = tuple(
            " ".join(rng.choices(WORDS, k=rng.randint(1, 20))) + f" {place}" for place in range(rng.randint(1, 5))
        )
        labels = (1.0,) + (0.0,) * (len(documents) - 1)
        made.append(Group(" ".join(rng.choices(WORDS, k=4)), documents, labels, f"file:{number}"))
    return made


def learner(encoder, loss="binary_cross_entropy", *, micro_tokens=100_000, cached=False, processes=ALONE, options=None):
    """A learner whose gradients are neither clipped nor scaled."""
    weights = tuple(encoder.model.parameters())
    optimizer = torch.optim.SGD(weights, lr=0.1)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    def rewinding():
        kept = random_state()
        return lambda: restore_random_state(*kept)

    return GroupLearner(
        tokenised=encoder.tokens,
        forward=PaddedForward(encoder.model, encoder.tokenizer.model_input_names, encoder.padding),
        loss=make_loss(loss, options or {}),
        optimisation=Optimisation(weights, optimizer, schedule, scaler, float("inf")),
        processes=processes,
        autocast=nullcontext,
        micro_tokens=micro_tokens,
        cached=cached,
        seed=5,
        random_state=rewinding,
    )


def gradients(encoder, groups, *arguments, **options):
    """Loss and flat gradient of one step; dropout off unless the caller turned it on."""
    encoder.model.zero_grad()
    result = learner(encoder, *arguments, **options)(groups, "epoch 0, step 1")
    grads = [torch.zeros_like(w) if w.grad is None else w.grad for w in encoder.model.parameters()]
    return result, torch.cat([grad.reshape(-1).clone() for grad in grads])


LOSSES = ["binary_cross_entropy", "ranknet", "listnet", "lambda_loss", "info_nce", "mse"]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("micro_tokens", "cached"), [(40, False), (1, False), (40, True), (1, True)])
def test_memory_changes_nothing(own_tiny, loss, micro_tokens, cached):
    """Micro-batches of whole groups, and slices of them with cached gradients, add up to the step's own gradient."""
    groups = step_of_groups()
    whole, expected = gradients(own_tiny, groups, loss)
    result, found = gradients(own_tiny, groups, loss, micro_tokens=micro_tokens, cached=cached)
    torch.testing.assert_close(result.loss, whole.loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert (result.pairs, result.tokens) == (whole.pairs, whole.tokens)


def test_the_loss_is_the_mean_over_all_pairs(own_tiny):
    """Written out by hand: torch's own mean loss over every pair of the step, and its gradient."""
    groups = step_of_groups()
    result, found = gradients(own_tiny, groups, micro_tokens=50)
    own_tiny.model.zero_grad()
    pairs = [[group.query, document] for group in groups for document in group.documents]
    logits = own_tiny.model(**own_tiny.collate(pairs)).logits[:, 0]
    labels = torch.tensor([label for group in groups for label in group.labels])
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    loss.backward()
    expected = torch.cat([w.grad.reshape(-1) for w in own_tiny.model.parameters()])
    torch.testing.assert_close(result.loss, loss.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert result.pairs == len(pairs)
    assert result.names == tuple(group.source for group in groups)


@pytest.mark.parametrize("count", [2, 3, 40])
def test_processes_share_a_step(own_tiny, count, monkeypatch):
    """What the processes compute adds up to the step of one process, those without a micro-batch included."""
    groups = step_of_groups()
    _, expected = gradients(own_tiny, groups, "ranknet", micro_tokens=60)
    sums: list[torch.Tensor] = []

    def keep(self, tensors):
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        sums.append(flat.clone())
        # as if the others had done their part already: nothing is divided by zero here
        tensors[-1].fill_(1.0)

    monkeypatch.setattr(Processes, "add_up", keep)
    for rank in range(count):
        gradients(own_tiny, groups, "ranknet", micro_tokens=60, processes=Processes(rank, count))
    assert len({len(flat) for flat in sums}) == 1
    total = torch.stack(sums).sum(0)
    pairs = sum(map(len, groups))
    units = total[-1]
    torch.testing.assert_close(total[:-2] * pairs / units, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("cached", [False, True])
def test_in_batch_negatives_come_from_other_groups(own_tiny, cached, monkeypatch):
    """They are documents of the step, never judged ones of the query, and the same for the same step."""
    groups = step_of_groups(size=5)
    twin = Group(groups[0].query, ("another answer",), (1.0,), "file:twin")
    seen = []
    teacher = learner(own_tiny, "info_nce", cached=cached, options={"in_batch_negatives": 3})
    tokenised = teacher.tokenised
    teacher.tokenised = lambda queries, documents: seen.append((queries, documents)) or tokenised(queries, documents)
    for _ in range(2):
        own_tiny.model.zero_grad()
        teacher([*groups, twin], "epoch 0, step 7")
    assert seen[0] == seen[1]
    asked: dict[str, list[str]] = {}
    for query, document in zip(*seen[0], strict=True):
        asked.setdefault(query, []).append(document)
    everything = {document for group in [*groups, twin] for document in group.documents}
    assert set(asked[groups[1].query][len(groups[1]) :]) <= everything - set(groups[1].documents)
    assert len(asked[groups[1].query]) == len(groups[1]) + 3
    assert asked[twin.query].count("another answer") == 1
    assert all(asked[twin.query].count(document) == 1 for document in groups[0].documents)


def test_cached_gradients_meet_the_same_dropout(own_tiny):
    """Both forwards of a slice drop the same places: a slice that is the whole step has the plain step's gradient."""
    groups = [Group("how to reset", ("password", "account mail"), (1.0, 0.0), "x:1")]
    own_tiny.model.train()
    torch.manual_seed(3)
    whole, expected = gradients(own_tiny, groups, "listnet")
    torch.manual_seed(3)
    result, found = gradients(own_tiny, groups, "listnet", cached=True)
    after = torch.rand(1)
    torch.testing.assert_close(result.loss, whole.loss)
    torch.testing.assert_close(found, expected)
    torch.manual_seed(4)
    _, other = gradients(own_tiny, groups, "listnet")
    assert not torch.allclose(found, other)
    torch.manual_seed(3)
    gradients(own_tiny, groups, "listnet")
    assert torch.equal(after, torch.rand(1))


def test_a_step_with_nothing_to_judge_is_refused(own_tiny):
    """Groups of one document give a pairwise loss no unit."""
    with pytest.raises(TrainingError, match="epoch 0, step 1"):
        gradients(own_tiny, [Group("q", ("d",), (1.0,), "x:1")], "ranknet")


def test_arranged_lays_groups_out():
    """Places beyond a group are masked and zero; several labels keep their axis."""
    logits = torch.tensor([[1.0], [2.0], [3.0]])
    grid, labels, mask = arranged(logits, [(1.0,), (0.0, 0.5)])
    assert grid.tolist() == [[1.0, 0.0], [2.0, 3.0]]
    assert labels.tolist() == [[1.0, 0.0], [0.0, 0.5]]
    assert mask.tolist() == [[True, False], [True, True]]
    wide, _, _ = arranged(torch.arange(6.0).view(3, 2), [(1.0,), (0.0, 1.0)])
    assert wide.tolist() == [[[0.0, 1.0], [0.0, 0.0]], [[2.0, 3.0], [4.0, 5.0]]]


@pytest.mark.parametrize(("micro_tokens", "cached"), [(40, False), (1, False), (40, True)])
def test_a_teacher_beside_labels_changes_nothing_about_that(own_tiny, micro_tokens, cached):
    """Scores and weights stay with their group through micro-batches and the cache; without them it is another step."""
    plain = step_of_groups()
    rng = random.Random(8)
    groups = [
        replace(group, teaching=Teaching(tuple(rng.gauss(0, 2) for _ in group.documents), rng.random(), rng.random()))
        if number % 3
        else group
        for number, group in enumerate(plain)
    ]
    whole, expected = gradients(own_tiny, groups, "labelled_distillation")
    found, cut = gradients(own_tiny, groups, "labelled_distillation", micro_tokens=micro_tokens, cached=cached)
    torch.testing.assert_close(found.loss, whole.loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(cut, expected, rtol=1e-4, atol=1e-6)
    _, untaught = gradients(own_tiny, plain, "labelled_distillation")
    assert not torch.allclose(untaught, expected, rtol=1e-2)
    before, after = gradients(own_tiny, plain, "info_nce"), gradients(own_tiny, groups, "info_nce")
    assert torch.equal(before[1], after[1])


def test_what_a_teacher_thinks_is_laid_out():
    """Beside the labels; a group that nobody was asked about counts by its labels alone."""
    _, _, mask = arranged(torch.zeros(3, 1), [(1.0,), (0.0, 0.5)])
    made = arranged_teachings([None, Teaching((2.0, -1.0), 0.5, 3.0)], mask)
    assert made.scores.tolist() == [[0.0, 0.0], [2.0, -1.0]]
    assert made.weights.tolist() == [0.0, 0.5]
    assert made.label_weights.tolist() == [1.0, 3.0]
