"""Logits to an order: float32, stable, ties by logit and then by the caller's order."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from secondpass.record import CallRecord, Cut


@dataclass(frozen=True, slots=True)
class Ranked:
    """Document `index` of the input with its activated `score` and the `logit` it was ranked by."""

    index: int
    score: float
    logit: float


@dataclass(frozen=True, slots=True)
class Ranking:
    """One query's documents, best first; `truncated` counts its own documents, `record` the whole call."""

    documents: tuple[Ranked, ...]
    truncated: tuple[Cut, ...]
    record: CallRecord

    def _repr_html_(self) -> str:
        """A table for notebooks: place, index of the document, score, logit, and the tokens that were not read."""
        cuts = {cut.index: cut for cut in self.truncated}
        rows = "".join(
            f"<tr><td>{place}</td><td>{one.index}</td><td>{one.score:.4f}</td><td>{one.logit:.4f}</td>"
            f"<td>{_lost(cuts.get(one.index))}</td></tr>"
            for place, one in enumerate(self.documents, start=1)
        )
        names = "".join(f"<th>{name}</th>" for name in ("rank", "index", "score", "logit", "not read"))
        return f"<table><thead><tr>{names}</tr></thead><tbody>{rows}</tbody></table>"


def _lost(cut: Cut | None) -> str:
    return "" if cut is None else f"{cut.query_tokens + cut.document_tokens} tokens"


def order(scores: torch.Tensor, logits: torch.Tensor) -> list[int]:
    """Positions best first, both arguments float32 [documents].

    A saturated activation (sigmoid(17) == sigmoid(40) in float32) makes ties that the logits still tell apart;
    what ties in both keeps the caller's order.
    """
    by_logit = torch.argsort(logits, descending=True, stable=True)
    by_score = torch.argsort(scores[by_logit], descending=True, stable=True)
    positions: list[int] = by_logit[by_score].tolist()
    return positions


def split(
    scores: torch.Tensor, logits: torch.Tensor, sizes: list[int], cuts: tuple[Cut, ...], top_k: int | None
) -> list[tuple[tuple[Ranked, ...], tuple[Cut, ...]]]:
    """Ranked documents and cuts of each query out of one shared call over `sizes` documents each."""
    made = []
    start = 0
    for size in sizes:
        end = start + size
        score, logit = scores[start:end], logits[start:end]
        values, raw = score.tolist(), logit.tolist()
        ranked = tuple(Ranked(index, values[index], raw[index]) for index in order(score, logit)[:top_k])
        own = tuple(replace(cut, index=cut.index - start) for cut in cuts if start <= cut.index < end)
        made.append((ranked, own))
        start = end
    return made
