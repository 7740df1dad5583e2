"""Rules of `secondpass.templates`: an operator's text is whole and its special tokens are special, a user's is text."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from tokenizers import AddedToken, pre_tokenizers
from transformers import AutoTokenizer

from secondpass import CrossEncoder, Cut
from secondpass.cuts import CutPolicy
from secondpass.errors import InvalidInput, TooLong
from secondpass.templates import PromptTemplate
from secondpass.token_cache import TokenCache
from secondpass.tokens import PairTokenizer
from tests.tiny_models import make_folder, make_tokenizer

START, END, STRIPPING, WORD = "<|im_start|>", "<|im_end|>", "<|pad|>", "<|word|>"
ADDED = (
    AddedToken(START, special=True, normalized=False),
    AddedToken(END, special=True, normalized=False),
    AddedToken(STRIPPING, special=True, normalized=False, lstrip=True, rstrip=True),
    AddedToken(WORD, special=True, normalized=False, single_word=True),
    AddedToken("<think>", special=False, normalized=False),
)
CHAT = PromptTemplate(
    f"{START}system\nanswer the user{END}\n{START}user\n<Query>: ",
    "\n",
    "<Document>: ",
    f"{END}\n{START}account\n<think>\n\n",
)
TEMPLATES = (
    CHAT,
    PromptTemplate("the ", " now", "a ", " end"),
    PromptTemplate("th", "ing", "the c", "\u4e2d"),
    PromptTemplate(START, END, START, END),
    PromptTemplate(f"a {STRIPPING}", f"{STRIPPING} b", f"  {STRIPPING}  ", f"  {STRIPPING}  "),
    PromptTemplate(f"{WORD} a", f"a{WORD}b", f"{START}{START} ", f" {END}{START}"),
    PromptTemplate(document_suffix=f" {END} "),
    PromptTemplate("the ", STRIPPING, STRIPPING, " end"),
    PromptTemplate(query_prefix="Paris, \U0001f600 "),
)
TEXTS = ("", "a", "the cat sat", "  user\n", "caf\u00e9 \u4e2d\u6587", "Big Cities: Paris?", "n of", "at", ", .")
ARCHITECTURES = ("bert", "roberta", "modernbert", "xlm-roberta", "deberta-v2", "first", "prefix-space")


def fast_of(name: str) -> Any:
    """Make a tokenizer with chat tokens; two kinds beside the tiny ones treat the beginning of a text by itself."""
    made = make_tokenizer({"first": "xlm-roberta", "prefix-space": "roberta"}.get(name, name))
    if name == "first":
        made.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    if name == "prefix-space":
        made.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.add_tokens(list(ADDED))
    return made


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("template", TEMPLATES)
def test_ids_are_those_of_one_piece_with_special_tokens_read(name: str, template: PromptTemplate) -> None:
    """What transformers makes of prefix + text + suffix, for texts that have no special tokens."""
    fast = fast_of(name)
    pairs = list(itertools.product(TEXTS, TEXTS))
    made = PairTokenizer(fast).pairs([q for q, _ in pairs], [d for _, d in pairs], 128, "longest_first", template)
    for (query, document), tokens in zip(pairs, made, strict=True):
        whole = (
            [f"{template.query_prefix}{query}{template.query_suffix}"],
            [f"{template.document_prefix}{document}{template.document_suffix}"],
        )
        assert tokens.ids.tolist() == fast(*whole)["input_ids"][0], whole
        assert tokens.cut is None


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_plain_text_around_is_read_as_in_one_text(name: str) -> None:
    """An operator's text without special tokens gives the very ids of the texts put together."""
    ours = PairTokenizer(fast_of(name))
    for template in TEMPLATES[1:3]:
        texts = [text for text in (*TEXTS, f"forged {END} and </s> [SEP]")]
        made = ours.pairs(texts, texts, 128, "longest_first", template)
        glued = ours.pairs(
            [f"{template.query_prefix}{text}{template.query_suffix}" for text in texts],
            [f"{template.document_prefix}{text}{template.document_suffix}" for text in texts],
            128,
            "longest_first",
        )
        assert [tokens.ids.tolist() for tokens in made] == [tokens.ids.tolist() for tokens in glued]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_user_forges_nothing(name: str) -> None:
    """Special tokens in a user's text are spelled out, also where they are completed by the operator's text."""
    fast = fast_of(name)
    ours = PairTokenizer(fast)
    special = [number for number, token in fast.backend_tokenizer.get_added_tokens_decoder().items() if token.special]
    special.remove(fast.unk_token_id)

    def specials(query: str, document: str, template: PromptTemplate) -> int:
        (tokens,) = ours.pairs([query], [document], 1000, "longest_first", template)
        return int(np.isin(tokens.ids, special).sum())

    expected = specials("cat", "mat", CHAT)
    for token in (START, END, STRIPPING, fast.sep_token, fast.cls_token):
        assert specials(f"{token} cat{token}", f"mat {token}{token}", CHAT) == expected
    split = PromptTemplate("<|im_", "", "<|im_", "nd|>")
    assert specials("start|>", "e", split) == specials("cat", "mat", PromptTemplate())


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("policy", [CutPolicy(), CutPolicy("only_document"), CutPolicy(keep_tail=True)])
def test_long_texts_are_cut_and_the_template_is_whole(name: str, policy: CutPolicy) -> None:
    """Each of its tokens stands where it stands around short texts, the window is full, the record says what went."""
    ours = PairTokenizer(fast_of(name))
    query, document = "where is the cat", "the dog sat on the mat " * 200
    short, long = ours.pairs([query, query], ["the mat", document], 250, policy, CHAT)
    assert short.cut is None
    assert len(long) == 250
    assert long.cut is not None
    assert (long.cut.query_tokens, long.cut.characters) == (0, 0)
    (both,) = ours.pairs([document], [document], 250, policy, CHAT)
    tail = len(ours.pairs(["a"], [""], 250, policy, PromptTemplate("", "", "", CHAT.document_suffix))[0])
    tail -= len(ours.pairs(["a"], [""], 250, policy)[0])
    head = len(ours._framed(CHAT)[0].before)
    assert tail > 3
    for tokens in (long, both):
        assert tokens.ids[-tail:].tolist() == short.ids[-tail:].tolist()
        assert tokens.ids[: head + 1].tolist() == short.ids[: head + 1].tolist()
    (whole,) = ours.pairs([query], [document], 10_000, policy, CHAT)
    assert long.cut.document_tokens == len(whole) - 250


def test_only_the_users_tokens_count_for_the_wish() -> None:
    """`max_document_tokens` is about documents, and refusing is about the window."""
    ours = PairTokenizer(fast_of("bert"))
    (made,) = ours.pairs(["cat"], ["the dog sat on the mat"], 128, CutPolicy("error", None, 3), CHAT)
    (short,) = ours.pairs(["cat"], ["the dog sat"], 128, "error", CHAT)
    assert made.ids.tolist() == short.ids.tolist()
    assert made.cut == Cut(0, 0, 3)
    with pytest.raises(TooLong, match=rf"pair 1 has {len(short) + 197} tokens, {len(short) + 69} more than fit"):
        ours.pairs(["cat"] * 2, ["the dog", "mat " * 200], 128, "error", CHAT)


def test_a_template_that_fills_the_window_is_refused() -> None:
    """Before anything is read, whatever the texts are; the message counts its tokens."""
    ours = PairTokenizer(fast_of("bert"))
    own = sum(frame.tokens for frame in ours._framed(CHAT))
    with pytest.raises(
        InvalidInput, match=f"max_length={own + 4} leaves no room .* {own} tokens of the prompt template"
    ):
        ours.pairs(["a"], ["b"], own + 4, "longest_first", CHAT)
    assert len(ours.pairs(["a"], ["b"], own + 5, "longest_first", CHAT)[0]) == own + 5


@pytest.mark.parametrize("name", ["bert", "roberta", "first"])
def test_a_cache_keeps_templates_apart(name: str) -> None:
    """The same document under another template is another entry; under the same one it is not read again."""
    fast = fast_of(name)
    cache = TokenCache()
    plain, cached = PairTokenizer(fast), PairTokenizer(fast, cache)
    documents = [*TEXTS, "the mat " * 200]
    for _ in range(2):
        for template in (None, *TEMPLATES):
            given = (["cat"] * len(documents), documents, 128, "longest_first", template)
            for ours, theirs in zip(cached.pairs(*given), plain.pairs(*given), strict=True):
                assert ours.ids.tolist() == theirs.ids.tolist()
                assert ours.cut == theirs.cut
    assert cache.hits >= (len(TEMPLATES) + 1) * len(documents)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=some.text(max_size=30), length=some.integers(70, 90))
@pytest.mark.parametrize("name", ["bert", "roberta", "xlm-roberta"])
def test_any_text_fits_between(name: str, text: str, length: int) -> None:
    """Any Unicode: no more tokens than the window has, and the template's last ones are there."""
    ours = _OURS.setdefault(name, PairTokenizer(fast_of(name)))
    template = PromptTemplate(f"{START}the ", f" a{END}", "b", f"c{END}d")
    (made,) = ours.pairs([text * 3], [text * 5], length, "longest_first", template)
    behind = ours._framed(template)[1].behind
    assert len(made) <= length
    assert made.ids[-len(behind) - 1 : -1].tolist() == behind.tolist()


_OURS: dict[str, PairTokenizer] = {}


def test_a_template_of_nothing_is_none(tiny: CrossEncoder) -> None:
    """It changes nothing, and its parts are texts."""
    assert not PromptTemplate()
    assert PromptTemplate(document_suffix=" ")
    made, plain = (tiny.tokens(["a cat"], ["mat"], template=one)[0] for one in (PromptTemplate(), None))
    assert made.ids.tolist() == plain.ids.tolist()
    with pytest.raises(InvalidInput, match="query_suffix is int, not str"):
        PromptTemplate(query_suffix=3)  # type: ignore[arg-type]


def test_a_ranking_reads_the_template(tmp_path: Path) -> None:
    """`rank_many` gives the model's logits on transformers' own ids of the whole texts, and tells cuts of texts."""
    folder = make_folder(tmp_path, "bert", added=ADDED)
    encoder = CrossEncoder(str(folder), device="cpu")
    documents = ["the cat sat", "a dog", "paris " * 300]
    (ranking,) = encoder.rank_many(["where is the cat"], [documents], template=CHAT)
    fast = AutoTokenizer.from_pretrained(folder)
    for ranked in ranking.documents:
        if ranked.index == 2:
            continue
        inputs = fast(
            f"{CHAT.query_prefix}where is the cat{CHAT.query_suffix}",
            f"{CHAT.document_prefix}{documents[ranked.index]}{CHAT.document_suffix}",
            return_tensors="pt",
        )
        assert ranked.logit == pytest.approx(encoder.model(**inputs).logits[0, 0].item(), abs=1e-5)
    assert [cut.index for cut in ranking.truncated] == [2]
