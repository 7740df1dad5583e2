"""Mining as a whole: against a plain reference on random data, on real collections, and with the embedded model."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from secondpass.corpora import read_corpus
from secondpass.errors import InvalidInput
from secondpass.evaluation.qrels import Qrels, read_qrels
from secondpass.queries import read_queries
from secondpass.training.negatives import mining
from secondpass.training.negatives.candidates import bm25_candidates
from secondpass.training.negatives.mining import mine_negatives
from secondpass.training.negatives.rule import MiningRule

CORPUS = {f"d{number}": f"text number {number}" for number in range(30)}


def collection(seed: int, queries: int) -> tuple[dict[str, str], Qrels, dict[str, list[tuple[str, float | None]]]]:
    """Random judgements, and for each query a ranking of some documents with many ties."""
    texts, grades, found = {}, {}, {}
    for number in range(queries):
        rng = random.Random(f"{seed}-{number}")
        query = f"q{number}"
        texts[query] = f"question {number}"
        grades[query] = {name: rng.choice([0, 1, 2]) for name in rng.sample(list(CORPUS), 6)}
        ranked = sorted(rng.sample(list(CORPUS), 20), key=lambda name: rng.random())
        scores = sorted((round(rng.random(), 1) for _ in ranked), reverse=True)
        found[query] = list(zip(ranked, scores, strict=True))
    return texts, Qrels(grades), found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("margin", [None, 0.1])
def test_equals_a_plain_reference(seed, margin):
    """Positives, then judged negatives by rank, then the best of the window that score below the lowest positive."""
    texts, qrels, found = collection(seed, 12)
    rule = MiningRule(negatives=6, first=2, last=12, absolute_margin=margin)
    mined = mine_negatives(texts, CORPUS, qrels, found, rule=rule)
    expected = {}
    for query, grades in qrels.items():
        scores = dict(found[query])
        positives = [name for name, grade in grades.items() if grade > 0]
        judged = [name for name in scores if grades.get(name) == 0]
        judged += [name for name, grade in grades.items() if grade == 0 and name not in scores]
        window = [name for name in scores if grades.get(name, 0) <= 0][1:12]
        known = [scores[name] for name in positives if name in scores]
        if margin is not None:
            window = [name for name in window if known and scores[name] < min(known) - margin]
        negatives = (judged + [name for name in window if name not in judged])[:6]
        if positives and negatives:
            expected[query] = (*positives, *negatives), (1.0,) * len(positives) + (0.0,) * len(negatives)
    assert {group.query_id: (group.document_ids, group.labels) for group in mined.groups} == expected
    for group, scores in zip(mined.groups, mined.first_pass_scores, strict=True):
        assert group.query == texts[group.query_id]
        assert group.documents == tuple(CORPUS[name] for name in group.document_ids)
        assert scores == tuple(dict(found[group.query_id]).get(name) for name in group.document_ids)


@pytest.mark.parametrize("sampling", ["top", "random"])
def test_a_query_more_changes_no_other(sampling, monkeypatch):
    """Each query is mined and sampled by itself, whatever queries stand before it and how many are held at once."""
    texts, qrels, found = collection(0, 10)
    rule = MiningRule(negatives=3, sampling=sampling, positives=1)
    whole = {group.query_id: group for group in mine_negatives(texts, CORPUS, qrels, found, rule=rule).groups}
    monkeypatch.setattr(mining, "QUERIES_AT_ONCE", 2)
    some = {query: texts[query] for query in ("q7", "q3", "q4")}
    part = {group.query_id: group for group in mine_negatives(some, CORPUS, qrels, found, rule=rule).groups}
    assert part == {query: whole[query] for query in some if query in whole}
    other = mine_negatives(texts, CORPUS, qrels, found, rule=MiningRule(negatives=3, sampling=sampling, seed=1))
    assert (sampling == "top") == all(
        group.document_ids[-1] == whole[group.query_id].document_ids[-1] for group in other.groups
    )


def test_the_report_adds_up():
    """Every candidate is in a group, spare, or counted under a reason; every query has a group or a reason."""
    texts, qrels, found = collection(3, 20)
    texts |= {"unjudged": "x", "blank": "\u200b "}
    grades = {query: dict(judged) for query, judged in qrels.items()}
    grades |= {"blank": {"d1": 1}, "no text": {"d1": 1}, "gone": {"elsewhere": 1}, "alone": {"d2": 1}}
    texts |= {"gone": "y", "alone": "z"}
    mined = mine_negatives(texts, CORPUS, Qrels(grades), found, rule=MiningRule(negatives=30, relative_margin=0.2))
    report = mined.report
    assert report.left_out[mining.NO_QUERY] == ("no text", "blank")
    assert report.left_out[mining.UNJUDGED] == ("unjudged",)
    assert report.left_out[mining.NO_POSITIVE] == ("gone",)
    assert "alone" in report.left_out[mining.NO_NEGATIVE]
    assert report.missing == 1
    assert report.queries == 25 == report.groups + sum(map(len, report.left_out.values()))
    assert report.groups == len(mined.groups)
    assert report.positives == sum(label > 0 for group in mined.groups for label in group.labels)
    assert report.negatives == sum(label == 0 for group in mined.groups for label in group.labels)
    assert report.short == {
        group.query_id: group.labels.count(0.0) for group in mined.groups if group.labels.count(0.0) < 30
    }
    # Nobody has thirty candidates, so nothing is spare.
    assert report.considered == report.negatives + sum(report.dropped.values())


def test_relevant_to_a_query_of_the_same_text():
    """Two ids of one question: the positive of one is no negative of the other."""
    queries = {"a": "What is it?", "b": "what  is it?"}
    mined = mine_negatives(
        queries,
        CORPUS,
        {"a": {"d1": 1}, "b": {"d2": 1}},
        {query: [("d1", 3.0), ("d2", 2.0), ("d3", 1.0)] for query in "ab"},
    )
    assert [group.document_ids for group in mined.groups] == [("d1", "d3"), ("d2", "d3")]


def test_positives_limited_deduplicated_and_graded():
    """The best grades are kept when there are too many; copies of a text count once; labels may be grades."""
    corpus = CORPUS | {"d2": "text number 1"}
    qrels = {"q": {"d1": 1, "d2": 1, "d3": 3, "d4": 2, "d5": 1}}
    rule = MiningRule(positives=2, negatives=1, graded=True)
    mined = mine_negatives({"q": "x"}, corpus, qrels, {"q": [("d5", 2.0), ("d9", 1.0)]}, rule=rule)
    (group,) = mined.groups
    assert group.document_ids == ("d3", "d4", "d9")
    assert group.labels == (3.0, 2.0, 0.0)
    assert mined.report.spare_positives == 2
    everything = mine_negatives({"q": "x"}, corpus, qrels, {"q": [("d9", 1.0)]})
    assert everything.groups[0].document_ids == ("d1", "d3", "d4", "d5", "d9")


def test_nothing_to_mine():
    """Empty input is an empty result that says so, not an error."""
    mined = mine_negatives({}, {}, {}, {})
    assert mined.groups == ()
    assert mined.report.lines()[0].startswith("Queries with a group: 0 of 0;")


def test_a_run_of_another_corpus_is_refused():
    """Candidates that the corpus lacks are no negatives that could be skipped in silence."""
    with pytest.raises(InvalidInput, match="query 'q': document 'other' is not in the corpus"):
        mine_negatives({"q": "x"}, CORPUS, {"q": {"d1": 1}}, {"q": [("other", 1.0)]})


def read(folder: Path, split: str) -> tuple[dict[str, str], dict[str, str], Qrels]:
    """Queries, corpus and judgements of a collection."""
    corpus = {document.id: document.content for document in read_corpus(folder)}
    return read_queries(folder / "queries.jsonl"), corpus, read_qrels(folder / "qrels" / f"{split}.tsv")


def test_on_a_real_collection(data_folder):
    """BM25 over adi: every query gets five documents, none relevant, all of words in common, by falling score."""
    queries, corpus, qrels = read(data_folder / "adi", "test")
    mined = mine_negatives(queries, corpus, qrels, bm25_candidates(queries, corpus, qrels=qrels))
    assert mined.report.groups == len(qrels.with_relevant)
    assert mined.report.short == {}
    for group, scores in zip(mined.groups, mined.first_pass_scores, strict=True):
        negatives = group.document_ids[-5:]
        assert not any(qrels[group.query_id].get(name, 0) > 0 for name in negatives)
        assert list(scores[-5:]) == sorted(scores[-5:], reverse=True)
        assert None not in scores
        assert min(scores[-5:]) > 0


def test_the_embedded_model_finds_false_negatives(data_folder):
    """Hide half of trecqa's judged answers: the embedded model drops hidden ones far oftener than wrong ones."""
    from secondpass import CrossEncoder

    queries, corpus, qrels = read(data_folder / "trecqa", "dev")
    chosen = [query for query in qrels.with_relevant if sum(grade > 0 for grade in qrels[query].values()) >= 2][:12]
    hidden, shown, found = {}, {}, {}
    for query in chosen:
        relevant = [name for name, grade in qrels[query].items() if grade > 0]
        shown[query], hidden[query] = {relevant[0]: 1}, set(relevant[1:4])
        wrong = [name for name, grade in qrels[query].items() if grade <= 0][:3]
        found[query] = [(name, 1.0) for name in [*relevant[1:4], *wrong]]
    rule = MiningRule(negatives=6, rescore_margin=0.2)
    encoder = CrossEncoder("secondpass/pocket", device="cpu")
    mined = mine_negatives({q: queries[q] for q in chosen}, corpus, shown, found, rule=rule, cross_encoder=encoder)
    kept = {group.query_id: set(group.document_ids[1:]) for group in mined.groups}
    false = sum(len(kept.get(query, set()) & hidden[query]) for query in chosen) / sum(map(len, hidden.values()))
    true = sum(len(kept.get(query, set()) - hidden[query]) for query in chosen) / (
        sum(map(len, found.values())) - sum(map(len, hidden.values()))
    )
    assert true > 2 * false
    assert all(score is not None for scores in mined.cross_encoder_scores for score in scores)
