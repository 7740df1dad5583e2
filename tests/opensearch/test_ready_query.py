"""The query that is ready to run."""

from __future__ import annotations

import json
import shlex

from secondpass_opensearch.connecting import Connected
from secondpass_opensearch.ready_query import ready_query
from secondpass_opensearch.server import Server


def test_the_query_survives_a_shell_and_holds_no_secret() -> None:
    """Quotes in the text are quoted; the password stays a variable."""
    server = Server.from_environment({"OPENSEARCH_URL": "https://joe:secret@h:9200"})
    command = ready_query(server, Connected("p", "m"), "docs", 'it\'s "so"', ["title", "content"])
    words = shlex.split(command.replace("\\\n", " "))
    body = json.loads(words[-1])
    assert body["ext"]["rerank"]["query_context"]["query_text"] == 'it\'s "so"'
    assert "content" in body["query"]["match"]
    assert "secret" not in command
    assert "$OPENSEARCH_USERNAME:$OPENSEARCH_PASSWORD" in words
