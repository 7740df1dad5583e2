"""`secondpass elasticsearch`: an Elasticsearch made into a search of two passes; light until a command runs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from secrets import token_hex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secondpass.cli.arguments import JsonObject
from secondpass.cli.output import print_json
from secondpass.errors import InvalidInput, SecondPassError
from secondpass_servers import options
from secondpass_servers.commands import add_commands
from secondpass_servers.elasticsearch.client import (
    ACCESS,
    ELASTICSEARCH,
    Similarity,
    create_index,
    creation,
    kind,
    reason,
    session,
    spoken,
)
from secondpass_servers.index import IndexLayout
from secondpass_servers.requests import ApiRequest, check_model, service_address, service_key

if TYPE_CHECKING:
    from elasticsearch import ApiError, Elasticsearch


TASK = "rerank"
# hugging_face demands a key, also for a service that asks for none.
NO_KEY = "none"
INFERENCE_ID = re.compile(r"[a-z0-9]([a-z0-9_-]*[a-z0-9])?")
NO_MODULE = (
    "this server has no inference module, which the services custom and hugging_face need: "
    "take a complete Elasticsearch, 8.19 or 9.1 or later"
)
NO_LICENCE = (
    "the inference API and text_similarity_reranker need an Enterprise or a trial licence "
    "(a trial of 30 days: POST /_license/start_trial?acknowledge=true)"
)


class InferenceService(StrEnum):
    """How Elasticsearch speaks to the service: as to Cohere, or as to text-embeddings-inference."""

    custom = "custom"
    hugging_face = "hugging_face"


PATHS = {InferenceService.custom: "/v2/rerank", InferenceService.hugging_face: "/rerank"}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A `rerank` inference endpoint over our service, and the requests that make, try and use it.

    Shapes: Elasticsearch's inference API, services `custom` and `hugging_face` (8.19 and 9.1 on).

    Attributes:
        inference_id: its name in Elasticsearch.
        service_url: where the service is, as Elasticsearch sees it, such as "http://rerank:8000".
        shape: which of the service's addresses is used.
        model: which model of the service; only the shape `custom` sends it.
        api_key: the service's key.
    """

    inference_id: str
    service_url: str
    shape: InferenceService = InferenceService.custom
    model: str | None = None
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check_id(self.inference_id)
        service_address(self.service_url)
        if self.shape is InferenceService.hugging_face and self.model is not None:
            raise InvalidInput("model: the shape hugging_face has no place for a model; the service's default is used")
        check_model(self.model)

    @property
    def url(self) -> str:
        """The address that Elasticsearch posts to."""
        base = self.service_url.rstrip("/")
        return base if base.endswith(PATHS[self.shape]) else base + PATHS[self.shape]

    @property
    def path(self) -> str:
        """The endpoint's own path in Elasticsearch."""
        return f"/_inference/{TASK}/{self.inference_id}"

    def settings(self) -> dict[str, Any]:
        """`service_settings` without the secret: what Elasticsearch gives back when it is asked."""
        if self.shape is InferenceService.hugging_face:
            return {"url": self.url}
        headers = {"Content-Type": "application/json"}
        if self.api_key is not None:
            headers["Authorization"] = "Bearer ${api_key}"
        # No quotes around ${...}: Elasticsearch puts JSON there. No ${top_n}: a retriever does not set it.
        model = "" if self.model is None else f'"model": {json.dumps(self.model)}, '
        return {
            "url": self.url,
            "headers": headers,
            "request": f'{{{model}"query": ${{query}}, "documents": ${{input}}}}',
            "response": {
                "json_parser": {
                    "relevance_score": "$.results[*].relevance_score",
                    "reranked_index": "$.results[*].index",
                }
            },
        }

    def creation(self) -> ApiRequest:
        """The request that makes the endpoint."""
        secret: dict[str, Any] = {}
        if self.shape is InferenceService.hugging_face:
            secret = {"api_key": self.api_key or NO_KEY}
        elif self.api_key is not None:
            secret = {"secret_parameters": {"api_key": self.api_key}}
        body = {"service": self.shape.value, "service_settings": {**secret, **self.settings()}}
        return ApiRequest("PUT", self.path, body)

    def trial(self) -> ApiRequest:
        """The request that reranks two documents, to see that all of it works."""
        return ApiRequest("POST", self.path, {"query": "a question", "input": ["an answer", "another text"]})

    def ready_query(self, index: str, content: str = "content", first_pass: bool = False) -> ApiRequest:
        """A search in two passes: `rank_window_size` documents are read by the model, `size` are shown.

        With `first_pass` it answers with the inner retriever's order and scores if the service cannot rerank.
        """
        question = "your question"
        reranker: dict[str, Any] = {
            "retriever": {"standard": {"query": {"match": {content: question}}}},
            "field": content,
            "inference_id": self.inference_id,
            "inference_text": question,
            "rank_window_size": 100,
            **({"allow_rerank_failures": True} if first_pass else {}),
        }
        return ApiRequest(
            "POST", f"/{index}/_search", {"retriever": {"text_similarity_reranker": reranker}, "size": 10}
        )


def removal(inference_id: str) -> ApiRequest:
    """The request that removes an endpoint.

    Raises:
        InvalidInput: no endpoint can have such an id.
    """
    _check_id(inference_id)
    return ApiRequest("DELETE", f"/_inference/{TASK}/{inference_id}")


def differences(endpoint: Endpoint, found: Mapping[str, Any]) -> list[str]:
    """Which settings of an endpoint in Elasticsearch are others; secrets cannot be read back and are not compared."""
    wanted = {"service": endpoint.shape.value, "task_type": TASK}
    other = [name for name, value in wanted.items() if found.get(name) != value]
    there = found.get("service_settings") or {}
    return other + [name for name, value in endpoint.settings().items() if there.get(name) != value]


def _check_id(value: str) -> None:
    if not INFERENCE_ID.fullmatch(value):
        raise InvalidInput(
            f"inference id {value!r} is not made of a-z, 0-9, - and _ with a letter or a digit at both ends"
        )


class ConnectResult(StrEnum):
    """What `connect` did."""

    created = "created"
    unchanged = "unchanged"
    replaced = "replaced"


def connect_service(client: Elasticsearch, server: str, endpoint: Endpoint, replace: bool = False) -> ConnectResult:
    """Make the endpoint, unless it is there with these settings, and rerank two documents through it.

    Elasticsearch itself calls the service before it takes a new endpoint. The key of an endpoint that is there cannot
    be read back: `replace` sends a new one, after an endpoint of another id with the same settings has worked.

    Raises:
        InvalidInput: an endpoint of that id has other settings and `replace` is False, or the settings are refused.
        SecondPassError: no inference module, no licence, or the service does not answer as it should.
    """
    found = _found(client, server, endpoint)
    done = ConnectResult.created
    if found is not None:
        other = differences(endpoint, found)
        if other and not replace:
            raise InvalidInput(
                f"{ELASTICSEARCH.at(server)} has an inference endpoint {endpoint.inference_id!r} "
                f"with another {', '.join(other)}: take another --id, or --replace it"
            )
        done = ConnectResult.replaced if replace else ConnectResult.unchanged
    if done is ConnectResult.replaced:
        _replace(client, server, endpoint)
    elif done is ConnectResult.created:
        _create(client, server, endpoint)
    _try_out(client, server, endpoint)
    return done


def disconnect_service(client: Elasticsearch, server: str, removal: ApiRequest) -> bool:
    """Remove the endpoint; False if there was none.

    Raises:
        SecondPassError: no inference module, no right, or an ingest pipeline still uses the endpoint.
    """
    from elasticsearch import NotFoundError

    with _explained(server):
        try:
            client.inference.delete(task_type=TASK, inference_id=removal.path.rsplit("/", 1)[1])
        except NotFoundError:
            return False
    return True


def _found(client: Elasticsearch, server: str, endpoint: Endpoint) -> dict[str, Any] | None:
    from elasticsearch import NotFoundError

    with _explained(server):
        try:
            answer = client.inference.get(task_type=TASK, inference_id=endpoint.inference_id).body
        except NotFoundError:
            return None
    endpoints = answer.get("endpoints") or []
    return dict(endpoints[0]) if endpoints else None


def _create(client: Elasticsearch, server: str, endpoint: Endpoint) -> None:
    body = endpoint.creation().body
    # An endpoint is made once: a repetition after a time-out would only hear that it is there.
    once = client.options(max_retries=0, retry_on_timeout=False)
    with _explained(server):
        once.inference.put(task_type=TASK, inference_id=endpoint.inference_id, inference_config=body)


def _replace(client: Elasticsearch, server: str, endpoint: Endpoint) -> None:
    """Elasticsearch takes no second endpoint of an id, so the first one goes before; not for one that does not work."""
    probe = replace(endpoint, inference_id=f"{endpoint.inference_id}-{token_hex(4)}")
    try:
        _create(client, server, probe)
        _try_out(client, server, probe)
    finally:
        disconnect_service(client, server, removal(probe.inference_id))
    disconnect_service(client, server, removal(endpoint.inference_id))
    try:
        _create(client, server, endpoint)
    except SecondPassError as error:
        raise type(error)(f"{error}; the endpoint {endpoint.inference_id!r} that was there is gone") from error


def _try_out(client: Elasticsearch, server: str, endpoint: Endpoint) -> None:
    """One score for each input, or the retriever would fail for every search."""
    body = endpoint.trial().body or {}
    with _explained(server):
        answer = client.inference.inference(task_type=TASK, inference_id=endpoint.inference_id, **body).body
    scores = answer.get(TASK)
    if not isinstance(scores, list) or {score.get("index") for score in scores} != set(range(len(body["input"]))):
        raise SecondPassError(
            f"{ELASTICSEARCH.at(server)}: the service at {endpoint.url} did not score each of the inputs once"
        )


@contextmanager
def _explained(server: str) -> Iterator[None]:
    """As `spoken`; what is missing on a server without module or licence is named."""
    from elasticsearch import ApiError

    with spoken(server):
        try:
            yield
        except ApiError as error:
            if _has_no_module(error):
                raise SecondPassError(f"{ELASTICSEARCH.at(server)}: {NO_MODULE}") from error
            if error.status_code == 403 and "non-compliant" in reason(error):
                raise SecondPassError(f"{ELASTICSEARCH.at(server)}: {NO_LICENCE}: {reason(error)}") from error
            raise


def _has_no_module(error: ApiError) -> bool:
    """Whether nothing in the server handles the address, or nothing in its module knows the service."""
    unknown = "Unknown service" in reason(error)
    return error.status_code in (400, 405) and (unknown or (not kind(error) and "_inference" in reason(error)))


InferenceId = Annotated[str, typer.Option("--id", help="Name of the inference endpoint.")]


commands = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Elasticsearch as the first pass, and a cross-encoder as the second. Server and credentials come from the "
    "environment: ELASTICSEARCH_URL; ELASTIC_API_KEY, or ELASTIC_USERNAME and ELASTIC_PASSWORD; ELASTICSEARCH_CA_FILE "
    "for a private authority.",
)


@commands.command()
def create(
    index: options.Index,
    *,
    analyzer: options.Analyzer = "standard",
    dims: options.Dims = None,
    similarity: Annotated[Similarity, typer.Option(help="How embeddings are compared.")] = Similarity.cosine,
    shards: options.Shards = None,
    replicas: options.Replicas = None,
    dry_run: options.DryRun = False,
    as_json: JsonObject = False,
    url: options.Url = None,
    timeout: options.Timeout = 30.0,
) -> None:
    """Create an index for two passes: BM25 reads the content alone; an index that is there is never touched.

    [bold]Examples[/bold]

    secondpass elasticsearch create articles

    secondpass elasticsearch create articles --analyzer english --dims 384 --replicas 0
    """
    options.check_json(as_json, dry_run)
    layout = IndexLayout(index, analyzer, shards, replicas, dims)
    if dry_run:
        typer.echo(creation(layout, similarity.value).shown())
        return
    with session(url, timeout) as (client, server):
        create_index(client, server, layout, similarity.value)
    if as_json:
        print_json({"server": server, **asdict(layout)})
    else:
        typer.echo(layout.made(server))


add_commands(commands, ACCESS)


@commands.command()
def connect(
    service: Annotated[
        str, typer.Argument(help="Address of `secondpass serve` as Elasticsearch sees it.", show_default=False)
    ],
    *,
    inference_id: InferenceId = "secondpass",
    shape: Annotated[
        InferenceService, typer.Option(help="custom (/v2/rerank) or hugging_face (/rerank).")
    ] = InferenceService.custom,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Model of the service, if it has several (custom only).")
    ] = None,
    index: Annotated[str, typer.Option(help="Index of the query that is printed.")] = "INDEX",
    content: Annotated[str, typer.Option("--field", help="Text field of the query that is printed.")] = "content",
    on_failure: options.OnFailureOption = options.OnFailure.error,
    replace: Annotated[bool, typer.Option("--replace", help="Make an endpoint of this name anew, with key.")] = False,
    dry_run: options.DryRun = False,
    as_json: JsonObject = False,
    url: options.Url = None,
    timeout: options.Timeout = 60.0,
) -> None:
    """Let Elasticsearch rerank through `secondpass serve`: make the inference endpoint, try it, print a query.

    Needs a complete Elasticsearch, 8.19 or 9.1 or later, with an Enterprise or a trial licence. The key of the service,
    if it has one, comes from SECONDPASS_API_KEY.

    [bold]Examples[/bold]

    secondpass elasticsearch connect http://rerank:8000 --index articles

    secondpass elasticsearch connect http://rerank:8000 --shape hugging_face --dry-run
    """
    options.check_json(as_json, dry_run)
    endpoint = Endpoint(inference_id, service, shape, model, service_key())
    ready = endpoint.ready_query(index, content, on_failure is options.OnFailure.first_pass).shown()
    if dry_run:
        requests = (ApiRequest("GET", endpoint.path), endpoint.creation(), endpoint.trial())
        typer.echo("\n\n".join([*(request.shown() for request in requests), ready]))
        return
    with session(url, timeout) as (client, server):
        done = connect_service(client, server, endpoint, replace)
    where = ELASTICSEARCH.at(server)
    if as_json:
        print_json({"server": server, "inference_id": inference_id, "result": done.value, "search": ready})
        return
    typer.echo(f"Inference endpoint {inference_id!r} on {where}: {done.value}, and it answers. A search with it:\n")
    typer.echo(ready)


@commands.command()
def disconnect(
    *,
    inference_id: InferenceId = "secondpass",
    dry_run: options.DryRun = False,
    as_json: JsonObject = False,
    url: options.Url = None,
    timeout: options.Timeout = 30.0,
) -> None:
    """Remove the inference endpoint that `connect` made; nothing happens if there is none."""
    options.check_json(as_json, dry_run)
    request = removal(inference_id)
    if dry_run:
        typer.echo(request.shown())
        return
    with session(url, timeout) as (client, server):
        removed = disconnect_service(client, server, request)
    if as_json:
        print_json({"server": server, "inference_id": inference_id, "removed": removed})
        return
    what = "removed" if removed else "there was none"
    typer.echo(f"Inference endpoint {inference_id!r} on {ELASTICSEARCH.at(server)}: {what}.")
