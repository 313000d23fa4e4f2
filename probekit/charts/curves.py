"""Altair charts of how one cell's error score behaves: ROC, calibration, distributions."""

import altair as alt
import numpy as np
from scipy.stats import beta
from sklearn.metrics import roc_auc_score, roc_curve

from probekit import arguments
from probekit.charts.look import (
    COLOURS,
    DASHES,
    FAINT,
    categories,
    finished,
    number,
)

WIDTH, HEIGHT = 320, 280


def roc(score, correct, *, title: str = "ROC of error detection") -> alt.LayerChart:
    """Draw the ROC curve of one cell: errors found against correct answers flagged."""
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
    bins = arguments.whole("bins", bins, 1)
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
    bins = arguments.whole("bins", bins, 1, 10_000)
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
            color=categories(alt.Color, "answers:N", domain, COLOURS, legend),
            strokeDash=categories(alt.StrokeDash, "answers:N", domain, DASHES, legend),
        )
    )
    medians = {name: float(np.median(score[wrong == side])) for side, name in names.items()}
    return finished(
        chart.properties(width=WIDTH, height=220),
        title,
        "Distribution of P(error). "
        + " ".join(f"Median of {name}: {median:.2f}." for name, median in medians.items()),
    )


def _share(channel, field, title):
    return channel(f"{field}:Q", title=title, scale=alt.Scale(domain=[0, 1]))


def _diagonal(x, y):
    data = alt.Data(values=[{x: 0, y: 0}, {x: 1, y: 1}])
    line = alt.Chart(data).mark_line(color=FAINT, strokeDash=[2, 2], strokeWidth=1.2)
    return line.encode(x=f"{x}:Q", y=f"{y}:Q")


def _scored(score, correct):
    """Return the scores that exist, and whether each answer is wrong."""
    try:
        score = np.asarray(score, dtype=float)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(
            f"score must be numbers, one an example; got {arguments.shown(score)}."
        ) from None
    try:
        correct = np.asarray(correct)
    except (TypeError, ValueError):
        raise TypeError(
            f"correct must be True or False, one an example; got {arguments.shown(correct)}."
        ) from None
    if score.ndim != 1 or score.shape != correct.shape:
        raise ValueError(
            "score and correct must have one value an example, got shapes "
            f"{score.shape} and {correct.shape}. Select one cell: grid.score.sel(layer=, token=)."
        )
    if correct.dtype != bool:
        raise ValueError(
            f"correct must hold True and False, it holds {arguments.held(correct.dtype)}."
        )
    there = np.isfinite(score)
    score, wrong = score[there], ~correct[there]
    if not 0 < wrong.sum() < len(wrong):
        raise ValueError(
            f"Both correct and wrong answers are needed, got {int(wrong.sum())} wrong among "
            f"{len(wrong)} scored examples."
        )
    return score, wrong
