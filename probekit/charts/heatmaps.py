"""Altair charts of a grid: heatmaps of layers by tokens, alone, side by side and as differences.

Every chart is usable on its own, carries a text alternative in its ``description``, and reads its
cells by name (layer, token) from an xarray Dataset. What is missing is hatched, never drawn as a
value.
"""

from collections.abc import Mapping
from itertools import chain
from numbers import Real
from pathlib import PurePath

import altair as alt
import numpy as np
import xarray as xr

from probekit import arguments
from probekit.charts.look import (
    COLOURS,
    INK,
    cell_rows,
    check_detector,
    finished,
    number,
    signed,
    tooltips,
)
from probekit.tokens import FIGURE_TOKENS

#: What a heatmap can draw: legend title, colour domain, legend values.
MEASURES = {
    "auroc": (["AUROC of", "error detection"], (0.5, 1.0), (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)),
    "correlation": (["|r| of score", "with correctness"], (0.0, 1.0), (0, 0.2, 0.4, 0.6, 0.8, 1)),
}

#: How a split is called where there is room for words.
SPLITS = {
    "random": "random folds",
    "answer": "answers held out",
    "gold": "accepted answers held out",
    "group": "groups of questions held out",
    "published": "one split, as published",
}

_TITLE = "Layer vs. Token Correlation"

# The notes on cells, as the legend has them.
_UNMEASURED, _UNCLEAR, _WORSE = "not measured", "interval includes 0", "worse"
_UNCLEAR_AT_ONCE = "simultaneous interval includes 0"
_NO_SIGNAL = "no signal, or not measured"
_BEST, _RIVAL = "best cell", "not distinguishable"
_BELOW = "below chance"


def heatmap(
    grid,
    *,
    measure="auroc",
    title=_TITLE,
    tokens=FIGURE_TOKENS,
    mute=False,
    outline=(),
    detector=None,
    common=False,
):
    """Draw the figure: tokens across, layers down, the measure in blues.

    Where the columns differ in their numbers of answers (``n_examples``) by more than a tenth,
    these stand above them.

    Parameters
    ----------
    grid : Dataset over (layer, token)
        With ``auroc``; for ``measure="correlation"`` with ``score(example, layer, token)`` and
        ``correct(example)``. ``auroc_low``, ``auroc_high``, ``n_examples``, ``p_value`` and
        ``p_corrected`` are shown in the tooltip where present. NaN cells are hatched, and those
        whose whole interval is below 0.5 have an orange mark.
    measure : {"auroc", "correlation"}
        AUROC of error detection on [0.5, 1], where lower values get the lightest blue; or the
        absolute point-biserial correlation of the out-of-fold score with correctness on [0, 1].
    title : str
    tokens : sequence of str
        Columns, in this order. A known token that the grid lacks is an empty column.
    mute : bool or float
        Pale and dotted where the corrected p (``p_corrected``; where the grid has none,
        ``p_value``, and the legend says so) is above this level; True is 0.05.
    outline : sequence of (layer, token)
        Cells to outline: the first as the best, the others as not distinguishable from it.
    detector : Detector, optional
        From `detector`: strips at the right and below have the AUROC of each layer's and of each
        token's cells as one detector, the corner that of all. Muted by their own ``p_value``.
    common : bool
        Draw ``auroc_common``: all cells on the same answers, those that have all tokens. So columns
        differ by their token alone, and not by which answers have it.

    Returns
    -------
    LayerChart
        With a detector, a ConcatChart.

    Raises
    ------
    TypeError, ValueError
        If the grid is no Dataset, is empty or lacks a variable that is needed; or if the measure,
        a token or an outlined cell is unknown; or if a detector is given and the measure is not
        AUROC; or if common is asked for with another measure, a detector or mute.

    Examples
    --------
    >>> import probekit as pk
    >>> run = pk.Run("data/example")
    >>> chart = pk.heatmap(run.grid("answer"), mute=True)
    >>> chart.title.subtitle
    ['smollm2, cities, mlp_out, 965 answers, 494 wrong', 'answers held out; 114 of
    420 cells above chance']
    """
    common = arguments.flag("common", common)
    check_detector(detector)
    if detector is not None and measure != "auroc":
        raise ValueError(
            f"A detector is measured by its AUROC, and the cells by measure={measure!r}. Draw "
            "measure='auroc', or leave the detector out."
        )
    level = _level(mute)
    drawn, on = grid, None
    if common:
        if measure != "auroc" or detector is not None or level is not None:
            raise ValueError(
                "common=True draws an AUROC that has no p and no detector. Leave out measure, mute "
                "and detector."
            )
        arguments.grid(grid, ("auroc_common",))
        if "n_examples" not in grid["auroc_common"].attrs:
            raise ValueError(
                "'auroc_common' lacks the attribute 'n_examples': take the grid from probe_grid or "
                "Run.grid as it is."
            )
        on = f"on the {grid['auroc_common'].attrs['n_examples']} answers that have all tokens"
        # Without the intervals and numbers of answers, which are of the other AUROC.
        grid = grid[["auroc_common"]].rename(auroc_common="auroc")
    rows = _measured_rows(grid, measure, tokens)
    marked = [*_stated(rows, measure, level), *_outlined(rows, outline)]
    text = _describe(rows, measure, outline) + (f" Measured {on}." if common else "")
    subtitle = _subtitle(drawn, _tokens(rows), detector, on, level) or None
    if detector is None:
        panel = _panel(rows, _blues(measure), marked, counts=_counts(rows, measure))
        return finished(panel, title, text, subtitle)
    strips = _strip_rows(detector, _layers(rows), _tokens(rows))
    return finished(
        _with_strips(rows, marked, strips, level),
        title,
        f"{text} {_describe_strips(strips)}",
        subtitle,
    )


def _subtitle(grid, tokens, detector=None, on=None, level=None):
    """What the figure is of and what its colours can't say, a line each.

    Of what the grid's attributes do not say, nothing.
    """
    about, lines = grid.attrs, []
    names = (about.get(name) for name in ("model", "questions", "site"))
    of = [arguments.shown(PurePath(str(n)).name, 30).strip("'") for n in names if n]
    if of and "correct" in grid.coords and "score" in grid:
        drawn = grid["score"].sel(token=np.isin(grid["token"].to_numpy().astype(str), tokens))
        scored = drawn.notnull().any(("layer", "token")).to_numpy()
        wrong = int((scored & ~grid["correct"].to_numpy().astype(bool)).sum())
        of.append(f"{scored.sum()} answers, {wrong} wrong")
    if of:
        lines.append(", ".join(of))
    split = "published" if about.get("protocol") == "published" else about.get("split")
    folds = SPLITS.get(split, split)
    parts = [each for each in (folds, on) if each]
    if on is None and (found := _above_chance(grid, tokens, level or 0.05)):
        parts.append(found)
    if parts:
        lines.append("; ".join(parts))
    if detector is not None:
        area = "not measured"
        if np.isfinite(detector.auroc):
            area = f"{detector.auroc:.2f} [{detector.auroc_low:.2f}, {detector.auroc_high:.2f}]"
        lines.append(f"all cells together: {area}")
        if np.isfinite(getattr(detector, "gain", np.nan)):
            gains = (detector.gain, detector.gain_low, detector.gain_high)
            lines[-1] += "; less all controls: {} [{}, {}]".format(*(signed(g) for g in gains))
    return lines


def _above_chance(grid, tokens, level):
    """How many of the drawn cells are above chance; empty where that could not be shown."""
    # Fewer permutations could not show that any cell is.
    if "p_corrected" not in grid or grid.sizes.get("permutation", 0) < 19:
        return ""
    named = grid["token"].to_numpy().astype(str)
    p = arguments.variable(grid, "p_corrected", ("layer", "token"))
    p = p.to_numpy()[:, np.isin(named, tokens)]
    above, n = int((p <= level).sum()), int((~np.isnan(p)).sum())
    at = "" if level == 0.05 else f" (p of at most {level:g})"
    nothing = "" if above else ": nothing is shown"
    return f"{above or 'none'} of {n} cells above chance{at}{nothing}" if n else ""


def compare_splits(grids, *, measure="auroc", title=_TITLE, tokens=FIGURE_TOKENS, mute=False):
    """Draw the heatmaps of several splits side by side, on one scale.

    Parameters
    ----------
    grids : mapping of name to Dataset
        Such as ``{"random": ..., "answer": ...}``, with the same layers; the names are drawn over
        the panels.
    measure, title, tokens, mute
        As for `heatmap`.

    Returns
    -------
    HConcatChart
        Below each name stands how many of the cells are above chance, where the grid can tell.

    Raises
    ------
    TypeError, ValueError
        As for `heatmap`; or if it is no mapping of grids, or they differ in their layers.

    Examples
    --------
    >>> import probekit as pk
    >>> run = pk.Run("data/examples/cities")
    >>> grids = {split: run.grid(split) for split in ("random", "answer")}
    >>> chart = pk.compare_splits(grids)
    >>> pk.save_chart(chart, "compare_splits.png")
    [PosixPath('compare_splits.png')]
    """
    panels = _panels(grids, measure, tokens)
    if len({tuple(_layers(rows)) for rows in panels.values()}) > 1:
        raise ValueError("The grids have different layers. Use small_multiples to compare models.")
    level = _level(mute)
    charts = _drawn(panels, measure, len(panels), level=level)
    text = _describe_panels(panels, measure)
    for chart, (name, grid) in zip(charts, grids.items(), strict=True):
        if found := _above_chance(grid, _tokens(panels[name]), level or 0.05):
            chart.title = alt.TitleParams(chart.title, subtitle=found)
            text += f" {name}: {found}."
    return finished(alt.hconcat(*charts, spacing=24), title, text)


def small_multiples(grids, *, measure="auroc", title=_TITLE, tokens=FIGURE_TOKENS, columns=3):
    """Draw one small heatmap a run (model, site or question file), all on one scale.

    Parameters
    ----------
    grids : mapping of name to Dataset
        They may have different numbers of layers: each panel has its own layer axis.
    measure, title, tokens
        As for `heatmap`.
    columns : int
        Panels in a row.

    Returns
    -------
    ConcatChart

    Raises
    ------
    TypeError, ValueError
        As for `heatmap`; or if it is no mapping of grids, or there is not at least one column.

    Examples
    --------
    >>> import probekit as pk
    >>> runs = [pk.Run(f"data/examples/{name}") for name in ("cities", "products")]
    >>> chart = pk.small_multiples({run.name: run.grid() for run in runs})
    >>> pk.save_chart(chart, "small_multiples.png")
    [PosixPath('small_multiples.png')]
    """
    columns = arguments.whole("columns", columns, 1)
    panels = _panels(grids, measure, tokens)
    # Panels of about one size; where there are few cells, these are no posters.
    cells = [
        (
            int(np.clip(208 // len(_tokens(rows)), 15, 40)),
            int(np.clip(208 // len(_layers(rows)), 3, 40)),
        )
        for rows in panels.values()
    ]
    charts = _drawn(panels, measure, columns, cells=cells)
    chart = alt.concat(*charts, columns=columns, spacing=16).resolve_scale(y="independent")
    return finished(chart, title, _describe_panels(panels, measure))


def gain(grid, *, title=None, tokens=FIGURE_TOKENS):
    """Draw how far each cell's AUROC exceeds that of the controls, or that of another grid.

    Blue is better and orange worse, which colour-blind readers tell apart. In
    greyscale too: cells whose interval includes 0 are dotted and pale, those below it have a
    minus sign.

    Parameters
    ----------
    grid : Dataset
        From `gain_over_controls`: ``gain(layer, token)``, a difference of AUROCs in [-1, 1].
        ``gain_low_simultaneous`` and ``gain_high_simultaneous`` decide on dots and minus signs;
        where they are absent, ``gain_low`` and ``gain_high``, if present. The attribute
        ``control`` is "all" where the gain is over all controls together. Or from `difference`,
        whose variables are ``difference(layer, token)`` and so on.
    title : str, optional
        By default it says over what the gain is.
    tokens
        As for `heatmap`.

    Returns
    -------
    LayerChart
        Its subtitle says how many cells are higher and how many lower, by the same intervals.

    Raises
    ------
    TypeError, ValueError
        As for `heatmap`.

    Examples
    --------
    >>> import probekit as pk
    >>> run = pk.Run("data/examples/cities")
    >>> chart = pk.gain(pk.gain_over_controls(run.grid(), run.controls()))
    >>> pk.save_chart(chart, "gain.png")
    [PosixPath('gain.png')]
    """
    subtitle = None
    if isinstance(grid, xr.Dataset) and "difference" in grid and "gain" not in grid:
        names = {str(n): str(n).replace("difference", "gain") for n in grid.data_vars}
        grid = grid.rename(names)
        what, heading = ["Difference in", "AUROC"], "Difference in AUROC"
        a, b = (arguments.shown(str(grid.attrs.get(n, f"grid_{n}")), 60).strip("'") for n in "ab")
        subtitle = [f"{a} less {b}"]
        if grid.attrs.get("comparison") == "paired":
            subtitle.append(f"on the {grid.attrs.get('n_shared')} answers that both have")
    else:
        together = grid.attrs.get("control") == "all" if isinstance(grid, xr.Dataset) else False
        rival = "all controls together" if together else "the best control"
        what, heading = ["Gain in AUROC over", rival], f"Gain over {rival}"
    rows = cell_rows(grid, arguments.variable(grid, "gain", ("layer", "token")), tokens)
    extent = max((abs(row["gain"]) for row in rows if row["gain"] is not None), default=0)
    extent = max(0.1, float(np.ceil(extent * 10 - 1e-9)) / 10)  # symmetric, in whole tenths
    colour = alt.Color(
        "gain:Q",
        title=what,
        scale=alt.Scale(scheme="blueorange", reverse=True, domain=[-extent, extent], domainMid=0),
        legend=alt.Legend(
            orient="right",
            values=[-extent, -extent / 2, 0, extent / 2, extent],
            format="+.2f",
            labelExpr="datum.value == 0 ? '0' : datum.label",
            gradientLength=180,
        ),
    )
    marked = _stated(rows, "gain")
    name = " ".join(what)
    text = _describe(rows, "gain", name=name[0].lower() + name[1:])
    for note in dict.fromkeys(row["state"] for row in marked if row["state"] != _UNMEASURED):
        text += f" {sum(row['state'] == note for row in marked)} cells: {note}."
    if subtitle:
        text += f" {'; '.join(subtitle)}."
    title = heading if title is None else title
    low, high = _gain_bounds(rows[0])
    known = [row for row in rows if None not in (row.get(low), row.get(high))]
    if known:
        higher, lower = (sum(row[low] > 0 for row in known), sum(row[high] < 0 for row in known))
        counts = f"{higher or 'none'} of {len(known)} cells higher, {lower or 'none'} lower"
        subtitle = [*(subtitle or []), counts]
    return finished(_panel(rows, colour, marked), title, text, subtitle)


def absorbed(gains, *, title="Signal that the controls have too", tokens=FIGURE_TOKENS):
    """Draw which share of each cell's signal the controls absorb.

    Parameters
    ----------
    gains : Dataset
        From `gain_over_controls`: ``absorbed(layer, token)`` in [0, 1]. At 0 the cell knows what
        the controls do not, at 1 nothing beyond them. Cells without a signal of which there could
        be a share are NaN, and hatched.
    title, tokens
        As for `heatmap`.

    Returns
    -------
    LayerChart

    Raises
    ------
    TypeError, ValueError
        As for `heatmap`.

    Examples
    --------
    >>> import probekit as pk
    >>> run = pk.Run("data/examples/cities")
    >>> chart = pk.absorbed(pk.gain_over_controls(run.grid(), run.controls()))
    >>> pk.save_chart(chart, "absorbed.png")
    [PosixPath('absorbed.png')]
    """
    values = arguments.variable(gains, "absorbed", ("layer", "token"), "gains")
    rows = cell_rows(gains, values, tokens)
    colour = alt.Color(
        "absorbed:Q",
        title=["Share of the signal", "that controls absorb"],
        scale=alt.Scale(scheme="purples", domain=[0, 1]),
        legend=alt.Legend(
            orient="right", values=[0, 0.25, 0.5, 0.75, 1], format=".0%", gradientLength=180
        ),
    )
    name = "share of the signal that the controls absorb"
    text = _describe(rows, "absorbed", name=name)
    return finished(_panel(rows, colour, _stated(rows, "absorbed")), title, text)


def answer_path(scores, *, title, subtitle, tokens=FIGURE_TOKENS):
    """Draw the path of one answer through the layers: its P(error) at each layer and token.

    Blue below 0.5 and orange above it, as `show_tokens` colours tokens; NaN cells are hatched.

    Parameters
    ----------
    scores : DataArray over (layer, token)
        P(error), a probability, of one answer: ``grid.score.isel(example=0)``.
    title : str
    subtitle : list of str
        A line each.
    tokens
        As for `heatmap`.

    Returns
    -------
    LayerChart

    Raises
    ------
    TypeError, ValueError
        As for `heatmap`.
    """
    grid = scores.rename("p_error").to_dataset()
    rows = cell_rows(grid, arguments.variable(grid, "p_error", ("layer", "token")), tokens)
    legend = alt.Legend(
        orient="right", values=[0, 0.25, 0.5, 0.75, 1], format=".2f", gradientLength=120
    )
    colours = [COLOURS[0], "white", COLOURS[1]]
    colour = alt.Color(
        "p_error:Q",
        title="P(error)",
        scale=alt.Scale(domain=[0, 0.5, 1], range=colours, interpolate="rgb", clamp=True),
        legend=legend,
    )
    height = int(np.clip(270 // len(_layers(rows)), 4, 15))
    panel = _panel(rows, colour, _stated(rows, "p_error"), cell=(16, height))
    text = f"{_describe(rows, 'p_error', name='P(error) of one answer')} {' '.join(subtitle)}"
    return finished(panel, title, text, subtitle)


def point_biserial(grid):
    """Absolute correlation of each cell's error score with correctness: (layer, token)."""
    score = arguments.variable(grid, "score", ("example", "layer", "token")).astype("float64")
    correct = arguments.variable(grid, "correct", ("example",)).astype("float64")
    correct = correct.where(score.notnull())
    # Not xr.corr: it returns rounding noise, not NaN, where one side is constant.
    deviation, side = score - score.mean("example"), correct - correct.mean("example")
    spread = np.sqrt((deviation**2).sum("example") * (side**2).sum("example"))
    known = (score.count("example") >= 3) & (spread > 1e-12)
    r = np.abs((deviation * side).sum("example") / spread.where(known))
    return r.clip(max=1).transpose("layer", "token")


def _measured_rows(grid, measure, tokens):
    arguments.one_of("measure", measure, MEASURES)
    if measure == "auroc":
        return cell_rows(grid, arguments.variable(grid, "auroc", ("layer", "token")), tokens)
    return cell_rows(grid, point_biserial(grid).rename(measure), tokens)


def _panels(grids, measure, tokens):
    """The records of several grids, by name."""
    if not isinstance(grids, Mapping) or isinstance(grids, xr.Dataset):
        raise TypeError(
            "grids must be a dict of name to grid, such as {'random': run.grid('random')}; got "
            f"{arguments.shown(grids)}."
        )
    if not grids:
        raise ValueError("There is no grid to draw: the dict is empty.")
    return {name: _measured_rows(grid, measure, tokens) for name, grid in grids.items()}


def _drawn(panels, measure, columns, level=None, cells=None):
    """A chart a panel. They share one legend, so each has all notes, in marks of one size."""
    # Small cells have no room for the mark of those below chance.
    marked = [_stated(rows, measure, level, below=not cells) for rows in panels.values()]
    all_marked = list(chain.from_iterable(marked))
    return [
        _panel(
            rows,
            _blues(measure),
            marked[i],
            all_marked,
            cell=cells and cells[i],
            mark_height=cells and min(20, *(height for _, height in cells)),
            y_title="" if i % columns else "Layer",
        ).properties(title=str(name))
        for i, (name, rows) in enumerate(panels.items())
    ]


def _layers(rows):
    return sorted({row["layer"] for row in rows})


def _tokens(rows):
    return list(dict.fromkeys(row["token"] for row in rows))


def _level(mute):
    """The highest p that is significant, or None if nothing is to be muted."""
    if mute is False or mute is None:
        return None
    level = 0.05 if mute is True else mute
    expected = f"mute must be True, False or a level between 0 and 1, got {arguments.shown(mute)}."
    if not isinstance(level, Real):
        raise TypeError(expected)
    if not 0 < level < 1:
        raise ValueError(expected)
    return level


def _blues(measure):
    legend, domain, values = MEASURES[measure]
    return alt.Color(
        f"{measure}:Q",
        title=legend,
        scale=alt.Scale(scheme="blues", domain=list(domain), clamp=True),
        legend=alt.Legend(orient="right", values=list(values), format=".1f", gradientLength=180),
    )


def _panel(
    rows,
    colour,
    marked,
    all_marked=None,
    *,
    cell=None,
    mark_height=None,
    y_title="Layer",
    x_axis=True,
    counts=None,
):
    """Draw the cells and the marks on them; without configuration, so that panels can be joined.

    `marked` of `_stated` and `_outlined`; `all_marked` those of all panels that share the legend;
    `counts` of `_counts`.
    """
    layers, tokens = _layers(rows), _tokens(rows)
    width, height = cell or _cell(layers)
    step = next(step for step in (2, 4, 8, 16, 32) if step * height >= 15 or step == 32)
    gaps = layers[-1] - layers[0] >= len(layers)
    ticks = layers if gaps and height >= 15 else [n for n in layers if n % step == 0] or layers
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X(
            "token:N",
            title="Token",
            scale=alt.Scale(domain=tokens),
            axis=_token_axis(width) if x_axis else None,
        ),
        # Layer 0 is at the top: an ordinal scale starts there.
        y=alt.Y(
            "layer:O",
            title=y_title,
            scale=alt.Scale(domain=layers),
            axis=alt.Axis(values=ticks, labelOverlap=False),
        ),
    )
    cells = base.mark_rect().encode(color=colour, tooltip=tooltips(rows[0]))
    marks = _marks(base, marked, all_marked or marked, width, mark_height or height)
    numbers = [] if not counts else _numbers(base, counts)
    return alt.layer(cells, *marks, *numbers).properties(
        width=width * len(tokens), height=height * len(layers)
    )


def _counts(rows, value):
    """Number of answers of each measured column, if they differ by more than a tenth."""
    counts = {}
    for row in rows:
        if row[value] is not None and row.get("n_examples") is not None:
            counts[row["token"]] = max(int(row["n_examples"]), counts.get(row["token"], 0))
    return counts if counts and min(counts.values()) < 0.9 * max(counts.values()) else {}


def _numbers(base, counts):
    """A row of small numbers above the columns, slanted where they are wider than a column."""
    slanted = max(counts.values()) > 999
    records = [{"token": token, "n": n} for token, n in counts.items()]
    numbers = base.properties(data=alt.Data(values=records)).mark_text(
        fontSize=11,
        color=INK,
        angle=315 if slanted else 0,
        align="left" if slanted else "center",
        baseline="middle" if slanted else "bottom",
    )
    name = base.properties(data=alt.Data(values=[{"name": "n"}])).mark_text(
        fontSize=11, color=INK, align="right", baseline="bottom"
    )
    above = {"y": alt.value(-4), "tooltip": alt.value(None)}
    return [
        numbers.encode(text="n:Q", **above),
        name.encode(x=alt.value(-8), text="name:N", **above),
    ]


def _cell(layers):
    """Width and height of a cell.

    Whole pixels: fractions would show as pale seams between the cells. Deep models get lower
    cells, down to a height at which a label at every second layer still has room for its line.
    """
    return 22, int(np.clip(450 // len(layers), 8, 20))


def _token_axis(width):
    return alt.Axis(labelAngle=-45 if width > 20 else -90, labelOverlap=False, labelLimit=0)


def _strip_rows(detector, layers, tokens):
    """Records of a detector: a layer's cells together, a token's, and all of them."""

    def of(source):
        names = ("auroc", "auroc_low", "auroc_high", "p_value", "n_examples")
        return {name: number(source.get(name, np.nan)) for name in names}

    by_layer = {int(row["layer"]): row for row in detector.by_layer.to_dict("records")}
    by_token = {str(row["token"]): row for row in detector.by_token.to_dict("records")}
    of_all = {name: getattr(detector, name) for name in of({}) if hasattr(detector, name)}
    return (
        [{"layer": n, "all_tokens": "all tokens"} | of(by_layer.get(n, {})) for n in layers],
        [{"all_layers": "all layers", "token": t} | of(by_token.get(t, {})) for t in tokens],
        [{"all_layers": "all layers", "all_tokens": "all tokens"} | of(of_all)],
    )


def _with_strips(rows, marked, strips, level):
    """Draw the cells and, at the right and below, the strips of a detector."""
    layers, tokens = _layers(rows), _tokens(rows)
    width, height = _cell(layers)
    below = max(height, 14)  # room for its label, however low the cells are
    colour = _blues("auroc")
    marked_strips = [_stated(strip, "auroc", level) for strip in strips]
    all_marked = [*marked, *chain.from_iterable(marked_strips)]

    def strip(i, x, y, height):
        base = alt.Chart(alt.Data(values=strips[i])).encode(x=x, y=y)
        cells = base.mark_rect().encode(color=colour, tooltip=tooltips(strips[i][0]))
        return alt.layer(cells, *_marks(base, marked_strips[i], all_marked, width, height))

    one_token = alt.X("all_tokens:N", title=None, axis=_token_axis(width))
    one_layer = alt.Y("all_layers:N", title=None, axis=alt.Axis(labelLimit=0))
    each_token = alt.X("token:N", title="Token", axis=_token_axis(width)).scale(domain=tokens)
    each_layer = alt.Y("layer:O", axis=None).scale(domain=layers)
    return alt.concat(
        _panel(rows, colour, marked, all_marked, x_axis=False, counts=_counts(rows, "auroc")),
        strip(0, alt.X("all_tokens:N", axis=None), each_layer, height).properties(
            width=width, height=height * len(layers)
        ),
        strip(1, each_token, one_layer, below).properties(width=width * len(tokens), height=below),
        strip(2, one_token, alt.Y("all_layers:N", axis=None), below).properties(
            width=width, height=below
        ),
        columns=2,
        spacing=6,
        bounds="flush",  # or the gap would be as wide as the labels below it
    )


def _stated(rows, value, level=None, below=True):
    """The records of the cells that need a mark, each with its ``state`` in words."""
    if level is not None:
        p = "p_corrected" if "p_corrected" in rows[0] else "p_value"
        if p not in rows[0]:
            raise ValueError("mute needs p_corrected or p_value in the grid, and it has neither.")
        muted = f"p > {level:g}" + ("" if p == "p_corrected" else ", uncorrected")

    gain_low, gain_high = _gain_bounds(rows[0])
    unclear = _UNCLEAR_AT_ONCE if gain_low.endswith("_simultaneous") else _UNCLEAR

    def state(row):
        if row[value] is None:
            return _NO_SIGNAL if value == "absorbed" else _UNMEASURED
        if below and value == "auroc" and _is_below(row):
            return _BELOW
        if level is not None and (row[p] is None or row[p] > level):
            return muted
        low, high = row.get(gain_low), row.get(gain_high)
        if value == "gain" and None not in (low, high):
            return unclear if low <= 0 <= high else _WORSE if high < 0 else None
        return None

    return [row | {"state": note} for row in rows if (note := state(row))]


def _gain_bounds(row):
    """Fields of the interval that a gain is judged by: that for all cells at once, if there."""
    both = ("gain_low_simultaneous", "gain_high_simultaneous")
    return both if row.keys() >= set(both) else ("gain_low", "gain_high")


def _is_below(row):
    """Whether the cell's whole interval is below chance."""
    high = row.get("auroc_high")
    return high is not None and high < 0.5


def _outlined(rows, outline):
    cells = {(row["layer"], row["token"]): row for row in rows}
    try:
        outline = [(layer, token) for layer, token in outline]
        wrong = [cell for cell in outline if cell not in cells]
    except (TypeError, ValueError, KeyError):  # altair's charts raise this where they are iterated
        raise TypeError(
            "outline must be a list of (layer, token) such as [(12, '-1')], got "
            f"{arguments.shown(outline)}."
        ) from None
    if wrong:
        raise ValueError(f"outline names cells that are not drawn: {wrong}. Give (layer, token).")
    return [cells[cell] | {"state": _RIVAL if i else _BEST} for i, cell in enumerate(outline)]


def _marks(base, marked, all_marked, width, height):
    """Hatch on grey what was not measured (Vega-Lite would leave it white), dot what is muted."""
    if not marked:
        return []
    names = {row["state"] for row in all_marked}
    states = [name for name in (_BEST, _RIVAL, _UNMEASURED, _NO_SIGNAL, _BELOW) if name in names]
    states += sorted(names - set(states))

    # A symbol of size 4 is drawn at the scale of its path, so these are pixels of the cell.
    def frame(inset):
        x, y = width / 2 - inset, height / 2 - inset
        return f"M{-x},{-y}L{x},{-y}L{x},{y}L{-x},{y}Z"

    dot = "M-0.7,0A0.7,0.7,0,1,1,0.7,0A0.7,0.7,0,1,1,-0.7,0"
    hatch = f"M{-width / 2},{height / 2}L{width / 2},{-height / 2}"
    paths = {
        _UNMEASURED: hatch,
        _NO_SIGNAL: hatch,
        _WORSE: "M-4,0L4,0",
        _BELOW: "M-4,-2L0,2L4,-2",
        _BEST: frame(1) + frame(2),
        _RIVAL: frame(1),
    }
    colours = {_BEST: "#000000", _RIVAL: COLOURS[1], _BELOW: COLOURS[1]}
    legend = alt.Legend(symbolSize=4, symbolOffset=8, labelOffset=12, rowPadding=6)
    shape = alt.Scale(domain=states, range=[paths.get(state, dot) for state in states])
    stroke = alt.Scale(domain=states, range=[colours.get(state, "#555555") for state in states])
    note = alt.Tooltip("state:N", title="Note")

    def over(wanted, fields=("layer", "token", "n_examples")):
        records = [row for row in marked if row["state"] in wanted]
        known = tooltips([name for name in fields if name in marked[0]])
        return base.properties(data=alt.Data(values=records)).encode(tooltip=[*known, note])

    pale = set(states) - set(paths)
    if pale:  # what is worse than chance is no darker than what can't be told from it
        pale.add(_BELOW)
    layers = [
        over({_UNMEASURED, _NO_SIGNAL}).mark_rect(color="#efefef"),
        over(pale, marked[0]).mark_rect(color="white", opacity=0.55),
        over({_BEST, _RIVAL}).mark_rect(fill=None, stroke="white", strokeWidth=4),
        over(states)
        .mark_point(size=4, opacity=1, strokeWidth=1.1)
        .encode(
            shape=alt.Shape("state:N", title=None, scale=shape, legend=legend),
            stroke=alt.Stroke("state:N", title=None, scale=stroke, legend=legend),
        ),
    ]
    return [layer for layer in layers if layer.data.values]


def _describe(rows, value, outline=(), name=None):
    layers, tokens = _layers(rows), _tokens(rows)
    name = name or " ".join(MEASURES[value][0])
    text = (
        f"Heatmap of the {name}: {len(layers)} layers ({layers[0]} to {layers[-1]}, top to bottom) "
        f"by {len(tokens)} tokens ({tokens[0]} to {tokens[-1]}). "
    )
    measured = [row for row in rows if row[value] is not None]
    if not measured:
        return text + "No cell is measured."
    best, worst = (pick(measured, key=lambda row: row[value]) for pick in (max, min))
    text += (
        f"Highest {best[value]:.2f} at layer {best['layer']}, token {best['token']}; "
        f"lowest {worst[value]:.2f} at layer {worst['layer']}, token {worst['token']}."
    )
    if len(outline) > 1:
        text += f" Cells not distinguishable from the best: {len(outline) - 1}."
    if value == "auroc" and (below := sum(map(_is_below, measured))):
        text += f" Cells below chance, with their whole interval: {below}."
    missing = len(rows) - len(measured)
    note = "have no signal or are not measured" if value == "absorbed" else "are not measured"
    return text + (f" {missing} of {len(rows)} cells {note}." if missing else "")


def _describe_strips(strips):
    """What the strips of a detector show, as the text alternative says it."""
    text = "All cells as one detector: "
    (of_all,) = strips[2]
    text += "not measured." if of_all["auroc"] is None else f"{of_all['auroc']:.2f}."
    for kind, strip in zip(("layer", "token"), strips, strict=False):
        measured = [row for row in strip if row["auroc"] is not None]
        if measured:
            best = max(measured, key=lambda row: row["auroc"])
            text += f" Cells of one {kind}: highest {best['auroc']:.2f} at {best[kind]}."
    return text


def _describe_panels(panels, measure):
    parts = [f"{name}: {_describe(rows, measure)}" for name, rows in panels.items()]
    return f"{len(parts)} heatmaps on one scale. " + " ".join(parts)
