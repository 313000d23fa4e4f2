"""Ask a model a question, and watch a detector read its answer while it is made.

Each named token has the colour of its own P(error) as soon as it is known which token it is: the
prompt's last one and the answer's first two at once; the exact answer and those that are counted
from the end when the answer has ended. All comes from the one pass that makes the answer, and the
last word is `Detector.predict`'s.
"""

import html
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import xarray as xr
from IPython.display import display

from probekit import arguments
from probekit.extraction.models import LanguageModel, load_model_of
from probekit.extraction.one_pass import answer_in_memory, typed_questions
from probekit.extraction.responses import TokenView, heading, token_view
from probekit.probing.detection import Detector, percent
from probekit.run.directory import Run
from probekit.tokens import TOKENS, decode

#: Tokens that are known to be these while the answer is made, in the order in which they come.
AT_ONCE = TOKENS[:3]
# What may still become a named token.
_TO_COME = "rgba(128, 128, 128, 0.18)"


def watch(lm, detector, *, candidates=None, error_rate=0.2, max_new_tokens=64):
    """Type questions, and watch the answers arrive in the colours of P(error).

    Parameters
    ----------
    lm : LanguageModel
        The model that the detector was made with, from `load_model`.
    detector : Detector
        From `detector` or `Run.detector`.
    candidates : str, optional
        Name of a shipped list of things that an answer could name, such as ``"countries"``: the
        exact answer is then the first that is named. By default the model copies it from its
        response, as for `Detector.predict` with questions alone. If the detector's run had such a
        list, and the questions are of the same kind, give it.
    error_rate : float
        Highest share of wrong answers among those that would be given, for
        `Detector.threshold`.
    max_new_tokens : int
        Longest response, in tokens.

    Returns
    -------
    Watch
        As the last line of a notebook cell it shows a field for questions in JupyterLab, and the
        last answer where the saved notebook is read without a kernel;
        ``watch(...).ask(question)`` answers one anywhere.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind, no such list is there, or the detector has no probes
        or is of another model.

    Examples
    --------
    >>> import probekit as pk
    >>> run = pk.Run("data/examples/cities")
    >>> lm = pk.load_model_of(run)
    >>> detector = run.detector("random")
    >>> watch = pk.watch(lm, detector, candidates="countries", error_rate=0.4)
    >>> watch.ask("In which country is the city of Lyon?")
    In which country is the city of Lyon?  (exact answer: French)
    The city of Lyon is located in the French region of Toulouse.
      '⏎'               last_q: 0.27
      ' French'         exact_answer_first: 0.05
      '.'               -1: 0.28
    P(error) of the whole answer: 0.17, from 3 named tokens. It would be given: that
    is at most 0.67, the threshold for an error rate of at most 40% with 95%
    confidence, on questions like those that the detector was tested on.
    """
    arguments.instance("lm", lm, LanguageModel, "from load_model")
    arguments.instance("detector", detector, Detector, "from pk.detector or run.detector()")
    max_new_tokens = arguments.whole("max_new_tokens", max_new_tokens, 1)
    threshold = _threshold(detector, candidates, error_rate)
    detector._check("lm is", {"model": lm.name, "revision": lm.revision})
    return Watch(lm, detector, candidates, threshold, max_new_tokens)


def _threshold(detector, candidates, error_rate):
    """Threshold of a detector, once it is checked that it has probes and there is such a list."""
    if candidates is not None:
        arguments.text("candidates", candidates, such_as="countries")
        typed_questions(["?"], candidates)
    threshold = detector.threshold(error_rate)
    detector._check("lm is", {})
    return threshold


def watch_run(path, split=None, **options):
    """`watch` with the model and the detector of a run, answering as long as its responses were."""
    run = Run(path)
    detector = run.detector(split)
    _threshold(detector, **options)  # what is refused is refused before the model is loaded
    asked = run.manifest("extract")["parameters"]
    if "max_new_tokens" not in asked:
        raise ValueError(
            f"The extract stage of {run.path} does not say what its max_new_tokens was. Run the "
            "extract stage again: probekit run, or its notebook."
        )
    lm = load_model_of(run)
    return watch(lm, detector, max_new_tokens=asked["max_new_tokens"], **options)


@dataclass(frozen=True)
class LiveAnswer:
    """A question and what has been said and read so far, or in the end all of it.

    A notebook shows it as HTML; ``print`` gives plain text.
    """

    row: dict
    """As a row of `TokenView`: `question`, `exact_answer`, `tokens`, and `p_error` of the named
    tokens that are known, each from the detector's cells of that token alone."""
    p_error: float
    """Of all these cells together: provisional until it has ended, then `Detector.predict`'s."""
    verdict: str
    """What the threshold says of it; empty until it has ended."""

    @property
    def ended(self):
        """Whether the answer is complete."""
        return bool(self.verdict)

    @property
    def result(self):
        """P(error) of the whole answer, and what follows from it, in words."""
        n = len(self.row["p_error"])
        read = f"from {n} named token{'s' * (n != 1)}"
        if np.isnan(self.p_error):
            return f"P(error) is not known. {self.verdict}".strip()
        if not self.ended:
            return f"P(error) so far: {self.p_error:.2f}, {read}. It is provisional."
        return f"P(error) of the whole answer: {self.p_error:.2f}, {read}. {self.verdict}"

    def __repr__(self):
        return self.text()

    def text(self, colour=False):
        """Question, response, a line for each named token, and the result; in colours or not."""
        tokens, known = self.row["tokens"], self.row["p_error"]
        response = range(1, len(tokens))
        if colour:
            said = "".join(_in_colour(self.row, i) for i in response)
        else:
            said = arguments.visible("".join(tokens[i][0] for i in response), longest=100_000)
        lines = [arguments.visible(heading(self.row)), said if said.strip() else "(nothing)"]
        for text, names in tokens:
            labels = [f"{name}: {known[name]:.2f}" for name in names if name in known]
            if labels:
                lines.append(f"  {arguments.visible(repr(text)):<16}  {', '.join(labels)}")
        return "\n".join([*lines, self.result])

    def _repr_html_(self):
        return f"{TokenView([self.row])._repr_html_()}<div>{html.escape(self.result)}</div>"


class Watch:
    """A model and a detector that reads its answers. Made by `watch`."""

    def __init__(self, lm, detector, candidates, threshold, max_new_tokens):
        self.lm, self.detector, self.candidates = lm, detector, candidates
        self.threshold, self.max_new_tokens = threshold, max_new_tokens
        self._widget = None

    def __repr__(self):
        return f"Watch of {arguments.visible(self.lm.name)}, by a {self.detector!r}"

    def ask(self, question, tell=None):
        """Answer one question.

        Parameters
        ----------
        question : str
        tell : callable, optional
            Called with a `LiveAnswer` after every token.

        Returns
        -------
        LiveAnswer

        Raises
        ------
        TypeError, ValueError
            If the question is not a text, is empty or is too long for the model.
        """
        arguments.text("question", question, such_as="In which country is Oslo?")
        asked = typed_questions([question], self.candidates)
        site = self.detector.origin.get("site", "mlp_out")
        on_token = tell and _Arriving(self, question, site, tell)
        answers, activations = answer_in_memory(
            self.lm, asked, site, self.max_new_tokens, on_token=on_token
        )
        whole, alone = self._scores(activations)
        answer = answers.iloc[0]
        verdict = self._verdict(whole, answer["exact_answer"], answer["finished"])
        coords = {"token": [*alone], "id": ("example", answers["id"].to_numpy())}
        scores = xr.DataArray([[*alone.values()]], coords, ("example", "token"))
        return LiveAnswer(token_view(answers, scores).rows[0], whole, verdict)

    def _scores(self, activations):
        """P(error) of one answer: from all its cells, and {token: P(error)} from each token's.

        The detector's map was fitted to means over all cells. Of one token's it makes a number of
        the same scale, which is not calibrated by itself.
        """
        array = activations["activation"].transpose("example", "layer", "token", "feature")
        names = [str(name) for name in array["token"].to_numpy()]
        # As so many answers: one has all tokens, each other one of them.
        values = np.repeat(array.to_numpy(), 1 + len(names), 0)
        for i in range(len(names)):
            values[1 + i, :, np.arange(len(names)) != i] = np.nan
        coords = {name: array[name] for name in ("layer", "token")}
        each = xr.Dataset({"activation": (array.dims, values)}, coords, activations.attrs)
        whole, *alone = self.detector(each).to_numpy().tolist()
        return whole, dict(zip(names, alone, strict=True))

    def _verdict(self, p, exact_answer, finished):
        """What the threshold says of an answer that has ended."""
        limit = self.threshold
        if np.isnan(p):
            return "The response has none of the tokens that the detector reads."
        cut = "" if finished else " The response was cut short, at its longest."
        if not exact_answer:
            return (
                "No exact answer was found in the response, and the detector was only tested on "
                f"responses that have one: no threshold holds for it.{cut}"
            )
        if np.isnan(limit.p_error):
            return f"{limit}{cut}"
        given = "given: that is at most" if p <= limit.p_error else "withheld: that is above"
        # As many digits as it takes to tell it from the P(error) beside it.
        alike = (n for n in range(2, 17) if f"{p:.{n}f}" != f"{limit.p_error:.{n}f}")
        digits = 2 if p == limit.p_error else next(alike, 2)
        return (
            f"It would be {given} {limit.p_error:.{digits}f}, the threshold for an error rate of "
            f"at most {percent(limit.target)} with {percent(limit.confidence)} confidence, on "
            f"questions like those that the detector was tested on.{cut}"
        )

    def show(self, question, stream, colour):
        """Answer one question on a terminal or in a file: as it arrives where there is `colour`.

        Parameters
        ----------
        question : str
        stream : file
            Open for text.
        colour : bool
            Whether it is a terminal that shows colours. Without, only numbers are written.
        """
        written = 0

        def write(row, to):
            nonlocal written
            stream.write("".join(_in_colour(row, i) for i in range(written, to)))
            stream.flush()
            written = to

        # A token's own number comes with the next token.
        tell = (lambda answer: write(answer.row, len(answer.row["tokens"]) - 1)) if colour else None
        answer = self.ask(question, tell)
        if colour:
            write(answer.row, len(answer.row["tokens"]))
            stream.write("\n\n")
        stream.write(f"{answer.text(colour)}\n\n")
        stream.flush()

    @property
    def widget(self):
        """The field and what it shows, as a widget, made when it is first asked for."""
        if self._widget is None:
            # Imported here: who wants no widgets does not wait for their packages.
            from probekit.interpretation.widgets import QuestionField

            self._widget = QuestionField(self.ask)
        return self._widget

    def _ipython_display_(self):
        from probekit.interpretation.widgets import show, still

        if not show(self, "To ask the model a question, run this notebook cell in JupyterLab."):
            return
        kept = display(still(""), display_id=True)

        def keep(change):
            """Have the last answer in the notebook when it is saved."""
            if not change["new"]:
                result = html.escape(self.widget.result)
                kept.update(still(f"{self.widget.answer}<div>{result}</div>"))

        self.widget.observe(keep, "busy")


class _Arriving:
    """A response in the making: what is read and said of it so far."""

    def __init__(self, watch, question, site, tell):
        self.watch, self.question, self.site, self.tell = watch, question, site, tell
        self.read, self.p_error, self.known = None, np.nan, {}
        self.text, self.starts = "", []

    def __call__(self, index, token_ids, activations):
        self._read(len(token_ids) - 1, activations[self.site])
        self.starts.append(len(self.text))
        # Part of a character is shown with the token that completes it.
        self.text = decode(self.watch.lm.tokenizer, token_ids).rstrip("\N{REPLACEMENT CHARACTER}")
        texts = ["⏎", *(self.text[a:b] for a, b in pairwise([*self.starts, len(self.text)]))]
        named = [[name] for name in AT_ONCE] + [[]] * len(texts)
        row = {
            "question": self.question,
            "verdict": "",
            "exact_answer": None,
            "tokens": [*zip(texts, named, strict=False)],
            "p_error": self.known,
            "chosen": None,
            "unscored": _TO_COME,
        }
        self.tell(LiveAnswer(row, self.p_error, ""))

    def _read(self, step, values):
        """Take in the activations (layer, feature) of the token before the one chosen."""
        if step >= len(AT_ONCE):
            return
        if self.read is None:
            shape = (1, len(values), len(TOKENS), values.shape[1])
            self.read = np.full(shape, np.nan, np.float32)
        self.read[0, :, TOKENS.index(AT_ONCE[step])] = values
        dims = ("example", "layer", "token", "feature")
        coords = {"layer": range(len(values)), "token": [*TOKENS]}
        self.p_error, alone = self.watch._scores(
            xr.Dataset({"activation": (dims, self.read)}, coords)
        )
        self.known = {name: p for name, p in alone.items() if np.isfinite(p)}


# Of a terminal of 256 colours, from blue by white to orange, all light enough for black text.
_RAMP = 75, 117, 153, 255, 223, 216, 208


def _in_colour(row, i):
    """One token with the escape codes of its colour; what it says can't bring any of its own."""
    text, names = row["tokens"][i]
    text = arguments.visible(text)
    known = [row["p_error"][name] for name in names if name in row["p_error"]]
    if not known:
        return text
    code = _RAMP[min(int(known[0] * len(_RAMP)), len(_RAMP) - 1)]
    return f"\x1b[38;5;16;48;5;{code}m{text}\x1b[0m"
