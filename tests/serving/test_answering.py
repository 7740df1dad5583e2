"""From pairs to an answer."""

from __future__ import annotations

import asyncio
import importlib
import re
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from torch import nn

from secondpass import Cascade, CrossEncoder, StoppingRule
from secondpass.activations import TemperedSigmoid
from secondpass.calibration import Calibration
from secondpass.errors import DeadlineExceeded, InvalidInput, OutOfMemory
from secondpass.serving import answering
from secondpass.serving.answering import answered, check_texts, unless_gone
from secondpass.serving.models import Models, Served
from secondpass.serving.problems import Problem
from secondpass.serving.settings import Settings
from secondpass.serving.work import Work, agreement
from secondpass.windows import Windows
from tests.model_spy import before_forward, inputs_read
from tests.serving.conftest import Held, Live, Serve, running, until
from tests.serving.test_telemetry import samples
from tests.tiny_models import LENGTH

TEXTS = ("the cat sat on the mat", "a dog", "paris is the capital of france", "a dog", "cat " * 300)


def work(**given: Any) -> Work:
    """The texts for one query."""
    return Work(None, ("where is the cat",) * len(TEXTS), TEXTS, **given)


@pytest.fixture
async def served(own_tiny: CrossEncoder) -> AsyncIterator[Served]:
    """A tiny model behind a queue."""
    models = Models({"tiny": own_tiny}, Settings(), lambda *given: None)
    yield models.get(None)
    models.close()


async def test_scores_and_order_are_those_in_process(served: Served) -> None:
    """Equal documents tie and keep their order."""
    answer = await answered(served, work(), 30)
    (ranking,) = served.reranker.rank_many(["where is the cat"], [TEXTS])
    assert answer.order == tuple(item.index for item in ranking.documents)
    for item in ranking.documents:
        assert answer.scores[item.index] == pytest.approx(item.score, abs=1e-6)
        assert answer.logits[item.index] == pytest.approx(item.logit, abs=1e-5)
    assert answer.scores[1] == answer.scores[3]
    assert answer.cuts == ranking.truncated
    assert answer.warnings == (f"cut documents: index 4 ({answer.cuts[0].document_tokens} tokens; the window has 128)",)


async def test_a_models_own_scores_and_those_from_0_to_1_are_both_there(served: Served) -> None:
    """A model that stores the identity has logits for scores; where its own are from 0 to 1 they are the same."""
    served.reranker.default_activation_function = TemperedSigmoid(5.0)
    answer = await answered(served, work(), 30)
    assert answer.scaled == pytest.approx(answer.scores, abs=1e-6)
    assert answer.scaled == pytest.approx((1 / (1 + np.exp(-np.array(answer.logits) / 5))).tolist(), abs=1e-6)
    served.reranker.default_activation_function = nn.Identity()
    answer = await answered(served, work(), 30)
    assert answer.scores == answer.logits
    assert all(0 < probability < 1 for probability in answer.scaled)


async def test_documents_are_cut_as_asked(served: Served) -> None:
    """To a number of tokens the answer is that of the shorter texts, and the cuts are told."""
    answer = await answered(served, work(max_document_tokens=2), 30)
    short = tuple(" ".join(text.split()[:2]) for text in TEXTS)
    (ranking,) = served.reranker.rank_many(["where is the cat"], [short])
    assert answer.order == tuple(item.index for item in ranking.documents)
    assert [(cut.index, cut.document_tokens) for cut in answer.cuts] == [(0, 4), (2, 4), (4, 298)]
    assert (await answered(served, work(max_document_tokens=LENGTH), 30)).order == (
        await answered(served, work(), 30)
    ).order


async def test_queries_and_pairs_are_cut_as_asked(served: Served) -> None:
    """The first tokens of a query, and no more than so many of a pair, from the end that is asked for."""
    first = await answered(served, work(max_query_tokens=1), 30)
    short = await answered(served, Work(None, ("where",) * len(TEXTS), TEXTS), 30)
    assert first.logits == pytest.approx(short.logits, abs=1e-5)
    assert [cut.query_tokens for cut in first.cuts] == [3] * len(TEXTS)
    asked, long = ("a cat",) * 2, "cat dog mat apple bank"
    for tail, kept in ((False, "cat dog mat apple"), (True, "dog mat apple bank")):
        cut = await answered(served, Work(None, asked, (long, "a dog"), max_tokens=9, keep_tail=tail), 30)
        plain = await answered(served, Work(None, asked, (kept, "a dog")), 30)
        assert cut.logits == pytest.approx(plain.logits, abs=1e-5)
        assert [(one.index, one.query_tokens, one.document_tokens) for one in cut.cuts] == [(0, 0, 1)]
        assert cut.warnings == ("cut documents: index 0 (1 tokens; the window has 9)",)
    with pytest.raises(Problem, match="longer than the model's window of 9 tokens"):
        await answered(served, Work(None, asked, (long, "a"), max_tokens=9, refuse_cuts=True), 30)
    wide = await answered(served, work(max_tokens=LENGTH + 1, max_query_tokens=LENGTH), 30)
    assert wide.logits == (await answered(served, work(), 30)).logits


async def test_a_cut_that_may_not_be_is_refused(served: Served) -> None:
    """422 with the index."""
    with pytest.raises(Problem, match="texts at index 4: longer than the model's window of 128 tokens"):
        await answered(served, work(field="texts", refuse_cuts=True), 30)


async def test_a_pair_without_any_token_is_refused_by_its_query() -> None:
    """Of a template without special tokens, as a blank query is: by the field that the client filled."""
    encoder = CrossEncoder("secondpass/pocket", device="cpu", template="{query} {document}")
    models = Models({"bare": encoder}, Settings(), lambda *given: None)
    for field, asked in (("documents", "query"), ("pairs", "pairs[{}][0]"), ("text_2", "text_1[{}]")):
        with pytest.raises(Problem, match=re.escape(f"{asked.format(1)} is blank")) as refused:
            await answered(models.get(None), Work(None, ("\ue000", "\ue000"), ("a dog", ""), field, asked), 30)
        assert refused.value.status == 422
    models.close()


async def never() -> dict[str, Any]:
    """A client that stays."""
    await asyncio.Event().wait()
    raise AssertionError


async def gone() -> dict[str, Any]:
    """A client that goes at once."""
    return {"type": "http.disconnect"}


@pytest.mark.parametrize(("receive", "seconds", "status"), [(never, 0.01, 504), (gone, 30, 499)])
async def test_work_is_cancelled(receive: Callable[..., Any], seconds: float, status: int) -> None:
    """When its time is up or its client is gone."""
    ended = asyncio.Event()

    async def long() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.set()

    with pytest.raises(Problem) as refused:
        await unless_gone(receive, seconds, 7, long())
    assert refused.value.status == status
    assert ended.is_set()


async def test_results_and_errors_pass() -> None:
    """Of work that ends in time."""

    async def fails() -> None:
        raise KeyError

    assert await unless_gone(never, 5, 5, asyncio.sleep(0, "done")) == "done"
    with pytest.raises(KeyError):
        await unless_gone(never, 5, 5, fails())


@pytest.mark.parametrize("activation", [nn.Sigmoid(), nn.Identity(), nn.Tanh(), nn.SiLU(), nn.ReLU()])
@pytest.mark.parametrize("shift", [0.0, -500.0])
async def test_blank_documents_are_last_whatever_the_activation(
    own_tiny: CrossEncoder, activation: nn.Module, shift: float
) -> None:
    """In the order they came, with no higher score or logit than any other document; the others are as without them."""
    with torch.no_grad():
        own_tiny.model.classifier.bias.add_(shift)
    own_tiny.default_activation_function = activation
    texts = ("", "the cat sat on the mat", " \n" * 500, "a dog")
    models = Models({"tiny": own_tiny}, Settings(), lambda *given: None)
    answer = await answered(models.get(None), Work(None, ("where is the cat",) * 4, texts), 30)
    plain = await answered(models.get(None), Work(None, ("where is the cat",) * 2, texts[1::2]), 30)
    models.close()
    assert answer.order == (*(1 + 2 * index for index in plain.order), 0, 2)
    for name in ("scores", "logits", "scaled"):
        values = getattr(answer, name)
        assert values[1::2] == pytest.approx(getattr(plain, name), abs=1e-4)
        assert values[0] == values[2] <= min(values[1::2])
    assert answer.logits[0] == min(-100.0, *plain.logits)
    assert answer.cuts == ()


# Three windows and a half; the cat is in the third.
LONG_TEXT = "a dog sat. " * 78 + "The cat sat on the mat. " + "water the tree. " * 30


async def test_long_documents_are_read_in_windows(served: Served) -> None:
    """Where the request or the service says so: scores, passages and what was left out are those in process."""
    texts = (LONG_TEXT, "a dog", LONG_TEXT.upper())
    asked = Work(None, ("where is the cat",) * 3, texts, windows=True, passages=True)
    answer = await answered(served, asked, 30)
    (ranking,) = served.reranker.rank_many(["where is the cat"], [texts], truncation="windows")
    assert answer.order == tuple(item.index for item in ranking.documents)
    for item in ranking.documents:
        found, expected = answer.passages[item.index], item.passage
        assert (found.start, found.end, found.windows) == (expected.start, expected.end, expected.windows)
        assert found.score == pytest.approx(answer.scores[item.index], abs=1e-6)
        assert answer.logits[item.index] == pytest.approx(item.logit, abs=1e-5)
    assert answer.cuts == answer.warnings == ()
    assert answer.windows == 2 * answer.passages[0].windows > 6
    two = await answered(served, replace(asked, most_windows=2), 30)
    (cut,) = served.reranker.rank_many(["where is the cat"], [texts], truncation=Windows(most=2))
    assert two.logits == pytest.approx(
        [one.logit for one in sorted(cut.documents, key=lambda one: one.index)], abs=1e-5
    )
    lost = sum(one.document_tokens for one in two.cuts)
    assert two.warnings == (f"cut documents: indices 0, 2 ({lost} tokens; at most 2 windows of 128 are read)",)
    plain = await answered(served, Work(None, asked.queries, texts), 30)
    assert plain.logits != answer.logits
    served.standing = Windows()
    assert (await answered(served, Work(None, asked.queries, texts), 30)).logits == answer.logits


async def test_a_budget_that_is_spent_gives_what_is_known(serve: Serve, held: Held) -> None:
    """In any shape: what was scored, the rest as it was given and blank ones last, told in headers and counted."""
    live = serve()
    texts = ["", *(f"the {word} " + "cat " * 30 for word in ("cat", "dog", "mat", "book", "city", "train"))]
    bodies: dict[str, tuple[str, dict[str, Any]]] = {
        "/v1/rerank": ("documents", {"query": "cat", "documents": texts}),
        "/rerank": ("texts", {"query": "cat", "texts": texts}),
        "/v1/ranking": ("passages", {"query": {"text": "cat"}, "passages": [{"text": text} for text in texts]}),
        "/score": ("pairs", {"pairs": [["cat", text] for text in texts]}),
    }
    async with httpx.AsyncClient(base_url=live.url, timeout=60, trust_env=False) as client:

        async def ask(path: str, budget: str) -> httpx.Response:
            return await client.post(path, json=bodies[path][1], headers={"Secondpass-Budget-Ms": budget})

        first = asyncio.create_task(client.post("/v2/rerank", json=BODY))
        await asyncio.to_thread(held.reached.wait, 30)
        late = [asyncio.create_task(ask(path, "50")) for path in bodies]
        await asyncio.to_thread(until, lambda: waiting(live) == 2 + 4 * len(texts))
        await asyncio.sleep(0.06)
        held.go.set()
        assert (await first).status_code == 200
        answers = dict(zip(bodies, await asyncio.gather(*late), strict=True))
        whole = await ask("/v1/rerank", "60000")
        plain = await client.post("/v1/rerank", json=bodies["/v1/rerank"][1])
    for path, answer in answers.items():
        assert answer.status_code == 200
        assert (answer.headers["secondpass-scored"], answer.headers["secondpass-complete"]) == ("1", "false")
        field = f"(the budget was spent); blank {bodies[path][0]}: index 0"
        assert answer.headers["secondpass-warnings"].endswith(field)
    assert (whole.headers["secondpass-scored"], whole.headers["secondpass-complete"]) == (str(len(texts)), "true")
    assert whole.json()["meta"]["complete"] is True
    orders = [[item["index"] for item in answer.json()["results"]] for answer in (whole, plain)]
    assert orders[0] == orders[1]
    assert "secondpass-complete" not in plain.headers
    found = answers["/v1/rerank"].json()
    assert (found["meta"]["scored"], found["meta"]["complete"]) == (1, False)
    assert [item["index"] for item in found["results"]] == [*range(1, len(texts)), 0]
    assert [item.get("scored") for item in found["results"]] == [False] * (len(texts) - 1) + [None]
    shown = samples(live.client.get("/metrics").text)
    assert shown["secondpass_incomplete_answers_total", "tiny"] == 4
    assert shown["secondpass_pairs_total", "tiny"] == 2 + 2 * len(texts) + 4  # blank ones are known


async def test_scores_come_in_order_until_the_budget_is_spent(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The documents that were scored first are ranked as alone, the others stand behind them with the lowest score."""
    monkeypatch.setattr("secondpass.merging.scoring_thread.batch_tokens", lambda device: 130)
    texts = tuple(f"the {number} " + "cat " * 100 for number in range(30))
    with before_forward(served.reranker, lambda inputs: time.sleep(0.02)):
        asked = Work(None, ("where is the cat",) * len(texts), texts)
        answer = await answered(served, asked, 30, 0.2)
    assert 0 < answer.scored < len(texts)
    assert not answer.complete
    assert sorted(answer.unscored) == list(range(answer.scored, len(texts)))
    head = await answered(served, Work(None, asked.queries[: answer.scored], texts[: answer.scored]), 30)
    assert answer.order == (*head.order, *range(answer.scored, len(texts)))
    assert answer.logits[: answer.scored] == pytest.approx(head.logits, abs=1e-5)
    assert set(answer.scores[answer.scored :]) == {min(answer.scores[: answer.scored])}
    assert answer.pairs == answer.scored
    assert answer.tokens == head.tokens
    assert answer.warnings[-1].startswith(f"not scored: documents at indices {answer.scored}, ")


async def test_a_request_that_is_cancelled_stops_at_the_next_piece(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With windows and a budget too: what is not begun is never read."""
    monkeypatch.setattr("secondpass.merging.scoring_thread.batch_tokens", lambda device: 130)
    begun, go = threading.Event(), threading.Event()
    read = []

    def note(inputs: dict[str, Any]) -> None:
        read.append(inputs)
        begun.set()
        go.wait(30)

    with before_forward(served.reranker, note):
        asked = Work(None, ("where is the cat",) * 9, (LONG_TEXT,) * 9, windows=True)
        task = asyncio.create_task(answered(served, asked, 30, 20))
        assert await asyncio.to_thread(begun.wait, 30)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        go.set()
        await asyncio.to_thread(until, lambda: served.shared.load.pairs == 0)
        await served.shared.score("cat", ["mat"])
    assert len(read) <= 3


@pytest.mark.parametrize("name", [":memory:", "scores.db"])
async def test_pairs_seen_before_are_not_scored_again(
    own_tiny: CrossEncoder, tiny_model_folder: Callable[..., str], tmp_path: Path, name: str
) -> None:
    """By no model with these weights, whatever its name; another one scores anew. Counted wherever that is told."""
    settings = Settings(score_cache=name if name == ":memory:" else str(tmp_path / name), score_cache_mb=2)
    other = CrossEncoder(tiny_model_folder("bert", 1), device="cpu")
    with torch.no_grad():
        other.model.classifier.bias.add_(1.0)
    with running(settings, {"tiny": own_tiny, "other": other}) as live:
        first, again, longer = (
            live.client.post("/v2/rerank", json=BODY | {"documents": BODY["documents"] + more})
            for more in ([], [], ["the garden"])
        )
        assert again.json()["results"] == first.json()["results"]
        assert [answer.json()["usage"]["total_tokens"] > 0 for answer in (first, again, longer)] == [True, False, True]
        shown = samples(live.client.get("/metrics").text)
        assert shown["secondpass_score_cache_pairs_total", "hit"] == 4
        assert shown["secondpass_score_cache_pairs_total", "miss"] == 3
        assert shown["secondpass_score_cache_bytes", ""] > 0
        assert shown["secondpass_pairs_total", "tiny"] == 7
        told = live.client.get("/info").json()["score_cache"]
        assert (told["hits"], told["misses"], told["hit_rate"], told["max_bytes"]) == (4, 3, 4 / 7, 2**21)
        moved = live.client.post("/v2/rerank", json=BODY | {"model": "other"}).json()["results"]
        assert [item["relevance_score"] for item in moved] > [
            item["relevance_score"] for item in first.json()["results"]
        ]
        windows = live.client.post("/v2/rerank", json=BODY | {"documents": [LONG_TEXT], "windows": True})
        recalled = live.client.post(
            "/v2/rerank", json=BODY | {"documents": [LONG_TEXT], "windows": True, "return_passages": True}
        )
        assert recalled.json()["usage"]["total_tokens"] == 0
        (item,) = recalled.json()["results"]
        assert item["relevance_score"] == windows.json()["results"][0]["relevance_score"]
        assert LONG_TEXT[item["passage"]["start"] : item["passage"]["end"]] == item["passage"]["text"]


@pytest.fixture
def large(own_tiny: CrossEncoder, tiny_folder: str) -> CrossEncoder:
    """Another model that agrees with `own_tiny` to some degree."""
    made = CrossEncoder(tiny_folder, device="cpu")
    with torch.no_grad():
        made.model.bert.embeddings.word_embeddings.weight.mul_(0.7)
    return made


MANY = tuple(f"the {word} {other}" for word in ("cat", "dog", "mat", "book") for other in ("", "sat", "city", "long"))


@pytest.mark.parametrize("keep", [5, 100, StoppingRule(3, 0.02, 0.5, piece=4), StoppingRule(2, float("inf"))])
async def test_a_cascade_ranks_as_in_process(own_tiny: CrossEncoder, large: CrossEncoder, keep: Any) -> None:
    """Blank documents and cuts too; each document has the score of the last model that scored it."""
    cascade = Cascade([own_tiny, large], keep)
    texts = (*MANY, "", "cat " * 300)
    models = Models({"small": own_tiny, "best": cascade}, Settings(), lambda *given: None)
    served = models.get("best")
    answer = await answered(served, Work(None, ("where is the cat",) * len(texts), texts), 30)
    (ranking,) = cascade.rank_many(["where is the cat"], [texts])
    assert answer.order == tuple(item.index for item in ranking.documents)
    for item in ranking.documents:
        assert answer.logits[item.index] == pytest.approx(item.logit, abs=1e-5)
        assert answer.scores[item.index] == pytest.approx(item.score, abs=1e-6)
    assert answer.cuts == ranking.truncated
    assert answer.pairs == ranking.record.pairs
    assert answer.tokens == ranking.record.tokens
    # batches are shared with those who ask for the small model alone
    assert served.stages[0].shared is models.get("small").shared
    assert (models.waiting("best"), len(served.queues)) == (0, 1)
    with pytest.raises(Problem, match="best is a cascade, which ranks and gives no scores of pairs"):
        await answered(served, Work(None, ("cat",), ("mat",), "pairs", "pairs[{}][0]"), 30)
    with pytest.raises(InvalidInput, match="has no place for one"):
        await answered(served, Work(None, ("cat",), ("mat",), instruction="find"), 30)
    models.close()


async def test_a_cascade_whose_budget_is_spent_keeps_what_the_small_model_said(
    own_tiny: CrossEncoder, large: CrossEncoder
) -> None:
    """What the last model did not reach stands behind, in the small model's order, and the client is told."""
    with before_forward(large, lambda inputs: time.sleep(1.0)):
        rule = StoppingRule(2, float("inf"))
        models = Models({"best": Cascade([own_tiny, large], rule)}, Settings(), lambda *given: None)
        served = models.get("best")
        for shared in served.queues:
            shared._scoring._max_round_tokens = 40
        texts = (*MANY[:2], "", *MANY[2:])
        answer = await answered(served, Work(None, ("where is the cat",) * len(texts), texts), 30, 1.5)
    assert answer.complete
    assert answer.is_short
    assert answer.scored == len(texts)
    assert answer.order[-1] == 2
    count = answer.pairs - len(texts) - 1
    assert 0 < count < len(MANY)
    assert answer.warnings == (f"model 1 of the cascade scored {count} (the budget was spent)",)
    (small,) = own_tiny.rank_many(["where is the cat"], [texts])
    order = [item.index for item in small.documents]
    assert sorted(answer.order[:count]) == sorted(order[:count])
    assert list(answer.order[count:]) == order[count:]
    models.close()


async def test_a_cascade_whose_budget_is_spent_tells_the_cuts_of_what_it_did_not_reach(
    own_tiny: CrossEncoder, large: CrossEncoder
) -> None:
    """A document that the last model had no time for stands as the small one read it: cut."""
    texts = tuple(f"{text} " + "cat " * 300 for text in MANY)
    with before_forward(large, lambda inputs: time.sleep(1.0)):
        models = Models({"best": Cascade([own_tiny, large], 100)}, Settings(), lambda *given: None)
        served = models.get("best")
        for shared in served.queues:
            shared._scoring._max_round_tokens = 40
        answer = await answered(served, Work(None, ("where is the cat",) * len(texts), texts), 30, 1.5)
    assert 0 < answer.pairs - len(texts) < len(texts)
    assert [cut.index for cut in answer.cuts] == list(range(len(texts)))
    assert answer.warnings[0].startswith(f"cut documents: indices {', '.join(map(str, range(len(texts))))} (")
    models.close()


async def test_a_cut_is_told_with_the_window_of_the_model_that_made_it(
    own_tiny: CrossEncoder, tiny_folder: str
) -> None:
    """Of a cascade that is the last one that scored the document, whose window may be another one."""
    short = CrossEncoder(tiny_folder, max_length=40, device="cpu")
    models = Models({"best": Cascade([short, own_tiny], 1)}, Settings(), lambda *given: None)
    texts = tuple(f"{text} " + "cat " * 300 for text in MANY[:3])
    answer = await answered(models.get("best"), Work(None, ("where is the cat",) * 3, texts), 30)
    best, *rest = answer.order[0], *sorted(answer.order[1:])
    lost = [one.document_tokens + one.query_tokens for one in answer.cuts]
    behind = f"cut documents: indices {rest[0]}, {rest[1]} ({sum(lost) - lost[best]} tokens; the window has 40)"
    first = f"cut documents: index {best} ({lost[best]} tokens; the window has {LENGTH})"
    assert sorted(answer.warnings) == sorted([first, behind])
    models.close()


SETTINGS = Settings(max_documents=3, max_characters=10)


def work_checking(documents: list[str], query: str = "cat", field: str = "documents", name: str = "query") -> Work:
    """One query for all."""
    return Work(None, (query,) * len(documents), tuple(documents), field, name)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (work_checking(["a"] * 4), "documents: 4 are more than the 3"),
        (work_checking(["a", "b" * 11]), "documents[1] has 11 characters, more than 10"),
        (work_checking(["a"], "q" * 11), "query has 11 characters"),
        (work_checking(["a"], "\t\n"), "query is blank"),
        (work_checking(["a"], "", "pairs", "pairs[{}][0]"), "pairs[0][0] is blank"),
        (work_checking(["", " "], field="texts"), "texts: every document is blank; a search engine sends empty texts"),
    ],
)
def test_refusals_name_field_and_index(given: Work, said: str) -> None:
    """422."""
    with pytest.raises(Problem) as refused:
        check_texts(given, SETTINGS)
    assert refused.value.status == 422
    assert said in refused.value.message


def test_a_query_is_read_once_however_many_documents_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte of blanks before a word takes its time, and a thousand times that time is a service that stands."""
    asked = Counter[str]()
    monkeypatch.setattr("secondpass.serving.answering.is_blank", lambda text: asked.update([text]))
    check_texts(work_checking(["a", "b", "a"]), SETTINGS)
    assert asked == {"cat": 1, "a": 2, "b": 1}


def test_some_blank_documents_are_a_warning() -> None:
    """The client is told which they are."""
    assert check_texts(work_checking(["a", "", " "]), SETTINGS) == (
        work_checking(["a", "", ""]),
        ("blank documents: indices 1, 2",),
    )
    given = work_checking(["a"])
    assert check_texts(given, SETTINGS) == (given, ())


BODY = {"query": "where is the cat", "documents": ["the mat", "a dog"]}


LONG = ["cat " + "\u0300" * 900 for _ in range(40)]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v2/rerank", {"query": "cat", "documents": LONG, "return_documents": True}, 200),
        ("/v1/rerank", {"query": "cat", "documents": LONG, "top_k": 2}, 200),
        ("/v1/ranking", {"query": {"text": "cat"}, "passages": [{"text": text} for text in LONG]}, 200),
        ("/rerank", {"query": "cat", "texts": LONG, "return_text": True}, 200),
        ("/score", {"pairs": [["cat", text] for text in LONG]}, 200),
        ("/v1/score", {"text_1": LONG, "text_2": LONG}, 200),
        ("/v2/rerank", {"query": "cat", "documents": [], "more": LONG}, 422),
        ("/v2/rerank", {"query": "".join(LONG)[4:][:900], "documents": LONG}, 422),
    ],
)
def test_what_grows_with_a_body_is_done_beside_the_event_loop(
    live: Live, path: str, body: dict[str, Any], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading it, looking for blank texts, writing the answer; what a small one needs is done at once."""
    threads: dict[str, set[str]] = {}

    def watch(name: str) -> None:
        module, _, function = name.rpartition(".")
        do = getattr(importlib.import_module(f"secondpass.{module}"), function)

        def watched(*given: Any, **named: Any) -> Any:
            threads.setdefault(function, set()).add(threading.current_thread().name)
            return do(*given, **named)

        monkeypatch.setattr(f"secondpass.{name}", watched)

    doing = ("serving.bodies._read", "serving.bodies.repaired", "serving.answering.is_blank")
    writing = ("serving.shapes.json_number", "serving.shapes.json_text", "serving.scores.json_number")
    for name in (*doing, *writing):
        watch(name)
    assert live.client.post(path, json=body).status_code == status
    assert set.union(*threads.values()) == {"secondpass-bodies_0"}
    assert {"_read", "repaired"} <= threads.keys()
    assert (status == 200) == ({"is_blank", "json_number"} <= threads.keys())
    threads.clear()
    live.client.post("/rerank", json=BODY)
    assert "secondpass-bodies_0" not in set.union(*threads.values())


def waiting(live: Live) -> int:
    """Pairs accepted and not scored."""
    return live.service.models.get(None).shared.load.pairs


def test_an_answer_that_does_not_come_in_time_is_504(serve: Serve, held: Held) -> None:
    """The client's own deadline counts when it is shorter; the late work is taken back."""
    live = serve(deadline_s=60)
    late = live.client.post("/v2/rerank", json=BODY, headers={"Secondpass-Deadline-Ms": "200"})
    assert late.status_code == 504
    assert late.json()["message"] == "no answer within the deadline of 0.2 s"
    held.go.set()
    until(lambda: waiting(live) == 0)
    assert live.client.post("/v2/rerank", json=BODY).status_code == 200
    assert live.client.post("/v2/rerank", json=BODY, headers={"Secondpass-Deadline-Ms": "9" * 15}).status_code == 200
    for wrong in ("0", "-1", "soon", "1.5", "1e9", "9" * 16, "9" * 400, "9" * 5000):
        refused = live.client.post("/v2/rerank", json=BODY, headers={"Secondpass-Deadline-Ms": wrong})
        assert refused.status_code == 422
        assert "Secondpass-Deadline-Ms" in refused.json()["message"]


def test_a_deadline_that_is_over_in_scoring_first_is_the_clients() -> None:
    """What is said is the whole of it, not what was left when scoring began; another error stays what it is."""

    async def there() -> Any:
        await asyncio.Event().wait()

    async def failing(error: Exception) -> None:
        raise error

    with pytest.raises(Problem, match=r"^no answer within the deadline of 0\.2 s$"):
        asyncio.run(unless_gone(there, 5, 0.2, failing(DeadlineExceeded("the answer was not there within 0.15 s"))))
    with pytest.raises(OutOfMemory, match="pair 3"):
        asyncio.run(unless_gone(there, 5, 0.2, failing(OutOfMemory("pair 3", (3,)))))


def test_a_large_body_waits_for_others_no_longer_than_its_deadline(serve: Serve, held: Held) -> None:
    """Neither to be read nor, once it is scored, to be answered."""
    go, body = threading.Event(), {"query": "cat", "documents": LONG}
    try:
        hurried = serve(deadline_s=0.5)
        hurried.service.thread.submit(go.wait, 60)
        late = hurried.client.post("/v2/rerank", json=body)
        assert (late.status_code, late.json()["message"]) == (504, "no answer within the deadline of 0.5 s")
        assert not held.reached.is_set()
        live = serve()
        with ThreadPoolExecutor(1) as pool:
            headers = {"Secondpass-Deadline-Ms": "3000"}
            asked = pool.submit(lambda: live.client.post("/v2/rerank", json=body, headers=headers))
            assert held.reached.wait(30)
            live.service.thread.submit(go.wait, 60)
            held.go.set()
            assert asked.result(30).status_code == 504
        shown = samples(live.client.get("/metrics").text)
        assert shown["secondpass_pairs_total", "tiny"] == len(LONG)
    finally:
        go.set()
        held.go.set()
    assert live.client.post("/v2/rerank", json=body).status_code == 200


async def test_work_of_a_client_that_went_away_is_never_done(serve: Serve, held: Held, own_tiny: CrossEncoder) -> None:
    """It waits behind another request, its client goes, and the model does not read it."""
    live = serve()
    async with httpx.AsyncClient(base_url=live.url, timeout=60, trust_env=False) as client:
        first = asyncio.create_task(client.post("/v2/rerank", json=BODY))
        await asyncio.to_thread(held.reached.wait, 30)
        second = asyncio.create_task(client.post("/v2/rerank", json={"query": "train", "documents": ["garden river"]}))
        await asyncio.to_thread(until, lambda: waiting(live) == 3)
        second.cancel()
        await asyncio.to_thread(until, lambda: waiting(live) == 2)
        with inputs_read(own_tiny) as read:
            held.go.set()
            assert (await first).status_code == 200
            assert (await client.post("/v2/rerank", json=BODY)).status_code == 200
    garden = own_tiny.tokenizer.convert_tokens_to_ids("garden")
    assert read
    assert not any(garden in ids for ids in read)
    shown = samples(live.client.get("/metrics").text)
    assert shown["secondpass_problems_total", "client_gone"] == 1
    assert shown["secondpass_requests_total", "/v2/rerank,499"] == 1


def test_a_full_queue_is_429_and_recovers(serve: Serve, held: Held) -> None:
    """What was accepted is answered, what was refused was not begun; afterwards all is well."""
    live = serve(max_waiting_pairs=4)
    with ThreadPoolExecutor(2) as pool:
        accepted = [pool.submit(live.client.post, "/v2/rerank", json=BODY) for _ in range(2)]
        until(lambda: waiting(live) == 4)
        full = live.client.post("/v2/rerank", json=BODY)
        assert (full.status_code, full.headers["retry-after"]) == (429, "1")
        held.go.set()
        assert [answer.result(60).status_code for answer in accepted] == [200, 200]
    assert live.client.post("/v2/rerank", json=BODY).status_code == 200
    never = live.client.post("/v2/rerank", json=BODY | {"documents": ["cat"] * 5})
    assert never.status_code == 422


def test_concurrent_requests_share_rounds_and_get_the_answers_of_one(serve: Serve, own_tiny: CrossEncoder) -> None:
    """Each answer is that of the model in process; together they need fewer rounds than there are requests."""
    live = serve()
    words = "cat dog mat apple bank book city garden river train".split()
    bodies = [
        {"query": f"where is the {word}", "documents": [f"the {word} {other}" for other in words]} for word in words
    ]
    gate = threading.Barrier(len(words))

    def ask(body: dict[str, object]) -> list[tuple[int, float]]:
        gate.wait(30)
        results = live.client.post("/v2/rerank", json=body).json()["results"]
        return [(item["index"], item["relevance_score"]) for item in results]

    with ThreadPoolExecutor(len(words)) as pool:
        answers = list(pool.map(ask, bodies))
    for body, answer in zip(bodies, answers, strict=True):
        (ranking,) = own_tiny.rank_many([body["query"]], [body["documents"]])  # type: ignore[list-item]
        assert [index for index, _ in answer] == [item.index for item in ranking.documents]
        assert all(abs(got - item.score) < 1e-6 for (_, got), item in zip(answer, ranking.documents, strict=True))
    shown = samples(live.client.get("/metrics").text)
    assert shown["secondpass_pairs_total", "tiny"] == 100
    assert shown["secondpass_requests_total", "/v2/rerank,200"] == 10
    assert shown["secondpass_round_calls_sum", "tiny"] >= 10
    assert shown["secondpass_tokens_total", "tiny"] > 100 * 8


def test_cuts_are_told_beside_the_answer(live: Live) -> None:
    """In headers for every shape, in meta.warnings for Cohere's."""
    long = "the cat " * 200
    bare = live.client.post("/rerank", json={"query": "cat", "texts": [long, "mat", ""]})
    assert bare.headers["secondpass-truncated"] == "1"
    assert bare.headers["secondpass-warnings"].startswith("cut texts: index 0 (")
    assert bare.headers["secondpass-warnings"].endswith("; blank texts: index 2")
    told = live.client.post("/v2/rerank", json={"query": "cat", "documents": [long, "mat"], "frobnicate": True})
    assert told.headers["secondpass-truncated"] == "1"
    assert [warning.split(":")[0] for warning in told.json()["meta"]["warnings"]] == [
        "unknown fields ignored", "cut documents",
    ]  # fmt: skip
    plain = live.client.post("/v2/rerank", json=BODY)
    assert plain.headers["secondpass-truncated"] == "0"
    assert "secondpass-warnings" not in plain.headers
    assert "warnings" not in plain.json()["meta"]


def test_a_character_and_a_million_are_both_texts(live: Live) -> None:
    """The long one is cut and told, a character more than the limit is refused by its index."""
    body = {"query": "a", "documents": ["b", "cat " * 250_000]}
    answer = live.client.post("/v2/rerank", json=body)
    assert sorted(item["index"] for item in answer.json()["results"]) == [0, 1]
    assert answer.headers["secondpass-truncated"] == "1"
    refused = live.client.post("/v2/rerank", json=body | {"documents": ["b", "c" * 1_000_001]})
    assert refused.status_code == 422
    assert refused.json()["message"] == "documents[1] has 1000001 characters, more than 1000000"


def test_documents_seen_before_are_not_tokenised_again(serve: Serve, own_tiny: CrossEncoder) -> None:
    """Under another query too; the scores are those without a cache."""
    bodies = [BODY, BODY | {"query": "a train"}, BODY]
    plain = [serve(token_cache_mb=0).client.post("/v2/rerank", json=body).json()["results"] for body in bodies]
    assert own_tiny.token_cache is None
    live = serve()
    assert [live.client.post("/v2/rerank", json=body).json()["results"] for body in bodies] == plain
    shown = samples(live.client.get("/metrics").text)
    assert shown["secondpass_token_cache_documents_total", "miss"] == 2
    assert shown["secondpass_token_cache_documents_total", "hit"] == 4


def test_a_blank_document_never_outranks_a_real_one(pocket: CrossEncoder) -> None:
    """Not with the embedded model either, which likes an empty text; the texts come back as they were given."""
    documents = ["", "the river is long", " \t", "eggs boil for nine minutes", "\u2003"]
    with running(Settings(), {"pocket": pocket}) as live:
        body = {"query": "how long to boil an egg", "documents": documents, "return_documents": True}
        answer = live.client.post("/v2/rerank", json=body)
        results = answer.json()["results"]
        assert [item["index"] for item in results] == [3, 1, 0, 2, 4]
        assert [item["relevance_score"] for item in results][2:] == [0.0] * 3
        assert results[0]["relevance_score"] > results[1]["relevance_score"] > 0.0
        assert [item["document"]["text"] for item in results] == [documents[item["index"]] for item in results]
        assert "blank documents: indices 0, 2, 4" in answer.headers["secondpass-warnings"]
        raw = {"query": body["query"], "texts": documents, "raw_scores": True}
        assert [item["score"] for item in live.client.post("/rerank", json=raw).json()][2:] == [-100.0] * 3
        pairs = {"pairs": [[body["query"], text] for text in documents]}
        scores = live.client.post("/score", json=pairs).json()["scores"]
        assert [scores[0], scores[2], scores[4]] == [0.0] * 3
        assert min(scores[1], scores[3]) > 0.0


@pytest.mark.parametrize(
    ("order", "other", "first", "top10", "pairs"),
    [
        ((0, 1, 2), (0, 1, 2), 1.0, 1.0, 1.0),
        ((0, 1, 2), (2, 1, 0), 0.0, 1.0, 0.0),
        ((0, 1, 2), (0, 2, 1), 1.0, 1.0, 2 / 3),
        (range(20), (*range(5), *range(10, 20), *range(5, 10)), 1.0, 0.5, 1 - 50 / 190),
        ((0,), (0,), 1.0, 1.0, 1.0),
    ],
)
def test_how_far_two_orders_agree(
    order: Sequence[int], other: Sequence[int], first: float, top10: float, pairs: float
) -> None:
    """The best, the first ten, and every pair of the first hundred."""
    assert agreement(order, other) == pytest.approx({"first": first, "top10": top10, "pairs": pairs})


def test_a_shadow_scores_a_share_of_the_answers(
    own_tiny: CrossEncoder, tiny: CrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the answer, which is the first model's; what it fails at or has no place for is counted, too."""
    with torch.no_grad():
        own_tiny.model.classifier.weight.neg_()
    body = {"model": "tiny", "query": "where is the cat", "documents": TEXTS}

    def shadowed() -> dict[str, float]:
        shown = samples(live.client.get("/metrics").text)
        return {labels: value for (name, labels), value in shown.items() if name == "secondpass_shadow_requests_total"}

    def ask(name: str) -> list[int]:
        results = live.client.post("/v2/rerank", json=body | {"model": name}).json()["results"]
        return [one["index"] for one in results]

    settings = Settings(shadows=(("tiny", "next"),), shadow_share=1.0)
    with running(settings, {"tiny": tiny, "next": own_tiny}) as live:
        first, second = ask("tiny"), ask("next")
        until(lambda: shadowed() == {"tiny,compared,next": 1})
        sums = samples(live.client.get("/metrics").text)
        for measure, value in agreement(first, second).items():
            assert sums["secondpass_shadow_agreement_sum", f"{measure},tiny,next"] == pytest.approx(value)
            assert value < 1 or measure == "top10"
        own_tiny.close()
        assert ask("tiny") == first
        until(lambda: shadowed() == {"tiny,compared,next": 1, "tiny,failed,next": 1})
        monkeypatch.setattr(answering, "SHADOWS", 0)
        assert ask("tiny") == first
        until(lambda: shadowed() == {f"tiny,{outcome},next": 1 for outcome in ("compared", "failed", "skipped")})
    with running(Settings(shadows=(("tiny", "next"),), shadow_share=0.0), {"tiny": tiny, "next": tiny}) as live:
        assert ask("tiny") == first
        until(lambda: not live.service.shadowing)
        assert shadowed() == {}


def test_a_shadow_is_asked_for_whole_orders(own_tiny: CrossEncoder, tiny: CrossEncoder) -> None:
    """Not with min_probability, of which it may know nothing or leave out other documents, even where all pass."""
    own_tiny.use_calibration(Calibration("logistic"))
    body = {"query": "where is the cat", "documents": TEXTS, "model": "own"}
    with running(Settings(shadows=(("own", "next"),), shadow_share=1.0), {"own": own_tiny, "next": tiny}) as live:
        for more in ({"min_probability": 0.0}, {}):
            answer = live.client.post("/v1/rerank", json=body | more)
            assert (answer.status_code, len(answer.json()["results"])) == (200, len(TEXTS)), answer.text

        def shadowed() -> list[tuple[str, float]]:
            shown = samples(live.client.get("/metrics").text)
            return [(at, value) for (name, at), value in shown.items() if name == "secondpass_shadow_requests_total"]

        until(lambda: shadowed() == [("own,compared,next", 1)])


def test_a_shadow_is_asked_for_no_order_that_a_budget_cut_short(own_tiny: CrossEncoder, large: CrossEncoder) -> None:
    """Nor where the last model of a cascade alone had no time: what it did not reach has the small one's order."""
    body, settings = (
        {"query": "where is the cat", "documents": MANY},
        Settings(shadows=(("best", "small"),), shadow_share=1.0),
    )
    cascade = Cascade([own_tiny, large], StoppingRule(2, float("inf")))
    with running(settings, {"best": cascade, "small": own_tiny}) as live:
        with before_forward(large, lambda inputs: time.sleep(1.0)):
            live.service.models.get("best").shared._scoring._max_round_tokens = 40
            short = live.client.post("/v2/rerank", json=body, headers={"Secondpass-Budget-Ms": "1500"})
        assert "(the budget was spent)" in short.headers["secondpass-warnings"]
        assert short.headers["secondpass-complete"] == "true"
        assert live.client.post("/v2/rerank", json=body).status_code == 200
        until(lambda: not live.service.shadowing)
        shown = samples(live.client.get("/metrics").text)
    assert shown["secondpass_shadow_requests_total", "best,compared,small"] == 1
    assert shown["secondpass_incomplete_answers_total", "best"] == 1


@pytest.mark.parametrize(
    ("shadows", "message"),
    [
        ((("tiny", "new"),), "shadow tiny=new: there is no model 'new'"),
        ((("tiny", "tiny"),), "one shadow, which is another"),
        ((("tiny", "next"), ("tiny", "next")), "one shadow"),
    ],
)
def test_a_shadow_is_another_model(tiny: CrossEncoder, shadows: tuple[tuple[str, str], ...], message: str) -> None:
    """That is served, too, and one of each."""
    with pytest.raises(InvalidInput, match=message):
        Models({"tiny": tiny, "next": tiny}, Settings(shadows=shadows), lambda *given: None)
