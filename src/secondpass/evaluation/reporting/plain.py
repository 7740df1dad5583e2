"""Reports for programs: JSON with everything, CSV with a line per query and system.

The JSON's keys are the names of the fields of `findings.Analysis` and of the values in it, so their docstrings are
its documentation. Beside them stand "format", which grows when a key is renamed or lost, and "difference" in each
change. What is not a finite number is null.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TextIO

from secondpass.evaluation.findings import Analysis, Change
from secondpass.evaluation.reporting.files import opened

FORMAT = 1
HALVES = re.compile("[\ud800-\udfff]")


def to_json(analysis: Analysis) -> str:
    """One JSON object in one line, characters as they are."""
    value = {"format": FORMAT, **_plain(analysis)}
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    # Half of a surrogate pair cannot be written as UTF-8, but as an escape.
    return HALVES.sub(lambda half: f"\\u{ord(half[0]):04x}", text)


def write_json(target: Path | TextIO, analysis: Analysis) -> None:
    """Write `to_json` and a line end.

    Raises:
        InvalidInput: the file cannot be written.
    """
    with opened(target) as stream:
        stream.write(to_json(analysis) + "\n")


def write_csv(target: Path | TextIO, analysis: Analysis) -> None:
    """Write a header (query, system, a column per measure) and a line per query and system (RFC 4180).

    Values have every digit that a float has; what was not measured or is not finite is empty.

    Raises:
        InvalidInput: the file cannot be written.
    """
    measures = list(dict.fromkeys(measure for report in analysis.reports for measure in report.measures))
    queries = dict.fromkeys(query for report in analysis.reports for query in report.queries)
    counted = [set(report.queries) for report in analysis.reports]
    with opened(target) as stream:
        writer = csv.writer(stream)
        writer.writerow(["query", "system", *measures])
        for query in queries:
            for report, known in zip(analysis.reports, counted, strict=True):
                if query in known:
                    values = (report.values.get(measure, {}).get(query) for measure in measures)
                    writer.writerow([query, report.system, *map(_cell, values)])


def _cell(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else repr(float(value))


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        found = {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        return found | {"difference": _plain(value.difference)} if isinstance(value, Change) else found
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, bool)):
        return value
    return _number(value)


def _number(value: Any) -> int | float | None:
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    raise TypeError(f"an analysis holds a {type(value).__name__}")
