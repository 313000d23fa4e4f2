"""Widgets: what the user chooses or asks goes to the explorer or the model, and is then shown."""

import html
from contextlib import contextmanager

import altair as alt
import anywidget
import ipywidgets
import traitlets
from IPython.core.getipython import get_ipython
from IPython.display import HTML, display

from probekit.arguments import say, visible
from probekit.charts.curves import roc, score_distribution
from probekit.charts.heatmaps import MEASURES, heatmap
from probekit.extraction.responses import LISTS, TokenView
from probekit.interpretation.observations import GROUPS
from probekit.tokens import FIGURE_TOKENS

# In JupyterLab: while the widget is there, what is still is hidden. Without the widget's model, Lab
# would show an error in its place, as text. A picture of ours is followed by a text of ours.
_ONE_OF_THEM = """<style>
.jp-OutputArea-child:has(:is(.probekit-explorer, .probekit-live)) ~ .jp-OutputArea-child:is(
    :has(.probekit-still), :has(.jp-RenderedImage):has(+ .jp-OutputArea-child .probekit-still)),
.jp-OutputArea-child:has(+ .jp-OutputArea-child .probekit-note):not(
    :has(> .jp-OutputArea-output > *)) { display: none; }
</style>"""


def show(shown, note, stills=tuple):
    """Show an object where IPython runs: a line in a terminal, else its widget and what is still.

    What is still is for those who open the saved notebook without its kernel, or where nobody can
    answer the widget (papermill, nbconvert): `note`, a sentence, then what `stills()` gives.
    Returns whether the widget is shown.
    """
    shell = get_ipython()
    if getattr(shell, "kernel", None) is None:
        say(repr(shown))
        return False
    is_answered = bool(shell.get_parent().get("content", {}).get("allow_stdin"))
    if is_answered:
        view = {"version_major": 2, "version_minor": 0, "model_id": shown.widget.model_id}
        bundle = {"application/vnd.jupyter.widget-view+json": view, "text/plain": repr(shown)}
        display(bundle, raw=True)
    style = _ONE_OF_THEM if is_answered else ""
    display(still(f"<i class='probekit-note'>{note}</i>{style}"), *stills())
    return is_answered


def still(text):
    """HTML that is hidden where the widget before it is shown."""
    return HTML(f"<div class='probekit-still'>{text}</div>")


#: Names of the heatmap's parameters: what was clicked, and the cell that is framed.
CLICKED, CHOSEN = "clicked", "chosen"


def clickable_heatmap(grid, *, measure, tokens, title, cell):
    """Draw the heatmap with one cell framed; a click on another selects its layer and token."""
    chart = heatmap(grid, measure=measure, tokens=tokens, title=title)
    cells = chart.layer[0]
    # Cleared when the pointer leaves, so that a second click on the same cell is news again.
    clicked = alt.selection_point(
        name=CLICKED, fields=["layer", "token"], toggle=False, clear="pointerout"
    )
    chosen = alt.param(name=CHOSEN, value=_chosen_value(*cell))
    base = (
        alt.Chart(cells.data)
        .encode(x=cells.encoding.x, y=cells.encoding.y, tooltip=cells.encoding.tooltip)
        .transform_filter(f"datum.layer + ' ' + datum.token === {CHOSEN}")
    )
    frames = [
        base.mark_rect(fill=None, stroke=colour, strokeWidth=width)
        for colour, width in (("white", 5), ("black", 2.5))
    ]
    chart.layer = [cells.mark_rect(cursor="pointer"), *chart.layer[1:], *frames]
    return chart.add_params(clicked, chosen)


def _chosen_value(layer, token):
    """A cell as the value of the parameter `CHOSEN`."""
    return f"{layer} {token}"


def cell_charts(score, correct):
    """Draw the ROC curve of a cell over the distribution of its scores."""
    curve = roc(score, correct).properties(width=230, height=210)
    scores = score_distribution(score, correct).properties(width=300, height=150)
    return (curve & scores).properties(title="", spacing=18)


class _Chart(alt.JupyterChart):
    """A chart in JupyterLab that loads nothing from the network and has the colours of its theme.

    The colours are a stylesheet's over the picture: the chart itself stays the one that is saved.
    """

    # Black and the darker grey are signs of a legend, which would be lost on a dark page.
    _css = """
    .probekit-chart svg { background: transparent !important; }
    .probekit-chart svg text { fill: var(--jp-ui-font-color1); }
    .probekit-chart :is(.role-axis-domain, .role-axis-tick) line,
    .probekit-chart .background[stroke] { stroke: var(--jp-ui-font-color2); }
    .probekit-chart .role-legend-symbol path:is([stroke="#000000"], [stroke="#555555"]) {
        stroke: var(--jp-ui-font-color1);
    }
    """

    def __init__(self, *args, **given):
        super().__init__(*args, **given)
        self.add_class("probekit-chart")


_OPTIONS = {"renderer": "svg", "ast": True, "actions": False}


class QuestionField(anywidget.AnyWidget):
    """A field for questions, and the answers as they arrive; `ask(question, tell)` gives them.

    One widget, not several: a question is sent whole when it is submitted, so none is half typed.
    Only the result is read out by screen readers, not every token.
    """

    answer, result = traitlets.Unicode().tag(sync=True), traitlets.Unicode().tag(sync=True)
    busy = traitlets.Bool(False).tag(sync=True)

    _esm = """
    export default { render({ model, el }) {
        el.classList.add("probekit-live");
        el.innerHTML = `<form style="display:flex;gap:6px;align-items:center;margin:4px 0">
            <label style="display:flex;flex:1;gap:6px;align-items:center">Question
            <input type="text" autocomplete="off" style="flex:1;padding:4px"></label>
            <button type="submit" style="padding:4px 12px">Ask</button></form>
            <div class="probekit-answer"></div>
            <div class="probekit-result" role="status" aria-live="polite"></div>`;
        const [form, answer, result] = el.children;
        const [input, button] = form.querySelectorAll("input, button");
        const show = () => {
            answer.innerHTML = model.get("answer");
            result.textContent = model.get("result");
            button.disabled = input.readOnly = model.get("busy");
        };
        form.addEventListener("submit", event => {
            event.preventDefault();
            if (button.disabled) return;
            button.disabled = input.readOnly = true;
            model.send(input.value);
        });
        // JupyterLab takes no key as a command while one of these has the focus.
        const mark = event => {
            if (!el.contains(event.target)) return;
            event.target.toggleAttribute(
                "data-lm-suppress-shortcuts", !(event.ctrlKey || event.metaKey));
            if (event.target === input && event.key === "Enter" && !event.isComposing) {
                event.preventDefault();  // JupyterLab keeps Enter from submitting a form
                form.requestSubmit();
            }
        };
        window.addEventListener("keydown", mark, true);
        model.on("change:answer change:result change:busy", show);
        show();
        return () => {
            window.removeEventListener("keydown", mark, true);
            model.off("change:answer change:result change:busy", show);
        };
    } };
    """

    def __init__(self, ask):
        super().__init__()
        self.ask = ask
        self.on_msg(self._asked)

    def _asked(self, _, question, buffers):
        self.busy, self.answer, self.result = True, "", ""
        try:
            answer = self.ask(question, self._show)
            self._show(answer)
            self.result = visible(answer.result)
        except Exception as error:
            # In a callback, an exception would go to a log.
            self.result = visible(error)
            if not isinstance(error, (ValueError, TypeError, OSError)):
                raise
        except KeyboardInterrupt:
            self.result = "Stopped."
        finally:
            self.busy = False

    def _show(self, answer):
        so_far = "" if answer.ended else f"<div>{html.escape(answer.result)}</div>"
        self.answer = f"{TokenView([answer.row])._repr_html_()}{_COLOURS}{so_far}"


_COLOURS = (
    "<div style='margin:6px 0'>Colour and number: P(error) from that token alone, from <span "
    "style='background:rgba(0, 114, 178, 0.6)'>&nbsp;0&nbsp;</span> to <span "
    "style='background:rgba(213, 94, 0, 0.6)'>&nbsp;1&nbsp;</span>. Grey: which named token it "
    "will be is known when the answer has ended.</div>"
)


class _OwnKeys(anywidget.AnyWidget):
    """Keeps JupyterLab from taking keys as commands while a widget beside it has the focus.

    In a list, an arrow would go to the next notebook cell and "a" would make one. Keys with Ctrl or
    Cmd stay JupyterLab's.
    """

    # The mark is on the widget itself: JupyterLab's selectors fit whatever has the focus, so a mark
    # on the box around it would be looked at too late.
    _esm = """
    export default { render({ el }) {
        const mark = event => {
            if (el.closest(".probekit-explorer")?.contains(event.target))
                event.target.toggleAttribute(
                    "data-lm-suppress-shortcuts", !(event.ctrlKey || event.metaKey));
        };
        window.addEventListener("keydown", mark, true);
        return () => window.removeEventListener("keydown", mark, true);
    } };
    """


class Widgets:
    """Widgets of an explorer: each change goes to the explorer, and is then shown."""

    def __init__(self, explorer):
        _Chart.enable_offline()
        self.explorer, self.page, self._quiet = explorer, 0, False
        self.groups = {"all of the figure": FIGURE_TOKENS, **GROUPS}
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
        self.message, self.numbers, self.examples = (ipywidgets.HTML() for _ in range(3))
        self.heatmap, self.curves = (_Chart(None, embed_options=_OPTIONS) for _ in range(2))
        self.show_grid()
        for box in (self.run, self.split, self.measure, self.group):
            box.observe(self._on_view, "value")
        for box in (self.layer, self.token):
            box.observe(self._on_cell, "value")
        for box in (self.which, self.search):
            box.observe(self._on_list, "value")
        self.back.on_click(lambda _: self.turn_to(self.page - 1))
        self.forth.on_click(lambda _: self.turn_to(self.page + 1))
        run = [self.run] if len(explorer.runs) > 1 else []
        # As wide as the curves: with the heatmap it fits beside JupyterLab's file browser.
        width = ipywidgets.Layout(width="420px")
        behind = ipywidgets.VBox([self.numbers, self.curves], layout=width)
        self.box = ipywidgets.VBox(
            [
                _OwnKeys(),
                _row(*run, self.split, self.measure, self.group),
                _row(self.layer, self.token),
                self.message,
                _row(self.heatmap, behind),
                _row(self.which, self.search, self.back, self.forth),
                self.examples,
            ]
        )
        self.box.add_class("probekit-explorer")
        for name in ("heatmap", "curves", "numbers", "examples"):
            getattr(self, name).add_class(f"probekit-{name}")

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
        setattr(self.heatmap.params, CHOSEN, _chosen_value(*cell))
        self.numbers.value = self.explorer.numbers()
        curves = None
        with self._telling():
            curves = self.explorer.curves()
        self.curves.chart = curves
        self.turn_to(0)

    def turn_to(self, page):
        """Show a page of the examples."""
        self.page = page
        self.examples.value, is_last = self.explorer.examples(
            self.which.value, self.search.value, page
        )
        self.back.disabled, self.forth.disabled = page == 0, is_last

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
        # It went wrong, so the menus go back to what is shown.
        with self._silently():
            self.run.value = self.explorer.runs.index(self.explorer.run)
            self.split.value = self.explorer.split
            shown = self.explorer.tokens
            self.group.value = next(n for n, tokens in self.groups.items() if tokens == shown)

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


def _row(*widgets):
    return ipywidgets.HBox(widgets, layout=ipywidgets.Layout(flex_flow="row wrap"))
