"""The evaluators inside `fit`: real training runs on small samples of labelled pairs, in which the figures rise."""

from __future__ import annotations

import csv
import random

import pytest
import torch
from torch.utils.data import DataLoader

from secondpass import CrossEncoder, InputExample
from secondpass.evaluation import (
    CEBinaryAccuracyEvaluator,
    CEBinaryClassificationEvaluator,
    CECorrelationEvaluator,
    CEF1Evaluator,
    CERerankingEvaluator,
    CESoftmaxAccuracyEvaluator,
)
from tests.tiny_models import make_folder
from tests.toy_task import QUERY, document, loader

CLASSES = ("entailment", "neutral", "contradiction")


def rows(folder, file, longest):
    """All [text, text, label] of a file whose texts have at most so many characters, in a random order."""
    lines = (folder / "pairs" / file).read_text(encoding="utf-8").splitlines()[1:]
    found = [row for row in (line.split("\t") for line in lines) if len(row[0]) + len(row[1]) <= longest]
    random.Random(0).shuffle(found)
    return found


def balanced(found, labels):
    """Take as many rows of each label as there are of the rarest, the labels in turn."""
    by_label = [[row for row in found if row[2] == label] for label in labels]
    return [row for group in zip(*by_label, strict=False) for row in group]


def examples(found, label_of):
    """Make examples of rows."""
    return [InputExample(texts=[first, second], label=label_of(label)) for first, second, label in found]


def train(encoder, data, evaluator, rate, folder=None, epochs=1):
    """Train in batches of six; gives all scores that the evaluator gave meanwhile."""
    scores = []
    torch.manual_seed(0)
    encoder.fit(
        DataLoader(data, 6, shuffle=True, generator=torch.Generator().manual_seed(0)),
        evaluator,
        epochs=epochs,
        warmup_steps=5,
        optimizer_params={"lr": rate},
        output_path=folder,
        show_progress_bar=False,
        callback=lambda score, epoch, steps: scores.append(score),
    )
    return scores


def written(path):
    """Read a results file: its rows by column."""
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def pocket():
    """The embedded model, for short texts."""
    return CrossEncoder("secondpass/pocket", max_length=40, device="cpu")


@pytest.fixture
def learner(tmp_path):
    """Make tiny random models that learn fast: no dropout, and weights small enough to be moved."""

    def make(num_labels):
        dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        encoder = CrossEncoder(str(make_folder(tmp_path / "learner", "bert", num_labels, **dropout)), device="cpu")
        with torch.no_grad():
            for weight in encoder.model.parameters():
                weight.mul_(0.3 if weight.dim() == 2 else 1.0)
        return encoder

    return make


def test_correlation_rises_on_stsb(pocket, data_folder, tmp_path):
    """Trained on some graded pairs, the model's scores follow the grades of other pairs better than before."""
    graded = {name: rows(data_folder, f"stsb/{name}.tsv", 160) for name in ("train", "dev")}
    seen, unseen = (examples(found[:180], lambda score: float(score) / 5) for found in graded.values())
    evaluator = CECorrelationEvaluator.from_input_examples(unseen)
    before = evaluator(pocket, str(tmp_path))
    (score,) = train(pocket, seen, evaluator, 1e-4, str(tmp_path))
    assert score > before
    found = [float(row["Spearman_Correlation"]) for row in written(tmp_path / "CECorrelationEvaluator_results.csv")]
    assert found == [before, score]


def test_average_precision_rises_on_qnli(pocket, data_folder, tmp_path):
    """Does this sentence answer the question? Trained on a hundred pairs, the model tells it of others better."""
    found = examples(rows(data_folder, "qnli/dev.tsv", 400)[:220], int)
    evaluator = CEBinaryClassificationEvaluator.from_input_examples(found[120:], name="qnli")
    before = evaluator(pocket, str(tmp_path))
    (score,) = train(pocket, found[:120], evaluator, 2e-4, str(tmp_path))
    assert score > before + 0.02
    first, second = written(tmp_path / "CEBinaryClassificationEvaluator_qnli_results.csv")
    assert (float(first["Average_Precision"]), float(second["Average_Precision"])) == (before, score)
    assert [(row["epoch"], row["steps"]) for row in (first, second)] == [("-1", "-1"), ("0", "-1")]


def test_pairs_of_mrpc_are_learnt(learner, data_folder):
    """A tiny random model learns the pairs that it is shown: from one label for all to the right one for most."""
    shown = examples(balanced(rows(data_folder, "mrpc/train.tsv", 150), "01")[:36], int)
    evaluator, encoder = CEBinaryAccuracyEvaluator.from_input_examples(shown), learner(1)
    assert evaluator(encoder) < 0.7
    train(encoder, shown, evaluator, 3e-3, epochs=16)
    assert encoder.best_score == evaluator(encoder) > 0.85


def test_three_classes_of_climate_fever_are_learnt(learner, data_folder, tmp_path):
    """A tiny random model learns what the evidence that it is shown says of a claim: macro F1 and accuracy rise."""
    encoder = learner(3)
    shown = examples(balanced(rows(data_folder, "climate-fever/train.tsv", 150), CLASSES)[:36], CLASSES.index)
    evaluator = CEF1Evaluator.from_input_examples(shown, name="claims")
    accuracy = CESoftmaxAccuracyEvaluator.from_input_examples(shown)
    assert max(evaluator(encoder), accuracy(encoder)) < 0.5
    scores = train(encoder, shown, evaluator, 3e-3, str(tmp_path), epochs=16)
    assert [float(row["Macro F1 score"]) for row in written(tmp_path / "CEF1Evaluator_claims_results.csv")] == scores
    assert evaluator(encoder) == max(scores) > 0.8
    assert accuracy(encoder) > 0.8


def test_ranking_is_learnt_and_the_best_model_saved(learner, tmp_path):
    """A tiny model learns to put unseen relevant documents first; the saved one has the MRR that was the best."""
    draw, encoder = random.Random(1), learner(1)
    samples = [
        {"query": QUERY, "positive": document(1, draw), "documents": [document(0, draw) for _ in range(4)]}
        for _ in range(12)
    ]
    evaluator = CERerankingEvaluator(samples)
    assert evaluator(encoder) < 0.9
    options = {"optimizer_params": {"lr": 3e-3}, "warmup_steps": 0, "show_progress_bar": False}
    torch.manual_seed(0)
    encoder.fit(loader(160, 8), evaluator, epochs=3, evaluation_steps=10, output_path=str(tmp_path), **options)
    found = written(tmp_path / "CERerankingEvaluator_results_@10.csv")
    assert [(row["epoch"], row["steps"]) for row in found] == [(e, s) for e in "012" for s in ("10", "20", "-1")]
    assert encoder.best_score == max(float(row["MRR@10"]) for row in found) > 0.95
    assert evaluator(CrossEncoder(str(tmp_path), device="cpu")) == encoder.best_score
