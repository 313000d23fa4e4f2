"""What a response states, and what it only mentions: thinking aloud, denials, retractions."""

import re

_THINKING = re.compile(
    r"<(think|thinking|thought|reasoning|scratchpad)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE
)
_OPEN = re.compile(r"<(think|thinking|thought|reasoning|scratchpad)>(?!.*</\1>)", re.DOTALL | re.I)
_CLOSING = re.compile(r"\A.*</(?:think|thinking|thought|reasoning|scratchpad)>", re.DOTALL | re.I)

# Where an answer is announced: "The correct answer is", "Answer:", GSM8K's "####", LaTeX's box.
_MARKER = re.compile(
    r"\b(?:(?:final|right|correct|real|actual|true|best|my)\s+){0,2}(?:answer|choice|option)\b"
    r"(?:\s+(?:to|for)\s[^.:\n]{0,60}?)?(?:\s*\*{0,2}\s*:"
    r"|\s+(?:is|was|would be|must be|should be)\b"
    r"(?!\s+(?:not|wrong|incorrect)))\s*:?\s*\*{0,2}"
    r"|####\s*|\\boxed\{",
    re.IGNORECASE,
)

_SMALL = (
    r"(?:the|a|an|in|on|at|by|of|to|from|for|with|called|named|quite|really|actually|exactly|be|been"
    r"|it|is|was|that|option|answer)"
)
_DENIED_BEFORE = re.compile(
    r"(?:\b(?:not|never|neither|nor|rather than|instead of|unlike|than|no longer|as opposed to"
    r"|other than|except|except for|apart from|contrary to|cannot|confused with|mistaken for)|n't"
    r"|\b(?:first|initially|originally|once|previously|earlier)\s+(?:i\s+)?"
    r"(?:thought|believed|assumed|guessed|said|considered)"
    r"|\b(?:i\s+)?(?:thought|guessed|assumed)\s+(?=(?:of|it was|that it was)))"
    rf"(?:\s+{_SMALL})*\s+[\"'(*\[]*$",
    re.IGNORECASE,
)
_LIST = (
    r"(?:(?:\s*,\s*(?:and\s+|or\s+)?|\s+(?:and|or)\s+)"
    r"(?!(?:it|this|that|he|she|they|which|who|there)\b)[\w-]+){0,3}"
)
_DENIED_AFTER = re.compile(
    r"[\"')*\]]*(?:"
    rf"{_LIST}\s*,?\s+(?:is|are|was|were|would be|seems|must be)\s+"
    r"(?:all\s+|also\s+|both\s+|clearly\s+)?"
    r"(?:wrong|incorrect|false|untrue|mistaken|impossible|not\b)"
    rf"|{_LIST}\s+(?:isn't|aren't|wasn't|weren't|can't be|cannot be|could not be)\b"
    r"|\?\s*(?:no|nope|wait)\b"
    r"|\s*(?:\.\.\.|…|[.,;:!—–-])*\s*(?:no,|no\s+wait|wait\b|correction\b|scratch that|i mean\b"
    r"|sorry,|let me correct|on second thought)"
    r")",
    re.IGNORECASE,
)


def spoken(response):
    """Response with its thinking blanked out, so that positions stay; "" if it never ends.

    What stands in <think> ... </think> is no part of the answer. Some templates put the opening
    tag into the prompt, so that only the closing one is in the response.
    """
    if "<" not in response:
        return response
    if _OPEN.search(response):
        return ""
    text = _THINKING.sub(_blank, response)
    return _CLOSING.sub(_blank, text)


def _blank(match):
    return " " * len(match.group())


def after_marker(text):
    """Stretch of a text in which it announces its answer, or None."""
    markers = list(_MARKER.finditer(text))
    if not markers or not text[markers[-1].end() :].strip(" \n*\"'.}"):
        return None
    start = markers[-1].end()
    # The rest of the line; of the next one, if there is nothing.
    first = re.compile(r"\S").search(text, start).start()
    line = text.find("\n", first)
    return start, len(text) if line < 0 else line


def is_denied(text, start, end):
    """Whether what a text mentions there is denied or taken back, such as "not Bergen"."""
    before = text[max(0, start - 80) : start]
    if _DENIED_BEFORE.search(before) and not re.search(r"\bnot only\b", before, re.I):
        return True
    return _DENIED_AFTER.match(text, end) is not None
