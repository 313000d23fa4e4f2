"""Seconds a cell: probekit's solver, scikit-learn and another package's batched fitter.

    python tests/benchmarks/bench_probes.py [RUN_DIR] [--cells 24] [--repeats 3]

RUN_DIR holds `activations.zarr`; without one, synthetic activations with a spectrum like that of a
small language model are used, and the output says so. Every method works on the same examples,
folds and cells, in as many worker processes as there are cores, with one thread each. The methods
take turns in every repetition, so that other load on the machine meets all of them; figures are
medians over the repetitions. The clock is the worker's own and runs while a method fits and scores
a cell, not while the cell is read; for (c), which is another process, while it fits.

(a) scikit-learn at its defaults, 5 folds         (b) the same at convergence, in float64
(c) the PyPI package probekit 0.4.0, 5 folds      (d) ours, 5 folds
(e) as (a), 200 fits a cell, on a few cells       (f) ours, 200 fits: 2 splits x 20 labels x 5 folds
"""

# ruff: noqa: E402
import os

# Before numpy and torch are imported: BLAS threads of several workers fight over the cores.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import joblib
import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from probekit.probing.auroc import auroc
from probekit.probing.logistic import fit_logistic

WORKERS = joblib.cpu_count()
OTHER_PACKAGE = "probekit==0.4.0"

# Run in a process that sees the other package of the same name, and not this one.
OTHER_SCRIPT = """
import sys, time, numpy, torch
torch.set_num_threads(1)
from probekit.fitters.batch.logistic import fit_logistic_batch
saved = numpy.load(sys.argv[1])
seconds = []
for cell in range(len(saved) // 3):
    X, y, train = saved[f"X{cell}"], saved[f"y{cell}"], saved[f"train{cell}"]
    rows = min(fold.sum() for fold in train)
    batch = torch.from_numpy(numpy.stack([X[fold][:rows] for fold in train]))
    labels = torch.from_numpy(numpy.stack([y[fold][:rows] for fold in train]))
    start = time.perf_counter()
    fit_logistic_batch(batch, labels, c_param=1.0, normalize=False)
    seconds.append(time.perf_counter() - start)
print(sum(seconds) / len(seconds))
"""


def read_cells(run_dir, count):
    """Cells spread over a run's grid, or synthetic ones: dicts of name, X, y and answer."""
    store = Path(run_dir or "") / "activations.zarr"
    if run_dir is None or not store.exists():
        print(f"No activations at {store}: measuring on SYNTHETIC activations instead. "
              "Give a run directory to measure on real ones.")  # fmt: skip
        return synthetic_cells(count)
    import xarray as xr

    dataset = xr.open_zarr(store, consolidated=False)
    places = [(layer, token) for layer in dataset.layer.values for token in dataset.token.values]
    cells = []
    for place in np.linspace(0, len(places) - 1, count).round().astype(int):
        layer, token = places[place]
        X = dataset.activation.sel(layer=layer, token=token).values.astype(np.float32)
        there = np.isfinite(X).all(1) & (dataset.exact_answer.values != "")
        cells.append(
            {
                "name": f"layer {layer}, {token}",
                "X": X[there],
                "y": ~dataset.correct.values.astype(bool)[there],
                "answer": dataset.exact_answer.values.astype(object)[there],
            }
        )
    cells = [cell for cell in cells if len(cell["y"]) >= 100]
    print(f"{len(cells)} cells of {store.parent.name}, model {dataset.attrs.get('model')}")
    return cells


def synthetic_cells(count, examples=1300, features=576):
    rng = np.random.default_rng(0)
    cells = []
    for number in range(count):
        rotation = np.linalg.qr(rng.normal(size=(features, features)))[0]
        spectrum = 10 ** np.linspace(2, -2, features) / np.sqrt(features)
        X = (rng.normal(size=(examples, features)) * spectrum) @ rotation
        margin = X @ rng.normal(size=features)
        y = rng.random(examples) < 1 / (1 + np.exp(-margin / margin.std()))
        answer = rng.integers(0, 60, size=examples).astype(str)
        cells.append(
            {"name": f"synthetic {number}", "X": X.astype(np.float32), "y": y, "answer": answer}
        )
    return cells


def add_fits(cell, permutations=19):
    """Add the training folds of both splits, and the labels: the true ones, then permuted ones."""
    X, y = cell["X"], cell["y"]
    splits = []
    for splitter in (StratifiedKFold, StratifiedGroupKFold):
        groups = cell["answer"] if splitter is StratifiedGroupKFold else None
        folds = splitter(5, shuffle=True, random_state=0)
        train = np.ones((5, len(y)), dtype=bool)
        for fold, (_, test) in enumerate(folds.split(X, y, groups)):
            train[fold, test] = False
        splits.append(train)
    rng = np.random.default_rng(1)
    labels = np.stack([y, *(rng.permutation(y) for _ in range(permutations))])
    return cell | {"splits": np.stack(splits), "labels": labels}


def fit_sklearn(cell, splits=1, labels=1, tol=1e-4, max_iter=100, dtype=np.float32):
    """Out-of-fold scores (splits, labels, examples)."""
    X = cell["X"].astype(dtype)
    score = np.empty((splits, labels, len(X)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for split, label in np.ndindex(splits, labels):
            y = cell["labels"][label]
            for rows in cell["splits"][split]:
                model = LogisticRegression(tol=tol, max_iter=max_iter).fit(X[rows], y[rows])
                score[split, label, ~rows] = model.decision_function(X[~rows])
    return score


def fit_ours(cell, splits=1, labels=1, **options):
    torch.set_num_threads(1)
    train = cell["splits"][:splits, None].repeat(labels, axis=1)
    y = np.broadcast_to(cell["labels"][None, :labels, None], train.shape)
    examples = train.shape[-1]
    probes = fit_logistic(
        cell["X"], y.reshape(-1, examples), train.reshape(-1, examples), **options
    )
    score = probes.decision_function(cell["X"]).numpy().reshape(train.shape)
    return np.where(train, 0, score).sum(2)


def fit_and_measure(cell, **options):
    """Objective of each fold in float64, scikit-learn's at convergence and ours."""
    X, y = cell["X"].astype(np.float64), cell["y"]
    train = cell["splits"][0]
    probes = fit_logistic(cell["X"], y, train, **options)
    ratios = []
    for fold, rows in enumerate(train):
        model = LogisticRegression(tol=1e-10, max_iter=1000, solver="newton-cholesky")
        model.fit(X[rows], y[rows])
        ours = objective(probes.coef[fold].numpy(), float(probes.intercept[fold]), X[rows], y[rows])
        ratios.append(ours / objective(model.coef_[0], model.intercept_[0], X[rows], y[rows]) - 1)
    return max(ratios)


def objective(coef, intercept, X, y):
    coef = coef.astype(np.float64)
    margin = X @ coef + intercept
    return 0.5 * coef @ coef + np.logaddexp(0, np.where(y, -margin, margin)).sum()


def call(function, path, options):
    """Run in a worker, which reads its cell from a file; returns its seconds without that, too."""
    cell = joblib.load(path)
    start = time.perf_counter()
    result = function(cell, **options)
    return time.perf_counter() - start, result


def time_cells(pool, function, paths, **options):
    """Seconds a cell, of all workers together, and what the function returns for each."""
    called = pool(joblib.delayed(call)(function, path, options) for path in paths)
    seconds, results = zip(*called, strict=True)
    return sum(seconds) / len(paths) / WORKERS, results


def install_other(folder):
    command = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps"]
    installed = subprocess.run([*command, "--target", folder, OTHER_PACKAGE], check=False)
    return installed.returncode == 0


def time_other(folder, cells):
    """Seconds a cell with the other package, a process for each core and its share of the cells."""
    processes = []
    environment = os.environ | {"PYTHONPATH": str(folder)}
    for worker in range(WORKERS):
        saved = Path(folder) / f"cells{worker}.npz"
        share = cells[worker::WORKERS]
        arrays = {}
        for number, cell in enumerate(share):
            arrays |= {f"X{number}": cell["X"], f"y{number}": cell["y"]}
            arrays[f"train{number}"] = cell["splits"][0]
        np.savez(saved, **arrays)
        command = [sys.executable, "-c", OTHER_SCRIPT, str(saved)]
        processes.append(
            subprocess.Popen(
                command, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True
            )
        )
    return np.mean([float(process.communicate()[0]) for process in processes]) / WORKERS


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", nargs="?")
    parser.add_argument("--cells", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tight", type=float, default=1e-8, help="tol of the tight setting")
    parser.add_argument("--json", help="write the figures to this file too")
    arguments = parser.parse_args()

    cells = [add_fits(cell) for cell in read_cells(arguments.run_dir, arguments.cells)]
    most = max(len(cell["y"]) for cell in cells)
    print(
        f"{len(cells)} cells, up to {most} examples x {cells[0]['X'].shape[1]} features; "
        f"{WORKERS} worker processes of one thread each"
    )
    seconds, kept = {}, {}
    with tempfile.TemporaryDirectory() as folder, joblib.Parallel(WORKERS) as pool:
        other = install_other(folder)
        paths = [joblib.dump(cell, f"{folder}/cell{k}.joblib")[0] for k, cell in enumerate(cells)]
        few_paths = paths[len(cells) // 8 :: len(cells) // 4]
        # Workers are started and libraries loaded before the clock runs.
        for function in (fit_ours, fit_sklearn):
            time_cells(pool, function, paths[: 2 * WORKERS])
        many = {"splits": 2, "labels": 20}
        exact = {"tol": 1e-8, "max_iter": 20_000, "dtype": np.float64}
        for repeat in range(arguments.repeats):
            plan = {
                "a": (fit_sklearn, paths, {}),
                "d": (fit_ours, paths, {}),
                "e": (fit_sklearn, few_paths, many),
                "f": (fit_ours, few_paths, many),
            }
            # This takes long and is far from its target: once is enough.
            if repeat == 0:
                plan |= {"b": (fit_sklearn, paths, exact), "f, all cells": (fit_ours, paths, many)}
            for name, (function, chosen, options) in plan.items():
                taken, scores = time_cells(pool, function, chosen, **options)
                seconds.setdefault(name, []).append(taken)
                if repeat == 0:
                    kept[name] = scores
            if other:
                seconds.setdefault("c", []).append(time_other(folder, cells))
        excess = time_cells(pool, fit_and_measure, paths)[1]
        tight = time_cells(pool, fit_and_measure, paths, tol=arguments.tight)[1]

    truth = [cell["y"] for cell in cells]
    gap = np.array(
        [
            abs(auroc(mine[0, 0], y) - auroc(theirs[0, 0], y))
            for mine, theirs, y in zip(kept["d"], kept["b"], truth, strict=True)
        ]
    )
    figures = {name: float(np.median(taken)) for name, taken in sorted(seconds.items())}
    for name, taken in figures.items():
        print(f"({name}) {taken:8.4f} s a cell, of {len(seconds[name])} repetitions")
    for top, bottom, target in (("a", "d", 2), ("b", "d", 10), ("c", "d", 100), ("e", "f", 12)):
        if top in figures:
            ratio = figures[f"{top}/{bottom}"] = figures[top] / figures[bottom]
            print(f"({top})/({bottom}) {ratio:7.1f}   target {target}")
    print(f"AUROC, ours against converged: largest {gap.max():.5f}, median {np.median(gap):.5f}")
    print(f"objective above its minimum: {max(excess):.1e} by default, {max(tight):.1e} tight")
    figures |= {"auroc_largest": gap.max(), "auroc_median": float(np.median(gap))}
    figures |= {"objective": max(excess), "objective_tight": max(tight)}
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
