"""A list of things that could be answered, and which of them a response answers."""

import csv
import hashlib
import json
import re
from pathlib import Path
from typing import NamedTuple

from probekit import checks
from probekit.decoys import EXACT_CASE, SLOT, Contexts, cased, is_plain_word, spaced
from probekit.resources import resource
from probekit.text import (
    NUMBER,
    NUMBER_WORDS,
    WORD_END,
    WORD_START,
    fold,
    number_value,
    number_words_value,
    unfold,
)

ANY_NUMBER = "{number}"  # this name in a list stands for every number
ANY_OTHER = "{other}"  # and this for a name that the list lacks, where an answer is expected
_EVERY = "*"  # this name's decoys hold for every name

# An answer that no list has, such as an invented city: what follows "is", if it is a name or the
# sentence's last word; what "is the ..." follows; a response that is nothing but a name.
_CAPITALISED = (
    r"(?!(?:A|An|As|He|In|It|Its|She|That|The|There|They|This|What|Which|Who)\b)[A-Z][\w'-]*"
    r"(?: (?:(?:de|del|da|do|di|du|la|le|al|el|of|and) )*[A-Z][\w'-]*)*"
)
_OTHER = re.compile(
    r"(?:(?:\b(?:is|was|called|named)|=)\s+"
    r"(?:(?:also|now|simply|called|named|known as|written as|the city of|the town of)\s+)*"
    rf"[\"'(*]*(?:{_CAPITALISED}|(?!unknown|unclear|uncertain)[\w'-]+(?=[\"')*]*\s*(?:[.;!]|$)))"
    rf"|^[\"'(*]*{_CAPITALISED}(?=[\"')*]* (?:is|was) the\b)"
    rf"|^\W*(?:{_CAPITALISED}|[\w'-]+)(?=\W*$|, {_CAPITALISED}\W*$))"
)
_OTHER_NAME = re.compile(rf"(?:{_CAPITALISED}|[\w'-]+)$")


class Mention(NamedTuple):
    """A candidate's mention in a response: its characters, and the candidate's name."""

    start: int
    end: int
    name: str


class Candidates:
    """Things that could be answered, under all their names.

    Parameters
    ----------
    name : str
        What the list is called.
    rows : iterable of (name, aliases, decoys)
        `name` is a str, `aliases` (other names, adjectives) and `decoys` lists of str. A capital
        in a name must be a capital in the response ("China", "CHINA", not "china") unless nothing
        is found so; names of up to three characters match in exactly their case. A decoy is a
        phrase that mentions a name without answering ("South China Sea"); with ``{}`` in it, it
        holds around any name ("bordering {}"). Three names are special: ``*`` has decoys only;
        ``{number}`` stands for every number, in digits or in words; ``{other}`` for a name that the
        list lacks, where an answer is expected ("The capital of Mali is Kadama.").
    path : Path, optional
        File that the list was read from.

    Raises
    ------
    ValueError
        If there is no name, or the same name or alias belongs to two candidates.
    """

    def __init__(self, name, rows, path=None):
        self.name = name
        self.path = path
        rows = [(row_name, list(aliases), list(decoys)) for row_name, aliases, decoys in rows]
        self.sha256 = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
        self._exact, self._caseless = {}, {}
        self._numbers = self._others = False
        phrases, contexts = [], []
        for row_name, aliases, decoys in rows:
            contexts += [decoy for decoy in decoys if SLOT in decoy]
            masked = [decoy for decoy in decoys if SLOT not in decoy]
            if row_name == ANY_NUMBER:
                self._numbers = True
            elif row_name == ANY_OTHER:
                self._others = True
            elif row_name != _EVERY:
                for alias in dict.fromkeys([row_name, *aliases]):
                    phrases.append(self._add(alias, row_name))
            for decoy in masked:
                phrases.append(self._add(decoy, None))
        if not any(self._exact.values()) and not any(self._caseless.values()) and not self._numbers:
            raise ValueError(f"candidates {name!r}: the list holds no name")
        phrases.sort(key=len, reverse=True)  # in an alternation the first wins, so longest first
        self._strict = _any_of([cased(phrase) for phrase in phrases])
        self._loose = _any_of(
            [p if len(p) <= EXACT_CASE else f"(?i:{p})" for p in map(spaced, phrases)]
        )
        self._contexts = Contexts(contexts)

    def __repr__(self):
        return f"<Candidates {self.name!r}>"

    def _add(self, phrase, name):
        folded = fold(phrase)[0].strip()
        if not folded:
            raise ValueError(f"candidates {self.name!r}: {name!r} has an empty name or decoy")
        table, key = self._key(folded)
        if table.setdefault(key, name) != name:
            raise ValueError(
                f"candidates {self.name!r}: {phrase!r} belongs to both {table[key]!r} and "
                f"{name!r}. "
                "Keep it in one row, or give it a row of its own."
            )
        return folded

    def _key(self, folded):
        if len(folded) <= EXACT_CASE:
            return self._exact, folded
        return self._caseless, re.sub(r"[\s-]+", " ", folded).casefold()

    def canonical(self, text):
        """Name of the candidate that `text` as a whole names, or None.

        Parameters
        ----------
        text : str
            A name or alias, in any case and with or without accents, or a number.

        Returns
        -------
        str or None
        """
        folded = fold(text)[0].strip()
        if self._numbers:
            for pattern, value in ((NUMBER, number_value), (NUMBER_WORDS, number_words_value)):
                if pattern.fullmatch(folded):
                    return value(folded)
        table, key = self._key(folded)
        return table.get(key)

    def find(self, response, question=""):
        """First candidate that the response answers with.

        Names that the question itself mentions are passed over (each number as often as the
        question has it), unless the response has no others: then it is the first name, or the last
        number. Neither the accepted answers nor the label are looked at.

        Parameters
        ----------
        response, question : str

        Returns
        -------
        Mention or None
            Positions are in `response`.
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

    def _mentions(self, text, loose):
        """Mentions in order, decoys with a slot not yet applied; positions in folded text."""
        found = []
        for match in (self._loose if loose else self._strict).finditer(text):
            phrase = match.group()
            table, key = self._key(phrase)
            name = table.get(key)
            if name is not None and not is_plain_word(phrase, text, match.start(), match.end()):
                # A hyphen at the edge of a name matches the space there too, which is no part.
                start = match.end() - len(phrase.lstrip())
                found.append(Mention(start, start + len(phrase.strip()), name))
        if self._numbers:
            patterns = [(NUMBER, number_value)]
            if loose:  # words count when the digits give no answer: "one of the" is no number
                patterns.append((NUMBER_WORDS, number_words_value))
            for pattern, value in patterns:
                found += [Mention(*m.span(), value(m.group())) for m in pattern.finditer(text)]
            found.sort()
        return found


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


def _is_number(name):
    return NUMBER.fullmatch(name) is not None


def _any_of(patterns):
    return re.compile(f"{WORD_START}(?:{'|'.join(patterns)}){WORD_END}" if patterns else r"(?!)")


@checks.plainly()
def read_candidates(name, folder=None):
    """Read a list of candidates: a CSV file with columns name, aliases, decoys.

    Parameters
    ----------
    name : str
        ``<folder>/candidates/<name>.csv`` is read, or the shipped list of that name.
    folder : path, optional
        Folder of the question file.

    Returns
    -------
    Candidates

    Raises
    ------
    ValueError
        If the name leaves its folder, there is no such list, or the file is not one.
    """
    if not re.fullmatch(r"\w[\w .-]*", name):
        raise ValueError(
            f"candidates {name!r}: expected the name of a list, such as 'countries', without "
            "slashes or '..'"
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
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns, rows = reader.fieldnames or [], list(reader)
    except csv.Error as error:
        raise ValueError(f"{path} is not a CSV file: {error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start})"
        ) from error
    if "name" not in columns:
        raise ValueError(
            f"{path}: expected a column 'name' (and, if needed, 'aliases' and 'decoys'), found "
            f"{checks.listed(columns) or 'nothing'}"
        )
    return [
        (row["name"].strip(), _cell(row.get("aliases")), _cell(row.get("decoys")))
        for row in rows
        if (row["name"] or "").strip()
    ]


def _cell(text):
    return [part.strip() for part in (text or "").split("|") if part.strip()]
