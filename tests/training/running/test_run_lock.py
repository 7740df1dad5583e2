"""One training at a time; the rest is in `test_fit`."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import threading

import pytest
import torch

from secondpass.errors import CheckpointError, InvalidInput, SecondPassError
from secondpass.training.running import run_watch
from secondpass.training.running.loop import claimed
from secondpass.training.running.run_watch import LOCK, RunLock, make_folder
from secondpass.training.weights.optimisation import trainable_weights
from tests import fork_server


def test_one_at_a_time(own_tiny):
    """A second claim is refused, and after an error the model scores again."""
    with claimed(own_tiny):
        own_tiny.model.train()
        with pytest.raises(SecondPassError, match="already"), claimed(own_tiny):
            pass
    assert not own_tiny.model.training
    with pytest.raises(KeyError), claimed(own_tiny):
        raise KeyError
    assert not own_tiny.model.training
    assert own_tiny.training_thread is None


def test_a_closed_encoder_is_refused(own_tiny):
    """There is nothing to train."""
    own_tiny.close()
    with pytest.raises(SecondPassError, match="closed"), claimed(own_tiny):
        pass


def test_weights_that_cannot_be_trained(own_tiny):
    """All frozen, or too coarse."""
    for weight in own_tiny.model.parameters():
        weight.requires_grad_(False)
    with pytest.raises(InvalidInput, match="frozen"):
        trainable_weights(own_tiny.model)
    for weight in own_tiny.model.parameters():
        weight.requires_grad_(True)
    assert len(trainable_weights(own_tiny.model)) == len(list(own_tiny.model.parameters()))
    with pytest.raises(InvalidInput, match="float16"):
        trainable_weights(own_tiny.model.to(torch.float16))


def test_folder(tmp_path):
    """Made with its parents; a file in its place is named."""
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    make_folder(None)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="output_dir"):
        make_folder(tmp_path / "file", "output_dir")


def refusal(folder) -> str:
    """What a second run is told."""
    with pytest.raises(CheckpointError) as told, RunLock(folder):
        pass
    return str(told.value)


def test_second_run_is_refused_by_name(tmp_path):
    """In the same process too; the first one goes on undisturbed."""
    with RunLock(tmp_path):
        expected = f"{tmp_path} is in use by process {os.getpid()} on {socket.gethostname()}: one run at a time"
        assert refusal(tmp_path) == expected
        assert refusal(tmp_path) == expected


def test_another_thread_is_refused(tmp_path):
    """A lock of the process would let it in."""
    told: list[str] = []
    with RunLock(tmp_path):
        thread = threading.Thread(target=lambda: told.append(refusal(tmp_path)))
        thread.start()
        thread.join()
    assert len(told) == 1
    assert "in use by process" in told[0]


def test_another_process_is_refused(tmp_path):
    """It is told of this one."""
    program = f"import sys; sys.path[:0] = {sys.path!r}; from secondpass.training.running.run_watch import RunLock; "
    program += f"RunLock({str(tmp_path)!r}).__enter__()"
    with RunLock(tmp_path):
        done = fork_server.run([sys.executable, "-c", program], text=True, timeout=90)
    assert done.returncode == 1
    assert f"in use by process {os.getpid()}" in done.stderr


def test_one_object_twice(tmp_path):
    """It is no lock that counts."""
    lock = RunLock(tmp_path)
    with lock:
        with pytest.raises(CheckpointError), lock:
            pass
        assert "in use" in refusal(tmp_path)
    with lock:
        pass


def test_free_after_the_block_and_after_an_error(tmp_path):
    """The next run gets it."""
    with RunLock(tmp_path):
        pass
    with pytest.raises(ZeroDivisionError), RunLock(tmp_path):
        raise ZeroDivisionError
    with RunLock(tmp_path):
        pass


@pytest.mark.parametrize("content", [b"", b"99999999 elsewhere\n", b"\xff\xfe\x00", b"x" * 10_000])
def test_stale_file_means_nothing(tmp_path, content):
    """Whatever a dead run has left in it."""
    (tmp_path / LOCK).write_bytes(content)
    with RunLock(tmp_path):
        assert (tmp_path / LOCK).read_text() == f"{os.getpid()} {socket.gethostname()}\n"
    assert (tmp_path / LOCK).read_text() == ""


def test_holder_that_has_not_signed_yet(tmp_path):
    """Between locking and writing its name it is another run."""
    with RunLock(tmp_path):
        (tmp_path / LOCK).write_bytes(b"")
        assert refusal(tmp_path) == f"{tmp_path} is in use by another run: one run at a time"


def test_folder_is_made(tmp_path):
    """With those above it."""
    with RunLock(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()


def test_folder_that_cannot_be(tmp_path):
    """A file in the way, a folder as the lock."""
    (tmp_path / "file").touch()
    (tmp_path / LOCK).mkdir()
    for place in (tmp_path / "file", tmp_path):
        with pytest.raises(CheckpointError, match=f"{place} cannot be locked"), RunLock(place):
            pass


def test_threads_that_race(tmp_path):
    """Never two of them at once."""
    inside, most, taken = 0, 0, 0
    counting = threading.Lock()

    def race() -> None:
        nonlocal inside, most, taken
        for _ in range(50):
            try:
                with RunLock(tmp_path):
                    with counting:
                        inside += 1
                        taken += 1
                        most = max(most, inside)
                    with counting:
                        inside -= 1
            except CheckpointError:
                pass

    threads = [threading.Thread(target=race) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert taken > 0


def ended_pid() -> int:
    """Return the pid of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


@pytest.mark.parametrize("lets_go", [True, False])
def test_a_dead_holders_child_is_given_a_moment(tmp_path, monkeypatch, lets_go):
    """It was forked an instant before the holder was killed, and still has the holder's descriptor."""
    descriptor = os.open(tmp_path / LOCK, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    pid = ended_pid()
    os.pwrite(descriptor, f"{pid} {socket.gethostname()}\n".encode(), 0)
    if lets_go:
        timer = threading.Timer(0.2, os.close, (descriptor,))
        timer.start()
        with RunLock(tmp_path):
            pass
        timer.join()
        return
    monkeypatch.setattr(run_watch, "PATIENCE", 0.05)
    with pytest.raises(CheckpointError, match=f"in use by process {pid}"):
        RunLock(tmp_path).__enter__()
    os.close(descriptor)
