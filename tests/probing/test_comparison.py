"""How two grids differ: against DeLong's own sums, a bootstrap, and differences that are known."""

import numpy as np
import pytest
import xarray as xr
from nightly import most, quarter
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

import probekit as pk

CELLS = ("layer", "token")
LAYERS, TOKENS = [1, 4], ["last_q", "-1"]


def grid_of(z, wrong, ids=None, others=None, **more):
    """Grid whose cells have the log-odds `z` (example, layer, token)."""
    n = len(wrong)
    grid = xr.Dataset(
        {
            "auroc": (CELLS, np.full(z.shape[1:], np.nan)),
            "score": (("example", *CELLS), 1 / (1 + np.exp(-z))),
            "fold": ("example", np.arange(n) % 5),
        },
        coords={
            "layer": LAYERS[: z.shape[1]],
            "token": TOKENS[: z.shape[2]],
            "id": ("example", [f"q{i}" for i in range(n)] if ids is None else ids),
            "correct": ("example", ~wrong),
        },
        attrs={"split": "random", "site": "mlp_out"} | more,
    )
    if others is not None:
        grid["log_odds_without"] = ("other", "example", *CELLS), others
    return grid


def scores(random, wrong, common, area, share=0.6):
    """Scores of this area, of which a share of the variance is common."""
    own = random.standard_normal(common.shape)
    z = np.sqrt(share) * common + np.sqrt(1 - share) * own
    return z + np.sqrt(2) * norm.ppf(area) * wrong[:, None, None]


def pair(seed=0, n=300, areas=(0.75, 0.65), agree=1.0):
    """Two grids of the same questions; with agree < 1, some are wrong in one alone."""
    random = np.random.default_rng(seed)
    wrong = random.random(n) < 0.4
    turned = np.where(random.random(n) < agree, wrong, random.random(n) < 0.4)
    common = random.standard_normal((n, 2, 2))
    sides = zip((wrong, turned), areas, ("mlp_out", "resid_post"), strict=True)
    return [grid_of(scores(random, w, common, area), w, site=site) for w, area, site in sides]


def placements(score, wrong):
    """DeLong's V10 and V01, pair by pair."""
    above = np.array(
        [[(x > y) + 0.5 * (x == y) for y in score[~wrong]] for x in score[wrong]], float
    )
    return above.mean(1), above.mean(0)


def test_paired_interval_is_that_of_delong():
    a, b = pair()
    a["score"][:40, 0, 0] = np.nan  # one side lacks the token: both are measured without these
    a["score"] = a["score"].round(2)  # ties
    found = pk.difference(a, b)
    wrong = ~a["correct"].to_numpy()
    assert found.attrs["comparison"] == "paired"
    assert found.attrs["a"] == "site mlp_out"
    assert found.attrs["n_shared"] == 300
    for layer in LAYERS:
        for token in TOKENS:
            x, y = (g["score"].sel(layer=layer, token=token).to_numpy() for g in (a, b))
            there = np.isfinite(x) & np.isfinite(y)
            sides = [placements(s[there], wrong[there]) for s in (x, y)]
            variance = sum(
                (np.cov(*parts) @ [1, -1] @ [1, -1]) / len(parts[0])
                for parts in zip(*sides, strict=True)
            )
            areas = [roc_auc_score(wrong[there], s[there]) for s in (x, y)]
            cell = found.sel(layer=layer, token=token)
            assert (
                cell["n_a"]
                == cell["n_b"]
                == there.sum()
                == (260 if layer == 1 and token == "last_q" else 300)
            )
            np.testing.assert_allclose([cell["auroc_a"], cell["auroc_b"]], areas)
            reach = norm.isf(0.025) * np.sqrt(variance)
            expected = [areas[0] - areas[1] + side * reach for side in (0, -1, 1)]
            names = ("difference", "difference_low", "difference_high")
            np.testing.assert_allclose([cell[name] for name in names], expected)


def test_models_that_err_on_different_questions_are_paired_by_question():
    a, b = pair(n=200, agree=0.5)
    wrong = [~g["correct"].to_numpy() for g in (a, b)]
    assert (wrong[0] != wrong[1]).sum() > 20
    found = pk.difference(a, b.isel(example=slice(None, None, -1)))  # another order
    x, y = (g["score"].sel(layer=4, token="-1").to_numpy() for g in (a, b))
    random, drawn = np.random.default_rng(0), []
    for _ in range(2000):
        i = random.integers(200, size=200)
        drawn.append(roc_auc_score(wrong[0][i], x[i]) - roc_auc_score(wrong[1][i], y[i]))
    cell = found.sel(layer=4, token="-1")
    error = float(cell["difference_high"] - cell["difference_low"]) / 2 / norm.isf(0.025)
    # The bootstrap's own error is 1.6 %; without the pairing it would be another third.
    assert error == pytest.approx(np.std(drawn), rel=0.05)


def test_different_answers_are_unpaired():
    (a, _), (_, b) = pair(0), pair(1, n=200)
    b["id"] = "example", [f"p{i}" for i in range(200)]
    found = pk.difference(a, b)
    assert found.attrs["comparison"] == "unpaired"
    assert found.attrs["n_shared"] == 0
    assert "300 and 200 answers to different questions" in found.attrs["description"]
    for layer in LAYERS:
        areas, variance = [], 0
        for g in (a, b):
            wrong = ~g["correct"].to_numpy()
            score = g["score"].sel(layer=layer, token="-1").to_numpy()
            areas.append(roc_auc_score(wrong, score))
            variance += sum(np.var(part, ddof=1) / len(part) for part in placements(score, wrong))
        cell = found.sel(layer=layer, token="-1")
        assert cell["difference"] == pytest.approx(areas[0] - areas[1])
        reach = float(cell["difference"] - cell["difference_low"])
        assert reach == pytest.approx(norm.isf(0.025) * np.sqrt(variance))
        assert (cell["n_a"], cell["n_b"]) == (300, 200)
    # The same ids in another question file are other questions.
    same = [
        g.isel(example=slice(200)).assign_coords(
            id=("example", [str(i) for i in range(200)]),
            question=("example", [f"{name} {i}?" for i in range(200)]),
        )
        for g, name in ((a, "a"), (b, "b"))
    ]
    assert pk.difference(*same).attrs["comparison"] == "unpaired"


def test_questions_that_only_one_has_are_left_out_and_counted():
    a, b = pair()
    whole = pk.difference(a.isel(example=slice(100, 300)), b.isel(example=slice(100, 300)))
    found = pk.difference(a, b.isel(example=slice(100, 300)))
    xr.testing.assert_allclose(found, whole)
    assert [found.attrs[n] for n in ("n_shared", "n_only_a", "n_only_b")] == [200, 100, 0]
    assert found.attrs["description"].endswith(
        "paired: on the 200 answers that both have; 100 answers that only one has are left out."
    )


def test_cells_are_matched_by_name():
    a, b = pair()
    found = pk.difference(a, b.isel(layer=[1], token=[1, 0]))
    assert found["layer"].values.tolist() == [4]
    assert found["token"].values.tolist() == TOKENS
    xr.testing.assert_allclose(
        found[["difference", "difference_low"]],
        pk.difference(a, b).sel(layer=[4])[["difference", "difference_low"]],
    )
    with pytest.raises(ValueError, match=r"no token in common: one has last_q, -1, the other -3"):
        pk.difference(a, b.assign_coords(token=["-3", "-4"]))
    twice = a.assign_coords(id=("example", ["q0"] * 300))
    with pytest.raises(ValueError, match=r"grid_b has the id 'q0' more than once"):
        pk.difference(a, twice)


@pytest.mark.parametrize("kind", ["same labels", "other labels", "unpaired"])
def test_intervals_hold_as_often_as_they_say(kind):
    n = quarter(800)
    missed, missed_at_once = 0, 0
    for seed in range(n):
        a, b = pair(seed, 200, areas=(0.75, 0.65), agree=0.5 if kind == "other labels" else 1)
        if kind == "unpaired":
            (_, b) = pair(seed + 10_000, 200, areas=(0.75, 0.65))
            b["id"] = "example", [f"p{i}" for i in range(200)]
        found = pk.difference(a, b)
        missed += int(
            (found["difference_low"] > 0.1)[0, 0] | (found["difference_high"] < 0.1)[0, 0]
        )
        missed_at_once += int(
            (
                (found["difference_low_simultaneous"] > 0.1)
                | (found["difference_high_simultaneous"] < 0.1)
            ).any()
        )
    assert 0.02 * n < missed <= most(n)
    assert 0.01 * n < missed_at_once <= most(n)


def test_answers_that_go_together_count_as_one():
    a, b = pair(n=120)
    plain = pk.difference(a, b)
    # Each question three times, as three samples that are the same.
    tripled = []
    for g in (a, b):
        g = g.isel(example=np.repeat(np.arange(120), 3))
        ids = [f"{name}/{i % 3}" for i, name in enumerate(g["id"].values)]
        questions = np.repeat([f"Question {i}?" for i in range(120)], 3)
        tripled.append(g.assign_coords(id=("example", ids), question=("example", questions)))
    found = pk.difference(*tripled)
    width, before = (
        float((g["difference_high"] - g["difference_low"])[0, 0]) for g in (found, plain)
    )
    assert width == pytest.approx(before, rel=0.05)


def test_areas_without_a_visible_error_have_an_interval():
    n = 60
    wrong = np.arange(n) < 20
    perfect = np.where(wrong, 1.0, -1.0)[:, None, None] + np.linspace(0, 0.5, n)[:, None, None]
    a, b = (grid_of(perfect * scale, wrong) for scale in (1.0, 2.0))
    found = pk.difference(a, b)
    assert found["difference"] == 0
    # Each area may be as low as 0.025^(1/20), if 20 pairs are all in order.
    hidden = 1 - 0.025 ** (1 / 20)
    assert found["difference_low"] == pytest.approx(-hidden)
    assert found["difference_high"] == pytest.approx(hidden)
    assert found["difference_low_simultaneous"] <= found["difference_low"]


def test_what_training_adds_to_the_error_is_in_the_interval():
    found = {"same folds": [], "other folds": []}
    for seed in range(quarter(800)):
        random = np.random.default_rng(seed)
        wrong = random.random(120) < 0.5
        # Two sites that know as much as each other, in numbers that no other site has.
        a, b = (
            xr.Dataset(
                {"activation": (("example", *CELLS, "feature"), X)},
                coords={"layer": [0], "token": ["-1"], "correct": ("example", ~wrong)}
                | {"id": ("example", [f"q{i}" for i in range(120)])},
            )
            for X in random.standard_normal((2, 120, 1, 1, 12)) + 0.3 * wrong[:, None, None, None]
        )
        a, same, other = (
            pk.probe_grid(each, seed=of, n_permutations=0, n_jobs=1, progress=False)
            for each, of in ((a, 0), (b, 0), (b, 1))
        )
        for name, b in zip(found, (same, other), strict=True):
            each = pk.difference(a, b)
            error = each["difference_high"] - each["difference_low"]
            found[name].append((each["difference"].item(), error.item() / 2 / norm.isf(0.025)))
    for each in found.values():
        value, error = np.array(each).T
        # Of the tested answers alone it would be 0.84 of how far the differences really vary.
        assert 0.9 < np.sqrt((error**2).mean()) / value.std() < 1.2
