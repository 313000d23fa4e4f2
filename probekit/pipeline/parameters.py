"""The notebooks' parameters: what they are, where they come from, what they may be."""

import ast
import json
import os
import sys
from functools import partial

import yaml

from probekit import arguments
from probekit.questions.kinds import KINDS
from probekit.run.files import resource
from probekit.run.manifest import NOTEBOOKS, notebook_name

_SITES = ("mlp_out", "attn_out", "resid_post", "mlp_act")


def _several_of(name, value, known):
    """Several names as one text, however they were given: that two runs are alike is then seen."""
    return ", ".join(arguments.several_of(name, value, known))


def _one_of_or_empty(name, value, known):
    """One of some names, or an empty text."""
    text = arguments.text(name, value, such_as=known[1], empty=True)
    return text and arguments.one_of(name, text, known)


# What each may be: as the functions check it that take it in the end, so that none of them refuses
# after hours what passed here. Names are repeated here, and a test compares them: where they are
# defined, torch and altair are imported, which take seconds.
_MAY_BE = {
    "run_dir": partial(arguments.text, such_as="data/runs/cities"),
    "run_dirs": arguments.several_texts,
    "greedy_dir": partial(arguments.text, such_as="data/runs/cities", empty=True),
    "n_questions": arguments.whole,
    "n_random": partial(arguments.whole, least=20, most=10_000),
    "dose": partial(arguments.number, least=1e-3, most=1000),
    "model": partial(arguments.text, such_as="smollm2"),
    "questions": partial(arguments.text, such_as="cities"),
    "site": partial(_several_of, known=_SITES),
    "probe_site": partial(_one_of_or_empty, known=_SITES),
    "question_column": partial(arguments.text, such_as="question"),
    "answers_column": partial(arguments.text, such_as="answers"),
    "choices_column": partial(arguments.text, such_as="choices", empty=True),
    "group_column": partial(arguments.text, such_as="group", empty=True),
    "kind": partial(_one_of_or_empty, known=KINDS),
    "unanswerable": partial(arguments.one_of, known=("refuse", "skip")),
    "corrections": partial(arguments.text, such_as="corrections.csv", empty=True),
    "limit": arguments.whole,
    "max_new_tokens": partial(arguments.whole, least=1),
    "n_samples": partial(arguments.whole, least=1, most=10_000),
    "temperature": lambda _, value: arguments.temperature(value),
    "top_p": partial(arguments.number, least=1e-6, most=1),
    "p_true": arguments.flag,
    "judge": partial(arguments.text, such_as="smollm2", empty=True),
    "device": partial(arguments.text, such_as="cuda:1", empty=True),
    "scheduler": partial(arguments.text, such_as="tcp://127.0.0.1:8786", empty=True),
    "split": partial(arguments.one_of, known=("random", "answer", "group", "published")),
    "folds": partial(arguments.whole, least=2),
    "C": partial(arguments.number, least=1e-6, most=1e6),
    "n_permutations": partial(arguments.whole, most=10_000),
    "measure": partial(arguments.one_of, known=("auroc", "correlation")),
    "error_rate": partial(arguments.number, least=0, most=1),
    "seed": lambda _, value: arguments.seed(value),
}

#: Where the work is done, not what is done: a run that was begun here may be finished elsewhere.
PLACES = ("device", "scheduler")


def notebook_path(stage):
    """Path of a stage's notebook."""
    return resource("notebooks") / notebook_name(stage)


def notebook_parameters(stage):
    """Parameters of a stage's notebook, as its cell tagged ``parameters`` declares them."""
    # Not by nbformat: its import alone takes a second, which `probekit run --help` would wait for.
    notebook = json.loads(notebook_path(stage).read_text(encoding="utf-8"))
    source = next(
        "".join(cell["source"])
        for cell in notebook["cells"]
        if "parameters" in cell["metadata"].get("tags", [])
    )
    found = {}
    for line, statement in zip(source.splitlines(), ast.parse(source).body, strict=True):
        comment = line[statement.end_col_offset :].partition("#")[2].strip()
        found[statement.targets[0].id] = (ast.literal_eval(statement.value), comment)
    return found


def describe_parameters():
    """All notebooks' parameters with their defaults and meaning, a line each."""
    found = {}
    for stage in NOTEBOOKS:
        for name, (default, comment) in notebook_parameters(stage).items():
            if name != "run_dir":
                # Several paths would stand in the comment's place.
                shown = "[...]" if isinstance(default, list) else repr(default)
                found.setdefault(name, (f"{name} = {shown}", comment))
    return "\n".join(f"  {setting:30}{comment}" for setting, comment in found.values())


def read_parameters(pairs=(), file=None):
    """Parameters from the command line and a YAML file; the command line counts more."""
    known = defaults()
    parameters = {}
    if file is not None:
        parameters = _from_file(arguments.path("The parameter file", file), known)
    given = {}
    for name, text in pairs:
        given.setdefault(_known(name, known), []).append(text)
    for name, texts in given.items():
        several = isinstance(known[name], list)
        parameters[name] = texts if several else _meant(_joined(name, texts), known[name])
    return parameters


def _joined(name, texts):
    """The last text that is given; of a parameter that may name several things, all texts."""
    return ", ".join(texts) if name == "site" else texts[-1]


_ONE_A_LINE = "Write one parameter a line, such as `limit: 200`."


def _from_file(path, known):
    """Parameters of a YAML file; in the messages is the line, where there is one."""
    try:
        node = yaml.compose(path.read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader)
        if node is None:
            raise ValueError(f"{path} holds no parameter. {_ONE_A_LINE}")
        if not isinstance(node, yaml.MappingNode):
            raise ValueError(f"{path} does not map names to values. {_ONE_A_LINE}")
        parameters = {}
        for key, value in node.value:
            try:
                name, content = _parameter(key, value, known)
                if name in parameters:
                    raise ValueError(f"{name} is given a second time. Leave one of them out.")
            except ValueError as error:
                line = key.start_mark.line + 1
                raise ValueError(f"{path}, line {line}: {error}") from None
            parameters[name] = content
        return parameters
    except FileNotFoundError:
        raise FileNotFoundError(f"No parameter file {path}.") from None
    except OSError as error:
        reason = os.strerror(error.errno)
        raise ValueError(f"The parameter file {path} can't be read: {reason}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text. Save it as UTF-8.") from error
    except RecursionError as error:
        raise ValueError(f"{path} is not YAML: it is nested too deeply. {_ONE_A_LINE}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise ValueError(f"{path}{where} is not YAML: {reason}. {_ONE_A_LINE}") from error


def _parameter(key, value, known):
    """Name and value of one parameter of a YAML file, from its nodes."""
    if not isinstance(key, yaml.ScalarNode):
        raise ValueError(f"the name of a parameter must be text. {_ONE_A_LINE}")
    name = _known(key.value, known)
    if (isinstance(known[name], list) or name == "site") and isinstance(value, yaml.SequenceNode):
        if not all(isinstance(item, yaml.ScalarNode) for item in value.value):
            raise ValueError(f"{name} must be a list of single values such as {known[name]!r}.")
        return name, [item.value for item in value.value]
    # Checked before it is made: a few lines of nested lists can be more than memory holds.
    if not isinstance(value, yaml.ScalarNode):
        raise ValueError(f"{name} must be one value such as {known[name]!r}.")
    try:
        content = yaml.constructor.SafeConstructor().construct_document(value)
    except ValueError:  # 2026-13-01 is a date to YAML
        content = value.value
    if content is None:
        raise ValueError(f"{name} has no value. Give one such as {known[name]!r}.")
    # To YAML 1e-3, which has no point, is text; what else is none of these is a date.
    if isinstance(known[name], float) or not isinstance(content, (bool, int, float, str)):
        content = _meant(value.value, known[name])
    return name, content


def _meant(text, default):
    """A text as a value of the default's type; the text itself where it can't be one."""
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        return type(default)(text)
    except (ValueError, KeyError):
        return text


def _known(name, known):
    if name not in known:
        raise ValueError(
            f"No parameter {arguments.shown(name)}.{arguments.nearest(name, known)} There are: "
            f"{', '.join(sorted(known))}."
        )
    return name


def defaults():
    """Default of every parameter of the notebooks, by name."""
    declared = [item for stage in NOTEBOOKS for item in notebook_parameters(stage).items()]
    return {name: default for name, (default, _) in declared}


def check_parameters(**parameters):
    """Refuse notebook parameters that can't be right, before any work is done.

    Parameters
    ----------
    **parameters
        Names and values of the notebooks' parameters. A `scheduler` is called at its address.

    Returns
    -------
    dict
        The same; whole numbers where the default has a fraction are made so.

    Raises
    ------
    TypeError, ValueError
        If a name is unknown (in a notebook, also one that was given to papermill), a value is of
        the wrong type or out of range, two don't go together, or no Dask scheduler with workers is
        at the address.

    Examples
    --------
    >>> import probekit as pk
    >>> pk.check_parameters(limit=200, C=1, site="mlp_out,resid_post")
    {'limit': 200, 'C': 1.0, 'site': 'mlp_out, resid_post'}
    """
    known = defaults()
    _check_injected()
    checked = {n: _MAY_BE[_known(n, known)](n, value) for n, value in parameters.items()}
    arguments.several_samples(checked.get("n_samples", 1), checked.get("temperature", 0))
    if checked.get("scheduler"):
        from probekit.cluster import connected

        with connected(checked["scheduler"]):
            pass
    return checked


def _check_injected():
    """Refuse names that papermill, called by hand, has set and the notebook does not declare.

    papermill only warns of them in its log, and then the run is another than was asked for. What it
    sets is in a cell of its own after the notebook's first, which declares the parameters.
    """
    if "IPython" not in sys.modules:
        return
    shell = sys.modules["IPython"].get_ipython()
    cells = shell.user_ns.get("In", []) if shell else []
    if len(cells) > 2 and cells[2].startswith("# Parameters\n"):
        declared, injected = map(_assigned, cells[1:3])
        for name in injected:
            _known(name, declared)


def _assigned(source):
    """Names to which a cell assigns, in their order."""
    try:
        statements = ast.parse(source).body
    except SyntaxError:  # a cell may hold what only IPython understands
        return []
    targets = [t for s in statements if isinstance(s, ast.Assign) for t in s.targets]
    return [target.id for target in targets if isinstance(target, ast.Name)]
