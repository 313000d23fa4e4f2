"""A run that a hostile script made: opened, explored, reported and continued.

Nothing of it is run, nothing outside its folder is read or changed, nobody is called, and what
can't be used is refused in a sentence. `browser/test_hostile_run_in_browser.py` looks at the pages.
"""

import html.parser
import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import h5py
import nbformat
import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import xarray as xr
from made_run import made_run
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, new_raw_cell
from nightly import is_nightly

import probekit as pk
from probekit.__main__ import main
from probekit.extraction.one_pass import check_two_classes
from probekit.extraction.store import mend
from probekit.pipeline import notebooks
from probekit.pipeline.report import _TAGS
from probekit.probing.detection import FILES as DETECTOR_FILES
from probekit.run.directory import Run
from probekit.run.files import sha256, write_json
from probekit.run.manifest import STAGES, sealed

#: What a message may never have: a terminal obeys it, or reads it from the other end.
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
#: Clears the screen, sets the window's title, turns the reading direction; and a formula.
TERMINAL = "=1+1\x1b[2J\x1b]0;mine\x07\r\x9b31m\u202e\u2066"
REFUSED = (ValueError, FileNotFoundError)


# What must not happen


class Listener:
    """Counts who connects to a port of this machine."""

    def __init__(self):
        self.heard, self._socket = [], socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/"
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self):
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                with connection:
                    connection.settimeout(2)
                    with suppress(OSError):
                        self.heard.append(connection.recv(200))

    def close(self):
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.fixture(scope="module")
def listener():
    listening = Listener()
    yield listening
    listening.close()


class Outside:
    """A folder of the user's beside the run, which must stay as it is."""

    def __init__(self, path):
        self.path = path
        (path / "folder").mkdir(parents=True)
        (path / "private.txt").write_text("a private key, and nobody else's business")
        (path / "folder" / "zarr.json").write_text("{}")
        # As what a killed process leaves behind in a run, and is then taken away.
        (path / "folder" / ".mine.part").write_text("not finished")
        for file in [*path.rglob("*"), path]:
            os.utime(file, (1_000_000_000, 1_000_000_000))
        self._before = self._state()

    def _state(self):
        return {
            str(p): (p.stat().st_mtime_ns, p.stat().st_mode, p.read_bytes() if p.is_file() else b"")
            for p in [self.path, *sorted(self.path.rglob("*"))]
        }

    def assert_untouched(self):
        assert self._state() == self._before


@pytest.fixture
def outside(tmp_path):
    return Outside(tmp_path / "outside")


def told(error):
    """Whether an error says in a sentence or a few what is wrong."""
    text = str(error)
    return " " in text and len(text) < 3000 and not HIDDEN.search(text)


def all_that_is_done(run):
    """Open, explore, report and continue a run; what each step was refused with, or None."""
    steps = {
        "answers": run.answers,
        "activations": run.activations,
        "grid": run.grid,
        "detector": run.detector,
        "tokens": lambda: pk.show_tokens(run),
        "preflight": lambda: pk.preflight(run),
        "explore": lambda: pk.explore(run).examples(),
        "report": lambda: pk.write_report(run),
        "mend": lambda: mend(run),
        "figures": lambda: run.figures,
        "notebooks": lambda: run.notebooks,
        "text": lambda: run.write_text("description.md", "mine"),
        "stages": lambda: [run.begin(s, {}).finish([]) for s in (*STAGES, "report")],
    }
    said = {}
    for name, step in steps.items():
        try:
            step()
            said[name] = None
        except REFUSED as error:
            assert told(error), error
            said[name] = error
    return said


# Links


def shared_run(path):
    """A finished run, with a note of a dead process and a store of activations."""
    run = made_run(path, n=30)
    (run.path / "activations.zarr").mkdir()
    (run.path / "activations.zarr" / "zarr.json").write_text("{}")
    for name in (".lock", "detector", "figures", "notebooks", "shards"):
        (run.path / name).mkdir(exist_ok=True)
    return run


FILES = [
    ".lock/run", ".lock/stage", ".lock/run.json", ".lock/stage.json", "manifests/extract.json",
    "manifests/probe.json", "manifests/report.json", "manifests/.extract.pipeline.json",
    "notebooks/01_extract.ipynb", "notebooks/04_interpret.unfinished.ipynb", "answers.parquet",
    "grid.nc", "controls.nc", "claims.csv", "description.md", "report.html", "run.json",
    "activations.zarr/zarr.json",
]  # fmt: skip
FOLDERS = [".lock", "detector", "manifests", "notebooks", "figures", "shards", "activations.zarr"]


@pytest.mark.parametrize("name", [*FILES, *FOLDERS])
def test_no_link_in_a_run_is_written_or_deleted_through(name, tmp_path, outside):
    run = shared_run(tmp_path / "run")
    place = run.path / name
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.symlink_to(outside.path / ("folder" if name in FOLDERS else "private.txt"))
    all_that_is_done(run)
    outside.assert_untouched()


@pytest.mark.parametrize("name", ["answers.parquet", "grid.nc", "manifests/probe.json"])
def test_no_link_in_a_run_is_read_through(name, tmp_path):
    """Not even if what it leads to is just what the manifest says."""
    run = shared_run(tmp_path / "run")
    elsewhere = tmp_path / "elsewhere"
    (run.path / name).rename(elsewhere)
    (run.path / name).symlink_to(elsewhere)
    with pytest.raises(REFUSED) as refused:
        run.answers(), run.grid()
    assert told(refused.value)


def test_a_run_directory_may_itself_be_a_link(tmp_path):
    shared_run(tmp_path / "run")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    assert len(Run(tmp_path / "link").answers()) == 31


# Stores


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def remade(run, stage, outputs, **results):
    """The manifest of a stage, made anew by a hostile script."""
    manifest = json.loads(run.manifest_path(stage).read_text())
    manifest["outputs"] = {}
    for output in outputs:
        for file in sorted(p for p in [output, *output.rglob("*")] if p.is_file()):
            record = {"bytes": file.stat().st_size, "sha256": sha256(file)}
            manifest["outputs"][str(file.relative_to(run.path))] = record
    manifest["results"] |= results
    run.manifest_path(stage).write_text(json.dumps(sealed(manifest)))


@pytest.mark.parametrize("role", ["compressor", "filters"])
def test_a_store_that_holds_a_pickle_is_refused(role, tmp_path):
    """Format 2 of Zarr has a codec for it, as a compressor and as a filter."""
    run = made_run(tmp_path / "run", n=30)
    store = run.path / "activations.zarr"
    array = store / "activation"
    array.mkdir(parents=True)
    (store / ".zgroup").write_text('{"zarr_format": 2}')
    about = {"zarr_format": 2, "shape": [1, 1, 1, 1], "chunks": [1, 1, 1, 1], "order": "C"}
    about |= {"dtype": "<f2" if role == "compressor" else "|O", "fill_value": None}
    codec = {"id": "pickle", "protocol": 4}
    about |= {"compressor": None, "filters": None}
    about[role] = codec if role == "compressor" else [codec]
    (array / ".zarray").write_text(json.dumps(about))
    dims = {"_ARRAY_DIMENSIONS": ["example", "layer", "token", "feature"]}
    (array / ".zattrs").write_text(json.dumps(dims))
    (array / ".".join("0000")).write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    remade(run, "extract", [run.path / "answers.parquet", store])
    with pytest.raises(REFUSED) as refused:
        run.activations()["activation"].load()
    assert told(refused.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["external storage", "external link", "soft link", "virtual"])
def test_a_grid_that_leads_to_another_file_is_refused(kind, tmp_path):
    run = made_run(tmp_path / "run", n=30)
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["secret"] = np.arange(8.0)
    with h5py.File(run.path / "grid.nc", "a") as file:
        group = file[next(name for name in file if isinstance(file[name], h5py.Group))]
        shape = group["auroc"].shape
        del group["auroc"]
        if kind == "external storage":
            size = int(np.prod(shape)) * 8
            (tmp_path / "secret.bin").write_bytes(b"\x01" * size)
            where = [(str(tmp_path / "secret.bin"), 0, size)]
            group.create_dataset("auroc", shape, "f8", external=where)
        elif kind == "external link":
            group["auroc"] = h5py.ExternalLink(str(other), "/secret")
        elif kind == "soft link":
            group["auroc"] = h5py.SoftLink("/nowhere")
        else:
            layout = h5py.VirtualLayout((8,), "f8")
            layout[:] = h5py.VirtualSource(str(other), "secret", (8,))
            group.create_virtual_dataset("auroc", layout)
    remade(run, "probe", [run.path / "grid.nc"])
    with pytest.raises(REFUSED) as refused:
        run.grid()["auroc"].load()
    assert told(refused.value)


# Detectors


@pytest.fixture(scope="module")
def detected(tmp_path_factory):
    """A run of a tiny grid with its detector, and the two files of that."""
    run = made_run(tmp_path_factory.mktemp("detected") / "run", n=30)
    random = np.random.default_rng(0)
    wrong = np.arange(40) % 2 == 0
    X = random.normal(size=(40, 2, 2, 3)).astype(np.float32)
    X[wrong, ..., 0] += 1
    activations = xr.Dataset(
        {"activation": (("example", "layer", "token", "feature"), X)},
        coords={
            "layer": [0, 1],
            "token": ["last_q", "-1"],
            "id": ("example", [f"q{i}" for i in range(40)]),
            "exact_answer": ("example", [f"country {i}" for i in range(40)]),
            "correct": ("example", ~wrong),
        },
    )
    grid = pk.probe_grid(activations, n_permutations=0, n_jobs=1, progress=False)
    made = [run.save_grids({"random": grid}), run.save_detectors({"random": pk.detector(grid)})]
    run.begin("probe", {}).finish(made, splits=["random"])
    return run


def used(run):
    """What the notebooks and the reports do with a run's detector."""
    detector, grid = run.detector(), run.grid()
    pk.heatmap(grid, detector=detector).to_dict()
    pk.describe(grid, detector=detector)
    return f"{detector} {detector.threshold()} {detector.p_error.to_numpy()}"


SPOILT_JSON = {
    "another form": lambda said: [said],
    "a later format": lambda said: said | {"format": 2},
    "no numbers": lambda said: said | {"auroc": {"a": 1}, "n_examples": [1]},
    "a vast number": lambda said: said | {"auroc": 10**400},
    "a vast number in a table": lambda said: said | {"by_layer": many(said, auroc=10**400)},
    "a layer of text": lambda said: said | {"by_layer": many(said, layer=TERMINAL)},
    "a layer of no number": lambda said: said | {"by_layer": many(said, layer=None)},
    "tables of lists": lambda said: said | {"by_token": many(said, auroc=[[]])},
    "a table of text": lambda said: said | {"by_token": TERMINAL},
    "other answers": lambda said: said | {"ids": said["ids"] * 1000},
    "tokens of text": lambda said: said | {"tokens": TERMINAL},
    "a map of text": lambda said: said | {"calibration": [TERMINAL, {}]},
    "a split of lists": lambda said: said | {"origin": {"split": [[TERMINAL]]}},
    "no origin": lambda said: said | {"origin": None},
}


def many(said, **columns):
    """A table whose columns hold the same in every row."""
    n = len(said["by_layer"]["layer"])
    return said["by_layer"] | {"token": ["a"] * n} | {k: [v] * n for k, v in columns.items()}


SPOILT_TENSORS = {
    "no safetensors": lambda arrays: pickle.dumps(arrays),
    "nothing": lambda arrays: {},
    "one cell": lambda arrays: arrays | {"cells": np.ones((1, 1))},
    "layers of layers": lambda arrays: arrays | {"layers": np.zeros((2, 2), int)},
    "a layer alone": lambda arrays: arrays | {"layers": np.array(1)},
    "flat probes": lambda arrays: arrays | {"coef": np.zeros((2, 2))},
    "probes without intercepts": lambda arrays: {k: v for k, v in arrays.items() if k != "prior"},
    "fewer answers": lambda arrays: arrays | {"p_error": np.zeros(3)},
    "groups of another length": lambda arrays: arrays | {"groups": np.zeros(3, int)},
    "a map of one row": lambda arrays: arrays | {"points": np.zeros((1, 5))},
}


@pytest.mark.parametrize("spoilt", [*SPOILT_JSON, *SPOILT_TENSORS])
def test_a_detector_of_another_form_is_refused(spoilt, detected, tmp_path, capsys):
    run = Run(shutil.copytree(detected.path, tmp_path / "run"))
    assert used(run), "as it was made, it is used"
    tensors, about = (run.path / "detector" / "random" / name for name in DETECTOR_FILES)
    if spoilt in SPOILT_JSON:
        about.write_text(json.dumps(SPOILT_JSON[spoilt](json.loads(about.read_text()))))
    else:
        content = SPOILT_TENSORS[spoilt](safetensors.numpy.load_file(tensors))
        if not isinstance(content, bytes):
            content = safetensors.numpy.save(content)
        tensors.write_bytes(content)
    remade(run, "probe", [run.path / "grid.nc", run.path / "detector"])
    with pytest.raises(REFUSED, match="Run the probe stage again") as refused:
        run.detector()
    assert told(refused.value)
    assert not HIDDEN.search(capsys.readouterr().out)


@pytest.mark.parametrize("name", ["detector", "detector/random", "detector/random/detector.json"])
@pytest.mark.parametrize("kind", ["link", "pipe", "other kind", "nothing"])
def test_a_detector_that_leads_elsewhere_is_refused(name, kind, detected, tmp_path, outside):
    run = Run(shutil.copytree(detected.path, tmp_path / "run"))
    found, place = run.detector(), run.path / name
    elsewhere = tmp_path / "elsewhere"
    place.rename(elsewhere)
    if kind == "link":  # what it leads to is just what the manifest says
        place.symlink_to(elsewhere)
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "other kind":
        place.write_text("{}") if elsewhere.is_dir() else place.mkdir()
    # Whoever makes the manifest says that it is as the stage left it.
    remade(run, "probe", [run.path / "grid.nc", run.path / "detector"])
    before = {p: p.read_bytes() for p in elsewhere.rglob("*") if p.is_file()}
    with pytest.raises(REFUSED) as refused:
        run.detector("random")
    assert told(refused.value)
    # Nor is it deleted or written through, when detectors are made anew.
    with suppress(*REFUSED):
        run.save_detectors({"random": found})
    assert before == {p: p.read_bytes() for p in elsewhere.rglob("*") if p.is_file()}
    outside.assert_untouched()


# Manifests


@pytest.mark.parametrize(
    "site", ["x/../../outside", "../outside", "/etc", "..", "a/b", "x\x1b[2J", "a\0b", "s" * 5000]
)
def test_a_site_is_a_name(site, tmp_path):
    run = made_run(tmp_path / "run", n=30)
    remade(run, "extract", [run.path / "answers.parquet"], sites=["mlp_out", site])
    (tmp_path / "outside.zarr").mkdir()
    (tmp_path / "outside.zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    with pytest.raises(REFUSED) as refused:
        run.activations(site)
    assert told(refused.value)


def deep(levels):
    return "[" * levels + "]" * levels


MANY = 100_000 if is_nightly() else 10_000
FORGED = {
    "an output outside": {"outputs": {"../outside/private.txt": {"bytes": 1, "sha256": "0"}}},
    "an absolute output": {"outputs": {"/etc/passwd": {"bytes": 1, "sha256": "0"}}},
    "an output of no name": {"outputs": {"": {"bytes": 1, "sha256": "0"}}},
    "an output with controls": {"outputs": {TERMINAL: {"bytes": 1, "sha256": "0"}}},
    "a very long name": {"outputs": {"x" * 1_300_000: {"bytes": 1, "sha256": "0"}}},
    "no outputs": {"outputs": None},
    "outputs of another kind": {"outputs": ["answers.parquet"]},
    "results of another kind": {"results": "all is well"},
    "very many sites": {"results": {"sites": [f"s{i}\x1b[2J" for i in range(MANY)]}},
    "sites that are numbers": {"results": {"sites": [1, 2]}},
    "splits of other kinds": {"results": {"splits": [{"a": 1}], "sites": ["mlp_out"]}},
    "a text instead of splits": {"results": {"splits": "random", "sites": ["mlp_out"]}},
    "no results": {"results": {}},
    "inputs outside": {"inputs": {"../outside/private.txt": "0" * 64}},
    "inputs of another kind": {"inputs": {"answers.parquet": {"a": [1]}}},
    "parameters with controls": {"parameters": {TERMINAL: TERMINAL, "model": [TERMINAL] * 1000}},
}


@pytest.mark.parametrize("forged", FORGED)
def test_a_forged_manifest_is_refused_or_harmless(forged, tmp_path, outside, capsys):
    run = shared_run(tmp_path / "run")
    for stage in ("extract", "probe"):
        manifest = json.loads(run.manifest_path(stage).read_text()) | FORGED[forged]
        run.manifest_path(stage).write_text(json.dumps(sealed(manifest)))
        run.outdated(stage, {"parameters": {}})
    with suppress(*REFUSED):
        run.activations(f"s{MANY - 1}\x1b[2J")
    all_that_is_done(run)
    outside.assert_untouched()
    assert not HIDDEN.search(capsys.readouterr().out)


@pytest.mark.parametrize("levels", [900, 960, 990, 100_000])
def test_a_deeply_nested_manifest(levels, tmp_path):
    run = made_run(tmp_path / "run", n=30)
    text = run.manifest_path("extract").read_text()
    run.manifest_path("extract").write_text(
        text.replace('"parameters": {', f'"parameters": {{"x": {deep(levels)},', 1)
    )
    with pytest.raises(REFUSED) as refused:
        run.answers()
    assert told(refused.value)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", ["manifests/extract.json", "answers.parquet", ".lock/run.json"])
def test_a_pipe_in_place_of_a_file(name, tmp_path):
    """Whoever opened it would wait for ever."""
    run = shared_run(tmp_path / "run")
    (run.path / name).unlink(missing_ok=True)
    os.mkfifo(run.path / name)
    all_that_is_done(run)


def test_who_holds_a_lock_is_said_in_a_sentence(tmp_path, capsys):
    """Whoever can write into a shared run says of himself what he likes."""
    run = made_run(tmp_path / "run", n=30)
    holder = (
        "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); "
        "print('held', flush=True); sys.stdin.read()"
    )
    (run.path / ".lock").mkdir(exist_ok=True)
    held = subprocess.Popen(
        [sys.executable, "-c", holder, run.path / ".lock" / "run"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        held.stdout.readline()
        note = {"pid": 1, "host": {"a": TERMINAL}, "command": TERMINAL * 100_000}
        (run.path / ".lock" / "run.json").write_text(json.dumps(note))
        with pytest.raises(ValueError, match="is being written to by process 1") as refused:
            run.begin("extract", {})
        assert told(refused.value)
        assert main(["run", "--run-dir", str(run.path)]) == 1
        said = capsys.readouterr().err
        assert not HIDDEN.search(said)
        assert "\\x1b[2J" in said
    finally:
        held.communicate("")


# Texts


def hostile_text(url):
    return f"<img src='{url}text' onerror=alert(1)><script src={url}></script>{TERMINAL}"


def test_hostile_texts_are_shown_as_they_are(tmp_path, listener, capsys):
    run = made_run(tmp_path / "run", n=40, wrap=hostile_text(listener.url) + "{}")
    explorer = pk.explore(run)
    pages = [explorer.examples()[0], explorer.numbers(), pk.show_tokens(run)._repr_html_()]
    pages.append(pk.preflight(run)._repr_html_())
    assert not any("<img" in page or "<script" in page for page in pages)
    print(pk.show_tokens(run), pk.preflight(run))
    explorer.choose_tokens(("-8",))
    with pytest.raises(ValueError, match="none of the tokens") as refused:
        explorer.choose_tokens([TERMINAL] * 100_000)
    assert told(refused.value)
    assert "and 99,990 more" in str(refused.value)
    assert not HIDDEN.search(capsys.readouterr().out)
    assert listener.heard == []


def test_questions_with_100_000_hostile_columns(tmp_path, capsys):
    path = tmp_path / "many.csv"
    columns = [f"column {i}\u202e\x1b[31m" for i in range(100_000)]
    path.write_text(f"{','.join(columns)}\n{','.join('x' for _ in columns)}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"and 99,990 more") as refused:
        pk.read_questions(path)
    assert told(refused.value)
    assert main(["run", "--run-dir", str(tmp_path / "r"), "-p", "questions", str(path)]) == 1
    said = capsys.readouterr().err
    assert told(said)
    assert "column 0\\u202e\\x1b[31m" in said


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("\x1b[2Jx.csv", "question,answers\n"),
        ("a\u202evsc.exe.csv", "question,answers\nWhat?,\n"),
        ("x.csv", 'question,answers,id\nWhat?,,"\x1b[2J\u202e"\n'),
        ("x.csv", 'question,answers,id\nA?,1,"\x1b[2J"\nB?,2,"\x1b[2J"\n'),
        ("x.csv", 'question,answers\n"\x1b[2J,1\n'),
        ("x.jsonl", '{"question": "What?", "answers": {"\\u001b[2J": 1}}\n'),
        ("x.jsonl", '{"question": "What?", "answers": ["\\ud800\\u001b[2J"]}\n'),
        ("x.json", "[\x1b[2J]"),
        ("x.csv", "question,answers,candidates\nWhat?,1,\x1b[2J\n"),
        ("x.\x1b[2Jexe", "x"),
    ],
)
def test_a_question_file_that_is_refused_by_name(name, content, tmp_path, capsys):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=" ") as refused:
        pk.read_questions(path)
    assert told(refused.value)
    arguments = ["run", "--run-dir", str(tmp_path / "r"), "-p", "questions", str(path)]
    assert main(arguments) == 1
    assert not HIDDEN.search(capsys.readouterr().err)


def test_the_command_line_itself_may_hold_names_of_files(tmp_path, capsys):
    """As where a shell has written them for a ``*``; one of them is no UTF-8."""
    for arguments in (["\x1b[2J\u202e"], ["-p", "x"], ["-p", "\x1b[2J", "1"], ["-f", "\udcff\x1b"]):
        try:
            assert main(["run", *arguments]) == 1
        except SystemExit as stopped:
            assert stopped.code == 2
        said = capsys.readouterr().err
        assert said
        assert not HIDDEN.search(said)


def test_an_unforeseen_error_is_shown_with_its_place(monkeypatch, tmp_path, capsys):
    def fail(**_):
        raise RuntimeError(TERMINAL)

    monkeypatch.setattr("probekit.pipeline.notebooks.run_pipeline", fail)
    assert main(["run"]) == 1
    said = capsys.readouterr().err
    assert "report it" in said
    assert "test_hostile_run.py" in said
    assert "\\x1b[2J" in said
    assert not HIDDEN.search(said)


def test_what_a_model_wrote_is_quoted_in_short():
    row = {"question": TERMINAL * 1000, "response": TERMINAL * 1000, "correct": False}
    row |= {"exact_answer": TERMINAL, "accepted": TERMINAL, "doubt": ""}
    with pytest.raises(ValueError, match="answers are wrong") as refused:
        check_two_classes(pd.DataFrame([row] * 50), {})
    assert told(refused.value)


# A report's notebooks


def active(url):
    """Markup by which a page acts, looks elsewhere, or covers what is beside it."""
    leaf = f"{url}leaf"
    return [
        f'<meta http-equiv="refresh" content="0;url={leaf}">',
        '<meta http-equiv="refresh" content="0;url=data:text/html,x">',
        f'<base href="{url}" target="_blank">',
        f'<form action="{leaf}"><input autofocus onfocus="this.form.submit()"><button>x</form>',
        f'<iframe src="{leaf}"></iframe><iframe srcdoc="<script>parent.document.title=1</script>">',
        f'<object data="{leaf}"></object><embed src="{leaf}"><applet code="{leaf}">',
        f'<link rel="stylesheet" href="{leaf}"><link rel="prefetch" href="{leaf}">',
        f'<link rel="dns-prefetch" href="{url}"><link rel="preconnect" href="{url}">',
        f'<style>@import "{leaf}"; body {{ background: url({leaf}) }} h1 {{ color: red }}</style>',
        '<div style="position:fixed;inset:0;z-index:9;background:red">In place of it all</div>',
        '<p style="margin-top:-9000px;font-size:900px;line-height:0">Over the report</p>',
        f'<p style="background:url({leaf});list-style:url({leaf})">x</p>',
        f'<img src="{leaf}" srcset="{leaf} 2x"><picture><source srcset="{leaf}"><img></picture>',
        f'<video src="{leaf}" poster="{leaf}" autoplay></video><audio src="{leaf}" autoplay>',
        f'<table background="{leaf}"><tr><td background="{leaf}">x</td></tr></table>',
        f'<input type="image" src="{leaf}">',
        f'<script src="{leaf}"></script><script>location="{leaf}"</script>',
        f'<a href="javascript:location=\'{leaf}\'">script</a><a href="java\tscript:alert(1)">x</a>',
        f'<a href="data:text/html,<script>1</script>" ping="{leaf}" target="_top">data</a>',
        '<a href="file:///etc/passwd">file</a><a href="../../x">relative</a>',
        f'<svg onload="location=\'{leaf}\'"><a href="{leaf}"><text y="9">x</text></a></svg>',
        f'<svg><image href="{leaf}"/><use href="{leaf}#x"/><foreignObject><iframe src="{leaf}">',
        '<svg><a><animate attributeName="href" values="javascript:1" begin="0s"/></a></svg>',
        f'<math><maction actiontype="statusline" xlink:href="{leaf}">x</maction></math>',
        '<details open ontoggle="document.title=1">x</details><marquee onstart="document.title=1">',
        '<template shadowrootmode="open"><slot></slot></template><dialog open>x</dialog>',
        '<h1 id="claims" name="claims">Another chapter</h1><form id="made" name="body"></form>',
        f'<noscript><p title="</noscript><img src={leaf} onerror=document.title=1>">',
        f'<svg></p><style><a id="</style><img src={leaf} onerror=document.title=1>">',
        f'<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src={leaf}">',
        f'</div></section></main></body></html><meta http-equiv=refresh content=0;{leaf}>',
        f'<!--><img src={leaf}>--><![CDATA[<img src={leaf}>]]><?xml <img src={leaf}> ?>',
        f'<scr<style></style>ipt src={leaf}></scr<style></style>ipt>',
        '<textarea>x</textarea><select autofocus><option>x</select><title>Mine</title>',
        f'<frameset><frame src="{leaf}"></frameset><plaintext>all the rest',
    ]  # fmt: skip


def drawing(url):
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40" onload="document.title=1">'
        f'<script>document.title=1</script><image href="{url}x"/><style>@import "{url}x";</style>'
        f'<a href="{url}svg"><rect width="40" height="40"/></a></svg>'
    )


def hostile_notebook(stage, url, shown):
    """An executed notebook in which everything that can hold markup does."""
    svg = drawing(url)
    quoted = f'"><img src="{url}quoted">'
    attached = {"x.svg": {"image/svg+xml": svg}, "x.html": {"text/html": shown}}
    rows = pd.DataFrame({"a": [1], "b": [shown]}).to_html()

    def display(kind, data, **metadata):
        return new_output("display_data", {kind: data}, metadata=metadata)

    outputs = [
        display("text/html", shown),
        display("text/html", shown, **{"text/html": {"isolated": True}}),
        display("text/html", rows),
        display("text/markdown", f"{shown}\n\n![x]({url}md) [y](javascript:1)"),
        display("text/latex", shown),
        display("image/svg+xml", svg),
        display("image/png", quoted, **{"image/png": {"alt": quoted}}),
        display("image/png", "", filenames={"image/png": quoted}),
        display("application/javascript", f"location = '{url}js'"),
        display("application/vnd.jupyter.widget-view+json", {"model_id": shown}),
        new_output("stream", name="stdout", text=f"{shown}\x1b]8;;{url}\x1b\\link\x1b[31;5m"),
        new_output("error", ename=shown, evalue=shown, traceback=[shown, f"\x1b[1;31m{shown}"]),
    ]
    heading = new_markdown_cell(f"# {stage} {shown}")
    text = new_markdown_cell(f"{shown}\n\n![a](attachment:x.svg) ![b](attachment:x.html)\n\n{svg}")
    text["attachments"] = attached
    code = new_code_cell(f"x = 1  # {shown}", outputs=outputs, metadata={"tags": [quoted]})
    raw = new_raw_cell(shown, metadata={"raw_mimetype": "text/html"})
    state = {"state": {"x": {"model_name": shown}}, "version_major": 2, "version_minor": 0}
    code["metadata"]["magics_language"] = quoted
    metadata = {"widgets": {"application/vnd.jupyter.widget-state+json": state}}
    metadata["language_info"] = {"name": shown, "pygments_lexer": quoted}
    metadata["title"] = shown
    return new_notebook(cells=[heading, text, code, raw], metadata=metadata)


def hostile_run(path, url, shown=None, model="none"):
    """A finished run whose notebooks, manifests and texts are hostile, and in agreement.

    `shown` has for each stage what its notebook shows; by default all of it.
    """
    shown = shown or ["\n\n".join(active(url))] * len(STAGES)
    text = hostile_text(url)
    run = made_run(path, n=40, wrap=text + "{}")
    claim = dict.fromkeys(["claim", "verdict", "measured", "rule", "note"], text)
    claims = run.write_text("claims.csv", pd.DataFrame([claim]).to_csv(index=False))
    remade(run, "extract", [run.path / "answers.parquet"], n_correct=text)
    manifest = json.loads(run.manifest_path("extract").read_text())
    manifest["parameters"] = {"model": text, "n_questions": text}
    manifest["environment"] = {"versions": {text: text}, text: text}
    run.manifest_path("extract").write_text(json.dumps(sealed(manifest)))
    run.begin("visualize", {text: text}).finish([])
    run.begin("interpret", {}).finish([claims], summary=text)
    for stage in STAGES:
        notebook = hostile_notebook(stage, url, shown[STAGES.index(stage)])
        run.executed_notebook(stage).write_text(nbformat.writes(notebook))
        _, key = notebooks._to_execute(run, stage, {"model": model, "probe_site": "mlp_out"})
        key["executed notebook"] = sha256(run.executed_notebook(stage))
        key["manifest"] = sha256(run.manifest_path(stage))
        write_json(run.pipeline_record(stage), key)
    return run


class Page(html.parser.HTMLParser):
    """The elements of a page, as a browser would find them."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))


#: Of probekit's own template, beside what a notebook may have.
_OWN = {"html", "head", "meta", "title", "style", "body", "header", "nav", "main", "section"}
_PLACES = {*STAGES, "claims", "made"}


def assert_nothing_is_active(page):
    elements = Page(page).elements
    assert {tag for tag, _ in elements} <= {*_TAGS, *_OWN}
    assert [tag for tag, _ in elements].count("style") == 1
    assert sum("http-equiv" in attrs for _, attrs in elements) == 1
    for tag, attrs in elements:
        assert not any(name.startswith("on") for name in attrs)
        assert set(attrs) & {"src", "href"} <= {{"img": "src", "a": "href"}.get(tag)}
        assert attrs.get("src", "data:image/").startswith("data:image/")
        assert attrs.get("href", "#").startswith(("#", "http"))
        assert attrs.get("id") in {None, *_PLACES}
        style = attrs.get("style") or ""
        assert not re.search("position|inset|z-index|list-style|float|transform", style)
    assert [attrs["id"] for _, attrs in elements if "id" in attrs] == [*STAGES, "claims", "made"]


@pytest.mark.parametrize("first", range(0, len(active("")), len(STAGES)))
def test_no_markup_of_a_notebook_is_active_in_the_report(first, tmp_path, listener):
    shown = (active(listener.url) * 2)[first : first + len(STAGES)]  # one in each notebook
    run = hostile_run(tmp_path / "run", listener.url, shown)
    assert_nothing_is_active(pk.write_report(run).read_text(encoding="utf-8"))
    assert listener.heard == []


def test_a_hostile_run_is_opened_explored_reported_and_continued(
    tmp_path, outside, listener, tiny_model_dir, capsys
):
    run = hostile_run(tmp_path / "run", listener.url, model=str(tiny_model_dir))
    pk.run_pipeline(run.path, progress=False, model=str(tiny_model_dir))
    said = capsys.readouterr()
    assert "nothing has changed" in said.out
    assert not HIDDEN.search(said.out + said.err)
    assert_nothing_is_active((run.path / "report.html").read_text(encoding="utf-8"))
    all_that_is_done(run)
    # The model is tiny and the questions are two, so all its answers may well be wrong.
    questions = pd.DataFrame({"question": ["A?", "B?"], "answers": ["1", "2"]})
    lm = pk.load_model(tiny_model_dir)
    with pytest.raises(REFUSED) as refused:
        pk.extract(lm, pk.read_questions(questions), run, max_new_tokens=2)
    assert told(refused.value)
    assert listener.heard == []
    outside.assert_untouched()


@pytest.mark.parametrize(
    "content",
    [
        "", "{}", "[]", "not JSON", "\x1b[2J", '{"cells": 1}', deep(100_000),
        '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}',
        '{"cells": [], "metadata": {}, "nbformat": 99, "nbformat_minor": 5}',
        '{"cells": [{"cell_type": "\\u001b[2J"}], "metadata": {}, "nbformat": 4, '
        '"nbformat_minor": 5}',
        '{"cells": [{"cell_type": "code", "source": 7, "outputs": [{"output_type": "x"}]}], '
        '"metadata": {}, "nbformat": 4, "nbformat_minor": 5}',
    ],
)  # fmt: skip
def test_an_executed_notebook_that_is_none(content, tmp_path, listener):
    run = hostile_run(tmp_path / "run", listener.url, ["x"] * len(STAGES))
    path = run.executed_notebook("probe")
    path.write_text(content)
    key = json.loads(run.pipeline_record("probe").read_text())
    write_json(run.pipeline_record("probe"), key | {"executed notebook": sha256(path)})
    try:
        assert_nothing_is_active(pk.write_report(run).read_text(encoding="utf-8"))
    except REFUSED as error:
        assert told(error)


@pytest.mark.parametrize("results", [{}, {"summary": [1]}, {"summary": {"a": "\x1b[2J"}}])
def test_a_run_that_is_finished_and_has_no_report_says_so(
    results, tmp_path, listener, tiny_model_dir, capsys
):
    """A report that can't be made is no reason to doubt the rest, and not the end of a run."""
    run = hostile_run(
        tmp_path / "run", listener.url, ["x"] * len(STAGES), model=str(tiny_model_dir)
    )
    claims = run.path / "claims.csv"
    claims.write_text("a\nb\n")
    run.begin("interpret", {}).finish([claims], **results)
    key = json.loads(run.pipeline_record("interpret").read_text())
    key["manifest"] = sha256(run.manifest_path("interpret"))
    write_json(run.pipeline_record("interpret"), key)
    arguments = ["run", "--run-dir", str(run.path), "-p", "model", str(tiny_model_dir)]
    assert main(arguments) == 1
    _, _, said = capsys.readouterr().err.partition("probekit: The run")  # after the bars
    assert "is finished and kept, but no report can be made of it" in said
    assert told(said)


# Tables


def test_no_table_that_is_written_holds_what_a_model_wrote():
    """A spreadsheet takes a cell that begins with "=" for a formula; claims.csv quotes nobody."""
    run = Run(Path(pk.__file__).parents[1] / "data" / "example")
    grid = run.grid("random").assign_attrs(model="=cmd", site="=cmd", split="random")
    tokens = ["=cmd|'/c calc'!A0", *grid["token"].to_numpy()[1:]]
    claims = pk.check_claims(grid.assign_coords(token=tokens))
    assert "cmd" not in claims.to_csv()
