import re
from types import SimpleNamespace

import altair as alt
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from probekit.charts.heatmaps import (
    MEASURES,
    absorbed,
    compare_splits,
    gain,
    heatmap,
    point_biserial,
    small_multiples,
)
from probekit.tokens import FIGURE_TOKENS, TOKENS

LABELS = ["last_q", "first_answer", "second_answer", "exact_answer_before_first"]
LABELS += ["exact_answer_first", "exact_answer_last"]
LABELS += ["-8", "-7", "-6", "-5", "-4", "-3", "-2", "-1"]


def make_grid(layers=32, examples=80, seed=0):
    """A peak in the middle layers at the exact answer; nothing at -8, and not at (3, -7)."""
    rng = np.random.default_rng(seed)
    depth = np.arange(layers) / max(layers - 1, 1)
    height = np.array([0.4 if token.startswith("exact") else 0.12 for token in TOKENS])
    auroc = 0.5 + height * np.exp(-(((depth[:, None] - 0.45) / 0.35) ** 2))
    auroc += rng.normal(0, 0.01, auroc.shape)
    auroc[:, TOKENS.index("-8")] = np.nan
    auroc[min(3, layers - 1), TOKENS.index("-7")] = np.nan
    wrong = rng.random(examples) < 0.5
    score = rng.normal(size=(examples, *auroc.shape)) + 4 * (auroc - 0.5) * wrong[:, None, None]
    cells = ("layer", "token")
    return xr.Dataset(
        {
            "auroc": (cells, auroc),
            "auroc_low": (cells, auroc - 0.04),
            "auroc_high": (cells, auroc + 0.04),
            "p_value": (cells, np.exp(-60 * np.abs(auroc - 0.5))),
            "n_examples": (cells, np.where(np.isnan(auroc), 0, examples)),
            "score": (("example", *cells), 1 / (1 + np.exp(-score))),
        },
        coords={
            "layer": np.arange(layers),
            "token": list(TOKENS),
            "correct": ("example", ~wrong),
            "id": ("example", [f"q{i}" for i in range(examples)]),
        },
    )


@pytest.fixture(scope="module")
def grid():
    return make_grid()


def rows_of(spec, layer=0):
    # Altair moves data that all layers share to the top.
    return (spec if "data" in spec else spec["layer"][layer])["data"]["values"]


def test_figure_is_as_specified(grid):
    spec = heatmap(grid).to_dict()
    encoding = spec["layer"][0]["encoding"]
    assert spec["title"] == "Layer vs. Token Correlation"
    assert spec["layer"][0]["mark"]["type"] == "rect"
    assert encoding["x"]["title"] == "Token"
    assert encoding["x"]["scale"]["domain"] == LABELS == list(FIGURE_TOKENS)
    assert encoding["y"]["title"] == "Layer"
    assert encoding["y"]["scale"]["domain"] == list(range(32))  # an ordinal's first is at the top
    assert encoding["y"]["axis"]["values"] == list(range(0, 32, 2))
    colour = encoding["color"]
    assert colour["field"] == "auroc"
    assert colour["scale"] == {"scheme": "blues", "domain": [0.5, 1.0], "clamp": True}
    assert colour["title"] == ["AUROC of", "error detection"]
    assert colour["legend"]["orient"] == "right"
    assert colour["legend"]["values"] == [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


def test_plain_figure_has_nothing_but_the_cells():
    """What can be added to the figure leaves it as it is, byte for byte, where it is not asked."""
    one = xr.Dataset(
        {"auroc": (("layer", "token"), [[0.75]]), "n_examples": (("layer", "token"), [[80]])},
        coords={"layer": [4], "token": ["-1"]},
    )
    spec = heatmap(one, tokens=["-1"], title="").to_dict()
    (cells,) = spec["layer"]
    blues = {
        "field": "auroc",
        "legend": {
            "format": ".1f",
            "gradientLength": 180,
            "orient": "right",
            "values": [0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
        },
        "scale": {"clamp": True, "domain": [0.5, 1.0], "scheme": "blues"},
        "title": ["AUROC of", "error detection"],
        "type": "quantitative",
    }
    tooltip = [
        {"field": "layer", "format": "d", "title": "Layer", "type": "quantitative"},
        {"field": "token", "title": "Token", "type": "nominal"},
        {"field": "auroc", "format": ".3f", "title": "AUROC", "type": "quantitative"},
        {"field": "n_examples", "format": "d", "title": "Examples", "type": "quantitative"},
    ]
    x = {
        "axis": {"labelAngle": -45, "labelLimit": 0, "labelOverlap": False},
        "field": "token",
        "scale": {"domain": ["-1"]},
        "title": "Token",
        "type": "nominal",
    }
    y = {
        "axis": {"labelOverlap": False, "values": [4]},
        "field": "layer",
        "scale": {"domain": [4]},
        "title": "Layer",
        "type": "ordinal",
    }
    assert cells == {
        "mark": {"type": "rect"},
        "encoding": {"color": blues, "tooltip": tooltip, "x": x, "y": y},
    }
    assert {name: spec[name] for name in spec.keys() - {"layer", "config", "$schema"}} == {
        "background": "white",
        "data": {"values": [{"layer": 4, "token": "-1", "auroc": 0.75, "n_examples": 80.0}]},
        "description": "Heatmap of the AUROC of error detection: 1 layers (4 to 4, top to bottom) "
        "by 1 tokens (-1 to -1). Highest 0.75 at layer 4, token -1; lowest 0.75 at layer 4, "
        "token -1.",
        "height": 20,
        "title": "",
        "width": 22,
    }


def test_cells_are_the_grids_values(grid):
    rows = rows_of(heatmap(grid).to_dict())
    assert len(rows) == 32 * 14
    for row in rows:
        cell = grid.sel(layer=row["layer"], token=row["token"])
        for name in ("auroc", "auroc_low", "auroc_high", "n_examples", "p_value"):
            expected = float(cell[name])
            assert row[name] == (None if np.isnan(expected) else expected)


def test_missing_cells_are_hatched_and_named_in_the_legend(grid):
    spec = heatmap(grid).to_dict()
    assert [layer["mark"]["type"] for layer in spec["layer"]] == ["rect", "rect", "point"]
    missing = {(row["layer"], row["token"]) for row in rows_of(spec, layer=1)}
    assert missing == {(layer, "-8") for layer in range(32)} | {(3, "-7")}
    assert spec["layer"][2]["encoding"]["shape"]["scale"]["domain"] == ["not measured"]
    assert "33 of 448 cells are not measured" in spec["description"]


def test_grid_without_gaps_has_no_such_legend(grid):
    filled = grid.fillna(0.5).assign(n_examples=xr.full_like(grid.n_examples, 80))
    spec = heatmap(filled).to_dict()
    assert len(spec["layer"]) == 1


def test_correlation_is_that_of_numpy(grid):
    gaps = grid.copy()
    gaps["score"] = grid.score.where(~((grid.token == "-5") & (grid.example < 30)))
    r = point_biserial(gaps)
    for layer, token in [(0, "last_q"), (14, "exact_answer_last"), (7, "-5")]:
        score = gaps.score.sel(layer=layer, token=token).values
        scored = ~np.isnan(score)
        expected = np.corrcoef(score[scored], gaps.correct.values[scored])[0, 1]
        assert float(r.sel(layer=layer, token=token)) == pytest.approx(abs(expected), abs=1e-12)
    colour = heatmap(gaps, measure="correlation").to_dict()["layer"][0]["encoding"]["color"]
    assert colour["field"] == "correlation"
    assert colour["scale"]["domain"] == [0.0, 1.0]
    assert colour["title"] == MEASURES["correlation"][0]


def test_correlation_is_missing_where_it_has_no_meaning(grid):
    flat = grid.copy()
    flat["score"] = grid.score.where(grid.token != "-5", 0.3)
    flat["score"] = flat.score.where((grid.token != "-6") | (grid.example < 2))
    r = point_biserial(flat)
    assert r.sel(token=["-5", "-6"]).isnull().all()
    assert r.sel(token="-4").notnull().all()
    one_sided = flat.assign_coords(correct=("example", np.ones(80, bool)))
    assert point_biserial(one_sided).isnull().all()


def test_bad_input(grid, tmp_path):
    with pytest.raises(
        ValueError, match=r"measure must be one of auroc, correlation; got 'accuracy'"
    ):
        heatmap(grid, measure="accuracy")
    with pytest.raises(TypeError, match=r"xarray Dataset.*got a DataFrame"):
        heatmap(grid.auroc.to_dataframe())
    with pytest.raises(ValueError, match=r"no variable 'auroc'; it has p_value"):
        heatmap(grid[["p_value"]])
    with pytest.raises(ValueError, match=r"no variable 'score'"):
        heatmap(grid.drop_vars("score"), measure="correlation")
    with pytest.raises(ValueError, match=r"must be over"):
        heatmap(grid.rename(layer="depth"))
    with pytest.raises(ValueError, match=r"The grid is empty"):
        heatmap(grid.isel(layer=[]))
    with pytest.raises(ValueError, match=r"Unknown token 'last'.*The grid has last_q"):
        heatmap(grid, tokens=["last_q", "last"])
    with pytest.raises(TypeError, match=r"tokens must be a list"):
        heatmap(grid, tokens="last_q")
    with pytest.raises(ValueError, match=r"A token is given twice"):
        heatmap(grid, tokens=["-1", "-1"])
    with pytest.raises(ValueError, match=r"none of the tokens asked for"):
        heatmap(grid.sel(token=["-1"]), tokens=["last_q"])
    with pytest.raises(
        ValueError, match=r"outline names cells that are not drawn: \[\(99, '-1'\)\]"
    ):
        heatmap(grid, outline=[(99, "-1")])
    with pytest.raises(ValueError, match=r"mute must be True, False or a level"):
        heatmap(grid, mute=5)
    with pytest.raises(ValueError, match=r"mute needs p_corrected or p_value"):
        heatmap(grid.drop_vars("p_value"), mute=True)
    with pytest.raises(TypeError, match=r"dict of name to grid, .*; got a list"):
        compare_splits([grid, grid])
    with pytest.raises(ValueError, match=r"no grid to draw"):
        small_multiples({})
    with pytest.raises(ValueError, match=r"different layers. Use small_multiples"):
        compare_splits({"a": grid, "b": make_grid(layers=6)})
    with pytest.raises(ValueError, match=r"columns must be a whole number of at least 1, got 0"):
        small_multiples({"a": grid}, columns=0)
    with pytest.raises(ValueError, match=r"no variable 'gain'"):
        gain(grid)
    twice = xr.concat([grid, grid], dim="layer")
    with pytest.raises(ValueError, match=r"needs a coordinate 'layer' with a different label"):
        heatmap(twice.drop_vars("correct").assign_coords(correct=grid.correct))


def test_columns_are_those_asked_for(grid):
    spec = heatmap(grid.sel(token=["-1", "last_q"]), tokens=["-1", "exact_answer_last"]).to_dict()
    assert spec["layer"][0]["encoding"]["x"]["scale"]["domain"] == ["-1", "exact_answer_last"]
    rows = rows_of(spec)
    assert {row["token"] for row in rows if row["auroc"] is None} == {"exact_answer_last"}


def test_nothing_measured_is_drawn_as_such(grid):
    chart = heatmap(grid.assign(auroc=grid.auroc * np.nan))
    assert chart.description.endswith("No cell is measured.")
    assert len(rows_of(chart.to_dict(), layer=1)) == 32 * 14


def test_muted_cells_are_those_without_significance(grid):
    corrected = grid.assign(p_corrected=(grid.p_value * 20).clip(max=1))
    for drawn, p, words in [
        (grid, "p_value", "p > 0.01, uncorrected"),
        (corrected, "p_corrected", "p > 0.01"),
    ]:
        spec = heatmap(drawn, mute=0.01).to_dict()
        shape = spec["layer"][-1]["encoding"]["shape"]
        assert shape["scale"]["domain"] == ["not measured", words]
        veiled = {(row["layer"], row["token"]) for row in rows_of(spec, layer=2)}
        expected = {
            (int(layer), str(token))
            for layer in drawn.layer
            for token in FIGURE_TOKENS
            if float(drawn[p].sel(layer=layer, token=token)) > 0.01
        }
        assert veiled == expected


def test_the_least_p_that_permutations_can_give_is_significant_at_its_level(grid):
    """Of 19 permutations it is 0.05 itself: what the text counts as beating chance isn't muted."""
    least = grid.assign(p_corrected=xr.full_like(grid.p_value, 1 / (1 + 19)))
    assert "p > 0.05" not in str(heatmap(least, mute=True).to_dict())


def test_outlines_are_named_in_the_legend(grid):
    chart = heatmap(grid, outline=[(14, "exact_answer_last"), (13, "exact_answer_first")])
    spec = chart.to_dict()
    marks = rows_of(spec, layer=len(spec["layer"]) - 1)
    named = {(row["layer"], row["token"]): row["state"] for row in marks}
    assert named[14, "exact_answer_last"] == "best cell"
    assert named[13, "exact_answer_first"] == "not distinguishable"
    assert "distinguishable from the best: 1" in chart.description


def made_detector(grid):
    """Layer 2 has no measure, and the token -3 no row."""
    layers = grid.layer.values
    tokens = [token for token in grid.token.values if token != "-3"]
    rest = {"auroc_low": 0.6, "auroc_high": 0.8, "p_value": 0.01, "n_examples": 80}
    by_layer = pd.DataFrame({"layer": layers, "auroc": 0.6 + layers / 100, **rest})
    by_layer.loc[by_layer.layer == 2, ["auroc", "auroc_low", "auroc_high", "p_value"]] = np.nan
    by_layer.loc[by_layer.layer == 5, "p_value"] = 0.2
    by_token = pd.DataFrame({"token": tokens, "auroc": np.linspace(0.6, 0.8, len(tokens)), **rest})
    return SimpleNamespace(**rest | {"auroc": 0.87}, by_layer=by_layer, by_token=by_token)


def test_detector_adds_a_strip_a_side_and_a_corner(grid):
    grid = grid.assign(p_corrected=grid.p_value)
    detector = made_detector(grid)
    chart = heatmap(grid, mute=True, outline=[(14, "-1")], detector=detector)
    spec = chart.to_dict()
    main, right, below, corner = spec["concat"]
    assert spec["columns"] == 2
    assert rows_of(main) == rows_of(heatmap(grid).to_dict())
    layers = {row["layer"]: row["auroc"] for row in rows_of(right)}
    assert list(layers) == list(range(32))
    assert layers[2] is None
    assert layers[31] == pytest.approx(0.91)
    tokens = {row["token"]: row["auroc"] for row in rows_of(below)}
    assert list(tokens) == list(FIGURE_TOKENS)
    assert tokens["-3"] is None
    assert tokens["-1"] == detector.by_token.set_index("token").auroc["-1"]
    assert [row["auroc"] for row in rows_of(corner)] == [0.87]
    # One scale of colours and one legend; cells that lie beside each other have one size.
    colours = [panel["layer"][0]["encoding"]["color"] for panel in spec["concat"]]
    assert all(colour == colours[0] for colour in colours)
    shapes = [panel["layer"][-1]["encoding"]["shape"]["scale"] for panel in (main, right, below)]
    assert all(shape == shapes[0] for shape in shapes)
    words = ["best cell", "not measured", "p > 0.05", "p > 0.05, uncorrected"]
    assert shapes[0]["domain"] == words
    states = {row["layer"]: row["state"] for row in rows_of(right, layer=-1)}
    assert states == {2: "not measured", 5: "p > 0.05, uncorrected"}
    assert (right["height"], below["width"]) == (main["height"], main["width"])
    axes = [panel["layer"][0]["encoding"] for panel in (right, below)]
    assert axes[0]["y"]["scale"]["domain"] == list(range(32))
    assert axes[1]["x"]["scale"]["domain"] == list(FIGURE_TOKENS)
    names = {row.get("all_tokens", row.get("all_layers")) for row in rows_of(right)}
    assert names == {"all tokens"}
    shown = [tip["field"] for tip in axes[0]["tooltip"]]
    assert shown == ["layer", "auroc", "auroc_low", "auroc_high", "n_examples", "p_value"]
    assert "All cells as one detector: 0.87. Cells of one layer: highest 0.91 at 31." in (
        chart.description
    )


def test_a_gain_that_rounds_to_nothing_has_no_minus(grid):
    detector = made_detector(grid)
    detector.gain, detector.gain_low, detector.gain_high = -0.001, -0.03, 0.02
    assert (
        heatmap(grid, detector=detector)
        .to_dict()["title"]["subtitle"][-1]
        .endswith("; less all controls: +0.00 [-0.03, +0.02]")
    )


def test_detector_needs_the_measure_it_has(grid):
    with pytest.raises(ValueError, match=r"measured by its AUROC"):
        heatmap(grid, measure="correlation", detector=made_detector(grid))


@pytest.mark.parametrize("layers", [1, 2, 12, 30, 80, 126])
def test_any_depth_keeps_ticks_and_room_for_their_labels(layers):
    spec = heatmap(make_grid(layers=layers, examples=4)).to_dict()
    assert spec["layer"][0]["encoding"]["y"]["axis"]["values"] == list(range(0, layers, 2))
    assert spec["height"] % layers == 0  # whole pixels
    assert 2 * spec["height"] / layers >= 15


def test_layers_that_were_not_all_captured(grid):
    for layers in ([1, 5, 9], [0, 5, 10]):
        spec = heatmap(grid.sel(layer=layers)).to_dict()
        assert spec["layer"][0]["encoding"]["y"]["axis"]["values"] == layers


def test_splits_share_scale_and_legend(grid):
    held_out = grid.assign(auroc=grid.auroc.fillna(0.5))
    spec = compare_splits({"random": grid, "answer": held_out}, mute=True).to_dict()
    assert [panel["title"] for panel in spec["hconcat"]] == ["random", "answer"]
    colours = [panel["layer"][0]["encoding"]["color"] for panel in spec["hconcat"]]
    assert colours[0] == colours[1]
    # One legend: each panel has all notes, in one order, or their marks would be mixed up.
    shapes = [panel["layer"][-1]["encoding"]["shape"]["scale"] for panel in spec["hconcat"]]
    assert shapes[0] == shapes[1]
    assert "random: Heatmap of the AUROC" in spec["description"]


def test_each_split_says_how_many_of_its_cells_are_above_chance(grid):
    p = xr.full_like(grid.auroc, 0.06)
    some, none = p.copy(), p
    some[:2] = 0.05  # two layers, of whose tokens only the drawn ones count
    grids = {
        name: grid.assign(p_corrected=p, null=("permutation", np.zeros(n)))
        for name, p, n in (("a", some, 19), ("b", none, 19), ("c", some, 18))
    }
    spec = compare_splits(grids, tokens=["last_q", "-1"]).to_dict()
    titles = [panel["title"] for panel in spec["hconcat"]]
    assert titles[0] == {"text": "a", "subtitle": "4 of 64 cells above chance"}
    assert titles[1] == {
        "text": "b",
        "subtitle": "none of 64 cells above chance: nothing is shown",
    }
    assert titles[2] == "c"  # eighteen permutations can't show it


def test_cells_wholly_below_chance_are_marked(grid):
    place = {"layer": [0, 1], "token": ["-1"]}
    high = grid.auroc_high.copy()
    high.loc[place] = [[0.49], [0.5]]  # the second reaches chance
    grid = grid.assign(auroc_high=high, p_value=xr.ones_like(high))
    chart = heatmap(grid, mute=True)
    for spec in (chart.to_dict(), compare_splits({"a": grid}, mute=True).to_dict()["hconcat"][0]):
        marks = rows_of(spec, layer=-1)
        below = [(r["layer"], r["token"]) for r in marks if r["state"] == "below chance"]
        assert below == [(0, "-1")]
        stroke = spec["layer"][-1]["encoding"]["stroke"]["scale"]
        colours = dict(zip(stroke["domain"], stroke["range"], strict=True))
        assert list(colours) == ["not measured", "below chance", "p > 0.05, uncorrected"]
        assert colours["below chance"] == "#d55e00"
    veiled = rows_of(chart.to_dict(), layer=2)
    assert (0, "-1") in {(row["layer"], row["token"]) for row in veiled}
    assert "Cells below chance, with their whole interval: 1." in chart.description
    for plain in (
        heatmap(grid, measure="correlation"),
        heatmap(grid.drop_vars("auroc_high")),
        small_multiples({"a": grid}),
    ):
        assert '"below chance"' not in plain.to_json()


def with_counts(grid, most, least):
    """The exact answer's tokens have fewer answers than the others; -8 has none."""
    few = grid.token.str.startswith("exact")
    n = xr.where(few, least, most).where(grid.auroc.notnull(), 0)
    return grid.assign(n_examples=n.transpose("layer", "token"))


def test_numbers_of_answers_stand_above_columns_that_differ(grid):
    drawn = with_counts(grid, 965, 860)
    for spec in (
        heatmap(drawn).to_dict(),
        heatmap(drawn, detector=made_detector(grid)).to_dict()["concat"][0],
    ):
        *_, numbers, name = spec["layer"]
        assert rows_of(name) == [{"name": "n"}]
        expected = {t: 860 if t.startswith("exact") else 965 for t in FIGURE_TOKENS if t != "-8"}
        assert {row["token"]: row["n"] for row in rows_of(numbers)} == expected
        assert numbers["encoding"]["y"]["value"] < 0  # above the cells
        assert numbers["mark"]["angle"] == 0
    wide = heatmap(with_counts(grid, 12345, 999)).to_dict()["layer"][-2]
    assert wide["mark"]["angle"] == 315  # five digits are wider than a column


def test_columns_that_hardly_differ_have_no_numbers(grid):
    alike = with_counts(grid, 965, 870)
    marks = [layer["mark"]["type"] for layer in heatmap(alike).to_dict()["layer"]]
    assert "text" not in marks
    # Columns that are not drawn don't count.
    tokens = ["last_q", "-1"]
    marks = heatmap(with_counts(grid, 965, 1), tokens=tokens).to_dict()["layer"]
    assert [layer["mark"]["type"] for layer in marks] == ["rect"]


def test_common_answers_have_an_auroc_of_their_own(grid):
    on_common = (grid.auroc - 0.02).assign_attrs(n_examples=411)
    drawn = with_counts(grid, 965, 400).assign(auroc_common=on_common)
    chart = heatmap(drawn, common=True)
    spec = chart.to_dict()
    assert spec["title"]["subtitle"] == ["on the 411 answers that have all tokens"]
    assert "Measured on the 411 answers that have all tokens." in chart.description
    rows = rows_of(spec)
    assert set(rows[0]) == {"layer", "token", "auroc"}  # the rest is of the other AUROC
    for row in rows:
        expected = float(on_common.sel(layer=row["layer"], token=row["token"]))
        assert row["auroc"] == (None if np.isnan(expected) else expected)
    assert "text" not in [layer["mark"]["type"] for layer in spec["layer"]]
    with pytest.raises(ValueError, match=r"no variable 'auroc_common'"):
        heatmap(grid, common=True)
    with pytest.raises(ValueError, match=r"lacks the attribute 'n_examples'"):
        heatmap(grid.assign(auroc_common=grid.auroc), common=True)
    for more in ({"measure": "correlation"}, {"mute": True}, {"detector": made_detector(grid)}):
        with pytest.raises(ValueError, match=r"common=True draws an AUROC that has no p"):
            heatmap(drawn, common=True, **more)


def test_small_multiples_have_their_own_layers(grid):
    spec = small_multiples({"deep": grid, "shallow": make_grid(12)}, columns=2).to_dict()
    domains = [panel["layer"][0]["encoding"]["y"]["scale"]["domain"] for panel in spec["concat"]]
    assert domains == [list(range(32)), list(range(12))]
    assert spec["columns"] == 2
    assert spec["resolve"]["scale"]["y"] == "independent"


def test_small_multiples_of_few_cells_are_no_posters(grid):
    few = grid.isel(layer=[6, 15, 24])
    tokens = ["last_q", "-8", "-1"]  # the second is not measured, and hatched
    for drawn, wide in ((few, tokens), (few, LABELS), (grid, tokens)):
        panel = small_multiples({"a": drawn}, tokens=wide).to_dict()["concat"][0]
        width = panel["width"] / len(wide)
        height = panel["height"] / drawn.sizes["layer"]
        assert 15 <= width <= 40
        assert height <= 40
        # The sign is as large in the legend as in a cell: larger, it would lie over other signs.
        shapes = panel["layer"][-1]["encoding"]["shape"]["scale"]
        hatch = shapes["range"][shapes["domain"].index("not measured")]
        x, y = map(float, re.fullmatch(r"M(.+),(.+)L.+", hatch).groups())
        assert -2 * x == width
        assert 2 * y == min(20, height)


def test_gain_is_symmetric_and_marks_what_is_unclear_or_worse(grid):
    difference = (grid.auroc - 0.62).rename("gain")
    gains = xr.Dataset(
        {"gain": difference, "gain_low": difference - 0.05, "gain_high": difference + 0.05}
    )
    chart = gain(gains)
    spec = chart.to_dict()
    colour = spec["layer"][0]["encoding"]["color"]["scale"]
    low, high = colour["domain"]
    assert -low == high >= float(np.abs(difference).max())
    assert colour["scheme"] == "blueorange"
    marks = rows_of(spec, layer=len(spec["layer"]) - 1)
    for row in marks:
        cell = gains.sel(layer=row["layer"], token=row["token"])
        if row["state"] == "worse":
            assert cell.gain_high < 0
        elif row["state"] == "interval includes 0":
            assert cell.gain_low <= 0 <= cell.gain_high
        else:
            assert cell.gain.isnull()
    assert {row["state"] for row in marks} == {"worse", "interval includes 0", "not measured"}
    assert "gain in AUROC over the best control" in chart.description


@pytest.fixture
def gains(grid):
    difference = grid.auroc - 0.62
    return xr.Dataset(
        {
            "gain": difference,
            "gain_low": difference - 0.05,
            "gain_high": difference + 0.05,
            "gain_low_simultaneous": difference - 0.1,
            "gain_high_simultaneous": difference + 0.1,
            "absorbed": (1.4 - 3 * (grid.auroc - 0.5)).clip(0, 1).where(grid.auroc > 0.55),
        },
        attrs={"control": "all"},
    )


def test_gain_is_muted_by_the_interval_for_all_cells_at_once(gains):
    chart = gain(gains)
    spec = chart.to_dict()
    marks = rows_of(spec, layer=-1)
    states = {(row["layer"], row["token"]): row["state"] for row in marks}
    for row in rows_of(spec):
        low, high = row["gain_low_simultaneous"], row["gain_high_simultaneous"]
        if row["gain"] is None:
            expected = "not measured"
        elif low <= 0 <= high:
            expected = "simultaneous interval includes 0"
        else:
            expected = "worse" if high < 0 else None
        assert states.get((row["layer"], row["token"])) == expected
    assert set(states.values()) == {
        "not measured",
        "simultaneous interval includes 0",
        "worse",
    }
    # Some cells are beyond 0 by their own interval alone.
    pointwise = gain(gains.drop_vars(["gain_low_simultaneous", "gain_high_simultaneous"]))
    assert len(rows_of(pointwise.to_dict(), layer=-1)) != len(marks)
    muted = sum(state.startswith("simul") for state in states.values())
    assert f"{muted} cells: simultaneous interval includes 0." in chart.description


def test_gain_says_over_what_it_is(gains):
    for attrs, rival in [
        ({"control": "all"}, "all controls together"),
        ({"control": "question"}, "the best control"),
        ({}, "the best control"),
    ]:
        chart = gain(gains.drop_attrs().assign_attrs(attrs))
        spec = chart.to_dict()
        colour = spec["layer"][0]["encoding"]["color"]
        assert colour["title"] == ["Gain in AUROC over", rival]
        assert spec["title"]["text"] == f"Gain over {rival}"
        assert f"gain in AUROC over {rival}" in chart.description
    assert gain(gains, title="Mine").to_dict()["title"]["text"] == "Mine"


def test_gain_says_how_many_cells_are_higher_and_lower(gains):
    drawn = gains.sel(token=LABELS)
    higher = int((drawn.gain_low_simultaneous > 0).sum())
    lower = int((drawn.gain_high_simultaneous < 0).sum())
    known = int(drawn.gain.notnull().sum())
    assert higher and lower
    said = f"{higher} of {known} cells higher, {lower} lower"
    assert gain(gains).to_dict()["title"]["subtitle"] == [said]
    low = gains.assign(gain_low_simultaneous=gains.gain_low_simultaneous - 1)
    said = f"none of {known} cells higher, {lower} lower"
    assert gain(low).to_dict()["title"]["subtitle"] == [said]
    # Without intervals it can't be said, and without one in a cell not of that cell.
    assert gain(gains[["gain"]]).to_dict()["title"] == "Gain over all controls together"
    cell = {"layer": [5], "token": ["-1"]}
    assert gains.gain_low_simultaneous.loc[cell].notnull().all()
    gains.gain_low_simultaneous.loc[cell] = np.nan
    assert f" of {known - 1} cells" in gain(gains).to_dict()["title"]["subtitle"][0]


def test_a_difference_of_grids_is_drawn_as_a_gain(gains):
    names = {name: name.replace("gain", "difference") for name in gains.data_vars}
    found = gains.rename(names).drop_attrs()
    attrs = {"a": "site mlp_out", "b": "site resid_post", "comparison": "paired", "n_shared": 80}
    spec, plain = gain(found.assign_attrs(attrs)).to_dict(), gain(gains).to_dict()
    assert spec["title"] == {
        "text": "Difference in AUROC",
        "subtitle": [
            "site mlp_out less site resid_post",
            "on the 80 answers that both have",
            *plain["title"]["subtitle"],
        ],
    }
    assert rows_of(spec) == rows_of(plain)
    assert [layer["mark"] for layer in spec["layer"]] == [layer["mark"] for layer in plain["layer"]]
    assert spec["layer"][0]["encoding"]["color"]["title"] == ["Difference in", "AUROC"]
    assert spec["description"].startswith("Heatmap of the difference in AUROC")
    assert gain(found).to_dict()["title"]["subtitle"][0] == "grid_a less grid_b"


def test_absorbed_is_a_share_and_hatched_without_a_signal(gains):
    chart = absorbed(gains)
    spec = chart.to_dict()
    colour = spec["layer"][0]["encoding"]["color"]
    assert colour["field"] == "absorbed"
    assert colour["scale"] == {"scheme": "purples", "domain": [0, 1]}
    without = set()
    for row in rows_of(spec):
        value = float(gains.absorbed.sel(layer=row["layer"], token=row["token"]))
        assert row["absorbed"] == (None if np.isnan(value) else value)
        if np.isnan(value):
            without.add((row["layer"], row["token"]))
    marks = rows_of(spec, layer=-1)
    assert {(row["layer"], row["token"]) for row in marks} == without
    assert {row["state"] for row in marks} == {"no signal, or not measured"}
    assert f"{len(without)} of 448 cells have no signal" in chart.description
    with pytest.raises(ValueError, match=r"no variable 'absorbed'"):
        absorbed(gains.drop_vars("absorbed"))


def test_a_click_can_be_listened_to(grid):
    selection = alt.selection_point(name="cell", fields=["layer", "token"])
    spec = heatmap(grid, mute=True).add_params(selection).to_dict()
    assert spec["params"][0]["name"] == "cell"


def test_charts_use_no_hidden_state(grid):
    before = alt.theme.active
    assert heatmap(grid).to_dict() == heatmap(grid).to_dict()
    assert alt.theme.active == before


def with_p(grid, below):
    """The grid with corrected p of 0.03 in so many cells of each column, 0.001 in one, else 1."""
    p = np.ones((grid.sizes["layer"], grid.sizes["token"]))
    p[:below], p[0] = 0.03, 0.001
    return grid.assign(p_corrected=(("layer", "token"), p), null=("permutation", np.zeros(19)))


def test_the_subtitle_counts_the_cells_that_are_drawn_whatever_their_order(grid):
    found = with_p(grid, 4)
    for each in (found, found.transpose("token", "layer", ...)):
        lines = heatmap(each, tokens=["last_q", "-1"]).title.subtitle
        assert lines[-1].endswith("8 of 64 cells above chance")
        lines = heatmap(each, tokens=["last_q", "-1"], mute=0.01).title.subtitle
        assert lines[-1].endswith("2 of 64 cells above chance (p of at most 0.01)")


def test_the_subtitle_counts_the_answers_of_the_cells_that_are_drawn(grid):
    short = grid.assign_attrs(model="m", split="random")
    short["score"] = short["score"].copy()
    short["score"].loc[{"token": "-7"}] = (
        short["score"].sel(token="-7").where(short["example"] < 30)
    )
    wrong = int((~short["correct"][:30]).sum())
    assert f"30 answers, {wrong} wrong" in heatmap(short, tokens=["-7"]).title.subtitle[0]
    assert "80 answers" in heatmap(short).title.subtitle[0]
