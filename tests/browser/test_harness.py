"""The harness itself: a failing cell is seen, and no other machine is reached."""

import nbformat
import pytest
from lab_page import failures, open_notebook, run_all_cells, set_parameters
from nbformat.v4 import new_code_cell, new_notebook

pytestmark = pytest.mark.browser

IMAGE = """\
from IPython.display import SVG, HTML, display
import ipywidgets
SVG('<svg xmlns="http://www.w3.org/2000/svg"><circle r="20" cx="20" cy="20"/></svg>')
"""


@pytest.fixture(scope="module")
def lab(jupyterlab, tmp_path_factory):
    root = tmp_path_factory.mktemp("notebooks")
    cells = [
        new_code_cell("size = 7  # a number", metadata={"tags": ["parameters"]}),
        new_code_cell(IMAGE),
        new_code_cell("ipywidgets.IntSlider(value=size)"),
        new_code_cell("""display(HTML('<img src="https://example.org/x.png">'))"""),
        new_code_cell("print('x' * size)"),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = new_notebook(cells=cells, metadata=kernel)
    nbformat.write(notebook, root / "good.ipynb")
    set_parameters(root / "good.ipynb", size=3)
    cells.insert(2, new_code_cell("import sys\nprint('careful', file=sys.stderr)"))
    cells.insert(3, new_code_cell("1 / 0"))
    nbformat.write(new_notebook(cells=cells, metadata=kernel), root / "bad.ipynb")
    return jupyterlab(root)


def test_widgets_are_shown_and_other_machines_refused(lab, page, traffic, screenshot):
    open_notebook(page, lab, "good.ipynb")
    run_all_cells(page, seconds=60)
    screenshot(page, "harness-good")
    assert failures(page) == []
    assert page.locator(".widget-slider").get_by_text("3").is_visible()
    assert page.locator(".jp-RenderedSVG img").is_visible()
    assert set(traffic.refused) == {"https://example.org/x.png"}


def test_a_failing_cell_is_reported(lab, page, traffic, screenshot):
    open_notebook(page, lab, "bad.ipynb")
    run_all_cells(page, seconds=60)
    screenshot(page, "harness-bad")
    error, *not_run = failures(page)
    assert "ZeroDivisionError" in error
    assert len(not_run) == 3
    assert traffic.refused == traffic.errors == []
