"""Finding a JDK both servers run on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers import java
from tests.servers.problems import NoServer


def jdk(home: Path, version: str, compiler: bool = True) -> Path:
    """Write what tells a JDK from a folder."""
    (home / "bin").mkdir(parents=True)
    (home / "release").write_text(f'IMPLEMENTOR="x"\nJAVA_VERSION="{version}"\n', encoding="utf-8")
    if compiler:
        (home / "bin" / "javac").touch()
    return home


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose only JDKs are in the folder given."""
    monkeypatch.setattr(java, "_PLACES", (str(tmp_path),))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return tmp_path


def test_one_too_old_too_new_or_without_compiler_is_passed_over(bare: Path) -> None:
    """OpenSearch 2 does not start on Java 24, neither server on 11."""
    jdk(bare / "a", "11.0.2")
    jdk(bare / "b", "25")
    jdk(bare / "c", "17.0.15", compiler=False)
    (bare / "d").mkdir()
    wanted = jdk(bare / "e", "21.0.1")
    assert java.find_java().home == wanted


def test_the_one_of_the_environment_comes_first(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it will do."""
    jdk(bare / "a", "17")
    wanted = jdk(bare / "deep" / "er", "21")
    monkeypatch.setenv("JAVA_HOME", str(wanted))
    assert java.find_java().home == wanted


def test_none_is_said_with_what_to_do(bare: Path) -> None:
    """One line that names the versions and the variable."""
    jdk(bare / "b", "25")
    with pytest.raises(NoServer, match=r"no JDK 17 to 23 with javac: .*JAVA_HOME"):
        java.find_java()


def test_no_maven_is_said(bare: Path) -> None:
    """It names the program that was looked for."""
    with pytest.raises(NoServer, match="mvn is not on the path"):
        java.find_maven()
