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


def cluster_sums(values, cluster):
    """Sums over the examples of each cluster: (..., example) to (..., cluster)."""
    order = np.argsort(cluster, kind="stable")
    firsts = np.unique(cluster[order], return_index=True)[1]
    return np.add.reduceat(values[..., order], firsts, axis=-1)


def training_variance(scores, positive, cluster=None):
    """Variance of a cross-validated area that its influences can't show.

    An example's influence on the area depends on which examples trained the fit that scores it.
    Those were drawn together with it, so their variation doesn't average out over the examples:
    with nothing to learn, where every pair of examples counts twice and with the same sign, it is
    as large as the variance that the influences show (the second-order term of a U-statistic,
    Hoeffding 1948). It is measured by leaving out each training fold in turn (jackknife).

    `scores` (folds - 1, example), `positive` (example,), `cluster` (example,).
    """
    _, influence = auroc_influence(scores, positive)
    n = len(influence)
    if n == 1:
        return float(standard_error(influence, cluster)[0] ** 2)
    deviation = influence - influence.mean(0)
    return float((n - 1) / n * (standard_error(deviation, cluster) ** 2).sum())


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


def interval(area, error, level=0.95, n_units=np.inf):
    """Confidence interval of an area, symmetric on the scale of its log-odds.

    `n_units` is how many clusters the error is estimated from, as `n_clusters` gives it.
    """
    area, error = np.asarray(area, float), np.asarray(error, float)
    # An area of exactly 0 or 1 has no log-odds; stay within it by what the error can't see.
    inner = np.clip(area, 1e-6, 1 - 1e-6)
    reach = critical(level, n_units) * error / (inner * (1 - inner))
    odds = np.log(inner / (1 - inner))
    return expit(odds - reach), expit(odds + reach)
