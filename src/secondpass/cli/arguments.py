"""What the scoring commands are given: options of the model, and documents and pairs from a file or stdin.

Every refusal of a file names its line. A model is loaded only when a command asks for it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from secondpass.corpora import TEXT_KEYS, Line, corpus_file, packaged, read_lines, stream_lines, table_document
from secondpass.errors import InvalidInput, ModelLoadError
from secondpass.forwards import precision as precisions
from secondpass.models.folders import holds_cascade
from secondpass.text import is_blank
from secondpass.windows import Select, Windows

if TYPE_CHECKING:
    from secondpass.biencoder import BiEncoder
    from secondpass.cascade import Cascade
    from secondpass.cross_encoder import CrossEncoder


STDIN, STDIN_NAME = "-", "stdin"
FORMATS = {".txt": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".tsv": "tsv"}
QUERY_KEYS = ("query",)
DOCUMENT_KEYS = ("document", *TEXT_KEYS)

IdenticalIds = Annotated[
    bool | None,
    typer.Option(
        "--ignore-identical-ids/--keep-identical-ids",
        help="Measure without documents whose id is the query's; by default for a BEIR folder only, as BEIR does.",
    ),
]


@dataclass(frozen=True, slots=True)
class GivenDocument:
    """A document to rank; `index` is its line (or place in a JSON list) counted from 0, `id` only if it has one."""

    index: int
    id: str | None
    text: str


@dataclass(frozen=True, slots=True)
class GivenPair:
    """A query and a document to score; `index` is the pair's line counted from 0."""

    index: int
    query: str
    document: str


def read_documents(path: Path | None, form: str | None) -> list[GivenDocument]:
    """Documents from a file, or from stdin if `path` is None or "-".

    `form` is "txt" (one a line), "jsonl", "json" (a list) or "tsv" (id, tab, text); None goes by the file's name, and
    for stdin by what is there: where more than half of the lines are an id without white space that no other has, one
    tab and a text, they are a table. Blank lines are skipped but counted. JSON documents are strings, or objects with
    "text" and perhaps "title", "_id" or "id".

    Raises:
        InvalidInput: a line is of another form than the others, or there is no document.
    """
    named = form
    lines, form = _opened(path, form, ("txt", "jsonl", "json", "tsv"), "--documents")
    if form == "txt" and named is None and _name(path) == STDIN_NAME:
        lines, form = _table_or_texts(list(lines))
    if form == "json":
        documents = list(_json_list(lines))
    elif form == "tsv":
        documents = list(_table(lines))
    else:
        values = ((line, line.text if form == "txt" else line.json()) for line in lines)
        documents = [_document(line, line.number - 1, value) for line, value in values]
    if not documents:
        raise InvalidInput(f"{_name(path)}: no document in it")
    return documents


def read_pairs(path: Path | None, form: str | None) -> Iterator[GivenPair]:
    """Pairs from a file, or from stdin if `path` is None or "-", one at a time.

    `form` is "tsv" (query, tab, document) or "jsonl" ({"query", "document"} or ["query", "document"]).

    Raises:
        InvalidInput: a line is of another form, or there is no pair.
    """
    lines, form = _opened(path, form, ("tsv", "jsonl"), "PAIRS")
    line = None
    for line in lines:
        yield _tsv_pair(line) if form == "tsv" else _json_pair(line)
    if line is None:
        raise InvalidInput(f"{_name(path)}: no pair in it")


def _opened(path: Path | None, form: str | None, forms: tuple[str, ...], option: str) -> tuple[Iterator[Line], str]:
    if form is not None and form not in forms:
        raise InvalidInput(f"--input-format {form} is none of {', '.join(forms)}")
    if path is not None and str(path) != STDIN:
        path = corpus_file(path) if packaged(path).is_dir() else path
        return read_lines(path), form or _form_by_name(path, forms)
    if _at_terminal():
        raise InvalidInput(f"nothing to read: give {option} a file, or pipe it in")
    lines = stream_lines(sys.stdin.buffer, STDIN_NAME)
    return (lines, form) if form else _form_by_first_line(lines, forms[0])


def _at_terminal() -> bool:
    return sys.stdin.isatty()


def _form_by_name(path: Path, forms: tuple[str, ...]) -> str:
    form = FORMATS.get(Path(path.name.removesuffix(".gz")).suffix.lower())
    if form not in forms:
        raise InvalidInput(f"{path}: say what it is with --input-format {' or '.join(forms)}")
    return form


def _form_by_first_line(lines: Iterator[Line], plain: str) -> tuple[Iterator[Line], str]:
    """JSON Lines if the first line is a JSON object: nobody means such a line as a plain text."""
    first = next(lines, None)
    if first is None:
        return iter(()), plain
    form = "jsonl"
    try:
        first.json_object()
    except InvalidInput:
        form = plain
    return chain((first,), lines), form


def _table_or_texts(lines: list[Line]) -> tuple[Iterator[Line], str]:
    """MS MARCO's collection.tsv piped in has no name that says so; one bad line does not make texts of a table."""
    seen: set[str] = set()
    strange: list[tuple[Line, str]] = []
    for line in lines:
        name, *texts = line.text.split("\t")
        if len(texts) == 1 and name.split() == [name] and name not in seen:
            seen.add(name)
        else:
            twice = len(texts) == 1 and name in seen
            strange.append((line, f"id {name!r} comes twice" if twice else "not an id, one tab and a text"))
    if 2 * len(seen) <= len(lines):
        return iter(lines), "txt"
    for line, why in strange:
        most = f"{len(seen)} of {len(lines)} lines are a table of ids and texts"
        raise line.refuse(f"{why}, but {most}; say what all are: --input-format tsv or txt")
    return iter(lines), "tsv"


def _table(lines: Iterator[Line]) -> Iterator[GivenDocument]:
    for line in lines:
        found = table_document(line)
        if found is not None:
            yield GivenDocument(line.number - 1, found.id, found.text)


def _json_list(lines: Iterator[Line]) -> Iterator[GivenDocument]:
    # Lines keep their numbers, so that the parser's own count of lines stays right.
    held = list(lines)
    if not held:
        return
    last = held[-1]
    by_number = {line.number: line.text for line in held}
    text = "\n".join(by_number.get(number, "") for number in range(1, last.number + 1))
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidInput(f"{last.source}:{error.lineno}: not JSON: {error.msg} at column {error.colno}") from None
    except (RecursionError, ValueError) as error:
        raise InvalidInput(f"{last.source}: not JSON that can be read: {error}") from None
    if not isinstance(values, list):
        raise InvalidInput(f"{last.source}: not a JSON list of documents")
    for index, value in enumerate(values):
        yield _document(Line(f"{last.source}: document", index, ""), index, value)


def _document(line: Line, index: int, value: object) -> GivenDocument:
    if isinstance(value, str):
        return GivenDocument(index, None, value)
    if not isinstance(value, dict):
        raise line.refuse('neither a string nor an object with "text"')
    title = _optional(line, value, ("title",))
    text = _required(line, value, TEXT_KEYS)
    found = next((value[key] for key in ("_id", "id") if value.get(key) is not None), None)
    return GivenDocument(index, None if found is None else str(found), f"{title} {text}" if title else text)


def _tsv_pair(line: Line) -> GivenPair:
    columns = line.text.split("\t")
    if len(columns) != 2:
        raise line.refuse(f"{line.columns_said()}; a pair is a query, a tab and a document")
    return _pair(line, columns[0], columns[1])


def _json_pair(line: Line) -> GivenPair:
    value = line.json()
    if isinstance(value, list):
        if len(value) != 2 or not all(isinstance(text, str) for text in value):
            raise line.refuse("not a list of two strings")
        return _pair(line, value[0], value[1])
    if not isinstance(value, dict):
        raise line.refuse('neither a list of two strings nor an object with "query" and "document"')
    return _pair(line, _required(line, value, QUERY_KEYS), _required(line, value, DOCUMENT_KEYS))


def _pair(line: Line, query: str, document: str) -> GivenPair:
    if is_blank(query):
        raise line.refuse("the query is blank")
    return GivenPair(line.number - 1, query, document)


def _required(line: Line, value: dict[str, object], keys: tuple[str, ...]) -> str:
    text = _optional(line, value, keys)
    if text is None:
        raise line.refuse(f'no "{keys[0]}"')
    return text


def _optional(line: Line, value: dict[str, object], keys: tuple[str, ...]) -> str | None:
    key = next((key for key in keys if value.get(key) is not None), None)
    if key is None:
        return None
    text = value[key]
    if not isinstance(text, str):
        raise line.refuse(f'"{key}" is {type(text).__name__}, not a string')
    return text


def _name(path: Path | None) -> str:
    return STDIN_NAME if path is None or str(path) == STDIN else str(path)


# ---- Options that every scoring command has, and the model they lead to.
POCKET, DEMO = "secondpass/pocket", "secondpass/demo"

Model = Annotated[
    str, typer.Option("--model", "-m", help="Folder or hub name of a cross-encoder; the default is in the package.")
]
MAX_LENGTH_HELP = "Tokens of a pair at most; by default what the model allows."
MaxLength = Annotated[int | None, typer.Option(min=1, help=MAX_LENGTH_HELP)]
BatchSize = Annotated[int, typer.Option(min=1, help="Pairs scored together at most.")]
DEVICE_HELP = "Where to compute: cpu, cuda, cuda:1, mps; several: cpu,cpu. By default the best there is."
Device = Annotated[str | None, typer.Option(help=DEVICE_HELP)]
PRECISION_HELP = (
    "How exactly to compute: fp32, bf16, int16, int8 or auto; by default what the model recommends, else fp32."
)
Precision = Annotated[precisions.Precision | None, typer.Option(help=PRECISION_HELP)]
Instruction = Annotated[
    str | None, typer.Option(help="What the model is told to look for, where its template has a place for that.")
]

TEMPLATE_HELP = (
    "What the model reads around its texts where its folder does not say: the name of a published family, such as "
    '"qwen3-reranker", or a text with "{query}" and "{document}", which is read without special tokens but its own.'
)
Template = Annotated[str | None, typer.Option(help=TEMPLATE_HELP)]
TRUE_HELP = "Of a causal language model, the token whose logit is the score."
FALSE_HELP = "The token whose logit is taken off it."
TrueToken = Annotated[str | None, typer.Option(help=TRUE_HELP)]
FalseToken = Annotated[str | None, typer.Option(help=FALSE_HELP)]
LONG_HELP = (
    "What is read of a document that is too long: windows reads it whole, in several windows; the others cut (or, with "
    "error, refuse) it. By default what the model does."
)
WINDOW_TOKENS_HELP = "With --long windows, tokens of the document in a window; by default all that the query leaves."
OVERLAP_HELP = "Tokens that a window shares with the one before it; by default 32."
MAX_WINDOWS_HELP = "Windows read of a document at most; all by default."
SELECT_HELP = "Which ones where there are more: the first, or by bm25 those that have most of the query."
Truncation = Literal["windows", "longest_first", "only_document", "error"]
Long = Annotated[Truncation | None, typer.Option(help=LONG_HELP)]
WindowTokens = Annotated[int | None, typer.Option(min=1, help=WINDOW_TOKENS_HELP)]
WindowOverlap = Annotated[int | None, typer.Option(min=0, help=OVERLAP_HELP)]
MaxWindows = Annotated[int | None, typer.Option(min=1, help=MAX_WINDOWS_HELP)]
SelectWindows = Annotated[Select | None, typer.Option(help=SELECT_HELP)]
ScoreCacheFile = Annotated[
    Path | None, typer.Option(help="File that keeps scores, so that no pair is scored twice; made if it is not there.")
]
CALIBRATION_HELP = "File that makes probabilities of the model's scores; by default the one in its folder."
CalibrationFile = Annotated[Path | None, typer.Option("--calibration", help=CALIBRATION_HELP)]
MinProbability = Annotated[
    float | None, typer.Option(min=0, max=1, help="Leave out documents that are less probably relevant.")
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        help="Folder or hub name of a cross-encoder; by default the one in the package. Several are a cascade, the "
        "cheapest first; so is the file of a saved one.",
    ),
]
Keep = Annotated[
    list[int] | None,
    typer.Option(
        min=1, help="Of a cascade, documents that go on to the next model; once for each step, by default 100."
    ),
]


JsonObject = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON object; all else goes to stderr.")
]
JsonFile = Annotated[
    Path | None,
    typer.Option("--json", help="Everything as one JSON object; without a file it is printed, in place of tables."),
]


def printed(json: Path | None) -> bool:
    """Whether JSON is what is printed: `--json` without a file, or with "-"."""
    return json is not None and str(json) == STDIN


def check_targets(*paths: Path | None) -> None:
    """Refuse, before the work, files that could not be written after it; JSON that is printed goes to none.

    Raises:
        InvalidInput: a path is a folder, or its folder does not exist or cannot be written to.
    """
    for path in paths:
        if path is None or printed(path):
            continue
        place = path.resolve()  # what is written goes through a link
        if place.is_dir():
            raise InvalidInput(f"{path}: is a folder, not a file")
        if not place.parent.is_dir():
            raise InvalidInput(f"{path}: there is no folder {place.parent}")
        # a file is replaced in its folder; a device cannot be
        if not os.access(place if place.exists() and not place.is_file() else place.parent, os.W_OK):
            raise InvalidInput(f"{path}: cannot be written")


def truncation_of(
    long: Truncation | None, tokens: int | None, overlap: int | None, most: int | None, select: Select | None
) -> Truncation | Windows | None:
    """What these options say together.

    Raises:
        InvalidInput: one about windows is given without them, or two do not go together.
    """
    given = windows_of(long, tokens, overlap, most, select)
    return Windows(**given) if long == "windows" else long


def windows_of(
    long: Truncation | None, tokens: int | None, overlap: int | None, most: int | None, select: Select | None
) -> dict[str, Any]:
    """The parameters of `Windows` among them; raises as `truncation_of`."""
    options = {"tokens": tokens, "overlap": overlap, "most": most, "select": select}
    given = {name: value for name, value in options.items() if value is not None}
    if given and long != "windows":
        names = {"tokens": "--window-tokens", "overlap": "--window-overlap", "most": "--max-windows"}
        raise InvalidInput(f"{names.get(next(iter(given)), '--select')} goes with --long windows")
    return given


@contextmanager
def with_files(model: Any, score_cache: Path | None, calibration: Path | None = None) -> Iterator[None]:
    """Let a model keep its scores in a file as long as the block takes, and take its probabilities from another.

    Raises:
        InvalidInput: one cannot be a cache, or the other is no calibration or one of another model.
    """
    if calibration is not None:
        model.use_calibration(calibration)
    if score_cache is None:
        yield
        return
    from secondpass.score_cache import ScoreCache

    with ScoreCache(score_cache) as cache:
        model.use_score_cache(cache)
        yield


def load(
    model: str,
    max_length: int | None,
    device: str | None,
    precision: precisions.Precision | None = None,
    instruction: str | None = None,
    template: str | None = None,
    true_token: str | None = None,
    false_token: str | None = None,
) -> CrossEncoder:
    """Load a model for a command; torch is imported only now, so that --help answers at once.

    Raises:
        ModelLoadError: it cannot be had.
        InvalidInput: one of the others is refused.
    """
    from secondpass.cross_encoder import CrossEncoder

    return CrossEncoder(
        model,
        max_length=max_length,
        device=device,
        precision=precision,
        instruction=instruction,
        template=template,
        true_token=true_token,
        false_token=false_token,
    )


def bi_encoder(option: str, source: str, device: str | None) -> BiEncoder:
    """The first-pass model that an option names which takes a run's file too.

    Raises:
        ModelLoadError: it is neither; the message has the file.
    """
    from secondpass.biencoder import BiEncoder

    try:
        return BiEncoder(source, device=device)
    except ModelLoadError as error:
        if Path(source).is_dir():
            raise
        file = source.partition("=")[2] or source
        raise ModelLoadError(f"{option}: there is no file {file} with a run, and as a bi-encoder: {error}") from error


def load_all(
    models: list[str] | None, keep: list[int] | None, max_length: int | None, **options: Any
) -> CrossEncoder | Cascade:
    """Load one model, several as a cascade, or one that was saved; `options` are further arguments of `load`.

    Raises:
        ModelLoadError: as `load`.
        InvalidInput: likewise; or `keep` does not fit, a template is given for several, or `max_length` for a saved
            one, which has its own.
    """
    check_models(models, keep, max_length)
    names = models or [POCKET]
    if len(names) == 1 and not holds_cascade(names[0]):
        return load(names[0], max_length, **options)
    # what it brings along is for many files, and costs a command of one model a start
    from secondpass.rescoring import open_reranker

    return open_reranker(names, keep, max_length, **options)


def check_models(models: list[str] | None, keep: list[int] | None, max_length: int | None) -> None:
    """Refuse what does not go together; raises InvalidInput as `load_all`."""
    if models is not None and len(models) > 1:
        return
    if keep:
        raise InvalidInput("--keep goes with several --model, which are a cascade")
    if models and holds_cascade(models[0]) and max_length is not None:
        raise InvalidInput(f"--max-length: the models of {models[0]} have the windows that they were saved with")
