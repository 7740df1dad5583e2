"""The card of a trained model: README.md with data, recipe, measured figures and the command that repeats it.

Front matter as the Hugging Face hub reads it; a figure stands there only if it was measured, with its interval.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from secondpass.evaluation.comparison import Analysis
from secondpass.evaluation.reporting.files import opened
from secondpass.evaluation.reporting.tables import Table, differences, means
from secondpass.evaluation.reporting.wording import number
from secondpass.models.card import ASIDE, TRAINED
from secondpass.models.card import README as CARD
from secondpass.training.settings import TrainingSettings

if TYPE_CHECKING:
    from secondpass.training.measuring.before_after import BeforeAfter
    from secondpass.training.trainer import TrainingReport

TAGS = ("cross-encoder", "reranker", "secondpass")
READERS = ("secondpass", "sentence_transformers")
ADAPTER = "adapter"
LIBRARIES = ("secondpass", "torch", "transformers", "tokenizers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What the card tells.

    Attributes:
        name: of the model.
        base_model: a name on the hub, or a folder, of which only the last part is shown.
        num_labels: of the head.
        settings: all of them are listed.
        sources: of the training data, in words.
        counts: lines of `data.counts.Counts.lines`.
        fingerprint: of the training groups.
        report: of the run.
        measured: held-out sets with their runs.
        command: that repeats the run.
        revision: of the base model.
        notes: what limits the figures.
        configuration: the whole configuration as YAML; "" leaves it out.
        language: code of the texts' language, if it is known.
        license: of the model, if it is known.
    """

    name: str
    base_model: str
    num_labels: int
    settings: TrainingSettings
    sources: Sequence[str]
    counts: Sequence[str]
    fingerprint: str
    report: TrainingReport
    measured: Sequence[BeforeAfter]
    command: str
    revision: str | None = None
    notes: Sequence[str] = ()
    configuration: str = ""
    language: str | None = None
    license: str | None = None


def write_card(folder: Path, card: Card) -> Path:
    """Write the card into a model's folder and return its file.

    It replaces a card that was written so before. A README.md of another origin is left alone: the card is then
    MODEL_CARD.md.

    Raises:
        InvalidInput: there is no such folder, or it cannot be written to.
        MissingExtra: ir_measures, scipy or scikit-learn is not installed, and something was measured.
    """
    text = card_text(card)
    path = folder / CARD
    if path.exists() and TRAINED not in path.read_text(encoding="utf-8", errors="replace"):
        path = folder / ASIDE
    with opened(path) as stream:
        stream.write(text)
    return path


def card_text(card: Card) -> str:
    """The card as Markdown with front matter."""
    parts = (
        f"---\n{yaml.safe_dump(_front(card), sort_keys=False, allow_unicode=True)}---",
        TRAINED,
        f"# {_text(card.name)}",
        _introduction(card),
        *([f"**{card.report.unchanged}.**"] if card.report.unchanged else []),
        _usage(card),
        *_figures(card),
        *_data(card),
        *_recipe(card),
    )
    return "\n\n".join(parts) + "\n"


def _front(card: Card) -> dict[str, object]:
    library = "peft" if _is_adapter(card) else "sentence-transformers"
    front: dict[str, object] = {"library_name": library, "tags": list(TAGS)}
    if card.num_labels == 1:
        front["pipeline_tag"] = "text-ranking"
    if not _is_folder(card.base_model):
        front["base_model"] = card.base_model
    told = {"language": card.language, "license": card.license}
    return front | {name: value for name, value in told.items() if value is not None}


def _is_folder(name: str) -> bool:
    return Path(name).is_absolute() or Path(name).is_dir()


def _base_name(card: Card) -> str:
    return Path(card.base_model).name if _is_folder(card.base_model) else card.base_model


def _introduction(card: Card) -> str:
    report = card.report
    read = f"{report.pairs:,} pairs, {report.tokens:,} tokens"
    trained = f"{report.steps:,} steps ({read}) in {_duration(report.seconds)}"
    base = f"`{_code(_base_name(card))}`" + (f" at revision `{_code(card.revision)}`" if card.revision else "")
    what = "a score" if card.num_labels == 1 else f"{card.num_labels} scores"
    return (
        f"A cross-encoder: it reads a query and a document together and gives {what}. Made from {base} by "
        f"[secondpass](https://pypi.org/project/secondpass/) in {trained}."
    )


def _usage(card: Card) -> str:
    name = json.dumps(card.name, ensure_ascii=False)
    asked = 'print(encoder.rank("a query", ["a document", "another document"]))'
    if card.num_labels != 1:
        asked = 'print(encoder.predict([("a query", "a document")]))'
    load = f"encoder = CrossEncoder({name})  # this folder, or its name on the hub"
    if _is_adapter(card):
        base = json.dumps(_base_name(card), ensure_ascii=False)
        lines = (
            "from secondpass import CrossEncoder",
            "from secondpass.training import load_lora",
            "",
            f"encoder = CrossEncoder({base})",
            f"load_lora(encoder.model, {json.dumps(f'{card.name}/{ADAPTER}', ensure_ascii=False)}).merge()",
            asked,
        )
        return f"## Usage\n\n{_python(lines)}\n\nThe folder has low-rank additions to that model, not a whole one."
    both = [_python((f"from {library} import CrossEncoder", "", load, asked)) for library in READERS]
    return "\n\n".join(["## Usage", *both])


def _python(lines: Iterable[str]) -> str:
    return "\n".join(["```python", *lines, "```"])


def _is_adapter(card: Card) -> bool:
    return card.settings.lora is not None and not card.settings.lora.merge


def _figures(card: Card) -> Iterable[str]:
    if not card.measured:
        yield "## Figures\n\nNothing was measured: there was neither a dev set nor a test set."
        return
    yield "## Figures"
    for held in card.measured:
        analysis, gain = held.analysis(), held.gain()
        order = "re-ranked are the first pass's documents" if held.first else "ranked are the judged documents"
        yield f"### {_text(held.name)}\n\n{len(held.queries):,} queries; {order}."
        yield _table(means(analysis))
        compared: list[Analysis] = [analysis] if held.first is None else [analysis, gain]
        for found in compared:
            table = differences(found)
            if table is not None:
                yield f"Against {_text(found.reports[0].system)}:\n\n{_table(table)}\n\n{_text(table.note)}"
    if any(held.name == "dev" for held in card.measured) and card.report.best_score is not None:
        step = f"step {card.report.best_step:,}" if card.report.best_step is not None else "a step"
        scores = ", ".join(f"{at:,}: {number(score)}" for at, score in card.report.scores)
        yield f"The weights are those of {step}, the best on dev of all that were tried (step: score): {scores}."
    yield from (f"Note: {_text(note)}." for note in card.notes)


def _data(card: Card) -> Iterable[str]:
    yield "## Training data"
    lines = [*(f"- {_text(source)}" for source in card.sources), *(f"- {_text(line)}" for line in card.counts)]
    yield "\n".join([*lines, f"- SHA-256 of the groups: `{card.fingerprint}`"])


def _recipe(card: Card) -> Iterable[str]:
    yield f"## Recipe\n\n```\n{card.command}\n```"
    if card.configuration:
        fence = "`" * (3 + ("```" in card.configuration) * 3)
        yield f"`train.yaml` (folders left out):\n\n{fence}yaml\n{card.configuration}{fence}"
    else:
        rows = tuple((name, _value(value)) for name, value in card.settings.as_json().items())
        yield _table(Table("", (("setting", "name"), ("value", "name")), rows))
    versions = [f"{name} {_version(name)}" for name in LIBRARIES]
    machine = f"{platform.system()} {platform.machine()}"
    yield f"Versions: {', '.join(versions)}, Python {platform.python_version()}, on {machine}."


def _table(table: Table) -> str:
    names = [name for name, _ in table.columns]
    lines = [names, ["---:" if kind == "number" else "---" for _, kind in table.columns], *table.rows]
    shown = [[cell if place == 1 else _text(cell) for cell in line] for place, line in enumerate(lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in shown)


def _text(value: str) -> str:
    """One line that Markdown shows as it is: names come from files, and files from anywhere."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in value).split())
    return "".join(f"\\{sign}" if sign in "\\`*_{}[]<>#|!~" else sign for sign in line)


def _code(value: str | None) -> str:
    return " ".join((value or "").replace("`", "'").split())


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={item!r}" for name, item in value.items()) or "none"
    if value is None or isinstance(value, bool):
        return "none" if value is None else str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"
