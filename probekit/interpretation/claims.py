"""Verdicts on what the reference says of its figure, for the grid at hand.

Each statement of ``data/reference/claims.yaml`` comes with rules of a few fixed kinds. A rule turns
into one or more numbers, each a mean of areas or a difference of two, and the range in which the
statement wants it. The intervals of all numbers hold at once, so at most one table in twenty has a
verdict of "supported" or "contradicted" by sampling error alone. Tokens are compared on the answers
that have all of them; a value by itself is the chart's. What no probe can test has no rule.
"""

from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pandas as pd
import yaml

from probekit import arguments
from probekit.interpretation import wording
from probekit.interpretation.contrasts import BANDS, Areas, areas, shared_answers
from probekit.probing.baselines import check_controls
from probekit.probing.simultaneous import largest_error
from probekit.run.files import resource
from probekit.tokens import FIGURE_TOKENS, TOKENS

# Chance that any verdict but "undecided" in the table is wrong.
_ALPHA = 0.05
_SUPPORTED, _CONTRADICTED, _UNDECIDED = "supported", "contradicted", "undecided"
_NOT_TESTABLE = "not testable"

# Of each verdict its mark, and what the deciding number's interval is to the range wanted.
_MARKS = {_SUPPORTED: "✓", _CONTRADICTED: "✗", _UNDECIDED: "?", _NOT_TESTABLE: "–"}
_LIES = {
    _SUPPORTED: "the whole interval is there",
    _CONTRADICTED: "the whole interval is elsewhere",
    _UNDECIDED: "a part of the interval is elsewhere",
}

# Per kind of rule its fields; one of kind "within" may also have `each: token`.
_FIELDS = {
    "within": {"depth", "tokens", "range"},
    "higher": {"cells", "than"},
    "similar": {"cells", "to"},
    "highest_band": {"depth", "tokens"},
    "lowest_band": {"depth", "tokens"},
    "rises": {"depth", "tokens"},
    "higher_in_every_band": {"tokens", "than"},
    "not_testable": set(),
}

_NAMES = {
    FIGURE_TOKENS: "all tokens",
    FIGURE_TOKENS[1:]: "all other tokens",
    TOKENS[-8:]: "-8 to -1",
    TOKENS[1:3]: "first_answer and second_answer",
    TOKENS[3:6]: "the exact-answer tokens",
    TOKENS[1:6]: "the answer tokens",
}


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
            lacking = [name for name in ("id", "rules", "section", "text") if not claim.get(name)]
            if lacking:
                raise ValueError(f"claim {claim.get('id', '?')!r} lacks {', '.join(lacking)}")
            for rule in claim["rules"]:
                _check_rule(rule, f"claim {claim['id']!r}")
            if _not_testable(claim) and (len(claim["rules"]) > 1 or not claim.get("note")):
                raise ValueError(
                    f"claim {claim['id']!r} is not testable: it needs a note that says why, and no "
                    "other rule"
                )
        ids = [claim["id"] for claim in content["claims"]]
        if len(set(ids)) < len(ids):
            raise ValueError("two claims have the same id")
        float(content["reading_precision"])
    except KeyError as error:
        raise ValueError(f"{source} is not a file of claims: it lacks {error}.") from error
    except (TypeError, AttributeError) as error:
        raise ValueError(
            f"{source} is not a file of claims. data/reference/claims.yaml shows the form."
        ) from error
    except ValueError as error:
        raise ValueError(f"{source}: {error}.") from error
    return content


def _check_rule(rule, claim):
    kind, fields = rule["kind"], set(rule) - {"kind", "each"}
    if kind not in _FIELDS:
        known = ", ".join(_FIELDS)
        raise ValueError(f"{claim} has a rule of kind {kind!r}; known: {known}")
    if fields != _FIELDS[kind]:
        raise ValueError(
            f"{claim} has a rule {kind!r} with the fields {', '.join(sorted(fields)) or 'none'}; "
            f"it needs {', '.join(sorted(_FIELDS[kind])) or 'none'}"
        )
    for cells in [rule, *(rule[name] for name in ("cells", "than", "to") if name in rule)]:
        if isinstance(cells, dict) and not set(cells.get("tokens", ())) <= set(TOKENS):
            raise ValueError(f"{claim} names an unknown token in {cells['tokens']}")


def _not_testable(claim):
    return any(rule["kind"] == "not_testable" for rule in claim["rules"])


def check_claims(grid, claims=None, held_out=None, controls=None):
    """Check the reference's statements against a grid.

    Parameters
    ----------
    grid : Dataset
        From `probe_grid`.
    claims : dict, optional
        From `read_claims`; by default the reference's.
    held_out : Dataset, optional
        The same run's grid with answers, or groups of questions, held out.
    controls : Dataset, optional
        From `controls`. No verdict depends on them, which the notes then say.

    Returns
    -------
    DataFrame
        A row a claim: `id`, `section`, `claim`, `verdict` (supported, contradicted, undecided or
        not testable), `value` with `low` and `high` of the number that decides, `measured`: all
        its numbers in words, `rule` in words, `note`, `decides`: the number that decides in words,
        and `why` it decides so; with `held_out` also `verdict_held_out`. The
        95 % intervals hold for all numbers of the table at once. Depths are compared as fractions
        of the network, and tokens on the answers that have all of them.

    Raises
    ------
    TypeError, ValueError
        If the grid or the claims are not what they should be.

    Notes
    -----
    A claim is supported if the intervals of all its numbers lie where it wants them, contradicted
    if one lies wholly elsewhere, and undecided otherwise, or if the grid lacks what it is about.
    What a probe's AUROC can't show, such as what a layer is for, is not testable.

    Examples
    --------
    >>> import probekit as pk
    >>> run = pk.Run("data/example")
    >>> claims = pk.check_claims(run.grid(), held_out=run.grid("answer"))
    >>> claims["verdict"].value_counts().to_dict()
    {'undecided': 16, 'contradicted': 12, 'not testable': 8, 'supported': 5}
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
    arguments.grid(grid, ("score", "correct", "n_examples"))
    if controls is not None:
        check_controls(controls, ("auroc",))
    check_same_run(grid, controls, held_out)
    named = _tokens_named(content["claims"])
    measured = areas(grid, named)
    shared = shared_answers(grid, named)
    compared = measured
    if shared.n < shared.n_any:
        compared = areas(grid, shared.tokens or named, only=shared.answers)
    remarks = ["Correlation is read as the AUROC of error detection."]
    if controls is not None:
        remarks.append("No verdict looks at the controls.")
    precision = float(content["reading_precision"])
    rows, numbers = [], []
    for claim in content["claims"]:
        rules, found, lacking, notes = [], [], [], remarks
        for rule in claim["rules"]:
            comparison = _Comparison(measured, rule, precision)
            rules.append(comparison.rule)
            try:
                # A value is the chart's; tokens are compared on the same answers.
                found += comparison.numbers(
                    measured if rule["kind"] == "within" else compared, measured.tokens
                )
            except _NotMeasuredError as error:
                lacking.append(str(error))
        if _not_testable(claim):
            notes = []
        elif any(number.areas is not measured for number in found):
            notes = [f"Compared on the {shared.n} answers that have all tokens.", *remarks]
        numbers += found
        rows.append((claim, rules, found, list(dict.fromkeys(lacking)), notes))
    if numbers:
        critical = largest_error(np.array([n.units for n in numbers]), _ALPHA)
        for number in numbers:
            number.add_interval(critical)
    table = pd.DataFrame([_row(*row) for row in rows])
    if held_out is not None:
        apart = check_claims(held_out, content)["verdict"]
        table.insert(list(table).index("verdict") + 1, "verdict_held_out", apart)
    return table


def claims_table(claims):
    """Lay out verdicts for reading: the statement, the verdict, what was measured, and why.

    Parameters
    ----------
    claims : DataFrame
        From `check_claims`.

    Returns
    -------
    str
        Markdown: how many statements have which verdict, and a table. Of several numbers of a
        statement it has the one that decides; `check_claims` has all.

    Raises
    ------
    TypeError, ValueError
        If it is no table of `check_claims`.

    Examples
    --------
    >>> import probekit as pk
    >>> table = pk.claims_table(pk.check_claims(pk.Run("data/example").grid()))
    >>> print(table.splitlines()[0])
    Of 41 statements: ✓ 5 supported, ✗ 12 contradicted, ? 16 undecided, – 8 not
    testable. In brackets are 95 % intervals that hold for all numbers of the table
    at once. What is not called AUROC is a difference of AUROCs, or their slope.
    """
    arguments.instance("claims", claims, pd.DataFrame, "such as pk.check_claims(grid)")
    columns = ["claim", "verdict", "decides", "why"]
    lacking = [name for name in columns if name not in claims]
    if lacking:
        raise ValueError(
            f"claims lacks {', '.join(lacking)}; it must be the table of pk.check_claims(grid)."
        )
    held_out = ["verdict_held_out"] * ("verdict_held_out" in claims)
    header = ["The reference says", "Verdict", "Measured", "Why"]
    header[2:2] = ["Held out"] * len(held_out)
    rows = []
    for row in claims[["claim", "verdict", *held_out, "decides", "why"]].to_dict("records"):
        for name in ("verdict", *held_out):
            row[name] = f"{_MARKS.get(row[name], '')} {row[name]}"
        rows.append([wording.escape(text) for text in row.values()])
    counts = claims["verdict"].value_counts()
    told = [f"{mark} {counts.get(name, 0)} {name}" for name, mark in _MARKS.items()]
    return (
        f"Of {wording.count(len(claims), 'statement')}: {', '.join(told)}. In brackets are 95 % "
        "intervals that hold for all numbers of the table at once. What is not called AUROC is a "
        f"difference of AUROCs, or their slope.\n\n{wording.table(header, rows, ':---')}\n"
    )


def check_same_run(grid, controls=None, held_out=None, detector=None):
    """Refuse controls, a grid of held-out answers or a detector of other examples."""
    if held_out is not None:
        arguments.grid(held_out, ("score", "correct", "n_examples"), name="held_out")
    scored = None if detector is None else detector.p_error
    for name, other in (("controls", controls), ("held_out", held_out), ("detector", scored)):
        if other is None:
            continue
        if not all("id" in each.coords for each in (grid, other)):
            raise ValueError(f"grid and {name} need the coordinate id, to match their examples.")
        if sorted(grid["id"].to_numpy()) != sorted(other["id"].to_numpy()):
            raise ValueError(
                f"grid and {name} have different examples. Take both from the same run."
            )
    if controls is not None and not np.array_equal(grid["id"], controls["id"]):
        raise ValueError("The controls have the examples in another order. Make them anew.")


def _tokens_named(claims):
    """The tokens that any rule is about, in their order."""
    named = set()
    for rule in (rule for claim in claims for rule in claim["rules"]):
        named |= {*rule.get("tokens", ())}
        for cells in (rule[name] for name in ("cells", "than", "to") if name in rule):
            named |= {*(cells["tokens"] if isinstance(cells, dict) else cells)}
    return [token for token in TOKENS if token in named] or list(FIGURE_TOKENS)


def _row(claim, rules, numbers, lacking, notes):
    if _not_testable(claim):
        verdict, decisive = _NOT_TESTABLE, None
    else:
        verdict, decisive = _verdict(numbers, lacking)
    reason = [f"Not measured: {'; '.join(lacking)}."] if lacking else []
    if verdict == _UNDECIDED and any(number.too_wide for number in numbers):
        reason.append(
            "It can't be supported here: no interval of this many answers could be narrow enough."
        )
    if verdict == _NOT_TESTABLE:
        why = " ".join(claim["note"].split())
    elif verdict == _UNDECIDED and reason:
        why = " ".join(reason)
    else:
        others = f", as for {wording.count(len(numbers) - 1, 'other number')}"
        others *= verdict == _SUPPORTED and len(numbers) > 1
        why = f"It wants {decisive.range}: {_LIES[verdict]}{others}."
    return {
        "id": claim["id"],
        "section": claim["section"],
        "claim": " ".join(claim["text"].split()),
        "verdict": verdict,
        "value": decisive.value if decisive else np.nan,
        "low": decisive.low if decisive else np.nan,
        "high": decisive.high if decisive else np.nan,
        "measured": "; ".join(
            f"{about}: {', '.join(n.text for n in group)}"
            for about, group in groupby(numbers, lambda number: number.about)
        ),
        "rule": "; ".join(rules),
        "note": " ".join([*reason, *claim.get("note", "").split(), *notes]),
        "decides": decisive.in_words if decisive else "",
        "why": why,
    }


def _verdict(numbers, lacking):
    """What the numbers say together, and the one that decides."""
    for verdict in (_CONTRADICTED, _UNDECIDED):
        decisive = [number for number in numbers if number.verdict == verdict]
        if decisive:
            # Of those that contradict, the one that does so most clearly.
            return verdict, max(decisive, key=lambda number: number.distance)
    first = numbers[0] if numbers else None
    return (_UNDECIDED if lacking or not numbers else _SUPPORTED), first


@dataclass
class _Number:
    """A number that a rule asks for, and where the statement wants it."""

    about: str  # in words; of a rule with several numbers, what these share
    part: str  # which one of several it is
    value: float
    units: np.ndarray
    wanted: tuple
    is_area: bool
    areas: Areas

    def add_interval(self, critical):
        """Set `low` and `high`; `critical` is half the interval's width in standard errors."""
        if self.is_area:
            ends = self.areas.interval(self.value, self.units, critical)
            self.text = wording.area(self.value, *ends)
        else:
            half = self.areas.half_width(self.units, critical)
            ends = self.value - half, self.value + half
            self.text = wording.change(self.value, half)
        self.low, self.high = map(float, ends)
        self.text += f" ({self.part})" if self.part else ""

    @property
    def in_words(self):
        """What is measured, and the number with its interval."""
        return f"{self.about}: {'AUROC ' if self.is_area else ''}{self.text}"

    @property
    def range(self):
        """Where the statement wants the number, in words."""
        low, high = self.wanted
        if np.isinf(high):
            return f"a number above {low:g}"
        if np.isinf(low):
            return f"a number below {high:g}"
        return f"{wording.number(low)} to {wording.number(min(high, 1))}"

    @property
    def too_wide(self):
        """Whether its interval is wider than the range that the claim wants it in."""
        low, high = self.wanted
        return self.high - self.low > (min(high, 1) - max(low, 0) if self.is_area else high - low)

    @property
    def distance(self):
        """How far the interval is from where the claim wants the number; 0 where they touch."""
        return max(self.wanted[0] - self.high, self.low - self.wanted[1], 0)

    @property
    def verdict(self):
        if self.low >= self.wanted[0] and self.high <= self.wanted[1]:
            return _SUPPORTED
        return _CONTRADICTED if self.distance > 0 else _UNDECIDED


class _NotMeasuredError(Exception):
    """The grid lacks what a rule needs; the message says what."""


class _Comparison:
    """What a rule compares: cells with a range, or cells with other cells."""

    def __init__(self, measured, rule, precision):
        self.kind, self.wanted = rule["kind"], (0, np.inf)
        if self.kind == "not_testable":
            self.rule, self.pairs = "none: no probe can test it", []
            return
        tokens, depth = rule.get("tokens"), rule.get("depth")
        if depth is not None:
            layers = _layers(measured, depth)
            here = f"{_tokens(tokens)}, {layers}"
        # Per number: which of several it is, its cells, and those that they are compared with.
        self.pairs = [("", rule, None)]
        if self.kind == "within":
            low, high = rule["range"]
            self.wanted = (low - precision, high + precision)
            of, self.about = "AUROC", here
            if rule.get("each") == "token":
                of, self.about = "of each token", layers
                self.pairs = [(token, rule | {"tokens": [token]}, None) for token in tokens]
            value = f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"
            self.rule = f"mean {of} is {value}, give or take {precision:.2f} ({here})"
        elif self.kind == "higher":
            two = rule["cells"], rule["than"]
            self.pairs = [("", *two)]
            self.about = _two_in_words(measured, *two, "minus")
            self.rule = f"mean is higher: {_two_in_words(measured, *two, 'than')}"
        elif self.kind == "similar":
            two = rule["cells"], rule["to"]
            self.pairs, self.wanted = [("", *two)], (-precision, precision)
            self.about = _two_in_words(measured, *two, "minus")
            against = _two_in_words(measured, *two, "against")
            self.rule = f"means differ by at most {precision:.2f}: {against}"
        elif self.kind == "rises":
            self.about = f"slope over the network's depth of {here}"
            self.rule = f"slope over the layers is above 0 ({here})"
        elif self.kind == "higher_in_every_band":
            one, other = _tokens(tokens), _tokens(rule["than"])
            self.about = f"{one} minus {other}"
            self.rule = f"mean is higher in every band of layers: {one} than {other}"
            self.pairs = [
                (name, {"depth": band, "tokens": tokens}, {"depth": band, "tokens": rule["than"]})
                for name, band in _bands(measured)
            ]
        else:
            self.about = f"{here}, minus the other bands"
            side = "above" if self.kind == "highest_band" else "below"
            self.rule = f"mean is {side} that of every other band of layers ({here})"
            if self.kind == "lowest_band":
                self.wanted = (-np.inf, 0)
            self.pairs = [
                (name, rule, {"depth": band, "tokens": tokens})
                for name, band in _bands(measured)
                if band[1] <= depth[0] or band[0] >= depth[1]
            ]

    def numbers(self, measured, there):
        """The numbers that decide whether the rule holds; `there` are the grid's tokens."""
        if self.kind == "not_testable":
            return []
        if not self.pairs:
            raise _NotMeasuredError("the grid has no other band of layers")
        found = []
        for part, one, other in self.pairs:
            cells = _cells(measured, one, there)
            value, units = (measured.slope if self.kind == "rises" else measured.mean)(cells)
            if np.isnan(value):
                raise _NotMeasuredError(f"the grid has only one layer at {_depth(one['depth'])}")
            if other is not None:
                value_2, units_2 = measured.mean(_cells(measured, other, there))
                value, units = value - value_2, units - units_2
            is_area = self.kind == "within"
            found.append(_Number(self.about, part, value, units, self.wanted, is_area, measured))
        return found


def _bands(measured):
    """The bands that the grid has layers of, each after these layers in words."""
    return [(_layers(measured, band), band) for band in BANDS.values() if measured.at(band).any()]


def _cells(measured, cells, there):
    """The cells of a claim, (layer, token), all of which must be there."""
    depth, tokens = cells["depth"], cells["tokens"]
    lacking = [token for token in tokens if token not in there]
    if lacking:
        raise _NotMeasuredError(f"the grid has no token {', '.join(lacking)}")
    rare = [token for token in tokens if token not in measured.tokens]
    if rare:
        raise _NotMeasuredError(f"too few answers have the token {', '.join(rare)}")
    chosen = measured.at(depth, tokens)
    if not chosen.any():
        raise _NotMeasuredError(f"the grid has no layer at {_depth(depth)}")
    empty = chosen.any(0) & ~(chosen & measured.usable).any(0)
    if empty.any():
        names = ", ".join(np.array(measured.tokens)[empty])
        raise _NotMeasuredError(f"too few answers have the token {names}")
    return chosen


def _two_in_words(measured, one, other, word):
    """Two sets of cells, with what they share said once."""
    tokens, tokens_2 = _tokens(one["tokens"]), _tokens(other["tokens"])
    layers, layers_2 = _layers(measured, one["depth"]), _layers(measured, other["depth"])
    if one["tokens"] == other["tokens"]:
        return f"{tokens}, {layers} {word} {layers_2}"
    if one["depth"] == other["depth"]:
        return f"{tokens} {word} {tokens_2}, {layers}"
    return f"{tokens}, {layers}, {word} {tokens_2}, {layers_2}"


def _tokens(tokens):
    return _NAMES.get(tuple(tokens)) or wording.listing(tokens)


def _layers(measured, depth):
    found = measured.layers[measured.at(depth).any(1)]
    return wording.layers(found) if len(found) else f"no layer ({_depth(depth)})"


def _depth(depth):
    if np.ndim(depth) == 0:
        return f"{depth:.0%} of the depth"
    return f"{depth[0]:.0%} to {depth[1]:.0%} of the depth"
