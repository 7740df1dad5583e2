"""The token ids of texts that were read before."""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np

from secondpass.inputs import Ids
from secondpass.system import at_fork
from secondpass.text import positive_int

# What an entry takes beside its ids: two bytes objects and their places, a table just grown included.
ENTRY_BYTES = 300
# A single text may take no more than this share of the cache: a book must not turn everything else out.
LARGEST_SHARE = 16


def identity_of(rules: str) -> bytes:
    """16 bytes that stand for a tokenizer, from its rules as JSON: equal tokenizers share entries, others never do."""
    return hashlib.blake2b(rules.encode("utf-8"), digest_size=16).digest()


class TokenCache:
    """The token ids of the texts used last; one object serves any number of threads and tokenizers.

    Texts themselves are not kept: the key is a 128-bit hash. A copy of the object, also one that travels to another
    process, starts empty. `max_bytes` of memory hold keys and bookkeeping too.
    """

    def __init__(self, max_bytes: int = 64 * 2**20) -> None:
        self.max_bytes = positive_int(max_bytes, "max_bytes")
        self._renew()

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._entries: OrderedDict[bytes, bytes] = OrderedDict()
        self.bytes_held = 0
        self.hits = 0
        self.misses = 0
        _CACHES.add(self)

    def __reduce__(self) -> tuple[type[TokenCache], tuple[int]]:
        return type(self), (self.max_bytes,)

    def __len__(self) -> int:
        return len(self._entries)

    def keys(self, identity: bytes, texts: Iterable[str]) -> list[bytes]:
        """One key per text under the tokenizer with this identity."""
        return [hashlib.blake2b(text.encode(), digest_size=16, person=identity).digest() for text in texts]

    def find(self, keys: Sequence[bytes]) -> list[Ids | None]:
        """Ids int32 [length], read-only, for each key; None where there are none."""
        with self._lock:
            found = [self._entries.get(key) for key in keys]
            for key, entry in zip(keys, found, strict=True):
                if entry is not None:
                    self._entries.move_to_end(key)
            missed = found.count(None)
            self.misses += missed
            self.hits += len(keys) - missed
        return [None if entry is None else np.frombuffer(entry, np.int32) for entry in found]

    def keep(self, key: bytes, ids: Ids) -> None:
        """Remember ids; the texts used longest ago make room."""
        size = ids.nbytes + ENTRY_BYTES
        if size > self.max_bytes // LARGEST_SHARE:
            return
        entry = ids.tobytes()
        with self._lock:
            if key in self._entries:
                return
            self._entries[key] = entry
            self.bytes_held += size
            while self.bytes_held > self.max_bytes:
                _, oldest = self._entries.popitem(last=False)
                self.bytes_held -= len(oldest) + ENTRY_BYTES


_CACHES: weakref.WeakSet[TokenCache] = weakref.WeakSet()


def _after_fork() -> None:
    """The lock of a forked child may be held by a thread that it lacks, and the entries may be half changed."""
    for cache in list(_CACHES):
        cache._renew()


at_fork(after_in_child=_after_fork)
