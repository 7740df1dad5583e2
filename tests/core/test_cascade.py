"""Rules of `secondpass.cascade` and `secondpass.stopping`."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import hypergeom

from secondpass import Cascade, CrossEncoder, Ranking, StoppingRule
from secondpass.calibration import AnswerRule, Calibration
from secondpass.cascade import CascadeRecord
from secondpass.errors import InvalidInput, ModelLoadError, NoTokens, TooLong
from secondpass.models.identity import marks_of
from secondpass.ranking import Ranked
from secondpass.rescoring import open_reranker
from secondpass.score_cache import ScoreCache
from secondpass.stopping import Trace, calibrated, misses_allowed
from tests.tiny_models import ROUNDING, WORDS, make_folder, make_reranker

Texts = tuple[list[str], list[list[str]]]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> CrossEncoder:
    """Load another random model than `tiny`."""
    return CrossEncoder(str(make_folder(tmp_path_factory.mktemp("large"), "bert", seed=5)), device="cpu")


@pytest.fixture(scope="module")
def small(large: CrossEncoder) -> CrossEncoder:
    """Load the same weights with so short a window that the two agree in part."""
    return CrossEncoder(large.name, device="cpu", max_length=14)


def texts(queries: int, documents: int, seed: int = 0) -> Texts:
    """Make queries of three words with so many documents, some of them alike, some that say nothing."""
    rng = random.Random(seed)

    def some(count: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(count))

    lists = [[some(rng.randint(2, 20)) for _ in range(documents)] for _ in range(queries)]
    for one in lists:
        one[documents // 2] = one[0]
        one[documents // 3] = "\u200b "
    return [some(3) for _ in range(queries)], lists


def plain(rankings: Sequence[Ranking]) -> list[list[tuple[int, float, float]]]:
    """Index, score and logit of every document."""
    return [[(one.index, one.score, one.logit) for one in ranking.documents] for ranking in rankings]


def logits_of(rankings: Sequence[Ranking]) -> list[float]:
    """Of every document, in the order given."""
    documents = (sorted(ranking.documents, key=lambda one: one.index) for ranking in rankings)
    return [one.logit for own in documents for one in own]


@pytest.mark.parametrize("keep", [30, 1000, StoppingRule(5, math.inf)], ids=["all", "more", "no end"])
def test_where_everything_goes_on_the_large_model_alone_decides(
    small: CrossEncoder, large: CrossEncoder, keep: Any
) -> None:
    """Bit for bit: blank and equal documents, a query without any, and one with a single one included."""
    queries, lists = texts(4, 30)
    lists[1], lists[2] = [], lists[2][:1]
    found = Cascade([small, large], keep).rank_many(queries, lists)
    assert plain(found) == plain(large.rank_many(queries, lists))
    assert {one.stage for ranking in found for one in ranking.documents} == {1}
    assert [cut.index for cut in found[0].truncated] == []


def test_the_best_of_the_small_model_come_first_in_the_order_of_the_large_one(
    small: CrossEncoder, large: CrossEncoder
) -> None:
    """By turns with the first of the order given; the others follow in the small one's order, with no higher score."""
    queries, lists = texts(3, 30)
    first, second = small.rank_many(queries, lists), large.rank_many(queries, lists)
    found = Cascade([small, large], 8).rank_many(queries, lists)
    for ranking, before, full, documents in zip(found, first, second, lists, strict=True):
        best: list[int] = []
        for place, one in enumerate(before.documents):
            best += [index for index in dict.fromkeys((one.index, place)) if index not in best]
        wanted = [one.index for one in full.documents if one.index in best[:8]]
        wanted += [one.index for one in before.documents if one.index not in best[:8]]
        assert [one.index for one in ranking.documents] == wanted
        assert [one.stage for one in ranking.documents] == [1] * 8 + [0] * 22
        assert all(a.score >= b.score and a.logit >= b.logit for a, b in pairwise(ranking.documents))
        assert documents[ranking.documents[-1].index] == "\u200b "
        own = {one.index: one.score for one in before.documents}
        lowest = ranking.documents[7].score
        assert [one.score for one in ranking.documents[8:]] == [min(lowest, own[index]) for index in wanted[8:]]


def test_three_models_score_fewer_and_fewer(tiny: CrossEncoder, small: CrossEncoder, large: CrossEncoder) -> None:
    """Each scores the best of those that the one before has scored, be they fewer than it may."""
    queries, lists = texts(2, 30)
    found = Cascade([small, tiny, large], [12, 4]).rank_many(queries, lists, top_k=20)
    assert [[one.stage for one in ranking.documents] for ranking in found] == [[2] * 4 + [1] * 8 + [0] * 8] * 2
    found = Cascade([small, tiny, large], [4, 12]).rank_many(queries, lists)
    assert sorted(one.stage for one in found[0].documents) == [0] * 26 + [2] * 4


@pytest.mark.parametrize("piece", [1, 4, 7])
def test_a_rule_stops_where_it_says(small: CrossEncoder, large: CrossEncoder, piece: int) -> None:
    """As when each query is gone through by itself, document by document, with all logits known."""
    queries, lists = texts(12, 30)
    rule = StoppingRule(3, 0.6, 0.7, piece)
    found = Cascade([small, large], rule).rank_many(queries, lists)
    sizes = set()
    for ranking, before, full in zip(
        found, small.rank_many(queries, lists), large.rank_many(queries, lists), strict=True
    ):
        logits = {one.index: one.logit for one in full.documents}
        order, at = list(before.documents), 0
        while at < len(order):
            at = min(len(order), at + max(piece, 3) if at == 0 else at + piece)
            while at < len(order) and order[at].logit == order[at - 1].logit:
                at += 1
            third = sorted((logits[one.index] for one in order[:at]), reverse=True)[2]
            if at < len(order) and third - 0.7 * order[at].logit > 0.6:
                break
        scored = {one.index for one in ranking.documents if one.stage}
        assert scored == {one.index for one in order[:at]}
        assert [one.index for one in ranking.documents][:at] == [
            one.index for one in full.documents if one.index in scored
        ]
        sizes.add(at)
    assert len(sizes) > 2, sizes


def test_what_is_calibrated_is_what_is_done(small: CrossEncoder, large: CrossEncoder) -> None:
    """The rule's own figures are those of ranking the same queries with it, and with labels it may read less."""
    queries, lists = texts(40, 20, seed=4)
    cascade = Cascade([small, large])
    rule = cascade.calibrate(queries, lists, top_k=3, risk=0.3, confidence=0.7, piece=2)
    assert cascade.keep == (rule,)
    full, found = large.rank_many(queries, lists), cascade.rank_many(queries, lists)
    measured = [row for row in range(40) if row % 4]
    missed = [plain([full[row]])[0][:3] != plain([found[row]])[0][:3] for row in measured]
    read = [sum(one.stage for one in found[row].documents) / 20 for row in measured]
    assert rule.missed == pytest.approx(np.mean(missed))
    assert rule.read == pytest.approx(np.mean(read))
    assert 0.15 < rule.read < 1
    assert rule.missed <= 0.3
    labels = [[float(index % 7 == 0) for index in range(20)] for _ in queries]
    looser = cascade.calibrate(queries, lists, labels, top_k=3, risk=0.3, confidence=0.7, piece=2)
    assert looser.by_labels
    assert looser.read is not None
    assert looser.read < rule.read


def made_traces(count: int, documents: int, rng: np.random.Generator) -> list[Trace]:
    """Make queries whose two models agree more or less well."""
    made = []
    for _ in range(count):
        by_large = rng.normal(0, 2, documents)
        by_small = 0.5 * by_large + rng.normal(0, rng.uniform(0.05, 1.2), documents)
        ranked = [
            [Ranked(int(place), 0.0, float(logits[place])) for place in np.argsort(-logits)]
            for logits in (by_small, by_large)
        ]
        made.append(Trace(StoppingRule(3, 0.0, piece=2), *ranked, None))
    return made


def test_the_promise_is_kept() -> None:
    """Over samples of queries that are new each time, and not by reading everything."""
    rng = np.random.default_rng(5)
    kept, read = [], []
    for _ in range(16):
        rule = calibrated(StoppingRule(3, 0.0, piece=2), made_traces(60, 18, rng), 0.15, 0.98)
        further = [(trace, trace.stop(rule.slope, rule.margin)) for trace in made_traces(60, 18, rng)]
        kept.append(np.mean([trace.missed[at] for trace, at in further]) <= 0.15)
        read.append(np.mean([trace.read[at] for trace, at in further]))
    assert np.mean(kept) >= 0.9
    assert np.mean(read) < 0.8


@pytest.mark.parametrize(("queries", "risk", "confidence"), [(70, 0.1, 0.99), (100, 0.1, 0.9), (120, 0.05, 0.8)])
def test_the_promise_is_exact(queries: int, risk: float, confidence: float) -> None:
    """Whatever the margins are that queries need: it is broken as often as it may be, and not much less often."""
    margins = np.random.default_rng(3).exponential(size=(20_000, 2 * queries - -(-queries // 4)))
    measured, further = -np.sort(-margins[:, queries:], axis=1), margins[:, :queries]
    allowed = misses_allowed(queries, risk, confidence)
    broken = ((further > measured[:, allowed, None]).mean(axis=1) > risk).mean()
    assert broken < 1 - confidence + 0.01
    sharper = ((further > measured[:, allowed + 1, None]).mean(axis=1) > risk).mean()
    assert sharper > 1 - confidence


@pytest.mark.parametrize(("risk", "confidence"), [(0.1, 0.99), (0.1, 0.9), (0.03, 0.95), (0.5, 0.8)])
def test_how_many_may_be_missed(risk: float, confidence: float) -> None:
    """By scipy's hypergeometric distribution; the number of queries that an error asks for is the fewest that do."""
    with pytest.raises(InvalidInput, match="too few") as caught:
        misses_allowed(2, risk, confidence)
    found = re.search(r"take (\d+)", str(caught.value))
    assert found
    needed = int(found[1])
    with pytest.raises(InvalidInput, match=f"take {needed}$"):
        misses_allowed(needed - 1, risk, confidence)
    for queries in (needed, 3 * needed):
        measured, too_many = queries - -(-queries // 4), math.floor(risk * queries) + 1
        allowed = misses_allowed(queries, risk, confidence)
        for misses, kept in ((allowed, True), (allowed + 1, False)):
            rare = hypergeom.cdf(misses, measured + queries, misses + too_many, measured)
            assert bool(rare <= 1 - confidence) is kept


def test_what_no_margin_mends_is_refused(tiny: CrossEncoder, small: CrossEncoder, large: CrossEncoder) -> None:
    """Where a model in the middle has dropped the best documents already."""
    queries, lists = texts(50, 20)
    with pytest.raises(InvalidInput, match="let more documents go on"):
        Cascade([tiny, small, large], [4, 3]).calibrate(queries, lists, top_k=3, confidence=0.9)


def test_the_record_has_all_models(small: CrossEncoder, large: CrossEncoder) -> None:
    """Pairs and tokens are sums, a cut is that of the model whose score the document has."""
    queries, lists = texts(3, 30)
    records: list[Any] = []
    cascade = Cascade([small, large], 8)
    found = cascade.rank_many(queries, lists)
    record = found[0].record
    assert isinstance(record, CascadeRecord)
    assert [stage.pairs for stage in record.stages] == [90, 24]
    assert record.pairs == 114
    assert record.tokens == sum(stage.tokens for stage in record.stages)
    assert record.score_ms == pytest.approx(sum(stage.score_ms for stage in record.stages))
    of_small = {(row, cut.index) for row, one in enumerate(small.rank_many(queries, lists)) for cut in one.truncated}
    scored = {(row, one.index) for row, ranking in enumerate(found) for one in ranking.documents if one.stage}
    assert {(row, cut.index) for row, ranking in enumerate(found) for cut in ranking.truncated} == of_small - scored
    assert [cut.index for cut in record.truncated] == sorted(30 * row + index for row, index in of_small - scored)
    hits = cascade.rank(queries[0], [f" {text}\n" for text in lists[0]], 3, True, records=records)
    assert [(hit["corpus_id"], hit["score"], hit["stage"]) for hit in hits] == [
        (one.index, one.score, 1) for one in found[0].documents[:3]
    ]
    assert hits[0]["text"] == f" {lists[0][hits[0]['corpus_id']]}\n"
    assert records[0].pairs == 38


def test_a_budget_is_for_all_models_together(small: CrossEncoder, large: CrossEncoder) -> None:
    """With time enough all is as without one; where it is spent the small model's order stands, as far as it came."""
    queries, lists = texts(2, 30)
    for keep in (8, StoppingRule(3, 0.6, 0.7, 4)):
        cascade = Cascade([small, large], keep)
        found, free = cascade.rank_many(queries, lists, budget_ms=60_000), cascade.rank_many(queries, lists)
        assert [[one.index for one in ranking.documents] for ranking in found] == [
            [one.index for one in ranking.documents] for ranking in free
        ]
        assert all(ranking.complete for ranking in found)
        late = cascade.rank_many(queries, lists, budget_ms=0.001)
        assert {one.stage for ranking in late for one in ranking.documents} == {0}
        assert sum(ranking.unscored for ranking in late) > 0
        assert not late[1].complete
        assert [sum(not one.scored for one in ranking.documents) for ranking in late] == [one.unscored for one in late]
        assert [len(ranking.documents) for ranking in late] == [30, 30]
    assert {hit["scored"] for hit in cascade.rank("cat", lists[0], budget_ms=60_000)} == {True}
    # the same to the second model
    alike = ["the cat sat on the mat " * 3 + word for word in WORDS[:8]]
    for budget in (None, 60_000):
        hits = Cascade([large, small], 8).rank("cat", alike, budget_ms=budget)
        assert [(hit["corpus_id"], hit["stage"]) for hit in hits] == [(place, 1) for place in range(8)]


def test_probabilities_are_the_last_models(small: CrossEncoder, tmp_path: Path) -> None:
    """Other documents have none, and go where there is a lowest one; no verdict where time was short for some."""
    last = CrossEncoder(small.name, device="cpu")
    queries, lists = texts(3, 30)
    small.use_calibration(Calibration("logistic"))
    with pytest.raises(InvalidInput, match="min_probability needs a model with a calibration"):
        Cascade([small, last], 10).rank(queries[0], lists[0], min_probability=0.1)
    cascade = Cascade([small, last], 10)
    assert {one.probability for one in cascade.rank_many(queries, lists)[0].documents} == {None}
    Calibration("logistic", 2.0, 0.5, answers=AnswerRule(1e9, 40, 0.9, 0.9)).save(tmp_path)
    cascade.use_calibration(tmp_path)
    small.use_calibration(None)
    assert cascade.calibration == last.calibration
    for ranking in cascade.rank_many(queries, lists):
        told = [one.probability for one in ranking.documents]
        wanted = [1 / (1 + math.exp(-2 * one.logit - 0.5)) for one in ranking.documents[:10]]
        assert told == [*(pytest.approx(value) for value in wanted), *[None] * 20]
        assert [one.interval for one in ranking.documents] == [(0.0, 1.0)] * 10 + [None] * 20
        assert ranking.nothing_relevant is True
    least = told[4]
    assert least is not None
    kept = cascade.rank_many(queries[2:], lists[2:], min_probability=least)[0].documents
    assert [one.probability for one in kept] == [value for value in told if value is not None and value >= least]
    for keep in (10, StoppingRule(5, math.inf, piece=5)):
        cascade = Cascade([small, last], keep)
        (late,) = cascade.rank_many(queries[:1], lists[:1], budget_ms=0.001)
        assert late.unscored or late.documents[0].stage == 0
        assert late.nothing_relevant is None


def test_blank_documents_come_last_where_the_large_model_had_no_time_for_all(
    small: CrossEncoder, large: CrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are known without a model, and are no scores that others are lowered to."""
    queries, lists = texts(2, 30)
    whole = large.rank_many
    monkeypatch.setattr(large, "rank_many", lambda *given, **named: whole(*given, **named | {"budget_ms": 0.001}))
    for keep in (30, StoppingRule(3, math.inf)):
        for ranking in Cascade([small, large], keep).rank_many(queries, lists, budget_ms=60_000):
            assert ranking.documents[-1].index == 10
            assert all(one.logit > -100 for one in ranking.documents[:-1])


def test_passages_are_those_of_the_model_whose_score_it_is(small: CrossEncoder, large: CrossEncoder) -> None:
    """Documents may be read in windows in every stage."""
    documents = ["the cat sat on the mat. " * 4, "a dog. " * 20, "water from the river. " * 3]
    hits = Cascade([small, large], 1).rank("cat", documents, truncation="windows")
    alone = {hit["corpus_id"]: hit for hit in large.rank("cat", documents, truncation="windows")}
    assert hits[0] == alone[hits[0]["corpus_id"]] | {"stage": 1}
    assert [hit["passage"]["windows"] > 1 for hit in hits[1:]] == [True, True]


def test_an_instruction_goes_to_models_with_a_place(small: CrossEncoder, tmp_path: Path) -> None:
    """A small model that cannot be told anything may stand in front of one that is."""
    judge = CrossEncoder(str(make_reranker(tmp_path / "judge")), device="cpu")
    cascade = Cascade([small, judge], 100)
    found = cascade.rank_many(["cat"], [["mat", "dog"]], instruction="find the animal")
    assert plain(found) == plain(judge.rank_many(["cat"], [["mat", "dog"]], instruction="find the animal"))
    with pytest.raises(InvalidInput, match="instruction"):
        Cascade([small, small], 1).rank_many(["cat"], [["mat"]], instruction="find the animal")


def test_a_cascade_has_an_instruction_for_calls_that_say_none(small: CrossEncoder, tmp_path: Path) -> None:
    """Saved with it; a calibration of the model that was told it is its own."""
    names = [small.name, str(make_reranker(tmp_path / "judge"))]
    judge, own = (CrossEncoder(names[1], device="cpu", instruction=told) for told in (None, "find the animal"))
    cascade = Cascade(names, device="cpu", max_length=[14, None], instruction="find the animal")
    assert [model.window for model in cascade.models] == [14, judge.window]
    cascade.save(tmp_path)
    asked = (["cat"], [["mat", "dog"]])
    sayings: list[dict[str, Any]] = [{"instruction": "find the cat"}, {"prompt": "find the cat"}, {"prompt": ""}]
    assert abs(logits_of(own.rank_many(*asked))[0] - logits_of(judge.rank_many(*asked))[0]) > 10 * ROUNDING
    for made in (cascade, Cascade.load(tmp_path, device="cpu"), Cascade([small, judge], instruction="find the animal")):
        assert logits_of(made.rank_many(*asked)) == pytest.approx(logits_of(own.rank_many(*asked)), abs=ROUNDING)
        assert made.explain("cat", "mat").logit == pytest.approx(own.explain("cat", "mat").logit, abs=ROUNDING)
        for said in sayings:
            wanted = logits_of(judge.rank_many(*asked, **said))
            assert logits_of(made.rank_many(*asked, **said)) == pytest.approx(wanted, abs=ROUNDING)
    assert Cascade.load(tmp_path, [small, judge], instruction="find the cat").instruction == "find the cat"
    calibration = Calibration("logistic", marks=marks_of(own), conditions=own.conditions())
    cascade.use_calibration(calibration)
    assert cascade.rank_many(*asked)[0].documents[0].probability is not None
    with pytest.raises(InvalidInput, match="a calibration of another model"):
        Cascade([small, judge]).use_calibration(calibration)


def test_a_rule_may_be_measured_on_models_that_were_told(small: CrossEncoder, tmp_path: Path) -> None:
    """Each when it was loaded, as files have it that were written before a cascade kept an instruction."""
    folder = str(make_reranker(tmp_path / "judge"))
    own = CrossEncoder(folder, device="cpu", instruction="find the animal")
    Cascade([small, own], StoppingRule(3, 1.5)).save(tmp_path)
    with pytest.raises(InvalidInput, match=r"models\[1\] is not the"):
        Cascade.load(tmp_path, device="cpu")
    assert Cascade.load(tmp_path, device="cpu", instruction="find the animal").keep == (StoppingRule(3, 1.5),)
    told = Cascade([small, folder], StoppingRule(3, 1.5), device="cpu", instruction="find the animal")
    (tmp_path / "told.json").mkdir()  # a folder, whatever it is called
    told.save(tmp_path / "told.json")
    assert isinstance(open_reranker([str(tmp_path / "told.json")], None, None, device="cpu"), Cascade)
    with pytest.raises(InvalidInput, match=r"models\[1\] is not the"):
        Cascade.load(tmp_path / "told.json", device="cpu", instruction="find the cat")


def test_a_label_is_named_to_models_that_have_several(small: CrossEncoder, tmp_path: Path) -> None:
    """Whichever place they have; the last model explains."""
    grader = CrossEncoder(str(make_folder(tmp_path, "bert", num_labels=3)), device="cpu")
    first = grader.rank("cat", ["mat", "dog", "red"], relevance=2)[0]
    for models in ([grader, small], [small, grader]):
        cascade = Cascade(models, 1)
        hits = cascade.rank("cat", ["mat", "dog", "red"], relevance=2)
        asked = cascade.explain("cat", "mat", relevance=2)
        assert asked == models[1].explain("cat", "mat", relevance=None if models[1] is small else 2)
        if models[0] is grader:
            assert hits[0]["corpus_id"] == first["corpus_id"]
    with pytest.raises(InvalidInput, match="relevance=2"):
        Cascade([small, small], 1).rank("cat", ["mat"], relevance=2)


def test_a_saved_rule_comes_back_for_the_same_models(
    tiny: CrossEncoder, small: CrossEncoder, large: CrossEncoder, tmp_path: Path
) -> None:
    """Loaded by name with their windows or given; other weights or another window are refused where a rule counts."""
    cascade = Cascade([small, large], StoppingRule(3, 1.5, 0.5, risk=0.1, confidence=0.9, queries=80))
    (tmp_path / "folder.json").mkdir()
    for place in (tmp_path, tmp_path / "own.json", tmp_path / "folder.json"):
        cascade.save(place)
        assert Cascade.load(place).keep == cascade.keep
    loaded = Cascade.load(tmp_path / "cascade.json")
    assert [model.window for model in loaded.models] == [14, large.window]
    named = Cascade.load(tmp_path, [small.name, large], device="cpu")
    assert [model.window for model in named.models] == [14, large.window]
    queries, lists = texts(2, 20)
    assert plain(loaded.rank_many(queries, lists)) == plain(cascade.rank_many(queries, lists))
    for models in ([small, tiny], [large, large]):
        with pytest.raises(InvalidInput, match=r"models\[\d\] is not the"):
            Cascade.load(tmp_path, models)
    page = json.loads((tmp_path / "own.json").read_text())
    page["models"][0]["logits"][0] = math.nan
    (tmp_path / "own.json").write_text(json.dumps(page))
    with pytest.raises(InvalidInput, match=r"models\[0\] is not the"):
        Cascade.load(tmp_path / "own.json", [small, large])
    Cascade([small, large], 7).save(tmp_path)
    assert Cascade.load(tmp_path, [tiny, large]).keep == (7,)
    Cascade([small, large], StoppingRule(3, math.inf)).save(tmp_path)
    assert Cascade.load(tmp_path, [small, large]).keep == (StoppingRule(3, math.inf),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "is no cascade: KeyError: 'version'"),
        ('{"version": 9}', "has version 9"),
        ('{"version": 1, "keep": [{"top_k": 3}], "models": []}', "is no cascade"),
        ('{"version": 1, "keep": [{"top_k": 3, "margin": 1, "x": 1}], "models": []}', "is no cascade"),
        ('{"version": 1, "keep": [0], "models": []}', "is no cascade: InvalidInput: keep=0"),
        ('{"version": 1, "keep": [3], "models": []}', "is no cascade: 0 models and 1 steps"),
        ('{"version": 1, "keep": [], "models": [{"name": "a", "window": 1e999, "logits": []}]}', "is no cascade"),
        ('{"version": 1, "keep": [], "models": [{"name": "a", "window": 9, "logits": [null]}]}', "is no cascade"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: str, message: str) -> None:
    """With a word on why; one that is not there, or no JSON, as a model's own file would be."""
    with pytest.raises(ModelLoadError, match=r"cascade\.json"):
        Cascade.load(tmp_path)
    (tmp_path / "cascade.json").write_text(content)
    with pytest.raises(InvalidInput, match=re.escape(message)):
        Cascade.load(tmp_path)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda one: Cascade([one]), "models has 1: a cascade has two at least"),
        (lambda one: Cascade("model"), "models is str"),
        (lambda one: Cascade([one, 3]), "models[1] is int"),
        (lambda one: Cascade([one, one], 0), "keep[0]=0 is not a positive int"),
        (lambda one: Cascade([one, one], True), "keep[0]=True is not a positive int"),
        (lambda one: Cascade([one, one], [5, 3]), "keep has 2, and 2 models have 1 steps"),
        (lambda one: Cascade(["a", one, "b"], template="zerank"), "template is for one model, and here are a and b"),
        (lambda one: Cascade([one, one], max_length=[9]), "max_length has 1, and there are 2 models"),
        (lambda one: Cascade([one, one], instruction="x"), "instruction: this model's input has no place for one"),
        (lambda one: Cascade([one, one], instruction=3), "instruction is int, not str"),
        (lambda one: Cascade(["a", "b"], false_token="no"), "false_token is for one model"),  # noqa: S106
        (lambda one: StoppingRule(0, 1.0), "top_k=0"),
        (lambda one: StoppingRule(1, math.nan), "margin=nan"),
        (lambda one: StoppingRule(1, 1.0, -1.0), "slope=-1.0 is below 0"),
        (lambda one: Cascade([one, one]).rank_many(["a"], []), "documents_per_query has 0 lists for 1 queries"),
        (lambda one: Cascade([one, one]).rank_many([" "], [["a"]]), "queries[0] is blank"),
        (lambda one: Cascade([one, one]).rank_many(["a"], [["b", 1]]), "documents_per_query[0][1] is int"),
        (lambda one: Cascade([one, one]).rank("a", ["b"], 0), "top_k=0"),
        (lambda one: Cascade([one, one]).calibrate(["a"], [["b"]]), "1 queries are too few to promise risk=0.1"),
        (lambda one: Cascade([one, one]).calibrate(["a"], [["b"]], risk=1.5), "risk=1.5"),
        (lambda one: Cascade([one, one]).calibrate(["a"] * 70, [["b"]] * 70, [[1]]), "labels has 1 lists"),
        (lambda one: Cascade([one, one]).calibrate(["a"] * 70, [["b"]] * 70, [[]] * 70), "labels[0] has 0"),
        (lambda one: Cascade([one, one]).calibrate(["a"] * 70, [["b"]] * 70, [[math.nan]] * 70), "labels[0][0]=nan"),
        (lambda one: Cascade([one, one]).calibrate(["a"] * 70, [["b"]] * 70, ["1"] * 70), "labels[0] is str"),  # type: ignore[list-item]
        (lambda one: Cascade([one, one]).calibrate(["a"] * 70, [["b"]] * 70, [None] * 70), "labels[0] is NoneType"),  # type: ignore[list-item]
        (lambda one: Cascade([one, one]).calibrate(["a"] * 70, [["b"]] * 70, budget_ms=1), "budget_ms"),
    ],
)
def test_bad_input_is_refused(tiny: CrossEncoder, call: Callable[[CrossEncoder], Any], message: str) -> None:
    """The message names argument and place."""
    with pytest.raises(InvalidInput, match=re.escape(message)):
        call(tiny)


def test_an_error_of_a_later_model_names_the_callers_pairs(small: CrossEncoder, large: CrossEncoder) -> None:
    """Not those of the few that it was given, nor of those that a cache of scores did not know."""
    strict = CrossEncoder(large.name, device="cpu", max_length=14, truncation="error")
    lists = [["cat"], ["the cat " * 20, "the dog " * 20, "a"]]
    chosen = small.rank_many(["dog"], lists[1:])[0].documents[:2]
    for cache in (None, ScoreCache()):
        strict.use_score_cache(cache)
        strict.rank_many(["cat"], lists[:1])
        with pytest.raises(TooLong, match="model 1, pairs") as caught:
            Cascade([small, strict], 2).rank_many(["cat", "dog"], lists)
        assert caught.value.indices == tuple(sorted(1 + one.index for one in chosen if one.index < 2))


@pytest.mark.parametrize(("template", "place"), [("{query} {document}", 1), (None, 0)])
def test_a_query_that_says_nothing_to_a_later_model_is_named(
    tiny_model_folder: Callable[..., str], template: str | None, place: int
) -> None:
    """By its place among the caller's, though queries before it do not go on: BERT's tokenizer has no private use."""
    bytewise = CrossEncoder(tiny_model_folder("roberta"), device="cpu")
    pocket = CrossEncoder("secondpass/pocket", device="cpu", template=template)
    with pytest.raises(NoTokens, match=r"^model 1, queries\[1\] is blank$") as caught:
        Cascade([bytewise, pocket], 2).rank_many(["cat", "\ue000"], [[], ["the cat", ""]])
    assert caught.value.indices == (place,)
