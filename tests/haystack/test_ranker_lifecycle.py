"""Loading, dropping, copying, threads and the event loop."""

import asyncio
import copy
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from haystack import Document, Pipeline
from haystack_integrations.components.rankers.secondpass import SecondPassRanker

from secondpass import CrossEncoder

MakeRanker = Callable[..., SecondPassRanker]
QUERY = "where is the capital of france"


def loads_counted(ranker: SecondPassRanker, monkeypatch: pytest.MonkeyPatch) -> list[CrossEncoder]:
    """Return a list that gets every model that `ranker` loads."""
    loaded: list[CrossEncoder] = []
    load = ranker._load

    def counted() -> CrossEncoder:
        loaded.append(load())
        return loaded[-1]

    monkeypatch.setattr(ranker, "_load", counted)
    return loaded


def test_construction_loads_nothing() -> None:
    """A wrong model costs nothing until it is used."""
    SecondPassRanker(model="/no/such/folder")


def test_two_first_calls_load_the_model_once(
    make_ranker: MakeRanker, documents: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that warm up and run together wait for one load."""
    ranker = make_ranker()
    loaded = loads_counted(ranker, monkeypatch)
    barrier = threading.Barrier(4)

    def first(number: int) -> None:
        barrier.wait()
        if number % 2:
            ranker.warm_up()
        else:
            ranker.run(query=QUERY, documents=documents)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(first, range(4)))
    ranker.warm_up()
    assert len(loaded) == 1


def test_run_after_close_loads_again(
    make_ranker: MakeRanker, documents: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing drops the weights; the next run gives the same result with new ones."""
    ranker = make_ranker()
    loaded = loads_counted(ranker, monkeypatch)
    ranker.close()
    before = ranker.run(query=QUERY, documents=documents)
    ranker.close()
    assert loaded[0].model is None
    assert ranker.run(query=QUERY, documents=documents) == before
    assert len(loaded) == 2


async def test_the_async_lifecycle_is_the_same(
    make_ranker: MakeRanker, documents: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    """warm_up_async, run_async and close_async do what their twins do."""
    ranker = make_ranker()
    loaded = loads_counted(ranker, monkeypatch)
    await ranker.warm_up_async()
    await ranker.warm_up_async()
    assert len(loaded) == 1
    result = await ranker.run_async(query=QUERY, documents=documents, top_k=3)
    assert result == ranker.run(query=QUERY, documents=documents, top_k=3)
    await ranker.close_async()
    assert loaded[0].model is None
    assert await ranker.run_async(query=QUERY, documents=documents, top_k=3) == result


@pytest.mark.parametrize("method", ["warm_up_async", "run_async"])
async def test_the_event_loop_goes_on_while_a_model_is_loaded(
    make_ranker: MakeRanker, documents: list[Document], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """While the load hangs in its thread, the loop runs other tasks."""
    ranker = make_ranker()
    load = ranker._load
    started, go_on = threading.Event(), threading.Event()

    def slow() -> CrossEncoder:
        started.set()
        assert go_on.wait(30)
        return load()

    monkeypatch.setattr(ranker, "_load", slow)
    arguments: dict[str, Any] = {"query": QUERY, "documents": documents} if method == "run_async" else {}
    task = asyncio.create_task(getattr(ranker, method)(**arguments))
    while not started.is_set():
        await asyncio.sleep(0.001)
    assert not task.done()
    go_on.set()
    await task


async def test_a_cancelled_call_leaves_the_next_one_working(
    make_ranker: MakeRanker, documents: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The abandoned thread runs out; a call meanwhile and a call afterwards give what they always give."""
    ranker = make_ranker()
    expected = ranker.run(query=QUERY, documents=documents)
    ranker.close()
    load = ranker._load
    started, go_on = threading.Event(), threading.Event()

    def slow() -> CrossEncoder:
        started.set()
        assert go_on.wait(30)
        return load()

    monkeypatch.setattr(ranker, "_load", slow)
    task = asyncio.create_task(ranker.run_async(query=QUERY, documents=documents))
    while not started.is_set():
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    meanwhile = asyncio.create_task(ranker.run_async(query=QUERY, documents=documents))
    await asyncio.sleep(0)
    go_on.set()
    assert await meanwhile == expected
    assert await ranker.run_async(query=QUERY, documents=documents) == expected


def test_threads_with_different_arguments_get_what_one_thread_gets(
    make_ranker: MakeRanker, documents: list[Document]
) -> None:
    """Eight threads, 160 calls with other queries, lengths, limits and scales: equal to a serial run, bit for bit."""
    ranker = make_ranker()
    words = ["apple", "where is london", "reset the password " * 30, "cook", "garden tree " * 60, "dog"]
    calls: list[dict[str, Any]] = [
        {
            "query": words[number % 6],
            "documents": [
                Document(id=f"{number}-{index}", content=f"{document.content} {words[(number + index) % 6]}")
                for index, document in enumerate(documents[: 1 + number % 6])
            ],
            "top_k": 1 + number % 5,
            "scale_score": number % 2 == 0,
            "score_threshold": [None, 0.0, 0.5][number % 3],
        }
        for number in range(40)
    ] * 4
    serial = [ranker.run(**call) for call in calls]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda call: ranker.run(**call), calls)) == serial


def test_a_model_closed_under_calls_disturbs_none(make_ranker: MakeRanker, documents: list[Document]) -> None:
    """While one thread closes the ranker again and again, every call of the others gives the right result."""
    ranker = make_ranker()
    expected = ranker.run(query=QUERY, documents=documents)
    done = threading.Event()

    def close() -> None:
        while not done.is_set():
            ranker.close()

    closer = threading.Thread(target=close)
    closer.start()
    try:
        with ThreadPoolExecutor(3) as pool:
            results = list(pool.map(lambda _: ranker.run(query=QUERY, documents=documents), range(12)))
    finally:
        done.set()
        closer.join()
    assert results == [expected] * 12


def pickled(ranker: SecondPassRanker) -> SecondPassRanker:
    """Return a copy that went through bytes."""
    return pickle.loads(pickle.dumps(ranker))  # noqa: S301


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_a_copy_takes_the_configuration_and_not_the_weights(
    make_ranker: MakeRanker, documents: list[Document], monkeypatch: pytest.MonkeyPatch, copied: Callable[..., Any]
) -> None:
    """A copy of a loaded ranker inside a pipeline is small, free of that pipeline, and works on its own."""
    ranker = make_ranker(top_k=3, meta_fields_to_embed=["place"])
    expected = ranker.run(query=QUERY, documents=documents)
    Pipeline().add_component("ranker", ranker)
    assert len(pickle.dumps(ranker)) < 20_000
    twin = copied(ranker)
    loaded = loads_counted(twin, monkeypatch)
    assert twin.to_dict() == ranker.to_dict()
    assert twin.run(query=QUERY, documents=documents) == expected
    assert len(loaded) == 1
    twin.close()
    assert ranker.run(query=QUERY, documents=documents) == expected
    Pipeline().add_component("ranker", twin)


def test_the_model_is_loaded_in_the_precision_asked_for(make_ranker: MakeRanker, documents: list[Document]) -> None:
    """None leaves it to the model; a pipeline file and a copy keep the wish."""
    for asked, used in ((None, "fp32"), ("bf16", "bf16")):
        ranker = make_ranker(precision=asked)
        for same in (ranker, copy.deepcopy(ranker), SecondPassRanker.from_dict(ranker.to_dict())):
            assert same.run(query=QUERY, documents=documents)["reranked"] is True
            with same.lent_model() as encoder:
                assert encoder.precision == used
