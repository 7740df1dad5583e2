"""The front door: load, predict, rank, fit, save. Only wiring; the work is done by the stages behind it.

Keeps the public contract of sentence-transformers 3.4's `CrossEncoder` (docs/compatibility.md lists what
differs and why) and accepts the newer names of sentence-transformers 4 to 6 as keywords.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import numpy as np
import numpy.typing as npt

from secondpass import explanation
from secondpass.activations import Activation, default_activation
from secondpass.calibration import least_of
from secondpass.errors import InvalidInput
from secondpass.forwards.choosing import has_torch
from secondpass.forwards.precision import Precision, checked_precision
from secondpass.inputs import ModelTemplate, PromptTemplate, Truncation
from secondpass.keywords import (
    SCORING,
    AnyScoring,
    CallOptions,
    Construction,
    Newer,
    Scoring,
    accepts_construction,
    accepts_overloads,
    accepts_renamed,
    warn_of_overridden,
)
from secondpass.lazy import Later, optional
from secondpass.models.card import ModelCardData
from secondpass.models.identity import own_calibration
from secondpass.models.loading import LoadRequest, devices_of
from secondpass.models.stored import open_model
from secondpass.models.templates import published_activation
from secondpass.ranking import Ranking, Relevance, activated, by_label, checked_top_k, converted
from secondpass.record import CallRecord, CascadeRecord
from secondpass.reranker import Call, Reranker, until_of, warn_once
from secondpass.text import checked_query, columns_of, positive_int, whole_number
from secondpass.windows import Passage, Windows

if TYPE_CHECKING:
    import torch

    from secondpass import fit as fitting
    from secondpass.forwards.workers import Workers
    from secondpass.keywords import Devices
    from secondpass.models import saving


class CrossEncoder(Reranker):
    """A cross-encoder: reads each (query, document) pair together and gives it a score.

    One object may be used by any number of threads. Texts are never cut silently: `records` of a call tell
    which pairs lost how many tokens.

    Args:
        model_name: hub name or folder of a sequence-classification model, of a module chain or of a causal language
            model that reranks; "secondpass/pocket" is in the package.
        num_labels: size of the head; None takes the checkpoint's. Given explicitly, a missing head is made new.
        max_length: longest input in tokens; None takes what model and tokenizer allow.
        device: torch device, its name, a GPU's number; None takes the best. Several ("cpu,cpu", a list): `use_devices`.
        automodel_args: keyword arguments of `AutoModelForSequenceClassification.from_pretrained`.
        tokenizer_args: keyword arguments of `AutoTokenizer.from_pretrained`.
        config_args: keyword arguments of `AutoConfig.from_pretrained`.
        cache_dir: where downloads are kept.
        trust_remote_code: run code that comes with the model; never do that for a model you have not read.
        revision: branch, tag or commit on the hub; pin a commit.
        local_files_only: never touch the network.
        default_activation_function: applied to logits; None takes the stored one, else Sigmoid for one label.
        classifier_dropout: dropout in front of the head, for training.
        truncation: "longest_first" cuts the longer text, "only_document" spares the query, "error" refuses, "windows"
            or a `Windows` reads long documents whole, in several inputs; None is the first, and the second for a model
            with a template of its own.
        max_batch_tokens: tokens of one batch, padding too where the forward needs it; None takes what suits the device.
        max_documents: refuse calls with more documents than this; None has no limit.
        token: access token for private models; never logged.
        precision: "fp32" is exact. "bf16", and on CPUs "int16" and "int8", are faster and less exact. "auto" is
            float32, or bfloat16 or "int16" where that is faster and the model's own scores agree; half types stay so.
            None takes what config.json recommends ("secondpass/pocket": "auto"), else "fp32", of half types "auto".
        template: what the model was trained to read around its texts, where its folder does not say: the name of a
            published family ("qwen3-reranker", see `models/templates`), a text with "{query}", "{document}" and perhaps
            "{instruction}", or a template. A text spells its special tokens ("<s>", "[CLS]"): the tokenizer adds none.
        true_token: of a causal language model, the token whose logit is the score.
        false_token: one whose logit is taken off it.
        instruction: what the model is told to look for in calls that do not say it; stored with it as a prompt.

    Raises:
        ModelLoadError: the model cannot be had, is incomplete, or would run foreign code.
        InvalidInput: an argument is refused.
    """

    @overload
    def __init__(
        self,
        model_name: str,
        num_labels: int | None = None,
        max_length: int | None = None,
        device: Devices | None = None,
        automodel_args: dict[str, Any] | None = None,
        tokenizer_args: dict[str, Any] | None = None,
        config_args: dict[str, Any] | None = None,
        cache_dir: str | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        local_files_only: bool = False,
        default_activation_function: Activation | None = None,
        classifier_dropout: float | None = None,
        *,
        truncation: Truncation | Windows | None = None,
        max_batch_tokens: int | None = None,
        max_documents: int | None = None,
        token: str | None = None,
        precision: Precision | None = None,
        template: str | PromptTemplate | ModelTemplate | None = None,
        true_token: str | None = None,
        false_token: str | None = None,
        instruction: str | None = None,
    ) -> None: ...

    @overload
    def __init__(self, model_name_or_path: str, **options: Unpack[Construction]) -> None: ...

    @accepts_construction
    def __init__(
        self,
        model_name: str,
        num_labels: int | None = None,
        max_length: int | None = None,
        device: Devices | None = None,
        automodel_args: dict[str, Any] | None = None,
        tokenizer_args: dict[str, Any] | None = None,
        config_args: dict[str, Any] | None = None,
        cache_dir: str | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        local_files_only: bool = False,
        default_activation_function: Activation | None = None,
        classifier_dropout: float | None = None,
        *,
        truncation: Truncation | Windows | None = None,
        max_batch_tokens: int | None = None,
        max_documents: int | None = None,
        token: str | None = None,
        precision: Precision | None = None,
        template: str | PromptTemplate | ModelTemplate | None = None,
        true_token: str | None = None,
        false_token: str | None = None,
        instruction: str | None = None,
    ) -> None:
        if precision is not None:
            checked_precision(precision)
        devices = devices_of(device)
        loaded = open_model(
            LoadRequest(
                source=str(model_name),
                num_labels=num_labels,
                automodel_args=automodel_args or {},
                tokenizer_args=tokenizer_args or {},
                config_args=config_args or {},
                cache_dir=cache_dir,
                trust_remote_code=trust_remote_code,
                revision=revision,
                local_files_only=local_files_only,
                token=token,
                classifier_dropout=classifier_dropout,
                template=template,
                true_token=true_token,
                false_token=false_token,
                device=devices[0] if devices else None,
            )
        )
        published, own = published_activation(loaded.template), default_activation_function
        activation = default_activation(own, loaded.stored_activation, loaded.num_labels, trust_remote_code, published)
        super().__init__(
            loaded, activation, max_length, truncation, max_batch_tokens, max_documents, precision, instruction
        )
        self.use_devices(devices if len(devices) > 1 else None)
        self.best_score: float | None = None
        self.model_card_data = ModelCardData()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        warn_of_overridden(cls)

    @property
    def _target_device(self) -> torch.device:
        warnings.warn("_target_device is deprecated, use device", DeprecationWarning, stacklevel=2)
        return self.device

    @_target_device.setter
    def _target_device(self, device: str | torch.device | None) -> None:
        if device is not None:
            self.to(device)

    @overload
    def predict(self, sentences: tuple[str, ...] | list[str], **options: Unpack[AnyScoring]) -> Any: ...

    @overload
    def predict(
        self,
        sentences: Iterable[Any],
        *,
        convert_to_tensor: Literal[True],
        convert_to_numpy: bool = True,
        **options: Unpack[Scoring],
    ) -> torch.Tensor: ...

    @overload
    def predict(
        self,
        sentences: Iterable[Any],
        *,
        convert_to_numpy: Literal[False],
        convert_to_tensor: Literal[False] = False,
        **options: Unpack[Scoring],
    ) -> list[torch.Tensor]: ...

    @overload
    def predict(
        self,
        sentences: Iterable[Any],
        *,
        convert_to_numpy: Literal[True] = True,
        convert_to_tensor: Literal[False] = False,
        **options: Unpack[Scoring],
    ) -> npt.NDArray[np.float32]: ...

    @overload
    def predict(
        self,
        sentences: Iterable[Any],
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        num_workers: int = 0,
        activation_fct: Activation | None = None,
        apply_softmax: bool = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        **options: Unpack[CallOptions],
    ) -> Any: ...

    @overload
    def predict(self, *, inputs: Iterable[Any], **options: Unpack[AnyScoring]) -> Any: ...

    @accepts_overloads(SCORING)
    def predict(
        self,
        sentences: Iterable[Any],
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        num_workers: int = 0,
        activation_fct: Activation | None = None,
        apply_softmax: bool = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        instruction: str | None = None,
        pool: Workers | None = None,
        chunk_size: int | None = None,
        device: Devices | None = None,
        records: list[CallRecord] | None = None,
        truncation: Truncation | Windows | None = None,
    ) -> Any:
        """Score pairs of texts.

        Args:
            sentences: one pair, or any iterable of pairs; each is a list or tuple of one or two str.
            batch_size: upper bound of a batch: so many pairs, or where nothing is padded as many tokens as that many
                pairs of `max_length` have. Batches are made by tokens (`max_batch_tokens`).
            show_progress_bar: None shows it when this module logs at INFO or DEBUG.
            num_workers: accepted and without effect: tokenising is already parallel.
            activation_fct: applied to logits [pairs, labels]; None takes the model's.
            apply_softmax: after the activation, over the labels; without effect for one label.
            convert_to_numpy: return an array; else a list of tensors.
            convert_to_tensor: return one tensor on the model's device; wins over `convert_to_numpy`.
            prompt: put in front of each query (the first text) as it is, and part of it from then on; the instruction
                where the model's template has a place for one. "" is none. Without it, `prompt_name` and
                `instruction`, that of the stored `default_prompt_name` is taken.
            prompt_name: the same, by its name in `prompts`, which the model's folder may bring along.
            instruction: what the model is told to look for, plain text; for models with a place for it only.
            pool: what `start_multi_process_pool` gave; while there is one it computes without being named, too.
            chunk_size: accepted and without effect: batches go to whichever process is free.
            device: move the model there first, where it stays; None leaves it where it is. Several: `use_devices`.
            records: a list that gets this call's `CallRecord`.
            truncation: what is read of a pair that is too long; None takes the model's.

        Returns:
            float32 [pairs] for one label, else [pairs, labels]; without the first axis for a single pair.

        Raises:
            InvalidInput: no pairs of str; the message gives the index.
            NonFiniteScore: the model gave NaN or infinity.
            OutOfMemory: a pair alone does not fit.
        """
        columns, single = columns_of(sentences)
        self._prepare(num_workers, pool, chunk_size, device)
        before, wish = self._wish(prompt, prompt_name, instruction)
        columns[0] = [before + text for text in columns[0]]
        activation, num_labels = self._activation(activation_fct, None), self.num_labels
        call = Call(batch_size, show_progress_bar, ("", wish), truncation=truncation)
        if columns[0]:
            scored = self._score(columns, call)
            logits = scored.logits
            if records is not None:
                records.append(scored.record)
        else:
            self._planned(columns, call)
            logits = np.empty((0, num_labels), np.float32)
        scores = by_label(activated(logits, activation, apply_softmax), num_labels)
        result = converted(scores, self.device_name, convert_to_numpy, convert_to_tensor)
        return result[0] if single else result

    @accepts_renamed(SCORING)
    def rank(
        self,
        query: str,
        documents: Iterable[str],
        top_k: int | None = None,
        return_documents: bool = False,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        num_workers: int = 0,
        activation_fct: Activation | None = None,
        apply_softmax: bool = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        *,
        relevance: Relevance | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        instruction: str | None = None,
        pool: Workers | None = None,
        chunk_size: int | None = None,
        device: Devices | None = None,
        records: list[CallRecord] | None = None,
        truncation: Truncation | Windows | None = None,
        budget_ms: float | None = None,
        min_probability: float | None = None,
        **newer: Unpack[Newer],
    ) -> list[dict[str, Any]]:
        """Order documents by their score for a query, best first; blank ones last, with the lowest score.

        Arguments and errors are those of `predict` where nothing is said here. Texts are stripped. All documents are
        scored, `top_k` of them returned; None returns all. `return_documents` adds the document itself under "text".
        For a head with several labels `relevance` is the label to rank by, or "expected" (`ranking.relevance_logits`).
        `apply_softmax` is without effect: documents are ranked by one number.

        With a `budget_ms`, milliseconds from the call on, documents are scored in the order given while there is time,
        the first of them in any case unless other threads have the model for so long; the others follow in that order
        with the lowest score, and "scored" False. With a calibration (`use_calibration`, or stored with the model) each
        has its "probability" (and "probability_interval"), and `min_probability` leaves out what has a lower one.

        Returns:
            Dicts with "corpus_id" (index into `documents`), "score" (a float, which JSON takes; a scalar tensor for
            `convert_to_tensor` or without `convert_to_numpy`) and perhaps "text"; with a budget "scored"; where
            documents are read in windows "passage": the best window's "start" and "end" in the document, "score",
            "windows" (how many were read) and perhaps "text".
        """
        until = until_of(budget_ms)
        least = None if min_probability is None else least_of(self.calibration, min_probability)
        texts = self._checked_documents(documents, "documents")
        asked = checked_query(query).strip()
        rule = self._rule(relevance)
        checked_top_k(top_k)
        self._prepare(num_workers, pool, chunk_size, device)
        wish, stripped = self._wish(prompt, prompt_name, instruction), [text.strip() for text in texts]
        call = Call(batch_size, show_progress_bar, wish, None, truncation, until, least)
        (ranking,) = self._ranked([asked], [stripped], ["query"], top_k, activation_fct, rule, call)
        if not texts:
            return []
        hits = hits_of(ranking, texts, return_documents, until is not None)
        if convert_to_tensor or not convert_to_numpy:
            torch = optional("torch", "torch, which scores as tensors need,", "torch")
            for hit, value in zip(hits, torch.tensor([hit["score"] for hit in hits]).to(self.device), strict=True):
                hit["score"] = value
        if records is not None:
            records.append(ranking.record)
        return hits

    def _prepare(self, workers: object, pool: Workers | None, chunk_size: int | None, device: Devices | None) -> None:
        """Check what only says how, and move the model."""
        whole_number(workers, "num_workers")  # in the newer order an activation stands in its place
        if pool is not None and pool is not self.engine().workers:
            raise InvalidInput("pool is not what this model's start_multi_process_pool gave last, or has been stopped")
        if chunk_size is not None:
            positive_int(chunk_size, "chunk_size")
        if device is not None:
            self.use_devices(device)

    # The functions' first argument is the encoder: as attributes of the class they are methods.
    explain = explanation.explain
    if TYPE_CHECKING:
        fit = fitting.fit
        export_onnx = saving.export_onnx
    else:
        fit = Later("secondpass.fit", "fit", "training", "train")
        export_onnx = Later("secondpass.models.saving", "export_onnx", "writing ONNX", "onnx")

    def collate(self, texts: Sequence[Sequence[str]]) -> dict[str, torch.Tensor]:
        """Model inputs int64 [examples, width] on the device for [query, document] lists, as `predict` makes them."""
        self._built("inputs are tensors")
        from secondpass.forwards.padded import pad

        columns, _ = columns_of(texts)
        before, wish = self._wish()
        columns[0] = [before + text for text in columns[0]]
        window = self._window(len(texts), None, None, wish)
        tokens = self.engine().tokens(columns, window)
        if any(item.cut is not None or item.others for item in tokens):
            warn_once(f"training examples beyond {window.max_length} tokens are cut to it")
        return pad(tokens, self.padding).named(self.tokenizer.model_input_names, self.device)

    def save(
        self, path: str, *, safe_serialization: bool = True, storage: Literal["int8"] | None = None, **kwargs: Any
    ) -> None:
        """Write model, tokenizer and activation to a folder that every generation of the library reads.

        With `storage="int8"` the weights take a quarter of float32's size and are read by secondpass alone, see
        `models.saving.save`. Where evaluators left figures in `model_card_data`, README.md tells them. Without torch
        the files of the model are copied that it was loaded from; what was set otherwise since cannot be written then.
        """
        self.engine()
        settings = {"card": self.model_card_data.text(), **self.stored_settings()}
        asked: dict[str, Any] = {"safe_serialization": safe_serialization, "storage": storage, **kwargs}
        limit = None if self.max_length is None else self.window
        if not has_torch() and self._copied(path, self.own_activation, limit, settings, asked):
            return
        self._built("saving a model otherwise than as the files that it was loaded from")
        if self.tokenizer_changed:
            warn_once(f"{path}: the tokenizer is saved as it is now; load it from there, here texts are read as before")
        from secondpass.models import saving

        saving.save(path, self.model, self.tokenizer, self.default_activation_function, limit, **settings, **asked)

    def stored_settings(self) -> dict[str, Any]:
        """What stands beside the weights, as `models.saving.save` takes it: prompts, a template, the longest input."""
        calibration = None if self.calibration is None else own_calibration(self)
        own: dict[str, Any] = {"prompts": self.prompts, "default_prompt": self.default_prompt_name}
        settings = self._transformer_settings
        own |= {"transformer_settings": settings, "template": None if settings else self.template}
        return {**own, "calibration": calibration, "input_limit": self._open().token_limit}

    def save_pretrained(self, path: str, *, safe_serialization: bool = True, **kwargs: Any) -> None:
        """The same as `save`."""
        self.save(path, safe_serialization=safe_serialization, **kwargs)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool | None = None,
        safe_serialization: bool = True,
        tags: list[str] | str | None = None,
        **kwargs: Any,
    ) -> str:
        """Upload what `save` writes, "cross-encoder" in front of the tags; returns the address of the commit."""
        if not safe_serialization:
            raise InvalidInput("safe_serialization=False would write pickle files: only safetensors are written")
        given = [tags] if isinstance(tags, str) else list(tags or ())
        tags = ["cross-encoder", *(tag for tag in given if tag != "cross-encoder")]
        self._built("saving a model")
        from secondpass.models import saving

        return saving.upload(self, repo_id, commit_message=commit_message, private=private, tags=tags, **kwargs)


def hits_of(ranking: Ranking, texts: Sequence[str], with_texts: bool, budgeted: bool) -> list[dict[str, Any]]:
    """What `rank` gives of a ranking of stripped `texts`."""
    hits: list[dict[str, Any]] = []
    for one in ranking.documents:
        hit: dict[str, Any] = {"corpus_id": one.index, "score": one.score}
        if with_texts:
            hit["text"] = texts[one.index]
        if one.probability is not None:
            hit |= {"probability": one.probability, "probability_interval": one.interval}
        if budgeted:
            hit["scored"] = one.scored
        if one.passage is not None:
            hit["passage"] = _told(one.passage, texts[one.index], with_texts)
        if isinstance(ranking.record, CascadeRecord):
            hit["stage"] = one.stage
        hits.append(hit)
    return hits


def _told(passage: Passage, document: str, with_text: bool) -> dict[str, Any]:
    """A passage of a stripped text in terms of the text that was given."""
    blanks = len(document) - len(document.lstrip())
    start, end = passage.start + blanks, passage.end + blanks
    told = {"start": start, "end": end, "score": passage.score, "windows": passage.windows}
    return {**told, "text": document[start:end]} if with_text else told
