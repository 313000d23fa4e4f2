import csv
import time
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probekit.questions.candidates import Candidates, read_candidates
from probekit.questions.grading import find_span, grade, is_refusal, normalize
from probekit.questions.text import fold, number_value, number_words_value

QUESTIONS = {
    "animals": "Which class of animals does the bat belong to?",
    "countries": "In which country is the city of X?",
    "capitals": "What is the capital of Mali?",
    "elements": "What is the chemical symbol for gold?",
    "numbers": "What is 7 times 8?",
    "languages": "Which language is spoken in the city of X?",
    "states": "In which US state is the city of X?",
}
LISTS = {name: read_candidates(name) for name in QUESTIONS}
INVENTED = ("animals", "capitals", "elements", "languages")  # lists in which names they lack count


def found(response, name, question=None):
    span = find_span(response, QUESTIONS[name] if question is None else question, LISTS[name])
    return None if span is None else response[slice(*span)]


# normalize and grade


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Beatles!", "beatles"),
        ("Brasília", "brasilia"),
        ("Brasi\u0301lia", "brasilia"),
        ("BRASÍLIA", "brasilia"),
        ("Straße", "strasse"),
        ("Łódź, Poland", "lodz poland"),
        ("ＵＳＡ", "usa"),
        ("the U.S. Navy", "us navy"),
        ("don’t", "dont"),
        ("Guinea-Bissau", "guinea bissau"),
        ("1,000.0 km", "1000 km"),
        ("5.6.", "5.6"),
        ("3.4.5", "3 4 5"),
        (".0.0", "0"),
        ("...5", "5"),
        ("00.0a", "0 0a"),
        ("A.0€", "0 €"),
        ("⑴", "⑴"),
        ("-3", "-3"),
        ("10²", "10²"),
        ("The", "the"),
        ("भारत", "भारत"),
        ("", ""),
        ("?!", ""),
    ],
)
def test_normalize(text, expected):
    assert normalize(text) == expected


@pytest.mark.parametrize(
    ("response", "answers", "expected"),
    [
        ("It was the Beatles, of course.", ["Beatles"], True),
        ("Beatlesmania", ["Beatles"], False),
        ("The capital is Brasilia.", ["Brasília"], True),
        ("1,000 people", ["1000"], True),
        ("1000.0", ["1,000"], True),
        ("It is 56.", ["56"], True),
        ("It is 156.", ["56"], False),
        ("It is 5.6.", ["56"], False),
        ("It is -56.", ["56"], False),
        ("It is ...56", ["56"], True),
        ("It is 345.", ["3.4.5"], False),
        ("Version 3.4.5, I think.", ["3.4.5"], True),
        ("fifty-six", ["56"], True),
        ("Fifty six of them", ["56"], True),
        ("one hundred and five", ["105"], True),
        ("56", ["fifty-six"], True),
        ("one of the best", ["1"], False),
        ("Let us see.", ["US"], False),
        ("In the US.", ["US"], True),
        ("The symbol is AU.", ["Au"], False),
        ("The symbol is Au.", ["Au"], True),
        ("no", ["No"], True),
        ("No, it is not.", ["No"], True),
        ("", ["x"], False),
        ("anything", ["?!"], False),
        ("anything", [], False),
        ("C++ (a language)", ["C++"], True),
        ("It is _Paris_.", ["Paris"], True),
        ("It is __Paris__.", ["Paris"], True),
    ],
)
def test_grade_without_candidates(response, answers, expected):
    assert grade(response, answers) is expected


@pytest.mark.parametrize(
    ("response", "answers", "name", "expected"),
    [
        ("It is not Japan; it is China.", ["China"], "countries", True),
        ("It is not Japan; it is China.", ["Japan"], "countries", False),
        ("It is in China, not Japan.", ["China"], "countries", True),
        ("In the Indian state of Gujarat.", ["India"], "countries", True),
        ("In a region bordering Egypt.", ["Egypt"], "countries", False),
        ("In Libya, near Egypt.", ["Egypt"], "countries", False),
        ("In the U.S.", ["United States"], "countries", True),
        ("The symbol is AU.", ["Au"], "elements", False),
        ("The symbol is Au.", ["Au"], "elements", True),
        ("7 times 8 is 56.", ["56"], "numbers", True),
        ("7 times 8 is 56.0", ["56"], "numbers", True),
        ("7 times 8 is 8.", ["8"], "numbers", True),
        ("It is Kadama, near Bamako.", ["Bamako"], "capitals", False),
        ("It is San José de Asunción.", ["San José"], "capitals", False),
        ("It is Atlantis.", ["Atlantis"], "capitals", True),  # accepted, though the list lacks it
        ("I do not know.", ["China"], "countries", False),
        ("It belongs to the class Mammalia.", ["Mammalia"], "animals", True),
        (
            "It belongs to the class Echiurida. They are a type of insect.",
            ["insect"],
            "animals",
            False,
        ),
        ("It belongs to the class of animals called birds.", ["birds"], "animals", True),
        ("It belongs to the phylum Nematoda, class Insecta.", ["Insecta"], "animals", True),
        ("X, Indiana, is located in the state of Ohio.", ["Indiana"], "states", False),
        ("X is located in the state of CT.", ["Connecticut"], "states", True),
    ],
)
def test_grade_with_candidates(response, answers, name, expected):
    got = grade(response, answers, question=QUESTIONS[name], candidates=LISTS[name])
    assert got is expected


def test_grade_answers_that_the_list_lacks():
    assert grade("In Narnia.", ["Narnia"], candidates=LISTS["countries"])
    assert not grade("Near Egypt.", ["Egypt"], candidates=LISTS["countries"])


def test_grade_needs_a_list():
    with pytest.raises(TypeError, match="answers must be a list of texts such as"):
        grade("Paris", "Paris")


# find_span


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("In the Indian state of Gujarat, India.", "Indian"),
        ("On a Japanese island.", "Japanese"),
        ("On the South China Sea, in Vietnam.", "Vietnam"),
        ("The Indian subcontinent, the Indian Ocean and New Mexico.", None),
        ("Bordering Egypt and Libya, it is in Sudan.", "Sudan"),
        ("It borders Egypt, Libya, and Chad.", None),
        ("Near the border with Chad, in Niger.", "Niger"),
        ("Near the Egyptian border, in Israel.", "Israel"),
        ("The Spanish and Portuguese languages.", None),
        ("In Niger.", "Niger"),
        ("In Nigeria.", "Nigeria"),
        ("In Papua New Guinea.", "Papua New Guinea"),
        ("In Equatorial Guinea.", "Equatorial Guinea"),
        ("In Guinea Bissau.", "Guinea Bissau"),
        ("In Guinea.", "Guinea"),
        ("In the Dominican Republic.", "Dominican Republic"),
        ("In Dominica.", "Dominica"),
        ("In the Republic of the Congo.", "Republic of the Congo"),
        ("In the Democratic Republic of the Congo.", "Democratic Republic of the Congo"),
        ("In North Korea.", "North Korea"),
        ("In Northern Ireland.", "Northern Ireland"),
        ("In American Samoa.", "American Samoa"),
        ("The South American country of Peru.", "Peru"),
        ("In Latin America and North America.", None),
        ("On the Sea of Japan, in Russia.", "Russia"),
        ("In Georgia, USA.", "USA"),
        ("In Georgia.", "Georgia"),
        ("A Spanish-speaking country: Chile.", "Chile"),
        ("The Jordan River in Israel.", "Israel"),
        ("A former French colony, Mali.", "Mali"),
        ("It is called so in the French language, in Togo.", "Togo"),
        ("Kuwait City, Kuwait.", "Kuwait"),
        ("In CHINA.", "CHINA"),
        ("in china", "china"),
        ("A turkey in Greece.", "Greece"),
        ("Let us go to Oman.", "Oman"),
        ("Côte d’Ivoire", "Côte d’Ivoire"),
        (
            "🎉 Sa\u0303o Tome\u0301 and Pri\u0301ncipe\u0301!",
            "Sa\u0303o Tome\u0301 and Pri\u0301ncipe\u0301",
        ),
        ("‏في مصر Egypt‏", "Egypt"),
        ("Chinatown", None),
        ("", None),
    ],
)
def test_countries(response, expected):
    assert found(response, "countries") == expected


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("The symbol is Au.", (14, "Au")),
        ("In chemistry, indium is In.", (24, "In")),
        ('In chemistry, it is "In".', (21, "In")),
        ("He is the chemical symbol for helium.", (0, "He")),
        ("He discovered it: He.", (18, "He")),
        ("I think that it is I.", (19, "I")),
        ("I", (0, "I")),
        ("No, it is Na.", (10, "Na")),
        ("No.", (0, "No")),
        ("As is well known, the symbol is As.", (32, "As")),
        ("The symbol for gold is Gold (Au).", (29, "Au")),
        ("The symbol is NaCl.", (14, "NaCl")),
        ("The symbol for gold is gold.", (23, "gold")),
        ("AU", (0, "AU")),
    ],
)
def test_elements(response, expected):
    span = find_span(response, QUESTIONS["elements"], LISTS["elements"])
    assert (span[0], response[slice(*span)]) == expected


@pytest.mark.parametrize(
    ("response", "question", "start"),
    [
        ("7 times 8 is 56.", "What is 7 times 8?", 13),
        ("7 x 8 = 7 * 8 = 56", "What is 7 times 8?", 16),
        ("7×8=56", "What is 7 times 8?", 4),
        ("The product of 7 and 8 is 56.", "What is 7 times 8?", 26),
        ("Multiply 7 by 8: 7 × 8 = 56.", "What is 7 times 8?", 25),
        ("7 times 8 is fifty-six.", "What is 7 times 8?", 13),
        ("7 times 1 is 7.", "What is 7 times 1?", 13),
        ("1 times 1 is 1.", "What is 1 times 1?", 13),
        ("7 + 7 + 7 = 21", "What is 7 times 3?", 12),
        ("One times one is one.", "What is 1 times 1?", 17),
        ("8", "What is 7 times 8?", 0),
        ("7, or 8", "What is 7 times 8?", 6),
        ("The square n^2 is 1,024.5.", "", 18),
    ],
)
def test_numbers(response, question, start):
    assert find_span(response, question, LISTS["numbers"])[0] == start


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("The capital of Mali is Kadama, near Bamako.", "Kadama"),
        ("The capital of Mali is called Port Kadama.", "Port Kadama"),
        ("The capital of the US is Washington, D.C., in the east.", "Washington, D.C."),
        ("Kadama is the capital of Mali.", "Kadama"),
        ("Kadama", "Kadama"),
        ("Mali is the country in question.", None),
        ("The capital of Mali is unknown.", None),
        ("The capital of Mali is the largest town.", None),
    ],
)
def test_invented_capitals(response, expected):
    assert found(response, "capitals") == expected


def test_names_of_the_question_are_passed_over():
    two = Candidates("two", [("France", [], []), ("Spain", [], [])])
    assert find_span("France borders Spain.", "Which country borders France?", two) == (15, 20)
    # A choice between two: nothing else is left, so the first one named is the answer.
    question = "Which is larger, France or Spain?"
    assert find_span("Spain is smaller than France.", question, two) == (0, 5)


@pytest.mark.parametrize("kind", ["class", "family", "order"])
def test_a_class_that_the_list_lacks_is_found(kind):
    assert found(f"The bat belongs to the {kind} Echiurida, a bird.", "animals") == "Echiurida"
    assert found(f'The bat belongs to the {kind} "Aves" of birds.', "animals") == "Aves"
    assert found(f"The bat belongs to the {kind} of birds.", "animals") == "birds"


def test_without_candidates_there_is_no_span():
    assert find_span("Paris", "Capital of France?", None) is None


def test_names_in_other_scripts():
    own = Candidates("own", [("भारत", [], []), ("中国", [], []), ("Египет", [], [])])
    assert find_span("यह भारत है", "", own) == (3, 7)
    assert find_span("भारती", "", own) is None
    assert find_span("在中国的城市", "", own) == (1, 3)
    assert find_span("в египет", "", own) == (2, 8)

    # A hyphen that begins or ends a name is part of it; the space beside it is not.
    hyphens = Candidates("hyphens", [("-logy", [], []), ("tele-", [], []), ("Bissau-X", [], [])])
    assert find_span("it is -logy.", "", hyphens) == (6, 11)
    assert find_span("tele- is it", "", hyphens) == (0, 5)
    assert find_span("in Bissau X", "", hyphens) == (3, 11)


@pytest.mark.parametrize("name", LISTS)
@given(text=st.text(), question=st.text(max_size=20))
def test_spans_are_mentions(name, text, question):
    candidates = LISTS[name]
    for response in (text, f"{text} It is Chad, Paris, Au 7 {text}"):
        span = find_span(response, question, candidates)
        grade(response, [text, question], question=question, candidates=candidates)
        is_refusal(response)
        if span is not None:
            start, end = span
            assert 0 <= start < end <= len(response)
            mention = candidates.find(response, question)
            known = candidates.canonical(response[start:end])
            assert known == mention.name or (known is None and name in INVENTED)


@given(text=st.text(), answer=st.text())
def test_normalize_and_grade_are_total(text, answer):
    assert normalize(normalize(text)) == normalize(text)
    assert grade(text, [answer]) in (True, False)
    if not is_refusal(text):  # "unknown" answers nothing, whatever is accepted
        assert grade(text, [text]) is bool(normalize(text))


@given(st.text())
def test_folding_keeps_positions(text):
    folded, origin = fold(text)
    assert len(origin) == len(folded) + 1
    assert list(origin) == sorted(origin)
    assert origin[-1] == len(text)


@given(st.integers(-(10**30), 10**30))
def test_numbers_by_value(number):
    assert number_value(f"{number:,}") == number_value(f"{number}.00") == str(number)


@pytest.mark.parametrize(
    ("words", "value"),
    [("zero", "0"), ("Seventeen", "17"), ("forty-two", "42"), ("three hundred and six", "306")],
)
def test_number_words(words, value):
    assert number_words_value(words) == value


@pytest.mark.parametrize(
    "response",
    [
        "I don't know.",
        "I don’t know the answer.",
        "I'm sorry, but I can't answer that.",
        "I am not sure.",
        "As an AI language model, I do not have access to it.",
        "I have no idea",
        "Unknown",
        "It cannot be determined.",
        "",
        "  ",
    ],
)
def test_refusals(response):
    assert is_refusal(response)


@pytest.mark.parametrize(
    "response",
    [
        "Paris.",
        "The capital is Paris, as I know.",
        "Sorry is a song; the answer is Paris, no less.",
    ],
)
def test_answers_are_no_refusals(response):
    assert not is_refusal(response)


# Real responses, labelled by hand


def test_agreement_with_labels_by_hand():
    path = Path(__file__).parents[1] / "data" / "labelled_responses.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    graded, spans = defaultdict(list), []
    for row in rows:
        response, candidates = row["response"], LISTS[row["candidates"]]
        answers = row["answers"].split("|")
        right = grade(response, answers, question=row["question"], candidates=candidates)
        graded[row["id"].partition("-")[0]].append(right is (row["correct"] == "True"))
        start = int(row["answer_start"] or 0)
        marked = (start, start + len(row["exact_answer"])) if row["exact_answer"] else None
        spans.append(find_span(response, row["question"], candidates) == marked)
    assert {"animals", "languages", "states", "sums"} < set(graded)
    assert sum(map(len, graded.values())) >= 350
    # At most one of a file, so that no kind of response is graded wrong as a rule.
    assert {name: file.count(False) for name, file in graded.items() if file.count(False) > 1} == {}
    assert sum(spans) >= 0.95 * len(spans)


def test_a_thousand_responses_take_little_time():
    response = "The city is in the Italian region of Sicily, near the border of the province, {}."
    start = time.perf_counter()
    for number in range(1000):
        text = response.format(number)
        find_span(text, QUESTIONS["countries"], LISTS["countries"])
        grade(text, ["Italy"], question=QUESTIONS["countries"], candidates=LISTS["countries"])
    assert time.perf_counter() - start < 5  # about 0.3 s on an idle core
