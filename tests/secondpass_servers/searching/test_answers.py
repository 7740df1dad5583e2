"""What servers and their silence say, in one line."""

from __future__ import annotations

from typing import Any

import pytest

from secondpass.errors import InvalidInput, Overloaded, SecondPassError
from secondpass_servers.answers import LONGEST, cause, index_is_there, late, no_tls, one_line, outcome_of, refused, told
from secondpass_servers.contract import Outcome, SearchEngine

LOGIN = "valid credentials are needed (401): set USER and PASSWORD in the environment"
NO_INDEX = {"type": "index_not_found_exception", "reason": "a"}
ENGINE = SearchEngine("Search", "search", "vector", "length", "analysed", "USER and PASSWORD", "CA_FILE")
WHO = "Search http://h:1"


@pytest.mark.parametrize(
    ("status", "error", "kind", "line"),
    [
        (400, {"reason": "a"}, InvalidInput, "Search http://h:1 refuses this: a"),
        (401, {"reason": "a"}, SecondPassError, f"{WHO}: {LOGIN}"),
        (401, {"reason": "from remote: a"}, SecondPassError, f"{WHO}: status 401: from remote: a"),
        (403, {"reason": "a"}, SecondPassError, f"{WHO}: not allowed (403): a"),
        (404, NO_INDEX, InvalidInput, f"{WHO}: a; create it with `secondpass search create`"),
        (404, "a", SecondPassError, f"{WHO}: status 404: a"),
        (429, {"reason": "a"}, Overloaded, f"{WHO}: too busy (429): a"),
        (502, "<html>\n", SecondPassError, f"{WHO}: status 502: <html>"),
    ],
)  # fmt: skip
def test_statuses(status: int, error: Any, kind: type[Exception], line: str) -> None:
    """Each has its class and its words."""
    made = refused(ENGINE, WHO, status, error)
    assert (type(made), str(made)) == (kind, line)


def test_reasons_come_once_and_from_the_outside_in() -> None:
    """Causes, shards and root causes; odd answers are told too."""
    failed = [{"reason": {"reason": "too many clauses", "type": "t"}}]
    assert told({"reason": "all shards failed", "failed_shards": failed}) == "all shards failed: too many clauses"
    assert told({"reason": "a b", "caused_by": {"reason": "a"}}) == "a b"
    assert told({"reason": "a", "caused_by": {"reason": "b", "caused_by": {"type": "c"}}}) == "a: b: c"
    root = [{"reason": "deep"}]
    assert told({"reason": "a", "root_cause": root}) == "a: deep"
    for odd in (None, [], {}, {"failed_shards": []}, {"root_cause": ["x"], "caused_by": []}, {"failed_shards": [{}]}):
        assert told(odd) == "no reason given"
    assert len(told({"reason": "x\n" * 9_999})) == LONGEST


def test_why_there_is_no_connection() -> None:
    """The system's words from wherever a client keeps them, without its objects."""
    outer = RuntimeError("outside", OSError(111, "Connection refused"))
    assert cause(outer) == "Connection refused"
    chained = RuntimeError("outside")
    chained.__cause__ = ValueError("HTTPConnectionPool(host='h', port=1): <urllib3.X object at 0x7f>: no such name")
    assert cause(chained) == "no such name"
    circle = RuntimeError("round")
    circle.__cause__ = circle
    assert cause(circle) == "round"
    assert cause(RuntimeError()) == "RuntimeError"


def test_other_lines() -> None:
    """They name what helps."""
    assert late() == "no answer in time"
    assert late(0.5) == "no answer within 0.5 s"
    assert "CA_FILE" in no_tls(ENGINE, RuntimeError("x"))
    assert (
        str(index_is_there(WHO, "docs"))
        == f"{WHO} has an index 'docs' already, and it is left as it is: take another name"
    )
    assert one_line(" a\n b\tc ") == "a b c"


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ({"status": 201, "result": "created"}, Outcome("a")),
        ({"status": 200, "result": "updated"}, Outcome("a", replaced=True)),
        ({"status": 429, "error": {"reason": "full"}}, Outcome("a", "full", again=True)),
        ({"status": 503, "error": {"type": "moving"}}, Outcome("a", "moving", again=True)),
        (
            {"status": 400, "error": {"reason": "failed to parse", "caused_by": {"reason": "For input: x"}}},
            Outcome("a", "failed to parse: For input: x"),
        ),
        ({"status": 400, "error": "odd"}, Outcome("a", "odd")),
        ({"status": 400, "error": {}}, Outcome("a", "status 400")),
        ({}, Outcome("a", "status 500")),
    ],
)
def test_outcomes(answer: dict[str, Any], outcome: Outcome) -> None:
    """Indexed, refused for good with the reason, or refused for now; never silently lost."""
    assert outcome_of("a", answer) == outcome
