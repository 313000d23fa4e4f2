"""What `import probekit` loads: every process pays for it, each worker of a grid too."""

import subprocess
import sys

import pytest

import probekit
from probekit.charts.heatmaps import MEASURES
from probekit.extraction.sites import SITES
from probekit.pipeline import parameters

HEAVY = [
    "torch",
    "transformers",
    "altair",
    "sklearn",
    "xarray",
    "pandas",
    "papermill",
    "distributed",
    "nbformat",
    "jsonschema",
    "h5py",
    "jinja2",
]


def loaded(code):
    """Which heavy packages a new process has imported after some code."""
    code += f"\nimport sys; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_package_itself_loads_nothing_heavy():
    assert (
        loaded("import probekit, probekit.charts, probekit.extraction, probekit.probing") == set()
    )


@pytest.mark.parametrize("asked", ["--help", "run --help"])
def test_the_help_of_the_command_waits_for_nothing_heavy(asked):
    """A second of imports made it feel broken; what is measured here does not depend on load."""
    code = f"""
import contextlib, io
from probekit.__main__ import main
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
    main({asked.split()!r})
"""
    assert loaded(code) == set()


def test_a_run_loads_no_model_and_draws_no_chart_before_its_notebooks_do():
    needed = loaded("import probekit.pipeline.notebooks")
    assert not needed & {"torch", "transformers", "altair", "sklearn"}


@pytest.mark.parametrize(
    ("parameter", "names"), [("site", SITES), ("probe_site", SITES), ("measure", MEASURES)]
)
def test_names_that_parameters_repeat_are_those_in_use(parameter, names):
    assert parameters._MAY_BE[parameter].keywords["known"] == tuple(names)


@pytest.mark.parametrize("name", probekit.__all__)
def test_every_name_that_is_offered_is_there(name):
    assert getattr(probekit, name) is not None
    assert name in dir(probekit)
