"""Rules of `secondpass.models.stored_tokenizer`: what transformers makes of a folder, or a reason, and never another.

Folders are of the shapes that published models have, over tiny vocabularies.
"""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers, processors
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoConfig

from secondpass.corpora import read_corpus
from secondpass.errors import ModelLoadError
from secondpass.forwards.contract import padding_of
from secondpass.inputs import PromptTemplate
from secondpass.models.folders import folder_of
from secondpass.models.limits import check_ids, limit_of, usable
from secondpass.models.stored_tokenizer import OF_TYPE, ROLES, StoredTokenizer, read_tokenizer
from secondpass.models.templates import template_for
from secondpass.models.tokenizer import ends_with_padding, load_tokenizer
from secondpass.token_cache import TokenCache
from secondpass.tokens import PairTokenizer, Tokens
from tests.tiny_models import ANGLES, BRACKETS, DEBERTA, Specials, byte_level, unigram, wordpiece

NOT_USED = ("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED")
CAMEMBERT = replace(
    ANGLES, order=("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>", "<mask>")
)
MASK_BEFORE = {"content": "<mask>", "lstrip": True, "normalized": False, "rstrip": False, "single_word": False}
ONE, TWO = ["input_ids", "attention_mask"], ["input_ids", "token_type_ids", "attention_mask"]

HOSTILE = (
    "", " ", "\n\t ", "[SEP] [CLS][MASK] [PAD] [UNK]", "</s><s> <mask> <pad><unk>", "[ SEP ]", "\u2581the \u0120cat",
    "<s>NOTUSED</s>NOTUSED", "a\x00b\x07\x1bc\u200d\u200b\ufeffd\u00a0\u3000e", "CAF\u00c9 na\u00efve \u00dcn\u0130",
    "e\u0301 n\u0303 \ufb01 \u2460", "\u4e2d\u6587\u306e\u30c6\u30b9\u30c8 cat", "\U0001f600\u200d\U0001f468 the",
    "x" * 101, "cat" * 1000, "don't they've ###a ##b", "the  cat\r\nsat\ton", "\u0627\u0644 \u05d0 \u0915", "123.45,67",
    "lone \udfff surrogate \ud800", "...!!!???", "trailing   ",
)  # fmt: skip


def _tokenizer(
    build: Callable[[Specials], Tokenizer], specials: Specials, types: int = 0, middle: str = "{end} {end}"
) -> Tokenizer:
    made = build(specials)
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials.order])
    start, end = f"{specials.start}:0", f"{specials.end}:0"
    pair = f"{start} $A:0 {middle.format(end=end)} $B:{types} {specials.end}:{types}"
    made.post_processor = processors.TemplateProcessing(
        single=f"{start} $A:0 {end}",
        pair=pair,
        special_tokens=[(token, specials.id_of(token)) for token in (specials.start, specials.end)],
    )
    return made


def _wordpiece() -> Tokenizer:
    return _tokenizer(wordpiece, BRACKETS, 1, "{end}")


def _xlm_roberta(specials: Specials = ANGLES) -> Tokenizer:
    made = _tokenizer(unigram, specials)
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    return made


def _roberta() -> Tokenizer:
    made = _tokenizer(byte_level, ANGLES)
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True)
    return made


def _deberta() -> Tokenizer:
    made = _tokenizer(unigram, DEBERTA, 1, "{end}")
    made.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.NFKC()])
    return made


def _named(specials: Specials, first: str | None = None, last: str | None = None) -> dict[str, Any]:
    tokens = {"pad": specials.pad, "unk": specials.unknown, "cls": specials.start, "sep": specials.end}
    tokens |= {"mask": specials.mask, **({} if first is None or last is None else {"bos": first, "eos": last})}
    return {f"{role}_token": token for role, token in tokens.items()}


def _decoder(tokenizer: Tokenizer) -> dict[str, Any]:
    return {str(number): token.__getstate__() for number, token in tokenizer.get_added_tokens_decoder().items()}


OF_BERT = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512, "name_or_path": "x/y"}
OF_BERT |= {"strip_accents": None, "tokenize_chinese_chars": True, "do_basic_tokenize": True, "never_split": None}
OF_BERT |= {"special_tokens_map_file": "/tmp/x", "tokenizer_file": "/tmp/y"}  # noqa: S108 - as saved
ANGLED = _named(ANGLES, "<s>", "</s>")
GENERIC = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": True}
Shape = tuple[str, Callable[[], Tokenizer], dict[str, Any] | None, dict[str, Any] | None, str]
# model's type, rules, tokenizer_config.json, special_tokens_map.json, version of transformers that wrote config.json
SHAPES: dict[str, Shape] = {
    "ms-marco-MiniLM": ("bert", _wordpiece, {**OF_BERT, **_named(BRACKETS)}, _named(BRACKETS), "4.8.0"),
    "ms-marco-MiniLM, newer": (
        "bert",
        _wordpiece,
        {**OF_BERT, **_named(BRACKETS), "added_tokens_decoder": _decoder(_wordpiece()), "extra_special_tokens": {}},
        _named(BRACKETS) | {"mask_token": MASK_BEFORE | {"content": "[MASK]"}},
        "4.57.3",
    ),
    "ms-marco-MiniLM of 5": (
        "bert",
        _wordpiece,
        {**OF_BERT, **_named(BRACKETS), "backend": "tokenizers"},
        None,
        "5.3.0",
    ),
    "bare": ("bert", _wordpiece, None, None, "4.8.0"),
    "generic of 4": ("bert", _wordpiece, {**GENERIC, **_named(BRACKETS)}, None, "4.57.3"),
    "generic of 5": ("bert", _wordpiece, {**GENERIC, **_named(BRACKETS), "backend": "tokenizers"}, None, "5.1.0"),
    "electra": ("electra", _wordpiece, {"do_lower_case": True, "model_max_length": 512}, None, "4.6.0"),
    "electra, named": ("electra", _wordpiece, {**OF_BERT, "tokenizer_class": "ElectraTokenizer"}, None, "4.40.0"),
    "distilbert": (
        "distilbert",
        lambda: _tokenizer(wordpiece, BRACKETS, 0, "{end}"),
        {**OF_BERT, "tokenizer_class": "DistilBertTokenizer", **_named(BRACKETS)},
        _named(BRACKETS),
        "4.30.0.dev0",
    ),
    "stsb-roberta": (
        "roberta",
        _roberta,
        {**ANGLED, "tokenizer_class": "RobertaTokenizer", "add_prefix_space": False, "trim_offsets": True},
        {**ANGLED, "mask_token": MASK_BEFORE},
        "4.3.0",
    ),
    "roberta, blank in front": (
        "roberta",
        _roberta,
        {"add_prefix_space": True, "model_max_length": 512},
        None,
        "4.3.0",
    ),
    "bge-reranker-base": (
        "xlm-roberta",
        _xlm_roberta,
        {**ANGLED, "tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 512, "sp_model_kwargs": {}},
        {**ANGLED, "mask_token": MASK_BEFORE},
        "4.30.0",
    ),
    "bge-reranker-v2-m3": (
        "xlm-roberta",
        _xlm_roberta,
        {
            **ANGLED,
            "added_tokens_decoder": _decoder(_xlm_roberta()),
            "tokenizer_class": "XLMRobertaTokenizer",
            "model_max_length": 8192,
        },
        {**ANGLED, "mask_token": MASK_BEFORE},
        "4.38.1",
    ),
    "multilingual MiniLM": (
        "bert",
        _xlm_roberta,
        {**ANGLED, "tokenizer_class": "XLMRobertaTokenizerFast"},
        None,
        "4.8.1",
    ),
    "camembert": (
        "camembert",
        lambda: _xlm_roberta(CAMEMBERT),
        {**ANGLED, "tokenizer_class": "CamembertTokenizer", "additional_special_tokens": [*NOT_USED]},
        {**ANGLED, "mask_token": MASK_BEFORE, "additional_special_tokens": [*NOT_USED]},
        "4.33.1",
    ),
    "camembert, bare": ("camembert", lambda: _xlm_roberta(CAMEMBERT), {}, None, "4.3.0"),
    "mxbai-rerank, DeBERTa-v3": (
        "deberta-v2",
        _deberta,
        {**_named(DEBERTA, "[CLS]", "[SEP]"), "tokenizer_class": "DebertaV2Tokenizer"}
        | {"do_lower_case": False, "split_by_punct": False, "vocab_type": "spm", "model_max_length": 512},
        _named(DEBERTA, "[CLS]", "[SEP]"),
        "4.37.2",
    ),
    "ettin-reranker, ModernBERT": (
        "modernbert",
        lambda: _tokenizer(byte_level, BRACKETS, 0, "{end}"),
        {**GENERIC, **_named(BRACKETS), "model_max_length": 8192, "model_input_names": ONE}
        | {"added_tokens_decoder": _decoder(_tokenizer(byte_level, BRACKETS, 0, "{end}"))},
        _named(BRACKETS),
        "4.48.0",
    ),
}


def _write(folder: Path, shape: Shape) -> Path:
    model_type, rules, settings, special, version = shape
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = rules()
    tokenizer.save(str(folder / "tokenizer.json"))
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "vocab_size": tokenizer.get_vocab_size()}
    files: dict[str, Any] = {"config.json": {"model_type": model_type, "transformers_version": version, **sizes}}
    files |= {"tokenizer_config.json": settings, "special_tokens_map.json": special}
    for name, content in files.items():
        if content is not None:
            (folder / name).write_text(json.dumps(content))
    return folder


def _stored(folder: Path) -> Any:
    return read_tokenizer(folder, json.loads((folder / "config.json").read_text()))


def _theirs(folder: Path) -> Any:
    config = AutoConfig.from_pretrained(folder)
    kinds: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    forward = kinds[type(config)].forward
    return load_tokenizer(folder, SimpleNamespace(config=config, forward=forward), {})


def _outcome(read: Callable[[Path], Any], folder: Path) -> Any:
    try:
        return read(folder)
    except ModelLoadError as error:
        return str(error)


READ = ("model_max_length", "model_input_names", "padding_side", "truncation_side", "pad_token_type_id", "name_or_path")
ATTRIBUTES = (*READ, *ROLES, *(f"{role}_id" for role in ROLES))


def _assert_same(ours: StoredTokenizer, theirs: Any) -> None:
    """All that the engine reads, and the whole of the rules but for what makes texts of ids."""
    made = [{name: getattr(tokenizer, name) for name in ATTRIBUTES} for tokenizer in (ours, theirs)]
    assert made[0] == made[1]
    rules = [json.loads(tokenizer.backend_tokenizer.to_str()) | {"decoder": None} for tokenizer in (ours, theirs)]
    assert rules[0] == rules[1]
    assert ours.get_vocab() == theirs.get_vocab()
    assert len(ours) == len(theirs)
    assert padding_of(ours) == padding_of(theirs)
    assert ends_with_padding(ours) == ends_with_padding(theirs)
    assert ours.encode("the cat [SEP] </s>") == theirs.encode("the cat [SEP] </s>")


def _lists(made: Sequence[Tokens]) -> list[Any]:
    return [(item.ids.tolist(), item.type_ids.tolist(), item.cut, item.empty) for item in made]


@pytest.fixture(scope="module")
def shaped(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder of a shape."""
    return lambda name: _write(tmp_path_factory.mktemp("shape"), SHAPES[name])


@pytest.mark.parametrize("name", SHAPES)
def test_published_shapes_are_read_as_transformers_reads_them(shaped: Callable[[str], Path], name: str) -> None:
    """Attributes, rules, and the ids of hostile texts: alone, in pairs, cut, and inside an operator's template."""
    folder = shaped(name)
    ours, theirs = _stored(folder), _theirs(folder)
    assert isinstance(ours, StoredTokenizer), ours
    _assert_same(ours, theirs)
    pairs = [PairTokenizer(ours), PairTokenizer(theirs)]
    specials = PromptTemplate(f"{ours.cls_token}query: ", "\n", f"{ours.sep_token} <doc> ", "!", own_specials="text")
    for window, template in ((64, None), (9, None), (64, PromptTemplate("ask ", "", "of\n")), (64, specials)):
        read = [made.pairs(HOSTILE, HOSTILE[::-1], window, "longest_first", template) for made in pairs]
        assert _lists(read[0]) == _lists(read[1])
    read = [made.singles(HOSTILE, 64, "longest_first") for made in pairs]
    assert _lists(read[0]) == _lists(read[1])
    ends = [made.token_ends("The cat, \u4e2d a\u0301") for made in pairs]
    assert ends[0] == ends[1]


@pytest.mark.parametrize("name", {shape[0]: name for name, shape in SHAPES.items() if "bare" not in name}.values())
def test_texts_of_collections_have_the_same_ids(shaped: Callable[[str], Path], data_folder: Path, name: str) -> None:
    """Of several kinds: abstracts in small letters, answers of doctors, articles with names from everywhere."""
    folder = shaped(name)
    ours, theirs = _stored(folder), _theirs(folder)
    sources = [data_folder / source for source in ("cranfield", "medquad", "open/wiki-intro")]
    texts = [document.text[:400] for source in sources for document in islice(read_corpus(source), 70)]
    read = [PairTokenizer(made).pairs(texts, texts[::-1], 512, "longest_first") for made in (ours, theirs)]
    assert len(texts) > 200
    assert _lists(read[0]) == _lists(read[1])


def _changed(folder: Path, file: str, changes: dict[str, Any]) -> None:
    """Change keys of a JSON file; None removes one."""
    path = folder / file
    content = (json.loads(path.read_text()) if path.is_file() else {}) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


PLAIN = {"content": "[SEP]", "special": False}
ZEBRA, CAT = {"content": "zebra", "special": False}, {"content": "cat", "special": False}
SETTINGS, RULES, MAP = "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json"
MINI, XLM, ROBERTA, NEWER = "ms-marco-MiniLM", "bge-reranker-base", "stsb-roberta", "ms-marco-MiniLM, newer"
SAME = ""
CUT = {"direction": "Left", "max_length": 9, "strategy": "LongestFirst", "stride": 0}


@pytest.mark.parametrize(
    ("name", "file", "changes", "said"),
    [
        (MINI, SETTINGS, {"do_lower_case": False}, SAME),
        (MINI, SETTINGS, {"do_lower_case": False, "strip_accents": True}, SAME),
        (MINI, SETTINGS, {"tokenize_chinese_chars": False}, SAME),
        (MINI, SETTINGS, {"do_lower_case": "yes"}, "neither true nor false"),
        (MINI, RULES, {"normalizer": {"type": "Lowercase"}}, SAME),
        (ROBERTA, SETTINGS, {"add_prefix_space": True}, SAME),
        (ROBERTA, SETTINGS, {"add_prefix_space": 1}, "neither true nor false"),
        (MINI, SETTINGS, {"model_max_length": 64}, SAME),
        (MINI, SETTINGS, {"model_max_length": None}, SAME),
        (MINI, SETTINGS, {"model_max_length": None, "max_len": 77}, SAME),
        (MINI, SETTINGS, {"model_max_length": "many"}, "is 'many', no number"),
        (MINI, SETTINGS, {"padding_side": "left", "truncation_side": "left"}, SAME),
        (MINI, SETTINGS, {"padding_side": "up"}, "neither left nor right"),
        (MINI, RULES, {"truncation": CUT}, SAME),
        (MINI, SETTINGS, {"model_input_names": ONE}, SAME),
        (MINI, SETTINGS, {"model_input_names": TWO}, SAME),
        (MINI, SETTINGS, {"tokenizer_class": None}, SAME),
        (MINI, SETTINGS, {"tokenizer_class": "DistilBertTokenizer"}, SAME),
        (MINI, SETTINGS, {"tokenizer_class": "TokenizersBackend"}, SAME),
        (MINI, SETTINGS, {"tokenizer_class": "RobertaTokenizer"}, "a WordPiece vocabulary of a RobertaTokenizer"),
        (MINI, SETTINGS, {"tokenizer_class": "BertJapaneseTokenizer"}, "a BertJapaneseTokenizer of a bert model"),
        (MINI, SETTINGS, {"tokenizer_class": "LlamaTokenizerFast"}, "a LlamaTokenizerFast of a bert model"),
        (MINI, "config.json", {"tokenizer_class": "LlamaTokenizer"}, SAME),
        ("bare", "config.json", {"tokenizer_class": "BertTokenizer"}, SAME),
        ("bare", "config.json", {"tokenizer_class": "XLNetTokenizer"}, "a XLNetTokenizer of a bert model"),
        (MINI, "config.json", {"model_type": "qwen2"}, "the tokenizer of a qwen2 model"),
        (MINI, SETTINGS, {"auto_map": {"AutoTokenizer": ["a.B", None]}}, "auto_map in tokenizer_config.json"),
        (MINI, SETTINGS, {"chat_template": "{{ x }}"}, "a chat template"),
        (MINI, SETTINGS, {"split_special_tokens": True}, "split_special_tokens"),
        (MINI, SETTINGS, {"split_special_tokens": False, "init_inputs": []}, SAME),
        (MINI, SETTINGS, {"image_token": "<i>"}, "the token image_token of the tokenizer's own"),
        (MINI, SETTINGS, {"extra_special_tokens": {"i_token": "<i>"}}, "the token i_token of the tokenizer's own"),
        (MINI, SETTINGS, {"extra_special_tokens": ["cat"]}, SAME),
        (MINI, SETTINGS, {"additional_special_tokens": ["cat"]}, SAME),
        (MINI, SETTINGS, {"extra_special_tokens": ["zebra"]}, "the token zebra, which is not in the vocabulary"),
        ("generic of 4", SETTINGS, {"extra_special_tokens": ["zebra"]}, SAME),
        (NEWER, SETTINGS, {"added_tokens_decoder": {**_decoder(_wordpiece()), "9": CAT}}, SAME),
        (NEWER, SETTINGS, {"added_tokens_decoder": {"0": CAT}}, "say different things"),
        ("generic of 4", SETTINGS, {"added_tokens_decoder": {"9": CAT, "4000": ZEBRA}}, SAME),
        ("generic of 4", SETTINGS, {"added_tokens_decoder": {"3": {"content": "[SEP]", "normalized": True}}}, SAME),
        ("generic of 4", SETTINGS, {"sep_token": None, "added_tokens_decoder": {"3": PLAIN}}, "a special token that"),
        ("generic of 4", SETTINGS, {"pad_token": None, "cls_token": None, "eos_token": "[SEP]"}, SAME),
        (MINI, SETTINGS, {"added_tokens_decoder": [1]}, "AttributeError"),
        (MINI, "added_tokens.json", {"cat": 3}, SAME),
        (MINI, "added_tokens.json", {"zebra": 4000}, "the token zebra, which is not in the vocabulary"),
        ("generic of 4", "added_tokens.json", {"zebra": 4000}, SAME),
        (MINI, MAP, {"pad_token": "cat"}, SAME),
        (MINI, MAP, {"pad_token": 7}, "7 is no token"),
        (MINI, SETTINGS, {"pad_token": {"__type": "AddedToken", "content": "[PAD]", "lstrip": True}}, SAME),
        ("camembert", SETTINGS, {"added_tokens_decoder": {"1": {"content": "<pad>"}}}, "different things"),
        ("camembert, bare", RULES, {"added_tokens": []}, SAME),
        (XLM, RULES, {"added_tokens": []}, SAME),
        (MINI, RULES, {"added_tokens": None}, "a tokenizer.json without added_tokens"),
        (MINI, RULES, {"post_processor": None}, "a BertTokenizer without a post-processor"),
        ("generic of 4", RULES, {"post_processor": None}, "the tokenizer has no post-processor"),
        ("bare", SETTINGS, {"tokenizer_class": "PreTrainedTokenizerFast"}, "the tokenizer has no padding token"),
    ],
)  # fmt: skip
def test_odd_folders_are_read_as_transformers_reads_them_or_not_at_all(
    shaped: Callable[[str], Path], name: str, file: str, changes: dict[str, Any], said: str
) -> None:
    """Settings that count, files that differ, classes of others: the same tokenizer, the same error, or a reason."""
    folder = shaped(name)
    _changed(folder, file, changes)
    ours = _outcome(_stored, folder)
    if isinstance(ours, StoredTokenizer):
        assert said == SAME
        _assert_same(ours, _theirs(folder))
        read = [
            PairTokenizer(made).pairs(HOSTILE, HOSTILE[::-1], 64, "longest_first") for made in (ours, _theirs(folder))
        ]
        assert _lists(read[0]) == _lists(read[1])
    else:
        assert said
        assert said in ours
        if ours.startswith(str(folder)):
            assert _outcome(_theirs, folder) == ours


def test_a_class_of_another_vocabulary_gives_way(tmp_path: Path) -> None:
    """Tokens that a class would bring and the vocabulary lacks are not added: the generic class reads the folder."""
    shape = (
        "bert",
        lambda: _xlm_roberta(DEBERTA),
        {**_named(DEBERTA), "tokenizer_class": "XLMRobertaTokenizer"},
        None,
        "4.8.0",
    )
    folder = _write(tmp_path, shape)
    ours, theirs = _stored(folder), _theirs(folder)
    assert isinstance(ours, StoredTokenizer)
    _assert_same(ours, theirs)
    assert ours.bos_token is None


@pytest.mark.parametrize("missing", [RULES, "all"])
def test_another_vocabulary_is_not_read_and_none_is_an_error(shaped: Callable[[str], Path], missing: str) -> None:
    """A vocab.txt has no rules; a folder without either is refused as ever."""
    folder = shaped("bare")
    (folder / RULES).unlink()
    if missing == "all":
        with pytest.raises(ModelLoadError, match="holds no tokenizer"):
            _stored(folder)
        return
    (folder / "vocab.txt").write_text("[PAD]")
    assert _stored(folder) == "only transformers reads a vocabulary that is no tokenizer.json"


def test_a_stored_template_needs_no_chat_template(shaped: Callable[[str], Path]) -> None:
    """A model that was saved with its template has a chat template for others; ours is read, and words are found."""
    folder = shaped(MINI)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "modules.json").write_text("[]")
    (folder / "config_sentence_transformers.json").write_text('{"secondpass": {"template": {}}}')
    ours = _stored(folder)
    assert isinstance(ours, StoredTokenizer)
    given = "rank {query} by {document}"
    for tokenizer in (ours, _theirs(folder)):
        made = template_for(folder, "x", "BertForSequenceClassification", tokenizer, given, "cat", "river")
        assert made == template_for(folder, "x", "BertForSequenceClassification", ours, given, "cat", "river")


def test_the_embedded_model_is_read_without_torch_and_transformers() -> None:
    """Neither is imported, and what tokenises is what transformers makes."""
    code = (
        "import json, sys\n"
        "from secondpass.models.folders import folder_of\n"
        "from secondpass.models.stored_tokenizer import read_tokenizer\n"
        "from secondpass.tokens import PairTokenizer\n"
        "folder = folder_of('secondpass/pocket')\n"
        "made = PairTokenizer(read_tokenizer(folder, json.loads((folder / 'config.json').read_text())))\n"
        "assert not {'torch', 'transformers', 'huggingface_hub'} & sys.modules.keys()\n"
        "print(made.pairs(['the cat'], ['[SEP] caf\u00e9'], 64, 'error')[0].ids.tolist())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (made,) = PairTokenizer(_theirs(folder_of("secondpass/pocket"))).pairs(
        ["the cat"], ["[SEP] caf\u00e9"], 64, "error"
    )
    assert json.loads(done.stdout) == made.ids.tolist()


def test_equal_tokenizers_share_a_cache_and_others_do_not(shaped: Callable[[str], Path]) -> None:
    """Two folders with the same rules and settings are one tokenizer; a setting that changes ids makes another."""
    folders = [shaped(MINI), shaped(MINI), shaped(MINI)]
    _changed(folders[2], SETTINGS, {"do_lower_case": False})
    cache = TokenCache()
    made = [PairTokenizer(_stored(folder), cache).singles(["The CAT"], 64, "error") for folder in folders]
    assert (cache.hits, cache.misses, len(cache)) == (1, 2, 2)
    assert _lists(made[0]) == _lists(made[1]) != _lists(made[2])


def test_a_copy_is_the_same_tokenizer(shaped: Callable[[str], Path]) -> None:
    """Copied or sent to another process, before and after it is configured: special tokens in texts stay text."""
    ours = _stored(shaped(MINI))
    made = PairTokenizer(ours)
    wanted = _lists(made.pairs(HOSTILE, HOSTILE, 64, "longest_first"))
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):  # noqa: S301
        assert twin.sep_token_id == 3
        assert _lists(PairTokenizer(twin).pairs(HOSTILE, HOSTILE, 64, "longest_first")) == wanted
    made = pickle.loads(pickle.dumps(made))  # noqa: S301
    assert _lists(made.pairs(HOSTILE, HOSTILE, 64, "longest_first")) == wanted
    with pytest.raises(AttributeError, match="no attribute padding_token"):
        _ = ours.padding_token


@pytest.mark.parametrize("name", [MINI, XLM, ROBERTA])
def test_ids_and_limits_are_checked_by_numbers(shaped: Callable[[str], Path], name: str) -> None:
    """As many rows as ids will do; the smaller limit wins; RoBERTa's table has two rows that no text uses."""
    folder = shaped(name)
    ours = _stored(folder)
    highest = max(ours.get_vocab().values())
    check_ids(folder, ours, highest + 1)
    with pytest.raises(ModelLoadError, match=f"ids up to {highest}, the model's embedding table only {highest} rows"):
        check_ids(folder, ours, highest)
    assert (usable(514, 1), usable(512, None)) == (512, 512)
    ours.model_max_length = 10**30
    assert limit_of(ours, usable(514, 1)) == 512
    with pytest.raises(ModelLoadError, match="tokenizer_args="):
        limit_of(ours, None)
    ours.model_max_length = 64
    assert (limit_of(ours, 512), limit_of(ours, None)) == (64, 64)


def test_every_family_of_the_kernel_is_known() -> None:
    """Published shapes above are of each type that has a tokenizer here."""
    assert {shape[0] for shape in SHAPES.values()} == set(OF_TYPE)
