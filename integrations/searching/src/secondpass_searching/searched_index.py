"""An index as both passes ask it; each engine's package has one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from secondpass.errors import InvalidInput
from secondpass_searching.engine import Engine


class SearchedIndex(Protocol):
    """One index or alias of one server. Its methods raise no error of a client: each is a `SecondPassError`."""

    @property
    def engine(self) -> Engine:
        """Which engine it is."""
        ...

    @property
    def name(self) -> str:
        """Engine, server and index for messages, without credentials."""
        ...

    def hits(self, body: Mapping[str, Any], index: str | None = None) -> list[dict[str, Any]]:
        """Search, `index` instead of this one if given; a shard that does not answer fails it: half is not the whole.

        Raises:
            InvalidInput: the server refuses the search (no such index, other dims).
            SecondPassError: it cannot be reached, or does not answer as it should.
        """
        ...

    def nearest(self, vector: Sequence[float], field: str, depth: int) -> dict[str, Any]:
        """What a body has to have so that the `depth` documents nearest to `vector` are found."""
        ...

    def known_fields(self, fields: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Types of those of `fields` that the index has."""
        ...

    def field_mapping(self, field: str) -> Mapping[str, Any] | None:
        """What GET /INDEX/_mapping/field/FIELD answers; None if this user may not ask."""
        ...


def require_fields(index: SearchedIndex, fields: Sequence[str]) -> None:
    """A field that is not there finds nothing, and no engine says so.

    Raises:
        InvalidInput: there is no such index, or it has not got one of the fields.
    """
    known = index.known_fields(fields)
    missing = [name for name in fields if name not in known]
    if missing:
        raise InvalidInput(f"{index.name} has no field {', '.join(missing)}: name the field that has the text")
