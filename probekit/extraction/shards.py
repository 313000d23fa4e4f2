"""Answer one shard of questions: responses, grades, exact answers and activations.

A shard is generated on its own, in an order that depends on nothing outside it. All that it needs
besides the model is small and can be sent to another process, which then gives the same.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from probekit.extraction import memory
from probekit.extraction.asking import judge as judge_answers
from probekit.extraction.asking import p_true as ask_p_true
from probekit.extraction.asking import point_to_answers
from probekit.extraction.generation import CachedPrefix, Sampler, generate
from probekit.extraction.models import LanguageModel
from probekit.extraction.self_test import not_finite
from probekit.extraction.store import half_precision
from probekit.questions.grading import examine, is_refusal, normalize
from probekit.tokens import (
    EXACT_ANSWER,
    MISSING,
    TOKENS,
    answer_tokens,
    decode_with_offsets,
    token_positions,
)


@dataclass(frozen=True)
class Shard:
    """Consecutive questions that are answered and stored as one."""

    members: range  # which of the run's examples they are
    questions: pd.DataFrame  # one row an example
    prompts: list  # token ids of each, of the column `prompt`
    alike: list  # some of the run's prompts, with no longer beginning in common than all of them
    sites: tuple
    parameters: dict  # of the run


class Tally:
    """Answers so far and how many of them are right, on a bar."""

    def __init__(self, bar=None):
        self.bar = tqdm(disable=True) if bar is None else bar
        self.n = self.correct = 0

    def add(self, correct):
        """Count an answer."""
        self._count(self.n + 1, self.correct + bool(correct))
        self.bar.update()

    def set(self, n, correct):
        """Count anew from these numbers, when a shard is begun again."""
        self._count(n, correct)
        self.bar.n = n

    def _count(self, n, correct):
        self.n, self.correct = n, correct
        self.bar.set_postfix_str(f"{correct / n:.0%} correct" if n else "", refresh=False)


def shortest_alike(prompts):
    """Three of the prompts that have no longer beginning in common than all of them."""
    # The first and last in order differ as early as any two; no beginning is a whole prompt.
    return [min(prompts), max(prompts), min(prompts, key=len)]


def fitting_batch(lm, longest_prompt, max_new_tokens, n_sites=1):
    """Rows for which keys, values, activations and logits take half of the free memory at most."""
    config = lm.model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_attention_heads", None) or 1  # models of recurrence have none
    grouped = getattr(config, "num_key_value_heads", None) or heads
    wide = max(config.hidden_size, heads * (getattr(config, "head_dim", None) or 0))
    # Keys and values, with as much room again for rows that take the place of others.
    a_token = 4 * wide * grouped // heads * (longest_prompt + max_new_tokens)
    a_row = a_token + n_sites * config.hidden_size * (1 + max_new_tokens)
    a_row *= config.num_hidden_layers * lm.model.dtype.itemsize
    # Logits, in the model's precision and twice in float32.
    a_row += getattr(config, "vocab_size", 0) * (lm.model.dtype.itemsize + 8)
    gpus = {p.device for p in lm.model.parameters() if p.device.type == "cuda"}
    free, most = (memory.on_gpus(gpus), 512) if gpus else (memory.available(), 256)
    fitting = max(1, free // 2 // a_row)
    return min(most, 1 << (int(fitting).bit_length() - 1))


def answer_shard(lm, shard, batch_size, judge=None, tally=None, halved=None, on_token=None):
    """Answer a shard, in smaller and smaller batches if memory runs out.

    Gives the rows of its answers, in the order of its questions; {site: (example, layer, token,
    feature)}, NaN where a token is missing; and the batch size, as given or what memory allowed.
    `on_token` is called as `generate` says, with activations as the store holds them.
    """
    tally = tally or Tally()
    prefix = CachedPrefix(lm, shard.alike)
    while True:
        before = tally.n, tally.correct
        try:
            answering = _Answering(lm, shard, batch_size, judge, prefix, tally, on_token)
            return answering.rows(), answering.activations, batch_size
        except (MemoryError, RuntimeError, OSError) as error:
            if batch_size == 1 or not memory.is_out_of_memory(error):
                raise
            batch_size //= 2
            tally.set(*before)
            tally.bar.write(f"Out of memory: going on with batches of {batch_size}.")
            if halved is not None:
                halved(batch_size)
        # Outside the handler, whose traceback would keep the tensors alive.
        torch.cuda.empty_cache()


class _Answering:
    """One attempt at a shard: its rows and activations while they come."""

    def __init__(self, lm, shard, batch_size, judge, prefix, tally, on_token):
        self.lm, self.shard, self.batch_size = lm, shard, batch_size
        self.judge, self.prefix, self.tally, self.on_token = judge, prefix, tally, on_token
        self.activations = {}

    def rows(self):
        """Answers in the order of the questions; fills `activations` too."""
        shard, parameters = self.shard, self.shard.parameters
        sample = None
        if parameters["temperature"]:
            settings = {name: parameters[name] for name in ("temperature", "top_p", "seed")}
            sample = Sampler(**settings, first=shard.members.start)
        rows, pending = [None] * len(shard.members), []
        for response in generate(
            self.lm,
            shard.prompts,
            shard.sites,
            max_new_tokens=parameters["max_new_tokens"],
            batch_size=self.batch_size,
            prefix=self.prefix,
            sample=sample,
            names=shard.questions["id"].tolist(),
            on_token=self.on_token and self._tell,
        ):
            question = shard.questions.iloc[response.index]
            row = rows[response.index] = self._row(question, response)
            pending.append((response, row, question))
            # Few are held at a time: all their activations are in memory until the span is known.
            if not is_copied(question) or len(pending) >= self.batch_size:
                self._complete(pending)
                pending = []
        self._complete(pending)
        table = pd.DataFrame(rows)
        asked, responses = table["question"].tolist(), table["response"].tolist()
        few, day = min(self.batch_size, 32), parameters.get("day")
        if isinstance(self.judge, LanguageModel):
            accepted = shard.questions["answers"].tolist()
            table["correct"] = judge_answers(self.judge, asked, responses, accepted, few, day)
        if parameters["p_true"]:
            table["p_true"] = ask_p_true(self.lm, asked, responses, few, day)
        return table

    def _tell(self, index, token_ids, activations):
        """Hand on what `generate` tells of a response in the making."""
        question, n = self.shard.questions["id"].iloc[index], len(token_ids)
        read = {site: values[None] for site, values in activations.items()}
        stored = {s: _stored(self.lm, values, question, n)[0] for s, values in read.items()}
        self.on_token(index, token_ids, stored)

    def _row(self, question, response):
        """One row of the answers, but for its grade and what depends on the exact answer."""
        text, offsets = decode_with_offsets(self.lm.tokenizer, response.token_ids)
        return {
            "id": question["id"],
            "question": question["question"],
            "sample": question["sample"],
            "group": question["group"],
            "prompt": question["prompt"],
            "response": text,
            "correct": None,  # and the rest, once the exact answer is known
            "kind": question["kind"],
            "accepted": "|".join(question["answers"]),
            "n_tokens": len(response.token_ids),
            "finished": response.finished,
            "refusal": is_refusal(text),
            "token_ids": response.token_ids,
            "offsets": offsets,
            **summary("logprob", response.logprobs),
            **summary("entropy", response.entropies),
        }

    def _complete(self, pending):
        """Add what depends on the exact answers, and keep the activations."""
        copied = [r for _, r, asked in pending if is_copied(asked) and not r["refusal"]]
        questions, responses = ([row[k] for row in copied] for k in ("question", "response"))
        copies = iter(point_to_answers(self.lm, questions, responses, self.batch_size))
        for response, row, asked in pending:
            offsets, text = row.pop("offsets"), row["response"]
            copy = next(copies) if is_copied(asked) and not row["refusal"] else None
            how = {name: asked[name] for name in ("candidates", "kind", "choices")}
            how |= {"copied": copy, "finished": row["finished"]}
            answer = examine(text, asked["answers"], asked["question"], **how)
            span, doubt = answer.span, answer.doubt
            correct = answer.correct
            if callable(self.judge):
                correct = bool(self.judge(row["question"], text, asked["answers"]))
            self.tally.add(correct)
            tokens = answer_tokens(self.lm.tokenizer, response.token_ids, offsets, span)
            exact_answer, name, said = "", None, slice(0)
            if tokens is None:
                span = -1, -1
            else:
                exact_answer = text[slice(*span)]
                said = slice(tokens[0], tokens[1] + 1)
                # One name for all ways to give an answer: "Indian" and "India" are the same.
                name = answer.name
                if asked["candidates"] is not None and asked["kind"] == "text":
                    name = asked["candidates"].canonical(exact_answer)
            row |= {
                "correct": correct,
                "exact_answer": exact_answer,
                "answer": name or normalize(exact_answer),
                "doubt": doubt,
                "answer_start": span[0],
                "answer_end": span[1],
                "token_starts": [first for first, _ in offsets],
                "positions": token_positions(len(response.token_ids), tokens),
                **summary("answer_logprob", response.logprobs[said]),
                **summary("answer_entropy", response.entropies[said]),
            }
            self._keep(response, row["positions"])

    def _keep(self, response, positions):
        """Put the named tokens' activations in their place; what is missing stays NaN."""
        captured = self.activations
        for site, activations in response.activations.items():
            question = self.shard.questions["id"].iloc[response.index]
            values = _stored(self.lm, activations, question, len(response.token_ids))
            if site not in captured:
                shape = (len(self.shard.members), values.shape[1], len(TOKENS), values.shape[2])
                captured[site] = np.full(shape, np.nan, dtype=values.dtype)
            elif values.dtype == np.float32:
                captured[site] = captured[site].astype(np.float32, copy=False)
            for t, position in enumerate(positions):
                if position != MISSING:
                    captured[site][response.index, :, t] = values[position + 1]


def _stored(lm, activations, question, n_tokens):
    """Activations as the store holds them."""
    values = half_precision(activations.float().cpu().numpy())
    if values.dtype == np.float32 and not np.isfinite(values).all():
        # NaN means in the store that a response has no such token.
        endless = ~np.isfinite(values).all(axis=(0, 2))
        raise not_finite(lm, question, n_tokens, block=int(endless.argmax()))
    return values


def say_again(lm, prompts, responses, positions, sites, batch_size):
    """Let a model say known responses, and read them at other exact answers.

    `responses` are token ids, `positions` those of all named tokens. Gives for each response its
    {name: (token,)} of log-probabilities and entropies, and {site: (layer, exact answer's token,
    feature)}, in the same pass as `answer_shard`, so that all differ from a new run's by rounding
    at most.
    """
    stop = min(lm.stop_ids, default=0)

    def known(logits, indices, steps):
        said = [[*responses[i], stop][step] for i, step in zip(indices, steps, strict=True)]
        return torch.tensor(said, device=logits.device)

    found, longest = [None] * len(prompts), max(map(len, responses))
    sizes = {"max_new_tokens": longest, "batch_size": batch_size}
    for response in generate(lm, prompts, sites, **sizes, sample=known):
        activations, wanted = {}, np.array(positions[response.index])[EXACT_ANSWER]
        for site, values in response.activations.items():
            values = _stored(lm, values, response.index, longest)
            read = np.full((values.shape[1], len(wanted), values.shape[2]), np.nan, values.dtype)
            there = wanted != MISSING
            read[:, there] = values[wanted[there] + 1].swapaxes(0, 1)
            activations[site] = read
        said = {"answer_logprob": response.logprobs, "answer_entropy": response.entropies}
        found[response.index] = said, activations
    return found


def is_copied(question):
    """Whether only the model can tell where the exact answer of a response is."""
    return question["kind"] == "text" and question["candidates"] is None


def summary(name, numbers):
    """Mean, least and greatest of some tokens' numbers; NaN of none."""
    kinds = {"mean": np.mean, "min": np.min, "max": np.max}
    return {
        f"{name}_{kind}": float(of(numbers)) if len(numbers) else np.nan
        for kind, of in kinds.items()
    }
