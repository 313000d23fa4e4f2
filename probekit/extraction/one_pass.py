"""Answer questions and store the activations of the named tokens, shard by shard.

A shard is a run of consecutive questions, answered on its own, and its activations are one file of
the store; so a run that was killed goes on with the first shard that is not there, and ends in the
same store as if nothing had happened.
"""

import hashlib
import io
import os
import re
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from tqdm import tqdm

from probekit import arguments
from probekit.extraction import asking, memory
from probekit.extraction.audit import with_doubts
from probekit.extraction.corrections import correct_answers, digest, read_corrections
from probekit.extraction.generation import WHOLE, examined
from probekit.extraction.models import LanguageModel
from probekit.extraction.preflight import advise
from probekit.extraction.shards import (
    Shard,
    Tally,
    answer_shard,
    fitting_batch,
    is_copied,
    say_again,
    shortest_alike,
    summary,
)
from probekit.extraction.sites import SITES, check_sites
from probekit.extraction.store import (
    SHARD,
    ActivationStore,
    attributes,
    claim,
    coordinates,
    first_day,
    mend,
    record,
)
from probekit.questions.candidates import Candidates
from probekit.questions.table import read_questions
from probekit.questions.text import fold
from probekit.run.directory import Run, store_name
from probekit.run.files import explained, no_links, reading, replacing, sha256
from probekit.run.lock import writing
from probekit.run.stopping import stoppable
from probekit.run.variables import described
from probekit.tokens import EXACT_ANSWER, MISSING, TOKENS

_AGAIN = "Run the same again, which makes only what is missing."
# Columns of a shard's answers: the model's own activations where the store holds a correction's.
_OWN = "own_activations_"
_GO_ON = "Whole shards of answers are kept: the same call goes on from there."


@arguments.plainly()
def extract(
    lm,
    questions,
    run,
    site="mlp_out",
    *,
    max_new_tokens=64,
    n_samples=1,
    temperature=0.0,
    top_p=1.0,
    seed=0,
    judge=None,
    p_true=False,
    corrections=None,
    batch_size=None,
    scheduler=None,
    progress=True,
):
    """Let a model answer questions, grade the answers, and store activations, in one pass.

    Writes ``answers.parquet`` and ``activations.zarr`` into the run directory, and the extract
    stage's manifest when all is there. A run that was interrupted goes on where it stopped. If
    prompts write today's date, they write that of the first call.

    Parameters
    ----------
    lm : LanguageModel
    questions : DataFrame
        From `read_questions`. Where a question has candidates, its exact answer is the first that
        the response answers with; where it has none, the model copies it from its response.
    run : Run
    site : str or sequence of str
        One or several of `SITES`, in a text with commas between; all are read in the same pass.
    max_new_tokens : int
        Longest response, in tokens.
    n_samples : int
        Answers to each question; more than one needs a temperature.
    temperature : float
        0 takes the likeliest token each time; above 0, tokens are drawn.
    top_p : float
        Draw from the likeliest tokens that together have this share.
    seed : int
        Random seed of the draws.
    judge : callable or LanguageModel, optional
        Grades instead of `grade`: ``judge(question, response, answers) -> bool``, or a model that
        is asked.
    p_true : bool
        Ask the model whether each of its responses is true: one more prompt for each.
    corrections : str, Path or DataFrame, optional
        What a person has put right: a CSV file with the columns ``id``, ``correct`` (true or false)
        and ``exact_answer`` (whole words of the response, of which the first place counts, or
        ``-`` for none). An empty cell leaves that as it is, and `correct` stays as it is where only
        the exact answer is changed. They may come and go: the same call with others, or without,
        changes a finished run, and asks nothing again; only for another exact answer the
        model reads its response once more.
    batch_size : int, optional
        Rows that advance together. By default as many as memory allows, at most 256 on a CPU; it
        is halved when memory runs out. A run that is continued keeps its batch size unless this
        one, or what memory allows now, is smaller: then the last bits of activations may differ
        from those of a run that was never interrupted.
    scheduler : str or distributed.Client, optional
        Address of a Dask scheduler, or its client: workers, which have to see the run directory,
        load the model and answer. Only on a network that you trust, see `probekit.cluster`.
    progress : bool
        Show a bar.

    Returns
    -------
    Run
        The same run, to be read from.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If an argument can't be used with this model, its chat template leaves questions out, the
        directory holds another run, another process is writing into it, corrections name an exact
        answer that is not in the response, or all answers are right or all are wrong.

    Examples
    --------
    >>> import probekit as pk
    >>> lm = pk.load_model("smollm2")
    >>> questions = pk.read_questions("capitals", limit=3)
    >>> run = pk.extract(lm, questions, pk.Run("data/runs/capitals"), progress=False)
    >>> run.answers()[["question", "exact_answer", "correct"]]
                                 question exact_answer  correct
    0        What is the capital of Mali?       KADAMA    False
    1  What is the capital of Bangladesh?        Dhaka     True
    2    What is the capital of Cambodia?   Phnom Penh     True
    """
    arguments.instance("lm", lm, LanguageModel, "from load_model")
    arguments.instance("run", run, Run, 'such as Run("data/runs/cities")')
    _check_questions(questions)
    sites = tuple(arguments.several_of("site", site, SITES))
    check_sites(lm.model, sites)
    max_new_tokens = arguments.whole("max_new_tokens", max_new_tokens, 1)
    n_samples = arguments.whole("n_samples", n_samples, 1, 10_000)
    temperature = arguments.temperature(temperature)
    top_p = arguments.number("top_p", top_p, 1e-6, 1)
    arguments.several_samples(n_samples, temperature)
    seed = arguments.seed(seed)
    if not (judge is None or callable(judge) or isinstance(judge, LanguageModel)):
        raise TypeError(
            "judge must be a function of a question, a response and its accepted answers, or a "
            f"LanguageModel, from load_model; got {arguments.shown(judge)}."
        )
    p_true = arguments.flag("p_true", p_true)
    if batch_size is not None:
        batch_size = arguments.whole("batch_size", batch_size, 1)
    arguments.flag("progress", progress)
    asked = _repeat(questions, n_samples)
    corrected = read_corrections(corrections, asked["id"])
    day = first_day(run)
    prompts = _prompts(lm, asked, day)
    _check_context(lm, asked, prompts, max_new_tokens, judge, p_true, day)
    with stoppable(_GO_ON), _workers(scheduler, lm, judge) as workers, writing(run.path):
        parameters = {
            "model": lm.name,
            "revision": lm.revision,
            "dtype": workers.dtype if workers else str(lm.model.dtype),
            "questions": _fingerprint(questions),
            "n_questions": len(questions),
            "sites": list(sites),
            "max_new_tokens": max_new_tokens,
            "n_samples": n_samples,
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed,
            "judge": getattr(judge, "name", None) or getattr(judge, "__name__", None),
            "p_true": p_true,
        }
        if day and any(m.writes_date for m in (lm, judge) if isinstance(m, LanguageModel)):
            parameters["day"] = day
        claimed = claim(run, parameters)
        damaged = mend(run)
        if claimed and damaged == []:  # nothing is to be answered
            batch_size = claimed["batch_size"]
        else:
            fitting = workers.fitting_batch if workers else partial(fitting_batch, lm)
            sizes = max(map(len, prompts)), max_new_tokens, len(sites)
            batch_size = _batch_size(claimed, batch_size or fitting(*sizes), batch_size)
            # Before any question: a model that can't be answered or read right is refused.
            if workers:
                workers.check(sites)
            else:
                found = examined(lm, prompts, asked["id"].tolist())
                found.refuse(sites)
                if found.way == WHOLE:
                    arguments.say(
                        f"{found.name} can't be answered in a batch with a cache here: each token "
                        "is computed from the whole text, which is right, but slow."
                    )
                if isinstance(judge, LanguageModel):
                    examined(judge).refuse()
        settled = False
        if damaged == []:
            settled = run.manifest("extract")["results"].get("corrections") == digest(corrected)
            if not settled:  # what is refused is refused while the run is still finished
                correct_answers(lm, run.answers(), asked, corrected)
        files = list(questions.attrs.get("files", ()))
        if not isinstance(corrections, pd.DataFrame) and not arguments.absent(corrections):
            files.append(corrections)
        stage = run.begin("extract", parameters, inputs=files)
        work = _Extraction(
            lm, asked, prompts, run, sites, parameters, batch_size, judge, workers, corrected
        )
        work.record(at_work=True)
        try:
            answers = work.run(damaged, settled, progress)
        except BaseException:
            # It was not killed. An error that this makes too is the lesser one.
            with suppress(OSError, ValueError):
                work.record(at_work=False)
            raise
        work.record(at_work=False)
        check_two_classes(answers, parameters, asked["candidates"])
        stage.finish(
            [run.path / "answers.parquet", *(store.path for store in work.stores.values())],
            sites=list(sites),
            n_examples=len(answers),
            n_correct=int(answers["correct"].sum()),
            n_without_exact_answer=int((answers["exact_answer"] == "").sum()),
            n_unfinished=int((~answers["finished"]).sum()),
            n_refusals=int(answers["refusal"].sum()),
            n_corrected=int(answers["corrected"].sum()) if "corrected" in answers else 0,
            corrections=digest(corrected),
            device=workers.device if workers else str(lm.device),
            batch_size=work.batch_size,
        )
    return run


def typed_questions(texts, candidates=None):
    """A table of questions whose answers nobody knows, perhaps with a list of candidates."""
    # The accepted answer holds a place: a table without one isn't read.
    asked = pd.DataFrame({"question": texts, "answers": "-"})
    if candidates is not None:
        asked["candidates"] = candidates
    read = read_questions(asked, kind="text")
    return read.assign(answers=[[]] * len(read))


def answer_in_memory(
    lm,
    questions,
    site="mlp_out",
    max_new_tokens=64,
    temperature=0.0,
    top_p=1.0,
    seed=0,
    batch_size=None,
    on_token=None,
):
    """What `LanguageModel.answer` gives: as a run's answers and activations, without a run.

    `on_token` is called as `generate` says; its index counts the questions of a shard.
    """
    if not isinstance(questions, pd.DataFrame):
        questions = typed_questions(arguments.texts("questions", questions))
    _check_questions(questions)
    sites = (arguments.text("site", site, such_as="mlp_out"),)
    check_sites(lm.model, sites)
    max_new_tokens = arguments.whole("max_new_tokens", max_new_tokens, 1)
    parameters = {
        "max_new_tokens": max_new_tokens,
        "temperature": arguments.temperature(temperature),
        "top_p": arguments.number("top_p", top_p, 1e-6, 1),
        "seed": arguments.seed(seed),
        "p_true": False,
        "day": date.today().isoformat(),
    }
    if batch_size is not None:
        batch_size = arguments.whole("batch_size", batch_size, 1)
    if lm.device.type == "meta":
        raise ValueError(
            "The model has no weights: it was loaded with weights=False. Load it without that."
        )
    asked = _repeat(questions, 1)
    prompts = _prompts(lm, asked, parameters["day"])
    _check_context(lm, asked, prompts, max_new_tokens, None, False, parameters["day"])
    if batch_size is None:
        batch_size = fitting_batch(lm, max(map(len, prompts)), max_new_tokens)
    examined(lm, prompts, asked["id"].tolist()).refuse(sites)
    parts, values, alike = [], [], shortest_alike(prompts)
    for members in _ranges(len(prompts)):
        here = slice(members.start, members.stop)
        shard = Shard(members, asked.iloc[here], prompts[here], alike, sites, parameters)
        rows, activations, batch_size = answer_shard(lm, shard, batch_size, on_token=on_token)
        parts.append(rows)
        values.append(activations[site])
    uncorrected = read_corrections(None, asked["id"])
    answers = correct_answers(lm, pd.concat(parts, ignore_index=True), asked, uncorrected)
    if not all(asked["answers"]):
        answers = answers.drop(columns=["correct", "graded"])
    values = np.concatenate(values)
    about = _about(lm, asked, site)
    dataset = xr.Dataset(
        {"activation": (("example", "layer", "token", "feature"), values)},
        coordinates(answers, values.shape[1], object),
        attributes(about, values.dtype),
    )
    # As a file gives them, where lists are arrays.
    table = pd.read_parquet(io.BytesIO(answers.to_parquet(index=False)))
    return table, described(dataset)


def _about(lm, questions, site):
    """What activations are of, as their attributes say it."""
    files = questions.attrs.get("files")
    named = {"questions": Path(files[0]).stem} if files else {}
    return {"model": lm.name, "revision": lm.revision, "site": site} | named


def _batch_size(claimed, possible, given):
    """Batch size of a run: where it goes on, the size that it had, if memory allows.

    A process that the system kills for lack of memory can't halve its batches, so the next one
    does: but only if the system has counted such a death since, in our control group where there
    is one, as smaller batches change the last bits of activations.
    """
    if claimed is None:
        return possible
    before = size = claimed["batch_size"]
    if memory.ran_out(claimed["deaths"]):
        size = min(max(1, size // 2), possible)
        why = "Memory ran out the last time"
    else:
        size = min(size, possible)
        why = "There is less memory than when this run began"
    if size < before and size != given:
        arguments.say(f"{why}: going on with batches of {size} instead of {before}.")
    return size


@contextmanager
def _workers(scheduler, lm, judge):
    """The cluster's workers, or None where there is no cluster."""
    if arguments.absent(scheduler):
        if lm.device.type == "meta":
            raise ValueError(
                "lm has no weights: it was loaded with weights=False, for a cluster. Give "
                "scheduler=, or load it whole."
            )
        yield None
        return
    from probekit.cluster import connected
    from probekit.extraction.workers import Workers

    with connected(scheduler) as client:
        yield Workers(client, lm, judge)


def check_two_classes(answers, parameters, candidates=()):
    """Refuse answers that are all right or all wrong: there is nothing to tell apart."""
    if answers["correct"].nunique() > 1:
        return
    lists = {each.path.name if each.path else each.name: each for each in candidates if each}
    verdict = "right" if answers["correct"].iloc[0] else "wrong"
    causes = "\n".join(f"- {each}" for each in advise(with_doubts(answers), parameters, lists))
    # They come last and are short: where a message is too long, its middle is left out.
    examples = "\n".join(
        f"  {_begun(row.question)}  ->  {_begun(repr(row.response.strip()))}"
        for row in answers.head(3).itertuples()
    )
    raise ValueError(
        f"All {len(answers)} answers are {verdict}, so there is nothing to tell apart. What stands "
        f"in the way:\n{causes}\nSee whether they are graded fairly. Graded {verdict} were:\n"
        f"{examples}"
    )


def _begun(text, longest=45):
    """How a text begins, as it may be printed."""
    text = arguments.visible(text, 100_000)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _check_questions(questions):
    """Refuse what is not from `read_questions`."""
    arguments.instance("questions", questions, pd.DataFrame, "from read_questions")
    how = "Read them with read_questions, which takes a DataFrame too."
    kinds = {
        "id": (str, "text"),
        "question": (str, "text"),
        "answers": (list, "lists of accepted answers"),
        "candidates": (Candidates | None, "what read_questions made of them"),
        "kind": (str, "kinds of answers"),
        "choices": (list | None, "lists of options, or None"),
        "group": (str, "text"),
    }
    for name, (kind, what) in kinds.items():
        if name not in questions:
            raise ValueError(f"The questions have no column {name!r}. {how}")
        for cell in questions[name]:
            if not isinstance(cell, kind):
                raise ValueError(
                    f"The questions' column {name!r} must hold {what}, but {arguments.shown(cell)} "
                    f"is in it. {how}"
                )
    if not len(questions):
        raise ValueError("There is no question: the table is empty.")
    if not questions["id"].is_unique:
        raise ValueError("The questions' ids are not unique. Give every question one of its own.")


def _prompts(lm, asked, day):
    """Token ids of the questions' prompts, whose texts are put beside the questions."""
    asked["prompt"] = [lm.prompt(question, day) for question in asked["question"]]
    prompts = [lm.tokenize(prompt) for prompt in asked["prompt"]]
    _check_distinct(asked["question"], prompts)
    return prompts


def _check_distinct(questions, prompts):
    """Refuse prompts that are the same for different questions, which a model cannot tell apart."""
    asked = {}
    for question, prompt in zip(questions, prompts, strict=True):
        other = asked.setdefault(tuple(prompt), question)
        # A tokenizer may take letters without their case and accents, a template cut spaces off.
        one, two = (" ".join(fold(text)[0].casefold().split()) for text in (other, question))
        if one != two:
            raise ValueError(
                f"The questions {arguments.shown(other)} and {arguments.shown(question)} are one "
                "and the same prompt in this model's tokens, so it cannot tell them apart. Ask in "
                "words that it knows, or use another model."
            )


def _check_context(lm, questions, prompts, max_new_tokens, judge, p_true, day):
    """Refuse questions that do not fit a model's context, before any work.

    Of the prompts that show a response to a model, only those of the longest questions are tried.
    """
    room = _context(lm)
    for identity, prompt in zip(questions["id"], prompts, strict=True):
        if not prompt:
            raise ValueError(f"Question {identity} has no token in this model.")
        if room and len(prompt) + max_new_tokens > room:
            raise ValueError(
                f"Question {identity} takes {len(prompt)} tokens; with max_new_tokens="
                f"{max_new_tokens} that is more than the model's context of {room}. Shorten the "
                "question or lower max_new_tokens."
            )
    everyone = range(len(prompts))
    unlisted = [i for i in everyone if is_copied(questions.iloc[i])]
    copying = asking.longest_copying_prompt
    asking_again = partial(asking.longest_prompt, day=day)
    for shown_to, members, longest, purpose, way_out in (
        (lm, unlisted, copying, "to copy its exact answer", "Give it candidates"),
        (lm, everyone if p_true else (), asking_again, "to ask for P(True)", "Leave p_true out"),
        (judge, everyone, asking_again, "to judge its response", "Take another judge"),
    ):
        if not members or not isinstance(shown_to, LanguageModel):
            continue
        row = questions.iloc[max(members, key=lambda i: len(prompts[i]))]
        length = longest(shown_to, row, max_new_tokens)
        room = _context(shown_to)
        if room and length > room:
            raise ValueError(
                f"Question {row['id']} takes up to {length} tokens {purpose}; that is more than "
                f"the context of {room} of {shown_to.name}. {way_out}, shorten the question or "
                "lower max_new_tokens."
            )


def _context(lm):
    """Tokens that a model can read at once, or None if it doesn't say.

    Where it computes in another way from some length on, that length: a cache that was made before
    does not fit what comes after, and one long text in a batch would change the others.
    """
    config = lm.model.config.get_text_config(decoder=True)
    rope = getattr(config, "rope_parameters", None) or {}
    limits = [getattr(config, "max_position_embeddings", None)]
    if rope.get("rope_type") in ("longrope", "dynamic"):
        name = "original_max_position_embeddings"
        limits.append(rope.get(name) or getattr(config, name, None))
    if getattr(config, "attn_temperature_tuning", False):  # Llama 4
        limits.append(getattr(config, "floor_scale", None))
    limits.append(getattr(config, "keep_window_size", None))  # Doge
    return min((limit for limit in limits if limit), default=None)


def _repeat(questions, n_samples):
    """Every question as often as it is asked, its ids numbered if more than once."""
    repeated = questions.iloc[np.repeat(np.arange(len(questions)), n_samples)]
    repeated = repeated.reset_index(drop=True)
    repeated["sample"] = np.tile(np.arange(n_samples), len(questions))
    if n_samples > 1:
        repeated["id"] += "/" + repeated["sample"].astype(str)
    return repeated


def _fingerprint(questions):
    """Hash of all that is asked and accepted."""
    columns = ["id", "question", "answers"]
    if {*questions["kind"]} != {"text"}:
        columns += ["kind", "choices"]
    rows = questions[columns].to_json(orient="values", force_ascii=False)
    lists = sorted({c.sha256 for c in questions["candidates"] if c is not None})
    return hashlib.sha256((rows + "".join(lists)).encode()).hexdigest()


def _ranges(n):
    """Ranges of n questions that are worked on and stored as one."""
    return [range(start, min(start + SHARD, n)) for start in range(0, n, SHARD)]


@dataclass
class _Extraction:
    """One run's extraction: what is asked, of whom, and where it goes."""

    lm: LanguageModel
    questions: pd.DataFrame
    prompts: list
    where: Run
    sites: tuple
    parameters: dict
    batch_size: int
    judge: object
    workers: object
    corrections: pd.DataFrame

    @cached_property
    def stores(self):
        """{site: store}."""
        n, stores = len(self.prompts), {}
        for site in self.sites:
            path = self.where.path / store_name(site, self.sites)
            about = _about(self.lm, self.questions, site)
            stores[site] = ActivationStore(path, n, min(SHARD, n), about)
        return stores

    @cached_property
    def shards(self):
        """Ranges of questions that are worked on and stored as one."""
        return _ranges(len(self.prompts))

    def record(self, at_work):
        """Write down the batch size in use, for the process that continues this run."""
        deaths = memory.deaths() if at_work and not self.workers else None
        record(self.where, self.parameters, self.batch_size, deaths)

    def run(self, damaged, settled, progress):
        """Go through the shards that are not there yet, then put everything together.

        Nothing is done if the run is `settled`: whole, and with these corrections.
        """
        table = self.where.path / "answers.parquet"
        if not settled:
            self._go_through(damaged is not None, progress)
            parts = map(self._read_part, range(len(self.shards)))
            own = pd.concat([p.filter(regex=f"^(?!{_OWN})") for p in parts], ignore_index=True)
            answers = correct_answers(self.lm, own, self.questions, self.corrections)
            for number in range(len(self.shards)):
                self._read_elsewhere(number, own, answers)
            del own
            for store in self.stores.values():
                store.name_coordinates(answers)
            with replacing(table) as temporary:
                answers.to_parquet(temporary, index=False)
            del answers  # memory for one table is enough
        with reading(table):
            answers = pd.read_parquet(table)
        if answers["id"].tolist() != self.questions["id"].tolist():
            raise ValueError(
                f"{table} does not hold the answers to this run's {len(self.questions)} questions. "
                "Give another run directory, or delete this one."
            )
        # Whatever happened meanwhile: no manifest is written of a run that lacks something.
        for store in self.stores.values():
            store.check(answers)
        return answers

    @property
    def _parts(self):
        return self.where.path / "shards"

    def _left(self, pattern):
        """Paths in the folder of the shards' answers with such names; no link may be in it."""
        if not no_links(self._parts, self.where.path):
            return []
        with reading(self._parts):  # unlike a glob, which passes over what it can't see
            paths = [self._parts / name for name in sorted(os.listdir(self._parts))]
        there = [path for path in paths if no_links(path, self.where.path)]
        return [path for path in there if re.fullmatch(pattern, path.name)]

    def _part(self, number):
        """Path of a shard's answers if they are there and undamaged: their hash is in the name.

        They stay, as a second copy of the table: only asking everything again could replace it.
        """
        copies = self._left(f"{number:05d}-.*[.]parquet")
        return next((path for path in copies if path.stem.endswith(sha256(path))), None)

    def _read_part(self, number):
        path = self._part(number)
        if path is None:
            raise ValueError(
                f"The answers of shard {number} are no longer in {self._parts}, though they were "
                f"written: something else wrote or deleted there meanwhile. {_AGAIN}"
            )
        with reading(path):
            rows = pd.read_parquet(path)
        asked = self.questions["id"].iloc[self.shards[number]].tolist()
        if not {"id", "correct"} <= {*rows} or rows["id"].tolist() != asked:
            raise ValueError(
                f"{path} does not hold the answers to this run's questions {asked[0]} to "
                f"{asked[-1]}. Delete it, then run the same again; or give another run directory."
            )
        # Shards that an earlier version answered lack what has been added since. Of doubts `audit`
        # finds out.
        added = {"group": "", "kind": "text"}
        return rows.assign(**{name: v for name, v in added.items() if name not in rows})

    def _write_part(self, number, rows):
        content = rows.to_parquet(index=False)
        path = self._parts / f"{number:05d}-{hashlib.sha256(content).hexdigest()}.parquet"
        no_links(self._parts, self.where.path)
        with replacing(path) as temporary:
            temporary.write_bytes(content)
        for other in self._left(f"{number:05d}-.*[.]parquet"):
            if other != path:
                with explained(other):
                    other.unlink()

    def _go_through(self, checked, progress):
        for left in self._left("by-workers-.*"):  # of a driver that was killed
            with explained(left):
                shutil.rmtree(left)
        for store in self.stores.values():
            store.settle()
        total = len(self.prompts)
        with tqdm(total=total, desc="Answering", unit="question", disable=not progress) as bar:
            tally = Tally(bar)
            waiting, earlier, alike = {}, False, shortest_alike(self.prompts)
            for number, members in enumerate(self.shards):
                if self._part(number) and all(
                    store.has(number) if checked else store.is_intact(number)
                    for store in self.stores.values()
                ):
                    rows = self._read_part(number)
                    earlier = earlier or not {"doubt", "answer_entropy_mean"} <= {*rows}
                    for correct in rows["correct"]:
                        tally.add(correct)
                    continue
                here = slice(members.start, members.stop)
                asked = self.questions.iloc[here]
                waiting[number] = Shard(
                    members, asked, self.prompts[here], alike, self.sites, self.parameters
                )
            if earlier and waiting:
                raise ValueError(
                    f"Some answers in {self._parts} are of an earlier version, which graded by "
                    "other rules or kept fewer numbers: the rest can't be answered beside them. "
                    "Give another run directory."
                )
            if self.workers:
                work = self.stores, self.batch_size, tally, self._parts
                answered = self.workers.answers(waiting, *work)
            else:
                answered = self._answers(waiting, tally)
            for number, rows, self.batch_size in answered:
                # Activations first, answers last, since they say that the shard is there. To read
                # it once more before takes a sixtieth of the time that answering took.
                for store in self.stores.values():
                    if not store.is_intact(number):
                        raise ValueError(
                            f"Shard {number} of {store.path} can't be read back as it was written: "
                            f"something else wrote there meanwhile, or the disk is faulty. {_AGAIN}"
                        )
                self._write_part(number, rows)

    def _read_elsewhere(self, number, own, answers):
        """Take the exact answers' activations of a shard from where a person found these answers.

        What the store holds of the model's own is kept in the shard's answers before it is
        replaced, so that it can be put back, whenever a run is killed.
        """
        members, part = self.shards[number], self._read_part(number)
        before, now = ([list(table["positions"][i]) for i in members] for table in (own, answers))
        moved = [i for i in range(len(part)) if before[i] != now[i]]
        replaced = [name for name in part if name.startswith(_OWN)]
        if not moved and not replaced:
            return
        positions, read = [now[i] for i in moved], []
        if moved:
            prompts = [self.lm.tokenize(part["prompt"][i]) for i in moved]
            responses = [list(part["token_ids"][i]) for i in moved]
            again = self.workers.say_again if self.workers else partial(say_again, self.lm)
            read = again(prompts, responses, positions, self.sites, self.batch_size)
        for i, at, (spoken, _) in zip(moved, positions, read, strict=True):
            first, last = (at[TOKENS.index(f"exact_answer_{end}")] for end in ("first", "last"))
            for name, numbers in spoken.items():
                said = numbers[first : last + 1] if first != MISSING else ()
                for column, value in summary(name, said).items():
                    if column in answers:  # older runs have no entropies
                        answers.at[members[i], column] = value
        for site, store in self.stores.items():
            values = store.read(members)
            kept = list(part[_OWN + site]) if _OWN + site in part else [None] * len(part)
            for i in range(len(part)):
                models = values[i][:, EXACT_ANSWER]
                if kept[i] is not None:
                    if not isinstance(kept[i], bytes) or len(kept[i]) != 4 * models.size:
                        raise ValueError(
                            f"{self._part(number)} holds what are not the activations of this "
                            "run. Delete it, then run the same again."
                        )
                    models[:] = np.frombuffer(kept[i], np.float32).reshape(models.shape)
                elif i in moved:
                    kept[i] = models.astype(np.float32).tobytes()
            part[_OWN + site] = kept
            self._write_part(number, part)
            for i, (_, activations) in zip(moved, read, strict=True):
                values = values.astype(np.result_type(values, activations[site]), copy=False)
                values[i][:, EXACT_ANSWER] = activations[site]
            store.write(members, values)
        if not moved:  # all is the model's own again
            self._write_part(number, part.drop(columns=replaced))

    def _answers(self, shards, tally):
        def halved(batch_size):
            self.batch_size = batch_size
            self.record(at_work=True)

        for number, shard in shards.items():
            rows, activations, batch_size = answer_shard(
                self.lm, shard, self.batch_size, self.judge, tally, halved
            )
            for site, values in activations.items():
                self.stores[site].write(shard.members, values)
            yield number, rows, batch_size
