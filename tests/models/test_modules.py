"""Rules of `secondpass.models.modules`: which chains are read, what is said of others, and how one is saved."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from torch import nn

from secondpass import CrossEncoder
from secondpass.activations import TemperedSigmoid
from secondpass.errors import CheckpointError, InvalidInput, ModelLoadError
from secondpass.forwards.readout import (
    Dense,
    LayerNorm,
    ModuleChain,
    Normalize,
    Pooling,
    ReadoutModel,
    VocabularyRows,
)
from secondpass.models import saving
from secondpass.models.folders import FINISHED
from secondpass.models.loading import LoadRequest, load
from secondpass.models.modules import WEIGHTS, stored_weights
from secondpass.models.weights import COMPACT
from tests.hub_cache import add_to_cache, commit_id
from tests.tiny_models import make_decoder, make_folder, make_model, make_tokenizer

PAIRS = [("what is the capital of france", "paris is the capital of france"), ("cat", "dog " * 200), ("a", "")]


def write_chain(path: Path, labels: int = 1, seed: int = 0, modes: tuple[str, ...] = ("cls",)) -> Path:
    """A ModernBERT under Ettin's modules, with random weights, as we save it."""
    tokenizer = make_tokenizer("modernbert")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        chain = [Pooling(32, modes), Dense((32 * len(modes), 32), False, nn.GELU()), LayerNorm(32)]
        chain += [Normalize(), Dense((32, labels), True, nn.Identity(), writes="scores")]
        body = make_model("modernbert", len(tokenizer), seed=seed).base_model
        model = ReadoutModel(body, ModuleChain(chain)).eval()
    saving.save(path, model, tokenizer, nn.Identity())
    return path


@pytest.fixture(scope="module")
def chain_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chain that no test may change."""
    return write_chain(tmp_path_factory.mktemp("chain"))


@pytest.fixture(scope="module")
def causal_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal reranker that no test may change."""
    folder = tmp_path_factory.mktemp("causal")
    plain = CrossEncoder(str(make_decoder(folder / "plain", "qwen3")), device="cpu", **ANSWER)
    plain.save(str(folder / "model"))
    return folder / "model"


ANSWER: dict[str, Any] = {"template": "Q {query} D {document}", "true_token": "yes", "false_token": "no"}
CONFIG, MODULES, FIRST = "config.json", "modules.json", "sentence_bert_config.json"


def _set(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value != "gone"}))


def _entry(place: int, **changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        listed = json.loads((folder / MODULES).read_text())
        listed[place] |= changes
        (folder / MODULES).write_text(json.dumps(listed))

    return change


def _cut(upto: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / MODULES).write_text(json.dumps(json.loads((folder / MODULES).read_text())[:upto]))

    return change


def _config(name: str, **changes: Any) -> Callable[[Path], None]:
    return lambda folder: _set(folder / name, **changes)


def _text(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def _renamed_weight(folder: Path) -> None:
    tensors = load_file(folder / "2_Dense/model.safetensors")
    save_file({"linear.weights": tensors["linear.weight"]}, folder / "2_Dense/model.safetensors")


def _pickled(folder: Path) -> None:
    (folder / "2_Dense/model.safetensors").rename(folder / "2_Dense/pytorch_model.bin")


DENSE, LAST, NEWEST = "2_Dense/config.json", "5_Dense/config.json", "config_sentence_transformers.json"
ROWS = "1_LogitScore/config.json"
BROKEN_CHAINS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no list of modules": (lambda folder: (folder / MODULES).unlink(), "lacks modules.json.* 1_Pooling, 2_Dense"),
    "an empty list": (_text(MODULES, "[]"), "modules.json names no module"),
    "no list": (_text(MODULES, "{}"), "modules.json holds a JSON dict, not a list"),
    "no JSON": (_text(MODULES, "[" * 100_000), "modules.json cannot be read as JSON"),
    "entries that are none": (_text(MODULES, "[3]"), "modules.json: entry 0 has no type and path"),
    "the first module alone": (_cut(1), "modules.json: the modules Transformer .* end in no score"),
    "no scores": (_cut(5), "modules.json: the modules Transformer, Pooling, .* end in no score"),
    "a module of others": (_entry(2, type="my.code.Dense"), r"type 'my\.code\.Dense' of entry 2 is not known"),
    "an unknown module": (_entry(2, type="sentence_transformers.models.LSTM"), "LSTM' of entry 2 is not known"),
    "two transformers": (
        _entry(1, type="sentence_transformers.models.Transformer"),
        "the Transformer is first",
    ),
    "a path outside": (_entry(2, path="../2_Dense"), r"path '\.\./2_Dense' is no folder beside it"),
    "an absolute path": (_entry(2, path="/etc"), "path '/etc' is no folder beside it"),
    "a folder that is not there": (_entry(2, path="7_Dense"), "7_Dense holds no config.json"),
    "an embedding model": (
        _config("config_sentence_transformers.json", model_type="SentenceTransformer"),
        "embedding model",
    ),
    "a task without scores": (_config(FIRST, transformer_task="fill-mask"), "transformer_task 'fill-mask'. end in no"),
    "states of another name": (_config(FIRST, module_output_name="other"), "module_output_name is 'other'"),
    "another output": (
        _config(FIRST, modality_config={"text": {"method_output_name": "pooler_output"}}),
        "only forward's last_hidden_state is read",
    ),
    "a modality that is none": (_config(FIRST, modality_config=[1]), "modality_config"),
    "rows of a vocabulary behind a pooling": (
        _entry(5, type="sentence_transformers.cross_encoder.modules.logit_score.LogitScore"),
        r"modules\.json: the modules Transformer, Pooling, .*, LogitScore .* end in no score",
    ),
    "no chat template": (
        _config(FIRST, modality_config={"message": {"method": "forward", "format": "flat"}}),
        r"sentence_bert_config\.json says .*message.* chat_template\.jinja is missing",
    ),
    "processing that is none": (
        _config(FIRST, processing_kwargs=[1]),
        r"sentence_bert_config\.json: processing_kwargs is \[1\], no object",
    ),
    "a part of it that is none": (
        _config(FIRST, processing_kwargs={"chat_template": "x"}),
        r"processing_kwargs\.chat_template is 'x', no object",
    ),
    "no special tokens": (
        _config(FIRST, processing_kwargs={"text": {"add_special_tokens": False}}),
        r"sentence_bert_config\.json: .*add_special_tokens is False",
    ),
    "no window": (_config(FIRST, max_seq_length="long"), "longest input is 'long'"),
    "another width of states": (_config("1_Pooling/config.json", embedding_dimension=64), "embedding_dimension is 64"),
    "an unknown pooling": (_config("1_Pooling/config.json", pooling_mode="best"), "pooling_mode is 'best'"),
    "several, one unknown": (
        _config("1_Pooling/config.json", pooling_mode=["cls", 3]),
        r"pooling_mode is \['cls', 3\]",
    ),
    "a prompt flag": (_config("1_Pooling/config.json", include_prompt="no"), "include_prompt is 'no'"),
    "another width": (_config(DENSE, in_features=16), "in_features is 16, and what it reads has 32"),
    "an enormous layer": (_config(DENSE, out_features=2**40), r"out_features is \d+, and linear.weight has shape"),
    "no number": (_config(DENSE, out_features=True), "out_features is True, which cannot be"),
    "a bias that is not there": (_config(DENSE, bias=True), r"2_Dense: .*linear\.bias"),
    "a bias that has no place": (_config(LAST, bias=False), r"5_Dense: .*linear\.bias"),
    "an activation of others": (_config(DENSE, activation_function="os.system"), "activation_function is 'os.system'"),
    "half of a width": (_config(DENSE, activation_function="torch.nn.GLU"), "dimension is \\d+, and what it reads has"),
    "half of a score": (_config(LAST, activation_function="torch.nn.GLU"), "activation_function is 'torch.nn.GLU'"),
    "an input that nobody writes": (_config(DENSE, module_input_name="x"), "2_Dense: it reads 'x', which no module"),
    "scores of each token": (_config(LAST, module_input_name="token_embeddings"), "no Dense that writes one row"),
    "another norm": (_config("3_LayerNorm/config.json", dimension=31), "dimension is 31"),
    "weights of other names": (_renamed_weight, "2_Dense"),
    "pickles": (_pickled, "2_Dense holds no model.safetensors but pickle files"),
    "a default prompt": (
        _config("config_sentence_transformers.json", default_prompt_name="x"),
        "'x' is none of its prompts",
    ),
}


def _their_template(folder: Path, **processing: Any) -> None:
    """A folder as sentence-transformers leaves it: what is read around texts stands in its chat template alone."""
    _set(folder / NEWEST, secondpass="gone")
    if processing:
        _set(folder / FIRST, processing_kwargs=processing)


def _without_chat(folder: Path) -> None:
    _their_template(folder)
    (folder / "chat_template.jinja").unlink()


BROKEN_ROWS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no list of modules": (lambda folder: (folder / MODULES).unlink(), "lacks modules.json.* 1_LogitScore"),
    "a row beyond": (_config(ROWS, true_token_id=10**9), "true_token_id is 1000000000"),
    "no row": (_config(ROWS, true_token_id=None), "true_token_id is None"),
    "a negative row": (_config(ROWS, false_token_id=-1), "false_token_id is -1"),
    "one row twice": (_config(ROWS, true_token_id=5, false_token_id=5), "every score is 0"),
    "other logits": (_config(ROWS, module_input_name="x"), "module_input_name is 'x'"),
    "no chat template": (_without_chat, r"sentence_bert_config\.json says .* chat_template\.jinja is missing"),
    "no processing": (
        lambda folder: _their_template(folder, chat_template="x"),
        r"sentence_bert_config\.json: processing_kwargs\.chat_template is 'x'",
    ),
}


@pytest.mark.parametrize("name", BROKEN_CHAINS)
def test_a_chain_that_is_not_whole_is_refused(chain_folder: Path, name: str, tmp_path: Path) -> None:
    """With the file and the key, also for a number of labels, which makes a random head on an embedding model alone."""
    change, says = BROKEN_CHAINS[name]
    folder = Path(shutil.copytree(chain_folder, tmp_path / "model"))
    change(folder)
    labels = None if name == "an embedding model" else 1
    with pytest.raises(ModelLoadError, match=says) as caught:
        load(LoadRequest(folder, num_labels=labels))
    assert str(folder) in str(caught.value)
    if labels is None:
        assert load(LoadRequest(folder, num_labels=1)).model.classifier.out_features == 1


@pytest.mark.parametrize("name", BROKEN_ROWS)
def test_a_causal_reranker_that_is_not_whole_is_refused(causal_folder: Path, name: str, tmp_path: Path) -> None:
    """The same of the rows of a vocabulary."""
    change, says = BROKEN_ROWS[name]
    folder = Path(shutil.copytree(causal_folder, tmp_path / "model"))
    change(folder)
    with pytest.raises(ModelLoadError, match=says):
        load(LoadRequest(folder))


def test_arguments_that_a_chain_has_no_use_for_are_refused(chain_folder: Path, tiny_folder: str) -> None:
    """Each would be ignored."""
    for source, argument in (
        (chain_folder, {"num_labels": 3}),
        (chain_folder, {"classifier_dropout": 0.1}),
        (chain_folder, {"true_token": "the"}),
        (tiny_folder, {"true_token": "the"}),
    ):
        with pytest.raises(InvalidInput, match=next(iter(argument))):
            load(LoadRequest(source, **argument))


def test_a_chain_is_stored_in_eight_bits(chain_folder: Path, causal_folder: Path, tmp_path: Path) -> None:
    """Its body alone, and scores change little; a decoder is not."""
    whole = CrossEncoder(str(chain_folder), device="cpu", precision="fp32")
    whole.save(str(tmp_path), storage="int8")
    assert (tmp_path / COMPACT).stat().st_size < (chain_folder / WEIGHTS).stat().st_size / 2
    again = CrossEncoder(str(tmp_path), device="cpu", precision="fp32")
    assert again.predict(PAIRS) == pytest.approx(whole.predict(PAIRS), abs=0.05)
    weights = again.model.readout.state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in whole.model.readout.state_dict().items())
    with pytest.raises(InvalidInput, match="storage='int8' is for encoders, not for decoders"):
        CrossEncoder(str(causal_folder), device="cpu").save("unused", storage="int8")


def test_earlier_names_and_keys_are_read(chain_folder: Path, tmp_path: Path) -> None:
    """Types of the package before 5.4, switches for poolings, and modules without a file."""
    folder = Path(shutil.copytree(chain_folder, tmp_path / "model"))
    for place, kind in enumerate(("Transformer", "Pooling", "Dense", "LayerNorm", "Normalize", "Dense")):
        _entry(place, type=f"sentence_transformers.models.{kind}")(folder)
    legacy = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling/config.json").write_text(json.dumps(legacy))
    shutil.rmtree(folder / "4_Normalize")
    _set(folder / FIRST, transformer_task="gone", modality_config="gone", module_output_name="gone", max_seq_length=20)
    older, newer = CrossEncoder(str(folder), device="cpu"), CrossEncoder(str(chain_folder), device="cpu")
    assert (older.window, newer.window) == (20, 128)
    newer.max_length = 20
    assert older.predict(PAIRS).tolist() == newer.predict(PAIRS).tolist()


def test_no_wish_is_stored_beyond_a_chains_own_limit(chain_folder: Path, tmp_path: Path) -> None:
    """What is saved reads as much as what was scored with."""
    folder = Path(shutil.copytree(chain_folder, tmp_path / "model"))
    _set(folder / FIRST, max_seq_length=20)
    model = CrossEncoder(str(folder), max_length=64, device="cpu")
    model.save(str(tmp_path / "saved"))
    again = CrossEncoder(str(tmp_path / "saved"), device="cpu")
    assert model.window == again.window == 20
    assert json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())["model_max_length"] == 20


def test_a_stored_limit_is_that_of_what_is_saved(
    chain_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As the tokenizer's, where every reader looks, also under another template; a wish not to cut is told."""
    folder = Path(shutil.copytree(chain_folder, tmp_path / "model"))
    _set(folder / FIRST, processing_kwargs={"text": {"max_length": 20, "truncation": False}})
    ways: list[dict[str, Any]] = [{}, {"template": "q {query} d {document}"}]
    for options in ways:
        model = CrossEncoder(str(folder), device="cpu", **options)
        assert model.window == load(LoadRequest(folder, **options)).token_limit == 20
        model.save(str(tmp_path / "saved"))
        again = CrossEncoder(str(tmp_path / "saved"), device="cpu")
        assert again.window == load(LoadRequest(tmp_path / "saved")).token_limit == 20
        assert again.predict(PAIRS).tolist() == model.predict(PAIRS).tolist()
    assert "truncation False is not applied" in caplog.text


def test_a_limit_of_a_chat_template_is_stored_once(causal_folder: Path, tmp_path: Path) -> None:
    """In the tokenizer's settings, as the model's own `max_length` is; what else stands beside it stays."""
    folder = Path(shutil.copytree(causal_folder, tmp_path / "model"))
    _their_template(folder, chat_template={"max_length": 40, "restore_suffix": True}, text={"max_length": 30})
    model = CrossEncoder(str(folder), device="cpu")
    for limit in (40, 25):
        assert model.window == limit
        model.save(str(tmp_path / "saved"))
        assert json.loads((tmp_path / "saved" / FIRST).read_text())["processing_kwargs"] == {
            "chat_template": {"restore_suffix": True},
            "text": {},
        }
        again = CrossEncoder(str(tmp_path / "saved"), device="cpu")
        assert (again.window, again.predict(PAIRS).tolist()) == (limit, model.predict(PAIRS).tolist())
        model.max_length = 25


def test_a_folder_without_modules_has_no_limit_of_theirs(tiny_folder: str, tmp_path: Path) -> None:
    """sentence-transformers reads the file where modules.json is, and nowhere else."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    (folder / FIRST).write_text(json.dumps({"max_seq_length": 20}))
    assert CrossEncoder(str(folder), device="cpu").window == load(LoadRequest(folder)).token_limit == 128


def test_a_chain_ranks_by_a_label_or_the_expected_grade(tmp_path: Path) -> None:
    """Several outputs of the last module are labels, as those of a head are."""
    model = CrossEncoder(str(write_chain(tmp_path, labels=3)), device="cpu")
    assert model.num_labels == 3
    query, documents = PAIRS[0][0], [document for _, document in PAIRS[:2]]
    scores = model.predict([(query, document) for document in documents])
    assert scores.shape == (2, 3)
    shares = torch.softmax(torch.from_numpy(scores), dim=1).numpy()
    for label in range(3):
        assert model.rank(query, documents, relevance=label)[0]["corpus_id"] == int(shares[:, label].argmax())
    grades = shares @ np.arange(3)
    best = model.rank(query, documents, relevance="expected")
    assert [hit["corpus_id"] for hit in best] == np.argsort(-grades).tolist()
    with pytest.raises(InvalidInput, match="relevance"):
        model.rank(query, documents)


def test_a_chain_in_a_half_type_is_read_out_in_float32(chain_folder: Path) -> None:
    """States are of the half type, what makes a score of them is not: scores are near those of the whole model."""
    exact = CrossEncoder(str(chain_folder), device="cpu").predict(PAIRS)
    half = CrossEncoder(str(chain_folder), device="cpu", automodel_args={"dtype": torch.bfloat16})
    assert half.model.readout[1].linear.weight.dtype == torch.bfloat16
    assert np.abs(half.predict(PAIRS) - exact).max() < 0.05


def test_the_difference_of_two_logits_is_taken_in_float32() -> None:
    """bfloat16 has steps of an eighth between 16 and 32: their difference must not be rounded to such again."""
    rows = VocabularyRows(1, 0)
    made = rows(torch.tensor([[20.125, 0.0078125]], dtype=torch.bfloat16))
    assert made.tolist() == [[20.1171875]]


def test_a_copy_scores_the_same(chain_folder: Path, causal_folder: Path) -> None:
    """Copied in memory and by pickle, as any other model."""
    for folder in (chain_folder, causal_folder):
        model = CrossEncoder(str(folder), device="cpu")
        wanted = model.predict(PAIRS).tolist()
        assert copy.deepcopy(model).predict(PAIRS).tolist() == wanted
        copied: CrossEncoder = pickle.loads(pickle.dumps(model))  # noqa: S301
        assert copied.predict(PAIRS).tolist() == wanted


def test_all_weights_of_a_chain_are_its_weights(chain_folder: Path) -> None:
    """A service that looks whether they changed looks at those of the modules too."""
    names = [path.relative_to(chain_folder).as_posix() for path in stored_weights(chain_folder)]
    assert names == [
        "model.safetensors",
        *(f"{part}/model.safetensors" for part in ("2_Dense", "3_LayerNorm", "5_Dense")),
    ]


def test_weights_of_a_folder_that_is_not_listed_are_nobodys(chain_folder: Path, tmp_path: Path) -> None:
    """Whatever it is called: the list says of what the chain is made."""
    folder = Path(shutil.copytree(chain_folder, tmp_path / "model"))
    wanted = CrossEncoder(str(folder), device="cpu").predict(PAIRS)
    for name in ("2024_old", "6_Dense", "old"):
        shutil.copytree(folder / "2_Dense", folder / name)
    assert [path.parent.name for path in stored_weights(folder)[1:]] == ["2_Dense", "3_LayerNorm", "5_Dense"]
    assert (CrossEncoder(str(folder), device="cpu").predict(PAIRS) == wanted).all()


def test_an_activation_of_others_is_imported_on_trust(chain_folder: Path, tmp_path: Path) -> None:
    """And stored again by its own name."""
    folder = Path(shutil.copytree(chain_folder, tmp_path / "model"))
    _set(folder / DENSE, activation_function="transformers.activations.QuickGELUActivation")
    model = CrossEncoder(str(folder), device="cpu", trust_remote_code=True)
    model.save(str(tmp_path / "saved"))
    stored = json.loads((tmp_path / "saved" / DENSE).read_text())["activation_function"]
    assert stored == "transformers.activations.QuickGELUActivation"
    model.model.readout[1].activation_function = nn.GELU(approximate="tanh")
    with pytest.raises(CheckpointError, match=r"GELU.*cannot be stored"):
        model.save(str(tmp_path / "saved"))


def test_what_leaves_the_prompt_out_takes_none(tmp_path: Path) -> None:
    """Pooling without a prompt's tokens is not done, so a call with one is refused, not scored another way."""
    folder = write_chain(tmp_path)
    _set(folder / "1_Pooling/config.json", include_prompt=False)
    model = CrossEncoder(str(folder), device="cpu")
    assert model.predict(PAIRS, prompt="").shape == (3,)
    with pytest.raises(InvalidInput, match="prompt"):
        model.predict(PAIRS, prompt="find: ")


def test_modules_of_the_chain_before_do_not_stay(chain_folder: Path, tiny_folder: str, tmp_path: Path) -> None:
    """A folder is the last model that was saved there, whichever came before, and other folders stay."""
    longer, shorter = CrossEncoder(str(chain_folder), device="cpu"), CrossEncoder(tiny_folder, device="cpu")
    (tmp_path / "notes").mkdir()
    for model in (longer, shorter, longer):
        model.save(str(tmp_path))
        again = CrossEncoder(str(tmp_path), device="cpu")
        assert again.predict(PAIRS).tolist() == model.predict(PAIRS).tolist()
    names = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert names == {"notes", "1_Pooling", "2_Dense", "3_LayerNorm", "4_Normalize", "5_Dense"}
    shorter.save(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"notes"}


def test_a_save_that_stops_leaves_no_mixture(
    chain_folder: Path, tiny_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While files are written the model before is read; while they are put in place the new one, and from then on."""
    old, new = CrossEncoder(str(write_chain(tmp_path / "old", seed=1)), device="cpu"), CrossEncoder(str(chain_folder))
    before, after = (model.predict(PAIRS).tolist() for model in (old, new))
    assert before != after

    def full(*_: object) -> Path:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(saving, "write_modules", full)
        with pytest.raises(CheckpointError):
            new.save(str(tmp_path / "old"))
    assert CrossEncoder(str(tmp_path / "old"), device="cpu").predict(PAIRS).tolist() == before
    replace = Path.replace
    read = []
    for stop in itertools.count():
        folder, done = Path(shutil.copytree(tmp_path / "old", tmp_path / f"at-{stop}")), iter(range(stop))

        def stopping(path: Path, target: Path, done: Iterator[int] = done) -> Path:
            return replace(path, target) if next(done, None) is not None else full()

        with monkeypatch.context() as patched, suppress(CheckpointError):
            patched.setattr(Path, "replace", stopping)
            new.save(str(folder))
        read.append(CrossEncoder(str(folder), device="cpu").predict(PAIRS).tolist())
        if not (folder / FINISHED).is_dir() and stop:
            break
    assert (len(read) > 10, read) == (True, [before] + [after] * (len(read) - 1))
    assert (folder / MODULES).is_file()
    broken, single = tmp_path / "at-7", CrossEncoder(tiny_folder, device="cpu")
    single.save(str(broken))
    assert CrossEncoder(str(broken), device="cpu").predict(PAIRS).tolist() == single.predict(PAIRS).tolist()
    assert not [path.name for path in (*broken.iterdir(), *folder.iterdir()) if path.name.startswith(".")]


def test_the_published_score_of_a_family_is_the_default(tmp_path: Path) -> None:
    """zerank's is the sigmoid of a fifth of the logit, also after a save; a stored activation wins."""
    folder = str(make_decoder(tmp_path / "plain", "qwen3"))
    model = CrossEncoder(folder, device="cpu", **ANSWER | {"template": "zerank"})
    logits = model.predict(PAIRS, activation_fct=nn.Identity())
    assert np.allclose(model.predict(PAIRS), 1 / (1 + np.exp(-logits / 5)), rtol=0, atol=1e-6)
    model.save(str(tmp_path / "saved"))
    again = CrossEncoder(str(tmp_path / "saved"), device="cpu")
    assert isinstance(again.default_activation_function, TemperedSigmoid)
    assert again.predict(PAIRS).tolist() == model.predict(PAIRS).tolist()
    _set(tmp_path / "saved" / "config_sentence_transformers.json", activation_fn="torch.nn.modules.linear.Identity")
    assert CrossEncoder(str(tmp_path / "saved"), device="cpu").predict(PAIRS).tolist() == logits.tolist()


RAW = {"true_token": "yes", "false_token": "no"}


@pytest.mark.parametrize(
    ("name", "architecture", "told"),
    [
        ("mxbai-rerank-base-v2", "qwen2", {}),
        ("ctxl-rerank-v2-instruct-multilingual-1b", "qwen3", {}),
        ("plain", "qwen3", RAW | {"template": "bge-reranker-v2-gemma"}),
        ("plain", "qwen3", RAW | {"template": "ctxl-rerank-v2-6b"}),
    ],
)
def test_a_family_that_publishes_logits_has_logits_for_scores(
    name: str, architecture: str, told: dict[str, Any], tmp_path: Path
) -> None:
    """Also after a save, which stores the identity; what a folder stores wins."""
    folder = str(make_decoder(tmp_path / name, architecture, chat=None, length=1024))
    model = CrossEncoder(folder, device="cpu", **told)
    scores = model.predict(PAIRS)
    assert np.allclose(scores, model.predict(PAIRS, activation_fct=nn.Identity()), rtol=0, atol=1e-5)
    assert np.ptp(scores) > 1e-3
    model.save(str(tmp_path / "saved"))
    again = CrossEncoder(str(tmp_path / "saved"), device="cpu")
    assert isinstance(again.default_activation_function, nn.Identity)
    assert np.allclose(again.predict(PAIRS), scores, rtol=0, atol=1e-5)
    stored = "torch.nn.modules.activation.Sigmoid"
    _set(tmp_path / "saved" / "config_sentence_transformers.json", activation_fn=stored)
    again = CrossEncoder(str(tmp_path / "saved"), device="cpu")
    assert np.allclose(again.predict(PAIRS), 1 / (1 + np.exp(-scores)), rtol=0, atol=1e-6)


def test_a_plain_causal_model_is_read_only_where_its_answer_is_known(tmp_path: Path) -> None:
    """Never at "yes" and "no" because there is nothing else; num_labels= still makes a classifier of it to train."""
    folder = make_decoder(tmp_path / "plain", "llama", chat=None)
    with pytest.raises(ModelLoadError, match="template"):
        load(LoadRequest(folder))
    with pytest.raises(ModelLoadError, match="token"):
        load(LoadRequest(folder, template="Q {query} D {document}"))
    with pytest.raises(InvalidInput, match="true_token"):
        load(LoadRequest(folder, **ANSWER | {"true_token": "a word that is none"}))
    assert load(LoadRequest(folder, **ANSWER)).model.readout.token_ids == [307, 308]
    assert load(LoadRequest(folder, num_labels=2)).config.num_labels == 2


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad", ["<|pad|>", None])
def test_a_decoder_with_a_head_scores_the_same_however_it_is_padded(side: str, pad: str | None, tmp_path: Path) -> None:
    """Alone and in a batch, on either side, with a padding token or without any."""
    plain = make_decoder(tmp_path / "plain", "qwen3")
    made = load(LoadRequest(plain, num_labels=1))
    made.model.save_pretrained(tmp_path / "model")
    _set(tmp_path / "model" / CONFIG, pad_token_id=None if pad is None else 0)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(plain / name, tmp_path / "model" / name)
    _set(tmp_path / "model" / "tokenizer_config.json", padding_side=side, **({} if pad else {"pad_token": "gone"}))
    model = CrossEncoder(str(tmp_path / "model"), device="cpu", default_activation_function=nn.Identity())
    ids = [torch.from_numpy(item.ids).long()[None] for item in model.tokens(*map(list, zip(*PAIRS, strict=True)))]
    with torch.no_grad():
        states = [made.model.model(item).last_hidden_state[0, -1] for item in ids]
        wanted = [float(made.model.score(state)) for state in states]
    assert np.allclose(model.predict(PAIRS), wanted, rtol=0, atol=1e-4)
    assert np.allclose([model.predict(pair) for pair in PAIRS], wanted, rtol=0, atol=1e-4)


def test_a_folder_with_a_head_is_read_as_before(tmp_path: Path) -> None:
    """One module is a model with a head; a folder of modules that the list does not name is refused."""
    folder = make_folder(tmp_path / "model", "bert")
    CrossEncoder(str(folder), device="cpu").save(str(folder))
    assert load(LoadRequest(folder)).model.classifier is not None
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text("{}")
    with pytest.raises(ModelLoadError, match="does not name 1_Pooling"):
        load(LoadRequest(folder))


def test_a_chain_is_uploaded_and_downloaded_with_its_folders(
    chain_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the hub gets is what `save` writes, and what it has is read from its cache."""
    sent: dict[str, bytes] = {}

    class FakeHub:
        def create_repo(self, repo_id: str, **_: object) -> SimpleNamespace:
            return SimpleNamespace(repo_id=repo_id)

        def create_commit(self, operations: list[Any], **_: object) -> str:
            sent.update({one.path_in_repo: Path(one.path_or_fileobj).read_bytes() for one in operations})
            return "address"

    monkeypatch.setattr("transformers.utils.hub.hf_api", FakeHub)
    card = ModelCard("---\ntags: [cross-encoder]\n---\n")
    monkeypatch.setattr("transformers.utils.hub.create_and_tag_model_card", lambda *_, **__: card)
    model = CrossEncoder(str(chain_folder), device="cpu")
    model.push_to_hub("me/chain")
    for name, content in sent.items():
        (tmp_path / "sent" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sent" / name).write_bytes(content)
    add_to_cache(tmp_path / "cache", "me/chain", tmp_path / "sent", commit_id(1))
    again = CrossEncoder("me/chain", cache_dir=str(tmp_path / "cache"), local_files_only=True, device="cpu")
    assert again.predict(PAIRS).tolist() == model.predict(PAIRS).tolist()


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_a_body_with_adapters_is_not_saved_in_part(chain_folder: Path, tmp_path: Path) -> None:
    """Their own `save_pretrained` writes the adapters alone."""
    model = CrossEncoder(str(chain_folder), device="cpu")
    peft = pytest.importorskip("peft")
    model.model.body = peft.get_peft_model(model.model.body, peft.LoraConfig(target_modules="all-linear"))
    with pytest.raises(InvalidInput, match="merge_and_unload"):
        model.save(str(tmp_path))
    model.model.body = model.model.body.merge_and_unload()
    model.save(str(tmp_path))
    assert CrossEncoder(str(tmp_path), device="cpu").predict(PAIRS) == pytest.approx(model.predict(PAIRS), abs=1e-5)
