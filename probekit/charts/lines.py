"""Altair charts of AUROCs: lines along layers and along tokens, and a forest plot of controls."""

import altair as alt
import numpy as np

from probekit import arguments
from probekit.charts.look import (
    COLOURS,
    DASHES,
    FAINT,
    INK,
    SHAPES,
    categories,
    cell_rows,
    check_detector,
    finished,
    number,
    tooltips,
)
from probekit.tokens import FIGURE_TOKENS

_DETECTOR = "the grid as one detector"


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


def forest(controls, detector=None, *, title="What detects wrong answers"):
    """Draw a forest plot of the controls: the AUROC of each with its 95 % interval.

    Parameters
    ----------
    controls : Dataset over control
        From `controls`: ``auroc``, ``auroc_low``, ``auroc_high`` and ``chance``; ``label``, where
        present, holds their names in plain words. Those without an AUROC are left out.
    detector : Detector, optional
        From `detector`; drawn in the first row.
    title : str

    Returns
    -------
    LayerChart
        The highest AUROC at the top; below them, in grey, the controls that know nothing. The
        detector and the control ``all`` have a colour and a shape of their own.

    Raises
    ------
    TypeError, ValueError
        If controls is no Dataset or lacks a variable, or there is nothing to draw.
    """
    check_detector(detector)
    names = ("auroc", "auroc_low", "auroc_high")
    arrays = {n: arguments.variable(controls, n, ("control",), "controls") for n in names}
    chance = arguments.variable(controls, "chance", ("control",), "controls").to_numpy()
    keys = [str(key) for key in controls["control"].to_numpy()]
    labels = [str(label) for label in controls["label"].to_numpy()] if "label" in controls else keys
    if len(set(labels)) < len(keys):  # rows with one name would be drawn over each other
        labels = keys
    rows = [
        {
            "label": label,
            "kind": "chance" if known_nothing else "all" if key == "all" else "control",
        }
        | {name: number(array.values[i]) for name, array in arrays.items()}
        for i, (key, label, known_nothing) in enumerate(zip(keys, labels, chance, strict=True))
    ]
    rows = [row for row in rows if row["auroc"] is not None]
    rows.sort(key=lambda row: (row["kind"] == "chance", -row["auroc"]))
    if detector is not None:
        measures = {name: number(getattr(detector, name)) for name in names}
        if measures["auroc"] is not None:
            rows.insert(0, {"label": _DETECTOR, "kind": "detector"} | measures)
    if not rows:
        raise ValueError("No control has an AUROC, so there is nothing to draw.")
    for row in rows:
        row["stated"] = _stated(row)
    kinds = ["detector", "all", "control", "chance"]
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y(
            "label:N",
            title=None,
            scale=alt.Scale(domain=[row["label"] for row in rows]),
            axis=alt.Axis(labelLimit=0, labelOverlap=False, ticks=False, labelPadding=8),
        ),
        color=categories(alt.Color, "kind:N", kinds, [*COLOURS[:2], INK, FAINT], None),
        tooltip=[alt.Tooltip("label:N", title="Score"), *tooltips(rows[0])],
    )
    points = base.mark_point(filled=True, size=75, opacity=1).encode(
        x=_auroc_axis(rows, "auroc", alt.X),
        shape=categories(alt.Shape, "kind:N", kinds, ["diamond", "square", *["circle"] * 2], None),
    )
    bars = base.mark_rule(strokeWidth=1.8).encode(
        x=_auroc_axis(rows, "auroc_low", alt.X), x2="auroc_high:Q"
    )
    width = 260
    numbers = base.mark_text(align="left", fontSize=13).encode(
        x=alt.value(width + 10), text="stated:N"
    )
    rule = alt.Chart(alt.Data(values=[{"chance": 0.5}])).mark_rule(color=FAINT, strokeDash=[2, 2])
    rule = rule.encode(x=_auroc_axis(rows, "chance", alt.X))
    chart = alt.layer(rule, bars, points, numbers).properties(width=width, height=24 * len(rows))
    listed = "; ".join(f"{row['label']} {row['stated']}" for row in rows)
    return finished(
        chart, title, f"Forest plot of AUROCs of error detection, with 95 % intervals: {listed}."
    )


def _stated(row):
    """``0.81 [0.78, 0.84]``, without an interval that is not known."""
    low, high = row["auroc_low"], row["auroc_high"]
    known = "" if None in (low, high) else f" [{low:.2f}, {high:.2f}]"
    return f"{row['auroc']:.2f}{known}"


def _few(kind, labels):
    labels = list(labels)
    if len(labels) > len(COLOURS):
        raise ValueError(
            f"{len(labels)} {kind}s are too many lines to distinguish. Choose at most "
            f"{len(COLOURS)}, or draw a heatmap."
        )
    return labels


def _auroc_axis(rows, field, channel=alt.Y):
    """An axis that reaches down to 0.4, or as far as the values do, and up to 1."""
    drawn = [row.get(name) for row in rows for name in ("auroc", "auroc_low")]
    lowest = min((value for value in drawn if value is not None), default=0.5)
    scale = alt.Scale(domain=[min(0.4, float(np.floor(lowest * 10)) / 10), 1.0], zero=False)
    return channel(f"{field}:Q", title="AUROC of error detection", scale=scale)


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
