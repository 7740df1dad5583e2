"""Configuration files: the packaged example, overrides, paths, and the way back to YAML."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from secondpass.errors import InvalidInput
from secondpass.training.configuration.reading import as_yaml, example_text, read_config, without_folders
from secondpass.training.configuration.training_config import (
    DataConfig,
    DevSource,
    HeldOutTest,
    ModelConfig,
    OutputConfig,
    TrainingConfig,
    TrainSource,
)
from secondpass.training.losses.named import LOSSES
from secondpass.training.settings import LoraSettings, TrainingSettings
from secondpass.training.weights.schedules import SCHEDULES

MINIMAL = "data:\n  train: {path: t.jsonl}\noutput: {folder: out}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The smallest configuration."""
    path = tmp_path / "train.yaml"
    path.write_text(MINIMAL)
    return path


def uncommented(name: str) -> Any:
    """The block of the example that stands in comments under `# name:`."""
    block = re.search(rf"^( *)# {name}:\n((?:\1#   .*\n)+)", example_text(), re.MULTILINE)
    assert block is not None
    return yaml.safe_load(re.sub(r"^ *# ", "", block.group(2), flags=re.MULTILINE))


def defaults(kind: Any) -> dict[str, Any]:
    """Field by name with its default, as YAML has it; those without one are left out."""
    made = {}
    for entry in fields(kind):
        if entry.default is not MISSING:
            made[entry.name] = list(entry.default) if isinstance(entry.default, tuple) else entry.default
        elif entry.default_factory is not MISSING:
            made[entry.name] = entry.default_factory()
    return made


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        (lambda values: values["model"], ModelConfig),
        (lambda values: values["data"]["train"][0], TrainSource),
        (lambda values: values["data"], DataConfig),
        (lambda values: uncommented("test"), HeldOutTest),
        (lambda values: values["settings"], TrainingSettings),
        (lambda values: uncommented("lora"), LoraSettings),
        (lambda values: values["output"], OutputConfig),
        (lambda values: values, TrainingConfig),
    ],
)
def test_the_example_has_every_key_with_its_default(part: Any, kind: Any) -> None:
    """No field is missing in the documented file, none is left over, and each default is the real one."""
    found = part(yaml.safe_load(example_text()))
    assert sorted(found) == sorted(entry.name for entry in fields(kind))
    plain = {name: value for name, value in defaults(kind).items() if not hasattr(value, "__dataclass_fields__")}
    assert {name: found[name] for name in plain} == plain


def test_the_example_is_read(tmp_path: Path) -> None:
    """It is a configuration itself, of default settings, and every line of it says something."""
    (tmp_path / "e.yaml").write_text(example_text())
    config = read_config(tmp_path / "e.yaml")
    assert (config.settings, config.model) == (TrainingSettings(), ModelConfig())
    assert DevSource(**uncommented("dev")[0]) == DevSource(path="dev.jsonl")
    for line in example_text().splitlines():
        assert len(line) <= 120
        assert not line.strip() or ":" in line or line.lstrip().startswith("#"), line


def test_the_example_names_all_losses_and_schedules() -> None:
    """Whoever reads it need not look elsewhere for the names."""
    assert [name for name in (*LOSSES, *SCHEDULES) if name not in example_text()] == []


def test_overrides(file: Path) -> None:
    """A value is YAML, a position in a list a key; what is on the way is made; the last one counts."""
    config = read_config(
        file,
        [
            "settings.learning_rate=3e-5",
            "settings.lora.rank=4",
            "settings.loss_options={pos_weight: balanced}",
            "data.train=[{path: a}, {path: b}]",
            "data.train.1.limit=7",
            "data.test.path=beir",
            "model.device=cpu",
            "settings.epochs=2",
            "settings.epochs=3",
        ],
    )
    assert config.settings == TrainingSettings(
        learning_rate=3e-5, lora=LoraSettings(rank=4), loss_options={"pos_weight": "balanced"}, epochs=3
    )
    assert [(Path(source.path).name, source.limit) for source in config.data.train] == [("a", None), ("b", 7)]
    assert config.data.test is not None
    assert config.model.device == "cpu"


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("settings.epochs", "not KEY=VALUE"),
        ("=3", "not KEY=VALUE"),
        ("settings..epochs=3", "not KEY=VALUE"),
        ("a." * 20 + "b=1", "not KEY=VALUE"),
        ("settings.epochs=[", "the value is not YAML"),
        ("settings.epoch=3", "settings.epoch is unknown; did you mean settings.epochs?"),
        ("settings.epochs=three", "settings.epochs is 'three', not a whole number"),
        ("settings.epochs=0", "settings: epochs=0 is not a positive int"),
        ("settings.epochs.x=1", "settings.epochs is a mapping, not a whole number"),
        ("data.train.path.x=1", "data.train.path is a single value"),
        ("output.folder.x.y=1", "output.folder is a single value"),
        ("data.train.1.limit=2", "data.train.1 is unknown; known are path,"),
    ],
)
def test_bad_overrides_name_themselves(file: Path, override: str, reason: str) -> None:
    """The message begins with the override as it was given, not with a line of the file."""
    with pytest.raises(InvalidInput) as refused:
        read_config(file, [override])
    assert str(refused.value).startswith(f"--set {override}: ")
    assert reason in str(refused.value)


def test_positions_in_lists(file: Path) -> None:
    """A list has the positions it has."""
    for override in ("data.train.2.limit=1", "data.train.x.limit=1", "data.train.2=1"):
        with pytest.raises(InvalidInput, match=r"is a list of 2, .* is no position in it from 0"):
            read_config(file, ["data.train=[{path: a}, {path: b}]", override])


def test_paths_start_from_the_file(tmp_path: Path, tiny_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths are seen from the configuration's folder, wherever the program runs; a model may be a name."""
    folder = tmp_path / "made" / "here"
    (folder / "model").mkdir(parents=True)
    (folder / "c.yaml").write_text(
        "model: {name: model}\ndata:\n  train: {path: ../t.jsonl, corpus: c, queries: q, run: r}\n"
        "  dev: {path: d}\n  test: {path: /abs/b, run: r}\noutput: {folder: out}\n"
    )
    monkeypatch.chdir(tmp_path)
    config = read_config(Path("made/here/c.yaml"))
    source = config.data.train[0]
    assert source == TrainSource(
        path=str(folder / "../t.jsonl"), corpus=str(folder / "c"), queries=str(folder / "q"), run=str(folder / "r")
    )
    assert config.data.dev[0].path == str(folder / "d")
    assert config.data.test == HeldOutTest(path="/abs/b", run=str(folder / "r"))
    assert (config.model.name, config.output.folder) == (str(folder / "model"), str(folder / "out"))
    hub = read_config(folder / "c.yaml", ["model.name=some/name", "data.train.path=secondpass/demo"])
    assert hub.model.name == "some/name"
    assert hub.data.train[0].path == str(resources.files("secondpass") / "demo")


def test_there_and_back(file: Path, tmp_path: Path) -> None:
    """`as_yaml` has every key and is read to the same configuration, in another folder too."""
    overrides = ["settings.lora={}", "data.dev={path: dev.jsonl}", "data.test={path: b}", "settings.max_grad_norm=.inf"]
    config = read_config(file, [*overrides, "data.train.columns={query: q, negative: [a, b]}"])
    (tmp_path / "elsewhere").mkdir()
    again = tmp_path / "elsewhere" / "again.yaml"
    again.write_text(as_yaml(config))
    assert read_config(again) == config


def test_without_folders(file: Path, tmp_path: Path, tiny_folder: str) -> None:
    """What goes into a card has no path of this machine, but is otherwise the same."""
    config = read_config(file, [f"model.name={tiny_folder}", "data.test={path: x/beir, run: x/r.trec}"])
    assert str(tmp_path) in as_yaml(config)
    shown = without_folders(config)
    assert str(tmp_path) not in as_yaml(shown)
    assert tiny_folder not in as_yaml(shown)
    assert shown.settings == config.settings
    assert (
        replace(config, model=ModelConfig(name="a/b")).model
        == without_folders(replace(config, model=ModelConfig(name="a/b"))).model
    )


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """No file, a folder, and what is no UTF-8 are one line each."""
    with pytest.raises(InvalidInput, match="no such file"):
        read_config(tmp_path / "absent.yaml")
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_config(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\n")
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_config(tmp_path / "latin.yaml")
    (tmp_path / "marked.yaml").write_text("\ufeff" + MINIMAL)
    assert read_config(tmp_path / "marked.yaml").output.folder == str(tmp_path / "out")
