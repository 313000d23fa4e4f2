"""A view of a run in JupyterLab: click a cell of the heatmap and see what is behind it.

Its widgets need no network. Where none can be answered (papermill, nbconvert, a terminal), the same
is shown as still pictures and text.
"""

import html
import textwrap
from collections.abc import Sequence
from functools import cache

import numpy as np

from probekit import arguments
from probekit.charts.files import static
from probekit.charts.heatmaps import SPLITS, answer_path, gain, heatmap, point_biserial
from probekit.extraction.responses import LISTS, TokenView, cell_examples, token_view
from probekit.interpretation.headlines import headline
from probekit.interpretation.widgets import (
    MEASURES_SHOWN,
    cell_charts,
    clickable_heatmap,
    readable,
    show,
    still,
)
from probekit.probing.baselines import gain_over_controls
from probekit.probing.comparison import difference
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
    measure : {"auroc", "correlation", "gain"}
        Shown at first. The gain is that in AUROC over all controls together.

    Returns
    -------
    Explorer
        As the last line of a notebook cell it shows its widgets in JupyterLab, and still pictures
        of a grid cell, at first the best, where the notebook is executed or read without a kernel.

    Raises
    ------
    TypeError, ValueError
        If it is no run, the split or the measure is unknown, a file of the run is damaged, or the
        gain is asked for and the run has no controls.
    FileNotFoundError
        If the run has no grid yet.

    Examples
    --------
    >>> import probekit as pk
    >>> explorer = pk.explore(pk.Run("data/examples/cities"), split="answer")
    >>> explorer
    Explorer of cities, answers held out: layer 15, last_q
    """
    arguments.one_of("measure", measure, MEASURES_SHOWN)
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
        self.layer = self.token = self.other = self._widgets = None
        self._grid_of, self._answers_of = cache(Run.grid), cache(Run.answers)
        self._headline_of, self._gains_of = cache(headline), cache(self._measure_gains)
        self._made = {}
        self.open(runs[0], split)

    def __repr__(self):
        where = f"layer {self.layer}, {self.token}"
        return arguments.visible(f"Explorer of {self._name}: {where}")

    @property
    def _name(self):
        return f"{self.run.name}, {SPLITS.get(self.split, self.split)}"

    def open(self, run, split=None, measure=None):
        """Look at a run and one of its splits, by default the main one, at the same cell if any."""
        made = run.manifest("probe")
        if self._made.setdefault(run, made) != made:
            # Probed anew since: nothing of it is as it was.
            self._made[run] = made
            for kept in (self._grid_of, self._answers_of, self._headline_of, self._gains_of):
                kept.cache_clear()
        splits = made["results"].get("splits", ["random"])  # the main one first
        split, measure = split or splits[0], measure or self.measure
        # All is read before anything changes: what was looked at stays if this fails.
        answers, grid = self._answers_of(run), self._grid_of(run, split)
        if measure == "gain":
            self._gains_of(run, split)
        self.run, self.splits, self.split, self.measure = run, splits, split, measure
        self.answers, self.grid = answers, grid
        self._choose_cell()

    def _measure_gains(self, run, split):
        """The gain over the controls at every cell; why there is none, where there is none."""
        try:
            if split == "published":
                raise ValueError(
                    "Controls are measured on folds, and this is one split only. Choose another."
                )
            return gain_over_controls(self._grid_of(run, split), run.controls(split))
        except (ValueError, OSError) as error:
            raise ValueError(
                f"The gain over the controls can't be shown for {run.name}, "
                f"{SPLITS.get(split, split)}. {error}"
            ) from error

    def choose_tokens(self, tokens):
        """Show these columns; the cell stays what it is, among them or not."""
        if not set(tokens) & set(self.grid["token"].to_numpy().tolist()):
            raise ValueError(f"The grid has none of the tokens {arguments.listed(tokens)}.")
        self.tokens = tokens

    @property
    def shown_tokens(self):
        """Columns of the heatmap: those chosen that the grid has, or all if it has none of them."""
        have = self.grid["token"].to_numpy().tolist()
        return [token for token in self.tokens if token in have] or have

    @property
    def tokens_to_choose(self):
        """Tokens of the columns, and that of the cell if it is not among them."""
        shown = self.shown_tokens
        return shown if self.token in shown else [*shown, self.token]

    @property
    def notice(self):
        """What is to be known of the cell, if anything."""
        if self.token in self.shown_tokens:
            return ""
        return (
            f"The token of this cell, {self.token}, is not among the columns shown, so the heatmap "
            "frames no cell."
        )

    @property
    def compared(self):
        """The cell that this one is compared with, or None."""
        return None if self.other == (self.layer, self.token) else self.other

    def compare(self, layer, token):
        """Compare the cell with this one, or with none if the layer is None."""
        if layer is not None:
            arguments.labels("layer", [layer], self.grid["layer"].to_numpy().tolist())
            arguments.labels("token", [token], self.grid["token"].to_numpy().tolist())
        self.other = None if layer is None else (layer, token)

    def _choose_cell(self):
        """Stay at the cell that is looked at, or go to the best if the grid has no such cell."""
        if self.other and not self._has(*self.other):
            self.other = None
        if self._has(self.layer, self.token):
            return
        area = self.grid["auroc"].sel(token=self.shown_tokens).transpose("layer", "token")
        area = area.fillna(-1).to_numpy()
        row, column = np.unravel_index(area.argmax(), area.shape)
        self.layer, self.token = int(self.grid["layer"][row]), self.shown_tokens[column]

    def _has(self, layer, token):
        return layer in self.grid["layer"] and token in self.grid["token"]

    # What is shown of it

    def headline(self):
        """The run in two sentences, as HTML; why not, if its files don't give them."""
        try:
            text = self._headline_of(self.run)
        except (ValueError, OSError) as error:
            text = f"This run can't be summed up in a headline. {error}"
        return f"<div style='font-size:15px;line-height:1.4'>{html.escape(text)}</div>"

    def heatmap(self):
        """Chart of all cells."""
        title, tokens = self._name, self.shown_tokens
        if self.measure == "gain":
            gains = self._gains_of(self.run, self.split)
            chart = gain(gains, title=title, tokens=tokens)
        else:
            chart = heatmap(self.grid, measure=self.measure, tokens=tokens, title=title)
        return clickable_heatmap(chart, (self.layer, self.token), self.compared)

    def curves(self):
        """Chart of the cell, or of the two that are compared: ROC and scores."""
        charts, problem = [], None
        for layer, token in self._cells:
            scores = self.grid["score"].sel(layer=layer, token=token)
            try:
                chart = cell_charts(scores.to_numpy(), self.grid["correct"].to_numpy())
            except ValueError as error:
                problem = error
                continue
            charts.append(chart.properties(title=_place(layer, token)) if self.compared else chart)
        if not charts:
            raise problem
        return charts[0] | charts[1] if charts[1:] else charts[0]

    @property
    def _cells(self):
        return [(self.layer, self.token), *([self.compared] if self.compared else [])]

    @property
    def _scores(self):
        return self.grid["score"].sel(layer=self.layer, token=self.token)

    def numbers(self):
        """The cell's numbers as HTML, beside them those of the cell that it is compared with."""
        columns = [self._numbers_of(*cell) for cell in self._cells]
        names = dict.fromkeys(name for column in columns for name in column)
        rows = [(name, *(column.get(name, "") for column in columns)) for name in names]
        places = [f"<b style='font-size:15px'>{html.escape(_place(*c))}</b>" for c in self._cells]
        heading, note = places[0], ""
        if self.compared:
            rows.insert(0, ("", *places))
            heading, note = "", f"<p style='margin:4px 0'>{self._difference()}</p>"
        if rounded := self.grid["score"].attrs.get("rounded"):
            about = html.escape(f"rounded {rounded}")
            note += f"<p style='margin:4px 0'>P(error) in curves and answers: {about}.</p>"
        style = "vertical-align:top;padding-right:12px"
        table = "".join(
            f"<tr>{''.join(f'<td style={style!r}>{cell}</td>' for cell in row)}</tr>"
            for row in rows
        )
        return f"<div style='line-height:1.5'>{heading}<table>{table}</table>{note}</div>"

    def _numbers_of(self, layer, token):
        """What is known of a cell: text by name."""
        cell = self.grid.drop_dims("example").sel(layer=layer, token=token)
        value = {name: float(cell[name]) for name in cell if cell[name].ndim == 0}
        alone = self.grid[["score", "correct"]].sel(layer=[layer], token=[token])
        value["r"] = point_biserial(alone).item()
        if self.measure == "gain":
            gains = self._gains_of(self.run, self.split).sel(layer=layer, token=token)
            value |= {name: float(gains[name]) for name in ("gain", "gain_low", "gain_high")}
        lines = {
            "auroc": ("AUROC", ".3f"),
            "gain": ("gain over the controls", "+.3f"),
            "r": ("|r| of score with correctness", ".3f"),
            "p_value": ("p of this cell", ".3g"),
            "p_corrected": ("p corrected for all cells", ".3g"),
        }
        found = {}
        for name, (words, form) in lines.items():
            if not np.isfinite(value.get(name, np.nan)):
                continue
            ends = [value.get(f"{name}_{end}", np.nan) for end in ("low", "high")]
            interval = f" [{ends[0]:{form}}, {ends[1]:{form}}]" if np.isfinite(ends).all() else ""
            words += ", 95 % interval" if interval else ""
            found[words] = f"{value[name]:{form}}{interval}"
        found = found or {"AUROC": "not measured"}
        scored = alone["score"].notnull().to_numpy().ravel()
        n_wrong = int((scored & ~self.grid["correct"].to_numpy()).sum())
        return found | {"answers": f"{scored.sum()}, of them {n_wrong} wrong"}

    def _difference(self):
        """The paired difference of the two cells' AUROCs, in words."""
        names = [name for name in ("score", "log_odds_without", "fold") if name in self.grid]
        # Under one name, so that they are taken for the same cell of two grids.
        one, other = (
            self.grid[names]
            .sel(layer=[layer], token=[token])
            .assign_coords(layer=[0], token=["the cell"])
            for layer, token in self._cells
        )
        found = difference(one, other).squeeze()
        value, low, high = (float(found[f"difference{end}"]) for end in ("", "_low", "_high"))
        if not np.isfinite(value):
            return "Difference in AUROC: not measured."
        return (
            f"Difference in AUROC, the first less the second: <b>{value:+.3f} [{low:+.3f}, "
            f"{high:+.3f}]</b>, paired, on the {int(found['n_a'])} answers that have both tokens. "
            "The 95 % interval is for two cells that were chosen beforehand; it is too narrow for "
            "two that were picked because they looked different."
        )

    def table(self, which="most confidently wrong", search=""):
        """Answers of a list, all of them, as a DataFrame: what the explorer saves as CSV.

        `p_error` is that of the cell that is looked at: `layer`, `token` and `split` name it.
        """
        found = cell_examples(self.answers, self._scores, which, search)
        names = ("id", "question", "response", "exact_answer", "accepted", "correct", "p_error")
        found = found[[name for name in names if name in found]].reset_index(drop=True)
        return found.assign(layer=self.layer, token=self.token, split=self.split)

    def examples(self, which="most confidently wrong", search="", page=0):
        """A page of the cell's examples as HTML, their ids, and whether it is the last."""
        found = cell_examples(self.answers, self._scores, which, search)
        first, last = page * PAGE, min((page + 1) * PAGE, len(found))
        listed = found.iloc[first:last]
        shown = token_view(listed, self.grid["score"].sel(layer=self.layer), self.token)
        place = f"{first + 1}–{last} of {len(found)}" if len(found) else "None"
        heading = f"<b>{place}: {LISTS[which][2]}</b>{_LEGEND}"
        answers = "".join(
            f"<div data-answer='{html.escape(str(id))}'>{TokenView([row])._repr_html_()}</div>"
            for id, row in zip(listed["id"], shown.rows, strict=True)
        )
        # Widgets have lines twice as high, for menus.
        shown = f"<div style='line-height:1.4'>{heading}{answers}</div>"
        return shown, listed["id"].tolist(), last == len(found)

    def path(self, id):
        """Chart of one answer's P(error) by layer and token.

        Raises
        ------
        ValueError
            If the run has no answer of this id, or the split's probes have no score of it.
        """
        answer = self._answer(id)
        at = np.flatnonzero(self.grid["id"].to_numpy().astype(str) == str(id))
        if not at.size:
            raise ValueError(
                f"{arguments.shown(id)} is not in the grid, so it has no path: the answer could "
                "not be graded, or the exact answer was not found in the response."
            )
        scores = self.grid["score"].isel(example=at[0]).reset_coords(drop=True)
        if not bool(scores.notnull().any()):
            raise ValueError(
                f"{arguments.shown(id)} has no score in this split, so it has no path: the probes "
                "were trained on it."
            )
        question = textwrap.wrap(arguments.visible(answer["question"], 300), 44)
        verdict = "right" if answer["correct"] else "wrong"
        return readable(
            answer_path(
                scores,
                title=f"Path of a {verdict} answer",
                subtitle=[*question[:3], *(["…"] if question[3:] else [])],
                tokens=self.shown_tokens,
            )
        )

    def about(self, id):
        """What is known of one answer, as HTML."""
        answer = self._answer(id)
        known = {"Question": "question", "Response": "response", "Exact answer": "exact_answer"}
        known["Accepted answers"] = "accepted"
        rows = {words: str(answer[name]) for words, name in known.items() if name in answer}
        if "Accepted answers" in rows:
            rows["Accepted answers"] = ", ".join(rows["Accepted answers"].split("|"))
        rows["Verdict"] = "right" if answer["correct"] else "wrong"
        # The class keeps JupyterLab from reading "$5 or $6" as a formula.
        return "<table class='mathjax_ignore' style='line-height:1.4'>{}</table>".format(
            "".join(
                f"<tr><td style='vertical-align:top;padding-right:12px'>{words}</td>"
                f"<td>{html.escape(text) or '–'}</td></tr>"
                for words, text in rows.items()
            )
        )

    def _answer(self, id):
        found = self.answers[self.answers["id"].astype(str) == str(id)]
        if not len(found):
            raise ValueError(f"{self.run.name} has no answer with the id {arguments.shown(id)}.")
        return found.iloc[0].to_dict()

    @property
    def widget(self):
        """The view as a widget, made when it is first asked for."""
        if self._widgets is None:
            # Imported here: who wants no widgets does not wait for their packages.
            from probekit.interpretation.widgets import Widgets

            self._widgets = Widgets(self)
        return self._widgets.box

    def _ipython_display_(self):
        note = (
            "These are still pictures of one grid cell. To choose another, run this notebook cell "
            "in JupyterLab."
        )
        show(self, note, self._stills)

    def _stills(self):
        """Pictures and texts of the chosen cell; each picture is followed by a text."""
        try:
            curves = static(self.curves())
        except ValueError as error:
            curves = still(f"<b>{html.escape(str(error))}</b>")
        examples = still(self.examples()[0])
        head = still(self.headline())
        return head, static(self.heatmap()), still(self.numbers()), curves, examples


def _place(layer, token):
    return f"Layer {layer}, {token}"
