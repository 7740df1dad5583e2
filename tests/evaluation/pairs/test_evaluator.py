"""evaluator: what all six have in common: signatures, log lines, the file, examples as input."""

from __future__ import annotations

import inspect
import logging

import pytest

import secondpass.evaluation
from secondpass import InputExample
from secondpass.errors import InvalidInput
from secondpass.evaluation import (
    CEBinaryAccuracyEvaluator,
    CEBinaryClassificationEvaluator,
    CECorrelationEvaluator,
    CEF1Evaluator,
    CERerankingEvaluator,
    CESoftmaxAccuracyEvaluator,
)
from tests.given_scores import PAIRS, GivenScores

NONE = inspect.Parameter.empty
SEED = {
    CEBinaryAccuracyEvaluator: {
        "sentence_pairs": NONE,
        "labels": NONE,
        "name": "",
        "threshold": 0.5,
        "write_csv": True,
    },
    CEBinaryClassificationEvaluator: {
        "sentence_pairs": NONE,
        "labels": NONE,
        "name": "",
        "show_progress_bar": False,
        "write_csv": True,
    },
    CECorrelationEvaluator: {"sentence_pairs": NONE, "scores": NONE, "name": "", "write_csv": True},
    CEF1Evaluator: {"sentence_pairs": NONE, "labels": NONE},
    CESoftmaxAccuracyEvaluator: {"sentence_pairs": NONE, "labels": NONE, "name": "", "write_csv": True},
    CERerankingEvaluator: {"samples": NONE, "at_k": 10, "name": "", "write_csv": True, "mrr_at_k": None},
}
OF_PAIRS = [evaluator for evaluator in SEED if evaluator is not CERerankingEvaluator]


@pytest.mark.parametrize("evaluator", SEED)
def test_constructors_are_the_seeds(evaluator):
    """Names, order and defaults of what can be given by position are those of sentence-transformers 3.4."""
    parameters = inspect.signature(evaluator).parameters.values()
    by_position = {item.name: item.default for item in parameters if item.kind is item.POSITIONAL_OR_KEYWORD}
    assert list(by_position.items()) == list(SEED[evaluator].items())


def test_f1_has_keywords_only():
    """As in the seed, all options of CEF1Evaluator are keywords."""
    parameters = inspect.signature(CEF1Evaluator).parameters.values()
    keywords = {item.name: item.default for item in parameters if item.kind is item.KEYWORD_ONLY}
    assert keywords == {"batch_size": 32, "show_progress_bar": False, "name": "", "write_csv": True}


@pytest.mark.parametrize("evaluator", SEED)
def test_calls_are_the_seeds(evaluator):
    """(model, output_path=None, epoch=-1, steps=-1)."""
    parameters = list(inspect.signature(evaluator.__call__).parameters.values())[1:]
    assert [(item.name, item.default) for item in parameters] == [
        ("model", NONE),
        ("output_path", None),
        ("epoch", -1),
        ("steps", -1),
    ]


def test_the_package_exports_them():
    """`from secondpass.evaluation import *` has the six by the names they have in their modules."""
    assert secondpass.evaluation.__all__ == sorted(secondpass.evaluation.__all__)
    assert {evaluator.__name__ for evaluator in SEED} <= set(secondpass.evaluation.__all__)
    assert all(evaluator.__name__ == evaluator.title for evaluator in SEED)


@pytest.mark.parametrize(
    ("epoch", "steps", "suffix"),
    [(-1, -1, ":"), (-1, 5, ":"), (0, -1, " after epoch 0:"), (2, 100, " in epoch 2 after 100 steps:")],
)
def test_what_is_measured_when_is_logged(epoch, steps, suffix, caplog):
    """The first line names the evaluator, the data and the moment."""
    caplog.set_level(logging.INFO)
    CEBinaryAccuracyEvaluator(PAIRS[:2], [1, 0], "dev")(GivenScores([1, 0]), epoch=epoch, steps=steps)
    assert caplog.messages == [
        f"CEBinaryAccuracyEvaluator: Evaluating the model on dev dataset{suffix}",
        "Accuracy: 100.00",
    ]


def test_the_file_grows_with_each_call(tmp_path):
    """A call with a folder appends a row; one without, or with write_csv=False, writes nothing."""
    model, data = GivenScores([1, 0]), (PAIRS[:2], [1, 1])
    evaluator = CEBinaryAccuracyEvaluator(*data, "dev")
    assert type(evaluator(model)) is float
    CEBinaryAccuracyEvaluator(*data, write_csv=False)(model, str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    evaluator(model, str(tmp_path), 0, 50)
    evaluator(model, tmp_path, 0, -1)
    assert [path.name for path in tmp_path.iterdir()] == [evaluator.csv_file]
    assert (tmp_path / evaluator.csv_file).read_bytes() == b"epoch,steps,Accuracy\r\n0,50,0.5\r\n0,-1,0.5\r\n"


@pytest.mark.parametrize("evaluator", OF_PAIRS)
def test_examples_are_pairs_with_labels(evaluator):
    """`from_input_examples` takes texts and labels out of examples, and keywords of the constructor."""
    examples = (InputExample(texts=pair, label=number % 2) for number, pair in enumerate(PAIRS[:4]))
    made = evaluator.from_input_examples(examples, name="dev")
    assert isinstance(made, evaluator)
    assert made.sentence_pairs == PAIRS[:4]
    assert made.name == "dev"
    assert (made.scores if evaluator is CECorrelationEvaluator else made.labels).tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("evaluator", OF_PAIRS)
def test_nothing_to_evaluate_on_is_refused_at_once(evaluator):
    """Without pairs no figure exists, so none is made up later."""
    for make in (lambda: evaluator([], []), lambda: evaluator.from_input_examples([])):
        with pytest.raises(InvalidInput, match="sentence_pairs is empty"):
            make()


def test_an_example_without_texts_is_named():
    """InputExample() has no texts."""
    with pytest.raises(InvalidInput, match=r"sentence_pairs\[1\] is NoneType"):
        CESoftmaxAccuracyEvaluator.from_input_examples([InputExample(texts=["a", "b"]), InputExample()])
