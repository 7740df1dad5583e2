"""An index of either server: laid out for two passes, searched and written through the calls that both clients have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from secondpass.corpora import BOOLEAN, DATED, INTEGER, NUMBER, OBJECT
from secondpass.errors import InvalidInput
from secondpass.text import positive_int
from secondpass_servers.answers import outcome_of, told
from secondpass_servers.contract import (
    BatchTooLarge,
    Entry,
    IndexingError,
    Outcome,
    SearchEngine,
    ServerAway,
    TooBusy,
)

# Names that Haystack's document stores read and write.
CONTENT = "content"
EMBEDDING = "embedding"
META = "meta"
# Fields of Haystack's Document: metadata called so stands under "meta", as its stores write it, and all other beside.
LEGACY = ("content_type", "id_hash_keys", "dataframe")
DOCUMENT_FIELDS = frozenset(("id", CONTENT, "blob", META, "score", EMBEDDING, "sparse_embedding", *LEGACY))
# Those of them that hold nothing of their own in an index of texts: Haystack's filters find the metadata there too.
FREE_FIELDS = frozenset(("score", "blob", *LEGACY))
# The servers' own, of either: a document that has one is refused, some of them only by one server.
SERVERS_OWN = frozenset(
    "_data_stream_timestamp _doc_count _feature _field_names _id _ignored _ignored_source _index _inference_fields "
    "_nested_path _primary_term _recovery_source _routing _seq_no _size _source _tier _ts_routing_hash _tsid _type "
    "_version".split()
)
REFUSED_FIELDS = (DOCUMENT_FIELDS - {META}) | SERVERS_OWN
# Of metadata; an index takes 1,000 unless its settings say otherwise, and nesting of 20.
MOST_FIELDS = 900
DEEPEST_FIELD = 18
UNINDEXED = {"type": "object", "enabled": False}
# Lucene refuses a keyword of more than 32,766 bytes, and with it the document; UTF-8 has up to 4 bytes a character.
LONGEST_KEYWORD = 8191
KEYWORD = {"type": "keyword", "ignore_above": LONGEST_KEYWORD}
# All that is read of an answer to a bulk request: the rest is as long as the request.
ANSWER = ["items.index.status", "items.index.result", "items.index.error"]
AWAY = (502, 503, 504)
# A number with a fraction is refused there rather than indexed without it.
LONG = {"type": "long", "coerce": False}
WHOLE = ("byte", "short", "integer", "long", "unsigned_long")


@dataclass(frozen=True, slots=True)
class IndexLayout:
    """What an index is to be.

    Attributes:
        name: of the index.
        analyzer: of the content, at indexing and in queries.
        shards, replicas: None leaves them to the server; BM25 counts words within each shard.
        dims: of the embeddings; None: the index takes none.
    """

    name: str
    analyzer: str = "standard"
    shards: int | None = None
    replicas: int | None = None
    dims: int | None = None

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise InvalidInput("the name of the index is blank")
        for name in ("dims", "shards"):
            if getattr(self, name) is not None:
                positive_int(getattr(self, name), name)

    def body(self, vector: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """Body of the request that makes the index; `vector` is the mapping of embeddings, `more` further settings.

        A query that names no field, such as Haystack's, searches the content and not every keyword. Every other string
        is a keyword, as Haystack's stores have them.
        """
        settings: dict[str, Any] = {"query.default_field": CONTENT, **more}
        for name, count in (("number_of_shards", self.shards), ("number_of_replicas", self.replicas)):
            if count is not None:
                settings[name] = count
        properties: dict[str, Any] = {"id": {"type": "keyword"}, CONTENT: {"type": "text", "analyzer": self.analyzer}}
        if vector is not None:
            properties[EMBEDDING] = dict(vector)
        kinds = {"string": KEYWORD, "long": LONG, "double": {"type": "double"}}
        templates = [{f"{kind}s": {"match_mapping_type": kind, "mapping": made}} for kind, made in kinds.items()]
        return {
            "settings": {"index": settings},
            "mappings": {"properties": properties, "dynamic_templates": templates},
        }

    def made(self, address: str) -> str:
        """What `create` says when it is done."""
        embeddings = "no embeddings" if self.dims is None else f"embeddings of {self.dims} numbers"
        return f"Created {address}/{self.name}: BM25 on {CONTENT}, analyzer {self.analyzer}, {embeddings}."


def check_vector_field(
    engine: SearchEngine, name: str, mappings: Sequence[Mapping[str, Any]], field: str, dims: int | None = None
) -> None:
    """Refuse embeddings that the index would not take, or would take for something else.

    Args:
        engine: what the type of such a field is called.
        name: the index in messages.
        mappings: the field's mapping in each index that has it.
        field: where the embeddings are.
        dims: how long the model's embeddings are; None: not known yet.

    Raises:
        InvalidInput: no index has the field, or it holds something else, or embeddings of another length.
    """
    if not mappings:
        advice = f"`secondpass {engine.command} create NEW_INDEX --dims {dims or 'LENGTH'}` makes an index with one"
        raise InvalidInput(f"{name} has no field {field} for embeddings: {advice}")
    for mapping in mappings:
        kind, length = mapping.get("type"), mapping.get(engine.length_key)
        if kind != engine.vector_type:
            raise InvalidInput(f"{name}: the field {field} holds values of the type {kind}, not embeddings")
        if dims is not None and length is not None and length != dims:
            raise InvalidInput(
                f"{name}: the field {field} takes embeddings of {length} numbers, and those of --embedder have {dims}"
            )


def laid_out(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as Haystack's stores write it: beside the content, and under "meta" what is called as a field is."""
    flat = {key: value for key, value in meta.items() if key not in DOCUMENT_FIELDS}
    nested = {key: value for key, value in meta.items() if key in DOCUMENT_FIELDS}
    return {**flat, META: nested} if nested else flat


def gathered(source: Mapping[str, Any], *apart: str) -> dict[str, Any]:
    """The metadata of a stored document, as it was before `laid_out`; `apart` are fields that are none of it."""
    nested = source.get(META)
    inner = nested if isinstance(nested, Mapping) else {}
    left = {key: value for key, value in source.items() if key not in apart and not (key == META and inner is nested)}
    return {**inner, **left}


@dataclass(frozen=True, slots=True)
class MetadataFields:
    """Fields of metadata: their mapping, and the names of those that are kept and cannot be filtered by."""

    properties: Mapping[str, Any]
    unindexed: tuple[str, ...] = ()

    @classmethod
    def of(cls, kinds: Mapping[tuple[str, ...], set[str]]) -> MetadataFields:
        """The fields for what a whole corpus holds (see `corpora.Survey`).

        Whole numbers are long, with fractions double; days and times date; truth values boolean; everything else, and
        a key that holds several kinds, keyword. A key that holds objects in one place and values in another, or that
        is nested deeper than an index takes, is kept as it is and not indexed; so are objects with the most keys,
        where there are more fields than an index takes.

        Raises:
            InvalidInput: there are more different keys outside of objects than an index takes.
        """
        tree: dict[tuple[str, ...], set[str]] = {}
        for path, found in kinds.items():
            # The server takes a dot for a step into an object too, and leaves out those at the end.
            place = tuple(".".join((META, *path) if path[0] in DOCUMENT_FIELDS else path).rstrip(".").split("."))
            # Names that it does not take at all it refuses document by document, each with the reason.
            if all(part.strip() for part in place) and place[0] not in REFUSED_FIELDS:
                for length in range(1, len(place)):
                    tree.setdefault(place[:length], set()).add(OBJECT)
                tree.setdefault(place, set()).update(found)
        return cls._made(tree, _closed(tree))

    @classmethod
    def _made(cls, tree: Mapping[tuple[str, ...], set[str]], closed: set[tuple[str, ...]]) -> MetadataFields:
        properties: dict[str, Any] = {}
        unindexed: list[str] = []
        for place in sorted(tree, key=len):
            if any(place[:length] in closed for length in range(1, len(place))):
                continue
            inside = properties
            for part in place[:-1]:
                inside = inside[part]["properties"]
            if place in closed:
                inside[place[-1]] = dict(UNINDEXED)
                unindexed.append(".".join(place))
            elif OBJECT in tree[place]:
                inside[place[-1]] = {"properties": {}}
            else:
                inside[place[-1]] = field_type(tree[place])
                if len(place) == 2 and place[0] == META and place[1] in FREE_FIELDS:
                    properties[place[1]] = dict(inside[place[1]])
                    inside[place[1]]["copy_to"] = place[1]
        return cls(properties, tuple(unindexed))


def field_type(kinds: set[str]) -> dict[str, Any]:
    """The mapping of a field that holds values of these kinds."""
    if kinds == {INTEGER}:
        return dict(LONG)
    if kinds <= {INTEGER, NUMBER}:
        return {"type": "double"}
    if len(kinds) == 1 and kinds <= {BOOLEAN, DATED}:
        return {"type": "boolean" if BOOLEAN in kinds else "date"}
    return dict(KEYWORD)


def _closed(tree: Mapping[tuple[str, ...], set[str]]) -> set[tuple[str, ...]]:
    """Places whose mapping would not hold what is there; nothing inside them is mapped."""
    closed = {place for place, kinds in tree.items() if OBJECT in kinds and len(kinds) > 1}
    closed |= {place[:1] for place in tree if len(place) > DEEPEST_FIELD}
    inside = Counter(place[:1] for place in tree if len(place) > 1)
    count = len(tree)
    for place, fields in inside.most_common():
        if count <= MOST_FIELDS:
            return closed
        closed.add(place)
        count -= fields
    if count > MOST_FIELDS:
        raise InvalidInput(f"{count} different metadata keys are more than the {MOST_FIELDS} that an index takes")
    return closed


def _missing(wanted: Mapping[str, Any], there: Mapping[str, Any], name: str, *path: str) -> dict[str, Any]:
    """Of the properties `wanted` those that an index has not got; `there` are its own."""
    absent: dict[str, Any] = {}
    for key, field in wanted.items():
        known = there.get(key)
        if known is None:
            absent[key] = field
        elif "properties" in field and "properties" in known:
            inner = _missing(field["properties"], known["properties"], name, *path, key)
            if inner:
                absent[key] = {"properties": inner}
        elif field.get("type") == "double" and known.get("type") in WHOLE:
            raise InvalidInput(
                f"{name}: the field {'.'.join((*path, key))} holds whole numbers ({known['type']}), and the corpus has "
                "fractions there: choose another index"
            )
    return absent


def add_fields(client: Any, index: str, fields: MetadataFields, name: str) -> None:
    """Add the fields that an index has not got to its mapping; both clients take the same calls.

    Raises:
        InvalidInput: it has whole numbers where there are fractions: it would index them rounded.
    """
    if not fields.properties:
        return
    for found in dict(client.indices.get_mapping(index=index)).values():
        absent = _missing(fields.properties, found["mappings"].get("properties", {}), name)
        if absent:
            client.indices.put_mapping(index=index, body={"properties": absent})


def mappings_in(answer: Mapping[str, Any], field: str) -> list[Mapping[str, Any]]:
    """The field's mapping in each index that has it, out of the answer to GET /INDEX/_mapping/field/FIELD."""
    described = [found["mappings"][field] for found in answer.values() if field in found.get("mappings", {})]
    # Inside, it stands under the last part of the field's name.
    return [next(iter(found["mapping"].values()), {}) for found in described]


def mappings_of(index: SearchedIndex, field: str) -> list[Mapping[str, Any]]:
    """The same, asked of an index; who may search but not look at mappings gets types without lengths."""
    answer = index.field_mapping(field)
    if answer is not None:
        return mappings_in(answer, field)
    return [{"type": kind} for kind in index.known_fields([field]).get(field, ())]


class OpenedIndex(ABC):
    """One index or alias of a server; safe to share between threads, as its client is.

    `name` is engine, server and index in messages, without credentials.
    """

    engine: SearchEngine

    def __init__(self, client: Any, address: str, index: str) -> None:
        self._client = client
        self._address = address
        self._index = index
        self.name = self.engine.at(f"{address}/{index}")

    @abstractmethod
    def _translated(self) -> AbstractContextManager[None]:
        """Turns what the client raises inside into errors of ours."""


class SearchedIndex(OpenedIndex):
    """An index to search. Its methods raise no error of a client: each is a `SecondPassError`."""

    @abstractmethod
    def nearest(
        self, vector: Sequence[float], field: str, depth: int, filters: Sequence[Mapping[str, Any]] = ()
    ) -> dict[str, Any]:
        """What a body has to have so that the `depth` documents nearest to `vector` are found, of those that fit."""

    def hits(self, body: Mapping[str, Any], index: str | None = None) -> list[dict[str, Any]]:
        """Search, `index` instead of this one if given; a shard that does not answer fails it: half is not the whole.

        Raises:
            InvalidInput: the server refuses the search (no such index, other dims).
            SecondPassError: it cannot be reached, or does not answer as it should.
        """
        with self._translated():
            answer = self._client.search(
                index=index or self._index, body=dict(body), allow_partial_search_results=False
            )
        return list(answer["hits"]["hits"])

    def known_fields(self, fields: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Types of those of `fields` that the index has."""
        with self._translated():
            known = self._client.field_caps(index=self._index, fields=list(fields))["fields"]
        return {name: list(types) for name, types in known.items()}

    def field_mapping(self, field: str) -> Mapping[str, Any] | None:
        """What GET /INDEX/_mapping/field/FIELD answers; None if this user may not ask."""
        with self._translated():
            try:
                return dict(self._client.indices.get_field_mapping(index=self._index, fields=field))
            except Exception as error:
                if getattr(error, "status_code", None) != 403:
                    raise
        return None


class Sink(OpenedIndex):
    """An index to write to. Every method may be called from several threads at once.

    No method retries: back-off and smaller batches are the caller's, and the client's own retries are off.

    Raises:
        ServerAway, TooBusy, BatchTooLarge: the request as a whole failed and may be tried again.
        IndexingError: it will fail again. No error of a client comes through.
    """

    def identity(self) -> str:
        """The index's UUID: a journal goes on with the same one only. A name that stands for several is refused."""
        with self._translated():
            found = self._client.indices.get_settings(index=self._index, name="index.uuid", flat_settings=True)
        if len(found) != 1:
            raise IndexingError(f"{self.name}: the name stands for {len(found)} indexes; name one")
        (settings,) = dict(found).values()
        return str(settings["settings"]["index.uuid"])

    def write(self, batch: Sequence[Entry]) -> list[Outcome]:
        """Index every entry over what may be there, in one bulk request, no refresh; an outcome for each, in order."""
        if not batch:
            return []
        lines: list[Mapping[str, Any]] = []
        for entry in batch:
            lines += ({"index": {"_id": entry.id}}, entry.source)
        with self._translated():
            items = self._client.bulk(index=self._index, body=lines, filter_path=ANSWER).get("items", [])
        if len(items) != len(batch):
            raise ServerAway(f"{self.name}: {len(items)} answers to {len(batch)} documents")
        return [outcome_of(entry.id, item["index"]) for entry, item in zip(batch, items, strict=True)]

    def present(self, ids: Sequence[str]) -> set[str]:
        """Those of `ids` (at most 1,000) that the index holds, whether or not a search finds them yet."""
        if not ids:
            return set()
        with self._translated():
            documents = self._client.mget(index=self._index, body={"ids": list(ids)}, _source=False)["docs"]
        broken = [document for document in documents if "error" in document]
        if broken:
            raise ServerAway(f"{self.name}: {told(broken[0]['error'])}")
        return {document["_id"] for document in documents if document.get("found")}

    def settle(self) -> None:
        """Refresh and flush; a shard that does not answer counts as a server that is away."""
        with self._translated():
            for act in (self._client.indices.refresh, self._client.indices.flush):
                failed = act(index=self._index)["_shards"]["failed"]
                if failed:
                    raise ServerAway(f"{self.name}: {failed} shards do not answer")

    def count(self) -> int:
        """How many documents a search finds (after `settle`: all)."""
        with self._translated():
            return int(self._client.count(index=self._index)["count"])

    def add_fields(self, fields: MetadataFields) -> None:
        """Add those that the index has not got; raises InvalidInput where it would round fractions."""
        with self._translated():
            add_fields(self._client, self._index, fields, self.name)

    def field_mapping(self, field: str) -> Mapping[str, Any]:
        """What GET /INDEX/_mapping/field/FIELD answers."""
        with self._translated():
            return dict(self._client.indices.get_field_mapping(index=self._index, fields=field))


@dataclass(frozen=True, slots=True)
class EngineAccess:
    """An engine, and an index of it opened for searching or writing: (--url or None, seconds, index) -> context."""

    engine: SearchEngine
    searched: Callable[[str | None, float, str], AbstractContextManager[SearchedIndex]]
    sink: Callable[[str | None, float, str], AbstractContextManager[Sink]]


def check_not_nested(index: SearchedIndex, known: Mapping[str, Sequence[str]], name: str) -> None:
    """Refuse a field that a plain query does not look into; `known` are the types of all fields.

    Raises:
        InvalidInput: it is nested, or inside of a nested field.
    """
    for place in (*(name[:end] for end, sign in enumerate(name) if sign == "."), name):
        if "nested" in known.get(place, ()):
            raise InvalidInput(f"{index.name}: the field {place} is nested: only a nested query finds {name}")


def require_fields(index: SearchedIndex, fields: Sequence[str]) -> None:
    """A field that is not there finds nothing, nor does one inside of a nested field, and no engine says so.

    Raises:
        InvalidInput: there is no such index, it has not got one of the fields, or one is nested.
    """
    known = index.known_fields(["*"])
    for name in fields:
        check_not_nested(index, known, name)
    missing = [name for name in fields if name not in known]
    if missing:
        raise InvalidInput(f"{index.name} has no field {', '.join(missing)}: name the field that has the text")


def indexing_error(line: str, status: object, after: float | None = None) -> IndexingError:
    """The error for a request to a sink that was answered with `status`; `after` is Retry-After in seconds."""
    if status == 429:
        return TooBusy(line, after)
    if status == 413:
        return BatchTooLarge(line)
    return ServerAway(line) if status in AWAY else IndexingError(line)
