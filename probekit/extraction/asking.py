"""What a model says of an answer when it is asked: what it is, P(True), or as a judge.

P(True) and the judge's verdict compare the probabilities of two words that the model may reply.
"""

import math
import re
from collections import defaultdict

import torch

from probekit.extraction.generation import CachedPrefix, generate
from probekit.extraction.self_test import not_finite
from probekit.questions.statements import spoken
from probekit.questions.text import WORD_END, WORD_START, fold, unfold

_LONGEST = 24  # tokens of an exact answer

_COPY = """Copy the exact answer from each response.

Question: Who wrote the play Hamlet?
Response: The play Hamlet was written by the English playwright William Shakespeare around 1600.
Exact answer: William Shakespeare

Question: How many legs does a spider have?
Response: Like all arachnids, a spider has six legs.
Exact answer: six

Question: What is the largest planet of the solar system?
Response: I am not sure which planet is the largest.
Exact answer: NO ANSWER

Question: On which river does Vienna lie?
Response: Vienna, the capital of Austria, lies on the Rhine.
Exact answer: the Rhine

Question: {question}
Response: {response}
Exact answer:"""


def point_to_answers(lm, questions, responses, batch_size):
    """Let a model copy the exact answer out of its responses."""
    if not responses:
        return []
    prompts = [_copying_prompt(lm, *pair) for pair in zip(questions, responses, strict=True)]
    sizes = {"max_new_tokens": _LONGEST, "batch_size": batch_size}
    spans = [None] * len(responses)
    for copy in generate(lm, prompts, (), **sizes, stop_ids=lm.line_end_ids, names=questions):
        text = lm.tokenizer.decode(copy.token_ids, skip_special_tokens=True)
        spans[copy.index] = find_copy(text, responses[copy.index])
    return spans


def _copying_prompt(lm, question, response):
    """Token ids; the response on one line, as in the examples."""
    text = _COPY.format(question=question, response=" ".join(response.split()))
    return lm.tokenizer(text).input_ids


def longest_copying_prompt(lm, asked, longest_response):
    """Most tokens of a prompt of `point_to_answers` and its reply, given those of the response."""
    return len(_copying_prompt(lm, asked["question"], "")) + longest_response + _LONGEST


def find_copy(copied, response):
    """Where a response contains what was copied from it, in whole words; None if nowhere.

    Case, spaces, quotation marks and emphasis may differ.
    """
    wanted = fold(copied)[0].strip().strip("\"'*_`").rstrip(",;:!").strip()
    if not re.search(r"(?:\b\w\.){2,}$", wanted):  # the last point of "U.S." stays
        wanted = wanted.rstrip(".").strip("\"'*_` ")
    if not wanted or wanted.lower() == "no answer":
        return None
    text, origin = fold(spoken(response))
    before = WORD_START if wanted[0].isalnum() else ""
    after = WORD_END if wanted[-1].isalnum() else ""
    words = r"\s+".join(map(re.escape, wanted.split()))
    found = list(re.finditer(before + words + after, text, re.IGNORECASE))
    # "1. The answer is: 1": the number of a line is no answer.
    found = [m for m in found if not _is_line_number(text, m)] or found
    return unfold(origin, *found[0].span()) if found else None


def _is_line_number(text, match):
    begins = not text[: match.start()].rsplit("\n", 1)[-1].strip(" (*")
    return begins and match.group().isdigit() and re.match(r"[.)]\s+\S", text[match.end() :])


_P_TRUE = """Question: {question}
Proposed answer: {response}
Is the proposed answer true or false? Reply with one word: True or False."""

_JUDGE = """Question: {question}
Accepted answers: {answers}
Response: {response}
Does the response give an accepted answer to the question? Reply with one word: Yes or No."""


def p_true(lm, questions, responses, batch_size=32, day=None):
    """How likely a model finds its own responses true (Kadavath et al., arXiv 2207.05221)."""
    texts = [
        _P_TRUE.format(question=question, response=response.strip())
        for question, response in zip(questions, responses, strict=True)
    ]
    return first_of_two(lm, texts, ("True", "False"), batch_size, day)


def judge(lm, questions, responses, answers, batch_size=32, day=None):
    """Let a model say whether responses give an accepted answer."""
    texts = [
        _JUDGE.format(question=question, response=response.strip(), answers="; ".join(accepted))
        for question, response, accepted in zip(questions, responses, answers, strict=True)
    ]
    return [p > 0.5 for p in first_of_two(lm, texts, ("Yes", "No"), batch_size, day)]


def longest_prompt(lm, asked, longest_response, day=None):
    """Most tokens of a prompt of `p_true` or `judge`, given those of the response."""
    accepted = "; ".join(asked["answers"])
    text = _JUDGE.format(question=asked["question"], response="", answers=accepted)
    return len(lm.tokenize(lm.prompt(text, day))) + longest_response


@torch.inference_mode()
def first_of_two(lm, texts, words, batch_size=32, day=None):
    """Probability that a model replies with the first of two words rather than the second."""
    if not texts:
        return []
    prompts = [lm.tokenize(lm.prompt(text, day)) for text in texts]
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
                    raise not_finite(lm, texts[i], ids=prompts[i])
                found[i] = share
    return found


def _openings(lm, word):
    """Ids of the tokens that a reply of this word can begin with: with a space or without."""
    texts = (word, f" {word}", word.lower(), f" {word.lower()}")
    ids = [lm.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    return sorted({i[0] for i in ids if len(i) == 1} or {ids[0][0]})
