"""A process with a Ray of its own: what the pool, a dataset and Serve do there, as JSON on stdout; and one with Spark.

`python -m tests.ray_session pool|nodes|serve|spark FOLDER MODEL`; tests read it, since neither shares a process well.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import time
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import yaml

from secondpass import ray as ours
from secondpass.calibration import Calibration
from secondpass.candidates import CandidateFiles, RunPart
from secondpass.errors import SecondPassError
from secondpass.rescoring import PartDone, PartWriter, begun
from secondpass.tracing import carrier, reranking
from tests.cli.test_rescore import parquet

DEPLOY = Path(__file__).parents[1] / "deploy"


class Fatal(PartWriter):
    """A writer whose process does not outlive part 1."""

    def write(self, part: RunPart) -> PartDone:
        if part.number == 1:
            os._exit(1)
        return super().write(part)


class Traced(PartWriter):
    """A writer whose process records spans, as with a hook of Ray's: a line each, in a file beside the run."""

    def __init__(self, folder: str, *rest: Any) -> None:
        record(Path(f"{folder}.spans"))
        super().__init__(folder, *rest)


def record(file: Path | None = None) -> None:
    """Have this process make spans, and write those that end to a file."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

    provider = TracerProvider()
    if file is not None:
        out = file.open("a", encoding="utf-8")
        exporter = ConsoleSpanExporter(out=out, formatter=lambda span: span.to_json(indent=None) + "\n")
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def workers(name: str) -> list[Any]:
    """Processes of Ray's under this one whose title begins so."""
    import psutil

    found = psutil.Process().children(recursive=True)
    return [each for each in found if name in " ".join(each.cmdline())]


def addresses() -> list[str]:
    """What this process and those under it listen on."""
    import psutil

    mine = psutil.Process()
    listening = [
        connection
        for each in (mine, *mine.children(recursive=True))
        for connection in each.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    return sorted({connection.laddr.ip for connection in listening})


def refused(make: Any) -> str:
    """What an error says."""
    try:
        list(make())
    except SecondPassError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def pool(folder: Path, model: str) -> dict[str, Any]:
    """Everything that needs no second Ray."""
    files, options = CandidateFiles.of(parquet(folder / "in.parquet")), {"model": model}
    told: dict[str, Any] = {}
    with ours.started(2) as ray:
        told["addresses"] = addresses()
        told["room"] = refused(lambda: [ours.Pool(ray, workers=3)])
        with begun(folder / "killed", files, options, pairs=1) as work:
            made = iter(ours.Pool(ray, workers=2)(work))
            done = [next(made)]
            workers("PartWriter")[0].send_signal(signal.SIGKILL)
            done += made
        told["done"] = sorted(each.part for each in done)
        with begun(folder / "broken", files, {"model": model, "max_length": 2}, pairs=1) as work:
            told["model"] = refused(lambda: ours.Pool(ray, workers=1)(work))
        ours.PartWriter = Fatal  # type: ignore[misc]
        with begun(folder / "fatal", files, options, pairs=1) as work:
            told["fatal"] = refused(lambda: ours.Pool(ray, workers=1, most_deaths=1)(work))
        ours.PartWriter = Traced  # type: ignore[misc]
        record()
        with begun(folder / "traced", files, options, pairs=1) as work, reranking("outer"):
            outer = carrier()["traceparent"].split("-")[2]
            list(ours.Pool(ray, workers=1)(work))
    spans = map(json.loads, (folder / "traced.spans").read_text(encoding="utf-8").splitlines())
    told["spans"] = [[each["attributes"]["secondpass.part"], each["parent_id"] == f"0x{outer}"] for each in spans]
    return told


def nodes(_folder: Path, _model: str) -> dict[str, Any]:
    """What pools two nodes of two cores have room for."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # all on loopback
    from ray.cluster_utils import Cluster

    options: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 80 * 2**20, "node_ip_address": "127.0.0.1"}
    both = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
    both.add_node(**options)
    os.environ["RAY_ADDRESS"] = both.address
    with ours.started() as ray:
        told: dict[str, Any] = {"refused": refused(lambda: [ours.Pool(ray, threads=3)])}
        told["workers"] = [ours.Pool(ray, threads=threads).workers for threads in (1, 2)]
    both.shutdown()
    return told


def shown(number: int) -> str:
    """A block of the Python of docs/ray.md."""
    page = (Path(__file__).parents[1] / "docs" / "ray.md").read_text(encoding="utf-8")
    found: list[str] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    return found[number]


def dataset(path: Path, model: str) -> list[dict[str, Any]]:
    """The rows of a file with scores, by the class as an actor of Ray Data, as docs/ray.md writes it."""
    from ray import data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    data.DataContext.get_current().enable_progress_bars = False
    code = shown(0)
    # a core is left for reading, and batches are smaller than the file
    small = {"pairs.parquet": str(path), "secondpass/pocket": model, "size=4096": "size=5", "size=3": "size=1"}
    for written, own in small.items():
        assert code.count(written) == 1
        code = code.replace(written, own)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - our own page
    return list(names["scored"].iter_rows())


def serve(folder: Path, model: str) -> dict[str, Any]:
    """The service on a free port, asked once it stands; two replicas."""
    import httpx

    with ours.started(3):
        from ray import serve as serving

        told: dict[str, Any] = {"keyless": refused(lambda: [ours.service({})])}
        told["unknown"] = refused(lambda: [ours.service({"hots": 1, "without_keys": "true"})])
        told["dataset"] = dataset(parquet(folder / "in.parquet"), model)

        serving.start(http_options={"host": "127.0.0.1", "port": int((folder / "port").read_text())})
        (page,) = yaml.safe_load((DEPLOY / "ray-serve.yaml").read_text(encoding="utf-8"))["applications"]
        Calibration("logistic").save(folder / "own.json")
        told["whose"] = refused(lambda: [ours.service({"model": "a=b c=d", "calibration": "x.json"})])
        more = {"model": f"tiny={model}", "min_replicas": "2", "max_documents": "3"}
        more |= {"without_keys": "true", "docs": "false", "calibration": f"tiny={folder / 'own.json'}"}
        serving.run(resolve_name(page["import_path"])({**page["args"], **more}), name=page["name"])
        with httpx.Client(base_url=f"http://127.0.0.1:{(folder / 'port').read_text()}", timeout=60) as client:
            body = {"query": "reset my password", "documents": ["Reset it.", "A cat."]}
            began, seen = time.monotonic(), set()
            while len(seen) < 2 and time.monotonic() < began + 60:
                answer = client.post("/v1/rerank", json=body)
                seen |= set(re.findall(r"^process_start_time_seconds (.+)$", client.get("/metrics").text, re.M))
            told["answer"], told["replicas"] = answer.json(), len(seen)
            told["refused"] = client.post("/v1/rerank", json={**body, "documents": ["a"] * 4}).status_code
            told["ready"], told["docs"] = (client.get(path).status_code for path in ("/ready", "/docs"))
        serving.shutdown()
    return told


def spark(folder: Path, model: str) -> dict[str, Any]:
    """The scores of a file's rows by a pandas UDF on two cores, as docs/ray.md writes it."""
    from pyspark.sql import SparkSession

    own = {"driver.host": "127.0.0.1", "driver.bindAddress": "127.0.0.1", "ui.enabled": "false"}
    builder = SparkSession.builder.master("local[2]")
    for name, value in own.items():
        builder = builder.config(f"spark.{name}", value)
    session = builder.getOrCreate()
    names = {"pairs": session.read.parquet(str(parquet(folder / "in.parquet"))).repartition(2)}
    exec(shown(1).replace("secondpass/pocket", model), names)  # noqa: S102 - our own page
    rows = [row.asDict() for row in names["scored"].collect()]
    session.stop()
    return {"dataset": rows}


if __name__ == "__main__":
    os.environ.pop("RAY_ADDRESS", None)
    result = {"pool": pool, "nodes": nodes, "serve": serve, "spark": spark}[sys.argv[1]](Path(sys.argv[2]), sys.argv[3])
    print(f"\n{json.dumps(result)}")  # noqa: T201
