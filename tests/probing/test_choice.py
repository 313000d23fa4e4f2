"""Which of several samples to give: by hand, by theory, by brute force, and on the example run."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_run import asked_run
from scipy.integrate import quad
from scipy.stats import binom, norm
from sklearn.metrics import roc_auc_score

import probekit as pk
from probekit.probing import choice
from probekit.probing.choice import TYPES, WAYS
from probekit.run.directory import Run

# Samples of a question, the right answer, and the type that a person gives it by the rules: "-" is
# a sample without an exact answer.
BY_HAND = [
    ("a a a a a a a a", "a", "consistently right"),
    ("b b b b b b b b", "a", "consistently wrong"),
    ("a a a a a b c d", "a", "mostly right"),
    ("a a a a a a a -", "a", "mostly right"),
    ("b b b b b a c d", "a", "mostly wrong"),
    ("b b b b b b b a", "a", "mostly wrong"),
    ("a a a a b b b b", "a", "competing answers"),
    ("b b b b c c c c", "a", "competing answers"),
    ("a a a a b b c d", "a", "competing answers"),
    ("a a a b b c d e", "a", "many answers"),
    ("b c d e f g h i", "a", "many answers"),
    ("a a - - - - - -", "a", "no answer"),
    ("a a a a - - - -", "a", "no answer"),
    ("- - - - - - - -", "a", "no answer"),
    ("a a a b b - - -", "a", "many answers"),
    ("a a a a a - - -", "a", "mostly right"),
]


def group(answers, right="a", p=None, logprob=None):
    """The samples of one question, as a group of `choice._samples`."""
    answers = ["" if answer == "-" else answer for answer in answers.split()]
    n = len(answers)
    p = np.full(n, 0.5) if p is None else np.array(p, float)
    return pd.DataFrame(
        {
            "question": "q",
            "text": "Which?",
            "correct": [answer == right for answer in answers],
            "answer": answers,
            "logprob": np.zeros(n) if logprob is None else logprob,
            "p_error": np.where(np.array(answers) == "", np.nan, p),
            "control": np.nan,
        }
    )


@pytest.mark.parametrize(("answers", "right", "expected"), BY_HAND)
def test_a_question_is_of_the_type_that_a_person_gives_it(answers, right, expected):
    assert choice._typed("q", group(answers, right))["type"] == expected


@given(st.lists(st.sampled_from("abcdefg-"), min_size=2, max_size=12))
@settings(deadline=None)
def test_any_question_has_one_type_and_no_order_of_its_samples_matters(answers):
    found = choice._typed("q", group(" ".join(answers)))
    assert found["type"] in TYPES
    assert found["type"] == choice._typed("q", group(" ".join(sorted(answers))))["type"]


# Choosing


def test_each_way_by_hand():
    # Two right, three b, one c; the second right one is trusted most, a wrong one is likeliest.
    one = group("a a b b b c", p=[0.6, 0.1, 0.5, 0.5, 0.5, 0.9], logprob=[-2, -3, -1, -4, -5, -6])
    found = choice._chosen(one)
    assert found["detector"] == 1
    assert found["majority"] == 0
    assert found["likeliest"] == 0
    assert found["random"] == pytest.approx(2 / 6)
    assert found["oracle"] == 1
    # 1 - P(error) of a: 0.4 + 0.9; of b: 1.5.
    assert found["detector_majority"] == 0
    # Two of each: the majority ties, and is right half the time.
    assert choice._chosen(group("a a b b"))["majority"] == 0.5
    assert choice._chosen(group("a b"))["detector"] == 0.5
    # What has no exact answer is taken only where nothing has one.
    assert choice._chosen(group("- - a"))["detector"] == 1
    assert choice._chosen(group("- - - a"))["majority"] == 1
    nothing = group("- - -", right="")
    assert choice._chosen(nothing)["detector"] == choice._chosen(nothing)["random"] == 1


@given(st.lists(st.tuples(st.sampled_from("abc-"), st.floats(0, 1)), min_size=1, max_size=9))
@settings(deadline=None)
def test_nothing_beats_the_best_possible(samples):
    answers, p = zip(*samples, strict=True)
    found = choice._chosen(group(" ".join(answers), p=p))
    assert all(value <= found["oracle"] + 1e-12 for value in found.values() if value == value)
    assert all(0 <= value <= 1 for value in found.values() if value == value)


@pytest.mark.parametrize(("distance", "rate"), [(0.0, 0.3), (1.0, 0.3), (2.0, 0.5)])
def test_a_detector_of_known_quality_gains_what_theory_says(distance, rate):
    """Scores are normal, `distance` apart: whether the highest of n is right is an integral."""
    n, trials, random = 6, 3000, np.random.default_rng(0)

    def of(k):
        if k in (0, n):
            return k / n

        def density(x):
            own = k * norm.pdf(x - distance) * norm.cdf(x - distance) ** (k - 1)
            return own * norm.cdf(x) ** (n - k)

        return quad(density, -8, 12)[0]

    expected = sum(binom.pmf(k, n, rate) * of(k) for k in range(n + 1))
    right = random.random((trials, n)) < rate
    p = norm.cdf(-(random.standard_normal((trials, n)) + distance * right))
    found = [
        choice._best(each.astype(float), -scores, np.ones(n, bool))
        for each, scores in zip(right, p, strict=True)
    ]
    assert np.mean(found) == pytest.approx(expected, abs=4 * np.std(found) / np.sqrt(trials))


def test_within_questions_is_the_mean_over_questions_and_blind_to_how_hard_they_are():
    random = np.random.default_rng(0)
    question = np.repeat(np.arange(80), 6)
    hard = random.random(80)
    wrong = random.random(480) < hard[question]
    for signal, low, high in ((0.0, 0.4, 0.6), (1.5, 0.75, 0.95)):
        score = 3 * hard[question] + signal * wrong + random.standard_normal(480) * 0.8
        found = choice._within(score, wrong, question, question)
        own = [
            roc_auc_score(wrong[question == q], score[question == q])
            for q in range(80)
            if 0 < wrong[question == q].sum() < 6
        ]
        assert found["within"] == pytest.approx(np.mean(own), abs=1e-12)
        assert found["n_mixed"] == len(own)
        assert found["pooled"] == pytest.approx(roc_auc_score(wrong, score), abs=1e-12)
        assert low < found["within"] < high
        assert found["pooled"] > 0.65, "which knows how hard the questions are"
        half = 1.99 * np.std(own, ddof=1) / np.sqrt(len(own))
        assert found["within_high"] - found["within"] == pytest.approx(half, rel=0.02)


# Runs


@pytest.fixture(scope="module")
def example(repository):
    return Run(repository / "data" / "examples" / "samples")


@pytest.fixture(scope="module")
def chosen(example):
    return pk.choose_answers(example)


def test_on_the_example_by_loops(example, chosen):
    answers = example.answers()
    question = answers["id"].str.split("/").str[0]
    p = example.detector("random").p_error
    p = pd.Series(p.to_numpy(), p["id"].to_numpy().astype(str)).reindex(answers["id"]).to_numpy()
    first, likeliest, best = [], [], []
    for _, rows in answers.groupby(question, sort=False):
        scored = rows.index[~np.isnan(p[rows.index])]
        lowest = scored[p[scored] == p[scored].min()] if len(scored) else rows.index
        first.append(rows["correct"][lowest].mean())
        likeliest.append(rows["correct"][rows["logprob_mean"].idxmax()])
        best.append(rows["correct"].any())
    ways = chosen.ways
    assert ways.loc["detector", "accuracy"] == pytest.approx(np.mean(first), abs=1e-12)
    assert ways.loc["likeliest", "accuracy"] == pytest.approx(np.mean(likeliest), abs=1e-12)
    assert ways.loc["oracle", "accuracy"] == pytest.approx(np.mean(best), abs=1e-12)
    assert ways.loc["random", "accuracy"] == pytest.approx(answers["correct"].mean(), abs=1e-12)
    assert (ways["accuracy"] <= ways.loc["oracle", "accuracy"]).all()
    difference = np.array(first, float) - np.array(likeliest)
    half = 1.968 * difference.std(ddof=1) / np.sqrt(300)
    assert ways.loc["likeliest", "gain"] == pytest.approx(difference.mean(), abs=1e-12)
    assert ways.loc["likeliest", "gain_high"] - difference.mean() == pytest.approx(half, rel=1e-3)


def test_every_number_has_an_interval_and_simultaneous_ones_are_wider(chosen):
    ways = chosen.ways.drop("detector")
    assert ways[["low", "high", "gain_low", "gain_high"]].notna().to_numpy().all()
    assert (ways["gain_low_simultaneous"] < ways["gain_low"]).all()
    assert chosen.aurocs[["within", "within_low", "within_high"]].notna().to_numpy().all()
    assert list(chosen.left_out) == ["greedy"]
    assert {*chosen.ways.index} == {*WAYS} - {"greedy"}


def test_what_is_the_same_for_all_samples_of_a_question_can_choose_nothing(chosen):
    row = chosen.aurocs.loc["question"]
    assert row["within"] == row["within_low"] == row["within_high"] == 0.5


def test_types_cover_all_questions(example):
    types, questions = pk.error_types(example)
    assert types["n_questions"].sum() == len(questions) == 300
    assert types["share"].sum() == pytest.approx(1)
    assert list(types.index) == list(TYPES)
    there = types["auroc"].notna()
    assert (types.loc[there, "auroc_low"] < types.loc[there, "auroc"]).all()
    assert (types.loc[~there, "reason"] != "").all()
    assert there.sum() >= 3


def test_an_area_of_a_type_is_that_of_its_wrong_samples_against_all_right_ones(example):
    types, questions = pk.error_types(example)
    answers, detector = example.answers(), example.detector("random")
    log_odds = pd.Series(detector.log_odds.to_numpy(), detector.log_odds["id"].to_numpy())
    rows = answers[answers["id"].isin(log_odds.index)]
    kind = questions["type"].loc[rows["id"].str.split("/").str[0]].to_numpy()
    wrong = ~rows["correct"].to_numpy()
    chosen = ~wrong | (kind == "many answers")
    area = roc_auc_score(wrong[chosen], log_odds.loc[rows["id"]].to_numpy()[chosen])
    # The detector was made of scores that were not yet rounded.
    assert types.loc["many answers", "auroc"] == pytest.approx(area, abs=0.002)


def test_the_chart_has_a_row_a_way(chosen):
    spec = pk.choices(chosen).to_dict()
    assert "53%" in spec["description"] or "oracle" in spec["description"]
    rows = next(iter(spec["datasets"].values())) if "datasets" in spec else spec["data"]["values"]
    assert len(rows) == len(chosen.ways)
    assert rows[0]["label"] == WAYS["oracle"]
    with pytest.raises(TypeError, match="choose_answers"):
        pk.choices(chosen.ways)


def sampled_run(path, fold=None):
    """A probed run of 30 questions with four samples each, whose folds may be torn."""
    n, random = 120, np.random.default_rng(0)
    answers = [f"answer {i}" for i in random.integers(9, size=n)]
    wrong = random.random(n) < 0.5
    run = asked_run(path, answers, wrong)
    table = run.answers()
    table["id"] = [f"q{i // 4}/{i % 4}" for i in range(n)]
    table["question"] = [f"Which is {i // 4}?" for i in range(n)]
    table["sample"] = np.tile(np.arange(4), 30)
    grid = pk.probe_grid(
        run.activations()
        .load()
        .assign_coords(
            id=("example", table["id"].to_numpy(object)),
            question=("example", table["question"].to_numpy(object)),
        ),
        n_permutations=1,
        n_jobs=1,
        progress=False,
    )
    if fold is not None:
        grid = grid.assign(fold=("example", fold))
    stage = run.begin("extract", {"model": "made up"})
    table.to_parquet(run.path / "answers.parquet")
    stage.finish([run.path / "answers.parquet"], sites=["mlp_out"])
    stage = run.begin("probe", {})
    controls = pk.controls(table, grid) if fold is None else run_controls(grid)
    files = [run.save_grids({"random": grid}), run.save_grids({"random": controls}, "controls.nc")]
    files.append(run.save_detectors({"random": pk.detector(grid)}))
    stage.finish(files, splits=["random"])
    return run


def run_controls(grid):
    return grid[["auroc"]].rename(layer="control").isel(token=0, drop=True)


def test_probing_keeps_the_samples_of_a_question_together(tmp_path):
    found = pk.choose_answers(sampled_run(tmp_path / "run"))
    assert len(found.questions) == 30
    assert (found.questions["n_samples"] == 4).all()


def test_torn_folds_are_refused(tmp_path):
    run = sampled_run(tmp_path / "run", fold=np.arange(120) % 5)
    with pytest.raises(ValueError, match="samples of one question on both sides"):
        pk.choose_answers(run)


def test_one_sample_a_question_is_refused(repository):
    with pytest.raises(ValueError, match=r"one answer to each question.*n_samples 8"):
        pk.choose_answers(Run(repository / "data" / "examples" / "cities"))


def test_greedy_answers_are_of_the_same_questions_and_model(example, repository):
    examples = repository / "data" / "examples"
    found = pk.choose_answers(example, greedy=Run(examples / "cities"))
    answers = Run(examples / "cities").answers()
    assert found.ways.loc["greedy", "accuracy"] == pytest.approx(answers["correct"].mean())
    assert not found.left_out
    with pytest.raises(ValueError, match="lacks 300 of the 300 questions"):
        pk.choose_answers(example, greedy=Run(examples / "products"))
    with pytest.raises(ValueError, match="must be a run at temperature 0"):
        pk.choose_answers(example, greedy=example)


def test_the_sentences_are_computed(chosen):
    said = str(chosen)
    assert "Of 300 questions 157 have right and wrong samples" in said
    worse = chosen.ways["gain_high_simultaneous"] < 0
    assert ("It is worse than the sample that all controls" in said) == worse["controls"]
    assert f"(AUROC {chosen.aurocs.loc['detector', 'within']:.2f} [" in said
