"""plain: JSON with everything, CSV with a line per query and system."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from secondpass.errors import InvalidInput
from secondpass.evaluation.findings import Analysis, Headroom, SecondPass
from secondpass.evaluation.reporting.plain import to_json, write_csv, write_json
from secondpass.evaluation.reports import Coverage, Report
from tests.evaluation.reporting.analyses import HOSTILE, MEASURES, bare, hostile, whole


def strict(text: str) -> Any:
    """Parse JSON that has no NaN or Infinity in it."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    return json.loads(text, parse_constant=refuse)


def test_json_holds_everything_under_the_names_of_the_fields() -> None:
    """An object whose keys are those of the values, all the way down."""
    analysis = whole(30)
    found = json.loads(to_json(analysis))
    assert list(found) == ["format", "primary", "reports", "intervals", "comparisons", "second_passes", "ms",
                           "settings", "notes"]  # fmt: skip
    assert found["format"] == 1
    assert found["reports"][1]["values"] == analysis.reports[1].values
    assert found["reports"][0]["coverage"]["unanswered"] == ["q1", "q2"]
    assert found["comparisons"][0]["interval"]["level"] == 0.95
    (second,), (expected,) = found["second_passes"], analysis.second_passes
    assert expected.depth is not None
    assert expected.reliability is not None
    assert second["depth"]["points"][5] == {"depth": 10, "value": expected.depth.points[5].value, "ms": 19.0}
    assert second["helped"][0]["difference"] == expected.helped[0].difference
    assert second["reliability"]["sizes"] == list(expected.reliability.sizes)


def test_json_has_null_for_what_is_no_number() -> None:
    """Other programs do not read NaN; numpy's numbers and read-only mappings are numbers and mappings."""
    values: Any = MappingProxyType({"AP": {"q1": math.nan, "q2": np.float32(0.5), "q3": -math.inf}})
    counted: Any = np.int64(3)
    report = Report("a", values, {"AP": np.float64("nan")}, Coverage(counted))
    found = strict(to_json(Analysis("AP", (report,), {}, (), (SecondPass("a", (), (), (), {"q1": math.nan}),))))
    assert found["reports"][0]["values"]["AP"] == {"q1": None, "q2": 0.5, "q3": None}
    assert (found["reports"][0]["means"]["AP"], found["reports"][0]["coverage"]["measured"]) == (None, 3)
    assert found["second_passes"][0]["differences"] == {"q1": None}
    assert found["ms"] is None


def test_json_refuses_what_is_no_value_of_an_analysis() -> None:
    """Rather than writing its repr."""
    strange = Headroom("AP", 0.1, 0.2, object(), 1.0, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="object"):
        to_json(replace(bare(), second_passes=(SecondPass("a", (strange,), (), (), {}),)))


def test_json_of_hostile_texts_reads_back(tmp_path: Path) -> None:
    """Also half of a surrogate pair, and the file is UTF-8."""
    file = tmp_path / "report.json"
    write_json(file, hostile())
    text = file.read_text(encoding="utf-8")
    assert strict(text)["second_passes"][0]["notes"] == list(HOSTILE)
    assert "\u05e9" in text
    assert text.endswith("}\n")
    assert text == to_json(hostile()) + "\n"


def test_csv_reads_back(tmp_path: Path) -> None:
    """A header, then a line per query and system with every digit, line ends as RFC 4180 has them."""
    analysis = whole(30)
    file = tmp_path / "report.csv"
    write_csv(file, analysis)
    with file.open(encoding="utf-8", newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["query", "system", *MEASURES]
    assert [tuple(row[:2]) for row in rows] == [
        (f"q{place}", system) for place in range(1, 31) for system in ("bm25", "rerank")
    ]
    for query, system, *cells in rows:
        (report,) = (report for report in analysis.reports if report.system == system)
        assert list(map(float, cells)) == [report.values[measure][query] for measure in MEASURES]
    assert file.read_bytes().count(b"\r\n") == file.read_bytes().count(b"\n") == 61


def test_csv_of_hostile_ids_reads_back() -> None:
    """Quotes, commas and line ends inside an id are the csv module's business; NaN and what is missing are empty."""
    ids = ['a "quoted", id', "two\r\nlines", "=1+1"]
    first = Report("a,b", {"AP": dict.fromkeys(ids, 0.25)}, {"AP": 0.25}, Coverage(3))
    second = Report("c", {"RR": {ids[0]: math.nan}}, {"RR": math.nan}, Coverage(1))
    stream = io.StringIO(newline="")
    write_csv(stream, Analysis("AP", (first, second), {}, ()))
    stream.seek(0)
    assert list(csv.reader(stream)) == [
        ["query", "system", "AP", "RR"],
        [ids[0], "a,b", "0.25", ""],
        [ids[0], "c", "", ""],
        [ids[1], "a,b", "0.25", ""],
        [ids[2], "a,b", "0.25", ""],
    ]


@pytest.mark.parametrize("write", [write_json, write_csv])
def test_a_missing_folder_is_refused(tmp_path: Path, write: object) -> None:
    """With the path."""
    with pytest.raises(InvalidInput, match="absent"):
        write(tmp_path / "absent" / "report", bare())  # type: ignore[operator]
