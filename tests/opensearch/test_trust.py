"""The user's list of trusted endpoints grows by ours and shrinks by ours, whatever is done in between."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secondpass_opensearch.trust import NOTES, PRIVATE, TRUSTED, Trust, granted, read_trust, withdrawn

DEFAULTS = {TRUSTED: ["^https://default/.*$"], PRIVATE: "false"}
OURS = "^http://127\\.0\\.0\\.1:8000/v1/rerank$"


class Cluster:
    """Settings as OpenSearch keeps them: a layer over another, null removes."""

    def __init__(self, **layers: dict[str, Any]) -> None:
        self.layers: dict[str, dict[str, Any]] = {"persistent": {}, "transient": {}} | layers

    def put(self, body: dict[str, Any]) -> None:
        for layer, changes in body.items():
            for key, value in changes.items():
                if value is None:
                    self.layers[layer].pop(key, None)
                else:
                    self.layers[layer][key] = str(value).lower() if isinstance(value, bool) else value

    @property
    def trust(self) -> Trust:
        given_ = self.layers["persistent"].keys() | self.layers["transient"].keys()
        defaults = {key: value for key, value in DEFAULTS.items() if key not in given_}
        return read_trust({**self.layers, "defaults": defaults})

    def connect(self, name: str, pattern: str, private: bool = True) -> None:
        self.put(granted(self.trust, name, pattern, private))

    def disconnect(self, name: str) -> None:
        self.put(withdrawn(self.trust, name))


def test_ours_is_added_to_the_defaults_and_goes_without_a_trace() -> None:
    """Even the default list is the default again, so that the next version's defaults are taken."""
    cluster = Cluster()
    cluster.connect("a", OURS)
    assert cluster.trust.trusted == (*DEFAULTS[TRUSTED], OURS)
    assert cluster.trust.private
    cluster.disconnect("a")
    assert cluster.layers == {"persistent": {}, "transient": {}}


@pytest.mark.parametrize("layer", ["persistent", "transient"])
def test_the_users_own_patterns_stay(layer: str) -> None:
    """In the layer that counts, with what was added to them meanwhile."""
    cluster = Cluster(**{layer: {TRUSTED: ["^https://mine/.*$"], PRIVATE: "true"}})
    cluster.connect("a", OURS)
    assert cluster.layers[layer][TRUSTED] == ["^https://mine/.*$", OURS]
    cluster.layers[layer][TRUSTED].append("^https://later/.*$")
    cluster.disconnect("a")
    assert cluster.layers[layer] == {TRUSTED: ["^https://mine/.*$", "^https://later/.*$"], PRIVATE: "true"}


def test_what_was_there_before_is_not_taken_back() -> None:
    """A pattern equal to ours is the user's if it was there first."""
    cluster = Cluster(persistent={TRUSTED: [OURS], PRIVATE: "true"})
    cluster.connect("a", OURS)
    cluster.disconnect("a")
    assert cluster.layers["persistent"] == {TRUSTED: [OURS], PRIVATE: "true"}


def test_the_same_again_changes_nothing() -> None:
    """No request at all."""
    cluster = Cluster()
    cluster.connect("a", OURS)
    assert granted(cluster.trust, "a", OURS, True) == {}
    cluster.disconnect("a")
    assert withdrawn(cluster.trust, "a") == {}


def test_a_new_address_takes_the_place_of_the_old() -> None:
    """And a public one needs no private addresses any more."""
    cluster = Cluster()
    cluster.connect("a", OURS)
    cluster.connect("a", "^https://public/$", private=False)
    assert cluster.trust.trusted == (*DEFAULTS[TRUSTED], "^https://public/$")
    assert not cluster.trust.private


def test_a_note_that_somebody_spoilt_takes_nothing_back() -> None:
    """Rather too little than what is the user's."""
    cluster = Cluster(persistent={TRUSTED: [OURS], f"{NOTES}a": "{"})
    cluster.disconnect("a")
    assert cluster.layers["persistent"] == {TRUSTED: [OURS]}


def test_notes_are_one_string() -> None:
    """The only form that `cluster.metadata` takes."""
    (body,) = granted(Cluster().trust, "a", OURS, True).values()
    assert json.loads(body[f"{NOTES}a"])["patterns"] == [OURS]


STEPS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["^x$", "^y$", "^https://mine/$", None]), st.booleans()),
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.sampled_from([None, ["^https://mine/$"], []]), st.sampled_from([None, "true", "false"]))
def test_any_history_ends_where_it_began(
    steps: list[tuple[str, str | None, bool]], mine: list[str] | None, private: str | None
) -> None:
    """Whoever is connected has what he needs, and when all are gone nothing of ours is left."""
    begin = {key: value for key, value in ((TRUSTED, mine), (PRIVATE, private)) if value is not None}
    cluster = Cluster(persistent=json.loads(json.dumps(begin)))
    before = cluster.trust
    connected: dict[str, tuple[str, bool]] = {}
    for name, pattern, needs_private in steps:
        if pattern is None:
            cluster.disconnect(name)
            connected.pop(name, None)
        else:
            cluster.connect(name, pattern, needs_private)
            connected[name] = (pattern, needs_private)
        assert {wanted for wanted, _ in connected.values()} <= set(cluster.trust.trusted)
        assert cluster.trust.private or not any(needed for _, needed in connected.values())
        assert set(before.trusted) <= set(cluster.trust.trusted)
    for name in list(connected):
        cluster.disconnect(name)
    after = cluster.trust
    assert (after.trusted, after.private, dict(after.notes)) == (before.trusted, before.private, {})
