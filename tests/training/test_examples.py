"""`InputExample`: the seed's class, attribute by attribute."""

from __future__ import annotations

import inspect

from secondpass.training.examples import InputExample


def test_defaults_and_order_of_arguments():
    """The arguments are guid, texts and label, in that order, all optional."""
    parameters = inspect.signature(InputExample).parameters
    assert {name: parameter.default for name, parameter in parameters.items()} == {
        "guid": "",
        "texts": None,
        "label": 0,
    }
    example = InputExample("a", ["q", "d"], 0.5)
    assert (example.guid, example.texts, example.label) == ("a", ["q", "d"], 0.5)


def test_attributes_may_be_changed():
    """An example is a plain mutable object."""
    example = InputExample()
    example.texts, example.label = ["q", "d"], 1
    assert (example.texts, example.label) == (["q", "d"], 1)


def test_str():
    """str() shows the label and the texts, and works without texts."""
    assert str(InputExample(texts=["q", "d"], label=1)) == "<InputExample> label: 1, texts: q; d"
    assert str(InputExample()) == "<InputExample> label: 0, texts: "
