"""evaluator: what all six have in common: signatures, log lines, the file, examples as input."""

from __future__ import annotations

import inspect
import logging
import math
import sys

import numpy as np
import pytest
import torch

import secondpass.evaluation
from secondpass import InputExample
from secondpass.errors import CheckpointError, InvalidInput, MissingExtra, NonFiniteScore
from secondpass.evaluation import (
    CEBinaryAccuracyEvaluator,
    CEBinaryClassificationEvaluator,
    CECorrelationEvaluator,
    CEF1Evaluator,
    CERerankingEvaluator,
    CESoftmaxAccuracyEvaluator,
)
from secondpass.evaluation.pairs.evaluator import (
    append_row,
    binary_labels,
    checked_pairs,
    class_labels,
    class_scores,
    file_name,
    gold_scores,
    predicted_labels,
    single_scores,
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


def evaluator(scores, **options):
    """One on as many pairs as there are labels or scores."""
    return CECorrelationEvaluator(PAIRS[: len(scores)], scores, **options)


@pytest.mark.parametrize(
    ("known", "given", "pearson", "spearman"),
    [
        ([1, 2, 3, 4], [0.125, 0.25, 0.5, 0.375], 0.8, 0.8),  # 0.5 / sqrt(5 * 0.078125); 1 - 6 * 2 / 60
        ([1, 2, 3], [1, 10, 100], 99 / math.sqrt(2 * 5994), 1.0),  # a rising order, whatever the steps
        ([1, 2, 3, 4], [1, 1, 2, 3], 3.5 / math.sqrt(13.75), 4.5 / math.sqrt(22.5)),  # equal scores share their ranks
        ([5, 1], [0.25, 0.75], -1.0, -1.0),
    ],
)
def test_values(known, given, pearson, spearman):
    """Pearson's and Spearman's correlation by hand."""
    found = evaluator(known).measure(GivenScores(given))
    assert found == pytest.approx({"Pearson_Correlation": pearson, "Spearman_Correlation": spearman}, abs=1e-7)
    assert {type(value) for value in found.values()} == {float}


def test_file_and_log(tmp_path, caplog):
    """Name, columns, row and log lines byte for byte; Spearman's comes back."""
    caplog.set_level(logging.INFO)
    made = evaluator([0, 1, 2], name="sts")
    assert made(GivenScores([1, 4, 9]), str(tmp_path)) == 1.0
    pearson = made.measure(GivenScores([1, 4, 9]))["Pearson_Correlation"]
    assert pearson == pytest.approx(8 / math.sqrt(2 * 98 / 3))
    file = tmp_path / "CECorrelationEvaluator_sts_results.csv"
    assert file.read_bytes() == (
        b"epoch,steps,Pearson_Correlation,Spearman_Correlation\r\n" + f"-1,-1,{pearson!r},1.0\r\n".encode()
    )
    assert caplog.messages == [
        "CECorrelationEvaluator: Evaluating the model on sts dataset:",
        "Correlation:\tPearson: 0.9897\tSpearman: 1.0000",
    ]


@pytest.mark.parametrize(("known", "given", "whose"), [([1, 2], [0.5, 0.5], "model's"), ([2, 2], [0.5, 0.25], "known")])
def test_constant_scores_have_no_correlation(known, given, whose, tmp_path, caplog):
    """NaN comes back and into the file, and the log says why; no warning leaves scipy."""
    assert math.isnan(evaluator(known)(GivenScores(given), tmp_path))
    assert [message for message in caplog.messages if f"all {whose} scores are" in message] == caplog.messages != []
    assert (tmp_path / "CECorrelationEvaluator_results.csv").read_bytes().endswith(b"\r\n-1,-1,nan,nan\r\n")


def test_nearly_constant_scores():
    """Scores that differ in their last digit only have a rank correlation; no warning leaves scipy."""
    given = GivenScores([1, np.nextafter(1, 2), np.nextafter(1, 0)], np.float64)
    assert evaluator([2, 3, 1])(given) == pytest.approx(1.0)


def test_nan_scores_are_refused():
    """No correlation is made of NaN."""
    with pytest.raises(NonFiniteScore, match=r"sentence_pairs\[2\]"):
        evaluator([1, 2, 3])(GivenScores([0.5, 0.25, math.nan]))


def test_one_pair_is_refused():
    """A correlation needs two pairs."""
    with pytest.raises(InvalidInput, match="a correlation needs two"):
        evaluator([1])


TWO = [["a", "b"], ["c", "d"]]


@pytest.mark.parametrize("rows", [TWO, [("a", "b"), ("c", "d")], iter(TWO), np.array(TWO)])
def test_pairs_come_in_any_sequence(rows):
    """Lists, tuples, generators and arrays of pairs are the same pairs."""
    assert checked_pairs(rows) == TWO


def test_single_texts_are_rows_too():
    """A model that takes one text can be evaluated."""
    assert checked_pairs([["a"], ["b"]]) == [["a"], ["b"]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "sentence_pairs is empty"),
        ("ab", "sentence_pairs is str"),
        ({"a": "b"}, "sentence_pairs is dict"),
        (["a", "b"], r"sentence_pairs\[0\] is str"),
        ([["a", "b"], None], r"sentence_pairs\[1\] is NoneType"),
        ([["a", "b", "c"]], r"sentence_pairs\[0\] has 3 texts"),
        ([["a", "b"], ["c"]], r"sentence_pairs\[1\] has 1 texts where sentence_pairs\[0\] has 2"),
        ([["a", "b"], ["c", 7]], r"sentence_pairs\[1\]\[1\] is int, not str"),
    ],
)
def test_what_is_no_pair_is_named(rows, message):
    """No pairs, or a row that is none, is refused with its index."""
    with pytest.raises(InvalidInput, match=message):
        checked_pairs(rows)


@pytest.mark.parametrize(
    "labels", [[1, 0], (1.0, 0.0), [True, False], np.array([1, 0]), [np.float32(1), np.array([0])], iter([1, 0])]
)
def test_labels_come_in_any_sequence(labels):
    """Lists, arrays and numpy's numbers are the same labels, int64."""
    found = binary_labels(labels, TWO)
    assert found.tolist() == [1, 0]
    assert found.dtype == np.int64


@pytest.mark.parametrize("function", [binary_labels, class_labels, gold_scores])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1], r"2 sentence_pairs, but 1 (labels|scores)"),
        ([1, 0, 1], r"2 sentence_pairs, but 3 (labels|scores)"),
        ([1, "0"], r"(labels|scores)\[1\] is str, not a number"),
        ([1, None], r"(labels|scores)\[1\] is NoneType, not a number"),
        ([1, [0, 1]], r"(labels|scores)\[1\] is list, not a number"),
        ([np.array([1, 0]), 1], r"(labels|scores)\[0\] is ndarray, not a number"),
        ([1, math.nan], r"(labels|scores)\[1\] is nan"),
        ("10", r"(labels|scores) is str"),
    ],
)
def test_labels_that_are_none(function, values, message):
    """There is a number for each pair, or the index of what is none is told."""
    with pytest.raises(InvalidInput, match=message):
        function(values, TWO)


@pytest.mark.parametrize(
    ("make", "missing"),
    [
        (lambda: CEBinaryClassificationEvaluator(TWO, [1, 0]), "sklearn.metrics"),
        (lambda: CEF1Evaluator(TWO, [1, 0]), "sklearn.metrics"),
        (lambda: CERerankingEvaluator([{"query": "a", "positive": "b", "negative": "c"}]), "sklearn.metrics"),
        (lambda: CECorrelationEvaluator(TWO, [1, 0]), "scipy.stats"),
    ],
)
def test_a_missing_library_is_told_when_the_evaluator_is_made(make, missing, monkeypatch):
    """Not after the first epoch of a training."""
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtra, match=r'pip install "secondpass\[eval\]"'):
        make()


def test_plain_accuracy_needs_no_library(monkeypatch):
    """It is a share, of one label and of several."""
    for missing in ("sklearn.metrics", "scipy.stats"):
        monkeypatch.setitem(sys.modules, missing, None)
    assert CEBinaryAccuracyEvaluator(TWO, [1, 1])(GivenScores([0.9, 0.1])) == 0.5
    assert CESoftmaxAccuracyEvaluator(TWO, [2, 0])(GivenScores([[0.0, 0.1, 0.9], [0.5, 0.2, 0.1]])) == 1.0


@pytest.mark.parametrize("label", [2, -1, 0.5])
def test_binary_labels_are_0_and_1(label):
    """Any other number is refused by its index."""
    with pytest.raises(InvalidInput, match=rf"labels\[1\] is {label}, neither 0 nor 1"):
        binary_labels([0, label], TWO)


@pytest.mark.parametrize("label", [-1, 0.5, math.inf, 2**40])
def test_classes_are_whole_numbers_from_0(label):
    """Any other number is refused by its index."""
    assert class_labels([0, 7], TWO).tolist() == [0, 7]
    with pytest.raises(InvalidInput, match=r"labels\[1\] is .*, not the index of a class"):
        class_labels([0, label], TWO)


def test_scores_are_any_finite_numbers():
    """Negative and large ones too; infinity is refused."""
    assert gold_scores([-1.5, 1e300], TWO).tolist() == [-1.5, 1e300]
    with pytest.raises(InvalidInput, match=r"scores\[0\] is inf, not a finite number"):
        gold_scores([math.inf, 1], TWO)


TWO_PREDICTIONS = PAIRS[:2]


class Gives:
    """A model that gives an object as it is."""

    def __init__(self, given):
        self.given = given

    def predict(self, sentences, **options):
        return self.given


def test_the_model_is_asked_for_an_array():
    """`predict` gets the pairs, convert_to_numpy=True and the options."""
    model = GivenScores([0.25, 0.5])
    single_scores(model, TWO_PREDICTIONS, show_progress_bar=False)
    assert model.calls == [(TWO_PREDICTIONS, {"convert_to_numpy": True, "show_progress_bar": False})]


def test_our_engine_and_the_evaluators_fit(tiny, tiny_model_folder):
    """A CrossEncoder with one label gives single scores, one with three gives scores by class."""
    from secondpass import CrossEncoder

    assert single_scores(tiny, TWO_PREDICTIONS).tolist() == tiny.predict(TWO_PREDICTIONS).tolist()
    assert class_scores(CrossEncoder(tiny_model_folder("bert", 3), device="cpu"), TWO_PREDICTIONS).shape == (2, 3)


@pytest.mark.parametrize(
    "given",
    [[0.25, 0.5], np.array([[0.25], [0.5]]), torch.tensor([0.25, 0.5]), [torch.tensor(0.25), torch.tensor(0.5)]],
)
def test_other_models_scores(given):
    """Lists, columns and tensors are the same scores."""
    assert single_scores(Gives(given), TWO_PREDICTIONS).tolist() == [0.25, 0.5]


def test_the_models_precision_is_kept():
    """float32 stays float32, whole numbers become float64."""
    assert single_scores(Gives(np.float32([1, 2])), TWO_PREDICTIONS).dtype == np.float32
    assert single_scores(Gives([1, 2]), TWO_PREDICTIONS).dtype == np.float64


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([0.5], r"shape \(1,\) for 2 pairs"),
        (0.5, r"shape \(\) for 2 pairs"),
        (["a", "b"], "not numbers"),
        ([[0.5], [0.5, 0.5]], "list, which numpy cannot read"),
        ([[0.5, 0.5], [0.5, 0.5]], r"shape \(2, 2\): this evaluator needs a model with one label"),
    ],
)
def test_scores_of_another_shape(given, message):
    """One number for each pair, or the error says what came instead."""
    with pytest.raises(InvalidInput, match=message):
        single_scores(Gives(given), TWO_PREDICTIONS)


@pytest.mark.parametrize("given", [[0.5, 0.5], [[0.5], [0.5]]])
def test_a_model_with_one_label_has_no_classes(given):
    """An evaluator of classes says that it needs two labels at least."""
    with pytest.raises(InvalidInput, match="needs a model with two labels or more"):
        class_scores(Gives(given), TWO_PREDICTIONS)


def test_scores_that_are_not_finite():
    """NaN and infinity are refused with the pairs' names and positions; of many the first five are named."""
    with pytest.raises(NonFiniteScore, match=r"for sentence_pairs\[1\], sentence_pairs\[2\]$") as caught:
        single_scores(Gives([0.5, math.nan, math.inf]), PAIRS[:3])
    assert caught.value.indices == (1, 2)
    with pytest.raises(NonFiniteScore, match=r"sentence_pairs\[4\] and 2 more$"):
        single_scores(Gives([math.nan] * 7), PAIRS[:7])
    with pytest.raises(NonFiniteScore, match=r"for sentence_pairs\[1\]$"):
        class_scores(Gives([[0.5, 0.5], [0.5, -math.inf]]), TWO_PREDICTIONS)


def test_the_highest_score_is_the_prediction():
    """Of equal scores the first label wins."""
    scores = np.array([[0.1, 0.9, 0.0], [0.4, 0.2, 0.4]])
    assert predicted_labels(scores, np.array([0, 2])).tolist() == [1, 0]


def test_a_label_that_the_model_lacks():
    """It could never be predicted, so it is refused by its index."""
    with pytest.raises(InvalidInput, match=r"labels\[1\] is 2, but the model has 2 labels"):
        predicted_labels(np.zeros((2, 2)), np.array([0, 2]))


HEADERS = ["epoch", "steps", "Accuracy"]
BEGIN = b"epoch,steps,Accuracy\r\n"


def test_names():
    """The evaluator, the name if there is one, and the ending."""
    assert file_name("CEF1Evaluator", "") == "CEF1Evaluator_results.csv"
    assert file_name("CEF1Evaluator", "dev set") == "CEF1Evaluator_dev set_results.csv"
    assert file_name("CERerankingEvaluator", "dev", "_@10") == "CERerankingEvaluator_dev_results_@10.csv"


@pytest.mark.parametrize("name", ["a/b", "a\\b", "..\\a", "a\0", "a\nb", None, 7])
def test_names_that_are_no_file_names(name):
    """A name cannot lead out of the folder."""
    with pytest.raises(InvalidInput, match="cannot stand in a file name"):
        file_name("CEF1Evaluator", name)


def test_rows_are_appended_below_one_header(tmp_path):
    """The folder is made, the header stands once, numbers are written in full."""
    folder = tmp_path / "deep" / "folder"
    append_row(folder, "r.csv", HEADERS, [0, 100, 1 / 3])
    assert (folder / "r.csv").read_bytes() == BEGIN + b"0,100,0.3333333333333333\r\n"
    append_row(str(folder), "r.csv", HEADERS, [0, -1, float("nan")])
    assert (folder / "r.csv").read_bytes() == BEGIN + b"0,100,0.3333333333333333\r\n0,-1,nan\r\n"


def test_headers_with_commas_are_found_again(tmp_path):
    """What CSV quotes when it writes, it reads the same."""
    for _ in range(2):
        append_row(tmp_path, "r.csv", ["epoch", 'a, "b"'], [0, 1])
    assert (tmp_path / "r.csv").read_bytes() == b'epoch,"a, ""b"""\r\n0,1\r\n0,1\r\n'


@pytest.mark.parametrize("begun", [BEGIN, b"epoch,steps,Accuracy\n", b"\xef\xbb\xbf" + BEGIN])
def test_a_file_of_another_program_goes_on(begun, tmp_path):
    """The same columns count as the same, whatever the line ends and with a byte order mark."""
    (tmp_path / "r.csv").write_bytes(begun + b"0,1,0.5\n")
    append_row(tmp_path, "r.csv", HEADERS, [0, 2, 0.75])
    assert (tmp_path / "r.csv").read_bytes() == begun + b"0,1,0.5\n0,2,0.75\r\n"


def test_an_empty_file_begins(tmp_path):
    """A file without content gets the header."""
    (tmp_path / "r.csv").touch()
    append_row(tmp_path, "r.csv", HEADERS, [0, 1, 0.5])
    assert (tmp_path / "r.csv").read_bytes() == BEGIN + b"0,1,0.5\r\n"


@pytest.mark.parametrize("other", [b"epoch,steps,MRR@10\r\n", b"\r\n", b"\xff\xfe\x00"])
def test_other_columns_are_not_mixed(other, tmp_path):
    """A file with other columns is refused by name and stays as it is."""
    (tmp_path / "r.csv").write_bytes(other)
    with pytest.raises(InvalidInput, match=r"r\.csv has columns .*, not epoch,steps,Accuracy"):
        append_row(tmp_path, "r.csv", HEADERS, [0, 1, 0.5])
    assert (tmp_path / "r.csv").read_bytes() == other


def test_where_nothing_can_be_written(tmp_path):
    """A path that is a file, and a file that is a folder, are CheckpointErrors that name the path."""
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        append_row(tmp_path / "file", "r.csv", HEADERS, [0, 1, 0.5])
    (tmp_path / "r.csv").mkdir()
    with pytest.raises(CheckpointError, match=r"r\.csv cannot be written"):
        append_row(tmp_path, "r.csv", HEADERS, [0, 1, 0.5])


def test_defaults_and_order_of_arguments():
    """The arguments are guid, texts and label, in that order, all optional."""
    parameters = inspect.signature(InputExample).parameters
    assert {name: parameter.default for name, parameter in parameters.items()} == {
        "guid": "",
        "texts": None,
        "label": 0,
    }
    example = InputExample("a", ["q", "d"], 0.5)
    assert (example.guid, example.texts, example.label) == ("a", ["q", "d"], 0.5)


def test_attributes_may_be_changed():
    """An example is a plain mutable object."""
    example = InputExample()
    example.texts, example.label = ["q", "d"], 1
    assert (example.texts, example.label) == (["q", "d"], 1)


def test_str():
    """str() shows the label and the texts, and works without texts."""
    assert str(InputExample(texts=["q", "d"], label=1)) == "<InputExample> label: 1, texts: q; d"
    assert str(InputExample()) == "<InputExample> label: 0, texts: "
