"""Kinds of answers: how each is told, found in a response, and compared."""

KINDS = ("text", "number", "date", "yes_no", "choice")


def kind_of(answers, choices=None, candidates=None):
    """Kind of a question, told by its accepted answers and what it may be answered with."""
    return "choice" if choices else "text"


def with_options(question, choices):
    """Question as it is asked with its options, each on a line: "A. Mars"."""
    return "\n".join([question, *(f"{chr(65 + i)}. {c}" for i, c in enumerate(choices))])
