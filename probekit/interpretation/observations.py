"""Observations on a grid: each a statement with its uncertainty and the rule by which it is made.

A kind of statement is a family of comparisons, and is made only for those of the family that hold
with all of it taken together. So none says of noise that one cell differs from another, but for the
share of cases that `View.alpha` gives to each kind.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr

from probekit.interpretation.contrasts import (
    BANDS,
    Areas,
    argmax_shares,
    largest_error,
    pair_errors,
)
from probekit.interpretation.wording import (
    area,
    by_how_much,
    change,
    code,
    count,
    layers,
    listing,
    percent,
    spans,
)
from probekit.tokens import TOKENS

#: The groups of tokens that a description speaks of, by name.
GROUPS = {
    "last_q": TOKENS[:1],
    "the answer's first two tokens": TOKENS[1:3],
    "the exact answer's tokens": TOKENS[3:6],
    "the tokens from the end": TOKENS[-8:],
}

ANSWER_TOKENS = TOKENS[1:6]

#: Chance that a description of pure noise states any cell to be above chance.
CHANCE_ALPHA = 0.05


def group_name(name):
    """A group's name as it is written in a sentence."""
    return code(name) if name in TOKENS else name


@dataclass(frozen=True)
class View:
    """A grid's areas, divided as a description speaks of them."""

    grid: xr.Dataset
    areas: Areas
    alpha: float
    """Share of the error rate that each kind of statement has."""

    @cached_property
    def bands(self):
        """Per band of layers that has any: its label in the reference, and its cells."""
        found = {label: self.areas.at(depth) for label, depth in BANDS.items()}
        return {label: cells for label, cells in found.items() if (cells & self.usable).any()}

    @cached_property
    def groups(self):
        """Per group of tokens that has any: its cells."""
        found = {name: self.areas.at(tokens=tokens) for name, tokens in GROUPS.items()}
        return {name: cells for name, cells in found.items() if (cells & self.usable).any()}

    @property
    def usable(self):
        """Cells with an area, (layer, token)."""
        return self.areas.usable

    @cached_property
    def complete(self):
        """Cells of the tokens that have an area in every layer, (layer, token)."""
        return np.broadcast_to(self.usable.all(0), self.usable.shape)

    @cached_property
    def listed(self):
        """Layer, token, value and influence of every usable cell."""
        row, column = np.nonzero(self.usable)
        return row, column, self.areas.value[row, column], self.areas.influence[row, column]

    def of_tokens(self, name):
        """A variable of the grid at the tokens that are described, (layer, token)."""
        tokens = [str(token) for token in self.grid["token"].to_numpy()]
        columns = [tokens.index(token) for token in self.areas.tokens]
        return self.grid[name].transpose("layer", "token").to_numpy()[:, columns]

    def complete_layer(self, row):
        """Cells of one layer, of tokens that have an area in every layer."""
        return self.complete & (np.arange(len(self.usable)) == row)[:, None]

    def layers_of(self, cells):
        """The layers of some cells, in words."""
        return layers(self.areas.layers[cells.any(1)])

    def place(self, row, column):
        """A cell, in words."""
        return f"layer {self.areas.layers[row]}, {code(self.areas.tokens[column])}"

    def area(self, value, influence):
        """An area or a mean of areas with its 95 % interval, in words."""
        return area(value, *self.areas.interval(value, influence))


@dataclass(frozen=True)
class Best:
    """The highest of several areas, and those that can't be told from it."""

    index: int
    lower: np.ndarray
    """Which of them are lower."""
    difference: np.ndarray
    """Highest minus each."""
    half_width: np.ndarray
    """Of the interval of each difference, that cover at once."""

    @property
    def equal(self):
        """Numbers of those that can't be told from it, without itself."""
        others = np.flatnonzero(~self.lower)
        return others[others != self.index]


def best_of(value, influence, critical, lowest=False):
    """The highest of some areas (or the lowest), against each of the others."""
    signed = -value if lowest else value
    index = int(signed.argmax())
    difference = signed[index] - signed
    half_width = critical * pair_errors(influence, index)
    return Best(index, difference > np.maximum(half_width, 1e-9), difference, half_width)


def above_chance(view, alpha):
    """How many cells are better than chance, with a chance of `alpha` to say so of noise.

    By the grid's permutations if it has a corrected p, else by intervals of all cells at once.
    """
    row, column, value, influence = view.listed
    n_permutations = view.grid.sizes.get("permutation", 0)
    if "p_corrected" in view.grid and (1 + n_permutations) * alpha > 1 - 1e-9:
        p = view.of_tokens("p_corrected")
        above = (p[row, column] <= alpha).sum()
        rule = f"p of at most {alpha:.2f} over the grid, from {n_permutations} permuted grids"
    else:
        low, _ = view.areas.interval(value, influence, largest_error(influence, alpha))
        above = (low > 0.5).sum()
        rule = f"{percent(1 - alpha)} intervals of all cells at once"
    text = f"In {above or 'none'} of the {count(len(row), 'cell')} the AUROC is above chance."
    return int(above), f"{text} *Rule: {rule}.*"


def peak(view):
    """Where the grid's highest cell is, and which cells can't be told from it."""
    row, column, value, influence = view.listed
    best = best_of(value, influence, largest_error([influence], view.alpha, pairs=True))
    i = best.index
    if len(row) == 1:
        only = f"{view.place(row[i], column[i])}: {view.area(value[i], influence[i])}"
        return False, f"**Peak.** The only cell is {only}. There is none to compare it with."
    text = (
        f"**Peak.** The highest cell is {view.place(row[i], column[i])}: "
        f"{view.area(value[i], influence[i])}. As the highest of {len(row)} it is likely to be "
        "too high by chance"
    )
    honest = [view.grid.attrs.get(f"best_auroc{end}", np.nan) for end in ("", "_low", "_high")]
    if np.isfinite(honest).all():
        text += f"; chosen and measured on different answers, the best cell has {area(*honest)}"
    equal = best.equal
    if not best.lower.any():
        text += ". No other cell can be told from it, so the grid shows no peak."
    elif not len(equal):
        text += ". All other cells are lower."
    else:
        where = listing(dict.fromkeys(code(view.areas.tokens[c]) for c in np.sort(column[equal])))
        text += (
            f". {best.lower.sum()} of the other {len(row) - 1} cells are lower; {len(equal)} "
            f"can't be told from it, in {layers(set(view.areas.layers[row[equal]]))} at {where}."
        )
    return best.lower.any(), text + " *Rule: differences to the highest cell, over all pairs.*"


def token_peaks(view):
    """At which layer each token is highest, and how sure that is: a statement and a table."""
    areas = view.areas
    columns = [c for c in range(len(areas.tokens)) if view.usable[:, c].sum() > 1]
    if not columns:
        return False, "**Layer of each token's peak.** No token has an AUROC in two layers.", ""
    rows = [np.flatnonzero(view.usable[:, c]) for c in columns]
    blocks = [areas.influence[r, c] for r, c in zip(rows, columns, strict=True)]
    critical = largest_error(blocks, view.alpha, pairs=True)
    table, located = [], []
    for r, c, influence in zip(rows, columns, blocks, strict=True):
        value = areas.value[r, c]
        best = best_of(value, influence, critical)
        shares = argmax_shares(value, influence)
        low, high = _middle(shares)
        if best.lower.any():
            located.append(code(areas.tokens[c]))
        equal = areas.layers[r[best.equal]]
        same = "none" if not len(equal) else spans(equal) if best.lower.any() else "all"
        fields = [
            code(areas.tokens[c]),
            areas.layers[r[best.index]],
            view.area(value[best.index], influence[best.index]),
            percent(shares[best.index]),
            spans(range(areas.layers[r[low]], areas.layers[r[high]] + 1)),
            same,
        ]
        table.append(f"| {' | '.join(map(str, fields))} |")
    if located:
        text = f"A layer lower than the highest can be named for {listing(located)}" + (
            "." if len(located) == len(columns) else "; for the others, no peak can be told."
        )
    else:
        text = "For no token can any layer be told from its highest, so no peak can be told."
    header = (
        "| Token | Highest in layer | AUROC there | Share of resamples | 95 % of resamples | "
        "Layers that can't be told from it |\n| --- | --- | --- | --- | --- | --- |\n"
    )
    return (
        bool(located),
        (
            f"**Layer of each token's peak.** {text} *Rule: differences to the token's highest "
            "layer, over all pairs of layers of all tokens.*"
        ),
        header + "\n".join(table),
    )


def _middle(shares):
    """First and last candidate of the middle 95 % of the resamples."""
    reached = np.cumsum(shares)
    return int((reached > 0.025).argmax()), int((reached >= 0.975 - 1e-9).argmax())


def from_the_end(view):
    """Whether the tokens counted from the end rise with depth, and up to where."""
    title = "**Tokens from the end.** "
    cells = view.areas.at(tokens=GROUPS["the tokens from the end"]) & view.complete
    bands = [band for band in view.bands.values() if (band & cells).any()]
    if len(bands) < 2:
        return False, title + "Not in the grid in two bands of layers, so no trend can be told."
    value, influence = view.areas.means([band & cells for band in bands])
    best = best_of(value, influence, largest_error([influence], view.alpha, pairs=True))
    slope, slope_influence = view.areas.slope(cells)
    trend = (
        " Over the whole depth their slope is "
        f"{change(slope, view.areas.half_width(slope_influence))}."
    )
    h, where = best.index, [view.layers_of(band) for band in bands]
    mean = [view.area(v, each) for v, each in zip(value, influence, strict=True)]
    before, after = (np.flatnonzero(best.lower & side) for side in _sides(len(bands), h))
    if len(before):
        first = before[value[before].argmin()]
        text = (
            f"Their mean rises with depth, from {mean[first]} in {where[first]} to {mean[h]} in "
            f"{where[h]}, by {by_how_much(best.difference[first], best.half_width[first])}."
        )
    elif len(after):
        text = f"Their mean does not rise: it is highest in {where[h]}, {mean[h]}."
    else:
        text = (
            f"No change with depth can be told. Their mean is highest in {where[h]}, {mean[h]}, "
            "and no band of layers can be told from that."
        )
    if len(before) or len(after):
        if len(best.equal):
            same = listing(where[i] for i in best.equal)
            text += f" The top can't be told from {same}."
        if len(after):
            last = after[value[after].argmin()]
            size = by_how_much(best.difference[last], best.half_width[last])
            text += f" After it the mean falls to {mean[last]} in {where[last]}, by {size}."
    rule = " *Rule: differences between bands of layers, over all pairs.*"
    return bool(len(before) or len(after)), title + text + trend + rule


def _sides(n, index):
    return np.arange(n) < index, np.arange(n) > index


def lowest_layer(view):
    """Which layer is lowest over all tokens."""
    title = "**Lowest layer.** "
    rows = np.flatnonzero(view.complete.any(1))
    if len(rows) < 2:
        return False, title + "No token has an AUROC in every one of two layers or more."
    value, influence = view.areas.means([view.complete_layer(r) for r in rows])
    critical = largest_error([influence], view.alpha, pairs=True)
    best = best_of(value, influence, critical, lowest=True)
    names = view.areas.layers
    share = argmax_shares(-value, -influence)[best.index]
    lowest = f"Layer {names[best.index]} has the lowest mean over the tokens"
    mean = view.area(value[best.index], influence[best.index])
    if not best.lower.any():
        text = (
            f"Which layer is lowest can't be told: {lowest[0].lower()}{lowest[1:]}, {mean}, in "
            f"{percent(share)} of resamples, and no layer can be told from it."
        )
    else:
        higher = layers(names[best.lower])
        text = f"{lowest}, {mean}, in {percent(share)} of resamples. Higher: {higher}."
        if len(best.equal):
            text += f" Can't be told from it: {layers(names[best.equal])}."
        last = len(rows) - 1
        if best.lower[last]:
            size = by_how_much(best.difference[last], best.half_width[last])
            text += f" The last layer, {names[last]}, is higher by {size}."
    rule = " *Rule: differences to the lowest layer's mean, over all pairs of layers.*"
    return bool(best.lower.any()), title + text + rule


def last_q(view):
    """Whether last_q is below the answer's tokens, in how many layers, and by how much."""
    title = "**`last_q` and the answer.** "
    answer = view.areas.at(tokens=ANSWER_TOKENS) & view.usable
    question = view.areas.at(tokens=["last_q"]) & view.usable
    rows = np.flatnonzero(answer.any(1) & question.any(1))
    if not len(rows):
        return False, title + "The grid lacks `last_q` or the answer's tokens."
    each = [(np.arange(len(answer)) == r)[:, None] for r in rows]
    every = np.isin(np.arange(len(answer)), rows)[:, None]
    sides = [
        view.areas.means([cells & row for row in [every, *each]]) for cells in (answer, question)
    ]
    (value, influence), (value_q, influence_q) = sides
    difference, influence = value - value_q, influence - influence_q
    half_width = largest_error(influence, view.alpha) * np.sqrt((influence**2).sum(-1))
    lower, higher = difference > half_width, difference < -half_width
    names = view.areas.layers[rows]
    mean = by_how_much(difference[0], half_width[0])
    if lower[0] or higher[0]:
        word = "below" if lower[0] else "above"
        text = f"On average over the layers `last_q` is {word} the answer's tokens by {mean}."
    else:
        text = (
            "On average over the layers `last_q` can't be told from the answer's tokens: they "
            f"differ by {change(difference[0], half_width[0])}."
        )
    found = [
        f"{word} in {which.sum()} ({spans(names[which])})"
        for word, which in (("below", lower[1:]), ("above", higher[1:]))
        if which.any()
    ]
    rest = int((~lower & ~higher)[1:].sum())
    if found:
        text += f" Of {len(rows)} layers it is {listing(found)}"
        text += f", and can't be told from them in {rest}." if rest else "."
    else:
        text += f" In none of {len(rows)} layers can it be told from them."
    rule = (
        " *Rule: differences to the mean of the answer's five tokens, in all layers and overall.*"
    )
    return bool((lower | higher).any()), title + text + rule
