"""Files of the repository as pages of the site: what docs/ links to, what those link to, and the changelog.

Nothing is copied into docs/: a page that stands elsewhere is read where it stands, other files are shown as code.
"""

from __future__ import annotations

import re
from functools import cache
from posixpath import dirname, normpath, relpath

from documentation.public import ROOT

DOCS = "docs/"
# Pages of the project that have a place of their own in the site.
NAMED = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
LANGUAGES = {"yaml": "yaml", "json": "json", "service": "ini", "Dockerfile": "dockerfile", "py": "python"}
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
# A link that reads as a file's name, which is well in a folder and not in a site.
FILE_NAMED = re.compile(r"\[(?:docs/)?[\w/-]+\.md\](?=\(([^)#]+\.md)[^)]*\))")
FENCE = re.compile(r"^(`{3,})[^`\n]*\n.*?^\1[ ]*$", re.DOTALL | re.MULTILINE)


def site_page(path: str) -> str:
    """The page of the site on which a file or folder of the repository stands."""
    if path.startswith(DOCS):
        return path.removeprefix(DOCS)
    if path in NAMED:
        return NAMED[path]
    if (ROOT / path).is_dir():
        readme = f"{path}/README.md"
        return site_page(readme) if (ROOT / readme).is_file() else f"repository/{path}/index.md"
    return f"repository/{path}" if path.endswith(".md") else f"repository/{path}.md"


def links(path: str, markdown: str) -> list[str]:
    """What a page links to in the repository, outside of its code."""
    prose = FENCE.sub("", markdown)
    return [normpath(f"{dirname(path)}/{found[0]}".lstrip("/")) for found in LINK.findall(prose)]


def rewritten(path: str, markdown: str) -> str:
    """A page's Markdown with links to the site's pages, by their titles, in place of the repository's files."""
    here = dirname(site_page(path)) or "."

    def link(found: re.Match[str]) -> str:
        target = normpath(f"{dirname(path)}/{found[1]}".lstrip("/"))
        if not target.startswith(DOCS) and not (ROOT / target).exists():
            return found[0]
        return f"{relpath(site_page(target), here)}{found[2] or ''}"

    def named(found: re.Match[str]) -> str:
        return f"[{title(normpath(f'{dirname(path)}/{found[1]}'.lstrip('/'))) or found[1]}]"

    def prose(text: str) -> str:
        return LINK.sub(link, FILE_NAMED.sub(named, text))

    kept, parts = 0, []
    for fence in FENCE.finditer(markdown):
        parts += [prose(markdown[kept : fence.start()]), fence[0]]
        kept = fence.end()
    return "".join([*parts, prose(markdown[kept:])])


def title(path: str) -> str:
    """The first heading of a page, "" where there is none."""
    file = ROOT / path
    found = re.search(r"^# (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE) if file.is_file() else None
    return found[1] if found else ""


@cache
def sources() -> dict[str, str]:
    """Files and folders outside docs/ that become pages, by the page."""
    left = [file.relative_to(ROOT).as_posix() for file in sorted((ROOT / "docs").rglob("*.md"))]
    left += [path for path in NAMED if path != "README.md"]
    seen: dict[str, str] = {site_page(path): path for path in left}
    for path in left:
        for linked in links(path, _text(path)) if path.endswith(".md") else []:
            readme = f"{linked}/README.md"
            target = readme if (ROOT / readme).is_file() else linked
            page = site_page(target)
            if page not in seen and (ROOT / target).exists() and target != "README.md":
                seen[page] = target
                left.append(target)
    return {page: path for page, path in seen.items() if not path.startswith(DOCS)}


def pages() -> dict[str, str]:
    """Markdown by page, with its links as they stand in the repository."""
    return {page: _text(path) if path.endswith(".md") else _shown(path) for page, path in sources().items()}


def _text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def _shown(path: str) -> str:
    """A file as a page of code, a folder as a page of its files."""
    head = f"---\ntitle: {path}\nsearch:\n  exclude: true\n---\n\n# {path}\n\n"
    if not (ROOT / path).is_dir():
        return head + _code(path)
    files = sorted(file for file in (ROOT / path).rglob("*") if file.is_file())
    names = [file.relative_to(ROOT).as_posix() for file in files if "__pycache__" not in file.parts]
    return head + "\n".join(f"## {name.removeprefix(f'{path}/')}\n\n{_code(name)}" for name in names)


def _code(path: str) -> str:
    language = LANGUAGES.get(path.rsplit("/", 1)[-1].rsplit(".", 1)[-1], "text")
    return f"````{language}\n{_text(path).rstrip()}\n````\n"
