"""Rules of `benchmarks.inference`: contenders give the same logits in any process, and figures are what they say."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from benchmarks.inference.compare import (
    DEFAULT,
    FALLBACK,
    HAYSTACK,
    HAYSTACK_DEFAULT,
    OURS,
    TUNED,
    Settings,
    rows,
    their_best,
    tuned,
    verdict,
)
from benchmarks.inference.loads import Asked
from benchmarks.inference.report import COLUMNS, library_lines, table, verdict_lines
from benchmarks.inference.sweeps import thread_counts
from benchmarks.inference.turns import HERE, Lineup, Measured, agreement, quantile, ratio, take_turns
from benchmarks.inference.worker import Contender, Place, Unavailable, Worker
from tests.tiny_models import WORDS

EXACT = (DEFAULT, OURS[0], FALLBACK[0], HAYSTACK_DEFAULT, HAYSTACK[0])


def asked(count: int) -> list[Asked]:
    """Queries over different documents of the tiny models' words."""
    texts = [" ".join(WORDS[n : n + 2 + n % 9]) for n in range(40)]
    return [Asked(WORDS[n], tuple(texts[n * 7 : n * 7 + 6])) for n in range(count)]


@pytest.fixture
def place(tiny_folder: str, tmp_path: Path) -> Place:
    """A tiny random BERT on one thread."""
    return Place(tiny_folder, "cpu", 1, str(tmp_path), "")


def test_all_float32_contenders_give_the_same_logits_in_turns(place: Place, tmp_path: Path) -> None:
    """Every query once each, and one pair after it; in another process the numbers are the same."""
    with Lineup(place, None, tmp_path / "log") as lineup:
        for contender in EXACT:
            lineup.load(contender)
        measured = take_turns(lineup, EXACT, asked(3), asked(1))
        assert [found.contender for found in measured] == list(EXACT)
        assert all(len(found.seconds) == len(found.logits) == len(found.single) == 3 for found in measured)
        for found in measured:
            assert agreement(found, measured[0])["difference"] < 1e-5
            assert agreement(found, measured[0])["top10"] == 1
        fresh = lineup.fresh(OURS[0], asked(2))
        assert fresh["cold_s"] > 0
        assert fresh["peak_mb"] > 50
        figures = rows(measured, 6)
    lines = library_lines(figures, {OURS[0].name: fresh})
    assert [line[0] for line in lines] == [DEFAULT.name, OURS[0].name, FALLBACK[0].name]
    assert all(len(line) == len(COLUMNS) for line in lines)
    assert [row["ratio_haystack"] is None for row in figures] == [True, True, True, False, False]


def test_another_process_gives_the_same_logits_and_tells_its_errors(place: Place, tmp_path: Path) -> None:
    """What cannot be had is a reason, and the process goes on."""
    with Worker(sys.executable, HERE, 1, tmp_path / "log") as worker, Lineup(place, None, tmp_path / "log") as lineup:
        with pytest.raises(Unavailable, match="interpreter of --backends-python"):
            worker.make(TUNED[2], place)
        with pytest.raises(Unavailable, match="nothing is made"):
            worker.rank(Contender("nothing is made", "secondpass"), "a", ["b"])
        worker.make(OURS[0], place)
        lineup.load(OURS[0])
        one = asked(1)[0]
        there, here = (ranks.rank(OURS[0], one.query, one.documents)[1] for ranks in (worker, lineup))
        assert there == pytest.approx(here, abs=1e-6)


def test_backends_without_an_interpreter_are_a_reason(place: Place, tmp_path: Path) -> None:
    """And so is one that does not start, or ends at once."""
    for python, reason in ((None, "no --backends-python"), ("no such python", "does not start"), ("true", "ended")):
        with Lineup(place, python, tmp_path / "log") as lineup, pytest.raises(Unavailable, match=reason):
            lineup.load(TUNED[2])


def measured_of(name: str, precision: str, seconds: list[float], logits: list[float]) -> Measured:
    """Figures as if measured."""
    return Measured(Contender(name, name, precision), seconds, [], [logits])


def test_ratios_are_medians_within_turns() -> None:
    """Another machine's load in one turn counts once, on both sides."""
    slow = measured_of("slow", "fp32", [2.0, 20.0, 3.0], [1.0])
    fast = measured_of("fast", "fp32", [1.0, 10.0, 1.0], [1.0])
    assert ratio(slow, fast) == 2.0
    assert quantile([5.0, 1.0, 3.0, 2.0], 0.5) == 2.0
    assert quantile(list(map(float, range(1, 101))), 0.95) == 95.0


def test_agreement_sees_a_changed_order() -> None:
    """Two of three pairs of documents keep their order: tau is a third."""
    exact = measured_of("a", "fp32", [1.0], [3.0, 2.0, 1.0])
    other = measured_of("b", "int8", [1.0], [2.0, 2.5, 1.0])
    found = agreement(other, exact)
    assert found["difference"] == 1.0
    assert found["difference_of_spread"] == 0.5
    assert found["score_difference"] == pytest.approx(1 / (1 + math.exp(-3)) - 1 / (1 + math.exp(-2)))
    assert found["tau"] == pytest.approx(1 / 3)
    assert found["top10"] == 1.0


def test_their_best_is_of_the_same_precision_and_for_int8_of_all() -> None:
    """float32 is compared with float32."""
    ours = [measured_of(f"secondpass {p}", p, [0.1], [1.0]) for p in ("fp32", "int8")]
    theirs = [measured_of("default", "fp32", [1.0], [1.0]), measured_of("other", "bf16", [0.5], [1.0])]
    assert their_best(ours[0], [*theirs, *ours]) == ("default", 10.0)
    assert their_best(ours[1], [*theirs, *ours]) == ("other", 5.0)


def test_a_table_is_markdown_and_threads_double() -> None:
    """Numbers to the right."""
    assert table(["", "a"], [["x", "1"]]) == "|  | a |\n| --- | ---: |\n| x | 1 |"
    assert [thread_counts(n) for n in (1, 2, 3, 8)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 8]]


def test_a_verdict_names_each_bar_with_its_figure() -> None:
    """The best of the less exact ones counts, memory beside the default's, what was not measured is no success."""
    ratios = {"fp32": 3.2, "bf16": 5.0, "int16": 5.1, "int8": 5.9}
    figures = [{"name": one.name, "ratio": ratios[one.precision], "difference_of_spread": 1e-6} for one in OURS[:4]]
    fresh = {DEFAULT.name: {"peak_mb": 900.0}, OURS[0].name: {"peak_mb": 800.0}, OURS[3].name: {"peak_mb": 950.0}}
    found = {"loads": {"passage": {"rows": figures}}, "fresh": fresh}
    told = verdict("ettin", found, "cpu")
    assert [met for _, met in told] == [True, True, False, False, True]
    assert [said for said, _ in told][2] == "ettin: secondpass int8 5.90x the default (bar 6.0x)"
    lines = list(verdict_lines({"verdict": told, "warning": None}))
    assert lines[-1] == "\n**Verdict: 3 of 5 met, 2 missed, 0 not measured.**"
    assert [met for _, met in verdict("ettin", found | {"fresh": {}}, "cuda")] == [True, None, True, None, True]
    assert verdict("pocket", found, "cpu") == []
    lean = settings_of(rounds={"passage": 3, "long": 2}).for_model("qwen3")
    assert (lean.rounds, lean.haystack, {one.way for one in tuned(lean)}) == (
        {"passage": 3}, False, {"sentence-transformers", "openvino"},
    )  # fmt: skip


def settings_of(rounds: dict[str, int]) -> Settings:
    """What `compare` asks for by default."""
    return Settings(rounds, {"passage": 100}, "cpu", 2, None, True, True, 1, 12, 8, Path("data"), Path("log"))
