"""The folder of one server: its configuration, data, logs, and the user who owns them."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path

from tests.servers.archives import Kind
from tests.servers.problems import NoServer

HEAP = "512m"
# The first compiler only: half the processor time of a start, and tests are over before the second one pays. No memory
# is touched before it is used. The collector stays G1: with another one the breaker of real memory lets no garbage go,
# and a server that was sent 100 MB refuses whatever comes next.
_COMPILER = "-XX:TieredStopAtLevel=1"
_JAVA_OPTIONS = f"-Xms{HEAP} -Xmx{HEAP} {_COMPILER} -XX:-AlwaysPreTouch"
# Options that write into the installation, which is nobody's to write.
_WRITING = ("-Xlog:gc", "-XX:ErrorFile", "HeapDump")
_COMMON: Mapping[str, object] = {
    "cluster.name": "secondpass-tests",
    "node.name": "secondpass",
    "network.host": "127.0.0.1",
    "discovery.type": "single-node",
    # A disk that is rather full would make every index read-only.
    "cluster.routing.allocation.disk.threshold_enabled": False,
}
_OWN: Mapping[Kind, Mapping[str, object]] = {
    "elasticsearch": {"xpack.license.self_generated.type": "basic"},
    # The heap is small on purpose and the machine shared: ML Commons would refuse work on both grounds. With its round
    # of the nodes, of which there is one, it would also make an index of its own some seconds after a first start, and
    # refuse work with 503 while that recovers; without, the first who asks for work makes it and is served.
    "opensearch": {
        "plugins.ml_commons.native_memory_threshold": 100,
        "plugins.ml_commons.jvm_heap_memory_threshold": 100,
        "plugins.ml_commons.sync_up_job_interval_in_seconds": 0,
    },
}
PLAIN: Mapping[Kind, Mapping[str, object]] = {
    "elasticsearch": {"xpack.security.enabled": False},
    "opensearch": {"plugins.security.disabled": True},
}


def write_folders(home: Path, folder: Path) -> None:
    """Write a copy of the installation's configuration, and empty folders for data, logs and passing files."""
    for name in ("data", "logs", "tmp"):
        (folder / name).mkdir()
    shutil.copytree(home / "config", folder / "config")
    options = (home / "config" / "jvm.options").read_text(encoding="utf-8").splitlines()
    kept = [line for line in options if not any(word in line for word in _WRITING)]
    (folder / "config" / "jvm.options").write_text("\n".join(kept) + "\n", encoding="utf-8")


def write_settings(kind: Kind, folder: Path, ports: tuple[int, int], security: Mapping[str, object]) -> None:
    """Write the server's settings.

    Args:
        kind: Which server.
        folder: The server's own folder, with its configuration.
        ports: Of HTTP and of the transport between nodes.
        security: `PLAIN`, or the settings of a secure server.
    """
    own = {
        "path.data": str(folder / "data"),
        "path.logs": str(folder / "logs"),
        "http.port": ports[0],
        "transport.port": ports[1],
    }
    # JSON is YAML, and has no aliases, which the servers do not read.
    settings = {**_COMMON, **_OWN[kind], **security, **own}
    (folder / "config" / f"{kind}.yml").write_text(json.dumps(settings, indent=1), encoding="utf-8")


def environment(kind: Kind, folder: Path, java_home: Path) -> dict[str, str]:
    """The environment of the start script: nothing of ours but the path and the locale."""
    prefix = "ES" if kind == "elasticsearch" else "OPENSEARCH"
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
    return kept | {
        "HOME": str(folder),
        f"{prefix}_JAVA_HOME": str(java_home),
        f"{prefix}_JAVA_OPTS": _JAVA_OPTIONS,
        f"{prefix}_PATH_CONF": str(folder / "config"),
        f"{prefix}_TMPDIR": str(folder / "tmp"),
        "CLI_JAVA_OPTS": f"-Xmx64m {_COMPILER}",
    }


def unprivileged() -> tuple[int, int] | None:
    """The user and group a server runs as when we are root, which both servers refuse; None when we are not."""
    if os.geteuid() != 0:
        return None
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        return 65534, 65534
    return nobody.pw_uid, nobody.pw_gid


def hand_over(folder: Path) -> None:
    """Give a folder to the unprivileged user when we are root; nobody else may look into it."""
    folder.chmod(0o700)
    if (user := unprivileged()) is None:
        return
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, *user)


def check_enterable(folder: Path) -> None:
    """Refuse a place where the unprivileged user, if there is to be one, could not come.

    Raises:
        NoServer: A folder on the way is closed to others; the message names it.
    """
    if unprivileged() is None:
        return
    for parent in [folder, *folder.parents]:
        if parent.exists() and not parent.stat().st_mode & stat.S_IXOTH:
            raise NoServer(f"the servers run as another user than root, who may not enter {parent}")
