"""How long the trips through the house are: the files of ours whose code runs during one warm call.

    python -m benchmarks.trips

Each call is made once to warm up (models loaded, threads started, modules imported) and then again while every Python
function that is entered, in any thread, is written down by its file. tests/test_trips.py holds the numbers to the
limits below. The search needs an Elasticsearch: its address in ELASTICSEARCH_URL. Needs the extra test.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[1]
HOUSES = (str(ROOT / "src"), str(ROOT / "integrations"))
DEMO = ROOT / "src" / "secondpass" / "demo"
QUERY = "how many people live in Berlin"
DOCUMENTS = ["Trains run every hour.", "Berlin has 3.7 million inhabitants.", "", "Eggs are boiled for six minutes."]
ANSWERS = [text for text in DOCUMENTS if text]
LIMITS = {"rank": 16, "haystack ranker": 19, "POST /v1/rerank": 28, "elasticsearch search": 44, "train": 58}


class Trip:
    """Files entered between `begin` and now, by any thread that was started while this object watched."""

    def __init__(self) -> None:
        self.files: set[str] = set()

    def __enter__(self) -> Trip:
        threading.setprofile(self._hear)
        sys.setprofile(self._hear)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def begin(self) -> None:
        """Forget what was entered so far."""
        self.files.clear()

    def _hear(self, frame: FrameType, event: str, argument: object) -> None:
        file = frame.f_code.co_filename
        # a module's own code runs when it is imported, which a warm call has behind it
        if event == "call" and file.startswith(HOUSES) and frame.f_code.co_name != "<module>":
            self.files.add(os.path.relpath(file, ROOT))


def rank(model: str) -> Callable[[], object]:
    """`CrossEncoder.rank`."""
    from secondpass import CrossEncoder

    encoder = CrossEncoder(model, device="cpu")
    return lambda: encoder.rank(QUERY, DOCUMENTS)


def haystack_ranker(model: str) -> Callable[[], object]:
    """`SecondPassRanker.run`."""
    from haystack import Document
    from haystack_integrations.components.rankers.secondpass import SecondPassRanker

    ranker = SecondPassRanker(model=model)
    documents = [Document(content=text) for text in DOCUMENTS]
    return lambda: ranker.run(query=QUERY, documents=documents)


def rerank_request(model: str) -> Callable[[], object]:
    """A request to the service, in this process: from the ASGI server's call to the answer's bytes."""
    import httpx

    from secondpass import CrossEncoder
    from secondpass.serving import Settings, create_app

    app = create_app(Settings(), {"model": CrossEncoder(model, device="cpu")})

    async def asked() -> int:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            answer = await client.post("/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS})
            return answer.raise_for_status().status_code

    return lambda: asyncio.run(asked())


def command(*arguments: object) -> Callable[[], object]:
    """`secondpass ...` in this process, what it prints thrown away.

    Raises:
        RuntimeError: it failed.
    """
    from secondpass.cli import app

    def run() -> None:
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = app(list(map(str, arguments)), standalone_mode=False)
        if code:
            raise RuntimeError(f"secondpass {arguments[0]} ended with {code}: {said.getvalue()}")

    return run


def elasticsearch_search(model: str, index: str) -> Callable[[], object]:
    """`secondpass elasticsearch search`, both passes, on an index that `indexed` filled."""
    return command("elasticsearch", "search", index, QUERY, "--model", model)


@contextlib.contextmanager
def indexed(url: str) -> Iterator[str]:
    """An index of the demo's passages on a server, deleted at the end."""
    from elasticsearch import Elasticsearch

    name = f"secondpass-trip-{uuid.uuid4().hex[:12]}"
    before = os.environ.get("ELASTICSEARCH_URL")
    os.environ["ELASTICSEARCH_URL"] = url
    try:
        command("elasticsearch", "create", name, "--replicas", 0)()
        command("elasticsearch", "index", name, DEMO / "corpus.jsonl")()
        yield name
    finally:
        if before is not None:
            os.environ["ELASTICSEARCH_URL"] = before
        with Elasticsearch(url) as client:
            client.options(ignore_status=404).indices.delete(index=name)


def train(model: str, folder: Path) -> Callable[[], object]:
    """`secondpass.training.train` from a file of groups, with dev queries, to a saved model."""
    from secondpass import CrossEncoder
    from secondpass.training import TrainingSettings, read_groups
    from secondpass.training import train as train_model

    for name, count in (("train", 8), ("dev", 4)):
        rows = [
            {"query": f"{QUERY} {name} {number}", "documents": ANSWERS, "labels": [0, 1, 0]} for number in range(count)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = TrainingSettings(epochs=1, tokens_per_step=500, precision="fp32", save_every=1)
    encoder = CrossEncoder(model, device="cpu")
    runs = iter(range(1000))

    def once() -> object:
        return train_model(
            encoder,
            read_groups(folder / "train.jsonl"),
            settings,
            dev=list(read_groups(folder / "dev.jsonl")),
            output_dir=folder / f"out-{next(runs)}",
            show_progress_bar=False,
        )

    return once


def files_of(make: Callable[..., Callable[[], object]], *arguments: Any) -> list[str]:
    """The files, sorted, that the second call of what `make` makes goes through."""
    with Trip() as trip:
        call = make(*arguments)
        call()
        trip.begin()
        call()
        return sorted(trip.files)


def main() -> None:
    """Print every trip that can be made here."""
    model = "secondpass/pocket"
    trips = {
        "rank": files_of(rank, model),
        "haystack ranker": files_of(haystack_ranker, model),
        "POST /v1/rerank": files_of(rerank_request, model),
    }
    with tempfile.TemporaryDirectory() as folder:
        trips["train"] = files_of(train, model, Path(folder))
    url = os.environ.get("ELASTICSEARCH_URL")
    if url:
        with indexed(url) as index:
            trips["elasticsearch search"] = files_of(elasticsearch_search, model, index)
    for name, files in trips.items():
        print(f"{name}: {len(files)} files, at most {LIMITS[name]}", *files, sep="\n  ")
    if not url:
        print("elasticsearch search: not counted, ELASTICSEARCH_URL is not set")


if __name__ == "__main__":
    main()
