"""What holds for any text: questions, grades, spans, token positions and manifests.

hypothesis looks for texts that break it, here among the scripts and characters that do so most
often. ``pytest tests/test_properties.py --hypothesis-profile=long`` looks for longer.
"""

import csv
import io
import itertools
import json
import unicodedata

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from probekit.questions.candidates import Candidates, read_candidates
from probekit.questions.grading import find_span, grade, is_refusal, normalize
from probekit.questions.table import read_questions
from probekit.run.directory import Run
from probekit.run.manifest import sealed
from probekit.tokens import (
    LAST_PROMPT_TOKEN,
    MISSING,
    TOKENS,
    decode_with_offsets,
    span_tokens,
    token_positions,
)

# Right to left, with and without marks of direction; marks that combine; vowel signs; emoji of
# several characters; characters of no width; scripts without spaces; what line readers trip over.
SPECIAL = [
    "العربية", "مِصْر", "עברית", "\u200fא\u200f", "\u202eabc\u202c", "e\u0301", "o\u0302\u0323",
    "Z\u0351\u0345a", "भारत", "ไทย", "한국", "中国", "が", "か\u3099", "👩\u200d👩\u200d👧",
    "🇯🇵", "👍🏽", "❤\ufe0f", "\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\xad", "\u2028",
    "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\0", "\r", "\n", "\r\n", "\t", "\xa0", "\u3000",
    "|", '"', ",", "'", "’", "\\", "-", "−", ".", "[", "]", "{}", "1,000", "-3", ".5", "²", "½",
    "٣", "①", "ﬁ", "ß", "İ", "ı", "ς", "Łódź", "the", "a ", "one", "fifty-six", "NA", "nan", "null",
]  # fmt: skip
CHARACTERS = st.characters(exclude_categories=["Cs"])
TEXT = st.lists(st.text(CHARACTERS, max_size=8) | st.sampled_from(SPECIAL), max_size=5).map("".join)
SOME_TEXT = TEXT.filter(str.strip)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(TEXT, inside, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("properties")


def damaged(content):
    """Bytes with a stretch of them replaced, or cut off."""
    place = st.integers(0, len(content))
    other = st.binary(max_size=4) | st.sampled_from(
        [b"[", b"{", b'"', b",", b"9" * 5000, b"[" * 9999]
    )
    return st.builds(
        lambda start, length, put: content[:start] + put + content[start + length :],
        place,
        place,
        other,
    )


# Questions


def plain(text):
    """Text as a text file gives it back: line ends are one character, the outer spaces go."""
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


@st.composite
def question_rows(draw):
    ids = draw(st.lists(SOME_TEXT, min_size=1, max_size=4, unique_by=plain))
    # What begins with a bracket may be a structure that was printed (tests/questions/test_layouts).
    asked = SOME_TEXT.filter(lambda text: not text.strip().startswith(("[", "{", "(")))
    answer = asked.map(lambda text: text.replace("|", "").strip()).filter(
        lambda text: text and not text.startswith(("[", "{", "("))
    )
    return [
        (identity, draw(asked), draw(st.lists(answer, min_size=1, max_size=3))) for identity in ids
    ]


def check_read(path, rows, clean):
    questions = read_questions(path)
    expected = [(clean(i), clean(q), list(dict.fromkeys(map(clean, a)))) for i, q, a in rows]
    found = zip(questions["id"], questions["question"], questions["answers"], strict=True)
    assert list(found) == expected


@given(question_rows(), st.sampled_from(["", "\ufeff"]), st.booleans())
@example([("1", "a\u2028b\x0bc\x85?", ["x\x1cy"])], "", False)
def test_csv_gives_back_what_was_written(folder, rows, mark, windows):
    text = io.StringIO()
    # Windows' line ends with as few quotes as possible, or Unix's with all.
    style = ("\r\n", csv.QUOTE_MINIMAL) if windows else ("\n", csv.QUOTE_ALL)
    writer = csv.writer(text, lineterminator=style[0], quoting=style[1])
    writer.writerows([("id", "question", "answers"), *((i, q, "|".join(a)) for i, q, a in rows)])
    path = folder / "q.csv"
    path.write_bytes((mark + text.getvalue()).encode())
    check_read(path, rows, plain)


@given(
    question_rows(),
    st.sampled_from(["", "\ufeff"]),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.booleans(),
)
def test_json_gives_back_what_was_written(folder, rows, mark, line_end, array, ascii_only):
    records = [{"id": i, "question": q, "answers": a} for i, q, a in rows]
    if array:
        text = json.dumps(records, ensure_ascii=ascii_only, indent=1).replace("\n", line_end)
    else:
        text = line_end.join(json.dumps(r, ensure_ascii=ascii_only) for r in records)
    path = folder / "q.jsonl"
    path.write_bytes((mark + text).encode())
    check_read(path, rows, str.strip)


@given(question_rows())
def test_parquet_and_a_frame_give_back_what_was_written(folder, rows):
    frame = pd.DataFrame(rows, columns=["id", "question", "answers"])
    check_read(frame, rows, str.strip)
    frame.to_parquet(folder / "q.parquet")
    check_read(folder / "q.parquet", rows, str.strip)


@pytest.mark.parametrize(
    ("suffix", "good"),
    [
        ("csv", b'id,question,answers\r\n1,"Who, ""she""?",Ada|"Ada L."\n2,What?,"[""Tea""]"\n'),
        ("jsonl", b'{"question": "Who?", "answers": ["Ada"]}\n{"question": "2?", "answers": 3}\n'),
        ("json", b'[{"id": 1, "question": "Who?", "answers": {"value": "A", "aliases": ["B"]}}]'),
    ],
    ids=["csv", "jsonl", "json"],
)
@given(data=st.data())
def test_a_damaged_question_file_is_read_or_refused(folder, suffix, good, data):
    path = folder / f"damaged.{suffix}"
    path.write_bytes(data.draw(damaged(good) | st.binary()))
    try:
        questions = read_questions(path)
    except ValueError as error:
        assert path.name in str(error)
    else:
        assert questions["id"].is_unique
        assert all(text == text.strip() != "" for text in questions["question"])
        assert all(answers and all(answers) for answers in questions["answers"])


# Grades

# Words of scripts that have case; what is joined to them by no space is part of them.
WORD = st.text(
    st.characters(categories=["Lu", "Ll"], max_codepoint=0x17F, exclude_characters="ŉſİıß")
    | st.sampled_from("αβγΔΩжЖя"),
    min_size=4,
    max_size=9,
)
PHRASE = st.lists(WORD, min_size=1, max_size=3).map(" ".join)


@given(SOME_TEXT)
def test_normalised_text_is_normal(text):
    normal = normalize(text)
    assert normalize(normal) == normal == " ".join(normal.split())


@given(TEXT, TEXT)
def test_any_response_is_graded(response, answer):
    assert grade(response, [answer]) in (True, False)
    assert is_refusal(response) in (True, False)
    assert not grade("", [answer])


# An answer that is nothing but an article can be told only where it stands alone.
@given(TEXT.filter(lambda text: normalize(f"x {text} x") != "x x"))
def test_an_accepted_answer_is_right(answer):
    assert grade(answer, [answer])
    assert grade(answer, ["something else", answer])
    assert grade(f"It is: {answer} (I think).", [answer])


@given(PHRASE, PHRASE, PHRASE)
def test_case_articles_and_punctuation_make_no_difference(before, answer, other):
    for response in (f"{before} {answer}", f"{before} {other}", answer, other):
        verdict = grade(response, [answer])
        for same in (
            response.upper(),
            response.swapcase(),
            f"The {response}!",
            f"“{response}” … an",
            response.replace(" ", "  ,\n "),
            unicodedata.normalize("NFD", response),
        ):
            assert grade(same, [answer]) is verdict, same
            assert grade(response, [answer, "The " + answer.title() + "."]) is verdict


@given(PHRASE, st.lists(PHRASE, max_size=3))
def test_an_answer_that_is_not_there_is_wrong(response, answers):
    words = set(normalize(response).split())
    absent = [answer for answer in answers if not set(normalize(answer).split()) & words]
    assert not grade(response, absent)


# Spans

LISTS = {name: read_candidates(name) for name in ("countries", "capitals", "elements", "numbers")}
NAMES = [
    "مصر",
    "ישראל",
    "भारत",
    "中国",
    "ประเทศไทย",
    "Côte d'Ivoire",
    "Łódź",
    "Q\u0307\u0323x",
    "🇯🇵",
    "❤\ufe0f",
]
OWN = Candidates("own", [(name, [], []) for name in NAMES])


@given(TEXT, st.sampled_from(NAMES), TEXT, TEXT, st.sampled_from(["NFC", "NFD"]))
def test_a_span_is_a_whole_name(before, name, after, question, form):
    written = unicodedata.normalize(form, name)
    response = f"{before} {written} {after}"
    span = find_span(response, question, OWN)
    assert span is not None
    start, end = span
    mention = OWN.find(response, question)
    assert (mention.start, mention.end) == span
    assert OWN.canonical(response[start:end]) == mention.name
    # Accents and vowel signs after the last letter are part of it, as those of the first are.
    assert not unicodedata.combining(response[end : end + 1] or " ")
    assert not unicodedata.combining(response[start])
    if not any(n in question or n in before for n in NAMES):
        assert start <= len(before) + 1


@pytest.mark.parametrize("name", LISTS)
@given(response=TEXT, question=TEXT)
def test_a_span_lies_in_its_response(name, response, question):
    span = find_span(response, question, LISTS[name])
    assert span is None or 0 <= span[0] < span[1] <= len(response)


# Token positions


class Pieces:
    """A tokenizer whose vocabulary is what a text's bytes are cut into, at any byte."""

    def __init__(self, pieces):
        self.pieces = pieces

    def decode(self, ids, **_):
        return b"".join(self.pieces[i] for i in ids).decode(errors="replace")


@st.composite
def tokenised(draw):
    """A text, the borders of its tokens in bytes, and a tokenizer that makes them of it."""
    # Not the replacement mark itself, which is what the part of a character decodes to.
    text = draw(TEXT.map(lambda text: text.replace("\ufffd", "")))
    content = text.encode()
    cuts = draw(st.sets(st.integers(1, max(1, len(content) - 1)), max_size=12))
    borders = [0, *sorted(cut for cut in cuts if cut < len(content)), len(content)]
    borders = borders if content else [0]
    return text, borders, Pieces([content[a:b] for a, b in itertools.pairwise(borders)])


@given(tokenised(), st.data())
def test_token_positions_are_those_of_the_bytes(case, data):
    """Against the definition: a token has a character if it has one of its bytes."""
    text, borders, tokenizer = case
    tokens = list(itertools.pairwise(borders))
    bytes_before = [len(text[:i].encode()) for i in range(len(text) + 1)]
    decoded, offsets = decode_with_offsets(tokenizer, list(range(len(tokens))))
    assert decoded == text
    characters = [
        {c for c in range(len(text)) if bytes_before[c] < stop and bytes_before[c + 1] > start}
        for start, stop in tokens
    ]
    assert [set(range(*offset)) for offset in offsets] == characters

    exact_answer = None
    if text:
        start = data.draw(st.integers(0, len(text) - 1))
        stop = data.draw(st.integers(start + 1, len(text)))
        exact_answer = span_tokens(offsets, (start, stop))
        wanted = set(range(start, stop))
        with_answer = [i for i, held in enumerate(characters) if held & wanted]
        assert exact_answer == (with_answer[0], with_answer[-1])
        # Together these tokens have the answer, whatever they share with its neighbours.
        assert text[start:stop] in tokenizer.decode(with_answer)

    n = len(tokens)
    found = dict(zip(TOKENS, token_positions(n, exact_answer), strict=True))
    reference = {"last_q": LAST_PROMPT_TOKEN, "first_answer": 0, "second_answer": 1}
    reference |= {str(-back): n - back for back in range(1, 9)}
    if exact_answer is not None:
        reference |= {
            "exact_answer_before_first": with_answer[0] - 1,
            "exact_answer_first": with_answer[0],
            "exact_answer_last": with_answer[-1],
            "exact_answer_after_last": with_answer[-1] + 1,
        }
    for name, position in found.items():
        there = name in reference and reference[name] in range(n)
        # Before a response's first token is the prompt's last; before its start there is nothing.
        if name in ("last_q", "exact_answer_before_first") and reference.get(name) == -1:
            there = True
        assert position == (reference[name] if there else MISSING), name


# Manifests


@given(
    st.dictionaries(TEXT, JSON, max_size=4),
    st.dictionaries(st.text("abcdefgh_", min_size=1).map("r_".__add__), JSON, max_size=4),
)
def test_a_manifest_gives_back_what_was_written(folder, parameters, results):
    run = Run(folder / "run")
    written = run.begin("probe", parameters).finish([run.write_text("made.txt", "x")], **results)
    read = run.manifest("probe")
    assert read == written
    assert read["parameters"] == parameters
    assert read["results"] == results


@pytest.fixture(scope="module")
def finished(folder):
    """A run with a finished stage, and what the pipeline recorded of it."""
    run = Run(folder / "damaged")
    stage = run.begin("extract", {"seed": 0})
    pd.DataFrame({"id": ["x"]}).to_parquet(run.path / "answers.parquet")
    stage.finish([run.path / "answers.parquet"], sites=["mlp_out"])
    record = run.pipeline_record("extract")
    record.write_text('{"parameters": {}, "manifest": "0"}')
    manifest = run.path / "manifests/extract.json"
    return run, manifest, manifest.read_bytes()


@given(data=st.data())
@example(data=None)
def test_a_damaged_manifest_is_read_or_refused(finished, data):
    run, path, good = finished
    path.write_bytes(b"[" * 10**5 if data is None else data.draw(damaged(good) | st.binary()))
    try:
        manifest = run.manifest("extract")
    except ValueError as error:
        assert f"{path} is damaged: " in str(error)
        assert "Run the extract stage again" in str(error)
    else:
        assert isinstance(manifest["outputs"], dict)
    assert run.outdated("extract", {})
    check_files(run)


def check_files(run):
    """The answers are there and may be read; there are no activations."""
    try:
        run.answers()
    except ValueError as error:
        assert "extract stage again" in str(error)
    with pytest.raises((ValueError, FileNotFoundError), match="extract stage again"):
        run.activations()


@given(outputs=st.dictionaries(TEXT, JSON), results=JSON, sites=JSON)
def test_a_manifest_of_another_form_is_refused(finished, outputs, results, sites):
    run, path, good = finished
    for changed in (
        {"outputs": outputs},
        {
            "outputs": {
                name: {"bytes": record, "sha256": record} for name, record in outputs.items()
            }
        },
        {"results": results},
        {"results": {"sites": sites}},
        {"inputs": outputs},
        {"left_out": sites},
    ):
        path.write_text(json.dumps(sealed(json.loads(good) | changed)))
        try:
            run.manifest("extract")
        except ValueError as error:
            assert f"{path} is damaged: " in str(error)
        assert run.outdated("extract", {})
        check_files(run)
