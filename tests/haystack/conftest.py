"""A ranker and documents for the tests of the Haystack components."""

import os

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "false"

from collections.abc import Callable

import pytest

pytest.importorskip("haystack")

from haystack import Document
from haystack.utils import ComponentDevice
from haystack_integrations.components.rankers.secondpass import SecondPassRanker


@pytest.fixture
def make_ranker(tiny_folder: str) -> Callable[..., SecondPassRanker]:
    """Make a ranker on a tiny BERT on the CPU; keywords go to its constructor."""

    def ranker(**parameters: object) -> SecondPassRanker:
        stated = {"model": tiny_folder, "device": ComponentDevice.from_str("cpu")} | parameters
        return SecondPassRanker(**stated)

    return ranker


@pytest.fixture
def documents() -> list[Document]:
    """Six documents with ids d0 to d5 and retrieval scores that fall."""
    contents = (
        "paris is the capital of france",
        "a dog sat on the mat",
        "change the password of an account",
        "cook an apple",
        "the second train to london",
        "water the tree in the garden",
    )
    return [
        Document(id=f"d{index}", content=content, score=6.0 - index, meta={"place": index})
        for index, content in enumerate(contents)
    ]
