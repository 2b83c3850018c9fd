import itertools
import math

import numpy as np
import pytest

from diorama.errors import InputError
from diorama.metrics import (
    auroc,
    average_ranks,
    bootstrap,
    bootstrap_statistic,
    paired_difference,
    proportion,
    spearman,
)


def test_the_bootstrap_interval_is_close_to_the_normal_one_for_many_values():
    values = np.random.default_rng(0).normal(3, 2, 400)
    interval = bootstrap(values, samples=4000)
    half = 1.96 * values.std() / math.sqrt(400)
    assert interval.mean == pytest.approx(values.mean()) and interval.n == 400
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_the_bootstrap_covers_the_true_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(1)
    intervals = [bootstrap(generator.exponential(1.0, 60), samples=400, seed=i) for i in range(300)]
    covered = np.mean([interval.low <= 1.0 <= interval.high for interval in intervals])
    assert 0.88 <= covered <= 0.98


def test_the_bootstrap_is_the_same_for_the_same_seed():
    values = np.random.default_rng(0).normal(size=50)
    assert bootstrap(values, seed=3) == bootstrap(values, seed=3) != bootstrap(values, seed=4)


def test_drawing_in_chunks_gives_as_many_samples(monkeypatch):
    values = np.random.default_rng(0).normal(size=50)
    whole = bootstrap(values)
    monkeypatch.setattr("diorama.metrics.intervals.MAX_DRAWS_AT_ONCE", 350)
    chunked = bootstrap(values)
    assert (chunked.low, chunked.high) == (pytest.approx(whole.low, abs=0.03), pytest.approx(whole.high, abs=0.03))


def test_groups_that_agree_within_widen_the_interval():
    answers = np.repeat(np.random.default_rng(0).integers(0, 2, 40), 10)
    clips = np.repeat(np.arange(40), 10)
    apart, together = bootstrap(answers), bootstrap(answers, groups=clips.tolist())
    assert together.n == 40 and together.mean == apart.mean
    ratio = (together.high - together.low) / (apart.high - apart.low)
    assert ratio == pytest.approx(math.sqrt(10), rel=0.15)


def test_groups_of_one_are_the_plain_bootstrap():
    values = np.random.default_rng(0).normal(size=30)
    assert bootstrap(values, groups=list(range(30))) == bootstrap(values)


def test_pairing_removes_what_both_share():
    generator = np.random.default_rng(0)
    item = generator.normal(0, 10, 100)
    a, b = item + 1 + generator.normal(0, 0.1, 100), item
    interval = paired_difference(a, b)
    assert 0.9 < interval.low < interval.mean < interval.high < 1.1


def test_wilson_matches_known_values_and_stays_inside():
    interval = proportion(8, 10)
    assert (interval.low, interval.high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert proportion(0, 20).low == 0.0 and proportion(0, 20).high == pytest.approx(0.1611, abs=1e-4)
    assert proportion(20, 20).high == 1.0


def test_auroc_is_the_share_of_pairs_in_order_ties_counting_half():
    generator = np.random.default_rng(0)
    scores, labels = generator.integers(0, 5, 60), generator.integers(0, 2, 60)
    pairs = itertools.product(scores[labels == 1], scores[labels == 0])
    wanted = np.mean([(p > n) + 0.5 * (p == n) for p, n in pairs])
    assert auroc(scores, labels) == pytest.approx(wanted)
    assert auroc([1, 1, 1], [0, 1, 0]) == 0.5
    assert auroc([0.1, 0.9], [False, True]) == 1.0


def test_average_ranks_share_ties():
    assert average_ranks([10, 20, 20, 5]).tolist() == [2, 3.5, 3.5, 1]


def test_spearman_is_pearson_of_the_ranks_and_ignores_monotone_maps():
    generator = np.random.default_rng(0)
    a = generator.normal(size=50)
    b = a + generator.normal(size=50)
    wanted = np.corrcoef(average_ranks(a), average_ranks(b))[0, 1]
    assert spearman(a, b) == pytest.approx(wanted) == spearman(np.exp(a), b**3)
    assert spearman([1, 2, 3], [6, 5, 4]) == -1.0


def test_a_statistic_of_columns_gets_an_interval():
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 50)
    interval = bootstrap_statistic(auroc, generator.normal(size=100) + labels, labels, samples=300)
    assert 0.6 < interval.low < interval.mean < interval.high < 0.95 and interval.n == 100
    rare = bootstrap_statistic(auroc, [0.1, 0.4, 0.9], [0, 0, 1], samples=200)
    assert rare.low == rare.high == 1.0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: bootstrap([]), "no mean"),
        (lambda: bootstrap([1.0, math.nan]), "NaN"),
        (lambda: bootstrap([[1.0]]), "shape"),
        (lambda: bootstrap([1.0], level=1.0), "level"),
        (lambda: bootstrap([1.0], samples=0), "samples"),
        (lambda: bootstrap([1.0, 2.0], groups=["a"]), "group labels"),
        (lambda: paired_difference([1.0], [1.0, 2.0]), "cannot be paired"),
        (lambda: proportion(3, 2), "3 of 2"),
        (lambda: proportion(0, 0), "0 of 0"),
        (lambda: auroc([0.5, 0.6], [1, 1]), "2 positive, 0 negative"),
        (lambda: auroc([0.5, 0.6], [1, 2]), "0 or 1"),
        (lambda: spearman([1, 1], [1, 2]), "same value"),
    ],
)
def test_what_cannot_be_measured_is_said(call, says):
    with pytest.raises(InputError, match=says):
        call()
