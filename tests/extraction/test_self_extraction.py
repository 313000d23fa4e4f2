import pytest
from hypothesis import given
from hypothesis import strategies as st

from probekit.extraction.asking import find_copy, point_to_answers
from probekit.questions.text import fold


@pytest.mark.parametrize(
    ("copied", "response", "expected"),
    [
        (" Italy", "It is in Italy.", "Italy"),
        (" Italy.", "It is in Italy.", "Italy"),
        (' "the Rhine"', "On the Rhine, I think.", "the Rhine"),
        ("Paris", "Parisians live in Paris", "Paris"),
        ("art", "The start of it", None),
        ("NO ANSWER", "I do not know.", None),
        ("France", "It is in Italy.", None),
        ("", "It is in Italy.", None),
        (" .", "It is in Italy.", None),
        ("42", "It is 142 or 42.", "42"),
        ("Paris", "It is _Paris_.", "Paris"),
        ("巴黎", "答案是巴黎。", "巴黎"),
        ("กรุงเทพ", "เมืองกรุงเทพครับ", "กรุงเทพ"),
    ],
)
def test_only_whole_words_of_the_response_are_accepted(copied, response, expected):
    span = find_copy(copied, response)
    assert (None if span is None else response[slice(*span)]) == expected


def test_the_copy_is_found_where_it_stands_as_a_word():
    assert find_copy("Paris", "Parisians live in Paris") == (18, 23)


@given(st.text(), st.text())
def test_any_text_gives_a_span_of_the_response_or_none(copied, response):
    span = find_copy(copied, response)
    if span is not None:
        start, end = span
        assert 0 <= start < end <= len(response)
        found, given = (" ".join(t.casefold().split()) for t in (response[start:end], copied))
        assert fold(found)[0] in fold(given)[0]  # case, spaces and marks may differ


def test_nothing_to_do_is_nothing_done():
    assert point_to_answers(None, [], [], 8) == []
