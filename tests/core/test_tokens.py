"""Rules of `secondpass.tokens`: the same ids as transformers' own pair encoding, and every loss on record."""

from __future__ import annotations

import copy
import os
import random
import threading
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from secondpass.errors import InvalidInput
from secondpass.inputs import cut_longest_first, cut_only_document
from secondpass.record import Cut
from secondpass.token_cache import ENTRY_BYTES, TokenCache, identity_of
from secondpass.tokens import PairTokenizer, TextTokenizer, Tokens
from tests.tiny_models import WORDS

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
    # Several windows long; the reference also makes every combination of what it cuts off, quadratic in the length.
    texts = [text[: 20 * max_length] for text in TEXTS]
    queries = [query for query in texts if query for _ in texts]
    documents = [document for query in texts if query for document in texts]
    made = ours.pairs(queries, documents, max_length, "longest_first")
    expected = reference(
        queries, documents, truncation="longest_first", max_length=max_length, return_token_type_ids=True
    )
    assert [tokens.ids.tolist() for tokens in made] == expected["input_ids"]
    assert [tokens.type_ids.tolist() for tokens in made] == expected["token_type_ids"]


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
    with pytest.raises(InvalidInput, match=r"a window of 4 tokens \(max_length\) leaves no room"):
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


IDENTITY = identity_of("{}")
TEXTS_TOKEN_CACHE = [
    "the cat",
    "",
    "</s> [SEP] <s>",
    "caf\u00e9 \U0001f600",
    "\ud800 alone",
    "water " * 300,
    "the cat",
    "the  cat",
]


def ids(length: int) -> np.ndarray:
    """Make ids of this length."""
    return np.arange(length, dtype=np.int32)


def same(first: list[Tokens], second: list[Tokens]) -> bool:
    """Compare model inputs, cuts included."""
    pairs = list(zip(first, second, strict=True))
    return all(np.array_equal(a.ids, b.ids) and np.array_equal(a.type_ids, b.type_ids) for a, b in pairs) and [
        a.cut for a, _ in pairs
    ] == [b.cut for _, b in pairs]


@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta", "deberta-v2"])
@pytest.mark.parametrize("max_length", [9, 128])
def test_inputs_are_those_without_a_cache(
    tiny_model_folder: Callable[..., str], architecture: str, max_length: int
) -> None:
    """First time, again, and with another window: ids, segments and cuts are equal, also of forged special tokens."""
    fast = AutoTokenizer.from_pretrained(tiny_model_folder(architecture))
    plain, cached = PairTokenizer(fast), PairTokenizer(fast, TokenCache())
    for window in (max_length, max_length, 16):
        for truncation in ("longest_first", "only_document"):
            expected = plain.pairs(["a cat"] * len(TEXTS_TOKEN_CACHE), TEXTS_TOKEN_CACHE, window, truncation)
            assert same(
                cached.pairs(["a cat"] * len(TEXTS_TOKEN_CACHE), TEXTS_TOKEN_CACHE, window, truncation), expected
            )
        assert same(
            cached.singles(TEXTS_TOKEN_CACHE, window, "longest_first"),
            plain.singles(TEXTS_TOKEN_CACHE, window, "longest_first"),
        )
    assert cached.cache is not None
    assert cached.cache.hits > cached.cache.misses


def test_a_document_seen_again_is_not_tokenised(tiny_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only new texts reach the tokenizer, each once in a call; queries leave the cache to documents."""
    ours = PairTokenizer(AutoTokenizer.from_pretrained(tiny_folder), TokenCache())
    encoded: list[str] = []
    encode = ours.encode
    monkeypatch.setattr(ours, "encode", lambda texts: (encoded.extend(text.value for text in texts), encode(texts))[1])
    ours.pairs(["cat"] * 3, ["mat", "dog", "mat"], 32, "longest_first")
    ours.pairs(["cat", "tree", "tree"], ["dog", "sun", "mat"], 32, "longest_first")
    assert encoded == ["cat", "mat", "dog", "cat", "tree", "sun"]
    assert ours.cache is not None
    assert len(ours.cache) == 3


def test_two_tokenizers_share_a_cache_without_meeting(tiny_model_folder: Callable[..., str]) -> None:
    """The key holds the tokenizer's rules: the same text has other ids under another tokenizer."""
    cache = TokenCache()
    fasts = [AutoTokenizer.from_pretrained(tiny_model_folder(name)) for name in ("bert", "roberta", "xlm-roberta")]
    for _ in range(2):
        for fast in fasts:
            made = PairTokenizer(fast, cache).singles(TEXTS_TOKEN_CACHE, 64, "longest_first")
            assert same(made, PairTokenizer(fast).singles(TEXTS_TOKEN_CACHE, 64, "longest_first"))
    assert PairTokenizer(fasts[0], cache).singles(["the cat"], 64, "longest_first")
    assert cache.misses == 3 * len(TEXTS_TOKEN_CACHE)


def test_the_text_used_longest_ago_makes_room() -> None:
    """Reading counts as use."""
    cache = TokenCache(20 * (ENTRY_BYTES + 40))
    keys = cache.keys(IDENTITY, map(str, range(21)))
    for key in keys[:20]:
        cache.keep(key, ids(10))
    cache.find(keys[:1])
    cache.keep(keys[20], ids(10))
    found = cache.find(keys)
    assert [place for place, entry in enumerate(found) if entry is None] == [1]
    assert len(cache) == 20


@pytest.mark.parametrize(("longest", "least"), [(5, 0.4), (600, 0.8)])
def test_memory_is_bounded(longest: int, least: float) -> None:
    """Far more texts than fit: Python's own count of bytes stays under the bound, and not far below it."""
    bound = 2**20
    draw = random.Random(0)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        cache = TokenCache(bound)
        peak = 0
        for number in range(20_000):
            cache.keep(cache.keys(IDENTITY, [str(number)])[0], ids(draw.randrange(0, longest)))
            if number % 100 == 0:
                peak = max(peak, tracemalloc.get_traced_memory()[0] - before)
    finally:
        tracemalloc.stop()
    assert least * bound < peak < bound
    assert cache.bytes_held <= bound


def test_one_huge_text_does_not_turn_out_the_rest() -> None:
    """What is larger than a sixteenth of the cache is not kept."""
    cache = TokenCache(100_000)
    small, huge = cache.keys(IDENTITY, ["small", "huge"])
    cache.keep(small, ids(10))
    cache.keep(huge, ids(20_000))
    assert [entry is None for entry in cache.find([small, huge])] == [False, True]


def test_cached_ids_cannot_be_changed() -> None:
    """A caller who writes into them gets an error, not other callers' wrong scores."""
    cache = TokenCache()
    [key] = cache.keys(IDENTITY, ["cat"])
    cache.keep(key, ids(3))
    [found] = cache.find([key])
    assert found is not None
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 7


def test_eight_threads_in_a_small_cache_get_what_one_gets(tiny_folder: str) -> None:
    """Entries come and go under everybody's hands; the books stay right."""
    fast = AutoTokenizer.from_pretrained(tiny_folder)
    cache = TokenCache(16 * 1000)
    ours, plain = PairTokenizer(fast, cache), PairTokenizer(fast)
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=draw.randrange(1, 60))) for _ in range(200)]
    expected = plain.singles(texts, 64, "longest_first")
    together = threading.Barrier(8)

    def work(seed: int) -> bool:
        own = random.Random(seed)
        together.wait()
        for _ in range(20):
            places = own.choices(range(len(texts)), k=50)
            made = ours.singles([texts[place] for place in places], 64, "longest_first")
            if not same(made, [expected[place] for place in places]):
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert cache.bytes_held == sum(len(entry) + ENTRY_BYTES for entry in cache._entries.values()) <= cache.max_bytes
    assert cache.hits + cache.misses == 8 * 20 * 50


def test_copies_start_empty() -> None:
    """A copy belongs to a copied model, and has its own memory."""
    cache = TokenCache(5000)
    cache.keep(cache.keys(IDENTITY, ["cat"])[0], ids(3))
    made = copy.deepcopy(cache)
    assert (len(made), made.bytes_held, made.max_bytes) == (0, 0, 5000)
    assert len(cache) == 1


def test_a_forked_child_is_not_held_up() -> None:
    """A thread of the parent that was inside the cache at the fork does not exist in the child."""
    cache = TokenCache(5000)
    with cache._lock:
        child = os.fork()
        if not child:
            cache.keep(cache.keys(IDENTITY, ["cat"])[0], ids(3))
            os._exit(0 if len(cache) == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("bound", [0, -1, 1.5, True, "1"])
def test_the_bound_is_a_positive_int(bound: object) -> None:
    """Said when the cache is made."""
    with pytest.raises(InvalidInput, match="max_bytes"):
        TokenCache(bound)  # type: ignore[arg-type]
