"""Rows 35 to 37 of the fault table: forks, interrupts and copies."""

from __future__ import annotations

import copy
import os
import pickle
import random
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from secondpass import CrossEncoder
from secondpass.errors import SecondPassError
from tests import fork_server
from tests.model_spy import before_forward
from tests.tiny_models import ROUNDING, WORDS
from tests.toy_task import Scripted, loader

QUERY = "how to reset the password"
FAST: dict[str, Any] = {"warmup_steps": 0, "show_progress_bar": False}


def texts(count: int, seed: int = 0, longest: int = 100) -> list[str]:
    """Draw documents of mixed lengths."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randrange(1, longest))) for _ in range(count)]


# ---- 35: fork

FORKING = """
import os, sys, threading, torch
from secondpass import CrossEncoder

encoder = CrossEncoder(sys.argv[1], device="cpu")
torch.set_num_threads(2)
pairs = [("how to reset the password", "the cat sat on the mat " * (1 + number % 5)) for number in range(60)]
before = encoder.predict(pairs)
stop = threading.Event()


def keep_busy():
    while not stop.is_set():
        encoder.predict(pairs)


busy = threading.Thread(target=keep_busy)
for state, parallelism in (("idle", None), ("idle", "true"), ("busy", None), ("busy", "true")):
    os.environ.pop("TOKENIZERS_PARALLELISM", None)
    if parallelism:
        os.environ["TOKENIZERS_PARALLELISM"] = parallelism
    if state == "busy" and not busy.is_alive():
        busy.start()
    encoder.predict(pairs)
    child = os.fork()
    if child == 0:
        same = abs(encoder.predict(pairs) - before).max() < 1e-5 and len(encoder.rank("cat", ["mat"])) == 1
        os._exit(0 if same else 3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
stop.set()
busy.join()
assert abs(encoder.predict(pairs) - before).max() < 1e-5
print("four children", torch.get_num_threads())
"""


def test_row_35_a_forked_child_scores_and_never_hangs(tiny_folder: str) -> None:
    """After scores with two threads a child gives equal ones, even if another thread was scoring at the fork.

    Also where the user has set TOKENIZERS_PARALLELISM=true, which makes a child that tokenises wait for ever.
    """
    command = [sys.executable, "-W", "ignore", "-c", FORKING, tiny_folder]
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    done = fork_server.run(command, env=environment, text=True, timeout=60)
    assert done.stdout.split() == ["four", "children", "2"], done.stderr


# ---- 36: interrupts


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_row_36_ctrl_c_in_a_call_leaves_the_next_one_right(own_tiny: CrossEncoder, batch: int) -> None:
    """An interrupt at any batch goes up to the caller and leaves no lock, mode or number behind."""
    pairs = [(QUERY, document) for document in texts(30)]
    expected = own_tiny.predict(pairs, batch_size=6)
    asked: list[int] = []

    def interrupt(inputs: dict[str, torch.Tensor]) -> None:
        asked.append(1)
        if len(asked) == batch:
            raise KeyboardInterrupt

    with before_forward(own_tiny, interrupt), pytest.raises(KeyboardInterrupt):
        own_tiny.predict(pairs, batch_size=6)
    assert len(asked) == batch
    with ThreadPoolExecutor(1) as pool:
        assert np.array_equal(pool.submit(own_tiny.predict, pairs, 6).result(timeout=30), expected)


def test_row_36_ctrl_c_in_the_float32_retry_leaves_half_precision(own_tiny: CrossEncoder) -> None:
    """An interrupt while the weights are in float32 for one batch brings them back as they were."""
    own_tiny.model.half()
    with torch.no_grad():
        own_tiny.model.classifier.bias.fill_(float("inf"))
    before = copy.deepcopy(own_tiny.model.state_dict())
    asked: list[torch.dtype] = []

    def interrupt(inputs: dict[str, torch.Tensor]) -> None:
        asked.append(own_tiny.model.dtype)
        if len(asked) == 2:
            raise KeyboardInterrupt

    with before_forward(own_tiny, interrupt), pytest.raises(KeyboardInterrupt):
        own_tiny.predict((QUERY, "cat"))
    assert asked == [torch.float16, torch.float32]
    after = own_tiny.model.state_dict()
    assert all(after[name].dtype == value.dtype and torch.equal(after[name], value) for name, value in before.items())


def test_row_36_a_call_is_given_up_between_batches(own_tiny: CrossEncoder) -> None:
    """Closing from another thread ends a long call at its next batch instead of letting it run on."""
    asked: list[int] = []

    def close(inputs: dict[str, torch.Tensor]) -> None:
        asked.append(1)
        if len(asked) == 2:
            thread = threading.Thread(target=own_tiny.close)
            thread.start()
            thread.join()

    with before_forward(own_tiny, close), pytest.raises(SecondPassError, match="is closed"):
        own_tiny.predict([(QUERY, document) for document in texts(12)], batch_size=1)
    assert len(asked) == 2


# ---- 37: copies


def pickled(encoder: CrossEncoder) -> CrossEncoder:
    """Send a cross-encoder through pickle."""
    copied: CrossEncoder = pickle.loads(pickle.dumps(encoder))  # noqa: S301
    return copied


@pytest.mark.parametrize("way", [copy.deepcopy, pickled])
def test_row_37_a_copy_scores_alike_and_is_independent(
    own_tiny: CrossEncoder, way: Callable[[CrossEncoder], CrossEncoder]
) -> None:
    """Options, weights and activation travel; what happens to one does not happen to the other."""
    own_tiny.max_length, own_tiny.truncation, own_tiny.max_batch_tokens = 40, "only_document", 200
    own_tiny.default_activation_function = nn.Tanh()
    pairs = [(QUERY, document) for document in texts(10)]
    expected = own_tiny.predict(pairs)
    twin = way(own_tiny)
    assert np.allclose(twin.predict(pairs), expected, rtol=0, atol=ROUNDING)
    assert (twin.max_length, twin.truncation, twin.max_batch_tokens) == (40, "only_document", 200)
    twin.fit(loader(4), **FAST | {"optimizer_params": {"lr": 0.01}})
    assert not np.allclose(twin.predict(pairs), expected, rtol=0, atol=100 * ROUNDING)
    assert np.array_equal(own_tiny.predict(pairs), expected)
    own_tiny.close()
    assert len(twin.rank(QUERY, ["cat", "mat"])) == 2


@pytest.mark.parametrize("way", [copy.deepcopy, pickled])
def test_row_37_a_copy_reads_special_tokens_in_texts_as_text(
    own_tiny: CrossEncoder, way: Callable[[CrossEncoder], CrossEncoder]
) -> None:
    """What looks like a special token has the same ids in a copy."""
    for document in ("cat [SEP] mat", "[MASK][CLS]", "a [UNK] b"):
        (own,), (copied,) = (encoder.tokens([QUERY], [document]) for encoder in (own_tiny, way(own_tiny)))
        assert own.ids.tolist() == copied.ids.tolist()


@pytest.mark.parametrize("way", [copy.deepcopy, pickled])
def test_row_37_a_copy_made_in_a_call_does_not_wait_for_it(
    own_tiny: CrossEncoder, way: Callable[[CrossEncoder], CrossEncoder]
) -> None:
    """Locks do not travel: a copy made while the original scores works at once."""
    expected = own_tiny.predict((QUERY, "cat"))
    with own_tiny.engine().ready().lock:
        assert way(own_tiny).predict((QUERY, "cat")) == pytest.approx(expected, rel=0, abs=ROUNDING)


@pytest.mark.parametrize("way", [copy.deepcopy, pickled])
def test_row_37_a_copy_made_during_training_is_free(
    own_tiny: CrossEncoder, way: Callable[[CrossEncoder], CrossEncoder]
) -> None:
    """An evaluator may keep a copy: nobody trains that, so any thread may ask it."""
    kept: list[CrossEncoder] = []
    own_tiny.fit(loader(4), Scripted([0.5], then=lambda encoder: kept.append(way(encoder))), **FAST)
    with ThreadPoolExecutor(1) as pool:
        first, second = (pool.submit(kept[0].predict, (QUERY, "cat")).result() for _ in range(2))
    assert first == second


def test_row_37_a_copy_comes_back_in_another_process(own_tiny: CrossEncoder, tmp_path: Path) -> None:
    """A fresh interpreter needs nothing but the package to use a pickled cross-encoder."""
    (tmp_path / "encoder").write_bytes(pickle.dumps(own_tiny))
    code = (
        "import pickle, pathlib, sys\n"
        "encoder = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())\n"
        "print(float(encoder.predict(('cat', 'mat'))))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "encoder")]
    done = fork_server.run(command, text=True, timeout=60, check=True)
    assert float(done.stdout) == pytest.approx(float(own_tiny.predict(("cat", "mat"))), abs=1e-6)
