"""What must be survived: a second writer, a holder that died, a disk that is full."""

import errno
import importlib
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import xarray as xr
from small_disk import small_disk
from test_mending import contents, extracted

from probekit import Run, load_model
from probekit.pipeline.notebooks import run_pipeline
from probekit.run import lock
from probekit.run.files import explained, write_json

# One run directory, one writer

HOLDER = """
import pathlib, sys
from probekit.run import lock
path = pathlib.Path(sys.argv[1])
lock.hold(path)
print("held", flush=True)
sys.stdin.readline()
lock.release(path)
print("released", flush=True)
sys.stdin.readline()
"""


def start_holder(path, **options):
    """Another process that holds a run directory, and waits to be told to go on."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **pipes | options)


@pytest.fixture
def holder(tmp_path):
    process = start_holder(Run(tmp_path / "run").path)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def go_on(process):
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline()


def test_a_second_writer_is_told_who_writes(holder, tmp_path):
    run = Run(tmp_path / "run")
    refused = rf"run is being written to by process {holder.pid} on \S+ since 20.*another run dir"
    for use in (
        lambda: run.begin("visualize", {}),
        lambda: run_pipeline(run.path, stages=("extract",), progress=False),
    ):
        with pytest.raises(ValueError, match=refused):
            use()
    with pytest.raises(FileNotFoundError, match="no finished probe stage"):
        run.manifest("probe")  # reading needs no lock
    assert go_on(holder) == "released\n"
    run.begin("visualize", {}).finish([])


def test_a_holder_that_was_killed_holds_no_more(holder, tmp_path):
    run = Run(tmp_path / "run")
    holder.kill()
    holder.wait()
    assert (run.path / ".lock/run.json").exists(), "it had no time to clean up"
    run.begin("probe", {}).finish([])
    assert sorted(p.name for p in (run.path / ".lock").iterdir()) == ["run", "stage"]


def test_a_lock_that_was_copied_with_its_folder_is_none(holder, tmp_path):
    copy = Run(shutil.copytree(tmp_path / "run", tmp_path / "copy"))
    assert (copy.path / ".lock/run.json").exists()
    copy.begin("probe", {}).finish([])


@pytest.mark.parametrize("note", [b"", b"[]", b"{", b'{"pid": 3}', b"\xff"])
def test_a_damaged_note_of_the_holder(holder, tmp_path, note):
    (tmp_path / "run/.lock/run.json").write_bytes(note)
    with pytest.raises(ValueError, match=r"is being written to by (another process|process 3 on)"):
        Run(tmp_path / "run").begin("probe", {})


def test_one_process_may_begin_again_and_again(tmp_path):
    run, same = Run(tmp_path / "run"), Run(tmp_path / "run")
    run.begin("probe", {})
    same.begin("probe", {}).finish([])
    with lock.writing(run.path), lock.writing(run.path):
        run.begin("probe", {}).finish([])
        assert run.path in lock._held, "what is written inside the block is not done"
    assert run.path not in lock._held


def test_a_kernel_writes_for_its_command_and_a_stranger_does_not(tmp_path):
    path = Run(tmp_path / "run").path
    with lock.directing(path):
        kernel = start_holder(path)
        environment = {n: v for n, v in os.environ.items() if n != "PROBEKIT_DIRECTOR"}
        stranger = start_holder(path, env=environment, stderr=subprocess.PIPE)
        assert kernel.stdout.readline() == "held\n"
        assert f"is being written to by process {os.getpid()}" in stranger.communicate()[1]
        assert stranger.returncode == 1
    # The command is gone; as long as its kernel writes, nobody else does.
    with pytest.raises(ValueError, match=f"is being written to by process {kernel.pid}"):
        Run(path).begin("probe", {})
    kernel.kill()
    kernel.communicate()
    Run(path).begin("probe", {}).finish([])


def test_the_next_kernel_waits_for_one_that_is_ending(tmp_path):
    path = Run(tmp_path / "run").path
    with lock.directing(path):
        kernel = start_holder(path)
        assert kernel.stdout.readline() == "held\n"
    with lock.directing(path):
        following = start_holder(path)
        time.sleep(0.5)
        kernel.kill()
        kernel.communicate()
        assert following.stdout.readline() == "held\n"
        following.communicate("\n")
    assert "PROBEKIT_DIRECTOR" not in os.environ


# What can't be written


def test_a_full_disk_is_explained(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "folder" / "file.json"
    write_json(path, {"old": True})
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError) as error:
        write_json(path, {"old": False})
    said = str(error.value)
    assert said.startswith(f"{path} cannot be written: No space left on device, ")
    assert said.endswith(
        " MB are free. Make room there, then run the same again: what is finished is kept."
    )
    assert "true" in path.read_text()
    assert os.listdir(path.parent) == ["file.json"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_where_nothing_may_be_written_is_explained(tmp_path, monkeypatch, number):
    def refuse(*_, **__):
        raise OSError(number, "no")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    run, grids = Run(tmp_path / "run"), {"random": xr.Dataset()}
    for write in (lambda: run.write_text("a.txt", ""), lambda: run.save_grids(grids)):
        with pytest.raises(
            ValueError, match=r"run/(a\.txt|grid\.nc) cannot be written: .* you may"
        ):
            write()
    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    for write in (lambda: run.figures, lambda: run.begin("probe", {})):
        with pytest.raises(ValueError, match=r"run\S* cannot be written: .* another folder"):
            write()


def test_a_file_in_a_folders_place_is_explained(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be written: Not a directory"):
        Run(tmp_path / "file" / "run").begin("probe", {})
    with pytest.raises(ValueError, match=r"figures cannot be written: (Is a|File exists)"):
        (tmp_path / "run").mkdir()
        (tmp_path / "run/figures").touch()
        Run(tmp_path / "run").figures  # noqa: B018


def test_other_errors_are_let_through(tmp_path):
    with pytest.raises(ConnectionResetError), explained(tmp_path):
        raise ConnectionResetError(errno.ECONNRESET, "by a judge on the network")


@pytest.fixture
def disk(tmp_path, require):
    with small_disk(tmp_path / "disk", 100) as disk:
        require(disk, "a file system can't be mounted here")
        yield disk


def test_an_extraction_goes_on_when_there_is_room(disk, stopping_model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.import_module("probekit.extraction.one_pass"), "SHARD", 4)
    lm, failures = load_model(stopping_model_dir), []
    for kilobytes in (8, 30, 50, 70, 90, 110, 130, 150, 170, 190, 2000):
        disk.grow(kilobytes)
        try:
            extracted(lm, disk.path / "run")
        except ValueError as error:
            failures.append(str(error))
            assert "cannot be written: No space left on device, 0.0 MB are free" in failures[-1]
            assert not disk.path.joinpath("run/manifests/extract.json").exists()
    assert len(failures) > 4
    assert len({failure.partition(" cannot")[0] for failure in failures}) > 2
    expected = extracted(lm, tmp_path / "undisturbed")
    assert contents(Run(disk.path / "run")) == contents(expected)


def test_grids_on_a_full_disk_leave_the_process_alive(disk):
    run, noise = Run(disk.path / "run"), np.random.default_rng(0).normal(size=(200, 200))
    labels = {"layer": range(200), "token": [str(i) for i in range(200)]}
    grids = {"random": xr.Dataset({"auroc": (("layer", "token"), noise)}, labels)}
    with pytest.raises(ValueError, match=r"grid\.nc cannot be written: No space left"):
        run.save_grids(grids)
    assert os.listdir(run.path) == [".lock"]
    disk.grow(2000)
    path = run.save_grids(grids)
    run.begin("probe", {}).finish([path], splits=["random"])
    xr.testing.assert_equal(run.grid(), grids["random"])


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ESTALE])
def test_a_note_of_the_lock_that_cannot_be_read_is_not_another_writer(
    tmp_path, monkeypatch, number
):
    """A kernel that could not read it was told that its own command was in its way."""
    path = Run(tmp_path / "run").path

    def fails(*_, **__):
        raise OSError(number, os.strerror(number))

    with lock.directing(path):
        held = lock._held.pop(path)  # as in a kernel, which holds nothing yet
        monkeypatch.setattr("pathlib.Path.read_text", fails)
        try:
            with pytest.raises(OSError, match=r"run\.json could not be read"):
                lock.hold(path)
        finally:
            lock._held[path] = held
