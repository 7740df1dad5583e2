"""From archives to an installation: unpacked, completed, readable by everybody, changed by nobody."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import zipfile
from pathlib import Path

from tests.servers.archives import RECIPES, Archive, Kind, Module, Recipe
from tests.servers.cache import Say, cache_folder, fetched, locked, sweep
from tests.servers.java import Java, find_java
from tests.servers.running import run
from tests.servers.settings import check_enterable

_OWN_PLUGINS = sorted((Path(__file__).parent / "elasticsearch_plugins").glob("*.java"))


def installation(kind: Kind, say: Say) -> Path:
    """Return the home folder of a complete server, making it the first time.

    Args:
        kind: Which server.
        say: Is told what takes long.

    Raises:
        NoServer: Java or Maven is missing, or a step failed.
        BrokenDownload: An archive is not what was published.
    """
    recipe, cache = RECIPES[kind], cache_folder()
    java = find_java()
    check_enterable(cache)
    home = cache / f"{kind}-{recipe.version}-{_fingerprint(recipe)}"
    if home.is_dir():
        return home
    with locked(cache, kind):
        if not home.is_dir():
            sweep(cache, f"completing-{kind}-")
            files = fetched(recipe.archives, cache, say)
            say(f"completing {kind} {recipe.version}")
            with tempfile.TemporaryDirectory(dir=cache, prefix=f"completing-{kind}-") as aside:
                made = _complete(recipe, files, Path(aside), java)
                _readable_by_all(made)
                made.replace(home)
    return home


def _fingerprint(recipe: Recipe) -> str:
    """Eight digits that change whenever the recipe, this file or our plugins do."""
    parts = [repr(recipe).encode(), Path(__file__).read_bytes(), *(plugin.read_bytes() for plugin in _OWN_PLUGINS)]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:8]


def _complete(recipe: Recipe, files: dict[Archive, Path], aside: Path, java: Java) -> Path:
    _unpack(files[recipe.server], aside)
    home = aside / f"{recipe.kind}-{recipe.version}"
    for module in recipe.modules:
        _add_module(module, recipe, files, home)
    for source in _OWN_PLUGINS if recipe.kind == "elasticsearch" else ():
        _add_own_plugin(source, recipe, home, java)
    for plugin in recipe.plugins:
        command = [str(home / "bin" / "opensearch-plugin"), "install", "--batch", files[plugin].as_uri()]
        run(command, os.environ | {"OPENSEARCH_JAVA_HOME": str(java.home)})
    return home


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip file with the permissions it records: the start scripts must stay executable."""
    with zipfile.ZipFile(archive) as packed:
        for entry in packed.infolist():
            path = Path(packed.extract(entry, folder))
            if (mode := stat.S_IMODE(entry.external_attr >> 16)) and path.is_file():
                path.chmod(mode)


def _add_module(module: Module, recipe: Recipe, files: dict[Archive, Path], home: Path) -> None:
    folder = home / "modules" / module.name
    folder.mkdir()
    for jar in module.jars:
        (folder / jar.file_name).write_bytes(files[jar].read_bytes())
    _describe(folder, module.name, module.class_name, recipe, extends=module.extends)
    if module.permissions:
        granted = "\n".join(f'  permission java.lang.RuntimePermission "{name}";' for name in module.permissions)
        (folder / "plugin-security.policy").write_text(f"grant {{\n{granted}\n}};\n", encoding="utf-8")


def _add_own_plugin(source: Path, recipe: Recipe, home: Path, java: Java) -> None:
    """Compile a plugin of ours against the server's own jars."""
    folder = home / "plugins" / source.stem
    with tempfile.TemporaryDirectory() as classes:
        run([str(java.compiler), "--release", "17", "-cp", f"{home}/lib/*", "-d", classes, str(source)], os.environ)
        folder.mkdir(parents=True)
        with zipfile.ZipFile(folder / f"{source.stem}.jar", "w") as jar:
            for file in sorted(Path(classes).rglob("*.class")):
                jar.write(file, file.relative_to(classes).as_posix())
    _describe(folder, source.stem, f"secondpass.servers.{source.stem}", recipe)


def _describe(folder: Path, name: str, class_name: str, recipe: Recipe, *, extends: str = "") -> None:
    lines = {
        "name": name,
        "description": f"{name} of the test server",
        "version": recipe.version,
        f"{recipe.kind}.version": recipe.version,
        "java.version": "17" if recipe.kind == "elasticsearch" else "11",
        "classname": class_name,
        "extended.plugins": extends,
        "has.native.controller": "false",
    }
    text = "".join(f"{key}={value}\n" for key, value in lines.items())
    (folder / "plugin-descriptor.properties").write_text(text, encoding="utf-8")


def _readable_by_all(home: Path) -> None:
    """The server runs as a user who owns nothing here."""
    for path in [home, *home.rglob("*")]:
        mode = path.stat().st_mode
        everybody = 0o755 if path.is_dir() or mode & stat.S_IXUSR else 0o644
        path.chmod(stat.S_IMODE(mode) | everybody)
