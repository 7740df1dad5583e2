"""The service as a process: it starts, says so, and leaves without losing what it accepted."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import uvicorn

from secondpass import CrossEncoder
from secondpass.serving.application import create_app
from secondpass.serving.server import DrainingServer
from secondpass.serving.settings import Settings
from secondpass.serving.telemetry import logger
from tests import fork_server
from tests.serving.conftest import KEY, Held, Serve, until

BODY = {"query": "where is the cat", "documents": ["the mat", "a dog", "the river in paris"] * 100}


class Process:
    """`secondpass serve` on a free port, its log in a file."""

    def __init__(self, folder: str, log: Path, *options: str, **environment: str) -> None:
        self.log = log
        command = [sys.executable, "-c", "from secondpass.cli.program import main; main()", "serve"]
        command += ["--model", f"tiny={folder}", "--port", "0", *options]
        with log.open("wb") as file:
            known = {"OMP_NUM_THREADS": "1", "SECONDPASS_API_KEYS": ""}
            self.process = fork_server.Popen(command, stderr=file, stdout=file, env=os.environ | known | environment)
        until(lambda: self.process.poll() is not None or any(line["event"] == "serving" for line in self.lines()))
        assert self.process.poll() is None, log.read_text()
        (serving,) = [line for line in self.lines() if line["event"] == "serving"]
        self.url = str(serving["address"])
        # The line is there, so it listens.
        assert httpx.get(f"{self.url}/health", trust_env=False).status_code == 200

    def lines(self) -> list[dict[str, object]]:
        """What it has logged."""
        text = self.log.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


Start = Callable[..., Process]


@pytest.fixture
def start(tiny_folder: str, tmp_path: Path) -> Iterator[Start]:
    """Start processes; those that a test leaves are ended."""
    started: list[Process] = []

    def process(*options: str, **environment: str) -> Process:
        started.append(Process(tiny_folder, tmp_path / f"{len(started)}.log", *options, **environment))
        return started[-1]

    yield process
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait(30)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_loses_nothing_accepted(start: Start, how: signal.Signals) -> None:
    """Every request got its answer or a clear refusal, none a broken connection; the process ends well."""
    running = start("--shutdown-delay-s", "1")
    seen: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=running.url, timeout=60, trust_env=False) as client:
            while not stop.is_set():
                answer = client.post("/v2/rerank", json=BODY)
                seen.append(answer.status_code)
                if answer.status_code == 503:
                    assert answer.headers["retry-after"] == "1"
                    assert answer.headers["connection"] == "close"
                    return
                assert len(answer.json()["results"]) == 300

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(ask) for _ in range(4)]
        until(lambda: seen.count(200) >= 8)
        running.process.send_signal(how)
        for client in clients:
            client.result(60)
        stop.set()
    assert running.process.wait(60) == 0
    assert set(seen) == {200, 503}
    assert seen.count(503) == 4
    events = [str(line["event"]) for line in running.lines()]
    assert events.index("stopping") < events.index("stopped")
    answered = [line for line in running.lines() if line["event"] == "request" and line["path"] == "/v2/rerank"]
    assert sorted(int(str(line["status"])) for line in answered) == sorted(seen)


def test_a_draining_service_is_not_ready_first(serve: Serve, held: Held) -> None:
    """/ready is 503 and /health 200 while the last request is finished; new ones are sent elsewhere."""
    live = serve()
    answers: list[int] = []
    first = threading.Thread(target=lambda: answers.append(live.client.post("/rerank", json=BODY).status_code))
    first.start()
    assert held.reached.wait(30)
    live.server.handle_exit(signal.SIGTERM, None)
    ready = live.client.get("/ready")
    assert (ready.status_code, ready.json()) == (503, {"status": "stopping"})
    assert live.client.get("/health").status_code == 200
    refused = live.client.post("/rerank", json=BODY)
    assert (refused.status_code, refused.json()["error_type"]) == (503, "stopping")
    time.sleep(0.3)
    assert live.client.get("/health").status_code == 200
    held.go.set()
    first.join(30)
    assert answers == [200]


def test_the_log_of_a_process_is_json_without_keys(start: Start) -> None:
    """Settings are shown redacted; the key works."""
    running = start("--max-documents", "7", SECONDPASS_API_KEYS=KEY, SECONDPASS_DEADLINE_S="9")
    answer = httpx.post(f"{running.url}/rerank", json=BODY, trust_env=False)
    assert answer.status_code == 401
    allowed = httpx.post(
        f"{running.url}/rerank", json=BODY, headers={"Authorization": f"Bearer {KEY}"}, trust_env=False
    )
    assert allowed.status_code == 422
    (serving,) = [line for line in running.lines() if line["event"] == "serving"]
    settings = serving["settings"]
    assert isinstance(settings, dict)
    assert (settings["max_documents"], settings["deadline_s"], settings["keys"]) == (7, 9.0, 1)
    assert KEY not in running.log.read_text()
    running.process.terminate()
    assert running.process.wait(60) == 0


def test_an_address_is_told_once_it_answers(own_tiny: CrossEncoder, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever waits for the line may connect; before that, the socket refuses."""
    settings = Settings()
    app = create_app(settings, {"tiny": own_tiny})
    with socket.socket() as listener, caplog.at_level(logging.INFO, logger="secondpass.serving"):
        listener.bind(("127.0.0.1", 0))
        address = listener.getsockname()
        heard: list[int] = []

        def connect(record: logging.LogRecord) -> bool:
            if record.getMessage() == "serving":
                with socket.create_connection(address, 5):
                    heard.append(record.fields["settings"]["port"])  # type: ignore[attr-defined]
            return True

        logger.addFilter(connect)
        server = DrainingServer(uvicorn.Config(app, log_config=None), app.state.service.admission, settings)
        thread = threading.Thread(target=server.run, args=([listener],))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, 5)
        thread.start()
        try:
            until(lambda: bool(heard) or not thread.is_alive())
        finally:
            server.should_exit = True
            thread.join(30)
            logger.removeFilter(connect)
    assert heard == [address[1]]
