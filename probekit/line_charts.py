"""Altair charts of lines: AUROC along layers and tokens, and the behaviour of one cell's score."""

from collections.abc import Sequence

import altair as alt
import numpy as np
import xarray as xr
from scipy.stats import beta
from sklearn.metrics import roc_auc_score, roc_curve

from probekit import checks
from probekit.chart_parts import (
    COLOURS,
    DASHES,
    FAINT,
    SHAPES,
    cell_rows,
    finished,
    number,
    tooltips,
)
from probekit.checks import variable
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
        color=_categories("token:N", domain, COLOURS, legend),
    )
    lines = base.mark_line(strokeWidth=2.2).encode(
        y=_auroc_axis(rows, "auroc"),
        strokeDash=_categories("token:N", domain, DASHES, legend),
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
    domain = _few("layer", checks.labels("layer", layers, have))
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
        color=_categories("layer:O", domain, COLOURS, legend, title="Layer"),
        tooltip=tooltips(rows[0]),
    )
    points = base.mark_point(filled=True, size=45, opacity=1).encode(
        y=_auroc_axis(rows, "auroc"),
        shape=_categories("layer:O", domain, SHAPES, legend, title="Layer"),
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


def roc(score, correct, *, title: str = "ROC of error detection") -> alt.LayerChart:
    """Draw the ROC curve of one cell: errors found against correct answers flagged.

    Parameters
    ----------
    score : array of float, shape (n_examples,)
        P(error), out of fold; examples with NaN are left out.
    correct : array of bool, shape (n_examples,)
        Whether the answer is right. Wrong answers are the positives.
    title : str

    Returns
    -------
    LayerChart

    Raises
    ------
    ValueError
        If the shapes differ, ``correct`` is not boolean, or there are not both right and wrong
        answers among the scored.
    """
    score, wrong = _scored(score, correct)
    flagged, found, threshold = roc_curve(wrong, score)
    area = roc_auc_score(wrong, score)
    rows = [
        {"flagged": float(x), "found": float(y), "threshold": number(t)}
        for x, y, t in zip(flagged, found, threshold, strict=True)
    ]
    curve = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(strokeWidth=2.2, color=COLOURS[0])
        .encode(
            x=_share(alt.X, "flagged", "Correct answers flagged"),
            y=_share(alt.Y, "found", "Errors found"),
            order=alt.Order("found:Q"),
            tooltip=[
                alt.Tooltip("flagged:Q", title="Correct answers flagged", format=".3f"),
                alt.Tooltip("found:Q", title="Errors found", format=".3f"),
                alt.Tooltip("threshold:Q", title="Threshold on P(error)", format=".3f"),
            ],
        )
    )
    chart = alt.layer(_diagonal("flagged", "found"), curve).properties(width=HEIGHT, height=HEIGHT)
    counts = f"{int(wrong.sum())} wrong and {int((~wrong).sum())} correct answers"
    return finished(
        chart,
        title,
        f"ROC curve of error detection, AUROC {area:.3f}, over {counts}.",
        subtitle=f"AUROC {area:.3f}; {counts}",
    )


def calibration(score, correct, *, bins: int = 10, title: str = "Calibration") -> alt.LayerChart:
    """Draw the share of wrong answers against the P(error) that the probe gave them.

    Parameters
    ----------
    score : array of float, shape (n_examples,)
        P(error) in [0, 1], out of fold; examples with NaN are left out.
    correct : array of bool, shape (n_examples,)
    bins : int
        Groups of about equally many examples, in the order of their score.
    title : str

    Returns
    -------
    LayerChart
        Points with exact (Clopper-Pearson) 95 % intervals.

    Raises
    ------
    ValueError
        As for `roc`; or if a score is outside [0, 1], or there are fewer examples than bins.
    """
    bins = checks.whole("bins", bins, 1)
    score, wrong = _scored(score, correct)
    if score.min() < 0 or score.max() > 1:
        raise ValueError(
            f"calibration needs probabilities, got scores from {score.min():.3g} to "
            f"{score.max():.3g}. Give P(error), not the decision function."
        )
    if bins > len(score):
        raise ValueError(f"bins={bins} must be between 1 and the {len(score)} scored examples.")
    rows = []
    for group in np.array_split(np.argsort(score, kind="stable"), bins):
        n, k = len(group), int(wrong[group].sum())
        rows.append(
            {
                "predicted": float(score[group].mean()),
                "observed": k / n,
                "low": float(beta.ppf(0.025, k, n - k + 1)) if k else 0.0,
                "high": float(beta.ppf(0.975, k + 1, n - k)) if k < n else 1.0,
                "n": n,
            }
        )
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=_share(alt.X, "predicted", "Mean P(error) of the probe"),
        tooltip=[
            alt.Tooltip("predicted:Q", title="Mean P(error)", format=".3f"),
            alt.Tooltip("observed:Q", title="Wrong", format=".3f"),
            alt.Tooltip("low:Q", title="Wrong, lower bound", format=".3f"),
            alt.Tooltip("high:Q", title="Wrong, upper bound", format=".3f"),
            alt.Tooltip("n:Q", title="Examples", format="d"),
        ],
    )
    axis = _share(alt.Y, "observed", "Share of wrong answers")
    points = base.mark_line(
        strokeWidth=1.6, color=COLOURS[0], point=alt.OverlayMarkDef(size=70, color=COLOURS[0])
    ).encode(y=axis)
    bars = base.mark_rule(strokeWidth=1.6, color=COLOURS[0]).encode(
        y=_share(alt.Y, "low", "Share of wrong answers"), y2="high:Q"
    )
    brier = float(np.mean((score - wrong) ** 2))
    error = sum(row["n"] * abs(row["predicted"] - row["observed"]) for row in rows) / len(score)
    chart = alt.layer(_diagonal("predicted", "observed"), bars, points)
    return finished(
        chart.properties(width=HEIGHT, height=HEIGHT),
        title,
        f"Calibration of P(error) in {bins} groups of {len(score)} answers: share of wrong answers "
        f"against the mean prediction, mean distance {error:.3f}, Brier score {brier:.3f}.",
        subtitle=f"Brier score {brier:.3f}; n = {len(score)}",
    )


def score_distribution(
    score, correct, *, bins: int = 20, title: str = "Scores of correct and wrong answers"
) -> alt.Chart:
    """Draw how P(error) is distributed over the correct and over the wrong answers.

    Parameters
    ----------
    score : array of float, shape (n_examples,)
        P(error), out of fold; examples with NaN are left out.
    correct : array of bool, shape (n_examples,)
    bins : int
        Of equal width, over [0, 1], or over the range of the scores if it is wider.
    title : str

    Returns
    -------
    Chart
        Each class is a share of its own total, so that unequal classes can be compared.

    Raises
    ------
    ValueError
        As for `roc`; or if there is not at least one bin.
    """
    bins = checks.whole("bins", bins, 1, 10_000)
    score, wrong = _scored(score, correct)
    edges = np.linspace(min(0.0, score.min()), max(1.0, score.max()), bins + 1)
    names = {False: f"correct (n = {(~wrong).sum()})", True: f"wrong (n = {wrong.sum()})"}
    rows = []
    for side, name in names.items():
        counts = np.histogram(score[wrong == side], edges)[0]
        # A record at both edges of each bin, and the base line at either end: an outlined step.
        outline = [
            (edges[0], 0),
            *zip(np.repeat(edges, 2)[1:-1], np.repeat(counts, 2), strict=True),
        ]
        outline.append((edges[-1], 0))
        rows += [
            {"score": float(x), "share": float(count / counts.sum()), "answers": name, "order": i}
            for i, (x, count) in enumerate(outline)
        ]
    domain = list(names.values())
    legend = alt.Legend(orient="top", symbolType="stroke", symbolStrokeWidth=2.5, symbolSize=500)
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(strokeWidth=2.2)
        .encode(
            x=alt.X(
                "score:Q",
                title="P(error) of the probe",
                scale=alt.Scale(domain=[float(edges[0]), float(edges[-1])], nice=False),
            ),
            y=alt.Y(
                "share:Q", title="Share of the answers", stack=None, axis=alt.Axis(format=".0%")
            ),
            order="order:Q",
            color=_categories("answers:N", domain, COLOURS, legend),
            strokeDash=_categories("answers:N", domain, DASHES, legend),
        )
    )
    medians = {name: float(np.median(score[wrong == side])) for side, name in names.items()}
    return finished(
        chart.properties(width=WIDTH, height=220),
        title,
        "Distribution of P(error). "
        + " ".join(f"Median of {name}: {median:.2f}." for name, median in medians.items()),
    )


def _few(kind, labels):
    labels = list(labels)
    if len(labels) > len(COLOURS):
        raise ValueError(
            f"{len(labels)} {kind}s are more lines than can be told apart. "
            f"Choose at most {len(COLOURS)}, or draw a heatmap."
        )
    return labels


def _categories(field, domain, values, legend, title=None):
    channel = {id(COLOURS): alt.Color, id(DASHES): alt.StrokeDash, id(SHAPES): alt.Shape}
    scale = alt.Scale(domain=domain, range=values[: len(domain)])
    return channel[id(values)](field, title=title, scale=scale, legend=legend)


def _auroc_axis(rows, field):
    """Return a y axis that reaches down to 0.4, or as far as the values do, and up to 1."""
    drawn = [row[name] for row in rows for name in ("auroc", "auroc_low") if name in row]
    lowest = min((value for value in drawn if value is not None), default=0.5)
    scale = alt.Scale(domain=[min(0.4, float(np.floor(lowest * 10)) / 10), 1.0], zero=False)
    return alt.Y(f"{field}:Q", title="AUROC of error detection", scale=scale)


def _share(channel, field, title):
    return channel(f"{field}:Q", title=title, scale=alt.Scale(domain=[0, 1]))


def _chance(rows):
    rule = alt.Chart(alt.Data(values=[{"chance": 0.5}])).mark_rule(color=FAINT, strokeDash=[2, 2])
    return rule.encode(y=_auroc_axis(rows, "chance"))


def _diagonal(x, y):
    data = alt.Data(values=[{x: 0, y: 0}, {x: 1, y: 1}])
    line = alt.Chart(data).mark_line(color=FAINT, strokeDash=[2, 2], strokeWidth=1.2)
    return line.encode(x=f"{x}:Q", y=f"{y}:Q")


def _peak(rows, kind, label, along):
    series = [row for row in rows if row[kind] == label and row["auroc"] is not None]
    if not series:
        return f"{kind.capitalize()} {label}: not measured."
    best = max(series, key=lambda row: row["auroc"])
    return f"{kind.capitalize()} {label}: highest {best['auroc']:.2f} at {along} {best[along]}."


def _scored(score, correct):
    """Return the scores that exist, and whether each answer is wrong."""
    try:
        score = np.asarray(score, dtype=float)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(
            f"score must be numbers, one an example; got {checks.shown(score)}."
        ) from None
    try:
        correct = np.asarray(correct)
    except (TypeError, ValueError):
        raise TypeError(
            f"correct must be True or False, one an example; got {checks.shown(correct)}."
        ) from None
    if score.ndim != 1 or score.shape != correct.shape:
        raise ValueError(
            "score and correct must have one value an example, got shapes "
            f"{score.shape} and {correct.shape}. Select one cell: grid.score.sel(layer=, token=)."
        )
    if correct.dtype != bool:
        raise ValueError(
            f"correct must hold True and False, it holds {checks.held(correct.dtype)}."
        )
    there = np.isfinite(score)
    score, wrong = score[there], ~correct[there]
    if not 0 < wrong.sum() < len(wrong):
        raise ValueError(
            f"Both correct and wrong answers are needed, got {int(wrong.sum())} wrong among "
            f"{len(wrong)} scored examples."
        )
    return score, wrong
