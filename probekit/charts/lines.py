"""Altair charts of lines: AUROC along layers and along tokens."""

import altair as alt
import numpy as np

from probekit import arguments
from probekit.charts.look import (
    COLOURS,
    DASHES,
    FAINT,
    SHAPES,
    categories,
    cell_rows,
    finished,
    tooltips,
)
from probekit.tokens import FIGURE_TOKENS


def by_layer(
    grid,
    *,
    tokens=("last_q", "first_answer", "exact_answer_first", "exact_answer_last"),
    title="AUROC by layer",
):
    """Draw the AUROC along the layers for some tokens, with bands for its interval.

    Parameters
    ----------
    grid : Dataset
        ``auroc(layer, token)``; bands from ``auroc_low`` and ``auroc_high`` where present.
    tokens : sequence of str
        One line each, at most seven.
    title : str

    Returns
    -------
    LayerChart

    Raises
    ------
    TypeError, ValueError
        As for `heatmap`; or if there are more than seven tokens.
    """
    rows = cell_rows(grid, arguments.variable(grid, "auroc", ("layer", "token")), tokens)
    domain = _few("token", tokens)
    legend = alt.Legend(
        orient="bottom",
        columns=2,
        symbolType="stroke",
        symbolFillColor="transparent",
        symbolOpacity=1,
        symbolStrokeWidth=2.5,
        symbolSize=500,
    )
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X(
            "layer:Q",
            title="Layer",
            scale=alt.Scale(nice=False, zero=False),
            axis=alt.Axis(tickMinStep=1, format="d"),
        ),
        color=categories(alt.Color, "token:N", domain, COLOURS, legend),
        tooltip=tooltips(rows[0]),
    )
    lines = base.mark_line(strokeWidth=2.2).encode(
        y=_auroc_axis(rows, "auroc"),
        strokeDash=categories(alt.StrokeDash, "token:N", domain, DASHES, legend),
    )
    # With edges: where several bands lie over each other, their colours alone make a grey.
    bands = base.mark_area(fillOpacity=0.07, strokeOpacity=0.7, strokeWidth=0.8).encode(
        y=_auroc_axis(rows, "auroc_low"),
        y2="auroc_high:Q",
        stroke=categories(alt.Stroke, "token:N", domain, COLOURS, None, title=alt.Undefined),
    )
    chart = _over_chance(rows, bands, lines).properties(width=320, height=280)
    return finished(chart, title, _described(rows, "token", domain, "layer"))


def by_token(grid, *, layers=None, tokens=FIGURE_TOKENS, title="AUROC by token"):
    """Draw the AUROC at each token for some layers, with its interval.

    Parameters
    ----------
    grid : Dataset
        ``auroc(layer, token)``; bars from ``auroc_low`` and ``auroc_high`` where present.
    layers : sequence of int, optional
        One series each, at most seven. The first, the middle and the last by default.
    tokens, title
        As for `heatmap`.

    Returns
    -------
    LayerChart

    Raises
    ------
    TypeError, ValueError
        As for `heatmap`; or if a layer is unknown, or there are more than seven.
    """
    values = arguments.variable(grid, "auroc", ("layer", "token"))
    have = values.layer.values.tolist()
    if layers is None:
        layers = sorted({have[0], have[len(have) // 2], have[-1]})
    domain = _few("layer", arguments.labels("layer", layers, have))
    rows = [row for row in cell_rows(grid, values, tokens) if row["layer"] in domain]
    legend = alt.Legend(orient="right", symbolSize=90)
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X(
            "token:N",
            title="Token",
            scale=alt.Scale(domain=list(tokens)),
            axis=alt.Axis(labelAngle=-45, labelOverlap=False, labelLimit=0, grid=True),
        ),
        xOffset=alt.XOffset("layer:O", scale=alt.Scale(domain=domain, paddingOuter=0.6)),
        color=categories(alt.Color, "layer:O", domain, COLOURS, legend, title="Layer"),
        tooltip=tooltips(rows[0]),
    )
    points = base.mark_point(filled=True, size=45, opacity=1).encode(
        y=_auroc_axis(rows, "auroc"),
        shape=categories(alt.Shape, "layer:O", domain, SHAPES, legend, title="Layer"),
    )
    bars = base.mark_rule(strokeWidth=1.4).encode(
        y=_auroc_axis(rows, "auroc_low"), y2="auroc_high:Q"
    )
    chart = _over_chance(rows, bars, points).properties(width=26 * len(list(tokens)), height=240)
    return finished(chart, title, _described(rows, "layer", domain, "token"))


def _few(kind, labels):
    labels = list(labels)
    if len(labels) > len(COLOURS):
        raise ValueError(
            f"{len(labels)} {kind}s are too many lines to distinguish. Choose at most "
            f"{len(COLOURS)}, or draw a heatmap."
        )
    return labels


def _auroc_axis(rows, field):
    """A y axis that reaches down to 0.4, or as far as the values do, and up to 1."""
    drawn = [row.get(name) for row in rows for name in ("auroc", "auroc_low")]
    lowest = min((value for value in drawn if value is not None), default=0.5)
    scale = alt.Scale(domain=[min(0.4, float(np.floor(lowest * 10)) / 10), 1.0], zero=False)
    return alt.Y(f"{field}:Q", title="AUROC of error detection", scale=scale)


def _over_chance(rows, intervals, values):
    """A line at chance, the intervals if the grid has them, and the values."""
    rule = alt.Chart(alt.Data(values=[{"chance": 0.5}])).mark_rule(color=FAINT, strokeDash=[2, 2])
    chance = rule.encode(y=_auroc_axis(rows, "chance"))
    known = "auroc_low" in rows[0] and "auroc_high" in rows[0]
    return alt.layer(chance, *([intervals] if known else []), values)


def _described(rows, kind, labels, along):
    """The text alternative: where each line is highest."""
    text = f"AUROC of error detection by {along}."
    for label in labels:
        series = [row for row in rows if row[kind] == label and row["auroc"] is not None]
        best = max(series, key=lambda row: row["auroc"], default=None)
        text += f" {kind.capitalize()} {label}: "
        text += (
            f"highest {best['auroc']:.2f} at {along} {best[along]}." if best else "not measured."
        )
    return text
