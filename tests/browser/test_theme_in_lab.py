"""In JupyterLab's light and dark theme all that is shown can be read, and without a kernel too."""

import json
import re
import shutil
import urllib.request

import nbformat
import pytest
from lab_page import NOTEBOOK, failures, open_notebook, run_all_cells, wait_until_idle
from nbformat.v4 import new_code_cell, new_notebook

pytestmark = pytest.mark.browser

EXPLORER = ".probekit-explorer"
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}

# Contrast (https://www.w3.org/TR/WCAG21/#dfn-contrast-ratio) of what is drawn, from the styles that
# the browser has computed, with what is behind it. In charts, all that is
# looked at stands on the page.
CONTRASTS = """root => {
    const parsed = text => {
        const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
        return [r, g, b, a];
    };
    const over = (top, below) => [0, 1, 2].map(i => top[3] * top[i] + (1 - top[3]) * below[i]);
    const luminance = colour => {
        const [r, g, b] = colour.map(c => c / 255)
            .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = element => {
        if (!element) return [255, 255, 255];
        const own = parsed(getComputedStyle(element).backgroundColor);
        return own[3] === 1 ? own.slice(0, 3) : over(own, behind(element.parentElement));
    };
    const contrast = (colour, page) => {
        const [a, b] = [luminance(over(parsed(colour), page)), luminance(page)].sort((x, y) => x - y);
        return (b + 0.05) / (a + 0.05);
    };
    const found = [];
    const seen = element => element.getClientRects().length > 0;
    const add = (kind, element, colour, page) =>
        found.push([kind, element.textContent.trim().slice(0, 40) || element.tagName +
            " " + element.parentElement.getAttribute("class"), contrast(colour, page), colour]);
    for (const element of root.querySelectorAll("*")) {
        if (!seen(element)) continue;
        const style = getComputedStyle(element);
        if (element.ownerSVGElement) {
            const page = behind(element.ownerSVGElement);
            if (element.tagName === "text") add("text", element, style.fill, page);
            const lines = ".role-axis-domain line, .role-axis-tick line, .mark-line path, "
                + ".role-legend-symbol path, path.background[stroke]";
            if (element.matches(lines) && style.stroke !== "none")
                add("line", element, style.stroke, page);
        } else if ([...element.childNodes].some(n => n.nodeType === 3 && n.data.trim())
                   && !element.matches("style, script, option")) {
            add("text", element, style.color, behind(element));
        } else if (element.matches("input, select, button")) {
            add("text", element, style.color, behind(element));
        }
        if (!element.ownerSVGElement && style.borderBottomStyle === "solid"
            && element.closest(".mathjax_ignore") && parsed(style.borderBottomColor)[3] > 0)
            add("line", element, style.borderBottomColor, behind(element.parentElement));
    }
    return found;
}"""


EXPLORED = "import probekit as pk\nrun = pk.Run('runs/example')\npk.explore(run)"
# All signs that a legend can have: a cell that was not measured, some no better than chance.
SIGNS = """from probekit.interpretation.widgets import _OPTIONS, _Chart, clickable_heatmap
grid = run.grid()
grid["auroc"][2, 3] = float("nan")
grid["p_corrected"][5:9, 0] = 0.5
grid["auroc_high"][9, 0], grid["auroc"][9, 0] = 0.45, 0.4
heatmap = clickable_heatmap(grid, measure="auroc", tokens=pk.TOKENS[:7], title="", cell=(4, "-1"))
_Chart(heatmap, embed_options=_OPTIONS)"""
ASKED = """from types import SimpleNamespace
from probekit.interpretation.live import LiveAnswer, Watch
row = {"question": "Where is Oslo?", "verdict": "", "exact_answer": "Norway", "chosen": None,
    "tokens": [("In", ["first_answer"]), (" Norway", ["exact_answer_first"])],
    "p_error": {"first_answer": 0.03, "exact_answer_first": 0.97}}
watch = Watch(SimpleNamespace(name="none"), None, None, None, 9)
watch.ask = lambda question, tell: LiveAnswer(row | {"question": question}, 0.4, "It was <so>.")
watch"""


@pytest.fixture(scope="module")
def lab(forked_kernels, jupyterlab, repository, tmp_path_factory):
    root = tmp_path_factory.mktemp("themes")
    shutil.copytree(repository / "data" / "example", root / "runs" / "example")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    tokens = "pk.show_tokens(run, n=3, scores=run.grid().score.sel(layer=2))"
    for name, sources in (
        ("themes", [EXPLORED, tokens, SIGNS, "pk.heatmap(run.grid())", ASKED]),
        ("saved", [EXPLORED, ASKED]),
    ):
        cells = [new_code_cell(source) for source in sources]
        nbformat.write(new_notebook(cells=cells, metadata=kernel), root / f"{name}.ipynb")
    return jupyterlab(root)


def set_theme(page, theme):
    page.evaluate(
        "theme => jupyterapp.commands.execute('apputils:change-theme', { theme })", THEMES[theme]
    )
    light = str(theme == "light").lower()
    page.wait_for_selector(f'body[data-jp-theme-light="{light}"]', state="attached")
    # The theme's stylesheet comes after its name.
    page.wait_for_function(
        """light => getComputedStyle(document.body).getPropertyValue("--jp-layout-color0").trim()
        .startsWith(light ? "w" : "#1")""",
        arg=theme == "light",
    )


def test_in_both_themes_all_can_be_read(lab, page, traffic, screenshot):
    """At least 4.5 for text and 3 for lines (WCAG 2.1, 1.4.3 and 1.4.11), and Lab's own colour."""
    page.set_viewport_size({"width": 1400, "height": 2000})
    open_notebook(page, lab, "themes.ipynb")
    run_all_cells(page, seconds=120)
    assert failures(page) == []
    page.wait_for_selector(f"{EXPLORER} .probekit-curves svg")
    question = page.locator(".probekit-live").get_by_label("Question")
    question.fill("Where is Oslo?")
    question.press("Enter")
    page.locator(".probekit-result", has_text="It was <so>.").wait_for()
    for theme in ("light", "dark", "light"):
        set_theme(page, theme)
        for i, output in enumerate(page.locator(f"{NOTEBOOK} .jp-OutputArea").all()):
            output.scroll_into_view_if_needed()
            screenshot(output, f"theme-{theme}-{i}")
            found = output.evaluate(CONTRASTS)
            print(theme, i, len(found), *sorted(found, key=lambda f: f[2])[:12], sep="\n   ")
    print(traffic.errors)
    print(page.locator(f"{NOTEBOOK} .jp-OutputArea").nth(4).evaluate("e => e.innerHTML")[:1900])
    print(page.locator(f"{NOTEBOOK} .jp-OutputArea").nth(2).evaluate("e => e.innerHTML")[-9000:])


def outputs(page):
    """Text of what can be seen below each cell, and the number of pictures."""
    areas = page.locator(f"{NOTEBOOK} .jp-OutputArea").all()
    return [(a.inner_text(), a.locator("img:visible, svg:visible").count()) for a in areas]


def reopened(page, lab, path):
    page.goto(lab.url(path))
    page.wait_for_selector(f"{NOTEBOOK} .jp-CodeCell")


def test_a_saved_notebook_can_be_read_without_its_kernel(lab, page, traffic, screenshot):
    open_notebook(page, lab, "saved.ipynb")
    run_all_cells(page, seconds=120)
    page.wait_for_selector(f"{EXPLORER} .probekit-curves svg")
    question = page.locator(".probekit-live").get_by_label("Question")
    question.fill("Where is Oslo?")
    question.press("Enter")
    page.locator(".probekit-result", has_text="It was <so>.").wait_for()
    print(outputs(page))
    page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    page.wait_for_timeout(2000)
    path = lab.root / "saved.ipynb"
    print(path.stat().st_size)
    notebook = nbformat.read(path, as_version=4)
    for o in notebook.cells[0].outputs + notebook.cells[1].outputs:
        print({k: len(json.dumps(v)) for k, v in o.data.items()}, o.metadata)
    page.evaluate("jupyterapp.commands.execute('kernelmenu:shutdown')")
    page.wait_for_timeout(1000)
    print("reloaded")
    reopened(page, lab, "saved.ipynb")
    wait_until_idle(page, seconds=60)
    page.wait_for_timeout(3000)
    print(outputs(page))
    page.set_viewport_size({"width": 1400, "height": 2000})
    screenshot(page, "saved-trusted")
    set_theme(page, "dark")
    screenshot(page, "saved-trusted-dark")
    page.wait_for_timeout(2000)
    notebook.cells[0].source += "  # from elsewhere"
    nbformat.write(notebook, lab.root / "sent.ipynb")
    reopened(page, lab, "sent.ipynb")
    wait_until_idle(page, seconds=60)
    page.wait_for_timeout(3000)
    print(outputs(page))
    screenshot(page, "saved-sent")
