"""pipelines/train_reranker.yaml: loaded as anyone would load it, and run for real on what comes with the package."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

haystack = pytest.importorskip("haystack")
pytest.importorskip("ir_measures")
pytest.importorskip("bm25s")

from haystack import Pipeline  # noqa: E402
from haystack_integrations.components.rankers.secondpass import SecondPassRanker  # noqa: E402

from secondpass_pipelines.pipeline_files import pipeline_file  # noqa: E402

FOLDER = Path(__file__).parents[2] / "pipelines"
TEXT = (FOLDER / "train_reranker.yaml").read_text()


def test_loads_under_the_default_allow_list_and_round_trips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`Pipeline.loads` takes the file as it is, also by its packaged name, and making it writes nothing."""
    monkeypatch.chdir(tmp_path)
    loaded = Pipeline.loads(TEXT)
    again = Pipeline.loads(loaded.dumps())
    assert again.to_dict()["components"] == loaded.to_dict()["components"]
    assert sorted(map(str, again.to_dict()["connections"])) == sorted(map(str, loaded.to_dict()["connections"]))
    assert pipeline_file("train_reranker").read_text() == TEXT
    assert list(tmp_path.iterdir()) == []
    assert "`train_reranker.yaml`" in (FOLDER / "README.md").read_text()


def test_runs_without_inputs(tiny_folder: str, tmp_path: Path) -> None:
    """On the packaged labelled queries, with a model of this machine: sync and async train the same reranker."""

    def pipeline(name: str) -> Any:
        text = TEXT.replace("secondpass/pocket", tiny_folder).replace("my-reranker", str(tmp_path / name))
        loaded: Any = Pipeline.loads(text)
        loaded.get_component("trainer").device = "cpu"
        return loaded

    one = pipeline("one").run({})["trainer"]
    two = asyncio.run(pipeline("two").run_async({}))["trainer"]
    assert one["scores"] == two["scores"]
    assert one["report"]["queries"] == {"trained": 32, "held_out": 8, "without_relevant": 0}
    assert (one["report"]["resumed_from"], len(one["scores"])) == (None, 2)
    documents = [haystack.Document(content="reset the password"), haystack.Document(content="a cat")]
    assert SecondPassRanker(model=one["model"]).run(query="password", documents=documents)["reranked"]


def test_two_steps_on_the_embedded_model(tmp_path: Path) -> None:
    """With the model that the file names it learns, and the report has what it measured before and after."""
    loaded: Any = Pipeline.loads(TEXT.replace("my-reranker", str(tmp_path / "out")))
    data = loaded.to_dict()
    data["components"]["trainer"]["init_parameters"]["settings"] |= {"max_steps": 2, "tokens_per_step": 500}
    data["components"]["trainer"]["init_parameters"]["max_length"] = 64
    data["components"]["labelled"]["init_parameters"]["top_k"] = 5
    found = Pipeline.from_dict(data).run({})["trainer"]["report"]
    assert found["steps"] == 2
    assert 0.3 < found["dev"]["nDCG@10"]["before"] <= 1.0
    assert found["best_score"] == max(found["dev"]["nDCG@10"]["before"], found["dev"]["nDCG@10"]["after"])
