"""Queries with their relevant texts and the candidates to be ordered, in the forms that callers have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any

from secondpass.errors import InvalidInput
from secondpass.text import checked, checked_documents, materialised


@dataclass(frozen=True, slots=True)
class Sample:
    """One query.

    Attributes:
        name: what messages call it.
        query: its text.
        candidates: texts to be scored, each once; in the first pass's order if there was one.
        gains: of the candidates; 0 for one that is not relevant.
        ideal: gains of all relevant texts, falling; the first pass may have missed some.
    """

    name: str
    query: str
    candidates: tuple[str, ...]
    gains: tuple[float, ...]
    ideal: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Samples:
    """All that count, how many were skipped, and whether a first pass ranked the candidates."""

    kept: tuple[Sample, ...]
    skipped: int
    ranked: bool


def read_samples(given: object, always_rerank_positives: bool) -> Samples:
    """Read a list of samples, or a dict whose values they are.

    Raises:
        InvalidInput: a sample has another form, the forms are mixed, or none is left to be measured.
    """
    items: list[Any]
    if isinstance(given, Mapping):
        names, items = [f"samples[{key!r}]" for key in given], list(given.values())
    else:
        items = materialised(given, "samples", "a list or dict of samples")
        names = [f"samples[{index}]" for index in range(len(items))]
    if not items:
        raise InvalidInput("samples is empty: there is nothing to evaluate on")
    forms = [_form(item, name) for item, name in zip(items, names, strict=True)]
    for form, name in zip(forms, names, strict=True):
        if form != forms[0]:
            raise InvalidInput(f"{name} has {form!r} where {names[0]} has {forms[0]!r}: an evaluator takes one form")
    read = partial(_ranked, always_rerank_positives=always_rerank_positives) if forms[0] == "documents" else _unranked
    samples = [read(item, name) for item, name in zip(items, names, strict=True)]
    kept = tuple(sample for sample in samples if sample is not None)
    if not any(sample.candidates for sample in kept):
        raise InvalidInput(f"none of {len(samples)} samples has a positive text and candidates to order")
    return Samples(kept, len(samples) - len(kept), forms[0] == "documents")


def _form(item: object, name: str) -> str:
    if not isinstance(item, Mapping):
        raise InvalidInput(f"{name} is {type(item).__name__}, not a dict")
    for key in ("query", "positive"):
        if item.get(key) is None:
            raise InvalidInput(f"{name} has no {key!r}")
    found = [key for key in ("negative", "documents") if item.get(key) is not None]
    if len(found) != 1:
        raise InvalidInput(f"{name} has {' and '.join(found) or 'neither'}: it needs one of 'negative' and 'documents'")
    return found[0]


def _unranked(item: Mapping[str, Any], name: str) -> Sample | None:
    """Relevant texts and others: without one of both there is nothing to tell apart."""
    positive = _grades(item["positive"], f"{name}['positive']")
    negative = _texts(item["negative"], f"{name}['negative']")
    for text in negative:
        if text in positive:
            raise InvalidInput(f"{name} has {text[:80]!r} as positive and as negative")
    if not positive or not negative:
        return None
    return _sample(item, name, [*positive, *negative], positive)


def _ranked(item: Mapping[str, Any], name: str, always_rerank_positives: bool) -> Sample | None:
    """A first pass's ranking, behind which the positive texts it missed are put if they always count."""
    positive = _grades(item["positive"], f"{name}['positive']")
    documents = _texts(item["documents"], f"{name}['documents']", ordered=True)
    if not positive or (always_rerank_positives and not documents):
        return None
    if always_rerank_positives:
        documents = list(dict.fromkeys([*documents, *positive]))
    return _sample(item, name, documents, positive)


def _sample(item: Mapping[str, Any], name: str, candidates: list[str], positive: Mapping[str, float]) -> Sample:
    query = checked(item["query"], f"{name}['query']")
    gains = tuple(positive.get(text, 0.0) for text in candidates)
    return Sample(name, query, tuple(candidates), gains, tuple(sorted(positive.values(), reverse=True)))


def _grades(value: object, name: str) -> dict[str, float]:
    if not isinstance(value, Mapping):
        return dict.fromkeys(_texts(value, name), 1.0)
    for text, grade in value.items():
        checked(text, f"a key of {name}")
        if not isinstance(grade, Real) or isinstance(grade, bool) or not 0 < float(grade) < math.inf:
            raise InvalidInput(f"{name}[{text[:80]!r}] is {grade!r}, not a grade above 0")
    return {text: float(grade) for text, grade in value.items()}


def _texts(value: object, name: str, ordered: bool = False) -> list[str]:
    """Texts, each once; a str is one text, and a set is fine where no order is asked for."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, (set, frozenset)) and not ordered:
        return sorted(checked_documents(list(value), name))
    return list(dict.fromkeys(checked_documents(value, name)))
