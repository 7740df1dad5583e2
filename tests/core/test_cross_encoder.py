"""The public contract of `secondpass.CrossEncoder`: sentence-transformers 3.4's, and the newer names."""

from __future__ import annotations

import inspect
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.ao import quantization
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoModelForSequenceClassification, BertForSequenceClassification, PreTrainedModel

from secondpass import CallRecord, CrossEncoder, InputExample
from secondpass.errors import InvalidInput, ModelLoadError, SecondPassError
from secondpass.models.loading import devices_of
from tests.model_spy import inputs_read
from tests.tiny_models import LENGTH, ROUNDING, make_folder, make_model

QUERY = "how to reset the password"
DOCUMENTS = ["the cat sat", "reset the password", "a cold river", "house and garden"]
PAIRS = [(QUERY, document) for document in DOCUMENTS]

EMPTY = inspect.Parameter.empty
CONSTRUCTOR = [
    ("model_name", EMPTY),
    ("num_labels", None),
    ("max_length", None),
    ("device", None),
    ("automodel_args", None),
    ("tokenizer_args", None),
    ("config_args", None),
    ("cache_dir", None),
    ("trust_remote_code", False),
    ("revision", None),
    ("local_files_only", False),
    ("default_activation_function", None),
    ("classifier_dropout", None),
]
PREDICT = [
    ("sentences", EMPTY),
    ("batch_size", 32),
    ("show_progress_bar", None),
    ("num_workers", 0),
    ("activation_fct", None),
    ("apply_softmax", False),
    ("convert_to_numpy", True),
    ("convert_to_tensor", False),
]
CALL = ["prompt", "prompt_name", "instruction", "pool", "chunk_size", "device", "records", "truncation"]
RANK = [("query", EMPTY), ("documents", EMPTY), ("top_k", None), ("return_documents", False), *PREDICT[1:]]


@pytest.fixture
def three(tiny_model_folder: Callable[..., str]) -> CrossEncoder:
    """A model with three labels."""
    return CrossEncoder(tiny_model_folder("bert", 3), device="cpu")


def parameters(function: Callable[..., object], kind: Any) -> list[tuple[str, object]]:
    """Names and defaults of a function's parameters of one kind, `self` left out."""
    found = inspect.signature(function).parameters.values()
    return [(made.name, made.default) for made in found if made.kind is kind and made.name != "self"]


# ---- signatures


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (CrossEncoder.__init__, CONSTRUCTOR),
        (CrossEncoder.predict, PREDICT),
        (CrossEncoder.rank, RANK),
        (CrossEncoder.save, [("path", EMPTY)]),
        (CrossEncoder.save_pretrained, [("path", EMPTY)]),
        (CrossEncoder.push_to_hub, [("repo_id", EMPTY)]),
        (CrossEncoder.to, [("device", None)]),
    ],
)
def test_positional_arguments_are_the_seeds(
    function: Callable[..., object], expected: list[tuple[str, object]]
) -> None:
    """The same names in the same order with the same defaults; whatever is ours can only be given by name."""
    assert parameters(function, inspect.Parameter.POSITIONAL_OR_KEYWORD) == expected
    assert parameters(function, inspect.Parameter.VAR_POSITIONAL) == []


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (
            CrossEncoder.__init__,
            [
                "truncation",
                "max_batch_tokens",
                "max_documents",
                "token",
                "precision",
                "template",
                "true_token",
                "false_token",
                "instruction",
            ],
        ),
        (CrossEncoder.predict, CALL),
        (CrossEncoder.rank, ["relevance", *CALL, "budget_ms", "min_probability"]),
        (CrossEncoder.save, ["safe_serialization", "storage"]),
        (CrossEncoder.push_to_hub, ["commit_message", "private", "safe_serialization", "tags"]),
    ],
)
def test_named_arguments(function: Callable[..., object], expected: list[str]) -> None:
    """What a caller can add by name."""
    assert [name for name, _ in parameters(function, inspect.Parameter.KEYWORD_ONLY)] == expected


def test_all_thirteen_arguments_can_be_given_by_position(tiny_folder: str) -> None:
    """A call of the seed written without names does what it did."""
    activation = nn.Tanh()
    encoder = CrossEncoder(
        tiny_folder,
        1,
        64,
        "cpu",
        {"dtype": torch.float64},
        {"model_max_length": 100},
        {"hidden_dropout_prob": 0.25},
        None,
        False,
        None,
        True,
        activation,
        0.125,
    )
    assert encoder.max_length == 64
    assert encoder.model.dtype == torch.float64
    assert encoder.tokenizer.model_max_length == 100
    assert encoder.config.hidden_dropout_prob == 0.25
    assert encoder.config.classifier_dropout == 0.125
    assert encoder.default_activation_function is activation
    assert encoder.predict(PAIRS, 2, False, 0, nn.Identity(), False, False, True).shape == (4,)
    assert encoder.rank(QUERY, DOCUMENTS, 1, True, 2, False, 0, None, False, True, False)[0].keys() == {
        "corpus_id",
        "score",
        "text",
    }


# ---- attributes


def test_attributes(tiny: CrossEncoder) -> None:
    """The parts of a loaded model are where the seed has them."""
    assert isinstance(tiny.model, BertForSequenceClassification)
    assert tiny.config is tiny.model.config
    assert tiny.tokenizer.is_fast
    assert tiny.max_length is None
    assert isinstance(tiny.default_activation_function, nn.Sigmoid)
    assert tiny.device == torch.device("cpu")
    assert tiny.best_score is None
    assert not callable(tiny)


def test_to_returns_the_transformers_model(own_tiny: CrossEncoder) -> None:
    """As in the seed; the engine follows the model to its new device."""
    moved = own_tiny.to("cpu")
    assert moved is own_tiny.model
    assert isinstance(moved, PreTrainedModel)
    assert own_tiny.to() is moved
    own_tiny.to(torch.device("meta"))
    assert own_tiny.to(None) is own_tiny.model
    assert own_tiny.device == torch.device("meta")


def test_a_subclass_that_loads_nothing_is_told_how() -> None:
    """Its parts are properties of what is loaded: without super().__init__ each says so, and `name` cannot be set."""

    class Wrapped(CrossEncoder):
        def __init__(self, model: Any) -> None:
            self.model = model

    with pytest.raises(SecondPassError, match=r"super\(\)\.__init__"):
        Wrapped(BertForSequenceClassification(AutoConfig.for_model("bert", num_hidden_layers=1, vocab_size=9)))
    bare = Wrapped.__new__(Wrapped)
    for call in (lambda: bare.config, lambda: bare.num_labels, bare.engine, lambda: bare.tokenizer):
        with pytest.raises(SecondPassError, match=r"super\(\)\.__init__"):
            call()
    with pytest.raises(AttributeError, match="'name'"):
        bare.name = "mine"  # type: ignore[misc]


@pytest.mark.parametrize(
    "name", ["predict", "smart_batching_collate", "smart_batching_collate_text_only", "_eval_during_training"]
)
def test_a_method_that_is_overridden_in_vain_is_told(name: str) -> None:
    """When the class is made, and where; `predict` beside a `rank` of its own, and any other method, may be."""
    with pytest.warns(UserWarning, match=rf"^Mine\.{name}: ") as caught:
        type("Mine", (CrossEncoder,), {name: print})
    assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        type("Mine", (CrossEncoder,), {"predict": print, "rank": print, "fit": print})


def test_a_number_is_that_of_a_gpu() -> None:
    """As torch reads it; a bool is none."""
    assert devices_of(0) == devices_of([0]) == ("cuda:0",)
    for missing in (99, -1):
        with pytest.raises(InvalidInput, match=f"device='cuda:{missing}'"):
            CrossEncoder("secondpass/pocket", device=missing)
    with pytest.raises(InvalidInput, match="device is bool"):
        devices_of(True)


def test_the_old_name_of_the_device_is_deprecated(own_tiny: CrossEncoder) -> None:
    """`_target_device` warns when read, and moves the model when set."""
    with pytest.warns(DeprecationWarning, match="_target_device"):
        assert own_tiny._target_device == torch.device("cpu")
    own_tiny._target_device = None
    own_tiny._target_device = "meta"
    assert own_tiny.device == torch.device("meta")


# ---- newer names


@pytest.mark.parametrize(
    ("new", "old", "value"),
    [
        ("model_kwargs", "automodel_args", {"dtype": torch.float64}),
        ("tokenizer_kwargs", "tokenizer_args", {"model_max_length": 50}),
        ("processor_kwargs", "tokenizer_args", {"model_max_length": 50}),
        ("config_kwargs", "config_args", {"classifier_dropout": 0.5}),
        ("cache_folder", "cache_dir", "/nowhere"),
        ("activation_fn", "default_activation_function", nn.Tanh()),
        ("max_seq_length", "max_length", 40),
    ],
)
def test_newer_names_of_the_constructor(tiny_folder: str, new: str, old: str, value: Any) -> None:
    """Names of sentence-transformers 4 to 6 do the same without a warning; both at once are a mistake."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder = CrossEncoder(model_name_or_path=tiny_folder, device="cpu", **{new: value})
    twin = CrossEncoder(tiny_folder, device="cpu", **{old: value})
    for made in (encoder, twin):
        assert made.model.dtype == (torch.float64 if old == "automodel_args" else torch.float32)
        assert made.tokenizer.model_max_length == (50 if old == "tokenizer_args" else LENGTH)
        assert made.config.classifier_dropout == (0.5 if old == "config_args" else None)
        assert type(made.default_activation_function) is (
            nn.Tanh if old == "default_activation_function" else nn.Sigmoid
        )
        assert made.max_length == (40 if old == "max_length" else None)
    with pytest.raises(TypeError, match=f"both '{old}' and '{new}'"):
        CrossEncoder(tiny_folder, **{new: value, old: value})


def test_newer_names_of_the_calls(tiny: CrossEncoder) -> None:
    """`inputs` and `activation_fn` work as keywords of every scoring method, silently."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = tiny.predict(inputs=PAIRS, activation_fn=nn.Tanh())
        hits = tiny.rank(QUERY, DOCUMENTS, activation_fn=nn.Tanh())
        ranking = tiny.rank_many([QUERY], [DOCUMENTS], activation_fn=nn.Tanh())[0]
    assert np.array_equal(scores, tiny.predict(PAIRS, activation_fct=nn.Tanh()))
    assert [hit["score"] for hit in hits] == sorted(scores, reverse=True)
    assert [ranked.score for ranked in ranking.documents] == sorted(scores.tolist(), reverse=True)
    with pytest.raises(TypeError, match="both 'sentences' and 'inputs'"):
        tiny.predict(sentences=PAIRS, inputs=PAIRS)
    with pytest.raises(TypeError, match="both 'activation_fct' and 'activation_fn'"):
        tiny.rank(QUERY, DOCUMENTS, activation_fct=nn.Tanh(), activation_fn=nn.Tanh())
    with pytest.raises(TypeError, match="model_name"):
        CrossEncoder("a", model_name_or_path="b")


# ---- number of labels, activation


@pytest.mark.parametrize(("stored", "asked", "made"), [(3, None, 3), (1, None, 1), (3, 3, 3)])
def test_a_trained_checkpoint_keeps_its_labels(
    tiny_model_folder: Callable[..., str], stored: int, asked: int | None, made: int
) -> None:
    """Without `num_labels` the config decides."""
    encoder = CrossEncoder(tiny_model_folder("bert", stored), asked, device="cpu")
    assert encoder.config.num_labels == made
    assert encoder.predict(PAIRS).shape == ((4,) if made == 1 else (4, made))


def test_asking_for_labels_makes_a_new_head(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An encoder without a head gets the asked number of labels, with a warning, and `id2label` follows."""
    folder = make_folder(tmp_path, "bert")
    model = BertForSequenceClassification.from_pretrained(folder)
    model.bert.save_pretrained(folder)
    encoder = CrossEncoder(str(folder), num_labels=4, device="cpu")
    assert encoder.predict(PAIRS).shape == (4, 4)
    assert len(encoder.config.id2label) == 4
    assert "untrained head" in caplog.text
    with pytest.raises(OSError, match="num_labels="):
        CrossEncoder(str(folder), device="cpu")


def test_the_default_activation_follows_the_labels(tiny: CrossEncoder, three: CrossEncoder) -> None:
    """Sigmoid for one label, none for several; an argument wins over both and over the stored one."""
    logits = tiny.predict(PAIRS, activation_fct=nn.Identity())
    assert np.allclose(tiny.predict(PAIRS), 1 / (1 + np.exp(-logits)), atol=1e-6)
    assert np.array_equal(three.predict(PAIRS), three.predict(PAIRS, activation_fct=nn.Identity()))


def test_the_activation_attribute_is_in_force_at_once(own_tiny: CrossEncoder) -> None:
    """It may be set on a loaded model."""
    own_tiny.default_activation_function = nn.Identity()
    assert np.array_equal(own_tiny.predict(PAIRS), own_tiny.predict(PAIRS, activation_fct=nn.Identity()))


# ---- another model in its place


def _other(folder: str) -> Any:
    """The same architecture with another head, in training mode."""
    other: Any = BertForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        other.classifier.weight.mul_(-2.0)
    return other.train()


def test_a_model_that_is_put_in_its_place_is_scored_and_saved(
    own_tiny: CrossEncoder, tiny_folder: str, tmp_path: Path
) -> None:
    """Every call is computed from it from then on, without dropout, and what is saved gives the same scores."""
    before, other = own_tiny.predict(PAIRS), _other(tiny_folder)
    other.save_pretrained(tmp_path / "other")
    own_tiny.tokenizer.save_pretrained(tmp_path / "other")
    wanted = CrossEncoder(str(tmp_path / "other"), device="cpu").predict(PAIRS)
    assert not np.allclose(before, wanted)
    own_tiny.model = other
    assert own_tiny.model is other
    np.testing.assert_allclose(own_tiny.predict(PAIRS), wanted, atol=ROUNDING)
    ranked = {hit["corpus_id"]: hit["score"] for hit in own_tiny.rank(QUERY, DOCUMENTS)}
    assert [ranked[place] for place in range(len(DOCUMENTS))] == pytest.approx(wanted.tolist(), abs=ROUNDING)
    own_tiny.save(str(tmp_path / "saved"))
    again = CrossEncoder(str(tmp_path / "saved"), device="cpu").predict(PAIRS)
    np.testing.assert_allclose(again, wanted, atol=ROUNDING)


def test_fit_trains_the_model_that_is_put_in_its_place(own_tiny: CrossEncoder, tiny_folder: str) -> None:
    """And scores follow what it learns."""
    own_tiny.model = other = _other(tiny_folder)
    before, weights = own_tiny.predict(PAIRS), other.classifier.weight.detach().clone()
    batch = [InputExample(texts=list(pair), label=1) for pair in PAIRS]
    own_tiny.fit(DataLoader(batch, 4), warmup_steps=0, optimizer_params={"lr": 1e-2}, show_progress_bar=False)
    assert not torch.equal(other.classifier.weight, weights)
    assert not np.allclose(own_tiny.predict(PAIRS), before)


def test_a_model_of_another_head_has_its_own_labels(own_tiny: CrossEncoder, three: CrossEncoder) -> None:
    """No column of several is taken for the score."""
    own_tiny.model = three.model
    assert own_tiny.num_labels == 3
    logits = own_tiny.predict(PAIRS, activation_fct=nn.Identity())
    np.testing.assert_allclose(logits, three.predict(PAIRS, activation_fct=nn.Identity()), atol=ROUNDING)


@pytest.mark.parametrize("stored", [None, 24])
def test_a_model_in_its_place_has_its_own_window(tiny_folder: str, tmp_path: Path, stored: int | None) -> None:
    """Longer texts are cut for it, and not beyond what the folder says; one of fewer ids is refused."""
    copied = tmp_path / "copied"
    shutil.copytree(tiny_folder, copied)
    if stored:
        first = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
        (copied / "modules.json").write_text(json.dumps([first]))
        (copied / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": stored}))
    encoder = CrossEncoder(str(copied), device="cpu")
    before, own = encoder.window, encoder.model
    make_folder(tmp_path / "short", "bert", max_position_embeddings=32)
    encoder.model = CrossEncoder(str(tmp_path / "short"), device="cpu").model
    assert encoder.window == (stored or 32) < LENGTH
    assert np.isfinite(encoder.predict([(QUERY, "mat " * 200)])).all()
    with pytest.raises(ModelLoadError, match=r"^model: the tokenizer has ids up to"):
        encoder.model = make_model("bert", 9)
    encoder.model = own
    assert encoder.window == before


def test_quantised_layers_are_computed(own_tiny: CrossEncoder) -> None:
    """By transformers' own forward: no family of ours has them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantise: Any = quantization.quantize_dynamic
        quantised = quantise(own_tiny.model, {nn.Linear}, dtype=torch.qint8)
        own_tiny.model = quantised
        (ids,) = own_tiny.tokens([QUERY], [DOCUMENTS[0]])
        with torch.inference_mode():
            given = {
                "input_ids": torch.tensor([ids.ids.tolist()]),
                "token_type_ids": torch.tensor([ids.type_ids.tolist()]),
            }
            expected = quantised(**given, attention_mask=torch.ones_like(given["input_ids"])).logits
        score = own_tiny.predict(PAIRS[0], activation_fct=nn.Identity())
    assert score == pytest.approx(expected.item(), abs=1e-5)


def test_what_is_no_model_is_refused(own_tiny: CrossEncoder) -> None:
    """The model of before stays."""
    before = own_tiny.predict(PAIRS)
    for wrong in (None, "a name", nn.Linear(2, 1)):
        with pytest.raises(InvalidInput, match=f"^model is {type(wrong).__name__}, not a model of transformers$"):
            own_tiny.model = wrong
    np.testing.assert_array_equal(own_tiny.predict(PAIRS), before)


# ---- window


def test_max_length_is_in_force_at_once(own_tiny: CrossEncoder) -> None:
    """The attribute is read at each call."""
    long = ("cat", "mat " * 200)
    with inputs_read(own_tiny) as read:
        for length in (None, 40, 10, 5):
            own_tiny.max_length = length
            own_tiny.predict(long)
    assert [len(ids) for ids in read] == [LENGTH, 40, 10, 5]
    for wrong in (0, "12", True):
        own_tiny.max_length = wrong
        with pytest.raises(InvalidInput, match=f"max_length={wrong!r} is not a positive int"):
            own_tiny.predict(long)
    own_tiny.max_length = 4
    with pytest.raises(InvalidInput, match=r"a window of 4 tokens \(max_length\) leaves no room"):
        own_tiny.predict(long)


# ---- close


def test_a_closed_encoder_says_so(own_tiny: CrossEncoder) -> None:
    """The weights are let go; whatever needs them raises the same clear error; closing twice is fine."""
    own_tiny.close()
    own_tiny.close()
    assert own_tiny.model is None
    calls: list[Callable[[], object]] = [
        lambda: own_tiny.predict(PAIRS),
        lambda: own_tiny.predict([]),
        lambda: own_tiny.rank(QUERY, DOCUMENTS),
        lambda: own_tiny.rank_many([QUERY], [DOCUMENTS]),
        lambda: own_tiny.save("never"),
        lambda: own_tiny.fit([]),
        lambda: own_tiny.to("cpu"),
        lambda: own_tiny.device,
    ]
    for call in calls:
        with pytest.raises(SecondPassError):
            call()


def _recommending(folder: str, path: Path, value: object) -> str:
    shutil.copytree(folder, path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"secondpass": {"precision": value}}))
    return str(path)


def test_the_default_precision_is_exact_unless_the_model_recommends_another(tiny_folder: str, tmp_path: Path) -> None:
    """Checkpoints of others keep their scores on every machine; the embedded model takes the fast path; a wish wins."""
    assert CrossEncoder(tiny_folder, device="cpu").precision == "fp32"
    assert CrossEncoder(tiny_folder, device="cpu", automodel_args={"dtype": torch.bfloat16}).precision == "auto"
    assert CrossEncoder("secondpass/pocket", device="cpu").precision == "auto"
    assert CrossEncoder("secondpass/pocket", device="cpu", precision="fp32").precision == "fp32"
    folder = _recommending(tiny_folder, tmp_path / "model", "bf16")
    encoder = CrossEncoder(folder, device="cpu")
    assert (encoder.precision, encoder.dtype) == ("bf16", torch.bfloat16)
    encoder = CrossEncoder(folder, device="cpu", precision="fp32")
    assert (encoder.precision, encoder.dtype) == ("fp32", torch.float32)


def test_weights_that_become_half_are_computed_so_unless_float32_was_asked_for(tiny_folder: str) -> None:
    """`model.half()` after loading is how users of sentence-transformers ask for float16."""
    for asked, said, dtype in ((None, "auto", torch.float16), ("fp32", "fp32", torch.float32)):
        encoder = CrossEncoder(tiny_folder, device="cpu", precision=asked)
        assert (encoder.precision, encoder.dtype) == ("fp32", torch.float32)
        encoder.model.half()
        assert (encoder.precision, encoder.dtype) == (said, dtype)
        records: list[CallRecord] = []
        encoder.predict(PAIRS, records=records)
        assert records[0].dtype == str(dtype).removeprefix("torch.")


def test_a_wrong_recommendation_is_named_and_can_be_overridden(tiny_folder: str, tmp_path: Path) -> None:
    """Nobody is locked out of a model by a key in its config."""
    folder = _recommending(tiny_folder, tmp_path / "model", "fastest")
    with pytest.raises(ModelLoadError, match=r"secondpass\.precision='fastest' is none of auto, fp32, bf16"):
        CrossEncoder(folder, device="cpu")
    assert CrossEncoder(folder, device="cpu", precision="auto").precision == "auto"


def test_a_recommendation_travels_with_copies(tiny_folder: str, tmp_path: Path) -> None:
    """Fine-tuned copies too: what is saved has the key, and loads here and in transformers."""
    encoder = CrossEncoder(_recommending(tiny_folder, tmp_path / "model", "auto"), device="cpu")
    examples = [
        InputExample(texts=["the cat", "the mat"], label=1.0),
        InputExample(texts=["a dog", "paris"], label=0.0),
    ]
    encoder.fit(DataLoader(examples, batch_size=2), epochs=1, output_path=str(tmp_path / "tuned"))
    again = CrossEncoder(str(tmp_path / "tuned"), device="cpu")
    assert again.precision == "auto"
    assert np.allclose(again.predict(PAIRS), encoder.predict(PAIRS), rtol=0, atol=1e-6)
    config = AutoConfig.from_pretrained(tmp_path / "tuned")
    assert config.secondpass == {"precision": "auto"}
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "tuned")
    inputs = encoder.tokenizer(*map(list, zip(*PAIRS, strict=True)), padding=True, return_tensors="pt")
    with torch.inference_mode():
        expected = torch.sigmoid(theirs(**inputs).logits[:, 0]).numpy()
    assert np.allclose(again.predict(PAIRS), expected, rtol=0, atol=1e-5)
