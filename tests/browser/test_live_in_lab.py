"""Questions typed in a real JupyterLab: answers arrive in colours, and say what predict says."""

import json
import shutil

import nbformat
import numpy as np
import pytest
import xarray as xr
from lab_page import failures, open_notebook, run_all_cells
from nbformat.v4 import new_code_cell, new_notebook

import probekit as pk
from probekit.tokens import TOKENS

pytestmark = pytest.mark.browser

# Would set window.reached, or make an element, if it were taken for more than text.
HOSTILE = "Where is <img src=x onerror='window.reached=1'> <b>Oslo</b> $x^2$?"
LIVE = ".probekit-live"

# Every state that the answer was in, as it was shown.
RECORDER = """live => {
    const answer = live.querySelector(".probekit-answer");
    window.states = [];
    const keep = () => window.states.push({
        text: answer.innerText,
        colours: [...answer.querySelectorAll("span")].map(s => s.style.background).filter(Boolean),
    });
    new MutationObserver(keep).observe(answer, { subtree: true, childList: true });
}"""


@pytest.fixture(scope="module")
def asked(tiny_model_dir, tmp_path_factory):
    """A tiny model with room for the examples of how to copy, and a detector of noise for it."""
    root = tmp_path_factory.mktemp("asked")
    folder = root / "model"
    shutil.copytree(tiny_model_dir, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1024}))
    lm, n = pk.load_model(folder), 40
    X = np.random.default_rng(0).standard_normal((n, 3, len(TOKENS), 32), dtype=np.float32)
    coords = {
        "layer": range(3),
        "token": [*TOKENS],
        "id": ("example", [f"q{i}" for i in range(n)]),
        "question": ("example", [f"Where is town {i}?" for i in range(n)]),
        "exact_answer": ("example", [f"country {i % 9}" for i in range(n)]),
        "correct": ("example", np.arange(n) % 2 == 0),
    }
    about = {"model": lm.name, "revision": lm.revision, "site": "mlp_out"}
    dims = ("example", "layer", "token", "feature")
    activations = xr.Dataset({"activation": (dims, X)}, coords, about)
    settings = {"folds": 2, "n_permutations": 0, "progress": False, "n_jobs": 1}
    grid = pk.probe_grid(activations, **settings)
    run = pk.Run(root / "run")
    files = [run.save_grids({"random": grid}), run.save_detectors({"random": pk.detector(grid)})]
    run.begin("probe", {}).finish(files, splits=["random"])
    return lm, run


@pytest.fixture(scope="module")
def lab(forked_kernels, jupyterlab, asked, tmp_path_factory):
    lm, run = asked
    root = tmp_path_factory.mktemp("live")
    source = (
        f"import probekit as pk\nlm = pk.load_model({lm.name!r})\n"
        f"pk.watch(lm, pk.Run({str(run.path)!r}).detector(), max_new_tokens=12)"
    )
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = new_notebook(cells=[new_code_cell(source)], metadata=kernel)
    nbformat.write(notebook, root / "live.ipynb")
    return jupyterlab(root)


def test_typed_questions_are_answered_in_colours(lab, asked, page, traffic, screenshot):
    lm, run = asked
    detector = run.detector()
    open_notebook(page, lab, "live.ipynb")
    run_all_cells(page, seconds=180)
    assert failures(page) == []
    field = page.locator(LIVE)
    field.evaluate(RECORDER)
    question, result = field.get_by_label("Question"), field.get_by_role("status")
    cells = page.locator(".jp-Cell").count()
    assert result.get_attribute("aria-live") == "polite"

    # With the keys alone: typed, then Enter. None of them is a command of JupyterLab's.
    question.click()
    page.keyboard.type("Where is baa dd?")
    page.keyboard.press("Enter")
    result.filter(has_text="of the whole answer").wait_for(timeout=120_000)
    expected = detector.predict(lm, ["Where is baa dd?"], max_new_tokens=12).iloc[0]
    assert f"P(error) of the whole answer: {expected['p_error']:.2f}" in result.inner_text()
    screenshot(page, "live-answered")
    states = page.evaluate("window.states")
    shown = [state for state in states if state["text"]]
    assert "provisional" in shown[0]["text"] and "provisional" not in shown[-1]["text"]
    assert len(shown) > 3  # it arrived bit by bit
    # Blue or orange where it is known which token it is, grey where it is not; none at the end.
    grey = [sum(c.startswith("rgba(128, 128, 128") for c in s["colours"]) for s in shown]
    scored = [
        sum(c.startswith(("rgba(0, 114", "rgba(213, 94")) for c in s["colours"]) for s in shown
    ]
    assert max(grey) > 3 and grey[-1] == 0
    assert scored[0] < scored[-1]
    answer = watch_text(lm, detector, "Where is baa dd?")
    for name, p in answer.row["p_error"].items():
        assert f"{name}: {p:.2f}" in shown[-1]["text"]
    assert page.locator(".jp-Cell").count() == cells

    # With the button; what is typed is text.
    question.fill(HOSTILE)
    field.get_by_role("button", name="Ask").click()
    field.locator(".probekit-answer b", has_text=HOSTILE).wait_for(timeout=120_000)
    result.filter(has_text="of the whole answer").wait_for(timeout=120_000)
    made = ".probekit-answer img, .probekit-answer b b, .probekit-answer mjx-container"
    assert page.locator(made).count() == 0
    screenshot(page, "live-hostile")

    # A mistake is a sentence, and the field can be used again.
    question.fill("   ")
    question.press("Enter")
    result.filter(has_text="question").wait_for()
    assert question.is_editable() and field.get_by_role("button", name="Ask").is_enabled()
    assert page.evaluate("window.reached === undefined")
    assert traffic.refused == traffic.errors == []


def watch_text(lm, detector, question):
    return pk.watch(lm, detector, max_new_tokens=12).ask(question)
