"""Texts and tokenizers that are seldom met, through the whole path.

A question file is read, a response given, its exact answer and the named tokens found, their
activations stored, and all of it shown.
"""

import importlib
import json
import shutil
import unicodedata
from itertools import accumulate, pairwise

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, ByT5Tokenizer

from probekit import Run, extract, load_model, read_questions, show_tokens
from probekit.extraction.generation import Response
from probekit.tokens import TOKENS

shards_module = importlib.import_module("probekit.extraction.shards")
OPTIONS = {"batch_size": 4, "progress": False}

#: Question, response, the name on the list, and the exact answer as it stands in the response.
CASES = {
    "Arabic, with vowel marks": (
        "في أي دولة تقع القاهرة؟",
        "تقع مدينة القاهرة في مِصْرَ، أليس كذلك؟",
        "مصر",
        "مِصْرَ",
    ),
    "Hebrew, with marks of direction": (
        "באיזו מדינה נמצאת חיפה?",
        "\u200fהמדינה היא ישראל\u200f.",
        "ישראל",
        "ישראל",
    ),
    "direction overridden": ("Where is Osaka?", "It is in \u202eJapan\u202c.", "Japan", "Japan"),
    "Hindi": ("ताज महल कहाँ है?", "यह भारत में है।", "भारत", "भारत"),
    "Thai, without spaces": ("กรุงเทพอยู่ที่ไหน", "อยู่ในประเทศไทยครับ", "ประเทศไทย", "ประเทศไทย"),
    "Chinese": ("大阪在哪里？", "它在日本的西部。", "日本", "日本"),
    "Vietnamese, composed": ("Hà Nội ở đâu?", "Nó ở Việt Nam.", "Việt Nam", "Việt Nam"),
    "Vietnamese, taken apart": (
        unicodedata.normalize("NFD", "Hà Nội ở đâu?"),
        unicodedata.normalize("NFD", "Nó ở Việt Nam."),
        "Việt Nam",
        unicodedata.normalize("NFD", "Việt Nam"),
    ),
    "a letter with three marks": ("Z?", "Is Z\u0351\u0323\u0345x.", "Zx", "Z\u0351\u0323\u0345x"),
    "flags": ("🏯?", "🎉 It is 🇯🇵🎉", "🇯🇵", "🇯🇵"),
    "emoji of several": (
        "Who?",
        "A 👩\u200d👩\u200d👧!",
        "👩\u200d👩\u200d👧",
        "👩\u200d👩\u200d👧",
    ),
    "a symbol shown as an emoji": ("Weather?", "It is ☀\ufe0f.", "☀", "☀\ufe0f"),
    "an emoji shown as a symbol": ("Who calls?", "A ☎.", "☎\ufe0f", "☎"),
    "characters of no width": (
        "Where\u200b is\u2060 it?",
        "In\u200b\u2060Peru\u200b.",
        "Peru",
        "Peru",
    ),
    "an escape to another line": ("A?", "It\r\nis\u2028Peru\x85\n", "Peru", "Peru"),
}


@pytest.fixture(scope="module")
def lm(tiny_model_dir):
    return load_model(tiny_model_dir)


def ask(folder, asked):
    """Read a file as Windows writes it, of questions with an accepted answer each."""
    (folder / "candidates").mkdir(parents=True)
    names = dict.fromkeys([name for _, name in asked])
    (folder / "candidates/own.csv").write_bytes(windows(["name", *names]))
    rows = [f"{question},{name},own" for question, name in asked]
    path = folder / "questions.csv"
    path.write_bytes(windows(["question,answers,candidates", *rows]))
    questions = read_questions(path)
    assert questions["question"].tolist() == [question for question, _ in asked]
    return questions


def windows(lines):
    return "\ufeff".encode() + "".join(f"{line}\r\n" for line in lines).encode()


def answering(monkeypatch, responses):
    """Let the model give these responses; the activation of each token is its number."""

    def generate(lm, prompts, sites, **_):
        for index in reversed(range(len(prompts))):
            ids = responses[index]
            if isinstance(ids, str):
                ids = lm.tokenizer(ids, add_special_tokens=False).input_ids
            numbers = torch.arange(-1.0, len(ids))[:, None, None].expand(-1, 3, 4)
            logprobs = np.full(len(ids), -1, np.float32)
            kept = dict.fromkeys(sites, numbers)
            yield Response(index, list(ids), logprobs, True, kept, -logprobs)

    monkeypatch.setattr(shards_module, "generate", generate)


def stored_numbers(run):
    """Per example, the number of the token whose activation each name has; None if missing."""
    values = run.activations()["activation"].isel(layer=0, feature=0).to_numpy()
    return [[None if np.isnan(v) else int(v) for v in row] for row in values]


def test_scripts_and_emoji_from_the_question_to_the_view(lm, tmp_path, monkeypatch):
    cases = list(CASES.values())
    wrong = ("Where?", "I do not know.", "Nowhere", "")
    questions = ask(tmp_path / "q", [(question, name) for question, _, name, _ in [*cases, wrong]])
    answering(monkeypatch, [response for _, response, _, _ in [*cases, wrong]])
    run = extract(lm, questions, Run(tmp_path / "run"), **OPTIONS)
    view = show_tokens(run, n=99)
    page, numbers = view._repr_html_(), stored_numbers(run)
    for i, (row, case) in enumerate(zip(run.answers().itertuples(), CASES, strict=False)):
        question, response, name, exact_answer = CASES[case]
        assert (row.question, row.response, row.correct) == (question, response, True), case
        assert row.exact_answer == exact_answer, case
        assert response[row.answer_start : row.answer_end] == exact_answer, case
        assert row.answer == questions["candidates"][i].canonical(name), case

        # A token of this vocabulary is some bytes: which of them does the exact answer take?
        ids = lm.tokenizer(response, add_special_tokens=False).input_ids
        lengths = [len(token) for token in lm.tokenizer.convert_ids_to_tokens(ids)]
        borders = pairwise(accumulate(lengths, initial=0))
        first = len(response[: row.answer_start].encode())
        stop = first + len(exact_answer.encode())
        taken = [t for t, (start, end) in enumerate(borders) if start < stop and end > first]
        assert len(row.token_ids) == row.n_tokens == len(ids), case
        stored = dict(zip(TOKENS, numbers[i], strict=True))
        assert stored["exact_answer_first"] == taken[0], case
        assert stored["exact_answer_last"] == taken[-1], case
        assert stored["exact_answer_before_first"] == taken[0] - 1, case
        assert (stored["last_q"], stored["-1"]) == (-1, len(ids) - 1), case

        shown = view.rows[i]["tokens"][1:]
        assert "".join(text for text, _ in shown) == response, case
        assert "exact_answer_first" in shown[taken[0]][1], case
        assert question in repr(view), case
        assert question in page, case


def test_empty_responses(lm, tmp_path, monkeypatch):
    """With a list of candidates and without; nothing but spaces; nothing but the end."""
    end = lm.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    responses = ["", "  \n", "Peru", [end], ""]
    questions = ask(tmp_path / "q", [(f"Number {i}?", "Peru") for i in range(5)])
    questions.loc[[1, 4], "candidates"] = None
    # Byte by byte the prompt that asks for an exact answer is long.
    monkeypatch.setattr(lm.model.config, "max_position_embeddings", 1024)
    answering(monkeypatch, responses)
    run = extract(lm, questions, Run(tmp_path / "run"), **OPTIONS)
    answers = run.answers()
    assert answers["response"].tolist() == ["", "  \n", "Peru", "", ""]
    assert answers["correct"].tolist() == [False, False, True, False, False]
    assert answers["refusal"].tolist() == [True, True, False, True, True]
    assert answers["exact_answer"].tolist() == ["", "", "Peru", "", ""]
    assert answers["n_tokens"].tolist()[::4] == [0, 0]
    numbers = stored_numbers(run)
    for empty in (0, 4):
        assert numbers[empty] == [-1] + [None] * (len(TOKENS) - 1), "only the prompt's last token"
    assert [n for n in numbers[3] if n is not None] == [-1, 0, 0], "last_q, first_answer and -1"
    assert run.manifest("extract")["results"]["n_without_exact_answer"] == 4
    assert "no exact answer" in repr(show_tokens(run))


@pytest.fixture
def merged(tiny_model_dir, tmp_path):
    """The tiny model, of whose vocabulary one token is `text`."""

    def load(text):
        folder = shutil.copytree(tiny_model_dir, tmp_path / "merged")
        path = folder / "tokenizer.json"
        tokenizer = json.loads(path.read_text())
        # In place of the last token that was learnt; nothing is merged any more.
        tokenizer["model"]["merges"] = []
        ids = tokenizer["model"]["vocab"]
        last = max(ids, key=ids.get)
        pieces = AutoTokenizer.from_pretrained(folder).tokenize
        ids["".join(pieces(text))] = ids.pop(last)
        path.write_text(json.dumps(tokenizer))
        loaded = load_model(folder)
        return loaded, len(ids) - 1

    return load


@pytest.mark.parametrize(
    ("before", "token", "after", "name"),
    [
        ("It is ", '"Peru"', ".", "Peru"),
        ("It i", "s Peru. The", " end", "Peru"),
        ("In ", "Peru", "", "Peru"),
        ("Pe", "ru, or", " so", "Peru"),
        ("It (i", "s Pe", "ru)", "Peru"),
        ("", "是秘鲁的", "。", "秘鲁"),
    ],
)
def test_a_token_that_holds_more_than_the_answer(
    merged, tmp_path, monkeypatch, before, token, after, name
):
    lm, merged_id = merged(token)
    left, right = (lm.tokenizer(t, add_special_tokens=False).input_ids for t in (before, after))
    response = before + token + after
    questions = ask(tmp_path / "q", [("Where is Lima?", name), ("And Oslo?", "Norway")])
    answering(monkeypatch, [[*left, merged_id, *right], "I do not know."])
    run = extract(lm, questions, Run(tmp_path / "run"), **OPTIONS)
    row = run.answers().iloc[0]
    assert (row["response"], row["exact_answer"]) == (response, name)
    stored = dict(zip(TOKENS, stored_numbers(run)[0], strict=True))
    start, end = row["answer_start"], row["answer_end"]
    # Outside the merged token this vocabulary's tokens are single letters.
    first = start if start < len(before) else len(left)
    last = len(left) + max(0, end - len(before) - len(token))
    assert (stored["exact_answer_first"], stored["exact_answer_last"]) == (first, last)
    assert stored["exact_answer_before_first"] == first - 1
    assert stored["exact_answer_after_last"] == (last + 1 if last + 1 < row["n_tokens"] else None)


def test_a_tokenizer_without_offsets_and_without_a_chat_template(tiny_model_dir, tmp_path):
    """ByT5's is written in Python: a token a byte, and no offsets."""
    tokenizer = ByT5Tokenizer(extra_ids=0)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path / "bytes")
    tokenizer.save_pretrained(tmp_path / "bytes")
    lm = load_model(tmp_path / "bytes")
    assert not lm.tokenizer.is_fast
    assert lm.tokenizer.chat_template is None
    assert lm.prompt("Où?").endswith("Q: Où?\nA:")
    questions = ask(tmp_path / "q", [(f"Où est {city}?", city) for city in "ABCDEFGHIJKL"])
    run = extract(
        lm,
        questions,
        Run(tmp_path / "run"),
        max_new_tokens=40,
        judge=lambda question, response, answers: question < "Où est F?",
        **OPTIONS,
    )
    answers = run.answers()
    assert answers["n_tokens"].max() > 10
    for row in answers.itertuples():
        # Its decoder leaves out bytes that are no character, of which random weights say many.
        assert row.response == lm.tokenizer.decode(row.token_ids, skip_special_tokens=True)
        assert len(row.token_starts) == row.n_tokens
        assert row.response[row.answer_start : row.answer_end] == row.exact_answer
    assert (answers["exact_answer"] != "").any()
