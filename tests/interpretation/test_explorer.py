"""The examples behind a cell, their tokens coloured, and the explorer without a browser."""

import html
import io
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from made_run import PEAKS, made_run
from sklearn.metrics import roc_auc_score

import probekit as pk
from probekit.extraction.responses import LISTS, by_id, cell_examples, token_view
from probekit.interpretation import widgets as widgets_module
from probekit.interpretation.explorer import PAGE
from probekit.interpretation.observations import GROUPS
from probekit.interpretation.widgets import CHOSEN, CLICKED, COMPARED, OTHER, cell_charts
from probekit.tokens import FIGURE_TOKENS

EXAMPLES = Path(__file__).parents[2] / "data" / "examples"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return made_run(tmp_path_factory.mktemp("runs") / "made")


@pytest.fixture(scope="module")
def scores(run):
    return run.grid().score.sel(layer=2, token="exact_answer_last")


# The examples behind a cell


def expected(run, layer, token, split="random"):
    """P(error) by id, from the file, by nothing of probekit's but reading it."""
    grid = run.grid(split)
    row = grid["layer"].to_numpy().tolist().index(layer)
    column = grid["token"].to_numpy().tolist().index(token)
    values = grid["score"].transpose("example", "layer", "token").to_numpy()[:, row, column]
    return dict(zip(grid["id"].to_numpy().tolist(), values.tolist(), strict=True))


def test_lists_have_the_answers_that_their_names_say_in_order(run, scores):
    answers, p = run.answers(), expected(run, 2, "exact_answer_last")
    right = {i for i, correct in zip(answers["id"], answers["correct"], strict=True) if correct}
    wrong = set(p) - right
    lists = {
        "most confidently wrong": sorted(wrong, key=lambda i: -p[i]),
        "misses": sorted(wrong, key=lambda i: p[i]),
        "false alarms": sorted(right, key=lambda i: -p[i]),
        "all": [*sorted(p, key=lambda i: -p[i]), answers["id"].iloc[-1]],
    }
    assert set(lists) == set(LISTS)
    for which, ids in lists.items():
        table = cell_examples(answers, scores, which)
        assert table["id"].tolist() == ids
        assert [p.get(i) for i in ids] == [v if v == v else None for v in table["p_error"]]


def test_answers_are_matched_by_id_and_not_by_place(run, scores):
    answers = run.answers()
    shuffled = answers.sample(frac=1, random_state=1)
    one, other = (cell_examples(table, scores)["id"].tolist() for table in (answers, shuffled))
    assert one == other


def test_search_looks_in_question_response_and_exact_answer_as_plain_text(run, scores):
    answers = run.answers()
    found = cell_examples(answers, scores, search=" iTALY ")
    assert found["response"].str.endswith("Italy.").all()
    assert len(found) == answers["response"].str.contains("Italy").sum()
    assert len(cell_examples(answers, scores, search="city number 17?")) == 1
    assert len(cell_examples(answers, scores, search=".*")) == 0
    wrong = cell_examples(answers, scores, "most confidently wrong", "italy")
    assert 0 < len(wrong) < len(found)


def test_scores_that_cannot_be_matched_are_refused(run, scores):
    answers = run.answers()
    with pytest.raises(ValueError, match="No list 'best'"):
        cell_examples(answers, scores, "best")
    with pytest.raises(ValueError, match="coordinate id"):
        cell_examples(answers, scores.drop_vars("id"))
    twice = scores.assign_coords(id=("example", ["a", *scores["id"].to_numpy()[:-1]]))
    twice = twice.assign_coords(id=("example", ["q0", *twice["id"].to_numpy()[1:]]))
    with pytest.raises(ValueError, match="'q0' more than once"):
        by_id(twice, answers["id"])


# Tokens coloured by P(error)


def test_every_named_token_has_the_p_error_of_its_own_probe(run):
    grid, answers = run.grid(), run.answers()
    view = token_view(answers.iloc[[7]], grid["score"].sel(layer=2), "exact_answer_last")
    text = repr(view)
    for name in ("last_q", "first_answer", "exact_answer_last", "-1"):
        p = expected(run, 2, name)["q7"]
        assert re.search(rf"(?<![\w-]){name}: {p:.2f}\b", text)
    # Named, but no probe has it.
    assert re.search(r"exact_answer_after_last(,|$)", text, re.MULTILINE)
    assert f"P(error) {expected(run, 2, 'exact_answer_last')['q7']:.2f}" in text.splitlines()[0]


def backgrounds(page):
    return re.findall(r"background:([^;]+);", page)


def test_colour_is_orange_for_wrong_blue_for_right_and_none_where_nothing_is_known(run):
    grid, answers = run.grid(), run.answers()
    score = grid["score"].sel(layer=2).copy()
    score[7], score[8] = 1.0, 0.0
    score[9] = np.nan
    for i, colour in ((7, "213, 94, 0, 0.60"), (8, "0, 114, 178, 0.60"), (9, None)):
        page = token_view(answers.iloc[[i]], score)._repr_html_()
        known = [each for each in backgrounds(page) if each != "transparent"]
        assert set(known) == ({f"rgba({colour})"} if colour else set())
        assert len(backgrounds(page)) == 8


def test_a_token_of_several_names_has_the_colour_of_the_chosen_one(run):
    answers = run.answers()
    score = run.grid()["score"].sel(layer=2).copy()
    score.loc[{"token": "exact_answer_first"}] = 0.0
    score.loc[{"token": "exact_answer_last"}] = 1.0
    for chosen, colour in (("exact_answer_first", "0, 114, 178"), ("exact_answer_last", "213, 94")):
        page = token_view(answers.iloc[[3]], score, chosen)._repr_html_()
        (token,) = [p for p in page.split("<span style='border") if "exact_answer_first" in p]
        assert colour in token
        assert f"font-weight:bold'>{chosen}: " in page


def test_show_tokens_takes_the_scores_of_a_layer(run):
    text = repr(pk.show_tokens(run, n=2, scores=run.grid()["score"].sel(layer=1)))
    assert re.search(r"last_q: 0\.\d\d", text)


# The explorer


@pytest.fixture
def explorer(run):
    return pk.explore(run)


def widgets(explorer):
    assert explorer.widget is explorer.widget
    return explorer._widgets


def auroc_shown(chart):
    """The area that a curve's subtitle states."""
    return re.search(r"AUROC (0\.\d+)", str(chart.to_dict()))[1]


def test_it_opens_at_the_best_cell_of_the_main_split(explorer):
    assert (explorer.split, explorer.layer, explorer.token) == (
        "random",
        PEAKS["random"][0],
        "exact_answer_last",
    )
    assert "layer 2, exact_answer_last" in repr(explorer)


def check_shows(explorer, layer, token):
    """Everything is of this cell, compared with the file."""
    view, p = widgets(explorer), expected(explorer.run, layer, token, explorer.split)
    answers = explorer.answers.set_index("id").loc[list(p)]
    area = roc_auc_score(~answers["correct"], list(p.values()))
    assert (view.layer.value, view.token.value) == (layer, token)
    assert getattr(view.heatmap.params, CHOSEN) == f"{layer} {token}"
    assert auroc_shown(view.curves.chart) == f"{area:.3f}"
    assert f"Layer {layer}, {token}" in view.numbers.value
    assert f">{area:.3f} [" in view.numbers.value
    wrong = answers[~answers["correct"]].index
    first = max(wrong, key=lambda i: p[i])
    assert f"city number {first[1:]}?" in view.examples.value.split("</b>")[1]
    assert f"of {len(wrong)}: wrong answers" in view.examples.value


def test_menus_of_layer_and_token_show_that_cell(explorer):
    view = widgets(explorer)
    view.layer.value = 0
    check_shows(explorer, 0, "exact_answer_last")
    view.token.value = "last_q"
    check_shows(explorer, 0, "last_q")
    assert (explorer.layer, explorer.token) == (0, "last_q")


def click(view, *cells, name=CLICKED):
    value = {"vlPoint": {"or": [{"layer": layer, "token": token} for layer, token in cells]}}
    view.heatmap._vl_selections = {name: {"value": value if cells else {}, "store": []}}


def test_a_click_shows_that_cell_and_leaving_it_changes_nothing(explorer):
    view = widgets(explorer)
    check_shows(explorer, 2, "exact_answer_last")
    click(view, (3, "first_answer"))
    check_shows(explorer, 3, "first_answer")
    click(view)
    check_shows(explorer, 3, "first_answer")
    view.layer.value = 1
    click(view, (3, "first_answer"))
    check_shows(explorer, 3, "first_answer")


def test_another_split_shows_the_same_cell_of_it(explorer):
    view = widgets(explorer)
    assert view.split.options == (("random folds", "random"), ("answers held out", "answer"))
    view.split.value = "answer"
    check_shows(explorer, 2, "exact_answer_last")
    drawn = view.heatmap.spec
    assert drawn["title"]["text"] == "made, answers held out"
    click(view, (0, "-1"))
    check_shows(explorer, 0, "-1")


def test_tokens_and_measure_change_the_heatmap(explorer):
    view = widgets(explorer)
    view.measure.value = "correlation"
    assert "correlation" in str(view.heatmap.spec["layer"][0]["encoding"]["color"])
    name = "the exact answer"
    view.group.value = name
    assert view.token.options == GROUPS[name]
    assert explorer.token == "exact_answer_last"


@pytest.fixture(scope="module")
def example():
    """A real run of three layers by five tokens, with controls."""
    return pk.Run(EXAMPLES / "cities")


def test_the_gain_over_the_controls_is_a_measure(example):
    explorer = pk.explore([example])
    view = widgets(explorer)
    view.measure.value = "gain"
    gains = pk.gain_over_controls(example.grid(), example.controls())
    drawn = view.heatmap.spec["layer"][0]
    assert drawn["encoding"]["color"]["title"] == ["Gain in AUROC over", "all controls together"]
    for record in drawn["data"]["values"]:
        cell = gains.sel(layer=record["layer"], token=record["token"])
        value, low, high = (float(cell[f"gain{end}"]) for end in ("", "_low", "_high"))
        assert record["gain"] == pytest.approx(value, abs=1e-12)
        assert f"gain {value:+.3f} [{low:+.3f}, {high:+.3f}]" in record["words"]
    cell = gains.sel(layer=explorer.layer, token=explorer.token)
    assert f"{float(cell['gain']):+.3f} [{float(cell['gain_low']):+.3f}, " in (view.numbers.value)
    view.split.value = "answer"
    assert view.measure.value == explorer.measure == "gain"
    assert pk.explore(example, measure="gain").heatmap().to_dict()["layer"]


def test_a_run_without_controls_says_that_it_has_no_gain(explorer, run):
    view = widgets(explorer)
    before = view.heatmap.spec
    view.measure.value = "gain"
    assert "gain over the controls can&#x27;t be shown for made, random folds" in view.message.value
    assert "controls.nc is not there" in view.message.value
    assert view.measure.value == explorer.measure == "auroc"
    assert view.heatmap.spec == before
    with pytest.raises(ValueError, match="can't be shown for made"):
        pk.explore(run, measure="gain")
    published = {"split": "published", "measure": "gain"}
    with pytest.raises(
        ValueError, match=r"one split, as published\. Controls are measured on folds"
    ):
        pk.explore([EXAMPLES.parent / "example"], **published)


def test_a_cell_outlives_columns_that_lack_it(explorer):
    view = widgets(explorer)
    view.group.value = "last_q"
    check_shows(explorer, 2, "exact_answer_last")
    assert view.token.options == ("last_q", "exact_answer_last")
    assert "exact_answer_last, is not among the columns shown" in view.message.value
    assert view.heatmap.spec["layer"][0]["encoding"]["x"]["scale"]["domain"] == ["last_q"]
    view.token.value = "last_q"
    assert view.message.value == ""
    check_shows(explorer, 2, "last_q")


def test_a_cell_of_the_heatmap_is_read_in_words_and_has_no_tooltip(explorer):
    drawn = widgets(explorer).heatmap.spec
    assert '"tooltip"' not in json.dumps(drawn)
    records = drawn["layer"][0]["data"]["values"]
    words = {(r["layer"], r["token"]): r["words"] for r in records}
    cell = explorer.grid.sel(layer=1, token="-2")
    low, high = (float(cell[f"auroc_{end}"]) for end in ("low", "high"))
    assert words[1, "-2"] == (
        f"Layer 1, -2: AUROC {float(cell['auroc']):.3f} [{low:.3f}, {high:.3f}], 120 answers, "
        "corrected p 0.05."
    )
    assert words[1, "-8"] == "Layer 1, -8: not measured."


def test_the_headline_is_at_the_top_or_why_there_is_none(explorer, run):
    assert html.escape(pk.headline(run)) in widgets(explorer).headline.value
    explorer._headline_of = lambda run: 1 / 0 if run is None else run.grid("other")
    assert "no split &#x27;other&#x27;" in explorer.headline()


def test_a_cell_that_was_not_measured_is_said_to_be_so(explorer):
    view = widgets(explorer)
    view.token.value = "-8"
    assert "not measured" in view.numbers.value
    assert "Both correct and wrong answers are needed" in view.message.value
    assert view.curves.spec is None
    view.token.value = "-1"
    assert view.message.value == ""
    assert auroc_shown(view.curves.chart)


def test_examples_are_listed_searched_and_paged(explorer):
    view = widgets(explorer)
    view.which.value = "all"
    assert f"1–{PAGE} of 121" in view.examples.value
    assert view.back.disabled
    view.forth.click()
    assert f"{PAGE + 1}–{2 * PAGE} of 121" in view.examples.value
    view.search.value = "city number 99?"
    assert "1–1 of 1" in view.examples.value
    assert view.back.disabled
    assert view.forth.disabled
    view.search.value = "no such thing"
    assert "None: all answers" in view.examples.value


def test_a_click_too_many_does_not_leave_the_list(explorer):
    view = widgets(explorer)
    view.back.click()
    assert f"1–{PAGE} of" in view.examples.value
    for _ in range(40):
        view.forth.click()
    assert re.search(r"–(\d+) of \1:", view.examples.value)


def test_runs_of_one_name_are_told_apart(tmp_path):
    runs = [made_run(tmp_path / place / "same") for place in "ab"]
    view = widgets(pk.explore(runs))
    assert [name for name, _ in view.run.options] == [str(run.path) for run in runs]


def test_a_run_that_was_probed_again_is_read_again(tmp_path):
    run = made_run(tmp_path / "run")
    explorer = pk.explore(run)
    assert explorer.grid.sizes["layer"] > 3
    made_run(tmp_path / "other", layers=3)
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "other").rename(tmp_path / "run")
    explorer.open(run)
    assert explorer.grid.sizes["layer"] == 3


def test_columns_that_a_program_chose_are_in_the_menu(explorer):
    explorer.choose_tokens(("-1", "-2"))
    view = widgets(explorer)
    assert view.group.value == "others"
    view.group.value = "all of the figure"
    assert explorer.tokens == FIGURE_TOKENS
    assert "others" not in view.group.options


def test_an_area_without_an_interval_is_shown_without(explorer):
    explorer.grid = explorer.grid.drop_vars(["auroc_low", "auroc_high"])
    area = float(explorer.grid["auroc"].sel(layer=explorer.layer, token=explorer.token))
    assert f">{area:.3f}</td>" in explorer.numbers()


def test_a_name_with_control_characters_is_shown_as_what_it_is(tmp_path):
    assert repr(pk.explore(made_run(tmp_path / "a\x1b[31mb"))).startswith("Explorer of a\\x1b[31mb")


def test_runs_beside_it_can_be_chosen(tmp_path):
    first, second = made_run(tmp_path / "b"), made_run(tmp_path / "a", layers=3)
    (tmp_path / "empty").mkdir()
    explorer = pk.explore(first)
    view = widgets(explorer)
    assert [name for name, _ in view.run.options] == ["b", "a"]
    view.layer.value = 3
    view.run.value = 1
    assert explorer.run.path == second.path
    assert list(view.layer.options) == [0, 1, 2]
    check_shows(explorer, 2, "exact_answer_last")
    alone = pk.explore([second])
    assert len(widgets(alone).run.options) == 1


def test_a_damaged_run_is_told_of_and_what_was_seen_stays(tmp_path):
    first, second = made_run(tmp_path / "a"), made_run(tmp_path / "b<i>")
    (second.path / "grid.nc").write_bytes(b"nothing")
    explorer = pk.explore(first)
    view = widgets(explorer)
    view.run.value = 1
    assert "is damaged" in view.message.value
    assert "<i>" not in view.message.value
    assert (explorer.run.path, view.run.value) == (first.path, 0)


def test_a_group_of_tokens_that_the_grid_lacks_is_told_of(tmp_path):
    run = made_run(tmp_path / "a", tokens=["last_q", "exact_answer_last"])
    view = widgets(pk.explore(run))
    view.group.value = "the last eight tokens"
    assert "none of the tokens -8, -7" in view.message.value
    assert view.group.value == "all of the figure"
    assert view.token.options == ("last_q", "exact_answer_last")


def test_what_cannot_be_explored_is_refused(run, tmp_path):
    with pytest.raises(TypeError, match="The run directory must be text or a Path"):
        pk.explore(3)
    with pytest.raises(FileNotFoundError, match="no finished probe stage"):
        pk.explore(tmp_path / "nothing")
    with pytest.raises(ValueError, match="no split 'other'"):
        pk.explore(run, split="other")
    with pytest.raises(ValueError, match=r"measure must be .*'accuracy'"):
        pk.explore(run, measure="accuracy")
    with pytest.raises(ValueError, match="is empty"):
        pk.explore([])


# Two cells compared


def check_compares(explorer, one, other):
    """The numbers, curves and frames are of both, their difference is that of two grids."""
    view, grid = widgets(explorer), explorer.grid
    areas = []
    for layer, token in (one, other):
        p = expected(explorer.run, layer, token, explorer.split)
        answers = explorer.answers.set_index("id").loc[list(p)]
        areas.append(roc_auc_score(~answers["correct"], list(p.values())))
        assert f">{areas[-1]:.3f} [" in view.numbers.value
    stated = re.search(r"second: <b>(\S+) \[(\S+), (\S+)\]</b>, paired", view.numbers.value)
    value, low, high = map(float, stated.groups())
    assert value == pytest.approx(areas[0] - areas[1], abs=1e-3)
    assert low < value < high
    # DeLong's interval, from influences made here pair by pair.
    wrong = ~grid["correct"].to_numpy()
    parts = []
    for layer, token in (one, other):
        s = grid["score"].sel(layer=layer, token=token).to_numpy()
        higher = (s[wrong][:, None] > s[~wrong]) + 0.5 * (s[wrong][:, None] == s[~wrong])
        parts.append((higher.mean(1), higher.mean(0)))
    deviations = [a - b for a, b in zip(*parts, strict=True)]
    error = np.sqrt(sum(d.var(ddof=1) / len(d) for d in deviations))
    assert high - low >= 2 * 1.95 * error  # what the training adds makes it no narrower
    assert high - low == pytest.approx(2 * 1.96 * error, abs=0.002)
    frames = view.heatmap.params
    assert (getattr(frames, CHOSEN), getattr(frames, OTHER)) == tuple(
        f"{layer} {token}" for layer, token in (one, other)
    )
    charts = view.curves.chart.hconcat
    assert [auroc_shown(chart) for chart in charts] == [f"{area:.3f}" for area in areas]


def test_menus_compare_two_cells(explorer):
    view = widgets(explorer)
    assert view.other_token.disabled
    assert "Difference" not in view.numbers.value
    view.other_layer.value = 1
    view.other_token.value = "-1"
    check_compares(explorer, (2, "exact_answer_last"), (1, "-1"))
    view.layer.value = 0
    check_compares(explorer, (0, "exact_answer_last"), (1, "-1"))
    view.split.value = "answer"
    assert view.heatmap.params.other == "1 -1"
    view.other_layer.value = ""
    assert view.other_layer.label == "no cell"
    assert "Difference" not in view.numbers.value
    assert getattr(view.heatmap.params, OTHER) == ""
    assert len(view.curves.chart.vconcat) == 2


def test_shift_and_click_compare_and_a_second_time_end_it(explorer):
    view = widgets(explorer)
    view.which.value = "all"
    view.forth.click()
    click(view, (1, "-1"), name=COMPARED)
    check_compares(explorer, (2, "exact_answer_last"), (1, "-1"))
    assert (view.other_layer.value, view.other_token.value) == (1, "-1")
    assert f"{PAGE + 1}–" in view.examples.value  # the list is still of the first cell
    click(view, name=COMPARED)
    click(view, (1, "-1"), name=COMPARED)
    assert "Difference" not in view.numbers.value
    click(view, name=COMPARED)
    click(view, (2, "exact_answer_last"), name=COMPARED)  # with itself
    assert "Difference" not in view.numbers.value


def test_a_comparison_with_an_unmeasured_cell_shows_the_other(explorer):
    view = widgets(explorer)
    explorer.compare(0, "-8")
    view.show_numbers()
    assert "Difference in AUROC: not measured" in view.numbers.value
    assert auroc_shown(view.curves.chart)
    with pytest.raises(ValueError, match="-99"):
        explorer.compare(0, "-99")


# The path of one answer


def test_the_path_of_an_answer_has_its_score_at_every_layer_and_token(explorer, run):
    drawn = explorer.path("q7").to_dict()
    (records,) = (
        layer["data"]["values"]
        for layer in drawn["layer"]
        if "p_error" in str(layer.get("encoding", {}).get("color"))
    )
    assert len(records) == 4 * len(FIGURE_TOKENS)
    for record in records:
        p = expected(run, record["layer"], record["token"])["q7"]
        assert record["p_error"] == (pytest.approx(p) if p == p else None)
    assert "In which country is city number 7?" in str(drawn["title"])
    scale = drawn["layer"][0]["encoding"]["color"]["scale"]
    assert (scale["domain"], scale["range"][1]) == ([0, 0.5, 1], "white")


def test_an_answer_is_chosen_by_menu_or_click_and_stays(explorer):
    view = widgets(explorer)
    first = view.listed[0]
    assert view.answer.value == first
    assert f"city number {first[1:]}?" in str(view.path.spec["title"])
    id = view.listed[3]
    view.answer.value = id
    answer = explorer.answers.set_index("id").loc[id]
    for text in (answer["question"], answer["response"], answer["exact_answer"], "wrong"):
        assert text in view.about.value
    assert f"city number {id[1:]}?" in str(view.path.spec["title"])
    view.layer.value = 0
    view.which.value = "false alarms"
    assert view.answer.value == id  # kept, though the list has it no more
    view.browser._handle_custom_msg(view.listed[1], [])
    assert view.answer.value == view.listed[1]
    assert "right" in view.about.value
    view.browser._handle_custom_msg("no such id", [])
    assert view.answer.value == view.listed[1]


def test_an_answer_without_a_score_has_no_path_and_is_told_why(explorer):
    view = widgets(explorer)
    view.which.value, view.search.value = "all", "city number 120?"
    view.answer.value = "q120"
    assert "&#x27;q120&#x27; is not in the grid, so it has no path" in view.about.value
    assert view.path.spec is None
    with pytest.raises(ValueError, match="no answer with the id 'q999'"):
        explorer.path("q999")


def test_accepted_answers_are_shown_where_the_run_has_them(example):
    explorer = pk.explore([example])
    answer = explorer.answers.iloc[0]
    assert html.escape(answer["accepted"].split("|")[0]) in explorer.about(answer["id"])


# Saved


def test_the_list_is_saved_as_it_is_filtered_with_all_of_its_pages(explorer, run):
    view, sent = widgets(explorer), []
    view.browser.send = sent.append
    view.layer.value, view.token.value = 1, "-1"
    view.which.value, view.search.value = "all", "italy"
    view.save.click()
    (file,) = sent
    assert file["name"] == "made-1--1-all.csv"
    read = {"keep_default_na": False, "na_values": {"p_error": [""]}, "dtype": {"token": str}}
    saved = pd.read_csv(io.StringIO(file["text"]), **read)
    table = explorer.table("all", "italy")
    pd.testing.assert_frame_equal(saved, table, check_dtype=False, check_exact=False)
    assert list(saved) == [
        *("id", "question", "response", "exact_answer", "correct", "p_error", "layer", "token"),
        "split",
    ]
    answers = run.answers()
    assert set(saved["id"]) == set(answers["id"][answers["response"].str.contains("Italy")])
    p = expected(run, 1, "-1")
    assert saved["p_error"].tolist() == pytest.approx(
        [p.get(id, np.nan) for id in saved["id"]], nan_ok=True
    )
    assert f"{len(saved)} answers are sent to the browser" in view.saved.value
    view.which.value = "misses"
    assert view.saved.value == ""


# Shown where nobody can click


@pytest.fixture
def shown(monkeypatch):
    """What is displayed, by a kernel of which ``shown.stdin`` says whether a person is there."""
    shown = SimpleNamespace(stdin=False, objects=[])
    parent = {"content": {}}
    shell = SimpleNamespace(kernel=object(), get_parent=lambda: parent)
    monkeypatch.setattr(widgets_module, "get_ipython", lambda: shell)
    monkeypatch.setattr(widgets_module, "display", lambda *o, **raw: shown.objects.extend(o))
    shown.ask = lambda stdin: parent["content"].update(allow_stdin=stdin)
    return shown


def test_an_executed_notebook_gets_pictures_and_no_widget(explorer, shown):
    shown.ask(False)
    explorer._ipython_display_()
    kinds = [type(each).__name__ for each in shown.objects]
    assert kinds == ["HTML", "HTML", "Image", "HTML", "Image", "HTML"]
    assert explorer._widgets is None
    assert "run this notebook cell in JupyterLab" in shown.objects[0].data
    # The report keeps the text of a stylesheet.
    assert "<style" not in shown.objects[0].data
    assert explorer.headline() in shown.objects[1].data
    assert "Layer 2, exact_answer_last" in shown.objects[3].data
    assert shown.objects[5].data.count("class='mathjax_ignore'") == PAGE


def test_a_person_gets_the_widget_and_the_saved_notebook_a_small_still_one(explorer, shown):
    shown.ask(True)
    explorer._ipython_display_()
    bundle, *stills = shown.objects
    view = bundle["application/vnd.jupyter.widget-view+json"]
    assert view["model_id"] == explorer.widget.model_id
    assert bundle["text/plain"] == repr(explorer)
    kinds = [type(each).__name__ for each in stills]
    assert kinds == ["HTML", "HTML", "Image", "HTML", "Image", "HTML"]
    assert "Layer 2, exact_answer_last" in stills[3].data


def test_a_still_cell_without_curves_says_why(explorer, shown, monkeypatch):
    def refuse():
        raise ValueError("All of <these> are right.")

    shown.ask(False)
    monkeypatch.setattr(explorer, "curves", refuse)
    explorer._ipython_display_()
    assert "All of &lt;these&gt; are right." in shown.objects[4].data


def test_a_terminal_gets_a_line(explorer, capsys):
    explorer._ipython_display_()
    assert capsys.readouterr().out.startswith("Explorer of made, random folds: layer 2")


def test_curves_of_a_cell_are_one_chart_with_a_text_alternative():
    random = np.random.default_rng(0)
    correct = random.random(50) < 0.5
    chart = cell_charts(random.random(50), correct)
    assert len(chart.vconcat) == 2
    assert "ROC curve" in chart.description
    assert "Distribution of P(error)" in chart.description
    assert not pd.isna(chart.to_dict()["config"])
