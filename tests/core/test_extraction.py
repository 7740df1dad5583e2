"""Rules of `secondpass.extraction`."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput, NonFiniteScore
from secondpass.extraction import extract, sentences
from secondpass.windows import Windows

ASPIRIN = "Aspirin is sold in every pharmacy. It relieves pain and lowers fever. The tablets were first made in 1899."
MUNICH = "Munich is in Bavaria. Its people like beer. About 1.5 million people live there."


@pytest.fixture(scope="module")
def pocket() -> CrossEncoder:
    """Load the embedded model, which knows what it reads."""
    return CrossEncoder("secondpass/pocket", device="cpu")


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("does aspirin lower a fever", "It relieves pain and lowers fever."),
        ("do the people of Munich like beer", "Its people like beer."),
    ],
)
def test_a_sentence_that_needs_the_one_before_it_is_found(pocket: CrossEncoder, query: str, answer: str) -> None:
    """By itself it does not say of what it speaks; the place is that of the sentence alone."""
    documents = [ASPIRIN, MUNICH]
    best = extract(pocket, query, documents).extracts[0]
    assert documents[best.document][best.span.start : best.span.end] == answer


def test_of_a_long_document_only_the_best_windows_sentences_are_read(pocket: CrossEncoder) -> None:
    """What has too many sentences is answered; what fits is answered as without windows."""
    filler = " ".join(f"The {number}th visitor saw a bridge, a mill and the old town." for number in range(60))
    documents = ["", MUNICH, f"{filler} {ASPIRIN} {filler}"]
    query, wanted = "does aspirin lower a fever", "It relieves pain and lowers fever."
    with pytest.raises(InvalidInput, match="documents have 66 sentences, more than max_sentences=50"):
        extract(pocket, query, documents, max_sentences=50)
    found = extract(pocket, query, documents, max_sentences=50, top_k=1, windows=Windows(tokens=150))
    (best,) = found.extracts
    assert (best.document, documents[2][best.span.start : best.span.end]) == (2, wanted)
    assert found.record is not None
    assert 2 * 50 > found.record.pairs > 10
    short, per_document = [ASPIRIN, MUNICH], {"per_document": 1, "top_k": 2}
    for options in ({"top_k": 9}, per_document):
        every = extract(pocket, query, short, **options)  # type: ignore[arg-type]
        assert extract(pocket, query, short, windows=Windows(), **options).extracts == every.extracts  # type: ignore[arg-type]
    assert extract(pocket, query, ["", " \n"], windows=Windows()).record is None
    with pytest.raises(InvalidInput, match="query is blank"):
        extract(pocket, " ", short, windows=Windows())


def test_a_model_that_refuses_to_cut_reads_its_windows(tiny_model_folder: Callable[..., str]) -> None:
    """A passage by itself begins with other tokens than inside the document, one more perhaps."""
    strict = CrossEncoder(tiny_model_folder("xlm-roberta", 1), device="cpu", max_length=26, truncation="error")
    document = "".join(f"the{number}東。" for number in range(40))
    assert extract(strict, "cat", [document], windows=Windows(borders="words", overlap=0)).extracts


def test_scores_are_activated_logits_and_fall(pocket: CrossEncoder) -> None:
    """The logit is the mean of both readings; the score is the model's own activation of it."""
    found = extract(pocket, "does aspirin lower a fever", [ASPIRIN], top_k=9).extracts
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
    [
        ({"top_k": 0}, "top_k"),
        ({"per_document": 0}, "per_document"),
        ({"max_sentences": 1}, "2 sentences"),
        ({"windows": "windows"}, "windows='windows' is not a Windows"),
        ({"activation_fct": "sigmoid"}, "activation_fct is str"),
    ],
)
def test_bad_arguments_are_named(tiny: CrossEncoder, arguments: dict[str, Any], message: str) -> None:
    """Rather than computing for minutes or returning nothing."""
    for texts in (["A cat. A dog."], *([[""]] if "max_sentences" not in arguments else [])):
        with pytest.raises(InvalidInput, match=message):
            extract(tiny, "dog", texts, **arguments)


def test_nan_is_never_an_answer(own_tiny: CrossEncoder) -> None:
    """A model that gives NaN is refused, as in ranking."""
    with torch.no_grad():
        own_tiny.model.classifier.bias.fill_(float("nan"))
    with pytest.raises(NonFiniteScore):
        extract(own_tiny, "dog", ["A cat. A dog."])


def split(text: str, longest: int = 1000) -> list[str]:
    """Give the texts of the sentences."""
    return [text[span.start : span.end] for span in sentences(text, longest)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("Dr. Smith paid $3.50 to Mrs. Jones. He left.", ["Dr. Smith paid $3.50 to Mrs. Jones.", "He left."]),
        ("J. R. Hartley wrote it. See Fig. 3 and No. 7.", ["J. R. Hartley wrote it.", "See Fig. 3 and No. 7."]),
        ("The U.S. Army came. It left at 5 p.m. sharp.", ["The U.S. Army came.", "It left at 5 p.m. sharp."]),
        ('"Really?" she asked. "Yes."', ['"Really?" she asked.', '"Yes."']),
        ("He wrote... many books. Done.", ["He wrote... many books.", "Done."]),
        ("A title\n\nThe text begins.", ["A title", "The text begins."]),
        ("Steps:\n1. Open it.\n2. Click.\n- a\n- b", ["Steps:", "1. Open it.", "2. Click.", "- a", "- b"]),
        ("今日は。明日も！「はい。」と言う。", ["今日は。", "明日も！", "「はい。」", "と言う。"]),
        ("no full stop\nand a line break", ["no full stop\nand a line break"]),
    ],
)
def test_where_sentences_end(text: str, expected: list[str]) -> None:
    """Abbreviations, initials, numbers and quotations do not end one; lists, blank lines and CJK marks do."""
    assert split(text) == expected


@pytest.mark.parametrize("text", ["", " \n\t", "\u00a0"])
def test_nothing_visible_is_no_sentence(text: str) -> None:
    """There is nothing to read."""
    assert sentences(text) == []


@given(st.text(alphabet=st.sampled_from("aB1 .!?\n-\u3002\u2019)"), max_size=80), st.integers(1, 20))
def test_every_visible_character_is_in_one_sentence(text: str, longest: int) -> None:
    """In order, once, without white space at the ends, and never longer than asked."""
    spans = sentences(text, longest)
    assert "".join("".join(split(text, longest)).split()) == "".join(text.split())
    assert all(left.end <= right.start for left, right in pairwise(spans))
    assert all(0 < span.end - span.start <= longest for span in spans)
    assert all(part == part.strip() for part in split(text, longest))


def test_running_text_comes_in_pieces_at_white_space() -> None:
    """A log or table without a full stop must not be one sentence of a megabyte."""
    assert split("aaa bbb ccc ddd", 8) == ["aaa bbb", "ccc ddd"]
    assert split("a" * 20, 8) == ["a" * 8, "a" * 8, "a" * 4]


@pytest.mark.parametrize("text", [".", ")", ".'", "\n ", "1.", "。", " "])
def test_the_cost_is_linear_whatever_the_text(text: str) -> None:
    """A line of dots is no trap: by the square of its length it would take far longer."""
    whole = text * 20_000 + "x"
    began = time.process_time()
    spans = sentences(whole)
    assert time.process_time() - began < 3
    assert sum(span.end - span.start for span in spans) >= len("".join(whole.split()))


def test_a_length_below_one_is_refused() -> None:
    """It would never end."""
    with pytest.raises(InvalidInput, match="longest=0"):
        sentences("a", 0)
