"""The tokenizer over part of its vocabulary: new ids everywhere that ids stand."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, models, processors

from secondpass.errors import InvalidInput
from secondpass.training.distillation.kept_pieces import kept_ids
from secondpass.training.distillation.smaller_tokenizer import smaller_tokenizer
from tests.training.distillation.vocabularies import KINDS, UNKNOWN, trained


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_places_in_the_list(kind):
    """Token n is the one that had the n-th id; the template and added tokens follow; settings of a call do not."""
    tokenizer = trained(kind)
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=9)
    ids = kept_ids(tokenizer, ["the cat"], 330)
    made = smaller_tokenizer(tokenizer, ids)
    assert [made.id_to_token(place) for place in range(len(ids))] == [tokenizer.id_to_token(number) for number in ids]
    assert made.get_vocab_size() == len(ids)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    before = tokenizer.encode("the secondpass cat", "a river")
    after = made.encode("the secondpass cat", "a river")
    assert [ids[place] for place in after.ids] == [tokenizer.token_to_id(token) for token in after.tokens]
    assert after.tokens[0] == before.tokens[0] == "[CLS]"
    assert "secondpass" in after.tokens
    assert after.type_ids[-1] == 1


@pytest.mark.parametrize(
    "processor",
    [
        processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2)),
        processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2)),
        processors.Sequence([processors.ByteLevel(), processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))]),
        None,
    ],
)
def test_every_form_of_post_processor(processor):
    """Special tokens around a text get their new ids, in each way that files say it."""
    vocabulary = {token: number for number, token in enumerate(["a", "b", "[CLS]", "[SEP]", "[UNK]"])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN))
    tokenizer.add_special_tokens(["[CLS]", "[SEP]", "[UNK]"])
    if processor is not None:
        tokenizer.post_processor = processor
    made = smaller_tokenizer(tokenizer, [1, 2, 3, 4])
    encoding = made.encode("b")
    assert encoding.tokens == tokenizer.encode("b").tokens
    assert encoding.ids == ([1, 0, 2] if processor is not None else [0])


def test_the_given_one_is_left_alone():
    """It may be in use."""
    tokenizer = trained("BPE")
    before = tokenizer.to_str()
    smaller_tokenizer(tokenizer, kept_ids(tokenizer, [], 300))
    assert tokenizer.to_str() == before


@pytest.mark.parametrize("kind", KINDS)
def test_refused_ids(kind):
    """Without the special tokens it cannot work; ids that there are not, or not in order, are refused."""
    tokenizer = trained(kind)
    needed = kept_ids(tokenizer, [], 330)
    with pytest.raises(InvalidInput, match=r"the tokenizer needs '\[CLS\]'"):
        smaller_tokenizer(tokenizer, [number for number in needed if tokenizer.id_to_token(number) != "[CLS]"])
    with pytest.raises(InvalidInput, match="not rising"):
        smaller_tokenizer(tokenizer, list(reversed(needed)))
    with pytest.raises(InvalidInput, match="there is no token 5000"):
        smaller_tokenizer(tokenizer, [*needed, 5000])


def test_two_tokens_with_one_id_are_refused():
    """A vocabulary with a hole: the library gives the added token an id that another has, and one would be lost."""
    state = json.loads(trained("WordPiece").to_str())
    state["model"]["vocab"] = {token: number + (number > 40) for token, number in state["model"]["vocab"].items()}
    tokenizer = Tokenizer.from_str(json.dumps(state))
    ids = sorted(set(tokenizer.get_vocab().values()))
    assert len(ids) < tokenizer.get_vocab_size()
    with pytest.raises(InvalidInput, match="two tokens with one id"):
        smaller_tokenizer(tokenizer, ids)
