"""The document stores of a pipeline: which there are, what they are called, and what they hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from haystack_integrations.common.secondpass.search.server_stores import engine_of, shown

from secondpass.errors import InvalidInput

if TYPE_CHECKING:
    from haystack import Pipeline

ASKED_AT_ONCE = 500


def store_of(component: Any) -> Any:
    """The document store that a component holds, None if it holds none."""
    found = getattr(component, "document_store", None)
    return getattr(component, "_document_store", None) if found is None else found


def document_stores(pipeline: Pipeline) -> list[Any]:
    """Stores that components hold, each once; two objects with equal settings are one store."""
    stores: list[Any] = []
    settings: list[Any] = []
    for _, component in pipeline.walk():
        store = store_of(component)
        if store is None:
            continue
        described = store.to_dict()
        if described not in settings:
            settings.append(described)
            stores.append(store)
    return stores


def store_name(store: Any) -> str:
    """Engine, host and index without credentials; the class's name for a store in memory."""
    described = store.to_dict()
    engine = engine_of(described)
    if engine is None:
        return type(store).__name__
    settings = described["init_parameters"]
    return f"{engine} {shown(settings.get('hosts'))}/{settings.get('index')}"


def server_stores(pipeline: Pipeline) -> list[Any]:
    """Those that live in a server, and so are there before and after this process."""
    return [store for store in document_stores(pipeline) if engine_of(store.to_dict()) is not None]


def refuse_filled(stores: Iterable[Any]) -> None:
    """Refuse to mix a corpus with what a server's index holds already.

    Raises:
        InvalidInput: one holds documents.
    """
    for store in stores:
        count = store.count_documents()
        if count:
            raise InvalidInput(
                f"{store_name(store)} holds {count} documents already: leave --corpus away to search them, "
                "choose another --index, or write among them with --add"
            )


def refuse_empty(stores: Iterable[Any]) -> dict[str, int]:
    """The number of documents by the name of the store.

    Raises:
        InvalidInput: one holds none, so there is nothing to search.
    """
    counts = {store_name(store): int(store.count_documents()) for store in stores}
    for name, count in counts.items():
        if not count:
            raise InvalidInput(f"{name} holds no documents: give --corpus, or index them first")
    return counts


def absent(store: Any, ids: Sequence[str]) -> int:
    """How many of `ids`, each given once, no document of the store has."""
    missing = 0
    for start in range(0, len(ids), ASKED_AT_ONCE):
        some = list(ids[start : start + ASKED_AT_ONCE])
        missing += len(some) - store.count_documents_by_filter({"field": "id", "operator": "in", "value": some})
    return missing


def close(pipeline: Pipeline) -> None:
    """Close the connections of a pipeline's stores, and what else its components hold."""
    pipeline.close()
    for store in document_stores(pipeline):
        if hasattr(store, "close"):
            store.close()
