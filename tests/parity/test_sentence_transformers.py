"""The same weights give the same answers as in sentence-transformers, where that keeps the seed's contract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModel

from secondpass import CrossEncoder
from tests.parity.test_transformers import ARCHITECTURES, LENGTHS, _pairs
from tests.tiny_models import ROUNDING
from tests.toy_task import same, state

sentence_transformers = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

QUERY = "what is the capital city of france"
DOCUMENTS = [
    "paris is the capital of france",
    "the cat sat on the mat",
    "france is a country",
    "the cat sat on the mat",
    "london " * 150,
    "a",
]


def _both(folder: str, **kwargs: Any) -> tuple[CrossEncoder, Any]:
    return CrossEncoder(folder, device="cpu", **kwargs), sentence_transformers.CrossEncoder(
        folder, device="cpu", **kwargs
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("num_labels", [1, 3])
def test_predict_is_equal(tiny_model_folder: Callable[..., str], architecture: str, num_labels: int) -> None:
    """Default activation of one and of several labels."""
    ours, theirs = _both(tiny_model_folder(architecture, num_labels), max_length=64)
    pairs = _pairs(LENGTHS)
    assert np.allclose(ours.predict(pairs), theirs.predict(pairs), rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("top_k", [None, 2, 50])
def test_rank_is_equal(tiny_model_folder: Callable[..., str], architecture: str, top_k: int | None) -> None:
    """Order, keys and scores; equal documents tie in the given order, which there depends on the processor."""
    ours, theirs = _both(tiny_model_folder(architecture, 1))
    mine = ours.rank(QUERY, DOCUMENTS, top_k=top_k, return_documents=True)
    other = theirs.rank(QUERY, DOCUMENTS, top_k=top_k, return_documents=True)
    given = {text: iter([place for place, one in enumerate(DOCUMENTS) if one == text]) for text in DOCUMENTS}
    expected = [(next(given[hit["text"]]), hit["text"]) for hit in other]
    assert [(hit["corpus_id"], hit["text"]) for hit in mine] == expected
    assert [list(hit) for hit in mine] == [["corpus_id", "score", "text"]] * len(mine)
    assert [hit["score"] for hit in mine] == pytest.approx([hit["score"] for hit in other], abs=1e-5)


@pytest.mark.parametrize("options", [{}, {"convert_to_tensor": True}, {"convert_to_numpy": False}])
@pytest.mark.parametrize("num_labels", [1, 3])
@pytest.mark.parametrize("single", [False, True])
def test_types_and_shapes_are_equal(
    tiny_model_folder: Callable[..., str], options: dict[str, bool], num_labels: int, single: bool
) -> None:
    """Array, tensor or list of tensors; scalar or row for a single pair."""
    ours, theirs = _both(tiny_model_folder("bert", num_labels))
    pairs: Any = ("the cat", "the mat") if single else [("the cat", "the mat"), ("a dog", "a river")]
    mine, other = ours.predict(pairs, **options), theirs.predict(pairs, **options)
    assert type(mine) is type(other)
    assert np.shape(mine) == np.shape(other)
    if isinstance(mine, list):
        assert [type(item) for item in mine] == [type(item) for item in other]
    else:
        assert mine.dtype == other.dtype


def test_softmax_and_activation_are_equal(tiny_model_folder: Callable[..., str]) -> None:
    """Softmax comes after the activation, over several labels only."""
    ours, theirs = _both(tiny_model_folder("bert", 3))
    pairs = _pairs(LENGTHS)
    for activation in (nn.Identity(), nn.Tanh()):
        mine = ours.predict(pairs, activation_fct=activation, apply_softmax=True)
        other = theirs.predict(pairs, activation_fn=activation, apply_softmax=True)
        assert np.allclose(mine, other, atol=1e-5)
        assert np.allclose(mine.sum(axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("activation", [nn.Identity(), nn.Sigmoid(), nn.Tanh()])
def test_a_model_we_save_scores_the_same_there(
    tiny_model_folder: Callable[..., str], tmp_path: Path, activation: nn.Module
) -> None:
    """The activation travels in every generation's place."""
    ours = CrossEncoder(tiny_model_folder("bert", 1), device="cpu", default_activation_function=activation)
    ours.save(str(tmp_path))
    theirs = sentence_transformers.CrossEncoder(str(tmp_path), device="cpu")
    again = CrossEncoder(str(tmp_path), device="cpu")
    pairs = _pairs(LENGTHS)
    assert np.allclose(ours.predict(pairs), theirs.predict(pairs), atol=1e-5)
    assert same(state(ours), state(again))
    assert np.allclose(ours.predict(pairs), again.predict(pairs), rtol=0, atol=ROUNDING)


def test_a_model_they_save_scores_the_same_here(tiny_model_folder: Callable[..., str], tmp_path: Path) -> None:
    """The third storage generation is read."""
    theirs = sentence_transformers.CrossEncoder(
        tiny_model_folder("roberta", 1), device="cpu", activation_fn=nn.Identity()
    )
    theirs.save_pretrained(str(tmp_path))
    ours = CrossEncoder(str(tmp_path), device="cpu")
    assert isinstance(ours.default_activation_function, torch.nn.Identity)
    assert np.allclose(ours.predict(_pairs(LENGTHS)), theirs.predict(_pairs(LENGTHS)), atol=1e-5)


def test_a_recommended_precision_survives_both_ways(tiny_model_folder: Callable[..., str], tmp_path: Path) -> None:
    """sentence-transformers reads a config with our key, scores the same, and saves the key again."""
    ours = CrossEncoder(tiny_model_folder("bert", 1), device="cpu")
    ours.config.secondpass = {"precision": "auto"}
    ours.save(str(tmp_path / "ours"))
    theirs = sentence_transformers.CrossEncoder(str(tmp_path / "ours"), device="cpu")
    theirs.save_pretrained(str(tmp_path / "theirs"))
    again = CrossEncoder(str(tmp_path / "theirs"), device="cpu")
    assert again.precision == "auto"
    pairs = _pairs(LENGTHS)
    assert np.allclose(ours.predict(pairs), theirs.predict(pairs), rtol=0, atol=1e-5)
    assert np.allclose(again.predict(pairs), theirs.predict(pairs), rtol=0, atol=1e-5)


def test_of_the_embedded_model_they_have_the_encoder(tmp_path: Path) -> None:
    """They refuse its comparison by name; its states are the same in transformers."""
    ours = CrossEncoder("secondpass/pocket", device="cpu", precision="fp32")
    ours.save(str(tmp_path))
    with pytest.raises(ValueError, match=r"module class .secondpass\.forwards\.readout\.LateInteraction'"):
        sentence_transformers.CrossEncoder(str(tmp_path), device="cpu")
    body = AutoModel.from_pretrained(tmp_path, add_pooling_layer=False).eval()
    read = ours.tokenizer("eggs boil for nine minutes", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(body(**read).last_hidden_state, ours.model.base_model(**read).last_hidden_state)
    assert CrossEncoder(str(tmp_path), device="cpu").precision == "auto"
