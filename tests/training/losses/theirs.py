"""sentence-transformers' losses, driven by a model that gives the logits it was given."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from torch import nn

from secondpass.training.losses.loss import Loss
from tests.training.losses.ragged import Ragged, padded


class GivenLogits(CrossEncoder):
    """Its queries and documents are named by number: the logit is at [query, document] of `given`."""

    def __init__(self, given: torch.Tensor) -> None:
        nn.Module.__init__(self)
        self.given = given

    @property
    def num_labels(self) -> int:
        return self.given.shape[2] if self.given.dim() == 3 else 1

    @property
    def device(self) -> torch.device:
        return self.given.device

    def preprocess(self, pairs: Any, prompt: Any = None, task: Any = None) -> dict[str, torch.Tensor]:
        return {"places": torch.tensor([[int(text) for text in pair] for pair in pairs])}

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = self.given[features["places"][:, 0], features["places"][:, 1]]
        return {"scores": found.reshape(len(found), -1)}


def given(ragged: Ragged) -> GivenLogits:
    """A model of the groups' logits, in float32."""
    return GivenLogits(padded(ragged)[0])


def of_lists(loss: Any, ragged: Ragged) -> torch.Tensor:
    """Loss of queries, each with a list of documents."""
    queries = [str(row) for row in range(len(ragged.labels))]
    documents = [[str(place) for place in range(len(labels))] for labels in ragged.labels]
    return loss([queries, documents], [torch.tensor(labels) for labels in ragged.labels])


def of_pairs(loss: Any, ragged: Ragged, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Loss of single pairs."""
    places = [(str(row), str(place)) for row, labels in enumerate(ragged.labels) for place in range(len(labels))]
    columns = [list(column) for column in zip(*places, strict=True)]
    return loss(columns, torch.tensor(np.concatenate(ragged.labels)).to(dtype))


def assert_same(loss: Loss, ragged: Ragged, model: GivenLogits, theirs: torch.Tensor, ours: str = "mean") -> None:
    """The two values and their gradients are equal; ours is the "mean" or the "sum" over the units."""
    logits, labels, mask = padded(ragged)
    value = getattr(loss(logits, labels, mask), ours)()
    np.testing.assert_allclose(value.item(), theirs.item(), rtol=1e-5, atol=1e-6)
    # by `backward`, in whose hooks their cached loss does its work
    model.given.grad = None
    value.backward()
    theirs.backward()
    np.testing.assert_allclose(logits.grad.numpy(), model.given.grad.numpy(), rtol=1e-4, atol=1e-6)
