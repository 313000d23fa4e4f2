"""Grade a response; find the exact answer's span in it; recognise a refusal."""

import re

from probekit import arguments
from probekit.questions.candidates import Candidates
from probekit.questions.text import (
    NUMBER,
    NUMBER_WORDS,
    WORD_END,
    WORD_START,
    fold,
    number_value,
    number_words_value,
)

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")

# "don't", "U.S."; not the points of a version such as 3.4.5, which is not 345.
_INSIDE_WORD = re.compile(r"(?<=\w)'(?=\w)|(?<=\b[^\W\d])\.(?=[^\W\d]\b)|(?<=\b[^\W\d])\.(?!\w)")
_SHORT = 3  # answers up to this long that have a capital must match in case: Au, US, No

_REFUSALS = re.compile(
    r"""\b(?:
        (?:i|we)\s+(?:do\s+not|don't|dont|can\s*not|can't|could\s+not|couldn't|am\s+not\s+able\s+to|
            'm\s+not\s+able\s+to|am\s+unable\s+to|'m\s+unable\s+to|did\s+not|didn't)\s+(?:\w+\s+){0,2}?
            (?:know|answer|provide|find|say|tell|determine|identify|recall|remember|have|help|assist|
            confirm|verify|access|understand|recogni[sz]e|be\s+sure)\b
      | i(?:\s+am|'m)\s+(?:not\s+(?:\w+\s+)?(?:sure|certain|aware|familiar|able)|unable\s+to
            |sorry|afraid|unsure|uncertain|(?:just\s+)?an\s+ai)\b
      | i\s+have\s+no\s+(?:idea|information|knowledge)\b
      | as\s+an\s+ai\b
      | (?:it\s+is|it's|that\s+is|that's)\s+(?:not\s+known|unknown|unclear|impossible\s+to)\b
      | no\s+idea\b
      | there\s+is\s+no\s+(?:information|record|evidence|known)\b
      | (?:not\s+enough|insufficient)\s+(?:information|context)\b
      | (?:cannot|can't|could\s+not)\s+be\s+(?:determined|answered|known|identified)\b
    )
    | ^\W*(?:unknown|sorry|n/a|not\s+sure|don't\s+know)\b""",
    re.IGNORECASE | re.VERBOSE,
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


def grade(response, answers, *, question="", candidates=None):
    """Whether a response gives an accepted answer.

    With candidates, only the first one that the response answers with counts: "It is not Japan; it
    is China" answers China, and "near Egypt, in Libya" does not answer Egypt. Without candidates,
    an accepted answer anywhere in the response, in whole words, is enough, as in TriviaQA. Numbers
    compare by value, in digits or (below 1,000, other than "one") in words. Answers of up to three
    characters that have a capital must be written the same ("US", "Au"), unless they are the whole
    response.

    Parameters
    ----------
    response : str
    answers : list of str
        Accepted answers.
    question : str
        What was asked. Used only with candidates.
    candidates : Candidates, optional
        From the column ``candidates`` of `read_questions`.

    Returns
    -------
    bool

    Raises
    ------
    TypeError
        If an argument is of another type, such as one text for `answers`.
    """
    _check(response, question, candidates)
    answers = arguments.texts("answers", answers)
    if candidates is not None:
        mention = candidates.find(response, question)
        if mention is not None:
            # An answer that the list has is right under any of its names; another one only if
            # it is an accepted answer that the list lacks ("LR" is not the symbol Lr).
            said = response[mention.start : mention.end]
            return mention.name in map(candidates.canonical, answers) or normalize(said) in {
                normalize(answer) for answer in answers if candidates.canonical(answer) is None
            }
        # Nothing of the list is answered: only an answer that the list lacks can be right.
        answers = [answer for answer in answers if candidates.canonical(answer) is None]
    return any(_states(response, answer) for answer in answers)


def _check(response, question="", candidates=None):
    arguments.text("response", response, empty=True)
    arguments.text("question", question, empty=True)
    if not isinstance(candidates, Candidates | None):
        raise TypeError(
            "candidates must be from the column candidates of read_questions, or None; got "
            f"{arguments.shown(candidates)}."
        )


def _states(response, answer):
    """Whether an accepted answer occurs in a response as whole words, or as a number."""
    expected, said = normalize(answer), normalize(response)
    if not expected:
        return False
    if expected == said:
        return True
    plain = fold(answer)[0].strip()
    if NUMBER.fullmatch(expected):
        return expected in _numbers(response)
    if len(plain) <= _SHORT and plain != plain.lower():
        exact = f"{WORD_START}{re.escape(plain)}{WORD_END}"
        return re.search(exact, fold(response)[0]) is not None
    if NUMBER_WORDS.fullmatch(plain) and plain.lower() != "one":
        return number_words_value(plain) in _numbers(response)
    return re.search(f"{WORD_START}{re.escape(expected)}{WORD_END}", said) is not None


def _numbers(text):
    """Values of the numbers in a text, as canonical digits."""
    folded = fold(text)[0]
    words = [word for word in NUMBER_WORDS.findall(folded) if word.lower() != "one"]
    return {number_value(n) for n in NUMBER.findall(folded)} | set(map(number_words_value, words))


def find_span(response, question, candidates):
    """Find where in a response its exact answer is, without knowing which answer is right.

    Parameters
    ----------
    response, question : str
    candidates : Candidates or None

    Returns
    -------
    (start, end) or None
        Characters of the response, end exclusive; None where it mentions no candidate, and where
        `candidates` is None.

    Raises
    ------
    TypeError
        If an argument is of another type.
    """
    _check(response, question, candidates)
    mention = candidates and candidates.find(response, question)
    return mention and (mention.start, mention.end)


def is_refusal(response):
    """Whether a response declines to answer or says that it does not know.

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
    """
    _check(response)
    text = fold(response)[0].strip()
    return not text or _REFUSALS.search(text) is not None
