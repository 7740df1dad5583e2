"""Analyses as a run would give them: seeded, with every part there is, and with hostile texts."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from secondpass.evaluation.comparison import (
    Analysis,
    Change,
    Comparison,
    Contrast,
    DepthCurve,
    DepthPoint,
    Grouping,
    Headroom,
    Interval,
    Placed,
    QueryGroup,
    QueryRanks,
    RelevantShare,
    ScoreDistribution,
    SecondPass,
    ThresholdPoint,
    Ties,
)
from secondpass.evaluation.measures import Coverage, Report
from secondpass.evaluation.reporting.page import to_html
from secondpass.evaluation.scores import ScoredPairs, reliability_of

MEASURES = {"nDCG@10": 0.08, "RR@10": 0.07, "AP": 0.06, "R@100": 0.0}
SYSTEMS = ("bm25", "pocket", "ms-marco-MiniLM-L6-v2")
HOSTILE = (
    "<script>alert('x')</script>",
    "quotes \" and ' & <b>tags</b>",
    "\u202eright to left \u05e9\u05dc\u05d5\u05dd",
    "family \U0001f468\u200d\U0001f469\u200d\U0001f467 emoji",
    "W" * 900,
    "a\x00b\x1b[31mred\nline\ud800",
    "{{ 7 * 7 }} {% raw %} $x^2$",
)
TEXTS = (
    "what similarity laws must be obeyed when constructing aeroelastic models of heated high speed aircraft",
    "what are the structural and aeroelastic problems associated with flight of high speed aircraft",
    "can a criterion be developed to show empirically the validity of flow solutions for chemically reacting gas",
    "papers on shock-sound wave interaction",
    "has anyone investigated the effect of shock generated vorticity on heat transfer to a blunt body",
)


def report(system: str, queries: list[str], gain: float, seed: int) -> Report:
    """Values of every query, better by about `gain` times what a measure gains."""
    random = np.random.default_rng(seed)
    start = np.random.default_rng(7).beta(1.2, 1.3, len(queries))
    values = {}
    for measure, rise in MEASURES.items():
        moved = start + (random.normal(rise * gain, 0.18, len(queries)) if rise and gain else 0.0)
        values[measure] = dict(zip(queries, np.clip(moved, 0, 1).tolist(), strict=True))
    means = {measure: sum(found.values()) / len(found) for measure, found in values.items()}
    coverage = Coverage(len(queries), unanswered=tuple(queries[:2]), without_relevant=("e1", "e2", "e3"))
    return Report(system, values, means, coverage)


def interval(values: dict[str, float]) -> Interval:
    """The normal interval of a mean: near enough for a report."""
    found = np.array(list(values.values()))
    half = 1.96 * float(found.std()) / len(found) ** 0.5
    return Interval(float(found.mean()) - half, float(found.mean()) + half, 0.95)


def differences(first: Report, second: Report, measure: str) -> dict[str, float]:
    """Second minus first by query."""
    return {query: second.values[measure][query] - value for query, value in first.values[measure].items()}


def comparison(first: Report, second: Report, measure: str) -> Comparison:
    """One paired comparison."""
    found = differences(first, second, measure)
    helped, hurt = sum(d > 0 for d in found.values()), sum(d < 0 for d in found.values())
    mean = sum(found.values()) / len(found)
    between = interval(found)
    p = 1.0 if not helped + hurt else 0.0002 if between.low > 0 or between.high < 0 else 0.31
    return Comparison(measure, first.system, second.system, mean, between, p, p, p, helped, hurt,
                      len(found) - helped - hurt, mean / 0.2 or None, 1234 if mean else None)  # fmt: skip


def grouping() -> Grouping:
    """Two groups of queries, the second of them hurt and told apart."""
    low = QueryGroup(5, 20, 50, 0.01, Interval(-0.02, 0.04, 0.975), 0.6, apart=False)
    high = QueryGroup(21, 1234, 50, -0.08, Interval(-0.12, -0.04, 0.975), 0.0004, apart=True)
    return Grouping("query length", (low, high))


def threshold(score: float, precision: float, recall: float, kept: int) -> ThresholdPoint:
    """A point whose documents are half judged."""
    width = 0.8 / (kept + 1) ** 0.5
    ends = Interval(max(0.0, precision - width), min(1.0, precision + width), 0.95)
    relevant, judged = round(precision * kept), kept - kept // 2
    half = RelevantShare(judged, relevant, min(1.0, relevant / judged), ends, 0.5)
    return ThresholdPoint(score, precision, recall, kept, relevant, kept // 2, ends, half)


def second_pass(first: Report, second: Report, texts: tuple[str, ...], seed: int = 3) -> SecondPass:
    """Everything there is about one re-ranked run."""
    random = np.random.default_rng(seed)
    found = differences(first, second, "nDCG@10")
    changes = [
        Change(query, texts[place % len(texts)], first.values["nDCG@10"][query], second.values["nDCG@10"][query],
               int(random.integers(1, 90)), int(random.integers(1, 30)))
        for place, query in enumerate(found)
    ]  # fmt: skip
    changes.sort(key=lambda change: -change.difference)
    headroom = []
    for measure in MEASURES:
        low, high = first.means[measure], second.means[measure]
        ceiling = low if measure == "R@100" else 0.79
        share = None if ceiling == low else (high - low) / (ceiling - low)
        headroom.append(Headroom(measure, low, high, ceiling, 1.0, share))
    start, end = first.means["nDCG@10"], second.means["nDCG@10"]
    points = tuple(
        DepthPoint(depth, start + (end - start) * (1 - 0.95 ** (depth / 1.5)), 1.9 * depth)
        for depth in (0, 1, 2, 3, 5, 10, 20, 30, 50, 75, 100)
    )
    edges = np.linspace(0, 1, 25)
    counts = [
        np.histogram(random.beta(a, b, size), edges)[0]
        for a, b, size in ((4.0, 1.6, 612), (1.5, 3.0, 1180), (1.1, 6.0, 20_400))
    ]
    steps = np.linspace(0, 1, 101)
    thresholds = tuple(
        threshold(float(t), float(0.05 + 0.85 * t**0.8), float((1 - t**1.7) ** 0.9), int(22_000 * (1 - t) ** 2) + 1)
        for t in steps
    )
    scores = np.concatenate([random.beta(a, b, size) for a, b, size in ((4.0, 1.6, 612), (1.1, 6.0, 21_580))])
    relevant, judged = random.random(len(scores)) < scores**2, random.random(len(scores)) < 0.3 + 0.6 * scores
    return SecondPass(
        second.system, tuple(headroom), tuple(changes[:10]), tuple(changes[::-1][:10]), found,
        depth=DepthCurve("nDCG@10", points),
        distribution=ScoreDistribution(tuple(edges.tolist()), *(tuple(map(int, each)) for each in counts)),
        thresholds=thresholds,
        reliability=reliability_of(ScoredPairs(scores, relevant & judged, judged)),
        ties=(Ties("nDCG@10", end - 0.004, end, end + 0.003, 12), Ties("AP", 0.4, 0.4, 0.4, 0)),
        notes=("9 of 225 rankings hold fewer candidates than the depth of 100",),
        groupings=(grouping(),),
    )  # fmt: skip


@cache
def whole(count: int = 225, systems: tuple[str, ...] = ("bm25", "rerank"), texts: tuple[str, ...] = TEXTS) -> Analysis:
    """An analysis with every part; the first system is the baseline, the last one is no better than it."""
    queries = [f"q{place}" for place in range(1, count + 1)]
    last = len(systems) - 1
    reports = tuple(
        report(system, queries, 0.0 if place == 0 else 0.05 if place == last > 1 else 1 + 0.2 * place, place)
        for place, system in enumerate(systems)
    )
    first, others = reports[0], reports[1:]
    passes = tuple(second_pass(first, other, texts) for other in others)
    return Analysis(
        primary="nDCG@10",
        reports=reports,
        intervals={each.system: {m: interval(dict(v)) for m, v in each.values.items()} for each in reports},
        comparisons=tuple(comparison(first, other, measure) for measure in MEASURES for other in others),
        second_passes=passes,
        contrasts=tuple(
            Contrast(one.system, other.system, one.helped, one.hurt, one.groupings)
            for one, other in zip(passes[1:], passes, strict=False)
        ),
        ms={each.system: 3.4 + 190 * place for place, each in enumerate(reports)},
        settings={"dataset": "cranfield (test)", "model": "pocket", "depth": "100", "seed": "0"},
        queries=tuple(
            ranks(query, texts[place % len(texts)], place, count=len(systems)) for place, query in enumerate(queries)
        ),
    )


def ranks(query: str, text: str, place: int, count: int) -> QueryRanks:
    """Nine documents of one query, two of them unjudged, one that a run lacks, in `count` runs; two are in none."""
    places = [[1 + (place + 7 * at + 11 * run * at) % 98 for run in range(count)] for at in range(9)]
    grades = (1, 2, 0, None, 1, 0, None, 1, 1)
    missing = (*places[0][:-1], None)
    documents = (Placed(f"d{place}-0", grades[0], missing),
                 *(Placed(f"d{place}-{at}", grades[at], tuple(places[at])) for at in range(1, 9)))  # fmt: skip
    return QueryRanks(query, text, documents, 2)


def bare(system: str = "bm25") -> Analysis:
    """One run's means and nothing else."""
    only = report(system, ["q1", "q2", "q3"], 0.0, 1)
    return Analysis("nDCG@10", (replace(only, coverage=Coverage(3)),), {}, ())


@cache
def hostile() -> Analysis:
    """Every text that users bring is made to break a page: names of systems and queries, texts, settings."""
    found = whole(40, ("bm25", HOSTILE[0], HOSTILE[4]), HOSTILE)
    queries = {f"q{place + 1}": f"{text} {place}" for place, text in enumerate(HOSTILE)}
    passes = tuple(
        replace(
            each,
            helped=tuple(replace(change, query=queries.get(change.query, change.query)) for change in each.helped),
            notes=HOSTILE,
        )
        for each in found.second_passes
    )
    ranked = (Placed(HOSTILE[1], 1, (1, None, 2)), Placed(HOSTILE[4], None, (None, 4, 2)))
    opened = tuple(QueryRanks(queries.get(each.query, each.query), each.text, ranked, 0) for each in found.queries)
    settings = dict(zip(HOSTILE, HOSTILE[::-1], strict=True))
    return replace(found, second_passes=passes, settings=settings, queries=opened)


@cache
def page_of(kind: str) -> str:
    """A page that several tests look at: drawing it takes most of their time."""
    return to_html({"whole": whole(30), "three": whole(60, SYSTEMS), "hostile": hostile(), "bare": bare()}[kind])
