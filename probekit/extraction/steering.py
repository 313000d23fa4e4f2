"""Change what a model computes at one site of one block, while it runs."""

import torch

from probekit.extraction.sites import (
    Hooked,
    _computed,
    check_sites,
    decoder_blocks,
    find_sites,
    first_tensor,
)


class Steering(Hooked):
    """Changes the activations of a site in one block.

    `change` takes activations (row, token, feature) and gives them as they are to be.
    """

    def __init__(self, model, site, layer, change):
        super().__init__(model)
        check_sites(model, [site])
        self.module, self.side = find_sites(decoder_blocks(model)[layer])[site]
        self.change = change

    def _hook(self):
        if self.side == "input":
            hook = self.module.register_forward_pre_hook(self._before, with_kwargs=True)
        else:
            hook = self.module.register_forward_hook(self._after, with_kwargs=True)
        self._handles.append(hook)

    def _added(self, x):
        """What has to be added to activations for them to be as they are to be."""
        # Experts may give all rows' tokens one after the other, and Reformer puts more behind them.
        rows, tokens = self._shape
        whole = x.reshape(rows, -1, x.shape[-1])
        added = torch.zeros_like(whole)
        part = whole[:, :tokens]
        added[:, :tokens] = self.change(part).to(part.dtype) - part
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
