import re
from dataclasses import fields, replace

import numpy as np
import pytest
import xarray as xr
from nightly import most, quarter
from scipy.stats import binom
from synthetic import flat, long_and_short, make_grid, measured_anew, with_training

import probekit as pk
from probekit import findings
from probekit.interpretation.contrasts import BANDS, areas, shared_answers
from probekit.interpretation.description import describe
from probekit.interpretation.wording import area as area_in_words
from probekit.interpretation.wording import (
    by_how_much,
    change,
    escape,
    layers,
    listing,
    number,
    spans,
)
from probekit.probing.auroc import standard_error
from probekit.probing.detection import Detector
from probekit.probing.grid import probe_grid
from probekit.probing.simultaneous import largest_error
from probekit.tokens import FIGURE_TOKENS

SECTIONS = [
    "### Overview",
    "### Components/Axes",
    "### Detailed Analysis",
    "### Specific Data Points",
    "### Key Observations",
    "### Interpretation",
]
FROM_END = list(FIGURE_TOKENS[-8:])
EXACT = list(FIGURE_TOKENS[3:6])
ANSWER = list(FIGURE_TOKENS[1:6])
GAINS = [f"{name}{end}" for name in ("gain", "added") for end in ("", "_low", "_high")]
NONE = "There are no clear differences."


def observation(text, title):
    """The bullet of a key observation."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"* **{title}")]
    return line


def lead(text):
    """The first paragraph."""
    return text.split("\n\n")[1]


def rows(text, heading):
    """Columns of the table that has a heading, each top down."""
    (table,) = [part for part in text.split("\n\n") if heading in part.split("\n")[0]]
    return list(zip(*(line.strip("|").split("|") for line in table.splitlines()[2:]), strict=True))


def hill(profile, tokens, base=0.6, layers=16):
    """Areas that are `base` but follow a profile over the layers at some tokens."""
    true = flat(base, layers)
    true.loc[:, list(tokens)] = np.asarray(profile, float)[:, None]
    return true


def middle_peak(layers=16):
    depth = (np.arange(layers) + 0.5) / layers
    return 0.6 + 0.35 * np.exp(-(((depth - 0.5) / 0.1) ** 2))


# findings: the tables


def test_findings_names_the_best_cell_and_every_tokens_best_layer():
    grid = make_grid(hill(middle_peak(), ["exact_answer_first"]))
    found = findings(grid)
    assert found.peak.token == "exact_answer_first"
    assert found.peak.layer in (6, 7, 8, 9)
    assert list(found.tokens.index) == list(FIGURE_TOKENS)
    assert len(found.layers) == 16
    assert found.summary.startswith("The best cell is layer ")
    assert found.markdown.startswith("- The best cell")
    assert "layer 7.0" not in found.markdown


def test_findings_refuses_what_is_no_grid():
    with pytest.raises(TypeError, match="probe_grid"):
        findings([1])
    grid = make_grid(flat(layers=2), n=20)
    with pytest.raises(ValueError, match="no cell"):
        findings(grid.assign(auroc=grid["auroc"] * np.nan))


# describe: the first paragraph


def test_the_first_paragraph_is_short_and_says_first_whether_anything_is_shown(repository):
    """Of real runs, of noise, and with all that can be given and with nothing."""
    run = pk.Run(repository / "data/example")
    grids = {split: run.grid(split) for split in ("random", "answer")}
    given = {"controls": run.controls("random"), "detector": run.detector()}
    full = describe(grids["random"], held_out=grids["answer"], **given)
    assert len(full.split()) <= 900, "a colleague reads it in minutes"
    noise = make_grid(flat(layers=6), 150)
    held_out = noise.assign_coords(group=noise["answer"]).assign_attrs(split="group")
    texts = [full, *map(describe, grids.values()), describe(noise)]
    texts += [describe(noise, make_controls(noise, {"answer": 0.75}), held_out)]
    for text in texts:
        assert len(lead(text).split()) <= 90
        assert len(re.findall(r"\.(?: |$)", lead(text))) <= 5
    assert [lead(text).startswith("Nothing is shown: in none of ") for text in texts] == [
        False,
        False,
        False,
        True,
        True,
    ]
    assert "is no higher than chance allows." in lead(texts[3])
    assert "It does so best at layer 17, `exact_answer_first` (AUROC 0.84 [" in lead(full)
    best = [grids["random"].attrs[f"best_auroc{end}"] for end in ("", "_low", "_high")]
    assert area_in_words(*best) in lead(full), "chosen and measured on different answers"
    left = int((grids["answer"]["p_corrected"].sel(token=list(FIGURE_TOKENS)) <= 0.05).sum())
    assert f"With answers held out, {left} of 420 cells are above chance" in lead(full)


def test_all_cells_together_are_not_denied_where_no_cell_shows_anything():
    grid = make_grid(flat(layers=6), 150)
    shown = {"p_value": 0.01, "auroc": 0.6, "auroc_low": 0.55, "auroc_high": 0.65}
    names = {field.name for field in fields(Detector)}
    detector = Detector(**dict.fromkeys(names) | shown | dict.fromkeys(GAINS, np.nan))
    detector = replace(detector, p_error=grid["correct"], origin={})
    text = describe(grid, detector=detector)
    assert lead(text).startswith("Nothing is shown in any single cell: in none of ")
    text = describe(grid, detector=replace(detector, p_value=0.5))
    assert lead(text).startswith("Nothing is shown: in none of ")


# describe: structure that is there is found


def test_sections_come_in_the_references_order():
    text = describe(make_grid(flat(0.7)))
    places = [text.index(section) for section in SECTIONS]
    assert places == sorted(places)
    assert "nan" not in text


def test_peak_in_the_middle_is_found_and_located():
    text = describe(make_grid(hill(middle_peak(), ["exact_answer_first"]), n=1000))
    peak = observation(text, "Peak")
    assert "`exact_answer_first`: 0.9" in peak
    assert "lower; " in peak
    assert "can't be told from it, in layer" in peak
    assert "lower than the highest at `exact_answer_first`;" in observation(text, "Layer of each")
    # The exact answer, in the reference's bands: a level, and whether it rises or falls.
    column = rows(text, "|the exact answer|")[4]
    assert column[3].endswith("↑"), "the peak is in the fourth band"
    assert column[4].endswith("↓"), "and past in the fifth"
    assert not any(level[-1] in "↑↓" for level in (column[0], column[-1]))


def test_cells_as_high_as_the_peak_are_not_called_lower():
    true = flat(0.6)
    true.loc[4:6, EXACT] = 0.9
    peak = observation(describe(make_grid(true, n=1000)), "Peak")
    assert "Of the others 159 are lower; 8 can't be told from it, in layers 4–6" in peak


def test_a_lone_peak_has_no_rival():
    true = flat(0.55)
    true.loc[5, "last_q"] = 0.97
    peak = observation(describe(make_grid(true, n=1000)), "Peak")
    assert "layer 5, `last_q`" in peak
    assert "All other cells are lower." in peak


def test_rising_tail_rises_up_to_its_top():
    tail = np.linspace(0.5, 0.8, 16)
    line = observation(describe(make_grid(hill(tail, FROM_END), n=1000)), "The last eight tokens")
    assert "rises with depth, from 0.5" in line
    assert "to 0.7" in line or "to 0.8" in line
    assert "falls" not in line


def test_tail_that_rises_and_falls_says_both():
    tail = 0.55 + 0.3 * np.sin(np.linspace(0, np.pi, 16))
    line = observation(describe(make_grid(hill(tail, FROM_END), n=1000)), "The last eight tokens")
    assert "rises with depth" in line
    assert "After it the mean falls" in line


def test_falling_tail_does_not_rise():
    tail = np.linspace(0.8, 0.55, 16)
    line = observation(describe(make_grid(hill(tail, FROM_END), n=1000)), "The last eight tokens")
    assert "does not rise" in line
    assert "falls to 0.5" in line
    assert "rises" not in line


def test_last_q_below_the_answer_in_every_layer():
    true = flat(0.8)
    true.loc[:, "last_q"] = 0.6
    line = observation(describe(make_grid(true, n=1000)), "`last_q`")
    assert "`last_q` is below the answer's tokens by 0.2" in line or "by 0.1" in line
    assert "Of 12 layers it is below in 12 (0–11)." in line


def test_last_q_above_the_answer_in_the_late_layers_only():
    true = flat(0.6)
    true.loc[6:, "last_q"] = 0.85
    line = observation(describe(make_grid(true, n=1000)), "`last_q`")
    assert "above in 6 (6–11)" in line


def test_lowest_layer_is_the_last():
    true = flat(0.75)
    true.loc[11] = 0.6
    line = observation(describe(make_grid(true, n=1000)), "Lowest layer")
    assert "Layer 11 has the lowest mean" in line
    assert "; higher: layers 0–10." in line


def test_lowest_layer_is_the_first_and_the_last_is_higher():
    true = flat(0.75)
    true.loc[0] = 0.6
    line = observation(describe(make_grid(true, n=1000)), "Lowest layer")
    assert "Layer 0 has the lowest mean" in line
    assert "; higher: layers 1–11, the last by 0.1" in line


def test_equal_signal_everywhere_is_above_chance_but_differs_nowhere():
    text = describe(make_grid(flat(0.8), n=1000))
    assert "In 168 of the figure's 168 cells, a probe tells wrong answers from right" in text
    assert NONE in text
    assert "the grid shows no peak" in text
    assert "No band can be distinguished from the one before" in text


# describe: noise


@pytest.mark.parametrize("shared", [0.0, 0.6])
def test_noise_has_no_findings_but_at_the_stated_rate(shared):
    seeds = range(quarter(30))
    texts = [describe(make_grid(flat(layers=6), 150, seed, shared)) for seed in seeds]
    assert sum(NONE not in text for text in texts) <= most(len(texts))
    assert sum("in none of the figure's 84 cells" not in text for text in texts) <= most(len(texts))
    quiet = [text for text in texts if NONE in text and "in none of the figure's 84" in text]
    assert all("nothing was found that needs an explanation" in text for text in quiet)
    assert not any(word in text for text in quiet for word in ("rises", "falls", "exceed"))


def test_noise_with_few_examples_of_a_token_has_no_findings():
    absent = {"-8": 0.85, "-7": 0.5}
    seeds = range(quarter(20))
    texts = [
        describe(make_grid(flat(layers=5), 200, seed, 0.3, 0.3, absent=absent)) for seed in seeds
    ]
    assert sum(NONE not in text for text in texts) <= most(len(texts))


def test_noise_in_groups_of_answers_has_no_findings():
    seeds = range(quarter(20))
    grids = [make_grid(flat(layers=5), 200, seed, 0.5, groups=60) for seed in seeds]
    assert sum(NONE not in describe(grid) for grid in grids) <= most(len(grids))
    n_groups = len(np.unique(grids[0]["answer"]))
    assert f"95 % intervals over {n_groups} groups of answers" in describe(grids[0])


# describe: what is missing


def test_missing_tokens_are_named_and_nothing_is_said_of_them():
    tokens = [t for t in FIGURE_TOKENS if t not in ("last_q", *FROM_END)]
    text = describe(make_grid(flat(0.7, tokens=tokens)))
    assert "The grid lacks `last_q`, `-8`" in text
    assert "lacks `last_q` or the answer's tokens" in observation(text, "`last_q`")
    assert "shows no trend" in observation(text, "The last eight tokens")
    assert "|`last_q`|not in the grid|\\~0.55|" in text


def test_a_token_that_few_responses_have_is_left_out_and_counted():
    text = describe(make_grid(flat(0.7), 100, absent={"-8": 0.95}))
    assert "12 cells, among them all of `-8`, have fewer than 10" in text


@pytest.mark.parametrize("n_layers", [1, 2, 3, 80])
def test_any_number_of_layers(n_layers):
    text = describe(make_grid(flat(0.7, n_layers), n=100))
    assert "nan" not in text
    assert [section for section in SECTIONS if section in text] == SECTIONS


def test_three_layers_with_a_peak_in_the_middle():
    true = flat(0.55, 3)
    true.loc[1, EXACT] = 0.9
    text = describe(make_grid(true, n=500))
    assert "|Layer 1, `exact_answer_first`|0.9" in text
    assert "2 can't be told from it, in layer 1 at" in observation(text, "Peak")


def test_eighty_layers_with_a_peak_in_the_middle():
    text = describe(make_grid(hill(middle_peak(80), ["exact_answer_last"], layers=80), n=500))
    assert "`exact_answer_last`" in observation(text, "Peak")
    assert "|35–44|14-16|" in text


@pytest.mark.parametrize("n", [6, 18])
def test_tiny_n_states_nothing(n):
    text = describe(make_grid(flat(0.9, 3), n))
    assert "nothing is stated" in text
    assert "There is nothing to interpret." in text
    assert "[" not in text.split("### Detailed")[1]


def test_thirty_examples_do_not_make_a_peak_of_noise():
    texts = [describe(make_grid(flat(layers=8), 30, seed, 0)) for seed in range(quarter(20))]
    assert sum(NONE not in text for text in texts) <= most(len(texts))


def test_a_grid_with_some_layers_of_a_deeper_network():
    grid = make_grid(flat(0.7, 4)).assign_coords(layer=[3, 11, 19, 27])
    grid.attrs["n_layers"] = 32
    text = describe(grid)
    assert "|11|10-12|" in text
    assert "|27|26-28|" in text


def test_perfect_cells_have_an_interval():
    true = flat(0.6, 4)
    true.loc[2, "last_q"] = 1 - 1e-12
    text = describe(make_grid(true, n=100))
    assert "`last_q`: 1.00 [0.9" in text
    assert "nan" not in text


# describe: input


def test_names_from_outside_are_shown_as_text():
    name = "<script>alert(1)</script> [x](http://evil) `a` *b* | c"
    text = describe(make_grid(flat(0.7, 3), n=60, model=name))
    assert "<script>" not in text
    assert (
        "&lt;script&gt;alert(1)&lt;/script&gt; \\[x\\](http:\\/\\/evil) \\`a\\` \\*b\\* \\| c"
        in text
    )


def test_what_is_no_grid_is_refused():
    with pytest.raises(TypeError, match="probe_grid"):
        describe("grid")
    with pytest.raises(ValueError, match="score"):
        describe(make_grid(flat(layers=2), n=40).drop_vars("score"))
    with pytest.raises(ValueError, match="none of the tokens"):
        describe(make_grid(flat(tokens=["a", "b"], layers=2), n=40))


def test_numpys_string_dtype_of_a_fresh_grid():
    grid = make_grid(flat(0.7, 3), n=60)
    fresh = grid.assign_coords(token=grid["token"].to_numpy().astype(np.dtypes.StringDType()))
    assert describe(fresh) == describe(grid)
    assert findings(fresh).markdown == findings(grid).markdown


# describe: confounds


def test_nothing_is_called_checked_that_was_not_given():
    text = describe(make_grid(flat(0.7, 4)))
    assert "**Not checked: controls.**" in text
    assert "**Not checked: held-out answers.**" in text
    text = describe(make_grid(flat(0.7, 4), groups=80))
    assert "In this grid no exact answer is in both" in text


def held_out_pair(fall):
    """A grid and its held-out twin of the same examples in another order."""
    true = flat(0.8, 8)
    grid = make_grid(true, n=800, groups=200)
    true.loc[:3, EXACT] -= fall
    held_out = make_grid(true, n=800, groups=200).isel(example=np.arange(800)[::-1])
    return grid.assign_attrs(split="random"), held_out


def test_a_fall_with_held_out_answers_is_found():
    grid, held_out = held_out_pair(0.25)
    text = describe(grid, held_out=held_out)
    assert "lower, most of all the exact answer in layer" in text
    assert "from 0.80" in text or "from 0.79" in text or "from 0.81" in text


def test_no_fall_with_held_out_answers_is_said():
    grid, held_out = held_out_pair(0.0)
    text = describe(grid, held_out=held_out)
    assert "No mean of a band and a group is lower." in text


def test_grids_of_different_examples_are_refused():
    grid, held_out = held_out_pair(0.0)
    with pytest.raises(ValueError, match="different examples"):
        describe(grid, held_out=held_out.isel(example=range(500)))
    with pytest.raises(TypeError, match="held_out"):
        describe(grid, held_out={})


def make_controls(grid, areas_):
    """Controls over the grid's examples, each with an area."""
    names = list(areas_)
    true = xr.DataArray([list(areas_.values())], {"layer": [0], "token": names}, ("layer", "token"))
    fake = make_grid(true, n=grid.sizes["example"], shared=0)
    wrong = ~grid["correct"].to_numpy()
    # Scores of the same labels: of a wrong answer from a wrong one, of a right from a right.
    order = np.empty(len(wrong), int)
    order[np.argsort(wrong, kind="stable")] = np.argsort(~fake["correct"], kind="stable")
    score = fake["score"].to_numpy()[order, 0].T
    return xr.Dataset(
        {
            "auroc": ("control", fake["auroc"].to_numpy()[0]),
            "auroc_low": ("control", fake["auroc_low"].to_numpy()[0]),
            "auroc_high": ("control", fake["auroc_high"].to_numpy()[0]),
            "chance": ("control", [name == "random_features" for name in names]),
            "score": (("control", "example"), score),
        },
        coords={"control": np.array(names, object)}
        | {name: grid[name] for name in ("id", "correct", "fold")},
    )


def test_cells_are_compared_with_the_best_control():
    true = flat(0.6, 4)
    true.loc[2, EXACT] = 0.95
    grid = make_grid(true, n=800)
    text = describe(grid, make_controls(grid, {"answer": 0.75, "length": 0.5}))
    assert "The best control, how often the answer is wrong elsewhere, which sees no" in lead(text)
    assert "and 3 of the cells exceed that." in lead(text)
    assert "the best, how often the answer is wrong elsewhere, 0.7" in text
    assert "Of 56 cells, 3 exceed that, 53 fall short of it" in text


def test_controls_of_other_examples_are_refused():
    grid = make_grid(flat(0.6, 3), n=100)
    others = make_controls(grid, {"answer": 0.7}).isel(example=range(50))
    with pytest.raises(ValueError, match="different examples"):
        describe(grid, others)


# The arithmetic behind it


def test_interval_of_a_mean_over_cells_with_different_examples_covers():
    true = flat(0.5, 6)
    true[:] = np.linspace(0.6, 0.85, true.size).reshape(true.shape)
    truth, covered = float(true.mean()), 0
    for seed in range(200):
        grid = make_grid(true, 150, seed, 0.5, 0.4, absent={"-8": 0.5, "-7": 0.4, "-6": 0.3})
        measured = areas(grid)
        low, high = measured.interval(*measured.mean(measured.at()))
        covered += low <= truth <= high
    assert 0.92 <= covered / 200 <= 0.99


@pytest.mark.parametrize("groups", [2, 3, 5])
def test_intervals_over_few_groups_of_answers_cover(groups):
    """Noise that answers of a group share, in cells and in a mean of them."""
    outside, means, stated, seeds = [], [], [], range(quarter(160))
    for seed in seeds:
        grid = few_groups(seed, groups)
        measured = areas(grid)
        low, high = measured.intervals()
        outside.append(np.mean((low > 0.5) | (high < 0.5)))
        low, high = measured.interval(*measured.mean(measured.usable))
        means.append(low > 0.5 or high < 0.5)
        stated.append("There are no clear differences." not in describe(grid))
    assert np.mean(outside) <= 0.08
    assert sum(means) <= binom.ppf(0.99, len(seeds), 0.06)
    assert sum(stated) <= binom.ppf(0.99, len(seeds), 0.05)
    # Not by being as wide as can be.
    assert groups < 5 or np.mean(high - low) < 0.4


def few_groups(seed, groups, n=120):
    """A grid of noise, half of which answers of a group share."""
    random, group = np.random.default_rng(seed), np.arange(n) % groups
    shape = 3, 4
    score = 0.7 * random.normal(size=(groups, *shape))[group] + 0.7 * random.normal(
        size=(n, *shape)
    )
    wrong = random.random(n) < 0.4
    tokens = ["last_q", "first_answer", "exact_answer_first", "-1"]
    grid = make_grid(flat(0.5, 3, tokens), n=n, seed=seed, split="answer")
    names = np.array([f"answer {g}" for g in group], object)
    grid = grid.assign_coords(correct=("example", ~wrong), answer=("example", names))
    return grid.assign(score=(("example", "layer", "token"), 1 / (1 + np.exp(-score))))


def test_largest_error_of_one_contrast_is_the_normal_quantile():
    influence = np.random.default_rng(0).normal(size=(1, 300))
    assert largest_error(influence, 0.05) == pytest.approx(1.96, abs=0.15)


def test_largest_error_over_independent_contrasts_is_sidaks():
    influence = np.eye(50)
    assert largest_error(influence, 0.05) == pytest.approx(3.28, abs=0.2)


def test_equal_cells_have_no_difference():
    score = np.random.default_rng(0).normal(size=(1, 100)).repeat(3, 0)
    assert largest_error([score], 0.05, pairs=True) == 0


@pytest.mark.parametrize("groups", [None, 40])
def test_a_cells_interval_is_the_charts(groups):
    true = flat(0.7, 4)
    true.loc[2, "last_q"] = 1 - 1e-12
    grid = with_training(make_grid(true, 200, groups=groups, absent={"-8": 0.4}))
    mine = areas(grid)
    low, high = mine.intervals()
    assert mine.usable.all()
    np.testing.assert_allclose(mine.value, grid["auroc"], atol=1e-9)
    np.testing.assert_allclose(low, grid["auroc_low"], atol=1e-9)
    np.testing.assert_allclose(high, grid["auroc_high"], atol=1e-9)
    # And so in the text, for the cells that the reference names and for a token's peak.
    text = describe(grid)
    for layer, token in ((0, "first_answer"), (0, "exact_answer_last"), (1, "exact_answer_first")):
        cell = grid.sel(layer=layer, token=token)
        shown = area_in_words(*(float(cell[f"auroc{end}"]) for end in ("", "_low", "_high")))
        assert f"|Layer {layer}, `{token}`|{shown}|" in text


def test_training_widens_intervals_of_cells_and_of_differences():
    grid = make_grid(flat(0.7, 4), 200)
    less, more = areas(grid), areas(with_training(grid, size=2.0))
    assert (more.error > 1.1 * less.error).all()
    difference = [each.units[0, 0] - each.units[3, 5] for each in (less, more)]
    assert standard_error(difference[1]) > 1.1 * standard_error(difference[0])


def test_compact_areas_have_the_same_errors():
    mine = areas(with_training(make_grid(flat(0.7, 2), 200)))
    small = mine.compact()
    assert small.units.shape[-1] == 28 < mine.units.shape[-1]
    for each in (mine.mean(mine.at()), mine.slope(mine.at(tokens=["-1"]))):
        assert each is not None
    for ask in (lambda a: a.mean(a.at((0, 0.5)))[1], lambda a: a.units[0, 0] - a.units[1, 5]):
        assert standard_error(ask(small)) == pytest.approx(standard_error(ask(mine)), rel=1e-4)


# Tokens that only long responses have


@pytest.mark.parametrize("seed", range(3))
def test_tokens_of_long_responses_do_not_exceed_those_of_all(seed):
    grid = long_and_short(seed=seed)
    # The chart's columns differ; the activation is the same.
    assert grid["auroc"].sel(token="-8").max() > grid["auroc"].sel(token="-1").max() + 0.05
    text = describe(grid)
    assert NONE in text
    assert "exceed" not in text.split("### Interpretation")[0]
    assert "layer 0, `-8`" not in observation(text, "Peak")
    n = int(grid["score"].sel(token="-8").notnull()[:, 0].sum())
    assert f"compared on the {n} answers that have all of them ({n} have the rarest alone)" in text
    assert f"Mean AUROC on the {n} answers that have all tokens (a level" in text


def test_all_tokens_in_all_answers_need_no_word():
    text = describe(make_grid(flat(0.7)))
    assert "answers that have all" not in text
    assert "Left out of the comparisons" not in text


def test_rare_tokens_are_left_out_one_after_the_other():
    grid = make_grid(flat(0.7, 3), 200, error_rate=0.5)
    score, half = grid["score"].to_numpy().copy(), np.arange(200) % 2 == 0
    score[half, :, 6] = np.nan
    score[~half, :, 7] = np.nan
    score[:20, :, 7] = np.nan
    grid = measured_anew(grid.assign(score=(grid["score"].dims, score)))
    shared = shared_answers(grid)
    assert shared.left_out == ("-7",)
    assert shared.n == 100 == shared.n_rarest
    text = describe(grid)
    assert "Left out of the comparisons is `-7`: fewer than 10 wrong or right answers" in text


# What the description counts


def test_answers_left_out_are_counted():
    grid = make_grid(flat(0.7, 3), 200, n_left_out=40, n_left_out_errors=40)
    n = int((~grid["correct"]).sum()) + 40
    words = f"40 answers have no exact answer, all graded wrong, {4000 / n:.0f} % of all errors"
    assert words in describe(grid)
    assert words in findings(grid).summary
    assert "no exact answer" not in findings(make_grid(flat(0.7, 3), 200)).summary


def test_cells_below_chance_are_a_warning():
    true = flat(0.7, 3)
    true.loc[1, "last_q"] = 0.2
    grid = make_grid(true, 400)
    text = describe(grid)
    assert "**Warning.** 1 cell is below chance, its whole interval under 0.5" in text
    assert "layer 1, `last_q` (0.2" in text or "layer 1, `last_q` (0.1" in text
    assert "1 of 42 cells are below chance" in findings(grid).summary
    assert "Warning" not in describe(make_grid(flat(0.7, 3), 400))


def test_what_the_intervals_hold_for():
    random, held_out = make_grid(flat(0.7, 3)), make_grid(flat(0.7, 3), groups=80)
    assert "hold for new questions with the same answers, not for other answers" in describe(random)
    assert "They hold for other answers." in describe(held_out)
    assert "Different answers:** 134; 1 given once, the commonest 3 times" in describe(random)


def test_where_answers_occur_once_nothing_is_held_out():
    grid = make_grid(flat(0.8, 3))
    single = grid.assign_coords(answer=grid["id"])
    text = describe(single, make_controls(grid, {"answer": 0.6}))
    assert "**Held-out answers: not testable here.**" in text
    assert "no verdict on what the probes add" in text
    assert "exceed it" not in text


def test_all_controls_together_are_the_bar():
    grid = make_grid(flat(0.7, 3))
    text = describe(grid, make_controls(grid, {"answer": 0.75, "all": 0.7}))
    assert "All controls together, which see no activations, reach 0." in lead(text)
    assert "how often the answer is wrong elsewhere 0.7" in text
    assert "and all together 0." in text


def test_gains_with_groups_of_answers_held_out():
    true = flat(0.6, 3)
    true.loc[2, EXACT] = 0.99
    grid = make_grid(true, n=600, groups=100)
    text = describe(grid, make_controls(grid, {"answer": 0.6, "all": 0.65}))
    assert "Of 42 cells, 3 exceed that" in text


def test_the_detector_is_one_sentence():
    grid = make_grid(flat(0.7, 3))
    numbers = {"auroc": 0.78, "auroc_low": 0.72, "auroc_high": 0.85}
    numbers |= {"gain": 0.1, "gain_low": -0.01, "gain_high": 0.19}
    numbers |= {"p_error": grid["correct"], "origin": {"split": "random"}}
    numbers |= {"added": 0.02, "added_low": -0.01, "added_high": 0.05}
    detector = Detector(**dict.fromkeys(f.name for f in fields(Detector)) | numbers)
    text = describe(grid, detector=detector)
    assert "AUROC 0.78 [0.72, 0.85]. Difference to all controls together: +0.10 [-0.01, +" in text
    assert "; added to them: +0.02 [-0.01, +0.05]." in text
    assert "All cells together are not shown to add to the controls." in lead(text)
    adds = replace(detector, added_low=0.01)
    assert "All cells together add to the controls." in lead(describe(grid, detector=adds))
    alone = replace(detector, gain=np.nan, gain_low=np.nan, gain_high=np.nan)
    assert "AUROC 0.78 [0.72, 0.85].\n" in describe(grid, detector=alone)
    with pytest.raises(TypeError, match="detector"):
        describe(grid, detector="all")
    held_out = replace(detector, origin={"split": "answer"})
    assert "one detector** with answers held out: AUROC" in describe(grid, detector=held_out)
    assert "With answers held out, all cells together are not shown to add to the controls." in (
        lead(describe(grid, detector=held_out))
    )
    with pytest.raises(ValueError, match="grid and detector have different examples"):
        describe(grid, detector=replace(detector, p_error=grid["correct"][1:]))


@pytest.mark.parametrize("n, groups", [(120, None), (300, 32)])
def test_probes_of_noise_have_no_findings_without_any_permutation(n, groups):
    """Real fits: what an answer trains is in all cells, and with it what the cells lean to."""
    said, above, seeds = 0, 0, range(quarter(40))
    for seed in seeds:
        noise = noise_activations(seed, n, groups)
        split = "random" if groups is None else "answer"
        grid = probe_grid(noise, split=split, n_permutations=0, n_jobs=1, progress=False)
        text = describe(grid)
        said += NONE not in text
        above += "in none of the figure's 48 cells" not in text
        mine = areas(grid)
        for name, values in zip(("auroc_low", "auroc_high"), mine.intervals(), strict=True):
            np.testing.assert_allclose(values, grid[name], atol=1e-9)
    assert said <= most(len(seeds))
    assert above <= most(len(seeds))


def noise_activations(seed, n, groups):
    """Activations with nothing of the error in them, but with the answer if there are groups."""
    random, tokens = np.random.default_rng(seed), ["last_q", "first_answer", "-2", "-1"]
    X = random.standard_normal((n, 12, 4, 20)) + random.standard_normal((n, 1, 1, 20))
    answer, wrong = np.arange(n) // 3, random.random(n) < 0.5
    if groups is not None:
        answer = random.integers(groups, size=n)
        wrong = random.random(n) < random.beta(1, 1, size=groups)[answer]
        X += 1.5 * random.standard_normal((groups, 1, 1, 20))[answer]
        X += 0.7 * random.standard_normal((groups, 12, 4, 20))[answer]
    return xr.Dataset(
        {"activation": (("example", "layer", "token", "feature"), X.astype(np.float32))},
        coords={
            "layer": range(12),
            "token": tokens,
            "correct": ("example", ~wrong),
            "exact_answer": ("example", np.array([f"answer {a}" for a in answer], object)),
            "id": ("example", np.array([f"q{i}" for i in range(n)], object)),
        },
    )


def test_the_rate_of_chance_findings_is_said_only_where_it_holds():
    grid = make_grid(flat(0.7, 3))
    assert "at most one in twenty" not in describe(grid)
    assert "at most one in twenty" in describe(with_training(grid))


def test_bands_cover_the_network_once():
    for n_layers in (3, 12, 30, 32, 80):
        measured = areas(make_grid(flat(0.7, n_layers), n=40))
        total = sum(measured.at(band).astype(int) for band in BANDS.values())
        assert (total == 1).all()


def test_words():
    assert spans([3, 1, 2, 7]) == "1–3, 7"
    assert layers([4]) == "layer 4"
    assert listing(["a", "b", "c"]) == "a, b and c"
    assert number(-0.001) == "0.00"
    assert number(-0.001, "+") == "+0.00"
    assert change(0.1, 0.2) == "+0.10 [-0.10, +0.30]"
    assert by_how_much(-0.1, 0.05) == "0.10 [0.05, 0.15]"
    assert escape("a_b\n<c>") == "a\\_b &lt;c&gt;"


def test_permutations_change_no_interval_and_no_difference():
    grid = with_training(make_grid(hill(middle_peak(8), ["exact_answer_first"], layers=8), 300))
    null = np.random.default_rng(0).random((8, 14, 5))
    permuted = grid.assign(null_auroc=(("layer", "token", "permutation"), null))
    assert describe(permuted) == describe(grid)
