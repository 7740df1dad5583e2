"""Scoring and ranking without the seed's conventions: what `CrossEncoder` and the adapters are built on."""

from __future__ import annotations

import functools
import inspect
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ParamSpec, TypedDict, TypeVar, Unpack

from secondpass import ranking
from secondpass.activations import IDENTITY, SIGMOID, Activation, Elementwise, as_torch, checked_activation
from secondpass.errors import InvalidInput
from secondpass.forwards.choosing import has_torch
from secondpass.forwards.precision import Precision
from secondpass.inputs import NO_PLACE, CutPolicy, ModelTemplate, PromptTemplate, Truncation, policy_of
from secondpass.models.loading import Loaded
from secondpass.models.opened import OpenModel
from secondpass.models.stored import StoredModel
from secondpass.ranking import Ranking, Relevance, checked_relevance, checked_top_k, rankings
from secondpass.scoring import Scored, Window
from secondpass.text import (
    CHARACTERS_PER_TOKEN,
    checked,
    checked_documents,
    checked_query,
    materialised,
    positive_int,
    readable,
)
from secondpass.tokens import CallRecord, TokenCache, Tokens

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

# The name under which the instruction that a model was loaded with is a prompt.
OWN_INSTRUCTION = "instruction"

P = ParamSpec("P")
R = TypeVar("R")

# The names that sentence-transformers 4 to 6 gave to the same arguments, accepted as keywords.
SCORING = {"inputs": "sentences", "activation_fn": "activation_fct"}


Wish = tuple[str, str | None]
"""What goes in front of each query of a call, and the instruction at its place in the model's template."""


class Newer(TypedDict, total=False):
    """Keywords that `rank` and `rank_many` take beside their signature."""

    activation_fn: Activation | None


class CallOptions(TypedDict, total=False):
    """What `predict` takes by keyword only."""

    prompt: str | None
    prompt_name: str | None
    instruction: str | None
    pool: None
    chunk_size: None
    device: str | torch.device | None
    records: list[CallRecord] | None


class Scoring(CallOptions, Newer, total=False):
    """All keywords of `predict` but those that decide about the returned type."""

    batch_size: int
    show_progress_bar: bool | None
    num_workers: int
    activation_fct: Activation | None
    apply_softmax: bool


class AnyScoring(Scoring, total=False):
    """`Scoring` with those two, where the type is not told."""

    convert_to_numpy: bool
    convert_to_tensor: bool


def accepts_renamed(names: dict[str, str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function be called with new names (keys) for its parameters (values).

    Its signature may have `**newer` for type checkers, which is always empty when it is called.

    Raises (when called):
        TypeError: both names of one parameter are given, or a name that is none.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        known = inspect.signature(function).parameters.keys() - {"newer"}

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for new, old in names.items():
                if new in kwargs:
                    if old in kwargs:
                        raise TypeError(f"{function.__qualname__}() got both {old!r} and {new!r}, its newer name")
                    kwargs[old] = kwargs.pop(new)
            if not kwargs.keys() <= known:
                name = min(kwargs.keys() - known)
                raise TypeError(f"{function.__qualname__}() got an unexpected keyword argument {name!r}")
            return function(*args, **kwargs)

        return call

    return decorate


def accepts_overloads(names: dict[str, str]) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """The same for a function whose overloads tell type checkers which arguments it takes."""
    return accepts_renamed(names)


class Reranker(OpenModel):
    """A loaded model with its stages and limits; any number of threads may use one."""

    def __init__(
        self,
        loaded: Loaded | StoredModel,
        default_activation_function: Activation,
        max_length: int | None,
        truncation: Truncation | None,
        max_batch_tokens: int | None,
        max_documents: int | None,
        precision: Precision | None = None,
        instruction: str | None = None,
    ) -> None:
        self.template: ModelTemplate | None = loaded.template
        if truncation is None:
            truncation = "longest_first" if self.template is None else self.template.truncation
        CutPolicy(truncation)
        self.prompts = dict(loaded.prompts)
        self.default_prompt_name: str | None = loaded.default_prompt
        self._leaves_prompt_out = loaded.leaves_prompt_out
        if instruction is not None:
            # as sentence-transformers stores it, so that it comes back with the saved model; "" leaves a stored one out
            self.default_prompt_name = OWN_INSTRUCTION if self._wish(instruction=instruction)[1] else None
            self.prompts |= {OWN_INSTRUCTION: str(instruction)} if instruction else {}
        self._transformer_settings = loaded.transformer_settings
        self.own_activation = default_activation_function
        self.max_length = max_length
        self.truncation = truncation
        self.max_batch_tokens = None if max_batch_tokens is None else positive_int(max_batch_tokens, "max_batch_tokens")
        self.max_documents = None if max_documents is None else positive_int(max_documents, "max_documents")
        self._token_limit = loaded.token_limit
        _ = self.window
        super().__init__(loaded, precision)

    def __repr__(self) -> str:
        """Say what is loaded and how it computes; never fails, and never shows an access token."""
        name, loaded = type(self).__name__, self._loaded
        if loaded is None:
            return f"{name}(closed)"
        try:
            window: object = self.window
        except InvalidInput:
            window = f"refused max_length={self.max_length!r}"
        return f"{name}({loaded.name!r}, device={self.device_name!r}, precision={self.precision!r}, window={window})"

    @property
    def default_activation_function(self) -> Activation:
        """What makes scores of logits: a module of torch, or without torch our own value that computes the same."""
        if isinstance(self.own_activation, Elementwise) and has_torch():
            self.own_activation = as_torch(self.own_activation)
        return self.own_activation

    @default_activation_function.setter
    def default_activation_function(self, activation: Activation) -> None:
        self.own_activation = activation

    @property
    def processor(self) -> Any:
        """The tokenizer, under the name that sentence-transformers 6 gives it."""
        return self.tokenizer

    @property
    def activation_fn(self) -> Activation:
        """The newer name of `default_activation_function`."""
        return self.default_activation_function

    @activation_fn.setter
    def activation_fn(self, activation: Activation) -> None:
        self.default_activation_function = checked_activation(activation, "activation_fn")

    @property
    def max_seq_length(self) -> int:
        """The window in force, an int also where `max_length` is None; setting it sets `max_length`."""
        return self.window

    @max_seq_length.setter
    def max_seq_length(self, tokens: int | None) -> None:
        self.max_length = None if tokens is None else positive_int(tokens, "max_seq_length")

    def tokens(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        *,
        cut: CutPolicy | None = None,
        template: PromptTemplate | None = None,
        instruction: str | None = None,
    ) -> list[Tokens]:
        """Model inputs of the pairs (queries[i], documents[i]), cut to the window; texts are taken as they are.

        Args:
            queries: one per document.
            documents: as many.
            cut: what is read of a pair that is too long; None takes the model's `truncation`.
            template: what the operator writes around each query and document.
            instruction: what the model is told to look for, where its template has a place for that.

        Raises:
            TooLong: pairs are too long and may not be cut.
            InvalidInput: the window has no room beside the template, or there is no place for an instruction.
        """
        before, wish = self._wish(instruction=instruction)
        asked = [before + query for query in queries] if before else queries
        return self.engine().tokens([asked, documents], self._window(max(1, len(queries)), template, cut, wish))

    @property
    def window(self) -> int:
        """The longest input in tokens: `max_length`, or what model and tokenizer allow where that is less or None.

        For None the window that goes with the model's template is no less a limit.
        """
        if self.max_length is None:
            published = None if self.template is None else self.template.window
            return min(self._token_limit, published or self._token_limit)
        wish = positive_int(self.max_length, "max_length")
        if wish > self._token_limit:
            warn_once(f"max_length={wish} is more than the model can read: {self._token_limit} is used")
        return min(wish, self._token_limit)

    @property
    def token_cache(self) -> TokenCache | None:
        """Where the ids of documents read before are kept."""
        return self.engine().tokenizer.cache

    def use_token_cache(self, cache: TokenCache | None) -> None:
        """Keep the ids of documents in `cache`, so that they are tokenised once; None, the default, keeps none.

        Scores are the same. One cache may serve any number of models; a copy of this object starts with an empty one.
        """
        self.engine().tokenizer.cache = cache

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
        prompt: str | None = None,
        prompt_name: str | None = None,
        instruction: str | None = None,
        **newer: Unpack[Newer],
    ) -> list[Ranking]:
        """Order several queries' documents in shared batches; texts are taken as they are, not stripped.

        A blank document (`text.is_blank`) is read as an empty text and comes last, with the lowest score. `template` is
        what the operator writes around each query and document (an instruction, the turns of a chat), inside the
        model's own template where it has one; special tokens in it are special, and it is never cut. All else, errors
        too, is as in `CrossEncoder.rank`.

        Returns:
            One `Ranking` per query, in order; scores and logits are Python floats.
        """
        asked = [checked_query(query, f"queries[{i}]") for i, query in enumerate(checked_documents(queries, "queries"))]
        given = materialised(documents_per_query, "documents_per_query", "a sequence of sequences of str")
        lists = [self._checked_documents(texts, f"documents_per_query[{i}]") for i, texts in enumerate(given)]
        if len(asked) != len(lists):
            raise InvalidInput(f"documents_per_query has {len(lists)} lists for {len(asked)} queries")
        rule = self._rule(relevance)
        names = [f"queries[{i}]" for i in range(len(asked))]
        wish = self._wish(prompt, prompt_name, instruction)
        return self._ranked(
            asked, lists, names, top_k, batch_size, show_progress_bar, activation_fct, rule, template, wish
        )

    def _ranked(
        self,
        queries: Sequence[str],
        lists: Sequence[Sequence[str]],
        names: Sequence[str],
        top_k: int | None,
        batch_size: int,
        show: bool | None,
        activation: Activation | None,
        rule: Relevance | None,
        template: PromptTemplate | None = None,
        wish: Wish = ("", None),
    ) -> list[Ranking]:
        """Rank checked texts; `names` are what an error calls the queries."""
        kept = checked_top_k(top_k)
        sizes = [len(texts) for texts in lists]
        columns = [
            [wish[0] + query for query, size in zip(queries, sizes, strict=True) for _ in range(size)],
            [readable(text) for texts in lists for text in texts],
        ]
        if not columns[1]:
            return [Ranking((), (), _EMPTY) for _ in queries]
        scored = self._score(columns, batch_size, show, template, wish[1])
        began = time.perf_counter()
        silent = scored.blank[:, 0].nonzero()[0].tolist()
        if silent:
            owners = [name for name, size in zip(names, sizes, strict=True) for _ in range(size)]
            raise InvalidInput(f"{owners[silent[0]]} is blank")
        made = rankings(scored, sizes, self._activation(activation, rule), rule, kept)
        record = timed(scored.record, began)
        return [replace(ranking, record=record) for ranking in made]

    def _window(
        self,
        batch_size: int,
        template: PromptTemplate | None = None,
        cut: CutPolicy | None = None,
        instruction: str | None = None,
    ) -> Window:
        pairs = positive_int(batch_size, "batch_size")
        own, policy = self.template, policy_of(self.truncation if cut is None else cut)
        if len(instruction or "") > CHARACTERS_PER_TOKEN * self.window:
            raise InvalidInput(f"instruction has {len(instruction or '')} characters, which no window has room for")
        if own is not None:
            template = own.rendered(instruction, template)
            policy = replace(policy, query_share=policy.query_share or own.query_share)
        return Window(self.window, policy, self.max_batch_tokens, pairs, template)

    def _wish(self, prompt: object = None, prompt_name: str | None = None, instruction: object = None) -> Wish:
        """The one of these texts that a call gives, else the stored default prompt, where the model wants it."""
        given = {"prompt": prompt, "prompt_name": prompt_name, "instruction": instruction}
        named = [name for name, value in given.items() if value is not None]
        if len(named) > 1:
            raise InvalidInput(f"{' and '.join(named)} are given, where one says what to put before the query")
        has_place = self.template is not None and self.template.instructed is not None
        if instruction is not None:
            if checked(instruction, "instruction") and not has_place:
                raise InvalidInput(NO_PLACE)
            return "", str(instruction)
        name = self.default_prompt_name if prompt is None and prompt_name is None else prompt_name
        if name is not None and name not in self.prompts:
            known = ", ".join(map(repr, self.prompts)) or "none"
            raise InvalidInput(f"prompt_name={name!r} is no prompt of this model; it has {known}")
        text = self.prompts[name] if name is not None else checked("" if prompt is None else prompt, "prompt")
        if text and self._leaves_prompt_out:
            raise InvalidInput("prompt: the model's pooling leaves out a prompt's tokens, which is not done here")
        return ("", text) if has_place else (text, None)

    def _checked_documents(self, documents: object, argument: str) -> list[str]:
        texts = checked_documents(documents, argument)
        if self.max_documents is not None and len(texts) > self.max_documents:
            raise InvalidInput(f"{argument} has {len(texts)}, more than max_documents={self.max_documents}")
        return texts

    def _rule(self, relevance: Relevance | None) -> Relevance | None:
        labels = self.num_labels
        return None if labels == 1 and relevance is None else checked_relevance(relevance, labels)

    def _score(
        self,
        columns: list[list[str]],
        batch_size: int,
        show: bool | None,
        template: PromptTemplate | None = None,
        instruction: str | None = None,
    ) -> Scored:
        engine = self.engine()
        window = self._window(batch_size, template, None, instruction)
        if len(columns) == 1 and self.template is not None:
            raise InvalidInput("sentences[0] has one text, where the model's template reads a query and a document")
        loaded = self._loaded
        if isinstance(loaded, Loaded):
            loaded.model.eval()
        if show is None:
            show = logger.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
        with ranking.Bar(show) as bar:

            def step(remaining: int) -> None:
                self.engine()  # a fit or close that began meanwhile in another thread ends this call
                bar(remaining)

            return engine.score(columns, window, step)

    def _activation(self, given: Activation | None, rule: Relevance | None) -> Activation:
        """What makes scores of the numbers that documents are ranked by."""
        if given is not None:
            return given
        if rule is None or self.num_labels == 1:
            return self.own_activation
        return IDENTITY if rule == "expected" else SIGMOID


_EMPTY = CallRecord(0, 0, 0, 0.0, (), 0.0, 0.0, 0.0, 0.0, 0, "", "")


def timed(record: CallRecord, began: float) -> CallRecord:
    """`record` with the milliseconds since `began` as its ranking time."""
    return replace(record, rank_ms=1000 * (time.perf_counter() - began))


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning that would be the same at every call."""
    logger.warning("%s", message)
