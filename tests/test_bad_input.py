"""What users get wrong, and the text that they see: every public function and every parameter."""

import re
import sys
from types import FunctionType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from made_run import made_run

import probekit as pk

NAN, INF = float("nan"), float("inf")
HUGE = 10**400


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """Good objects of every kind; what a case spoils is made of them."""
    folder = tmp_path_factory.mktemp("bad_input")
    activations = make_activations()
    grid = pk.probe_grid(activations, n_permutations=1, n_jobs=1, progress=False)
    answers = activations.drop_vars("activation").drop_dims(["layer", "token"])
    answers = answers.to_dataframe().reset_index(drop=True).assign(n_tokens=8)
    run = pk.Run(folder / "run")
    run.begin("probe", {}).finish([run.save_grids({"random": grid})], splits=["random"])
    return SimpleNamespace(
        folder=folder,
        activations=activations,
        grid=grid,
        answers=answers,
        numbers=activations["correct"].astype(int),
        controls=pk.controls(answers, grid),
        run=run,
        probe=pk.load_probe(run, 1, "-1"),
        made=made_run(folder / "made", n=60, layers=3),
        empty=pk.Run(folder / "empty"),
    )


def make_activations(n=60, features=4):
    """Noise, half of the answers wrong."""
    X = np.random.default_rng(0).standard_normal((n, 2, 2, features), dtype=np.float32)
    return xr.Dataset(
        {"activation": (("example", "layer", "token", "feature"), X)},
        coords={
            "layer": [0, 1],
            "token": ["last_q", "-1"],
            "id": ("example", [f"q{i}" for i in range(n)]),
            "question": ("example", [f"Where is town {i}?" for i in range(n)]),
            "exact_answer": ("example", [f"country {i % 9}" for i in range(n)]),
            "correct": ("example", np.arange(n) % 2 == 0),
        },
        attrs={"model": "made up", "site": "mlp_out"},
    )


# Per function the arguments of a good call.
CALLS = {
    "probe_grid": (pk.probe_grid, {"activations": lambda good: good.activations}),
    "controls": (
        pk.controls,
        {"answers": lambda good: good.answers, "grid": lambda good: good.grid},
    ),
    "control_table": (pk.control_table, {"controls": lambda good: good.controls}),
    "gain_over_controls": (
        pk.gain_over_controls,
        {"grid": lambda good: good.grid, "controls": lambda good: good.controls},
    ),
    "load_probe": (pk.load_probe, {"run": lambda good: good.run, "layer": 1, "token": "last_q"}),
    "predict_proba": (lambda probe, X: probe.predict_proba(X), {"probe": lambda good: good.probe}),
    "estimate": (
        pk.estimate,
        {
            "questions": 100,
            "parameters": 1e6,
            "layers": 3,
            "hidden_size": 32,
            "prompt_tokens": 10,
            "response_tokens": 20,
        },
    ),
}

# What must be: function, argument, expected, values of another kind, values that can't be used.
WHOLE, AT_MOST = "a whole number of at least {}", "a whole number from 0 to {}"
SEED, PERMUTATIONS = AT_MOST.format("4,294,967,295"), AT_MOST.format("10,000")
C, SIZE = "a number from 1e-06 to 1,000,000", "a number from 1 to 1e+15"
RANDOM = "text such as 'random'"
YES_OR_NO = "True or False"
MUST_BE = [
    ("probe_grid", "protocol", "one of cross-validated, published;", [None, 5], ["random", ""]),
    ("probe_grid", "folds", WHOLE.format(2), [2.5, "5", True, None], [1, 0, -3]),
    ("probe_grid", "C", C, ["1", True, None, {}, [1, None]], [0, -1.0, NAN, INF, 1e-7, 1e7]),
    ("probe_grid", "seed", SEED, [None, 0.0, "0"], [-1, 2**32]),
    ("probe_grid", "split", RANDOM, [3, None], []),
    ("probe_grid", "standardize", YES_OR_NO, ["no", 1, None], []),
    ("probe_grid", "n_permutations", PERMUTATIONS, [19.0, "19", True], [-1, 10**6]),
    ("probe_grid", "n_jobs", WHOLE.format(1), [], [0]),
    ("probe_grid", "n_jobs", WHOLE.format(-1), [1.5, "all", True], [-2]),
    ("probe_grid", "progress", YES_OR_NO, [1, None], []),
    ("load_probe", "layer", WHOLE.format(0), ["1", 1.0, None, False], [-1]),
    ("load_probe", "token", "text such as '-1'", [-1, None], []),
    ("load_probe", "split", RANDOM, [0, None], []),
    ("estimate", "questions", SIZE, [None, "1k", True], [0, -5, NAN, INF]),
    ("estimate", "parameters", SIZE, ["7B"], [0.5, 1e16]),
    ("estimate", "copied", YES_OR_NO, ["no", 0], []),
    ("estimate", "device", "one of CPU, A100;", [0, None], ["gpu"]),
    ("estimate", "n_permutations", PERMUTATIONS, [0.5], [-1]),
]

# Function, what is given instead of its good arguments, and what is said of it. A function of
# `good` makes it when the test runs. An ellipsis stands for what differs between machines or is
# another package's wording; FOLDER for the test's own.
NO_ACTIVATIONS = (
    "activations must be a Dataset with `activation(example, layer, token, feature)`, such as "
    "Run.activations() gives; got {}."
)
NO_GRID = "grid must be an xarray Dataset, such as probe_grid or Run.grid gives; got {}."
NO_CONTROLS = "controls must be from pk.controls(answers, grid) or Run.controls; got {}."
NOT_NUMBERS = "X must be numbers of shape (examples, features), got {}."
NO_DEVICE = (
    "torch can't use device='{}' here: {}. Give one that it can, such as '…', or leave it out."
)
CASES = {
    "probe_grid": [
        ({"activations": None}, TypeError, NO_ACTIVATIONS.format(None)),
        (
            {"activations": lambda good: good.activations["activation"]},
            TypeError,
            NO_ACTIVATIONS.format("DataArray"),
        ),
        ({"activations": lambda good: good.grid}, TypeError, NO_ACTIVATIONS.format("Dataset")),
        (
            {"activations": lambda good: good.activations.isel(layer=0, token=0)},
            ValueError,
            "The activations lack layer, token.",
        ),
        (
            {"activations": lambda good: good.activations.drop_vars("correct")},
            ValueError,
            "The activations lack correct.",
        ),
        (
            {"activations": lambda good: good.activations.isel(layer=[])},
            ValueError,
            "The activations are empty: they have no layer.",
        ),
        (
            {"activations": lambda good: good.activations.astype("S4")},
            ValueError,
            "The activations must be numbers, they are |S4.",
        ),
        (
            {"activations": lambda good: good.activations.assign_coords(correct=("layer", [0, 1]))},
            ValueError,
            "`correct` must be over (example), it is over (layer).",
        ),
        (
            {"activations": lambda good: good.activations.assign_coords(correct=good.numbers)},
            ValueError,
            "`correct` must be boolean, got int64. Convert it: "
            "activations.assign_coords(correct=activations.correct.astype(bool)).",
        ),
        (
            {"split": " "},
            ValueError,
            "split must be text such as 'random', got an empty one.",
        ),
        (
            {"split": "answers"},
            ValueError,
            'split must be "random", "answer" or a coordinate on example (id, question, '
            "exact_answer, correct); got 'answers'.",
        ),
        (
            {"protocol": "publshed"},
            ValueError,
            "protocol must be one of cross-validated, published; got 'publshed'. Did you mean "
            "'published'?",
        ),
        (
            {"folds": 10**9},
            ValueError,
            "1000000000 folds need at least 1000000000 wrong answers with an exact answer, got 30 "
            "of 60. Use fewer folds, more questions, or another question file.",
        ),
        ({"C": []}, ValueError, "C must be a number or several, got none."),
        (
            {"C": [1, 2], "folds": 2},
            ValueError,
            "folds=2 takes one value of C, got 2: to choose one inside the training folds takes at "
            "least 3 folds.",
        ),
        (
            {"method": "logstic"},
            ValueError,
            "method must be one of logistic, ridge, discriminant, mean_difference; got 'logstic'. "
            "Did you mean 'logistic'?",
        ),
        (
            {"method": dict},
            TypeError,
            "method must be one of logistic, ridge, discriminant, mean_difference, or a "
            "scikit-learn classifier such as LogisticRegression(); got <class 'dict'>.",
        ),
        (
            {"method": None},
            TypeError,
            "method must be one of logistic, ridge, discriminant, mean_difference, or a "
            "scikit-learn classifier such as LogisticRegression(); got None.",
        ),
        ({"device": "gpu"}, ValueError, NO_DEVICE.format("gpu", "…")),
        ({"device": "cuda:99"}, ValueError, NO_DEVICE.format("cuda:99", "…")),
        ({"device": "meta"}, ValueError, NO_DEVICE.format("meta", "it holds no numbers")),
        ({"device": 0}, TypeError, "device must be text such as '…', got 0."),
        (
            {"scheduler": 8786},
            TypeError,
            "scheduler must be an address such as 'tcp://127.0.0.1:8786' or a distributed.Client, "
            "got 8786.",
        ),
    ],
    "controls": [
        ({"answers": []}, TypeError, "answers must be Run.answers(), got list."),
        (
            {"answers": pd.DataFrame()},
            ValueError,
            "The answers lack the columns id, question, correct, n_tokens, exact_answer.",
        ),
        (
            {"answers": lambda good: good.answers[:0]},
            ValueError,
            "60 of the grid's 60 examples are not among the 0 answers, the first is 'q0'. Are they "
            "of different runs? Take both from the same one: run.answers(), run.grid().",
        ),
        ({"grid": None}, TypeError, NO_GRID.format(None)),
        ({"grid": lambda good: good.grid["auroc"]}, TypeError, NO_GRID.format("DataArray")),
        (
            {"grid": lambda good: good.grid.drop_dims("feature")},
            ValueError,
            "The grid has no coefficients: it is of an example run, which comes with its controls. "
            "Take those: run.controls().",
        ),
        (
            {"grid": lambda good: good.grid.drop_attrs()},
            ValueError,
            "The grid lacks the attribute split, protocol, folds, seed, C. Take it from probe_grid "
            "or Run.grid as it is: arithmetic on a grid drops its attributes.",
        ),
    ],
    "control_table": [
        ({"controls": None}, TypeError, NO_CONTROLS.format(None)),
        ({"controls": lambda good: good.grid}, TypeError, NO_CONTROLS.format("Dataset")),
        (
            {"controls": lambda good: good.controls.isel(control=[])},
            ValueError,
            "The controls lack any row.",
        ),
        (
            {"controls": lambda good: good.controls.drop_vars("auroc")},
            ValueError,
            "The controls lack auroc.",
        ),
    ],
    "gain_over_controls": [
        ({"grid": 3}, TypeError, NO_GRID.format(3)),
        ({"controls": None}, TypeError, NO_CONTROLS.format(None)),
        (
            {"controls": lambda good: good.controls.isel(example=slice(9))},
            ValueError,
            "The controls are of another grid: examples, labels or folds differ. Make them from "
            "this one: pk.controls(answers, grid).",
        ),
    ],
    "load_probe": [
        (
            {"run": "data/runs/cities"},
            TypeError,
            "run must be a Run, such as Run(\"data/runs/cities\"); got 'data/runs/cities'.",
        ),
        (
            {"run": lambda good: good.empty},
            FileNotFoundError,
            "FOLDER/empty holds no finished probe stage. Run the probe stage again: probekit run, "
            "or its notebook.",
        ),
        ({"layer": 99}, ValueError, "The grid has no layer 99. It has: 0, 1."),
        (
            {"token": "exact_answer"},
            ValueError,
            "The grid has no token 'exact_answer'. It has: last_q, -1.",
        ),
        (
            {"split": "answer"},
            ValueError,
            "FOLDER/run/grid.nc has no split 'answer'. It has: random.",
        ),
    ],
    "predict_proba": [
        (
            {"X": np.zeros(4)},
            ValueError,
            "X must have shape (examples, features), got (4,).",
        ),
        (
            {"X": np.zeros((3, 5))},
            ValueError,
            "X has 5 features, but this probe of mlp_out activations at layer 1, token -1 takes 4. "
            "Give it activations of the same model and site.",
        ),
        (
            {"X": [[0, 0, 0, NAN]]},
            ValueError,
            "1 of 1 examples have activations that are NaN or infinite, the first is example 0. A "
            "response that lacks the token has none: leave such examples out.",
        ),
        ({"X": [["a", "b"]]}, ValueError, NOT_NUMBERS.format([["a", "b"]])),
        ({"X": [[1, 2], [1]]}, ValueError, NOT_NUMBERS.format([[1, 2], [1]])),
        ({"X": None}, ValueError, "X must have shape (examples, features), got ()."),
    ],
    "estimate": [
        ({"runs": HUGE}, ValueError, "runs must be a number from 1 to 1e+15, got int."),
        (
            {"device": "A10"},
            ValueError,
            "device must be one of CPU, A100; got 'A10'. Did you mean 'A100'?",
        ),
    ],
}


def every_case():
    """Each case with an id that says what is given."""
    for name, argument, expected, other_kinds, unusable in MUST_BE:
        for kind, values in ((TypeError, other_kinds), (ValueError, unusable)):
            for value in values:
                text = f"{argument} must be {expected}{'' if expected.endswith(';') else ','}"
                text += f" got {value[-1] if isinstance(value, list) else value!r}."
                yield name, {argument: value}, kind, text
    for name, cases in CASES.items():
        for case in cases:
            yield name, *case


@pytest.mark.parametrize(
    ("name", "changes", "kind", "text"),
    list(every_case()),
    ids=[f"{name}({', '.join(changes)}) {text}"[:90] for name, changes, _, text in every_case()],
)
def test_the_user_is_told(name, changes, kind, text, good, monkeypatch):
    function, arguments = CALLS[name]
    arguments = {
        argument: value(good) if isinstance(value, FunctionType) else value
        for argument, value in (arguments | changes).items()
    }
    # An error comes before anything is computed or written.
    monkeypatch.chdir(good.folder)
    monkeypatch.setattr(sys.modules["probekit.grid"], "fit_cell", no_work)
    monkeypatch.setattr(sys.modules["probekit.extract"], "answer_shard", no_work)
    before = files(good.folder)
    with pytest.raises((ValueError, TypeError, FileNotFoundError)) as error:
        function(**arguments)
    said = str(error.value).replace(str(good.folder), "FOLDER")
    pattern = ".+".join(map(re.escape, text.split("…")))
    assert re.fullmatch(pattern, said, re.DOTALL), said
    assert type(error.value) is kind
    assert files(good.folder) == before


def no_work(*arguments, **options):
    raise AssertionError("work was done before the error")


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
