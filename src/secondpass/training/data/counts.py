"""What there is to train on, in figures: shown before the first step, kept for the model's card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median_low
from typing import TYPE_CHECKING, Any

from secondpass.errors import InvalidInput
from secondpass.training.data.groups import Group

if TYPE_CHECKING:
    from secondpass.training.losses.contract import LabelKind

FEW_VALUES = 10


@dataclass(frozen=True, slots=True)
class Counts:
    """Groups that are trained on, and what was dropped.

    Attributes:
        groups: how many are left.
        documents: in all of them.
        shortest: documents of the smallest group.
        median: of the middle one (the lower of two).
        longest: of the largest.
        positives: documents with label 0.5 and above (relevance) or above 0 (grade); None for other labels.
        negatives: the other documents; None for other labels.
        label_sum: of all labels.
        lowest: label.
        highest: label.
        histogram: documents by label, ascending, if there are at most ten different labels; else empty.
        dropped: groups left out, by reason.
        repeated: documents left out because their group has them already.
    """

    groups: int
    documents: int
    shortest: int
    median: int
    longest: int
    positives: int | None
    negatives: int | None
    label_sum: float
    lowest: float
    highest: float
    histogram: Mapping[float, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    repeated: int = 0

    @property
    def positive_weight(self) -> float:
        """Weight of a positive under which both sides count alike: negatives by positives, soft labels by their share.

        What `pos_weight="balanced"` of binary cross-entropy is: (documents - label sum) / label sum.

        Raises:
            InvalidInput: the labels are not in [0, 1], or all are 0 or all 1, which no weight can balance.
        """
        if not 0 <= self.lowest <= self.highest <= 1:
            raise InvalidInput(f"labels from {self.lowest:g} to {self.highest:g} cannot be balanced: not in [0, 1]")
        if not 0 < self.label_sum < self.documents:
            raise InvalidInput(f"all {self.documents} labels are {self.lowest:g}: there is nothing to balance")
        return (self.documents - self.label_sum) / self.label_sum

    def lines(self) -> list[str]:
        """The figures for people to read."""
        size = f"{self.shortest}" if self.shortest == self.longest else f"{self.shortest} to {self.longest}"
        made = [
            f"{self.groups:,} groups, {self.documents:,} documents ({size} a group, median {self.median})",
            f"labels: {self._labels()}",
        ]
        if self.positives is not None and self.negatives is not None:
            made.append(f"positives: {self.positives:,}, negatives: {self.negatives:,}")
        made.extend(f"dropped: {count:,} groups, {reason}" for reason, count in self.dropped.items())
        if self.repeated:
            made.append(f"dropped: {self.repeated:,} documents that their group has already")
        return made

    def as_json(self) -> dict[str, Any]:
        """Plain values; labels of the histogram as text."""
        names = ("groups", "documents", "shortest", "median", "longest", "positives", "negatives", "label_sum")
        made: dict[str, Any] = {name: getattr(self, name) for name in names}
        made |= {"lowest": self.lowest, "highest": self.highest, "repeated": self.repeated}
        made["histogram"] = {f"{label:g}": count for label, count in self.histogram.items()}
        return made | {"dropped": dict(self.dropped)}

    def _labels(self) -> str:
        if self.histogram:
            return ", ".join(f"{label:g} ({count:,})" for label, count in self.histogram.items())
        return f"from {self.lowest:.4g} to {self.highest:.4g}, mean {self.label_sum / self.documents:.4g}"


def counted(groups: Sequence[Group], kind: LabelKind, dropped: Mapping[str, int], repeated: int) -> Counts:
    """The figures of groups, at least one; `kind` says what their labels mean."""
    sizes = [len(group) for group in groups]
    histogram: Counter[float] | None = Counter()
    positives, label_sum = 0, 0.0
    lowest = highest = groups[0].labels[0]
    for group in groups:
        label_sum += sum(group.labels)
        lowest, highest = min(lowest, *group.labels), max(highest, *group.labels)
        positives += sum(map(_is_positive[kind], group.labels)) if kind in _is_positive else 0
        if histogram is not None:
            histogram.update(group.labels)
            histogram = histogram if len(histogram) <= FEW_VALUES else None
    documents = sum(sizes)
    has_sides = kind in _is_positive
    return Counts(
        len(groups),
        documents,
        min(sizes),
        median_low(sizes),
        max(sizes),
        positives if has_sides else None,
        documents - positives if has_sides else None,
        label_sum,
        lowest,
        highest,
        dict(sorted(histogram.items())) if histogram else {},
        dict(dropped),
        repeated,
    )


_is_positive = {"relevance": (0.5).__le__, "grade": (0.0).__lt__}
