"""Documents cut by tokens ahead of the model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput
from secondpass.serving.document_cuts import DocumentCutter
from tests.tiny_models import ARCHITECTURES, LENGTH


@pytest.fixture(scope="module", params=ARCHITECTURES)
def encoder(request: pytest.FixtureRequest, tiny_model_folder: Callable[..., str]) -> CrossEncoder:
    """Each kind of tokenizer."""
    return CrossEncoder(tiny_model_folder(request.param), device="cpu")


def test_the_first_tokens_are_kept(tiny: CrossEncoder) -> None:
    """What fits is left alone, what is cut is told."""
    cut = DocumentCutter(tiny).to_tokens(["the cat sat on the mat", "a dog", ""], 3)
    assert cut.documents == ("the cat sat", "a dog", "")
    ((index, lost),) = [(one.index, one.document_tokens) for one in cut.cuts]
    assert (index, lost) == (0, 3)


def test_either_end_fits_beside_the_query(encoder: CrossEncoder) -> None:
    """Afterwards the model cuts nothing, and the end asked for is there."""
    cutter = DocumentCutter(encoder)
    document = " ".join(["first", *["the cat sat"] * 200, "last"])
    for keep_tail in (True, False):
        cut = cutter.from_side(["who sat"], [document], keep_tail)
        (tokens,) = encoder.tokens(["who sat"], cut.documents)
        assert tokens.cut is None
        assert LENGTH - 4 <= len(tokens) <= LENGTH
        assert cut.documents[0].strip().endswith("last") == keep_tail
        assert cut.documents[0].strip().startswith("first") != keep_tail
        assert cut.cuts[0].document_tokens > 0


def test_a_query_that_fills_the_window_is_refused(tiny: CrossEncoder) -> None:
    """There is nothing left to cut a document to."""
    with pytest.raises(InvalidInput, match="document 1 fills the window of 128"):
        DocumentCutter(tiny).from_side(["cat", "cat " * 500], ["a", "b"], True)


def test_an_enormous_document_is_not_tokenised_whole(tiny: CrossEncoder) -> None:
    """The characters beyond the ceiling are counted as lost."""
    cut = DocumentCutter(tiny).from_side(["cat"], ["dog " * 500_000 + "mat"], True)
    assert cut.documents[0].endswith("dog mat")
    assert cut.cuts[0].characters > 1_900_000


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=some.text(alphabet=some.characters(codec="utf-8"), max_size=60), most=some.integers(1, 12))
def test_no_text_has_more_tokens_than_asked(encoder: CrossEncoder, text: str, most: int) -> None:
    """Any Unicode, any tokenizer."""
    cutter = DocumentCutter(encoder)
    (kept,) = cutter.to_tokens([text], most).documents
    assert cutter._length(kept) <= most
    assert text.startswith(kept)
