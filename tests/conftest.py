"""Fixtures every test may use: tiny random models made on the spot, and the engine on one of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["SECONDPASS_CACHE"] = "off"

import pytest
import torch

from secondpass import CrossEncoder
from tests.small_collection import write_beir
from tests.tiny_models import make_folder

pytest_plugins = ["tests.servers.fixtures"]


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """A factory of saved tiny random models, each made once: (architecture, num_labels) -> folder."""
    made: dict[tuple[str, int], str] = {}

    def folder(architecture: str, num_labels: int = 1) -> str:
        key = (architecture, num_labels)
        if key not in made:
            path = tmp_path_factory.mktemp(f"{architecture}-{num_labels}")
            make_folder(path, architecture, num_labels)
            made[key] = str(path)
        return made[key]

    return folder


@pytest.fixture(scope="session")
def tiny_folder(tiny_model_folder: Callable[..., str]) -> str:
    """A tiny random BERT with one label."""
    return tiny_model_folder("bert", 1)


@pytest.fixture(scope="session")
def tiny(tiny_folder: str) -> CrossEncoder:
    """The engine on `tiny_folder`; shared, so no test may change it."""
    return CrossEncoder(tiny_folder, device="cpu")


@pytest.fixture
def own_tiny(tiny_folder: str) -> CrossEncoder:
    """The same for a test that changes the object."""
    return CrossEncoder(tiny_folder, device="cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny models are slower on several threads than on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT interrupts the test and the children it starts, as at a terminal; a background job has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Labelled collections beside the checkout; tests that read them skip with the reason when there are none."""
    folder = Path(os.environ.get("SECONDPASS_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "cranfield").is_dir():
        pytest.skip(f"no labelled collections in {folder}: set SECONDPASS_DATA")
    return folder


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    """A BEIR folder of five documents and three queries with a relevant one."""
    return write_beir(tmp_path / "beir")
