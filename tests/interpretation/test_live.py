"""Questions asked live: every number is the run's and `Detector.predict`'s, and comes in time."""

import hashlib
import html
import io
import json
import re
import shutil
import sys
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from tiny import PLACES

import probekit as pk
from probekit.__main__ import main
from probekit.extraction import asking, shards
from probekit.interpretation import live, widgets
from probekit.interpretation.live import AT_ONCE, LiveAnswer, Watch, _Arriving
from probekit.interpretation.widgets import QuestionField
from probekit.probing.calibration import Calibration
from probekit.probing.detection import Threshold
from probekit.tokens import TOKENS

one_pass = import_module("probekit.extraction.one_pass")

QUESTIONS = [f"Where is {a} and {b}?" for a in PLACES for b in PLACES[:6]]


def first_word(lm, questions, responses, batch_size):
    """The exact answer of a model that copies nothing: a response's first word, if it has one."""
    found = [re.search(r"[^\W\d_]{2,}", response) for response in responses]
    return [word and word.span() for word in found]


@pytest.fixture(scope="module")
def patched():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "point_to_answers", first_word)
        yield


@pytest.fixture(scope="module")
def model_dir(stopping_model_dir, tmp_path_factory):
    """The tiny model with room for the examples of how to copy an answer."""
    folder = tmp_path_factory.mktemp("live") / "model"
    shutil.copytree(stopping_model_dir, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1024}))
    return folder


@pytest.fixture(scope="module")
def lm(model_dir):
    return pk.load_model(model_dir)


@pytest.fixture(scope="module")
def run(lm, patched, tmp_path_factory):
    """A run of questions without candidates, with a detector."""
    run = pk.Run(tmp_path_factory.mktemp("live") / "run")
    table = pd.DataFrame({"question": QUESTIONS, "answers": "It|Per|nya|lo|is|th|Poland"})
    questions = pk.read_questions(table, kind="text")
    pk.extract(lm, questions, run, max_new_tokens=10, batch_size=1, progress=False)
    with_wrong = run.answers()["correct"]
    assert 10 < with_wrong.sum() < 50
    grid = pk.probe_grid(run.activations(), folds=3, n_permutations=0, progress=False, n_jobs=1)
    files = [run.save_grids({"random": grid})]
    files.append(run.save_detectors({"random": pk.detector(grid)}))
    run.begin("probe", {}).finish(files, splits=["random"])
    return run


@pytest.fixture(scope="module")
def detector(run):
    return run.detector()


@pytest.fixture(scope="module")
def watch(lm, detector):
    return pk.watch(lm, detector, max_new_tokens=10)


def reference(detector, X, tokens):
    """P(error) of activations (layer, token, feature) from some tokens, by the definition."""
    odds = []
    for layer in range(len(X)):
        for token in tokens:
            i, j = detector.layers.tolist().index(layer), detector.tokens.index(token)
            x = X[layer, TOKENS.index(token)].astype(float)
            if detector.cells[i, j] and not np.isnan(x).any():
                coef, intercept, prior = (
                    detector.probes[n][i, j] for n in ("coef", "intercept", "prior")
                )
                odds.append(x @ coef + intercept - prior)
    if not odds:
        return np.nan
    map_ = detector.calibration
    if map_.points is not None:
        return np.interp(np.mean(odds), *map_.points)
    return expit(map_.slope * np.mean(odds) + map_.offset)


@pytest.mark.parametrize("number", [0, 7, 22, 41])
def test_streamed_scores_are_those_of_a_runs_activations(
    lm, detector, watch, tmp_path, monkeypatch, number
):
    told = []
    answer = watch.ask(QUESTIONS[number], told.append)
    # A run of this question alone: with others beside it, the prompts' common beginning is another,
    # and the last bit of some activations in half precision with it.
    monkeypatch.setattr(one_pass, "check_two_classes", lambda *_: None)
    run = pk.Run(tmp_path / "one")
    table = pd.DataFrame({"question": [QUESTIONS[number]], "answers": "It"})
    pk.extract(lm, pk.read_questions(table, kind="text"), run, max_new_tokens=10, progress=False)
    stored = run.answers().iloc[0]
    X = run.activations()["activation"].isel(example=0).to_numpy()
    assert answer.row["exact_answer"] == stored["exact_answer"]
    assert "".join(text for text, _ in answer.row["tokens"][1:]) == stored["response"]
    assert answer.p_error == pytest.approx(reference(detector, X, detector.tokens), abs=1e-5)
    assert len(told) == stored["n_tokens"]
    for name in detector.tokens:
        expected = reference(detector, X, [name])
        found = answer.row["p_error"].get(name, np.nan)
        assert found == pytest.approx(expected, abs=1e-5, nan_ok=True), name
    for n, so_far in enumerate(told, 1):
        known = AT_ONCE[:n]
        assert [*so_far.row["p_error"]] == [*known]
        for name in known:
            assert so_far.row["p_error"][name] == pytest.approx(
                answer.row["p_error"][name], abs=1e-9
            )
        assert so_far.p_error == pytest.approx(reference(detector, X, known), abs=1e-5)
        assert "provisional" in so_far.result and not so_far.ended
        assert len(so_far.row["tokens"]) == 1 + n
        text = "".join(text for text, _ in so_far.row["tokens"][1:])
        assert stored["response"].startswith(text)


def test_the_last_word_is_what_predict_says(lm, detector, watch):
    asked = ["Where is Oslo?", "In which country is Gdańsk?", "Perth"]
    for question in asked:
        expected = detector.predict(lm, [question], max_new_tokens=10).iloc[0]
        for tell in (None, lambda answer: None):
            answer = watch.ask(question, tell)
            assert answer.p_error == pytest.approx(expected["p_error"], abs=1e-9)
            assert answer.row["exact_answer"] == expected["exact_answer"]
            assert "".join(text for text, _ in answer.row["tokens"][1:]) == expected["response"]


def test_watching_takes_no_pass_more(lm, watch):
    passes = []
    hook = lm.model.register_forward_hook(lambda *_: passes.append(1))
    watch.ask("Where is Oslo?")
    silent = len(passes)
    watch.ask("Where is Oslo?", lambda answer: None)
    hook.remove()
    assert len(passes) == 2 * silent


def test_a_detector_of_few_cells_leaves_other_tokens_without_a_number(run, lm):
    some = pk.detector(run.grid(), tokens=["second_answer", "-1"], layers=[1])
    told, long = [], run.answers().query("n_tokens >= 4")["question"].iloc[0]
    answer = pk.watch(lm, some, max_new_tokens=10).ask(long, told.append)
    assert {*answer.row["p_error"]} == {"second_answer", "-1"}
    assert [[*t.row["p_error"]] for t in told[:3]] == [[], [], ["second_answer"]]
    assert "P(error) is not known" in told[0].result
    (p,) = told[2].row["p_error"].values()
    assert told[2].p_error == pytest.approx(p)


def test_part_of_a_character_is_never_shown(watch):
    ids = watch.lm.tokenizer("Łódź – 東京 🙂!", add_special_tokens=False).input_ids
    told = []
    arriving = _Arriving(watch, "?", "mlp_out", told.append)
    for n in range(1, len(ids) + 1):
        arriving(0, ids[:n], {"mlp_out": np.zeros((3, 32), np.float32)})
    texts = ["".join(text for text, _ in each.row["tokens"][1:]) for each in told]
    assert texts[-1] == "Łódź – 東京 🙂!"
    assert all("Łódź – 東京 🙂!".startswith(text) for text in texts)
    assert len(set(texts)) < len(texts)  # some tokens are parts


@pytest.mark.parametrize(
    ("p", "limit", "words"),
    [(0.2, 0.3, "would be given"), (0.4, 0.3, "would be withheld"), (0.2, np.nan, "No threshold")],
)
def test_the_verdict_is_the_thresholds(watch, p, limit, words):
    threshold = Threshold(limit, 0.5, 0.1, 0.2, 0.2, 0.95)
    verdict = Watch(watch.lm, watch.detector, None, threshold, 10)._verdict(p, "Italy", True)
    assert words in verdict and "20%" in verdict
    none = Watch(watch.lm, watch.detector, None, threshold, 10)._verdict(p, "", False)
    assert "no threshold holds" in none and "cut short" in none


def test_what_is_above_the_threshold_does_not_look_like_it(watch):
    threshold = Threshold(0.6667, 0.5, 0.1, 0.2, 0.125, 0.95)
    verdict = Watch(watch.lm, watch.detector, None, threshold, 10)._verdict(0.6677, "Italy", True)
    assert "withheld: that is above 0.667, " in verdict
    assert "an error rate of at most 12.5% with 95% confidence" in verdict


HOSTILE = "<img src=x onerror=alert(1)> \x1b]0;title\x07 $5 \u202e"


def test_hostile_text_is_shown_as_text():
    row = {
        "question": HOSTILE,
        "verdict": "",
        "exact_answer": HOSTILE,
        "tokens": [("⏎", ["last_q"]), (HOSTILE, ["first_answer"]), (HOSTILE, [])],
        "p_error": {"last_q": 0.1, "first_answer": 0.9},
        "chosen": None,
    }
    answer = LiveAnswer(row, 0.5, "Fine.")
    assert "<img" not in answer._repr_html_()
    for text in (repr(answer), answer.text(colour=True)):
        left = re.sub(r"\x1b\[[0-9;]*m", "", text)
        assert not set("\x1b\x07\u202e") & set(left)
        assert "first_answer: 0.90" in left and r"\x1b]0;title" in left
    assert "\x1b" not in repr(answer)
    assert "\x1b[38;5;16;48;5;208m" in answer.text(colour=True)
    assert "\x1b[38;5;16;48;5;75m" not in answer.text(colour=True)  # the mark is no part of it


@pytest.mark.parametrize(
    ("question", "error", "message"),
    [
        ("", ValueError, "question"),
        (" ", ValueError, "question"),
        (3, TypeError, "question must be"),
        ("Oslo " * 2000, ValueError, "more than the"),
    ],
)
def test_questions_that_cannot_be_asked_are_refused(watch, question, error, message):
    with pytest.raises(error, match=message):
        watch.ask(question)


def test_what_cannot_watch_is_refused(lm, detector):
    with pytest.raises(ValueError, match="no probes"):
        pk.watch(lm, replace(detector, probes=None))
    other = replace(detector, origin=detector.origin | {"revision": "1"})
    with pytest.raises(ValueError, match="can't read others"):
        pk.watch(lm, other)
    with pytest.raises(ValueError, match="Shipped lists"):
        pk.watch(lm, detector, candidates="nope")
    with pytest.raises(TypeError, match="detector must be"):
        pk.watch(lm, "detector")


def test_the_exact_answer_may_be_found_among_candidates(lm, detector, monkeypatch):
    """What is named first, without asking the model."""
    monkeypatch.setattr(shards, "point_to_answers", lambda *given: [] if not given[1] else 1 / 0)
    answer = pk.watch(lm, detector, candidates="countries", max_new_tokens=10).ask("Where is Oslo?")
    assert answer.ended


# The widget without a browser


class Recorded(QuestionField):
    """What the field sends, in order."""

    def notify_change(self, change):
        super().notify_change(change)
        if change["name"] in ("answer", "result", "busy"):
            self.__dict__.setdefault("sent", []).append((change["name"], change["new"]))


def test_the_field_shows_the_answer_while_it_comes(lm, detector, watch):
    field = Recorded(watch.ask)
    field._handle_custom_msg("Where is Oslo?", [])
    expected = detector.predict(lm, ["Where is Oslo?"], max_new_tokens=10).iloc[0]
    assert f"P(error) of the whole answer: {expected['p_error']:.2f}" in field.result
    answers = [value for name, value in field.sent if name == "answer" and value]
    assert len(answers) >= 2
    assert "provisional" in answers[0] and "rgba(128, 128, 128" in "".join(answers[:-1])
    assert "provisional" not in answers[-1] and "rgba(128, 128, 128" not in answers[-1]
    busy = [value for name, value in field.sent if name == "busy"]
    assert busy == [True, False] and field.sent[0][0] == "busy" and field.sent[-1][0] == "busy"


def test_a_mistake_is_a_sentence_in_the_field(watch):
    field = QuestionField(watch.ask)
    for question, words in (("", "question"), ("Oslo " * 2000, "more than the"), (3, "question")):
        field._handle_custom_msg(question, [])
        assert words in field.result and field.answer == "" and not field.busy


def test_a_failure_of_another_kind_is_shown_and_passed_on(watch):
    def fail(*given):
        raise RuntimeError("out of \x1b memory")

    field = QuestionField(fail)
    with pytest.raises(RuntimeError):
        field._asked(field, "?", [])
    assert field.result == r"out of \x1b memory" and not field.busy


def test_where_nobody_can_type_a_sentence_is_shown(watch, monkeypatch, capsys):
    watch._ipython_display_()
    assert "Watch of" in capsys.readouterr().out
    for stdin in (False, True):
        parent = {"content": {"allow_stdin": stdin}}
        shell = SimpleNamespace(kernel=object(), get_parent=lambda parent=parent: parent)
        shown, kept = [], []
        monkeypatch.setattr(widgets, "get_ipython", lambda shell=shell: shell)
        monkeypatch.setattr(widgets, "display", lambda *o, s=shown, **raw: s.extend(o))
        handle = SimpleNamespace(update=kept.append)
        monkeypatch.setattr(live, "display", lambda *o, h=handle, **with_id: h)
        watch._ipython_display_()
        assert "run this notebook cell in JupyterLab" in shown[-1].data
        assert len(shown) == 1 + stdin
    # What is saved with the notebook is the last answer.
    assert shown[0]["application/vnd.jupyter.widget-view+json"]["model_id"] == watch.widget.model_id
    for question in ("Where is baa dd?", "<b>"):
        watch.widget._asked(watch.widget, question, [])
        assert kept[-1].data.count("class='mathjax_ignore'") == 1
        assert html.escape(question) in kept[-1].data
        assert html.escape(watch.ask(question).result) in kept[-1].data


# The command


def contents(folder):
    paths = sorted(path for path in folder.rglob("*"))
    return {
        path: (
            path.stat().st_mtime_ns,
            path.is_file() and hashlib.sha256(path.read_bytes()).digest(),
        )
        for path in [folder, *paths]
    }


class Terminal(io.StringIO):
    def isatty(self):
        return True


def ask(run, *questions, stdin="", stdout=None):
    """Exit code and output of ``probekit ask``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.StringIO(stdin))
        patch.setattr(sys, "stdout", stdout or io.StringIO())
        return main(["ask", "--run-dir", str(run.path), *questions]), sys.stdout.getvalue()


def test_the_command_answers_as_predict_does_and_writes_nothing(run, lm, detector):
    before = contents(run.path)
    code, text = ask(run, "Where is Oslo?", "Where is Perth?")
    assert code == 0
    expected = detector.predict(lm, ["Where is Oslo?"], max_new_tokens=10).iloc[0]
    assert text.startswith("Where is Oslo?  (")
    assert f"P(error) of the whole answer: {expected['p_error']:.2f}, from" in text
    assert text.count("P(error) of the whole answer") == 2
    assert "\x1b" not in text
    assert contents(run.path) == before


def test_without_a_question_lines_are_read_to_the_end(run, capsys):
    code, text = ask(run, stdin="Where is Oslo?\n\n  Where is Perth?  \n")
    assert code == 0
    assert [line for line in text.splitlines() if line.startswith("Where")] == [
        line for line in text.splitlines() if re.match(r"Where is (Oslo|Perth)\?", line)
    ]
    assert text.count("P(error) of the whole answer") == 2
    code, text = ask(run, stdin="Oslo " * 2000 + "\nWhere is Perth?\n")
    assert code == 1  # but the next one is answered
    assert "more than the" in capsys.readouterr().err
    assert text.count("P(error) of the whole answer") == 1


def test_colours_are_for_terminals_that_want_them(run, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    _, plain = ask(run, "Where is Oslo?")
    _, coloured = ask(run, "Where is Oslo?", stdout=Terminal())
    assert "\x1b[38;5;16;48;5;" in coloured
    without = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    streamed, _, rest = without.partition("\n\n")
    assert rest == plain
    assert streamed == "⏎" + plain.splitlines()[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert ask(run, "Where is Oslo?", stdout=Terminal())[1] == plain


def test_ctrl_c_ends_it_in_order(run, monkeypatch, capsys):
    def interrupted(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(Watch, "show", interrupted)
    code, _ = ask(run, "Where is Oslo?")
    assert code == 130
    assert "Stopped. Nothing was written." in capsys.readouterr().err


def test_what_the_command_cannot_use_is_refused_before_the_model_is_loaded(
    run, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(live, "load_model_of", lambda *given, **options: 1 / 0)
    for options, words in [
        (["--error-rate", "3"], "error_rate must be"),
        (["--split", "answer"], "split"),
        (["--candidates", "nope"], "Shipped lists"),
    ]:
        assert ask(run, *options, "?")[0] == 1
        assert words in capsys.readouterr().err
    assert ask(pk.Run(tmp_path / "none"), "?")[0] == 1
    assert "no finished probe stage" in capsys.readouterr().err


@pytest.mark.model
def test_the_real_model_is_watched_as_it_is_predicted(smollm2, detector, monkeypatch):
    """Its exact answers are copied by the model itself; the probes are random ones of its size."""
    monkeypatch.setattr(shards, "point_to_answers", asking.point_to_answers)
    random = np.random.default_rng(0)
    shape = (30, len(TOKENS), 576)
    of_its_size = replace(
        detector,
        layers=np.arange(30),
        tokens=TOKENS,
        cells=np.ones(shape[:2], bool),
        probes={
            "coef": random.normal(size=shape, scale=0.05),
            "intercept": random.normal(size=shape[:2]),
            "prior": np.zeros(shape[:2]),
        },
        calibration=Calibration(1.0, 0.0),
        origin={"model": smollm2.name, "revision": smollm2.revision, "site": "mlp_out"},
    )
    told, asked = [], "In which country is the city of Palermo?"
    options = {"max_new_tokens": 16}
    answer = pk.watch(smollm2, of_its_size, **options).ask(asked, told.append)
    expected = of_its_size.predict(smollm2, [asked], **options).iloc[0]
    assert answer.p_error == pytest.approx(expected["p_error"], abs=1e-9)
    assert answer.row["exact_answer"] == expected["exact_answer"] == "Italy"
    _, activations = smollm2.answer([asked], **options)
    X = activations["activation"].to_numpy()[0]
    for name in TOKENS:
        p = answer.row["p_error"].get(name, np.nan)
        assert p == pytest.approx(reference(of_its_size, X, [name]), abs=1e-5, nan_ok=True), name
    assert told[-1].row["p_error"] == pytest.approx({n: answer.row["p_error"][n] for n in AT_ONCE})
