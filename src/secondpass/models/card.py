"""What a model's README.md tells of measurements: figures that evaluators hand over, kept until the model is saved.

sentence-transformers' evaluators (4.0 and later) talk to a model's `model_card_data`; this is what they find here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from secondpass.calibration import FILE, Calibration

logger = logging.getLogger(__name__)

README = "README.md"

# Where `secondpass train` writes its card if the folder has a README of somebody else's.
ASIDE = "MODEL_CARD.md"
# They tell our own cards from one that somebody wrote: that of figures, and that of a training.
MARK = "<!-- written by secondpass from model_card_data -->"
TRAINED = "<!-- Written by `secondpass train`. -->"
HEAD = "---\nlibrary_name: sentence-transformers\ntags:\n- cross-encoder\n---"
PROBABILITIES = "# Probabilities"
# How that section begins: a model may have its heading for a name.
SECTION = f"{PROBABILITIES}\n\n`{FILE}` makes probabilities"


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
        table = ["| Evaluator | Epoch | Step | Measure | Value |", "|---|---|---|---|---|", *rows]
        return "\n\n".join([HEAD, MARK, "# Measured", "\n".join(table)]) + "\n"


def write_card(made: Path, folder: Path, card: str | None, calibration: Calibration | None) -> None:
    """Write the README.md of a model into the folder `made`; that of somebody else in `folder` stays, with a warning.

    Without a `card` the one that is there stays, but for what it says of a calibration; so does a training's, always.
    """
    files = [folder / name for name in (README, ASIDE) if (folder / name).exists()]
    there = {file.name: file.read_text(encoding="utf-8", errors="replace") for file in files}
    name = next((name for name, text in there.items() if MARK in text or TRAINED in text), README)
    before = there.get(name)
    if before is not None and MARK not in before:
        by, what = ("a training", "figures") if TRAINED in before else ("somebody", "figures and probabilities")
        if card is not None or (calibration is not None and by == "somebody"):
            logger.warning("%s was written by %s: nothing is put into it of %s", folder / name, by, what)
        if by == "somebody":
            return
        card = None
    text = with_probabilities(before if card is None else card, calibration)
    if text is not None and (card is not None or text != before):
        (made / name).write_text(text, encoding="utf-8")


def with_probabilities(card: str | None, calibration: Calibration | None) -> str | None:
    """A card that also says on what probabilities were fitted, in place of what it said of that before."""
    start = (card or "").rfind(SECTION)
    before = card if card is None or start < 0 else card[:start].rstrip() + "\n"
    if calibration is None:
        return before
    unjudged = f", of which {calibration.unjudged:,} were judged by nobody" if calibration.unjudged else ""
    origin = calibration.origin or "by people"
    error = "not known" if calibration.error is None else f"{calibration.error:.3f}"
    told = (
        f"`{FILE}` makes probabilities of this model's logits ({calibration.method}). It was fitted on "
        f"{calibration.queries:,} queries with {calibration.rows:,} documents{unjudged}; {calibration.relevant:,} are "
        f"relevant. Judgements {origin}. Expected calibration error on held-out queries, over bins "
        f"of equal count: {error}. On other queries, candidates or shares of relevant documents it may be more."
    )
    return "\n\n".join([(before or f"{HEAD}\n\n{MARK}").rstrip(), PROBABILITIES, told]) + "\n"


def _cell(value: float | str) -> str:
    shown = value if isinstance(value, str) else f"{value:.6g}"
    return " ".join(shown.replace("|", "\\|").split())
