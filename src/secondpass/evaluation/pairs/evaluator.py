"""What all evaluators do around their figures: say what is measured, log the figures, keep them in a file."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from secondpass.evaluation.pairs.results_file import append_row, file_name

if TYPE_CHECKING:
    from typing import Self

    from secondpass.training.examples import InputExample

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
            MissingExtra: scikit-learn or scipy is not installed.
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

    def __init__(
        self,
        sentence_pairs: list[list[str]],
        name: str,
        write_csv: bool,
        columns: Sequence[str],
        returned: str | None = None,
    ) -> None:
        super().__init__(name, write_csv, columns, returned)
        self.sentence_pairs = sentence_pairs

    @classmethod
    def from_input_examples(cls, examples: Iterable[InputExample], **kwargs: Any) -> Self:
        """An evaluator on the examples' texts and labels; keyword arguments are the constructor's."""
        given = list(examples)
        # Not `cls`: the constructors that users call take pairs and labels, this class's own does not.
        construct: Callable[..., Self] = cls
        return construct([example.texts for example in given], [example.label for example in given], **kwargs)


def _moment(epoch: int, steps: int) -> str:
    if epoch == -1:
        return ""
    return f" after epoch {epoch}" if steps == -1 else f" in epoch {epoch} after {steps} steps"
