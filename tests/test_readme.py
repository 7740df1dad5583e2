"""README does what it says: its code runs and prints what stands below it; and pages name tests that are there."""

from __future__ import annotations

import ast
import contextlib
import io
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


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
    pages = [page for page in ROOT.rglob("*.md") if not {".venv", "build", ".git"} & set(page.parts)]
    assert len(pages) > 5
    assert [page.name for page in pages if "@@" in page.read_text(encoding="utf-8")] == []


def test_pages_name_tests_that_are_there() -> None:
    """`core/test_x.py::test_y`, `::test_z` of the file named last, `test_row_01_*`: every one is under tests/."""
    tests = {
        file.relative_to(ROOT / "tests").as_posix(): [
            node.name for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if hasattr(node, "name")
        ]
        for file in (ROOT / "tests").rglob("test_*.py")
    }
    missing = []
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))):
        file = ""
        for named, name in re.findall(r"([\w/]*test_\w+\.py)?(?:::(test_\w+\*?))?", page.read_text(encoding="utf-8")):
            file = named.removeprefix("tests/") or file
            known = tests.get(file, [])
            wanted = re.compile(name.replace("*", r"\w+"))
            if (named and not known) or (name and not any(map(wanted.fullmatch, known))):
                missing.append(f"{page.name}: {file}::{name}")
    assert missing == []
