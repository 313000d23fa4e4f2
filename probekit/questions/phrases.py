"""Where a response to an open question has its exact answer, by how answers are worded.

"The capital of Japan is Tokyo." says the question again and then the answer; "The discovery of
penicillin by Alexander Fleming" names the person after "by". A model's own copy of the answer is
taken where no such wording is found, and mended: "Fleming" is "Alexander Fleming" there.
"""

import re

from probekit.questions.kinds import content
from probekit.questions.statements import is_denied

_WITHIN = r"(?:(?:de|da|di|du|del|della|la|le|van|von|der|den|of|the|al|bin|ibn) )*"
_NAME = rf"[A-Z][\w.'-]*(?: {_WITHIN}[A-Z][\w.'-]*)*"
_BY = re.compile(rf"\bby (?:the )?(?:[a-z]+ ){{0,3}}(?P<answer>{_NAME})")
_COPULA = re.compile(
    r"\b(?:is|was|are|were)\s+"
    r"(?:(?:called|named|known as|likely to be|probably|actually|simply)\s+)?"
    r"[\"'*(]*(?:(?P<article>an?)|the|its)?\s*[\"'*]*",
)
# What ends an answer: punctuation, or a word that begins something else.
_ENDS = re.compile(
    r"[,;:(\n\"*!?]|[.](?=\s|$)|\s(?:which|who|that|named|called|in|on|at|from|with|located|because"
    r"|as|by|for|since|while|but|is|was|are|has|and|or|due|used|known|made|born|where|when)\b"
)


# The kind of thing that is asked for: "Which land animal is ...".
_WHICH = re.compile(
    r"^\W*(?:which|what)\s+(?:\w+\s+){1,3}?(?=(?:is|are|was|were|do|does|did|has|have|can)\b)",
    re.IGNORECASE,
)


def find_phrase(text, question, copied=None):
    """(start, end) of the exact answer in a folded text, or None.

    `copied` is where the model has found it.
    """
    asked = content(_WHICH.sub("", question))
    for sentence in list(re.finditer(r"(?:[^.!?\n]|[.!?](?=\S)|(?<=\b[A-Z])[.])+", text))[:2]:
        start, end = sentence.span()
        if re.match(
            r"\W*who(?:se|m)?\b|.*\b(?:author|inventor|painter|composer|artist)\b", question, re.I
        ):
            by = _BY.search(text, start, end)
            if by and not content(by["answer"]) <= asked:
                return _trimmed(text, by.span("answer"))
        for copula in _COPULA.finditer(text, start, end):
            restated = content(text[start : copula.start()])
            if len(asked & restated) < max(1, 0.6 * len(asked)):
                continue
            stop = _ENDS.search(text, copula.end(), end)
            place = copula.end(), stop.start() if stop else end
            words = text[slice(*place)].split()
            if 0 < len(words) <= (3 if copula["article"] else 5) and not is_denied(text, *place):
                said = content(text[slice(*place)])
                plain = (
                    said
                    and not said <= asked
                    and not re.search(r"\s(?:an?|the)\s", text[slice(*place)])
                )
                if plain and (words[-1][0].isupper() or len(words) <= 3):
                    return _trimmed(text, place)
            break
    if copied is None:
        return None
    if content(text[slice(*copied)]) <= asked and not re.search(r"\bor\b", question):
        return None  # only what was asked
    return _trimmed(text, _whole_name(text, copied, asked))


def _whole_name(text, place, asked):
    """A name with the names before it: the "Alexander" of "Fleming"."""
    start, end = place
    before = re.search(r"(?<![.!?]\s)(?<!^)\b((?:[A-Z][\w'-]*\.?[ -])+)$", text[:start])
    if text[start].isupper() and before and not content(before[1]) & asked:
        start = before.start(1)
    return start, end


def _trimmed(text, place):
    start, end = place
    article = re.match(r"[\"'*(]*(?:(?:the|an?)\s+)?[\"'*]*", text[start:end], re.IGNORECASE)
    start += article.end() if article.end() < end - start else 0
    kept = text[start:end].rstrip(" \"'*)")
    return (start, start + len(kept)) if kept else place
