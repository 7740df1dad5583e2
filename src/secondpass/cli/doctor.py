"""`secondpass doctor`: what this machine has for secondpass, what is missing, and the line that installs it.

Nothing private is shown: no address, no path but those below the home as ~, no value of an environment variable.
"""

from __future__ import annotations

import json
import os
import platform
import re
import ssl
from collections.abc import Callable, Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Annotated, Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

import typer
from rich.table import Table

from secondpass.cli.output import PipeConsole, without_folders
from secondpass.machine import processor

SECONDS = 1.0
# The variable that says where, where it is else, the path asked for, and what answers there.
SERVERS = {
    "Elasticsearch": ("ELASTICSEARCH_URL", "http://localhost:9200", "/", "elasticsearch"),
    "OpenSearch": ("OPENSEARCH_URL", "http://localhost:9200", "/", "opensearch"),
    "secondpass serve": (None, "http://127.0.0.1:{port}", "/health", "secondpass"),
}
Rows = dict[str, str]
NAME_WIDTH = 24


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what this machine has: processor, kernel, libraries, caches, servers that answer; and what is missing.

    Nothing private is in it, so it can go into a bug report. It always ends with code 0.

    [bold]Examples[/bold]

    secondpass doctor
    """
    missing: list[str] = []
    servers = dict.fromkeys(SERVERS, "no answer in time")
    # Looking up a name can take longer than any timeout of a connection: nobody waits for these to end.
    threads = [Thread(target=_ask, args=(name, servers), daemon=True) for name in SERVERS]
    for thread in threads:
        thread.start()
    parts = {
        "machine": _told(_machine),
        "kernel": _told(lambda: _kernel(missing)),
        "libraries": _told(lambda: _libraries(missing)),
        "caches": _told(_caches),
    }
    for thread in threads:
        thread.join(SECONDS)
    parts["servers"] = dict(servers)
    if as_json:
        typer.echo(json.dumps({**parts, "missing": missing}, ensure_ascii=False, indent=1))
        return
    console = PipeConsole()
    for title, rows in parts.items():
        console.print(f"{title}:")
        table = Table.grid(padding=(0, 1, 0, 0))
        table.add_column(width=NAME_WIDTH, overflow="fold")
        table.add_column(width=max(10, console.width - NAME_WIDTH - 1), overflow="fold")
        for name, value in rows.items():
            table.add_row(f"  {name}", value)
        console.print(table)
    console.print("missing:" if missing else "missing: nothing")
    for line in missing:
        # commands to copy: a terminal breaks them itself
        console.print(f"  {line}", soft_wrap=True)


def _told(part: Callable[[], Rows]) -> Rows:
    """A part; what keeps it from being found out is a row of it."""
    try:
        return part()
    except Exception as error:  # broken installations fail in their own ways, and are what is looked for
        return {"cannot be told": without_folders(f"{type(error).__name__}: {error}")}


def _machine() -> Rows:
    found = processor()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "processor": found["name"],
        "instructions": ", ".join(found["flags"]) or "not told by the system",
        "cores, memory": f"{cores} usable, {memory:.1f} GiB",
        "accelerators": _accelerators(),
    }


def _kernel(missing: list[str]) -> Rows:
    from secondpass.forwards.kernel import native

    usable = native.routines()
    if isinstance(usable, str):
        # elsewhere no compiler helps
        if platform.system() == "Linux" and platform.machine() in ("x86_64", "aarch64"):
            anew = "--force-reinstall --no-deps --no-cache-dir --no-binary secondpass secondpass"
            if (native.CHECKOUT / "hatch_build.py").exists():
                anew = "--no-deps --editable ."
            missing.append(f"kernel: with a C++ compiler, pip install {anew}")
        return {"kernel": without_folders(usable)}
    best = {precision: native.find(precision) for precision in native.PRECISIONS}
    rows: Rows = {name: one if isinstance(one, str) else one.instructions for name, one in best.items()}
    return {"instruction sets": ", ".join(dict.fromkeys(one.instructions for one in usable)), **rows}


def _accelerators() -> str:
    """What the system and torch's build say, without loading torch, which only some models need."""
    pages = Path("/proc/driver/nvidia/gpus").glob("*/information")
    cards = [found[1].strip() for page in pages if (found := re.search(r"Model:(.*)", page.read_text()))]
    torch = find_spec("torch")
    build = Path(torch.origin).with_name("version.py").read_text() if torch and torch.origin else ""
    cuda = re.search(r"cuda\b.*= ['\"]([\d.]+)", build)
    built = f"torch is built {f'for CUDA {cuda[1]}' if cuda else 'without CUDA'}" if torch else "torch is not installed"
    return f"{', '.join(cards) or 'no NVIDIA card'}; {built}"


def _libraries(missing: list[str]) -> Rows:
    from packaging.requirements import Requirement

    own = [Requirement(text) for text in metadata.requires("secondpass") or ()]
    extras = metadata.metadata("secondpass").get_all("Provides-Extra") or []
    rows = {"secondpass": metadata.version("secondpass")}
    for extra in ["", *(name for name in extras if name not in ("docs", "test"))]:
        wanted = list(_wanted(own, extra))
        lacking = [_named(need) for need in wanted if not _fits(need)]
        if not extra:
            rows |= {need.name: _installed(need.name) or "absent" for need in wanted}
        else:
            rows[f"[{extra}]"] = f"lacks {', '.join(lacking)}" if lacking else "complete"
        if lacking:
            place = f"secondpass[{extra}]" if extra else "secondpass"
            missing.append(f'{", ".join(lacking)}: pip install "{place}"')
    return rows


def _wanted(own: list[Any], extra: str) -> Iterator[Any]:
    """What an extra brings by itself and through others of ours; "" stands for what everybody has."""
    for need in own:
        always = need.marker is None or need.marker.evaluate({"extra": ""})
        if always is not (not extra) or (extra and not need.marker.evaluate({"extra": extra})):
            continue
        if need.name == "secondpass":
            for other in sorted(need.extras):
                yield from _wanted(own, other)
        else:
            yield need


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _named(need: Any) -> str:
    return f"{need.name}[{','.join(sorted(need.extras))}]" if need.extras else str(need.name)


def _fits(need: Any) -> bool:
    """Whether it is installed in a version that will do, with what the extras bring that are asked of it."""
    from packaging.requirements import Requirement

    there = _installed(need.name)
    if there is None or not need.specifier.contains(there, prereleases=True):
        return False
    own = [Requirement(text) for text in metadata.requires(need.name) or ()] if need.extras else []
    return all(_fits(one) for extra in need.extras for one in _wanted(own, extra))


def _caches() -> Rows:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    models = list(folder.glob("models--*")) if folder.is_dir() else []
    others = sum(next(model.glob("snapshots/*/*.safetensors"), None) is None for model in models)
    below = folder.is_relative_to(Path.home())
    shown = f"~/{folder.relative_to(Path.home())}" if below else "elsewhere than below the home"
    writable = os.access(next(place for place in (folder, *folder.parents) if place.exists()), os.W_OK)
    unread = f", {others} of them not read: no safetensors (ONNX, pickles or unfinished)" if others else ""
    state = f"{len(models)} models{unread}" + ("" if writable else ", not writable")
    return {
        "model hub": f"{shown}, {state}",
        "network": "off (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else "allowed",
    }


def _ask(name: str, servers: Rows) -> None:
    servers[name] = _answer(*SERVERS[name])


def _answer(variable: str | None, usual: str, path: str, kind: str) -> str:
    """What a server says of itself, asked without credentials; its address stays unsaid where it was set."""
    given = os.environ.get(variable) if variable else None
    place = f"${variable}" if given else usual.format(port=os.environ.get("SECONDPASS_PORT", "8000"))
    address = re.sub(r"//[^/@]*@", "//", given or place).rstrip("/") + path
    try:
        # A proxy is not asked for what is on this machine.
        opener = build_opener() if given else build_opener(ProxyHandler({}))
        with opener.open(address, timeout=SECONDS) as answer:
            said = json.loads(answer.read(100_000) or b"{}")
    except HTTPError as error:
        return f"answers with {error.code} at {place}" + (" (wants credentials)" if error.code in (401, 403) else "")
    except Exception as error:  # whatever it is, it is no server of that kind
        if isinstance(getattr(error, "reason", error), ssl.SSLError):
            return f"answers at {place}, with a certificate that is not trusted here"
        return f"no answer at {place}"
    version = said.get("version") if isinstance(said, dict) else None
    name = version.get("distribution", "elasticsearch") if isinstance(version, dict) else kind
    if name != kind:
        return f"no answer at {place} ({without_folders(str(name))} does)"
    number = without_folders(str(version.get("number"))) if isinstance(version, dict) else "answers"
    return f"{number} at {place}"
