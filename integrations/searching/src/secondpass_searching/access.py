"""How commands reach an engine: each package gives its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from secondpass_indexing.sink import Sink
from secondpass_searching.engine import Engine
from secondpass_searching.searched_index import SearchedIndex


class EmbeddingSink(Sink, Protocol):
    """A sink that can tell what a field of its index takes."""

    def field_mapping(self, field: str) -> Mapping[str, Any]:
        """What GET /INDEX/_mapping/field/FIELD answers.

        Raises:
            IndexingError: as the sink's other methods.
        """
        ...


@dataclass(frozen=True, slots=True)
class EngineAccess:
    """An engine, and an index of it opened for searching or writing: (--url or None, seconds, index) -> context."""

    engine: Engine
    searched: Callable[[str | None, float, str], AbstractContextManager[SearchedIndex]]
    sink: Callable[[str | None, float, str], AbstractContextManager[EmbeddingSink]]
