"""What needs torch says so where it is not installed: for what, and the line that installs it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import pytest

from secondpass import CrossEncoder, InputExample
from secondpass.biencoder import BiEncoder
from secondpass.cli.output import message
from secondpass.errors import MissingExtra, ModelLoadError
from secondpass_pipelines.pipeline_files import load_pipeline, pipeline_file
from tests.without_torch.conftest import Run

# The extras that train and export bring torch with them.
INSTALL = re.compile(r'pip install "secondpass\[(torch|train|onnx)\]"')
POCKET = "secondpass/pocket"
PAIR = [("cat", "a cat"), ("cat", "a dog")]
ASKED = "{instruction} {query} {document}"
EXAMPLES = [[InputExample(texts=["cat", "a cat"], label=1.0)]]


@pytest.fixture(scope="module")
def encoder() -> CrossEncoder:
    """The embedded model, which needs no torch by itself."""
    return CrossEncoder(POCKET)


CALLS: dict[str, Callable[[CrossEncoder], object]] = {
    "the model of transformers": lambda encoder: encoder.model,
    "its config": lambda encoder: encoder.config,
    "tensors": lambda encoder: encoder.predict(PAIR, convert_to_tensor=True),
    "a list of tensors": lambda encoder: encoder.predict(PAIR, convert_to_numpy=False),
    "a ranking in tensors": lambda encoder: encoder.rank("cat", ["a cat"], convert_to_tensor=True),
    "another device": lambda encoder: encoder.to("cuda"),
    "another device for a call": lambda encoder: encoder.predict(PAIR, device="cuda"),
    "another device for a ranking": lambda encoder: encoder.rank("cat", ["a cat"], device="cuda:1"),
    "an activation of torch's way": lambda encoder: encoder.predict(PAIR, activation_fct=lambda x: x.sigmoid()),
    "training": lambda encoder: encoder.fit(EXAMPLES),  # type: ignore[arg-type]
    "inputs as tensors": lambda encoder: encoder.collate([["cat", "a cat"]]),
    "saving as int8": lambda encoder: encoder.save("out", storage="int8"),
    "saving another limit": lambda encoder: CrossEncoder(POCKET, max_length=64).save("out"),
    "saving an instruction": lambda encoder: CrossEncoder(POCKET, template=ASKED, instruction="x").save("out"),
    "upload": lambda encoder: encoder.push_to_hub("me/mine"),
    "ONNX": lambda encoder: encoder.export_onnx("out"),
    "loading for another device": lambda encoder: CrossEncoder(POCKET, device="cuda"),
    "arguments of transformers": lambda encoder: CrossEncoder(POCKET, automodel_args={"dtype": "bfloat16"}),
    "a bi-encoder": lambda encoder: BiEncoder(POCKET),
    "a run of training": lambda encoder: import_module("secondpass.training").train,
}


def said(error: BaseException) -> str:
    """The one line of an error, which names what is needed and for what."""
    line = message(error)
    why, end = INSTALL.split(line)[0], INSTALL.search(line)
    assert end, line
    assert line.endswith(end[0])
    assert len(why.split()) > 5, line
    return line


@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_needs_torch_says_so(
    call: str, encoder: CrossEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ImportError of ours, and the model goes on as before."""
    monkeypatch.chdir(tmp_path)
    before = encoder.predict(PAIR).tolist()
    with pytest.raises(MissingExtra) as raised:
        CALLS[call](encoder)
    said(raised.value)
    assert isinstance(raised.value, ImportError)
    assert list(tmp_path.iterdir()) == []
    assert encoder.predict(PAIR).tolist() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vocab_size": 30_000}, "the embeddings have shape"),
        ({"num_hidden_layers": 0}, "num_hidden_layers of config.json is 0"),
    ],
)
def test_a_damaged_folder_is_no_want_of_torch(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    """What torch would refuse is refused, and nothing is to be installed for it."""
    copy_with(tmp_path, change)
    with pytest.raises(ModelLoadError, match=said) as refused:
        CrossEncoder(str(tmp_path))
    assert "pip install" not in str(refused.value)


def copy_with(folder: Path, change: dict[str, Any]) -> None:
    """The embedded model with some settings changed."""
    pocket = Path(str(resources.files("secondpass"))) / "pocket"
    config = json.loads((pocket / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    for own in pocket.iterdir():
        if own.is_dir():
            shutil.copytree(own, folder / own.name)
        elif own.name != "config.json":
            (folder / own.name).symlink_to(own)


@pytest.mark.parametrize(
    "architecture", ["Qwen3ForCausalLM", "GPT2ForSequenceClassification", "XLNetForSequenceClassification"]
)
def test_another_architecture_says_so(architecture: str, tmp_path: Path) -> None:
    """Decoders, and what transformers alone computes."""
    kind = architecture.partition("For")[0].lower()
    copy_with(tmp_path, {"architectures": [architecture], "model_type": kind})
    with pytest.raises(MissingExtra) as raised:
        CrossEncoder(str(tmp_path))
    assert architecture in said(raised.value) or kind in said(raised.value)


@pytest.mark.parametrize("line", ["secondpass train train.yaml", "secondpass export secondpass/pocket out"])
def test_a_command_that_needs_torch_says_so(line: str, run: Run, here: Path) -> None:
    """In one line, with the code of a failed run."""
    done: Any = run("secondpass train --example")
    (here / "train.yaml").write_text(done.stdout)
    result: Any = run(line)
    assert result.exit_code == 1, result.output
    (printed,) = result.stderr.strip().splitlines()
    assert INSTALL.search(printed), printed


@pytest.mark.parametrize(
    ("name", "extras"),
    [
        ("rerank_embedding", "embedding"),
        ("rerank_elasticsearch_bm25", "haystack-elasticsearch"),
        ("rerank_opensearch_hybrid", "embedding,haystack-opensearch"),
        ("index_elasticsearch", "haystack-elasticsearch"),
    ],
)
def test_a_pipeline_with_components_of_others_names_the_extras(name: str, extras: str) -> None:
    """All that bring what is in it, also where the namespace that a component would stand in is not there at all."""
    with pytest.raises(MissingExtra, match=rf"{name}\.yaml: haystack_integrations\.\S+ is not installed: ") as raised:
        load_pipeline(pipeline_file(name))
    assert str(raised.value).endswith(f'pip install "secondpass[{extras}]"')


def test_a_pipeline_that_trains_says_so() -> None:
    """Haystack wraps the error of the component that it cannot import."""
    with pytest.raises(Exception, match="train_reranker") as raised:
        load_pipeline(pipeline_file("train_reranker"))
    said(raised.value)
