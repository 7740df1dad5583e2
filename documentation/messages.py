"""The index of error messages, read from the source: each class, each message it is raised with, and where.

What a message puts in is shown as <its name>, "…" where that is a longer expression.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from documentation import repository
from documentation.public import modules, parsed

TREE = "SecondPassError"
# Where to read on, by the longest beginning of a module's name that is here.
TOPICS = {
    "secondpass": "start.md",
    "secondpass.activations": "models.md",
    "secondpass.biencoder": "training.md",
    "secondpass.calibration": "probabilities.md",
    "secondpass.cascade": "cascades.md",
    "secondpass.cli": "commands/index.md",
    "secondpass.corpora": "evaluation.md",
    "secondpass.cross_encoder": "compatibility.md",
    "secondpass.evaluation": "evaluation.md",
    "secondpass.evaluation.clicks": "labels.md",
    "secondpass.evaluation.judge": "labels.md",
    "secondpass.explanation": "explanations.md",
    "secondpass.extraction": "rag.md",
    "secondpass.fit": "training.md",
    "secondpass.forwards": "models.md",
    "secondpass.forwards.kernel": "kernel.md",
    "secondpass.fusion": "tuning.md",
    "secondpass.inputs": "templates.md",
    "secondpass.langchain": "neighbours.md",
    "secondpass.llama_index": "neighbours.md",
    "secondpass.merging": "service.md",
    "secondpass.models": "models.md",
    "secondpass.models.templates": "templates.md",
    "secondpass.postprocessing": "neighbours.md",
    "secondpass.ray": "ray.md",
    "secondpass.candidates": "ray.md",
    "secondpass.rescoring": "ray.md",
    "secondpass.reranker": "compatibility.md",
    "secondpass.score_cache": "score-cache.md",
    "secondpass.serving": "service.md",
    "secondpass.stopping": "cascades.md",
    "secondpass.text": "compatibility.md",
    "secondpass.tracing": "observability.md",
    "secondpass.training": "training.md",
    "secondpass.tuning": "tuning.md",
    "secondpass.windows": "long-documents.md",
    "secondpass_pipelines": "repository/pipelines/README.md",
    "secondpass_servers": "repository/integrations/servers/README.md",
    "secondpass_servers.elasticsearch": "elasticsearch.md",
    "secondpass_servers.opensearch": "opensearch.md",
    "haystack_integrations": "repository/integrations/haystack/README.md",
}
# A page of messages for each of these parts of the source: (its file, its title, beginnings of modules).
AREAS = (
    ("ranking", "Texts, models and ranking", ("secondpass",)),
    ("evaluation", "Evaluation and labels", ("secondpass.evaluation",)),
    (
        "training",
        "Training and tuning",
        ("secondpass.training", "secondpass.fit", "secondpass.tuning", "secondpass.fusion"),
    ),
    ("commands", "The command line", ("secondpass.cli",)),
    ("service", "The service", ("secondpass.serving",)),
    ("files", "Rescoring files, Ray", ("secondpass.rescoring", "secondpass.candidates", "secondpass.ray")),
    ("haystack", "Haystack", ("haystack_integrations", "secondpass_pipelines")),
    ("servers", "Elasticsearch and OpenSearch", ("secondpass_servers",)),
)


@dataclass(frozen=True)
class ErrorClass:
    """A class below `SecondPassError`, with what its documentation says."""

    name: str
    module: str
    bases: tuple[str, ...]
    documentation: str


@dataclass(frozen=True)
class Message:
    """What an error is raised with, and the function that raises it."""

    error: str
    text: str
    module: str
    function: str


@cache
def error_classes() -> dict[str, ErrorClass]:
    """The tree by name, in the order of the source."""
    found: dict[str, ErrorClass] = {}
    places = [(module, node) for module in modules() for node in parsed(module).body if isinstance(node, ast.ClassDef)]
    before = -1
    while before < len(found):
        before = len(found)
        for module, node in places:
            bases = tuple(ast.unparse(base) for base in node.bases)
            if node.name not in found and (node.name == TREE or any(base in found for base in bases)):
                found[node.name] = ErrorClass(node.name, module, bases, ast.get_docstring(node) or "")
    return found


@cache
def _helpers() -> dict[str, str]:
    """Functions that make an error, by name: `raise line.refuse(why)` is an `InvalidInput`."""
    found = {}
    for module in modules():
        for node in ast.walk(parsed(module)):
            if isinstance(node, ast.FunctionDef) and node.returns is not None:
                made = ast.unparse(node.returns).strip("'\"")
                if made in error_classes():
                    found[node.name] = made
    return found


@cache
def messages() -> tuple[Message, ...]:
    """Every message that stands in the source, in its order."""
    return tuple(message for module in modules() for message in _in_body(module, parsed(module), ""))


def _in_body(module: str, node: ast.AST, function: str) -> Iterator[Message]:
    for inner in ast.iter_child_nodes(node):
        name = function
        if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            name = f"{function}.{inner.name}".lstrip(".")
        if isinstance(inner, ast.Call):
            yield from _of_call(module, inner, function)
        yield from _in_body(module, inner, name)


def _of_call(module: str, call: ast.Call, function: str) -> Iterator[Message]:
    called = str(getattr(call.func, "attr", getattr(call.func, "id", "")))
    error = called if called in error_classes() else _helpers().get(called)
    if error and call.args:
        for text in _texts(call.args[0]):
            if len(re.sub(r"<.*?>|[^\w]", "", text)) > 3:
                yield Message(error, text, module, function)


def _texts(node: ast.expr) -> list[str]:
    """What a string expression may say; nothing where it is only another's words."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        return ["".join(_piece(value) for value in node.values)]
    if isinstance(node, ast.IfExp):
        return [*_texts(node.body), *_texts(node.orelse)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [f"{left}{right}" for left in _texts(node.left) for right in _texts(node.right)]
    return []


def _piece(value: ast.expr) -> str:
    if isinstance(value, ast.Constant):
        return str(value.value)
    inner = value.value if isinstance(value, ast.FormattedValue) else value
    while isinstance(inner, ast.Call) and len(inner.args) == 1 and not inner.keywords:
        inner = inner.args[0]
    name = inner.attr if isinstance(inner, ast.Attribute) else getattr(inner, "id", "…")
    return f"<{name.strip('_')}>" if name != "…" else "…"


def area_of(module: str) -> str:
    """The page of messages on which a module's stand."""
    fitting = [
        (len(start), file) for file, _, starts in AREAS for start in starts if f"{module}.".startswith(f"{start}.")
    ]
    return max(fitting)[1]


def topic_of(module: str) -> str:
    """The page of the site that says more about what a module does."""
    return TOPICS[max((start for start in TOPICS if f"{module}.".startswith(f"{start}.")), key=len)]


def pages() -> dict[str, str]:
    """Markdown by page."""
    made = {"errors/index.md": _overview()}
    for file, title, _ in AREAS:
        made[f"errors/{file}.md"] = _area(file, title)
    return made


def navigation() -> list[object]:
    """What stands below "Errors"."""
    return ["errors/index.md", *({title: f"errors/{file}.md"} for file, title, _ in AREAS)]


def _overview() -> str:
    counts: dict[str, int] = defaultdict(int)
    for message in messages():
        counts[message.error] += 1
    parts = [
        "# Errors\n",
        "What secondpass raises on purpose is one tree under `SecondPassError`, and each class is of a kind of\n"
        "Python's own as well. Commands print one line of it, and end with 2 where the input was refused and with 1\n"
        "where a run failed; the [service](../service.md#errors) answers with a status.\n",
        f"Look for a message with the search above (`/`), or in the pages of its part: {len(messages()):,} of them.\n",
        *(f"- [{title}]({file}.md)" for file, title, _ in AREAS),
        "\n## Classes\n",
    ]
    for error in error_classes().values():
        if not error.name.startswith("_"):
            parts.append(f"### {error.name}\n")
            parts.append(
                f"`from {error.module} import {error.name}`: {_kinds(error)}, {counts[error.name]} messages.\n"
            )
            parts.append(f"{error.documentation}\n")
    return "\n".join(parts) + "\n"


def _kinds(error: ErrorClass) -> str:
    shown: list[str] = []
    for base in error.bases:
        known = error_classes().get(base)
        shown += known.bases if known and base.startswith("_") else [base]
    return "a " + ", a ".join(
        f"[`{base}`](#{base.lower()})" if base in error_classes() else f"`{base}`" for base in dict.fromkeys(shown)
    )


def _area(file: str, title: str) -> str:
    parts = [f"# {title}: messages\n", "`<Words in these marks>` stand for what a message says of your input.\n"]
    by_topic: dict[str, list[Message]] = defaultdict(list)
    for message in messages():
        if area_of(message.module) == file:
            by_topic[message.module].append(message)
    for module, found in by_topic.items():
        parts += [f"## {module}\n", f"Read on: [{_topic_title(topic_of(module))}](../{topic_of(module)}).\n"]
        parts += ["| message | error | raised by |", "|---|---|---|"]
        for one in dict.fromkeys(found):
            parts.append(f"| {_cell(one.text)} | [{one.error}](index.md#{one.error.lower()}) | `{one.function}` |")
        parts.append("")
    return "\n".join(parts) + "\n"


def _topic_title(page: str) -> str:
    path = repository.sources().get(page, f"{repository.DOCS}{page}")
    return repository.title(path) or page.split("/", maxsplit=1)[0].capitalize()


def _cell(text: str) -> str:
    """A message as code in a table."""
    shown = " ".join(text.split())
    return f"`` {shown} ``" if "`" in shown else f"`{shown}`"
