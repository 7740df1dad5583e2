"""Past one machine: candidates rescored by a pool of Ray actors, and the service's application under Ray Serve.

`Rescorer` is also what `map_batches` of a Ray dataset takes, with `batch_format="pyarrow"`; the command's pool hands
its actors parts of files instead of rows, so that what is done outlives the driver.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from typing import Any

from secondpass.candidates import RunPart
from secondpass.errors import InvalidInput, SecondPassError
from secondpass.forwards.kernel.native import usable_cores
from secondpass.lazy import optional
from secondpass.rescoring import THREADS, PartDone, PartWriter, Rescorer, RunParts
from secondpass.serving.settings import (
    Settings,
    model_source,
    probable,
    read_keys,
    require_libraries,
    shadows_of,
)
from secondpass.text import positive_int
from secondpass.tracing import carrier

__all__ = ["Pool", "Rescorer", "service"]

logger = logging.getLogger(__name__)

MOST_DEATHS = 5
# How long nothing may run before it is said, and how long a cluster's port may take to answer, seconds.
PATIENCE, ANSWER = 30.0, 10.0
TRIES = 3
# What we start holds parts' places and counts only; less is refused.
STORE_BYTES = 80 * 2**20
FLAGS = {"true": True, "1": True, "false": False, "0": False}


@contextmanager
def started(cores: int | None = None) -> Iterator[Any]:
    """Ray: the one that this process has, that of RAY_ADDRESS, or one of its own, which ends with the block.

    One of its own has `cores` cores, by default those that this process may use, listens on loopback alone and reports
    nothing to anybody.

    Raises:
        MissingExtra: Ray is not installed.
        SecondPassError: it cannot be reached or started, or was imported before, so that it would listen on all
            addresses.
    """
    address = os.environ.get("RAY_ADDRESS", "").strip()
    address = "" if address == "local" else address
    if not address:
        # Ray reads both when it is imported. Without the first it takes this machine's address for 127.0.0.1 too.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = optional("ray", "Ray", "ray")
    if ray.is_initialized():
        yield ray
        return
    check_answers(address)
    options: dict[str, Any] = {"num_cpus": cores or usable_cores(), "object_store_memory": STORE_BYTES}
    options = {"address": address} if address else {"address": "local", "include_dashboard": False, **options}
    for left in range(1 if address else TRIES)[::-1]:
        try:
            ray.init(**options, logging_level=logging.ERROR, log_to_driver=False)
            break
        except Exception as error:  # a machine with much to do does not start it within Ray's 30 seconds
            ray.shutdown()
            if not left:
                raise SecondPassError(f"no Ray at {address or 'this machine'}: {error}") from error
    try:
        if not address and not ipaddress.ip_address(ray.util.get_node_ip_address()).is_loopback:
            raise SecondPassError("Ray was imported before, and would listen on all addresses: start it yourself first")
        yield ray
    finally:
        ray.shutdown()


def check_answers(address: str) -> None:
    """Raise SecondPassError for an address where nobody listens: Ray itself tries for minutes."""
    if address in ("", "auto"):
        return
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not (host and port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        raise SecondPassError(f"RAY_ADDRESS={address!r} is not host:port, ray://host:port, auto or local")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER).close()
    except (OSError, UnicodeError) as error:
        raise SecondPassError(f"no Ray at {address}, which is RAY_ADDRESS: {error}") from None


@dataclass
class _Actor:
    """One worker: its handle, and the part that it has, None while it loads its model."""

    handle: Any
    part: RunPart | None = None


@dataclass
class Pool:
    """Workers that write parts: an engine for `rescoring.begun`'s work.

    A worker has at most one part. One that dies is replaced and its part done again, by whoever is free; a worker that
    no node has room for waits beside the others.

    Args:
        ray: of `started`.
        workers: how many; None takes one for each GPU, else one for each `threads` cores of each node.
        threads: cores, and threads, of each.
        device: of the models; None takes GPUs where there are some.
        most_deaths: workers that may die over one part, or while they load the model, before the work ends.

    Raises:
        InvalidInput: the cluster has no room for so many, or the device is not one that every worker has.
    """

    ray: Any
    workers: int | None = None
    threads: int = 1
    device: str | None = None
    most_deaths: int = MOST_DEATHS
    _deaths: Counter[int | None] = field(default_factory=Counter)
    _running: dict[Any, _Actor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        positive_int(self.threads, "threads")
        if self.device not in (None, "cuda:0") and ({",", ":"} & set(self.device)):
            raise InvalidInput(f"device={self.device!r}: each worker has one device, cpu or cuda")
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        held = [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes]
        cores, gpus = (sum(each[place] for each in held) for place in (0, 1))
        if self.device is None and gpus:
            self.device = "cuda"
        self.gpus = gpus_of(self.device)
        # a worker's cores are all of one node
        room = sum(min(own // self.threads, cards if self.gpus else own) for own, cards in held)
        wanted = self.workers = positive_int(self.workers, "workers") if self.workers is not None else max(room, 1)
        if wanted > room:
            have = f"{cores} cores" + f" and {gpus} GPUs" * self.gpus + f" on {len(held)} nodes" * (len(held) > 1)
            asked = f"workers={wanted} with threads={self.threads}"
            raise InvalidInput(f"{asked}: Ray has {have}, which is room for {room}")

    def __call__(self, work: RunParts) -> Iterator[PartDone]:
        """Write all parts, giving each as it is done; raises SecondPassError where one cannot be."""
        waiting = deque(work.todo)
        start = self._starter(work)
        try:
            for _ in range(min(self.workers or 1, len(waiting))):
                start()
            # Workers that wait for room keep nobody waiting.
            while waiting or any(actor.part for actor in self._running.values()):
                ready, _ = self.ray.wait(list(self._running), timeout=PATIENCE)
                if not ready:
                    self._note(len(waiting))
                for ref in ready:
                    actor = self._running.pop(ref)
                    done = self._result(ref, actor)
                    if isinstance(done, SecondPassError):
                        waiting.extendleft([actor.part] if actor.part is not None else [])
                        start()
                        continue
                    if isinstance(done, PartDone):
                        yield done
                    elif (wanted := work.dtype) is not None and done != wanted:
                        self._running[actor.handle.load.remote(wanted)] = actor
                        continue
                    else:
                        work.begin(done)
                    actor.part = waiting.popleft() if waiting else None
                    if actor.part is not None:
                        self._running[actor.handle.write.remote(actor.part)] = actor
                    else:
                        self.ray.kill(actor.handle)
        finally:
            for actor in self._running.values():
                self.ray.kill(actor.handle)
            self._running.clear()

    def _result(self, ref: Any, actor: _Actor) -> Any:
        """What a worker says, or an error that it died of and that may not come again; raises what it raised."""
        number = None if actor.part is None else actor.part.number
        errors = self.ray.exceptions
        try:
            done = self.ray.get(ref)
        except errors.RayTaskError as error:
            cause = error.cause
            known = isinstance(cause, SecondPassError)
            raise cause if known else SecondPassError(f"a worker failed: {type(cause).__name__}: {cause}") from None
        except errors.RayError as error:
            self._deaths[number] += 1
            with suppress(errors.RayError):
                self.ray.kill(actor.handle)
            what = "while it loaded the model" if number is None else f"over part {number}"
            text = f"a worker died {what}: {' '.join(str(error).split())[:300]}"
            if self._deaths[number] >= self.most_deaths:
                raise SecondPassError(f"{self.most_deaths} times {text}") from None
            logger.warning("%s", text)
            return SecondPassError(text)
        del self._deaths[number]
        return done

    def _note(self, waiting: int) -> None:
        if not any(actor.part for actor in self._running.values()):
            free = self.ray.available_resources()
            told = {name: free.get(name, 0) for name in ("CPU", "GPU")}
            logger.warning("%d parts wait, and no worker runs; free in the cluster: %s", waiting, told)

    def _starter(self, work: RunParts) -> Callable[[], None]:
        folder, candidates, digests, top_k, options = work.writer
        kind = self.ray.remote(PartWriter).options(
            num_cpus=self.threads,
            num_gpus=self.gpus,
            scheduling_strategy="SPREAD",
            max_restarts=0,
            max_task_retries=0,
        )

        def start() -> None:
            own = {**options, "device": self.device, "headers": carrier()}
            handle = kind.remote(folder, candidates, digests, top_k, own, self.threads)
            self._running[handle.load.remote(work.dtype)] = _Actor(handle)

        return start


# ---- The service under Ray Serve.


def service(arguments: Mapping[str, Any]) -> Any:
    """The service's application as a Ray Serve application: `serve run secondpass.ray:service without_keys=true`.

    Every replica loads the models and has the service's own queue in front of each; Serve starts and ends replicas by
    the requests that wait or run for each. Keys are those of SECONDPASS_API_KEYS where this runs.

    Args:
        arguments: `model` and `calibration` (as `secondpass serve` takes them, several separated by blanks) and further
            fields of `serving.Settings`; `min_replicas` (1), `max_replicas` (4), `target_ongoing_requests` (8) and
            `threads` (1), the cores of each replica, which has a GPU for each device of `cuda`.

    Raises:
        InvalidInput: one is refused, or neither keys nor `without_keys` are given: who reaches Serve's proxy is not
            known here.
    """
    serve = optional("ray.serve", "Ray Serve", "ray")
    require_libraries()
    given = dict(arguments)
    names = ("min_replicas", "max_replicas", "target_ongoing_requests", "threads")
    counts = {name: _number(name, given.pop(name, default)) for name, default in zip(names, (1, 4, 8, 1), strict=True)}
    threads = int(counts.pop("threads"))
    settings = settings_of(given)

    def application() -> Any:
        from secondpass.serving import create_app

        return create_app(settings)

    deployment = serve.deployment(
        serve.ingress(application)(),
        name="secondpass",
        autoscaling_config=counts,
        max_ongoing_requests=settings.max_requests,
        graceful_shutdown_timeout_s=settings.deadline_s + 10,
        ray_actor_options={
            "num_cpus": threads,
            "num_gpus": gpus_of(settings.device),
            "runtime_env": {"env_vars": dict.fromkeys(THREADS, str(threads))},
        },
    )
    return deployment.bind()


def gpus_of(device: str | None) -> int:
    """How many GPUs have to be there for a process on these devices, several with commas between them."""
    return len({name.strip() for name in (device or "").split(",") if name.strip().startswith("cuda")})


def settings_of(arguments: Mapping[str, Any]) -> Settings:
    """The service's settings of what `service` is told, without what is Serve's; raises InvalidInput as it does."""
    given = dict(arguments)
    models = map(model_source, str(given.pop("model", "secondpass/pocket")).split())
    sources = probable(models, str(given.pop("calibration", "")).split())
    kinds = {each.name: str(each.type) for each in fields(Settings)}
    unknown = [name for name in given if name not in kinds or name in ("models", "keys", "host", "port")]
    if unknown:
        raise InvalidInput(f"{unknown[0]!r} is no setting of the service under Ray Serve")
    keys = read_keys(os.environ)
    own = {name: _setting(name, kinds[name], value) for name, value in given.items()}
    if not (keys or own.get("without_keys")):
        raise InvalidInput("set SECONDPASS_API_KEYS, or say without_keys=true: Serve's proxy decides who reaches it")
    return Settings(sources, keys=keys, **own)


def _setting(name: str, kind: str, value: Any) -> Any:
    """A setting's value, also one that a command line gave as text; several are text with blanks, or a list."""
    word = str(value).lower()
    if name == "shadows":
        return shadows_of(map(str, value) if isinstance(value, (list, tuple)) else str(value).split())
    if name == "playground" and word in FLAGS:
        return "secondpass/demo" if FLAGS[word] else None
    if kind == "bool":
        if word not in FLAGS:
            raise InvalidInput(f"{name}={value!r} is neither true nor false")
        return FLAGS[word]
    if name == "device" and isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return _number(name, value) if kind.partition(" |")[0] in ("int", "float") else value


def _number(name: str, value: object) -> float:
    """A number, also one that a command line gave as text."""
    try:
        found = float(str(value))
    except ValueError:
        raise InvalidInput(f"{name}={value!r} is no number") from None
    return int(found) if found.is_integer() else found
