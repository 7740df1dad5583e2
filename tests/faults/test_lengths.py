"""Rows 9 to 14 of the fault table: texts that are too long, and too many of them."""

from __future__ import annotations

import logging
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest

from secondpass import CallRecord, CrossEncoder, Cut
from secondpass.errors import InvalidInput
from secondpass.text import CHARACTERS_PER_TOKEN, Text
from secondpass.tokens import PairTokenizer
from tests.model_spy import before_forward, inputs_read, not_reached
from tests.tiny_models import LENGTH, WORDS, make_folder

QUERY = "how to reset the password"


def calls(encoder: CrossEncoder, query: Any, documents: Any) -> list[Callable[[], Any]]:
    """Give the ways to score `documents` for `query`."""
    return [
        lambda: encoder.rank(query, documents),
        lambda: encoder.rank_many([query], [documents]),
    ]


def test_row_09_a_long_document_loses_its_tail_on_record(own_tiny: CrossEncoder) -> None:
    """The query is read whole, the document up to the window, and the record says what it lost."""
    own_tiny.max_length = 24
    long = " ".join(WORDS[:40])
    records: list[CallRecord] = []
    with inputs_read(own_tiny) as read:
        own_tiny.rank(QUERY, ["cat", long], records=records)
    question = own_tiny.tokenizer(QUERY, add_special_tokens=False)["input_ids"]
    words = own_tiny.tokenizer(long, add_special_tokens=False)["input_ids"]
    room = 24 - 3 - len(question)
    assert max(read, key=len)[1:-1] == [*question, own_tiny.tokenizer.sep_token_id, *words[:room]]
    assert records[0].truncated == (Cut(1, 0, len(words) - room),)


def test_row_09_rank_many_tells_which_document_of_which_query_was_cut(own_tiny: CrossEncoder) -> None:
    """Each ranking counts in its own documents, the shared record through all pairs."""
    own_tiny.max_length = 16
    first, second = own_tiny.rank_many(["cat", "dog"], [["a", "b"], ["c", "mat " * 30]])
    assert first.truncated == ()
    assert second.truncated == (Cut(1, 0, 18),)
    assert first.record.truncated == second.record.truncated == (Cut(3, 0, 18),)


def test_row_10_a_long_query_leaves_room_for_the_document(own_tiny: CrossEncoder) -> None:
    """By default the longer text loses; either way the document is read, and the loss is on record."""
    own_tiny.max_length = 23
    lost = {}
    for own_tiny.truncation in ("longest_first", "only_document"):
        records: list[CallRecord] = []
        own_tiny.predict([("cat " * 60, "mat " * 30), ("cat " * 60, "mat")], records=records)
        lost[own_tiny.truncation] = records[0].truncated
    assert lost["longest_first"] == (Cut(0, 50, 20), Cut(1, 41, 0))
    assert lost["only_document"] == (Cut(0, 50, 20), Cut(1, 41, 0))


def test_row_10_cutting_the_document_only_keeps_a_query_of_half_the_window(own_tiny: CrossEncoder) -> None:
    """A query of up to half the window loses nothing, however long the document is."""
    own_tiny.max_length = 23
    for own_tiny.truncation, query_loss in (("longest_first", 0), ("only_document", 0)):
        records: list[CallRecord] = []
        own_tiny.predict([("cat " * 10, "mat " * 30)], records=records)
        assert records[0].truncated == (Cut(0, query_loss, 20),)


@pytest.mark.parametrize("call", [0, 1])
def test_row_11_asked_to_refuse_nothing_is_cut(own_tiny: CrossEncoder, call: int) -> None:
    """The error names the pair and its tokens, before the model reads anything."""
    own_tiny.max_length, own_tiny.truncation = 16, "error"
    with before_forward(own_tiny, not_reached), pytest.raises(InvalidInput, match="pair 2 has 34 tokens, 18 more"):
        calls(own_tiny, "cat", ["mat", "dog", "mat " * 30])[call]()
    assert len(own_tiny.rank("cat", ["mat", "mat " * 12])) == 2


def test_row_11_an_unknown_way_to_cut_is_refused(tiny_folder: str) -> None:
    """A typing mistake in the option is found when the model is loaded."""
    with pytest.raises(InvalidInput, match="truncation='longest' is none of longest_first, only_document, error"):
        CrossEncoder(tiny_folder, device="cpu", truncation="longest")  # type: ignore[arg-type]


def test_row_12_a_huge_document_is_not_tokenised_wholly(
    own_tiny: CrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 20 MB only what could fill the window is tokenised; the rest is counted in the record."""
    ceiling = CHARACTERS_PER_TOKEN * LENGTH
    tokenised: list[int] = []
    encode = PairTokenizer.encode

    def counted(self: PairTokenizer, texts: list[Text]) -> Iterator[Any]:
        tokenised.extend(len(text.value) for text in texts)
        return encode(self, texts)

    monkeypatch.setattr(PairTokenizer, "encode", counted)
    huge = "the cat sat on the mat " * 900_000
    records: list[CallRecord] = []
    ranked = own_tiny.rank("cat", ["mat", huge], records=records)
    assert sum(tokenised) <= ceiling + 10
    assert records[0].truncated[0].characters == len(huge.strip()) - ceiling
    assert records[0].truncated[0].index == 1
    capped = own_tiny.rank("cat", ["mat", huge[:ceiling]])
    assert [hit["score"] for hit in ranked] == [hit["score"] for hit in capped]


def test_row_12_a_huge_query_is_not_tokenised_wholly(tiny: CrossEncoder) -> None:
    """The ceiling holds for queries too."""
    records: list[CallRecord] = []
    tiny.rank("cat " * 1_000_000, ["mat"], records=records)
    assert records[0].truncated[0].characters == 3_999_999 - CHARACTERS_PER_TOKEN * LENGTH


def test_row_12_the_ceiling_spares_the_side_that_is_kept(tiny_folder: str) -> None:
    """A tokenizer that cuts on the left reads the end of a huge document too."""
    encoder = CrossEncoder(tiny_folder, device="cpu", tokenizer_args={"truncation_side": "left"})
    with inputs_read(encoder) as read:
        encoder.predict(("cat", "mat " * 100_000 + "dog"))
    assert encoder.tokenizer.convert_ids_to_tokens(read[0])[-3:] == ["mat", "dog", "[SEP]"]


def test_row_12_refusing_counts_the_characters_too(own_tiny: CrossEncoder) -> None:
    """A text beyond the ceiling is an error where cutting is one."""
    own_tiny.truncation = "error"
    with pytest.raises(InvalidInput, match=r"pair 0 has \d+ tokens and \d+ characters more"):
        own_tiny.predict(("cat", "mat " * 100_000))


def test_row_13_more_documents_than_allowed_are_refused(tiny_folder: str) -> None:
    """`max_documents` bounds one query's documents; without it there is no limit, as in the seed."""
    encoder = CrossEncoder(tiny_folder, device="cpu", max_documents=3)
    assert len(encoder.rank("cat", ["mat"] * 3)) == 3
    with before_forward(encoder, not_reached):
        with pytest.raises(InvalidInput, match=r"^documents has 4, more than max_documents=3$"):
            encoder.rank("cat", ["mat"] * 4)
        with pytest.raises(InvalidInput, match=r"^documents_per_query\[1\] has 4, more than max_documents=3$"):
            encoder.rank_many(["cat", "cat"], [["mat"], ["mat"] * 4])


def test_row_13_many_documents_are_scored_in_bounded_memory(own_tiny: CrossEncoder) -> None:
    """Twenty thousand different short documents: all ranked, and less than 4 kB each at the peak."""
    documents = [" ".join(words) for words in product(WORDS[:28], repeat=3)][:20_000]
    own_tiny.max_batch_tokens = 8192
    tracemalloc.start()
    try:
        ranked = own_tiny.rank("cat", documents, batch_size=4096)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sorted(hit["corpus_id"] for hit in ranked) == list(range(20_000))
    assert peak / 20_000 < 4096


@pytest.mark.parametrize("architecture", ["bert", "roberta", "modernbert"])
def test_row_14_a_tokenizer_without_a_limit_takes_the_models(tmp_path: Any, architecture: str) -> None:
    """`model_max_length` of 1e30 does not reach the position table: long documents are cut to what it holds."""
    folder = make_folder(tmp_path, architecture, tokenizer_options={"model_max_length": int(1e30)})
    encoder = CrossEncoder(str(folder), device="cpu")
    with inputs_read(encoder) as read:
        encoder.predict(("cat", "mat " * 500))
    assert len(read[0]) == LENGTH


def test_row_14_a_wish_beyond_the_models_limit_is_cut_with_one_warning(
    tiny_folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A longer `max_length` than the position table holds is lowered, and said once."""
    with caplog.at_level(logging.WARNING, logger="secondpass"):
        encoder = CrossEncoder(tiny_folder, max_length=1234, device="cpu")
        with inputs_read(encoder) as read:
            encoder.predict(("cat", "mat " * 500))
            encoder.predict(("cat", "mat " * 500))
    assert [len(ids) for ids in read] == [LENGTH, LENGTH]
    assert [record.getMessage() for record in caplog.records] == [
        f"max_length=1234 is more than the model can read: {LENGTH} is used"
    ]
