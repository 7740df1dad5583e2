"""A request as it may be shown."""

from __future__ import annotations

from secondpass_searching.api_request import ApiRequest, redacted


def test_secrets_are_hidden_at_any_depth() -> None:
    """In the console form and in the repr; the body itself keeps them."""
    body = {
        "service_settings": {"api_key": "KEY", "secret_parameters": {"api_key": "KEY"}},
        "credential": {"key": "KEY"},
    }
    request = ApiRequest("PUT", "/x", body)
    assert "KEY" not in request.shown() + repr(request)
    assert request.shown().count('"api_key": "***"') == 2
    assert body["credential"] == {"key": "KEY"}
    assert redacted([{"credential": "KEY"}, {"credential": {"key": "KEY"}}]) == [
        {"credential": "***"},
        {"credential": {"key": "***"}},
    ]


def test_requests_as_consoles_take_them() -> None:
    """A line, its parameters, and the body as it is."""
    assert ApiRequest("GET", "/x").shown() == "GET /x"
    assert ApiRequest("POST", "/x", {"b": "é"}, {"a": "1"}).shown() == 'POST /x?a=1\n{\n  "b": "é"\n}'
