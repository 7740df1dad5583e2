"""The service as a process: it starts, says so, and leaves without losing what it accepted."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import http.client
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import uvicorn

from secondpass import CrossEncoder
from secondpass.serving.application import create_app
from secondpass.serving.server import DrainingServer
from secondpass.serving.settings import Settings
from secondpass.serving.telemetry import logger, logs_as_json
from tests import fork_server
from tests.serving.conftest import KEY, Held, Live, Serve, until

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

    def workers(self) -> set[int]:
        """The processes of its models."""
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        numbers = {int(number) for thread in threads for number in thread.read_text().split()}
        return {number for number in numbers if b"secondpass.forwards.workers" in _command(number)}

    def lines(self) -> list[dict[str, object]]:
        """What it has logged."""
        text = self.log.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _command(number: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{number}/cmdline").read_bytes()
    return b""


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
@pytest.mark.parametrize(("how", "loads"), [(signal.SIGTERM, True), (signal.SIGINT, False)])
def test_a_signal_under_load_loses_nothing_accepted(
    start: Start, how: signal.Signals, loads: bool, tiny_folder: str, tmp_path: Path
) -> None:
    """Every request got its answer or a clear refusal, none a broken connection; the process ends well.

    Models that it loads anew meanwhile, here from a pipe into which nobody writes, are not waited for.
    """
    running = start("--shutdown-delay-s", "1")
    if loads:
        config, kept = Path(tiny_folder) / "config.json", tmp_path / "config.json"
        config.rename(kept)
        os.mkfifo(config)
        try:
            running.process.send_signal(signal.SIGHUP)
            until(lambda: any(line["event"] == "reloading" for line in running.lines()))
            writer = os.open(config, os.O_WRONLY)  # waits for the reader
        finally:
            config.unlink()
            kept.rename(config)
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
    if loads:
        os.close(writer)
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
    refused = live.client.post("/v2/rerank", json=BODY)
    assert (refused.status_code, refused.json()["error_type"]) == (503, "stopping")
    assert live.client.post("/rerank", json=BODY).json()["error_type"] == "Unhealthy"
    time.sleep(0.3)
    assert live.client.get("/health").status_code == 200
    held.go.set()
    first.join(30)
    assert answers == [200]


@pytest.mark.usefixtures("interruptible")
def test_a_process_loads_its_models_anew_and_leaves_at_once(
    start: Start, own_tiny: CrossEncoder, tiny_folder: str
) -> None:
    """SIGHUP under load: no request is lost, each has the scores of old or new weights, the log has their digests.

    Weights that cannot be had leave the old ones in place. A second SIGTERM waits for nothing. The model has two
    processes of its own each time, which are gone when it is.
    """
    running = start("--shutdown-delay-s", "600", "--device", "cpu,cpu")
    until(lambda: len(running.workers()) == 2)
    workers = running.workers()
    weights = Path(tiny_folder) / "model.safetensors"
    kept = weights.read_bytes()
    body = {"query": "where is the cat", "documents": ["the mat", "a dog"]}
    seen: list[tuple[int, int]] = []
    stop = threading.Event()

    def events(name: str) -> list[dict[str, Any]]:
        return [line for line in running.lines() if line["event"] == name]

    def ask() -> None:
        with httpx.Client(base_url=running.url, timeout=60, trust_env=False) as client:
            while not stop.is_set():
                answer = client.post("/v2/rerank", json=body)
                seen.append((answer.status_code, answer.json()["results"][0]["index"]))

    with torch.no_grad():
        own_tiny.model.classifier.weight.neg_()
    own_tiny.save(str(running.log.parent / "new"))
    with ThreadPoolExecutor(2) as pool:
        clients = [pool.submit(ask) for _ in range(2)]
        try:
            until(lambda: len(seen) > 4)
            os.replace(running.log.parent / "new" / weights.name, weights)
            running.process.send_signal(signal.SIGHUP)
            until(lambda: bool(events("reloaded")))
            count = len(seen)
            until(lambda: len(seen) > count + 4)
            until(lambda: len(running.workers()) == 2 and not running.workers() & workers)
            workers = running.workers()
            digest = hashlib.sha256(weights.read_bytes()).hexdigest()
            weights.unlink()
            running.process.send_signal(signal.SIGHUP)
            until(lambda: bool(events("reload failed")))
        finally:
            stop.set()
            weights.write_bytes(kept)
        for client in clients:
            client.result(60)
    assert {status for status, _ in seen} == {200}
    assert seen[0][1] != seen[-1][1]
    assert events("serving")[0]["digests"] == {"tiny": hashlib.sha256(kept).hexdigest()}
    assert events("reloaded")[0]["digests"] == events("reload failed")[0]["digests"] == {"tiny": digest}
    model = httpx.get(f"{running.url}/info", trust_env=False).json()["models"][0]
    assert (model["digest"], model["device"]) == (digest, "cpu,cpu")
    running.process.terminate()
    until(lambda: bool(events("stopping")))
    running.process.terminate()
    assert running.process.wait(60) == 128 + signal.SIGTERM
    assert running.lines()[-1]["event"] == "stopped at once"
    until(lambda: not any(Path(f"/proc/{number}/cmdline").exists() for number in workers))


@pytest.mark.usefixtures("interruptible")
def test_a_process_reads_its_keys_anew(start: Start, tmp_path: Path) -> None:
    """At SIGHUP, with the models: old and new ones for a while, then the new alone; no file takes none away."""
    file, old, new = tmp_path / "keys", "an-old-key-0123456789", "a-new-key-0123456789"
    file.write_text(old)
    running = start("--api-keys-file", str(file))

    def opens() -> list[bool]:
        statuses = [
            httpx.get(f"{running.url}/info", headers={"Authorization": f"Bearer {key}"}, trust_env=False).status_code
            for key in (old, new)
        ]
        assert set(statuses) <= {200, 401}
        return [status == 200 for status in statuses]

    def hang_up() -> list[dict[str, object]]:
        count = len([line for line in running.lines() if line["event"] == "reloaded"])
        running.process.send_signal(signal.SIGHUP)
        until(lambda: len([line for line in running.lines() if line["event"] == "reloaded"]) > count)
        return [line for line in running.lines() if line["event"] in ("reloading", "keys refused")]

    assert opens() == [True, False]
    file.write_text(f"{old}\n{new}\n")
    assert opens() == [True, False]
    assert hang_up()[-1]["keys"] == 2
    assert opens() == [True, True]
    file.write_text(new)
    assert hang_up()[-1]["keys"] == 1
    assert opens() == [False, True]
    file.unlink()
    refused, reloading = hang_up()[-2:]
    assert (refused["event"], reloading["keys"]) == ("keys refused", 1)
    assert refused["why"] == f"the file of API keys {file} cannot be read: FileNotFoundError"
    assert opens() == [False, True]
    assert old not in running.log.read_text()


def test_the_first_process_of_a_container_ends_while_it_loads(tiny_folder: str, tmp_path: Path) -> None:
    """It has no default for SIGTERM: the models, here from a pipe into which nobody writes, are not waited for."""
    namespace = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*namespace, "true"], stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("no namespace of process numbers can be made here")
    folder, log = tmp_path / "model", tmp_path / "log"
    shutil.copytree(tiny_folder, folder)
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    command = [sys.executable, "-m", "secondpass.cli", "serve", "--model", f"tiny={folder}", "--port", "0"]
    with log.open("wb") as file:
        outer = subprocess.Popen([*namespace, *command], stderr=file, start_new_session=True)
    try:
        writer = os.open(folder / "config.json", os.O_WRONLY)  # waits for the reader
        (inner,) = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
        for _ in range(2):  # a signal between Python's last look for one and the call that reads waits for that call
            time.sleep(0.2)
            while Path(f"/proc/{inner}/stat").read_text().rpartition(")")[2].split()[0] != "S":
                time.sleep(0.01)
        os.kill(int(inner), signal.SIGTERM)
        assert outer.wait(60) == 128 + signal.SIGTERM
        os.close(writer)
    finally:
        outer.kill()
        outer.wait()
    assert json.loads(log.read_text().splitlines()[-1])["event"] == "stopped"


def test_a_signal_in_the_middle_of_a_log_line_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its handler logs while the line that it interrupts waits for a full pipe: both are there, whole."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writing, b"\n" * 4096):
            pass
    os.set_blocking(writing, True)

    def handle(*_: object) -> None:
        os.read(reading, 1 << 20)
        logger.info("second")

    before = signal.signal(signal.SIGALRM, handle)
    try:
        with open(writing, "w") as stderr, open(reading) as lines, monkeypatch.context() as patched:
            patched.setattr("sys.stderr", stderr)
            with logs_as_json():
                signal.setitimer(signal.ITIMER_REAL, 0.2)
                logger.info("first")
            stderr.close()
            assert [json.loads(line)["event"] for line in lines if line.strip()] == ["second", "first"]
    finally:
        signal.signal(signal.SIGALRM, before)


def said(live: Live, sent: bytes) -> bytes:
    """What a connection gets until the service closes it."""
    host, port = live.url.removeprefix("http://").split(":")
    got = b""
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        try:
            connection.sendall(sent)
            while part := connection.recv(65_536):
                got += part
        except OSError:
            pass
    return got


GET = b"GET /health HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (GET + b"X: " + b"a" * 200_000, 431, "head_too_large"),
        (GET + b"X: a\r\n" * 20_000, 431, "head_too_large"),
        (b"GET /" + b"a" * 100_000, 431, "head_too_large"),
        (b"a" * 100_000, 400, None),
        (CHUNKED + b"1\r\n{\r\n0\r\nX: " + b"a" * 200_000, 431, "head_too_large"),
        (CHUNKED + b"1;" + b"a" * 200_000, 431, "head_too_large"),
        (b"", 408, "slow_head"),
        (b"GET /hea", 408, "slow_head"),
        (GET + b"X-Long: ", 408, "slow_head"),
        (CHUNKED + b"5\r\n{", 408, "slow_body"),
    ],
)
def test_a_head_ends_or_is_ended(serve: Serve, sent: bytes, status: int, reason: str | None) -> None:
    """At 64 KiB and after a few seconds, whatever it is that does not end; it is told, counted and logged."""
    live = serve(head_s=0.3)
    answer = said(live, sent)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    if reason is not None:
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error_type"] == reason
        assert f'secondpass_problems_total{{reason="{reason}"}} 1.0' in live.client.get("/metrics").text
    until(lambda: live.service.admission.in_flight == 0)


def test_a_head_of_the_largest_size_is_read(serve: Serve) -> None:
    """64 KiB, and on one connection again and again; a byte more is not."""
    live = serve(head_s=0.5)
    full = GET + b"X: " + b"a" * (65_536 - len(GET) - 7) + b"\r\n\r\n"
    assert said(live, full * 3 + b"GET /").count(b"HTTP/1.1 200 OK") == 3
    assert said(live, full.replace(b"X: ", b"XX: ")).startswith(b"HTTP/1.1 431")


WISH = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"


def test_a_wish_for_another_protocol_loses_nothing(serve: Serve) -> None:
    """Java's clients have it: bodies are read, in one piece, in pieces and in chunks, and the next request too."""
    live = serve(head_s=0.3)
    body = json.dumps({"pairs": [["a cat", "a dog"]]}).encode()
    head = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + WISH
    whole = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    chunks = head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    websocket = GET + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    got = said(live, whole + websocket + chunks + GET + WISH + b"\r\n" + whole + b"GET /")
    assert got.count(b"HTTP/1.1 200 OK") == 5
    assert got.count(b'"scores":[') == 3
    host, port = live.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        for start in range(0, len(whole), 50):
            connection.sendall(whole[start : start + 50])
            time.sleep(0.005)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 OK")
    assert said(live, b"CONNECT /score HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 4")


def test_what_stands_behind_a_body_is_no_header(serve: Serve) -> None:
    """Trailers name neither a host nor a type: a proxy in front has not seen them."""
    live = serve(head_s=0.3)
    body = b'1f\r\n{"pairs": [["a cat", "a dog"]]}\r\n0\r\n'
    assert said(live, CHUNKED + body + b"Host: evil.example\r\n\r\nGET").startswith(b"HTTP/1.1 200")
    bare = CHUNKED.replace(b"Content-Type: application/json\r\n", b"")
    assert said(live, bare + body + b"Content-Type: application/json\r\n\r\nGET").startswith(b"HTTP/1.1 415")


def test_what_comes_after_an_answer_is_ended_too(serve: Serve) -> None:
    """Half a second request is 408; the rest of a body that was refused unread is not waited for."""
    live = serve(head_s=0.3)
    assert said(live, GET + b"\r\n" + b"GET").count(b"HTTP/1.1 408") == 1
    unread = said(live, b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
    assert unread.startswith(b"HTTP/1.1 404")
    assert b"408" not in unread
    until(lambda: len(live.server.server_state.connections) <= 1)


@pytest.mark.parametrize(("draining", "chunked"), [(False, False), (False, True), (True, False)])
def test_a_client_that_sends_everything_first_reads_why_it_is_refused(
    serve: Serve, draining: bool, chunked: bool
) -> None:
    """413, and 503 of a service that leaves: the rest of the body is thrown away, or a reset would take the answer."""
    live = serve(shutdown_delay_s=60)
    if draining:
        live.service.admission.drain()
    host, port = live.url.removeprefix("http://").split(":")
    client = http.client.HTTPConnection(host, int(port), timeout=30)
    pieces = [b"x" * 1_000_000] * 20
    body: Iterator[bytes] | bytes = iter(pieces) if chunked else b"".join(pieces)
    client.request("POST", "/v2/rerank", body, {"Content-Type": "application/json"})
    answer = client.getresponse()
    assert answer.getheader("connection") == "close"
    assert (answer.status, json.load(answer)["error_type"]) == ((503, "stopping") if draining else (413, "too_large"))
    client.close()
    until(lambda: not live.server.server_state.connections)


def test_a_refusal_before_the_body_keeps_the_connection(serve: Serve) -> None:
    """Once all of the body has come it is idle as after any answer, and not ended with the time for the rest."""
    live = serve(head_s=0.3)
    host, port = live.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc")
        got = b""
        while not got.endswith(b"}"):
            part = connection.recv(65_536)
            assert part
            got += part
        assert got.startswith(b"HTTP/1.1 404")
        connection.sendall(b"def")
        time.sleep(1.0)
        connection.sendall(GET + b"\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")


def test_a_client_that_does_not_read_is_left(serve: Serve) -> None:
    """After the deadline its connection is ended, and what it did not read is forgotten."""
    live = serve(deadline_s=1.0)
    host, port = live.url.removeprefix("http://").split(":")
    body = json.dumps({"query": "cat", "documents": ["the mat " * 100_000] * 8}).encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((host, int(port)))
        head = b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        connection.sendall(head % len(body) + body)
        until(lambda: 'path="/v1/rerank",status="200"' in live.client.get("/metrics").text)
        until(lambda: len(live.server.server_state.connections) == 1)


def test_a_client_that_reads_slowly_gets_everything(serve: Serve) -> None:
    """However long it takes: what counts is that it reads."""
    live = serve(deadline_s=1.5)
    host, port = live.url.removeprefix("http://").split(":")
    # blanks are soon read and given back whole
    body = json.dumps({"query": "cat", "documents": ["the mat" + " " * 800_000] * 8}).encode()
    got = bytearray()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        connection.connect((host, int(port)))
        head = b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        while part := connection.recv(65_536):
            got += part
            time.sleep(0.05)
    assert got.startswith(b"HTTP/1.1 200")
    assert len(json.loads(got.partition(b"\r\n\r\n")[2])["results"]) == 8


def test_without_file_descriptors_it_says_so_and_recovers(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """503 at once for who comes too much, a line in the log, a count; those who are in are served."""
    live = serve()
    assert live.client.get("/health").status_code == 200
    live.server._door.most = 3
    host, port = live.url.removeprefix("http://").split(":")
    with caplog.at_level(logging.WARNING, logger="secondpass.serving"):
        open_ones = [socket.create_connection((host, int(port)), timeout=30) for _ in range(2)]
        assert said(live, b"").startswith(b"HTTP/1.1 503")
        refused = httpx.get(f"{live.url}/health", trust_env=False)
        assert (refused.status_code, refused.json()["error_type"]) == (503, "connections")
        metrics = live.client.get("/metrics").text
    assert "secondpass_connections_refused_total 2.0" in metrics
    assert "secondpass_connections 3.0" in metrics
    (line,) = [record for record in caplog.records if record.getMessage() == "connections refused"]
    assert line.fields["open"] == 3  # type: ignore[attr-defined]
    for connection in open_ones:
        connection.close()
    until(lambda: len(live.server.server_state.connections) == 1)
    assert httpx.get(f"{live.url}/health", trust_env=False).status_code == 200


def test_an_accept_that_fails_is_logged_as_json(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """asyncio's own loop tells of it thousands of times a second: one line in a while is enough."""
    live = serve()
    loop = asyncio.new_event_loop()
    with caplog.at_level(logging.WARNING, logger="secondpass.serving"):
        for _ in range(5):
            live.server._failed(loop, {"message": "accept", "exception": OSError(errno.EMFILE, "too many")})
        live.server._failed(loop, {"message": "other", "exception": KeyError("a text")})
    loop.close()
    assert [record.getMessage() for record in caplog.records] == ["connections refused", "event loop"]
    assert "a text" not in caplog.text
    assert "secondpass_connections_refused_total 5.0" in live.client.get("/metrics").text


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
