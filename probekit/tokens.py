"""Named token positions of a response, as indices into its tokens.

The names are those of the published figure, in its order. Positions are found from the characters
that each generated token stands for, so that a name always hits the token that the model made,
never one of a second tokenisation of the same text.
"""

#: What is captured, in the figure's order.
TOKENS = (
    "last_q",
    "first_answer",
    "second_answer",
    "exact_answer_before_first",
    "exact_answer_first",
    "exact_answer_last",
    "exact_answer_after_last",
    *(str(i) for i in range(-8, 0)),
)

#: What the figure draws: the token after the exact answer is captured but not shown.
FIGURE_TOKENS = tuple(token for token in TOKENS if token != "exact_answer_after_last")  # noqa: S105

#: Index of the last token of the prompt, the one from which the first answer token is predicted.
LAST_PROMPT_TOKEN = -1

#: Marks a position that a response does not have.
MISSING = -2
