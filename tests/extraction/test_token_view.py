import pandas as pd

from probekit import Run
from probekit.extraction.responses import show_tokens
from probekit.tokens import token_positions

RESPONSE = "It is <script>alert(1)</script> Italy."
STARTS = [0, 2, 5, 31, 37]


def fake_run(**changes):
    answer = {
        "question": "In which <b>country</b>?",
        "correct": True,
        "response": RESPONSE,
        "exact_answer": "Italy",
        "token_starts": STARTS,
        "positions": token_positions(5, (3, 3)),
    }
    table = pd.DataFrame([answer | changes])
    run = Run("nowhere")
    run.answers = lambda: table
    return run


def test_plain_text_puts_every_name_beside_the_token_that_it_hit():
    lines = repr(show_tokens(fake_run())).splitlines()
    hits = {line.split()[0]: line for line in lines[1:]}
    assert "last_q" in hits["prompt"]
    assert "' Italy'" in hits["3"]
    assert "exact_answer_first, exact_answer_last, -2" in hits["3"]
    assert "exact_answer_after_last, -1" in hits["4"]
    assert "exact_answer_before_first, -3" in hits["2"]
    assert "(right, exact answer: Italy)" in lines[0]


def test_html_shows_model_text_and_question_as_text():
    page = show_tokens(fake_run())._repr_html_()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "<b>country" not in page


def test_response_without_tokens_or_exact_answer():
    run = fake_run(response="", exact_answer="", token_starts=[], positions=token_positions(0))
    text = repr(show_tokens(run))
    assert "no exact answer" in text
    assert "last_q" in text


def test_as_many_as_there_are():
    assert len(show_tokens(fake_run(), n=10).rows) == 1
