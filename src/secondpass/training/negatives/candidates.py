"""Candidates of each query, best first, from BM25, a bi-encoder or a run: what negatives are chosen from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from secondpass.corpora import CorpusDocument, read_corpus
from secondpass.errors import InvalidInput
from secondpass.lazy import optional
from secondpass.text import is_blank, positive_int

# ---- BM25 over a corpus in memory: the first pass whose best wrong answers are the classic hard negatives.
Floats = npt.NDArray[np.float32]


# Of the formula (Robertson et al. 1995, as Lucene has it): how much a word that is repeated adds, and how much long
# documents are discounted.
K1, B = 0.9, 0.4
# Whose stop words are dropped, and by whose stemmer of Snowball's the forms of a word are one.
LANGUAGE = "english"


class BM25:
    """An index of texts, scored for a query at a time.

    Raises:
        MissingExtra: bm25s or PyStemmer is not installed.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._library = optional("bm25s", "bm25s", "eval")
        self._stemmer = optional("Stemmer", "PyStemmer", "eval").Stemmer(LANGUAGE)
        self._size = len(texts)
        tokens = self._tokens(texts)
        # Without a single word there is no index to make, and nothing can be found.
        self._index = None
        if any(tokens):
            self._index = self._library.BM25(k1=K1, b=B)
            self._index.index(tokens, show_progress=False)

    def scores(self, queries: Sequence[str]) -> Iterator[Floats]:
        """For each query float32 [texts]; 0 where no word is shared."""
        for words in self._tokens(queries):
            known = [] if self._index is None else self._index.get_tokens_ids(words)
            if self._index is None or not known:
                yield np.zeros(self._size, np.float32)
            else:
                yield np.asarray(self._index.get_scores_from_ids(known), np.float32)

    def found(self, query: str, depth: int) -> list[tuple[int, float]]:
        """The places and scores of at most `depth` texts that share a word with a query, best first."""
        (scores,) = self.scores([query])
        return [(place, float(scores[place])) for place in best(scores[None], depth)[0].tolist() if scores[place] > 0]

    def _tokens(self, texts: Sequence[str]) -> list[list[str]]:
        found: list[list[str]] = self._library.tokenize(
            list(texts), stopwords=LANGUAGE, stemmer=self._stemmer, return_ids=False, show_progress=False
        )
        return found


def indexed(corpus: Path) -> tuple[list[CorpusDocument], BM25]:
    """The documents of a corpus that have text, and the index of their contents.

    Raises:
        InvalidInput: the corpus cannot be read, or no document in it has text.
        MissingExtra: bm25s or PyStemmer is not installed.
    """
    documents = [one for one in read_corpus(corpus) if not is_blank(one.content)]
    if not documents:
        raise InvalidInput(f"{corpus}: no document in it has text")
    return documents, BM25([one.content for one in documents])


# ---- The best of many scores, exactly: a block of documents at a time, ties in the order of the corpus.
Places = npt.NDArray[np.int64]

# Scores that are held at once: so many queries against one block of documents.
QUERIES_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Neighbours:
    """For each query the documents' positions, int64 [queries, depth], and scores, float32, best first."""

    positions: Places
    scores: Floats


def best(scores: Floats, depth: int) -> Places:
    """Columns of the `depth` highest scores of each row, best first; equal scores in the order of the columns.

    Args:
        scores: float32 [rows, columns], no NaN among them.
        depth: cut to the columns that there are.

    Returns:
        int64 [rows, depth].
    """
    depth = min(depth, scores.shape[1])
    if depth == 0 or not len(scores):
        return np.empty((len(scores), depth), np.int64)
    columns = np.empty((len(scores), depth), np.int64)
    for row, own in enumerate(scores):
        # most texts share no word with a query: those are not sorted
        least = own.min()
        above = np.flatnonzero(own > least)
        if len(above) > depth:
            values = own[above]
            lowest = np.partition(values, -depth)[-depth]
            above, equal = above[values > lowest], above[values == lowest]
        else:
            equal = np.flatnonzero(own == least)
        equal = equal[: depth - len(above)]
        # the highest first; the stable sort keeps equal ones as they come
        columns[row] = np.concatenate([above[np.argsort(-own[above], kind="stable")], equal])
    return columns


def nearest(queries: Floats, blocks: Iterable[Floats], depth: int) -> Neighbours:
    """The `depth` documents of the highest dot product with each query.

    Args:
        queries: float32 [queries, dim].
        blocks: the documents in order, float32 [any, dim] each; only one is held at a time.
        depth: how many; cut to the documents that there are.
    """
    positions, scores = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
    start = 0
    for block in blocks:
        found = [
            _joined(queries[rows], positions[rows], scores[rows], block, start, depth)
            for rows in (slice(row, row + QUERIES_AT_ONCE) for row in range(0, len(queries), QUERIES_AT_ONCE))
        ]
        if found:
            positions = np.concatenate([part.positions for part in found])
            scores = np.concatenate([part.scores for part in found])
        start += len(block)
    return Neighbours(positions, scores)


def _joined(queries: Floats, positions: Places, scores: Floats, block: Floats, start: int, depth: int) -> Neighbours:
    """What was found so far and the next block; what stands before has the lower positions, so ties keep order."""
    new = np.arange(start, start + len(block), dtype=np.int64)
    all_scores = np.concatenate([scores, queries @ block.T], axis=1)
    all_positions = np.concatenate([positions, np.broadcast_to(new, (len(queries), len(block)))], axis=1)
    columns = best(all_scores, depth)
    return Neighbours(np.take_along_axis(all_positions, columns, 1), np.take_along_axis(all_scores, columns, 1))


def unit(vectors: object, texts: int, dim: int | None = None) -> Floats:
    """Vectors of length 1, float32 [texts, dim], so that a dot product is a cosine; a vector of zeros stays one.

    Raises:
        InvalidInput: they have another shape, or a number is not finite; the message names the text.
    """
    given = np.asarray(vectors, np.float32)
    if given.ndim != 2 or len(given) != texts or (dim is not None and given.shape[1] != dim):
        wanted = f"[{texts}, {'any' if dim is None else dim}]"
        raise InvalidInput(f"encode gave an array of shape {list(given.shape)} for {texts} texts, not {wanted}")
    wrong = ~np.isfinite(given).all(axis=1)
    if wrong.any():
        raise InvalidInput(f"encode gave a number that is not finite for text {int(wrong.argmax())}")
    lengths = np.linalg.norm(given, axis=1, keepdims=True)
    return np.asarray(given / np.where(lengths > 0, lengths, 1), np.float32)


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
    index: BM25 | None = None,
) -> dict[str, list[tuple[str, float | None]]]:
    """The best documents by BM25 that share a word with the query; equal scores in the order of the corpus.

    Args:
        queries: text by id.
        corpus: text by id.
        depth: how many for each query.
        qrels: the relevant documents that come deeper follow at the end with their scores, for margins.
        index: of the corpus's texts in their order, where there is one; else it is made.

    Raises:
        InvalidInput: an argument is refused.
        MissingExtra: bm25s or PyStemmer is not installed.
    """
    positive_int(depth, "depth")
    documents, places = list(corpus), {document: place for place, document in enumerate(corpus)}
    index = BM25(list(corpus.values())) if index is None else index
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
    """The best documents by the cosine of a bi-encoder's vectors, exactly; the rest as in `bm25_candidates`.

    `encode` is a `biencoder.BiEncoder`, or any function of a list of texts to vectors [texts, dim]; the prefixes are
    put in front of each query, "query: " for instance, and of each document.

    Raises:
        InvalidInput: an argument is refused, or `encode` gave something else.
    """
    positive_int(depth, "depth")
    documents, places = list(corpus), {document: place for place, document in enumerate(corpus)}
    parts = [vectors for _, vectors in _encoded(encode, queries, query_prefix)]
    asked = np.concatenate(parts) if parts else np.empty((0, 0), np.float32)
    wanted: dict[int, list[int]] = defaultdict(list)
    for row, query in enumerate(queries):
        for place in _relevant(qrels, query, places).tolist():
            wanted[place].append(row)
    deeper: dict[int, list[tuple[int, float]]] = defaultdict(list)

    def blocks() -> Iterator[Floats]:
        for start, vectors in _encoded(encode, corpus if parts else {}, document_prefix, asked.shape[1]):
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


def _encoded(
    encode: Encode, texts: Mapping[str, str], prefix: str, dim: int | None = None
) -> Iterator[tuple[int, Floats]]:
    """Vectors of a block of texts at a time, and the position at which it begins."""
    everything = [prefix + text for text in texts.values()]
    for start in range(0, len(everything), BLOCK):
        part = everything[start : start + BLOCK]
        yield start, unit(encode(part), len(part), dim)


def _relevant(qrels: Judgements | None, query: str, places: Mapping[str, int]) -> npt.NDArray[np.int64]:
    """Positions of a query's relevant documents that the corpus has."""
    grades = {} if qrels is None else qrels.get(query, {})
    found = sorted(places[document] for document, grade in grades.items() if grade > 0 and document in places)
    return np.asarray(found, np.int64)
