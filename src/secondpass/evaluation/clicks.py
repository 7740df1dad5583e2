"""A log of impressions and clicks to judgements, with what position alone explains taken out.

The position-based model: a document is clicked if it is examined, which depends on its position alone, and attracts,
which depends on query and document alone (Richardson, Dominowska and Ragno 2007, "Predicting Clicks"; Craswell et al.
2008, "An Experimental Comparison of Click Position-Bias Models"). Both are fitted by expectation maximisation on the
log itself (Chuklin, Markov and de Rijke 2015, "Click Models for Web Search", section 4.2), which can tell one from the
other only where the same document was shown for the same query at several positions.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import InvalidInput
from secondpass.evaluation.measures import scipy_stats
from secondpass.evaluation.qrels import Qrels
from secondpass.text import finite_number, is_blank, share

Doubles = NDArray[np.float64]

# Names of columns; white space and "-" count as "_", capitals do not matter.
COLUMNS: dict[str, tuple[str, ...]] = {
    "query": ("query", "query_text", "search_query", "search_term", "question"),
    "query_id": ("query_id", "qid", "queryid"),
    "doc_id": ("doc_id", "document_id", "docid", "corpus_id", "item_id", "product_id", "result_id", "pid"),
    "position": ("position", "pos", "rank"),
    "clicked": ("clicked", "click", "is_clicked", "clicks", "click_count"),
    "impressions": ("impressions", "impression_count", "views", "shown"),
}
THRESHOLDS = (0.1, 0.25, 0.5)
PRIOR, LEAST_SEEN, SURE, ETA = 5.0, 5.0, 0.8, 1.0
# A position whose moved documents have fewer clicks says too little about itself.
LEAST_CLICKS = 10
MOST_ROUNDS, PRECISION, TINY = 10_000, 1e-7, 1e-12
TRUTH = {"true": 1, "false": 0}
LONGEST_NUMBER = 15


@dataclass(frozen=True, slots=True)
class ClickLog:
    """Impressions and clicks, summed by query, document and position.

    Attributes:
        pairs: (query id, document id), each once.
        pair, position: of each sum, int64 [sums]: a place in `pairs`, and the position from 1.
        impressions, clicks: float64 [sums], whole numbers.
        texts: of the queries, by id; empty where the log has ids alone.
        rows: how many were read.
        dropped: rows that say nothing, by reason.
        unread: columns that were not looked at.
    """

    pairs: tuple[tuple[str, str], ...]
    pair: NDArray[np.int64]
    position: NDArray[np.int64]
    impressions: Doubles
    clicks: Doubles
    texts: Mapping[str, str] = field(default_factory=dict)
    rows: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    unread: tuple[str, ...] = ()

    @classmethod
    def of_rows(cls, rows: Iterable[tuple[str, Mapping[str, Any]]], first_position: int = 1) -> ClickLog:
        """Sum rows up, each with what messages call it: ("clicks.csv:2", {"query": ..., "doc_id": ..., ...}).

        The columns are those of the first row, by the names of `COLUMNS`: a query as text, id or both, a document's
        id, a position and whether it was clicked. A row is one impression, or as many as a column of impressions says,
        with as many clicks. A text without an id gets one that is made of it, the same in every log.

        Args:
            rows: any number; they are read once.
            first_position: what the log calls the top of a list, 1 or 0.

        Raises:
            InvalidInput: a column is absent or comes twice, a position or a number is none, clicks are more than
                impressions, nothing was clicked, or nothing else than what was clicked is in the log.
        """
        if first_position not in (0, 1):
            raise InvalidInput(f"first_position={first_position!r} is neither 1 nor 0")
        sums: dict[tuple[str, str, int], list[int]] = {}
        texts: dict[str, str] = {}
        dropped: Counter[str] = Counter()
        columns: dict[str, str] | None = None
        names: dict[str, None] = {}
        count = 0
        for place, row in rows:
            count += 1
            names.update(dict.fromkeys(row))
            columns = columns or _columns(place, row)
            found = _impression(place, row, columns, first_position)
            if isinstance(found, str):
                dropped[found] += 1
                continue
            (query, text, document, position), shown, clicked = found
            if texts.setdefault(query, text) != text:
                dropped["have another text of their query's id than the first; kept under the id"] += 1
            before = sums.setdefault((query, document, position), [0, 0])
            before[0] += shown
            before[1] += clicked
        pairs = {pair: place for place, pair in enumerate(dict.fromkeys((key[0], key[1]) for key in sums))}
        numbers = np.array(list(sums.values()), np.float64).reshape(-1, 2)
        _check_clicks(numbers, count)
        return cls(
            tuple(pairs),
            np.array([pairs[query, document] for query, document, _ in sums], np.int64),
            np.array([position for _, _, position in sums], np.int64),
            numbers[:, 0],
            numbers[:, 1],
            texts if "query" in (columns or {}) else {},
            count,
            dict(dropped),
            tuple(name for name in names if name not in set((columns or {}).values())),
        )


@dataclass(frozen=True, slots=True)
class PositionModel:
    """What was fitted: P(click) = examination of the position * attractiveness of query and document.

    Attributes:
        positions: that the log has, rising.
        examination: of each, relative to the first of them, which is 1.
        estimated: whether the log itself says so; else it lies on the curve (first / position) ** eta.
        eta: of that curve: fitted to the positions that are estimated, else as given.
        attractiveness: P(click) at the first position, float64 [pairs], drawn to `mean` by `prior` impressions.
        seen: impressions of each pair, each times its position's examination, float64 [pairs].
        mean: of the attractiveness, over all impressions.
        prior: the weight of the mean, in impressions.
        impressions, clicks: of each position.
    """

    positions: tuple[int, ...]
    examination: tuple[float, ...]
    estimated: tuple[bool, ...]
    eta: float
    attractiveness: Doubles
    seen: Doubles
    mean: float
    prior: float
    impressions: tuple[int, ...]
    clicks: tuple[int, ...]

    @property
    def origin(self) -> str:
        """What judgements say of where they come from."""
        if len(self.positions) == 1:
            return f"from clicks at position {self.positions[0]}"
        if sum(self.estimated) > 1:
            return "from clicks, position-based model"
        return f"from clicks, position-based model with examination 1/position^{self.eta:g}, which was not estimated"

    @property
    def warning(self) -> str:
        """What is to be said of positions that the log says nothing about; "" if there are none."""
        absent = [position for position, known in zip(self.positions, self.estimated, strict=True) if not known]
        if not absent or len(self.positions) == 1:
            return ""
        if sum(self.estimated) > 1:
            few = (
                f"examination of positions {_listed(absent)} lies on the curve of the others, 1/position^{self.eta:.2f}"
            )
            return f"{few}: too few clicked documents were shown there and elsewhere for the same query"
        return (
            f"examination could not be estimated: too few clicked documents were shown at several positions for the "
            f"same query; it is taken as 1/position^{self.eta:g}"
        )


def fit_positions(log: ClickLog, *, eta: float = ETA, prior: float = PRIOR) -> PositionModel:
    """Fit the position-based model to a log.

    Args:
        log: with clicks and with impressions that were not clicked.
        eta: examination is 1/position^eta where the log cannot tell.
        prior: attractiveness is drawn to its mean as if each pair had been shown so often more (a Beta prior).

    Raises:
        InvalidInput: eta is below 0, or prior not above 0.
    """
    if finite_number(eta, "eta") < 0:
        raise InvalidInput(f"eta={eta!r} is below 0: later positions would be seen more")
    if finite_number(prior, "prior") <= 0:
        raise InvalidInput(f"prior={prior!r} is not above 0")
    positions, place = np.unique(log.position, return_inverse=True)
    known, telling = _told(log, place, len(positions))
    steps = np.log(positions / positions[0])
    if known.sum() > 1:
        examination = _examined(log, place, telling, len(positions))
        weight = np.bincount(place, log.impressions) * known * steps
        eta = max(0.0, float(-(weight * np.log(np.where(known, examination, 1.0))).sum() / (weight * steps).sum()))
        examination = np.where(known, examination, np.exp(-eta * steps))
    else:
        examination = np.exp(-eta * steps)
    mean = float(log.clicks.sum() / (log.impressions * examination[place]).sum())
    attractiveness = _attracting(log, examination[place], min(mean, 1.0), prior)
    return PositionModel(
        tuple(positions.tolist()),
        tuple(examination.tolist()),
        tuple(known.tolist()),
        float(eta),
        attractiveness,
        np.bincount(log.pair, log.impressions * examination[place], len(log.pairs)).astype(np.float64),
        min(mean, 1.0),
        float(prior),
        tuple(np.bincount(place, log.impressions).astype(int).tolist()),
        tuple(np.bincount(place, log.clicks).astype(int).tolist()),
    )


def _told(log: ClickLog, place: NDArray[np.intp], positions: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The positions that clicked documents, each shown at several, join to the first; and their sums in the log."""
    clicks = np.bincount(log.pair, log.clicks, len(log.pairs))
    telling = ((np.bincount(log.pair, minlength=len(log.pairs)) > 1) & (clicks > 0))[log.pair]
    enough = np.bincount(place[telling], clicks[log.pair[telling]], positions) >= LEAST_CLICKS
    enough &= np.bincount(place[telling], log.clicks[telling], positions) > 0
    telling &= enough[place]
    reached = np.arange(positions) == 0
    for _ in range(positions):
        met = np.zeros(len(log.pairs), np.bool_)
        met[log.pair[telling & reached[place]]] = True
        reached[place[telling & met[log.pair]]] = True
    return reached, telling & reached[place]


def _examined(log: ClickLog, place: NDArray[np.intp], telling: NDArray[np.bool_], positions: int) -> Doubles:
    """Examination of the positions, the first's being 1, from the sums that tell.

    The expected clicks of a sum are impressions * examination * attractiveness. Of that, each pair's own clicks are
    conditioned away (Poisson pseudo-likelihood with a fixed effect a pair: Wooldridge 1999, "Distribution-free
    Estimation of Some Nonlinear Panel Data Models"), so that many pairs with few impressions each do no harm: the
    likelihood of both together, whose maximum expectation maximisation finds, makes examination flatter the fewer they
    are, and a prior of attractiveness more so.
    """
    pair, place = log.pair[telling], place[telling]
    shown, clicked = log.impressions[telling], log.clicks[telling]
    own, there = np.bincount(pair, clicked, len(log.pairs)), np.bincount(place, clicked, positions)
    seen = 1.0 / np.arange(1, positions + 1)
    for _ in range(MOST_ROUNDS):
        attracts = own / np.maximum(np.bincount(pair, shown * seen[place], len(log.pairs)), TINY)
        further = there / np.maximum(np.bincount(place, shown * attracts[pair], positions), TINY)
        further /= further[0]
        change = np.abs(further - seen).max()
        seen = further
        if change < PRECISION:
            break
    return np.minimum(seen, 1.0)


def _attracting(log: ClickLog, seen: Doubles, mean: float, prior: float) -> Doubles:
    """Attractiveness of the pairs by expectation maximisation, `seen` being the examination of each sum.

    A sum's impressions without a click were not examined, or examined and did not attract.
    """
    shown = np.bincount(log.pair, log.impressions, len(log.pairs)) + prior
    fixed = np.bincount(log.pair, log.clicks, len(log.pairs)) + prior * mean
    missed = (log.impressions - log.clicks) * (1 - seen)

    def step(attracts: Doubles) -> Doubles:
        own = attracts[log.pair]
        return (fixed + np.bincount(log.pair, missed * own / (1 - seen * own + TINY), len(log.pairs))) / shown

    attracts = np.full(len(log.pairs), mean)
    for _ in range(MOST_ROUNDS):
        first = step(attracts)
        second = step(first)
        bend = second - 2 * first + attracts
        # Aitken's: each pair has a likelihood of its own, which plain steps climb slowly where little is examined.
        limit = np.where(np.abs(bend) > TINY, attracts - (first - attracts) ** 2 / np.where(bend, bend, 1.0), second)
        further = np.where((limit > 0) & (limit <= 1), limit, second)
        change = np.abs(further - attracts).max()
        attracts = further
        if change < PRECISION:
            break
    return attracts


@dataclass(frozen=True, slots=True)
class ClickLabels:
    """Judgements out of a log.

    Attributes:
        qrels: grades by document, by query, with their origin.
        texts: of the judged queries, by id, as far as the log has them.
        grades: judged pairs by grade, from 0 on.
        thresholds: the attractiveness from which on a pair has grade 1, 2, ...
        unjudged: pairs that were seen too seldom to be judged, or are too near the first threshold.
        without_relevant: judged queries that have no relevant document.
    """

    qrels: Qrels
    texts: Mapping[str, str]
    grades: tuple[int, ...]
    thresholds: tuple[float, ...]
    unjudged: int
    without_relevant: int


def click_labels(
    log: ClickLog,
    model: PositionModel,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    least_seen: float = LEAST_SEEN,
    sure: float = SURE,
) -> ClickLabels:
    """Grade the pairs of a log by their attractiveness, where it is sure on which side of the first threshold it lies.

    How sure that is, a Beta distribution says: of the prior, the clicks, and the times seen without one.

    Args:
        log: that the model was fitted to.
        model: of `fit_positions`.
        thresholds: rising; a pair has the grade of the last that it reaches, 0 below the first.
        least_seen: pairs that were seen less (impressions times examination) stay unjudged, and are not grade 0.
        sure: the probability that is enough to call a pair relevant, or not; from 0.5 on. Others stay unjudged.

    Raises:
        InvalidInput: thresholds do not rise within 0 and 1, or no pair is judged, or none of them is relevant.
        MissingExtra: scipy is not installed.
    """
    if not 0.5 <= share(sure, "sure"):
        raise InvalidInput(f"sure={sure!r} is below 0.5, where a pair would be both")
    steps = tuple(finite_number(value, f"thresholds[{index}]") for index, value in enumerate(thresholds))
    if not steps or list(steps) != sorted(set(steps)) or not 0 < steps[0] <= steps[-1] <= 1:
        raise InvalidInput(f"thresholds={list(thresholds)!r} must be numbers above 0, up to 1, that rise")
    enough = model.seen >= finite_number(least_seen, "least_seen")
    if not enough.any():
        most = f"the most is {model.seen.max():.3g} times"
        raise InvalidInput(f"no document was seen {least_seen:g} times for a query: {most} (impressions * examination)")
    relevant = _reaches(log, model, steps[0])
    judged = enough & ((relevant >= sure) | (relevant <= 1 - sure))
    grades = np.searchsorted(steps, model.attractiveness, side="right")
    grades = np.where(relevant >= sure, np.maximum(grades, 1), 0)
    if not grades[judged].any():
        best = f"the most attractive document has {model.attractiveness[enough].max():.3g}"
        raise InvalidInput(f"nothing reaches the lowest threshold, {steps[0]:g}, for sure: {best}")
    found: dict[str, dict[str, int]] = {}
    for (query, document), grade, kept in zip(log.pairs, grades.tolist(), judged.tolist(), strict=True):
        if kept:
            found.setdefault(query, {})[document] = grade
    qrels = Qrels(found, origin=model.origin)
    return ClickLabels(
        qrels,
        {query: log.texts[query] for query in qrels if query in log.texts},
        tuple(np.bincount(grades[judged], minlength=len(steps) + 1).tolist()),
        steps,
        int((~judged).sum()),
        len(qrels) - len(qrels.with_relevant),
    )


def _reaches(log: ClickLog, model: PositionModel, threshold: float) -> Doubles:
    """P(attractiveness >= threshold) of each pair."""
    clicked = np.bincount(log.pair, log.clicks, len(log.pairs))
    shape = model.prior * model.mean + clicked, model.prior * (1 - model.mean) + np.maximum(model.seen - clicked, 0)
    found: Doubles = scipy_stats().beta.sf(threshold, *(np.maximum(part, TINY) for part in shape))
    return found


def _columns(place: str, row: Mapping[str, Any]) -> dict[str, str]:
    """The column of each role, by its name."""
    plain: dict[str, list[str]] = {}
    for name in row:
        plain.setdefault(re.sub(r"[\s-]+", "_", str(name).strip().lower()), []).append(name)
    found: dict[str, str] = {}
    for role, known in COLUMNS.items():
        names = [name for one in known for name in plain.get(one, ())]
        if len(names) > 1:
            raise InvalidInput(f"{place}: any of the columns {_listed(names)} could be the {role}")
        if names:
            found[role] = names[0]
    absent = [role for role in ("doc_id", "position", "clicked") if role not in found]
    if not {"query", "query_id"} & found.keys():
        absent.insert(0, "query or query_id")
    if absent:
        raise InvalidInput(f"{place}: no column for {', '.join(absent)} among {_listed(list(map(str, row)))}")
    return found


Found = tuple[tuple[str, str, str, int], int, int]


def _impression(place: str, row: Mapping[str, Any], columns: Mapping[str, str], first: int) -> Found | str:
    """(query id, its text, document id, position), impressions and clicks of a row; or why it says nothing."""
    values = {role: row.get(name) for role, name in columns.items()}
    text = " ".join(str(values.get("query") or "").split())
    query, document = (_name(place, columns[role], values[role]) if role in values else ""
                       for role in ("query_id", "doc_id"))  # fmt: skip
    if "query" in columns and is_blank(text):
        return "have no query"
    query = query or ("" if "query_id" in columns else query_name(text))
    if not query or not document:
        return "have no id of a document" if query else "have no query"
    if values["position"] in (None, ""):
        return "have no position"
    position = _whole(place, columns["position"], values["position"]) - first + 1
    clicked = _whole(place, columns["clicked"], values["clicked"])
    shown = _whole(place, columns["impressions"], values["impressions"]) if "impressions" in columns else 1
    if position < 1:
        raise InvalidInput(f"{place}: position {position + first - 1} is before the first, {first}")
    if clicked > shown:
        alone = "" if "impressions" in columns else " (a row is one where no column counts them)"
        raise InvalidInput(f"{place}: {clicked} clicks of {shown} impressions{alone}")
    return ((query, text, document, position), shown, clicked) if shown else "have no impression"


def query_name(text: str) -> str:
    """An id for a query that has none: the same text has the same one in every log."""
    return f"q{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def _name(place: str, column: str, value: Any) -> str:
    """An id, a whole number's digits too."""
    if value is None or isinstance(value, str):
        return (value or "").strip()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise InvalidInput(f"{place}: column {column!r} has the id {value!r}, neither a text nor a whole number")


def _whole(place: str, column: str, value: Any) -> int:
    """A whole number from 0 on, true and false too."""
    text = str(value).strip().lower()
    text = str(TRUTH.get(text, text)).removesuffix(".0")
    if text.isascii() and text.isdecimal() and len(text) <= LONGEST_NUMBER:
        return int(text)
    raise InvalidInput(f"{place}: column {column!r} is {value!r}, not a whole number from 0 on")


def _check_clicks(numbers: Doubles, rows: int) -> None:
    shown, clicked = numbers.sum(axis=0) if len(numbers) else (0.0, 0.0)
    if not clicked:
        raise InvalidInput(f"nothing was clicked in {rows:,} rows")
    if shown == clicked:
        both = f"all {int(shown):,} impressions were clicked"
        raise InvalidInput(f"{both}: a log of clicks alone does not say what else was shown; it needs both")


def _listed(names: Sequence[object]) -> str:
    return ", ".join(map(str, names[:10])) + (", ..." if len(names) > 10 else "")
