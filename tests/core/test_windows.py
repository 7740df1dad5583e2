"""Rules of windows over long documents: what each reads, where it stands, and what a document's score is."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput
from secondpass.inputs import CutPolicy, Mark, ModelTemplate, PromptTemplate
from secondpass.score_cache import ScoreCache
from secondpass.scoring import Job
from secondpass.tokens import PairTokenizer, Tokens
from secondpass.windows import Windows, bm25
from tests.tiny_models import ROUNDING, WORDS, make_reranker

KINDS = ("bert", "roberta", "xlm-roberta", "deberta-v2")
QUERY = "where is the cat"
ROOM = 32  # tokens of an input in most tests


def story(words: int, seed: int = 0, sentence: int = 9) -> str:
    """Sentences of words that the tiny vocabularies have."""
    drawn = np.random.default_rng(seed).choice(WORDS, words).tolist()
    parts = [drawn[start : start + sentence] for start in range(0, words, sentence)]
    return " ".join(" ".join(part).capitalize() + "." for part in parts)


@cache
def tokenizer(folder: str) -> PairTokenizer:
    """Our tokenizer of a tiny model."""
    return PairTokenizer(AutoTokenizer.from_pretrained(folder))


def inputs_of(tokens: Tokens) -> list[Tokens]:
    """Every window of a document."""
    return [tokens, *tokens.others]


# ---- Which tokens each window has


@given(
    st.lists(st.sampled_from(["a", "word", "End.", "Stop!", "\n\n", "無。", "x" * 40]), min_size=1, max_size=120),
    st.integers(1, 40),
    st.none() | st.integers(0, 20),
    st.sampled_from(["sentences", "words"]),
)
def test_windows_hold_every_token_at_a_linear_cost(
    parts: list[str], size: int, overlap: int | None, borders: Any
) -> None:
    """Each token is in a window, none has more than its size, and each begins at least a quarter behind the last."""
    text = " ".join(["a", *parts])
    found = [match.span() for match in re.finditer(r"\w{1,9}|\S", text)]
    starts, ends = ([place[end] for place in found] for end in (0, 1))
    windows = Windows(overlap=overlap, borders=borders)
    made = windows.parts(text, starts, ends, size)
    assert (made[0].start, made[-1].stop) == (0, len(found))
    assert all(0 < part.stop - part.start <= size for part in made)
    for one, other in pairwise(made):
        assert one.start + max(1, size // 4) <= other.start <= one.stop < other.stop
        assert one.stop - other.start <= windows.shared(size)
    assert len(made) <= 1 + len(found) / max(1, size // 4)


@pytest.mark.parametrize(
    ("text", "windows", "size", "parts"),
    [
        # a sentence that ends in the last quarter ends the window, and the next begins with a sentence
        ("a b c d e f go. Hi j k l m n.", Windows(overlap=0), 10, ["a b c d e f go.", "Hi j k l m n."]),
        (
            "a be. Co d ex. Go h i j k l m n.",
            Windows(overlap=5),
            9,
            ["a be. Co d ex.", "Co d ex. Go h i j k", "h i j k l m n."],
        ),
        # none in the last quarter: a word does
        ("a. Be c d e f g h i j", Windows(overlap=0), 6, ["a. Be c d e", "f g h i j"]),
        ("a b c d e f go. Hi j k l", Windows(overlap=0, borders="words"), 10, ["a b c d e f go. Hi j", "k l"]),
        ("abc-def ghi-jkl mno pqr", Windows(overlap=0), 4, ["abc-def", "ghi-jkl mno", "pqr"]),
        # a text without blanks is cut anywhere
        ("a-b-c-d-e", Windows(overlap=0), 4, ["a-b-", "c-d-", "e"]),
        # what fits is one window
        ("a be. Co d.", Windows(), 6, ["a be. Co d."]),
    ],
)
def test_borders(text: str, windows: Windows, size: int, parts: list[str]) -> None:
    """Windows end and begin where sentences do, else where words do, else anywhere."""
    found = [match.span() for match in re.finditer(r"\w+|\S", text)]
    starts, ends = ([place[end] for place in found] for end in (0, 1))
    made = windows.parts(text, starts, ends, size)
    assert [text[starts[part.start] : ends[part.stop - 1]] for part in made] == parts


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"tokens": 0}, "windows: tokens=0 is not a positive int"),
        ({"most": True}, "windows: most=True is not a positive int"),
        ({"overlap": -1}, "windows: overlap=-1 is not a whole number"),
        ({"tokens": 9, "overlap": 5}, "overlap=5 is more than half of tokens=9"),
        ({"aggregate": "mean"}, "windows: aggregate='mean' is not a positive int"),
        ({"borders": "lines"}, "windows: borders='lines' is none of sentences, words"),
        ({"select": "best", "most": 2}, "windows: select='best' is none of first, bm25"),
        ({"select": "bm25"}, "select='bm25' chooses among windows, and most=None reads them all"),
    ],
)
def test_refusals(arguments: dict[str, Any], reason: str) -> None:
    """What is no window is refused where it is said."""
    with pytest.raises(InvalidInput, match=re.escape(reason)):
        Windows(**arguments)


def test_whole_numbers_of_numpy_are_plain_ones() -> None:
    """A cache knows what was scored by either, and files can be written."""
    made = Windows(tokens=np.int64(64), overlap=np.int32(8), most=np.uint8(3), aggregate=np.int64(2))
    assert repr(made) == repr(Windows(tokens=64, overlap=8, most=3, aggregate=2))


# ---- Where windows stand in the text that was given

MIXED = (
    "Cafe\u0301 9 na\u00efve. \u4e2d\u6587 7 \u6587\u4ef6 8 \u3002 The \U0001f600 3 cat [SEP] </s> dog, "
    "5 \u017fmall \ufb01re 4. "
)
BROKEN = "A \ud83d\ude00 cat 1 \ud800 sat 2. On \ud83d\ude00\ud83d\ude00 mat\udc00 3, a red\ud83d\ude00 dog 4. "
TEXTS = {"words": story(160), "mixed": MIXED * 9, "surrogates": BROKEN * 9, "blanks": f"   {story(160)}   "}
TEMPLATES = {
    "none": None,
    "next to it": PromptTemplate(query_prefix="Query: ", document_prefix="Document: ", document_suffix=" what?"),
    "stripped": PromptTemplate(document_prefix="a ", document_suffix="\n", stripped=True),
    "first": PromptTemplate(document_prefix=("new", Mark.BORDER), document_suffix=" ", document_first=True),
}


def content(ours: PairTokenizer, tokens: Tokens) -> str:
    """What an input spells, without marks of blanks and of words that go on: those depend on where a text begins."""
    rules = ours._tokenizer
    return re.sub("[\u0120\u2581]|##", "", "".join(rules.id_to_token(int(number)) for number in tokens.ids))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", TEXTS)
def test_a_window_reads_the_characters_that_it_names(
    tiny_model_folder: Callable[..., str], kind: str, template: str, name: str
) -> None:
    """The text at its place, given as a document, spells the same input; together the windows are all of the text."""
    ours, text, around = tokenizer(tiny_model_folder(kind)), TEXTS[name], TEMPLATES[template]
    (made,) = ours.pairs([QUERY], [text], 2 * ROOM, CutPolicy("windows"), around)
    found = inputs_of(made)
    spans = [item.span for item in found if item.span is not None]
    assert len(found) == len(spans) > 2
    assert made.cut is None
    assert (spans[0][0], spans[-1][1]) == (len(text) - len(text.lstrip()), len(text.rstrip()))
    assert all(one[1] >= other[0] or not text[one[1] : other[0]].strip() for one, other in pairwise(spans))
    texts = [text[start:end] for start, end in spans]
    assert texts == [part.strip() for part in texts]
    again = ours.pairs([QUERY] * len(texts), texts, 300, "only_document", around)
    assert [content(ours, item) for item in found] == [content(ours, item) for item in again]
    assert max(map(len, found)) <= 2 * ROOM


@settings(max_examples=30)
@given(st.text(st.sampled_from("ab .\u0301\u4e2d\U0001f600\ud83d\ude00\ufb01\n\u200b"), min_size=1, max_size=90))
@pytest.mark.parametrize("kind", KINDS)
def test_every_visible_character_is_in_a_window(tiny_model_folder: Callable[..., str], kind: str, text: str) -> None:
    """Whatever the text: windows follow each other, and nothing but white space lies between them."""
    ours = tokenizer(tiny_model_folder(kind))
    (made,) = ours.pairs(["a"], [text], 14, CutPolicy("windows", windows=Windows(overlap=1)))
    place = 0
    for item in inputs_of(made):
        start, end = item.span or (0, len(text))
        assert not text[place:start].strip()
        assert start <= end <= len(text)
        place = max(place, end)
    assert not text[place:].strip()


def test_places_are_those_of_the_text_before_it_was_stripped(tiny: CrossEncoder) -> None:
    """`rank` strips texts, and names places in what it was given; the text is there on request."""
    documents = [f"\n\t {story(200, seed)}  " for seed in range(3)] + ["  a cat \n", " \n "]
    hits = tiny.rank(QUERY, documents, truncation="windows", return_documents=True)
    alone = tiny.rank(QUERY, [document.strip() for document in documents], truncation="windows")
    assert [hit["score"] for hit in hits] == [hit["score"] for hit in alone]
    for hit, other in zip(hits, alone, strict=True):
        document = documents[hit["corpus_id"]]
        if not document.strip():
            assert "passage" not in hit
            continue
        place = hit["passage"]
        assert place["text"] == document[place["start"] : place["end"]] == place["text"].strip()
        blanks = len(document) - len(document.lstrip())
        assert place["start"] - blanks == other["passage"]["start"]
        assert place["windows"] == (1 if hit["corpus_id"] == 3 else other["passage"]["windows"])
        assert hit["score"] == pytest.approx(place["score"], abs=1e-7)
    short = next(hit for hit in hits if hit["corpus_id"] == 3)
    assert (short["passage"]["text"], short["passage"]["windows"]) == ("a cat", 1)


# ---- A document that fits is read as ever


def test_a_document_that_fits_scores_bit_for_bit_as_before(tiny: CrossEncoder) -> None:
    """Beside the query, under a wish for smaller windows that it fits too, and as a single text."""
    pairs = [(QUERY, story(words, words)) for words in (1, 20, 70, 90)] + [("cat " * 60, "dog"), (QUERY, "")]
    for windows in (Windows(), Windows(tokens=110, aggregate=2, borders="words")):
        records: list[Any] = []
        read = tiny.predict(pairs, truncation=windows, records=records)
        assert read.tolist() == tiny.predict(pairs, truncation="only_document").tolist()
        assert records[0].windows == 0
    assert tiny.predict(pairs[:4], truncation="windows").tolist() == tiny.predict(pairs[:4]).tolist()
    assert tiny.predict([[QUERY]], truncation="windows").tolist() == tiny.predict([[QUERY]]).tolist()


def test_a_query_that_is_too_long_leaves_half_of_each_window(tiny_folder: str) -> None:
    """As where the document alone is cut; with smaller windows the query keeps what they leave."""
    ours, query = tokenizer(tiny_folder), "cat " * 60
    (made,) = ours.pairs([query], ["dog " * 50], ROOM + 3, CutPolicy("windows"))
    assert {int((item.type_ids == 0).sum()) for item in inputs_of(made)} == {2 + ROOM // 2}
    assert made.cut is not None
    assert (made.cut.query_tokens, made.cut.document_tokens) == (60 - ROOM // 2, 0)
    (small,) = ours.pairs([query], ["dog " * 50], ROOM + 3, Windows(tokens=8))  # type: ignore[arg-type]
    assert {len(item) for item in inputs_of(small)[:-1]} == {ROOM + 3}
    assert small.cut is not None
    assert small.cut.query_tokens == 60 - (ROOM - 8)
    greedy = CutPolicy("windows", query_share=(1, 1))
    (least,) = ours.pairs([query], ["dog " * 50], ROOM + 3, greedy)
    assert len(inputs_of(least)) == 50


# ---- What the windows make of a document


def scored(encoder: CrossEncoder, text: str, windows: Windows) -> tuple[list[tuple[int, int]], list[float]]:
    """Places of the windows, and their logits as those of documents of their own."""
    (made,) = encoder.tokens([QUERY], [text], cut=CutPolicy("windows", windows=windows))
    spans = [item.span or (0, len(text)) for item in inputs_of(made)]
    (ranking,) = encoder.rank_many([QUERY], [[text[start:end] for start, end in spans]])
    logits = dict.fromkeys(range(len(spans)), 0.0) | {one.index: one.logit for one in ranking.documents}
    return spans, list(logits.values())


@pytest.mark.parametrize("aggregate", ["max", 1, 3, 1000])
def test_the_best_windows_make_the_score(tiny: CrossEncoder, aggregate: Any) -> None:
    """The logit of the best one, or the mean of so many; the passage is the best one in any case."""
    text, windows = story(500, 3), Windows(tokens=40, aggregate=aggregate)
    spans, logits = scored(tiny, text, windows)
    ((document,), record) = ranked_one(tiny, text, windows)
    best = sorted(logits, reverse=True)[: 1 if aggregate == "max" else aggregate]
    assert document.logit == pytest.approx(np.mean(best), abs=ROUNDING)
    passage = document.passage
    assert (passage.start, passage.end) == spans[int(np.argmax(logits))]
    assert (passage.logit, passage.windows) == (pytest.approx(max(logits), abs=ROUNDING), len(spans))
    assert passage.score == pytest.approx(1 / (1 + np.exp(-passage.logit)), abs=ROUNDING)
    assert record.windows == len(spans)
    assert not record.truncated


def ranked_one(encoder: CrossEncoder, text: str, windows: Windows, **options: Any) -> tuple[Any, Any]:
    """The ranking of one document, and the record of the call."""
    (ranking,) = encoder.rank_many([options.pop("query", QUERY)], [[text]], truncation=windows, **options)
    return ranking.documents, ranking.record


def test_no_more_windows_than_are_wished(tiny: CrossEncoder) -> None:
    """The first ones, or those that have the query's rarest words; what nobody read is on record."""
    text = f"{story(300, 1)} A rare qzxj stands there. {story(300, 2)}"
    every, _ = scored(tiny, text, Windows(tokens=40))
    ((first,), record) = ranked_one(tiny, text, Windows(tokens=40, most=4))
    assert (first.passage.windows, record.windows) == (4, 4)
    assert (first.passage.start, first.passage.end) in every[:4]
    assert record.truncated[0].document_tokens > 400
    ((chosen,), record) = ranked_one(tiny, text, Windows(tokens=40, most=1, select="bm25"), query="the qzxj of all")
    assert "qzxj" in text[chosen.passage.start : chosen.passage.end]
    assert record.truncated[0].document_tokens > 500
    enough = Windows(tokens=40, most=len(every), select="bm25")
    assert ranked_one(tiny, text, enough)[0] == ranked_one(tiny, text, Windows(tokens=40))[0]


def test_bm25_prefers_rare_words_and_short_windows() -> None:
    """Its formula over the windows of one document, by token ids; an empty query prefers none."""
    windows = [np.array(ids, np.int32) for ids in ([1, 2, 2], [1, 3, 9], [1, 9, 9, 9, 9, 9], [9, 9])]
    assert bm25(np.array([3, 1], np.int32), windows).argmax() == 1
    common = bm25(np.array([1], np.int32), windows)
    assert common[0] > common[2] > common[3] == 0
    rarity = np.log1p((4 - 1 + 0.5) / 1.5)
    expected = rarity * 2 / (2 + 0.9 * (0.6 + 0.4 * 3 / 3.5))
    assert bm25(np.array([2], np.int32), windows).tolist() == pytest.approx([expected, 0, 0, 0])
    assert bm25(np.array([], np.int32), windows).tolist() == [0] * 4


def test_no_more_of_a_document_than_is_wished(tiny_folder: str) -> None:
    """Of the first so many tokens windows are made, and the passage never lies behind them."""
    ours, text = tokenizer(tiny_folder), "cat " * 200
    for most, windows, last in ((100, Windows(), 100), (20, Windows(), 20), (20, Windows(tokens=8), 20)):
        policy = CutPolicy("windows", windows=windows, max_document_tokens=most)
        (made,) = ours.pairs(["a"], [text], 64, policy)
        spans = [item.span for item in inputs_of(made)]
        assert spans[-1] is not None
        assert spans[-1][1] == 4 * last - 1
        assert made.cut is not None
        assert made.cut.document_tokens == 200 - last


def test_of_a_text_beyond_the_ceiling_only_what_was_read_is_the_passage(own_tiny: CrossEncoder) -> None:
    """A word of a million letters is one unknown token, and the rest was never read."""
    text = "x" * 1_000_000
    ((document,), record) = ranked_one(own_tiny, text, Windows(most=2))
    assert record.truncated[0].characters == 1_000_000 - document.passage.end
    assert 0 < document.passage.end < 1_000_000


def test_one_of_several_labels_says_which_window_is_best(tiny_model_folder: Callable[..., str]) -> None:
    """Without a rule there is no best one; what a cache keeps for one rule is not another's."""
    encoder = CrossEncoder(tiny_model_folder("bert", 3), device="cpu")
    text, windows = story(500, 5), Windows(tokens=30)
    with pytest.raises(InvalidInput, match="rank with relevance="):
        encoder.predict([(QUERY, text)], truncation=windows)
    rules: Sequence[Any] = (0, 1, 2, "expected")
    found = [ranked_one(encoder, text, windows, relevance=rule)[0][0] for rule in rules]
    assert len({one.passage.start for one in found}) > 1
    assert all(one.logit == pytest.approx(one.passage.logit, abs=ROUNDING) for one in found)
    encoder.use_score_cache(ScoreCache())
    for _ in range(2):
        assert [ranked_one(encoder, text, windows, relevance=rule)[0][0] for rule in rules] == found


def test_single_texts_are_read_in_windows(tiny: CrossEncoder) -> None:
    """A model of one text has the whole window for it."""
    text = story(400, 8)
    (made,) = tiny.engine().tokenizer.singles([text], tiny.window, CutPolicy("windows"))
    spans = [item.span for item in inputs_of(made)]
    texts = [[text[span[0] : span[1]]] for span in spans if span is not None]
    assert len(texts) == len(spans) > 3
    assert tiny.predict([[text]], truncation="windows")[0] == pytest.approx(tiny.predict(texts).max(), abs=ROUNDING)


def test_equal_windows_are_scored_once(tiny: CrossEncoder) -> None:
    """Within a document, and in documents that share them; equal documents tie."""
    windows = Windows(tokens=8, overlap=0)
    records: list[Any] = []
    twice = tiny.predict([(QUERY, "cat dog " * 40)] * 2, truncation=windows, records=records)
    once = tiny.predict([(QUERY, "cat dog " * 4)], records=records)
    assert twice.tolist() == [once[0]] * 2
    assert records[0].tokens == records[1].tokens
    assert records[0].windows == 20


def test_a_causal_model_reads_windows_in_its_template(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its template stands around each window, and places are those of the document alone."""
    encoder = CrossEncoder(str(make_reranker(tmp_path_factory.mktemp("qwen3"), length=160)), device="cpu")
    assert isinstance(encoder.template, ModelTemplate)
    ours, text, told = encoder.engine().tokenizer, f"  {story(120, 4)} ", {"instruction": "find cats"}
    (made,) = encoder.tokens([QUERY], [text], cut=CutPolicy("windows"), **told)
    spans = [item.span for item in inputs_of(made) if item.span is not None]
    texts = [text[start:end] for start, end in spans]
    again = encoder.tokens([QUERY] * len(texts), texts, **told)
    assert [content(ours, item) for item in inputs_of(made)] == [content(ours, item) for item in again]
    ((found,), _) = ranked_one(encoder, text, Windows(), **told)
    assert (found.passage.windows, len(spans)) == (len(spans), len(inputs_of(made)))
    assert (found.passage.start, found.passage.end) in spans
    fits = [*([QUERY], ["a cat sat. " * 3])]
    (whole,) = encoder.tokens(*fits, cut=CutPolicy("windows"))
    assert (whole.ids.tolist(), whole.others) == (encoder.tokens(*fits)[0].ids.tolist(), ())


# ---- What it is all for

NEEDLE = "The lost library card of the museum costs nine euros and is replaced within two days."
FILLER = (
    "The committee met again in the small town hall. Rain fell on the hills, and the harvest was late that year. "
    "A new bridge was opened by the mayor, who spoke for an hour. Nobody could say how many boats lay in the harbour. "
)


@pytest.fixture(scope="module")
def pocket() -> CrossEncoder:
    """Load the embedded model, which knows what it reads."""
    return CrossEncoder("secondpass/pocket", device="cpu")


def test_a_needle_is_found_wherever_it_is(pocket: CrossEncoder) -> None:
    """At the beginning, in the middle and at the end of 800 words; what truncation reads of the last two has none."""
    query, hay = "how much does a new library card cost", [FILLER.strip()] * 19
    documents = [" ".join([*hay[:place], NEEDLE, *hay[place:]]) for place in (0, 13, 19)]
    hits = pocket.rank(query, [*documents, " ".join(hay)], truncation="windows", return_documents=True)
    assert {hit["corpus_id"] for hit in hits[:-1]} == set(range(len(documents)))
    for hit in hits[:-1]:
        assert NEEDLE in hit["passage"]["text"]
        assert hit["score"] > 5 * hits[-1]["score"]
    cut = pocket.predict([(query, document) for document in [*documents, " ".join(hay)]], truncation="only_document")
    assert cut[0] > 5 * cut[-1]
    assert set(cut[1:].tolist()) == {cut[-1]}


def test_tokens_are_made_of_as_many_texts_as_a_piece_needs() -> None:
    """A budget is not spent on the tokens of long texts that nobody scores; the first is read in any case."""
    texts = ["x" * 90, "y" * 20, "z" * 20, "cat"]
    job = Job([["a"] * 4, texts])
    limits = ((4, math.inf), (2, math.inf), (4, 1), (4, 150))
    assert [job.next_texts(most, characters)[1] for most, characters in limits] == [
        texts,
        texts[:2],
        texts[:1],
        texts[:2],
    ]
