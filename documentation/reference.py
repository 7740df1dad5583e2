"""The reference: a page for each public name, and one for each module that lists public names."""

from __future__ import annotations

from collections.abc import Sequence
from posixpath import dirname, relpath

from documentation.public import PublicName, homes, package_summary, public_names

HAYSTACK = "haystack_integrations.components."


def page_of(name: PublicName) -> str:
    """The page of a name, relative to the site's sources; names that two modules list have one page."""
    home = homes()[name.definition]
    return f"reference/{home.module}/{home.name}.md"


def title_of(module: str) -> str:
    """What navigation calls a module: Haystack's namespace says nothing there."""
    if module.startswith(HAYSTACK):
        return f"Haystack {module.removeprefix(HAYSTACK).removesuffix('.secondpass')}"
    return module


def pages() -> dict[str, str]:
    """Markdown by page."""
    made = {"reference/index.md": _overview()}
    for module, names in public_names().items():
        own = [name for name in names if homes()[name.definition] is name]
        if own:
            made[f"reference/{module}/index.md"] = _module_page(module, names)
        for name in own:
            made[page_of(name)] = _name_page(name)
    return made


def navigation() -> list[object]:
    """What stands below "Reference", a section for each module."""
    sections: list[object] = ["reference/index.md"]
    for module, names in public_names().items():
        own = [name for name in names if homes()[name.definition] is name]
        if own:
            index: list[object] = [f"reference/{module}/index.md"]
            sections.append({title_of(module): index + [{name.name: page_of(name)} for name in own]})
    return sections


def _table(names: Sequence[PublicName], page: str) -> str:
    rows = [
        f"| [`{name.name}`]({relpath(page_of(name), dirname(page))}) | {name.summary.replace('|', chr(92) + '|')} |"
        for name in names
    ]
    return "\n".join(["| name | |", "|---|---|", *rows])


def _overview() -> str:
    parts = ["# Reference", "Every public name, by the module that it is imported from. What is not here may change."]
    for module, names in public_names().items():
        own = [name for name in names if homes()[name.definition] is name]
        if own:
            parts += [f"## {title_of(module)}", f"[`{module}`]({module}/index.md): {package_summary(module)}"]
            parts.append(_table(own, "reference/index.md"))
    return "\n\n".join(parts) + "\n"


def _module_page(module: str, names: tuple[PublicName, ...]) -> str:
    table = _table(names, f"reference/{module}/index.md")
    return f"# {title_of(module)}\n\n`{module}`\n\n{package_summary(module)}\n\n{table}\n"


def _name_page(name: PublicName) -> str:
    lines = [
        f"---\ntitle: {name.name}\n---\n",
        f"# {name.name}\n",
        f"```python\nfrom {name.module} import {name.name}\n```\n",
    ]
    if name.module.startswith(HAYSTACK):
        lines.append(f"In a pipeline file its `type` is `{name.definition}`.\n")
    lines.append(f"::: {name.path}\n    options:\n      heading_level: 2\n")
    return "\n".join(lines)
