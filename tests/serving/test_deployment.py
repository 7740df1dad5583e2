"""The files of deploy/ say what the service is: its port, paths, variables and metric, and how long it takes to end."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from secondpass import CrossEncoder, __version__
from secondpass.cli import app
from secondpass.errors import InvalidInput
from secondpass.forwards.kernel import cache as kernel_cache
from secondpass.serving.application import create_app
from secondpass.serving.server import WRITE_OUT_S
from secondpass.serving.settings import VARIABLE, ApiKeys, Settings
from secondpass_servers.requests import KEY as SERVICE_KEY
from tests.servers.archives import KINDS, VERSIONS, Kind
from tests.serving.conftest import KEY, Live

DEPLOY = Path(__file__).parents[2] / "deploy"
DEFAULTS = Settings()


@cache
def text(name: str) -> str:
    """A file of the folder."""
    return (DEPLOY / name).read_text(encoding="utf-8")


def instruction(name: str) -> list[str]:
    """What follows an instruction in the Dockerfile, continued lines joined, in order."""
    return re.findall(rf"^{name} (.*)$", text("Dockerfile").replace("\\\n", ""), re.M)


def image() -> dict[str, str]:
    """The image's environment; what the CUDA one adds counts too."""
    return dict(word.split("=", 1) for line in instruction("ENV") for word in line.split())


@cache
def compose(name: str = "compose.yaml") -> dict[str, Any]:
    """The services of a compose file."""
    services: dict[str, Any] = yaml.safe_load(text(name))["services"]
    return services


@cache
def manifest(kind: str) -> dict[str, Any]:
    """The spec of the one object of a kind."""
    files = (text(f"kubernetes/{name}.yaml") for name in ("secondpass", "autoscaling"))
    found = [one for file in files for one in yaml.safe_load_all(file) if one["kind"] == kind]
    (only,) = found
    spec: dict[str, Any] = only["spec"]
    return spec


def pod() -> dict[str, Any]:
    """What the pods are."""
    spec: dict[str, Any] = manifest("Deployment")["template"]["spec"]
    return spec


def environment() -> dict[str, str]:
    """What the service's container is told."""
    return {one["name"]: one.get("value", "") for one in pod()["containers"][0]["env"]}


def unit(key: str) -> str:
    """The value of a key of the systemd unit."""
    (value,) = re.findall(rf"^{key}=(.*)$", text("secondpass.service"), re.M)
    return str(value)


@pytest.mark.parametrize(
    ("given", "delay"),
    [
        (unit("TimeoutStopSec"), 0.0),
        (compose()["secondpass"]["stop_grace_period"].removesuffix("s"), 0.0),
        (pod()["terminationGracePeriodSeconds"], float(environment()["SECONDPASS_SHUTDOWN_DELAY_S"])),
    ],
)
def test_there_is_time_to_finish(given: str, delay: float) -> None:
    """The delay, the deadline, writing out, and once more for connections that stay: after that it is gone."""
    longest = delay + DEFAULTS.deadline_s + 2 * WRITE_OUT_S
    assert longest < float(given) <= longest + 5


def test_endpoints_forget_a_pod_before_it_leaves() -> None:
    """The readiness probe has failed by then, even if the last one was just before the signal."""
    probe = pod()["containers"][0]["readinessProbe"]
    assert float(environment()["SECONDPASS_SHUTDOWN_DELAY_S"]) >= probe["periodSeconds"] + probe["timeoutSeconds"]


def test_the_port_is_the_services() -> None:
    """In the image, published to this machine alone, in the pod and before it, and in what connects to it."""
    port = str(DEFAULTS.port)
    assert image()["SECONDPASS_PORT"] == port
    assert instruction("EXPOSE") == [port]
    assert compose()["secondpass"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    (named,) = pod()["containers"][0]["ports"]
    assert str(named["containerPort"]) == port
    assert manifest("Deployment")["template"]["metadata"]["annotations"]["prometheus.io/port"] == port
    (before,) = manifest("Service")["ports"]
    assert (str(before["port"]), before["targetPort"]) == (port, named["name"])
    for kind in KINDS:
        assert compose(f"compose.{kind}.yaml")["connect"]["command"][2] == f"http://secondpass:{port}"
    assert "--host" not in unit("ExecStart") + unit("Environment")
    assert f"{DEFAULTS.host}:{port}" in text("secondpass.service")


def published() -> Iterator[str]:
    """Every port of every compose file."""
    for file in DEPLOY.glob("compose*.yaml"):
        for service in compose(file.name).values():
            yield from service.get("ports", ())


def test_compose_publishes_to_this_machine_alone() -> None:
    """There is no TLS in front of anything."""
    assert len(list(published())) == 3
    assert all(port.startswith("127.0.0.1:") for port in published())


def test_an_image_without_a_key_does_not_start() -> None:
    """It listens for others, which the service refuses without a key."""
    with pytest.raises(InvalidInput, match="no API key"):
        Settings(host=image()["SECONDPASS_HOST"])


def test_probes_and_scrapes_need_no_key(tiny: CrossEncoder) -> None:
    """Each path is there and answers a service that has one; its autoscaler's metric is among what it tells."""
    container = pod()["containers"][0]
    annotations = manifest("Deployment")["template"]["metadata"]["annotations"]
    probes = [container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")]
    assert {probe["port"] for probe in probes} == {container["ports"][0]["name"]}
    paths = [*(probe["path"] for probe in probes), annotations["prometheus.io/path"]]
    open_metrics = environment()["SECONDPASS_OPEN_METRICS"] == "true"
    made = create_app(Settings(keys=ApiKeys([KEY]), open_metrics=open_metrics), {"tiny": tiny})

    async def asked() -> list[httpx.Response]:
        client = httpx.AsyncClient(transport=httpx.ASGITransport(made), base_url="http://x", trust_env=False)
        async with made.router.lifespan_context(made), client as one:
            return [await one.get(path) for path in (*paths, "/info")]

    *answers, closed = asyncio.run(asked())
    assert ([answer.status_code for answer in answers], closed.status_code) == ([200] * 4, 401)
    (metric,) = [
        one["pods"]["metric"]["name"] for one in manifest("HorizontalPodAutoscaler")["metrics"] if "pods" in one
    ]
    assert f'\n{metric}{{model="tiny"}} 0.0\n' in answers[-1].text
    (rule,) = yaml.safe_load(text("kubernetes/prometheus-adapter.yaml"))["rules"]["custom"]
    assert rule["seriesQuery"].startswith(f"{metric}{{")


def test_nobody_is_root() -> None:
    """One number for the user, which nobody else has: in the image, in pods, and for what is mounted for it."""
    (user,) = instruction("USER")
    number, group = user.split(":")
    assert int(number) > 10000
    assert f"install -d -o {number} -g {group} -m 700 {image()['SECONDPASS_CACHE']}" in text("Dockerfile")
    context = pod()["securityContext"]
    assert [str(context[name]) for name in ("runAsUser", "runAsGroup", "fsGroup")] == [number, group, group]
    assert context["runAsNonRoot"] is True
    for kind in KINDS:
        mounts = compose(f"compose.{kind}.yaml")["connect"]["tmpfs"]
        assert f"{image()['SECONDPASS_CACHE']}:uid={number},gid={group},mode=0700" in mounts


def test_only_the_cache_and_tmp_are_written_to() -> None:
    """Every container of ours has a root that is read only, no capabilities and no way to more rights."""
    cached = image()["SECONDPASS_CACHE"]
    assert image()["HF_HOME"].startswith(f"{cached}/")
    assert instruction("WORKDIR")[-1] == cached
    for container in pod()["containers"]:
        locked = container["securityContext"]
        assert locked == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
    mounts = {one["mountPath"]: one.get("readOnly", False) for one in pod()["containers"][0]["volumeMounts"]}
    assert mounts == {"/models": True, cached: False, "/tmp": False}  # noqa: S108
    for service in (compose()["secondpass"], *(compose(f"compose.{kind}.yaml")["connect"] for kind in KINDS)):
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert service["security_opt"] == ["no-new-privileges:true"]
    assert f"cache:{cached}" in compose()["secondpass"]["volumes"]


def test_what_schemas_let_pass() -> None:
    """Volumes that are mounted are there, quantities are ones, and the autoscaler asks of what there is."""
    volumes = {volume["name"] for volume in pod()["volumes"]}
    assert {mount["name"] for one in pod()["containers"] for mount in one["volumeMounts"]} == volumes
    amounts = [part for one in pod()["containers"] for kind in one["resources"].values() for part in kind.values()]
    amounts += [volume["emptyDir"]["sizeLimit"] for volume in pod()["volumes"] if volume["emptyDir"]]
    queue, processors = manifest("HorizontalPodAutoscaler")["metrics"]
    amounts.append(queue["pods"]["target"]["averageValue"])
    assert [amount for amount in amounts if not re.fullmatch(r"[1-9]\d*(m|[KMG]i)?", amount)] == []
    assert (queue["type"], processors["type"]) == ("Pods", "ContainerResource")
    assert processors["containerResource"]["container"] == pod()["containers"][0]["name"]


def variables() -> set[str]:
    """What the program reads from its environment."""
    command = get_command(app).get_command(None, "serve")  # type: ignore[attr-defined]
    known = {str(option.envvar) for option in command.params if option.envvar}
    return known | {VARIABLE, kernel_cache.PLACE, kernel_cache.SIZE}


def test_variables_are_those_that_are_read() -> None:
    """In the image, in compose's service, in pods and in the unit; what compose itself is told has names of its own."""
    told = {*image(), *compose()["secondpass"]["environment"], *environment()}
    told |= {word.partition("=")[0] for word in unit("Environment").split()}
    told |= set(re.findall(r"\b(SECONDPASS_\w+)=", text("secondpass.service")))
    assert {name for name in told if name.startswith("SECONDPASS_")} - variables() == set()


@pytest.mark.parametrize("kind", KINDS)
def test_search_servers_are_those_of_the_tests(kind: Kind) -> None:
    """The same version, beside the same service, in whose image is what connects them."""
    services = compose(f"compose.{kind}.yaml")
    assert services[kind]["image"].rpartition(":")[2] == VERSIONS[kind]
    assert services["secondpass"].keys() == {"extends", "build", "image"}
    assert services["secondpass"]["extends"] == {"file": "compose.yaml", "service": "secondpass"}
    assert services["secondpass"]["build"] == {"args": {"EXTRAS": f"serve,{kind}"}}
    assert services["secondpass"]["image"] == services["connect"]["image"]
    assert set(services["connect"]["depends_on"]) == {"secondpass", kind}
    for name in ("cache", "models"):  # which `extends` does not bring
        assert name in yaml.safe_load(text(f"compose.{kind}.yaml"))["volumes"]


@pytest.mark.parametrize(
    ("kind", "code", "said"),
    [("elasticsearch", 0, "http://secondpass:8000/v2/rerank"), ("opensearch", 1, "cannot be reached")],
)
def test_what_connects_them_is_a_command(kind: Kind, code: int, said: str) -> None:
    """With the options that it has, and the key; OpenSearch is asked even for what would be done."""
    connect = compose(f"compose.{kind}.yaml")["connect"]
    told = connect["environment"] | {f"{kind.upper()}_URL": "http://127.0.0.1:9", SERVICE_KEY: KEY}
    assert told.keys() == connect["environment"].keys()
    done = CliRunner().invoke(app, [*connect["command"], "--dry-run"], env=told)
    assert (done.exit_code, said in done.output) == (code, True), done.output


def test_the_service_before_the_pods_sets_no_variable_in_them() -> None:
    """Kubernetes would tell of its address by NAME_PORT=tcp://..., which is a variable of ours."""
    (name,) = re.findall(r"^kind: Service\nmetadata:\n  name: (\w+)$", text("kubernetes/secondpass.yaml"), re.M)
    assert f"{name.upper()}_PORT" in variables()
    assert pod()["enableServiceLinks"] is False


def test_the_image_has_the_version_of_the_distribution() -> None:
    """Where a tag is said."""
    (tagged,) = yaml.safe_load(text("kubernetes/kustomization.yaml"))["images"]
    assert tagged["newTag"] == __version__
    assert {container["image"] for container in pod()["containers"]} == {tagged["name"]}


def test_the_page_patches_what_it_means() -> None:
    """Places in the lists of the deployment are those of what the page replaces."""
    page = (DEPLOY.parent / "docs" / "deployment.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", page, re.S)
    (patch,) = yaml.safe_load(block)["patches"]
    changes = yaml.safe_load(patch["patch"])
    places = [one["path"].removeprefix("/spec/template/spec/").split("/") for one in changes]
    assert patch["target"] == {"kind": "Deployment", "name": "secondpass"}
    found = []
    for place in places:
        there: Any = pod()
        for step in place[: max(at for at, step in enumerate(place) if step.isdecimal()) + 1]:
            there = there[int(step)] if step.isdecimal() else there[step]
        found.append(there["name"])
    assert found == ["SECONDPASS_MODEL", "models", "secondpass", "secondpass", "secondpass"]
    # torch with CUDA does not fit into what the packaged model has
    own = pod()["containers"][0]["resources"]
    memory = {one["path"].split("/")[-2]: one["value"] for one in changes if one["path"].endswith("/memory")}
    assert memory.keys() == own.keys()
    assert int(memory["limits"].removesuffix("Gi")) > int(own["limits"]["memory"].removesuffix("Gi"))


def test_the_health_check_tells_who_answers(live: Live) -> None:
    """0 beside a service; else not, and it needs nothing but Python."""
    (check,) = instruction("HEALTHCHECK")
    _, *arguments = json.loads(check[check.index("[") :])
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        here, nowhere = live.url.rpartition(":")[2], str(nobody.getsockname()[1])
        ends = [
            subprocess.run(
                [sys.executable, *arguments],
                env=os.environ | {"SECONDPASS_PORT": port},
                capture_output=True,
                timeout=60,
                check=False,
            ).returncode
            for port in (here, nowhere)
        ]
    assert ends == [0, 1]


def test_a_reload_that_comes_too_early_is_a_restart() -> None:
    """Before the program takes its signal, that ends it; systemd counts such an end as clean and would leave it so."""
    sent = re.fullmatch(r"/bin/kill -(\w+) \$MAINPID", unit("ExecReload"))
    assert sent is not None
    assert (unit("Restart"), unit("RestartForceExitStatus")) == ("on-failure", f"SIG{sent[1]}")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_the_unit_is_one(tmp_path: Path) -> None:
    """Of systemd's own opinion, with the drop-ins of the page; it looks for the program, so another is named."""
    page = (DEPLOY.parent / "docs" / "deployment.md").read_text(encoding="utf-8")
    dropped_in = re.findall(r"```ini\n(.*?)```", page, re.S)
    assert len(dropped_in) == 2
    whole = text("secondpass.service").replace(unit("ExecStart").split()[0], sys.executable)
    file = tmp_path / "secondpass.service"
    file.write_text("\n".join([whole, *dropped_in]), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", file], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
