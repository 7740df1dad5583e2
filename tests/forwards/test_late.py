"""Rules of late interaction: texts read apart, compared as `forwards.late` says, alike by every forward there is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput, ModelLoadError, NonFiniteScore
from secondpass.forwards.contract import Computation, Compute, Logits, Padding
from secondpass.forwards.description import LateComparison, mapped
from secondpass.forwards.kernel import native
from secondpass.forwards.late import LateForward, as_numpy, by_document, texts_of, whole
from secondpass.forwards.learning.packed import PackedForward, packable
from secondpass.forwards.module import Described, described
from secondpass.forwards.padded import TransformersForward
from secondpass.forwards.plain import PlainEncoder
from secondpass.forwards.readout import LateInteraction, ModuleChain, ReadoutModel
from secondpass.models.loading import LoadRequest, load
from secondpass.models.modules import LATE, WEIGHTS
from secondpass.models.saving import export_onnx, save
from secondpass.models.stored import open_model
from secondpass.scoring import score_rows
from secondpass.tokens import Tokens
from secondpass.training import trim_vocabulary
from tests.forwards.models import VOCABULARY
from tests.tiny_models import make_model, make_tokenizer

NAMES = ("input_ids", "attention_mask", "token_type_ids")
SHARPNESS = 7.0
FIRST, LAST = 2, 3
# Tokens of query and document between the special ones.
SIZES = ((3, 20), (3, 1), (1, 40), (0, 6), (5, 0), (0, 0), (12, 30))


def late_model(family: str = "bert", vocabulary: int = VOCABULARY, **config: Any) -> Any:
    """A tiny random encoder under late interaction of which every part counts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        late = LateInteraction(vocabulary, SHARPNESS)
        with torch.no_grad():
            late.importance.normal_()
            late.scales.copy_(torch.tensor([3.0, 5.0, -1.0]))
        body = make_model(family, vocabulary, **config).base_model
        for weight in body.parameters():
            weight.data.mul_(2)
        return ReadoutModel(body, ModuleChain([late])).eval()


def pair(query: Sequence[int], document: Sequence[int]) -> Tokens:
    """Both between special tokens of their own."""
    texts = [[FIRST, *query, LAST], [FIRST, *document, LAST]]
    ids = np.concatenate(texts).astype(np.int32)
    return Tokens(ids, np.repeat(np.arange(2, dtype=np.int32), [len(text) for text in texts]))


def pairs() -> list[Tokens]:
    """Of all sizes; the first two share their query."""
    rng = np.random.default_rng(1)
    words = [[rng.integers(5, VOCABULARY, size).tolist() for size in sizes] for sizes in SIZES]
    words[1][0] = words[0][0]
    return [pair(*own) for own in words]


def padded(model: Any, left: bool = False) -> Compute:
    """transformers' own modules over rectangles."""
    return TransformersForward(model, NAMES, Padding(0, 0, left)).ready().logits


def own_of(model: Any) -> Described:
    """A model's weights, which a family of ours covers."""
    made = described(model)
    assert made is not None
    return made


def by_hand(model: Any, item: Tokens) -> float:
    """The formula, text by text, in float64."""
    parts = []
    for number in (0, 1):
        ids = torch.from_numpy(item.ids[item.type_ids == number].astype(np.int64))
        with torch.no_grad():
            states = model.body(ids[None]).last_hidden_state[0].double().numpy()
        parts.append((ids.numpy(), states))
    late = model.readout.late
    unit = [states / np.linalg.norm(states, axis=1, keepdims=True) for _, states in parts]
    means = [states.mean(0) / np.linalg.norm(states.mean(0)) for _, states in parts]
    cosine, match, added = late.scales.detach().double().numpy()
    logit = cosine * means[0] @ means[1] + added
    query, document = unit[0][1:-1], unit[1][1:-1]
    if len(query) and len(document):
        alike = query @ document.T
        near = np.exp(SHARPNESS * alike)
        found = (near * alike).sum(1) / near.sum(1)
        counts = np.exp(late.importance.detach().double().numpy()[parts[0][0][1:-1]])
        logit += match * (counts * found).sum() / counts.sum()
    return float(logit)


@pytest.mark.parametrize("family", ["bert", "electra"])
def test_every_forward_computes_the_formula(family: str) -> None:
    """The kernel, torch with padding on either side and without, numpy, and training."""
    model, given = late_model(family), pairs()
    expected = np.array([by_hand(model, item) for item in given])
    assert np.ptp(expected) > 1
    own = own_of(model)
    arrays = mapped(own.weights, as_numpy)
    assert packable(model)
    with torch.no_grad():
        trained = PackedForward(model, NAMES, None)(given)[:, 0].numpy()  # type: ignore[arg-type]
    made = {
        "kernel": own.by_kernel("fp32"),
        "packed": own.family.in_torch(own.weights, torch.float32),
        "plain": whole(PlainEncoder(arrays), arrays),
        "right": padded(model),
        "left": padded(model, left=True),
    }
    for name, compute in made.items():
        if isinstance(compute, str):
            assert isinstance(native.find("fp32"), str)
            continue
        logits = compute(given)
        assert logits.shape == (len(given), 1), name
        assert np.abs(logits[:, 0] - expected).max() < 2e-4, name
    assert np.abs(trained - expected).max() < 2e-4


@pytest.mark.skipif(isinstance(native.find("fp32"), str), reason="no kernel for this processor")
def test_a_pair_is_the_same_in_every_batch() -> None:
    """Bit by bit, whatever shares its query, with threads for each chunk or together."""
    compute = own_of(late_model()).by_kernel("fp32")
    assert not isinstance(compute, str)
    given = pairs() * 20
    together = compute(given)[:, 0]
    assert together.tolist() == [float(compute([item])[0, 0]) for item in given]
    assert compute([]).shape == (0, 1)


def test_a_text_is_computed_once() -> None:
    """However many pairs it is in; queries and documents of the same tokens are one text."""
    given = [pair([7, 8], [9, 9]), pair([7, 8], [10]), pair([10], [9, 9])]
    texts, places = texts_of(given)
    assert [text.ids.tolist() for text in texts] == [[2, 7, 8, 3], [2, 9, 9, 3], [2, 10, 3]]
    assert all(not text.type_ids.any() for text in texts)
    assert places.tolist() == [[0, 1], [0, 2], [2, 1]]


def test_pairs_of_a_document_share_a_batch() -> None:
    """However they come: three documents are computed once each, and the four queries once a batch at most."""
    queries, documents = [[number] * 2 for number in range(5, 9)], [[number] * 90 for number in range(10, 13)]
    documents[1] = documents[1] * 2  # the longest is first
    given = [pair(query, document) for query in queries for document in documents]
    assert by_document(given, 300) == [(1, 4, 7, 10, 0, 3, 6, 9), (2, 5, 8, 11)]
    assert by_document(given, 10) == [(row,) for row in (1, 4, 7, 10, 0, 3, 6, 9, 2, 5, 8, 11)]
    assert by_document([], 10) == []
    computed: list[int] = []

    def states(texts: Sequence[Tokens]) -> Logits:
        computed.extend(map(len, texts))
        return np.ones((sum(map(len, texts)), 4), np.float32)

    late = LateComparison(np.zeros(VOCABULARY, np.float32), np.ones(3, np.float32), SHARPNESS)
    forward = LateForward(states, late)
    computation = Computation("cpu", "float32", pads=False, logits=forward, plan=forward.plan)
    logits, spent = score_rows(computation, given, range(12), 300)
    assert (logits.shape, spent.batches) == ((12, 1), 2)
    assert sorted(computed) == [4] * 8 + [92, 92, 182]


def test_many_queries_over_the_same_documents_are_scored_as_one_by_one(folder: Path) -> None:
    """Bit by bit; the record counts what each pair reads."""
    model = CrossEncoder(str(folder))
    queries = ["red fox", "a blue whale", "the sun"]
    documents = ["the fox is red", "whales are blue", "", "sun and moon and stars"]
    together = model.rank_many(queries, [documents] * 3)
    alone = [model.rank_many([query], [documents])[0] for query in queries]
    assert [[(hit.index, hit.logit) for hit in one.documents] for one in together] == [
        [(hit.index, hit.logit) for hit in one.documents] for one in alone
    ]


@pytest.mark.parametrize("types", [[0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 0, 0], [0, 1, 2]])
def test_what_is_no_pair_is_refused(types: list[int]) -> None:
    """With its number."""
    wrong = Tokens(np.array([5, 6, 7], np.int32), np.array(types, np.int32))
    compute = own_of(late_model()).family.in_torch(own_of(late_model()).weights, torch.float32)
    with pytest.raises(InvalidInput, match="input 1 is no pair"):
        compute([pairs()[0], wrong])


def test_gradients_are_those_of_a_rectangle() -> None:
    """Of all weights, shared texts and empty ones included."""
    model, given = late_model(), pairs()
    found = []
    weigh = torch.arange(1.0, len(given) + 1)
    for compute in (PackedForward(model, NAMES, None), _rectangle(model)):  # type: ignore[arg-type]
        model.zero_grad()
        (compute(given)[:, 0] * weigh).sum().backward()
        found.append(
            {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
        )
    first, second = found
    assert first.keys() == second.keys()
    assert {"readout.0.importance", "readout.0.scales"} < first.keys()
    for name, gradient in first.items():
        assert torch.allclose(gradient, second[name], rtol=1e-3, atol=1e-4), name


def _rectangle(model: Any) -> Any:
    def compute(given: Sequence[Tokens]) -> torch.Tensor:
        width = max(map(len, given))
        ids, types, mask = (torch.zeros(len(given), width, dtype=torch.long) for _ in range(3))
        for row, item in enumerate(given):
            ids[row, : len(item)] = torch.from_numpy(item.ids.astype(np.int64))
            types[row, : len(item)] = torch.from_numpy(item.type_ids.astype(np.int64))
            mask[row, : len(item)] = 1
        return model(ids, attention_mask=mask, token_type_ids=types).logits  # type: ignore[no-any-return]

    return compute


# ---- Folders.
TEXTS = [
    ("what is the capital of france", "paris is the capital of france"),
    ("what is the capital of france", "cat dog cat"),
    ("cat", "dog " * 80),
    ("", "the dog"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model that no test may change."""
    path = tmp_path_factory.mktemp("late") / "model"
    tokenizer = make_tokenizer("bert")
    rules = tokenizer.backend_tokenizer
    special = [("[CLS]", tokenizer.cls_token_id), ("[SEP]", tokenizer.sep_token_id)]
    rules.post_processor = TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS]:0 $A:0 [SEP]:0 [CLS]:1 $B:1 [SEP]:1", special_tokens=special
    )
    save(path, late_model(vocabulary=len(tokenizer)), tokenizer, torch.nn.Sigmoid())
    return path


def test_a_saved_model_is_read_back(folder: Path, tmp_path: Path) -> None:
    """With torch and without, and saved again, rounded too."""
    loaded = CrossEncoder(str(folder), device="cpu", precision="fp32")
    scores = loaded.predict(TEXTS)
    assert np.ptp(scores) > 0.05
    model = loaded.model
    assert isinstance(model.readout.late, LateInteraction)
    assert model.readout.late.sharpness == SHARPNESS
    assert np.abs(loaded.predict(TEXTS) - scores).max() < 1e-5
    for storage, most in ((None, 1e-5), ("int8", 0.05)):
        loaded.save(str(tmp_path / str(storage)), storage=storage)
        again = CrossEncoder(str(tmp_path / str(storage)), device="cpu", precision="fp32")
        assert np.abs(again.predict(TEXTS) - scores).max() < most
        assert torch.equal(again.model.readout.late.importance, model.readout.late.importance)


def test_a_trimmed_vocabulary_keeps_what_its_words_count(folder: Path) -> None:
    """Rows of the importance go with the words."""
    whole_one = CrossEncoder(str(folder), device="cpu", precision="fp32")
    size = len(whole_one.model.readout.late.importance) - 10
    smaller = trim_vocabulary(whole_one, [text for own in TEXTS for text in own], size)
    assert len(smaller.model.readout.late.importance) == size
    assert np.abs(smaller.predict(TEXTS) - whole_one.predict(TEXTS)).max() < 1e-5


def test_it_is_exported(folder: Path, tmp_path: Path) -> None:
    """onnxruntime computes the same from one file."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    made = export_onnx(CrossEncoder(str(folder), device="cpu"), tmp_path / "onnx")
    assert made.difference < 1e-4


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sharpness": 0}, "sharpness is 0"),
        ({"sharpness": True}, "sharpness is True"),
        ({"sharpness": None}, "sharpness is None"),
        ({"vocabulary_size": 7}, "vocabulary_size is 7, and importance has shape"),
        ({"vocabulary_size": "7"}, "vocabulary_size is '7'"),
    ],
)
def test_settings_that_cannot_be_are_refused(folder: Path, tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    """With the file and the key."""
    shutil.copytree(folder, tmp_path / "model")
    file = tmp_path / "model" / f"1_{LATE}" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    with pytest.raises(ModelLoadError, match=said):
        CrossEncoder(str(tmp_path / "model"), device="cpu")
    (file.parent / WEIGHTS).unlink()
    with pytest.raises(ModelLoadError):
        CrossEncoder(str(tmp_path / "model"), device="cpu")


def test_words_that_count_nothing_are_refused(folder: Path, tmp_path: Path) -> None:
    """Each word of the model has its importance, read with torch and without."""
    shutil.copytree(folder, tmp_path / "model")
    part = tmp_path / "model" / f"1_{LATE}"
    weights = load_file(part / WEIGHTS)
    size = len(weights["importance"])
    save_file({**weights, "importance": weights["importance"][:-1].clone()}, part / WEIGHTS)
    (part / "config.json").write_text(json.dumps({"vocabulary_size": size - 1, "sharpness": SHARPNESS}))
    said = f"vocabulary_size is {size - 1}, and the model .* has {size} words"
    for read in (open_model, load):
        with pytest.raises(ModelLoadError, match=said):
            read(LoadRequest(tmp_path / "model", device="cpu"))


def test_what_is_not_finite_is_told(folder: Path, tmp_path: Path) -> None:
    """With the pair's number, and without a warning; the others have their scores."""
    shutil.copytree(folder, tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    weights = load_file(file)
    broken = CrossEncoder(str(folder), device="cpu").tokenizer.convert_tokens_to_ids("cat")
    weights["embeddings.word_embeddings.weight"][broken] = torch.nan
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(NonFiniteScore) as told:
        CrossEncoder(str(tmp_path / "model"), device="cpu").predict(TEXTS)
    assert told.value.indices == (1, 2)


def test_bodies_without_types_are_refused(tmp_path: Path) -> None:
    """RoBERTa has none, and begins its positions elsewhere."""
    tokenizer = make_tokenizer("roberta")
    save(tmp_path, late_model("roberta", len(tokenizer)), tokenizer, torch.nn.Identity())
    with pytest.raises(ModelLoadError, match="LateInteraction is for bert and electra, not roberta"):
        CrossEncoder(str(tmp_path), device="cpu")
