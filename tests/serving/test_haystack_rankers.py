"""Haystack's own HTTP rankers, as they come, against the service: their answers are those of the model in process."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.rankers.cohere import CohereRanker
from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker, TruncationDirection
from haystack_integrations.components.rankers.jina import JinaRanker
from haystack_integrations.components.rankers.vllm import VLLMRanker

from secondpass import CrossEncoder
from secondpass.serving.settings import ApiKeys, Settings
from tests.serving.conftest import KEY, Live, running

QUERY = "how many people live in Berlin?"
TEXTS = [
    'Many people "like" to live\nnear a lake.',
    "Berlin is known for its museums \\ and its night life 🎉.",
    "Berlin had 3.7 million inhabitants in 2023.",
    "Die Stadt hat 3,7 Millionen Einwohner.",
    "",
    "Berlin had 3.7 million inhabitants in 2023. " * 60,
]
DOCUMENTS = [Document(id=str(number), content=text) for number, text in enumerate(TEXTS)]
Ranks = list[tuple[str, Any]]

SECRET = Secret.from_token(KEY)

# Not every ranker has a way to close its connections.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def _collect() -> Iterator[None]:
    """Let the rankers' sockets go while their warnings are ignored."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def service(pocket: CrossEncoder) -> Iterator[Live]:
    """The model in the package behind a key, under the names that the clients say by default."""
    names = ("secondpass/pocket", "rerank-v3.5", "jina-reranker-v1-base-en")
    with running(Settings(keys=ApiKeys([KEY])), dict.fromkeys(names, pocket)) as live:
        yield live


@pytest.fixture(scope="module")
def expected(pocket: CrossEncoder) -> Ranks:
    """The order in process, the blank document last."""
    (ranking,) = pocket.rank_many([QUERY], [TEXTS])
    read = [item for item in ranking.documents if TEXTS[item.index]]
    return [*((str(item.index), pytest.approx(item.score, abs=1e-6)) for item in read), ("4", 0.0)]


def ranked(answer: dict[str, Any]) -> Ranks:
    """Ids and scores of a ranker's answer."""
    return [(document.id, document.score) for document in answer["documents"]]


async def test_cohere(service: Live, expected: Ranks) -> None:
    """CohereRanker, in both its ways, with all documents and with the best two."""
    ranker = CohereRanker(api_key=SECRET, api_base_url=service.url)
    assert ranked(ranker.run(query=QUERY, documents=DOCUMENTS)) == expected
    assert ranked(ranker.run(query=QUERY, documents=DOCUMENTS, top_k=2)) == expected[:2]
    assert ranked(await ranker.run_async(query=QUERY, documents=DOCUMENTS)) == expected


async def test_jina(service: Live, expected: Ranks) -> None:
    """JinaRanker, with a threshold too, and what it says about tokens."""
    ranker = JinaRanker(api_key=SECRET, base_url=f"{service.url}/v1/rerank")
    answer = ranker.run(query=QUERY, documents=DOCUMENTS)
    assert ranked(answer) == expected
    assert answer["meta"]["model"] == "jina-reranker-v1-base-en"
    assert answer["meta"]["usage"]["total_tokens"] > 100
    assert ranked(ranker.run(query=QUERY, documents=DOCUMENTS, top_k=3)) == expected[:3]
    threshold = sorted(score for _, score in ranked(answer))[3]
    assert ranked(ranker.run(query=QUERY, documents=DOCUMENTS, score_threshold=threshold)) == expected[:3]
    assert ranked(await ranker.run_async(query=QUERY, documents=DOCUMENTS)) == expected
    by_body = JinaRanker(api_key=SECRET, base_url=f"{service.url}/rerank")
    assert ranked(by_body.run(query=QUERY, documents=DOCUMENTS)) == expected


async def test_vllm(service: Live, expected: Ranks) -> None:
    """VLLMRanker."""
    ranker = VLLMRanker(model="secondpass/pocket", api_key=SECRET, api_base_url=f"{service.url}/v1")
    assert ranked(ranker.run(query=QUERY, documents=DOCUMENTS)) == expected
    assert ranked(ranker.run(query=QUERY, documents=DOCUMENTS, top_k=1)) == expected[:1]
    assert ranked(await ranker.run_async(query=QUERY, documents=DOCUMENTS)) == expected
    ranker.close()
    await ranker.close_async()


async def test_text_embeddings_inference(service: Live, pocket: CrossEncoder, expected: Ranks) -> None:
    """HuggingFaceTEIRanker, with raw scores and with a side to cut."""
    ranker = HuggingFaceTEIRanker(url=service.url, token=SECRET)
    assert ranked(ranker.run(query=QUERY, documents=DOCUMENTS)) == expected
    assert ranked(await ranker.run_async(query=QUERY, documents=DOCUMENTS, top_k=2)) == expected[:2]
    raw = HuggingFaceTEIRanker(url=service.url, token=SECRET, raw_scores=True)
    (ranking,) = pocket.rank_many([QUERY], [TEXTS])
    read = [item for item in ranking.documents if TEXTS[item.index]]
    logits = [(str(item.index), pytest.approx(item.logit, abs=1e-5)) for item in read]
    assert ranked(raw.run(query=QUERY, documents=DOCUMENTS)) == [*logits, ("4", -100.0)]
    right = ranker.run(query=QUERY, documents=DOCUMENTS, truncation_direction=TruncationDirection.RIGHT)
    assert ranked(right) == expected
    left = ranked(ranker.run(query=QUERY, documents=DOCUMENTS, truncation_direction=TruncationDirection.LEFT))
    long = "5"
    assert [one for one in left if one[0] != long] == [one for one in expected if one[0] != long]
    assert dict(left)[long] != dict(expected)[long]


def test_what_the_clients_say_when_they_are_refused(service: Live) -> None:
    """Each client finds the service's sentence where it looks for it."""
    with pytest.raises(Exception, match="every document is blank"):
        CohereRanker(api_key=SECRET, api_base_url=service.url).run(query=QUERY, documents=[Document(content="")])
    with pytest.raises(RuntimeError, match="give an API key"):
        JinaRanker(api_key=Secret.from_token("wrong"), base_url=f"{service.url}/v1/rerank").run(QUERY, DOCUMENTS)
    with pytest.raises(RuntimeError, match="there is none of this name"):
        VLLMRanker(model="x", api_key=SECRET, api_base_url=f"{service.url}/v1").run(query=QUERY, documents=DOCUMENTS)
    with pytest.raises(RuntimeError, match="query is blank"):
        HuggingFaceTEIRanker(url=service.url, token=SECRET, max_retries=1).run(query=" ", documents=DOCUMENTS)
