"""Whatever is given for an argument, a public function takes it or says in a sentence why not.

Each parameter of each function gets values of every kind, one at a time, in a call that is right
otherwise; hypothesis combines them. What is raised must be a ValueError, TypeError or
FileNotFoundError that probekit's own code raises, not something from inside a library that was
handed what it can't use. tests/test_bad_input.py has the texts of the most likely mistakes.

Whether it takes a value or refuses it, the process is then as it was: threads, random generators,
warnings, environment and the like.
"""

import decimal
import functools
import importlib
import inspect
import itertools
import linecache
import locale
import logging
import os
import pickle
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from decimal import Decimal
from pathlib import Path
from types import FunctionType

import altair as alt
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nightly import is_nightly
from test_bad_input import CALLS as BAD_INPUT_CALLS
from test_bad_input import good as good
from test_bad_input import method
from threadpoolctl import ThreadpoolController
from tiny import write_questions

import probekit as pk
from probekit.extraction.models import LanguageModel
from probekit.pipeline import parameters as parameters_module
from probekit.pipeline.parameters import defaults
from probekit.probing.detection import Detector

PACKAGE = Path(pk.__file__).parent
MISTAKES = (ValueError, TypeError, FileNotFoundError)
#: Seconds of processor time that a call may take: all are small.
LONGEST = 5

_numbers = itertools.count()
POOLS = ThreadpoolController()


def new_run(good):
    return pk.Run(good.folder / f"new-{next(_numbers)}")


CALLS = BAD_INPUT_CALLS | {
    "is_refusal": (pk.is_refusal, {"response": "I don't know."}),
    "extract": (
        pk.extract,
        {
            "lm": lambda good: good.lm,
            "questions": lambda good: good.questions,
            "run": new_run,
            "max_new_tokens": 4,
            "progress": False,
        },
    ),
    "held_out_splits": (pk.held_out_splits, {"dataset": lambda good: good.activations}),
    "probe_grid": (
        pk.probe_grid,
        {
            "activations": lambda good: good.activations,
            "n_permutations": 1,
            "n_jobs": 1,
            "progress": False,
        },
    ),
    "Run": (pk.Run, {"path": lambda good: good.folder / "run"}),
    "Run.answers": (method("answers"), {"self": lambda good: good.made}),
    "Run.activations": (method("activations"), {"self": lambda good: good.extracted}),
    "Run.cell": (
        method("cell"),
        {"self": lambda good: good.extracted, "layer": 1, "token": "-1"},
    ),
    "Run.manifest_path": (
        method("manifest_path"),
        {"self": lambda good: good.run, "stage": "probe"},
    ),
    "Run.pipeline_record": (
        method("pipeline_record"),
        {"self": lambda good: good.run, "stage": "probe"},
    ),
    "Run.executed_notebook": (
        method("executed_notebook"),
        {"self": lambda good: good.run, "stage": "probe"},
    ),
    "Run.outdated": (
        method("outdated"),
        {
            "self": lambda good: good.run,
            "stage": "probe",
            "key": {},
        },
    ),
    "check_parameters": (pk.check_parameters, {"limit": 3}),
}
del CALLS["probekit run"], CALLS["predict_proba"]
CALLS["LanguageModel.answer"] = (
    method("answer"),
    {
        "self": lambda good: good.lm,
        "questions": lambda good: good.questions,
        "max_new_tokens": 4,
    },
)
for _name in ("predict_proba", "decision_function", "predict", "fit"):
    CALLS[f"SavedProbe.{_name}"] = (
        method(_name),
        {"self": lambda good: good.probe, "X": np.zeros((2, 4))},
    )
#: What a parameter is for, where its function's signature has no name for it.
OTHERS = {"check_parameters": list(defaults()), "run_pipeline": list(defaults())}


def parameters(name):
    """The names of what a function takes."""
    kind, _, attribute = name.partition(".")
    owner = {
        "SavedProbe": pk.probing.saved_probes.SavedProbe,
        "Stage": pk.run.directory.Stage,
        "Detector": Detector,
        "LanguageModel": LanguageModel,
    }
    function = CALLS[name][0]
    if attribute:
        function = getattr(owner.get(kind, pk.Run), attribute)
    named = [
        p.name
        for p in inspect.signature(function).parameters.values()
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name != "self"
    ]
    return [*named, *(n for n in OTHERS.get(name, []) if n not in named)]


class Unprintable:
    def __repr__(self):
        raise RuntimeError("no repr")


VALUES = [
    None, True, -1, 0, 1, 0.5, float("nan"), float("inf"), 10**30, 10**400, 1j, Decimal(2),
    "", " ", "nope", "\0", "a\nb", "é\ud800", "x" * 5000, "{}", "%s", b"x",
    [], (), {}, set(), [None], ["nope"], [[]], [1, "a"], ["\0"], {"a": 1}, {1: None}, {"random": 3},
    range(3), object(), Unprintable(), int, len, Path("nowhere"), Path("notes.txt"), Path("run"),
    np.float32(2), np.int64(3), np.bool_(True), np.array(0), np.zeros(0), np.zeros((2, 3)),
    np.array(["a"]), np.array([None, 1], object), np.array([1], "M8[s]"), np.zeros((1, 1, 1)),
    (None, [None]), pd.NA, pd.NaT, pd.DataFrame(), pd.DataFrame({"a": [1]}), pd.Series([1.0]),
    xr.Dataset(), xr.Dataset({"auroc": 1.0}), xr.DataArray(0.0), xr.DataArray(np.zeros((2, 2))),
]  # fmt: skip
#: Among the tests each parameter of these gets a quarter of the values, that of others half:
#: neighbours in the list are alike, and the next parameter gets those left out. At night all.
SLOW = ["heatmap", "compare_splits", "small_multiples", "gain", "by_layer", "by_token"]
SLOW += ["save_chart", "run_pipeline", "probe_grid", "extract", "check_claims", "load_probe"]
SLOW += ["forest", "absorbed", "risk_coverage", "LanguageModel.answer"]
SLOW += ["calibration", "score_distribution", "describe", "estimate", "transfer_matrix"]
#: What may be given, though it is of no use: a judge is a function of the user's.
TAKEN = {("extract", "judge"): [int, len]}
#: Good objects, of another kind than most functions want.
OBJECTS = ["grid", "answers", "controls", "activations", "run", "chart", "probe", "lm", "questions"]
OBJECTS += ["detector", "gain"]


def value_of(value, good):
    return value(good) if isinstance(value, FunctionType) else value


def faults(name, changes, good):
    """What is wrong with how a call takes these values; None if nothing is."""
    function, arguments = CALLS[name]
    arguments = {n: value_of(v, good) for n, v in arguments.items() if n not in changes} | changes
    before, start = process_state(), time.process_time()
    try:
        with writing_only_in(good.folder):
            function(**arguments)
    except WorkBegan:
        pass
    except MISTAKES as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        if type(error) not in MISTAKES:
            return f"{type(error).__name__}: {error}"
        # Of a statement over several lines the first is given.
        line = linecache.getline(where.filename, where.lineno).strip()
        if not Path(where.filename).is_relative_to(PACKAGE) or not line.startswith("raise"):
            return f"{where.filename}:{where.lineno} {type(error).__name__}: {error}"
        if len(str(error)) > 1000:
            return f"{len(str(error)):,} characters: {str(error)[:100]}"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{where.filename}:{where.lineno} {type(error).__name__}: {str(error)[:200]}"
    taken = time.process_time() - start
    changed = [name for name, now in process_state().items() if now != before[name]]
    if changed:
        return f"changed {', '.join(changed)} of the process"
    return f"took {taken:.1f} s" if taken > LONGEST else None


# Libraries are loaded at the first call that needs them, and some add to the warnings.
LOADED = "changed warnings of the process"


def process_state():
    """What a function shares with all else in its process, and has to leave as it found it."""
    return {
        "torch's threads": torch.get_num_threads(),
        "threads of BLAS and OpenMP": [pool["num_threads"] for pool in POOLS.info()],
        "torch's precision": (torch.get_default_dtype(), torch.get_float32_matmul_precision()),
        "torch's gradients": torch.is_grad_enabled(),
        "torch's generator": torch.get_rng_state().numpy().tobytes(),
        "numpy's generator": pickle.dumps(np.random.get_state()),
        "numpy's errors": np.geterr(),
        "numpy's printing": np.get_printoptions(),
        "random's generator": random.getstate(),
        "warnings": list(warnings.filters),
        "environment": dict(os.environ),
        "working directory": os.getcwd(),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "locale": locale.setlocale(locale.LC_ALL),
        "decimals": str(decimal.getcontext()),
        "logging": (logging.root.level, logging.root.disabled, list(logging.root.handlers)),
        "xarray's options": xr.get_options(),
        "pandas' options": pd.get_option("display.max_rows"),
        "altair": (alt.renderers.active, alt.data_transformers.active, alt.theme.active),
        "hooks": (sys.excepthook, threading.excepthook, sys.displayhook),
        "cores": os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None,
        "path": list(sys.path),
    }


class WorkBegan(Exception):  # noqa: N818
    """The arguments were taken, and work that takes long would begin."""


def work(*arguments, **options):
    raise WorkBegan


class _Watch:
    folder = None


def _hook(event, arguments):
    if _Watch.folder is None or _Watch.thread != threading.get_ident():
        return
    if event == "open":
        path, mode, flags = arguments
        writes = (isinstance(mode, str) and set(mode) & set("wax+")) or (
            mode is None and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        )
        paths = [path] if writes else []
    elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree"):
        paths = arguments[:1]
    elif event in ("os.rename", "shutil.move"):
        paths = arguments[:2]
    elif event in ("os.link", "os.symlink"):
        paths = arguments[1:2]  # what they lead to stays as it is
    else:
        return
    for path in paths:
        if isinstance(path, (str, bytes, os.PathLike)):
            absolute = os.path.realpath(os.fsdecode(path))
            if not absolute.startswith((_Watch.folder, "/dev/", "/proc/")):
                raise AssertionError(f"{event}: {absolute} is outside the folder")


sys.addaudithook(_hook)


class writing_only_in:  # noqa: N801
    """While inside, nothing but what is below a folder (or its temporary files) is written."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __enter__(self):
        _Watch.thread, _Watch.folder = threading.get_ident(), self.folder

    def __exit__(self, *exception):
        _Watch.folder = None


@pytest.fixture(scope="module")
def extracted(good, tmp_path_factory):
    run = pk.Run(tmp_path_factory.mktemp("wrong_arguments") / "extracted")
    questions = write_questions(run.path.parent / "questions", 6)
    pk.extract(good.lm, pk.read_questions(questions), run, max_new_tokens=4, progress=False)
    return run


@pytest.fixture
def own(good, extracted, tmp_path, monkeypatch, request):
    """Good objects in a folder that a call may spoil, which is where it is called."""
    folder = tmp_path / "own"
    shutil.copytree(good.folder, folder)
    shutil.copytree(extracted.path, folder / "extracted")
    (folder / "temporary").mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "temporary"))
    monkeypatch.setattr(importlib.import_module("probekit.pipeline.notebooks"), "_execute", work)
    monkeypatch.setattr("probekit.cluster._CONNECTING", 0.1)
    # Four notebooks are read for each call.
    declared = functools.cache(parameters_module.notebook_parameters)
    monkeypatch.setattr(parameters_module, "notebook_parameters", declared)
    # Not one, which is what a cell is fitted with.
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    request.addfinalizer(lambda: torch.set_num_threads(threads))
    runs = {name: pk.Run(folder / name) for name in ("run", "made", "empty", "extracted")}
    return Own(**{**vars(good), **runs, "folder": folder})


class Own:
    def __init__(self, **things):
        self.__dict__.update(things)

    def __repr__(self):
        return "own"  # not pages of it where hypothesis says what failed


@pytest.mark.parametrize("name", CALLS)
def test_what_is_not_taken_is_refused(name, own):
    assert faults(name, {}, own) in (None, LOADED)
    assert faults(name, {}, own) is None, "the call that is right"
    found = []
    values = [*VALUES, *(getattr(own, each) for each in OBJECTS)]
    step = 1 if is_nightly() else 4 if name in SLOW else 2
    for number, parameter in enumerate(parameters(name)):
        for value in values[number % step :: step]:
            if any(value is each for each in TAKEN.get((name, parameter), [])):
                continue
            fault = faults(name, {parameter: value}, own)
            if fault:
                found.append(f"{parameter}={described(value)}: {fault}")
    assert not found, "\n".join(found)


def described(value):
    """A value in a line."""
    try:
        return " ".join(repr(value).split())[:60]
    except Exception:
        return type(value).__name__


ANYTHING = st.recursive(
    st.sampled_from([v for v in VALUES if not isinstance(v, Unprintable)])
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.binary(),
    lambda inside: (
        st.lists(inside, max_size=3)
        | st.tuples(inside, inside)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inside, max_size=3)
    ),
    max_leaves=4,
)


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_two_at_a_time(own, data):
    name = data.draw(st.sampled_from([name for name in CALLS if parameters(name)]))
    wrong = data.draw(st.lists(st.sampled_from(parameters(name)), min_size=1, max_size=2))
    changes = {parameter: data.draw(ANYTHING) for parameter in wrong}
    if "judge" not in wrong:  # which may be any function
        fault = faults(name, changes, own)
        assert (faults(name, changes, own) if fault == LOADED else fault) is None
