"""What a response states, and what it only mentions: thinking aloud, denials, retractions."""

import re

_THINKING = re.compile(r"<(/?)(?:think|thinking|thought|reasoning|scratchpad)>", re.IGNORECASE)

# Where an answer is announced: "The correct answer is", "Answer:", GSM8K's "####", LaTeX's box.
_MARKER = re.compile(
    r"\b(?:answer\b|(?:final|right|correct|my)\s+(?:choice|option)\b"
    r"|the\s+(?:right|correct)\s+(?:one|\w+)\b|the\s+\w+\s+you\s+mean\b)"
    r"(?:\s+(?:to|for)\s[^.:\n]{0,60}?)?(?:\s*\*{0,2}\s*:"
    r"|\s+(?:is|was|would be|must be|should be)\b"
    r"(?!\s+(?:not|wrong|incorrect|neither)))\s*:?\s*\*{0,2}"
    r"|####\s*|\\boxed\{|<answer>\s*|\bnamely\s+",
    re.IGNORECASE,
)
_CONFIRMED = re.compile(
    r"[\"')*\]]*\s+(?:is|was)\s+(?:the\s+)?(?:right|correct|true|best)\b(?!\s+(?:that|for))", re.I
)

_SMALL = (
    r"(?:the|a|an|in|on|at|by|of|to|from|for|with|called|named|quite|really|actually|exactly|be|been"
    r"|have|it|is|was|that|option|answer)"
)
# "not only", "none other than", "nothing is harder than", "I would say"
_AFFIRMED = re.compile(
    r"\bnot only\b|\bnone other than\b|\b(?:no|nothing|nobody|none)\b.*\bthan\b", re.IGNORECASE
)
_DENIED_BEFORE = re.compile(
    r"(?:(?:\b(?:not|never|neither|rather than|instead of|unlike|than|no longer|as opposed to"
    r"|other than|except|except for|apart from|contrary to|cannot|confused with|mistaken for"
    r"|mistake it for|anything but|all but)|n't"
    r"|\b(?:first|initially|originally|once|previously|earlier)\s+(?:i\s+)?"
    r"(?:thought|believed|assumed|guessed|said|considered)"
    r"|\bi\s+said"
    r"|\b(?:you|one|many|some|most|people|everyone|they)(?:\s+people)?"
    r"(?:\s+(?:might|may|could|would|often|also|will))*"
    r"\s+(?:expect|think|guess|say|believe|assume|suppose)"
    r"|\b(?:thought|guessed|assumed)\s+(?=(?:of|it was|that it was)))"
    rf"(?:\s+{_SMALL})*(?:(?:\s+[\w-]+,)*\s+[\w-]+,?\s+(?:or|nor))?|\bnor)"
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
    r"(?:wrong|incorrect|false|untrue|mistaken|impossible|tempting|out\b|not\b"
    r"(?!\s+(?:only|just|merely|always|considered|the only|alone)\b))"
    rf"|{_LIST}\s+(?:isn't|aren't|wasn't|weren't|can't be|cannot be|could not be|doesn't|does not"
    r"|didn't|did not|makes? no sense|can be (?:ruled out|eliminated|excluded))\b"
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
    begins, pieces, position = None, [], 0
    for tag in _THINKING.finditer(response):
        if not tag[1]:
            begins = tag.start() if begins is None else begins
            continue
        if begins is None:  # it began in the prompt
            pieces, begins, position = [], 0, 0
        pieces += [response[position:begins], " " * (tag.end() - begins)]
        begins, position = None, tag.end()
    return "" if begins is not None else "".join(pieces) + response[position:]


def after_marker(text):
    """Stretch of a text in which it announces its answer, or None."""
    markers = list(_MARKER.finditer(text))
    start = markers[-1].end() if markers else len(text)
    # The rest of the line; of the next one, if there is nothing.
    first = re.compile(r"[^\s*\"'.}]").search(text, start)
    if first is None:
        return None
    line = text.find("\n", first.start())
    return start, len(text) if line < 0 else line


def is_denied(text, start, end):
    """Whether what a text mentions there is denied or taken back, such as "not Bergen"."""
    before = text[max(0, start - 80) : start]
    if _DENIED_BEFORE.search(before) and not _AFFIRMED.search(before):
        return True
    return _DENIED_AFTER.match(text, end) is not None


def is_confirmed(text, end):
    """Whether a text says of what it mentions there that it is right: "C is correct"."""
    return _CONFIRMED.match(text, end) is not None
