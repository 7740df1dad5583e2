"""A configuration file with what the command line changes, and back to a file that repeats the run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml

from secondpass.corpora import existing
from secondpass.errors import InvalidInput
from secondpass.training.configuration.training_config import ModelConfig, TrainingConfig, TrainSource
from secondpass.training.configuration.typed import dotted, made
from secondpass.training.configuration.yaml_document import KeyPath, YamlDocument, read_document

SourceT = TypeVar("SourceT", bound=TrainSource)

PACKAGED = {"secondpass/demo": "demo"}
"""Data folders of the package by the names that stand for them."""
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
    return resources.files("secondpass.training.configuration").joinpath("example.yaml").read_text(encoding="utf-8")


def as_yaml(config: TrainingConfig) -> str:
    """Every key and value of `config`, as a file that `read_config` reads to the same."""
    return yaml.safe_dump(as_plain(config), sort_keys=False, allow_unicode=True, width=120)


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
        here, path = _inside(here, name, path, source, places)
    last: Any = _position(here, names[-1], path, source) if isinstance(here, list) else names[-1]
    if not isinstance(here, (dict, list)):
        raise InvalidInput(f"{source}: {dotted(path)} is a single value, it has no keys")
    here[last] = value
    # What stood below is gone, and with it the lines it came from.
    for known in [known for known in places if known[: len(path) + 1] == (*path, last)]:
        del places[known]
    places[(*path, last)] = source


def _inside(here: Any, name: str, path: KeyPath, source: str, places: dict[KeyPath, str]) -> tuple[Any, KeyPath]:
    if isinstance(here, list):
        place = _position(here, name, path, source)
        return here[place], (*path, place)
    if not isinstance(here, dict):
        raise InvalidInput(f"{source}: {dotted(path)} is a single value, it has no keys")
    if here.get(name) is None:
        here[name] = {}
        places[(*path, name)] = source
    return here[name], (*path, name)


def _position(here: list[Any], name: str, path: KeyPath, source: str) -> int:
    if not name.isdecimal() or int(name) >= len(here):
        raise InvalidInput(f"{source}: {dotted(path)} is a list of {len(here)}, {name!r} is no position in it from 0")
    return int(name)


def without_folders(config: TrainingConfig) -> TrainingConfig:
    """The same with paths cut to their last name: what a card may show of a machine."""
    shown = _moved(config, lambda given: Path(given).name)
    model = config.model
    return replace(shown, model=replace(model, name=Path(model.name).name)) if Path(model.name).is_dir() else shown


def _absolute(config: TrainingConfig, folder: Path) -> TrainingConfig:
    def place(given: str) -> str:
        packaged = PACKAGED.get(given)
        if packaged is not None and not (folder / given).exists():
            return str(resources.files("secondpass").joinpath(packaged))
        return str(folder / Path(given).expanduser())

    return replace(_moved(config, place), model=_model(config.model, folder))


def _moved(config: TrainingConfig, place: Callable[[str], str]) -> TrainingConfig:
    data, test = config.data, config.data.test
    if test is not None:
        test = replace(test, path=place(test.path), run=None if test.run is None else place(test.run))
    train = tuple(_source(source, place) for source in data.train)
    dev = tuple(_source(source, place) for source in data.dev)
    return replace(
        config,
        data=replace(data, train=train, dev=dev, test=test),
        output=replace(config.output, folder=place(config.output.folder)),
    )


def _source(source: SourceT, place: Callable[[str], str]) -> SourceT:
    named = {name: getattr(source, name) for name in ("path", "corpus", "queries", "run")}
    placed: dict[str, Any] = {name: place(value) for name, value in named.items() if value is not None}
    return replace(source, **placed)


def _model(model: ModelConfig, folder: Path) -> ModelConfig:
    """A name is a folder if there is one, seen from the configuration's; else it is a name on the hub."""
    found = folder / Path(model.name).expanduser()
    return replace(model, name=str(found)) if found.is_dir() else model
