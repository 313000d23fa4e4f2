"""What `import probekit` loads: every process pays for it, each worker of a grid too."""

import subprocess
import sys

import pytest

import probekit

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


@pytest.mark.parametrize("name", probekit.__all__)
def test_every_name_that_is_offered_is_there(name):
    assert getattr(probekit, name) is not None
    assert name in dir(probekit)
