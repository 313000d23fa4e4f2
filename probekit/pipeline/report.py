"""A run in one web page: its executed notebooks, one after the other, and what made it.

The page needs no other file, opens offline, and runs no script. A run may come from somebody else,
so of the HTML in its notebooks only what is on a short list reaches the page: text, tables and
pictures that are part of it. Nothing of it can lead the reader elsewhere unasked, or cover what
probekit itself says.
"""

import base64
import os
import re
import warnings
from functools import partial
from itertools import groupby
from pathlib import Path

import jinja2
import nbformat
import pandas as pd
from bleach.css_sanitizer import CSSSanitizer
from bleach.sanitizer import Cleaner

from probekit import arguments
from probekit.run.directory import Run, read_record
from probekit.run.files import reading, sha256
from probekit.run.manifest import REPORT, STAGES

TEMPLATE = Path(__file__).with_name("report.html.j2")

# nbconvert's own way to show a cell, with the code folded. What needs a script is left out, and so
# is stderr, where the progress bars are: the executed notebooks keep it.
_CELLS = """\
{%- extends "classic/base.html.j2" -%}
{%- block input_group -%}
<details class="code"><summary>Code</summary>{{ cell.source | highlight_code }}</details>
{%- endblock -%}
{%- block stream_stderr -%}{%- endblock -%}
"""

# What is shown of an output: the first that it has.
_SHOWN = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/plain"]

_TAGS = (  # noqa: SIM905
    "a abbr b blockquote br caption code col colgroup dd del details div dl dt em h1 h2 h3 h4 h5 "
    "h6 hr i img kbd li ol p pre s small span strong sub summary sup table tbody td tfoot th thead "
    "tr ul"
).split()

_ATTRIBUTES = ["alt", "border", "class", "colspan", "height", "rowspan", "scope", "style", "width"]

# Nothing that takes an element out of its place: no position, no transform, no float.
_STYLES = (  # noqa: SIM905
    "background background-color border-bottom color display font-family font-size font-weight "
    "line-height margin padding text-align vertical-align white-space"
).split()


def write_report(run):
    """Write a run's report: one web page, to be read offline, printed or sent.

    Parameters
    ----------
    run : Run
        All four notebooks executed by `run_pipeline`.

    Returns
    -------
    Path
        ``report.html`` in the run directory.

    Raises
    ------
    TypeError, FileNotFoundError
        If it is no `Run`, a stage is not finished, or its executed notebook is not there.
    ValueError
        If a stage was run again by other means, so that its executed notebook shows what the run
        no longer holds. If no page can be made of what the run holds.

    Examples
    --------
    >>> import probekit as pk
    >>> pk.write_report(pk.Run("data/runs/cities")).name
    'report.html'
    """
    arguments.instance("run", run, Run, 'such as Run("data/runs/cities")')
    inputs = [path for stage in STAGES for path in _executed(run, stage)]
    try:
        page = _page(run)
    except Exception as error:
        # The notebooks and manifests may be anybody's: what their content makes nbformat, nbconvert
        # and jinja2 raise is of many kinds, and none of them is probekit's fault.
        reason = arguments.visible(error, 1000).rstrip(".")
        raise ValueError(
            f"No page can be made of {run.path}: {type(error).__name__}: {reason}. If its "
            "notebooks or manifests are damaged, run it again in another run directory."
        ) from error
    stage = run.begin(REPORT, {}, inputs=inputs)
    path = run.write_text("report.html", page)
    stage.finish([path])
    return path


def _executed(run, stage):
    """Paths of a stage's executed notebook and of the manifest that it wrote."""
    run.manifest(stage)
    notebook, manifest = run.executed_notebook(stage), run.manifest_path(stage)
    record = run.pipeline_record(stage)
    again = "Execute it again: probekit run with the same parameters."
    if not (notebook.exists() and record.exists()):
        raise FileNotFoundError(
            f"A report is made of executed notebooks; {notebook} is none. {again}"
        )
    made = {"executed notebook": sha256(notebook), "manifest": sha256(manifest)}
    if not made.items() <= (read_record(record) or {}).items():
        raise ValueError(
            f"{notebook} is not what the run's {stage} stage was last made by, or damaged. {again}"
        )
    return notebook, manifest


def _page(run):
    from pygments.formatters import HtmlFormatter

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    manifests = [run.manifest(stage) for stage in STAGES]
    claims = run._intact("claims.csv", "interpret")
    extract, results = manifests[0]["parameters"], manifests[0]["results"]
    machine = dict(manifests[-1]["environment"])
    versions = machine.pop("versions")
    placeless = partial(_without_places, run)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        name=run.name,
        summary=manifests[-1]["results"]["summary"],
        about=(
            f"{extract['model']} was asked {extract['n_questions']} questions; "
            f"{results['n_correct']} of its {results['n_examples']} answers are right. "
            f"Its activations were read at {_read(results['sites'], manifests[1])}."
        ),
        figures=_figures(run),
        highlighting=HtmlFormatter().get_style_defs(".highlight"),
        chapters=[_chapter(run, stage) for stage in STAGES],
        claims=pd.read_csv(claims, keep_default_na=False).to_dict("records"),
        marks=_MARKS,
        stages=[
            manifest
            | {
                "files": _files(manifest),
                "parameters": {n: placeless(v) for n, v in manifest["parameters"].items()},
            }
            for manifest in manifests
        ],
        environment=machine | versions,
    )


def _read(sites, probe):
    """Where activations were read, and which of them were probed if that can be asked."""
    site = probe["parameters"].get("probe_site")
    probed = f"; those at {site} were probed" if site and len(sites) > 1 else ""
    return f"{', '.join(sites)}{probed}"


_MARKS = {"supported": "✓", "contradicted": "✗", "undecided": "?", "not testable": "–"}

# What stands on the first screen, and what it is.
_FIGURES = {
    "heatmap": "The figure: how well a probe in each cell tells wrong answers from right ones.",
    "controls": "What does so without the network, and all cells together.",
}


def _figures(run):
    """The pictures of the first screen, as far as the run has them."""
    found = []
    for name, caption in _FIGURES.items():
        if f"figures/{name}.png" in run.manifest("visualize")["outputs"]:
            path = run._intact("figures", "visualize") / f"{name}.png"
            with reading(path):
                content = base64.b64encode(path.read_bytes()).decode()
            found.append({"caption": caption, "source": f"data:image/png;base64,{content}"})
    return found


def _without_places(run, text):
    """A text without the folders of this machine, which are nobody else's concern."""
    text = str(text)
    for place in (run.path.parent, Path.cwd(), Path.home()):
        if len(place.parts) > 1:
            text = text.replace(f"{place}{os.sep}", "")
    return text


def _allowed(tag, name, value):
    """Whether an attribute may stay: no id, which links could be led to, and no address to load."""
    if tag == "img" and name == "src":
        return value.startswith("data:image/")
    if tag == "a" and name == "href":
        return value.startswith(("https://", "http://"))
    return name in _ATTRIBUTES


def _chapter(run, stage):
    """A stage's executed notebook as HTML of which nothing is active."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(raw_template=_CELLS, template_name="classic")
    exporter.display_data_priority = _SHOWN
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    exporter.exclude_anchor_links = True
    with warnings.catch_warnings():
        # Of what can't be shown; they quote it.
        warnings.simplefilter("ignore")
        notebook = nbformat.read(run.executed_notebook(stage), as_version=4)
        # The state of progress bars would come along as a script element.
        notebook.metadata = nbformat.NotebookNode()
        html, _ = exporter.from_notebook_node(notebook)
    # The whole chapter at once: whatever made it, it has no other elements, and all are closed.
    styles = CSSSanitizer(_STYLES, ())
    protocols = ["data", "http", "https"]
    cleaner = Cleaner(_TAGS, _allowed, protocols, strip=True, css_sanitizer=styles)
    # The tags go and their text stays; of a style, which pandas and xarray write, that is noise.
    html = _without_places(run, cleaner.clean(re.sub(r"<style[^<]*</style>", "", html)))
    heading = next((c.source for c in notebook.cells if c.cell_type == "markdown"), "")
    # The template escapes what is not marked as HTML.
    title = "".join(heading.splitlines()[:1]).lstrip("# ") or stage
    return {"id": stage, "title": title, "html": jinja2.utils.markupsafe.Markup(html)}


def _files(manifest):
    """What a stage read and made: kind, name, bytes and SHA-256; of a store only its size."""
    rows = [
        ("read", Path(name).name if Path(name).is_absolute() else name, "", digest)
        for name, digest in manifest["inputs"].items()
    ]
    for top, group in groupby(manifest["outputs"].items(), lambda item: Path(item[0]).parts[0]):
        records = dict(group)
        if top.endswith(".zarr"):
            size = sum(record["bytes"] for record in records.values())
            rows.append(("made", f"{top}, {len(records):,} files", f"{size:,}", ""))
        else:
            rows += [("made", n, f"{r['bytes']:,}", r["sha256"]) for n, r in records.items()]
    return rows
