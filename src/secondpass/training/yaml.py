"""A configuration file with what the command line changes, and back to a file that repeats the run."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from secondpass.corpora import existing, packaged
from secondpass.errors import InvalidInput
from secondpass.training.configuration import TrainingConfig, TrainSource

# ---- A YAML file as plain values that know on which line they stand, so that a refusal can say where.
KeyPath = tuple[str | int, ...]
"""Keys and positions from the top: ("data", "train", 0, "path")."""
LONGEST = 1_000_000


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """Values of a file, and where they come from.

    Attributes:
        values: what the file holds: a mapping.
        source: what messages call the file.
        places: where each value stands, "train.yaml:12" or "--set epochs=3".
    """

    values: dict[str, Any]
    source: str
    places: Mapping[KeyPath, str] = field(default_factory=dict)

    def refuse(self, path: KeyPath, reason: str) -> InvalidInput:
        """The error for the value at `path`, or for what it is missing from; to be raised."""
        known = next((path[:size] for size in range(len(path), 0, -1) if path[:size] in self.places), ())
        return InvalidInput(f"{self.places.get(known, self.source)}: {reason}")


def read_document(text: str, source: str) -> YamlDocument:
    """Read one mapping out of YAML; no tag makes an object.

    Raises:
        InvalidInput: it is no YAML, no mapping, longer than a million characters, or a key comes twice or is no text.
    """
    if len(text) > LONGEST:
        raise InvalidInput(f"{source}: {len(text):,} characters are no configuration")
    try:
        values = yaml.safe_load(text)
        node = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f":{mark.line + 1}"
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise InvalidInput(f"{source}{line}: not YAML: {reason}") from None
    # A date that is none ("2024-99-99") and nesting without end raise errors of their own.
    except (ValueError, RecursionError, TypeError) as error:
        raise InvalidInput(f"{source}: not YAML that can be read: {error}") from None
    if not isinstance(values, dict) or node is None:
        raise InvalidInput(f"{source}: {'empty' if values is None else type(values).__name__}, not a mapping of keys")
    places: dict[KeyPath, str] = {}
    _walk(node, (), source, places, set())
    return YamlDocument(values, source, places)


def _walk(node: yaml.Node, path: KeyPath, source: str, places: dict[KeyPath, str], seen: set[int]) -> None:
    """Note the line of every value; one that an alias repeats is looked into once, so none can grow without end."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            place = f"{source}:{key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode) or not key.tag.endswith((":str", ":merge")):
                raise InvalidInput(f"{place}: a key is no text (on, off, yes, no and numbers need quotation marks)")
            if key.value in keys:
                raise InvalidInput(f"{place}: {key.value!r} was given before")
            keys.add(key.value)
            places[(*path, key.value)] = place
            _walk(value, (*path, key.value), source, places, seen)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            places[(*path, index)] = f"{source}:{value.start_mark.line + 1}"
            _walk(value, (*path, index), source, places, seen)


# ---- Plain values to frozen dataclasses, each by the type of its field; what does not fit is refused by key and line.
MadeT = TypeVar("MadeT")

# YAML 1.1, which PyYAML reads, takes 2e-5 for a text: its numbers need a point and a signed exponent.
EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")
WORDS: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
KINDS: dict[Any, str] = {list: "a list", dict: "a mapping"}


def made(kind: type[MadeT], document: YamlDocument, path: KeyPath = ()) -> MadeT:
    """Make the dataclass `kind` out of the mapping at `path` of a document.

    Fields are bool, int, float, str, Literal, None, Mapping[str, Any], dataclasses and tuples of these. One value may
    stand for a tuple of it.

    Raises:
        InvalidInput: a key is unknown (with the nearest that is known), missing, or its value has another type; or
            the dataclass refuses the values. The message begins with file and line.
    """
    values: Any = document.values
    for key in path:
        values = values[key]
    found: MadeT = _dataclass(kind, values, document, path)
    return found


def _keys(value: object, document: YamlDocument, path: KeyPath) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise document.refuse(path, f"{dotted(path)} is {_named(value)}, not keys with values")
    return value


def _dataclass(kind: Any, value: object, document: YamlDocument, path: KeyPath) -> Any:
    values = _keys(value, document, path)
    known = {entry.name: entry for entry in fields(kind)}
    for key in values:
        if key not in known:
            hint = _nearest(key, known, path) or f"; known are {', '.join(known)}"
            raise document.refuse((*path, key), f"{dotted((*path, key))} is unknown{hint}")
    for name, entry in known.items():
        if name not in values and entry.default is MISSING and entry.default_factory is MISSING:
            raise document.refuse(path, f"{dotted((*path, name))} is missing")
    types = get_type_hints(kind)
    given = {key: _value(types[key], value, document, (*path, key)) for key, value in values.items()}
    try:
        return kind(**given)
    except InvalidInput as error:
        # Messages of settings begin with the name of the one that is refused.
        named = re.match(r"\w+", str(error))
        place = (*path, named.group()) if named and named.group() in known else path
        raise document.refuse(place, f"{dotted(path)}: {error}" if path else str(error)) from None


def _value(kind: Any, value: object, document: YamlDocument, path: KeyPath) -> Any:
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return _optional(kind, value, document, path)
    if is_dataclass(kind):
        return _dataclass(kind, value, document, path)
    if origin is tuple:
        (item, _) = get_args(kind)
        listed = value if isinstance(value, list) else [value]
        placed = [(path if listed is not value else (*path, index)) for index in range(len(listed))]
        return tuple(_value(item, each, document, place) for each, place in zip(listed, placed, strict=True))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        # plain values by name; their own types are the matter of whoever reads them
        given = _keys(value, document, path)
        return {key: _plain(item, document, (*path, key)) for key, item in given.items()}
    if origin is Literal:
        return _choice(get_args(kind), value, document, path)
    return _scalar(kind, value, document, path)


def _optional(kind: Any, value: object, document: YamlDocument, path: KeyPath) -> Any:
    choices = [choice for choice in get_args(kind) if choice is not NoneType]
    if value is None:
        return None
    # A text that stands for a dataclass is read by the plain type beside it, where there is one.
    fitting = [choice for choice in choices if is_dataclass(choice) == isinstance(value, Mapping)]
    return _value((fitting or choices)[0], value, document, path)


def _scalar(kind: Any, value: object, document: YamlDocument, path: KeyPath) -> Any:
    if kind is float:
        number = float(value) if isinstance(value, str) and EXPONENT.fullmatch(value) else value
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            try:
                return float(number)
            except OverflowError:
                pass
    elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    quotes = " (in quotation marks it is a text)" if kind is str and not isinstance(value, (list, dict)) else ""
    raise document.refuse(path, f"{dotted(path)} is {_named(value)}, not {WORDS[kind]}{quotes}")


def _choice(choices: tuple[Any, ...], value: object, document: YamlDocument, path: KeyPath) -> Any:
    if value in choices:
        return value
    listed = ", ".join(map(str, choices))
    raise document.refuse(path, f"{dotted(path)} is {_named(value)}, none of {listed}{_nearest(value, choices)}")


def _plain(value: object, document: YamlDocument, path: KeyPath) -> Any:
    if isinstance(value, list) and not any(isinstance(item, (list, dict)) for item in value):
        return [_plain(item, document, path) for item in value]
    if isinstance(value, str) and EXPONENT.fullmatch(value):
        return float(value)
    if value is None or isinstance(value, (str, int, float)):
        return value
    wanted = "a text, a number, true, false or a list of such"
    raise document.refuse(path, f"{dotted(path)} is {_named(value)}, not {wanted}")


def dotted(path: KeyPath) -> str:
    """A path as `--set` takes it: data.train.0.path."""
    return ".".join(map(str, path)) or "the file"


def _nearest(value: object, choices: Iterable[Any], path: KeyPath = ()) -> str:
    near = get_close_matches(str(value), map(str, choices), n=1)
    return f"; did you mean {dotted((*path, near[0]))}?" if near else ""


def _named(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, (str, int, float)):
        return KINDS.get(type(value), f"a {type(value).__name__}")
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:59]}…"


SourceT = TypeVar("SourceT", bound=TrainSource)

LONGEST_PATH = 16


def read_config(path: Path, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Read a configuration; relative paths in it start from its folder.

    Args:
        path: of the YAML file. `example_text` describes every key.
        overrides: "settings.learning_rate=3e-5", the value in YAML; a position in a list is a key too:
            "data.train.0.limit=100".

    Raises:
        InvalidInput: the file cannot be read, or a key or value is refused; the message begins with file and line, or
            with the override.
    """
    try:
        text = existing(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    document = read_document(text, path.name)
    values, places = copy.deepcopy(document.values), dict(document.places)
    for override in overrides:
        _set(values, places, override)
    config = made(TrainingConfig, YamlDocument(values, document.source, places))
    return _absolute(config, path.absolute().parent)


def example_text() -> str:
    """The packaged example: every key with its default and what it means."""
    return resources.files("secondpass.training").joinpath("example.yaml").read_text(encoding="utf-8")


def as_yaml(config: TrainingConfig) -> str:
    """Every key and value of `config`, as a file that `read_config` reads to the same."""
    return _dumped(as_plain(config))


def is_written(text: str) -> bool:
    """Whether `as_yaml`, of any version, may have made a file: nothing that a person wrote is lost with it."""
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return False
    sections = [entry.name for entry in fields(TrainingConfig)]
    return isinstance(values, dict) and list(values) == sections and _dumped(values) == text


def _dumped(values: Any) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)


def as_plain(value: Any) -> Any:
    """Dataclasses, tuples and mappings as dicts and lists."""
    if is_dataclass(value):
        return {entry.name: as_plain(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, (tuple, list)):
        return [as_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: as_plain(item) for key, item in value.items()}
    return value


def _set(values: dict[str, Any], places: dict[KeyPath, str], override: str) -> None:
    """Put one override into the values, making what is on the way to it."""
    key, equals, text = override.partition("=")
    source = f"--set {override}"
    names = key.strip().split(".")
    if not equals or not all(names) or len(names) > LONGEST_PATH:
        raise InvalidInput(f"{source}: not KEY=VALUE, such as settings.epochs=3")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise InvalidInput(f"{source}: the value is not YAML; put it in quotation marks") from None
    here: Any = values
    path: KeyPath = ()
    for name in names[:-1]:
        at = _key(here, name, path, source)
        path = (*path, at)
        if isinstance(here, dict) and here.get(at) is None:
            here[at] = {}
            places[path] = source
        here = here[at]
    last = _key(here, names[-1], path, source)
    here[last] = value
    # What stood below is gone, and with it the lines it came from.
    for known in [known for known in places if known[: len(path) + 1] == (*path, last)]:
        del places[known]
    places[(*path, last)] = source


def _key(here: Any, name: str, path: KeyPath, source: str) -> str | int:
    """The key or position that `name` is in `here`, which stands at `path`."""
    if isinstance(here, dict):
        return name
    if not isinstance(here, list):
        raise InvalidInput(f"{source}: {dotted(path)} is a single value, it has no keys")
    if not name.isdecimal() or int(name) >= len(here):
        raise InvalidInput(f"{source}: {dotted(path)} is a list of {len(here)}, {name!r} is no position in it from 0")
    return int(name)


def without_folders(config: TrainingConfig) -> TrainingConfig:
    """The same with paths cut to their last name: what a card may show of a machine."""
    return _moved(config, lambda given: Path(given).name, lambda name: Path(name).name if Path(name).is_dir() else name)


def _absolute(config: TrainingConfig, folder: Path) -> TrainingConfig:
    def place(given: str) -> str:
        return str(packaged(Path(given).expanduser(), folder))

    def model(name: str) -> str:
        # A name is a folder if there is one, seen from the configuration's; else it is a name on the hub.
        found = folder / Path(name).expanduser()
        return str(found) if found.is_dir() else name

    return _moved(config, place, model)


def _moved(config: TrainingConfig, place: Callable[[str], str], model: Callable[[str], str]) -> TrainingConfig:
    data, test, passages = config.data, config.data.test, config.data.passages
    if passages is not None and passages.model is not None:
        passages = replace(passages, model=model(passages.model))
    if test is not None:
        test = replace(test, path=place(test.path), run=None if test.run is None else place(test.run))
    train = tuple(_source(source, place) for source in data.train)
    dev = tuple(_source(source, place) for source in data.dev)
    output = replace(config.output, folder=place(config.output.folder))
    data = replace(data, train=train, dev=dev, test=test, passages=passages)
    return replace(config, model=replace(config.model, name=model(config.model.name)), data=data, output=output)


def _source(source: SourceT, place: Callable[[str], str]) -> SourceT:
    named = {name: getattr(source, name) for name in ("path", "corpus", "queries", "run")}
    placed: dict[str, Any] = {name: place(value) for name, value in named.items() if value is not None}
    return replace(source, **placed)
