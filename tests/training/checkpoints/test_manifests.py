"""Files and folders: what is written is read back, and a removal never shows half a folder."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch

from secondpass.errors import CheckpointError, InvalidInput
from secondpass.training.checkpoints import checkpoints
from secondpass.training.checkpoints.checkpoints import (
    DamagedCheckpoint,
    check_files,
    differences,
    listed,
    plain_json,
    read_json,
    read_manifest,
    remove_folder,
    sha256_of,
    sync,
    write_json,
    write_manifest,
)
from secondpass.training.checkpoints.state import DTYPES, check_tensors, read_tensors, write_tensors


def test_json_comes_back(tmp_path):
    """Numbers to the last bit, lone surrogates, NaN, huge ints."""
    content = {"a": [0.1 + 0.2, 5e-324, 2**200, True, None], "ü\ud800": "\n", "b": float("inf")}
    write_json(tmp_path / "x.json", content)
    assert read_json(tmp_path / "x.json") == content
    assert (tmp_path / "x.json").read_bytes().isascii()


@pytest.mark.parametrize("text", ["", "{", "[1,", '{"a": é}'])
def test_what_is_no_json(tmp_path, text):
    """A ValueError, for the caller to name."""
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"."):
        read_json(tmp_path / "x.json")


def test_sha256(tmp_path):
    """That of the bytes."""
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert sha256_of(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_sync_takes_files_and_folders(tmp_path):
    """And says what is missing."""
    (tmp_path / "x").write_bytes(b"abc")
    sync(tmp_path / "x")
    sync(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "y")


def test_remove_folder(tmp_path):
    """Also when an earlier removal was killed half-way."""
    for name in ("a", "removed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / "b").touch()
    remove_folder(tmp_path / "a", tmp_path / "removed")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


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
    path = folder / checkpoints.NAME
    path.write_text(path.read_text(encoding="ascii").replace(old, new, 1), encoding="ascii")
    with pytest.raises(DamagedCheckpoint, match=words):
        read_manifest(folder)


@pytest.mark.parametrize("content", ["", "[]", "null", "{}", '"x"', "\x00" * 300])
def test_other_content(folder, content):
    """Whatever stands there instead, zeros after a power cut too."""
    (folder / checkpoints.NAME).write_text(content, encoding="ascii")
    with pytest.raises(DamagedCheckpoint):
        read_manifest(folder)


def test_missing_manifest(folder):
    """A folder without it was never finished."""
    (folder / checkpoints.NAME).unlink()
    with pytest.raises(DamagedCheckpoint, match=r"has no manifest\.json"):
        read_manifest(folder)


def test_newer_format_is_not_damage(folder, monkeypatch):
    """What a later secondpass wrote is refused by its version, not passed over."""
    monkeypatch.setattr(checkpoints, "FORMAT_VERSION", 2)
    write_manifest(folder, 1, {})
    monkeypatch.undo()
    with pytest.raises(
        CheckpointError, match=r"of version 2, this secondpass reads a secondpass checkpoint of version 1"
    ):
        read_manifest(folder)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a/b.json", "x.bin", ""])
def test_names_outside_the_folder(folder, name):
    """A manifest, sealed or not, cannot point elsewhere."""
    manifest = checkpoints.Manifest(1, {}, {}, {name: (0, "")})
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


def through_file(tmp_path, tensors):
    """Write and read."""
    check_tensors(tensors, "tensors")
    write_tensors(tmp_path / "x.safetensors", tensors)
    return read_tensors(tmp_path / "x.safetensors")


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal dtype, shape and bits."""
    bits = [t.contiguous().reshape(-1).view(torch.uint8).tolist() for t in (one, other)]
    return one.dtype == other.dtype and one.shape == other.shape and bits[0] == bits[1]


@pytest.mark.parametrize("dtype", sorted(DTYPES, key=str), ids=str)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3, 2)], ids=str)
def test_every_dtype(tmp_path, dtype, shape):
    """Random bits of it, NaN among them, 0 dimensions and no elements too."""
    size = torch.empty(shape, dtype=dtype).nbytes
    top = 2 if dtype == torch.bool else 256
    tensor = torch.randint(0, top, (size,), dtype=torch.uint8).view(dtype).reshape(shape)
    found = through_file(tmp_path, {"x": tensor})
    assert found.keys() == {"x"}
    assert same(found["x"], tensor)


def test_layouts(tmp_path):
    """Transposed, strided, expanded, conjugated, a view of a part, channels last, requiring gradients."""
    whole = torch.randn(6, 4)
    complex_one = torch.randn(3, dtype=torch.complex64)
    tensors = {
        "transposed": whole.T,
        "strided": whole[::2, 1:3],
        "part": whole[2],
        "expanded": torch.randn(3, 1).expand(3, 5),
        "conjugated": complex_one.conj(),
        "imaginary": complex_one.conj().imag,
        "last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "weight": torch.nn.Parameter(torch.randn(2)),
        "graph": torch.randn(2, requires_grad=True) * 2,
    }
    found = through_file(tmp_path, tensors)
    assert found.keys() == tensors.keys()
    assert all(same(found[name], tensor.detach().resolve_conj().resolve_neg()) for name, tensor in tensors.items())
    assert not any(tensor.requires_grad for tensor in found.values())


def test_tied_tensors_are_stored_once_and_come_back_tied(tmp_path):
    """Another shape of the same memory is stored for itself."""
    weight = torch.randn(1000, 8)
    tensors = {
        "b": weight,
        "a": weight,
        "again": weight.view(1000, 8),
        "flat": weight.view(-1),
        "other": weight.clone(),
    }
    found = through_file(tmp_path, tensors)
    assert all(same(found[name], tensor) for name, tensor in tensors.items())
    assert found["a"].data_ptr() == found["b"].data_ptr() == found["again"].data_ptr()
    assert len({found[name].data_ptr() for name in ("a", "flat", "other")}) == 3
    assert (tmp_path / "x.safetensors").stat().st_size < 3.1 * weight.nbytes


def test_tied_weights_of_a_model(tmp_path):
    """Its state dict loads again."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    model[1].weight = model[0].weight
    twin = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    twin[1].weight = twin[0].weight
    twin.load_state_dict(through_file(tmp_path, model.state_dict()))
    assert all(same(twin.state_dict()[name], value) for name, value in model.state_dict().items())


def test_what_is_read_is_not_the_file(tmp_path):
    """Neither changing a tensor nor removing the file touches the other."""
    found = through_file(tmp_path, {"x": torch.ones(1000)})
    before = (tmp_path / "x.safetensors").read_bytes()
    found["x"].zero_()
    assert (tmp_path / "x.safetensors").read_bytes() == before
    again = read_tensors(tmp_path / "x.safetensors")["x"]
    (tmp_path / "x.safetensors").write_bytes(b"")
    assert again.sum().item() == 1000


def test_the_same_tensors_are_the_same_bytes(tmp_path):
    """So a hash of a file says something about the tensors."""
    tensors = {name: torch.full((3,), float(number)) for number, name in enumerate("qwertyuiop")}
    tied = tensors | {"tied": tensors["q"], "bound": tensors["w"]}
    write_tensors(tmp_path / "a", tied)
    write_tensors(tmp_path / "b", dict(sorted(tied.items(), reverse=True)) | tied)
    first = read_tensors(tmp_path / "a")
    write_tensors(tmp_path / "a2", first)
    assert read_tensors(tmp_path / "b").keys() == first.keys() == tied.keys()
    write_tensors(tmp_path / "c", tied)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "c").read_bytes()


def test_no_tensors(tmp_path):
    """An empty set comes back empty."""
    assert through_file(tmp_path, {}) == {}


@pytest.mark.parametrize("name", ["", "a b", "Ü/\u4e2d", "__metadata", "..", "aliases"])
def test_unusual_names(tmp_path, name):
    """Any printable text is a name."""
    assert through_file(tmp_path, {name: torch.ones(1)}).keys() == {name}


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (None, r"tensors is NoneType, not a mapping"),
        ([torch.ones(1)], r"tensors is list, not a mapping"),
        ({3: torch.ones(1)}, r"tensors has the key 3, not a printable str"),
        ({"\ud800": torch.ones(1)}, r"not a printable str"),
        ({"a\0b": torch.ones(1)}, r"not a printable str"),
        ({"x": 1.0}, r"tensors\['x'\] is float, not a tensor"),
        ({"x": torch.ones(2).to_sparse()}, r"tensors\['x'\] \(sparse_coo, float32, on cpu\) cannot be stored"),
        ({"x": torch.ones(2, device="meta")}, r"tensors\['x'\] \(strided, float32, on meta\)"),
        ({"x": torch.ones(2, dtype=torch.complex128)}, r"complex128"),
    ],
)
def test_refused(tensors, words):
    """By name, before anything is written."""
    with pytest.raises(InvalidInput, match=words):
        check_tensors(tensors, "tensors")
