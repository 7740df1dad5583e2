"""All data before the first step: what is refused, what is dropped, and how it is told."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from secondpass.errors import InvalidInput
from secondpass.training.data.checking import LabelRule, called, checked_groups, rule_of, sound
from secondpass.training.data.groups import Group, Teaching, write_groups
from secondpass.training.data.sources import read_groups
from secondpass.training.losses import make_loss
from secondpass.training.losses.pointwise import MSE, BinaryCrossEntropy, CrossEntropy
from secondpass.training.losses.ranking import (
    MILNCE,
    CachedInfoNCE,
    InfoNCE,
    LabelledDistillation,
    LambdaLoss,
    ListNet,
    MarginMSE,
    RankNet,
)
from secondpass.training.settings import words_of

BCE = BinaryCrossEntropy()


def pair(label, document="d", query="q", source=""):
    """Make a group of one document."""
    return Group(query, (document,), (label,), source)


def row_file(folder, *rows):
    """Write JSON Lines; a str goes in as it is."""
    path = folder / "t.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def test_good_groups_come_out_as_they_are():
    """In order, with their figures; any iterable is read once."""
    groups = (Group("q", ("a", "b"), (1.0, 0.0), "f:1"), Group("p", ("c",), (0.25,), "f:2", "7", ("x",)))
    checked = checked_groups(iter(groups), BCE)
    assert checked.groups == groups
    assert (checked.counts.groups, checked.counts.documents, checked.counts.label_sum) == (2, 3, 1.25)


@pytest.mark.parametrize("groups", [[], iter(())])
def test_no_groups(groups):
    """There is nothing to train on."""
    with pytest.raises(InvalidInput, match="no groups"):
        checked_groups(groups, BCE)


def test_an_empty_file(tmp_path):
    """Read as what it is."""
    with pytest.raises(InvalidInput, match="no groups"):
        checked_groups(read_groups(row_file(tmp_path)), BCE)


@pytest.mark.parametrize(
    ("loss", "label", "words"),
    [
        (BCE, 2.0, r"label 2, not within \[0, 1\]"),
        (BCE, math.nan, "label nan"),
        (InfoNCE(), -1.0, "label -1, below 0"),
        (MSE(), math.inf, "label inf"),
    ],
)
def test_one_bad_row_is_named(tmp_path, loss, label, words):
    """By file and line, wherever it stands."""
    rows = [{"query": "q", "document": f"d{n}", "label": n % 2} for n in range(20)]
    rows[16] = rows[16] | {"label": label}
    with pytest.raises(InvalidInput, match=rf"^{tmp_path}/t\.jsonl:17: the document has .*{words}"):
        checked_groups(read_groups(row_file(tmp_path, *rows)), loss)


def test_several_bad_rows_are_named_and_all_counted(tmp_path):
    """Rows that cannot be read, have no known shape or a bad value: five by name, the number of all."""
    good = {"query": "q", "document": "d", "label": 1}
    rows = ["{", {"query": "q"}, good | {"document": ""}, good, good | {"label": "x"}, *[good | {"label": 7}] * 4]
    with pytest.raises(InvalidInput) as error:
        checked_groups(read_groups(row_file(tmp_path, *rows)), BCE)
    lines = [line.strip().removeprefix(f"{tmp_path}/") for line in str(error.value).splitlines()]
    assert lines[0] == "8 of 9 groups cannot be trained on:"
    assert [line.partition(" ")[0] for line in lines[1:6]] == [f"t.jsonl:{n}:" for n in (1, 2, 3, 5, 6)]
    assert lines[6:] == ["and 3 more"]


def test_a_source_that_breaks_off_is_refused(tmp_path):
    """What cannot be read to its end is not trained on up to there."""
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'{"query": "q", "document": "d", "label": 1}\n\xff\n')
    with pytest.raises(InvalidInput, match=r"t\.jsonl:2: not UTF-8"):
        checked_groups(read_groups(path), BCE)

    def broken():
        yield pair(1.0)
        raise InvalidInput("broken")

    with pytest.raises(InvalidInput, match="broken"):
        checked_groups(broken(), BCE)
    # An iterator that fails for ever is no endless loop.
    with pytest.raises(InvalidInput, match="broken"):
        checked_groups(Failing(), BCE)


class Failing:
    """An iterator that never ends."""

    def __iter__(self):
        return self

    def __next__(self):
        raise InvalidInput("broken")


@pytest.mark.parametrize(
    ("loss", "labels", "classes"), [(BCE, (1.0, 1.0), 1), (BCE, (0.0, 0.0), 1), (MSE(), (3.5, 3.5), 1),
                                    (CrossEntropy(), (1.0, 1.0), 2), (ListNet(), (1.0, 1.0), 1)]
)  # fmt: skip
def test_labels_that_are_all_equal_everywhere(loss, labels, classes):
    """They would teach to say the same to everything."""
    with pytest.raises(InvalidInput, match=r"are all equal|nothing to tell apart"):
        checked_groups([Group(query, ("a", "b"), labels) for query in "pq"], loss, num_labels=classes)


def test_groups_without_contrast_are_dropped_and_told(caplog):
    """By a loss that compares inside a group; a pointwise loss keeps them."""
    groups = [Group("q", ("a", "b"), (1.0, 1.0), "f:1"), Group("p", ("a", "b"), (1.0, 0.0), "f:2"), pair(1.0)]
    with caplog.at_level(logging.WARNING):
        checked = checked_groups(groups, RankNet())
    assert checked.groups == (groups[1],)
    assert checked.counts.dropped == {"whose labels are all equal": 1, "with fewer than 2 documents": 1}
    assert caplog.messages == [
        "dropped: 1 of 3 groups, whose labels are all equal; the first: f:1",
        "dropped: 1 of 3 groups, with fewer than 2 documents; the first: groups[2]",
    ]
    assert len(checked_groups(groups, BCE).groups) == 3


def test_nothing_left():
    """All-positive groups and groups of one document, with the reason and the number of each."""
    groups = [Group("q", ("a", "b"), (1.0, 1.0), "f:1"), pair(1.0, query="p")]
    words = r"RankNet can learn from no group: 1 whose .* equal \(the first: f:1\), 1 with fewer than 2 documents"
    with pytest.raises(InvalidInput, match=words):
        checked_groups(groups, RankNet())


def test_pairs_for_a_loss_over_lists():
    """Refused with the way out; joined they are lists."""
    rows = [pair(1.0, "a", source="f:1"), pair(1.0, "z", "p", "f:2"), pair(0.0, "b", source="f:3"), pair(0.0, "y", "p")]
    with pytest.raises(InvalidInput, match=r"4 with fewer than 2 documents \(the first: f:1\); rows .* by join=True"):
        checked_groups(rows, MarginMSE())
    checked = checked_groups(rows, MarginMSE(), join=True)
    assert checked.groups == (Group("q", ("a", "b"), (1.0, 0.0), "f:1"), Group("p", ("z", "y"), (1.0, 0.0), "f:2"))
    with pytest.raises(InvalidInput) as error:
        checked_groups(rows[:2], MarginMSE())
    assert "join" not in str(error.value)


def test_in_batch_negatives_make_positives_enough():
    """The other queries' documents are the negatives; but something must be relevant."""
    rows = [pair(1.0, f"d{n}", f"q{n}") for n in range(3)]
    assert len(checked_groups(rows, InfoNCE(in_batch_negatives=2)).groups) == 3
    with pytest.raises(InvalidInput, match="InfoNCE can learn from no group"):
        checked_groups(rows, InfoNCE(in_batch_negatives=0))
    judged = [*rows, pair(0.0, "a", source="f:9"), Group("p", ("b", "c"), (0.0, 0.0))]
    checked = checked_groups(judged, InfoNCE(in_batch_negatives=2), tell=False)
    assert checked.groups == tuple(rows)
    assert checked.dropped == ("dropped: 2 of 5 groups, without a relevant document; the first: f:9",)
    with pytest.raises(InvalidInput, match=r"no group: 2 without a relevant document \(the first: f:9\)"):
        checked_groups(judged[3:], InfoNCE(in_batch_negatives=2))


@pytest.mark.parametrize("loss", [InfoNCE(in_batch_negatives=0), CachedInfoNCE(in_batch_negatives=0), MILNCE()])
def test_grades_without_a_negative_are_dropped_and_told(loss):
    """Documents of label 1 and 2 alone: nothing is left to tell the relevant from; others of a step may lend it."""
    groups = [Group("q", ("a", "b"), (2.0, 1.0), "f:1"), Group("p", ("c", "d"), (2.0, 0.0))]
    checked = checked_groups(groups, loss, tell=False)
    assert checked.groups == (groups[1],)
    assert checked.dropped == ("dropped: 1 of 2 groups, without a document of label 0; the first: f:1",)
    with pytest.raises(InvalidInput, match=r"1 without a .* label 0 \(the first: f:1\); there are positives only"):
        checked_groups(groups[:1], loss)
    for other in (InfoNCE(in_batch_negatives=2), LambdaLoss(), LabelledDistillation()):
        assert checked_groups(groups, other).groups == tuple(groups)


def test_a_document_given_twice_is_kept_once():
    """And counted; its id is taken from wherever it stands."""
    groups = [
        Group("q", ("a", "b", "a"), (1.0, 0.0, 1.0), "f:1"),
        Group("q", ("b", "c"), (0.0, 0.0), "f:2", "", ("x", "y")),
    ]
    checked = checked_groups(groups, RankNet(), join=True)
    assert checked.groups == (Group("q", ("a", "b", "c"), (1.0, 0.0, 0.0), "f:1", "", ("", "x", "y")),)
    assert checked.counts.repeated == 2
    apart = checked_groups(groups[:1], RankNet())
    assert apart.groups == (Group("q", ("a", "b"), (1.0, 0.0), "f:1"),)
    twice = checked_groups([groups[0], groups[0]], BCE, join=True)
    assert twice.counts.repeated == 4


def test_contradictions_name_both(tmp_path):
    """Inside a row by position or id, across rows by both lines."""
    inside = Group("q", ("a", "b", "a"), (1.0, 0.0, 0.0), "f:1", document_ids=("x", "y", ""))
    with pytest.raises(
        InvalidInput, match=r"^f:1: document 'x' and documents\[2\] are the same text with labels 1 and 0"
    ):
        checked_groups([inside], BCE)
    rows = [{"query": "q", "document": "d", "label": label} for label in (1, 1, 0)]
    across = r"^the document of .*t\.jsonl:1 and the document of .*t\.jsonl:3 are the same text with labels 1 and 0"
    with pytest.raises(InvalidInput, match=f"{across} for the query 'q'$"):
        checked_groups(read_groups(row_file(tmp_path, *rows)), BCE, join=True)
    with pytest.raises(InvalidInput, match=r"^9 contradictions in 9 groups:"):
        checked_groups([inside] * 9, BCE)


def test_margins_below_several_documents_are_not_joined(tmp_path):
    """They stay margins, joined where one document is above all; below two, or beside scores, they are refused."""
    rows = [
        {"query": "q", "positive": "a", "negative": "b", "margin": 2.0},
        {"query": "q", "positive": "a", "negative": "c", "margin": 3.0},
        {"query": "p", "positive": "a", "negatives": ["x", "y", "x"], "margins": [1.0, 2.0, 1.0]},
        {"query": "q", "positive": "z", "negative": "b", "margin": 1.0},
    ]
    first, second = checked_groups(read_groups(row_file(tmp_path, *rows[:3])), MarginMSE(), join=True).groups
    assert (first.documents, first.labels, first.margins) == (("a", "b", "c"), (0.0, -2.0, -3.0), True)
    assert (second.documents, second.labels, second.margins) == (("a", "x", "y"), (0.0, -1.0, -2.0), True)
    apart = checked_groups(read_groups(row_file(tmp_path, *rows)), MarginMSE())
    assert [group.margins for group in apart.groups] == [True] * 4
    with pytest.raises(InvalidInput, match=r"t\.jsonl:2 and .*t\.jsonl:4: margins below one document"):
        checked_groups(read_groups(row_file(tmp_path, *rows)), MarginMSE(), join=True)
    scores = Group("q", ("a", "c"), (7.0, 1.0))
    with pytest.raises(InvalidInput, match="or with scores, for the query 'q'"):
        checked_groups([Group("q", ("a", "b"), (0.0, -2.0), margins=True), scores], MarginMSE(), join=True)


def test_a_positive_that_is_a_negative_too(tmp_path):
    """What careless mining gives."""
    path = row_file(tmp_path, {"query": "q", "positive": "a", "negatives": ["b", "a"]})
    with pytest.raises(InvalidInput, match=r"t\.jsonl:1: documents\[0\] and documents\[2\] are the same text"):
        checked_groups(read_groups(path), RankNet())


def test_scores_of_the_same_text_may_differ_by_rounding():
    """A teacher gave them in other batches; other labels must be equal."""
    scores = Group("q", ("a", "b", "a"), (7.5, 1.0, 7.5001))
    assert checked_groups([scores], MarginMSE()).groups[0].labels == (7.5, 1.0)
    with pytest.raises(InvalidInput, match=r"with labels 7.5 and 7.6"):
        checked_groups([Group("q", ("a", "b", "a"), (7.5, 1.0, 7.6))], MarginMSE())


def test_same_query_apart_without_join():
    """Rows stay rows, so pairs are shuffled as pairs."""
    assert len(checked_groups([pair(1.0, "a"), pair(0.0, "b"), pair(1.0, "a")], BCE).groups) == 3


def test_a_real_collection(data_folder):
    """TrecQA, judged: lists with contrast are kept, those with one side only are dropped, and nothing is lost."""
    groups = list(read_groups(data_folder / "trecqa"))
    counts = checked_groups(iter(groups), RankNet()).counts
    one_sided = [group for group in groups if len(set(group.labels)) == 1 and len(group) > 1]
    assert counts.groups + sum(counts.dropped.values()) == len(groups)
    assert counts.dropped.get("whose labels are all equal", 0) == len(one_sided) > 0
    assert checked_groups(groups, BCE).counts.documents == sum(map(len, groups))


def test_a_teachers_opinion_goes_with_its_document():
    """What is kept once, or joined, keeps the score it was given; a score too few, and two teachers, are refused."""
    taught = Group("q", ("a", "b", "a"), (1.0, 0.0, 1.0), "f:1", teaching=Teaching((3.0, 1.0, 3.0), 0.5))
    (group,) = checked_groups([taught], MarginMSE()).groups
    assert (group.documents, group.teaching) == (("a", "b"), Teaching((3.0, 1.0), 0.5))
    more = Group("q", ("c",), (0.0,), "f:2", teaching=Teaching((-1.0,), 0.5))
    (group,) = checked_groups([taught, more], MarginMSE(), join=True).groups
    assert group.teaching == Teaching((3.0, 1.0, -1.0), 0.5)
    with pytest.raises(InvalidInput, match="f:1: groups of one query with and without a teacher, or other weights"):
        checked_groups([taught, Group("q", ("c",), (0.0,))], MarginMSE(), join=True)
    for teaching, reason in (
        (Teaching((1.0,)), "f:1: 2 documents and 1 scores of the teacher"),
        (Teaching((1.0, float("nan"))), r"f:1: the teacher's score of documents\[1\] is nan, no finite number"),
        (Teaching((1.0, 2.0), weight=-1.0), "f:1: teaching has weight=-1.0, not a finite number from 0 on"),
        (Teaching((1.0, 2.0), label_weight=True), "f:1: teaching has label_weight=True"),
        ((1.0, 2.0), "f:1: teaching is tuple, not a Teaching"),
    ):
        with pytest.raises(InvalidInput, match=reason):
            checked_groups([Group("q", ("a", "b"), (1.0, 0.0), "f:1", teaching=teaching)], MarginMSE())


def test_labels_may_all_be_equal_beside_a_teacher():
    """Its scores are what is learnt; without them, or for a loss that does not read them, nothing is."""
    groups = [Group("q", ("a", "b"), (0.0, 0.0), teaching=Teaching((1.0, 2.0)))]
    assert checked_groups(groups, LabelledDistillation()).groups == tuple(groups)
    for refused, loss in ((groups, MSE()), ([Group("q", ("a", "b"), (0.0, 0.0))], LabelledDistillation())):
        with pytest.raises(InvalidInput, match="all 2 labels are 0: nothing to tell apart"):
            checked_groups(refused, loss)


RELEVANCE = LabelRule("relevance", 1, 1, False, False)
GRADE, SCORE = replace(RELEVANCE, kind="grade"), replace(RELEVANCE, kind="score")
CLASS = replace(RELEVANCE, kind="class", classes=3)
GOOD = Group("q", ("a", "b"), (1.0, 0.0), "f:7", "7", ("x", ""))


def test_rules_of_losses():
    """What each loss says of itself."""
    assert rule_of(BinaryCrossEntropy(), 1) == RELEVANCE
    assert rule_of(RankNet(), 1) == LabelRule("score", 1, 2, True, False)
    assert rule_of(CrossEntropy(), 3) == CLASS
    assert rule_of(InfoNCE(in_batch_negatives=4), 1) == LabelRule("grade", 1, 1, False, True)
    assert rule_of(InfoNCE(in_batch_negatives=0), 1) == LabelRule("grade", 1, 2, True, False, needs_negative=True)
    assert rule_of(MILNCE(), 1) == LabelRule("grade", 1, 2, True, False, needs_negative=True)


@pytest.mark.parametrize(
    ("loss", "num_labels", "words"),
    [
        (object(), 1, "loss.labels is None, none of relevance, grade, score, class"),
        (SimpleNamespace(labels="rank", shortest=1, needs_contrast=True), 1, "loss.labels is 'rank'"),
        (SimpleNamespace(labels="grade", shortest=0, needs_contrast=True), 1, "loss.shortest=0"),
        (CrossEntropy(), 1, "CrossEntropy reads classes, and a model with num_labels=1 has none"),
        (BinaryCrossEntropy(), 0, "num_labels=0"),
    ],
)
def test_refused_losses(loss, num_labels, words):
    """An object that is no loss is not taken for one with defaults."""
    with pytest.raises(InvalidInput, match=words):
        rule_of(loss, num_labels)


def test_sound_groups_come_out_in_python_s_own_types():
    """Lists become tuples, numbers of any library float."""
    assert sound(GOOD, RELEVANCE, "groups[0]") == GOOD
    made = sound(Group("q", ["a", "b"], [np.float32(1), True], "f:7"), RELEVANCE, "groups[0]")
    assert made == Group("q", ("a", "b"), (1.0, 1.0), "f:7")
    assert all(type(label) is float for label in made.labels)


@pytest.mark.parametrize(
    ("rule", "labels"),
    [
        (RELEVANCE, (0.0, 0.3, 1.0)),
        (GRADE, (0.0, 2.5, 1e30)),
        (SCORE, (-1e30, 0.0, 3e38)),
        (CLASS, (0.0, 1.0, 2.0)),
    ],
)
def test_labels_within_the_rule(rule, labels):
    """Both ends belong to the range."""
    assert sound(Group("q", ("a", "b", "c"), labels), rule, "g").labels == labels


@pytest.mark.parametrize(
    ("rule", "label", "words"),
    [
        (RELEVANCE, 1.0001, r"label 1.0001, not within \[0, 1\] \(for grades: relevant_from\)"),
        (RELEVANCE, -0.1, r"label -0.1, not within \[0, 1\]"),
        (GRADE, -1, "label -1, below 0: no grade"),
        (CLASS, 3, "label 3, no class: the model has 0 to 2"),
        (CLASS, -1, "label -1, no class"),
        (CLASS, 0.5, "label 0.5, no class"),
        (SCORE, 1e39, r"label 1e\+39, not a finite number of float32"),
        (SCORE, 10**400, "label inf, not a finite number of float32"),
        (SCORE, "1", "a label of type str, not a number"),
        (SCORE, None, "a label of type NoneType, not a number"),
        *((rule, value, "not a finite number") for rule in (RELEVANCE, GRADE, SCORE, CLASS)
          for value in (math.nan, math.inf, -math.inf, np.float32("nan"))),
    ],
)  # fmt: skip
def test_labels_outside_the_rule(rule, label, words):
    """The source, and which document."""
    with pytest.raises(InvalidInput, match=rf"^f:7: documents\[1\] has {'(a )?'}.*{words}"):
        sound(replace(GOOD, labels=(1.0, label)), rule, "groups[0]")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"query": " \n"}, "the query is empty"),
        ({"query": None}, "the query is NoneType, not a text"),
        ({"query": "\u200b"}, "the query is empty"),
        ({"documents": ("a", "")}, r"documents\[1\] is empty"),
        ({"documents": ("a", "\ufeff\u00ad")}, r"documents\[1\] is empty"),
        ({"documents": ("\t", "b")}, "document 'x' is empty"),
        ({"documents": ("a", b"b")}, r"documents\[1\] is bytes, not a text"),
        ({"documents": ("a", math.nan)}, r"documents\[1\] is float, not a text"),
        ({"documents": (), "labels": (), "document_ids": ()}, "no document"),
        ({"documents": "ab"}, "documents is str, not a tuple"),
        ({"documents": None}, "documents is NoneType, not a tuple"),
        ({"labels": (1.0,)}, "2 documents and 1 labels"),
        ({"labels": 1.0}, "labels is float, not a tuple"),
        ({"document_ids": ("x",)}, "2 documents and 1 document_ids"),
    ],
)
def test_refused_groups(change, words):
    """Every text and every length, by source."""
    with pytest.raises(InvalidInput, match=f"^f:7: {words}"):
        sound(replace(GOOD, **change), RELEVANCE, "groups[0]")


def test_a_group_without_source_is_named_by_position():
    """As is what is no group."""
    with pytest.raises(InvalidInput, match=r"^groups\[4\]: the document has label 2"):
        sound(Group("q", ("a",), (2.0,)), RELEVANCE, "groups[4]")
    with pytest.raises(InvalidInput, match=r"^groups\[4\] is dict, not a Group"):
        sound({}, RELEVANCE, "groups[4]")


def test_names_of_documents():
    """The id if there is one."""
    assert [called(GOOD, index) for index in (0, 1)] == ["document 'x'", "documents[1]"]


def test_margins_are_for_margin_mse_alone(tmp_path):
    """Its loss is that of the margin, as sentence-transformers has it; other losses would read it as scores."""
    rows = [{"query": "q", "positive": "a", "negatives": ["b", "c"], "margins": [2.5, -1.0]}]
    loss = make_loss("margin_mse", {"pairs": "first"})
    (group,) = checked_groups(read_groups(rows), loss).groups
    logits, labels = torch.tensor([[3.0, 1.0, 0.5]]), torch.tensor([group.labels])
    assert loss(logits, labels, torch.ones(1, 3, dtype=torch.bool)).tolist() == [0.25, 12.25]
    for other in ("mse", "ranknet", "info_nce"):
        with pytest.raises(InvalidInput, match=r"2 for 3 documents, are margins, which only loss='margin_mse' reads"):
            checked_groups(read_groups(rows), make_loss(other, {}))
    write_groups(tmp_path / "g.jsonl", read_groups(rows))
    assert next(read_groups(tmp_path / "g.jsonl")).margins


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "ranknet", "listnet"])
def test_positives_only_lead_to_what_finds_negatives(loss):
    """By the names of the command and of the loss, in the words of Python and of a configuration."""
    groups = [Group("p", ("a",), (1.0,)), Group("q", ("b",), (1.0,))]
    with pytest.raises(InvalidInput, match=r"`secondpass mine --clicks FILE`.* loss='info_nce'"):
        checked_groups(groups, make_loss(loss, {}))
    with words_of("configuration"), pytest.raises(InvalidInput, match=r'settings.loss: "info_nce"'):
        checked_groups(groups, make_loss(loss, {}))
    assert len(checked_groups(groups, make_loss("info_nce", {})).groups) == 2
