"""Each layout of public question files: what is asked, and what is accepted."""

import datetime
import json
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probekit.questions.table import read_questions

WHO, WHEN = "Who wrote the first program?", "When was it printed?"
PLANET = "Which planet has rings?"
PLANETS = "A. Mars\nB. Saturn"
SUM = "What is 1 + 1?"
SUMS = "A. 1\nB. 2\nC. 3"
SOLUTION = "She has 3+6=<<3+6=9>>9 pens.\n#### {}"


def jsonl(path, rows):
    path = path.with_suffix(".jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def json_array(path, rows):
    path = path.with_suffix(".json")
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def parquet(path, rows):
    path = path.with_suffix(".parquet")
    pd.DataFrame(rows).to_parquet(path)
    return path


def pandas_csv(path, rows):
    """As pandas writes any Python object to CSV."""
    path = path.with_suffix(".csv")
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def frame(path, rows):
    return pd.DataFrame(rows)


def json_cells(path, rows):
    """A CSV file with JSON where a cell holds more than a text."""
    return pandas_csv(
        path,
        [{k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in rows],
    )


def two(answers_1, answers_2, column="answers", **more):
    """Two rows that differ in their answers; `more` are pairs of cells."""
    rows = [{"question": WHO, column: answers_1}, {"question": WHEN, column: answers_2}]
    for name, cells in more.items():
        for row, cell in zip(rows, cells, strict=True):
            row[name] = cell
    return rows


ADA = ["Ada", "Ada Lovelace"]
BOTH = [(WHO, ADA), (WHEN, ["1843"])]
EVERY = (jsonl, json_array, parquet, pandas_csv, json_cells, frame)
TYPED = (jsonl, json_array, parquet, frame)


def choice(question_1, options_1, answer_1, question_2, options_2, answer_2, **names):
    question, options, answer = (names.get(n, n) for n in ("question", "choices", "answer"))
    return [
        {question: question_1, options: options_1, answer: answer_1},
        {question: question_2, options: options_2, answer: answer_2},
    ]


ASKED = [(f"{PLANET}\n{PLANETS}", ["B", "Saturn"]), (f"{SUM}\n{SUMS}", ["B", "2"])]
ARC = [
    {"text": ["Mars", "Saturn"], "label": ["A", "B"]},
    {"text": ["1", "2", "3"], "label": ["1", "2", "3"]},
]
TWO_SQUAD = two({"text": ["Ada", "Ada"], "answer_start": [3, 9]}, {"text": [], "answer_start": []})

# What, rows, the ways to write them, options of read_questions, and what is asked and accepted.
LAYOUTS = [
    ("lists", two(ADA, ["1843"]), EVERY, {}, BOTH),
    ("text with |", two("Ada|Ada Lovelace", "1843"), EVERY, {}, BOTH),
    ("list of lists (AmbigQA)", two([ADA], [["1843"]]), EVERY, {}, BOTH),
    (
        "TriviaQA",
        two(
            {"value": "Ada", "aliases": ["Ada", "Ada Lovelace"], "type": "WikipediaEntity"},
            {"value": "1843", "aliases": [], "type": "Numerical"},
            "answer",
        ),
        EVERY,
        {"answers": "answer"},
        BOTH,
    ),
    (
        "TriviaQA's own file",
        [
            {"Question": WHO, "Answer": {"Aliases": ["Ada Lovelace"], "Value": "Ada"}},
            {"Question": WHEN, "Answer": {"Aliases": ["1843"], "Value": "1843"}},
        ],
        TYPED,
        {"question": "Question", "answers": "Answer"},
        BOTH,
    ),
    ("NQ open", two(ADA, ["1843"], "answer"), EVERY, {"answers": "answer"}, BOTH),
    (
        "NQ, field by field",
        [
            {
                "question": {"text": question, "tokens": question.split()},
                "annotations": {"id": ["1"], "short_answers": [{"text": texts, "start_byte": [1]}]},
            }
            for question, texts in BOTH
        ],
        TYPED,
        {"answers": "annotations.short_answers.text"},
        BOTH,
    ),
    (
        "PopQA",
        two('["Ada", "Ada Lovelace"]', '["1843"]', "possible_answers"),
        EVERY,
        {"answers": "possible_answers"},
        BOTH,
    ),
    ("SQuAD", two({"text": ADA}, {"text": ["1843"]}), EVERY, {}, BOTH),
    ("SQuAD 2", TWO_SQUAD, TYPED, {"unanswerable": "skip"}, [(WHO, ["Ada"])]),
    (
        "NarrativeQA",
        [
            {
                "question": {"text": question, "tokens": question.split()},
                "answers": [{"text": text, "tokens": [text]} for text in texts],
            }
            for question, texts in BOTH
        ],
        EVERY,
        {},
        BOTH,
    ),
    (
        "KILT",
        [
            {"input": q, "output": [{"answer": a, "provenance": []} for a in texts] + [{"meta": 1}]}
            for q, texts in BOTH
        ],
        EVERY,
        {"question": "input", "answers": "output.answer"},
        BOTH,
    ),
    (
        "AmbigQA's annotations",
        two(
            {"type": ["singleAnswer"], "answer": [ADA], "qaPairs": []},
            {"type": ["singleAnswer"], "answer": [["1843"]], "qaPairs": []},
            "annotations",
        ),
        EVERY,
        {"answers": "annotations.answer"},
        BOTH,
    ),
    (
        "HotpotQA",
        two("yes", "1843", "answer", context=[{"title": ["Ada"]}, {"title": ["Notes"]}]),
        EVERY,
        {"answers": "answer"},
        [(WHO, ["yes"]), (WHEN, ["1843"])],
    ),
    (
        "BoolQ",
        two(True, False, "answer", passage=["Long ago.", "Later."]),
        EVERY,
        {"question": ["passage", "question"], "answers": "answer", "kind": "yes_no"},
        [(f"Long ago.\n{WHO}", ["yes"]), (f"Later.\n{WHEN}", ["no"])],
    ),
    (
        "GSM8K",
        two(SOLUTION.format("9"), SOLUTION.format("1,009"), "answer"),
        EVERY,
        {"answers": "answer", "kind": "number"},
        [(WHO, ["9"]), (WHEN, ["1,009"])],
    ),
    (
        "MATH",
        two(r"If \boxed{x}, then $\boxed{\frac{1}{2}}$.", r"It is |x|, \boxed{42}", "solution"),
        EVERY,
        {"answers": "solution", "kind": "number"},
        [(WHO, [r"\frac{1}{2}"]), (WHEN, ["42"])],
    ),
    (
        "MMLU",
        choice(PLANET, ["Mars", "Saturn"], 1, SUM, ["1", "2", "3"], 1),
        TYPED,
        {"answers": "answer"},
        ASKED,
    ),
    (
        "ARC",
        choice(PLANET, ARC[0], "B", SUM, ARC[1], "2", answer="answerKey"),
        EVERY,
        {"answers": "answerKey"},
        ASKED,
    ),
    (
        "ARC's own file",
        [
            {
                "question": {
                    "stem": stem,
                    "choices": [
                        {"text": t, "label": label}
                        for t, label in zip(options["text"], options["label"], strict=True)
                    ],
                },
                "answerKey": key,
            }
            for stem, options, key in [(PLANET, ARC[0], "B"), (SUM, ARC[1], "2")]
        ],
        TYPED,
        {"question": "question.stem", "choices": "question.choices", "answers": "answerKey"},
        ASKED,
    ),
    (
        "CommonsenseQA",
        choice(
            PLANET,
            ARC[0],
            "B",
            SUM,
            {"label": ["A", "B", "C"], "text": ["1", "2", "3"]},
            "B",
            answer="answerKey",
        ),
        EVERY,
        {"answers": "answerKey"},
        ASKED,
    ),
    (
        "MedQA",
        choice(PLANET, {"A": "Mars", "B": "Saturn"}, "B", SUM, {"A": "1", "B": "2", "C": "3"}, "B"),
        EVERY,
        {"answers": "answer"},
        ASKED,
    ),
    (
        "AQuA",
        choice(
            PLANET, ["A)Mars", "B)Saturn"], "B", SUM, ["A)1", "B)2", "C)3"], "B", answer="correct"
        ),
        EVERY,
        {"answers": "correct"},
        ASKED,
    ),
    (
        "options' texts as answers",
        choice(PLANET, ["Mars", "Saturn"], "Saturn", SUM, ["1", "2", "3"], "2"),
        (jsonl, json_array, parquet, frame),
        {"answers": "answer"},
        ASKED,
    ),
    (
        "TruthfulQA, generation",
        two("Ada", "1843", "best_answer", correct_answers=[ADA, ["1843"]]),
        EVERY,
        {"answers": "correct_answers"},
        BOTH,
    ),
    (
        "TruthfulQA, mc1",
        [
            {"question": PLANET, "mc1_targets": {"choices": ["Saturn", "Mars"], "labels": [1, 0]}},
            {"question": SUM, "mc1_targets": {"choices": ["2", "1", "3"], "labels": [1, 0, 0]}},
        ],
        EVERY,
        {"answers": "mc1_targets"},
        ASKED,
    ),
    (
        "TruthfulQA, several right (mc2)",
        [{"question": SUM, "t": {"choices": ["2", "two", "3"], "labels": [1, 1, 0]}}] * 2,
        EVERY,
        {"answers": "t", "choices": "t"},
        [(f"{SUM}\nA. 2\nB. 3\nC. two", ["A", "2", "C", "two"])] * 2,
    ),
    (
        "WinoGrande",
        [
            {"sentence": PLANET, "option1": "Mars", "option2": "Saturn", "answer": "2"},
            {"sentence": "Ada beat Bob. _ won.", "option1": "Ada", "option2": "Bob", "answer": "1"},
        ],
        EVERY,
        {"question": "sentence", "choices": ["option1", "option2"], "answers": "answer"},
        [ASKED[0], ("Ada beat Bob. _ won.\nA. Ada\nB. Bob", ["A", "Ada"])],
    ),
    (
        "MedMCQA",
        [
            {"question": PLANET, "opa": "Mars", "opb": "Saturn", "cop": 1},
            {"question": SUM, "opa": "2", "opb": "3", "cop": 0},
        ],
        TYPED,
        {"choices": ["opa", "opb"], "answers": "cop"},
        [ASKED[0], (f"{SUM}\nA. 2\nB. 3", ["A", "2"])],
    ),
    (
        "COPA",
        [
            {"premise": PLANET, "choice1": "Mars", "choice2": "Saturn", "label": 1},
            {"premise": SUM, "choice1": "3", "choice2": "2", "label": 1},
        ],
        TYPED,
        {"question": "premise", "choices": ["choice1", "choice2"], "answers": "label"},
        [ASKED[0], (f"{SUM}\nA. 3\nB. 2", ["B", "2"])],
    ),
    (
        "HellaSwag",
        [
            {"ctx": PLANET, "endings": ["Mars", "Saturn"], "label": "1"},
            {"ctx": SUM, "endings": ["2", "3"], "label": "0"},
            {"ctx": "Hidden?", "endings": ["2", "3"], "label": ""},
        ],
        EVERY,
        {"question": "ctx", "choices": "endings", "answers": "label", "unanswerable": "skip"},
        [ASKED[0], (f"{SUM}\nA. 2\nB. 3", ["A", "2"])],
    ),
    (
        "SciQ",
        [
            {"question": PLANET, "distractor1": "Mars", "correct_answer": "Saturn"},
            {"question": SUM, "distractor1": "3", "correct_answer": "2"},
        ],
        EVERY,
        {"choices": ["correct_answer", "distractor1"], "answers": "correct_answer"},
        [ASKED[0], (f"{SUM}\nA. 2\nB. 3", ["A", "2"])],
    ),
    (
        "MNLI",
        [
            {"premise": "All men nap.", "hypothesis": "Some men nap.", "label": "entailment"},
            {"premise": "Ada naps.", "hypothesis": "Ada runs.", "label": "contradiction"},
        ],
        EVERY,
        {"question": ["premise", "hypothesis"], "answers": "label"},
        [
            ("All men nap.\nSome men nap.", ["entailment"]),
            ("Ada naps.\nAda runs.", ["contradiction"]),
        ],
    ),
    (
        "published code: movies, WinoGrande, MNLI",
        [
            {"Question": WHO, "Answer": "Ada", "Wrong_Answer": "Bob", "Origin": "mnli"},
            {"Question": WHEN, "Answer": "1843", "Wrong_Answer": "1844", "Origin": "mnli"},
        ],
        EVERY,
        {"question": "Question", "answers": "Answer"},
        [(WHO, ["Ada"]), (WHEN, ["1843"])],
    ),
    (
        "published code: AnswerableMath",
        two("[21.0]", "[9, 10]", "answer", id=["2357", "1"], answerable=["True", "True"]),
        (pandas_csv, frame),
        {"answers": "answer"},
        [(WHO, ["21"]), (WHEN, ["9", "10"])],
    ),
    (
        "published code: WinoBias",
        [
            {"sentence": "Ada met Bob.", "answer": "Bob", "q_instruct": WHO},
            {"sentence": "Bob met Ada.", "answer": "Ada", "q_instruct": WHEN},
        ],
        EVERY,
        {"question": ["sentence", "q_instruct"], "answers": "answer"},
        [(f"Ada met Bob.\n{WHO}", ["Bob"]), (f"Bob met Ada.\n{WHEN}", ["Ada"])],
    ),
    (
        "published code: its answers",
        [
            {
                "raw_question": WHO,
                "question": f"Q: {WHO}\nA:",
                "correct_answer": "['Ada', 'Ada L']",
            },
            {"raw_question": WHEN, "question": f"Q: {WHEN}", "correct_answer": "['1843']"},
        ],
        (pandas_csv,),
        {"question": "raw_question", "answers": "correct_answer"},
        [(WHO, ["Ada", "Ada L"]), (WHEN, ["1843"])],
    ),
]


@pytest.mark.parametrize(
    ("rows", "write", "options", "expected"),
    [
        pytest.param(rows, write, options, expected, id=f"{what}-{write.__name__}")
        for what, rows, writers, options, expected in LAYOUTS
        for write in writers
    ],
)
def test_a_layout(tmp_path, rows, write, options, expected):
    questions = read_questions(write(tmp_path / "q", rows), **options)
    got = list(zip(questions["question"], questions["answers"], strict=True))
    assert got == expected


def test_what_comes_with_a_question(tmp_path):
    rows = two(
        ADA, "1843", kind=["text", ""], group=["people", None], choices=[None, ["1843", "2"]]
    )
    questions = read_questions(jsonl(tmp_path / "q", rows))
    assert questions["kind"].tolist() == ["text", "choice"]
    assert questions["group"].tolist() == ["people", ""]
    assert questions["choices"].tolist() == [None, ["1843", "2"]]
    assert questions["answers"].tolist() == [ADA, ["A", "1843"]]


def test_columns_by_other_names(tmp_path):
    rows = two("1", "2", type=["number", "number"], meta=[{"topic": "a"}, {"topic": "b"}])
    path = jsonl(tmp_path / "q", rows)
    questions = read_questions(path, kind="type", group="meta.topic")
    assert questions["kind"].tolist() == ["number", "number"]
    assert questions["group"].tolist() == ["a", "b"]
    assert read_questions(path, kind="date")["kind"].tolist() == ["date", "date"]
    with pytest.raises(ValueError, match=r"no column 'sort'\. Columns found"):
        read_questions(path, kind="sort")


def test_an_empty_name_leaves_a_column_out(tmp_path):
    path = jsonl(tmp_path / "q", two("1", "2", choices=[["1", "2"]] * 2, kind=["x", "y"]))
    questions = read_questions(path, choices="", kind="")
    assert questions["question"].tolist() == [WHO, WHEN]
    assert questions["answers"].tolist() == [["1"], ["2"]]


def test_an_unknown_kind(tmp_path):
    path = jsonl(tmp_path / "q", two("1", "2", kind=["text", "essay"]))
    with pytest.raises(ValueError, match=r"row 2.*kind is 'essay'.*expected.*yes_no.*kind="):
        read_questions(path)
    assert read_questions(path, kind="kind", limit=1)["kind"].tolist() == ["text"]


def test_unanswerable_rows_are_refused_or_counted(tmp_path, capsys):
    path = jsonl(tmp_path / "q", [*TWO_SQUAD, TWO_SQUAD[1], *two("x", "y")])
    with pytest.raises(ValueError, match=r'row 2.*no accepted answer.*unanswerable="skip"'):
        read_questions(path)
    assert capsys.readouterr().out == ""
    questions = read_questions(path, unanswerable="skip")
    assert questions["id"].tolist() == ["q0001", "q0004", "q0005"]
    assert "2 rows without an accepted answer are left out" in capsys.readouterr().out
    assert len(read_questions(path, unanswerable="skip", limit=2)) == 2
    with pytest.raises(ValueError, match="no row with an accepted answer"):
        read_questions(jsonl(tmp_path / "none", TWO_SQUAD[1:]), unanswerable="skip")
    with pytest.raises(ValueError, match="unanswerable must be one of refuse, skip"):
        read_questions(path, unanswerable="drop")


# Class labels


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A Parquet file as `datasets` writes it, in a folder that it can load."""
    from datasets import ClassLabel, Dataset, Features, List, Value

    label = ClassLabel(names=["entailment", "neutral", "contradiction"])
    features = {
        "question": Value("string"),
        "label": label,
        "labels": List(label),
        "inside": {"text": label},
        "letter": ClassLabel(names=["A", "B"]),
        "options": List(Value("string")),
        "none": label,
    }
    rows = {
        "question": [WHO, WHEN],
        "label": [0, 2],
        "labels": [[0, 1], [2]],
        "inside": [{"text": 1}, {"text": 0}],
        "letter": [1, 0],
        "options": [["Bob", "Ada"], ["1843", "1844"]],
        "none": [0, -1],
    }
    folder = tmp_path_factory.mktemp("labelled")
    table = Dataset.from_dict(rows, features=Features(features))
    table.to_parquet(str(folder / "train.parquet"))
    return folder


@pytest.mark.parametrize("hub", [True, False])
@pytest.mark.parametrize(
    ("options", "asked", "accepted"),
    [
        ({"answers": "label"}, [WHO, WHEN], [["entailment"], ["contradiction"]]),
        ({"answers": "labels"}, [WHO, WHEN], [["entailment", "neutral"], ["contradiction"]]),
        ({"answers": "inside"}, [WHO, WHEN], [["neutral"], ["entailment"]]),
        ({"answers": "none", "unanswerable": "skip"}, [WHO], [["entailment"]]),
        (
            {"answers": "label", "choices": "label"},
            [f"{q}\nA. entailment\nB. neutral\nC. contradiction" for q in (WHO, WHEN)],
            [["A", "entailment"], ["C", "contradiction"]],
        ),
        (
            {"answers": "letter", "choices": "options"},
            [f"{WHO}\nA. Bob\nB. Ada", f"{WHEN}\nA. 1843\nB. 1844"],
            [["B", "Ada"], ["A", "1843"]],
        ),
    ],
)
def test_class_labels_are_read_by_their_names(labelled, hub, options, asked, accepted):
    source = f"hub:{labelled}::train" if hub else labelled / "train.parquet"
    questions = read_questions(source, **options)
    assert questions["question"].tolist() == asked
    assert questions["answers"].tolist() == accepted


@pytest.mark.parametrize("names", [["yes"], "yes", 3, None, [1, 2], {"a": 1}])
def test_class_labels_that_their_names_do_not_fit(tmp_path, names):
    import pyarrow as pa
    import pyarrow.parquet as pq

    feature = {"info": {"features": {"answers": {"_type": "ClassLabel", "names": names}}}}
    table = pa.table({"question": [WHO, WHEN], "answers": [0, 7]})
    pq.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps(feature)}), tmp_path / "q.parquet"
    )
    with pytest.raises(ValueError, match=r"q\.parquet.*'answers'.*class label"):
        read_questions(tmp_path / "q.parquet")


# What is not certain is refused

REFUSED = [  # what, answers of the first row, words of the message
    ("a mapping without a known field", {"answer": "Ada"}, r"the fields answer; .*COLUMN\.answer"),
    ("mappings without a known field", [{"answer": "Ada"}], r"the fields answer; .*COLUMN\.answer"),
    (
        "a text beside an answer",
        {"text": "It was Ada.", "answer": "Ada"},
        "the fields text, answer",
    ),
    ("too deep for accepted forms", [[[[["Ada"]]]]], "nested too deeply"),
    ("too deep for anything", [[[[[[[["Ada"]]]]]]]], "nested more than 6 deep"),
    ("an array as numpy prints it", "['Ada' 'Ada B.']", "printed, and cannot be read back"),
    ("the same over two lines", "['Ada'\n 'Ada B.']", "printed, and cannot be read back"),
    ("an array of numbers", "[1 2 3]", "printed, and cannot be read back"),
    ("an array in a mapping", "{'text': array(['Ada'], dtype=object)}", "cannot be read back"),
    ("an array by its name", "array(['Ada'], dtype=object)", "cannot be read back"),
    ("a list that was cut off", "['Ada', 'Ada Lov", "cannot be read back"),
    ("numbers that were cut off", "[1, 2, ", "cannot be read back"),
    ("lists of numbers that were cut off", "[[1, 2], [3, ", "cannot be read back"),
    ("an array of numbers and texts", "[1 'Ada [x]']", "cannot be read back"),
    ("an array with a bracket in a text", "[1 ']']", "cannot be read back"),
    ("the same in a list", ["[1 'Ada']"], "written as text inside another"),
    ("JSON that was cut off", '[{"text": "Ada"', "cannot be read back"),
    ("calls", "[__import__('os').getcwd()]", "cannot be read back"),
    ("a list with nan", "['Ada', nan]", "cannot be read back"),
    ("bytes", "[b'Ada']", "expected a text or a number"),
    ("a list inside a text of a list", ["['Ada', 'Ada B.']"], "written as text inside another"),
    ("a mapping inside a text of a list", ['{"text": 1}'], "written as text inside another"),
    ("a printed array in a list", ["['Ada' 'Ada B.']"], "written as text inside another"),
    ("a list beside a text", "Ada|['Ada B.']", "written as text inside another"),
    ("a set of numbers", "{2, 3}", r"a set, or several"),
    ("true", True, 'kind="yes_no"'),
    ("true in a list", [True], 'kind="yes_no"'),
    ("true in a printed list", "[True]", 'kind="yes_no"'),
    ("a worked solution", SOLUTION.format("9"), r"worked solution.*'9'.*kind=\"number\""),
    ("a solution with a box", r"So $1+1=\boxed{2}$.", r"worked solution.*'2'.*kind=\"number\""),
    ("a worked solution with a |", "|x| = 9\n#### 9", "worked solution"),
    ("a worked solution in a list", [SOLUTION.format("9")], "worked solution"),
]


@pytest.mark.parametrize(
    ("answers", "message"), [pytest.param(a, m, id=what) for what, a, m in REFUSED]
)
def test_refused_answers(tmp_path, answers, message):
    for write in (jsonl, frame):
        with pytest.raises(ValueError, match=rf"(?s), row 1: .*{message}"):
            read_questions(write(tmp_path / "q", [{"question": WHO, "answers": answers}]))


@pytest.mark.parametrize(
    ("cell", "accepted"),
    [
        ('["[0, 1)"]', ["[0, 1)"]),  # in a list, brackets without quotes are an answer
        ('["[0, 1]", "{2, 3}"]', ["[0, 1]", "{2, 3}"]),
        ('["[sic]"]', ["[sic]"]),
        ("[0, 1)", ["[0, 1)"]),
        ("[0, 1[", ["[0, 1["]),
        ("[0, 1) or [2, 3)", ["[0, 1) or [2, 3)"]),
        ("[Ada] and [Bob]", ["[Ada] and [Bob]"]),
        ("(1, 2)", ["(1, 2)"]),
        ("('Tis the season)", ["('Tis the season)"]),
        ("('Ada', 'Ada B.')", ["Ada", "Ada B."]),
        ("(1, 'Ada')", ["1", "Ada"]),
        ("{'Ada', 'Ada B.'}", ["Ada", "Ada B."]),
        ("`['a', 'b']`", ["`['a', 'b']`"]),
        ("['a)', \"it's\", 'b]']", ["a)", "it's", "b]"]),
        ("['C:\\\\x', 'caf\\xe9', None]", ["C:\\x", "café"]),
        ("[-1, 2.0, 0.5]", ["-1", "2", "0.5"]),
        (datetime.date(1843, 9, 1), ["1843-09-01"]),
        (pd.Timestamp("1843-09-01"), ["1843-09-01"]),
        (np.array(["1843-09-01"], dtype="datetime64[ns]"), ["1843-09-01"]),
        (np.array([["a"], ["b"]]), ["a", "b"]),
    ],
)
def test_what_looks_like_a_structure_or_is_one(cell, accepted):
    table = pd.DataFrame({"question": [WHO], "answers": pd.Series([cell], dtype=object)})
    assert read_questions(table)["answers"].tolist() == [accepted]


@pytest.mark.parametrize(
    "question",
    [
        ["Who?"],
        {"stem": "Who?"},
        {"text": ["Who?"]},
        "['Who?', 'Why?']",
        "{'stem': 'Who?'}",
        "[1 2]",
    ],
)
def test_refused_questions(question):
    table = pd.DataFrame({"question": [question], "answers": ["Ada"]})
    with pytest.raises(ValueError, match=r"row 1: .*(the question is a|printed)"):
        read_questions(table)


@pytest.mark.parametrize("question", ["[MASK] is a city.", "{x} and {y}?", "['a'] has what type?"])
def test_questions_that_begin_with_a_bracket(question):
    table = pd.DataFrame({"question": [question], "answers": ["Ada"]})
    assert read_questions(table)["question"].tolist() == [question]


@pytest.mark.parametrize("cell", ["[" * 150, "-" * 90_000, "[" + "1-" * 40_000 + "1]", "(" * 5000])
@pytest.mark.parametrize("start", ["", "[", "('a', "])
def test_hostile_cells_are_read_fast_or_refused(cell, start):
    table = pd.DataFrame({"question": [WHO], "answers": [start + cell]})
    try:
        assert read_questions(table)["answers"].tolist() == [[start + cell]]
    except ValueError as error:
        assert "row 1" in str(error)


def test_true_and_false_written_to_csv(tmp_path):
    path = pandas_csv(tmp_path / "q", two(True, False))
    with pytest.raises(ValueError, match=r'False, True.*kind="yes_no".*kind="text"'):
        read_questions(path)
    assert read_questions(path, kind="yes_no")["answers"].tolist() == [["yes"], ["no"]]
    assert read_questions(path, kind="text")["answers"].tolist() == [["True"], ["False"]]


# Options

PLANETS_LIST = ["Mars", "Saturn", "Venus"]


def ask_options(*rows, **more):
    """Questions with these options and answers."""
    table = pd.DataFrame(
        {
            "question": [f"Q{i}?" for i in range(len(rows))],
            "choices": pd.Series([options for options, _ in rows], dtype=object),
            "answers": pd.Series([answer for _, answer in rows], dtype=object),
        }
    )
    return read_questions(table, **more)["answers"].tolist()


@pytest.mark.parametrize(
    ("answers", "letters"),
    [
        (["B", "A"], "BA"),
        (["b", "(C)"], "BC"),
        (["Saturn", "C. "], "BC"),  # a text here, a letter there: both are certain
        ([1, 0], "BA"),
        ([1, 2], "BC"),
        ([3, 1], "CA"),  # there is no option after the third
        (["1", "0"], "BA"),
        (["3", "1"], "CA"),
        ([2.0, 0.0], "CA"),
        ([["A", "Venus"], "B"], None),
    ],
)
def test_how_an_option_may_be_named(answers, letters):
    got = ask_options(*((PLANETS_LIST, answer) for answer in answers))
    if letters is None:
        assert got == [["A", "Mars", "C", "Venus"], ["B", "Saturn"]]
    else:
        assert got == [[x, PLANETS_LIST["ABC".index(x)]] for x in letters]


def test_a_limit_does_not_change_which_option_is_right():
    rows = [(PLANETS_LIST, 1), (PLANETS_LIST, 2), (PLANETS_LIST, 3)]
    assert ask_options(*rows)[:2] == ask_options(*rows, limit=2) == [["A", "Mars"], ["B", "Saturn"]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(PLANETS_LIST, "1")], r"not clear.*'1' among Mars.*'Saturn' \(by position from 0\)"),
        ([(["1", "2", "3"], 1)], r"not clear.*'1' \(by text\) or '2' \(by position from 0\)"),
        ([(["B", "A"], "A")], r"not clear.*'B' \(by label\) or 'A' \(by text\)"),
        ([(PLANETS_LIST, "Pluto")], "'Pluto' is none of the options Mars, Saturn, Venus"),
        ([(PLANETS_LIST, 7)], "7 is none of the options"),
        ([(PLANETS_LIST, 0), (PLANETS_LIST, "B")], "in different ways"),
        ([(["Mars"], "A")], "expected 2 to 26 texts"),
        ([(["Mars", ""], "A")], "expected 2 to 26 texts"),
        ([([f"x{i}" for i in range(27)], "A")], "expected 2 to 26 texts"),
        ([([["Mars"], ["Saturn"]], "A")], "expected a list of texts"),
        ([([{"name": "Mars"}, {"name": "Saturn"}], "A")], "expected a list of texts"),
        ([("a ) 38 , b ) 27", "A")], "expected 2 to 26 texts"),
        ([({"text": ["Mars", "Saturn"], "label": ["A"]}, "A")], "one label each"),
        ([("['Mars' 'Saturn']", "A")], "cannot be read back"),
        ([([True, False], True)], 'kind="yes_no"'),
    ],
)
def test_options_that_are_not_certain(rows, message):
    with pytest.raises(ValueError, match=rf"the DataFrame.*{message}"):
        ask_options(*rows)


def test_an_option_may_have_a_sign_in_it():
    assert ask_options((["|x|", "x"], "|x|")) == [["A", "|x|"]]
    assert ask_options(("Mars|Saturn", "Saturn")) == [["B", "Saturn"]]


# Separators and encodings


@pytest.mark.parametrize(
    ("text", "encoding", "said"),
    [
        ("question;answers\nA, or B?;x\nC?;y, z\n", "utf-8", ["semicolons"]),
        ("question\tanswers\nA, or B?\tx\nC?\ty, z\n", "utf-8-sig", ["tabs"]),
        ("sep=;\nquestion;answers\nA, or B?;x\nC?;y, z\n", "utf-8", ["semicolons"]),
        ("question;answers\r\nA, or B?;x\r\nC?;y, z\r\n", "cp1252", ["semicolons"]),
        ("question\tanswers\r\nA, or B?\tx\r\nC?\ty, z\r\n", "utf-16", ["tabs", "UTF-16"]),
        ('question,answers\n"A, or B?",x\nC?,"y, z"\n', "utf-8", []),
        ("id;question;answers;x,y\n1;A, or B?;x;1\n2;C?;y, z;2\n", "utf-8", ["semicolons"]),
    ],
)
def test_separators_are_told_by_the_header_and_said(tmp_path, capsys, text, encoding, said):
    (tmp_path / "q.csv").write_bytes(text.encode(encoding))
    questions = read_questions(tmp_path / "q.csv")
    assert questions["question"].tolist() == ["A, or B?", "C?"]
    assert questions["answers"].tolist() == [["x"], ["y, z"]]
    out = capsys.readouterr().out
    assert all(word in out for word in said)
    assert bool(out) == bool(said)


def test_the_separator_depends_on_the_columns_asked_for(tmp_path):
    (tmp_path / "q.csv").write_text("Frage, kurz;Antwort\nWer?;Ada\n", encoding="utf-8")
    questions = read_questions(tmp_path / "q.csv", question="Frage, kurz", answers="Antwort")
    assert questions["question"].tolist() == ["Wer?"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Frage;Antwort\nWer?;Ada\n", "Columns found: Frage, Antwort"),
        ("question;answers\nA; or B?;x\n", "row 1: 3 cells .* semicolons between them: 'A', ' or"),
        ("question\tanswers\nA\t\tx\n", "row 1: 3 cells .* tabs between them: 'A', '', 'x'"),
    ],
)
def test_a_refused_file_is_shown_as_it_was_understood(tmp_path, text, message):
    (tmp_path / "q.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_questions(tmp_path / "q.csv")


def test_windows_1252_is_read_and_shown(tmp_path, capsys):
    text = "question;answers\nWer malte „Der Kuß“ – in Österreich?;Klimt €\n"
    (tmp_path / "q.csv").write_bytes(text.encode("cp1252"))
    questions = read_questions(tmp_path / "q.csv")
    assert questions["question"].tolist() == ["Wer malte „Der Kuß“ – in Österreich?"]
    assert questions["answers"].tolist() == [["Klimt €"]]
    out = capsys.readouterr().out
    assert "Windows-1252" in out
    assert "Kuß" in out


@pytest.mark.parametrize(
    ("encoding", "word"),
    [
        ("cp1251", "Столица"),
        ("koi8-r", "Столица"),
        ("utf-16-le", "Столица"),
        ("cp1250", "Gdzie można oglądać"),
        ("cp1253", "Αθήνα"),
        ("shift-jis", "東京タワー"),
        ("gbk", "北京烤鸭"),
        ("big5", "臺北市立圖書館在哪裡"),
        ("euc-kr", "서울특별시"),
    ],
)
def test_other_encodings_are_refused(tmp_path, encoding, word):
    (tmp_path / "q.csv").write_bytes(f"question,answers\n{word}?,{word}".encode(encoding))
    with pytest.raises(ValueError, match=r"q\.csv (is not UTF-8|has no column)"):
        read_questions(tmp_path / "q.csv")


def test_json_is_utf_8_or_says_otherwise(tmp_path, capsys):
    line = json.dumps({"question": "Où?", "answers": "là"}, ensure_ascii=False)
    (tmp_path / "q.jsonl").write_bytes(line.encode("utf-16"))
    assert read_questions(tmp_path / "q.jsonl")["answers"].tolist() == [["là"]]
    assert "UTF-16" in capsys.readouterr().out
    (tmp_path / "q.jsonl").write_bytes(line.encode("cp1252"))
    with pytest.raises(ValueError, match="not UTF-8"):
        read_questions(tmp_path / "q.jsonl")
    (tmp_path / "q.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="begins as UTF-16"):
        read_questions(tmp_path / "q.jsonl")


def test_a_file_around_its_rows(tmp_path):
    rows = [{"Question": WHO, "Answer": {"Value": "Ada", "Aliases": ["Ada"]}}]
    (tmp_path / "q.json").write_text(json.dumps({"Data": rows, "Version": 1.0}, indent=1))
    questions = read_questions(tmp_path / "q.json", question="Question", answers="Answer")
    assert questions["answers"].tolist() == [["Ada"]]
    (tmp_path / "q.json").write_text(json.dumps({"a": rows, "b": rows}))
    with pytest.raises(ValueError, match=r"q\.json has no column 'Question'"):
        read_questions(tmp_path / "q.json", question="Question", answers="Answer")


# Anything nested

LEAF = st.text("ab'\"[]{}(),:|\\ \n1", max_size=6) | st.integers(-9, 99) | st.booleans() | st.none()
NESTED = st.recursive(
    LEAF,
    lambda inside: (
        st.lists(inside, max_size=3)
        | st.dictionaries(st.sampled_from(["text", "value", "aliases", "answer", "x"]), inside)
        | st.tuples(inside, inside)
    ),
    max_leaves=6,
)


def leaves(value):
    """Every single value as a text, and what stands between the signs of a bare one."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return {leaf for item in value for leaf in leaves(item)}
    return {str(value).strip()}


@given(NESTED, st.sampled_from(["cell", "json", "python", "numpy"]), st.booleans())
def test_anything_nested_is_read_into_its_leaves_or_refused(value, way, ask):
    write = {"cell": lambda v: v, "json": json.dumps, "python": repr, "numpy": numpy_prints}[way]
    single = not isinstance(value, list | dict | tuple)
    cell = write(value) if not single else value
    row = {"question": cell, "answers": ["x"]} if ask else {"question": WHO, "answers": cell}
    table = pd.DataFrame({name: pd.Series([one], dtype=object) for name, one in row.items()})
    try:
        questions = read_questions(table)
    except ValueError:
        return
    found = leaves(value)
    if isinstance(value, tuple) and not re.search("[a-zA-Z'\"]", repr(value)):
        found.add(repr(value))  # a point
    if single:
        found |= {part.strip() for part in str(value).split("|")}
        if isinstance(value, str) and value.strip().startswith(("[", "{", "(")):
            return  # a text that writes a structure itself
    got = questions["question"].tolist() if ask else questions["answers"][0]
    assert {*got} <= found


def numpy_prints(value):
    """A structure as numpy prints it, with no comma between its items."""
    return repr(listed(value)).replace(", ", " ")


def listed(value):
    if isinstance(value, dict):
        return {name: listed(item) for name, item in value.items()}
    return [listed(item) for item in value] if isinstance(value, list | tuple) else value
