"""What `mkdocs build` asks while it makes the site: pages that are generated, their navigation, links and pictures."""

from __future__ import annotations

import html
import re
from typing import Any

from mkdocs.structure.files import File

from documentation import commands, messages, reference, repository
from documentation.public import ROOT

# The entry of `nav` in mkdocs.yml in whose place each navigation comes.
GENERATED = {"reference": reference, "commands": commands, "errors": messages}
PICTURE = re.compile(r'<img alt="([^"]*)" src="[./]*pictures/([\w-]+)\.svg"[^>]*>')
STYLE = re.compile(r"<\?xml.*?\?>|<style>.*?</style>", re.DOTALL)


def on_config(config: Any) -> Any:
    """Put the generated navigation where mkdocs.yml names it."""
    config.nav = [_filled(entry) for entry in config.nav]
    return config


def _filled(entry: Any) -> Any:
    if isinstance(entry, dict):
        ((title, inner),) = entry.items()
        if inner in GENERATED if isinstance(inner, str) else False:
            return {title: GENERATED[inner].navigation()}
        return {title: [_filled(one) for one in inner] if isinstance(inner, list) else inner}
    return entry


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that stand in no folder of the site's sources."""
    for source in (*GENERATED.values(), repository):
        for page, markdown in source.pages().items():
            files.append(File.generated(config, page, content=markdown))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links to files of the repository to their pages."""
    name = page.file.src_uri
    path = repository.sources().get(name, f"{repository.DOCS}{name}")
    return repository.rewritten(path, markdown) if (ROOT / path).exists() else markdown


def on_page_content(content: str, **_: Any) -> str:
    """Draw pictures in the page itself, so that they take its colours, dark ones too."""

    def drawn(found: re.Match[str]) -> str:
        source = (ROOT / "docs" / "pictures" / f"{found[2]}.svg").read_text(encoding="utf-8")
        label = f'role="img" aria-label="{html.escape(html.unescape(found[1]))}"'
        return STYLE.sub("", source).strip().replace("<svg ", f'<svg class="picture" {label} ', 1)

    return PICTURE.sub(drawn, content)
