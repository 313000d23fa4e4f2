"""How much higher one grid's AUROCs are than another's, cell by cell."""

import numpy as np
import pandas as pd
import xarray as xr

from probekit import arguments
from probekit.probing.auroc import (
    critical,
    independent_pairs,
    interval,
    measured,
    out_of_fold,
    standard_error,
)
from probekit.probing.folds import example_groups, joined_groups
from probekit.probing.simultaneous import largest_error, widened
from probekit.run.variables import described

# In what two grids may differ, as their attributes have it.
_ABOUT = ("model", "revision", "questions", "site", "split", "protocol", "folds", "method", "C")
_ABOUT += ("standardize", "seed")


def difference(grid_a, grid_b):
    """How much higher each cell's AUROC is in one grid than in another.

    Two cases, told apart by the examples' `id` (and `question`, where both grids have it). Grids
    that share answers, or answers to the same questions, are compared on those they share, which
    is paired: their errors are subtracted before they are squared (DeLong et al., Biometrics
    1988). So sites, splits, penalties and models on one question file are compared. Grids that
    share none are unpaired: their errors are taken for independent.

    Parameters
    ----------
    grid_a, grid_b : Dataset
        From `probe_grid` or `Run.grid`.

    Returns
    -------
    Dataset
        Over the (layer, token) that both have: `difference`, the AUROC of `grid_a` less that of
        `grid_b`, with its 95 % interval `difference_low` and `difference_high`, and those that
        hold for all cells at once, `difference_low_simultaneous` and
        `difference_high_simultaneous`. `auroc_a` and `auroc_b`, of which it is the difference, and
        `n_a` and `n_b`, the answers that these are measured on: if paired, those that have the
        token in both.

        The attribute `comparison` is "paired" or "unpaired", and `description` says it in words;
        `a` and `b` say in what the grids differ; `n_shared`, `n_only_a` and `n_only_b` count
        examples. `gain` draws it.

    Raises
    ------
    TypeError
        If they are no grids.
    ValueError
        If a grid lacks what is needed, its ids are not unique, or they share no layer or token.

    Notes
    -----
    A layer's number says the same of two models only if they are built alike.

    What of an area's error comes from which answers the probes were trained on (see `probe_grid`)
    is paired too where both grids have the same folds. Where they differ, as between two splits,
    it is taken for independent. An area of exactly 0 or 1 shows no error; what it can hide is
    added.

    Examples
    --------
    How much of the AUROC goes when answers are held out:

    >>> import probekit as pk
    >>> run = pk.Run("data/examples/cities")
    >>> found = pk.difference(run.grid("answer"), run.grid("random"))
    >>> found.attrs["comparison"]
    'paired'
    >>> found["difference"].to_pandas().round(2)
    token  last_q  exact_answer_first    -1
    layer
    6        0.06               -0.21 -0.08
    15      -0.01               -0.19 -0.06
    24      -0.03               -0.11 -0.15
    """
    grids = [_checked(grid, name) for grid, name in ((grid_a, "grid_a"), (grid_b, "grid_b"))]
    layers, tokens = (_common(grids, dim) for dim in ("layer", "token"))
    sizes = [grid.sizes["example"] for grid in grids]
    at = _shared(grids)
    paired = bool(len(at[0]))
    if paired:
        grids = [grid.isel(example=places) for grid, places in zip(grids, at, strict=True)]
    wrong = [~grid["correct"].to_numpy().astype(bool) for grid in grids]
    groups = [example_groups(grid, grid.attrs["split"]) for grid in grids]
    if paired:
        groups = [joined_groups(*groups)] * 2
    same_folds = paired and np.array_equal(*(grid["fold"] for grid in grids))
    rows = []
    for layer in layers:  # of all at once, the scores would be large
        scores = [out_of_fold(grid.sel(layer=[layer]), tokens)[0] for grid in grids]
        if paired:
            both = ~np.isnan(scores[0][:, :1]) & ~np.isnan(scores[1][:, :1])
            scores = [np.where(both, each, np.nan) for each in scores]
        sides = [_side(*each) for each in zip(scores, wrong, groups, strict=True)]
        units = _subtracted(*(side.pop("parts") for side in sides), paired, same_folds)
        rows.append((units, *sides))
    units = np.array([row[0] for row in rows])
    a, b = ({n: np.array([row[i][n] for row in rows]) for n in rows[0][i]} for i in (1, 2))
    value = a["area"] - b["area"]
    error = standard_error(units)
    n_units = np.minimum(a["n_units"], b["n_units"])
    there = ~np.isnan(value)
    family = largest_error(units[there], 0.05)
    family *= widened(max(2.0, n_units[there].astype(float).min(initial=np.inf)))
    cell = ("layer", "token")
    ends = {}
    for suffix, reach, level in (
        ("", critical(n_units=n_units), 0.95),
        ("_simultaneous", family, 1 - 0.05 / max(1, there.sum())),
    ):
        hidden = [_hidden(side, level) for side in (a, b)]
        below = np.sqrt((reach * error) ** 2 + hidden[0][0] ** 2 + hidden[1][1] ** 2)
        above = np.sqrt((reach * error) ** 2 + hidden[0][1] ** 2 + hidden[1][0] ** 2)
        ends["difference_low" + suffix] = (cell, np.maximum(value - below, -1))
        ends["difference_high" + suffix] = (cell, np.minimum(value + above, 1))
    names = _names(grid_a, grid_b)
    n_shared = len(at[0])
    found = xr.Dataset(
        {
            "difference": (cell, value),
            **ends,
            "auroc_a": (cell, a["area"]),
            "auroc_b": (cell, b["area"]),
            "n_a": (cell, a["n"]),
            "n_b": (cell, b["n"]),
        },
        coords={"layer": layers, "token": tokens},
        attrs={
            "comparison": "paired" if paired else "unpaired",
            "description": _in_words(names, n_shared, sizes),
            "a": names[0],
            "b": names[1],
            "n_shared": n_shared,
            "n_only_a": sizes[0] - n_shared,
            "n_only_b": sizes[1] - n_shared,
        },
    )
    return described(found)


def _checked(grid, name):
    arguments.grid(grid, ("score", "correct", "fold", "id"), ("split",), name)
    twice = pd.Index(grid["id"].to_numpy().astype(str))
    if twice.has_duplicates:
        again = arguments.shown(twice[twice.duplicated()][0])
        raise ValueError(f"{name} has the id {again} more than once; ids must be unique.")
    return grid


def _common(grids, dim):
    """Labels that both have, in the order of the first."""
    have = [grid[dim].to_numpy().tolist() for grid in grids]
    common = [label for label in have[0] if label in have[1]]
    if not common:
        raise ValueError(
            f"The grids have no {dim} in common: one has {arguments.listed(have[0])}, the other "
            f"{arguments.listed(have[1])}."
        )
    return common


def _shared(grids):
    """Places in each grid of the examples that both have, in the order of the first."""
    names = ["id"]
    if all("question" in grid.coords for grid in grids):
        names.append("question")  # two files may have given the same ids to different questions
    keys = [
        pd.MultiIndex.from_arrays([grid[name].to_numpy().astype(str) for name in names])
        for grid in grids
    ]
    place = keys[1].get_indexer(keys[0])
    return np.flatnonzero(place >= 0), place[place >= 0]


def _side(scores, wrong, groups):
    """What is to be known of one grid's cells: `scores` (cell, variant, example)."""
    area, units, n_units = measured(scores, wrong, groups)
    there = ~np.isnan(scores[:, 0])
    return {
        "area": area,
        "parts": units.reshape(*scores.shape[:2], -1),  # (cell, variant, unit)
        "n_units": n_units,
        "n": there.sum(-1),
        "n_pairs": independent_pairs(there, wrong, groups),
    }


def _subtracted(a, b, paired, same_folds):
    """Units of the difference, (cell, unit), from the two areas' `(cell, variant, unit)`."""
    if same_folds and a.shape == b.shape:
        parts = [a - b]
    elif paired:
        parts = [a[:, 0] - b[:, 0], a[:, 1:], b[:, 1:]]
    else:
        parts = [a, b]
    return np.concatenate([part.reshape(len(a), -1) for part in parts], 1)


def _hidden(side, level):
    """How far below and above it the area may be where all pairs are in order, or none is."""
    at_end = (side["area"] <= 1e-9) | (side["area"] >= 1 - 1e-9)
    low, high = interval(side["area"], 0.0, level, n_pairs=side["n_pairs"])
    return [np.where(at_end, reach, 0.0) for reach in (side["area"] - low, high - side["area"])]


def _names(*grids):
    """What each grid is that the other is not."""
    about = [[grid.attrs.get(name) for name in _ABOUT] for grid in grids]
    differ = [not np.array_equal(*pair) for pair in zip(*about, strict=True)]
    return [
        ", ".join(
            f"{name} {value}"
            for name, value, differs in zip(_ABOUT, values, differ, strict=True)
            if differs and value is not None
        )
        or f"the {which} grid"
        for values, which in zip(about, ("first", "second"), strict=True)
    ]


def _in_words(names, n_shared, sizes):
    text = f"AUROC of {names[0]} less that of {names[1]}"
    if not n_shared:
        return f"{text}, unpaired: of {sizes[0]} and {sizes[1]} answers to different questions."
    left_out = sum(sizes) - 2 * n_shared
    rest = f"; {left_out} answers that only one has are left out" if left_out else ""
    return f"{text}, paired: on the {n_shared} answers that both have{rest}."
