"""Tensors to a file and back: every dtype, shape and layout, bit by bit."""

from __future__ import annotations

import pytest
import torch

from secondpass.errors import InvalidInput
from secondpass.training.survival.tensor_files import DTYPES, check_tensors, read_tensors, write_tensors


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
