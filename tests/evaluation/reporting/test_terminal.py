"""terminal: tables at eighty columns, without colours, whatever the texts."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from secondpass.evaluation.findings import Analysis
from secondpass.evaluation.reporting.terminal import print_analysis
from tests.evaluation.reporting.analyses import bare, hostile, whole

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
