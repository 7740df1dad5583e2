"""What only Linux has is missing elsewhere: everything is imported and the numpy forward computes all the same.

The real systems were not tried: this takes from Python what macOS and Windows lack.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from secondpass import system
from tests.test_house import NEIGHBOURS, without_torch

# Modules that Windows' Python is without, names in `os`, `signal` and `mmap` that it has not, no torch and no kernel.
WITHOUT = r"""
import importlib.abc, importlib.util, mmap, os, signal, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        missing = {"fcntl", "resource", "pwd", "grp", "termios", "pty", "tty", "torch", "transformers"}
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in {"torch", "transformers"} else find_spec(name, *rest)
for name in ("fcntl", "resource", "grp", "termios"):
    sys.modules.pop(name, None)

def take_away():
    lacking = ("register_at_fork", "memfd_create", "sched_getaffinity", "preadv", "pread", "pwrite", "fork", "getuid",
               "geteuid", "O_CLOEXEC", "O_NOFOLLOW", "O_DIRECTORY", "O_NONBLOCK", "fchown", "killpg", "eventfd")
    for name in lacking:
        if hasattr(os, name):
            delattr(os, name)
    os.supports_dir_fd = set()
    for name in ("SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGPIPE", "pthread_sigmask"):
        if hasattr(signal, name):
            delattr(signal, name)
    for name in ("MAP_SHARED", "MAP_PRIVATE", "PROT_READ", "PROT_WRITE", "MADV_WILLNEED"):
        if hasattr(mmap, name):
            delattr(mmap, name)
"""
SCORES = r"""
# Python's own and libraries ask what there is when they are imported: Windows' are other ones.
import asyncio, importlib, subprocess, tempfile, threading
import httpx, numpy, rich.console, safetensors, tokenizers, tqdm, typer, yaml
import typer.testing
for name in ("fastapi", "prometheus_client", "uvicorn", "huggingface_hub"):
    importlib.import_module(name)
take_away()
import secondpass.forwards.kernel.native as native
native.routines = lambda: "the kernel was not compiled"
for name in sys.argv[1:]:
    importlib.import_module(name)
from secondpass import CrossEncoder
encoder = CrossEncoder("secondpass/pocket", device="cpu")
ranked = encoder.rank("how do I set a new password", ["Cats are small.", "Set a new password in the settings."])
assert [one["corpus_id"] for one in ranked] == [1, 0], ranked
from secondpass.cli import app
told = typer.testing.CliRunner().invoke(app, ["rank", "new password", "--format", "jsonl"], input="Reset it.\nA dog.\n")
assert told.exit_code == 0, told.output
print(*{"fcntl", "resource", "torch"} & {*sys.modules})
"""


def test_without_what_only_linux_has_it_scores_by_numpy() -> None:
    """Every module that needs no torch is imported, texts are ranked in Python and on the command line."""
    ours = (name for name in without_torch() if name.startswith(("secondpass.", "secondpass_servers.")))
    names = [name for name in ours if not name.endswith("__main__") and name not in NEIGHBOURS]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", WITHOUT + SCORES, *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_reading_at_a_place_is_the_same_without_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As much as there is from there on."""
    path = tmp_path / "file"
    path.write_bytes(b"0123456789\r\n")
    descriptor = os.open(path, system.READ)
    for _ in range(2):
        into = memoryview(bytearray(4))
        assert (system.read_at(descriptor, into, 3), bytes(into)) == (4, b"3456")
        assert (system.read_at(descriptor, into, 10), bytes(into)[:2]) == (2, b"\r\n")
        monkeypatch.delattr(os, "preadv", raising=False)
    os.close(descriptor)
