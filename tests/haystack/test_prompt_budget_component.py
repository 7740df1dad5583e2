"""`PromptBudget`: documents cut to the tokens a prompt has room for."""

from __future__ import annotations

import copy
import threading
from pathlib import Path

import pytest
from haystack import Document, Pipeline
from haystack_integrations.components.preprocessors.secondpass import PromptBudget

from secondpass.errors import InvalidInput, ModelLoadError

DOCUMENTS = [
    Document(id="a", content="Paris is in France. It is large.", meta={"n": 1}),
    Document(id="b", content="Rome is in Italy. It is old."),
    Document(id="c", content="Bern."),
    Document(id="d", content=None),
]


def test_the_last_document_that_fits_is_cut_behind_a_sentence() -> None:
    """It says so in its meta, keeps its id, and what was left out is told with its tokens."""
    result = PromptBudget(max_tokens=16, overhead=1).run(documents=DOCUMENTS)
    assert [(document.id, document.content) for document in result["documents"]] == [
        ("a", "Paris is in France. It is large."),
        ("b", "Rome is in Italy."),
    ]
    assert [document.meta for document in result["documents"]] == [{"n": 1}, {"cut": True}]
    assert result["left_out"] == [
        {"id": "b", "tokens": 9, "kept": 5},
        {"id": "c", "tokens": 2, "kept": 0},
        {"id": "d", "tokens": 0, "kept": 0},
    ]
    assert result["tokens"] == 16
    assert DOCUMENTS[1].content == "Rome is in Italy. It is old."


def test_everything_fits_into_enough_and_a_run_may_say_how_much() -> None:
    """The documents come back as they are."""
    budget = PromptBudget(max_tokens=1)
    assert budget.run(documents=DOCUMENTS)["documents"] == []
    assert budget.run(documents=DOCUMENTS, max_tokens=500)["documents"] == DOCUMENTS[:3]
    assert budget.run(documents=[]) == {"documents": [], "left_out": [], "tokens": 0}


def test_another_models_tokens_can_be_counted(tiny_folder: str, tmp_path: Path) -> None:
    """A folder, or the file itself; what is neither is refused by name."""
    by_folder = PromptBudget(tokenizer=tiny_folder).run(documents=DOCUMENTS)
    assert by_folder == PromptBudget(tokenizer=Path(tiny_folder) / "tokenizer.json").run(documents=DOCUMENTS)
    assert by_folder["tokens"] != PromptBudget().run(documents=DOCUMENTS)["tokens"]
    with pytest.raises(ModelLoadError, match="no tokenizer"):
        PromptBudget(tokenizer=tmp_path).run(documents=DOCUMENTS)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InvalidInput, match="cannot be read"):
        PromptBudget(tokenizer=tmp_path).run(documents=DOCUMENTS)


@pytest.mark.parametrize("parameters", [{"max_tokens": 0}, {"overhead": -1}, {"tokenizer": " "}, {"overhead": True}])
def test_wrong_parameters_are_named(parameters: dict[str, object]) -> None:
    """Before anything is read."""
    with pytest.raises(InvalidInput, match=next(iter(parameters))):
        PromptBudget(**parameters)


def test_threads_and_copies_get_the_same() -> None:
    """The tokenizer is loaded once, and a copy of a pipeline takes no lock along."""
    budget = PromptBudget(max_tokens=16, overhead=1)
    expected = PromptBudget(max_tokens=16, overhead=1).run(documents=DOCUMENTS)
    found: list[dict[str, object]] = []
    threads = [threading.Thread(target=lambda: found.append(budget.run(documents=DOCUMENTS))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 8
    assert copy.deepcopy(budget).run(documents=DOCUMENTS) == expected
    pipeline = Pipeline()
    pipeline.add_component("budget", budget)
    assert Pipeline.loads(pipeline.dumps()).get_component("budget").run(documents=DOCUMENTS) == expected
