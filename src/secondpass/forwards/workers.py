"""Several devices for one model: a process for each, all with the same weights, which take batches from one queue.

Processes are new interpreters, never forks: a tokenizer hangs after a fork, and a program needs no `__main__` guard.
They map the weights from memory that they share, those of a CPU have cores of their own, and they end with the process
that started them, however that ends. What computes a batch is what computed it before: its logits are the same numbers
wherever that does not depend on the number of threads, as with the kernel.
"""

from __future__ import annotations

import gc
import io
import logging
import mmap
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from multiprocessing.spawn import get_executable
from typing import Any

import numpy as np
import numpy.typing as npt

from secondpass.errors import InvalidInput, SecondPassError
from secondpass.forwards.choosing import StoredForward
from secondpass.forwards.contract import Computation, Compute, Forward, Logits, PortableForward, end_to_end
from secondpass.forwards.kernel import KernelEncoder
from secondpass.forwards.kernel.native import own_thread_count
from secondpass.system import at_fork
from secondpass.tokens import Tokens

logger = logging.getLogger(__name__)

# A batch that so many processes ended with is refused: the next one would end with it too.
MOST_DEATHS = 3
# A place whose process ended so often in a row before its first batch was done is given up.
MOST_STARTS = 10
# How long after that another is started, the longer the more often; how often it is seen whether an idle one is there.
PAUSE_S, LOOK_S = 0.2, 1.0
# How long an end is waited for.
END_S = 5.0
# Where arrays begin in the shared memory: pages, so that each is in its place for every instruction.
PAGE = 4096
PROGRAM = (
    "import sys; sys.path[:] = sys.argv[3:]; from secondpass.forwards.workers import work; "
    "work(int(sys.argv[1]), int(sys.argv[2]))"
)


class Workers:
    """The processes of one model: as many as it has devices, started anew when the model has changed.

    A copy starts processes of its own. Where the devices are no CPUs the first of them is computed on by this process.

    Args:
        devices: as torch names them, at least two of one kind; "cpu" as often as there shall be processes.
    """

    def __init__(self, devices: Sequence[str]) -> None:
        self.devices = tuple(devices)
        self._lock = threading.Lock()
        self._crew: _Crew | None = None
        _WORKERS.add(self)

    def __reduce__(self) -> tuple[type[Workers], tuple[tuple[str, ...]]]:
        return Workers, (self.devices,)

    def around(self, own: Computation, forward: Forward) -> Computation:
        """The same computation by the processes; `own` is what `forward` told last.

        While the model is trained it changes all the time, and what others made may not be for other processes: that is
        computed by this one alone.
        """
        if getattr(forward, "exact", False) or not isinstance(forward, PortableForward):
            return own
        with self._lock:
            if self._crew is None or self._crew.own is not own:
                self._end()
                self._crew = _Crew(self.devices, own, forward)
                self._at_last = weakref.finalize(self, self._crew.end)
            return self._crew.computation

    def close(self) -> None:
        """End the processes, once they have done what they have; the model is computed by this one."""
        with self._lock:
            self._end()

    def forked(self) -> None:
        """In a forked child the processes are the parent's: what was handed out is computed by this one."""
        self._lock = threading.Lock()
        if self._crew is not None:
            self._crew.forked()

    def _end(self) -> None:
        if self._crew is not None:
            self._at_last()
            self._crew = None


_WORKERS: weakref.WeakSet[Workers] = weakref.WeakSet()


def _after_fork() -> None:
    for workers in _WORKERS:
        workers.forked()


at_fork(after_in_child=_after_fork)


@dataclass(slots=True)
class _Job:
    """A batch on its way: `deaths` are the processes that ended while they had it."""

    inputs: Sequence[Tokens]
    future: Future[Logits] = field(default_factory=Future)
    deaths: int = 0


Told = tuple[str, Sequence[int] | None, int]
"""Of a process: its device, the processors it may use where that is said, and how many threads."""


class _Crew:
    """Processes that hold one state of a model, and the batches that wait for them."""

    def __init__(self, devices: Sequence[str], own: Computation, forward: PortableForward) -> None:
        self.own = own
        here = own.device.partition(":")[0] != "cpu"
        places = devices[1:] if here else devices
        # Without torch what this process computes is the same, and nobody waits for the first start.
        self._patient = not isinstance(forward, StoredForward)
        self._waiting: deque[_Job] = deque()
        self._changed, self._making = threading.Condition(), threading.RLock()
        self._ready, self._hoped_for = int(here), len(places)  # those that take batches, those that are or may come
        self._open, self._unfit = True, list[Exception]()  # why places could not load it
        self._loaded = here  # by anybody, ever: then a failure to load is one of its place, not of the model
        self._failure: Exception | None = None
        self._workers: set[_Worker] = set()
        self.computation = replace(own, logits=self._logits, start=self.start, workers=len(devices), lock=None)
        self._threads = [threading.Thread(target=self._compute_here, daemon=True)] * here
        cores, threads = _shares(len(places)), max(1, own_thread_count() // len(places))
        self._shared: Any = None  # memory with what computes, once a process is to be started
        for device, some in zip(places, cores, strict=True):
            told = (device, some if not here else None, threads)
            self._threads.append(threading.Thread(target=self._keep, args=(forward, told), daemon=True))
        for thread in self._threads:
            thread.start()

    def start(self, inputs: Sequence[Tokens]) -> Future[Logits]:
        """Have a batch computed by whoever is free; at once here where nobody is there (any more)."""
        job = _Job(inputs)
        with self._changed:
            if self._failure is not None:
                job.future.set_exception(self._failure)
                return job.future
            if self._open and (self._ready or (self._patient and self._hoped_for)):
                self._waiting.append(job)
                self._changed.notify()
                return job.future
        self._do(job, self.own.logits)
        return job.future

    def _logits(self, inputs: Sequence[Tokens]) -> Logits:
        return self.start(inputs).result()

    def end(self) -> None:
        """Let everybody finish what waits, and go."""
        with self._changed:
            self._open = False
            self._changed.notify_all()
        for worker in [one for one in [*self._workers] if not one.ready]:
            worker.kill()
        until = time.monotonic() + END_S
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))
        for worker in [*self._workers]:
            worker.kill()
        with self._making:
            if self._shared is not None:
                self._shared.close()

    def forked(self) -> None:
        """See `Workers.forked`; locks may be held by threads that are not there."""
        self._changed, self._making = threading.Condition(), threading.RLock()
        self._open, self._ready, self._hoped_for, self._threads = False, 0, 0, []
        self._waiting.clear()
        for worker in self._workers:
            worker.forget()
        self._workers.clear()

    def _keep(self, forward: PortableForward, told: Told) -> None:
        """Keep one place filled: start a process, give it batches, and start another when it has ended."""
        failures = 0
        while self._open and failures < MOST_STARTS and self._failure is None:
            try:
                worker = self._started(forward, told)
            except Exception as error:  # models are pickled in their own ways, and fail in their own ways
                if not (isinstance(error, (EOFError, OSError)) or self._loads_elsewhere(error)):
                    unfit = f"device: the model cannot be given to other processes: {_reason(error)}"
                    self._failure = error if isinstance(error, SecondPassError) else InvalidInput(unfit)
                    break
                if self._open:
                    failures += 1
                    logger.warning("a worker process of %s did not start: %s", told[0], _reason(error))
                    time.sleep(PAUSE_S * failures)
                continue
            with self._changed:
                self._ready, self._loaded = self._ready + 1, True
            done = self._take(worker.compute, worker.lives)
            with self._changed:
                self._ready -= 1
                self._workers.discard(worker)
            code = worker.end()
            if self._open:
                failures = 0 if done else failures + 1
                logger.warning("a worker process of %s ended (%s): another takes its place", told[0], code)
        self._leave(places=1)

    def _loads_elsewhere(self, error: Exception) -> bool:
        """Whether a failure is its place's and not the model's; waits until another has loaded that, or none can."""
        self._unfit.append(error)
        while self._shared is not None and not self._loaded and len(self._unfit) < self._hoped_for:
            time.sleep(PAUSE_S)
        return self._shared is not None and self._loaded  # what cannot be pickled is loaded nowhere else

    def _started(self, forward: PortableForward, told: Told) -> _Worker:
        with self._making:
            if self._shared is None:
                self._shared = shared(forward.elsewhere(self.own))
            worker = _Worker(self._shared.fileno(), *told)
            self._workers.add(worker)
        try:
            worker.wait()
        except BaseException:
            self._workers.discard(worker)
            worker.end()
            raise
        return worker

    def _compute_here(self) -> None:
        """Take batches in this process until the end; what a process gives back later is for whoever leaves last."""
        self._take(self.own.logits, lambda: True)
        self._leave(ready=1)

    def _leave(self, ready: int = 0, places: int = 0) -> None:
        """One takes no more batches, or a place stays empty; the last one does what waits itself."""
        with self._changed:
            self._ready -= ready
            self._hoped_for -= places
            if self._hoped_for or self._ready:
                return
            left, failure = [*self._waiting], self._failure
            self._waiting.clear()
        if self._open and failure is None:
            logger.error("no worker process is left: this one computes")

        def failed(inputs: Sequence[Tokens]) -> Logits:
            raise failure or SecondPassError("a worker process ended over this batch, and no other is left")

        for job in left:
            self._do(job, failed if failure is not None or (job.deaths and self._open) else self.own.logits)

    def _take(self, compute: Compute, lives: Callable[[], bool]) -> int:
        """Do batches until there are none any more, or whoever computes has gone; how many were done."""
        done = 0
        while (job := self._next(lives)) is not None:
            try:
                self._do(job, compute)
            except _Gone as gone:
                job.deaths += 1
                if job.deaths < MOST_DEATHS:
                    with self._changed:
                        self._waiting.appendleft(job)
                        self._changed.notify()
                else:
                    told = f"{job.deaths} worker processes ended over a batch of {len(job.inputs)} inputs"
                    job.future.set_exception(SecondPassError(f"{told}, the last one with {gone}"))
                break
            done += 1
        return done

    def _next(self, lives: Callable[[], bool]) -> _Job | None:
        with self._changed:
            while lives():
                if self._waiting:
                    return self._waiting.popleft()
                if not self._open:
                    return None
                self._changed.wait(LOOK_S)
            return None

    @staticmethod
    def _do(job: _Job, compute: Compute) -> None:
        """Compute a batch, unless nobody wants it any more."""
        if not job.deaths and not job.future.set_running_or_notify_cancel():
            return
        try:
            logits = compute(job.inputs)
        except _Gone:
            raise
        except Exception as error:
            job.future.set_exception(error)
        else:
            job.future.set_result(logits)


def _shares(count: int) -> list[list[int]]:
    """The processors that this process may use, in as many parts; one after the other where there are fewer."""
    if not hasattr(os, "sched_getaffinity"):
        return [[]] * count
    all_of_them = sorted(os.sched_getaffinity(0))
    size = len(all_of_them)
    if size < count:
        return [[all_of_them[place % size]] for place in range(count)]
    return [all_of_them[place * size // count : (place + 1) * size // count] for place in range(count)]


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# ---- What travels: what computes, once, in memory that everybody maps; then batches there and logits back.
class _Pickler(pickle.Pickler):
    """Numbers of the kernel and of torch's tensors are put beside, as pickle does with numpy's."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is KernelEncoder:
            made, (packed, *rest) = value.__reduce__()
            return made, (pickle.PickleBuffer(packed), *rest)
        torch = sys.modules.get("torch")
        if torch is None or type(value) is not torch.Tensor:
            return NotImplemented
        flat = value.detach().cpu().contiguous().reshape(-1)
        numbers: Any = flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0, np.uint8)
        return _tensor, (pickle.PickleBuffer(numbers), value.dtype, tuple(value.shape))


def _tensor(numbers: Any, dtype: Any, shape: tuple[int, ...]) -> Any:
    import torch

    if memoryview(numbers).nbytes == 0:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(numbers, dtype=dtype).reshape(shape)


def shared(value: object) -> Any:
    """A nameless file in memory with a pickled value, its arrays beside it, for `opened`."""
    head, buffers = io.BytesIO(), list[pickle.PickleBuffer]()
    _Pickler(head, 5, buffer_callback=buffers.append).dump(value)
    parts = [memoryview(head.getbuffer()), *(buffer.raw() for buffer in buffers)]
    sizes = [len(part) for part in parts]
    file: Any = os.fdopen(os.memfd_create("secondpass"), "w+b") if hasattr(os, "memfd_create") else None
    file = file or tempfile.TemporaryFile()
    directory = np.array([len(parts), *sizes], np.int64).tobytes()
    file.write(directory)
    for part in parts:
        file.seek(-file.tell() % PAGE, os.SEEK_CUR)
        file.write(part)
    file.flush()
    return file


def opened(file: int) -> Any:
    """The value of `shared`; its arrays lie in the file, and what is written to them stays here."""
    content = memoryview(mmap.mmap(file, 0, access=mmap.ACCESS_COPY))
    count = int(np.frombuffer(content, np.int64, 1)[0])
    place, parts = 8 * (1 + count), []
    for size in np.frombuffer(content, np.int64, count, 8).tolist():
        place += -place % PAGE
        parts.append(content[place : place + size])
        place += size
    return pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301 - what our own process wrote into memory


class _Gone(Exception):
    """A process ended while it had a batch."""


class _Worker:
    """One process, seen from the one that started it."""

    def __init__(self, file: int, device: str, cores: Sequence[int] | None, threads: int) -> None:
        ours, theirs = socket.socketpair()
        environment = os.environ | ({} if cores is None else {"OMP_NUM_THREADS": str(threads)})
        self.ready = False
        with theirs:
            self._pipe: Connection[Any, Any] = Connection(ours.detach())
            executable = os.fsdecode(get_executable())
            program = [executable, "-c", PROGRAM, str(theirs.fileno()), str(file), *sys.path]
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter
                program, env=environment, pass_fds=(theirs.fileno(), file), stdin=subprocess.DEVNULL, stdout=2
            )
        self._pipe.send((device, cores))

    def wait(self) -> None:
        """Until it is ready; raises EOFError where it ends before, or what it failed with."""
        answer = self._pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        self.ready = True

    def compute(self, inputs: Sequence[Tokens]) -> Logits:
        """As a `Compute`; raises _Gone too."""
        lengths = np.array([len(item) for item in inputs], np.int32)
        try:
            self._pipe.send((lengths, *end_to_end(inputs)))
            answer = self._pipe.recv()
        except (EOFError, OSError):
            raise _Gone(f"exit code {self.end()}") from None
        if isinstance(answer, Exception):
            raise answer
        made: npt.NDArray[np.float32] = answer
        return made

    def lives(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def end(self) -> int:
        """Hang up, upon which it ends; gives its exit code."""
        self._pipe.close()
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(END_S)
        self._process.kill()
        return self._process.wait()

    def kill(self) -> None:
        """At once."""
        self._process.kill()

    def forget(self) -> None:
        """In a forked child: it is another's, and hears of that one's end only if nobody else holds the line."""
        self._pipe.close()
        self._process.returncode = 0


# ---- And in the process itself.
def work(pipe: int, file: int) -> None:
    """Compute what comes through a pipe until it is closed; signals to a whole group are for the other end to judge."""
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)
    line: Connection[Any, Any] = Connection(pipe)
    threading.Thread(target=_end_with, args=(pipe,), daemon=True).start()
    with suppress(EOFError, OSError):
        device, cores = line.recv()
        if cores:
            with suppress(OSError):
                os.sched_setaffinity(0, cores)
        try:
            compute: Compute = opened(file)(device)
        except Exception as error:
            line.send(_portable(error))
            return
        gc.collect()
        gc.freeze()
        line.send(None)
        while True:
            line.send(_answer(compute, *line.recv()))


def _answer(compute: Compute, lengths: npt.NDArray[np.int32], ids: Any, types: Any) -> Logits | Exception:
    ends = np.cumsum(lengths)[:-1]
    inputs = [Tokens(*item) for item in zip(np.split(ids, ends), np.split(types, ends), strict=True)]
    try:
        return compute(inputs)
    except Exception as error:
        return _portable(error)


def _portable(error: Exception) -> Exception:
    """The error, or where it cannot be read elsewhere its words."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _end_with(pipe: int) -> None:
    """End as soon as nobody is at the other end, in the midst of a batch too."""
    watch = select.poll()
    watch.register(pipe, 0)
    watch.poll()
    os._exit(0)
