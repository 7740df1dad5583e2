"""A cross-encoder with a smaller vocabulary: the same scores, fewer rows, a folder like any other."""

from __future__ import annotations

import json
import string
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, processors
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from secondpass import CrossEncoder
from secondpass.corpora import read_corpus
from secondpass.errors import InvalidInput
from secondpass.training.distillation.vocabulary import (
    Merges,
    kept_ids,
    pairs_of,
    smaller_tokenizer,
    trim_vocabulary,
    with_rows,
)
from tests.tiny_models import ARCHITECTURES, ROUNDING, make_chain, make_folder, make_reranker, make_tokenizer
from tests.toy_task import same, state
from tests.training.distillation.vocabularies import KINDS, SPECIALS, UNKNOWN, sentences, trained

TEXTS = ["the cat sat on the mat and", "a dog in london"]
KNOWN = [("the cat", "the mat sat and"), ("a dog", "in london cat"), ("cat " * 90, "dog " * 90)]
OTHERS = [("river bank", "user password [SEP] x 中 é"), ("</s>[MASK]", ""), ("secondpass", "\ud800")]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_same_scores_before_and_after_saving(tiny_model_folder, tmp_path, architecture):
    """Pairs of kept pieces score as before; all is the same after saving, here and in transformers."""
    encoder = CrossEncoder(tiny_model_folder(architecture), device="cpu")
    size = len(encoder.tokenizer) - 20
    made = trim_vocabulary(encoder, TEXTS, size)
    assert made.predict(KNOWN) == pytest.approx(encoder.predict(KNOWN), rel=0, abs=ROUNDING)
    assert len(made.tokenizer) == made.config.vocab_size == made.model.get_input_embeddings().num_embeddings == size
    made.save(str(tmp_path))
    again = CrossEncoder(str(tmp_path), device="cpu")
    assert same(state(again), state(made))
    assert again.predict([*KNOWN, *OTHERS]) == pytest.approx(made.predict([*KNOWN, *OTHERS]), rel=0, abs=ROUNDING)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        logits = plain(**tokenizer(*KNOWN[0], return_tensors="pt")).logits[0]
    assert logits.sigmoid().item() == pytest.approx(float(encoder.predict(KNOWN)[0]), abs=1e-5)
    for name in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"):
        assert getattr(tokenizer, name) == getattr(encoder.tokenizer, name)
        assert getattr(tokenizer, f"{name}_id") == tokenizer.convert_tokens_to_ids(getattr(tokenizer, name))
    assert plain.config.pad_token_id == tokenizer.pad_token_id


@pytest.mark.parametrize(("architecture", "tied"), [("qwen3", True), ("gemma2", False)])
def test_a_causal_reranker_keeps_its_template_and_its_answer(tmp_path, architecture, tied):
    """The rows that are read go on with the rest, tied or not; all is the same after saving, the instruction too."""
    encoder = CrossEncoder(str(make_reranker(tmp_path / "m", architecture, tie_word_embeddings=tied)), device="cpu")
    encoder.prompts["query"], encoder.default_prompt_name = "find the cat", "query"
    framed = {number for tokens in encoder.tokens([""], [""]) for number in tokens.ids.tolist()}
    kept = [encoder.tokenizer.convert_ids_to_tokens(number) for number in framed]
    size = len(encoder.tokenizer) - 20
    made = trim_vocabulary(encoder, TEXTS, size)
    assert made.predict(KNOWN[:2]) == pytest.approx(encoder.predict(KNOWN[:2]), rel=0, abs=ROUNDING)
    table, head, readout = (made.model.get_input_embeddings(), made.model.get_output_embeddings(), made.model.readout)
    assert len(made.tokenizer) == made.config.vocab_size == len(table.weight) == len(head.weight) == size
    assert (head.weight is table.weight) == tied
    assert made.tokenizer.convert_ids_to_tokens(readout.token_ids) == ["yes", "no"]
    assert set(kept) <= set(made.tokenizer.get_vocab())
    assert made.model.body.generation_config.eos_token_id == made.config.eos_token_id == made.tokenizer.eos_token_id
    made.save(str(tmp_path / "out"))
    again = CrossEncoder(str(tmp_path / "out"), device="cpu")
    assert again.prompts == encoder.prompts
    assert again.predict([*KNOWN, *OTHERS]) == pytest.approx(made.predict([*KNOWN, *OTHERS]), rel=0, abs=ROUNDING)


def test_a_chain_keeps_its_modules(tmp_path):
    """Its scores stay, and so they do in the folder, with the longest input that the folder asked for."""
    folder = make_chain(tmp_path / "m", "modernbert")
    first = folder / "sentence_bert_config.json"
    first.write_text(json.dumps(json.loads(first.read_text()) | {"max_seq_length": 40}))
    encoder = CrossEncoder(str(folder), device="cpu")
    made = trim_vocabulary(encoder, TEXTS, len(encoder.tokenizer) - 20)
    assert made.predict(KNOWN) == pytest.approx(encoder.predict(KNOWN), rel=0, abs=ROUNDING)
    made.save(str(tmp_path / "out"))
    again = CrossEncoder(str(tmp_path / "out"), device="cpu")
    assert encoder.window == made.window == again.window == 40
    assert again.predict([*KNOWN, *OTHERS]) == pytest.approx(made.predict([*KNOWN, *OTHERS]), rel=0, abs=ROUNDING)


def test_an_answer_that_no_token_is_refuses(tmp_path):
    """A row beyond the tokenizer's ids has no token that could be kept."""
    encoder = CrossEncoder(str(make_reranker(tmp_path)), device="cpu")
    encoder.model.readout.true_token_id = len(encoder.tokenizer) + 3
    with pytest.raises(InvalidInput, match=r"read at token \d+, which the tokenizer does not have"):
        trim_vocabulary(encoder, TEXTS, 290)
    with pytest.raises(InvalidInput, match=r"read at token \d+, which is not among them"):
        with_rows(encoder.model, [0, 1, 2])


def test_what_is_always_kept_can_be_reached():
    """Of a BPE piece its parts are kept too: without their merges no text would be cut into it."""
    tokenizer = make_tokenizer("roberta").backend_tokenizer
    piece = "\u0120and"
    assert tokenizer.encode(" and", add_special_tokens=False).tokens == [piece]
    ids = kept_ids(tokenizer, [], 275, always=[tokenizer.token_to_id(piece)])
    assert smaller_tokenizer(tokenizer, ids).encode(" and", add_special_tokens=False).tokens == [piece]


def test_the_given_encoder_stays_as_it_is(own_tiny):
    """It may be in use by other threads."""
    before = own_tiny.predict([*KNOWN, *OTHERS]).tolist()
    state = {name: weight.clone() for name, weight in own_tiny.model.state_dict().items()}
    trim_vocabulary(own_tiny, TEXTS, 120)
    assert own_tiny.predict([*KNOWN, *OTHERS]).tolist() == before
    assert all(torch.equal(weight, state[name]) for name, weight in own_tiny.model.state_dict().items())
    assert len(own_tiny.tokenizer) == own_tiny.config.vocab_size == 171


def test_settings_are_taken_over(tiny_folder):
    """Activation, lengths, limits, type of the weights and name are those of the given encoder."""
    activation = lambda logits: logits * 3  # noqa: E731
    encoder = CrossEncoder(
        tiny_folder,
        device="cpu",
        max_length=40,
        default_activation_function=activation,
        truncation="only_document",
        max_batch_tokens=300,
        max_documents=7,
        automodel_args={"dtype": torch.float64},
    )
    made = trim_vocabulary(encoder, TEXTS, 120)
    assert made.predict(KNOWN) == pytest.approx(encoder.predict(KNOWN), rel=0, abs=ROUNDING)
    for name in ("max_length", "truncation", "max_batch_tokens", "max_documents", "default_activation_function"):
        assert getattr(made, name) == getattr(encoder, name)
    assert made.model.dtype == torch.float64
    assert made.config.name_or_path == encoder.config.name_or_path


def test_spare_rows_and_ids_of_the_configuration(tmp_path):
    """Tables are often longer than the vocabulary; ids that the configuration names follow the tokens."""
    folder = make_folder(tmp_path, "xlm-roberta")
    encoder = CrossEncoder(str(folder), device="cpu")
    mask = encoder.tokenizer.mask_token_id
    encoder.model.config.mask_token_id = mask
    encoder.model.config.strange_token_id = 10_000
    encoder.model.resize_token_embeddings(160)
    made = trim_vocabulary(encoder, TEXTS, 110)
    assert made.predict(KNOWN) == pytest.approx(encoder.predict(KNOWN), rel=0, abs=ROUNDING)
    assert made.config.mask_token_id == made.tokenizer.mask_token_id == 109 != mask
    assert made.config.strange_token_id is None
    assert made.config.pad_token_id == encoder.config.pad_token_id == 1


def test_rows_are_copied(own_tiny):
    """The copy shares no weight with the model, and has the rows in the order asked for."""
    made = with_rows(own_tiny.model, [0, 5, 9])
    table, old = made.get_input_embeddings().weight, own_tiny.model.get_input_embeddings().weight
    assert torch.equal(table, old[[0, 5, 9]])
    table.data.zero_()
    made.classifier.weight.data.zero_()
    assert old[5].abs().sum() > 0
    assert own_tiny.model.classifier.weight.abs().sum() > 0
    assert table.requires_grad


def test_always_and_refusals(tiny):
    """Tokens to keep by their spelling; one that there is not, and a size that is too small, are named."""
    made = trim_vocabulary(tiny, [], 112, always=["password", "##z"])
    assert "password" in made.tokenizer.get_vocab()
    with pytest.raises(InvalidInput, match="no token 'nowhere'"):
        trim_vocabulary(tiny, TEXTS, 120, always=["cat", "nowhere"])
    with pytest.raises(InvalidInput, match="size=20: special tokens and characters alone are 109"):
        trim_vocabulary(tiny, TEXTS, 20)
    small = trim_vocabulary(tiny, ["abc"], 65, characters=string.ascii_lowercase)
    assert len(small.tokenizer) <= 65


def test_the_embedded_model_on_a_real_collection(data_folder, tmp_path):
    """Half the vocabulary, kept by adi's texts, and every pair of them scores as before."""
    encoder = CrossEncoder("secondpass/pocket", device="cpu")
    texts = [document.content for document in read_corpus(data_folder / "adi")]
    made = trim_vocabulary(encoder, texts, 5000)
    pairs = [(texts[0][:60], text) for text in texts[:12]]
    assert made.predict(pairs).tolist() == pytest.approx(encoder.predict(pairs).tolist(), rel=0, abs=ROUNDING)
    made.save(str(tmp_path))
    assert json.loads((Path(tmp_path) / "config.json").read_text())["vocab_size"] == 5000


TEXTS_KEPT_PIECES = sentences(5, 40)
MODELS = {kind: trained(kind) for kind in KINDS}
IDS = {kind: kept_ids(MODELS[kind], TEXTS_KEPT_PIECES, 420 if kind == "BPE" else 120) for kind in KINDS}
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
    counts = Counter(
        number for text in TEXTS_KEPT_PIECES for number in tokenizer.encode(text, add_special_tokens=False).ids
    )
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
        kept_ids(MODELS[kind], TEXTS_KEPT_PIECES, 9)
    assert kept_ids(MODELS[kind], TEXTS_KEPT_PIECES, 10**6) == sorted(MODELS[kind].get_vocab().values())


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


MODEL = {"merges": [["a", "b"], ["ab", "c"], ["d", "e"], ["abc", "de"]]}


def test_parts_down_to_symbols():
    """All pieces that reading goes through, and no other."""
    merges = Merges(MODEL)
    assert merges.parts("abc") == {"abc", "ab", "a", "b", "c"}
    assert merges.parts("abcde") == {"abcde", "abc", "de", "ab", "a", "b", "c", "d", "e"}
    assert merges.parts("a") == {"a"}
    assert merges.makes("de")
    assert not merges.makes("d")


def test_kept_merges_in_order():
    """A merge stays if its parts and its result do."""
    assert Merges(MODEL).kept(["a", "b", "ab", "d", "e", "abc"]) == [["a", "b"]]
    assert Merges(MODEL).kept(["a", "b", "c", "ab", "abc"]) == [["a", "b"], ["ab", "c"]]


def test_both_forms_of_a_file():
    """Older files join the two parts by a space."""
    assert (
        pairs_of({"merges": ["a b", "Ġ c"]})
        == pairs_of({"merges": [["a", "b"], ["Ġ", "c"]]})
        == [("a", "b"), ("Ġ", "c")]
    )


def test_of_several_ways_the_one_that_happens():
    """SentencePiece's files list every split of a piece; the merges are applied by rank."""
    merges = Merges({"merges": [["b", "c"], ["a", "b"], ["ab", "c"], ["a", "bc"]]})
    assert merges.parts("abc") == {"abc", "a", "bc", "b", "c"}


def test_prefix_of_continuations():
    """Where the second part is marked as a continuation, the result is without the mark."""
    merges = Merges({"merges": [["a", "##b"]], "continuing_subword_prefix": "##"})
    assert merges.parts("ab") == {"ab", "a", "##b"}
    assert merges.kept(["a", "##b", "ab"]) == [["a", "##b"]]


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
