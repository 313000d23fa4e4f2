"""Tiny random-weight models of many architectures, and where their sites are, written out by hand.

The paths are the tests' own knowledge of each architecture, so that `probekit.extraction.sites`,
which works them out from a model's structure, is checked against something else than itself.
"""

import functools
from dataclasses import dataclass

import torch
import transformers

VOCABULARY = 300

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_TOKENS = {name: _SIZES[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
_SMALL = {
    name: _SIZES[name]
    for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
} | _TOKENS


@dataclass(frozen=True)
class Architecture:
    """A configuration, and per site the path of its module (input for `mlp_act`, else output)."""

    config: type
    options: dict
    paths: dict

    def __hash__(self):
        return id(self)


def _like_llama(config, mlp_act="mlp.down_proj", **options):
    paths = {
        "mlp_out": "model.layers.{}.mlp",
        "attn_out": "model.layers.{}.self_attn",
        "resid_post": "model.layers.{}",
    }
    if mlp_act:
        paths["mlp_act"] = f"model.layers.{{}}.{mlp_act}"
    return Architecture(config, _SIZES | options, paths)


def _falcon(**options):
    paths = {
        "mlp_out": "transformer.h.{}.mlp",
        "attn_out": "transformer.h.{}.self_attention",
        "resid_post": "transformer.h.{}",
        "mlp_act": "transformer.h.{}.mlp.dense_4h_to_h",
    }
    return Architecture(transformers.FalconConfig, _SMALL | options, paths)


ARCHITECTURES = {
    "llama": _like_llama(transformers.LlamaConfig),
    "mistral": _like_llama(transformers.MistralConfig, sliding_window=8),
    "qwen2": _like_llama(transformers.Qwen2Config),
    "qwen3": _like_llama(transformers.Qwen3Config, head_dim=8),
    "gemma2": _like_llama(transformers.Gemma2Config, head_dim=8, sliding_window=8),
    "gemma3": _like_llama(
        transformers.Gemma3TextConfig,
        head_dim=8,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "gpt2": Architecture(
        transformers.GPT2Config,
        {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256}
        | _TOKENS,
        {
            "mlp_out": "transformer.h.{}.mlp",
            "attn_out": "transformer.h.{}.attn",
            "resid_post": "transformer.h.{}",
            "mlp_act": "transformer.h.{}.mlp.c_proj",
        },
    ),
    "gpt-neox": Architecture(
        transformers.GPTNeoXConfig,
        _SMALL | {"intermediate_size": 64, "max_position_embeddings": 256},
        {
            "mlp_out": "gpt_neox.layers.{}.mlp",
            "attn_out": "gpt_neox.layers.{}.attention",
            "resid_post": "gpt_neox.layers.{}",
            "mlp_act": "gpt_neox.layers.{}.mlp.dense_4h_to_h",
        },
    ),
    "phi3": _like_llama(transformers.Phi3Config, sliding_window=8),
    "olmo2": _like_llama(transformers.Olmo2Config),
    "falcon": _falcon(),
    "falcon-new": _falcon(num_kv_heads=2, new_decoder_architecture=True),
    "falcon-alibi": _falcon(alibi=True),
    "mixtral": _like_llama(transformers.MixtralConfig, mlp_act=None, num_local_experts=4),
    "qwen3-moe": _like_llama(
        transformers.Qwen3MoeConfig,
        mlp_act=None,
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
    ),
    "opt": Architecture(
        transformers.OPTConfig,
        _SMALL | {"ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 256},
        {"attn_out": "model.decoder.layers.{}.self_attn", "resid_post": "model.decoder.layers.{}"},
    ),
}


@functools.cache
def build(name):
    """A model in evaluation mode whose responses vary; the same weights every time."""
    architecture = ARCHITECTURES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(
            architecture.config(**architecture.options)
        )
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def site_module(model, name, site, layer):
    """The module at which a site is read, by its path."""
    return model.get_submodule(ARCHITECTURES[name].paths[site].format(layer))


def plain_activations(model, name, token_ids):
    """Activations of one text in one forward pass of the unmodified model: no cache, no batch.

    Returns
    -------
    dict of {str: torch.Tensor}
        Per site (token, layer, feature).
    logits : torch.Tensor, (token, vocabulary)
    """
    seen, handles = {}, []
    layers = range(model.config.get_text_config().num_hidden_layers)

    def keep(key, value):
        value = value if isinstance(value, torch.Tensor) else value[0]
        # OPT's blocks, and some routers, flatten rows and tokens.
        seen[key] = value.detach().reshape(-1, value.shape[-1]).clone()

    for site in ARCHITECTURES[name].paths:
        for layer in layers:
            module, key = site_module(model, name, site, layer), (site, layer)
            if site == "mlp_act":
                hook = module.register_forward_pre_hook(lambda m, args, k=key: keep(k, args[0]))
            else:
                hook = module.register_forward_hook(lambda m, args, out, k=key: keep(k, out))
            handles.append(hook)
    with torch.no_grad():
        ids = torch.tensor([token_ids], device=model.device)
        logits = model(ids, use_cache=False).logits[0]
    for handle in handles:
        handle.remove()
    return {
        site: torch.stack([seen[site, layer] for layer in layers], dim=1)
        for site in ARCHITECTURES[name].paths
    }, logits


def plain_response(model, prompt, stops, max_new_tokens):
    """What transformers' own `generate` answers to one prompt, without the token that ends it."""
    asked = torch.tensor([prompt], device=model.device)
    ids = model.generate(
        asked,
        attention_mask=torch.ones_like(asked),
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(stops) or None,
        pad_token_id=0,
    )[0, len(prompt) :].tolist()
    finished = bool(ids) and ids[-1] in stops
    return ids[:-1] if finished else ids, finished


def relative_error(found, expected):
    """Largest distance of two activation vectors, over the length of the expected one."""
    assert found.shape == expected.shape
    return ((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max().item()
