"""A configuration to a trained model: what is read, measured, written, and refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("ir_measures")
pytest.importorskip("bm25s")

from secondpass import CrossEncoder
from secondpass.errors import CheckpointError, InvalidInput, MissingExtra
from secondpass.training.configured import CONFIG, prepare, run
from secondpass.training.yaml import read_config
from tests.small_collection import CORPUS, QRELS, QUERIES, write_json_lines
from tests.training.toy_run import toy_groups

SETTINGS = "settings: {epochs: 2, tokens_per_step: 300, learning_rate: 1.0e-3, precision: fp32, log_every: 1}\n"
Write = Callable[..., Path]


def rows(seed: int, size: int) -> list[dict[str, Any]]:
    """Toy groups as lines of a file, each with a query of its own."""
    return [
        {"query": f"{group.query} {number}", "documents": group.documents, "labels": group.labels}
        for number, group in enumerate(toy_groups(seed, size))
    ]


@pytest.fixture
def write(tmp_path: Path, tiny_folder: str) -> Write:
    """Write a configuration on the tiny model and toy data; `data` is a line of YAML."""
    write_json_lines(tmp_path / "train.jsonl", rows(1, 30))
    write_json_lines(tmp_path / "dev.jsonl", rows(2, 10))

    def written(data: str = "train: {path: train.jsonl}, dev: {path: dev.jsonl}", more: str = "") -> Path:
        file = tmp_path / "c.yaml"
        model = f"model: {{name: {tiny_folder}, device: cpu}}\n"
        file.write_text(f"{model}data: {{{data}}}\noutput: {{folder: out}}\n{SETTINGS}{more}")
        return file

    return written


def test_a_whole_run(write: Write, tmp_path: Path, tiny: CrossEncoder) -> None:
    """The folder has a model that ranks the dev set as reported, its configuration, card and log."""
    prepared = prepare(read_config(write()))
    done = run(prepared, show_progress_bar=False)
    folder = tmp_path / "out"
    assert done.card == folder / "README.md"
    (dev,) = done.measured
    before, after = dev.gain().reports
    assert after.means["nDCG@10"] > before.means["nDCG@10"] + 0.1
    assert after.means["nDCG@10"] == pytest.approx(done.report.best_score, abs=1e-6)
    assert done.report.scores[0] == (0, pytest.approx(before.means["nDCG@10"], abs=1e-6))
    assert dev.ranking(CrossEncoder(str(folder), device="cpu")) == pytest.approx(done.report.best_score, abs=1e-6)
    assert dev.ranking(tiny) == pytest.approx(before.means["nDCG@10"], abs=1e-6)
    assert read_config(folder / CONFIG) == prepared.config
    assert f"{done.report.steps:,} steps" in (folder / "README.md").read_text()
    kinds = [json.loads(line)["kind"] for line in (folder / "training.jsonl").read_text().splitlines()]
    assert {"step", "evaluation", "end"} <= set(kinds)


def test_a_card_says_whose_the_labels_are(write: Write, tmp_path: Path) -> None:
    """Of training data and of each held-out set whose judgements are not people's, groups of people's beside them."""
    clicked = tmp_path / "clicked"
    (clicked / "qrels").mkdir(parents=True)
    write_json_lines(clicked / "corpus.jsonl", CORPUS)
    write_json_lines(clicked / "queries.jsonl", QUERIES)
    head, *lines = QRELS.splitlines()
    for split, origin in (("train", "from clicks"), ("test", "by m, not by people")):
        table = [f"{head}\torigin", *(f"{line}\t{origin}" for line in lines)]
        (clicked / "qrels" / f"{split}.tsv").write_text("\n".join(table) + "\n")
    write_json_lines(tmp_path / "dev.jsonl", [{**row, "label_origin": "by n"} for row in rows(2, 4)])
    data = "train: [{path: clicked, relevant_from: 1}, {path: train.jsonl, limit: 5}], dev: {path: dev.jsonl}"
    prepared = prepare(read_config(write(f"{data}, test: {{path: clicked}}")))
    done = run(prepared, show_progress_bar=False)
    assert done.card is not None
    card = done.card.read_text()
    assert "- labels: from clicks (4 of 9 groups); by people (5 of 9 groups)\n" in card
    assert "Note: dev: judgements by n." in card
    assert "Note: clicked: judgements by m, not by people." in card


def test_its_own_configuration_repeats_it(write: Write, tmp_path: Path) -> None:
    """The file in the folder, with another folder, gives the same weights, bit for bit."""
    run(prepare(read_config(write())), show_progress_bar=False)
    again = read_config(tmp_path / "out" / CONFIG, [f"output.folder={tmp_path / 'again'}"])
    run(prepare(again), show_progress_bar=False)
    first, second = (CrossEncoder(str(tmp_path / name), device="cpu").model.state_dict() for name in ("out", "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_test_set_and_its_first_pass(write: Write, tmp_path: Path) -> None:
    """A BEIR folder is measured against BM25 before and after; without a card no card is written."""
    beir = tmp_path / "beir"
    (beir / "qrels").mkdir(parents=True)
    write_json_lines(beir / "corpus.jsonl", CORPUS)
    write_json_lines(beir / "queries.jsonl", QUERIES)
    (beir / "qrels" / "test.tsv").write_text(QRELS)
    config = read_config(write("train: {path: train.jsonl}, test: {path: beir, measures: AP}"), ["output.card=false"])
    done = run(prepare(config), show_progress_bar=False)
    (test,) = done.measured
    assert [report.system for report in test.analysis().reports] == ["BM25", "before training", "after training"]
    assert test.measures == ("AP",)
    assert done.report.best_score is None
    assert done.card is None
    assert not (tmp_path / "out" / "README.md").exists()


def test_held_out_share(write: Write) -> None:
    """A share of the training queries is the dev set, and is not learnt from."""
    prepared = prepare(read_config(write("train: {path: train.jsonl}, dev_share: 0.2")))
    assert prepared.dev is not None
    assert (len(prepared.checked.groups), len(prepared.dev.queries)) == (24, 6)
    assert {group.query for group in prepared.checked.groups}.isdisjoint(prepared.dev.queries)
    assert prepared.notes == ()


def test_a_share_of_positives_alone_is_refused(write: Write, tmp_path: Path) -> None:
    """It would give back the untrained model: every weight measures 1 on queries with relevant documents alone."""
    write_json_lines(tmp_path / "clicks.jsonl", [{"query": f"q {n}", "document": f"d {n}"} for n in range(20)])
    config = read_config(write("train: {path: clicks.jsonl}, dev_share: 0.2"), ["settings.loss=info_nce"])
    with pytest.raises(InvalidInput, match="dev: no query has both a relevant document and another"):
        prepare(config)


def test_long_documents_are_learnt_from_by_their_best_windows(write: Write, tmp_path: Path, tiny_folder: str) -> None:
    """None is cut then; the chooser may be another model, and held-out documents are read whole in windows."""
    long = [{**row, "documents": [f"{text}. " * 9 for text in row["documents"]]} for row in rows(1, 6)]
    write_json_lines(tmp_path / "long.jsonl", long)
    data = "train: {path: long.jsonl}, dev: {path: dev.jsonl}"
    assert prepare(read_config(write(data), ["model.max_length=32"])).plan().cut == sum(
        len(row["labels"]) for row in long
    )
    wish = f"{data}, passages: {{model: {Path(tiny_folder).name}, tokens: 16}}"
    (tmp_path / Path(tiny_folder).name).symlink_to(tiny_folder)
    config = read_config(write(wish), ["model.max_length=32", "model.truncation=windows"])
    assert config.data.passages is not None
    assert config.data.passages.model == str(tmp_path / Path(tiny_folder).name)
    prepared = prepare(config)
    assert prepared.plan().cut == 0
    documents = [text for group in prepared.checked.groups for text in group.documents]
    assert all(any(text in given for row in long for given in row["documents"]) for text in documents)
    run(prepared, show_progress_bar=False)
    assert read_config(tmp_path / "out" / CONFIG) == config
    with pytest.raises(InvalidInput, match=r"c\.yaml:2: data.passages: windows: tokens=0 is not a positive int"):
        read_config(write(f"{data}, passages: {{tokens: 0}}"))


def test_several_sources_and_limits(write: Write) -> None:
    """Sources are read in order, each up to its limit; a query of both sides is told."""
    prepared = prepare(
        read_config(
            write("train: [{path: train.jsonl, limit: 7}, {path: dev.jsonl, limit: 2}], dev: {path: dev.jsonl}")
        )
    )
    assert len(prepared.checked.groups) == 9
    assert prepared.notes == ("7 of 10 dev queries are learnt from too: its figures promise too much",)


def test_rows_that_are_pairs(write: Write, tmp_path: Path) -> None:
    """With join, pairs of one query are one group; dev pairs are joined in any case."""
    pairs = [
        {"query": row["query"], "document": document, "label": label}
        for row in rows(1, 8)
        for document, label in zip(row["documents"], row["labels"], strict=True)
    ]
    write_json_lines(tmp_path / "pairs.jsonl", pairs)
    data = "train: {path: pairs.jsonl}, join: true, dev: {path: pairs.jsonl}"
    prepared = prepare(read_config(write(data), ["settings.loss=listnet"]))
    assert prepared.dev is not None
    assert (len(prepared.checked.groups), len(prepared.dev.queries)) == (8, 8)


def test_all_bad_rows_are_named_at_once(write: Write, tmp_path: Path) -> None:
    """Bad rows of several sources are refused together, before anything is written, also where a share is held out."""
    bad = [
        {"query": "q", "documents": ["a"], "labels": [7]},
        {"query": "", "documents": ["a"], "labels": [1]},
        {"x": 1},
    ]
    write_json_lines(tmp_path / "bad.jsonl", bad)
    config = read_config(write("train: [{path: bad.jsonl}, {path: train.jsonl}, {path: bad.jsonl}]"))
    with pytest.raises(InvalidInput) as refused:
        prepare(config)
    for place in ("bad.jsonl:1", "bad.jsonl:2", "bad.jsonl:3", "and 1 more"):
        assert place in str(refused.value)
    assert not (tmp_path / "out").exists()
    shared = read_config(write("train: [{path: bad.jsonl}, {path: train.jsonl}, {path: bad.jsonl}], dev_share: 0.5"))
    with pytest.raises(InvalidInput) as again:
        prepare(shared)
    assert str(again.value) == str(refused.value)


@pytest.mark.parametrize(
    ("data", "overrides", "reason"),
    [
        ("train: {path: absent.jsonl}", [], "absent.jsonl"),
        ("train: {path: train.jsonl}, dev: {path: absent.jsonl}", [], "absent.jsonl"),
        ("train: {path: train.jsonl}, dev: {path: soft.jsonl}", [], "no whole grade"),
        ("train: {path: train.jsonl}, dev: {path: flat.jsonl}", [], "dev: no query has both a relevant document and"),
        ("train: {path: train.jsonl}, test: {path: absent}", [], "absent"),
        ("train: {path: train.jsonl}", ["settings.loss=ranket"], "did you mean ranknet"),
        ("train: {path: train.jsonl}", ["settings.loss_options={margin: 1}"], "loss_options of binary_cross_entropy"),
        ("train: {path: train.jsonl, columns: {qurey: a}}", [], "columns: 'qurey'"),
        ("train: {path: train.jsonl, unjudged_negatives: 3}", [], "unjudged_negatives goes with judgements"),
        ("train: {path: flat.jsonl}, dev_share: 0.5", [], "cannot be divided"),
    ],
)
def test_refusals(write: Write, tmp_path: Path, data: str, overrides: list[str], reason: str) -> None:
    """What cannot be trained on is named before the first step."""
    write_json_lines(tmp_path / "soft.jsonl", [{"query": "q", "documents": ["a", "b"], "labels": [0.5, 0.25]}])
    write_json_lines(tmp_path / "flat.jsonl", [{"query": "q", "documents": ["a", "b"], "labels": [1, 1]}])
    with pytest.raises(InvalidInput) as refused:
        prepare(read_config(write(data), overrides))
    assert reason in str(refused.value)


def test_the_model_is_not_overwritten(write: Write, tiny_folder: str) -> None:
    """A run that is resumed needs the first weights, so its folder is another one."""
    with pytest.raises(InvalidInput, match=r"output\.folder is the model's own"):
        prepare(read_config(write(), [f"output.folder={tiny_folder}/."]))


def test_a_file_of_ones_own_is_not_overwritten(write: Write, tmp_path: Path) -> None:
    """A train.yaml in the output folder that no run wrote is refused before anything runs; a run's is written anew."""
    own = write().rename(tmp_path / CONFIG)
    before = own.read_text()
    with pytest.raises(InvalidInput, match=r"output\.folder has a train\.yaml that no run wrote"):
        prepare(read_config(own, ["output.folder=."]))
    assert own.read_text() == before
    assert not (tmp_path / "training.jsonl").exists()
    run(prepare(read_config(own, ["settings.max_steps=1"])), show_progress_bar=False)
    made = tmp_path / "out" / CONFIG
    done = run(prepare(read_config(made, ["settings.log_every=2"])), show_progress_bar=False)
    assert done.report.resumed_from == 1
    assert read_config(made).settings.log_every == 2


def test_broken_off_and_gone_on(write: Write, tmp_path: Path, tiny_folder: str) -> None:
    """After a break the run goes on from its checkpoint and ends as one that was not; else it begins anew."""
    whole = read_config(write(), ["settings.save_every=2", f"output.folder={tmp_path / 'whole'}"])
    expected = run(prepare(whole), show_progress_bar=False)
    config = read_config(write(), ["settings.save_every=2"])

    def stop(entry: Any) -> None:
        if entry["kind"] == "step" and entry["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(prepare(config), watch=stop, show_progress_bar=False)
    done = run(prepare(config), show_progress_bar=False)
    assert done.report.resumed_from == 4
    assert done.report.scores == expected.report.scores
    first, second = (CrossEncoder(str(tmp_path / name), device="cpu").model.state_dict() for name in ("whole", "out"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    anew = run(prepare(config), resume=False, show_progress_bar=False)
    assert anew.report.resumed_from is None
    assert asdict(anew.report.counts) == asdict(done.report.counts)


def test_a_new_head_is_drawn_from_the_seed(write: Write, tmp_path: Path, tiny_folder: str) -> None:
    """A run from a model without a head goes on, and ends as one that was not broken off; torch's numbers come back."""
    whole = CrossEncoder(tiny_folder, device="cpu")
    whole.model.bert.save_pretrained(tmp_path / "headless")
    whole.tokenizer.save_pretrained(tmp_path / "headless")
    headless = [f"model.name={tmp_path / 'headless'}", "model.num_labels=1", "settings.save_every=2"]

    def head(*more: str) -> torch.Tensor:
        weight: torch.Tensor = prepare(read_config(write(), [*headless, *more])).encoder.model.classifier.weight
        return weight

    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    first = head()
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(first, head())
    assert not torch.equal(first, head("settings.seed=1"))

    def stop(entry: Any) -> None:
        if entry["kind"] == "step" and entry["step"] == 5:
            raise KeyboardInterrupt

    config = read_config(write(), headless)
    with pytest.raises(KeyboardInterrupt):
        run(prepare(config), watch=stop, show_progress_bar=False)
    done = run(prepare(config), show_progress_bar=False)
    assert done.report.resumed_from == 4
    again = run(prepare(read_config(write(), [*headless, "output.folder=again"])), show_progress_bar=False)
    assert again.report.scores == done.report.scores


def test_another_run_in_the_folder(write: Write, tmp_path: Path) -> None:
    """With other settings the folder's checkpoints belong to another run: refused, and its configuration stays."""
    run(prepare(read_config(write())), show_progress_bar=False)
    before = (tmp_path / "out" / CONFIG).read_text()
    other = prepare(read_config(write(), ["settings.seed=1"]))
    with pytest.raises(CheckpointError, match="belongs to another run"):
        run(other, show_progress_bar=False)
    assert (tmp_path / "out" / CONFIG).read_text() == before


def test_tensorboard_without_its_package(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wish is refused before training."""
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtra, match=r"secondpass\[tensorboard\]"):
        run(prepare(read_config(write(), ["output.tensorboard=true"])), show_progress_bar=False)
