"""Change what a model computes at one site of one block, while it runs."""

from functools import partial

import torch

from probekit.extraction.sites import (
    _computed,
    check_sites,
    decoder_blocks,
    find_sites,
    first_tensor,
)


class Steering:
    """Changes the activations of a site in one block. A context manager, as `Recorder` is.

    `change` takes activations (row, token, feature) and gives them as they are to be. With `last`,
    only those of the last position of each pass are changed: in generation, these are the prompt's
    last token and every generated one.
    """

    def __init__(self, model, site, layer, change, last=False):
        check_sites(model, [site])
        blocks = decoder_blocks(model)
        self.module, self.side = find_sites(blocks[layer])[site]
        self.model, self.change, self.last = model, change, last
        self._shape, self._handles = None, []

    def __enter__(self):
        measure = partial(self.model.register_forward_pre_hook, with_kwargs=True)
        self._handles = [measure(self._measure)]
        if self.side == "input":
            hook = self.module.register_forward_pre_hook(self._before, with_kwargs=True)
        else:
            hook = self.module.register_forward_hook(self._after, with_kwargs=True)
        self._handles.append(hook)
        return self

    def __exit__(self, *exception):
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _measure(self, model, args, kwargs):
        self._shape = first_tensor((args, kwargs)).shape[:2]

    def _added(self, x):
        """What has to be added to activations for them to be as they are to be."""
        # Experts may get and give all rows' tokens one after the other.
        rows = x.reshape(self._shape[0], -1, x.shape[-1])
        added = torch.zeros_like(rows)
        where = slice(-1, None) if self.last else slice(None)
        added[:, where] = self.change(rows[:, where]).to(rows.dtype) - rows[:, where]
        return added.reshape(x.shape)

    def _before(self, module, args, kwargs):
        x = first_tensor((args, kwargs))
        return _with_first((args, kwargs), x, x + self._added(x))

    def _after(self, module, args, kwargs, output):
        added = self._added(_computed(module, args, kwargs, output))
        first = first_tensor(output)
        return _with_first(output, first, first + added)


def _with_first(value, old, new):
    """The same with one tensor in place of another; of a list, tuple or dict, a new one."""
    if value is old:
        return new
    if isinstance(value, tuple):
        parts = [_with_first(each, old, new) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, list):
        return [_with_first(each, old, new) for each in value]
    if isinstance(value, dict):  # transformers' outputs are dicts too
        changed = {name: _with_first(each, old, new) for name, each in value.items()}
        return type(value)(**changed) if type(value) is not dict else changed
    return value
