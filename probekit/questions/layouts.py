"""What the cells of a question file hold: texts, however they are nested.

A layout is told by its structure, not by its data set's name. What is not certain is refused, and
nothing that was a list or a mapping is asked, or accepted, in its printed form.
"""

import ast
import datetime
import io
import math
import numbers
import re
import tokenize
import warnings
from collections.abc import Mapping

import pandas as pd

from probekit import arguments
from probekit.questions.kinds import LETTERS
from probekit.questions.text import alternatives
from probekit.run.files import parse_json

# Where mappings keep accepted forms: TriviaQA's value and aliases, the text of SQuAD, NarrativeQA.
_ANSWER_FIELDS = ("value", "aliases", "text")

# A file may come from anybody. Public question files are nested four deep at most.
_DEEPEST = 6
_LONGEST = 100_000

_BRACKETS = {"[": "]", "{": "}"}
_QUOTED = re.compile(r"""[\[{][\[{(\s]*(?:array\(\[*)?["']|array\(|frozenset\(""")
_QUOTE = re.compile(r"""[\[{(,:\s]["']""")
_ONLY_NUMBERS = re.compile(r"[\s\d.,+eE\[\]{}-]+")
_LAST_LINE = re.compile(r"(?:^|\n)####[ \t]*(\S[^\n]*)$")
_OWN_LETTER = re.compile(r"\(?([A-Za-z])\s?[).:]\s*(?=\S)")
_TRUE_FALSE = {"true": "yes", "1": "yes", "false": "no", "0": "no"}

_QUOTE_IT = 'If it is meant as it stands, write it inside a list: ["[0, 1)"].'


def unfolded(cell):
    """What a cell holds, in lists, mappings and single values; None where it holds nothing.

    A text that writes a list or a mapping, in JSON or as Python prints it, is read.
    """
    if not isinstance(cell, str):
        return _plain(cell)
    text = cell.strip()
    found = _parsed(text)
    if isinstance(found, set) and _only_numbers(found):
        raise ValueError(
            f"{arguments.shown(text)} may be one answer, a set, or several. Write one inside a "
            f'list, ["{{2, 3}}"], and several as a list, [2, 3].'
        )
    if found is None and _printed(text, bare=True):
        raise ValueError(
            f"{arguments.shown(text)} looks like a list or a mapping that was printed, and cannot "
            f"be read back. Save it as JSON, or the file as JSON lines or Parquet. {_QUOTE_IT}"
        )
    return _plain(text if found is None else found)


def _plain(value, depth=0):
    if hasattr(value, "tolist"):  # numpy's arrays and numbers, as Parquet gives them
        dates = getattr(getattr(value, "dtype", None), "kind", "") == "M"
        value = (value.astype("datetime64[us]") if dates else value).tolist()
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    if isinstance(value, Mapping | list | tuple):
        if depth == _DEEPEST:
            raise ValueError(f"it is nested more than {_DEEPEST} deep.")
        if isinstance(value, Mapping):
            return {str(key): _plain(item, depth + 1) for key, item in value.items()}
        return [_plain(item, depth + 1) for item in value]
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, float) and math.isnan(value):
        return None
    return (value.strip() or None) if isinstance(value, str) else value


def _parsed(text):
    """The structure that a text writes; None if it writes none."""
    if not text.startswith(("[", "{", "(")):
        return None
    try:
        return parse_json(text)
    except ValueError:
        pass
    # literal_eval runs no code, but a hostile text can exhaust the parser beneath it. So the text
    # may only hold single values between brackets and commas; of brackets the parser itself takes
    # 200 deep. Two texts side by side, which Python joins, are an array as numpy prints it.
    if len(text) > _LONGEST:
        return None
    before = ""
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type in (tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER):
                continue
            value = token.type in (tokenize.STRING, tokenize.NUMBER)
            value |= token.string in ("None", "True", "False")
            if value and before == "value":
                return None
            if not value and token.string not in tuple("[]{}(),:-"):
                return None
            if token.string == "-" and before not in tuple("[{(,:"):
                return None
            before = "value" if value else token.string
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of "\d" in a text: not written by Python
            found = ast.literal_eval(text)
    except (tokenize.TokenError, SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None
    if isinstance(found, tuple):
        return None if _only_numbers(found) else found  # (1, 2) is a point
    return found if isinstance(found, list | dict | set) else None


def _printed(text, bare):
    """Whether a text that cannot be read as a structure looks like one that was printed.

    `bare`: it is all that a cell holds. Inside a list, a bracket without quotes is an answer.
    """
    closing = _BRACKETS.get(text[:1], ")")
    closes = text.endswith(closing)
    if _QUOTED.match(text):
        return closes or text.count(text[:1]) > text.count(closing)
    if text[:1] not in _BRACKETS:
        return False
    if closes and _QUOTE.search(text):
        return True
    if not bare:
        return False
    depth = 0
    for position, character in enumerate(text, start=1):
        depth += (character == text[0]) - (character == closing)
        if not depth:
            return position == len(text)
    # Cut off among numbers; but "[0, 1[" is an interval, as some write it.
    return bool("," in text and _ONLY_NUMBERS.fullmatch(text) and not text.endswith("["))


def read(cell, path=()):
    """What a cell holds, or what its mappings hold under these names, one inside the other."""
    value = unfolded(cell)
    for name in path:
        value = _inside(value, name)
    return value


def _inside(value, name):
    if isinstance(value, list):
        return [_inside(item, name) for item in value if isinstance(item, dict | list)]
    return value.get(name) if isinstance(value, dict) else None


def as_text(value, kind=""):
    """The text of a single value; "" of None."""
    if value is None:
        return ""
    if isinstance(value, str):
        found = _parsed(value)
        if not _only_numbers(found or []) or _printed(value, bare=False):
            raise ValueError(
                f"{arguments.shown(value)} is a list or a mapping that was written as text inside "
                "another. Write it as a list, or put it in backquotes if it is meant as it stands."
            )
    elif isinstance(value, bool):
        if kind != "yes_no":
            raise ValueError(
                f'the cell holds {value}. Give kind="yes_no" if True means yes and False means no.'
            )
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    elif isinstance(value, datetime.datetime) and value.time() == datetime.time():
        value = value.date()
    elif not isinstance(value, numbers.Number | datetime.date | datetime.time):
        raise ValueError(f"expected a text or a number, got {arguments.shown(value)}.")
    text = str(value).strip()
    return _TRUE_FALSE.get(text.lower(), text) if kind == "yes_no" else text


def _only_numbers(value):
    if isinstance(value, list | tuple | set):
        return all(map(_only_numbers, value))
    return isinstance(value, numbers.Number) and not isinstance(value, bool)


def asked(value):
    """The question in a cell: a text, or a mapping with a text."""
    if isinstance(value, dict) and "text" in value:
        value = value["text"]
    if isinstance(value, list | dict):
        raise ValueError(
            f"the question is a {'list' if isinstance(value, list) else 'mapping'}: "
            f"{arguments.shown(value)}. {_field(value) or 'Expected a text.'}"
        )
    return as_text(value)


def answers(value, kind="", options=()):
    """The single values in a cell of accepted answers."""
    if isinstance(value, str) and value not in options and not _worked(value):
        value = alternatives(value)
    return [_final(one, kind) for one in _values(value)]


def _final(value, kind):
    """What a worked solution ends in; other values as they are."""
    end = _worked(value) if isinstance(value, str) else ""
    if end and kind != "number":
        raise ValueError(
            f"{arguments.shown(value[-60:])} is a worked solution that ends in its answer, "
            f'{arguments.shown(end)}. Give kind="number" to accept that alone.'
        )
    return end or value


def _worked(text):
    """What a worked solution ends in: GSM8K's last line, MATH's last box; "" of other texts."""
    line = _LAST_LINE.search(text)
    if line:
        return line[1]
    start = text.rfind("\\boxed{") + len("\\boxed{")
    depth = 1
    for end in range(start, len(text) if "\\boxed{" in text else 0):
        depth += (text[end] == "{") - (text[end] == "}")
        if not depth:
            return text[start:end].strip()
    return ""


def _values(value, depth=0):
    if isinstance(value, dict):
        # TriviaQA's own files write "Value".
        names = [name for name in value if name.lower() in _ANSWER_FIELDS]
        names.sort(key=lambda name: _ANSWER_FIELDS.index(name.lower()))
        if not names or {"answer", "answers"} & {name.lower() for name in value}:
            raise ValueError(
                f"answers with the fields {arguments.listed(value)}; expected one of "
                f"{', '.join(_ANSWER_FIELDS)}. {_field(value)}"
            )
        value = [value[name] for name in names]
    if isinstance(value, list):
        if depth > 3:
            raise ValueError("the answers are nested too deeply to be read as accepted forms.")
        for item in value:
            yield from _values(item, depth + 1)
    elif value is not None:
        yield value


def _field(value):
    """How to name a field, for messages."""
    while isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, dict) or not value:
        return ""
    return f"Name the field after the column's name and a dot, such as COLUMN.{next(iter(value))}."


def options(value):
    """The options in a cell: their texts, their own labels, and which are right if it says so.

    A list, or a text with | between them; a mapping of labels to texts; texts and labels side by
    side (ARC); or texts with 1 at the right ones and 0 at the others (TruthfulQA).
    """
    labels = marks = None
    if isinstance(value, str):
        value = alternatives(value)
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        value = {name: [item.get(name) for item in value] for name in value[0]}
    if isinstance(value, dict):
        texts = next((value[name] for name in ("text", "choices") if name in value), None)
        beside = next((value[name] for name in ("label", "labels") if name in value), None)
        if isinstance(texts, list):
            labels = beside
            if labels is not None and (not isinstance(labels, list) or len(labels) != len(texts)):
                raise ValueError("the options need one label each.")
            if labels and all(type(label) is int and label in (0, 1) for label in labels):
                marks = labels
            value = texts
        else:
            value = {label: text for label, text in value.items() if text is not None}
            labels, value = list(value), list(value.values())
    if not isinstance(value, list | None) or any(isinstance(v, list | dict) for v in value or ()):
        raise ValueError(
            f"the options are {arguments.shown(value)}; expected a list of texts. {_field(value)}"
        )
    texts = [as_text(text) for text in value or ()]
    if texts and (len(texts) < 2 or len(texts) > len(LETTERS) or not all(texts)):
        raise ValueError(
            f"the options are {arguments.listed(map(repr, texts), 5)}; expected 2 to "
            f"{len(LETTERS)} texts."
        )
    own = [_OWN_LETTER.match(text) for text in texts]
    if texts and labels is None and all(own):  # "A) Mars", as in AQuA
        letters = "".join(found[1] for found in own)
        if letters.upper() == LETTERS[: len(own)]:
            texts = [text[found.end() :] for text, found in zip(texts, own, strict=True)]
    labels = [as_text(label) for label in labels or LETTERS[: len(texts)]]
    return texts, labels, marks


def chosen(rows):
    """Which options are right in each row, of (texts, labels, answers) a row.

    All rows are read in the same way: by the options' labels, by their texts or by their
    positions. Where two ways give different options, the file has to say more.
    """

    def label(answer, texts, labels):
        plain = as_text(answer).strip("(). :").casefold()
        return [i for i, one in enumerate(labels) if one.casefold() == plain]

    def text(answer, texts, labels):
        plain = as_text(answer)
        return [i for i, one in enumerate(texts) if one == plain][:1]

    def either(answer, texts, labels):
        return list({*label(answer, texts, labels), *text(answer, texts, labels)})

    def position(first):
        def at(answer, texts, labels):
            plain = as_text(answer)
            index = int(plain) - first if re.fullmatch(r"\d{1,2}", plain, re.ASCII) else -1
            return [index] if 0 <= index < len(texts) else []

        return at

    def read(way):
        found = []
        for texts, labels, right in rows:
            indices = [way(answer, texts, labels) for answer in right]
            if not all(len(index) == 1 for index in indices):
                return None
            found.append(list(dict.fromkeys(index[0] for index in indices)))
        return found

    if not rows:
        return []
    found = {"label": read(label), "text": read(text)}
    if not any(found.values()):
        found["label or text"] = read(either)
    if not found["label"]:
        found["position from 0"], found["position from 1"] = read(position(0)), read(position(1))
        typed = all(isinstance(answer, numbers.Number) for *_, right in rows for answer in right)
        if typed and found["position from 0"]:  # the custom of data sets, as in MMLU
            found["position from 1"] = None
    ways = {way: indices for way, indices in found.items() if indices}
    how = "Give the letter or the text of the right option."
    if not ways:
        for texts, labels, right in rows:
            every = (either, position(0), position(1))
            for answer in right:
                if not any(way(answer, texts, labels) for way in every):
                    raise ValueError(
                        f"the answer {arguments.shown(answer)} is none of the options "
                        f"{arguments.listed(texts, 5)}. {how}"
                    )
        texts, _, right = rows[0]
        raise ValueError(
            f"the answers name their options in different ways. The first is "
            f"{arguments.shown(right[0])}, among {arguments.listed(texts, 5)}. {how}"
        )
    for row, *different in zip(rows, *ways.values(), strict=True):
        if any(indices != different[0] for indices in different):
            meant = [f"{row[0][i[0]]!r} (by {way})" for way, i in zip(ways, different, strict=True)]
            raise ValueError(
                f"it is not clear which options are right: {arguments.shown(row[2][0])} among "
                f"{arguments.listed(row[0], 5)} may be {' or '.join(meant)}. {how}"
            )
    return next(iter(ways.values()))


def named(value, feature):
    """A value with the names of its class labels, given its feature as `datasets` describes it."""
    if isinstance(feature, list) and feature:  # how older versions write lists
        feature = {"_type": "List", "feature": feature[0]}
    if not isinstance(feature, dict):
        return value
    if feature.get("_type") == "ClassLabel":
        names = feature.get("names")
        if value is None or value != value or value == -1:  # NaN; -1 is no label
            return None
        if not isinstance(names, list) or value not in range(len(names)):
            raise ValueError(f"there is no class label {arguments.shown(value)}")
        return str(names[int(value)])
    if feature.get("_type") in ("List", "LargeList", "Sequence"):
        inner = feature.get("feature")
        if isinstance(value, Mapping):  # a sequence of mappings is kept as a mapping of lists
            lists = {name: {"_type": "List", "feature": one} for name, one in inner.items()}
            return named(value, lists)
        return value if value is None else [named(item, inner) for item in value]
    if isinstance(value, Mapping):
        return {name: named(item, feature.get(name)) for name, item in value.items()}
    return value
