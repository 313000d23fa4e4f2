import numpy as np
import pandas as pd
import pytest
import xarray as xr
from nightly import most, quarter
from scipy.special import logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from probekit import detector, probe_grid
from probekit.charts.heatmaps import gain as gain_chart
from probekit.probing.baselines import (
    CHANCE,
    CONTROLS,
    best_control,
    control_table,
    controls,
    gain_of_scores,
    gain_over_controls,
)

N, ANSWERS = 240, 12
OPTIONS = {"n_permutations": 3, "n_jobs": 1, "progress": False}


def make_answers(seed=0):
    """Each answer has its error rate; "big", "Surely" and unlikely words go with errors."""
    random = np.random.default_rng(seed)
    answer = random.integers(ANSWERS, size=N)
    wrong = random.random(N) < np.linspace(0.1, 0.8, ANSWERS)[answer]
    sure = random.random(N) < np.where(wrong, 0.65, 0.35)
    size = np.where(random.random(N) < np.where(wrong, 0.7, 0.4), "big", "small")
    return pd.DataFrame(
        {
            "id": [f"q{i}" for i in range(N)],
            "question": [f"Where is the {s} town {i}?" for i, s in enumerate(size)],
            "correct": ~wrong,
            "exact_answer": [f"The answer {a}" for a in answer],
            "answer": [f"Answer {a}" for a in answer],
            "response": [
                f"{'Surely' if w else 'Perhaps'} it is The answer {a}."
                for a, w in zip(answer, sure, strict=True)
            ],
            "answer_start": [13 if w else 14 for w in sure],
            "answer_end": [
                (13 if w else 14) + len(f"The answer {a}")
                for a, w in zip(answer, sure, strict=True)
            ],
            "n_tokens": random.integers(5, 12, N),
            "logprob_mean": random.standard_normal(N) - 0.5 * wrong,
            "logprob_min": random.standard_normal(N),
            "answer_logprob_mean": random.standard_normal(N),
            "answer_logprob_min": random.standard_normal(N),
        }
    )


def make_activations(answers, seed=1):
    """Layer 0 holds which answer it is, layer 1 whether it is wrong; a third lack token b."""
    random = np.random.default_rng(seed)
    wrong = ~answers["correct"].to_numpy()
    X = random.standard_normal((N, 2, 2, 10)).astype(np.float32)
    place = random.standard_normal((ANSWERS, 1, 10))
    X[:, 0] += 2 * place[[int(a.split()[1]) for a in answers["answer"]]]
    X[wrong, 1, :, 0] += 2
    X[::3, :, 1] = np.nan
    names = ("id", "correct", "exact_answer", "answer", "question")
    return xr.Dataset(
        {"activation": (("example", "layer", "token", "feature"), X)},
        coords={"layer": [0, 1], "token": ["a", "b"]}
        | {name: ("example", answers[name].to_numpy()) for name in names},
    )


@pytest.fixture(scope="module")
def answers():
    return make_answers()


@pytest.fixture(scope="module")
def grids(answers):
    activations = make_activations(answers)
    return {
        "random": probe_grid(activations, **OPTIONS),
        "answer": probe_grid(activations, split="answer", **OPTIONS),
        "published": probe_grid(
            activations, protocol="published", **(OPTIONS | {"n_permutations": 0})
        ),
    }


@pytest.fixture(scope="module")
def measured(answers, grids):
    return {name: controls(answers, grid) for name, grid in grids.items()}


def area(controls, name):
    return float(controls["auroc"].sel(control=name))


def test_what_goes_with_errors_detects_them(measured):
    found = measured["random"]
    assert 0.65 < area(found, "answer") < 0.85
    assert area(found, "question") > 0.6
    assert area(found, "question_characters") > 0.6
    assert area(found, "logprob_mean") > 0.57
    assert area(found, "form") > 0.58
    assert area(found, "response") > area(found, "form")
    assert area(found, "position") > 0.58
    assert area(found, "outputs") > 0.6
    assert area(found, "all") > max(area(found, n) for n in ("answer", "question", "form"))
    for name in ("logprob_min", "answer_logprob_mean", "answer_logprob_min", "random_features"):
        assert abs(area(found, name) - 0.5) < 0.12
    known = found.sel(control=[n for n in found["control"].to_numpy() if "shuffled" not in n])
    assert (known["auroc_low"] < known["auroc"]).all()
    assert (known["auroc"] < known["auroc_high"]).all()
    assert set(map(str, found["control"].to_numpy())) <= {*CONTROLS}
    assert (known["n_examples"] == N).all()


def test_areas_are_of_the_scores_that_are_kept(measured, grids):
    for name, found in measured.items():
        tested = grids[name]["fold"].to_numpy() >= 0
        wrong = ~grids[name]["correct"].to_numpy()[tested]
        for control in found["control"].to_numpy():
            score = found["score"].sel(control=control).to_numpy()
            if "shuffled" in control:
                assert np.isnan(score).all()
                continue
            assert np.isnan(score[~tested]).all()
            assert area(found, control) == pytest.approx(roc_auc_score(wrong, score[tested]))


def test_the_answers_rate_is_that_of_the_training_folds(measured, grids, answers):
    grid, found = grids["random"], measured["random"]
    fold, wrong = grid["fold"].to_numpy(), ~answers["correct"].to_numpy()
    score = found["score"].sel(control="answer").to_numpy()
    for example in (0, 17, 101):
        train = fold != fold[example]
        same = train & (answers["answer"] == answers["answer"][example]).to_numpy()
        excess = wrong[same].sum() - same.sum() * wrong[train].mean()
        assert score[example] == pytest.approx(excess / (same.sum() + 2))


def test_with_answers_held_out_their_rate_knows_nothing(measured):
    found = measured["answer"]
    assert area(found, "answer") == 0.5
    assert (found["score"].sel(control="answer") == 0).all()
    assert best_control(found) != "answer"


def test_a_label_is_never_used_to_score_its_own_example(answers, grids):
    before = controls(answers, grids["random"])
    flipped = answers.assign(correct=answers["correct"].where(answers["id"] != "q7", lambda c: ~c))
    grid = grids["random"].assign_coords(correct=("example", flipped["correct"].to_numpy()))
    after = controls(flipped, grid)
    names = ("answer", "question", "question_characters", "response", "form", "outputs", "all")
    for name in (*names, "random_features"):
        old, new = (c["score"].sel(control=name).to_numpy() for c in (before, after))
        same_fold = (grid["fold"] == grid["fold"][7]).to_numpy()
        np.testing.assert_array_equal(old[same_fold], new[same_fold])
        assert (old[~same_fold] != new[~same_fold]).any()


def test_the_published_split_scores_its_test_examples_only(measured, grids):
    found = measured["published"]
    tested = int((grids["published"]["fold"] >= 0).sum())
    assert (found["n_examples"] == tested).all()
    assert (found["training_error"] == 0).all()
    assert "shuffled_labels" not in found["control"]


def test_shuffled_labels_are_the_grids_own_null(measured, grids):
    null = grids["random"]["null_auroc"]
    found = measured["random"]
    assert area(found, "shuffled_labels") == pytest.approx(float(null.mean()))
    largest = null.max(["layer", "token"]).mean()
    assert area(found, "shuffled_best") == pytest.approx(float(largest))


@pytest.mark.parametrize("n_permutations", [0, 8])
def test_the_other_controls_are_the_same_whatever_the_null(answers, measured, n_permutations):
    activations = make_activations(answers)
    for split in ("random", "answer"):
        options = OPTIONS | {"n_permutations": n_permutations, "split": split}
        found = controls(answers, probe_grid(activations, **options))
        known = [n for n in found["control"].to_numpy() if not n.startswith("shuffled")]
        xr.testing.assert_identical(found.sel(control=known), measured[split].sel(control=known))


def test_the_direction_of_length_is_the_better_one(answers, grids):
    wrong = ~answers["correct"].to_numpy()
    short = answers.assign(n_tokens=np.where(wrong, 5, 9))
    assert area(controls(short, grids["random"]), "length") == 1.0


def test_p_true_counts_where_it_is_there(answers, grids, measured):
    assert "p_true" not in measured["random"]["control"]
    random = np.random.default_rng(2)
    p_true = np.where(answers["correct"], 0.8, 0.2) + 0.2 * random.standard_normal(N)
    p_true[:10] = np.nan
    found = controls(answers.assign(p_true=p_true), grids["random"])
    assert area(found, "p_true") > 0.9
    assert int(found["n_examples"].sel(control="p_true")) == N - 10
    assert best_control(found) == "p_true"
    gain = gain_over_controls(grids["random"], found)
    assert gain.attrs["control"] == "all", "where one lacks a score, the others have theirs"
    assert int(gain["n_examples"].sel(layer=0, token="a")) == N
    alone = gain_over_controls(grids["random"], found.sel(control=["p_true"]))
    assert int(alone["n_examples"].sel(layer=0, token="a")) == N - 10


def test_the_order_of_the_answers_does_not_matter(answers, grids, measured):
    shuffled = controls(answers.sample(frac=1, random_state=0), grids["random"])
    xr.testing.assert_identical(shuffled, measured["random"])


def test_the_table_has_the_best_first_and_chance_last(measured):
    table = control_table(measured["random"])
    assert table.index[0] == "all"
    assert table.index[1] == best_control(measured["random"])
    assert set(table.index[-3:]) == {"random_features", "shuffled_labels", "shuffled_best"}
    assert table["auroc"][:-3].is_monotonic_decreasing
    assert all(text.endswith(".") for text in table["description"])


def test_the_gain_is_a_difference_of_areas_on_the_same_examples(grids, measured, answers):
    grid, found = grids["random"], measured["random"]
    gain = gain_over_controls(grid, found)
    best = gain.attrs["control"]
    assert best == "all"
    wrong = ~answers["correct"].to_numpy()
    rival = found["score"].sel(control=best).to_numpy()
    for layer in (0, 1):
        for token in ("a", "b"):
            cell = grid.sel(layer=layer, token=token)
            there = np.isfinite(cell["score"].to_numpy())
            expected = float(cell["auroc"]) - roc_auc_score(wrong[there], rival[there])
            found_gain = gain.sel(layer=layer, token=token)
            assert float(found_gain["gain"]) == pytest.approx(expected, abs=1e-6)
            assert found_gain["gain_low"] < found_gain["gain"] < found_gain["gain_high"]
            assert found_gain["gain_low_simultaneous"] < found_gain["gain_low"]
            assert found_gain["gain_high"] < found_gain["gain_high_simultaneous"]
            assert int(found_gain["n_examples"]) == there.sum()
    # Layer 0 knows the answer, as the control does; layer 1 knows of errors.
    assert float(gain["gain"].sel(layer=0, token="a")) < 0.06
    assert float(gain["gain_low_simultaneous"].sel(layer=1, token="a")) > 0
    absorbed = gain["absorbed"].sel(token="a")
    assert float(absorbed.sel(layer=0)) > 0.8
    assert float(absorbed.sel(layer=1)) < 0.5
    gain_chart(gain, tokens=["a", "b"])


def test_held_out_answers_take_their_identity_away(grids, measured):
    identity, truth = (grids["answer"]["auroc"].sel(layer=layer, token="a") for layer in (0, 1))
    assert identity < grids["random"]["auroc"].sel(layer=0, token="a") - 0.08
    assert truth > 0.8
    gain = gain_over_controls(grids["answer"], measured["answer"])
    assert float(gain["gain_low"].sel(layer=1, token="a")) > 0


def test_an_empty_cell_has_no_gain(answers):
    activations = make_activations(answers)
    values = activations["activation"].to_numpy().copy()
    values[3:, 1, 1] = np.nan
    activations["activation"] = (activations["activation"].dims, values)
    grid = probe_grid(activations, **OPTIONS)
    gain = gain_over_controls(grid, controls(answers, grid)).sel(layer=1, token="b")
    assert all(np.isnan(gain[name]) for name in ("gain", "gain_low", "gain_high"))
    assert int(gain["n_examples"]) == 0


def test_all_together_is_a_nested_regression(answers, grids, measured):
    """Written again with plain loops: base scores without two folds, then the combination."""
    grid, found = grids["random"], measured["random"]
    wrong, fold = ~answers["correct"].to_numpy(), grid["fold"].to_numpy()
    known = [n for n in found["control"].to_numpy() if n not in (*CHANCE, "all")]
    trained = ("answer", "question", "question_characters", "response", "form", "outputs")
    fixed = {n: found["score"].sel(control=n).to_numpy() for n in known if n not in trained}

    def without(j, k):
        """Scores of all examples by controls that lacked folds j and k."""
        # The controls of a grid of which nothing but the other folds trains.
        training = np.array([(fold != j) & (fold != k)] * 5)
        other = grid.assign(training=(("left_out", "example"), training))
        scores = controls(answers, other)["score"]
        return np.array([fixed.get(n, scores.sel(control=n).to_numpy()) for n in known])

    k = 2
    inner = np.empty((len(known), N))
    for j in range(5):
        inner[:, fold == j] = without(j, k)[:, fold == j]
    train = fold != k
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(inner[:, train].T, wrong[train])
    expected = model.decision_function(without(k, k)[:, fold == k].T) - logit(wrong[train].mean())
    np.testing.assert_allclose(found["score"].sel(control="all")[fold == k], expected, atol=1e-6)


def test_the_controls_without_a_further_score_are_the_control_all(grids, measured):
    """What a detector adds is against the same regression without it."""
    grid, found = grids["random"], measured["random"]
    wrong = ~grid["correct"].to_numpy()
    nothing = np.zeros((5, N))
    added = gain_of_scores(nothing, grid, found)
    assert added["added"] == pytest.approx(0, abs=1e-9)
    assert added["added_low"] == pytest.approx(0, abs=1e-6)
    knows = np.where(wrong, 1.0, -1.0) + nothing
    assert gain_of_scores(knows, grid, found)["added"] > 0.99 - area(found, "all")


def test_questions_that_may_not_train_do_not(answers, grids):
    """With answers held out, some questions train nothing; nor do they train the controls."""
    grid = grids["random"]
    fold, wrong = grid["fold"].to_numpy(), ~answers["correct"].to_numpy()
    training = grid["training"].to_numpy().copy()
    training[:, ::2] = False
    found = controls(answers, grid.assign(training=(("left_out", "example"), training)))
    score = found["score"].sel(control="answer").to_numpy()
    train = (fold != fold[17]) & (np.arange(N) % 2 == 1)
    same = train & (answers["answer"] == answers["answer"][17]).to_numpy()
    excess = wrong[same].sum() - same.sum() * wrong[train].mean()
    assert score[17] == pytest.approx(excess / (same.sum() + 2))


def test_two_folds_have_no_combination(answers):
    grid = probe_grid(make_activations(answers), folds=2, **OPTIONS)
    found = controls(answers, grid)
    assert "all" not in found["control"]
    assert gain_over_controls(grid, found).attrs["control"] == best_control(found)
    assert found.sizes["other"] == 1


def bar(seed, kind, n=240, layers=2):
    """Gains of a grid's cells, and of the whole, over all controls together.

    The activations hold nothing, only what two of the controls read, or errors by themselves.
    """
    random = np.random.default_rng(seed)
    answers = make_answers(seed)
    wrong = ~answers["correct"].to_numpy()
    X = random.standard_normal((n, layers, 2, 6)).astype(np.float32)
    if kind == "two controls":
        sure = answers["response"].str.startswith("Surely").to_numpy()
        X[..., 0] += 2 * (sure + answers["question"].str.contains("big").to_numpy())[:, None, None]
    elif kind == "errors":
        X[wrong, ..., 0] += 2
    elif kind == "groups":
        number = np.array([int(a.split()[1]) for a in answers["answer"]])
        X += random.standard_normal((ANSWERS, layers, 2, 6))[number].astype(np.float32)
    names = ("id", "correct", "exact_answer", "answer", "question")
    activations = xr.Dataset(
        {"activation": (("example", "layer", "token", "feature"), X)},
        coords={"layer": range(layers), "token": ["a", "b"]}
        | {name: ("example", answers[name].to_numpy()) for name in names},
    )
    split = "answer" if kind == "groups" else "random"
    grid = probe_grid(activations, split=split, **(OPTIONS | {"n_permutations": 0}))
    found = controls(answers, grid)
    gain, whole = gain_over_controls(grid, found), detector(grid, found)
    return {
        "cell": bool((gain["gain_low_simultaneous"] > 0).any()),
        "above": whole.gain_low > 0,
        "added": whole.added_low > 0,
        "absorbed": whole.absorbed,
        "all": area(found, "all"),
    }


def simulations(kind, n):
    return pd.DataFrame([bar(seed, kind) for seed in range(quarter(n))])


@pytest.mark.parametrize("kind", ["nothing", "groups", "two controls"])
def test_what_the_controls_know_is_no_gain(kind):
    found = simulations(kind, 100)
    assert found["cell"].sum() <= most(len(found))
    assert found["above"].sum() <= most(len(found), 0.025)
    assert found["added"].sum() <= most(len(found), 0.025)
    if kind == "two controls":
        assert found["absorbed"].mean() > 0.8


def test_an_error_signal_of_its_own_is_a_gain():
    found = simulations("errors", 60)
    assert found["above"].mean() > 0.9
    assert found["cell"].mean() > 0.8
    assert found["absorbed"].mean() < 0.6
    assert found["added"].mean() > 0.9


def gain_simulation(seed, n=160):
    """Whether the interval of a gain holds it, where both scores are worth the same."""
    random = np.random.default_rng(seed)
    answers = make_answers(seed)[:n]
    wrong = ~answers["correct"].to_numpy()
    answers["logprob_mean"] = random.standard_normal(n) - 1.2 * wrong
    X = random.standard_normal((n, 1, 1, 1)).astype(np.float32)
    X[wrong] += 1.2
    names = ("id", "correct", "exact_answer", "answer", "question")
    grid = probe_grid(
        xr.Dataset(
            {"activation": (("example", "layer", "token", "feature"), X)},
            coords={"layer": [0], "token": ["a"]}
            | {name: ("example", answers[name].to_numpy()) for name in names},
        ),
        n_permutations=0,
        n_jobs=1,
        progress=False,
    )
    found = controls(answers, grid).sel(control=["logprob_mean"])
    gain = gain_over_controls(grid, found)
    return gain["gain"].item(), gain["gain_low"].item(), gain["gain_high"].item()


def test_the_gain_of_nothing_holds_zero():
    gain, low, high = np.array([gain_simulation(seed) for seed in range(quarter(60))]).T
    assert ((low > 0) | (high < 0)).sum() <= most(len(gain))
    assert abs(gain.mean()) < 0.02


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.iloc[20:], "20 of the grid's 240 examples are not among the 220 answers"),
        (lambda a: a.assign(correct=~a["correct"]), "disagree about `correct` of 240 of 240"),
        (lambda a: a.assign(exact_answer="Oslo"), "disagree about `exact_answer` of 240 of 240"),
        (lambda a: pd.concat([a, a[:1]]), "have the id 'q0' more than once"),
        (lambda a: a.drop(columns="n_tokens"), "lack n_tokens among their columns"),
    ],
)
def test_answers_of_another_run_are_refused(answers, grids, change, message):
    with pytest.raises(ValueError) as error:
        controls(change(answers), grids["random"])
    assert message in str(error.value)


def test_wrong_things_are_refused(answers, grids, measured):
    with pytest.raises(
        TypeError, match=r"answers must be a DataFrame, such as Run.answers\(\) gives"
    ):
        controls([], grids["random"])
    with pytest.raises(ValueError, match="The grid has no variable 'fold'"):
        controls(answers, grids["random"].drop_vars("fold"))
    with pytest.raises(TypeError, match="controls must be from"):
        gain_over_controls(grids["random"], grids["random"])
    with pytest.raises(ValueError, match="controls are of another grid"):
        gain_over_controls(grids["random"], measured["answer"])
