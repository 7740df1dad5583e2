"""The model card: its front matter, its figures, and that loading a model does not mind it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("ir_measures")

from secondpass import CrossEncoder
from secondpass.calibration import Calibration
from secondpass.errors import InvalidInput
from secondpass.models.card import ASIDE, PROBABILITIES, ModelCardData
from secondpass.models.card import README as CARD
from secondpass.models.identity import marks_of
from secondpass.training.data.checking import checked_groups
from secondpass.training.data.groups import fingerprint
from secondpass.training.losses import make_loss
from secondpass.training.measuring.before_after import AFTER, BEFORE, BeforeAfter, of_groups
from secondpass.training.measuring.card import Card, card_text, write_card
from secondpass.training.settings import LoraSettings, TrainingSettings
from secondpass.training.trainer import TrainingReport
from tests.tiny_models import ROUNDING
from tests.toy_task import same, state
from tests.training.toy_run import toy_groups

SETTINGS = TrainingSettings(loss="ranknet", learning_rate=3e-5, loss_options={"x|y": "<b>"})


@pytest.fixture(scope="module")
def card(tiny: CrossEncoder) -> Card:
    """A card with a measured set, before and after by the same model."""
    groups = toy_groups(1, 10)
    counts = checked_groups(groups, make_loss("ranknet", {})).counts
    report = TrainingReport(
        steps=1234,
        epochs=2.0,
        best_score=0.75,
        best_step=600,
        scores=((0, 0.5), (600, 0.75), (1234, 0.7)),
        stopped_early=False,
        resumed_from=None,
        seconds=7300.0,
        pairs=40_000,
        tokens=9_000_000,
        counts=counts,
    )
    held = of_groups("dev", toy_groups(2, 8), ("nDCG@10", "RR@10"))
    held.measure(tiny, BEFORE)
    held.measure(tiny, AFTER)
    return Card(
        name="my-reranker",
        base_model="secondpass/pocket",
        num_labels=1,
        settings=SETTINGS,
        sources=("train.jsonl",),
        counts=counts.lines(),
        fingerprint=fingerprint(groups),
        report=report,
        measured=(held,),
        command="secondpass train train.yaml",
        notes=("2 of 8 dev queries are learnt from too",),
    )


def front(text: str) -> dict[str, Any]:
    """The front matter."""
    return yaml.safe_load(text.split("---\n")[1])


def test_front_matter(card: Card) -> None:
    """What the hub reads; nothing stands there that is not known."""
    assert front(card_text(card)) == {
        "library_name": "sentence-transformers",
        "tags": ["cross-encoder", "reranker", "secondpass"],
        "pipeline_tag": "text-ranking",
        "base_model": "secondpass/pocket",
    }
    known = replace(card, language="en", license="apache-2.0", num_labels=3)
    assert front(card_text(known)).keys() == {"library_name", "tags", "base_model", "language", "license"}
    from huggingface_hub import ModelCard

    assert ModelCard(card_text(card)).data.pipeline_tag == "text-ranking"


def test_figures_are_the_measured_ones(card: Card) -> None:
    """Every mean, interval and difference of the analysis is in the text."""
    text = card_text(card)
    held: BeforeAfter = card.measured[0]
    analysis = held.analysis()
    for report in analysis.reports:
        for measure, mean in report.means.items():
            interval = analysis.intervals[report.system][measure]
            assert f"| {measure} | {report.system} | {mean:.3f} | {interval.low:.3f} to {interval.high:.3f} |" in text
    assert "0: 0.500, 600: 0.750, 1,234: 0.700" in text
    assert "step 600" in text
    assert "Note: 2 of 8 dev queries are learnt from too." in text


def test_recipe_and_data(card: Card) -> None:
    """All settings, the counts, the fingerprint, the command and the versions."""
    text = card_text(card)
    for name in SETTINGS.as_json():
        assert f"| {name.replace('_', chr(92) + '_')} | " in text
    for part in (*card.counts, card.fingerprint, "secondpass train train.yaml", "torch ", "1,234 steps", "2.0 hours"):
        assert part in text
    whole = card_text(replace(card, configuration="a: '```'\n"))
    assert "``````yaml\na: '```'\n``````" in whole
    assert "learning\\_rate" not in whole


def test_nothing_measured(card: Card) -> None:
    """Without a held-out set the card says so, and claims no figure."""
    bare = replace(card, measured=(), report=replace(card.report, best_score=None, best_step=None, scores=()))
    text = card_text(bare)
    assert "Nothing was measured" in text
    assert "nDCG" not in text


def test_no_folder_of_this_machine(card: Card, tmp_path: Path) -> None:
    """A local base model is told by its last name, and not to the hub."""
    folder = tmp_path / "base"
    folder.mkdir()
    text = card_text(replace(card, base_model=str(folder)))
    assert str(tmp_path) not in text
    assert "`base`" in text
    assert "base_model" not in front(text)


def test_hostile_names_stay_texts(card: Card) -> None:
    """Names with Markdown, line ends and terminal commands in them neither break the tables nor the page."""
    evil = "a|b\n# c <script>`x`\x1b[31m"
    held = BeforeAfter(
        evil, card.measured[0].ranking, card.measured[0].qrels, None, ("nDCG@10",), card.measured[0].runs
    )
    text = card_text(replace(card, name=evil, sources=(evil,), base_model="x`y\nz", measured=(held,), notes=(evil,)))
    assert "\x1b" not in text
    assert "<script>" not in re.sub(r"```python.*?```", "", text, flags=re.DOTALL)
    assert "\n# c" not in text
    assert "- a\\|b \\# c \\<script\\>\\`x\\` \\[31m" in text
    assert front(text)["base_model"] == "x`y\nz"


@pytest.mark.parametrize("labels", [1, 3])
def test_the_usage_runs(card: Card, tiny_model_folder: Any, capsys: pytest.CaptureFixture[str], labels: int) -> None:
    """Both examples of use run as they are, on the folder whose name they have."""
    folder = tiny_model_folder("bert", labels)
    text = card_text(replace(card, name=folder, num_labels=labels))
    first, _ = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(first, {})  # noqa: S102
    assert capsys.readouterr().out


def test_the_usage_of_an_adapter(card: Card) -> None:
    """Additions that were not merged are loaded onto the base model."""
    text = card_text(replace(card, settings=TrainingSettings(lora=LoraSettings(merge=False))))
    assert 'load_lora(encoder.model, "my-reranker/adapter").merge()' in text
    assert front(text)["library_name"] == "peft"
    merged = card_text(replace(card, settings=TrainingSettings(lora=LoraSettings())))
    assert front(merged)["library_name"] == "sentence-transformers"


@pytest.mark.filterwarnings("default")
def test_a_folder_with_a_card_loads_as_before(card: Card, tiny_folder: str, tmp_path: Path) -> None:
    """The scores are those of the folder without it, here and in sentence-transformers."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    encoder = CrossEncoder(tiny_folder, device="cpu")
    encoder.save(str(tmp_path))
    pairs = [("a cat", "the cat sat"), ("a dog", "the cat")]
    before = encoder.predict(pairs)
    assert write_card(tmp_path, card) == tmp_path / CARD
    again = CrossEncoder(str(tmp_path), device="cpu")
    assert same(state(again), state(encoder))
    assert again.predict(pairs) == pytest.approx(before, rel=0, abs=ROUNDING)
    theirs = sentence_transformers.CrossEncoder(str(tmp_path), device="cpu").predict(pairs)
    assert theirs == pytest.approx(before, abs=1e-5)


def test_a_readme_of_somebody_else_stays(card: Card, tmp_path: Path) -> None:
    """Our own card is replaced; any other README.md is not touched."""
    assert write_card(tmp_path, card) == write_card(tmp_path, replace(card, name="other")) == tmp_path / CARD
    assert "# other" in (tmp_path / CARD).read_text()
    (tmp_path / CARD).write_bytes(b"# mine \xff\n")
    assert write_card(tmp_path, card) == tmp_path / ASIDE
    assert (tmp_path / CARD).read_bytes() == b"# mine \xff\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == [ASIDE, CARD]


@pytest.mark.parametrize("name", ["my-reranker", "Probabilities"])
def test_a_calibration_is_told_in_the_card_of_a_training(
    card: Card, own_tiny: CrossEncoder, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """Below all that training wrote, which stays: figures do not replace it, and without a calibration it is as it was.

    So it is where the folder has somebody else's README, and the card lies beside that.
    """
    trained = card_text(replace(card, name=name))
    for file in (CARD, ASIDE):
        if file == ASIDE:
            (tmp_path / CARD).write_text("mine")
        write_card(tmp_path, replace(card, name=name))
        for queries in (14, 15):
            made = Calibration("logistic", queries=queries, marks=marks_of(own_tiny))
            own_tiny.use_calibration(made)
            own_tiny.save(str(tmp_path))
            text = (tmp_path / file).read_text()
            assert text.startswith(trained.rstrip() + f"\n\n{PROBABILITIES}\n\n")
            assert f"fitted on {queries} queries" in text
            assert text.count("makes probabilities") == 1
        assert "was written" not in caplog.text
        own_tiny.use_calibration(None)
        own_tiny.save(str(tmp_path))
        assert (tmp_path / file).read_text() == trained
    assert (tmp_path / CARD).read_text() == "mine"
    own_tiny.model_card_data = ModelCardData()
    own_tiny.model_card_data.set_evaluation_metrics(object(), {"map": 0.5})
    own_tiny.save(str(tmp_path))
    assert (tmp_path / ASIDE).read_text() == trained
    assert "was written by a training: nothing is put into it of figures\n" in caplog.text


def test_a_folder_that_cannot_be_written(card: Card, tmp_path: Path) -> None:
    """The error names the file."""
    with pytest.raises(InvalidInput, match=r"README\.md: cannot be written"):
        write_card(tmp_path / "absent", card)


def test_a_run_that_changed_nothing_says_so(card: Card) -> None:
    """Before the figures; any other run says nothing of the kind."""
    unchanged = replace(card, report=replace(card.report, best_step=0, changed=False))
    assert "**Training changed nothing: no step was better on dev than the weights before it.**" in card_text(unchanged)
    assert "changed nothing" not in card_text(card)
