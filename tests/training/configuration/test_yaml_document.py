"""YAML files as values that know their lines, and what is no configuration."""

from __future__ import annotations

import pytest

from secondpass.errors import InvalidInput
from secondpass.training.configuration.yaml_document import LONGEST, read_document


def test_values_know_their_lines() -> None:
    """Each value's place is its key's line; of a list, the line of the element."""
    document = read_document("a: 1\nb:\n  - x: 2\n  - y: 3\n", "c.yaml")
    assert document.values == {"a": 1, "b": [{"x": 2}, {"y": 3}]}
    assert document.places == {
        ("a",): "c.yaml:1",
        ("b",): "c.yaml:2",
        ("b", 0): "c.yaml:3",
        ("b", 0, "x"): "c.yaml:3",
        ("b", 1): "c.yaml:4",
        ("b", 1, "y"): "c.yaml:4",
    }


def test_a_refusal_names_the_nearest_known_place() -> None:
    """What is missing has no line: that of what it is missing from is told, else the file."""
    document = read_document("a:\n  b: 1\n", "c.yaml")
    assert str(document.refuse(("a", "b"), "bad")) == "c.yaml:2: bad"
    assert str(document.refuse(("a", "c", "d"), "bad")) == "c.yaml:1: bad"
    assert str(document.refuse(("x",), "bad")) == "c.yaml: bad"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "c.yaml: empty, not a mapping"),
        ("# nothing\n", "c.yaml: empty, not a mapping"),
        ("[1, 2]", "c.yaml: list, not a mapping"),
        ("a: 1\nb: 2\na: 3\n", "c.yaml:3: 'a' was given before"),
        ("a:\n  b: [\n", "c.yaml:3: not YAML"),
        ("a: b: c", "c.yaml:1: not YAML"),
        ("a: 1\n1: 2\n", "c.yaml:2: a key is no text"),
        ("on: true", "c.yaml:1: a key is no text"),
        ("a: 1\n? [x, y]\n: 2", "not YAML"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("a: 2024-99-99", "not YAML that can be read: month must be in 1..12"),
        ("[" * 5000, "not YAML that can be read"),
        ("a: \x00", "not YAML"),
        ("a: 1" + " " * LONGEST, "characters are no configuration"),
    ],
)
def test_what_is_no_configuration_is_one_line(text: str, reason: str) -> None:
    """Broken, hostile or surprising YAML is refused with its line; nothing in it is run."""
    with pytest.raises(InvalidInput) as refused:
        read_document(text, "c.yaml")
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_aliases_do_not_grow() -> None:
    """Aliases of aliases, a value in itself too, cost no more than their text."""
    bomb = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 40))
    assert len(read_document(bomb, "c.yaml").places) < 2000
    assert ("a", 0) in read_document("a: &a [*a]", "c.yaml").places
