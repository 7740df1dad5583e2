"""Served models by name."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from secondpass import Cascade, CrossEncoder
from secondpass.calibration import Calibration
from secondpass.errors import InvalidInput, ModelLoadError, SecondPassError
from secondpass.models.building import save_compact
from secondpass.models.identity import marks_of
from secondpass.serving import models
from secondpass.serving.answering import answered
from secondpass.serving.models import CalibrationInfo, Models, load_models
from secondpass.serving.problems import Problem
from secondpass.serving.settings import ModelSource, Settings, instructed, keeping, model_source, probable
from secondpass.serving.work import Work
from secondpass.token_cache import TokenCache
from tests.serving.conftest import Serve
from tests.tiny_models import make_reranker


def unwatched(*given: object) -> None:
    """Count nothing."""


def test_the_first_is_the_default_and_others_are_found(tiny: CrossEncoder) -> None:
    """An unknown name is told which there are."""
    models = Models({"a": tiny, "b": tiny}, Settings(), unwatched)
    assert models.get(None).name == "a"
    assert models.get("b").name == "b"
    with pytest.raises(Problem, match="there is a, b") as unknown:
        models.get("secret")
    assert unknown.value.status == 404
    assert "secret" not in unknown.value.message
    models.close()


def test_several_labels_are_refused_at_the_start(tiny_model_folder: Callable[..., str]) -> None:
    """None of them is the relevance."""
    three = CrossEncoder(tiny_model_folder("bert", 3), device="cpu")
    with pytest.raises(InvalidInput, match="model 'three' has 3 labels"):
        Models({"three": three}, Settings(), unwatched)
    with pytest.raises(InvalidInput, match="no model"):
        Models({}, Settings(), unwatched)


def test_a_folder_under_two_names_is_loaded_once(tiny_folder: str) -> None:
    """And the length is taken over."""
    sources = (ModelSource("a", tiny_folder), ModelSource("b", tiny_folder))
    loaded = load_models(Settings(models=sources, max_length=64, device="cpu"))
    assert loaded["a"] is loaded["b"]
    assert loaded["a"].max_length == 64
    with pytest.raises(ModelLoadError):
        load_models(Settings(models=(ModelSource("x", "/no/such/folder"),)))


def test_calibrations_are_of_one_name(tiny_folder: str, tmp_path: Path) -> None:
    """The same weights under another name have another, or none; a cascade's is that of its last model."""
    for name in ("a", "b"):
        Calibration("logistic", model=name).save(tmp_path / f"{name}.json")
    alone = [ModelSource(name, tiny_folder, calibration=str(tmp_path / f"{name}.json")) for name in ("a", "b")]
    row = [ModelSource("plain", tiny_folder), ModelSource("row", "", stages=("plain", "a"))]
    own = ModelSource("own", "", stages=("a", "plain"), calibration=str(tmp_path / "b.json"))
    loaded = load_models(Settings(models=(*alone, *row, own), device="cpu"))
    told = {name: model.calibration and model.calibration.model for name, model in loaded.items()}
    assert told == {"a": "a", "b": "b", "plain": None, "row": "a", "own": "b"}
    models = Models(loaded, Settings(), unwatched)
    assert [found and found.method for found in (CalibrationInfo.of(one.reranker.calibration) for one in models)] == [
        "logistic", "logistic", None, "logistic", "logistic",
    ]  # fmt: skip
    models.close()


def test_pairs_read_otherwise_than_labelled_ones_are_told(
    serve: Serve, own_tiny: CrossEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log, once, as with any other call."""
    own_tiny.use_calibration(Calibration("logistic", conditions=own_tiny.conditions()))
    client = serve().client
    for wish in ({}, {"windows": {"most": 3}}, {"windows": {"most": 3}}):
        answer = client.post("/v2/rerank", json={"query": "cat", "documents": ["the cat sat"], **wish})
        assert answer.status_code == 200, answer.text
    assert caplog.text.count("probabilities are of pairs read otherwise: truncation\n") == 1


def test_closed_models_take_nothing(tiny: CrossEncoder) -> None:
    """After `close` the queue refuses."""
    models = Models({"a": tiny}, Settings(), unwatched)
    models.close()
    with pytest.raises(SecondPassError, match="closed"):
        models.get("a").shared.submit("cat", ["mat"])


def test_models_share_one_token_cache_and_keep_their_own(own_tiny: CrossEncoder, tiny_folder: str) -> None:
    """0 MiB is none."""
    with_own = CrossEncoder(tiny_folder, device="cpu")
    own = TokenCache()
    with_own.use_token_cache(own)
    closed = Models({"a": own_tiny}, Settings(token_cache_mb=0), unwatched)
    assert closed.token_cache is own_tiny.token_cache is None
    closed.close()
    models = Models({"a": own_tiny, "b": own_tiny, "c": with_own}, Settings(token_cache_mb=3), unwatched)
    assert models.token_cache is own_tiny.token_cache is not None
    assert models.token_cache.max_bytes == 3 * 2**20
    assert with_own.token_cache is own
    models.close()


def test_precision_is_taken_over(tiny_folder: str) -> None:
    """None leaves it to the model."""
    for precision, said, dtype in ((None, "fp32", "float32"), ("bf16", "bf16", "bfloat16")):
        settings = Settings(models=(ModelSource("a", tiny_folder),), device="cpu", precision=precision)  # type: ignore[arg-type]
        loaded = load_models(settings)
        models = Models(loaded, settings, unwatched)
        assert (loaded["a"].precision, models.get("a").dtype) == (said, dtype)
        models.close()


@pytest.mark.parametrize("storage", ["model.safetensors", "model.int8.safetensors"])
def test_what_is_loaded_from_a_folder_has_the_digest_of_its_weights(
    own_tiny: CrossEncoder, storage: str, tmp_path: Path
) -> None:
    """That which `sha256sum` says of the file; a model that was handed over has none."""
    own_tiny.save(str(tmp_path))
    if storage != "model.safetensors":
        save_compact(tmp_path, own_tiny.model.state_dict())
        (tmp_path / "model.safetensors").unlink()
    settings = Settings(models=(ModelSource("a", str(tmp_path)), ModelSource("b", str(tmp_path))), device="cpu")
    models = Models(load_models(settings), settings, unwatched)
    digest = hashlib.sha256((tmp_path / storage).read_bytes()).hexdigest()
    assert models.digests == {"a": digest, "b": digest}
    models.close()
    given = Models({"a": own_tiny}, Settings(), unwatched)
    assert given.digests == {"a": None}
    given.close()


def test_weights_that_change_while_they_are_read_are_refused(
    tiny_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the old and half of the new is no model; what is loaded is hashed once."""
    folder = str(shutil.copytree(tiny_folder, tmp_path / "model"))
    weights, settings = Path(folder) / "model.safetensors", Settings(models=(ModelSource("a", folder),))
    digest_of, load, asked = models.digest_of, CrossEncoder.__init__, Counter[str]()
    monkeypatch.setattr(models, "digest_of", lambda source: asked.update([source]) or digest_of(source))

    def write() -> None:
        weights.write_bytes(weights.read_bytes())

    def put_another() -> None:
        os.replace(shutil.copy(weights, weights.with_suffix(".new")), weights)

    for change in (write, put_another):

        def changing(*given: Any, change: Callable[[], None] = change, **named: Any) -> None:
            load(*given, **named)
            change()

        monkeypatch.setattr(CrossEncoder, "__init__", changing)
        with pytest.raises(ModelLoadError, match="were changed while they were read"):
            load_models(settings)
    monkeypatch.setattr(CrossEncoder, "__init__", load)
    asked.clear()
    load_models(settings)
    assert asked == {folder: 1}


def test_models_in_a_row_are_a_cascade(
    tiny_folder: str, tiny_model_folder: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the names of others or sources, each loaded once; or as `Cascade.save` left one, with its rule."""
    asked = Counter[str]()
    load = CrossEncoder.__init__
    monkeypatch.setattr(
        CrossEncoder,
        "__init__",
        lambda self, source, **options: asked.update([source]) or load(self, source, **options),
    )
    other = tiny_model_folder("roberta", 1)
    sources = keeping(map(model_source, [f"best=small,{other}", f"small={tiny_folder}"]), ["best=7"])
    loaded = load_models(Settings(models=sources, device="cpu"))
    assert asked == {tiny_folder: 1, other: 1}
    best = loaded["best"]
    assert isinstance(best, Cascade)
    assert (best.models[0], best.keep) == (loaded["small"], (7,))
    assert loaded.digests["best"] == models.digest_of(other)
    best.save(tmp_path)
    stored = load_models(Settings(models=(ModelSource("stored", str(tmp_path)),), device="cpu"))["stored"]
    assert isinstance(stored, Cascade)
    assert stored.keep == (7,)
    for settings, said in (
        ({"models": (ModelSource("stored", str(tmp_path)),), "max_length": 9}, "max_length: the models of"),
        ({"models": (ModelSource("a", tiny_folder, keep=(5,)),)}, "model 'a': --keep is of models in a row"),
        ({"models": (*sources, ModelSource("x", "x", stages=("best", "small")))}, "model 'x': --keep is of models"),
        ({"models": sources, "template": "zerank"}, "template is for one model, and here are"),
        ({"models": (ModelSource("stored", str(tmp_path)),), "true_token": "yes"}, "true_token is for one model"),
    ):
        with pytest.raises(InvalidInput, match=said):
            load_models(Settings(**settings))  # type: ignore[arg-type]


async def test_an_instruction_of_a_cascade_is_for_its_models_with_a_place(tiny_folder: str, tmp_path: Path) -> None:
    """Whatever names they have beside, where a request says none; a calibration of the model told that is its own."""
    judge, file = str(make_reranker(tmp_path / "judge")), tmp_path / "calibration.json"
    cat, dog = "find the cat", "find the dog"
    Cascade([tiny_folder, judge], device="cpu").save(tmp_path / "stored.json")
    told = CrossEncoder(judge, device="cpu", instruction=cat)
    Calibration("logistic", marks=marks_of(told), conditions=told.conditions()).save(file)
    given = [f"small={tiny_folder}", f"big={judge}", "best=small,big", f"own={tiny_folder},{judge}", "sure=small,big"]
    sources = [model_source(each) for each in (*given, f"stored={tmp_path / 'stored.json'}")]
    sources = list(instructed(sources, [f"{name}={cat}" for name in ("best", "own", "sure", "stored")]))
    settings = Settings(models=probable(sources, [f"sure={file}"]), device="cpu")
    loaded = load_models(settings)
    for name in ("best", "own"):
        cascade = loaded[name]
        assert isinstance(cascade, Cascade)
        assert cascade.models == (loaded["small"], loaded["big"])
    models, texts = Models(loaded, settings, unwatched), ("the mat", "a dog", "the cat sat")
    wanted: dict[str | None, list[float]] = {}
    for wish in (None, cat, dog):
        (ranking,) = CrossEncoder(judge, device="cpu", instruction=wish).rank_many(["cat"], [texts])
        wanted[wish] = [one.logit for one in sorted(ranking.documents, key=lambda one: one.index)]
    assert len(set(map(tuple, wanted.values()))) == 3
    for name, wish in (("big", None), ("best", cat), ("own", cat), ("sure", cat), ("stored", cat)):
        for said in (None, dog):
            answer = await answered(models.get(name), Work(None, ("cat",) * 3, texts, instruction=said), 30)
            assert answer.logits == pytest.approx(wanted[said or wish], abs=1e-4)
    models.close()
    with pytest.raises(InvalidInput, match="has no place for one"):
        load_models(Settings(models=(ModelSource("best", "x", cat, stages=(tiny_folder, tiny_folder)),), device="cpu"))


def test_a_stored_cascade_is_loaded_as_any_model(
    tiny_folder: str, tiny_model_folder: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its models has scored once before anybody waits, and weights that change meanwhile are refused."""
    folders = [str(shutil.copytree(tiny_folder, tmp_path / "small")), tiny_model_folder("roberta", 1)]
    Cascade([CrossEncoder(folder, device="cpu") for folder in folders], 7).save(tmp_path)
    settings = Settings(models=(ModelSource("stored", str(tmp_path)),), device="cpu")
    load, rank_many, asked = CrossEncoder.__init__, CrossEncoder.rank_many, Counter[str]()

    def ranking(self: CrossEncoder, *given: Any, **named: Any) -> Any:
        asked.update([self.name])
        return rank_many(self, *given, **named)

    monkeypatch.setattr(CrossEncoder, "rank_many", ranking)
    loaded = load_models(settings)
    assert asked == dict.fromkeys(folders, 1)
    assert loaded.digests == {"stored": models.digest_of(folders[-1])}

    def changing(*given: Any, **named: Any) -> None:
        load(*given, **named)
        weights = Path(folders[0]) / "model.safetensors"
        weights.write_bytes(weights.read_bytes())

    monkeypatch.setattr(CrossEncoder, "__init__", changing)
    with pytest.raises(ModelLoadError, match="were changed while they were read"):
        load_models(settings)
    (tmp_path / "cascade.json").write_text('{"version": 1, "models": 3, "keep": []}')
    with pytest.raises(InvalidInput, match="is no cascade"):
        load_models(settings)


async def test_a_reload_keeps_the_cache_of_scores(tiny_folder: str, tmp_path: Path) -> None:
    """What is kept is found by the new models while their weights are the same, and by others never."""
    folder = str(shutil.copytree(tiny_folder, tmp_path / "model"))
    settings = Settings(models=(ModelSource("a", folder),), device="cpu", score_cache=str(tmp_path / "scores.db"))
    models = Models(load_models(settings), settings, unwatched)
    before = (await models.get("a").shared.score("cat", ["mat"])).logits
    await models.retire(await models.reload())
    same = await models.get("a").shared.score("cat", ["mat"])
    assert (same.record.cache_hits, same.logits.tolist()) == (1, before.tolist())
    weights = load_file(Path(folder) / "model.safetensors")
    weights["classifier.bias"] += 1.0
    save_file(weights, Path(folder) / "model.new", metadata={"format": "pt"})
    os.replace(Path(folder) / "model.new", Path(folder) / "model.safetensors")
    await models.retire(await models.reload())
    changed = await models.get("a").shared.score("cat", ["mat"])
    assert changed.record.cache_hits == 0
    assert changed.logits == pytest.approx(before + 1.0, abs=1e-5)
    models.close()


async def test_a_model_that_is_replaced_finishes_what_it_began(tiny_folder: str) -> None:
    """Requests under way keep it; then it is closed, and its name means the new one."""
    settings = Settings(models=(ModelSource("a", tiny_folder),), device="cpu")
    models = Models(load_models(settings), settings, unwatched)
    with models.held("a") as held:
        old = await models.reload()
        retiring = asyncio.create_task(models.retire(old))
        assert models.get("a") is not held
        await asyncio.sleep(0.2)
        assert not retiring.done()
        scored = await held.shared.score("cat", ["mat"])
        assert len(scored.logits) == 1
    await retiring
    with pytest.raises(SecondPassError, match="closed"):
        held.shared.submit("cat", ["mat"])
    assert len((await models.get("a").shared.score("cat", ["mat"])).logits) == 1
    models.close()
