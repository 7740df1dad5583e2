"""Late interaction: query and document read apart by one encoder, and compared token by token at last.

What a query's token finds in the document is the cosine of the tokens' states, the likest ones before all (a softmax
for the maximum of Khattab and Zaharia 2020, "ColBERT"); the query's tokens count by their importance, which is by word.
Beside that the texts' means are compared as a bi-encoder's (Reimers and Gurevych 2019, "Sentence-BERT"). The first and
the last token of each text, which are special, are in the means alone.

Texts are read as if each stood alone: its positions begin at 0, and no token sees the other text. So a query is
computed once for all documents of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from secondpass.errors import InvalidInput
from secondpass.forwards.contract import Compute, Logits
from secondpass.forwards.description import Array, Encoder, LateComparison, mapped
from secondpass.tokens import Tokens

Floats = npt.NDArray[np.float32]
# Below this length a vector has no direction.
LEAST = 1e-12


def texts_of(inputs: Sequence[Tokens]) -> tuple[list[Tokens], npt.NDArray[np.int64]]:
    """The texts of pairs, each once, and which of them are query and document of each: int64 [pairs, 2].

    Raises:
        InvalidInput: an input has no token of type 0 or none of type 1, or one of type 0 behind one of type 1.
    """
    texts: dict[bytes, int] = {}
    made: list[Tokens] = []
    pairs = np.empty((len(inputs), 2), np.int64)
    for row, item in enumerate(inputs):
        begin = int(np.count_nonzero(item.type_ids == 0))
        if not 0 < begin < len(item) or not (item.type_ids[begin:] == 1).all():
            raise InvalidInput(f"input {row} is no pair: types 0 of the query and then 1 of the document are needed")
        for place, ids in enumerate((item.ids[:begin], item.ids[begin:])):
            key = ids.tobytes()
            if key not in texts:
                texts[key] = len(made)
                made.append(Tokens(ids, np.zeros_like(ids)))
            pairs[row, place] = texts[key]
    return made, pairs


def by_document(inputs: Sequence[Tokens], max_batch_tokens: int) -> list[tuple[int, ...]]:
    """Positions of each batch: pairs of one document side by side, the longest document first.

    A text counts once in a batch, so that there are few batches in which it is computed again.

    Raises:
        InvalidInput: as of `texts_of`.
    """
    texts, pairs = texts_of(inputs)
    lengths = [len(text) for text in texts]
    made: list[tuple[int, ...]] = []
    batch: list[int] = []
    held: set[int] = set()
    filled = 0
    for row in sorted(range(len(inputs)), key=lambda row: (-lengths[pairs[row, 1]], pairs[row, 1])):
        own = set(pairs[row].tolist())
        added = sum(lengths[text] for text in own - held)
        if batch and filled + added > max_batch_tokens:
            made.append(tuple(batch))
            batch, held, filled = [], set(), 0
            added = sum(lengths[text] for text in own)
        batch.append(row)
        held |= own
        filled += added
    return [*made, tuple(batch)] if batch else made


@dataclass(frozen=True, slots=True, eq=False)
class LateForward:
    """Pairs to logits by what gives all states of texts.

    Attributes:
        states: texts to the states of their tokens, float32 [tokens, hidden], end to end.
        own: arrays of numpy.
    """

    states: Compute
    own: LateComparison

    plan = staticmethod(by_document)

    @property
    def instructions(self) -> str:
        """Of the processor, by which the states are computed; empty where torch or numpy computes them."""
        return str(getattr(self.states, "instructions", ""))

    def __call__(self, inputs: Sequence[Tokens]) -> Logits:
        """-> logits float32 [pairs, 1].

        Raises:
            InvalidInput: an input is no pair, see `texts_of`, or one that the encoder does not take.
        """
        if not inputs:
            return np.empty((0, 1), np.float32)
        texts, pairs = texts_of(inputs)
        states = self.states(texts)
        ends = np.cumsum([len(text) for text in texts])
        # what is not finite is told by whoever asked
        with np.errstate(invalid="ignore", over="ignore"):
            lengths = _lengths(states)
            means = np.add.reduceat(states, [0, *ends[:-1]])
            means /= _lengths(means)[:, None]
            read = [
                _Text(
                    mean, text.ids[1:-1], states[end - len(text) + 1 : end - 1], lengths[end - len(text) + 1 : end - 1]
                )
                for mean, text, end in zip(means, texts, ends, strict=True)
            ]
            made = [compared(self.own, read[query], read[document]) for query, document in pairs]
        return np.array(made, np.float32)[:, None]


def whole(states: Compute, encoder: Encoder) -> Compute:
    """What computes an encoder's logits, by what computes its readout's rows."""
    own = encoder.readout.late
    return states if own is None else LateForward(states, mapped(own, as_numpy))


def as_numpy(weight: Array) -> Floats:
    """float32, of torch or of a folder; in the same memory where it is of that type."""
    return np.asarray(weight.detach().float().cpu() if hasattr(weight, "detach") else weight, np.float32)


@dataclass(frozen=True, slots=True)
class _Text:
    """A text's mean of length 1 [hidden], and ids, states [tokens, hidden] and lengths of its tokens but the ends."""

    mean: Floats
    ids: npt.NDArray[np.int32]
    states: Floats
    lengths: Floats


def _lengths(rows: Floats) -> Floats:
    made: Floats = np.maximum(np.sqrt(np.einsum("ij,ij->i", rows, rows)), np.float32(LEAST))
    return made


def compared(own: LateComparison, query: _Text, document: _Text) -> float:
    """The logit of a pair."""
    cosine, match, added = own.scales
    logit = cosine * (query.mean @ document.mean) + added
    if len(query.ids) and len(document.ids):
        # quotients of a few products, not of all states
        alike: Floats = query.states @ document.states.T / (query.lengths[:, None] * document.lengths)
        found = (_shares(own.sharpness * alike) * alike).sum(axis=1)
        logit += match * (_shares(own.importance[query.ids]) @ found)
    return float(logit)


def _shares(values: Floats) -> Floats:
    """A softmax over the last dimension."""
    made: Floats = np.exp(values - values.max(axis=-1, keepdims=True))
    made /= made.sum(axis=-1, keepdims=True)
    return made
