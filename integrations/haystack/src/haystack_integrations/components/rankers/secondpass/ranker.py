"""The Haystack component that re-orders documents. YAML names this module: its name is public API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from haystack import Document, component, logging
from haystack.utils import ComponentDevice, Secret
from haystack_integrations.common.secondpass import parameters
from haystack_integrations.common.secondpass.documents import Readable, TextLayout, deduplicated, listed
from haystack_integrations.common.secondpass.model_lifecycle import ModelLifecycle, SharedModel, from_dict, in_thread
from haystack_integrations.common.secondpass.parameters import REMOTE_CODE, checked_arguments, engine_arguments

from secondpass import CrossEncoder
from secondpass.activations import IDENTITY, SIGMOID, Activation
from secondpass.errors import InvalidInput, NonFiniteScore
from secondpass.forwards.precision import PRECISIONS
from secondpass.inputs import TRUNCATIONS, PromptTemplate
from secondpass.ranking import Ranking, checked_relevance
from secondpass.text import is_blank

__all__ = ["SecondPassRanker"]

logger = logging.getLogger(__name__)

OWN_TYPE = f"{__name__}.SecondPassRanker"
# The same component before and after it left Haystack for a package of its own.
STOCK_TYPES = (
    "haystack.components.rankers.sentence_transformers_similarity.SentenceTransformersSimilarityRanker",
    "haystack_integrations.components.rankers.sentence_transformers.sentence_transformers_similarity."
    "SentenceTransformersSimilarityRanker",
)


@dataclass(frozen=True, slots=True)
class RankLimits:
    """What one call keeps of its ranking, and on which scale its scores are."""

    top_k: int
    scale_score: bool
    threshold: float | None


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
        model: str | Path = "secondpass/pocket",
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
        truncation: Literal["longest_first", "only_document", "error"] | None = None,
        max_documents: int | None = None,
        raise_on_failure: bool = True,
        precision: Literal["auto", "fp32", "bf16", "int8"] | None = None,
        relevance: int | Literal["expected"] | None = None,
        instruction: str | None = None,
    ) -> None:
        """Check and keep the parameters; the model is loaded by `warm_up` or the first `run`.

        :param model: A local folder or the Hugging Face name of a cross-encoder, as safetensors; one with several
            labels needs `relevance`. The default comes with the package and needs no network.
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
        :param scale_score: If `True`, scores are between 0 and 1 (sigmoid of the logit; with several labels the
            probability of the label, or the expected grade as a share of the highest). If `False`, scores are the
            logits (with several labels the log-odds of the label, or the expected grade).
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
            the window), "error" refuses the call. If `None`, "longest_first", and "only_document" for a model with a
            template of its own.
        :param max_documents: Refuse calls with more documents than this. If `None`, there is no limit.
        :param raise_on_failure: If `False`, a failure of the model returns all given documents in the given order with
            the given scores, `score_threshold` and `top_k` not applied, `reranked` `False`, and logs a warning.
        :param precision: "fp32" is exact; "bf16" and "int8" (CPU) are faster and less exact; "auto" is float32, or
            bfloat16 where that is faster and the model's own scores agree. If `None`, what the model recommends (the
            default model: "auto"), else "fp32", or "auto" for weights loaded in a half type.
        :param relevance: For a model with several labels, what documents are ranked by: the index of the label that
            means "relevant" (1 for the usual two labels), or "expected" for the expected grade, labels taken as the
            grades 0, 1, 2, ... Without it, a model with several labels is refused when it is loaded.
        :param instruction: What the model is told to look for, for models whose own template has a place for that
            (Qwen3-Reranker, mxbai-rerank-v2); others are refused when they are loaded. Special tokens in it are text.
            Prefixes and suffixes stand inside that template, next to the query and the documents.

        :raises ValueError:
            If a parameter has a wrong type or value, with its name.
        """
        self.model = parameters.model_name("model", model)
        self.device = parameters.device("device", device)
        self.token = parameters.secret("token", token)
        self.top_k = parameters.positive("top_k", top_k)
        self.query_prefix = parameters.text("query_prefix", query_prefix)
        self.query_suffix = parameters.text("query_suffix", query_suffix)
        self.document_prefix = parameters.text("document_prefix", document_prefix)
        self.document_suffix = parameters.text("document_suffix", document_suffix)
        self.meta_fields_to_embed = parameters.field_names("meta_fields_to_embed", meta_fields_to_embed)
        self.embedding_separator = parameters.text("embedding_separator", embedding_separator)
        self.scale_score = parameters.flag("scale_score", scale_score)
        self.score_threshold = parameters.optional_number("score_threshold", score_threshold)
        self.trust_remote_code = parameters.flag("trust_remote_code", trust_remote_code)
        if trust_remote_code:
            raise InvalidInput(f"trust_remote_code=True is refused: {REMOTE_CODE}")
        self.model_kwargs = checked_arguments("model_kwargs", model_kwargs)
        self.tokenizer_kwargs = checked_arguments("tokenizer_kwargs", tokenizer_kwargs)
        self.config_kwargs = checked_arguments("config_kwargs", config_kwargs)
        engine_arguments(self.model_kwargs, self.tokenizer_kwargs, self.config_kwargs)
        self.backend = parameters.choice("backend", backend, ("torch",))
        self.batch_size = parameters.positive("batch_size", batch_size)
        self.truncation = parameters.optional_choice("truncation", truncation, TRUNCATIONS)
        self.max_documents = parameters.optional_positive("max_documents", max_documents)
        self.raise_on_failure = parameters.flag("raise_on_failure", raise_on_failure)
        self.precision = parameters.optional_choice("precision", precision, PRECISIONS)
        self.relevance = parameters.relevance("relevance", relevance)
        self.instruction = None if instruction is None else parameters.text("instruction", instruction)
        self._shared = SharedModel()

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

    @component.output_types(documents=list[Document], truncated=list[dict[str, Any]], reranked=bool)
    def run(
        self,
        *,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        scale_score: bool | None = None,
        score_threshold: float | None = None,
        instruction: str | None = None,
    ) -> dict[str, Any]:
        """Order the documents by their relevance to the query.

        Of documents with the same id only the one with the highest score is ranked. Documents without any text are
        not ranked: they come last, without a score, or not at all if there is a threshold. If the query is blank,
        the documents come back as they were given, each id once.

        :param query: What the documents are to answer.
        :param documents: The documents to rank. They are not changed.
        :param top_k: The maximum number of documents to return. `None` takes the value given at initialization.
        :param scale_score: If `True`, scores are between 0 and 1. If `False`, scores are the logits. `None` takes the
            value given at initialization.
        :param score_threshold: Return only documents with at least this score. `None` takes the value given at
            initialization.
        :param instruction: What the model is told to look for. `None` takes the value given at initialization.
        :returns:
            A dictionary with the following keys:
            - `documents`: The documents, most relevant first, with their new scores.
            - `truncated`: One dictionary for each ranked document that was too long together with the query, in the
              order they were given: its `id`, the `query_tokens` and `document_tokens` that were not read, and
              `characters` that were not even counted as tokens.
            - `reranked`: Whether a model made the order. `False` if there was nothing to rank, if the query is blank,
              or after a failure with `raise_on_failure=False`.

        :raises ValueError:
            If an argument has a wrong type or value, with its name and index.
        """
        given = listed(documents)
        if not given:
            return _outputs([])
        limits = self._limits(top_k, scale_score, score_threshold)
        asked = parameters.text("query", query)
        wish = None if instruction is None else parameters.text("instruction", instruction)
        unique = deduplicated(given)
        if is_blank(asked):
            logger.warning("The query is blank: {count} documents are returned unranked.", count=len(unique))
            return _outputs(unique)
        try:
            return self._reranked(asked, unique, limits, wish)
        except Exception as error:
            if self.raise_on_failure:
                raise
            logger.warning(
                "Ranking failed ({kind}: {error}): {count} documents are returned as they were given.",
                kind=type(error).__name__,
                error=error,
                count=len(given),
            )
            return _outputs(given)

    run_async = in_thread(run)

    def _load(self) -> CrossEncoder:
        # By name: Haystack's decorator makes another class of this one, which `super()` would not know.
        encoder = ModelLifecycle._load(self)
        if encoder.num_labels > 1 or self.relevance is not None:
            checked_relevance(self.relevance, encoder.num_labels)
        return encoder

    def _limits(self, top_k: object, scale_score: object, score_threshold: object) -> RankLimits:
        """Take what this call states, else what the component states; 0, 0.0 and False are statements."""
        return RankLimits(
            self.top_k if top_k is None else parameters.positive("top_k", top_k),
            self.scale_score if scale_score is None else parameters.flag("scale_score", scale_score),
            self.score_threshold
            if score_threshold is None
            else parameters.optional_number("score_threshold", score_threshold),
        )

    def _reranked(
        self, query: str, documents: Sequence[Document], limits: RankLimits, instruction: str | None
    ) -> dict[str, Any]:
        """Rank unique documents; those without text come last. A model is lent only when there is something to read."""
        if self.max_documents is not None and len(documents) > self.max_documents:
            raise InvalidInput(
                f"documents has {len(documents)} different ids, more than max_documents={self.max_documents}"
            )
        readable = TextLayout(self.meta_fields_to_embed, self.embedding_separator).split(documents)
        if readable.blank:
            logger.warning(
                "{blank} of {count} documents have no text and are not ranked.",
                blank=len(readable.blank),
                count=len(documents),
            )
        if not readable.documents:
            return _outputs(_kept([], readable.blank, limits))
        ranking = self._ranking(query, readable, limits.scale_score, instruction)
        ranked = [replace(readable.documents[item.index], score=item.score) for item in ranking.documents]
        truncated = []
        for cut in ranking.truncated:
            lost = asdict(cut)
            truncated.append({"id": readable.documents[lost.pop("index")].id, **lost})
        return _outputs(_kept(ranked, readable.blank, limits), truncated, reranked=True)

    def _ranking(self, query: str, readable: Readable, scale_score: bool, instruction: str | None) -> Ranking:
        try:
            with self.lent_model() as encoder:
                (ranking,) = encoder.rank_many(
                    [query],
                    [readable.texts],
                    batch_size=self.batch_size,
                    show_progress_bar=False,
                    activation_fct=self._activation(encoder.num_labels) if scale_score else IDENTITY,
                    relevance=self.relevance,
                    template=PromptTemplate(
                        self.query_prefix, self.query_suffix, self.document_prefix, self.document_suffix
                    ),
                    instruction=instruction,
                )
        except NonFiniteScore as error:
            ids = ", ".join(repr(readable.documents[index].id) for index in error.indices)
            raise NonFiniteScore(f"the model gave no finite score for the documents {ids}", error.indices) from error
        if sorted(item.index for item in ranking.documents) != list(range(len(readable.documents))):
            raise RuntimeError(f"{len(ranking.documents)} scores for {len(readable.documents)} documents")
        return ranking

    def _activation(self, num_labels: int) -> Activation:
        """What makes scores between 0 and 1 of the logits, or of the expected grades from 0 to the last label's."""
        if self.relevance == "expected" and num_labels > 1:
            return lambda grades: grades / (num_labels - 1)
        return SIGMOID


def _outputs(
    documents: Sequence[Document], truncated: Sequence[dict[str, Any]] = (), reranked: bool = False
) -> dict[str, Any]:
    """The outputs of a ranker; without further arguments, of one that ranked nothing."""
    return {"documents": list(documents), "truncated": list(truncated), "reranked": reranked}


def _kept(ranked: Sequence[Document], blank: Sequence[Document], limits: RankLimits) -> list[Document]:
    """Apply the threshold, then `top_k`; a document without a score reaches no threshold."""
    if limits.threshold is None:
        kept = [*ranked, *(replace(document, score=None) for document in blank)]
    else:
        kept = [document for document in ranked if document.score is not None and document.score >= limits.threshold]
    return kept[: limits.top_k]
