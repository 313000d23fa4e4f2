"""Numbers and dates in a text: where they are, and what they are worth.

Texts are folded (see `fold`); positions are those of the folded text.

Why no library: math-verify reads 17 of 25 numbers as people write them (it has no words, units or
spaces between thousands) and needs half a second to load; text2num and number-parser rewrite a text
and lose the positions that the exact answer needs, and so does dateutil; dateparser is slow and
takes "may" and "in" for dates.
"""

import calendar
import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

_LONGEST = 300  # digits; what is longer, or has such an exponent, is no number of an answer

_SMALL = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
    fifteen sixteen seventeen eighteen nineteen
""".split()  # noqa: SIM905
_TENS = """
    twenty thirty forty fifty sixty seventy eighty ninety
""".split()  # noqa: SIM905
_VALUES = {word: value for value, word in enumerate(_SMALL)}
_VALUES |= {word: 10 * value for value, word in enumerate(_TENS, start=2)}
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6}
_SCALES |= {"billion": 10**9, "trillion": 10**12}
_JOINED_SCALES = {"k": 10**3, "bn": 10**9}  # "5k", but "273 K" are kelvins
_ORDINALS = {f"{word}th": value for word, value in _VALUES.items() if value > 3}
_ORDINALS |= {f"{word[:-1]}ieth": _VALUES[word] for word in _TENS}
_ORDINALS |= {"first": 1, "second": 2, "third": 3, "fifth": 5, "eighth": 8, "ninth": 9}
_ORDINALS |= {"twelfth": 12, "hundredth": 100}
_PARTS = {"half": 2, "halves": 2, "third": 3, "thirds": 3, "quarter": 4, "quarters": 4}
_PARTS |= {"fifth": 5, "fifths": 5, "tenth": 10, "tenths": 10}

# Measures; the names of a line are one measure.
_MEASURES = """%|percent|per cent|pct
kg|kilogram|kilograms|kilo|kilos
g|gram|grams
mg|milligram|milligrams
t|ton|tons|tonne|tonnes
lb|lbs|pound|pounds
oz|ounce|ounces
km|kilometer|kilometers|kilometre|kilometres
m|meter|meters|metre|metres
cm|centimeter|centimeters|centimetre|centimetres
mm|millimeter|millimeters|millimetre|millimetres
mi|mile|miles
ft|foot|feet
inch|inches
l|liter|liters|litre|litres
ml|milliliter|milliliters|millilitre|millilitres
s|sec|second|seconds
ms|millisecond|milliseconds
min|minute|minutes
h|hr|hrs|hour|hours
day|days
week|weeks
month|months
yr|year|years
km/h|kph|kmh
mph
m/s
hz|hertz
khz
mhz
ghz
v|volt|volts
w|watt|watts
kw|kilowatt|kilowatts
j|joule|joules
n|newton|newtons
k|kelvin|kelvins
°c|celsius|degrees celsius
°f|fahrenheit|degrees fahrenheit
°|degree|degrees
$|dollar|dollars|usd
€|euro|euros|eur
£|gbp
kb
mb
gb
tb"""
_MEASURE = {n: line.split("|")[0] for line in _MEASURES.split("\n") for n in line.split("|")}
# Measures of one kind, in one of them.
_IN_BASE = {"km": ("m", 1000), "cm": ("m", "1/100"), "mm": ("m", "1/1000"), "g": ("kg", "1/1000")}
_IN_BASE |= {"mg": ("kg", "1/1000000"), "t": ("kg", 1000), "ml": ("l", "1/1000")}
_IN_BASE |= {"min": ("s", 60), "h": ("s", 3600), "day": ("s", 86400), "kw": ("w", 1000)}
_BY_LENGTH = sorted(map(re.escape, _MEASURE), key=len, reverse=True)
_UNIT = re.compile(rf"[\s-]?\\?({'|'.join(_BY_LENGTH)})(?!\w)", re.IGNORECASE)

# 1,000; 1 000; 1'000; LaTeX's 1{,}000; 1.000.000; 3,14; 3.14; .5
_DIGITS = (
    r"\d{1,3}(?:(?:,|\{,\}|\\,)\d{3})+(?:\.\d+)?(?![\d])"
    r"|\d{1,3}(?: \d{3})+(?:[.,]\d+)?(?! ?\d)"
    r"|\d{1,3}(?:'\d{3})+(?:\.\d+)?(?!\d)"
    r"|\d{1,3}(?:\.\d{3})+,\d+(?!\d)|\d{1,3}(?:\.\d{3}){2,}(?!\d)"
    r"|(?<!\d,)\d+,(?:\d{1,2}|\d{4,})(?![\d,])"
    r"|\d+(?:\.\d+)?|(?<!\.)\.\d+"
)
_FRACTION = re.compile(
    r"\\[dt]?frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}|(?<![\w/.,])(?:(\d+)\s+)?(\d+)\s?/\s?(\d+)(?![\w/])"
    r"|(?<![\w.])(\d*)\s?([¼½¾⅐-⅞])"
)
_IN_DIGITS = re.compile(rf"(?<![^\W_])(?<!\w[.'])(?:{_DIGITS})(?!\.?\d)")
_POWER = re.compile(
    r"\s*(?:x|\*|×|·|\\times|\\cdot)\s*10\s*(?:\^\s*\{?\s*([+-]?\d+)\s*\}?|([⁻⁺]?[⁰¹²³⁴-⁹]+))|e([+-]?\d+)\b",
    re.IGNORECASE,
)
_RAISED_TO = re.compile(r"\s*\^\s*\{?\s*([+-]?\d{1,2})\s*\}?(?!\d)|([⁻⁺]?[⁰¹²³⁴-⁹]{1,2})")
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_SCALE = re.compile(rf"[\s-]?({'|'.join(_SCALES)})s?\b|(?-i:(k|bn))\b", re.IGNORECASE)
_NTH = re.compile(r"(?:st|nd|rd|th)\b", re.IGNORECASE)
_SIGN = re.compile(r"(?:(?<![\w)\]%])-\s?|\b(?:minus|negative)\s+)$", re.IGNORECASE)
_WORD = "|".join(sorted([*_VALUES, "hundred", "thousand", "million", "billion"], key=len)[::-1])
_NTH_WORD = "|".join(sorted(_ORDINALS, key=len)[::-1])
_IN_WORDS = re.compile(
    rf"(?<![\w-])half\b|(?<![\w-])(?:(?:an?\s+)?(?:hundred|thousand|million|billion|dozen)\b|(?:{_WORD})\b)"
    rf"(?:(?:\s+and\s+|[\s-]+)(?:{_WORD})\b)*(?:[\s-]+(?:{_NTH_WORD})\b)?"
    rf"|(?<![\w-])(?:{_NTH_WORD})\b",
    re.IGNORECASE,
)
_PART = re.compile(rf"(?:\s+and)?(?:\s+an?)?[\s-]+({'|'.join(_PARTS)})\b", re.IGNORECASE)
# "one of them", "no one", "the one that" count nothing.
_NO_ONE = re.compile(r"\b(?:no|any|every|some|each|which|the|this|that|another|or)[\s-]$", re.I)
_ONE_OF = re.compile(r"\s+(?:of|another|who|that|which|can|could|should|must|may|might)\b", re.I)


class Number(NamedTuple):
    """A number in a text: its characters, and its value."""

    start: int
    end: int  # with its unit if that is a percent sign or joined: "25 %", "72kg"
    stop: int  # with its unit: "72 kg"
    value: Fraction
    unit: str  # of _MEASURE; "" where none follows
    ordinal: bool


def numbers(text):
    """Numbers of a folded text, in order: in digits, in words, as fractions, with their units."""
    found, position = [], 0
    ahead = {pattern: pattern.search(text) for pattern in (_FRACTION, _IN_DIGITS, _IN_WORDS)}
    while True:
        for pattern, match in ahead.items():
            if match and match.start() < position:
                ahead[pattern] = pattern.search(text, position)
        matches = [match for match in ahead.values() if match]
        if not matches:
            return found
        # Of two that begin together the fraction is the longer one.
        match = min(matches, key=lambda m: (m.start(), -m.end()))
        number = _number(text, match)
        if number:
            found.append(number)
        position = max(match.end(), number.stop if number else 0)


def _number(text, match):
    start, end, ordinal = match.start(), match.end(), False
    if match.re is _IN_WORDS:
        words = re.split(r"[\s-]+", match.group().lower())
        if words == ["one"] and (
            _NO_ONE.search(text[max(0, start - 12) : start]) or _ONE_OF.match(text, end)
        ):
            return None
        ordinal = words[-1] in _ORDINALS
        value = _value_of_words(words)
    elif match.re is _FRACTION:
        value = _value_of_fraction(match)
    else:
        value = _value_of_digits(match.group())
        if value is not None and (nth := _NTH.match(text, end)):
            ordinal, end = True, nth.end()
        elif power := _POWER.match(text, end):
            exponent = int((power[1] or power[3] or power[2].translate(_RAISED))[:9])
            value = None if abs(exponent) > _LONGEST else value and value * Fraction(10) ** exponent
            end = power.end()
        elif (power := _RAISED_TO.match(text, end)) and abs(value or 0) <= 100:
            exponent = int(power[1] or power[2].translate(_RAISED))
            value, end = value and value**exponent, power.end()
    if part := None if ordinal or value is None else _PART.match(text, end):
        share = Fraction(1, _PARTS[part.group(1).lower()])
        # "three quarters", but "two and a half"
        value = value + share if "and" in part.group().split() else value * share
        end = part.end()
    while value is not None and not ordinal and (scale := _SCALE.match(text, end)):
        times = _SCALES[scale[1].lower()] if scale[1] else _JOINED_SCALES[scale[2]]
        value, end = value * times, scale.end()
    unit, before = "", text[max(0, start - 12) : start]
    stop = end
    measure = None if ordinal else _UNIT.match(text, end)
    if measure and not (measure.group() == "s" or (measure.group() == "$" and "$" in text[:end])):
        unit, stop = _MEASURE[measure.group(1).lower()], measure.end()
        if measure.group(1) == "%" or measure.start(1) == end:
            end = stop
    elif text[end : end + 1].isalnum():
        return None  # 3D, 1990s
    if value is None or abs(value) >= 10**_LONGEST:
        return None
    if sign := _SIGN.search(before):
        value, start = -value, start - len(sign.group())
    elif before[-1:] in ("$", "€", "£") and not unit and text[end : end + 1] != "$":
        unit, start = before[-1], start - 1  # "$5", but LaTeX's "$5$"
    return Number(start, end, stop, value, unit, ordinal)


def _value_of_words(words):
    if words == ["half"]:
        return Fraction(1, 2)
    total = group = 0
    for word in words:
        if word in ("hundred", "dozen"):
            group = max(group, 1) * _SCALES[word]
        elif word in _SCALES:
            total, group = total + max(group, 1) * _SCALES[word], 0
        else:
            value = _VALUES.get(word, _ORDINALS.get(word, 0))
            # "nineteen eighty-four" is a year.
            group = (100 * group if 10 <= group < 100 and value >= 10 else group) + value
    return Fraction(total + group)


def _value_of_fraction(match):
    upper, lower, whole, over, under, before, vulgar = match.groups()
    if max(map(len, filter(None, match.groups()))) > _LONGEST:
        return None
    if vulgar:
        share = Fraction(unicodedata.numeric(vulgar)).limit_denominator(10)
        return int(before or 0) + share
    above, below = int(upper or over), int(lower or under)
    return int(whole or 0) + Fraction(above, below) if below else None


def _value_of_digits(digits):
    plain = re.sub(r"[ ']|\{,\}|\\,", "", digits)
    if re.fullmatch(r"\d+,(?:\d{1,2}|\d{4,})", plain) or re.fullmatch(r"[\d.]+,\d+", plain):
        decimal = "," if plain.rfind(",") > plain.rfind(".") else "."
    else:
        decimal = "."
    if plain.count(".") > 1:
        plain = plain.replace(".", "")
    elif re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", plain):
        decimal = "."
    plain = plain.replace("," if decimal == "." else ".", "").replace(decimal, ".")
    return Fraction(plain) if len(plain) <= _LONGEST else None


_ROMAN = re.compile(r"(?=[IVXLC])(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})")


def roman_value(word):
    """Value of a Roman numeral below 100 in capitals, or None: "XIV" is 14."""
    if not _ROMAN.fullmatch(word):
        return None
    values = [{"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}[letter] for letter in word]
    after = [*values[1:], 0]
    return sum(-v if v < a else v for v, a in zip(values, after, strict=True))


def number_names(word, roman=True):
    """All ways to write a whole number below 100 that is a part of a name, or ()."""
    lower = word.lower()
    value = roman_value(word) if roman else None
    nth = re.fullmatch(r"(\d{1,2})(?:st|nd|rd|th)?", lower)
    value = value or _VALUES.get(lower) or _ORDINALS.get(lower) or (nth and int(nth[1]))
    if not value or value > 99 or (value == 1 and lower == "one"):
        return ()
    ordinal = lower in _ORDINALS or (nth is not None and not lower.isdigit())
    ordinal &= not (roman and word[0].isupper())  # "Henry the Eighth" is Henry VIII
    names = [word for word, v in _ORDINALS.items() if v == value]
    ending = {1: "st", 2: "nd", 3: "rd"}.get(value % 10 if value // 10 != 1 else 0, "th")
    names.append(f"{value}{ending}")
    if not ordinal:
        names += [str(value), *(word for word, v in _VALUES.items() if v == value)]
        if roman:
            names.append(_as_roman(value))
    return tuple(names)


def _as_roman(value):
    tens = ["", "X", "XX", "XXX", "XL", "L", "LX", "LXX", "LXXX", "XC"][value // 10]
    return tens + ["", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX"][value % 10]


_MONTHS = {name.lower(): i for i, name in enumerate(calendar.month_name) if name}
_MONTHS |= {name.lower(): i for i, name in enumerate(calendar.month_abbr) if name} | {"sept": 9}
_MONTH = "|".join(sorted(_MONTHS, key=len, reverse=True))
_MONTH = rf"(?P<month>{_MONTH})\b(?:(?<=\b\w{{3}})\.|(?<=sept)\.)?"
_DAY = r"(?<![\d.,/-])(?P<day>\d{1,2})(?:st|nd|rd|th)?\b"
_YEAR = r"(?P<year>\d{3,4}\b|\d{1,4}(?=\s*(?:BCE?|AD|CE)\b))(?P<era>\s*(?:BCE?|AD|CE)\b)?"
_DATES = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"{_DAY}(?:\s+of)?(?:\s+|-){_MONTH}(?:[\s,-]+(?:of\s+|in\s+)?{_YEAR})?",
        rf"\b{_MONTH}\s+(?:the\s+)?{_DAY}(?!:)(?:[\s,]+(?:of\s+|in\s+)?{_YEAR})?",
        rf"\b{_MONTH}[\s,]+(?:of\s+)?{_YEAR}",
        r"(?<![\d-])(?P<year>\d{4})[-/.](?P<month>\d{1,2})[-/.](?P<day>\d{1,2})(?![\d-])",
        r"(?<![\d/.-])(?P<one>\d{1,2})[/.-](?P<two>\d{1,2})[/.-](?P<year>\d{4})(?![\d/-])",
        r"(?<![\w.,/-])(?P<year>[12]\d{3})(?![\w/]|[.,-]\d)",
    )
]


class Date(NamedTuple):
    """A date in a text: its characters, and its readings (year, month, day), None where absent."""

    start: int
    end: int
    readings: frozenset  # of "3/4/2001" two


def dates(text):
    """Dates of a folded text, in order; a year alone is one."""
    found = []
    for pattern in _DATES:
        for match in pattern.finditer(text):
            readings = _readings(match.groupdict())
            if readings and all(match.end() <= d.start or d.end <= match.start() for d in found):
                found.append(Date(*match.span(), readings))
    return sorted(found)


def _readings(parts):
    year, month, day = (parts.get(name) for name in ("year", "month", "day"))
    year = year and int(year)
    if "B" in (parts.get("era") or "").upper():
        year = -year
    if "one" in parts:  # 3/4/2001: day first or month first
        one, two = int(parts["one"]), int(parts["two"])
        readings = [(year, one, two), (year, two, one)]
    else:
        month = month and (_MONTHS.get(month.lower()) or int(month))
        readings = [(year, month, day and int(day))]
    return frozenset(r for r in readings if (r[1] or 1) <= 12 and 1 <= (r[2] or 1) <= 31)


def in_base(number):
    """Value and unit of a number in the measure of its kind: 5 km are 5000 m."""
    unit, times = _IN_BASE.get(number.unit, (number.unit, 1))
    return number.value * Fraction(times), unit


def units_named(text):
    """Measures that a text names: those of "How many feet ..."."""
    return {_MEASURE[word] for word in re.findall(r"[^\W\d_]+", text.lower()) if word in _MEASURE}
