import json
import os
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from probekit.run.directory import Run, _changes, replaced, store_name
from probekit.run.files import replacing, sha256, write_json
from probekit.run.manifest import STAGES, environment


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "a run")


def finish(run, stage="probe", text="made\n", inputs=(), **results):
    begun = run.begin(stage, {"seed": 0}, inputs=inputs)
    return begun.finish([run.write_text("result.txt", text)], **results)


# The directory


def test_a_run_is_named_by_its_folder(tmp_path):
    run = Run(tmp_path / "cities")
    assert run.name == "cities"
    assert repr(run) == f"Run({str(tmp_path / 'cities')!r})"
    assert eval(repr(run)).path == run.path  # noqa: S307
    assert not run.path.exists(), "made when something is written"
    assert run.figures == run.path / "figures"
    assert run.figures.is_dir()
    assert run.notebooks.is_dir()


def test_a_run_says_what_is_finished(run):
    finish(run, "extract")
    assert repr(run) == f"Run({str(run.path)!r})  # finished: extract"
    finish(run, "probe")
    assert repr(run) == f"Run({str(run.path)!r})  # finished: extract, probe"
    run.begin("probe", {})
    assert repr(run).endswith("finished: extract")
    (run.path / "manifests" / "visualize.json").symlink_to("/etc/passwd")
    assert repr(run).endswith("finished: extract")


def test_the_path_is_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Run("here")
    monkeypatch.chdir("/")
    assert run.path == tmp_path / "here"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Run("~/there").path == tmp_path / "there"


@pytest.mark.parametrize("path", ["~nobody-of-this-name/run", "loop/run"])
def test_a_path_that_leads_nowhere_is_not_yet_an_error(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    assert Run(path).path.name in (path, "run")


@pytest.mark.parametrize("path", ["x" * 300, "a/" * 3000, "e\ud800", "\0", " "])
def test_no_run_directory_has_a_name_that_no_folder_can_have(path):
    with pytest.raises(ValueError, match="no file or folder has that name"):
        Run(path)


def test_a_file_is_no_run_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        Run(tmp_path / "file")


# Manifests


def test_a_manifest_says_what_was_made_of_what(run, tmp_path):
    outside, inside = tmp_path / "questions.csv", run.write_text("inside.txt", "in")
    outside.write_text("q")
    written = finish(run, inputs=[outside, inside], auroc=0.75)
    manifest = run.manifest("probe")
    assert manifest == written
    assert manifest["stage"] == "probe"
    assert manifest["parameters"] == {"seed": 0}
    assert manifest["inputs"] == {str(outside): sha256(outside), "inside.txt": sha256(inside)}
    made = run.path / "result.txt"
    assert manifest["outputs"] == {"result.txt": {"bytes": 5, "sha256": sha256(made)}}
    assert manifest["results"] == {"auroc": 0.75}
    assert manifest["seconds"] >= 0
    assert manifest["started"].endswith("+00:00")
    assert set(manifest["environment"]) == {"python", "platform", "versions", "git_commit"}
    assert manifest["environment"]["versions"]["torch"].startswith("2.")


def test_inputs_are_hashed_at_the_beginning(run):
    path = run.write_text("input.txt", "before")
    stage = run.begin("probe", {}, inputs=[path])
    before = sha256(path)
    run.write_text("input.txt", "after")
    assert stage.finish([])["inputs"] == {"input.txt": before}


def test_a_folders_files_are_all_listed(run):
    for name in ("store/a", "store/deep/b"):
        run.write_text(name, name)
    manifest = run.begin("extract", {}).finish([run.path / "store"])
    assert sorted(manifest["outputs"]) == ["store/a", "store/deep/b"]


def test_beginning_makes_a_stage_unfinished(run):
    finish(run)
    run.begin("probe", {})
    with pytest.raises(FileNotFoundError, match=r"no finished probe stage\. Run the probe stage"):
        run.manifest("probe")
    finish(run, "extract")
    run.begin("probe", {})
    assert run.manifest("extract")["stage"] == "extract", "the others are left alone"


def test_a_stage_that_cannot_say_what_it_made_is_not_finished(run):
    stage = run.begin("probe", {})
    with pytest.raises(FileNotFoundError):
        stage.finish([run.path / "never made"])
    with pytest.raises(ValueError, match=r"finite numbers .* 'auroc' is nan"):
        stage.finish([], auroc=float("nan"))
    with pytest.raises(FileNotFoundError, match="no finished probe stage"):
        run.manifest("probe")


@pytest.mark.parametrize("stage", ["train", "", "../extract"])
def test_an_unknown_stage(run, stage):
    for use in (run.manifest, lambda s: run.begin(s, {})):
        with pytest.raises(ValueError, match="must be one of extract, probe, visualize, interpret"):
            use(stage)
    assert STAGES == ("extract", "probe", "visualize", "interpret")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"stage": '])
def test_a_damaged_manifest(run, content):
    finish(run)
    (run.path / "manifests/probe.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"probe\.json is damaged: .*Run the probe stage again"):
        run.manifest("probe")


def test_environment_knows_the_commit_of_this_checkout(repository):
    commit = environment()["git_commit"]
    if (repository / ".git").exists():
        assert len(commit.rstrip("+")) == 40
    else:
        assert commit is None


# Whether a stage is current


@pytest.fixture
def current(run, tmp_path):
    """A finished stage as the pipeline records it; check(key) asks whether it still is."""
    source = tmp_path / "input.txt"
    source.write_text("input")
    finish(run, inputs=[source])
    record = run.pipeline_record("probe")
    key = {"parameters": {"seed": 0, "C": (1.0, 2.0)}}
    digest = sha256(run.path / "manifests/probe.json")
    write_json(record, key | {"manifest": digest})
    return lambda changed=key: run.outdated("probe", changed) is None


def test_nothing_changed(current):
    assert current()


def test_other_parameters(current):
    assert not current({"parameters": {"seed": 1, "C": (1.0, 2.0)}})
    assert not current({})


def test_a_changed_input(current, tmp_path):
    (tmp_path / "input.txt").write_text("other")
    assert not current()
    (tmp_path / "input.txt").write_text("input")
    assert current()
    (tmp_path / "input.txt").unlink()
    assert not current()


def test_a_changed_output(current, run):
    run.write_text("result.txt", "mad3\n")
    assert not current()
    run.write_text("result.txt", "made\n")
    assert current()
    (run.path / "result.txt").unlink()
    assert not current()


def test_a_stage_that_was_run_again_by_hand(current, run):
    finish(run)
    assert not current(), "another manifest than the pipeline saw"


def test_a_stage_that_begins_with_other_parameters_says_what_it_replaces(run, capsys):
    """As in JupyterLab, where no pipeline says it."""
    run.begin("probe", {"C": 1.0, "seed": 0}).finish([])
    assert capsys.readouterr() == ("", "")
    run.begin("probe", {"C": 1.0, "seed": 0}).finish([])
    assert capsys.readouterr() == ("", "")
    run.begin("probe", {"C": 2.0, "seed": 0})
    said = "This replaces the grid of C=1.0. To keep both, give this run another folder.\n"
    assert capsys.readouterr() == ("", said)
    run.begin("probe", {"C": 3.0, "seed": 0})
    assert capsys.readouterr() == ("", ""), "nothing was finished, so nothing is lost"


def test_a_stage_that_began_again(current, run):
    run.begin("probe", {})
    assert not current()


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_a_damaged_record(current, run, content):
    run.pipeline_record("probe").write_text(content)
    assert not current()


def test_no_record(current, run):
    run.pipeline_record("probe").unlink()
    assert not current()


def test_an_input_inside_the_run_moves_with_it(run, tmp_path):
    path = run.write_text("input.txt", "in")
    finish(run, inputs=[path])
    record = run.pipeline_record("probe")
    write_json(record, {"manifest": sha256(run.path / "manifests/probe.json")})
    moved = Run(run.path.rename(tmp_path / "elsewhere"))
    assert moved.outdated("probe", {}) is None


# Files


def test_replacing_is_all_or_nothing(tmp_path):
    path = tmp_path / "folder" / "file"
    with replacing(path) as temporary:
        assert temporary.parent == path.parent
        temporary.write_text("old")
        assert not path.exists()
    with pytest.raises(KeyError), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["file"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_replacing_keeps_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_json_that_cannot_be_written_leaves_the_old(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"city": "Łódź"})
    assert "Łódź" in path.read_text(encoding="utf-8")
    for content in ({"x": float("inf")}, {"x": object()}):
        with pytest.raises((ValueError, TypeError)):
            write_json(path, content)
    assert json.loads(path.read_text(encoding="utf-8")) == {"city": "Łódź"}
    assert os.listdir(tmp_path) == ["file.json"]


def test_store_names():
    assert store_name("mlp_out", ["mlp_out", "attn_out"]) == "activations.zarr"
    assert store_name("attn_out", ["mlp_out", "attn_out"]) == "activations_attn_out.zarr"


# Grids


def make_grid(seed=0, n=7):
    random = np.random.default_rng(seed)
    cell = ("layer", "token")
    score = random.random((n, 2, 3)).astype(np.float32)
    score[0, 1, 2] = np.nan
    return xr.Dataset(
        {
            "auroc": (cell, random.random((2, 3))),
            "n_examples": (cell, np.full((2, 3), n)),
            "converged": (cell, np.ones((2, 3), bool)),
            "score": (("example", *cell), score),
        },
        coords={
            "layer": [0, 1],
            "token": np.array(["last_q", "-2", "-1"], dtype=np.dtypes.StringDType()),
            "id": ("example", np.array([f"q{i}" for i in range(n)], dtype=object)),
            "exact_answer": ("example", np.array(["Łódź", "", *"abcde"], dtype=object)),
            "correct": ("example", random.random(n) < 0.5),
        },
        attrs={"model": "tiny", "split": "random", "folds": 5, "C": 1.0, "best_auroc": 0.75},
    )


def save(run, grids, **options):
    path = run.save_grids(grids, **options)
    run.begin("probe", {}).finish([path], splits=list(grids))


def check_equal(found, expected):
    assert set(found.variables) == set(expected.variables)
    for name in expected.variables:
        assert found[name].dims == expected[name].dims
        if expected[name].dtype.kind in "TOU":
            assert found[name].to_numpy().tolist() == expected[name].to_numpy().tolist()
        else:
            assert found[name].dtype == expected[name].dtype
            np.testing.assert_array_equal(found[name], expected[name])
    # Which it is not saved with: what is read is described anew.
    assert found.attrs.pop("best_auroc_is").startswith("of the best cell")
    assert found.attrs == expected.attrs


def test_grids_come_back_as_they_were_saved(run):
    grids = {"random": make_grid(), "answer": make_grid(1), "published": make_grid(2)}
    save(run, grids)
    for split, expected in grids.items():
        check_equal(run.grid(split), expected)
    check_equal(run.grid(), grids["random"])
    xr.testing.assert_identical(run.grid("answer"), run.grid("answer"))


def test_saving_again_replaces_all(run):
    save(run, {"random": make_grid(), "answer": make_grid(1)})
    save(run, {"random": make_grid(3)})
    check_equal(run.grid(), make_grid(3))
    with pytest.raises(ValueError, match=r"has no split 'answer'\. It has: random\."):
        run.grid("answer")


def test_controls_lie_beside_the_grid(run):
    path = run.save_grids({"random": make_grid(4)}, name="controls.nc")
    grid = run.save_grids({"random": make_grid()})
    run.begin("probe", {}).finish([path, grid], splits=["random"])
    check_equal(run.controls(), make_grid(4))
    check_equal(run.grid(), make_grid())


@pytest.mark.parametrize("split", ["question", "../random", "random/x"])
def test_an_unknown_split(run, split):
    save(run, {"random": make_grid(), "answer": make_grid(1)})
    with pytest.raises(ValueError, match=r"no split .* It has: random, answer\."):
        run.grid(split)


def test_a_flipped_byte_anywhere_in_a_grid_is_detected(run):
    save(run, {"random": make_grid()})
    path = run.path / "grid.nc"
    contents = path.read_bytes()
    for position in np.random.default_rng(0).integers(0, len(contents), 40):
        spoilt = bytearray(contents)
        spoilt[position] ^= 1
        path.write_bytes(spoilt)
        with pytest.raises(ValueError, match=r"grid\.nc is damaged.*Run the probe stage again"):
            run.grid()
    path.write_bytes(contents)
    run.grid()


def test_what_is_not_finished_cannot_be_read(run):
    run.save_grids({"random": make_grid()})
    for read in (run.grid, run.controls):
        with pytest.raises(FileNotFoundError, match="no finished probe stage"):
            read()
    for read in (run.answers, run.activations):
        with pytest.raises(FileNotFoundError, match="no finished extract stage"):
            read()
    save(run, {"random": make_grid()})
    (run.path / "grid.nc").unlink()
    with pytest.raises(FileNotFoundError, match=r"grid\.nc is not there\. Run the probe stage"):
        run.grid()


def test_answers_come_back_as_they_were_saved(run):
    answers = pd.DataFrame({"id": ["b", "a"], "correct": [True, False], "tokens": [[1, 2], []]})
    stage = run.begin("extract", {})
    answers.to_parquet(run.path / "answers.parquet")
    stage.finish([run.path / "answers.parquet"], sites=["mlp_out"])
    found = run.answers()
    assert found["id"].tolist() == ["b", "a"]
    assert [list(t) for t in found["tokens"]] == [[1, 2], []]
    with pytest.raises(ValueError, match=r"no site 'resid_post'\. It has: mlp_out\."):
        run.activations("resid_post")
    with pytest.raises(FileNotFoundError, match=r"activations\.zarr is not there"):
        run.activations()


def test_text_is_written_in_utf8(run):
    path = run.write_text("notes/words.md", "Łódź\n")
    assert path == run.path / "notes/words.md"
    assert Path(path).read_bytes() == "Łódź\n".encode()


def test_results_are_given_while_what_they_are_of_is_the_same(tmp_path):
    run = Run(tmp_path / "run")
    assert run.results("intervene") is None
    run.begin("probe", {}).finish([], splits=["random"])
    inputs = [run.manifest_path("probe")]
    run.begin("intervene", {}, inputs=inputs).finish([], verdict="It is not shown.")
    assert run.results("intervene") == {"verdict": "It is not shown."}
    run.begin("probe", {}).finish([], splits=["random"])
    assert run.results("intervene") is not None, "made again, the same"
    run.begin("probe", {"C": 2.0}).finish([], splits=["random"])
    assert run.results("intervene") is None


def test_a_list_that_changes_is_shown_with_what_is_in_it():
    before, now = {"run_dirs": ["a", "b"]}, {"run_dirs": ["a", "c"]}
    assert "of run_dirs=['a', 'b']. To keep both" in replaced("transfer", before, now)
    assert _changes(before, now) == ["run_dirs was ['a', 'b'], now ['a', 'c']"]
