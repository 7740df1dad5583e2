"""One model for many threads, and the free-form dictionaries of YAML that it is loaded with."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from haystack import Document, Pipeline
from haystack.core.errors import DeserializationError
from haystack_integrations.common.secondpass.model_lifecycle import SharedModel
from haystack_integrations.common.secondpass.parameters import ALLOWED, engine_arguments
from haystack_integrations.components.rankers.secondpass import SecondPassRanker

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput, SecondPassError
from tests.tiny_models import make_decoder


class Weights:
    """Something to load; knows whether it was closed."""

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        """Count the call."""
        self.closed += 1


def test_threads_that_ask_together_get_one_load() -> None:
    """Eight threads behind one barrier see the same object, and the loader runs once."""
    shared = SharedModel()
    barrier = threading.Barrier(8)
    loads = []

    def load() -> Weights:
        loads.append(threading.get_ident())
        return Weights()

    def ask(_: int) -> int:
        barrier.wait()
        with shared.lend(load) as weights:
            return id(weights)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ask, range(8)))) == 1
    assert len(loads) == 1


def test_a_failed_load_is_tried_again() -> None:
    """An exception of the loader reaches the caller and leaves nothing behind."""
    shared = SharedModel()

    def fail() -> Weights:
        raise OSError("no such folder")

    with pytest.raises(OSError, match="no such folder"), shared.lend(fail):
        pass
    with shared.lend(Weights) as weights:
        assert weights.closed == 0
    with shared.lend(fail) as same:
        assert same is weights


def test_close_waits_for_the_last_user() -> None:
    """A model in use is closed once, by the call that gives it back last; the next call loads another."""
    shared = SharedModel()
    with shared.lend(Weights) as first:
        with shared.lend(Weights) as same:
            assert same is first
            shared.close()
            with shared.lend(Weights) as second:
                assert second is not first
        assert first.closed == 0
    assert first.closed == 1
    assert second.closed == 0
    shared.close()
    assert second.closed == 1


def test_close_without_a_model_does_nothing() -> None:
    """Closing is idempotent."""
    shared = SharedModel()
    shared.close()
    with shared.lend(Weights) as weights:
        pass
    shared.close()
    shared.close()
    assert weights.closed == 1


def test_an_error_inside_the_block_gives_the_model_back() -> None:
    """A call that raises does not keep the model open for ever."""
    shared = SharedModel()
    with pytest.raises(RuntimeError), shared.lend(Weights) as weights:
        raise RuntimeError
    shared.close()
    assert weights.closed == 1


TYPE = "haystack_integrations.components.rankers.secondpass.ranker.SecondPassRanker"
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("model_kwargs", {"trust_remote_code": True}, "in Python"),
    ("model_kwargs", {"trust_remote_code": False}, "in Python"),
    ("model_kwargs", {"code_revision": "main"}, "in Python"),
    ("model_kwargs", {"weights_only": False}, "only safetensors"),
    ("model_kwargs", {"use_safetensors": False}, "only safetensors"),
    ("model_kwargs", {"quantization_config": {"quant_method": "gptq"}}, "quantisation library"),
    ("model_kwargs", {"load_in_8bit": True}, "quantisation library"),
    ("model_kwargs", {"token": "hf_secret"}, "a Secret"),
    ("model_kwargs", {"use_auth_token": "hf_secret"}, "a Secret"),
    ("model_kwargs", {"attn_implementation": "someone/kernel"}, "cannot be 'someone/kernel'"),
    ("model_kwargs", {"dtype": "int8"}, "cannot be 'int8'"),
    ("model_kwargs", {"gguf_file": "a.gguf"}, "allowed are attn_implementation"),
    ("model_kwargs", {"_attn_implementation_internal": "someone/kernel"}, "allowed are attn_implementation"),
    ("model_kwargs", {"device_map": 3}, "cannot be 3"),
    ("tokenizer_kwargs", {"trust_remote_code": True}, "in Python"),
    ("tokenizer_kwargs", {"tokenizer_type": "bert"}, "allowed are add_prefix_space"),
    ("tokenizer_kwargs", {"use_fast": False}, "cannot be False"),
    ("tokenizer_kwargs", {"model_max_length": -1}, "cannot be -1"),
    ("tokenizer_kwargs", {"truncation_side": "middle"}, "cannot be 'middle'"),
    ("config_kwargs", {"trust_remote_code": True}, "in Python"),
    ("config_kwargs", {"auto_map": {"AutoModel": "evil.Model"}}, "in Python"),
    ("config_kwargs", {"architectures": ["Evil"]}, "allowed are attention_probs_dropout_prob"),
    ("config_kwargs", {"hidden_dropout_prob": 2}, "cannot be 2"),
    ("config_kwargs", {"num_labels": 2}, "cannot be 2"),
]


@pytest.mark.parametrize(("parameter", "value", "reason"), REFUSED)
def test_a_free_argument_that_could_do_harm_is_refused(parameter: str, value: dict[str, Any], reason: str) -> None:
    """No key of the three dictionaries reaches remote code, pickle or another library; the key is named."""
    (key,) = value
    with pytest.raises(DeserializationError, match=rf"(?s)Original error: {parameter}\['{key}'\] .*{reason}"):
        Pipeline.loads(
            yaml.safe_dump({"components": {"ranker": {"type": TYPE, "init_parameters": {parameter: value}}}})
        )


def test_the_documented_keys_are_the_allowed_ones() -> None:
    """What the docstring lists for each of the three parameters is the list in the code."""
    text = " ".join(SecondPassRanker.__init__.__doc__.split())
    for parameter, allowed in ALLOWED.items():
        documented = text.split(f":param {parameter}:")[1].split("Allowed: ")[1].split(".")[0]
        assert sorted(key.split(" (")[0] for key in documented.split(", ")) == sorted(allowed)


EXAMPLES: dict[str, Any] = {
    "add_prefix_space": True,
    "attention_probs_dropout_prob": 0.5,
    "attn_implementation": "eager",
    "cache_dir": "somewhere",
    "classifier_dropout": 0.5,
    "device_map": {"": "cpu"},
    "do_lower_case": False,
    "dtype": "float32",
    "hidden_dropout_prob": 0.5,
    "local_files_only": True,
    "max_position_embeddings": 128,
    "model_max_length": 64,
    "num_labels": 1,
    "pad_token": "[PAD]",
    "padding_side": "right",
    "revision": "main",
    "strip_accents": False,
    "tokenize_chinese_chars": False,
    "torch_dtype": torch.float32,
    "truncation_side": "right",
    "use_fast": True,
    "use_safetensors": True,
}
# for folders of other kinds, below
OTHERS = {"variant", "template", "true_token", "false_token"}


@pytest.mark.parametrize(
    ("parameter", "key"),
    [(parameter, key) for parameter, keys in ALLOWED.items() for key in keys if key not in OTHERS],
)
def test_an_allowed_free_argument_loads(
    make_ranker: Callable[..., SecondPassRanker], documents: list[Document], parameter: str, key: str
) -> None:
    """What the list lets through is taken by the engine, after a round through YAML."""
    ranker = make_ranker(**{parameter: {key: EXAMPLES[key]}})
    pipeline = Pipeline()
    pipeline.add_component("ranker", ranker)
    loaded = Pipeline.loads(pipeline.dumps()).get_component("ranker")
    assert loaded.run(query="apple", documents=documents)["reranked"] is True


def test_a_plain_language_model_is_told_its_template(tmp_path: Path, documents: list[Document]) -> None:
    """`template`, `true_token` and `false_token` make a reranker of it, through YAML too; without it is refused."""
    folder = make_decoder(tmp_path / "qwen3", "qwen3", chat=None, length=512)
    told: dict[str, Any] = {"template": "qwen3-reranker", "true_token": "yes", "false_token": "no"}
    pipeline = Pipeline()
    pipeline.add_component("ranker", SecondPassRanker(model=folder, device="cpu", model_kwargs=told))
    loaded = Pipeline.loads(pipeline.dumps()).get_component("ranker")
    ranked = loaded.run(query="apple", documents=documents)["documents"]
    encoder = CrossEncoder(str(folder), device="cpu", **told)
    expected = encoder.rank("apple", [document.content for document in documents])
    assert [document.score for document in ranked] == pytest.approx([hit["score"] for hit in expected], abs=1e-6)
    with pytest.raises(SecondPassError, match="template"):
        SecondPassRanker(model=folder, device="cpu").warm_up()


def test_a_variant_names_other_weights(tiny_folder: str, tmp_path: Path, documents: list[Document]) -> None:
    """`variant: fp16` reads model.fp16.safetensors."""
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    ranker = SecondPassRanker(model=folder, device="cpu", model_kwargs={"variant": "fp16"})
    assert ranker.run(query="apple", documents=documents)["reranked"] is True


def test_a_name_of_a_dtype_is_that_dtype(make_ranker: Callable[..., SecondPassRanker]) -> None:
    """`dtype: bfloat16` in YAML, without "torch.", is torch's bfloat16 before it meets any model; "auto" stays."""
    with make_ranker(model_kwargs={"dtype": "bfloat16"}).lent_model() as encoder:
        assert encoder.model.dtype is torch.bfloat16
    for name, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16), ("auto", "auto")):
        assert engine_arguments({"torch_dtype": name}, None, None)["automodel_args"] == {"torch_dtype": dtype}


def test_a_model_has_one_source(tiny_folder: str) -> None:
    """Two revisions for parts of one model are refused at once; one holds for all files."""
    with pytest.raises(InvalidInput, match="revision is 'a' and 'b'"):
        SecondPassRanker(model_kwargs={"revision": "a"}, tokenizer_kwargs={"revision": "b"})
    same = SecondPassRanker(model=tiny_folder, model_kwargs={"revision": "a"}, config_kwargs={"revision": "a"})
    assert engine_arguments(same.model_kwargs, same.tokenizer_kwargs, same.config_kwargs) == {
        "automodel_args": {},
        "tokenizer_args": {},
        "config_args": {},
        "revision": "a",
    }


def test_a_null_in_a_free_argument_asks_for_nothing(make_ranker: Callable[..., SecondPassRanker]) -> None:
    """`revision: null` in YAML loads as if it were not there."""
    make_ranker(model_kwargs={"revision": None, "dtype": None}, tokenizer_kwargs={"padding_side": None}).warm_up()
