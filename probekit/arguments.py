"""Arguments that can't be right, refused before any work: what was given, what was expected.

Each function takes an argument's name and value, and returns the value. Of the wrong kind it is a
TypeError, of the right kind but not usable a ValueError.
"""

import difflib
import math
import numbers
import os
import re
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm import tqdm

# What moves a terminal's cursor, colours its text or turns its direction, ends a line unseen, or
# can't be encoded: all controls but the tab and the line's end, bidirectional marks, surrogates.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\ufffe\uffff]"
)

_CELL = ("layer", "token")

# Where datasets that are no grid come from.
_SOURCES = {
    "controls": "controls or Run.controls",
    "gains": "gain_over_controls",
    "transfers": "transfer",
}

# Over what the variables of a grid are, where that is not (layer, token).
_DIMS = {"score": ("example", *_CELL)} | dict.fromkeys(("correct", "fold", "id"), ("example",))


def absent(value):
    """Whether an optional argument is None, or empty as in a notebook."""
    return value is None or (isinstance(value, str) and not value)


def _must(name, value, be, of_kind, usable=True):
    """Refuse a value that is not of the right kind, or is not usable; `be` says what it must be."""
    if not (of_kind and usable):
        error = ValueError if of_kind else TypeError
        raise error(f"{name} must be {be}, got {shown(value)}.")


def whole(name, value, least=0, most=None):
    """A whole number in a range, Python's or numpy's, as an int."""
    a_number = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    in_range = a_number and least <= value and (most is None or value <= most)
    _must(name, value, f"a whole number {_between(least, most)}", a_number, in_range)
    return int(value)


def number(name, value, least, most):
    """A finite number in a range, as a float."""
    a_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    # NaN is in no range.
    in_range = a_number and least <= value <= most and abs(value) < math.inf
    _must(name, value, f"a number {_between(least, most)}", a_number, in_range)
    return float(value)


def temperature(value):
    """0, or enough for logits to be divided by it, in half precision too."""
    found = number("temperature", value, 0, 100)
    _must("temperature", value, "0 or from 0.01 to 100", True, found == 0 or found >= 0.01)
    return found


def several_samples(n_samples, temperature):
    """More than one answer to a question only where they can differ."""
    if n_samples > 1 and temperature == 0:
        raise ValueError(
            f"n_samples={n_samples} with temperature=0 gives the same answer {n_samples} times. "
            "Set a temperature, such as 1.0."
        )


def seed(value):
    """What random numbers start from: up to the most that numpy and scikit-learn take."""
    return whole("seed", value, 0, 2**32 - 1)


def penalty(C):
    """One C or several, as an array of floats."""
    values = np.ravel(C).tolist() if isinstance(C, np.ndarray) else items(C)
    found = np.array([number("C", c, 1e-6, 1e6) for c in ([C] if values is None else values)])
    if not found.size:
        raise ValueError("C must be a number or several, got none.")
    return found


def flag(name, value):
    """True or False, and nothing that could stand for them."""
    _must(name, value, "True or False", isinstance(value, (bool, np.bool_)))
    return bool(value)


def text(name, value, such_as=None, empty=False):
    """A text, `empty` if it may be."""
    expected = "text" if such_as is None else f"text such as {such_as!r}"
    a_text = isinstance(value, str)
    _must(name, value, expected, a_text, a_text and (empty or value.strip()))
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(
            f"{name} holds an unpaired surrogate, which is no character: {shown(value)}."
        )
    return str(value)


def path(name, value):
    """A path that is not empty."""
    _must(name, value, "text or a Path", isinstance(value, (str, os.PathLike)))
    text = str(Path(value)) if str(value).strip() else ""
    # What file systems can't hold: asking them raises more kinds of error than "not there".
    longest = max((len(part.encode(errors="replace")) for part in text.split(os.sep)), default=0)
    surrogate = any("\ud800" <= character < "\udc80" for character in text)
    if not text or "\0" in text or surrogate or longest > 255 or len(text) > 4000:
        raise ValueError(f"{name} can't be {shown(str(value))}: no file or folder has that name.")
    return Path(value)


def paths(name, values):
    """Several paths, as a list."""
    found = None if isinstance(values, os.PathLike) else items(values)
    _must(name, values, "a list of paths", found is not None)
    return [path(f"A path in {name}", value) for value in found]


def items(values):
    """What is in a list or the like; None if it is none, as a text, a mapping and a number."""
    if isinstance(values, (str, bytes, Mapping)):
        return None
    try:
        return list(values)
    except (TypeError, KeyError):  # an array of no dimension; altair's charts raise KeyError
        return None


def one_of(name, value, known):
    """One of some names; of an unknown one the message says which is nearest."""
    expected = f"{name} must be one of {', '.join(known)}; got {shown(value)}."
    if not isinstance(value, str):
        raise TypeError(expected)
    if value not in known:
        raise ValueError(expected + nearest(value, known))
    return str(value)


def several_of(name, values, known):
    """At least one of some names, none twice, as a list; in a text there are commas between."""
    such_as = f"or several such as '{known[0]}, {known[-1]}'"
    expected = f"{name} must be one of {', '.join(known)}, {such_as}; got {shown(values)}."
    given = [values] if isinstance(values, str) else items(values)
    if given is None or not all(isinstance(value, str) for value in given):
        raise TypeError(expected)
    found = [part.strip() for value in given for part in value.split(",")]
    unknown = [part for part in found if part not in known]
    if unknown or not found:
        raise ValueError(expected + (nearest(unknown[0], known) if unknown else ""))
    if len(set(found)) < len(found):
        raise ValueError(f"{name} names one twice: {shown(values)}. Leave one of them out.")
    return found


def nearest(value, known):
    """`` Did you mean 'auroc'?``, or nothing if no known name is like it."""
    folded = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(value.casefold(), folded, 1, cutoff=0.7)
    return f" Did you mean {folded[near[0]]!r}?" if near else ""


def instance(name, value, kind, such_as):
    """An object of a class, made as `such_as` says."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, {such_as}; got {shown(value)}.")
    return value


def texts(name, values):
    """Several texts, as a list."""
    found = items(values)
    such_as = f" such as [{shown(values)}]" if isinstance(values, str) else ""
    _must(name, values, f"a list of texts{such_as}", found is not None)
    for value in found:
        _must(f"Each of {name}", value, "text", isinstance(value, str))
    return found


def several_texts(name, values):
    """At least one text, none of them empty, as a list."""
    found = texts(name, values)
    for value in found:
        text(f"Each of {name}", value)
    if not found:
        raise ValueError(f"{name} is empty. Give at least one.")
    return found


def best_device():
    """The fastest kind of device that is here."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def device(value):
    """A device that torch can use here, as it is given."""
    import torch

    best = best_device()
    _must("device", value, f"text such as {best!r}", isinstance(value, (str, torch.device)))
    try:
        if torch.empty(0, device=value).is_meta:
            raise ValueError("it holds no numbers")
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        if reason.startswith("Expected one of"):  # and twenty that nobody here has
            reason = "there is no such kind"
        raise ValueError(
            f"torch can't use device={shown(str(value))} here: {reason}. Give one that it can, "
            f"such as {best!r}, or leave it out."
        ) from error
    return value


def grid(value, variables=("auroc",), attributes=(), name="grid"):
    """A grid of probes that has some variables, each over its own dimensions, and attributes."""
    for each in variables:
        variable(value, each, _DIMS.get(each, _CELL), name)
    lacking = [attribute for attribute in attributes if attribute not in value.attrs]
    if lacking:
        raise ValueError(
            f"The {name} lacks {listed(lacking)} among its attributes. Take it from probe_grid "
            "or Run.grid as it is: arithmetic on a grid drops its attributes."
        )
    return value


def variable(dataset, name, dims, called="grid"):
    """A dataset's variable over exactly these dimensions, in their order."""
    # Here, because the command's help, which needs no dataset, would wait half a second for it.
    import xarray as xr

    if not isinstance(dataset, xr.Dataset):
        raise TypeError(
            f"{called} must be an xarray Dataset, such as "
            f"{_SOURCES.get(called, 'probe_grid or Run.grid')} gives; got {shown(dataset)}."
        )
    if name not in dataset.variables:
        have = listed(dataset.data_vars, 20) or "nothing"
        has, it_has = ("have", "they have") if called in _SOURCES else ("has", "it has")
        raise ValueError(f"The {called} {has} no variable {name!r}; {it_has} {have}.")
    array = dataset[name]
    if set(array.dims) != set(dims):
        is_over = listed(array.dims)
        raise ValueError(f"{name!r} must be over ({', '.join(dims)}), it is over ({is_over}).")
    if array.size == 0:
        none = [str(dim) for dim, size in array.sizes.items() if not size]
        raise ValueError(f"The {called} is empty: it has no {' and no '.join(none)}.")
    if name not in ("id", "correct") and array.dtype.kind not in "fiub":
        raise ValueError(f"{name!r} must hold numbers, it holds {held(array.dtype)}.")
    for dim in dims:
        if dim != "example" and (dim not in dataset.coords or not dataset.indexes[dim].is_unique):
            raise ValueError(
                f"The {called} needs a coordinate {dim!r} with a different label a cell."
            )
    if "layer" in dims and dataset["layer"].dtype.kind not in "iu":
        raise ValueError(f"Layers must be whole numbers, they are {held(dataset['layer'].dtype)}.")
    return array.transpose(*dims)


def labels(kind, wanted, have, also=()):
    """Several tokens or layers of a grid; `also` are labels that are known but may be absent."""
    found, have = items(wanted), list(have)
    example = wanted if isinstance(wanted, (str, int)) else have[0]
    _must(f"{kind}s", wanted, f"a list such as [{shown(example)}]", found is not None)
    among = f"The grid has {listed(have, 20)}."
    # Labels are texts and numbers. An array, say, can't even be looked up among them.
    known, kinds = {*have, *also}, (str, numbers.Real)
    unknown = [label for label in found if not isinstance(label, kinds) or label not in known]
    if unknown:
        raise ValueError(f"Unknown {kind} {listed(map(shown, unknown))}. {among}")
    if not found:
        raise ValueError(f"There is no {kind} to look at. {among}")
    if not set(found) & set(have):
        raise ValueError(f"The grid has none of the {kind}s asked for ({listed(found)}). {among}")
    if len(set(found)) < len(found):
        raise ValueError(f"A {kind} is given twice: {listed(found)}.")
    return found


def held(dtype):
    """What an array holds, in words."""
    return {
        "b": "True and False",
        "i": "whole numbers",
        "u": "whole numbers",
        "f": "numbers",
        "c": "complex numbers",
        "M": "dates",
        "m": "spans of time",
        "O": "objects of any kind",
    }.get(dtype.kind, "text")


def visible(text, longest=2000):
    r"""A text from elsewhere as it may be printed: ``\x1b`` for an escape, its middle left out."""
    text = _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))
    if len(text) <= longest:
        return text
    half = longest // 2
    left_out = f"{len(text) - 2 * half:,} characters left out"
    return f"{text[:half]} [... {left_out} ...] {text[-half:]}"


def listed(names, most=10):
    """Names from elsewhere in a message: ``a, b and 99,990 more``."""
    names = list(names)
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(visible(name, 100) for name in names[:most]) + more


def say(text, file=None, longest=2000):
    """Print a text, beside any progress bar; nothing is printed by other means."""
    tqdm.write(visible(text, longest), file=file)  # noqa: TID251


@contextmanager
def plainly():
    """Pass errors on with a message that may be printed; a decorator of what reads others' files.

    For whoever sees the message in a notebook: the command makes all that it prints visible.
    """
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        if len(error.args) == 1:
            error.args = (visible(error),)
        raise


def shown(value, longest=60):
    """A value as a message shows it: itself if that is short, else what it is."""
    if isinstance(value, str) and len(value) > longest:
        value = value[: longest - 3] + "..."
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, numbers.Integral) and abs(value) > 10**longest:
        return f"a number of more than {longest} digits"
    try:
        written = repr(value.item() if isinstance(value, np.generic) else value)
    except Exception:  # a repr is anybody's code, and Python's own refuses 5,000 digits
        written = ""
    written = visible(written)
    short = 0 < len(written) <= longest + 20 and "\n" not in written
    kind = type(value).__name__
    return written if short else f"{'an' if kind[0] in 'AEIOUaeiou' else 'a'} {kind}"


def _between(least, most):
    def plain(value):
        return f"{value:,.0f}" if value == int(value) and value < 1e12 else f"{value:g}"

    if most is None:
        return f"of at least {plain(least)}"
    return f"from {plain(least)} to {plain(most)}"
