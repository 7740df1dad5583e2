"""A search in two passes: the engine finds candidates, a cross-encoder in this process puts them in order."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from secondpass.errors import InvalidInput
from secondpass.text import checked_query, is_blank, positive_int
from secondpass_servers.index import (
    CONTENT,
    DOCUMENT_FIELDS,
    EMBEDDING,
    META,
    SearchedIndex,
    check_not_nested,
    gathered,
    require_fields,
)

__all__ = ["FirstPass", "TwoPassAnswer", "TwoPassHit", "two_pass_search"]

if TYPE_CHECKING:
    from secondpass.cascade import Cascade
    from secondpass.cross_encoder import CrossEncoder
    from secondpass.inputs import Truncation
    from secondpass.ranking import Ranked
    from secondpass.windows import Windows


MAX_CLAUSES = 1_024
"""Elasticsearch's and OpenSearch's indices.query.bool.max_clause_count, as far as nobody raised it."""
# The standard tokenizer makes a term of every Chinese character, of every kana here (it joins some) and of every emoji,
IDEOGRAPHS = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
EMOJI = r"\u00a9\u00ae\u203c\u2049\u2122\u2139\u2190-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff"
ALONE = IDEOGRAPHS + EMOJI
# and one of every run of other letters and digits, which it cuts after 255 UTF-16 units.
TERM = re.compile(rf"[{ALONE}]|[^\W_{ALONE}]{{1,127}}")
# More results than this neither engine pages to (index.max_result_window).
MAX_RESULTS = 10_000
# Of a passage.
CHARACTERS = 200
# The highlighter analyses the text anew and refuses more than a million characters (index.highlight.max_...).
MOST_ANALYSED = 999_999
AT_ONCE = 1_000
# The first comparison in a condition ends the name before it.
CONDITION = re.compile(r"\s*(?P<key>\S.*?)\s*(?P<how>==|!=|>=|<=|=|>|<)\s*(?P<value>.*)", re.DOTALL)
RANGES = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}
NUMERAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
SHOWN_FIELDS = 20


@dataclass(frozen=True, slots=True)
class Condition:
    """What the metadata of a document has to be: `how` is ==, !=, >, >=, < or <=.

    `value` is a text as the server compares it with the field, a list of such (any of them), or None (no value).
    """

    key: str
    how: str
    value: str | list[Any] | None

    @classmethod
    def of(cls, given: str) -> Condition:
        """Read KEY OPERATOR VALUE; the value is as it stands, or JSON: a quoted string, a list of values, null.

        Raises:
            InvalidInput: it is no such condition.
        """
        found = CONDITION.fullmatch(given)
        if found is None or not found["value"].strip():
            raise InvalidInput(
                f"--filter {given!r} is neither KEY OPERATOR VALUE (==, !=, >, >=, <, <=), such as 'year >= 2020', "
                "nor a JSON object in the server's query language"
            )
        how, text = "==" if found["how"] == "=" else found["how"], found["value"].strip()
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = text
        if isinstance(value, dict) or (how in RANGES and (value is None or isinstance(value, list | bool))):
            raise InvalidInput(f"--filter {given!r}: {how} compares with no such value")
        return cls(found["key"], how, value if value is None or isinstance(value, list | str) else text)

    def names(self) -> list[str]:
        """Fields that the key may mean, the best first: as it is laid out, as it stands, and in Haystack's words."""
        first = self.key.partition(".")[0]
        inner = [f"{META}.{self.key}"] if first in DOCUMENT_FIELDS else []
        return [*inner, self.key, *([self.key.removeprefix(f"{META}.")] if first == META else [])]

    def clause(self, index: SearchedIndex) -> dict[str, Any]:
        """The condition in the server's query language, which gives no score.

        Raises:
            InvalidInput: the index has no such field, it is nested or strings where numbers are compared, or its words
                are searched and not the whole.
        """
        found = index.known_fields(["*"])
        known = {name: types for name, types in found.items() if "object" not in types}
        name = next((name for name in self.names() if name in known), None)
        if name is None:
            shown = sorted(name for name in known if not name.startswith("_"))
            more = ", …" if len(shown) > SHOWN_FIELDS else ""
            raise InvalidInput(
                f"{index.name} has no field {self.key} to filter by; it has {', '.join(shown[:SHOWN_FIELDS])}{more}"
            )
        check_not_nested(index, found, name)
        if "text" in known[name]:
            if f"{name}.keyword" not in known:
                raise InvalidInput(f"{index.name}: words of the field {name} are searched, so it cannot be filtered by")
            name = f"{name}.keyword"
        if self.how in RANGES:
            if "keyword" in known[name] and NUMERAL.fullmatch(str(self.value)):
                raise InvalidInput(f"{index.name}: the field {name} holds strings, and {self.how} compares numbers")
            return {"range": {name: {RANGES[self.how]: self.value}}}
        if self.value is None:
            positive: dict[str, Any] = {"bool": {"must_not": [{"exists": {"field": name}}]}}
        else:
            positive = {"terms" if isinstance(self.value, list) else "term": {name: self.value}}
        return positive if self.how == "==" else {"bool": {"must_not": [positive]}}


def filter_clauses(index: SearchedIndex, given: Sequence[str]) -> tuple[Mapping[str, Any], ...]:
    """Filters in the server's query language: a JSON object as it stands, anything else a `Condition`.

    Raises:
        InvalidInput: as `Condition`.
    """
    clauses: list[Mapping[str, Any]] = []
    for each in given:
        try:
            value = json.loads(each)
        except (ValueError, RecursionError):
            value = None
        clauses.append(value if isinstance(value, dict) else Condition.of(each).clause(index))
    return tuple(clauses)


def most_words(fields: int) -> int:
    """Terms that a query over so many fields may have: each is a clause in every field."""
    return max(1, MAX_CLAUSES // fields)


def shortened(query: str, most: int = MAX_CLAUSES) -> str:
    """The beginning of `query` that has `most` terms at most; the query itself if it has no more.

    A term counts as often as it stands there, as the engines count.
    """
    if len(query) <= most:
        return query
    end = 0
    for count, term in enumerate(TERM.finditer(query)):
        if count == most:
            return query[:end]
        end = term.end()
    return query


def joined(source: Mapping[str, Any], fields: Sequence[str]) -> str:
    """The texts of the fields in their order, joined by a space; a dotted name looks into objects.

    Raises:
        InvalidInput: a field holds objects.
    """
    texts = (_text(_at(source, field), field) for field in fields)
    return " ".join(text for text in texts if text)


def _at(source: Any, field: str) -> Any:
    """What stands there, of every object in a list."""
    if isinstance(source, list):
        return [_at(inner, field) for inner in source]
    if not isinstance(source, Mapping):
        return None
    if field in source:
        return source[field]
    first, _, rest = field.partition(".")
    return _at(source.get(first), rest) if rest else None


def _text(value: Any, field: str) -> str:
    """A field may hold several values, as every field of both engines may."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return " ".join(text for text in (_text(part, field) for part in value) if text)
    if isinstance(value, Mapping):
        raise InvalidInput(f"the field {field!r} holds objects, not texts")
    return str(value)


@dataclass(frozen=True, slots=True)
class FirstPass:
    """How candidates are found.

    Attributes:
        query: the text.
        fields: BM25 searches them, and their texts are what the reranker reads.
        depth: documents of each retriever.
        bm25: whether words are searched.
        vector: the embedded query, float [dims]; None: embeddings are not searched.
        vector_field: where the documents' embeddings are.
        filters: clauses of the server's query language that a document has to fit, all of them.
    """

    query: str
    fields: tuple[str, ...] = (CONTENT,)
    depth: int = 100
    bm25: bool = True
    vector: Sequence[float] | None = None
    vector_field: str = EMBEDDING
    filters: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        checked_query(self.query, "the query")
        if not self.fields or not all(field.strip() for field in self.fields):
            raise InvalidInput("a field's name is blank")
        if not 1 <= self.depth <= MAX_RESULTS:
            raise InvalidInput(f"depth={self.depth!r} is not between 1 and {MAX_RESULTS:,}")

    @property
    def words(self) -> str:
        """What BM25 is given of the query: all of it, or as much as the engines take."""
        return shortened(self.query, most_words(len(self.fields)))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document that the first pass found.

    Attributes:
        index, id: where it is.
        text: its fields joined by a space, what the reranker reads; empty if it has none of them.
        was: its best rank in any list of the first pass, from 1.
        scores: what each retriever gave it, by the retriever's name.
    """

    index: str
    id: str
    text: str
    was: int
    scores: Mapping[str, float]


def words_query(words: str, fields: Sequence[str]) -> dict[str, Any]:
    """BM25 over the fields and no other, without fuzziness: what BEIR's figures are measured with."""
    if len(fields) == 1:
        return {"match": {fields[0]: {"query": words}}}
    return {"multi_match": {"query": words, "fields": list(fields), "type": "most_fields"}}


def searches(index: SearchedIndex, first: FirstPass) -> dict[str, dict[str, Any]]:
    """Bodies of the searches, by retriever."""
    shared: dict[str, Any] = {"size": first.depth, "_source": list(first.fields), "track_total_hits": False}
    made: dict[str, dict[str, Any]] = {}
    if first.bm25:
        words = words_query(first.words, first.fields)
        # A filter gives no score, so BM25's stays as it is.
        filtered = {"bool": {"must": [words], "filter": list(first.filters)}}
        made["bm25"] = {**shared, "query": filtered if first.filters else words}
    if first.vector is not None:
        nearest = index.nearest(first.vector, first.vector_field, first.depth, first.filters)
        made["dense"] = {**shared, **nearest}
    return made


def find_candidates(index: SearchedIndex, first: FirstPass) -> list[Candidate]:
    """Ask the index; a document that both retrievers found comes once, those of BM25 first. Raises as its `hits`."""
    found: dict[tuple[str, str], Candidate] = {}
    for retriever, body in searches(index, first).items():
        for rank, hit in enumerate(index.hits(body), start=1):
            text = joined(hit.get("_source") or {}, first.fields)
            candidate = Candidate(hit["_index"], hit["_id"], text, rank, {retriever: float(hit["_score"])})
            key = (candidate.index, candidate.id)
            found[key] = _both(found[key], candidate) if key in found else candidate
    return list(found.values())


def _both(one: Candidate, other: Candidate) -> Candidate:
    return replace(one, was=min(one.was, other.was), scores={**one.scores, **other.scores})


def looked_up(
    index: SearchedIndex, concrete: str, ids: Sequence[str], first: FirstPass, passages: bool
) -> dict[str, tuple[dict[str, Any], str | None]]:
    """Metadata and, if asked, a passage of about 200 characters by id, for documents of one concrete index.

    For those that are shown, not for every candidate: cheap. A document that shares no word with the query gets its
    beginning; one without text gets none. Raises as `SearchedIndex.hits`.
    """
    types = index.known_fields([first.vector_field]).get(first.vector_field, ())
    # Left out with all that is inside: where it holds no vectors it is metadata.
    apart = (*first.fields, *([first.vector_field] if index.engine.vector_type in types else []))
    details: dict[str, tuple[dict[str, Any], str | None]] = {}
    for start in range(0, len(ids), AT_ONCE):
        some = list(ids[start : start + AT_ONCE])
        body = {
            "size": len(some),
            "query": {"ids": {"values": some}},
            "_source": {"excludes": list(apart)},
            "track_total_hits": False,
            **({"highlight": _highlight(index.engine.analysed_key, first)} if passages else {}),
        }
        for hit in index.hits(body, concrete):
            source, found = hit.get("_source") or {}, hit.get("highlight", {})
            # The last field is the body where a title comes first.
            shown = next((found[field][0] for field in reversed(first.fields) if found.get(field)), None)
            own = ("id",) if str(source.get("id")) == hit["_id"] else ()
            details[hit["_id"]] = gathered(source, *own), shown
    return details


def _highlight(analysed_key: str, first: FirstPass) -> dict[str, Any]:
    words = shortened(first.query)
    return {
        "type": "unified",
        "number_of_fragments": 1,
        "fragment_size": CHARACTERS,
        "no_match_size": CHARACTERS,
        analysed_key: MOST_ANALYSED,
        "order": "score",
        "pre_tags": [""],
        "post_tags": [""],
        "fields": {field: {"highlight_query": words_query(words, [field])} for field in first.fields},
    }


@dataclass(frozen=True, slots=True)
class TwoPassHit:
    """A candidate with the score that the second pass gave it.

    Attributes:
        passage: where one was asked for and found.
        meta: what the index holds beside the texts and the embedding.
        place: where the passage begins and ends in the candidate's text; None where the server found it.
        scored: False where the time was up before; its score is the lowest of the others.
        probability, interval: that it is relevant, and where that may lie, where the encoder has a calibration.
    """

    candidate: Candidate
    score: float
    passage: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False)
    place: tuple[int, int] | None = None
    scored: bool = True
    probability: float | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class TwoPassAnswer:
    """Hits, best first, and what the user should know of them.

    Attributes:
        candidates: how many documents the first pass found.
        without_text: of those, how many say nothing in any of the fields; they come last.
        cut: ids of candidates that were too long for the model to read wholly.
        unscored: how many were left when the time was up; they follow the others as the first pass found them.
        nothing_relevant: the verdict of the encoder's calibration, None where it has none.
    """

    hits: tuple[TwoPassHit, ...]
    candidates: int = 0
    without_text: int = 0
    cut: tuple[str, ...] = ()
    unscored: int = 0
    nothing_relevant: bool | None = None


def two_pass_search(
    index: SearchedIndex,
    first: FirstPass,
    load: Callable[[], CrossEncoder | Cascade],
    top_k: int = 10,
    batch_size: int = 32,
    passages: bool = False,
    truncation: Truncation | Windows | None = None,
    budget_ms: float | None = None,
) -> TwoPassAnswer:
    """Search, rank, and look up the metadata of the `top_k` documents, and their best passages if asked.

    A passage is the window that the encoder scored best, where it reads in windows (`truncation`), else what the server
    finds. The encoder is loaded when there is something to rank: an index that is not there is known at once. It has
    `budget_ms` milliseconds to rank.

    Raises:
        InvalidInput: no candidate has a text in the fields, or nothing was found and the index has no such field.
        SecondPassError: as `SearchedIndex.hits`, and what the encoder raises.
    """
    positive_int(top_k, "top_k")
    found = find_candidates(index, first)
    if not found:
        require_fields(index, first.fields)
        return TwoPassAnswer(())
    without = sum(is_blank(candidate.text) for candidate in found)
    if without == len(found):
        raise InvalidInput(
            f"{index.name}: none of the {without} documents found has a text in {', '.join(first.fields)}: "
            "name the field that has it"
        )
    texts = [candidate.text for candidate in found]
    (ranking,) = load().rank_many(
        [first.query], [texts], top_k=top_k, batch_size=batch_size, truncation=truncation, budget_ms=budget_ms
    )
    hits = [_hit(found[ranked.index], ranked, passages) for ranked in ranking.documents]
    hits = _with_details(index, first, hits, passages)
    cut = tuple(found[cut.index].id for cut in ranking.truncated)
    return TwoPassAnswer(tuple(hits), len(found), without, cut, ranking.unscored, ranking.nothing_relevant)


def _hit(candidate: Candidate, ranked: Ranked, passages: bool) -> TwoPassHit:
    best = ranked.passage
    own: dict[str, Any] = {"probability": ranked.probability, "interval": ranked.interval}
    if best is None or not passages:
        return TwoPassHit(candidate, ranked.score, scored=ranked.scored, **own)
    place = best.start, best.end
    return TwoPassHit(candidate, ranked.score, candidate.text[slice(*place)], place=place, **own)


def _with_details(index: SearchedIndex, first: FirstPass, hits: list[TwoPassHit], passages: bool) -> list[TwoPassHit]:
    details: dict[tuple[str, str], tuple[dict[str, Any], str | None]] = {}
    passages = passages and any(hit.passage is None for hit in hits)
    for concrete in {hit.candidate.index for hit in hits}:
        ids = [hit.candidate.id for hit in hits if hit.candidate.index == concrete]
        by_id = looked_up(index, concrete, ids, first, passages)
        details |= {(concrete, found): detail for found, detail in by_id.items()}
    # A document that was deleted since has none.
    found = [details.get((hit.candidate.index, hit.candidate.id), ({}, None)) for hit in hits]
    return [
        replace(hit, meta=meta, passage=passage if hit.passage is None else hit.passage)
        for hit, (meta, passage) in zip(hits, found, strict=True)
    ]
