import functools
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from probekit.tokens import (
    FIGURE_TOKENS,
    LAST_PROMPT_TOKEN,
    MISSING,
    TOKENS,
    decode_with_offsets,
    span_tokens,
    token_positions,
)

LAST_Q = LAST_PROMPT_TOKEN


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model_dir)


# The names


def test_the_names_are_the_figures_in_its_order():
    figure = (
        "last_q first_answer second_answer exact_answer_before_first exact_answer_first "
        "exact_answer_last -8 -7 -6 -5 -4 -3 -2 -1"
    )
    assert tuple(figure.split()) == FIGURE_TOKENS
    assert len(TOKENS) == 15
    assert TOKENS.index("exact_answer_after_last") == TOKENS.index("exact_answer_last") + 1


# Positions. The columns are TOKENS: q 1st 2nd, before first last after, -8 to -1. "." is missing,
# "q" the prompt's last token.

EXAMPLES = [
    # n, exact answer, expected
    (0, None, "q . .  . . . .  . . . . . . . ."),
    (1, None, "q 0 .  . . . .  . . . . . . . 0"),
    (1, (0, 0), "q 0 .  q 0 0 .  . . . . . . . 0"),
    (2, None, "q 0 1  . . . .  . . . . . . 0 1"),
    (2, (0, 0), "q 0 1  q 0 0 1  . . . . . . 0 1"),
    (2, (1, 1), "q 0 1  0 1 1 .  . . . . . . 0 1"),
    (2, (0, 1), "q 0 1  q 0 1 .  . . . . . . 0 1"),
    (5, None, "q 0 1  . . . .  . . . 0 1 2 3 4"),
    (5, (0, 1), "q 0 1  q 0 1 2  . . . 0 1 2 3 4"),
    (5, (2, 3), "q 0 1  1 2 3 4  . . . 0 1 2 3 4"),
    (5, (3, 4), "q 0 1  2 3 4 .  . . . 0 1 2 3 4"),
    (5, (0, 4), "q 0 1  q 0 4 .  . . . 0 1 2 3 4"),
    (8, (7, 7), "q 0 1  6 7 7 .  0 1 2 3 4 5 6 7"),
    (12, None, "q 0 1  . . . .  4 5 6 7 8 9 10 11"),
    (12, (0, 2), "q 0 1  q 0 2 3  4 5 6 7 8 9 10 11"),
    (12, (4, 6), "q 0 1  3 4 6 7  4 5 6 7 8 9 10 11"),
    (12, (11, 11), "q 0 1  10 11 11 .  4 5 6 7 8 9 10 11"),
]


@pytest.mark.parametrize(("n", "exact_answer", "expected"), EXAMPLES)
def test_positions_by_hand(n, exact_answer, expected):
    shown = {LAST_Q: "q", MISSING: "."}
    positions = [shown.get(p, str(p)) for p in token_positions(n, exact_answer)]
    assert positions == expected.split()


@st.composite
def responses(draw):
    n = draw(st.integers(0, 60))
    first = draw(st.integers(0, n))
    last = draw(st.integers(first, n))
    return n, (first, last) if last < n else None


@given(responses())
def test_a_position_is_a_token_of_the_response_or_missing(response):
    n, exact_answer = response
    found = dict(zip(TOKENS, token_positions(n, exact_answer), strict=True))
    assert all(p in (LAST_Q, MISSING) or 0 <= p < n for p in found.values())
    assert found["last_q"] == LAST_Q
    for name, position in found.items():
        if name.startswith("-"):
            assert position == (n + int(name) if n >= -int(name) else MISSING)
    if exact_answer is None:
        assert all(p == MISSING for name, p in found.items() if name.startswith("exact"))
    else:
        first, last = exact_answer
        assert (found["exact_answer_first"], found["exact_answer_last"]) == (first, last)
        assert found["exact_answer_before_first"] == (first - 1 if first else LAST_Q)
        assert found["exact_answer_after_last"] == (last + 1 if last + 1 < n else MISSING)


# Characters of tokens

TEXTS = [
    "The city of Palermo is located in Italy.",
    "  two  spaces \n and\ta tab ",
    "Gdańsk, Łódź und Zürich",
    "日本の大阪",
    "🇯🇵 and 👩‍👩‍👧‍👦, then 🎉🎉",
    "naïve café, e\u0301 decomposed",
    "x",
    "don't can't I'm",
]


@pytest.mark.parametrize("text", TEXTS)
def test_offsets_are_the_tokenizers_own(tokenizer, text):
    """Against the offsets that the tokenizer gives when it splits the text itself."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    decoded, offsets = decode_with_offsets(tokenizer, encoded.input_ids)
    assert decoded == text
    assert offsets == encoded.offset_mapping


# Not the replacement mark itself: the first of its bytes decodes to it already.
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd")


@given(st.text(alphabet=CHARACTERS, max_size=25))
def test_offsets_are_the_tokenizers_own_for_any_text(text):
    encoded = _byte_level()(text, add_special_tokens=False, return_offsets_mapping=True)
    decoded, offsets = decode_with_offsets(_byte_level(), encoded.input_ids)
    assert decoded == text
    assert offsets == encoded.offset_mapping


_byte_level = functools.cache(tiny_tokenizer)


@given(st.lists(st.integers(3, 300), max_size=20))
def test_any_tokens_have_characters_in_order(token_ids):
    """Also ids that no text is split into, and bytes that are no text at all."""
    text, offsets = decode_with_offsets(_byte_level(), token_ids)
    assert text == _byte_level().decode(token_ids, skip_special_tokens=True)
    assert len(offsets) == len(token_ids)
    assert all(0 <= first <= end <= len(text) for first, end in offsets)
    assert offsets == sorted(offsets)
    if token_ids:
        covered = {i for first, end in offsets for i in range(first, end)}
        assert covered == set(range(len(text)))


def test_every_token_of_a_split_character_has_all_of_it(tokenizer):
    token_ids = tokenizer("a🎉b", add_special_tokens=False).input_ids
    assert len(token_ids) == 6, "the emoji is split into its four bytes"
    text, offsets = decode_with_offsets(tokenizer, token_ids)
    assert text == "a🎉b"
    assert offsets == [(0, 1), (1, 2), (1, 2), (1, 2), (1, 2), (2, 3)]
    assert span_tokens(offsets, (1, 2)) == (1, 4)
    assert span_tokens(offsets, (0, 2)) == (0, 4)


def test_a_token_may_end_inside_a_character():
    """GPT-2's and SmolLM2's " Ł": one token holds the space and the first of the letter's bytes."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    pieces = ["in", "ĠÅ", "ģ", "ód"]  # byte-level: Ġ is a space, Åģ the two bytes of Ł
    tokenizer = Tokenizer(models.WordLevel({p: i for i, p in enumerate(pieces)}, "in"))
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    text, offsets = decode_with_offsets(wrapped, [0, 1, 2, 0])
    assert text == "in Łin"
    assert offsets == [(0, 2), (2, 4), (3, 4), (4, 6)]
    assert span_tokens(offsets, (3, 4)) == (1, 2), "the answer begins inside the second token"


def test_no_token_has_no_text(tokenizer):
    assert decode_with_offsets(tokenizer, []) == ("", [])


def test_a_special_token_has_no_characters(tokenizer):
    special = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    ids = tokenizer("Lima Peru", add_special_tokens=False).input_ids
    plain_text, plain = decode_with_offsets(tokenizer, ids)
    text, offsets = decode_with_offsets(tokenizer, [ids[0], special, *ids[1:]])
    assert text == plain_text
    assert offsets[1][0] == offsets[1][1], "no characters of its own"
    assert [offsets[0], *offsets[2:]] == plain


def test_a_tokenizer_that_decodes_a_first_space_away():
    """Llama's and Mistral's: "▁in" is " in", but "in" at the start of a text."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "▁in", "▁It", "aly", ".", "▁", "é", "<0xF0>", "<0x9F>", "<0x8E>", "<0x89>"]
    tokenizer = Tokenizer(
        models.BPE({p: i for i, p in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    text, offsets = decode_with_offsets(wrapped, [1, 2, 3, 4])
    assert text == "in Italy."
    assert [text[slice(*o)] for o in offsets] == ["in", " It", "aly", "."]
    text, offsets = decode_with_offsets(wrapped, [1, 7, 8, 9, 10, 4])
    assert text == "in🎉."
    assert offsets == [(0, 2), (2, 3), (2, 3), (2, 3), (2, 3), (3, 4)]


# Spans


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ((0, 3), (0, 0)),
        ((0, 4), (0, 1)),
        ((4, 5), (1, 1)),
        ((2, 8), (0, 2)),
        ((7, 9), (2, 2)),
        ((9, 12), None),
        ((0, 0), None),
    ],
)
def test_span_tokens(span, expected):
    # "The| city|..": tokens of 3, 4 and 2 characters
    assert span_tokens([(0, 3), (3, 7), (7, 9)], span) == expected


@given(st.lists(st.integers(1, 6), min_size=1, max_size=12), st.data())
def test_the_tokens_of_a_span_hold_it_and_no_fewer_would(lengths, data):
    borders = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    offsets = list(itertools.pairwise(borders))
    start = data.draw(st.integers(0, borders[-1] - 1))
    stop = data.draw(st.integers(start + 1, borders[-1]))
    first, last = span_tokens(offsets, (start, stop))
    assert offsets[first][0] <= start < offsets[first][1]
    assert offsets[last][0] < stop <= offsets[last][1]


# The real tokenizer


@pytest.mark.model
@pytest.mark.parametrize("text", TEXTS)
def test_offsets_of_the_real_tokenizer(smollm2, text):
    encoded = smollm2.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    decoded, offsets = decode_with_offsets(smollm2.tokenizer, encoded.input_ids)
    assert decoded == text
    assert offsets == encoded.offset_mapping
