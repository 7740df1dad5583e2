"""`python -m documentation.links build/site` reads a built site as a browser does, and ends with 1 if it finds a fault.

Every link leads to a file and an anchor that are there, nothing that loads comes from elsewhere, every picture and page
says what it is, and every public name has its page. Links to other sites are counted; nobody is asked for them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from posixpath import dirname, join, normpath
from urllib.parse import unquote, urlsplit

from documentation.public import homes
from documentation.reference import page_of

# Elements that load what they name when a page is opened, by the attribute that names it; `link` by its `rel`.
LOADED = dict.fromkeys(("audio", "embed", "iframe", "img", "script", "source", "video"), "src")
LOADED_RELS = {"icon", "manifest", "modulepreload", "preconnect", "dns-prefetch", "preload", "stylesheet"}
IN_STYLES = re.compile(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)")


@dataclass
class Page(HTMLParser):
    """What is in a page that can be wrong."""

    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    headings: int = 0
    in_style: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note anchors, links and what is loaded."""
        values = {name: value or "" for name, value in attrs}
        if "id" in values:
            if values["id"] in self.anchors:
                self.faults.append(f"two places are called #{values['id']}")
            self.anchors.add(values["id"])
        self.anchors.update(values[name] for name in ("name",) if tag == "a" and name in values)
        self.headings += tag == "h1"
        self.in_style = tag == "style"
        if tag in {"a", "area"} and "href" in values:
            self.links.append(values["href"])
        if tag == "link" and LOADED_RELS & set(values.get("rel", "").split()):
            self.loaded.append(values.get("href", ""))
        if tag in LOADED and LOADED[tag] in values:
            self.loaded.append(values[LOADED[tag]])
        if tag == "img" and not values.get("alt", "").strip():
            self.faults.append(f"a picture says nothing: {values.get('src')}")
        if "mermaid" in values.get("class", "").split():
            self.faults.append("a diagram is drawn by a script from elsewhere: make it a picture")

    def handle_data(self, data: str) -> None:
        """Note what styles load."""
        if self.in_style:
            self.loaded += in_styles(data)

    def handle_endtag(self, tag: str) -> None:
        """Leave a style."""
        self.in_style = False


def in_styles(text: str) -> list[str]:
    """What a style sheet loads, what stands in itself aside."""
    found = [one or other for one, other in IN_STYLES.findall(text)]
    return [name for name in found if not name.startswith(("data:", "#"))]


def read(site: Path) -> dict[str, Page]:
    """Every page of the site by its path."""
    pages = {}
    for file in sorted(site.rglob("*.html")):
        page = Page()
        page.feed(file.read_text(encoding="utf-8"))
        pages[file.relative_to(site).as_posix()] = page
    return pages


def target(page: str, link: str) -> tuple[str, str] | None:
    """The file and anchor that a link of a page leads to, None where it leaves the site."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    path = unquote(parts.path)
    file = path.lstrip("/") if path.startswith("/") else normpath(join(dirname(page), path)) if path else page
    return ("index.html" if file in ("", ".") else file), unquote(parts.fragment)


def faults(site: Path) -> Iterator[str]:
    """Everything that is wrong with a site, a line each."""
    pages = read(site)
    for name, page in pages.items():
        yield from (f"{name}: {fault}" for fault in page.faults)
        if page.headings != 1 and name != "404.html":
            yield f"{name}: {page.headings} headings of the first level"
        yield from _of_loaded(site, name, page.loaded)
        for link in page.links:
            yield from _of_link(site, pages, name, link)
    for sheet in sorted(site.rglob("*.css")):
        yield from _of_loaded(site, sheet.relative_to(site).as_posix(), in_styles(sheet.read_text(encoding="utf-8")))
    for public in homes().values():
        file = page_of(public).removesuffix(".md") + ".html"
        if file not in pages or public.path not in pages[file].anchors:
            yield f"{public.path} has no page: {file}"


def _of_loaded(site: Path, name: str, loaded: list[str]) -> Iterator[str]:
    for link in loaded:
        found = target(name, link)
        if found is None:
            yield f"{name}: loads {link} from elsewhere"
        elif not (site / found[0]).is_file():
            yield f"{name}: loads {link}, which is not there"


def _of_link(site: Path, pages: dict[str, Page], name: str, link: str) -> Iterator[str]:
    found = target(name, link)
    if found is None:
        return
    file, anchor = found
    if not (site / file).is_file():
        yield f"{name}: {link} leads nowhere"
    elif anchor and file in pages and anchor not in pages[file].anchors and not anchor.startswith("__"):
        yield f"{name}: {link} has no such place"


def main(site: Path) -> int:
    """Print what is wrong, and how much was looked at."""
    pages = read(site)
    links = [link for page in pages.values() for link in page.links]
    away = {link for name, page in pages.items() for link in page.links if target(name, link) is None}
    found = list(dict.fromkeys(faults(site)))
    print(*found, sep="\n", end="\n" if found else "")
    print(
        f"{len(pages)} pages, {len(links)} links, {len(away)} of them to other sites (not asked), "
        f"{len(homes())} public names: {len(found) or 'no'} faults"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
