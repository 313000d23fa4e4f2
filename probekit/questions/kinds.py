"""Kinds of answers: how each is told from a question, and found in a response.

A finder looks at the response and the question, never at what is accepted.
"""

import re
from string import ascii_uppercase

from probekit.questions.statements import after_marker, is_confirmed, is_denied
from probekit.questions.text import Mention, fold
from probekit.questions.values import dates, in_base, numbers, units_named
from probekit.questions.words import mentions, stem

KINDS = ("text", "number", "date", "yes_no", "choice")
LETTERS = ascii_uppercase  # of options, in their order

_YES = ["yes", "yeah", "yep", "yup", "true", "correct", "right", "affirmative"]
_NO = ["no", "nope", "nah", "false", "incorrect", "wrong", "untrue", "negative"]
_POLARITY = dict.fromkeys(_YES, "yes") | dict.fromkeys(_NO, "no")


# "(A) Mars (B) Saturn" within the question.
_LETTERED_OPTIONS = re.compile(r"(?:^|[\s(])A[.):] .*[\s(]B[.):] ", re.DOTALL)
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
    # A list of B, C, N, O and other names is of something else, such as elements.
    lettered = names and all(map(re.compile("[A-Z]").fullmatch, names))
    if lettered and (candidates is not None or _LETTERED_OPTIONS.search(question)):
        return "choice"
    if candidates is None and answers:
        if all(whole_number(answer) for answer in answers):
            return "number"
        if all(whole_date(answer) for answer in answers):
            return "date"
    return "text"


def is_of_kind(answer, kind, choices=None):
    """Whether an accepted answer can be compared as this kind asks."""
    if kind == "number":
        return whole_number(answer) is not None
    if kind == "date":
        return whole_date(answer) is not None or whole_number(answer) is not None
    if kind == "yes_no":
        return polarity(answer) is not None
    return kind == "text" or bool(choices) or len(answer.strip(" ().")) == 1


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
    folded = re.sub(r"^\W*\\boxed\{(.*)\}\W*$", r"\1", fold(text)[0].strip(" \"'*.!"))
    folded = re.sub(r"^\$(.*)\$$", r"\1", folded)
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
_STEP = re.compile(r"\b(?:step|question|chapter|part|figure|example)\s$", re.IGNORECASE)
_NUMBERED = re.compile(r"(?:^|\n)\s*[(*]*$")


# What a reckoning ends with: "So, ...", "The total is ...", "... eggs are left".
_CONCLUDES = re.compile(
    r"\b(?:so|thus|therefore|hence|finally|altogether|in total|in all|total)\b(?![).;])|"
    r"(?<=[.!?\n])(?=[^.!?\n]*\b(?:left|remains?|remaining)\b)",
    re.IGNORECASE,
)
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
            return _number_mention(text, announced[-1] if announced else number)
    if not finished and _RECKONS.match(text):
        return None
    known = {number.value for number in numbers(question)}
    answers = [n for n in found if n.value not in known]
    echoes = [n for n in found if n.value in known]
    sentence = _SENTENCE.match(text).end()
    direct = any(n.start < sentence for n in answers) and "=" not in text[:sentence]
    is_problem = len(known) > 1 and len(question.split()) > 9
    concluded = []
    for conclusion in _CONCLUDES.finditer(text):
        clause = conclusion.end(), _SENTENCE.match(text, conclusion.end()).end()
        within = [n for n in found if clause[0] <= n.start < clause[1]]
        names_asked = any(n.value in known for n in within[:-1])
        sums = "tot" in conclusion[0].lower()
        counted = _counted(text, question, answers) if sums else None
        if counted and counted.start < conclusion.start():
            continue  # "46 chromosomes, which is a total of ..."
        adds_up = sums and not text[clause[1] :].strip(" .!\n")
        if within and (not direct or is_problem or clause[0] < sentence or names_asked or adds_up):
            concluded.append(_counted(text, question, within) or within[-1])
    if not direct or is_problem:
        concluded += results
    if concluded:
        return _number_mention(text, max(concluded, key=lambda n: n.start))
    if is_problem and answers:
        return _number_mention(text, answers[-1])
    named = units_named(question)
    answers = [n for n in answers if n.unit in named] or answers
    answers = _not_of_others(text, question, answers)
    answers = _asked_about(text, question, answers)
    if number := _counted(text, question, answers):
        return _number_mention(text, number)
    if _COUNTS.search(question) and not re.search(r"\byears?\b", question, re.IGNORECASE):
        answers = [n for n in answers if not _is_dated(text, n)] or answers
    # What only repeats the question is an answer if it is said to be: "7 times 1 is 7".
    answers += [n for n in reversed(echoes) if _IS.search(_before(text, n.start))]
    if not answers and text.strip(" .!*$\"'") in {text[n.start : n.stop] for n in echoes}:
        answers = echoes
    same = [n for n in found if answers and n.value == answers[0].value and n.value not in known]
    return _number_mention(text, (same or answers)[0]) if answers else None


_SENTENCE = re.compile(r"\s*(?:[^.!?\n]|[.](?=\S))*")
_COUNTS = re.compile(
    r"\bhow many\s+(.+?)(?:\s+(?:does|do|did|is|are|was|were|has|have|had|can|could|will|would|make"
    r"|in|of|on|there)\b|[?]|$)",
    re.IGNORECASE,
)


def _counted(text, question, found):
    """The number that counts what "how many" asks for: the 12 of "6 faces, 12 edges"."""
    asked = _COUNTS.search(question)
    things = content(asked[1]) if asked else set()
    return next((n for n in found if things & content(" ".join(_counts(text, n)))), None)


def _not_of_others(text, question, found):
    """Numbers but those that count something else than "how many" asks for."""
    asked = _COUNTS.search(question)
    things = content(asked[1]) if asked else set()
    kept = [
        n
        for n in found
        if not (words := _counts(text, n))
        or words[0] in _PLAIN_WORDS
        or things & content(" ".join(words))
    ]
    return kept if things and kept else found


def _counts(text, number):
    """The words after a number, as far as it may count them."""
    after = re.split(r"[\d.;,:()!?\n]|\band\b", text[number.end : number.end + 40])[0]
    return after.lower().split()[:4]


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
        before, after = _before(text, number.start), text[number.end : number.end + 4]
        enumerates = _STEP.search(before) or (
            _NUMBERED.search(before) and re.match(r"[.)]\s+\S", after)
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
    if re.search(r"\b(?:end|until|die|death|stop|close|finish)", question, re.IGNORECASE):
        # The later end of a range: "from 1939 to 1945", "(1879-1955)".
        later = [
            m
            for m in found
            if re.search(r"\w\s*(?:-|\bto|\buntil)\s*$", _before(text, m.start, 20))
        ]
        found = later or found
    asked = content(question)
    clauses = [re.split(r"[,;:.]", text[max(0, m.start - 60) : m.start])[-1] for m in found]
    before = [" ".join(clause.split()[-3:]) for clause in clauses]
    near = [m for m, words in zip(found, before, strict=True) if asked & content(words)]
    return near if near and len(near) < len(found) else found


def _number_mention(text, number):
    name, after = canonical_number(number.value), text[number.stop : number.stop + 40]
    return Mention(number.start, number.end, name, (number, after))


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
    if number.unit != accepted.unit and "" not in (number.unit, accepted.unit):
        degrees = {number.unit, accepted.unit} in ({"°", "°c"}, {"°", "°f"}, {"°", "k"})
        return number.value == accepted.value if degrees else in_base(number) == in_base(accepted)
    if number.value == accepted.value:
        if accepted.unit and not number.unit:
            counted = re.match(r"[\s-]?([^\W\d_]+)", after)
            return not counted or counted.group(1).lower() in _PLAIN_WORDS
        return True
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
    return Mention(best.start, best.end, name, best)


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
    r"no(?=\W*$|\s*[,.;:!)\"'*—–]|\s+-|\s+(?:because|since|way|of course"
    r"|it|they|he|she|this|that|there|the|i|we|you|not)\b)"
)
# "Negative numbers are ...", "True crabs have ..." answer nothing by their first word.
_OTHER_POLARITY = "|".join(word for word in (*_YES, *_NO) if word not in ("no", "yes"))
_OPENING = re.compile(
    r"^\W*(?:answer\s*:\W*)?(?:(?:i (?:think|believe|guess|would say|'d say)|i'd say)\s+)?"
    rf"(?P<word>{_ANSWERS_NO}|yes\b"
    rf"|(?:{_OTHER_POLARITY})(?=\W*$|\W*[,.!;:)*]|\s+(?:because|since)\b))",
    re.IGNORECASE,
)
_ANYWHERE = re.compile(
    r"\b(?P<word>(?:yes|nope|(?:true|false|correct|incorrect|untrue)"
    r"(?!\s+(?!that\b|because\b|since\b|and\b|for\b|in\b|to\b|as\b)[a-z]))\b"
    r"|no(?=\W*$|[.,;:!)\"'*]))",
    re.IGNORECASE,
)


# "Of course not", "It certainly is."
_SHORT_NO = re.compile(
    r"^\W*(?:(?:of course|certainly|absolutely|definitely|surely|clearly|unfortunately|i think"
    r"|it is|it does|that is)\s+)?(?P<word>not\b(?! only)|never\b(?! mind))"
    r"|^\W*(?:it|they|he|she|this|that|there|you|we|i)\s+(?P<short>(?:is|are|does|do|did|was|were|ca"
    r"|could|has|have|wo|would)n't)(?=\W*$|[.,!;])",
    re.IGNORECASE,
)
_SHORT_YES = re.compile(
    r"^\W*(?P<word>(?:of course|certainly|absolutely|definitely|sure|indeed|i think so)"
    r"(?=\W*$|[.,!;])"
    r"|(?:it|they|he|she|this|that|there|you|we|i)\s+(?:\w+ly\s+|sure\s+)?"
    r"(?:is|are|does|do|did|was|were|can|could|has|have|will|would)(?=\s*(?:$|[.!,;])))",
    re.IGNORECASE,
)
_INDEED = re.compile(r"\bindeed\b(?!\s+not)", re.IGNORECASE)
_NOT = re.compile(r"\b(?:not|cannot|never)\b|n't\b", re.IGNORECASE)
# "While it is true that ..." grants something, and answers nothing.
_GRANTS = re.compile(r"\b(?:while|although|though|if)\b", re.IGNORECASE)


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
            place = match.span("word")
            return Mention(*(match.span("short") if place[0] < 0 else place), said)
    if found := _restated(text, question):
        return found
    # A single word of the kind, wherever it is.
    words = [
        Mention(*match.span("word"), _POLARITY[match["word"].lower()])
        for match in _ANYWHERE.finditer(text)
        if not is_denied(text, *match.span("word"))
        and not _GRANTS.search(_before(text, match.start(), 20))
    ]
    return words[0] if len({word.name for word in words}) == 1 else None


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
    said = [stem(word) for word in _words(sentence)]
    if len(words) < 2 or _NOT.search(sentence):
        return None
    # In the same order, and with hardly anything else: not "mistaken for fish".
    same = [word for word in said if word in words]
    if len(said) - len(same) > 1:
        return None
    if same == words:
        return "yes"
    return "no" if len(words) > 2 and same == words[1:] and len(said) > len(same) else None


_SURE = {stem(word) for word in (*_POLARITY, "indeed")}
_SAYS_LITTLE = frozenset(
    """
    the and but are was were has have had does did can could will would should may might this that
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
LETTER = re.compile(
    r"(?<![\w'.-])(?:[B-HJ-Z]|[AI](?! [a-z]))(?![\w'’-]|\.[A-Z])"
    r"|(?:(?<=answer is )|(?<=answer: )|(?<=option ))[a-h](?=\W*$|[).,:])"
)


def _find_choice(text, question, choices):
    letters = LETTERS[: len(choices)]
    found = [
        Mention(*match.span(), match.group().upper())
        for match in LETTER.finditer(text)
        if (not choices or match.group().upper() in letters)
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
    listed = [m for m in found if re.search(r"(?:^|\n)\W*$", _before(text, m.start, 12))]
    if len(choices) > 2 and [m.name for m in listed[: len(choices)]] == list(letters):
        # The options again.
        found = [m for m in found if m not in listed[: len(choices)]]
        last = listed[len(choices) - 1].start
        end = text.find("\n", last)
        spoken = [m for m in spoken if 0 <= end < m.start]
    # "C. Cow", where C is another option: the words count, as they say more than the letter.
    found = [m for m in found if not _is_contradicted(text, m, spoken)]
    usable = [m for m in sorted(found + spoken) if not is_denied(text, m.start, m.end)]
    if not usable:
        return None
    marker = after_marker(text)
    announced = [m for m in usable if marker and marker[0] <= m.start < marker[1]]
    confirmed = [m for m in usable if is_confirmed(text, m.end)]
    restated = [m for m in usable if m in spoken and _restates(text, m, question)]
    concluded = [m for m in usable if _SO.search(_before(text, m.start, 30))][-1:]
    chosen = (announced or confirmed or concluded or restated or usable)[0]
    # The same answer may have been given before.
    return next(m for m in usable if m.name == chosen.name)


_SO = re.compile(
    r"\b(?:so|thus|therefore|hence|leaves)\W+(?:(?:the answer|it) is\W+|it's\W+)?$", re.I
)


def _is_contradicted(text, letter, spoken):
    after = re.match(
        r"[\"')*\]]*\s*[.:)-]?\s*[\"'*(]*(?:the\s+)?", text[letter.end :], re.IGNORECASE
    )
    position = letter.end + after.end()
    return any(m.start == position and m.name != letter.name for m in spoken)


def _restates(text, mention, question):
    """Whether what stands beside a mention in its clause is the question again."""
    asked = content(question.split("\n")[0])
    before = re.split(r"[.!?\n]|, but\b", _before(text, mention.start))[-1]
    after = re.split(r"[.!?\n]|, but\b", text[mention.end : mention.end + 100])[0]
    said = content(before) or (
        content(after) if re.match(r"\s+(?:is|was|are|were)\b", after) else set()
    )
    return bool(asked) and len(asked & said) >= 0.6 * len(asked)
