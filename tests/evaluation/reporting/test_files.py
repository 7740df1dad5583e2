"""files: a report is written whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from secondpass.errors import InvalidInput
from secondpass.evaluation.comparison import Analysis, Headroom, SecondPass
from secondpass.evaluation.measures import Coverage, Report
from secondpass.evaluation.reporting.files import opened, print_analysis, to_json, write_csv, write_json
from tests.evaluation.reporting.analyses import HOSTILE, MEASURES, bare, hostile, whole


def test_a_stream_gets_the_text_and_stays_open() -> None:
    """Whoever opened it closes it."""
    stream = io.StringIO()
    with opened(stream) as target:
        target.write("text")
    assert stream.getvalue() == "text"


def test_a_file_appears_whole(tmp_path: Path) -> None:
    """Until the end the former file stands; afterwards only the new one does, with what the umask allows."""
    file = tmp_path / "report.json"
    file.write_text("former")
    with opened(file) as target:
        target.write("1\r\n\ud800é")
        assert file.read_text() == "former"
    assert file.read_bytes() == "1\r\n?é".encode()
    assert os.listdir(tmp_path) == ["report.json"]
    (tmp_path / "plain").touch()
    assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_failure_leaves_the_former_file(tmp_path: Path) -> None:
    """And no half of a new one beside it."""
    file = tmp_path / "report.json"
    file.write_text("former")

    def fail() -> None:
        with opened(file) as target:
            target.write("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["former"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    """The file that it points to gets the text."""
    (tmp_path / "real").write_text("former")
    link = tmp_path / "link"
    link.symlink_to("real")
    with opened(link) as target:
        target.write("new")
    assert link.is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_a_device_is_written_to() -> None:
    """What is no file cannot be replaced, and must not be."""
    with opened(Path(os.devnull)) as target:
        target.write("text")
    assert not Path(os.devnull).is_file()


@pytest.mark.parametrize("name", ["absent/report.html", "file/report.html", "folder"])
def test_what_cannot_be_written_is_named(tmp_path: Path, name: str) -> None:
    """A folder that does not exist, or is a file, or a path that is a folder: refused with the path."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidInput) as refused, opened(tmp_path / name):
        pass
    assert str(refused.value).startswith(f"{tmp_path / name}: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_leave_to_write_is_refused(tmp_path: Path) -> None:
    """With the path, as one that does not exist."""
    tmp_path.chmod(0o500)
    with pytest.raises(InvalidInput, match="cannot be written"), opened(tmp_path / "report.html"):
        pass


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
                           "settings", "notes", "first_pass", "contrasts", "queries"]  # fmt: skip
    assert found["format"] == 2
    assert found["reports"][1]["values"] == analysis.reports[1].values
    assert found["reports"][0]["coverage"]["unanswered"] == ["q1", "q2"]
    assert found["comparisons"][0]["interval"]["level"] == 0.95
    (second,), (expected,) = found["second_passes"], analysis.second_passes
    assert expected.depth is not None
    assert expected.reliability is not None
    assert second["depth"]["points"][5] == {"depth": 10, "value": expected.depth.points[5].value, "ms": 19.0}
    assert second["helped"][0]["difference"] == expected.helped[0].difference
    highest, as_value = second["reliability"]["top"][-1], expected.reliability.top[-1]
    assert highest["every"]["interval"]["high"] == as_value.every.interval.high
    assert highest["clear_error"] == as_value.clear_error > 0


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


PARTS = ("Means over", " against ", "Headroom of", "Equal scores", "by depth", "threshold", "as probabilities",
         "Helped most", "Hurt most", "Notes", "Settings")  # fmt: skip


def printed(analysis: Analysis, width: int = 80, *, terminal: bool | None = None) -> str:
    """What a console of that width prints."""
    stream = io.StringIO()
    print_analysis(Console(file=stream, width=width, force_terminal=terminal), analysis)
    return stream.getvalue()


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    """Hostile texts are folded or cut."""
    for analysis in (whole(systems=("bm25", "ms-marco-MiniLM-L6-v2", "pocket")), hostile(), bare()):
        assert max(map(cell_len, printed(analysis, width).splitlines())) <= width


def test_everything_is_there_without_colours() -> None:
    """Values, intervals, tests, headroom and queries can be read from plain text of eighty columns."""
    analysis = whole(systems=("bm25", "ms-marco-MiniLM-L6-v2"))
    text = printed(analysis)
    assert "\x1b" not in text
    assert text.startswith("ms-marco-MiniLM-L6-v2 helps\nnDCG@10 rises from 0.4")
    assert all(part in text for part in PARTS)
    lines = text.splitlines()
    comparison, interval = analysis.comparisons[0], analysis.intervals["bm25"]["AP"]
    row = f"nDCG@10 +{comparison.difference:.3f} +{comparison.interval.low:.3f} to +{comparison.interval.high:.3f}"
    assert f"{row} < 0.001 {comparison.helped} {comparison.hurt} 0" in [" ".join(line.split()) for line in lines]
    row = f"AP bm25 {analysis.reports[0].means['AP']:.3f} {interval.low:.3f} to {interval.high:.3f} 3.4"
    assert row in [" ".join(line.split()) for line in lines]
    best = analysis.second_passes[0].helped[0]
    assert any(line.split()[:1] == [best.query] and best.text[:30] in line for line in lines)


def test_only_parts_with_data_appear() -> None:
    """One run alone is a verdict and a table."""
    text = printed(bare())
    assert [part for part in PARTS if part in text] == ["Means over"]


def test_a_text_cannot_command_the_terminal() -> None:
    """Escape sequences, other controls, turned writing and rich's own marks come out as harmless text."""
    text = printed(hostile(), terminal=True)
    assert "\x1b[31mred" not in text
    assert not any(character in text for character in "\x00\u202e\ud800")
    assert "<script>alert('x')</script>" in printed(hostile(), 200)
    assert "[bold]system[/bold] :smile:" in printed(bare("[bold]system[/bold] :smile:"))
