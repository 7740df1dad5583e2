"""What the service is told, and what it refuses to be told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from secondpass.errors import InvalidInput
from secondpass.serving.api_keys import ApiKeys
from secondpass.serving.settings import ModelSource, Settings, is_loopback, model_source
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
    for wrong in ("", "=x", "a=", "a b=x", "é=x", "-a=x"):
        with pytest.raises(InvalidInput, match="is not name=folder"):
            model_source(wrong)
