"""Figures on real judgements equal trec_eval's own, query by query."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from secondpass.evaluation.measures import evaluate
from secondpass.evaluation.qrels import Qrels, read_qrels
from secondpass.evaluation.runs import Run

SETS = ("adi", "cacm", "cranfield", "lisa", "medquad", "nq-gold", "pubmedqa", "squad", "stackfaq", "time", "trecqa")
# trec_eval's name of each measure.
TREC_EVAL = {
    "nDCG@10": "ndcg_cut_10",
    "nDCG": "ndcg",
    "AP": "map",
    "RR": "recip_rank",
    "P@5": "P_5",
    "R@100": "recall_100",
    "Success@1": "success_1",
    "Rprec": "Rprec",
    "Bpref": "bpref",
}


def scores_with_ties(qrels: Qrels, seed: int) -> dict[str, dict[str, float]]:
    """Rankings of a middling system: judged documents among others, in a scale so coarse that many scores tie."""
    rng = random.Random(seed)
    everything = sorted({document for grades in qrels.values() for document in grades})
    made = {}
    for query, grades in qrels.items():
        found = {document: 0.3 * grade + rng.gauss(0, 1) for document, grade in grades.items() if rng.random() < 0.8}
        found |= {document: rng.gauss(0, 1) for document in rng.sample(everything, min(50, len(everything)))}
        made[query] = {document: round(score, 1) for document, score in found.items()}
    return made


@pytest.mark.parametrize("name", SETS)
def test_equals_trec_eval_on_every_collection(data_folder: Path, name: str) -> None:
    """To 1e-9 for every query and measure, though the scores tie."""
    pytrec_eval = pytest.importorskip("pytrec_eval")
    qrels = read_qrels(data_folder / name / "qrels" / "test.tsv")
    scores = scores_with_ties(qrels, seed=11)
    plain = {query: dict(grades) for query, grades in qrels.items()}
    expected = pytrec_eval.RelevanceEvaluator(plain, set(pytrec_eval.supported_measures)).evaluate(scores)
    report = evaluate(qrels, Run.from_scores("r", scores), TREC_EVAL, without_relevant="zero")
    assert set(report.queries) == set(expected)
    for query, values in expected.items():
        for measure, theirs in TREC_EVAL.items():
            assert report.values[measure][query] == pytest.approx(values[theirs], abs=1e-9), (query, measure)
