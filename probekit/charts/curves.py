"""Altair charts of how one cell's error score behaves: ROC, calibration, risk, distributions."""

from collections.abc import Mapping

import altair as alt
import numpy as np
from scipy.stats import beta
from sklearn.metrics import roc_auc_score, roc_curve

from probekit import arguments
from probekit.charts.look import COLOURS, DASHES, FAINT, categories, finished, number, tooltips

_SIDE = 280  # pixels

_ORACLE = "knows which are wrong"


def roc(score, correct):
    """Draw the ROC curve of one cell: errors found against correct answers flagged."""
    score, wrong = _scored(score, correct)
    rows = [
        {"flagged": float(x), "found": float(y), "threshold": number(t)}
        for x, y, t in zip(*roc_curve(wrong, score), strict=True)
    ]
    curve = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(strokeWidth=2.2, color=COLOURS[0])
        .encode(
            x=_share(alt.X, "flagged", "Correct answers flagged"),
            y=_share(alt.Y, "found", "Errors found"),
            order=alt.Order("found:Q"),
            tooltip=tooltips(rows[0]),
        )
    )
    area = roc_auc_score(wrong, score)
    counts = f"{int(wrong.sum())} wrong and {int((~wrong).sum())} correct answers"
    return finished(
        _over_diagonal("flagged", "found", curve),
        "ROC of error detection",
        f"ROC curve of error detection, AUROC {area:.3f}, over {counts}.",
        subtitle=f"AUROC {area:.3f}; {counts}",
    )


def calibration(score, correct, *, bins=10, title="Calibration"):
    """Draw a reliability diagram: the share of wrong answers against the P(error) they were given.

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
        Points with exact (Clopper-Pearson) 95 % intervals. Its subtitle has the expected
        calibration error (ECE: mean distance of the points from the diagonal, weighted by their
        answers), and the Brier score beside that of the error rate in the score's place.

    Raises
    ------
    TypeError, ValueError
        As for `score_distribution`; or if a score is outside [0, 1], or there are fewer examples
        than bins.

    Examples
    --------
    >>> import probekit as pk
    >>> p = pk.Run("data/example").detector().p_error
    >>> chart = pk.calibration(p.to_numpy(), p["correct"].to_numpy())
    >>> pk.save_chart(chart, "calibration.png")
    [PosixPath('calibration.png')]
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
        x=_share(alt.X, "predicted", "Mean P(error) of the probe"), tooltip=tooltips(rows[0])
    )
    points = base.mark_line(
        strokeWidth=1.6, color=COLOURS[0], point=alt.OverlayMarkDef(size=70, color=COLOURS[0])
    ).encode(y=_share(alt.Y, "observed", "Share of wrong answers"))
    bars = base.mark_rule(strokeWidth=1.6, color=COLOURS[0]).encode(
        y=_share(alt.Y, "low", "Share of wrong answers"), y2="high:Q"
    )
    ece = sum(row["n"] * abs(row["predicted"] - row["observed"]) for row in rows) / len(score)
    brier, rate = float(np.mean((score - wrong) ** 2)), float(wrong.mean())
    found = (
        f"ECE {ece:.2f}; Brier {brier:.2f} (base rate {rate * (1 - rate):.2f}); n = {len(score)}"
    )
    return finished(
        _over_diagonal("predicted", "observed", bars, points),
        title,
        f"Reliability diagram of P(error): share of wrong answers against the mean prediction in "
        f"{bins} groups of about equally many answers. {found}.",
        subtitle=found,
    )


def risk_coverage(scores, correct, *, title="Error rate of the answers that are given"):
    """Draw the error rate of the answers that are given, when the most doubtful are withheld.

    Parameters
    ----------
    scores : mapping of str to array of float, shape (n_examples,)
        At most six, by the name in the legend; each is higher for answers more likely wrong. Only
        their order counts. Drawn are the answers that all scores have: elsewhere one is NaN.
    correct : array of bool, shape (n_examples,)
    title : str

    Returns
    -------
    LayerChart
        One line each, from the least doubtful 5 % of the answers to all of them; one of a score
        that knows which are wrong; and a rule at the error rate of all answers. Answers with the
        same score are given in random order: the line is the mean over the orders.

    Raises
    ------
    TypeError, ValueError
        As for `score_distribution`; or if scores is no mapping, is empty or has more than six.

    Examples
    --------
    >>> import probekit as pk
    >>> p = pk.Run("data/example").detector().p_error
    >>> chart = pk.risk_coverage({"detector": p.to_numpy()}, p["correct"].to_numpy())
    >>> pk.save_chart(chart, "risk_coverage.png")
    [PosixPath('risk_coverage.png')]
    """
    if not isinstance(scores, Mapping):
        raise TypeError(
            "scores must be a dict of name to score, such as {'probe': score}; got "
            f"{arguments.shown(scores)}."
        )
    if not 0 < len(scores) < len(COLOURS):
        raise ValueError(
            f"{len(scores)} scores can't be drawn. Choose from one to {len(COLOURS) - 1} of them."
        )
    for score in scores.values():
        _scored(score, correct)
    arrays = {str(name): _array("score", score, float, "numbers") for name, score in scores.items()}
    common = np.isfinite(list(arrays.values())).all(0)
    arrays = {n: _scored(np.where(common, a, np.nan), correct) for n, a in arrays.items()}
    wrong = next(iter(arrays.values()))[1]
    n, rate = len(wrong), float(wrong.mean())
    # Points at most, so that a chart of a hundred thousand answers can be opened.
    given = np.unique(np.linspace(np.ceil(n / 20), n, 200).round().astype(int))

    def risk(score):
        """Share of errors among the first of the answers, with ties in random order."""
        found, counts = np.unique(score, return_inverse=True, return_counts=True)[1:]
        errors = np.bincount(found, wrong)
        ends = np.cumsum([0, *counts])
        return np.interp(given, ends, np.cumsum([0, *errors])) / given

    lines = {name: risk(score) for name, (score, _) in arrays.items()} | {_ORACLE: risk(wrong)}
    rows = [
        {"score": name, "given": float(k / n), "risk": float(value)}
        for name, values in lines.items()
        for k, value in zip(given, values, strict=True)
    ]
    domain = list(lines)
    # The score that knows is black, whatever number of others there is.
    colours = [*COLOURS[: len(domain) - 1], COLOURS[-1]]
    dashes = [*DASHES[: len(domain) - 1], DASHES[-1]]
    legend = alt.Legend(
        orient="bottom",
        columns=1,
        symbolType="stroke",
        symbolFillColor="transparent",
        symbolStrokeWidth=2.5,
        symbolSize=500,
    )
    y = alt.Y("risk:Q", title="Error rate of the answers given", axis=alt.Axis(format=".0%"))
    curves = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(strokeWidth=2.2)
        .encode(
            x=_share(alt.X, "given", "Share of the answers that are given").axis(
                format=".0%", tickCount=5
            ),
            y=y,
            color=categories(alt.Color, "score:N", domain, colours, legend),
            strokeDash=categories(alt.StrokeDash, "score:N", domain, dashes, legend),
            tooltip=[alt.Tooltip("score:N", title="Score"), *tooltips(rows[0])],
        )
    )
    rule = alt.Chart(alt.Data(values=[{"risk": rate}])).mark_rule(color=FAINT, strokeDash=[2, 2])
    chart = alt.layer(rule.encode(y=y), curves).properties(width=320, height=260)
    half = int(np.abs(given / n - 0.5).argmin())
    stated = " ".join(f"{name}: {values[half]:.2f}." for name, values in lines.items())
    return finished(
        chart,
        title,
        f"Error rate against the share of answers given, over {n} answers, {rate:.2f} of them "
        f"wrong. Error rate when half are given: {stated}",
        subtitle=f"n = {n}; base rate {rate:.2f} (dotted)",
    )


def score_distribution(score, correct, *, bins=20, title="Scores of correct and wrong answers"):
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
        Each class is a share of its own total, so that unequal classes can be compared. The
        subtitle has the medians: of the correct answers, and of the wrong ones.

    Raises
    ------
    TypeError, ValueError
        If score and correct are not one number and one bool for each example, or all scored
        answers are of one class, or there is not at least one bin.

    Examples
    --------
    >>> import probekit as pk
    >>> p = pk.Run("data/example").detector().p_error
    >>> chart = pk.score_distribution(p.to_numpy(), p["correct"].to_numpy())
    >>> pk.save_chart(chart, "score_distribution.png")
    [PosixPath('score_distribution.png')]
    """
    bins = arguments.whole("bins", bins, 1, 10_000)
    score, wrong = _scored(score, correct)
    edges = np.linspace(min(0.0, score.min()), max(1.0, score.max()), bins + 1)
    names = {False: f"correct (n = {(~wrong).sum()})", True: f"wrong (n = {wrong.sum()})"}
    rows = []
    for side, name in names.items():
        counts = np.histogram(score[wrong == side], edges)[0]
        # A record at both edges of each bin, and the base line at either end: an outlined step.
        outline = zip(np.repeat(edges, 2), [0, *np.repeat(counts, 2), 0], strict=True)
        rows += [
            {"score": float(x), "share": float(count / counts.sum()), "answers": name, "order": i}
            for i, (x, count) in enumerate(outline)
        ]
    domain = list(names.values())
    legend = alt.Legend(orient="bottom", symbolType="stroke", symbolStrokeWidth=2.5, symbolSize=500)
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
                "share:Q",
                title="Share of the answers of its kind",
                stack=None,
                # The last label is at the edge, so that titles of charts side by side are level.
                scale=alt.Scale(nice=5),
                axis=alt.Axis(format=".0%", tickCount=5),
            ),
            order="order:Q",
            color=categories(alt.Color, "answers:N", domain, COLOURS, legend),
            strokeDash=categories(alt.StrokeDash, "answers:N", domain, DASHES, legend),
        )
        .properties(width=320, height=_SIDE)
    )
    medians = {name: float(np.median(score[wrong == side])) for side, name in names.items()}
    stated = " ".join(f"Median of {name}: {median:.2f}." for name, median in medians.items())
    return finished(
        chart,
        title,
        f"Distribution of P(error). {stated}",
        subtitle="medians {:.2f} and {:.2f}".format(*medians.values()),
    )


def _share(channel, field, title):
    return channel(f"{field}:Q", title=title, scale=alt.Scale(domain=[0, 1]))


def _over_diagonal(x, y, *layers):
    data = alt.Data(values=[{x: 0, y: 0}, {x: 1, y: 1}])
    line = alt.Chart(data).mark_line(color=FAINT, strokeDash=[2, 2], strokeWidth=1.2)
    line = line.encode(x=f"{x}:Q", y=f"{y}:Q")
    return alt.layer(line, *layers).properties(width=_SIDE, height=_SIDE)


def _scored(score, correct):
    """The scores that exist, and whether each answer is wrong."""
    score = _array("score", score, float, "numbers")
    correct = _array("correct", correct, None, "True or False")
    if score.ndim != 1 or score.shape != correct.shape:
        raise ValueError(
            "score and correct must have one value for each example, got shapes "
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


def _array(name, values, dtype, content):
    try:
        return np.asarray(values, dtype)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(
            f"{name} must be {content}, one for each example; got {arguments.shown(values)}."
        ) from None
