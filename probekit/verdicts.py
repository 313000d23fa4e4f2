"""What a model says of an answer when it is asked: P(True), and a second model as judge.

Both put a question that is answered by one of two words, and compare the words' probabilities.
"""

import math
from collections import defaultdict

import torch

from probekit.generation import CachedPrefix, not_finite

_P_TRUE = """Question: {question}
Proposed answer: {response}
Is the proposed answer true or false? Reply with one word: True or False."""

_JUDGE = """Question: {question}
Accepted answers: {answers}
Response: {response}
Does the response give an accepted answer to the question? Reply with one word: Yes or No."""


def p_true(lm, questions, responses, batch_size=32):
    """How likely a model finds its own responses true (Kadavath et al., arXiv 2207.05221).

    Parameters
    ----------
    lm : LanguageModel
    questions, responses : list of str
    batch_size : int

    Returns
    -------
    list of float
        P("True") / (P("True") + P("False")) of the next word.
    """
    texts = [
        _P_TRUE.format(question=question, response=response.strip())
        for question, response in zip(questions, responses, strict=True)
    ]
    return first_of_two(lm, texts, ("True", "False"), batch_size)


def judge(lm, questions, responses, answers, batch_size=32):
    """Let a model say whether responses give an accepted answer.

    Parameters
    ----------
    lm : LanguageModel
        Better another one than the one that is judged.
    questions, responses : list of str
    answers : list of list of str
    batch_size : int

    Returns
    -------
    list of bool
    """
    texts = [
        _JUDGE.format(question=question, response=response.strip(), answers="; ".join(accepted))
        for question, response, accepted in zip(questions, responses, answers, strict=True)
    ]
    return [p > 0.5 for p in first_of_two(lm, texts, ("Yes", "No"), batch_size)]


def longest_prompt(lm, question, answers, longest_response):
    """Tokens that a prompt of `p_true` or `judge` can take with a response of so many tokens.

    Parameters
    ----------
    lm : LanguageModel
    question : str
    answers : list of str
        For `judge`; `p_true` shows none of them.
    longest_response : int

    Returns
    -------
    int
    """
    text = _JUDGE.format(question=question, response="", answers="; ".join(answers))
    return len(lm.tokenize(lm.prompt(text))) + longest_response


@torch.inference_mode()
def first_of_two(lm, texts, words, batch_size=32):
    """Probability of the first of two words as a model's reply, of the two together.

    Parameters
    ----------
    lm : LanguageModel
    texts : list of str
    words : (str, str)
    batch_size : int

    Returns
    -------
    list of float
    """
    if not texts:
        return []
    prompts = [lm.tokenize(lm.prompt(text)) for text in texts]
    first, second = (_openings(lm, word) for word in words)
    prefix = CachedPrefix(lm, prompts)
    same_length = defaultdict(list)
    for i, prompt in enumerate(prompts):
        same_length[len(prompt)].append(i)
    found = [0.0] * len(texts)
    for members in same_length.values():
        for start in range(0, len(members), batch_size):
            batch = members[start : start + batch_size]
            logits, _ = prefix.read(lm, [prompts[i] for i in batch])
            logits = logits.float()
            # Not a quotient of two probabilities, which may both be too small for any number.
            odds = logits[:, first].logsumexp(-1) - logits[:, second].logsumexp(-1)
            finite = logits.amax(-1).isfinite().tolist()
            for i, share, usable in zip(batch, odds.sigmoid().tolist(), finite, strict=True):
                if not usable or math.isnan(share):
                    raise not_finite(lm, texts[i])
                found[i] = share
    return found


def _openings(lm, word):
    """Ids of the tokens that a reply of this word can begin with: with a space or without."""
    texts = (word, f" {word}", word.lower(), f" {word.lower()}")
    ids = [lm.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    return sorted({i[0] for i in ids if len(i) == 1} or {ids[0][0]})
