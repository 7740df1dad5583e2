"""Rules of the house that no linter knows; CONTRIBUTING.md tells them with the same numbers."""

from __future__ import annotations

import ast
import os
import re
import statistics
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import secondpass
from secondpass.lazy import TORCH as OLDEST

ROOT = Path(__file__).parents[1]
CORE = ROOT / "src"
HAYSTACK = ROOT / "integrations" / "haystack" / "src"
SERVERS = ROOT / "integrations" / "servers" / "src"
PACKAGE = CORE / "secondpass"

# Floors of the house, the lowest first: a floor may use those below it and nothing above.
FLOORS: tuple[tuple[str, ...], ...] = (
    tuple(
        f"secondpass.{noun}"
        for noun in ("errors", "lazy", "system", "text", "display", "machine", "journal", "corpora", "tracing")
    ),
    tuple(
        f"secondpass.{noun}"
        for noun in ("sentences", "windows", "inputs", "record", "token_cache", "tokens", "score_cache")
    ),
    ("secondpass.forwards",),
    tuple(
        f"secondpass.{noun}"
        for noun in ("scoring", "activations", "keywords", "ranking", "stopping", "calibration", "fusion")
    ),
    ("secondpass.models",),
    ("secondpass.reranker",),
    ("secondpass.biencoder", "secondpass.extraction", "secondpass.explanation", "secondpass.merging"),
    ("secondpass.evaluation",),
    ("secondpass.tuning",),
    ("secondpass.training",),
    ("secondpass.fit", "secondpass.cross_encoder", "secondpass.cascade"),
    ("secondpass.training.distillation", "secondpass.training.configured"),
    ("secondpass.candidates", "secondpass.rescoring"),
    tuple(f"secondpass.{noun}" for noun in ("serving", "postprocessing", "langchain", "llama_index")),
    ("secondpass.ray",),
    ("secondpass.cli.arguments", "secondpass.cli.output"),
    ("haystack_integrations",),
    ("secondpass_servers",),
    ("secondpass_pipelines",),
    ("secondpass.cli",),
)
LONGEST_FILE = 500
LONGEST_FUNCTION = 60
MOST_FILES = 240
MOST_LINES = 62_000
MOST_TEST_FILES = 242
MEDIAN_FILE = 160
MOST_WITH_ONE_USER = 29


@cache
def sources() -> tuple[Path, ...]:
    """Python files of the three import packages and of what stands beside them."""
    return tuple(sorted(file for folder in (CORE, ROOT / "integrations") for file in folder.rglob("*.py")))


@cache
def parsed(file: Path) -> ast.Module:
    """A file as a syntax tree."""
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


@cache
def lines(file: Path) -> int:
    """How many lines it has."""
    return len(file.read_text(encoding="utf-8").splitlines())


@cache
def modules() -> dict[str, Path]:
    """Files by dotted module name; a package goes by its own."""
    made = {}
    for root in (CORE, HAYSTACK, SERVERS):
        for file in sorted(root.rglob("*.py")):
            parts = file.relative_to(root).with_suffix("").parts
            made[".".join(part for part in parts if part != "__init__")] = file
    return made


def imported(tree: ast.Module) -> Iterator[str]:
    """The dotted name of everything a file imports, at the top, in a function or for type checking."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def arrows() -> dict[str, frozenset[str]]:
    """Which of our modules each of them imports; what comes from a package's front counts as that package."""
    found = {}
    for module, file in modules().items():
        names = set()
        for name in imported(parsed(file)):
            parts = name.split(".")
            candidates = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
            names |= {next((known for known in candidates if known in modules()), module)}
        found[module] = frozenset(names - {module})
    return found


def floor_of(module: str) -> int | None:
    """The number of a module's floor; the front of the core, which imports everything when asked, has none."""
    if module == "secondpass":
        return None
    names = [
        (name, number) for number, floor in enumerate(FLOORS) for name in floor if f"{module}.".startswith(f"{name}.")
    ]
    # a folder that is named by itself does not stand where the package around it does
    return max(names, key=lambda found: len(found[0]))[1]


# ---- 1. imports point one way


def test_no_arrow_points_up() -> None:
    """A floor knows the floors below it, never one above."""
    up = [
        f"{module} imports {other}"
        for module, others in arrows().items()
        for other in others
        if not other.startswith(f"{module}.")  # a front shows what is inside
        if None not in (floor_of(module), floor_of(other)) and floor_of(other) > floor_of(module)  # type: ignore[operator]
    ]
    assert up == []


def test_no_circle() -> None:
    """Not even one that only the type checker sees."""
    TopologicalSorter(arrows()).prepare()


@pytest.mark.parametrize("other", ["haystack", "haystack_integrations", "sentence_transformers"])
def test_the_core_imports_no_framework(other: str) -> None:
    """The engine serves any pipeline, so it depends on none."""
    users = [file.name for file in CORE.rglob("*.py") for name in imported(parsed(file)) if name.split(".")[0] == other]
    assert users == []


# ---- 2. a file is a noun that at least two others use, or a public name


def test_few_modules_have_one_user() -> None:
    """A module with one importer lives in it, unless its name is public."""
    users = Counter(other for others in arrows().values() for other in others)
    fronts = {module for module, file in modules().items() if file.name == "__init__.py"}
    lonely = sorted(module for module, number in users.items() if number == 1 and module not in fronts)
    assert len(lonely) <= MOST_WITH_ONE_USER, lonely


# ---- 3. sizes


@pytest.mark.parametrize("file", [*sources(), *(ROOT / "recipes").rglob("*.py")], ids=lambda file: file.stem)
def test_no_file_is_too_long_to_read(file: Path) -> None:
    """Five hundred lines at most."""
    assert lines(file) <= LONGEST_FILE


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines of a function without its documentation."""
    first = node.body[0]
    documented = ast.get_docstring(node) is not None
    return node.end_lineno - node.lineno + 1 - documented * (first.end_lineno - first.lineno + 1)  # type: ignore[operator]


def test_no_function_is_too_long_to_read() -> None:
    """Sixty lines at most, signature included, documentation not counted."""
    long = [
        f"{file.name}: {node.name} has {length(node)} lines"
        for file in sources()
        for node in ast.walk(parsed(file))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and length(node) > LONGEST_FUNCTION
    ]
    assert long == []


def test_the_house_as_a_whole() -> None:
    """Only a commit that says why raises these numbers."""
    assert len(sources()) <= MOST_FILES
    assert sum(map(lines, sources())) <= MOST_LINES
    assert statistics.median(map(lines, sources())) >= MEDIAN_FILE
    assert len(list((ROOT / "tests").rglob("test_*.py"))) <= MOST_TEST_FILES


def test_contributing_says_the_same() -> None:
    """The page that people read has the numbers and the floors of this file."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    rules = (
        f"at most {MOST_WITH_ONE_USER} modules have one user.",
        f"At most {LONGEST_FILE} lines a file, {LONGEST_FUNCTION} a function, "
        f"complexity {ruff['mccabe']['max-complexity']}; at most {MOST_FILES} files and {MOST_LINES:,} lines under",
        f"half of the files have {MEDIAN_FILE} lines or more; at most {MOST_TEST_FILES} test files.",
    )
    said = " ".join(page.split())
    assert [rule for rule in rules if rule not in said] == []
    table = page[page.index("| floor |") : page.index("`tests/test_house.py` checks")]
    rows = [tuple(re.findall(r"`([\w.]+)`", row)) for row in re.findall(r"^\| (`.+?) \|", table, re.M)]
    assert rows == [tuple(name.removeprefix("secondpass.") for name in floor) for floor in FLOORS]


# ---- 4. a name, a thing


def test_no_public_class_name_twice() -> None:
    """Who reads `Answer` knows which; Hayhooks wants one name for its two wrappers."""
    places = defaultdict(list)
    for file in modules().values():
        for node in parsed(file).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(file.relative_to(ROOT)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_no_file_name_three_times() -> None:
    """Fronts of packages aside, and what Hayhooks wants its wrappers to be called."""
    names = Counter(file.name for file in sources() if file.name not in ("__init__.py", "pipeline_wrapper.py"))
    assert {name: number for name, number in names.items() if number > 2} == {}


# ---- 6. what is documented is public


def documented() -> list[tuple[str, str, str]]:
    """(page, module, name) of every import of ours in the pages' Python blocks."""
    found = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
            for module, names in re.findall(r"^ *from (secondpass[\w.]*) import ([\w, ]+)$", block, re.M):
                found += [(page.name, module, name.split(" as ")[0].strip()) for name in names.split(",")]
    return found


@pytest.mark.parametrize(("page", "module", "name"), documented())
def test_documented_names_are_public(page: str, module: str, name: str) -> None:
    """They stand in the `__all__` of the module that the page imports them from."""
    tree = parsed(modules()[module])
    (listed,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
    )
    assert name in listed, page


def test_public_names_are_sorted_and_there() -> None:
    """`from secondpass import *` gives what the documentation lists."""
    assert secondpass.__all__ == sorted(secondpass.__all__)
    assert all(getattr(secondpass, name).__module__.startswith("secondpass.") for name in secondpass.__all__)


# ---- 7. one distribution


def project() -> dict[str, object]:
    """The `[project]` of pyproject.toml."""
    made: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return made


def test_no_entry_points_of_our_own() -> None:
    """What is inside one distribution is imported, not looked up."""
    assert "entry-points" not in project()


def test_the_version_stands_in_one_place() -> None:
    """The distribution reads it from the package; how to cite says it again, because that is read without a build."""
    assert "version" in project()["dynamic"]  # type: ignore[operator]
    said = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert secondpass.__version__ == said["version"]
    assert said["license"] == project()["license"]


def test_what_is_too_old_for_the_extra_is_too_old_for_us() -> None:
    """Torch and transformers of before are as good as none."""
    for text in project()["optional-dependencies"]["torch"]:  # type: ignore[index]
        need = Requirement(text)
        assert [one.version for one in need.specifier if one.operator == ">="] == [OLDEST[need.name]]


RELEASED = (
    "# Changelog\n\n## Unreleased\n\n## 1.2.0 - 2026-12-01\n\n### Added\n- A thing.\n\n## 1.1.0 - 2026-11-01\n- One.\n"
)


@pytest.mark.parametrize(
    ("changelog", "cited", "goes"),
    [
        (RELEASED, "1.2.0", True),
        (RELEASED.replace("## Unreleased\n\n", ""), "1.2.0", True),
        (RELEASED.replace("- 2026-12-01", "(unreleased)"), "1.2.0", False),
        (RELEASED.replace("## 1.2.0", "## 1.2.01"), "1.2.0", False),
        (RELEASED.replace("## Unreleased\n", "## Unreleased\n\n- A late one.\n"), "1.2.0", False),
        (RELEASED, "1.1.0", False),
    ],
    ids=["released", "one section less", "called unreleased", "another version", "something waits", "cited otherwise"],
)
def test_a_release_is_told_as_one(changelog: str, cited: str, goes: bool, tmp_path: Path) -> None:
    """The tag's version has a section, nothing waits for a later one, and CITATION.cff has the same version."""
    flow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8"))
    (script,) = [step["run"] for step in flow["jobs"]["build"]["steps"] if "CHANGELOG.md" in step.get("run", "")]
    (tmp_path / "CHANGELOG.md").write_text(changelog, encoding="utf-8")
    (tmp_path / "CITATION.cff").write_text(f"cff-version: 1.2.0\nversion: {cited}\n", encoding="utf-8")
    environment = os.environ | {"GITHUB_REF_NAME": "v1.2.0"}
    command = ["bash", "-e", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == goes, done.stdout + done.stderr


@pytest.mark.parametrize(
    "folder",
    [
        "",
        "common",
        "components",
        "components/converters",
        "components/evaluators",
        "components/preprocessors",
        "components/rankers",
        "components/readers",
        "components/trainers",
    ],
    ids=lambda folder: folder or "top",
)
def test_shared_namespaces_have_no_init_file(folder: str) -> None:
    """Other distributions put their own packages beside ours."""
    namespace = HAYSTACK / "haystack_integrations" / folder
    assert namespace.is_dir()
    assert not (namespace / "__init__.py").exists()


def test_every_package_is_typed() -> None:
    """It has a py.typed, or one of the folders above it has, by which a type checker believes what stands there."""
    for root in (CORE, HAYSTACK, SERVERS):
        for front in root.rglob("__init__.py"):
            above = [folder for folder in front.parents if folder != root and folder.is_relative_to(root)]
            assert any((folder / "py.typed").is_file() for folder in above), front


# ---- what runs, and what a start costs

FORBIDDEN_MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
# Where processes of ours hand each other what computes, in memory without a name: no file is read.
BETWEEN_OURSELVES = {"workers.py": {"pickle"}}
FORBIDDEN_CALLS = {
    ("torch", "load"),
    ("torch", "save"),
    ("np", "load"),
    ("numpy", "load"),
    ("yaml", "load"),
    ("os", "system"),
}


@pytest.mark.parametrize("file", sources(), ids=lambda file: file.stem)
def test_nothing_can_run_code_from_a_file(file: Path) -> None:
    """No pickle in any form, no eval, no exec."""
    tree = parsed(file)
    forbidden = FORBIDDEN_MODULES - BETWEEN_OURSELVES.get(file.name, set())
    assert {name.split(".")[0] for name in imported(tree)}.isdisjoint(forbidden)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in FORBIDDEN_CALLS, f"{file.name}:{node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"eval", "exec", "compile"}, f"{file.name}:{node.lineno}"


FRESH = """
import sys
import secondpass
secondpass.CrossEncoder(sys.argv[1], device="cpu").rank("cat", ["mat", "dog"])
print(*{name.split(".")[0] for name in sys.modules} & {"haystack", "haystack_integrations", "sentence_transformers"})
"""


def test_importing_and_using_the_engine_brings_no_framework(tiny_folder: str) -> None:
    """A fresh interpreter that ranks has neither haystack nor sentence-transformers, though both are installed."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", FRESH, tiny_folder]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


# ---- 8. what needs no torch imports none: not at its top, and not on the way to a score

# Everything that computes with torch or reads and writes its models; all else does so when somebody asks for it.
WITH_TORCH = (
    "haystack_integrations.components.trainers",
    "secondpass.fit",
    "secondpass.forwards.attention",
    "secondpass.forwards.causal",
    "secondpass.forwards.families.decoder",
    "secondpass.forwards.learning",
    "secondpass.forwards.module",
    "secondpass.forwards.packed",
    "secondpass.forwards.padded",
    "secondpass.forwards.readout",
    "secondpass.models.building",
    "secondpass.models.chains",
    "secondpass.models.saving",
    "secondpass.training.checkpoints.checkpoints",
    "secondpass.training.checkpoints.state",
    "secondpass.training.configured",
    "secondpass.training.distillation.vocabulary",
    "secondpass.training.losses",
    "secondpass.training.running.loop",
    "secondpass.training.running.lora",
    "secondpass.training.running.plan",
    "secondpass.training.running.run_watch",
    "secondpass.training.trainer",
    "secondpass.training.weights.layers",
    "secondpass.training.weights.optimisation",
)
TORCH = {"torch", "transformers"}


def at_the_top(nodes: Sequence[ast.stmt]) -> Iterator[str]:
    """The dotted name of everything that is imported with a module, type checking aside."""
    for node in nodes:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from imported(ast.Module([node], []))
        elif not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)):
            for inner in ("body", "orelse", "finalbody"):
                if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    yield from at_the_top(getattr(node, inner, []))


def way_to_torch(module: str) -> list[str]:
    """The modules of ours through which the import of one comes to torch, the last of which names it; [] if none."""
    came: dict[str, str] = {module: ""}
    left = [module]
    for one in left:
        names = set(at_the_top(parsed(modules()[one]).body))
        if any(name.split(".")[0] in TORCH for name in names):
            way = [one]
            while came[way[-1]]:
                way.append(came[way[-1]])
            return way[::-1]
        for name in names | {one}:
            parts = name.split(".")
            for known in (".".join(parts[:end]) for end in range(1, len(parts) + 1)):
                if known in modules() and known not in came:
                    came[known] = one
                    left.append(known)
    return []


def without_torch() -> list[str]:
    """Modules that are not said to need it."""
    return [name for name in modules() if not f"{name}.".startswith(tuple(f"{part}." for part in WITH_TORCH))]


@pytest.mark.parametrize("module", without_torch())
def test_importing_needs_no_torch(module: str) -> None:
    """Nor transformers: they take seconds, and are not there without an extra."""
    assert way_to_torch(module) == []


@pytest.mark.parametrize("part", WITH_TORCH)
def test_what_is_said_to_need_torch_needs_it(part: str) -> None:
    """A module that needs it no more leaves the list."""
    assert any(way_to_torch(module) for module in modules() if f"{module}.".startswith(f"{part}."))


# Components of frameworks that an extra brings and that take long to import.
NEIGHBOURS = ("secondpass.langchain", "secondpass.llama_index")
SCORING = r"""
import sys
from importlib import import_module
for name in sys.argv[1:]:
    import_module(name)
import asyncio, httpx
from typer.testing import CliRunner
from secondpass import CrossEncoder
from secondpass.cli import app
from secondpass.explanation import explain
from secondpass.extraction import extract
from secondpass.merging import SharedReranker
from secondpass.serving import create_app

encoder, texts = CrossEncoder("secondpass/pocket"), ["Reset a password.", "A dog."]
wanted = encoder.predict([("new password", text) for text in texts]).tolist()
assert encoder.rank("new password", texts)[0]["score"] == wanted[0]
assert encoder.rank_many(["new password"], [texts])[0].documents[0].score == wanted[0]
assert extract(encoder, "new password", texts).extracts[0].score == wanted[0]
assert explain(encoder, "new password", texts[0]).score == wanted[0]
with SharedReranker(encoder) as queue:
    assert len(queue.submit("new password", texts).result(60).logits) == 2
told = CliRunner().invoke(app, ["rank", "new password", "--format", "jsonl"], input="\n".join(texts))
assert told.exit_code == 0 and str(wanted[0])[:6] in told.stdout, told.output

async def asked():
    made = create_app(models={"one": encoder})
    transport = httpx.ASGITransport(made)
    client = httpx.AsyncClient(transport=transport, base_url="http://x", trust_env=False)
    async with made.router.lifespan_context(made), client:
        answers = [await client.get("/info"), await client.get("/metrics")]
        body = {"query": "new password", "documents": texts}
        return [*answers, await client.post("/v1/rerank", json=body)]

assert [answer.status_code for answer in asyncio.run(asked())] == [200, 200, 200]
print(*{name.split(".")[0] for name in sys.modules} & {"torch", "transformers", "scipy", "sklearn", "haystack"})
"""


def test_a_score_needs_no_torch() -> None:
    """In Python, the queue, the service and on the command line; though it is installed, nothing imports it."""
    ours = (name for name in without_torch() if name.startswith(("secondpass.", "secondpass_servers.")))
    names = [name for name in ours if not name.endswith("__main__") and name not in NEIGHBOURS]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", SCORING, *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
