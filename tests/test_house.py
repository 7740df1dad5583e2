"""Rules of the house that no linter knows: which way imports point, how long things are, what is never used."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import secondpass

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
INTEGRATION = ROOT / "integrations" / "haystack" / "src"
INTEGRATIONS = ROOT / "integrations"
PACKAGE = SOURCE / "secondpass"

# Every module may import the ones before it, and no other of ours. A new module gets its place here.
ORDER = (
    # words everybody uses
    "errors",
    "limits",
    "lazy",
    "record",
    "model_card",
    "training.examples",
    "renamed",
    "persistence.quiet",
    "text",
    # files of texts, judgements and runs
    "lines",
    "journal",
    "corpora",
    "queries",
    "evaluation.columns",
    "evaluation.qrels",
    "evaluation.runs",
    "evaluation.judged_queries",
    "evaluation.reports",
    # runs to figures: no torch
    "evaluation.libraries",
    "evaluation.measures",
    "evaluation.findings",
    "evaluation.intervals",
    "evaluation.significance",
    "evaluation.second_pass",
    "evaluation.ties",
    "evaluation.changes",
    "evaluation.depths",
    "evaluation.scores",
    "evaluation.calibration",
    "evaluation.analysis",
    "evaluation.dataset_runs",
    # figures to pages
    "evaluation.reporting",
    "evaluation.reporting.wording",
    "evaluation.reporting.sentences",
    "evaluation.reporting.tables",
    "evaluation.reporting.svg",
    "evaluation.reporting.plots",
    "evaluation.reporting.files",
    "evaluation.reporting.plain",
    "evaluation.reporting.terminal",
    "evaluation.reporting.page",
    # texts to a ranking, a stage each
    "inputs",
    "token_cache",
    "cuts",
    "templates",
    "tokens",
    "precision",
    "batches",
    "scoring",
    "padded",
    # logits without padding
    "packed",
    "packed.encoder",
    "packed.plain",
    "packed.parts",
    "packed.layout",
    "packed.heads",
    "packed.views",
    "packed.flash",
    "packed.rectangles",
    "packed.relative",
    "packed.attention",
    "packed.computing",
    "packed.families.family",
    "packed.families.bert",
    "packed.families.deberta",
    "packed.families.modernbert",
    "packed.families",
    "kernel.native",
    "kernel.weights",
    "kernel.forward",
    "kernel",
    "forwards",
    # the stages joined
    "engine",
    "activations",
    "outputs",
    "relevance",
    "ranking",
    # folders to models and back
    "persistence",
    "persistence.model_config",
    "persistence.storage",
    "persistence.sources",
    "persistence.fast_tokenizer",
    "persistence.weights",
    "persistence.compact",
    "persistence.loading",
    "persistence.saving",
    "devices",
    # labelled pairs to a score of a model
    "evaluation.pairs",
    "evaluation.pairs.results_file",
    "evaluation.pairs.labelled_pairs",
    "evaluation.pairs.predictions",
    "evaluation.pairs.evaluator",
    "evaluation.pairs.best_threshold",
    "evaluation.pairs.expected_rank",
    "evaluation.pairs.reranking_samples",
    "evaluation.pairs.binary_accuracy",
    "evaluation.pairs.binary_classification",
    "evaluation.pairs.correlation",
    "evaluation.pairs.f1",
    "evaluation.pairs.softmax_accuracy",
    "evaluation.pairs.reranking",
    "evaluation",
    # what users hold
    "reranker",
    # callers of one model to shared batches
    "merging.calls",
    "merging.queue",
    "merging.turns",
    "merging.rounds",
    "merging.scoring_thread",
    "merging.shared",
    "merging",
    # what answers in a document's words, and what a prompt has room for
    "sentences",
    "extraction",
    "prompt_budget",
    # labelled queries to weights
    "training.settings",
    "training.losses",
    "training.losses.contract",
    "training.data",
    "training.data.groups",
    "training.data.counts",
    "training.data.rules",
    "training.data.columns",
    "training.data.rows",
    "training.data.streams",
    "training.data.checking",
    "training.data.fingerprints",
    "training.data.iterables",
    "training.data.judged",
    "training.data.tables",
    "training.data.sources",
    "training.losses.masks",
    "training.losses.options",
    "training.losses.contrastive",
    "training.losses.listwise",
    "training.losses.pairwise",
    "training.losses.pointwise",
    "training.losses.named",
    "training.negatives",
    "training.negatives.pooling",
    "training.negatives.biencoder",
    "training.negatives.bm25",
    "training.negatives.nearest",
    "training.negatives.candidates",
    "training.negatives.mined",
    "training.negatives.rule",
    "training.negatives.sifting",
    "training.negatives.rescoring",
    "training.negatives.mining",
    "training.negatives.writing",
    "training.distillation",
    "training.distillation.merges",
    "training.distillation.kept_pieces",
    "training.distillation.layers",
    "training.distillation.smaller_tokenizer",
    "training.distillation.teachers",
    "training.survival",
    "training.survival.files",
    "training.survival.manifests",
    "training.survival.tensor_files",
    "training.survival.checkpoints",
    "training.survival.nested_state",
    "training.survival.optimizer_state",
    "training.survival.random_state",
    "training.survival.run_lock",
    "training.weights",
    "training.weights.averages",
    "training.weights.best_weights",
    "training.weights.layers",
    "training.weights.lora",
    "training.weights.optimisation",
    "training.weights.parameter_groups",
    "training.weights.schedules",
    "training.cpu",
    "training.cpu.masks",
    "training.cpu.attention",
    "training.cpu.packed",
    "training.cpu.dropout",
    "training.cpu.forward",
    "training.cpu.memory",
    "training.running",
    "training.measuring.dev_ranking",
    "training.running.loop",
    "training.running.processes",
    "training.running.steps",
    "training.running.group_learner",
    "training.running.preparation",
    "training.running.model_state",
    "training.running.plan",
    "training.running.checkpointing",
    "training.running.claim",
    "training.running.fresh_start",
    "training.running.step_log",
    "training.running.run_watch",
    "training.running.tensorboard_log",
    "training.measuring",
    "training.measuring.before_after",
    "training.trainer",
    "training.measuring.card",
    "training.measuring.held_out",
    "training.fitting",
    "training.fitting.labelled",
    "training.fitting.objective",
    "training.fitting.fit",
    "training.configuration",
    "training.configuration.training_config",
    "training.configuration.yaml_document",
    "training.configuration.typed",
    "training.configuration.reading",
    "cross_encoder",
    "training.distillation.vocabulary",
    "training.configured",
    "training",
    # requests to answers over HTTP
    "serving.libraries",
    "serving.api_keys",
    "serving.settings",
    "serving.numbers",
    "serving.problems",
    "serving.json_bodies",
    "serving.reading",
    "serving.shapes",
    "serving.shapes.parts",
    "serving.shapes.documents",
    "serving.shapes.texts",
    "serving.shapes.passages",
    "serving.shapes.pairs",
    "serving.models",
    "serving.checking",
    "serving.answering",
    "serving.admission",
    "serving.metrics",
    "serving.request_log",
    "serving.service",
    "serving.guarded_route",
    "serving.endpoints",
    "serving.application",
    "serving",
    "serving.server",
    # the command line
    "cli.choices",
    "cli.failures",
    "cli.printing",
    "cli.reading",
    "cli.rank",
    "cli.score",
    "cli.evaluate",
    "cli.mine",
    "cli.train",
    "cli.serve",
    "cli.program",
    "cli",
    "cli.__main__",
    "",
)
LONGEST_FILE = 300
LONGEST_FUNCTION = 60


def sources(*folders: Path) -> list[Path]:
    """List the Python files under folders."""
    return sorted(file for folder in folders for file in folder.rglob("*.py"))


def parsed(file: Path) -> ast.Module:
    """Read a file as a syntax tree."""
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def module_name(file: Path) -> str:
    """Give the module's dotted name inside secondpass; the package itself is ""."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imported(tree: ast.Module) -> Iterator[str]:
    """Give the dotted name of everything a file imports, at the top, in a function or for type checking."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_modules(tree: ast.Module) -> set[str]:
    """Reduce what a file imports to our modules' names."""
    found = set()
    for name in imported(tree):
        if name.split(".")[0] == "secondpass":
            inside = name.removeprefix("secondpass").lstrip(".")
            known = [module for module in ORDER if inside == module or inside.startswith(f"{module}.")]
            found.add(max(known, key=len, default=""))
    return found


@pytest.mark.parametrize("file", sources(PACKAGE), ids=module_name)
def test_imports_point_one_way(file: Path) -> None:
    """A stage knows the stages before it, never one behind it."""
    module = module_name(file)
    assert module in ORDER, f"give {module} its place in ORDER"
    behind = own_modules(parsed(file)) - set(ORDER[: ORDER.index(module)]) - {module}
    assert behind == set()


def test_the_order_names_modules_that_exist_once() -> None:
    """No leftovers."""
    assert sorted(ORDER) == sorted(module_name(file) for file in sources(PACKAGE))


@pytest.mark.parametrize("other", ["haystack", "haystack_integrations", "sentence_transformers"])
def test_the_core_imports_no_framework(other: str) -> None:
    """The engine serves any pipeline, so it depends on none."""
    users = [file.name for file in sources(SOURCE) for name in imported(parsed(file)) if name.split(".")[0] == other]
    assert users == []


@pytest.mark.parametrize("file", sources(SOURCE, INTEGRATIONS, ROOT / "recipes"), ids=lambda file: file.stem)
def test_no_file_is_too_long_to_read(file: Path) -> None:
    """Three hundred lines at most."""
    assert len(file.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function without its documentation."""
    first = node.body[0]
    documented = ast.get_docstring(node) is not None
    return node.end_lineno - node.lineno + 1 - documented * (first.end_lineno - first.lineno + 1)  # type: ignore[operator]


def test_no_function_is_too_long_to_read() -> None:
    """Sixty lines at most, signature included, documentation not counted."""
    long = [
        f"{file.name}: {node.name} has {length(node)} lines"
        for file in sources(SOURCE, INTEGRATIONS)
        for node in ast.walk(parsed(file))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and length(node) > LONGEST_FUNCTION
    ]
    assert long == []


FORBIDDEN_MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
FORBIDDEN_CALLS = {
    ("torch", "load"),
    ("torch", "save"),
    ("np", "load"),
    ("numpy", "load"),
    ("yaml", "load"),
    ("os", "system"),
}


@pytest.mark.parametrize("file", sources(SOURCE, INTEGRATIONS), ids=lambda file: file.stem)
def test_nothing_can_run_code_from_a_file(file: Path) -> None:
    """No pickle in any form, no eval, no exec."""
    tree = parsed(file)
    assert {name.split(".")[0] for name in imported(tree)}.isdisjoint(FORBIDDEN_MODULES)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in FORBIDDEN_CALLS, f"{file.name}:{node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"eval", "exec", "compile"}, f"{file.name}:{node.lineno}"


def test_public_names_are_sorted_and_there() -> None:
    """`from secondpass import *` gives what the documentation lists."""
    assert secondpass.__all__ == sorted(secondpass.__all__)
    assert all(getattr(secondpass, name).__module__.startswith("secondpass.") for name in secondpass.__all__)


def test_the_version_is_that_of_the_distribution() -> None:
    """Said twice, so checked once."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert secondpass.__version__ == project["version"]


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
    namespace = INTEGRATION / "haystack_integrations" / folder
    assert namespace.is_dir()
    assert not (namespace / "__init__.py").exists()


PACKAGES = {
    module for module in ORDER if (PACKAGE / Path(*module.split(".")) / "__init__.py").is_file() and module != "cli"
}
VALUES = {"errors", "record", "packed.heads", "evaluation.reports", "evaluation.findings", "evaluation.dataset_runs"}


def test_every_module_has_its_test_file() -> None:
    """Under tests, in the folder of its package (core for the stages), by its name; mere values need none."""
    modules = {module for module in ORDER if not module.startswith("cli")} - VALUES - PACKAGES
    places = {module: module if "." in module else f"core.{module}" for module in modules}
    files = {module: ROOT / "tests" / Path(*place.split(".")[:-1]) for module, place in places.items()}
    assert [m for m, folder in files.items() if not (folder / f"test_{m.split('.')[-1]}.py").is_file()] == []


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


LIGHT = (
    "secondpass.cli",
    "secondpass.cli.serve",
    "secondpass.serving",
    "secondpass.evaluation.analysis",
    "secondpass.evaluation.reporting.page",
    "secondpass.training",
    "secondpass.training.data.sources",
    "secondpass.training.negatives.mining",
)


@pytest.mark.parametrize("module", LIGHT)
def test_help_and_evaluation_load_no_torch(module: str) -> None:
    """Whoever asks for help, or measures runs, does not wait for torch: it is imported when a model is loaded."""
    program = f"import sys, {module}; print('torch' in sys.modules or 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=90, check=True)
    assert done.stdout.split() == ["False"]
