"""The Haystack component that answers with sentences of documents. YAML names this module: its name is public API."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from haystack import Document, ExtractedAnswer, component
from haystack.utils import ComponentDevice, Secret
from haystack_integrations.common.secondpass import parameters
from haystack_integrations.common.secondpass.documents import deduplicated, listed
from haystack_integrations.common.secondpass.model_lifecycle import ModelLifecycle, in_thread

from secondpass.extraction import Extract, extract
from secondpass.text import checked, is_blank
from secondpass.windows import Windows

__all__ = ["SentenceReader"]


@component
class SentenceReader(ModelLifecycle):
    """Finds the sentences of the documents that answer the query, with a cross-encoder.

    It takes the place of prompt builder and generator where an answer must be a quotation, or where there is no model
    to generate one.

    ### Usage example

    ```python
    from haystack import Document
    from haystack_integrations.components.readers.secondpass import SentenceReader

    reader = SentenceReader(top_k=1)
    documents = [Document(content="Berlin is the capital of Germany. It had 3.7 million inhabitants in 2023.")]
    result = reader.run(query="how many people live in Berlin", documents=documents)
    print(result["replies"][0])
    ```
    """

    def __init__(
        self,
        *,
        model: str | Path = "secondpass/pocket",
        device: ComponentDevice | str | None = None,
        token: Secret | None = Secret.from_env_var(["HF_API_TOKEN", "HF_TOKEN"], strict=False),
        top_k: int = 3,
        per_document: int | None = None,
        score_threshold: float | None = None,
        max_sentences: int = 2000,
        model_kwargs: dict[str, Any] | None = None,
        tokenizer_kwargs: dict[str, Any] | None = None,
        config_kwargs: dict[str, Any] | None = None,
        truncation: Literal["longest_first", "only_document", "error", "windows"] | None = None,
        raise_on_failure: bool = True,
        precision: Literal["auto", "fp32", "bf16", "int16", "int8"] | None = None,
        windows: dict[str, Any] | None = None,
        score_cache: str | Path | None = None,
        score_cache_mb: int = 256,
    ) -> None:
        """Check and keep the parameters; the model is loaded by `warm_up` or the first `run`.

        :param model: A local folder or the Hugging Face name of a cross-encoder with one label, as safetensors. The
            default comes with the package and needs no network.
        :param device: The device to compute on, as a `ComponentDevice` or a name such as "cuda:0". If `None`, the
            default device of the machine that loads the model.
        :param token: The token for private models of the Hugging Face Hub, read from the environment.
        :param top_k: The maximum number of sentences to return.
        :param per_document: The maximum number of sentences of one document. If `None`, there is no limit.
        :param score_threshold: Return only sentences with at least this score.
        :param max_sentences: Refuse documents that have more sentences than this.
        :param model_kwargs: Arguments for loading the weights, as `SecondPassRanker` takes them.
        :param tokenizer_kwargs: Arguments for loading the tokenizer, as `SecondPassRanker` takes them.
        :param config_kwargs: Changes of the model's configuration, as `SecondPassRanker` takes them.
        :param truncation: What to do with a query and sentence that are together too long for the model, as
            `SecondPassRanker` takes it.
        :param raise_on_failure: If `False`, a failed load of the model in `warm_up` is logged and tried again at the
            next run. A failed run always raises: there is no answer to fall back on.
        :param precision: How exactly to compute, as `SecondPassRanker` takes it.
        :param windows: Of long documents score windows first, and read sentences in the best of them alone (two windows
            for each sentence of `top_k`): how windows are made, as `SecondPassRanker` takes it, `{}` for as large as
            fit. If `None`, all sentences are read.
        :param score_cache: A file that keeps scores, as `SecondPassRanker` takes it.
        :param score_cache_mb: The most megabytes of disk that the file takes.

        :raises ValueError:
            If a parameter has a wrong type or value, with its name.
        """
        parameters.model_name("model", model)
        self._keep_source(model, device, token, model_kwargs, tokenizer_kwargs, config_kwargs)
        self._keep_scoring(truncation, precision, raise_on_failure, score_cache, score_cache_mb)
        self.windows = parameters.windows("windows", windows)
        self.top_k = parameters.positive("top_k", top_k)
        self.per_document = parameters.optional_positive("per_document", per_document)
        self.score_threshold = parameters.optional_number("score_threshold", score_threshold)
        self.max_sentences = parameters.positive("max_sentences", max_sentences)

    @component.output_types(answers=list[ExtractedAnswer], replies=list[str])
    def run(self, *, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, Any]:
        """Find the sentences that answer the query best.

        Only the content of the documents is read. The same sentence of two documents is that of the first. A blank
        query, no document or no text give no answer.

        :param query: What is asked.
        :param documents: The documents to take sentences from, most relevant first. They are not changed.
        :param top_k: The maximum number of sentences to return. `None` takes the value given at initialization.
        :returns:
            A dictionary with the following keys:
            - `answers`: The sentences, best first, each with its score, its document and its place in that document.
            - `replies`: The texts of the answers, where a generator's replies are wanted.

        :raises ValueError:
            If an argument has a wrong type or value, with its name and index, or there are too many sentences.
        """
        unique = deduplicated(listed(documents))
        limit = self.top_k if top_k is None else parameters.positive("top_k", top_k)
        asked = checked(query, "query")
        texts = [document.content or "" for document in unique]
        if is_blank(asked) or all(map(is_blank, texts)):
            return {"answers": [], "replies": []}
        with self.lent_model() as encoder:
            found = extract(
                encoder,
                asked,
                texts,
                top_k=limit,
                per_document=self.per_document,
                max_sentences=self.max_sentences,
                windows=None if self.windows is None else Windows(**self.windows),
            )
        answers = [
            _answer(asked, unique[item.document], item)
            for item in found.extracts
            if self.score_threshold is None or item.score >= self.score_threshold
        ]
        return {"answers": answers, "replies": [answer.data for answer in answers]}

    run_async = in_thread(run)


def _answer(query: str, document: Document, found: Extract) -> ExtractedAnswer:
    start, end = found.span.start, found.span.end
    return ExtractedAnswer(
        query=query,
        score=found.score,
        data=(document.content or "")[start:end],
        document=document,
        document_offset=ExtractedAnswer.Span(start, end),
    )
