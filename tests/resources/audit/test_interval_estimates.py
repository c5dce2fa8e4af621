"""The intervals of audits: against published values, and how often they contain the truth."""

from pathlib import Path

import pytest

from benchmarks.audit import CASES, PlantedErrors, draw_true_items, measure_coverage
from resources.audit.interval_estimates import Stratum, count_more, estimate_count

NONE_MISSED = [Stratum.of(10_000_000, [0] * 10)]


def test_the_interval_of_one_stratum_is_that_of_wilson() -> None:
    # 81 of 263: 0.2553 to 0.3662 (Newcombe 1998, Statistics in Medicine 17, 857, table I, method 3).
    estimate = estimate_count([Stratum.of(10_000_000, [1] * 81 + [0] * 182)], NONE_MISSED).precision
    assert estimate is not None
    assert (estimate.estimate, estimate.low, estimate.high) == pytest.approx((0.308, 0.2553, 0.3662), abs=1e-4)


def test_the_interval_of_few_wrong_events_is_wider_than_that_of_wilson() -> None:
    # Of 25, 1 is wrong: 1 - 0.0513 / 25 (Brown, Cai and DasGupta 2001), where the score interval ends at 0.9929.
    estimate = estimate_count([Stratum.of(10_000_000, [1] * 24 + [0])], NONE_MISSED).precision
    assert estimate is not None
    assert (estimate.low, estimate.high) == pytest.approx((0.8046, 0.99795), abs=1e-4)


@pytest.mark.parametrize(
    ("missed", "low", "high"), [(0, 0.0, 3.689), (1, 0.0253, 5.572), (10, 4.795, 18.39), (100, 81.36, 121.6)]
)
def test_the_interval_of_missed_objects_is_the_exact_one_of_a_poisson_count(
    missed: int, low: float, high: float
) -> None:
    # Garwood 1936, Biometrika 28, 437. With one stratum of equal weights, the gamma interval is the exact one.
    answers = [1] * missed + [0] * (1000 - missed)
    corrected = estimate_count([], [Stratum.of(1_000_000_000, answers)]).corrected.scale(1e-6)
    assert (corrected.estimate, corrected.low, corrected.high) == pytest.approx(
        (missed, max(low, 1e-6 * missed), high), rel=1e-3
    )


def test_what_was_looked_at_completely_is_exact() -> None:
    events = [Stratum.of(4, [1, 1, 1, 0]), Stratum.of(2, [1, 1])]
    estimate = estimate_count(events, [Stratum.of(3, [0, 2, 0]), Stratum.of(1, [0])])
    for interval, truth in ((estimate.precision, 5 / 6), (estimate.recall, 5 / 7), (estimate.corrected, 7)):
        assert interval is not None
        assert (interval.low, interval.estimate, interval.high) == pytest.approx((truth, truth, truth))
    assert count_more(events, [Stratum.of(4, [0, 2, 0, 0])]) == 0


def test_nothing_counted_and_nothing_missed_has_neither_precision_nor_recall() -> None:
    estimate = estimate_count([], [Stratum.of(100, [0] * 10)])
    assert (estimate.precision, estimate.recall, estimate.corrected.estimate) == (None, None, 0)
    assert 30 < estimate.corrected.high < 40


def test_bounds_lie_on_the_sides_of_the_estimate_that_the_answers_prove() -> None:
    estimate = estimate_count([Stratum.of(20, [0] * 15)], [Stratum.of(20, [3] * 15)])
    assert estimate.precision is not None and estimate.recall is not None
    assert 0 == estimate.precision.low <= estimate.precision.high <= 5 / 20
    assert estimate.corrected.low >= 45
    assert 0 == estimate.recall.low <= estimate.recall.high < 0.2


def test_how_many_more_narrows_the_interval_to_five_percent() -> None:
    events, stretches = [Stratum.of(500, [1] * 24 + [0])], [Stratum.of(800, [0] * 24 + [1])]
    more = count_more(events, stretches)
    assert 200 < more < 1250
    shares = (50 + more) / 50
    enlarged = estimate_count([events[0].enlarge(shares)], [stretches[0].enlarge(shares)]).corrected
    assert (enlarged.high - enlarged.low) / 2 == pytest.approx(0.05 * enlarged.estimate, rel=0.02)


def test_intervals_contain_the_truth_of_drawn_scenes_with_planted_errors(tmp_path: Path) -> None:
    items = draw_true_items(tmp_path, 40)
    for errors in (PlantedErrors(0.1, 0.05), PlantedErrors(0.1, 0.05, per_burst=4)):
        coverage = measure_coverage(items, errors, 50, range(60))
        assert min(coverage.precision, coverage.recall, coverage.corrected) >= 0.9, errors
        assert coverage.half_width < 0.6


@pytest.mark.long
def test_intervals_contain_the_truth_in_930_of_1000_draws(tmp_path: Path) -> None:
    items = draw_true_items(tmp_path, 200)
    for errors in CASES[:3]:
        coverage = measure_coverage(items, errors, 50, range(1000))
        assert min(coverage.precision, coverage.recall, coverage.corrected) >= 0.93, errors
