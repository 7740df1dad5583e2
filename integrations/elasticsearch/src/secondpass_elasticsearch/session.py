"""A client for the length of one command, closed whatever happens."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from secondpass_elasticsearch.connection import connection

if TYPE_CHECKING:
    from elasticsearch import Elasticsearch


@contextmanager
def session(url: str | None, timeout: float) -> Iterator[tuple[Elasticsearch, str]]:
    """The client and the server's address, its URL without credentials.

    Raises:
        InvalidInput: `--url` or a variable of the environment is of no use.
        MissingExtra: elasticsearch-py is not installed.
    """
    found = connection(url, timeout)
    client = found.client()
    from elasticsearch.exceptions import ElasticsearchWarning

    try:
        with warnings.catch_warnings():
            # A server without security says so in every answer; a command's output is not the place to repeat it.
            warnings.simplefilter("ignore", ElasticsearchWarning)
            yield client, found.url
    finally:
        client.close()
