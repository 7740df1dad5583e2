"""Configuration files: the packaged example, overrides, paths, and the way back to YAML."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from secondpass.errors import InvalidInput
from secondpass.training.configuration import (
    DataConfig,
    DevSource,
    HeldOutTest,
    ModelConfig,
    OutputConfig,
    TrainingConfig,
    TrainSource,
)
from secondpass.training.losses import LOSSES
from secondpass.training.settings import LoraSettings, TrainingSettings
from secondpass.training.weights.optimisation import SCHEDULES
from secondpass.training.yaml import (
    LONGEST,
    YamlDocument,
    as_yaml,
    example_text,
    is_written,
    made,
    read_config,
    read_document,
    without_folders,
)

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
    assert is_written(as_yaml(config))
    assert is_written(as_yaml(shown).replace("  beta2: 0.999\n", ""))  # of a version without this key
    for other in ("# mine\n" + as_yaml(config), file.read_text(), example_text(), "data: [", "", "a: 1\n"):
        assert not is_written(other)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    size: int = 1

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InvalidInput(f"size={self.size} is below 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    name: str
    rate: float = 0.5
    flag: bool = False
    count: int | None = None
    mode: Literal["fast", "slow"] = "fast"
    inner: Inner | None = None
    many: tuple[Inner, ...] = ()
    words: tuple[str, ...] = ()
    free: Mapping[str, Any] = field(default_factory=dict)


def read(text: str) -> Outer:
    """Read an Outer."""
    return made(Outer, read_document(text, "c.yaml"))


def test_every_type() -> None:
    """All kinds of field, and the defaults of those that are not given."""
    text = "name: a\nrate: 1\nflag: true\ncount: 3\nmode: slow\ninner: {size: 2}\nmany: [{size: 3}, {}]\n"
    assert read(text + "words: [x, y]\nfree: {k: 1, l: [a], m: null}") == Outer(
        name="a",
        rate=1.0,
        flag=True,
        count=3,
        mode="slow",
        inner=Inner(size=2),
        many=(Inner(size=3), Inner()),
        words=("x", "y"),
        free={"k": 1, "l": ["a"], "m": None},
    )
    assert read("name: a") == Outer(name="a")


def test_one_value_stands_for_a_list_of_it() -> None:
    """A single source need not be put into a list."""
    assert read("name: a\nmany: {size: 4}\nwords: x") == Outer(name="a", many=(Inner(size=4),), words=("x",))


@pytest.mark.parametrize(("text", "number"), [("2e-5", 2e-5), ("1.5E3", 1500.0), ("-1e+2", -100.0), (".inf", math.inf)])
def test_numbers_with_an_exponent(text: str, number: float) -> None:
    """YAML 1.1 reads 2e-5 as a text; here it is the number that was meant, in free mappings too."""
    assert read(f"name: a\nrate: {text}\nfree: {{t: {text}}}") == Outer(name="a", rate=number, free={"t": number})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("rate: 1", "c.yaml: name is missing"),
        ("name: 1", "c.yaml:1: name is 1, not a text (in quotation marks it is a text)"),
        ("name: yes", "c.yaml:1: name is true, not a text"),
        ("name: 2024-01-01", "c.yaml:1: name is a date, not a text"),
        ("name: a\nrate: fast", "c.yaml:2: rate is 'fast', not a number"),
        ("name: a\nrate: true", "c.yaml:2: rate is true, not a number"),
        ("name: a\nrate: null", "c.yaml:2: rate is null, not a number"),
        (f"name: a\nrate: {10**400}", "not a number"),
        ("name: a\nflag: 1", "c.yaml:2: flag is 1, not true or false"),
        ("name: a\ncount: 1.5", "c.yaml:2: count is 1.5, not a whole number"),
        ("name: a\ncount: false", "c.yaml:2: count is false, not a whole number"),
        ("name: a\nmode: slwo", "c.yaml:2: mode is 'slwo', none of fast, slow; did you mean slow?"),
        ("name: a\nmode: []", "c.yaml:2: mode is a list, none of fast, slow"),
        ("name: a\ninner: 3", "c.yaml:2: inner is 3, not keys with values"),
        ("name: a\ninner:\n  siez: 3", "c.yaml:3: inner.siez is unknown; did you mean inner.size?"),
        ("name: a\nmany:\n- {}\n- {q: 1}", "c.yaml:4: many.1.q is unknown; known are size"),
        ("name: a\nmany:\n- {}\n- {size: 0}", "c.yaml:4: many.1: size=0 is below 1"),
        ("name: a\nwords: [x, 3]", "c.yaml:2: words.1 is 3, not a text"),
        ("name: a\nfree: {k: {l: 1}}", "c.yaml:2: free.k is a mapping, not a text, a number"),
        ("name: a\nfree: {k: [[1]]}", "c.yaml:2: free.k is a list"),
        ("name: a\nfree: x", "c.yaml:2: free is 'x', not keys"),
        ("naem: a", "c.yaml:1: naem is unknown; did you mean name?"),
    ],
)
def test_refusals(text: str, reason: str) -> None:
    """File, line, key, what is there and what was wanted; unknown keys with the nearest."""
    with pytest.raises(InvalidInput) as refused:
        read(text)
    assert reason in str(refused.value)


def test_a_part_of_a_document() -> None:
    """A dataclass can be made of what stands deeper."""
    document = YamlDocument({"a": [{"size": 7}]}, "c.yaml")
    assert made(Inner, document, ("a", 0)) == Inner(size=7)


def test_values_know_their_lines() -> None:
    """Each value's place is its key's line; of a list, the line of the element."""
    document = read_document("a: 1\nb:\n  - x: 2\n  - y: 3\n", "c.yaml")
    assert document.values == {"a": 1, "b": [{"x": 2}, {"y": 3}]}
    assert document.places == {
        ("a",): "c.yaml:1",
        ("b",): "c.yaml:2",
        ("b", 0): "c.yaml:3",
        ("b", 0, "x"): "c.yaml:3",
        ("b", 1): "c.yaml:4",
        ("b", 1, "y"): "c.yaml:4",
    }


def test_a_refusal_names_the_nearest_known_place() -> None:
    """What is missing has no line: that of what it is missing from is told, else the file."""
    document = read_document("a:\n  b: 1\n", "c.yaml")
    assert str(document.refuse(("a", "b"), "bad")) == "c.yaml:2: bad"
    assert str(document.refuse(("a", "c", "d"), "bad")) == "c.yaml:1: bad"
    assert str(document.refuse(("x",), "bad")) == "c.yaml: bad"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "c.yaml: empty, not a mapping"),
        ("# nothing\n", "c.yaml: empty, not a mapping"),
        ("[1, 2]", "c.yaml: list, not a mapping"),
        ("a: 1\nb: 2\na: 3\n", "c.yaml:3: 'a' was given before"),
        ("a:\n  b: [\n", "c.yaml:3: not YAML"),
        ("a: b: c", "c.yaml:1: not YAML"),
        ("a: 1\n1: 2\n", "c.yaml:2: a key is no text"),
        ("on: true", "c.yaml:1: a key is no text"),
        ("a: 1\n? [x, y]\n: 2", "not YAML"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("a: 2024-99-99", "not YAML that can be read: month must be in 1..12"),
        ("[" * 5000, "not YAML that can be read"),
        ("a: \x00", "not YAML"),
        ("a: 1" + " " * LONGEST, "characters are no configuration"),
    ],
)
def test_what_is_no_configuration_is_one_line(text: str, reason: str) -> None:
    """Broken, hostile or surprising YAML is refused with its line; nothing in it is run."""
    with pytest.raises(InvalidInput) as refused:
        read_document(text, "c.yaml")
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_aliases_do_not_grow() -> None:
    """Aliases of aliases, a value in itself too, cost no more than their text."""
    bomb = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 40))
    assert len(read_document(bomb, "c.yaml").places) < 2000
    assert ("a", 0) in read_document("a: &a [*a]", "c.yaml").places
