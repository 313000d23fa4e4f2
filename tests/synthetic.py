"""Grids with known areas: scores of normal distributions, with no probe fitted."""

import numpy as np
import xarray as xr
from scipy.stats import norm

from probekit.probing.auroc import auroc_influence, interval, standard_error
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
        answer = np.arange(n)
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
    low, high = interval(area, standard_error(influence, None if groups is None else answer))
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
