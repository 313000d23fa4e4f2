"""A view of a run in JupyterLab: click a cell of the heatmap and see what is behind it.

Its widgets need no network. Where none can be answered (papermill, nbconvert, a terminal), the same
is shown as still pictures and text.
"""

import html
from collections.abc import Sequence
from contextlib import contextmanager

import altair as alt
import anywidget
import ipywidgets
import numpy as np
from IPython.core.getipython import get_ipython
from IPython.display import HTML, display

from probekit.chart_files import static
from probekit.charts import MEASURES, point_biserial
from probekit.examples import LISTS, cell_examples
from probekit.explorer_charts import CHOSEN, CLICKED, cell_charts, chosen_value, clickable_heatmap
from probekit.observations import GROUPS
from probekit.runs import Run
from probekit.token_view import token_view
from probekit.tokens import FIGURE_TOKENS

#: Examples on a page of the list.
PAGE = 8
_ALL = "all of the figure"
_LEGEND = (
    "<div style='margin:6px 0'>Colour and number: P(error) from the probe of that token in this "
    "layer, from <span style='background:rgba(0, 114, 178, 0.6)'>&nbsp;0&nbsp;</span> to "
    "<span style='background:rgba(213, 94, 0, 0.6)'>&nbsp;1&nbsp;</span>. Underlined only: not "
    "known.</div>"
)


def explore(run, *, split=None, measure="auroc"):
    """Explore a run: a heatmap to click, and the curves, numbers and examples behind a cell.

    Parameters
    ----------
    run : Run, path, or sequence of them
        Of one, the other runs in its folder that have a grid can be chosen too.
    split : str, optional
        Shown at first; by default the run's main split.
    measure : {"auroc", "correlation"}
        Shown at first.

    Returns
    -------
    Explorer
        As the last element of a cell, JupyterLab shows its widgets; an executed notebook a still
        picture of the best cell.

    Raises
    ------
    TypeError
        If it is no run.
    FileNotFoundError
        If the run has no grid yet.
    ValueError
        If the split or the measure is unknown, or a file of the run is damaged.
    """
    if isinstance(run, Sequence) and not isinstance(run, str):
        runs = [_as_run(each) for each in run]
        if not runs:
            raise ValueError("there is no run to explore: the sequence is empty.")
    else:
        first = _as_run(run)
        beside = [path.parents[1] for path in first.path.parent.glob("*/manifests/probe.json")]
        runs = [first, *(Run(path) for path in sorted(beside) if path != first.path)]
    if measure not in MEASURES:
        raise ValueError(f"measure={measure!r} is unknown. Use one of {', '.join(MEASURES)}.")
    return Explorer(runs, split, measure)


def _as_run(run):
    return run if isinstance(run, Run) else Run(run)


class Explorer:
    """What is looked at, and how it is shown. Made by `explore`.

    Attributes
    ----------
    run : Run
    split, measure : str
    layer : int
    token : str
        Of the cell that is chosen; read them to go on with it in code.
    """

    def __init__(self, runs, split, measure):
        self.runs, self.measure, self.tokens = runs, measure, FIGURE_TOKENS
        self._grids, self._answers, self._widgets = {}, {}, None
        self.open(runs[0], split)

    def __repr__(self):
        where = f"layer {self.layer}, {self.token}"
        return f"Explorer of {self.run.name}, {self.split} split: {where}"

    @property
    def grid(self):
        """Grid of the run and split that are looked at."""
        return self._grids[self.run.path, self.split]

    @property
    def answers(self):
        """Answers of the run that is looked at."""
        return self._answers[self.run.path]

    @property
    def splits(self):
        """Splits that the run has, the main one first."""
        return self.run.manifest("probe")["results"]["splits"]

    def open(self, run, split=None):
        """Look at a run and one of its splits, by default the main one, at the same cell if any.

        Raises
        ------
        FileNotFoundError, ValueError
            As for `explore`; what was looked at before stays.
        """
        split = split or run.manifest("probe")["results"]["splits"][0]
        if run.path not in self._answers:
            self._answers[run.path] = run.answers()
        if (run.path, split) not in self._grids:
            self._grids[run.path, split] = run.grid(split)
        self.run, self.split = run, split
        here = getattr(self, "layer", None), getattr(self, "token", None)
        if here[0] not in self.grid["layer"] or here[1] not in self.shown_tokens:
            self.layer, self.token = self._best()

    def choose_tokens(self, tokens):
        """Show these columns; the best cell of them is chosen if the present one is not among."""
        self.tokens = tokens
        if self.token not in self.shown_tokens:
            self.layer, self.token = self._best()

    @property
    def shown_tokens(self):
        """Columns of the heatmap: those chosen that the grid has."""
        have = set(self.grid["token"].to_numpy().tolist())
        return [token for token in self.tokens if token in have] or list(self.tokens)

    def _best(self):
        area = self.grid["auroc"].sel(token=self.shown_tokens).transpose("layer", "token")
        area = np.nan_to_num(area.to_numpy(), nan=-1)
        row, column = np.unravel_index(area.argmax(), area.shape)
        return int(self.grid["layer"][row]), self.shown_tokens[column]

    # What is shown of it

    def heatmap(self):
        """Chart of all cells."""
        return clickable_heatmap(
            self.grid,
            measure=self.measure,
            tokens=self.shown_tokens,
            title=f"{self.run.name}, {self.split} split",
            cell=(self.layer, self.token),
        )

    def curves(self):
        """Chart of the cell: ROC and scores."""
        return cell_charts(self._scores.to_numpy(), self.grid["correct"].to_numpy())

    @property
    def _scores(self):
        return self.grid["score"].sel(layer=self.layer, token=self.token)

    def numbers(self):
        """The cell's numbers, as HTML."""
        cell = self.grid.drop_dims("example").sel(layer=self.layer, token=self.token)
        value = {name: float(cell[name]) for name in cell if cell[name].ndim == 0}
        rows = [
            (
                "AUROC",
                "not measured"
                if np.isnan(value["auroc"])
                else "{auroc:.3f}, 95 % from {auroc_low:.3f} to {auroc_high:.3f}".format(**value),
            )
        ]
        alone = self.grid[["score", "correct"]].sel(layer=[self.layer], token=[self.token])
        rows.append(("|r| of score with correctness", f"{point_biserial(alone).item():.3f}"))
        for name, words in (("p_value", "p of this cell"), ("p_corrected", "p over all cells")):
            if np.isfinite(value.get(name, np.nan)):
                rows.append((words, f"{value[name]:.3g}"))
        scored = self._scores.notnull().to_numpy()
        n_wrong = int((scored & ~self.grid["correct"].to_numpy()).sum())
        rows.append(("answers", f"{scored.sum()}, of them {n_wrong} wrong"))
        cells = "".join(
            f"<tr><td style='padding-right:12px'>{name}</td><td>{text}</td></tr>"
            for name, text in rows
        )
        heading = html.escape(f"Layer {self.layer}, {self.token}")
        return f"<b style='font-size:15px'>{heading}</b><table>{cells}</table>"

    def examples(self, which="most confidently wrong", search="", page=0):
        """A page of the cell's examples as HTML, and how many there are on all pages."""
        found = cell_examples(self.answers, self._scores, which, search)
        part = found.iloc[page * PAGE : (page + 1) * PAGE]
        shown = token_view(part, self.grid["score"].sel(layer=self.layer), self.token)
        return shown._repr_html_() or "<p>None.</p>", len(found)

    @property
    def widget(self):
        """The view as a widget, made when it is first asked for."""
        if self._widgets is None:
            self._widgets = _Widgets(self)
        return self._widgets.box

    def _ipython_display_(self):
        shell = get_ipython()
        if getattr(shell, "kernel", None) is None:
            print(repr(self))
        elif shell.get_parent().get("content", {}).get("allow_stdin"):
            display(self.widget)
        else:
            # Nobody is there to click: papermill, nbconvert.
            self._show_still()

    def _show_still(self):
        which = "most confidently wrong"
        examples, n = self.examples(which)
        display(static(self.heatmap()), HTML(self.numbers()))
        try:
            display(static(self.curves()))
        except ValueError as error:
            print(error)
        display(HTML(f"<h4>{min(n, PAGE)} of {n}: {LISTS[which][2]}</h4>{_LEGEND}{examples}"))


class _Chart(alt.JupyterChart):
    """A chart in JupyterLab that loads nothing from the network."""


_OPTIONS = {"renderer": "svg", "ast": True, "actions": False}


class _OwnKeys(anywidget.AnyWidget):
    """Keeps JupyterLab from taking keys as commands while a widget beside it has the focus.

    In a list, an arrow would go to the next notebook cell and "a" would make one. Keys with Ctrl or
    Cmd stay JupyterLab's.
    """

    _esm = """
    export default { render({ el }) {
        const mark = event => el.closest(".probekit-explorer")?.toggleAttribute(
            "data-lm-suppress-shortcuts", !(event.ctrlKey || event.metaKey));
        window.addEventListener("keydown", mark, true);
        return () => window.removeEventListener("keydown", mark, true);
    } };
    """


class _Widgets:
    """Widgets of an explorer: each change goes to the explorer, and is then shown."""

    def __init__(self, explorer):
        _Chart.enable_offline()
        self.explorer, self.page, self._quiet = explorer, 0, False
        self.groups = {_ALL: FIGURE_TOKENS, **GROUPS}
        self.run = _menu("Run", [(r.name, i) for i, r in enumerate(explorer.runs)])
        self.split, self.layer, self.token = (_menu(n) for n in ("Split", "Layer", "Token"))
        names = {" ".join(legend): measure for measure, (legend, *_) in MEASURES.items()}
        self.measure = _menu("Measure", names.items(), value=explorer.measure)
        self.group = _menu("Tokens", self.groups)
        self.which = _menu("Examples", LISTS)
        self.search = ipywidgets.Text(
            description="Search", placeholder="in question, response, exact answer"
        )
        self.back, self.forth = (ipywidgets.Button(description=d) for d in ("Previous", "Next"))
        self.message, self.numbers, self.count, self.examples = (
            ipywidgets.HTML() for _ in range(4)
        )
        self.heatmap, self.curves = (_Chart(None, embed_options=_OPTIONS) for _ in range(2))
        self.show_grid()
        for box in (self.run, self.split, self.measure, self.group):
            box.observe(self._on_view, "value")
        for box in (self.layer, self.token):
            box.observe(self._on_cell, "value")
        for box in (self.which, self.search):
            box.observe(self._on_list, "value")
        self.back.on_click(lambda _: self.turn(-1))
        self.forth.on_click(lambda _: self.turn(+1))
        self.box = self._layout()

    def _layout(self):
        wrap = ipywidgets.Layout(flex_flow="row wrap")
        row = lambda *widgets: ipywidgets.HBox(widgets, layout=wrap)  # noqa: E731
        run = [self.run] if len(self.explorer.runs) > 1 else []
        box = ipywidgets.VBox(
            [
                _OwnKeys(),
                row(*run, self.split, self.measure, self.group),
                row(self.layer, self.token),
                self.message,
                row(self.heatmap, ipywidgets.VBox([self.numbers, self.curves])),
                row(self.which, self.search, self.back, self.forth),
                self.count,
                self.examples,
            ]
        )
        box.add_class("probekit-explorer")
        return box

    def show_grid(self):
        """Show the grid that the explorer looks at, and the cell."""
        with self._silently():
            self.split.options, self.split.value = self.explorer.splits, self.explorer.split
            self.layer.options = self.explorer.grid["layer"].to_numpy().tolist()
            self.token.options = self.explorer.shown_tokens
        self.heatmap.chart = self.explorer.heatmap()
        self.heatmap.selections.observe(self._on_click, CLICKED)
        self.show_cell()

    def show_cell(self):
        """Show the cell that the explorer has chosen."""
        cell = self.explorer.layer, self.explorer.token
        with self._silently():
            self.layer.value, self.token.value = cell
        setattr(self.heatmap.params, CHOSEN, chosen_value(*cell))
        self.numbers.value = self.explorer.numbers()
        curves = None
        with self._telling():
            curves = self.explorer.curves()
        self.curves.chart = curves
        self.turn_to(0)

    def turn_to(self, page):
        """Show a page of the examples."""
        which = self.which.value
        self.page = page
        shown, n = self.explorer.examples(which, self.search.value, page)
        first, last = page * PAGE + 1, min((page + 1) * PAGE, n)
        place = f"{first}–{last} of {n}" if n else "0"
        self.count.value = f"<b>{place}: {LISTS[which][2]}</b>{_LEGEND}"
        self.examples.value = shown
        self.back.disabled, self.forth.disabled = page == 0, last >= n

    def turn(self, by):
        """Go on by so many pages."""
        self.turn_to(self.page + by)

    def _on_view(self, change):
        if self._quiet:
            return
        with self._telling():
            self.explorer.measure = self.measure.value
            if change["owner"] is self.group:
                self.explorer.choose_tokens(self.groups[self.group.value])
            run = self.explorer.runs[self.run.value]
            # Another run has splits of its own.
            self.explorer.open(run, self.split.value if run is self.explorer.run else None)
            self.show_grid()
            return
        with self._silently():
            self.run.value = self.explorer.runs.index(self.explorer.run)
            self.split.value = self.explorer.split

    def _on_cell(self, change):
        if not self._quiet:
            self.explorer.layer, self.explorer.token = self.layer.value, self.token.value
            self.show_cell()

    def _on_click(self, change):
        for cell in change["new"].value:
            self.explorer.layer, self.explorer.token = cell["layer"], cell["token"]
            self.show_cell()

    def _on_list(self, change):
        self.turn_to(0)

    @contextmanager
    def _silently(self):
        """Set menus without taking it for the user's choice."""
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    @contextmanager
    def _telling(self):
        """Show what went wrong: in a callback, an exception would go to a log."""
        self.message.value = ""
        try:
            yield
        except (ValueError, OSError) as error:
            self.message.value = f"<b>{html.escape(str(error))}</b>"


def _menu(name, options=(), **given):
    return ipywidgets.Dropdown(description=name, options=list(options), **given)
