"""What a user of many answers must hear of: what was cut, what had no text, and which queries were not re-ranked."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from haystack_integrations.common.secondpass.search.answers import Answer

from secondpass_servers.two_pass import MAX_CLAUSES


@dataclass(slots=True)
class Notes:
    """Counts over the answers that went through `watch`."""

    answers: int = 0
    cut: int = 0
    given_back: int = 0
    textless: int = 0
    shortened: int = 0

    def watch(self, answers: Iterable[Answer]) -> Iterator[Answer]:
        """Pass answers on and count."""
        for answer in answers:
            self.answers += 1
            self.cut += answer.cut
            self.given_back += not answer.reranked
            self.textless += answer.textless
            self.shortened += answer.shortened
            yield answer

    def lines(self) -> list[str]:
        """A line for each count that is not zero."""
        said = {
            f"{self.cut} documents were cut to fit the model": self.cut,
            f"{self.given_back} of {self.answers} queries kept the order of the first pass": self.given_back,
            f"{self.textless} documents were ranked without any text: is it in another field than content?": (
                self.textless
            ),
            f"{self.shortened} queries were cut to {MAX_CLAUSES:,} words for retrieval; the ranker read them whole": (
                self.shortened
            ),
        }
        return [line for line, count in said.items() if count]

    def show(self) -> None:
        """Print them on stderr."""
        for line in self.lines():
            print(f"secondpass: {line}", file=sys.stderr)  # noqa: T201
