"""Means and differences of many cells' AUROCs, each with its uncertainty, and many at once.

Any such number is a weighted sum of areas, so its sampling error follows from the same weighted
sum of the examples' influences (see `roc`): an example that two cells share counts in both, and one
that a cell lacks has no influence there. What holds for many of them at once comes from the largest
of their standardised errors, drawn with random weights on the examples (the multiplier bootstrap;
Chernozhukov, Chetverikov and Kato, Annals of Statistics 2013).
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from probekit import arguments
from probekit.probing.auroc import (
    auroc_influence,
    cluster_sums,
    critical,
    interval,
    n_clusters,
    standard_error,
)
from probekit.probing.folds import example_groups
from probekit.tokens import FIGURE_TOKENS

#: With fewer wrong or right answers, the error of an area cannot be estimated.
MIN_PER_CLASS = 10

#: The bands of layers in which the reference figure is described, by the labels it gives them, as
#: fractions of the network. `data/reference/claims.yaml` says how they follow from its labels.
BANDS = {
    "0-4": (0 / 32, 6 / 32),
    "6-8": (6 / 32, 10 / 32),
    "10-12": (10 / 32, 14 / 32),
    "14-16": (14 / 32, 18 / 32),
    "18-20": (18 / 32, 22 / 32),
    "22-24": (22 / 32, 26 / 32),
    "26-28": (26 / 32, 30 / 32),
    "30": (30 / 32, 32 / 32),
}

_TAIL = 1e-4
_MIN_DRAWS, _DRAWS = 500, 2000
_MAX_WORK = 1e8  # of differences times draws
_CACHED = 128  # draws whose differences stay in the processor's cache
_MIN_PERMUTATIONS = 10


@dataclass(frozen=True)
class Areas:
    """The areas of a grid's cells, with what each answer contributes to each."""

    layers: np.ndarray
    """Block numbers, ascending."""
    n_layers: int
    """Blocks of the network, of which the grid may have only some."""
    tokens: tuple
    value: np.ndarray
    """(layer, token), NaN where there are too few answers of a class."""
    influence: np.ndarray
    """(layer, token, unit): of an answer or a group of them; its squares sum to the variance."""
    rarest: int
    """Least number of wrong or of right answers in a cell that has an area."""
    widening: float
    """How many times as far the permuted grids scatter as the influences say; at least 1."""
    n_groups: float
    """Groups that a variance comes from, in the cell that has most; infinite without groups."""

    @property
    def usable(self):
        """Which cells have an area, (layer, token)."""
        return ~np.isnan(self.value)

    def at(self, depth=None, tokens=None):
        """Which cells lie at some depth, a point or a band, and at some tokens: (layer, token)."""
        if np.ndim(depth) == 0 and depth is not None:
            rows = self.layers == int(depth * self.n_layers)
        else:
            start, end = (-np.inf, np.inf) if depth is None else depth
            middle = (self.layers + 0.5) / self.n_layers
            rows = (middle >= start) & (middle < end)
        columns = np.isin(self.tokens, self.tokens if tokens is None else list(tokens))
        return rows[:, None] & columns

    def mean(self, cells):
        """Mean area of the usable ones among some cells, (layer, token), and its influence."""
        chosen = cells & self.usable
        if not chosen.any():
            return np.nan, np.zeros(self.influence.shape[-1])
        return self.value[chosen].mean(), self.influence[chosen].mean(0)

    def slope(self, cells):
        """Least-squares slope over the depth of the layers' means over some cells."""
        chosen = cells & self.usable
        rows = np.flatnonzero(chosen.any(1))
        if len(rows) < 2:
            return np.nan, np.zeros(self.influence.shape[-1])
        depth = self.layers[rows] / self.n_layers
        weight = (depth - depth.mean()) / ((depth - depth.mean()) ** 2).sum()
        value, influence = self.means(self.by_layer(chosen, rows))
        return weight @ value, weight @ influence

    def by_layer(self, cells, rows):
        """The cells of each of some rows."""
        return [cells & (np.arange(len(cells)) == row)[:, None] for row in rows]

    def means(self, sets):
        """Mean area of each of several sets of cells: (set,) and (set, unit)."""
        value, influence = zip(*(self.mean(cells) for cells in sets), strict=True)
        return np.array(value), np.array(influence)

    def interval(self, value, influence, family=None):
        """95 % intervals of areas or their means, or as wide as a family's `largest_error` asks."""
        error = standard_error(influence)
        # Where all wrong answers score above all right ones no error shows: as if half an answer
        # of the rarer class were out of place.
        error = np.where(error > 0, error, 0.5 / self.rarest)
        # Log-odds are no scale for an area within an error of its bounds.
        inner = np.clip(value, error, 1 - error)
        low, high = interval(inner, error * self.reach(family) / critical())
        return np.minimum(low, value), np.maximum(high, value)

    def half_width(self, influence, family=None):
        """Half the width of a symmetric interval, for differences of areas: (...)."""
        return self.reach(family) * standard_error(influence)

    def reach(self, family=None):
        """Half the width of an interval, in standard errors over so few groups.

        A family's normal quantile is widened at a small tail: which of its numbers errs most is
        drawn from the same few groups, which makes the numbers look more alike than they are.
        """
        if family is None:
            return float(critical(n_units=self.n_groups))
        level = 1 - 2 * _TAIL
        return family * float(critical(level, self.n_groups) / critical(level))

    def argmax_shares(self, value, influence):
        """How often each of several areas is the highest when the examples are drawn anew."""
        # As uncertain as their intervals are wide.
        return argmax_shares(value, influence * self.reach() / critical())


def areas(grid, tokens=FIGURE_TOKENS, groups=None):
    """Areas of a grid's cells with the influences on them of examples, or of groups (example,)."""
    arguments.grid(grid, ("score", "correct", "n_examples"))
    there = [str(token) for token in grid["token"].to_numpy()]
    drawn = tuple(token for token in tokens if token in there)
    if not drawn:
        raise ValueError(
            f"The grid has none of the tokens asked for; it has {arguments.listed(there)}."
        )
    grid = grid.isel(token=[there.index(token) for token in drawn]).sortby("layer")
    score = grid["score"].transpose("layer", "token", "example").to_numpy()
    wrong = ~grid["correct"].to_numpy().astype(bool)
    value, influence = auroc_influence(score, wrong)
    scored = ~np.isnan(score)
    rarer = np.minimum((scored & wrong).sum(-1), (scored & ~wrong).sum(-1))
    enough = rarer >= MIN_PER_CLASS
    value = np.where(enough, value, np.nan)
    influence[~enough] = 0
    single, units, n_groups = standard_error(influence), rarer, np.inf
    if groups is None:
        groups = example_groups(grid, grid.attrs.get("split", "random"))
    if groups is not None:
        n = n_clusters(influence, groups)
        influence = cluster_sums(influence, groups)
        influence *= np.sqrt(n / np.maximum(n - 1, 1))[..., None]
        units = np.minimum(rarer, n)
        n_groups = max(2, units[enough].max(initial=0))
    layers = grid["layer"].to_numpy()
    widening = _widening(grid, score, wrong, enough, standard_error(influence), single)
    # A variance from few answers is itself uncertain. `reach` has Student's t for the groups; where
    # a cell has fewer answers than groups, or of them, that is added here, at a small tail.
    small = critical(1 - 2 * _TAIL, np.maximum(units, 2)) / critical(1 - 2 * _TAIL, n_groups)
    return Areas(
        layers=layers,
        n_layers=int(grid.attrs.get("n_layers", layers.max() + 1)),
        tokens=drawn,
        value=value,
        influence=influence * widening * small[..., None],
        rarest=int(rarer[enough].min()) if enough.any() else 1,
        widening=widening,
        n_groups=n_groups,
    )


def _widening(grid, score, wrong, enough, error, single):
    """Scatter of the permuted grids' areas, in the standard errors that the influences give.

    The influences take the probes as given. Cross-validated probes also scatter because each
    answer trains the probes that score the others, which a null of permuted labels contains.
    """
    if "null_auroc" not in grid or not enough.any():
        return 1.0
    null = grid["null_auroc"].transpose("layer", "token", "permutation").to_numpy()[enough]
    if null.shape[-1] < _MIN_PERMUTATIONS or np.isnan(null).all():
        return 1.0
    scored = ~np.isnan(score[enough])
    n_wrong, n_right = (scored & wrong).sum(-1), (scored & ~wrong).sum(-1)
    expected = (n_wrong + n_right + 1) / (12 * n_wrong * n_right)
    # Groups that are kept together widen the null as they widen the influences' errors.
    by_group = np.mean(error[enough] ** 2) / max(np.mean(single[enough] ** 2), 1e-12)
    ratio = np.nanmean((null - 0.5) ** 2 / expected[:, None]) / max(by_group, 1)
    return float(np.sqrt(max(ratio, 1)))


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


def argmax_shares(value, influence, draws=1000, seed=0):
    """How often each of several areas is the highest when the examples are drawn anew."""
    weights = np.random.default_rng(seed).standard_normal((influence.shape[-1], draws))
    drawn = (influence.astype(np.float32) @ weights.astype(np.float32)) + value[..., None]
    best = np.where(np.isnan(drawn), -np.inf, drawn).argmax(-2)
    shares = (best[..., None, :] == np.arange(value.shape[-1])[:, None]).mean(-1)
    return np.where(np.isnan(value), 0, shares)
