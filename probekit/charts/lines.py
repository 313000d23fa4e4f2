"""Altair charts of AUROCs: lines along layers and along tokens, and a forest plot of controls."""

import textwrap

import altair as alt
import numpy as np
import xarray as xr

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

_WIDTH = 260  # of forest plots
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

    Examples
    --------
    >>> import probekit as pk
    >>> chart = pk.by_layer(pk.Run("data/example").grid("answer"))
    >>> pk.save_chart(chart, "by_layer.png")
    [PosixPath('by_layer.png')]
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
    described = _described(rows, "token", domain, "layer")
    return finished(chart, title, described, _intervals(rows, "bands"))


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

    Examples
    --------
    >>> import probekit as pk
    >>> chart = pk.by_token(pk.Run("data/example").grid("answer"), layers=[5, 17, 29])
    >>> pk.save_chart(chart, "by_token.png")
    [PosixPath('by_token.png')]
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
    described = _described(rows, "layer", domain, "token")
    return finished(chart, title, described, _intervals(rows, "bars"))


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

    Examples
    --------
    >>> import probekit as pk
    >>> run = pk.Run("data/examples/cities")
    >>> chart = pk.forest(run.controls("answer"), run.detector("answer"))
    >>> pk.save_chart(chart, "forest.png")
    [PosixPath('forest.png')]
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
    listed = "; ".join(f"{row['label']} {row['stated']}" for row in rows)
    rule = alt.Chart(alt.Data(values=[{"chance": 0.5}])).mark_rule(color=FAINT, strokeDash=[2, 2])
    rule = rule.encode(x=_auroc_axis(rows, "chance", alt.X))
    names = ("auroc", "auroc_low", "auroc_high")
    chart = alt.layer(rule, *_spread(rows, names, lambda f: _auroc_axis(rows, f, alt.X)))
    return finished(
        chart,
        title,
        f"Forest plot of AUROCs of error detection, with 95 % intervals: {listed}.",
        _intervals(rows, "bars"),
    )


def choices(choice, *, title="Which of several samples to give"):
    """Draw how often each way to choose one of a question's samples gives a right one.

    Parameters
    ----------
    choice : Choice
        From `choose_answers`.
    title : str

    Returns
    -------
    LayerChart
        Accuracies with 95 % intervals over questions, the highest at the top. The detector has a
        colour and a shape of its own; the best possible, which no way can choose, is grey.

    Raises
    ------
    TypeError
        If it is not from `choose_answers`.

    Examples
    --------
    >>> import probekit as pk
    >>> choice = pk.choose_answers(pk.Run("data/examples/samples"))
    >>> chart = pk.choices(choice)
    >>> pk.save_chart(chart, "choices.png")
    [PosixPath('choices.png')]
    """
    if not hasattr(choice, "ways") or not hasattr(choice, "aurocs"):
        raise TypeError(
            f"choice must be from pk.choose_answers(run); got {arguments.shown(choice)}."
        )
    kinds = {"detector": "detector", "controls": "all", "oracle": "chance"}
    ways = choice.ways.sort_values("accuracy", ascending=False, kind="stable")
    rows = [
        {
            "label": row["description"],
            "kind": kinds.get(way, "control"),
            "accuracy": number(row["accuracy"]),
            "low": number(row["low"]),
            "high": number(row["high"]),
            "stated": "{accuracy:.0%} [{low:.0%}, {high:.0%}]".format(**row),
        }
        for way, row in ways.iterrows()
    ]
    n = int(ways["n_questions"].iloc[0])
    listed = "; ".join(f"{row['label']} {row['stated']}" for row in rows)
    names, scale = ("accuracy", "low", "high"), alt.Scale(domain=[0, 1])
    axis = alt.Axis(format="%", grid=True)

    def shares(field):
        return alt.X(f"{field}:Q", title="Share of right answers", scale=scale, axis=axis)

    return finished(
        alt.layer(*_spread(rows, names, shares)),
        title,
        f"Accuracy over {n} questions, with 95 % intervals: {listed}.",
        f"{n} questions; bars are 95 % intervals",
    )


def effects(interventions, *, title="The probe's direction among random ones"):
    """Draw what pushing and erasing a probe's direction does, beside directions that mean nothing.

    Parameters
    ----------
    interventions : Dataset
        From `intervene`.
    title : str

    Returns
    -------
    VConcatChart
        One row an outcome, each on a scale of its own: the probe's effect with its 95 % interval
        over questions in blue, random directions as grey marks, and those of probes of permuted
        labels as orange ones. In greyscale too: their shapes differ.

    Raises
    ------
    TypeError
        If it is not from `intervene`.

    Examples
    --------
    >>> import probekit as pk
    >>> run = pk.Run("data/examples/cities")
    >>> lm = pk.load_model_of(run)
    >>> found = pk.intervene(lm, run, n_questions=2, flips=False, progress=False)
    >>> chart = pk.effects(found)
    >>> pk.save_chart(chart, "effects.png")
    [PosixPath('effects.png')]
    """
    if not isinstance(interventions, xr.Dataset) or "every_effect" not in interventions:
        raise TypeError(
            f"interventions must be from pk.intervene; got {arguments.shown(interventions)}."
        )
    named = {"probe": "the probe", "random": "random", "permuted": "permuted labels"}
    kinds = [named[kind] for kind in interventions["kind"].to_numpy()]
    panels, told = [], []
    for name in interventions["outcome"].to_numpy():
        one = interventions.sel(outcome=name)
        values = one["every_effect"].to_numpy()
        rows = [
            {"kind": kind, "effect": number(value)}
            for kind, value in zip(kinds, values, strict=True)
            if np.isfinite(value)
        ]
        if not rows:
            continue
        ends = {end: number(one[f"effect_{end}"].item()) for end in ("low", "high")}
        p = one["p_value"].item()
        text = str(one["description"].item())
        label = textwrap.wrap(f"{text} (p = {p:.2g})", 52)
        panels.append(_among(rows, ends, label, named.values()))
        told.append(f"{text}: {one['effect'].item():+.3f}, p = {p:.2g}")
    chart = alt.vconcat(*panels, spacing=6).resolve_scale(x="independent")
    return finished(chart, title, f"Effects of a probe's direction. {'; '.join(told)}.")


def _among(rows, ends, label, kinds):
    """One outcome: the probe's effect, its interval, and the other directions' effects."""
    kinds = list(kinds)
    x = alt.X("effect:Q", title=None, axis=alt.Axis(grid=False, tickCount=5))
    base = alt.Chart(alt.Data(values=rows), width=340, height=60).encode(
        y=alt.Y("kind:N", scale=alt.Scale(domain=kinds), title=None, axis=alt.Axis(ticks=False))
    )
    points = base.mark_point(filled=True, size=70, opacity=0.75).encode(
        x=x,
        color=categories(alt.Color, "kind:N", kinds, [COLOURS[0], FAINT, COLOURS[1]], None),
        shape=categories(alt.Shape, "kind:N", kinds, ["diamond", "circle", "cross"], None),
        tooltip=[alt.Tooltip("kind:N", title="Direction"), alt.Tooltip("effect:Q", format="+.3f")],
    )
    bar = [ends | {"kind": kinds[0]}] if None not in ends.values() else []
    interval = alt.Chart(alt.Data(values=bar)).mark_rule(strokeWidth=1.8, color=COLOURS[0])
    interval = interval.encode(x=alt.X("low:Q"), x2="high:Q", y="kind:N")
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(color=FAINT, strokeDash=[2, 2])
    layers = [zero.encode(x="zero:Q"), *([interval] if bar else []), points]
    title = alt.TitleParams(
        label, anchor="start", align="left", fontSize=13, offset=4, dx=-116, frame="bounds"
    )
    return alt.layer(*layers).properties(title=title)


def _spread(rows, names, axis):
    """Layers of a forest plot: intervals, points and numbers, a row each, by its `kind`.

    `names` of the value and the ends of its interval; `axis(field)` gives the x of a field.
    """
    value, low, high = names
    kinds = ["detector", "all", "control", "chance"]
    base = alt.Chart(alt.Data(values=rows), width=_WIDTH, height=24 * len(rows)).encode(
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
        x=axis(value),
        shape=categories(alt.Shape, "kind:N", kinds, ["diamond", "square", *["circle"] * 2], None),
    )
    bars = base.mark_rule(strokeWidth=1.8).encode(x=axis(low), x2=f"{high}:Q")
    numbers = base.mark_text(align="left", fontSize=13).encode(
        x=alt.value(_WIDTH + 10), text="stated:N"
    )
    return bars, points, numbers


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


def _intervals(rows, marks):
    """The subtitle that says what the marks around the values are, if there are any."""
    known = any(row.get("auroc_low") is not None for row in rows)
    return f"{marks} are 95 % intervals" if known else None


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
