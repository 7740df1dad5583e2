"""Parameters: what a YAML file may say, what it may not, and that it comes back as it was."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from haystack import Pipeline
from haystack.core.errors import DeserializationError
from haystack.utils import ComponentDevice, Secret
from haystack.utils.device import DeviceMap
from haystack_integrations.components.rankers.secondpass import SecondPassRanker

from secondpass.errors import InvalidInput

TYPE = "haystack_integrations.components.rankers.secondpass.ranker.SecondPassRanker"
NESTED = {
    "type": "haystack.components.rankers.meta_field.MetaFieldRanker",
    "init_parameters": {"meta_field": "rank"},
}


def from_yaml(**parameters: Any) -> SecondPassRanker:
    """Load the ranker of a pipeline file under Haystack's default allowlist."""
    text = yaml.safe_dump({"components": {"ranker": {"type": TYPE, "init_parameters": parameters}}})
    ranker = Pipeline.loads(text).get_component("ranker")
    assert isinstance(ranker, SecondPassRanker)
    return ranker


def test_every_parameter_has_a_default_and_is_dumped() -> None:
    """The dump of a default ranker lists all 29 parameters; the 18 of the stock ranker come first."""
    dumped = SecondPassRanker().to_dict()
    assert dumped == {
        "type": TYPE,
        "init_parameters": {
            "model": "secondpass/pocket",
            "device": None,
            "token": {"type": "env_var", "env_vars": ["HF_API_TOKEN", "HF_TOKEN"], "strict": False},
            "top_k": 10,
            "query_prefix": "",
            "query_suffix": "",
            "document_prefix": "",
            "document_suffix": "",
            "meta_fields_to_embed": [],
            "embedding_separator": "\n",
            "scale_score": True,
            "score_threshold": None,
            "trust_remote_code": False,
            "model_kwargs": None,
            "tokenizer_kwargs": None,
            "config_kwargs": None,
            "backend": "torch",
            "batch_size": 16,
            "truncation": None,
            "max_documents": None,
            "raise_on_failure": True,
            "precision": None,
            "relevance": None,
            "instruction": None,
            "keep": None,
            "windows": None,
            "budget_ms": None,
            "score_cache": None,
            "score_cache_mb": 256,
            "calibration": None,
            "min_probability": None,
            "when_nothing_relevant": "keep",
        },
    }


def test_parameters_come_back_from_yaml_as_they_were() -> None:
    """A dump of a ranker with nothing left at its default loads into a ranker with the same dump."""
    ranker = SecondPassRanker(
        model=Path("some") / "folder",
        device="cpu",
        token=Secret.from_env_var("MY_TOKEN"),
        top_k=3,
        query_prefix="a",
        query_suffix="b",
        document_prefix="c",
        document_suffix="d",
        meta_fields_to_embed=["title"],
        embedding_separator=" ",
        scale_score=False,
        score_threshold=0.0,
        model_kwargs={"torch_dtype": torch.bfloat16, "device_map": {"": "cpu"}},
        tokenizer_kwargs={"model_max_length": 64},
        config_kwargs={"num_labels": 1},
        batch_size=4,
        truncation="windows",
        windows={"tokens": 40, "overlap": 0, "most": 8, "aggregate": 2, "borders": "words", "select": "bm25"},
        budget_ms=50,
        score_cache=Path("some") / "scores.db",
        score_cache_mb=8,
        calibration=Path("some") / "calibration.json",
        min_probability=0.5,
        when_nothing_relevant="drop",
        max_documents=50,
        raise_on_failure=False,
        precision="bf16",
        relevance="expected",
    )
    pipeline = Pipeline()
    pipeline.add_component("ranker", ranker)
    loaded = Pipeline.loads(pipeline.dumps()).get_component("ranker")
    assert loaded.to_dict() == ranker.to_dict()
    assert loaded.model == str(Path("some") / "folder")
    assert loaded.model_kwargs["torch_dtype"] is torch.bfloat16
    assert loaded.token == Secret.from_env_var("MY_TOKEN")


def test_dumping_and_loading_leave_their_arguments_alone() -> None:
    """Neither the ranker's own dictionaries nor the caller's data change on the way."""
    given = {"dtype": torch.float16}
    ranker = SecondPassRanker(model_kwargs=given)
    dumped = ranker.to_dict()
    assert ranker.model_kwargs == given == {"dtype": torch.float16}
    before = json.dumps(dumped)
    assert SecondPassRanker.from_dict(dumped).model_kwargs == given
    assert json.dumps(dumped) == before
    given["dtype"] = torch.float32
    assert ranker.model_kwargs == {"dtype": torch.float16}


@pytest.mark.parametrize(
    ("requested", "dumped"),
    [(None, None), ("cpu", "cpu"), (ComponentDevice.from_str("cuda:1"), {"type": "single", "device": "cuda:1"})],
)
def test_a_dump_has_the_device_as_it_was_asked_for(requested: object, dumped: object) -> None:
    """A pipeline written on one machine does not pin that machine's device on another."""
    parameters = SecondPassRanker(device=requested).to_dict()["init_parameters"]
    assert parameters["device"] == dumped
    assert from_yaml(device=dumped).device == requested


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("toaster", "device: Unknown device type string 'toaster'"),
        ("disk", "device: The disk device"),
        ("cuda:x", "device: Device id must be an integer"),
        (0, "device is int, not ComponentDevice or str"),
        (ComponentDevice.from_multiple(DeviceMap.from_hf({"a": "cpu"})), "device: Only single devices"),
    ],
)
def test_a_device_that_cannot_be_used_is_refused_at_once(device: object, message: str) -> None:
    """Not only when the model is loaded."""
    with pytest.raises(InvalidInput, match=message):
        SecondPassRanker(device=device)


TEXTS = ("model", "query_prefix", "query_suffix", "document_prefix", "document_suffix", "embedding_separator")
OTHERS = ("top_k", "meta_fields_to_embed", "scale_score", "score_threshold", "trust_remote_code", "model_kwargs")
OURS = (
    "backend",
    "batch_size",
    "truncation",
    "max_documents",
    "raise_on_failure",
    "precision",
    "relevance",
    "device",
    "token",
)


@pytest.mark.parametrize("name", [*TEXTS, *OTHERS, *OURS])
def test_a_nested_object_in_place_of_a_value_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """YAML `{type: some.Class}` is refused before that class is made, for every parameter."""
    from haystack.components.rankers.meta_field import MetaFieldRanker

    made = []
    monkeypatch.setattr(MetaFieldRanker, "__init__", lambda self, **_: made.append(self))
    with pytest.raises(DeserializationError, match=rf"{name} (is an object with a type|must be)"):
        from_yaml(**{name: NESTED})
    assert made == []


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"model": 7}, "model is int, not str or Path"),
        ({"model": "  "}, "model is blank"),
        ({"query_prefix": None}, "query_prefix is NoneType, not str"),
        ({"document_suffix": {"a": "b"}}, "document_suffix is dict, not str"),
        ({"meta_fields_to_embed": "title"}, "meta_fields_to_embed is str, not a list of str"),
        ({"meta_fields_to_embed": ["title", 3]}, r"meta_fields_to_embed\[1\] is int, not str"),
        ({"scale_score": "false"}, "scale_score is str, not bool"),
        ({"score_threshold": True}, "score_threshold is bool, not float"),
        ({"top_k": "10"}, "top_k='10' is not a positive int"),
        ({"batch_size": 0}, "batch_size must be > 0"),
        ({"max_documents": 0}, "max_documents must be > 0"),
        ({"trust_remote_code": "yes"}, "trust_remote_code is str, not bool"),
        ({"backend": "onnx"}, "backend='onnx' is none of torch"),
        ({"truncation": "right"}, "truncation='right' is none of"),
        ({"precision": "fp16"}, "precision='fp16' is none of auto, fp32, bf16, int16, int8"),
        ({"precision": 16}, "precision=16 is none of"),
        ({"relevance": "best"}, "relevance='best' is neither 'expected' nor the index of a label"),
        ({"relevance": True}, "relevance=True is neither"),
        ({"relevance": -1}, "relevance=-1 is not a whole number from 0 on"),
        ({"raise_on_failure": 1}, "raise_on_failure is int, not bool"),
        ({"model_kwargs": ["dtype"]}, "model_kwargs is list, not dict"),
        (
            {"model": ["a", "b"], "model_kwargs": {"template": "zerank"}},
            "template is for one model, and",
        ),
    ],
)
def test_a_value_of_a_wrong_kind_is_refused_by_name(parameters: dict, message: str) -> None:
    """The same in Python and in YAML, where Haystack wraps the error and keeps its words."""
    with pytest.raises(InvalidInput, match=message):
        SecondPassRanker(**parameters)
    with pytest.raises(DeserializationError, match=message):
        from_yaml(**parameters)


def test_an_unknown_parameter_is_refused() -> None:
    """A misspelt name does not vanish."""
    with pytest.raises(DeserializationError, match="top_n"):
        from_yaml(top_n=3)


def test_remote_code_is_not_reachable_from_yaml() -> None:
    """The error says where it is."""
    with pytest.raises(DeserializationError, match=r"trust_remote_code=True is refused: .* secondpass\.CrossEncoder"):
        from_yaml(trust_remote_code=True)


@pytest.mark.parametrize("token", [{"type": "token", "token": "hf_clear"}, "hf_clear"])
def test_a_token_in_yaml_is_refused_and_not_repeated(token: object) -> None:
    """Only the name of an environment variable may stand there; the error does not carry the token into logs."""
    with pytest.raises(DeserializationError, match="token must be") as caught:
        from_yaml(token=token)
    assert "hf_clear" not in str(caught.value)
    with pytest.raises(InvalidInput) as refused:
        SecondPassRanker(token=token)
    assert "hf_clear" not in str(refused.value)


def test_a_token_is_not_dumped() -> None:
    """A Secret that holds the token itself cannot be written to YAML."""
    with pytest.raises(ValueError, match="Cannot serialize token-based secret"):
        SecondPassRanker(token=Secret.from_token("hf_clear")).to_dict()


def test_no_model_name_is_sent_as_telemetry() -> None:
    """A model may be a local path; there is nothing to report."""
    assert not hasattr(SecondPassRanker(), "_get_telemetry_data")


def test_namespace_folders_have_no_init_file() -> None:
    """One __init__.py there would hide every other Haystack integration."""
    import haystack_integrations.components.rankers.secondpass as package

    rankers = Path(package.__file__).parents[1]
    for folder in (rankers, rankers.parent, rankers.parents[1], rankers.parents[1] / "common"):
        assert not (folder / "__init__.py").exists()
    assert (rankers / "py.typed").exists()
