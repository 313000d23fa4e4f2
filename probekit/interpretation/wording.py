"""Numbers and names as they are written in a description, in Markdown."""

import html
import math
import re

from probekit.tokens import TOKENS


def escape(text):
    """A name from outside as Markdown that shows just it, whatever characters it has."""
    plain = html.escape(" ".join(str(text).split()), quote=False)
    plain = re.sub(r"([\\`*_\[\]|$~])", r"\\\1", plain)
    return plain.replace("://", ":\\/\\/")  # bare addresses become links otherwise


def code(token):
    """A token's name, as code if it is one of probekit's own."""
    return f"`{token}`" if token in TOKENS else escape(token)


def number(value, sign=""):
    """A number with two decimals; what rounds to 0 has no minus."""
    text = f"{value:{sign}.2f}"
    return text.replace("-", "+" if sign else "") if text == "-0.00" else text


def area(value, low, high):
    """An area with its interval: ``0.82 [0.74, 0.89]``."""
    return f"{number(value)} [{number(low)}, {number(high)}]"


def change(value, half_width):
    """A difference with its interval: ``+0.05 [+0.02, +0.08]``."""
    ends = (number(value + half, "+") for half in (-half_width, half_width))
    return f"{number(value, '+')} [{', '.join(ends)}]"


def by_how_much(value, half_width):
    """A difference's size with its interval, where its direction is said in words."""
    return area(abs(value), abs(value) - half_width, abs(value) + half_width)


def at_most(reach):
    """How far intervals reach from their values, rounded up: ``± 0.05 at most``."""
    return f"± {math.ceil(100 * max(reach) - 1e-6) / 100:.2f} at most"


def table(header, rows, align="---"):
    """A table in Markdown, with no padding: the text is for reading when it is rendered."""
    lines = [header, [align] * len(header), *rows]
    return "\n".join(f"|{'|'.join(map(str, line))}|" for line in lines)


def spans(numbers):
    """Whole numbers in words, runs as spans: ``[1, 2, 3, 7]`` is ``"1–3, 7"``."""
    runs = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{r[0]}–{r[-1]}" if len(r) > 1 else f"{r[0]}" for r in runs)


def layers(numbers):
    """``"layer 3"`` or ``"layers 1–3, 7"``."""
    numbers = [int(n) for n in numbers]
    return f"layer{'s' if len(numbers) != 1 else ''} {spans(numbers)}"


def count(n, noun):
    """``"1 cell"``, ``"2 cells"``."""
    return f"{n} {noun}{'s' if n != 1 else ''}"


def listing(words):
    """Words in a list as English has it: ``"a, b and c"``."""
    words = list(words)
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else "".join(words)


def percent(share):
    """A share as a whole number of per cent."""
    return f"{100 * share:.0f} %"


def sentence(text):
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]
