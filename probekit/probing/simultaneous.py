"""What holds for many numbers at once: how far the largest of their errors goes by chance.

Numbers that are weighted sums of areas come with units (see `auroc.measured`), of which their
errors are sums too. The largest standardised error is drawn with random weights on the units (the
multiplier bootstrap; Chernozhukov, Chetverikov and Kato, Annals of Statistics 2013).
"""

import numpy as np
from scipy.stats import norm

from probekit.probing.auroc import critical, standard_error

_TAIL = 1e-4
_MIN_DRAWS, _DRAWS = 500, 2000
_MAX_WORK = 1e8  # of differences times draws
_CACHED = 128  # draws whose differences stay in the processor's cache


def widened(n_units):
    """How many times as far errors go that are estimated from so few groups, (...).

    Student's t against the normal distribution, at a small tail: which of many numbers errs most is
    drawn from the same few groups, which makes the numbers look more alike than they are.
    """
    level = 1 - 2 * _TAIL
    return critical(level, n_units) / critical(level)


def largest_error(influence, alpha, pairs=False, seed=0):
    """How many standard errors the largest of many errors stays within, but for a share `alpha`.

    `influence` (number, unit); with `pairs` a list of such, of whose rows the differences count.
    """
    blocks = [np.asarray(block, np.float32) for block in (influence if pairs else [influence])]
    n = sum(len(b) * (len(b) - 1) // 2 if pairs else len(b) for b in blocks)
    if n == 0:
        return float(norm.isf(alpha / 2))
    draws = int(np.clip(_MAX_WORK / n, _MIN_DRAWS, _DRAWS))
    weights = np.random.default_rng(seed).standard_normal((blocks[0].shape[-1], draws))
    weights = weights.astype(np.float32)
    largest = np.zeros(draws, np.float32)
    for block in blocks:
        error = block @ weights  # (row, draw)
        if pairs:
            _raise_to_pairs(largest, error, _inverse(_pair_errors(block)))
        else:
            largest = np.maximum(
                largest, np.abs(error * _inverse(standard_error(block))[:, None]).max(0)
            )
    return float(np.quantile(largest, 1 - alpha, method="higher"))


def _raise_to_pairs(largest, error, scale):
    """Raise each draw's largest error to that of the differences between all pairs of rows."""
    for start in range(0, error.shape[1], _CACHED):
        drawn = error[:, start : start + _CACHED]
        top = largest[start : start + _CACHED]
        for i in range(len(drawn) - 1):
            difference = drawn[i + 1 :] - drawn[i]
            difference *= scale[i, i + 1 :, None]
            np.maximum(top, difference.max(0), out=top)
            np.maximum(top, -difference.min(0), out=top)


def _pair_errors(influence):
    """Standard errors of the differences between all pairs of rows."""
    product = np.asarray(influence, float) @ np.asarray(influence, float).T
    square = np.diag(product)
    return np.sqrt(np.maximum(square[:, None] + square - 2 * product, 0))


def _inverse(error):
    # Contrasts that no example moves, such as the difference of two equal cells, have no error.
    return np.where(error > 1e-6, 1 / np.maximum(error, 1e-6), 0).astype(np.float32)
