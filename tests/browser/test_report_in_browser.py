"""The report from disk in a real browser: all of it is there, nothing runs, nothing is fetched."""

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_output
from test_report import HOSTILE, STAGES, finished_run

import probekit as pk
from probekit.run.directory import read_record
from probekit.run.files import sha256, write_json

pytestmark = pytest.mark.browser


@pytest.fixture
def report(tmp_path, page):
    path = pk.write_report(finished_run(tmp_path / "run"))
    page.goto(path.as_uri())
    return page


def test_figures_show_and_nothing_is_fetched(report, traffic, screenshot):
    screenshot(report, "report")
    images = report.locator("img")
    assert images.count() == len(STAGES) + 2
    assert images.nth(0).is_visible()
    assert images.nth(1).is_visible()
    for summary in report.locator("section > details > summary").all():
        summary.click()
    for i in range(images.count()):
        image = images.nth(i)
        assert image.evaluate("image => image.complete && image.naturalWidth") > 0
        assert image.is_visible()
    assert traffic.refused == traffic.errors == []


def test_hostile_text_is_shown_as_text(report):
    assert report.title() == "run: probekit report"
    assert report.locator("script").count() == 0
    assert report.locator("[onerror]").count() == 0
    assert report.get_by_text(HOSTILE).first.is_visible()  # in the headline


def test_code_unfolds_without_a_script(report):
    code = report.get_by_text("code_of_probe()")
    assert not code.is_visible()
    report.locator("#probe summary", has_text="The probe story").click()
    assert not code.is_visible()
    report.locator("#probe details.code summary").click()
    assert code.is_visible()


def test_it_prints(report, tmp_path):
    report.emulate_media(media="print")
    assert not report.locator("details.code").first.is_visible()
    assert report.get_by_text("What it asks.").first.is_visible(), "what is folded is printed"
    width = report.evaluate("document.documentElement.scrollWidth")
    assert width <= report.evaluate("document.documentElement.clientWidth")
    pdf = report.pdf(prefer_css_page_size=True)
    assert pdf.startswith(b"%PDF")
    # A page each for the heading, the four notebooks, the claims and how it was made.
    assert pdf.count(b"/Type /Page\n") >= 7


@pytest.mark.parametrize("width", [390, 1024, 1440, 690])
def test_it_fits_any_screen_and_paper(width, tmp_path, page):
    """No sideways scrolling, and no column is narrower than its longest word; 690 is A4."""
    run = finished_run(tmp_path / "run")
    words = "a statement with exact_answer_before_first and 0.82 [0.74, 0.89] in layers 13-16 " * 4
    claim = dict.fromkeys(["claim", "measured", "rule", "note"], words)
    claims = pd.DataFrame([claim | {"verdict": "contradicted"}] * 3)
    run.begin("interpret", {}).finish(
        [run.write_text("claims.csv", claims.to_csv(index=False))], summary="Nothing is shown."
    )
    key = read_record(run.pipeline_record("interpret"))
    key["manifest"] = sha256(run.manifest_path("interpret"))
    write_json(run.pipeline_record("interpret"), key)
    # As notebook 03 shows: a column for each token of the figure.
    wide = pd.DataFrame(0.81, index=range(30), columns=pk.FIGURE_TOKENS)
    notebook = nbformat.read(run.executed_notebook("visualize"), as_version=4)
    notebook.cells[1].outputs.append(new_output("display_data", {"text/html": wide.to_html()}))
    nbformat.write(notebook, run.executed_notebook("visualize"))
    key = read_record(run.pipeline_record("visualize"))
    key["executed notebook"] = sha256(run.executed_notebook("visualize"))
    write_json(run.pipeline_record("visualize"), key)
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(pk.write_report(run).as_uri())
    if width == 690:
        page.emulate_media(media="print")
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    cut = """() => [...document.querySelectorAll('#claims td')].filter(cell =>
        cell.scrollWidth > cell.clientWidth + 1 || cell.clientWidth < 60).length"""
    assert page.evaluate(cut) == 0
    assert page.get_by_text("✗ contradicted").first.is_visible()
