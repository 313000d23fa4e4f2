"""What users get wrong, and the text that they see: every public function and every parameter."""

import contextlib
import importlib
import io
import re
from dataclasses import replace
from types import FunctionType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from held_run import HeldRun
from made_run import made_run
from tiny import write_questions

import probekit as pk
from probekit.__main__ import main
from probekit.pipeline.parameters import defaults
from probekit.run.directory import Stage
from probekit.run.files import resource

NAN, INF = float("nan"), float("inf")
HUGE, DIGITS = 10**400, "a number of more than 60 digits."


@pytest.fixture(scope="session")
def good(tmp_path_factory, tiny_model_dir):
    """Good objects of every kind; what a case spoils is made of them."""
    folder = tmp_path_factory.mktemp("bad_input")
    activations = make_activations()
    grid = pk.probe_grid(activations, n_permutations=1, n_jobs=1, progress=False)
    answers = activations.drop_vars("activation").drop_dims(["layer", "token"])
    answers = answers.to_dataframe().reset_index(drop=True).assign(n_tokens=8)
    controls = pk.controls(answers, grid)
    (folder / "empty").mkdir()
    (folder / "questions.csv").write_text("question,answers\nWhere is Oslo?,Norway\n")
    (folder / "empty.csv").write_text("")
    (folder / "header.csv").write_text("question,answers\n")
    (folder / "binary.csv").write_bytes(b"\x89PNG\r\n\x1a\n\0\xff")
    (folder / "notes.txt").write_text("Where is Oslo? Norway.")
    (folder / "no_model").mkdir()
    for name, content in PARAMETER_FILES.items():
        (folder / name).write_bytes(content)
    detector = pk.detector(grid, controls)
    run = pk.Run(folder / "run")
    lm = pk.load_model(tiny_model_dir, device="cpu")
    probed = probed_run(folder / "probed", lm)
    made = [run.save_grids({"random": grid}), run.save_detectors({"random": detector})]
    random = np.random.default_rng(0)
    wrong = np.arange(40) % 2 == 0
    held = [HeldRun(name, random.normal(size=(40, 1, 1, 3)), wrong) for name in ("one", "two")]
    run.begin("probe", {}).finish(made, splits=["random"])
    return SimpleNamespace(
        folder=folder,
        activations=activations,
        grid=grid,
        answers=answers,
        numbers=activations["correct"].astype(int),
        controls=controls,
        detector=detector,
        of_fewer=pk.detector(grid.isel(example=slice(50))),
        run=run,
        probe=pk.load_probe(run, 1, "-1"),
        made=made_run(folder / "made", n=60, layers=3),
        lm=lm,
        model_dir=tiny_model_dir,
        questions=pk.read_questions("cities", limit=3),
        empty=pk.Run(folder / "empty"),
        chart=pk.heatmap(grid),
        gain=pk.gain_over_controls(grid, controls),
        held=held,
        transfers=pk.transfer(held),
        samples=pk.Run(resource("data/examples") / "samples"),
        choice=pk.choose_answers(pk.Run(resource("data/examples") / "samples")),
        probed=probed,
        effects=pk.intervene(lm, probed, n_questions=2, flips=False, progress=False),
    )


def probed_run(folder, lm):
    """A run of the tiny model, with probes in its grid."""
    run = pk.Run(folder)
    questions = write_questions(folder.with_name("asked"), 60)
    pk.extract(lm, pk.read_questions(questions), run, max_new_tokens=12, progress=False)
    stage = run.begin("probe", {})
    options = {"folds": 2, "n_permutations": 1, "n_jobs": 1, "progress": False}
    grid = pk.probe_grid(run.activations().load(), **options)
    stage.finish([run.save_grids({"random": grid})], splits=["random"])
    return run


PARAMETER_FILES = {
    "cut.yaml": b"limit: 3\nsplit: [",
    "colon.yaml": b"limit: 3\nsplit: random: answer",
    "list.yaml": b"- limit\n- split",
    "text.yaml": b"limit 200",
    "twice.yaml": b"limit: 3\nC: 1\nlimit: 4\n",
    "unknown.yaml": b"limit: 3\nlimits: 4\n",
    "nested.yaml": b"limit: 3\nsplit: [random, answer]\n",
    "no_value.yaml": b"limit:\n",
    "no_name.yaml": b"? [limit]\n: 3\n",
    "date.yaml": b"limit: 2026-13-01\n",
    "quoted.yaml": b"limit: '10'\n",
    "bom.yaml": b"\xef\xbb\xbfsplit: rondom\r\n",
    "no_point.yaml": b"C: 1e-9\n",
    "comments.yaml": b"# limit: 3\n",
    "empty.yaml": b"",
    "utf-16.yaml": "limit: 3\n".encode("utf-16"),
    "binary.yaml": b"\x89PNG\r\n\x1a\n\0\xff",
    "nought.yaml": b"limit: \0\0\0",
    "deep.yaml": b"[" * 2_000,
}


def probekit(arguments):
    """The command; raises what it says."""
    with contextlib.redirect_stderr(io.StringIO()) as said, pytest.raises(SystemExit) as ended:
        raise SystemExit(main(["run", *map(str, arguments)]))
    # argparse says how the command is used first.
    *usage, error = said.getvalue().splitlines() or [""]
    assert ended.value.code == (2 if usage else 1)
    raise ValueError(error)


def method(name):
    """A method as a function of its object, and of the rest by name."""
    return lambda self, **arguments: getattr(self, name)(**arguments)


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


def score(good):
    return good.grid["score"].sel(layer=1, token="-1").to_numpy()


def correct(good):
    return good.grid["correct"].to_numpy()


LABELLED = pd.DataFrame({"id": ["q0", "q1"], "correct": ["true", "false"]})

# Per function the arguments of a good call.
CALLS = {
    "read_questions": (
        pk.read_questions,
        {"source": lambda good: good.folder / "questions.csv"},
    ),
    "load_model": (pk.load_model, {"name": lambda good: good.model_dir}),
    "grade": (pk.grade, {"response": "Oslo.", "answers": ["Oslo"]}),
    "find_span": (pk.find_span, {"response": "Oslo.", "question": "Where?", "candidates": None}),
    "is_refusal": (pk.is_refusal, {}),
    "audit": (pk.audit, {"run": lambda good: good.made}),
    "preflight": (pk.preflight, {"run": lambda good: good.made}),
    "grader_error": (
        pk.grader_error,
        {"run": lambda good: good.made, "labelled": LABELLED},
    ),
    "check_model": (pk.check_model, {"lm": lambda good: good.lm}),
    "extract": (
        pk.extract,
        {
            "lm": lambda good: good.lm,
            "questions": lambda good: good.questions,
            "run": lambda good: pk.Run(good.folder / "new"),
        },
    ),
    "show_tokens": (pk.show_tokens, {"run": lambda good: good.made}),
    "held_out_splits": (pk.held_out_splits, {"dataset": lambda good: good.activations}),
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
    "difference": (
        pk.difference,
        {"grid_a": lambda good: good.grid, "grid_b": lambda good: good.grid},
    ),
    "detector": (pk.detector, {"grid": lambda good: good.grid}),
    "Detector.threshold": (method("threshold"), {"self": lambda good: good.detector}),
    "Detector.predict": (
        method("predict"),
        {
            "self": lambda good: good.detector,
            "lm": lambda good: good.lm,
            "questions": lambda good: good.questions,
        },
    ),
    "Detector.__call__": (
        method("__call__"),
        {
            "self": lambda good: good.detector,
            "activations": lambda good: good.activations,
        },
    ),
    "Detector.save": (
        method("save"),
        {"self": lambda good: good.detector, "folder": lambda good: good.folder / "saved"},
    ),
    "LanguageModel.answer": (
        method("answer"),
        {"self": lambda good: good.lm, "questions": lambda good: good.questions},
    ),
    "load_probe": (pk.load_probe, {"run": lambda good: good.run, "layer": 1, "token": "last_q"}),
    "predict_proba": (lambda probe, X: probe.predict_proba(X), {"probe": lambda good: good.probe}),
    "transfer": (pk.transfer, {"runs": lambda good: good.held}),
    "choose_answers": (pk.choose_answers, {"run": lambda good: good.samples}),
    "load_model_of": (pk.load_model_of, {"run": lambda good: good.probed, "device": "cpu"}),
    "headline": (pk.headline, {"run": lambda good: good.run}),
    "watch": (pk.watch, {"lm": lambda good: good.lm, "detector": lambda good: good.detector}),
    "error_types": (pk.error_types, {"run": lambda good: good.samples}),
    "choices": (pk.choices, {"choice": lambda good: good.choice}),
    "effects": (pk.effects, {"interventions": lambda good: good.effects}),
    "intervene": (
        pk.intervene,
        {
            "lm": lambda good: good.lm,
            "run": lambda good: good.probed,
            "n_questions": 1,
            "flips": False,
            "progress": False,
        },
    ),
    "transfer_matrix": (pk.transfer_matrix, {"transfers": lambda good: good.transfers}),
    "heatmap": (pk.heatmap, {"grid": lambda good: good.grid}),
    "compare_splits": (pk.compare_splits, {"grids": lambda good: {"random": good.grid}}),
    "small_multiples": (pk.small_multiples, {"grids": lambda good: {"random": good.grid}}),
    "gain": (pk.gain, {"grid": lambda good: good.gain}),
    "absorbed": (pk.absorbed, {"gains": lambda good: good.gain}),
    "forest": (pk.forest, {"controls": lambda good: good.controls}),
    "by_layer": (pk.by_layer, {"grid": lambda good: good.grid, "tokens": ["-1"]}),
    "by_token": (pk.by_token, {"grid": lambda good: good.grid}),
    "calibration": (pk.calibration, {"score": score, "correct": correct}),
    "risk_coverage": (
        pk.risk_coverage,
        {"scores": lambda good: {"probe": score(good)}, "correct": correct},
    ),
    "score_distribution": (pk.score_distribution, {"score": score, "correct": correct}),
    "save_chart": (
        pk.save_chart,
        {"chart": lambda good: good.chart, "path": lambda good: good.folder / "chart"},
    ),
    "static": (pk.static, {"chart": lambda good: good.chart}),
    "findings": (pk.findings, {"grid": lambda good: good.grid}),
    "describe": (pk.describe, {"grid": lambda good: good.grid}),
    "check_claims": (pk.check_claims, {"grid": lambda good: good.grid}),
    "claims_table": (pk.claims_table, {"claims": lambda good: pk.check_claims(good.grid)}),
    "write_report": (pk.write_report, {"run": lambda good: good.run}),
    "explore": (pk.explore, {"run": lambda good: good.made}),
    "open_run": (pk.open_run, {}),
    "Run": (pk.Run, {}),
    "Run.activations": (method("activations"), {"self": lambda good: good.made}),
    "Run.grid": (method("grid"), {"self": lambda good: good.made}),
    "Run.controls": (method("controls"), {"self": lambda good: good.run}),
    "Run.detector": (method("detector"), {"self": lambda good: good.run}),
    "Run.manifest": (method("manifest"), {"self": lambda good: good.run, "stage": "probe"}),
    "Run.save_grids": (
        method("save_grids"),
        {"self": lambda good: good.run, "grids": lambda good: {"random": good.grid}},
    ),
    "Run.save_detectors": (
        method("save_detectors"),
        {"self": lambda good: good.run, "detectors": lambda good: {"random": good.detector}},
    ),
    "Run.write_text": (
        method("write_text"),
        {"self": lambda good: good.run, "name": "note.md", "text": "It is so."},
    ),
    "Run.begin": (
        method("begin"),
        {"self": lambda good: good.run, "stage": "probe", "parameters": {}},
    ),
    "Stage.finish": (
        method("finish"),
        {"self": lambda good: Stage(good.run, "probe", {}, {}), "outputs": []},
    ),
    "check_parameters": (pk.check_parameters, {}),
    "run_pipeline": (
        pk.run_pipeline,
        {"run_dir": lambda good: good.folder / "new", "progress": False},
    ),
    "probekit run": (probekit, {}),
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
A_LIST = "a list such as ['last_q']"
OUTLINE = "a list of (layer, token) such as [(12, '-1')]"
CELL = 'cell must be "chosen", or a layer and a token such as (13, "exact_answer_last"); got {}.'
MEASURE, LEVEL = "one of auroc, correlation;", "True, False or a level between 0 and 1"
CHARTS = ("heatmap", "compare_splits", "small_multiples", "gain", "absorbed", "by_layer")
CHARTS += ("by_token",)
SITE = "one of mlp_out, attn_out, resid_post, mlp_act;"
SITES = f"{SITE[:-1]}, or several such as 'mlp_out, mlp_act';"
SPLIT = "one of random, answer, group, published;"
KIND = "one of text, number, date, yes_no, choice;"
BY_HAND = "the path of a CSV file or a DataFrame"
STAGE = "one of extract, probe, visualize, interpret, transfer, choose, intervene;"
PER_SPLIT = "a dict of a Dataset per split, such as {'random': grid};"
DETECTORS = "a dict of a Detector per split, such as {'random': detector};"
DTYPE = "a floating-point dtype of torch such as torch.bfloat16"
# What extraction and the parameters of its notebook refuse alike.
CORRECTIONS = [
    (
        {"corrections": "nowhere.csv"},
        FileNotFoundError,
        "corrections: there is no file 'nowhere.csv'.",
    ),
    (
        {"corrections": "notes.txt"},
        ValueError,
        "corrections: 'notes.txt' must be a file that ends in .csv.",
    ),
    (
        {"corrections": "questions.csv"},
        ValueError,
        "questions.csv needs the columns id and correct, exact_answer or both, each once. Columns "
        "found: question, answers.",
    ),
]
SAMPLING = [
    (
        {"temperature": 1e-6},
        ValueError,
        "temperature must be 0 or from 0.01 to 100, got 1e-06.",
    ),
    (
        {"n_samples": 3},
        ValueError,
        "n_samples=3 with temperature=0 gives the same answer 3 times. Set a temperature, such as "
        "1.0.",
    ),
]
MUST_BE = [
    ("read_questions", "limit", WHOLE.format(0), [1.0, "all", None, True], [-1]),
    *(
        ("read_questions", column, f"text such as {column!r}", [None, 0, ["a"]], [])
        for column in ("answers", "id", "candidates", "kind", "group")
    ),
    *(
        ("read_questions", column, f"text such as {column!r}", [None, 0, []], [])
        for column in ("question", "choices")
    ),
    ("load_model", "device", "text such as '…'", [99, 1.5, True], []),
    ("load_model", "dtype", DTYPE, [16, True], ["float17", "int8", "auto8"]),
    ("load_model", "revision", "text such as 'main'", [2, True], []),
    ("load_model", "trust_remote_code", YES_OR_NO, ["yes", None], []),
    ("load_model", "weights", YES_OR_NO, [0], []),
    ("grade", "response", "text", [None, 3, NAN, b"Oslo"], []),
    ("grade", "question", "text", [None], []),
    ("grade", "answers", "a list of texts", [None, 3, {}], []),
    ("find_span", "response", "text", [None, 3], []),
    ("find_span", "question", "text", [None], []),
    ("is_refusal", "response", "text", [None, NAN, []], []),
    ("extract", "max_new_tokens", WHOLE.format(1), [2.5, "9", True, None], [0, -1]),
    ("extract", "n_samples", "a whole number from 1 to 10,000", [1.0, None], [0, 10**9]),
    ("extract", "temperature", "a number from 0 to 100", ["hot", None, True], [-1, NAN, INF, 1e9]),
    ("extract", "top_p", "a number from 1e-06 to 1", ["0.9", None], [0, 1.5, NAN]),
    ("extract", "seed", SEED, [None, 1.5], [-1, 2**32]),
    ("extract", "p_true", YES_OR_NO, ["yes", 1], []),
    ("extract", "corrections", BY_HAND, [3, ["a.csv"], {}], []),
    ("audit", "sample", WHOLE.format(0), [2.5, "50", None], [-1]),
    ("audit", "seed", SEED, [None, "0"], [-1]),
    ("preflight", "seed", SEED, [None, "0"], [-1]),
    ("grader_error", "labelled", BY_HAND, [3, [], True], []),
    ("grader_error", "auroc", "a number from 0 to 1", ["0.8", [0.8]], [-0.1, 1.5, NAN]),
    ("extract", "batch_size", WHOLE.format(1), ["all", 2.0], [0, -3]),
    ("extract", "progress", YES_OR_NO, [None], []),
    ("extract", "site", SITES, [None, 3, [3]], [[], "", "mlp_out,"]),
    ("show_tokens", "n", WHOLE.format(1), [2.5, None, "5"], [-1, 0]),
    ("show_tokens", "seed", SEED, ["a", None], [-1]),
    ("held_out_splits", "folds", WHOLE.format(2), [2.5, "5", True, None], [1, 0, -3]),
    ("held_out_splits", "seed", SEED, [None, 0.0, "0"], [-1, 2**32]),
    ("held_out_splits", "needed", RANDOM, [3, None], []),
    ("probe_grid", "protocol", "one of cross-validated, published;", [None, 5], ["random", ""]),
    ("probe_grid", "folds", WHOLE.format(2), [2.5, "5", True, None], [1, 0, -3]),
    ("probe_grid", "C", C, ["1", True, None, {}], [0, -1.0, NAN, INF, 1e-7, 1e7]),
    ("probe_grid", "seed", SEED, [None, 0.0, "0"], [-1, 2**32]),
    ("probe_grid", "split", RANDOM, [3, None], []),
    ("probe_grid", "standardize", YES_OR_NO, ["no", 1, None], []),
    ("probe_grid", "n_permutations", PERMUTATIONS, [19.0, "19", True], [-1, 10**6]),
    ("probe_grid", "n_jobs", WHOLE.format(1), [1.5, "all", True], [0, -2]),
    ("probe_grid", "progress", YES_OR_NO, [1, None], []),
    ("load_probe", "layer", WHOLE.format(0), ["1", 1.0, None, False], [-1]),
    ("load_probe", "token", "text such as '-1'", [-1, None], []),
    ("load_probe", "split", RANDOM, [0, None], []),
    *((name, "title", "text", [3, None], []) for name in CHARTS if name != "gain"),
    ("gain", "title", "text", [3], []),
    *((name, "tokens", A_LIST, [None, 2.5], []) for name in CHARTS),
    ("heatmap", "measure", MEASURE, [None, 1], ["r2", ""]),
    ("heatmap", "mute", LEVEL, ["0.05", [0.05]], [0, 1, 5.0, -1, NAN]),
    (
        "heatmap",
        "outline",
        OUTLINE,
        [None, 3, "cell", [3]],
        [],
    ),
    ("heatmap", "common", YES_OR_NO, [None, 1, "yes"], []),
    *((name, "title", "text", [3, None], []) for name in ("forest", "risk_coverage")),
    ("transfer_matrix", "title", "text", [3, None], []),
    ("transfer", "split", RANDOM, [3, []], []),
    ("choices", "title", "text", [3, None], []),
    ("watch", "candidates", "text such as 'countries'", [3, []], []),
    ("watch", "error_rate", "a number from 0 to 1", ["20%", None, True], [-0.1, 20]),
    ("watch", "max_new_tokens", WHOLE.format(1), [2.5, "9", None], [0, -1]),
    ("effects", "title", "text", [3, None], []),
    ("intervene", "split", RANDOM, [3, []], []),
    ("intervene", "n_questions", WHOLE.format(0), [1.5, "all", None, True], [-1]),
    ("intervene", "n_random", "a whole number from 20 to 10,000", ["20", None], [0, 19, 10**9]),
    ("intervene", "dose", "a number from 0.001 to 1,000", ["4", None, True], [0, -4, NAN, INF]),
    ("intervene", "flips", YES_OR_NO, [1, "yes", None], []),
    ("intervene", "seed", SEED, [None, 1.5], [-1, 2**32]),
    ("intervene", "progress", YES_OR_NO, [None], []),
    ("detector", "tokens", A_LIST, [2.5], []),
    ("detector", "layers", "a list such as [3]", [3], []),
    ("Detector.threshold", "error_rate", "a number from 0 to 1", ["20%", None, True], [-0.1, 20]),
    ("Detector.threshold", "confidence", "a number from 0.5 to 1", ["95%", None], [0.05, 95, NAN]),
    ("compare_splits", "measure", MEASURE, [None], ["p"]),
    ("compare_splits", "mute", LEVEL, ["yes"], [2]),
    ("small_multiples", "measure", MEASURE, [None], ["p"]),
    ("small_multiples", "columns", WHOLE.format(1), [2.5, "3", None], [0]),
    ("calibration", "bins", WHOLE.format(1), [2.5, "10", None, True], [0, -1]),
    ("score_distribution", "bins", "a whole number from 1 to 10,000", [2.5], [0, 10**9]),
    ("save_chart", "path", "text or a Path", [None, 3], []),
    ("explore", "measure", "one of auroc, correlation, gain;", [None], ["p"]),
    ("explore", "split", RANDOM, [3], []),
    ("Run.activations", "site", "text such as 'mlp_out'", [0, []], [""]),
    ("Run.grid", "split", RANDOM, [None, 1], [""]),
    ("Run.controls", "split", RANDOM, [None], []),
    ("Run.manifest", "stage", STAGE, [None, 1], ["", "../grid", "train"]),
    ("Run.begin", "stage", STAGE, [None], ["train"]),
    ("Run.begin", "parameters", "a dict, such as {'seed': 0};", [None, "seed"], []),
    ("Run.begin", "inputs", "a list of paths", [None, "questions.csv", 3], []),
    ("Run.save_grids", "grids", PER_SPLIT, [None, [], {}, {"random": None}], []),
    ("Run.save_detectors", "detectors", DETECTORS, [None, [], {}, {"random": None}], []),
    ("Run.detector", "split", RANDOM, [1], [" "]),
    ("Stage.finish", "outputs", "a list of paths", [None, "grid.nc"], []),
    ("check_parameters", "run_dir", "text such as 'data/runs/cities'", [3, None], []),
    ("check_parameters", "run_dirs", "a list of texts", [3, None], []),
    ("check_parameters", "greedy_dir", "text such as 'data/runs/cities'", [3, None], []),
    ("check_parameters", "n_questions", WHOLE.format(0), [1.5, "all", None], [-1]),
    ("check_parameters", "n_random", "a whole number from 20 to 10,000", ["20", None], [19]),
    ("check_parameters", "dose", "a number from 0.001 to 1,000", ["4", None], [0, NAN]),
    ("check_parameters", "model", "text such as 'smollm2'", [3, None], []),
    ("check_parameters", "questions", "text such as 'cities'", [["cities"], None], []),
    ("check_parameters", "question_column", "text such as 'question'", [None, 0], []),
    ("check_parameters", "answers_column", "text such as 'answers'", [["answers"]], []),
    ("check_parameters", "choices_column", "text such as 'choices'", [None, 0], []),
    ("check_parameters", "group_column", "text such as 'group'", [None, 0], []),
    ("check_parameters", "corrections", "text such as 'corrections.csv'", [None, 0], []),
    ("check_parameters", "kind", "text such as 'number'", [None, 0], []),
    ("check_parameters", "kind", KIND, [], ["word"]),
    ("check_parameters", "unanswerable", "one of refuse, skip;", [None, True], ["", "keep"]),
    ("check_parameters", "site", SITES, [None, [3]], ["", "all", "mlp_out, all", []]),
    ("check_parameters", "probe_site", "text such as 'attn_out'", [None, 0, ["mlp_out"]], []),
    ("check_parameters", "probe_site", SITE, [], ["all", "mlp_out, resid_post"]),
    ("check_parameters", "limit", WHOLE.format(0), [1.5, "all", None, True], [-1]),
    ("check_parameters", "max_new_tokens", WHOLE.format(1), [2.5, "9", None], [0, -1]),
    ("check_parameters", "n_samples", "a whole number from 1 to 10,000", ["3"], [0, 10**9]),
    ("check_parameters", "temperature", "a number from 0 to 100", ["hot", None], [-1, NAN, INF]),
    ("check_parameters", "top_p", "a number from 1e-06 to 1", ["0.9", None], [0.0, 1.5, NAN]),
    ("check_parameters", "p_true", YES_OR_NO, [1, "yes", None], []),
    ("check_parameters", "judge", "text such as 'smollm2'", [None, 3], []),
    ("check_parameters", "device", "text such as 'cuda:1'", [0, None], []),
    ("check_parameters", "scheduler", "text such as 'tcp://127.0.0.1:8786'", [8786, None], []),
    ("check_parameters", "seed", SEED, [0.5, "0", None], [-1, 2**32]),
    ("check_parameters", "split", SPLIT, [None, 3], ["", "held out"]),
    ("check_parameters", "folds", WHOLE.format(2), [2.5, "5"], [1, -5]),
    ("check_parameters", "C", C, ["1", None, [1.0]], [0, -1.0, NAN, INF, 1e9]),
    ("check_parameters", "n_permutations", PERMUTATIONS, [1.5, None], [-1, 10**6]),
    ("check_parameters", "error_rate", "a number from 0 to 1", ["20%", None], [-0.1, 20, NAN]),
    ("check_parameters", "measure", MEASURE, [None, 1], ["r2", ""]),
    ("run_pipeline", "progress", YES_OR_NO, [1, None], []),
    ("run_pipeline", "dry_run", YES_OR_NO, [1, None], []),
    ("run_pipeline", "stages", "a list of texts", [None, 3], []),
    ("run_pipeline", "limit", WHOLE.format(0), ["all"], [-1]),
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
NO_GRIDS = "grids must be a dict of name to grid, such as {{'random': run.grid('random')}}; got {}."
NO_DETECTOR = "detector must be from pk.detector(grid) or Run.detector; got {}."
NO_PLACE = "The run directory can't be {}: no file or folder has that name."
NO_RUN = 'run must be a Run, such as Run("data/runs/cities"); got {}.'
UNFINISHED = (
    "FOLDER/{0} holds no finished {1} stage. Run the {1} stage first: probekit run, or its "
    "notebook."
)
LACKS = (
    "There are: C, answers_column, choices_column, corrections, device, dose, error_rate, folds, "
    "greedy_dir, group_column, judge, kind, limit, max_new_tokens, measure, model, n_permutations, "
    "n_questions, n_random, n_samples, p_true, probe_site, question_column, questions, run_dir, "
    "run_dirs, scheduler, seed, site, split, temperature, top_p, unanswerable."
)
NO_JSON = (
    "{} must be what JSON can hold: text, finite numbers of Python, True, False, None, lists and "
    "dicts of them; {}."
)
ONE_A_LINE = "Write one parameter a line, such as `limit: 200`."
HOW_TO_CONTROL = "Make them with pk.controls(answers, grid), or take them from Run.controls."
NOT_OF_CELLS = "'score' must be over (example, layer, token), it is over (control, example)."
OLD_GRID = (
    "A detector takes a cross-validated grid of this version, with `log_odds_without`. Make it "
    "with pk.probe_grid(activations); a grid of the published protocol or of an "
    "older version has too little to measure it by."
)
NO_ACTIVATIONS_OF_DETECTOR = (
    "activations must be a Dataset with `activation(example, layer, token, feature)`; got {}."
)
NO_CONTROLS = "controls must be from pk.controls(answers, grid) or Run.controls; got {}."
ONE_EACH = (
    "score and correct must have one value for each example, got shapes {} and {}. Select one "
    "cell: grid.score.sel(layer=, token=)."
)
NOT_NUMBERS = "X must be numbers of shape (examples, features), got {}."
NO_QUESTIONS = (
    "questions must be a path, the name of a shipped file, or a pandas DataFrame; got {}."
)
HOW_TO_NAME = (
    "A model is named by 'smollm2', a local folder with config.json and .safetensors files, a "
    ".gguf file, or a hub id such as 'mistralai/Mistral-7B-Instruct-v0.2'; an adapter by its "
    "local folder, with base=."
)
NO_FOLDER = f"No folder 'no/such/folder'. {HOW_TO_NAME}"
NO_DEVICE = (
    "torch can't use device='{}' here: {}. Give one that it can, such as '…', or leave it out."
)
CASES = {
    "read_questions": [
        ({"source": None}, TypeError, NO_QUESTIONS.format(None)),
        ({"source": ["a.csv"]}, TypeError, NO_QUESTIONS.format(["a.csv"])),
        (
            {"source": "citys"},
            ValueError,
            "questions 'citys': neither a file nor a shipped question file. Shipped: …. A file of "
            "yours needs its suffix: .csv, .jsonl, .json, .parquet.",
        ),
        (
            {"source": "nowhere/questions.csv"},
            FileNotFoundError,
            "question file 'nowhere/questions.csv' does not exist",
        ),
        (
            {"source": "question,answers\n" + 99 * "Where is Oslo?,Norway\n" + ".csv"},
            FileNotFoundError,
            "question file 'question,answers\\nWhere is Oslo?,Norway\\nWhere….' does not exist",
        ),
        (
            {"source": "empty"},
            ValueError,
            "question file 'empty' is a folder. Give a file's path.",
        ),
        (
            {"source": "notes.txt"},
            ValueError,
            "question file 'notes.txt': expected a file that ends in .csv, .jsonl, .json, .parquet",
        ),
        ({"source": "empty.csv"}, ValueError, "question file 'empty.csv' is empty"),
        (
            {"source": "header.csv"},
            ValueError,
            "header.csv has no questions: it holds no row below the column names",
        ),
        (
            {"source": pd.DataFrame()},
            ValueError,
            "the DataFrame has no questions: it holds no row below the column names",
        ),
        (
            {"source": "binary.csv"},
            ValueError,
            "binary.csv is not UTF-8 text (invalid start byte at byte 0). Save it as UTF-8.",
        ),
        (
            {"question": "Frage"},
            ValueError,
            "questions.csv has no column 'Frage'. Columns found: question, answers. Say which of "
            "them holds the question: question= of read_questions, or the notebook's parameter "
            "question_column.",
        ),
    ],
    "load_model": [
        ({"name": 3}, TypeError, f"No model is called 3. {HOW_TO_NAME}"),
        ({"name": ""}, ValueError, f"The model's name is empty. {HOW_TO_NAME}"),
        (
            {"name": "no/such/folder"},
            FileNotFoundError,
            NO_FOLDER,
        ),
        (
            {"name": "no_model"},
            FileNotFoundError,
            "no_model holds no .safetensors file. Save the model there with save_pretrained(); "
            "other formats are not read, since they can run code.",
        ),
        (
            {"name": "tiny.gguf"},
            FileNotFoundError,
            "No model file tiny.gguf. Give the path of a .gguf file.",
        ),
        ({"device": "gpu"}, ValueError, NO_DEVICE.format("gpu", "…")),
        ({"device": "cuda:99"}, ValueError, NO_DEVICE.format("cuda:99", "…")),
        ({"device": "meta"}, ValueError, NO_DEVICE.format("meta", "it holds no numbers")),
    ],
    "grade": [
        (
            {"answers": "Oslo"},
            TypeError,
            "answers must be a list of texts such as ['Oslo'], got 'Oslo'.",
        ),
        (
            {"answers": ["Oslo", None]},
            TypeError,
            "Each of answers must be text, got None.",
        ),
        (
            {"candidates": ["Oslo"]},
            TypeError,
            "candidates must be from the column candidates of read_questions, or None; got "
            "['Oslo'].",
        ),
    ],
    "find_span": [
        (
            {"candidates": "countries"},
            TypeError,
            "candidates must be from the column candidates of read_questions, or None; got "
            "'countries'.",
        ),
    ],
    "check_model": [
        (
            {"lm": "smollm2"},
            TypeError,
            "lm must be a LanguageModel, from load_model; got 'smollm2'.",
        ),
    ],
    "extract": [
        (
            {"lm": "smollm2"},
            TypeError,
            "lm must be a LanguageModel, from load_model; got 'smollm2'.",
        ),
        ({"run": "data/runs/a"}, TypeError, NO_RUN.format("'data/runs/a'")),
        (
            {"questions": "cities"},
            TypeError,
            "questions must be a DataFrame, from read_questions; got 'cities'.",
        ),
        (
            {"questions": pd.DataFrame({"question": ["Where?"]})},
            ValueError,
            "The questions have no column 'id'. Read them with read_questions, which takes a "
            "DataFrame too.",
        ),
        (
            {"questions": lambda good: good.questions[:0]},
            ValueError,
            "There is no question: the table is empty.",
        ),
        (
            {"questions": lambda good: good.questions.assign(answers="Norway")},
            ValueError,
            "The questions' column 'answers' must hold lists of accepted answers, but 'Norway' is "
            "in it. Read them with read_questions, which takes a DataFrame too.",
        ),
        (
            {"questions": lambda good: good.questions.assign(candidates="countries")},
            ValueError,
            "The questions' column 'candidates' must hold what read_questions made of them, but "
            "'countries' is in it. Read them with read_questions, which takes a DataFrame too.",
        ),
        (
            {"questions": lambda good: pd.concat([good.questions, good.questions])},
            ValueError,
            "The questions' ids are not unique. Give every question one of its own.",
        ),
        (
            {"site": "mlp"},
            ValueError,
            f"site must be {SITES} got 'mlp'.",
        ),
        *(
            (
                {"site": twice},
                ValueError,
                f"site names one twice: {twice!r}. Leave one of them out.",
            )
            for twice in ("mlp_out, mlp_out", ["mlp_out", "mlp_out"])
        ),
        *SAMPLING,
        (
            {"max_new_tokens": 10**9},
            ValueError,
            "Question … takes … tokens; with max_new_tokens=1000000000 that is more than the "
            "model's context of 512. Shorten the question or lower max_new_tokens.",
        ),
        (
            {"judge": "gpt"},
            TypeError,
            "judge must be a function of a question, a response and its accepted answers, or a "
            "LanguageModel, from load_model; got 'gpt'.",
        ),
        (
            {"scheduler": 8786},
            TypeError,
            "scheduler must be an address such as 'tcp://127.0.0.1:8786' or a distributed.Client, "
            "got 8786.",
        ),
        *CORRECTIONS,
        (
            {"corrections": pd.DataFrame({"id": ["a", "b", "b"], "correct": True})},
            ValueError,
            "The DataFrame of corrections has ids more than once: 'b'.",
        ),
        (
            {"corrections": LABELLED},
            ValueError,
            "The DataFrame of corrections has ids that the run does not ask: 'q0', 'q1'.",
        ),
    ],
    "audit": [
        ({"run": "data/runs/a"}, TypeError, NO_RUN.format("'data/runs/a'")),
        (
            {"run": lambda good: good.empty},
            FileNotFoundError,
            UNFINISHED.format("empty", "extract"),
        ),
    ],
    "preflight": [
        ({"run": "data/runs/a"}, TypeError, NO_RUN.format("'data/runs/a'")),
        (
            {"run": lambda good: good.empty},
            FileNotFoundError,
            UNFINISHED.format("empty", "extract"),
        ),
    ],
    "grader_error": [
        (
            {"labelled": LABELLED.assign(correct="perhaps")},
            ValueError,
            "The DataFrame of labelled, id 'q0': correct is 'perhaps'. Write true or false, or "
            "leave it empty.",
        ),
        (
            {"labelled": LABELLED.assign(correct="")},
            ValueError,
            "Nothing in the sample is labelled: its column correct is empty. Write true or false "
            "into every row.",
        ),
    ],
    "show_tokens": [
        ({"run": "data/runs/a"}, TypeError, NO_RUN.format("'data/runs/a'")),
        (
            {"run": lambda good: good.empty},
            FileNotFoundError,
            UNFINISHED.format("empty", "extract"),
        ),
        (
            {"scores": 0.5},
            TypeError,
            "scores must be a DataArray, such as run.grid().score.sel(layer=12); got 0.5.",
        ),
        (
            {"scores": lambda good: good.made.grid()["score"]},
            ValueError,
            "scores must be over (example, token), such as run.grid().score.sel(layer=12); they "
            "are over (example, layer, token).",
        ),
    ],
    "held_out_splits": [
        (
            {"dataset": None},
            TypeError,
            "dataset must be an xarray Dataset, such as probe_grid or Run.grid gives; got None.",
        ),
        (
            {"dataset": lambda good: good.activations.drop_vars("correct")},
            ValueError,
            "The dataset has no variable 'correct'; it has activation.",
        ),
        (
            {"dataset": lambda good: good.activations.drop_vars("exact_answer")},
            ValueError,
            'split="answer" needs the coordinate exact_answer on example.',
        ),
        (
            {"folds": 50, "needed": "answer"},
            ValueError,
            "50 folds need at least 50 …answers with an exact answer, got …",
        ),
    ],
    "probe_grid": [
        ({"activations": None}, TypeError, NO_ACTIVATIONS.format(None)),
        (
            {"activations": lambda good: good.activations["activation"]},
            TypeError,
            NO_ACTIVATIONS.format("a DataArray"),
        ),
        ({"activations": lambda good: good.grid}, TypeError, NO_ACTIVATIONS.format("a Dataset")),
        (
            {"activations": lambda good: good.activations.isel(layer=0, token=0)},
            ValueError,
            "The activations lack the dimension layer, the dimension token. Take them from "
            "Run.activations().",
        ),
        (
            {"activations": lambda good: good.activations.drop_vars("correct")},
            ValueError,
            "The activations lack the coordinate correct. Take them from Run.activations().",
        ),
        (
            {"activations": lambda good: good.activations.isel(layer=[])},
            ValueError,
            "The activations are empty: they have no layer.",
        ),
        (
            {"activations": lambda good: good.activations.astype("S4")},
            ValueError,
            "The activations must be numbers, they are text.",
        ),
        (
            {"activations": lambda good: good.activations.assign_coords(correct=("layer", [0, 1]))},
            ValueError,
            "`correct` must be over (example), it is over (layer).",
        ),
        (
            {"activations": lambda good: good.activations.assign_coords(correct=good.numbers)},
            ValueError,
            "`correct` must hold True and False, it holds whole numbers. Convert it: "
            "activations.assign_coords(correct=activations.correct.astype(bool)).",
        ),
        (
            {"split": " "},
            ValueError,
            "split must be text such as 'random', got ' '.",
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
            "of 60. Use folds=30, or ask harder questions, or more of them.",
        ),
        ({"C": [1, None]}, TypeError, f"C must be {C}, got None."),
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
            "scikit-learn classifier such as LogisticRegression(); got the class dict.",
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
        (
            {"answers": []},
            TypeError,
            "answers must be a DataFrame, such as Run.answers() gives; got [].",
        ),
        (
            {"answers": pd.DataFrame()},
            ValueError,
            "The answers lack id, question, correct, n_tokens, exact_answer among their columns. "
            "Take them from Run.answers().",
        ),
        (
            {"answers": lambda good: good.answers[:0]},
            ValueError,
            "60 of the grid's 60 examples are not among the 0 answers, the first is 'q0'. Are they "
            "of different runs? Take both from the same one: run.answers(), run.grid().",
        ),
        ({"grid": None}, TypeError, NO_GRID.format(None)),
        ({"grid": lambda good: good.grid["auroc"]}, TypeError, NO_GRID.format("a DataArray")),
        (
            {"grid": lambda good: good.grid.drop_dims("feature")},
            ValueError,
            "The grid has no coefficients: it is of an example run, which comes with its controls. "
            "Take those: run.controls().",
        ),
        (
            {"grid": lambda good: good.grid.drop_attrs()},
            ValueError,
            "The grid lacks split, protocol, folds, seed, C among its attributes. Take it from "
            "probe_grid or Run.grid as it is: arithmetic on a grid drops its attributes.",
        ),
    ],
    "control_table": [
        ({"controls": None}, TypeError, NO_CONTROLS.format(None)),
        ({"controls": lambda good: good.grid}, TypeError, NO_CONTROLS.format("a Dataset")),
        (
            {"controls": lambda good: good.controls.isel(control=[])},
            ValueError,
            f"The controls are empty. {HOW_TO_CONTROL}",
        ),
        (
            {"controls": lambda good: good.controls.drop_vars("auroc")},
            ValueError,
            f"The controls lack auroc. {HOW_TO_CONTROL}",
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
    "difference": [
        ({"grid_a": 3}, TypeError, NO_GRID.format(3).replace("grid", "grid_a", 1)),
        ({"grid_b": None}, TypeError, NO_GRID.format(None).replace("grid", "grid_b", 1)),
        (
            {"grid_b": lambda good: good.grid.drop_attrs()},
            ValueError,
            "The grid_b lacks split among its attributes. Take it from probe_grid or Run.grid as "
            "it is: arithmetic on a grid drops its attributes.",
        ),
        (
            {"grid_b": lambda good: good.grid.assign_coords(layer=[7, 8])},
            ValueError,
            "The grids have no layer in common: one has 0, 1, the other 7, 8.",
        ),
    ],
    "detector": [
        ({"grid": None}, TypeError, NO_GRID.format(None)),
        ({"grid": lambda good: good.controls}, ValueError, NOT_OF_CELLS),
        (
            {"grid": lambda good: good.grid.drop_vars("slope")},
            ValueError,
            OLD_GRID,
        ),
        ({"grid": lambda good: good.grid.drop_dims("other")}, ValueError, OLD_GRID),
        (
            {"grid": lambda good: good.grid.drop_vars("correct")},
            ValueError,
            "The grid has no variable 'correct'; it has …",
        ),
        (
            {"grid": lambda good: good.grid.assign(auroc=good.grid["auroc"] * NAN)},
            ValueError,
            "None of these cells has a probe, so there is nothing to pool.",
        ),
        ({"controls": []}, TypeError, NO_CONTROLS.format("[]")),
        (
            {"controls": lambda good: good.controls.isel(example=slice(9))},
            ValueError,
            "The controls are of another grid: examples, labels or folds differ. Make them from "
            "this one: pk.controls(answers, grid).",
        ),
        (
            {"tokens": "last_q"},
            TypeError,
            "tokens must be a list such as ['last_q'], got 'last_q'.",
        ),
        ({"tokens": ["-8"]}, ValueError, "Unknown token '-8'. The grid has last_q, -1."),
        ({"tokens": []}, ValueError, "There is no token to look at. The grid has last_q, -1."),
        ({"layers": [99]}, ValueError, "Unknown layer 99. The grid has 0, 1."),
    ],
    "Detector.__call__": [
        ({"activations": None}, TypeError, NO_ACTIVATIONS_OF_DETECTOR.format(None)),
        (
            {"activations": lambda good: good.activations.isel(layer=0)},
            TypeError,
            NO_ACTIVATIONS_OF_DETECTOR.format("a Dataset"),
        ),
        (
            {"activations": lambda good: good.activations.assign_attrs(site="attn_out")},
            ValueError,
            "The activations are of site 'attn_out', and the detector is of 'mlp_out'. It can't "
            "read others.",
        ),
        (
            {"activations": lambda good: good.activations.isel(token=[0])},
            ValueError,
            "The activations lack -1 of the detector's layers and tokens.",
        ),
        (
            {"activations": lambda good: good.activations.isel(feature=[0, 1])},
            ValueError,
            "The activations have 2 features, but the detector's probes take 4. Give it "
            "activations of the same model and site.",
        ),
    ],
    "Detector.predict": [
        (
            {},
            ValueError,
            "lm is of model '…', and the detector is of 'made up'. It can't read others.",
        ),
        (
            {"self": lambda good: replace(good.detector, probes=None)},
            ValueError,
            "This detector has no probes: it is of an example run, whose coefficients were left "
            "out to keep it small. Make one from a run of your own.",
        ),
        (
            {"lm": "smollm2"},
            TypeError,
            "lm must be a LanguageModel, from load_model; got 'smollm2'.",
        ),
        (
            {
                "self": lambda good: replace(good.detector, origin={"site": "mlp_out"}),
                "questions": "Where is Oslo?",
            },
            TypeError,
            "questions must be a list of texts such as ['Where is Oslo?'], got 'Where is Oslo?'.",
        ),
    ],
    "Detector.save": [
        ({"folder": 3}, TypeError, "folder must be text or a Path, got 3."),
        (
            {"folder": ""},
            ValueError,
            "folder can't be '': no file or folder has that name.",
        ),
        (
            {"folder": "notes.txt"},
            ValueError,
            "notes.txt is a file. Give a folder's path.",
        ),
        (
            {"folder": "notes.txt/detector"},
            ValueError,
            "notes.txt/detector cannot be written: …. Make sure that you may write there, or "
            "choose another folder, then run the same again: what is finished is kept.",
        ),
    ],
    "LanguageModel.answer": [
        (
            {"questions": []},
            ValueError,
            "the DataFrame has no questions: it holds no row below the column names.",
        ),
        ({"questions": ["Where?", 3]}, TypeError, "Each of questions must be text, got 3."),
        (
            {"site": "mlp"},
            ValueError,
            "LlamaForCausalLM has no site 'mlp' in every block. It has: mlp_out, attn_out, "
            "resid_post, mlp_act.",
        ),
    ],
    "load_probe": [
        ({"run": "data/runs/a"}, TypeError, NO_RUN.format("'data/runs/a'")),
        ({"run": lambda good: good.empty}, FileNotFoundError, UNFINISHED.format("empty", "probe")),
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
            NOT_NUMBERS.format("the shape (4,)"),
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
        ({"X": None}, ValueError, NOT_NUMBERS.format(None)),
    ],
    "heatmap": [
        ({"grid": None}, TypeError, NO_GRID.format(None)),
        ({"grid": lambda good: good.run}, TypeError, NO_GRID.format("…")),
        ({"grid": lambda good: good.grid["auroc"]}, TypeError, NO_GRID.format("a DataArray")),
        (
            {"grid": lambda good: good.controls},
            ValueError,
            "'auroc' must be over (layer, token), it is over (control).",
        ),
        (
            {"grid": lambda good: good.activations},
            ValueError,
            "The grid has no variable 'auroc'; it has activation.",
        ),
        (
            {"grid": lambda good: good.grid.isel(token=[])},
            ValueError,
            "The grid is empty: it has no token.",
        ),
        (
            {"grid": lambda good: good.grid.astype(str)},
            ValueError,
            "'auroc' must hold numbers, it holds text.",
        ),
        (
            {"grid": lambda good: good.grid.assign_coords(layer=["first", "last"])},
            ValueError,
            "Layers must be whole numbers, they are text.",
        ),
        (
            {"grid": lambda good: good.grid.drop_vars("score"), "measure": "correlation"},
            ValueError,
            "The grid has no variable 'score'; it has auroc, ….",
        ),
        (
            {"measure": "aurok"},
            ValueError,
            "measure must be one of auroc, correlation; got 'aurok'. Did you mean 'auroc'?",
        ),
        (
            {"tokens": "last_q"},
            TypeError,
            "tokens must be a list such as ['last_q'], got 'last_q'.",
        ),
        (
            {"tokens": ["last_q", "exact"]},
            ValueError,
            "Unknown token 'exact'. The grid has last_q, -1.",
        ),
        ({"tokens": []}, ValueError, "There is no token to look at. The grid has last_q, -1."),
        ({"tokens": ["-1", "-1"]}, ValueError, "A token is given twice: -1, -1."),
        (
            {"tokens": ["-8"]},
            ValueError,
            "The grid has none of the tokens asked for (-8). The grid has last_q, -1.",
        ),
        (
            {"outline": [(99, "-1")]},
            ValueError,
            "outline names cells that are not drawn: [(99, '-1')]. Give (layer, token).",
        ),
        (
            {"grid": lambda good: good.grid.drop_vars(["p_value", "p_corrected"]), "mute": True},
            ValueError,
            "mute needs p_corrected or p_value in the grid, and it has neither.",
        ),
        ({"detector": "all"}, TypeError, NO_DETECTOR.format("'all'")),
        ({"detector": lambda good: good.grid}, TypeError, NO_DETECTOR.format("a Dataset")),
        (
            {"detector": lambda good: good.detector, "measure": "correlation"},
            ValueError,
            "A detector is measured by its AUROC, and the cells by measure='correlation'. Draw "
            "measure='auroc', or leave the detector out.",
        ),
        *(
            (
                {"common": True} | more,
                ValueError,
                "common=True draws an AUROC that has no p and no detector. Leave out measure, mute "
                "and detector.",
            )
            for more in (
                {"measure": "correlation"},
                {"mute": True},
                {"detector": lambda good: good.detector},
            )
        ),
        (
            {"common": True, "grid": lambda good: good.made.grid()},
            ValueError,
            "The grid has no variable 'auroc_common'; it has …",
        ),
    ],
    "compare_splits": [
        ({"grids": lambda good: good.grid}, TypeError, NO_GRIDS.format("a Dataset")),
        ({"grids": lambda good: [good.grid]}, TypeError, NO_GRIDS.format("a list")),
        ({"grids": {}}, ValueError, "There is no grid to draw: the dict is empty."),
        ({"grids": {"random": None}}, TypeError, NO_GRID.format(None)),
        (
            {"grids": lambda good: {"a": good.grid, "b": good.made.grid()}},
            ValueError,
            "The grids have different layers. Use small_multiples to compare models.",
        ),
    ],
    "small_multiples": [({"grids": None}, TypeError, NO_GRIDS.format(None))],
    "gain": [
        ({"grid": None}, TypeError, NO_GRID.format(None)),
        (
            {"grid": lambda good: good.grid},
            ValueError,
            "The grid has no variable 'gain'; it has auroc, ….",
        ),
    ],
    "absorbed": [
        (
            {"gains": None},
            TypeError,
            "gains must be an xarray Dataset, such as gain_over_controls gives; got None.",
        ),
        (
            {"gains": lambda good: good.grid},
            ValueError,
            "The gains have no variable 'absorbed'; they have auroc, ….",
        ),
    ],
    "load_model_of": [
        ({"run": "cities"}, TypeError, "run must be a Run, such as …"),
        (
            {"run": lambda good: good.made},
            ValueError,
            "The extract stage of … does not say what its revision was. …",
        ),
        ({"device": "gpu"}, ValueError, NO_DEVICE.format("gpu", "…")),
    ],
    "headline": [
        ({"run": "cities"}, TypeError, "run must be a Run, such as …"),
        ({"run": lambda good: good.empty}, FileNotFoundError, "… holds no finished probe stage. …"),
    ],
    "watch": [
        ({"lm": None}, TypeError, "lm must be a LanguageModel, from load_model; got None."),
        (
            {"detector": lambda good: good.grid},
            TypeError,
            "detector must be a Detector, from pk.detector or run.detector(); got a Dataset.",
        ),
        ({"candidates": "planets"}, ValueError, "candidates 'planets': …"),
        (
            {"detector": lambda good: pk.Run(resource("data/example")).detector()},
            ValueError,
            "This detector has no probes: it is of an example run, …",
        ),
    ],
    "choose_answers": [
        ({"run": 3}, TypeError, 'run must be a Run, such as Run("data/runs/samples"); got 3.'),
        ({"greedy": 3}, TypeError, 'greedy must be a Run, such as Run("data/runs/cities"); got 3.'),
        (
            {"run": lambda good: good.probed},
            ValueError,
            "… has one answer to each question, so there is nothing to choose. Make one: probekit "
            "run -p n_samples 8 -p temperature 1.",
        ),
        (
            {"greedy": lambda good: good.samples},
            ValueError,
            "greedy must be a run at temperature 0; … is none.",
        ),
    ],
    "error_types": [
        ({"run": None}, TypeError, 'run must be a Run, such as Run("data/runs/samples"); got None.')
    ],
    "choices": [
        (
            {"choice": lambda good: good.grid},
            TypeError,
            "choice must be from pk.choose_answers(run); got …",
        ),
    ],
    "effects": [
        (
            {"interventions": lambda good: good.grid},
            TypeError,
            "interventions must be from pk.intervene; got …",
        ),
    ],
    "intervene": [
        ({"lm": None}, TypeError, "lm must be a LanguageModel, from load_model; got None."),
        ({"run": "cities"}, TypeError, "run must be a Run, such as …"),
        ({"layer": 99}, ValueError, "…"),
        ({"token": "tenth"}, ValueError, "…"),
        (
            {"run": lambda good: pk.Run(resource("data/example"))},
            ValueError,
            "… has no probes: it is an example without them. …",
        ),
    ],
    "transfer": [
        ({"runs": 3}, TypeError, "runs must be a list of at least two Runs; got 3."),
        ({"runs": []}, ValueError, "runs must be at least two Runs to be compared, got 0."),
        (
            {"runs": lambda good: [good.run, 3]},
            TypeError,
            'Each of runs must be a Run, such as Run("data/runs/cities"); got 3.',
        ),
        ({"cell": "best"}, ValueError, CELL.format("'best'")),
        ({"cell": (1, "-1", 2)}, ValueError, CELL.format("(1, '-1', 2)")),
        ({"cell": 3}, TypeError, CELL.format(3)),
        ({"cell": (99, "-1")}, ValueError, "No run has a probe at layer 99, token '-1'."),
        (
            {"cell": (-1, "-1")},
            ValueError,
            "The cell's layer must be a whole number of at least 0, got -1.",
        ),
        (
            {"runs": lambda good: [good.run, good.run], "split": "nope"},
            ValueError,
            "… has no detector of split 'nope'. …",
        ),
    ],
    "transfer_matrix": [
        (
            {"transfers": None},
            TypeError,
            "transfers must be an xarray Dataset, such as transfer gives; got None.",
        ),
        (
            {"transfers": lambda good: good.grid},
            ValueError,
            "'auroc' must be over (train, test), it …",
        ),
    ],
    "forest": [
        (
            {"controls": None},
            TypeError,
            "controls must be an xarray Dataset, such as controls or Run.controls gives; got None.",
        ),
        ({"controls": lambda good: good.grid}, ValueError, "'auroc' must be over (control), it …"),
        ({"detector": "all"}, TypeError, NO_DETECTOR.format("'all'")),
        (
            {"controls": lambda good: good.controls.assign(auroc=good.controls["auroc"] * NAN)},
            ValueError,
            "No control has an AUROC, so there is nothing to draw.",
        ),
    ],
    "by_layer": [
        ({"grid": None}, TypeError, NO_GRID.format(None)),
        (
            {"grid": lambda good: good.made.grid(), "tokens": pk.FIGURE_TOKENS},
            ValueError,
            "14 tokens are too many lines to distinguish. Choose at most 7, or draw a heatmap.",
        ),
    ],
    "by_token": [
        ({"layers": 3}, TypeError, "layers must be a list such as [3], got 3."),
        ({"layers": [99]}, ValueError, "Unknown layer 99. The grid has 0, 1."),
        ({"layers": []}, ValueError, "There is no layer to look at. The grid has 0, 1."),
    ],
    "calibration": [
        (
            {"score": lambda good: good.grid["score"]},
            ValueError,
            ONE_EACH.format("(60, 2, 2)", "(60,)"),
        ),
        (
            {"score": "high"},
            TypeError,
            "score must be numbers, one for each example; got 'high'.",
        ),
        (
            {"correct": lambda good: good.numbers},
            ValueError,
            "correct must hold True and False, it holds whole numbers.",
        ),
        (
            {"correct": np.ones(60, bool)},
            ValueError,
            "Both correct and wrong answers are needed, got 0 wrong among 60 scored examples.",
        ),
        (
            {"score": np.full(60, NAN)},
            ValueError,
            "Both correct and wrong answers are needed, got 0 wrong among 0 scored examples.",
        ),
        (
            {"score": np.full(60, 7.0)},
            ValueError,
            "calibration needs probabilities, got scores from 7 to 7. Give P(error), not the "
            "decision function.",
        ),
        ({"bins": 61}, ValueError, "bins=61 must be between 1 and the 60 scored examples."),
    ],
    "risk_coverage": [
        (
            {"scores": lambda good: good.grid["score"]},
            TypeError,
            "scores must be a dict of name to score, such as {'probe': score}; got a DataArray.",
        ),
        (
            {"scores": {}},
            ValueError,
            "0 scores can't be drawn. Choose from one to 6 of them.",
        ),
        (
            {"scores": lambda good: dict.fromkeys("abcdefg", score(good))},
            ValueError,
            "7 scores can't be drawn. Choose from one to 6 of them.",
        ),
        ({"scores": {"probe": [0.5]}}, ValueError, ONE_EACH.format("(1,)", "(60,)")),
        (
            {"correct": lambda good: good.numbers},
            ValueError,
            "correct must hold True and False, it holds whole numbers.",
        ),
    ],
    "score_distribution": [
        ({"score": None}, ValueError, ONE_EACH.format("()", "(60,)")),
        ({"correct": None}, ValueError, ONE_EACH.format("(60,)", "()")),
    ],
    "save_chart": [
        ({"chart": None}, TypeError, "Expected an Altair chart, got None."),
        (
            {"path": "heatmap.jpeg"},
            ValueError,
            "A chart can't be saved as 'heatmap.jpeg'. Use .json, .svg, .png, .pdf, .html, or no "
            "suffix for all of them.",
        ),
        (
            {"path": lambda good: good.run.path / "grid.nc" / "heatmap"},
            ValueError,
            "FOLDER/run/grid.nc/heatmap.json cannot be written: …. Make sure that you may write "
            "there, or choose another folder, then run the same again: what is finished is kept.",
        ),
    ],
    "static": [
        ({"chart": "heatmap.png"}, TypeError, "Expected an Altair chart, got 'heatmap.png'.")
    ],
    "findings": [
        ({"grid": None}, TypeError, NO_GRID.format(None)),
        (
            {"grid": lambda good: good.grid[["auroc"]]},
            ValueError,
            "The grid has no variable 'auroc_low'; it has auroc.",
        ),
        (
            {"grid": lambda good: good.grid.assign(auroc=good.grid["auroc"] * NAN)},
            ValueError,
            "The grid has no cell with an AUROC: in none do enough wrong and enough right answers "
            "have the token, for the probes to be trained without each fold.",
        ),
        ({"tokens": "-1"}, TypeError, "tokens must be a list such as ['-1'], got '-1'."),
        ({"tokens": ["first"]}, ValueError, "Unknown token 'first'. The grid has last_q, -1."),
    ],
    "describe": [
        ({"grid": [1]}, TypeError, NO_GRID.format([1])),
        (
            {"grid": lambda good: good.grid.drop_vars("n_examples")},
            ValueError,
            "The grid has no variable 'n_examples'; it has auroc, ….",
        ),
        ({"controls": []}, TypeError, NO_CONTROLS.format("[]")),
        (
            {"controls": lambda good: good.controls.isel(example=slice(9))},
            ValueError,
            "grid and controls have different examples. Take both from the same run.",
        ),
        (
            {"held_out": "answer"},
            TypeError,
            "held_out must be an xarray Dataset, such as probe_grid or Run.grid gives; got "
            "'answer'.",
        ),
        (
            {"held_out": lambda good: good.made.grid("answer")[{"example": range(50)}]},
            ValueError,
            "grid and held_out have different examples. Take both from the same run.",
        ),
        (
            {"held_out": lambda good: good.grid.isel(layer=[0])},
            ValueError,
            "grid and held_out have different layers or tokens. Take both from the same run.",
        ),
        ({"detector": "all"}, TypeError, "detector must be from pk.detector(grid), got 'all'."),
        (
            {"detector": lambda good: good.of_fewer},
            ValueError,
            "grid and detector have different examples. Take both from the same run.",
        ),
    ],
    "claims_table": [
        (
            {"claims": "claims.csv"},
            TypeError,
            "claims must be a DataFrame, such as pk.check_claims(grid); got 'claims.csv'.",
        ),
        (
            {"claims": lambda good: good.answers},
            ValueError,
            "claims lacks claim, verdict, decides, why; it must be the table of "
            "pk.check_claims(grid).",
        ),
    ],
    "check_claims": [
        ({"grid": None}, TypeError, NO_GRID.format(None)),
        (
            {"claims": "claims.yaml"},
            TypeError,
            "claims must be from probekit.interpretation.claims.read_claims, which takes a file's "
            "path; got 'claims.yaml'.",
        ),
        ({"claims": {}}, ValueError, "claims is not a file of claims: it lacks 'claims'."),
        (
            {"claims": {"claims": [{"id": "a"}]}},
            ValueError,
            "claims: claim 'a' lacks rules, section, text.",
        ),
        ({"controls": []}, TypeError, NO_CONTROLS.format("[]")),
        (
            {"controls": lambda good: good.controls.isel(example=slice(9))},
            ValueError,
            "grid and controls have different examples. Take both from the same run.",
        ),
        (
            {"held_out": "answer"},
            TypeError,
            "held_out must be an xarray Dataset, such as probe_grid or Run.grid gives; got "
            "'answer'.",
        ),
        (
            {"held_out": lambda good: good.made.grid("answer")[{"example": range(50)}]},
            ValueError,
            "grid and held_out have different examples. Take both from the same run.",
        ),
    ],
    "write_report": [
        ({"run": None}, TypeError, NO_RUN.format(None)),
        (
            {"run": lambda good: good.empty},
            FileNotFoundError,
            UNFINISHED.format("empty", "extract"),
        ),
    ],
    "explore": [
        ({"run": None}, TypeError, "The run directory must be text or a Path, got None."),
        ({"run": []}, ValueError, "There is no run to explore: the list is empty."),
        ({"run": "empty"}, FileNotFoundError, UNFINISHED.format("empty", "probe")),
        ({"run": "nowhere"}, FileNotFoundError, UNFINISHED.format("nowhere", "probe")),
        (
            {"split": "published"},
            ValueError,
            "FOLDER/made/grid.nc has no split 'published'. It has: random, answer.",
        ),
    ],
    "Run": [
        ({"path": None}, TypeError, "The run directory must be text or a Path, got None."),
        ({"path": ["a"]}, TypeError, "The run directory must be text or a Path, got ['a']."),
        (
            {"path": "  "},
            ValueError,
            NO_PLACE.format("'  '"),
        ),
        (
            {"path": "a\0b"},
            ValueError,
            NO_PLACE.format("'a\\x00b'"),
        ),
        (
            {"path": "questions.csv"},
            ValueError,
            "The run directory FOLDER/questions.csv is a file. Give a folder's path.",
        ),
    ],
    "Run.activations": [
        (
            {"site": "attn_out"},
            ValueError,
            "FOLDER/made has no site 'attn_out'. It has: mlp_out.",
        ),
        (
            {"self": lambda good: good.empty},
            FileNotFoundError,
            UNFINISHED.format("empty", "extract"),
        ),
    ],
    "Run.grid": [
        (
            {"split": "answers"},
            ValueError,
            "FOLDER/made/grid.nc has no split 'answers'. It has: random, answer.",
        ),
    ],
    "Run.controls": [
        (
            {},
            FileNotFoundError,
            "FOLDER/run/controls.nc is not there. Run the probe stage again: probekit run, or its "
            "notebook.",
        ),
    ],
    "Run.detector": [
        (
            {"split": "answer"},
            ValueError,
            "FOLDER/run/detector has no detector of split 'answer'. It has: random.",
        ),
        (
            {"self": lambda good: good.empty},
            FileNotFoundError,
            UNFINISHED.format("empty", "probe"),
        ),
    ],
    "Run.manifest": [
        (
            {"stage": "prob"},
            ValueError,
            f"stage must be {STAGE} got 'prob'. Did you mean 'probe'?",
        ),
    ],
    "Run.begin": [
        (
            {"inputs": [3]},
            TypeError,
            "A path in inputs must be text or a Path, got 3.",
        ),
        (
            {"inputs": ["nowhere.csv"]},
            FileNotFoundError,
            "There is no file nowhere.csv, and an input is a file.",
        ),
        (
            {"inputs": ["empty"]},
            FileNotFoundError,
            "There is no file empty, and an input is a file.",
        ),
        (
            {"inputs": lambda good: [good.run.path / "manifests" / "extract.json"]},
            FileNotFoundError,
            UNFINISHED.format("run", "extract"),
        ),
        (
            {"parameters": lambda good: {"grid": good.grid}},
            TypeError,
            NO_JSON.format("parameters", "'grid' is a Dataset"),
        ),
        (
            {"parameters": {"C": NAN}},
            ValueError,
            NO_JSON.format("parameters", "'C' is nan"),
        ),
    ],
    "Run.save_grids": [
        (
            {"grids": lambda good: {0: good.grid}},
            TypeError,
            "The name of a split must be text such as 'random', got 0.",
        ),
        (
            {"name": "../grid.nc"},
            ValueError,
            "'../grid.nc' is not the name of a file in the run directory FOLDER/run. Give one such "
            "as 'description.md'.",
        ),
    ],
    "Run.save_detectors": [
        (
            {"detectors": lambda good: {"../a": good.detector}},
            ValueError,
            "'../a' can't be the name of a split. Give a word such as 'random'.",
        ),
        (
            {"detectors": lambda good: {0: good.detector}},
            TypeError,
            "The name of a split must be text such as 'random', got 0.",
        ),
    ],
    "Run.write_text": [
        *(
            (
                {"text": text},
                TypeError,
                f"The content of note.md must be text, got {text!r}.",
            )
            for text in (None, b"It is so.")
        ),
        *(
            (
                {"name": name},
                ValueError,
                f"{name!r} is not the name of a file in the run directory FOLDER/run. Give one "
                "such as 'description.md'.",
            )
            for name in (None, "", "/tmp/note.md", "../note.md", "a\0b")  # noqa: S108
        ),
        (
            {"name": "grid.nc/note.md"},
            ValueError,
            "FOLDER/run/grid.nc/note.md cannot be written: …. Make sure that you may write there, "
            "or choose another folder, then run the same again: what is finished is kept.",
        ),
    ],
    "Stage.finish": [
        (
            {"outputs": ["grid.nc"]},
            ValueError,
            "The output grid.nc is not in the run directory FOLDER/run. Write it there, and give "
            "its whole path, such as FOLDER/run/grid.nc.",
        ),
        (
            {"outputs": lambda good: [good.run.path / "never_made.csv"]},
            FileNotFoundError,
            "The output FOLDER/run/never_made.csv is not there. Write it, then finish the stage.",
        ),
        (
            {"auroc": np.float32(0.5)},
            TypeError,
            NO_JSON.format("results", "'auroc' is 0.5, a numpy float32"),
        ),
        ({"auroc": INF}, ValueError, NO_JSON.format("results", "'auroc' is inf")),
    ],
    "check_parameters": [
        *(
            ({name: ""}, ValueError, f"{name} must be text such as {such_as!r}, got ''.")
            for name, such_as in {
                "run_dir": "data/runs/cities",
                "model": "smollm2",
                "questions": "cities",
                "question_column": "question",
                "answers_column": "answers",
            }.items()
        ),
        ({"limits": 3}, ValueError, f"No parameter 'limits'. Did you mean 'limit'? {LACKS}"),
        ({"batch_size": 3}, ValueError, f"No parameter 'batch_size'. {LACKS}"),
        (
            {"limit": -HUGE},
            ValueError,
            "limit must be a whole number of at least 0, got " + DIGITS,
        ),
        *(
            (
                {name: value},
                ValueError,
                f"{name} must be {expected} got {value!r}. Did you mean {meant!r}?",
            )
            for name, expected, value, meant in (
                ("site", SITES, "mlpout", "mlp_out"),
                ("probe_site", SITE, "mlpout", "mlp_out"),
                ("split", SPLIT, "rondom", "random"),
                ("split", SPLIT, "Answer", "answer"),
                ("measure", MEASURE, "AUC", "auroc"),
            )
        ),
        *SAMPLING,
        (
            {"scheduler": "8786"},
            ValueError,
            "No Dask scheduler answers at '8786' (…). Start one with `dask scheduler`, which "
            "prints its address, and workers with `dask worker ADDRESS`.",
        ),
    ],
    "run_pipeline": [
        ({"run_dir": 3}, TypeError, "The run directory must be text or a Path, got 3."),
        (
            {"run_dir": "questions.csv"},
            ValueError,
            "The run directory FOLDER/questions.csv is a file. Give a folder's path.",
        ),
        (
            {"stages": "extract"},
            TypeError,
            "stages must be a list of texts such as ['extract'], got 'extract'.",
        ),
        (
            {"stages": ["extract", "prob"]},
            ValueError,
            f"A stage must be {STAGE} got 'prob'. Did you mean 'probe'?",
        ),
        (
            {"stages": []},
            ValueError,
            "There is no stage to run. Give some of extract, probe, visualize, interpret, "
            "transfer, choose, intervene.",
        ),
        (
            {"stages": ["probe", "visualize"]},
            FileNotFoundError,
            UNFINISHED.format("new", "extract"),
        ),
        ({"stages": ["interpret"]}, FileNotFoundError, UNFINISHED.format("new", "probe")),
        # Of later notebooks, and known before the first begins.
        ({"measure": "r2"}, ValueError, f"measure must be {MEASURE} got 'r2'."),
        (
            {"limit": 9},
            ValueError,
            "folds=5 needs at least 5 right and 5 wrong answers, but there will be 9 in all. Ask "
            "more questions or set folds=4 or less.",
        ),
        (
            {"folds": 10**9},
            ValueError,
            "folds=1000000000 needs at least 1000000000 right and 1000000000 wrong answers, but "
            "there will be … in all. Ask more questions or set folds=… or less.",
        ),
        (
            {"judge": "no/such/folder"},
            FileNotFoundError,
            NO_FOLDER,
        ),
        ({"model": "C:\\model"}, FileNotFoundError, f"No folder 'C:\\\\model'. {HOW_TO_NAME}"),
        ({"device": "gpu"}, ValueError, NO_DEVICE.format("gpu", "…")),
        *CORRECTIONS,
        (
            {"questions": "citys"},
            ValueError,
            "questions 'citys': neither a file nor a shipped question file. Shipped: …. A file of "
            "yours needs its suffix: .csv, .jsonl, .json, .parquet.",
        ),
        (
            {"answers_column": "solution"},
            ValueError,
            "cities.csv has no column 'solution'. Columns found: …. Say which of them holds the "
            "answers: answers= of read_questions, or the notebook's parameter answers_column.",
        ),
    ],
    "probekit run": [
        *(
            ({"arguments": ["-f", file]}, ValueError, f"probekit: {said}")
            for file, said in {
                "nowhere.yaml": "No parameter file nowhere.yaml.",
                "empty": "The parameter file empty can't be read: Is a directory.",
                "": "The parameter file can't be '': no file or folder has that name.",
                "cut.yaml": f"cut.yaml, line 2 is not YAML: …. {ONE_A_LINE}",
                "colon.yaml": f"colon.yaml, line 2 is not YAML: mapping values are not allowed "
                f"here. {ONE_A_LINE}",
                "list.yaml": f"list.yaml does not map names to values. {ONE_A_LINE}",
                "text.yaml": f"text.yaml does not map names to values. {ONE_A_LINE}",
                "twice.yaml": "twice.yaml, line 3: limit is given a second time. Leave one of them "
                "out.",
                "unknown.yaml": f"unknown.yaml, line 2: No parameter 'limits'. Did you mean "
                f"'limit'? {LACKS}",
                "nested.yaml": "nested.yaml, line 2: split must be one value such as 'random'.",
                "no_value.yaml": "no_value.yaml, line 1: limit has no value. Give one such as 0.",
                "no_name.yaml": f"no_name.yaml, line 1: the name of a parameter must be text. "
                f"{ONE_A_LINE}",
                "date.yaml": "limit must be a whole number of at least 0, got '2026-13-01'.",
                "quoted.yaml": "limit must be a whole number of at least 0, got '10'.",
                "bom.yaml": f"split must be {SPLIT} got 'rondom'. Did you mean 'random'?",
                "no_point.yaml": f"C must be {C}, got 1e-09.",
                "comments.yaml": f"comments.yaml holds no parameter. {ONE_A_LINE}",
                "empty.yaml": f"empty.yaml holds no parameter. {ONE_A_LINE}",
                "utf-16.yaml": "utf-16.yaml is not UTF-8 text. Save it as UTF-8.",
                "binary.yaml": "binary.yaml is not UTF-8 text. Save it as UTF-8.",
                "nought.yaml": f"nought.yaml is not YAML: …. {ONE_A_LINE}",
                "deep.yaml": f"deep.yaml is not YAML: it is nested too deeply. {ONE_A_LINE}",
            }.items()
        ),
        *(
            ({"arguments": ["-p", name, value]}, ValueError, f"probekit: {said}")
            for name, value, said in (
                ("limits", "3", f"No parameter 'limits'. Did you mean 'limit'? {LACKS}"),
                ("stages", "probe", f"No parameter 'stages'. {LACKS}"),
                ("", "3", f"No parameter ''. {LACKS}"),
                ("limit", "many", f"limit must be {WHOLE.format(0)}, got 'many'."),
                ("limit", "", f"limit must be {WHOLE.format(0)}, got ''."),
                ("folds", "2.5", f"folds must be {WHOLE.format(2)}, got '2.5'."),
                ("C", "0", f"C must be {C}, got 0.0."),
                ("C", "1e-9", f"C must be {C}, got 1e-09."),
                ("temperature", "nan", "temperature must be a number from 0 to 100, got nan."),
                ("p_true", "yes", "p_true must be True or False, got 'yes'."),
                ("split", "anser", f"split must be {SPLIT} got 'anser'. Did you mean 'answer'?"),
                (
                    "run_dir",
                    " ",
                    NO_PLACE.format("' '"),
                ),
            )
        ),
        (
            {"arguments": ["-p", "limit=3"]},
            ValueError,
            "probekit run: error: argument -p: expected 2 arguments",
        ),
        (
            {"arguments": ["--run-dir", ""]},
            ValueError,
            "probekit: " + NO_PLACE.format("''"),
        ),
        (
            {"arguments": ["--run-dir", "questions.csv"]},
            ValueError,
            "probekit: The run directory FOLDER/questions.csv is a file. Give a folder's path.",
        ),
    ],
    "open_run": [
        ({"path": 3}, TypeError, "The run directory must be text or a Path, got 3."),
        (
            {"path": ""},
            ValueError,
            NO_PLACE.format("''"),
        ),
        (
            {"path": "empty"},
            FileNotFoundError,
            "The folder FOLDER/empty has no finished stage of a run. Make it with `probekit run "
            "--run-dir empty`, or look at the example run: open_run() without a path.",
        ),
        (
            {"path": "nowhere"},
            FileNotFoundError,
            "There is no run directory FOLDER/nowhere. Make it with `probekit run --run-dir "
            "nowhere`, or look at the example run: open_run() without a path.",
        ),
        (
            {"path": "run/grid.nc"},
            ValueError,
            "The run directory FOLDER/run/grid.nc is a file. Give a folder's path.",
        ),
    ],
    "estimate": [
        (
            {"runs": HUGE},
            ValueError,
            "runs must be a number from 1 to 1e+15, got " + DIGITS,
        ),
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
                text += f" got {value!r}."
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
    monkeypatch.setattr(importlib.import_module("probekit.probing.grid"), "fit_cell", no_work)
    monkeypatch.setattr(
        importlib.import_module("probekit.extraction.one_pass"), "answer_shard", no_work
    )
    monkeypatch.setattr(importlib.import_module("probekit.pipeline.notebooks"), "_execute", no_work)
    before = files(good.folder)
    with pytest.raises((ValueError, TypeError, FileNotFoundError)) as error:
        function(**arguments)
    said = str(error.value).replace(str(good.folder), "FOLDER")
    pattern = ".+".join(map(re.escape, text.split("…")))
    assert re.fullmatch(pattern + "[.]?", said, re.DOTALL), said
    assert type(error.value) is kind
    assert files(good.folder) == before


def test_every_function_and_every_parameter_has_a_case():
    functions = {name for name in pk.__all__ if callable(getattr(pk, name))}
    assert functions <= {name for name, *_ in every_case()}
    of_notebooks = {
        name for case, changes, *_ in every_case() if case == "check_parameters" for name in changes
    }
    assert of_notebooks >= set(defaults())


def no_work(*arguments, **options):
    raise AssertionError("work was done before the error")


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
