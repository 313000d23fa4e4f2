"""Read text, compare it without regard to accents, and find numbers in it."""

import re
import unicodedata
from functools import cache
from typing import NamedTuple

from anyascii import anyascii

# Typographic quotes and dashes.
_PLAIN = str.maketrans(
    {
        "‘": "'", "’": "'", "ʻ": "'", "ʼ": "'", "ʿ": "'", "ʾ": "'", "´": "'", "`": "'", "′": "'",
        "“": '"', "”": '"', "„": '"', "«": '"', "»": '"',
        "‐": "-", "‑": "-", "‒": "-", "–": "-", "−": "-",
    }
)  # fmt: skip

# Say only whether the character before is drawn as an emoji, or which of its forms.
_VARIATION_SELECTORS = frozenset(map(chr, [*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)]))

# "10²" is not "102" and "½" is not "1/2" written out: these keep their own character.
_KEPT_FORMS = ("<super>", "<fraction>", "<circle>")


@cache
def _plain_character(character):
    if unicodedata.decomposition(character).startswith(_KEPT_FORMS):
        return character
    decomposed = unicodedata.normalize("NFKD", character.translate(_PLAIN)).translate(_PLAIN)
    # Letters that no decomposition takes apart, such as ø and ß. Other scripts stay as they are:
    # their words are compared with words of their own. (Unidecode's licence is not ours.)
    decomposed = "".join(
        anyascii(c) if unicodedata.name(c, "").startswith("LATIN") else c for c in decomposed
    )
    if len(decomposed) > 1 and decomposed.strip("().") not in ("", decomposed):
        return character  # "⑴" and "⒈" would be two words
    return "".join(
        c for c in decomposed if not unicodedata.combining(c) and c not in _VARIATION_SELECTORS
    )


class Mention(NamedTuple):
    """What a response answers with: its characters, and one name for all ways to say it."""

    start: int
    end: int
    name: str
    value: object = None  # of a number, with the text after it, or of a date


def read_text(path):
    """What a text file holds, without a byte order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}). Save it as UTF-8."
        ) from error


def alternatives(text):
    """Divide a cell such as "Ada | Ada Lovelace" into its texts."""
    return [part.strip() for part in text.split("|") if part.strip()]


def fold(text):
    """Text without accents and typographic variants, and where each character came from.

    Case is kept. Compatibility forms (full-width letters, ligatures, no-break spaces) become plain
    ones, and subscripts too (H₂O is H2O); superscripts and fractions stay.
    """
    if text.isascii():
        text = text.replace("`", "'")
        return text, range(len(text) + 1)
    pieces, origin = [], []
    for position, character in enumerate(text):
        plain = _plain_character(character)
        pieces.append(plain)
        origin.extend([position] * len(plain))
    origin.append(len(text))
    return "".join(pieces), origin


def unfold(origin, start, end):
    """Positions in the original text of a non-empty stretch ``[start, end)`` of folded text.

    Accents that follow the last character belong to it.
    """
    return origin[start], max(origin[end - 1] + 1, origin[end])


def _ranges(characters):
    """Characters as ranges of a pattern's class: each pattern that has them compiles sooner."""
    starts = [c for c in characters if chr(ord(c) - 1) not in characters]
    ends = [c for c in characters if chr(ord(c) + 1) not in characters]
    return "".join(f"{start}-{end}" for start, end in zip(starts, ends, strict=True))


# Vowel signs of the Indic scripts: part of a word, but no word characters to Python.
_VOWEL_SIGNS = _ranges(
    dict.fromkeys(
        c
        for c in map(chr, range(0x0300, 0x10000))
        if unicodedata.category(c) in ("Mn", "Mc") and not unicodedata.combining(c)
    )
)

# Scripts that put no space between words: there a neighbouring letter does not continue a name. Nor
# does a low line, with which a word is emphasised.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_LETTER = rf"[^\W_{_UNSPACED}]"
WORD_START = rf"(?<!{_LETTER})(?<![{_VOWEL_SIGNS}])"
WORD_END = rf"(?!{_LETTER})(?![{_VOWEL_SIGNS}])"

# "1,000", "-3", "5.6", ".5", the 5 in "...5"; not the 56 in "156", "x56", "5.6" or "1.2.56".
NUMBER = re.compile(
    r"(?<!\w)(?<!\w\.)-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\w|\.\d)"
    r"|(?<![\w.])-?\.\d+(?!\w|\.\d)"
)

_UNITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_TEENS = [
    "ten", "eleven", "twelve", "thirteen", "fourteen",
    "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_VALUES = {word: value for value, word in enumerate(_UNITS + _TEENS)}
_VALUES |= {word: 10 * value for value, word in enumerate(_TENS, start=2)}
_BELOW_100 = (
    rf"(?:(?:{'|'.join(_TENS)})(?:[\s-]+(?:{'|'.join(_UNITS[1:])}))?"
    rf"|{'|'.join(_TEENS)}|{'|'.join(_UNITS)})"
)

_HUNDRED = rf"(?:{'|'.join(_UNITS[1:])}|an?)[\s-]+hundred(?:[\s-]+(?:and[\s-]+)?{_BELOW_100})?"
NUMBER_WORDS = re.compile(rf"{WORD_START}(?:{_HUNDRED}|{_BELOW_100}){WORD_END}", re.IGNORECASE)


def number_value(text):
    """Canonical digits of a number written in digits: "1,000.0" is "1000", "-0" is "0"."""
    digits = "".join(
        str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text.replace(",", "")
    )
    sign, digits = ("-", digits[1:]) if digits.startswith("-") else ("", digits)
    whole, _, decimals = digits.partition(".")
    whole, decimals = whole.lstrip("0") or "0", decimals.rstrip("0")
    value = f"{whole}.{decimals}" if decimals else whole
    return value if value == "0" else sign + value


def number_words_value(text):
    """Canonical digits of a number below 1,000 in English words: "fifty-six" is "56"."""
    total = 0
    for word in re.split(r"[\s-]+", text.lower()):
        # "and" and "a" add nothing.
        total = max(total, 1) * 100 if word == "hundred" else total + _VALUES.get(word, 0)
    return str(total)
