"""The places in a decoder block whose activations can be read, and whether they are what they seem.

A site is found from a block's structure and checked by arithmetic: what attention and MLP give has
to be what the block adds to the residual stream.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import combinations, product

import torch
from torch import nn

from probekit import arguments
from probekit.tokens import Names

#: Names of the sites, the published figure's choice first.
SITES = Names.of(
    {
        "mlp_out": "what the block's MLP gives, before it is added to the residual stream",
        "attn_out": "what the block's attention gives, before it is added to the residual stream",
        "resid_post": "the residual stream after the block",
        "mlp_act": "the MLP's activations inside, before its down-projection",
    }
)


def decoder_blocks(model):
    """The model's decoder blocks, in order.

    They are the outermost module list that is as long as the configuration says the model is deep.
    """
    config = model.config.get_text_config(decoder=True)
    # BART's kind counts the encoder's layers first, whether there is an encoder or not.
    depth = getattr(config, "decoder_layers", None) or getattr(config, "num_hidden_layers", 0)
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    # A tower for images may be as deep as the decoder, and come first.
    for root in (decoder, model):
        for module in root.modules() if root is not None else ():
            if isinstance(module, nn.ModuleList) and depth and len(module) == depth:
                return module
    raise ValueError(
        f"{type(model).__name__} has no list of {depth or 'its'} decoder blocks: only decoder-only "
        "models built from such a list can be read."
    )


def find_sites(block):
    """The modules of one decoder block at which each site can be read.

    A block's attention is the child that takes an attention mask; its MLP is the one other child
    with weight matrices; the MLP's down-projection is its last linear layer. A mixture of
    experts has an output but no single down-projection. Blocks with a norm after attention or MLP
    (Gemma 2 and 3, GLM-4, OLMo 2 and 3, EXAONE 4) are read before that norm, as the published
    figure's code does: at what the module itself gives.
    """
    found = {"resid_post": (block, "output")}
    matrices = [child for child in block.children() if _has_matrices(child)]
    attention = [child for child in matrices if _takes(child, "attention_mask")]
    mlp = [child for child in matrices if child not in attention]
    if len(attention) == 1:
        found["attn_out"] = (_innermost(attention[0]), "output")
    if len(mlp) == 1:
        found["mlp_out"] = (mlp[0], "output")
        parts = [*mlp[0].modules()]
        owned = [[p for p in m.parameters(recurse=False) if p.dim() > 1] for m in parts]
        owners = [m for m, matrices in zip(parts, owned, strict=True) if matrices]
        # Experts lie in a list, in one array, or below one another in matrices of one module.
        linear = all(len(matrices) < 2 for matrices in owned) and not any(
            isinstance(m, nn.ModuleList) or (m in owners and [*m.children()]) for m in parts
        )
        if linear and all(p.dim() == 2 for p in mlp[0].parameters() if p.dim() > 1):
            found["mlp_act"] = (owners[-1], "input")
    return found


def _has_matrices(module):
    return any(parameter.dim() > 1 for parameter in module.parameters())


def _takes(module, parameter):
    return parameter in inspect.signature(module.forward).parameters


def _innermost(attention):
    """The part that has all matrices: DBRX's attention lies in one with norms and the stream."""
    inner = [child for child in attention.children() if _has_matrices(child)]
    while len(inner) == 1 and _takes(inner[0], "attention_mask"):
        attention, inner = inner[0], [c for c in inner[0].children() if _has_matrices(c)]
    return attention


def check_sites(model, sites):
    """Refuse sites that this model does not have."""
    existing = existing_sites(model)
    for site in sites:
        if site not in existing:
            raise ValueError(
                f"{type(model).__name__} has no site {arguments.shown(site)} in every block. It "
                f"has: {', '.join(existing)}."
            )


def existing_sites(model):
    """Names of the sites that every block has, in the order of `SITES`."""
    found = set.intersection(*(set(find_sites(block)) for block in decoder_blocks(model)))
    return [site for site in SITES if site in found]


def first_tensor(value):
    """The first tensor of what goes into a module or comes out of it; None if there is none."""
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, Mapping):
        value = value.values()
    if not isinstance(value, (tuple, list, type({}.values()))):
        return None
    return next((t for t in map(first_tensor, value) if t is not None), None)


def _computed(module, args, kwargs, output):
    """What a module itself gives, (row, token, feature) or all rows' tokens after one another."""
    output = first_tensor(output)
    if not _takes(module, "residual"):
        return output
    # BLOOM's and MPT's add the residual stream, which they get for that.
    return output - inspect.signature(module.forward).bind(*args, **kwargs).arguments["residual"]


class Hooked:
    """A context manager whose hooks on a model are there only inside the ``with`` block."""

    def __init__(self, model):
        self.model, self._shape, self._handles = model, None, []

    def __enter__(self):
        hook = partial(self.model.register_forward_pre_hook, with_kwargs=True)
        self._handles = [hook(self._measure)]
        self._hook()
        return self

    def __exit__(self, *exception):
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _measure(self, model, args, kwargs):
        """Note how many rows and tokens the pass has."""
        self._shape = first_tensor((args, kwargs)).shape[:2]


class Recorder(Hooked):
    """Keeps what each site gave at the last position in the latest forward pass.

    With `whole`, at all positions.
    """

    def __init__(self, model, sites, whole=False):
        super().__init__(model)
        check_sites(model, sites)
        self.blocks = decoder_blocks(model)
        self.sites = tuple(sites)
        self._whole = whole
        self._latest = {site: [None] * len(self.blocks) for site in self.sites}

    def _hook(self):
        for layer, block in enumerate(self.blocks):
            modules = find_sites(block)
            for site in self.sites:
                module, side = modules[site]
                keep = partial(self._keep, site, layer)
                hook = module.register_forward_hook
                if side == "input":
                    hook = module.register_forward_pre_hook
                self._handles.append(hook(keep, with_kwargs=True))

    def _keep(self, site, layer, module, args, kwargs, *output):
        # Before a module runs there is no output.
        found = _computed(module, args, kwargs, *output) if output else first_tensor((args, kwargs))
        # Experts may give all rows' tokens one after the other, and Reformer puts more behind them.
        rows, tokens = self._shape
        found = found.reshape(rows, -1, found.shape[-1])[:, :tokens]
        # A copy: Falcon adds its attention's output to its MLP's in place, after this.
        self._latest[site][layer] = (found if self._whole else found[:, -1]).clone()

    def latest(self, site):
        """Activations of the latest pass: (row, layer, feature), or with tokens before features."""
        first = self._latest[site][0]
        return torch.stack([x.to(first.device) for x in self._latest[site]], dim=1)


@dataclass(frozen=True, eq=False)
class _Seen:
    """One module in a pass: what it got, what it gave, and what of that it computed itself."""

    module: nn.Module
    got: torch.Tensor
    gave: torch.Tensor
    computed: torch.Tensor
    before: torch.Tensor  # copies, as some are changed in place
    after: torch.Tensor

    def follows(self, other):
        """Whether it got the very tensor that another one gave."""
        return self.got.data_ptr() == other.gave.data_ptr() and self is not other


class SiteCheck:
    """Compares, in a pass of one row, what is read at each site with what the blocks really do.

    A context manager around the pass. Then `errors` has each site's largest relative difference
    over the blocks, and `wrong` the reason why a site can't be read, for those that can't.
    """

    def __init__(self, model, tolerance):
        self.blocks, self.tolerance = decoder_blocks(model), tolerance
        self.errors = dict.fromkeys(existing_sites(model), 0.0)
        self.wrong = {}
        self._ran, self._latest = [], None  # blocks so far, and what the latest one gave

    def __enter__(self):
        self._handles = []
        for layer, block in enumerate(self.blocks):
            sites = {site: module for site, (module, _) in find_sites(block).items()}
            parts = [sites[site] for site in ("attn_out", "mlp_out") if site in sites]
            inner = {m for part in parts for m in part.modules()} - {*parts, sites.get("mlp_act")}
            seen = []
            for module in block.modules():
                note = partial(self._note, seen)
                if module is block:
                    note = partial(self._compare, seen, layer, sites)
                if module not in inner:
                    self._handles.append(module.register_forward_hook(note, with_kwargs=True))
        return self

    def __exit__(self, *exception):
        for handle in self._handles:
            handle.remove()
        if exception[0] is None and self._ran != [*range(len(self.blocks))]:
            for site in self.errors:
                self._judge(site, 1.0, "its blocks do not run once each, one after the other")

    def _note(self, seen, module, args, kwargs, output):
        got, gave = first_tensor((args, kwargs)), first_tensor(output)
        if got is not None and gave is not None:
            computed = _computed(module, args, kwargs, output).clone()
            seen.append(_Seen(module, got, gave, computed, got.clone(), gave.clone()))

    def _compare(self, seen, layer, sites, block, args, kwargs, output):
        """Look at one block, when it has run."""
        x, y = first_tensor((args, kwargs)), first_tensor(output)
        x = x.to(y.device)  # of a model on several devices
        self._ran.append(layer)
        if x.dim() != 3 or y.shape != x.shape:
            shape = f"({', '.join(map(str, y.shape))})"
            for site in self.errors:
                why = f"block {layer} gives numbers of the shape {shape}, not (row, token, feature)"
                self._judge(site, 1.0, why)
            seen.clear()
            return
        if self._latest is not None:
            error = _distance(x, self._latest.to(x.device)).median().item()
            self._judge("resid_post", error, f"block {layer} does not get what the one before gave")
        self._latest = y.clone()
        at = {}
        for site in sites.keys() - {"resid_post"}:
            calls = [s for s in seen if s.module is sites[site]]
            if len(calls) == 1:
                at[site] = calls[0]
            else:
                self._judge(site, 1.0, f"in block {layer} it runs {len(calls)} times")
        parts = {site: at[site] for site in ("attn_out", "mlp_out") if site in at}
        # What the residual stream may be on its way through the block: what the other modules get,
        # but for norms after attention or MLP, and what norms give where they stand in its way.
        others = [s for s in seen if s not in parts.values() and s is not at.get("mlp_act")]
        others = [s for s in others if not any(map(s.follows, parts.values()))]
        others = [s for s in others if s.got.data_ptr() != s.gave.data_ptr()]  # no dropout
        norms = [s.after for s in others if not _has_matrices(s.module)]
        stream = _alike(x, [x, *(s.before for s in others), *norms, y])
        # What a part adds is what it gives, or what a norm after it makes of that.
        added = {}
        for site, part in parts.items():
            norms = [s.after for s in seen if s.follows(part) and not _has_matrices(s.module)]
            added[site] = _alike(x, [part.computed, *norms])
        steps = [*combinations(stream, 2)]
        alone = {
            site: self._least(_unexplained(*step, t) for t in given for step in steps)
            for site, given in added.items()
        }
        together = 1.0  # attention and MLP side by side
        if len(added) == 2 and max(alone.values()) > self.tolerance:
            both = product(*added.values())
            together = self._least(_unexplained(x, y, a + m) for a, m in both)
        for site, error in alone.items():
            error = min(error, together)
            if self._is_lost(added[site], y):
                error = 0.0
            self._judge(site, error, f"block {layer} adds something else to the residual stream")
        if "mlp_act" in at and "mlp_out" in parts:
            down, mlp = at["mlp_act"].after, parts["mlp_out"].computed
            same = down.numel() == mlp.numel()
            error = _distance(down.reshape(mlp.shape), mlp).median().item() if same else 1.0
            why = f"in block {layer} it does not lead to what the MLP gives"
            self._judge("mlp_act", error, why)
        seen.clear()

    def _is_lost(self, added, y):
        """Whether the residual stream's rounding is as large as what is added to it."""
        steps = [(t.norm(dim=-1) / y.norm(dim=-1).clamp_min(1e-30)).median() for t in added]
        return bool(steps) and max(steps) < 8 * torch.finfo(y.dtype).eps

    def _least(self, errors):
        """The first error that is small enough, else the smallest; 1 of none."""
        least = 1.0
        for error in errors:
            least = min(least, error)
            if least <= self.tolerance:
                break
        return least

    def _judge(self, site, error, why):
        if site in self.errors:
            self.errors[site] = max(self.errors[site], error)
            if not error <= self.tolerance:
                self.wrong.setdefault(site, why)


def _alike(x, tensors):
    """Those tensors that hold a vector for each of `x`, in its shape."""
    fitting = [t for t in tensors if (t.numel(), t.shape[-1]) == (x.numel(), x.shape[-1])]
    return [t.reshape(x.shape).to(x.device) for t in fitting]


def _distance(found, expected):
    """Length of the difference over that of what is expected, (row, token)."""
    return (found - expected).norm(dim=-1) / expected.norm(dim=-1).clamp_min(1e-30)


def _unexplained(before, after, added):
    """What is left of a step of the residual stream without a part's share, beyond rounding.

    The step is from `before` to `after`, all (row, token, feature); blocks may scale the stream and
    what is added. The median over tokens, of which some have a very large stream; infinity where
    nothing of `before` is in `after`.
    """
    precision = torch.finfo(after.dtype).eps
    before, after, added = (t.double() for t in (before, after, added))
    scale = after.norm(dim=-1, keepdim=True).clamp_min(1e-30)
    parts = torch.stack([(before / scale).flatten(), (added / scale).flatten()])
    products = parts @ parts.T
    if not products.isfinite().all() or torch.linalg.cond(products) > 1e12:
        return torch.inf
    share, factor = torch.linalg.solve(products, parts @ (after / scale).flatten())
    step = (after - share * before).norm(dim=-1).clamp_min(1e-30)
    if share.abs() < 1e-2 or (step / scale[..., 0]).median() < 4 * precision:
        return torch.inf
    left = (after - share * before - factor * added).norm(dim=-1) / step
    # Several roundings in single precision; in lower ones that many would hide what is wrong.
    rounding = precision * (8 if precision < 1e-6 else 1)
    return (left - rounding * scale[..., 0] / step).clamp_min(0).median().item()
