"""The Haystack component that applies what `secondpass tune` chose. YAML names this module: its name is public API."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

import numpy as np
from haystack import Document, component, default_to_dict, logging
from haystack_integrations.common.secondpass import parameters
from haystack_integrations.common.secondpass.documents import Readable, deduplicated, listed
from haystack_integrations.common.secondpass.model_lifecycle import SerializedComponent, in_thread
from haystack_integrations.components.rankers.secondpass.ranker import WHEN_NOTHING, RankLimits, SecondPassRanker

from secondpass.calibration import Conditions
from secondpass.errors import InvalidInput
from secondpass.fusion import Candidates, Fused, Tuned
from secondpass.inputs import PromptTemplate
from secondpass.models.identity import agree, marks_of
from secondpass.ranking import Ranking
from secondpass.reranker import warn_once
from secondpass.text import checked, choice, finite_number, is_blank

if TYPE_CHECKING:
    from haystack.utils import ComponentDevice, Secret

    from secondpass import CrossEncoder
    from secondpass.cascade import Cascade

__all__ = ["SecondPassTunedRanker"]

logger = logging.getLogger(__name__)

# In a folder that `secondpass tune` wrote.
FILE = "tuned.json"
# What a run takes beside documents: no first pass can have such a name.
OWN_INPUTS = ("query", "top_k", "min_probability", "instruction", "budget_ms")


class ReadingParameters(TypedDict, total=False):
    """How the model is loaded and reads: parameters of `SecondPassRanker`, with the same meaning and defaults."""

    device: ComponentDevice | str | None
    token: Secret | None
    query_prefix: str
    query_suffix: str
    document_prefix: str
    document_suffix: str
    meta_fields_to_embed: list[str] | None
    embedding_separator: str
    model_kwargs: dict[str, Any] | None
    tokenizer_kwargs: dict[str, Any] | None
    config_kwargs: dict[str, Any] | None
    batch_size: int
    truncation: Literal["longest_first", "only_document", "error", "windows"] | None
    precision: Literal["auto", "fp32", "bf16", "int16", "int8"] | None
    relevance: int | Literal["expected"] | None
    instruction: str | None
    windows: dict[str, Any] | None
    budget_ms: float | None
    score_cache: str | Path | None
    score_cache_mb: int


class TunedModel(SecondPassRanker):
    """Gives the logits of the model that was tuned with, and of no other; warns where it reads pairs otherwise."""

    tuned_marks: Sequence[float] | None = None
    tuned_conditions: Conditions | None = None

    def _load(self) -> CrossEncoder | Cascade:
        model = super()._load()
        if self.tuned_marks is not None and not agree(marks_of(model), self.tuned_marks):
            others = self._differences(model)
            model.close()
            read = f" ({', '.join(others.values())})" if others else ""
            raise InvalidInput(
                f"{self.model} is another model than the one tuned with: its logits for samples differ{read}"
            )
        return model

    def _differences(self, model: Any, instruction: str | None = None) -> dict[str, str]:
        """What is otherwise than it was in tuning, by name, in words."""
        if self.tuned_conditions is None:
            return {}
        return conditions_of(self, model, instruction).differences(self.tuned_conditions)

    def _ranking(self, query: str, readable: Readable, limits: RankLimits, instruction: str | None) -> Ranking:
        with self.lent_model() as model:
            others = self._differences(model, instruction)
        if others:  # by their names alone: callers may have any number of instructions
            warn_once(f"{self.model}: pairs are read otherwise than those tuned on: {', '.join(others)}")
        return super()._ranking(query, readable, limits, instruction)


def conditions_of(ranker: SecondPassRanker, model: Any, instruction: str | None = None) -> Conditions:
    """How a ranker's one `model`, loaded, reads pairs; `instruction` is what a call says."""
    around = PromptTemplate(ranker.query_prefix, ranker.query_suffix, ranker.document_prefix, ranker.document_suffix)
    found: Conditions = model.conditions(around, instruction=instruction)
    return found


@dataclass(frozen=True, slots=True)
class _Asked:
    """A query's documents, by the rows of its candidates, and what the model said of those `wanted`, all with text.

    `is_silent` where it could say nothing: the query is blank, or it failed.
    """

    candidates: Candidates
    documents: Sequence[Document]
    wanted: Sequence[int]
    told: Mapping[str, Any]
    logits: Mapping[str, float]
    is_silent: bool

    @property
    def read(self) -> list[int]:
        return [row for row in self.wanted if self.candidates.ids[row] in self.logits]

    def is_kept(self, one: Fused, least: float) -> bool:
        """Whether a document is so probable, or a blank query, a budget or a failure left it."""
        if one.probability is None:
            return self.is_silent or one.index in self.wanted
        return one.probability >= least


@component
class SecondPassTunedRanker(SerializedComponent):
    """Orders the documents of one or several retrievers as `secondpass tune` found best on labelled queries.

    That is a fusion of the retrievers' scores, of fields of the documents and of a cross-encoder's logits for as many
    of the best documents as it pays to read; or a fusion without a model, where that won. There is an input for each
    first pass that was tuned with, by its name: connect each retriever to its own. One instance serves any number of
    threads and coroutines.

    ### Usage example

    ```python
    from haystack import Document
    from haystack_integrations.components.rankers.secondpass import SecondPassTunedRanker

    ranker = SecondPassTunedRanker(tuned="tuned")
    result = ranker.run(query="...", bm25=[Document(...), ...], embedding=[Document(...), ...])
    for document in result["documents"]:
        print(f"{document.score:.3f}", document.content)
    ```
    """

    def __init__(
        self,
        *,
        tuned: str | Path,
        model: str | Path | None = None,
        top_k: int = 10,
        min_probability: float | None = None,
        when_nothing_relevant: Literal["keep", "drop"] = "keep",
        raise_on_failure: bool = True,
        **reading: Unpack[ReadingParameters],
    ) -> None:
        """Read what was tuned, and check and keep the parameters.

        The model is loaded by `warm_up` or the first `run` that reads; never, where a fusion without one won.

        :param tuned: The file that `secondpass tune` wrote, or its folder with `tuned.json`.
        :param model: A local folder or the Hugging Face name of the cross-encoder. If `None`, the one that was tuned
            with. Another one is refused when it is loaded: nothing was tuned for its scores.
        :param top_k: The maximum number of documents to return per query.
        :param min_probability: Return only documents that are relevant with at least this probability, and those that a
            budget or a failure left unread. All queries are reranked then, those too that tuning would skip, and
            documents below the depth that is read are left out.
        :param when_nothing_relevant: What comes out where no document that was read answers the query: "keep" gives the
            documents as always, "drop" gives none, and all queries are reranked, those too that tuning would skip.
        :param raise_on_failure: If `False`, a failure of the model gives the order of the first passes, as tuned, and
            logs a warning.
        :param reading: How the model is loaded and reads, as in `SecondPassRanker`: device, token, query_prefix,
            query_suffix, document_prefix, document_suffix, meta_fields_to_embed, embedding_separator, model_kwargs,
            tokenizer_kwargs, config_kwargs, batch_size, truncation, precision, relevance, instruction, windows,
            budget_ms, score_cache, score_cache_mb. It should be what it was tuned with: where the window, the cut, the
            instruction or the prefixes and suffixes are others, the log says so once.

        :raises ValueError:
            If a parameter has a wrong type or value, with its name; if the file is not there or is none that
            `secondpass tune` wrote; or if probabilities are asked for and none were fitted.
        """
        unknown = sorted(reading.keys() - ReadingParameters.__annotations__.keys())
        if unknown:
            raise InvalidInput(f"{unknown[0]} is no parameter of SecondPassTunedRanker")
        self.tuned = parameters.model_name("tuned", tuned)
        self.model = None if model is None else parameters.model_name("model", model)
        self.top_k = parameters.positive("top_k", top_k)
        self.min_probability = parameters.optional_share("min_probability", min_probability)
        self.when_nothing_relevant = choice(when_nothing_relevant, WHEN_NOTHING, "when_nothing_relevant")
        self.raise_on_failure = parameters.flag("raise_on_failure", raise_on_failure)
        self._given = tuple(reading)
        self._tuned = read_tuned(self.tuned)
        self._least(None)
        named = self.model or self._tuned.model
        if self._tuned.after is not None and named is None:
            raise InvalidInput(f"model: {self.tuned} names none")
        self._reader = TunedModel(model=named or "secondpass/pocket", raise_on_failure=raise_on_failure, **reading)
        self._reader.tuned_marks, self._reader.tuned_conditions = self._tuned.marks, self._tuned.conditions
        for name in self._tuned.first:
            if name in OWN_INPUTS:
                raise InvalidInput(f"{self.tuned} has a first pass named {name!r}, which is another input")
            component.set_input_type(self, name, list[Document])

    def to_dict(self) -> dict[str, Any]:
        """Serialize the component to a dictionary.

        :returns:
            The component's type and parameters.
        """
        names = ("tuned", "model", "top_k", "min_probability", "when_nothing_relevant", "raise_on_failure")
        own = {name: getattr(self, name) for name in names}
        reading = self._reader.to_dict()["init_parameters"]
        return default_to_dict(self, **own, **{name: reading[name] for name in self._given})

    def warm_up(self) -> None:
        """Load the model, if one reads; threads that call it together get one load."""
        if self._tuned.after is not None:
            self._reader.warm_up()

    def close(self) -> None:
        """Drop the model. Calls under way finish on it; the next `run` that reads, or `warm_up`, loads it again."""
        self._reader.close()

    async def close_async(self) -> None:
        """Drop the model in a thread; the event loop goes on meanwhile."""
        await self._reader.close_async()

    def has_answer_rule(self) -> bool:
        """Whether tuning said when no document answers, of those that a model reads."""
        fitted = self._tuned.calibration
        return self._tuned.after is not None and fitted is not None and fitted.answers is not None

    @component.output_types(
        documents=list[Document],
        truncated=list[dict[str, Any]],
        reranked=bool,
        read=int,
        passages=list[dict[str, Any]],
        complete=bool,
        unscored=int,
        probabilities=list[dict[str, Any]],
        nothing_relevant=bool | None,
    )
    def run(
        self,
        /,
        *,
        query: str,
        top_k: int | None = None,
        min_probability: float | None = None,
        instruction: str | None = None,
        budget_ms: float | None = None,
        **documents: list[Document],
    ) -> dict[str, Any]:
        """Order the documents of all first passes, each once, by its id.

        Where several first passes found a document, it comes back as the first of them in `tuned` gave it. Of a
        document that one list has twice the highest score counts. A list in which a document has no score counts by its
        order.

        Documents that the model read come first, by their fused scores; then those that it did not, in the order of the
        first passes: below the depth that was chosen, without any text, or left by a budget.

        :param query: What the documents are to answer. A blank one is not reranked.
        :param top_k: The maximum number of documents to return. `None` takes the value given at initialization.
        :param min_probability: Return only documents that are relevant with at least this probability. `None` takes the
            value given at initialization.
        :param instruction: What the model is told to look for. `None` takes the value given at initialization.
        :param budget_ms: Milliseconds that the model may rank for. `None` takes the value given at initialization.
        :param documents: What each first pass found, by its name, with its scores. They are not changed. Fields that
            were tuned with are in their `meta`; one that a document lacks counts as unknown.
        :returns:
            A dictionary with the following keys:
            - `documents`: The documents, best first, with the fused score, which orders one query's documents and means
              nothing across queries.
            - `truncated`: As `SecondPassRanker` gives it, of the documents that were read.
            - `reranked`: Whether a model read any of them, and so made this order.
            - `read`: How many documents it read; 0 where tuning found that it does not pay.
            - `passages`: As `SecondPassRanker` gives it, of the documents that were read; scores are logits.
            - `complete`: Whether all documents with text that were to be read were.
            - `unscored`: How many were not: those that a budget or a failure left.
            - `probabilities`: Where probabilities were fitted, one dictionary for each of `documents` that was read, in
              their order: its `id`, the `probability` that it is relevant, and its `interval`, two numbers.
            - `nothing_relevant`: Whether no document answers the query; `None` if no rule was fitted for that, if
              nothing was read, or if a budget left documents.

        :raises ValueError:
            If an argument has a wrong type or value, with its name and index; if a first pass is missing or unknown; or
            if a score or field is no finite number.
        """
        least = self._least(parameters.optional_share("min_probability", min_probability))
        most = self.top_k if top_k is None else parameters.positive("top_k", top_k)
        asked = self._read(checked(query, "query"), self._candidates(documents), least, instruction, budget_ms)
        read, told = asked.read, asked.told
        order = self._tuned.order(asked.candidates, read, [asked.logits[asked.candidates.ids[row]] for row in read])
        nothing = None if told["unscored"] else self._tuned.nothing_relevant(order)
        kept = [one for one in order if least is None or asked.is_kept(one, least)][:most]
        if nothing and self.when_nothing_relevant == "drop":
            kept = []
        passages = {passage["id"]: passage for passage in told["passages"]}
        return {
            "documents": [replace(asked.documents[one.index], score=one.score) for one in kept],
            "truncated": told["truncated"],
            "reranked": bool(read),
            "read": len(read),
            "passages": [passages[one.id] for one in kept if one.id in passages],
            "complete": not told["unscored"],
            "unscored": told["unscored"],
            "probabilities": self._probabilities([one for one in kept if one.probability is not None]),
            "nothing_relevant": nothing,
        }

    run_async = in_thread(run)

    def _candidates(self, given: Mapping[str, object]) -> tuple[Candidates, list[Document]]:
        """All documents with their scores, and the documents by the same rows."""
        first = self._tuned.first
        for name in (*first, *given):
            if (name in given) != (name in first):
                what = "is no first pass" if name in given else "is missing: the documents of a first pass"
                raise InvalidInput(f"{name} {what} that was tuned with; those are {', '.join(first)}")
        lists = {name: deduplicated(listed(given[name], name)) for name in first}
        found: dict[str, Document] = {}
        for documents in lists.values():
            for document in documents:
                found.setdefault(document.id, document)
        fields: dict[str, dict[str, float]] = {}
        for field in self._tuned.fields:
            # None is what stores give for a field that a document has not got
            known = (document for document in found.values() if document.meta.get(field) is not None)
            fields[field] = {document.id: _number(document, field) for document in known}
        runs = {name: [(one.id, one.score) for one in documents] for name, documents in lists.items()}
        candidates = Candidates.of(runs, fields)
        return candidates, [found[name] for name in candidates.ids]

    def _read(
        self,
        query: str,
        found: tuple[Candidates, list[Document]],
        least: float | None,
        instruction: str | None,
        budget_ms: float | None,
    ) -> _Asked:
        candidates, documents = found
        tuned = self._tuned
        if least is not None or self.when_nothing_relevant == "drop":
            tuned = replace(tuned, skip=None)
        wanted = tuned.to_read(candidates)
        if wanted and is_blank(query):
            logger.warning("The query is blank: {count} documents keep the first passes' order.", count=len(documents))
            wanted = []
        told = self._reader.run(
            query=query,
            documents=[documents[row] for row in wanted],
            top_k=max(1, len(wanted)),
            scale_score=False,
            instruction=instruction,
            budget_ms=budget_ms,
        )
        ranked = told["documents"] if told["reranked"] else ()
        logits = {document.id: document.score for document in ranked if document.score is not None}
        readable = [row for row in wanted if self._reader.layout.has_text(documents[row])]
        is_silent = is_blank(query) or (not told["reranked"] and bool(readable))
        return _Asked(candidates, documents, readable, told, logits, is_silent)

    def _least(self, given: float | None) -> float | None:
        least = self.min_probability if given is None else given
        if least is not None and (self._tuned.calibration is None or self._tuned.after is None):
            raise InvalidInput(f"min_probability={least}: no probabilities were fitted for {self.tuned}")
        return least

    def _probabilities(self, read: Sequence[Fused]) -> list[dict[str, Any]]:
        calibration = self._tuned.calibration
        if calibration is None or not read:
            return []
        numbers = self._tuned.calibrated(np.array([one.score for one in read]), np.array([one.logit for one in read]))
        ends = zip(*(end.tolist() for end in calibration.intervals(numbers)), strict=True)
        return [
            {"id": one.id, "probability": one.probability, "interval": list(interval)}
            for one, interval in zip(read, ends, strict=True)
        ]


def _number(document: Document, field: str) -> float:
    return finite_number(document.meta[field], f"document {document.id!r}: meta[{field!r}]")


def read_tuned(path: str | Path) -> Tuned:
    """What `secondpass tune` wrote into a file, or into `tuned.json` of a folder.

    Raises:
        InvalidInput: it is not there, or is no such file.
    """
    file = Path(path) / FILE if Path(path).is_dir() else Path(path)
    try:
        page = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"tuned: {file} cannot be read ({error.strerror}); `secondpass tune` writes it") from error
    except (RecursionError, ValueError) as error:
        raise InvalidInput(f"tuned: {file} is no JSON: {error}") from error
    if not isinstance(page, dict):
        raise InvalidInput(f"tuned: {file} has a {type(page).__name__}, not what `secondpass tune` writes")
    return Tuned.from_dict(page, file)
