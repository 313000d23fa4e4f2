"""A list of things that could be answered, and which of them a response answers."""

import csv
import hashlib
import io
import json
import re
from itertools import pairwise
from pathlib import Path

from probekit import arguments
from probekit.questions.text import (
    NUMBER,
    NUMBER_WORDS,
    WORD_END,
    WORD_START,
    Mention,
    alternatives,
    fold,
    number_value,
    number_words_value,
    read_text,
    unfold,
)
from probekit.run.files import resource

SLOT = "{}"  # in a decoy, stands for any name of the list
EXACT_CASE = 3  # names up to this long must match in case: US is not us, He is not HE
_NEARBY = 80  # characters of context a decoy may look at

# Symbols, such as the chemical ones, that are English words where a sentence begins.
_WORDS = {"Am", "As", "At", "Be", "He", "I", "In", "No"}

_SYMBOL_FOLLOWS = re.compile(r"\s*(?:\(|=|is (?:the|a|an) |stands |represents )")
_SENTENCE_START = re.compile(r"(?:^|[.!?:\n])[\s\"'(*\-]*$")
_SENTENCE_END = re.compile(r"[\"')*\]]*\s*(?:[.!?;]|$)")
_JOINED = re.compile(r"\s*(?:,?\s*\b(?:and|or|nor)\b|[&/-])\s*(?:the\s+)?")
_LISTED = re.compile(r"\s*,\s*(?:the\s+)?")


class _Contexts:
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
        self._before, self._after = _ends(before), _begins(after)

    def mask(self, text, mentions):
        """For each mention, whether a decoy masks it."""
        before, after = [], []
        for mention in mentions:
            left, right = _beside(text, mention.start, mention.end)
            around = any(b.search(left) and a.match(right) for b, a in self._around)
            before.append(around or self._before.search(left) is not None)
            after.append(around or self._after.match(right) is not None)
        # "bordering Egypt and Libya", "the Spanish and Portuguese languages": what holds for one
        # of a list holds for all of it.
        linked = _links(text, mentions)
        for i in range(1, len(mentions)):
            before[i] |= before[i - 1] and linked[i - 1]
        for i in reversed(range(len(mentions) - 1)):
            after[i] |= after[i + 1] and linked[i]
        return [b or a for b, a in zip(before, after, strict=True)]


def _links(text, mentions):
    """Whether each mention is joined with the next in a list ("A, B and C")."""
    links, linked = [], False
    for here, following in reversed(list(pairwise(mentions))):
        between = text[here.end : following.start]
        # A comma alone joins nothing ("near the Libyan border, Egypt"): an "and" must follow.
        linked = bool(_JOINED.fullmatch(between) or (linked and _LISTED.fullmatch(between)))
        links.append(linked)
    return links[::-1]


def _beside(text, start, end):
    """What a decoy may look at before and after a mention."""
    return text[max(0, start - _NEARBY) : start], text[end : end + _NEARBY]


def _is_plain_word(phrase, text, start, end):
    """Whether a short name is used as the English word that it also is ("In chemistry, ...")."""
    if phrase not in _WORDS:
        return False
    before, after = _beside(text, start, end)
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


def _spaced(phrase):
    """Pattern of a phrase; a space or hyphen in it matches either, and runs of them."""
    return r"[\s-]+".join(map(re.escape, re.split(r"[\s-]+", phrase)))


def _cased(phrase):
    """As `_spaced`; a capital must be a capital, a small letter may be either."""
    if len(phrase) <= EXACT_CASE:
        return _spaced(phrase)
    return "".join(
        part if part.isupper() else f"(?i:{part})" if any(map(str.isalpha, part)) else part
        for part in re.split(r"([A-Z]+)", _spaced(phrase))
        if part
    )


def _ends(phrases):
    """Pattern that ends where a mention begins: one of these phrases, and what may follow it."""
    edged = (f"{WORD_START if phrase[0].isalnum() else ''}{_cased(phrase)}" for phrase in phrases)
    return re.compile(rf"(?:{'|'.join(edged) or '(?!)'})[\"'(*]*(?:(?i:the)\s+)?[\"'(*]*$")


def _begins(phrases):
    """Pattern that begins where a mention ends."""
    edged = (f"{_cased(phrase)}{WORD_END if phrase[-1].isalnum() else ''}" for phrase in phrases)
    return re.compile(rf"[\"')*]*(?:{'|'.join(edged) or '(?!)'})")


ANY_NUMBER = "{number}"  # this name in a list stands for every number
SYMBOLS = "{symbol}"  # with this name in it, the list's names are symbols: "In" may be a word
ANY_OTHER = "{other}"  # and this for a name that the list lacks, where an answer is expected
_EVERY = "*"  # this name's decoys hold for every name
_NUMBERS = ((NUMBER, number_value), (NUMBER_WORDS, number_words_value))

# An answer that no list has, such as an invented city: what follows "is", if it is a name or the
# sentence's last word; the class that something belongs to; what "is the ..." follows; a response
# that is nothing but a name.
_CAPITALISED = (
    r"(?!(?:A|An|As|He|In|It|Its|She|That|The|There|They|This|What|Which|Who)\b)[A-Z][\w'-]*"
    r"(?: (?:(?:de|del|da|do|di|du|la|le|al|el|of|and) )*[A-Z][\w'-]*)*"
)

_OTHER = re.compile(
    r"(?:(?:\b(?:is|was|called|named)|=)\s+"
    r"(?:(?:also|now|simply|called|named|known as|written as|the city of|the town of)\s+)*"
    rf"[\"'(*]*(?:{_CAPITALISED}|(?!unknown|unclear|uncertain)[\w'-]+(?=[\"')*]*\s*(?:[.;!]|$)))"
    rf"|\b[Bb]elongs? to the (?:class|family|order)\s+(?:of\s+)?[\"'(*]*{_CAPITALISED}"
    rf"|^[\"'(*]*{_CAPITALISED}(?=[\"')*]* (?:is|was) the\b)"
    rf"|^\W*(?:{_CAPITALISED}|[\w'-]+)(?=\W*$|, {_CAPITALISED}\W*$))"
)

_NAME = re.compile(rf"\b{_CAPITALISED}")
_OTHER_NAME = re.compile(rf"(?:{_CAPITALISED}|[\w'-]+)$")


class Candidates:
    """Things that could be answered, under all their names."""

    def __init__(self, name, rows, path=None):
        self.name = name
        self.path = path
        rows = [(row_name, list(aliases), list(decoys)) for row_name, aliases, decoys in rows]
        self.sha256 = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
        self._names = {}  # of a candidate by `_key` of any of its names; None of a decoy
        special = {name for name, *_ in rows} & {ANY_NUMBER, ANY_OTHER, SYMBOLS, _EVERY}
        self._numbers, self._others = ANY_NUMBER in special, ANY_OTHER in special
        self._symbols = SYMBOLS in special
        phrases, contexts = [], []
        for row_name, aliases, decoys in rows:
            if row_name not in special:
                for alias in dict.fromkeys([row_name, *aliases]):
                    phrases.append(self._add(alias, row_name))
            for decoy in decoys:
                if SLOT in decoy:
                    contexts.append(decoy)
                else:
                    phrases.append(self._add(decoy, None))
        if not any(self._names.values()) and not self._numbers:
            raise ValueError(f"candidates {name!r}: the list holds no name.")
        phrases.sort(key=len, reverse=True)  # in an alternation the first wins, so longest first
        self._strict = _any_of([_cased(phrase) for phrase in phrases])
        self._loose = _any_of(
            [p if len(p) <= EXACT_CASE else f"(?i:{p})" for p in map(_spaced, phrases)]
        )
        self._contexts = _Contexts(contexts)

    def __repr__(self):
        return f"<Candidates {self.name!r}>"

    @property
    def names(self):
        """Names of the candidates; none where any number, or any other name, can be answered."""
        return [] if self._numbers or self._others else [*filter(None, self._names.values())]

    def _add(self, phrase, name):
        folded = fold(phrase)[0].strip()
        if not folded:
            raise ValueError(f"candidates {self.name!r}: {name!r} has an empty name or decoy.")
        other = self._names.setdefault(_key(folded), name)
        if other != name:
            raise ValueError(
                f"candidates {self.name!r}: {phrase!r} belongs to both {other!r} and {name!r}. "
                "Keep it in one row, or give it a row of its own."
            )
        return folded

    def canonical(self, text):
        """Name of the candidate that `text` as a whole names, or None."""
        folded = fold(text)[0].strip()
        for pattern, value in _NUMBERS if self._numbers else ():
            if pattern.fullmatch(folded):
                return value(folded)
        return self._names.get(_key(folded))

    def find(self, response, question=""):
        """First candidate that the response answers with.

        Names that the question itself mentions are passed over (each number as often as the
        question has it), unless the response has no others: then it is the first name, or the last
        number. Neither the accepted answers nor the label are looked at.
        """
        text, origin = fold(response)
        question_text = fold(question)[0]
        echoed = None
        for loose in (False, True):
            asked = self._mentions(question_text, loose)
            found = self._mentions(text, loose)
            if self._others:
                found = _with_others(found, text, question_text)
            masked = self._contexts.mask(text, found)
            answers, echoes = _without_echo(found, masked, [mention.name for mention in asked])
            echoed = echoed or echoes
            if answers:
                break
        if not answers and echoed:
            answers = [echoed[-1 if _is_number(echoed[-1].name) and self._numbers else 0]]
        if not answers:
            return None
        start, end = unfold(origin, answers[0].start, answers[0].end)
        return Mention(start, end, answers[0].name)

    def names_in(self, text, question=""):
        """Names of the list that a text mentions and the question does not, as answers or not."""
        asked = {mention.name for mention in self._mentions(fold(question)[0], loose=False)}
        folded = fold(text)[0]
        found = self._mentions(folded, loose=False)
        masked = self._contexts.mask(folded, found)
        return {m.name for m, hidden in zip(found, masked, strict=True) if not hidden} - asked

    def _mentions(self, text, loose):
        """Mentions in order, decoys with a slot not yet applied; positions in folded text."""
        found = []
        for match in (self._loose if loose else self._strict).finditer(text):
            phrase = match.group()
            name = self._names.get(_key(phrase))
            plain = self._symbols and _is_plain_word(phrase, text, *match.span())
            if name is not None and not plain:
                # A hyphen at the edge of a name matches the space there too, which is no part.
                start = match.end() - len(phrase.lstrip())
                found.append(Mention(start, start + len(phrase.strip()), name))
        if self._numbers:
            # Words count only when the digits give no answer: "one of the" is no number.
            for pattern, value in _NUMBERS if loose else _NUMBERS[:1]:
                found += [Mention(*m.span(), value(m.group())) for m in pattern.finditer(text)]
            found.sort()
        return found


def _key(folded):
    """What names are compared by: a short one as it is, another without case and hyphens."""
    if len(folded) <= EXACT_CASE:
        return folded
    return "\0" + re.sub(r"[\s-]+", " ", folded).casefold()


def _without_echo(mentions, masked, asked):
    """Mentions that no decoy masks, divided into those that answer and those that only echo."""
    answers, echoes = [], []
    for mention, hidden in zip(mentions, masked, strict=True):
        echo = mention.name in asked
        if echo and _is_number(mention.name):
            asked.remove(mention.name)
        if not hidden:
            (echoes if echo else answers).append(mention)
    return answers, echoes


def _with_others(mentions, text, question):
    """Mentions, and among them the names that the list lacks; the longer of two that overlap."""
    others = []
    for match in _OTHER.finditer(text):
        name = _OTHER_NAME.search(match.group())
        start, end = match.start() + name.start(), match.end()
        subject = start <= 3 and text[end:].lstrip("\"')*").startswith((" is", " was"))
        if subject and name.group() in question:
            continue  # "Botswana is the ...", asked about Botswana
        explained = any(re.fullmatch(r"\s*[(\"'*]+", text[end : m.start]) for m in mentions)
        overlaps = [m for m in mentions if m.start < end and start < m.end]
        if not explained and all(m.end - m.start < end - start for m in overlaps):
            others.append(Mention(start, end, name.group()))
            mentions = [m for m in mentions if m not in overlaps]
    return sorted(mentions + others)


def unlisted(response, question):
    """Names in a response that no list has: the one that `{other}` would find, or None, and all.

    Neither those of the question nor a word that only begins a sentence are among all.
    """
    text, asked = fold(response)[0], fold(question)[0]
    others = _with_others([], text, asked)
    names = {
        m.group() for m in _NAME.finditer(text) if not _SENTENCE_START.search(text[: m.start()])
    }
    names = {name for name in names if name not in asked}
    return (others[0].name, names | {others[0].name}) if others else (None, names)


def _is_number(name):
    return NUMBER.fullmatch(name) is not None


def _any_of(patterns):
    return re.compile(f"{WORD_START}(?:{'|'.join(patterns)}){WORD_END}" if patterns else r"(?!)")


@arguments.plainly()
def read_candidates(name, folder=None):
    """Read a list of candidates: a CSV file with columns name, aliases, decoys."""
    # No file system has longer names; asking for one is an error, not a file that is not there.
    if not re.fullmatch(r"\w[\w .-]*", name) or len(f"{name}.csv".encode()) > 255:
        raise ValueError(
            f"candidates {arguments.shown(name)}: expected the name of a list, such as "
            "'countries', without slashes or '..'."
        )
    shipped = resource("data/questions/candidates")
    folders = [shipped] if folder is None else [Path(folder) / "candidates", shipped]
    for place in folders:
        path = place / f"{name}.csv"
        if path.is_file():
            return Candidates(name, _read_rows(path), path)
    raise ValueError(
        f"candidates {name!r}: there is no {folders[0] / (name + '.csv')}. Shipped lists: "
        f"{', '.join(sorted(p.stem for p in shipped.glob('*.csv')))}."
    )


def _read_rows(path):
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
        columns, rows = reader.fieldnames or [], list(reader)
    except csv.Error as error:
        raise ValueError(f"{path} is not a CSV file: {error}") from error
    if "name" not in columns:
        raise ValueError(
            f"{path}: expected a column 'name' (and, if needed, 'aliases' and 'decoys'), found "
            f"{arguments.listed(columns) or 'nothing'}."
        )
    return [
        (row["name"].strip(), *(alternatives(row.get(c) or "") for c in ("aliases", "decoys")))
        for row in rows
        if (row["name"] or "").strip()
    ]
