"""Phrases that mention a candidate without answering with it, and patterns of phrases."""

import re
from itertools import pairwise

from probekit.text import WORD_END, WORD_START, fold

SLOT = "{}"  # in a decoy, stands for any name of the list
EXACT_CASE = 3  # names up to this long must match in case: US is not us, He is not HE
_NEARBY = 80  # characters of context a decoy may look at

# Chemical symbols that are English words where a sentence begins.
_WORDS = {"Am", "As", "At", "Be", "He", "I", "In", "No"}
_SYMBOL_FOLLOWS = re.compile(
    r"\s*(?:\(|=|is (?:the|a|an) (?:chemical |element)?|stands |represents )"
)
_SENTENCE_START = re.compile(r"(?:^|[.!?:\n])[\s\"'(*\-]*$")
_SENTENCE_END = re.compile(r"[\"')*\]]*\s*(?:[.!?;]|$)")
_JOINED = re.compile(r"\s*(?:,?\s*\b(?:and|or|nor)\b|[&/-])\s*(?:the\s+)?")
_LISTED = re.compile(r"\s*,\s*(?:the\s+)?")


class Contexts:
    """Decoys with a slot: which mentions stand in one."""

    def __init__(self, decoys):
        before, after, self._around = [], [], []
        for decoy in decoys:
            left, right = (fold(part)[0] for part in decoy.split(SLOT, 1))
            if left and right:
                self._around.append((_ends([left]), _begins([right])))
            elif left:
                before.append(left)
            elif right:
                after.append(right)
        self._before = _ends(before) if before else None
        self._after = _begins(after) if after else None

    def mask(self, text, mentions):
        """For each mention, whether a decoy masks it."""
        masked_before, masked_after = [], []
        for mention in mentions:
            left = text[max(0, mention.start - _NEARBY) : mention.start]
            right = text[mention.end : mention.end + _NEARBY]
            around = any(b.search(left) and a.match(right) for b, a in self._around)
            masked_before.append(around or bool(self._before and self._before.search(left)))
            masked_after.append(around or bool(self._after and self._after.match(right)))
        # "bordering Egypt and Libya", "the Spanish and Portuguese languages": what holds for one
        # of a list holds for all of it.
        linked = _links(text, mentions)
        for i in range(1, len(mentions)):
            masked_before[i] |= masked_before[i - 1] and linked[i - 1]
        for i in reversed(range(len(mentions) - 1)):
            masked_after[i] |= masked_after[i + 1] and linked[i]
        return [b or a for b, a in zip(masked_before, masked_after, strict=True)]


def _links(text, mentions):
    """Whether each mention is joined with the next in a list ("A, B and C")."""
    linked = []
    for here, following in pairwise(mentions):
        between = text[here.end : following.start]
        linked.append("and" if _JOINED.fullmatch(between) else _LISTED.fullmatch(between) and ",")
    for i in reversed(range(len(linked))):
        # A comma alone joins nothing ("near the Libyan border, Egypt"): an "and" must follow.
        linked[i] = linked[i] == "and" or bool(
            linked[i] == "," and i + 1 < len(linked) and linked[i + 1]
        )
    return linked


def is_plain_word(phrase, text, start, end):
    """Whether a short name is used as the English word that it also is ("In chemistry, ...")."""
    if phrase not in _WORDS:
        return False
    before, after = text[max(0, start - _NEARBY) : start], text[end : end + _NEARBY]
    if _SENTENCE_END.match(after):
        alone = not before.strip("\"'(*[ \n") and not after.strip("\"')*] \n.!?")
        return bool(_SENTENCE_START.search(before)) and phrase == "No" and not alone
    if before[-1:] in ('"', "'", "(", "*", "[") and after[:1] in ('"', "'", ")", "*", "]"):
        return False
    if _SENTENCE_START.search(before):
        return not _SYMBOL_FOLLOWS.match(after)
    if phrase == "I":
        return re.search(r"\b(?:is|symbol|letter)\s+[\"'(*]*$", before) is None
    return False


def spaced(phrase):
    """Pattern of a phrase; a space or hyphen in it matches either, and runs of them."""
    return r"[\s-]+".join(re.escape(part) for part in re.split(r"[\s-]+", phrase))


def cased(phrase):
    """As `spaced`; a capital must be a capital, a small letter may be either."""
    if len(phrase) <= EXACT_CASE:
        return spaced(phrase)
    return "".join(
        part if part.isupper() else f"(?i:{part})" if any(map(str.isalpha, part)) else part
        for part in re.split(r"([A-Z]+)", spaced(phrase))
        if part
    )


def _ends(phrases):
    """Pattern that ends where a mention begins: one of these phrases, and what may follow it."""
    edged = (f"{WORD_START if phrase[0].isalnum() else ''}{cased(phrase)}" for phrase in phrases)
    return re.compile(rf"(?:{'|'.join(edged)})[\"'(*]*(?:(?i:the)\s+)?[\"'(*]*$")


def _begins(phrases):
    """Pattern that begins where a mention ends."""
    edged = (f"{cased(phrase)}{WORD_END if phrase[-1].isalnum() else ''}" for phrase in phrases)
    return re.compile(rf"[\"')*]*(?:{'|'.join(edged)})")
