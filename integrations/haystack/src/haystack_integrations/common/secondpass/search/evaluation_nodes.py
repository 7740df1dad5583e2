"""Evaluators and labelled queries inside a pipeline file: what they ask for, and the search without them.

A search gives queries of its own and measures, if at all, over all of them; nodes that measure one query at a time
and nodes that say which query it is are set aside.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# Haystack's own, ours and those of other integrations.
PLACES = ("haystack.components.evaluators.", "haystack_integrations.components.evaluators.")
EVALUATOR = "haystack_integrations.components.evaluators.secondpass.evaluator.SecondPassEvaluator"


def without_evaluation(data: dict[str, Any]) -> dict[str, Any]:
    """Return a pipeline's dictionary without its evaluation nodes and the connections from and to them."""
    kept = {name: component for name, component in data["components"].items() if not _is_evaluation(component)}
    connections = [
        link for link in data.get("connections") or [] if not _ends(link) & (data["components"].keys() - kept)
    ]
    return {**data, "components": kept, "connections": connections}


def measures_of(data: dict[str, Any]) -> tuple[str, ...]:
    """Names of the measures that a pipeline's SecondPassEvaluators state, each once, in the order of the file."""
    return tuple(dict.fromkeys(name for component in data["components"].values() for name in _measures(component)))


def _is_evaluation(component: object) -> bool:
    return isinstance(component, dict) and str(component.get("type")).startswith(PLACES)


def _measures(component: object) -> Iterator[str]:
    if isinstance(component, dict) and component.get("type") == EVALUATOR:
        settings = component.get("init_parameters")
        stated = settings.get("measures") if isinstance(settings, dict) else None
        yield from (name for name in stated or () if isinstance(name, str))


def _ends(link: object) -> set[str]:
    """Names of the two components that a connection joins."""
    if not isinstance(link, dict):
        return set()
    return {str(link.get(end)).split(".", maxsplit=1)[0] for end in ("sender", "receiver")}
