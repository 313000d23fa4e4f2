"""A view of a run in JupyterLab: click a cell of the heatmap and see what is behind it.

Its widgets need no network. Where none can be answered (papermill, nbconvert, a terminal), the same
is shown as still pictures and text.
"""

import html
from collections.abc import Sequence
from functools import cache

import numpy as np
from IPython.core.getipython import get_ipython
from IPython.display import HTML, display

from probekit import arguments
from probekit.charts.files import static
from probekit.charts.heatmaps import MEASURES, point_biserial
from probekit.extraction.responses import LISTS, cell_examples, token_view
from probekit.interpretation.widgets import cell_charts, clickable_heatmap
from probekit.run.directory import Run
from probekit.tokens import FIGURE_TOKENS

#: Examples on a page of the list.
PAGE = 8

_LEGEND = (
    "<div style='margin:6px 0'>Colour and number: P(error) from the probe of that token in this "
    "layer, from <span style='background:rgba(0, 114, 178, 0.6)'>&nbsp;0&nbsp;</span> to "
    "<span style='background:rgba(213, 94, 0, 0.6)'>&nbsp;1&nbsp;</span>. Underlined only: no "
    "score.</div>"
)


def explore(run, *, split=None, measure="auroc"):
    """Explore a run: a heatmap to click, and the curves, numbers and examples behind a cell.

    Parameters
    ----------
    run : Run, path, or sequence of them
        With one, the other runs in its folder that have a grid can be chosen too.
    split : str, optional
        Shown at first; by default the run's main split.
    measure : {"auroc", "correlation"}
        Shown at first.

    Returns
    -------
    Explorer
        As the last line of a notebook cell it shows its widgets in JupyterLab, and still pictures
        of the best grid cell in an executed notebook.

    Raises
    ------
    TypeError, ValueError
        If it is no run, the split or the measure is unknown, or a file of the run is damaged.
    FileNotFoundError
        If the run has no grid yet.

    Examples
    --------
    >>> import probekit as pk
    >>> explorer = pk.explore(pk.Run("data/examples/cities"), split="answer")
    >>> explorer
    Explorer of cities, answer split: layer 15, last_q
    """
    arguments.one_of("measure", measure, MEASURES)
    if split is not None:
        arguments.text("split", split, such_as="random")
    if isinstance(run, Sequence) and not isinstance(run, str):
        runs = [each if isinstance(each, Run) else Run(each) for each in run]
        if not runs:
            raise ValueError("There is no run to explore: the list is empty.")
    else:
        first = run if isinstance(run, Run) else Run(run)
        beside = [path.parents[1] for path in first.path.parent.glob("*/manifests/probe.json")]
        runs = [first, *(Run(path) for path in sorted(beside) if path != first.path)]
    return Explorer(runs, split, measure)


class Explorer:
    """What is looked at, and how it is shown. Made by `explore`."""

    def __init__(self, runs, split, measure):
        self.runs, self.measure, self.tokens = runs, measure, FIGURE_TOKENS
        self.layer = self.token = self._widgets = None
        self._grid_of, self._answers_of = cache(Run.grid), cache(Run.answers)
        self.open(runs[0], split)

    def __repr__(self):
        where = f"layer {self.layer}, {self.token}"
        return f"Explorer of {self.run.name}, {self.split} split: {where}"

    def open(self, run, split=None):
        """Look at a run and one of its splits, by default the main one, at the same cell if any."""
        splits = run.manifest("probe")["results"].get("splits", ["random"])  # the main one first
        split = split or splits[0]
        # All is read before anything changes: what was looked at stays if this fails.
        answers, grid = self._answers_of(run), self._grid_of(run, split)
        self.run, self.splits, self.split = run, splits, split
        self.answers, self.grid = answers, grid
        self._choose_cell()

    def choose_tokens(self, tokens):
        """Show these columns; the best cell of them is chosen if the present one is not among."""
        if not set(tokens) & set(self.grid["token"].to_numpy().tolist()):
            raise ValueError(f"The grid has none of the tokens {arguments.listed(tokens)}.")
        self.tokens = tokens
        self._choose_cell()

    @property
    def shown_tokens(self):
        """Columns of the heatmap: those chosen that the grid has, or all if it has none of them."""
        have = self.grid["token"].to_numpy().tolist()
        return [token for token in self.tokens if token in have] or have

    def _choose_cell(self):
        """Stay at the cell that is looked at, or go to the best if that is not shown."""
        if self.layer in self.grid["layer"] and self.token in self.shown_tokens:
            return
        area = self.grid["auroc"].sel(token=self.shown_tokens).transpose("layer", "token")
        area = area.fillna(-1).to_numpy()
        row, column = np.unravel_index(area.argmax(), area.shape)
        self.layer, self.token = int(self.grid["layer"][row]), self.shown_tokens[column]

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
        alone = self.grid[["score", "correct"]].sel(layer=[self.layer], token=[self.token])
        value["r"] = point_biserial(alone).item()
        lines = {
            "auroc": ("AUROC", "{auroc:.3f}, 95 % from {auroc_low:.3f} to {auroc_high:.3f}"),
            "r": ("|r| of score with correctness", "{r:.3f}"),
            "p_value": ("p of this cell", "{p_value:.3g}"),
            "p_corrected": ("p corrected for all cells", "{p_corrected:.3g}"),
        }
        rows = [
            (words, form.format(**value))
            for name, (words, form) in lines.items()
            if np.isfinite(value.get(name, np.nan))
        ] or [("AUROC", "not measured")]
        scored = self._scores.notnull().to_numpy()
        n_wrong = int((scored & ~self.grid["correct"].to_numpy()).sum())
        rows.append(("answers", f"{scored.sum()}, of them {n_wrong} wrong"))
        if rounded := self.grid["score"].attrs.get("rounded"):
            rows.append(("P(error) in curves and answers", html.escape(f"rounded {rounded}")))
        style = "vertical-align:top;padding-right:12px"
        cells = "".join(f"<tr><td style='{style}'>{n}</td><td>{text}</td></tr>" for n, text in rows)
        heading = html.escape(f"Layer {self.layer}, {self.token}")
        return f"<b style='font-size:15px'>{heading}</b><table>{cells}</table>"

    def examples(self, which="most confidently wrong", search="", page=0):
        """A page of the cell's examples as HTML, and whether it is the last."""
        found = cell_examples(self.answers, self._scores, which, search)
        first, last = page * PAGE, min((page + 1) * PAGE, len(found))
        shown = token_view(
            found.iloc[first:last], self.grid["score"].sel(layer=self.layer), self.token
        )
        place = f"{first + 1}–{last} of {len(found)}" if len(found) else "None"
        heading = f"<b>{place}: {LISTS[which][2]}</b>{_LEGEND}"
        return heading + shown._repr_html_(), last == len(found)

    @property
    def widget(self):
        """The view as a widget, made when it is first asked for."""
        if self._widgets is None:
            # Imported here: who wants no widgets does not wait for their packages.
            from probekit.interpretation.widgets import Widgets

            self._widgets = Widgets(self)
        return self._widgets.box

    def _ipython_display_(self):
        shell = get_ipython()
        if getattr(shell, "kernel", None) is None:
            arguments.say(repr(self))
        elif shell.get_parent().get("content", {}).get("allow_stdin"):
            display(self.widget)
        else:
            # Nobody is there to click: papermill, nbconvert.
            display(static(self.heatmap()), HTML(self.numbers()))
            try:
                display(static(self.curves()))
            except ValueError as error:
                arguments.say(error)
            display(HTML(self.examples()[0]))
