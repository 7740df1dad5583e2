"""The report for people: every fact a line, nothing that is not so."""

from __future__ import annotations

from dataclasses import replace

from secondpass.training.negatives.mined import MiningReport

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
