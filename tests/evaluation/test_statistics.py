"""intervals: bootstrap confidence intervals of a mean."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from secondpass.errors import InvalidInput
from secondpass.evaluation.measures import Coverage, Report
from secondpass.evaluation.statistics import (
    MOST_FOR_BCA,
    compare,
    effect_size,
    finite,
    groupings,
    holm,
    mean_interval,
    queries_needed,
    share_interval,
)


def like_ndcg(generator: np.random.Generator, size: int) -> np.ndarray:
    """Many failures, some perfect rankings, the rest skewed: true mean 0.1 + 0.75 / 3."""
    kind = generator.random(size)
    return np.where(kind < 0.15, 0.0, np.where(kind >= 0.9, 1.0, generator.beta(2, 4, size)))


def like_rr(generator: np.random.Generator, size: int) -> np.ndarray:
    """1, 1/2, 1/3 or nothing: true mean 0.5 + 0.2 / 2 + 0.1 / 3."""
    return generator.choice([1.0, 1 / 2, 1 / 3, 0.0], size, p=[0.5, 0.2, 0.1, 0.2])


@pytest.mark.parametrize(
    ("draw", "truth"), [(like_ndcg, 0.1 + 0.75 / 3), (like_rr, 0.5 + 0.2 / 2 + 0.1 / 3)], ids=["ndcg", "rr"]
)
def test_intervals_contain_the_truth_as_often_as_they_say(draw, truth: float) -> None:
    """Of 1,000 simulated runs of 100 queries, 93 to 97 % of the 95 % intervals hold the true mean."""
    generator = np.random.default_rng(4)
    held = 0
    for seed in range(1000):
        found = mean_interval(draw(generator, 100), resamples=1000, seed=seed)
        held += found.low <= truth <= found.high
    assert 930 <= held <= 970


def test_a_higher_level_gives_a_wider_interval() -> None:
    """An interval of 99 % holds the one of 90 %, and both hold the mean."""
    values = like_ndcg(np.random.default_rng(0), 50)
    wide, narrow = mean_interval(values, 0.99), mean_interval(values, 0.9)
    assert wide.low < narrow.low < values.mean() < narrow.high < wide.high
    assert (wide.level, narrow.level) == (0.99, 0.9)


def test_the_seed_decides() -> None:
    """Same seed, same interval; another seed draws other samples."""
    values = like_ndcg(np.random.default_rng(0), 50)
    assert mean_interval(values, seed=3) == mean_interval(values, seed=3) != mean_interval(values, seed=4)


@pytest.mark.parametrize("values", [[0.1] * 7, [0.25], [0.3, 0.3]])
def test_values_all_the_same_are_their_own_interval(values: list[float]) -> None:
    """No spread, or a single query, gives the value itself, to the last digit and without a warning."""
    found = mean_interval(values)
    assert (found.low, found.high) == (values[0], values[0])


def test_two_values_give_all_that_lies_between_them() -> None:
    """A resample of two values is either of them with 1/4 each: beyond the 2.5 % on each side."""
    found = mean_interval([0.2, 0.6])
    assert (found.low, found.high) == pytest.approx((0.2, 0.6))


@pytest.mark.parametrize("values", [[0.0] * 99 + [1.0], [0.5] * 30 + [0.5 + 1e-16 * 2], [0.0, 0.0, 1.0]])
def test_hardly_any_spread_gives_finite_numbers(values: list[float]) -> None:
    """Where scipy has no BCa interval (it warns and gives NaN) the percentile interval stands in."""
    found = mean_interval(values)
    assert 0.0 <= found.low <= found.high <= 1.0


def test_many_values_take_the_percentile_interval() -> None:
    """Ten thousand queries work in bounded memory, and the interval is the normal one to three digits."""
    values = like_ndcg(np.random.default_rng(0), 2 * MOST_FOR_BCA)
    error = 1.96 * values.std() / math.sqrt(len(values))
    found = mean_interval(values)
    assert (found.low, found.high) == pytest.approx((values.mean() - error, values.mean() + error), abs=1e-3)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "values is empty"),
        ([0.1, math.nan], {}, r"values\[1\] is nan"),
        ([math.inf], {}, r"values\[0\] is inf"),
        ([0.1], {"level": 1.0}, "level=1.0"),
        ([0.1], {"resamples": 0}, "resamples=0"),
    ],
)
def test_what_has_no_interval_is_refused(values: list[float], options: dict[str, float], message: str) -> None:
    """Never NaN out: the message names argument and index."""
    with pytest.raises(InvalidInput, match=message):
        mean_interval(values, **options)


def test_finite_gives_the_values() -> None:
    """Numbers come back as float64, whatever gave them."""
    assert finite(iter([1, 0.5]), "x").tolist() == [1.0, 0.5]


def report(system: str, values: Iterable[float], measure: str = "AP") -> Report:
    """A report on queries q0, q1, ..."""
    found = {f"q{index}": float(value) for index, value in enumerate(values)}
    return Report(system, {measure: found}, {measure: sum(found.values()) / len(found)}, Coverage(len(found)))


def test_three_gains_of_three_are_one_pattern_in_four() -> None:
    """Exact for few queries: of the 8 sign patterns, all plus and all minus are as extreme, so p is 2/8."""
    (found,) = compare(report("a", [0.1, 0.2, 0.3]), [report("b", [0.2, 0.4, 0.6])])
    assert found.p_randomisation == found.p_adjusted == 0.25
    assert found.difference == pytest.approx(0.2)
    assert (found.baseline, found.system, found.measure) == ("a", "b", "AP")
    assert (found.helped, found.hurt, found.unchanged) == (3, 0, 0)
    # Mean 0.2, standard deviation 0.1: t = 0.2 / (0.1 / sqrt 3) = 3.4641 with 2 degrees of freedom.
    assert found.p_t == pytest.approx(0.07418, abs=1e-5)
    assert found.interval.low <= found.difference <= found.interval.high


def test_gains_and_losses_that_cancel_are_no_difference() -> None:
    """0.1 + 0.2 - 0.3 is not 0 in floating point, but its p-value is 1 all the same."""
    (found,) = compare(report("a", [0.0, 0.0, 0.3]), [report("b", [0.1, 0.2, 0.0])])
    assert found.p_randomisation == 1.0
    assert (found.helped, found.hurt) == (2, 1)


def test_identical_reports_differ_in_nothing() -> None:
    """Exactly 0.0 and p = 1.0 in every test, never NaN, with an interval of 0 alone."""
    values = np.random.default_rng(0).random(50)
    (found,) = compare(report("a", values), [report("b", values)])
    assert found.difference == found.interval.low == found.interval.high == 0.0
    assert found.p_randomisation == found.p_t == found.p_adjusted == 1.0
    assert (found.helped, found.hurt, found.unchanged) == (0, 0, 50)


def test_queries_without_a_difference_change_no_p_value() -> None:
    """Sign flips of 0 do nothing: ninety unchanged queries leave the exact test of three as it is."""
    (found,) = compare(report("a", [0.0] * 93), [report("b", [0.1, 0.2, 0.3] + [0.0] * 90)])
    assert found.p_randomisation == 0.25
    assert found.unchanged == 90


def test_one_query_proves_nothing() -> None:
    """Of the two signs of a single difference each is as likely."""
    (found,) = compare(report("a", [0.0]), [report("b", [1.0])])
    assert found.p_randomisation == found.p_t == 1.0


def test_the_same_gain_everywhere_is_certain_to_the_t_test() -> None:
    """No spread: t is infinite and p is 0, and no warning comes out; nor for gains that agree but for rounding."""
    (found,) = compare(report("a", [0.25] * 20), [report("b", [0.75] * 20)])
    assert found.p_t == 0.0
    assert found.p_randomisation < 0.001
    (near,) = compare(report("a", np.arange(20) / 10), [report("b", np.arange(20) / 10 + 0.1)])
    assert near.p_t == pytest.approx(0.0, abs=1e-9)


def test_holm_by_hand() -> None:
    """0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1 raised to the one before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_everything_compared_together_is_corrected_together() -> None:
    """Two systems that each gain on three of three queries: 0.25 twice, so 0.5 twice."""
    better = report("b", [0.2, 0.4, 0.6])
    first, second = compare(
        report("a", [0.1, 0.2, 0.3]), [better, Report("c", better.values, better.means, better.coverage)]
    )
    assert (first.system, second.system) == ("b", "c")
    assert first.p_adjusted == second.p_adjusted == 0.5


def test_under_the_null_the_tests_cry_wolf_at_their_level() -> None:
    """1,000 pairs of equally good systems: 5 % are found at 5 %, 1 % at 1 %, and after Holm 5 % of groups of five."""
    generator = np.random.default_rng(0)
    queries = 60
    pairs = generator.beta(1, 2, (1000, 2, queries)).round(2)
    null = [report(f"s{index}", one - other) for index, (one, other) in enumerate(pairs)]
    found = compare(report("zero", [0.0] * queries), null, resamples=4999, level=0.05)
    for p in (np.array([one.p_randomisation for one in found]), np.array([one.p_t for one in found])):
        assert 0.036 <= (p <= 0.05).mean() <= 0.064
        assert 0.003 <= (p <= 0.01).mean() <= 0.018
        families = [min(holm(group)) <= 0.05 for group in p.reshape(-1, 5).tolist()]
        assert np.mean(families) <= 0.08


def test_a_real_gain_is_found() -> None:
    """A mean gain of half its spread on 60 queries is beyond chance in nearly every simulation."""
    generator = np.random.default_rng(1)
    gains = [report(f"s{index}", generator.normal(0.1, 0.2, 60)) for index in range(100)]
    found = compare(report("zero", [0.0] * 60), gains, resamples=999, level=0.5)
    assert sum(one.p_randomisation <= 0.05 for one in found) >= 90


def test_many_queries_take_fewer_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signs drawn in all are bounded, but p can always be small enough for the level, of one pair and of many."""
    monkeypatch.setattr("secondpass.evaluation.statistics.MOST_FLIPS", 60)
    monkeypatch.setattr("secondpass.evaluation.statistics.MOST_MEANS", 1000)
    zero, better = report("a", [0.0] * 20), report("b", [0.5] * 20)
    (found,) = compare(zero, [better])
    assert found.p_randomisation == pytest.approx(2 / 101)
    (found,) = compare(zero, [better], level=0.999)
    assert found.p_randomisation == pytest.approx(2 / 5001)
    many = compare(zero, [replace(better, system=f"b{place}") for place in range(12)])
    assert [one.p_randomisation for one in many] == pytest.approx([2 / 1201] * 12)
    assert max(one.p_adjusted for one in many) < 0.05 / 2


def test_other_queries_are_refused_by_name() -> None:
    """A paired test on different queries means nothing, so both systems and a query are named."""
    with pytest.raises(InvalidInput, match=r"'a' was measured on 2 queries and 'b' on 3.*q2"):
        compare(report("a", [0.1, 0.2]), [report("b", [0.1, 0.2, 0.3])])


def test_a_missing_measure_is_refused_by_name() -> None:
    """The report that lacks it is named, with what it has."""
    with pytest.raises(InvalidInput, match="the report of 'b' has no AP; it has P@5"):
        compare(report("a", [0.1]), [report("b", [0.1], "P@5")])


def test_a_query_without_a_value_is_in_no_comparison() -> None:
    """NaN says that a measure has no value for a list: the other queries are compared, and none at all is left out."""
    nan = float("nan")
    values = ([0.0, 0.0, 0.0, nan], [0.1, 0.2, 0.3, 0.9])
    (found,) = compare(report("a", values[0]), [report("b", values[1])])
    assert found.difference == pytest.approx(0.2)
    assert (found.helped, found.hurt, found.unchanged) == (3, 0, 0)
    assert found.p_randomisation == 0.25
    assert compare(report("a", [nan, nan]), [report("b", [0.1, 0.2])]) == ()
    with pytest.raises(InvalidInput, match="AP of 'b' or 'a' is infinite"):
        compare(report("a", [0.1]), [report("b", [float("inf")])])


def test_all_pairs_are_compared_and_corrected_together() -> None:
    """Two rerankers are compared with each other too; Holm counts all three comparisons."""
    three = report("a", [0.0] * 20), report("b", [0.3] * 20), report("c", [0.3] * 19 + [0.9])
    found = compare(three[0], three[1:], all_pairs=True)
    assert [(each.baseline, each.system) for each in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [each.p_adjusted for each in found] == holm([each.p_randomisation for each in found])
    assert found[2].difference == pytest.approx(0.03)


def test_the_difference_of_a_sum_is_a_sum() -> None:
    """NumRet of 9 documents against 6 is 3 more, not 1.5 a query; what queries say stays as it is."""
    before, after = (replace(report(name, values, "NumRet"), sums=("NumRet",)) for name, values in
                     (("a", [3.0, 3.0]), ("b", [4.0, 5.0])))  # fmt: skip
    (found,) = compare(before, [after])
    assert found.difference == 3.0
    assert found.interval.low <= 3.0 <= found.interval.high <= 4.0
    assert (found.helped, found.unchanged) == (2, 0)


def test_nothing_to_compare_gives_nothing() -> None:
    """One system alone has no comparisons, and measures can be chosen."""
    assert compare(report("a", [0.1]), []) == ()
    assert compare(report("a", [0.1]), [report("b", [0.2])], measures=[]) == ()


@pytest.mark.parametrize(("hits", "of"), [(0, 1), (1, 1), (3, 3), (41, 100), (0, 0), (9000, 20_000)])
def test_a_share_has_its_exact_binomial_interval(hits: int, of: int) -> None:
    """scipy's own; of nothing anything may be true."""
    found = share_interval(hits, of, 0.9)
    expected = stats.binomtest(hits, of).proportion_ci(0.9, method="exact") if of else (0.0, 1.0)
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-9)
    assert found.level == 0.9


@pytest.mark.parametrize(
    ("gains", "effect"),
    [
        # Mean 0.2; squares about it 0.01 + 0.01 + 0.09 + 0.09 = 0.2, over 3; the root is 0.2582.
        ([0.1, 0.3, -0.1, 0.5], 0.7745967),
        ([0.3, -0.3], 0.0),
        # Ten queries, one of which gains 1: mean 0.1, variance (0.81 + 9 x 0.01) / 9 = 0.1.
        ([1.0] + [0.0] * 9, 0.3162278),
        ([-1.0] + [0.0] * 9, -0.3162278),
        ([0.25, 0.25, 0.25], None),
        ([0.1, 0.1 + 1e-16], None),
        ([0.4], None),
    ],
)
def test_effect_sizes_by_hand(gains: list[float], effect: float | None) -> None:
    """The mean in standard deviations of n - 1; where nothing spreads there is nothing to measure it by."""
    assert effect_size(np.array(gains)) == (None if effect is None else pytest.approx(effect, abs=1e-6))
    (found,) = compare(report("a", [0.0] * len(gains)), [report("b", gains)])
    assert found.effect == effect_size(np.array(gains))


@pytest.mark.parametrize(
    ("effect", "options", "queries"),
    [
        # Cohen's tables for a paired test at 5 %, two-sided, and a power of 80 %.
        (0.2, {}, 199),
        (0.5, {}, 34),
        (-0.5, {}, 34),
        (0.8, {}, 15),
        # The normal quantiles 1.9600 and 0.8416 give 7.8489 / d^2, and half of 1.96^2 on top.
        (0.01, {}, 78_491),
        # 2.5758 and 1.2816 instead: 14.8794 / 0.01^2 + 3.3175.
        (0.01, {"alpha": 0.01, "power": 0.9}, 148_798),
        # Where scipy 1.17 has no number for the tail of the other sign: (3.8339 + 1.2319)^2 / 0.0615^2 + 7.35.
        (0.0615, {"alpha": 0.000126, "power": 0.891}, 6793),
        (0.0, {}, None),
    ],
)
def test_queries_needed_are_the_textbook_s(effect: float, options: dict[str, float], queries: int | None) -> None:
    """Of either sign; no number of queries finds nothing."""
    assert queries_needed(effect, **options) == queries


def test_the_power_is_what_it_says() -> None:
    """Of 4,000 samples of so many queries the t-test finds 80 %."""
    queries = queries_needed(0.4, 0.01)
    assert queries is not None
    samples = np.random.default_rng(5).normal(0.4, 1.0, (4000, queries))
    found = (stats.ttest_1samp(samples, 0.0, axis=1).pvalue < 0.01).mean()
    assert 0.78 <= found <= 0.82


def test_more_comparisons_need_more_queries() -> None:
    """The level is shared out among all that is compared together, as the test's is."""
    gains = np.random.default_rng(2).normal(0.05, 0.2, 50)
    (alone,) = compare(report("zero", [0.0] * 50), [report("a", gains)])
    (together, _) = compare(report("zero", [0.0] * 50), [report("a", gains), report("b", gains[::-1])])
    assert alone.queries_needed == queries_needed(float(alone.effect or 0), 0.05)
    assert together.queries_needed == queries_needed(float(alone.effect or 0), 0.025)


@pytest.mark.parametrize(
    ("effect", "options", "message"),
    [
        (float("nan"), {}, "effect=nan is no finite"),
        (0.3, {"alpha": 0.0}, "alpha=0.0 is not"),
        (0.3, {"power": 1.0}, "power=1.0"),
    ],
)
def test_what_has_no_power_is_refused(effect: float, options: dict[str, float], message: str) -> None:
    """By the argument's name."""
    with pytest.raises(InvalidInput, match=message):
        queries_needed(effect, **options)


def named(values: Iterable[float]) -> dict[str, float]:
    """Values by query."""
    return {f"q{number}": float(value) for number, value in enumerate(values)}


def mean_gap(one: np.ndarray, other: np.ndarray, axis: int) -> np.ndarray:
    """How far two means are apart."""
    return one.mean(axis=axis) - other.mean(axis=axis)


def test_groups_are_thirds_with_their_means() -> None:
    """Figures of 18 queries against scipy's: Student's intervals at a shared level, tests against the other queries."""
    gains = np.random.default_rng(3).normal(0.02, 0.1, 18)
    (found,) = groupings(named(gains), {"length": named(range(18))})
    assert [(group.low, group.high, group.queries) for group in found.groups] == [(0, 5, 6), (6, 11, 6), (12, 17, 6)]
    expected = []
    for group, part in zip(found.groups, gains.reshape(3, 6), strict=True):
        assert group.difference == pytest.approx(part.mean())
        interval = stats.ttest_1samp(part, 0.0).confidence_interval(1 - 0.05 / 3)
        assert (group.interval.low, group.interval.high) == pytest.approx((interval.low, interval.high))
        rest = np.setdiff1d(gains, part)
        exact = stats.permutation_test((part, rest), mean_gap, vectorized=True, n_resamples=20_000)
        expected.append(float(exact.pvalue))
    assert [group.p_adjusted for group in found.groups] == pytest.approx(holm(expected), abs=0.03)


@pytest.mark.parametrize("equal", [-0.5, 0.0])
def test_a_group_of_equal_differences_has_an_interval(equal: float) -> None:
    """What so many of one value say of a share by the exact binomial interval, and of all else what others have."""
    gains = named([equal] * 5 + [0.25, -0.75, 0.5, 0.0, 0.125] * 2)
    (found,) = groupings(gains, {"length": named(range(15))})
    first = found.groups[0]
    assert (first.queries, first.difference) == (5, equal)
    least = (0.05 / 3 / 2) ** (1 / 5)
    assert stats.binomtest(5, 5).proportion_ci(1 - 0.05 / 3, "exact").low == pytest.approx(least)
    wanted = (least * equal - 0.75 * (1 - least), least * equal + 0.5 * (1 - least))
    assert (first.interval.low, first.interval.high) == pytest.approx(wanted)
    (only,) = groupings(named([-0.5] * 15), {"length": named(range(15))})
    ends = {(round(group.interval.low, 9), round(group.interval.high, 9)) for group in only.groups}
    assert ends == {(-0.5, round(-0.5 * least, 9))}


def test_queries_without_a_property_decide_nothing_about_it() -> None:
    """A group is tested against the others that have the property: what the rest gained changes no p-value."""
    gains = np.random.default_rng(3).normal(0.02, 0.1, 18)
    more = named([*gains, *[-5.0] * 20])
    (alone,), (among,) = (groupings(found, {"length": named(range(18))}) for found in (named(gains), more))
    assert among == alone
    both = groupings(more, {"all": named(range(38)), "length": named(range(18))})
    assert [group.low for group in both[1].groups] == [0, 6, 12]
    assert all(group.p_adjusted > 0.5 for group in both[1].groups)


def test_groups_are_cut_by_the_queries_alone() -> None:
    """Equal values stay together; a property of one value or with a group of four is none; a query may lack it."""
    gains = named(np.random.default_rng(4).normal(0, 1, 30))
    properties = {
        "two values": named([1.0] * 20 + [2.0] * 10),
        "one value": named([3.0] * 30),
        "few": named([1.0] * 26 + [2.0, 3.0, 4.0, 5.0]),
        "some": named(range(15)),
        "nobody has it": {"other": 1.0},
    }
    found = {each.by: [group.queries for group in each.groups] for each in groupings(gains, properties)}
    assert found == {"two values": [20, 10], "some": [5, 5, 5]}
    assert groupings(dict.fromkeys(gains, 0.0), properties) == ()
    assert groupings({}, {}) == ()
    with pytest.raises(InvalidInput, match="differences\\[1\\] is nan"):
        groupings({"a": 1.0, "b": float("nan")}, properties)


def test_shuffled_properties_tell_nothing_apart() -> None:
    """Of 100 tables whose properties are drawn, at most 5 % tell a group apart or call it hurt, whatever the mean."""
    random = np.random.default_rng(11)
    apart = hurt = 0
    for seed in range(100):
        gains = random.normal(0.1 if seed % 2 else 0.0, 0.2, 45) * (random.random(45) < 0.6)
        drawn = {name: named(random.random(45)) for name in ("query length", "score margin")}
        groups = [group for each in groupings(named(gains), drawn, resamples=499, seed=seed) for group in each.groups]
        assert len(groups) == 6
        apart += any(group.apart for group in groups)
        hurt += any(group.interval.high < 0 for group in groups)
    assert apart <= 10
    assert hurt <= 7


def test_a_group_that_is_hurt_is_found() -> None:
    """Long queries lose what the others gain; those between are as the rest of the queries are."""
    length = np.arange(60)
    gains = np.repeat([0.2, 0.05, -0.1], 20) + np.random.default_rng(0).normal(0, 0.1, 60)
    (found,) = groupings(named(gains), {"query length": named(length)})
    assert [group.apart for group in found.groups] == [True, False, True]
    assert [group.interval.high < 0 for group in found.groups] == [False, False, True]
