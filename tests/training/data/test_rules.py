"""One group against the rule of a loss."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from secondpass.errors import InvalidInput
from secondpass.training.data.groups import Group
from secondpass.training.data.rules import LabelRule, called, rule_of, sound
from secondpass.training.losses.contrastive import InfoNCE
from secondpass.training.losses.pairwise import RankNet
from secondpass.training.losses.pointwise import BinaryCrossEntropy, CrossEntropy

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
    assert rule_of(InfoNCE(in_batch_negatives=0), 1) == LabelRule("grade", 1, 2, True, False)


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
