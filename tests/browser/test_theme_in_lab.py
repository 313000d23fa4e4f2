"""In JupyterLab's light and dark theme all that is shown can be read, and without a kernel too."""

import re
import shutil

import nbformat
import pandas as pd
import pytest
from lab_page import NOTEBOOK, failures, open_notebook, run_all_cells, wait_until_idle
from nbconvert import HTMLExporter
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
        const both = [luminance(over(parsed(colour), page)), luminance(page)];
        return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
    };
    const found = [];
    const add = (kind, element, colour, page) => found.push({
        kind,
        where: element.textContent.trim().slice(0, 40)
            || `${element.tagName} in ${element.parentElement.getAttribute("class")}`,
        contrast: contrast(colour, page),
        page: luminance(page),
    });
    for (const element of root.querySelectorAll(".jp-OutputArea-output *")) {
        if (element.getClientRects().length === 0) continue;
        const style = getComputedStyle(element);
        if (element.ownerSVGElement) {
            const page = behind(element.ownerSVGElement);
            if (element.tagName === "text") add("chart text", element, style.fill, page);
            const lines = ".role-axis-domain line, .role-axis-tick line, .mark-line path, "
                + ".role-legend-symbol path, path.background[stroke]";
            if (element.matches(lines) && style.stroke !== "none")
                add("chart line", element, style.stroke, page);
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
heatmap = clickable_heatmap(pk.heatmap(grid, tokens=pk.TOKENS[:7]), (4, "-1"), None)
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


def ask(page):
    question = page.locator(".probekit-live").get_by_label("Question")
    question.fill("Where is Oslo?")
    question.press("Enter")
    page.locator(".probekit-result", has_text="It was <so>.").wait_for()


# What is looked at below each cell: at least so many.
SHOWN = [
    {"text": 200, "line": 50, "chart text": 50, "chart line": 50},
    {"text": 50, "line": 20},
    {"chart text": 20, "chart line": 20},
    {},
    {"text": 10, "line": 2},
]
COLUMNS = ["kind", "where", "contrast", "page"]
PICTURE = f"{NOTEBOOK} .jp-RenderedImage img:visible"
CORNER = """image => {
    const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight).getContext("2d");
    canvas.drawImage(image, 0, 0);
    return [...canvas.getImageData(2, 2, 1, 1).data];
}"""


def test_in_both_themes_all_can_be_read(lab, page, traffic, screenshot):
    """At least 4.5 for text and 3 for lines (WCAG 2.1, 1.4.3 and 1.4.11), and Lab's own colour."""
    page.set_viewport_size({"width": 1400, "height": 2000})
    open_notebook(page, lab, "themes.ipynb")
    run_all_cells(page, seconds=120)
    assert failures(page) == []
    page.wait_for_selector(f"{EXPLORER} .probekit-curves svg")
    ask(page)
    for theme in ("light", "dark", "light"):
        set_theme(page, theme)
        for i, output in enumerate(page.locator(f"{NOTEBOOK} .jp-OutputArea").all()):
            output.scroll_into_view_if_needed()
            screenshot(output, f"theme-{theme}-{i}")
            found = pd.DataFrame(output.evaluate(CONTRASTS), columns=COLUMNS)
            n = found["kind"].value_counts()
            assert all(n.get(kind, 0) >= least for kind, least in SHOWN[i].items())
            least = found["kind"].map(lambda kind: 4.5 if "text" in kind else 3)
            assert found[found["contrast"] < least].empty
            # A chart's page is Lab's.
            is_dark = found.loc[found["kind"].str.startswith("chart"), "page"] < 0.1
            assert (is_dark == (theme == "dark")).all()
        # A picture brings its own page, as on paper.
        assert page.locator(PICTURE).evaluate(CORNER) == [255, 255, 255, 255]
    assert traffic.refused == traffic.errors == []


def seen(page):
    """What can be seen below each cell: its text, and how many pictures and charts there are."""
    areas = page.locator(f"{NOTEBOOK} .jp-OutputArea").all()
    return [
        (
            area.inner_text(),
            area.locator(".jp-RenderedImage img:visible").count(),
            area.locator(".probekit-chart svg:visible").count(),
        )
        for area in areas
    ]


NOTES = [
    "These are still pictures of one grid cell. To choose another, run this notebook cell in "
    "JupyterLab.",
    "To ask the model a question, run this notebook cell in JupyterLab.",
]


NUMBER, HEADLINE = "AUROC, 95 % interval\t", "Wrong answers can be told from right ones in"


def check_is_live(page):
    """Each thing is seen once: by its widget."""
    for name in ("curves", "path"):
        page.wait_for_selector(f"{EXPLORER} .probekit-{name} svg")
    (explored, *pictures), (asked, *_) = seen(page)
    assert pictures == [0, 3]
    for once in (NUMBER, HEADLINE, "1–8 of 494"):
        assert explored.count(once) == 1
    assert asked.count("It was <so>.") == 1
    assert not any(note in explored + asked for note in NOTES)


def check_is_still(page):
    """All is there but the widgets, with no word of an error."""
    page.locator(f"{NOTEBOOK} .jp-RenderedImage img").nth(1).wait_for()
    (explored, *pictures), (asked, *_) = seen(page)
    assert pictures == [2, 0]
    assert f"Layer 17, exact_answer_first\n{NUMBER}0.856" in explored
    for once in (HEADLINE, "1–8 of 494", NOTES[0]):
        assert explored.count(once) == 1
    assert "Where is Oslo?" in asked and "It was <so>." in asked and NOTES[1] in asked
    assert not re.search("[Ee]rror disp|[Ll]oading", explored + asked)
    assert page.locator(f"{NOTEBOOK} so").count() == 0


def reopened(page, lab, path):
    page.goto(lab.url(path))
    page.wait_for_selector(f"{NOTEBOOK} .jp-CodeCell")


def test_a_saved_notebook_can_be_read_without_its_kernel(lab, page, traffic, screenshot):
    open_notebook(page, lab, "saved.ipynb")
    run_all_cells(page, seconds=120)
    ask(page)
    check_is_live(page)
    path = lab.root / "saved.ipynb"
    page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    page.wait_for_function("() => !document.querySelector('.jp-mod-dirty')")
    assert path.stat().st_size < 300_000
    notebook = nbformat.read(path, as_version=4)

    # With its kernel, the page loaded anew.
    reopened(page, lab, "saved.ipynb")
    wait_until_idle(page, seconds=60)
    check_is_live(page)

    # With another kernel; the notebook is trusted.
    page.evaluate("jupyterapp.commands.execute('kernelmenu:shutdown')")
    page.wait_for_selector('#jp-main-statusbar :text("No Kernel")')
    reopened(page, lab, "saved.ipynb")
    wait_until_idle(page, seconds=60)
    # Lab has looked for the widgets, and says that it did not find them, where nobody sees it.
    said = page.locator(f"{NOTEBOOK} .jp-OutputArea-output")
    said.filter(has_text="model not found").nth(1).wait_for(state="attached")
    check_is_still(page)
    screenshot(page, "saved-trusted")
    traffic.errors.clear()  # Lab's own, of the widgets that it did not find

    # From another machine: not trusted, so that scripts and styles are taken out.
    notebook.cells[0].source += "  # of another"
    nbformat.write(notebook, lab.root / "sent.ipynb")
    reopened(page, lab, "sent.ipynb")
    wait_until_idle(page, seconds=60)
    check_is_still(page)
    screenshot(page, "saved-sent")

    # With no kernel at all, which Lab offers if it has none for the language; trusted.
    notebook.metadata["kernelspec"] = {"name": "c", "display_name": "C", "language": "c"}
    notebook.metadata["language_info"] = {"name": "c"}
    nbformat.write(notebook, lab.root / "alone.ipynb")
    reopened(page, lab, "alone.ipynb")
    page.locator(".jp-Dialog").get_by_role("button", name="No Kernel").click()
    page.evaluate("() => { jupyterapp.commands.execute('notebook:trust'); }")
    page.locator(".jp-Dialog button.jp-mod-warn").click()
    said.filter(has_text="Loading").nth(1).wait_for(state="attached")
    check_is_still(page)
    screenshot(page, "saved-no-kernel")

    # As a web page.
    body, _ = HTMLExporter().from_notebook_node(notebook)
    file = lab.root / "page.html"
    file.write_text(body, encoding="utf-8")
    page.goto(file.as_uri())
    screenshot(page, "saved-nbconvert")
    text = page.locator("body").inner_text()
    assert all(note in text for note in NOTES) and "1–8 of 494" in text
    assert "Error disp" not in text
