"""The collections of the recipe, read from BEIR folders, and who may see which.

Three circles that do not touch: what is trained on, what decides (`DEVELOPMENT`, whole sources that no training
reads, less what shares `SHINGLE` words in a row with a text that is trained on, see `apart`), and what is measured once
at the end (`TEST_SETS`, of which only train splits and train documents are trained on).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from secondpass import corpora
from secondpass.corpora import named_file
from secondpass.errors import InvalidInput
from secondpass.evaluation import qrels
from secondpass.evaluation.qrels import Qrels, qrels_file
from secondpass.training.data.sources import read_delimited_rows

TEST_SETS = ("squad", "trecqa", "medquad", "stackfaq", "cranfield", "cacm", "lisa", "time")
# Sites of the dump that decide; its other sites are trained on.
HELD_OUT_SITES = ("beer", "quantumcomputing")
# Ids of the encyclopaedia's introductions, which are trained on and stand beside the passages that decide.
BESIDE = "wiki-intro/"
# So many words in a row are no accident: Brown et al. 2020, "Language Models are Few-Shot Learners", appendix C.
SHINGLE = 13
WORDS = re.compile(r"\w+")
# Texts whose words are in memory at once.
BLOCK = 8192


@dataclass(frozen=True)
class Corpus:
    """Documents of one collection, in file order; `texts` begin with the title."""

    name: str
    ids: list[str]
    texts: list[str]
    titles: list[str]

    def index(self) -> dict[str, int]:
        """Rows by id."""
        return {identifier: row for row, identifier in enumerate(self.ids)}

    def body(self, row: int) -> str:
        """The text without its title; the whole text where there is nothing else."""
        return self.texts[row][len(self.titles[row]) :].strip() or self.texts[row]

    def only(self, wanted: Callable[[str], bool]) -> Corpus:
        """The documents whose ids are wanted."""
        kept = [row for row, name in enumerate(self.ids) if wanted(name)]
        return Corpus(self.name, *([part[row] for row in kept] for part in (self.ids, self.texts, self.titles)))

    def every(self, step: int) -> Corpus:
        """One of so many documents."""
        return Corpus(self.name, self.ids[::step], self.texts[::step], self.titles[::step])

    def digest(self) -> str:
        """Stands for the texts and their ids."""
        return digest_of(part for pair in zip(self.ids, self.texts, strict=True) for part in pair)


def digest_of(texts: Iterable[str]) -> str:
    """16 hexadecimal digits of SHA-256."""
    made = hashlib.sha256()
    for text in texts:
        made.update(text.encode() + b"\0")
    return made.hexdigest()[:16]


def joined(name: str, parts: Iterable[Corpus]) -> Corpus:
    """Several corpora as one; ids begin with the name of theirs."""
    made = Corpus(name, [], [], [])
    for part in parts:
        made.ids.extend(f"{part.name}/{identifier}" for identifier in part.ids)
        made.texts.extend(part.texts)
        made.titles.extend(part.titles)
    return made


def whole_pages(corpus: Corpus) -> Corpus:
    """Passages of a page one behind the other: their ids are the page's, "-" and a number."""
    pages: dict[str, list[int]] = {}
    for row, name in enumerate(corpus.ids):
        pages.setdefault(name.rpartition("-")[0], []).append(row)
    titles = [corpus.titles[rows[0]] for rows in pages.values()]
    bodies = ["\n".join(corpus.body(row) for row in rows) for rows in pages.values()]
    texts = [f"{title}\n{body}".strip() for title, body in zip(titles, bodies, strict=True)]
    return Corpus(corpus.name, list(pages), texts, titles)


def read_corpus(data: Path, name: str) -> Corpus:
    """`name` is a folder below `data`; of "open/NAME" the corpus is called NAME."""
    documents = list(corpora.read_corpus(data / name))
    return Corpus(
        name.rpartition("/")[2],
        [document.id for document in documents],
        [document.content for document in documents],
        [document.title for document in documents],
    )


def read_queries(data: Path, name: str) -> dict[str, str]:
    """Texts by id."""
    return corpora.read_queries(named_file(data / name, "queries.jsonl"))


def read_qrels(data: Path, name: str, split: str) -> Qrels:
    """Judgements of a split."""
    return qrels.read_qrels(qrels_file(data / name, split))


def evenly_spaced(names: Sequence[str], limit: int | None) -> list[str]:
    """At most `limit` of them, from the first one to the end in steps that differ by one at most; None takes all."""
    if limit is None or len(names) <= limit:
        return list(names)
    return [names[place * len(names) // limit] for place in range(limit)]


def read_claims(data: Path) -> tuple[Corpus, dict[str, str], Qrels]:
    """climate-fever as a collection: sentences that support or refute a claim are relevant to it, neutral ones not."""
    sentences: dict[str, str] = {}
    claims: dict[str, str] = {}
    grades: dict[str, dict[str, int]] = {}
    for split in ("train", "test"):
        for row in read_delimited_rows(data / "pairs" / "climate-fever" / f"{split}.tsv", "\t", quoted=False):
            if isinstance(row, InvalidInput):
                raise row
            sentence, claim = row.values["sentence1"], row.values["sentence2"]
            place = sentences.setdefault(sentence, f"s{len(sentences)}")
            number = claims.setdefault(claim, f"c{len(claims)}")
            grades.setdefault(number, {})[place] = int(row.values["label"] != "neutral")
    corpus = Corpus("climate-fever", list(sentences.values()), list(sentences), [""] * len(sentences))
    return corpus, {number: claim for claim, number in claims.items()}, Qrels(grades)


@dataclass(frozen=True)
class Collection:
    """What rankers are compared on: documents, queries and judgements of one source.

    `left_out` is how many documents and how many queries of the source are not in it, see `apart`.
    """

    name: str
    kind: str
    corpus: Corpus
    queries: Mapping[str, str]
    qrels: Qrels
    left_out: tuple[int, int] = (0, 0)


class Shingles:
    """All runs of `SHINGLE` words of some texts, whatever their case and punctuation, 8 bytes each.

    A run is the sum of its words' numbers times odd factors, modulo 2^64: two different ones are hardly ever equal.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._numbers: dict[str, int] = {}
        drawn = np.random.default_rng(SHINGLE).integers(0, 2**63, SHINGLE, np.uint64)
        self._factors = np.asarray(2 * drawn + 1, np.uint64)
        starts = range(0, max(1, len(texts)), BLOCK)
        self._known = np.unique(np.concatenate([self._runs(texts[start : start + BLOCK])[0] for start in starts]))

    def shared_by(self, texts: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Whether each of the texts has one of them."""
        runs, owners = self._runs(texts)
        first, behind = np.searchsorted(self._known, runs, "left"), np.searchsorted(self._known, runs, "right")
        made = np.zeros(len(texts), np.bool_)
        made[owners[behind > first]] = True
        return made

    def _runs(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        """-> runs of all texts in order, and the number of the text of each."""
        words = [WORDS.findall(text.lower()) for text in texts]
        known = self._numbers
        numbers = np.fromiter((known.setdefault(word, len(known) + 1) for own in words for word in own), np.uint64)
        owners = np.repeat(np.arange(len(words), dtype=np.int64), np.fromiter(map(len, words), np.int64))
        made = np.zeros(max(0, len(numbers) - SHINGLE + 1), np.uint64)
        for place, factor in enumerate(self._factors):
            made += factor * numbers[place : place + len(made)]
        within = owners[: len(made)] == owners[SHINGLE - 1 :]
        return made[within], owners[: len(made)][within]


def apart(collection: Collection, trained: Shingles) -> Collection:
    """A collection that decides without what shares a run of words with what is trained on.

    Such documents go, and every query to which one of them is relevant: a model has read the answer, and a copy that
    nobody judged would count against whoever finds it. What stands `BESIDE` stays.
    """
    own = collection.corpus.only(lambda name: not name.startswith(BESIDE))
    gone = {name for name, shared in zip(own.ids, trained.shared_by(own.texts), strict=True) if shared}
    answered = {
        query
        for query, grades in collection.qrels.items()
        if any(grade > 0 and document in gone for document, grade in grades.items())
    }
    return replace(
        collection,
        corpus=collection.corpus.only(lambda name: name not in gone),
        queries={query: text for query, text in collection.queries.items() if query not in answered},
        qrels=collection.qrels.only(set(collection.qrels) - answered),
        left_out=(len(gone), len(answered)),
    )


def _boolq(data: Path) -> Collection:
    corpus = joined("boolq", [read_corpus(data, "open/boolq"), read_corpus(data, "open/wiki-intro")])
    return _beside("web", data, "open/boolq", "train", corpus)


def _nq_gold(data: Path) -> Collection:
    corpus = joined("nq-gold", [read_corpus(data, "nq-gold"), read_corpus(data, "open/wiki-intro")])
    return _beside("web", data, "nq-gold", "test", corpus)


def _beside(kind: str, data: Path, name: str, split: str, corpus: Corpus) -> Collection:
    """A collection whose documents stand among others."""
    own = name.rpartition("/")[2]
    judged = read_qrels(data, name, split)
    grades = {
        query: {f"{own}/{document}": grade for document, grade in found.items()} for query, found in judged.items()
    }
    return Collection(own, kind, corpus, read_queries(data, name), Qrels(grades))


def _plain(kind: str, name: str, split: str = "train") -> Callable[[Path], Collection]:
    def read(data: Path) -> Collection:
        corpus = read_corpus(data, name)
        return Collection(corpus.name, kind, corpus, read_queries(data, name), read_qrels(data, name, split))

    return read


def held_out(identifier: str) -> bool:
    """Whether a record of stackexchange is of a site that decides."""
    return identifier.partition("-")[0] in HELD_OUT_SITES


def _forum(data: Path) -> Collection:
    name = "open/stackexchange"
    queries = {number: text for number, text in read_queries(data, name).items() if held_out(number)}
    return Collection(
        "stackexchange",
        "forum",
        read_corpus(data, name).only(held_out),
        queries,
        read_qrels(data, name, "train").only(queries),
    )


def _posts(data: Path) -> Collection:
    name = "open/blog-usgov"
    judged = read_qrels(data, name, "train")
    grades: dict[str, dict[str, int]] = {}
    for query, found in judged.items():
        for document, grade in found.items():
            page = document.rpartition("-")[0]
            grades.setdefault(query, {})[page] = max(grade, grades.get(query, {}).get(page, 0))
    corpus = whole_pages(read_corpus(data, name))
    return Collection(corpus.name, "long documents", corpus, read_queries(data, name), Qrels(grades))


def _claims(data: Path) -> Collection:
    corpus, claims, judged = read_claims(data)
    return Collection(corpus.name, "claims", corpus, claims, judged)


# By name, what reads it, whole. No document or query of these is trained on, but wiki-intro's documents, among which
# the passages of the two web collections have to be found.
DEVELOPMENT: dict[str, Callable[[Path], Collection]] = {
    "boolq": _boolq,
    "nq-gold": _nq_gold,
    "stackexchange": _forum,
    "help-arduino": _plain("help centre", "open/help-arduino"),
    "docs-microsoft": _plain("documentation", "open/docs-microsoft"),
    "climate-fever": _claims,
    "blog-usgov": _posts,
    "adi": _plain("classical", "adi", "test"),
}


def read_test(data: Path, name: str) -> Collection:
    """One of `TEST_SETS`."""
    return _plain("test", name, "test")(data)
