"""Find exact answers without a list of candidates: the model points to them itself.

As in Orgad et al. (arXiv 2410.02707), section 3.1, but for right and wrong responses alike, so
that where the span lies says nothing of the grade.
"""

from probekit.generation import generate

_LONGEST = 24  # tokens of an exact answer

_EXAMPLES = (
    (
        "Who wrote the play Hamlet?",
        "The play Hamlet was written by the English playwright William Shakespeare around 1600.",
        "William Shakespeare",
    ),
    (
        "How many legs does a spider have?",
        "Like all arachnids, a spider has six legs.",
        "six",
    ),
    (
        "What is the largest planet of the solar system?",
        "I am not sure which planet is the largest.",
        "NO ANSWER",
    ),
    (
        "On which river does Vienna lie?",
        "Vienna, the capital of Austria, lies on the Rhine.",
        "the Rhine",
    ),
)


def point_to_answers(lm, questions, responses, batch_size):
    """Let a model copy the exact answer out of its responses.

    Parameters
    ----------
    lm : LanguageModel
    questions, responses : list of str
    batch_size : int

    Returns
    -------
    list of (int, int) or None
        Characters of each response, end exclusive. None where what the model wrote is no part of
        the response.
    """
    if not responses:
        return []
    prompts = [
        _ids(lm, question, response)
        for question, response in zip(questions, responses, strict=True)
    ]
    spans = [None] * len(responses)
    copied = generate(
        lm,
        prompts,
        (),
        max_new_tokens=_LONGEST,
        batch_size=batch_size,
        stop_ids=lm.line_end_ids,
        names=questions,
    )
    for response in copied:
        text = lm.tokenizer.decode(response.token_ids, skip_special_tokens=True)
        spans[response.index] = find_copy(text, responses[response.index])
    return spans


def longest_prompt(lm, question, longest_response):
    """Tokens that a question with a response of so many tokens can take, reply and all.

    Parameters
    ----------
    lm : LanguageModel
    question : str
    longest_response : int

    Returns
    -------
    int
    """
    return len(_ids(lm, question, "")) + longest_response + _LONGEST


def find_copy(copied, response):
    """Where a response contains what was copied from it, in whole words.

    Parameters
    ----------
    copied, response : str

    Returns
    -------
    (int, int) or None
    """
    text = copied.strip().strip("\"'").rstrip(".,;:!").strip()
    start = response.find(text) if text else -1
    while start >= 0:
        end = start + len(text)
        before, after = response[start - 1 : start], response[end : end + 1]
        if not (before.isalnum() and text[0].isalnum()) and not (
            after.isalnum() and text[-1].isalnum()
        ):
            return start, end
        start = response.find(text, start + 1)
    return None


def _ids(lm, question, response):
    shots = [*_EXAMPLES, (question, response, "")]
    text = "Copy the exact answer from each response.\n\n" + "\n\n".join(
        f"Question: {q}\nResponse: {' '.join(r.split())}\nExact answer: {a}".rstrip()
        for q, r, a in shots
    )
    return lm.tokenizer(text).input_ids
