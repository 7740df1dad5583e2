"""Rules of `secondpass.token_cache`: the same ids, in bounded memory, for any number of threads and tokenizers."""

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
from transformers import AutoTokenizer

from secondpass.errors import InvalidInput
from secondpass.token_cache import ENTRY_BYTES, TokenCache, identity_of
from secondpass.tokens import PairTokenizer, Tokens
from tests.tiny_models import WORDS

IDENTITY = identity_of("{}")
TEXTS = ["the cat", "", "</s> [SEP] <s>", "caf\u00e9 \U0001f600", "\ud800 alone", "water " * 300, "the cat", "the  cat"]


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
            expected = plain.pairs(["a cat"] * len(TEXTS), TEXTS, window, truncation)
            assert same(cached.pairs(["a cat"] * len(TEXTS), TEXTS, window, truncation), expected)
        assert same(cached.singles(TEXTS, window, "longest_first"), plain.singles(TEXTS, window, "longest_first"))
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
            made = PairTokenizer(fast, cache).singles(TEXTS, 64, "longest_first")
            assert same(made, PairTokenizer(fast).singles(TEXTS, 64, "longest_first"))
    assert PairTokenizer(fasts[0], cache).singles(["the cat"], 64, "longest_first")
    assert cache.misses == 3 * len(TEXTS)


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
