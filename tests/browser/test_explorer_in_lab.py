"""The explorer in a real JupyterLab: a click, another split, the keys alone, hostile text."""

import re
import shutil

import nbformat
import pandas as pd
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
LINE = f"{EXPLORER} .probekit-line"
ABOUT = f"{EXPLORER} .probekit-about"


@pytest.fixture(scope="module")
def lab(forked_kernels, jupyterlab, repository, tmp_path_factory):
    """JupyterLab over the interpret notebook of the example run, and one of hostile text."""
    root = tmp_path_factory.mktemp("explored")
    shutil.copytree(repository / "data" / "example", root / "runs" / "example")
    shutil.copy(repository / "notebooks" / "04_interpret.ipynb", root)
    set_parameters(root / "04_interpret.ipynb", run_dir=str(root / "runs" / "example"))
    shutil.copytree(repository / "data" / "examples" / "cities", root / "small")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = [new_code_cell(f"import probekit as pk\npk.explore([{str(root / 'small')!r}])")]
    nbformat.write(new_notebook(cells=cells, metadata=kernel), root / "small.ipynb")
    run = made_run(root / "hostile" / FOLDER, wrap=HOSTILE)
    opened = f"import probekit as pk\ngrid = pk.Run({str(run.path)!r}).grid()\n"
    sources = [
        f"import probekit as pk\nrun = pk.Run({str(run.path)!r})\npk.explore([run, run])",
        "pk.show_tokens(run, n=9, scores=run.grid().score.sel(layer=2))",
    ]
    cells = [new_code_cell(source) for source in sources]
    nbformat.write(new_notebook(cells=cells, metadata=kernel), root / "hostile.ipynb")
    sources = [f"{opened}pk.heatmap(grid)", "pk.heatmap(grid) | pk.by_layer(grid)"]
    cells = [new_code_cell(source) for source in sources]
    nbformat.write(new_notebook(cells=cells, metadata=kernel), root / "charts.ipynb")
    return jupyterlab(root)


def heatmap_cell(page, layer, token):
    """A cell of the heatmap, by the words that a screen reader has for it."""
    return page.locator(
        f'{EXPLORER} .probekit-heatmap path[aria-label^="Layer {layer}, {token}:"]'
    ).first


def menu(page, name):
    """A menu or a field of the explorer, by its label."""
    return page.locator(EXPLORER).get_by_label(name, exact=True)


def check_shows(page, run, split, layer, token):
    """All of the explorer is of this cell; compared with the run's files."""
    grid, answers = run.grid(split), run.answers().set_index("id")
    cell = grid.sel(layer=layer, token=token)
    numbers = page.locator(NUMBERS, has_text=f"Layer {layer}, {token}")
    numbers.filter(has_text=f"{float(cell['auroc']):.3f} [").wait_for()
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

    # Its answers are beside the heatmap, where the window has room for both, else below it.
    heatmap, examples = (page.locator(f"{EXPLORER} .probekit-{n}") for n in ("heatmap", "examples"))
    beside = [box.bounding_box() for box in (heatmap, examples)]
    assert beside[0]["x"] + beside[0]["width"] <= beside[1]["x"]
    assert beside[1]["y"] + beside[1]["height"] < beside[0]["y"] + 1.2 * beside[0]["height"]
    page.set_viewport_size({"width": 1024, "height": 1000})
    page.wait_for_function(f"""() => {{
        const [heatmap, examples] = ["heatmap", "examples"].map(name =>
            document.querySelector("{EXPLORER} .probekit-" + name).getBoundingClientRect());
        return examples.top >= heatmap.bottom;
    }}""")
    explorer.evaluate("box => box.scrollIntoView()")
    screenshot(page, "explorer-1024")
    page.set_viewport_size({"width": 1400, "height": 1000})
    assert pk.headline(run) in page.locator(f"{EXPLORER} .probekit-headline").inner_text()

    # With the mouse. A cell is read in the line, and nothing is laid over its neighbours.
    heatmap_cell(page, 5, "-2").hover()
    cell = run.grid().sel(layer=5, token="-2")
    area = "{:.3f} [{:.3f}, {:.3f}]".format(
        *(float(cell[f"auroc{e}"]) for e in ("", "_low", "_high"))
    )
    page.locator(
        LINE, has_text=f"Layer 5, -2: AUROC {area}, {cell.sizes['example']} answers"
    ).wait_for()
    assert page.locator("#vg-tooltip-element").count() == 0
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
    explorer.get_by_text("wrong answers, highest P(error) first").wait_for()
    menu(page, "Tokens").select_option("the exact answer")
    page.locator(f"{EXPLORER} .probekit-message", has_text="frames no cell").wait_for()
    check_shows(page, run, "answer", 12, "last_q")
    menu(page, "Tokens").select_option("all of the figure")

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


def test_two_cells_are_compared_a_path_followed_and_a_list_saved(lab, page, traffic, screenshot):
    run = pk.Run(lab.root / "small")
    grid, answers = run.grid(), run.answers().set_index("id")
    open_notebook(page, lab, "small.ipynb")
    run_all_cells(page, seconds=120)
    assert failures(page) == []
    page.wait_for_selector(f"{CURVES} svg")
    explorer, numbers = page.locator(EXPLORER), page.locator(NUMBERS)
    layers, tokens = grid["layer"].to_numpy().tolist(), grid["token"].to_numpy().tolist()
    at = int(menu(page, "Layer").input_value()), menu(page, "Token").input_value()
    others = [(n, t) for n in layers for t in tokens if n != at[0] and t != at[1]]

    # Compared by a click with Shift, by the menus with the keys alone, and no more.
    heatmap_cell(page, *others[0]).click(modifiers=["Shift"])
    areas = [float(grid["auroc"].sel(layer=n, token=t)) for n, t in (at, others[0])]
    numbers.filter(has_text=f"the first less the second: {areas[0] - areas[1]:+.3f}").wait_for()
    page.locator(CURVES, has_text=f"Layer {others[0][0]}, {others[0][1]}").wait_for()
    screenshot(page, "explorer-compared")
    menu(page, "Compare with layer").focus()
    page.keyboard.press("Home")
    numbers.filter(has_not_text="the first less the second").wait_for()
    page.keyboard.press("End")
    numbers.filter(has_text=f"Layer {layers[-1]}, ").wait_for()
    page.keyboard.press("Home")

    # The gain over the controls.
    menu(page, "Measure").select_option("gain in AUROC over the controls")
    gains = pk.gain_over_controls(grid, run.controls())
    value = float(gains["gain"].sel(layer=others[0][0], token=others[0][1]))
    explorer.locator(".probekit-heatmap path[aria-label*=': gain ']").first.wait_for()
    heatmap_cell(page, *others[0]).hover()
    page.locator(LINE, has_text=f"gain {value:+.3f} [").wait_for()
    screenshot(page, "explorer-gain")

    # The path of an answer, by a click in the list and by the menu.
    item = explorer.locator("[data-answer]").nth(1)
    id = item.get_attribute("data-answer")
    item.click()
    page.locator(ABOUT, has_text=answers.loc[id, "response"]).wait_for()
    assert menu(page, "Answer").input_value().startswith(f"{id}: ")
    p = grid["score"].sel(layer=layers[0], token=tokens[0])[grid["id"].to_numpy() == id].item()
    cell = f".probekit-path path[aria-label^='Layer {layers[0]}, {tokens[0]}: P(error) {p:.2f}']"
    page.locator(f"{EXPLORER} {cell}").first.wait_for()
    menu(page, "Answer").focus()
    page.keyboard.press("ArrowUp")
    first = explorer.locator("[data-answer]").first.get_attribute("data-answer")
    page.locator(ABOUT, has_text=answers.loc[first, "question"]).wait_for()
    screenshot(page, "explorer-path")

    # The list as a file, by a key.
    menu(page, "Examples").select_option("all")
    explorer.get_by_text(f"of {len(answers)}: all answers").wait_for()
    button = explorer.get_by_role("button", name="Save as CSV")
    button.focus()
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename == f"small-{at[0]}-{at[1]}-all.csv"
    saved = pd.read_csv(download.value.path(), keep_default_na=False)
    assert sorted(saved["id"]) == sorted(answers.index)
    assert saved["response"].tolist() == answers.loc[saved["id"], "response"].tolist()
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
    page.locator(LINE, has_text="Layer 1, -1: AUROC").first.wait_for()
    page.locator(f"{EXPLORER} .probekit-path svg").wait_for()
    screenshot(page, "explorer-hostile")
    outputs = page.locator(".jp-OutputArea-output")
    assert HOSTILE.format("city number 77") in shown.inner_text()
    assert HOSTILE.format("city number") in page.locator(ABOUT).inner_text()
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
