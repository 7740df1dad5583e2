"""A search to copy, which OpenSearch reranks through the service."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

from secondpass_opensearch import bodies
from secondpass_opensearch.connecting import Connected
from secondpass_opensearch.server import CA_FILE, PASSWORD, USERNAME, Server

# OpenSearch reranks the hits that a search returns and no others.
RERANKED = 100


def ready_query(server: Server, connected: Connected, index: str, text: str, fields: Sequence[str]) -> str:
    """A search with curl that OpenSearch reranks; credentials come from the environment of whoever runs it."""
    body = json.dumps(bodies.query(text, fields[-1], RERANKED), ensure_ascii=False)
    login = f' -u "${USERNAME}:${PASSWORD}"' if server.username else ""
    authority = f' --cacert "${CA_FILE}"' if server.ca_file is not None else ""
    url = f'"{server.address}/{index}/_search?search_pipeline={connected.pipeline}&pretty"'
    return f"curl -sS{login}{authority} {url} \\\n  -H 'Content-Type: application/json' -d {shlex.quote(body)}"
