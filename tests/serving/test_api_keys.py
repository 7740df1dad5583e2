"""API keys: where they come from, what opens, what is never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from secondpass.errors import InvalidInput
from secondpass.serving.api_keys import ApiKeys, read_keys

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
