"""What is public, read from the source: the names in each module's `__all__`, and where each is defined."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Folders from which the distribution's packages are imported.
FOLDERS = ("src", "integrations/haystack/src", "integrations/servers/src")


@dataclass(frozen=True)
class PublicName:
    """A name that may be imported, and the place where its definition stands."""

    module: str
    name: str
    defined_in: str
    summary: str

    @property
    def path(self) -> str:
        """As it is imported, dotted."""
        return f"{self.module}.{self.name}"

    @property
    def definition(self) -> str:
        """As its own module has it, dotted: what a pipeline file names as `type`."""
        return f"{self.defined_in}.{self.name}"


@cache
def modules() -> dict[str, Path]:
    """Files by dotted module name; a package goes by its own."""
    found = {}
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = file.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join(part for part in parts if part != "__init__")] = file
    return found


@cache
def parsed(module: str) -> ast.Module:
    """A module as a syntax tree."""
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


def listed(module: str) -> list[str]:
    """Its `__all__`; nothing where it has none."""
    for node in parsed(module).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    return []


@cache
def _imports(module: str) -> dict[str, tuple[str, str]]:
    """By name the module and the name there of what it imports at its top, also for the type checker alone."""
    found = {}
    for node in parsed(module).body:
        for inner in node.body if isinstance(node, ast.If) else [node]:
            if isinstance(inner, ast.ImportFrom) and inner.module:
                found.update({alias.asname or alias.name: (inner.module, alias.name) for alias in inner.names})
    return found


def defining_module(module: str, name: str) -> str:
    """The module in which a name is bound by a definition and not by an import."""
    origin, there = _imports(module).get(name, ("", ""))
    return defining_module(origin, there) if origin in modules() else module


def summary(module: str, name: str) -> str:
    """The first paragraph of its documentation; "" for constants."""
    for node in parsed(module).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name:
            return " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
    return ""


def package_summary(module: str) -> str:
    """The first paragraph of a module's documentation."""
    return " ".join((ast.get_docstring(parsed(module)) or "").split("\n\n")[0].split())


@cache
def public_names() -> dict[str, tuple[PublicName, ...]]:
    """Every public name by the module that lists it, modules by name, those in Haystack's namespace last."""
    order = sorted(modules(), key=lambda module: (not module.startswith("secondpass"), module))
    found = {}
    for module in order:
        if names := listed(module):
            places = [(name, defining_module(module, name)) for name in names]
            found[module] = tuple(PublicName(module, name, place, summary(place, name)) for name, place in places)
    return found


@cache
def homes() -> dict[str, PublicName]:
    """By its definition the place from which a name is best imported: the shortest of those that list it."""
    found: dict[str, PublicName] = {}
    for names in public_names().values():
        for name in names:
            known = found.get(name.definition)
            if known is None or name.module.count(".") < known.module.count("."):
                found[name.definition] = name
    return found
