"""What `CrossEncoder` has of sentence-transformers 4 to 6 besides the older contract: attributes and arguments."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput
from tests.model_spy import inputs_read
from tests.tiny_models import LENGTH, make_folder

QUERY = "how to reset the password"
DOCUMENTS = ["the cat sat", "reset the password", "a cold river", "house and garden"]
PAIRS = [(QUERY, document) for document in DOCUMENTS]
TEMPLATE = "{% for part in messages if part.role in ('query', 'document') %}{{ part.content }}{% endfor %}"
TOKEN: dict[str, Any] = {"token": "hf_secret"}
PROMPTS = {"web": "search: ", "empty": ""}


@pytest.fixture
def prompted(tiny_folder: str, tmp_path: Path) -> CrossEncoder:
    """A model whose folder brings prompts along."""
    CrossEncoder(tiny_folder, device="cpu").save(str(tmp_path / "model"))
    path = tmp_path / "model" / "config_sentence_transformers.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prompts": PROMPTS}))
    return CrossEncoder(str(tmp_path / "model"), device="cpu")


# ---- attributes


@pytest.mark.parametrize("labels", [1, 3])
def test_the_number_of_labels_and_the_processor(tiny_model_folder: Callable[..., str], labels: int) -> None:
    """Evaluators ask for the one, users of processors for the other."""
    encoder = CrossEncoder(tiny_model_folder("bert", labels), device="cpu")
    assert encoder.num_labels == labels
    assert encoder.processor is encoder.tokenizer


def test_the_activation_has_two_names(own_tiny: CrossEncoder) -> None:
    """Setting either is seen by both and by the next call; what cannot be called is refused by the name given."""
    assert own_tiny.activation_fn is own_tiny.default_activation_function
    logits = own_tiny.predict(PAIRS, activation_fct=nn.Identity())
    own_tiny.activation_fn = nn.Tanh()
    assert np.allclose(own_tiny.predict(PAIRS), np.tanh(logits), atol=1e-6)
    own_tiny.default_activation_function = nn.Identity()
    assert isinstance(own_tiny.activation_fn, nn.Identity)
    with pytest.raises(InvalidInput, match=r"activation_fn is the class Tanh; give an instance: Tanh\(\)"):
        own_tiny.activation_fn = nn.Tanh


def test_the_window_has_a_settable_name(own_tiny: CrossEncoder) -> None:
    """`max_seq_length` is a number also where `max_length` says nothing, and never more than the model can read."""
    assert (own_tiny.max_length, own_tiny.max_seq_length) == (None, LENGTH)
    own_tiny.max_seq_length = 16
    assert (own_tiny.max_length, own_tiny.max_seq_length, own_tiny.window) == (16, 16, 16)
    own_tiny.max_length = 24
    assert own_tiny.max_seq_length == 24
    own_tiny.max_seq_length = 100_000
    assert own_tiny.max_seq_length == LENGTH
    own_tiny.max_seq_length = None
    assert own_tiny.max_length is None
    with pytest.raises(InvalidInput, match="max_seq_length"):
        own_tiny.max_seq_length = 0


def test_repr_says_model_device_precision_and_window(tiny_folder: str) -> None:
    """On one line; a closed model and a refused window do not make it fail, and an access token is not in it."""
    encoder = CrossEncoder(tiny_folder, device="cpu", max_length=32, **TOKEN)
    assert repr(encoder) == f"CrossEncoder({tiny_folder!r}, device='cpu', precision='fp32', window=32)"
    encoder.max_length = 0
    assert "window=refused max_length=0" in repr(encoder)
    encoder.close()
    assert repr(encoder) == "CrossEncoder(closed)"


# ---- arguments of calls


def test_a_prompt_is_put_before_each_query(own_tiny: CrossEncoder) -> None:
    """The given text as it is, then the query; single texts and single pairs too, documents never."""
    expected = own_tiny.predict([("find: " + QUERY, document) for document in DOCUMENTS])
    assert np.array_equal(own_tiny.predict(PAIRS, prompt="find: "), expected)
    assert own_tiny.predict(PAIRS[0], prompt="find: ") == pytest.approx(expected[0], abs=1e-6)
    assert own_tiny.predict([(QUERY,)], prompt="find: ").tolist() == own_tiny.predict([("find: " + QUERY,)]).tolist()
    ranked = own_tiny.rank(QUERY, DOCUMENTS, prompt="find: ")
    assert [hit["score"] for hit in ranked] == sorted(expected.tolist(), reverse=True)
    assert own_tiny.predict(PAIRS, prompt="").tolist() == own_tiny.predict(PAIRS).tolist()


def test_a_blank_query_stays_refused_behind_a_prompt(tiny: CrossEncoder) -> None:
    """A prompt asks nothing."""
    with pytest.raises(InvalidInput, match="query is blank"):
        tiny.rank(" ", DOCUMENTS, prompt="find: ")


def test_a_prompt_by_its_name(prompted: CrossEncoder, tmp_path: Path) -> None:
    """Names come from the model's folder and go into what is saved; unknown ones are refused with those there are."""
    assert prompted.prompts == PROMPTS
    named = prompted.predict(PAIRS, prompt_name="web")
    assert named.tolist() == prompted.predict(PAIRS, prompt="search: ").tolist() != prompted.predict(PAIRS).tolist()
    assert prompted.rank(QUERY, DOCUMENTS, prompt_name="web") == prompted.rank(QUERY, DOCUMENTS, prompt="search: ")
    with pytest.raises(InvalidInput, match=r"prompt_name='other' is no prompt of this model; it has 'web', 'empty'$"):
        prompted.predict(PAIRS, prompt_name="other")
    with pytest.raises(InvalidInput, match="prompt and prompt_name"):
        prompted.predict(PAIRS, prompt_name="web", prompt="a")
    prompted.prompts["mine"] = "my "
    prompted.save(str(tmp_path / "again"))
    assert CrossEncoder(str(tmp_path / "again"), device="cpu").prompts == PROMPTS | {"mine": "my "}


def test_prompts_are_given_to_the_constructor(prompted: CrossEncoder) -> None:
    """Beside those of the folder; the default one is in every call, and a name that is none is refused."""
    folder = prompted.name
    made = CrossEncoder(folder, device="cpu", prompts={"mine": "my "}, default_prompt_name="mine", backend="torch")
    assert made.prompts == PROMPTS | {"mine": "my "}
    assert made.predict(PAIRS).tolist() == prompted.predict(PAIRS, prompt="my ").tolist()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"default_prompt_name": "other"}, "default_prompt_name='other' is none of"),
        ({"default_prompt_name": "web", "instruction": "a"}, "default_prompt_name and instruction"),
        ({"prompts": {"mine": None}}, r"prompts\['mine'\] is NoneType"),
        ({"prompts": ["my "]}, "prompts is list"),
        ({"backend": "onnx"}, r"backend='onnx': .*export_onnx\(\)"),
    ]
    for options, message in wrong:
        with pytest.raises(InvalidInput, match=message):
            CrossEncoder(folder, device="cpu", **options)


@pytest.mark.parametrize("name", ["keep_in_fp32_modules", "model_card_data", "modules"])
def test_what_the_constructor_has_no_place_for_is_told(tiny_folder: str, name: str) -> None:
    """The error says what does the same; of any other name it is Python's own."""
    given: dict[str, Any] = {name: None}
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}': "):
        CrossEncoder(tiny_folder, **given)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'colour'$"):
        CrossEncoder(tiny_folder, colour=None)  # type: ignore[call-overload]


def test_the_stored_default_prompt_is_in_every_call(prompted: CrossEncoder, tmp_path: Path) -> None:
    """That names none: `prompt=""` is none, and a saved copy has it too."""
    prompted.default_prompt_name = "web"
    prompted.save(str(tmp_path / "again"))
    encoder = CrossEncoder(str(tmp_path / "again"), device="cpu")
    assert encoder.default_prompt_name == "web"
    prompted.default_prompt_name = None
    wanted = prompted.predict(PAIRS, prompt="search: ")
    assert encoder.predict(PAIRS).tolist() == wanted.tolist() != encoder.predict(PAIRS, prompt="").tolist()
    assert encoder.rank(QUERY, DOCUMENTS) == prompted.rank(QUERY, DOCUMENTS, prompt="search: ")
    many = encoder.rank_many([QUERY], [DOCUMENTS])[0], prompted.rank_many([QUERY], [DOCUMENTS], prompt_name="web")[0]
    assert many[0].documents == many[1].documents
    tokens = encoder.tokens([QUERY], ["a dog"])[0], prompted.tokens(["search: " + QUERY], ["a dog"])[0]
    assert tokens[0].ids.tolist() == tokens[1].ids.tolist()
    batch = (
        encoder.collate([[QUERY, "a dog"]])["input_ids"],
        prompted.collate([["search: " + QUERY, "a dog"]])["input_ids"],
    )
    assert batch[0].tolist() == batch[1].tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": {"processes": []}}, "pool is not what this model's start_multi_process_pool gave"),
        ({"chunk_size": 0}, "chunk_size=0"),
        ({"device": ["cpu", "cuda"]}, "device: cpu and cuda devices"),
        ({"device": "toaster"}, "device='toaster'"),
        ({"prompt": 3}, "prompt is int, not str"),
    ],
)
def test_what_has_no_meaning_here_is_refused_by_name(tiny: CrossEncoder, options: dict[str, Any], message: str) -> None:
    """Before anything is computed or moved, also where there is nothing to score."""
    for call in (
        lambda: tiny.predict(PAIRS, **options),
        lambda: tiny.predict([], **options),
        lambda: tiny.rank(QUERY, DOCUMENTS, **options),
        lambda: tiny.rank(QUERY, [], **options),
    ):
        with pytest.raises(InvalidInput, match=message):
            call()


def test_a_device_is_where_the_call_computes_and_the_model_stays(own_tiny: CrossEncoder) -> None:
    """As in sentence-transformers 6. "meta" has no numbers, so moving there is seen without a second real device."""
    scores = own_tiny.predict(PAIRS, device="cpu", convert_to_tensor=True)
    assert (scores.device.type, own_tiny.device.type) == ("cpu", "cpu")
    assert own_tiny.predict(PAIRS, device=torch.device("cpu")).tolist() == scores.tolist()
    with pytest.raises(Exception, match=r"(?i)meta"):
        own_tiny.predict(PAIRS, device="meta")
    assert own_tiny.device.type == "meta"


def test_processing_is_not_changed_by_a_call(tiny: CrossEncoder) -> None:
    """A limit belongs to the model; an argument that would be ignored is none."""
    with pytest.raises(TypeError, match="processing_kwargs"):
        tiny.predict(PAIRS, processing_kwargs={"text": {"max_length": 4}})


def test_the_module_is_the_attribute_model(tiny: CrossEncoder) -> None:
    """The front door is no module itself; hooks on the transformers model hear each call."""
    assert not isinstance(tiny, nn.Module)
    with inputs_read(tiny) as read:
        tiny.predict(PAIRS)
    assert len(read) == len(PAIRS)


# ---- inputs


def test_arrays_of_texts_are_pairs(tiny: CrossEncoder) -> None:
    """One dimension is one pair, two are pairs, none is nothing, as the same lists are."""
    assert tiny.predict(np.array(PAIRS)).tolist() == tiny.predict(PAIRS).tolist()
    assert tiny.predict(np.array(PAIRS[0])) == tiny.predict(PAIRS[0])
    assert tiny.predict(np.array([], dtype=str)).shape == tiny.predict([]).shape == (0,)


def test_a_template_of_two_roles_is_read(tmp_path: Path) -> None:
    """As sentence-transformers 6 renders it, for a sequence classifier too; one of the chat alone is not."""
    folder = str(make_folder(tmp_path / "model", "bert"))
    plain = CrossEncoder(folder, device="cpu")
    chat = CrossEncoder(folder, device="cpu", tokenizer_args={"chat_template": "{{ messages[0].content }}"})
    assert (plain.template, chat.template) == (None, None)
    templated = CrossEncoder(folder, device="cpu", tokenizer_args={"chat_template": TEMPLATE})
    made = [templated.tokenizer.convert_ids_to_tokens(item.ids) for item in templated.tokens(["a"], ["cat"])]
    assert made == [["a", "cat"]]


def test_a_copy_has_its_own_card(tiny: CrossEncoder) -> None:
    """deepcopy takes the figures along, and what is added later belongs to one of them."""
    made = copy.deepcopy(tiny)
    made.model_card_data.set_evaluation_metrics(object(), {"ndcg": 0.5})
    assert tiny.model_card_data.measured == []
