"""Freed memory kept by the process: activations land on pages that are there already.

glibc gives large blocks back to the system as soon as they are freed. A training step frees and takes gigabytes, and
every page that is taken again costs a fault and 4 KiB of zeros: up to half of a step on a CPU.
"""

from __future__ import annotations

import ctypes
import sys
import threading

# malloc.h of glibc
M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_MAX = -4
NEVER = -1
HEAP_GROWS_BY = 256 * 1024 * 1024  # bytes

_LOCK = threading.Lock()
_kept: bool | None = None


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, from now on; True if it does.

    Blocks come from the heap, which grows by 256 MiB at a time and does not shrink by itself: see `give_back_memory`.
    Holds for the whole process, so it is done once. Memory taken in threads other than the main one is kept as far as
    glibc's own pools for threads go (64 MiB a block). False where the C library is not glibc (musl, macOS, Windows).
    """
    global _kept  # noqa: PLW0603
    with _LOCK:
        if _kept is None:
            mallopt = _function("mallopt")
            settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, NEVER), (M_TOP_PAD, HEAP_GROWS_BY))
            # all of them, whatever the first one answers; musl has no mallopt at all
            _kept = mallopt is not None and all([mallopt(name, value) == 1 for name, value in settings])
        return _kept


def give_back_memory() -> bool:
    """Give free pages back to the system, also those between blocks in use; False where there is no such call.

    Batches of many shapes tear holes into the heap, which would grow by gigabytes in an hour: call it every few dozen
    steps and at the end of a run.
    """
    trim = _function("malloc_trim")
    if trim is None:
        return False
    trim(ctypes.c_size_t(0))
    return True


def _function(name: str) -> ctypes._NamedFuncPointer | None:
    """A function of glibc, or None."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return None
    found: ctypes._NamedFuncPointer | None = getattr(library, name, None)
    return found
