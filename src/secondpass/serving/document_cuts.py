"""Documents cut by tokens ahead of the model: to a client's `max_tokens_per_doc`, or from the end it asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Encoding, Tokenizer

from secondpass.errors import InvalidInput
from secondpass.record import Cut
from secondpass.reranker import Reranker
from secondpass.text import prepared


@dataclass(frozen=True, slots=True)
class CutDocuments:
    """Documents that fit, and what the others lost."""

    documents: tuple[str, ...]
    cuts: tuple[Cut, ...]


class DocumentCutter:
    """Cuts texts by the tokens of a model; one object serves any number of threads."""

    def __init__(self, reranker: Reranker) -> None:
        fast = reranker.tokenizer
        self._tokenizer = Tokenizer.from_str(fast.backend_tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        self.keeps_tail: bool = fast.truncation_side == "left"
        self.window: int = reranker.window
        (probe,) = reranker.tokens(["a"], ["a"])
        self._room = self.window - (len(probe) - 2 * len(self._encoded("a")))

    def to_tokens(self, documents: Sequence[str], most: int) -> CutDocuments:
        """Keep the first `most` tokens of each document."""
        return self._cut(documents, [most] * len(documents), keep_tail=False)

    def from_side(self, queries: Sequence[str], documents: Sequence[str], keep_tail: bool) -> CutDocuments:
        """Keep of each document, from one end, what fits into the window beside its query.

        Raises:
            InvalidInput: a query leaves documents no room.
        """
        lengths = {query: self._length(query) for query in set(queries)}
        rooms = [self._room - lengths[query] for query in queries]
        for index, room in enumerate(rooms):
            if room < 1:
                raise InvalidInput(
                    f"the query of document {index} fills the window of {self.window} tokens: nothing is left to cut "
                    "documents to"
                )
        return self._cut(documents, rooms, keep_tail)

    def _cut(self, documents: Sequence[str], most: Sequence[int], keep_tail: bool) -> CutDocuments:
        kept = []
        cuts = []
        for index, (document, room) in enumerate(zip(documents, most, strict=True)):
            text = prepared(document, max(room, self.window), keep_tail)
            encoding = self._encoded(text.value)
            if len(encoding) <= room and not text.skipped:
                kept.append(document)
                continue
            kept.append(self._fitting(text.value, encoding, room, keep_tail))
            cuts.append(Cut(index, 0, max(0, len(encoding) - room), text.skipped))
        return CutDocuments(tuple(kept), tuple(cuts))

    def _fitting(self, text: str, encoding: Encoding, room: int, keep_tail: bool) -> str:
        """The longest end of `text` with at most `room` tokens; cut out, a piece may have one more than inside."""
        for tokens in range(min(room, len(encoding)), 0, -1):
            start, end = encoding.offsets[-tokens][0], encoding.offsets[tokens - 1][1]
            part = text[start:] if keep_tail else text[:end]
            if self._length(part) <= room:
                return part
        return ""

    def _length(self, text: str) -> int:
        return len(self._encoded(prepared(text, self.window, self.keeps_tail).value))

    def _encoded(self, text: str) -> Encoding:
        return self._tokenizer.encode(text, add_special_tokens=False)
