"""Observations on a grid: each a statement with its uncertainty, by a rule of its own.

Each kind of statement is a family of comparisons, and states only those that hold with the whole
family taken together. On pure noise a kind states any difference in a share `View.alpha` of cases.
Each function gives whether it states a difference, and the text.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr

from probekit.interpretation import wording
from probekit.interpretation.contrasts import (
    BANDS,
    Areas,
    Shared,
    areas,
    shared_answers,
)
from probekit.interpretation.wording import (
    by_how_much,
    change,
    code,
    listing,
    number,
    percent,
    spans,
)
from probekit.probing.simultaneous import largest_error
from probekit.tokens import FIGURE_TOKENS, TOKENS

#: The groups of tokens that a description speaks of, by name.
GROUPS = {
    "last_q": TOKENS[:1],
    "the first two tokens": TOKENS[1:3],
    "the exact answer": TOKENS[3:6],
    "the last eight tokens": TOKENS[-8:],
}

# Tokens that are named one by one; of more, only their number is said.
_NAMED = 4

# Chance that a description of pure noise states any cell to be above chance.
_CHANCE_ALPHA = 0.05


@dataclass(frozen=True)
class View:
    """A grid's areas, divided as a description speaks of them."""

    grid: xr.Dataset
    areas: Areas
    """Each cell's, on all answers that have its token: what the chart shows."""
    shared: Shared
    """The answers that tokens are compared on."""
    compared: Areas
    """Each cell's, on those answers."""
    alpha: float
    """Chance that a kind of statement states any difference of pure noise."""

    @classmethod
    def of(cls, grid, alpha, tokens=FIGURE_TOKENS):
        """A grid as a description speaks of it."""
        own, shared = areas(grid, tokens).compact(), shared_answers(grid, tokens)
        compared = own
        if shared.n < shared.n_any:
            compared = areas(grid, shared.tokens or tokens, only=shared.answers).compact()
        return cls(grid.sortby("layer"), own, shared, compared, alpha)

    @property
    def usable(self):
        """Cells to compare, (layer, token)."""
        return self.compared.usable

    @cached_property
    def bands(self):
        """Per band of layers that has any area: its label in the reference, and its cells."""
        found = {label: self.compared.at(depth) for label, depth in BANDS.items()}
        return {label: cells for label, cells in found.items() if (cells & self.usable).any()}

    @cached_property
    def groups(self):
        """Per group of tokens that has any area: its name, and its cells."""
        found = {name: self.compared.at(tokens=tokens) for name, tokens in GROUPS.items()}
        return {name: cells for name, cells in found.items() if (cells & self.usable).any()}

    @property
    def on_shared(self):
        """On which answers tokens are compared, in words, where those are not all."""
        fewer = self.shared.n < self.shared.n_any
        return f" on the {self.shared.n} answers that have all tokens" if fewer else ""

    @property
    def complete(self):
        """Cells of the tokens that have an area in every layer, (layer, token)."""
        return np.broadcast_to(self.usable.all(0), self.usable.shape)

    @cached_property
    def listed(self):
        """Layer, token, value and units of every cell to compare."""
        row, column = np.nonzero(self.usable)
        return row, column, self.compared.value[row, column], self.compared.units[row, column]

    def of_tokens(self, name):
        """A variable of the grid at the chart's cells that have an area."""
        tokens = [str(token) for token in self.grid["token"].to_numpy()]
        columns = [tokens.index(token) for token in self.areas.tokens]
        values = self.grid[name].transpose("layer", "token").to_numpy()
        return values[:, columns][self.areas.usable]

    def layers_of(self, cells):
        """The layers of some cells, in words."""
        return wording.layers(self.areas.layers[cells.any(1)])

    def area(self, value, units):
        """A mean of areas with its 95 % interval, in words."""
        return wording.area(value, *self.compared.interval(value, units))


def place(areas, row, column):
    """A cell, in words."""
    return f"layer {areas.layers[row]}, {code(areas.tokens[column])}"


def cell(areas, row, column):
    """A cell's area with its 95 % interval, in words."""
    low, high = areas.intervals()
    return wording.area(areas.value[row, column], low[row, column], high[row, column])


class _Best:
    """The highest of some areas (or the lowest), against each of the others."""

    def __init__(self, value, units, view, lowest=False, critical=None):
        if critical is None:
            critical = largest_error([units], view.alpha, pairs=True)
        signed = -value if lowest else value
        self.index = int(signed.argmax())
        self.difference = signed[self.index] - signed
        self.half_width = view.compared.half_width(units - units[self.index], critical)
        self.lower = self.difference > self.half_width
        # Numbers of those that cannot be distinguished from it.
        self.equal = np.flatnonzero(~self.lower & (np.arange(len(value)) != self.index))

    def by_how_much(self, other):
        """The difference to another, in words."""
        return by_how_much(self.difference[other], self.half_width[other])


def above_chance(view):
    """How many cells are better than chance, and by which rule, in words.

    By the grid's permutations if it has a corrected p, else by intervals of all cells at once.
    """
    usable = view.areas.usable
    n_permutations = view.grid.sizes.get("permutation", 0)
    if "p_corrected" in view.grid and (1 + n_permutations) * _CHANCE_ALPHA > 1 - 1e-9:
        above = (view.of_tokens("p_corrected") <= _CHANCE_ALPHA).sum()
        rule = f"a p of at most {_CHANCE_ALPHA} over the grid, from {n_permutations} permuted grids"
    else:
        low, _ = view.areas.intervals(largest_error(view.areas.units[usable], _CHANCE_ALPHA))
        above = (low[usable] > 0.5).sum()
        rule = f"{percent(1 - _CHANCE_ALPHA)} intervals of all cells at once"
    return int(above), rule


def peak(view):
    """Where the highest cell is, and which cannot be distinguished from it; also in a sentence."""
    areas = view.compared
    row, column, value, units = view.listed
    best = _Best(value, units, view)
    i = best.index
    highest = f"{place(areas, row[i], column[i])}: {cell(areas, row[i], column[i])}"
    if len(row) == 1:
        text = f"**Peak.** The only cell is {highest}. There is none to compare it with."
        return False, text, f"The only cell is {highest}"
    text = f"**Peak.** The highest cell is {highest}, as the highest of {len(row)} likely too high."
    honest = honest_best(view.grid)
    how = "chosen and measured on different answers" if honest else "likely too high by chance"
    short = f"It does so best at {place(areas, row[i], column[i])} (AUROC "
    short += f"{honest or cell(areas, row[i], column[i])}, {how})"
    if not best.lower.any():
        short += ", but no other cell can be told from it"
        text += " No other cell can be distinguished from it, so the grid shows no peak."
    elif not len(best.equal):
        short += ", and all other cells are lower"
        text += " All other cells are lower."
    else:
        tokens = dict.fromkeys(code(areas.tokens[c]) for c in np.sort(column[best.equal]))
        short += f", but {len(best.equal)} of the other {len(row) - 1} can't be told from it"
        at = f" at {listing(tokens)}" if len(tokens) <= _NAMED else ""
        text += (
            f" Of the others {best.lower.sum()} {'is' if best.lower.sum() == 1 else 'are'} lower; "
            f"{len(best.equal)} can't be told from it, in "
            f"{wording.layers(set(areas.layers[row[best.equal]]))}{at}."
        )
    return best.lower.any(), text, short


def honest_best(grid):
    """The best cell's area where it was chosen and measured on different answers, if known."""
    found = [grid.attrs.get(f"best_auroc{end}", np.nan) for end in ("", "_low", "_high")]
    return wording.area(*found) if np.isfinite(found).all() else ""


def token_peaks(view):
    """At which layer a token is highest, where any stands out: a statement and its table."""
    title, areas = "**Layer of each token's peak.** ", view.compared
    columns = np.flatnonzero(view.usable.sum(0) > 1)
    if not len(columns):
        return False, f"{title}No token has an AUROC in two layers.", []
    rows = [np.flatnonzero(view.usable[:, c]) for c in columns]
    blocks = [areas.units[r, c] for r, c in zip(rows, columns, strict=True)]
    critical = largest_error(blocks, view.alpha, pairs=True)
    lines, located, reach = [], [], []
    for r, c, units in zip(rows, columns, blocks, strict=True):
        value, token, layers = areas.value[r, c], code(areas.tokens[c]), areas.layers[r]
        best = _Best(value, units, view, critical=critical)
        if not best.lower.any():
            continue
        shares = areas.argmax_shares(value, units)
        # First and last candidate of the middle 95 % of the resamples.
        reached = np.cumsum(shares)
        low, high = (reached > 0.025).argmax(), (reached >= 0.975 - 1e-9).argmax()
        located.append(token)
        peak, ends = best.index, [end[r[best.index], c] for end in areas.intervals()]
        reach += [abs(end - value[peak]) for end in ends]
        resamples = spans(range(layers[low], layers[high] + 1))
        peak = layers[peak], number(value[peak])
        lines.append([token, *peak, resamples, spans(layers[best.lower])])
    if not located:
        return False, f"{title}At no token does one layer stand out.", []
    rest = "" if len(located) == len(columns) else "; at the others no layer stands out"
    named = (
        listing(located) if len(located) <= _NAMED else f"{len(located)} of {len(columns)} tokens"
    )
    text = f"{title}Some layers are lower than the highest at {named}{rest}."
    header = [
        "Token",
        "Highest in layer",
        f"AUROC, a level ({wording.at_most(reach)})",
        "In 95 % of resamples",
    ]
    return True, text, [wording.table([*header, "Clearly lower layers"], lines)]


def from_the_end(view):
    """Whether the tokens counted from the end rise with depth, and up to where."""
    title = "**The last eight tokens.** "
    cells = view.compared.at(tokens=GROUPS["the last eight tokens"]) & view.complete
    bands = [band for band in view.bands.values() if (band & cells).any()]
    if len(bands) < 2:
        return (
            False,
            title + "The grid has them in fewer than two bands of layers, so it shows no trend.",
        )
    value, units = view.compared.means([band & cells for band in bands])
    best = _Best(value, units, view)
    where = [view.layers_of(band) for band in bands]
    mean = [f"{number(value[i])} in {where[i]}" for i in range(len(bands))]
    highest, lower = mean[best.index], np.flatnonzero(best.lower)
    before, after = lower[lower < best.index], lower[lower > best.index]
    if len(before):
        first = before[value[before].argmin()]
        size = best.by_how_much(first)
        text = f"Their mean rises with depth, from {mean[first]} to {highest}, by {size}."
    elif len(after):
        text = f"Their mean does not rise. The highest is {highest}."
    else:
        text = (
            f"There is no clear change with depth. The highest mean is {highest}, and no other "
            "band of layers can be distinguished from it."
        )
    if len(lower) and len(best.equal):
        same = view.layers_of(np.any([bands[i] for i in best.equal], axis=0))
        text += f" That can't be told from {same}."
    if len(after):
        last = after[value[after].argmin()]
        text += f" After it the mean falls to {mean[last]}, by {best.by_how_much(last)}."
    return bool(len(lower)), title + text


def lowest_layer(view):
    """Which layer is lowest over all tokens."""
    title, names = "**Lowest layer.** ", view.compared.layers
    if len(names) < 2 or not view.complete.any():
        return False, title + "No token has an AUROC in every one of two layers or more."
    sets = view.compared.by_layer(view.complete, range(len(names)))
    value, units = view.compared.means(sets)
    best = _Best(value, units, view, lowest=True)
    mean = view.area(value[best.index], units[best.index])
    text = f"Layer {names[best.index]} has the lowest mean over the tokens, {mean}"
    if not best.lower.any():
        text = f"No layer stands out as the lowest. {text}"
    else:
        text += f"; higher: {wording.layers(names[best.lower])}"
        if best.lower[-1]:
            text += f", the last by {best.by_how_much(-1)}"
    return bool(best.lower.any()), f"{title}{text}."


def last_q(view):
    """Whether last_q is below the answer's tokens, in how many layers, and by how much."""
    title = "**`last_q` and the answer.** "
    answer = view.compared.at(tokens=TOKENS[1:6]) & view.usable
    question = view.compared.at(tokens=TOKENS[:1]) & view.usable
    rows = np.flatnonzero(answer.any(1) & question.any(1))
    if not len(rows):
        return False, title + "The grid lacks `last_q` or the answer's tokens."
    every = np.isin(np.arange(len(answer)), rows)[:, None]
    (value, units), (value_q, units_q) = (
        view.compared.means([cells & every, *view.compared.by_layer(cells, rows)])
        for cells in (answer, question)
    )
    difference, units = value - value_q, units - units_q
    half_width = view.compared.half_width(units, largest_error(units, view.alpha))
    lower, higher = difference > half_width, difference < -half_width
    names = view.compared.layers[rows]
    if lower[0] or higher[0]:
        word = "below" if lower[0] else "above"
        mean = by_how_much(difference[0], half_width[0])
        text = f"On average `last_q` is {word} the answer's tokens by {mean}."
    else:
        text = (
            "On average `last_q` can't be told from the answer's tokens: "
            f"they differ by {change(difference[0], half_width[0])}."
        )
    found = [
        f"{word} in {which.sum()} ({spans(names[which])})"
        for word, which in (("below", lower[1:]), ("above", higher[1:]))
        if which.any()
    ]
    if found:
        text += f" Of {len(rows)} layers it is {listing(found)}."
    else:
        text += f" In none of {len(rows)} layers can it be told from them."
    return bool((lower | higher).any()), title + text
