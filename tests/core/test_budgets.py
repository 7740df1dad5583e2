"""Rules of budgets in direct calls: what is scored in a given time, and what becomes of the rest.

Time passes only in the model, a millisecond for each token, and where a test says so.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest

from secondpass import CrossEncoder, Ranking, reranker, scoring
from secondpass.errors import InvalidInput, TooLong
from secondpass.forwards.contract import Computation, ForwardLock, Logits
from secondpass.inputs import CutPolicy
from secondpass.score_cache import ScoreCache
from secondpass.tokens import Tokens
from secondpass.windows import Windows

TOKEN_S = 0.001
# "cat" and a document of so many words are eight tokens.
WORDS = 4
EACH_MS = 8.0
NAMES = ("sun", "mat", "dog", "water", "river", "house", "london", "big", "account", "password")
DOCUMENTS = [" ".join([name] * WORDS) for name in NAMES]


class SlowForward:
    """A clock, and a model that moves it: its logits tell pairs apart and depend on nothing else."""

    def __init__(self, labels: int = 1) -> None:
        self.now = 1000.0
        self.lengths: list[list[int]] = []
        self.lock = ForwardLock()
        self._labels = labels

    def perf_counter(self) -> float:
        return self.now

    def ready(self) -> Computation:
        around = self.lock.around(self._logits)
        return Computation("cpu", "float32", False, around, identity=lambda: "slow", lock=self.lock)

    def _logits(self, inputs: Sequence[Tokens]) -> Logits:
        self.lengths.append([len(item) for item in inputs])
        self.now += TOKEN_S * sum(self.lengths[-1])
        sums = [float(item.ids.sum() % 97) / 97 for item in inputs]
        return np.array([[made + label for label in range(self._labels)] for made in sums], np.float32)


@pytest.fixture
def slow(own_tiny: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> SlowForward:
    """Behind `own_tiny`, and the clock of everything."""
    forward = SlowForward()
    monkeypatch.setattr(scoring, "time", forward)
    monkeypatch.setattr(reranker, "time", forward)
    own_tiny.use_forward(forward)
    return forward


def warm(encoder: CrossEncoder, forward: SlowForward) -> None:
    """Let the speed be known."""
    encoder.rank("cat", ["mat " * 20], budget_ms=1000)
    forward.lengths.clear()


def order(ranking: Ranking) -> list[tuple[int, bool]]:
    """Index and whether it was scored."""
    return [(one.index, one.scored) for one in ranking.documents]


def test_the_scored_are_ranked_and_the_others_follow_as_given(own_tiny: CrossEncoder, slow: SlowForward) -> None:
    """With the lowest score of the scored ones; blank documents come last, and are no loss."""
    warm(own_tiny, slow)
    documents = [*DOCUMENTS[:5], " ", *DOCUMENTS[5:]]
    (full,) = own_tiny.rank_many(["cat"], [documents])
    (some,) = own_tiny.rank_many(["cat"], [documents], budget_ms=4.5 * EACH_MS)
    best = [one.index for one in full.documents if one.index < 4]
    assert order(some) == [*((index, True) for index in best), *((n, False) for n in (4, 6, 7, 8, 9, 10)), (5, True)]
    assert (some.unscored, some.complete, some.record.unscored) == (6, False, 6)
    scores = {one.index: one.score for one in full.documents}
    assert [one.score for one in some.documents[:4]] == [scores[index] for index in best]
    assert {(one.score, one.logit) for one in some.documents[4:10]} == {
        (some.documents[3].score, some.documents[3].logit)
    }
    assert some.documents[10].score <= some.documents[9].score
    (few,) = own_tiny.rank_many(["cat"], [documents], budget_ms=4.5 * EACH_MS, top_k=5)
    assert (few.documents, few.unscored) == (some.documents[:5], 6)
    hits = own_tiny.rank("cat", documents, budget_ms=4.5 * EACH_MS)
    assert [(hit["corpus_id"], hit["scored"]) for hit in hits] == order(some)


@pytest.mark.parametrize("budget_ms", [10_000, 1e12, np.float32(1e6)])
def test_with_time_enough_nothing_is_different(own_tiny: CrossEncoder, slow: SlowForward, budget_ms: float) -> None:
    """Bit for bit, whatever the pieces; equal documents are scored once there too."""
    lists = [[*DOCUMENTS, DOCUMENTS[0], ""], [], ["water " * 40, *DOCUMENTS]]
    full = own_tiny.rank_many(["cat", "dog", "sun"], lists)
    within = own_tiny.rank_many(["cat", "dog", "sun"], lists, budget_ms=budget_ms)
    assert [ranking.documents for ranking in within] == [ranking.documents for ranking in full]
    assert all(ranking.complete and not ranking.record.unscored for ranking in within)
    assert within[0].record.tokens == full[0].record.tokens
    assert [ranking.truncated for ranking in within] == [ranking.truncated for ranking in full]


def test_documents_that_are_longer_than_a_piece_are_scored_too(own_tiny: CrossEncoder, slow: SlowForward) -> None:
    """One at a time, while there is time."""
    own_tiny.max_batch_tokens = int(EACH_MS) + 1
    for read, unscored in ((5.5, 5), (50, 0)):
        (made,) = own_tiny.rank_many(["cat"], [DOCUMENTS], budget_ms=read * EACH_MS)
        assert made.unscored == unscored
    assert {len(lengths) for lengths in slow.lengths} == {1}


def test_queries_share_a_budget_in_their_order(own_tiny: CrossEncoder, slow: SlowForward) -> None:
    """The first one's documents first."""
    warm(own_tiny, slow)
    made = own_tiny.rank_many(["cat"] * 3, [DOCUMENTS[:3], DOCUMENTS[3:7], DOCUMENTS[7:]], budget_ms=5.5 * EACH_MS)
    assert [ranking.unscored for ranking in made] == [0, 2, 3]
    assert order(made[2]) == [(0, False), (1, False), (2, False)]
    assert made[2].documents[0].score == made[2].documents[1].score
    assert made[0].record.unscored == 5


def test_the_record_of_a_call_that_was_ended_adds_up(own_tiny: CrossEncoder, slow: SlowForward) -> None:
    """What the model read, and cuts of what it read."""
    warm(own_tiny, slow)
    own_tiny.max_length = 8
    documents = [*DOCUMENTS[:2], "mat " * 5, *DOCUMENTS[3:], "dog " * 9]
    (made,) = own_tiny.rank_many(["cat"], [documents], budget_ms=3.5 * EACH_MS)
    record = made.record
    assert (record.pairs, record.unscored) == (len(documents), made.unscored)
    assert record.tokens == sum(map(sum, slow.lengths)) == 3 * EACH_MS
    assert (record.batches, record.padding_share) == (len(slow.lengths), 0.0)
    assert record.score_ms == pytest.approx(3 * EACH_MS)
    assert [cut.index for cut in made.truncated] == [2]


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("tokenising", [0.0, 0.5, 4.0])
def test_a_call_ends_with_its_budget(
    own_tiny: CrossEncoder, slow: SlowForward, monkeypatch: pytest.MonkeyPatch, tokenising: float, known: bool
) -> None:
    """No later than by one piece, also where tokenising takes longer than the model; most of the time is used."""
    engine = own_tiny.engine()
    tokens = engine.tokens

    def slowly(columns: Sequence[Sequence[str]], window: scoring.Window) -> list[Tokens]:
        made = tokens(columns, window)
        slow.now += tokenising * TOKEN_S * sum(map(len, made))
        return made

    monkeypatch.setattr(engine, "tokens", slowly)
    if known:
        warm(own_tiny, slow)
    documents = [f"{text} {number}" for number in range(300) for text in DOCUMENTS]
    for budget_ms in (30, 700, 3000):
        began = slow.now
        (made,) = own_tiny.rank_many(["cat"], [documents], budget_ms=budget_ms)
        taken = 1000 * (slow.now - began)
        piece = max(1000 * TOKEN_S * sum(lengths) for lengths in slow.lengths) if not known else 2 * EACH_MS
        assert taken <= budget_ms + piece * (1 + tokenising)
        assert taken >= 0.8 * budget_ms
        assert not made.complete
        known = True


def test_one_document_is_scored_however_small_the_budget(own_tiny: CrossEncoder, slow: SlowForward) -> None:
    """And no more than a few where the speed is not known."""
    (made,) = own_tiny.rank_many(["cat"], [DOCUMENTS * 100], budget_ms=1e-9)
    assert 1 <= sum(one.scored for one in made.documents if one.index < 10)
    assert not made.complete
    assert sum(slow.lengths[0]) <= scoring.BATCH_TOKENS["cpu"] // scoring.FIRST_PIECE
    slow.lengths.clear()
    own_tiny.rank_many(["cat"], [DOCUMENTS], budget_ms=1e-9)
    assert slow.lengths == [[EACH_MS]]


def test_while_others_keep_the_model_nothing_is_scored(own_tiny: CrossEncoder, slow: SlowForward) -> None:
    """The call ends with its budget all the same, in the order given; labels are ranked by their rule."""
    inside, over = threading.Event(), threading.Event()

    def keep() -> None:
        with slow.lock:
            inside.set()
            assert not over.wait(0.05)
            slow.now += 1
            assert over.wait(20)

    other = threading.Thread(target=keep)
    other.start()
    try:
        assert inside.wait(20)
        (made,) = own_tiny.rank_many(["cat"], [[DOCUMENTS[0], "", DOCUMENTS[1]]], budget_ms=20)
    finally:
        over.set()
        other.join()
    assert order(made) == [(0, False), (2, False), (1, True)]
    assert (made.unscored, made.record.tokens, slow.lengths) == (2, 0, [])
    assert all(np.isfinite(one.score) and np.isfinite(one.logit) for one in made.documents)


@pytest.mark.parametrize("budget_ms", [0, -1, float("nan"), float("inf"), True, "50", [50]])
def test_a_budget_is_a_time(own_tiny: CrossEncoder, budget_ms: float) -> None:
    """A finite number of milliseconds above 0, by name."""
    with pytest.raises(InvalidInput, match="budget_ms"):
        own_tiny.rank("cat", ["mat"], budget_ms=budget_ms)
    with pytest.raises(InvalidInput, match="budget_ms"):
        own_tiny.rank_many(["cat"], [["mat"]], budget_ms=budget_ms)


def test_a_document_counts_when_all_its_windows_are_scored(own_tiny: CrossEncoder, slow: SlowForward) -> None:
    """Half a document is none: it has no passage, and follows those that were read."""
    windows = Windows(tokens=WORDS, overlap=0, borders="words")
    long = " ".join(DOCUMENTS[:3])
    (full,) = own_tiny.rank_many(["cat"], [[DOCUMENTS[3], long, DOCUMENTS[4]]], truncation=windows)
    assert {one.index: one.passage.windows for one in full.documents if one.passage} == {0: 1, 1: 3, 2: 1}
    for read, scored in ((3.5, [0]), (4.5, [0, 1]), (5.5, [0, 1, 2])):
        warm(own_tiny, slow)
        documents = [DOCUMENTS[3], long, DOCUMENTS[4]]
        (made,) = own_tiny.rank_many(["cat"], [documents], truncation=windows, budget_ms=read * EACH_MS)
        assert sum(map(sum, slow.lengths)) == int(read) * EACH_MS
        assert sorted(one.index for one in made.documents if one.scored) == scored
        assert all((one.passage is not None) == one.scored for one in made.documents)
    assert made.documents == full.documents


def test_what_a_budget_allowed_is_kept_in_the_cache(own_tiny: CrossEncoder, slow: SlowForward) -> None:
    """Known pairs cost nothing, so that the next call goes on behind them: at last everything is known."""
    (full,) = own_tiny.rank_many(["cat"], [DOCUMENTS])
    warm(own_tiny, slow)
    own_tiny.use_score_cache(ScoreCache())
    for call in range(4):
        (made,) = own_tiny.rank_many(["cat"], [DOCUMENTS], budget_ms=3.5 * EACH_MS)
        assert made.record.cache_hits == 3 * call
        assert made.unscored == max(0, 7 - 3 * call)
    assert made.documents == full.documents
    read = sum(map(len, slow.lengths))
    (again,) = own_tiny.rank_many(["cat"], [DOCUMENTS], budget_ms=1e-9)
    assert (again.documents, again.complete) == (full.documents, True)
    assert sum(map(len, slow.lengths)) == read == len(DOCUMENTS)


def test_an_error_beyond_the_budget_is_not_met(own_tiny: CrossEncoder, slow: SlowForward) -> None:
    """Nobody looks at a document that there is no time for; one that is read is named as the caller counts."""
    warm(own_tiny, slow)
    own_tiny.truncation = CutPolicy("error")
    own_tiny.max_length = 8
    documents = [*DOCUMENTS[:6], "mat " * 50]
    assert own_tiny.rank_many(["cat"], [documents], budget_ms=1.5 * EACH_MS)[0].unscored == 6
    for cache in (None, ScoreCache()):
        own_tiny.use_score_cache(cache)
        for budget in (None, 60_000):
            own_tiny.rank_many(["cat"], [DOCUMENTS])  # which a cache knows from now on
            with pytest.raises(TooLong, match=r"^pair 10 has \d+ tokens") as caught:
                own_tiny.rank_many(["cat"], [[*DOCUMENTS, "mat " * 50]], budget_ms=budget)
            assert caught.value.indices == (10,)
