"""The pages of a run that a hostile script made, in a real browser: they stay, and call nobody."""

import pytest
from test_hostile_run import Listener, active, hostile_run, hostile_text

import probekit as pk

pytestmark = pytest.mark.browser

STAYS = 2000  # milliseconds; what a page does by itself it does at once or in its first second


@pytest.fixture
def listener():
    listening = Listener()
    yield listening
    listening.close()


def look_at(page, path):
    """Open a page from disk; where it has been and what it is called after some time."""
    visited = []
    page.on("framenavigated", lambda frame: visited.append(frame.url))
    # The tables of a report load nothing, so whatever comes later comes unasked.
    page.goto(path.as_uri())
    page.wait_for_timeout(STAYS)
    return visited


def test_what_a_hostile_page_does_is_noticed(page, listener, tmp_path):
    path = tmp_path / "bare.html"
    path.write_text("\n".join(active(listener.url)[:1]))
    assert len(look_at(page, path)) > 1
    path.write_text("\n".join(active(listener.url)[10:14]))
    before = len(listener.heard)
    look_at(page, path)
    assert len(listener.heard) > before


def test_the_report_stays_and_calls_nobody(page, traffic, listener, tmp_path, screenshot):
    path = pk.write_report(hostile_run(tmp_path / "run", listener.url))
    assert look_at(page, path) == [path.as_uri()]
    screenshot(page, "hostile-report")
    assert page.title() == "run: probekit report"
    assert page.evaluate("frames.length") == 0
    assert listener.heard == traffic.refused == []
    # What probekit says is not covered by what the notebooks show, when all of it is unfolded.
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    own = [f"#{place} > details > summary" for place in ("extract", "claims", "made")]
    for place in ("header h1", "main > p", *own):
        shown = page.locator(place)
        shown.scroll_into_view_if_needed()
        assert shown.evaluate(
            """element => { const box = element.getBoundingClientRect();
            return element.contains(document.elementFromPoint(box.x + 5, box.y + 5)); }"""
        )


def test_a_chart_and_the_explorer_stay_and_call_nobody(page, traffic, listener, tmp_path):
    hostile = hostile_text(listener.url).replace("/", "")
    run = hostile_run(tmp_path / hostile.replace("\0", ""), listener.url)
    explorer = pk.explore(run)
    text = "".join(active(listener.url)) + hostile_text(listener.url)
    chart = pk.heatmap(run.grid().assign_attrs(model=text, site=text), title=text)
    (path,) = pk.save_chart(chart, tmp_path / "chart.html")
    assert look_at(page, path) == [path.as_uri()]
    assert page.locator("svg").count() >= 1
    view = explorer.widget and explorer._widgets
    path = tmp_path / "explorer.html"
    shown = [part.value for part in (view.message, view.numbers, view.examples, view.about)]
    shown.append(pk.show_tokens(run)._repr_html_())
    path.write_text("<meta charset='utf-8'>" + "".join(shown), encoding="utf-8")
    assert look_at(page, path)[-1] == path.as_uri()
    assert page.locator("img, script, iframe").count() == 0
    assert listener.heard == traffic.refused == []
