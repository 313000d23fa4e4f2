"""Whether a model's answers and activations are those of the plain model, tried before any work.

Architectures keep state that rows of a batch can't share, count positions in their own way, or
have blocks that add up in another way. That is found out on three short prompts, once a model, by
comparison with the plainest way there is: a whole text alone, without a cache.
"""

import functools
import inspect
import math
from dataclasses import dataclass

import pandas as pd
import torch

from probekit import arguments
from probekit.extraction import memory
from probekit.extraction.sites import Recorder, SiteCheck, decoder_blocks, first_tensor

_LONGEST = 24  # tokens of a prompt
_NEW = 5  # tokens of a response
_SINGLE = 1e-6  # precision with a larger step is low


@dataclass(frozen=True)
class Examination:
    """What came out: the quickest way to answer that is right, and the sites that can't be read."""

    name: str  # of the model's class
    way: str | None
    wrong: dict  # site: why
    is_low: bool  # whether the model is in low precision
    checks: pd.DataFrame  # as `check_model` gives them

    def refuse(self, sites=()):
        """Raise an error if the model can't be answered with, or one of these sites not be read."""
        advice = "pk.check_model(lm) shows each comparison."
        if self.way is None:
            tried = self.checks[self.checks["check"] == "answers"]
            found = "; ".join(f"{row.of}: {row.result}" for row in tried.itertuples())
            raise ValueError(
                f"{self.name} can't be used: no way to answer several prompts gives what the plain "
                f"model gives to each alone ({found}). {self._instead}. {advice}"
            )
        for site in sites:
            if site in self.wrong:
                checked = dict.fromkeys(self.checks["of"][self.checks["check"] != "answers"])
                left = " or ".join(repr(s) for s in checked if s not in self.wrong)
                instead = f"Take site={left}" if left else self._instead
                raise ValueError(
                    f"{self.name} can't be read at {site}: {self.wrong[site]}. {instead}. {advice}"
                )

    @property
    def _instead(self):
        precise = "Load it with dtype=torch.float32, or use" if self.is_low else "Use"
        return f"{precise} another model"


@torch.inference_mode()
def examine(lm, prompts, names, ways, answer):
    """Try three ways to answer, the quickest first, until one is right.

    The second keeps a cache of each prompt of its own, the third has none.
    ``answer(prompts, sites, way, **options)`` gives responses, as `generation.generate` does.
    """
    name, eps = type(lm.model).__name__, torch.finfo(lm.model.dtype).eps
    allowed = most = max(1e-3, 20 * eps)  # what rounding alone may make of it in a deep model
    trials = _trials(prompts)
    checks, wrong = [], {}

    def note(check, of, difference, result=None):
        passed = difference <= allowed
        result = result or ("right" if passed else f"differs by {difference:.1%}")
        checks.append((check, of, difference, allowed, passed, result))
        return passed

    sites = SiteCheck(lm.model, allowed)
    try:
        with sites:
            logits = plain(lm, trials[0]).logits
    except Exception as error:
        if memory.is_out_of_memory(error):
            raise
        note("answers", "plain model", math.inf, _first_line(error))
        return Examination(name, None, {}, eps > _SINGLE, _table(checks))
    asked = [names[prompts.index(max(prompts, key=len))]] * len(trials)
    if not logits[0, -1].float().logsumexp(-1).isfinite():
        raise not_finite(lm, asked[0], ids=trials[0])
    for site, difference in sites.errors.items():
        note("adds up", site, difference, sites.wrong.get(site))
        if site in sites.wrong:
            wrong[site] = f"{sites.wrong[site]}, a difference of {difference:.1%}"
    readable = [site for site in sites.errors if site not in wrong]
    if eps > _SINGLE:
        # Rounding differs from model to model, and what is wrong may be no more than it is in some.
        # So it is measured: on prompts one at a time, each with a cache of its own.
        try:
            alone, by_site = _compare(lm, trials, asked, readable, ways[1], answer, batch_size=1)
            allowed = min(allowed, max(4 * eps, 2 * max([alone, *by_site.values()])))
        except Exception as error:  # of its own code: no such cache, so no such rounding
            if memory.is_out_of_memory(error):
                raise
            allowed = 4 * eps
    found = None
    for way in ways:
        if way == ways[-1]:
            allowed = most  # without any state, what is wrong is so by far
        try:
            logits, activations = _compare(lm, trials, asked, readable, way, answer)
        except Exception as error:  # whatever a model's own code raises in this way
            is_model = way == ways[-1] and isinstance(error, NotFiniteError)
            if is_model or memory.is_out_of_memory(error):
                raise
            note("answers", way, math.inf, _first_line(error))
            continue
        if note("answers", way, logits):
            found = way
            for site, difference in activations.items():
                if not note("activations", site, difference):
                    wrong[site] = f"its activations are not the plain model's, by {difference:.1%}"
            break
    return Examination(name, found, wrong, eps > _SINGLE, _table(checks))


def _table(checks):
    return pd.DataFrame(
        checks, columns=["check", "of", "difference", "allowed", "passed", "result"]
    )


def _first_line(error):
    return f"{type(error).__name__} {error}".strip().splitlines()[0][:200]


def _trials(prompts):
    """Three prompts that begin alike, of different lengths: one has one token more than that."""
    longest = max(prompts, key=len)
    ids = (longest * 8)[: max(8, min(len(longest), _LONGEST))]
    half = len(ids) // 2
    return [ids, ids[: half + 1], [*ids[:half], *ids[-2 : half - 1 : -1]]]


def _compare(lm, trials, names, sites, way, answer, batch_size=2):
    """Relative difference from the plain model: of logits, and {site: of activations}.

    Of the response that differs most its largest one, in low precision its median.
    """
    stop = 0  # said by nobody but for the first response, which ends early: others take its place
    seen = {}

    def choose(logits, indices, steps):
        chosen = logits.argmax(-1)
        for row, (i, step) in enumerate(zip(indices, steps, strict=True)):
            seen[i, step] = logits[row].clone()
            if i == 0 and step == 2:
                chosen[row] = stop
            elif chosen[row] == stop:
                chosen[row] = logits[row, 1:].argmax() + 1
        return chosen

    # In low precision a mixture of experts may take another expert for a token or two.
    low = torch.finfo(lm.model.dtype).eps > _SINGLE
    logits, activations = [], {site: [] for site in sites}
    how = {"max_new_tokens": _NEW, "batch_size": batch_size, "names": names}
    for response in answer(trials, sites, way, sample=choose, stop_ids=[stop], **how):
        prompt = trials[response.index]
        with Recorder(lm.model, sites, whole=True) as recorder:
            expected = plain(lm, [*prompt, *response.token_ids]).logits[0].float()
        theirs = expected[len(prompt) - 1 :]
        ours = torch.stack([seen[response.index, step] for step in range(len(theirs))])
        said = theirs.isfinite().all(0)  # tokens that are never said may be minus infinity
        spread = (theirs[:, said] - theirs[:, said].mean(-1, keepdim=True)).norm(dim=-1)
        error = (ours[:, said] - theirs[:, said]).norm(dim=-1) / spread
        logits.append(error.median() if low else error.max())
        for site in sites:
            theirs = recorder.latest(site)[0, :, len(prompt) - 1 :].transpose(0, 1).float()
            ours = response.activations[site].float()
            length = theirs.norm(dim=-1).clamp_min(1e-30)
            error = (ours - theirs).norm(dim=-1) / length  # (token, layer)
            activations[site].append(error.median() if low else error.max())
    return max(logits).item(), {site: max(found).item() for site, found in activations.items()}


def plain(lm, ids):
    """The unmodified model's output for one text, whole and without a cache."""
    accepted = parameters(type(lm.model).forward)
    options = {"use_cache": False} if "use_cache" in accepted else {}
    return lm.model(input_ids=torch.tensor([ids], device=lm.device), **options)


class NotFiniteError(ValueError):
    """A model computed NaN or infinity."""


def not_finite(lm, question, n_tokens=0, ids=None, block=None):
    """The error to raise where a model computes NaN or infinity, which would pass for an answer.

    `block` is the first one with such numbers; if it is not known, it is looked for in the text
    whose tokens are `ids`.
    """
    if block is None and ids is not None:
        block = _first_endless_block(lm, ids)
    where = "" if block is None else f" from decoder block {block} on,"
    dtype = lm.model.dtype
    advice = {
        torch.float16: "Load it with dtype=torch.bfloat16 or torch.float32, which go further.",
        torch.bfloat16: "Load it with dtype=torch.float32, which is more precise.",
    }.get(dtype, "Its weights do not fit its configuration, or this version of transformers.")
    return NotFiniteError(
        f"The model computes NaN or infinity in {dtype} at question {arguments.shown(question)}, "
        f"{n_tokens} tokens into its response,{where} so what it says means nothing. {advice}"
    )


def _first_endless_block(lm, ids):
    endless = []

    def note(layer, module, args, output):
        if not first_tensor(output).isfinite().all():
            endless.append(layer)

    handles = [
        block.register_forward_hook(functools.partial(note, layer))
        for layer, block in enumerate(decoder_blocks(lm.model))
    ]
    try:
        plain(lm, ids)
    finally:
        for handle in handles:
            handle.remove()
    return min(endless, default=None)


@functools.cache
def parameters(forward):
    """Names of a function's parameters."""
    return frozenset(inspect.signature(forward).parameters)
