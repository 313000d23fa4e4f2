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
    return found[0] if re.fullmatch(r"(?: [a-z]+)?", folded[found[0].stop :]) else None


def whole_date(text):
    """Date that a text consists of, or None."""
    folded = fold(text)[0].strip(" \"'*.!")
    found = dates(folded)
    return found[0] if found and (found[0].start, found[0].end) == (0, len(folded)) else None


def find(kind, text, question, choices=None, finished=True):
    """What a folded text answers with, by the kind of the question: a `Mention` or None."""
    if kind == "number":
        return _find_number(text, question, finished)
    if kind == "date":
        return _find_date(text, question)
    if kind == "yes_no":
        return _find_polarity(text, question)
    if kind == "choice":
        return _find_choice(text, question, choices or ())
    return None


_EQUALS = re.compile(r"(?:=|≈|\bequals?\b)\s*[\"'(*$]*(?:\\boxed\{)?\s*$")
_NUMBERED = re.compile(r"(?:^|\n)\s*[(*]*$")


_CONCLUDES = re.compile(r"\b(?:so|thus|therefore|hence)\b([^.!?\n]*)$", re.IGNORECASE)
# How a reckoning begins; cut off, it has no answer yet.
_RECKONS = re.compile(
    r"\s*(?:to (?:solve|find|calculate|determine|answer|figure)|let's|let us|we (?:need|can|know)"
    r"|first,|step 1)\b",
    re.IGNORECASE,
)


def _find_number(text, question, finished):
    found = _usable_numbers(text, question)
    marker = after_marker(text)
    results = [n for n in found if _EQUALS.search(_before(text, n.start))]
    for number in found:
        if marker and marker[0] <= number.start < marker[1]:
            announced = [n for n in results if n.start < marker[1] and n.start >= number.start]
            return _number_mention(announced[-1] if announced else number)
    if not finished and _RECKONS.match(text):
        return None
    known = {number.value for number in numbers(question)}
    answers = [n for n in found if n.value not in known]
    echoes = [n for n in found if n.value in known]
    for number in reversed(results):
        # "So, 1 hour is equal to ... = 3600": the conclusion names what was asked about.
        concludes = _CONCLUDES.search(_before(text, number.start))
        if concludes and any(n.value in known for n in numbers(concludes[1])):
            return _number_mention(number)
    first = re.match(r"\s*(?:[^.!?\n]|[.](?=\S))*", text).group()
    if results and ("=" in first or not any(n.start < len(first) for n in answers)):
        return _number_mention(results[-1])
    answers = _asked_about(text, question, answers)
    counted = re.search(r"\bhow many ((?:\w+ )?\w+)", question, re.IGNORECASE)
    if counted:
        things = {stem(word) for word in counted.group(1).lower().split()}
        for number in answers:
            if things & {*map(stem, _next_words(text, number.end))}:
                return _number_mention(number)
        if not re.search(r"\byears?\b", question, re.IGNORECASE):
            answers = [n for n in answers if not _is_dated(text, n)] or answers
    # What only repeats the question is an answer if it is said to be: "7 times 1 is 7".
    answers += [n for n in reversed(echoes) if _IS.search(_before(text, n.start))]
    if not answers and text.strip(" .!*$\"'") in {text[n.start : n.stop] for n in echoes}:
        answers = echoes
    return _number_mention(answers[0]) if answers else None


_IS = re.compile(
    r"(?:\b(?:is|are|was|were|equals|equal to|has|have)|[=:])\s+(?:\w+ly\s+|about\s+)?[*$]*$", re.I
)


def _usable_numbers(text, question):
    """Numbers that may be the answer: not those of lists, days or ranges, and none denied."""
    dated = [] if re.search(r"\bday\b", question, re.I) else dates(text)
    how_many = re.search(r"\bhow (?:many|much)\b", question, re.IGNORECASE)
    asks_rank = re.search(r"\b(?:century|place|position|rank|floor|grade)\b", question, re.I)
    usable = []
    for number in numbers(text):
        years = [
            {reading[0] for reading in date.readings}
            for date in dated
            if date.start <= number.start < date.end
        ]
        enumerates = _NUMBERED.search(_before(text, number.start)) and re.match(
            r"[.)]\s+\S", text[number.end :]
        )
        if not (
            (years and number.value not in years[0])  # a day: of a date the year counts
            or enumerates
            or (number.ordinal and how_many)
            or (not _is_year(number) and _is_in_range(text, number))
            or is_denied(text, number.start, number.end)
        ):
            usable.append(number)
    # "the 20th century, so 1920"
    return [n for n in usable if not n.ordinal] or usable if not asks_rank else usable


def _before(text, position, width=200):
    """What stands before a position, as far as anything looks back."""
    return text[max(0, position - width) : position]


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
    asked = content(question)
    clauses = [re.split(r"[,;:.]", text[max(0, m.start - 60) : m.start])[-1] for m in found]
    before = [" ".join(clause.split()[-3:]) for clause in clauses]
    near = [m for m, words in zip(found, before, strict=True) if asked & content(words)]
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
    if not re.search(r"\b(?:born|birth|life|live)", question, re.IGNORECASE):
        found = [
            d for d in found if not re.search(r"\bborn\s+(?:on|in)\s$", _before(text, d.start))
        ] or found
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


def dated_by(date, asked):
    """A date with the year of the question, if it has none of its own."""
    years = {reading[0] for other in asked for reading in other.readings if reading[0]}
    if len(years) != 1:
        return date
    readings = {(r[0] or min(years), *r[1:]) for r in date.readings}
    return date._replace(readings=frozenset(readings))


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
_INDEED = re.compile(r"\bindeed\b(?!\s+not)", re.IGNORECASE)
_NOT = re.compile(r"\b(?:not|cannot|never)\b|n't\b", re.IGNORECASE)


def _find_polarity(text, question):
    marker = after_marker(text)
    for start, end in ([marker] if marker else []) + [(0, len(text))]:
        part = text[start:end]
        if re.match(r"\W*yes and no\b", part, re.I):
            return None
        if opening := _OPENING.match(part):
            at = start + opening.start("word"), start + opening.end("word")
            return Mention(*at, _POLARITY[opening["word"].lower()])
    for pattern, said in ((_SHORT_NO, "no"), (_SHORT_YES, "yes")):
        if match := pattern.match(text):
            return Mention(*match.span("word"), said)
    return _restated(text, question)


_CLAUSE = re.compile(r"(?:[^.!?;:,\n]|[.,](?=\w))+")
_GENERIC = {"statement", "claim", "answer", "question", "assert", "that"}


def _restated(text, question):
    """Yes or no of a response that says the question again: "Penguins cannot fly."."""
    lead = r"^\W*(?:is it (?:true|correct|right) that|true or false)\W*"
    asked = re.sub(lead, "", question.split("?")[0], flags=re.IGNORECASE)
    words = [stem(word) for word in _words(asked)]
    for clause in _CLAUSE.finditer(text):
        said, place = content(clause.group()), clause.span()
        generic = said - _SURE <= _GENERIC
        if not generic and not (words and any(_is_form(word, words[-1]) for word in said)):
            continue  # nothing is said of what was asked
        denied = _NOT.search(text, *place)
        if word := _ANYWHERE.search(text, *place):
            name = _POLARITY[word["word"].lower()]
            if is_denied(text, *word.span("word")):
                if word["word"].lower() in ("yes", "no", "nope"):
                    continue  # "yes would be wrong" answers nothing by itself
                name = "no" if name == "yes" else "yes"
            return Mention(*word.span("word"), name)
        if denied and not re.match(r"\s+(?:only|just|merely)\b", text[denied.end() :]):
            return Mention(*denied.span(), "no")
        if generic:
            continue
        sure = _INDEED.search(text, *place)
        if sure and (
            words[0] in said or re.match(r"\W*(?:it|they|he|she|this)\b", clause[0], re.I)
        ):
            return Mention(*sure.span(), "yes")
    return None


def _is_form(word, root):
    """Whether one stem is another one, or begins with it: "swimmer" and "swim"."""
    return word == root or (len(root) > 3 and word.startswith(root))


def implied(text, question):
    """Yes or no of a response that says neither, or None.

    "Sofia is the capital of Bulgaria." says the question again; "The capital of Australia is
    Canberra.", asked about Sydney, names another. No word of them is the answer.
    """
    words = [stem(word) for word in _words(question.split("?")[0])]
    sentence = re.match(r"[^.!?\n]*", text).group()
    said = content(sentence)
    if len(words) < 2 or _NOT.search(sentence):
        return None
    if {*words} <= said:
        return "yes"
    return "no" if len(words) > 2 and words[0] not in said and {*words[1:]} < said else None


_SURE = {stem(word) for word in (*_POLARITY, "indeed")}
_SAYS_LITTLE = frozenset(
    """
    the and are was were has have had does did can could will would should may might this that
    these those with from for there their its not cannot any all than what which when who how where
    why many much
    """.split()  # noqa: SIM905
)


def content(text):
    """Stems of the words of a text that say something."""
    return {stem(word) for word in _words(text)}


def _words(text):
    return [w for w in re.findall(r"[^\W_]{3,}", text.lower()) if w not in _SAYS_LITTLE]


# A letter that is the answer, not the article, the pronoun or a part of "Vitamin C".
_BEFORE_LETTER = re.compile(
    r"(?:^|[.:;,!?\n(\[*\"'=>]|\b(?:is|was|be|so|are|option|answer|choice|letter|to|and|or|choose"
    r"|pick|select|say|therefore|thus|hence|it's|not|than|of|leaves)) ?[(\[*\"'$]*(?:\\boxed\{)?$",
    re.IGNORECASE,
)
_LETTER = re.compile(r"(?<![\w'.-])(?:[B-HJ-Z]|[AI](?! [a-z]))(?![\w'’-]|\.[A-Z])")


def _find_choice(text, question, choices):
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
    if len(found) >= 3 and len(choices) == len(found) == len({m.name for m in found}):
        found = []  # the options again
        spoken = [m for m in spoken if not _LETTERED.search(_before(text, m.start))]
    # "C. Cow", where C is another option: the words count, as they say more than the letter.
    found = [m for m in found if not _is_contradicted(text, m, spoken)]
    usable = [m for m in sorted(found + spoken) if not is_denied(text, m.start, m.end)]
    if not usable:
        return None
    marker = after_marker(text)
    announced = [m for m in usable if marker and marker[0] <= m.start < marker[1]]
    confirmed = [m for m in usable if is_confirmed(text, m.end)]
    restated = [m for m in usable if m in spoken and _restates(text, m, question)]
    chosen = (announced or confirmed or restated or usable)[0]
    # The same answer may have been given before.
    return next(m for m in usable if m.name == chosen.name)


_LETTERED = re.compile(r"(?:^|\n)\W*[A-Z][.):]?\W*$")


def _is_contradicted(text, letter, spoken):
    after = re.match(
        r"[\"')*\]]*\s*[.:)-]?\s*[\"'*(]*(?:the\s+)?", text[letter.end :], re.IGNORECASE
    )
    position = letter.end + after.end()
    return any(m.start == position and m.name != letter.name for m in spoken)


def _restates(text, mention, question):
    """Whether what stands before a mention in its sentence is the question again."""
    asked = content(question.split("\n")[0])
    before = re.split(r"[.!?\n]", _before(text, mention.start))[-1]
    return bool(asked) and len(asked & content(before)) >= 0.6 * len(asked)
