"""What all charts share: one look, and reading cells from a grid by name, checked."""

import altair as alt
import numpy as np
import xarray as xr

from probekit.tokens import TOKENS

# Liberation Sans is the face that vl-convert carries, so a PNG looks the same on every machine; the
# others are for a browser that has no Liberation. One weight only: with two, vl-convert writes the
# fonts of a PDF in an order that changes from run to run.
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
INK, FAINT = "#222222", "#767676"

# Okabe and Ito's colours, which colour-blind readers tell apart (https://jfly.uni-koeln.de/color/),
# less the yellow, which is lost on white. Dashes and shapes tell the lines apart in greyscale.
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]
DASHES = [[1, 0], [6, 2], [2, 2], [8, 2, 2, 2], [4, 4], [10, 3], [1, 3]]
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right"]


def finished(chart, title, description):
    """Give a chart the look that all share: title, text alternative, font and sizes.

    Sizes are for a figure of about 460 pixels printed 8 cm wide: 14 pixels become 7 points.
    """
    text = {"labelFontSize": 14, "titleFontSize": 15, "titleFontWeight": "normal"}
    colours = {"labelColor": INK, "titleColor": INK}
    return (
        chart.properties(title=title, description=description, background="white")
        .configure(font=FONT)
        .configure_title(
            fontSize=17,
            fontWeight="normal",
            color=INK,
            anchor="middle",
            offset=10,
            subtitleFontSize=14,
            subtitleColor=INK,
        )
        .configure_axis(
            **text, **colours, domainColor=FAINT, tickColor=FAINT, grid=False, labelFlush=False
        )
        .configure_legend(**text, **colours, titleLimit=0, labelLimit=0)
        .configure_view(stroke=FAINT)
    )


def variable(grid, name, dims):
    """Return the grid's variable over exactly these dimensions, or say what is wrong."""
    if not isinstance(grid, xr.Dataset):
        raise TypeError(
            f"a chart needs a grid (an xarray Dataset), got {type(grid).__name__}. "
            "Make one with probe_grid, or open a saved one."
        )
    if name not in grid.variables:
        have = ", ".join(map(str, grid.data_vars)) or "nothing"
        raise ValueError(f"the grid has no variable {name!r}; it has {have}.")
    array = grid[name]
    if set(array.dims) != set(dims):
        is_over = ", ".join(map(str, array.dims))
        raise ValueError(f"{name!r} must be over ({', '.join(dims)}), it is over ({is_over}).")
    if array.size == 0:
        raise ValueError(f"the grid is empty: {name!r} has sizes {dict(array.sizes)}.")
    for dim in dims:
        if dim != "example" and (dim not in grid.coords or not grid.indexes[dim].is_unique):
            raise ValueError(f"the grid needs a coordinate {dim!r} with a different label a cell.")
    return array.transpose(*dims)


def chosen(kind, wanted, have, also=()):
    """Check a choice of tokens or layers; ``also`` are labels that are known but may be absent."""
    if isinstance(wanted, (str, int)):
        raise TypeError(f"{kind}s must be a sequence, got {wanted!r}. Use [{wanted!r}].")
    wanted, have = list(wanted), list(have)
    among = f"The grid has {', '.join(map(str, have))}."
    unknown = [label for label in wanted if label not in have and label not in also]
    if unknown:
        raise ValueError(f"unknown {kind} {', '.join(map(repr, unknown))}. {among}")
    if not set(wanted) & set(have):
        raise ValueError(f"the grid has none of the {kind}s asked for ({wanted}). {among}")
    if len(set(wanted)) < len(wanted):
        raise ValueError(f"a {kind} is given twice: {', '.join(map(str, wanted))}.")
    return wanted


EXTRAS = ("auroc_low", "auroc_high", "n_examples", "p_value", "p_corrected")
EXTRAS += ("gain_low", "gain_high")


def cell_rows(grid, values, tokens):
    """One record a cell, layer by layer, with the values as they are in the grid.

    Parameters
    ----------
    grid : Dataset
    values : DataArray, dims (layer, token)
        Its name becomes a field of the records; NaN becomes None.
    tokens : sequence of str
        Named positions that the grid lacks are all None.

    Returns
    -------
    list of dict
    """
    tokens = chosen("token", tokens, grid.token.values.tolist(), also=TOKENS)
    fields = {values.name: values}
    fields |= {name: variable(grid, name, ("layer", "token")) for name in EXTRAS if name in grid}
    arrays = {
        name: array.astype("float64").reindex(token=tokens).values for name, array in fields.items()
    }
    return [
        {"layer": int(layer), "token": token}
        | {name: number(array[i, j]) for name, array in arrays.items()}
        for i, layer in enumerate(grid.layer.values)
        for j, token in enumerate(tokens)
    ]


def number(value):
    """Return a float, or None where JSON has no number (NaN, infinity)."""
    return float(value) if np.isfinite(value) else None


TOOLTIPS = {
    "layer": ("Layer", "d"),
    "token": ("Token", None),
    "auroc": ("AUROC", ".3f"),
    "correlation": ("|r|", ".3f"),
    "gain": ("Gain", "+.3f"),
    "gain_low": ("Gain, lower bound", "+.3f"),
    "gain_high": ("Gain, upper bound", "+.3f"),
    "auroc_low": ("AUROC, lower bound", ".3f"),
    "auroc_high": ("AUROC, upper bound", ".3f"),
    "n_examples": ("Examples", "d"),
    "p_value": ("p", ".3g"),
    "p_corrected": ("p, corrected", ".3g"),
}


def tooltips(row):
    """Tooltips for those fields of the record that have a name."""
    return [
        alt.Tooltip(name, type="quantitative", title=title, format=form)
        if form
        else alt.Tooltip(name, type="nominal", title=title)
        for name, (title, form) in TOOLTIPS.items()
        if name in row
    ]
