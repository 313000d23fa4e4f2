"""Means and differences of many cells' AUROCs, each with its uncertainty, and many at once.

Any such number is a weighted sum of areas, so its error follows from the same weighted sum of the
units that `measured` gives: what each answer, or group of answers, contributes to a cell's sampling
error and to its training error. An answer that two cells share counts in both, and one that a cell
lacks contributes nothing there. `largest_error` says what holds for many of them at once.
"""

from dataclasses import dataclass, replace

import numpy as np

from probekit import arguments
from probekit.probing.auroc import (
    critical,
    independent_pairs,
    interval,
    measured,
    out_of_fold,
    standard_error,
)
from probekit.probing.folds import example_groups
from probekit.probing.simultaneous import widened
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

_ROUNDING = 1e-6


@dataclass(frozen=True)
class Areas:
    """The areas of a grid's cells, with what each group of answers contributes to their errors."""

    layers: np.ndarray
    """Block numbers, ascending."""
    n_layers: int
    """Blocks of the network, of which the grid may have only some."""
    tokens: tuple
    value: np.ndarray
    """(layer, token), NaN where there are too few answers of a class."""
    error: np.ndarray
    """(layer, token): standard error."""
    units: np.ndarray
    """(layer, token, unit): from `measured`; their squares sum to the variance."""
    n_units: np.ndarray
    """(layer, token): groups that the variance comes from; infinite without groups."""
    n_pairs: np.ndarray
    """(layer, token): independent pairs of a wrong and a right answer."""
    rarer: np.ndarray
    """(layer, token): wrong or right answers, whichever are fewer."""
    counts_training: bool
    """Whether the units have a training error; grids of older versions have none."""

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
        """Mean area of the usable ones among some cells, (layer, token), and its units."""
        chosen = cells & self.usable
        if not chosen.any():
            return np.nan, np.zeros(self.units.shape[-1])
        return self.value[chosen].mean(), self.units[chosen].mean(0)

    def slope(self, cells):
        """Least-squares slope over the depth of the layers' means over some cells."""
        chosen = cells & self.usable
        rows = np.flatnonzero(chosen.any(1))
        if len(rows) < 2:
            return np.nan, np.zeros(self.units.shape[-1])
        depth = self.layers[rows] / self.n_layers
        weight = (depth - depth.mean()) / ((depth - depth.mean()) ** 2).sum()
        value, units = self.means(self.by_layer(chosen, rows))
        return weight @ value, weight @ units

    def by_layer(self, cells, rows):
        """The cells of each of some rows."""
        return [cells & (np.arange(len(cells)) == row)[:, None] for row in rows]

    def means(self, sets):
        """Mean area of each of several sets of cells: (set,) and (set, unit)."""
        value, units = zip(*(self.mean(cells) for cells in sets), strict=True)
        return np.array(value), np.array(units)

    def intervals(self, family=None):
        """95 % intervals of the cells, the chart's; or as wide as a `largest_error` asks."""
        error = self.error
        if family is not None:
            few = np.maximum(np.minimum(self.n_units, self.rarer), 2)
            error = error * family * widened(few) / critical(n_units=self.n_units)
        return interval(self.value, error, n_units=self.n_units, n_pairs=self.n_pairs)

    def interval(self, value, units, family=None):
        """95 % intervals of means of areas, or as wide as a family's `largest_error` asks."""
        error = standard_error(units) * self.reach(family) / critical()
        n_pairs = self.n_pairs.astype(float)[self.usable].min(initial=np.inf)
        return interval(value, error, n_pairs=n_pairs)

    def half_width(self, units, family=None):
        """Half the width of a symmetric interval, for differences of areas: (...)."""
        # Of two equal cells the difference has no error, and is 0 but for rounding.
        return np.maximum(self.reach(family) * standard_error(units), _ROUNDING)

    def reach(self, family=None):
        """Half the width of an interval, in standard errors over so few groups."""
        n_units = self.n_units.astype(float)[self.usable].max(initial=2)
        if family is None:
            return float(critical(n_units=n_units))
        rarest = self.rarer.astype(float)[self.usable].min(initial=np.inf)
        return family * float(widened(max(2, min(n_units, rarest))))

    def argmax_shares(self, value, units):
        """How often each of several areas is the highest when the examples are drawn anew."""
        # As uncertain as their intervals are wide.
        return argmax_shares(value, units * self.reach() / critical())

    def compact(self):
        """The same with no more units than cells: only their inner products matter."""
        cells = self.units.reshape(-1, self.units.shape[-1])
        if cells.shape[1] <= len(cells):
            return self
        size, direction = np.linalg.eigh(cells.astype(float) @ cells.T.astype(float))
        units = direction * np.sqrt(np.maximum(size, 0))
        return replace(self, units=units.reshape(*self.value.shape, -1).astype(np.float32))


def areas(grid, tokens=FIGURE_TOKENS, groups=None, only=None):
    """Areas of a grid's cells, with the units of their errors.

    `groups` (example,) are answers that belong together, by default those that the split keeps
    together; `only` (example,) are the answers to measure on, by default all.
    """
    arguments.grid(grid, ("score", "correct", "n_examples"))
    grid = _of_tokens(grid, tokens).sortby("layer")
    wrong = ~grid["correct"].to_numpy().astype(bool)
    if groups is None:
        groups = example_groups(grid, grid.attrs.get("split", "random"))
    counts_training = grid.sizes.get("other", 0) > 0 or grid.attrs.get("protocol") == "published"
    rows = []
    for i in range(grid.sizes["layer"]):  # of all layers at once, the scores would be large
        (scores,) = out_of_fold(grid.isel(layer=[i]))  # (token, variant, example)
        if only is not None:
            scores = np.where(only, scores, np.nan)
        value, units, n_units = measured(scores, wrong, groups)
        present = ~np.isnan(scores[:, 0])
        rarer = np.minimum((present & wrong).sum(-1), (present & ~wrong).sum(-1))
        n_pairs = independent_pairs(present, wrong, groups)
        enough = rarer >= MIN_PER_CLASS
        value, units = np.where(enough, value, np.nan), np.where(enough[:, None], units, 0)
        error = standard_error(units)
        rows.append((value, error, units.astype(np.float32), n_units, n_pairs, rarer))
    value, error, units, n_units, n_pairs, rarer = map(np.array, zip(*rows, strict=True))
    if not counts_training and "training_error" in grid:
        error = np.hypot(error, grid["training_error"].transpose("layer", "token").to_numpy())
    layers = grid["layer"].to_numpy()
    return Areas(
        layers=layers,
        n_layers=int(grid.attrs.get("n_layers", layers.max() + 1)),
        tokens=tuple(str(token) for token in grid["token"].to_numpy()),
        value=value,
        error=error,
        units=units,
        n_units=n_units,
        n_pairs=n_pairs,
        rarer=rarer,
        counts_training=counts_training,
    )


def _of_tokens(grid, tokens):
    """The grid at those of some tokens that it has, in their order."""
    there = [str(token) for token in grid["token"].to_numpy()]
    drawn = [there.index(token) for token in tokens if token in there]
    if not drawn:
        raise ValueError(
            f"The grid has none of the tokens asked for; it has {arguments.listed(there)}."
        )
    return grid.isel(token=drawn)


@dataclass(frozen=True)
class Shared:
    """The answers that tokens are compared on: those that have all of them.

    A long response has tokens that a short one lacks, and which of the two it is may go with
    errors. So two tokens' areas compare only on the same answers.
    """

    answers: np.ndarray
    """(example,)"""
    n: int
    n_any: int
    """Answers that have any of the tokens."""
    n_rarest: int
    """Answers that have the rarest of the tokens compared."""
    tokens: tuple
    """The tokens compared."""
    left_out: tuple
    """Tokens that are not compared, as too few answers would have all."""


def shared_answers(grid, tokens=FIGURE_TOKENS):
    """The answers to compare tokens on; leaves rare tokens out until there are enough."""
    grid = _of_tokens(grid, tokens)
    names = np.array([str(token) for token in grid["token"].to_numpy()])
    wrong = ~grid["correct"].to_numpy().astype(bool)
    scored = grid["score"].transpose("token", "layer", "example").notnull().to_numpy()
    fitted = scored.any(-1, keepdims=True)
    has = (scored | ~fitted).all(1) & fitted.any(1)  # (token, example)

    def enough(answers):
        return min((answers & wrong).sum(), (answers & ~wrong).sum()) >= MIN_PER_CLASS

    # A token that has too few answers by itself has no area, so there is nothing to compare.
    kept = [i for i in range(len(names)) if enough(has[i])]
    left_out = []
    while kept and not enough(has[kept].all(0)):
        rarest = min(kept, key=lambda i: has[i].sum())
        kept.remove(rarest)
        left_out.append(str(names[rarest]))
    answers = has[kept].all(0) if kept else np.zeros(len(wrong), bool)
    return Shared(
        answers=answers,
        n=int(answers.sum()),
        n_any=int(scored.any((0, 1)).sum()),
        n_rarest=int(has[kept].sum(1).min(initial=len(wrong))),
        tokens=tuple(names[kept].tolist()),
        left_out=tuple(left_out),
    )


def with_training_apart(one, other, n):
    """Areas of two grids of the same answers, whose probes were trained on different folds.

    The first `n` units of each are the answers, or groups of them, and are paired; the training
    errors are taken as independent.
    """
    pairs = ((one, other, False), (other, one, True))
    for each, another, last in pairs:
        training, gap = each.units[..., n:], np.zeros_like(another.units[..., n:])
        parts = [each.units[..., :n], *((gap, training) if last else (training, gap))]
        yield replace(each, units=np.concatenate(parts, -1))


def argmax_shares(value, influence, draws=1000, seed=0):
    """How often each of several areas is the highest when the examples are drawn anew."""
    weights = np.random.default_rng(seed).standard_normal((influence.shape[-1], draws))
    drawn = (influence.astype(np.float32) @ weights.astype(np.float32)) + value[..., None]
    best = np.where(np.isnan(drawn), -np.inf, drawn).argmax(-2)
    shares = (best[..., None, :] == np.arange(value.shape[-1])[:, None]).mean(-1)
    return np.where(np.isnan(value), 0, shares)
