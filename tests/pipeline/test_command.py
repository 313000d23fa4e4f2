"""The command itself: what it says of itself, and what it hands out."""

import json
import sys

import pytest
from test_pipeline import state

import probekit
from probekit.__main__ import main
from probekit.pipeline import lab
from probekit.pipeline.parameters import notebook_path
from probekit.run.directory import Run
from probekit.run.files import write_json
from probekit.run.manifest import NOTEBOOKS

SHIPPED = {notebook_path(stage).name: notebook_path(stage).read_bytes() for stage in NOTEBOOKS}


def test_without_arguments_it_says_what_there_is(capsys):
    assert main([]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.startswith("usage: probekit")
    for command in ("run", "notebooks", "lab"):
        assert f"\n    {command}" in said.out


def test_it_says_its_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"probekit {probekit.__version__}\n"


@pytest.mark.parametrize("given", [["ran"], ["run", "--foldz", "3"], ["notebooks", "a", "b"]])
def test_what_no_command_knows_is_a_mistake(given, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(given)
    assert stopped.value.code == 2
    assert given[-1] in capsys.readouterr().err


# Copies of the notebooks


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_notebooks_are_handed_out_and_nothing_is_written_over(tmp_path, capsys):
    folder = tmp_path / "a" / "b"
    assert main(["notebooks", str(folder)]) == 0
    assert str(folder) in capsys.readouterr().out
    assert contents(folder) == SHIPPED
    # Whole copies are no obstacle, and one that is missing is added.
    (folder / "02_probe.ipynb").unlink()
    (folder / "mine.txt").write_text("mine")
    assert main(["notebooks", str(folder)]) == 0
    assert contents(folder) == SHIPPED | {"mine.txt": b"mine"}
    # What somebody has changed is: then nothing at all is written.
    (folder / "03_visualize.ipynb").write_text("{}")
    (folder / "02_probe.ipynb").unlink()
    (folder / "05_transfer.ipynb").unlink()
    (folder / "05_transfer.ipynb").symlink_to(tmp_path / "nowhere")
    before = state(tmp_path)
    assert main(["notebooks", str(folder)]) == 1
    said = capsys.readouterr().err
    assert "other files of these names: 03_visualize.ipynb, 05_transfer.ipynb." in said
    assert state(tmp_path) == before
    (tmp_path / "file").write_text("")
    assert main(["notebooks", str(tmp_path / "file" / "x")]) == 1
    assert "cannot be written" in capsys.readouterr().err


@pytest.fixture
def opened(monkeypatch):
    """Commands that would have taken this process's place."""
    commands = []
    monkeypatch.setattr(lab.os, "execv", lambda path, command: commands.append((path, command)))
    return commands


def parameters_of(path):
    """The values that a notebook's parameter cell sets when it is run, and the cell's text."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    cell = next(c for c in cells if "parameters" in c["metadata"].get("tags", []))
    values = {}
    exec("".join(cell["source"]), {"__builtins__": {}}, values)  # noqa: S102
    return values, "".join(cell["source"])


def test_lab_without_a_run_opens_the_notebooks_as_they_come(tmp_path, monkeypatch, opened):
    monkeypatch.chdir(tmp_path)
    assert main(["lab"]) == 0
    assert contents(tmp_path / "notebooks-to-edit") == SHIPPED
    [(path, command)] = opened
    assert path == sys.executable
    assert command[1:3] == ["-m", "jupyterlab"]
    assert command[-1] == "--ip=127.0.0.1"
    assert f"--ServerApp.root_dir={tmp_path}" in command
    assert not any("token" in part or "password" in part for part in command)
    assert "--no-browser" not in command
    # What was changed there stays, and the rest too.
    changed = tmp_path / "notebooks-to-edit" / "04_interpret.ipynb"
    changed.write_text("mine")
    assert main(["lab", "--no-browser", "--ip=0.0.0.0", "--port", "9999"]) == 0
    assert contents(changed.parent) == SHIPPED | {changed.name: b"mine"}
    mine = ["--no-browser", "--ip=0.0.0.0", "--port", "9999"]
    assert opened[-1][1][-5:] == [*mine, "--ip=127.0.0.1"]


def test_lab_fills_in_a_run_and_its_parameters(tmp_path, monkeypatch, opened, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q.csv").write_text("question,answers\n")
    run = Run("data/a run")
    run.begin("extract", {"questions": "a hash", "judge": None, "model": "smollm2"}).finish([])
    recorded = {"questions": "q.csv", "limit": 30, "n_samples": 3, "temperature": 0.5, "seed": 1}
    recorded |= {"model": 'a "model"', "p_true": True, "device": "cuda:7"}
    write_json(run.pipeline_record("extract"), {"parameters": recorded})
    # Run again by hand since.
    run.begin("probe", {"C": 2.0, "folds": 3}).finish([])
    write_json(run.pipeline_record("probe"), {"parameters": {"C": 1.0, "seed": 4}})
    before = state(run.path)
    assert main(["lab", "--run-dir", "data/a run"]) == 0
    assert state(run.path) == before, "what a kernel would import is nowhere in the run"
    assert "--LabApp.default_url=/lab/tree/notebooks-to-edit/a%20run" in opened[0][1]
    copies = tmp_path / "notebooks-to-edit" / "a run"
    assert set(contents(copies)) == set(SHIPPED)
    here = {"run_dir": "../../data/a run"}
    assert Run(copies / here["run_dir"]).path == run.path
    defaults = {name: parameters_of(notebook_path(name)) for name in NOTEBOOKS}
    given, source = parameters_of(copies / "01_extract.ipynb")
    expected = recorded | here | {"questions": str(tmp_path / "q.csv")}
    assert given == defaults["extract"][0] | expected | {"device": ""}
    assert "limit = 30  # number of questions; 0 asks all\n" in source
    assert 'site = "mlp_out"  # where' in source, "what is as by default is written as it was"
    given, _ = parameters_of(copies / "02_probe.ipynb")
    assert given == defaults["probe"][0] | here | {"C": 2.0, "folds": 3, "seed": 4}
    for name in ("visualize", "interpret", "choose", "intervene"):
        given, _ = parameters_of(copies / notebook_path(name).name)
        assert given == defaults[name][0] | here
    given, _ = parameters_of(copies / "05_transfer.ipynb")
    assert [given["run_dir"], *given["run_dirs"]] == [
        f"../../data/runs/{name}" for name in ("transfer", "example-cities", "example-products")
    ]
    # Nothing else in a notebook is touched.
    for name, content in SHIPPED.items():
        before, after = (json.loads(text) for text in (content, (copies / name).read_bytes()))
        for notebook in (before, after):
            notebook["cells"].pop(1)
        assert before == after
    assert capsys.readouterr().err == ""


def test_lab_of_another_run_of_the_same_name(tmp_path, monkeypatch, opened, capsys):
    monkeypatch.chdir(tmp_path)
    runs = [Run(tmp_path / folder / "run") for folder in "ab"]
    for run in runs:
        run.begin("probe", {}).finish([])
    assert main(["lab", "--run-dir", "a/run"]) == 0
    assert main(["lab", "--run-dir", "b/run"]) == 1
    assert "is of another run directory" in capsys.readouterr().err
    # One that was changed is still of its run.
    changed = tmp_path / "notebooks-to-edit" / "run" / "02_probe.ipynb"
    changed.write_text(changed.read_text().replace("C = 1.0", "C = 5.0"))
    assert main(["lab", "--run-dir", "a/run"]) == 0
    assert "Kept as they are there: 02_probe.ipynb." in capsys.readouterr().out
    assert parameters_of(changed)[0]["C"] == 5
    # A run that is not below this folder has its whole path.
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    assert main(["lab", "--run-dir", "../a/run"]) == 0
    given, _ = parameters_of(tmp_path / "project/notebooks-to-edit/run/02_probe.ipynb")
    assert given["run_dir"] == str(runs[0].path)


def test_lab_writes_no_code_of_a_run_into_a_notebook(tmp_path, monkeypatch, opened, capsys):
    monkeypatch.chdir(tmp_path)
    run = Run("run")
    run.begin("visualize", {"measure": "auroc", "seed": "0; import os"}).finish([])
    assert main(["lab", "--run-dir", "run"]) == 0
    given, source = parameters_of(tmp_path / "notebooks-to-edit/run/03_visualize.ipynb")
    assert given["seed"] == 0
    assert "import os" not in source
    assert "03_visualize.ipynb has its default parameters" in capsys.readouterr().out
    text = "x'\n__import__('os').abort()\n\"\"\""
    Run("other").begin("extract", {"model": text}).finish([])
    assert main(["lab", "--run-dir", "other"]) == 0
    given, source = parameters_of(tmp_path / "notebooks-to-edit/other/01_extract.ipynb")
    assert given["model"] == text
    assert source.count("\n") == parameters_of(notebook_path("extract"))[1].count("\n")
    assert "not recorded where the run's questions are from" in capsys.readouterr().out


def test_lab_of_a_run_that_is_not_there(tmp_path, monkeypatch, opened, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["lab", "--run-dir", str(tmp_path / "none")]) == 1
    assert "There is no run directory" in capsys.readouterr().err
    assert not opened
    assert not list(tmp_path.iterdir())


# papermill called by hand


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"measur": "correlation"}, "No parameter 'measur'. Did you mean 'measure'?"),
        ({"limit": 5}, "No parameter 'limit'. There are: measure, run_dir, seed."),
        ({"measure": "correlation"}, None),
    ],
)
def test_a_name_that_a_notebook_does_not_have_is_refused_in_its_first_cell(
    given, said, tmp_path, forked_kernels
):
    """papermill only logs a warning; and what is unknown to this notebook may be another's."""
    papermill = pytest.importorskip("papermill")
    notebook = json.loads(SHIPPED["03_visualize.ipynb"])
    # The first cells are enough, up to what opens a run.
    notebook["cells"] = [c for c in notebook["cells"][:3] if c["cell_type"] == "code"]
    source = "".join(notebook["cells"][1]["source"])
    notebook["cells"][1]["source"] = source[: source.index("run = ")] + "checked = True"
    (tmp_path / "in.ipynb").write_text(json.dumps(notebook))
    paths = str(tmp_path / "in.ipynb"), str(tmp_path / "out.ipynb")

    def execute():
        return papermill.execute_notebook(*paths, given, kernel_name="python3", progress_bar=False)

    if said is None:
        execute()
    else:
        with pytest.raises(papermill.PapermillExecutionError) as refused:
            execute()
        assert refused.value.evalue.startswith(said)
