"""The report from disk in a real browser: all of it is there, nothing runs, nothing is fetched."""

import pytest
from test_report import HOSTILE, STAGES, finished_run

import probekit as pk

pytestmark = pytest.mark.browser


@pytest.fixture
def report(tmp_path, page):
    path = pk.write_report(finished_run(tmp_path / "run"))
    page.goto(path.as_uri())
    return page


def test_figures_show_and_nothing_is_fetched(report, traffic, screenshot):
    screenshot(report, "report")
    images = report.locator("img")
    assert images.count() == len(STAGES)
    for i in range(images.count()):
        image = images.nth(i)
        assert image.evaluate("image => image.complete && image.naturalWidth") > 0
        assert image.is_visible()
    assert traffic.refused == traffic.errors == []


def test_hostile_text_is_shown_as_text(report):
    assert report.title() == "run: probekit report"
    assert report.locator("script").count() == 0
    assert report.locator("[onerror]").count() == 0
    assert report.get_by_text(HOSTILE).first.is_visible()


def test_code_unfolds_without_a_script(report):
    code = report.get_by_text("code_of_probe()")
    assert not code.is_visible()
    report.locator("#probe summary").click()
    assert code.is_visible()


def test_it_prints(report, tmp_path):
    report.emulate_media(media="print")
    assert not report.locator("details").first.is_visible()
    width = report.evaluate("document.documentElement.scrollWidth")
    assert width <= report.evaluate("document.documentElement.clientWidth")
    pdf = report.pdf(prefer_css_page_size=True)
    assert pdf.startswith(b"%PDF")
    # A page each for the heading, the four notebooks, the claims and how it was made.
    assert pdf.count(b"/Type /Page\n") >= 7
