"""Grade a response; find the exact answer's span in it; recognise a refusal."""

import re
from bisect import bisect_left
from difflib import SequenceMatcher
from typing import NamedTuple

from probekit import arguments
from probekit.questions.candidates import Candidates
from probekit.questions.kinds import (
    KINDS,
    LETTER,
    LETTERS,
    dated_by,
    find,
    implied,
    kind_of,
    polarity,
    same_date,
    same_number,
    whole_date,
    whole_number,
)
from probekit.questions.phrases import find_phrase
from probekit.questions.statements import after_marker, is_denied, spoken
from probekit.questions.text import NUMBER, Mention, fold, number_value, unfold
from probekit.questions.values import dates, numbers
from probekit.questions.words import is_everyday, mentions

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")

# "don't", "U.S."; not the points of a version such as 3.4.5, which is not 345.
_INSIDE_WORD = re.compile(r"(?<=\w)'(?=\w)|(?<=\b[^\W\d])\.(?=[^\W\d]\b)|(?<=\b[^\W\d])\.(?!\w)")

_REFUSALS = re.compile(
    r"""\b(?:
        (?:i|we)\s+(?:do\s+not|don't|dont|can\s*not|can't|could\s+not|couldn't|am\s+not\s+able\s+to|
            'm\s+not\s+able\s+to|am\s+unable\s+to|'m\s+unable\s+to|did\s+not|didn't|won't)\s+
            (?:\w+\s+){0,2}?
            (?:know|answer|provide|find|say|tell|determine|identify|recall|remember|have|help|assist|
            confirm|verify|access|understand|recogni[sz]e|comply|be\s+sure)\b
      | i\s+(?:must|(?:will\s+)?have\s+to|would\s+rather)\s+(?:\w+\s+)?(?:decline|refuse|pass)\b
      | i(?:\s+am|'m)\s+(?:not\s+(?:\w+\s+)?(?:sure|certain|aware|familiar|able)|unable\s+to
            |afraid|unsure|uncertain|(?:just\s+)?an\s+ai
            |(?:very\s+|so\s+)?sorry(?!\s+(?:to|for|that)))\b
      | i\s+have\s+no\s+(?:idea|information|knowledge|answer)\b
      | as\s+an\s+ai\b
      | (?:it\s+is|it's|that\s+is|that's)\s+(?:not\s+known|unknown|unclear
            |(?:impossible|not\s+possible)\s+to\s+(?:know|say|tell|determine|answer|identify|give|provide))\b
      | (?:there\s+is\s+)?no\s+(?:(?:\w+\s+)?(?:information|record|evidence|data)\s+
            (?:is\s+|was\s+)?(?:available|given|provided|about|on|of|to|that|for)|known|idea)\b
      | (?:not\s+enough|insufficient)\s+(?:information|context)\b
      | nobody\s+knows | (?:i\s+have\s+)?no\s+clue\b | ^\W*idk\b
      | answer\s+is\s+(?:unknown|not\s+(?:known|given|stated|specified|provided))\b
      | ^\W*(?:it\s+is\s+|it's\s+)?not\s+(?:stated|specified|given|mentioned|provided)\b
      | information\s+(?:is|was)\s+not\s+(?:available|given|provided)\b
      | (?:cannot|can't|could\s+not)\s+be\s+(?:determined|answered|known|identified)\b
      | (?:context|passage|text|question|article|document|paragraph|information\s+provided)\s+
            (?:does\s+not|doesn't|did\s+not|didn't)\s+(?:\w+\s+)?
            (?:say|mention|specify|provide|contain|state|give|tell|include|answer)\b
    )
    | ^\W*(?:unknown|unanswerable|n/a|not\s+sure|don't\s+know|no\s+answer|no\s+comment)
            \W*(?:$|[.,;:!?(])
    | ^\W*sorry\b(?=[,.!]|\s+but|\s*$|\s+i\b)""",
    re.IGNORECASE | re.VERBOSE,
)
# "I am not sure, but I think it is Paris" is an answer.
_STILL_ANSWERS = re.compile(
    r"(?i:\bi\s+(?:think|believe|guess|suspect|would\s+(?:say|guess))|\bmy\s+(?:best\s+)?guess"
    r"|\bthe\s+(?:\w+\s+)?answer\s+(?:is|was)\b(?!\s+(?:unknown|not|unclear))"
    r"|(?:[,;:.]|\bbut)\s*(?:perhaps|probably|maybe|possibly)"
    r"|\bbut\s+(?:many|most|some)(?:\s+people)?\s+(?:consider|think|believe|say))\b"
    r"|(?:[,;:.]|\b[Bb]ut|\b[Hh]owever,?)\s*(?i:it|that|this|they)\s+(?i:is|was|are|were|might\s+be"
    r"|may\s+be|could\s+be)\s+(?:the\s+)?[\"'*(]*[A-Z\d]"
    r"|(?:[:.]|\b[Bb]ut)\s*[\"'*(]*[A-Z\d][\w'-]*(?: [A-Z][\w'-]*){0,3}[\"'*)]*[.!]?$"
)
# "Paris. I am sorry, I cannot help with more."
_ANSWERED_BEFORE = re.compile(
    r"^\W*(?!(?:i|as|sorry|unfortunately|hello|thank|hi|well)\b)\w.*[.!]\s*$", re.I | re.S
)


def normalize(text):
    """Reduce a text to what counts when answers are compared.

    As the evaluation scripts of SQuAD (Rajpurkar et al. 2016) and TriviaQA (Joshi et al. 2017) do:
    lower case, no punctuation, no articles, single spaces. Beyond them, accents are dropped
    ("Brasília", "Brasilia"), compatibility forms become plain ones (superscripts stay), and a
    number keeps its sign and decimals and loses its separators ("1,000.0" is "1000", "5.6" is
    not "56").
    """
    folded = fold(fold(text)[0].casefold())[0].casefold()
    # Twice, as without its punctuation "00.0a" is "00 0a", which has a number.
    words = _with_values(_with_values(folded))
    return " ".join(_ARTICLES.sub(" ", words).split()) or words


def _with_values(text):
    """Text without punctuation but that of its numbers, which are written by their values."""
    pieces, position = [], 0
    for number in NUMBER.finditer(text):
        pieces += [_plain(text[position : number.start()]), number_value(number.group())]
        position = number.end()
    pieces.append(_plain(text[position:]))
    return " ".join(" ".join(pieces).split())


def _plain(text):
    """Text with its punctuation taken out: inside a word closed up (U.S., don't), else a space."""
    # Symbols beyond ASCII stay (€, ° and emoji may be the answer), and so do vowel signs.
    return "".join(
        c if c.isalnum() or not (c.isascii() or c.isspace() or not c.isprintable()) else " "
        for c in _INSIDE_WORD.sub("", text)
    )


def grade(response, answers, *, question="", candidates=None, kind=None, choices=None):
    """Whether a response gives an accepted answer.

    What the response answers with is found first, without looking at `answers`, where its kind
    allows: the number that it ends its reckoning with, its date, its yes or no, its letter or
    option, or the first candidate that it answers with. The grade is whether that is accepted.
    Without such a kind an accepted answer anywhere in the response is enough, as in TriviaQA, in
    any of its usual forms ("Spiderman", "Louis the Fourteenth"), if it is neither denied ("not
    Bergen"), nor taken back, nor a part of a longer name ("West Virginia"). A name that is an
    everyday word too needs its capital. What stands in ``<think>`` is no part of the answer.

    Parameters
    ----------
    response : str
    answers : list of str
        Accepted answers.
    question : str
        What was asked.
    candidates : Candidates, optional
        From the column ``candidates`` of `read_questions`.
    kind : str, optional
        One of text, number, date, yes_no, choice. By default told by `answers`, `choices` and
        `candidates`.
    choices : list of str, optional
        Options that the question was asked with; `answers` may then be letters or options.

    Returns
    -------
    bool

    Raises
    ------
    TypeError
        If an argument is of another type, such as one text for `answers`.
    ValueError
        If `kind` is none of the five.

    Examples
    --------
    >>> import probekit as pk
    >>> pk.grade("Palermo is a city in Italy.", ["Italy"])
    True
    >>> pk.grade("Palermo is not in Italy.", ["Italy"])
    False
    >>> pk.grade("12 + 5 = 17", ["17"])
    True
    """
    answers = arguments.texts("answers", answers)
    kind, choices = _check(response, question, candidates, kind, choices, answers)
    return examine(response, answers, question, candidates, kind, choices).correct


class Answer(NamedTuple):
    """What a response answers with, and whether that is right."""

    span: tuple | None  # (start, end) in the response
    name: str  # one for all ways to give this answer
    correct: bool
    doubt: str  # why the grade may be wrong; "" without any doubt


def examine(response, answers, question, candidates, kind, choices, copied=None, finished=True):
    """Grade a response and find its exact answer: both are of the same words.

    `copied` is where a model has found the exact answer of a text without candidates; other kinds
    have finders, which look at neither the answers nor the grade.
    """
    is_open = kind == "text" and candidates is None
    if is_open:
        places = stated(response, answers)
        text, origin = fold(spoken(response))
        copy = copied and tuple(bisect_left(origin, position) for position in copied)
        phrase = find_phrase(text, fold(question)[0], copy)
        if phrase:
            phrase = unfold(origin, *phrase)
        found = phrase and Mention(*phrase, normalize(response[slice(*phrase)]))
        within = [p for p in places if not found or _is_within(p, found) or _is_within(found, p)]
        # Who says that they can't tell gives no answer, whatever they mention.
        correct = bool(within) and (bool(found) or not is_refusal(response))
    else:
        found = _find(response, question, candidates, kind, choices, finished)
        correct = _is_right(response, answers, found, question, candidates, kind, choices)
        places = () if correct else stated(response, answers)  # only what is wrong is looked at
    span = found and (found.start, found.end)
    doubt = doubts(response, answers, places, span, correct, kind, is_open, finished)
    return Answer(span, found.name if found else "", correct, doubt)


def _is_within(inner, outer):
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def stated(response, answers):
    """Where a response states accepted answers, as (start, end)."""
    text, origin = fold(spoken(response))
    return [unfold(origin, *place) for answer in answers for place in _places(text, answer)]


def doubts(response, answers, places, span, correct, kind, is_open, finished):
    """Why the grade of a response whose exact answer is at `span` may be wrong.

    `places` are those of `stated`; `is_open` says that there is no list of what may be answered.
    """
    doubts = []
    if span is None:
        doubts.append("a refusal" if is_refusal(response) else "no exact answer")
    elif is_refusal(response):
        doubts.append("a refusal")
    if not finished and (span is None or not response[span[1] :].strip(" .\"'*)")):
        doubts.append("cut short")
    if span is not None:
        said = normalize(response[slice(*span)])
        outside = [p for p in places if p[1] <= span[0] or span[1] <= p[0]]
        if not correct and outside and kind != "yes_no":
            doubts.append("an accepted answer stands elsewhere")
        elif not correct and kind == "text" and any(_alike(said, normalize(a)) for a in answers):
            doubts.append("close to an accepted answer")
        if correct and re.match(r"\W*\bor\b", response[span[1] :]):
            doubts.append("several answers")
        if correct and is_open and is_everyday(said):
            doubts.append("an everyday word")
    return "; ".join(doubts)


def _alike(said, accepted):
    """Whether two normalized answers may be forms of one that no rule covers."""
    if {*said.split()} & {*accepted.split()} and min(len(said), len(accepted)) > 3:
        return True
    return SequenceMatcher(None, said, accepted).ratio() >= 0.8


def _find(response, question, candidates, kind, choices, finished=True):
    """What a response answers with, without regard to what is right: a `Mention` or None."""
    heard = spoken(response)
    if kind == "text":
        return candidates and candidates.find(heard, question)
    text, origin = fold(heard)
    found = find(kind, text, fold(question)[0], choices, finished)
    return found and found._replace(
        **dict(zip(("start", "end"), unfold(origin, found.start, found.end), strict=True))
    )


def _is_right(response, answers, found, question, candidates, kind, choices):
    """Whether what was found is accepted."""
    if kind != "text":
        heard = fold(spoken(response))[0]
        if found is None:
            said = implied(heard, question) if kind == "yes_no" else None
            known = map(polarity, answers) if said else map(normalize, answers)
            return bool(heard.strip()) and (said or normalize(heard)) in known
        return any(_is_accepted(kind, found, question, answer, choices) for answer in answers)
    # An answer that the list has is right under any of its names; another one only if it is an
    # accepted answer that the list lacks ("LR" is not the symbol Lr).
    lacking = [answer for answer in answers if candidates.canonical(answer) is None]
    if found is None:
        return any(_places(fold(spoken(response))[0], answer) for answer in lacking)
    said = normalize(response[found.start : found.end])
    return found.name in map(candidates.canonical, answers) or said in map(normalize, lacking)


def _is_accepted(kind, found, question, answer, choices):
    """Whether what was found is an accepted answer."""
    if kind == "yes_no":
        return polarity(answer) == found.name
    if kind == "choice":
        return found.name == answer.strip(" ().").upper() or any(
            letter == found.name and normalize(option) == normalize(answer)
            for letter, option in zip(LETTERS, choices or (), strict=False)
        )
    if kind == "number":
        expected = whole_number(answer)
        return expected is not None and same_number(found.value[0], expected, found.value[1])
    expected = whole_date(answer)
    dated = dated_by(found.value, dates(fold(question)[0]))
    return expected is not None and same_date(dated, expected)


def _check(response, question, candidates, kind, choices, answers=()):
    """The kind and the options; refuses what is no argument."""
    arguments.text("response", response, empty=True)
    arguments.text("question", question, empty=True)
    if not isinstance(candidates, Candidates | None):
        raise TypeError(
            "candidates must be from the column candidates of read_questions, or None; got "
            f"{arguments.shown(candidates)}."
        )
    choices = None if choices is None else arguments.texts("choices", choices)
    if kind is None:
        return kind_of(answers, choices, candidates, question), choices
    return arguments.one_of("kind", kind, KINDS), choices


_SIGNED = 3  # answers up to this long are compared with their signs: O+, C#, A-


def _places(text, answer):
    """Where a folded text states an accepted answer, as (start, end): neither denied nor a part."""
    if not normalize(answer):
        return []
    signs = [re.sub(r"[^+#-]", "", part.strip()) for part in (fold(answer)[0], text)]
    if normalize(answer) == normalize(text) and (signs[0] == signs[1] or len(answer) > _SIGNED):
        start = len(text) - len(text.lstrip())
        return [(start, len(text.rstrip()))]
    if number := whole_number(answer):
        found = [n[:2] for n in numbers(text) if same_number(n, number, text[n.stop :])]
    elif date := whole_date(answer):
        found = [d[:2] for d in dates(text) if same_date(d, date)]
    elif len(answer.strip()) == 1 and answer.strip().isupper():
        letter = fold(answer)[0].strip()
        found = [m.span() for m in LETTER.finditer(text) if m.group() == letter]
    else:
        found = mentions(answer, text)
    announced = after_marker(text) or (0,)
    return [p for p in found if p[0] >= announced[0] and not is_denied(text, *p)]


def find_span(response, question, candidates, kind=None, choices=None):
    """Find where in a response its exact answer is, without knowing which answer is right.

    Parameters
    ----------
    response, question : str
    candidates : Candidates or None
    kind, choices
        As in `grade`; without `kind` it is told by `choices` and `candidates`.

    Returns
    -------
    (start, end) or None
        Characters of the response, end exclusive; None where nothing is found, and for a text
        without candidates, whose exact answer only a model can tell.

    Raises
    ------
    TypeError
        If an argument is of another type.
    ValueError
        If `kind` is none of the five.

    Examples
    --------
    >>> import probekit as pk
    >>> candidates = pk.read_questions("cities", limit=1)["candidates"][0]
    >>> response = "Palermo is a city in Italy."
    >>> start, end = pk.find_span(response, "Where is Palermo?", candidates)
    >>> response[start:end]
    'Italy'
    """
    kind, choices = _check(response, question, candidates, kind, choices)
    found = _find(response, question, candidates, kind, choices)
    return found and (found.start, found.end)


def is_refusal(response):
    """Whether a response declines to answer or says that it does not know, and gives no answer.

    Parameters
    ----------
    response : str

    Returns
    -------
    bool
        True for an empty response too.

    Raises
    ------
    TypeError
        If `response` is not text.

    Examples
    --------
    >>> import probekit as pk
    >>> pk.is_refusal("I'm sorry, but I don't know.")
    True
    >>> pk.is_refusal("I'm not sure, but I think it is in Italy.")
    False
    """
    arguments.text("response", response, empty=True)
    text = fold(spoken(response))[0].strip()
    refusal = _REFUSALS.search(text)
    if refusal is None:
        return not text
    before = text[: refusal.start()]
    answered = _ANSWERED_BEFORE.match(before) and not re.search(
        r"\b(?:could|might|may|or)\b", before
    )
    if answered or before[-1:] in ("'", '"'):
        return False
    return _STILL_ANSWERS.search(text, refusal.start()) is None
