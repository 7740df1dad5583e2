"""Plain values to dataclasses: what each type takes, and where a refusal says it stands."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from secondpass.errors import InvalidInput
from secondpass.training.configuration.typed import made
from secondpass.training.configuration.yaml_document import YamlDocument, read_document


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    size: int = 1

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InvalidInput(f"size={self.size} is below 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    name: str
    rate: float = 0.5
    flag: bool = False
    count: int | None = None
    mode: Literal["fast", "slow"] = "fast"
    inner: Inner | None = None
    many: tuple[Inner, ...] = ()
    words: tuple[str, ...] = ()
    free: Mapping[str, Any] = field(default_factory=dict)


def read(text: str) -> Outer:
    """Read an Outer."""
    return made(Outer, read_document(text, "c.yaml"))


def test_every_type() -> None:
    """All kinds of field, and the defaults of those that are not given."""
    text = "name: a\nrate: 1\nflag: true\ncount: 3\nmode: slow\ninner: {size: 2}\nmany: [{size: 3}, {}]\n"
    assert read(text + "words: [x, y]\nfree: {k: 1, l: [a], m: null}") == Outer(
        name="a",
        rate=1.0,
        flag=True,
        count=3,
        mode="slow",
        inner=Inner(size=2),
        many=(Inner(size=3), Inner()),
        words=("x", "y"),
        free={"k": 1, "l": ["a"], "m": None},
    )
    assert read("name: a") == Outer(name="a")


def test_one_value_stands_for_a_list_of_it() -> None:
    """A single source need not be put into a list."""
    assert read("name: a\nmany: {size: 4}\nwords: x") == Outer(name="a", many=(Inner(size=4),), words=("x",))


@pytest.mark.parametrize(("text", "number"), [("2e-5", 2e-5), ("1.5E3", 1500.0), ("-1e+2", -100.0), (".inf", math.inf)])
def test_numbers_with_an_exponent(text: str, number: float) -> None:
    """YAML 1.1 reads 2e-5 as a text; here it is the number that was meant, in free mappings too."""
    assert read(f"name: a\nrate: {text}\nfree: {{t: {text}}}") == Outer(name="a", rate=number, free={"t": number})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("rate: 1", "c.yaml: name is missing"),
        ("name: 1", "c.yaml:1: name is 1, not a text (in quotation marks it is a text)"),
        ("name: yes", "c.yaml:1: name is true, not a text"),
        ("name: 2024-01-01", "c.yaml:1: name is a date, not a text"),
        ("name: a\nrate: fast", "c.yaml:2: rate is 'fast', not a number"),
        ("name: a\nrate: true", "c.yaml:2: rate is true, not a number"),
        ("name: a\nrate: null", "c.yaml:2: rate is null, not a number"),
        (f"name: a\nrate: {10**400}", "not a number"),
        ("name: a\nflag: 1", "c.yaml:2: flag is 1, not true or false"),
        ("name: a\ncount: 1.5", "c.yaml:2: count is 1.5, not a whole number"),
        ("name: a\ncount: false", "c.yaml:2: count is false, not a whole number"),
        ("name: a\nmode: slwo", "c.yaml:2: mode is 'slwo', none of fast, slow; did you mean slow?"),
        ("name: a\nmode: []", "c.yaml:2: mode is a list, none of fast, slow"),
        ("name: a\ninner: 3", "c.yaml:2: inner is 3, not keys with values"),
        ("name: a\ninner:\n  siez: 3", "c.yaml:3: inner.siez is unknown; did you mean inner.size?"),
        ("name: a\nmany:\n- {}\n- {q: 1}", "c.yaml:4: many.1.q is unknown; known are size"),
        ("name: a\nmany:\n- {}\n- {size: 0}", "c.yaml:4: many.1: size=0 is below 1"),
        ("name: a\nwords: [x, 3]", "c.yaml:2: words.1 is 3, not a text"),
        ("name: a\nfree: {k: {l: 1}}", "c.yaml:2: free.k is a mapping, not a text, a number"),
        ("name: a\nfree: {k: [[1]]}", "c.yaml:2: free.k is a list"),
        ("name: a\nfree: x", "c.yaml:2: free is 'x', not keys"),
        ("naem: a", "c.yaml:1: naem is unknown; did you mean name?"),
    ],
)
def test_refusals(text: str, reason: str) -> None:
    """File, line, key, what is there and what was wanted; unknown keys with the nearest."""
    with pytest.raises(InvalidInput) as refused:
        read(text)
    assert reason in str(refused.value)


def test_a_part_of_a_document() -> None:
    """A dataclass can be made of what stands deeper."""
    document = YamlDocument({"a": [{"size": 7}]}, "c.yaml")
    assert made(Inner, document, ("a", 0)) == Inner(size=7)
