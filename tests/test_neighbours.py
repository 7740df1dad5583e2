"""LangChain, LlamaIndex and MCP by their own packages: what rerankers and clients do, with the embedded model."""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from secondpass import CrossEncoder
from secondpass.calibration import AnswerRule, Calibration
from secondpass.cascade import Cascade
from secondpass.cli import app
from secondpass.corpora import CorpusDocument, read_corpus
from secondpass.errors import InvalidInput, ModelLoadError
from secondpass.postprocessing import FACTS, RerankOptions
from secondpass.windows import Windows

QUERY = "how many people live in Berlin"
MUSEUMS, PEOPLE = "Berlin is known for its museums.", "Berlin had 3.7 million inhabitants in 2023."
TEXTS = [MUSEUMS, PEOPLE, " ", "Bread is made of flour."]
LONG = f"{'Trains leave every hour. ' * 60}{PEOPLE} {'Eggs are boiled. ' * 90}"
FRAMEWORKS = {"langchain": "langchain_core", "llama_index": "llama_index.core"}


@pytest.fixture(scope="module")
def pocket() -> CrossEncoder:
    """The model in the package."""
    return CrossEncoder("secondpass/pocket", device="cpu")


class LangChain:
    """Documents of LangChain through its compressor: ids, scores and metadata of what comes back."""

    limit = 3

    def __init__(self) -> None:
        pytest.importorskip("langchain_core", reason="langchain-core is not installed")
        from secondpass.langchain import SecondPassReranker

        self.made = SecondPassReranker

    def documents(self, texts: list[str]) -> list[Any]:
        from langchain_core.documents import Document

        return [Document(text, id=str(place), metadata={"title": "Cities"}) for place, text in enumerate(texts)]

    def run(self, reranker: Any, documents: list[Any], query: str = QUERY) -> list[tuple[str, Any, dict[str, Any]]]:
        found = reranker.compress_documents(documents, query)
        assert all(type(one) is type(documents[0]) for one in found)
        return [(one.id, one.metadata.get("relevance_score"), one.metadata) for one in found]

    async def run_async(self, reranker: Any, documents: list[Any]) -> list[str]:
        return [one.id for one in await reranker.acompress_documents(documents, QUERY)]


class LlamaIndex:
    """Nodes of LlamaIndex through its postprocessor, likewise."""

    limit = 2

    def __init__(self) -> None:
        pytest.importorskip("llama_index.core", reason="llama-index-core is not installed")
        from secondpass.llama_index import SecondPassRerank

        self.made = SecondPassRerank

    def documents(self, texts: list[str]) -> list[Any]:
        from llama_index.core.schema import NodeWithScore, TextNode

        nodes = [TextNode(id_=str(place), text=text, metadata={"title": "Cities"}) for place, text in enumerate(texts)]
        return [NodeWithScore(node=node, score=0.75) for node in nodes]

    def run(self, reranker: Any, documents: list[Any], query: str = QUERY) -> list[tuple[str, Any, dict[str, Any]]]:
        found = reranker.postprocess_nodes(documents, query_str=query)
        return [(one.node.node_id, one.score, one.node.metadata) for one in found]

    async def run_async(self, reranker: Any, documents: list[Any]) -> list[str]:
        return [one.node.node_id for one in await reranker.apostprocess_nodes(documents, query_str=QUERY)]


@pytest.fixture(params=[LangChain, LlamaIndex], ids=["langchain", "llama_index"])
def framework(request: pytest.FixtureRequest) -> Any:
    """One of the two that rerank documents."""
    return request.param()


# ---- What both do.


async def test_documents_are_ordered_as_in_process(framework: Any, pocket: CrossEncoder) -> None:
    """With its scores, `top_n` of them, from any thread or task; what was given is left as it was."""
    documents = framework.documents(TEXTS)
    before = copy.deepcopy(documents)
    reranker = framework.made(model=pocket, top_n=None)
    own = {} if isinstance(framework, LangChain) else {"document_prefix": "title: Cities\n\n"}
    read = [own.get("document_prefix", "") + text for text in TEXTS]
    wanted = pocket.rank(QUERY, read, show_progress_bar=False)
    found = framework.run(reranker, documents)
    assert [(name, score) for name, score, _ in found] == [
        (str(one["corpus_id"]), pytest.approx(one["score"], abs=1e-6)) for one in wanted
    ]
    assert documents == before
    assert len(framework.run(framework.made(model=pocket), documents)) == framework.limit
    names = [name for name, *_ in found]
    threads = [threading.Thread(target=lambda: names.__iadd__([one[0] for one in framework.run(reranker, documents)]))]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert names == 2 * [name for name, *_ in found]
    assert await framework.run_async(reranker, documents) == names[:4]
    assert framework.run(reranker, []) == []


def test_what_haystack_s_ranker_knows_is_there(framework: Any, tiny_folder: str, tmp_path: Path) -> None:
    """Passages, probabilities and verdicts, what was cut, what a budget left, thresholds, a cascade."""
    encoder = CrossEncoder("secondpass/pocket", device="cpu")
    documents = framework.documents([LONG, TEXTS[-1]])
    whole = framework.made(model=encoder, truncation="windows", windows={"tokens": 64}, top_n=1)
    ((name, score, facts),) = framework.run(whole, documents)
    passage = facts["passage"]
    assert (name, passage["text"]) == ("0", LONG[passage["start"] : passage["end"]])
    assert PEOPLE in passage["text"]
    assert passage["score"] == pytest.approx(score)
    cut = framework.run(framework.made(model=encoder, max_documents=2), documents)
    assert [facts.get("truncated", {}).get("document_tokens", 0) > 100 for _, _, facts in sorted(cut)] == [True, False]
    encoder.use_calibration(Calibration("logistic", 1.0, 0.0, edges=(), low=(0.1,), high=(0.9,), answers=None))
    facts = framework.run(framework.made(model=encoder), documents)[0][2]
    assert 0 < facts["probability"] < 1
    assert facts["probability_interval"] == [0.1, 0.9]
    assert framework.run(framework.made(model=encoder, min_probability=1.0), documents) == []
    encoder.use_calibration(
        Calibration("logistic", 1.0, 0.0, edges=(), low=(0.1,), high=(0.9,), answers=AnswerRule(99.0, 40, 0.9, 0.9))
    )
    assert framework.run(framework.made(model=encoder), documents)[0][2]["nothing_relevant"] is True
    assert framework.run(framework.made(model=encoder, when_nothing_relevant="drop"), documents) == []
    encoder.use_calibration(None)
    late = framework.run(framework.made(model=encoder, budget_ms=1e-3, batch_size=1, top_n=None), documents * 20)
    assert late[-1][1] is None
    assert "relevance_score" not in late[-1][2]
    logits = framework.run(framework.made(model=encoder, scale_score=False, score_threshold=-99), documents)
    assert min(score for _, score, _ in logits) < 0
    assert framework.run(framework.made(model=encoder, score_threshold=0.999), documents) == []
    both = framework.made(model=[Path(tiny_folder), tiny_folder], keep=1, max_length=64, precision="fp32")
    assert both.model_name == f"{tiny_folder},{tiny_folder}"
    assert len(framework.run(both, documents)) == 2
    with pytest.raises(ValueError, match=r"calibration\.json cannot be read"):
        framework.made(model=tiny_folder, calibration=tmp_path / "calibration.json")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"topn": 3}, "topn"),
        ({"top_n": 0}, "top_n"),
        ({"top_n": True}, "top_n"),
        ({"model": 3}, "neither a name, a folder"),
        ({"model": " "}, "neither a name, a folder"),
        ({"truncation": "left"}, "truncation"),
        ({"windows": {"tokens": 64}}, "windows is for truncation='windows'"),
        ({"windows": {"tokens": -1}, "truncation": "windows"}, "tokens=-1"),
        ({"windows": {"token": 8}, "truncation": "windows"}, "windows: .*'token'"),
        ({"model": []}, "a list has names or folders"),
        ({"model": [["a"]]}, "a list has names or folders"),
        ({"keep": 3}, "keep is for a list of models"),
        ({"model_kwargs": {"trust_remote_code": True}}, "model_kwargs: trust_remote_code"),
        ({"model_kwargs": {"token": "x"}}, "model_kwargs: token"),
        ({"min_probability": 0.5}, "min_probability needs a model with a calibration"),
        ({"min_probability": 2}, "min_probability"),
        ({"instruction": "find answers"}, "no place for one"),
        ({"relevance": 7}, "relevance=7"),
        ({"score_threshold": float("nan")}, "score_threshold"),
        ({"budget_ms": 0}, "budget_ms"),
        ({"budget_ms": True}, "budget_ms"),
        ({"score_threshold": True}, "score_threshold"),
        ({"min_probability": True}, "min_probability"),
    ],
)
def test_an_option_is_refused_when_it_is_given(
    framework: Any, options: dict[str, Any], said: str, pocket: CrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name, not at the first question; none is ignored, and what runs code reaches no loader."""
    monkeypatch.setattr(RerankOptions, "_load", None)
    is_named = {"model", "model_kwargs", "keep"} & set(options)
    with pytest.raises(ValueError, match=said):
        framework.made(**({} if is_named else {"model": pocket}) | options)


def test_another_model_by_assignment_or_copy_is_loaded(
    framework: Any, tiny_folder: str, tiny_model_folder: Callable[..., str]
) -> None:
    """A copy shares the loaded model only as long as it would load the same."""
    other = tiny_model_folder("roberta", 1)
    documents = framework.documents(TEXTS)
    first = framework.made(model=tiny_folder)
    before, wanted = (framework.run(one, documents) for one in (first, framework.made(model=other)))
    assert before != wanted
    assert framework.run(first.model_copy(update={"model": other}), documents) == wanted
    assert framework.run(first.model_copy(update={"batch_size": 2}), documents) == before
    first.model = other
    assert framework.run(first, documents) == wanted


def test_a_failure_is_told_or_gives_the_documents_back(framework: Any, pocket: CrossEncoder) -> None:
    """As they came; a model that is not there is told at once, and options for loading need a model that is loaded."""
    documents = framework.documents(TEXTS)
    for query, said in (("", "query is blank"), (" ", "query is blank")):
        with pytest.raises(InvalidInput, match=said):
            framework.run(framework.made(model=pocket), documents, query)
    with pytest.raises(InvalidInput, match="has 4, more than max_documents=3"):
        framework.run(framework.made(model=pocket, max_documents=3), documents)
    same = framework.run(framework.made(model=pocket, max_documents=3, raise_on_failure=False), documents)
    assert [name for name, *_ in same] == ["0", "1", "2", "3"]
    with pytest.raises(ModelLoadError, match="/no/such/folder"):
        framework.made(model="/no/such/folder")
    with pytest.raises(ValueError, match="device: the model is loaded already"):
        framework.made(model=pocket, device="cpu")
    with pytest.raises(ValueError, match="precision: the model is loaded already"):
        framework.made(model=Cascade([pocket, pocket]), precision="fp32")


def test_copies_and_pickles_rank_too(framework: Any, tiny_folder: str) -> None:
    """They are equal in their options; pickling leaves the original whole."""
    documents, reranker = framework.documents(TEXTS), framework.made(model=tiny_folder, score_cache=":memory:")
    wanted = framework.run(reranker, documents)
    travelled = pickle.loads(pickle.dumps(reranker))  # noqa: S301
    for one in (copy.deepcopy(reranker), copy.copy(reranker), travelled, reranker):
        assert framework.run(one, documents) == wanted
        assert one.model_dump() == reranker.model_dump()
    reranker.close()
    assert framework.run(reranker, documents) == wanted


# ---- LangChain.


def test_langchain_s_chain_reranks(pocket: CrossEncoder) -> None:
    """Behind a retriever of its own, by LangChain's pipe; metadata may be read, and an earlier score is replaced."""
    frame = LangChain()
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.embeddings import DeterministicFakeEmbedding
    from langchain_core.runnables import RunnableLambda, RunnablePassthrough
    from langchain_core.vectorstores import InMemoryVectorStore

    assert issubclass(frame.made, BaseDocumentCompressor)
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    store.add_documents([Document(text, metadata={"relevance_score": 9.0, "passage": "old"}) for text in TEXTS[:2]])
    reranker = frame.made(model=pocket, top_n=1)
    chain = RunnablePassthrough.assign(documents=lambda asked: store.as_retriever().invoke(asked["query"])) | (
        RunnableLambda(lambda asked: reranker.compress_documents(asked["documents"], asked["query"]))
    )
    (found,) = chain.invoke({"query": QUERY})
    assert (found.page_content, set(found.metadata)) == (PEOPLE, {"relevance_score"})
    reader = frame.made(model=pocket, metadata_fields=["title", "year"], metadata_separator=". ", top_n=1)
    ((_, score, _),) = frame.run(reader, [Document(PEOPLE, metadata={"title": "Berlin", "year": None})])
    assert score == pytest.approx(pocket.rank(QUERY, [f"Berlin. {PEOPLE}"])[0]["score"], abs=1e-6)
    with pytest.raises(InvalidInput, match=r"documents\[1\] is str, not Document"):
        reranker.compress_documents([Document("a"), "b"], QUERY)


def test_langchain_s_documents_tell_of_the_last_reranker(tiny_folder: str) -> None:
    """What another reranker told goes with its score; the user's own stays where there is nothing to tell."""
    frame = LangChain()
    from langchain_core.documents import Document

    mine = {"title": "Cities", "passage": "mine", "truncated": "mine"}
    reranker = frame.made(model=tiny_folder, truncation="only_document")
    ((_, _, facts),) = frame.run(reranker, [Document(MUSEUMS, metadata=mine)])
    assert facts == mine | {"relevance_score": facts["relevance_score"]}
    windows = frame.made(model=tiny_folder, truncation="windows")
    (first,) = windows.compress_documents([Document(LONG, metadata=mine)], QUERY)
    assert first.metadata["truncated"] == "mine"
    assert first.metadata["passage"]["text"] in LONG
    ((_, _, facts),) = frame.run(reranker, [first])
    assert set(facts) == {"title", "relevance_score", "truncated"}
    assert facts["truncated"]["document_tokens"] > 0


# ---- LlamaIndex.


def test_llama_index_s_query_engine_reranks(pocket: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind its own index; instrumentation and callbacks hear of it; no model reads what a reranker adds."""
    frame = LlamaIndex()
    from llama_index.core import Document, VectorStoreIndex
    from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler
    from llama_index.core.embeddings import MockEmbedding
    from llama_index.core.instrumentation import get_dispatcher
    from llama_index.core.instrumentation.event_handlers import BaseEventHandler
    from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
    from llama_index.core.llms import MockLLM
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode

    assert issubclass(frame.made, BaseNodePostprocessor)
    heard: list[Any] = []

    class Ears(BaseEventHandler):
        def handle(self, event: Any, **around: Any) -> None:
            heard.append(event)

    monkeypatch.setattr(get_dispatcher("secondpass.llama_index"), "event_handlers", [Ears()])
    debug = LlamaDebugHandler(print_trace_on_end=False)
    reranker = frame.made(model=pocket, top_n=1, keep_retrieval_score=True, callback_manager=CallbackManager([debug]))
    index = VectorStoreIndex.from_documents(
        [Document(text=text) for text in TEXTS[:2]], embed_model=MockEmbedding(embed_dim=4)
    )
    (alone,) = reranker.postprocess_nodes(index.as_retriever().retrieve(QUERY), query_str=QUERY)
    ((begun, ended),) = debug.get_event_pairs(CBEventType.RERANKING)
    assert begun.payload[EventPayload.TOP_K] == 1
    assert [one.score for one in ended.payload[EventPayload.NODES]] == [alone.score]
    heard.clear()
    # which gives it a callback manager of its own
    (source,) = index.as_query_engine(llm=MockLLM(), node_postprocessors=[reranker]).query(QUERY).source_nodes
    assert source.score == alone.score
    assert source.node.get_content() == PEOPLE
    assert source.node.metadata["retrieval_score"] is not None
    for mode in (MetadataMode.LLM, MetadataMode.EMBED):
        assert source.node.get_content(mode) == PEOPLE
    start, end = [one for one in heard if isinstance(one, (ReRankStartEvent, ReRankEndEvent))]
    assert (start.query, start.top_n, start.model_name, len(start.nodes)) == (QUERY, 1, pocket.name, 2)
    assert [one.node.node_id for one in end.nodes] == [source.node.node_id]


def test_llama_index_s_components_are_serialised(tiny_folder: str) -> None:
    """By their class's name, and made again with the same options; without a query nothing is ranked."""
    frame = LlamaIndex()
    from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode

    reranker = frame.made(model=tiny_folder, metadata_mode=MetadataMode.NONE, truncation="windows", windows={"most": 2})
    told = json.loads(reranker.to_json())
    assert (told["class_name"], told["model"], told["metadata_mode"]) == (
        "SecondPassRerank",
        tiny_folder,
        "none",
    )
    again = frame.made.from_dict(told)
    assert again.to_dict() == reranker.to_dict()
    documents = frame.documents(TEXTS)
    assert frame.run(again, documents) == frame.run(reranker, documents)
    with pytest.raises(ValueError, match="Missing query bundle"):
        reranker.postprocess_nodes(documents)
    odd = TextNode(text=LONG, text_template="{content} -- {metadata_str}", metadata={"title": "Cities"})
    ((_, _, facts),) = frame.run(frame.made(model=tiny_folder, truncation="windows"), [NodeWithScore(node=odd)])
    assert facts["passage"]["text"] in f"{LONG} -- title: Cities"


@pytest.mark.parametrize("kind", ["TextNode", "Document"])
def test_llama_index_s_nodes_tell_of_the_last_reranker(kind: str, tiny_folder: str) -> None:
    """Of any kind of node the passage is its own text's; what another reranker told is gone, what is the user's not."""
    frame = LlamaIndex()
    from llama_index.core import schema

    node = getattr(schema, kind)(text=LONG, metadata={"title": "Cities", "truncated": "mine"})
    found = [schema.NodeWithScore(node=node)]
    for how, name in (("windows", "passage"), ("only_document", "truncated")):
        found = frame.made(model=tiny_folder, truncation=how).postprocess_nodes(found, query_str=QUERY)
        facts = found[0].node.metadata
        assert (set(facts) - {"title"}, facts[name] != "mine") == ({name, "truncated"}, True)
        if name == "passage":
            assert facts["truncated"] == "mine"
            assert facts[name]["text"] == LONG[facts[name]["start"] : facts[name]["end"]] != ""


# ---- MCP.


@pytest.fixture
def session(pocket: CrossEncoder) -> Callable[[], Any]:
    """A client of MCP's package, connected to a server in memory that searches the demo."""
    pytest.importorskip("mcp", reason="mcp is not installed")
    from mcp.shared.memory import create_connected_server_and_client_session

    from secondpass.cli.mcp import Tools, server_of
    from secondpass.training.negatives.candidates import BM25

    documents = [one for one in read_corpus(Path("secondpass/demo"))]
    index = BM25([one.content for one in documents])
    tools = Tools(pocket, {"show_progress_bar": False}, documents=documents, index=index, max_documents=5)
    return lambda: create_connected_server_and_client_session(server_of(tools))


ASKED = {"query": QUERY, "documents": [MUSEUMS, {"text": PEOPLE, "title": "Zürich"}]}


async def test_a_client_ranks_and_searches(session: Callable[[], Any], pocket: CrossEncoder) -> None:
    """By the scores of `rank`; texts are told as they are written, and BM25 finds the candidates."""
    async with session() as client:
        listed = {tool.name: tool for tool in (await client.list_tools()).tools}
        ranked = await client.call_tool("rank", ASKED | {"return_documents": True, "top_k": 1})
        only = {"text": "a b", "id": "k", "title": None}
        named = await client.call_tool("rank", {"query": "x", "top_k": None, "documents": [only]})
        found = await client.call_tool("search", {"query": "where do I get coffee", "top_k": 2})
        nothing = await client.call_tool("search", {"query": "qqqzzz"})
        usual = await client.call_tool("search", {"query": "how do I get a new card", "top_k": None})
    assert set(listed) == {"rank", "search"}
    assert len(usual.structuredContent["results"]) == 10
    assert listed["search"].annotations.readOnlyHint is True
    (wanted, *_) = pocket.rank(QUERY, [MUSEUMS, f"Zürich {PEOPLE}"], show_progress_bar=False)
    (told,) = ranked.structuredContent["results"]
    assert told == {"score": pytest.approx(wanted["score"], abs=1e-6), "index": 1, "title": "Zürich", "text": PEOPLE}
    assert "Zürich" in ranked.content[0].text
    assert json.loads(ranked.content[0].text) == ranked.structuredContent
    assert named.structuredContent["results"][0]["id"] == "k"
    first, second = found.structuredContent["results"]
    assert first["id"] == "hb-coffee-kitchen"
    assert {"title", "text", "first_pass_rank"} <= set(second)
    assert nothing.structuredContent == {"results": []}


def test_passages_are_places_in_the_text(pocket: CrossEncoder) -> None:
    """By both tools, for what stands before it too: a title, or blanks that ranking does not read."""
    from secondpass.cli.mcp import Tools
    from secondpass.training.negatives.candidates import BM25

    documents = [
        CorpusDocument("a", "Trains", f"\n {LONG}"),
        CorpusDocument("b", " ", f" {LONG}\n"),
        CorpusDocument("c", " Berlin", f"{PEOPLE} "),
        CorpusDocument("d", "", LONG),
    ]
    contents = [one.content for one in documents]
    options: Any = {"truncation": Windows(tokens=64), "show_progress_bar": False}
    tools = Tools(pocket, options, documents=documents, index=BM25(contents))
    found = tools.search({"query": QUERY})["results"]
    given = [{"title": one.title, "text": one.text} for one in documents]
    ranked = tools.rank({"query": QUERY, "documents": given, "return_documents": True})["results"]
    assert sorted(hit["id"] for hit in found) == ["a", "b", "c", "d"]
    assert sorted(hit["index"] for hit in ranked) == [0, 1, 2, 3]
    (ranking,) = pocket.rank_many([QUERY], [contents], **options)
    read = {
        one.index: one.passage and contents[one.index][one.passage.start : one.passage.end] for one in ranking.documents
    }
    assert read[2] == f"Berlin {PEOPLE}"
    asked = {"query": "Trains", "documents": [{"title": "Trains " * 80, "text": "A recipe for bread. " * 20}]}
    assert "passage" not in tools.rank(asked)["results"][0]  # the best is within the title
    for hit in (*found, *ranked):
        place = "abcd".index(hit["id"]) if "id" in hit else hit["index"]
        passage = hit["passage"]
        assert passage["text"] == hit["text"][passage["start"] : passage["end"]]
        assert passage["text"] == (PEOPLE if place == 2 else read[place])
        assert PEOPLE in passage["text"]


@pytest.mark.parametrize(
    ("tool", "given", "said"),
    [
        ("rank", {}, "documents is missing"),
        ("rank", {"query": " ", "documents": ["a"]}, "query is blank"),
        ("rank", {"documents": ["a"]}, "query is NoneType, not str"),
        ("rank", {"query": "x", "documents": "abc"}, "documents is str, not a list of texts"),
        ("rank", {"query": "x", "documents": []}, "documents is empty"),
        ("rank", {"query": "x", "documents": ["a", 3]}, "documents[1].text is int, not str"),
        ("rank", {"query": "x", "documents": [{"id": "3"}]}, "documents[0].text is NoneType, not str"),
        ("rank", {"query": "x", "documents": ["a", {"text": "b", "id": "3"}]}, "1 of 2 have an id"),
        ("rank", {"query": "x", "documents": ["a"] * 6}, "documents has 6, more than 5"),
        ("rank", {"query": "x", "documents": ["a"], "top_k": 0}, "top_k=0 is not a positive int"),
        (
            "rank",
            {"query": "x", "documents": ["a"], "topk": 3},
            "there is no argument 'topk'; there is query, documents",
        ),
        ("rank", {"query": "x", "documents": ["a"], "return_documents": 1}, "return_documents is int, not bool"),
        ("rank", {"query": "x", "documents": ["a"], "min_probability": 0.5}, "needs a model with a calibration"),
        ("rank", {"query": "x", "documents": ["a"], "instruction": "find"}, "no place for one"),
        ("rank", {"query": "x", "documents": [{"text": "a", "title": 0}]}, "documents[0].title is int, not str"),
        ("search", {"query": "coffee", "top_k": 1.5}, "top_k=1.5 is not a positive int"),
        ("find", {"query": "coffee"}, "there is no tool 'find'; there is rank, search"),
    ],
)
async def test_bad_input_is_the_tool_s_error(
    session: Callable[[], Any], tool: str, given: dict[str, Any], said: str
) -> None:
    """In our words, so that a model can mend its call; the server goes on."""
    async with session() as client:
        refused = await client.call_tool(tool, given)
        assert (refused.isError, said in refused.content[0].text) == (True, True), refused.content[0].text
        assert not (await client.call_tool("rank", ASKED)).isError


async def test_a_client_of_http_is_served_on_this_machine_alone(pocket: CrossEncoder) -> None:
    """Over MCP's streamable HTTP; a web page of another host is not."""
    pytest.importorskip("mcp", reason="mcp is not installed")
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    from secondpass.cli import mcp

    made = mcp.http_app(mcp.server_of(mcp.Tools(pocket)))
    transport = httpx.ASGITransport(made)

    url = f"http://{mcp.HOST}:9{mcp.PATH}/"
    async with made.router.lifespan_context(made), httpx.AsyncClient(transport=transport, trust_env=False) as http:
        async with (
            streamable_http_client(url, http_client=http) as (read, write, _),
            ClientSession(read, write) as client,
        ):
            await client.initialize()
            answer = await client.call_tool("rank", ASKED)
            assert [tool.name for tool in (await client.list_tools()).tools] == ["rank"]
        headers = {"accept": "application/json, text/event-stream"}
        refused = [
            (await http.post(url, json={}, headers=headers | more)).status_code
            for more in ({"Host": "evil.example"}, {"Origin": "http://evil.example"})
        ]
    assert [one["index"] for one in answer.structuredContent["results"]] == [1, 0]
    assert (refused, mcp.HOST) == ([421, 403], "127.0.0.1")


async def test_the_command_serves_the_client_that_started_it(tmp_path: Path) -> None:
    """Over pipes, over a file, with nothing else on stdout; when the client goes, it ends, and says nothing."""
    pytest.importorskip("mcp", reason="mcp is not installed")
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    corpus = tmp_path / "corpus.jsonl"
    lines = [
        {"_id": "a", "text": MUSEUMS},
        {"_id": "b", "text": PEOPLE, "source": "caf\ud83d"},
        {"_id": "c", "text": " "},
    ]
    corpus.write_text("\n".join(map(json.dumps, lines)))
    code = f"import sys; from secondpass.cli import main; sys.argv[1:] = ['mcp', '-c', {str(corpus)!r}]"
    code += f"\ntry: main()\nexcept SystemExit as end: open({str(tmp_path / 'ended')!r}, 'w').write(str(end.code))"
    started = StdioServerParameters(command=sys.executable, args=["-c", code], env=dict(os.environ))
    with (tmp_path / "errors").open("w+") as errors:
        async with (
            stdio_client(started, errors) as pipes,
            ClientSession(*pipes) as client,
        ):
            assert (await client.initialize()).serverInfo.name == "secondpass"
            found = await client.call_tool("search", {"query": QUERY})
            assert (await client.call_tool("search", {"query": ""})).content[0].text == "query is blank"
        errors.seek(0)
        assert errors.read() == ""
    results = found.structuredContent["results"]
    assert [one["id"] for one in results] == ["b", "a"]
    assert results[0]["metadata"] == {"source": "caf\ufffd"}
    assert (tmp_path / "ended").read_text() == "0"


@pytest.mark.parametrize(
    "options",
    [["-c", "/no/such/file"], ["-c", "a.jsonl"], ["--relevance", "best"], ["--window-tokens", "3"], ["--keep", "3"]],
)
def test_the_command_refuses_in_one_line(options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is loaded."""
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text('{"_id": "a", "text": " "}')
    pytest.importorskip("mcp", reason="mcp is not installed")
    result = CliRunner().invoke(app, ["mcp", *options])
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)


def test_the_page_names_what_is_put_into_metadata() -> None:
    """docs/neighbours.md: metadata of the user's with such a name is replaced."""
    page = (Path(__file__).parents[1] / "docs" / "neighbours.md").read_text(encoding="utf-8")
    (told,) = re.findall(r"\*\*Names in the metadata.\*\* (.*?)\n\n", page, re.DOTALL)
    assert {*FACTS, "relevance_score", "retrieval_score"} == set(re.findall(r"`(\w+)`", told))


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_the_page_s_code_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """docs/neighbours.md, a block for each framework: the document that answers comes first."""
    pytest.importorskip(FRAMEWORKS[name], reason=f"{FRAMEWORKS[name]} is not installed")
    page = (Path(__file__).parents[1] / "docs" / "neighbours.md").read_text(encoding="utf-8")
    (block,) = [one for one in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if f"secondpass.{name}" in one]
    exec(block, {})  # noqa: S102 - our own page
    assert capsys.readouterr().out.splitlines()[0] == f"0.54 {PEOPLE}"
