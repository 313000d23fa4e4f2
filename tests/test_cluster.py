"""Two single-threaded worker processes give what this process gives, whatever dies meanwhile."""

import datetime
import importlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from test_corrections import elsewhere
from test_grid import make_activations
from threadpoolctl import threadpool_limits
from tiny import write_questions

import probekit
from probekit import Run, extract, load_model, probe_grid, read_questions
from probekit.pipeline.parameters import notebook_path
from probekit.run.manifest import STAGES

if os.environ.get("CI"):
    import dask
    import distributed
else:
    dask, distributed = map(pytest.importorskip, ("dask", "distributed"))

OPTIONS = {"site": ("mlp_out", "resid_post"), "max_new_tokens": 10, "batch_size": 4}
QUICK = {"n_permutations": 2, "progress": False}


@pytest.fixture(scope="module")
def client():
    """Two workers, forked from a process that has imported everything, and so again if they die.

    Those that are started by their command (`worker_of_its_own`) import it for themselves.
    """
    method = "distributed.worker.multiprocessing-method"
    with dask.config.set({method: "forkserver" if sys.platform == "linux" else "spawn"}):
        preloaded = ["distributed", "probekit.extraction.workers", "probekit.probing.workers"]
        preloaded += ["transformers.models.llama.modeling_llama"]
        distributed.utils.get_mp_context()  # which at its first call sets other ones
        multiprocessing.get_context("forkserver").set_forkserver_preload(preloaded)
        yield from two_workers()


def two_workers():
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(importlib.import_module("probekit.extraction.one_pass"), "SHARD", 4)


@pytest.fixture(scope="module")
def lm(stopping_model_dir):
    return load_model(stopping_model_dir)


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    return read_questions(write_questions(tmp_path_factory.mktemp("q") / "40", 40))


@pytest.fixture(scope="module")
def alone(lm, questions, tmp_path_factory):
    """A run of this process with one thread. Read only."""
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.setattr(importlib.import_module("probekit.extraction.one_pass"), "SHARD", 4)
        run = Run(tmp_path_factory.mktemp("run") / "alone")
        return extract(lm, questions, run, **OPTIONS, progress=False)


class one_thread:  # noqa: N801
    def __enter__(self):
        self.threads = torch.get_num_threads()
        self.limits = threadpool_limits(1)
        torch.set_num_threads(1)

    def __exit__(self, *exception):
        self.limits.restore_original_limits()
        torch.set_num_threads(self.threads)


def names(run):
    """Files of a run; of shards without the hash, which is of the last bits too."""
    paths = [str(p.relative_to(run.path)) for p in run.path.rglob("*") if p.is_file()]
    return {path.partition("-")[0] if path.startswith("shards") else path for path in paths}


def check_same(run, alone):
    pd.testing.assert_frame_equal(run.answers(), alone.answers())
    for site in OPTIONS["site"]:
        found, expected = run.activations(site), alone.activations(site)
        assert found["activation"].dtype == expected["activation"].dtype
        xr.testing.assert_allclose(found.load(), expected.load(), rtol=0, atol=1e-5)
        assert found["activation"].isnull().any()
    assert names(run) == names(alone)


def check_same_grid(grid, alone):
    for name in ("auroc", "auroc_low", "p_value", "null_auroc"):
        xr.testing.assert_allclose(grid[name], alone[name], rtol=0, atol=1e-6)
    xr.testing.assert_allclose(grid["score"], alone["score"], rtol=0, atol=1e-5)
    assert {n: v for n, v in grid.attrs.items() if n in ("split", "best_token", "model")} == {
        n: v for n, v in alone.attrs.items() if n in ("split", "best_token", "model")
    }


# The same results


def test_extraction_and_grid_by_address(client, stopping_model_dir, questions, alone, tmp_path):
    without_weights = load_model(stopping_model_dir, weights=False)
    assert without_weights.device.type == "meta"
    address = client.scheduler.address
    run = Run(tmp_path / "r")
    extract(without_weights, questions, run, **OPTIONS, scheduler=address, progress=False)
    check_same(run, alone)
    recorded, expected = (r.manifest("extract") for r in (run, alone))
    assert recorded["parameters"] == expected["parameters"]
    assert recorded["results"] == expected["results"]
    options = QUICK | {"folds": 2, "split": "random"}
    expected = probe_grid(alone.activations(), **options)
    check_same_grid(probe_grid(run.activations(), **options, scheduler=address), expected)


def test_workers_read_corrected_answers(client, stopping_model_dir, questions, alone, tmp_path):
    """The driver has no weights; what they read is what this process would."""
    others = elsewhere(alone, 4)
    corrections = pd.DataFrame({"id": others.keys(), "exact_answer": others.values()})
    lm = load_model(stopping_model_dir)
    driver = load_model(stopping_model_dir, weights=False)
    runs = []
    for name, model, scheduler in (("here", lm, None), ("there", driver, client)):
        run = Run(tmp_path / name)
        shutil.copytree(alone.path, run.path)
        given = {"corrections": corrections, "scheduler": scheduler, "progress": False}
        runs.append(extract(model, questions, run, **OPTIONS, **given))
    assert runs[0].answers()["corrected"].sum() == len(corrections) == 4
    here, there = (run.activations() for run in runs)
    xr.testing.assert_allclose(there.load(), here.load(), rtol=0, atol=1e-5)
    pd.testing.assert_frame_equal(runs[1].answers(), runs[0].answers())


def test_workers_keep_the_first_day_of_a_run(client, lm, questions, tmp_path, monkeypatch):
    """They ask for P(True) themselves, in prompts that write the date."""
    folder = shutil.copytree(lm.request["name"], tmp_path / "dated")
    path = folder / "chat_template.jinja"
    path.write_text("Today is {{ strftime_now('%d %b %Y') }}.\n" + path.read_text())
    dated, few = load_model(folder), questions.head(8)

    def judge(question, response, answers):
        return "Lyon" in question

    options = OPTIONS | {"p_true": True, "judge": judge, "progress": False}
    with one_thread(), monkeypatch.context() as patch:
        long_ago = type("date", (datetime.date,), {"today": lambda: datetime.date(2001, 2, 3)})
        patch.setattr(importlib.import_module("probekit.extraction.store"), "date", long_ago)
        run = extract(dated, few, Run(tmp_path / "r"), **options, scheduler=client)
        alone = extract(dated, few, Run(tmp_path / "alone"), **options)
    check_same(run, alone)
    assert run.answers()["prompt"].str.startswith("Today is 03 Feb 2001.").all()
    with one_thread():
        now = extract(dated, few, Run(tmp_path / "now"), **options)
    assert not np.allclose(now.answers()["p_true"], alone.answers()["p_true"], atol=1e-4)


def test_the_bar_counts_to_the_end(client, lm, questions, tmp_path, capsys):
    extract(lm, questions, Run(tmp_path / "r"), **OPTIONS, scheduler=client)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "40/40" in last
    assert "% correct" in last


def test_dasks_profiler_rests_while_a_worker_works_and_goes_on_after(client):
    def look():
        import time

        from distributed import get_worker

        from probekit.cluster import unwatched

        profiler, seen = get_worker().periodic_callbacks["profile"], []
        for _ in range(2):
            seen.append(profiler.is_running())
            with unwatched():
                time.sleep(0.5)  # its loop is another thread's
                seen.append(profiler.is_running())
            time.sleep(0.5)
        return [*seen, profiler.is_running()]

    assert client.submit(look, pure=False).result(timeout=60) == [True, False, True, False, True]


def test_activations_in_memory_are_sent(client):
    activations = make_activations()
    expected = probe_grid(activations, **QUICK)
    check_same_grid(probe_grid(activations, **QUICK, scheduler=client), expected)


def test_a_run_is_continued_wherever_it_was_begun(client, lm, questions, alone, tmp_path):
    def stops(question, response, answers, asked=[]):  # noqa: B006
        asked.append(question)
        if len(asked) > 9:
            raise InterruptedError
        return "Per" in response

    def same(question, response, answers):
        return "Per" in response

    stops.__name__ = "same"
    run, whole = Run(tmp_path / "r"), Run(tmp_path / "whole")
    with one_thread(), pytest.raises(InterruptedError):
        extract(lm, questions, run, **OPTIONS, judge=stops, progress=False)
    there = sorted(path.name[:6] for path in (run.path / "shards").iterdir())
    assert there == ["00000-", "00001-"]
    extract(lm, questions, run, **OPTIONS, judge=same, scheduler=client, progress=False)
    with one_thread():
        extract(lm, questions, whole, **OPTIONS, judge=same, progress=False)
    check_same(run, whole)


def test_a_shard_that_overflows_half_precision_widens_the_store(client, lm, questions, tmp_path):
    folder = tmp_path / "scaled"
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    scaled = load_model(folder)
    with torch.no_grad():
        # Only some tokens' residual streams become large, so only some shards overflow.
        scaled.model.get_input_embeddings().weight[300:] *= 3e5
    scaled.model.save_pretrained(folder)
    scaled = load_model(folder)
    options = OPTIONS | {"site": "resid_post", "progress": False}
    run = extract(scaled, questions, Run(tmp_path / "r"), **options, scheduler=client)
    with one_thread():
        alone = extract(scaled, questions, Run(tmp_path / "alone"), **options)
    found, expected = run.activations()["activation"], alone.activations()["activation"]
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def run_notebook(stage, **parameters):
    """Its code, in this process: a kernel takes longer to start than all of this."""
    notebook = nbformat.read(notebook_path(stage), as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert "parameters" in cells[0].metadata["tags"]
    names = {}
    for cell in cells:
        exec(cell.source, names)  # noqa: S102
        if cell is cells[0]:
            assert parameters.keys() <= names.keys()
            names |= parameters


def test_the_notebooks_on_a_cluster(
    client, stopping_model_dir, questions, alone, tmp_path, monkeypatch
):
    monkeypatch.setattr("probekit.static", lambda chart: None)
    run, address = Run(tmp_path / "r"), client.scheduler.address
    where = {"run_dir": str(run.path), "scheduler": address}
    asked = {"model": str(stopping_model_dir), "questions": questions.attrs["files"][0]}
    run_notebook("extract", **asked, **where, max_new_tokens=10)
    pd.testing.assert_series_equal(run.answers()["response"], alone.answers()["response"])
    run_notebook("probe", **where, folds=2, n_permutations=1)
    done = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.task_prefixes))
    assert {"answer", "fit"} <= set(done)
    for stage in STAGES[:2]:
        assert address not in json.dumps(run.manifest(stage)["parameters"])


# Ctrl-C


def test_ctrl_c_cancels_what_runs(client, lm, questions, tmp_path, monkeypatch):
    begun = tmp_path / "begun"

    def slow(question, response, answers):
        begun.touch()
        time.sleep(0.3)
        return "Per" in response

    run = Run(tmp_path / "r")
    arrival = importlib.import_module("probekit.cluster")._arrival

    def interrupted(client, arrived, bar):
        if not list((run.path / "shards").glob("by-workers-*")):
            return arrival(client, arrived, bar)  # the workers load the model
        while not begun.exists():
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr("probekit.cluster._arrival", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract(lm, questions, run, **OPTIONS, judge=slow, scheduler=client, progress=False)
    deadline = time.monotonic() + 20
    # A shard of four takes 1.2 s; tasks stop at their next answer.
    while any(client.run(lambda dask_worker: len(dask_worker.state.executing)).values()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not list((run.path / "shards").glob("by-workers-*"))


# Workers that die


def kill_a_busy_worker(client, function, killed):
    """In a thread: kill -9 the process of a worker as soon as it works on a task of this name."""

    def run():
        pids = client.run(os.getpid)
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            for worker, keys in client.processing().items():
                if any(str(key).startswith(f"{function}-") for key in keys):
                    os.kill(pids[worker], signal.SIGKILL)
                    killed.append(worker)
                    break

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_extraction_when_a_worker_is_killed(client, lm, questions, tmp_path):
    marker = tmp_path / "killed"

    def deadly(question, response, answers):
        if "number 6?" in question:
            try:
                marker.touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return "Per" in response

    run = Run(tmp_path / "r")
    extract(lm, questions, run, **OPTIONS, judge=deadly, scheduler=client, progress=False)
    assert marker.exists()
    with one_thread():
        whole = Run(tmp_path / "whole")
        extract(lm, questions, whole, **OPTIONS, judge=deadly, progress=False)
    check_same(run, whole)


def test_the_grid_when_a_worker_is_killed(client):
    activations = make_activations(n=1500, features=200)
    expected = probe_grid(activations, **QUICK)
    killed = []
    thread = kill_a_busy_worker(client, "fit", killed)
    grid = probe_grid(activations, **QUICK, scheduler=client)
    thread.join()
    assert killed
    check_same_grid(grid, expected)


def test_a_task_that_kills_its_workers_is_an_error(client, lm, questions, tmp_path, monkeypatch):
    monkeypatch.setattr(client.cluster.scheduler, "allowed_failures", 0)  # by default 3

    def deadly(question, response, answers):
        os.kill(os.getpid(), signal.SIGKILL)

    run = Run(tmp_path / "r")
    with pytest.raises(
        ValueError, match=r"Workers died over the same task \(1 in a row\).*batch_size"
    ):
        extract(lm, questions, run, **OPTIONS, judge=deadly, scheduler=client, progress=False)
    assert not (run.path / "manifests").exists()


# Workers that would give other numbers


@contextmanager
def worker_of_its_own(client, package=None):
    """A worker that is started by its command, with another copy of the package if there is one."""
    place = (package or Path(probekit.__file__).parent).parent
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(place)}
    name = uuid.uuid4().hex  # a worker that an earlier test has killed may come back meanwhile
    command = ["-m", "dask", "worker", client.scheduler.address, "--nthreads", "1", "--no-nanny"]

    def addresses():
        workers = client.scheduler_info(n_workers=-1)["workers"]
        return [address for address, worker in workers.items() if worker["name"] == name]

    process = subprocess.Popen(
        [sys.executable, *command, "--no-dashboard", "--name", name],
        env=environment,
        cwd=place,  # Python looks there first
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while not addresses():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process, *addresses()
    finally:
        process.kill()
        process.wait()
        while addresses() and time.monotonic() < deadline:
            time.sleep(0.05)


def copied_package(folder, file, before, after):
    package = Path(probekit.__file__).parent
    copy = shutil.copytree(package, folder / "probekit", ignore=shutil.ignore_patterns("__pyc*"))
    text = (copy / file).read_text()
    assert before in text
    (copy / file).write_text(text.replace(before, after))
    return copy


def test_a_worker_with_other_code_is_refused_by_name(client, lm, questions, tmp_path):
    """It would give the activation of another token, and the run would end well."""
    off_by_one = copied_package(
        tmp_path, "extraction/shards.py", "values[position + 1]", "values[position]"
    )
    with worker_of_its_own(client, off_by_one) as (_, address):
        named = rf"Worker {re.escape(address)} on .*the source code of probekit is SHA-256 \w+, "
        refused(named, lm, questions, Run(tmp_path / "r"), scheduler=client)
        # Nothing is asked of the workers before cells are fitted: each task brings the question.
        with pytest.raises(ValueError, match=named):
            probe_grid(make_activations(), **QUICK, scheduler=client)


@pytest.mark.parametrize("package", ["torch", "numpy", "probekit-notebooks"])
def test_a_worker_with_other_packages_is_refused_by_name(
    client, lm, questions, tmp_path, monkeypatch, package
):
    ours = importlib.import_module("probekit.cluster").CODE
    monkeypatch.setattr("probekit.cluster.CODE", ours | {package: "0.0.1"})
    named = rf"Worker tcp://\S+ on .*: {package} is {ours[package]}, the driver's 0\.0\.1\. Inst"
    refused(named, lm, questions, Run(tmp_path / "r"), scheduler=client)
    with pytest.raises(ValueError, match=named):
        probe_grid(make_activations(), **QUICK, scheduler=client)


def test_a_worker_that_comes_later_with_another_precision(client, lm, tmp_path):
    from probekit.extraction.workers import answer

    models = [(lm.request, lm.revision)]
    rest = (None, None, 1, str(tmp_path), None, "t", 0)
    future = client.submit(answer, models, "torch.bfloat16", *rest, pure=False)
    with pytest.raises(ValueError, match=r"holds the model in torch\.float32, the others in"):
        future.result()


def test_when_no_worker_is_left_the_bar_says_so_and_there_is_an_end(
    client, lm, questions, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("probekit.cluster._PATIENCE", 3)
    begun, run = tmp_path / "begun", Run(tmp_path / "r")

    def slow(question, response, answers):
        begun.touch()
        time.sleep(0.3)
        return "Per" in response

    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0") as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
        worker_of_its_own(client) as (process, _),
    ):

        def kill():
            while not begun.exists():
                time.sleep(0.02)
            process.kill()

        thread = threading.Thread(target=kill)
        thread.start()
        with pytest.raises(ValueError, match=r"No worker has been at tcp://.*finished is kept"):
            extract(lm, questions, run, **OPTIONS, judge=slow, scheduler=client)
        thread.join()
    said = capsys.readouterr().err
    assert said.count("No worker is left at tcp://") == 1
    assert any("NO WORKER IS LEFT" in state for state in said.split("\r") if "%|" in state)
    assert not (run.path / "manifests/extract.json").exists()


# Errors


def refused(match, *arguments, **options):
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=match) as error:
        extract(*arguments, **OPTIONS, progress=False, **options)
    return error


def test_no_scheduler_at_the_address(lm, questions, tmp_path, monkeypatch):
    monkeypatch.setattr("probekit.cluster._CONNECTING", 1)
    run = Run(tmp_path / "r")
    refused("No Dask scheduler answers at 'tcp://127.0.0.1:9'.*dask scheduler", lm, questions, run,
            scheduler="tcp://127.0.0.1:9")  # fmt: skip
    refused("No Dask scheduler answers at 'nonsense://x'", lm, questions, run,
            scheduler="nonsense://x")  # fmt: skip
    refused("scheduler must be an address such as .* got 8786", lm, questions, run, scheduler=8786)
    with pytest.raises(ValueError, match="No Dask scheduler answers"):
        probe_grid(make_activations(), **QUICK, scheduler="tcp://127.0.0.1:9")
    assert not run.path.exists()


def test_no_workers(lm, questions, tmp_path, monkeypatch):
    monkeypatch.setattr("probekit.cluster._APPEARING", 0.2)
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0", processes=False) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        refused("has no worker after 0.2 s. Start some: dask worker", lm, questions,
                Run(tmp_path / "r"), scheduler=client)  # fmt: skip
    refused("the client is closed", lm, questions, Run(tmp_path / "r"), scheduler=client)


def test_dask_is_not_installed(lm, questions, tmp_path, monkeypatch):
    monkeypatch.setattr("probekit.cluster.distributed", None)
    refused(r'pip install "probekit-notebooks\[cluster\]"', lm, questions, Run(tmp_path / "r"),
            scheduler="tcp://127.0.0.1:9")  # fmt: skip


def test_a_model_that_workers_cannot_load(client, lm, questions, tmp_path):
    import dataclasses

    made_here = dataclasses.replace(lm, request=None)
    refused("was not loaded by load_model. Save it", made_here, questions, Run(tmp_path / "a"),
            scheduler=client)  # fmt: skip
    elsewhere = dataclasses.replace(lm, request=lm.request | {"name": "/nowhere/model"})
    refused("Worker .*: No folder '/nowhere/model'", elsewhere, questions, Run(tmp_path / "b"),
            scheduler=client)  # fmt: skip
    other = dataclasses.replace(lm, revision="another")
    refused("Worker .* has another .*revision .*, the driver's is another", other, questions,
            Run(tmp_path / "c"), scheduler=client)  # fmt: skip


def test_no_weights_and_no_scheduler(stopping_model_dir, questions, tmp_path):
    without = load_model(stopping_model_dir, weights=False)
    refused("lm has no weights", without, questions, Run(tmp_path / "r"))


def test_workers_that_see_other_files(client, alone, lm, tmp_path):
    from probekit.extraction.workers import answer
    from probekit.probing.workers import StoredActivations, fit

    stored = StoredActivations.of(alone.activations(), np.arange(40))
    for source in ("/nowhere/activations.zarr", str(alone.path)):
        elsewhere = StoredActivations(stored.activations, source, stored.files, stored.kept)
        future = client.submit(fit, elsewhere, [(0, 0)], None, None)
        with pytest.raises(FileNotFoundError, match=r"does not see .* as the driver does"):
            future.result()
    future = client.submit(answer, [], "", None, None, 1, str(tmp_path / "r/x"), None, "t", 0)
    with pytest.raises(FileNotFoundError, match="file system that all of them share"):
        future.result()


def test_what_is_in_memory_or_changed_is_not_read_from_the_store(alone):
    from probekit.probing.workers import StoredActivations

    on_disk = alone.activations()
    assert StoredActivations.of(on_disk, None).files
    assert StoredActivations.of(on_disk.load(), None) is None
    doubled = alone.activations()
    doubled["activation"] = doubled["activation"] * 2
    assert StoredActivations.of(doubled, None) is None
