"""Ratios are taken within a round, and their intervals are always the same for the same rounds."""

from __future__ import annotations

import numpy as np

from benchmarks.ratios import bootstrap_interval, paired_ratio, spread


def test_a_ratio_compares_readings_of_one_round() -> None:
    drifting = {0: 100.0, 1: 50.0, 2: 10.0}
    half_as_fast = {0: 50.0, 1: 25.0, 2: 5.0}
    ratio = paired_ratio(half_as_fast, drifting)
    assert ratio is not None
    assert (ratio.median, ratio.low, ratio.high) == (0.5, 0.5, 0.5)
    assert ratio.in_words == "0.500 [0.500, 0.500]"


def test_rounds_that_only_one_of_them_has_do_not_count() -> None:
    ratio = paired_ratio({0: 2.0, 3: 900.0}, {0: 1.0, 1: 1.0})
    assert ratio is not None
    assert ratio.median == 2.0
    assert paired_ratio({0: 1.0}, {1: 1.0}) is None


def test_too_few_rounds_have_no_interval() -> None:
    ratio = paired_ratio({0: 1.0, 1: 3.0}, {0: 1.0, 1: 1.0})
    assert ratio is not None
    assert (ratio.median, ratio.low, ratio.in_words) == (2.0, None, "2.000")


def test_an_interval_lies_within_the_values_around_their_median_and_repeats() -> None:
    values = list(np.random.default_rng(1).normal(10, 1, 40))
    interval = bootstrap_interval(values)
    assert interval is not None
    low, high = interval
    assert min(values) < low < np.median(values) < high < max(values)
    assert bootstrap_interval(values) == interval


def test_more_rounds_make_a_narrower_interval() -> None:
    values = list(np.random.default_rng(2).normal(10, 1, 400))
    few, many = bootstrap_interval(values[:8]), bootstrap_interval(values)
    assert few is not None
    assert many is not None
    assert many[1] - many[0] < few[1] - few[0]


def test_a_spread_is_median_and_extremes() -> None:
    found = spread([3.0, 1.0, 10.0])
    assert (found.median, found.low, found.high) == (3.0, 1.0, 10.0)
