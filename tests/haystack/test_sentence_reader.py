"""`SentenceReader`: answers in the words of the documents, in Haystack's form."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
from haystack import Document, Pipeline
from haystack.utils import ComponentDevice
from haystack_integrations.components.readers.secondpass import SentenceReader

from secondpass.errors import InvalidInput
from secondpass.extraction import extract
from secondpass.windows import Windows


@pytest.fixture
def make_reader(tiny_folder: str) -> Callable[..., SentenceReader]:
    """Make a reader on a tiny BERT on the CPU; keywords go to its constructor."""
    return lambda **given: SentenceReader(**{"model": tiny_folder, "device": ComponentDevice.from_str("cpu")} | given)


DOCUMENTS = [
    Document(id="a", content="A cat sat on the mat. The dog slept.", score=2.0),
    Document(id="b", content="The river is long. The dog slept.", score=1.0),
    Document(id="c", content=None),
]


def test_answers_are_quotations_with_their_places(make_reader: Callable[..., SentenceReader]) -> None:
    """The same sentence of two documents is that of the first; replies are the texts."""
    result = make_reader(top_k=10).run(query="where did the cat sit", documents=DOCUMENTS)
    answers = result["answers"]
    assert {(answer.document.id, answer.data) for answer in answers} == {
        ("a", "A cat sat on the mat."),
        ("a", "The dog slept."),
        ("b", "The river is long."),
    }
    for answer in answers:
        place = answer.document_offset
        assert answer.document.content[place.start : place.end] == answer.data
    assert result["replies"] == [answer.data for answer in answers]
    assert [answer.score for answer in answers] == sorted((answer.score for answer in answers), reverse=True)


async def test_the_limits_hold_and_async_gives_the_same(make_reader: Callable[..., SentenceReader]) -> None:
    """top_k of a run replaces the component's; a threshold leaves out what scores less."""
    reader = make_reader(top_k=1)
    assert len(reader.run(query="cat", documents=DOCUMENTS)["answers"]) == 1
    three = reader.run(query="cat", documents=DOCUMENTS, top_k=3)
    assert (await reader.run_async(query="cat", documents=DOCUMENTS, top_k=3)) == three
    scores = [answer.score for answer in three["answers"]]
    strict = make_reader(top_k=3, score_threshold=scores[1]).run(query="cat", documents=DOCUMENTS)
    assert [answer.score for answer in strict["answers"]] == scores[:2]


@pytest.mark.parametrize(("query", "documents"), [(" ", DOCUMENTS), ("cat", []), ("cat", [Document(content=" ")])])
def test_nothing_to_read_gives_no_answer(
    make_reader: Callable[..., SentenceReader], query: str, documents: list[Document]
) -> None:
    """No model is asked, and nothing fails."""
    assert make_reader().run(query=query, documents=documents) == {"answers": [], "replies": []}


@pytest.mark.parametrize(
    "parameters",
    [
        {"top_k": 0},
        {"per_document": 0},
        {"score_threshold": "x"},
        {"max_sentences": 0},
        {"model": {"type": "x"}},
        {"precision": "half"},
        {"model": ["a", "b"]},
        {"windows": 3},
        {"windows": {"most": 0}},
        {"score_cache": ""},
    ],
)
def test_wrong_parameters_are_named(parameters: dict[str, object]) -> None:
    """Before any model is loaded."""
    with pytest.raises(InvalidInput, match=next(iter(parameters))):
        SentenceReader(**parameters)


def test_it_survives_yaml_and_copying(make_reader: Callable[..., SentenceReader]) -> None:
    """A dumped pipeline loads under the default allow-list; a copy loads its own model."""
    reader = make_reader(top_k=2, precision="bf16", windows={"tokens": 30, "overlap": 4})
    pipeline = Pipeline()
    pipeline.add_component("reader", reader)
    again = Pipeline.loads(pipeline.dumps())
    assert again.get_component("reader").to_dict() == reader.to_dict()
    found = reader.run(query="cat", documents=DOCUMENTS)
    assert copy.deepcopy(reader).run(query="cat", documents=DOCUMENTS) == found
    reader.close()
    assert reader.run(query="cat", documents=DOCUMENTS) == found


def test_of_long_documents_the_best_windows_are_read(make_reader: Callable[..., SentenceReader]) -> None:
    """The answers are those of the engine with these windows; without any all sentences are read."""
    long = [Document(id=str(number), content="The river is long. Water a tree. " * 40 + said) for number, said in
            enumerate(("A cat sat on the mat.", "The dog slept in the garden."))]  # fmt: skip
    texts = [document.content or "" for document in long]
    for windows in (None, {}, {"tokens": 24, "overlap": 0}):
        reader = make_reader(windows=windows)
        with reader.lent_model() as encoder:
            how = None if windows is None else Windows(**windows)
            expected = extract(encoder, "where did the cat sit", texts, windows=how).extracts
        found = reader.run(query="where did the cat sit", documents=long)["answers"]
        assert [(int(one.document.id), one.document_offset.start, one.score) for one in found] == [
            (one.document, one.span.start, one.score) for one in expected
        ]
