"""Which pieces are kept: the most used ones, and all that keeps every text readable as it was."""

from __future__ import annotations

import json
import string
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from secondpass.errors import InvalidInput
from secondpass.training.distillation.kept_pieces import kept_ids
from secondpass.training.distillation.smaller_tokenizer import smaller_tokenizer
from tests.training.distillation.vocabularies import KINDS, SPECIALS, UNKNOWN, sentences, trained

TEXTS = sentences(5, 40)
MODELS = {kind: trained(kind) for kind in KINDS}
IDS = {kind: kept_ids(MODELS[kind], TEXTS, 420 if kind == "BPE" else 120) for kind in KINDS}
TRIMMED = {kind: smaller_tokenizer(MODELS[kind], IDS[kind]) for kind in KINDS}


def tokens(tokenizer: Tokenizer, text: str) -> list[str]:
    """Pieces without special tokens, by their ids: a Unigram shows the letters of what it does not know."""
    return [tokenizer.id_to_token(number) for number in tokenizer.encode(text, add_special_tokens=False).ids]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_texts_are_cut_as_before(kind, data):
    """Equal pieces if all are kept; else smaller ones, and never an unknown one more."""
    texts = st.one_of(st.sampled_from(sentences(9, 200)), st.text("abcdeét中 ô", max_size=30), st.text(max_size=20))
    text = data.draw(texts)
    before, after = tokens(MODELS[kind], text), tokens(TRIMMED[kind], text)
    vocabulary = TRIMMED[kind].get_vocab()
    if all(token in vocabulary for token in before):
        assert after == before
    assert after.count("[UNK]") <= before.count("[UNK]")


@pytest.mark.parametrize("kind", KINDS)
def test_the_sentences_try_both_cases(kind):
    """The test above would prove nothing if all texts, or none, were cut as before."""
    same = [tokens(MODELS[kind], text) == tokens(TRIMMED[kind], text) for text in sentences(9, 200) if text]
    assert 10 < sum(same) < len(same) - 10


@pytest.mark.parametrize("kind", KINDS)
def test_the_most_used_are_kept(kind):
    """Of the pieces that are not needed anyway, none that was left out is used oftener than one that was kept."""
    tokenizer, ids = MODELS[kind], set(IDS[kind])
    assert len(ids) == (420 if kind == "BPE" else 120)
    assert {tokenizer.token_to_id(token) for token in [*SPECIALS, "secondpass"]} <= ids
    counts = Counter(number for text in TEXTS for number in tokenizer.encode(text, add_special_tokens=False).ids)
    needed = set(kept_ids(tokenizer, [], len(ids) - 20))
    if kind != "BPE":
        spare = [number for number in ids if len(tokenizer.id_to_token(number).removeprefix("##")) > 1]
        free = [number for number in spare if number not in needed]
        left_out = set(tokenizer.get_vocab().values()) - ids
        assert min(counts[number] for number in free) >= max(counts[number] for number in left_out)


def test_merges_go_with_their_pieces():
    """Every kept piece of a BPE can still be put together."""
    model = json.loads(TRIMMED["BPE"].to_str())["model"]
    made = {first + second for first, second in model["merges"]}
    single = {token for token in model["vocab"] if len(token) == 1 or token in SPECIALS}
    assert set(model["vocab"]) == made | single


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_of_nothing_but_special_tokens_is_text(kind):
    """A special token that a text spells is counted as the letters that scoring reads."""
    with_it = kept_ids(MODELS[kind], ["[SEP] [SEP]"] * 50, 400)
    assert MODELS[kind].token_to_id("[SEP]") in with_it


@pytest.mark.parametrize("kind", KINDS)
def test_too_small_and_large_enough(kind):
    """What must be kept is counted; a size beyond the vocabulary keeps all."""
    with pytest.raises(InvalidInput, match=r"size=9: special tokens and characters alone are \d+"):
        kept_ids(MODELS[kind], TEXTS, 9)
    assert kept_ids(MODELS[kind], TEXTS, 10**6) == sorted(MODELS[kind].get_vocab().values())


def test_unused_places_are_not_filled_in():
    """BERT's [unused7] is kept only if a text says it, which none does."""
    vocabulary = {token: number for number, token in enumerate(["[UNK]", "[unused1]", "a", "##a", "aa", "aaa"])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN))
    assert kept_ids(tokenizer, ["aaa"], 5) == [0, 2, 3, 4, 5]
    assert kept_ids(tokenizer, ["aaa"], 6) == [0, 2, 3, 4, 5]


def test_characters_that_stand_nowhere_alone():
    """A piece with such a character is kept, else a text that could be read could not be any more."""
    vocabulary = {token: number for number, token in enumerate(["[UNK]", "a", "##a", "##xa", "##aa"])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN))
    assert kept_ids(tokenizer, [], 4) == [0, 1, 2, 3]
    with pytest.raises(InvalidInput, match="alone are 4"):
        kept_ids(tokenizer, [], 3)


@pytest.mark.parametrize("kind", ["WordPiece", "Unigram"])
def test_fewer_characters_by_choice(kind):
    """With `characters`, others are dropped and read as unknown."""
    ids = kept_ids(MODELS[kind], ["plain"], 75, characters=string.ascii_lowercase)
    made = smaller_tokenizer(MODELS[kind], ids)
    assert tokens(made, "é ü 中 文").count("[UNK]") >= 3
    assert "[UNK]" not in tokens(made, "dog river")
    assert "[UNK]" not in tokens(TRIMMED[kind], "é ü 中 文")


def test_refused_arguments():
    """Another kind of tokenizer, characters of a BPE, an id or text that there is not."""
    words = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token=UNKNOWN))
    with pytest.raises(InvalidInput, match="the tokenizer is WordLevel, none of WordPiece, BPE, Unigram"):
        kept_ids(words, [], 5)
    with pytest.raises(InvalidInput, match="characters: BPE"):
        kept_ids(MODELS["BPE"], [], 300, characters="abc")
    with pytest.raises(InvalidInput, match="no id 99999"):
        kept_ids(MODELS["BPE"], [], 300, always=[99999])
    with pytest.raises(InvalidInput, match=r"texts\[1\] is NoneType, not str"):
        kept_ids(MODELS["BPE"], ["a", None], 300)  # type: ignore[list-item]
    with pytest.raises(InvalidInput, match="size=0"):
        kept_ids(MODELS["BPE"], [], 0)


def test_hostile_texts_are_counted():
    """Lone surrogates, empty texts, nulls and a very long text; an iterator is read once."""
    texts = iter(["\ud800", "", "\0", "a" * 3_000_000])
    assert kept_ids(MODELS["Unigram"], texts, 120)
