"""Altair charts of lines: AUROC along layers and along tokens."""

from collections.abc import Sequence

import altair as alt
import numpy as np
import xarray as xr

from probekit import arguments
from probekit.arguments import variable
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

WIDTH, HEIGHT = 320, 280


def by_layer(
    grid: xr.Dataset,
    *,
    tokens: Sequence[str] = ("last_q", "first_answer", "exact_answer_first", "exact_answer_last"),
    title: str = "AUROC by layer",
) -> alt.LayerChart:
    """Draw the AUROC along the layers for some tokens, with bands for its interval.

    Parameters
    ----------
    grid : Dataset
        ``auroc(layer, token)``; bands from ``auroc_low`` and ``auroc_high`` where present.
    tokens : sequence of str
        One line each; at most seven.
    title : str

    Returns
    -------
    LayerChart

    Raises
    ------
    TypeError, ValueError
        As for `heatmap`; or if there are more tokens than lines can be told apart.
    """
    rows = cell_rows(grid, variable(grid, "auroc", ("layer", "token")), tokens)
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
    )
    lines = base.mark_line(strokeWidth=2.2).encode(
        y=_auroc_axis(rows, "auroc"),
        strokeDash=categories(alt.StrokeDash, "token:N", domain, DASHES, legend),
        tooltip=tooltips(rows[0]),
    )
    # With edges: where several bands lie over each other, their colours alone make a grey.
    edge = alt.Stroke(
        "token:N", scale=alt.Scale(domain=domain, range=COLOURS[: len(domain)]), legend=None
    )
    bands = base.mark_area(fillOpacity=0.07, strokeOpacity=0.7, strokeWidth=0.8).encode(
        y=_auroc_axis(rows, "auroc_low"),
        y2="auroc_high:Q",
        stroke=edge,
        tooltip=tooltips(rows[0]),
    )
    layers = [bands] if "auroc_low" in rows[0] and "auroc_high" in rows[0] else []
    chart = alt.layer(_chance(rows), *layers, lines).properties(width=WIDTH, height=HEIGHT)
    peaks = [_peak(rows, "token", token, "layer") for token in domain]
    return finished(chart, title, "AUROC of error detection by layer. " + " ".join(peaks))


def by_token(
    grid: xr.Dataset,
    *,
    layers: Sequence[int] | None = None,
    tokens: Sequence[str] = FIGURE_TOKENS,
    title: str = "AUROC by token",
) -> alt.LayerChart:
    """Draw the AUROC at each token for some layers, with its interval.

    Parameters
    ----------
    grid : Dataset
        ``auroc(layer, token)``; bars from ``auroc_low`` and ``auroc_high`` where present.
    layers : sequence of int, optional
        One series each; at most seven. The first, the middle and the last by default.
    tokens : sequence of str
        As for `heatmap`.
    title : str

    Returns
    -------
    LayerChart

    Raises
    ------
    TypeError, ValueError
        As for `heatmap`; or if a layer is unknown, or there are too many.
    """
    values = variable(grid, "auroc", ("layer", "token"))
    have = values.layer.values.tolist()
    if layers is None:
        layers = sorted({have[0], have[len(have) // 2], have[-1]})
    domain = _few("layer", arguments.labels("layer", layers, have))
    rows = [row for row in cell_rows(grid, values, tokens) if row["layer"] in domain]
    legend = alt.Legend(orient="right", symbolSize=90)
    offset = alt.XOffset("layer:O", scale=alt.Scale(domain=domain, paddingOuter=0.6))
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X(
            "token:N",
            title="Token",
            scale=alt.Scale(domain=list(tokens)),
            axis=alt.Axis(labelAngle=-45, labelOverlap=False, labelLimit=0, grid=True),
        ),
        xOffset=offset,
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
    intervals = [bars] if "auroc_low" in rows[0] and "auroc_high" in rows[0] else []
    chart = alt.layer(_chance(rows), *intervals, points).properties(
        width=26 * len(list(tokens)), height=240
    )
    peaks = [_peak(rows, "layer", layer, "token") for layer in domain]
    return finished(chart, title, "AUROC of error detection by token. " + " ".join(peaks))


def _few(kind, labels):
    labels = list(labels)
    if len(labels) > len(COLOURS):
        raise ValueError(
            f"{len(labels)} {kind}s are more lines than can be told apart. "
            f"Choose at most {len(COLOURS)}, or draw a heatmap."
        )
    return labels


def _auroc_axis(rows, field):
    """Return a y axis that reaches down to 0.4, or as far as the values do, and up to 1."""
    drawn = [row[name] for row in rows for name in ("auroc", "auroc_low") if name in row]
    lowest = min((value for value in drawn if value is not None), default=0.5)
    scale = alt.Scale(domain=[min(0.4, float(np.floor(lowest * 10)) / 10), 1.0], zero=False)
    return alt.Y(f"{field}:Q", title="AUROC of error detection", scale=scale)


def _chance(rows):
    rule = alt.Chart(alt.Data(values=[{"chance": 0.5}])).mark_rule(color=FAINT, strokeDash=[2, 2])
    return rule.encode(y=_auroc_axis(rows, "chance"))


def _peak(rows, kind, label, along):
    series = [row for row in rows if row[kind] == label and row["auroc"] is not None]
    if not series:
        return f"{kind.capitalize()} {label}: not measured."
    best = max(series, key=lambda row: row["auroc"])
    return f"{kind.capitalize()} {label}: highest {best['auroc']:.2f} at {along} {best[along]}."
