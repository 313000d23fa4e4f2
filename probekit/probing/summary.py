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
        The tokens to look at.

    Returns
    -------
    Findings

    Raises
    ------
    TypeError
        If it is no grid.
    ValueError
        If it lacks what a grid has, a token is unknown, or no cell has an area.

    Examples
    --------
    >>> import probekit as pk
    >>> found = pk.findings(pk.Run("data/example").grid())
    >>> print(found.sentences[0])
    The best cell is layer 17, token exact_answer_first: AUROC 0.86 [0.82, 0.88]
    over 965 answers. Chosen and measured on different answers, the best cell
    reaches 0.84 [0.81, 0.87]. 231 answers have no exact answer, all graded wrong,
    32 % of all errors; they are not in the figure.
    >>> found.tokens.head(3).round(2)
                   layer  auroc  auroc_low  auroc_high  n_examples
    token
    last_q            17   0.79       0.76        0.82         965
    first_answer      13   0.78       0.74        0.81         965
    second_answer     17   0.78       0.74        0.81         965
    """
    variables = ["auroc", "auroc_low", "auroc_high", "n_examples"]
    arguments.grid(grid, variables)
    have = [str(token) for token in grid["token"].to_numpy()]
    drawn = [t for t in arguments.labels("token", tokens, have, also=TOKENS) if t in have]
    cells = grid[variables].assign_coords(token=have).sel(token=drawn)
    table = cells.to_dataframe().dropna(subset="auroc").reset_index()
    if table.empty:
        raise ValueError(
            "The grid has no cell with an AUROC: in none do enough wrong and enough right answers "
            "have the token, for the probes to be trained without each fold."
        )
    peak = table.loc[table["auroc"].idxmax()]
    by_token = table.loc[table.groupby("token")["auroc"].idxmax()].set_index("token")
    by_token = by_token.reindex([token for token in drawn if token in by_token.index])
    groups = table.groupby("layer")["auroc"]
    best = table.loc[groups.idxmax()].set_index("layer")
    by_layer = pd.DataFrame(
        {"mean_auroc": groups.mean(), "best_token": best["token"], "best_auroc": best["auroc"]}
    )
    first = (
        f"The best cell is layer {peak.layer}, token {peak.token}: AUROC {_area(peak)} over "
        f"{peak.n_examples} answers."
    )
    if np.isfinite(grid.attrs.get("best_auroc", np.nan)):
        low, high = grid.attrs["best_auroc_low"], grid.attrs["best_auroc_high"]
        first += (
            " Chosen and measured on different answers, the best cell reaches "
            f"{grid.attrs['best_auroc']:.2f} [{low:.2f}, {high:.2f}]."
        )
    if "correct" in grid.coords:
        first += left_out_in_words(grid)
    below = int((table["auroc_high"] < 0.5).sum())
    if below:
        first += (
            f" Warning: {below} of {len(table)} cells are below chance, their whole interval "
            "under 0.5."
        )
    sentences = [first]
    sentences += [
        f"{token} peaks at layer {int(row.layer)} with {_area(row)}."
        for token, row in by_token.iterrows()
    ]
    sentences += [
        f"Layer {row.Index} has a mean AUROC of {row.mean_auroc:.2f} over the tokens; its best is "
        f"{row.best_token} with {row.best_auroc:.2f}."
        for row in by_layer.itertuples()
    ]
    return Findings(peak, by_token, by_layer, sentences)


def left_out_in_words(grid):
    """A sentence, after a space, on the answers that the grid leaves out, if there are any."""
    n, wrong = grid.attrs.get("n_left_out", 0), grid.attrs.get("n_left_out_errors", 0)
    if not n:
        return ""
    errors = int((~grid["correct"].to_numpy().astype(bool)).sum()) + wrong
    graded = {0: "none of them wrong", n: "all graded wrong"}.get(wrong, f"{wrong} graded wrong")
    share = f", {100 * wrong / errors:.0f} % of all errors" if wrong else ""
    have = "answer has" if n == 1 else "answers have"
    return f" {n} {have} no exact answer, {graded}{share}; they are not in the figure."


def _area(cell):
    return f"{cell.auroc:.2f} [{cell.auroc_low:.2f}, {cell.auroc_high:.2f}]"
