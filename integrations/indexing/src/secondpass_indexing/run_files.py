"""The two files that a run leaves behind when it is broken, or when documents were refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunFiles:
    """`journal` is gone once the run is done; `dead_letters` is there if documents were refused."""

    journal: Path
    dead_letters: Path

    @classmethod
    def of_index(cls, index: str, folder: Path | None = None) -> RunFiles:
        """INDEX.journal and INDEX.dead.jsonl in `folder`, by default the current one."""
        name = re.sub(r"[^\w.-]", "_", index)
        place = folder or Path()
        return cls(place / f"{name}.journal", place / f"{name}.dead.jsonl")
