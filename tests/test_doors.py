"""The same texts through every door: one order, one score for a text, and one rule for what says nothing."""

from __future__ import annotations

import json
import os
import runpy
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tokenizers import Regex, normalizers
from typer.testing import CliRunner

from secondpass import CrossEncoder
from secondpass.activations import IDENTITY
from secondpass.calibration import AnswerRule, Calibration
from secondpass.cascade import Cascade
from secondpass.cli import app
from secondpass.cli.mcp import Tools
from secondpass.errors import InvalidInput
from secondpass.merging import SharedReranker
from secondpass.ranking import Ranking, activated, ranked
from secondpass.serving import create_app
from secondpass.text import is_blank

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "false"
pytest.importorskip("haystack")

from haystack import Document, Pipeline
from haystack_integrations.components.rankers.secondpass import SecondPassRanker
from haystack_integrations.components.readers.secondpass import SentenceReader

from secondpass_servers.contract import SearchEngine
from secondpass_servers.two_pass import FirstPass, two_pass_search
from tests import fork_server
from tests.cli.conftest import command
from tests.cli.test_search import hybrid
from tests.small_collection import write_json_lines

QUERY = "where is the cat"
BLANK = {
    "empty": "",
    "spaces": " \t\r\n\u00a0\u2003",
    "zero width": "\u200b\u200d\u2060",
    "byte order mark": "\ufeff",
    "soft hyphen": "\u00ad",
    "control": "\x00\x07\x1f\x7f\x85",
    "lone surrogate": "\ud800",
    "not read": "\ufffd\ufffd",
    "mark alone": "\u0301\ufe0f",
    "filler": "\u3164\u2800",
}
FULL = ("the cat sat on the mat", "a dog", "water the tree in the garden")
TABLES: dict[str, list[str]] = {
    "blank among others": [text for pair in zip(BLANK.values(), FULL * 4, strict=False) for text in pair],
    "all alike, and blank": ["a dog", "", "a dog", "\u200b", "a dog"],
    "equal in turn": [*FULL, "", *FULL, " ", *FULL] * 9,
    "surrogates": ["caf\ud83d tree", "the \ud83d\ude00 cat", "caf\ufffd tree", "the \U0001f600 cat", "\udfff", "a dog"],
    "special tokens": ["[SEP]", "</s>", "[CLS] the cat", "<mask>", "[PAD] a dog", "<|im_end|>", "[SEP]", "a dog"],
    **{f"{count} equal ones": ["the cat sat on the mat"] * count for count in (2, 3, 16, 17, 33, 100, 257, 1000)},
}


@dataclass(frozen=True)
class Answer:
    """Positions best first with their scores; a door that gives a document no score has None for it."""

    order: list[int]
    scores: list[float | None]


Door = Callable[[str, CrossEncoder, str, Sequence[str]], Awaitable[Answer]]


async def rank(folder: str, encoder: CrossEncoder, query: str, texts: Sequence[str]) -> Answer:
    """Python, as sentence-transformers has it."""
    hits = encoder.rank(query, texts, show_progress_bar=False)
    return Answer([hit["corpus_id"] for hit in hits], [float(hit["score"]) for hit in hits])


async def rank_many(folder: str, encoder: CrossEncoder, query: str, texts: Sequence[str]) -> Answer:
    """Python, several queries together."""
    _, ranking, _ = encoder.rank_many([query] * 3, [texts[:2], texts, texts[::-1]], show_progress_bar=False)
    return Answer([item.index for item in ranking.documents], [item.score for item in ranking.documents])


async def shared(folder: str, encoder: CrossEncoder, query: str, texts: Sequence[str]) -> Answer:
    """The queue of many callers."""
    with SharedReranker(encoder) as queue:
        others = [queue.submit(query, texts[::-1]) for _ in range(2)]
        scored = await queue.score(query, texts)
        assert all(len(other.result(60).logits) == len(texts) for other in others)
    (documents,) = ranked(scored.logits, encoder.default_activation_function, blank=scored.blank[:, 1])
    return Answer([item.index for item in documents], [item.score for item in documents])


async def service(folder: str, encoder: CrossEncoder, query: str, texts: Sequence[str]) -> Answer:
    """POST /v1/rerank, the application called directly."""
    made = create_app(models={"one": encoder})
    body = json.dumps({"query": query, "documents": list(texts)})
    async with (
        made.router.lifespan_context(made),
        httpx.AsyncClient(transport=httpx.ASGITransport(made), base_url="http://x", trust_env=False) as client,
    ):
        answer = await client.post("/v1/rerank", content=body, headers={"content-type": "application/json"})
    if answer.status_code == 422:
        raise InvalidInput(answer.json()["message"])
    results = answer.raise_for_status().json()["results"]
    return Answer([item["index"] for item in results], [item["relevance_score"] for item in results])


async def haystack_ranker(folder: str, encoder: CrossEncoder, query: str, texts: Sequence[str]) -> Answer:
    """The Haystack component."""
    documents = [Document(id=str(place), content=text) for place, text in enumerate(texts)]
    result = SecondPassRanker(model=folder, top_k=len(texts)).run(query=query, documents=documents)
    if not result["reranked"] and not all(map(is_blank, texts)):
        raise InvalidInput("query is blank")
    return Answer([int(item.id) for item in result["documents"]], [item.score for item in result["documents"]])


async def command_line(folder: str, encoder: CrossEncoder, query: str, texts: Sequence[str]) -> Answer:
    """`secondpass rank` with a JSON list on stdin; as a process of its own where the output is not UTF-8."""
    arguments = ["rank", query, "--input-format", "json", "--format", "jsonl", "--model", folder]
    given = json.dumps(list(texts))
    if any("\ud800" <= letter <= "\udfff" for letter in "".join(texts)):
        done = fork_server.run(command(*arguments), input=given.encode(), timeout=300, check=True)
        lines = done.stdout.decode().splitlines()
    else:
        result = CliRunner().invoke(app, arguments, input=given)
        if result.exit_code:
            raise InvalidInput(result.stderr)
        lines = result.stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    return Answer([row["index"] for row in rows], [row["score"] for row in rows])


class AllOfThem:
    """An index in memory whose first pass finds every document, in order."""

    engine = SearchEngine("Memory", "memory", "", "", "", "", "")
    name = "memory"

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def hits(self, body: Mapping[str, Any], index: str | None = None) -> list[dict[str, Any]]:
        return [
            {
                **{"_index": self.name, "_id": str(place), "_score": 1.0, "_source": {"content": text}},
                **({"highlight": {"content": ["from the server"]}} if "highlight" in body else {}),
            }
            for place, text in enumerate(self._texts)
        ]

    def nearest(self, vector: Sequence[float], field: str, depth: int) -> dict[str, Any]:
        return {}

    def known_fields(self, fields: Sequence[str]) -> Mapping[str, Sequence[str]]:
        return dict.fromkeys(fields, ("text",))

    def field_mapping(self, field: str) -> Mapping[str, Any] | None:
        return None


async def two_pass(folder: str, encoder: CrossEncoder, query: str, texts: Sequence[str]) -> Answer:
    """The second pass over what a search server found."""
    found = two_pass_search(AllOfThem(texts), FirstPass(query), lambda: encoder, top_k=len(texts))
    return Answer([int(hit.candidate.id) for hit in found.hits], [hit.score for hit in found.hits])


LONG_TEXTS = [f"{'water the tree. ' * 90}the cat is in the garden.", "a dog", f"a dog. {'the cat sat. ' * 90}", ""]


def test_a_search_shows_the_passage_that_the_reranker_found(tiny: CrossEncoder) -> None:
    """Of documents read in windows, by its place in the text; without windows it is the server's."""
    (ranking,) = tiny.rank_many([QUERY], [LONG_TEXTS], truncation="windows")
    found = two_pass_search(
        AllOfThem(LONG_TEXTS), FirstPass(QUERY), lambda: tiny, passages=True, truncation="windows"
    ).hits
    assert [(int(hit.candidate.id), hit.score) for hit in found] == [
        (one.index, one.score) for one in ranking.documents
    ]
    for hit, one in zip(found[:3], ranking.documents, strict=False):
        assert one.passage is not None
        assert hit.place == (one.passage.start, one.passage.end)
        assert hit.passage == hit.candidate.text[slice(*hit.place)]
    assert max(len(hit.passage or "") for hit in found) < min(len(LONG_TEXTS[0]), len(LONG_TEXTS[2]))
    assert [(hit.passage, hit.place) for hit in found[3:]] == [("from the server", None)]
    plain = two_pass_search(AllOfThem(LONG_TEXTS), FirstPass(QUERY), lambda: tiny, passages=True).hits
    assert {(hit.passage, hit.place) for hit in plain} == {("from the server", None)}
    hidden = two_pass_search(AllOfThem(LONG_TEXTS), FirstPass(QUERY), lambda: tiny, truncation="windows").hits
    assert {(hit.passage, hit.place) for hit in hidden} == {(None, None)}


def test_a_search_gives_what_it_knows_when_the_time_is_up(tiny: CrossEncoder) -> None:
    """The others follow as the first pass found them."""
    texts = [f"the dog {place} sat" for place in range(60)]
    found = two_pass_search(AllOfThem(texts), FirstPass(QUERY), lambda: tiny, top_k=60, budget_ms=0.001)
    count = len(texts) - found.unscored
    assert 0 < count < len(texts)
    assert [hit.scored for hit in found.hits] == [True] * count + [False] * found.unscored
    assert [int(hit.candidate.id) for hit in found.hits[count:]] == list(range(count, len(texts)))


async def langchain(folder: str, encoder: CrossEncoder, query: str, texts: Sequence[str]) -> Answer:
    """LangChain's compressor; pydantic takes no half of a surrogate pair, so documents are made without it."""
    documents = pytest.importorskip("langchain_core.documents", reason="langchain-core is not installed")
    from secondpass.langchain import SecondPassReranker

    given = [
        documents.Document.model_construct(page_content=text, id=str(place), metadata={})
        for place, text in enumerate(texts)
    ]
    found = SecondPassReranker(model=encoder, top_n=None).compress_documents(given, query)
    return Answer([int(str(item.id)) for item in found], [item.metadata["relevance_score"] for item in found])


async def mcp_tool(folder: str, encoder: CrossEncoder, query: str, texts: Sequence[str]) -> Answer:
    """What the tool `rank` of `secondpass mcp` does."""
    results = Tools(encoder).rank({"query": query, "documents": list(texts)})["results"]
    return Answer([item["index"] for item in results], [item["score"] for item in results])


DOORS: list[Door] = [
    rank,
    rank_many,
    shared,
    service,
    haystack_ranker,
    command_line,
    two_pass,
    langchain,
    mcp_tool,
]


def checked(answer: Answer, expected: Answer, texts: Sequence[str]) -> None:
    """The same answer, and a well-formed one."""
    assert answer.order == expected.order
    silent = [is_blank(text) for text in texts]
    of_text: dict[str, set[float | None]] = {}
    for place, score, reference in zip(answer.order, answer.scores, expected.scores, strict=True):
        of_text.setdefault(texts[place], set()).add(score)
        if score is None:
            assert silent[place]
        else:
            assert score == pytest.approx(reference, abs=1e-6)
    assert all(len(scores) == 1 for scores in of_text.values())
    assert [silent[place] for place in answer.order] == sorted(silent)
    last = [place for place in answer.order if silent[place]]
    assert last == sorted(last)


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
@pytest.mark.parametrize("name", TABLES)
async def test_every_door_has_one_order(name: str, door: Door, tiny_folder: str, tiny: CrossEncoder) -> None:
    """Equal texts, blank ones of every kind, surrogates, and what looks like a special token."""
    texts = TABLES[name]
    checked(await door(tiny_folder, tiny, QUERY, texts), await rank(tiny_folder, tiny, QUERY, texts), texts)


@pytest.mark.parametrize("name", TABLES)
async def test_equal_texts_keep_their_order(name: str, tiny_folder: str, tiny: CrossEncoder) -> None:
    """Whatever else there is, and however many they are."""
    texts = TABLES[name]
    answer = await rank(tiny_folder, tiny, QUERY, texts)
    for text in set(texts):
        places = [place for place in answer.order if texts[place] == text]
        assert places == sorted(places)


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
async def test_nothing_is_no_answer(door: Door) -> None:
    """The proof that there was no one rule: two doors put the blank documents first or in the middle, two last."""
    query, texts = "how many people live in Berlin", ["Trains leave every hour.", "", " \n", "Eggs are boiled."]
    pocket = CrossEncoder("secondpass/pocket")
    answer = await door("secondpass/pocket", pocket, query, texts)
    assert answer.order[2:] == [1, 2]
    assert answer.order == (await rank("", pocket, query, texts)).order


# The queue scores what it is given, as predict does.
@pytest.mark.parametrize("door", [door for door in DOORS if door is not shared], ids=lambda door: door.__name__)
@pytest.mark.parametrize("kind", BLANK)
async def test_a_blank_query_is_refused(kind: str, door: Door, tiny_folder: str, tiny: CrossEncoder) -> None:
    """It is no question; the Haystack ranker leaves the documents as they are."""
    with pytest.raises(InvalidInput, match=r"quer.*is blank"):
        await door(tiny_folder, tiny, BLANK[kind], FULL)


@pytest.mark.parametrize("kind", BLANK)
def test_predict_scores_what_it_is_given(kind: str, tiny: CrossEncoder) -> None:
    """A blank text is a text to it, as a document and as a query."""
    scores = tiny.predict([(QUERY, BLANK[kind]), (BLANK[kind], "a dog"), (QUERY, "a dog")], show_progress_bar=False)
    assert len(set(scores.tolist())) == 3
    assert float(scores.min()) > 1e-6


@pytest.mark.parametrize("kind", BLANK)
def test_nothing_is_extracted_from_nothing(kind: str, tiny_folder: str) -> None:
    """The sentence reader answers with what says something."""
    reader = SentenceReader(model=tiny_folder, top_k=9)
    texts = (BLANK[kind], f"the cat sat.\n\n{BLANK[kind]}\n\na dog ran.")
    documents = [Document(id=str(place), content=text) for place, text in enumerate(texts)]
    assert sorted(reader.run(query=QUERY, documents=documents)["replies"]) == ["a dog ran.", "the cat sat."]
    assert reader.run(query=QUERY, documents=documents[:1])["replies"] == []
    assert reader.run(query=BLANK[kind], documents=documents)["replies"] == []


def test_the_sentence_reader_has_the_same_order(tiny_folder: str, tiny: CrossEncoder) -> None:
    """Of texts of one sentence: each different one once, with its score."""
    texts = TABLES["equal in turn"]
    found = SentenceReader(model=tiny_folder, top_k=99).run(query=QUERY, documents=[Document(content=t) for t in texts])
    expected = tiny.rank(QUERY, FULL, return_documents=True, show_progress_bar=False)
    assert found["replies"] == [hit["text"] for hit in expected]
    assert [a.score for a in found["answers"]] == pytest.approx([float(hit["score"]) for hit in expected], abs=1e-6)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta", "deberta-v2", "modernbert"])
def test_blank_is_blank_to_every_tokenizer(architecture: str, tiny_model_folder: Callable[..., str]) -> None:
    """Also where bytes or pieces make tokens of what nobody sees."""
    encoder = CrossEncoder(tiny_model_folder(architecture), device="cpu")
    texts = TABLES["blank among others"]
    hits = encoder.rank(QUERY, texts, show_progress_bar=False)
    blank = [place for place, text in enumerate(texts) if is_blank(text)]
    assert [hit["corpus_id"] for hit in hits][-len(blank) :] == blank
    assert len({float(hit["score"]) for hit in hits[-len(blank) :]}) == 1
    assert float(hits[-1]["score"]) < float(hits[-len(blank) - 1]["score"])


async def test_what_a_tokenizer_makes_nothing_of_is_blank(own_tiny: CrossEncoder, tmp_path: Path) -> None:
    """Its rules may drop more than what shows nothing."""
    rules = own_tiny.tokenizer.backend_tokenizer
    rules.normalizer = normalizers.Sequence([normalizers.Replace(Regex("[?!]"), ""), rules.normalizer])
    own_tiny.save(str(tmp_path / "model"))
    folder = str(tmp_path / "model")
    encoder = CrossEncoder(folder, device="cpu")
    texts = ["?!", "a dog", "!", "the cat"]
    for door in (rank, rank_many, shared, service, command_line, two_pass):
        answer = await door(folder, encoder, QUERY, texts)
        assert answer.order[2:] == [0, 2]
        if door is not shared:
            with pytest.raises(InvalidInput, match=r"quer.*is blank"):
                await door(folder, encoder, "?!", texts)


def test_the_record_counts_blank_documents(tiny: CrossEncoder) -> None:
    """Each is a pair; all of a query are read once, as an empty text."""
    records: list[Any] = []
    tiny.rank("cat", ["a dog", *BLANK.values()], records=records, show_progress_bar=False)
    tiny.rank("cat", ["a dog", ""], records=records, show_progress_bar=False)
    assert [record.pairs for record in records] == [1 + len(BLANK), 2]
    assert records[0].tokens == records[1].tokens
    assert records[0].truncated == ()


# ---- Scores from 0 to 1.
@pytest.fixture(scope="module")
def tempered(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model of a family that publishes another sigmoid than that of the logit, as a plain folder."""
    from transformers import AutoTokenizer

    from tests.tiny_models import make_decoder

    folder = make_decoder(tmp_path_factory.mktemp("tempered") / "zerank-1-tiny", "qwen3", chat=None)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["Yes"])
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
async def test_every_door_has_the_scores_that_a_family_publishes(door: Door, tempered: str) -> None:
    """zerank's are the sigmoid of a fifth of the logit; doors that promise scores from 0 to 1 give no others."""
    texts, encoder = [*FULL, "", "the cat?"], CrossEncoder(tempered, device="cpu")
    (ranking,) = encoder.rank_many([QUERY], [texts])
    logits = np.array([one.logit for one in ranking.documents])
    wanted = Answer([one.index for one in ranking.documents], (1 / (1 + np.exp(-logits / 5))).tolist())
    assert abs(1 / (1 + np.exp(-logits)) - np.array(wanted.scores)).max() > 1e-3
    checked(await door(tempered, encoder, QUERY, texts), wanted, texts)
    if door is service:
        checked(await through("TEI", encoder, texts), wanted, texts)


@pytest.mark.parametrize(("name", "is_own"), [("Hardsigmoid", True), ("Identity", False), ("Tanh", False)])
async def test_scores_from_0_to_1_are_the_models_own_or_the_sigmoid(
    name: str, is_own: bool, own_tiny: CrossEncoder, tmp_path: Path
) -> None:
    """Where its own are others: in Haystack, LangChain and TEI's shape; every other door gives its own."""
    nn = pytest.importorskip("torch").nn
    own_tiny.default_activation_function = getattr(nn, name)()
    own_tiny.save(str(tmp_path))
    encoder = CrossEncoder(str(tmp_path), device="cpu")
    (own,) = encoder.rank_many([QUERY], [FULL])
    (scaled,) = encoder.rank_many([QUERY], [FULL], activation_fct=None if is_own else nn.Sigmoid())
    for ranking, found in (
        (own, await service(str(tmp_path), encoder, QUERY, FULL)),
        (own, await command_line(str(tmp_path), encoder, QUERY, FULL)),
        (scaled, await haystack_ranker(str(tmp_path), encoder, QUERY, FULL)),
        (scaled, await langchain(str(tmp_path), encoder, QUERY, FULL)),
        (scaled, await through("TEI", encoder, FULL)),
    ):
        checked(found, Answer([one.index for one in ranking.documents], [one.score for one in ranking.documents]), FULL)


# ---- What its scores mean.
HAYHOOKS = Path(__file__).parents[1] / "integrations" / "hayhooks"
PIPELINES = ("search command", "hayhooks search", "hayhooks rerank")


@dataclass(frozen=True)
class Told:
    """Positions best first with the probability and interval of each that has one, and the verdict."""

    order: list[int]
    probabilities: list[tuple[float, float, float] | None]
    nothing_relevant: bool | None


def told_by(ranking: Ranking) -> Told:
    """What a ranking says."""
    found = [one.interval and (one.probability, *one.interval) for one in ranking.documents]
    return Told([one.index for one in ranking.documents], found, ranking.nothing_relevant)


async def told_by_a_pipeline(door: str, folder: str, texts: Sequence[str], least: float) -> Told:
    """The same through `secondpass search` or one of Hayhooks' wrappers, which say the verdict with each document."""
    place = Path(folder).parent
    file = hybrid(place / "pipeline.yaml", folder)
    page = file.read_text().replace("{top_k: 3,", "{top_k: 9,")  # the embedder finds every document
    rows = [{"_id": str(number), "text": text} for number, text in enumerate(texts)]
    corpus = str(write_json_lines(place / "corpus.jsonl", rows))
    if door == "search command":
        file.write_text(page)
        arguments = ["search", "-p", str(file), "-c", corpus, "-q", QUERY, "--json", "--min-probability", str(least)]
        result = CliRunner().invoke(app, arguments)
        (answer,) = json.loads(result.stdout)["queries"]
        assert answer["nothing_relevant"] == ("1 of 1 queries have nothing relevant" in result.stderr)
        found, verdicts = answer["second"], {answer["nothing_relevant"]}
    else:
        pytest.importorskip("hayhooks")
        file.write_text(page.replace("device: cpu}", f"device: cpu, min_probability: {least}}}"))
        name = door.split()[1]
        wrapper = runpy.run_path(str(HAYHOOKS / name / "pipeline_wrapper.py"))["PipelineWrapper"]()
        if name == "search":
            with pytest.MonkeyPatch.context() as patched:
                patched.setenv("SECONDPASS_SEARCH_PIPELINE", str(file))
                patched.setenv("SECONDPASS_CORPUS", corpus)
                wrapper.setup()
            found = await wrapper.run_api_async(QUERY, len(texts))
        else:
            wrapper.pipeline = Pipeline()
            wrapper.pipeline.add_component("ranker", SecondPassRanker(model=folder, min_probability=least))
            found = await wrapper.run_api_async(QUERY, list(texts), len(texts))
        verdicts = {one["nothing_relevant"] for one in found}
    (verdict,) = verdicts
    made = [(one["probability"], *one["probability_interval"]) for one in found]
    return Told([int(one.get("id", one.get("index"))) for one in found], made, verdict)


async def told_through(door: str, folder: str, encoder: CrossEncoder, texts: Sequence[str], least: float) -> Told:
    """The same texts through one of the doors."""
    if door in PIPELINES:
        return await told_by_a_pipeline(door, folder, texts, least)
    if door == "service":
        body = {"query": QUERY, "documents": list(texts), "min_probability": least}
        answer = (await posted({"one": encoder}, "/v1/rerank", body)).raise_for_status()
        results, verdict = answer.json()["results"], answer.json()["meta"]["nothing_relevant"]
        assert answer.headers["secondpass-nothing-relevant"] == str(verdict).lower()
        made = [(one["probability"], *one["probability_interval"]) for one in results]
        return Told([one["index"] for one in results], made, verdict)
    if door == "ranker":
        documents = [Document(id=str(place), content=text) for place, text in enumerate(texts)]
        ranker = SecondPassRanker(model=folder, top_k=len(texts), min_probability=least)
        found = ranker.run(query=QUERY, documents=documents)
        assert [one["id"] for one in found["probabilities"]] == [one.id for one in found["documents"]]
        made = [(one["probability"], *one["interval"]) for one in found["probabilities"]]
        return Told([int(one.id) for one in found["documents"]], made, found["nothing_relevant"])
    if door == "command line":
        arguments = ["rank", QUERY, "--input-format", "json", "--format", "jsonl", "--model", folder]
        result = CliRunner().invoke(app, [*arguments, "--min-probability", str(least)], input=json.dumps(list(texts)))
        rows = [json.loads(line) for line in result.stdout.splitlines()]
        made = [(row["probability"], *row["probability_interval"]) for row in rows]
        return Told([row["index"] for row in rows], made, "nothing relevant" in result.stderr)
    if door == "search":
        hits = two_pass_search(AllOfThem(texts), FirstPass(QUERY), lambda: encoder, top_k=len(texts))
        kept = [hit for hit in hits.hits if (hit.probability or 0) >= least]
        made = [hit.interval and (hit.probability, *hit.interval) for hit in kept]
        return Told([int(hit.candidate.id) for hit in kept], made, hits.nothing_relevant)
    models = [CrossEncoder(folder, device="cpu", max_length=16), encoder]
    (ranking,) = Cascade(models, len(texts)).rank_many([QUERY], [texts], min_probability=least)
    return told_by(ranking)


@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize("door", ["service", "ranker", "command line", "search", "cascade", *PIPELINES])
async def test_a_probability_is_one_through_every_door(
    door: str, answered: bool, own_tiny: CrossEncoder, tmp_path: Path
) -> None:
    """With its interval, what is left out below one, and the verdict, all from the file in the model's folder."""
    texts = ["the cat sat on the mat", "a dog", "water the tree in the garden", "the cat?", "cook an apple"]
    (plain,) = own_tiny.rank_many([QUERY], [texts])
    logits = [one.logit for one in plain.documents]
    middle = (logits[1] + logits[2]) / 2
    rule = AnswerRule(logits[0] + (-0.01 if answered else 0.01), 40, 0.9, 0.9)
    own_tiny.use_calibration(
        Calibration("logistic", 9.0, -9 * middle, edges=(middle,), low=(0.1, 0.4), high=(0.6, 0.9), answers=rule)
    )
    own_tiny.save(str(tmp_path / "model"))
    encoder = CrossEncoder(str(tmp_path / "model"), device="cpu")
    (ranking,) = encoder.rank_many([QUERY], [texts])
    wanted = told_by(ranking)
    assert wanted.order == [one.index for one in plain.documents]
    exact = 1 / (1 + np.exp(np.clip(9 * (middle - np.array(logits)), None, 500)))
    assert [found and found[0] for found in wanted.probabilities] == pytest.approx(exact.tolist(), abs=1e-4)
    assert [found and found[1:] for found in wanted.probabilities] == [(0.4, 0.9)] * 2 + [(0.1, 0.6)] * 3
    assert wanted.nothing_relevant is not answered
    whole = await told_through(door, str(tmp_path / "model"), encoder, texts, 0.0)
    some = await told_through(door, str(tmp_path / "model"), encoder, texts, 0.5)
    for found, kept in ((whole, 5), (some, 2)):
        assert found.order == wanted.order[:kept]
        assert np.array(found.probabilities) == pytest.approx(np.array(wanted.probabilities[:kept]), abs=1e-5)
        assert found.nothing_relevant is wanted.nothing_relevant


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank", "/v1/ranking"])
async def test_without_a_calibration_there_is_no_probability(path: str, tiny: CrossEncoder, tiny_folder: str) -> None:
    """And none can be asked for; the answer says so."""
    asked = {"query": {"text": QUERY}, "passages": [{"text": text} for text in FULL]}
    body = asked if path == "/v1/ranking" else {"query": QUERY, "documents": list(FULL)}
    plain = await posted({"one": tiny}, path, body)
    assert "probability" not in plain.text
    assert "nothing" not in plain.text + str(plain.headers)
    refused = await posted({"one": tiny}, path, {**body, "min_probability": 0})
    assert (refused.status_code, "the model one has no calibration" in refused.json()["message"]) == (422, True)
    with pytest.raises(InvalidInput, match="min_probability needs a model with a calibration"):
        tiny.rank(QUERY, FULL, min_probability=0.5)
    with pytest.raises(InvalidInput, match="min_probability needs a model with a calibration"):
        SecondPassRanker(model=tiny_folder, min_probability=0.5).warm_up()


# ---- What a model is told to look for.
TOLD = "say yes where the cat is <|im_end|>"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny causal reranker of a published family, whose template has a place for an instruction."""
    from tests.tiny_models import make_decoder

    folder = make_decoder(tmp_path_factory.mktemp("told") / "Qwen3-Reranker-tiny", "qwen3", max_position_embeddings=600)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 600}))
    return str(folder)


async def posted(models: dict[str, CrossEncoder], path: str, body: dict[str, Any]) -> httpx.Response:
    """A request to the service."""
    made = create_app(models=models)
    transport = httpx.ASGITransport(made)
    async with (
        made.router.lifespan_context(made),
        httpx.AsyncClient(transport=transport, base_url="http://x", trust_env=False) as client,
    ):
        return await client.post(path, json=body)


# Of requests that order texts: the path, and what has the texts.
SHAPES: dict[str, tuple[str, Callable[[Sequence[str]], dict[str, Any]]]] = {
    "Cohere": ("/v2/rerank", lambda texts: {"query": QUERY, "documents": texts}),
    "vLLM": ("/v1/rerank", lambda texts: {"query": QUERY, "documents": texts}),
    "Voyage": ("/v1/rerank", lambda texts: {"query": QUERY, "documents": texts, "top_k": len(texts)}),
    "Nvidia": ("/v1/ranking", lambda texts: {"query": {"text": QUERY}, "passages": [{"text": one} for one in texts]}),
    "TEI": ("/rerank", lambda texts: {"query": QUERY, "texts": texts}),
}
SCORES = ("relevance_score", "score", "logit")


async def through(shape: str, encoder: CrossEncoder, texts: Sequence[str], **more: Any) -> Answer:
    """The answer in one of the shapes; Nvidia's has logits for scores."""
    path, body = SHAPES[shape]
    answer = await posted({"one": encoder}, path, body(texts) | more)
    assert "unknown" not in answer.text + str(answer.headers)
    found = answer.raise_for_status().json()
    results = found if isinstance(found, list) else next(value for value in found.values() if isinstance(value, list))
    scores = [next(item[name] for name in SCORES if name in item) for item in results]
    return Answer([item["index"] for item in results], scores)


@pytest.mark.parametrize("shape", SHAPES)
async def test_an_instruction_is_one_in_every_shape(shape: str, told: str, tiny: CrossEncoder) -> None:
    """It changes what is read, and a model without a place for it refuses."""
    texts = ["the cat sat", "a dog", "water the tree " * 90, "the cat?"]
    encoder = CrossEncoder(told, device="cpu")
    activation = IDENTITY if shape == "Nvidia" else None
    (wanted,) = encoder.rank_many([QUERY], [texts], instruction=TOLD, activation_fct=activation)
    (plain,) = encoder.rank_many([QUERY], [texts], activation_fct=activation)
    for ranking, more in ((wanted, {"instruction": TOLD}), (plain, {}), (plain, {"instruction": " "})):
        found = await through(shape, encoder, texts, **more)
        assert found.order == [one.index for one in ranking.documents]
        assert found.scores == pytest.approx([one.score for one in ranking.documents], abs=1e-5)
    assert abs(wanted.documents[0].score - plain.documents[0].score) > 1e-4
    path, body = SHAPES[shape]
    refused = await posted({"one": tiny}, path, body(texts) | {"instruction": TOLD})
    assert refused.status_code == 422
    assert "instruction: this model's input has no place for one" in refused.json()["message"]


async def test_an_instruction_is_one_through_every_door(told: str, tmp_path: Path) -> None:
    """In a call or as the model's own, in Python, the queue, the service, Haystack and on the command line."""
    texts = ["the cat sat", "a dog", "water the tree " * 90, "the cat?"]
    encoder, own = CrossEncoder(told, device="cpu"), CrossEncoder(told, device="cpu", instruction=TOLD)
    wanted = encoder.predict([(QUERY, text) for text in texts], instruction=TOLD)
    plain = encoder.predict([(QUERY, text) for text in texts])
    assert abs(wanted - plain).min() > 1e-4
    made: dict[str, Sequence[float | None]] = {
        "own": own.predict([(QUERY, text) for text in texts]).tolist(),
        "prompt": encoder.predict([(QUERY, text) for text in texts], prompt=TOLD).tolist(),
    }
    for name, hits in (("rank", encoder.rank(QUERY, texts, instruction=TOLD)), ("own rank", own.rank(QUERY, texts))):
        made[name] = [hit["score"] for hit in sorted(hits, key=lambda hit: hit["corpus_id"])]
    (ranking,) = encoder.rank_many([QUERY], [texts], instruction=TOLD)
    made["rank_many"] = [item.score for item in sorted(ranking.documents, key=lambda item: item.index)]
    with SharedReranker(encoder) as queue:
        logits = queue.submit(QUERY, texts, instruction=TOLD).result(60).logits[:, 0]
    made["queue"] = activated(logits[:, None], encoder.default_activation_function, False)[:, 0].tolist()
    for path, told_there in (
        ("/v1/rerank", {"instruction": TOLD}),
        ("/v2/rerank", {"instruction": TOLD, "model": "one"}),
        ("/rerank", {"model": "own"}),
    ):
        answer = await posted({"one": encoder, "own": own}, path, {"query": QUERY, "documents": texts, **told_there})
        results = answer.raise_for_status().json()["results"]
        made[path] = [item["relevance_score"] for item in sorted(results, key=lambda item: item["index"])]
        assert "unknown" not in answer.text
    pairs = {"pairs": [[QUERY, text] for text in texts], "instruction": TOLD}
    made["/score"] = (await posted({"one": encoder}, "/score", pairs)).raise_for_status().json()["scores"]
    documents = [Document(id=str(place), content=text) for place, text in enumerate(texts)]
    for name, ranker, call in (
        ("haystack", SecondPassRanker(model=told), {"instruction": TOLD}),
        ("haystack init", SecondPassRanker(model=told, instruction=TOLD), {}),
    ):
        found = ranker.run(query=QUERY, documents=documents, **call)["documents"]
        made[name] = [document.score for document in sorted(found, key=lambda document: document.id or "")]
    arguments = ["--input-format", "json", "--format", "jsonl", "--model", told, "--instruction", TOLD]
    result = CliRunner().invoke(app, ["rank", QUERY, *arguments], input=json.dumps(texts))
    rows = sorted(map(json.loads, result.stdout.splitlines()), key=lambda row: row["index"])
    made["command line"] = [row["score"] for row in rows]
    for name, scores in made.items():
        assert scores == pytest.approx(wanted.tolist(), abs=1e-5), name
    own.save(str(tmp_path))
    without = CrossEncoder(str(tmp_path), device="cpu", instruction="")
    assert without.predict([(QUERY, text) for text in texts]) == pytest.approx(plain, abs=1e-5)
    batch = own.collate([[QUERY, text] for text in texts])
    tokens = encoder.tokens([QUERY] * 4, [text.strip() for text in texts], instruction=TOLD)
    assert [
        row[mask.bool()].tolist() for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ] == [one.ids.tolist() for one in tokens]


async def test_an_instruction_without_a_place_is_refused(tiny: CrossEncoder, tiny_folder: str) -> None:
    """A model that was never trained with one would read it as noise; what is said is true at each door."""
    refused = "instruction: this model's input has no place for one; put the text in front of the query instead"
    for call in (
        lambda: tiny.predict([(QUERY, "a dog")], instruction=TOLD),
        lambda: tiny.rank(QUERY, ["a dog"], instruction=TOLD),
        lambda: CrossEncoder(tiny_folder, instruction=TOLD),
        lambda: SecondPassRanker(model=tiny_folder, instruction=TOLD).warm_up(),
    ):
        with pytest.raises(InvalidInput, match=refused):
            call()
    with pytest.raises(InvalidInput, match="prompt and instruction are given"):
        tiny.predict([(QUERY, "a dog")], prompt="a", instruction="b")
    assert tiny.predict((QUERY, "a dog"), instruction="") == tiny.predict((QUERY, "a dog"))
    answer = await posted({"one": tiny}, "/rerank", {"query": QUERY, "documents": ["a dog"], "instruction": TOLD})
    assert (answer.status_code, answer.json()["message"]) == (422, refused)
    result = CliRunner().invoke(app, ["rank", QUERY, "--model", tiny_folder, "--instruction", TOLD], input="a dog")
    assert result.exit_code == 2
    assert refused in result.output


@pytest.mark.parametrize("blank", ["", " \n", "\u200b"])
async def test_a_blank_instruction_is_none_through_every_door(
    told: str, tiny: CrossEncoder, tiny_folder: str, blank: str
) -> None:
    """A model without a place takes it too, and where there is a stored one it is left out."""
    encoder, own = CrossEncoder(told, device="cpu"), CrossEncoder(told, device="cpu", instruction=TOLD)
    (wanted,) = encoder.predict([(QUERY, "a dog")])
    made = [own.predict([(QUERY, "a dog")], **{name: blank})[0] for name in ("instruction", "prompt")]
    made += [CrossEncoder(told, device="cpu", instruction=blank).predict([(QUERY, "a dog")])[0]]
    made += [own.rank_many([QUERY], [["a dog"]], instruction=blank)[0].documents[0].score]
    body = {"query": QUERY, "documents": ["a dog"], "instruction": blank}
    answer = await posted({"one": own}, "/rerank", body)
    made += [answer.raise_for_status().json()["results"][0]["relevance_score"]]
    given = [Document(content="a dog")]
    (found,) = SecondPassRanker(model=told, instruction=blank).run(query=QUERY, documents=given)["documents"]
    made += [found.score]
    assert made == pytest.approx([wanted] * len(made), abs=1e-5)
    assert own.conditions(instruction=blank) == encoder.conditions()
    own.prompts["blank"] = blank
    assert len(own.tokens([QUERY], ["a dog"], instruction=blank)[0]) == len(encoder.tokens([QUERY], ["a dog"])[0])
    assert own.predict([(QUERY, "a dog")], prompt_name="blank") == pytest.approx([wanted], abs=1e-5)
    assert CrossEncoder(tiny_folder, device="cpu", instruction=blank).prompts == tiny.prompts
    assert tiny.predict((QUERY, "a dog"), instruction=blank) == tiny.predict((QUERY, "a dog"))
    assert (await posted({"one": tiny}, "/rerank", body)).status_code == 200


async def test_a_long_document_keeps_the_template(told: str) -> None:
    """Through every door the same score, and the template's last tokens are there exactly."""
    encoder = CrossEncoder(told, device="cpu")
    document = "the cat sat on the mat " * 100
    short, long = encoder.tokens([QUERY] * 2, ["the cat", document])
    assert len(long) == encoder.window
    tail = len(encoder.tokenizer("<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")["input_ids"])
    assert long.ids[-tail:].tolist() == short.ids[-tail:].tolist()
    assert long.cut is not None
    assert (long.cut.query_tokens, long.cut.document_tokens > 0) == (0, True)
    expected = await rank(told, encoder, QUERY, [document, "a dog"])
    for door in DOORS:
        checked(await door(told, encoder, QUERY, [document, "a dog"]), expected, [document, "a dog"])
