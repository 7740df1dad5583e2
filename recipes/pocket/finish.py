"""From trained student to the folder that travels in the package: calibrated, in few bits, with its tokenizer."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recipes.pocket.evaluate import Exam, Scores
from recipes.pocket.teachers import TOKENIZER_CONFIG
from secondpass import CrossEncoder
from secondpass.forwards.precision import CONFIG_KEY
from secondpass.models.building import compressed, expanded, save_compact
from secondpass.models.chains import write_modules
from secondpass.models.config import write_activation
from secondpass.models.folders import put_in_place
from secondpass.models.weights import GROUP

log = logging.getLogger(__name__)

# Of words, and of what layers multiply by; all else keeps eight. Words in 4 bits cost a bi-encoder nothing where few
# share a scale; 6 bits of a layer make twice the error of 7.
WORD_BITS, LAYER_BITS = 4, 7
WORDS = "word_embeddings.weight"
# Of BM25's order: what a user looks at.
CANDIDATES = 10


@dataclass(frozen=True)
class Temperature:
    """P(relevant) is the sigmoid of `scale` times the logit plus `bias`."""

    scale: float
    bias: float

    @property
    def inverse(self) -> Temperature:
        """What takes it back."""
        return Temperature(1 / self.scale, -self.bias / self.scale)


def temperature(exams: Sequence[Exam], scores: Sequence[Scores]) -> Temperature:
    """A logistic fit (Platt 1999) of the judgements on BM25's first ten, every collection counting the same."""
    from sklearn.linear_model import LogisticRegression

    logits: list[float] = []
    labels: list[int] = []
    weights: list[float] = []
    for own, found in zip(exams, scores, strict=True):
        ids, before = own.collection.corpus.ids, len(logits)
        for task in own.tasks:
            grades = own.collection.qrels[task.query_id]
            for row, logit in list(zip(task.rows, found[task.query_id], strict=True))[:CANDIDATES]:
                logits.append(logit)
                labels.append(int(grades.get(ids[row], 0) > 0))
        weights += [1 / (len(logits) - before)] * (len(logits) - before)
    share = np.asarray(weights) * len(weights) / sum(weights)
    fit = LogisticRegression(C=1e6).fit(np.asarray(logits)[:, None], labels, share)
    return Temperature(float(fit.coef_[0, 0]), float(fit.intercept_[0]))


def calibrate(encoder: CrossEncoder, own: Temperature) -> None:
    """Put it into what compares: the score then is the probability."""
    log.info("calibration: logit -> %.3f * logit %+.3f", own.scale, own.bias)
    with torch.no_grad():
        scales = encoder.model.readout.late.scales
        scales *= own.scale
        scales[2] += own.bias


def bits_of(weights: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """By name, of the matrices that are stored in less than eight."""
    return {
        name: WORD_BITS if name.endswith(WORDS) else LAYER_BITS
        for name, weight in weights.items()
        if weight.ndim == 2 and not weight.shape[1] % GROUP and (name.endswith(WORDS) or ".layer." in name)
    }


def round_words(model: Any) -> None:
    """Make the words what they will be read back as, so that training knows them so."""
    weights = {name: weight for name, weight in model.state_dict().items() if name.endswith(WORDS)}
    model.load_state_dict(expanded(compressed(weights, bits_of(weights))), strict=False)


def hold_words(model: Any) -> None:
    """Let training leave the words as they are: rounded to few bits already, and rare ones as the frequent ones."""
    model.base_model.embeddings.word_embeddings.weight.requires_grad_(False)


def write_tokenizer(tokenizer: Path, folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(tokenizer, folder / "tokenizer.json")
    # transformers' BertTokenizer puts pairs together in its own way, whatever the file says
    read = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
    config = TOKENIZER_CONFIG | {"tokenizer_class": "PreTrainedTokenizerFast"} | read
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def write_chain(model: Any, folder: Path) -> None:
    """What says that a score is made of the body's states, and how."""
    write_modules(folder, model)
    write_activation(folder, "torch.nn.modules.activation.Sigmoid")


def write_stage(model: Any, tokenizer: Path, folder: Path) -> None:
    """A student between two stages, in float32: what the next one starts from. It is there whole or not at all."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.body.save_pretrained(partial)
    write_tokenizer(tokenizer, partial)
    write_chain(model, partial)
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)


def write_folder(model: Any, tokenizer: Path, folder: Path) -> None:
    """config.json, tokenizer.json, tokenizer_config.json and the compact weights; what else is there stays.

    They are written beside the folder and put in their places at the end, the weights last.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_tokenizer(tokenizer, partial)
    config = {key: value for key, value in model.config.to_diff_dict().items() if key != "_name_or_path"}
    config |= {"architectures": ["BertModel"], "dtype": "float32"}
    config[CONFIG_KEY] = {"precision": "auto"}
    (partial / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    weights = {name: weight for name, weight in model.body.state_dict().items() if not name.startswith("pooler.")}
    save_compact(partial, weights, bits_of(weights))
    write_chain(model, partial)
    log.info("%s: %.2f MB", folder, sum(file.stat().st_size for file in partial.rglob("*") if file.is_file()) / 1e6)
    folder.mkdir(parents=True, exist_ok=True)
    put_in_place(partial, folder)
    shutil.rmtree(partial, ignore_errors=True)
