"""What must be survived: a second writer, a holder that died, a folder that was copied."""

import os
import shutil
import subprocess
import sys
import time

import pytest

from probekit import Run, lock
from probekit.pipeline import run_pipeline

# One run directory, one writer

# The module on its own: the whole package takes seconds to import.
HOLDER = """
import importlib.util, pathlib, sys
module, path = sys.argv[1], pathlib.Path(sys.argv[2])
spec = importlib.util.spec_from_file_location("lock", module)
lock = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lock)
lock.hold(path)
print("held", flush=True)
sys.stdin.readline()
lock.release(path)
print("released", flush=True)
sys.stdin.readline()
"""


def start_holder(path, **options):
    """Another process that holds a run directory, and waits to be told to go on."""
    command = [sys.executable, "-c", HOLDER, lock.__file__, str(path)]
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
        lambda: run_pipeline(run.path, stages=("probe",), progress=False),
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
