"""The files of deploy/ under the tools of their fields, and the image without a Docker engine.

    python -m tests.deployment lint     # hadolint, docker compose, kubernetes-validate, systemd-analyze, kustomize
    python -m tests.deployment image    # root, and Debian's buildah and debootstrap

`image` has buildah carry out deploy/Dockerfile on a Debian that debootstrap made, measures the tree, and starts the
service in it as a container would: the image's user and environment, no capabilities, a root that is read only, no
network but a loopback of its own, the cache and the models as volumes. It is asked, told of new weights by what watches
for them in a pod, and stopped. What was made stays in build/deployment for the next run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
WORK = ROOT / "build" / "deployment"
SUITE = "trixie"
BUDGET_MB = 300
KUBERNETES = ("1.28", "1.31", "1.34", "1.37")
# Of 100; 0 is a service that may do nothing.
EXPOSURE = "15"
# What Debian's slim images leave out, now and of packages that are installed later.
LEFT_OUT = ("doc", "info", "lintian", "locale", "man")
KEY = "a-key-of-the-checks-0123456789"
QUERY = {
    "query": "how many people live in Berlin",
    "documents": ["It is known for its museums.", "Berlin had 3.7 million inhabitants in 2023."],
}
ASK = """
import http.client, json, os, sys
connection = http.client.HTTPConnection("127.0.0.1", int(os.environ["SECONDPASS_PORT"]), timeout=30)
headers = {"Content-Type": "application/json"} | ({"Authorization": "Bearer " + sys.argv[1]} if sys.argv[1] else {})
connection.request("POST", "/v2/rerank", sys.argv[2], headers)
answer = connection.getresponse()
print(json.dumps([answer.status, json.loads(answer.read())]))
"""
ENTER = """
set -e
root=$1 models=$2 user=$3; shift 3
mkdir -p "$root/models"
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount --bind "$models" "$root/models"
mount -o remount,bind,ro "$root/models"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=1777 none "$root/tmp"
mount -t tmpfs -o mode=0777 none "$root/var/cache/secondpass"
mount -t tmpfs -o mode=0755 none "$root/dev"
for device in null zero full random urandom; do
  touch "$root/dev/$device"; mount --bind "/dev/$device" "$root/dev/$device"
done
ln -s /proc/self/fd "$root/dev/fd"
ip link set lo up
exec chroot "$root" setpriv --reuid="${user%:*}" --regid="${user#*:}" --clear-groups --no-new-privs \
  --bounding-set=-all env -i "$@"
"""


def say(line: str) -> None:
    """Tell how far it is."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def run(*command: str | Path, **environment: str) -> str:
    """Run a tool; what it prints. One that fails ends this with what it said."""
    told = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"} | environment
    done = subprocess.run(list(map(str, command)), cwd=ROOT, env=told, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))[:200]}: {done.returncode}\n{done.stdout}{done.stderr}"[-6000:])
    return done.stdout


def lint() -> None:
    """Every file by a tool that knows its format; kustomize and systemd's only where they are."""
    run("hadolint", DEPLOY / "Dockerfile")
    for file in sorted(DEPLOY.glob("compose*.yaml")):
        run("docker-compose", "-f", file, "config", "--quiet", SECONDPASS_API_KEY=KEY, ELASTIC_PASSWORD=KEY)
    manifests = [DEPLOY / "kubernetes" / f"{name}.yaml" for name in ("secondpass", "autoscaling")]
    for version in KUBERNETES:
        run("kubernetes-validate", "--kubernetes-version", version, "--strict", "--quiet", *manifests)
    say("Dockerfile, compose files and manifests: as they should be")
    if shutil.which("kustomize"):
        kustomized()
        say("kustomizations, the page's too: what they build is as it should be")
    if shutil.which("systemd-analyze"):
        unit = DEPLOY / "secondpass.service"
        told = run("systemd-analyze", "security", "--no-pager", "--offline=yes", f"--threshold={EXPOSURE}", unit)
        say(told.strip().splitlines()[-1])


def kustomized() -> None:
    """Build the folder, and the kustomization of docs/deployment.md over it."""
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", page, re.S)
    over = WORK / "kustomization"
    over.mkdir(parents=True, exist_ok=True)
    base = os.path.relpath(DEPLOY / "kubernetes", over)
    text = block.replace("../secondpass/deploy/kubernetes", base)
    (over / "kustomization.yaml").write_text(text, encoding="utf-8")
    for folder in (DEPLOY / "kubernetes", over):
        built = WORK / "kustomized.yaml"
        built.write_text(run("kustomize", "build", folder), encoding="utf-8")
        run("kubernetes-validate", "--strict", "--quiet", built)


def buildah(*command: str | Path) -> str:
    """Run buildah with a store of its own."""
    store = ["--root", WORK / "store", "--runroot", WORK / "run", "--storage-driver", "overlay"]
    return run("buildah", *store, *command, BUILDAH_ISOLATION="chroot").strip()


def debian() -> None:
    """Make the image that the Dockerfile begins with, of Debian's packages, unless it is there."""
    tag = f"docker.io/library/debian:{SUITE}-slim"
    if f"debian:{SUITE}-slim" in buildah("images", "--format", "{{.Name}}:{{.Tag}}"):
        return
    say(f"debootstrap {SUITE}")
    tree = WORK / "debian"
    shutil.rmtree(tree, ignore_errors=True)
    run("debootstrap", "--variant=minbase", SUITE, tree, "http://deb.debian.org/debian")
    for name in ("var/cache/apt/archives", "var/lib/apt/lists", *(f"usr/share/{name}" for name in LEFT_OUT)):
        shutil.rmtree(tree / name, ignore_errors=True)
        (tree / name).mkdir()
    rules = "".join(f"path-exclude /usr/share/{name}/*\n" for name in LEFT_OUT)
    (tree / "etc/dpkg/dpkg.cfg.d/slim").write_text(
        f"{rules}path-include /usr/share/doc/*/copyright\n", encoding="utf-8"
    )
    # certificates that this machine trusts beside Debian's own, for pip: the index may stand behind a proxy
    own = Path("/usr/local/share/ca-certificates")
    if own.is_dir():
        shutil.copytree(own, tree / own.relative_to("/"), dirs_exist_ok=True)
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, tree, "/")
    buildah("config", "--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", container)
    buildah("commit", "--quiet", "--rm", container, tag)
    shutil.rmtree(tree)


def megabytes(tree: Path) -> float:
    """What the files of a tree hold, each once."""
    found = {
        (file.stat().st_ino, file.stat().st_size)
        for file in tree.rglob("*")
        if file.is_file() and not file.is_symlink()
    }
    return sum(size for _, size in found) / 1e6


def until(condition: Callable[[], bool], what: str, seconds: float = 300.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"waited in vain for {what}")
        time.sleep(0.1)


class Container:
    """The service in the image's tree, as a container has it."""

    def __init__(self, tree: Path, config: dict[str, Any], models: Path, log: Path, **environment: str) -> None:
        told = [*config["Env"], *(f"{name}={value}" for name, value in environment.items())]
        command = [*config["Entrypoint"], *config["Cmd"]]
        namespaces = ["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child"]
        self._environment, self._user, self._log = told, config["User"], log
        with log.open("wb") as file:
            self.outer = subprocess.Popen(
                [*namespaces, "sh", "-c", ENTER, "sh", tree, models, config["User"], *told, *command],
                stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """The number of its first process, outside."""
        children = Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children").read_text(encoding="ascii").split()
        return int(children[0])

    def events(self) -> list[str]:
        """What it has logged."""
        lines = self._log.read_text(encoding="utf-8").splitlines()
        return [str(json.loads(line)["event"]) for line in lines if line.startswith("{")]

    def inside(self, command: Sequence[str], *environment: str) -> list[str]:
        """A command as one that runs in it, as its user."""
        user, group = self._user.split(":")
        entered = ["nsenter", "--target", str(self.pid), "--mount", "--net", "--pid", "--ipc", "--root", "--wd"]
        rights = [
            "setpriv",
            f"--reuid={user}",
            f"--regid={group}",
            "--clear-groups",
            "--no-new-privs",
            "--bounding-set=-all",
        ]
        return [*entered, *rights, "env", "-i", *self._environment, *environment, *command]

    def ask(self, key: str) -> tuple[int, dict[str, Any]]:
        """Rerank two documents."""
        status, body = json.loads(run(*self.inside(["python3", "-c", ASK, key, json.dumps(QUERY)])))
        return status, body


def check(is_so: bool, what: str) -> None:
    """Tell what is so; what is not ends this."""
    if not is_so:
        raise SystemExit(f"not so: {what}")
    say(f"  {what}")


def image() -> None:
    """Build, measure, start, ask, reload, stop."""
    missing = [name for name in ("buildah", "debootstrap", "unshare", "nsenter", "ip") if shutil.which(name) is None]
    if missing or os.geteuid():
        raise SystemExit(f"needs root and these programs: {', '.join(missing) or 'all are there'}")
    WORK.mkdir(parents=True, exist_ok=True)
    debian()
    say("buildah carries out deploy/Dockerfile")
    options = ["--format", "docker", "--pull-never", "--layers", "--network", "host", "--target", "service"]
    buildah("bud", *options, "--file", DEPLOY / "Dockerfile", "--tag", "secondpass", ".")
    config = json.loads(buildah("inspect", "--type", "image", "secondpass"))["Docker"]["config"]
    container = buildah("from", "--pull-never", "secondpass")
    try:
        tree = Path(buildah("mount", container))
        size = megabytes(tree)
        check(
            size <= BUDGET_MB,
            f"the image holds {size:.0f} MB of {BUDGET_MB}, {megabytes(tree / 'opt'):.0f} of them ours",
        )
        serve(tree, config)
    finally:
        buildah("rm", container)
        overlay = WORK / "store" / "overlay"
        if os.path.ismount(overlay):  # or nobody could remove the folder
            run("umount", overlay)


def serve(tree: Path, config: dict[str, Any]) -> None:
    """Start the service in the tree, and all that is done to one."""
    models, log = WORK / "models", WORK / "log"
    shutil.rmtree(models, ignore_errors=True)
    (packaged,) = tree.glob("opt/secondpass/lib/python3.*/site-packages/secondpass/pocket")
    shutil.copytree(packaged, models / "mine", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    keyless = Container(tree, config, models, log)
    check(
        keyless.outer.wait(300) == 2 and "no API key is set" in log.read_text("utf-8"),
        "without a key it refuses to start",
    )

    service = Container(tree, config, models, log, SECONDPASS_API_KEYS=KEY, SECONDPASS_MODEL="mine=/models/mine")
    watcher = None
    try:
        until(lambda: "serving" in service.events() or service.outer.poll() is not None, "the service to start")
        check(service.outer.poll() is None, "with a key it starts, its root read only, from a volume's model")
        status = Path(f"/proc/{service.pid}/status").read_text(encoding="utf-8")
        check(
            "Uid:\t10001\t10001" in status and "CapBnd:\t0000000000000000" in status, "as nobody, without capabilities"
        )
        _, *health = config["Healthcheck"]["Test"]
        run(*service.inside(health))
        check(True, "the image's health check passes")
        code, answer = service.ask(KEY)
        check((code, answer["results"][0]["index"]) == (200, 1), "it reranks")
        check(service.ask("")[0] == 401, "and refuses who has no key")
        kept = run(*service.inside(["find", "/var/cache/secondpass/kernel", "-type", "f"]))
        check(bool(kept.split()), "packed weights are kept in the volume of the cache, which is root's as a pod's is")

        (manifest, *_) = yaml.safe_load_all((DEPLOY / "kubernetes" / "secondpass.yaml").read_text(encoding="utf-8"))
        reload = manifest["spec"]["template"]["spec"]["containers"][1]
        watcher = subprocess.Popen(service.inside([*reload["command"], *reload["args"]], "RELOAD_SECONDS=1"))
        time.sleep(3)
        check("reloading" not in service.events(), "what watches for new weights lets it be while there are none")
        (weights,) = (models / "mine").glob("*.safetensors")
        shutil.copyfile(weights, models / "new")
        os.replace(models / "new", weights)
        until(lambda: "reloaded" in service.events(), "the models to be loaded anew")
        check(service.ask(KEY)[0] == 200 and watcher.poll() is None, "new weights are loaded, once")
        time.sleep(3)
        check(service.events().count("reloading") == 1, "and it serves on")
        watcher.terminate()
        os.kill(service.pid, signal.SIGTERM)
        check(service.outer.wait(60) == 0 and service.events()[-1] == "stopped", "SIGTERM ends it well")
    finally:
        if watcher is not None and watcher.poll() is None:
            watcher.kill()
        if service.outer.poll() is None:
            service.outer.kill()
        sys.stderr.write("" if "stopped" in service.events() else log.read_text(encoding="utf-8")[-3000:])


if __name__ == "__main__":
    for asked in sys.argv[1:]:
        {"lint": lint, "image": image}[asked]()
