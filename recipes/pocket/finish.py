"""From trained student to the folder that travels in the package: calibrated, int8, with its tokenizer."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression

from recipes.pocket.corpora import read_corpus, read_qrels, read_queries
from recipes.pocket.groups import FirstPass
from secondpass import CrossEncoder
from secondpass.forwards.precision import CONFIG_KEY
from secondpass.models.building import save_compact

log = logging.getLogger(__name__)

CALIBRATION_SETS = ("squad", "medquad")
CALIBRATION_QUERIES = 150
CANDIDATES = 10

TOKENIZER_CONFIG = {
    "tokenizer_class": "BertTokenizer",
    "do_lower_case": True,
    "model_max_length": 512,
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def labelled_pairs(data: Path) -> tuple[list[str], list[str], list[int]]:
    """Queries, documents and labels: BM25's top ten of dev queries, the judged document among them."""
    queries, documents, labels = [], [], []
    for name in CALIBRATION_SETS:
        corpus = read_corpus(data, name)
        qrels = read_qrels(data, name, "dev")
        texts = read_queries(data, name)
        chosen = sorted(qrels)[:: max(1, len(qrels) // CALIBRATION_QUERIES)]
        rows, _ = FirstPass(corpus.texts).search([texts[query] for query in chosen], CANDIDATES)
        for query, found in zip(chosen, rows, strict=True):
            for row in found:
                queries.append(texts[query])
                documents.append(corpus.texts[row])
                labels.append(int(qrels[query].get(corpus.ids[row], 0) > 0))
    return queries, documents, labels


def calibrate(encoder: CrossEncoder, data: Path) -> None:
    """Fold a logistic fit (Platt 1999, classes balanced) into the head: 0.5 is then as likely relevant as not."""
    queries, documents, labels = labelled_pairs(data)
    pairs = list(zip(queries, documents, strict=True))
    logits = encoder.predict(pairs, activation_fct=torch.nn.Identity(), show_progress_bar=False)
    fit = LogisticRegression(class_weight="balanced", C=1e6).fit(logits.reshape(-1, 1), labels)
    scale, bias = float(fit.coef_[0, 0]), float(fit.intercept_[0])
    log.info("calibration: logit -> %.3f * logit %+.3f", scale, bias)
    with torch.no_grad():
        head = encoder.model.classifier
        head.weight *= scale
        head.bias.mul_(scale).add_(bias)


def write_tokenizer(tokenizer: Path, folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(tokenizer, folder / "tokenizer.json")
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG, indent=2) + "\n")


def write_stage(model: Any, tokenizer: Path, folder: Path) -> None:
    """A student between two stages, in float32: what the next one starts from. It is there whole or not at all."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    write_tokenizer(tokenizer, partial)
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)


def write_folder(model: Any, tokenizer: Path, folder: Path) -> None:
    """config.json, tokenizer.json, tokenizer_config.json and the int8 weights."""
    write_tokenizer(tokenizer, folder)
    config = {key: value for key, value in model.config.to_diff_dict().items() if key != "_name_or_path"}
    config |= {"architectures": ["BertForSequenceClassification"], "dtype": "float32"}
    config["sentence_transformers"] = {"activation_fn": "torch.nn.modules.activation.Sigmoid", "version": "4.1.0"}
    config[CONFIG_KEY] = {"precision": "auto"}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    save_compact(folder, model.state_dict())
    size = sum(file.stat().st_size for file in folder.iterdir())
    log.info("%s: %.2f MB", folder, size / 1e6)
