"""`secondpass serve` and `play` on the command line: what they refuse before they serve, which tests/serving does."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from secondpass.serving.settings import ModelSource, Settings
from secondpass.windows import Windows
from tests.cli.conftest import Run, only_line


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of whoever runs the tests does not count."""
    monkeypatch.delenv("SECONDPASS_API_KEYS", raising=False)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "host=0.0.0.0 can be reached by others and no API key is set"),  # noqa: S104
        (["--model", "a=x", "--model", "a=y"], "two models have the name 'a'"),
        (["--model", "=x"], "is not name=folder"),
        (["--model", "a=/no/such/folder"], "/no/such/folder"),
        (["--port", "70000"], "--port"),
        (["--max-requests", "0"], "--max-requests"),
        (["--api-keys-file", "/no/such/file"], "the file of API keys /no/such/file cannot be read"),
        (["--deadline-s", "inf"], "deadline_s=inf"),
        (["--max-windows", "3"], "--max-windows goes with --long windows"),
        (["--keep", "3"], "--keep: no --model is a cascade"),
        (["--shadow", "next"], "--shadow 'next' is not name=next"),
        (["--device", "cpu,cuda"], "device: cpu and cuda devices"),
        (["--corpus", "a.jsonl"], "--corpus goes with --playground"),
        (["--playground", "--corpus", "/no/such/file"], "/no/such/file: no such file"),
    ],
)
def test_refusals_are_one_line(run: Run, options: list[str], said: str) -> None:
    """Nothing is served."""
    result = run("serve", "--port", "0", *options)
    assert result.exit_code in (1, 2)
    assert said in only_line(result)


def test_an_address_that_is_taken_is_named(run: Run, tiny_folder: str) -> None:
    """Before any model is loaded."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = run("serve", "--model", "a=/no/such/folder", "--port", port)
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in only_line(result)


def test_a_model_with_several_labels_is_refused(run: Run, tiny_model_folder: Callable[..., str]) -> None:
    """Its name and the reason."""
    result = run("serve", "--port", "0", "--model", f"three={tiny_model_folder('bert', 3)}")
    assert result.exit_code == 2
    assert "model 'three' has 3 labels" in result.stderr.splitlines()[-1]


def test_keys_are_no_option_and_never_printed(run: Run, tmp_path: Path) -> None:
    """A short key in the environment or a file is refused by its number."""
    file = tmp_path / "keys"
    file.write_text("hunter2\n")
    result = run("serve", "--api-keys-file", file)
    assert "API key 1 has fewer than 16 characters" in only_line(result)
    assert "hunter2" not in result.stderr
    assert "--api-key " not in run("serve", "--help").stdout


def test_settings_come_from_the_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag wins."""
    monkeypatch.setenv("SECONDPASS_HOST", "0.0.0.0")  # noqa: S104
    assert "host=0.0.0.0" in only_line(run("serve"))
    assert "/no/such" in only_line(run("serve", "--host", "127.0.0.1", "--port", "0", "-m", "a=/no/such"))
    monkeypatch.setenv("SECONDPASS_MAX_REQUESTS", "many")
    assert "SECONDPASS_MAX_REQUESTS" in only_line(run("serve"))


def test_without_the_extra_it_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line."""
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert 'pip install "secondpass[serve]"' in only_line(run("serve"))


def test_every_setting_of_the_model_has_a_variable(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """They reach the settings; a flag wins."""
    seen: list[Settings] = []
    monkeypatch.setattr("secondpass.serving.server.serve", seen.append)
    values = {"MAX_LENGTH": "64", "DEVICE": "cpu", "PRECISION": "bf16", "TOKEN_CACHE_MB": "0"}
    values |= {"LONG": "windows", "MAX_WINDOWS": "3", "SELECT": "bm25", "WINDOW_TOKENS": "90", "WINDOW_OVERLAP": "9"}
    values |= {"SCORE_CACHE": "scores.db", "SCORE_CACHE_MB": "5", "MODEL": "a=x,y", "KEEP": "50"}
    for name, value in values.items():
        monkeypatch.setenv(f"SECONDPASS_{name}", value)
    assert run("serve").exit_code == 0
    assert run("serve", "--precision", "fp32", "--token-cache-mb", "5").exit_code == 0
    monkeypatch.setenv("SECONDPASS_INSTRUCTION", "a=Find code, not prose.\n")
    assert run("serve").exit_code == 0
    assert run("serve", "--instruction", "Find prose.").exit_code == 0
    first, second, *others = seen
    assert [settings.models[0].instruction for settings in others] == ["Find code, not prose.", "Find prose."]
    assert (first.max_length, first.device, first.precision, first.token_cache_mb) == (64, "cpu", "bf16", 0)
    assert first.truncation == Windows(tokens=90, overlap=9, most=3, select="bm25")
    assert (first.score_cache, first.score_cache_mb) == ("scores.db", 5)
    assert first.models == (ModelSource("a", "x,y", stages=("x", "y"), keep=(50,)),)
    assert (second.precision, second.token_cache_mb) == ("fp32", 5)
    monkeypatch.setenv("SECONDPASS_PRECISION", "half")
    assert "SECONDPASS_PRECISION" in only_line(run("serve"))


def test_the_playground_searches_a_corpus(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packaged one where none is named; `play` is the same for this machine alone, and says where to look."""
    seen: list[Settings] = []
    monkeypatch.setattr("secondpass.serving.server.serve", seen.append)
    for command in (["serve"], ["serve", "--playground"], ["serve", "--playground", "--corpus", "a.jsonl"], ["play"],
                    ["play", "b.jsonl", "--port", "0", "-m", "x=y,z", "--keep", "5"]):  # fmt: skip
        result = run(*command)
        assert result.exit_code == 0, result.stderr
        assert ("http://127.0.0.1:8000/playground in a moment" in result.stderr) is (command == ["play"])
    assert [one.playground for one in seen] == [None, "secondpass/demo", "a.jsonl", "secondpass/demo", "b.jsonl"]
    assert {one.host for one in seen} == {"127.0.0.1"}
    assert seen[-1].models == (ModelSource("x", "y,z", stages=("y", "z"), keep=(5,)),)
    # which Hayhooks' wrappers read too
    monkeypatch.setenv("SECONDPASS_CORPUS", "c.jsonl")
    assert run("serve").exit_code == run("serve", "--playground").exit_code == 0
    assert [one.playground for one in seen[-2:]] == [None, "c.jsonl"]
    assert "--corpus goes with --playground" in only_line(run("serve", "--corpus", "d.jsonl"))
