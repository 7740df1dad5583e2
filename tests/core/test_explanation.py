"""Rules of `secondpass.explanation`."""

from __future__ import annotations

import html
import io
import json
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import secondpass
from secondpass import CrossEncoder, PromptTemplate
from secondpass.activations import IDENTITY
from secondpass.errors import InvalidInput, TooLong
from secondpass.explanation import Explanation, TextPart, explain, left_out
from secondpass.sentences import sentences
from secondpass.windows import Windows

QUERY = "how do I reset the password"
SHORT = "Open the account. The cat sat on the mat.\n\nReset the password after that. A dog!"
WORDS = "the cat sat on a mat and the big red dog is in the garden of london with water".split()


def text_of(words: int) -> str:
    """Sentences of ten words, no two of them alike."""
    made = [WORDS[(7 * place + place // 10) % len(WORDS)] for place in range(words)]
    return " ".join(" ".join(made[start : start + 10]).capitalize() + "." for start in range(0, words, 10))


def logits(encoder: CrossEncoder, pairs: list[tuple[str, str]], **options: Any) -> list[float]:
    """What the model gives, by the other door."""
    values: list[float] = encoder.predict(pairs, activation_fct=IDENTITY, **options).tolist()
    return values


def rescored(encoder: CrossEncoder, found: Explanation, **options: Any) -> list[tuple[float, TextPart]]:
    """Each part with the logit of the pair in which its left-out text stands."""
    query = found.query[found.query_read.start : found.query_read.end]
    document = found.document[found.document_read.start : found.document_read.end]
    parts = (*found.sentences, *found.words, *found.query_words)
    of_query = {id(part) for part in found.query_words}
    pairs = [(part.without, document) if id(part) in of_query else (query, part.without) for part in parts]
    return list(zip(logits(encoder, pairs, **options), parts, strict=True))


@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta"])
@pytest.mark.parametrize(
    "document",
    [SHORT, text_of(120), f"\n {SHORT}\t", "a b b a b b", "猫はマットの上。犬は庭。"],
    ids=["short", "long", "white space", "repeated", "CJK"],
)
def test_it_is_what_the_left_out_texts_score(
    tiny_model_folder: Callable[..., str], architecture: str, document: str
) -> None:
    """Directly, to 1e-5; a contribution is the whole pair's logit less that, also in scores."""
    encoder = CrossEncoder(tiny_model_folder(architecture), device="cpu")
    found = explain(encoder, QUERY, document, max_passes=25)
    whole, empty = logits(encoder, [(QUERY, document), (QUERY, "")])
    assert (found.logit, found.empty_logit) == pytest.approx((whole, empty), abs=1e-5)
    assert found.score == pytest.approx(encoder.rank(QUERY, [document])[0]["score"], abs=1e-5)
    for logit, part in rescored(encoder, found):
        assert part.logit == pytest.approx(logit, abs=1e-5)
        assert part.contribution == found.logit - part.logit
        assert part.score_contribution == found.score - part.score
        assert part.score == pytest.approx(1 / (1 + np.exp(-part.logit)), abs=1e-6)


@pytest.mark.parametrize(
    ("query", "document", "most"),
    [
        (QUERY, SHORT, 60),
        (QUERY, text_of(200), 60),
        ("dog " * 90, text_of(200), 60),
        (QUERY, "a. " * 40, 60),
        (QUERY, " ".join(WORDS * 3), 60),
        (QUERY, "猫はマットの上にいる。" * 4, 60),
        (QUERY, text_of(50_000), 60),
        (QUERY, "x" * 50_000, 30),
        (QUERY, text_of(60), 4),
        (QUERY, "dog", 4),
        ("dog", "", 4),
        ("dog", "\u200b\ufeff", 60),
    ],
    ids=[
        "short", "200 words", "long query", "40 sentences", "no full stop", "CJK", "50,000 words", "one huge word",
        "few passes", "one word", "empty", "blank",
    ],
)  # fmt: skip
def test_no_more_pairs_are_scored_than_allowed(
    own_tiny: CrossEncoder, monkeypatch: pytest.MonkeyPatch, query: str, document: str, most: int
) -> None:
    """Whatever the texts; `passes` tells how many there were, in one call where all fits and in two at most."""
    score, calls = own_tiny._score, []

    def counted(columns: list[list[str]], *options: Any) -> Any:
        calls.append(len(columns[0]))
        return score(columns, *options)

    monkeypatch.setattr(own_tiny, "_score", counted)
    found = explain(own_tiny, query, document, max_passes=most)
    assert found.passes == sum(calls) <= most
    assert len(calls) <= 2
    finest = all(len(part.text.split()) <= 1 for part in found.parts if part.read)
    # the whole and the empty document too; texts that are equal once something is left out are scored once
    tried = 2 + sum(part.read for part in (*found.sentences, *found.words, *found.query_words))
    assert finest or tried >= most - 1
    check_places(found)


def check_places(found: Explanation) -> None:
    """Every visible character is in one sentence and one finest part, in order, in the given text."""
    for parts in (found.sentences, found.parts):
        assert "".join("".join(part.text for part in parts).split()) == "".join(found.document.split())
        assert all(left.end <= right.start for left, right in pairwise(parts))
    assert "".join("".join(part.text for part in found.query_words).split()) == "".join(found.query.split())
    for part in (*found.sentences, *found.words):
        assert found.document[part.start : part.end] == part.text == part.text.strip() != ""
    assert all(found.query[part.start : part.end] == part.text for part in found.query_words)


def test_a_short_document_is_taken_apart_wholly(tiny: CrossEncoder) -> None:
    """Each sentence, each word, and each word of the query."""
    found = explain(tiny, QUERY, SHORT)
    assert [part.text for part in found.words] == SHORT.split() == [part.text for part in found.parts]
    assert [part.text for part in found.query_words] == QUERY.split()
    places = [(span.start, span.end) for span in sentences(SHORT)]
    assert [(part.start, part.end) for part in found.sentences] == places


def test_the_sentences_that_matter_most_come_apart_first(tiny: CrossEncoder) -> None:
    """The words of a sentence with a smaller contribution are joined, and come after those of larger ones."""
    found = explain(tiny, QUERY, text_of(200), max_passes=60)
    by_size = sorted(found.sentences, key=lambda part: -abs(part.contribution))
    inside = [[word for word in found.words if one.start <= word.start < one.end] for one in by_size]
    apart = [len(words) for words in inside]
    assert apart[:2] == [10, 10]
    assert apart == sorted(apart, reverse=True)
    assert all(word.text.count(" ") == 0 for word in inside[0])
    assert len(found.parts) == sum(apart) + apart.count(0)


@given(
    st.text(alphabet=st.sampled_from("aB1 .!\n\u3002\u732b\u200b\ud800"), max_size=60),
    st.text(alphabet=st.sampled_from("ab \u732b\u200b"), max_size=12).map("b".__add__),
    st.integers(4, 30),
)
@settings(max_examples=40, deadline=None)
def test_every_character_has_its_part(tiny: CrossEncoder, document: str, query: str, most: int) -> None:
    """In any text, under any bound, and the sum is that of the parts."""
    found = explain(tiny, query, document, max_passes=most)
    check_places(found)
    assert found.passes <= most
    assert found.told_apart == sum(part.contribution for part in found.sentences)
    json.dumps(found.to_dict())


@pytest.mark.parametrize(
    ("text", "gone", "left"),
    [
        ("a b c", "b", "a c"),
        ("a b c", "a", "b c"),
        ("a b c", "c", "a b"),
        ("a\n\nb c", "b", "a\n\nc"),
        ("a b\n\nc", "b", "a\n\nc"),
        ("a  b c", "b", "a  c"),
        ("abc", "b", "ac"),
        ("猫 は", "猫", "は"),
        ("猫は犬", "は", "猫犬"),
        (" a ", "a", ""),
        ("a", "a", ""),
        ("a b.", "b.", "a"),
    ],
)
def test_what_stands_where_a_part_was(text: str, gone: str, left: str) -> None:
    """Nothing, and one of the white spaces around it: two words never become one, and no blanks are doubled."""
    start = text.index(gone)
    assert left_out(text, start, start + len(gone)) == left


@pytest.mark.parametrize(("query", "document"), [("dog", "A cat sat."), ("dog", "cat"), ("dog", "cat cat")])
def test_one_sentence_is_the_whole(tiny: CrossEncoder, query: str, document: str) -> None:
    """Without it the text is empty, which the model reads as it reads any; the sum is exact."""
    found = explain(tiny, query, document)
    (sentence,), (word,) = found.sentences, found.query_words
    assert (sentence.without, sentence.logit) == ("", found.empty_logit)
    assert sentence.contribution == found.told_apart == found.whole == found.logit - found.empty_logit
    assert word.without == ""
    assert word.logit == pytest.approx(logits(tiny, [("", document)])[0], abs=1e-5)
    assert "told apart" in found.additive_check


def test_equal_texts_are_scored_once(tiny: CrossEncoder) -> None:
    """Of a sentence that stands there twice either one leaves the same text."""
    found = explain(tiny, "dog", "A cat. A cat.")
    assert len({part.logit for part in found.sentences}) == 1
    # both, none, one of them; without the query; without "A" or "cat." at either place
    assert found.passes == 8


@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta", "deberta-v2"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_what_the_window_has_no_room_for_contributes_nothing(
    tiny_model_folder: Callable[..., str], architecture: str, side: str
) -> None:
    """It is marked, and nothing of it moves up: other words there change nothing but the text."""
    encoder = CrossEncoder(
        tiny_model_folder(architecture), device="cpu", max_length=64, tokenizer_args={"truncation_side": side}
    )
    long = text_of(300)
    found = explain(encoder, QUERY, long, max_passes=40)
    assert found.score == pytest.approx(encoder.rank(QUERY, [long])[0]["score"], abs=1e-6)
    check_places(found)
    (unread,) = (part for part in found.sentences if not part.read)
    assert (unread.contribution, unread.score_contribution, unread.logit) == (0.0, 0.0, found.logit)
    assert unread.start == 0 if side == "left" else unread.end == len(long)
    assert len(unread.text) > len(long) / 2
    # the word at the border is part of how the text before it becomes tokens
    kept = (unread.text[:20], "") if side == "right" else ("", unread.text[-20:])
    changed = long.replace(unread.text, f" {'water ' * 500}".join(kept))
    again = explain(encoder, QUERY, changed, max_passes=40)
    assert [part.contribution for part in again.words] == [part.contribution for part in found.words]
    texts = [part.without for part in found.parts if part.read]
    (ranking,) = encoder.rank_many([QUERY], [texts])
    logits = {texts[one.index]: one.logit for one in ranking.documents}
    assert all(part.logit == pytest.approx(logits[part.without], abs=1e-5) for part in found.parts if part.read)


@pytest.mark.parametrize("length", [31, 32])
def test_a_query_may_be_cut_as_well(tiny_folder: str, length: int) -> None:
    """The part that is not read is marked there too, and both lose what they lose together."""
    encoder = CrossEncoder(tiny_folder, device="cpu", max_length=length)
    query = "dog " * 60
    found = explain(encoder, query, text_of(100))
    assert found.score == pytest.approx(encoder.rank(query, [text_of(100)])[0]["score"], abs=1e-6)
    assert [part.read for part in found.query_words].count(False) == 1
    assert [part.read for part in found.sentences].count(False) == 1
    check_places(found)
    strict = CrossEncoder(tiny_folder, device="cpu", max_length=length, truncation="error")
    with pytest.raises(TooLong):
        explain(strict, QUERY, text_of(100))


def test_a_passage_is_explained_by_itself(tiny: CrossEncoder) -> None:
    """As if it were the document, with places in the whole one."""
    start, end = SHORT.index("The cat"), SHORT.index(" A dog!")
    found = explain(tiny, QUERY, SHORT, passage=(start, end))
    alone = explain(tiny, QUERY, SHORT[start:end])
    assert found.logit == alone.logit
    assert [part.contribution for part in found.words] == [part.contribution for part in alone.words]
    assert [part.read for part in found.sentences] == [False, True, True, False]
    check_places(found)


@pytest.mark.parametrize("windows", ["windows", Windows(tokens=20, most=3), Windows(tokens=20, most=1)])
def test_of_a_document_read_in_windows_the_best_passage_is_explained(
    tiny_folder: str, windows: Literal["windows"] | Windows
) -> None:
    """By itself, with one pass more for finding it; one that fits a window is explained wholly."""
    encoder = CrossEncoder(tiny_folder, device="cpu", max_length=48)
    (ranking,) = encoder.rank_many([QUERY], [[text_of(150)]], truncation=windows)
    best = ranking.documents[0].passage
    assert best is not None
    found = explain(encoder, QUERY, f"\n {text_of(150)}", truncation=windows, max_passes=30)
    assert (found.document_read.start, found.document_read.end) == (best.start + 2, best.end + 2)
    assert found.logit == pytest.approx(best.logit, abs=1e-5)
    assert found.passes <= 30
    assert any(not part.read for part in found.sentences)
    check_places(found)
    short = explain(encoder, QUERY, "The cat sat. A dog!", truncation=windows)
    assert short.to_dict() == explain(encoder, QUERY, "The cat sat. A dog!").to_dict()


def test_it_is_a_method_too(tiny: CrossEncoder) -> None:
    """The same function, under the package's own name as well."""
    assert CrossEncoder.explain is secondpass.explain is explain
    assert tiny.explain("dog", "A cat.").to_dict() == explain(tiny, "dog", "A cat.").to_dict()


def test_several_labels_need_a_rule(tiny_model_folder: Callable[..., str]) -> None:
    """The logit is the one that the rule makes of them."""
    encoder = CrossEncoder(tiny_model_folder("bert", 3), device="cpu")
    with pytest.raises(InvalidInput, match="relevance"):
        explain(encoder, QUERY, SHORT)
    for rule in (2, "expected"):
        found = explain(encoder, QUERY, SHORT, relevance=rule)
        (ranking,) = encoder.rank_many([QUERY], [[SHORT, found.sentences[0].without]], relevance=rule)
        made = {one.index: one for one in ranking.documents}
        assert (found.logit, found.score) == pytest.approx((made[0].logit, made[0].score), abs=1e-5)
        assert found.sentences[0].logit == pytest.approx(made[1].logit, abs=1e-5)


def test_what_is_put_around_the_texts_stays(tiny: CrossEncoder) -> None:
    """A prompt and a template are no words of the query."""
    found = explain(tiny, QUERY, SHORT, prompt="about the water: ")
    assert [part.text for part in found.query_words] == QUERY.split()
    for logit, part in rescored(tiny, found, prompt="about the water: "):
        assert part.logit == pytest.approx(logit, abs=1e-5)
    template = PromptTemplate(query_prefix="about the water: ", document_suffix=" after all")
    (ranking,) = tiny.rank_many([QUERY], [[SHORT]], template=template)
    assert explain(tiny, QUERY, SHORT, template=template).logit == pytest.approx(ranking.documents[0].logit, abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query": " \u200b"}, "query is blank"),
        ({"document": None}, "document is NoneType"),
        ({"max_passes": 3}, "max_passes=3 is less than 4"),
        ({"passage": (0, 99)}, "passage"),
        ({"passage": (3, 2)}, "passage"),
        ({"passage": (0.5, 2)}, "passage"),
        ({"passage": (1,)}, "passage"),
        ({"passage": "ab"}, "passage"),
        ({"passage": 3}, "passage"),
        ({"instruction": "find it"}, "instruction"),
    ],
)
def test_bad_arguments_are_named(tiny: CrossEncoder, arguments: dict[str, Any], message: str) -> None:
    """Before anything is computed."""
    with pytest.raises(InvalidInput, match=message):
        explain(tiny, **{"query": "dog", "document": "A cat.", **arguments})


def test_json_has_all_of_it(tiny: CrossEncoder) -> None:
    """With the names that the page of the documentation gives."""
    found = explain(tiny, QUERY, SHORT)
    made = json.loads(json.dumps(found.to_dict()))
    assert list(made) == [
        "method", "query", "document", "logit", "score", "empty", "additive", "read", "passes", "sentences", "words",
        "query_words",
    ]  # fmt: skip
    assert made["method"] == "leave-one-out"
    assert list(made["words"][0]) == [
        "start", "end", "text", "logit", "score", "contribution", "score_contribution", "read",
    ]  # fmt: skip
    assert made["additive"]["document"] == found.logit - found.empty_logit
    assert made["additive"]["sentences"] == pytest.approx(sum(part["contribution"] for part in made["sentences"]))
    for part in (*made["sentences"], *made["words"]):
        assert SHORT[part["start"] : part["end"]] == part["text"]


HOSTILE = "<script>alert(1)</script> &amp; \x1b[31mred\x00 \u202eback \ud800 [bold]x[/bold] \"'>"


def test_html_shows_the_text_and_nothing_runs(tiny: CrossEncoder) -> None:
    """Markup of the texts is text, colours are such as dark and light pages bear, and the page loads nothing."""
    found = explain(tiny, f"{HOSTILE} dog", f"{HOSTILE}\n\nA dog.")
    page = found.to_html()
    assert page.startswith("<!DOCTYPE html>")
    assert found._repr_html_() in page
    assert "<script" not in page
    assert not re.search(r"https?:|url\(|[\x00-\x08\x0b-\x1f\ud800-\udfff]|#[0-9a-f]{6}", page)
    page.encode()
    shown = html.unescape(re.sub(r"<[^>]*>", "", re.findall(r"<bdi>(.*?)</bdi>", page, re.DOTALL)[1]))
    assert shown == re.sub("[\x00\x1b\ud800]", "\ufffd", found.document)
    assert f'title="{found.words[0].contribution:+.3f}"' in page
    assert "Leave-one-out" in page


def test_a_terminal_gets_colours_and_numbers_but_no_commands(tiny: CrossEncoder) -> None:
    """The text in one piece, the strongest parts in numbers, for those who see no colours too."""
    found = explain(tiny, QUERY, f"{HOSTILE} {SHORT}")
    for colours in (True, False):
        stream = io.StringIO()
        Console(file=stream, force_terminal=colours, width=500, color_system="standard" if colours else None).print(
            found
        )
        told = stream.getvalue()
        assert ("\x1b[" in told) is colours
        assert "\x1b[31mred\x00" not in told
        plain = re.sub(r"\x1b\[[\d;]*m", "", told)
        assert "[bold]x[/bold]" in plain
        assert "The cat sat on the mat." in plain
        strongest = max(found.query_words, key=lambda part: abs(part.contribution))
        assert f"Query: “{strongest.text}” {strongest.contribution:+.2f}" in plain
        assert found.additive_check in plain


def test_the_sentence_with_the_answer_counts_most() -> None:
    """By a model that knows what it reads, and in it the words of the question."""
    encoder = CrossEncoder("secondpass/pocket", device="cpu")
    document = "Munich is in Bavaria. Berlin has 3.7 million inhabitants. Eggs are boiled for six minutes."
    found = explain(encoder, "how many people live in Berlin", document)
    best = max(found.sentences, key=lambda part: part.contribution)
    assert best.text == "Berlin has 3.7 million inhabitants."
    word = max(found.words, key=lambda part: part.contribution)
    assert best.start <= word.start < best.end
