"""Cluster settings that let OpenSearch call the service, changed so that they can be taken back.

The list of trusted endpoints is the user's: ours is added to it, and what was added is written down beside it, in
`cluster.metadata.secondpass.NAME`, by the same request.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

TRUSTED = "plugins.ml_commons.trusted_connector_endpoints_regex"
PRIVATE = "plugins.ml_commons.connector.private_ip_enabled"
NOTES = "cluster.metadata.secondpass."
LAYERS = ("transient", "persistent")


@dataclass(frozen=True, slots=True)
class Note:
    """What one connection added.

    Attributes:
        patterns: trusted endpoints.
        private: whether it allowed private addresses.
        unset: digest of the list as it was while nobody had set it, "" if somebody had.
    """

    patterns: tuple[str, ...] = ()
    private: bool = False
    unset: str = ""


@dataclass(frozen=True, slots=True)
class Trust:
    """The settings as they are.

    Attributes:
        trusted: patterns in force.
        private: whether private addresses are allowed.
        notes: what our connections added, by name.
        layers: the layer in which each of the two settings is set; one that nobody set is absent.
    """

    trusted: tuple[str, ...]
    private: bool
    notes: Mapping[str, Note]
    layers: Mapping[str, str]


def read_trust(settings: Mapping[str, Mapping[str, Any]]) -> Trust:
    """Read GET /_cluster/settings?flat_settings=true&include_defaults=true."""
    layers = {key: layer for key in (TRUSTED, PRIVATE) for layer in reversed(LAYERS) if key in settings.get(layer, {})}
    in_force: dict[str, Any] = {}
    for layer in ("defaults", "persistent", "transient"):
        in_force |= settings.get(layer, {})
    notes = {key.removeprefix(NOTES): _note(text) for key, text in in_force.items() if key.startswith(NOTES)}
    private = str(in_force.get(PRIVATE, "false")).lower() == "true"
    return Trust(tuple(in_force.get(TRUSTED) or ()), private, notes, layers)


def granted(trust: Trust, name: str, pattern: str, private: bool) -> dict[str, Any]:
    """Body of PUT /_cluster/settings that lets connection `name` call what `pattern` matches; {} if nothing changes.

    What `name` had added for an earlier address goes.
    """
    mine = trust.notes.get(name, Note())
    others = _together(note for key, note in trust.notes.items() if key != name)
    stale = set(mine.patterns) - {pattern} - set(others.patterns)
    kept = [known for known in trust.trusted if known not in stale]
    own = pattern not in kept or pattern in mine.patterns + others.patterns
    trusted = kept if pattern in kept else [*kept, pattern]
    unset = mine.unset or others.unset or ("" if TRUSTED in trust.layers else _digest(trust.trusted))
    allowed = private and (not trust.private or mine.private or others.private)
    note = Note((pattern,) if own else (), allowed, unset)
    changes: dict[str, Any] = {}
    if trusted != list(trust.trusted):
        changes[TRUSTED] = trusted
    if private and not trust.private:
        changes[PRIVATE] = True
    elif not private and mine.private and not others.private:
        changes[PRIVATE] = None
    text = json.dumps(asdict(note), sort_keys=True)
    if note != trust.notes.get(name):
        changes[NOTES + name] = text
    return _body(trust, changes)


def withdrawn(trust: Trust, name: str) -> dict[str, Any]:
    """Body of PUT /_cluster/settings that takes back what connection `name` added; {} if it added nothing.

    What another connection of ours needs stays, and so do the user's own patterns.
    """
    mine = trust.notes.get(name)
    if mine is None:
        return {}
    others = _together(note for key, note in trust.notes.items() if key != name)
    stale = set(mine.patterns) - set(others.patterns)
    kept = [known for known in trust.trusted if known not in stale]
    changes: dict[str, Any] = {NOTES + name: None}
    if kept != list(trust.trusted):
        as_before = trust.layers.get(TRUSTED) == "persistent" and _digest(kept) == mine.unset
        changes[TRUSTED] = None if as_before else kept
    if mine.private and not others.private:
        changes[PRIVATE] = None
    return _body(trust, changes)


def _body(trust: Trust, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Each change in the layer that counts: a transient value would hide a persistent one."""
    body: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        body.setdefault(trust.layers.get(key, "persistent"), {})[key] = value
    return body


def _together(notes: Iterable[Note]) -> Note:
    found = tuple(notes)
    patterns = tuple(pattern for note in found for pattern in note.patterns)
    unset = next((note.unset for note in found if note.unset), "")
    return Note(patterns, any(note.private for note in found), unset)


def _digest(patterns: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(patterns)).encode()).hexdigest()[:16]


def _note(text: object) -> Note:
    """A note that somebody spoilt says nothing: then nothing is taken back."""
    try:
        held = json.loads(str(text))
        return Note(tuple(map(str, held["patterns"])), held["private"] is True, str(held["unset"]))
    except (ValueError, KeyError, TypeError):
        return Note()
