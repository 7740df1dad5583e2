"""An analysis as one HTML page that needs nothing but itself: no network, no script, plots inside."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, TextIO

from secondpass.evaluation.comparison import (
    Analysis,
    Change,
    Contrast,
    Placed,
    QueryRanks,
    SecondPass,
)
from secondpass.evaluation.reporting import tables
from secondpass.evaluation.reporting.files import opened
from secondpass.evaluation.reporting.plots import (
    Plot,
    depth_plot,
    distribution_plot,
    gains_plot,
    means_plot,
    reliability_plot,
    threshold_plot,
)
from secondpass.evaluation.reporting.wording import (
    NOTHING,
    counted,
    headroom_sentence,
    moved_line,
    notes,
    number,
    shortened,
    verdicts,
)
from secondpass.lazy import optional
from secondpass.text import UNSHOWABLE

TITLE = "Second-pass evaluation"
CHANGES = 20
MOST_SYSTEMS = 12
MOST_CONTRASTS = 12
LONGEST_NAME = 80
# Opened queries have a cell a run for each measure and document, of about thirty bytes: so many make a megabyte.
MOST_CELLS = 40_000
MOST_DOCUMENTS = 20
# A closed query shows the values of so many runs.
MOST_VALUES = 4
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
    opened = _queries(analysis)
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
        queries=opened,
        anchors={each["query"]: each["anchor"] for each in opened},
        queries_said=_queries_said(analysis, len(opened)),
        runs=[report.system for report in analysis.reports],
        values_shown=MOST_VALUES,
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
        tables.reliability(found.reliability) if found.reliability else None,
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


def _queries(analysis: Analysis) -> list[dict[str, Any]]:
    """Every query as the template reads it; of too many those whose values differ most between the runs."""
    values = [report.values.get(analysis.primary, {}) for report in analysis.reports]

    def spread(found: QueryRanks) -> float:
        known = [value for by_query in values if not math.isnan(value := by_query.get(found.query, math.nan))]
        return max(known) - min(known) if known else 0.0

    left, chosen = MOST_CELLS, set()
    for found in sorted(analysis.queries, key=spread, reverse=True):
        left -= (len(tables.all_measures(analysis)) + min(MOST_DOCUMENTS, len(found.documents))) * (len(values) + 2)
        if left < 0:
            break
        chosen.add(found.query)
    return [
        _query(analysis, found, f"q{place}") for place, found in enumerate(analysis.queries) if found.query in chosen
    ]


def _query(analysis: Analysis, found: QueryRanks, anchor: str) -> dict[str, Any]:
    measured = {
        measure: [report.values.get(measure, {}).get(found.query) for report in analysis.reports]
        for measure in tables.all_measures(analysis)
    }
    left_out = len(found.documents) - MOST_DOCUMENTS
    more = counted(left_out, "more document is", "more documents are")
    unfound = counted(found.unfound, "relevant document is", "relevant documents are")
    return {
        "anchor": anchor,
        "query": found.query,
        "text": found.text,
        "values": _trends(measured.get(analysis.primary, []), number),
        "measures": [(measure, _trends(values, number)) for measure, values in measured.items()],
        "documents": [_placed(each) for each in found.documents[:MOST_DOCUMENTS]],
        "notes": [
            *([f"{more} in the JSON report."] if left_out > 0 else []),
            *([f"{unfound} in none of the runs."] if found.unfound else []),
        ],
    }


def _placed(found: Placed) -> tuple[str, str, bool, list[tuple[str, str]]]:
    """Name, grade, whether relevant, and the ranks."""
    grade = "unjudged" if found.grade is None else str(found.grade)
    ranks = [-math.inf if rank is None else -float(rank) for rank in found.ranks]
    cells = _trends(ranks, lambda rank: NOTHING if rank == -math.inf else f"{-(rank or 0):,.0f}")
    return found.document, grade, (found.grade or 0) > 0, cells


def _trends(values: Sequence[float | None], said: Callable[[float | None], str]) -> list[tuple[str, str]]:
    """Each value as it is read, and whether it is above the first run's ("up") or below ("down")."""
    first = values[0] if values else None

    def trend(value: float | None) -> str:
        return "" if first is None or value is None else "up" * (value > first) or "down" * (value < first)

    return [(said(value), trend(value)) for value in values]


def _queries_said(analysis: Analysis, shown: int) -> str:
    """What the list of queries holds, and where the rest is."""
    total = len(analysis.queries)
    what = "its values, and the ranks of its relevant documents and of the first three of each run"
    arrows = f" ▲ and ▼: higher or lower than {shortened(analysis.reports[0].system, LONGEST_NAME)}."
    arrows = arrows if len(analysis.reports) > 1 else ""
    if shown == total:
        return f"Each query opens to {what}.{arrows}"
    return (
        f"Here are the {shown:,} of {counted(total, 'query', 'queries')} whose {analysis.primary} differs most between "
        f"the runs; each opens to {what}.{arrows} The values of all queries are in the CSV report, their documents' "
        "ranks in the JSON report."
    )


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
    if found.reliability:
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
