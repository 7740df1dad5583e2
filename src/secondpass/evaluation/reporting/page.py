"""An analysis as one HTML page that needs nothing but itself: no network, no script, plots inside."""

from __future__ import annotations

import io
import math
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.text import Text

from secondpass.evaluation.comparison import (
    Analysis,
    Change,
    Contrast,
    DepthCurve,
    Reliability,
    ScoreDistribution,
    SecondPass,
    ThresholdPoint,
)
from secondpass.evaluation.reporting import tables
from secondpass.evaluation.reporting.files import opened
from secondpass.evaluation.reporting.wording import (
    counted,
    depth_sentence,
    headroom_sentence,
    milliseconds,
    moved_line,
    notes,
    number,
    reliability_sentence,
    shortened,
    verdicts,
)
from secondpass.lazy import optional
from secondpass.text import UNSHOWABLE

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


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing with its title, what to note, and a legend: the name of a colour of the page, and what has it."""

    title: str
    svg: str
    note: str = ""
    legend: tuple[tuple[str, str], ...] = ()


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
            axes.plot(values[system], row, "o", color=colour, markersize=7)
            place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "fontsize": TEXT_SIZE, "va": "bottom"}
            axes.text(0, row - 0.22, _fitting(system, PANEL - 80), **place)
            axes.text(1, row - 0.22, number(values[system]), ha="right", **place)
            axes.vlines(values[systems[0]], row - 0.17, row + 0.17, colors=FIRST, linewidth=1.5)
        axes.set(ylim=(len(systems) - 0.6, -0.85), yticks=[])
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
        axes.set(xlim=(0, count), xlabel="queries, most helped first", ylabel=f"change in {measure}")

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
        axes.set(xlabel="candidates re-ranked", ylabel=curve.measure)
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
        axes.set(xlabel="score", ylabel="% of its group")

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
        axes.set(ylim=(-0.02, 1.05), xlabel="score from which a document is kept", ylabel="share")

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
        limits = (-0.04, 1.04)
        axes.set(xlim=limits, ylim=limits, xlabel="mean score of the bin", ylabel="share relevant")

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


TITLE = "Second-pass evaluation"
CHANGES = 20
MOST_SYSTEMS = 12
MOST_CONTRASTS = 12
LONGEST_NAME = 80
# A hyphen before a number is a minus sign, also after an opening bracket.
MINUS = re.compile(r"(?<![^\s(])-(?=\d)")
PERCENT = re.compile("(?<=[0-9]) %")


def to_html(analysis: Analysis, title: str = TITLE) -> str:
    """The page as text; what the analysis does not have gets no section.

    Raises:
        MissingExtra: jinja2 or matplotlib is not installed.
    """
    template = _environment().from_string(_packaged("page.html.jinja"))
    facts = [counted(analysis.reports[0].coverage.measured, "query", "queries"), f"main measure: {analysis.primary}"]
    if len(analysis.reports) > 1:
        role = "baseline" if analysis.first_pass is None else "first pass"
        facts.append(f"{role}: {shortened(analysis.reports[0].system, LONGEST_NAME)}")
    rendered: str = template.render(
        title=title,
        style=_packaged("page.css"),
        facts=facts,
        verdicts=verdicts(analysis),
        means=tables.means_side_by_side(analysis),
        means_plots=list(_means_plots(analysis)),
        differences=tables.differences(analysis),
        sections=[_section(analysis, found, f"s{place}") for place, found in enumerate(analysis.second_passes)],
        effects=tables.effects(analysis),
        pairs=[
            *(_pair(analysis, found) for found in analysis.second_passes),
            *(_pair(analysis, found) for found in analysis.contrasts[:MOST_CONTRASTS]),
        ],
        pairs_left=max(0, len(analysis.contrasts) - MOST_CONTRASTS),
        notes=notes(analysis),
        settings=dict(analysis.settings or {}),
    )
    return rendered


def write_page(target: Path | TextIO, analysis: Analysis, title: str = TITLE) -> None:
    """Write `to_html`; a file is there whole or not at all.

    Raises:
        InvalidInput: the file cannot be written.
        MissingExtra: jinja2 or matplotlib is not installed.
    """
    text = to_html(analysis, title)
    with opened(target) as stream:
        stream.write(text)


def _means_plots(analysis: Analysis) -> Iterator[Plot]:
    if 1 < len(analysis.reports) <= MOST_SYSTEMS:
        for place, measure in enumerate(tables.all_measures(analysis)):
            if any(not math.isnan(report.means.get(measure, math.nan)) for report in analysis.reports):
                yield means_plot(f"m{place}", analysis, measure)


def _section(analysis: Analysis, found: SecondPass, anchor: str) -> dict[str, Any]:
    """One re-ranked run as the template reads it."""
    helped_and_hurt = (("Queries helped most", found.helped), ("Queries hurt most", found.hurt))
    changes = ((tables.changes(title, changed, CHANGES), changed[:CHANGES]) for title, changed in helped_and_hurt)
    details = (
        tables.ties(found),
        tables.depths(found.depth) if found.depth and found.depth.points else None,
        tables.thresholds(found.thresholds) if found.thresholds else None,
    )
    primary = (each for each in found.headroom if each.measure == analysis.primary)
    return {
        "anchor": anchor,
        "system": found.system,
        "headroom": tables.headroom(found) if found.headroom else None,
        "sentences": [headroom_sentence(shortened(found.system, LONGEST_NAME), each) for each in primary],
        "plots": list(_plots(analysis, found, anchor)),
        "details": [table for table in details if table],
        "changes": [(table, [_opened(change) for change in changed]) for table, changed in changes if table],
        "notes": found.notes,
    }


def _pair(analysis: Analysis, found: SecondPass | Contrast) -> list[tuple[tables.Table, list[Any]]]:
    """Tables of two systems query by query; those of a second pass's changes are in its own section."""
    baseline = found.baseline if isinstance(found, Contrast) else analysis.reports[0].system
    named = f"{shortened(found.system, LONGEST_NAME // 3)} against {shortened(baseline, LONGEST_NAME // 3)}"
    grouped = tables.groups(found.groupings, analysis.primary)
    made: list[tuple[tables.Table, list[Any]]] = []
    if grouped is not None:
        made.append((replace(grouped, title=f"When it hurts: {named}"), []))
    if isinstance(found, Contrast):
        for title, changed in (("Helped most", found.helped), ("Hurt most", found.hurt)):
            table = tables.changes(f"{title}: {named}", changed, CHANGES)
            made += [] if table is None else [(table, [_opened(change) for change in changed[:CHANGES]])]
    return made


def _opened(change: Change) -> list[tuple[str, str, str]]:
    """Name, rank and explanation of each document by which a query's change is seen."""
    return [
        (each.document, moved_line(each), "" if each.explanation is None else each.explanation._repr_html_())
        for each in change.moved
    ]


def _plots(analysis: Analysis, found: SecondPass, anchor: str) -> Iterator[Plot]:
    if found.differences:
        yield gains_plot(f"{anchor}-gains", found.differences, analysis.primary)
    if found.depth and found.depth.points:
        yield depth_plot(f"{anchor}-depth", found.depth)
    if found.distribution and len(found.distribution.edges) > 1:
        yield distribution_plot(f"{anchor}-scores", found.distribution)
    if found.thresholds:
        yield threshold_plot(f"{anchor}-thresholds", found.thresholds)
    if found.reliability and found.reliability.sizes:
        yield reliability_plot(f"{anchor}-reliability", found.reliability)


def _environment() -> Any:
    jinja2, markupsafe = (optional(module, "jinja2", "eval") for module in ("jinja2", "markupsafe"))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"drawn": markupsafe.Markup, "shown": _shown, "typeset": _typeset}
    return environment


def _packaged(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _shown(text: str, longest: int = LONGEST_NAME) -> str:
    return shortened(UNSHOWABLE.sub("\ufffd", " ".join(text.split())), longest)


def _typeset(text: str) -> str:
    return PERCENT.sub("\u00a0%", MINUS.sub("\u2212", UNSHOWABLE.sub("\ufffd", text)))
