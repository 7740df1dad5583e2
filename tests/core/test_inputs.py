"""Rules of `secondpass.inputs`: what is read of a pair that is too long, for every way to ask."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from tokenizers import AddedToken, pre_tokenizers
from transformers import AutoTokenizer

from secondpass import CrossEncoder, Cut
from secondpass.errors import InvalidInput, TooLong
from secondpass.inputs import CutPolicy, Mark, Plain, PromptTemplate, policy_of
from secondpass.text import Text
from secondpass.token_cache import TokenCache
from secondpass.tokens import PairTokenizer
from tests.tiny_models import ARCHITECTURES, LENGTH, make_folder, make_tokenizer


@pytest.fixture(scope="module", params=ARCHITECTURES)
def encoder(request: pytest.FixtureRequest, tiny_model_folder: Callable[..., str]) -> CrossEncoder:
    """Each kind of tokenizer."""
    return CrossEncoder(tiny_model_folder(request.param), device="cpu")


def own_ids(encoder: CrossEncoder, text: str) -> list[int]:
    """Give the ids of a text by itself."""
    ids: list[int] = encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def test_the_first_tokens_of_documents_are_read(tiny: CrossEncoder) -> None:
    """What fits is left alone, what is cut is told; a wish as large as the window has no effect."""
    documents = ["the cat sat on the mat", "a dog", ""]
    made = tiny.tokens(["cat"] * 3, documents, cut=CutPolicy(max_document_tokens=3))
    short = tiny.tokens(["cat"] * 3, ["the cat sat", "a dog", ""])
    assert [tokens.ids.tolist() for tokens in made] == [tokens.ids.tolist() for tokens in short]
    assert [tokens.cut for tokens in made] == [Cut(0, 0, 3), None, None]
    (whole,) = tiny.tokens(["cat"], documents[:1], cut=CutPolicy(max_document_tokens=LENGTH))
    assert whole.cut is None


def test_the_wish_and_the_window_cut_one_after_the_other(tiny: CrossEncoder) -> None:
    """One record says what both took."""
    (made,) = tiny.tokens(["cat " * 100], ["mat " * 200], cut=CutPolicy("only_document", max_document_tokens=90))
    assert len(made) == LENGTH
    assert made.cut == Cut(0, 38, 137)


@pytest.mark.parametrize("keep_tail", [True, False])
def test_either_end_is_read_beside_the_query(encoder: CrossEncoder, keep_tail: bool) -> None:
    """The end asked for fills the window; the query is whole."""
    document = " ".join(["order", *["the cat sat"] * 200, "river"])
    (made,) = encoder.tokens(["where cat sat"], [document], cut=CutPolicy(keep_tail=keep_tail))
    query, ids = own_ids(encoder, "where cat sat"), own_ids(encoder, document)
    (empty,) = encoder.tokens(["where cat sat"], [""])
    room = LENGTH - len(empty)
    kept = ids[-room:] if keep_tail else ids[:room]
    assert " ".join(map(str, kept)) in " ".join(map(str, made.ids.tolist()))
    assert " ".join(map(str, query)) in " ".join(map(str, made.ids.tolist()))
    assert len(made) == LENGTH
    assert made.cut == Cut(0, 0, len(ids) - room)


def test_a_query_that_fills_the_window_is_cut_as_the_model_cuts(tiny: CrossEncoder) -> None:
    """The end that is asked for says which end goes, not which text."""
    long = ["cat " * 500], ["mat " * 500]
    (made,) = tiny.tokens(*long, cut=CutPolicy(keep_tail=True))
    (own,) = tiny.tokens(*long)
    assert made.cut == own.cut == Cut(0, 438, 437)


def test_an_enormous_document_is_read_from_the_end_that_counts(tiny: CrossEncoder) -> None:
    """The characters beyond the ceiling are counted as lost."""
    document = "dog " * 500_000 + "mat"
    (made,) = tiny.tokens(["cat"], [document], cut=CutPolicy(keep_tail=True))
    assert tiny.tokenizer.convert_ids_to_tokens(made.ids)[-3:] == ["dog", "mat", "[SEP]"]
    assert made.cut is not None
    assert made.cut.characters > 1_900_000
    (first,) = tiny.tokens(["cat"], ["mat " + document], cut=CutPolicy(keep_tail=True, max_document_tokens=2))
    assert tiny.tokenizer.convert_ids_to_tokens(first.ids)[-3:] == ["mat", "dog", "[SEP]"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=some.text(alphabet=some.characters(codec="utf-8"), max_size=60), most=some.integers(1, 12))
def test_no_document_has_more_tokens_than_asked(encoder: CrossEncoder, text: str, most: int) -> None:
    """Any Unicode, any tokenizer."""
    whole, made = (
        tokens[0]
        for tokens in (
            encoder.tokens(["a"], [text]),
            encoder.tokens(["a"], [text], cut=CutPolicy(max_document_tokens=most)),
        )
    )
    empty = len(encoder.tokens(["a"], [""])[0])
    assert len(made) == min(len(whole), empty + most)
    # the window may cut the text that was to be whole
    lost, lost_anyway = (tokens.cut.document_tokens if tokens.cut else 0 for tokens in (made, whole))
    assert lost - lost_anyway == len(whole) - len(made)


def test_refusing_names_all_pairs_that_would_be_cut(own_tiny: CrossEncoder) -> None:
    """The message tells of the first; a copy of the error, as between processes, has both."""
    own_tiny.max_length = 16
    with pytest.raises(TooLong, match=r"^pair 1 has 34 tokens, 18 more than fit$") as refused:
        own_tiny.tokens(["cat"] * 4, ["a", "mat " * 30, "b", "mat " * 31], cut=CutPolicy("error"))
    assert refused.value.indices == (1, 3)
    again = copy.deepcopy(refused.value)
    assert (str(again), again.indices) == (str(refused.value), (1, 3))


def test_a_head_that_was_asked_for_is_not_refused(own_tiny: CrossEncoder) -> None:
    """Only what the window takes beyond it."""
    own_tiny.max_length = 16
    long = ["mat " * 100_000]
    (made,) = own_tiny.tokens(["cat"], long, cut=CutPolicy("error", max_document_tokens=5))
    assert len(made) == 9
    with pytest.raises(TooLong):
        own_tiny.tokens(["cat " * 9], long, cut=CutPolicy("error", max_document_tokens=5))


def test_a_name_stands_for_the_plain_policy() -> None:
    """What is no policy is refused by name."""
    assert policy_of("only_document") == CutPolicy("only_document")
    assert policy_of(CutPolicy(keep_tail=True)) == CutPolicy(keep_tail=True)
    with pytest.raises(InvalidInput, match="truncation='longest' is none of longest_first, only_document, error"):
        policy_of("longest")  # type: ignore[arg-type]
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(InvalidInput, match="max_document_tokens"):
            CutPolicy(max_document_tokens=wrong)  # type: ignore[arg-type]


def test_a_policy_changes_no_call_but_its_own(own_tiny: CrossEncoder) -> None:
    """It is given with the call: the model keeps its own."""
    before = own_tiny.tokens(["cat"], ["mat " * 200 + "dog"])[0]
    own_tiny.tokens(["cat"], ["mat " * 200 + "dog"], cut=CutPolicy(keep_tail=True))
    after = own_tiny.tokens(["cat"], ["mat " * 200 + "dog"])[0]
    assert np.array_equal(before.ids, after.ids)


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
FRAMED = ("bert", "roberta", "modernbert", "xlm-roberta", "deberta-v2", "first", "prefix-space")


def fast_of(name: str) -> Any:
    """Make a tokenizer with chat tokens; two kinds beside the tiny ones treat the beginning of a text by itself."""
    made = make_tokenizer({"first": "xlm-roberta", "prefix-space": "roberta"}.get(name, name))
    if name == "first":
        made.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    if name == "prefix-space":
        made.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.add_tokens(list(ADDED))
    return made


@pytest.mark.parametrize("name", FRAMED)
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


@pytest.mark.parametrize("name", FRAMED)
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


# Query side and document side of one text; the seam is a special token, or a border where nothing is glued.
SEAMS = (
    (f"{START}the ", f" now{END}", "a ", f" end{END}"),
    (f"{START}", "?", f"{END}", ""),
    ("the ", f"{STRIPPING}", "  ", f" {STRIPPING}"),
    (f"a {WORD} ", "\n", f"{WORD}: ", ""),
)


@pytest.mark.parametrize("own", ["text", "none"])
@pytest.mark.parametrize("document_first", [True, False])
@pytest.mark.parametrize("name", FRAMED)
def test_both_texts_are_one(name: str, document_first: bool, own: Any) -> None:
    """As one text with special tokens read, the tokenizer's own around it or none, in either order."""
    fast = fast_of(name)
    ours = PairTokenizer(fast)
    for parts in SEAMS:
        sides = parts[2:] + parts[:2] if document_first else parts
        template = PromptTemplate(*sides, document_first=document_first, own_specials=own)
        pairs = list(itertools.product(TEXTS, TEXTS))
        made = ours.pairs([q for q, _ in pairs], [d for _, d in pairs], 128, "error", template)
        for (query, document), tokens in zip(pairs, made, strict=True):
            first, second = (document, query) if document_first else (query, document)
            whole = f"{parts[0]}{first}{parts[1]}{parts[2]}{second}{parts[3]}"
            wanted = fast([whole], add_special_tokens=own == "text")["input_ids"][0]
            assert tokens.ids.tolist() == wanted, whole


@pytest.mark.parametrize("name", FRAMED)
def test_a_border_keeps_pieces_apart(name: str) -> None:
    """What stands on either side is tokenised as a text of its own; an instruction in between is text."""
    fast = fast_of(name)
    ours = PairTokenizer(fast)
    told = f"seek {END} it"
    template = PromptTemplate(
        (f"{START}a", Mark.BORDER, "q", Plain(told)), (Mark.BORDER, " of"), (Mark.BORDER, "d "), " end", False, "none"
    )
    for query, document in itertools.product(TEXTS, TEXTS):
        (made,) = ours.pairs([query], [document], 500, "error", template)
        pieces = (f"{START}a", None, " of", f"d {document} end")
        wanted = [own_ids_of(fast, piece) for piece in pieces if piece is not None]
        asked = [int(number) for number in next(ours.encode([Text(f"q{told}{query}")]))]
        assert made.ids.tolist() == [*wanted[0], *asked, *wanted[1], *wanted[2]]


def own_ids_of(fast: Any, text: str) -> list[int]:
    """Give the ids of a text without special tokens around it."""
    ids: list[int] = fast([text], add_special_tokens=False)["input_ids"][0]
    return ids


@pytest.mark.parametrize("name", FRAMED)
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


@pytest.mark.parametrize("name", FRAMED)
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
    head = len(ours.framed(CHAT)[0].before)
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
    own = sum(frame.tokens for frame in ours.framed(CHAT))
    refused = rf"a window of {own + 4} tokens \(max_length\) leaves no room .* {own} tokens of the prompt template"
    with pytest.raises(InvalidInput, match=refused):
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
    behind = ours.framed(template)[1].behind
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
