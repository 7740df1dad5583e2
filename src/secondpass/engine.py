"""The stages joined: pairs of texts in, float32 logits and a record of the call out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from secondpass.batches import Padding, Rectangle, pad, plan
from secondpass.cuts import CutPolicy, Truncation
from secondpass.errors import NonFiniteScore
from secondpass.record import CallRecord
from secondpass.scoring import Forward, Progress, non_finite, score
from secondpass.templates import PromptTemplate
from secondpass.token_cache import TokenCache
from secondpass.tokens import PairTokenizer, Tokens

# Padded tokens of one batch. A CPU is fastest while activations stay in its caches, a GPU while it is full.
BATCH_TOKENS = {"cpu": 2048, "mps": 8192}
BATCH_TOKENS_ELSEWHERE = 16384


@dataclass(frozen=True, slots=True)
class Window:
    """How inputs are cut and batched in one call."""

    max_length: int
    truncation: Truncation | CutPolicy
    max_batch_tokens: int
    max_pairs: int
    template: PromptTemplate | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """float32 logits [pairs, labels] on the CPU, in input order, and what the call did."""

    logits: torch.Tensor
    record: CallRecord


def first_equals(tokens: Sequence[Tokens]) -> list[int]:
    """For each input the position of the first that is equal to it.

    Equal inputs are scored once: the same numbers at another place of a batch may differ in the last bit, and
    equal documents must tie.
    """
    seen: dict[tuple[bytes, bytes], int] = {}
    return [seen.setdefault((item.ids.tobytes(), item.type_ids.tobytes()), row) for row, item in enumerate(tokens)]


def padding_of(fast_tokenizer: Any) -> Padding:
    """What a transformers tokenizer puts into the unused places of a batch."""
    left = fast_tokenizer.padding_side == "left"
    return Padding(fast_tokenizer.pad_token_id, fast_tokenizer.pad_token_type_id, left)


class Engine:
    """One tokenizer and one forward; holds no state of a call, so any number of threads may use it.

    Args:
        fast_tokenizer: a transformers fast tokenizer.
        forward: inputs to logits; may be replaced.
        cache: of the ids of documents; None encodes every text anew.
    """

    def __init__(self, fast_tokenizer: Any, forward: Forward, cache: TokenCache | None = None) -> None:
        self._tokenizer = PairTokenizer(fast_tokenizer, cache)
        self.padding = padding_of(fast_tokenizer)
        self.forward = forward

    @property
    def token_cache(self) -> TokenCache | None:
        """Where the ids of documents are kept; may be replaced, calls under way keep the one they began with."""
        return self._tokenizer.cache

    @token_cache.setter
    def token_cache(self, cache: TokenCache | None) -> None:
        self._tokenizer.cache = cache

    def batch_tokens(self) -> int:
        """The token budget that suits the device."""
        return BATCH_TOKENS.get(self.forward.device.type, BATCH_TOKENS_ELSEWHERE)

    def tokens(self, columns: Sequence[Sequence[str]], window: Window) -> list[Tokens]:
        """Inputs of one column (single texts) or two (queries, documents)."""
        if len(columns) == 1:
            return self._tokenizer.singles(columns[0], window.max_length, window.truncation)
        return self._tokenizer.pairs(columns[0], columns[1], window.max_length, window.truncation, window.template)

    def one_batch(self, columns: Sequence[Sequence[str]], window: Window) -> tuple[Rectangle, int]:
        """All inputs in one rectangle and in order, as training wants them, and how many of them were cut."""
        tokens = self.tokens(columns, window)
        return pad(tokens, self.padding), sum(item.cut is not None for item in tokens)

    def score(
        self,
        columns: Sequence[Sequence[str]],
        window: Window,
        step: Callable[[int], object] = lambda remaining: None,
    ) -> Scored:
        """Score at least one input; `step` hears how many batches are left."""
        clock = [time.perf_counter()]
        tokens = self.tokens(columns, window)
        clock.append(time.perf_counter())
        firsts = first_equals(tokens)
        distinct = list(dict.fromkeys(firsts))
        batches = self._batches(tokens, distinct, window)
        clock.append(time.perf_counter())
        progress = Progress()
        try:
            logits = score(self.forward, tokens, batches, progress, step)[firsts]
        except NonFiniteScore as error:
            wrong = set(error.indices)
            raise non_finite(tuple(row for row, first in enumerate(firsts) if first in wrong)) from None
        clock.append(time.perf_counter())
        real = sum(len(tokens[row]) for row in distinct)
        record = CallRecord(
            pairs=len(tokens),
            tokens=real,
            batches=progress.batches,
            padding_share=1.0 - real / progress.places,
            truncated=tuple(item.cut for item in tokens if item.cut is not None),
            tokenise_ms=1000 * (clock[1] - clock[0]),
            batch_ms=1000 * (clock[2] - clock[1]),
            score_ms=1000 * (clock[3] - clock[2]),
            rank_ms=0.0,
            retries=progress.retries,
            device=str(self.forward.device),
            dtype=str(self.forward.dtype).removeprefix("torch."),
        )
        return Scored(logits, record)

    def _batches(self, tokens: Sequence[Tokens], rows: Sequence[int], window: Window) -> list[tuple[int, ...]]:
        """`rows` of `tokens` in batches.

        Where nothing is padded memory goes by real tokens, so the bound of pairs becomes one of tokens: no batch is
        larger than that many pairs of full length.
        """
        lengths = [len(tokens[row]) for row in rows]
        if self.forward.pads:
            places = plan(lengths, window.max_batch_tokens, window.max_pairs)
        else:
            budget = min(window.max_batch_tokens, window.max_pairs * window.max_length)
            places = plan(lengths, budget, len(lengths), padded=False)
        return [tuple(rows[place] for place in batch) for batch in places]
