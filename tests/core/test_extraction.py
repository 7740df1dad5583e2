"""Rules of `secondpass.extraction`."""

from __future__ import annotations

import pytest
import torch

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput, NonFiniteScore
from secondpass.extraction import extract

BERLIN = "Berlin is the capital of Germany. It had 3.7 million inhabitants in 2023. The city is known for its museums."
MUNICH = "Munich is in Bavaria. Its people like beer. About 1.5 million people live there."


@pytest.fixture(scope="module")
def pocket() -> CrossEncoder:
    """Load the embedded model, which knows what it reads."""
    return CrossEncoder("secondpass/pocket", device="cpu")


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("how many people live in Berlin", "It had 3.7 million inhabitants in 2023."),
        ("what do people in Bavaria drink", "Its people like beer."),
    ],
)
def test_a_sentence_that_needs_the_one_before_it_is_found(pocket: CrossEncoder, query: str, answer: str) -> None:
    """By itself it does not say of what it speaks; the place is that of the sentence alone."""
    documents = [BERLIN, MUNICH]
    best = extract(pocket, query, documents).extracts[0]
    assert documents[best.document][best.span.start : best.span.end] == answer


def test_scores_are_activated_logits_and_fall(pocket: CrossEncoder) -> None:
    """The logit is the mean of both readings; the score is the model's own activation of it."""
    found = extract(pocket, "how many people live in Berlin", [BERLIN], top_k=9).extracts
    logits = torch.tensor([item.logit for item in found])
    assert len(found) == 3
    assert logits.tolist() == sorted(logits.tolist(), reverse=True)
    assert torch.allclose(torch.sigmoid(logits), torch.tensor([item.score for item in found]), atol=1e-6)


def test_equal_sentences_are_one_and_documents_may_be_limited(tiny: CrossEncoder) -> None:
    """The first place stands; `per_document` leaves room for others."""
    documents = ["A cat sat. A dog sat.", "A dog sat. The river.", ""]
    every = extract(tiny, "dog", documents, top_k=10).extracts
    assert sorted((item.document, item.span.start) for item in every) == [(0, 0), (0, 11), (1, 11)]
    one_each = extract(tiny, "dog", documents, top_k=10, per_document=1).extracts
    assert sorted(item.document for item in one_each) == [0, 1]
    assert len(extract(tiny, "dog", documents, top_k=1).extracts) == 1


def test_without_text_there_is_no_answer(tiny: CrossEncoder) -> None:
    """No model is asked."""
    nothing = extract(tiny, "dog", ["", " \n"])
    assert (nothing.extracts, nothing.record) == ((), None)
    assert extract(tiny, "dog", []).extracts == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"top_k": 0}, "top_k"), ({"per_document": 0}, "per_document"), ({"max_sentences": 1}, "2 sentences")],
)
def test_bad_arguments_are_named(tiny: CrossEncoder, arguments: dict[str, int], message: str) -> None:
    """Rather than computing for minutes or returning nothing."""
    with pytest.raises(InvalidInput, match=message):
        extract(tiny, "dog", ["A cat. A dog."], **arguments)


def test_nan_is_never_an_answer(own_tiny: CrossEncoder) -> None:
    """A model that gives NaN is refused, as in ranking."""
    with torch.no_grad():
        own_tiny.model.classifier.bias.fill_(float("nan"))
    with pytest.raises(NonFiniteScore):
        extract(own_tiny, "dog", ["A cat. A dog."])
