"""Drawings of an analysis as SVG that takes its colours and its text from the page around it."""

from __future__ import annotations

import io
import math
import re
import threading
import warnings
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from rich.text import Text

from secondpass.evaluation.comparison import (
    Analysis,
    DepthCurve,
    RelevantShare,
    Reliability,
    ScoreDistribution,
    ThresholdPoint,
)
from secondpass.evaluation.reporting import tables
from secondpass.evaluation.reporting.wording import (
    confidence,
    counted,
    depth_sentence,
    milliseconds,
    number,
    reliability_sentence,
)
from secondpass.lazy import optional

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# ---- matplotlib's drawings as SVG that lives inside a page: its text and colours are the page's own.
#
# Colours are drawn as stand-ins and then named: `currentColor` for text, CSS variables for the rest, so that one
# drawing suits a dark page and a light one. Text stays text.
INK, FAINT, GAIN, LOSS, FIRST, SECOND, THIRD = (f"#0102{place:02x}" for place in range(1, 8))
NAMES = {
    INK: "currentColor",
    FAINT: "var(--faint)",
    GAIN: "var(--gain)",
    LOSS: "var(--loss)",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
    THIRD: "var(--third)",
}
WIDTH = 330
TEXT_SIZE = 10.5
MARGIN = 14
POINTS_PER_INCH = 72
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "secondpass",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": TEXT_SIZE,
    "axes.labelsize": TEXT_SIZE,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "xtick.labelsize": TEXT_SIZE - 1,
    "ytick.labelsize": TEXT_SIZE - 1,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
}
# matplotlib's settings are global: two threads would draw in each other's style.
DRAWING = threading.Lock()


def draw(
    name: str,
    title: str,
    paint: Callable[[Axes], None],
    *,
    height: float = 230,
    width: float = WIDTH,
    top: float = 14,
    left: float = 52,
    bottom: float = 42,
) -> str:
    """Draw one plot with `paint`; lengths are in units of which ten and a half are the size of the text.

    The ids inside begin with `name`, which one page may hold once. `title` says what is shown to those who do not see
    it. `top`, `left` and `bottom` are the room around the axes.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    matplotlib, figures = (optional(module, "matplotlib", "eval") for module in ("matplotlib", "matplotlib.figure"))
    stream = io.StringIO()
    with DRAWING, warnings.catch_warnings(), matplotlib.rc_context():
        # Fonts that this machine lacks are the reader's browser's business.
        warnings.filterwarnings("ignore", message=r"Glyph \d+", category=UserWarning)
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support", category=UserWarning)
        # A user's matplotlibrc must not show; the backend is not ours to change.
        defaults = {key: value for key, value in matplotlib.rcParamsDefault.items() if "backend" not in key}
        matplotlib.rcParams.update(defaults | STYLE)
        figure = figures.Figure(figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH), dpi=POINTS_PER_INCH)
        figure.subplots_adjust(left / width, bottom / height, 1 - MARGIN / width, 1 - top / height)
        paint(figure.add_subplot())
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return _inline(stream.getvalue(), name, title)


def _inline(document: str, name: str, title: str) -> str:
    body = document[document.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # matplotlib's own rule would hold for the whole page; the page has it for its plots.
    body = re.sub(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = body.replace("xlink:href=", "href=")
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'href="#', f'href="#{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    # Some versions write one property, others two; the family is the page's in any case.
    body = re.sub(r"font: (?:[a-z]+ )*([\d.]+)px [^;\"]*", r"font-size: \1px", body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    for colour, variable in NAMES.items():
        body = body.replace(colour, variable)
    box = re.search(r'viewBox="([^"]*)"', body)
    opening = (
        f'<svg class="plot" viewBox="{box[1] if box else ""}" role="img" aria-labelledby="{name}-title">'
        f'<title id="{name}-title">{escape(title)}</title>'
    )
    return re.sub(r"\s*\n\s*", "\n", opening + body[body.index(">") + 1 :].strip())


# ---- The plots of the page, each from one value of an analysis.
# More bars than the plot has pixels would only make the page heavy.
MOST_BARS = 320
ROW = 34.0
# Panels are narrower than other plots: there may be one for each of many measures.
PANEL = 290.0


# How something is drawn, so that the legend shows it the same way.
Key = Literal["area", "line", "dashes", "dots", "dotted-line", "rings"]
Legend = tuple[tuple[str, Key, str], ...]
MARKS: dict[Key, str] = {"area": "■", "line": "—", "dashes": "╌", "dots": "●", "dotted-line": "●", "rings": "○"}
# Where nothing tells whether the page is dark: each is at least three times as bright as black and a third of white.
NOTEBOOK = {
    "faint": "rgb(128 128 128 / 0.35)",
    "gain": "#2b8a9d",
    "loss": "#d0604a",
    "first": "#808894",
    "second": "#4a78dd",
    "third": "#9a7bb8",
}


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing with its title, what to note, and a legend: a colour of the page, how it is drawn, and what it is."""

    title: str
    svg: str
    note: str = ""
    legend: Legend = ()

    def _repr_html_(self) -> str:
        """The drawing for a notebook, in its text colour and in colours that stand out from light and dark alike."""
        colours = "".join(f"--{name}:{colour};" for name, colour in NOTEBOOK.items())
        keys = " &emsp; ".join(
            f'<span style="color:var(--{name})">{MARKS[key]}</span> {escape(label)}' for name, key, label in self.legend
        )
        small = "font-size:0.85em"
        head = f'<div style="font-weight:bold">{escape(self.title)}</div><div style="{small}">{keys}</div>'
        below = f'<p style="{small};opacity:0.8">{escape(self.note)}</p>' if self.note else ""
        return f'<div style="max-width:32em;{colours}">{head}{self.svg}{below}</div>'


def means_plot(name: str, analysis: Analysis, measure: str) -> Plot:
    """Every system's mean with its interval; a line marks the baseline's."""
    values = {
        report.system: report.means[measure]
        for report in analysis.reports
        if not math.isnan(report.means.get(measure, math.nan))
    }
    systems = list(values)
    title = f"{measure} by system"

    def paint(axes: Axes) -> None:
        for row, system in enumerate(systems):
            colour = FIRST if row == 0 else SECOND
            interval = analysis.intervals.get(system, {}).get(measure)
            if interval:
                axes.hlines(row, interval.low, interval.high, colors=colour, linewidth=3, alpha=0.55)
            axes.plot(values[system], row, "o", color=colour, markersize=7, clip_on=False)
            place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "fontsize": TEXT_SIZE, "va": "bottom"}
            axes.text(0, row - 0.22, _fitting(system, PANEL - 80), **place)
            axes.text(1, row - 0.22, number(values[system]), ha="right", **place)
            axes.vlines(values[systems[0]], row - 0.17, row + 0.17, colors=FIRST, linewidth=1.5)
        axes.set(ylim=(len(systems) - 0.6, -0.85), yticks=[], xlabel=f"{measure}, {tables.interval_name(analysis)}")
        axes.spines["left"].set_visible(False)
        axes.margins(x=0)
        _end_on_ticks(axes, "x")

    height = ROW * len(systems) + 50
    return Plot(title, draw(name, title, paint, height=height, width=PANEL, left=MARGIN, bottom=42, top=4))


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
        axes.set(xlim=(0, count), xlabel="queries, most helped first", ylabel=f"change in {measure}")
        axes.margins(y=0)
        _end_on_ticks(axes, "y")
        _tick_both_ends(axes, 0, count)

    helped, hurt = sum(value > 0 for value in ordered), sum(value < 0 for value in ordered)
    legend: Legend = (("gain", "area", f"{helped:,} helped"), ("loss", "area", f"{hurt:,} hurt"))
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
        line: dict[str, Any] = {"markersize": 4.5, "linewidth": 1.8, "clip_on": False}
        axes.plot(places, [point.value for point in curve.points], "-o", color=SECOND, **line)
        axes.axhline(curve.points[0].value, color=FIRST, linewidth=1, linestyle="--")
        ticks = _apart(depths, places[-1] - places[0])
        axes.set_xticks([depth**0.5 for depth in ticks], [f"{depth:,}" for depth in ticks])
        axes.margins(y=0)
        axes.set(xlabel="candidates re-ranked (square-root axis)", ylabel=curve.measure)
        _end_on_ticks(axes, "y")
        if timed:
            costs = {point.depth: milliseconds(point.ms) for point in timed}
            above = axes.secondary_xaxis("top")
            shown = [depth for depth in ticks if depth in costs]
            above.set_xticks([depth**0.5 for depth in shown], [costs[depth] for depth in shown])
            above.set_xlabel("milliseconds a query")
            above.spines["top"].set_visible(False)
            above.tick_params(length=0)

    legend: Legend = (("second", "dotted-line", "second pass"), ("first", "dashes", "first pass"))
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
            _tick_both_ends(axes, distribution.edges[0], distribution.edges[-1])
        axes.set_ylim(bottom=0)
        _end_on_ticks(axes, "y")
        axes.set(xlabel="score", ylabel="% of its group")

    legend: Legend = tuple((css, "area", f"{label} ({sum(counts):,})") for css, _, label, counts in present)
    note = "Each group's bars add up to 100 %."
    return Plot(title, draw(name, title, paint), note, legend)


def threshold_plot(name: str, points: Sequence[ThresholdPoint]) -> Plot:
    """Precision and recall of what a threshold keeps; above, how many documents that is."""
    title = "Precision and recall by threshold"
    scores = [point.threshold for point in points]
    told = [point for point in points if point.kept >= tables.LEAST_KEPT]
    sparse = any(point.unjudged and point.judged for point in told)

    def paint(axes: Axes) -> None:
        axes.grid(axis="y")
        marks: dict[str, Any] = {"drawstyle": "steps-pre", "linewidth": 1.8} if len(points) > 1 else {"marker": "o"}
        kept = [point.threshold for point in told]
        low, high = ([getattr(point.interval, end) for point in told] for end in ("low", "high"))
        axes.fill_between(kept, low, high, step="pre", color=SECOND, alpha=0.18, linewidth=0)
        axes.plot(kept, [point.precision for point in told], color=SECOND, **marks)
        if sparse:
            known = [_told(point.judged) for point in told]
            axes.plot(kept, known, color=SECOND, **marks | {"linestyle": "--", "linewidth": 1.2})
        axes.plot(scores, [point.recall for point in points], color=LOSS, **marks)
        axes.set(ylim=(0, 1), xlabel="score from which a document is kept", ylabel="share")
        _tick_both_ends(axes, *(axes.get_xlim() if len(points) == 1 else (scores[0], scores[-1])))
        _documents_above(axes, points)

    legend: Legend = (
        ("second", "line", f"precision, {confidence(points[0].interval.level)} interval"),
        *((("second", "dashes", "the same among judged documents"),) if sparse else ()),
        ("loss", "line", "recall"),
    )
    note = f"Precision is drawn from {tables.LEAST_KEPT} documents on."
    return Plot(title, draw(name, title, paint, top=42, height=254), note, legend)


def _told(share: RelevantShare | None) -> float:
    return math.nan if share is None or share.size < tables.LEAST_KEPT else share.share


def _documents_above(axes: Axes, points: Sequence[ThresholdPoint]) -> None:
    """A second axis: the documents that each ticked threshold keeps."""
    scores = [point.threshold for point in points]
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    kept = [point.kept for tick in ticks for point in [points[min(bisect_left(scores, tick), len(points) - 1)]]]
    above = axes.secondary_xaxis("top")
    above.set_xticks(ticks, [f"{each:,}" for each in kept])
    above.get_xticklabels()[0].set_horizontalalignment("left")  # clear of the topmost share
    above.set_xlabel("documents kept")
    above.spines["top"].set_visible(False)
    above.tick_params(length=0)


def reliability_plot(name: str, reliability: Reliability) -> Plot:
    """Share of relevant documents by score, each bin with its interval; on the diagonal a score is a probability."""
    title = "Reliability of scores as probabilities"
    bins = reliability.finest
    known = [each.judged for each in bins if each.unjudged and each.judged is not None]

    def paint(axes: Axes) -> None:
        axes.grid(color=FAINT)
        axes.plot([0, 1], [0, 1], color=FIRST, linewidth=1, linestyle="--")
        for shares, colour, face in ((known, THIRD, "none"), ([each.every for each in bins], SECOND, SECOND)):
            means = [each.mean_score for each in shares]
            low, high = ([getattr(each.interval, end) for each in shares] for end in ("low", "high"))
            axes.vlines(means, low, high, colors=colour, linewidth=1.4)
            axes.plot(means, [each.share for each in shares], "o", color=colour, markersize=5, markerfacecolor=face)
        ticks = [place / 5 for place in range(6)]
        limits = (-0.03, 1.03)
        labels = {"xlabel": "mean score of the bin", "ylabel": "share relevant"}
        axes.set(xlim=limits, ylim=limits, xticks=ticks, yticks=ticks, **labels)

    legend: Legend = (
        ("second", "dots", f"bins of scores, {confidence(bins[0].every.interval.level)} interval"),
        *((("third", "rings", "their judged documents alone"),) if known else ()),
        ("first", "dashes", "perfectly calibrated"),
    )
    return Plot(title, draw(name, title, paint, height=270), reliability_sentence(reliability), legend)


def _end_on_ticks(axes: Axes, axis: Literal["x", "y"]) -> None:
    """Widen an axis until both of its ends have a tick."""
    from matplotlib.ticker import MaxNLocator

    low, high = getattr(axes, f"get_{axis}lim")()
    ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    axes.set(**{f"{axis}lim": (ticks[0], ticks[-1]), f"{axis}ticks": ticks})


def _tick_both_ends(axes: Axes, low: float, high: float) -> None:
    """An x axis from `low` to `high` with a tick at either, and those between that do not touch them."""
    from matplotlib.ticker import MaxNLocator

    room = 0.13 * (high - low)
    inner = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    ticks = [low, *(tick for tick in inner if low + room < tick < high - room), high]
    axes.set_xlim(low, high)
    # as many decimals as part a hundredth of the axis
    decimals = 2 - math.floor(math.log10(high - low))
    labels = [f"{tick:,.{decimals}f}" if 0 <= decimals <= 6 else f"{tick:.3g}" for tick in ticks]
    axes.set_xticks(ticks, [label.rstrip("0").rstrip(".") if "." in label else label for label in labels])


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
