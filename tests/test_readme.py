"""README does what it says: its code runs and prints what stands below it; and pages name tests that are there."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import tomllib
from html import unescape
from pathlib import Path

from benchmarks.pictures import speed_picture
from secondpass.corpora import read_corpus
from secondpass.forwards.families import families as forward_families
from secondpass.models.templates import families

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


def test_the_pictures_show_what_the_pages_say() -> None:
    """Speed is drawn from the table of docs/performance.md, and what moves are articles of the demo."""
    speed, moves = ((ROOT / "docs" / f"{name}.svg").read_text(encoding="utf-8") for name in ("speed", "moves"))
    assert speed == speed_picture((ROOT / "docs" / "performance.md").read_text(encoding="utf-8"))
    titles = {document.title for document in read_corpus(ROOT / "src" / "secondpass" / "demo")}
    shown = re.findall(r">\d  ([^<\N{HORIZONTAL ELLIPSIS}]+)", moves)
    assert len(shown) == 10
    assert all(any(title.startswith(unescape(text).strip()) for title in titles) for text in shown)


def test_every_extra_is_listed() -> None:
    """Each that can be installed, and no other."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    found = re.search(r"^- Extras: (.*?)\. torch >=", README, re.DOTALL | re.MULTILINE)
    assert found is not None
    assert sorted(re.findall(r"`([\w-]+)`", found[1])) == sorted(extras)


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
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))):
        file = ""
        for named, name in re.findall(r"([\w/]*test_\w+\.py)?(?:::(test_\w+\*?))?", page.read_text(encoding="utf-8")):
            file = named.removeprefix("tests/") or file
            known = tests.get(file, [])
            wanted = re.compile(name.replace("*", r"\w+"))
            if (named and not known) or (name and not any(map(wanted.fullmatch, known))):
                missing.append(f"{page.name}: {file}::{name}")
    assert missing == []


def rows(page: str, title: str) -> list[list[str]]:
    """The cells of the first table below a title of a page in docs/."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_which_model_names_the_templates_that_there_are() -> None:
    """Each file of the registry is the template of a model of the table whose name it fits, and of no other."""
    found = {row[0]: row[4].strip("`") for row in rows("models.md", "The table")}
    assert {template for template in found.values() if template != "none"} == set(families())
    for model, template in found.items():
        fitting = [name for name, family in families().items() if family.names.search(model)]
        assert fitting == ([] if template == "none" else [template]), model


def test_which_model_names_the_architectures_that_there_are() -> None:
    """The table of paths has each architecture of the registry of forwards, a family a row or two."""
    named = [name for family in forward_families() for name in family.architectures]
    known = {re.sub(r"(Text)?(For\w+|Model)$", "", name) for name in named}
    named = [name for row in rows("models.md", "What runs on which path") for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(named) == sorted(known)
    for family in forward_families():
        own = {re.sub(r"(Text)?(For\w+|Model)$", "", name) for name in family.architectures}
        assert any(own & set(re.findall(r"`(\w+)`", row[0])) for row in rows("models.md", "What runs on which path"))
