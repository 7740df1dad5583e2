"""Answers to a file or stdout: a TREC run, one JSON document, or tables."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from haystack_integrations.common.secondpass.search.answers import Answer
from haystack_integrations.common.secondpass.search.showing import print_answer

from secondpass.evaluation.runs import write_run

TAG = "secondpass"


@dataclass(frozen=True, slots=True)
class ResultWriter:
    """Writes answers in the form "trec", "json", "table" (stdout only) or "" (nothing at all).

    A file appears under its name only when it is whole.
    """

    output: Path | None
    form: str
    head: dict[str, str]

    def write(self, answers: Iterable[Answer], figures: Callable[[], list[dict[str, Any]]]) -> None:
        """Consume the answers; `figures` is asked for after the last."""
        if self.form in ("trec", "json"):
            with self._stream() as stream:
                if self.form == "trec":
                    write_run(stream, ((answer.query_id, _ranking(answer)) for answer in answers), TAG)
                else:
                    _write_json(stream, self.head, answers, figures)
            return
        for answer in answers:
            if self.form == "table":
                print_answer(answer)

    @contextmanager
    def _stream(self) -> Iterator[TextIO]:
        if self.output is None:
            yield sys.stdout
            return
        unfinished = self.output.with_name(self.output.name + ".writing")
        try:
            with unfinished.open("w", encoding="utf-8", errors="backslashreplace") as stream:
                yield stream
            os.replace(unfinished, self.output)
        finally:
            unfinished.unlink(missing_ok=True)


def _ranking(answer: Answer) -> list[tuple[str, float | None]]:
    return [(hit.id, hit.score) for hit in answer.second]


def _write_json(
    stream: TextIO, head: dict[str, str], answers: Iterable[Answer], figures: Callable[[], list[dict[str, Any]]]
) -> None:
    """One object with a line for each query, written as the answers come."""
    opening = json.dumps(head, ensure_ascii=False)
    stream.write(f'{opening[:-1]}, "queries": [')
    separator = "\n"
    for answer in answers:
        stream.write(separator + json.dumps(answer.to_json(texts=True), ensure_ascii=False))
        separator = ",\n"
    stream.write(f'\n], "figures": {json.dumps(figures())}}}\n')
