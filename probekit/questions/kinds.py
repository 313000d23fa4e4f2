"""Kinds of answers: how each is told from a question, and found in a response.

A finder looks at the response and the question, never at what is accepted.
"""

import re
from string import ascii_uppercase
from typing import NamedTuple

from probekit.questions.statements import after_marker, is_confirmed, is_denied
from probekit.questions.text import fold
from probekit.questions.values import dates, numbers
from probekit.questions.words import mentions, stem

KINDS = ("text", "number", "date", "yes_no", "choice")
LETTERS = ascii_uppercase  # of options, in their order

_YES = ["yes", "yeah", "yep", "yup", "true", "correct", "right", "affirmative"]
_NO = ["no", "nope", "nah", "false", "incorrect", "wrong", "untrue", "negative"]
_POLARITY = dict.fromkeys(_YES, "yes") | dict.fromkeys(_NO, "no")


class Mention(NamedTuple):
    """What a response answers with: its characters, and one name for all ways to say it."""

    start: int
    end: int
    name: str


_ASKS_WHICH = re.compile(r"\W*(?:which|who|whom|whose|what|where|when|how)\b", re.IGNORECASE)


def kind_of(answers, choices=None, candidates=None, question=""):
    """Kind of a question, told by its accepted answers and what it may be answered with.

    Parameters
    ----------
    answers : list of str
        Accepted answers.
    choices : list of str, optional
        Options that the question is asked with.
    candidates : Candidates, optional
        List of things that could be answered.
    question : str
        What is asked: "Which band ...?" is not answered with yes or no, even if "Yes" is accepted.

    Returns
    -------
    str
        One of `KINDS`.
    """
    if choices:
        return "choice"
    names = candidates.names if candidates is not None else answers
    if names and all(map(polarity, names)) and not _ASKS_WHICH.match(question):
        return "yes_no"
    if names and all(len(name) == 1 and name.isascii() and name.isupper() for name in names):
        # A list of B, C, N, O and other names is of something else, such as elements.
        return "choice"
    if candidates is None and answers:
        if all(whole_number(answer) for answer in answers):
            return "number"
        if all(whole_date(answer) for answer in answers):
            return "date"
    return "text"


def with_options(question, choices):
    """Question as it is asked with its options, each on a line: "A. Mars"."""
    return "\n".join(
        [question, *(f"{letter}. {c}" for letter, c in zip(LETTERS, choices, strict=False))]
    )


def polarity(text):
    """Whether a text as a whole says "yes" or "no"; None if neither."""
    return _POLARITY.get(fold(text)[0].strip(" \"'*().!").lower())


def whole_number(text):
    """Number that a text consists of, with its unit or something counted after it, or None."""
    folded = re.sub(r"^\W*\\boxed\{(.*)\}\W*$", r"\1", fold(text)[0].strip(" \"'*$.!"))
    found = numbers(folded)
    if len(found) != 1 or found[0].start:
        return None
    return found[0] if re.fullmatch(r"(?: [a-z]+)?", folded[found[0].end :]) else None


def whole_date(text):
    """Date that a text consists of, or None."""
    folded = fold(text)[0].strip(" \"'*.!")
    found = dates(folded)
    return found[0] if found and (found[0].start, found[0].end) == (0, len(folded)) else None


def find(kind, text, question, choices=None):
    """What a folded text answers with, by the kind of the question: a `Mention` or None."""
    if kind == "number":
        return _find_number(text, question)
    if kind == "date":
        return _find_date(text, question)
    if kind == "yes_no":
        return _find_polarity(text, question)
    if kind == "choice":
        return _find_choice(text, choices or ())
    return None


_EQUALS = re.compile(r"(?:=|≈|\bequals?\b)\s*[\"'(*$]*(?:\\boxed\{)?\s*$")
_NUMBERED = re.compile(r"(?:^|\n)\s*[(*]*$")


def _find_number(text, question):
    asked = [number.value for number in numbers(question)]
    dated = {} if re.search(r"\bday\b", question, re.I) else {d.start: d for d in dates(text)}
    found = []
    for number in numbers(text):
        inside = [d for d in dated.values() if d.start <= number.start < d.end]
        if inside and number.value not in {r[0] for r in inside[0].readings}:
            continue  # a day: of a date the year counts
        enumerates = _NUMBERED.search(text[: number.start]) and re.match(
            r"[.)]\s+\S", text[number.end :]
        )
        if not enumerates and not is_denied(text, number.start, number.end):
            found.append(number)
    if not found:
        return None
    marker = after_marker(text)
    marked = [n for n in found if marker and marker[0] <= n.start < marker[1]]
    results = [n for n in found if _EQUALS.search(text[: n.start])]
    if marked:
        return _number_mention(next((n for n in marked if n in results), marked[0]))
    if results:
        return _number_mention(results[-1])
    if re.search(r"\bhow (?:many|much)\b", question, re.IGNORECASE):
        found = [n for n in found if not n.ordinal]
    spans = [n for n in found if not _is_year(n) and _is_in_range(text, n)]
    found = [n for n in found if n not in spans]
    if not found:
        return None
    found = _asked_about(text, question, found)
    counted = re.search(r"\bhow many ((?:\w+ )?\w+)", question, re.IGNORECASE)
    if counted:
        things = {stem(word) for word in counted.group(1).lower().split()}
        close = [n for n in found if things & {*map(stem, _next_words(text, n.end))}]
        if len({n.value for n in close}) == 1:
            return _number_mention(close[0])
        if close and not re.search(r"\byears?\b", question, re.I):
            found = [n for n in found if not _is_dated(text, n)] or found
    answers = []
    for number in found:
        if number.value in asked:
            asked.remove(number.value)
        else:
            answers.append(number)
    return _number_mention(answers[0] if answers else found[-1])


def _next_words(text, position):
    return re.findall(r"[^\W\d_]+", text[position : position + 40].lower())[:4]


def _is_year(number):
    return 1000 <= number.value <= 2100


def _is_dated(text, number):
    before = text[max(0, number.start - 8) : number.start]
    return _is_year(number) and re.search(r"\b(?:in|since|of|by|until|from)\s$", before, re.I)


def _is_in_range(text, number):
    """Whether a number is an end of a range: "7 to 12", "between 7 and 12"."""
    after, before = (
        text[number.end : number.end + 8],
        text[max(0, number.start - 30) : number.start],
    )
    return (
        re.match(r"\s*(?:-|to)\s*\d", after)
        or re.search(r"\d\s*(?:-|\bto)\s*$", before)
        or (re.search(r"\bbetween\s$", before) and re.match(r"\s+and\s+\d", after))
        or re.search(r"\bbetween\s+[\d.,]+\s+and\s$", before)
    )


def _asked_about(text, question, found):
    """Of several mentions those beside a word of the question: the "ended" of "ended in 1972"."""
    asked = _content(question)
    before = [" ".join(text[max(0, m.start - 60) : m.start].split()[-3:]) for m in found]
    near = [m for m, words in zip(found, before, strict=True) if asked & _content(words)]
    return near if near and len(near) < len(found) else found


def _number_mention(number):
    return Mention(number.start, number.end, canonical_number(number.value))


def canonical_number(value):
    """One name for a value: "12", "0.25", "1/3"."""
    if value.denominator == 1:
        return str(value.numerator)
    decimals = f"{float(value):.12g}"
    return decimals if value == type(value)(decimals) else str(value)


_PLAIN_WORDS = {*"and or in of at on is was are to for the a an because since as by".split()}  # noqa: SIM905


def same_number(number, accepted, after=""):
    """Whether a number of a response is the accepted one, with regard to their units.

    A percentage is also its share: "25%" is "25", and "0.25". A unit that is missing on one side
    is forgiven; another unit is not, nor is another thing counted (`after` is the text after the
    number): "50 people" is not "50%".
    """
    if accepted.ordinal and not number.ordinal:
        return False
    if number.value == accepted.value:
        if accepted.unit and not number.unit:
            counted = re.match(r"[\s-]?([^\W\d_]+)", after)
            return not counted or counted.group(1).lower() in _PLAIN_WORDS
        return not accepted.unit or number.unit == accepted.unit
    shares = {n.unit: n.value / 100 if n.unit == "%" else n.value for n in (number, accepted)}
    return shares.keys() == {"%", ""} and len({*shares.values()}) == 1


def _find_date(text, question):
    asked = {d.readings for d in dates(question)}
    found = [d for d in dates(text) if not is_denied(text, d.start, d.end)]
    found = [d for d in found if d.readings not in asked] or found
    if not found:
        return None
    found = _asked_about(text, question, found)
    marker = after_marker(text)
    found = [d for d in found if marker and marker[0] <= d.start < marker[1]] or found
    fullest = max(_parts(d) for d in found)
    best = next(d for d in found if _parts(d) == min(fullest, 2) or _parts(d) == fullest)
    name = "-".join("?" if part is None else f"{part:02d}" for part in min(best.readings, key=str))
    return Mention(best.start, best.end, name)


def _parts(date):
    return max(sum(part is not None for part in r) for r in date.readings)


def same_date(date, accepted):
    """Whether a date of a response is the accepted one: all that the latter says must be said."""
    return any(
        all(want is None or want == got for want, got in zip(expected, reading, strict=True))
        for expected in accepted.readings
        for reading in date.readings
    )


_ANSWERS_NO = (
    r"no(?=\W*$|\s*[,.;:!)\"'*—–]|\s+-|\s+(?:it|they|he|she|this|that|there|the|i|we|you|not)\b)"
)
_OTHER_POLARITY = "|".join(word for word in (*_YES, *_NO) if word not in ("no", "right", "wrong"))
_OPENING = re.compile(
    rf"^\W*(?:answer\s*:\W*)?(?P<word>{_ANSWERS_NO}|(?:{_OTHER_POLARITY})\b|right(?=[,.!]))", re.I
)
_ANYWHERE = re.compile(
    r"\b(?P<word>(?:yes|nope|true|false|correct|incorrect|untrue)\b"
    r"|no(?=\W*$|[.,;:!)\"'*]))",
    re.IGNORECASE,
)


# "Of course not", "It certainly is."
_SHORT_NO = re.compile(
    r"^\W*(?:(?:of course|certainly|absolutely|definitely|surely|clearly|it is|it does|that is)"
    r"\s+)?(?P<word>not\b|never\b)",
    re.IGNORECASE,
)
_SHORT_YES = re.compile(
    r"^\W*(?P<word>(?:of course|certainly|absolutely|definitely|sure|indeed)(?=\W*$|[.,!;])"
    r"|(?:it|they|he|she|this|that|there|you|we|i)\s+(?:\w+ly\s+|sure\s+)?"
    r"(?:is|are|does|do|did|was|were|can|could|has|have|will|would)(?=\s*(?:$|[.!,;])))",
    re.IGNORECASE,
)
_NOT = re.compile(r"\b(?:not|cannot|never)\b|n't\b", re.IGNORECASE)


def _find_polarity(text, question):
    marker = after_marker(text)
    for start, end in ([marker] if marker else []) + [(0, len(text))]:
        part = text[start:end]
        if re.match(r"\W*yes and no\b", part, re.I):
            return None
        opening = _OPENING.match(part)
        for match in [opening] if opening else _ANYWHERE.finditer(part):
            at = start + match.start("word"), start + match.end("word")
            said = _POLARITY[match["word"].lower()]
            if not opening and is_denied(text, *at):
                if match["word"].lower() in ("yes", "no", "nope"):
                    continue  # "yes would be wrong" answers nothing by itself
                said = "no" if said == "yes" else "yes"
            return Mention(*at, said)
    for pattern, said in ((_SHORT_NO, "no"), (_SHORT_YES, "yes")):
        if match := pattern.match(text):
            return Mention(*match.span("word"), said)
    return _restated(text, question)


def _restated(text, question):
    """Yes or no of a response that says the question again: "Penguins cannot fly."."""
    asked = _content(question.split("?")[0])
    sentence = re.match(r"\s*[^.!?\n]*", text).group()
    said = _content(sentence)
    denied = _NOT.search(sentence)
    if not asked or len(asked & said) < (len(asked) / 2 if denied else len(asked)):
        return None
    verb = re.search(rf"\b{re.escape(question.split()[0])}\b", sentence, re.IGNORECASE)
    found = denied or verb
    return found and Mention(*found.span(), "no" if denied else "yes")


_SAYS_LITTLE = frozenset(
    """
    the and are was were has have had does did can could will would should may might this that
    these those with from for there their its not cannot any all than what which when who how many
    much
    """.split()  # noqa: SIM905
)


def _content(text):
    """Stems of the words of a text that say something."""
    words = re.findall(r"[^\W_]{3,}", text.lower())
    return {stem(word) for word in words if word not in _SAYS_LITTLE}


# A letter that is the answer, not the article, the pronoun or a part of "Vitamin C".
_BEFORE_LETTER = re.compile(
    r"(?:^|[.:;,!?\n(\[*\"'=]|\b(?:is|was|be|so|are|option|answer|choice|letter|to|and|or|choose"
    r"|pick|select|say|therefore|thus|hence|it's|not|than|of|leaves)) ?[(\[*\"'$]*(?:\\boxed\{)?$",
    re.IGNORECASE,
)
_LETTER = re.compile(r"(?<![\w'.-])(?:[B-HJ-Z]|[AI](?! [a-z]))(?![\w'’-]|\.[A-Z])")


def _find_choice(text, choices):
    letters = LETTERS[: len(choices)]
    found = [
        Mention(*match.span(), match.group())
        for match in _LETTER.finditer(text)
        if (not choices or match.group() in letters)
        and _BEFORE_LETTER.search(text[max(0, match.start() - 12) : match.start()])
    ]
    if not found and len(bare := text.strip(" \"'*().")) == 1 and bare.isalpha():
        start = text.index(bare)
        found = [Mention(start, start + 1, bare.upper())]
    spoken = []
    # The longest first, as one option may be a part of another.
    for option, letter in sorted(zip(choices, LETTERS, strict=False), key=lambda c: -len(c[0])):
        for start, end in mentions(option, text):
            if all(end <= m.start or m.end <= start for m in spoken):
                spoken.append(Mention(start, end, letter))
    stated = [m for m in found if not is_denied(text, m.start, m.end)]
    named = [m for m in sorted(spoken) if not is_denied(text, m.start, m.end)]
    marker = after_marker(text)
    for group in (stated, named) if marker else ():
        announced = [m for m in group if marker[0] <= m.start < marker[1]]
        if announced:
            return announced[0]
    for mention in stated + named:
        if is_confirmed(text, mention.end):
            return mention
    opening = re.match(r"\W*", text).end()
    if stated and (stated[0].start == opening or not named):
        return stated[0]
    if named and (not stated or named[0].start < stated[0].start):
        return named[0]
    return stated[0] if stated else None
