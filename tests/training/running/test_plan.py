"""All steps of a run, known before the first."""

from __future__ import annotations

import random
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secondpass.errors import TrainingError
from secondpass.forwards.learning.packed import PaddedForward
from secondpass.training.checkpoints.state import random_state, restore_random_state
from secondpass.training.data.groups import Group, Teaching
from secondpass.training.losses import make_loss
from secondpass.training.running.loop import ALONE, Processes
from secondpass.training.running.plan import (
    GroupLearner,
    Lengths,
    arranged,
    arranged_teachings,
    epoch_steps,
    measured,
    micro_batches,
    own_share,
    planned,
)
from secondpass.training.settings import TrainingSettings
from secondpass.training.weights.optimisation import Optimisation
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


@pytest.mark.parametrize(("loss", "micro_tokens"), [("ranknet", 60), ("binary_cross_entropy", 100_000)])
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("count", [2, 3, 40])
def test_processes_share_a_step(own_tiny, count, cached, loss, micro_tokens, monkeypatch):
    """What the processes compute adds up to the step of one process, those without a group included.

    Only where there are fewer groups than processes has one nothing to do, also if the step is one micro-batch.
    """
    groups = step_of_groups()
    _, expected = gradients(own_tiny, groups, loss, micro_tokens=micro_tokens, cached=cached)
    sums: list[torch.Tensor] = []

    def keep(self, tensors):
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        sums.append(flat.clone())
        # as if the others had done their part already: nothing is divided by zero here
        tensors[-1].fill_(1.0)

    monkeypatch.setattr(Processes, "add_up", keep)
    for rank in range(count):
        processes = Processes(rank, count)
        gradients(own_tiny, groups, loss, micro_tokens=micro_tokens, cached=cached, processes=processes)
    assert len({len(flat) for flat in sums}) == 1
    if loss == "binary_cross_entropy":
        assert sum(bool(flat[-1]) for flat in sums) == min(count, len(groups))
    total = torch.stack(sums).sum(0)
    pairs = sum(map(len, groups))
    units = total[-1]
    torch.testing.assert_close(total[:-2] * pairs / units, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("cached", [False, True])
def test_a_process_without_a_group_has_a_loss_scale(own_tiny, cached, monkeypatch):
    """In the first step too: it takes part in the step that the gradients of the others make, and changes the same."""
    (judged,) = step_of_groups(size=1)
    shares: dict[int, list[torch.Tensor]] = {}

    def add_up(self, tensors):
        if self.rank in shares:  # a second time, with what the other one had
            for tensor, other in zip(tensors, shares[1 - self.rank], strict=True):
                tensor.add_(other)
        else:
            shares[self.rank] = [tensor.clone() for tensor in tensors]
            tensors[-1].fill_(1.0)

    monkeypatch.setattr(Processes, "add_up", add_up)
    start = [weight.detach().clone() for weight in own_tiny.model.parameters()]
    ends = []
    for rank in (0, 1, 0, 1):
        with torch.no_grad():
            for weight, before in zip(own_tiny.model.parameters(), start, strict=True):
                weight.copy_(before)
        own_tiny.model.zero_grad()
        teacher = learner(own_tiny, cached=cached, processes=Processes(rank, 2))
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        teacher.optimisation = replace(teacher.optimisation, scaler=scaler, max_grad_norm=1.0)
        teacher([judged], "epoch 0, step 1")
        teacher.optimisation.step()
        ends.append(torch.cat([weight.detach().reshape(-1).clone() for weight in own_tiny.model.parameters()]))
    assert sorted(bool(tensors[-1]) for tensors in shares.values()) == [False, True]
    assert torch.equal(ends[2], ends[3])
    assert not torch.equal(ends[2], torch.cat([weight.reshape(-1) for weight in start]))


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


@pytest.mark.parametrize("cached", [False, True])
def test_a_step_without_negatives_leaves_no_gradient(own_tiny, cached, monkeypatch, caplog):
    """A positive alone, or twins, in every process: no optimiser moves a weight by it, and the first one tells."""
    monkeypatch.setattr(Processes, "add_up", lambda self, tensors: None)
    alone = [Group("q", ("d",), (1.0,), "x:1"), Group("q", ("d",), (1.0,), "x:2")]
    for count, processes in enumerate((ALONE, Processes(0, 2), Processes(1, 2))):
        own_tiny.model.zero_grad()
        teacher = learner(own_tiny, "info_nce", cached=cached, processes=processes)
        made = teacher(alone[: 1 + count % 2], "epoch 0, step 7")
        assert (made.judged, float(made.loss), float(made.norm), made.pairs) == (False, 0.0, 0.0, 1 + count % 2)
        assert all(weight.grad is None for weight in own_tiny.model.parameters())
    assert len(caplog.messages) == 2
    assert caplog.messages[0].startswith("epoch 0, step 7: no group has a negative, of its own or of another")


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


SIZES = st.lists(st.lists(st.integers(1, 300), min_size=1, max_size=6), min_size=1, max_size=60)


def lengths(groups: list[list[int]]) -> Lengths:
    """Lengths of these groups of pairs."""
    flat = np.asarray([tokens for group in groups for tokens in group], np.int32)
    return Lengths(flat, np.cumsum([0, *map(len, groups)], dtype=np.int64))


@given(groups=SIZES, budget=st.integers(1, 3000), epoch=st.integers(0, 5), count=st.none() | st.integers(1, 9))
def test_every_group_is_read_once_an_epoch(groups, budget, epoch, count):
    """Nothing is lost at the end of a pool or of the epoch."""
    settings = TrainingSettings(tokens_per_step=budget, groups_per_step=count)
    steps = epoch_steps(lengths(groups), settings, epoch)
    assert sorted(group for step in steps for group in step) == list(range(len(groups)))
    assert all(steps)


def test_steps_have_the_asked_size():
    """By groups: exactly so many but in the last one. By tokens: at least so many, and no group more than needed."""
    sized = lengths([[10 + number % 7] * 4 for number in range(100)])
    assert [len(step) for step in epoch_steps(sized, TrainingSettings(groups_per_step=8), 0)] == [8] * 12 + [4]
    steps = epoch_steps(sized, TrainingSettings(tokens_per_step=300), 0)
    tokens = [[int(sized.of(group).sum()) for group in step] for step in steps]
    assert sum(sum(step) < 300 for step in tokens) <= 1
    assert all(sum(step[:-1]) < 300 for step in tokens)


def test_like_lengths_meet():
    """Padding within steps is a small part when lengths are grouped."""
    rng = np.random.default_rng(1)
    sized = lengths([[int(tokens)] for tokens in rng.integers(5, 500, 2000)])
    steps = epoch_steps(sized, TrainingSettings(tokens_per_step=4000), 0)
    padded = sum(len(step) * max(int(sized.of(group)[0]) for group in step) for step in steps)
    assert sized.tokens.sum() > 0.85 * padded


def test_epochs_and_seeds_differ_and_processes_agree():
    """The order depends on seed and epoch alone: hash randomisation of another interpreter changes nothing."""
    sized = lengths([[number % 13 + 1] for number in range(50)])
    settings = TrainingSettings(groups_per_step=5, seed=3)
    first = epoch_steps(sized, settings, 0)
    assert first == epoch_steps(sized, settings, 0)
    assert first != epoch_steps(sized, settings, 1)
    assert first != epoch_steps(sized, replace(settings, seed=4), 0)
    program = (
        "import numpy as np\n"
        "from secondpass.training.settings import TrainingSettings\n"
        "from secondpass.training.running.plan import Lengths, epoch_steps\n"
        "sized = Lengths(np.asarray([n % 13 + 1 for n in range(50)], np.int32), np.arange(51))\n"
        "print(epoch_steps(sized, TrainingSettings(groups_per_step=5, seed=3), 0))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == str(first)


@given(groups=SIZES, budget=st.integers(1, 2000))
def test_micro_batches_keep_groups_whole_under_the_budget(groups, budget):
    """Every group once, longest first, and only a group that is alone may be beyond the budget."""
    made = micro_batches(groups, budget)
    assert sorted(place for batch in made for place in batch) == list(range(len(groups)))
    for batch in made:
        pairs = sum(len(groups[place]) for place in batch)
        width = max(max(groups[place]) for place in batch)
        assert len(batch) == 1 or pairs * width <= budget
    assert max(groups[made[0][0]]) == max(max(group) for group in groups)


@given(tokens=st.lists(st.integers(1, 900), max_size=30), count=st.integers(1, 9))
def test_shares_of_a_step_are_even(tokens, count):
    """Every group is read once; shares differ by one group at most, nobody is idle without need, and one has all."""
    shares = [own_share(tokens, rank, count) for rank in range(count)]
    assert sorted(place for share in shares for place in share) == list(range(len(tokens)))
    assert all(share == sorted(share) for share in shares)
    loads = [sum(tokens[place] for place in share) for share in shares]
    assert max(loads) - min(loads) <= max(tokens, default=0)
    assert sum(map(bool, shares)) == min(count, len(tokens))
    assert own_share(tokens, 0, 1) == list(range(len(tokens)))


def test_a_step_of_default_size_is_shared():
    """Eleven groups of 800 tokens fit into one micro-batch, of which two processes read six and five."""
    assert [len(own_share([800] * 11, rank, 2)) for rank in (0, 1)] == [6, 5]


@pytest.mark.parametrize("epoch", [0, 7])
def test_one_group(epoch):
    """The smallest run there is."""
    assert epoch_steps(lengths([[3, 4]]), TrainingSettings(), epoch) == [(0,)]
