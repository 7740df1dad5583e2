"""What the service is told, and what it refuses to be told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import secondpass.serving
from secondpass.errors import InvalidInput, MissingExtra
from secondpass.serving.settings import (
    ApiKeys,
    ModelSource,
    Settings,
    instructed,
    is_loopback,
    keeping,
    model_source,
    probable,
    read_keys,
    require_libraries,
)
from tests.serving.conftest import KEY


def test_settings_are_shown_without_keys() -> None:
    """JSON, with how many keys there are."""
    shown = json.dumps(Settings(keys=ApiKeys([KEY])).redacted())
    assert KEY not in shown
    assert json.loads(shown)["keys"] == 1
    assert KEY not in repr(Settings(keys=ApiKeys([KEY])))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"max_requests": 0}, "max_requests=0"),
        ({"max_body_bytes": 1.5}, "max_body_bytes=1.5"),
        ({"deadline_s": float("nan")}, "deadline_s=nan"),
        ({"deadline_s": float("inf")}, "deadline_s=inf"),
        ({"max_wait_ms": -1}, "max_wait_ms=-1"),
        ({"head_s": 0}, "head_s=0"),
        ({"shadow_share": 1.5}, "shadow_share=1.5"),
        ({"precision": "fp16"}, "precision='fp16'"),
        ({"token_cache_mb": -1}, "token_cache_mb=-1"),
        ({"token_cache_mb": 1.5}, "token_cache_mb=1.5"),
        ({"models": ()}, "no model is given"),
        ({"models": (ModelSource("a", "x"), ModelSource("a", "y"))}, "two models have the name 'a'"),
        ({"host": "0.0.0.0"}, "host=0.0.0.0 can be reached by others"),  # noqa: S104
        ({"host": "example.org"}, "--without-keys"),
    ],
)
def test_refused_settings_are_named(given: dict[str, object], said: str) -> None:
    """The message says which one."""
    with pytest.raises(InvalidInput) as refused:
        Settings(**given)  # type: ignore[arg-type]
    assert said in str(refused.value)


def test_others_come_in_with_a_key_or_where_it_is_said() -> None:
    """An address that others reach wants a decision."""
    assert Settings(host="0.0.0.0", keys=ApiKeys([KEY])).keys  # noqa: S104
    assert Settings(host="::", without_keys=True).without_keys
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(is_loopback, ("10.0.0.1", "::", "localhost.example.org")))


def test_models_are_named(tmp_path: Path) -> None:
    """name=folder, a folder, a hub name."""
    folder = tmp_path / "my-model"
    folder.mkdir()
    assert model_source(f"big={folder}") == ModelSource("big", str(folder))
    assert model_source(str(folder)) == ModelSource("my-model", str(folder))
    assert model_source("org/name") == ModelSource("org/name", "org/name")
    assert model_source("a=b=c") == ModelSource("a", "b=c")
    assert model_source("best=small,org/large") == ModelSource("best", "small,org/large", stages=("small", "org/large"))
    (tmp_path / "a,b").mkdir()
    assert model_source(f"comma={tmp_path}/a,b").stages == ()
    for wrong in ("small,large", "best=small,", "best=,large"):
        with pytest.raises(InvalidInput, match="given as name=small,large"):
            model_source(wrong)
    for wrong in ("", "=x", "a=", "a b=x", "é=x", "-a=x"):
        with pytest.raises(InvalidInput, match="is not name=folder"):
            model_source(wrong)


FIRST = "first-key-0123456789"
SECOND = "second-key-0123456789"


def test_each_key_opens_and_nothing_else_does() -> None:
    """Bearer in any case of letters; every other header is refused without an error."""
    keys = ApiKeys([FIRST, SECOND])
    assert keys.allow(f"Bearer {FIRST}")
    assert keys.allow(f"bearer {SECOND}")
    for wrong in (
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Basic {FIRST}",
        FIRST,
        f"Bearer {FIRST}x",
        "Bearer \ud800é",
        "Bearer x",
    ):
        assert not keys.allow(wrong)
    assert ApiKeys().allow(None)


def test_keys_come_from_the_environment_and_a_file(tmp_path: Path) -> None:
    """Commas, blanks, comments and repeated keys."""
    file = tmp_path / "keys"
    file.write_text(f"# ours\n\n{SECOND}\n")
    keys = read_keys({"SECONDPASS_API_KEYS": f"{FIRST}, {SECOND}"}, file)
    assert len(keys) == 2
    assert keys.allow(f"Bearer {SECOND}")
    assert len(read_keys({})) == 0


def test_keys_of_a_file_are_read_anew(tmp_path: Path) -> None:
    """Those of the environment stay; a file that is refused leaves the keys as they are."""
    file = tmp_path / "keys"
    file.write_text(FIRST)
    keys = read_keys({"SECONDPASS_API_KEYS": KEY}, file)
    file.write_text(f"{SECOND}\n")
    keys.renew()
    opens = [keys.allow(f"Bearer {key}") for key in (KEY, FIRST, SECOND)]
    assert opens == [True, False, True]
    for refused in ("# none\n", "short"):
        file.write_text(refused)
        with pytest.raises(InvalidInput):
            keys.renew()
        assert [keys.allow(f"Bearer {key}") for key in (KEY, FIRST, SECOND)] == opens
    alone = read_keys({"SECONDPASS_API_KEYS": KEY})
    alone.renew()
    assert alone.allow(f"Bearer {KEY}")


def test_refusals_never_show_a_key(tmp_path: Path) -> None:
    """A short key, one with other characters, an empty file, no file."""
    with pytest.raises(InvalidInput, match="API key 2 has fewer than 16") as short:
        ApiKeys([FIRST, "hunter2"])
    assert "hunter2" not in str(short.value)
    with pytest.raises(InvalidInput, match="API key 1 has characters"):
        ApiKeys(["ключ-ключ-ключ-ключ"])
    empty = tmp_path / "empty"
    empty.write_text("# none\n")
    with pytest.raises(InvalidInput, match="holds no key"):
        read_keys({}, empty)
    with pytest.raises(InvalidInput, match="cannot be read: FileNotFoundError"):
        read_keys({}, tmp_path / "absent")
    assert FIRST not in repr(ApiKeys([FIRST])) + repr(vars(ApiKeys([FIRST])))


def test_a_model_has_its_instruction() -> None:
    """By its name, or one for all; a text may have the sign too."""
    models = [ModelSource("a", "x"), ModelSource("b", "y")]
    told = [model.instruction for model in instructed(models, ["b=find=it"])]
    assert told == [None, "find=it"]
    assert [model.instruction for model in instructed(models, ["c=find"])] == ["c=find", "c=find"]
    with pytest.raises(InvalidInput, match="--instruction is given twice for the model 'b'"):
        instructed(models, ["b=one", "two"])
    with pytest.raises(InvalidInput, match="two models have the name 'a'"):
        Settings(models=instructed([ModelSource("a", "x"), ModelSource("a", "y")], ["find"]))


def test_a_cascade_keeps_so_many() -> None:
    """By its name, or all of them; a number for each step."""
    models = [
        ModelSource("a", "x,y", stages=("x", "y")),
        ModelSource("b", "y"),
        ModelSource("c", "x,y,z", stages=("x",) * 3),
    ]
    assert [model.keep for model in keeping(models, ["9"])] == [(9,), (), (9,)]
    assert [model.keep for model in keeping(models, ["c=500,50", "a=7"])] == [(7,), (), (500, 50)]
    for given, said in (
        (["9", "a=9"], "--keep is given twice for the model 'a'"),
        (["a=x"], "'x' is no number of documents"),
        (["0"], "'0' is no number"),
        (["d=9"], "there is no model 'd'"),
    ):
        with pytest.raises(InvalidInput, match=said):
            keeping(models, given)
    with pytest.raises(InvalidInput, match="no --model is a cascade"):
        keeping(models[1:2], ["9"])


def test_a_model_has_its_calibration() -> None:
    """By its name, or where there is one model alone."""
    two = [model_source("a=/models/a"), model_source("b=/models/b")]
    assert [model.calibration for model in probable(two, ["b=/files/b=1.json"])] == [None, "/files/b=1.json"]
    assert [model.calibration for model in probable(two[:1], ["/files/x=1.json"])] == ["/files/x=1.json"]
    for models, given, said in (
        (two, ["all.json"], "say of which model"),
        (two, ["c=c.json"], "say of which model"),
        (two[:1], ["one.json", "a=two.json"], "twice for the model 'a'"),
    ):
        with pytest.raises(InvalidInput, match=said):
            probable(models, given)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, the same from the package."""
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingExtra, match=r'uvicorn is not installed: pip install "secondpass\[serve\]"'):
        require_libraries()
    monkeypatch.delitem(vars(secondpass.serving), "create_app", raising=False)
    with pytest.raises(MissingExtra):
        _ = secondpass.serving.create_app


def test_settings_need_no_library() -> None:
    """Neither torch nor fastapi is loaded for reading settings."""
    program = (
        "import sys, secondpass.cli.serve, secondpass.serving; secondpass.serving.Settings(); "
        "print(sorted({'torch', 'fastapi', 'uvicorn', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=90, check=True)
    assert done.stdout.strip() == "[]"
