import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from probekit.probing.auroc import (
    auroc,
    auroc_influence,
    critical,
    independent_pairs,
    interval,
    measured,
    n_clusters,
    null_distance,
    standard_error,
)


def scores_with_ties(seed, n=60, rows=5, missing=0.2):
    random = np.random.default_rng(seed)
    positive = random.random(n) < 0.4
    score = np.round(random.normal(positive * 0.8, 1, (rows, n)), 1)
    score[random.random((rows, n)) < missing] = np.nan
    return score, positive


def delong_variance(score, positive):
    """DeLong's variance by comparing every positive with every negative."""
    kept = ~np.isnan(score)
    x, y = score[kept & positive], score[kept & ~positive]
    wins = np.array([[(a > b) + 0.5 * (a == b) for b in y] for a in x])
    of_positives, of_negatives = wins.mean(1), wins.mean(0)
    return of_positives.var(ddof=1) / len(x) + of_negatives.var(ddof=1) / len(y)


@pytest.mark.parametrize("seed", range(5))
def test_auroc_is_sklearns(seed):
    score, positive = scores_with_ties(seed)
    expected = [roc_auc_score(positive[~np.isnan(row)], row[~np.isnan(row)]) for row in score]
    np.testing.assert_allclose(auroc(score, positive), expected, rtol=1e-12)
    np.testing.assert_allclose(auroc_influence(score, positive)[0], expected, rtol=1e-12)


def test_labels_may_differ_by_row():
    score, positive = scores_with_ties(0, missing=0)
    labels = np.array([positive, ~positive, positive, ~positive, positive])
    expected = [roc_auc_score(y, row) for y, row in zip(labels, score, strict=True)]
    np.testing.assert_allclose(auroc(score, labels), expected, rtol=1e-12)
    np.testing.assert_allclose(auroc_influence(score, labels)[0], expected, rtol=1e-12)


def test_one_row_gives_a_number():
    assert auroc([0.1, 0.9, 0.5], [False, True, False]) == 1
    area, influence = auroc_influence([0.1, 0.9, 0.5], [False, True, False])
    assert area == 1
    assert influence.shape == (3,)


@pytest.mark.parametrize(
    ("score", "positive"),
    [
        ([1.0, 2.0], [True, True]),
        ([1.0, 2.0], [False, False]),
        ([np.nan, np.nan], [True, False]),
        ([1.0, np.nan, 2.0], [True, False, True]),
    ],
)
def test_one_class_has_no_area(score, positive):
    assert np.isnan(auroc(score, positive))
    area, influence = auroc_influence(score, positive)
    assert np.isnan(area)
    low, high = interval(area, standard_error(influence))
    assert np.isnan(low)
    assert np.isnan(high)


def test_infinite_scores_are_scores():
    score, positive = np.array([-np.inf, 0.0, np.inf, 1.0]), np.array([False, True, True, False])
    assert auroc(score, positive) == 0.75
    assert auroc_influence(score, positive)[0] == 0.75
    # Nor is what is left out one of them.
    score, positive = np.append(score, [np.nan] * 2), np.append(positive, [True, False])
    assert auroc(score, positive) == 0.75
    assert auroc_influence(score, positive)[0] == 0.75


@pytest.mark.parametrize("seed", range(5))
def test_the_influences_squares_sum_to_delongs_variance(seed):
    score, positive = scores_with_ties(seed)
    _, influence = auroc_influence(score, positive)
    expected = [delong_variance(row, positive) for row in score]
    np.testing.assert_allclose(standard_error(influence) ** 2, expected, rtol=1e-10)
    np.testing.assert_allclose(influence.sum(-1), 0, atol=1e-12)
    assert (influence[np.isnan(score)] == 0).all()


def test_clusters_of_one_are_no_clusters():
    score, positive = scores_with_ties(1, rows=3, missing=0)
    _, influence = auroc_influence(score, positive)
    alone = standard_error(influence, cluster=np.arange(len(positive))[::-1])
    # The correction for few clusters, n / (n - 1), is the only difference.
    n = (influence != 0).sum(-1)
    np.testing.assert_allclose(alone, standard_error(influence) * np.sqrt(n / (n - 1)))


def test_clusters_add_up_before_they_are_squared():
    """Every example four times over tells as much as once, and clusters know it."""
    score, positive = scores_with_ties(2, n=200, rows=1, missing=0)
    once = standard_error(auroc_influence(score, positive)[1])
    influence = auroc_influence(np.repeat(score, 4, -1), np.repeat(positive, 4))[1]
    assert standard_error(influence) < 0.55 * once
    clustered = standard_error(influence, cluster=np.repeat(np.arange(200), 4))
    np.testing.assert_allclose(clustered, once, rtol=0.02)


def test_the_names_of_clusters_do_not_matter():
    score, positive = scores_with_ties(3)
    _, influence = auroc_influence(score, positive)
    cluster = np.random.default_rng(0).integers(0, 7, len(positive))
    names = np.array([90, 4, 17, 3, 55, 8, 12])[cluster]
    np.testing.assert_allclose(
        standard_error(influence, cluster), standard_error(influence, names), rtol=1e-12
    )


@pytest.mark.parametrize("area", [0.6, 0.75, 0.9])
def test_the_interval_covers_the_area_as_often_as_it_says(area):
    """500 samples of 60 errors and 90 right answers, normal scores of known area."""
    from scipy.stats import norm

    random = np.random.default_rng(int(1000 * area))
    positive = np.arange(150) < 60
    shift = np.sqrt(2) * norm.ppf(area)
    score = random.normal(positive * shift, 1, (500, 150))
    found, influence = auroc_influence(score, positive)
    low, high = interval(found, standard_error(influence))
    coverage = ((low <= area) & (area <= high)).mean()
    print(f"AUROC {area}: covered {coverage:.1%}")
    assert 0.93 <= coverage <= 0.97


def test_the_interval_covers_where_examples_come_in_groups():
    """Without clusters it would be far too narrow."""
    random = np.random.default_rng(0)
    covered, naive = [], []
    cluster = np.repeat(np.arange(40), 5)
    for _ in range(500):
        positive = np.repeat(random.random(40) < 0.5, 5)
        score = np.repeat(random.normal(size=40), 5) + 0.5 * random.normal(size=200)
        found, influence = auroc_influence(score, positive)
        for kept, error in (
            (covered, standard_error(influence, cluster)),
            (naive, standard_error(influence)),
        ):
            low, high = interval(found, error)
            kept.append(low <= 0.5 <= high)
    print(f"covered {np.mean(covered):.1%}, without clusters {np.mean(naive):.1%}")
    assert 0.92 <= np.mean(covered) <= 0.98
    assert np.mean(naive) < 0.8


@pytest.mark.parametrize("groups", [2, 3, 4, 5, 30])
def test_a_mean_over_few_groups_has_students_interval(groups):
    """Sums over equal groups have a known interval: that of their mean in any textbook."""
    from scipy.stats import ttest_1samp

    sums = np.random.default_rng(groups).normal(size=(2000, groups))
    # Four examples a group, whose parts add up to the group's share in the mean.
    influence = ((sums - sums.mean(-1, keepdims=True)) / groups).repeat(4, -1) / 4
    cluster = np.arange(groups).repeat(4)
    half = critical(n_units=n_clusters(influence, cluster)) * standard_error(influence, cluster)
    expected = ttest_1samp(sums, 0, axis=-1).confidence_interval(0.95)
    np.testing.assert_allclose(half, (expected.high - expected.low) / 2, rtol=1e-9)
    covered = (np.abs(sums.mean(-1)) <= half).mean()
    assert covered == pytest.approx(0.95, abs=0.015)


def test_units_that_have_no_part_in_a_cell_do_not_count():
    influence = np.array([[1.0, -1, 0, 0, 0, 0], [1, -1, 2, -2, 0.5, -0.5], [1, -1, 1, -1, 3, -3]])
    assert n_clusters(influence, np.array([0, 1, 2, 3, 4, 5])).tolist() == [2, 6, 6]
    assert np.isinf(n_clusters(influence)).all()
    assert np.isnan(critical(n_units=1)), "one group has no variance"
    low, high = interval([0.6, 0.6], [0.1, 0.1], n_units=[1, np.inf])
    assert np.isnan([low[0], high[0]]).all()
    np.testing.assert_allclose([low[1], high[1]], np.ravel(interval(0.6, 0.1)))
    assert critical() == pytest.approx(1.959964)


@given(
    st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=40),
    st.floats(0.5, 0.999),
)
def test_the_interval_holds_the_area_and_stays_in_range(examples, level):
    score = np.array([s for s, _ in examples], float)
    positive = np.array([p for _, p in examples])
    area, influence = auroc_influence(score, positive)
    low, high = interval(area, standard_error(influence), level)
    if np.isnan(low):
        assert min(positive.sum(), (~positive).sum()) < 2
    else:
        assert 0 <= low <= area + 1e-5
        assert area - 1e-5 <= high <= 1
        assert auroc(-score, positive) == pytest.approx(1 - area)


# One model of uncertainty


def test_units_are_the_influences_and_the_jackknife_of_the_training():
    random = np.random.default_rng(0)
    positive = random.random(80) < 0.4
    cluster = random.integers(15, size=80)
    scores = random.normal(positive * 0.8, 1, (3, 5, 80))
    scores[1, :, :20] = np.nan
    for groups in (None, cluster):
        area, units, n_units = measured(scores, positive, groups)
        for cell in range(3):
            expected, influence = auroc_influence(scores[cell], positive)
            deviation = influence[1:] - influence[1:].mean(0)
            training = (3 / 4) * (standard_error(deviation, groups) ** 2).sum()
            variance = standard_error(influence[0], groups) ** 2 + training
            assert area[cell] == expected[0]
            assert standard_error(units[cell]) ** 2 == pytest.approx(variance, rel=1e-9)
        assert (n_units == (np.inf if groups is None else 15)).all()


def test_without_training_there_is_only_the_sampling_and_of_two_folds_twice_that():
    score, positive = scores_with_ties(0)
    alone, twice = (np.stack([score] * n, 1) for n in (1, 2))
    expected = standard_error(auroc_influence(score, positive)[1])
    np.testing.assert_allclose(standard_error(measured(alone, positive)[1]), expected)
    np.testing.assert_allclose(standard_error(measured(twice, positive)[1]), expected * np.sqrt(2))


def test_where_all_pairs_are_in_order_the_interval_has_a_bound():
    low, high = interval([1.0, 0.0, 0.8], [0.0, 0.0, 0.05], n_pairs=[20, 20, 20])
    assert low[0] == pytest.approx(0.025 ** (1 / 20))
    assert (high[0], low[1]) == (1, 0)
    assert high[1] == pytest.approx(1 - 0.025 ** (1 / 20))
    assert (low[2], high[2]) == interval(0.8, 0.05)


@pytest.mark.parametrize("area", [0.8, 0.9, 0.97])
def test_the_bound_holds_the_area_as_often_as_it_says(area):
    """Six of either class: all in order happens often, and the area is then above the bound."""
    random = np.random.default_rng(0)
    positive = np.arange(12) < 6
    score = random.normal(np.sqrt(2) * norm.ppf(area) * positive, 1, (20_000, 12))
    found, influence = auroc_influence(score, positive)
    pairs = independent_pairs(np.ones_like(score, bool), positive)
    low, _ = interval(found, standard_error(influence), n_pairs=pairs)
    assert (pairs == 6).all()
    assert np.mean((found == 1) & (low > area)) <= 0.025
    assert np.mean(found == 1) > (0.3 if area == 0.97 else 0.01), "else nothing is tested"


def most_pairs(groups, positive):
    """Most pairs of a positive and a negative without a group in common, by trying all."""
    kinds = [{bool(p) for p in positive[groups == g]} for g in np.unique(groups)]

    def best(left):
        if not left:
            return 0
        first, rest = left[0], left[1:]
        found = best(rest)
        for i, other in enumerate(rest):
            if any(a != b for a in first for b in other):
                found = max(found, 1 + best(rest[:i] + rest[i + 1 :]))
        return found

    return best(kinds)


def test_independent_pairs_are_as_many_as_can_be_made():
    random = np.random.default_rng(0)
    for _ in range(60):
        groups = random.integers(7, size=random.integers(2, 12))
        positive = random.random(len(groups)) < random.choice([0.2, 0.5, 0.8])
        there = np.ones(len(groups), bool)
        assert independent_pairs(there, positive, groups) == most_pairs(groups, positive)


def test_the_distance_under_the_null_is_that_of_ranks_or_of_the_groups():
    random = np.random.default_rng(0)
    positive = random.random(90) < 0.4
    score = random.normal(size=(3, 90))
    score[1, :30] = np.nan
    for row, found in zip(score, null_distance(score, positive), strict=True):
        there = ~np.isnan(row)
        n, k = there.sum(), (there & positive).sum()
        area, influence = auroc_influence(row, positive)
        largest = max(standard_error(influence), np.sqrt((n + 1) / (12 * k * (n - k))))
        assert found == pytest.approx((area - 0.5) / largest)
    # Groups that are right or wrong together are worth one answer each.
    groups = np.repeat(np.arange(12), 10)
    score, positive = np.repeat(random.normal(size=12), 10), groups % 2 == 0
    alone, together = (null_distance(score, positive, g) for g in (None, groups))
    assert abs(together) == pytest.approx(abs(alone) / np.sqrt(10), rel=0.2)
