"""What clients are told."""

from __future__ import annotations

import pytest

from secondpass.errors import (
    DeadlineExceeded,
    InvalidInput,
    NonFiniteScore,
    OutOfMemory,
    Overloaded,
    SecondPassError,
)
from secondpass.serving.problems import Problem, body_of, from_error, of_validation


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (InvalidInput("x"), 422, "invalid"),
        (Overloaded("x"), 429, "overloaded"),
        (DeadlineExceeded("x"), 504, "deadline"),
        (NonFiniteScore("x", (1,)), 500, "model"),
        (OutOfMemory("x"), 500, "model"),
        (SecondPassError("x"), 500, "internal"),
        (KeyError("x"), 500, "internal"),
        (Problem(418, "tea", "x"), 418, "tea"),
    ],
)
def test_every_error_has_its_status(error: Exception, status: int, reason: str) -> None:
    """The library's errors by kind, all others as ours to look into."""
    problem = from_error(error)
    assert (problem.status, problem.reason) == (status, reason)


def test_other_errors_keep_their_message_inside() -> None:
    """It may hold a text of the request."""
    assert "secret text" not in from_error(ValueError("secret text")).message


def test_overload_says_when_to_come_back() -> None:
    """Retry-After."""
    assert from_error(Overloaded("full")).headers == {"Retry-After": "1"}


def test_validation_is_told_by_place() -> None:
    """Fields and indices; three at most; no input."""
    errors = [
        {"loc": ("body", "texts-shape", "texts", number), "msg": f"Value error, is {number}", "input": "secret"}
        for number in range(5)
    ]
    told = of_validation(errors)
    assert told == "texts[0]: is 0; texts[1]: is 1; texts[2]: is 2; and 2 more"
    assert of_validation([{"loc": ("body",), "msg": "is no object"}]) == "the body: is no object"
    assert of_validation([{"loc": ("body", "query", "text"), "msg": "is missing"}]) == "query.text: is missing"


def test_the_body_has_the_sentence_where_each_client_looks() -> None:
    """Cohere, Jina and vLLM, text-embeddings-inference."""
    body = body_of(Problem(422, "invalid", "no"), "id")
    assert body["message"] == body["detail"] == body["error"] == "no"
    assert (body["error_type"], body["request_id"]) == ("invalid", "id")


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("invalid", "Validation"), ("json", "Validation"), ("empty", "Empty"), ("overloaded", "Overloaded"),
        ("stopping", "Unhealthy"), ("model", "Backend"), ("internal", "Backend"), ("deadline", "Backend"),
    ],
)  # fmt: skip
def test_reasons_have_the_names_of_text_embeddings_inference(reason: str, said: str) -> None:
    """Where its clients ask."""
    assert body_of(Problem(500, reason, "no"), "id", tei=True)["error_type"] == said
