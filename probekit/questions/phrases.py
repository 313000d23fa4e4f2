"""Where a response to an open question has its exact answer, by how answers are worded.

"The capital of Japan is Tokyo." says the question again and then the answer; "The discovery of
penicillin by Alexander Fleming" names the person after "by". A model's own copy of the answer is
taken where no such wording is found, and mended: "Fleming" is "Alexander Fleming" there.
"""

import re
from itertools import islice

from probekit.questions.kinds import content
from probekit.questions.statements import is_denied

_WITHIN = r"(?:(?:de|da|di|du|del|della|la|le|van|von|der|den|of|the|al|bin|ibn) )*"
_NAME = rf"[A-Z][\w.'-]*(?: {_WITHIN}[A-Z][\w.'-]*)*"
# "by the British author, Charlotte Bronte": the name ends what follows "by".
_BY = re.compile(
    r"\b(?:by|attributed to|credited to)\s+(?:the\s+)?(?:[\w-]+\s+){0,4}?(?:[a-z-]+,?\s+)?"
    rf"(?P<name>{_NAME}(?: and {_NAME})?)(?![\w-])"
    r"(?!\s+(?!(?:in|on|at|from|of|and|who|during|is|was)\b)[a-z-]+,?\s+[A-Z])"
)
_ENDING_NAME = re.compile(rf"[a-z],?\s+({_NAME})$")
_ASKS_WHO = re.compile(
    r"\W*who(?:se|m)?\b|.*\b(?:author|artist|inventor|painter|composer|scientist)\b", re.IGNORECASE
)
# The kind of thing that is asked for: "Which land animal is ...".
_WHICH = re.compile(
    r"^\W*(?:which|what)\s+(?:\w+\s+){1,3}?(?=(?:is|are|was|were|do|does|did|has|have|can)\b)",
    re.IGNORECASE,
)
# "What is the common name of NaCl?" "... sodium chloride, also known as table salt."
_ASKS_OTHER_NAME = re.compile(r"\b(?:common|other|another|usual)\s+name\b", re.IGNORECASE)
_OTHER_NAME = re.compile(
    r"\b(?:known as|called|referred to as)\s+(?P<name>[\w' -]+?)(?=\s*(?:[.,;:(\n]|$))"
)
_COPULA = re.compile(
    r"(?<!which )(?<!that )(?<!who )\b(?:is|was|are|were)\s+"
    r"(?:(?:called|named|known as|likely to be|probably|actually|simply)\s+)?"
    r"[\"'*(]*(?:(?:(?P<article>an?)|the|its)\s+)?[\"'*]*",
)
# What ends an answer: punctuation, or a word that begins something else.
_ENDS = re.compile(
    r"[;:(\n\"*!?]|,(?! D\.C\.)|(?<!\b[A-Z])[.](?=\s|$)|\s(?:which|who|that|named|called|in|on|at"
    r"|from|with|located|because|as|by|for|since|while|but|is|was|are|has|and|or|due|used|known|made|born|where|when)\b"
)
# What only leads to an answer: "a type of metal", "widely known".
_VAGUE = re.compile(
    r"(?:type|kind|form|sort|example|part|member|piece|group|body|one|name|now|not|also|indeed"
    r"|often|so|very|\w+ly|\w+ed|found|known)\b|.*\s(?:an?|the)\s",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?:[^.!?\n]|[.!?](?=\S)|(?<=\b[A-Z])[.])+")


def find_phrase(text, question, copied=None):
    """(start, end) of the exact answer in a folded text, or None.

    `copied` is where the model has found it.
    """
    if copied and _repeats(text, copied, question) and not re.search(r"\bor\b", question):
        copied = None
    asks_who = _ASKS_WHO.match(question)
    for sentence in islice(_SENTENCE.finditer(text), 2):
        by = _BY.search(text, *sentence.span()) if asks_who else None
        place, sure = (by.span("name"), False) if by else _after_copula(text, sentence, question)
        if _ASKS_OTHER_NAME.search(question):
            other = _OTHER_NAME.search(text, *sentence.span())
            place, sure = (other.span("name"), True) if other else (place, sure)
        if not place or _repeats(text, place, question) or is_denied(text, *place):
            continue
        # The model's copy decides, unless the sentence is the question again; the wording completes
        # it, and takes its place where there is none.
        if sure or not copied or (place[0] < copied[1] and copied[0] < place[1]):
            return _trimmed(text, place)
    if copied is None:
        return None
    name = _ENDING_NAME.search(text[slice(*copied)]) if asks_who else None
    if name:
        copied = copied[0] + name.start(1), copied[1]  # "the Spanish artist Diego Velazquez"
    return _trimmed(text, _whole_name(text, copied, question))


def _repeats(text, place, question):
    """Whether a text says there only what the question says."""
    return {*re.findall(r"\w+", text[slice(*place)].lower())} <= {
        *re.findall(r"\w+", question.lower()), "the", "a", "an"
    }  # fmt: skip


def _after_copula(text, sentence, question):
    """What follows the "is" of a sentence that says the question again; and whether all of it."""
    asked = content(_WHICH.sub("", question))
    for copula in islice(_COPULA.finditer(text, *sentence.span()), 8):
        clause = re.split(r"[;:]|, (?:but|and)\b", text[sentence.start() : copula.start()])[-1]
        restated = asked & content(clause)
        if len(restated) < max(1, 0.6 * len(asked)):
            continue
        stop = _ENDS.search(text, copula.end(), sentence.end())
        place = copula.end(), stop.start() if stop else sentence.end()
        words = text[slice(*place)].split()
        short = 0 < len(words) <= (3 if copula["article"] or words[-1].islower() else 5)
        if not short or _VAGUE.match(text[slice(*place)]):
            break
        named = stop and stop.group().strip() in ("called", "named")
        past = copula.group().startswith("w") and re.search(r"\b(?:is|are)\b", question)
        return place, restated == asked and not named and not past
    return None, False


def _whole_name(text, place, question):
    """A name with the names before it: the "Alexander" of "Fleming"."""
    start, end = place
    before = re.search(r"\b((?:[A-Z][\w'-]*\.?[ -])+)$", text[max(0, start - 80) : start])
    opens = before and before[1].split()[0].lower() in _OPENERS
    if (
        text[start].isupper()
        and before
        and not opens
        and not content(before[1]) & content(question)
    ):
        start -= len(before[1])
    return start, end


_OPENERS = {
    "the",
    "a",
    "an",
    "in",
    "on",
    "at",
    "it",
    "he",
    "she",
    "they",
    "this",
    "that",
    "yes",
    "no",
}
_OPENERS |= {
    "by",
    "is",
    "was",
    "but",
    "and",
    "or",
    "so",
    "as",
    "of",
    "to",
    "for",
    "i",
    "my",
    "well",
}


def _trimmed(text, place):
    start, end = place
    article = re.match(r"[\"'*(]*(?:(?:the|an?)\s+)?[\"'*]*", text[start:end], re.IGNORECASE)
    start += article.end() if article.end() < end - start else 0
    kept = text[start:end].rstrip(" \"'*)")
    if not re.search(r"\b\w\.\s?\w\.$", kept):  # the last point of "D.C." stays
        kept = kept.rstrip(".")
    return (start, start + len(kept)) if kept else place
