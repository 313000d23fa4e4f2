"""Kinds of answers: graded as a person would, at the words that the exact answer is."""

import csv
import json
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probekit.questions.candidates import Candidates
from probekit.questions.grading import examine, find_span, grade, is_refusal
from probekit.questions.kinds import KINDS, kind_of
from probekit.questions.statements import spoken
from probekit.questions.text import fold
from probekit.questions.values import dates, numbers

DATA = Path(__file__).parents[1] / "data"


def test_responses_are_graded_as_a_person_would():
    # 76 cases of the kinds that comparable tools get reports of, and 320 that somebody else wrote
    # to the same kinds without seeing the grader, which was then mended by them: 84 % of the first
    # 200 and 94 % of the last 120 were right at first sight.
    lines = (DATA / "graded_responses.jsonl").read_text(encoding="utf-8").splitlines()
    cases = [json.loads(line) for line in lines]
    missed = [
        case["response"]
        for case in cases
        if grade(case["response"], case["accepted"], question=case["question"]) != case["right"]
    ]
    assert len(cases) == 396
    assert sorted(missed) == [
        "Barack Hussein Obama",  # a middle name, which elsewhere is another person
        "It was The Shining.",  # asked for the novel "It"
        "Mark my words: it was Luke.",  # asked for Mark
        "This was written by Dostoevsky, who was a contemporary of Tolstoy.",  # asked for Tolstoy
        "Yes, I know this one! Genesis.",  # asked for the band "Yes"
    ]


# Of 40 responses of each kind, how many grades and exact answers are those that a person gave
# before the grader was written. It was made on one half of them, and mended by the other.
AGREEMENT = {
    "text": (38, 36), "number": (38, 38), "date": (40, 38), "yes_no": (38, 39), "choice": (40, 39)
}  # fmt: skip


def labelled():
    with (DATA / "labelled_kinds.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_agreement_with_labels_by_hand():
    grades, spans, told = Counter(), Counter(), Counter()
    for row in labelled():
        kind, answers, question = row["kind"], row["answers"].split("|"), row["question"]
        choices = row["choices"].split("|") if row["choices"] else None
        copied = None
        if row["copied"] and not is_refusal(row["response"]):
            copied = int(row["copied_start"]), int(row["copied_start"]) + len(row["copied"])
        finished = row["finished"] == "True"
        answer = examine(row["response"], answers, question, None, kind, choices, copied, finished)
        start = int(row["answer_start"])
        marked = (start, start + len(row["exact_answer"])) if row["exact_answer"] else None
        grades[kind] += answer.correct is (row["correct"] == "True")
        spans[kind] += answer.span == marked
        told[kind] += kind_of(answers, choices, None, question) == kind
    assert told == dict.fromkeys(KINDS, 40)
    assert {kind: (grades[kind], spans[kind]) for kind in KINDS} == AGREEMENT


def found_in_review():
    lines = (DATA / "found_in_review.jsonl").read_text(encoding="utf-8").splitlines()
    return [pytest.param(case, id=case["response"][:40]) for case in map(json.loads, lines)]


@pytest.mark.parametrize("case", found_in_review())
def test_what_was_found_in_review(case):
    response, accepted, question = case["response"], case["accepted"], case["question"]
    kind, copied = kind_of(accepted, case["choices"], None, question), None
    if case["copied"]:
        start = response.rindex(case["copied"])
        copied = start, start + len(case["copied"])
    answer = examine(response, accepted, question, None, kind, case["choices"], copied)
    assert answer.correct is case.get("right", answer.correct)
    if "exact_answer" in case:
        assert (answer.span and response[slice(*answer.span)]) == case["exact_answer"]


@pytest.mark.parametrize(
    "response",
    [
        "The answer is unknown.", "It is not specified.", "Not stated.", "Nobody knows.",
        "I have no clue.", "Idk", "The information is not available.", "Unanswerable",
        "I apologize, but I must decline.", "The context does not say.",
    ],
)  # fmt: skip
def test_refusals(response):
    assert is_refusal(response)


@pytest.mark.parametrize(
    "response",
    [
        "The song is 'I Don't Know How to Love Him'.", "I'm not sure but Paris",
        "I don't have personal opinions, but many consider it to be Paris.", "I'm not sure. Paris.",
        "Paris. I am sorry, I cannot help with more.", "Unknown Pleasures, by Joy Division.",
        "I am not sure, but I think it is Paris.", "I'm sorry to hear that. The answer is Paris.",
    ],
)  # fmt: skip
def test_answers_are_no_refusals(response):
    assert not is_refusal(response)


@pytest.mark.parametrize(
    "text", ["x,5/0", ",440/0", "1 " + "million " * 800, "\\boxed{\t", "\\boxed{ \u2028"]
)
def test_odd_texts_raise_nothing(text):
    for kind in KINDS:
        examine(text, ["5"], "How many?", None, kind, ["a", "b"] if kind == "choice" else None)


@pytest.mark.parametrize(
    ("answers", "choices", "question", "kind"),
    [
        (["Paris"], None, "", "text"),
        (["7"], None, "", "number"),
        (["seven", "7"], None, "", "number"),
        (["72 kg"], None, "", "number"),
        (["9 pens"], None, "", "number"),
        (["1999", "in 1999"], None, "", "text"),
        (["7 Samurai"], None, "", "text"),
        (["July 20, 1969"], None, "", "date"),
        (["1969-07-20", "20 July 1969"], None, "", "date"),
        (["Yes"], None, "Is it so?", "yes_no"),
        (["false"], None, "True or false: ice is hot.", "yes_no"),
        (["Yes"], None, "Which band recorded it?", "text"),
        (["B"], None, "Which? (A) Mars (B) Saturn", "choice"),
        (["C"], None, "Which vitamin prevents scurvy?", "text"),
        (["B", "Saturn"], ["Mars", "Saturn"], "", "choice"),
        (["May"], None, "", "text"),
        (["H2O", "water"], None, "", "text"),
    ],
)
def test_kind_of(answers, choices, question, kind):
    assert kind_of(answers, choices, None, question) == kind


def test_kind_of_a_list():
    letters = Candidates("letters", [(letter, [], []) for letter in "ABCD"])
    polar = Candidates("polar", [("yes", ["YES"], []), ("no", [], [])])
    elements = Candidates("elements", [("O", [], []), ("Au", [], [])])
    assert [kind_of(["A"], None, c) for c in (letters, polar, elements)] == [
        "choice", "yes_no", "text"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("8 000 and 1,000.5 and 1'000'000", [8000, 1000.5, 10**6]),
        ("3,14 and 1.234,56", [3.14, 1234.56]),
        ("in 1990 300 people", [1990, 300]),
        ("twenty-one, a hundred and five, two thousand", [21, 105, 2000]),
        ("nineteen eighty-four", [1984]),
        ("two and a half, three quarters, 2½, 3 1/2", [2.5, 0.75, 2.5, 3.5]),
        (r"\frac{3}{4}, 3 x 10^8, 1e6, 1.2 million", [0.75, 3e8, 1e6, 1.2e6]),
        ("minus five, -5, 10-5", [-5, -5, 10, 5]),
        ("B12, 1990s, x56, 5.6.7, no one, one of them", []),
        ("1e999999999" + "9" * 5000, []),
    ],
)
def test_numbers(text, values):
    assert [number.value for number in numbers(fold(text)[0])] == pytest.approx(values)


@pytest.mark.parametrize(
    ("text", "readings"),
    [
        ("On July 20th, 1969.", [{(1969, 7, 20)}]),
        ("20-Jul-1969 or 1969/07/20", [{(1969, 7, 20)}, {(1969, 7, 20)}]),
        ("3/4/2001", [{(2001, 3, 4), (2001, 4, 3)}]),
        ("on the 4th of July", [{(None, 7, 4)}]),
        ("March 15, 44 BC", [{(-44, 3, 15)}]),
        ("May 1945, and in 1946", [{(1945, 5, None)}, {(1946, None, None)}]),
        ("you may go; the 1990s; 45/13/2001", []),
    ],
)
def test_dates(text, readings):
    assert [set(date.readings) for date in dates(text)] == readings


@pytest.mark.parametrize(
    ("response", "kind", "choices", "question", "expected"),
    [
        ("No, it is not.", "yes_no", None, "", "No"),
        ("No other river is longer, so yes.", "yes_no", None, "", "yes"),
        ("It is not true.", "yes_no", None, "", "not"),
        ("Yes and no.", "yes_no", None, "", None),
        ("A tomato is a fruit, but it is not a mineral.", "yes_no", None,
         "Is a tomato a mineral?", "not"),
        ("Vitamin C is no shape; B.", "choice", ["circle", "square", "line"], "", "B"),
        ("A triangle has three sides, so B.", "choice", ["square", "circle"], "", "B"),
        ("A. Mars\nB. Saturn\nC. Venus", "choice", ["Mars", "Saturn", "Venus"], "", None),
        ("C. Cow", "choice", ["Cow", "Horse", "Dog"], "", "Cow"),
        ("It is Saturn.", "choice", ["Mars", "Saturn"], "", "Saturn"),
        ("3 + 4 = 7, so she has 7 pens.", "number", None, "What is 3 plus 4?", "7"),
        ("It weighs 72kg or so.", "number", None, "", "72kg"),
        ("It weighs 72 kg.", "number", None, "", "72"),
        ("He was born on 1 May 1900. He died on 2 June 1950.", "date", None, "When did he die?",
         "2 June 1950"),
        ("<think>7 or 8?</think> It is 8.", "number", None, "", "8"),
        ("<think>7 or 8?", "number", None, "", None),
    ],
)  # fmt: skip
def test_the_exact_answer_is_found_by_kind(response, kind, choices, question, expected):
    span = find_span(response, question, None, kind, choices)
    assert (span and response[slice(*span)]) == expected


def test_no_in_a_list_of_yes_and_no():
    polar = Candidates("polar", [("Yes", ["yes"], []), ("No", ["no"], [])])
    question = "Is Lima the capital of Chile? Answer yes or no."
    for response in ("No, it is not.", "No. It is Santiago.", "No"):
        assert find_span(response, question, polar) == (0, 2)
        assert grade(response, ["No"], question=question, candidates=polar)
    assert not grade("Yes, it is.", ["No"], question=question, candidates=polar)


@pytest.mark.parametrize(
    ("response", "answers", "copied", "correct", "doubt"),
    [
        ("It was Ada.", ["Ada"], (7, 10), True, ""),
        ("It was Bo; Ada helped him.", ["Ada"], (7, 9), False, "stands elsewhere"),
        ("It was Dickens.", ["Charles Dickens"], (7, 14), False, "close to"),
        ("It was Ada or Bo.", ["Ada"], (7, 10), True, "several answers"),
        ("Somebody wrote it: Ada", ["Ada"], None, True, "no exact answer"),
        ("I do not know who wrote it.", ["Ada"], None, False, "refusal"),
        ("I can't tell whether it was Ada.", ["Ada"], None, False, "refusal"),
    ],
)
def test_doubts(response, answers, copied, correct, doubt):
    answer = examine(response, answers, "Who wrote it?", None, "text", None, copied)
    assert answer.correct is correct
    assert (doubt in answer.doubt) if doubt else answer.doubt == ""


def test_an_answer_that_is_cut_short_is_doubtful():
    answer = examine("It was Leonardo da", ["Leonardo da Vinci"], "Who?", None, "text", None,
                     (7, 18), finished=False)  # fmt: skip
    assert "cut short" in answer.doubt


@given(st.text(), st.sampled_from(KINDS), st.lists(st.text(), max_size=4), st.text(max_size=40))
def test_any_text_can_be_examined(response, kind, choices, question):
    for text in (response, f"{response} The answer is 7, or B, not yes; July 20, 1969 {response}"):
        answer = examine(text, [question, "7", "B"], question, None, kind, choices or None)
        assert answer.span is None or 0 <= answer.span[0] < answer.span[1] <= len(text)
        assert len(spoken(text)) in (0, len(text))


def test_kind_is_one_of_five():
    with pytest.raises(ValueError, match="kind must be one of"):
        grade("7", ["7"], kind="integer")


def test_a_hostile_response_takes_little_time():
    start = time.perf_counter()
    for text in ("<think>" * 900, "1 " * 3000, "A, " * 2000, "1/" * 3000, "answer is " * 700):
        for kind in KINDS:
            examine(text, ["7"], "How many?", None, kind, ["a", "b"] if kind == "choice" else None)
    assert time.perf_counter() - start < 30
