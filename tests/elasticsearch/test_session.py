"""A client for the length of one command."""

from __future__ import annotations

import warnings

import pytest
from elasticsearch.exceptions import ElasticsearchWarning
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from secondpass_elasticsearch.session import session
from tests.elasticsearch.live_app import serving


async def warn(request: object) -> JSONResponse:
    """A server without security, which says so in every answer."""
    notice = '299 Elasticsearch-8.19.0 "security features are not enabled"'
    return JSONResponse({"count": 1}, headers={"X-Elastic-Product": "Elasticsearch", "Warning": notice})


def test_its_warnings_stay_inside(no_credentials: None) -> None:
    """They would be an error here, and noise for a user; outside they come as before."""
    with serving(Starlette(routes=[Route("/{path:path}", warn, methods=["GET", "POST"])])) as url:
        with session(url, 5.0) as (client, server):
            assert client.count(index="x")["count"] == 1
        assert server == url
    with pytest.warns(ElasticsearchWarning):
        warnings.warn("outside", ElasticsearchWarning, stacklevel=1)


def test_it_ends_with_an_error_too(no_credentials: None) -> None:
    """What happens inside comes out."""
    with pytest.raises(ZeroDivisionError), session("http://127.0.0.1:9", 5.0):
        raise ZeroDivisionError
