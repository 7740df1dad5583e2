"""Our stages give the logits of transformers' own tokenizer and forward, for every supported architecture."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from secondpass import CrossEncoder

ARCHITECTURES = ("bert", "roberta", "xlm-roberta", "distilbert", "electra", "modernbert", "deberta-v2")
WORDS = "the river in paris is long and cold what book to read on a small train new water garden".split()


def _pairs(lengths: tuple[int, ...]) -> list[tuple[str, str]]:
    """One pair per length, with documents of that many words, in no particular order."""
    return [
        (
            " ".join(WORDS[: 2 + number % 9]),
            " ".join(WORDS[(number * 7 + place) % len(WORDS)] for place in range(length)),
        )
        for number, length in enumerate(lengths)
    ]


LENGTHS = (1, 40, 3, 17, 90, 0, 8, 200, 25, 2, 60, 11)


def _reference(folder: str, pairs: list[tuple[str, str]], max_length: int, dtype: torch.dtype) -> torch.Tensor:
    """One pair at a time: no padding that could hide a mistake in masks."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    logits = []
    with torch.inference_mode():
        for query, document in pairs:
            inputs = tokenizer(
                [query], [document], truncation="longest_first", max_length=max_length, return_tensors="pt"
            )
            logits.append(model(**inputs).logits[0].float())
    return torch.stack(logits)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("num_labels", [1, 3])
@pytest.mark.parametrize(("batch_size", "max_length"), [(1, 128), (5, 128), (32, 128), (32, 24)])
def test_float32_logits_equal_transformers(
    tiny_model_folder: Callable[..., str], architecture: str, num_labels: int, batch_size: int, max_length: int
) -> None:
    """Within 1e-5, of large logits 3e-6 of the largest, for mixed lengths, any batch size, cut or not.

    That is what float32 leaves open: of logits of 7 transformers' own and ours are both 6e-6 away from float64's.
    """
    folder = tiny_model_folder(architecture, num_labels)
    pairs = _pairs(LENGTHS)
    encoder = CrossEncoder(folder, max_length=max_length, device="cpu")
    ours = encoder.predict(pairs, batch_size, activation_fct=nn.Identity(), convert_to_tensor=True)
    expected = _reference(folder, pairs, encoder.window, torch.float32)
    near = max(1e-5, 3e-6 * float(expected.abs().max()))
    assert torch.allclose(ours.reshape(len(pairs), -1), expected, rtol=0, atol=near)
    assert expected.std(dim=0).min() > 1e-2, "a model that answers the same to everything proves nothing"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float64, 1e-5)])
def test_other_dtypes_equal_transformers_within_their_precision(
    tiny_model_folder: Callable[..., str], architecture: str, dtype: torch.dtype, tolerance: float
) -> None:
    """Logits come out in float32 whatever the weights compute in."""
    folder = tiny_model_folder(architecture, 1)
    pairs = _pairs(LENGTHS)
    encoder = CrossEncoder(folder, device="cpu", automodel_args={"dtype": dtype})
    ours = encoder.predict(pairs, activation_fct=nn.Identity(), convert_to_tensor=True)
    expected = _reference(folder, pairs, encoder.window, dtype)[:, 0]
    assert ours.dtype == torch.float32
    assert torch.allclose(ours, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_float16_equals_transformers_within_its_precision(
    tiny_model_folder: Callable[..., str], architecture: str
) -> None:
    """The same in float16."""
    folder = tiny_model_folder(architecture, 1)
    pairs = _pairs(LENGTHS)
    encoder = CrossEncoder(folder, device="cpu", automodel_args={"dtype": torch.float16})
    ours = encoder.predict(pairs, activation_fct=nn.Identity(), convert_to_tensor=True)
    expected = _reference(folder, pairs, encoder.window, torch.float16)[:, 0]
    assert torch.allclose(ours, expected, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_do_not_depend_on_batches_or_order(tiny_model_folder: Callable[..., str], architecture: str) -> None:
    """Shuffled, one at a time, or all together: within 1e-5."""
    encoder = CrossEncoder(tiny_model_folder(architecture, 1), device="cpu")
    pairs = _pairs(LENGTHS)
    together = encoder.predict(pairs)
    assert encoder.predict(pairs[::-1])[::-1] == pytest.approx(together, abs=1e-5)
    assert encoder.predict(pairs, batch_size=1) == pytest.approx(together, abs=1e-5)
    assert [encoder.predict(pair) for pair in pairs] == pytest.approx(together, abs=1e-5)
