"""`CrossEncoder.push_to_hub`, against a hub on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput
from secondpass.models.card import HEAD, MARK
from tests.hub_server import COMMIT, Hub, running_hub
from tests.tiny_models import ROUNDING
from tests.toy_task import same, state

PAIRS = [("how to reset the password", "reset the password by email"), ("cat", "a cold river")]

# The hub client reads its address once, when it is imported: so in a process of its own.
PUSH = """
import sys
from torch import nn
from secondpass import CrossEncoder

encoder = CrossEncoder(sys.argv[1], max_length=77, device="cpu", default_activation_function=nn.Tanh())
print(encoder.push_to_hub("me/mine", token="hf_secret", private=True, tags="search"))
older = {"use_temp_dir": True, "exist_ok": True}
print(encoder.push_to_hub("me/mine", token="hf_secret", tags=["a", "cross-encoder"], commit_message="Second", **older))
"""
TOLD = """
import sys
from secondpass import CrossEncoder
from secondpass.calibration import Calibration

encoder = CrossEncoder(sys.argv[1], device="cpu")
encoder.use_calibration(Calibration("logistic", queries=9, rows=30))
encoder.model_card_data.set_evaluation_metrics(None, {"map": 0.25})
for name in ("new", "ours", "theirs"):
    encoder.push_to_hub(f"me/{name}", token="hf_secret", tags="search")
"""


def run(script: str, folder: str, hub: Hub, home: Path) -> str:
    """What a script prints that uploads the model of a folder to the hub."""
    settings = {"HF_HUB_OFFLINE": "0", "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, folder],
        env=os.environ | settings | {"HF_ENDPOINT": hub.address, "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def pushed(tiny_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, str]]:
    """The hub after two uploads of the tiny model, and what the calls returned."""
    with running_hub() as hub:
        yield hub, run(PUSH, tiny_folder, hub, tmp_path_factory.mktemp("home"))


def test_the_address_of_the_commit_is_returned(pushed: tuple[Hub, str]) -> None:
    """For each upload; the repository is made as private as was asked, with the caller's token."""
    hub, printed = pushed
    assert printed.split() == [f"{hub.address}/me/mine/commit/{COMMIT}"] * 2
    assert ["private" in json.dumps(made) for made in hub.created] == [True, False]
    assert hub.tokens == {"Bearer hf_secret"}
    assert hub.summaries == ["Upload CrossEncoder", "Second"]


def test_the_uploaded_files_are_the_model(pushed: tuple[Hub, str], tiny_folder: str, tmp_path: Path) -> None:
    """What arrives can be loaded and scores the same, with its activation and length; no pickle, no token."""
    hub, _ = pushed
    for name, content in hub.files.items():
        (tmp_path / name).write_bytes(content)
        assert b"hf_secret" not in content
        assert not name.endswith((".bin", ".pt", ".pkl"))
    again = CrossEncoder(str(tmp_path), device="cpu")
    assert type(again.default_activation_function).__name__ == "Tanh"
    assert again.tokenizer.model_max_length == 77
    local = CrossEncoder(tiny_folder, device="cpu", default_activation_function=again.default_activation_function)
    assert same(state(again), state(local))
    assert again.predict(PAIRS) == pytest.approx(local.predict(PAIRS), rel=0, abs=ROUNDING)


def test_the_card_is_tagged_cross_encoder_first(pushed: tuple[Hub, str]) -> None:
    """Search on the hub finds the model; the tag is there once, whether given or not."""
    card = pushed[0].files["README.md"].decode()
    assert yaml.safe_load(card.split("---")[1])["tags"] == ["cross-encoder", "a"]


def test_the_card_that_save_writes_is_uploaded(tiny_folder: str, tmp_path: Path) -> None:
    """In place of transformers' form and of ours on the hub, with the tags; one that somebody wrote stays there."""
    with running_hub() as hub:
        hub.served["me/ours/README.md"] = f"{HEAD}\n\n{MARK}\n\nold figures\n".encode()
        hub.served["me/theirs/README.md"] = b"---\nlicense: mit\n---\n# Mine\n"
        run(TOLD, tiny_folder, hub, tmp_path)
    tags = {name: yaml.safe_load(card.split("---")[1])["tags"] for name, card in hub.cards.items()}
    assert tags == {f"me/{name}": ["cross-encoder", "search"] for name in ("new", "ours", "theirs")}
    for name in ("me/new", "me/ours"):
        assert "| map | 0.25 |" in hub.cards[name]
        assert "It was fitted on 9 queries" in hub.cards[name]
        assert "old figures" not in hub.cards[name]
        assert "More Information Needed" not in hub.cards[name]
    assert hub.cards["me/theirs"].endswith("---\n# Mine\n")
    assert "license: mit" in hub.cards["me/theirs"]


def test_pickles_are_not_uploaded(tiny: CrossEncoder) -> None:
    """Refused before anything is sent."""
    with pytest.raises(InvalidInput, match="safe_serialization=False"):
        tiny.push_to_hub("me/mine", safe_serialization=False)


@pytest.mark.parametrize("name", ["use_temp_dir", "exist_ok"])
def test_what_uploading_always_does_cannot_be_refused(tiny: CrossEncoder, name: str) -> None:
    """A temporary folder, and a repository that is there: False is refused before anything is sent."""
    options: dict[str, Any] = {name: False}
    with pytest.raises(InvalidInput, match=f"^{name}=False"):
        tiny.push_to_hub("me/mine", **options)
