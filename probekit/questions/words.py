"""Forms of one name: how a text may write what is accepted.

"Spider-Man" is "Spiderman", "J. K. Rowling" is "JK Rowling", "Louis XIV" is "Louis the Fourteenth".
"""

import re
from functools import lru_cache

import snowballstemmer

from probekit.questions.text import WORD_END, WORD_START, fold
from probekit.questions.values import number_names, roman_value

_STEMMER = snowballstemmer.stemmer("english")

# Names that are everyday words of another meaning: only with their capital are they the name.
# Not Blue or Mercury, which mean the same without it.
_EVERYDAY = frozenset(
    """
    a about aids all am and any are art as at band bath bill bush but by can cars chad chase china
    cork could did do does doors down drew earl ever fall first for ford frank from full go
    grace grant guy had has have he her here him his hope how hull i if in into is it its
    jack java jay job jordan joy like march mark may me mobile more most my nice no none not
    now of off oh on one or other our out over pat polish prince reading rob said see she should so
    some split that the their them then there these they to tours turkey twin us van very was
    we were what when where which who why will wish with would yes you your be been this
    faith
    """.split()  # noqa: SIM905
)

_SHORT = 3  # names up to this long must match in case: Au, He

# Short forms of words; all of a line are the same.
_ABBREVIATED = """
st saint
st street
mt mount
ft fort
dr doctor
jr junior
sr senior
mr mister
prof professor
ave avenue
blvd boulevard
vs versus
& and n
""".strip()
_SAME = {}
for _line in _ABBREVIATED.split("\n"):
    for _word in _line.split():
        _SAME.setdefault(_word, []).extend(_line.split())

# In front of a name these make another one: Northern Ireland, New Mexico; not "northern Italy".
_OTHER_PLACE = re.compile(
    r"\b(?:North|South|East|West|Central|Northern|Southern|Eastern|Western|New|Upper|Lower|Greater"
    r"|Lesser|Inner|Outer|Equatorial|Papua New|Baja|Trans)[\s-]$"
)


# British and American spellings; $ is the end of a word.
_SPELLINGS = [
    ("our$", "or$"), ("re$", "er$"), ("ise$", "ize$"), ("ised$", "ized$"), ("ising$", "izing$"),
    ("isation$", "ization$"), ("yse$", "yze$"), ("ogue$", "og$"), ("ence$", "ense$"), ("ae", "e"),
    ("oe", "e"), ("grey", "gray"), ("sulph", "sulf"), ("aluminium", "aluminum"), ("tyre", "tire"),
    ("mould", "mold"), ("cheque", "check"), ("programme$", "program$"), ("plough", "plow"),
]  # fmt: skip
_SPELLINGS += [(american, british) for british, american in _SPELLINGS if len(american) > 1]

# What goes on after a small word that opens a sentence; not "He is the symbol" or "In = ...".
_GOES_ON = re.compile(r"\s+(?!(?:is|was|stands|represents|means)\b)[a-z]|\s+is\s+(?:a|an|in|on)\b")
_FUNCTION_WORDS = {
    "i",
    "he",
    "she",
    "it",
    "we",
    "as",
    "at",
    "be",
    "by",
    "in",
    "no",
    "of",
    "on",
    "us",
}


def _spellings(word):
    """A word and its other spelling: "grey" and "gray", and the other way round."""
    forms = [word]
    for one, other in _SPELLINGS:
        forms.append(re.sub(one, other.rstrip("$"), word, flags=re.IGNORECASE))
    return dict.fromkeys(forms)


def stem(word):
    """Stem of an English word: "moons" and "moon" have one."""
    return _STEMMER.stemWord(word)


def is_everyday(name):
    """Whether a name is an everyday word too, if its capital is overlooked."""
    return re.sub(r"^the\s+", "", name.strip().lower()) in _EVERYDAY


def mentions(answer, text):
    """Where a folded text has an answer in one of its forms: (start, end), each."""
    answer = fold(answer)[0].strip().strip("\"'").strip()
    parts, said = _parts(answer), text.lower()
    if parts and not any(part in said for part in parts):
        return  # patterns take milliseconds to compile
    # Who writes no capital at all can't give a name one.
    for match in _phrase(answer, text == text.lower()).finditer(text):
        ending = match.groupdict().get("stemmed")
        last = answer.lower().split()[-1]
        if ending and ending.lower() != last and ending.lower().endswith("ly"):
            continue  # "generally" is not "general"
        if ending and stem(ending.lower()) != stem(last):
            continue
        start, end = match.span()
        before, after = text[max(0, start - 12) : start], text[end : end + 20]
        if _OTHER_PLACE.search(before) or re.match(r"-[A-Z]", after):
            continue  # Northern Ireland is not Ireland, nor Guinea-Bissau Guinea
        opens = len(answer) <= 2 or answer.lower() in _FUNCTION_WORDS
        if opens and re.search(r"(?:^|[.!?:\n])\s*$", before) and _GOES_ON.match(after):
            continue  # "He who looks it up", "In the table", not the symbols
        yield start, end


@lru_cache(4096)
def _parts(answer):
    """Three letters of each longer word, one of which is in all forms of an answer; or ()."""
    words = re.findall(r"[^\W\d_]+", answer.lower())
    if any(number_names(word) or word in _SAME for word in answer.split()):
        return ()
    return tuple(part for word in words if len(word) > 4 for part in (word[:3], word[2:5]))


@lru_cache(4096)
def _phrase(answer, loose):
    strict = answer != answer.lower() and not loose
    strict &= is_everyday(answer) or len(answer) <= _SHORT
    rest = re.sub(r"^(?:the|an?)\s+(?=\w)", "", answer, flags=re.IGNORECASE)
    pattern = _pattern(rest, strict)
    if not pattern:
        return re.compile(r"(?!)")
    if re.fullmatch(r"[A-Z][\w.]*(?: [A-Z][\w.]*)+", rest):
        first, last = rest.rsplit(" ", 1)
        pattern += rf"|{re.escape(last)}, {_pattern(first, strict, part=True)}"
    # Large classes of characters take long to compile where case does not count.
    before = f"(?-i:{WORD_START})" if rest[0].isalnum() else ""
    after = f"(?-i:{WORD_END})" if rest[-1].isalnum() or rest[-1] == "." else ""
    return re.compile(f"{before}(?:{pattern}){after}", re.IGNORECASE)


def _pattern(name, strict, part=False):
    """Pattern of a name's words and what may stand between them."""
    name = re.sub(r"\s+the\s+", " ", name, flags=re.IGNORECASE)  # which may stand between words
    pieces = re.findall(r"[^\s,/-]+|[\s,/-]+", name)
    alone = not part and sum(not re.fullmatch(r"[\s,/-]+", piece) for piece in pieces) == 1
    pattern = ""
    for i, piece in enumerate(pieces):
        if not re.fullmatch(r"[\s,/-]+", piece):
            pattern += _word(piece, strict, i == len(pieces) - 1 and not part, alone)
        elif 0 < i < len(pieces) - 1:
            initials = re.search(r"(?<!\w)\w\.$", pieces[i - 1])
            closed = "-" in piece or "/" in piece or initials
            if piece == "-" and pieces[i - 1].isdigit() and pieces[i + 1].isdigit():
                pattern += r"(?:\s*-\s*|\s+to\s+)"
                continue
            pattern += r"[\s,/-]*" if closed else r"[\s,-]+(?:the\s+)?"
        else:
            pattern += re.escape(piece)
    return pattern


def _word(word, strict, last, alone):
    letters = word.replace(".", "")
    # Initials and abbreviations, with points or without: U.S.A., W.H.O., JK.
    initials = letters.isalpha() and letters.isupper() and (alone or not roman_value(word))
    if initials and len(letters) > 1 and ("." in word or len(letters) <= 5):
        spelled = r"\.?\s?".join(letters)
        dotted = r"\.\s?".join(letters.lower()) + r"\."
        exact = len(letters) <= _SHORT or is_everyday(letters)
        return rf"(?{'-i' if exact else ''}:{spelled}\.?|{dotted})"
    if len(letters) == 1 and word.endswith("."):
        return rf"{re.escape(letters)}\.*"
    if re.fullmatch(r"(?:[A-Z][a-z]?\d*){2,}", word) and not word.isalpha():
        return "(?-i:" + r"[_{}]*".join(word) + ")"  # C6H12O6, in LaTeX C_6H_{12}O_6
    forms = [re.escape(form).replace("'", "'?") for form in _spellings(word)]
    lower = letters.lower().strip("'")
    if lower in _SAME:
        forms = [re.escape(same) + r"\.?" for same in _SAME[lower]]
    if names := number_names(word, roman=not alone):
        forms += map(re.escape, names)
        forms += [rf"the\s+{re.escape(name)}" for name in names]
    if strict:
        # "Nice" and "NICE", but not "nice"; "Au", but not "AU".
        capitals = [re.escape(word.upper())] if len(word) > _SHORT else []
        return rf"(?-i:{'|'.join(forms + capitals)})"
    if last and word.isalpha() and len(word) > 2 and not is_everyday(word):
        # Another ending, if the stem is the same: "moons", "neutrality".
        forms.append(rf"(?P<stemmed>{re.escape(stem(lower))}\w*)")
    return rf"(?:{'|'.join(dict.fromkeys(forms))})"
