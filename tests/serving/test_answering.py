"""From pairs to an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import torch
from torch import nn

from secondpass import CrossEncoder
from secondpass.serving.answering import answered, unless_gone
from secondpass.serving.models import Models, Served
from secondpass.serving.problems import Problem
from secondpass.serving.settings import Settings
from secondpass.serving.shapes.parts import Work
from tests.tiny_models import LENGTH

TEXTS = ("the cat sat on the mat", "a dog", "paris is the capital of france", "a dog", "cat " * 300)


def work(**given: Any) -> Work:
    """The texts for one query."""
    return Work(None, ("where is the cat",) * len(TEXTS), TEXTS, **given)


@pytest.fixture
async def served(own_tiny: CrossEncoder) -> AsyncIterator[Served]:
    """A tiny model behind a queue."""
    models = Models({"tiny": own_tiny}, Settings(), lambda *given: None)
    yield models.get(None)
    models.close()


async def test_scores_and_order_are_those_in_process(served: Served) -> None:
    """Equal documents tie and keep their order."""
    answer = await answered(served, work(), 30)
    (ranking,) = served.reranker.rank_many(["where is the cat"], [TEXTS])
    assert answer.order == tuple(item.index for item in ranking.documents)
    for item in ranking.documents:
        assert answer.scores[item.index] == pytest.approx(item.score, abs=1e-6)
        assert answer.logits[item.index] == pytest.approx(item.logit, abs=1e-5)
    assert answer.scores[1] == answer.scores[3]
    assert answer.cuts == ranking.truncated
    assert answer.warnings == (f"cut documents: 4 ({answer.cuts[0].document_tokens} tokens; the window has 128)",)


async def test_a_models_own_activation_and_the_sigmoid_are_both_there(served: Served) -> None:
    """A model that stores the identity has logits for scores."""
    served.reranker.default_activation_function = nn.Identity()
    answer = await answered(served, work(), 30)
    assert answer.scores == answer.logits
    assert all(0 < probability < 1 for probability in answer.probabilities)


async def test_documents_are_cut_as_asked(served: Served) -> None:
    """To a number of tokens the answer is that of the shorter texts, and the cuts are told."""
    answer = await answered(served, work(max_document_tokens=2), 30)
    short = tuple(" ".join(text.split()[:2]) for text in TEXTS)
    (ranking,) = served.reranker.rank_many(["where is the cat"], [short])
    assert answer.order == tuple(item.index for item in ranking.documents)
    assert [(cut.index, cut.document_tokens) for cut in answer.cuts] == [(0, 4), (2, 4), (4, 298)]
    assert (await answered(served, work(max_document_tokens=LENGTH), 30)).order == (
        await answered(served, work(), 30)
    ).order


async def test_a_cut_that_may_not_be_is_refused(served: Served) -> None:
    """422 with the index."""
    with pytest.raises(Problem, match="texts: 4 are longer than the model's window of 128 tokens"):
        await answered(served, work(field="texts", refuse_cuts=True), 30)


async def never() -> dict[str, Any]:
    """A client that stays."""
    await asyncio.Event().wait()
    raise AssertionError


async def gone() -> dict[str, Any]:
    """A client that goes at once."""
    return {"type": "http.disconnect"}


@pytest.mark.parametrize(("receive", "seconds", "status"), [(never, 0.01, 504), (gone, 30, 499)])
async def test_work_is_cancelled(receive: Callable[..., Any], seconds: float, status: int) -> None:
    """When its time is up or its client is gone."""
    ended = asyncio.Event()

    async def long() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.set()

    with pytest.raises(Problem) as refused:
        await unless_gone(receive, seconds, 7, long())
    assert refused.value.status == status
    assert ended.is_set()


async def test_results_and_errors_pass() -> None:
    """Of work that ends in time."""

    async def fails() -> None:
        raise KeyError

    assert await unless_gone(never, 5, 5, asyncio.sleep(0, "done")) == "done"
    with pytest.raises(KeyError):
        await unless_gone(never, 5, 5, fails())


@pytest.mark.parametrize("activation", [nn.Sigmoid(), nn.Identity(), nn.Tanh(), nn.SiLU(), nn.ReLU()])
@pytest.mark.parametrize("shift", [0.0, -500.0])
async def test_blank_documents_are_last_whatever_the_activation(
    own_tiny: CrossEncoder, activation: nn.Module, shift: float
) -> None:
    """In the order they came, with no higher score or logit than any other document; the others are as without them."""
    with torch.no_grad():
        own_tiny.model.classifier.bias.add_(shift)
    own_tiny.default_activation_function = activation
    texts = ("", "the cat sat on the mat", " \n" * 500, "a dog")
    models = Models({"tiny": own_tiny}, Settings(), lambda *given: None)
    answer = await answered(models.get(None), Work(None, ("where is the cat",) * 4, texts), 30)
    plain = await answered(models.get(None), Work(None, ("where is the cat",) * 2, texts[1::2]), 30)
    models.close()
    assert answer.order == (*(1 + 2 * index for index in plain.order), 0, 2)
    for name in ("scores", "logits", "probabilities"):
        values = getattr(answer, name)
        assert values[1::2] == pytest.approx(getattr(plain, name), abs=1e-4)
        assert values[0] == values[2] <= min(values[1::2])
    assert answer.logits[0] == min(-100.0, *plain.logits)
    assert answer.cuts == ()
