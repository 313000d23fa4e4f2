"""The matrix of runs against runs: what is written in its cells is what was measured."""

import numpy as np
import pytest
import vl_convert
import xarray as xr

from probekit import save_chart, transfer_matrix

NAMES = ["cities", "products", "elements"]


@pytest.fixture
def transfers():
    auroc = np.array([[0.9, 0.62, 0.45], [0.55, 0.8, np.nan], [0.7, 0.5, 0.98]])
    gain = np.array([[0.1, -0.2, -0.002], [0.05, 0.3, np.nan], [np.nan, -0.4, 0.0]])
    over = ("train", "test")
    variables = {"auroc": auroc, "gain": gain}
    for name, values in tuple(variables.items()):
        variables |= {f"{name}_low": values - 0.06, f"{name}_high": values + 0.06}
    variables["auroc_low"][2, 0] = np.nan
    variables["n_examples"] = np.arange(9).reshape(3, 3)
    coords = {"train": NAMES, "test": NAMES}
    return xr.Dataset({n: (over, v) for n, v in variables.items()}, coords)


def panels(chart):
    """Each half's title, and its records by pair."""
    spec, found = chart.to_dict(), []
    for panel in spec["hconcat"]:
        values = (spec | panel)["data"]["values"]  # of the only one, altair puts it outside
        title = panel["layer"][1]["encoding"]["color"]["title"]
        found.append((title, {(row["train"], row["test"]): row for row in values}))
    return found


def test_every_pair_has_its_number_and_interval(transfers):
    (left, areas), (right, gains) = panels(transfer_matrix(transfers))
    assert (left, right) == ("AUROC", "AUROC less that of the tested run's controls")
    assert len(areas) == len(gains) == 9
    for a, b in areas:
        pair = transfers.sel(train=a, test=b)
        if np.isfinite(pair["auroc"]):
            assert areas[a, b]["number"] == f"{float(pair['auroc']):.2f}"
    assert areas["cities", "products"]["between"] == "[0.56, 0.68]"
    assert gains["cities", "products"]["between"] == "[-0.26, -0.14]"
    assert gains["cities", "cities"]["number"] == "+0.10"
    # What rounds to 0 has no minus.
    assert gains["cities", "elements"]["number"] == "+0.00"


def test_what_is_not_measured_says_so(transfers):
    (_, areas), (_, gains) = panels(transfer_matrix(transfers))
    for row in (areas["products", "elements"], gains["elements", "cities"]):
        assert (row["number"], row["between"]) == ("", "not measured")
    assert areas["elements", "cities"]["number"] == "0.70"
    assert areas["elements", "cities"]["between"] == "no interval"


def test_a_gain_is_pale_where_its_interval_holds_0(transfers):
    (_, areas), (_, gains) = panels(transfer_matrix(transfers))
    pale = {pair for pair, row in gains.items() if row["pale"]}
    assert pale == {("cities", "elements"), ("products", "cities"), ("elements", "elements")}
    assert not any(row["pale"] for row in areas.values())
    assert areas["elements", "products"]["note"] == "interval includes 0.5"


def test_rows_are_trained_on_and_columns_tested_on_in_their_order(transfers):
    for panel in transfer_matrix(transfers).to_dict()["hconcat"]:
        encoding = panel["layer"][0]["encoding"]
        for channel, field, title in (("y", "train", "Trained on"), ("x", "test", "Tested on")):
            assert (encoding[channel]["field"], encoding[channel]["title"]) == (field, title)
            assert encoding[channel]["scale"]["domain"] == NAMES
    colour = transfer_matrix(transfers).to_dict()["hconcat"][0]["layer"][1]["encoding"]["color"]
    assert colour["scale"]["domain"] == [0.5, 1.0] and colour["scale"]["scheme"] == "blues"


def test_without_gains_there_is_one_matrix(transfers):
    none = transfers["gain"] * np.nan
    bare = transfers.assign(gain=none, gain_low=none, gain_high=none)
    assert len(panels(transfer_matrix(bare))) == 1


def test_the_description_says_every_pair(transfers):
    text = transfer_matrix(transfers).to_dict()["description"]
    assert "cities on products 0.62 [0.56, 0.68], less controls -0.20" in text
    assert "cities on itself 0.90" in text
    assert text.endswith("Not measured: 1.")


@pytest.mark.parametrize(("name", "angle"), [("products", 0), ("example-products", -30)])
def test_names_wider_than_a_column_are_aslant_and_whole(transfers, name, angle):
    names = [name, "b", "c"]
    chart = transfer_matrix(transfers.assign_coords(train=names, test=names))
    assert {axes(panel)["labelAngle"] for panel in chart.to_dict()["hconcat"]} == {angle}
    svg = vl_convert.vegalite_to_svg(chart.to_dict())
    assert svg.count(f">{name}</text>") == 4  # two axes of each half, not cut
    assert "…" not in svg


def axes(panel):
    """The axis of the columns."""
    return panel["layer"][1]["encoding"]["x"]["axis"]


def test_names_of_runs_are_only_text(transfers, tmp_path):
    hostile = ["<script>alert(1)</script>", "products", "elements"]
    named = transfers.assign_coords(train=hostile, test=hostile)
    save_chart(transfer_matrix(named), tmp_path / "chart")
    for form in ("html", "svg"):
        assert "<script>alert" not in (tmp_path / f"chart.{form}").read_text(encoding="utf-8")
