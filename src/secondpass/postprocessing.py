"""What rerankers of other frameworks have in common: options as pydantic takes them, texts in, ranked documents out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr

from secondpass.activations import IDENTITY, scaled
from secondpass.cascade import Cascade
from secondpass.cross_encoder import CrossEncoder
from secondpass.errors import InvalidInput
from secondpass.forwards.precision import Precision
from secondpass.inputs import PromptTemplate, Truncation
from secondpass.models.opened import SharedModel
from secondpass.ranking import Ranked, Ranking
from secondpass.reranker import Reranker
from secondpass.rescoring import open_reranker
from secondpass.score_cache import cache_named
from secondpass.text import checked_query
from secondpass.tracing import reranking
from secondpass.windows import Windows

__all__ = ["FACTS", "RerankOptions"]

logger = logging.getLogger(__name__)

# Of `CrossEncoder`: what says which model it is. Others run code or pickles of a repository, so they are for whoever
# makes a CrossEncoder in Python.
ALLOWED = frozenset(
    {"revision", "cache_dir", "local_files_only", "template", "true_token", "false_token", "max_batch_tokens"}
)
# Of a model that is loaded here.
LOADING = ("device", "max_length", "precision", "keep", "model_kwargs", "score_cache", "calibration")
# What a copy of the options, or one that is assigned, needs another model for.
OF_THE_MODEL = frozenset({"model", "score_cache_mb", *LOADING})
# In the metadata of a document, what an earlier reranker may have left there too.
FACTS = ("probability", "probability_interval", "passage", "truncated", "nothing_relevant")
Count = Annotated[int, Field(gt=0, strict=True)]
File = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value)]


def _named(value: object) -> object:
    """A model as it is kept: a path as a str, and of a cascade's models a list."""
    if isinstance(value, (list, tuple)):
        names = [_named(one) for one in value]
        if not names or not all(isinstance(one, str) for one in names):
            raise ValueError("a list has names or folders: hand over a Cascade of models that are loaded")
        return names
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (Reranker, Cascade)) or (isinstance(value, str) and value.strip()):
        return value
    raise ValueError("is neither a name, a folder, a list of them, a CrossEncoder nor a Cascade")


@dataclass(frozen=True, slots=True)
class KeptDocument:
    """A document that was kept, by its place in the input: its score, and what else is known of it for its metadata.

    `score` is None where a budget left it unscored.
    """

    index: int
    score: float | None
    facts: dict[str, Any]


class RerankOptions(BaseModel):
    """How documents are reranked; the options are those of Haystack's `SecondPassRanker`, which explains each.

    Args:
        model: name or folder of a cross-encoder, a list of them for a cascade (the cheapest first), the file of a saved
            one, or a loaded `CrossEncoder` or `Cascade`.
        top_n: documents that come back; None: all.
        device, max_length, precision: of a model that is loaded here.
        model_kwargs: further arguments of `CrossEncoder` for it: revision, cache_dir, local_files_only, template,
            true_token, false_token, max_batch_tokens. An access token is read from the environment (HF_TOKEN).
        batch_size: documents scored together at most.
        truncation, windows: what is read of a document that is too long; "windows" reads it whole, by the arguments of
            `Windows` in `windows`, and its best one is its `passage`.
        max_documents: more are refused.
        query_prefix, query_suffix, document_prefix, document_suffix: what the operator writes around the texts.
        instruction: what the model is told to look for, where its template has a place for that.
        relevance: of a model with several labels, the label that documents are ranked by, or "expected".
        keep: documents that go on in a cascade.
        scale_score: scores between 0 and 1 (the model's own where it gives such, else the sigmoid); False gives logits.
        score_threshold: lower scores are left out.
        calibration: file that makes probabilities of scores; None takes the one in the model's folder.
        min_probability: less probable documents are left out.
        when_nothing_relevant: "drop" gives no document where the calibration says that none answers.
        budget_ms: milliseconds; what is not scored by then follows in the order given.
        score_cache, score_cache_mb: a file that keeps scores.
        raise_on_failure: False gives the documents back as they came when the model fails, with a warning in the log.

    Raises:
        ValidationError: an option is unknown or refused (pydantic's, a ValueError).
        ModelLoadError: the model cannot be had.
        InvalidInput: it does not take the options.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", protected_namespaces=())
    # What an error calls the documents.
    what: ClassVar[str] = "documents"

    model: Annotated[Any, BeforeValidator(_named)] = "secondpass/pocket"
    top_n: Count | None = 3
    device: str | None = None
    max_length: Count | None = None
    precision: Precision | None = None
    model_kwargs: dict[str, Any] | None = None
    batch_size: Count = 16
    truncation: Truncation | None = None
    windows: dict[str, Any] | None = None
    max_documents: Count | None = None
    query_prefix: str = ""
    query_suffix: str = ""
    document_prefix: str = ""
    document_suffix: str = ""
    instruction: str | None = None
    relevance: Annotated[int, Field(ge=0, strict=True)] | Literal["expected"] | None = None
    keep: Count | list[Count] | None = None
    scale_score: bool = True
    score_threshold: Annotated[float, Field(allow_inf_nan=False, strict=True)] | None = None
    calibration: File | None = None
    min_probability: Annotated[float, Field(ge=0, le=1, strict=True)] | None = None
    when_nothing_relevant: Literal["keep", "drop"] = "keep"
    budget_ms: Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)] | None = None
    score_cache: File | None = None
    score_cache_mb: Count = 256
    raise_on_failure: bool = True

    _shared: SharedModel = PrivateAttr(default_factory=SharedModel)

    def model_post_init(self, context: Any, /) -> None:
        """Refuse options that do not go together, load the model, and see whether it takes them.

        Not by a validator of the whole: pydantic asks that one after this method, when the model is loaded.
        """
        super().model_post_init(context)
        if self.windows is not None:
            if self.truncation != "windows":
                raise ValueError("windows is for truncation='windows'")
            try:
                Windows(**self.windows)
            except TypeError as error:
                raise ValueError(f"windows: {error}") from None
        unknown = sorted(set(self.model_kwargs or {}) - ALLOWED)
        if unknown:
            raise ValueError(f"model_kwargs: {', '.join(unknown)}: hand over a CrossEncoder that is loaded with it")
        if self.keep is not None and not isinstance(self.model, list):
            raise ValueError("keep is for a list of models")
        given = [name for name in LOADING if getattr(self, name) is not None]
        if given and isinstance(self.model, (Reranker, Cascade)):
            raise ValueError(f"{', '.join(given)}: the model is loaded already")
        with self._lent() as model:
            self._rankings(model, [], [])

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in OF_THE_MODEL:
            self._shared = SharedModel()

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy; it shares the loaded model unless the `update` is of what that depends on."""
        made = super().model_copy(update=update, deep=deep)
        if OF_THE_MODEL & set(update or ()):
            made._shared = SharedModel()
        return made

    def close(self) -> None:
        """Drop a model that was loaded here; the next call loads it again."""
        if not isinstance(self.model, (Reranker, Cascade)):
            self._shared.close()

    @property
    def model_name(self) -> str:
        """What events and spans call the model."""
        parts = self.model.models if isinstance(self.model, Cascade) else self.model
        names = parts if isinstance(parts, (list, tuple)) else [parts]
        return ",".join(one if isinstance(one, str) else one.name for one in names)

    def reranked(
        self,
        query: str,
        texts: Sequence[str],
        before: Sequence[int],
        ids: Sequence[str] | None = None,
        scores: Sequence[float | None] | None = None,
    ) -> list[KeptDocument] | None:
        """Rank texts.

        Args:
            query: what is asked.
            texts: as they are read.
            before: characters of each that stand in front of the document's content, and are no part of a passage.
            ids: of the documents, for spans.
            scores: that they came with, likewise.

        Returns:
            What is kept, best first; None where the model failed and `raise_on_failure` is off.

        Raises:
            InvalidInput: the query is blank, or there are too many documents.
            SecondPassError: what scoring raises.
        """
        if not texts:
            return []
        try:
            if self.max_documents is not None and len(texts) > self.max_documents:
                raise InvalidInput(f"{self.what} has {len(texts)}, more than max_documents={self.max_documents}")
            checked_query(query)
            with reranking() as span, self._lent() as model:
                span.asked(self.model_name, query, texts, top_k=self.top_n, ids=ids, scores=scores)
                (ranking,) = self._rankings(model, [query], [texts])
                kept = self._kept(ranking)
                span.answered([(one.index, one.score if one.scored else None) for one in kept])
        except Exception as error:
            if self.raise_on_failure:
                raise
            told = f"{type(error).__name__}: {error}"
            logger.warning("ranking failed (%s): %d %s are returned as they came", told, len(texts), self.what)
            return None
        cuts = {cut.index: cut for cut in ranking.truncated}
        made = []
        for one in kept:
            facts = _facts(one, texts[one.index], before[one.index])
            if one.index in cuts:
                facts["truncated"] = {name: value for name, value in asdict(cuts[one.index]).items() if name != "index"}
            if ranking.nothing_relevant is not None:
                facts["nothing_relevant"] = ranking.nothing_relevant
            made.append(KeptDocument(one.index, one.score if one.scored else None, facts))
        return made

    def _kept(self, ranking: Ranking) -> list[Ranked]:
        if ranking.nothing_relevant and self.when_nothing_relevant == "drop":
            return []
        least = self.score_threshold
        kept = [one for one in ranking.documents if least is None or not one.scored or one.score >= least]
        return kept[: self.top_n]

    def _rankings(self, model: Any, queries: Sequence[str], texts: Sequence[Sequence[str]]) -> list[Ranking]:
        """Rank the texts of queries; without any, only see whether the model takes the options."""
        around = PromptTemplate(self.query_prefix, self.query_suffix, self.document_prefix, self.document_suffix)
        activation: Any = IDENTITY
        if self.scale_score:
            activation = scaled(model.own_activation, model.num_labels, self.relevance)
        made: list[Ranking] = model.rank_many(
            queries,
            texts,
            batch_size=self.batch_size,
            show_progress_bar=False,
            activation_fct=activation,
            relevance=self.relevance,
            template=around,
            instruction=self.instruction,
            truncation=self.truncation if self.windows is None else Windows(**self.windows),
            budget_ms=self.budget_ms,
            min_probability=self.min_probability,
        )
        return made

    @contextmanager
    def _lent(self) -> Iterator[Any]:
        if isinstance(self.model, (Reranker, Cascade)):
            yield self.model
        else:
            with self._shared.lend(self._load) as model:
                yield model

    def _load(self) -> CrossEncoder | Cascade:
        options: dict[str, Any] = {"device": self.device, "precision": self.precision, **(self.model_kwargs or {})}
        names = self.model if isinstance(self.model, list) else [self.model]
        made = open_reranker(names, self.keep, self.max_length, **options)
        if self.calibration is not None:
            made.use_calibration(self.calibration)
        if self.score_cache is not None:
            made.use_score_cache(cache_named(self.score_cache, self.score_cache_mb))
        return made


def _facts(one: Ranked, text: str, before: int) -> dict[str, Any]:
    """What is known of a document beside its score."""
    facts: dict[str, Any] = {}
    if one.probability is not None and one.interval is not None:
        facts |= {"probability": one.probability, "probability_interval": list(one.interval)}
    if one.passage is not None:
        start, end = max(before, one.passage.start), max(before, one.passage.end)
        own = {"start": start - before, "end": end - before, "text": text[start:end]}
        facts["passage"] = {**own, "score": one.passage.score, "windows": one.passage.windows}
    return facts
