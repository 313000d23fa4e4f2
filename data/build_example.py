"""Build data/example, a small copy of a finished run: python data/build_example.py RUN [FOLDER]."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.special import expit, logit

from probekit.run.directory import Run
from probekit.run.files import replacing, sha256, write_json
from probekit.run.manifest import STAGES, sealed

# Steps in which log-odds are kept, in parts of their standard deviation in a cell, about: those of
# the scores, and those of the fits that lacked one more fold, which only intervals are made of.
# They are powers of two, so that few values are many times there, which compresses.
SCORE, WITHOUT = 32, 4

# The figures that the README shows.
FIGURES = ("heatmap", "splits", "controls", "gain")


def make_example(run, folder):
    """Make an example of a finished run: all but activations, probes, and most figures.

    Scores are rounded in log-odds and to single precision, which moves a cell's AUROC by
    thousandths at most; the areas themselves, with their intervals, are the run's. The manifests
    list what is there, and under ``left_out`` what isn't.
    """
    example = Run(folder)
    manifests = {stage: run.manifest(stage) for stage in STAGES}
    splits = manifests["probe"]["results"]["splits"]
    # As the methods of Run do, this sees that nothing is damaged.
    run.answers()
    for name, stage in {"figures": "visualize", "description.md": "interpret"}.items():
        run._intact(name, stage)
    run._intact("claims.csv", "interpret")
    example.save_grids({split: _small(run.grid(split)) for split in splits}, shuffle=True)
    controls = [split for split in splits if split != "published"]
    example.save_grids({split: run.controls(split) for split in controls}, "controls.nc")
    # A detector's own numbers are small; its probes are not.
    example.save_detectors({s: replace(run.detector(s), probes=None) for s in controls})
    copied = ["answers.parquet", "description.md", "claims.csv"]
    drawn = manifests["visualize"]["outputs"]
    copied += [name for name in (f"figures/{n}.png" for n in FIGURES) if name in drawn]
    for name in copied:
        with replacing(example._inside(name)) as temporary:
            shutil.copyfile(run._inside(name), temporary)
    for stage, manifest in manifests.items():
        write_json(example.manifest_path(stage), sealed(_of_example(manifest, example.path)))
    shutil.rmtree(example.path / ".lock")  # its manifests tell now that it is a run
    return example


def _small(grid):
    """A grid without its probes and permuted grids, and with rounded scores."""
    score = expit(_stepped(logit(grid["score"]), SCORE)).astype(np.float32)
    score.attrs["rounded"] = f"to about 1/{SCORE} of a cell's spread in log-odds"
    left_out = [n for n in ("coef", "null_by_layer", "null_by_token", "null_wrong") if n in grid]
    small = grid.drop_vars(left_out).assign(score=score)
    if "log_odds_without" in grid:
        without = _stepped(grid["log_odds_without"], WITHOUT)
        small["log_odds_without"] = without.astype(np.float32)
    return small.assign_attrs(left_out="coef: probes can't be loaded from the example")


def _stepped(log_odds, parts):
    """Log-odds in whole steps of each cell."""
    # A score that can't be told from 0 or 1 has none, and stays as it is.
    spread = log_odds.where(np.isfinite(log_odds)).std([d for d in log_odds.dims if d in _EACH])
    step = 2 ** np.round(np.log2(spread / parts))
    return (np.round(log_odds / step) * step).transpose(*log_odds.dims)


_EACH = ("other", "example")


def _of_example(manifest, folder):
    """A run's manifest, of what the example has."""
    outputs = {name: folder / name for name in manifest["outputs"]}
    missing = [Path(name) for name, path in outputs.items() if not path.exists()]
    environment = manifest["environment"]
    return manifest | {
        # Where the files were on the machine of the run is nobody else's concern.
        "inputs": {
            Path(name).name if Path(name).is_absolute() else name: digest
            for name, digest in manifest["inputs"].items()
        },
        "outputs": {
            name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
            for name, path in outputs.items()
            if path.exists()
        },
        "left_out": sorted(
            {p.parts[0] if p.parts[0].endswith(".zarr") else p.as_posix() for p in missing}
        ),
        "environment": environment | {"platform": environment["platform"].partition("-")[0]},
    }


if __name__ == "__main__":
    print(make_example(Run(sys.argv[1]), *sys.argv[2:] or [Path(__file__).parent / "example"]))
