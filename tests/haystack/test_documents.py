"""Documents become texts: checked, deduplicated, laid out."""

import math

import pytest
from haystack import Document
from haystack_integrations.common.secondpass.documents import TextLayout, deduplicated, listed

from secondpass.errors import InvalidInput


def test_any_iterable_of_documents_is_materialised_once() -> None:
    """A generator is read to its end exactly once."""
    made = [Document(id="a"), Document(id="b")]
    assert listed(document for document in made) == made
    assert listed(tuple(made)) == made


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        (None, "documents is NoneType, not a list of Document"),
        ("text", "documents is str, not a list of Document"),
        (7, "documents is int, not a list of Document"),
        (Document(id="a"), "documents is Document, not a list of Document"),
        ([Document(id="a"), "text"], r"documents\[1\] is str, not Document"),
        ([Document(id="a"), Document(id="b"), None], r"documents\[2\] is NoneType, not Document"),
        ({"a": Document(id="a")}, r"documents\[0\] is str, not Document"),
        ([[Document(id="a")]], r"documents\[0\] is list, not Document"),
    ],
)
def test_what_is_no_document_is_refused_with_its_index(documents: object, message: str) -> None:
    """The error names the argument, the index and the type that came."""
    with pytest.raises(InvalidInput, match=message):
        listed(documents)


def test_of_equal_ids_the_highest_score_stays_at_the_first_place() -> None:
    """Deduplication keeps the best document, in the position of the first with that id."""
    documents = [
        Document(id="a", content="low", score=0.1),
        Document(id="b", content="other", score=0.5),
        Document(id="a", content="high", score=0.9),
        Document(id="a", content="middle", score=0.4),
    ]
    assert [(document.id, document.content) for document in deduplicated(documents)] == [("a", "high"), ("b", "other")]


@pytest.mark.parametrize("missing", [None, math.nan])
def test_a_missing_score_loses_against_any_score(missing: float | None) -> None:
    """None and NaN rank below every number, even minus a million."""
    documents = [Document(id="a", content="none", score=missing), Document(id="a", content="some", score=-1e6)]
    assert [document.content for document in deduplicated(documents)] == ["some"]


def test_of_equal_scores_the_first_document_stays() -> None:
    """A tie between duplicates changes nothing."""
    documents = [Document(id="a", content="first", score=1.0), Document(id="a", content="second", score=1.0)]
    assert [document.content for document in deduplicated(documents)] == ["first"]
    unscored = [Document(id="a", content="first"), Document(id="a", content="second")]
    assert [document.content for document in deduplicated(unscored)] == ["first"]


def test_meta_values_stand_before_the_content_and_falsy_ones_count() -> None:
    """0 and False are values; None and a missing field are left out with their separator."""
    layout = TextLayout(meta_fields=["title", "count", "flag", "empty", "absent"], separator=" | ")
    document = Document(id="a", content="body", meta={"title": "Head", "count": 0, "flag": False, "empty": None})
    assert layout.document(document) == "Head | 0 | False | body"


def test_texts_are_not_stripped() -> None:
    """Spaces around the content reach the model as they are."""
    assert TextLayout().document(Document(id="a", content=" body ")) == " body "


def test_a_document_without_content_still_has_its_fields() -> None:
    """A None content is an empty text behind the separator, as with the stock ranker."""
    assert TextLayout(meta_fields=["title"]).document(Document(id="a", meta={"title": "Head"})) == "Head\n"


@pytest.mark.parametrize("content", [None, "", " \t\n", "\u00a0"])
def test_the_separator_does_not_make_a_blank_document_readable(content: str | None) -> None:
    """Only content and meta values count as text."""
    layout = TextLayout(["title"], separator="and")
    assert not layout.has_text(Document(id="a", content=content, meta={"title": " "}))
    assert layout.has_text(Document(id="a", content=content, meta={"title": 0}))


def test_split_keeps_every_document_once_and_both_orders() -> None:
    """Readable and blank documents together are the input, each part in input order."""
    documents = [Document(id=str(index), content=content) for index, content in enumerate(["a", "", "b", None, "c"])]
    readable = TextLayout().split(documents)
    assert [document.id for document in readable.documents] == ["0", "2", "4"]
    assert readable.texts == ("a", "b", "c")
    assert [document.id for document in readable.blank] == ["1", "3"]
