"""Several processes compute one model: the same numbers in the same order, whatever becomes of a process."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput, SecondPassError
from secondpass.forwards import workers
from secondpass.forwards.contract import Computation, Logits, Progress, score
from secondpass.forwards.module import ModelForward
from secondpass.forwards.workers import Workers, opened, shared
from secondpass.merging import SharedReranker
from secondpass.tokens import Tokens
from tests.forwards.portable import KILLS, NO_MEMORY, SLOW, STRANGE, WRONG, PortableSum, inputs_of
from tests.tiny_models import WORDS

WAIT_S = 240.0
QUERY = "how to reset the password"
DOCUMENTS = [" ".join(random.Random(size).choices(WORDS, k=1 + size % 23)) for size in range(60)]
PAIRS = [(QUERY, document) for document in DOCUMENTS]
TWO = ["cpu", "cpu"]


def until(true: Callable[[], object]) -> None:
    """Wait for it."""
    end = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < end, true
        time.sleep(0.01)


def numbers(pool: Workers | None) -> list[int]:
    """The processes that take batches now."""
    crew = None if pool is None else pool._crew
    assert crew is not None
    until(lambda: crew._ready == len(pool.devices))
    return [worker._process.pid for worker in crew._workers]


def gone(number: int) -> bool:
    """Whether a process has ended."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    return b"\nState:\tZ" in Path(f"/proc/{number}/status").read_bytes()


@pytest.fixture(scope="module")
def one(tiny_folder: str) -> CrossEncoder:
    """A model on one device, whose calls are of many batches."""
    return CrossEncoder(tiny_folder, device="cpu", max_batch_tokens=60)


@pytest.fixture(scope="module")
def two(tiny_folder: str) -> Iterator[CrossEncoder]:
    """The same on two."""
    encoder = CrossEncoder(tiny_folder, device="cpu,cpu", max_batch_tokens=60)
    numbers(encoder.engine().workers)
    yield encoder
    encoder.close()


@pytest.fixture(scope="module")
def pool() -> Iterator[Workers]:
    """Two processes for any portable forward."""
    made = Workers(TWO)
    yield made
    made.close()


def test_every_door_gives_the_scores_of_one_process(one: CrossEncoder, two: CrossEncoder) -> None:
    """Bit for bit, in the order of the input, with the same batches in the record."""
    records: list[list[object]] = [[], []]
    given = [encoder.predict(PAIRS, records=told) for encoder, told in zip((one, two), records, strict=True)]
    assert given[0].tobytes() == given[1].tobytes()
    assert records[0][0].batches == records[1][0].batches > 10
    assert one.rank(QUERY, DOCUMENTS, top_k=7) == two.rank(QUERY, DOCUMENTS, top_k=7)
    many = [encoder.rank_many([QUERY, "dog"], [DOCUMENTS, DOCUMENTS[:9]]) for encoder in (one, two)]
    assert [ranking.documents for ranking in many[0]] == [ranking.documents for ranking in many[1]]
    assert (two.devices, two.workers, one.devices) == (("cpu", "cpu"), 2, ("cpu",))


def test_a_batch_of_a_dead_process_is_done_by_another(one: CrossEncoder, two: CrossEncoder) -> None:
    """A process is stopped with a batch and killed: nothing is lost or swapped, and another takes its place."""
    pool = two.engine().workers
    before = numbers(pool)
    os.kill(before[0], signal.SIGSTOP)
    with SharedReranker(two) as queue:
        calls = [queue.submit(QUERY, DOCUMENTS[place : place + 20]) for place in range(0, 60, 20)]
        until(lambda: sum(call.done() for call in calls) >= 1)  # by the other one
        os.kill(before[0], signal.SIGKILL)
        logits = np.concatenate([call.result(WAIT_S).logits for call in calls])
    assert logits.tobytes() == one.engine().score([[QUERY] * 60, DOCUMENTS], one._window(32)).logits.tobytes()
    after = numbers(pool)
    assert before[0] not in after
    assert before[1] in after


def test_every_accelerator_is_asked_for_where_nobody_has_imported_torch(tiny_folder: str) -> None:
    """A model that needs no torch does not say that there is no GPU: torch is asked, which is installed."""
    code = (
        "import sys\nfrom secondpass import CrossEncoder\n"
        f"encoder = CrossEncoder({tiny_folder!r}, device='cpu')\nseen = ['torch' in sys.modules]\n"
        "pool = encoder.start_multi_process_pool()\nseen.append('torch' in sys.modules)\n"
        "import torch\ngpus = torch.cuda.device_count()\n"
        "wanted = [f'cuda:{place}' for place in range(gpus)] if gpus > 1 else ['cpu'] * len(pool.devices)\n"
        "print(*seen, [*pool.devices] == wanted, len(wanted) > 1)\nencoder.stop_multi_process_pool(pool)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "True", "True"]


def test_a_pool_is_used_as_sentence_transformers_uses_one(one: CrossEncoder, tiny_folder: str) -> None:
    """`start_multi_process_pool`, `pool=`, `chunk_size=`, `stop_multi_process_pool`; the processes end then."""
    encoder = CrossEncoder(tiny_folder, device="cpu")
    pool = encoder.start_multi_process_pool(TWO)
    assert encoder.predict(PAIRS, pool=pool, chunk_size=8).tobytes() == one.predict(PAIRS).tobytes()
    started = numbers(pool)
    assert encoder.predict(PAIRS[:2], device=TWO).tolist() == one.predict(PAIRS[:2]).tolist()
    assert numbers(pool) == started
    encoder.stop_multi_process_pool(pool)
    assert all(map(gone, started))
    with pytest.raises(InvalidInput, match="pool is not what"):
        encoder.predict(PAIRS, pool=pool)
    with pytest.raises(InvalidInput, match="chunk_size"):
        encoder.predict(PAIRS, chunk_size=0)
    with pytest.raises(InvalidInput, match="pool is NoneType"):
        encoder.stop_multi_process_pool(None)
    assert encoder.predict(PAIRS[:2]).tolist() == one.predict(PAIRS[:2]).tolist()


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (["cpu", "cuda:0"], "device: cpu and cuda devices"),
        ([], "device: no devices"),
        (["cpu", 3], "device: cpu and cuda devices"),
        (["cpu", 3.0], r"device\[1\] is float"),
        (["cuda:0", "cuda:77"], "is not available"),
    ],
)
def test_devices_that_cannot_share_a_model_are_refused(
    own_tiny: CrossEncoder, devices: list[object], message: str
) -> None:
    """Before anything is started, by the argument's name and the index."""
    for call in (
        lambda: own_tiny.predict(PAIRS, device=devices),
        lambda: own_tiny.rank(QUERY, DOCUMENTS, device=devices),
        lambda: CrossEncoder("nowhere", device=devices),
    ):
        with pytest.raises(InvalidInput, match=message):
            call()
    assert own_tiny.devices == ("cpu",)


def test_nobody_waits_for_the_first_start(
    one: CrossEncoder, own_tiny: CrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without torch a model on several devices scores as soon as one on one does: this process computes until then."""
    over = threading.Event()

    def never(*given: object) -> None:
        over.wait(WAIT_S)
        raise OSError("it did not start")

    monkeypatch.setattr(workers._Crew, "_started", never)
    began = own_tiny.predict(PAIRS, device=TWO)
    assert began.tobytes() == one.predict(PAIRS).tobytes()
    monkeypatch.setattr(workers, "END_S", 0.0)
    own_tiny.close()
    over.set()


def test_a_batch_that_ends_processes_ends_few(pool: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused after the last that is allowed; what waits beside it is done, and the places are filled again."""
    monkeypatch.setattr(workers, "MOST_DEATHS", 2)
    computation = pool.around((forward := PortableSum(tmp_path)).ready(), forward)
    before = numbers(pool)
    bad, good = computation.start(inputs_of(KILLS)), computation.start(inputs_of(1, 2))
    with pytest.raises(SecondPassError, match=r"2 worker processes ended over a batch of 1 inputs.*exit code 3"):
        bad.result(WAIT_S)
    assert good.result(WAIT_S).tolist() == [[101.0], [103.0]]
    assert len({*numbers(pool)} | {*before}) in (3, 4)
    assert {int(path.name) for path in tmp_path.iterdir()}.isdisjoint({os.getpid()})


def test_a_replacement_that_cannot_load_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The others go on meanwhile, and this process where none is left; a model that none ever loaded is refused."""
    monkeypatch.setattr(workers, "PAUSE_S", 0.01)
    monkeypatch.setattr(workers, "MOST_STARTS", 1000)
    broken, forward = tmp_path / "broken", PortableSum(tmp_path)
    pool = Workers(TWO)
    computation = pool.around(forward.ready(), forward)
    before = numbers(pool)
    broken.touch()
    os.kill(before[0], signal.SIGKILL)
    until(lambda: "did not start: no memory for it" in caplog.text)
    assert computation.logits(inputs_of(1)).tolist() == [[101.0]]
    broken.unlink()
    assert before[1] in numbers(pool)
    monkeypatch.setattr(workers, "MOST_STARTS", 3)
    broken.touch()
    for number in numbers(pool):
        os.kill(number, signal.SIGKILL)
    until(lambda: "no worker process is left" in caplog.text)
    assert computation.logits(inputs_of(2)).tolist() == [[102.0]]
    assert str(os.getpid()) in {path.name for path in tmp_path.iterdir()}
    pool.close()
    fresh = Workers(["cpu"])
    with pytest.raises(InvalidInput, match="device: the model cannot be given to other processes: no memory for it"):
        fresh.around(forward.ready(), forward).logits(inputs_of(1))
    fresh.close()


def test_a_place_that_cannot_load_first_is_no_failure_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is filled once another has shown that the model can be loaded."""
    monkeypatch.setattr(workers, "PAUSE_S", 0.01)
    (tmp_path / "narrow").touch()
    forward = PortableSum(tmp_path)
    pool = Workers(TWO)
    computation = pool.around(forward.ready(), forward)
    assert computation.logits(inputs_of(1)).tolist() == [[101.0]]
    assert len(numbers(pool)) == 2
    assert caplog.text.count("did not start: no memory for the first") == 1
    pool.close()


def test_accelerators_without_memory_leave_the_first_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the model is it is computed, except for one that cannot be pickled, which is refused."""
    monkeypatch.setattr(workers, "PAUSE_S", 0.01)
    monkeypatch.setattr(workers, "MOST_STARTS", 2)
    (tmp_path / "broken").touch()
    forward = PortableSum(tmp_path)
    own = replace(forward.ready(), device="cuda:0")
    pool = Workers(["cuda:0", "cuda:1"])
    computation = pool.around(own, forward)
    crew = pool._crew
    assert crew is not None
    until(lambda: crew._hoped_for == 0)
    assert caplog.text.count("cuda:1 did not start: no memory for it") == 2
    assert computation.logits(inputs_of(1)).tolist() == [[101.0]]
    monkeypatch.setattr(forward, "elsewhere", lambda own: lambda device: own)
    refused = pool.around(replace(own), forward)
    crew = pool._crew
    assert crew is not None
    until(lambda: crew._hoped_for == 0)
    with pytest.raises(InvalidInput, match="device: the model cannot be given to other processes"):
        refused.logits(inputs_of(1))
    pool.close()


def test_what_a_process_gives_back_at_the_end_is_done_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With accelerators this process has a place too: it has left when a process is killed that had no end in time."""
    monkeypatch.setattr(workers, "END_S", 1.0)
    forward, begun, free = PortableSum(tmp_path), threading.Event(), threading.Event()

    def here(inputs: Sequence[Tokens]) -> Logits:
        begun.set()
        free.wait(WAIT_S)
        return np.array([[inputs[0].ids[0]]], np.float32)

    pool = Workers(["cuda:0", "cuda:1"])
    computation = pool.around(replace(forward.ready(), device="cuda:0", logits=here), forward)
    first = computation.start(inputs_of(1))
    until(begun.is_set)
    until(lambda: pool._crew is not None and pool._crew._ready == 2)
    slow = computation.start(inputs_of(SLOW))
    until(lambda: any(tmp_path.iterdir()))
    free.set()
    pool.close()
    assert [future.result(WAIT_S).tolist() for future in (first, slow)] == [[[1.0]], [[float(SLOW)]]]


def test_errors_of_a_process_are_errors_of_the_call(pool: Workers, tmp_path: Path) -> None:
    """A batch that does not fit into memory is halved; other errors come back, in words where they cannot travel."""
    computation = pool.around((forward := PortableSum(tmp_path)).ready(), forward)
    numbers(pool)
    inputs, progress = inputs_of(NO_MEMORY, 1, 2, 3), Progress()
    logits = score(computation, inputs, [(0, 1), (2, 3)], progress)
    assert (logits[:, 0].tolist(), progress.retries, progress.batches) == ([108.0, 102.0, 104.0, 106.0], 1, 3)
    with pytest.raises(InvalidInput, match="input 0 is wrong"):
        score(computation, inputs_of(1, WRONG), [(0,), (1,)], Progress())
    with pytest.raises(RuntimeError, match="OfItsOwnKindError: strange error"):
        computation.logits(inputs_of(STRANGE))
    assert str(os.getpid()) not in {path.name for path in tmp_path.iterdir()}


def test_a_model_that_changed_is_computed_anew(tmp_path: Path) -> None:
    """The next call is of the new one, a call under way ends with the old; who is let go of leaves no process."""
    pool, forward = Workers(["cpu"]), PortableSum(tmp_path)  # a start costs half a second
    first = pool.around(forward.ready(), forward)
    assert pool.around(forward.ready(), forward) is first
    started = numbers(pool)
    forward.use(2.0)
    second = pool.around(forward.ready(), forward)
    assert all(map(gone, started))
    assert second.logits(inputs_of(1)).tolist() == [[202.0]]
    assert first.logits(inputs_of(1)).tolist() == [[101.0]]
    started = numbers(pool)
    del pool, first, second
    gc.collect()
    until(lambda: all(map(gone, started)))


PARENT = """
import os, sys, threading
from pathlib import Path
from secondpass.forwards.workers import Workers
from tests.forwards.portable import SLOW, PortableSum, inputs_of
pool, forward = Workers(["cpu"]), PortableSum(Path(sys.argv[1]))
computation = pool.around(forward.ready(), forward)
crew = pool._crew
while crew._ready < 1:
    threading.Event().wait(0.01)
child = os.fork()
if not child:
    ended = computation.logits(inputs_of(1)).tolist() == [[101.0]] and not crew._workers
    os.write(1, b"alone\\n" if ended else b"not alone\\n")
    threading.Event().wait()
# one write: what `print` hands on in pieces where output is unbuffered could stand around the child's line
os.write(1, f"{child} {' '.join(str(worker._process.pid) for worker in crew._workers)}\\n".encode())
computation.start(inputs_of(SLOW))
threading.Event().wait()
"""


def test_processes_end_with_a_killed_parent(tmp_path: Path) -> None:
    """In the midst of a batch, too; whoever was forked from it meanwhile computes alone, and lives on."""
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        try:
            lines = [parent.stdout.readline() for _ in range(2)]
            assert "alone\n" in lines
            child, *processes = map(int, min(lines).split())
            until(lambda: any(int(path.name) in processes for path in tmp_path.iterdir()))
        finally:
            parent.kill()
    try:
        until(lambda: all(map(gone, processes)))
        assert not gone(child)
    finally:
        os.kill(child, signal.SIGKILL)


class TwoHeads(nn.Module):
    """Weights of several types and sizes, of which two are one."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.randn(3, 5).T)
        self.other = self.one
        self.small = nn.Parameter(torch.randn(4).bfloat16())
        self.register_buffer("none", torch.empty(0, 3))
        self.register_buffer("number", torch.tensor(3))


def test_weights_travel_in_shared_memory(tiny_model_folder: Callable[..., str]) -> None:
    """Of torch and of numpy: the same bits, tied ones one, mapped and not copied; what is written stays where it is."""
    model, table = TwoHeads(), np.arange(6, dtype=np.float32)
    with shared((model, table)) as file:
        (first, numbers), (second, _) = opened(file.fileno()), opened(file.fileno())
    for name, weight in model.state_dict().items():
        assert torch.equal(first.state_dict()[name], weight)
        assert first.state_dict()[name].dtype == weight.dtype
    assert first.one is first.other
    with torch.no_grad():
        first.one.zero_()
    assert torch.equal(second.one, model.one)
    assert numbers.base is not None
    assert numbers.tolist() == table.tolist()


@pytest.mark.parametrize(("architecture", "precision"), [("bert", "auto"), ("deberta-v2", "fp32"), ("bert", "bf16")])
def test_a_model_of_torch_is_the_same_elsewhere(
    tiny_model_folder: Callable[..., str], architecture: str, precision: str
) -> None:
    """What "auto" was settled as here goes with it."""
    encoder = CrossEncoder(tiny_model_folder(architecture), device="cpu", precision=precision)
    _ = encoder.model
    forward, tokens = encoder.engine().forward, encoder.tokens([QUERY] * 5, DOCUMENTS[:5])
    assert isinstance(forward, ModelForward)
    own = forward.ready()
    with shared(forward.elsewhere(own)) as file:
        made = opened(file.fileno())("cpu")
    assert made(tokens).tobytes() == own.logits(tokens).tobytes()
    assert isinstance(own, Computation)
