"""Rows 1 to 8 and 15 to 17 of the fault table: what users put into queries and documents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput
from tests.model_spy import before_forward, inputs_read, not_reached
from tests.tiny_models import ARCHITECTURES

QUERY = "how to reset the password"
DOCUMENTS = ["reset the password by email", "the cat sat on the mat", "a small house", "cold water"]
SPECIAL = ("[SEP]", "[CLS]", "[PAD]", "[UNK]", "[MASK]", "<s>", "</s>", "<pad>", "<unk>", "<mask>")


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
    with pytest.raises(InvalidInput, match=r"^query is blank$"):
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
def test_row_08_special_tokens_in_a_document_are_text(tiny_model_folder: Callable[..., str], architecture: str) -> None:
    """A document cannot forge a separator: the model reads as many special ids as for any other pair."""
    encoder = CrossEncoder(tiny_model_folder(architecture), device="cpu")
    special = set(encoder.tokenizer.all_special_ids) - {encoder.tokenizer.unk_token_id}

    def forged(query: str, document: str) -> int:
        with inputs_read(encoder) as read:
            encoder.predict((query, document))
        return sum(token in special for token in read[0])

    for token in SPECIAL:
        assert forged(f"cat {token}", f"mat {token} dog {token}") == forged("cat", "mat dog")


@pytest.mark.parametrize("architecture", ["bert", "roberta", "modernbert", "deberta-v2"])
def test_row_08_the_text_of_a_special_token_is_encoded_like_any_text(
    tiny_model_folder: Callable[..., str], architecture: str
) -> None:
    """Not dropped, not replaced: the ids are those of a tokenizer that does not know the token as special."""
    encoder = CrossEncoder(tiny_model_folder(architecture), device="cpu")
    reference = AutoTokenizer.from_pretrained(tiny_model_folder(architecture)).backend_tokenizer
    reference.encode_special_tokens = True
    for token in SPECIAL:
        with inputs_read(encoder) as read:
            encoder.predict((f"cat {token}", f"mat {token}dog {token}"))
        assert read[0] == reference.encode(f"cat {token}", f"mat {token}dog {token}").ids


def test_row_08_pieces_of_a_vocabulary_are_spelled_out(tiny_model_folder: Callable[..., str]) -> None:
    """Where the vocabulary itself has "</s>" as a piece of text, it is read letter by letter."""
    encoder = CrossEncoder(tiny_model_folder("xlm-roberta"), device="cpu")
    with inputs_read(encoder) as read:
        encoder.predict(("cat", "mat </s> dog"))
    spelled = encoder.tokenizer.convert_tokens_to_ids(["\u2581mat", "\u2581", "<", "/", "s", ">", "\u2581dog"])
    assert read[0][-8:-1] == spelled


@pytest.mark.parametrize(
    "make",
    [tuple, iter, np.array, lambda texts: (text for text in texts), lambda texts: dict.fromkeys(texts).keys()],
)
def test_row_15_any_ordered_iterable_of_documents_is_read_once(
    tiny: CrossEncoder, make: Callable[[list[str]], Any]
) -> None:
    """Generators, tuples and arrays give what a list gives."""
    assert tiny.rank(QUERY, make(DOCUMENTS), return_documents=True) == tiny.rank(
        QUERY, DOCUMENTS, return_documents=True
    )


@pytest.mark.parametrize("wrong", ["one text", b"bytes", None, 3, {"a": "b"}, {"a", "b"}, frozenset("ab")])
def test_row_15_what_is_no_sequence_of_documents_is_refused(tiny: CrossEncoder, wrong: Any) -> None:
    """A str is not taken apart into characters; dicts and sets have no order that an index could mean."""
    name = type(wrong).__name__
    with pytest.raises(InvalidInput, match=f"^documents is {name}, not a sequence of str$"):
        tiny.rank(QUERY, wrong)
    with pytest.raises(InvalidInput, match=rf"^documents_per_query\[0\] is {name}, not a sequence of str$"):
        tiny.rank_many([QUERY], [wrong])
    with pytest.raises(InvalidInput, match=r"^sentences is "):
        tiny.predict(wrong)


def test_row_15_a_table_is_not_the_names_of_its_columns(tiny: CrossEncoder) -> None:
    """Iterating over one of pandas gives those; a column of it is a sequence, and so are its rows."""
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    table = pandas.DataFrame({"query": [QUERY] * len(DOCUMENTS), "document": DOCUMENTS})
    with pytest.raises(InvalidInput, match=r"^sentences is DataFrame, a table, not a pair .*: give a column, or rows"):
        tiny.predict(table)
    with pytest.raises(InvalidInput, match=r"^documents is DataFrame, a table"):
        tiny.rank(QUERY, table)
    with pytest.raises(InvalidInput, match=r"^documents_per_query\[0\] is DataFrame, a table"):
        tiny.rank_many([QUERY], [table])
    assert tiny.rank(QUERY, table["document"]) == tiny.rank(QUERY, DOCUMENTS)
    scores = tiny.predict(table.values.tolist()).tolist()
    assert tiny.predict(table.to_numpy()).tolist() == scores
    assert tiny.predict([row for _, row in table.iterrows()]).tolist() == scores
    assert tiny.predict(table.iloc[0]) == pytest.approx(scores[0], rel=0, abs=1e-6)
    with pytest.raises(InvalidInput, match=r"^sentences\[0\] is DataFrame, not a pair"):
        tiny.predict([table])


@pytest.mark.parametrize("wrong", ["cat", None, 3, {"a": "b"}])
def test_row_15_queries_and_their_lists_are_not_guessed(tiny: CrossEncoder, wrong: Any) -> None:
    """`rank_many` takes a sequence of queries and a sequence of sequences."""
    with pytest.raises(InvalidInput, match=r"^queries is "):
        tiny.rank_many(wrong, [DOCUMENTS])
    with pytest.raises(InvalidInput, match=r"^documents_per_query"):
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
