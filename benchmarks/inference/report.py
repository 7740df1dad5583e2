"""Figures as Markdown, and as a plot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.inference import machine

COLUMNS = (
    "", "pairs/s", "times default", "p50 ms", "p95 ms", "one pair ms", "largest difference", "tau", "top 10",
    "peak MB", "cold start s",
)  # fmt: skip
SHORT = (
    "", "pairs/s", "times default", "times Haystack's", "p50 ms", "p95 ms", "largest difference", "tau", "top 10",
)  # fmt: skip


def table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right."""
    rule = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [columns, rule, *lines])


def number(value: float | None, digits: int = 0, after: str = "") -> str:
    """Empty where there is none."""
    return "" if value is None else f"{value:,.{digits}f}{after}"


def speed(row: dict[str, Any]) -> list[str]:
    """Of one contender, for `COLUMNS`."""
    return [number(row["pairs_per_second"], 0 if row["pairs_per_second"] >= 100 else 1), number(row["ratio"], 2, "x")]


def exactness(row: dict[str, Any]) -> list[str]:
    """Of one contender."""
    return [f"{row['difference']:.1e}", number(row["tau"], 3), number(row["top10"], 2)]


def library_lines(rows: Sequence[dict[str, Any]], fresh: dict[str, dict[str, float]]) -> list[list[str]]:
    """Everything but Haystack."""
    lines = []
    for row in rows:
        if row["way"].startswith("haystack"):
            continue
        started = fresh.get(row["name"], {})
        peak = started.get("device_peak_mb") or started.get("peak_mb")
        times = [number(row["p50_ms"]), number(row["p95_ms"]), number(row["single_ms"], 1)]
        cost = [number(peak), number(started.get("cold_s"), 1)]
        lines.append([row["name"], *speed(row), *times, *exactness(row), *cost])
    return lines


def haystack_lines(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Both rankers."""
    lines = []
    for row in rows:
        if row["way"].startswith("haystack"):
            times = [number(row["ratio_haystack"], 2, "x"), number(row["p50_ms"]), number(row["p95_ms"])]
            lines.append([row["name"].removeprefix("Haystack "), *speed(row), *times, *exactness(row)])
    return lines


def summary(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A line for each of ours: times the default, times the best of the others."""
    for row in rows:
        best = row["their_best"]
        if best is not None:
            yield f"- {row['name']}: {row['ratio']:.2f}x the default, {best['ratio']:.2f}x {best['name']}"


def judged_table(found: dict[str, Any]) -> str:
    """nDCG@10, and what other numbers change: of it, and of the order."""
    names = list(next(iter(found.values()))["rows"])
    lines = []
    for name in names:
        cells = [name]
        for judged in found.values():
            own, exact = judged["rows"][name], judged["rows"][names[0]]
            change = f" ({own['ndcg'] - exact['ndcg']:+.4f}; {own['tau']:.3f}, {own['top10']:.2f})"
            cells.append(f"{own['ndcg']:.4f}" + ("" if name == names[0] else change))
        lines.append(cells)
    head = "nDCG@10 (change; tau, top 10)"
    return table([head, *(f"{name} ({judged['queries']} queries)" for name, judged in found.items())], lines)


def model_part(name: str, found: dict[str, Any]) -> Iterator[str]:
    """Paragraphs about one model."""
    for kind, load in found["loads"].items():
        around = f" and {found['template_tokens']} of the template" if found.get("template_tokens") else ""
        setting = (
            f"{load['queries']} queries of {load['documents']} documents, "
            f"{load['tokens']:.0f} ± {load['tokens_spread']:.0f} tokens a pair{around}"
        )
        yield f"**{name}, {kind}**: {setting}" + (f"; random weights: {found['note']}" if found.get("note") else "")
        yield table(COLUMNS, library_lines(load["rows"], found.get("fresh", {})))
        yield "\n".join(summary(load["rows"]))
        lines = haystack_lines(load["rows"])
        if lines:
            yield f"Through Haystack, {kind}:"
            yield table(SHORT, lines)
    if found.get("judged"):
        yield judged_table(found["judged"])
    for shared in found.get("callers", ()):
        yield callers_line(shared)
    if found["absent"]:
        yield "\n".join(f"- not measured: {name}: {reason}" for name, reason in found["absent"].items())


def callers_line(shared: dict[str, Any]) -> str:
    """One sentence on threads that share a model."""
    ratios, worst = shared["ratio"], shared["differences"]
    return (
        f"{shared['threads']} threads sharing one {shared['precision']} model reach {100 * ratios['threads']:.0f} % of "
        f"one thread's throughput (largest difference of a logit {worst['threads']:.0e}), merged into shared batches "
        f"{100 * ratios['merged']:.0f} % ({worst['merged']:.0e})."
    )


def markdown(found: dict[str, Any]) -> str:
    """The whole report."""
    facts = found["machine"]
    kernel = ", ".join(f"{precision} {used}" for precision, used in facts["kernel"].items())
    parts = [
        f"{machine.in_words(facts)}; compiled kernel: {kernel}.",
        "; ".join(f"{name} {value}" for name, value in facts["versions"].items()) + ".",
        machine.cores_in_words(found["cores_before"], found["cores_after"], facts["threads"]),
    ]
    if found["warning"]:
        parts.insert(0, found["warning"])
    for name, model in found["models"].items():
        parts += model_part(name, model)
    parts.append("\n".join(verdict_lines(found)))
    return "\n\n".join(part for part in parts if part) + "\n"


def verdict_lines(found: dict[str, Any]) -> Iterator[str]:
    """Every bar with its figure, then one line for all; nothing where no model has bars."""
    asked = found.get("verdict", [])
    for said, met in asked:
        yield f"- {said}: {'not measured' if met is None else 'met' if met else 'MISSED'}"
    if asked:
        met = sum(met is True for _, met in asked)
        missed = sum(met is False for _, met in asked)
        rest = f"{len(asked) - met - missed} not measured" + ("; NOT VALID, see above" if found["warning"] else "")
        yield f"\n**Verdict: {met} of {len(asked)} met, {missed} missed, {rest}.**"


def plot(found: dict[str, Any], path: Path) -> None:
    """Bars of pairs per second, a panel for each model and load; SVG, PNG or PDF by the path's ending."""
    from matplotlib.figure import Figure

    panels = [(m, k, load["rows"]) for m, model in found["models"].items() for k, load in model["loads"].items()]
    height = sum(0.28 * len(rows) + 1 for _, _, rows in panels)
    figure = Figure(figsize=(9, height), layout="constrained")
    shares = [len(rows) for _, _, rows in panels]
    axes = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": shares})[:, 0]
    for axis, (model, kind, rows) in zip(axes, panels, strict=True):
        colours = ["tab:blue" if "econd" in row["way"] or row["way"] == "packed torch" else "0.7" for row in rows]
        bars = axis.barh([row["name"] for row in rows], [row["pairs_per_second"] for row in rows], color=colours)
        axis.bar_label(bars, [f"{row['ratio']:.1f}x" for row in rows], padding=3)
        axis.invert_yaxis()
        axis.margins(x=0.1)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_title(f"{model}, {kind}", loc="left")
        axis.set_xlabel("pairs per second")
    figure.savefig(path)
