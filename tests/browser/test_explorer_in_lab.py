"""The explorer in a real JupyterLab: a click, another split, the keys alone, hostile text."""

import re
import shutil

import nbformat
import pytest
from lab_page import failures, open_notebook, run_all_cells, set_parameters
from made_run import made_run
from nbformat.v4 import new_code_cell, new_notebook
from sklearn.metrics import roc_auc_score

import probekit as pk

pytestmark = pytest.mark.browser

# Would set window.reached, or make an element, if any of it were taken for more than text.
HOSTILE = (
    "<script>window.reached=1</script><img src=x onerror='window.reached=2'> "
    "[link](javascript:window.reached=3) $x^2$ {}"
)
FOLDER = "<img src=x onerror='window.reached=4'>"
EXPLORER = ".probekit-explorer"
NUMBERS = f"{EXPLORER} .probekit-numbers"
EXAMPLES = f"{EXPLORER} .probekit-examples"
CURVES = f"{EXPLORER} .probekit-curves"


@pytest.fixture(scope="module")
def lab(forked_kernels, jupyterlab, repository, tmp_path_factory):
    """JupyterLab over the interpret notebook of the example run, and one of hostile text."""
    root = tmp_path_factory.mktemp("explored")
    shutil.copytree(repository / "data" / "example", root / "runs" / "example")
    shutil.copy(repository / "notebooks" / "04_interpret.ipynb", root)
    set_parameters(root / "04_interpret.ipynb", run_dir=str(root / "runs" / "example"))
    run = made_run(root / "hostile" / FOLDER, wrap=HOSTILE)
    opened = f"import probekit as pk\ngrid = pk.Run({str(run.path)!r}).grid()\n"
    sources = [
        f"import probekit as pk\nrun = pk.Run({str(run.path)!r})\npk.explore([run, run])",
        "pk.show_tokens(run, n=9, scores=run.grid().score.sel(layer=2))",
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = [new_code_cell(source) for source in sources]
    nbformat.write(new_notebook(cells=cells, metadata=kernel), root / "hostile.ipynb")
    sources = [f"{opened}pk.heatmap(grid)", "pk.heatmap(grid) | pk.by_layer(grid)"]
    cells = [new_code_cell(source) for source in sources]
    nbformat.write(new_notebook(cells=cells, metadata=kernel), root / "charts.ipynb")
    return jupyterlab(root)


def heatmap_cell(page, layer, token):
    """A cell of the heatmap, by the words that a screen reader has for it."""
    return page.locator(
        f'{EXPLORER} path[aria-label*="Layer: {layer};"][aria-label*="Token: {token};"]'
    ).first


def menu(page, name):
    """A menu or a field of the explorer, by its label."""
    return page.locator(EXPLORER).get_by_label(name, exact=True)


def check_shows(page, run, split, layer, token):
    """All of the explorer is of this cell; compared with the run's files."""
    grid, answers = run.grid(split), run.answers().set_index("id")
    cell = grid.sel(layer=layer, token=token)
    numbers = page.locator(NUMBERS, has_text=f"Layer {layer}, {token}")
    numbers.filter(has_text=f"{float(cell['auroc']):.3f}, 95 %").wait_for()
    p = cell["score"].to_pandas().set_axis(grid["id"].to_numpy()).dropna()
    is_wrong = ~answers.loc[p.index, "correct"]
    # The example's scores are rounded, so its curves have areas of their own.
    page.locator(CURVES, has_text=f"AUROC {roc_auc_score(is_wrong, p):.3f}").wait_for()
    highest = p[is_wrong][p[is_wrong] == p[is_wrong].max()]
    # Any of those that share the highest, of which there may be several.
    questions = "|".join(map(re.escape, answers.loc[highest.index, "question"]))
    first = re.compile(rf"^({questions}) .*P\(error\) {highest.iloc[0]:.2f}")
    page.locator(f"{EXAMPLES} .mathjax_ignore b").first.filter(has_text=first).wait_for()


# From a click to the last change that it made.
STOPWATCH = """box => {
    box.addEventListener("pointerdown", event => { window.clicked = event.timeStamp; }, true);
    const changed = () => { window.changed = performance.now(); };
    new MutationObserver(changed).observe(box, { subtree: true, childList: true });
}"""


def test_the_interpret_notebook_is_explored(lab, page, traffic, screenshot):
    run = pk.Run(lab.root / "runs" / "example")
    open_notebook(page, lab, "04_interpret.ipynb")
    run_all_cells(page, seconds=120)
    assert failures(page) == []
    page.wait_for_selector(f"{CURVES} svg")
    explorer = page.locator(EXPLORER)
    explorer.evaluate("box => box.scrollIntoView()")
    screenshot(page, "explorer-opened")

    # With the mouse.
    explorer.evaluate(STOPWATCH)
    heatmap_cell(page, 5, "-2").click()
    check_shows(page, run, "random", 5, "-2")
    print(f"\nanswered {page.evaluate('window.changed - window.clicked'):.0f} ms after the click")
    screenshot(page, "explorer-clicked")
    menu(page, "Split").select_option("answers held out")
    check_shows(page, run, "answer", 5, "-2")
    screenshot(page, "explorer-answer-split")
    heatmap_cell(page, 12, "last_q").click()
    check_shows(page, run, "answer", 12, "last_q")
    menu(page, "Examples").select_option("false alarms")
    explorer.get_by_text("right answers, highest P(error) first").wait_for()
    menu(page, "Examples").select_option("most confidently wrong")

    # With the keys alone; none of them is a command of JupyterLab's.
    cells = page.locator(".jp-Cell").count()
    menu(page, "Split").focus()
    page.keyboard.press("ArrowUp")
    check_shows(page, run, "random", 12, "last_q")
    for _ in ("Measure", "Tokens", "Layer"):
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    check_shows(page, run, "random", 14, "last_q")
    page.keyboard.press("Tab")
    page.keyboard.type("exact_answer_l")
    check_shows(page, run, "random", 14, "exact_answer_last")
    screenshot(page, "explorer-keys")
    assert page.locator(".jp-Cell").count() == cells
    assert traffic.refused == traffic.errors == []


def test_hostile_text_is_shown_as_text(lab, page, traffic, screenshot):
    open_notebook(page, lab, "hostile.ipynb")
    run_all_cells(page, seconds=120)
    assert failures(page) == []
    page.wait_for_selector(f"{CURVES} svg")
    menu(page, "Examples").select_option("all")
    menu(page, "Search").fill("number 77 ")
    page.locator(EXAMPLES, has_text="1–1 of 1").wait_for()
    shown = page.locator(f"{EXAMPLES} .mathjax_ignore b")
    heatmap_cell(page, 1, "-1").hover()
    page.wait_for_selector("#vg-tooltip-element.visible")
    screenshot(page, "explorer-hostile")
    outputs = page.locator(".jp-OutputArea-output")
    assert HOSTILE.format("city number 77") in shown.inner_text()
    # ipywidgets gives a menu's entries spaces that don't break.
    assert FOLDER in menu(page, "Run").inner_text().replace("\N{NO-BREAK SPACE}", " ")
    view = outputs.locator(".mathjax_ignore", has_not=page.locator(EXPLORER)).last
    assert HOSTILE.format("city number") in view.inner_text()
    made = "script, [onerror], a[href^=javascript], mjx-container, .MathJax"
    assert outputs.locator(made).count() == 0
    assert page.evaluate("window.reached === undefined")
    assert traffic.refused == traffic.errors == []


def test_charts_show_themselves_alone_and_joined(lab, page, traffic, screenshot):
    open_notebook(page, lab, "charts.ipynb")
    run_all_cells(page, seconds=120)
    assert failures(page) == []
    pictures = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-OutputArea-output img")
    pictures.nth(1).wait_for()
    screenshot(page, "charts-in-lab")
    single, joined = (pictures.nth(i) for i in range(2))
    assert pictures.count() == 2
    # Shown, and not as a sign that a picture is missing.
    assert all(p.evaluate("p => p.complete && p.naturalWidth > 400") for p in (single, joined))
    assert joined.bounding_box()["width"] > single.bounding_box()["width"] + 300
    assert traffic.refused == traffic.errors == []
