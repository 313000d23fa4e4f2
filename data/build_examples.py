"""Build data/examples, small runs of a few cells: python data/build_examples.py RUN NAME N."""

import shutil
import sys
from pathlib import Path

import numpy as np
import xarray as xr
from zarr.codecs import Crc32cCodec

import probekit as pk
from probekit.extraction.store import LABELS, ActivationStore
from probekit.run.files import replacing, write_json
from probekit.run.manifest import sealed

# Early, middle and late, at the end of the question, in the answer, and at the end of the response.
LAYERS = (6, 15, 24)
TOKENS = ("last_q", "exact_answer_first", "-1")


def make_small(run, folder, n, activations=True):
    """Make a small run of the first `n` questions of a run, with fewer cells, and probe it."""
    small = pk.Run(folder)
    _extracted(run, small, n)
    _probed(small)
    if not activations:
        _left_out(small)
    shutil.rmtree(small.path / ".lock")  # its manifests tell now that it is a run
    return small


def _extracted(run, small, n):
    """The extract stage, from that of the whole run."""
    manifest = run.manifest("extract")
    many = n * manifest["parameters"]["n_samples"]
    answers, whole = run.answers().head(many), run.activations().isel(example=slice(many))
    cells = whole.sel(layer=list(LAYERS), token=list(TOKENS))
    stage = small.begin("extract", manifest["parameters"] | {"n_questions": n})
    with replacing(small.path / "answers.parquet") as temporary:
        answers.to_parquet(temporary, index=False)
    about = {name: whole.attrs[name] for name in ("model", "revision", "site")}
    store = ActivationStore(small.path / "activations.zarr", many, many, about)
    store.write(range(many), cells["activation"].to_numpy())
    _name(store.path, answers, whole)
    counted = {
        "sites": [whole.attrs["site"]],
        "n_examples": many,
        "n_correct": int(answers["correct"].sum()),
        "n_without_exact_answer": int((answers["exact_answer"] == "").sum()),
    }
    stage.finish([small.path / "answers.parquet", small.path / "activations.zarr"], **counted)


def _name(path, answers, whole):
    """Put the labels beside the activations, as a store has them, of these cells alone."""
    text = np.dtypes.StringDType()
    labels = {n: ("example", answers[n].to_numpy(text)) for n in LABELS if n in whole.coords}
    labels |= {"correct": ("example", answers["correct"].to_numpy(bool))}
    labels |= {"layer": np.array(LAYERS), "token": np.array(TOKENS, text)}
    coded = {name: {"compressors": (Crc32cCodec(),)} for name in labels}
    attributes = {name: value for name, value in whole.attrs.items() if name != "coordinates"}
    labelled = xr.Dataset(coords=labels, attrs=attributes)
    labelled.to_zarr(path, mode="a", consolidated=False, encoding=coded, zarr_format=3)


def _probed(small):
    """The probe stage, as notebook 02 has it but for the published protocol."""
    answers, activations = small.answers(), small.activations().load()
    settings = {"folds": 5, "C": 1.0, "n_permutations": 19, "seed": 0}
    extracted = small.manifest_path("extract")
    stage = small.begin("probe", {"split": "random", **settings}, inputs=[extracted])
    held_out = pk.held_out_splits(activations, folds=5, seed=0)
    splits = ["random", *(name for name, obstacle in held_out.items() if not obstacle)]
    grids = {s: pk.probe_grid(activations, split=s, progress=False, **settings) for s in splits}
    controls = {split: pk.controls(answers, grid) for split, grid in grids.items()}
    detectors = {split: pk.detector(grids[split], controls[split]) for split in splits}
    files = [small.save_grids(grids), small.save_grids(controls, "controls.nc")]
    stage.finish([*files, small.save_detectors(detectors)], splits=splits)


def _left_out(small):
    """Take the activations away, and say so in the manifest."""
    shutil.rmtree(small.path / "activations.zarr")
    path = small.manifest_path("extract")
    manifest = small.manifest("extract")
    there = {n: r for n, r in manifest["outputs"].items() if not n.startswith("activations")}
    write_json(path, sealed(manifest | {"outputs": there, "left_out": ["activations.zarr"]}))


if __name__ == "__main__":
    source, name, n = sys.argv[1:4]
    folder = Path(__file__).parent / "examples" / name
    shutil.rmtree(folder, ignore_errors=True)
    print(make_small(pk.Run(source), folder, int(n), activations="--answers" not in sys.argv))
