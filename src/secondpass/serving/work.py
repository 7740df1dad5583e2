"""What a request wants of a model, and what comes of it, whatever the shape of its body."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from secondpass.inputs import CutPolicy, Truncation, policy_of
from secondpass.record import Cut
from secondpass.serving.problems import invalid
from secondpass.windows import Passage, Windows

# Documents of an order that are compared with another pair by pair.
COMPARED = 100


@dataclass(frozen=True, slots=True)
class Work:
    """Pairs to score for one request: queries[i] with documents[i].

    `max_document_tokens`, `max_query_tokens`, `max_tokens` and `keep_tail` are those of `CutPolicy`; None leaves that
    and the `instruction` to the model. `refuse_cuts` makes any cut an error, `allow_cuts` none, whatever the service
    says. `windows`: as said, by the service's setting or our defaults where it is True, not where it is False; None
    leaves that to the service. `most_windows` are read of a document. `passages` are wanted in the answer. Documents
    below `min_probability` are left out of it. `field`: the client's word for documents, `query_field` that for
    queries, with `{}` for the index where each document has its own.
    """

    model: str | None
    queries: tuple[str, ...]
    documents: tuple[str, ...]
    field: str = "documents"
    query_field: str = "query"
    max_document_tokens: int | None = None
    max_query_tokens: int | None = None
    max_tokens: int | None = None
    keep_tail: bool | None = None
    refuse_cuts: bool = False
    allow_cuts: bool = False
    warnings: tuple[str, ...] = ()
    instruction: str | None = None
    windows: Windows | bool | None = None
    most_windows: int | None = None
    passages: bool = False
    min_probability: float | None = None

    @property
    def ranks(self) -> bool:
        """Whether the documents are those of one query."""
        return self.query_field == "query"

    def asked(self, index: int) -> str:
        """What the client calls the query of pair `index`."""
        return self.query_field.format(index)

    def cut(self, own: Truncation | Windows) -> CutPolicy:
        """What is read of a pair where the model or the service says `own`.

        A request that says how a pair is cut is read in one piece.

        Raises:
            Problem: 422, its wishes do not go together.
        """
        standing = policy_of(own)
        cuts = self.refuse_cuts or self.keep_tail is not None or self.max_tokens is not None
        if self.windows and cuts:
            name = "windows" if self.most_windows is None else "max_chunks_per_doc"
            raise invalid(f"{name}: documents are read whole, and another field says how, or that none, are cut")
        windows = None if cuts or self.windows is False else standing.windows
        if isinstance(self.windows, Windows):
            windows = self.windows
        elif self.windows:
            windows = standing.windows or Windows()
        if windows is None and self.passages:
            raise invalid("return_passages: documents are read in one piece; ask for windows")
        if windows is not None and self.most_windows is not None:
            windows = replace(windows, most=self.most_windows)
        truncation: Truncation = standing.truncation
        if truncation == "windows" or (truncation == "error" and (cuts or self.allow_cuts)):
            truncation = "only_document"
        if windows is not None or self.refuse_cuts:
            truncation = "error" if windows is None else "windows"
        heads = self.max_document_tokens, self.max_query_tokens
        return CutPolicy(truncation, self.keep_tail, *heads, self.max_tokens, windows=windows)


@dataclass(frozen=True, slots=True)
class Answer:
    """Scores of one request's pairs in the order they were given, and `order`, their positions best first.

    `scores` are the model's own (its activation applied), `scaled` those from 0 to 1. `pairs` are what models scored,
    `cache_hits` those of them that a cache of scores knew. Of a request with a budget `unscored` are the documents that
    no model has scored; it `is_short` where a later model of a cascade had no time for some. `passages` are the best
    windows, `windows` how many were read of long documents. `chances` are probabilities with the ends of their
    intervals, where the model has a calibration, `nothing_relevant` its verdict.
    """

    model: str
    scores: tuple[float, ...]
    scaled: tuple[float, ...]
    logits: tuple[float, ...]
    order: tuple[int, ...]
    tokens: int
    cuts: tuple[Cut, ...]
    warnings: tuple[str, ...]
    pairs: int = 0
    cache_hits: int = 0
    windows: int = 0
    unscored: frozenset[int] | None = None
    passages: tuple[Passage | None, ...] = ()
    chances: Mapping[int, tuple[float, float, float]] = field(default_factory=dict)
    nothing_relevant: bool | None = None
    is_short: bool = False

    @property
    def scored(self) -> int | None:
        """Documents that were scored or are blank, where there was a budget."""
        return None if self.unscored is None else len(self.scores) - len(self.unscored)

    @property
    def complete(self) -> bool:
        """Whether every document was scored that says something."""
        return not self.unscored


def agreement(order: Sequence[int], other: Sequence[int]) -> dict[str, float]:
    """How far two orders of the same documents agree, 1.0 where they do.

    "first": whether the best is the same; "top10": the share of the first ten that are among the other's; "pairs": the
    share of pairs among the first `COMPARED` documents that both have in one order (half of 1 + Kendall's tau).
    """
    most = min(10, len(order))
    places = {document: place for place, document in enumerate(other)}
    ranks = np.array([places[document] for document in order[:COMPARED]])
    turned = int(np.triu(ranks[:, None] > ranks, 1).sum())
    pairs = len(ranks) * (len(ranks) - 1) / 2
    return {
        "first": float(order[0] == other[0]),
        "top10": len({*order[:most]} & {*other[:most]}) / most,
        "pairs": 1.0 - turned / pairs if pairs else 1.0,
    }


def indices(numbers: Sequence[int], most: int = 20) -> str:
    """Indices for a sentence, called so, the first `most` of them: a bare 0 would read as none."""
    shown = f"{'index' if len(numbers) == 1 else 'indices'} {', '.join(map(str, numbers[:most]))}"
    return f"{shown} and {len(numbers) - most} more" if len(numbers) > most else shown
