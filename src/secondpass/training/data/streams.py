"""Groups one at a time out of rows: files may be larger than memory, and a bad row does not end the reading."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from secondpass.errors import InvalidInput
from secondpass.training.data.columns import Layout, layout_of
from secondpass.training.data.groups import Group
from secondpass.training.data.rows import NEGATIVE_LABEL, POSITIVE_LABEL, Row, group_of

logger = logging.getLogger(__name__)

Item = Row | Group | InvalidInput
"""What a source gives: a row, a group that is already one, or why a row could not be read."""


class GroupStream(Iterator[Group]):
    """An iterator over groups that holds one row at a time.

    `next` raises InvalidInput for a bad row and goes on behind it when it is called again, so that a check can name
    more than the first. Each row is understood by its own columns: a JSON Lines file may mix shapes.

    Args:
        items: rows in order.
        chosen: see `columns.chosen_columns`.
        relevant_from: labels from this number on become 1, all others 0; None leaves them.
    """

    def __init__(
        self, items: Iterator[Item], chosen: Mapping[str, tuple[str, ...]], relevant_from: float | None = None
    ) -> None:
        self._items = items
        self._chosen = chosen
        self._relevant_from = relevant_from
        self._names: tuple[str, ...] = ()
        self._layout: Layout | None = None

    def __next__(self) -> Group:
        item = next(self._items)
        if isinstance(item, InvalidInput):
            raise item
        group = item if isinstance(item, Group) else group_of(item, self._layout_of(item))
        if self._relevant_from is None:
            return group
        return replace(group, labels=tuple(_binary(label, self._relevant_from) for label in group.labels))

    def _layout_of(self, row: Row) -> Layout:
        names = tuple(row.values)
        if self._layout is None or names != self._names:
            layout = layout_of(names, self._chosen, row.source)
            if self._layout is None:
                _announce(row.source, names, layout)
            self._names, self._layout = names, layout
        return self._layout


def _binary(label: float, relevant_from: float) -> float:
    """NaN stays, to be refused: it is neither."""
    if math.isnan(label):
        return label
    return POSITIVE_LABEL if label >= relevant_from else NEGATIVE_LABEL


def _announce(source: str, names: tuple[str, ...], layout: Layout) -> None:
    unread = sorted(set(names) - set(layout.columns))
    logger.info("%s: columns %s; not read: %s", source, ", ".join(layout.columns), ", ".join(unread) or "none")
