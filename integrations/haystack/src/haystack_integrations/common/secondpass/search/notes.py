"""What a user of many answers must hear of: documents that were cut, queries that were not re-ranked."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from haystack_integrations.common.secondpass.search.answers import Answer


@dataclass(slots=True)
class Notes:
    """Counts over the answers that went through `watch`."""

    answers: int = 0
    cut: int = 0
    given_back: int = 0

    def watch(self, answers: Iterable[Answer]) -> Iterator[Answer]:
        """Pass answers on and count."""
        for answer in answers:
            self.answers += 1
            self.cut += answer.cut
            self.given_back += not answer.reranked
            yield answer

    def show(self) -> None:
        """Print a line on stderr for each count that is not zero."""
        if self.cut:
            print(f"secondpass: {self.cut} documents were cut to fit the model", file=sys.stderr)  # noqa: T201
        if self.given_back:
            note = f"secondpass: {self.given_back} of {self.answers} queries kept the order of the first pass"
            print(note, file=sys.stderr)  # noqa: T201
