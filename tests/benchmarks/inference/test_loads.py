"""What benchmarks ask: texts of the wanted length, none of them twice, and judged queries from the whole of a set."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks import cascade, windows
from benchmarks.inference import judged
from benchmarks.inference.compare import OURS
from benchmarks.inference.loads import LENGTHS, Loads, source
from benchmarks.inference.models import write_model
from benchmarks.inference.turns import Lineup
from benchmarks.inference.worker import Place
from recipes.pocket.corpora import read_test
from recipes.pocket.evaluate import exam
from tests.small_collection import write_json_lines


@pytest.fixture(scope="module")
def loads(tmp_path_factory: pytest.TempPathFactory) -> Loads:
    """Of the demo's texts, with the embedded model's tokens."""
    folder = tmp_path_factory.mktemp("models") / "pocket"
    write_model("pocket", folder)
    return Loads(source(Path("no such folder")), folder)


@pytest.mark.parametrize("kind", LENGTHS)
def test_pairs_have_the_wanted_length(loads: Loads, kind: str) -> None:
    """On average within a third: BM25 prefers long passages to short ones."""
    mean, _ = loads.tokens(loads.make(kind, 3, 30))
    assert abs(mean - LENGTHS[kind][0]) < LENGTHS[kind][0] / 3


@pytest.mark.parametrize("tokens", [32, 64, 128, 256])
def test_pairs_of_one_length_have_it(loads: Loads, tokens: int) -> None:
    """Short ones get a short query."""
    mean, spread = loads.tokens(loads.of_length(tokens, 2, 20))
    assert abs(mean - tokens) < tokens / 5
    assert spread < tokens / 5


def test_no_document_comes_twice(loads: Loads) -> None:
    """Neither within a query nor in later ones: no cache can answer."""
    asked = [*loads.make("passage", 4, 40), *loads.make("passage", 4, 40)]
    documents = [document for one in asked for document in one.documents]
    assert len(documents) == 8 * 40
    assert len(set(documents)) == len(documents)


def collection_in(folder: Path) -> list[str]:
    """Write 35 texts, which are documents and queries that each answer themselves, and return them."""
    (folder / "qrels").mkdir(parents=True)
    texts = [f"lake of stone {number:02d}" for number in range(35)]
    write_json_lines(folder / "corpus.jsonl", [{"_id": f"d{n:02d}", "text": text} for n, text in enumerate(texts)])
    write_json_lines(folder / "queries.jsonl", [{"_id": f"q{n:02d}", "text": text} for n, text in enumerate(texts)])
    grades = [f"q{number:02d}\td{number:02d}\t1\n" for number in range(35)]
    (folder / "qrels" / "test.tsv").write_text("".join(["query-id\tcorpus-id\tscore\n", *grades]))
    return texts


# By who asks: what takes so many queries of the set in a folder of data, and gives their texts.
DRAWN: dict[str, Callable[[Path, int], list[str]]] = {
    "inference and budget": lambda data, limit: [task.query for task in judged.tasks(data, "set", limit)],
    "cascade": lambda data, limit: [task.query for task in cascade.tasks(data, "set", "test", limit, 5)[0]],
    "windows": lambda data, limit: [task.query for task in windows.tasks(data, windows.Collection("set", 1, limit, 5))],
    "recipe": lambda data, limit: [task.query for task in exam(read_test(data, "set"), limit).tasks],
}


@pytest.mark.parametrize("name", DRAWN)
def test_some_queries_of_a_set_are_from_all_of_it(name: str, tmp_path: Path) -> None:
    """In steps that differ by one at most, the last query such a step before the end; or all there are."""
    texts = collection_in(tmp_path / "set")
    places = sorted(texts.index(query) for query in DRAWN[name](tmp_path, 12))
    assert (len(places), places[0]) == (12, 0)
    assert {later - one for one, later in pairwise([*places, 35])} == {2, 3}
    assert sorted(DRAWN[name](tmp_path, 36)) == texts


def test_judged_queries_are_ranked_by_all_with_the_lineups_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which loads them for itself: another one's contenders are of another model."""
    collection_in(tmp_path / "set")
    monkeypatch.setattr(judged, "SETS", ("set", "not there"))
    place = Place("secondpass/pocket", "cpu", 1, str(tmp_path), "")
    with Lineup(place, None, tmp_path / "log") as lineup:
        found = judged.judge(lineup, [OURS[0], OURS[-1]], tmp_path, 4)
    assert list(found) == ["set"]
    assert found["set"]["queries"] == 4
    assert {name: row["ndcg"] for name, row in found["set"]["rows"].items()} == {OURS[0].name: 1.0, OURS[-1].name: 1.0}
