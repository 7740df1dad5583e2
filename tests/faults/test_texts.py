"""Rows 1 to 17 of the fault table: what users put into queries and documents."""

from __future__ import annotations

import logging
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest

from secondpass import CallRecord, CrossEncoder, Cut
from secondpass.errors import InvalidInput
from secondpass.text import CHARACTERS_PER_TOKEN, Text
from secondpass.tokens import PairTokenizer
from tests.model_spy import before_forward, inputs_read, not_reached
from tests.tiny_models import ARCHITECTURES, LENGTH, WORDS, make_folder

QUERY = "how to reset the password"
DOCUMENTS = ["reset the password by email", "the cat sat on the mat", "a small house", "cold water"]
SPECIAL = ("[SEP]", "[CLS]", "[PAD]", "[UNK]", "[MASK]", "<s>", "</s>", "<pad>", "<unk>", "<mask>")


def calls(encoder: CrossEncoder, query: Any, documents: Any) -> list[Callable[[], Any]]:
    """Give the ways to score `documents` for `query`."""
    return [
        lambda: encoder.rank(query, documents),
        lambda: encoder.rank_many([query], [documents]),
    ]


def test_row_01_no_documents_give_an_empty_result_without_the_model(own_tiny: CrossEncoder) -> None:
    """Nothing to score: an empty array, an empty list, an empty ranking, and the model is not asked."""
    with before_forward(own_tiny, not_reached):
        scores = own_tiny.predict([])
        assert scores.shape == (0,)
        assert scores.dtype == np.float32
        assert own_tiny.rank(QUERY, []) == []
        assert own_tiny.rank_many([], []) == []
        ranking = own_tiny.rank_many([QUERY], [[]])[0]
    assert ranking.documents == ranking.truncated == ()
    assert ranking.record.pairs == 0


def test_row_01_a_query_without_documents_among_others(tiny: CrossEncoder) -> None:
    """An empty list between two others gives an empty ranking and moves nothing."""
    rankings = tiny.rank_many([QUERY, "cat", "water"], [DOCUMENTS, [], DOCUMENTS])
    assert [len(ranking.documents) for ranking in rankings] == [4, 0, 4]


@pytest.mark.parametrize(("wrong", "name"), [(None, "NoneType"), (3, "int"), (b"x", "bytes"), (["a"], "list")])
def test_row_02_a_document_that_is_no_str_is_refused_by_index(tiny: CrossEncoder, wrong: object, name: str) -> None:
    """The message names argument, index and type; nothing is turned into text."""
    documents = ["cat", wrong]
    with pytest.raises(InvalidInput, match=rf"^documents\[1\] is {name}, not str$"):
        tiny.rank(QUERY, documents)
    with pytest.raises(InvalidInput, match=rf"^documents_per_query\[1\]\[1\] is {name}, not str$"):
        tiny.rank_many([QUERY, QUERY], [["cat"], documents])
    with pytest.raises(InvalidInput, match=rf"^sentences\[1\]\[1\] is {name}, not str$"):
        tiny.predict([(QUERY, document) for document in documents])


@pytest.mark.parametrize("blank", ["", " \n\t", "\u00a0\u2003"])
def test_row_04_a_blank_query_is_refused(tiny: CrossEncoder, blank: str) -> None:
    """Every document would get the score of an empty question."""
    with pytest.raises(InvalidInput, match="^query is blank$"):
        tiny.rank(blank, DOCUMENTS)
    with pytest.raises(InvalidInput, match=r"^queries\[1\] is blank$"):
        tiny.rank_many([QUERY, blank], [DOCUMENTS, DOCUMENTS])


@pytest.mark.parametrize("wrong", [None, 3, b"query"])
def test_row_05_a_query_that_is_no_str_is_refused(tiny: CrossEncoder, wrong: Any) -> None:
    """The message names the query and its type."""
    with pytest.raises(InvalidInput, match=rf"^query is {type(wrong).__name__}, not str$"):
        tiny.rank(wrong, DOCUMENTS)
    with pytest.raises(InvalidInput, match=rf"^queries\[0\] is {type(wrong).__name__}, not str$"):
        tiny.rank_many([wrong], [DOCUMENTS])


@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta"])
def test_row_06_a_lone_surrogate_is_replaced(tiny_model_folder: Callable[..., str], architecture: str) -> None:
    """What UTF-8 cannot hold reads as U+FFFD; the request goes on."""
    encoder = CrossEncoder(tiny_model_folder(architecture), device="cpu")
    broken, repaired = ["cat \ud800 mat", "\udfff"], ["cat \ufffd mat", "\ufffd"]
    for given, meant in zip(broken, repaired, strict=True):
        assert encoder.predict((QUERY, given)) == encoder.predict((QUERY, meant))
        assert encoder.predict((f"{QUERY} {given}", "cat")) == encoder.predict((f"{QUERY} {meant}", "cat"))
    ranked = encoder.rank(QUERY, [*DOCUMENTS, *broken], return_documents=True)
    assert {hit["corpus_id"] for hit in ranked} == set(range(6))
    assert {hit["text"] for hit in ranked} == {*DOCUMENTS, *broken}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_row_07_control_characters_are_scored_alike_every_time(
    tiny_model_folder: Callable[..., str], architecture: str
) -> None:
    """NUL, byte-order mark, escape sequences and direction marks: a finite score, the same at each call."""
    encoder = CrossEncoder(tiny_model_folder(architecture), device="cpu")
    marks = ["\0", "\ufeff", "\x1b[31m", "\u202e", "\u200b", "\x7f\x85"]
    pairs = [(f"{mark}cat", f"the {mark} mat{mark}") for mark in marks]
    scores = encoder.predict(pairs)
    assert np.isfinite(scores).all()
    assert np.array_equal(scores, encoder.predict(pairs))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_row_08_special_tokens_in_a_document_are_text(
    tiny_model_folder: Callable[..., str], architecture: str
) -> None:
    """A document cannot forge a separator: the model reads as many special ids as for any other pair."""
    encoder = CrossEncoder(tiny_model_folder(architecture), device="cpu")
    special = set(encoder.tokenizer.all_special_ids) - {encoder.tokenizer.unk_token_id}

    def forged(query: str, document: str) -> int:
        with inputs_read(encoder) as read:
            encoder.predict((query, document))
        return sum(token in special for token in read[0])

    for token in SPECIAL:
        assert forged(f"cat {token}", f"mat {token} dog {token}") == forged("cat", "mat dog")


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
        with pytest.raises(InvalidInput, match="^documents has 4, more than max_documents=3$"):
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


@pytest.mark.parametrize(
    "make",
    [tuple, iter, np.array, lambda texts: (text for text in texts), lambda texts: dict.fromkeys(texts).keys()],
)
def test_row_15_any_ordered_iterable_of_documents_is_read_once(
    tiny: CrossEncoder, make: Callable[[list[str]], Any]
) -> None:
    """Generators, tuples and arrays give what a list gives."""
    assert tiny.rank(QUERY, make(DOCUMENTS), return_documents=True) == tiny.rank(QUERY, DOCUMENTS, return_documents=True)


@pytest.mark.parametrize("wrong", ["one text", b"bytes", None, 3, {"a": "b"}, {"a", "b"}, frozenset("ab")])
def test_row_15_what_is_no_sequence_of_documents_is_refused(tiny: CrossEncoder, wrong: Any) -> None:
    """A str is not taken apart into characters; dicts and sets have no order that an index could mean."""
    name = type(wrong).__name__
    with pytest.raises(InvalidInput, match=f"^documents is {name}, not a sequence of str$"):
        tiny.rank(QUERY, wrong)
    with pytest.raises(InvalidInput, match=rf"^documents_per_query\[0\] is {name}, not a sequence of str$"):
        tiny.rank_many([QUERY], [wrong])
    with pytest.raises(InvalidInput, match="^sentences is "):
        tiny.predict(wrong)


@pytest.mark.parametrize("wrong", ["cat", None, 3, {"a": "b"}])
def test_row_15_queries_and_their_lists_are_not_guessed(tiny: CrossEncoder, wrong: Any) -> None:
    """`rank_many` takes a sequence of queries and a sequence of sequences."""
    with pytest.raises(InvalidInput, match="^queries is "):
        tiny.rank_many(wrong, [DOCUMENTS])
    with pytest.raises(InvalidInput, match="^documents_per_query"):
        tiny.rank_many([QUERY], wrong)


def test_row_15_as_many_lists_as_queries(tiny: CrossEncoder) -> None:
    """A list too few would give a query another's documents."""
    with pytest.raises(InvalidInput, match="documents_per_query has 1 lists for 2 queries"):
        tiny.rank_many([QUERY, "cat"], [DOCUMENTS])


def test_row_16_equal_documents_are_all_kept_by_index(tiny: CrossEncoder) -> None:
    """The engine ranks what it is given: equal texts tie, in the given order."""
    documents = ["cat", "mat", "cat", "dog", "cat"]
    ranked = tiny.rank(QUERY, documents)
    assert sorted(hit["corpus_id"] for hit in ranked) == [0, 1, 2, 3, 4]
    assert [hit["corpus_id"] for hit in ranked if documents[hit["corpus_id"]] == "cat"] == [0, 2, 4]
    assert len({float(hit["score"]) for hit in ranked}) == 3


@pytest.mark.parametrize("pair", [("cat", ""), ("", "cat"), ("", "")])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_row_17_an_empty_text_keeps_the_template_of_a_pair(
    tiny_model_folder: Callable[..., str], architecture: str, pair: tuple[str, str]
) -> None:
    """Alone or among others, a pair with an empty text is encoded as a pair."""
    encoder = CrossEncoder(tiny_model_folder(architecture), device="cpu")
    expected = encoder.tokenizer([pair[0]], [pair[1]])["input_ids"][0]
    with inputs_read(encoder) as read:
        alone = encoder.predict(pair)
        among = encoder.predict([("dog", "mat " * 9), pair])[1]
    assert read.count(expected) == 2
    assert alone == pytest.approx(among, abs=1e-5)
