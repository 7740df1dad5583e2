"""Manifests: what they hold, what counts as damage, and what differs between two runs."""

from __future__ import annotations

import json

import pytest

from secondpass.errors import CheckpointError, InvalidInput
from secondpass.training.survival import manifests
from secondpass.training.survival.manifests import (
    DamagedCheckpoint,
    check_files,
    differences,
    listed,
    plain_json,
    read_manifest,
    write_manifest,
)


@pytest.fixture
def folder(tmp_path):
    """A folder with two files and a manifest."""
    (tmp_path / "model.safetensors").write_bytes(b"model")
    (tmp_path / "state.json").write_bytes(b"{}")
    write_manifest(tmp_path, 120, {"settings": {"learning_rate": 2e-5}})
    return tmp_path


def test_comes_back(folder):
    """Step, identity, versions, and every file with its size."""
    manifest = read_manifest(folder)
    assert manifest.step == 120
    assert manifest.identity == {"settings": {"learning_rate": 2e-5}}
    assert manifest.versions.keys() == {"python", "secondpass", "torch", "numpy"}
    assert {name: size for name, (size, _) in manifest.files.items()} == {"model.safetensors": 5, "state.json": 2}
    check_files(folder, manifest)


@pytest.mark.parametrize("content", [b"nodel", b"mode", b"models", b"", None])
def test_damaged_file(folder, content):
    """Changed, cut, longer, empty, missing."""
    if content is None:
        (folder / "model.safetensors").unlink()
    else:
        (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(DamagedCheckpoint, match=r"model\.safetensors"):
        check_files(folder, read_manifest(folder))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"step": 120', '"step": 121', "changed after it was written"),
        ("2e-05", "1e-05", "changed after it was written"),
        ("{", "", "no JSON"),
        ('"seal"', '"sael"', "changed after it was written"),
    ],
)
def test_damaged_manifest(folder, old, new, words):
    """A changed manifest is no manifest."""
    path = folder / manifests.NAME
    path.write_text(path.read_text(encoding="ascii").replace(old, new, 1), encoding="ascii")
    with pytest.raises(DamagedCheckpoint, match=words):
        read_manifest(folder)


@pytest.mark.parametrize("content", ["", "[]", "null", "{}", '"x"', "\x00" * 300])
def test_other_content(folder, content):
    """Whatever stands there instead, zeros after a power cut too."""
    (folder / manifests.NAME).write_text(content, encoding="ascii")
    with pytest.raises(DamagedCheckpoint):
        read_manifest(folder)


def test_missing_manifest(folder):
    """A folder without it was never finished."""
    (folder / manifests.NAME).unlink()
    with pytest.raises(DamagedCheckpoint, match=r"has no manifest\.json"):
        read_manifest(folder)


def test_newer_format_is_not_damage(folder, monkeypatch):
    """What a later secondpass wrote is refused by its version, not passed over."""
    monkeypatch.setattr(manifests, "FORMAT_VERSION", 2)
    write_manifest(folder, 1, {})
    monkeypatch.undo()
    with pytest.raises(
        CheckpointError, match=r"of version 2, this secondpass reads a secondpass checkpoint of version 1"
    ):
        read_manifest(folder)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a/b.json", "x.bin", ""])
def test_names_outside_the_folder(folder, name):
    """A manifest, sealed or not, cannot point elsewhere."""
    manifest = manifests.Manifest(1, {}, {}, {name: (0, "")})
    with pytest.raises(DamagedCheckpoint, match="has no file"):
        check_files(folder, manifest)


@pytest.mark.parametrize(
    ("there", "here", "found"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 1.0}, []),
        ({"a": float("nan")}, {"a": float("nan")}, []),
        ({"a": 1}, {"a": True}, ["a: 1 there, true here"]),
        ({"a": [1, 2]}, {"a": [1, True]}, ["a: [1, 2] there, [1, true] here"]),
        ({"a": None}, {}, ["a: null there, absent here"]),
        ({}, {"a": "x"}, ['a: absent there, "x" here']),
        (
            {"settings": {"learning_rate": 2e-5, "seed": 0}},
            {"settings": {"learning_rate": 1e-5, "seed": 0}},
            ["settings.learning_rate: 2e-05 there, 1e-05 here"],
        ),
        ({"a": {"b": 1}}, {"a": 1}, ['a: {"b": 1} there, 1 here']),
        ({"b": 1, "a": 1}, {"b": 2, "a": 2}, ["a: 1 there, 2 here", "b: 1 there, 2 here"]),
    ],
)
def test_differences(there, here, found):
    """By the path of the key, with both values; numbers by value."""
    assert differences(there, here) == found


def test_long_lists_of_differences_are_cut_in_messages():
    """And long values."""
    found = differences({f"k{number}": "x" * 500 for number in range(9)}, {})
    assert len(listed(found)) < 600
    assert listed(found).endswith("; and 5 more")
    assert listed(found[:2]).count(";") == 1


def test_plain_json():
    """Mappings and tuples become what JSON has."""
    assert plain_json({"a": (1, [2.5, None]), "b": {"c": True}}, "x") == {"a": [1, [2.5, None]], "b": {"c": True}}
    assert json.dumps(plain_json("\ud800", "x")) == '"\\ud800"'


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": {"b": [0, object()]}}, r"state\.a\.b\[1\] is object"),
        ({"a": {1: 2}}, r"state\.a has the key 1, not a str"),
        ({"a": {1, 2}}, r"state\.a is set"),
        ({"a": b"x"}, r"state\.a is bytes"),
    ],
)
def test_no_json(value, words):
    """What would not come back is refused by its place."""
    with pytest.raises(InvalidInput, match=words):
        plain_json(value, "state")
