"""The Haystack component that re-orders documents. YAML names this module: its name is public API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from haystack import Document, component, logging
from haystack.utils import ComponentDevice, Secret
from haystack_integrations.common.secondpass import parameters
from haystack_integrations.common.secondpass.documents import Readable, TextLayout, deduplicated, listed
from haystack_integrations.common.secondpass.model_lifecycle import ModelLifecycle, from_dict, in_thread
from haystack_integrations.common.secondpass.parameters import REMOTE_CODE

from secondpass import CrossEncoder
from secondpass.activations import IDENTITY, scaled
from secondpass.calibration import least_of
from secondpass.errors import InvalidInput, NonFiniteScore
from secondpass.inputs import PromptTemplate, Truncation
from secondpass.ranking import Ranking, checked_relevance
from secondpass.text import checked, choice, is_blank
from secondpass.tracing import reranking
from secondpass.windows import Passage, Windows

if TYPE_CHECKING:
    from secondpass.cascade import Cascade

__all__ = ["SecondPassRanker"]

logger = logging.getLogger(__name__)

WHEN_NOTHING: tuple[Literal["keep", "drop"], ...] = ("keep", "drop")
OWN_TYPE = f"{__name__}.SecondPassRanker"
# The same component before and after it left Haystack for a package of its own.
STOCK_TYPES = (
    "haystack.components.rankers.sentence_transformers_similarity.SentenceTransformersSimilarityRanker",
    "haystack_integrations.components.rankers.sentence_transformers.sentence_transformers_similarity."
    "SentenceTransformersSimilarityRanker",
)


@dataclass(frozen=True, slots=True)
class RankLimits:
    """What one call keeps of its ranking, on which scale its scores are, and how many milliseconds it has."""

    top_k: int
    scale_score: bool
    threshold: float | None
    budget_ms: float | None
    least: float | None


@component
class SecondPassRanker(ModelLifecycle):
    """Ranks documents by their relevance to the query with a cross-encoder.

    A drop-in for `SentenceTransformersSimilarityRanker`: change only `type:` in its YAML. Besides the documents it
    tells whether a model ranked them and which of them were too long to be read wholly. One instance serves any
    number of threads and coroutines.

    ### Usage example

    ```python
    from haystack import Document
    from haystack_integrations.components.rankers.secondpass import SecondPassRanker

    ranker = SecondPassRanker(top_k=2)
    documents = [
        Document(content="Berlin is a city in Germany."),
        Document(content="Paris is the capital of France."),
        Document(content="Bread is made of flour and water."),
    ]
    result = ranker.run(query="What is the capital of France?", documents=documents)
    for document in result["documents"]:
        print(f"{document.score:.3f}", document.content)
    ```
    """

    def __init__(
        self,
        *,
        model: str | Path | list[str] = "secondpass/pocket",
        device: ComponentDevice | str | None = None,
        token: Secret | None = Secret.from_env_var(["HF_API_TOKEN", "HF_TOKEN"], strict=False),
        top_k: int = 10,
        query_prefix: str = "",
        query_suffix: str = "",
        document_prefix: str = "",
        document_suffix: str = "",
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        scale_score: bool = True,
        score_threshold: float | None = None,
        trust_remote_code: bool = False,
        model_kwargs: dict[str, Any] | None = None,
        tokenizer_kwargs: dict[str, Any] | None = None,
        config_kwargs: dict[str, Any] | None = None,
        backend: Literal["torch", "onnx", "openvino"] = "torch",
        batch_size: int = 16,
        truncation: Literal["longest_first", "only_document", "error", "windows"] | None = None,
        max_documents: int | None = None,
        raise_on_failure: bool = True,
        precision: Literal["auto", "fp32", "bf16", "int16", "int8"] | None = None,
        relevance: int | Literal["expected"] | None = None,
        instruction: str | None = None,
        keep: int | list[int] | str | Path | None = None,
        windows: dict[str, Any] | None = None,
        budget_ms: float | None = None,
        score_cache: str | Path | None = None,
        score_cache_mb: int = 256,
        calibration: str | Path | None = None,
        min_probability: float | None = None,
        when_nothing_relevant: Literal["keep", "drop"] = "keep",
    ) -> None:
        """Check and keep the parameters; the model is loaded by `warm_up` or the first `run`.

        :param model: A local folder or the Hugging Face name of a cross-encoder, as safetensors; one with several
            labels needs `relevance`. The default comes with the package and needs no network. A list of two or more is
            a cascade, the cheapest first: each model ranks the best documents of the one before it.
        :param device: The device to compute on, as a `ComponentDevice` or a name such as "cuda:0". If `None`, the
            default device of the machine that loads the model; a dumped pipeline then does not name one.
        :param token: The token for private models of the Hugging Face Hub, read from the environment.
        :param top_k: The maximum number of documents to return per query.
        :param query_prefix: Text put before the query, for models that were trained with an instruction or a chat
            template. Special tokens in the prefixes and suffixes are special (in queries and documents they are text),
            and the four are read whole however long the texts are.
        :param query_suffix: Text put after the query.
        :param document_prefix: Text put before each document.
        :param document_suffix: Text put after each document.
        :param meta_fields_to_embed: Meta fields whose values are put before the content. `None` values and missing
            fields are left out.
        :param embedding_separator: Text between the meta values and the content. It is cut with the document, and
            special tokens in it are text.
        :param scale_score: If `True`, scores are between 0 and 1: the model's own where its activation gives such, else
            the sigmoid of the logit; with several labels the probability of the label, or the expected grade as a share
            of the highest. If `False`, the logits (with several labels the label's log-odds, or the expected grade).
        :param score_threshold: Return only documents with at least this score. Applied before `top_k`.
        :param trust_remote_code: Must be `False`: a pipeline file cannot switch on code from a model's repository. In
            Python, `secondpass.CrossEncoder(..., trust_remote_code=True)` can.
        :param model_kwargs: Arguments for loading the weights. Allowed: attn_implementation, cache_dir, device_map,
            dtype, false_token, local_files_only, revision, template, torch_dtype, true_token, use_safetensors (only
            `True`), variant. `secondpass.CrossEncoder` explains template, true_token and false_token. A revision, cache
            directory or local_files_only stated in one of the three dictionaries holds for all files of the model.
        :param tokenizer_kwargs: Arguments for loading the tokenizer. Allowed: add_prefix_space, cache_dir,
            do_lower_case, local_files_only, model_max_length, pad_token, padding_side, revision, strip_accents,
            tokenize_chinese_chars, truncation_side, use_fast (only `True`).
        :param config_kwargs: Changes of the model's configuration. Allowed: attention_probs_dropout_prob, cache_dir,
            classifier_dropout, hidden_dropout_prob, local_files_only, max_position_embeddings, num_labels (only 1: a
            checkpoint keeps the labels it has), revision.
        :param backend: Must be "torch".
        :param batch_size: The most documents in one forward pass. Long documents go in smaller batches.
        :param truncation: What to do with a query and document that are together too long for the model:
            "longest_first" cuts the longer of the two, "only_document" cuts the document (the query only beyond half
            the window), "error" refuses the call, "windows" reads a long document whole, in pieces that fit: the best
            one is its `passage` and decides. If `None`, "longest_first", and "only_document" for a model with a
            template of its own.
        :param max_documents: Refuse calls with more documents than this. If `None`, there is no limit.
        :param raise_on_failure: If `False`, a failure of the model returns all given documents in the given order with
            the given scores, `score_threshold` and `top_k` not applied, `reranked` `False`, and logs a warning.
        :param precision: "fp32" is exact; "bf16", and on CPUs "int16" and "int8", are faster and less exact; "auto" is
            float32, or bfloat16 or "int16" where that is faster and the model's own scores agree. If `None`, what the
            model recommends (the default model: "auto"), else "fp32", or "auto" for weights loaded in a half type.
        :param relevance: For a model with several labels, what documents are ranked by: the index of the label that
            means "relevant" (1 for the usual two labels), or "expected" for the expected grade, labels taken as the
            grades 0, 1, 2, ... Without it, a model with several labels is refused when it is loaded.
        :param instruction: What the model is told to look for, for models whose own template has a place for that
            (Qwen3-Reranker, mxbai-rerank-v2); others are refused when they are loaded. Special tokens in it are text.
            Prefixes and suffixes stand inside that template, next to the query and the documents.
        :param keep: Of a cascade, how many documents go on from each model to the next: one number for all steps or one
            for each, or the file that `secondpass.Cascade.save` wrote, for the rule and the windows in it, and for its
            instruction where `instruction` is `None`. If `None`, 100.
        :param windows: With `truncation="windows"`, how documents are read. Allowed: tokens (of a document in a
            window), overlap (of two windows, in tokens), most (windows of a document), aggregate ("max", or how many
            best windows the mean is of), borders ("sentences", "words"), select ("first", or "bm25" for the windows
            that share most with the query where there are more than `most`). `secondpass.windows.Windows` explains
            them. If `None`, windows as large as fit, all of them, and the best one counts.
        :param budget_ms: Milliseconds that the model may rank for, loading not counted. When they are over, what it
            has scored by then is ranked, and the other documents follow in the given order. It is late by one batch at
            most, and scores one batch in any case. If `None`, all documents are scored.
        :param score_cache: A file that keeps scores, so that a document is scored once for a query, also by other
            processes and after a restart. It is made where there is none, and is right after a change of the model
            or of any parameter. Components of a process that name the same file share it. ":memory:" is no file: it
            is kept as long as one of them has its model.
        :param score_cache_mb: The most megabytes (2**20 bytes) that it takes; the scores that were used longest ago
            make room.
        :param calibration: The file that `secondpass.calibration.Calibration.save` wrote, which makes probabilities of
            the model's scores. If `None`, the one in the model's folder, if there is one. Of a cascade it is the last
            model's.
        :param min_probability: Return only documents that are relevant with at least this probability, for a model with
            a calibration; without one it is refused when it is loaded. Applied before `top_k`.
        :param when_nothing_relevant: What comes out where the model's calibration says that no document answers the
            query: "keep" gives the documents as always, "drop" gives none, so that what reads them has no answer. A
            model without a calibration never says so.

        :raises ValueError:
            If a parameter has a wrong type or value, with its name.
        """
        self._keep_source(model, device, token, model_kwargs, tokenizer_kwargs, config_kwargs)
        self._keep_scoring(truncation, precision, raise_on_failure, score_cache, score_cache_mb)
        self.keep = parameters.keep("keep", keep, self.model)
        self.windows = parameters.windows("windows", windows)
        if self.windows is not None and self.truncation != "windows":
            raise InvalidInput(f"windows is for truncation='windows', and truncation is {self.truncation!r}")
        self.top_k = parameters.positive("top_k", top_k)
        self.query_prefix = checked(query_prefix, "query_prefix")
        self.query_suffix = checked(query_suffix, "query_suffix")
        self.document_prefix = checked(document_prefix, "document_prefix")
        self.document_suffix = checked(document_suffix, "document_suffix")
        self.meta_fields_to_embed = parameters.field_names("meta_fields_to_embed", meta_fields_to_embed)
        self.embedding_separator = checked(embedding_separator, "embedding_separator")
        self.scale_score = parameters.flag("scale_score", scale_score)
        self.score_threshold = parameters.optional_number("score_threshold", score_threshold)
        self.trust_remote_code = parameters.flag("trust_remote_code", trust_remote_code)
        if trust_remote_code:
            raise InvalidInput(f"trust_remote_code=True is refused: {REMOTE_CODE}")
        self.backend = choice(backend, ("torch",), "backend")
        self.batch_size = parameters.positive("batch_size", batch_size)
        self.max_documents = parameters.optional_positive("max_documents", max_documents)
        self.relevance = parameters.relevance("relevance", relevance)
        self.instruction = None if instruction is None else checked(instruction, "instruction")
        self._keep_limits(budget_ms, calibration, min_probability, when_nothing_relevant)

    def _keep_limits(self, budget_ms: object, calibration: object, min_probability: object, nothing: object) -> None:
        self.budget_ms = parameters.optional_milliseconds("budget_ms", budget_ms)
        self.calibration = parameters.optional_path("calibration", calibration)
        self.min_probability = parameters.optional_share("min_probability", min_probability)
        self.when_nothing_relevant = choice(nothing, WHEN_NOTHING, "when_nothing_relevant")

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SecondPassRanker:
        """Deserialize the component from a dictionary.

        :param data: The dictionary that `to_dict` made; that of a `SentenceTransformersSimilarityRanker` fits too.
        :returns:
            The component.

        :raises ValueError:
            If a parameter has a wrong type or value, with its name.
        """
        if data.get("type") in STOCK_TYPES:
            data = {**data, "type": OWN_TYPE}
        return from_dict(cls, data)

    @component.output_types(
        documents=list[Document],
        truncated=list[dict[str, Any]],
        reranked=bool,
        passages=list[dict[str, Any]],
        complete=bool,
        unscored=int,
        probabilities=list[dict[str, Any]],
        nothing_relevant=bool | None,
    )
    def run(
        self,
        *,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        scale_score: bool | None = None,
        score_threshold: float | None = None,
        instruction: str | None = None,
        budget_ms: float | None = None,
        min_probability: float | None = None,
    ) -> dict[str, Any]:
        """Order the documents by their relevance to the query.

        Of documents with the same id only the one with the highest score is ranked. Documents without any text are
        not ranked: they come last, without a score, or not at all if there is a threshold. Documents that a budget
        left unscored come before those, in the given order and without a score; a threshold says nothing about them
        and leaves them there. If the query is blank, the documents come back as they were given, each id once.

        :param query: What the documents are to answer.
        :param documents: The documents to rank. They are not changed.
        :param top_k: The maximum number of documents to return. `None` takes the value given at initialization.
        :param scale_score: If `True`, scores are between 0 and 1. If `False`, scores are the logits. `None` takes the
            value given at initialization.
        :param score_threshold: Return only documents with at least this score. `None` takes the value given at
            initialization.
        :param instruction: What the model is told to look for. `None` takes the value given at initialization.
        :param budget_ms: Milliseconds that the model may rank for. `None` takes the value given at initialization.
        :param min_probability: Return only documents that are relevant with at least this probability. `None` takes the
            value given at initialization.
        :returns:
            A dictionary with the following keys:
            - `documents`: The documents, most relevant first, with their new scores.
            - `truncated`: One dictionary for each ranked document that was too long together with the query, in the
              order they were given: its `id`, the `query_tokens` and `document_tokens` that were not read, and
              `characters` that were not even counted as tokens.
            - `reranked`: Whether a model made the order. `False` if there was nothing to rank, if the query is blank,
              or after a failure with `raise_on_failure=False`.
            - `passages`: With `truncation="windows"`, one dictionary for each of `documents` that was scored, in their
              order: its `id`, the best window's `text`, `start`, `end` (characters of the document's content) and
              `score`, and how many `windows` were read. What a window reads of the meta fields in front of the content
              is no part of it: such a passage starts at 0.
            - `complete`: Whether every document with text was scored.
            - `unscored`: How many were not: those that a budget left, or all if `reranked` is `False`.
            - `probabilities`: With a calibration, one dictionary for each of `documents` that was scored, in their
              order: its `id`, the `probability` that it is relevant, and its `interval`, two numbers. Of a cascade
              those have one that the last model scored.
            - `nothing_relevant`: Whether no document answers the query, by the model's calibration; `None` if it has no
              rule for that, or if a budget left documents that nobody has read.

        :raises ValueError:
            If an argument has a wrong type or value, with its name and index.
        """
        given = listed(documents)
        if not given:
            return _outputs([])
        limits = self._limits(top_k, scale_score, score_threshold, budget_ms, min_probability)
        asked = checked(query, "query")
        wish = None if instruction is None else checked(instruction, "instruction")
        unique = deduplicated(given)
        if is_blank(asked):
            logger.warning("The query is blank: {count} documents are returned unranked.", count=len(unique))
            return self._unranked(unique, unique)
        try:
            return self._reranked(asked, unique, limits, wish)
        except Exception as error:
            if self.raise_on_failure:
                raise
            kind, count = type(error).__name__, len(given)
            line = "Ranking failed ({kind}: {error}): {count} documents are returned as they were given."
            logger.warning(line, kind=kind, error=error, count=count)
            return self._unranked(given, unique)

    run_async = in_thread(run)

    @property
    def layout(self) -> TextLayout:
        """How a document becomes the text that is read."""
        return TextLayout(self.meta_fields_to_embed, self.embedding_separator)

    def has_answer_rule(self) -> bool:
        """Whether the model, which is loaded for that, has a calibration that says when no document answers."""
        with self.lent_model() as model:
            return model.calibration is not None and model.calibration.answers is not None

    def _cut(self) -> Truncation | Windows | None:
        return self.truncation if self.windows is None else Windows(**self.windows)

    def _load(self) -> CrossEncoder | Cascade:
        made: CrossEncoder | Cascade
        made = self._opened(self.model, self.instruction) if isinstance(self.model, str) else self._cascade(self.model)
        models = (made,) if isinstance(made, CrossEncoder) else made.models
        told = [model for model in models if model.num_labels > 1]
        if self.relevance is not None and not told:
            told = [models[-1]]
        for model in told:
            checked_relevance(self.relevance, model.num_labels)
        if self.relevance == "expected" and len({model.num_labels for model in models}) > 1:
            raise InvalidInput("relevance='expected' is on another scale where models have other numbers of labels")
        if self.calibration is not None:
            made.use_calibration(self.calibration)
        least_of(made.calibration, self.min_probability)
        return made

    def _cascade(self, names: Sequence[str]) -> Cascade:
        """Models one after the other, with a file's rule in the windows that it was measured with."""
        from secondpass.cascade import Cascade

        cache, options = self._cache(), {"instruction": self.instruction, **self._arguments()}
        if isinstance(self.keep, str):
            made = Cascade.load(self.keep, names, **options)
        else:
            made = Cascade(names, 100 if self.keep is None else self.keep, **options)
        made.use_score_cache(cache)
        return made

    def _limits(
        self, top_k: object, scale_score: object, score_threshold: object, budget_ms: object, least: object
    ) -> RankLimits:
        """Take what this call states, else what the component states; 0, 0.0 and False are statements."""
        return RankLimits(
            self.top_k if top_k is None else parameters.positive("top_k", top_k),
            self.scale_score if scale_score is None else parameters.flag("scale_score", scale_score),
            self.score_threshold
            if score_threshold is None
            else parameters.optional_number("score_threshold", score_threshold),
            self.budget_ms if budget_ms is None else parameters.optional_milliseconds("budget_ms", budget_ms),
            self.min_probability if least is None else parameters.optional_share("min_probability", least),
        )

    def _unranked(self, documents: Sequence[Document], unique: Sequence[Document]) -> dict[str, Any]:
        return _outputs(documents, unscored=sum(map(self.layout.has_text, unique)))

    def _reranked(
        self, query: str, documents: Sequence[Document], limits: RankLimits, instruction: str | None
    ) -> dict[str, Any]:
        """Rank unique documents; those without text come last. A model is lent only when there is something to read."""
        if self.max_documents is not None and len(documents) > self.max_documents:
            raise InvalidInput(
                f"documents has {len(documents)} different ids, more than max_documents={self.max_documents}"
            )
        readable = self.layout.split(documents)
        if readable.blank:
            blank, count = len(readable.blank), len(documents)
            logger.warning("{blank} of {count} documents have no text and are not ranked.", blank=blank, count=count)
        if not readable.documents:
            return _outputs(_kept([], readable.blank, limits))
        name = self.model if isinstance(self.model, str) else ",".join(self.model)
        ids, scores = [one.id for one in readable.documents], [one.score for one in readable.documents]
        with reranking() as span:
            span.asked(name, query, readable.texts, top_k=limits.top_k, ids=ids, scores=scores)
            ranking = self._ranking(query, readable, limits, instruction)
            ranked = [
                replace(readable.documents[item.index], score=item.score if item.scored else None)
                for item in ranking.documents
            ]
            is_dropped = ranking.nothing_relevant and self.when_nothing_relevant == "drop"
            kept = [] if is_dropped else _kept(ranked, readable.blank, limits)
            found = {readable.documents[item.index].id: item for item in ranking.documents}
            span.answered([(found[one.id].index, one.score) for one in kept if one.id in found])
        truncated = []
        for cut in ranking.truncated:
            lost = asdict(cut)
            truncated.append({"id": readable.documents[lost.pop("index")].id, **lost})
        best = [(document, found[document.id]) for document in kept if document.id in found]
        passages = [self._told(document, item.passage) for document, item in best]
        there = [passage for passage in passages if passage is not None]
        probabilities = [
            {"id": document.id, "probability": item.probability, "interval": list(item.interval)}
            for document, item in best
            if item.probability is not None and item.interval is not None
        ]
        return _outputs(kept, truncated, True, there, ranking.unscored, probabilities, ranking.nothing_relevant)

    def _told(self, document: Document, passage: Passage | None) -> dict[str, Any] | None:
        if passage is None:
            return None
        start, end = self.layout.place(document, passage.start, passage.end)
        own = {"start": start, "end": end, "score": passage.score, "windows": passage.windows}
        return {"id": document.id, "text": (document.content or "")[start:end], **own}

    def _ranking(self, query: str, readable: Readable, limits: RankLimits, instruction: str | None) -> Ranking:
        ranking: Ranking
        try:
            with self.lent_model() as encoder:
                (ranking,) = encoder.rank_many(
                    [query],
                    [readable.texts],
                    batch_size=self.batch_size,
                    show_progress_bar=False,
                    activation_fct=scaled(encoder.own_activation, encoder.num_labels, self.relevance)
                    if limits.scale_score
                    else IDENTITY,
                    relevance=self.relevance,
                    template=PromptTemplate(
                        self.query_prefix, self.query_suffix, self.document_prefix, self.document_suffix
                    ),
                    instruction=instruction,
                    budget_ms=limits.budget_ms,
                    min_probability=limits.least,
                )
        except NonFiniteScore as error:
            ids = ", ".join(repr(readable.documents[index].id) for index in error.indices)
            raise NonFiniteScore(f"the model gave no finite score for the documents {ids}", error.indices) from error
        everything = sorted(item.index for item in ranking.documents) == list(range(len(readable.documents)))
        if limits.least is None and not everything:
            raise RuntimeError(f"{len(ranking.documents)} scores for {len(readable.documents)} documents")
        return ranking


def _outputs(
    documents: Sequence[Document],
    truncated: Sequence[dict[str, Any]] = (),
    reranked: bool = False,
    passages: Sequence[dict[str, Any]] = (),
    unscored: int = 0,
    probabilities: Sequence[dict[str, Any]] = (),
    nothing_relevant: bool | None = None,
) -> dict[str, Any]:
    """The outputs of a ranker; without further arguments, of one that ranked nothing."""
    return {
        "documents": list(documents),
        "truncated": list(truncated),
        "reranked": reranked,
        "passages": list(passages),
        "complete": not unscored,
        "unscored": unscored,
        "probabilities": list(probabilities),
        "nothing_relevant": nothing_relevant,
    }


def _kept(ranked: Sequence[Document], blank: Sequence[Document], limits: RankLimits) -> list[Document]:
    """Apply the threshold, then `top_k`; blank documents reach no threshold, and it says nothing of unscored ones."""
    kept = list(ranked)
    if limits.threshold is not None:
        kept = [document for document in ranked if document.score is None or document.score >= limits.threshold]
    elif limits.least is None:
        kept += (replace(document, score=None) for document in blank)
    return kept[: limits.top_k]
