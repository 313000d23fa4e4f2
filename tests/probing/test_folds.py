"""Folds that hold answers out: what may train, and what a cell shows that knows no errors."""

import numpy as np
import pytest
import xarray as xr
from nightly import most, quarter

from probekit import detector, held_out_splits, probe_grid
from probekit.probing.folds import (
    Plan,
    _check_training,
    _training,
    example_groups,
    group_counts,
    held_names,
)

QUICK = {"n_permutations": 0, "progress": False, "n_jobs": 1}


def confused(seed, n=600, countries=40, signal=0.0, confusable=3, alike=False):
    """Cities of countries: error rates differ by country, and wrong answers are of a few others.

    The features hold the city's country, and with a signal whether the answer is wrong.
    """
    random = np.random.default_rng(seed)
    gold = random.integers(countries, size=n)
    rate = np.full(countries, 0.45) if alike else random.beta(1, 1, size=countries)
    wrong = random.random(n) < rate[gold]
    others = random.integers(countries, size=(countries, confusable))
    others = np.where(others == np.arange(countries)[:, None], (others + 1) % countries, others)
    share = random.dirichlet(np.full(confusable, 0.7), size=countries)
    which = (random.random(n)[:, None] > share.cumsum(1)[gold]).sum(1).clip(max=confusable - 1)
    answer = np.where(wrong, others[gold, which], gold)
    X = random.normal(size=(countries, 24))[gold] + 0.5 * random.normal(size=(n, 24))
    X[wrong, 0] += signal
    return xr.Dataset(
        {"activation": (("example", "layer", "token", "feature"), X[:, None, None].astype("f4"))},
        coords={
            "layer": [0],
            "token": ["-1"],
            "id": ("example", [f"q{i}" for i in range(n)]),
            "exact_answer": ("example", [f"country {a}" for a in answer]),
            "accepted": ("example", [f"country {g}|land of {g}" for g in gold]),
            "correct": ("example", ~wrong),
        },
    )


def areas(seeds, split, known=True, **options):
    found = []
    for seed in seeds:
        activations = confused(seed, **options)
        if not known:
            activations = activations.drop_vars("accepted")
        found.append(float(probe_grid(activations, split=split, **QUICK)["auroc"].squeeze()))
    return np.array(found)


@pytest.mark.parametrize("confusable", [1, 3])
def test_a_cell_that_holds_only_the_country_is_at_chance(confusable):
    seeds = range(quarter(80))
    before = areas(seeds, "answer", known=False, confusable=confusable)
    held_out = areas(seeds, "answer", confusable=confusable)
    assert before.mean() < 0.42, "what it is where nobody knows what was accepted"
    assert abs(held_out.mean() - 0.5) < 0.04


def test_how_hard_a_country_is_can_be_read_where_it_is_confused_with_many():
    """Of a country whose wrong answers are spread, most train: its error rate is no bias.

    With accepted answers held out, nothing is known of the country.
    """
    seeds = range(quarter(80))
    assert 0.5 < areas(seeds, "answer", confusable=20).mean() < 0.6
    assert abs(areas(seeds, "gold", confusable=20).mean() - 0.5) < 0.04


def test_where_nothing_can_be_read_few_p_values_are_small():
    """All countries are as hard: against permuted labels as they are, 13 to 16 % would be."""
    p = []
    for seed in range(quarter(120)):
        grid = probe_grid(
            confused(seed, alike=True), split="answer", **QUICK | {"n_permutations": 19}
        )
        p.append((float(grid["p_corrected"].squeeze()), detector(grid).p_value))
    assert ((np.array(p) <= 0.05).sum(0) <= most(len(p))).all()


def test_accepted_answers_can_be_held_out_too():
    held_out = areas(range(quarter(80)), "gold")
    assert abs(held_out.mean() - 0.5) < 0.04


def test_an_error_signal_is_what_it_would_be_without_the_country():
    """Beside the country: what the same probes find for unseen countries that go with no error.

    Where each country is confused with one other, that is 0.67, and was 0.54 where nothing was
    dropped; with three others the two differ too little for a test to tell.
    """
    seeds, of = range(quarter(80)), {"signal": 1.0, "confusable": 1}
    held_out, before = areas(seeds, "answer", **of), areas(seeds, "answer", known=False, **of)
    pure = []
    for seed in seeds:
        activations = confused(seed, **of)
        random = np.random.default_rng(seed)
        country = random.integers(40, size=600)
        X = random.normal(size=(40, 24))[country] + 0.5 * random.normal(size=(600, 24))
        X[~activations["correct"].to_numpy(), 0] += of["signal"]
        activations = activations.assign(
            activation=(activations["activation"].dims, X[:, None, None])
        ).assign_coords(other=("example", country))
        pure.append(float(probe_grid(activations, split="other", **QUICK)["auroc"].squeeze()))
    assert before.mean() < np.mean(pure) - 0.1, "what it is where nobody knows what was accepted"
    assert held_out.mean() == pytest.approx(np.mean(pure), abs=0.03)


def test_no_question_trains_to_which_a_held_out_answer_would_be_right():
    labels = confused(0).coords.to_dataset()
    wrong = ~labels["correct"].to_numpy()
    answer, gold = (
        np.array([int(text.split("|")[0].split()[-1]) for text in labels[name].to_numpy()])
        for name in ("exact_answer", "accepted")
    )
    groups, names = example_groups(labels, "answer"), held_names(labels, "answer")
    plan = Plan.make(wrong, groups, "cross-validated", 5, np.array([1.0]), 0, 3, names)
    assert plan.training.shape == (4, 5, 600)
    for labelling in range(4):
        fold, errors = plan.fold[labelling], plan.wrong[labelling]
        for k in range(5):
            trains = plan.training[labelling, k]
            held = {*answer[fold == k]}
            assert not trains[fold == k].any()
            assert not held & {*answer[trains]}
            assert not held & {*gold[trains]}
            for each in {*gold} - held:
                here = (errors & (gold == each) & (fold == k)).sum()
                all_errors = (errors & (gold == each)).sum()
                fair = (errors & (fold == k)).sum() / errors.sum() * all_errors
                dropped = here and here >= all_errors / 3 and here >= 5 / 3 * fair
                kept = trains[(gold == each) & (fold != k)]
                assert (~kept).all() if dropped else kept.all()
    assert 0.5 < plan.training.mean() < 0.78


def test_forms_of_a_name_are_one_name():
    labels = xr.Dataset(
        coords={
            "exact_answer": ("example", ["England", "Burma", "Peru", "UK", "Chile"]),
            "accepted": (
                "example",
                ["United Kingdom|UK|England", "Myanmar|Burma", "Britain|uk", "Peru", "Peru|Perú"],
            ),
            "correct": ("example", [True, True, False, False, False]),
        }
    )
    answers, accepted = held_names(labels, "answer")
    assert accepted[0] == accepted[2] != accepted[3] == accepted[4]
    assert answers[0] == answers[3] == accepted[0], "England and UK are forms of one name"
    assert answers[2] == accepted[3]
    assert answers[4] not in accepted, "nothing was ever right by it"
    np.testing.assert_array_equal(held_names(labels, "gold"), [accepted, answers])
    assert held_names(labels, "random") is None
    assert held_names(labels.drop_vars("accepted"), "answer") is None
    groups = example_groups(labels, "gold")
    assert len(np.unique(groups)) == 3
    with pytest.raises(ValueError, match="needs the coordinate accepted"):
        example_groups(labels.drop_vars("accepted"), "gold")


def test_two_names_that_are_never_right_are_two():
    labels = xr.Dataset(
        coords={
            "exact_answer": ("example", ["Oz", "Narnia", "Oz"]),
            "accepted": ("example", ["Peru", "Chile", "Peru"]),
            "correct": ("example", [False, False, False]),
        }
    )
    answers, _ = held_names(labels, "answer")
    assert answers[0] == answers[2] != answers[1]


def test_folds_that_leave_one_class_to_train_on_are_refused():
    """To the questions of fold 1, what fold 0 holds is right, but for one."""
    fold = np.array([0, 0, 1, 1])
    wrong = np.array([True, False, True, False])
    names = np.array([[0, 1, 2, 3], [4, 1, 1, 3]])
    training = _training(fold, 2, wrong, names)
    assert training[0].tolist() == [False, False, False, True]
    with pytest.raises(ValueError, match=r"Without fold 0, and .* the 1 answers .* one class"):
        _check_training(training, wrong)


def open_ended(seed, n=600):
    """Every exact answer is another; the features hold one of 12 topics, which differ in errors."""
    random = np.random.default_rng(seed)
    topic = random.integers(12, size=n)
    wrong = random.random(n) < np.linspace(0.1, 0.9, 12)[topic]
    X = random.normal(size=(12, 16))[topic] + 0.3 * random.normal(size=(n, 16))
    coords = {
        "layer": [0],
        "token": ["-1"],
        "id": ("example", [f"q{i}" for i in range(n)]),
        "exact_answer": ("example", [f"answer {i}" for i in range(n)]),
        "correct": ("example", ~wrong),
    }
    X = X[:, None, None].astype("f4")
    return xr.Dataset({"activation": (("example", "layer", "token", "feature"), X)}, coords)


def test_single_answers_cannot_test_what_was_read():
    """Topics alone give 0.73 with answers held out, as with random folds: nothing is tested."""
    activations = open_ended(0)
    found = held_out_splits(activations)["answer"]
    assert found.startswith("Held-out answers: not testable here. Of 600 different answers, 600 ")
    assert "the same as random folds" in found
    held_out, random = (probe_grid(activations, split=s, **QUICK) for s in ("answer", "random"))
    assert float(held_out["auroc"].squeeze()) > 0.65
    assert float(random["auroc"].squeeze()) > 0.65
    assert held_out.attrs["n_groups"] == held_out.attrs["n_single_groups"] == 600
    # Asked for by name it is made; half of them in pairs it is offered.
    assert held_out_splits(activations, needed="answer")["answer"] == ""
    pairs = activations.assign_coords(exact_answer=("example", [f"a{i // 2}" for i in range(600)]))
    assert held_out_splits(pairs)["answer"] == ""


def test_groups_are_counted():
    assert group_counts(np.array([3, 3, 5, 7, 7, 7])) == {
        "n_groups": 3,
        "n_single_groups": 1,
        "largest_group": 3,
    }
