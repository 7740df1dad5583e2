"""The program around the commands: help, version, errors, pipes and commands of other packages."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from secondpass.cli import doctor, output, program
from secondpass.errors import InvalidInput, ModelLoadError
from tests import fork_server
from tests.cli.conftest import Run, command, only_line

COMMANDS = ("rank", "score", "search", "demo")


def test_version(run: Run) -> None:
    """--version prints the installed version."""
    assert run("--version").stdout == f"secondpass {version('secondpass')}\n"


def test_help_lists_every_command(run: Run) -> None:
    """The help names the commands of the package and those of the Haystack part."""
    shown = run("--help")
    assert shown.exit_code == 0
    for name in COMMANDS:
        assert re.search(rf"\b{name}\b", shown.stdout), name


def every_command() -> list[tuple[str, ...]]:
    """Each command as it is called."""
    root = typer.main.get_command(program.app)
    made: list[tuple[str, ...]] = [()]
    for name in root.list_commands(None):
        made += [(name,), *((name, inner) for inner in getattr(root.get_command(None, name), "commands", ()))]
    return made


@pytest.mark.parametrize("width", ["80", "60"])
def test_every_help_fits(run: Run, monkeypatch: pytest.MonkeyPatch, width: str) -> None:
    """Every option is there, uncut, in a group, whatever package the command is of."""
    monkeypatch.setenv("COLUMNS", width)
    for name in every_command():
        shown = run(*name, "--help").stdout
        assert max(map(len, shown.splitlines())) <= int(width), name
        assert "…" not in shown
        command: Any = typer.main.get_command(program.app)
        for part in name:
            command = command.get_command(None, part)
        words = set(re.sub(r"[^\w<>/-]+", " ", shown).split())
        for parameter in command.params:
            assert set(parameter.opts) <= words or parameter.param_type_name == "argument", (name, parameter.opts)
        titles = re.findall(r"^(\w+)$", shown, re.MULTILINE)
        assert len(titles) == len(set(titles)) >= 2 or not command.params, (name, titles)


def test_options_fall_into_groups_by_themselves() -> None:
    """By the words of their names; what has none of them is not lost."""
    app = typer.Typer()

    @app.command()
    def new(text_field: str = "", on_failure: str = "", max_things: int = 1, unheard_of: bool = False) -> None:
        """Do something."""

    command = typer.main.get_command(app)
    found = {parameter.name: output.group_of(parameter) for parameter in command.params}
    names = ("text_field", "on_failure", "max_things", "unheard_of")
    assert [found[name] for name in names] == ["Input", "Server", "Limits", output.OTHERS]


# How a shell's answer looks, and what its script sets beside the shell's name.
SHELLS = {
    "bash": (r"^(.+)$", ("COMP_WORDS", "COMP_CWORD")),
    "zsh": (r'^(?:_arguments .\*: :\(\()?"(.+?)"', ("_TYPER_COMPLETE_ARGS",)),
    "fish": (r"^([^\t\n]+)", ("_TYPER_COMPLETE_ARGS", "_TYPER_COMPLETE_FISH_ACTION")),
    "powershell": (r"^(.*?)(?::::.*)?$", ("_TYPER_COMPLETE_ARGS", "_TYPER_COMPLETE_WORD_TO_COMPLETE")),
}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("tra", {"train"}),
        ("train --st", {"--storage"}),
        ("train --storage ", {"int8"}),
        ("opensearch con", {"connect"}),
    ],
)
def test_shell_completion(typed: str, completed: set[str], shell: str) -> None:
    """Commands, options and choices, as the script of a shell asks the program for them."""
    *before, word = typed.split(" ")
    line = f"secondpass {typed}"
    values = {
        "COMP_WORDS": line, "COMP_CWORD": str(len(before) + 1),
        "_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_WORD_TO_COMPLETE": word,
    }  # fmt: skip
    answer, names = SHELLS[shell]
    asked = {"_SECONDPASS_COMPLETE": f"complete_{shell}", **{name: values[name] for name in names}}
    done = CliRunner().invoke(program.app, [], env=asked, prog_name="secondpass")
    assert set(re.findall(answer, done.stdout.strip(), re.MULTILINE)) == completed, done.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_of_a_shell(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is shown for any of them, and asks as above."""
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    done = CliRunner().invoke(program.app, ["--show-completion", shell], prog_name="secondpass")
    assert done.exit_code == 0, done.stderr
    wanted = {"_SECONDPASS_COMPLETE", f"complete_{shell}", *SHELLS[shell][1]}
    assert {name for name in wanted if name not in done.stdout} == set()


def test_doctor(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All parts are there, what is missing has the line that installs it, and nothing private is said."""
    monkeypatch.setenv("ELASTICSEARCH_URL", "http://elastic:secret@127.0.0.1:9/private")
    monkeypatch.setattr(doctor, "_installed", lambda name: None if name in ("uvicorn", "ray") else "999")
    shown = run("doctor")
    assert shown.exit_code == 0, shown.stderr
    assert re.findall(r"^(\w+):", shown.stdout, re.MULTILINE) == [
        "machine", "kernel", "libraries", "caches", "servers", "missing",
    ]  # fmt: skip
    assert 'uvicorn[standard]: pip install "secondpass[serve]"' in shown.stdout
    assert "Elasticsearch          no answer at $ELASTICSEARCH_URL" in shown.stdout
    assert not re.search(r"secret|private|elastic:|/root|/home", shown.stdout)


def test_doctor_asks_for_the_extras_of_others(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A server that is there without what its extra brings does not start, so it is not complete."""
    assert json.loads(run("doctor", "--json").stdout)["libraries"]["[serve]"] == "complete"
    (tmp_path / "uvicorn-0.54.0.dist-info").mkdir()
    needs = "Provides-Extra: standard\nRequires-Dist: no-such-library>=1; extra == 'standard'\n"
    told = f"Metadata-Version: 2.4\nName: uvicorn\nVersion: 0.54.0\n{needs}"
    (tmp_path / "uvicorn-0.54.0.dist-info" / "METADATA").write_text(told)
    monkeypatch.syspath_prepend(tmp_path)
    shown = json.loads(run("doctor", "--json").stdout)
    assert shown["libraries"]["[serve]"] == "lacks uvicorn[standard]"
    assert 'uvicorn[standard]: pip install "secondpass[serve]"' in shown["missing"]


@pytest.mark.parametrize(
    ("system", "machine", "helps"),
    [
        ("Linux", "x86_64", True),
        ("Linux", "aarch64", True),
        ("Linux", "riscv64", False),
        ("Darwin", "arm64", False),
        ("Windows", "AMD64", False),
    ],
)
def test_doctor_has_the_kernel_compiled(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str, helps: bool
) -> None:
    """In a checkout, else by a line that takes no wheel, which has none; where a kernel can be compiled."""
    monkeypatch.setattr("secondpass.forwards.kernel.native.routines", lambda: "the kernel was not compiled")
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    missing: list[str] = []
    assert doctor._kernel(missing) == {"kernel": "the kernel was not compiled"}
    assert [line.endswith(" --no-deps --editable .") for line in missing] == [True] * helps
    monkeypatch.setattr("secondpass.forwards.kernel.native.CHECKOUT", Path("/nowhere"))
    doctor._kernel(missing)
    assert [line.endswith(" --no-binary secondpass secondpass") for line in missing[helps:]] == [True] * helps


def test_doctor_counts_models_that_are_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Those in the hub's cache without safetensors, as fastembed's are."""
    for name, file in (("Xenova--ms-marco-MiniLM-L-6-v2", "onnx/model.onnx"), ("a--b", "model.safetensors")):
        (tmp_path / f"models--{name}" / "snapshots" / "1" / file).parent.mkdir(parents=True)
        (tmp_path / f"models--{name}" / "snapshots" / "1" / file).touch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert "2 models, 1 of them not read: no safetensors (ONNX" in doctor._caches()["model hub"]


def test_export(run: Run, tiny_folder: str, tmp_path: Path) -> None:
    """The line tells the file, its size, what it takes and how near its logits are; a refusal is one line."""
    pytest.importorskip("onnx", reason="needs the extra onnx")
    shown = run("export", tiny_folder, str(tmp_path / "out"))
    assert shown.exit_code == 0, shown.stderr
    said = "model.onnx: 0.2 MB, inputs input_ids, attention_mask, token_type_ids; logits of 13 sample pairs differ from"
    assert said in shown.stdout
    refused = run("export", tiny_folder, tiny_folder)
    assert (refused.exit_code, "holds a model of its own" in only_line(refused)) == (2, True)


def test_doctor_survives_what_is_broken(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that cannot be found out is told with the reason, without paths; the others are there."""

    def broken(*_: object) -> None:
        raise RuntimeError("cannot read /home/somebody/secret/file.txt")

    monkeypatch.setattr(doctor.metadata, "requires", broken)
    monkeypatch.setattr(doctor, "_accelerators", broken)
    shown = run("doctor", "--json")
    assert shown.exit_code == 0, shown.stderr
    told = json.loads(shown.stdout)
    assert told["libraries"] == {"cannot be told": "RuntimeError: cannot read .../file.txt"} == told["machine"]
    assert told["kernel"]
    assert set(told["servers"]) == {"Elasticsearch", "OpenSearch", "secondpass serve"}


class Elsewhere(BaseHTTPRequestHandler):
    """Answers as OpenSearch does at /, and wants credentials elsewhere."""

    def do_GET(self) -> None:
        body = b'{"version": {"distribution": "opensearch", "number": "2.19.1"}}'
        self.send_response(200 if self.path == "/" else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Be quiet."""


def test_doctor_asks_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What answers is told by kind and version; what wants credentials, and another product, as such."""
    with HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OPENSEARCH_URL", f"http://user:word@127.0.0.1:{server.server_port}/")
        place = ("OPENSEARCH_URL", "", "/")
        assert doctor._answer(*place, "opensearch") == "2.19.1 at $OPENSEARCH_URL"
        assert doctor._answer(*place, "elasticsearch") == "no answer at $OPENSEARCH_URL (opensearch does)"
        locked = doctor._answer("OPENSEARCH_URL", "", "/locked", "opensearch")
        assert locked == "answers with 401 at $OPENSEARCH_URL (wants credentials)"
        server.shutdown()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples(run: Run, name: str) -> None:
    """Each command's help shows examples that begin with the command."""
    shown = run(name, "--help").stdout
    assert "Examples" in shown
    assert shown.count(f"secondpass {name}") >= 3


def test_without_arguments_it_is_the_help(run: Run) -> None:
    """Without arguments the help is printed, and no error with it."""
    result = run()
    assert "Usage: secondpass" in result.output
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--nonsense"], "No such option: --nonsense"),
        (["rnk"], "No such command 'rnk'"),
        (["rank"], "Missing argument"),
        (["rank", "q", "--top-k", "0"], "Invalid value for '--top-k'"),
        (["rank", "q", "--format", "xml"], "'xml' is not one of"),
        (["score", "--nonsense"], "No such option: --nonsense"),
    ],
)
def test_usage_errors_are_one_line(run: Run, arguments: list[str], reason: str) -> None:
    """A bad command line is one line on stderr that names the help, and exit code 2."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert reason in only_line(result)
    assert "--help'." in only_line(result)


def test_debug_shows_the_traceback(run: Run, tmp_path: Path) -> None:
    """--debug prints where an error came from before its line, with the same exit code."""
    result = run("--debug", "rank", "q", "-d", tmp_path / "absent.txt")
    assert result.exit_code == 2
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("secondpass: ")


def test_errors_inside_a_wrapper_keep_their_meaning() -> None:
    """An error of ours that another library wrapped gives its own line and code."""
    wrapped = RuntimeError("component failed\nlong story")
    wrapped.__cause__ = InvalidInput("documents[3] is int")
    assert output.message(wrapped) == "documents[3] is int"
    assert output.exit_code(wrapped) == 2
    assert output.exit_code(ModelLoadError("x")) == 1


def test_unexpected_errors_are_one_line_too() -> None:
    """An error that is not ours is one line with its type, code 1, and says how to see more."""
    line = output.message(RuntimeError("first\n  second"))
    assert line == "RuntimeError: first second (secondpass --debug shows where)"
    assert output.exit_code(RuntimeError("x")) == 1


def test_closed_pipe_is_quiet(tmp_path: Path, tiny_folder: str) -> None:
    """When the reader of stdout goes away, the program stops without a word and with a pipe's exit code."""
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("the cat\t" + "sat on the mat " * 20 + "\n")
    pairs.write_text(pairs.read_text() * 2000)
    arguments = command("score", pairs, "-m", tiny_folder, "-f", "jsonl")
    with fork_server.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b'{"index": 0')
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(timeout=300) == output.PIPE_CLOSED
    assert b"Error" not in errors
    assert b"Traceback" not in errors


@pytest.mark.parametrize("arguments", [("--help",), ("rank", "--help"), ("--version",)])
def test_closed_pipe_under_help_is_quiet(arguments: tuple[str, ...]) -> None:
    """A closed pipe is no error for help either."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(command(*arguments), stdout=writing, stderr=subprocess.PIPE, timeout=300, check=False)
    finally:
        os.close(writing)
    assert done.stderr == b""


def test_closed_pipe_under_a_table_is_quiet(tmp_path: Path, tiny_folder: str) -> None:
    """A closed pipe is no error for a table either."""
    (tmp_path / "d.txt").write_text("one\ntwo\n")
    reading, writing = os.pipe()
    os.close(reading)
    try:
        arguments = command("rank", "q", "-d", tmp_path / "d.txt", "-m", tiny_folder)
        done = fork_server.run(arguments, stdout=writing, timeout=300)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (output.PIPE_CLOSED, b"")


def test_interrupt_is_quiet() -> None:
    """Control-C ends the program with code 130 and without a traceback."""
    code = (
        "import secondpass.cli.rank as rank, sys\n"
        "from secondpass.cli import main\n"
        "def stop(*_): raise KeyboardInterrupt\n"
        "rank.read_documents = stop\n"
        "sys.argv = ['secondpass', 'rank', 'q']\n"
        "main()\n"
    )
    done = fork_server.run([command()[0], "-c", code], timeout=300)
    assert done.returncode == output.INTERRUPTED
    assert b"Traceback" not in done.stderr


def test_broken_command_of_another_package(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that cannot be loaded harms no other: it is listed, and says why and what helps when it is called."""
    monkeypatch.setitem(program.COMMANDS, "broken", ("no_such_module:command", "haystack"))
    assert run("rank", "--help").exit_code == 0
    shown = run("--help").stdout
    assert re.search(r"\brank\b", shown)
    assert re.search(r"\bbroken\b", shown)
    result = run("broken", "--with", "options")
    assert result.exit_code == 1
    assert 'pip install "secondpass[haystack]"' in only_line(result)
    assert "the command 'broken' cannot be loaded from no_such_module:command" in only_line(result)


def test_commands_from_elsewhere_are_imported_when_asked_for() -> None:
    """A command of this package imports none of them, each of them only its own package."""
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom secondpass.cli import app\n"
        "assert CliRunner().invoke(app, sys.argv[1:]).exit_code == 0\n"
        "names = {name.split('.')[0] for name in sys.modules}\n"
        "print(*sorted(names & {'haystack_integrations', 'secondpass_pipelines', 'secondpass_servers'}))\n"
    )
    for arguments, packages in ((("rank",), ""), (("opensearch", "search"), "secondpass_servers")):
        called = [command()[0], "-c", code, *arguments, "--help"]
        done = subprocess.run(called, capture_output=True, text=True, timeout=300, check=True)
        assert done.stdout.strip() == packages


def test_a_mistyped_command_is_suggested(run: Run) -> None:
    """Those from elsewhere too."""
    assert "Did you mean 'opensearch'" in only_line(run("opensarch"))
