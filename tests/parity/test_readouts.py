"""Rerankers without a classification head score as in sentence-transformers 6: chains, causal language models."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from secondpass import CrossEncoder
from secondpass.models.loading import LoadRequest, load
from tests.tiny_models import make_decoder

sentence_transformers = pytest.importorskip("sentence_transformers", "6.0", reason="sentence-transformers 6 is needed")
modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
from sentence_transformers.base.modules import Dense, Transformer  # noqa: E402
from sentence_transformers.cross_encoder.modules import LogitScore  # noqa: E402

LONG = "the river runs by the old house " * 40
PAIRS = [
    ("what is the capital city of france", "paris is the capital of france"),
    ("bank account", "open a new account at the bank on the river"),
    ("a", "the cat sat on the mat"),
    ("cat", ""),
    ("how to sleep", LONG),
    ("bank account", "open a new account at the bank on the river"),
]
CHAIN = 1e-5
CAUSAL = 1e-4


def _pooling(mode: Any) -> list[nn.Module]:
    return [modules.Pooling(32, mode)]


def _classifier(width: int, labels: int = 1, activation: nn.Module | None = None) -> nn.Module:
    last: nn.Module = Dense(width, labels, True, activation or nn.Identity(), module_output_name="scores")
    return last


# Ettin's chain; what follows are other poolings, activations, names and orders.
CHAINS: dict[str, tuple[str, Callable[[], list[nn.Module]]]] = {
    "ettin": (
        "modernbert",
        lambda: [*_pooling("cls"), Dense(32, 32, False, nn.GELU()), modules.LayerNorm(32), _classifier(32)],
    ),
    "mean": (
        "bert",
        lambda: [*_pooling("mean"), Dense(32, 48, True, nn.Tanh()), modules.Dropout(), _classifier(48)],
    ),
    "last": (
        "xlm-roberta",
        lambda: [*_pooling("lasttoken"), modules.LayerNorm(32), _classifier(32)],
    ),
    "several": (
        "electra",
        lambda: [
            *_pooling(("cls", "mean_sqrt_len_tokens", "weightedmean", "max")),
            Dense(128, 16, True, nn.PReLU()),
            modules.LayerNorm(16),
            _classifier(16),
        ],
    ),
    "names": (
        "modernbert",
        lambda: [
            *_pooling("mean"),
            Dense(32, 8, True, nn.SiLU(), module_output_name="narrow"),
            modules.Normalize("narrow", "unit"),
            Dense(8, 1, True, nn.Identity(), module_input_name="unit", module_output_name="scores"),
        ],
    ),
    "residual": (
        "distilbert",
        lambda: [
            *_pooling("cls"),
            Dense(32, 32, True, nn.Mish(), use_residual=True),
            Dense(32, 12, True, nn.ReLU(), use_residual=True),
            _classifier(12),
        ],
    ),
    "tokens first": (
        "deberta-v2",
        lambda: [
            Dense(32, 32, True, nn.ELU(), module_input_name="token_embeddings"),
            *_pooling("mean"),
            _classifier(32),
        ],
    ),
    "halved": (
        "bert",
        lambda: [*_pooling("cls"), Dense(32, 24, True, nn.GLU()), modules.LayerNorm(12), _classifier(12)],
    ),
    "labels": ("bert", lambda: [*_pooling("cls"), Dense(32, 32, True, nn.SiLU()), _classifier(32, 3)]),
}


def save_chain(path: Path, folder: str, parts: Sequence[nn.Module], **settings: Any) -> Any:
    """A model of theirs, written to `path`: an encoder under these modules, with weights wide enough to tell."""
    torch.manual_seed(0)
    for part in parts:
        for weight in part.parameters():
            nn.init.normal_(weight, 0.0, 0.5)
    model = sentence_transformers.CrossEncoder(modules=[Transformer(folder), *parts], device="cpu", **settings)
    model.save_pretrained(str(path))
    return model.eval()


def save_causal(path: Path, architecture: str, false_token: bool = True, **settings: Any) -> Any:
    """The same for a causal language model that is read at "yes" and "no"."""
    first = Transformer(str(make_decoder(path / "plain", architecture)), transformer_task="text-generation")
    ids = first.tokenizer.convert_tokens_to_ids(["yes", "no"][: 1 + false_token])
    model = sentence_transformers.CrossEncoder(modules=[first, LogitScore(*ids)], device="cpu", **settings)
    model.save_pretrained(str(path))
    return model.eval()


def _round_trip(ours: CrossEncoder, wanted: Any, path: Path, rounding: float, **options: Any) -> None:
    """What we save is read there and here with the same scores."""
    ours.save(str(path))
    theirs, again = sentence_transformers.CrossEncoder(str(path), device="cpu"), CrossEncoder(str(path), device="cpu")
    for model in (theirs, again):
        assert np.allclose(model.predict(PAIRS, **options), wanted, rtol=0, atol=rounding)
    assert again.prompts == ours.prompts == theirs.prompts
    assert repr(again.default_activation_function) == repr(ours.default_activation_function)


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_scores_as_theirs(tiny_model_folder: Callable[..., str], name: str, tmp_path: Path) -> None:
    """Alone and in a batch, read from their folder, saved in ours and read again by both."""
    architecture, parts = CHAINS[name]
    theirs = save_chain(tmp_path / "theirs", tiny_model_folder(architecture), parts())
    ours = CrossEncoder(str(tmp_path / "theirs"), device="cpu")
    wanted = theirs.predict(PAIRS)
    assert np.ptp(wanted[:5], axis=0).min() > 100 * CHAIN
    assert np.allclose(ours.predict(PAIRS), wanted, rtol=0, atol=CHAIN)
    alone = np.stack([ours.predict(pair) for pair in PAIRS])
    assert np.allclose(alone, wanted, rtol=0, atol=CHAIN)
    _round_trip(ours, wanted, tmp_path / "ours", CHAIN)


CAUSAL_MODELS: dict[str, dict[str, Any]] = {
    "qwen3": {"prompts": {"query": "find the capital"}, "default_prompt_name": "query", "activation_fn": nn.Identity()},
    "qwen2": {"false_token": False},
    "llama": {"activation_fn": nn.Identity()},
    "gemma2": {"prompts": {"other": "weigh"}, "activation_fn": nn.Tanh()},
    "mistral": {},
}


@pytest.mark.parametrize("architecture", CAUSAL_MODELS)
def test_a_causal_reranker_scores_as_theirs(architecture: str, tmp_path: Path) -> None:
    """Alone and in a batch, with its stored, another and no prompt, saved in ours and read again by both."""
    theirs = save_causal(tmp_path / "theirs", architecture, **CAUSAL_MODELS[architecture])
    ours = CrossEncoder(str(tmp_path / "theirs"), device="cpu")
    wishes: list[dict[str, Any]] = [{}, {"prompt": "look closely"}, {"prompt": ""}]
    for options in wishes:
        wanted = theirs.predict(PAIRS[:4], activation_fn=nn.Identity(), **options)
        assert np.ptp(wanted) > 100 * CAUSAL
        made = ours.predict(PAIRS[:4], activation_fct=nn.Identity(), **options)
        assert np.allclose(made, wanted, rtol=0, atol=CAUSAL)
    wanted = theirs.predict(PAIRS)
    assert np.allclose(ours.predict(PAIRS), wanted, rtol=0, atol=CAUSAL)
    assert np.allclose([ours.predict(pair) for pair in PAIRS], wanted, rtol=0, atol=CAUSAL)
    _round_trip(ours, wanted, tmp_path / "ours", CAUSAL)


LIMITS: list[tuple[str, dict[str, Any], int]] = [
    ("chain", {"max_seq_length": 24}, 24),
    ("chain", {"max_seq_length": 60, "processing_kwargs": {"text": {"max_length": 24}}}, 24),
    ("chain", {"processing_kwargs": {"text": {"max_length": 60}, "common": {"max_length": 24}}}, 24),
    ("head", {"max_seq_length": 24}, 24),
    ("head", {"processing_kwargs": {"text": {"max_length": 24}}}, 24),
    ("rows", {"processing_kwargs": {"common": {"max_length": 220}}}, 220),
    ("rows", {"processing_kwargs": {"text": {"max_length": 220}, "common": {"max_length": 240}}}, 220),
    ("rows", {"processing_kwargs": {"chat_template": {"max_length": 220}, "text": {"max_length": 240}}}, 220),
]


@pytest.mark.parametrize(("kind", "said", "limit"), LIMITS)
def test_a_stored_limit_is_theirs(
    tiny_model_folder: Callable[..., str], kind: str, said: dict[str, Any], limit: int, tmp_path: Path
) -> None:
    """Wherever the file says it; scores of what is saved again are the same, there and here."""
    folder = tmp_path / "theirs"
    if kind == "chain":
        save_chain(folder, tiny_model_folder("modernbert"), CHAINS["ettin"][1]())
    elif kind == "head":
        sentence_transformers.CrossEncoder(tiny_model_folder("bert"), device="cpu").save_pretrained(str(folder))
    else:
        save_causal(folder, "qwen3")
    path = folder / "sentence_bert_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | said))
    wanted = sentence_transformers.CrossEncoder(str(folder), device="cpu").predict(PAIRS)
    ours = CrossEncoder(str(folder), device="cpu")
    assert ours.window == load(LoadRequest(folder)).token_limit == limit
    assert np.allclose(ours.predict(PAIRS), wanted, rtol=0, atol=CAUSAL if kind == "rows" else CHAIN)
    _round_trip(ours, wanted, tmp_path / "ours", CAUSAL if kind == "rows" else CHAIN)
    assert CrossEncoder(str(tmp_path / "ours"), device="cpu").window == limit


@pytest.mark.parametrize("template", ["qwen3-reranker", "ctxl-rerank-v2", "zerank"])
def test_a_template_of_ours_is_read_there(template: str, tmp_path: Path) -> None:
    """A plain model under a published template, saved here, gives the same logits there and here again."""
    folder = str(make_decoder(tmp_path / "plain", "qwen3", chat=None, length=512))
    ours = CrossEncoder(folder, device="cpu", template=template, true_token="yes", false_token="no")  # noqa: S106
    pairs = [('what is "the \\ capital"\n{{ city }}', "paris"), ("cat", "the café"), ("a", "")]
    ours.save(str(tmp_path / "saved"))
    theirs = sentence_transformers.CrossEncoder(str(tmp_path / "saved"), device="cpu")
    again = CrossEncoder(str(tmp_path / "saved"), device="cpu")
    wishes: list[dict[str, Any]] = [{}] if template == "zerank" else [{}, {"prompt": "look {% at %} it"}]
    for options in wishes:
        wanted = ours.predict(pairs, activation_fct=nn.Identity(), **options)
        assert again.predict(pairs, activation_fct=nn.Identity(), **options).tolist() == wanted.tolist()
        made = theirs.predict(pairs, activation_fn=nn.Identity(), **options)
        assert np.allclose(made, wanted, rtol=0, atol=CAUSAL)
    assert again.template == ours.template
