"""Named token positions of a response, as indices into its tokens.

The names are those of the published figure, in its order. Positions are found from the characters
that each generated token stands for, so that a name always hits the token that the model made,
never one of a second tokenisation of the same text.
"""

import os


class Names(tuple):
    """Names that say what they mean where IPython shows them; a tuple for all else."""

    @classmethod
    def of(cls, meanings):
        """The keys of a dict of meanings."""
        names = cls(meanings)
        names.meanings = meanings
        return names

    def _repr_pretty_(self, printer, _):
        width = max(map(len, self))
        lines = (f"{name:{width}}  {self.meanings[name]}" for name in self)
        printer.text("\n".join(lines))


#: What is captured, in the figure's order.
TOKENS = Names.of(
    {
        "last_q": "last token of the prompt",
        "first_answer": "first token of the response",
        "second_answer": "second token of the response",
        "exact_answer_before_first": "the token before the exact answer",
        "exact_answer_first": "first token of the exact answer",
        "exact_answer_last": "last token of the exact answer",
        "exact_answer_after_last": "the token after the exact answer (not in the figure)",
    }
    | {str(-i): f"token {i} from the end of the response" for i in range(8, 1, -1)}
    | {"-1": "last token of the response"}
)

#: What the figure draws: the token after the exact answer is captured but not shown.
FIGURE_TOKENS = tuple(token for token in TOKENS if token != "exact_answer_after_last")  # noqa: S105

#: Where among them those are that an exact answer decides.
EXACT_ANSWER = slice(3, 7)

#: Index of the last token of the prompt, the one from which the first answer token is predicted.
LAST_PROMPT_TOKEN = -1

#: Marks a position that a response does not have.
MISSING = -2


def decode_with_offsets(tokenizer, token_ids):
    """Decode a response and say which of its characters each token stands for.

    A token's characters are what it adds to the decoded text of the tokens before it, which needs
    no offsets from the tokenizer and is right for the ids that were generated, even where the text
    would be split into others.
    """
    text = decode(tokenizer, token_ids)
    offsets, start = [], 0
    for i in range(1, len(token_ids) + 1):
        so_far = decode(tokenizer, token_ids[:i])
        whole = len(os.path.commonprefix([so_far, text]))  # noqa: RUF071, characters, not folders
        # The first bytes of a character decode to a replacement mark, which the text lacks: the
        # token has part of the character that comes next.
        end = min(whole + (len(so_far) > whole), len(text))
        offsets.append((start, max(start, end)))
        start = max(start, whole)
    return text, offsets


def decode(tokenizer, token_ids):
    """Text of a response, without its special tokens."""
    return tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def span_tokens(offsets, span):
    """First and last token of a span of characters."""
    start, stop = span
    inside = [i for i, (first, end) in enumerate(offsets) if first < stop and end > start]
    return (inside[0], inside[-1]) if inside else None


def answer_tokens(tokenizer, token_ids, offsets, span):
    """First and last token of an exact answer; None if they do not hold it, or there is none."""
    tokens = span and span_tokens(offsets, span)
    if not tokens:
        return None
    # Verified by decoding: a name must never hit a token that lacks the answer.
    text = decode(tokenizer, token_ids)[slice(*span)]
    held = decode(tokenizer, token_ids[tokens[0] : tokens[1] + 1])
    return tokens if text in held else None


def token_positions(n_tokens, exact_answer=None):
    """Where each named token is in a response.

    The token before an exact answer that opens the response is the last one of the prompt: it is
    from there that the answer is predicted.
    """
    found = {"last_q": LAST_PROMPT_TOKEN, "first_answer": 0, "second_answer": 1}
    if exact_answer is not None:
        first, last = exact_answer
        found["exact_answer_before_first"] = first - 1
        found["exact_answer_first"] = first
        found["exact_answer_last"] = last
        found["exact_answer_after_last"] = last + 1
    for i in range(-8, 0):
        if n_tokens + i >= 0:
            found[str(i)] = n_tokens + i
    return [
        position if position < n_tokens else MISSING
        for position in (found.get(token, MISSING) for token in TOKENS)
    ]
