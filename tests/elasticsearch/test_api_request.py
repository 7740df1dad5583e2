"""A request as it may be shown."""

from __future__ import annotations

from secondpass_elasticsearch.api_request import ApiRequest


def test_secrets_are_hidden_at_any_depth() -> None:
    """In the console form and in the repr; the body itself keeps them."""
    request = ApiRequest("PUT", "/x", {"service_settings": {"api_key": "KEY", "secret_parameters": {"api_key": "KEY"}}})
    assert "KEY" not in request.shown() + repr(request)
    assert request.shown().count('"api_key": "***"') == 2
    assert request.body is not None
    assert request.body["service_settings"]["api_key"] == "KEY"


def test_a_request_without_a_body() -> None:
    """One line."""
    assert ApiRequest("GET", "/x").shown() == "GET /x"
