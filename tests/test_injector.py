"""Some calls of a whole `probekit run` fail: `make faults ARGS=calls` has all of them fail."""

import errno
import os
import random
import subprocess
import sys

import pytest
from inject import ERRORS, Calls, Shim
from nightly import is_nightly

READ = """
import os, sys
with open(sys.argv[1], "rb", buffering=0) as file:
    file.read(1)
    if len(sys.argv) > 2:
        again = [sys.executable, "-c", sys.argv[2], sys.argv[1]]
        sys.exit(os.spawnv(os.P_WAIT, sys.executable, again))
    os.pread(file.fileno(), 1, 0)
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shim")
    (folder / "in").mkdir()
    (folder / "in/file").write_text("abc")
    (folder / "outside").write_text("abc")
    try:
        return Shim(folder, [folder / "in"])
    except FileNotFoundError as error:
        pytest.skip(str(error))


def calls(shim, name, k=0, error=0):
    """Two processes read a file, one after the other: what they called, and stderr."""
    command = [sys.executable, "-I", "-S", "-c", READ, str(shim.file.parent / name), READ]
    with shim.counting("reads", k, error):
        done = subprocess.run(
            command, env=os.environ | shim.environment, capture_output=True, text=True
        )
    return [call for kind, _, call, _ in shim.calls() if kind == "reads"], done.stderr


def test_calls_of_all_processes_count_and_one_of_them_fails(shim):
    assert calls(shim, "outside") == ([], "")
    undisturbed = ["open", "read", "open", "read", "pread"]
    assert calls(shim, "in/file") == (undisturbed, "")
    for k in range(1, len(undisturbed) + 1):
        called, stderr = calls(shim, "in/file", k, errno.ESTALE)
        assert f"[Errno {errno.ESTALE}]" in stderr
        assert called == undisturbed[:k]


def test_a_relative_path_and_one_by_its_folder_count(shim, tmp_path):
    code = "import os, sys; os.chdir(sys.argv[1]); open('file'); os.chdir('/')\n"
    code += "os.open('file', 0, dir_fd=os.open(sys.argv[1], 0))"
    folder = str(shim.file.parent / "in")
    with shim.counting():
        subprocess.run(
            [sys.executable, "-I", "-S", "-c", code, folder],
            env=os.environ | shim.environment, check=True,
        )  # fmt: skip
    assert [path for *_, path in shim.calls()].count(f"{folder}/file") >= 2


@pytest.mark.timeout(900)
def test_a_run_that_ends_well_is_as_if_nothing_had_failed(shim, tmp_path):
    """Some reads and writes of the extract stage: all calls of all stages would take hours."""
    here = Calls(tmp_path, ["extract"])
    try:
        chance, wrong = random.Random(0), []  # noqa: S311
        # First where a failed read once changed the result and nobody noticed: the store was begun
        # anew, and transformers went on without the model's own stop tokens.
        loaded = [call for call in here.calls["extract"] if "/generation_config" in call[-1]]
        loaded = [call for call in loaded if call[0] == "reads"]
        n = 3 if is_nightly() else 1
        chosen = [("reads", *call) for call in here.chosen("reads", n, chance, here.storing())]
        chosen += [("reads", *call) for call in here.chosen("reads", 1, chance, loaded[-3:])]
        for kind, n in {"reads": 2, "writes": 3}.items():
            chosen += [
                (kind, *call) for call in here.chosen(kind, n if is_nightly() else 1, chance)
            ]
        for i, (kind, step, k, call, path) in enumerate(chosen):
            error = ERRORS[i % len(ERRORS)]
            found = here.verdict(step, kind, k, error)
            if found.get("wrong"):
                wrong.append((kind, k, call, path, errno.errorcode[error], found))
        assert not wrong
    finally:
        here.close()
