"""Logits to an order: the one rule by which every door of the library ranks.

Documents are ordered by their logits; where the activation is not known to rise with the logit, by the score first.
What ties keeps the caller's order. Documents that say nothing come last, with the lowest score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from secondpass.activations import Activation, Elementwise, known_steps
from secondpass.display import Kind, html_table
from secondpass.errors import InvalidInput, MissingExtra, NonFiniteScore
from secondpass.lazy import optional
from secondpass.record import CallRecord, Cut
from secondpass.text import positive_int
from secondpass.windows import Passage

if TYPE_CHECKING:
    import torch

    from secondpass.scoring import Scored


Numbers = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]
Scores: TypeAlias = "Numbers | torch.Tensor | list[torch.Tensor]"

# Numbers a function gets at a time, or a multiple. Libraries compute whole vectors in one way and what is left over in
# another: in pieces of one size no number is at a place where it comes out otherwise.
BLOCK = 256

# Never falling; those below only with some settings.
RISING = frozenset(
    {"Identity", "Sigmoid", "Tanh", "LogSigmoid", "Softsign", "Tanhshrink"}
    | {"SELU", "ReLU", "ReLU6", "Hardtanh", "Hardsigmoid"}
)
# From here on torch's Softplus is a straight line, which must not lie below the curve by more than rounding.
SOFTPLUS_LINE = 20.0


def rises(activation: Activation) -> bool:
    """Whether a higher logit is known to have no lower score, so that documents can be ordered by their logits."""
    steps = known_steps(activation)
    return steps is not None and all(step.name in RISING or _rises_so_set(step) for step in steps)


def _rises_so_set(step: Elementwise) -> bool:
    own = step.arguments()
    if step.name == "LeakyReLU":
        return bool(own["negative_slope"] >= 0)
    if step.name in ("ELU", "CELU"):
        return bool(own["alpha"] > 0)
    return step.name == "Softplus" and bool(own["beta"] > 0 and own["threshold"] >= SOFTPLUS_LINE)


def in_blocks(function: Callable[[Doubles], Doubles], values: Numbers) -> Numbers:
    """Apply a function of columns, so that a column's result depends neither on its place nor on their number.

    It is computed in float64 and rounded once: what rises in real numbers does so in float32.

    Args:
        function: float64 [rows, a multiple of BLOCK] -> [any rows, as many], each column by itself.
        values: float32 [rows, columns].

    Returns:
        float32 [any rows, columns].
    """
    rows, columns = values.shape
    padded = np.zeros((rows, max(1, -(-columns // BLOCK)) * BLOCK))
    padded[:, :columns] = values
    with np.errstate(all="ignore"):
        return function(padded)[:, :columns].astype(np.float32)


def activated(
    logits: Numbers, activation: Activation, softmax: bool, rows: Sequence[int] | None = None
) -> npt.NDArray[Any]:
    """float32 [pairs, labels] -> scores [pairs, labels]; softmax after the activation, for several labels only.

    Equal logits have equal scores. For elementwise activations of torch, which are computed without it, a score is
    float32 and depends on nothing but its logit. Any other callable is called once with all logits, where there are
    any: a tensor on the device of its first weight, if it has some, or where torch is not installed an array.

    Args:
        logits: left as they are.
        activation: of `secondpass.activations`, or any callable that keeps the rows.
        softmax: whether to normalise over the labels.
        rows: what an error calls the pairs; None counts them.

    Raises:
        InvalidInput: the activation does not give one row per pair.
        NonFiniteScore: it gives NaN, which has no place in an order.
    """
    if not len(logits):
        return logits
    steps = known_steps(activation)
    if steps is None:
        scores = _called(activation, logits)
    else:
        scores = in_blocks(lambda block: _through(steps, block), logits.reshape(1, -1)).reshape(logits.shape)
    if softmax and logits.shape[1] > 1:
        scores = in_blocks(_softmax, scores.T).T
    wrong = np.isnan(scores)
    if wrong.any():
        found = wrong.reshape(len(scores), -1).any(1).nonzero()[0].tolist()
        named = tuple(found if rows is None else [rows[row] for row in found])
        raise NonFiniteScore(f"the activation {activation!r} gave NaN for pairs {list(named)}", named)
    return np.ascontiguousarray(scores)


def _through(steps: Sequence[Elementwise], block: Doubles) -> Doubles:
    for step in steps:
        block = step(block)
    return block


def _called(activation: Activation, logits: Numbers) -> npt.NDArray[Any]:
    """Scores by a callable of which nothing is known; of equal logits the first one's."""
    # it may work in place, and the ranking still needs the logits
    scores = _by_torch(activation, logits.copy())
    if not isinstance(scores, np.ndarray) or scores.shape[:1] != logits.shape[:1]:
        raise InvalidInput(f"the activation {activation!r} does not give one row for each of {len(logits)} pairs")
    _, first, places = np.unique(logits, axis=0, return_index=True, return_inverse=True)
    return scores.copy() if len(first) == len(logits) else scores[first[places.reshape(-1)]]


def _by_torch(activation: Activation, logits: Numbers) -> object:
    """What a callable makes of a tensor, as an array where it is one; of the array where there is no torch."""
    try:
        import torch
    except ImportError:
        try:
            return activation(logits)
        except (AttributeError, TypeError) as error:
            raise MissingExtra(
                f"the activation {activation!r} takes no array ({error}), and a tensor needs torch: "
                'pip install "secondpass[torch]"'
            ) from error
    own = [*activation.parameters(), *activation.buffers()] if isinstance(activation, torch.nn.Module) else []
    device = own[0].device if own else torch.device("cpu")
    with torch.inference_mode():
        scores: object = activation(torch.from_numpy(logits).to(device))
        if not isinstance(scores, torch.Tensor):
            return scores
        # numpy has no bfloat16
        return (scores.float() if scores.dtype == torch.bfloat16 else scores).detach().cpu().numpy()


def _softmax(labels: Doubles) -> Doubles:
    """[labels, pairs] -> the same."""
    made = np.exp(labels - labels.max(axis=0))
    shares: Doubles = made / made.sum(axis=0)
    return shares


def by_label(scores: npt.NDArray[Any], num_labels: int) -> npt.NDArray[Any]:
    """One number per pair for a head with one label, else the row of all labels."""
    return scores[:, 0] if num_labels == 1 and scores.ndim > 1 else scores


def converted(scores: npt.NDArray[Any], device: torch.device | str, to_numpy: bool, to_tensor: bool) -> Scores:
    """float32, by the seed's precedence: a tensor on the device wins, then an array, else a list of tensors.

    Raises:
        MissingExtra: torch, which has tensors, is not installed.
    """
    array: Numbers = scores.astype(np.float32, copy=False)
    if to_numpy and not to_tensor:
        return array
    library = optional("torch", "torch, which scores as tensors need,", "torch")
    made: torch.Tensor = library.from_numpy(array).to(device)
    return made if to_tensor else list(made)


class Bar:
    """A progress bar over batches that hears only how many are left: halved batches make it longer."""

    def __init__(self, shown: bool) -> None:
        self._bar: Any = None
        if shown:  # imported only then
            from tqdm.autonotebook import tqdm

            self._bar = tqdm(desc="Batches")

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, remaining: int) -> None:
        """Move on: called once before the first batch, then after each."""
        if self._bar is None:
            return
        if self._bar.total is None:
            self._bar.reset(total=remaining)
        else:
            self._bar.total = self._bar.n + 1 + remaining
            self._bar.update(1)


# One number per document out of a head with several labels, by an explicit rule.
Relevance = int | Literal["expected"]


def checked_relevance(rule: object, num_labels: int) -> Relevance:
    """Return `rule` if it fits a head of `num_labels`.

    Raises:
        InvalidInput: no rule at all for several labels, or one that names no label of this head.
    """
    if rule == "expected":
        return "expected"
    if isinstance(rule, int) and not isinstance(rule, bool) and 0 <= rule < num_labels:
        return rule
    if rule is None:
        raise InvalidInput(
            "CrossEncoder.rank() only works for models with num_labels=1. Consider using CrossEncoder.predict() with "
            f"input pairs instead. To rank by one of the {num_labels} labels of this model or by the expected grade, "
            "say relevance=<label index> or relevance='expected'."
        )
    raise InvalidInput(f"relevance={rule!r} is neither 'expected' nor a label index below {num_labels}")


def relevance_logits(logits: Numbers, rule: Relevance) -> Numbers:
    """float32 [documents, labels] -> [documents].

    A label index gives the log-odds of that label against all others, so that the sigmoid of the result is the
    softmax probability of the label (for two labels: the difference of the logits, as monoBERT ranks).
    "expected" gives the expected grade, labels taken as grades 0, 1, 2, ...
    """
    made: Numbers = in_blocks(_expected if rule == "expected" else lambda labels: _log_odds(labels, rule), logits.T)[0]
    return made


def _expected(labels: Doubles) -> Doubles:
    grades: Doubles = (_softmax(labels) * np.arange(len(labels))[:, None]).sum(axis=0, keepdims=True)
    return grades


def _log_odds(labels: Doubles, label: int) -> Doubles:
    others = np.delete(labels, label, axis=0)
    highest = others.max(axis=0)
    odds: Doubles = labels[label : label + 1] - (highest + np.log(np.exp(others - highest).sum(axis=0)))
    return odds


# The log-odds of a document that says nothing; models for ranking stay far above it. The lowest grade is 0.
BLANK_LOGIT = -100.0
BLANK_GRADE = 0.0


@dataclass(frozen=True, slots=True)
class Ranked:
    """Document `index` of the input with its activated `score` and the `logit` it was ranked by.

    `passage` is its best window where documents are read in windows; `scored` is False for one that no model has
    scored because a budget was spent, `stage` tells which model of a cascade it was, the first is 0. `probability` is
    that of being relevant, where the model has a calibration and has scored it, and `interval` is where it may lie.
    """

    index: int
    score: float
    logit: float
    passage: Passage | None = None
    scored: bool = True
    stage: int = 0
    probability: float | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """One query's documents, best first; `truncated` counts its own documents, `record` the whole call.

    `unscored` counts those that no model has scored because a budget was spent: they follow the scored ones, in the
    order in which they were given. `nothing_relevant` is the verdict of the model's calibration that no document
    answers the query; None where it has no rule for that. `texts` are the documents in the order in which they were
    given, where somebody handed them over (`with_texts`): a ranking by itself keeps no text.
    """

    documents: tuple[Ranked, ...]
    truncated: tuple[Cut, ...]
    record: CallRecord
    unscored: int = 0
    nothing_relevant: bool | None = None
    texts: tuple[str, ...] | None = field(default=None, repr=False, compare=False)

    @property
    def complete(self) -> bool:
        """Whether every document was scored that says something."""
        return not self.unscored

    def with_texts(self, documents: Sequence[str]) -> Ranking:
        """The same with the texts that were ranked, which a notebook then shows beside the scores.

        Raises:
            InvalidInput: there are fewer of them than were ranked.
        """
        if (last := max((one.index for one in self.documents), default=-1)) >= len(documents):
            raise InvalidInput(f"documents has {len(documents)} texts, and document {last} was ranked")
        return replace(self, texts=tuple(documents))

    def _repr_html_(self) -> str:
        """A table for notebooks: place, index, score, probability, logit, text, and the tokens that were not read."""
        cuts = {cut.index: f"{cut.query_tokens + cut.document_tokens} tokens" for cut in self.truncated}
        given: list[tuple[str, Kind, Callable[[Ranked], str], bool]] = [
            ("index", "number", lambda one: str(one.index), True),
            ("score", "number", lambda one: f"{one.score:.4f}" if one.scored else "-", True),
            ("probability", "number", lambda one: "-" if one.probability is None else f"{one.probability:.3f}",
             any(one.probability is not None for one in self.documents)),
            ("logit", "number", lambda one: f"{one.logit:.4f}" if one.scored else "-", True),
            ("text", "text", lambda one: (self.texts or ())[one.index], self.texts is not None),
            ("not read", "name", lambda one: cuts.get(one.index, ""), bool(cuts)),
        ]  # fmt: skip
        shown = [column for column in given if column[3]]
        rows = [(str(place), *(cell(one) for _, _, cell, _ in shown)) for place, one in enumerate(self.documents, 1)]
        bars = [one.score for one in self.documents if one.scored and 0 <= one.score <= 1]
        columns: list[tuple[str, Kind]] = [("rank", "number"), *((name, kind) for name, kind, *_ in shown)]
        note = "Nothing relevant, by the model's calibration." if self.nothing_relevant else ""
        note = f"{self.unscored} not scored in time. {note}".strip() if self.unscored else note
        return html_table(columns, rows, note=note, bars={2: bars} if len(bars) == len(rows) else None)


def ranked(
    logits: Numbers,
    activation: Activation,
    *,
    rule: Relevance | None = None,
    blank: Flags | None = None,
    sizes: Sequence[int] | None = None,
    top_k: int | None = None,
    read: Flags | None = None,
    passages: Sequence[Passage | None] | None = None,
) -> list[tuple[Ranked, ...]]:
    """Order the documents of each query.

    A blank document has the logit `BLANK_LOGIT` (by expected grade `BLANK_GRADE`) or the lowest of its query's others
    where that is lower, and the score of that logit or the lowest of the others: nothing in it answers anything,
    whatever the model says. One that was not read has the lowest logit and score of those that were, and comes behind
    them in the order given, before the blank ones.

    Args:
        logits: float32 [documents, labels] of a whole call.
        activation: applied to the logits that documents are ranked by, [documents, 1].
        rule: which number a head of several labels is ranked by; None takes the first label.
        blank: bool [documents]; None: no document is blank.
        sizes: documents of each query, in the order of the call; None: all are one query's.
        top_k: how many of each query's documents are kept; None keeps all.
        read: bool [documents]; None: all have logits. Of one without nothing is asked of its logits.
        passages: the best window of each document.

    Raises:
        InvalidInput: the activation does not keep the rows.
        NonFiniteScore: it gives NaN for a document that is not blank.
    """
    silent = np.zeros(len(logits), np.bool_) if blank is None else blank
    left = silent & False if read is None else ~read & ~silent
    grades = rule == "expected" and logits.shape[1] > 1
    raw = _relevant(logits, rule)
    scores = _activated(raw, activation, silent | left)
    least = BLANK_GRADE if grades else BLANK_LOGIT
    found = _scored_passages(passages, activation)
    made = []
    for part in _parts([len(raw)] if sizes is None else sizes):
        none, behind, logit, score = silent[part], left[part], raw[part], scores[part]
        if behind.any():
            _level(score, logit, behind, ~(none | behind), activation, least)
        if none.any():
            _lower(score, logit, none, activation, least)
        best = order(logit if rises(activation) else score, logit, 2 * none.astype(np.int8) + behind)
        values, numbers, open_ = score.tolist(), logit.tolist(), behind.tolist()
        own = found[part]
        made.append(
            tuple(
                Ranked(
                    index,
                    values[index],
                    numbers[index],
                    own[index] if own and not none[index] else None,
                    not open_[index],
                )
                for index in best[:top_k]
            )
        )
    return made


def _scored_passages(passages: Sequence[Passage | None] | None, activation: Activation) -> list[Passage | None]:
    """The passages of a call with their scores."""
    there = [passage for passage in passages or () if passage is not None]
    logits = np.array([passage.logit for passage in there], np.float32)
    scores = iter(_activated(logits, activation, np.zeros(len(there), np.bool_)).tolist())
    return [None if passage is None else replace(passage, score=next(scores)) for passage in passages or ()]


def rankings(
    scored: Scored, sizes: Sequence[int], activation: Activation, rule: Relevance | None, top_k: int | None
) -> list[Ranking]:
    """A `Ranking` of each query out of one call over `sizes` documents each; raises as `ranked`."""
    blank = scored.blank[:, -1]
    orders = ranked(
        scored.logits,
        activation,
        rule=rule,
        blank=blank,
        sizes=sizes,
        top_k=top_k,
        read=scored.read,
        passages=scored.passages,
    )
    cuts = scored.record.truncated
    left = np.zeros(len(blank), np.bool_) if scored.read is None else ~scored.read & ~blank
    return [
        Ranking(
            documents,
            tuple(replace(cut, index=cut.index - part.start) for cut in cuts if part.start <= cut.index < part.stop),
            scored.record,
            int(left[part].sum()),
        )
        for documents, part in zip(orders, _parts(sizes), strict=True)
    ]


def order(scores: npt.ArrayLike, logits: npt.ArrayLike, behind: npt.ArrayLike | None = None) -> list[int]:
    """Positions best first, all arguments [documents]: by score, then logit, then place.

    Those that are `behind` come last, by its numbers and by place: 0 is not behind. A saturated activation
    (sigmoid(17) == sigmoid(40) in float32) makes ties that the logits still tell apart.
    """
    score, logit = np.asarray(scores), np.asarray(logits)
    later = np.zeros(len(score), np.int8) if behind is None else np.asarray(behind)
    best = np.lexsort((np.where(later, 0.0, -logit), np.where(later, 0.0, -score), later))
    positions: list[int] = best.tolist()
    return positions


def checked_top_k(top_k: int | None) -> int | None:
    """Return `top_k` if it is None or a positive int; raises InvalidInput where it is neither."""
    return None if top_k is None else positive_int(top_k, "top_k")


def _relevant(logits: Numbers, rule: Relevance | None) -> Numbers:
    """The numbers to rank by, a copy."""
    return logits[:, 0].copy() if rule is None or logits.shape[1] == 1 else relevance_logits(logits, rule)


def _activated(raw: Numbers, activation: Activation, silent: Flags) -> Numbers:
    """Scores of the documents that say something; those of the others are made later."""
    scores = np.zeros_like(raw)
    rows = np.flatnonzero(~silent)
    if len(rows):
        scores[rows] = by_label(activated(raw[rows][:, None], activation, False, rows.tolist()), 1)
    return scores


def _lower(score: Numbers, logit: Numbers, silent: Flags, activation: Activation, least: float) -> None:
    """Put the blank documents of one query below its others."""
    others = ~silent
    logit[silent] = min([least, *logit[others].tolist()])
    score[silent] = min([*score[others].tolist(), *_scores_of(logit[silent][:1], activation)], default=least)


def _scores_of(logits: Numbers, activation: Activation) -> list[float]:
    """Of logits [documents] that no model gave; nothing where the activation makes no number of them."""
    try:
        scores: list[float] = by_label(activated(logits[:, None], activation, False), 1).tolist()
    except NonFiniteScore:
        return []
    return scores


def _level(score: Numbers, logit: Numbers, behind: Flags, read: Flags, activation: Activation, least: float) -> None:
    """Give documents that were not read what the lowest of the others has, without any the `least` logit."""
    if read.any():
        score[behind], logit[behind] = score[read].min(), logit[read].min()
    else:
        logit[behind] = least
        score[behind] = min(_scores_of(logit[behind][:1], activation), default=least)


def _parts(sizes: Sequence[int]) -> Iterator[slice]:
    start = 0
    for size in sizes:
        yield slice(start, start + size)
        start += size
