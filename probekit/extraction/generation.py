"""Generate responses and capture activations in the same pass.

Every activation that the probes need exists while the model generates, so nothing is computed
twice: the prompts' common beginning (a chat template is much of a short question's prompt) goes
through the model once; the rest of a prompt gives the activation of its last token; each token of
the response gives its own when it is fed back to get the next one.

Rows of a batch are aligned at their last token. One that has ended leaves the batch and another
prompt takes its place, so the batch stays full to the end; prompts of one length are read
together, so no prompt is ever padded.
"""

import functools
import inspect
import math
import os
import weakref
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from probekit import arguments
from probekit.extraction.sites import Recorder

# New prompts are read when this share of the rows is free: few at a time are slow to read.
_REFILL = 0.25


@dataclass(frozen=True)
class Response:
    """What the model made of one prompt."""

    index: int  # which prompt, counted from 0
    token_ids: list  # without the one that ended the response
    logprobs: np.ndarray  # (token,): the log-probability that the model gave to each
    finished: bool  # whether the model ended its turn itself, before `max_new_tokens`
    activations: dict  # {site: (1 + token, layer, feature)}, the prompt's last token first


def common_prefix(prompts):
    """Length of the token sequence that all prompts begin with, short of any whole prompt."""
    shared = os.path.commonprefix(prompts)  # noqa: RUF071, lists, not folders
    return min(len(shared), min(map(len, prompts)) - 1)


@torch.inference_mode()
def generate(
    lm,
    prompts,
    sites,
    *,
    max_new_tokens,
    batch_size,
    prefix=None,
    sample=None,
    stop_ids=None,
    names=None,
):
    """Answer prompts and capture the activations of the responses, in one pass."""
    prefix = prefix or CachedPrefix(lm, prompts)
    # The longest are read first, so that the batch gets narrower with time, not wider.
    waiting = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    stops = torch.tensor(sorted(stop_ids or lm.stop_ids), device=lm.device)
    # If all fit, all are read first.
    refill = _REFILL * batch_size if len(prompts) > batch_size else 1
    batch_size = min(batch_size, len(prompts))
    with Recorder(lm.model, sites) as recorder:
        rows = _Rows(batch_size, max(map(len, prompts)), max_new_tokens, len(prompts))
        names = names or range(len(prompts))
        rows.error = lambda row: not_finite(lm, names[row.index], len(row.token_ids))
        while waiting or len(rows):
            while waiting and (free := batch_size - len(rows)) >= refill:
                length = len(prompts[waiting[-1]])
                group = []
                while waiting and len(group) < free and len(prompts[waiting[-1]]) == length:
                    group.append(waiting.pop())
                logits, cache = prefix.read(lm, [prompts[i] for i in group])
                rows.enter(group, length, cache, recorder)
                yield from rows.advance(logits, stops, sample, first=len(rows) - len(group))
            if len(rows):
                logits = rows.forward(lm)
                rows.record(recorder)
                yield from rows.advance(logits, stops, sample)


def not_finite(lm, question, n_tokens=0):
    """The error to raise where a model computes NaN or infinity, which would pass for an answer."""
    dtype = lm.model.dtype
    advice = {
        torch.float16: "Load it with dtype=torch.bfloat16 or torch.float32, which overflow later.",
        torch.bfloat16: "Load it with dtype=torch.float32, which is more precise.",
    }.get(dtype, "Its weights do not fit its configuration, or this version of transformers.")
    return ValueError(
        f"The model computes NaN or infinity in {dtype} at question {arguments.shown(question)}, "
        f"{n_tokens} tokens into its response, so what it says means nothing. {advice}"
    )


class CachedPrefix:
    """Keys and values of the prompts' common beginning, computed once."""

    def __init__(self, lm, prompts):
        self.length = common_prefix(prompts)
        self.layers = []
        if self.length:
            ids = torch.tensor([prompts[0][: self.length]], device=lm.device)
            cache = DynamicCache()
            with torch.inference_mode():
                _forward(lm, ids, cache, torch.ones_like(ids), torch.arange(self.length)[None])
            self.layers = [(layer.keys, layer.values) for layer in cache.layers]

    def read(self, lm, prompts):
        """Logits (rows, vocabulary) and cache of prompts of one length, read from its end on."""
        ids = torch.tensor([prompt[self.length :] for prompt in prompts], device=lm.device)
        cache = DynamicCache()
        for i, (keys, values) in enumerate(self.layers):
            rows = (len(prompts), -1, -1, -1)
            cache.update(keys.expand(rows), values.expand(rows), i)
        total = self.length + ids.shape[1]
        mask = torch.ones(len(prompts), total, dtype=torch.long, device=lm.device)
        positions = torch.arange(self.length, total)[None].expand(len(prompts), -1)
        return _forward(lm, ids, cache, mask, positions), cache


def _forward(lm, ids, cache, mask, positions):
    """Logits (rows, vocabulary) of the token after the last one."""
    options = {"position_ids": positions.to(lm.device), "logits_to_keep": 1}
    accepted = _parameters(type(lm.model).forward)
    options = {name: value for name, value in options.items() if name in accepted}
    output = lm.model(
        input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **options
    )
    return output.logits[:, -1]


def _tensors(cache):
    """Keys and values of a cache's layers, each (rows, heads, tokens, feature)."""
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]


@functools.cache
def _parameters(forward):
    return frozenset(inspect.signature(forward).parameters)


class _AlignedLayer(DynamicLayer):
    """One layer's keys and values of all rows, aligned at their last token, never copied to grow.

    transformers' own layer makes a new tensor for every token; this one writes into room kept for
    it, and moves everything to the front when the room is used up.
    """

    def __init__(self, rows):
        super().__init__()
        # No cycle: all that a shard's rows hold is to be free before the next shard's are made.
        self.rows = weakref.proxy(rows)
        self.is_initialized = True

    def update(self, key_states, value_states, *args, **kwargs):
        rows, end = self.rows, self.rows.end
        self.keys[: len(rows), :, end] = key_states[:, :, 0]
        self.values[: len(rows), :, end] = value_states[:, :, 0]
        window = (slice(len(rows)), slice(None), slice(end - rows.width, end + 1))
        return self.keys[window], self.values[window]

    def get_seq_length(self):
        return self.rows.width

    def get_mask_sizes(self, query_length):
        return self.rows.width + query_length, 0


class _Rows:
    """The rows of the batch: their keys and values, their tokens, their activations so far."""

    def __init__(self, capacity, longest_prompt, max_new_tokens, total):
        self.capacity = capacity
        self.max_new_tokens = max_new_tokens
        self.longest = longest_prompt + max_new_tokens
        # If rows are to follow, twice what is needed: moving everything to the front is then rare.
        self.room = self.longest if total <= capacity else 2 * self.longest
        self.end = longest_prompt  # where the next token's keys and values go, in all rows
        self.responses = []  # of the rows, in their order
        self.error = None  # of a row whose logits are not finite
        self.cache = None
        self.buffers = {}  # site: (slot, 1 + token, layer, feature)
        self.free_slots = list(range(capacity))

    def __len__(self):
        return len(self.responses)

    @property
    def width(self):
        """Tokens that the row with the most of them has in the cache."""
        return max((row.length for row in self.responses), default=0)

    def enter(self, group, length, cache, recorder):
        """Take in prompts that have just been read."""
        start, stop = len(self), len(self) + len(group)
        if self.cache is None:
            self.cache = Cache(layers=[_AlignedLayer(self) for _ in cache.layers])
            self._allocate(cache)
        for kept, read in zip(_tensors(self.cache), _tensors(cache), strict=True):
            kept[start:stop, :, self.end - length : self.end] = read
            # What lies before is masked, but must be finite.
            kept[start:stop, :, : self.end - length] = 0
        self.responses += [_Row(index, length, self.free_slots.pop()) for index in group]
        self.record(recorder, first=start)

    def _allocate(self, cache):
        """Room for the keys and values of all layers, like those in `cache`.

        One piece of memory a device, which goes back to the system as a whole: pieces by layer are
        small enough for the heap to keep, and what is left of them between other things adds up.
        What is never written to is never taken.
        """
        like = _tensors(cache)
        shapes = [(self.capacity, t.shape[1], self.room, t.shape[3]) for t in like]
        views = {}
        for device in {tensor.device for tensor in like}:
            here = [i for i, tensor in enumerate(like) if tensor.device == device]
            sizes = [math.prod(shapes[i]) for i in here]
            pieces = like[here[0]].new_empty(sum(sizes)).split(sizes)
            views |= {i: piece.view(shapes[i]) for i, piece in zip(here, pieces, strict=True)}
        for i, layer in enumerate(self.cache.layers):
            layer.keys, layer.values = views[2 * i], views[2 * i + 1]

    def record(self, recorder, first=0):
        """Keep what the latest pass showed of the rows from `first` on."""
        rows = self.responses[first:]
        slots, steps = [row.slot for row in rows], [len(row.token_ids) for row in rows]
        for site in recorder.sites:
            latest = recorder.latest(site)
            if site not in self.buffers:
                shape = (self.capacity, self.max_new_tokens + 1, *latest.shape[1:])
                self.buffers[site] = latest.new_empty(shape)
            self.buffers[site][slots, steps] = latest

    def forward(self, lm):
        """Feed every row's last token; return the logits of the next, (rows, vocabulary)."""
        if self.end == self.room:  # everything moves to the front
            before = slice(self.end - self.width, self.end)
            for kept in _tensors(self.cache):
                moved = kept[: len(self), :, before].clone()
                kept[: len(self), :, self.longest - self.width : self.longest] = moved
            self.end = self.longest
        lengths = torch.tensor([row.length for row in self.responses])
        width = self.width
        mask = (torch.arange(width + 1) >= width - lengths[:, None]).long().to(lm.device)
        ids = torch.tensor([row.token_ids[-1:] for row in self.responses], device=lm.device)
        logits = _forward(lm, ids, self.cache, mask, lengths[:, None])
        self.end += 1
        for row in self.responses:
            row.length += 1
        return logits

    def advance(self, logits, stops, sample, first=0):
        """Choose the next tokens of rows from `first` on; yield those that end, and drop them."""
        rows = self.responses[first:]
        logits = logits.float()
        highest, chosen = logits.max(-1, keepdim=True)
        if sample is not None:
            steps = [len(row.token_ids) for row in rows]
            chosen = sample(logits, [row.index for row in rows], steps)[:, None]
        # In place: a new tensor of this size takes longer to get than to fill.
        logits.sub_(highest)
        gained = logits.gather(-1, chosen)[:, 0]
        gained = (gained - logits.exp_().sum(-1).log_()).tolist()
        chosen = chosen[:, 0]
        stopped = torch.isin(chosen, stops).tolist()
        ended = set()
        for row, token, stop, logprob in zip(rows, chosen.tolist(), stopped, gained, strict=True):
            # The logarithm of the sum is NaN if one logit is NaN or infinite, or all are -inf; some
            # that are -inf stand for tokens that are never said.
            if math.isnan(logprob):
                raise self.error(row)
            if stop or len(row.token_ids) == self.max_new_tokens:
                ended.add(row)
                kept = slice(1 + len(row.token_ids))
                activations = {site: b[row.slot, kept].clone() for site, b in self.buffers.items()}
                logprobs = np.array(row.logprobs, dtype=np.float32)
                yield Response(row.index, row.token_ids, logprobs, stop, activations)
            else:
                row.token_ids.append(token)
                row.logprobs.append(logprob)
        if ended:
            self._drop(ended)

    def _drop(self, ended):
        """Let rows leave; the last rows take their places, so that the others can stay."""
        self.free_slots += [row.slot for row in ended]
        left = len(self) - len(ended)
        holes = [i for i, row in enumerate(self.responses[:left]) if row in ended]
        movers = [i for i, row in enumerate(self.responses[left:], start=left) if row not in ended]
        window = slice(max(0, self.end - self.width), self.end)
        if holes:
            for kept in _tensors(self.cache):
                kept[holes, :, window] = kept[movers, :, window]
            for hole, mover in zip(holes, movers, strict=True):
                self.responses[hole] = self.responses[mover]
        del self.responses[left:]


@dataclass(eq=False)
class _Row:
    """One response in the making."""

    index: int
    length: int  # tokens in the cache
    slot: int  # in the activation buffers
    token_ids: list = field(default_factory=list)
    logprobs: list = field(default_factory=list)


@dataclass(frozen=True)
class Sampler:
    """Nucleus sampling (Holtzman et al. 2020) with one random number per question and token.

    The numbers come from a counter-based generator, so a response is the same in a batch of any
    size and in a run that was interrupted.
    """

    temperature: float
    top_p: float
    seed: int
    first: int = 0  # number of the example that the prompts begin with

    def __call__(self, logits, indices, steps):
        """Draw the next token of each row, (rows,), from logits (rows, vocabulary)."""
        shares, tokens = (logits / self.temperature).softmax(-1).sort(descending=True)
        reached = shares.cumsum(-1)
        # The likeliest tokens that together have `top_p`: at least one.
        shares = shares.masked_fill(reached - shares >= self.top_p, 0)
        reached = shares.cumsum(-1)
        keys = [np.array([self.seed, self.first + i], dtype=np.uint64) for i in indices]
        counters = (np.random.Philox(counter=s, key=k) for s, k in zip(steps, keys, strict=True))
        drawn = reached.new_tensor([np.random.Generator(c).random() for c in counters])
        place = torch.searchsorted(reached, (drawn * reached[:, -1])[:, None], right=True)
        return tokens.gather(-1, place.clamp_max(reached.shape[1] - 1))[:, 0]
