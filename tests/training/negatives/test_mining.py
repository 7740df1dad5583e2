"""Mining as a whole: against a plain reference on random data, on real collections, and with the embedded model."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from secondpass.corpora import read_corpus, read_queries
from secondpass.errors import InvalidInput
from secondpass.evaluation.qrels import Qrels, read_qrels
from secondpass.training.data.groups import checked_target
from secondpass.training.negatives import mining
from secondpass.training.negatives.candidates import bm25_candidates
from secondpass.training.negatives.mining import MiningReport, mine_negatives, write_mined
from secondpass.training.negatives.sifting import MiningRule

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


QUIET = MiningReport(
    queries=2,
    groups=2,
    positives=3,
    negatives=10,
    judged_negatives=0,
    wanted=5,
    considered=200,
    rescored=0,
    dropped={"judged relevant": 3, "no text": 0},
    missing=0,
    spare_positives=0,
    short={},
    left_out={},
)


def test_a_quiet_report():
    """What did not happen is not mentioned."""
    assert QUIET.lines() == [
        "Queries with a group: 2 of 2; positives 3, negatives 10 (judged and not relevant: 0)",
        "Candidates: 200; dropped: 3 judged relevant",
    ]


def test_everything_is_said():
    """Reasons, queries by name (a few of many), documents that are missing."""
    report = replace(
        QUIET,
        rescored=40,
        missing=1,
        spare_positives=2,
        short={"q1": 3},
        left_out={"no candidate is left": tuple(f"q{number}" for number in range(8))},
        dropped={},
    )
    text = "\n".join(report.lines())
    for words in (
        "Left out, no candidate is left: 8 (q0, q1, q2, q3, q4 and 3 more)",
        "Fewer than 5 negatives: 1 (q1)",
        "Relevant documents that the corpus lacks, or that have no text: 1",
        "Relevant documents beyond the number that a query may have: 2",
        "Documents read by the cross-encoder: 40",
        "Candidates: 200; dropped: none",
    ):
        assert words in text


CORPUS_WRITING = {"d1": "one é\u2028 1", "d2": "two\n2", "d3": "broken \ud800", "d4": "four"}
QRELS = {"q1": {"d1": 2, "d4": 0}, "q2": {"d2": 1}}
QUERIES = {"q1": "first?", "q2": "sëcond"}
FOUND = {"q1": [("d1", 2.5), ("d3", 1.5)], "q2": [("d3", 0.125)]}


def test_round_trip_through_the_data_readers(tmp_path):
    """Texts, labels and ids come back, whatever characters they have."""
    from secondpass.training.data.sources import read_groups

    mined = mine_negatives(QUERIES, CORPUS_WRITING, QRELS, FOUND, rule=MiningRule(graded=True))
    path = tmp_path / "groups.jsonl"
    write_mined(path, mined)
    back = list(read_groups(path))
    for group, ours in zip(back, mined.groups, strict=True):
        for name in ("query", "query_id", "documents", "labels", "document_ids"):
            assert getattr(group, name) == getattr(ours, name)


def test_the_lines(tmp_path, tiny):
    """An object a group; scores beside the documents, null where there is none."""
    path = tmp_path / "groups.jsonl"
    mined = mine_negatives(QUERIES, CORPUS_WRITING, QRELS, FOUND)
    write_mined(path, mined)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    assert rows[0] == {
        "query_id": "q1",
        "query": "first?",
        "documents": [CORPUS_WRITING["d1"], CORPUS_WRITING["d4"], CORPUS_WRITING["d3"]],
        "labels": [1.0, 0.0, 0.0],
        "document_ids": ["d1", "d4", "d3"],
        "first_pass_scores": [2.5, None, 1.5],
    }
    rescored = mine_negatives(QUERIES, CORPUS_WRITING, QRELS, FOUND, cross_encoder=tiny)
    write_mined(path, rescored)
    row = json.loads(path.read_text(encoding="utf-8").split("\n")[0])
    assert row["cross_encoder_scores"] == list(rescored.cross_encoder_scores[0])
    assert row["cross_encoder_scores"][1] is None
    assert [file.name for file in tmp_path.iterdir()] == ["groups.jsonl"]


def test_a_failure_leaves_the_former_file(tmp_path):
    """Half a file is never there, nor what was begun."""
    path = tmp_path / "groups.jsonl"
    path.write_text("former")
    mined = mine_negatives(QUERIES, CORPUS_WRITING, QRELS, {"q1": [("d3", 1.0)], "q2": [("d3", 1.0)]})
    broken = type(mined)(mined.groups, mined.report, ((1.0,), (float("nan"),)), mined.cross_encoder_scores)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_mined(path, broken)
    assert path.read_text() == "former"
    assert [file.name for file in tmp_path.iterdir()] == ["groups.jsonl"]


def test_refused_targets(tmp_path):
    """Before any work is done: another ending (which would be read as something else), a folder, no folder."""
    for name, words in (("g.jsonl.gz", "end in"), ("g.csv", "end in"), ("no/g.jsonl", "there is no folder")):
        with pytest.raises(InvalidInput, match=words):
            checked_target(tmp_path / name)
    (tmp_path / "f.jsonl").mkdir()
    with pytest.raises(InvalidInput, match="is a folder"):
        checked_target(tmp_path / "f.jsonl")
