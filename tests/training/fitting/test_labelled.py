"""Checked batches: what comes out, and what each refused example is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from secondpass.errors import InvalidInput
from secondpass.training.examples import InputExample
from secondpass.training.fitting.labelled import LabelRule, labelled

NUMBER = LabelRule(num_labels=1, default_loss=True)
CLASS = LabelRule(num_labels=3, default_loss=True)
FREE_NUMBER = LabelRule(num_labels=1, default_loss=False)
FREE_CLASS = LabelRule(num_labels=3, default_loss=False)
WHERE = "epoch 0, step 4"


def batch_of(label, guid="bad"):
    """Make a batch whose third example has `label`."""
    good = InputExample(texts=["what", "that"], label=1)
    return [good, good, InputExample(guid, ["what", "that"], label)]


@pytest.mark.parametrize(
    "label",
    [1, 1.0, True, np.float32(1), np.int64(1), np.bool_(True), np.array([1.0]), torch.tensor(1), torch.tensor([1.0])],
)
def test_kinds_of_numbers(label):
    """Python, numpy and torch numbers are labels, float32 for one label and int64 for several."""
    numbers = labelled(batch_of(label), NUMBER, WHERE)
    assert numbers.labels.dtype == torch.float32
    assert numbers.labels.tolist() == [1.0, 1.0, 1.0]
    classes = labelled(batch_of(label), CLASS, WHERE)
    assert classes.labels.dtype == torch.int64
    assert classes.labels.tolist() == [1, 1, 1]


def test_texts_and_guids_stay_in_order():
    """Texts, labels and guids come out by position, from lists and tuples of any object with the attributes."""
    examples = labelled((InputExample("a", ["x", "y"], 0.25), InputExample("", ("z", ""), 1)), NUMBER, WHERE)
    assert examples.texts == [["x", "y"], ["z", ""]]
    assert examples.labels.tolist() == [0.25, 1.0]
    assert examples.guids == ("a", "")


@pytest.mark.parametrize(
    ("rule", "label", "words"),
    [
        (NUMBER, float("nan"), "label nan, not a finite"),
        (NUMBER, float("inf"), "label inf, not a finite"),
        (NUMBER, 1.5, r"label 1.5: the default loss takes labels in \[0, 1\]"),
        (NUMBER, -0.001, r"label -0.001: the default loss takes labels in \[0, 1\]"),
        (NUMBER, "1", "a label of type str, not a number"),
        (NUMBER, None, "a label of type NoneType, not a number"),
        (NUMBER, [0.0], "a label of type list, not a number"),
        (NUMBER, torch.zeros(2), "a label of type Tensor, not a number"),
        (FREE_NUMBER, float("nan"), "label nan, not a finite"),
        (FREE_NUMBER, 1e39, "label 1e\\+39, not a finite"),
        (CLASS, 3, "label 3: the model has classes 0 to 2"),
        (CLASS, -1, "label -1: the model has classes 0 to 2"),
        (CLASS, -100, "label -100: the model has classes 0 to 2"),
        (CLASS, 0.5, "label 0.5, not the index of a class"),
        (FREE_CLASS, 0.5, "label 0.5, not the index of a class"),
        (FREE_CLASS, 2**63, "not the index of a class"),
    ],
)
def test_refused_labels(rule, label, words):
    """A label that the loss would misread is refused, by position in the batch and guid."""
    with pytest.raises(InvalidInput, match=rf"^{WHERE}: examples\[2\] \(guid 'bad'\) has .*{words}"):
        labelled(batch_of(label), rule, WHERE)


@pytest.mark.parametrize(("rule", "label"), [(FREE_NUMBER, -7.5), (FREE_CLASS, -100), (FREE_CLASS, 9)])
def test_own_loss_gives_labels_their_meaning(rule, label):
    """With a loss of the caller's own, any finite number or any class index is passed on."""
    assert labelled(batch_of(label), rule, WHERE).labels[2].item() == label


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (None, r"examples\[1\] \(guid 'b'\) has texts of type NoneType"),
        ("what", r"examples\[1\] \(guid 'b'\) has texts of type str"),
        ([], r"examples\[1\] \(guid 'b'\) has 0 texts"),
        (["a", "b", "c"], r"examples\[1\] \(guid 'b'\) has 3 texts"),
        (["a"], r"examples\[1\] \(guid 'b'\) has 1 texts where examples\[0\] has 2"),
        (["a", None], r"examples\[1\] \(guid 'b'\)\.texts\[1\] is NoneType, not str"),
    ],
)
def test_refused_texts(texts, words):
    """Texts that are no one or two str, or another number than the first example's, are refused by name."""
    with pytest.raises(InvalidInput, match=words):
        labelled([InputExample("a", ["x", "y"]), InputExample("b", texts)], NUMBER, WHERE)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ([], "an empty batch"),
        (InputExample(), "gave InputExample, not a batch"),
        ({"texts": []}, "gave dict, not a batch"),
        ([("what", "that", 1)], r"examples\[0\] is tuple, not an InputExample"),
    ],
)
def test_refused_batches(batch, words):
    """A loader that gives anything but a batch of examples is told what it gave."""
    with pytest.raises(InvalidInput, match=words):
        labelled(batch, NUMBER, WHERE)


def test_no_guid_is_not_shown():
    """An example without a guid is named by its position alone."""
    with pytest.raises(InvalidInput, match=r"examples\[2\] has label nan"):
        labelled(batch_of(float("nan"), guid=""), NUMBER, WHERE)
