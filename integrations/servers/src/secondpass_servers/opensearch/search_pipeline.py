"""OpenSearch reranks through our service: everything that takes, and everything that takes it back."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from secondpass.errors import InvalidInput, SecondPassError
from secondpass_servers.opensearch import ml_commons
from secondpass_servers.opensearch.client import CA_FILE, PASSWORD, USERNAME, Server, line_for, named, speaking_to
from secondpass_servers.opensearch.ml_commons import MARK, RerankService, pipeline_body, query_body
from secondpass_servers.requests import ApiRequest

if TYPE_CHECKING:
    from opensearchpy import OpenSearch, Transport


TRUSTED = "plugins.ml_commons.trusted_connector_endpoints_regex"
PRIVATE = "plugins.ml_commons.connector.private_ip_enabled"
NOTES = "cluster.metadata.secondpass."
LAYERS = ("transient", "persistent")
READING = ("GET", "HEAD")
# Parameters of the client, which are not sent.
OURS = ("timeout", "request_timeout")
# What a request that was not sent would have answered; opensearchpy's callers take ids from it.
ANSWER = {
    "acknowledged": True,
    "connector_id": "<connector_id>",
    "model_group_id": "<model_group_id>",
    "model_id": "<model_id>",
    "task_id": "<task_id>",
}
MODEL = re.compile(r"/_plugins/_ml/models/([^/]+)(?:/_(deploy|undeploy))?")
AFTER = {"deploy": "DEPLOYED", "undeploy": "UNDEPLOYED"}
NEEDED = {"opensearch-ml": "ML Commons", "opensearch-neural-search": "neural search"}
# The first whose search pipelines can join fields.
JOINS = (2, 18)
PROBE = ("which one is a fruit", ("an apple", "a bicycle"))
# OpenSearch reranks the hits that a search returns and no others.
RERANKED = 100


@dataclass(frozen=True, slots=True)
class Note:
    """What one connection added.

    Attributes:
        patterns: trusted endpoints.
        private: whether it allowed private addresses.
        unset: digest of the list as it was while nobody had set it, "" if somebody had.
    """

    patterns: tuple[str, ...] = ()
    private: bool = False
    unset: str = ""


@dataclass(frozen=True, slots=True)
class Trust:
    """The settings as they are.

    Attributes:
        trusted: patterns in force.
        private: whether private addresses are allowed.
        notes: what our connections added, by name.
        layers: the layer in which each of the two settings is set; one that nobody set is absent.
    """

    trusted: tuple[str, ...]
    private: bool
    notes: Mapping[str, Note]
    layers: Mapping[str, str]


def read_trust(settings: Mapping[str, Mapping[str, Any]]) -> Trust:
    """Read GET /_cluster/settings?flat_settings=true&include_defaults=true."""
    layers = {key: layer for key in (TRUSTED, PRIVATE) for layer in reversed(LAYERS) if key in settings.get(layer, {})}
    in_force: dict[str, Any] = {}
    for layer in ("defaults", "persistent", "transient"):
        in_force |= settings.get(layer, {})
    notes = {key.removeprefix(NOTES): _note(text) for key, text in in_force.items() if key.startswith(NOTES)}
    private = str(in_force.get(PRIVATE, "false")).lower() == "true"
    return Trust(tuple(in_force.get(TRUSTED) or ()), private, notes, layers)


def granted(trust: Trust, name: str, pattern: str, private: bool) -> dict[str, Any]:
    """Body of PUT /_cluster/settings that lets connection `name` call what `pattern` matches; {} if nothing changes.

    What `name` had added for an earlier address goes.
    """
    mine = trust.notes.get(name, Note())
    others = _together(note for key, note in trust.notes.items() if key != name)
    stale = set(mine.patterns) - {pattern} - set(others.patterns)
    kept = [known for known in trust.trusted if known not in stale]
    own = pattern not in kept or pattern in mine.patterns + others.patterns
    trusted = kept if pattern in kept else [*kept, pattern]
    unset = mine.unset or others.unset or ("" if TRUSTED in trust.layers else _digest(trust.trusted))
    allowed = private and (not trust.private or mine.private or others.private)
    note = Note((pattern,) if own else (), allowed, unset)
    changes: dict[str, Any] = {}
    if trusted != list(trust.trusted):
        changes[TRUSTED] = trusted
    if private and not trust.private:
        changes[PRIVATE] = True
    elif not private and mine.private and not others.private:
        changes[PRIVATE] = None
    text = json.dumps(asdict(note), sort_keys=True)
    if note != trust.notes.get(name):
        changes[NOTES + name] = text
    return _body(trust, changes)


def withdrawn(trust: Trust, name: str) -> dict[str, Any]:
    """Body of PUT /_cluster/settings that takes back what connection `name` added; {} if it added nothing.

    What another connection of ours needs stays, and so do the user's own patterns.
    """
    mine = trust.notes.get(name)
    if mine is None:
        return {}
    others = _together(note for key, note in trust.notes.items() if key != name)
    stale = set(mine.patterns) - set(others.patterns)
    kept = [known for known in trust.trusted if known not in stale]
    changes: dict[str, Any] = {NOTES + name: None}
    if kept != list(trust.trusted):
        as_before = trust.layers.get(TRUSTED) == "persistent" and _digest(kept) == mine.unset
        changes[TRUSTED] = None if as_before else kept
    if mine.private and not others.private:
        changes[PRIVATE] = None
    return _body(trust, changes)


def _body(trust: Trust, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Each change in the layer that counts: a transient value would hide a persistent one."""
    body: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        body.setdefault(trust.layers.get(key, "persistent"), {})[key] = value
    return body


def _together(notes: Iterable[Note]) -> Note:
    found = tuple(notes)
    patterns = tuple(pattern for note in found for pattern in note.patterns)
    unset = next((note.unset for note in found if note.unset), "")
    return Note(patterns, any(note.private for note in found), unset)


def _digest(patterns: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(patterns)).encode()).hexdigest()[:16]


def _note(text: object) -> Note:
    """A note that somebody spoilt says nothing: then nothing is taken back."""
    try:
        held = json.loads(str(text))
        return Note(tuple(map(str, held["patterns"])), held["private"] is True, str(held["unset"]))
    except (ValueError, KeyError, TypeError):
        return Note()


def printing_transport() -> type[Transport]:
    """A transport that sends GET, HEAD and searches, and prints everything else on stdout, without secrets."""
    from opensearchpy import Transport

    class PrintingTransport(Transport):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._states: dict[str, str] = {}

        def perform_request(
            self, method: str, url: str, params: Any = None, body: Any = None, *more: Any, **named: Any
        ) -> Any:
            found = MODEL.fullmatch(url)
            if method in READING and found and found[1] in self._states:
                return {"model_state": self._states[found[1]]}
            if method in READING or url.endswith("/_search"):
                return super().perform_request(method, url, params, body, *more, **named)
            if found and found[2]:
                self._states[found[1]] = AFTER[found[2]]
            shown = {key: value for key, value in (params or {}).items() if key not in OURS}
            sys.stdout.write(ApiRequest(method, url, body, shown).shown() + "\n\n")
            return dict(ANSWER)

    return PrintingTransport


def connect(
    server: Server,
    name: str,
    service: RerankService,
    fields: Sequence[str],
    *,
    private: bool | None = None,
    first_pass: bool = False,
    dry: bool = False,
) -> str:
    """Make OpenSearch rerank through `service`, or change how it does; the same call again changes nothing.

    Returns the model's id.

    Args:
        server: the OpenSearch.
        name: of connector, model group, model and search pipeline.
        service: what reranks.
        fields: fields of `_source` that are the document, in order; a dotted name looks into objects.
        private: whether private addresses have to be allowed; None finds out from the address.
        first_pass: a search that cannot be reranked answers with the first pass instead of an error.
        dry: print the requests that would change something instead of sending them.

    Raises:
        InvalidInput: something of that name is there that we did not make, or the server is too old for the fields.
        SecondPassError: the server cannot be reached, refuses, or lacks a plugin, which is named.
    """
    if not name.strip() or not fields or not all(field.strip() for field in fields):
        raise InvalidInput("--name or --field is blank")
    needs_private = service.is_private if private is None else private
    with speaking_to(server), _client(server, dry) as client:
        joins = _joins(require_plugins(client, server), server, fields)
        found = ml_commons.find(client, name)
        _own_pipeline(client, name)
        _change_settings(client, granted(_trust(client), name, service.pattern, needs_private))
        model_id = ml_commons.connect_model(client, name, service, found)
        client.search_pipeline.put(id=name, body=pipeline_body(model_id, fields, first_pass=first_pass, joins=joins))
    return model_id


def disconnect(server: Server, name: str, *, dry: bool = False) -> bool:
    """Take back whatever `connect` made under `name`, all or the rest of it; returns whether there was anything.

    Raises:
        InvalidInput: something of that name is there that we did not make.
        SecondPassError: the server cannot be reached or refuses.
    """
    with speaking_to(server), _client(server, dry) as client:
        require_plugins(client, server)
        found = ml_commons.find(client, name)
        there = _own_pipeline(client, name)
        settings = withdrawn(_trust(client), name)
        if there:
            client.search_pipeline.delete(id=name)
        ml_commons.remove(client, found)
        _change_settings(client, settings)
    return there or bool(settings or found.connectors or found.models or found.groups)


def check(server: Server, model_id: str, service: RerankService) -> None:
    """Have OpenSearch rerank two documents through the service.

    Raises:
        SecondPassError: it cannot; the message has the reason that OpenSearch gives.
    """
    from opensearchpy.exceptions import TransportError

    query, documents = PROBE
    path = f"/_plugins/_ml/_predict/text_similarity/{model_id}"
    body = {"query_text": query, "text_docs": list(documents)}
    with speaking_to(server, passing=TransportError), server.client() as client:
        try:
            answer: Any = client.transport.perform_request("POST", path, body=body)
        except TransportError as error:
            trouble = line_for(error, server)
            raise SecondPassError(
                f"OpenSearch is connected, but gets no scores from {service.endpoint}: {trouble}"
            ) from None
    scores = [output["data"] for result in answer["inference_results"] for output in result["output"]]
    if len(scores) != len(documents):
        raise SecondPassError(f"{service.endpoint} gave OpenSearch {len(scores)} scores for {len(documents)} documents")


def require_plugins(client: OpenSearch, server: Server) -> tuple[int, ...] | None:
    """Refuse a server without the plugins that reranking needs; returns the oldest node's version, None if not known.

    Raises:
        SecondPassError: a node lacks one; the message names it.
    """
    from opensearchpy.exceptions import AuthorizationException

    try:
        wanted = ["nodes.*.version", "nodes.*.plugins.name"]
        nodes = client.nodes.info(metric="plugins", filter_path=wanted)["nodes"]
    except AuthorizationException:
        # Who may not list plugins hears of a missing one when it is asked.
        return None
    for node in nodes.values():
        there = {plugin["name"] for plugin in node.get("plugins", ())}
        for plugin, known_as in NEEDED.items():
            if plugin not in there:
                raise SecondPassError(f"{named(server)} lacks the plugin {plugin} ({known_as}), which reranking needs")
    return min(
        (tuple(map(int, re.findall(r"\d+", node.get("version", ""))[:2])) for node in nodes.values()), default=()
    )


def _joins(version: tuple[int, ...] | None, server: Server, fields: Sequence[str]) -> bool:
    """Whether a search pipeline can join fields; a server that is not known to be older can."""
    if not version or version >= JOINS:
        return True
    if len(fields) > 1 or "." in fields[0]:
        raise InvalidInput(
            f"{named(server)} is version {version[0]}.{version[1]}, which reads several fields without a space between "
            f"and none inside an object: name one --field of the top level, or take OpenSearch 2.18 or later"
        )
    return False


def _client(server: Server, dry: bool) -> OpenSearch:
    return server.client(**({"transport_class": printing_transport()} if dry else {}))


def _trust(client: OpenSearch) -> Trust:
    return read_trust(client.cluster.get_settings(flat_settings=True, include_defaults=True))


def _change_settings(client: OpenSearch, body: dict[str, Any]) -> None:
    if body:
        client.cluster.put_settings(body=body)


def _own_pipeline(client: OpenSearch, name: str) -> bool:
    """Whether the search pipeline is there; one that we did not make is refused."""
    from opensearchpy.exceptions import NotFoundError

    try:
        held = client.search_pipeline.get(id=name)[name]
    except (NotFoundError, KeyError):
        return False
    if held.get("description") != MARK:
        raise InvalidInput(
            f"a search pipeline named {name!r} is there that this command did not make: choose another --name"
        )
    return True


def ready_query(server: Server, pipeline: str, index: str, text: str, fields: Sequence[str]) -> str:
    """A search with curl that OpenSearch reranks; credentials come from the environment of whoever runs it."""
    body = json.dumps(query_body(text, fields, RERANKED), ensure_ascii=False)
    login = f' -u "${USERNAME}:${PASSWORD}"' if server.username else ""
    authority = f' --cacert "${CA_FILE}"' if server.ca_file is not None else ""
    url = f'"{server.address}/{index}/_search?search_pipeline={pipeline}&pretty"'
    return f"curl -sS{login}{authority} {url} \\\n  -H 'Content-Type: application/json' -d {shlex.quote(body)}"
