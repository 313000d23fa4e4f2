"""The notebooks' parameters: what they are, where they come from, what they may be."""

import ast
import difflib
import sys
from pathlib import Path

import nbformat
import yaml

from probekit.grid import PROTOCOLS
from probekit.resources import resource
from probekit.runs import STAGES, notebook_name
from probekit.sites import SITES
from probekit.tokens import TOKENS

# Values that a parameter can take, where there is more to say than its type.
_CHOICES = {
    "site": SITES,
    "split": ("random", "answer", "published"),
    "protocol": PROTOCOLS,
    "measure": ("auroc", "correlation"),
    "token": TOKENS,
}
_LEAST = {
    "limit": 0,
    "seed": 0,
    "max_new_tokens": 1,
    "folds": 2,
    "n_permutations": 0,
    "n_samples": 1,
    "temperature": 0,
}
#: Where the work is done, not what is done: a run that was begun here may be finished elsewhere.
PLACES = ("device", "scheduler")
_POSITIVE = {"C": sys.float_info.max, "top_p": 1.0}  # and the most that it may be


def notebook_path(stage):
    """Path of a stage's notebook.

    Parameters
    ----------
    stage : {"extract", "probe", "visualize", "interpret"}

    Returns
    -------
    Path
    """
    return resource("notebooks") / notebook_name(stage)


def notebook_parameters(stage):
    """Parameters of a stage's notebook, as its cell tagged ``parameters`` declares them.

    Parameters
    ----------
    stage : {"extract", "probe", "visualize", "interpret"}

    Returns
    -------
    dict of {str: (default, str)}
        Per name the default value, a literal, and what the trailing comment says of it.
    """
    notebook = nbformat.read(notebook_path(stage), as_version=4)
    source = next(
        cell.source for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])
    )
    found = {}
    for line, statement in zip(source.splitlines(), ast.parse(source).body, strict=True):
        comment = line[statement.end_col_offset :].partition("#")[2].strip()
        found[statement.targets[0].id] = (ast.literal_eval(statement.value), comment)
    return found


def describe_parameters():
    """All notebooks' parameters with their defaults and meaning, a line each."""
    lines = {}
    for stage in STAGES:
        for name, (default, comment) in notebook_parameters(stage).items():
            if name != "run_dir":
                lines.setdefault(name, f"  {name} = {default!r}".ljust(28) + f"  {comment}")
    return "\n".join(lines.values())


def read_parameters(pairs=(), file=None):
    """Parameters from the command line and a YAML file; the command line counts more.

    Parameters
    ----------
    pairs : sequence of (str, str)
        Names and values as text; a value is read as what the parameter's default is.
    file : str or Path, optional

    Returns
    -------
    dict

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing, is not YAML, or is no mapping.
    """
    parameters = {}
    if file is not None:
        try:
            parameters = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise FileNotFoundError(f"No parameter file {file}.") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} is not YAML: {error}") from error
        if not isinstance(parameters, dict) or not all(isinstance(n, str) for n in parameters):
            raise ValueError(
                f"{file} must map parameter names to values, one a line: `limit: 200`."
            )
    known = defaults()
    for name, text in pairs:
        default = known.get(name, "")
        try:
            parameters[name] = text if isinstance(default, str) else yaml.safe_load(text)
        except yaml.YAMLError:
            parameters[name] = text
    return parameters


def defaults():
    """Default of every parameter of the notebooks, by name."""
    return {
        name: default
        for stage in STAGES
        for name, (default, _) in notebook_parameters(stage).items()
    }


def check_parameters(**parameters):
    """Refuse notebook parameters that can't be right, before any work is done.

    Parameters
    ----------
    **parameters
        Names and values of the notebooks' parameters. At a `scheduler`'s address one is called.

    Returns
    -------
    dict
        The same; whole numbers where the default has a fraction are made so.

    Raises
    ------
    ValueError
        If a name is unknown or a value out of range, or if no Dask scheduler with workers is at
        the address.
    TypeError
        If a value is not of its default's type.
    """
    known = defaults()
    checked = {}
    for name, value in parameters.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"No parameter {name!r}.{hint} There are: {', '.join(sorted(known))}.")
        kind = type(known[name])
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise TypeError(
                f"{name} must be {_KIND_NAMES[kind]} such as {known[name]!r}, got {value!r} "
                f"({type(value).__name__})."
            )
        for item in value if isinstance(value, list) else [value]:
            if name in _CHOICES and item not in _CHOICES[name]:
                raise ValueError(
                    f"{name} must be one of {', '.join(_CHOICES[name])}; got {item!r}."
                )
        # Not the other way about: NaN is neither less nor more.
        if name in _LEAST and not _LEAST[name] <= value < float("inf"):
            raise ValueError(f"{name} must be at least {_LEAST[name]} and finite, got {value}.")
        if name in _POSITIVE and not 0 < value <= _POSITIVE[name]:
            most = "and finite" if _POSITIVE[name] > 1 else "and at most 1"
            raise ValueError(f"{name} must be positive {most}, got {value}.")
        if name in ("run_dir", "model", "questions", "split") and not value.strip():
            raise ValueError(f"{name} must not be empty.")
        checked[name] = value
    if checked.get("scheduler"):
        from probekit.cluster import connected

        with connected(checked["scheduler"]):
            pass
    return checked


_KIND_NAMES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    list: "a list",
}
