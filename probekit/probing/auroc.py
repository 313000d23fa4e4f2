"""Area under the ROC curve with its sampling error, for many scores of the same examples at once.

The sampling error comes from each example's influence on the area: how much the area moves with
that example's weight (DeLong, DeLong and Clarke-Pearson, Biometrics 1988). Influences of examples
that belong together are added before they are squared (Obuchowski, Biometrics 1997), and those of
two scores of the same examples are subtracted where the scores are compared.
"""

import numpy as np
from scipy.special import expit
from scipy.stats import norm, rankdata, t


def auroc(score, positive):
    """Area under the ROC curve.

    `score` (..., example), `positive` (example,).
    """
    score = np.asarray(score, dtype=float)
    positive = np.broadcast_to(np.asarray(positive, dtype=bool), score.shape)
    missing = np.isnan(score)
    ranks = _ranks(score, missing)
    chosen = positive & ~missing
    n_positive = chosen.sum(-1)
    n_negative = (~missing).sum(-1) - n_positive
    above = np.where(chosen, ranks, 0).sum(-1) - n_positive * (n_positive + 1) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return above / (n_positive * n_negative)


def _ranks(score, left_out):
    """Ranks along the last axis; what is left out ranks last, so it moves no other rank."""
    largest = np.finfo(float).max
    # An infinite score is one too, below what is left out.
    score = np.clip(score, -largest, largest)
    return rankdata(np.where(left_out, np.inf, score), axis=-1)


def auroc_influence(score, positive):
    """Area under the ROC curve, and each example's influence on it.

    `score` (..., example), `positive` (example,); gives `influence` (..., example).
    """
    score = np.asarray(score, dtype=float)
    positive = np.broadcast_to(np.asarray(positive, dtype=bool), score.shape)
    present = ~np.isnan(score)
    groups = [positive & present, ~positive & present]
    sizes = [group.sum(-1) for group in groups]
    overall = _ranks(score, ~present)
    influence = np.zeros(score.shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        for group, size, others in zip(groups, sizes, sizes[::-1], strict=True):
            within = _ranks(score, ~group)
            # Share of the other class that scores below an example, ties counted half.
            below = (overall - within) / others[..., None]
            if group is groups[1]:
                below = 1 - below
            else:
                area = np.where(group, below, 0).sum(-1) / size
            placed = (below - area[..., None]) / np.sqrt(size * (size - 1.0))[..., None]
            influence += np.where(group, placed, 0)
    area = np.where((sizes[0] > 0) & (sizes[1] > 0), area, np.nan)
    return area, influence


def standard_error(influence, cluster=None):
    """Standard error of an area, from the examples' influences on it.

    `influence` (..., example), `cluster` (example,).
    """
    if cluster is None:
        return np.sqrt((influence**2).sum(-1))
    sums = cluster_sums(influence, cluster)
    n = (sums != 0).sum(-1)
    return np.sqrt((sums**2).sum(-1) * n / np.maximum(n - 1, 1))


def null_distance(score, positive, cluster=None):
    """How far areas are from 0.5, in standard errors, for permuted labels to be compared with.

    By the standard error of the scores at hand, which sees how answers that belong together are
    spread over the classes, as permuted labels may not have it (studentized permutation; Janssen,
    Statistics and Probability Letters 1997); but never by less than that of ranks alone.

    `score` (..., example), `positive` likewise or (example,), `cluster` (example,); NaN without
    both classes.
    """
    score = np.asarray(score, float)
    area, influence = auroc_influence(score, positive)
    present = ~np.isnan(score)
    n_positive = (present & positive).sum(-1)
    n = present.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        ranks = np.sqrt((n + 1) / (12 * n_positive * (n - n_positive)))
        return (area - 0.5) / np.maximum(standard_error(influence, cluster), ranks)


def cluster_sums(values, cluster):
    """Sums over the examples of each cluster: (..., example) to (..., cluster)."""
    order = np.argsort(cluster, kind="stable")
    firsts = np.unique(cluster[order], return_index=True)[1]
    return np.add.reduceat(values[..., order], firsts, axis=-1)


def measured(scores, positive, cluster=None):
    """Areas, and what each group of answers contributes to their error: one model of uncertainty.

    An area errs in two ways. The tested answers are a sample: that is what the influences show.
    And an answer also trains the fits that score the others, and was drawn together with them, so
    that this doesn't average out over the answers: with nothing to learn, where every pair of
    answers counts twice and with the same sign, it is as large as the former (the second-order
    term of a U-statistic, Hoeffding 1948). It is measured by leaving out each training fold in
    turn (jackknife).

    Both are sums over groups of answers, so any weighted sum of areas has the same weighted sum of
    units, and the variance of each is the sum of the squares.

    Parameters
    ----------
    scores : array, shape (..., variant, example)
        The first variant is the score that is measured. The others are by fits that lacked one
        more fold than the example's own; with two folds there is none, and one more variant is the
        score itself. Without training, there is only the first.
    positive : array of bool, shape (example,)
    cluster : array of int, shape (example,), optional
        Which answers belong together.

    Returns
    -------
    area : array, shape (...)
    units : array, shape (..., unit)
    n_units : array, shape (...)
        Groups that have an influence on the area, for Student's t; infinite without groups.
    """
    scores = np.asarray(scores, float)
    # The area is that of the first; only the other variants' influences are of use.
    area, influence = auroc_influence(scores, positive)
    own, others = influence[..., 0, :], influence[..., 1:, :]
    n = others.shape[-2]
    if n > 1:
        others = (others - others.mean(-2, keepdims=True)) * np.sqrt((n - 1) / n)
    parts = np.concatenate([own[..., None, :], others], -2)
    n_units = n_clusters(own, cluster)
    if cluster is not None:
        parts = cluster_sums(parts, cluster)
        # As if each part had its own mean taken off.
        count = (parts != 0).sum(-1, keepdims=True)
        parts = parts * np.sqrt(count / np.maximum(count - 1, 1))
    return area[..., 0], parts.reshape(*parts.shape[:-2], -1), n_units


def out_of_fold(grid, tokens=None):
    """Scores of a grid's cells as `measured` takes them: (layer, token, variant, example)."""
    grid = grid if tokens is None else grid.sel(token=list(tokens))
    own = grid["score"].transpose("layer", "token", "example").to_numpy()[:, :, None]
    if "log_odds_without" not in grid or not grid.sizes["other"]:
        return own
    others = grid["log_odds_without"].transpose("layer", "token", "other", "example").to_numpy()
    return np.concatenate([own, others], 2)


def n_clusters(influence, cluster=None):
    """How many clusters have an influence on an area: (..., example) to (...).

    With no clusters there are so many units that their number does not matter.
    """
    if cluster is None:
        return np.full(np.shape(influence)[:-1], np.inf)
    return (cluster_sums(influence, cluster) != 0).sum(-1)


def critical(level=0.95, n_units=np.inf):
    """Half the width of an interval, in standard errors that are estimated from some units.

    A variance from few units is itself uncertain: Student's t with one degree of freedom less than
    there are units. One unit has no variance, and so no interval (NaN).
    """
    degrees = np.asarray(n_units, float) - 1
    # Not t.ppf(0.5 + ...), which is infinite where a level is nearer to 1 than doubles can tell.
    return np.where(np.isinf(degrees), norm.isf(0.5 - level / 2), t.isf(0.5 - level / 2, degrees))


def interval(area, error, level=0.95, n_units=np.inf, n_pairs=None):
    """Confidence interval of an area, symmetric on the scale of its log-odds.

    `n_units` is how many groups the error is estimated from, and `n_pairs` how many pairs of a
    wrong and a right answer there are that have no answer, and no group, in common. Where all
    wrong answers score above all right ones no error shows. But if the area were A, that many
    independent pairs would all be in order with a probability of A^n_pairs at most, which bounds
    it: at 0.025^(1 / n_pairs) for 95 %, and likewise from above.
    """
    area, error = np.asarray(area, float), np.asarray(error, float)
    # An area of exactly 0 or 1 has no log-odds; stay within it by what the error can't see.
    inner = np.clip(area, 1e-6, 1 - 1e-6)
    reach = critical(level, n_units) * error / (inner * (1 - inner))
    odds = np.log(inner / (1 - inner))
    low, high = expit(odds - reach), expit(odds + reach)
    if n_pairs is not None:
        bound = (0.5 - level / 2) ** (1 / np.maximum(n_pairs, 1))
        # The log-odds of an area at its bound reach nowhere, or everywhere.
        low = np.where(area >= 1 - 1e-9, bound, np.where(area <= 1e-9, 0.0, low))
        high = np.where(area <= 1e-9, 1 - bound, np.where(area >= 1 - 1e-9, 1.0, high))
    return low, high


def independent_pairs(present, positive, cluster=None):
    """How many pairs of a positive and a negative have no group in common: (..., example) to (...).

    Without groups it is the number of the rarer class. A group of both kinds can be on either
    side, but only once.
    """
    present, positive = np.asarray(present, bool), np.asarray(positive, bool)
    of_class = [present & positive, present & ~positive]
    if cluster is None:
        return np.minimum(*(side.sum(-1) for side in of_class))
    has = [cluster_sums(side.astype(int), cluster) > 0 for side in of_class]
    both = (has[0] & has[1]).sum(-1)
    only = [(side & ~other).sum(-1) for side, other in (has, has[::-1])]
    a, b = only
    return np.minimum.reduce([a + both, b + both, (a + b + both) // 2])
