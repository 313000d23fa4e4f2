"""Altair charts of a grid, in one look.

Every chart is usable on its own, carries a text alternative in its ``description``, and reads its
cells by name (layer, token) from an xarray Dataset. What is missing is hatched, never drawn as a
value.
"""

from collections.abc import Sequence

import altair as alt
import numpy as np
import xarray as xr

from probekit.chart_files import save_chart, static
from probekit.tokens import FIGURE_TOKENS, TOKENS

__all__ = ["heatmap", "point_biserial", "save_chart", "static"]

# Liberation Sans is the face that vl-convert carries, so a PNG looks the same on every machine; the
# others are for a browser that has no Liberation. One weight only: with two, vl-convert writes the
# fonts of a PDF in an order that changes from run to run.
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
INK, FAINT, MISSING_FILL = "#222222", "#767676", "#efefef"

#: What a heatmap can draw: legend title, colour domain, legend values.
MEASURES = {
    "auroc": (["AUROC of", "error detection"], (0.5, 1.0), (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)),
    "correlation": (["|r| of score", "with correctness"], (0.0, 1.0), (0, 0.2, 0.4, 0.6, 0.8, 1)),
}
UNMEASURED = "not measured"
CELL_WIDTH = 22


def heatmap(
    grid: xr.Dataset,
    *,
    measure: str = "auroc",
    title: str = "Layer vs. Token Correlation",
    tokens: Sequence[str] = FIGURE_TOKENS,
) -> alt.LayerChart:
    """Draw the figure: tokens across, layers down, the measure in blues.

    Parameters
    ----------
    grid : Dataset over (layer, token)
        With ``auroc``; for ``measure="correlation"`` with ``score(example, layer, token)`` and
        ``correct(example)``. ``auroc_low``, ``auroc_high``, ``n_examples``, ``p_value`` and
        ``p_corrected`` are shown in the tooltip where present. NaN cells are hatched.
    measure : {"auroc", "correlation"}
        AUROC of error detection on [0.5, 1], where lower values get the lightest blue; or the
        absolute point-biserial correlation of the out-of-fold score with correctness on [0, 1].
    title : str
    tokens : sequence of str
        Columns, in this order. A known token that the grid lacks is an empty column.

    Returns
    -------
    LayerChart

    Raises
    ------
    TypeError
        If the grid is not an xarray Dataset.
    ValueError
        If the measure or a token is unknown, or the grid is empty or lacks a variable.
    """
    if measure not in MEASURES:
        raise ValueError(f"measure={measure!r} is unknown. Use one of {', '.join(MEASURES)}.")
    values = _cells(grid, "auroc") if measure == "auroc" else point_biserial(grid)
    rows = _rows(grid, values.rename(measure), tokens)
    panel = _heatmap_panel(rows, measure, grid.layer.values.tolist(), list(tokens))
    return _finished(panel, title, _describe_heatmap(rows, measure))


def point_biserial(grid: xr.Dataset) -> xr.DataArray:
    """Absolute correlation of each cell's error score with correctness.

    Parameters
    ----------
    grid : Dataset
        With ``score(example, layer, token)`` and ``correct(example)``.

    Returns
    -------
    DataArray, dims (layer, token), in [0, 1]
        NaN where fewer than three examples are scored, or either side does not vary.

    Raises
    ------
    ValueError
        If the grid lacks ``score`` or ``correct``.
    """
    score = _variable(grid, "score", ("example", "layer", "token")).astype("float64")
    correct = _variable(grid, "correct", ("example",)).astype("float64")
    correct = correct.where(score.notnull())
    # Not xr.corr: it returns rounding noise, not NaN, where one side is constant.
    deviation, side = score - score.mean("example"), correct - correct.mean("example")
    spread = np.sqrt((deviation**2).sum("example") * (side**2).sum("example"))
    known = (score.count("example") >= 3) & (spread > 1e-12)
    r = np.abs((deviation * side).sum("example") / spread.where(known))
    return r.clip(max=1).transpose("layer", "token")


def _variable(grid, name, dims):
    if not isinstance(grid, xr.Dataset):
        raise TypeError(
            f"a chart needs a grid (an xarray Dataset), got {type(grid).__name__}. "
            "Make one with probe_grid, or read one with Run.grid()."
        )
    if name not in grid.variables:
        have = ", ".join(map(str, grid.data_vars)) or "nothing"
        raise ValueError(f"the grid has no variable {name!r}; it has {have}.")
    if set(grid[name].dims) != set(dims):
        raise ValueError(
            f"{name!r} must be over ({', '.join(dims)}), "
            f"it is over ({', '.join(map(str, grid[name].dims))})."
        )
    if grid[name].size == 0:
        raise ValueError(f"the grid is empty: {name!r} has sizes {dict(grid[name].sizes)}.")
    return grid[name].transpose(*dims)


def _cells(grid, name):
    return _variable(grid, name, ("layer", "token"))


def _known_tokens(grid, tokens):
    """Check the columns asked for; those the grid lacks are allowed if they are named positions."""
    if isinstance(tokens, str):
        raise TypeError(f"tokens must be a sequence of names, got the string {tokens!r}.")
    tokens = list(tokens)
    have = grid.token.values.tolist()
    unknown = [token for token in tokens if token not in have and token not in TOKENS]
    if unknown or not tokens:
        what = f"unknown token {', '.join(map(repr, unknown))}" if unknown else "no token is given"
        raise ValueError(f"{what}. The grid has {', '.join(map(str, have))}.")
    if len(set(tokens)) < len(tokens):
        raise ValueError(f"a token is given twice: {', '.join(tokens)}.")
    if not set(tokens) & set(have):
        raise ValueError(
            f"the grid has none of the tokens asked for. It has {', '.join(map(str, have))}."
        )
    return tokens


def _number(value):
    # JSON has no NaN or infinity; null is what Vega-Lite takes for "missing".
    return float(value) if np.isfinite(value) else None


def _rows(grid, values, tokens):
    """One record a cell, layer by layer, with the values as they are in the grid."""
    tokens = _known_tokens(grid, tokens)
    fields = {values.name: values}
    for name in ("auroc_low", "auroc_high", "n_examples", "p_value", "p_corrected"):
        if name in grid:
            fields[name] = _cells(grid, name)
    arrays = {
        name: array.astype("float64").reindex(token=tokens).values for name, array in fields.items()
    }
    return [
        {"layer": int(layer), "token": token}
        | {name: _number(array[i, j]) for name, array in arrays.items()}
        for i, layer in enumerate(grid.layer.values)
        for j, token in enumerate(tokens)
    ]


def _layer_axis(layers):
    """Layer 0 at the top, a tick and a label at every second layer."""
    even = [layer for layer in layers if layer % 2 == 0]
    return alt.Y(
        "layer:O",
        title="Layer",
        scale=alt.Scale(domain=sorted(layers)),
        axis=alt.Axis(values=sorted(even or layers), labelOverlap=False),
    )


def _token_axis(tokens):
    return alt.X(
        "token:N",
        title="Token",
        sort=None,
        scale=alt.Scale(domain=tokens),
        axis=alt.Axis(labelAngle=-45, labelOverlap=False, labelLimit=0),
    )


TOOLTIPS = {
    "layer": ("Layer", "d"),
    "token": ("Token", None),
    "auroc": ("AUROC", ".3f"),
    "correlation": ("|r|", ".3f"),
    "auroc_low": ("AUROC, lower bound", ".3f"),
    "auroc_high": ("AUROC, upper bound", ".3f"),
    "n_examples": ("Examples", "d"),
    "p_value": ("p", ".3g"),
    "p_corrected": ("p, corrected", ".3g"),
}


def _tooltips(rows):
    return [
        alt.Tooltip(name, type="quantitative", title=title, format=form)
        if form
        else alt.Tooltip(name, type="nominal", title=title)
        for name, (title, form) in TOOLTIPS.items()
        if name in rows[0]
    ]


def _heatmap_panel(rows, measure, layers, tokens):
    """Draw the cells and what is missing; without configuration, so that panels can be joined."""
    legend, domain, values = MEASURES[measure]
    # Deep models get lower cells; a label at every second layer still has room for its line.
    cell_height = int(np.clip(450 // len(layers), 8, 18))
    base = alt.Chart(alt.Data(values=rows)).encode(x=_token_axis(tokens), y=_layer_axis(layers))
    colour = alt.Color(
        f"{measure}:Q",
        title=legend,
        scale=alt.Scale(scheme="blues", domain=list(domain), clamp=True),
        legend=alt.Legend(
            orient="right",
            values=list(values),
            format=".1f",
            gradientLength=min(180, cell_height * len(layers)),
        ),
    )
    cells = base.mark_rect().encode(color=colour, tooltip=_tooltips(rows))
    chart = alt.layer(cells, *_missing(base, rows, measure, cell_height))
    return chart.properties(width=CELL_WIDTH * len(tokens), height=cell_height * len(layers))


def _missing(base, rows, measure, cell_height):
    """Hatch in grey the cells without a value: Vega-Lite itself would leave them white."""
    missing = [row | {"state": UNMEASURED} for row in rows if row[measure] is None]
    if not missing:
        return []
    there = base.properties(data=alt.Data(values=missing)).encode(
        tooltip=[*_tooltips(missing)[:2], alt.Tooltip("state:N", title="Value")]
    )
    # A symbol of size 4 is drawn at the scale of its path: one diagonal through the cell.
    hatch = f"M{-CELL_WIDTH / 2},{cell_height / 2}L{CELL_WIDTH / 2},{-cell_height / 2}"
    shape = alt.Shape(
        "state:N",
        title=None,
        scale=alt.Scale(domain=[UNMEASURED], range=[hatch]),
        legend=alt.Legend(symbolSize=4, offset=24),
    )
    return [
        there.mark_rect(color=MISSING_FILL),
        there.mark_point(size=4, stroke=FAINT, strokeWidth=0.8, opacity=1).encode(shape=shape),
    ]


def _describe_heatmap(rows, measure):
    name = " ".join(MEASURES[measure][0])
    layers = sorted({row["layer"] for row in rows})
    tokens = list(dict.fromkeys(row["token"] for row in rows))
    text = (
        f"Heatmap of the {name}: {len(layers)} layers ({layers[0]} to {layers[-1]}, top to bottom) "
        f"by {len(tokens)} tokens ({tokens[0]} to {tokens[-1]}). "
    )
    measured = [row for row in rows if row[measure] is not None]
    if not measured:
        return text + "No cell is measured."
    best, worst = (pick(measured, key=lambda row: row[measure]) for pick in (max, min))
    text += (
        f"Highest {best[measure]:.2f} at layer {best['layer']}, token {best['token']}; "
        f"lowest {worst[measure]:.2f} at layer {worst['layer']}, token {worst['token']}."
    )
    missing = len(rows) - len(measured)
    return text + (f" {missing} of {len(rows)} cells are not measured." if missing else "")


def _finished(chart, title, description):
    """Give a chart the look that all share: title, text alternative, font and sizes."""
    text = {"labelFontSize": 14, "titleFontSize": 15, "titleFontWeight": "normal"}
    colours = {"labelColor": INK, "titleColor": INK}
    return (
        chart.properties(title=title, description=description, background="white")
        .configure(font=FONT)
        .configure_title(fontSize=17, fontWeight="normal", color=INK, anchor="middle", offset=10)
        .configure_axis(**text, **colours, domainColor=FAINT, tickColor=FAINT, grid=False)
        .configure_legend(**text, **colours, titleLimit=0, labelLimit=0)
        .configure_view(stroke=FAINT)
    )
