import re

import numpy as np
import pytest
import yaml
from nightly import most, quarter
from synthetic import flat, long_and_short, make_grid

from probekit.interpretation.claims import check_claims, claims_table, read_claims
from probekit.interpretation.contrasts import BANDS, areas
from probekit.interpretation.wording import escape, number
from probekit.tokens import FIGURE_TOKENS

START = ["first_answer", "second_answer"]
FROM_END = list(FIGURE_TOKENS[-8:])
# Statements of direction: on noise, none of these is true and none is false.
DIRECTIONS = [
    "layers-0-4.decrease",
    "layers-6-8.exact-answer",
    "observation.answer-start",
    "observation.exact-answer-peak",
    "observation.from-end-increase",
    "observation.from-end-peak",
    "observation.last-layer",
    "observation.last-q",
]


def verdicts(grid):
    table = check_claims(grid)
    not_testable = table["rule"] == "none: no probe can test it"
    assert ((table["verdict"] == "not testable") == not_testable).all()
    verdicts = table.loc[~not_testable, "verdict"]
    assert verdicts.isin(["supported", "contradicted", "undecided"]).all()
    return table.set_index("id")


def as_described(layers=32):
    """True areas as the reference's detailed analysis has them, scaled to a number of layers."""
    true = flat(0.56, layers)
    place = areas(make_grid(true, n=40))
    first = {"0-4": 0.95, "6-8": 0.87, "10-12": 0.85, "14-16": 0.75}
    exact = {
        "0-4": 0.6, "6-8": 0.66, "10-12": 0.76, "14-16": 0.97, "18-20": 0.86, "22-24": 0.75,
        "26-28": 0.65,
    }  # fmt: skip
    end = {"18-20": 0.65, "22-24": 0.72, "26-28": 0.68}
    for label, band in BANDS.items():
        rows = place.at(band).any(1)
        true.loc[rows, START] = first.get(label, 0.56)
        true.loc[rows, ["exact_answer_before_first", "exact_answer_first"]] = exact.get(label, 0.56)
        true.loc[rows, "exact_answer_last"] = {"10-12": 0.75}.get(label, 0.56)
        true.loc[rows, FROM_END] = end.get(label, 0.56)
    return true


# The file


def plain(text):
    return " ".join(text.replace("\\", "").replace("*", "").split())


def test_every_claim_is_quoted_from_the_reference(repository):
    reference = plain((repository / "data/reference/figure-description.txt").read_text())
    for claim in read_claims()["claims"]:
        assert plain(claim["text"]) in reference, claim["id"]


def test_every_statement_of_the_reference_is_a_claim(repository):
    text = (repository / "data/reference/figure-description.txt").read_text()
    left = plain(text[text.index("* **Layer 0-4:**") :])
    for heading in ("Specific Data Points (Approximate):", "### Key Observations"):
        left = left.replace(heading, "")
    left = left.replace("### Interpretation", "")
    for claim in read_claims()["claims"]:
        left = left.replace(plain(claim["text"]), "", 1)
    for label in BANDS:
        left = left.replace(f"Layer {label}:", "", 1)
    assert left.strip(" ,.") == ""


def test_depths_follow_from_the_layers_named():
    for claim in read_claims()["claims"]:
        kind, rest = claim["id"].split(".", 1)
        for rule in claim["rules"]:
            if kind == "point":
                assert rule["depth"] == (int(rest.split(".")[0]) + 0.5) / 32
            elif kind.startswith("layer"):
                band = list(BANDS[kind.split("-", 1)[1]])
                assert rule.get("depth", rule.get("cells", {}).get("depth")) is not None
                depths = [each["depth"] for each in rule.values() if isinstance(each, dict)]
                assert band in [rule.get("depth"), *depths], claim["id"]


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "claims.yaml"
    claim = {"id": "a", "section": "s", "text": "t", "rules": [{"kind": "eval", "code": "1"}]}
    for content, match in (
        ({"reading_precision": 0.05, "claims": [claim]}, "kind 'eval'"),
        ({"reading_precision": 0.05, "claims": [{"id": "a"}]}, "lacks"),
        ({"claims": []}, "reading_precision"),
        ([], "not a file of claims"),
        (
            {"reading_precision": 0.05, "claims": [claim | {"rules": [{"kind": "not_testable"}]}]},
            "note that says why",
        ),
        (
            {
                "reading_precision": 0.05,
                "claims": [claim | {"rules": [{"kind": "within", "depth": 0.5}]}],
            },
            "within",
        ),
        (
            {
                "reading_precision": 0.05,
                "claims": [
                    claim
                    | {
                        "rules": [
                            {"kind": "within", "depth": 0.5, "tokens": ["x"], "range": [0, 1]}
                        ]
                    }
                ],
            },
            "unknown token",
        ),
    ):
        path.write_text(yaml.safe_dump(content))
        with pytest.raises(ValueError, match=match):
            read_claims(path)


# Verdicts


def test_a_grid_as_described_supports_the_detailed_analysis():
    table = verdicts(make_grid(as_described(), n=6000, shared=0.3))
    detailed = table[table["section"] == "Detailed Analysis"]
    not_supported = detailed.index[detailed["verdict"] != "supported"]
    assert list(not_supported) == []
    assert table.loc["observation.exact-answer-peak", "verdict"] == "supported"
    assert table.loc["observation.from-end-increase", "verdict"] == "supported"
    assert table.loc["observation.answer-start", "verdict"] == "supported"
    # Where the reference contradicts itself, the grid that follows one part fails the other.
    assert table.loc["observation.last-q", "verdict"] != "supported"


@pytest.mark.parametrize("layers", [16, 30, 80])
def test_depths_are_compared_as_fractions_of_the_network(layers):
    table = verdicts(make_grid(as_described(layers), n=2000, shared=0.3))
    peak = table.loc["observation.exact-answer-peak"]
    assert peak["verdict"] == "supported"
    assert table.loc["layers-14-16.exact-answer", "verdict"] == "supported"
    assert table.loc["point.14.exact-answer-first", "verdict"] != "contradicted"


def test_the_reverse_of_the_described_grid_contradicts_it():
    true = as_described()
    true[:] = true.to_numpy()[::-1]
    table = verdicts(make_grid(true, n=2000, shared=0.3))
    for name in (
        "layers-0-4.answer-start",
        "layers-22-24.from-end",
        "layer-30.all",
        "point.0.first-answer",
        "observation.answer-start",
        "observation.from-end-increase",
        "observation.from-end-peak",
    ):
        assert table.loc[name, "verdict"] == "contradicted", name


def test_intervals_decide():
    table = verdicts(make_grid(as_described(), n=1000))
    sure = table[table["verdict"] == "contradicted"]
    assert (sure["low"] <= sure["value"]).all()
    assert (sure["value"] <= sure["high"]).all()
    row = table.loc["point.0.first-answer"]
    assert row["verdict"] == "supported"
    assert 0.9 <= row["low"] <= row["value"] <= row["high"] <= 1.0


@pytest.mark.parametrize("last_q, verdict", [(0.6, "supported"), (0.9, "contradicted")])
def test_last_q_against_the_answer_in_every_band(last_q, verdict):
    true = flat(0.75)
    true.loc[:, "last_q"] = last_q
    row = verdicts(make_grid(true, n=1000)).loc["observation.last-q"]
    assert row["verdict"] == verdict
    assert "the answer tokens minus last_q" in row["measured"]


def test_one_band_to_the_contrary_contradicts_consistently():
    true = flat(0.75)
    true.loc[:, "last_q"] = 0.6
    true.loc[5:6, "last_q"] = 0.95
    assert verdicts(make_grid(true, n=1000)).loc["observation.last-q", "verdict"] == "contradicted"


def test_lowest_band_last_and_not_last():
    true = flat(0.75)
    true.loc[11] = 0.6
    assert verdicts(make_grid(true, 1000)).loc["observation.last-layer", "verdict"] == "supported"
    true.loc[11], true.loc[0] = 0.75, 0.6
    row = verdicts(make_grid(true, 1000)).loc["observation.last-layer"]
    assert row["verdict"] == "contradicted"


def test_stable_is_an_equality_that_must_be_shown():
    name = "layers-26-28.from-end"
    precise = verdicts(make_grid(flat(0.65, 16), 4000, shared=0.8)).loc[name]
    assert precise["verdict"] == "supported"
    assert verdicts(make_grid(flat(0.65, 16), 60)).loc[name, "verdict"] == "undecided"


def test_noise_contradicts_high_values_and_supports_low_ones():
    table = verdicts(make_grid(flat(0.55), 2000))
    assert table.loc["layers-0-4.answer-start", "verdict"] == "contradicted"
    assert table.loc["point.14.exact-answer-first", "verdict"] == "contradicted"
    assert table.loc["layer-30.all", "verdict"] == "supported"


@pytest.mark.parametrize("shared", [0.0, 0.6])
def test_noise_decides_no_direction_but_at_the_stated_rate(shared):
    false, n = 0, quarter(40)
    for seed in range(n):
        table = verdicts(make_grid(flat(), 150, seed, shared, absent={"-8": 0.6}))
        false += (table.loc[DIRECTIONS, "verdict"] != "undecided").any()
    assert false <= most(n)


def test_noise_in_groups_of_answers_decides_no_direction():
    false, n = 0, quarter(20)
    for seed in range(n):
        table = verdicts(make_grid(flat(), 200, seed, 0.5, groups=60))
        false += (table.loc[DIRECTIONS, "verdict"] != "undecided").any()
    assert false <= most(n)


# For reading


def rows_of(text):
    """The cells of a table in Markdown, a list a row; its heading first."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    split = [re.split(r"(?<!\\)\|", line.strip()[1:-1]) for line in lines]
    return [split[0], *split[2:]]


def test_the_table_for_reading_has_each_verdict_its_number_and_the_reason():
    grid, held_out = make_grid(flat(0.7, 30), 300), make_grid(flat(0.9, 30), 300)
    claims = check_claims(grid, held_out=held_out)
    text = claims_table(claims)
    heading, *rows = rows_of(text)
    assert heading == ["The reference says", "Verdict", "Held out", "Measured", "Why"]
    assert len(rows) == len(claims)
    marks = {"supported": "✓", "contradicted": "✗", "undecided": "?", "not testable": "–"}
    for row, claim in zip(rows, claims.to_dict("records"), strict=True):
        assert row[0] == escape(claim["claim"])
        both = claim["verdict"], claim["verdict_held_out"]
        assert row[1:3] == [f"{marks[verdict]} {verdict}" for verdict in both]
        if claim["verdict"] == "not testable":
            assert row[3] == "", "nothing is measured"
            assert row[4] in escape(claim["note"])
        else:
            sign = "" if "AUROC" in row[3] else "+"
            ends = (number(claim[end], sign) for end in ("low", "high"))
            assert f"{number(claim['value'], sign)} \\[{', '.join(ends)}\\]" in row[3]
    n = (claims["verdict"] == "contradicted").sum()
    assert text.startswith(f"Of {len(claims)} statements: ✓ ")
    assert f"✗ {n} contradicted" in text


def test_the_reason_says_where_the_number_was_wanted_and_where_it_is():
    true = flat(0.7, 30)
    true.loc[:, "first_answer"] = 0.99
    table = verdicts(make_grid(true, 1000))
    point = table.loc["point.0.first-answer"]
    assert point["decides"].startswith("first_answer, layer 0: AUROC 0.9")
    assert point["why"] == "It wants 0.90 to 1.00: the whole interval is there."
    assert table.loc["point.0.exact-answer-last", "why"] == (
        "It wants 0.50 to 0.60: the whole interval is elsewhere."
    )
    rises = table.loc["observation.from-end-increase"]
    assert rises["why"] == "It wants a number above 0: a part of the interval is elsewhere."
    assert table.loc["observation.last-layer", "why"].startswith("It wants a number below 0: ")
    assert "as for 13 other numbers." in table.loc["overview.range", "why"]


def test_what_was_not_measured_is_the_reason():
    tokens = [token for token in FIGURE_TOKENS if token != "last_q"]
    table = verdicts(make_grid(flat(0.7, tokens=tokens)))
    assert table.loc["observation.last-q", "decides"] == ""
    assert table.loc["observation.last-q", "why"] == "Not measured: the grid has no token last_q."


def test_a_hostile_statement_is_shown_as_text():
    claims = verdicts(make_grid(flat(0.7), 100)).reset_index()
    claims.loc[0, "claim"] = "<script>x</script> | a\n| b"
    text = claims_table(claims)
    assert "<script>" not in text
    assert len(rows_of(text)) == len(claims) + 1


# What can't be measured


def test_missing_tokens_are_undecided_with_a_reason():
    tokens = [token for token in FIGURE_TOKENS if token != "last_q"]
    row = verdicts(make_grid(flat(0.7, tokens=tokens))).loc["observation.last-q"]
    assert row["verdict"] == "undecided"
    assert row["note"].startswith("Not measured: the grid has no token last_q.")
    assert np.isnan(row["value"])


def test_rare_tokens_are_undecided_with_a_reason():
    grid = make_grid(flat(0.9), 100, absent={"-8": 0.9})
    row = verdicts(grid).loc["observation.from-end-peak"]
    assert row["verdict"] == "undecided"
    assert "too few answers have the token -8" in row["note"]


def test_three_layers_leave_bands_undecided():
    table = verdicts(make_grid(flat(0.7, 3), 500))
    row = table.loc["layers-6-8.answer-start"]
    assert row["verdict"] == "undecided"
    assert "no layer at 19% to 31% of the depth" in row["note"]
    assert table.loc["layers-14-16.answer-start", "measured"].startswith("layer 1: 0.7")


def test_a_contradicted_part_outweighs_what_is_missing():
    tokens = [token for token in FIGURE_TOKENS if token != "-1"]
    row = verdicts(make_grid(flat(0.99, tokens=tokens), 500)).loc["layer-30.all"]
    assert row["verdict"] == "undecided"  # one rule for all tokens: it can't be applied
    true = flat(0.7, tokens=tokens)
    true.loc[:, "exact_answer_last"] = 0.95
    row = verdicts(make_grid(true, 1000)).loc["layers-0-4.decrease"]
    assert row["verdict"] == "contradicted"


@pytest.mark.parametrize("n", [6, 18])
def test_tiny_n_decides_nothing(n):
    assert verdicts(make_grid(flat(0.9), n))["verdict"].isin(["undecided", "not testable"]).all()


def test_rules_and_notes_are_in_words():
    table = verdicts(make_grid(flat(0.7, 30), 300))
    measured = table["verdict"] != "not testable"
    assert table.loc[measured, "note"].str.contains("AUROC").all()
    assert (table["note"] != "").all()
    assert table.loc["point.0.first-answer", "rule"] == (
        "mean AUROC is 0.95, give or take 0.05 (first_answer, layer 0)"
    )
    assert "above that of every other band" in table.loc["observation.exact-answer-peak", "rule"]
    assert not table["measured"].str.contains("nan|inf").any()


def test_what_the_reference_concludes_is_not_testable_with_a_reason():
    table = verdicts(make_grid(flat(0.7), 200))
    row = table.loc["interpretation.answer-generation"]
    assert row["verdict"] == "not testable"
    assert "intervention" in row["note"]
    assert np.isnan(row["value"])
    assert row["measured"] == ""
    # What the conclusion rests on is measured.
    assert table.loc["interpretation.answer-start", "verdict"] != "not testable"


def test_each_of_two_tokens_named_is_held_against_the_range():
    true = flat(0.6)
    true.loc[:2, "first_answer"], true.loc[:2, "second_answer"] = 0.999, 0.85
    row = verdicts(make_grid(true, 4000)).loc["layers-0-4.answer-start"]
    assert row["measured"].count("(first_answer)") == 1
    # Their mean, 0.92, would be in the range.
    assert row["verdict"] != "supported"


def test_verdicts_that_no_interval_could_reach_are_marked():
    few, many = (verdicts(make_grid(flat(0.65), n)) for n in (60, 4000))
    name, words = "point.18.minus-4", "no interval of this many answers could be narrow enough"
    assert few.loc[name, "verdict"] == "undecided"
    assert words in few.loc[name, "note"]
    assert words not in many.loc[name, "note"]
    # A direction can be shown by any interval.
    assert words not in few.loc["observation.from-end-increase", "note"]


def test_verdicts_of_held_out_answers_stand_beside():
    true = as_described(16)
    grid = make_grid(true, 2000, shared=0.3)
    true[:] = 0.55
    held_out = make_grid(true, 2000, shared=0.3, groups=500)
    with pytest.raises(ValueError, match="different examples"):
        check_claims(grid, held_out=held_out.isel(example=range(9)))
    table = check_claims(grid, held_out=held_out).set_index("id")
    assert table["verdict_held_out"].tolist() == check_claims(held_out)["verdict"].tolist()
    assert table["verdict"].tolist() == check_claims(grid)["verdict"].tolist()
    row = table.loc["observation.exact-answer-peak"]
    assert row["verdict"] == "supported"
    assert row["verdict_held_out"] != "supported"


def test_tokens_are_compared_on_the_answers_that_have_all():
    grid = long_and_short()
    table = verdicts(grid)
    row = table.loc["observation.answer-start"]
    n = int((~np.isnan(grid["score"].sel(token="-8")[:, 0])).sum())
    assert f"Compared on the {n} answers that have all tokens." in row["note"]
    assert row["verdict"] == "undecided"
    assert abs(row["value"]) < 1e-9
    assert (
        table.loc[["observation.last-q", "layers-0-4.decrease"], "verdict"] == "undecided"
    ).all()


def test_the_same_grid_gives_the_same_verdicts():
    grid = make_grid(flat(0.7), 200)
    assert check_claims(grid).equals(check_claims(grid))
