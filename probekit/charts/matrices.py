"""Charts of runs against runs: what each one's detector is worth on every other."""

import altair as alt
import numpy as np

from probekit import arguments
from probekit.charts.look import INK, finished, number, signed, tooltips

_WIDTH, _HEIGHT = 104, 58  # room for a number, and its interval below
_PALE = "#767676"
_FIELDS = ("auroc", "auroc_low", "auroc_high", "gain", "gain_low", "gain_high", "n_examples")
_PAIR = ("train", "test")
_UNMEASURED = "not measured"
# Of what is drawn: its name, whether a number has a sign, and the value that says nothing.
_AUROC = ("auroc", "AUROC", "", 0.5)
_GAIN = ("gain", "AUROC less that of the tested run's controls", "+", 0)


def transfer_matrix(transfers, *, title="Trained on one run, tested on another"):
    """Draw the detector of each run (rows) on the answers of every run (columns).

    On the left is the AUROC with its 95 % interval, on the right the same less the AUROC of the
    tested run's own controls, in blue where it is higher and orange where it is lower; where the
    interval includes 0, the cell is pale. The diagonal, each run's own cross-validated
    detector, is framed. What was not measured is grey, and says so.

    Parameters
    ----------
    transfers : Dataset
        From `transfer`: ``auroc(train, test)`` and ``gain(train, test)``, with intervals. Without
        any gain, there is no right half.
    title : str

    Returns
    -------
    HConcatChart

    Raises
    ------
    TypeError, ValueError
        If it is not from `transfer`, or the title is no text.

    Examples
    --------
    >>> import probekit as pk
    >>> runs = [pk.Run(f"data/examples/{name}") for name in ("cities", "products")]
    >>> chart = pk.transfer_matrix(pk.transfer(runs))
    >>> pk.save_chart(chart, "transfer_matrix.png")
    [PosixPath('transfer_matrix.png')]
    """
    for name in _FIELDS:
        arguments.variable(transfers, name, _PAIR, "transfers")
    names = {side: [str(name) for name in transfers[side].to_numpy()] for side in _PAIR}
    arrays = {name: transfers[name].transpose(*_PAIR).to_numpy() for name in _FIELDS}
    rows = [
        {"train": train, "test": test} | {name: number(arrays[name][i, j]) for name in _FIELDS}
        for i, train in enumerate(names["train"])
        for j, test in enumerate(names["test"])
    ]
    blues = alt.Scale(scheme="blues", domain=[0.5, 1.0], clamp=True)
    panels = [_panel(rows, names, *_AUROC, blues, [0.5, 0.6, 0.7, 0.8, 0.9, 1.0])]
    gains = [abs(row["gain"]) for row in rows if row["gain"] is not None]
    if gains:
        extent = max(0.1, float(np.ceil(max(gains) * 10 - 1e-9)) / 10)
        both = {"scheme": "blueorange", "reverse": True, "domainMid": 0}
        scale = alt.Scale(domain=[-extent, extent], **both)
        ticks = [-extent, -extent / 2, 0, extent / 2, extent]
        panels.append(_panel(rows, names, *_GAIN, scale, ticks))
    chart = alt.hconcat(*panels, spacing=30).resolve_scale(color="independent")
    return finished(chart, title, _described(rows))


def _panel(rows, names, value, label, sign, nothing, scale, ticks):
    """One matrix of coloured cells with their numbers."""
    drawn = [_written(row, value, sign, nothing, scale.domain) for row in rows]
    # Names that are wider than a column stand aslant; a letter is of about 8 pixels.
    aslant = 8 * max(map(len, names["test"])) > _WIDTH
    axis = alt.Axis(labelAngle=-30 * aslant, labelLimit=160, ticks=False, domain=False)
    base = alt.Chart(alt.Data(values=drawn)).encode(
        x=alt.X("test:N", title="Tested on", axis=axis, scale=alt.Scale(domain=names["test"])),
        y=alt.Y(
            "train:N",
            title="Trained on",
            axis=alt.Axis(labelLimit=160, ticks=False, domain=False),
            scale=alt.Scale(domain=names["train"]),
        ),
        tooltip=[*tooltips(rows[0]), alt.Tooltip("note:N", title="Note")],
    )
    legend = alt.Legend(
        orient="bottom",
        values=ticks,
        format=f"{sign}.2f" if sign else ".1f",
        labelExpr="datum.value == 0 ? '0' : datum.label",
        gradientLength=min(_WIDTH * len(names["test"]), 300),
        titleLimit=0,
    )
    colour = alt.Color(f"{value}:Q", title=label, scale=scale, legend=legend)

    def over(test):
        return base.transform_filter(test)

    size = {"width": _WIDTH - 3, "height": _HEIGHT - 3}
    layers = [
        over(f"datum.{value} === null").mark_rect(color="#efefef"),
        over(f"datum.{value} !== null").mark_rect().encode(color=colour),
        over("datum.pale").mark_rect(color="white", opacity=0.55),
        over("datum.train === datum.test").mark_rect(fill=None, stroke=INK, strokeWidth=2, **size),
    ]
    for field, shift, points in (("number", -8, 15), ("between", 10, 11)):
        text = base.mark_text(fontSize=points, dy=shift)
        layers.append(text.encode(text=f"{field}:N", color=alt.Color("ink:N", scale=None)))
    return (
        alt.layer(*layers)
        .resolve_scale(color="independent")
        .properties(width=_WIDTH * len(names["test"]), height=_HEIGHT * len(names["train"]))
    )


def _written(row, value, sign, nothing, domain):
    """The record of a pair with its numbers as they are written, and in what ink."""
    low, high = row[f"{value}_low"], row[f"{value}_high"]
    note = ""
    if row[value] is None:
        number, between, note = "", _UNMEASURED, _UNMEASURED
    elif None in (low, high):
        number, between = signed(row[value], sign), "no interval"
    else:
        number, between = signed(row[value], sign), _interval(low, high, sign)
        if low <= nothing <= high:
            note = f"interval includes {nothing}"
    pale = bool(note) and row[value] is not None and value == "gain"
    dark = not pale and row[value] is not None
    # Of the blues only the darker half, of the diverging ones only either end, takes white text.
    reach = max(abs(end - nothing) for end in domain)
    dark = dark and (row[value] - nothing if not sign else abs(row[value])) > 0.7 * reach
    ink = _PALE if row[value] is None else "white" if dark else INK
    written = {"number": number, "between": between, "note": note, "pale": pale, "ink": ink}
    return row | written


def _interval(low, high, sign):
    return f"[{signed(low, sign)}, {signed(high, sign)}]"


def _described(rows):
    """The text alternative: every pair of different runs that was measured."""
    text = f"Matrix of {len({row['train'] for row in rows})} runs, trained on by tested on. AUROC "
    text += "with 95 % interval"
    said = []
    for row in rows:
        if row["auroc"] is None:
            continue
        on = "itself" if row["train"] == row["test"] else row["test"]
        each = f"{row['train']} on {on} {row['auroc']:.2f}"
        if None not in (row["auroc_low"], row["auroc_high"]):
            each += f" {_interval(row['auroc_low'], row['auroc_high'], '')}"
        if row["gain"] is not None:
            each += f", less controls {signed(row['gain'], '+')}"
        said.append(each)
    text += f": {'; '.join(said)}." if said else ": none was measured."
    missing = sum(row["auroc"] is None for row in rows)
    return text + (f" Not measured: {missing}." if missing else "")
