import base64
import copy
import json
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import altair as alt
import pytest
import vl_convert

from probekit.charts.files import FORMATS, save_chart, static
from probekit.charts.look import finished

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"


def make_chart(title="Two bars & a <title>", label="a", description="Two bars."):
    rows = [{"x": label, "y": 1}, {"x": "b", "y": 2}]
    bars = alt.Chart(alt.Data(values=rows)).mark_bar().encode(x="x:N", y="y:Q")
    return finished(bars, title, description)


def test_without_a_suffix_all_formats_are_written_and_nothing_else(tmp_path):
    paths = save_chart(make_chart(), tmp_path / "new" / "bars-1.7B")
    assert [path.name for path in paths] == [f"bars-1.7B.{form}" for form in FORMATS]
    assert sorted(paths) == sorted((tmp_path / "new").iterdir())
    contents = {path.suffix: path.read_bytes() for path in paths}
    assert json.loads(contents[".json"])["title"] == "Two bars & a <title>"
    assert contents[".png"].startswith(b"\x89PNG")
    assert contents[".pdf"].startswith(b"%PDF")
    assert contents[".svg"].startswith(b'<svg role="img" aria-label="Two bars."')
    assert b"Two bars &amp; a &lt;title&gt;" in contents[".html"]


@pytest.mark.parametrize("form", FORMATS)
def test_a_suffix_writes_that_format_only(tmp_path, form):
    path = tmp_path / f"bars.{form}"
    assert save_chart(make_chart(), str(path)) == [path]
    assert list(tmp_path.iterdir()) == [path]


def make_rich_chart():
    """A gradient in the legend, and half-transparent marks."""
    rows = [{"x": i, "y": i % 5, "z": i / 30} for i in range(30)]
    base = alt.Chart(alt.Data(values=rows)).encode(x="x:O", y="y:O")
    chart = alt.layer(base.mark_rect().encode(color="z:Q"), base.mark_rect(opacity=0.5))
    return finished(chart, "Rich", "A chart with ≥ and −.")


def test_same_chart_same_bytes(tmp_path):
    first = save_chart(make_rich_chart(), tmp_path / "first")
    save_chart(make_rich_chart(), tmp_path / "second")
    # In another process hash seeds and counters differ.
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); from test_chart_files import *;"
        "save_chart(make_rich_chart(), sys.argv[1])"
    )
    tests = Path(__file__).parent
    arguments = [sys.executable, "-c", code, str(tmp_path / "third"), str(tests)]
    subprocess.run(arguments, check=True, cwd=tests.parent)
    for path in first:
        for name in ("second", "third"):
            assert path.read_bytes() == (tmp_path / f"{name}{path.suffix}").read_bytes(), path.name


def test_page_loads_nothing_and_its_text_stays_text(tmp_path):
    chart = make_chart(title=HOSTILE, label=HOSTILE, description=HOSTILE)
    (path,) = save_chart(chart, tmp_path / "bars.html")
    page = path.read_text()
    # Two scripts, the library and the chart, both inline: the hostile text opened no third.
    assert re.findall(r"<script[^>]*>", page) == ["<script>", "<script>"]
    assert page.count("</script>") == 2
    assert "<img" not in page.partition("</head>")[2]  # the library has one, for tooltips
    assert not re.search(r"<(link|iframe|object|embed|base)\b", page)
    assert "default-src 'none'" in page
    # No CDN: the only addresses are names of formats and links in messages of the libraries.
    hosts = set(re.findall(r"https?://([\w.-]+)", page))
    assert hosts <= {"vega.github.io", "www.w3.org", "github.com"}


def test_hostile_text_is_escaped_in_the_svg(tmp_path):
    (path,) = save_chart(make_chart(HOSTILE, HOSTILE, HOSTILE), tmp_path / "bars.svg")
    assert "<script" not in path.read_text()
    assert "<img" not in path.read_text()


@pytest.mark.parametrize("form", ["png", "svg", "pdf", "html"])
def test_control_characters_are_shown_as_what_they_are(tmp_path, form):
    """In a process of its own: one of them used to end the whole process."""
    code = (
        "import sys; from test_chart_files import make_chart; from probekit import save_chart\n"
        "save_chart(make_chart('a\\x0cb', 'c\\x1bd', 'e\\ufffff'), sys.argv[1])"
    )
    target = tmp_path / f"chart.{form}"
    paths = [str(Path(__file__).parent), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", code, str(target)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
    assert done.returncode == 0, done.stderr
    if form == "svg":
        shown = target.read_text(encoding="utf-8")
        assert "a\\x0cb" in shown and "c\\x1bd" in shown and "e\\ufffff" in shown


def test_the_network_is_refused(tmp_path):
    remote = alt.Chart(alt.UrlData("http://127.0.0.1:9/rows.json")).mark_point().encode(x="x:Q")
    for form in ("svg", "png", "pdf"):
        with pytest.raises(ValueError, match=r"not allowed"):
            save_chart(remote, tmp_path / f"remote.{form}")
    assert list(tmp_path.iterdir()) == []


def test_settings_of_the_user_do_not_matter(tmp_path):
    rows = [{"x": i} for i in range(6000)]  # more than Altair's default limit
    chart = alt.Chart(alt.Data(values=rows)).mark_tick().encode(x="x:Q")
    with alt.data_transformers.enable("default", max_rows=10):
        (path,) = save_chart(chart, tmp_path / "many.json")
    assert len(json.loads(path.read_text())["data"]["values"]) == 6000


def test_picture_for_a_notebook():
    data, metadata = static(make_chart())._repr_mimebundle_()
    assert set(data) == {"image/png", "text/plain"} or set(data) == {"image/png"}
    assert metadata["image/png"]["alt"] == "Two bars."
    assert 50 < metadata["image/png"]["width"] < 400


def test_charts_show_themselves_as_a_picture():
    # Altair's own HTML would load its library from the network, and nothing without JavaScript.
    chart = make_chart()
    assert chart._repr_mimebundle_() == static(chart)._repr_mimebundle_()
    joined = chart | (chart & chart)
    data, metadata = joined._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert metadata["image/png"]["alt"] == "Two bars. Two bars. Two bars."
    with alt.renderers.enable("json"):  # chosen by the user
        assert set(chart._repr_mimebundle_()[0]) == {"application/json", "text/plain"}


def test_the_text_alternative_says_what_the_subtitle_says_once():
    bars = alt.Chart(alt.Data(values=[{"x": 1}])).mark_bar().encode(x="x:Q")
    chart = finished(bars, "Bars", "Bars of 7 cells.", ["of 7 cells", "nothing is shown"])
    assert static(chart).alt == "Bars of 7 cells. nothing is shown."
    assert static(finished(bars, "Bars", "Bars.", "n = 7")).alt == "Bars. n = 7."


def test_charts_can_be_joined_and_keep_their_look():
    rich, bars = make_rich_chart(), make_chart()
    extra = alt.Chart(alt.Data(values=[{"y": 1.5}])).mark_rule().encode(y="y:Q")
    look = bars.to_dict()["config"]
    assert look["axis"]["grid"] is False
    for joined in (rich | bars, rich & bars, bars + extra, rich + extra, rich | extra, rich | rich):
        spec = joined.to_dict()
        assert spec["config"] == look
        assert spec["background"] == "white"
        assert json.dumps(spec).count('"config"') == 1
        assert static(joined).data
    # A scale of numbers and one of names are not made one.
    assert (rich | bars).to_dict()["resolve"]["scale"]["color"] == "independent"
    assert (bars + extra).to_dict()["description"] == "Two bars."


def test_the_look_gives_way_to_the_users_and_touches_no_theme():
    chart, plain = make_chart(), alt.Chart(alt.Data(values=[])).mark_bar()
    before = alt.theme.active, alt.theme.names(), plain.to_dict()
    spec = chart.configure_axis(labelFontSize=30).properties(background="black").to_dict()
    assert (alt.theme.active, alt.theme.names(), plain.to_dict()) == before
    ours = chart.to_dict()["config"]
    assert spec["config"] == ours | {"axis": ours["axis"] | {"labelFontSize": 30}}
    assert spec["background"] == "black"
    assert chart.to_dict()["background"] == "white"  # the chart itself is as it was
    assert copy.deepcopy(chart).to_dict() == chart.to_dict()


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "bars.svg"
    path.write_text("old")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", refuse)
    with pytest.raises(ValueError, match=r"bars\.svg cannot be written: No space left"):
        save_chart(make_chart(), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_bad_input(tmp_path):
    with pytest.raises(TypeError, match=r"Expected an Altair chart, got \{\}"):
        save_chart({}, tmp_path / "a.png")
    with pytest.raises(TypeError, match=r"Expected an Altair chart, got '"):
        static("a.png")
    with pytest.raises(
        ValueError, match=r"A chart can't be saved as 'a.jpeg'. Use .json, .svg, .png"
    ):
        save_chart(make_chart(), tmp_path / "a.jpeg")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"a\.json cannot be written: .* another folder"):
        save_chart(make_chart(), tmp_path / "file" / "a.json")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def chunks(png):
    """Kind and content of each part of a PNG; their checksums must fit."""
    found, start = [], 8
    while start < len(png):
        end = start + 8 + int.from_bytes(png[start : start + 4], "big")
        kind, content = png[start + 4 : start + 8], png[start + 8 : end]
        assert zlib.crc32(kind + content) == int.from_bytes(png[end : end + 4], "big")
        found.append((kind, content))
        start = end + 4
    return found


def test_a_still_picture_is_small_and_not_a_pixel_changed():
    chart = make_rich_chart()
    ours = static(chart).data
    theirs = vl_convert.vegalite_to_png(chart.to_dict(), scale=2)
    kinds, pixels = [], []
    for png in (ours, theirs):
        assert png.startswith(b"\x89PNG\r\n\x1a\n")
        parts = chunks(png)
        kinds.append([part for part in parts if part[0] != b"IDAT"])
        pixels.append(zlib.decompress(b"".join(c for kind, c in parts if kind == b"IDAT")))
    assert kinds[0] == kinds[1] and kinds[0][-1] == (b"IEND", b"")
    assert pixels[0] == pixels[1]
    assert len(ours) < 0.6 * len(theirs)
