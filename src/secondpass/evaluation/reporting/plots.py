"""The plots of the page, each from one value of an analysis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.text import Text

from secondpass.evaluation.findings import Analysis, DepthCurve, Reliability, ScoreDistribution, ThresholdPoint
from secondpass.evaluation.reporting.sentences import depth_sentence, reliability_sentence
from secondpass.evaluation.reporting.svg import FAINT, FIRST, GAIN, INK, LOSS, MARGIN, SECOND, TEXT_SIZE, THIRD, draw
from secondpass.evaluation.reporting.wording import counted, milliseconds, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# More bars than the plot has pixels would only make the page heavy.
MOST_BARS = 320
ROW = 34.0
# Panels are narrower than other plots: there may be one for each of many measures.
PANEL = 290.0


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing with its title, what to note, and a legend: the name of a colour of the page, and what has it."""

    title: str
    svg: str
    note: str = ""
    legend: tuple[tuple[str, str], ...] = ()


def means_plot(name: str, analysis: Analysis, measure: str) -> Plot:
    """Every system's mean with its interval; a line marks the baseline's."""
    systems = [report.system for report in analysis.reports if measure in report.means]
    values = {report.system: report.means[measure] for report in analysis.reports if measure in report.means}
    title = f"{measure} by system"

    def paint(axes: Axes) -> None:
        for row, system in enumerate(systems):
            colour = FIRST if row == 0 else SECOND
            interval = analysis.intervals.get(system, {}).get(measure)
            if interval:
                axes.hlines(row, interval.low, interval.high, colors=colour, linewidth=3, alpha=0.55)
            axes.plot(values[system], row, "o", color=colour, markersize=7)
            place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "fontsize": TEXT_SIZE, "va": "bottom"}
            axes.text(0, row - 0.22, _fitting(system, PANEL - 80), **place)
            axes.text(1, row - 0.22, number(values[system]), ha="right", **place)
            axes.vlines(values[systems[0]], row - 0.17, row + 0.17, colors=FIRST, linewidth=1.5)
        axes.set_ylim(len(systems) - 0.6, -0.85)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.08)
        axes.locator_params(axis="x", nbins=5)

    height = ROW * len(systems) + 34
    return Plot(title, draw(name, title, paint, height=height, width=PANEL, left=MARGIN, bottom=26, top=4))


def gains_plot(name: str, differences: Mapping[str, float], measure: str) -> Plot:
    """The difference of every query, best first."""
    ordered = sorted(differences.values(), reverse=True)
    count = len(ordered)
    bars = ordered
    if count > MOST_BARS:
        bars = [ordered[place * (count - 1) // (MOST_BARS - 1)] for place in range(MOST_BARS)]
    edges = [place * count / len(bars) for place in range(len(bars) + 1)]
    title = f"Gain in {measure} by query"

    def paint(axes: Axes) -> None:
        axes.grid(axis="y")
        for colour, kept in ((GAIN, [max(value, 0.0) for value in bars]), (LOSS, [min(value, 0.0) for value in bars])):
            axes.stairs(kept, edges, fill=True, color=colour)
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set_xlim(0, count)
        axes.set_xlabel("queries, most helped first")
        axes.set_ylabel(f"change in {measure}")

    helped, hurt = sum(value > 0 for value in ordered), sum(value < 0 for value in ordered)
    legend = (("gain", f"{helped:,} helped"), ("loss", f"{hurt:,} hurt"))
    same = count - helped - hurt
    note = f"{counted(same, 'query keeps its', 'queries keep their')} value." if same else ""
    return Plot(title, draw(name, title, paint), note, legend)


def depth_plot(name: str, curve: DepthCurve) -> Plot:
    """The mean by depth on a square-root axis, with milliseconds above where they are known."""
    depths = [point.depth for point in curve.points]
    places = [depth**0.5 for depth in depths]
    timed = [point for point in curve.points if point.ms is not None]
    title = f"{curve.measure} by depth"

    def paint(axes: Axes) -> None:
        axes.grid(axis="y")
        axes.plot(places, [point.value for point in curve.points], "-o", color=SECOND, markersize=4.5, linewidth=1.8)
        axes.axhline(curve.points[0].value, color=FIRST, linewidth=1, linestyle="--")
        ticks = _apart(depths, places[-1] - places[0])
        axes.set_xticks([depth**0.5 for depth in ticks], [f"{depth:,}" for depth in ticks])
        axes.set_xlabel("candidates re-ranked")
        axes.set_ylabel(curve.measure)
        if timed:
            costs = {point.depth: milliseconds(point.ms) for point in timed}
            above = axes.secondary_xaxis("top")
            shown = [depth for depth in ticks if depth in costs]
            above.set_xticks([depth**0.5 for depth in shown], [costs[depth] for depth in shown])
            above.set_xlabel("milliseconds a query")
            above.spines["top"].set_visible(False)
            above.tick_params(length=0)

    legend = (("second", "second pass"), ("first", "first pass"))
    drawn = draw(name, title, paint, top=42 if timed else 14, height=254 if timed else 230)
    return Plot(title, drawn, depth_sentence(curve), legend)


def distribution_plot(name: str, distribution: ScoreDistribution) -> Plot:
    """Histograms of each group's scores, as shares of the group: the unjudged are many more than the relevant."""
    groups = [
        ("gain", GAIN, "relevant", distribution.relevant),
        ("loss", LOSS, "judged, not relevant", distribution.judged_other),
        ("third", THIRD, "unjudged", distribution.unjudged),
    ]
    present = [group for group in groups if sum(group[3])]
    title = "Scores of relevant and other documents"

    def paint(axes: Axes) -> None:
        axes.grid(axis="y")
        for _, colour, _, counts in reversed(present):
            shares = [count / sum(counts) * 100 for count in counts]
            axes.stairs(shares, distribution.edges, fill=True, color=colour, alpha=0.22)
            axes.stairs(shares, distribution.edges, color=colour, linewidth=1.6)
        if distribution.edges[0] < distribution.edges[-1]:
            axes.set_xlim(distribution.edges[0], distribution.edges[-1])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("score")
        axes.set_ylabel("% of its group")

    legend = tuple((css, f"{label} ({sum(counts):,})") for css, _, label, counts in present)
    return Plot(title, draw(name, title, paint), "", legend)


def threshold_plot(name: str, points: Sequence[ThresholdPoint]) -> Plot:
    """Precision and recall of what a threshold keeps."""
    title = "Precision and recall by threshold"
    scores = [point.threshold for point in points]

    def paint(axes: Axes) -> None:
        axes.grid(axis="y")
        marks: dict[str, Any] = {"drawstyle": "steps-pre", "linewidth": 1.8} if len(points) > 1 else {"marker": "o"}
        axes.plot(scores, [point.precision for point in points], color=SECOND, **marks)
        axes.plot(scores, [point.recall for point in points], color=LOSS, **marks)
        axes.set_ylim(-0.02, 1.05)
        axes.set_xlabel("score from which a document is kept")
        axes.set_ylabel("share")

    return Plot(title, draw(name, title, paint), "", (("second", "precision"), ("loss", "recall")))


def reliability_plot(name: str, reliability: Reliability) -> Plot:
    """Share of relevant documents by score; on the diagonal a score is a probability."""
    title = "Reliability of scores as probabilities"
    largest = max(reliability.sizes)

    def paint(axes: Axes) -> None:
        axes.grid(color=FAINT)
        axes.plot([0, 1], [0, 1], color=FIRST, linewidth=1, linestyle="--")
        axes.plot(reliability.mean_scores, reliability.shares_relevant, color=SECOND, linewidth=1.4)
        sizes = [12 + 90 * size / largest for size in reliability.sizes]
        axes.scatter(reliability.mean_scores, reliability.shares_relevant, s=sizes, color=SECOND, zorder=3)
        axes.set_xlim(-0.04, 1.04)
        axes.set_ylim(-0.04, 1.04)
        axes.set_xlabel("mean score of the bin")
        axes.set_ylabel("share relevant")

    note = f"{reliability_sentence(reliability)} Larger dots hold more pairs."
    return Plot(title, draw(name, title, paint), note, (("second", "scores"), ("first", "perfectly calibrated")))


def _apart(depths: Sequence[int], width: float) -> list[int]:
    """Depths whose labels do not touch; the first and the last are always among them."""
    kept = [depths[-1]]
    for depth in reversed(depths[1:-1]):
        if min(kept[-1] ** 0.5 - depth**0.5, depth**0.5 - depths[0] ** 0.5) >= 0.11 * width:
            kept.append(depth)
    return sorted({depths[0], *kept})


def _fitting(name: str, room: float) -> str:
    """A name cut to so much room; East Asian characters, which matplotlib may lack, count as wide."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    shown = Text("".join(character if character.isprintable() else " " for character in name))
    cells = int(room / (TEXT_SIZE / 2))
    font = FontProperties(size=TEXT_SIZE)
    while True:
        shown.truncate(cells, overflow="ellipsis")
        if cells == 1 or text_to_path.get_text_width_height_descent(shown.plain, font, False)[0] <= room:
            return shown.plain
        cells -= 1
