"""Bodies: strict JSON, bounded depth, Unicode that can be written out again."""

from __future__ import annotations

import json

import pytest

from secondpass.serving.json_bodies import parse
from secondpass.serving.problems import Problem


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "Expecting property name"),
        (b'{"a":NaN}', "NaN, infinite or too long"),
        (b'{"a":-Infinity}', "NaN, infinite or too long"),
        (b'{"a":' + b"9" * 5000 + b"}", "NaN, infinite or too long"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 50_000 + b'"\\ud800"' + b"}" * 50_000, "nested too deeply"),
        (b'"\xff"', "not UTF-8 at byte 1"),
        (b"secret words", "Expecting value at line 1 column 1"),
        (b"", "Expecting value"),
    ],
)
def test_what_is_no_json_is_refused_by_its_place(body: bytes, said: str) -> None:
    """400, without the text."""
    with pytest.raises(Problem) as refused:
        parse(body)
    assert refused.value.status == 400
    assert said in refused.value.message
    assert "secret" not in refused.value.message


def test_lone_surrogates_are_replaced_and_pairs_joined() -> None:
    """As the engine does in process, at any depth and in names."""
    body = rb'{"a\ud800": ["\ud83d\ude00", {"b": "x\udc00"}], "n": 1, "t": true}'
    value = parse(body)
    assert value == {"a�": ["😀", {"b": "x�"}], "n": 1, "t": True}
    json.dumps(value, ensure_ascii=False).encode("utf-8")
    assert parse(b'"\\\\ud800"') == "\\ud800"
