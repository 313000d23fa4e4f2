"""Verdicts on what the reference says of its figure, for the grid at hand.

Each statement of ``data/reference/claims.yaml`` comes with rules of a few fixed kinds. A rule turns
into one or more numbers, each a mean of areas or a difference of such, and the range in which the
statement wants it. The intervals of all numbers of all statements cover at once, so one table in
twenty has any verdict that sampling error alone brought about.
"""

from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pandas as pd
import yaml

from probekit import arguments
from probekit.interpretation.contrasts import BANDS, areas, largest_error
from probekit.interpretation.wording import (
    area,
    change,
    listing,
)
from probekit.interpretation.wording import (
    layers as layers_in_words,
)
from probekit.run.files import resource
from probekit.tokens import FIGURE_TOKENS, TOKENS

#: Chance that any verdict but "undecided" in the table is wrong.
ALPHA = 0.05
SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"
_MEASURE = "Correlation is read as the AUROC of error detection."


@dataclass
class _Number:
    """A number that a rule asks for, and where the statement wants it."""

    about: str
    """What it is, in words; of the numbers of a rule with several, what they share."""
    value: float
    influence: np.ndarray
    low: float
    high: float
    is_area: bool
    part: str = ""
    """Which one of several it is."""
    interval: tuple = (np.nan, np.nan)

    @property
    def verdict(self):
        low, high = self.interval
        if low >= self.low and high <= self.high:
            return SUPPORTED
        return CONTRADICTED if high < self.low or low > self.high else UNDECIDED

    @property
    def text(self):
        part = f" ({self.part})" if self.part else ""
        if self.is_area:
            return area(self.value, *self.interval) + part
        return change(self.value, self.interval[1] - self.value) + part


class _NotMeasuredError(Exception):
    """The grid has not what a rule needs; the message says what."""


@arguments.plainly()
def read_claims(path=None):
    """Read and check a file of claims."""
    path = resource("data/reference/claims.yaml") if path is None else arguments.path("path", path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file of claims {path}.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is not a file of claims: {error}.") from error
    return _checked(content, path)


def _checked(content, source):
    """Claims, if all of them and their rules are of a known form."""
    try:
        for claim in content["claims"]:
            lacking = {"id", "section", "text", "rules"} - set(claim)
            if lacking or not claim["rules"]:
                lacking = ", ".join(sorted(lacking or {"rules"}))
                raise ValueError(f"claim {claim.get('id', '?')!r} lacks {lacking}")
            for rule in claim["rules"]:
                _check_rule(rule, claim["id"])
        ids = [claim["id"] for claim in content["claims"]]
        if len(set(ids)) < len(ids):
            raise ValueError("two claims have the same id")
        float(content["reading_precision"])
    except (KeyError, TypeError, AttributeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{source} is not a file of claims: {reason}.") from error
    except ValueError as error:
        raise ValueError(f"{source}: {error}.") from error
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

    Raises
    ------
    TypeError, ValueError
        If it is no grid, or they are no claims.

    Notes
    -----
    A claim is supported if the intervals of all its numbers lie where it wants them, contradicted
    if one lies wholly elsewhere, and undecided otherwise, or if the grid lacks what it is about.
    """
    if claims is None:
        content = read_claims()
    elif isinstance(claims, dict):
        content = _checked(claims, "claims")
    else:
        raise TypeError(
            "claims must be from probekit.interpretation.claims.read_claims, which takes a file's "
            f"path; got {arguments.shown(claims)}."
        )
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
                "measured": "; ".join(
                    f"{about}: {', '.join(n.text for n in group)}"
                    for about, group in groupby(found, lambda number: number.about)
                ),
                "rule": "; ".join(_rule_in_words(measured, r, precision) for r in claim["rules"]),
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
    low, high = rule["range"][0] - precision, rule["range"][1] + precision
    if rule.get("each") != "token":
        value, influence = measured.mean(_cells(measured, rule["depth"], rule["tokens"]))
        return [_Number(_in_words(measured, rule), value, influence, low, high, True)]
    numbers = []
    for token in rule["tokens"]:
        value, influence = measured.mean(_cells(measured, rule["depth"], [token]))
        layers = _layers(measured, rule["depth"])
        numbers.append(_Number(layers, value, influence, low, high, True, part=token))
    return numbers


def _higher(measured, rule, precision):
    return [_difference(measured, rule["cells"], rule["than"], 0, np.inf)]


def _similar(measured, rule, precision):
    return [_difference(measured, rule["cells"], rule["to"], -precision, precision)]


def _difference(measured, one, other, low, high):
    (value, influence), (value_2, influence_2) = (
        measured.mean(_cells(measured, cells["depth"], cells["tokens"])) for cells in (one, other)
    )
    about = _two_in_words(measured, one, other, "minus")
    return _Number(about, value - value_2, influence - influence_2, low, high, False)


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
    numbers = []
    for band in others:
        there = {"depth": band, "tokens": rule["tokens"]}
        number = _difference(measured, here, there, low, high)
        number.about = f"{_in_words(measured, here)}, minus the other bands"
        number.part = _layers(measured, band)
        numbers.append(number)
    return numbers


def _rises(measured, rule, precision):
    cells = _cells(measured, rule["depth"], rule["tokens"])
    value, influence = measured.slope(cells)
    if np.isnan(value):
        raise _NotMeasuredError(f"the grid has only one layer at {_depth(rule['depth'])}")
    about = f"slope over the network's depth of {_in_words(measured, rule)}"
    return [_Number(about, value, influence, 0, np.inf, False)]


def _higher_in_every_band(measured, rule, precision):
    numbers = []
    for band in BANDS.values():
        if measured.at(band).any():
            one, other = ({"depth": band, "tokens": rule[name]} for name in ("tokens", "than"))
            number = _difference(measured, one, other, 0, np.inf)
            number.about = f"{_tokens(rule['tokens'])} minus {_tokens(rule['than'])}"
            number.part = _layers(measured, band)
            numbers.append(number)
    return numbers


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

_NAMES = {
    FIGURE_TOKENS: "all tokens",
    TOKENS[-8:]: "-8 to -1",
    TOKENS[1:3]: "first_answer and second_answer",
    TOKENS[3:6]: "the exact-answer tokens",
    TOKENS[1:6]: "the answer tokens",
}


def _rule_in_words(measured, rule, precision):
    kind = rule["kind"]
    if kind == "within":
        low, high = rule["range"]
        wanted = f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"
        each = "of each token" if rule.get("each") == "token" else "AUROC"
        return (
            f"mean {each} is {wanted}, give or take {precision:.2f} ({_in_words(measured, rule)})"
        )
    if kind == "higher":
        return f"mean is higher: {_two_in_words(measured, rule['cells'], rule['than'], 'than')}"
    if kind == "similar":
        two = _two_in_words(measured, rule["cells"], rule["to"], "against")
        return f"means differ by at most {precision:.2f}: {two}"
    if kind == "rises":
        return f"slope over the layers is above 0 ({_in_words(measured, rule)})"
    if kind == "higher_in_every_band":
        tokens, than = _tokens(rule["tokens"]), _tokens(rule["than"])
        return f"mean is higher in every band of layers: {tokens} than {than}"
    side = "above" if kind == "highest_band" else "below"
    return f"mean is {side} that of every other band of layers ({_in_words(measured, rule)})"


def _in_words(measured, cells):
    return f"{_tokens(cells['tokens'])}, {_layers(measured, cells['depth'])}"


def _two_in_words(measured, one, other, word):
    """Two sets of cells, with what they share said once."""
    tokens, layers = _tokens(one["tokens"]), _layers(measured, one["depth"])
    if one["tokens"] == other["tokens"]:
        return f"{tokens}, {layers} {word} {_layers(measured, other['depth'])}"
    if one["depth"] == other["depth"]:
        return f"{tokens} {word} {_tokens(other['tokens'])}, {layers}"
    return f"{tokens}, {layers}, {word} {_in_words(measured, other)}"


def _tokens(tokens):
    return _NAMES.get(tuple(tokens)) or listing(tokens)


def _layers(measured, depth):
    found = measured.layers[measured.at(depth).any(1)]
    return layers_in_words(found) if len(found) else f"no layer ({_depth(depth)})"


def _depth(depth):
    if np.ndim(depth) == 0:
        return f"{depth:.0%} of the depth"
    return f"{depth[0]:.0%} to {depth[1]:.0%} of the depth"
