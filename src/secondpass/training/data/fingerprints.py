"""A name for training data by what is in it, so that a run is not resumed on other data."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable

from secondpass.training.data.groups import Group


def fingerprint(groups: Iterable[Group]) -> str:
    """SHA-256 over queries, documents, labels, teachers' opinions and their order, as 64 hexadecimal digits.

    Sources and ids do not count: a file that was moved is the same data. Labels count as float64, to the last bit.
    """
    digest = hashlib.sha256()
    for group in groups:
        # Lengths first: no text can look like the end of another.
        digest.update(struct.pack("<Q", len(group.documents)))
        for text in (group.query, *group.documents):
            raw = text.encode("utf-8", "surrogatepass")
            digest.update(struct.pack("<Q", len(raw)))
            digest.update(raw)
        digest.update(struct.pack(f"<Q{len(group.labels)}d", len(group.labels), *group.labels))
        if group.teaching is not None:
            known = (*group.teaching.scores, group.teaching.weight, group.teaching.label_weight)
            digest.update(struct.pack(f"<{len(known)}d", *known))
    return digest.hexdigest()
