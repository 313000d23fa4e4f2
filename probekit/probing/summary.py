"""Where a grid is high and where it is low, in tables. `describe` says what follows from it."""

import html
from dataclasses import dataclass

import numpy as np
import pandas as pd

from probekit import arguments
from probekit.tokens import FIGURE_TOKENS, TOKENS


@dataclass(frozen=True)
class Findings:
    """Where a grid is high and where it is low."""

    peak: pd.Series
    """The best cell: layer, token, auroc with interval, n_examples."""
    tokens: pd.DataFrame
    """Per token the layer where it peaks, and the area there."""
    layers: pd.DataFrame
    """Per layer the mean area over the tokens, and its best token."""
    sentences: list
    """The same in words."""

    @property
    def summary(self):
        """The best cell in a line."""
        return self.sentences[0]

    @property
    def markdown(self):
        """All sentences as a list."""
        return "".join(f"- {html.escape(each, quote=False)}\n" for each in self.sentences)

    def _repr_markdown_(self):
        return self.markdown


def findings(grid, tokens=FIGURE_TOKENS):
    """Find the best cell, each token's best layer and each layer's mean.

    Parameters
    ----------
    grid : Dataset
        From `probe_grid`.
    tokens : sequence of str
        Those that are looked at: by default the figure's.

    Returns
    -------
    Findings

    Raises
    ------
    TypeError
        If it is no grid.
    ValueError
        If it lacks what a grid has, a token is unknown, or no cell has an area.
    """
    arguments.grid(grid, ("auroc", "auroc_low", "auroc_high", "n_examples"))
    grid = grid.assign_coords(token=[str(token) for token in grid["token"].to_numpy()])
    have = grid["token"].to_numpy().tolist()
    drawn = [
        token for token in arguments.labels("token", tokens, have, also=TOKENS) if token in have
    ]
    cells = grid[["auroc", "auroc_low", "auroc_high", "n_examples"]].sel(token=drawn)
    table = cells.to_dataframe().reset_index()
    table = table[table["auroc"].notna()]
    if table.empty:
        raise ValueError("The grid has no cell with an AUROC: too few examples have its tokens.")
    peak = table.loc[table["auroc"].idxmax()]
    by_token = table.loc[table.groupby("token")["auroc"].idxmax()].set_index("token")
    by_token = by_token.reindex([t for t in drawn if t in by_token.index])
    groups = table.groupby("layer")["auroc"]
    best = table.loc[groups.idxmax()].set_index("layer")
    by_layer = pd.DataFrame(
        {"mean_auroc": groups.mean(), "best_token": best["token"], "best_auroc": best["auroc"]}
    )
    return Findings(peak, by_token, by_layer, _sentences(grid, peak, by_token, by_layer))


def _sentences(grid, peak, by_token, by_layer):
    best = (
        f"The best cell is layer {peak.layer}, token {peak.token}: AUROC {_area(peak)} over "
        f"{peak.n_examples} answers."
    )
    honest = grid.attrs.get("best_auroc")
    if honest is not None and np.isfinite(honest):
        low, high = grid.attrs["best_auroc_low"], grid.attrs["best_auroc_high"]
        best += (
            f" Chosen and measured on different answers, the best cell reaches {honest:.2f} "
            f"[{low:.2f}, {high:.2f}]."
        )
    peaks = [
        f"{token} peaks at layer {int(row.layer)} with {_area(row)}."
        for token, row in by_token.iterrows()
    ]
    means = [
        f"Layer {row.Index} has a mean AUROC of {row.mean_auroc:.2f} over the tokens; its best is "
        f"{row.best_token} with {row.best_auroc:.2f}."
        for row in by_layer.itertuples()
    ]
    return [best, *peaks, *means]


def _area(cell):
    return f"{cell.auroc:.2f} [{cell.auroc_low:.2f}, {cell.auroc_high:.2f}]"
