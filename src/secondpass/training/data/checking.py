"""Groups of any source to groups that the loss can learn from: everything is read before the first step."""

from __future__ import annotations

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import TYPE_CHECKING, Any

from secondpass.errors import InvalidInput
from secondpass.text import is_blank, positive_int
from secondpass.training.data.groups import Counts, Group, Teaching, checked_teaching, counted
from secondpass.training.data.sources import each
from secondpass.training.settings import worded

if TYPE_CHECKING:
    from secondpass.training.losses.loss import LabelKind, Loss


logger = logging.getLogger(__name__)

# ---- What one group must be before anything is learnt from it: no text empty, and labels that the loss reads.
LARGEST = 3.4028234663852886e38
"""Of float32, in which labels are compared with logits."""
KINDS = ("relevance", "grade", "score", "class")


@dataclass(frozen=True, slots=True)
class LabelRule:
    """What a loss can read.

    Attributes:
        kind: of its labels.
        classes: of the model; counts for the kind "class" alone.
        shortest: documents that a group needs.
        needs_contrast: whether a group whose labels are all equal teaches nothing.
        borrows: whether documents of other groups of the step are added, as in-batch negatives.
        taught: whether a teacher's scores count beside the labels.
        margins: whether labels may be margins, see `Group.margins`.
        needs_negative: whether a group without a document of label 0 teaches nothing.
        unread: whether no label is read at all.
    """

    kind: LabelKind
    classes: int
    shortest: int
    needs_contrast: bool
    borrows: bool
    taught: bool = False
    margins: bool = False
    needs_negative: bool = False
    unread: bool = False


def rule_of(loss: Loss, num_labels: int) -> LabelRule:
    """What `loss` can read on a model with `num_labels` outputs.

    Raises:
        InvalidInput: the loss has other attributes than `losses.loss.Loss` says, or it reads classes and the model
            has fewer than two.
    """
    kind: Any = getattr(loss, "labels", None)
    if kind not in KINDS:
        raise InvalidInput(f"loss.labels is {kind!r}, none of {', '.join(KINDS)}")
    if positive_int(num_labels, "num_labels") == 1 and kind == "class":
        raise InvalidInput(f"{type(loss).__name__} reads classes, and a model with {worded('num_labels', 1)} has none")
    shortest = positive_int(loss.shortest, "loss.shortest")
    names = ("in_batch_negatives", "taught", "margins", "needs_negative")
    borrows, taught, margins, negative = (bool(getattr(loss, name, False)) for name in names)
    needs = negative and not borrows
    unread = not getattr(loss, "reads_labels", True)
    return LabelRule(kind, num_labels, shortest, bool(loss.needs_contrast), borrows, taught, margins, needs, unread)


def sound(group: object, rule: LabelRule, name: str) -> Group:
    """`group` with tuples of Python's own numbers, if it keeps the rule.

    Args:
        group: to check.
        rule: for its labels.
        name: what the message calls it if it has no source.

    Raises:
        InvalidInput: the first thing that is wrong; the message begins with the group's source.
    """
    if not isinstance(group, Group):
        raise InvalidInput(f"{name} is {type(group).__name__}, not a Group")
    name = group.source or name
    columns = ("documents", "labels", "document_ids")
    documents, labels, ids = (_listed(getattr(group, column), f"{name}: {column}") for column in columns)
    if not documents:
        raise InvalidInput(f"{name}: no document")
    if len(labels) != len(documents):
        raise InvalidInput(f"{name}: {len(documents)} documents and {len(labels)} labels")
    if ids and len(ids) != len(documents):
        raise InvalidInput(f"{name}: {len(documents)} documents and {len(ids)} document_ids")
    if group.margins and not rule.margins:
        few = f"{len(labels) - 1} for {len(labels)} documents"
        raise InvalidInput(f"{name}: the labels, {few}, are margins, which only {worded('loss', 'margin_mse')} reads")
    _check_text(group.query, f"{name}: the query")
    for index, document in enumerate(documents):
        _check_text(document, f"{name}: {called(group, index)}")
    numbers = tuple(_label(label, rule, f"{name}: {called(group, index)}") for index, label in enumerate(labels))
    teaching = checked_teaching(group.teaching, len(documents), name)
    told = (teaching, bool(group.margins), group.label_origin)
    return Group(group.query, documents, numbers, group.source, group.query_id, ids, *told)


def called(group: Group, index: int) -> str:
    """What a message calls a document: by its id if it has one, else by position."""
    name = group.document_ids[index] if index < len(group.document_ids) else ""
    return f"document {name!r}" if name else f"documents[{index}]" if len(group.documents) > 1 else "the document"


def _listed(values: object, name: str) -> tuple[Any, ...]:
    if isinstance(values, tuple):
        return values
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise InvalidInput(f"{name} is {type(values).__name__}, not a tuple")
    return tuple(values)


def _check_text(value: object, name: str) -> None:
    if not isinstance(value, str):
        raise InvalidInput(f"{name} is {type(value).__name__}, not a text")
    if is_blank(value):
        raise InvalidInput(f"{name} is empty")


def _label(label: Any, rule: LabelRule, name: str) -> float:
    if not isinstance(label, Real):
        raise InvalidInput(f"{name} has a label of type {type(label).__name__}, not a number")
    try:
        number = float(label)
    except OverflowError:
        number = math.inf
    # said so that NaN is refused too
    if not -LARGEST <= number <= LARGEST:
        raise InvalidInput(f"{name} has label {number:g}, not a finite number of float32")
    if rule.kind == "relevance" and not 0 <= number <= 1:
        raise InvalidInput(f"{name} has label {number:g}, not within [0, 1] (for grades: relevant_from)")
    if rule.kind == "grade" and number < 0:
        raise InvalidInput(f"{name} has label {number:g}, below 0: no grade")
    if rule.kind == "class" and not (number.is_integer() and 0 <= number < rule.classes):
        raise InvalidInput(f"{name} has label {number:g}, no class: the model has 0 to {rule.classes - 1}")
    return number


# ---- All groups together: repeats, contradictions, and what is left.
SHOWN = 5
SCORE_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class CheckedGroups:
    """Groups that the loss can learn from, in order, their figures, and lines that tell what was dropped."""

    groups: tuple[Group, ...]
    counts: Counts
    dropped: tuple[str, ...] = ()


def checked_groups(
    groups: Iterable[Group], loss: Loss, *, num_labels: int = 1, join: bool = False, tell: bool = True
) -> CheckedGroups:
    """Read all groups and keep those that `loss` can learn from.

    A document that a group has twice is kept once. Groups with fewer documents than the loss needs, and under a loss
    that needs contrast those whose labels are all equal, are dropped, counted, and told in a warning; under one with
    in-batch negatives those without a relevant document, under one that needs a negative those without label 0.

    Args:
        groups: `sources.read_groups`, or any groups.
        loss: says which labels it reads.
        num_labels: outputs of the model, for a loss that reads classes.
        join: make one group of all that have the same query (and id); for losses over lists when rows are pairs.
        tell: False: the caller tells what was dropped.

    Raises:
        InvalidInput: a row cannot be read; a text is empty or no str; a label is not what the loss reads; a group has
            the same document with two labels, or margins below several documents; nothing is left; or all labels are
            equal, which teaches nothing. The message names the first five that are wrong and says how many there are.
    """
    rule = rule_of(loss, num_labels)
    read = _read(groups, rule)
    if not read:
        raise InvalidInput("no groups: there is nothing to train on")
    whole, repeated = _without_repeats(_parts(read, join), rule)
    kept, dropped = _useful(whole, rule)
    if not kept:
        raise InvalidInput(_nothing_left(dropped, read, join, loss))
    told = tuple(
        f"dropped: {len(names)} of {len(whole)} groups, {reason}; the first: {names[0]}"
        for reason, names in dropped.items()
    )
    for line in told if tell else ():
        logger.warning("%s", line)
    counts = counted(kept, rule.kind, {reason: len(names) for reason, names in dropped.items()}, repeated)
    if not (rule.unread or (rule.taught and any(group.teaching is not None for group in kept))):
        _check_contrast(counts, rule)
    return CheckedGroups(tuple(kept), counts, told)


def joined_by_query(groups: Iterable[Group]) -> tuple[Group, ...]:
    """Held-out groups with grades, those of one query as one; raises InvalidInput as `checked_groups` does."""
    rule = LabelRule("grade", 1, 1, needs_contrast=False, borrows=False)
    try:
        return tuple(_without_repeats(_parts(_read(groups, rule), join=True), rule)[0])
    except InvalidInput as error:
        raise InvalidInput(f"dev: {error}") from None


@dataclass(slots=True)
class _Problems:
    """What is wrong with the data: the first few, and how many."""

    count: int = 0
    shown: list[str] = field(default_factory=list)

    def add(self, message: str) -> None:
        self.count += 1
        if len(self.shown) < SHOWN:
            self.shown.append(message)

    def refuse(self, of: str) -> None:
        """Raise if there is one; `of` says what they are a number of."""
        if not self.count:
            return
        if self.count == 1:
            raise InvalidInput(self.shown[0])
        more = [f"and {self.count - len(self.shown)} more"] if self.count > len(self.shown) else []
        listed = ";\n  ".join(self.shown + more)
        raise InvalidInput(f"{self.count} {of}:\n  {listed}")


def _read(groups: Iterable[Group], rule: LabelRule) -> list[Group]:
    """All groups, each sound; whatever is wrong is collected first."""
    problems = _Problems()
    made: list[Group] = []
    number = 0
    for number, item in enumerate(each(groups), start=1):
        try:
            if isinstance(item, InvalidInput):
                raise item
            made.append(sound(item, rule, f"groups[{number - 1}]"))
        except InvalidInput as error:
            problems.add(str(error))
    problems.refuse(f"of {number} groups cannot be trained on")
    return made


def _parts(groups: Sequence[Group], join: bool) -> Iterable[list[Group]]:
    """What makes up each group: itself, or all of the same query."""
    parts: dict[object, list[Group]] = defaultdict(list)
    for number, group in enumerate(groups):
        parts[(group.query_id, group.query) if join else number].append(group)
    return parts.values()


def _without_repeats(parts: Iterable[list[Group]], rule: LabelRule) -> tuple[list[Group], int]:
    problems = _Problems()
    made: list[Group] = []
    repeated = 0
    for part in parts:
        group, more = _united(part, rule, problems)
        made.append(group)
        repeated += more
    problems.refuse(f"contradictions in {len(made)} groups")
    return made, repeated


def _united(parts: Sequence[Group], rule: LabelRule, problems: _Problems) -> tuple[Group, int]:
    """One group of the documents of all, each once, and how many were there before."""
    first = parts[0]
    if len(parts) == 1 and len(set(first.documents)) == len(first):
        return first, 0
    scales = {(part.margins, part.documents[0] if part.margins else ""): part.source for part in parts}
    if len(scales) > 1:
        where = " and ".join(list(filter(None, scales.values()))[:2]) or "a group"
        apart = "margins below one document cannot be joined with those below another, or with scores"
        problems.add(f"{where}: {apart}, for the query {first.query[:60]!r}")
    places: dict[str, tuple[Group, int]] = {}
    names: dict[str, str] = {}
    repeated = 0
    for part in parts:
        for index, document in enumerate(part.documents):
            names[document] = names.get(document) or (part.document_ids[index] if part.document_ids else "")
            if document not in places:
                places[document] = (part, index)
                continue
            repeated += 1
            before, place = places[document]
            # the same text has the same score from a teacher, but for the rounding of another batch
            slack = SCORE_TOLERANCE if rule.kind == "score" else 0.0
            if not math.isclose(before.labels[place], part.labels[index], rel_tol=slack, abs_tol=slack):
                problems.add(_contradiction(before, place, part, index))
    ids = tuple(names[document] for document in places)
    labels = tuple(group.labels[index] for group, index in places.values())
    made = Group(first.query, tuple(places), labels, first.source, first.query_id, ids if any(ids) else ())
    origins = "; ".join(dict.fromkeys(part.label_origin for part in parts if part.label_origin))
    teaching = _joint_teaching(parts, places, problems)
    return replace(made, teaching=teaching, margins=first.margins, label_origin=origins), repeated


def _joint_teaching(
    parts: Sequence[Group], places: Mapping[str, tuple[Group, int]], problems: _Problems
) -> Teaching | None:
    """The teacher's opinion of the documents that are kept; all parts must have been shown to the same teacher."""
    first = parts[0].teaching
    weights = {None if part.teaching is None else (part.teaching.weight, part.teaching.label_weight) for part in parts}
    if len(weights) > 1:
        name = parts[0].source or "a group"
        problems.add(f"{name}: groups of one query with and without a teacher, or other weights")
    if first is None or len(weights) > 1:
        return None
    opinions = ((group.teaching, index) for group, index in places.values())
    return replace(first, scores=tuple(taught.scores[index] for taught, index in opinions if taught is not None))


def _contradiction(before: Group, place: int, group: Group, index: int) -> str:
    names = [called(before, place), called(group, index)]
    if before is not group:
        names = [f"{name} of {part.source or 'a group'}" for name, part in zip(names, (before, group), strict=True)]
    labels = f"labels {before.labels[place]:g} and {group.labels[index]:g}"
    start = f"{before.source}: " if before is group and group.source else ""
    return f"{start}{names[0]} and {names[1]} are the same text with {labels} for the query {group.query[:60]!r}"


def _useful(groups: Sequence[Group], rule: LabelRule) -> tuple[list[Group], dict[str, list[str]]]:
    """Groups that give the loss something to judge, and by reason the names of those that do not."""
    kept: list[Group] = []
    dropped: dict[str, list[str]] = {}
    for number, group in enumerate(groups):
        if len(group) < rule.shortest:
            reason = f"with fewer than {rule.shortest} documents"
        elif rule.needs_contrast and len(set(group.labels)) == 1:
            reason = "whose labels are all equal"
        elif rule.borrows and max(group.labels) <= 0:
            # the others of a step lend what is not relevant, never what is
            reason = "without a relevant document"
        elif rule.needs_negative and min(group.labels) > 0:
            reason = "without a document of label 0"
        else:
            kept.append(group)
            continue
        dropped.setdefault(reason, []).append(group.source or f"groups[{number}]")
    return kept, dropped


def _nothing_left(dropped: dict[str, list[str]], read: Sequence[Group], join: bool, loss: Loss) -> str:
    reasons = ", ".join(f"{len(names)} {reason} (the first: {names[0]})" for reason, names in dropped.items())
    queries = Counter((group.query_id, group.query) for group in read)
    joined = f"; rows of the same query become one group by {worded('join', True)}"
    hint = joined if not join and len(queries) < len(read) else ""
    if all(label > 0 for group in read for label in group.labels):
        hint += f"; {_positives_only()}"
    return f"{type(loss).__name__} can learn from no group: {reasons}{hint}"


def _positives_only() -> str:
    """Where the missing half of the data comes from."""
    mined, borrowed = "`secondpass mine --clicks FILE` finds negatives for them", worded("loss", "info_nce")
    return f"there are positives only: {mined}, and with {borrowed} the documents of other queries are the negatives"


def _check_contrast(counts: Counts, rule: LabelRule) -> None:
    """Labels that are all equal teach a constant, unless documents of other queries are the negatives."""
    if not rule.borrows and counts.lowest == counts.highest:
        same = f"all {counts.documents} labels are {counts.lowest:g}: nothing to tell apart"
        raise InvalidInput(f"{same}; {_positives_only()}" if counts.lowest > 0 else same)
