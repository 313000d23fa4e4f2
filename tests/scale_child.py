"""Extract and probe N questions with a tiny model, and print what each stage took, as JSON.

    python tests/scale_child.py N FOLDER MODEL

Run by tests/test_scale.py in a process of its own, as the peak of a process's memory never falls.
"""

import json
import sys
import time
from pathlib import Path

import torch
from tiny import write_questions

import probekit as pk


def peak():
    """The process's largest resident size so far, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main(n, folder, model):
    torch.set_num_threads(1)
    questions = pk.read_questions(write_questions(folder / "questions", n))
    lm, run = pk.load_model(model, device="cpu"), pk.Run(folder / "run")
    stages = {"begin": (0.0, peak())}
    start = time.process_time()
    pk.extract(lm, questions, run, max_new_tokens=10, batch_size=64, progress=False)
    stages["extract"] = time.process_time() - start, peak()
    start = time.process_time()
    grid = pk.probe_grid(run.activations(), n_permutations=1, n_jobs=1, progress=False)
    stages["probe"] = time.process_time() - start, peak()
    json.dump(
        {"stages": stages, "examples": grid.sizes["example"], "n": len(run.answers())}, sys.stdout
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
