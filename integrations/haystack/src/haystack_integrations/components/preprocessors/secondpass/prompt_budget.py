"""The Haystack component that cuts documents to a prompt's tokens. YAML names this module: its name is public API."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from haystack import Document, component
from haystack_integrations.common.secondpass import parameters
from haystack_integrations.common.secondpass.documents import deduplicated, listed
from haystack_integrations.common.secondpass.model_lifecycle import SerializedComponent

from secondpass.errors import InvalidInput, ModelLoadError
from secondpass.extraction import sentences
from secondpass.models.folders import folder_of
from secondpass.text import checked_documents, positive_int, whole_number
from secondpass.tokens import TextTokenizer

__all__ = ["PromptBudget"]

TokenEnds = Callable[[str], Sequence[int]]
"""A text to the place in it where each of its tokens ends, never falling."""


@dataclass(frozen=True, slots=True)
class Portion:
    """What of one text goes into the prompt: text[:end], `kept` of its `tokens`; end 0 leaves it out."""

    end: int
    kept: int
    tokens: int


def fitted(texts: Sequence[str], token_ends: TokenEnds, max_tokens: int, overhead: int = 0) -> list[Portion]:
    """Fill a budget with texts in their order.

    Whole texts as long as they fit; of the first that does not, as many whole sentences from its beginning as fit;
    none of those behind it, which the ranking holds for worse. All together have `max_tokens`, `overhead` around each
    (a number, a title, a line break) included.

    Raises:
        InvalidInput: an argument is refused; the message names it.
    """
    checked_documents(texts, "texts")
    left = positive_int(max_tokens, "max_tokens")
    full = False
    made = []
    for text in texts:
        ends = token_ends(text)
        portion = Portion(0, 0, len(ends))
        if not full and overhead < left:
            portion = _portion(text, ends, left - overhead)
        full = full or portion.end < len(text)
        left -= portion.kept + overhead if portion.end else 0
        made.append(portion)
    return made


def _portion(text: str, ends: Sequence[int], room: int) -> Portion:
    if len(ends) <= room:
        return Portion(len(text), len(ends), len(ends))
    best = Portion(0, 0, len(ends))
    for span in sentences(text):
        # a token that reaches beyond the sentence counts: the text that is kept has at least a part of it
        kept = bisect_right(ends, span.end)
        kept += kept < len(ends) and (ends[kept - 1] if kept else 0) < span.end
        if kept > room:
            break
        best = Portion(span.end, kept, len(ends))
    return best


@component
class PromptBudget(SerializedComponent):
    """Keeps the first documents that fit into a number of tokens, the last of them cut behind a whole sentence.

    A prompt that is too long is refused or cut somewhere by the model that reads it; here it is cut where it hurts
    least, and told.

    ### Usage example

    ```python
    from haystack import Document
    from haystack_integrations.components.preprocessors.secondpass import PromptBudget

    budget = PromptBudget(max_tokens=12)
    documents = [Document(content="Paris is in France. It is large."), Document(content="Rome is in Italy.")]
    result = budget.run(documents=documents)
    print([document.content for document in result["documents"]], result["left_out"])
    ```
    """

    def __init__(
        self, *, max_tokens: int = 2000, overhead: int = 8, tokenizer: str | Path = "secondpass/pocket"
    ) -> None:
        """Check and keep the parameters; the tokenizer is loaded by `warm_up` or the first `run`.

        :param max_tokens: The tokens that all documents together may have, `overhead` for each included.
        :param overhead: The tokens that the prompt puts around each document.
        :param tokenizer: A folder with a `tokenizer.json`, that file, or the Hugging Face name of a model: whose tokens
            are counted. The default comes with the package; it makes more tokens of a text than the tokenizers of
            large models do, so that the budget holds for them too.

        :raises ValueError:
            If a parameter has a wrong type or value, with its name.
        """
        self.max_tokens = parameters.positive("max_tokens", max_tokens)
        self.overhead = whole_number(overhead, "overhead")
        self.tokenizer = parameters.model_name("tokenizer", tokenizer)
        self._lock = threading.Lock()
        self._loaded: TextTokenizer | None = None

    def warm_up(self) -> None:
        """Load the tokenizer."""
        self._tokenizer()

    @component.output_types(documents=list[Document], left_out=list[dict[str, Any]], tokens=int)
    def run(self, *, documents: list[Document], max_tokens: int | None = None) -> dict[str, Any]:
        """Keep what fits.

        :param documents: The documents, most relevant first; of equal ids one is kept. They are not changed.
        :param max_tokens: The tokens of all documents together. `None` takes the value given at initialization.
        :returns:
            A dictionary with the following keys:
            - `documents`: The documents that fit; the last one may be cut, and then its meta field `cut` is `True`.
              Documents without text are left out.
            - `left_out`: One dictionary for each document that was cut or left out: its `id`, its `tokens` and how many
              of them were `kept`.
            - `tokens`: How many tokens are used, `overhead` included.

        :raises ValueError:
            If an argument has a wrong type or value, with its name and index.
        """
        unique = deduplicated(listed(documents))
        limit = self.max_tokens if max_tokens is None else parameters.positive("max_tokens", max_tokens)
        texts = [document.content or "" for document in unique]
        portions = fitted(texts, self._tokenizer().token_ends, limit, self.overhead)
        kept: list[Document] = []
        left_out: list[dict[str, Any]] = []
        for document, text, portion in zip(unique, texts, portions, strict=True):
            if text and portion.end == len(text):
                kept.append(document)
                continue
            left_out.append({"id": document.id, "tokens": portion.tokens, "kept": portion.kept})
            if portion.end:
                kept.append(replace(document, content=text[: portion.end], meta={**document.meta, "cut": True}))
        used = sum(portion.kept + self.overhead for portion in portions if portion.end)
        return {"documents": kept, "left_out": left_out, "tokens": used}

    def _tokenizer(self) -> TextTokenizer:
        with self._lock:
            if self._loaded is None:
                self._loaded = _read(self.tokenizer)
            return self._loaded

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_loaded")} | {
            "__haystack_added_to_pipeline__": None
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock, self._loaded = threading.Lock(), None


def _read(name: str) -> TextTokenizer:
    """The tokenizer of a folder, a file or a hub name."""
    given = Path(name).expanduser()
    file = given if given.is_file() else folder_of(name) / "tokenizer.json"
    if not file.is_file():
        raise ModelLoadError(f"{name!r} has no tokenizer.json")
    try:
        return TextTokenizer(file.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises plain Exception
        raise InvalidInput(f"tokenizer {name!r} cannot be read: {error}") from error
