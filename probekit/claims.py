"""Verdicts on what the reference says of its figure, for the grid at hand.

Each statement of ``data/reference/claims.yaml`` comes with rules of a few fixed kinds. A rule turns
into one or more numbers, each a mean of areas or a difference of such, and the range in which the
statement wants it. The intervals of all numbers of all statements cover at once, so one table in
twenty has any verdict that sampling error alone brought about.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import yaml

from probekit.contrasts import BANDS, areas, largest_error, spans
from probekit.resources import resource
from probekit.tokens import TOKENS

#: Chance that any verdict but "undecided" in the table is wrong.
ALPHA = 0.05

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"

_MEASURE = (
    "The reference says correlation; measured is the AUROC of error detection (0.5 is chance)."
)


@dataclass
class _Number:
    """A number that a rule asks for, and where the statement wants it."""

    what: str
    value: float
    influence: np.ndarray
    low: float
    high: float
    is_area: bool
    interval: tuple = (np.nan, np.nan)

    @property
    def verdict(self):
        low, high = self.interval
        if low >= self.low and high <= self.high:
            return SUPPORTED
        return CONTRADICTED if high < self.low or low > self.high else UNDECIDED

    @property
    def text(self):
        sign = "" if self.is_area else "+"
        low, high = self.interval
        return f"{self.what}: {self.value:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


class _NotMeasuredError(Exception):
    """The grid has not what a rule needs; the message says what."""


def read_claims(path=None):
    """Read and check a file of claims.

    Parameters
    ----------
    path : str or Path, optional
        By default the reference's, which come with probekit.

    Returns
    -------
    dict
        `reading_precision` and `claims`: a list of dicts with id, section, text, rules and maybe
        note.

    Raises
    ------
    ValueError
        If a claim or a rule is not of a known form.
    """
    path = resource("data/reference/claims.yaml") if path is None else path
    with open(path, encoding="utf-8") as file:
        content = yaml.safe_load(file)
    try:
        for claim in content["claims"]:
            lacking = {"id", "section", "text", "rules"} - set(claim)
            if lacking or not claim["rules"]:
                raise ValueError(f"claim {claim.get('id', '?')!r} lacks {lacking or 'rules'}")
            for rule in claim["rules"]:
                _check_rule(rule, claim["id"])
        ids = [claim["id"] for claim in content["claims"]]
        if len(set(ids)) < len(ids):
            raise ValueError("two claims have the same id")
        float(content["reading_precision"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a file of claims: {error!r}.") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}.") from error
    return content


def check_claims(grid, claims=None):
    """Hold the reference's statements against a grid.

    Parameters
    ----------
    grid : Dataset
        From `probe_grid`.
    claims : dict, optional
        From `read_claims`; by default the reference's.

    Returns
    -------
    DataFrame
        A row a claim: `id`, `section`, `claim`, `verdict` (supported, contradicted or undecided),
        `value` with `low` and `high` of the number that decides, `measured`: all its numbers in
        words, `rule` in words, `note`. The intervals cover all numbers of the table at once in 95
        of 100 cases. Depths are compared as fractions of the network.

    Notes
    -----
    A claim is supported if the intervals of all its numbers lie where it wants them, contradicted
    if one lies wholly elsewhere, and undecided otherwise, or if the grid lacks what it is about.
    """
    content = read_claims() if claims is None else claims
    measured = areas(grid, TOKENS)
    precision = float(content["reading_precision"])
    numbers, missing = {}, {}
    for claim in content["claims"]:
        numbers[claim["id"]], missing[claim["id"]] = [], []
        for rule in claim["rules"]:
            try:
                numbers[claim["id"]] += _KINDS[rule["kind"]](measured, rule, precision)
            except _NotMeasuredError as error:
                missing[claim["id"]].append(str(error))
    _add_intervals(measured, [n for each in numbers.values() for n in each])
    rows = []
    for claim in content["claims"]:
        found, lacking = numbers[claim["id"]], list(dict.fromkeys(missing[claim["id"]]))
        verdict, decisive = _verdict(found, lacking)
        reason = [f"Not measured: {'; '.join(lacking)}."] if lacking else []
        rows.append(
            {
                "id": claim["id"],
                "section": claim["section"],
                "claim": " ".join(claim["text"].split()),
                "verdict": verdict,
                "value": decisive.value if decisive else np.nan,
                "low": decisive.interval[0] if decisive else np.nan,
                "high": decisive.interval[1] if decisive else np.nan,
                "measured": "; ".join(n.text for n in found),
                "rule": "; ".join(_in_words(rule, measured, precision) for rule in claim["rules"]),
                "note": " ".join([*reason, *claim.get("note", "").split(), _MEASURE]),
            }
        )
    return pd.DataFrame(rows)


def _verdict(numbers, lacking):
    """What the numbers say together, and the one that decides."""
    for verdict in (CONTRADICTED, UNDECIDED):
        decisive = [n for n in numbers if n.verdict == verdict]
        if decisive:
            # Of those that contradict, the one that does so most clearly.
            return verdict, max(decisive, key=_distance)
    if lacking or not numbers:
        return UNDECIDED, numbers[0] if numbers else None
    return SUPPORTED, numbers[0]


def _distance(number):
    """How far the interval is from where the claim wants the number; 0 where they touch."""
    low, high = number.interval
    return max(number.low - high, low - number.high, 0)


def _add_intervals(measured, numbers):
    if not numbers:
        return
    critical = largest_error(np.array([n.influence for n in numbers]), ALPHA)
    for number in numbers:
        if number.is_area:
            low, high = measured.interval(number.value, number.influence, critical)
        else:
            half = measured.half_width(number.influence, critical)
            low, high = number.value - half, number.value + half
        number.interval = (float(low), float(high))


# Rules


def _check_rule(rule, claim):
    kind = rule["kind"]
    if kind not in _KINDS:
        raise ValueError(f"claim {claim!r} has a rule of kind {kind!r}; known: {', '.join(_KINDS)}")
    needed = _FIELDS[kind]
    if not needed <= set(rule) <= needed | {"kind", "each"}:
        raise ValueError(f"a rule {kind!r} has {sorted(needed)}, not {sorted(rule)} ({claim!r})")
    for cells in [rule, *(rule[name] for name in ("cells", "than", "to") if name in rule)]:
        if isinstance(cells, dict) and not set(cells.get("tokens", ())) <= set(TOKENS):
            raise ValueError(f"claim {claim!r} names an unknown token in {cells['tokens']}")


def _cells(measured, depth, tokens):
    """The cells of a claim, all of which must be there."""
    lacking = [token for token in tokens if token not in measured.tokens]
    if lacking:
        raise _NotMeasuredError(f"the grid has no token {', '.join(lacking)}")
    cells = measured.at(depth, tokens)
    if not cells.any():
        raise _NotMeasuredError(f"the grid has no layer at {_depth(depth)}")
    if not (cells & measured.usable).any(0)[cells.any(0)].all():
        empty = cells.any(0) & ~(cells & measured.usable).any(0)
        names = ", ".join(np.array(measured.tokens)[empty])
        raise _NotMeasuredError(f"too few answers have the token {names}")
    return cells


def _within(measured, rule, precision):
    sets = [[t] for t in rule["tokens"]] if rule.get("each") == "token" else [rule["tokens"]]
    low, high = rule["range"]
    numbers = []
    for tokens in sets:
        value, influence = measured.mean(_cells(measured, rule["depth"], tokens))
        what = f"{_tokens(tokens)} {_layers(measured, rule['depth'])}"
        numbers.append(_Number(what, value, influence, low - precision, high + precision, True))
    return numbers


def _higher(measured, rule, precision):
    return [_difference(measured, rule["cells"], rule["than"], 0, np.inf)]


def _similar(measured, rule, precision):
    return [_difference(measured, rule["cells"], rule["to"], -precision, precision)]


def _difference(measured, one, other, low, high):
    (value, influence), (value_2, influence_2) = (
        measured.mean(_cells(measured, cells["depth"], cells["tokens"])) for cells in (one, other)
    )
    what = f"{_cells_in_words(measured, one)} minus {_cells_in_words(measured, other)}"
    return _Number(what, value - value_2, influence - influence_2, low, high, False)


def _extreme_band(measured, rule, precision):
    highest = rule["kind"] == "highest_band"
    low, high = (0, np.inf) if highest else (-np.inf, 0)
    here = {"depth": rule["depth"], "tokens": rule["tokens"]}
    _cells(measured, **here)
    start, end = rule["depth"]
    others = [band for band in BANDS.values() if band[1] <= start or band[0] >= end]
    others = [band for band in others if measured.at(band).any()]
    if not others:
        raise _NotMeasuredError("the grid has no other band of layers")
    return [
        _difference(measured, here, {"depth": band, "tokens": rule["tokens"]}, low, high)
        for band in others
    ]


def _rises(measured, rule, precision):
    cells = _cells(measured, rule["depth"], rule["tokens"])
    value, influence = measured.slope(cells)
    if np.isnan(value):
        raise _NotMeasuredError(f"the grid has only one layer at {_depth(rule['depth'])}")
    what = (
        f"slope over the network's depth of {_tokens(rule['tokens'])} "
        f"{_layers(measured, rule['depth'])}"
    )
    return [_Number(what, value, influence, 0, np.inf, False)]


def _higher_in_every_band(measured, rule, precision):
    return [
        _difference(
            measured,
            {"depth": band, "tokens": rule["tokens"]},
            {"depth": band, "tokens": rule["than"]},
            0,
            np.inf,
        )
        for band in BANDS.values()
        if measured.at(band).any()
    ]


_KINDS = {
    "within": _within,
    "higher": _higher,
    "similar": _similar,
    "highest_band": _extreme_band,
    "lowest_band": _extreme_band,
    "rises": _rises,
    "higher_in_every_band": _higher_in_every_band,
}
_FIELDS = {
    "within": {"depth", "tokens", "range"},
    "higher": {"cells", "than"},
    "similar": {"cells", "to"},
    "highest_band": {"depth", "tokens"},
    "lowest_band": {"depth", "tokens"},
    "rises": {"depth", "tokens"},
    "higher_in_every_band": {"tokens", "than"},
}


# Words


def _in_words(rule, measured, precision):
    kind = rule["kind"]
    if kind == "within":
        low, high = rule["range"]
        wanted = f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"
        each = "each token's mean" if rule.get("each") == "token" else "mean"
        cells = _cells_in_words(measured, rule)
        return f"{each} of {cells} is {wanted}, give or take {precision:.2f}"
    if kind == "higher":
        cells, than = (_cells_in_words(measured, rule[name]) for name in ("cells", "than"))
        return f"mean of {cells} is above that of {than}"
    if kind == "similar":
        cells, to = (_cells_in_words(measured, rule[name]) for name in ("cells", "to"))
        return f"means of {cells} and of {to} differ by at most {precision:.2f}"
    if kind == "rises":
        return f"slope over the layers of the mean of {_cells_in_words(measured, rule)} is above 0"
    if kind == "higher_in_every_band":
        tokens, than = _tokens(rule["tokens"]), _tokens(rule["than"])
        return f"mean of {tokens} is above that of {than} in every band of layers"
    side = "above" if kind == "highest_band" else "below"
    cells = _cells_in_words(measured, rule)
    return f"mean of {cells} is {side} that of every other band of layers"


def _cells_in_words(measured, cells):
    return f"{_tokens(cells['tokens'])} {_layers(measured, cells['depth'])}"


def _tokens(tokens):
    if len(tokens) == len(TOKENS) - 1:
        return "all tokens"
    return "-8 to -1" if tuple(tokens) == TOKENS[-8:] else ", ".join(tokens)


def _layers(measured, depth):
    layers = measured.layers[measured.at(depth).any(1)]
    if not len(layers):
        return f"at {_depth(depth)}"
    return f"in layer{'s' if len(layers) > 1 else ''} {spans(layers.tolist())}"


def _depth(depth):
    if np.ndim(depth) == 0:
        return f"{depth:.0%} of its depth"
    return f"{depth[0]:.0%} to {depth[1]:.0%} of its depth"
