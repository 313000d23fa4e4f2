"""Widgets: what the user chooses or asks goes to the explorer or the model, and is then shown."""

import html
import re
from contextlib import contextmanager

import altair as alt
import anywidget
import ipywidgets
import traitlets
from IPython.core.getipython import get_ipython
from IPython.display import HTML, display

from probekit.arguments import say, visible
from probekit.charts.curves import roc, score_distribution
from probekit.charts.heatmaps import MEASURES, SPLITS
from probekit.charts.look import FAINT
from probekit.extraction.responses import LISTS, TokenView
from probekit.interpretation.observations import GROUPS
from probekit.tokens import FIGURE_TOKENS

#: The measures of an explorer's heatmap, in words.
MEASURES_SHOWN = {name: " ".join(legend) for name, (legend, *_) in MEASURES.items()}
MEASURES_SHOWN["gain"] = "gain in AUROC over the controls"

#: Names of the heatmap's parameters: what was clicked, alone and with Shift, and what is framed.
CLICKED, COMPARED, CHOSEN, OTHER = "clicked", "compared", "chosen", "other"

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


def clickable_heatmap(chart, cell, compared):
    """Frame a cell of a heatmap, and in dashes the one that it is compared with, if any.

    A click on another selects its layer and token, one with Shift that of the cell to compare with.
    """
    chart = readable(chart)
    cells = chart.layer[0]
    # Cleared when the pointer leaves, so that a second click on the same cell is news again.
    clicks = [
        alt.selection_point(
            name=name, fields=["layer", "token"], toggle=False, clear="pointerout", on=on
        )
        for name, on in ((CLICKED, "click[!event.shiftKey]"), (COMPARED, "click[event.shiftKey]"))
    ]
    base = alt.Chart(cells.data).encode(x=cells.encoding.x, y=cells.encoding.y)
    frames = [
        base.transform_filter(f"datum.layer + ' ' + datum.token === {name}").mark_rect(
            fill=None, stroke=colour, strokeWidth=width, strokeDash=dash, aria=False
        )
        for name, dash in ((OTHER, [3, 2]), (CHOSEN, [1, 0]))
        for colour, width, dash in (("white", 5, [1, 0]), ("black", 2.5, dash))
    ]
    chart.layer = [cells.mark_rect(cursor="pointer"), *chart.layer[1:], *frames]
    framed = ((CHOSEN, cell), (OTHER, compared))
    return chart.add_params(
        *clicks, *(alt.param(name=name, value=framed_value(at)) for name, at in framed)
    )


def framed_value(cell):
    """A cell, or None, as the value of the parameters `CHOSEN` and `OTHER`."""
    return f"{cell[0]} {cell[1]}" if cell else ""


def readable(chart):
    """Give each cell of a heatmap its numbers as words, in place of a tooltip on other cells.

    The words are what a screen reader says of the cell, and what the line over the heatmap shows of
    the cell under the pointer.
    """
    chart = chart.copy(deep=False)
    layers = []
    for layer in chart.layer:
        if isinstance(layer.encoding.tooltip, list):
            # Altair has moved the records to the chart where all of its layers share them.
            data = chart.data if layer.data is alt.Undefined else layer.data
            rows = [row | {"words": in_words(row)} for row in data.values]
            layer = layer.properties(data=alt.Data(values=rows)).encode(description="words:N")
            layer.encoding.tooltip = alt.Undefined
        layers.append(_fitted(layer))
    chart.layer, chart.data = layers, alt.Undefined
    return chart


def _fitted(layer):
    """A layer with legends that leave room for what stands beside the heatmap."""
    # By items: a channel's attribute of the same name would set the legend.
    encoding = layer.encoding
    for channel in (encoding.shape, encoding.stroke):
        if isinstance(channel, alt.SchemaBase) and isinstance(channel["legend"], alt.Legend):
            channel["legend"]["orient"] = "bottom"
            channel["legend"]["direction"] = "vertical"
    colour = encoding.color
    if isinstance(colour, alt.Color) and colour["scale"]["scheme"] != "blues":
        # Gradients have the same names in each chart of a page, so that a browser would fill the
        # legend of the second with the colours of the first.
        squares = {"type": "symbol", "symbolType": "square", "symbolSize": 250}
        edges = {"symbolStrokeWidth": 0.5, "symbolStrokeColor": FAINT}
        for name, value in (squares | edges).items():
            colour["legend"][name] = value
    return layer


def in_words(row):
    """A cell's record in one line: its place, its measure with the interval, its answers."""
    text = f"Layer {row['layer']}, {row['token']}: "
    for name, (words, form) in _VALUES.items():
        value, low, high = (row.get(name + end) for end in ("", "_low", "_high"))
        if value is not None:
            text += f"{words} {value:{form}}"
            text += "" if None in (low, high) else f" [{low:{form}}, {high:{form}}]"
            break
    else:
        return f"{text}{row.get('state', 'not measured')}."
    if row.get("n_examples") is not None:
        text += f", {row['n_examples']:.0f} answers"
    if row.get("p_corrected") is not None and "gain" not in row:
        text += f", corrected p {row['p_corrected']:.2g}"
    return f"{text} ({row['state']})." if "state" in row else f"{text}."


# What a record can be of, in the order in which it is looked for: its name, its number's form.
_VALUES = {
    "gain": ("gain", "+.3f"),
    "correlation": ("|r|", ".3f"),
    "p_error": ("P(error)", ".2f"),
    "auroc": ("AUROC", ".3f"),
}


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


class _InBrowser(anywidget.AnyWidget):
    """What an explorer does in the browser alone.

    JupyterLab takes no key as a command while a widget beside it has the focus: in a list, an arrow
    would go to the next notebook cell and "a" would make one. Keys with Ctrl or Cmd stay
    JupyterLab's. The line over a heatmap says what its cell under the pointer is. A click on an
    answer of the list sends its id, and a file that is sent here is downloaded.
    """

    # The mark is on the widget itself: JupyterLab's selectors fit whatever has the focus, so a mark
    # on the box around it would be looked at too late.
    _esm = """
    export default { initialize({ model }) {
        model.on("msg:custom", ({ name, text }) => {
            const link = document.createElement("a");
            link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
            link.download = name;
            link.click();
            setTimeout(() => URL.revokeObjectURL(link.href), 60000);
        });
    }, render({ model, el }) {
        const explorer = () => el.closest(".probekit-explorer");
        const mark = event => {
            if (explorer()?.contains(event.target))
                event.target.toggleAttribute(
                    "data-lm-suppress-shortcuts", !(event.ctrlKey || event.metaKey));
        };
        const read = ({ target }) => {
            const here = explorer()?.contains(target) && target.closest(".probekit-read");
            const words = target.closest?.("[aria-label^='Layer ']")?.ariaLabel;
            for (const line of explorer()?.querySelectorAll(".probekit-line") ?? [])
                line.textContent = (here && here.contains(line) && words) || line.dataset.hint;
        };
        const choose = event => {
            const answer = event.target.closest("[data-answer]");
            // Who marks text to copy it chooses nothing.
            if (explorer()?.contains(answer) && getSelection().isCollapsed)
                model.send(answer.dataset.answer);
        };
        window.addEventListener("keydown", mark, true);
        window.addEventListener("click", choose);
        window.addEventListener("pointerover", read);
        return () => {
            window.removeEventListener("keydown", mark, true);
            window.removeEventListener("click", choose);
            window.removeEventListener("pointerover", read);
        };
    } };
    """
    _css = ".probekit-explorer [data-answer] { cursor: pointer; }"


class Widgets:
    """Widgets of an explorer: each change goes to the explorer, and is then shown."""

    def __init__(self, explorer):
        _Chart.enable_offline()
        self.explorer, self.page, self._quiet = explorer, 0, False
        names = [r.name for r in explorer.runs]
        # Of two runs of one name, where they are says which is which.
        labels = [
            n if names.count(n) == 1 else str(r.path)
            for n, r in zip(names, explorer.runs, strict=True)
        ]
        self.run = _menu("Run", list(zip(labels, range(len(labels)), strict=True)))
        self.split, self.layer, self.token = (_menu(n) for n in ("Split", "Layer", "Token"))
        self.other_layer, self.other_token = (
            _menu(f"Compare with {name}") for name in ("layer", "token")
        )
        measures = [(words, name) for name, words in MEASURES_SHOWN.items()]
        self.measure = _menu("Measure", measures, value=explorer.measure)
        self.group = _menu("Tokens")
        self.which = _menu("Examples", LISTS)
        self.search = ipywidgets.Text(
            description="Search",
            placeholder="in question, response, exact answer",
            style={"description_width": "initial"},
        )
        self.back, self.forth, self.save = (
            ipywidgets.Button(description=name, layout=ipywidgets.Layout(width="auto"))
            for name in ("Previous", "Next", "Save as CSV")
        )
        self.save.tooltip = "Every answer of this list, on all pages"
        self.answer = _menu("Answer", layout=ipywidgets.Layout(width="100%"))
        self.headline, self.message, self.numbers, self.saved, self.examples, self.about = (
            ipywidgets.HTML() for _ in range(6)
        )
        # As high as the heatmap beside it; the rest of the page is scrolled to.
        self.examples.layout = ipywidgets.Layout(max_height="430px", overflow="auto")
        self.heatmap, self.curves, self.path = (
            _Chart(None, embed_options=_OPTIONS) for _ in range(3)
        )
        self.curves.layout = ipywidgets.Layout(max_width="100%", overflow="auto hidden")
        self.browser = _InBrowser()
        self.show_grid()
        for box in (self.run, self.split, self.measure, self.group):
            box.observe(self._on_view, "value")
        for box in (self.layer, self.token):
            box.observe(self._on_cell, "value")
        for box in (self.other_layer, self.other_token):
            box.observe(self._on_other, "value")
        for box in (self.which, self.search):
            box.observe(self._on_list, "value")
        self.answer.observe(self._on_answer, "value")
        # A second click may be on its way when the first has shown the last page.
        self.back.on_click(lambda button: button.disabled or self.turn_to(self.page - 1))
        self.forth.on_click(lambda button: button.disabled or self.turn_to(self.page + 1))
        self.save.on_click(self._on_save)
        self.browser.on_msg(self._on_answer_clicked)
        run = [self.run] if len(explorer.runs) > 1 else []
        beside = ipywidgets.VBox(
            [
                self.numbers,
                _row(self.which, self.search),
                _row(self.back, self.forth, self.save),
                self.saved,
                self.examples,
            ],
            layout=ipywidgets.Layout(flex="1 1 340px", min_width="0"),
        )
        way = ipywidgets.VBox(
            [self.answer, self.about, _read(self.path, "Point at a cell to read it.")],
            layout=ipywidgets.Layout(flex="1 1 420px", max_width="560px"),
        )
        hint = "Point at a cell to read it, click to open it, Shift and click to compare with it."
        self.box = ipywidgets.VBox(
            [
                self.browser,
                self.headline,
                _row(*run, self.split, self.measure, self.group),
                _row(self.layer, self.token, self.other_layer, self.other_token),
                self.message,
                _row(_read(self.heatmap, hint), beside),
                _row(way, self.curves),
            ]
        )
        self.box.add_class("probekit-explorer")
        for name in _CLASSES:
            getattr(self, name).add_class(f"probekit-{name}")

    def show_grid(self):
        """Show the grid that the explorer looks at, and the cell."""
        explorer = self.explorer
        with self._silently():
            splits = [(SPLITS.get(s, s), s) for s in explorer.splits]
            _offer(self.split, splits, explorer.split)
            self._show_group()
        self.headline.value = explorer.headline()
        self.heatmap.chart = explorer.heatmap()
        self.heatmap.selections.observe(self._on_click, CLICKED)
        self.heatmap.selections.observe(self._on_click, COMPARED)
        self.show_cell()
        self.show_path()  # the same answer may be in another run, or have other scores

    def show_cell(self):
        """Show the cell that the explorer has chosen, and its answers."""
        self.show_numbers()
        self.turn_to(0)

    def show_numbers(self):
        """Show the cell's numbers and curves, beside those of the cell it is compared with."""
        explorer = self.explorer
        with self._silently():
            layers, tokens = (
                explorer.grid[name].to_numpy().tolist() for name in ("layer", "token")
            )
            _offer(self.layer, layers, explorer.layer)
            _offer(self.token, explorer.tokens_to_choose, explorer.token)
            layer, token = explorer.other or ("", explorer.token)
            _offer(self.other_layer, [("no cell", ""), *((str(n), n) for n in layers)], layer)
            _offer(self.other_token, tokens, token)
            self.other_token.disabled = explorer.other is None
        setattr(self.heatmap.params, CHOSEN, framed_value((explorer.layer, explorer.token)))
        setattr(self.heatmap.params, OTHER, framed_value(explorer.compared))
        self.numbers.value = explorer.numbers()
        curves = None
        with self._telling():
            curves = explorer.curves()
        self.curves.chart = curves
        if notice := explorer.notice:
            self.message.value += f"<div>{html.escape(notice)}</div>"

    def turn_to(self, page):
        """Show a page of the examples."""
        self.page, self.saved.value = page, ""
        self.examples.value, self.listed, is_last = self.explorer.examples(
            self.which.value, self.search.value, page
        )
        self.back.disabled, self.forth.disabled = page == 0, is_last
        chosen = self.answer.value
        self._offer_answers(chosen)
        if self.answer.value != chosen:
            self.show_path()

    def _offer_answers(self, chosen):
        """Offer the answers on the page for their path; the one that is shown stays."""
        questions = self.explorer.answers.set_index("id")["question"]
        ids = self.listed if chosen in self.listed else [chosen, *self.listed]
        ids = [id for id in ids if id in questions.index]
        with self._silently():
            options = [(f"{id}: {visible(questions[id], 70)}", id) for id in ids]
            _offer(self.answer, options, chosen if chosen in ids else next(iter(ids), None))

    def show_path(self):
        """Show the path of the chosen answer through the layers."""
        id, path = self.answer.value, None
        self.about.value = "" if id is None else self.explorer.about(id)
        try:
            path = None if id is None else self.explorer.path(id)
        except ValueError as error:
            self.about.value += f"<b>{html.escape(str(error))}</b>"
        self.path.chart = path

    def _on_view(self, change):
        if self._quiet:
            return
        with self._telling():
            if change["owner"] is self.group:
                self.explorer.choose_tokens(self.groups[self.group.value])
            if self.measure.value == "gain":
                self.message.value = "Measuring the gain over the controls ..."
            run = self.explorer.runs[self.run.value]
            # Another run has splits of its own.
            split = self.split.value if run is self.explorer.run else None
            self.explorer.open(run, split, self.measure.value)
            self.show_grid()
            return
        # It went wrong, so the menus go back to what is shown.
        with self._silently():
            self.run.value = self.explorer.runs.index(self.explorer.run)
            self.split.value, self.measure.value = self.explorer.split, self.explorer.measure
            self._show_group()

    def _show_group(self):
        """Show which columns are chosen: those of a group, or others that a program chose."""
        shown = self.explorer.tokens
        groups = {"all of the figure": FIGURE_TOKENS, **GROUPS}
        name = next((n for n, tokens in groups.items() if tokens == shown), "others")
        self.groups = groups | {name: shown}
        _offer(self.group, self.groups, name)

    def _on_cell(self, change):
        if not self._quiet:
            self.explorer.layer, self.explorer.token = self.layer.value, self.token.value
            self.show_cell()

    def _on_other(self, change):
        if not self._quiet:
            layer = self.other_layer.value
            self.explorer.compare(None if layer == "" else layer, self.other_token.value)
            self.show_numbers()

    def _on_click(self, change):
        for cell in change["new"].value:
            at = cell["layer"], cell["token"]
            if change["name"] == COMPARED:
                # A second time on the same cell, it is compared no more.
                self.explorer.compare(*((None, None) if at == self.explorer.other else at))
                self.show_numbers()
            else:
                self.explorer.layer, self.explorer.token = at
                self.show_cell()

    def _on_list(self, change):
        self.turn_to(0)

    def _on_answer(self, change):
        if not self._quiet:
            self.show_path()

    def _on_answer_clicked(self, _, id, buffers):
        if id in self.listed:
            self._offer_answers(id)
            self.show_path()

    def _on_save(self, _):
        explorer = self.explorer
        table = explorer.table(self.which.value, self.search.value)
        parts = (explorer.run.name, explorer.layer, explorer.token, self.which.value)
        name = re.sub(r"[^\w.-]+", "-", "-".join(map(str, parts))) + ".csv"
        self.browser.send({"name": name, "text": table.to_csv(index=False)})
        text = f"{len(table)} answers are sent to the browser, which saves them as {name}."
        self.saved.value = html.escape(text)

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


# Parts of an explorer that have a class of their own in the page.
_CLASSES = ("headline", "message", "heatmap", "numbers", "examples", "about", "path", "curves")


def _offer(menu, options, value):
    """Show these options in a menu, and that this one is chosen."""
    # The same options sent anew would choose the first, which the browser may tell the kernel of.
    if menu.options != tuple(options):
        menu.options = list(options)
    menu.value = value


def _menu(name, options=(), **given):
    style = {"description_width": "initial"}
    given = {"layout": ipywidgets.Layout(width="auto", margin="2px 14px 2px 2px"), **given}
    return ipywidgets.Dropdown(description=name, options=list(options), style=style, **given)


def _read(chart, hint):
    """A heatmap under the line that says what its cell under the pointer is."""
    # Two lines high and as wide as the chart, so that nothing moves while cells are read.
    line = ipywidgets.HTML(
        f"<div class='probekit-line' data-hint='{hint}' style='line-height:1.5'>{hint}</div>",
        layout=ipywidgets.Layout(width="0", min_width="100%", min_height="42px"),
    )
    room = ipywidgets.Layout(min_width="min(420px, 100%)", max_width="100%")
    box = ipywidgets.VBox([line, chart], layout=room)
    box.add_class("probekit-read")
    return box


def _row(*widgets):
    return ipywidgets.HBox(widgets, layout=ipywidgets.Layout(flex_flow="row wrap"))
