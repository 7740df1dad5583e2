"""Teachers: logits of a real cross-encoder, means of several, scores of a file."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import pytest
import torch

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput
from secondpass.evaluation.runs import read_run
from secondpass.training.data.groups import Group, Teaching
from secondpass.training.distillation.teachers import EncoderTeacher, MeanTeacher, RunTeacher, standardised, taught
from tests.tiny_models import make_reranker

GROUPS = [
    Group("a cat", ("the mat", "a dog in london", "the mat"), (1.0, 0.0, 1.0), "g:1", "q1", ("d1", "d2", "d3")),
    Group("water", ("a river",), (1.0,), "g:2", "q2", ("d4",)),
    Group("train to paris", ("bank", "the train", "the password"), (0.0, 1.0, 0.0), "g:3", "q3", ("d1", "d5", "d6")),
]  # fmt: skip


def pairs() -> list[tuple[str, str]]:
    """All pairs of the groups."""
    return [(group.query, document) for group in GROUPS for document in group.documents]


def labels(groups: Iterator[Group]) -> list[float]:
    """All labels, in order."""
    return [label for group in groups for label in group.labels]


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_logits_of_a_cross_encoder(tiny, chunk):
    """Each label is the logit that `predict` gives the pair; nothing else of the group changes."""
    expected = tiny.predict(pairs(), activation_fct=torch.nn.Identity())
    made = list(taught(GROUPS, tiny, chunk=chunk))
    assert labels(iter(made)) == pytest.approx(expected.tolist(), abs=1e-5)
    for group, before in zip(made, GROUPS, strict=True):
        assert (group.query, group.documents, group.source, group.query_id, group.document_ids) == (
            before.query, before.documents, before.source, before.query_id, before.document_ids,
        )  # fmt: skip
    assert made[0].labels[0] == made[0].labels[2]


def test_a_causal_reranker_teaches_in_its_template(tmp_path):
    """Its labels are the logits of its own template with its own instruction, which makes a difference."""
    folder = str(make_reranker(tmp_path))
    made = {}
    for instruction in (None, "find a city"):
        teacher = CrossEncoder(folder, device="cpu", instruction=instruction)
        made[instruction] = labels(taught(GROUPS, teacher))
        expected = teacher.predict(pairs(), activation_fct=torch.nn.Identity())
        assert made[instruction] == pytest.approx(expected.tolist(), abs=1e-5)
    assert max(abs(one - other) for one, other in zip(*made.values(), strict=True)) > 1e-3


def test_an_activation_gives_other_labels(tiny):
    """The sigmoid of the logits is a label in [0, 1]."""
    made = labels(taught(GROUPS, EncoderTeacher(tiny, torch.nn.Sigmoid(), batch_size=2)))
    assert made == pytest.approx(tiny.predict(pairs()).tolist(), abs=1e-5)


def test_several_labels(tiny_model_folder):
    """A teacher with three labels is told which of them is relevance."""
    encoder = CrossEncoder(tiny_model_folder("bert", 3), device="cpu")
    with pytest.raises(InvalidInput, match="relevance"):
        list(taught(GROUPS, encoder))
    made = labels(taught(GROUPS, EncoderTeacher(encoder, relevance=2)))
    assert all(math.isfinite(label) for label in made)


def test_is_a_stream(tiny):
    """No more is read than a chunk ahead, so groups without end can be taught."""
    read = 0

    def endless() -> Iterator[Group]:
        nonlocal read
        while True:
            read += 1
            yield GROUPS[0]

    assert len(list(islice(taught(endless(), tiny, chunk=4), 6))) == 6
    assert read == 8


def test_the_mean_of_standardised_teachers(tiny, tiny_model_folder):
    """Weighted, each standardised within its query: by the formula."""
    other = CrossEncoder(tiny_model_folder("electra"), device="cpu")
    teachers = [EncoderTeacher(tiny), EncoderTeacher(other)]
    made = list(taught(GROUPS, MeanTeacher(teachers, (3.0, 1.0), scale=2.0)))
    single = [list(taught(GROUPS, teacher)) for teacher in teachers]
    for row, group in enumerate(made):
        for place, label in enumerate(group.labels):
            votes = []
            for opinion in single:
                scores = opinion[row].labels
                spread = statistics.pstdev(scores)
                votes.append((scores[place] - statistics.fmean(scores)) / spread if spread else 0.0)
            assert label == pytest.approx(2.0 * (3.0 * votes[0] + votes[1]) / 4.0)
    assert made[1].labels == (0.0,)


def test_scale_of_a_teacher_does_not_count():
    """A teacher with scores a thousand times as large has the same say; one without an opinion has none."""
    one = RunTeacher({"q": {"a": 1.0, "b": 2.0, "c": 4.0}})
    large = RunTeacher({"q": {"a": 5001.0, "b": 5002.0, "c": 5004.0}})
    flat = RunTeacher({"q": dict.fromkeys("abc", 0.1)})
    group = Group("x", ("1", "2", "3"), (0.0,) * 3, query_id="q", document_ids=("a", "b", "c"))
    (expected,) = taught([group], MeanTeacher([one]))
    (both,) = taught([group], MeanTeacher([one, large]))
    assert both.labels == pytest.approx(expected.labels)
    (half,) = taught([group], MeanTeacher([one, flat]))
    assert half.labels == pytest.approx([label / 2 for label in expected.labels])


def test_standardised():
    """Mean 0 and deviation 1; equal scores, also by rounding alone, are 0."""
    made = standardised([1.0, 2.0, 6.0])
    assert statistics.fmean(made) == pytest.approx(0.0)
    assert statistics.pstdev(made) == pytest.approx(1.0)
    assert standardised([0.1 + 0.2, 0.3, 0.3]) == (0.0, 0.0, 0.0)


def test_scores_of_a_file(tmp_path):
    """A run in TREC's columns: each label is the score of the pair's ids."""
    path = tmp_path / "teacher.trec"
    scores = {("q1", "d1"): 3.5, ("q1", "d2"): -1.0, ("q1", "d3"): 0.0, ("q2", "d4"): 9.0,
              ("q3", "d1"): 1.0, ("q3", "d5"): 2.0, ("q3", "d6"): 0.5, ("q9", "d1"): 7.0}  # fmt: skip
    path.write_text("".join(f"{query} Q0 {name} 1 {score} t\n" for (query, name), score in scores.items()))
    assert labels(taught(GROUPS, RunTeacher(read_run(path)))) == [3.5, -1.0, 0.0, 9.0, 1.0, 2.0, 0.5]


def test_missing_pairs_are_named():
    """A pair without a score is no 0: the first are named and the others counted."""
    some = RunTeacher({"q1": {"d1": 1.0, "d2": None}})
    with pytest.raises(InvalidInput, match=r"\(q1, d2\), \(q1, d3\), \(q2, d4\) and 3 more"):
        list(taught(GROUPS, some))
    with pytest.raises(InvalidInput, match="g:7 has no ids"):
        list(taught([Group("x", ("y",), (1.0,), "g:7")], some))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda groups: [(1.0,)] * 2, "scores for 2 groups, not 3"),
        (lambda groups: [(1.0,)] * 3, "g:1: the teacher gave 1 scores for 3 documents"),
        (lambda groups: [(1.0, float("nan"), 1.0), (1.0,), (1.0,) * 3], r"g:1: .*documents\[1\] is nan"),
        (lambda groups: [(1.0,) * 3, (float("inf"),), (1.0,) * 3], r"g:2: .*documents\[0\] is inf"),
        ("secondpass/pocket", "teacher is str"),
    ],
)
def test_refused_teachers(given, words):
    """A teacher that loses a document, or has no number for it, is told at which group."""
    with pytest.raises(InvalidInput, match=words):
        list(taught(GROUPS, given))


@pytest.mark.parametrize(
    ("weights", "scale", "words"),
    [
        ((1.0,), 1.0, "1 for 2 teachers"),
        ((1.0, -1.0), 1.0, "below 0"),
        ((0.0, 0.0), 1.0, "all 0"),
        ((1.0, float("nan")), 1.0, "not finite"),
        (None, 0.0, "scale=0.0"),
    ],
)
def test_refused_weights(weights, scale, words):
    """One weight a teacher, and a say for somebody."""
    with pytest.raises(InvalidInput, match=words):
        MeanTeacher([RunTeacher({}), RunTeacher({})], weights, scale)


def test_chunk_is_checked_at_once(tiny):
    """Not when the first group is asked for."""
    with pytest.raises(InvalidInput, match="chunk=0"):
        taught(GROUPS, tiny, chunk=0)


def test_scores_beside_the_labels(tiny):
    """The labels stay; weights that a group had for its teacher stay too."""
    asked = [GROUPS[0], replace(GROUPS[2], teaching=Teaching((0.0, 0.0, 0.0), 0.5, 2.0))]
    first, second = taught(asked, tiny, beside=True)
    instead = [group.labels for group in taught(asked, tiny)]
    assert (first.labels, first.teaching) == (GROUPS[0].labels, Teaching(instead[0]))
    assert (second.labels, second.teaching) == (GROUPS[2].labels, Teaching(instead[1], 0.5, 2.0))
