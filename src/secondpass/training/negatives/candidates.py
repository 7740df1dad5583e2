"""Candidates of each query, best first, from BM25, a bi-encoder or a run: what negatives are chosen from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from secondpass.evaluation.runs import Run
from secondpass.limits import positive_int
from secondpass.training.negatives.bm25 import BM25, BM25Settings
from secondpass.training.negatives.nearest import Floats, best, nearest, unit

Candidates = Mapping[str, Sequence[tuple[str, float | None]]]
"""By query id (document id, score), best first; None where a run has no score."""

Judgements = Mapping[str, Mapping[str, int]]
"""Grades by document id, by query id: `evaluation.qrels.Qrels`."""

Encode = Callable[[list[str]], npt.ArrayLike]
"""Texts to vectors, float32 [texts, dim]."""

# Documents that are encoded together; only their vectors are in memory.
BLOCK = 8192


def bm25_candidates(
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    *,
    depth: int = 100,
    qrels: Judgements | None = None,
    settings: BM25Settings | None = None,
) -> dict[str, list[tuple[str, float | None]]]:
    """The best documents by BM25 that share a word with the query; equal scores in the order of the corpus.

    Args:
        queries: text by id.
        corpus: text by id.
        depth: how many for each query.
        qrels: the relevant documents that come deeper follow at the end with their scores, for margins.
        settings: of BM25; None takes k1 0.9, b 0.4, English stop words and stemmer.

    Raises:
        InvalidInput: an argument is refused.
        MissingExtra: bm25s or PyStemmer is not installed.
    """
    positive_int(depth, "depth")
    documents, places = list(corpus), {document: place for place, document in enumerate(corpus)}
    index = BM25(list(corpus.values()), settings)
    found: dict[str, list[tuple[str, float | None]]] = {}
    for query, scores in zip(queries, index.scores(list(queries.values())), strict=True):
        ranked = best(scores[None], depth)[0]
        ranked = ranked[scores[ranked] > 0]
        deeper = np.setdiff1d(_relevant(qrels, query, places), ranked)
        everything = np.concatenate([ranked, deeper[np.argsort(-scores[deeper], kind="stable")]])
        found[query] = [(documents[place], float(scores[place])) for place in everything.tolist()]
    return found


def encoder_candidates(
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    encode: Encode,
    *,
    depth: int = 100,
    qrels: Judgements | None = None,
    query_prefix: str = "",
    document_prefix: str = "",
) -> dict[str, list[tuple[str, float | None]]]:
    """The best documents by the cosine of a bi-encoder's vectors, exactly; equal scores in the order of the corpus.

    Args:
        queries: text by id.
        corpus: text by id.
        encode: a `biencoder.BiEncoder`, or any function of a list of texts to vectors [texts, dim].
        depth: how many for each query.
        qrels: the relevant documents that come deeper follow at the end with their scores, for margins.
        query_prefix: put in front of each query, "query: " for instance.
        document_prefix: put in front of each document.

    Raises:
        InvalidInput: an argument is refused, or `encode` gave something else.
    """
    positive_int(depth, "depth")
    documents, places = list(corpus), {document: place for place, document in enumerate(corpus)}
    asked = _encoded(encode, [query_prefix + text for text in queries.values()])
    wanted: dict[int, list[int]] = defaultdict(list)
    for row, query in enumerate(queries):
        for place in _relevant(qrels, query, places).tolist():
            wanted[place].append(row)
    deeper: dict[int, list[tuple[int, float]]] = defaultdict(list)

    def blocks() -> Iterator[Floats]:
        texts = list(corpus.values())
        for start in range(0, len(texts) if len(asked) else 0, BLOCK):
            part = [document_prefix + text for text in texts[start : start + BLOCK]]
            vectors = unit(encode(part), len(part), asked.shape[1])
            for place in (place for place in wanted if start <= place < start + BLOCK):
                for row in wanted[place]:
                    deeper[row].append((place, float(vectors[place - start] @ asked[row])))
            yield vectors

    ranked = nearest(asked, blocks(), depth)
    found: dict[str, list[tuple[str, float | None]]] = {}
    for row, query in enumerate(queries):
        pairs = list(zip(ranked.positions[row].tolist(), ranked.scores[row].tolist(), strict=True))
        known = {place for place, _ in pairs}
        pairs += sorted((pair for pair in deeper[row] if pair[0] not in known), key=lambda pair: (-pair[1], pair[0]))
        found[query] = [(documents[place], score) for place, score in pairs]
    return found


def run_candidates(run: Run) -> dict[str, list[tuple[str, float | None]]]:
    """The rankings of a run, in its order."""
    return {query: list(ranking.items()) for query, ranking in run.items()}


def _encoded(encode: Encode, texts: list[str]) -> Floats:
    if not texts:
        return np.empty((0, 0), np.float32)
    made = [encode(texts[start : start + BLOCK]) for start in range(0, len(texts), BLOCK)]
    return np.concatenate([unit(vectors, len(texts[number * BLOCK : (number + 1) * BLOCK]))
                           for number, vectors in enumerate(made)])  # fmt: skip


def _relevant(qrels: Judgements | None, query: str, places: Mapping[str, int]) -> npt.NDArray[np.int64]:
    """Positions of a query's relevant documents that the corpus has."""
    grades = {} if qrels is None else qrels.get(query, {})
    found = sorted(places[document] for document, grade in grades.items() if grade > 0 and document in places)
    return np.asarray(found, np.int64)
