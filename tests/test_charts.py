import json

import altair as alt
import numpy as np
import pytest
import xarray as xr

from probekit.charts import MEASURES, heatmap, point_biserial, save_chart, static
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
    spec = heatmap(grid.fillna(0.5)).to_dict()
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


def test_all_formats_are_written_and_nothing_else(grid, tmp_path):
    paths = save_chart(heatmap(grid), tmp_path / "new" / "heatmap")
    assert [path.name for path in paths] == [
        f"heatmap.{form}" for form in ("json", "svg", "png", "pdf", "html")
    ]
    assert sorted(paths) == sorted((tmp_path / "new").iterdir())
    spec = json.loads(paths[0].read_text())
    assert spec["layer"][0]["encoding"]["x"]["scale"]["domain"] == LABELS
    assert 'aria-label="Heatmap of the AUROC' in paths[1].read_text()
    assert paths[2].read_bytes().startswith(b"\x89PNG")
    assert paths[3].read_bytes().startswith(b"%PDF")


def test_static_picture_has_alternative_text(grid):
    chart = heatmap(grid)
    data, metadata = static(chart)._repr_mimebundle_()
    assert set(data) == {"image/png"} or "image/png" in data
    assert metadata["image/png"]["alt"] == chart.description
    assert 300 < metadata["image/png"]["width"] < 700


def test_bad_input(grid, tmp_path):
    with pytest.raises(ValueError, match=r"measure='accuracy' is unknown.*auroc, correlation"):
        heatmap(grid, measure="accuracy")
    with pytest.raises(TypeError, match=r"xarray Dataset.*got DataFrame"):
        heatmap(grid.auroc.to_dataframe())
    with pytest.raises(ValueError, match=r"no variable 'auroc'; it has p_value"):
        heatmap(grid[["p_value"]])
    with pytest.raises(ValueError, match=r"no variable 'score'"):
        heatmap(grid.drop_vars("score"), measure="correlation")
    with pytest.raises(ValueError, match=r"must be over"):
        heatmap(grid.rename(layer="depth"))
    with pytest.raises(ValueError, match=r"the grid is empty"):
        heatmap(grid.isel(layer=[]))
    with pytest.raises(ValueError, match=r"unknown token 'last'.*The grid has last_q"):
        heatmap(grid, tokens=["last_q", "last"])
    with pytest.raises(TypeError, match=r"sequence of names"):
        heatmap(grid, tokens="last_q")
    with pytest.raises(TypeError, match=r"Altair chart, got dict"):
        save_chart({}, tmp_path / "a.png")
    with pytest.raises(TypeError, match=r"Altair chart, got Dataset"):
        static(grid)


def test_charts_use_no_hidden_state(grid):
    before = alt.theme.active
    assert heatmap(grid).to_dict() == heatmap(grid).to_dict()
    assert alt.theme.active == before
