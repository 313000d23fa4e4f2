"""What a docstring of a public name shows is what comes out when it is typed.

The examples read runs that come with probekit where they are; what they write goes into a folder
that is emptied, as if it were a checkout without runs.
"""

import doctest
import inspect
import re

import pytest
from test_report import finished_run

import probekit as pk
from probekit.extraction import models
from probekit.probing.detection import Detector

CONSTANTS = ("FIGURE_TOKENS", "SITES", "TOKENS")
PUBLIC = {f"pk.{name}": getattr(pk, name) for name in pk.__all__ if name not in CONSTANTS}
READERS = ("answers", "activations", "cell", "grid", "controls", "detector", "manifest", "results")
PUBLIC |= {f"Run.{name}": getattr(pk.Run, name) for name in READERS}
PUBLIC |= {f"Detector.{name}": getattr(Detector, name) for name in ("predict", "threshold")}


def needs_model(name):
    return "load_model" in inspect.getdoc(PUBLIC[name])


def marked(name):
    return pytest.param(name, marks=[pytest.mark.model] if needs_model(name) else [])


@pytest.fixture
def checkout(tmp_path, monkeypatch, repository):
    """A folder with the shipped runs in their places, which nothing is written into."""
    (tmp_path / "data" / "runs").mkdir(parents=True)
    shipped = [repository / "data" / name for name in ("example", "examples")]
    for folder in shipped:
        (tmp_path / "data" / folder.name).symlink_to(folder)
    monkeypatch.chdir(tmp_path)

    def state():
        return {p: p.lstat().st_mtime_ns for folder in shipped for p in folder.rglob("*")}

    before = state()
    yield tmp_path
    assert state() == before


@pytest.mark.parametrize("name", [marked(name) for name in PUBLIC])
def test_an_example_gives_what_it_shows(name, checkout, request, monkeypatch):
    text = inspect.getdoc(PUBLIC[name])
    assert "Examples\n--------\n" in text, "it has no example"
    if needs_model(name):
        lm = request.getfixturevalue("smollm2")  # loaded once for all
        monkeypatch.setattr(models, "load_model", lambda name, **_: {"smollm2": lm}[name])
    if "data/runs/cities" in text:
        finished_run(checkout / "data" / "runs" / "cities")
    [test] = doctest.DocTestFinder(recurse=False).find(PUBLIC[name], name, globs={})
    assert any(example.want for example in test.examples), "nothing is shown"
    # Long lines are folded. Of a path, what is another elsewhere is left out.
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    said = []
    runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_docstring_is_laid_out_as_numpydoc_is(name):
    """Sections in their order, each underlined in its length and with a blank line before it."""
    order = ["Parameters", "Returns", "Yields", "Raises", "Warns"]
    order += ["Notes", "References", "Examples"]
    lines = inspect.getdoc(PUBLIC[name]).splitlines()
    assert lines[0].endswith("."), "the first line is a sentence"
    underlined = [i for i, line in enumerate(lines) if re.fullmatch("-{3,}", line)]
    sections = [lines[i - 1] for i in underlined]
    assert sections == [section for section in order if section in sections]
    for i in underlined:
        assert len(lines[i]) == len(lines[i - 1])
        assert lines[i - 2] == ""
