"""What a model's README.md tells of measurements: figures that evaluators hand over, kept until the model is saved.

sentence-transformers' evaluators (4.0 and later) talk to a model's `model_card_data`; this is what they find here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# Tells our own card from one that somebody wrote.
MARK = "<!-- written by secondpass from model_card_data -->"


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures of one evaluation: `metrics` by their names, as numbers or as text; epoch and step -1 are "not said"."""

    evaluator: str
    metrics: Mapping[str, float | str]
    epoch: int = -1
    step: int = -1


@dataclass(slots=True)
class ModelCardData:
    """The latest figures of each evaluator, in the order in which they were first measured.

    Attributes:
        measured: what `CrossEncoder.save` writes as a table into README.md; nothing is written without figures.
        generate_widget_examples: set by users of sentence-transformers; there are no such examples, so no effect.
    """

    measured: list[Measured] = field(default_factory=list)
    generate_widget_examples: bool = False

    def set_evaluation_metrics(
        self, evaluator: object, metrics: Mapping[str, float | str], epoch: int = -1, step: int = -1
    ) -> None:
        """Keep a copy of `metrics`, in place of what an evaluator of that class and `name` measured before."""
        label = " ".join(filter(None, (type(evaluator).__name__, str(getattr(evaluator, "name", "") or ""))))
        figures = {name: value if isinstance(value, str) else float(value) for name, value in metrics.items()}
        made = Measured(label, figures, epoch, step)
        places = [place for place, before in enumerate(self.measured) if before.evaluator == label]
        place = places[0] if places else len(self.measured)
        self.measured[place : place + 1] = [made]

    def text(self) -> str | None:
        """The card as Markdown with front matter; None without figures."""
        if not self.measured:
            return None
        rows = [
            f"| {_cell(one.evaluator)} | {one.epoch} | {one.step} | {_cell(name)} | {_cell(value)} |"
            for one in self.measured
            for name, value in one.metrics.items()
        ]
        head = "---\nlibrary_name: sentence-transformers\ntags:\n- cross-encoder\n---"
        table = ["| Evaluator | Epoch | Step | Measure | Value |", "|---|---|---|---|---|", *rows]
        return "\n\n".join([head, MARK, "# Measured", "\n".join(table)]) + "\n"


def _cell(value: float | str) -> str:
    shown = value if isinstance(value, str) else f"{value:.6g}"
    return " ".join(shown.replace("|", "\\|").split())
