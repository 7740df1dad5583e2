"""What all evaluators do around their figures: say what is measured, log the figures, keep them in a file."""

from __future__ import annotations

import csv
import io
import logging
import math
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import CheckpointError, InvalidInput, NonFiniteScore
from secondpass.evaluation.measures import scipy_stats
from secondpass.text import checked, materialised, width_of

if TYPE_CHECKING:
    from typing import Self


# ---- The CSV file that an evaluator appends a row to after each evaluation.
Value = int | float | str


def file_name(evaluator: str, name: str, ending: str = "") -> str:
    """EVALUATOR[_NAME]_results[ENDING].csv.

    Raises:
        InvalidInput: `name` cannot be a part of a file name.
    """
    if not isinstance(name, str) or any(mark in name for mark in "/\\\0\r\n"):
        raise InvalidInput(f"name={name!r} cannot stand in a file name")
    return f"{evaluator}{'_' + name if name else ''}_results{ending}.csv"


def append_row(folder: str | os.PathLike[str], file: str, headers: Sequence[str], row: Sequence[Value]) -> None:
    """Add a row to the file in the folder; both are made if missing, a new file begins with the headers.

    Raises:
        InvalidInput: the file has other headers; it is left as it is.
        CheckpointError: the folder or the file cannot be written.
    """
    path = Path(folder) / file
    try:
        os.makedirs(folder, exist_ok=True)
        rows = [row] if _begun(path, headers) else [headers, row]
        text = io.StringIO(newline="")
        csv.writer(text).writerows(rows)
        # One write, so that a process that is stopped, or another that appends, leaves whole rows.
        with path.open("a", encoding="utf-8", newline="") as stream:
            stream.write(text.getvalue())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror}") from error


def _begun(path: Path, headers: Sequence[str]) -> bool:
    """Tell if the file has its headers already."""
    if not path.exists() or not path.stat().st_size:
        return False
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        found = next(csv.reader(stream), [])
    if found != list(headers):
        raise InvalidInput(f"{path} has columns {','.join(found)}, not {','.join(headers)}: move it away")
    return True


# ---- One labelled training example, as the seed has it.
class InputExample:
    """Texts that belong together and their label.

    Args:
        guid: the caller's name for the example; error messages repeat it.
        texts: [query, document], or one text.
        label: a number for a model with one label, else the index of the class; a list of numbers where a loss of your
            own takes that.
    """

    def __init__(
        self, guid: str = "", texts: list[str] | None = None, label: int | float | Sequence[float] = 0
    ) -> None:
        self.guid = guid
        self.texts = texts
        self.label = label

    def __str__(self) -> str:
        return f"<InputExample> label: {self.label}, texts: {'; '.join(self.texts or ())}"


logger = logging.getLogger(__name__)


class Evaluator(ABC):
    """Measures a model; called by `fit` and by hand.

    Args:
        name: of the data; it stands in log lines and in the file's name.
        write_csv: append the figures to a file in `output_path`.
        columns: figures that go into the file.
        returned: the one that a call returns; None takes the first column's.
        ending: of the file's name.

    Raises:
        InvalidInput: `name` cannot be a part of a file name.
    """

    title: ClassVar[str]

    def __init__(
        self, name: str, write_csv: bool, columns: Sequence[str], returned: str | None = None, ending: str = ""
    ) -> None:
        self.name = name
        self.write_csv = write_csv
        self.csv_file = file_name(self.title, name, ending)
        self.csv_headers = ["epoch", "steps", *columns]
        self.returned = returned or columns[0]

    @abstractmethod
    def measure(self, model: Any) -> dict[str, float]:
        """All figures of the model by their names."""

    @abstractmethod
    def _lines(self, figures: Mapping[str, float]) -> Iterable[str]:
        """What is logged."""

    def __call__(
        self, model: Any, output_path: str | os.PathLike[str] | None = None, epoch: int = -1, steps: int = -1
    ) -> float:
        """Measure the model.

        Args:
            model: anything with `predict(pairs, convert_to_numpy=, show_progress_bar=)`.
            output_path: folder of the results file; made if missing. None writes nothing.
            epoch: -1 outside of training.
            steps: in the epoch; -1 at its end.

        Raises:
            InvalidInput: the model's scores have another shape, or the results file has other columns.
            NonFiniteScore: a score is NaN or infinite.
            CheckpointError: the results file cannot be written.
        """
        logger.info("%s: Evaluating the model on %s dataset%s:", self.title, self.name, _moment(epoch, steps))
        figures = self.measure(model)
        for line in self._lines(figures):
            logger.info("%s", line)
        if output_path is not None and self.write_csv:
            row = [epoch, steps, *(figures[column] for column in self.csv_headers[2:])]
            append_row(output_path, self.csv_file, self.csv_headers, row)
        return figures[self.returned]


class PairEvaluator(Evaluator):
    """An evaluator on labelled pairs of texts."""

    sentence_pairs: list[list[str]]

    @classmethod
    def from_input_examples(cls, examples: Iterable[InputExample], **kwargs: Any) -> Self:
        """An evaluator on the examples' texts and labels; keyword arguments are the constructor's."""
        given = list(examples)
        # Not `cls`: the constructors that users call take pairs and labels, this class's own does not.
        construct: Callable[..., Self] = cls
        return construct([example.texts for example in given], [example.label for example in given], **kwargs)

    def _lines(self, figures: Mapping[str, float]) -> Iterable[str]:
        return [f"{name}: {value * 100:.2f}" for name, value in figures.items()]


def _moment(epoch: int, steps: int) -> str:
    if epoch == -1:
        return ""
    return f" after epoch {epoch}" if steps == -1 else f" in epoch {epoch} after {steps} steps"


# ---- Pairs of texts and what is known about each: 0 or 1, the index of a class, or a score.
def checked_pairs(sentence_pairs: object) -> list[list[str]]:
    """Rows of two texts each (or of one text each, for a model that takes one).

    Raises:
        InvalidInput: there are none, or one has another form; the message gives the index.
    """
    rows: list[Any] = materialised(sentence_pairs, "sentence_pairs", "a sequence of pairs")
    if not rows:
        raise InvalidInput("sentence_pairs is empty: there is nothing to evaluate on")
    pairs = []
    for index, row in enumerate(rows):
        width_of(row, "sentence_pairs", index)
        pairs.append([checked(text, f"{pair_name(index)}[{place}]") for place, text in enumerate(row)])
    for index, pair in enumerate(pairs):
        if len(pair) != len(pairs[0]):
            raise InvalidInput(f"{pair_name(index)} has {len(pair)} texts where {pair_name(0)} has {len(pairs[0])}")
    return pairs


def binary_labels(labels: object, pairs: list[list[str]]) -> NDArray[np.int64]:
    """Labels int64 [pairs], each 0 or 1.

    Raises:
        InvalidInput: a label is anything else, or there is not one for each pair.
    """
    numbers = _numbers(labels, "labels", pairs, lambda number: number in (0, 1), "neither 0 nor 1")
    return np.asarray(numbers, np.int64)


def class_labels(labels: object, pairs: list[list[str]]) -> NDArray[np.int64]:
    """Labels int64 [pairs], each the index of a class.

    Raises:
        InvalidInput: a label is no whole number from 0 on, or there is not one for each pair.
    """

    def allowed(number: float) -> bool:
        return 0 <= number < 2**31 and number == int(number)

    return np.asarray(_numbers(labels, "labels", pairs, allowed, "not the index of a class"), np.int64)


def gold_scores(scores: object, pairs: list[list[str]]) -> NDArray[np.float64]:
    """Scores float64 [pairs].

    Raises:
        InvalidInput: a score is no finite number, or there is not one for each pair.
    """
    return np.asarray(_numbers(scores, "scores", pairs, math.isfinite, "not a finite number"), np.float64)


def _numbers(
    values: object, argument: str, pairs: list[list[str]], allowed: Callable[[float], bool], wanted: str
) -> list[float]:
    items = materialised(values, argument, "a sequence of numbers")
    if len(items) != len(pairs):
        raise InvalidInput(f"{len(pairs)} sentence_pairs, but {len(items)} {argument}")
    numbers = [_number(item, f"{argument}[{index}]") for index, item in enumerate(items)]
    for index, number in enumerate(numbers):
        if not allowed(number):
            raise InvalidInput(f"{argument}[{index}] is {number!r}, {wanted}")
    return numbers


def _number(value: Any, name: str) -> float:
    # numpy's scalars and tensors of one number
    if hasattr(value, "item") and math.prod(getattr(value, "shape", ())) == 1:
        value = value.item()
    if not isinstance(value, (int, float)):
        raise InvalidInput(f"{name} is {type(value).__name__}, not a number")
    return value


# ---- What a model says about pairs, checked before anything is computed from it.
#
# Any object with `predict(pairs, convert_to_numpy=, show_progress_bar=)` is a model here.
Name = Callable[[int], str]
"""Gives what messages call the pair at a position."""

NAMED = 5


def pair_name(index: int) -> str:
    """What the caller calls the pair at that position."""
    return f"sentence_pairs[{index}]"


def single_scores(model: Any, pairs: list[list[str]], name: Name = pair_name, **options: Any) -> NDArray[Any]:
    """One score a pair: float [pairs], in the model's own precision.

    Raises:
        InvalidInput: the model has several labels, or gives something else than a number for each pair.
        NonFiniteScore: a score is NaN or infinite; the message names the pairs.
    """
    scores = _predicted(model, pairs, name, options)
    if scores.ndim == 2 and scores.shape[1] == 1:
        scores = scores[:, 0]
    if scores.ndim != 1:
        raise InvalidInput(
            f"the model gives scores of shape {scores.shape}: this evaluator needs a model with one label"
        )
    return scores


def class_scores(model: Any, pairs: list[list[str]], **options: Any) -> NDArray[Any]:
    """One score for each label of a pair: float [pairs, labels].

    Raises:
        InvalidInput: the model has one label, or gives something else than numbers for each pair.
        NonFiniteScore: a score is NaN or infinite; the message names the pairs.
    """
    scores = _predicted(model, pairs, pair_name, options)
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise InvalidInput(
            f"the model gives scores of shape {scores.shape}: this evaluator needs a model with two labels or more"
        )
    return scores


def predicted_labels(scores: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The label with the highest score of each pair, int64 [pairs]; of equal ones the first.

    Raises:
        InvalidInput: one of the true `labels` is not among the model's.
    """
    beyond = np.flatnonzero(labels >= scores.shape[1])
    if beyond.size:
        raise InvalidInput(f"labels[{beyond[0]}] is {labels[beyond[0]]}, but the model has {scores.shape[1]} labels")
    highest: NDArray[np.int64] = scores.argmax(axis=1)
    return highest


def _predicted(model: Any, pairs: list[list[str]], name: Name, options: dict[str, Any]) -> NDArray[Any]:
    given = model.predict(pairs, convert_to_numpy=True, **options)
    try:
        scores = np.asarray(given)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"the model gives {type(given).__name__}, which numpy cannot read: {error}") from error
    if scores.dtype.kind in "biu":
        scores = scores.astype(np.float64)
    if scores.dtype.kind != "f":
        raise InvalidInput(f"the model gives {scores.dtype}, not numbers")
    if scores.ndim == 0 or len(scores) != len(pairs):
        raise InvalidInput(f"the model gives scores of shape {scores.shape} for {len(pairs)} pairs")
    bad = np.flatnonzero(~np.isfinite(scores).reshape(len(scores), -1).all(axis=1)).tolist()
    if bad:
        named = ", ".join(map(name, bad[:NAMED])) + (f" and {len(bad) - NAMED} more" if len(bad) > NAMED else "")
        raise NonFiniteScore(f"the model gives NaN or infinity for {named}", tuple(bad))
    return scores


class CECorrelationEvaluator(PairEvaluator):
    """Pearson's and Spearman's correlation with known scores; a call returns Spearman's.

    Both are NaN, with a logged warning, where all scores are equal; `fit` never takes NaN for the best.

    Args:
        sentence_pairs: rows of two texts, two rows at least.
        scores: a finite number for each pair, on any scale.
        name: of the data; it stands in log lines and in the file's name.
        write_csv: append to CECorrelationEvaluator[_NAME]_results.csv (epoch, steps, Pearson_Correlation,
            Spearman_Correlation).

    Raises:
        InvalidInput: pairs or scores are refused.
        MissingExtra: scipy is not installed.
    """

    title = "CECorrelationEvaluator"

    def __init__(
        self, sentence_pairs: Iterable[Sequence[str]], scores: Iterable[float], name: str = "", write_csv: bool = True
    ) -> None:
        self.sentence_pairs = checked_pairs(sentence_pairs)
        self.scores = gold_scores(scores, self.sentence_pairs)
        columns = ["Pearson_Correlation", "Spearman_Correlation"]
        super().__init__(name, write_csv, columns, returned="Spearman_Correlation")
        if len(self.scores) < 2:
            raise InvalidInput("sentence_pairs has one pair: a correlation needs two")
        scipy_stats()  # a library that is missing is told now, and not after an epoch

    def measure(self, model: Any) -> dict[str, float]:
        """The figures "Pearson_Correlation" and "Spearman_Correlation"."""
        given = single_scores(model, self.sentence_pairs, show_progress_bar=False).astype(np.float64)
        pearson, spearman = _correlations(self.scores, given)
        return {"Pearson_Correlation": pearson, "Spearman_Correlation": spearman}

    def _lines(self, figures: Mapping[str, float]) -> Iterable[str]:
        pearson, spearman = figures["Pearson_Correlation"], figures["Spearman_Correlation"]
        return [f"Correlation:\tPearson: {pearson:.4f}\tSpearman: {spearman:.4f}"]


def _correlations(known: NDArray[np.float64], given: NDArray[np.float64]) -> tuple[float, float]:
    for whose, values in (("known", known), ("model's", given)):
        if (values == values[0]).all():
            logger.warning("all %s scores are %g: their correlation is not defined", whose, values[0])
            return math.nan, math.nan
    library = scipy_stats()
    with warnings.catch_warnings():
        # Scores that differ in the last digits only: Pearson's correlation has few right digits.
        warnings.simplefilter("ignore", library.NearConstantInputWarning)
        return float(library.pearsonr(known, given)[0]), float(library.spearmanr(known, given)[0])
