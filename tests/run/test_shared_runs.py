"""Run directories that somebody else made, that were moved, or that aren't any."""

import errno
import json
import os
import shutil
import stat
import subprocess

import h5py
import numpy as np
import pytest
import xarray as xr
from test_example import _grid, make_example
from test_faults import start_holder
from test_mending import extracted
from test_pipeline import small_notebooks  # noqa: F401  (a fixture)

from probekit import Run, load_model, load_probe, open_run
from probekit.pipeline import notebooks
from probekit.run import lock
from probekit.run.files import no_links, sha256, write_json
from probekit.run.manifest import STAGES, sealed

KEY = "a private key\n"


@pytest.fixture
def key(tmp_path):
    """A file that isn't the run's; each test ends with it as it was."""
    path = tmp_path / "elsewhere" / "key"
    path.parent.mkdir()
    path.write_text(KEY)
    before = path.stat()
    yield path
    assert path.read_text() == KEY
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert os.listdir(path.parent) == ["key"]


def finished(path, n=40):
    """A run whose four stages are finished, with small files of all kinds."""
    run = Run(path)
    stage = run.begin("extract", {"model": "tiny", "n_questions": n})
    store = run.write_text("activations.zarr/activation/zarr.json", "{}").parents[1]
    stage.finish([store], sites=["mlp_out"])
    stage = run.begin("probe", {})
    files = [
        run.save_grids({"random": _grid(1)}),
        run.save_grids({"random": _grid(2)}, "controls.nc"),
    ]
    stage.finish(files, splits=["random"])
    run.begin("visualize", {}).finish([run.write_text("figures/heatmap.png", "png")])
    run.begin("interpret", {}).finish([run.write_text("description.md", "text")], summary="flat")
    return run


def use(run):
    """Whatever reads, writes or deletes in a run."""
    run.begin("interpret", {}).finish([run.write_text("description.md", "new")])
    run.write_text("claims.csv", "new")
    run.save_grids({"random": _grid(1)})
    for stage in STAGES:
        run.manifest(stage)
        run.outdated(stage, {})
        run.executed_notebook(stage).with_suffix(".unfinished.ipynb")
    run.grid()
    run.figures.joinpath("new.png")
    run.activations()


# Links


@pytest.mark.parametrize(
    "name",
    [
        ".lock/run.json", ".lock/run", ".lock/stage", ".lock", "manifests",
        "manifests/interpret.json", "manifests/.interpret.pipeline.json", "figures", "notebooks",
        "notebooks/04_interpret.ipynb", "description.md", "grid.nc", "activations.zarr",
        "activations.zarr/activation/zarr.json", "activations.zarr/activation/c/0",
        "activations.zarr/other",
    ],
)  # fmt: skip
@pytest.mark.parametrize("to", ["file", "folder", "nothing"])
def test_no_link_in_a_run_is_followed(tmp_path, key, name, to):
    run = finished(tmp_path / "run")
    path = run.path / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to({"file": key, "folder": key.parent, "nothing": key.parent / "not there"}[to])
    with pytest.raises(ValueError, match=r"is a symbolic link, and none is followed"):
        use(run)


def test_the_run_directory_itself_may_be_a_link(tmp_path):
    run = finished(tmp_path / "disk" / "run")
    (tmp_path / "link").symlink_to(run.path)
    linked = Run(tmp_path / "link")
    assert linked.path == run.path
    manifest = tmp_path / "link" / "manifests" / "probe.json"
    linked.begin("visualize", {}, inputs=[manifest]).finish([linked.write_text("a.txt", "a")])
    assert list(linked.manifest("visualize")["inputs"]) == ["manifests/probe.json"]


@pytest.mark.parametrize("name", ["manifests/probe.json", "grid.nc", ".lock/run", ".lock/run.json"])
@pytest.mark.timeout(60)
def test_nobody_waits_for_a_pipe_in_a_files_place(tmp_path, name):
    run = finished(tmp_path / "run")
    (run.path / name).unlink(missing_ok=True)
    os.mkfifo(run.path / name)
    with pytest.raises(ValueError, match="neither a file nor a folder, but a pipe"):
        use(run)


def test_a_path_that_leads_out_is_refused(tmp_path):
    for path in (tmp_path / "run/x/../../key", tmp_path / "key"):
        with pytest.raises(ValueError):
            no_links(path, tmp_path / "run")
    assert no_links(tmp_path / "run/x/y", tmp_path / "run") is None


@pytest.mark.parametrize("how", ["symlink", "hard link"])
@pytest.mark.parametrize("name", ["04_interpret.unfinished.ipynb", "04_interpret.ipynb"])
def test_papermill_writes_through_no_link(small_notebooks, tmp_path, key, name, how):  # noqa: F811
    run = Run(tmp_path / "run")
    run.begin("visualize", {}).finish([])
    run.begin("probe", {}).finish([])
    path = run.notebooks / name
    path.symlink_to(key) if how == "symlink" else path.hardlink_to(key)
    go = {"stages": ["interpret"], "progress": False}
    if how == "symlink":
        with pytest.raises(ValueError, match="is a symbolic link"):
            notebooks.run_pipeline(run.path, **go)
    else:
        notebooks.run_pipeline(run.path, **go)
        assert json.loads((run.notebooks / "04_interpret.ipynb").read_text())["cells"]


def test_files_with_other_names_keep_their_content_there(tmp_path, key):
    run = finished(tmp_path / "run")
    for name in (".lock/run.json", "manifests/interpret.json", "description.md", "claims.csv"):
        (run.path / name).unlink(missing_ok=True)
        (run.path / name).hardlink_to(key)
    run.begin("interpret", {}).finish([run.write_text("description.md", "new")])
    run.write_text("claims.csv", "new")
    # The lock's own file is opened where it is.
    (run.path / ".lock/stage").unlink()
    (run.path / ".lock/stage").hardlink_to(key)
    with pytest.raises(ValueError, match="is not a lock file"):
        run.begin("interpret", {})


def test_what_is_made_of_a_run_contains_nothing_from_elsewhere(tmp_path, key):
    run = finished(tmp_path / "run")
    stage = run.begin("interpret", {})
    (run.path / "store").mkdir()
    (run.path / "store" / "a").symlink_to(key)
    (run.path / "b").symlink_to(key)
    for output in ("store", "b"):
        with pytest.raises(ValueError, match="is a symbolic link"):
            stage.finish([run.path / output])
    with pytest.raises(ValueError, match="is a symbolic link"):
        run.begin("interpret", {}, inputs=[run.path / "b"])


def test_opening_a_run_looks_through_no_link(tmp_path, key):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifests").symlink_to(key.parent)
    with pytest.raises(ValueError, match="is a symbolic link"):
        open_run(tmp_path / "run")


def test_an_example_is_not_made_through_a_link(tmp_path, key):
    run, folder = finished(tmp_path / "run"), tmp_path / "example"
    finished(folder)
    (folder / "description.md").unlink()
    (folder / "description.md").symlink_to(key)
    with pytest.raises((ValueError, FileNotFoundError)):
        make_example(run, folder)


# Other people's folders


@pytest.mark.parametrize(
    "name",
    ["answers.parquet", "thesis.tex", ".cache.part", "figures/heatmap.png", "a/b/c", "run.json"],
)
def test_a_folder_of_other_things_is_no_run_directory(tmp_path, name):
    folder = tmp_path / "mine"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text("{}")
    run = Run(folder)
    for write in (
        lambda: run.begin("extract", {}),
        lambda: lock.hold(folder),
        lambda: run.write_text("answers.parquet", "x"),
        lambda: run.save_grids({"random": _grid(1)}),
        lambda: run.notebooks,
    ):
        with pytest.raises(ValueError, match=r"holds no run, but '.*give a new or an empty folder"):
            write()
    with pytest.raises(FileNotFoundError, match="no finished probe stage"):
        run.grid()
    files = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    assert files == [name]
    assert (folder / name).read_text() == "{}"


@pytest.mark.parametrize(
    "name",
    [".DS_Store", ".ipynb_checkpoints/a.ipynb", "desktop.ini", "Thumbs.db", "figures/",
     "notebooks/", ".grid.nc.abcd_123.part", "manifests/.probe.json.probekit-abcd_123.part"],
)  # fmt: skip
def test_what_systems_and_we_leave_behind_locks_nobody_out(tmp_path, name):
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    path.mkdir() if name.endswith("/") else path.write_text("")
    finished(tmp_path / "run")
    assert path.exists() == (not name.endswith(".part"))


@pytest.mark.parametrize(
    "begun",
    [
        lambda run: run.write_text("grid.txt", "x"),
        lambda run: run.save_grids({"random": _grid(1)}),
        lambda run: run.begin("probe", {}),
        lambda run: (run.figures / "mine.png").write_text("x"),
        lambda run: shutil.copytree(Run("data/example").path, run.path),
    ],
)
def test_what_was_begun_is_gone_on_with_by_another_process(
    tmp_path, begun, repository, monkeypatch
):
    monkeypatch.chdir(repository)
    begun(Run(tmp_path / "run"))
    lock.release(tmp_path / "run")
    (tmp_path / "run/notes.md").write_text("mine")
    process = start_holder(tmp_path / "run")
    assert process.stdout.readline() == "held\n"
    process.communicate("\n\n")
    assert (tmp_path / "run/notes.md").read_text() == "mine"


def test_an_interrupted_extraction_is_known_by_its_shards(stopping_model_dir, tmp_path):
    lm = load_model(stopping_model_dir)
    run = extracted(lm, tmp_path / "run")
    for name in (".lock", "manifests"):
        shutil.rmtree(run.path / name)
    extracted(lm, run.path)
    (run.path / "run.json").unlink()
    for name in (".lock", "manifests"):
        shutil.rmtree(run.path / name)
    with pytest.raises(ValueError, match=r"run\.json is not there"):
        extracted(lm, run.path)


def test_only_our_own_temporary_files_are_cleaned_up(tmp_path):
    run = finished(tmp_path / "run")
    theirs = [
        ".download.part",
        "notes/.x.abcd1234.part",
        "notes/.grid.nc.abcd1234.part",
        "figures/.mine.png.part",
        ".answers.parquet.part",
        "x.probekit-abcd1234.part",
    ]
    ours = [
        ".answers.parquet.abcd123_.part",
        "figures/.heatmap.svg.abcd1234.part",
        "manifests/..probe.pipeline.json.abcd1234.part",
        ".lock/.run.json.probekit-abcd1234.part",
        "shards/.00001-" + "0f" * 32 + ".parquet.abcd1234.part",
        "figures/.any.png.probekit-abcd1234.part",
    ]
    for name in theirs + ours:
        (run.path / name).parent.mkdir(exist_ok=True)
        (run.path / name).write_text("x")
    run.begin("interpret", {})
    assert [n for n in theirs if not (run.path / n).exists()] == []
    assert [n for n in ours if (run.path / n).exists()] == []


# Names and arrays in forged files


def forge(run, stage, **changed):
    path = run.manifest_path(stage)
    write_json(path, sealed(json.loads(path.read_text()) | changed))


@pytest.mark.parametrize(
    ("stage", "changed"),
    [
        ("extract", {"results": {"sites": ["mlp_out", "x/../../outside"]}}),
        ("extract", {"results": {"sites": ["/"]}}),
        ("probe", {"results": {"splits": ["../random"]}}),
        ("probe", {"results": {"splits": ["random/auroc"]}}),
        ("probe", {"left_out": ["../x"]}),
        ("probe", {"inputs": {"../x": "0"}}),
        ("probe", {"inputs": {"x": 3}}),
    ],
)
def test_names_in_a_forged_manifest_lead_nowhere(tmp_path, stage, changed):
    run = finished(tmp_path / "run")
    forge(run, stage, **changed)
    with pytest.raises(ValueError, match=r"json is damaged: it"):
        run.manifest(stage)


def test_a_run_of_a_later_version_is_left_alone(tmp_path):
    run = finished(tmp_path / "run")
    write_json(run.manifest_path("probe"), {"schema_version": 2, "outputs": ["grid.nc"]})
    for use_it in (
        lambda: run.manifest("probe"),
        lambda: run.outdated("probe", {}),
        run.grid,
    ):
        with pytest.raises(ValueError, match=r"by a later version of probekit\. Update"):
            use_it()
    assert json.loads(run.manifest_path("probe").read_text())["schema_version"] == 2


def test_a_file_that_no_stage_made_is_not_read(tmp_path):
    run = finished(tmp_path / "run")
    forge(run, "probe", outputs={})
    with pytest.raises(ValueError, match=r"grid\.nc is not what the probe stage made"):
        run.grid()


def hostile(change):
    """The bytes of a grid's file after a change to it."""

    def make(path, key):
        grid = Run(path.parent / "of").save_grids({"random": _grid(1)})
        with h5py.File(grid, "r+") as file:
            change(file["random"], key)
        return grid.read_bytes()

    return make


def external(split, key):
    del split["auroc"]
    split.create_dataset("auroc", (2, 3), "u1", external=[(str(key), 0, 6)])


def external_link(split, key):
    with h5py.File(key.parent.parent / "other.h5", "w") as other:
        other["x"] = np.zeros((2, 3))
    del split["auroc"]
    split["auroc"] = h5py.ExternalLink("../other.h5", "x")


def group_elsewhere(split, key):
    split.file["other"] = h5py.ExternalLink(str(key), "/")


def soft_link(split, key):
    del split["intercept"]
    split["intercept"] = h5py.SoftLink("/random/auroc")


def virtual(split, key):
    layout = h5py.VirtualLayout((2, 3), "f8")
    layout[:] = h5py.VirtualSource(str(key), "x", (2, 3))
    del split["auroc"]
    split.create_virtual_dataset("auroc", layout)


def plugin(split, key):
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_chunk((2, 3))
    made.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
    space = h5py.h5s.create_simple((2, 3))
    h5py.h5d.create(split.id, b"zstd", h5py.h5t.NATIVE_DOUBLE, space, made)


def endless(split, key):
    split.create_dataset("huge", (10**6, 10**6), "f8", chunks=(100, 100), compression="gzip")


def nested(split, key):
    split["again"] = split.file["/"]


@pytest.mark.parametrize(
    "change",
    [external, external_link, group_elsewhere, soft_link, virtual, plugin, endless, nested],
)
def test_a_grid_that_reaches_beyond_its_file_is_refused(tmp_path, key, change):
    run = finished(tmp_path / "run")
    stage = run.begin("probe", {})
    (run.path / "grid.nc").write_bytes(hostile(change)(tmp_path / "x", key))
    stage.finish([run.path / "grid.nc"], splits=["random"])
    with pytest.raises(
        ValueError, match=r"grid\.nc is damaged: .*(not read|not an array)"
    ) as error:
        run.grid()
    assert KEY.strip() not in str(error.value)


def relabelled(**changes):
    return lambda grid: grid.assign(changes)


@pytest.mark.parametrize(
    "forged",
    [
        lambda grid: grid.drop_vars("auroc"),
        lambda grid: grid.drop_vars("layer"),
        lambda grid: grid.drop_vars("token"),
        lambda grid: grid.rename(layer="block"),
        lambda grid: grid.assign(coef=grid["auroc"]),
        lambda grid: grid.assign(intercept=("layer", [1.0, 2.0])),
        lambda grid: grid.assign(auroc=grid["auroc"].astype(int)),
        lambda grid: grid.assign_coords(layer=[0.5, 1]),
        lambda grid: grid.assign_coords(layer=[1, 1]),
        lambda grid: grid.assign_coords(token=[1, 2, 3]),
        lambda grid: grid.transpose("token", "layer", ...),
        lambda grid: xr.Dataset(),
        lambda grid: xr.Dataset({"auroc": ("control", [0.5])}),
    ],
)
def test_a_grid_of_another_form_is_refused_in_a_sentence(tmp_path, forged):
    run = Run(tmp_path / "run")
    stage = run.begin("probe", {})
    stage.finish([run.save_grids({"random": forged(_grid(1))})], splits=["random"])
    for read in (run.grid, lambda: load_probe(run, 0, "-1")):
        with pytest.raises(ValueError, match=r"grid\.nc is damaged: it"):
            read()


# Moved


def snapshot(run):
    files = (p for p in run.path.rglob("*") if p.is_file() and ".lock" not in p.parts)
    return {p.relative_to(run.path): (sha256(p), p.stat().st_mtime_ns) for p in files}


@pytest.mark.parametrize("old", [False, True], ids=["new", "recorded with its place"])
def test_a_run_that_was_moved_or_copied_runs_nothing_again(small_notebooks, tmp_path, old, capsys):  # noqa: F811
    run = Run(tmp_path / "run")
    run.begin("probe", {}).finish([])
    stages = STAGES[2:]
    notebooks.run_pipeline(run.path, stages=stages, progress=False)
    for stage in stages if old else ():
        record = json.loads(run.pipeline_record(stage).read_text())
        record["parameters"]["run_dir"] = str(run.path)
        write_json(run.pipeline_record(stage), record)
    capsys.readouterr()
    copied = Run(shutil.copytree(run.path, tmp_path / "copy"))
    moved = Run(run.path.rename(tmp_path / "another name"))
    for there in (copied, moved):
        before = snapshot(there)
        notebooks.run_pipeline(there.path, stages=stages, progress=False)
        assert capsys.readouterr().out.count("nothing has changed") == 2
        assert {n: d for n, (d, _) in snapshot(there).items()} == {
            n: d for n, (d, _) in before.items()
        }
    notebooks.run_pipeline(moved.path, stages=stages, progress=False, x=2)
    said = capsys.readouterr().out
    assert "visualize: x was 1, now 2, run again" in said
    assert "visualize: this replaces the figures of x=1. To keep both, give" in said


def test_questions_are_known_by_what_is_in_them(tmp_path):
    questions = tmp_path / "here" / "q.csv"
    questions.parent.mkdir()
    questions.write_text("question,answers\n")
    run = Run(tmp_path / "run")
    run.begin("extract", {}, inputs=[questions]).finish([])
    record = run.pipeline_record("extract")

    def recorded(**parameters):
        digest = sha256(run.manifest_path("extract"))
        write_json(record, {"parameters": parameters, "manifest": digest})

    def why(files, **parameters):
        return run.outdated("extract", {"parameters": parameters}, files=files)

    recorded(questions="here/q.csv", limit=0)
    there = questions.rename(tmp_path / "there.csv")
    assert why([there], questions="there.csv", limit=0) is None
    assert why([there], questions="there.csv", limit=1) == "limit was 0, now 1"
    other = "questions was 'here/q.csv', now {!r}"
    assert why([], questions="there.csv", limit=0) == other.format("there.csv")
    lines = tmp_path / "q.jsonl"
    lines.write_text("question,answers\n")
    assert why([lines], questions="q.jsonl", limit=0) == other.format("q.jsonl")
    there.write_text("other")
    assert why([there], questions="there.csv", limit=0) == other.format("there.csv")
    assert why([there], questions="here/q.csv", limit=0).endswith("q.csv is missing or damaged")


# What can't be read is not damaged


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ESTALE, errno.EACCES])
def test_what_cannot_be_read_is_not_taken_for_damaged(tmp_path, monkeypatch, number):
    run = finished(tmp_path / "run")
    record = run.pipeline_record("probe")
    write_json(record, {"parameters": {}, "manifest": sha256(run.manifest_path("probe"))})
    assert run.outdated("probe", {}) is None
    before = snapshot(run)
    opened, failing = io_open(), []

    def fail(file, *args, **options):
        if failing and str(file).endswith(failing[0]):
            raise OSError(number, os.strerror(number), str(file))
        return opened(file, *args, **options)

    monkeypatch.setattr("builtins.open", fail)
    monkeypatch.setattr("io.open", fail)
    for name in ("probe.json", ".probe.pipeline.json", "grid.nc"):
        failing[:] = [name]
        with pytest.raises(OSError, match=rf"{name} could not be read: .*nothing was changed"):
            run.outdated("probe", {})
        if name != ".probe.pipeline.json":
            with pytest.raises(OSError, match=r"could not be read: .*nothing was changed"):
                run.grid()
    failing.clear()
    assert run.outdated("probe", {}) is None
    assert snapshot(run) == before


def io_open():
    import io

    return io.open


def test_a_place_that_cannot_be_looked_at_is_not_empty(tmp_path, monkeypatch):
    run = finished(tmp_path / "run")
    lstat = os.lstat

    def fail(path, *args, **options):
        if str(path).endswith("grid.nc"):
            raise OSError(errno.EIO, "no")
        return lstat(path, *args, **options)

    monkeypatch.setattr(os, "lstat", fail)
    with pytest.raises(OSError, match=r"grid\.nc could not be read: .*nothing was changed"):
        run.grid()


# The lock


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_explained(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, "no locks")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(ValueError, match=r"file system that keeps no locks .*local disk"):
        Run(tmp_path / "run").begin("probe", {})
    monkeypatch.undo()
    Run(tmp_path / "run").begin("probe", {}).finish([])


@pytest.mark.parametrize("take", [lambda path: path.rename(path.with_name("y")), shutil.rmtree])
def test_a_run_directory_that_goes_away_meanwhile(tmp_path, take):
    run = Run(tmp_path / "run")
    with lock.writing(run.path):
        stage = run.begin("probe", {})
        take(run.path)
        for write in (
            lambda: run.write_text("a.txt", "a"),
            lambda: run.save_grids({"random": _grid(1)}),
            lambda: run.begin("visualize", {}),
            lambda: stage.finish([]),
        ):
            with pytest.raises(ValueError, match="was renamed or deleted while it was written"):
                write()
        assert not run.path.exists()
    # A notebook whose stage was never finished begins anew.
    run.begin("probe", {})
    shutil.rmtree(run.path)
    run.begin("probe", {}).finish([])


def test_another_run_in_its_place_is_not_written_into(tmp_path):
    run = Run(tmp_path / "run")
    stage = run.begin("probe", {})
    run.path.rename(tmp_path / "mine")
    shutil.copytree(tmp_path / "mine", run.path)
    with pytest.raises(ValueError, match="was renamed or deleted while it was written"):
        stage.finish([])
    lock.release(run.path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_holds_nothing_and_lets_go_of_nothing(tmp_path):
    run = Run(tmp_path / "run")
    run.begin("probe", {})
    child = os.fork()
    if not child:
        code = 1
        try:
            lock.release(run.path)
            try:
                run.begin("visualize", {})
            except ValueError as error:
                code = 0 if "is being written to by process" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    stranger = start_holder(run.path, stderr=subprocess.DEVNULL)
    assert stranger.communicate("\n")[0] == "", "it is still held"
    lock.release(run.path)
    assert run.path not in lock._held


def test_a_child_that_outlives_its_parents_stage_does_not_hold_it(tmp_path):
    run = Run(tmp_path / "run")
    stage = run.begin("probe", {})
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    stage.finish([])
    other = start_holder(run.path)
    assert other.stdout.readline() == "held\n"
    other.communicate("\n\n")
    os.close(write)
    os.waitpid(child, 0)
    os.close(read)


def test_a_number_of_a_process_is_not_enough_to_be_its_kernel(tmp_path):
    """The command that started a kernel died, and another one has its number now."""
    path = Run(tmp_path / "run").path
    with lock.directing(path):
        token, directed = json.loads(os.environ["PROBEKIT_DIRECTOR"])
        assert token != os.getpid()
        forged = os.environ | {"PROBEKIT_DIRECTOR": json.dumps([os.getpid(), directed])}
        stranger = start_holder(path, env=forged, stderr=subprocess.DEVNULL)
        assert stranger.communicate("\n")[0] == ""


def test_files_have_the_rights_that_everybody_expects(tmp_path):
    run = finished(tmp_path / "run")
    assert stat.S_IMODE(run.manifest_path("probe").stat().st_mode) == 0o644
