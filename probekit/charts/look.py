"""What all charts share: one look, and reading cells from a grid by name, checked."""

import altair as alt
import numpy as np

from probekit import arguments
from probekit.tokens import TOKENS

# Liberation Sans is the face that vl-convert carries, so a PNG looks the same on every machine; the
# others are for a browser that has no Liberation. One weight only: with two, vl-convert writes the
# fonts of a PDF in an order that changes from run to run.
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
INK, FAINT = "#222222", "#767676"

# Okabe and Ito's colours, which colour-blind readers tell apart (https://jfly.uni-koeln.de/color/),
# less the yellow, which is lost on white. Dashes and shapes tell the lines apart in greyscale.
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]
DASHES = [[1, 0], [6, 2], [2, 2], [8, 2, 2, 2], [4, 4], [10, 3], [1, 3]]
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right"]

# Per field of a chart's records: what a tooltip calls it, and the format of a number.
_TOOLTIPS = {
    "layer": ("Layer", "d"),
    "token": ("Token", None),
    "auroc": ("AUROC", ".3f"),
    "correlation": ("|r|", ".3f"),
    "p_error": ("P(error)", ".2f"),
    "gain": ("Gain", "+.3f"),
    "gain_low": ("Gain, lower bound", "+.3f"),
    "gain_high": ("Gain, upper bound", "+.3f"),
    "gain_low_simultaneous": ("Gain, lower bound for all cells at once", "+.3f"),
    "gain_high_simultaneous": ("Gain, upper bound for all cells at once", "+.3f"),
    "absorbed": ("Absorbed by the controls", ".1%"),
    "auroc_low": ("AUROC, lower bound", ".3f"),
    "auroc_high": ("AUROC, upper bound", ".3f"),
    "train": ("Trained on", None),
    "test": ("Tested on", None),
    "n_examples": ("Examples", "d"),
    "p_value": ("p", ".3g"),
    "p_corrected": ("p, corrected", ".3g"),
    "flagged": ("Correct answers flagged", ".3f"),
    "found": ("Errors found", ".3f"),
    "threshold": ("Threshold on P(error)", ".3f"),
    "predicted": ("Mean P(error)", ".3f"),
    "observed": ("Wrong", ".3f"),
    "low": ("Wrong, lower bound", ".3f"),
    "high": ("Wrong, upper bound", ".3f"),
    "n": ("Examples", "d"),
    "given": ("Answers given", ".1%"),
    "risk": ("Error rate of these", ".3f"),
}

# What is read of a grid beside the value that is drawn.
_EXTRAS = ("auroc_low", "auroc_high", "n_examples", "p_value", "p_corrected")
_EXTRAS += ("gain_low", "gain_high", "gain_low_simultaneous", "gain_high_simultaneous")


_TEXT = {
    "labelFontSize": 14,
    "titleFontSize": 15,
    "titleFontWeight": "normal",
    "labelColor": INK,
    "titleColor": INK,
}

# Sizes are for a figure of about 460 pixels printed 8 cm wide: 14 pixels become 7 points.
_LOOK = {
    "font": FONT,
    "title": {
        "fontSize": 17,
        "fontWeight": "normal",
        "color": INK,
        "anchor": "middle",
        "offset": 10,
        "subtitleFontSize": 14,
        "subtitleColor": INK,
    },
    "axis": _TEXT | {"domainColor": FAINT, "tickColor": FAINT, "grid": False, "labelFlush": False},
    "legend": _TEXT | {"titleLimit": 0, "labelLimit": 0},
    "view": {"stroke": FAINT},
}

# What belongs to one chart, where charts stand beside each other: Vega-Lite would merge the colours
# of a heatmap and of lines into one scale.
_APART = dict.fromkeys(("color", "stroke", "strokeDash", "shape"), "independent")


class _Shared:
    """What every chart of this package has over Altair's own of the same name.

    The look is added when the whole is written out, under what the user has configured: Altair
    joins no charts that carry a configuration, and a theme would be the whole session's.
    """

    def to_dict(self, *args, context=None, **more):
        if (context or {}).get("top_level", True):
            own = self.config
            own = (
                own.to_dict()
                if isinstance(own, alt.SchemaBase)
                else {}
                if own is alt.Undefined
                else own
            )
            self = self.copy(deep=False)
            self.config = alt.utils.update_nested(_LOOK, own, copy=True)
            if self.background is alt.Undefined:
                self.background = "white"
        return super().to_dict(*args, context=context, **more)

    def __or__(self, other):
        return _joined(alt.hconcat, self, other)

    def __and__(self, other):
        return _joined(alt.vconcat, self, other)

    def __add__(self, other):
        return _dressed(super().__add__(other).properties(description=self.description))

    def _repr_mimebundle_(self, *args, **more):
        """A picture, as `static` makes it: Altair's own needs the network, and JavaScript."""
        if alt.renderers.active != "default":  # the user has chosen
            return super()._repr_mimebundle_(*args, **more)
        from probekit.charts.files import static  # loads vl-convert, which only pictures need

        return static(self)._repr_mimebundle_(*args, **more)


class Chart(_Shared, alt.Chart):
    """A single chart."""


class LayerChart(_Shared, alt.LayerChart):
    """Charts over each other."""


class ConcatChart(_Shared, alt.ConcatChart):
    """Charts in rows and columns."""


class HConcatChart(_Shared, alt.HConcatChart):
    """Charts side by side."""


class VConcatChart(_Shared, alt.VConcatChart):
    """Charts below each other."""


_CLASSES = {c.__bases__[1]: c for c in (Chart, LayerChart, ConcatChart, HConcatChart, VConcatChart)}


def _dressed(chart):
    """The same chart as one of this package's."""
    cls = _CLASSES.get(type(chart))
    if cls is None:
        return chart
    chart = chart.copy(deep=False)
    object.__setattr__(chart, "__class__", cls)  # Altair's own setting of attributes is of the spec
    return chart


def _joined(join, *charts):
    """Charts beside each other, each with its own scales, and one text alternative for all."""
    texts = (chart.description for chart in charts if isinstance(chart, alt.TopLevelMixin))
    text = " ".join(text for text in texts if isinstance(text, str))
    whole = join(*charts).resolve_scale(**_APART)
    return _dressed(whole.properties(description=text) if text else whole)


def finished(chart, title, description, subtitle=None):
    """Give a chart the look that all share: title, text alternative, font and sizes."""
    title = arguments.text("title", title, empty=True)
    if subtitle is not None:
        title = alt.TitleParams(text=title, subtitle=subtitle)
        # Who can't see the picture is told what stands in it.
        lines = [subtitle] if isinstance(subtitle, str) else subtitle
        description = " ".join([description, *(f"{n}." for n in lines if n not in description)])
    return _dressed(chart.properties(title=title, description=description))


def cell_rows(grid, values, tokens):
    """One record a cell, layer by layer, with `values` (layer, token) as they are in the grid."""
    tokens = arguments.labels("token", tokens, grid["token"].to_numpy().tolist(), also=TOKENS)
    fields = [
        values,
        *(arguments.variable(grid, e, ("layer", "token")) for e in _EXTRAS if e in grid),
    ]
    arrays = {f.name: f.astype("float64").reindex(token=tokens).values for f in fields}
    return [
        {"layer": int(layer), "token": token}
        | {name: number(array[i, j]) for name, array in arrays.items()}
        for i, layer in enumerate(grid.layer.values)
        for j, token in enumerate(tokens)
    ]


def check_detector(detector):
    """Refuse what is no detector, nor nothing."""
    if detector is not None and not all(hasattr(detector, n) for n in ("auroc", "by_layer")):
        raise TypeError(
            "detector must be from pk.detector(grid) or Run.detector; got "
            f"{arguments.shown(detector)}."
        )


def number(value):
    """A float, or None where JSON has no number (NaN, infinity)."""
    return float(value) if np.isfinite(value) else None


def signed(value, sign="+"):
    """A number as it is written; what rounds to 0 has no minus."""
    return format(value, f"{sign}.2f").replace("-0.00", f"{sign}0.00")


def tooltips(record):
    """Tooltips for the fields of a record that have a name."""
    return [
        alt.Tooltip(
            name,
            type="quantitative" if form else "nominal",
            title=title,
            format=form or alt.Undefined,
        )
        for name, (title, form) in _TOOLTIPS.items()
        if name in record
    ]


def categories(channel, field, domain, values, legend, title=None):
    """An encoding that gives each category in `domain` its own of `values`, such as `COLOURS`."""
    scale = alt.Scale(domain=domain, range=values[: len(domain)])
    return channel(field, title=title, scale=scale, legend=legend)
