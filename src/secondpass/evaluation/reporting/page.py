"""An analysis as one HTML page that needs nothing but itself: no network, no script, plots inside."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TextIO

from secondpass.errors import MissingExtra
from secondpass.evaluation.findings import Analysis, SecondPass
from secondpass.evaluation.reporting import plots, tables
from secondpass.evaluation.reporting.files import opened
from secondpass.evaluation.reporting.plots import Plot
from secondpass.evaluation.reporting.sentences import (
    headroom_sentence,
    notes,
    verdicts,
)
from secondpass.evaluation.reporting.tables import Table
from secondpass.evaluation.reporting.wording import counted, shortened

TITLE = "Second-pass evaluation"
CHANGES = 20
MOST_SYSTEMS = 12
LONGEST_TEXT = 400
LONGEST_NAME = 80
# A hyphen before a number is a minus sign, also after an opening bracket.
MINUS = re.compile(r"(?<![^\s(])-(?=\d)")
PERCENT = re.compile("(?<=[0-9]) %")
# Characters that HTML does not allow, and halves of surrogate pairs.
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Section:
    """One re-ranked run on the page."""

    anchor: str
    system: str
    headroom: Table | None
    sentences: tuple[str, ...]
    plots: tuple[Plot, ...]
    details: tuple[Table, ...]
    changes: tuple[Table, ...]
    notes: tuple[str, ...]


def to_html(analysis: Analysis, title: str = TITLE) -> str:
    """The page as text.

    Args:
        analysis: what was found; what it does not have gets no section.
        title: the page's heading.

    Raises:
        MissingExtra: jinja2 or matplotlib is not installed.
    """
    template = _environment().from_string(_packaged("page.html.jinja"))
    differences = tables.differences(analysis)
    facts = [counted(analysis.reports[0].coverage.measured, "query", "queries"), f"main measure: {analysis.primary}"]
    if len(analysis.reports) > 1:
        facts.append(f"first pass: {shortened(analysis.reports[0].system, LONGEST_NAME)}")
    rendered: str = template.render(
        title=title,
        style=_packaged("page.css"),
        facts=facts,
        verdicts=verdicts(analysis),
        means=tables.means_side_by_side(analysis),
        means_plots=list(_means_plots(analysis)),
        differences=differences,
        sections=[_section(analysis, found, f"s{place}") for place, found in enumerate(analysis.second_passes)],
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
            yield plots.means_plot(f"m{place}", analysis, measure)


def _section(analysis: Analysis, found: SecondPass, anchor: str) -> Section:
    changes = (
        tables.changes("Queries helped most", found.helped, CHANGES),
        tables.changes("Queries hurt most", found.hurt, CHANGES),
    )
    details = (
        tables.ties(found),
        tables.depths(found.depth) if found.depth and found.depth.points else None,
        tables.thresholds(found.thresholds) if found.thresholds else None,
    )
    return Section(
        anchor=anchor,
        system=found.system,
        headroom=tables.headroom(found) if found.headroom else None,
        sentences=tuple(
            headroom_sentence(shortened(found.system, LONGEST_NAME), each)
            for each in found.headroom
            if each.measure == analysis.primary
        ),
        plots=tuple(_plots(analysis, found, anchor)),
        details=tuple(table for table in details if table),
        changes=tuple(table for table in changes if table),
        notes=found.notes,
    )


def _plots(analysis: Analysis, found: SecondPass, anchor: str) -> Iterator[Plot]:
    if found.differences:
        yield plots.gains_plot(f"{anchor}-gains", found.differences, analysis.primary)
    if found.depth and found.depth.points:
        yield plots.depth_plot(f"{anchor}-depth", found.depth)
    if found.distribution and len(found.distribution.edges) > 1:
        yield plots.distribution_plot(f"{anchor}-scores", found.distribution)
    if found.thresholds:
        yield plots.threshold_plot(f"{anchor}-thresholds", found.thresholds)
    if found.reliability and found.reliability.sizes:
        yield plots.reliability_plot(f"{anchor}-reliability", found.reliability)


def _environment() -> Any:
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise MissingExtra('jinja2 is not installed: pip install "secondpass[eval]"') from error
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["drawn"] = Markup
    environment.filters["shown"] = _shown
    environment.filters["typeset"] = _typeset
    return environment


def _packaged(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _shown(text: str, longest: int = LONGEST_NAME) -> str:
    return shortened(FORBIDDEN.sub("\ufffd", " ".join(text.split())), longest)


def _typeset(text: str) -> str:
    return PERCENT.sub("\u00a0%", MINUS.sub("\u2212", FORBIDDEN.sub("\ufffd", text)))
