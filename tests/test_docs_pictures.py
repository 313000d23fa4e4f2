"""The page *Read a heatmap*: its cells run, its numbers are those of the run, its drawings true."""

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

import probekit as pk

DOCS = Path(__file__).parents[1] / "docs"
CELL = (17, "exact_answer_first")


@pytest.fixture(scope="module")
def pictures():
    sys.path.insert(0, str(DOCS))
    try:
        import pictures
    finally:
        sys.path.remove(str(DOCS))
    return pictures


@pytest.fixture(scope="module")
def run():
    return pk.open_run(DOCS.parent / "data" / "example")


@pytest.fixture(scope="module")
def page():
    return (DOCS / "read-a-heatmap.md").read_text(encoding="utf-8")


@pytest.fixture
def says(page):
    """Whether the page, with the texts of its figures, has a phrase, whatever its line breaks."""
    prose = " ".join(page.split())

    def check(phrase):
        assert phrase in prose, f"The page does not say: {phrase}"

    return check


@pytest.fixture(scope="module")
def named(run):
    answers = run.answers()
    return answers[answers["exact_answer"] != ""]


def between(value, low, high, sign=""):
    return f"{value:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


def cells(grid):
    return grid.sel(token=list(pk.FIGURE_TOKENS))


def test_all_cells_of_the_page_run(page, pictures, tmp_path, monkeypatch):
    """Each leaves a chart or a drawing, of no more than 15 lines."""
    monkeypatch.chdir(tmp_path)
    found = re.findall(r"```\{code-cell\} python\n---\n.*?\n---\n(.*?)```", page, re.DOTALL)
    assert len(found) == page.count("```{code-cell}") == 9
    names = {}
    for code in found:
        assert len(code.splitlines()) <= 15
        *statements, last = re.split(r"\n(?=\S)(?![)\]])", code.rstrip("\n"))
        exec("\n".join(statements), names)  # noqa: S102
        shown = eval(last, names)  # noqa: S307
        assert hasattr(shown, "to_dict") or shown.data.startswith("<svg"), last


def test_numbers_of_the_cell_and_the_detector(run, says):
    grid, held_out = run.grid("random"), run.grid("answer")
    at = {"layer": CELL[0], "token": CELL[1]}
    cell, other = grid.sel(at), held_out.sel(at)
    assert cell["auroc"] == cells(grid)["auroc"].max()
    area = roc_auc_score(~grid["correct"].values.astype(bool), cell["score"].values)
    says(f"whatever it does it with | {area:.2f} |")
    says(f"could have been drawn | [{cell['auroc_low']:.2f}, {cell['auroc_high']:.2f}] |")
    gain = pk.gain_over_controls(grid, run.controls("random")).sel(at)
    ends = gain["gain"], gain["gain_low_simultaneous"], gain["gain_high_simultaneous"]
    stated = f"{ends[0]:+.2f} [{ends[1]:+.2f}, {ends[2]:+.2f}]"
    says(f"without activations | {stated} |")
    says(f"the controls have too | {gain['absorbed'] * 100:.0f} % |")
    says(f"the other {grid.attrs['n_left_out']} name no country | {grid.sizes['example']} |")
    assert cell["p_corrected"] < 0.001
    says("in the grid | below 0.001 |")
    says(f"then has {between(*(float(other[n]) for n in ('auroc', 'auroc_low', 'auroc_high')))}.")
    a, b = run.detector("random"), run.detector("answer")
    level, other = (between(d.auroc, d.auroc_low, d.auroc_high) for d in (a, b))
    says(f"picture: {level} with random folds and {other} with answers held out.")
    joined = [between(d.added, d.added_low, d.added_high, "+") for d in (a, b)]
    says(f"joins them: {joined[0]} and {joined[1]}.")
    column = b.by_token.set_index("token").loc["-8"]
    together = between(column["auroc"], column["auroc_low"], column["auroc_high"])
    says(f"all 30 cells together have {together}.")


def test_numbers_of_the_worked_example(says):
    area = roc_auc_score([1, 1, 1, 0, 0], [0.9, 0.7, 0.4, 0.5, 0.2])
    says(f"Five of six pairs are in order, so the AUROC is {area:.2f}.")


def test_numbers_of_answer_identity(run, named, says):
    said = named[named["answer"] == "Indonesia"]
    wrong = 1 - said["correct"].mean()
    says(f"was said {len(said)} times, and {wrong * 100:.0f} % of these are wrong.")
    common = named["answer"].value_counts().index[:12]
    shares = 1 - named.groupby("answer")["correct"].mean()[common].sort_values()
    first, second, *_, last = (f"{name}, {share * 100:.0f} %" for name, share in shares.items())
    says(f"is wrong, from {first}, and {second}, to {last}.")
    table = run.controls("random").sel(control="answer")
    area = roc_auc_score(~table["correct"].values.astype(bool), table["score"].values)
    says(f"no network at all, has an AUROC of {area:.2f}.")
    highest = [float(cells(run.grid(split))["auroc"].max()) for split in ("random", "answer")]
    says(
        f"falls from {highest[0]:.2f} with random folds to {highest[1]:.2f} with answers held out."
    )


def test_numbers_of_position(run, pictures, named, says):
    found = pictures.by_position(named).set_index("token")
    wrong = ~named["correct"].to_numpy()
    for token in ("-8", "-2"):
        where = []
        for answer in named.itertuples():
            # By characters, not by the tokens' numbers.
            start = answer.token_starts[answer.positions[pk.TOKENS.index(token)]]
            ends = [*answer.token_starts[1:], len(answer.response)]
            end = ends[answer.positions[pk.TOKENS.index(token)]]
            where.append(int(start < answer.answer_end) + int(end <= answer.answer_start))
        where = np.array(where)
        assert found.loc[token, "auroc"] == pytest.approx(roc_auc_score(wrong, where))
        assert found.loc[token, "of_wrong"] == pytest.approx((where[wrong] > 0).mean())
    row = found.loc["-8"]
    says(f"In {row['of_wrong'] * 100:.0f} % of the wrong answers token `-8` is not yet past")
    says(f"in only {row['of_right'] * 100:.0f} % of the right ones")
    average = float(run.grid("answer")["auroc"].sel(token="-8").mean())
    says(f"That alone has an AUROC of {row['auroc']:.2f}; the average cell of this column has "
         f"{average:.2f},")  # fmt: skip


def test_wrong_labels_do_what_the_formulas_say(pictures, says):
    table = pictures.mislabelled([0, 0.1, 0.25]).set_index(["mistakes", "share"])["auroc"]
    for share in (0, 0.1, 0.25):
        random = 0.8 * (1 - 2 * share) + share
        # A share of 2 * share has the word, all of it graded wrong; half of the rest is wrong.
        word = 0.5 + 2 * share / (1 + 2 * share)
        assert table[pictures.RANDOM, share] == pytest.approx(random, abs=0.01)
        assert table[pictures.WORD, share] == pytest.approx(word, abs=0.01)
    ends = [table[name, share] for name in (pictures.RANDOM, pictures.WORD) for share in (0, 0.25)]
    says("a detector falls from {:.2f} to {:.2f}.".format(*ends[:2]))
    says("only that word rises from {:.2f} to {:.2f}.".format(*ends[2:]))
    says("With 10 % of mistakes at random, 0.80 becomes " + f"{table[pictures.RANDOM, 0.1]:.2f}.")
    says(f"a probe of nothing reaches {table[pictures.WORD, 0.1]:.2f}.")


def test_shuffled_labels_have_the_areas_of_chance(run, pictures, says):
    grid = run.grid("random")
    chance = pictures.chance(grid).set_index(["cells", "n"])
    for n in (30, 100, 300, 965):
        one = chance.loc["one cell", n]
        half = norm.ppf(0.975) * np.sqrt((n + 1) / (12 * ((n + 1) // 2) * (n // 2)))
        assert one["auroc"] == pytest.approx(0.5, abs=0.01)
        assert one["high"] - 0.5 == pytest.approx(half, rel=0.08)
        assert 0.5 - one["low"] == pytest.approx(half, rel=0.08)
    best = chance.loc["the best of 420"]["auroc"]
    says(f"has {best[30]:.2f} on average with 30 answers, and still {best[965]:.2f} with 965.")
    says("is at {:.2f}, {:.2f}, {:.2f} and {:.2f}.".format(*best))
    means = [
        float(cells(run.grid(split))["null_auroc"].max(("layer", "token")).mean())
        for split in ("random", "answer")
    ]
    says(f"it has {means[0]:.2f}, and {means[1]:.2f} with answers held out.")
    for split, name in (("random", "random folds"), ("answer", "answers held out")):
        about = run.grid(split).attrs
        level = between(*(about[f"best_auroc{end}"] for end in ("", "_low", "_high")))
        highest = float(cells(run.grid(split))["auroc"].max())
        says(f"{level} instead of {highest:.2f} with {name}")


def test_few_answers_have_wide_intervals(run, pictures, says):
    table = pictures.samples(run.grid("random"), *CELL)
    whole = table.loc[table["n"] == 965, "auroc"].item()
    covers = (table["low"] <= whole) & (whole <= table["high"])
    assert covers.mean() > 0.9
    width = (table["high"] - table["low"]).groupby(table["n"]).mean()
    says(f"With 30 answers the interval is {width[30]:.2f} wide on average")
    says(f"With 100 it is {width[100]:.2f} and with 300 it is {width[300]:.2f}.")
    says(f"leaves {run.grid('answer').attrs['n_groups']} groups")


def test_names_stand_at_their_tokens(pictures, named):
    answer = named.set_index("id").loc["cities-0533"]
    svg = ElementTree.fromstring(pictures.places(answer).data)  # noqa: S314
    rows = {}
    for text in svg.findall("{*}text"):
        rows.setdefault(text.get("y"), []).append(text.text or "")
    found = {tuple(row[-2:]) for row in rows.values() if len(row) > 1}
    assert {
        (r"\n", "last_q"),
        ("The", "first_answer"),
        ("·city", "second_answer"),
        ("·of", "exact_answer_before_first, -6"),
        ("·Gab", "exact_answer_first, -5"),
        ("on", "exact_answer_last, -4"),
        (",", "exact_answer_after_last, -3"),
        (".", "-1"),
        ("·located", ""),
    } <= found
    assert svg.get("aria-label").count("exact_answer_first") == 1
    assert {t.text for t in svg.iter("{http://www.w3.org/2000/svg}text")} >= set(pk.SITES)


def test_a_hostile_response_is_text(pictures, named):
    answer = named.set_index("id").loc["cities-0533"].copy()
    answer["response"] = "<script>\"'&" + answer["response"][11:]
    svg = pictures.places(answer).data
    assert "<script" not in svg
    ElementTree.fromstring(svg)  # noqa: S314, it is our own
