"""Scoring and ranking without the seed's conventions: what `CrossEncoder` and the adapters are built on."""

from __future__ import annotations

import functools
import hashlib
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from secondpass import ranking
from secondpass.activations import IDENTITY, SIGMOID, Activation, Elementwise, as_torch, checked_activation
from secondpass.calibration import Calibration, Conditions, least_of, with_probabilities
from secondpass.errors import InvalidInput, ModelLoadError, NoTokens
from secondpass.forwards.choosing import has_torch
from secondpass.forwards.precision import Precision
from secondpass.inputs import NO_PLACE, CutPolicy, ModelTemplate, PromptTemplate, Truncation, policy_of
from secondpass.keywords import SCORING, Newer, accepts_renamed
from secondpass.models.identity import check_marks
from secondpass.models.loading import Loaded
from secondpass.models.opened import OpenModel
from secondpass.models.stored import StoredModel
from secondpass.ranking import Ranking, Relevance, checked_relevance, checked_top_k, rankings, relevance_logits
from secondpass.record import CallRecord
from secondpass.score_cache import ScoreCache, score_keys
from secondpass.scoring import Reading, Recall, Scored, Window
from secondpass.text import (
    CHARACTERS_PER_TOKEN,
    checked,
    checked_documents,
    checked_query,
    materialised,
    positive_int,
    positive_number,
    readable,
)
from secondpass.token_cache import TokenCache
from secondpass.tokens import Tokens
from secondpass.windows import Windows

logger = logging.getLogger(__name__)

# The name under which the instruction that a model was loaded with is a prompt.
OWN_INSTRUCTION = "instruction"

Wish = tuple[str, str | None]
"""What goes in front of each query of a call, and the instruction at its place in the model's template."""


@dataclass(frozen=True, slots=True)
class Call:
    """What one call says of how pairs are read and scored; `until` is when its budget is spent, see `Engine.score`.

    `least` is the lowest probability of a document that is kept.
    """

    batch_size: int
    show: bool | None = None
    wish: Wish = ("", None)
    template: PromptTemplate | None = None
    truncation: Truncation | Windows | CutPolicy | None = None
    until: float | None = None
    least: float | None = None


class Reranker(OpenModel):
    """A loaded model with its stages and limits; any number of threads may use one."""

    def __init__(
        self,
        loaded: Loaded | StoredModel,
        default_activation_function: Activation,
        max_length: int | None,
        truncation: Truncation | Windows | None,
        max_batch_tokens: int | None,
        max_documents: int | None,
        precision: Precision | None = None,
        instruction: str | None = None,
    ) -> None:
        self.template: ModelTemplate | None = loaded.template
        if truncation is None:
            truncation = "longest_first" if self.template is None else self.template.truncation
        policy_of(truncation)
        self.prompts = dict(loaded.prompts)
        self.default_prompt_name: str | None = loaded.default_prompt
        self._leaves_prompt_out = loaded.leaves_prompt_out
        if instruction is not None:
            # as sentence-transformers stores it, so that it comes back with the saved model; "" leaves a stored one out
            _, own = self._wish(instruction=instruction)
            self.default_prompt_name = OWN_INSTRUCTION if own else None
            self.prompts |= {OWN_INSTRUCTION: own} if own else {}
        self._transformer_settings = loaded.transformer_settings
        self.own_activation = default_activation_function
        self.max_length = max_length
        self.truncation = truncation
        self.max_batch_tokens = None if max_batch_tokens is None else positive_int(max_batch_tokens, "max_batch_tokens")
        self.max_documents = None if max_documents is None else positive_int(max_documents, "max_documents")
        self._score_cache: ScoreCache | None = None
        self._loaded = loaded  # whose window is checked before anything is made
        _ = self.window
        super().__init__(loaded, precision)
        if loaded.calibration is not None:
            if loaded.calibration.weights is None:
                check_marks(loaded.calibration, self, ModelLoadError)
            self._calibration = loaded.calibration

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
    def takes_instruction(self) -> bool:
        """Whether the model's template has a place for an instruction."""
        return self.template is not None and self.template.instructed is not None

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
        limit = (loaded := self._open()).token_limit
        if self.max_length is None:
            published = None if self.template is None else self.template.window
            limit = loaded.limit_now if isinstance(loaded, Loaded) else limit
            return min(limit, published or limit)
        wish = positive_int(self.max_length, "max_length")
        if wish > limit:
            warn_once(f"max_length={wish} is more than the model can read: {limit} is used")
        return min(wish, limit)

    @property
    def token_cache(self) -> TokenCache | None:
        """Where the ids of documents read before are kept."""
        return self.engine().tokenizer.cache

    def use_token_cache(self, cache: TokenCache | None) -> None:
        """Keep the ids of documents in `cache`, so that they are tokenised once; None, the default, keeps none.

        Scores are the same. One cache may serve any number of models; a copy of this object starts with an empty one.
        """
        self.engine().tokenizer.cache = cache

    @property
    def score_cache(self) -> ScoreCache | None:
        """Where the logits of pairs scored before are kept."""
        return self._score_cache

    def use_score_cache(self, cache: ScoreCache | None) -> None:
        """Keep logits in `cache`, so that a pair is scored once; None, the default, keeps none.

        What is kept holds for these weights, this precision, window, template and cut alone: a model that changes asks
        anew. One cache may serve any number of models and processes. Forwards of other people's making (`use_forward`)
        and models with hooks are not kept.

        Raises:
            InvalidInput: it is none.
        """
        if not isinstance(cache, ScoreCache | None):
            raise InvalidInput(f"cache is {type(cache).__name__}, not a ScoreCache")
        self._score_cache = cache

    def use_calibration(self, calibration: Calibration | str | Path | None, instruction: str | None = None) -> None:
        """Give documents a probability by `calibration`; None, the default of a model without one, gives none.

        A path is that of a file that `Calibration.save` wrote, or of its folder. It may be fitted on the model as it is
        loaded with an `instruction` that calls are going to say.

        Raises:
            InvalidInput: it is none, or that of another model: this one's logits for sample pairs are others.
        """
        made = Calibration.load(calibration) if isinstance(calibration, (str, Path)) else calibration
        if not isinstance(made, Calibration | None):
            raise InvalidInput(f"calibration is {type(made).__name__}, not a Calibration")
        if made is not None:
            check_marks(made, self, instruction=instruction)
        self._calibration = made

    def conditions(
        self,
        template: PromptTemplate | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        instruction: str | None = None,
        truncation: Truncation | Windows | CutPolicy | None = None,
    ) -> Conditions:
        """How a call with these arguments of `rank_many` reads pairs; raises as it does."""
        wish = self._wish(prompt, prompt_name, instruction)
        return self._conditions(Call(1, wish=wish, template=template, truncation=truncation))

    def compare_conditions(self, conditions: Conditions) -> None:
        """Warn once where pairs are read otherwise than those that the model's calibration was fitted on."""
        calibrated = None if self._calibration is None else self._calibration.conditions
        differences = conditions.differences(calibrated) if calibrated is not None else ()
        if differences:  # by their names alone: callers may have any number of prompts
            warn_once(f"{self.name}: probabilities are of pairs read otherwise: {', '.join(differences)}")

    def _conditions(self, call: Call) -> Conditions:
        policy = policy_of(self.truncation if call.truncation is None else call.truncation)
        return Conditions.of(self.window, policy, call.wish[0] or call.wish[1] or "", call.template)

    def reading(self, columns: Sequence[Sequence[str]], window: Window, rule: Relevance | None = None) -> Reading:
        """How inputs become logits of pairs: by windows where the policy says so, and by what the cache knows.

        Raises:
            InvalidInput: the policy is "windows", and no `rule` says by which of several labels one is the best.
        """
        windows = policy_of(window.truncation).windows
        if windows is None or self.num_labels == 1:
            return Reading(windows, recall=self._recall(columns, window), labels=self.num_labels)
        if rule is None:
            raise InvalidInput(
                f"truncation='windows' takes the best window, and of {self.num_labels} labels none is said to be the "
                "relevance: rank with relevance="
            )
        recall = self._recall(columns, window, rule)
        return Reading(windows, lambda logits: relevance_logits(logits, rule), recall, self.num_labels)

    def reading_of(
        self, columns: Sequence[Sequence[str]], cut: CutPolicy | None = None, instruction: str | None = None
    ) -> Reading:
        """The same of pairs that `tokens` is going to be asked for; raises as both."""
        before, wish = self._wish(instruction=instruction)
        window = self._window(max(1, len(columns[0])), None, cut, wish)
        asked = [before + query for query in columns[0]] if before else columns[0]
        return self.reading([asked, columns[1]], window)

    def _recall(self, columns: Sequence[Sequence[str]], window: Window, rule: Relevance | None = None) -> Recall | None:
        """What the cache knows; `rule` tells by which of several labels a window is the best."""
        cache = self._score_cache
        if cache is None:
            return None
        engine = self.engine()
        told = engine.ready().identity
        if told is None:
            return None
        identity = told()
        own = engine.tokenizer
        around = (identity, own.identity.hex(), own.keep_tail, len(columns), window.max_length, window.truncation)
        context = hashlib.blake2b(repr((*around, window.template, rule)).encode(), digest_size=32).digest()
        keys = score_keys(context, columns[0], columns[-1])
        return Recall(cache, identity, keys, cache.find(keys))

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
        truncation: Truncation | Windows | None = None,
        budget_ms: float | None = None,
        min_probability: float | None = None,
        **newer: Unpack[Newer],
    ) -> list[Ranking]:
        """Order several queries' documents in shared batches; texts are taken as they are, not stripped.

        A blank document (`text.is_blank`) is read as an empty text and comes last, with the lowest score. `template` is
        what the operator writes around each query and document (an instruction, the turns of a chat), inside the
        model's own template where it has one; special tokens in it are special, and it is never cut. With a `budget_ms`
        the queries share it, the first one's documents first. All else, errors too, is as in `CrossEncoder.rank`.

        Returns:
            One `Ranking` per query, in order; scores and logits are Python floats.
        """
        until = until_of(budget_ms)
        least = None if min_probability is None else least_of(self._calibration, min_probability)
        asked = [checked_query(query, f"queries[{i}]") for i, query in enumerate(checked_documents(queries, "queries"))]
        given = materialised(documents_per_query, "documents_per_query", "a sequence of sequences of str")
        lists = [self._checked_documents(texts, f"documents_per_query[{i}]") for i, texts in enumerate(given)]
        if len(asked) != len(lists):
            raise InvalidInput(f"documents_per_query has {len(lists)} lists for {len(asked)} queries")
        rule = self._rule(relevance)
        names = [f"queries[{i}]" for i in range(len(asked))]
        wish = self._wish(prompt, prompt_name, instruction)
        call = Call(batch_size, show_progress_bar, wish, template, truncation, until, least)
        return self._ranked(asked, lists, names, top_k, activation_fct, rule, call)

    def _ranked(
        self,
        queries: Sequence[str],
        lists: Sequence[Sequence[str]],
        names: Sequence[str],
        top_k: int | None,
        activation: Activation | None,
        rule: Relevance | None,
        call: Call,
    ) -> list[Ranking]:
        """Rank checked texts; `names` are what an error calls the queries."""
        kept, activation = checked_top_k(top_k), self._activation(activation, rule)
        sizes = [len(texts) for texts in lists]
        columns = [
            [call.wish[0] + query for query, size in zip(queries, sizes, strict=True) for _ in range(size)],
            [readable(text) for texts in lists for text in texts],
        ]
        if not columns[1]:
            self._planned(columns, call, rule)
            return [Ranking((), (), _EMPTY) for _ in queries]
        owners = [name for name, size in zip(names, sizes, strict=True) for _ in range(size)]
        scored = self._score(columns, call, rule, owners)
        began = time.perf_counter()
        silent = scored.blank[:, 0].nonzero()[0].tolist()
        if silent:
            raise NoTokens(f"{owners[silent[0]]} is blank", (silent[0],))
        made = rankings(scored, sizes, activation, rule, kept)
        calibration, own = self._calibration, None if self.num_labels == 1 else rule
        if calibration is not None or call.least is not None:
            made = with_probabilities(made, calibration, own, call.least)
        if calibration is not None and calibration.relevance == own:
            self.compare_conditions(self._conditions(call))
        record = timed(scored.record, began)
        return [replace(ranking, record=record) for ranking in made]

    def _window(
        self,
        batch_size: int,
        template: PromptTemplate | None = None,
        cut: Truncation | Windows | CutPolicy | None = None,
        instruction: str | None = None,
    ) -> Window:
        pairs = positive_int(batch_size, "batch_size")
        if not isinstance(template, PromptTemplate | None):
            raise InvalidInput(f"template is {type(template).__name__}, not a PromptTemplate")
        own, policy = self.template, policy_of(self.truncation if cut is None else cut)
        if len(instruction or "") > CHARACTERS_PER_TOKEN * self.window:
            raise InvalidInput(f"instruction has {len(instruction or '')} characters, which no window has room for")
        if own is not None:
            template = own.rendered(instruction, template)
            policy = replace(policy, query_share=policy.query_share or own.query_share)
        return Window(self.window, policy, self.max_batch_tokens, pairs, template)

    def _wish(self, prompt: object = None, prompt_name: str | None = None, instruction: object = None) -> Wish:
        """The one of these texts that a call gives, else the stored default prompt, where the model wants it.

        A blank instruction is none, as "" is.
        """
        given = {"prompt": prompt, "prompt_name": prompt_name, "instruction": instruction}
        named = [name for name, value in given.items() if value is not None]
        if len(named) > 1:
            raise InvalidInput(f"{' and '.join(named)} are given, where one says what to put before the query")
        has_place = self.takes_instruction
        if instruction is not None:
            own = readable(checked(instruction, "instruction"))
            if own and not has_place:
                raise InvalidInput(NO_PLACE)
            return "", own
        name = self.default_prompt_name if prompt is None and prompt_name is None else prompt_name
        if name is not None and name not in self.prompts:
            known = ", ".join(map(repr, self.prompts)) or "none"
            raise InvalidInput(f"prompt_name={name!r} is no prompt of this model; it has {known}")
        text = self.prompts[name] if name is not None else checked("" if prompt is None else prompt, "prompt")
        if text and self._leaves_prompt_out:
            raise InvalidInput("prompt: the model's pooling leaves out a prompt's tokens, which is not done here")
        return ("", readable(text)) if has_place else (text, None)

    def _checked_documents(self, documents: object, argument: str) -> list[str]:
        texts = checked_documents(documents, argument)
        if self.max_documents is not None and len(texts) > self.max_documents:
            raise InvalidInput(f"{argument} has {len(texts)}, more than max_documents={self.max_documents}")
        return texts

    def _rule(self, relevance: Relevance | None) -> Relevance | None:
        labels = self.num_labels
        return None if labels == 1 and relevance is None else checked_relevance(relevance, labels)

    def _planned(self, columns: list[list[str]], call: Call, rule: Relevance | None = None) -> tuple[Window, Reading]:
        """How a call reads its pairs; a mistake in it is refused where there are none too."""
        window = self._window(call.batch_size, call.template, call.truncation, call.wish[1])
        if len(columns) == 1 and self.template is not None:
            raise InvalidInput("sentences[0] has one text, where the model's template reads a query and a document")
        return window, self.reading(columns, window, rule)

    def _score(
        self, columns: list[list[str]], call: Call, rule: Relevance | None = None, owners: Sequence[str] = ()
    ) -> Scored:
        """Score pairs; `owners` are what an error calls their queries, where not the pairs are the caller's."""
        engine, show = self.engine(scores=True), call.show
        window, reading = self._planned(columns, call, rule)
        if show is None:
            show = logger.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
        with ranking.Bar(show) as bar:

            def step(remaining: int) -> None:
                self.engine()  # a fit or close that began meanwhile in another thread ends this call
                bar(remaining)

            try:
                return engine.score(columns, window, step, reading, call.until)
            except NoTokens as error:
                (pair,) = error.indices
                if owners:
                    raise NoTokens(f"{owners[pair]} is blank", (pair,)) from None
                raise NoTokens(f"sentences[{pair}] has no tokens, nor has the template", (pair,)) from None

    def _activation(self, given: Activation | None, rule: Relevance | None) -> Activation:
        """What makes scores of the numbers that documents are ranked by."""
        if given is not None:
            return checked_activation(given, "activation_fct")
        if rule is None or self.num_labels == 1:
            return self.own_activation
        return IDENTITY if rule == "expected" else SIGMOID


_EMPTY = CallRecord(0, 0, 0, 0.0, (), 0.0, 0.0, 0.0, 0.0, 0, "", "")


def until_of(budget_ms: float | None) -> float | None:
    """When a budget that begins now is spent; raises InvalidInput where it is no finite number above 0."""
    return None if budget_ms is None else time.perf_counter() + positive_number(budget_ms, "budget_ms") / 1000


def timed(record: CallRecord, began: float) -> CallRecord:
    """`record` with the milliseconds since `began` as its ranking time."""
    return replace(record, rank_ms=1000 * (time.perf_counter() - began))


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning that would be the same at every call."""
    logger.warning("%s", message)
