"""Names of the files beside a run."""

from __future__ import annotations

from pathlib import Path

from secondpass_indexing.run_files import RunFiles


def test_files_are_named_after_the_index() -> None:
    """What could leave the folder is replaced."""
    assert RunFiles.of_index("docs") == RunFiles(Path("docs.journal"), Path("docs.dead.jsonl"))
    assert RunFiles.of_index("a/../b", Path("x")).journal == Path("x/a_.._b.journal")
