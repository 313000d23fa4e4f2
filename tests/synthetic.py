"""Grids with known areas: scores of normal distributions, with no probe fitted."""

import numpy as np
import xarray as xr
from scipy.stats import norm

from probekit.probing.auroc import (
    auroc_influence,
    independent_pairs,
    interval,
    measured,
    n_clusters,
    out_of_fold,
    standard_error,
)
from probekit.probing.folds import example_groups
from probekit.tokens import FIGURE_TOKENS


def flat(area=0.5, layers=12, tokens=FIGURE_TOKENS):
    """True areas, all equal, as a DataArray over (layer, token) to be changed by name."""
    return xr.DataArray(
        np.full((layers, len(tokens)), float(area)),
        {"layer": range(layers), "token": list(tokens)},
        ("layer", "token"),
    )


def make_grid(true, n=400, seed=0, shared=0.5, error_rate=0.5, absent=None, groups=None, **attrs):
    """Grid whose cells have the areas `true` up to sampling error.

    Parameters
    ----------
    true : DataArray, dims (layer, token)
    n : int
        Examples.
    shared : float
        Correlation of the scores of any two cells.
    absent : dict of {token: share}, optional
        Share of the examples that lack a token.
    groups : int, optional
        Number of answers, which are then wrong together, and the split keeps together.
    """
    random = np.random.default_rng(seed)
    shape = (n, *true.shape)
    if groups is None:
        answer = np.arange(n) // 3
        wrong = random.random(n) < error_rate
    else:
        answer = random.integers(groups, size=n)
        wrong = (random.random(groups) < error_rate)[answer]
    noise = np.sqrt(shared) * random.standard_normal((n, 1, 1))
    noise = noise + np.sqrt(1 - shared) * random.standard_normal(shape)
    separation = np.sqrt(2) * norm.ppf(true.to_numpy())
    score = 1 / (1 + np.exp(-(wrong[:, None, None] * separation + noise)))
    for token, share in (absent or {}).items():
        column = list(true["token"].to_numpy()).index(token)
        score[random.random(n) < share, :, column] = np.nan
    area, influence = auroc_influence(np.moveaxis(score, 0, -1), wrong)
    groups = None if groups is None else answer
    low, high = interval(
        area,
        standard_error(influence, groups),
        n_units=n_clusters(influence, groups),
        n_pairs=independent_pairs(np.moveaxis(~np.isnan(score), 0, -1), wrong, groups),
    )
    cell = ("layer", "token")
    return xr.Dataset(
        {
            "auroc": (cell, area),
            "auroc_low": (cell, low),
            "auroc_high": (cell, high),
            "n_examples": (cell, (~np.isnan(score)).sum(0)),
            "score": (("example", *cell), score),
            "fold": ("example", np.arange(n) % 5),
        },
        coords=true.coords
        | {
            "id": ("example", np.array([f"q{i}" for i in range(n)], object)),
            "correct": ("example", ~wrong),
            "answer": ("example", np.array([f"answer {a}" for a in answer], object)),
        },
        attrs={
            "model": "a model",
            "site": "mlp_out",
            "split": "random" if groups is None else "answer",
            "protocol": "cross-validated",
            "folds": 5,
            "seed": 0,
            "C": 1.0,
        }
        | attrs,
    )


def long_and_short(n=600, layers=6, seed=0, share=0.4):
    """A grid of the same activation at every token, where a share of the responses is short.

    Short ones lack the tokens -8 and -7, and their errors are harder to detect.
    """
    grid = make_grid(flat(0.5, layers), n, seed)
    random = np.random.default_rng(seed)
    short = random.random(n) < share
    wrong = ~grid["correct"].to_numpy()
    log_odds = random.standard_normal(n) + wrong * np.where(short, 0.3, 2.0)
    score = np.broadcast_to((1 / (1 + np.exp(-log_odds)))[:, None, None], (n, layers, 14)).copy()
    score[short, :, 6:8] = np.nan
    return measured_anew(grid.assign(score=(("example", "layer", "token"), score)))


def with_training(grid, folds=5, size=0.5, seed=0):
    """The grid with fits that lack one more fold, whose log-odds scatter by `size`."""
    random = np.random.default_rng(seed)
    score = grid["score"].transpose("example", "layer", "token").to_numpy()
    shape = (folds - 1, *score.shape)
    without = np.log(score / (1 - score)) + size * random.standard_normal(shape)
    dimensions = ("other", "example", "layer", "token")
    return measured_anew(grid.assign(log_odds_without=(dimensions, without.astype(np.float32))))


def measured_anew(grid):
    """The grid with areas and intervals of the scores that it has, as `probe_grid` has them."""
    wrong, groups = ~grid["correct"].to_numpy(), example_groups(grid, grid.attrs["split"])
    scores = out_of_fold(grid)
    area, units, n_units = measured(scores, wrong, groups)
    present = ~np.isnan(scores[..., 0, :])
    n_pairs = independent_pairs(present, wrong, groups)
    low, high = interval(area, standard_error(units), n_units=n_units, n_pairs=n_pairs)
    cell = ("layer", "token")
    return grid.assign(
        auroc=(cell, area),
        auroc_low=(cell, low),
        auroc_high=(cell, high),
        n_examples=(cell, present.sum(-1)),
    )
