"""What every command prints: one JSON document where it is asked for, tables that fit, bars that tell the time left."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.cells import cell_len

from secondpass.cli import output, program
from secondpass.cli.output import PipeConsole, print_json_list, print_table, progress_bar
from secondpass.cli.train import LONGEST_NAME
from secondpass.corpora import read_corpus
from secondpass.evaluation.qrels import judged_queries
from secondpass.evaluation.reporting.files import _drawn
from secondpass.evaluation.reporting.tables import Table
from secondpass_servers.commands import ProgressBar
from secondpass_servers.indexing.run import IndexingCounters
from tests import fork_server
from tests.cli.conftest import Run, command

# They answer requests until they are stopped, and have no result.
SERVERS = {("serve",), ("play",), ("mcp",)}
ESCAPE = "\x1b"
LONG = "a-model-with-a-very-long-name-that-nobody-would-type-twice-in-a-row"
Line = tuple[str | Path, ...]


def every_command() -> dict[tuple[str, ...], Any]:
    """Commands that do something, by their words."""
    root: Any = typer.main.get_command(program.app)
    made: dict[tuple[str, ...], Any] = {}
    for name in root.list_commands(None):
        found = root.get_command(None, name)
        inner = getattr(found, "commands", None)
        made |= {(name,): found} if inner is None else {(name, one): each for one, each in inner.items()}
    return made


def long_id(name: str) -> str:
    """60 characters."""
    return f"{name}-{'x' * 60}"[:60]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BEIR folder of the demo's first queries, with ids of 60 characters, and files that commands read."""
    place = tmp_path_factory.mktemp("screens")
    demo = Path("secondpass/demo")
    judged = judged_queries(demo, "test").limited(12)
    assert judged.qrels is not None
    relevant = {name for grades in judged.qrels.only(judged.texts).values() for name in grades}
    documents = [one for number, one in enumerate(read_corpus(demo)) if one.id in relevant or number % 6 == 0]
    beir = place / "beir"
    (beir / "qrels").mkdir(parents=True)
    rows = [{"_id": long_id(one.id), "title": one.title, "text": one.text} for one in documents]
    (beir / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = [{"_id": long_id(name), "text": text} for name, text in judged.texts.items()]
    (beir / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    lines = ["query-id\tcorpus-id\tscore"]
    lines += [
        f"{long_id(query)}\t{long_id(name)}\t{grade}"
        for query in judged.texts
        for name, grade in judged.qrels[query].items()
    ]
    for split in ("train", "test"):
        (beir / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    texts = {row["_id"]: row for row in rows}
    given = {long_id(query): [long_id(name) for name in judged.qrels[query]] for query in judged.texts}

    def candidates(query: str, start: int) -> list[dict[str, str]]:
        names = [row["_id"] for row in rows[start : start + 10]] + given[query]
        return [texts[name] for name in dict.fromkeys(names)]

    for name, start in (("first.trec", 0), ("second.trec", 3)):
        run = [
            f"{row['_id']} Q0 {each['_id']} {rank} {20 - rank} {LONG}"
            for row in asked
            for rank, each in enumerate(candidates(row["_id"], start), start=1)
        ]
        (place / name).write_text("\n".join(run) + "\n")
    (place / "pairs.tsv").write_text("the cat\ta mat\na dog\ta house\n")
    clicks = ["query,doc_id,position,clicked"]
    clicks += [f"q{query},d{at},{at},{int(at == 1)}" for query in range(4) for at in (1, 2, 3) for _ in range(40)]
    (place / "clicks.csv").write_text("\n".join(clicks) + "\n")
    groups = [{"query": f"query {n}", "documents": [f"good {n}", "bad"], "labels": [1, 0]} for n in range(12)]
    (place / "groups.jsonl").write_text("".join(json.dumps(row) + "\n" for row in groups))
    return place


@pytest.fixture
def model(tiny_folder: str, tmp_path: Path) -> Path:
    """The tiny model under a long name."""
    return Path(shutil.copytree(tiny_folder, tmp_path / LONG))


@pytest.fixture
def lines(folder: Path, model: Path, tmp_path: Path) -> dict[tuple[str, ...], Line]:
    """A call of each command that needs no server of another, without --json."""
    beir, out = folder / "beir", tmp_path / "out"
    out.mkdir()
    (tmp_path / "train.yaml").write_text(
        f"model: {{name: {model}}}\n"
        f"data: {{train: {{path: {folder / 'groups.jsonl'}}}, dev: {{path: {folder / 'groups.jsonl'}}}}}\n"
        f"settings: {{epochs: 1, loss: info_nce}}\noutput: {{folder: {out / 'trained'}}}\n"
    )
    pair = ("--qrels", beir / "qrels" / "test.tsv", "--qrels", beir / "qrels" / "train.tsv")
    runs = ("-r", folder / "first.trec", "-r", folder / "second.trec")
    small = ("--rounds", "1", "--passages", "2", "--no-check", "--no-competitors", "--model", model)
    return {
        ("rank",): ("rank", "the cat", "-d", beir, "-k", "4", "-m", model),
        ("score",): ("score", folder / "pairs.tsv", "-m", model),
        ("rescore",): ("rescore", folder / "first.trec", out / "run", "-d", beir, "-m", model),
        ("evaluate",): ("evaluate", "--qrels", beir, *runs, "-m", "nDCG@10"),
        ("compare",): ("compare", "-d", beir, "--model", model, "--depth", "4", "-m", "nDCG@10"),
        ("train",): ("train", tmp_path / "train.yaml", "--quiet"),
        ("mine",): ("mine", "-d", beir, "-o", out / "groups.jsonl", "-n", "2"),
        ("calibrate",): ("calibrate", beir, "-r", folder / "first.trec", "-o", out / "c.json", "--model", model),
        ("tune",): ("tune", "-d", beir, "--depth", "4", "--splits", "4", "--model", model),
        ("label", "clicks"): ("label", "clicks", folder / "clicks.csv", "-o", out / "labels", "--min-seen", "1"),
        ("label", "agreement"): ("label", "agreement", *pair),
        ("export",): ("export", model, out / "onnx"),
        ("bench",): ("bench", *small),
        ("doctor",): ("doctor",),
        ("ask",): ("ask", "how do I reset my password", "-c", beir),
        ("demo",): ("demo", "--queries", "1", "--model", model),
        ("search",): ("search", "-p", "rerank_bm25", "-c", beir, "-q", "password", "--depth", "4", "-m", model),
    }


# Others than these have no table: lines that a terminal breaks, or a result that is a file.
TABLES = [("rank",), ("score",), ("evaluate",), ("compare",), ("tune",), ("label", "clicks"), ("label", "agreement"),
          ("bench",), ("doctor",), ("demo",), ("search",)]  # fmt: skip
# How what is below their tables begins.
PROSE = {("doctor",): "missing:", ("label", "clicks"): "Rows:", ("label", "agreement"): "Relevant"}
ABOVE = ("Both judge",)
# They ask servers, a chat endpoint or an indexing pipeline, and are tested where these are.
ELSEWHERE = {("label", "judge"), ("index",), *((engine, each) for engine in ("elasticsearch", "opensearch")
             for each in ("create", "index", "search", "connect", "disconnect"))}  # fmt: skip


def test_every_command_with_a_result_prints_json(lines: dict[tuple[str, ...], Line]) -> None:
    """`--json` is an option of all of them, and each is either tried below or where its server is."""
    found = every_command()
    without = {name for name, each in found.items() if not any("--json" in known.opts for known in each.params)}
    assert without == SERVERS
    assert set(lines) | ELSEWHERE | SERVERS == set(found)


NAMES = [*TABLES, ("rescore",), ("train",), ("mine",), ("calibrate",), ("export",), ("ask",)]


@pytest.mark.parametrize("name", NAMES, ids=" ".join)
def test_json_is_one_document(name: tuple[str, ...], run: Run, lines: dict[tuple[str, ...], Line]) -> None:
    """It is all that stdout has; figures that are not finite are null; what else there is to say is on stderr."""
    if name == ("export",):
        pytest.importorskip("onnx", reason="needs the extra onnx")

    def strange(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    done = run(*lines[name], "--json")
    assert done.exit_code == 0, done.stderr
    assert isinstance(json.loads(done.stdout, parse_constant=strange), dict)
    assert ESCAPE not in done.stdout + done.stderr


def test_json_of_commands_with_a_file(run: Run, folder: Path, tmp_path: Path) -> None:
    """With a file the tables are printed as ever; "-" is stdout; an option behind a lone --json stays one."""
    asked = ("evaluate", "--qrels", folder / "beir", "-r", folder / "first.trec")
    file = tmp_path / "r.json"
    assert "Means over" in run(*asked, "--json", file, "-m", "nDCG@10").stdout
    kept = json.loads(file.read_text())
    for words in (("--json", "-m", "nDCG@10"), ("-m", "nDCG@10", "--json"), ("--json", "-", "-m", "nDCG@10")):
        assert json.loads(run(*asked, *words).stdout) == kept


@pytest.mark.parametrize("columns", [80, 40])
@pytest.mark.parametrize("name", TABLES, ids=" ".join)
def test_tables_fit(
    name: tuple[str, ...], columns: int, run: Run, lines: dict[tuple[str, ...], Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ids of 60 characters and a model's name of 67; whatever is not whole has a mark."""
    monkeypatch.setenv("COLUMNS", str(columns))
    done = run(*lines[name])
    assert done.exit_code == 0, done.stderr
    told = done.stdout.splitlines()
    if name in PROSE:
        # lines to copy, or sentences with paths, which a terminal breaks itself
        told = told[: next(place for place, line in enumerate(told) if line.startswith(PROSE[name]))]
    told = [line for line in told if not line.startswith(ABOVE)]
    assert [line for line in told if cell_len(line.rstrip()) > columns] == []
    assert ESCAPE not in done.stdout


def test_what_is_cut_has_a_mark(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids and texts end in an ellipsis; figures are whole at any width, line by line where nothing else fits."""
    rows = [("1", "0.9876", "i" * 60, "word " * 30), ("12", "0.0012", "short", "a\ttext\n<b>")]
    for columns in (80, 40, 20, 5):
        monkeypatch.setenv("COLUMNS", str(columns))
        print_table(("rank", "score", "id", "text"), rows)
        shown = capsys.readouterr().out
        assert max(cell_len(line.rstrip()) for line in shown.splitlines()) <= columns
        if columns > 5:
            assert "0.9876" in shown
            assert "0.0012" in shown
        assert ("i…" in shown) == (columns in (80, 40))
        assert ("…" in shown) or re.sub(r"\s", "", shown).count("i" * 60) == 1


def test_a_table_without_rows_has_its_head(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, in one line."""
    monkeypatch.setenv("COLUMNS", "80")
    print_table(("rank", "score", "id", "text"), [])
    (head,) = capsys.readouterr().out.splitlines()
    assert head.split() == ["rank", "score", "id", "text"]


@pytest.mark.parametrize("columns", [120, 80, 40, 20])
def test_names_in_reports_are_whole(columns: int) -> None:
    """They are folded; a table that is too narrow for that is told line by line."""
    columns_of: Any = (("system", "name"), ("mean", "number"), ("interval", "number"))
    table = Table("title", columns_of, (("x" * 60, "0.1234", "-0.1234 to +0.1234"),))
    stream = io.StringIO()
    PipeConsole(file=stream, width=columns).print(_drawn(table, columns))
    shown = stream.getvalue()
    assert max(cell_len(line.rstrip()) for line in shown.splitlines()) <= columns
    assert shown.count("x") == 60
    assert "…" not in shown
    assert {"0.1234", "-0.1234", "to", "+0.1234"} <= set(shown.split())


def test_the_widest_training_table_fits(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its figures stand beside each other in 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    row = ("n" * LONGEST_NAME, "nDCG@10", "0.1234", "0.1234", "0.1234", "+0.123", "-0.011 to +0.067", "< 0.001")
    print_table(("data", "measure", "first", "before", "after", "change", "95 % interval", "p"), [row])
    head, shown = capsys.readouterr().out.splitlines()
    assert cell_len(shown.rstrip()) <= 80
    assert head.split()[:2] == ["data", "measure"]
    assert shown.split()[1:] == " ".join(row[1:]).split()


def test_json_lists_are_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """None, one and several rows, with and without a head; a failure before the first row prints nothing."""
    for rows in ([], [{"a": "\u2028"}], [{"a": 1.5}, {"a": float("inf")}]):
        for head in ({}, {"query": "é"}):
            print_json_list(head, "results", rows)
            shown = capsys.readouterr().out
            wanted = [{"a": None if row["a"] == float("inf") else row["a"]} for row in rows]
            assert json.loads(shown) == {**head, "results": wanted}
            assert len(shown.splitlines()) == len(rows) + 2

    def failing() -> Any:
        raise ValueError("no row")
        yield {}

    with pytest.raises(ValueError, match="no row"):
        print_json_list({}, "results", failing())
    assert capsys.readouterr().out == ""


# ---- Terminals.
def at_terminal(arguments: list[str], **environment: str) -> tuple[str, str]:
    """What a program writes to a terminal of 80 columns on stdout, and to another one on stderr."""
    told, errors = pty.openpty(), pty.openpty()
    for _, end in (told, errors):
        fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    given = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "FORCE_COLOR")}
    process = subprocess.Popen(
        arguments, stdin=subprocess.DEVNULL, stdout=told[1], stderr=errors[1],
        env=given | {"TERM": "xterm-256color", "COLUMNS": "80"} | environment,
    )  # fmt: skip
    os.close(told[1])
    os.close(errors[1])
    with ThreadPoolExecutor(2) as pool:
        shown = [each.decode() for each in pool.map(read_terminal, (told[0], errors[0]))]
    assert process.wait(timeout=120) == 0, shown[1]
    return shown[0], shown[1]


def read_terminal(master: int) -> bytes:
    """Everything that is written to its other end."""
    shown = b""
    with open(master, "rb", buffering=0) as stream, contextlib.suppress(OSError):
        # an error is how Linux says that nobody has the other end any more
        while piece := stream.read(4096):
            shown += piece
    return shown


def test_colours_at_a_terminal_and_without(folder: Path, tiny_folder: str) -> None:
    """A terminal gets them, NO_COLOR takes every escape sequence away, and a pipe never has one."""
    asked = command("rank", "the cat", "-d", folder / "beir", "-k", "2", "-m", tiny_folder, "--explain")
    assert ESCAPE in at_terminal(asked)[0]
    plain, errors = at_terminal(asked, NO_COLOR="1")
    assert ESCAPE not in plain + errors
    piped = fork_server.run(asked, timeout=300)
    assert ESCAPE.encode() not in piped.stdout + piped.stderr


def test_a_bar_at_a_terminal(folder: Path, tiny_folder: str) -> None:
    """It has the total, the rate and the time left, and goes when it is done; with NO_COLOR it is the same."""
    asked = command("compare", "-d", folder / "beir", "--model", f"tiny={tiny_folder}", "--depth", "3", "--json")
    shown, errors = at_terminal(asked, NO_COLOR="1")
    json.loads(shown)
    assert re.search(r"tiny: +\d+%\|.*\| \d+/12 \[\d\d:\d\d<(\d\d:\d\d|\?), +[\d.?]+(it/s|s/it)", errors), errors
    assert ESCAPE not in errors


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("terminal", [True, False])
def test_bars_are_for_terminals(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Total, rate and time left; nothing at all where stderr is a file."""
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar("Reading", 4, "lines") as bar:
        for _ in range(4):
            bar.update()
            bar.refresh()
    if terminal:
        assert re.search(r"Reading: +50%.*2/4 \[00:00<00:00, .*lines/s\]", stream.getvalue())
    else:
        assert stream.getvalue() == ""


def test_the_bar_of_an_index_knows_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that goes on counts what an earlier one has indexed as done, and not into the rate."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_bar("Indexing", None, "documents") as bar:
        listener = ProgressBar(bar)
        listener.counted(IndexingCounters(documents=10, already=6))
        assert (bar.total, bar.n, bar.initial) == (10, 6, 6)
        listener.counted(IndexingCounters(documents=10, already=6, indexed=3, dead=1))
        assert (bar.n, bar.initial) == (10, 6)
        listener.notice("the server is busy; again in 2 s")
        assert "the server is busy" in bar.desc


def test_no_colour_is_no_style(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even bold; an empty NO_COLOR is none."""
    for value, escaped in (("1", False), ("", True)):
        monkeypatch.setenv("NO_COLOR", value)
        stream = io.StringIO()
        PipeConsole(file=stream, force_terminal=True, width=80).print("x", style="bold red")
        assert (ESCAPE in stream.getvalue()) is escaped


def test_a_closed_pipe_ends_a_list_of_json(folder: Path, tiny_folder: str) -> None:
    """`secondpass rank ... --json | head -1` is quiet, as lines are."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        asked = command("rank", "q", "-d", folder / "beir", "-m", tiny_folder, "--json")
        done = fork_server.run(asked, stdout=writing, timeout=300)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (output.PIPE_CLOSED, b"")
