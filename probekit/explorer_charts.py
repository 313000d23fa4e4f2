"""The explorer's charts: a heatmap to be clicked, and what is behind a cell of it."""

import altair as alt

from probekit.chart_parts import finished
from probekit.charts import heatmap
from probekit.score_charts import roc, score_distribution

#: Names of the heatmap's parameters: what was clicked, and the cell that is framed.
CLICKED, CHOSEN = "clicked", "chosen"


def clickable_heatmap(grid, *, measure, tokens, title, cell):
    """Draw the heatmap with one cell framed; a click on another selects its layer and token.

    Parameters
    ----------
    grid, measure, tokens, title
        As for `heatmap`.
    cell : (int, str)
        Layer and token that are framed at first; `chosen_value` of another, as the value of the
        parameter `CHOSEN`, moves the frame.

    Returns
    -------
    LayerChart
        With a point selection `CLICKED` over layer and token.

    Raises
    ------
    TypeError, ValueError
        As for `heatmap`.
    """
    chart = heatmap(grid, measure=measure, tokens=tokens, title=title)
    cells = chart.layer[0]
    # Cleared when the pointer leaves, so that a second click on the same cell is news again.
    clicked = alt.selection_point(
        name=CLICKED, fields=["layer", "token"], toggle=False, clear="pointerout"
    )
    chosen = alt.param(name=CHOSEN, value=chosen_value(*cell))
    base = (
        alt.Chart(cells.data)
        .encode(x=cells.encoding.x, y=cells.encoding.y, tooltip=cells.encoding.tooltip)
        .transform_filter(f"datum.layer + ' ' + datum.token === {CHOSEN}")
    )
    frames = [
        base.mark_rect(fill=None, stroke=colour, strokeWidth=width)
        for colour, width in (("white", 5), ("black", 2.5))
    ]
    layers = [cells.mark_rect(cursor="pointer"), *chart.layer[1:], *frames]
    chart = chart.copy(deep=False)
    chart.layer = layers
    return chart.add_params(clicked, chosen)


def chosen_value(layer, token):
    """A cell as the value of the parameter `CHOSEN`."""
    return f"{layer} {token}"


def cell_charts(score, correct, *, title=""):
    """Draw the ROC curve of a cell over the distribution of its scores.

    Parameters
    ----------
    score, correct
        As for `roc`.
    title : str

    Returns
    -------
    VConcatChart

    Raises
    ------
    ValueError
        As for `roc`.
    """
    parts = [
        roc(score, correct).properties(width=230, height=210),
        score_distribution(score, correct).properties(width=300, height=150),
    ]
    description = " ".join(part.description for part in parts)
    for part in parts:
        # Only the whole may have these.
        part.config = part.background = alt.Undefined
    # A legend beside its own chart, not over both.
    chart = alt.vconcat(*parts, spacing=18).resolve_scale(
        color="independent", strokeDash="independent"
    )
    return finished(chart, title, description)
