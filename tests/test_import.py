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


def test_the_command_loads_no_model_and_draws_no_chart():
    assert not loaded("import probekit.__main__") & {"torch", "transformers", "altair", "sklearn"}


@pytest.mark.parametrize(("parameter", "names"), [("site", SITES), ("measure", MEASURES)])
def test_names_that_parameters_repeat_are_those_in_use(parameter, names):
    assert parameters._MAY_BE[parameter].keywords["known"] == tuple(names)


@pytest.mark.parametrize("name", probekit.__all__)
def test_every_name_that_is_offered_is_there(name):
    assert getattr(probekit, name) is not None
    assert name in dir(probekit)
