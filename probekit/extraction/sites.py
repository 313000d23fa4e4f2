"""The places in a decoder block whose activations can be read, found from its structure."""

import inspect
from collections.abc import Mapping
from functools import partial

import torch
from torch import nn

from probekit import arguments

#: Names of the sites, the published figure's choice first.
SITES = ("mlp_out", "attn_out", "resid_post", "mlp_act")


def decoder_blocks(model):
    """The model's decoder blocks, in order.

    They are the outermost module list that is as long as the configuration says the model is deep.
    """
    depth = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise ValueError(
        f"{type(model).__name__} has no list of {depth} decoder blocks: only decoder-only models "
        "built from such a list can be read."
    )


def find_sites(block):
    """The modules of one decoder block at which each site can be read.

    A block's attention is the child that takes an attention mask; its MLP is the one other child
    with weight matrices; the MLP's down-projection is its last linear layer. A mixture of experts
    has an output but no single down-projection.
    """
    found = {"resid_post": (block, "output")}
    matrices = [child for child in block.children() if any(p.dim() > 1 for p in child.parameters())]
    attention = [c for c in matrices if "attention_mask" in inspect.signature(c.forward).parameters]
    mlp = [c for c in matrices if c not in attention]
    if len(attention) == 1:
        found["attn_out"] = (attention[0], "output")
    if len(mlp) == 1:
        found["mlp_out"] = (mlp[0], "output")
        weights = [(m, p) for m in mlp[0].modules() for p in m.parameters(recurse=False)]
        linear = [m for m, p in weights if p.dim() == 2 and not list(m.children())]
        experts = any(p.dim() > 2 for _, p in weights) or any(
            isinstance(m, nn.ModuleList) for m in mlp[0].modules()
        )
        if linear and not experts:
            found["mlp_act"] = (linear[-1], "input")
    return found


def check_sites(model, sites):
    """Refuse sites that this model does not have."""
    existing = set.intersection(*(set(find_sites(block)) for block in decoder_blocks(model)))
    for site in sites:
        if site not in existing:
            raise ValueError(
                f"{type(model).__name__} has no site {arguments.shown(site)} in every block. It "
                f"has: {', '.join(s for s in SITES if s in existing)}."
            )


class Recorder:
    """Keeps what each site gave at the last position in the latest forward pass.

    A context manager: the hooks are there only inside the ``with`` block.
    """

    def __init__(self, model, sites):
        check_sites(model, sites)
        self.blocks = decoder_blocks(model)
        self.sites = tuple(sites)
        self._latest = {site: [None] * len(self.blocks) for site in self.sites}
        self._handles = []

    def __enter__(self):
        for layer, block in enumerate(self.blocks):
            modules = find_sites(block)
            for site in self.sites:
                module, side = modules[site]
                is_input = side == "input"
                register = (
                    module.register_forward_pre_hook if is_input else module.register_forward_hook
                )
                self._handles.append(register(partial(self._keep, site, layer)))
        return self

    def __exit__(self, *exception):
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _keep(self, site, layer, module, args, output=None):
        found = args if output is None else output  # before a module runs there is no output
        while not isinstance(found, torch.Tensor):
            found = next(iter(found.values() if isinstance(found, Mapping) else found))
        # A copy: Falcon adds its attention's output to its MLP's in place, after this.
        self._latest[site][layer] = found[:, -1].clone()

    def latest(self, site):
        """Activations of the latest pass at its last position, (rows, layer, feature)."""
        first = self._latest[site][0]
        return torch.stack([x.to(first.device) for x in self._latest[site]], dim=1)
