"""README does what it says: its code runs and prints what stands below it."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_ten_lines_print_what_the_readme_shows() -> None:
    """The first Python block, and the plain block after it."""
    found = re.search(r"```python\n(.*?)```\s+```text\n(.*?)```", README, re.DOTALL)
    assert found is not None
    code, shown = found.groups()
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})  # noqa: S102 - our own README
    assert printed.getvalue().splitlines() == shown.splitlines()


def test_nothing_is_left_to_fill_in() -> None:
    """No placeholder in any page of the repository."""
    root = Path(__file__).parents[1]
    pages = [page for page in root.rglob("*.md") if not {".venv", "build", ".git"} & set(page.parts)]
    assert len(pages) > 5
    assert [page.name for page in pages if "@@" in page.read_text(encoding="utf-8")] == []
