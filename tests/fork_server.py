"""Python programs as processes that begin with the libraries loaded: a server imports them once, and forks.

`Popen` and `run` are those of `subprocess` for a command of this interpreter (`-c`, `-m` or a script): the process is a
child of the caller with its own arguments, environment, folder, pipes and signals, and it ends as an interpreter ends.
What a library reads when it is imported (HF_HOME, PYTHONUTF8, a first warning) is the server's: a test of that takes
`subprocess`. torch has OMP_NUM_THREADS threads, or one.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any, TextIO

LIBRARIES = (
    "torch._dynamo",
    "torch.distributed.tensor",
    "scipy.optimize",
    "transformers.modeling_utils",
    "transformers.loss.loss_utils",
    "transformers.optimization",
    "transformers.models.bert.modeling_bert",
    "haystack",
    "uvicorn",
    "secondpass.cli.program",
    "secondpass.cross_encoder",
    "secondpass.models.saving",
    "secondpass.merging",
    "secondpass.serving.application",
    "secondpass.training.trainer",
)
ROOT = Path(__file__).parents[1]
LARGEST = 1 << 17
DEFAULT_FILTERS = len(warnings.filters)
CHILD_SUBREAPER = 36  # of prctl(2)
MAIN = {
    "-c": "{!s}",
    "-m": "import runpy; runpy.run_module({!r}, run_name='__main__', alter_sys=True)",
    "script": "import runpy; runpy.run_path({!r}, run_name='__main__')",
}


def opened() -> tuple[TextIO, TextIO, TextIO]:
    """The standard streams over what their numbers now are."""
    encoding, at_once = sys.stdout.encoding, bool(os.environ.get("PYTHONUNBUFFERED"))
    output = io.TextIOWrapper(
        open(1, "wb", closefd=False), encoding, line_buffering=os.isatty(1), write_through=at_once
    )
    errors = io.TextIOWrapper(open(2, "wb", closefd=False), encoding, "backslashreplace", line_buffering=True)
    return open(0, encoding=encoding, closefd=False), output, errors


def begun(asked: dict[str, Any], streams: Sequence[int]) -> CodeType:
    """Make this process the one that was asked for; gives its program."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__ = opened()
    os.chdir(asked["folder"])
    sys.path[1:1] = [path for path in os.environ.get("PYTHONPATH", "").split(":") if path and path not in sys.path]
    sys.modules["torch"].set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 1))
    signal.signal(signal.SIGINT, signal.SIG_IGN if asked["ignores_interrupts"] else signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    arguments = list(asked["arguments"])
    while arguments[0] == "-W":
        _, action = arguments.pop(0), arguments.pop(0)
        sys.warnoptions.append(action)
        # before the interpreter's own filters and behind those of the libraries
        warnings.filters.insert(len(warnings.filters) - DEFAULT_FILTERS, (action, None, Warning, None, 0))
    kind = arguments.pop(0) if arguments[0] in MAIN else "script"
    program = arguments[0]
    if kind == "script":
        sys.path[0] = str(Path(program).resolve().parent)
    sys.argv[:] = ["-c" if kind == "-c" else program, *arguments[1:]]
    return compile(MAIN[kind].format(program), "<string>", "exec")


def serve(descriptor: int, defaults: int) -> CodeType:
    """Fork for whoever is at the other end; returns in a child only, with what that is to run."""
    global DEFAULT_FILTERS  # noqa: PLW0603
    DEFAULT_FILTERS = defaults
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    for name in LIBRARIES:
        importlib.import_module(name)
    assert len(os.listdir("/proc/self/task")) == 1, "a library has started a thread, which a fork would lose"
    gc.collect()
    gc.freeze()
    own = socket.socket(fileno=descriptor)
    while True:
        message, streams, _, _ = socket.recv_fds(own, LARGEST, 3)
        if not message:
            os._exit(0)
        between = os.fork()
        if not between:
            between = os.getpid()
            child = os.fork()
            if not child:
                own.close()
                while os.getppid() == between:
                    time.sleep(0.001)
                return begun(json.loads(message), streams)
            own.send(str(child).encode())
            os._exit(0)
        for stream in streams:
            os.close(stream)
        os.waitpid(between, 0)
        own.send(b"adopted")


class ForkServer:
    """The server of this process; it ends with this process."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = (
            "import warnings; defaults = len(warnings.filters); from tests.fork_server import serve; "
            f"exec(serve({theirs.fileno()}, defaults))"
        )
        with theirs, open(os.devnull, "r+b") as nothing:
            self._process = subprocess.Popen(
                [sys.executable, "-c", program],
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                stdin=nothing,
                stdout=nothing,
                pass_fds=[theirs.fileno()],
            )
        self._take_orphans = ctypes.CDLL(None).prctl
        atexit.register(self.close)

    def fork(self, asked: dict[str, Any], streams: Sequence[int]) -> int:
        """Have a child begun and adopt it, for it is an orphan while this process takes those; gives its number."""
        self._take_orphans(CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            socket.send_fds(self._socket, [json.dumps(asked).encode()], streams)
            child = int(self._socket.recv(LARGEST))
            assert self._socket.recv(LARGEST) == b"adopted"
            return child
        finally:
            self._take_orphans(CHILD_SUBREAPER, 0, 0, 0, 0)

    def close(self) -> None:
        """End the server."""
        self._socket.close()
        self._process.wait()


server = cache(ForkServer)


class Popen(subprocess.Popen):
    """A program of this interpreter, begun by the server."""

    def _execute_child(
        self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell, *rest
    ) -> None:
        """Take the place of fork and exec."""
        interpreter, *arguments = map(os.fspath, args)
        assert interpreter == sys.executable, interpreter
        assert (preexec_fn, tuple(pass_fds), shell) == (None, (), False)
        pipes = rest[:6]
        streams = [given if given != -1 else own for own, given in enumerate((pipes[0], pipes[3], pipes[5]))]
        asked = {
            "arguments": arguments,
            "folder": os.path.abspath(cwd or os.curdir),
            "environment": dict(os.environ if env is None else env),
            "ignores_interrupts": signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
        }
        self.pid = server().fork(asked, streams)
        self._child_created = True
        self._close_pipe_fds(*pipes)


def run(command: Sequence[Any], *, timeout: float, input=None, check: bool = False, **options: Any):
    """The whole of a program, its output captured."""
    pipe = subprocess.PIPE
    given = {"stdin": pipe if input is not None else None, "stdout": pipe, "stderr": pipe} | options
    with Popen(command, **given) as process:
        try:
            output, errors = process.communicate(input, timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    done = subprocess.CompletedProcess(command, process.returncode, output, errors)
    if check:
        done.check_returncode()
    return done
