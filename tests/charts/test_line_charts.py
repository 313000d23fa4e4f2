import re
from types import SimpleNamespace

import numpy as np
import pytest
import vl_convert
import xarray as xr
from sklearn.metrics import roc_auc_score

from probekit.charts.curves import calibration, risk_coverage, roc, score_distribution
from probekit.charts.lines import by_layer, by_token, forest
from probekit.tokens import FIGURE_TOKENS, TOKENS


@pytest.fixture(scope="module")
def grid():
    rng = np.random.default_rng(3)
    auroc = 0.5 + 0.4 * rng.random((10, len(TOKENS)))
    auroc[4, TOKENS.index("last_q")] = np.nan
    cells = ("layer", "token")
    return xr.Dataset(
        {
            "auroc": (cells, auroc),
            "auroc_low": (cells, auroc - 0.15),
            "auroc_high": (cells, auroc + 0.05),
        },
        coords={"layer": np.arange(10), "token": list(TOKENS)},
    )


@pytest.fixture(scope="module")
def answers():
    """Scores that tell errors apart somewhat; a few are missing."""
    rng = np.random.default_rng(4)
    correct = rng.random(200) < 0.4
    score = np.clip(0.5 + 0.2 * ~correct - 0.1 + 0.2 * rng.normal(size=200), 0, 1)
    score[:7] = np.nan
    return score, correct


def rows_of(part):
    return part["data"]["values"]


def test_lines_by_layer_are_the_grids_values(grid):
    chart = by_layer(grid, tokens=["last_q", "-1"])
    chance, band, line = chart.to_dict()["layer"]
    assert rows_of(chance) == [{"chance": 0.5}]
    assert band["encoding"]["y2"]["field"] == "auroc_high"
    assert line["encoding"]["color"]["scale"]["domain"] == ["last_q", "-1"]
    assert line["encoding"]["strokeDash"]["scale"]["domain"] == ["last_q", "-1"]
    assert line["encoding"]["y"]["scale"]["domain"][1] == 1.0
    rows = rows_of(line)
    assert len(rows) == 20
    for row in rows:
        value = float(grid.auroc.sel(layer=row["layer"], token=row["token"]))
        assert row["auroc"] == (None if np.isnan(value) else value)
    best = int(grid.auroc.sel(token="-1").argmax("layer"))
    assert f"Token -1: highest {float(grid.auroc.sel(token='-1').max()):.2f} at layer {best}." in (
        chart.description
    )


def test_without_intervals_there_are_no_bands(grid):
    bare = grid[["auroc"]]
    assert len(by_layer(bare).to_dict()["layer"]) == 2
    assert len(by_token(bare).to_dict()["layer"]) == 2


def test_points_by_token(grid):
    spec = by_token(grid, layers=[2, 7]).to_dict()
    points = spec["layer"][-1]
    assert points["encoding"]["x"]["scale"]["domain"] == list(FIGURE_TOKENS)
    assert points["encoding"]["shape"]["scale"]["domain"] == [2, 7]
    assert {row["layer"] for row in rows_of(points)} == {2, 7}
    defaults = by_token(grid).to_dict()["layer"][-1]
    assert {row["layer"] for row in rows_of(defaults)} == {0, 5, 9}


def made_controls(**more):
    nan = np.nan
    return xr.Dataset(
        {
            "auroc": ("control", [0.6, 0.55, 0.7, nan, 0.8, 0.51]),
            "auroc_low": ("control", [0.55, 0.4, 0.65, nan, 0.75, nan]),
            "auroc_high": ("control", [0.65, 0.7, 0.75, nan, 0.85, nan]),
            "chance": ("control", [False, True, False, False, False, False]),
            **more,
        },
        coords={"control": ["length", "shuffled", "question", "p_true", "all", "answer"]},
    )


def test_forest_has_a_row_a_control_the_best_first():
    detector = SimpleNamespace(auroc=0.77, auroc_low=0.7, auroc_high=0.83, by_layer=None)
    chart = forest(made_controls(), detector)
    rule, bars, points, numbers = chart.to_dict()["layer"]
    assert rows_of(rule) == [{"chance": 0.5}]
    rows = rows_of(points)
    order = ["the grid as one detector", "all", "question", "length", "answer", "shuffled"]
    assert [row["label"] for row in rows] == order  # p_true has no AUROC
    assert points["encoding"]["y"]["scale"]["domain"] == order
    assert points["encoding"]["y"]["axis"]["labelLimit"] == 0
    assert [row["kind"] for row in rows] == ["detector", "all", *["control"] * 3, "chance"]
    colour = points["encoding"]["color"]["scale"]
    colours = dict(zip(colour["domain"], colour["range"], strict=True))
    assert len(set(colours.values())) == 4
    assert colours["chance"] == "#767676"
    assert [row["auroc"] for row in rows] == [0.77, 0.8, 0.7, 0.6, 0.51, 0.55]
    assert (bars["encoding"]["x"]["field"], bars["encoding"]["x2"]["field"]) == (
        "auroc_low",
        "auroc_high",
    )
    assert rows[0]["auroc_low"] == 0.7
    assert rows[4]["auroc_low"] is None
    assert [row["stated"] for row in rows_of(numbers)][3:5] == ["0.60 [0.55, 0.65]", "0.51"]
    assert "the grid as one detector 0.77 [0.70, 0.83]; all 0.80" in chart.description


def test_forest_takes_plain_words_where_they_tell_the_rows_apart():
    words = ["Length", "Chance", "Question", "P(true)", "All controls", "Answer"]
    labelled = made_controls(label=("control", np.array(words, object)))
    rows = rows_of(forest(labelled).to_dict()["layer"][2])
    assert [row["label"] for row in rows] == [
        "All controls",
        "Question",
        "Length",
        "Answer",
        "Chance",
    ]
    assert rows[0]["kind"] == "all"
    alike = made_controls(label=("control", np.array(["x"] * 6, object)))
    assert rows_of(forest(alike).to_dict()["layer"][2])[0]["label"] == "all"


def test_forest_refuses_what_it_cannot_draw():
    with pytest.raises(TypeError, match=r"controls must be an xarray Dataset"):
        forest({})
    with pytest.raises(ValueError, match=r"no variable 'chance'"):
        forest(made_controls().drop_vars("chance"))
    with pytest.raises(ValueError, match=r"No control has an AUROC"):
        forest(made_controls().sel(control=["p_true"]))


def test_roc_has_the_area_it_states(answers):
    score, correct = answers
    chart = roc(score, correct)
    curve = rows_of(chart.to_dict()["layer"][1])
    x, y = ([row[name] for row in curve] for name in ("flagged", "found"))
    there = ~np.isnan(score)
    expected = roc_auc_score(~correct[there], score[there])
    assert np.trapezoid(y, x) == pytest.approx(expected)
    assert f"AUROC {expected:.3f}" in chart.description
    assert curve[0]["threshold"] is None  # infinity, which JSON does not have


def test_calibration_groups_hold_all_examples(answers):
    score, correct = answers
    rows = rows_of(calibration(score, correct, bins=8).to_dict()["layer"][1])
    assert sum(row["n"] for row in rows) == 193
    assert [row["predicted"] for row in rows] == sorted(row["predicted"] for row in rows)
    assert all(0 <= row["low"] <= row["observed"] <= row["high"] <= 1 for row in rows)
    share = sum(row["observed"] * row["n"] for row in rows) / 193
    assert share == pytest.approx((~correct[7:]).mean())


def test_calibration_interval_is_the_exact_one():
    score, correct = np.linspace(0, 1, 20), np.arange(20) < 10
    low, high = rows_of(calibration(score, correct, bins=2).to_dict()["layer"][1])
    assert (low["low"], high["high"]) == (0.0, 1.0)
    # Clopper and Pearson, 0 of 10: the upper bound is 1 - 0.025 ** (1 / 10).
    assert low["high"] == pytest.approx(1 - 0.025**0.1)


def test_reliability_diagram_states_its_error():
    # Two groups: 0.2 predicted, 0 of 2 wrong; 0.6 predicted, 1 of 2 wrong.
    score, correct = [0.2, 0.2, 0.6, 0.6], [True, True, False, True]
    chart = calibration(score, correct, bins=2)
    found = "ECE 0.15; Brier 0.15 (base rate 0.19); n = 4"
    assert chart.to_dict()["title"]["subtitle"] == found
    assert found in chart.description


def test_risk_is_the_error_rate_of_the_answers_given():
    # 20 answers, so that 5 % of them is one; the last lacks one of the scores.
    correct = np.arange(21) % 3 > 0
    perfect, blind = np.where(correct, 0.0, 1.0), np.ones(21)
    blind[20] = np.nan
    reverse = -np.arange(21.0)
    chart = risk_coverage({"perfect": perfect, "blind": blind, "reverse": reverse}, correct)
    rule, curves = chart.to_dict()["layer"]
    base = 7 / 20
    assert rows_of(rule) == [{"risk": pytest.approx(base)}]
    domain = ["perfect", "blind", "reverse", "knows which are wrong"]
    assert curves["encoding"]["color"]["scale"]["domain"] == domain
    assert curves["encoding"]["color"]["scale"]["range"][-1] == "#000000"
    lines = {name: [r for r in rows_of(curves) if r["score"] == name] for name in domain}
    given = np.arange(1, 21)
    for rows in lines.values():
        assert [row["given"] for row in rows] == pytest.approx(given / 20)
        assert rows[-1]["risk"] == pytest.approx(base)
    risks = {name: [row["risk"] for row in rows] for name, rows in lines.items()}
    assert risks["perfect"] == risks["knows which are wrong"]
    assert risks["perfect"] == pytest.approx(np.maximum(given - 13, 0) / given)
    assert risks["blind"] == pytest.approx(np.full(20, base))  # ties are in no order
    assert risks["reverse"] == pytest.approx(np.cumsum(~correct[19::-1]) / given)
    assert "perfect: 0.00. blind: 0.35." in chart.description


def test_risk_of_many_answers_has_few_points():
    rng = np.random.default_rng(0)
    chart = risk_coverage({"a": rng.random(5000)}, rng.random(5000) < 0.5)
    rows = [row for row in rows_of(chart.to_dict()["layer"][1]) if row["score"] == "a"]
    assert len(rows) == 200
    assert (rows[0]["given"], rows[-1]["given"]) == (0.05, 1.0)


def test_distribution_shares_sum_to_one_a_class(answers):
    spec = score_distribution(*answers, bins=10).to_dict()
    wrong = int((~answers[1][7:]).sum())
    domain = spec["encoding"]["color"]["scale"]["domain"]
    assert domain == [f"correct (n = {193 - wrong})", f"wrong (n = {wrong})"]
    for name in domain:
        shares = [row["share"] for row in rows_of(spec) if row["answers"] == name]
        assert sum(shares) == pytest.approx(2)  # every bin has a record at both its edges


def test_titles_of_charts_side_by_side_are_level(grid, answers):
    for charts in (
        calibration(*answers) | score_distribution(*answers),
        by_layer(grid) | by_token(grid),
    ):
        svg = vl_convert.vegalite_to_svg(charts.to_dict())
        titles = r'role-title"><g transform="translate\(.+?,(.+?)\)">'
        heights = re.findall(titles, svg)
        assert len(heights) == 2
        assert heights[0] == heights[1]


def test_the_subtitle_says_what_marks_are_intervals(grid):
    charts = {
        by_layer: "bands are 95 % intervals",
        by_token: "bars are 95 % intervals",
    }
    for chart, said in charts.items():
        assert chart(grid).to_dict()["title"]["subtitle"] == said
        assert isinstance(chart(grid[["auroc"]]).to_dict()["title"], str)
    assert forest(made_controls()).to_dict()["title"]["subtitle"] == "bars are 95 % intervals"


def test_every_chart_has_a_text_alternative_and_one_font(grid, answers):
    charts = [by_layer(grid), by_token(grid), roc(*answers), calibration(*answers)]
    charts += [forest(made_controls())]
    charts += [risk_coverage({"probe": answers[0]}, answers[1]), score_distribution(*answers)]
    for chart in charts:
        spec = chart.to_dict()
        assert len(spec["description"]) > 40
        assert spec["config"]["font"].startswith("Liberation Sans")


def test_bad_input(grid, answers):
    score, correct = answers
    with pytest.raises(ValueError, match=r"Unknown token 'lastq'"):
        by_layer(grid, tokens=["lastq"])
    with pytest.raises(ValueError, match=r"8 tokens are too many lines"):
        by_layer(grid, tokens=TOKENS[:8])
    with pytest.raises(ValueError, match=r"Unknown layer 99"):
        by_token(grid, layers=[99])
    with pytest.raises(TypeError, match=r"layers must be a list such as .3., got 3"):
        by_token(grid, layers=3)
    with pytest.raises(ValueError, match=r"no variable 'auroc'"):
        by_layer(grid.drop_vars("auroc"))
    for chart in (roc, calibration, score_distribution):
        with pytest.raises(ValueError, match=r"one value for each example, got shapes"):
            chart(score[:5], correct)
        with pytest.raises(ValueError, match=r"correct must hold True and False, it holds numbers"):
            chart(score, score)
        with pytest.raises(ValueError, match=r"Both correct and wrong answers are needed"):
            chart(score, np.ones(200, bool))
        with pytest.raises(ValueError, match=r"got 0 wrong among 0 scored"):
            chart(np.full(200, np.nan), correct)
    with pytest.raises(ValueError, match=r"needs probabilities, got scores from"):
        calibration(score * 3 - 1, correct)
    with pytest.raises(ValueError, match=r"bins=500 must be between 1 and the 193"):
        calibration(score, correct, bins=500)
    with pytest.raises(ValueError, match=r"bins must be a whole number from 1 to 10,000, got 0"):
        score_distribution(score, correct, bins=0)
    with pytest.raises(TypeError, match=r"dict of name to score"):
        risk_coverage(score, correct)
    with pytest.raises(ValueError, match=r"7 scores can't be drawn"):
        risk_coverage(dict.fromkeys("abcdefg", score), correct)
    with pytest.raises(ValueError, match=r"one value for each example"):
        risk_coverage({"a": score, "b": score[:5]}, correct)
    with pytest.raises(ValueError, match=r"got 0 wrong among 0 scored"):
        risk_coverage({"a": score, "b": np.where(np.isnan(score), 0, np.nan)}, correct)
