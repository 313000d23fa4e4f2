"""Seconds of a Dask cluster of two single-threaded workers, and of one single-threaded process.

    .venv/bin/python tests/benchmarks/bench_cluster.py [--questions 1024] [--repeats 1]

The same work on this machine: SmolLM2 answers city questions, a probe is fitted in every cell. One
process and the cluster take turns, so that other load meets both; figures are medians over the
repeats. Loading the model at the workers is reported on its own: they keep it. Extraction is by
shards of 256 questions, so two workers need a multiple of 512 to be equally busy.
The workers' heap is left as it is in the one process, by Dask's setting (in a shell: see
docs/tutorials/cluster.md).
Aimed at: at most 0.6 of the time, activations within 1e-5 and AUROC within 1e-6 of each other.
"""

# ruff: noqa: E402
import os

# Before numpy and torch are imported, and handed on to the workers.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import dask
import numpy as np
import torch
from distributed import Client, LocalCluster

import probekit as pk


def timed(function, *arguments, **options):
    start = time.perf_counter()
    result = function(*arguments, **options)
    return time.perf_counter() - start, result


def largest_difference(found, expected):
    """Of two arrays that must have the same values missing."""
    found, expected = found.to_numpy(), expected.to_numpy()
    assert (np.isnan(found) == np.isnan(expected)).all()
    return float(np.nanmax(np.abs(found.astype(np.float32) - expected.astype(np.float32))))


def compared(name, repeats, alone, cluster):
    """Time both by turns, print it, and return the last results."""
    seconds = []
    for turn in range(repeats):
        one, expected = timed(alone, turn)
        two, found = timed(cluster, turn)
        seconds.append((one, two))
    one, two = (statistics.median(column) for column in zip(*seconds, strict=True))
    ratio = statistics.median(two / one for one, two in seconds)
    print(f"{name}: one process {one:.1f} s, two workers {two:.1f} s, ratio {ratio:.2f}")
    if repeats > 1:
        print(f"  each: {', '.join(f'{one:.1f} and {two:.1f}' for one, two in seconds)}")
    return found, expected


def extraction(lm, client, folder, options):
    questions = pk.read_questions("cities", limit=options.questions)
    limits = {"max_new_tokens": options.tokens, "batch_size": 64, "progress": False}

    def extract(name, scheduler=None):
        run = pk.Run(folder / name)
        return pk.extract(lm, questions, run, **limits, scheduler=scheduler)

    loading, _ = timed(
        pk.extract,
        lm,
        questions[: options.warm_up],
        pk.Run(folder / "warm"),
        **limits,
        scheduler=client,
    )
    print(f"loading the model at two workers, and {options.warm_up} questions: {loading:.1f} s")
    runs = compared(
        f"extraction, {len(questions)} questions",
        options.repeats,
        lambda turn: extract(f"alone {turn}"),
        lambda turn: extract(f"cluster {turn}", client),
    )
    found, expected = (run.activations()["activation"] for run in runs)
    same = (runs[0].answers()["response"] == runs[1].answers()["response"]).mean()
    print(f"  responses the same: {same:.1%}")
    print(f"  largest difference of activations {largest_difference(found, expected):.1e}")
    return runs[1]


def probing(run, client, options):
    activations = run.activations()
    settings = {"n_permutations": options.permutations, "progress": False}
    cells = activations.sizes["layer"] * activations.sizes["token"]
    found, expected = compared(
        f"grid, {cells} cells",
        options.grid_repeats,
        lambda turn: pk.probe_grid(activations, **settings, n_jobs=1),
        lambda turn: pk.probe_grid(activations, **settings, scheduler=client),
    )
    print(f"  largest difference of AUROC {largest_difference(found.auroc, expected.auroc):.1e}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--questions", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=64, help="longest response")
    parser.add_argument("--permutations", type=int, default=19)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--grid-repeats", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=16, help="questions")
    options = parser.parse_args()
    torch.set_num_threads(1)
    dask.config.set({"distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None})
    lm = pk.load_model("smollm2")
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        run = extraction(lm, client, Path(folder), options)
        probing(run, client, options)


if __name__ == "__main__":
    main()
