"""Environments that have what `pip install "secondpass[EXTRAS]"` brings and nothing else, and what they take on disk.

They are made of the distributions that are installed here, by links: those that pyproject.toml and the metadata of the
others ask for, so that what is not declared is not there. That takes no network and no time.
"""

from __future__ import annotations

import sysconfig
import tomllib
import venv
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib import metadata
from importlib.metadata import Distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
SOURCES = ("src", "integrations/haystack/src", "integrations/servers/src")


def declared(extras: Iterable[str]) -> list[str]:
    """What pyproject.toml asks for, extras of our own taken apart."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"]]
    for extra in extras:
        for text in project["optional-dependencies"][extra]:
            need = Requirement(text)
            asked += declared(need.extras) if need.name == "secondpass" else [text]
    return asked


def installed(asked: Iterable[str]) -> dict[str, Distribution]:
    """Distributions by name that pip would install here for these requirements.

    Raises:
        metadata.PackageNotFoundError: one of them is not installed here.
    """
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    left = [Requirement(text) for text in asked]
    while left:
        need = left.pop()
        name = canonicalize_name(need.name)
        found[name] = metadata.distribution(need.name)
        for extra in {"", *need.extras}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                further = map(Requirement, found[name].requires or ())
                left += [one for one in further if one.marker is None or one.marker.evaluate({"extra": extra})]
    return found


def contents(distribution: Distribution) -> Iterator[tuple[Path, Path]]:
    """Files that it put into site-packages, and where they are below it; no bytecode."""
    for file in distribution.files or ():
        if ".." not in file.parts and file.suffix != ".pyc":
            yield Path(str(distribution.locate_file(file))), Path(file)


def on_disk(files: Iterable[Path]) -> int:
    """Bytes that files take, in blocks as the system gives them; without bytecode."""
    return sum(file.stat().st_blocks * 512 for file in set(files) if file.is_file() and file.suffix != ".pyc")


def size(asked: Iterable[str]) -> int:
    """Bytes on disk of what pip brings for requirements."""
    return on_disk(file for distribution in installed(asked).values() for file, _ in contents(distribution))


def own_size() -> int:
    """Bytes on disk of this distribution itself, with its model and the compiled kernel."""
    return on_disk(file for source in SOURCES for file in (ROOT / source).rglob("*"))


def link(distributions: Iterable[Distribution], site: Path) -> None:
    """Link the files into `site`: a folder as a whole where it is of one distribution, else file by file."""
    parts = [list(contents(distribution)) for distribution in distributions]
    owners = Counter(top for files in parts for top in {place.parts[0] for _, place in files})
    for files in parts:
        for file, place in files:
            whole = owners[place.parts[0]] == 1
            made = site / (place.parts[0] if whole else place)
            if not made.exists():
                made.parent.mkdir(parents=True, exist_ok=True)
                made.symlink_to(file.parents[len(place.parts) - 2] if whole and len(place.parts) > 1 else file)


def make(folder: Path, asked: Iterable[str], sources: bool = True) -> Path:
    """Make the environment anew; returns its interpreter, which finds the `sources` of this checkout too."""
    venv.EnvBuilder(clear=True, symlinks=True, with_pip=False).create(folder)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    link(installed(asked).values(), site)
    if not sources:
        return folder / "bin" / "python"
    (site / "secondpass.pth").write_text("".join(f"{ROOT / source}\n" for source in SOURCES), encoding="utf-8")
    ours = f"secondpass-{metadata.version('secondpass')}.dist-info"
    (site / ours).symlink_to(Path(str(metadata.distribution("secondpass").locate_file(ours))))
    return folder / "bin" / "python"
