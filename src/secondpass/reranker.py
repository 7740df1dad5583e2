"""Scoring and ranking without the seed's conventions: what `CrossEncoder` and the adapters are built on."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from secondpass import outputs, ranking
from secondpass.batches import Padding
from secondpass.cuts import CutPolicy, Truncation
from secondpass.engine import Engine, Scored, Window, padding_of
from secondpass.errors import InvalidInput, SecondPassError
from secondpass.forwards import ModelForward
from secondpass.limits import positive_int
from secondpass.persistence.loading import Loaded
from secondpass.precision import (
    SAMPLE_DOCUMENTS,
    SAMPLE_QUERIES,
    Precision,
    checked_precision,
    precision_of,
    recommended_precision,
)
from secondpass.ranking import Ranking
from secondpass.record import CallRecord
from secondpass.relevance import Relevance, checked_relevance, relevance_logits
from secondpass.renamed import SCORING, accepts_renamed
from secondpass.scoring import Forward, TransformersForward
from secondpass.templates import PromptTemplate
from secondpass.text import checked_documents, checked_query, materialised
from secondpass.token_cache import TokenCache
from secondpass.tokens import Tokens

logger = logging.getLogger(__name__)

Activation = Callable[[torch.Tensor], torch.Tensor]
SAMPLE_TOKENS = 64
CLOSED = "this CrossEncoder is closed: load the model again"


class Reranker:
    """A loaded model with its stages and limits; any number of threads may use one."""

    def __init__(
        self,
        loaded: Loaded,
        default_activation_function: Activation,
        max_length: int | None,
        truncation: Truncation,
        max_batch_tokens: int | None,
        max_documents: int | None,
        precision: Precision | None = None,
    ) -> None:
        CutPolicy(truncation)
        self.config = loaded.config
        self.model = loaded.model
        self.tokenizer = loaded.tokenizer
        self.default_activation_function = default_activation_function
        self.max_length = max_length
        self.truncation = truncation
        self.max_batch_tokens = None if max_batch_tokens is None else positive_int(max_batch_tokens, "max_batch_tokens")
        self.max_documents = None if max_documents is None else positive_int(max_documents, "max_documents")
        self.training_thread: int | None = None
        self._token_limit = loaded.token_limit
        self._precision = recommended_precision(self.config) if precision is None else checked_precision(precision)
        self.model.eval()
        self._checked_max_length()
        self._engine: Engine | None = self._made_engine()

    def _made_engine(self) -> Engine:
        names, padding = self.tokenizer.model_input_names, padding_of(self.tokenizer)
        engine = Engine(self.tokenizer, TransformersForward(self.model, names, padding))
        samples: Sequence[Tokens] = ()
        if self._precision == "auto" and self._token_limit > SAMPLE_TOKENS:
            window = Window(SAMPLE_TOKENS, "longest_first", SAMPLE_TOKENS, 1)
            samples = engine.tokens([SAMPLE_QUERIES, SAMPLE_DOCUMENTS], window)
        engine.forward = ModelForward(self.model, names, padding, self._precision, samples)
        return engine

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes along: nobody trains the copy."""
        return {**self.__dict__, "training_thread": None}

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self._open_model().device
        return device

    @property
    def precision(self) -> Precision:
        """What was asked for, else what the model's config.json recommends, else what suits the weights as they are."""
        return self._precision or precision_of(self._open_model().dtype)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the large matrix products now; int8 where the compiled kernel computes with that."""
        return self._live().forward.dtype

    def to(self, device: str | torch.device) -> Any:
        """Move the model; returns the transformers model, as the seed does."""
        return self._open_model().to(device)

    def use_forward(self, forward: Forward) -> None:
        """Put another forward behind the stages; it must give the logits of this model on the same inputs."""
        self._live().forward = forward

    @property
    def padding(self) -> Padding:
        """What the model wants in the unused places of a batch."""
        return self._live().padding

    def tokens(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        *,
        cut: CutPolicy | None = None,
        template: PromptTemplate | None = None,
    ) -> list[Tokens]:
        """Model inputs of the pairs (queries[i], documents[i]), cut to the window; texts are taken as they are.

        Args:
            queries: one per document.
            documents: as many.
            cut: what is read of a pair that is too long; None takes the model's `truncation`.
            template: what the operator writes around each query and document.

        Raises:
            TooLong: pairs are too long and may not be cut.
            InvalidInput: the window has no room beside the template.
        """
        return self._live().tokens([queries, documents], self._window(max(1, len(queries)), template, cut))

    @property
    def window(self) -> int:
        """The longest input in tokens: `max_length`, or what model and tokenizer allow where that is less or None."""
        return self._checked_max_length()

    @property
    def token_cache(self) -> TokenCache | None:
        """Where the ids of documents read before are kept."""
        return self._live().token_cache

    def use_token_cache(self, cache: TokenCache | None) -> None:
        """Keep the ids of documents in `cache`, so that they are tokenised once; None, the default, keeps none.

        Scores are the same. One cache may serve any number of models; a copy of this object starts with an empty one.
        """
        self._live().token_cache = cache

    def close(self) -> None:
        """Let go of the weights; later calls raise `SecondPassError`."""
        self._engine = None
        self.model = None

    @accepts_renamed(SCORING)
    def rank_many(
        self,
        queries: Iterable[str],
        documents_per_query: Iterable[Iterable[str]],
        *,
        top_k: int | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fct: Activation | None = None,
        relevance: Relevance | None = None,
        template: PromptTemplate | None = None,
    ) -> list[Ranking]:
        """Order several queries' documents in shared batches; texts are taken as they are, not stripped.

        Args:
            queries: what is asked.
            documents_per_query: the documents of each query.
            top_k: how many to return of each query; None returns all. All are scored in any case.
            batch_size: as in `predict`.
            show_progress_bar: as in `predict`.
            activation_fct: as in `predict`.
            relevance: for a head with several labels: the label to rank by, or "expected" (see `relevance.py`).
            template: what the operator writes around each query and document (an instruction, the turns of a chat);
                special tokens in it are special, and it is never cut.

        Returns:
            One `Ranking` per query, in order; scores and logits are Python floats.

        Raises:
            InvalidInput: an argument is refused; the message names it.
            NonFiniteScore: the model gave NaN or infinity.
            OutOfMemory: a pair alone does not fit.
        """
        asked = [checked_query(query, f"queries[{i}]") for i, query in enumerate(checked_documents(queries, "queries"))]
        given = materialised(documents_per_query, "documents_per_query", "a sequence of sequences of str")
        lists = [self._checked_documents(texts, f"documents_per_query[{i}]") for i, texts in enumerate(given)]
        if len(asked) != len(lists):
            raise InvalidInput(f"documents_per_query has {len(lists)} lists for {len(asked)} queries")
        rule = self._rule(relevance)
        outputs.top((), top_k)
        columns = [
            [query for query, texts in zip(asked, lists, strict=True) for _ in texts],
            [text for texts in lists for text in texts],
        ]
        if not columns[1]:
            return [Ranking((), (), _EMPTY) for _ in asked]
        scored = self._score(columns, batch_size, show_progress_bar, template)
        began = time.perf_counter()
        scores, logits = self._relevance(scored.logits, rule, activation_fct, False)
        ranked = ranking.split(scores, logits, [len(texts) for texts in lists], scored.record.truncated, top_k)
        record = timed(scored.record, began)
        return [Ranking(documents, cuts, record) for documents, cuts in ranked]

    def _open_model(self) -> Any:
        if self.model is None:
            raise SecondPassError(CLOSED)
        return self.model

    def _live(self) -> Engine:
        if self._engine is None:
            raise SecondPassError(CLOSED)
        thread = self.training_thread
        if thread is not None and thread != threading.get_ident():
            raise SecondPassError("this CrossEncoder is being trained in another thread: score when fit has returned")
        if isinstance(self._engine.forward, ModelForward):
            self._engine.forward.exact = thread is not None
        return self._engine

    def _checked_max_length(self) -> int:
        """The window in force; a wish beyond what the model can read is cut to it, with a warning."""
        wish = self.max_length
        if wish is None:
            return self._token_limit
        wish = positive_int(wish, "max_length")
        if wish > self._token_limit:
            warn_once(f"max_length={wish} is more than the model can read: {self._token_limit} is used")
        return min(wish, self._token_limit)

    def _window(self, batch_size: int, template: PromptTemplate | None = None, cut: CutPolicy | None = None) -> Window:
        budget = self.max_batch_tokens or self._live().batch_tokens()
        pairs = positive_int(batch_size, "batch_size")
        return Window(self._checked_max_length(), cut or self.truncation, budget, pairs, template)

    def _checked_documents(self, documents: object, argument: str) -> list[str]:
        texts = checked_documents(documents, argument)
        if self.max_documents is not None and len(texts) > self.max_documents:
            raise InvalidInput(f"{argument} has {len(texts)}, more than max_documents={self.max_documents}")
        return texts

    def _rule(self, relevance: Relevance | None) -> Relevance | None:
        labels = self.config.num_labels
        return None if labels == 1 and relevance is None else checked_relevance(relevance, labels)

    def _score(
        self,
        columns: list[list[str]],
        batch_size: int,
        show: bool | None,
        template: PromptTemplate | None = None,
    ) -> Scored:
        engine = self._live()
        self.model.eval()
        if show is None:
            show = logger.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
        with outputs.Bar(show) as bar:

            def step(remaining: int) -> None:
                self._live()  # a fit or close that began meanwhile in another thread ends this call
                bar(remaining)

            return engine.score(columns, self._window(batch_size, template), step)

    def _relevance(
        self, logits: torch.Tensor, rule: Relevance | None, activation: Activation | None, softmax: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and ranking logits, both [documents]."""
        if rule is None or logits.shape[1] == 1:
            scores = outputs.activated(logits, activation or self.default_activation_function, softmax)
            return outputs.by_label(scores, 1), logits[:, 0]
        relevant = relevance_logits(logits, rule)
        default = nn.Identity() if rule == "expected" else nn.Sigmoid()
        scores = outputs.activated(relevant[:, None], activation or default, False)
        return outputs.by_label(scores, 1), relevant


_EMPTY = CallRecord(0, 0, 0, 0.0, (), 0.0, 0.0, 0.0, 0.0, 0, "", "")


def timed(record: CallRecord, began: float) -> CallRecord:
    """`record` with the milliseconds since `began` as its ranking time."""
    return replace(record, rank_ms=1000 * (time.perf_counter() - began))


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning that would be the same at every call."""
    logger.warning("%s", message)
