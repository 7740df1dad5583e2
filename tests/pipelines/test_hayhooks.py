"""Hayhooks serves the packaged pipelines as they are, and our wrappers over HTTP, as a chat and as MCP tools."""

from __future__ import annotations

import ast
import json
import os
import runpy
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("hayhooks")

import yaml
from haystack import Pipeline

from secondpass.errors import InvalidInput

ROOT = Path(__file__).parents[2]
ECHO = """
components:
  prompt:
    type: haystack.components.builders.chat_prompt_builder.ChatPromptBuilder
    init_parameters:
      template: '{% message role="user" %}You asked: {{ query }}{% endmessage %}'
  model: {type: haystack.components.generators.chat.mock.MockChatGenerator, init_parameters: {}}
connections:
  - {sender: prompt.prompt, receiver: model.messages}
"""
TEXTS = {
    "returns": "You can send a parcel back within 30 days. The refund takes a week.",
    "opening": "The shop opens at nine. It is closed on Sundays.",
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lay out a folder of pipelines as the README says, and a corpus."""
    folder = tmp_path_factory.mktemp("hayhooks")
    pipelines = folder / "served"
    pipelines.mkdir()
    for name in ("rerank", "rag", "search"):
        shutil.copytree(ROOT / "integrations" / "hayhooks" / name, pipelines / name)
    for name in ("rerank_bm25", "rag_extractive", "rerank_elasticsearch_bm25", "index_opensearch"):
        shutil.copy(ROOT / "pipelines" / f"{name}.yaml", pipelines)
    lines = [json.dumps({"_id": key, "title": "", "text": text}) for key, text in TEXTS.items()]
    (folder / "help.jsonl").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize("file", sorted((ROOT / "pipelines").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_packaged_pipeline_can_be_served(file: Path) -> None:
    """What it takes and gives is declared, and every declared socket is there, with a type."""
    from hayhooks.server.utils.yaml_utils import get_inputs_outputs_from_yaml

    found = get_inputs_outputs_from_yaml(file.read_text())
    declared = yaml.safe_load(file.read_text())
    pipeline = Pipeline.loads(file.read_text())
    sockets = {f"{name}.{socket}" for name, given in pipeline.inputs().items() for socket in given}
    named = {target for given in found["inputs"].values() for target in given.targets}
    assert named <= sockets
    assert set(found["outputs"]) == set(declared["outputs"])
    assert all(given.type is not None for given in found["outputs"].values())
    needed = {
        f"{name}.{socket}"
        for name, given in pipeline.inputs().items()
        for socket, described in given.items()
        if described["is_mandatory"]
    }
    assert needed <= named


@pytest.mark.parametrize("wrapper", ["rag", "search"])
def test_a_wrapper_without_documents_is_refused(wrapper: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty store would answer every question with nothing."""
    monkeypatch.delenv("SECONDPASS_CORPUS", raising=False)
    module = runpy.run_path(str(ROOT / "integrations" / "hayhooks" / wrapper / "pipeline_wrapper.py"))
    with pytest.raises(InvalidInput, match="set SECONDPASS_CORPUS"):
        module["PipelineWrapper"]().setup()


async def test_a_search_of_long_documents_gives_their_passages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `rerank_long` each document that is found has the window that answers."""
    said = "You can send a parcel back within 30 days."
    text = "The shop sells bread. " * 300 + said
    (tmp_path / "long.jsonl").write_text(json.dumps({"_id": "a", "title": "", "text": text}))
    monkeypatch.setenv("SECONDPASS_CORPUS", str(tmp_path / "long.jsonl"))
    monkeypatch.setenv("SECONDPASS_SEARCH_PIPELINE", "rerank_long")
    module = runpy.run_path(str(ROOT / "integrations" / "hayhooks" / "search" / "pipeline_wrapper.py"))
    wrapper = module["PipelineWrapper"]()
    wrapper.setup()
    (found,) = await wrapper.run_api_async("how long can I send a parcel back")
    assert found["text"] == text
    assert found["passage"].endswith(said)
    assert len(found["passage"]) < len(text) / 2


async def test_an_answer_without_sources_has_no_brackets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bare replies of a model, with no answer builder behind it, are the text alone; a question may come in parts."""
    (tmp_path / "echo.yaml").write_text(ECHO)
    monkeypatch.setenv("SECONDPASS_PIPELINE", str(tmp_path / "echo.yaml"))
    monkeypatch.delenv("SECONDPASS_CORPUS", raising=False)
    module = runpy.run_path(str(ROOT / "integrations" / "hayhooks" / "rag" / "pipeline_wrapper.py"))
    wrapper = module["PipelineWrapper"]()
    wrapper.setup()
    parts = [{"type": "text", "text": "when does"}, {"type": "image_url"}, {"type": "text", "text": "the shop open"}]
    opening, nothing = "You asked: when does the shop open", "There is no question"
    told: list[tuple[str, Any, str]] = [
        ("user", "when does the shop open", opening),
        ("user", parts, opening),
        ("user", parts[1:2], nothing),
        ("user", " ", nothing),
        ("user", None, nothing),
        ("system", "when does the shop open", nothing),
    ]
    for role, content, wanted in told:
        reply = await wrapper.run_chat_completion_async("rag", [{"role": role, "content": content}], {})
        assert reply.startswith(wanted), (role, content)


@contextmanager
def hayhooks(folder: Path, *command: str, log: Path) -> Iterator[str]:
    """Run the server on a free loopback port until the block ends; gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = os.environ | {
        "HAYHOOKS_PIPELINES_DIR": str(folder / "served"),
        "HAYHOOKS_STARTUP_DEPLOY_STRATEGY": "sequential",  # README of integrations/hayhooks says why
        "SECONDPASS_CORPUS": str(folder / "help.jsonl"),
        "HAYSTACK_TELEMETRY_ENABLED": "false",
    }
    program = [sys.executable, "-c", "from hayhooks.cli import hayhooks_cli; hayhooks_cli()", *command]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*program, "--host", "127.0.0.1", "--port", str(port)],
            env=environment,
            cwd=folder,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait(port, process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 180
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        with socket.socket() as client:
            client.settimeout(1)
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(log.read_text(errors="replace")[-3000:])


def test_over_http(served: Path, tmp_path: Path) -> None:
    """A YAML file as it is, both wrappers, and the chat with its sources."""
    with hayhooks(served, "run", log=tmp_path / "log") as url, httpx.Client(base_url=url, timeout=120) as client:
        found = client.post("/rerank/run", json={"query": "when does the shop open", "documents": [*TEXTS.values()]})
        assert found.status_code == 200, found.text
        assert [item["index"] for item in found.json()["result"]] == [1, 0]
        hits = client.post("/search/run", json={"query": "when does the shop open", "top_k": 1})
        assert hits.status_code == 200, hits.text
        assert [(hit["id"], hit["text"]) for hit in hits.json()["result"]] == [("opening", TEXTS["opening"])]
        described = client.get("/openapi.json").json()["paths"]
        assert {"/rerank_elasticsearch_bm25/run", "/index_opensearch/run"} <= described.keys()
        asked = client.post("/rag/run", json={"query": "when does the shop open"})
        assert asked.status_code == 200, asked.text
        answers = asked.json()["result"]
        assert answers[0]["text"] == "The shop opens at nine."
        assert answers[0]["sources"] == ["opening"]
        question = {"model": "rag", "messages": [{"role": "user", "content": "how long can I send a parcel back"}]}
        chat = client.post("/v1/chat/completions", json=question).json()
        reply = chat["choices"][0]["message"]["content"]
        assert reply.splitlines()[0] == "You can send a parcel back within 30 days. [returns]"
        parts = [{"type": "text", "text": "how long can I send a parcel back"}]
        question = {"model": "rag", "messages": [{"role": "user", "content": parts}]}
        again = client.post("/v1/chat/completions", json=question).json()
        assert again["choices"][0]["message"]["content"] == reply
        # in-memory stores of a served pipeline are empty until somebody writes to them
        empty = client.post("/rerank_bm25/run", json={"query": "shop"})
        assert empty.status_code == 200, empty.text
        nothing = client.post("/rag_extractive/run", json={"query": "shop"})
        assert nothing.status_code == 200, nothing.text


async def test_as_mcp_tools(served: Path, tmp_path: Path) -> None:
    """An MCP client finds the three tools with their descriptions and calls one."""
    pytest.importorskip("mcp")
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    with hayhooks(served, "mcp", "run", log=tmp_path / "log") as url:
        async with (
            streamable_http_client(f"{url}/mcp") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            assert {"rerank", "rag", "search"} <= set(tools)
            assert "how well each answers the query" in (tools["rerank"].description or "")
            arguments = {"query": "when does the shop open", "documents": [*TEXTS.values()], "top_k": 1}
            result = await session.call_tool("rerank", arguments)
            assert not result.isError
            # Hayhooks writes lists as Python does, as its README says
            (found,) = ast.literal_eval(result.content[0].text)
            assert (found["index"], found["text"]) == (1, TEXTS["opening"])
