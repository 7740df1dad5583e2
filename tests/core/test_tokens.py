"""Rules of `secondpass.tokens`: the same ids as transformers' own pair encoding, and every loss on record."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from secondpass.cuts import cut_longest_first, cut_only_document
from secondpass.errors import InvalidInput
from secondpass.record import Cut
from secondpass.tokens import PairTokenizer, TextTokenizer

ARCHITECTURES = ("bert", "roberta", "xlm-roberta", "distilbert", "electra", "modernbert", "deberta-v2")

TEXTS = (
    "how do i reset my password",
    "the cat sat on the mat",
    "",
    "a",
    "water " * 90,
    "Big Cities: Paris, London?  and\nmore\ttabs",
    "caf\u00e9 na\u00efve \u00fcber \u4e2d\u6587 \U0001f600",
    "train-tree_user/what" * 20,
)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("max_length", [8, 9, 16, 33, 128])
def test_ids_equal_transformers_pair_encoding(
    tiny_model_folder: Callable[..., str], architecture: str, max_length: int
) -> None:
    """For WordPiece, BPE and Unigram, at every length, cut or not: the ids and segment ids are the same."""
    reference = AutoTokenizer.from_pretrained(tiny_model_folder(architecture))
    ours = PairTokenizer(AutoTokenizer.from_pretrained(tiny_model_folder(architecture)))
    queries = [query for query in TEXTS if query for _ in TEXTS]
    documents = [document for query in TEXTS if query for document in TEXTS]
    made = ours.pairs(queries, documents, max_length, "longest_first")
    for query, document, tokens in zip(queries, documents, made, strict=True):
        expected = reference(
            [query], [document], truncation="longest_first", max_length=max_length, return_token_type_ids=True
        )
        assert tokens.ids.tolist() == expected["input_ids"][0]
        assert tokens.type_ids.tolist() == expected["token_type_ids"][0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_single_texts_equal_transformers(tiny_model_folder: Callable[..., str], architecture: str) -> None:
    """Inputs with one text get the template for one text."""
    reference = AutoTokenizer.from_pretrained(tiny_model_folder(architecture))
    ours = PairTokenizer(AutoTokenizer.from_pretrained(tiny_model_folder(architecture)))
    for text, tokens in zip(TEXTS, ours.singles(TEXTS, 16, "longest_first"), strict=True):
        assert tokens.ids.tolist() == reference(text, truncation=True, max_length=16)["input_ids"]


def test_left_truncation_of_the_tokenizer_is_kept(tiny_folder: str) -> None:
    """A tokenizer that cuts on the left keeps the tail of a text."""
    fast = AutoTokenizer.from_pretrained(tiny_folder, truncation_side="left")
    expected = fast(["the cat"], ["water " * 40], truncation="longest_first", max_length=16)["input_ids"][0]
    made = PairTokenizer(fast).pairs(["the cat"], ["water " * 40], 16, "longest_first")
    assert made[0].ids.tolist() == expected


def test_special_tokens_in_a_text_are_text(tiny_folder: str) -> None:
    """A document cannot forge a separator: its [SEP] is tokenised as five characters."""
    fast = AutoTokenizer.from_pretrained(tiny_folder)
    tokens = PairTokenizer(fast).pairs(["cat"], ["dog [SEP] mat"], 64, "longest_first")[0]
    assert tokens.ids.tolist().count(fast.sep_token_id) == 2


def test_the_callers_tokenizer_is_left_alone(tiny_folder: str) -> None:
    """Our settings go to a private copy."""
    fast = AutoTokenizer.from_pretrained(tiny_folder)
    before = fast.backend_tokenizer.to_str()
    PairTokenizer(fast).pairs(["cat"], ["dog " * 200], 16, "longest_first")
    assert fast.backend_tokenizer.to_str() == before


def test_cuts_are_on_record(tiny_folder: str) -> None:
    """Only the pairs that lost something are named, with how many tokens of what."""
    ours = PairTokenizer(AutoTokenizer.from_pretrained(tiny_folder))
    made = ours.pairs(["cat dog", "cat dog"], ["mat", "mat " * 30], 16, "longest_first")
    assert [tokens.cut for tokens in made] == [None, Cut(1, 0, 19)]
    long_query = ours.pairs(["cat " * 30], ["mat " * 30], 16, "longest_first")[0]
    assert long_query.cut == Cut(0, 24, 23)


def test_only_document_spares_the_query(tiny_folder: str) -> None:
    """The query keeps up to half of the window even when the document is shorter than it."""
    ours = PairTokenizer(AutoTokenizer.from_pretrained(tiny_folder))
    spared = ours.pairs(["cat " * 6], ["mat " * 5], 13, "only_document")[0]
    assert spared.cut == Cut(0, 1, 0)
    assert ours.pairs(["cat " * 5], ["mat " * 9], 13, "only_document")[0].cut == Cut(0, 0, 4)


def test_error_truncation_names_pair_and_tokens(tiny_folder: str) -> None:
    """Asked to refuse, nothing is cut."""
    ours = PairTokenizer(AutoTokenizer.from_pretrained(tiny_folder))
    with pytest.raises(InvalidInput, match="pair 1 has 14 tokens, 4 more than fit"):
        ours.pairs(["cat", "cat"], ["mat", "mat " * 10], 10, "error")


def test_a_window_without_room_is_refused(tiny_folder: str) -> None:
    """Three special tokens and two texts need five places."""
    ours = PairTokenizer(AutoTokenizer.from_pretrained(tiny_folder))
    with pytest.raises(InvalidInput, match="max_length=4 leaves no room"):
        ours.pairs(["cat"], ["mat"], 4, "longest_first")


@given(st.integers(0, 40), st.integers(0, 40), st.integers(2, 30))
def test_both_cuts_fill_the_room_and_never_more(first: int, second: int, room: int) -> None:
    """Nothing is cut that fits, and what is kept is as much as fits."""
    for cut in (cut_longest_first, cut_only_document):
        kept = cut(first, second, room)
        assert kept[0] <= first
        assert kept[1] <= second
        assert sum(kept) == min(first + second, room)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_token_ends_somewhere_in_the_text(tiny_model_folder: Callable[..., str], architecture: str) -> None:
    """As many ends as tokens, never falling, also with special tokens and lone surrogates in the text."""
    fast = AutoTokenizer.from_pretrained(tiny_model_folder(architecture))
    ours, rules = PairTokenizer(fast), fast.backend_tokenizer.to_str()
    assert TextTokenizer(rules).token_ends("the cat, a") == ours.token_ends("the cat, a")
    for text in (*TEXTS, "\ud83d\ude00 cat \ud800", f"cat {fast.sep_token} mat"):
        ends = ours.token_ends(text)
        assert ends == sorted(ends)
        assert all(0 <= end <= len(text) for end in ends)
        assert not text or ends
    assert [ours.token_ends(text)[-1] for text in TEXTS[:2]] == [len(text) for text in TEXTS[:2]]
    (read,) = ours.singles(["the cat [SEP]"], 128, "longest_first")
    if architecture == "bert":
        assert ours.token_ends("the cat [SEP]") == [3, 7, 9, 10, 11, 12, 13]
        assert len(read) == 7 + 2


def test_eight_threads_get_what_one_gets(tiny_folder: str) -> None:
    """Different windows at the same time do not meet: there is no shared setting to overwrite."""
    ours = PairTokenizer(AutoTokenizer.from_pretrained(tiny_folder))
    documents = [text for text in TEXTS for _ in range(5)]
    queries = ["what is the answer"] * len(documents)
    expected = {
        size: [t.ids.tolist() for t in ours.pairs(queries, documents, size, "longest_first")] for size in range(16, 24)
    }
    wrong: list[int] = []

    def work(size: int) -> None:
        for _ in range(30):
            if [t.ids.tolist() for t in ours.pairs(queries, documents, size, "longest_first")] != expected[size]:
                wrong.append(size)

    threads = [threading.Thread(target=work, args=(size,)) for size in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
