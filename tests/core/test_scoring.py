"""Rules of `secondpass.scoring`: the stages joined."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from secondpass import CrossEncoder, Cut
from secondpass.errors import InvalidInput, NonFiniteScore
from secondpass.forwards.contract import Batch, Computation, Logits, batch_of
from secondpass.scoring import Engine, Job, Window, batch_tokens
from secondpass.token_cache import TokenCache
from secondpass.tokens import Tokens

WINDOW = Window(max_length=32, truncation="longest_first", max_batch_tokens=64, max_pairs=8)


class SumForward:
    """A forward whose two logits are the sum of a pair's token ids and its length: they tell pairs apart."""

    def __init__(self, device: str = "cpu", wrong: int | None = None, pads: bool = True) -> None:
        self.device = device
        self.pads = pads
        self.batches: list[Batch] = []
        self.wrong = wrong
        self.asked = 0

    def ready(self) -> Computation:
        self.asked += 1
        return Computation(self.device, "float32", self.pads, self.logits)

    def logits(self, inputs: Sequence[Tokens]) -> Logits:
        self.batches.append(batch_of(inputs, range(len(inputs))))
        sums = [float(item.ids.sum()) if self.wrong not in item.ids else float("nan") for item in inputs]
        return np.array([[made, len(item)] for made, item in zip(sums, inputs, strict=True)], np.float32)


@pytest.fixture
def forward() -> SumForward:
    """A fresh one for each test."""
    return SumForward()


@pytest.fixture
def engine(tiny: CrossEncoder, forward: SumForward) -> Engine:
    """Our stages with the tiny tokenizer in front of `forward`."""
    return Engine(tiny.tokenizer, forward)


def test_logits_are_in_the_order_of_the_input(tiny: CrossEncoder, engine: Engine) -> None:
    """Whatever batches were made of them: float32, a row for each pair, all labels."""
    documents = ["a cat", "water " * 40, "", "mat", "the big house in london " * 3, "a cat"]
    scored = engine.score([["cat"] * 6, documents], WINDOW)
    made = tiny.tokenizer(["cat"] * 6, documents, truncation="longest_first", max_length=32)["input_ids"]
    assert scored.logits.dtype == np.float32
    assert scored.logits.tolist() == [[float(sum(ids)), float(len(ids))] for ids in made]


def test_equal_inputs_are_scored_once(engine: Engine, forward: SumForward) -> None:
    """The model reads each distinct pair once; every copy gets its logits, so copies tie."""
    scored = engine.score([["cat", "dog", "cat", "cat"], ["mat", "mat", "mat", "mat "]], WINDOW)
    assert sum(len(batch.rows) for batch in forward.batches) == 2
    assert np.array_equal(scored.logits[0], scored.logits[2])
    assert not np.array_equal(scored.logits[0], scored.logits[1])
    assert scored.record.pairs == 4
    assert scored.record.tokens == 10


def test_texts_that_are_cut_to_the_same_tokens_are_equal_inputs(engine: Engine, forward: SumForward) -> None:
    """What counts is what the model would read; each has its own cut on record."""
    scored = engine.score([["cat"] * 2, ["mat " * 40, "mat " * 50]], WINDOW)
    assert sum(len(batch.rows) for batch in forward.batches) == 1
    assert scored.record.truncated == (Cut(0, 0, 12), Cut(1, 0, 22))


def test_inputs_that_differ_in_their_segments_are_not_equal() -> None:
    """The same ids with the border elsewhere are another pair."""

    def tokens(types: list[int]) -> Tokens:
        return Tokens(np.asarray([5, 6, 7], np.int32), np.asarray(types, np.int32))

    job = Job([["cat"] * 3, ["a", "b", "a"]])
    job.add([tokens([0, 0, 1]), tokens([0, 1, 1]), tokens([0, 0, 1])], 0.0)
    assert job.take_all() == [0, 1]
    assert job.take_all() == []


def test_the_error_names_every_copy_of_a_bad_pair(tiny: CrossEncoder) -> None:
    """Scored once, wrong four times."""
    engine = Engine(tiny.tokenizer, SumForward(wrong=tiny.tokenizer.convert_tokens_to_ids("river")))
    with pytest.raises(NonFiniteScore) as caught:
        engine.score([["cat"] * 5, ["river", "mat", "river", "dog", "river"]], WINDOW)
    assert caught.value.indices == (0, 2, 4)


def test_the_record_adds_up(engine: Engine, forward: SumForward) -> None:
    """Tokens and padding are those of the batches that ran."""
    scored = engine.score([["cat"] * 9, ["mat " * number for number in range(1, 10)]], WINDOW)
    read = sum(batch.tokens for batch in forward.batches)
    places = sum(batch.places for batch in forward.batches)
    record = scored.record
    assert (record.pairs, record.batches, record.tokens) == (9, len(forward.batches), read)
    assert record.padding_share == pytest.approx(1 - read / places)
    assert all(batch.places <= 64 for batch in forward.batches)
    assert (record.device, record.dtype, record.retries, record.rank_ms) == ("cpu", "float32", 0, 0.0)


def test_without_padding_batches_go_by_real_tokens(tiny: CrossEncoder) -> None:
    """No place is padded, and the bound of pairs is the one of their tokens at full length."""
    columns = [["cat"] * 30, ["mat " * number for number in range(30)]]
    forward = SumForward(pads=False)
    scored = Engine(tiny.tokenizer, forward).score(columns, Window(32, "longest_first", 10_000, 4))
    assert scored.record.padding_share == 0.0
    assert all(batch.tokens <= 4 * 32 for batch in forward.batches)
    assert max(len(batch.rows) for batch in forward.batches) > 4
    scored = Engine(tiny.tokenizer, forward).score(columns, Window(32, "longest_first", 64, 4))
    assert all(batch.tokens <= 64 for batch in forward.batches[-scored.record.batches :])


def test_the_forward_is_asked_once_a_call(engine: Engine, forward: SumForward) -> None:
    """However many batches there are: plan, logits and record are of one state of the model."""
    scored = engine.score([["cat"] * 9, ["mat " * number for number in range(1, 10)]], WINDOW)
    assert scored.record.batches > 1
    assert forward.asked == 1


def test_step_hears_how_many_batches_are_left(engine: Engine) -> None:
    """Once before the first batch, then after each."""
    heard: list[int] = []
    window = Window(32, "longest_first", 10_000, 2)
    engine.score([["cat"] * 5, ["a", "b", "c", "d", "e"]], window, heard.append)
    assert heard == [3, 2, 1, 0]


def test_an_error_of_step_ends_the_call(engine: Engine, forward: SumForward) -> None:
    """That is how a caller gives up between batches."""

    def give_up(remaining: int) -> None:
        if remaining == 1:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        engine.score([["cat"] * 3, ["a", "b", "c"]], Window(32, "longest_first", 10_000, 1), give_up)
    assert len(forward.batches) == 2


def test_single_texts_are_one_column(tiny: CrossEncoder, engine: Engine) -> None:
    """They get the template for one text, and lose tokens as documents."""
    scored = engine.score([["cat", "mat " * 40]], WINDOW)
    assert scored.logits[0].tolist() == [float(sum(tiny.tokenizer("cat")["input_ids"])), 3.0]
    assert scored.record.truncated == (Cut(1, 0, 10),)


def test_a_text_that_does_not_fit_can_be_an_error(engine: Engine, forward: SumForward) -> None:
    """Before any batch runs."""
    with pytest.raises(InvalidInput, match="pair 1 has 43 tokens, 11 more than fit"):
        engine.score([["cat"] * 2, ["mat", "mat " * 39]], Window(32, "error", 64, 8))
    assert forward.batches == []


@pytest.mark.parametrize(("device", "budget"), [("cpu", 2048), ("mps", 8192), ("cuda", 16384), ("xpu", 16384)])
def test_the_token_budget_suits_the_device(tiny: CrossEncoder, device: str, budget: int) -> None:
    """Small on a processor, where caches count; large where a device must be filled."""
    assert batch_tokens(device) == batch_tokens(f"{device}:1") == budget
    forward = SumForward(device)
    queries = [" ".join(words) for words in itertools.product(["cat", "dog", "mat", "sun", "river"], repeat=4)]
    columns = [queries, ["mat " * 40] * len(queries)]
    Engine(tiny.tokenizer, forward).score(columns, Window(32, "longest_first", None, len(queries)))
    assert max(batch.tokens for batch in forward.batches) == budget


def test_a_token_cache_changes_no_logit(tiny: CrossEncoder) -> None:
    """The model reads the same ids with a cache, first and later, and the cache is used."""
    documents = ["a cat", "water " * 40, "", "mat", "the big house [SEP] in london " * 3, "a cat"]
    columns = [["cat"] * 3 + ["a dog"] * 3, documents]
    cache = TokenCache()
    cached = Engine(tiny.tokenizer, SumForward(), cache)
    assert cached.tokenizer.cache is cache
    expected = Engine(tiny.tokenizer, SumForward()).score(columns, WINDOW)
    for _ in range(2):
        made = cached.score(columns, WINDOW)
        assert np.array_equal(made.logits, expected.logits)
        assert made.record.truncated == expected.record.truncated
    assert cache.hits >= len(documents)
    cached.tokenizer.cache = None
    before = cache.hits + cache.misses
    assert np.array_equal(cached.score(columns, WINDOW).logits, expected.logits)
    assert cache.hits + cache.misses == before
