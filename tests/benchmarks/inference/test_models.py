"""Rules of `benchmarks.inference.models`: every folder is one that all libraries load."""

from __future__ import annotations

import platform
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import CrossEncoder
from torch import nn

import secondpass
from benchmarks.inference import machine, routines
from benchmarks.inference.loads import Asked
from benchmarks.inference.models import RERANKERS, SPREAD, Shape, template_tokens, write_model
from benchmarks.inference.profiles import by_part, flops, lengths_of
from secondpass.forwards.kernel import native
from secondpass.forwards.precision import SAMPLE_DOCUMENTS, SAMPLE_QUERIES


@pytest.mark.parametrize("name", ["l2", "deberta"])
def test_a_random_model_tells_documents_apart(name: str, tmp_path: Path) -> None:
    """In sentence-transformers too: its logits are spread as wide as was wanted."""
    write_model(name, tmp_path / name)
    model = CrossEncoder(str(tmp_path / name), device="cpu")
    scores = model.predict(
        list(zip(SAMPLE_QUERIES, SAMPLE_DOCUMENTS, strict=True)), activation_fn=lambda logits: logits
    )
    assert scores.std() == pytest.approx(SPREAD, rel=0.1)


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    """With the names there are."""
    with pytest.raises(ValueError, match="l2, l6, l12, base, deberta"):
        write_model("l3", tmp_path)


# Of another number of layers, heads and widths than anything published.
TINY = {
    "ettin": Shape(2, 32, 2, 48, 2, 16, global_every=2, window=8),
    "qwen3": Shape(2, 32, 2, 64, 1, 16, template=True),
}


@pytest.mark.parametrize("name", TINY)
def test_an_open_reranker_has_one_score_in_both_libraries(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders are sentence-transformers' own, chat template and all; what pairs share is counted in their ids."""
    monkeypatch.setitem(RERANKERS, name, TINY[name])
    write_model(name, tmp_path / name)
    # what older releases of transformers, which the backends need, read too
    assert '"PreTrainedTokenizerFast"' in (tmp_path / name / "tokenizer_config.json").read_text(encoding="utf-8")
    pairs = list(zip(SAMPLE_QUERIES[:6], SAMPLE_DOCUMENTS[:6], strict=True))
    theirs = CrossEncoder(str(tmp_path / name), device="cpu").predict(pairs, activation_fn=lambda logits: logits)
    ours = secondpass.CrossEncoder(str(tmp_path / name), device="cpu", default_activation_function=nn.Identity())
    np.testing.assert_allclose(ours.predict(pairs), theirs, atol=1e-4)
    asked = Asked(SAMPLE_QUERIES[0], SAMPLE_DOCUMENTS[:4])
    lengths, shared = lengths_of(tmp_path / name, asked)
    ids = [item.ids for item in ours.tokens([asked.query] * 4, asked.documents)]
    assert lengths == [len(item) for item in ids]
    assert len({tuple(item[:shared]) for item in ids}) == 1
    assert len({item[shared] for item in ids}) > 1
    assert (template_tokens(tmp_path / name) > 40) == (name == "qwen3")


def test_operations_are_counted_once() -> None:
    """By hand for two layers: the second computes keys and values of all tokens, and one row of each pair besides."""
    chain = Shape(layers=2, hidden=4, heads=2, inner=6, key_heads=2, head=2, global_every=2, window=4)
    keys, rest = 2 * 2 * 4 * 4, 2 * (2 * 4 * 4 + 3 * 4 * 6)
    found = flops(chain, [3, 10], 0)
    assert found["linear"] == 13 * (keys + rest) + 13 * keys + 2 * rest
    assert found["attention"] == 4 * 4 * (3 * 3 + 10 * 10 + 3 + 3)
    causal = Shape(layers=2, hidden=4, heads=2, inner=6, key_heads=1, head=2, template=True)
    keys = 2 * 2 * 4 * 2
    found = flops(causal, [5, 7], 4)
    assert found["linear"] == (4 + 1 + 3) * (keys + rest) + 8 * keys + 2 * rest
    assert found["attention"] == 4 * 4 * ((5 * 6 + 7 * 8 - 4 * 5) / 2 + 5 + 7)


def test_samples_go_to_the_part_that_the_function_itself_is_of() -> None:
    """Not to that of what it is called for, nor to that of a library that has several."""
    lines = [
        "# Overhead|Shared Object|Symbol",
        " 40.00%  |secondpass_kernel.so  |[.] (anonymous namespace)::Encoder<X>::linear<attention(int)::{lambda()#1}>",
        " 20.00%|secondpass_kernel.so|[.] (anonymous namespace)::Encoder<X, Y<Z> >::attention",
        "  5.00%|libgomp.so.1|[.] 0x000000000001e02a",
        "  5.00%|libpython3.11.so.1.0|[.] gc_collect_main",
        "  2.00%|libtorch_cpu.so|[.] c10::function_ref<void (char**)>::callback_fn<at::native::gelu_kernel(int)>",
        "  1.00%|ld.so|[.] do_lookup_x",
    ]
    assert by_part(lines) == pytest.approx(
        {
            "products": 0.4,
            "attention": 0.2,
            "waiting for the other thread": 0.05,
            "Python": 0.05,
            "norms, activations": 0.02,
            "other": 0.01,
        }
    )


def test_a_kernel_routines_time_is_split_by_function_and_measured_against_its_units() -> None:
    """Attention's products are told apart where another unit computes them; digits multiply eight times."""
    own = "secondpass_kernel.so|[.] void (anonymous namespace)::"
    lines = [
        f"  30.00%|{own}registers<(anonymous namespace)::Int8, 12>(int)",
        f"  10.00%|{own}registers<(anonymous namespace)::Float32, 12>(int)",
        f"   5.00%|{own}write_bytes<(anonymous namespace)::Float32>(int)",
        f"   5.00%|{own}normalise(float const*)",
        "  50.00%|libtorch_cpu.so|[.] mkl_gemm",
    ]
    parts = {"products": 0.6, "attention": 0.2, "quantising": 0.1, routines.REST: 0.1}
    found = routines.by_part(lines, "int8")
    assert {name: share for name, share in found.items() if share} == pytest.approx(parts)
    assert routines.by_part(lines, "fp32")["products"] == pytest.approx(0.8)
    needed = {"linear": 12e9, "attention": 3e9}
    limits = {("amx", "int8"): 800.0, ("avx512", "fp32"): 100.0, ("avx512_vnni", "int8"): 400.0}
    limits["avx512_vnni", "int16"] = 200.0
    assert routines.at_the_limit(("amx", "fp32"), needed, limits) == pytest.approx(0.12 + 0.03)
    assert routines.at_the_limit(("avx512_vnni", "int8"), needed, limits) == pytest.approx(11 / 400 + 1 / 200 + 3 / 200)


def test_every_routine_has_a_unit_whose_limit_can_be_measured() -> None:
    """Of each instruction set that the library is compiled for; where there is a compiler, of one of this processor."""
    tables = tomllib.loads((machine.SOURCES / "instructions.toml").read_text(encoding="utf-8"))
    assert {instructions for instructions, _ in machine.UNITS} <= set(tables["x86_64"])
    assert {unit for units in routines.UNITS.values() for unit in units[:3]} <= set(machine.UNITS)
    found = [] if platform.machine() != "x86_64" else native.routines()
    if isinstance(found, str):
        pytest.skip(found)
    assert {(routine.instructions, routine.precision) for routine in found} <= set(routines.UNITS)
    if not found or shutil.which("g++") is None:
        pytest.skip("no limit is measured without g++ on x86-64")
    assert (machine.unit_limit("avx2", "int16", 1) or 0) > 1
