"""Where the checks of a GPU compute, and the table of what they measured."""

import gc
import os

import pytest

_table = pytest.StashKey()


def pytest_configure(config):
    config.stash[_table] = []


@pytest.fixture(scope="session")
def place():
    """The device that PROBEKIT_GPU_CHECK names; "cpu" tries the checks themselves, in small."""
    import torch

    asked = os.environ.get("PROBEKIT_GPU_CHECK")
    if not asked:
        pytest.skip("GPU")
    place = torch.device(asked)
    if place.type == "cuda":
        if not torch.cuda.is_available():
            pytest.exit(
                f"PROBEKIT_GPU_CHECK={asked}, but torch {torch.__version__} sees no GPU here. "
                "Install a torch with CUDA on a machine with a GPU, or try the checks themselves "
                "with PROBEKIT_GPU_CHECK=cpu.",
                returncode=1,
            )
        place = torch.device("cuda", place.index or 0)
    return place


@pytest.fixture
def room(place):
    """Return ``room(bytes)``: skips the test where the GPU has less. All of it is free again."""
    import torch

    def room(needed):
        if place.type == "cuda" and torch.cuda.mem_get_info(place)[0] < needed:
            pytest.skip("memory")

    yield room
    gc.collect()
    torch.cuda.empty_cache()


@pytest.fixture
def measured(request):
    """Return ``measured(what, **figures)``: puts a line into the table at the end."""

    def measured(what, **figures):
        listed = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items())
        request.config.stash[_table].append(f"{what}: {listed}")

    return measured


def pytest_terminal_summary(terminalreporter, config):
    if config.stash[_table]:
        import torch

        asked = torch.device(os.environ["PROBEKIT_GPU_CHECK"])
        name = torch.cuda.get_device_name(asked) if asked.type == "cuda" else "the CPU, in small"
        terminalreporter.section(f"measured on {name}, torch {torch.__version__}")
        for line in config.stash[_table]:
            terminalreporter.line(line)
