"""Rows 30 to 34 of the fault table: memory, lengths, threads and training."""

from __future__ import annotations

import random
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from secondpass import CallRecord, CrossEncoder
from secondpass.cascade import Cascade
from secondpass.errors import OutOfMemory, SecondPassError
from secondpass.windows import Windows
from tests.model_spy import before_forward
from tests.tiny_models import WORDS
from tests.toy_task import Scripted, loader

QUERY = "how to reset the password"
FAST: dict[str, Any] = {"warmup_steps": 0, "show_progress_bar": False}


def texts(count: int, seed: int = 0, longest: int = 100) -> list[str]:
    """Draw documents of mixed lengths."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randrange(1, longest))) for _ in range(count)]


def fits(tokens: int, error: Callable[[], Exception]) -> Callable[[dict[str, torch.Tensor]], None]:
    """Fail like a device on which a batch of more than `tokens` padded tokens does not fit."""

    def check(inputs: dict[str, torch.Tensor]) -> None:
        if inputs["input_ids"].numel() > tokens:
            raise error()

    return check


# ---- 30: out of memory


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError,
        lambda: RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_row_30_out_of_memory_halves_the_batch_and_loses_nothing(
    own_tiny: CrossEncoder, error: Callable[[], Exception]
) -> None:
    """Every document is scored all the same, and the record counts the repeated batches."""
    documents = texts(40)
    expected = own_tiny.rank(QUERY, documents)
    records: list[CallRecord] = []
    with before_forward(own_tiny, fits(300, error)):
        made = own_tiny.rank(QUERY, documents, records=records)
    assert [hit["corpus_id"] for hit in made] == [hit["corpus_id"] for hit in expected]
    assert [hit["score"] for hit in made] == pytest.approx([hit["score"] for hit in expected], abs=1e-5)
    assert records[0].retries > 0
    assert records[0].pairs == 40


def test_row_30_a_single_document_out_of_memory_is_an_error_with_its_tokens(own_tiny: CrossEncoder) -> None:
    """There is no smaller batch: no score is made up, the pair and its length are named, the next call works."""
    with before_forward(own_tiny, fits(40, torch.OutOfMemoryError)):
        with pytest.raises(OutOfMemory, match="pair 1 alone, 65 tokens"):
            own_tiny.rank("cat", ["mat", "mat " * 61, "dog"])
        assert len(own_tiny.rank("cat", ["mat", "dog"])) == 2


def test_row_30_a_pair_is_named_by_its_place_in_the_call(own_tiny: CrossEncoder) -> None:
    """Where one in front of it is read in several windows, too; a cascade adds which model it was."""
    river = own_tiny.tokenizer.convert_tokens_to_ids("river")

    def check(inputs: dict[str, torch.Tensor]) -> None:
        if (inputs["input_ids"] == river).any():
            raise torch.OutOfMemoryError

    documents = ["mat " * 50, "sun", "the river"]
    cascade = Cascade([own_tiny, own_tiny], keep=[3])
    ways: list[tuple[Any, str]] = [(own_tiny, "^pair 2 alone, "), (cascade, r"^model 0, pairs \[2\]: pair 2 alone, ")]
    for model, message in ways:
        with before_forward(own_tiny, check), pytest.raises(OutOfMemory, match=message) as caught:
            model.rank_many(["cat"], [documents], truncation=Windows(tokens=20))
        assert caught.value.indices == (2,)


def test_row_30_the_failed_batch_is_freed_before_the_next(own_tiny: CrossEncoder) -> None:
    """The exception's frames hold the tensors of the failed forward: they are gone when the half is tried."""
    held: list[weakref.ref[torch.Tensor]] = []
    freed: list[bool] = []

    def fail_twice(inputs: dict[str, torch.Tensor]) -> None:
        freed.extend(reference() is None for reference in held[-1:])
        if len(held) < 2:
            activations = torch.zeros(1000)
            held.append(weakref.ref(activations))
            raise torch.OutOfMemoryError

    with before_forward(own_tiny, fail_twice):
        own_tiny.predict([(QUERY, document) for document in texts(16, longest=10)])
    assert freed[:2] == [True, True]


# ---- 31: lengths


def test_row_31_batches_are_made_of_tokens_not_of_pairs(own_tiny: CrossEncoder) -> None:
    """Padded batches stay within the budget, longest first, with little padding among mixed lengths."""
    own_tiny.max_batch_tokens = 400
    shapes: list[tuple[int, int]] = []
    with before_forward(own_tiny, lambda inputs: shapes.append(tuple(inputs["input_ids"].shape))):
        records: list[CallRecord] = []
        own_tiny.rank(QUERY, texts(80), batch_size=32, records=records)
    assert sum(pairs for pairs, _ in shapes) == 80
    assert all(pairs * width <= 400 for pairs, width in shapes)
    assert max(pairs for pairs, _ in shapes) > 2 * min(pairs for pairs, _ in shapes[:-1])
    assert [width for _, width in shapes] == sorted((width for _, width in shapes), reverse=True)
    assert records[0].padding_share < 0.1
    assert records[0].batches == len(shapes)


def test_row_31_batch_size_is_an_upper_bound(own_tiny: CrossEncoder) -> None:
    """The contract's number of pairs is never exceeded, whatever the budget."""
    own_tiny.max_batch_tokens = 10**6
    sizes: list[int] = []
    with before_forward(own_tiny, lambda inputs: sizes.append(len(inputs["input_ids"]))):
        own_tiny.rank(QUERY, texts(20), batch_size=7)
    assert sizes == [7, 7, 6]


# ---- 32, 33: threads


def jobs(encoder: CrossEncoder) -> list[Callable[[], Any]]:
    """Calls that differ in everything an argument can say."""
    made: list[Callable[[], Any]] = []
    for number in range(4):
        documents = texts(12, seed=number, longest=10 + 30 * number)
        pairs = [(f"{WORDS[number]} {QUERY}", document) for document in documents]
        options = [
            {"batch_size": 3, "activation_fct": nn.Identity()},
            {"batch_size": 32},
            {"convert_to_tensor": True, "activation_fct": nn.Tanh()},
            {"convert_to_numpy": False, "batch_size": 1},
        ][number]
        made.append(lambda pairs=pairs, options=options: encoder.predict(pairs, **options))
        made.append(lambda q=WORDS[number], d=documents, o=options: encoder.rank(q, d, top_k=5, **o))
        made.append(
            lambda d=documents, n=number: [
                (r.documents, r.truncated)
                for r in encoder.rank_many([QUERY, "cat"], [d[: n + 1], d], batch_size=2 + n, top_k=7)
            ]
        )
    return made


def bits(result: Any) -> Any:
    """Turn a result into something that only an equal one, bit for bit, compares equal to."""
    if isinstance(result, np.ndarray):
        return result.tobytes()
    if isinstance(result, torch.Tensor):
        return result.numpy().tobytes()
    if isinstance(result, list):
        return [bits(item) for item in result]
    if isinstance(result, dict):
        return [(key, np.asarray(value).tobytes()) for key, value in result.items()]
    return repr(result)


@pytest.mark.parametrize("torch_threads", [1, 2])
def test_row_32_eight_threads_get_what_one_thread_gets(own_tiny: CrossEncoder, torch_threads: int) -> None:
    """`predict`, `rank` and `rank_many` with different arguments at the same time: equal bit for bit."""
    torch.set_num_threads(torch_threads)
    own_tiny.max_length = 64
    work = jobs(own_tiny)
    serial = [bits(job()) for job in work]
    together = threading.Barrier(8)

    def run(seed: int) -> list[int]:
        order = random.Random(seed).sample(range(len(work)), len(work))
        together.wait()
        return [number for _ in range(2) for number in order if bits(work[number]()) != serial[number]]

    with ThreadPoolExecutor(8) as pool:
        wrong = list(pool.map(run, range(8)))
    assert wrong == [[]] * 8


def test_row_33_models_loaded_at_the_same_time_are_whole(tiny_folder: str, tiny: CrossEncoder) -> None:
    """Loading in four threads at once gives four equal models and leaves torch's defaults alone."""
    before = torch.get_default_dtype()
    kinds = [torch.float32, torch.bfloat16] * 2
    with ThreadPoolExecutor(4) as pool:
        made = list(
            pool.map(lambda kind: CrossEncoder(tiny_folder, device="cpu", automodel_args={"dtype": kind}), kinds)
        )
    assert [encoder.model.dtype for encoder in made] == kinds
    assert torch.get_default_dtype() == before
    for encoder in made:
        encoder.model.float()
        assert encoder.predict((QUERY, "cat")) == pytest.approx(tiny.predict((QUERY, "cat")), abs=0.05)


# ---- 34: training


def test_row_34_a_call_from_another_thread_during_fit_is_refused(own_tiny: CrossEncoder) -> None:
    """No score with dropout noise: a clear error elsewhere, an answer for the thread that trains."""
    outcomes: list[object] = []
    calls: list[Callable[[], object]] = [
        lambda: own_tiny.predict((QUERY, "cat")),
        lambda: own_tiny.rank(QUERY, ["cat"]),
        lambda: own_tiny.rank_many([QUERY], [["cat"]]),
        lambda: own_tiny.save("never"),
    ]

    def attempt() -> None:
        for call in calls:
            try:
                outcomes.append(call())
            except SecondPassError as error:
                outcomes.append(str(error))

    def evaluate(encoder: CrossEncoder) -> None:
        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
        for call in calls[:3]:
            call()

    own_tiny.fit(loader(4), Scripted([0.5], then=evaluate), **FAST)
    refusal = "this CrossEncoder is being trained in another thread: score when fit has returned"
    assert outcomes == [refusal] * 4
    outcomes.clear()
    calls.pop()
    evaluate(own_tiny)
    assert len(outcomes) == 3
    assert refusal not in outcomes


def test_row_34_a_call_that_fit_overtakes_is_refused(own_tiny: CrossEncoder) -> None:
    """When training begins in the middle of a call, that call ends with the error, not with noisy scores."""
    begun, go_on = threading.Event(), threading.Event()
    caller = threading.get_ident()

    def train() -> None:
        own_tiny.fit(loader(4), Scripted([0.5], then=lambda encoder: (begun.set(), go_on.wait(10))), **FAST)

    trainer = threading.Thread(target=train)
    batches: list[int] = []

    def overtake(inputs: dict[str, torch.Tensor]) -> None:
        if threading.get_ident() == caller:
            batches.append(1)
            if len(batches) == 2:
                # What a forward in this thread would hold up; the trainer needs no lock of ours.
                trainer.start()
                assert begun.wait(10)

    try:
        with before_forward(own_tiny, overtake), pytest.raises(SecondPassError, match="being trained"):
            own_tiny.predict([(QUERY, document) for document in texts(12)], batch_size=4)
    finally:
        go_on.set()
        trainer.join()
    assert len(batches) == 2


def test_row_34_an_encoder_is_ready_after_a_fit_that_failed(own_tiny: CrossEncoder) -> None:
    """An error in training gives the model back to every thread, in evaluation mode."""

    def fail(encoder: CrossEncoder) -> None:
        raise RuntimeError("evaluator failed")

    with pytest.raises(RuntimeError, match="evaluator failed"):
        own_tiny.fit(loader(4), Scripted([0.5], then=fail), **FAST)
    with ThreadPoolExecutor(1) as pool:
        first, second = (pool.submit(own_tiny.predict, (QUERY, "cat")).result() for _ in range(2))
    assert first == second
