"""What only some operating systems have: locks of files, forked children, reads at a place of a file.

Linux has all of it. Where something is missing, what imports this goes on without: on Windows no file is locked, so
one process at a time may write a journal, a cache of scores or a training folder.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

# A child does not get the file, and where lines end in two characters they are read as they are.
READ = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_seeking = threading.Lock()


def at_fork(**calls: Callable[[], object]) -> None:
    """Register for forks, as `os.register_at_fork` does, where there are any."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(**calls)


def lock(descriptor: int, wait: bool = False) -> None:
    """Lock an open file or folder against other processes, until it is closed.

    Raises:
        BlockingIOError: another one has it, and `wait` is not set.
    """
    try:
        import fcntl
    except ImportError:
        return
    fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def open_files() -> int | None:
    """How many file descriptors this process may have, None where nothing bounds them or says so."""
    try:
        import resource
    except ImportError:
        return None
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if most == resource.RLIM_INFINITY else most


def read_at(descriptor: int, into: memoryview, place: int) -> int:
    """Read what stands from `place` on in an open file; -> how many bytes that were."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [into], place)
    with _seeking:
        os.lseek(descriptor, place, os.SEEK_SET)
        content = os.read(descriptor, len(into))
    into[: len(content)] = content
    return len(content)
