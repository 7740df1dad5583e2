"""Rules of `secondpass.cuts`: what is read of a pair that is too long, for every way to ask."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from secondpass import CrossEncoder, Cut
from secondpass.cuts import CutPolicy, policy_of
from secondpass.errors import InvalidInput, TooLong
from tests.tiny_models import ARCHITECTURES, LENGTH


@pytest.fixture(scope="module", params=ARCHITECTURES)
def encoder(request: pytest.FixtureRequest, tiny_model_folder: Callable[..., str]) -> CrossEncoder:
    """Each kind of tokenizer."""
    return CrossEncoder(tiny_model_folder(request.param), device="cpu")


def own_ids(encoder: CrossEncoder, text: str) -> list[int]:
    """Give the ids of a text by itself."""
    ids: list[int] = encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def test_the_first_tokens_of_documents_are_read(tiny: CrossEncoder) -> None:
    """What fits is left alone, what is cut is told; a wish as large as the window has no effect."""
    documents = ["the cat sat on the mat", "a dog", ""]
    made = tiny.tokens(["cat"] * 3, documents, cut=CutPolicy(max_document_tokens=3))
    short = tiny.tokens(["cat"] * 3, ["the cat sat", "a dog", ""])
    assert [tokens.ids.tolist() for tokens in made] == [tokens.ids.tolist() for tokens in short]
    assert [tokens.cut for tokens in made] == [Cut(0, 0, 3), None, None]
    (whole,) = tiny.tokens(["cat"], documents[:1], cut=CutPolicy(max_document_tokens=LENGTH))
    assert whole.cut is None


def test_the_wish_and_the_window_cut_one_after_the_other(tiny: CrossEncoder) -> None:
    """One record says what both took."""
    (made,) = tiny.tokens(["cat " * 100], ["mat " * 200], cut=CutPolicy("only_document", max_document_tokens=90))
    assert len(made) == LENGTH
    assert made.cut == Cut(0, 38, 137)


@pytest.mark.parametrize("keep_tail", [True, False])
def test_either_end_is_read_beside_the_query(encoder: CrossEncoder, keep_tail: bool) -> None:
    """The end asked for fills the window; the query is whole."""
    document = " ".join(["order", *["the cat sat"] * 200, "river"])
    (made,) = encoder.tokens(["where cat sat"], [document], cut=CutPolicy(keep_tail=keep_tail))
    query, ids = own_ids(encoder, "where cat sat"), own_ids(encoder, document)
    (empty,) = encoder.tokens(["where cat sat"], [""])
    room = LENGTH - len(empty)
    kept = ids[-room:] if keep_tail else ids[:room]
    assert " ".join(map(str, kept)) in " ".join(map(str, made.ids.tolist()))
    assert " ".join(map(str, query)) in " ".join(map(str, made.ids.tolist()))
    assert len(made) == LENGTH
    assert made.cut == Cut(0, 0, len(ids) - room)


def test_a_query_that_fills_the_window_is_cut_as_the_model_cuts(tiny: CrossEncoder) -> None:
    """The end that is asked for says which end goes, not which text."""
    long = ["cat " * 500], ["mat " * 500]
    (made,) = tiny.tokens(*long, cut=CutPolicy(keep_tail=True))
    (own,) = tiny.tokens(*long)
    assert made.cut == own.cut == Cut(0, 438, 437)


def test_an_enormous_document_is_read_from_the_end_that_counts(tiny: CrossEncoder) -> None:
    """The characters beyond the ceiling are counted as lost."""
    document = "dog " * 500_000 + "mat"
    (made,) = tiny.tokens(["cat"], [document], cut=CutPolicy(keep_tail=True))
    assert tiny.tokenizer.convert_ids_to_tokens(made.ids)[-3:] == ["dog", "mat", "[SEP]"]
    assert made.cut is not None
    assert made.cut.characters > 1_900_000
    (first,) = tiny.tokens(["cat"], ["mat " + document], cut=CutPolicy(keep_tail=True, max_document_tokens=2))
    assert tiny.tokenizer.convert_ids_to_tokens(first.ids)[-3:] == ["mat", "dog", "[SEP]"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=some.text(alphabet=some.characters(codec="utf-8"), max_size=60), most=some.integers(1, 12))
def test_no_document_has_more_tokens_than_asked(encoder: CrossEncoder, text: str, most: int) -> None:
    """Any Unicode, any tokenizer."""
    whole, made = (
        tokens[0]
        for tokens in (
            encoder.tokens(["a"], [text]),
            encoder.tokens(["a"], [text], cut=CutPolicy(max_document_tokens=most)),
        )
    )
    empty = len(encoder.tokens(["a"], [""])[0])
    assert len(made) == min(len(whole), empty + most)
    assert (made.cut.document_tokens if made.cut else 0) == len(whole) - len(made)


def test_refusing_names_all_pairs_that_would_be_cut(own_tiny: CrossEncoder) -> None:
    """The message tells of the first; a copy of the error, as between processes, has both."""
    own_tiny.max_length = 16
    with pytest.raises(TooLong, match=r"^pair 1 has 34 tokens, 18 more than fit$") as refused:
        own_tiny.tokens(["cat"] * 4, ["a", "mat " * 30, "b", "mat " * 31], cut=CutPolicy("error"))
    assert refused.value.indices == (1, 3)
    again = copy.deepcopy(refused.value)
    assert (str(again), again.indices) == (str(refused.value), (1, 3))


def test_a_head_that_was_asked_for_is_not_refused(own_tiny: CrossEncoder) -> None:
    """Only what the window takes beyond it."""
    own_tiny.max_length = 16
    long = ["mat " * 100_000]
    (made,) = own_tiny.tokens(["cat"], long, cut=CutPolicy("error", max_document_tokens=5))
    assert len(made) == 9
    with pytest.raises(TooLong):
        own_tiny.tokens(["cat " * 9], long, cut=CutPolicy("error", max_document_tokens=5))


def test_a_name_stands_for_the_plain_policy() -> None:
    """What is no policy is refused by name."""
    assert policy_of("only_document") == CutPolicy("only_document")
    assert policy_of(CutPolicy(keep_tail=True)) == CutPolicy(keep_tail=True)
    with pytest.raises(InvalidInput, match="truncation='longest' is none of longest_first, only_document, error"):
        policy_of("longest")  # type: ignore[arg-type]
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(InvalidInput, match="max_document_tokens"):
            CutPolicy(max_document_tokens=wrong)  # type: ignore[arg-type]


def test_a_policy_changes_no_call_but_its_own(own_tiny: CrossEncoder) -> None:
    """It is given with the call: the model keeps its own."""
    before = own_tiny.tokens(["cat"], ["mat " * 200 + "dog"])[0]
    own_tiny.tokens(["cat"], ["mat " * 200 + "dog"], cut=CutPolicy(keep_tail=True))
    after = own_tiny.tokens(["cat"], ["mat " * 200 + "dog"])[0]
    assert np.array_equal(before.ids, after.ids)
