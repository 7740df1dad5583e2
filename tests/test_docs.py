"""The documentation site: what its pages show runs, their links lead somewhere, and every public name has a page."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from posixpath import dirname, normpath
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from documentation import commands, messages, reference, repository
from documentation.links import faults
from documentation.public import ROOT, modules, parsed
from secondpass import CrossEncoder
from secondpass.cli import app
from secondpass.errors import SecondPassError
from secondpass.evaluation import Qrels
from tests.tiny_models import make_folder, make_reranker

PAGES = sorted((ROOT / "docs").rglob("*.md"))
READMES = [ROOT / "README.md", *(ROOT / path for path in repository.sources().values() if path.endswith("README.md"))]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
# Pages whose Python other tests run, and hold to what it prints, with how many blocks they run.
ELSEWHERE = {
    "docs/evaluation.md": ("without_torch/test_what_runs.py", 1),
    "docs/explanations.md": ("without_torch/test_what_runs.py", 1),
    "docs/neighbours.md": ("test_neighbours.py", 2),
    "docs/rag.md": ("without_torch/test_what_runs.py", 1),
    "docs/ray.md": ("ray_session.py", 2),
    "docs/score-cache.md": ("without_torch/test_what_runs.py", 1),
    "docs/tuning.md": ("pipelines/test_tuned_pipelines.py", 2),
}
# Commands that pages run as they stand here, made smaller where they take long; what others name is looked up.
QUICK = (
    ("docs/start.md", "secondpass rank", "", ""),
    ("docs/start.md", "secondpass compare", "--depth 20", "--depth 1"),
    ("docs/guides/haystack.md", "secondpass search", "", ""),
    ("docs/guides/data-scientist.md", "secondpass train --example", "", ""),
)
Blocks = list[tuple[str, str]]


def named(page: Path) -> str:
    """A page as others call it."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Blocks:
    """(language, text) of each block of code of a page."""
    return [(language, code) for _, language, code in FENCE.findall(page.read_text(encoding="utf-8"))]


# ---- what pages show


def stand_in(folder: str, **config: Any) -> Callable[[], dict[str, Any]]:
    """Writes a tiny model where a page has one of its reader's."""

    def write() -> dict[str, Any]:
        make_folder(folder, "bert", **config)
        return {}

    return write


def pocket(folder: str) -> None:
    """The embedded model under another name."""
    shutil.copytree(str(files("secondpass") / "pocket"), folder)


def cascade() -> dict[str, Any]:
    """A small model, and queries enough for the promise that the page makes."""
    make_folder("small", "bert")
    texts = ["To reset a password, ask for a link.", "A lake.", "Bread."]
    queries = [f"how do I reset password {number}" for number in range(70)]
    return {"documents": texts, "queries": queries, "documents_per_query": [texts] * len(queries)}


def labels() -> dict[str, Any]:
    """A log of clicks and judgements by people; the endpoint is a function."""
    rows = [f"reset my password,d{place},{place},{int(place == 1)}" for place in (1, 2)] * 20
    Path("clicks.csv").write_text("\n".join(["query,doc_id,position,clicked", *rows]))
    Path("people.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td1\t0\n")
    return {}


def probabilities() -> dict[str, Any]:
    """Labelled queries enough to fit on, and a model of one's own."""
    pocket("models/mine")
    documents = ["Reset a password by a link.", "A lake near Berlin.", "Bread is made of flour."]
    grades = [[1, 0, 0] if number % 4 else [1, 0, 1] for number in range(12)]
    queries = [f"how do I reset my password {number}" for number in range(12)]
    made = {"queries": queries, "documents_per_query": [documents] * 12, "grades": grades, "documents": documents}
    return made


def templates() -> dict[str, Any]:
    """A tiny causal reranker under the name of a published one."""
    make_reranker("Qwen/Qwen3-Reranker-0.6B")
    return {"documents": ["The tenant pays for repairs.", "A lake."]}


def training() -> dict[str, Any]:
    """Groups, a labelled folder, and tiny models in the place of large ones."""
    group = {"query": "reset a password", "documents": ["Ask for a link.", "A lake."], "labels": [1, 0]}
    Path("groups.jsonl").write_text(
        "".join(json.dumps(group | {"query": f"{group['query']} {n}"}) + "\n" for n in "abcd")
    )
    folder = Path("my_beir_folder")
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text('{"_id": "d1", "text": "Ask for a link."}\n{"_id": "d2", "text": "A lake."}\n')
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "reset a password"}\n')
    (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\n")
    make_folder("secondpass/pocket", "bert")
    make_folder("large", "bert", num_hidden_layers=7)
    return {"corpus_texts": ["Ask for a link.", "A lake."]}


def nothing() -> dict[str, Any]:
    """What most pages need beside themselves."""
    return {}


PREPARED: dict[str, Callable[[], dict[str, Any]]] = {
    "docs/cascades.md": cascade,
    "docs/labels.md": labels,
    "docs/performance.md": lambda: {"CrossEncoder": CrossEncoder},
    "docs/probabilities.md": probabilities,
    "docs/templates.md": templates,
    "docs/training.md": training,
}
WITH_PYTHON = [page for page in PAGES if any(language == "python" for language, _ in blocks(page))]


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the reader's own; no hub is asked, and the judge of docs/labels.md is a function."""

    async def judged(*_: Any) -> SimpleNamespace:
        return SimpleNamespace(qrels=Qrels({"q1": {"d1": 1}, "q2": {"d1": 0}}))

    monkeypatch.setattr("secondpass.evaluation.judge_pairs", judged)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def runs_elsewhere(page: Path, other: Path) -> bool:
    """Whether a file's code, not a docstring alone, names the page, and executes something."""
    nodes = list(ast.walk(ast.parse(other.read_text(encoding="utf-8"))))
    reads = any(isinstance(node, ast.Constant) and node.value in (page.name, named(page)) for node in nodes)
    return reads and any(isinstance(node, ast.Call) and getattr(node.func, "id", "") == "exec" for node in nodes)


@pytest.mark.parametrize("page", WITH_PYTHON, ids=named)
def test_the_python_of_a_page_runs(page: Path, reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One block after the other, as a reader types it; what a page shows behind a block is what it prints."""
    if named(page) in ELSEWHERE:
        other, count = ELSEWHERE[named(page)]
        assert runs_elsewhere(page, ROOT / "tests" / other)
        assert [language for language, _ in blocks(page)].count("python") == count
        return
    names = PREPARED.get(named(page), nothing)()
    shown = [*blocks(page), ("", "")]
    for (language, code), (after, output) in pairwise(shown):
        if language == "python":
            exec(compile(code, named(page), "exec"), names)  # noqa: S102 - our own pages
            printed = capsys.readouterr().out
            if after == "text":
                assert printed.splitlines() == output.splitlines()


def lines_of(page: Path) -> Iterator[str]:
    """The command lines of a page's blocks, those that go on in the next line put together."""
    for language, code in blocks(page):
        if language in ("", "bash", "sh"):
            yield from re.sub(r"\\\n\s*", "", code).splitlines()


def ours(line: str) -> Iterator[list[str]]:
    """The words behind `secondpass` of each call of it in a line."""
    lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words, reading = [], False
    for word in [*lexer, ";"]:
        if word == "secondpass" and not words:
            reading = True
        elif set(word) <= set(";&|<>()"):
            if reading:
                yield words
            words, reading = [], False
        elif reading:
            words.append(word)
        elif "=" not in word:
            words = [word]


CALLS = [
    (named(page), words)
    for page in (*PAGES, *READMES, ROOT / "CONTRIBUTING.md")
    for line in lines_of(page)
    if "secondpass" in line and line.count("'") % 2 == 0
    for words in ours(line)
]


def test_pages_name_commands_and_options_that_there_are() -> None:
    """Every `secondpass ...` of every page is a command of the program, with options that it has."""
    known = dict(commands.commands())
    wrong = []
    for page, words in CALLS:
        count = 2 if " ".join(words[:2]) in known else 1
        command = known.get(" ".join(words[:count])) if words else None
        if words and words[0].startswith("-"):
            continue  # of the program itself
        options = {
            name
            for parameter in getattr(command, "params", [])
            for name in (*parameter.opts, *parameter.secondary_opts)
        }
        given = {word.split("=")[0] for word in words[count:] if re.match(r"--?[a-z]", word)} - {"--help"}
        if command is None or not given <= options:
            wrong.append(f"{page}: secondpass {' '.join(words)}: {sorted(given - options)}")
    assert len(CALLS) > 80
    assert wrong == []


@pytest.mark.parametrize(("page", "start", "large", "small"), QUICK, ids=[start for _, start, _, _ in QUICK])
def test_a_command_of_a_page_runs(page: str, start: str, large: str, small: str, reader: Path) -> None:
    """With the files that the page shows; where it shows what is printed, that is printed, numbers aside."""
    shown, ran = blocks(ROOT / page), []
    for (_, code), (after, output) in zip(shown, [*shown[1:], ("", "")], strict=True):
        if after == "" and "answers.txt" in output:
            (reader / "answers.txt").write_text(code)
        for line in code.splitlines():
            if line.startswith(start):
                words = shlex.split(line.split(" > ")[0].replace(large, small) if large else line.split(" > ")[0])
                result = CliRunner().invoke(app, words[1:])
                ran.append(line)
                assert result.exit_code == 0, result.output
                if after == "text":
                    printed = [re.sub(r"\d", "0", one.rstrip()) for one in result.stdout.splitlines()]
                    assert printed == re.sub(r"\d", "0", output).splitlines()
    assert len(ran) == 1


@pytest.mark.parametrize("page", [*PAGES, *READMES], ids=named)
def test_what_is_json_or_yaml_is(page: Path) -> None:
    """What a reader would paste into a file can be read."""
    for language, code in blocks(page):
        if language == "json":
            json.loads(code)
        elif language == "yaml":
            assert yaml.safe_load(code) is not None


# ---- where pages lead


def test_links_lead_to_files_and_pages_that_are_there() -> None:
    """In the repository and in the site alike; what `make docs` generates counts."""
    generated = {*reference.pages(), *commands.pages(), *messages.pages()}
    wrong = []
    for page in (*PAGES, *READMES):
        for link in repository.links(named(page), page.read_text(encoding="utf-8")):
            if not (ROOT / link).exists() and link.removeprefix("docs/") not in generated:
                wrong.append(f"{named(page)}: {link}")
    for source in (reference.pages(), commands.pages(), messages.pages()):
        known = generated | {named(page).removeprefix("docs/") for page in PAGES} | set(repository.sources())
        for name, markdown in source.items():
            found = [normpath(f"{dirname(name)}/{link}") for link, _ in repository.LINK.findall(markdown)]
            wrong += [f"{name}: {link}" for link in found if link not in known]
    assert wrong == []


def test_links_out_of_the_folder_lead_to_pages_of_the_site() -> None:
    """A file that a page links to is a page there, with its links led on."""
    moved = repository.rewritten(
        "docs/guides/x.md", "[a](../../deploy/compose.yaml) [b](../models.md#the-table)\n```\n[c](d)\n```\n"
    )
    assert moved.splitlines()[0] == "[a](../repository/deploy/compose.yaml.md) [b](../models.md#the-table)"
    assert "[c](d)" in moved
    assert repository.rewritten("docs/rag.md", "[labels.md](labels.md)") == "[Labels without people](labels.md)"
    moved = repository.rewritten("integrations/haystack/README.md", "[a](../../docs/rag.md) [b](../../README.md)")
    assert moved == "[a](../../../rag.md) [b](../../../index.md)"
    assert repository.sources()["changelog.md"] == "CHANGELOG.md"
    assert "compose" in repository.pages()["repository/deploy/index.md"]


# ---- the reference


def test_every_public_name_has_a_page() -> None:
    """Each name of each `__all__` has one, which shows it as it is imported, and stands in the navigation."""
    made = reference.pages()
    shown = {name for page in made.values() for name in re.findall(r"^::: (\S+)$", page, re.MULTILINE)}
    missing = []
    for module in modules():
        for node in parsed(module).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                for name in ast.literal_eval(node.value):
                    (found,) = (one for one in reference.public_names()[module] if one.name == name)
                    page = made.get(reference.page_of(found), "")
                    if f"::: {reference.homes()[found.definition].path}\n" not in page:
                        missing.append(f"{module}.{name}")
    assert missing == []
    assert len(shown) == len(reference.homes()) > 100
    assert set(made) == set(re.findall(r"reference/\S+?\.md", str(reference.navigation())))


def test_every_public_class_and_function_says_what_it_is() -> None:
    """The index of a module has a sentence for each; constants have their value."""
    silent = [name.path for name in reference.homes().values() if not name.summary and not name.name.isupper()]
    assert silent == ["secondpass.cli.app"]


def test_commands_have_a_page_with_their_options() -> None:
    """Read from the program: what `--help` knows is there."""
    made = commands.pages()
    assert "`--top-k`<br>`-k`" in made["commands/rank.md"]
    assert "## secondpass elasticsearch connect" in made["commands/elasticsearch.md"]
    assert "`fp32`" in made["commands/serve.md"]


def fitting(error: SecondPassError) -> list[messages.Message]:
    """The entries of the index that a message is one of."""
    return [
        one
        for one in messages.messages()
        if one.error == type(error).__name__
        and re.fullmatch(re.sub(r"<[^<>]*>|…", ".*", re.escape(one.text)), str(error), re.DOTALL)
    ]


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model.rank(" ", ["a"]),
        lambda model: model.rank("a", ["b", 1]),
        lambda model: model.rank("a", ["b"], top_k=0),
        lambda _: CrossEncoder("no/such/folder", local_files_only=True),
    ],
)
def test_messages_are_found_in_the_index(call: Callable[[CrossEncoder], object], tiny: CrossEncoder) -> None:
    """With the class, and on a page that leads on to one of docs/."""
    with pytest.raises(SecondPassError) as raised:
        call(tiny)
    (found, *_) = fitting(raised.value)
    assert found.text in messages.pages()[f"errors/{messages.area_of(found.module)}.md"].replace("`` ", "`")


def test_every_error_says_what_to_do() -> None:
    """The classes of `secondpass.errors` have a second paragraph for that; all classes stand in the index."""
    page = messages.pages()["errors/index.md"]
    for error in messages.error_classes().values():
        if not error.name.startswith("_"):
            assert f"### {error.name}\n" in page
        if error.module == "secondpass.errors" and not error.name.startswith("_") and error.name != messages.TREE:
            assert "\n\n" in error.documentation, error.name
    assert set(messages.TOPICS.values()) <= {named(page).removeprefix("docs/") for page in PAGES} | {
        *repository.sources(), *commands.pages(),
    }  # fmt: skip


# ---- the checker of the built site

FAULTY = {
    '<a href="b.html">b</a>': "a.html: b.html leads nowhere",
    '<a href="#there">b</a>': "a.html: #there has no such place",
    '<script src="https://cdn.example/x.js"></script>': "a.html: loads https://cdn.example/x.js from elsewhere",
    "<style>p { background: url(//cdn.example/x.png) }</style>": "a.html: loads //cdn.example/x.png from elsewhere",
    '<link rel="stylesheet" href="x.css">': "a.html: loads x.css, which is not there",
    '<img src="a.html">': "a.html: a picture says nothing: a.html",
    "<h1>again</h1>": "a.html: 2 headings of the first level",
    '<p id="here"></p>': "a.html: two places are called #here",
}


@pytest.mark.parametrize("fault", FAULTY)
def test_a_fault_of_the_site_is_found(fault: str, tmp_path: Path) -> None:
    """Each kind, in a page that has no other; links to other sites are none."""
    page = '<h1 id="here">A</h1><a href="#here">a</a><a href="https://example.org">away</a>'
    (tmp_path / "a.html").write_text(page)
    missing = [f"{name.path} has no page: {reference.page_of(name)[:-3]}.html" for name in reference.homes().values()]
    assert list(faults(tmp_path)) == missing
    (tmp_path / "a.html").write_text(page + fault)
    assert [line for line in faults(tmp_path) if line not in missing] == [FAULTY[fault]]


# ---- words and pictures


def test_the_glossary_is_in_order_and_links_to_topics() -> None:
    """A reader looks a word up by its letters; a word that is long has a page."""
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    words = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert words == sorted(words, key=str.lower)
    assert len(words) > 35


def test_pictures_take_the_colours_of_their_page() -> None:
    """By names alone: no colour outside of the styles, which have those of a dark screen too."""
    pictures = sorted((ROOT / "docs" / "pictures").glob("*.svg"))
    styles = set()
    for picture in pictures:
        text = picture.read_text(encoding="utf-8")
        style = text[text.index("<style>") : text.index("</style>")]
        styles.add(style)
        assert "prefers-color-scheme: dark" in style
        assert re.findall(r"#[0-9a-f]{3,6}\b", text.replace(style, "")) == []
        assert f"pictures/{picture.name})" in (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    assert (len(pictures), len(styles)) == (5, 1)
