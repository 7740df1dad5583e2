"""What ML Commons and the search pipeline are sent, so that OpenSearch reranks through our service."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from secondpass_opensearch.service import RerankService

MARK = "made by `secondpass opensearch connect`"
# A connector cannot be without a credential; this one is in no header.
NO_KEY = "none"


def connector(name: str, service: RerankService) -> dict[str, Any]:
    """A connector that posts the query and the documents to the service and reads the scores back.

    Time-outs are in seconds; without them it would be 30,000 of them up to OpenSearch 3.5.
    """
    headers = {"Content-Type": "application/json"}
    if service.key:
        headers["Authorization"] = "Bearer ${credential.key}"
    action = {
        "action_type": "predict",
        "method": "POST",
        "url": service.endpoint,
        "headers": headers,
        "request_body": "${parameters.body}",
        "pre_process_function": script(service.model),
        "post_process_function": "connector.post_process.cohere.rerank",
    }
    return {
        "name": name,
        "description": MARK,
        "version": "1",
        "protocol": "http",
        # An update fails on a connector that has none.
        "parameters": {"service": "secondpass"},
        "credential": {"key": service.key or NO_KEY},
        "client_config": {
            "connection_timeout": service.timeout,
            "read_timeout": service.timeout,
            "max_retry_times": 0,
        },
        "actions": [action],
    }


def script(model: str) -> str:
    """A Painless function that makes the request's body, with `model` in it if one is named.

    OpenSearch's own for the Cohere shape (connector.pre_process.cohere.rerank) leaves a query that is a JSON object
    unescaped, and replaces "${parameters.x}" wherever it stands: one document with that text fails every search that
    finds it. Here the body is one JSON value, and such a text gets a space after the dollar sign. The texts come in
    as JSON strings without their quotes.
    """
    named = f'"model":{json.dumps(model)},' if model else ""
    opening = '{"parameters":{"body":{' + named + '"query":"'
    return _SCRIPT.replace("OPENING", opening.replace("\\", "\\\\").replace("'", "\\'"))


_SCRIPT = """
String plain(def text) { return text.replace('$' + '{parameters.', '$ ' + '{parameters.'); }
StringBuilder made = new StringBuilder('OPENING');
made.append(plain(params.query_text)).append('","documents":[');
for (int i = 0; i < params.text_docs.size(); i++) {
  if (i > 0) made.append(',');
  made.append('"').append(plain(params.text_docs[i])).append('"');
}
return made.append(']}}}').toString();
"""


def model_group(name: str) -> dict[str, Any]:
    """The group that OpenSearch wants every model to be in."""
    return {"name": name, "description": MARK}


def model(name: str, connector_id: str, group_id: str) -> dict[str, Any]:
    """A model that is elsewhere."""
    return {
        "name": name,
        "description": MARK,
        "function_name": "remote",
        "model_group_id": group_id,
        "connector_id": connector_id,
    }


def pipeline(model_id: str, fields: Sequence[str]) -> dict[str, Any]:
    """A search pipeline that reranks the hits of a search by `fields` of their `_source`."""
    rerank = {"ml_opensearch": {"model_id": model_id}, "context": {"document_fields": list(fields)}}
    return {"description": MARK, "response_processors": [{"rerank": rerank}]}


def query(text: str, field: str, size: int) -> dict[str, Any]:
    """A search that the pipeline reranks."""
    return {
        "size": size,
        "query": {"match": {field: {"query": text}}},
        "ext": {"rerank": {"query_context": {"query_text": text}}},
    }


def named_as(name: str) -> dict[str, Any]:
    """A search for what ML Commons keeps under a name, oldest first."""
    return {"query": {"term": {"name.keyword": name}}, "sort": [{"created_time": {"order": "asc"}}], "size": 1000}
