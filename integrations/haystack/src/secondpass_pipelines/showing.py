"""Answers and figures on a terminal: tables that hold at 80 columns and without colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest

from rich.table import Table
from rich.text import Text

from secondpass.calibration import PROBABILITY
from secondpass.cli.output import PipeConsole, print_table
from secondpass_pipelines.results import MRR, NDCG, Quality, QueryResult, RankedDocument

RELEVANT = "✓"


def print_answer(answer: QueryResult) -> None:
    """Print the second pass's documents with the rank that the first pass gave them."""
    before = first_ranks(answer)
    PipeConsole().print(Text(one_line(answer.query), style="bold"))
    if not answer.second:
        PipeConsole().print("(no document found)")
        return
    told = PROBABILITY[:1] if any(document.chance for document in answer.second) else ()
    print_table(
        ("rank", "was", "score", *told, "id", "text"),
        (
            (
                str(place),
                str(before.get(document.id, "-")),
                "" if document.score is None else f"{document.score:.4f}",
                *(f"{document.chance[name]:.3f}" if name in document.chance else "-" for name in told),
                document.id,
                document.passage.get("text") or document.text or "",
            )
            for place, document in enumerate(answer.second, start=1)
        ),
    )


def side_by_side(answer: QueryResult, titles: Mapping[str, str], relevant: Mapping[str, int], rows: int) -> Table:
    """First pass left, second pass right, relevant documents ticked, and how far each one moved."""
    table = Table(box=None, expand=True, pad_edge=False, show_header=True, header_style="dim")
    table.add_column("", width=1)
    table.add_column("first pass", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("second pass", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("was", justify="right", no_wrap=True, style="dim")
    first = next(iter(answer.first.values()), ())
    before = first_ranks(answer)
    for place, (left, right) in enumerate(zip_longest(first[:rows], answer.second[:rows]), start=1):
        was = "" if right is None else str(before.get(right.id, "-"))
        table.add_row(str(place), _cell(left, titles, relevant), _cell(right, titles, relevant), was)
    return table


def quality_table(qualities: Sequence[Quality], last: str) -> Table:
    """One line a stage: figures and milliseconds a query."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in (NDCG, MRR, "ms/query"):
        table.add_column(name, justify="right", no_wrap=True)
    for quality in qualities:
        # One component alone is the whole search: there is no second pass in it.
        role = "second pass" if quality.stage == last and len(qualities) > 1 else "first pass"
        figures = [f"{quality.mean(name):.4f}" for name in (NDCG, MRR)]
        style = "bold" if quality.stage == last else ""
        table.add_row(f"{role} ({quality.stage})", *figures, f"{quality.ms:.1f}", style=style)
    return table


def first_ranks(answer: QueryResult) -> dict[str, int]:
    """The best rank that any component of the first pass gave each document, from 1."""
    ranks: dict[str, int] = {}
    for ranking in answer.first.values():
        for place, document in enumerate(ranking, start=1):
            ranks[document.id] = min(place, ranks.get(document.id, place))
    return ranks


def one_line(text: str) -> str:
    """Text with white space squeezed."""
    return " ".join(text.split())


def _cell(document: RankedDocument | None, titles: Mapping[str, str], relevant: Mapping[str, int]) -> Text:
    if document is None:
        return Text("")
    judged = relevant.get(document.id, 0) > 0
    shown = one_line(titles.get(document.id) or document.text or document.id)
    return Text(f"{RELEVANT if judged else ' '} {shown}", style="green" if judged else "")
