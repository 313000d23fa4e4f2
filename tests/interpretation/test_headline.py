"""The headline of a run: what is said of signals, of noise, and of what controls know as well."""

import numpy as np
import pytest
import xarray as xr
from made_run import asked_run, made_run

import probekit as pk


def probed(run, activations):
    """The probe stage of a made run, as notebook 02 has it, with random folds alone."""
    answers = run.answers()
    settings = {"n_permutations": 19, "n_jobs": 1, "progress": False}
    grid = pk.probe_grid(activations, split="random", **settings)
    controls = pk.controls(answers, grid)
    stage = run.begin("probe", {})
    files = [run.save_grids({"random": grid}), run.save_grids({"random": controls}, "controls.nc")]
    files.append(run.save_detectors({"random": pk.detector(grid, controls)}))
    stage.finish(files, splits=["random"])
    return run


def made(path, order):
    """A run in which errors show in the last of two layers, its activations in another order."""
    random = np.random.default_rng(0)
    wrong = random.random(240) < 0.5
    given = [f"answer {i}" for i in random.integers(60, size=240)]
    run = asked_run(path, given, wrong)
    activations = run.activations().load()
    values = activations["activation"].to_numpy()[order]
    return probed(run, activations.assign(activation=(activations["activation"].dims, values)))


@pytest.fixture(scope="module")
def signal(tmp_path_factory):
    """A run in which errors show, whatever the answer is."""
    return made(tmp_path_factory.mktemp("signal") / "run", np.arange(240))


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """The same with shuffled labels: each answer has another's activations."""
    order = np.random.default_rng(1).permutation(240)
    return made(tmp_path_factory.mktemp("noise") / "run", order)


def test_a_signal_is_said_with_the_bar_that_it_has_to_pass(signal):
    first, second = pk.headline(signal).split(". ", 1)
    detector = signal.detector()
    assert first.startswith("Wrong answers can be told from right ones in ")
    assert f"AUROC {detector.auroc:.2f} [{detector.auroc_low:.2f}, " in first
    assert second.startswith("That is more than all controls together reach without the network (")
    assert "no answer could be held out" in second
    assert len(pk.headline(signal).split()) < 80


def test_nothing_is_said_as_plainly(noise):
    said = pk.headline(noise)
    assert said.startswith("Nothing is shown: wrong answers can't be told from right ones, in none")
    assert "That is more" not in said
    assert "which the cells add" not in said


def test_the_figure_s_subtitle_says_the_same(signal, noise):
    for run, expected in ((noise, "none of 28 cells above chance: nothing is shown"), (signal, "")):
        grid = run.grid()
        lines = pk.heatmap(grid).to_dict()["title"]["subtitle"]
        wrong = int((~grid["correct"]).sum())
        assert lines[0] == f"made up, mlp_out, 240 answers, {wrong} wrong"
        n = int((grid["p_corrected"].sel(token=list(pk.FIGURE_TOKENS)) <= 0.05).sum())
        assert lines[1] == f"random folds; {expected or f'{n} of 28 cells above chance'}"


def test_held_out_answers_are_in_it(tmp_path):
    run = made_run(tmp_path / "run")
    held_out = run.detector("answer")
    assert f"ith answers held out {held_out.auroc:.2f} [" in pk.headline(run)


def test_it_takes_a_finished_run_only(tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished probe stage"):
        pk.headline(pk.Run(tmp_path / "none"))
    with pytest.raises(TypeError, match="run must be a Run"):
        pk.headline(xr.Dataset())
