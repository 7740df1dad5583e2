"""The official images, where a Docker engine answers."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.servers.archives import VERSIONS, Kind
from tests.servers.instance import LONGEST_START, free_port
from tests.servers.problems import NoServer
from tests.servers.settings import HEAP

_IMAGES: dict[Kind, str] = {
    "elasticsearch": "docker.elastic.co/elasticsearch/elasticsearch",
    "opensearch": "opensearchproject/opensearch",
}
_SWITCHES: dict[Kind, dict[str, str]] = {
    "elasticsearch": {"xpack.security.enabled": "false", "ES_JAVA_OPTS": f"-Xms{HEAP} -Xmx{HEAP}"},
    "opensearch": {"DISABLE_SECURITY_PLUGIN": "true", "OPENSEARCH_JAVA_OPTS": f"-Xms{HEAP} -Xmx{HEAP}"},
}


@contextmanager
def containered(kind: Kind) -> Iterator[str]:
    """Run the official image on the host's own loopback, so that the server reaches services of a test there.

    Raises:
        NoServer: No Docker engine answers, the image cannot be had, or the server does not answer.
    """
    _engine()
    from testcontainers.core.container import DockerContainer

    port = free_port()
    container = DockerContainer(f"{_IMAGES[kind]}:{VERSIONS[kind]}").with_kwargs(network_mode="host")
    settings = {
        "discovery.type": "single-node",
        "network.host": "127.0.0.1",
        "http.port": str(port),
        "transport.port": str(free_port()),
        "cluster.routing.allocation.disk.threshold_enabled": "false",
    }
    for name, value in (settings | _SWITCHES[kind]).items():
        container.with_env(name, value)
    try:
        container.start()
    except Exception as error:  # the image, the registry, the engine: each has errors of its own
        container.stop()
        raise NoServer(f"the official image does not start: {type(error).__name__}") from error
    try:
        url = f"http://127.0.0.1:{port}"
        _await_answer(url)
        yield url
    finally:
        container.stop()


def _engine() -> None:
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if host.startswith("unix://"):  # docker's own attempt would leave its socket to the garbage collector
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(5)
            try:
                probe.connect(host.removeprefix("unix://"))
            except OSError as error:
                raise NoServer("no engine answers") from error
    import docker  # type: ignore[import-untyped]
    from docker.errors import DockerException  # type: ignore[import-untyped]

    try:
        client = docker.from_env(timeout=5)
    except DockerException as error:
        raise NoServer("no engine answers") from error
    try:
        client.ping()
    except Exception as error:  # docker lets errors of requests through
        raise NoServer("no engine answers") from error
    finally:
        client.close()


def _await_answer(url: str) -> None:
    end = time.monotonic() + LONGEST_START
    while time.monotonic() < end:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/_cluster/health", timeout=10, trust_env=False).status_code == 200:
                return
        time.sleep(0.5)
    raise NoServer(f"the official image did not answer on the host's loopback within {LONGEST_START:.0f} s")
