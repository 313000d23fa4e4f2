"""Generate responses and capture activations in the same pass.

Every activation that the probes need exists while the model generates, so nothing is computed
twice: the prompts' common beginning (a chat template is much of a short question's prompt) goes
through the model once; the rest of a prompt gives the activation of its last token; each token of
the response gives its own when it is fed back to get the next one.

Rows of a batch are aligned at their last token. One that has ended leaves the batch and another
prompt takes its place, so the batch stays full to the end; prompts of one length are read
together, so no prompt is ever padded.
"""

import copy
import math
import os
import weakref
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import DynamicCache
from transformers.cache_utils import (
    Cache,
    DummyLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionLayer,
)

from probekit import arguments
from probekit.extraction.models import LanguageModel
from probekit.extraction.self_test import examine, not_finite, parameters
from probekit.extraction.sites import Recorder

#: Ways to answer, the quickest first: from a shared beginning, if what a model keeps of it can be
#: handed on; each prompt from its first token; for each token the whole text, without a cache, of
#: models that keep their state elsewhere.
WAYS = SHARED, OWN, WHOLE = "shared prefix", "no shared prefix", "whole texts"
_EXAMINED = weakref.WeakKeyDictionary()  # what came out, by the model
# What transformers' models call their cache, and their layers of recurrence their states.
_CACHES = "past_key_values", "cache_params"
_STATES = "conv_states", "recurrent_states"
_KNOWN = DynamicLayer, LinearAttentionLayer, LinearAttentionAndFullAttentionLayer, DummyLayer
_ROWS = 32  # that are read together where a text is read by many
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
    entropies: np.ndarray  # (token,): of the model's distribution at each, in nats


def common_prefix(prompts):
    """Length of the token sequence that all prompts begin with, short of any whole prompt."""
    shared = os.path.commonprefix(prompts)  # noqa: RUF071, lists, not folders
    return min(len(shared), min(map(len, prompts)) - 1)


def generate(lm, prompts, sites, *, prefix=None, names=None, **options):
    """Answer prompts and capture the activations of the responses, in one pass.

    The model is examined first, once: a ValueError is raised if it can't be answered or read so.
    Whenever a token has been chosen, ``on_token(index, token_ids, activations)`` is called, if
    given: of which prompt, the response so far, and {site: (layer, feature)} of the token before
    the chosen one, which is the prompt's last at first.
    """
    names = names or range(len(prompts))
    examined(lm, prompts, names).refuse(sites)
    prefix = prefix or CachedPrefix(lm, prompts)
    yield from _answer(lm, prompts, sites, prefix, names=names, **options)


@torch.inference_mode()
def _answer(
    lm,
    prompts,
    sites,
    prefix,
    *,
    max_new_tokens,
    batch_size,
    sample=None,
    stop_ids=None,
    on_token=None,
    names,
):
    # The longest are read first, so that the batch gets narrower with time, not wider.
    waiting = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    stops = torch.tensor(sorted(stop_ids or lm.stop_ids), device=lm.device)
    # If all fit, all are read first.
    refill = _REFILL * batch_size if len(prompts) > batch_size else 1
    batch_size = min(batch_size, len(prompts))
    with Recorder(lm.model, sites) as recorder:
        rows = _Rows(batch_size, max(map(len, prompts)), max_new_tokens, len(prompts))
        rows.error = lambda row: not_finite(lm, names[row.index], len(row.token_ids), ids=row.text)
        while waiting or len(rows):
            while waiting and (free := batch_size - len(rows)) >= refill:
                if prefix.way == WHOLE and len(rows):
                    break  # texts of one length at a time
                length = len(prompts[waiting[-1]])
                group = []
                while waiting and len(group) < free and len(prompts[waiting[-1]]) == length:
                    group.append(waiting.pop())
                logits, cache = prefix.read(lm, [prompts[i] for i in group])
                rows.enter(group, prompts, cache, recorder)
                yield from rows.advance(logits, stops, sample, first=len(rows) - len(group))
            if on_token is not None:
                rows.tell(on_token)
            if len(rows):
                logits = rows.forward(lm)
                rows.record(recorder)
                yield from rows.advance(logits, stops, sample)


def examined(lm, prompts=(), names=()):
    """What `self_test.examine` finds out of this model, with these prompts or one of its own."""
    if lm.model not in _EXAMINED:
        if not prompts:
            names = ["In which country is the city of Oslo?"]
            prompts = [lm.tokenize(lm.prompt(names[0]))]

        def answer(trials, sites, way, **options):
            prefix = CachedPrefix(lm, trials, way)
            return _answer(lm, trials, sites, prefix, **options)

        names = names or range(len(prompts))
        _EXAMINED[lm.model] = examine(lm, prompts, names, WAYS, answer)
    return _EXAMINED[lm.model]


def check_model(lm):
    """Compare how a model is answered and read here with the plain model, on short prompts.

    What `extract` does before its first question, as a table. The plain model reads a whole text,
    alone and without a cache.

    Parameters
    ----------
    lm : LanguageModel

    Returns
    -------
    DataFrame
        One row a comparison. `check` is "adds up" (what is read at a site is what the block adds
        to its residual stream, or what its down-projection takes), "answers" (logits, in each of
        the ways to answer, the quickest first, until one is right), or "activations" (in that
        way, from the prompt's last token on); `of` is the site or the way; `difference` is the
        relative one, of the answer that differs most: its largest, in low precision its median;
        `allowed` is what rounding may make of it; `passed` is True or False; `result` says it in
        words. A site that does not pass can't be asked for; a model without a way that passes
        can't be used.

    Raises
    ------
    ValueError
        If the model has no list of decoder blocks, or computes NaN or infinity.

    Examples
    --------
    >>> import probekit as pk
    >>> checks = pk.check_model(pk.load_model("smollm2"))
    >>> checks[["check", "of", "passed"]]
             check             of  passed
    0      adds up        mlp_out    True
    1      adds up       attn_out    True
    2      adds up     resid_post    True
    3      adds up        mlp_act    True
    4      answers  shared prefix    True
    5  activations        mlp_out    True
    6  activations       attn_out    True
    7  activations     resid_post    True
    8  activations        mlp_act    True
    """
    arguments.instance("lm", lm, LanguageModel, "from load_model")
    return examined(lm).checks.copy()


def said_logprobs(lm, prefix, text, keep, rows, change):
    """Log-probabilities of the last `keep` tokens of a text, (row, keep), in one pass.

    The `prefix` is read once, as it is; the `text` after it by `rows` rows alike, within
    ``change(first, stop)``, a context manager for a batch of these rows.
    """
    ids = torch.tensor([text[:-1]], device=lm.device)
    said = torch.tensor(text[-keep:], device=lm.device)
    found = []
    with torch.inference_mode():
        cache = None
        if prefix:
            before = torch.tensor([prefix], device=lm.device)
            cache = _empty_cache(lm)
            positions = torch.arange(len(prefix))[None]
            _forward(lm, before, cache, torch.ones_like(before), positions)
        for first in range(0, rows, _ROWS):
            n = min(_ROWS, rows - first)
            own = _empty_cache(lm) if cache is None else _repeated(cache, n)
            total = len(prefix) + ids.shape[1]
            positions = torch.arange(len(prefix), total)[None].expand(n, -1)
            mask = torch.ones(n, total, dtype=torch.long)
            with change(first, first + n):
                logits = _forward(lm, ids.expand(n, -1), own, mask, positions, keep)
            logprobs = logits.float().log_softmax(-1)
            found.append(logprobs[:, torch.arange(keep), said].cpu())
    return torch.cat(found)


def answered_alike(lm, prompt, rows, change, max_new_tokens):
    """Likeliest answers of some rows to one prompt: a list of token ids each.

    The prompt but for its last token is read once, as it is; the rest within `change`, a context
    manager in which the model computes something else in each row.
    """
    stops = torch.tensor(sorted(lm.stop_ids), device=lm.device)
    responses, going = [[] for _ in range(rows)], torch.ones(rows, dtype=torch.bool)
    with torch.inference_mode():
        before, cache = torch.tensor([prompt[:-1]], device=lm.device), _empty_cache(lm)
        length = len(prompt) - 1
        if length:
            _forward(lm, before, cache, torch.ones_like(before), torch.arange(length)[None])
            cache = _repeated(cache, rows)
        ids = torch.full((rows, 1), prompt[-1], device=lm.device)
        with change:
            for _ in range(max_new_tokens):
                mask = torch.ones(rows, length + 1, dtype=torch.long)
                logits = _forward(lm, ids, cache, mask, torch.full((rows, 1), length))
                ids, length = logits.argmax(-1, keepdim=True), length + 1
                going &= ~torch.isin(ids[:, 0], stops).cpu()
                for row in torch.nonzero(going)[:, 0].tolist():
                    responses[row].append(int(ids[row]))
                if not going.any():
                    break
    return responses


class CachedPrefix:
    """Keys, values and states of the prompts' common beginning, computed once."""

    def __init__(self, lm, prompts, way=None):
        self.way = way or examined(lm, prompts).way
        self.length = common_prefix(prompts) if self.way == SHARED else 0
        self.cache = None
        if self.length:
            ids = torch.tensor([prompts[0][: self.length]], device=lm.device)
            self.cache = _empty_cache(lm)
            with torch.inference_mode():
                _forward(lm, ids, self.cache, torch.ones_like(ids), torch.arange(self.length)[None])

    def read(self, lm, prompts):
        """Logits (rows, vocabulary) and cache of prompts of one length, read from its end on."""
        ids = torch.tensor([prompt[self.length :] for prompt in prompts], device=lm.device)
        cache = None
        if self.way != WHOLE:
            cache = _repeated(self.cache, len(ids)) if self.length else _empty_cache(lm)
        total = self.length + ids.shape[1]
        mask = torch.ones(len(prompts), total, dtype=torch.long)
        positions = torch.arange(self.length, total)[None].expand(len(prompts), -1)
        return _forward(lm, ids, cache, mask, positions), cache


def _forward(lm, ids, cache, mask=None, positions=None, keep=None):
    """Logits (rows, vocabulary) of the token after the last one; of the last `keep` if given."""
    accepted = parameters(type(lm.model).forward)
    options = {"logits_to_keep": keep or 1, "use_cache": cache is not None}
    if cache is not None:
        # Models of recurrence alone call it by another name.
        name = next((name for name in _CACHES if name in accepted), None)
        if name is None:
            raise TypeError("it takes no cache")
        options[name] = cache
        options["position_ids"] = positions.to(lm.device)
        if any(isinstance(layer, DynamicLayer) for layer in cache.layers):
            options["attention_mask"] = mask.to(lm.device)
    options = {name: value for name, value in options.items() if name in accepted}
    logits = lm.model(input_ids=ids, **options).logits
    return logits[:, -1] if keep is None else logits[:, -keep:]


def _empty_cache(lm):
    """A model's cache, of which all layers keep all tokens, so that rows can be aligned in it."""
    cache = DynamicCache(config=lm.model.config)
    for i, layer in enumerate(cache.layers):
        if isinstance(layer, LinearAttentionAndSlidingWindowAttentionLayer):
            cache.layers[i] = LinearAttentionAndFullAttentionLayer(layer.number_of_states)
        elif isinstance(layer, DynamicSlidingWindowLayer):
            cache.layers[i] = DynamicLayer()
        elif type(layer) not in _KNOWN:
            raise TypeError(f"its cache has layers of the kind {type(layer).__name__}")
    return cache


def _repeated(cache, n):
    """A cache of one row, for n rows: keys and values are views, states, which change, copies."""
    layers = [copy.copy(layer) for layer in cache.layers]
    for layer in layers:
        if getattr(layer, "keys", None) is not None:
            layer.keys = layer.keys.expand(n, -1, -1, -1)
            layer.values = layer.values.expand(n, -1, -1, -1)
        for name in _STATES if isinstance(layer, LinearAttentionLayer) else ():
            states = getattr(layer, name)
            kept = {i: t if t is None else t.repeat_interleave(n, 0) for i, t in states.items()}
            setattr(layer, name, kept)
    return Cache(layers=layers)


def _tensors(cache):
    """Keys and values of a cache's layers, each (rows, heads, tokens, feature)."""
    layers = [layer for layer in cache.layers if getattr(layer, "keys", None) is not None]
    return [tensor for layer in layers for tensor in (layer.keys, layer.values)]


def _states(cache):
    """Where a cache's layers of recurrence keep their states: a dict, and the key in it."""
    layers = [layer for layer in cache.layers if isinstance(layer, LinearAttentionLayer)]
    places = [getattr(layer, name) for layer in layers for name in _STATES]
    return [(place, i) for place in places for i, state in place.items() if state is not None]


class _AlignedLayer(DynamicLayer):
    """One layer's keys and values of all rows, aligned at their last token, never copied to grow.

    transformers' own layer makes a new tensor for every token; this one writes into room kept for
    it, and moves everything to the front when the room is used up.
    """

    def __init__(self, rows, **options):
        super().__init__(**options)
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


class _AlignedHybridLayer(_AlignedLayer, LinearAttentionAndFullAttentionLayer):
    """The same of a layer that has states of recurrence too."""


class _Rows:
    """The rows of the batch: keys, values, states, tokens and activations so far."""

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
        self.states = []  # (dict and key of a layer's state, (slot, ...) of all rows)
        self.buffers = {}  # site: (slot, 1 + token, layer, feature)
        self.free_slots = list(range(capacity))
        self.scratch = None  # (row, vocabulary)

    def __len__(self):
        return len(self.responses)

    @property
    def width(self):
        """Tokens that the row with the most of them has in the cache."""
        return max((row.length for row in self.responses), default=0)

    def enter(self, group, prompts, cache, recorder):
        """Take in prompts of one length that have just been read."""
        start, stop = len(self), len(self) + len(group)
        length = len(prompts[group[0]])
        if cache is not None:
            if self.cache is None:
                self._make_room(cache)
            for kept, read in zip(_tensors(self.cache), _tensors(cache), strict=True):
                kept[start:stop, :, self.end - length : self.end] = read
                # What lies before is masked, but must be finite.
                kept[start:stop, :, : self.end - length] = 0
            for (*_, kept), (place, i) in zip(self.states, _states(cache), strict=True):
                kept[start:stop] = place[i]
        self.responses += [_Row(i, length, self.free_slots.pop(), prompts[i]) for i in group]
        self.record(recorder, first=start)

    def _make_room(self, cache):
        """A cache for all rows, of layers like those of `cache`."""
        layers = []
        for layer in cache.layers:
            own = layer
            if isinstance(layer, LinearAttentionLayer):
                own = copy.copy(layer)
                if isinstance(layer, DynamicLayer):
                    own = _AlignedHybridLayer(self, number_of_states=layer.number_of_states)
                    kept = vars(LinearAttentionLayer(layer.number_of_states))
                    vars(own).update({name: vars(layer)[name] for name in kept})
                for name in _STATES:
                    setattr(own, name, dict(getattr(layer, name)))
            elif getattr(layer, "keys", None) is not None:
                own = _AlignedLayer(self)
            layers.append(own)
        self.cache = Cache(layers=layers)
        self._allocate(cache)
        for place, i in _states(self.cache):
            shape = self.capacity, *place[i].shape[1:]
            self.states.append((place, i, place[i].new_empty(shape)))

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
        aligned = [layer for layer in self.cache.layers if isinstance(layer, _AlignedLayer)]
        for i, layer in enumerate(aligned):
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
        if self.cache is None:  # whole texts, all of one length
            ids = torch.tensor([row.text for row in self.responses], device=lm.device)
            return _forward(lm, ids, None)
        if self.end == self.room:  # everything moves to the front
            before = slice(self.end - self.width, self.end)
            for kept in _tensors(self.cache):
                moved = kept[: len(self), :, before].clone()
                kept[: len(self), :, self.longest - self.width : self.longest] = moved
            self.end = self.longest
        lengths = torch.tensor([row.length for row in self.responses])
        width = self.width
        mask = (torch.arange(width + 1) >= width - lengths[:, None]).long()
        ids = torch.tensor([row.token_ids[-1:] for row in self.responses], device=lm.device)
        for place, i, kept in self.states:
            place[i] = kept[: len(self)]
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
        if self.scratch is None or len(self.scratch) < len(rows):
            self.scratch = torch.empty_like(logits)
        odds = torch.exp(logits, out=self.scratch[: len(rows)])
        total = odds.sum(-1)
        gained = (gained - total.log()).tolist()
        # Of a token that is never said, which has a logit of -inf, no part is taken.
        mean = odds.mul_(logits.clamp_min_(-1e4)).sum(-1) / total
        entropies = (total.log_() - mean).clamp_min_(0).tolist()
        chosen = chosen[:, 0]
        stopped = torch.isin(chosen, stops.to(chosen.device)).tolist()
        ended = set()
        each = zip(rows, chosen.tolist(), stopped, gained, entropies, strict=True)
        for row, token, stop, logprob, entropy in each:
            # The logarithm of the sum is NaN if one logit is NaN or infinite, or all are -inf; some
            # that are -inf stand for tokens that are never said.
            if math.isnan(logprob):
                raise self.error(row)
            if stop or len(row.token_ids) == self.max_new_tokens:
                ended.add(row)
                kept = slice(1 + len(row.token_ids))
                activations = {site: b[row.slot, kept].clone() for site, b in self.buffers.items()}
                said = (np.array(n, np.float32) for n in (row.logprobs, row.entropies))
                logprobs, entropies = said
                yield Response(row.index, row.token_ids, logprobs, stop, activations, entropies)
            else:
                row.token_ids.append(token)
                row.logprobs.append(logprob)
                row.entropies.append(entropy)
        if ended:
            self._drop(ended)

    def tell(self, on_token):
        """Tell of each row what it has said, and what has just been read of it."""
        for row in self.responses:
            step = len(row.token_ids) - 1
            read = {site: b[row.slot, step].clone() for site, b in self.buffers.items()}
            on_token(row.index, [*row.token_ids], read)

    def _drop(self, ended):
        """Let rows leave; the last rows take their places, so that the others can stay."""
        self.free_slots += [row.slot for row in ended]
        left = len(self) - len(ended)
        holes = [i for i, row in enumerate(self.responses[:left]) if row in ended]
        movers = [i for i, row in enumerate(self.responses[left:], start=left) if row not in ended]
        window = slice(max(0, self.end - self.width), self.end)
        if holes:
            for kept in _tensors(self.cache) if self.cache else ():
                kept[holes, :, window] = kept[movers, :, window]
            for *_, kept in self.states:
                kept[holes] = kept[movers]
            for hole, mover in zip(holes, movers, strict=True):
                self.responses[hole] = self.responses[mover]
        del self.responses[left:]


@dataclass(eq=False)
class _Row:
    """One response in the making."""

    index: int
    length: int  # tokens in the cache
    slot: int  # in the activation buffers
    prompt: list
    token_ids: list = field(default_factory=list)
    logprobs: list = field(default_factory=list)
    entropies: list = field(default_factory=list)

    @property
    def text(self):
        """Token ids of all that it has been given and has said."""
        return [*self.prompt, *self.token_ids]


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
        shares, tokens = (logits / self.temperature).softmax(-1).sort(descending=True, stable=True)
        reached = shares.cumsum(-1)
        # The likeliest tokens that together have `top_p`: at least one.
        shares = shares.masked_fill(reached - shares >= self.top_p, 0)
        reached = shares.cumsum(-1)
        keys = [np.array([self.seed, self.first + i], dtype=np.uint64) for i in indices]
        counters = (np.random.Philox(counter=s, key=k) for s, k in zip(steps, keys, strict=True))
        drawn = reached.new_tensor([np.random.Generator(c).random() for c in counters])
        place = torch.searchsorted(reached, (drawn * reached[:, -1])[:, None], right=True)
        return tokens.gather(-1, place.clamp_max(reached.shape[1] - 1))[:, 0]
