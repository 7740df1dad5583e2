"""Connector, model and model group of ML Commons, through which OpenSearch asks our service."""

from __future__ import annotations

import ipaddress
import json
import logging
import re
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from secondpass.errors import DeadlineExceeded, InvalidInput, SecondPassError
from secondpass.text import positive_int
from secondpass_servers.requests import WHAT, check_model, service_address, service_key
from secondpass_servers.two_pass import words_query

if TYPE_CHECKING:
    from opensearchpy import OpenSearch

log = logging.getLogger(__name__)

ROUTE = "/v1/rerank"
TIMEOUT = 10
# A search pipeline hands its documents over as objects, and the script gets them so.
OBJECTS = tuple(
    f"pre_process_function.{what}"
    for what in ("process_remote_inference_input", "convert_remote_inference_param_to_object")
)
# What a document's score is called in its `_source` on the way from the service to the order, which takes it out.
SCORE = "_secondpass"
MARK = "made by `secondpass opensearch connect`"
# A connector cannot be without a credential; this one is in no header.
NO_KEY = "none"
# Two kinds of call: texts that the rerank processor made, as JSON without their quotes, and documents with the search
# that found them, as objects. Joining them is what `two_pass.joined` does in `secondpass opensearch search`.
_SCRIPT = r"""
String plain(def text) { return text.replace('$' + '{parameters.', '$ ' + '{parameters.'); }
String quoted(String text) { return plain(text.replace('\\', '\\\\').replace('"', '\\"')); }
def at(def source, String field) {
  if (source instanceof List) {
    List found = new ArrayList();
    for (def inner : source) found.add(at(inner, field));
    return found;
  }
  if (!(source instanceof Map)) return null;
  if (source.containsKey(field)) return source.get(field);
  int dot = field.indexOf('.');
  return dot < 0 ? null : at(source.get(field.substring(0, dot)), field.substring(dot + 1));
}
String joined(def value, String field) {
  if (value == null) return '';
  if (value instanceof Map) throw new IllegalArgumentException("the field '" + field + "' holds objects, not texts");
  if (value instanceof List) {
    StringBuilder made = new StringBuilder();
    for (def inner : value) {
      String text = joined(inner, field);
      if (made.length() > 0 && text.length() > 0) made.append(' ');
      made.append(text);
    }
    return made.toString();
  }
  boolean whole = value instanceof Double && value == Math.rint(value) && Math.abs(value) < 1e15;
  return whole ? Long.toString((long) value) : value.toString();
}
String document(def source, def fields) {
  List texts = new ArrayList();
  for (def field : fields) texts.add(joined(at(source, field), field));
  return quoted(joined(texts, ''));
}
String query(def search) {
  // OpenSearch prints a search's ext.rerank without its name.
  def context = at(search, 'ext.query_context');
  if (context == null) throw new IllegalArgumentException('the search has no ext.rerank.query_context');
  def found = context.query_text;
  if (context.query_text_path != null) {
    found = search;
    for (String part : context.query_text_path.splitOnToken('.')) {
      found = found instanceof List ? found[Integer.parseInt(part)] : found instanceof Map ? found[part] : null;
    }
  }
  if (!(found instanceof String)) throw new IllegalArgumentException('ext.rerank.query_context leads to no text');
  return quoted(found);
}
boolean whole = params.containsKey('documents');
def given = whole ? params.documents : params.text_docs;
StringBuilder made = new StringBuilder('OPENING');
made.append(whole ? query(params.search) : plain(params.query_text)).append('","documents":[');
for (int i = 0; i < given.size(); i++) {
  if (i > 0) made.append(',');
  made.append('"').append(whole ? document(given[i], params.fields) : plain(given[i])).append('"');
}
return made.append(']}}}').toString();
"""
# Seconds until a model is deployed or undeployed on every node, and between two looks at it.
DEPLOY_SECONDS = 60.0
PAUSE = 0.2
RUNNING = ("DEPLOYED", "PARTIALLY_DEPLOYED", "DEPLOYING")
# How OpenSearch refuses to change a connector.
IN_USE = "models are still using this connector"


@dataclass(frozen=True, slots=True)
class RerankService:
    """A service with the Cohere shape of /v1/rerank.

    Attributes:
        endpoint: full URL that OpenSearch posts to.
        key: API key; empty sends none. Never in the repr.
        model: name of a model of the service; empty leaves the choice to it.
        timeout: whole seconds OpenSearch waits for an answer.
    """

    endpoint: str
    key: str = field(default="", repr=False)
    model: str = ""
    timeout: int = TIMEOUT

    @classmethod
    def from_environment(
        cls, url: str, model: str = "", timeout: int = TIMEOUT, environment: Mapping[str, str] | None = None
    ) -> RerankService:
        """The service at `url`, its key from SECONDPASS_API_KEY; a URL without a route gets /v1/rerank.

        Raises:
            InvalidInput: the URL has another form or credentials in it, or the key cannot be sent in a header.
        """
        key = service_key(environment) or ""
        check_model(model)
        return cls(_endpoint(url), key, model, positive_int(timeout, "timeout"))

    @property
    def pattern(self) -> str:
        """A Java regular expression that this endpoint alone matches, for the list of trusted endpoints."""
        escaped = re.sub(r"([^a-zA-Z0-9/:_-])", r"\\\1", self.endpoint)
        return f"^{escaped}$"

    @property
    def is_private(self) -> bool:
        """Whether its address is private or loopback, which OpenSearch refuses unless told otherwise.

        A name that is not known on this machine is taken for one that only the servers' network knows.
        """
        host = urlsplit(self.endpoint).hostname or ""
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except OSError:
            return True
        return any(not ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_global for entry in found)


def _endpoint(url: str) -> str:
    parts = service_address(url)
    if not re.fullmatch(r"[\w./:\[\]-]+", parts.netloc + parts.path, re.ASCII):
        raise InvalidInput(f"{WHAT} has more than letters, digits and . / : _ - in it: {parts.netloc}")
    path = parts.path.rstrip("/")
    return f"{parts.scheme}://{parts.netloc.lower()}{path if path.endswith('/rerank') else path + ROUTE}"


def connector_body(name: str, service: RerankService) -> dict[str, Any]:
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
        "parameters": {"service": "secondpass", **dict.fromkeys(OBJECTS, "true")},
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
    opening = '{"parameters":{"body":{' + named + '"return_documents":false,"query":"'
    return _SCRIPT.replace("OPENING", opening.replace("\\", "\\\\").replace("'", "\\'"))


def pipeline_body(
    model_id: str, fields: Sequence[str], *, first_pass: bool = False, joins: bool = True
) -> dict[str, Any]:
    """A search pipeline that reranks the hits of a search by `fields` of their `_source`.

    Args:
        model_id: the model that asks the service.
        fields: what the service reads of a hit, in order and with a space between; a dotted name looks into objects.
        first_pass: a search that cannot be reranked answers with the first pass instead of an error.
        joins: the server is `JOINS` or later. Older ones have a processor that reads one field of the top level.
    """
    on_failure = {"ignore_failure": True} if first_pass else {}
    if not joins:
        rerank = {"ml_opensearch": {"model_id": model_id}, "context": {"document_fields": list(fields)}}
        return {"description": MARK, "response_processors": [{"rerank": {**rerank, **on_failure}}]}
    scoring = {
        "model_id": model_id,
        "input_map": [{"documents": _path(fields), "search": "_request.$"}],
        "model_config": {"fields": list(fields)},
        "output_map": [{SCORE: "$.inference_results[0].output[*].data[0]"}],
        "full_response_path": True,
        "override": True,
    }
    ordering = {"by_field": {"target_field": SCORE, "remove_target_field": True}}
    processors = [{"ml_inference": {**scoring, **on_failure}}, {"rerank": {**ordering, **on_failure}}]
    return {"description": MARK, "response_processors": processors}


def _path(fields: Sequence[str]) -> str:
    """A JSON path to those parts of a document in which the fields may be; of two names or more it gives an object."""
    names = dict.fromkeys(name for field in fields for name in (field, field.partition(".")[0]))
    quoted = [json.dumps(name, ensure_ascii=False)[1:-1].replace("'", "\\'") for name in names]
    return "$[" + ",".join(f"'{name}'" for name in (quoted * 2 if len(quoted) == 1 else quoted)) + "]"


def query_body(text: str, fields: Sequence[str], size: int) -> dict[str, Any]:
    """A search that the pipeline reranks; BM25 finds what `secondpass opensearch search` finds."""
    return {
        "size": size,
        "query": words_query(text, fields),
        "ext": {"rerank": {"query_context": {"query_text": text}}},
    }


@dataclass(frozen=True, slots=True)
class Found:
    """Ids of what is there under a name, the oldest first; all of it is ours."""

    connectors: tuple[str, ...]
    models: tuple[str, ...]
    groups: tuple[str, ...]


def find(client: OpenSearch, name: str) -> Found:
    """Look for what an earlier run made.

    Raises:
        InvalidInput: something of that name was made by somebody else.
    """
    ml = client.plugins.ml
    return Found(
        _ids(ml.search_connectors, name, "connector"),
        _ids(ml.search_models, name, "model"),
        _ids(ml.search_model_group, name, "model group"),
    )


def connect_model(client: OpenSearch, name: str, service: RerankService, found: Found) -> str:
    """Make or change connector and model so that the model asks `service`, deployed; returns its id."""
    ml = client.plugins.ml
    for id_ in found.models:
        undeploy(client, id_)
    connector_id = _changed(client, found, connector_body(name, service))
    for id_ in found.models[1:]:
        ml.delete_model(model_id=id_)
    if not found.models:
        model_id = _register(client, name, connector_id, found)
    else:
        model_id = found.models[0]
        if ml.get_model(model_id=model_id).get("connector_id") != connector_id:
            ml.update_model(model_id=model_id, body={"connector_id": connector_id})
    for id_ in found.connectors:
        if id_ != connector_id:
            _delete_connector(client, id_)
    ml.deploy_model(model_id=model_id)
    _wait(client, model_id, lambda state: state == "DEPLOYED")
    return model_id


def remove(client: OpenSearch, found: Found) -> None:
    """Remove it all, in the order in which one needs the other."""
    ml = client.plugins.ml
    for id_ in found.models:
        undeploy(client, id_)
        ml.delete_model(model_id=id_)
    for id_ in found.groups:
        ml.delete_model_group(model_group_id=id_)
    for id_ in found.connectors:
        _delete_connector(client, id_)


# OpenSearch, to 3.8 at least, looks for a connector's models by the words of its id, of which every "-" makes two, and
# so finds those of other connectors too, now and then: ids that were made about the same time may share a word. Then
# it neither changes the connector nor deletes it (findings/opensearch-connector-ids.sh).
def _changed(client: OpenSearch, found: Found, body: dict[str, Any]) -> str:
    """The id of a connector as `body` has it: the first one there that can be changed, or a new one."""
    from opensearchpy.exceptions import RequestError

    ml = client.plugins.ml
    for id_ in found.connectors:
        try:
            ml.update_connector(connector_id=id_, body=body)
        except RequestError as error:
            if IN_USE not in str(error):
                raise
        else:
            return id_
    return str(ml.create_connector(body=body)["connector_id"])


def _delete_connector(client: OpenSearch, connector_id: str) -> None:
    from opensearchpy.exceptions import ConflictError

    ml = client.plugins.ml
    try:
        ml.delete_connector(connector_id=connector_id)
    except ConflictError:
        asked = {"query": {"match": {"connector_id": connector_id}}, "size": 1000}
        alike = ml.search_models(body=asked)["hits"]["hits"]
        if any(hit["_source"].get("connector_id") == connector_id for hit in alike):
            raise
        log.warning(
            "OpenSearch keeps the connector %s, which nothing uses: it takes the models %s for its users, because "
            "their connectors' ids have a word in common with its own. disconnect removes it when those are gone",
            connector_id,
            ", ".join(hit["_id"] for hit in alike),
        )


def undeploy(client: OpenSearch, model_id: str) -> None:
    """Take a model out of use; nothing happens to one that is not in use."""
    if _state(client, model_id) in RUNNING:
        client.plugins.ml.undeploy_model(model_id=model_id)
        _wait(client, model_id, lambda state: state not in RUNNING)


def _register(client: OpenSearch, name: str, connector_id: str, found: Found) -> str:
    ml = client.plugins.ml
    if found.groups:
        group_id = found.groups[0]
    else:
        # OpenSearch wants every model to be in a group.
        group_id = str(ml.register_model_group(body={"name": name, "description": MARK})["model_group_id"])
    elsewhere = {"function_name": "remote", "model_group_id": group_id, "connector_id": connector_id}
    answer = ml.register_model(body={"name": name, "description": MARK, **elsewhere})
    end = time.monotonic() + DEPLOY_SECONDS
    while "model_id" not in answer:
        if answer.get("state") == "FAILED":
            raise SecondPassError(f"OpenSearch cannot register the model: {answer.get('error')}")
        if time.monotonic() > end:
            raise DeadlineExceeded(f"OpenSearch did not register the model within {DEPLOY_SECONDS:g} s")
        time.sleep(PAUSE)
        answer = answer | ml.get_task(task_id=answer["task_id"])
    return str(answer["model_id"])


def _wait(client: OpenSearch, model_id: str, done: Callable[[str], bool]) -> None:
    end = time.monotonic() + DEPLOY_SECONDS
    state = _state(client, model_id)
    while not done(state):
        if state == "DEPLOY_FAILED":
            raise SecondPassError(f"OpenSearch cannot deploy the model {model_id}; its log says why")
        if time.monotonic() > end:
            raise DeadlineExceeded(f"the model {model_id} is still {state} after {DEPLOY_SECONDS:g} s")
        time.sleep(PAUSE)
        state = _state(client, model_id)


def _state(client: OpenSearch, model_id: str) -> str:
    return str(client.plugins.ml.get_model(model_id=model_id).get("model_state", ""))


def _ids(search: Callable[..., Any], name: str, what: str) -> tuple[str, ...]:
    """Of what ML Commons keeps under a name, the oldest first."""
    from opensearchpy.exceptions import NotFoundError

    body = {"query": {"term": {"name.keyword": name}}, "sort": [{"created_time": {"order": "asc"}}], "size": 1000}
    try:
        hits = search(body=body)["hits"]["hits"]
    except NotFoundError:
        # Before the first one is made there is no index to look into.
        return ()
    if any(hit["_source"].get("description") != MARK for hit in hits):
        raise InvalidInput(f"a {what} named {name!r} is there that this command did not make: choose another --name")
    return tuple(hit["_id"] for hit in hits)
