"""Adapters of peft, merged into the model that they were trained for.

Of an adapter's settings, peft is handed only those that decide what its weights compute. Others
name modules to import and pickles to read; and what peft would search or fetch, it is given.
"""

import re
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import regex
import torch
from safetensors.torch import load_file

from probekit import arguments
from probekit.extraction.identity import ADAPTER, ADAPTER_WEIGHTS
from probekit.run.files import parse_json

#: Kinds of adapters that are merged: those of which tests compare the result with peft's own.
KINDS = ("LORA", "IA3", "LOHA", "LOKR")

# What decides which weights are adapted, and how.
_TAKEN = {
    *("r", "alpha", "lora_alpha", "use_rslora", "use_dora", "bias", "lora_bias", "fan_in_fan_out"),
    *("target_modules", "exclude_modules", "feedforward_modules", "target_parameters"),
    *("modules_to_save", "trainable_token_indices", "layers_to_transform", "layers_pattern"),
    *("rank_pattern", "alpha_pattern", "decompose_both", "decompose_factor"),
    "use_effective_conv2d",
}

# What concerns training only, or the base, which is given.
_LEFT = {
    *("peft_type", "peft_version", "task_type", "auto_mapping", "inference_mode", "revision"),
    *("base_model_name_or_path", "parent_library", "runtime_config", "megatron_core"),
    *("lora_dropout", "rank_dropout", "rank_dropout_scale", "module_dropout", "init_weights"),
    *("init_ia3_weights", "init_lora_weights", "eva_config", "corda_config", "lora_ga_config"),
    *("loftq_config", "qalora_group_size"),
}

# How LoRA's weights may have begun. The other ways begin by changing the base's weights.
_BEGUN = ("True", "False", "gaussian", "orthogonal", "eva")

# peft uses these names as regular expressions. With no more than this in them none takes long.
_PLAIN = re.compile(r"\^?([\w-]|\\?\.)+\$?", re.ASCII)

_PREFIX = "base_model.model."  # of the names of all weights in an adapter


@dataclass(frozen=True)
class Adapter:
    """An adapter as far as it can be read without its base."""

    config: type
    """peft's class for its settings."""
    settings: dict
    weights: Path
    files = (ADAPTER, ADAPTER_WEIGHTS)


def read_adapter(name, files):
    """Read an adapter's settings, and refuse those with which it can't be merged."""
    try:
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    except ImportError as error:
        raise ImportError(
            f"{name} is an adapter, and merging it needs peft, which is not installed: "
            'pip install "probekit-notebooks[peft]"'
        ) from error

    content = parse_json(files[ADAPTER].read_text(encoding="utf-8"))
    kind = content.get("peft_type")
    if kind not in KINDS:
        raise ValueError(
            f"{name} is an adapter of the kind {arguments.shown(kind)}, and only "
            f"{', '.join(KINDS)} are merged. Prompts and prefixes have no weights that could be. "
            "Of other kinds, load what merge_and_unload() and save_pretrained() of peft make."
        )
    begun = content.get("init_lora_weights", True)
    if str(begun) not in _BEGUN:
        raise ValueError(
            f"{name} has init_lora_weights={arguments.shown(begun)}, which changes the base's own "
            "weights too. Save it as plain LoRA, with save_pretrained(..., "
            "path_initial_model_for_weight_conversion=...) of peft."
        )
    config = PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    usual = config()
    taken = {key: value for key, value in content.items() if key in _TAKEN and hasattr(usual, key)}
    for key, value in content.items():
        if key not in taken.keys() | _LEFT and value and value != getattr(usual, key, None):
            raise ValueError(
                f"{name} sets {arguments.shown(key)} in {ADAPTER}, and such adapters are not "
                "merged. Load what merge_and_unload() and save_pretrained() of peft make."
            )
    for key in ("modules_to_save", "layers_pattern", "rank_pattern", "alpha_pattern"):
        found = taken.get(key) or ()
        for each in found if isinstance(found, (list, tuple, dict)) else [found]:
            if not (isinstance(each, str) and _PLAIN.fullmatch(each)):
                raise ValueError(
                    f"{name} has {arguments.shown(each)} in its {key}, which is no name of a "
                    f"module. Write the names out in {ADAPTER}."
                )
    return Adapter(config, taken, files[ADAPTER_WEIGHTS])


def merged(name, model, adapter):
    """The model with the adapter's changes in its own weights; `model` itself is changed."""
    from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

    # Not model.is_quantized, which may be true of weights that were unpacked, too.
    if any(type(p) is not torch.nn.Parameter or p.itemsize == 1 for p in model.parameters()):
        raise ValueError(
            f"The base of {name} is quantised, and an adapter can't be merged into such weights "
            "without changing them. Give the base unquantised, even if the adapter was trained "
            "on a quantised one."
        )
    settings = adapter.settings | _without_patterns(name, model, adapter.settings)
    with _told(name):
        weights = load_file(adapter.weights)
    embeddings = {model.get_input_embeddings(), model.get_output_embeddings()}
    embeddings = [n for n, m in model.named_modules() if m in embeddings]
    _fit_vocabulary(name, model, weights, embeddings)
    is_theirs = tuple(f"{_PREFIX}{n}." for n in embeddings)
    concerned = any(key.startswith(is_theirs) for key in weights)
    if concerned and not settings.get("trainable_token_indices"):
        _untie(model)  # peft's own model has the two apart, too
    # On the meta device: what the file does not hold is not filled with random numbers.
    with _told(name), torch.device("meta"):
        adapted = PeftModel(model, adapter.config(**settings), low_cpu_mem_usage=True)
        expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    # Embeddings that were resized or adapted are saved beside the adapter, and those that were
    # trained as a whole three times: as what they are, as peft calls it, and as they began.
    for key in [f"{n}{end}" for n in is_theirs for end in ("modules_to_save", "original_module")]:
        weights.pop(f"{key}.weight", None)
    whole = [f"{n}{end}" for n in is_theirs for end in ("weight", "base_layer.weight")]
    whole = {key: adapted.get_parameter(key) for key in whole if key in weights.keys() - expected}
    _check_names(name, weights, expected | whole)
    with _told(name), torch.no_grad():
        for key, parameter in whole.items():
            parameter.copy_(weights.pop(key))
        weights = {k: t.to(model.device, expected[k].dtype) for k, t in weights.items()}
        set_peft_model_state_dict(adapted, weights, low_cpu_mem_usage=True)
        return adapted.merge_and_unload()


def _without_patterns(name, model, settings):
    """Regular expressions in the settings as the names that they match: a second for each."""
    found = {}
    for key in ("target_modules", "exclude_modules", "feedforward_modules"):
        pattern = settings.get(key)
        if not isinstance(pattern, str) or pattern == "all-linear":
            continue
        try:
            compiled = regex.compile(pattern)
            found[key] = [n for n, _ in model.named_modules() if compiled.fullmatch(n, timeout=1)]
        except (regex.error, TimeoutError) as error:
            raise ValueError(
                f"The regular expression in {key} of {name} can't be used: "
                f"{arguments.shown(str(error))}. Write the names of the "
                f"modules into {ADAPTER} as a list."
            ) from error
    return found


def _fit_vocabulary(name, model, weights, embeddings):
    """Give the embeddings as many tokens as those that the adapter comes with."""
    keys = [[f"{_PREFIX}{n}.{end}" for end in ("weight", "base_layer.weight")] for n in embeddings]
    rows = [
        len(weights[k]) for both in keys for k in both if k in weights and weights[k].dim() == 2
    ]
    if not rows or rows[0] == model.get_input_embeddings().weight.shape[0]:
        return
    if len(rows) < len(embeddings):
        raise ValueError(
            f"{name} has another number of tokens than its base, and holds the weights of only one "
            f"of {' and '.join(embeddings)}. Save it again with save_pretrained(..., "
            "save_embedding_layers=True) of peft."
        )
    model.resize_token_embeddings(rows[0], mean_resizing=False)


def _untie(model):
    """Let the output have embeddings of its own, equal to the input's."""
    output = model.get_output_embeddings()
    if output is not None and output.weight is model.get_input_embeddings().weight:
        output.weight = torch.nn.Parameter(output.weight.detach().clone(), requires_grad=False)
        model.config.get_text_config().tie_word_embeddings = False


def _check_names(name, weights, expected):
    """Refuse weights that are not those that the settings and the base ask for."""
    found = {
        "lacks": sorted(expected.keys() - weights.keys()),
        "also holds": sorted(weights.keys() - expected.keys()),
        "has in another shape": sorted(
            k for k in weights.keys() & expected.keys() if weights[k].shape != expected[k].shape
        ),
    }
    differing = [f"{what} {arguments.listed(keys, 3)}" for what, keys in found.items() if keys]
    if differing:
        raise ValueError(
            f"{name} does not fit its base: it {', it '.join(differing)}. Give the base that it "
            "was trained for; if this is the one, copy, download or save the adapter again."
        )


@contextmanager
def _told(name):
    """Say in a sentence why peft can't take an adapter; its settings may be anything."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{name} cannot be merged into its base: {arguments.visible(reason, 300)}"
        ) from error
