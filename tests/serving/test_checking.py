"""What texts a request may bring."""

from __future__ import annotations

import pytest

from secondpass.serving.checking import check_texts
from secondpass.serving.problems import Problem
from secondpass.serving.settings import Settings
from secondpass.serving.shapes.parts import Work

SETTINGS = Settings(max_documents=3, max_characters=10)


def work(documents: list[str], query: str = "cat", field: str = "documents") -> Work:
    """One query for all."""
    return Work(None, (query,) * len(documents), tuple(documents), field)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (work(["a"] * 4), "documents: 4 are more than the 3"),
        (work(["a", "b" * 11]), "documents[1] has 11 characters, more than 10"),
        (work(["a"], "q" * 11), "query has 11 characters"),
        (work(["a"], "\t\n"), "query is blank"),
        (work(["a"], "", "pairs"), "pairs[0][0] is blank"),
        (work(["", " "], field="texts"), "texts: every document is blank; a search engine sends empty texts"),
    ],
)
def test_refusals_name_field_and_index(given: Work, said: str) -> None:
    """422."""
    with pytest.raises(Problem) as refused:
        check_texts(given, SETTINGS)
    assert refused.value.status == 422
    assert said in refused.value.message


def test_some_blank_documents_are_a_warning() -> None:
    """The client is told which they are."""
    assert check_texts(work(["a", "", " "]), SETTINGS) == ("blank documents: 1, 2",)
    assert check_texts(work(["a"]), SETTINGS) == ()
