"""A model with cheap dropout: its own forward otherwise, right gradients, and as before afterwards."""

from __future__ import annotations

import copy
import json
import platform
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from secondpass import CrossEncoder
from secondpass.forwards.learning import dropout
from secondpass.forwards.learning.attention import DropoutSource
from secondpass.forwards.learning.dropout import ATTENTION, cheap_dropout, give_back_memory, keep_freed_memory
from secondpass.forwards.padded import pad
from tests import fork_server
from tests.tiny_models import ARCHITECTURES, make_folder, make_reranker

QUERIES = ["what is new", "how to reset the password", "sun"]
DOCUMENTS = ["the river in the city", "a book", "cat and dog sat on a mat in the garden where water is red"]


def loaded(tiny_model_folder, architecture, share):
    """A private model in training mode with this dropout everywhere, and its inputs."""
    encoder = CrossEncoder(tiny_model_folder(architecture), device="cpu")
    tokens = encoder.tokens(QUERIES, DOCUMENTS)
    inputs = pad(tokens, encoder.padding).named(encoder.tokenizer.model_input_names, encoder.device)
    model = encoder.model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = share
        for name in ("attention_dropout", "hidden_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, share)
    return model, inputs


def recompute(model):
    """Forget activations and compute them again; transformers renames the method."""
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_dropout_nothing_changes(tiny_model_folder, architecture):
    """Logits and gradients are those of transformers' own forward, to 1e-5, padding included."""
    model, inputs = loaded(tiny_model_folder, architecture, 0.0)
    found = []
    for autocast in (False, True):
        for ours in (False, True):
            model.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                if ours:
                    with cheap_dropout(model, DropoutSource(0)):
                        logits = model(**inputs).logits
                else:
                    logits = model(**inputs).logits
            logits.float().square().sum().backward()
            grads = [weight.grad for weight in model.parameters() if weight.grad is not None]
            found.append((logits.detach().float(), torch.cat([grad.flatten() for grad in grads])))
    plain, cheap, rough, rough_cheap = found
    assert torch.allclose(cheap[0], plain[0], atol=1e-5)
    assert torch.allclose(cheap[1], plain[1], atol=1e-4, rtol=1e-4)
    assert torch.allclose(rough_cheap[0], plain[0], atol=2 * float((rough[0] - plain[0]).abs().max()) + 0.05)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_dropout_is_ours(tiny_model_folder, architecture):
    """The seed of the source decides alone: torch's random numbers are not touched."""
    model, inputs = loaded(tiny_model_folder, architecture, 0.3)
    before = torch.get_rng_state()
    with cheap_dropout(model, DropoutSource(1)):
        first, second = model(**inputs).logits, model(**inputs).logits
    with cheap_dropout(model, DropoutSource(1)):
        again = model(**inputs).logits
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("architecture", "size", "tolerance"),
    # ModernBERT rotates in float32, whatever its type
    [("bert", 1e-7, 1e-4), ("distilbert", 1e-7, 1e-4), ("deberta-v2", 1e-7, 1e-4), ("modernbert", 1e-4, 1e-2)],
)
def test_gradients_by_finite_differences(tiny_model_folder, architecture, size, tolerance):
    """Along a random direction in float64, masks drawn anew from the same seed."""
    model, inputs = loaded(tiny_model_folder, architecture, 0.2)
    model = model.double()

    def loss():
        with cheap_dropout(model, DropoutSource(1)):
            return model(**inputs).logits.square().sum()

    loss().backward()
    generator = torch.Generator().manual_seed(1)
    weights = [weight for weight in model.parameters() if weight.grad is not None]
    way = [torch.randn(weight.shape, generator=generator, dtype=torch.float64) for weight in weights]
    slope = sum(float((weight.grad * step).sum()) for weight, step in zip(weights, way, strict=True))
    found = []
    with torch.no_grad():
        for length in (size, -2 * size):
            for weight, step in zip(weights, way, strict=True):
                weight.add_(step, alpha=length)
            with torch.enable_grad():
                found.append(float(loss().detach()))
    assert (found[0] - found[1]) / (2 * size) == pytest.approx(slope, rel=tolerance)


def test_the_mean_is_that_of_torchs_dropout(tiny_model_folder):
    """Over many draws, logits have torch's mean and spread."""
    model, inputs = loaded(tiny_model_folder, "bert", 0.1)
    with torch.no_grad():
        theirs = torch.stack([model(**inputs).logits for _ in range(400)])
    source = DropoutSource(2)
    with cheap_dropout(model, source):
        # attention is ours while gradients are wanted
        ours = torch.stack([model(**inputs).logits.detach() for _ in range(400)])
    error = ((theirs.var(0) + ours.var(0)) / 400).sqrt()
    assert bool(((theirs.mean(0) - ours.mean(0)).abs() < 5 * error).all())
    assert torch.allclose(theirs.std(0), ours.std(0), rtol=0.25)


def test_scores_of_attention_keep_their_soft_cap(tmp_path):
    """Gemma 2 caps them, which torch's own attention cannot: its own is left, and logits are the same."""
    encoder = CrossEncoder(str(make_reranker(tmp_path, "gemma2", attn_logit_softcapping=0.5)), device="cpu")
    model, inputs = (
        encoder.model.train(),
        encoder.collate([list(pair) for pair in zip(QUERIES, DOCUMENTS, strict=True)]),
    )
    expected = model(**inputs).logits
    with cheap_dropout(model, DropoutSource(0)):
        assert torch.equal(model(**inputs).logits, expected)
    for module in model.modules():
        if hasattr(module, "attn_logit_softcapping"):
            module.attn_logit_softcapping = None
    assert not torch.allclose(model(**inputs).logits, expected, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scoring_meanwhile_is_what_it_was(tiny_model_folder, architecture):
    """An evaluation in the middle of training drops nothing and gives the same bits."""
    model, inputs = loaded(tiny_model_folder, architecture, 0.3)
    model.eval()
    with torch.inference_mode():
        plain = model(**inputs).logits
        with cheap_dropout(model, DropoutSource(0)):
            assert torch.equal(model(**inputs).logits, plain)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_everything_is_put_back(tiny_model_folder, architecture):
    """Also after an error; and what is written meanwhile names nothing of ours."""
    model, _ = loaded(tiny_model_folder, architecture, 0.3)
    before = (model.config.to_json_string(), model.config._attn_implementation, list(model.state_dict()))

    def fails():
        with cheap_dropout(model, DropoutSource(0)):
            model.eval()
            assert ATTENTION not in model.config.to_json_string()
            assert list(model.state_dict()) == before[2]
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fails()
    assert (model.config.to_json_string(), model.config._attn_implementation, list(model.state_dict())) == before
    assert not any("forward" in module.__dict__ or module.training for module in model.modules())


def test_inside_one_another(tiny_model_folder):
    """The inner source counts; then the outer one again."""
    model, inputs = loaded(tiny_model_folder, "bert", 0.3)
    outer, expected = DropoutSource(1), DropoutSource(1)
    with cheap_dropout(model, expected):
        wanted = [model(**inputs).logits for _ in range(2)]
    with cheap_dropout(model, outer):
        one = model(**inputs).logits
        with cheap_dropout(model, DropoutSource(7)):
            between = model(**inputs).logits
        two = model(**inputs).logits
    assert torch.equal(one, wanted[0])
    assert torch.equal(two, wanted[1])
    assert not torch.equal(between, two)


def test_two_models_have_two_sources(tiny_model_folder):
    """One run does not disturb another in the same process."""
    model, inputs = loaded(tiny_model_folder, "bert", 0.3)
    other = copy.deepcopy(model)
    alone = []
    with cheap_dropout(model, DropoutSource(1)):
        alone += [model(**inputs).logits for _ in range(2)]
    with cheap_dropout(model, DropoutSource(1)), cheap_dropout(other, DropoutSource(2)):
        first = model(**inputs).logits
        other(**inputs)
        assert torch.equal(first, alone[0])
        assert torch.equal(model(**inputs).logits, alone[1])


def test_a_checkpoint_of_the_source_goes_on_exactly(tiny_model_folder):
    """The state as JSON in the middle of a run gives the same masks afterwards."""
    model, inputs = loaded(tiny_model_folder, "bert", 0.3)
    source = DropoutSource(1)
    with cheap_dropout(model, source):
        model(**inputs)
        state = json.dumps(source.as_json())
        wanted = model(**inputs).logits
    other = DropoutSource(5)
    other.load(json.loads(state))
    with cheap_dropout(model, other):
        assert torch.equal(model(**inputs).logits, wanted)


def test_recomputed_activations_keep_torchs_dropout(tiny_model_folder):
    """Recomputing restores torch's random numbers only, so a mask of ours would differ the second time."""
    model, inputs = loaded(tiny_model_folder, "bert", 0.3)
    recompute(model)
    source = DropoutSource(1)
    before = source.as_json()
    with cheap_dropout(model, source):
        model(**inputs).logits.sum().backward()
    assert source.as_json() == before


def test_a_decoder_keeps_torchs_attention(tmp_path):
    """A model that looks only back still does."""
    model = CrossEncoder(str(make_folder(tmp_path, "bert", is_decoder=True)), device="cpu")
    tokens = model.tokens(QUERIES[:1], DOCUMENTS[:1])
    inputs = pad(tokens, model.padding).named(model.tokenizer.model_input_names, model.device)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = model.model(**inputs).logits
        with cheap_dropout(model.model, DropoutSource(0)):
            assert torch.allclose(model.model(**inputs).logits, plain, atol=0.02)


glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")

PROGRAM = """
import json, resource, sys, threading
import numpy as np
from secondpass.forwards.learning.dropout import give_back_memory, keep_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

def rounds(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        block = np.full(40_000_000, 1, np.uint8)
        del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

kept = keep_freed_memory() if sys.argv[1] == "keep" else None
rounds(2)
faults = rounds(10)
full = resident()
gave = give_back_memory()
saved = full - resident()
sizes = []
thread = threading.Thread(target=lambda: sizes.append(len(np.ones(200_000_000, np.uint8))))
thread.start(); thread.join()
print(json.dumps({"kept": kept, "faults": faults, "gave": gave, "saved": saved, "again": keep_freed_memory(),
                  "in_thread": sizes}))
"""


def measured(how):
    """Run the program in a process of its own: the setting cannot be undone."""
    done = fork_server.run([sys.executable, "-c", PROGRAM, how], check=True, text=True, timeout=60)
    return json.loads(done.stdout)


@glibc
def test_blocks_come_back_on_the_same_pages():
    """Ten times 40 MB: nearly no page fault, where the C library alone takes nearly all pages anew each time."""
    kept, plain = measured("keep"), measured("plain")
    assert kept["kept"] is True
    assert kept["again"] is True
    assert kept["faults"] < 2000
    assert plain["faults"] > 10 * kept["faults"]
    assert kept["in_thread"] == [200_000_000]


@glibc
def test_memory_is_given_back():
    """What was kept leaves the process at once."""
    found = measured("keep")
    assert found["gave"] is True
    assert found["saved"] > 30_000_000


@pytest.mark.parametrize("system", ["darwin", "win32", "linux"])
def test_other_libraries_are_left_alone(system, monkeypatch):
    """Without glibc's functions nothing happens, and the answer is False."""
    monkeypatch.setattr(dropout, "_kept", None)
    monkeypatch.setattr(dropout.sys, "platform", system)
    monkeypatch.setattr(dropout.ctypes, "CDLL", lambda name: object())  # musl: no gnu_get_libc_version
    assert keep_freed_memory() is False
    assert keep_freed_memory() is False
    assert give_back_memory() is False


def test_once_whoever_comes_first(monkeypatch):
    """Threads that come at the same time all get the answer of one call."""
    calls = []
    monkeypatch.setattr(dropout, "_kept", None)
    monkeypatch.setattr(dropout, "_function", lambda name: lambda *args: calls.append(args) or 1)
    barrier = threading.Barrier(8)

    def together(_):
        barrier.wait()
        return keep_freed_memory()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(together, range(8))) == [True] * 8
    assert calls == [(-4, 0), (-1, -1), (-2, 256 * 2**20)]


def test_a_refused_setting_is_told(monkeypatch):
    """One setting that is not taken makes the answer False."""
    monkeypatch.setattr(dropout, "_kept", None)
    monkeypatch.setattr(dropout, "_function", lambda name: lambda number, value: int(number != -1))
    assert keep_freed_memory() is False
