"""Ctrl-C and SIGTERM: within seconds, one sentence that says how to go on, and nothing lost."""

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from tiny import write_questions

from probekit import Run, extract, load_model, read_questions
from probekit.run.stopping import Stopped, stoppable

# A script that knows nothing of Stopped.
SCRIPT = """
import time
from probekit.run.stopping import stoppable
with stoppable("Go on from there."):
    print("begun", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def ctrl_c_is_heard():
    """A shell's background job ignores it, and so would all that the tests start from there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_script_ends_with_a_sentence_and_without_a_traceback(number):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert said == "Stopped. Go on from there.\n"
    assert process.returncode == 128 + number


def test_one_sentence_of_two_blocks_and_the_handler_as_it_was(capsys):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), stoppable("Outer."), stoppable("Inner."):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert capsys.readouterr().err == "Stopped. Inner.\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_handler_of_the_users_own_is_kept():
    called = []
    before = signal.signal(signal.SIGTERM, lambda *_: called.append(True))
    try:
        with stoppable("Go on."):
            os.kill(os.getpid(), signal.SIGTERM)
        assert called
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_a_thread_where_no_handler_can_be_set():
    found = []

    def work():
        try:
            with stoppable("Go on."):
                raise KeyboardInterrupt
        except Stopped as stopped:
            found.append(stopped.code)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [130]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_stops_and_goes_on(stopping_model_dir, tmp_path, number):
    given = {
        "model": str(stopping_model_dir),
        "questions": str(write_questions(tmp_path / "questions", 600)),
        "max_new_tokens": 8,
    }
    run = Run(tmp_path / "run")
    command = [sys.executable, "-m", "probekit", "run", "--run-dir", str(run.path)]
    command += [part for name, value in given.items() for part in ("-p", name, str(value))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: list(run.path.glob("shards/*")) or process.poll() is not None)
    kernels = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    told = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - told < 10
    assert process.returncode == 128 + number
    assert "Traceback" not in said
    last = said.replace("\r", "\n").strip().splitlines()[-1]
    assert last == "Stopped. What is finished is kept: the same command goes on from there."
    until(lambda: not any(kernel.is_running() for kernel in kernels))
    kept = {path: path.stat().st_mtime_ns for path in run.path.glob("shards/*")}
    assert kept
    assert not (run.path / "manifests/extract.json").exists(), "stopped before the end"
    asked = read_questions(given["questions"])
    extract(load_model(given["model"]), asked, run, max_new_tokens=8, progress=False)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(run.answers()) == 600


def until(condition):
    """Wait for something that takes seconds."""
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise TimeoutError
