"""What happened at each step, as JSON lines; a resumed run goes on where its checkpoint was."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from secondpass.errors import CheckpointError

FILE = "training.jsonl"


class StepLog:
    """Appends one JSON object a line to `training.jsonl` in a folder; without a folder it only tells `watch`.

    Args:
        folder: where the file is.
        watch: hears of every entry.
        after: the step of the checkpoint the run goes on from; entries of later steps are taken out.
    """

    def __init__(self, folder: Path | None, watch: Callable[[Mapping[str, Any]], object] | None, after: int) -> None:
        self._path = None if folder is None else folder / FILE
        self._watch = watch
        if self._path is not None:
            self._forget_after(self._path, after)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Add an entry: its kind ("step", "evaluation", "end"), the step since the start, and values."""
        entry = {"kind": kind, "step": step, "time": round(time.time(), 3), **values}
        if self._path is not None:
            try:
                with self._path.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(entry) + "\n")
            except OSError as error:
                raise CheckpointError(f"{self._path} cannot be written: {error.strerror}") from error
        if self._watch is not None:
            self._watch(entry)

    @staticmethod
    def _forget_after(path: Path, step: int) -> None:
        """Keep whole lines of steps up to `step`: what came later was lost with the process, and comes again."""
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and entry.get("step", step + 1) <= step and entry.get("kind") != "end":
                kept.append(line + "\n")
        partial = path.with_name(f"{FILE}.partial")
        partial.write_text("".join(kept), encoding="utf-8")
        partial.replace(path)
