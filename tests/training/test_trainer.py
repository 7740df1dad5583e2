"""The front door of training: what comes out, what is refused, and how a run goes on."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder as Theirs
from transformers import AutoModelForSequenceClassification

from secondpass import CrossEncoder
from secondpass.errors import CheckpointError, InvalidInput, TrainingError
from secondpass.training.checkpoints.checkpoints import LATER_PARTS, write_manifest
from secondpass.training.data.groups import Group
from secondpass.training.losses import LOSSES
from secondpass.training.losses.ranking import ListNet
from secondpass.training.measuring.before_after import DevRanking
from secondpass.training.running.run_watch import FINISHED
from secondpass.training.settings import LoraSettings, TrainingSettings
from secondpass.training.trainer import train
from secondpass.training.weights.layers import layers_of
from secondpass.training.weights.optimisation import fingerprint_of_weights
from tests.tiny_models import make_chain, make_reranker
from tests.toy_task import same, state
from tests.training.toy_run import SETTINGS, run, toy_groups

PAIRS = [("how to reset", "the password on"), ("how to reset", "big river in")]
SHORT = replace(SETTINGS, max_steps=2)
QUICK = replace(SETTINGS, epochs=1, save_every=0, evaluate_every=0, averaging=0.0, dropout=None)


def trained(folder, settings=QUICK, *, groups=None, **options):
    """A fresh tiny model, trained on the toy groups."""
    encoder = CrossEncoder(folder, device="cpu")
    options = {"show_progress_bar": False} | options
    return encoder, train(encoder, toy_groups(1, 40) if groups is None else groups, settings, **options)


def test_it_learns(tiny_folder, tmp_path):
    """The dev score rises, the best weights are in memory and in the folder, and the report says which."""
    settings = replace(QUICK, epochs=12, learning_rate=3e-3, loss="binary_cross_entropy")
    encoder, report = trained(tiny_folder, settings, dev=toy_groups(2, 12), output_dir=tmp_path)
    assert report.best_score == max(score for _, score in report.scores) > report.scores[0][1] + 0.1
    assert dict(report.scores)[report.best_step] == report.best_score == encoder.best_score
    assert report.epochs == 12.0
    again = CrossEncoder(str(tmp_path), device="cpu")
    assert np.array_equal(again.predict(PAIRS), encoder.predict(PAIRS))
    assert encoder.predict(PAIRS)[0] > encoder.predict(PAIRS)[1]


def test_what_comes_out_loads_everywhere(tiny_folder, tmp_path):
    """sentence-transformers and transformers read the folder, and give the same scores."""
    encoder, _ = trained(tiny_folder, output_dir=tmp_path)
    theirs = Theirs(str(tmp_path), device="cpu")
    np.testing.assert_allclose(theirs.predict(PAIRS), encoder.predict(PAIRS), atol=1e-6)
    plain = AutoModelForSequenceClassification.from_pretrained(str(tmp_path))
    assert same(plain.state_dict(), state(encoder))


@pytest.mark.parametrize("loss", [name for name in sorted(LOSSES) if name != "cross_entropy"])
def test_every_loss_trains(tiny_folder, loss):
    """One epoch changes the weights and leaves finite ones."""
    encoder, report = trained(tiny_folder, replace(QUICK, loss=loss, groups_per_step=8))
    before = state(CrossEncoder(tiny_folder, device="cpu"))
    after = state(encoder)
    assert report.changed
    assert report.unchanged is None
    assert not same(before, after)
    assert all(bool(torch.isfinite(value).all()) for value in after.values())
    assert (report.counts.groups, report.steps) == (40, 5)


def test_classes(tiny_model_folder):
    """A head of three labels learns class indices; a ranking loss refuses it."""
    folder = tiny_model_folder("bert", 3)
    groups = [Group(f"how {number}", ("the cat", "a river"), (float(number % 3), 2.0)) for number in range(12)]
    encoder, report = trained(folder, replace(QUICK, loss="cross_entropy"), groups=groups)
    assert report.pairs == 24
    assert not same(state(encoder), state(CrossEncoder(folder, device="cpu")))
    with pytest.raises(InvalidInput, match="one label"):
        trained(folder, replace(QUICK, loss="ranknet"))


def test_the_same_run_twice_is_the_same(tiny_folder):
    """Bit for bit, with dropout, and whatever the caller's own random numbers are."""
    torch.manual_seed(1)
    first, _ = trained(tiny_folder, replace(QUICK, dropout=0.2))
    torch.manual_seed(2)
    expected = torch.rand(1)
    torch.manual_seed(2)
    second, _ = trained(tiny_folder, replace(QUICK, dropout=0.2))
    assert torch.equal(torch.rand(1), expected)
    assert same(state(first), state(second))
    other, _ = trained(tiny_folder, replace(QUICK, dropout=0.2, seed=12))
    assert not same(state(first), state(other))


def test_dropout_precision_and_frozen_layers_are_put_back(tiny_folder):
    """Afterwards the model is as it was but for its weights: it scores, and trains by `fit` as before."""
    encoder = CrossEncoder(tiny_folder, device="cpu")
    before = state(encoder)
    settings = replace(QUICK, frozen_layers=1, gradient_checkpointing=True, precision="bf16", layer_decay=0.5)
    train(encoder, toy_groups(1, 40), settings, show_progress_bar=False)
    after = state(encoder)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not any(name.startswith(("bert.embeddings", "bert.encoder.layer.0.")) for name in changed)
    assert all(weight.requires_grad for weight in encoder.model.parameters())
    assert {module.p for module in encoder.model.modules() if isinstance(module, torch.nn.Dropout)} == {0.1}
    assert not encoder.model.training
    assert not any(getattr(module, "gradient_checkpointing", False) for module in encoder.model.modules())


@pytest.mark.parametrize("merge", [True, False])
def test_low_rank_additions(tiny_folder, tmp_path, merge):
    """Merged: a plain model. Not merged: an adapter folder, and a model in memory that scores with it."""
    settings = replace(QUICK, lora=LoraSettings(rank=2, merge=merge), learning_rate=1e-2)
    encoder, _ = trained(tiny_folder, settings, output_dir=tmp_path)
    assert type(encoder.model).__name__ == "BertForSequenceClassification"
    assert not np.array_equal(encoder.predict(PAIRS), CrossEncoder(tiny_folder, device="cpu").predict(PAIRS))
    assert (tmp_path / "adapter").is_dir() is not merge
    assert (tmp_path / "model.safetensors").is_file() is merge
    if merge:
        again = CrossEncoder(str(tmp_path), device="cpu")
        np.testing.assert_allclose(again.predict(PAIRS), encoder.predict(PAIRS), atol=1e-6)


@pytest.mark.parametrize("kind", ["chain", "causal"])
def test_rerankers_without_a_head(tmp_path, kind):
    """They train as they are and load everywhere; a finished run is loaded again, and other weights are refused."""
    folder = str(make_chain(tmp_path / "m", "modernbert") if kind == "chain" else make_reranker(tmp_path / "m"))
    settings = replace(QUICK, epochs=2, learning_rate=3e-3, frozen_layers=1, layer_decay=0.9)
    options = {"dev": toy_groups(2, 12), "output_dir": tmp_path / "out"}
    beside = [tmp_path / "out" / name for name in ("9_Other/model.safetensors", "model.fp16.safetensors")]
    for file in beside:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    encoder, report = trained(folder, settings, **options)
    for file in beside:
        file.unlink()
    assert report.best_score > report.scores[0][1]
    layers = layers_of(encoder.model).numbers
    before = state(CrossEncoder(folder, device="cpu"))
    moved = {layers.get(name, 0) for name, weight in state(encoder).items() if not torch.equal(weight, before[name])}
    assert moved == {2, 3}
    theirs = Theirs(str(tmp_path / "out"), device="cpu")
    np.testing.assert_allclose(theirs.predict(PAIRS), encoder.predict(PAIRS), atol=1e-6)
    again, told = trained(folder, settings, **options)
    assert told == replace(report, resumed_from=report.steps)
    assert same(state(again), state(encoder))
    rounded = {**options, "output_dir": tmp_path / "rounded", "storage": "int8"}
    if kind == "causal":
        with pytest.raises(InvalidInput, match=r"storage='int8' is for encoders, not for decoders"):
            trained(folder, settings, **rounded)
    else:
        stored, _ = trained(folder, settings, **rounded)
        assert same(state(CrossEncoder(str(tmp_path / "rounded"), device="cpu")), state(stored))
    (file, *_) = [*(tmp_path / "out").glob("*_*/model.safetensors"), tmp_path / "out" / "model.safetensors"]
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(CheckpointError, match=f"{file.name} is not as the finished run left it"):
        trained(folder, settings, **options)


def test_averaged_weights_are_what_comes_out(tiny_folder):
    """A slow average stays near the start, where the weights themselves have left it; a dev score of NaN is none."""
    start = state(CrossEncoder(tiny_folder, device="cpu"))

    def distance(encoder):
        return sum(float((value - start[name]).abs().sum()) for name, value in state(encoder).items())

    plain, _ = trained(tiny_folder)
    averaged, _ = trained(tiny_folder, replace(QUICK, averaging=0.9))
    assert 0 < distance(averaged) < distance(plain)
    unmeasured, report = trained(tiny_folder, replace(QUICK, averaging=0.9), dev=lambda encoder, **when: float("nan"))
    assert report.best_score is None
    assert same(state(unmeasured), state(averaged))


def test_patience_ends_a_run(tiny_folder):
    """Two evaluations without a better score; the best weights count."""
    scores = iter([0.5, 0.4, 0.6, 0.5, 0.5, 0.9])
    settings = replace(QUICK, epochs=3, evaluate_every=1, patience=2)
    encoder, report = trained(tiny_folder, settings, dev=lambda encoder, **when: next(scores))
    assert [score for _, score in report.scores] == [0.5, 0.4, 0.6, 0.5, 0.5]
    assert report.stopped_early
    assert (report.steps, report.best_step, report.best_score) == (4, 2, 0.6)
    assert encoder.best_score == 0.6


def test_the_start_may_be_the_best(tiny_folder):
    """Training that only harms gives back the weights it was given."""
    encoder, report = trained(tiny_folder, dev=lambda encoder, **when: -float(when["steps"] != 0))
    assert (report.best_step, report.changed) == (0, False)
    assert "no step was better on dev" in report.unchanged
    assert same(state(encoder), state(CrossEncoder(tiny_folder, device="cpu")))


@pytest.mark.parametrize("steps", [1, 5, 17])
def test_max_steps(tiny_folder, steps):
    """Exactly so many, over as many epochs as they take."""
    _, report = trained(tiny_folder, replace(QUICK, max_steps=steps))
    assert report.steps == steps


def test_resumed_run_is_the_undisturbed_one(tiny_folder, tmp_path):
    """Stopped by an error in the middle of an epoch, with dropout and averages: same weights, scores and log."""
    whole, report = run(tiny_folder, str(tmp_path / "whole"))
    heard = []

    def stop(entry):
        heard.append(entry)
        if entry["kind"] == "step" and entry["step"] == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tiny_folder, str(tmp_path / "broken"), watch=stop)
    resumed, again = run(tiny_folder, str(tmp_path / "broken"))
    assert again.resumed_from == 8
    assert same(state(whole), state(resumed))
    assert (again.scores, again.pairs, again.tokens) == (report.scores, report.pairs, report.tokens)
    lines = (tmp_path / "broken" / "training.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line)["step"] for line in lines if json.loads(line)["kind"] == "step"]
    assert steps == list(range(1, report.steps + 1))


def test_a_finished_run_is_not_repeated(tiny_folder, tmp_path):
    """Asked again, it only gives back what it made."""
    first, report = run(tiny_folder, str(tmp_path))
    second, again = run(tiny_folder, str(tmp_path))
    assert again.resumed_from == again.steps == report.steps
    assert again.scores == report.scores
    assert same(state(first), state(second))


def size(folder):
    """Bytes of all files."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_only_the_model_is_left(tiny_folder, tmp_path):
    """Of a run that is done no checkpoint stays, whatever a killed process left of removing them; asked, they stay."""
    (tmp_path / ".removed-checkpoints").mkdir()
    (tmp_path / ".removed-checkpoints" / "big").write_bytes(bytes(10**6))
    run(tiny_folder, str(tmp_path), SHORT)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"model.safetensors", "training.jsonl", FINISHED} <= names
    assert not names & {"checkpoints", ".removed-checkpoints"}
    assert size(tmp_path) < 1.2 * size(Path(tiny_folder))
    run(tiny_folder, str(tmp_path), replace(SHORT, keep=1), resume=False)
    assert len(list((tmp_path / "checkpoints").glob("step-*"))) == 1
    assert not (tmp_path / FINISHED).exists()


@pytest.mark.parametrize("lora", [None, LoraSettings(), LoraSettings(merge=False)])
@pytest.mark.parametrize("storage", [None, "int8"])
def test_a_finished_run_is_loaded_as_it_was_left(tiny_folder, tmp_path, lora, storage):
    """Without checkpoints too: the same weights as in the folder, and the same report; other weights are refused."""
    settings = replace(QUICK, lora=lora, learning_rate=3e-2, max_steps=2)
    if storage and lora and not lora.merge:
        with pytest.raises(InvalidInput, match=r"lora\.merge is false"):
            trained(tiny_folder, settings, output_dir=tmp_path, storage=storage)
        return
    first, report = trained(tiny_folder, settings, output_dir=tmp_path, storage=storage)
    again, told = trained(tiny_folder, settings, output_dir=tmp_path, storage=storage)
    assert same(state(first), state(again))
    assert told == replace(report, resumed_from=report.steps)
    assert report.changed
    (file,) = tmp_path.rglob("*model*.safetensors")
    assert (file.name == "model.int8.safetensors") is (storage is not None)
    if not lora or lora.merge:
        assert same(state(CrossEncoder(str(tmp_path), device="cpu")), state(again))
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(CheckpointError, match=f"{file.name} is not as the finished run left it"):
        trained(tiny_folder, settings, output_dir=tmp_path, storage=storage)


def test_killed_before_the_checkpoints_are_gone(tiny_folder, tmp_path, monkeypatch):
    """The run is done all the same, and the next call takes them away."""
    monkeypatch.setattr("secondpass.training.trainer.forget_checkpoints", lambda folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(tiny_folder, str(tmp_path), SHORT)
    monkeypatch.undo()
    assert (tmp_path / FINISHED).exists()
    assert (tmp_path / "checkpoints").exists()
    _, report = run(tiny_folder, str(tmp_path), SHORT)
    assert report.resumed_from == report.steps
    assert not (tmp_path / "checkpoints").exists()


def test_killed_while_it_tidied_up(tiny_folder, tmp_path):
    """What a kill left of checkpoints half removed, or of a model half saved, goes with the next call of a run done."""
    run(tiny_folder, str(tmp_path), SHORT)
    clean = sorted(path.name for path in tmp_path.iterdir())
    for left in (".removed-checkpoints/step-00000001", ".unfinished-x1"):
        (tmp_path / left).mkdir(parents=True)
        (tmp_path / left / "model.safetensors").write_bytes(b"half")
    run(tiny_folder, str(tmp_path), SHORT)
    assert sorted(path.name for path in tmp_path.iterdir()) == clean


def test_another_run_in_the_folder_is_refused(tiny_folder, tmp_path):
    """Other settings or other data: the message says what differs, also where no checkpoint is left of the run."""
    run(tiny_folder, str(tmp_path), SHORT)
    with pytest.raises(CheckpointError, match=r"learning_rate.*resume=False"):
        run(tiny_folder, str(tmp_path), replace(SHORT, learning_rate=1e-4))
    with pytest.raises(CheckpointError, match="groups"):
        trained(tiny_folder, SHORT, groups=toy_groups(5, 40), dev=toy_groups(2, 12), output_dir=tmp_path)
    with pytest.raises(CheckpointError, match=r"loss: null there, \"ListNet"):
        run(tiny_folder, str(tmp_path), SHORT, loss=ListNet())
    with pytest.raises(CheckpointError, match=r'measure: "nDCG@10" there, "RR@10" here'):
        run(tiny_folder, str(tmp_path), SHORT, dev=DevRanking(toy_groups(2, 12), "RR@10"))
    encoder = CrossEncoder(tiny_folder, device="cpu", truncation="only_document")
    with pytest.raises(CheckpointError, match=r'truncation: "longest_first" there, "only_document" here'):
        train(encoder, toy_groups(1, 40), SHORT, dev=toy_groups(2, 12), output_dir=tmp_path, show_progress_bar=False)
    _, report = run(tiny_folder, str(tmp_path), replace(SHORT, learning_rate=1e-4), resume=False)
    assert report.resumed_from is None


@pytest.mark.parametrize("keep", [None, 1])
def test_a_run_of_an_older_version_goes_on(tiny_folder, tmp_path, keep):
    """Its identity lacks what was added later, in the page of a finished run as in a checkpoint."""
    run(tiny_folder, str(tmp_path), replace(SHORT, keep=keep))
    (page,) = [tmp_path / FINISHED] if keep is None else tmp_path.glob("checkpoints/step-*/manifest.json")
    written = json.loads(page.read_text())
    for part in LATER_PARTS:
        del written["identity"][part]
    page.unlink()
    if keep is None:
        page.write_text(json.dumps(written))
    else:
        write_manifest(page.parent, written["step"], written["identity"])
    _, report = run(tiny_folder, str(tmp_path), replace(SHORT, keep=keep))
    assert report.resumed_from == report.steps


def test_one_bar_with_total_loss_and_time_left(tiny_folder, tmp_path, capsys):
    """Over all steps of all epochs; a run that goes on begins where it was."""

    def stop(entry):
        if entry["kind"] == "step" and entry["step"] == 9:
            raise KeyboardInterrupt

    settings = replace(SETTINGS, max_steps=10)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_folder, str(tmp_path), settings, watch=stop)
    _, report = run(tiny_folder, str(tmp_path), settings, show_progress_bar=True)
    bar = capsys.readouterr().err
    assert f" 8/{report.steps} [" in bar
    assert re.search(rf" {report.steps}/{report.steps} \[\d\d:\d\d<00:00, .*loss=[\d.e-]+", bar)
    assert "Epoch" not in bar


def test_settings_that_do_not_change_the_weights_may_change(tiny_folder, tmp_path):
    """How often is saved and logged, and how much memory is used."""
    run(tiny_folder, str(tmp_path))
    _, report = run(tiny_folder, str(tmp_path), replace(SETTINGS, keep=5, log_every=3, micro_batch_tokens=1000))
    assert report.resumed_from == report.steps


def test_non_finite_loss_stops_the_run_and_names_the_groups(tiny_folder, tmp_path):
    """The weights in the last checkpoint are from before, and finite."""
    calls = []

    class Breaking:
        labels, shortest, needs_contrast = "score", 1, False

        def __call__(self, logits, labels, mask):
            calls.append(1)
            return logits[mask] * (float("nan") if len(calls) == 4 else 1.0)

    settings = replace(QUICK, save_every=2, micro_batch_tokens=10_000)
    with pytest.raises(TrainingError, match=r"the loss is nan \(examples 'toy:"):
        trained(tiny_folder, settings, loss=Breaking(), output_dir=tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*"))[-1] == "step-00000002"


def test_refused_before_the_first_step(tiny_folder):
    """No groups; nothing to learn from; a dev set without grades; an unknown loss."""
    with pytest.raises(InvalidInput):
        trained(tiny_folder, groups=[])
    with pytest.raises(InvalidInput):
        trained(tiny_folder, replace(QUICK, loss="ranknet"), groups=[Group("q", ("a", "b"), (1.0, 1.0))])
    with pytest.raises(InvalidInput, match="dev"):
        trained(tiny_folder, dev=[Group("q", ("a", "b"), (0.0, 0.0))])
    with pytest.raises(InvalidInput, match="ranknet"):
        trained(tiny_folder, TrainingSettings(loss="rankmet"))


def test_a_positive_alone_in_the_last_step_ends_no_run(tiny_folder, tmp_path):
    """In-batch negatives: seven positives by threes; the seventh changes no weight, and a run goes on behind it."""
    groups = [
        Group(f"query {number}", (group.documents[group.labels.index(1.0)],), (1.0,), group.source)
        for number, group in enumerate(toy_groups(1, 7))
    ]
    way = {"loss": "info_nce", "groups_per_step": 3, "epochs": 2, "schedule": "constantlr"}
    settings = replace(QUICK, **way, evaluate_every=1, save_every=1)
    weights, broken = [], []

    def evaluator(encoder, **_):
        weights.append(fingerprint_of_weights(encoder.model))
        if len(weights) == 4 and not broken:
            broken.append(weights.pop())
            raise RuntimeError("stopped")
        return float(len(weights))

    with pytest.raises(RuntimeError, match="stopped"):
        trained(tiny_folder, settings, groups=groups, dev=evaluator, output_dir=tmp_path)
    _, report = trained(tiny_folder, settings, groups=groups, dev=evaluator, output_dir=tmp_path)
    assert (report.steps, report.resumed_from, len(weights)) == (6, 2, 7)
    assert broken == [weights[2]] == [weights[3]]
    assert weights[5] == weights[6]
    assert len(set(weights)) == 5


def test_grades_without_a_negative_end_no_run(tiny_folder):
    """A query whose documents have labels 1 and 2 would be a step without a unit: it is dropped before the first."""
    graded = [replace(group, labels=tuple(label + 1 for label in group.labels)) for group in toy_groups(2, 2)]
    settings = replace(QUICK, loss="info_nce", loss_options={"in_batch_negatives": 0}, groups_per_step=1)
    _, report = trained(tiny_folder, settings, groups=[*toy_groups(1, 4), *graded])
    assert (report.steps, report.counts.dropped) == (4, {"without a document of label 0": 2})


def test_join_makes_groups_of_the_dev_rows_too(tiny_folder, caplog):
    """Rows of pairs measure as the groups that they are of; queries that choose nothing are counted in a warning."""
    dev = [replace(group, query=f"{group.query} {number}") for number, group in enumerate(toy_groups(2, 12))]
    rows = [
        Group(group.query, (document,), (label,))
        for group in dev
        for document, label in zip(group.documents, group.labels, strict=True)
    ]
    _, joined = trained(tiny_folder, SHORT, groups=rows, dev=[*rows, Group("alone", ("d",), (1.0,))], join=True)
    assert "dev: 1 of 13 queries have documents of one grade alone" in caplog.text
    _, expected = trained(tiny_folder, SHORT, groups=dev, dev=[*dev, Group("alone", ("d",), (1.0,))])
    assert joined.scores == expected.scores
    with pytest.raises(InvalidInput, match="to choose by; join its rows by join=True"):
        trained(tiny_folder, SHORT, groups=dev, dev=rows)


def test_balanced_positives(tiny_folder):
    """The weight comes from all the data: the first step's loss is that of torch with the counted weight."""
    groups = toy_groups(1, 40)
    heard = []
    settings = replace(QUICK, loss="binary_cross_entropy", loss_options={"pos_weight": "balanced"}, groups_per_step=40)
    trained(tiny_folder, settings, groups=groups, watch=heard.append)
    fresh = CrossEncoder(tiny_folder, device="cpu")
    pairs = [(group.query, document) for group in groups for document in group.documents]
    logits = torch.from_numpy(fresh.predict(pairs, activation_fct=torch.nn.Identity()))
    labels = torch.tensor([label for group in groups for label in group.labels])
    weight = (len(labels) - labels.sum()) / labels.sum()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=weight)
    assert heard[0]["loss"] == pytest.approx(float(expected), abs=1e-5)
