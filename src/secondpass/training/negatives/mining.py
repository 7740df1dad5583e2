"""Labelled queries and candidates to training groups with hard negatives."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from secondpass.text import is_blank
from secondpass.training.data.groups import Group, columns_of, write_rows
from secondpass.training.negatives import sifting
from secondpass.training.negatives.candidates import Candidates, Judgements
from secondpass.training.negatives.sifting import Choice, JudgedQuery, MiningRule

if TYPE_CHECKING:
    from secondpass.ranking import Relevance
    from secondpass.reranker import Reranker

SHOWN = 5


@dataclass(frozen=True, slots=True)
class MiningReport:
    """Counts of one mining.

    Attributes:
        queries: that were given, or judged.
        groups: made, one a query.
        positives: in them.
        negatives: in them.
        judged_negatives: of these, judged and not relevant.
        wanted: negatives that each query should have.
        considered: candidates, and judged documents, that were looked at.
        rescored: documents that the cross-encoder read.
        dropped: candidates by the first reason that dropped them, each reason of `sifting.REASONS`.
        missing: relevant documents that the corpus does not have, or whose text is blank.
        spare_positives: relevant documents beyond the rule's number.
        short: queries with fewer negatives than wanted, and how many they have.
        left_out: ids of the queries without a group, by reason.
    """

    queries: int
    groups: int
    positives: int
    negatives: int
    judged_negatives: int
    wanted: int
    considered: int
    rescored: int
    dropped: Mapping[str, int]
    missing: int
    spare_positives: int
    short: Mapping[str, int]
    left_out: Mapping[str, tuple[str, ...]]

    def lines(self) -> list[str]:
        """The report for people, a line a fact."""
        made = [
            f"Queries with a group: {self.groups} of {self.queries}; positives {self.positives}, negatives "
            f"{self.negatives} (judged and not relevant: {self.judged_negatives})"
        ]
        made += [f"Left out, {reason}: {_named(ids)}" for reason, ids in self.left_out.items()]
        counts = (
            ("Relevant documents that the corpus lacks, or that have no text", self.missing),
            ("Relevant documents beyond the number that a query may have", self.spare_positives),
            ("Documents read by the cross-encoder", self.rescored),
        )
        if self.short:
            made.append(f"Fewer than {self.wanted} negatives: {_named(tuple(self.short))}")
        dropped = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items() if count) or "none"
        made.append(f"Candidates: {self.considered}; dropped: {dropped}")
        return made + [f"{name}: {count}" for name, count in counts if count]


@dataclass(frozen=True, slots=True)
class Mined:
    """Groups, positives first, and for each document of each group its scores; None where there is none.

    Attributes:
        groups: one a query.
        report: what was dropped and why.
        first_pass_scores: of the candidates' list.
        cross_encoder_scores: activated, of what the cross-encoder read.
    """

    groups: tuple[Group, ...]
    report: MiningReport
    first_pass_scores: tuple[tuple[float | None, ...], ...]
    cross_encoder_scores: tuple[tuple[float | None, ...], ...]


def _named(ids: tuple[str, ...]) -> str:
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return f"{len(ids)} ({', '.join(ids[:SHOWN])}{more})"


NO_QUERY = "their text is not given or blank"
UNJUDGED = "nothing is judged relevant"
NO_POSITIVE = "no relevant document has a text"
NO_NEGATIVE = "no candidate is left"

# Queries whose candidates are held and rescored together.
QUERIES_AT_ONCE = 128


@dataclass(slots=True)
class _Counts:
    considered: int = 0
    rescored: int = 0
    missing: int = 0
    spare: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    left_out: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


def mine_negatives(
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    qrels: Judgements,
    candidates: Candidates,
    *,
    rule: MiningRule | None = None,
    cross_encoder: Reranker | None = None,
    relevance: Relevance | None = None,
    progress: bool = False,
) -> Mined:
    """Choose each query's negatives among its candidates.

    A document that is judged relevant in any grade is never one, nor one with the same text as such a document; what
    is relevant to one query counts for every query of the same text. What a query gets depends on no other query.

    Args:
        queries: text by id; a group is made for each that has a relevant document and a negative.
        corpus: text by id.
        qrels: grades by document id, by query id; above 0 is relevant.
        candidates: see `candidates`; a query that is not in it has only judged negatives.
        rule: which candidates are taken; None takes the defaults.
        cross_encoder: reads the positives and candidates; see `MiningRule.rescore_margin`.
        relevance: for a cross-encoder with several labels, as in `rank`.
        progress: show a bar on stderr.

    Raises:
        InvalidInput: a candidate is not in the corpus, comes twice or has no finite score that the rule needs.
        NonFiniteScore: the cross-encoder gave NaN or infinity.
    """
    chosen = rule or MiningRule()
    counts = _Counts()
    made: list[Choice] = []
    asked = iter(tqdm(list(_asked(queries, corpus, qrels, chosen, counts)), "Queries", disable=not progress))
    while part := list(islice(asked, QUERIES_AT_ONCE)):
        sifted = [
            (judged, sifting.sift(judged, corpus, candidates.get(judged.query_id, ()), chosen)) for judged in part
        ]
        for _, found in sifted:
            counts.considered += len(found.judged) + len(found.unjudged) + sum(found.dropped.values())
        if cross_encoder is None:
            made += sifting.choices(sifted, chosen)
        else:
            made += sifting.rescored_choices(sifted, chosen, corpus, cross_encoder, relevance)
    for choice in made:
        counts.dropped.update(choice.dropped)
        counts.rescored += len(choice.scores)
        if not choice.negatives:
            counts.left_out[NO_NEGATIVE].append(choice.judged.query_id)
    kept = [choice for choice in made if choice.negatives]
    groups = tuple(_group(choice, corpus, qrels, chosen.graded) for choice in kept)
    return Mined(
        groups,
        _report(len(queries.keys() | qrels.keys()), kept, chosen, counts),
        tuple(tuple(item.score for item in (*c.sifted.positives, *c.negatives)) for c in kept),
        tuple(tuple(c.scores.get(item.id) for item in (*c.sifted.positives, *c.negatives)) for c in kept),
    )


def _asked(
    queries: Mapping[str, str], corpus: Mapping[str, str], qrels: Judgements, rule: MiningRule, counts: _Counts
) -> Iterator[JudgedQuery]:
    """Queries with something relevant to them; the others are counted by the reason they are left out."""
    by_text: dict[str, set[str]] = defaultdict(set)
    for query, text in queries.items():
        by_text[sifting.plain(text)].update(name for name, grade in qrels.get(query, {}).items() if grade > 0)
    counts.left_out[NO_QUERY] += [query for query in qrels if query not in queries]
    for query, text in queries.items():
        relevant = [document for document, grade in qrels.get(query, {}).items() if grade > 0]
        positives = _positives(query, relevant, corpus, qrels, rule, counts)
        if positives and not is_blank(text):
            not_relevant = tuple(document for document, grade in qrels[query].items() if grade <= 0)
            yield JudgedQuery(query, text, positives, by_text[sifting.plain(text)], not_relevant)
        else:
            reason = NO_QUERY if is_blank(text) else NO_POSITIVE if relevant else UNJUDGED
            counts.left_out[reason].append(query)


def _positives(
    query: str, relevant: Sequence[str], corpus: Mapping[str, str], qrels: Judgements, rule: MiningRule, counts: _Counts
) -> tuple[str, ...]:
    """Relevant documents with a text, each text once."""
    there = {sifting.plain(corpus[name]): name for name in reversed(relevant) if not is_blank(corpus.get(name, ""))}
    counts.missing += sum(is_blank(corpus.get(name, "")) for name in relevant)
    found = [name for name in relevant if name in set(there.values())]
    if rule.positives is None or len(found) <= rule.positives:
        return tuple(found)
    counts.spare += len(found) - rule.positives
    ordered = sorted(found, key=lambda name: (-qrels[query][name], sifting.drawn(rule.seed, query, name)))
    return tuple(ordered[: rule.positives])


def _group(choice: Choice, corpus: Mapping[str, str], qrels: Judgements, graded: bool) -> Group:
    query = choice.judged.query_id
    positives = [item.id for item in choice.sifted.positives]
    ids = (*positives, *(item.id for item in choice.negatives))
    labels = [float(qrels[query][name]) if graded else 1.0 for name in positives] + [0.0] * len(choice.negatives)
    documents = tuple(corpus[name] for name in ids)
    origin = str(getattr(qrels, "origin", ""))
    return Group(
        choice.judged.text, documents, tuple(labels), f"mined query {query!r}", query, ids, label_origin=origin
    )


def _report(queries: int, kept: Sequence[Choice], rule: MiningRule, counts: _Counts) -> MiningReport:
    return MiningReport(
        queries=queries,
        groups=len(kept),
        positives=sum(len(choice.sifted.positives) for choice in kept),
        negatives=sum(len(choice.negatives) for choice in kept),
        judged_negatives=sum(len(set(choice.negatives) & set(choice.sifted.judged)) for choice in kept),
        wanted=rule.negatives,
        considered=counts.considered,
        rescored=counts.rescored,
        dropped={reason: counts.dropped[reason] for reason in sifting.REASONS},
        missing=counts.missing,
        spare_positives=counts.spare,
        short={c.judged.query_id: len(c.negatives) for c in kept if len(c.negatives) < rule.negatives},
        left_out={reason: tuple(ids) for reason, ids in counts.left_out.items() if ids},
    )


def write_mined(path: Path, mined: Mined) -> None:
    """Write an object a group that the data readers read back; the file is there whole or not at all.

    {"query_id", "query", "documents": [...], "labels": [...], "document_ids": [...], "first_pass_scores": [...]} and,
    if a cross-encoder was asked, "cross_encoder_scores": all lists go with the documents, null where there is no
    score.

    Raises:
        InvalidInput: the path is refused (see `checked_target`), or cannot be written to.
    """
    columns = {"first_pass_scores": mined.first_pass_scores}
    if any(score is not None for scores in mined.cross_encoder_scores for score in scores):
        columns["cross_encoder_scores"] = mined.cross_encoder_scores
    rows: Any = zip(mined.groups, *columns.values(), strict=True)
    write_rows(path, (columns_of(group) | dict(zip(columns, scores, strict=True)) for group, *scores in rows))
