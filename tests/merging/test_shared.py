"""Rules of `secondpass.merging.shared`: many callers, one model, everybody's own answer."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from torch import nn

from secondpass import CrossEncoder, Cut
from secondpass.errors import DeadlineExceeded, InvalidInput, Overloaded, SecondPassError, TooLong
from secondpass.inputs import CutPolicy
from secondpass.merging import Scored, SharedReranker
from secondpass.merging.shared import PIECE
from secondpass.score_cache import Kept, ScoreCache
from secondpass.scoring import FIRST_PIECE, batch_tokens
from tests.merging.watched_forward import WAIT_S, WatchedForward
from tests.tiny_models import WORDS

QUERY = "how to reset the password"


def texts(count: int, seed: int = 0, longest: int = 40) -> list[str]:
    """Draw documents of mixed lengths; those of two seeds differ."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randrange(1, longest))) for _ in range(count)]


def logits(encoder: CrossEncoder, documents: list[str], query: str = QUERY) -> np.ndarray:
    """What the encoder says by itself."""
    return np.asarray(encoder.predict([(query, text) for text in documents], activation_fct=nn.Identity()))


def numbers(answer: Scored) -> np.ndarray:
    """The logits of the one label."""
    return answer.logits[:, 0]


# ---- answers


def test_an_answer_is_that_of_the_call_alone(shared: SharedReranker, own_tiny: CrossEncoder) -> None:
    """Logits in order, and a record of this call only; equal documents tie."""
    documents = [*texts(30), "mat", "mat", "water " * 400]
    answer = shared.submit(QUERY, documents).result(WAIT_S)
    assert numbers(answer) == pytest.approx(logits(own_tiny, documents), abs=1e-5)
    assert answer.logits[30] == answer.logits[31]
    assert answer.record.pairs == 33
    assert [cut.index for cut in answer.record.truncated] == [32]
    assert answer.waited_ms >= 0


def test_training_mode_is_left(own_tiny: CrossEncoder) -> None:
    """No dropout in scores, whichever door they come through."""
    expected = logits(own_tiny, ["mat", "dog"])
    with SharedReranker(own_tiny) as shared:
        own_tiny.model.train()
        own_tiny.model.bert.embeddings.register_forward_hook(lambda *given: None)  # computed by transformers
        assert numbers(shared.submit(QUERY, ["mat", "dog"]).result(WAIT_S)) == pytest.approx(expected, abs=1e-5)
    assert not own_tiny.model.training


def test_no_documents_give_no_rows(shared: SharedReranker) -> None:
    """An answer at once, the model is not asked."""
    assert shared.submit(QUERY, []).result(WAIT_S).logits.shape == (0, 1)


def test_calls_that_gather_share_a_batch(
    shared: SharedReranker, forward: WatchedForward, own_tiny: CrossEncoder
) -> None:
    """While a batch runs, eight calls come: the model reads them together, and each gets its own."""
    documents = [texts(3, seed, 10) for seed in range(9)]
    forward.hold()
    futures = [shared.submit(f"{QUERY} {number}", own) for number, own in enumerate(documents[:1])]
    forward.wait_for_entry()
    futures += [shared.submit(f"{QUERY} {number}", own) for number, own in enumerate(documents) if number]
    forward.gate.set()
    answers = [future.result(WAIT_S) for future in futures]
    assert [len(batch) for batch in forward.lengths] == [3, 24]
    for number, (own, answer) in enumerate(zip(documents, answers, strict=True)):
        assert numbers(answer) == pytest.approx(logits(own_tiny, own, f"{QUERY} {number}"), abs=1e-5)
        assert answer.record.pairs == 3


def test_a_call_alone_waits_for_company_where_told_to(own_tiny: CrossEncoder, forward: WatchedForward) -> None:
    """With a minute of patience: the round begins when it is full, and not before."""
    with SharedReranker(own_tiny, max_wait_ms=60_000, max_round_tokens=40) as shared:
        first = shared.submit("cat", ["mat " * 10])
        second = shared.submit("cat", ["dog " * 10])
        third = shared.submit("cat", ["sun " * 10])
        for future in (first, second):
            future.result(WAIT_S)
        assert [len(batch) for batch in forward.lengths] == [2]
        assert not third.done()
    assert third.done()


@pytest.mark.parametrize("torch_threads", [1, 2])
def test_many_threads_and_two_event_loops_get_their_own_answers(own_tiny: CrossEncoder, torch_threads: int) -> None:
    """Calls of 0 to 60 documents from everywhere at once: nothing is lost, mixed up, or scored differently."""
    import torch

    torch.set_num_threads(torch_threads)
    documents = texts(60)
    expected = logits(own_tiny, documents)
    together = threading.Barrier(8)

    def right(start: int, answer: Scored) -> bool:
        own = expected[start:]
        return len(answer.logits) == len(own) and np.allclose(numbers(answer), own, atol=1e-5, rtol=0)

    with SharedReranker(own_tiny) as shared:

        def threaded(seed: int) -> bool:
            draw = random.Random(seed)
            together.wait()
            starts = [draw.randrange(61) for _ in range(15)]
            return all(right(start, shared.submit(QUERY, documents[start:]).result(WAIT_S)) for start in starts)

        async def gathered(seed: int) -> bool:
            draw = random.Random(seed)
            starts = [draw.randrange(61) for _ in range(15)]
            answers = await asyncio.gather(*(shared.score(QUERY, documents[start:]) for start in starts))
            return all(right(start, answer) for start, answer in zip(starts, answers, strict=True))

        def looped(seed: int) -> bool:
            together.wait()
            return asyncio.run(gathered(seed))

        with ThreadPoolExecutor(8) as pool:
            work = [pool.submit(threaded if seed < 6 else looped, seed) for seed in range(8)]
            assert [job.result() for job in work] == [True] * 8
        assert shared.load.pairs == shared.load.calls == shared.load.tokens == 0


# ---- fairness


def test_a_small_call_does_not_wait_for_a_large_one(
    shared: SharedReranker, forward: WatchedForward, own_tiny: CrossEncoder
) -> None:
    """Five documents that come while thousands are under way are answered after the next batch."""
    own_tiny.max_batch_tokens = 500
    forward.hold()
    large = shared.submit(QUERY, [f"{text} {number}" for number, text in enumerate(texts(600))])
    forward.wait_for_entry()
    small = shared.submit("cat", texts(5, 1, 5))
    done: list[str] = []
    large.add_done_callback(lambda future: done.append("large"))
    small.add_done_callback(lambda future: done.append("small"))
    forward.gate.set()
    large.result(WAIT_S)
    small.result(WAIT_S)
    assert done == ["small", "large"]


def test_a_large_call_is_scored_while_its_rest_is_tokenised(
    shared: SharedReranker, forward: WatchedForward, own_tiny: CrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model does not wait for the last text; the scoring thread never tokenises."""
    tokens = own_tiny.tokens
    threads: list[str] = []

    def slow(queries: list[str], documents: list[str], **given: Any) -> object:
        threads.append(threading.current_thread().name)
        if len(threads) == 2:
            forward.wait_for_entry()
        return tokens(queries, documents, **given)

    monkeypatch.setattr(own_tiny, "tokens", slow)
    documents = texts(2 * PIECE + 5, longest=8)
    answer = shared.submit(QUERY, documents).result(WAIT_S)
    monkeypatch.undo()
    assert threads == [threading.current_thread().name] * 3
    assert numbers(answer) == pytest.approx(logits(own_tiny, documents), abs=1e-5)


def test_coroutines_tokenise_in_the_pool(
    shared: SharedReranker, own_tiny: CrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the event loop nor the scoring thread does; pieces of two calls take turns."""
    tokens = own_tiny.tokens
    seen: list[tuple[str, str]] = []

    def noted(queries: list[str], documents: list[str], **given: Any) -> object:
        seen.append((threading.current_thread().name, queries[0]))
        return tokens(queries, documents, **given)

    monkeypatch.setattr(own_tiny, "tokens", noted)

    async def both() -> None:
        large = shared.score("large", texts(3 * PIECE, longest=3))
        await asyncio.gather(large, shared.score("small", ["cat"]))

    asyncio.run(both())
    assert {name for name, _ in seen} == {"secondpass-tokenise_0"}
    assert [query for _, query in seen].index("small") < 3


# ---- taking back


def test_cancelled_work_that_has_not_begun_is_not_done(shared: SharedReranker, forward: WatchedForward) -> None:
    """`cancel()` is true, the model never reads it."""
    forward.hold()
    first = shared.submit(QUERY, ["cat"])
    forward.wait_for_entry()
    second = shared.submit(QUERY, texts(20))
    assert second.cancel()
    assert shared.load.pairs == 1
    forward.gate.set()
    first.result(WAIT_S)
    shared.close()
    assert [len(batch) for batch in forward.lengths] == [1]
    with pytest.raises(CancelledError):
        second.result(0)


def test_the_rest_of_a_call_under_way_is_taken_back(
    shared: SharedReranker, forward: WatchedForward, own_tiny: CrossEncoder
) -> None:
    """Between its batches too."""
    own_tiny.max_batch_tokens = 200
    forward.hold()
    future = shared.submit(QUERY, texts(100))
    forward.wait_for_entry()
    assert future.cancel()
    forward.gate.set()
    shared.close()
    assert len(forward.lengths) == 1


async def test_a_cancelled_task_takes_its_work_back(shared: SharedReranker, forward: WatchedForward) -> None:
    """As when a client hangs up."""
    forward.hold()
    first = asyncio.create_task(shared.score(QUERY, ["cat"]))
    await asyncio.to_thread(forward.wait_for_entry)
    second = asyncio.create_task(shared.score(QUERY, texts(20)))
    while shared.load.tokens == 0:
        await asyncio.sleep(0.001)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert shared.load.pairs == 1
    forward.gate.set()
    await first
    await asyncio.to_thread(shared.close)
    assert [len(batch) for batch in forward.lengths] == [1]


async def test_a_cache_of_scores_holds_up_no_coroutine(own_tiny: CrossEncoder) -> None:
    """It is asked beside the event loop; what is cancelled or late meanwhile leaves nothing, and a budget goes on."""
    entered, go = threading.Event(), threading.Event()

    class Slow(ScoreCache):
        def find(self, keys: Sequence[bytes]) -> list[Kept | None]:
            entered.set()
            assert go.wait(WAIT_S)
            return super().find(keys)

    own_tiny.use_score_cache(Slow())
    shared = SharedReranker(own_tiny)
    first = asyncio.create_task(shared.score(QUERY, texts(3)))
    assert await asyncio.to_thread(entered.wait, WAIT_S)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    with pytest.raises(DeadlineExceeded, match=r"within 0\.05 s"):
        await asyncio.wait_for(shared.score(QUERY, texts(3), deadline_s=0.05), WAIT_S / 2)
    late = asyncio.create_task(shared.score(QUERY, texts(3), budget_s=0.01))
    await asyncio.sleep(0.02)
    go.set()
    answer = await late
    assert answer.read is not None
    assert not answer.read.any()
    assert shared.load.pairs == 0
    again = [(await shared.score(QUERY, texts(3))).record.cache_hits for _ in range(2)]
    # what was cancelled was not scored
    assert again == [0, 3]
    await asyncio.to_thread(shared.close)
    with pytest.raises(SecondPassError, match="closed"):
        await shared.score(QUERY, ["cat"])


@pytest.mark.parametrize("cache", [None, ScoreCache()])
async def test_a_budget_ends_whatever_the_tokenizer_does(
    own_tiny: CrossEncoder, cache: ScoreCache | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is busy with the texts of another caller: the answer comes all the same, without a score."""
    entered, go, tokens = threading.Event(), threading.Event(), own_tiny.tokens

    def slow(queries: Sequence[str], documents: Sequence[str], **more: Any) -> Any:
        if "slow" in documents:
            entered.set()
            assert go.wait(WAIT_S)
        return tokens(queries, documents, **more)

    monkeypatch.setattr(own_tiny, "tokens", slow)
    own_tiny.use_score_cache(cache)
    shared = SharedReranker(own_tiny)
    first = asyncio.create_task(shared.score(QUERY, ["slow"]))
    assert await asyncio.to_thread(entered.wait, WAIT_S)
    answer = await asyncio.wait_for(shared.score(QUERY, ["cat", ""], budget_s=0.02), WAIT_S / 2)
    assert answer.read is not None
    assert not answer.read.any()
    assert answer.blank.tolist() == [[False, False], [False, True]]
    assert not first.done()
    go.set()
    assert (await first).read is None
    await asyncio.to_thread(shared.close)


def test_a_budget_begins_with_a_small_batch(shared: SharedReranker, forward: WatchedForward) -> None:
    """How fast the model is nobody knows before; the next ones are as large as fit."""
    answer = shared.submit(QUERY, texts(100), budget_s=WAIT_S).result(WAIT_S)
    assert answer.read is None
    first, *others = map(sum, forward.lengths)
    assert first <= batch_tokens("cpu") // FIRST_PIECE < max(others)


def test_a_caller_that_is_interrupted_while_tokenising_leaves_nothing(
    shared: SharedReranker, own_tiny: CrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C comes anywhere."""

    def interrupted(queries: list[str], documents: list[str], **given: Any) -> object:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(own_tiny, "tokens", interrupted)
        with pytest.raises(KeyboardInterrupt):
            shared.submit(QUERY, ["cat"])
    assert shared.load.calls == 0
    shared.submit(QUERY, ["cat"]).result(WAIT_S)


# ---- deadlines and overload


def test_late_work_is_dropped(shared: SharedReranker, forward: WatchedForward) -> None:
    """What was not begun in time is not begun, the error says how long the time was."""
    forward.hold()
    first = shared.submit(QUERY, ["cat"])
    forward.wait_for_entry()
    late = shared.submit(QUERY, texts(20), deadline_s=0.01)
    in_time = shared.submit(QUERY, ["mat"], deadline_s=1000)
    threading.Event().wait(0.02)
    forward.gate.set()
    with pytest.raises(DeadlineExceeded, match=r"the answer was not there within 0\.01 s"):
        late.result(WAIT_S)
    first.result(WAIT_S)
    in_time.result(WAIT_S)
    assert [len(batch) for batch in forward.lengths] == [1, 1]


def test_a_call_that_becomes_late_under_way_is_dropped_between_batches(
    shared: SharedReranker, forward: WatchedForward, own_tiny: CrossEncoder
) -> None:
    """The rest of it does not hold up anybody."""
    own_tiny.max_batch_tokens = 200
    forward.hold()
    future = shared.submit(QUERY, texts(100), deadline_s=0.5)
    forward.wait_for_entry()
    threading.Event().wait(0.6)
    forward.gate.set()
    with pytest.raises(DeadlineExceeded):
        future.result(WAIT_S)
    shared.close()
    assert len(forward.lengths) == 1


async def test_a_coroutine_hears_of_its_deadline_while_a_batch_runs(
    shared: SharedReranker, forward: WatchedForward
) -> None:
    """At the time, not after the batch; its place is free."""
    forward.hold()
    with pytest.raises(DeadlineExceeded, match=r"within 0\.05 s"):
        await shared.score(QUERY, ["cat"], deadline_s=0.05)
    assert shared.load.calls == 0


async def test_a_full_queue_refuses_at_once(own_tiny: CrossEncoder, forward: WatchedForward) -> None:
    """Threads and coroutines alike; what was accepted is answered, and then there is room."""
    with SharedReranker(own_tiny, max_waiting_pairs=10) as shared:
        forward.hold()
        accepted = [shared.submit(QUERY, texts(5, seed)) for seed in range(2)]
        with pytest.raises(Overloaded, match="10 pairs are waiting"):
            shared.submit(QUERY, ["cat"])
        with pytest.raises(Overloaded, match="10 pairs are waiting"):
            await shared.score(QUERY, ["cat"])
        with pytest.raises(InvalidInput, match="max_waiting_pairs=10: split the call"):
            shared.submit(QUERY, texts(11))
        forward.gate.set()
        assert [len(future.result(WAIT_S).logits) for future in accepted] == [5, 5]
        assert len((await shared.score(QUERY, texts(10))).logits) == 10


async def test_too_many_tokens_are_refused_too(own_tiny: CrossEncoder, forward: WatchedForward) -> None:
    """Known after tokenising: raised by `submit`, and through the coroutine."""
    with SharedReranker(own_tiny, max_waiting_tokens=300) as shared:
        forward.hold()
        accepted = shared.submit(QUERY, [f"mat {'dog ' * 50} {number}" for number in range(4)])
        with pytest.raises(Overloaded, match="tokens are waiting"):
            shared.submit(QUERY, ["cat " * 60])
        with pytest.raises(Overloaded, match="tokens are waiting"):
            await shared.score(QUERY, ["cat " * 60])
        assert shared.load.calls == 1
        forward.gate.set()
        accepted.result(WAIT_S)


# ---- errors


def test_a_pair_that_is_too_long_is_named_as_the_caller_counts(own_tiny: CrossEncoder) -> None:
    """Also beyond the first piece."""
    own_tiny.truncation = "error"
    documents = [*["cat"] * (PIECE + 3), "mat " * 500]
    with SharedReranker(own_tiny) as shared:
        with pytest.raises(InvalidInput, match=f"pair {PIECE + 3} has "):
            shared.submit(QUERY, documents)
        with pytest.raises(InvalidInput, match=f"pair {PIECE + 3} has "):
            asyncio.run(shared.score(QUERY, documents))
        documents[3] = documents[-1]
        with pytest.raises(TooLong, match="pair 3 has ") as refused:
            shared.submit(QUERY, documents)
        assert refused.value.indices == (3, PIECE + 3)
        assert shared.load.calls == 0


def test_a_call_is_cut_as_it_asks(own_tiny: CrossEncoder) -> None:
    """Its own policy, beside another call with the model's; the cuts count in the call."""
    documents = [*["cat mat"] * (PIECE + 3), "cat mat dog tree"]
    with SharedReranker(own_tiny) as shared:
        asked = shared.submit(QUERY, documents, cut=CutPolicy(max_document_tokens=2))
        plain, short = shared.submit(QUERY, documents), shared.submit(QUERY, ["cat mat"] * len(documents))
        assert asked.result(WAIT_S).record.truncated == (Cut(PIECE + 3, 0, 2),)
        assert plain.result(WAIT_S).record.truncated == ()
        assert np.allclose(asked.result(WAIT_S).logits, short.result(WAIT_S).logits, atol=1e-5)
        assert not np.allclose(plain.result(WAIT_S).logits, short.result(WAIT_S).logits, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_waiting_pairs": 0}, "max_waiting_pairs"),
        ({"max_waiting_tokens": 1.5}, "max_waiting_tokens"),
        ({"max_wait_ms": -1}, "max_wait_ms"),
        ({"max_wait_ms": float("nan")}, "max_wait_ms"),
        ({"max_round_tokens": 0}, "max_round_tokens"),
    ],
)
def test_limits_are_checked(own_tiny: CrossEncoder, arguments: dict[str, float], message: str) -> None:
    """At once, by name."""
    with pytest.raises(InvalidInput, match=message):
        SharedReranker(own_tiny, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("deadline", [0, -1, float("nan")])
def test_a_deadline_is_in_the_future(shared: SharedReranker, deadline: float) -> None:
    """Refused before anything is queued."""
    with pytest.raises(InvalidInput, match="deadline_s"):
        shared.submit(QUERY, ["cat"], deadline_s=deadline)
    assert shared.load.calls == 0


# ---- closing


def test_closing_finishes_what_was_accepted(own_tiny: CrossEncoder, forward: WatchedForward) -> None:
    """And accepts no more; twice is once."""
    shared = SharedReranker(own_tiny)
    forward.hold()
    futures = [shared.submit(QUERY, texts(50, seed)) for seed in range(4)]
    forward.wait_for_entry()
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(shared.close)
        refused = False
        while not refused:
            try:
                futures.append(shared.submit(QUERY, ["cat"]))
            except SecondPassError as error:
                refused = str(error) == "this SharedReranker is closed"
        forward.gate.set()
        closing.result()
    assert all(len(future.result(0).logits) for future in futures)
    shared.close()
    with pytest.raises(SecondPassError, match="this SharedReranker is closed"):
        asyncio.run(shared.score(QUERY, ["cat"]))
    assert len(own_tiny.rank(QUERY, ["cat", "mat"])) == 2


@pytest.mark.parametrize("arguments", [{"drain": False}, {"timeout_s": 0.01}])
def test_closing_without_patience_fails_the_rest(
    own_tiny: CrossEncoder, forward: WatchedForward, arguments: dict[str, float]
) -> None:
    """Clearly, and without scoring it."""
    shared = SharedReranker(own_tiny)
    forward.hold()
    futures = [shared.submit(QUERY, ["cat"])]
    forward.wait_for_entry()
    futures += [shared.submit(QUERY, texts(50)), shared.submit(QUERY, texts(50, 1))]
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(shared.close, **arguments)
        for future in futures:
            with pytest.raises(SecondPassError, match="closed: this call was not finished"):
                future.result(WAIT_S)
        forward.gate.set()
        closing.result()
    assert len(forward.lengths) == 1


def test_a_callback_may_close(shared: SharedReranker, forward: WatchedForward) -> None:
    """It runs in the scoring thread, which does not wait for itself."""
    closed_by: list[str] = []

    def close(_: Future[Scored]) -> None:
        shared.close()
        closed_by.append(threading.current_thread().name)

    forward.hold()
    future = shared.submit(QUERY, ["cat"])
    future.add_done_callback(close)
    forward.gate.set()
    future.result(WAIT_S)
    shared.close()
    assert closed_by == ["secondpass-score"]


def test_a_callback_that_closes_waits_for_nobody(shared: SharedReranker, forward: WatchedForward) -> None:
    """Only its own thread could finish the others: they fail, and closing comes to its end."""
    forward.hold()
    first = shared.submit(QUERY, ["cat"])
    forward.wait_for_entry()
    second = shared.submit(QUERY, texts(9))
    first.add_done_callback(lambda _: shared.close())
    forward.gate.set()
    with pytest.raises(SecondPassError, match="closed: this call was not finished"):
        second.result(WAIT_S)
    assert len(first.result(WAIT_S).logits) == 1
    shared.close()


def test_a_callback_in_the_thread_that_tokenises_may_close(
    shared: SharedReranker, own_tiny: CrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait for itself either."""
    go, tokens, closed_by = threading.Event(), own_tiny.tokens, list[str]()

    def refusing(queries: Sequence[str], documents: Sequence[str], **more: Any) -> Any:
        if "bad" in documents:
            assert go.wait(WAIT_S)
            raise InvalidInput("bad")
        return tokens(queries, documents, **more)

    def close(_: Future[Scored]) -> None:
        shared.close()
        closed_by.append(threading.current_thread().name)

    monkeypatch.setattr(own_tiny, "tokens", refusing)
    future = shared.submit(QUERY, [*texts(PIECE), "bad"], budget_s=10 * WAIT_S)
    future.add_done_callback(close)
    go.set()
    with pytest.raises(InvalidInput, match="bad"):
        future.result(WAIT_S)
    shared.close()
    assert closed_by == ["secondpass-tokenise_0"]


def test_coroutines_under_way_are_drained_from_another_thread(own_tiny: CrossEncoder, forward: WatchedForward) -> None:
    """Also those that are still being tokenised."""
    shared = SharedReranker(own_tiny)

    async def work() -> list[Scored]:
        forward.hold()
        asked = [asyncio.create_task(shared.score(QUERY, texts(PIECE + 9, seed, 4))) for seed in range(3)]
        await asyncio.to_thread(forward.wait_for_entry)
        closing = asyncio.create_task(asyncio.to_thread(shared.close))
        forward.gate.set()
        answers = await asyncio.gather(*asked)
        await closing
        return answers

    assert [len(answer.logits) for answer in asyncio.run(work())] == [PIECE + 9] * 3
