"""What is said of a run's answers before any probe is fitted, for each cause that there may be."""

import inspect
import re

import numpy as np
import pandas as pd
import pytest
from made_run import asked_run
from sklearn.metrics import roc_auc_score
from test_label_audit import finished

import probekit as pk
from probekit.arguments import visible
from probekit.extraction.audit import with_doubts
from probekit.extraction.one_pass import check_two_classes
from probekit.extraction.preflight import advise
from probekit.questions.candidates import Candidates
from probekit.questions.grading import examine

FINE = "Nothing stands in the way of the probes."
NAMES = [f"{a}{b}" for a in ("Alba", "Bel", "Cor", "Dan", "Esto") for b in ("via", "nia", "land")]
LIST = Candidates("lands", [(name, [], []) for name in NAMES])
OPEN = None


def said(response, accepted, candidates=LIST, kind="text", copied="", complete=True, choices=None):
    """An answer as the extract stage writes it, graded as it grades."""
    question = "In which land is the town of Oz?"
    span = (response.find(copied), response.find(copied) + len(copied)) if copied else None
    how = (candidates, kind, choices, span, complete)
    answer = examine(response, [accepted], question, *how)
    span = answer.span or (0, 0)
    return {
        "question": question,
        "response": response,
        "exact_answer": response[slice(*span)],
        "answer": answer.name,
        "accepted": accepted,
        "correct": answer.correct,
        "kind": kind,
        "doubt": answer.doubt,
        "finished": complete,
    }


def probed(n_right=45, n_wrong=45):
    """Answers to be probed, all names as often."""
    rows = []
    for i in range(n_right + n_wrong):
        name, other = NAMES[i % len(NAMES)], NAMES[(i + 4) % len(NAMES)]
        rows.append(said(f"It is in {name}.", name if i < n_right else other))
    return rows


def flown(tmp_path, rows, folds=5, **options):
    """The preflight of a run with these answers."""
    return pk.preflight(flown_run(tmp_path, rows, **options), folds=folds)


def flown_run(tmp_path, rows, inputs=("questions.csv", "candidates/lands.csv"), **options):
    """A run with these answers and files; each answer is to another question."""
    files = []
    for name in inputs:
        files.append(tmp_path / name)
        files[-1].parent.mkdir(exist_ok=True)
        names = NAMES if name == "candidates/lands.csv" else ["question,answers"]
        files[-1].write_text("\n".join(["name", *names] if names is NAMES else names))
    table = pd.DataFrame(rows)
    table["question"] = [f"{q[:-1]}, place {i}?" for i, q in enumerate(table.question)]
    table["id"] = [f"q{i}" for i in range(len(table))]
    parameters = {"max_new_tokens": 64, "n_samples": 1} | options
    return finished(tmp_path / "run", table, parameters, files)


def test_where_nothing_is_in_the_way_it_is_said(tmp_path):
    found = flown(tmp_path, probed(40, 50))
    assert found.advice == [FINE]
    assert found.counts == ["90 answers", "90 to be probed: 40 right, 50 wrong"]
    text = repr(found)
    assert FINE in text
    assert max(map(len, text.splitlines())) <= 100
    assert "exact answer: " in text
    assert "accepted: " in text


def test_the_counts_are_those_of_the_table(tmp_path):
    rows = [*probed(), *[said("It lies in the far north.", "Belnia")] * 3]
    rows += [said("It lies in a place that", "Belnia", complete=False)] * 2
    rows += [said("Belnia; others say Corland.", "Corland")]
    run = finished(
        tmp_path / "run", pd.DataFrame(rows).assign(id=range(len(rows))).astype({"id": str})
    )
    assert pk.preflight(run).counts == [
        "96 answers",
        "91 to be probed: 45 right, 46 wrong",
        "5 left out, as no exact answer was found in them",
        "2 cut short",
        "1 with a doubtful label, of those to be probed",
    ]


@pytest.mark.parametrize("seed", range(5))
def test_one_of_each_kind_is_shown(tmp_path, seed):
    rows = [
        *probed(),
        said("It lies in the north.", "Belnia"),
        said("It is", "Belnia", complete=False),
    ]
    table = pd.DataFrame(rows).assign(id=[f"q{i}" for i in range(92)])
    run = finished(tmp_path / "run", table)
    shown = pk.preflight(run, seed=seed).examples
    assert len(shown) == 5
    assert {"right", "wrong", "wrong, cut short"} == {*shown["verdict"]}
    assert "It lies in the north." in shown["response"].tolist()
    assert shown["exact_answer"].tolist().count("none") == 2
    pd.testing.assert_frame_equal(shown, pk.preflight(run, seed=seed).examples)


# Too few of a kind


@pytest.mark.parametrize(
    ("n_right", "n_wrong", "words"),
    [
        (90, 0, ["None of the 90 answers", "is wrong", "no probe", "harder", "temperature=0.8"]),
        (0, 90, ["None of the 90 answers", "is right", "no probe", "easier", "larger model"]),
        (90, 1, ["Only 1 of the 91 answers with an exact answer is wrong", "no probe", "harder"]),
        (4, 90, ["Only 4 of the 94", "are right", "5 right and 5 wrong", "folds=4", "easier"]),
        (12, 60, ["Only 12 of the 72", "are right", "±0.", "easier"]),
        (60, 12, ["Only 12 of the 72", "are wrong", "±0.", "smaller model"]),
    ],
)
def test_too_few_of_a_kind(n_right, n_wrong, words, tmp_path):
    (advice,) = flown(tmp_path, probed(n_right, n_wrong)).advice
    assert all(word in advice for word in words), advice
    assert "fewer folds" not in advice
    assert ("harder" in advice) != ("easier" in advice)


def test_as_many_right_as_wrong_but_few(tmp_path):
    (advice,) = flown(tmp_path, probed(10, 10)).advice
    assert "Ask more questions. To change the questions" in advice
    assert advice.endswith("give another run directory (--run-dir): this one keeps its answers.")
    assert "harder" not in advice


def test_wrong_answers_that_have_no_exact_answer_are_the_cause(tmp_path):
    unfound = [said("It lies near the North Sea.", "Belnia")] * 40
    first, second = flown(tmp_path, [*probed(90, 3), *unfound]).advice
    assert "40 more wrong answers lack an exact answer: see to these first" in first
    assert "harder" not in first
    assert "North Sea 40 times" in second


def test_samples_are_not_advised_to_whom_has_them(tmp_path):
    (advice,) = flown(tmp_path, probed(90, 3), n_samples=8).advice
    assert "n_samples" not in advice


@pytest.mark.parametrize(("n_wrong", "fitted"), [(4, False), (5, True)])
def test_so_many_are_needed_as_the_probes_need(n_wrong, fitted, tmp_path):
    n = 40
    given = [NAMES[i % len(NAMES)] for i in range(n)]
    run = asked_run(tmp_path / "run", given, np.arange(n) < n_wrong)
    (advice,) = pk.preflight(run).advice
    assert ("no probe can be fitted" in advice) != fitted
    activations = run.activations()
    if fitted:
        assert pk.probe_grid(activations, n_permutations=0, progress=False)["auroc"].notnull().any()
    else:
        with pytest.raises(ValueError, match="wrong answers with an exact answer"):
            pk.probe_grid(activations, n_permutations=0, progress=False)
    default = inspect.signature(pk.probe_grid).parameters["folds"].default
    assert default == inspect.signature(pk.preflight).parameters["folds"].default


@pytest.mark.parametrize(
    ("n_questions", "wrong", "words"),
    [
        # What is right and wrong by question, and what is said of it.
        (4, lambda question, again: again % 2, ["only 4 questions", "5 questions", "folds=4"]),
        (30, lambda question, again: question < 2, ["Only 2 of the 30 questions", "3 or more"]),
        (30, lambda question, again: question < 4, ["Only 4 of the 30 questions", "±0."]),
    ],
)
def test_questions_are_counted_where_they_are_asked_again(n_questions, wrong, words, tmp_path):
    n = n_questions * 20
    question, again = np.arange(n) % n_questions, np.arange(n) // n_questions
    flags = np.broadcast_to(wrong(question, again), n).astype(bool)
    run = asked_run(
        tmp_path / "run",
        [NAMES[(i + i // n_questions) % len(NAMES)] for i in range(n)],
        flags,
        question=[f"Where is place {i}?" for i in question],
    )
    (advice,) = pk.preflight(run).advice
    assert all(word in advice for word in words), advice
    options = {"n_permutations": 0, "progress": False, "n_jobs": 1}
    if "±" in advice:
        assert pk.probe_grid(run.activations(), **options)["auroc"].notnull().any()
    else:
        assert "no probe can be fitted" in advice
        with pytest.raises(ValueError, match="question"):
            pk.probe_grid(run.activations(), **options)
    fewer = re.search(r"done with folds=(\d)", advice)
    if fewer:
        pk.probe_grid(run.activations(), folds=int(fewer[1]), **options)


def test_fewer_folds_need_fewer_answers(tmp_path):
    (advice,) = flown(tmp_path, probed(3, 60)).advice
    assert "no probe can be fitted" in advice
    assert "It can be done with folds=3" in advice
    (advice,) = flown(tmp_path / "fewer", probed(3, 60), folds=3).advice
    assert "no probe can be fitted" not in advice
    assert "±" in advice


def test_how_well_an_auroc_of_few_is_known(tmp_path):
    """Against areas of drawn scores, whose true area is 0.76."""
    (advice,) = flown(tmp_path, probed(60, 12)).advice
    half = float(re.search(r"±(0\.\d\d)", advice)[1])
    random, labels = np.random.default_rng(0), np.arange(72) < 12
    areas = [roc_auc_score(labels, random.normal(size=72) + labels) for _ in range(2000)]
    assert half == pytest.approx(1.96 * np.std(areas), abs=0.03)


# No exact answer


def test_a_list_that_lacks_what_is_answered(tmp_path):
    answered = ["Istanbul"] * 4 + [f"Ur{chr(97 + i)}ma" for i in range(16)]
    responses = [f"The town of Oz is in the land that is called {name}." for name in answered]
    rows = [*probed(), *(said(response, "Belnia") for response in responses)]
    (advice,) = flown(tmp_path, rows).advice
    assert "20 responses name nothing that is on the list lands.csv" in advice
    assert "Istanbul 4 times" in advice
    assert "{other}" in advice
    assert "finds 20 of them" in advice
    # And so it does.
    longer = Candidates("lands", [*((name, [], []) for name in NAMES), ("{other}", [], [])])
    mended = [said(response, "Belnia", longer) for response in responses]
    assert [row["exact_answer"] for row in mended] == answered
    assert flown(tmp_path / "mended", [*probed(), *mended]).advice == [FINE]


def test_names_that_are_no_answer_are_not_put_on_a_list_by_a_rule(tmp_path):
    vague = said("However, Oz is located in the European Union, near the North Sea.", "Belnia")
    (advice,) = flown(tmp_path, [*probed(), *[vague] * 20]).advice
    assert "European Union 20 times" in advice
    assert "{other}" not in advice
    assert "However" not in advice
    assert "Oz 20" not in advice
    assert "on a line of its own or as an alias" in advice


def test_few_without_an_exact_answer_are_counted_and_no_cause(tmp_path):
    found = flown(tmp_path, [*probed(), *[said("It is near the North Sea.", "Belnia")] * 3])
    assert found.advice == [FINE]
    assert "3 left out, as no exact answer was found in them" in found.counts


def test_all_wrong_as_the_list_lacks_the_answers(tmp_path):
    rows = [said(f"The land is called Ur{chr(97 + i)}ma.", "Belnia") for i in range(20)] * 2
    first, second = flown(tmp_path, rows).advice
    assert "No response has an exact answer" in first
    assert "easier" not in first, "that is not the cause"
    assert "{other}" in second
    # The extract stage refuses such answers, and says the same.
    with pytest.raises(ValueError, match="All 40 answers are wrong") as refused:
        check_two_classes(pd.DataFrame(rows), {"max_new_tokens": 64}, [None, LIST])
    assert "{other}" in str(refused.value)
    assert "the list lands" in str(refused.value)
    assert "graded fairly" in str(refused.value)


def test_a_long_refusal_names_the_causes_whole(tmp_path):
    """Where a message is too long its middle is left out, here as in an executed notebook."""
    long = "It lies in the far and windy North of the world, beyond the mountains. " * 9
    rows = [said(long, "Belnia")] * 20 + [said("", "Belnia")] * 20
    rows += [said("I'm sorry, I don't know.", "Belnia")] * 20
    rows += [said(f"{long} and", "Belnia", complete=False)] * 20
    table = pd.DataFrame(rows).assign(question=f"{long}?")
    with pytest.raises(ValueError, match="All 80 answers are wrong") as refused:
        check_two_classes(table, {"max_new_tokens": 64}, [LIST])
    seen = visible(f"ValueError: {refused.value}", 1500)
    for cause in advise(with_doubts(table), {"max_new_tokens": 64}, {"lands": LIST}):
        assert cause in seen
    assert max(map(len, str(refused.value).splitlines()[-3:])) <= 100


def test_open_questions_without_a_short_answer(tmp_path):
    rows = [*probed(), *[said("That is hard to sum up in one place.", "Belnia", OPEN)] * 20]
    (advice,) = flown(tmp_path, rows, inputs=["questions.csv"]).advice
    assert "In 20 of the responses no exact answer was found" in advice
    assert "'That is hard to sum up in one place.'" in advice
    assert "column candidates" in advice
    assert "{other}" not in advice


def test_of_files_that_nobody_knows_nothing_is_claimed(tmp_path):
    rows = [*probed(), *[said("That is hard to sum up in one place.", "Belnia", OPEN)] * 20]
    (advice,) = flown(tmp_path, rows, inputs=[]).advice
    assert "Give the question file" not in advice
    assert "If the questions have a list of candidates" in advice


def test_a_question_file_in_a_folder_of_lists_is_no_list(tmp_path):
    rows = [*probed(), *[said("That is hard to sum up in one place.", "Belnia", OPEN)] * 20]
    (advice,) = flown(tmp_path, rows, inputs=["candidates/questions.csv"]).advice
    assert "questions.csv" not in advice
    assert "Give the question file a column candidates" in advice


def test_a_list_that_is_not_there_any_more_is_still_named(tmp_path):
    rows = [*probed(), *[said("It lies near the North Sea.", "Belnia")] * 20]
    run = flown_run(tmp_path, rows)
    (tmp_path / "candidates" / "lands.csv").unlink()
    (advice,) = pk.preflight(run).advice
    assert "the list lands.csv" in advice
    assert "North Sea 20 times" in advice


@pytest.mark.parametrize(
    "response", ["It is not in Belnia.", "It lies in Belnia, or perhaps in Corland. No: neither."]
)
def test_what_the_list_has_is_not_to_be_added_to_it(response, tmp_path):
    answer = said(response, "Danvia") | {"exact_answer": "", "correct": False}
    (advice,) = flown(tmp_path, [*probed(), *[answer] * 20]).advice
    assert "20 responses name something on the list lands.csv, but not as the answer" in advice
    assert response in advice
    assert "add it" not in advice
    assert "{other}" not in advice


def test_numbers_that_are_not_there(tmp_path):
    rows = [said(f"It is {i}.", str(i + i % 2), OPEN, kind="number") for i in range(80)]
    rows += [said("It is a great many.", "7", OPEN, kind="number")] * 20
    (advice,) = flown(tmp_path, rows, inputs=["questions.csv"]).advice
    assert "20 responses name no number" in advice
    assert "Answer with a number only" in advice


# Responses that are none


def test_empty_responses(tmp_path):
    (advice,) = flown(tmp_path, [*probed(), *[said("", "Belnia")] * 6]).advice
    assert "6 responses are empty" in advice
    assert "chat template" in advice
    assert "refusal" not in advice


def test_refusals(tmp_path):
    (advice,) = flown(
        tmp_path, [*probed(), *[said("I'm sorry, I don't know.", "Belnia")] * 6]
    ).advice
    assert "6 responses decline to answer, such as" in advice
    assert "sorry" in advice
    assert "the list" not in advice


@pytest.mark.parametrize(
    ("end", "words", "not_said"),
    [
        ("in a land that has had many names", ["max_new_tokens=128"], "again and again"),
        ("in the north, specifically " * 6, ["again and again", "no greater length"], "=128"),
    ],
)
def test_responses_that_are_cut_short(end, words, not_said, tmp_path):
    rows = [said(f"The town of Oz is a place {end}", "Belnia", complete=False)] * 10
    (advice,) = flown(tmp_path, [*probed(), *rows]).advice
    assert "10 responses are cut short before the answer was complete, at 64 tokens" in advice
    assert all(word in advice for word in words), advice
    assert not_said not in advice


def test_what_is_cut_after_its_answer_is_no_cause(tmp_path):
    rows = [
        said(f"{NAMES[i]}, of which much could be", "Belnia", complete=False) for i in range(10)
    ]
    found = flown(tmp_path, [*probed(), *rows])
    assert found.advice == [FINE]
    assert "10 cut short" in found.counts


def test_what_is_thought_is_no_part_of_a_response(tmp_path):
    thinking = "<think>Perhaps the Kingdom of Urama, or Belnia?</think>"
    rows = [said(f"{thinking}It lies in the Far North.", "Belnia")] * 20
    rows += [said(thinking, "Belnia")] * 10
    rows += [said("<think>Perhaps Urama, and so", "Belnia", complete=False)] * 10
    empty, unlisted, cut = flown(tmp_path, [*probed(), *rows]).advice
    assert "10 responses are empty" in empty
    assert "20 responses name nothing" in unlisted
    assert "Far North 20 times" in unlisted
    assert "Urama" not in unlisted
    assert "10 responses are cut short" in cut


def test_no_answers_at_all():
    table = pd.DataFrame(columns=[*said("", "Belnia")])
    assert advise(table, {}, None) == ["There are no answers. Ask questions first."]


def test_each_kind_of_answer_has_its_own_hint(tmp_path):
    rows = [said(f"It is {i}.", str(i + i % 2), OPEN, kind="number") for i in range(80)]
    none = {
        "number": ("7", "a number"),
        "date": ("May 7, 1945", "a date"),
        "yes_no": ("yes", "yes"),
    }
    for n, (kind, (accepted, _)) in enumerate(none.items(), 4):
        rows += [said("It is hard to tell.", accepted, OPEN, kind=kind)] * n
    advice = flown(tmp_path, rows, inputs=["questions.csv"]).advice
    assert [each.split(", such")[0] for each in advice] == [
        "4 responses name no number",
        "5 responses name no date",
        "6 responses name no yes or no",
    ]
    for each, (_, asked) in zip(advice, none.values(), strict=True):
        assert f"Answer with {asked}" in each


# Answers that are all alike, and labels in doubt


def test_one_answer_to_most_questions(tmp_path):
    rows = [said("It is in Belnia.", ["Belnia", "Corvia"][i % 4 > 0]) for i in range(40)]
    (advice,) = flown(tmp_path, [*probed(), *rows]).advice
    assert "35% of the exact answers are 'Belnia'" in advice
    assert "which answer was given" in advice
    assert "answers held out" in advice


def test_the_share_is_of_what_is_quoted(tmp_path):
    """Several forms of one name: none of them is given so often as the name."""
    forms = ["Mammalia", "mammals", "Mammals", "mammal"]
    rows = [said("It is in Belnia.", "Belnia") for _ in range(40)]
    for i, row in enumerate(rows):
        row |= {"answer": "mammal", "exact_answer": forms[i % 4]}
    (advice,) = flown(tmp_path, [*probed(), *rows]).advice
    assert "31% of the exact answers name 'mammal', in different forms such as" in advice


def test_yes_and_no_are_not_to_be_held_out(tmp_path):
    rows = [
        said(f"{'Yes' if i < 85 else 'No'}.", ["yes", "no"][i % 2], OPEN, kind="yes_no")
        for i in range(100)
    ]
    (advice,) = flown(tmp_path, rows, inputs=["questions.csv"], folds=5).advice[-1:]
    assert "only 2 answers, which 5 folds can't hold out: compare with the controls" in advice
    assert "Trust only" not in advice
    (advice,) = flown(tmp_path / "two", rows, inputs=["questions.csv"], folds=2).advice[-1:]
    assert "Trust only what is left with answers held out" in advice


@pytest.mark.parametrize(("n_yes", "cause"), [(50, False), (65, False), (85, True), (100, True)])
def test_always_yes_is_told_from_yes_or_no(n_yes, cause, tmp_path):
    rows = [
        said(f"{'Yes' if i < n_yes else 'No'}.", ["yes", "no"][i % 2], OPEN, kind="yes_no")
        for i in range(100)
    ]
    advice = flown(tmp_path, rows, inputs=["questions.csv"]).advice
    assert any("of the exact answers are 'Yes'" in each for each in advice) == cause


def test_labels_in_doubt(tmp_path):
    rows = [said("Belnia; others say Corland.", "Corland")] * 12
    (advice,) = flown(tmp_path, [*probed(), *rows]).advice
    assert "12 labels are in doubt (most often: an accepted answer stands elsewhere)" in advice
    assert "pk.audit(run)" in advice
    assert "corrections" in advice


def test_several_causes_are_all_named(tmp_path):
    rows = [*probed(90, 2), *[said("", "Belnia")] * 10]
    rows += [said("Belnia; others say Corland.", "Corland")] * 10
    words = ["are wrong", "empty", "in doubt"]
    advice = flown(tmp_path, rows).advice
    assert len(advice) == 3
    assert all(word in each for word, each in zip(words, advice, strict=True))


# Real runs


def test_a_run_of_an_earlier_version(repository):
    found = pk.preflight(pk.Run(repository / "data" / "example"))
    assert found.counts[1] == "965 to be probed: 471 right, 494 wrong"
    (advice,) = found.advice
    assert "the list countries.csv" in advice
    assert "European Union" in advice


@pytest.mark.model
def test_what_is_said_of_the_real_models_answers(smollm2, tmp_path):
    questions = pk.read_questions("cities", limit=12)
    run = pk.extract(
        smollm2, questions, pk.Run(tmp_path / "run"), max_new_tokens=24, progress=False
    )
    found, answers = pk.preflight(run), run.answers()
    there = answers["exact_answer"] != ""
    right = int(answers["correct"][there].sum())
    assert found.counts[0] == "12 answers"
    assert f"{there.sum()} to be probed: {right} right, {there.sum() - right} wrong" in found.counts
    fewer = min(right, there.sum() - right)
    assert found.advice[0].startswith(f"Only {fewer} of the {there.sum()} answers with an exact")
    for row in found.examples.itertuples():
        (answer,) = answers[answers["question"] == row.question].to_dict("records")
        assert row.verdict.startswith("right" if answer["correct"] else "wrong")
        assert row.accepted.split(" or ")[0] == answer["accepted"].split("|")[0]
        assert row.exact_answer == (answer["exact_answer"] or "none")
