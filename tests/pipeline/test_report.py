"""The report: one page, in the notebooks' order, with text as text and nothing from outside."""

import base64
import html.parser

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import probekit as pk
from probekit.pipeline import notebooks
from probekit.run.directory import Run
from probekit.run.files import sha256, write_json
from probekit.run.manifest import STAGES

HOSTILE = "<script>document.title='run'</script><img src=x onerror=\"document.title='run'\"> [a](b)"
PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAoAAAAKCAIAAAACUFjqAAAAEklEQVR4nGNgYGD4jwePUumhKg0A2E5j"
    "nbhw8vQAAAAASUVORK5CYII="
)


def executed(stage, place):
    """A notebook with each kind of output; they quote a hostile response and name a place."""
    outputs = [
        new_output("stream", name="stdout", text=f"said: {HOSTILE}\nin {place}\n"),
        new_output("stream", name="stderr", text="a progress bar"),
        new_output("display_data", {"image/png": PNG, "text/plain": "chart"}),
        new_output(
            "execute_result",
            {"text/html": pd.DataFrame({"response": [HOSTILE]}).to_html(), "text/plain": "table"},
        ),
    ]
    cells = [
        new_markdown_cell(f"# The {stage} story\n\nWhat it asks."),
        new_code_cell(f"code_of_{stage}()", outputs=outputs),
    ]
    widgets = {"application/vnd.jupyter.widget-state+json": {"state": {}, "version_major": 2}}
    return new_notebook(cells=cells, metadata={"widgets": widgets})


def finished_run(path):
    """A run directory as the pipeline leaves it, with made-up notebooks."""
    run = Run(path)
    results = {
        "extract": {"n_examples": 3, "n_correct": 2, "sites": ["mlp_out", "resid_post"]},
        "interpret": {"summary": f"The best cell is layer 1. {HOSTILE}"},
    }
    parameters = {
        "extract": {"model": HOSTILE, "n_questions": 3},
        "probe": {"probe_site": "resid_post"},
    }
    for stage in STAGES:
        files = []
        if stage == "visualize":
            for name in ("heatmap", "controls"):
                (run.figures / f"{name}.png").write_bytes(base64.b64decode(PNG))
                files.append(run.figures / f"{name}.png")
        if stage == "interpret":
            claim = dict.fromkeys(["claim", "verdict", "measured", "rule", "note"], HOSTILE)
            files = [run.write_text("claims.csv", pd.DataFrame([claim]).to_csv(index=False))]
        run.begin(stage, parameters.get(stage, {})).finish(files, **results.get(stage, {}))
        nbformat.write(executed(stage, run.path), run.executed_notebook(stage))
        made = {
            "executed notebook": sha256(run.executed_notebook(stage)),
            "manifest": sha256(run.manifest_path(stage)),
        }
        write_json(run.pipeline_record(stage), made)
    return run


class Page(html.parser.HTMLParser):
    """Elements and text of a page, as a browser would find them."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.text = [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    run = finished_run(tmp_path_factory.mktemp("report") / "run")
    return Page(pk.write_report(run).read_text(encoding="utf-8"))


def test_it_tells_the_four_notebooks_in_order(page):
    places = [page.text.rindex(f"The {stage} story") for stage in STAGES]
    assert places == sorted(places)
    assert all(f"code_of_{stage}()" in page.text for stage in STAGES)
    assert "a progress bar" not in page.text


def test_the_first_screen_is_the_headline_and_two_figures_and_the_rest_is_folded(page):
    before = page.elements[: [tag for tag, _ in page.elements].index("details")]
    assert [tag for tag, _ in before].count("img") == 2
    assert page.text.index("The best cell is layer 1.") < page.text.index("The rest is folded")
    folded = [attrs for tag, attrs in page.elements if tag == "details"]
    # Each notebook and its code, the claims, and how it was made.
    assert len(folded) == 2 * len(STAGES) + 2
    assert not any("open" in attrs for attrs in folded)


def test_it_says_which_of_several_sites_was_probed(page):
    assert (
        "activations were read at mlp_out, resid_post; those at resid_post were probed."
        in page.text
    )


def test_it_does_not_say_where_on_this_machine_the_run_is(tmp_path):
    run = finished_run(tmp_path / "mine" / "run")
    shown = pk.write_report(run).read_text(encoding="utf-8")
    assert "in run" in shown
    assert str(tmp_path) not in shown


def test_a_failed_report_does_not_hide_the_figure(tmp_path, monkeypatch, capsys):
    run = finished_run(tmp_path / "run")
    monkeypatch.setattr(notebooks, "_outdated", lambda *_: None)
    monkeypatch.setattr(notebooks, "write_report", failing)
    with pytest.raises(ValueError, match="finished and kept, but no report can be made of it: no"):
        notebooks.run_pipeline(run.path, progress=False, questions="cities")
    assert "Figure:    " in capsys.readouterr().out


def failing(_):
    raise OSError("no room")


def test_text_from_elsewhere_is_text(page):
    assert "script" not in [tag for tag, _ in page.elements]
    images = [attrs for tag, attrs in page.elements if tag == "img"]
    assert len(images) == len(STAGES) + 2
    assert all(attrs["src"].startswith("data:image/png") for attrs in images)
    assert not [a for _, attrs in page.elements for a in attrs if a.startswith("on")]
    assert not [a for tag, a in page.elements if tag == "a" and a.get("href") == "b"]
    # Twice a notebook, in the summary, as the model's name (twice), in each column of the claims.
    assert page.text.count(HOSTILE) == 2 * len(STAGES) + 1 + 2 + 5


def test_nothing_is_fetched_and_no_script_may_run(page):
    policy = [a["content"] for t, a in page.elements if "http-equiv" in a and t == "meta"]
    assert len(policy) == 1
    assert policy[0].startswith("default-src 'none'")
    assert "script-src" not in policy[0]
    assert "link" not in [tag for tag, _ in page.elements]
    sources = [a[name] for _, a in page.elements for name in ("src", "href") if name in a]
    assert all(source.startswith(("data:", "#")) for source in sources)


def test_the_report_is_a_product_of_the_run_with_a_manifest(tmp_path):
    run = finished_run(tmp_path / "run")
    path = pk.write_report(run)
    assert path == run.path / "report.html"
    outputs = run.manifest("report")["outputs"]
    assert outputs["report.html"]["sha256"] == sha256(path)


def test_an_unfinished_stage_is_named(tmp_path):
    run = finished_run(tmp_path / "run")
    run.manifest_path("probe").unlink()
    with pytest.raises(FileNotFoundError, match="no finished probe stage"):
        pk.write_report(run)
    assert not (run.path / "report.html").exists()


def test_a_stage_run_by_other_means_is_named(tmp_path):
    run = finished_run(tmp_path / "run")
    run.begin("visualize", {}).finish([], again=True)
    with pytest.raises(ValueError, match="not what the run's visualize stage was last made by"):
        pk.write_report(run)


def test_a_missing_notebook_is_named(tmp_path):
    run = finished_run(tmp_path / "run")
    run.executed_notebook("extract").unlink()
    with pytest.raises(FileNotFoundError, match="01_extract"):
        pk.write_report(run)
