"""Forks, Ctrl-C and the end of the interpreter: nobody hangs, nothing is left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from secondpass import CrossEncoder
from secondpass.errors import SecondPassError
from secondpass.merging import SharedReranker
from tests import fork_server
from tests.merging.watched_forward import WAIT_S, watched

LIMIT_S = 60


def outcome_of_child(work: object) -> int:
    """Fork, run `work` there, and give its exit code: 0 when it returned True, 2 when it hung."""
    child = os.fork()
    if not child:
        signal.alarm(LIMIT_S)
        code = 1
        try:
            code = 0 if work() else 1  # type: ignore[operator]
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_forked_child_has_an_empty_queue_of_its_own(own_tiny: CrossEncoder) -> None:
    """Forked while a batch runs: inherited futures fail clearly, new calls are answered, the parent goes on."""
    forward = watched(own_tiny)
    with SharedReranker(own_tiny) as shared:
        expected = shared.submit("cat", ["mat", "dog"]).result(WAIT_S).logits
        forward.hold()
        inherited = [shared.submit("cat", ["mat", "dog"])]
        forward.wait_for_entry()
        inherited.append(shared.submit("cat", ["dog"]))

        def child() -> bool:
            forward.gate.set()
            for future in inherited:
                try:
                    future.result(WAIT_S)
                    return False
                except SecondPassError as error:
                    if "forked" not in str(error):
                        return False
            mine = shared.submit("cat", ["mat", "dog"]).result(WAIT_S).logits
            shared.close()
            return bool(np.abs(mine - expected).max() < 1e-5)

        assert outcome_of_child(child) == 0
        forward.gate.set()
        assert [len(future.result(WAIT_S).logits) for future in inherited] == [2, 1]


PROGRAM = """
import asyncio, sys, threading
from secondpass import CrossEncoder
from secondpass.merging import SharedReranker
shared = SharedReranker(CrossEncoder(sys.argv[1], device="cpu", max_batch_tokens=20))
documents = [f"mat {'water ' * (number % 90)} {number}" for number in range(9000)]
"""
ENDINGS = {
    "work left, and a daemon that waits for it": """
waiting = shared.submit('cat', documents[:5000])
threading.Thread(target=lambda: waiting.exception(), daemon=True).start()
""",
    "work left by a coroutine": """
async def main():
    task = asyncio.create_task(shared.score('cat', documents[:5000]))
    while shared.load.tokens == 0:
        await asyncio.sleep(0.001)
asyncio.run(main())
""",
    "a thread that gets its answer": """
def wait():
    assert len(shared.submit('cat', documents[:50]).result().logits) == 50
threading.Thread(target=wait).start()
""",
}


def started(folder: str, program: str) -> fork_server.Popen:
    """Run a program on the shared model of a folder, warnings as errors."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-c", PROGRAM + program, folder]
    return fork_server.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_interpreter_ends_whatever_is_left(tiny_folder: str, ending: str) -> None:
    """With nothing said on stderr: no crash, no unclosed resource, no wait for thousands of pairs."""
    with started(tiny_folder, ENDINGS[ending]) as process:
        output, errors = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, output, errors) == (0, "", "")


WAITING = """
future = shared.submit('cat', documents)
print('waiting', flush=True)
future.result()
"""


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_reaches_a_caller_who_waits(tiny_folder: str) -> None:
    """KeyboardInterrupt at once, and then the end of the interpreter with most of the work undone."""
    with started(tiny_folder, WAITING) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")
