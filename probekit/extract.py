"""Answer questions and store the activations of the named tokens, shard by shard.

A shard is a run of consecutive questions. It is generated on its own, in an order that depends on
nothing outside it, and its activations are one file of the store; so a run that was killed goes on
with the first shard that is not there, and ends in the same store as if nothing had happened.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr
import zarr
from tqdm import tqdm
from zarr.codecs import Crc32cCodec

from probekit.answers import find_span, grade, is_refusal, normalize
from probekit.generation import CachedPrefix, generate
from probekit.runs import replacing, store_name, write_json
from probekit.sites import check_sites
from probekit.tokens import MISSING, TOKENS, decode_with_offsets, span_tokens, token_positions

SCHEMA_VERSION = 1

# What of the answers stands beside the activations, besides whether they are correct.
_TEXT_COORDS = ("id", "exact_answer", "answer")

# Questions a shard: enough to keep a batch full most of the time, and little to lose.
_SHARD = 256


def extract(
    lm,
    questions,
    run,
    site="mlp_out",
    *,
    max_new_tokens=64,
    batch_size=None,
    progress=True,
):
    """Let a model answer questions, grade the answers, and store activations, in one pass.

    Writes ``answers.parquet`` and ``activations.zarr`` into the run directory, and the extract
    stage's manifest when all is there. A run that was interrupted goes on where it stopped.

    Parameters
    ----------
    lm : LanguageModel
    questions : DataFrame
        From `read_questions`.
    run : Run
    site : str or sequence of str
        Where to read, of `SITES`. Several are read in the same pass.
    max_new_tokens : int
        Longest response, in tokens.
    batch_size : int, optional
        Rows that advance together. By default as many as memory allows, at most 128 on a CPU. When
        memory runs out it is halved and the run goes on.
    progress : bool
        Show a bar.

    Returns
    -------
    Run
        The same, to be read from.

    Raises
    ------
    ValueError
        If a site, a number or a question can't be used with this model, if the directory holds
        another run, or if all answers are right or all are wrong.
    """
    sites = (site,) if isinstance(site, str) else tuple(site)
    check_sites(lm.model, sites)
    _check_whole("max_new_tokens", max_new_tokens)
    if batch_size is not None:
        _check_whole("batch_size", batch_size)
    prompts = [
        lm.tokenizer(lm.prompt(question), add_special_tokens=False).input_ids
        for question in questions["question"]
    ]
    _check_context(lm, questions, prompts, max_new_tokens)
    parameters = {
        "model": lm.name,
        "revision": lm.revision,
        "dtype": str(lm.model.dtype),
        "questions": _fingerprint(questions),
        "n_questions": len(questions),
        "sites": list(sites),
        "max_new_tokens": max_new_tokens,
    }
    stage = run.begin("extract", parameters)
    batch_size = _claim(run, parameters, batch_size or _fitting_batch(lm, prompts, max_new_tokens))
    work = _Extraction(lm, questions, prompts, run.path, sites, max_new_tokens, batch_size)
    work.run(progress)
    answers = work.collect()
    check_two_classes(answers)
    outputs = [run.path / "answers.parquet", *(work.store_path(s) for s in sites)]
    stage.finish(
        outputs,
        sites=list(sites),
        n_examples=len(answers),
        n_correct=int(answers["correct"].sum()),
        n_without_exact_answer=int((answers["exact_answer"] == "").sum()),
        n_unfinished=int((~answers["finished"]).sum()),
        n_refusals=int(answers["refusal"].sum()),
        device=str(lm.device),
        batch_size=work.batch_size,
        generation_seconds=round(float(work.seconds), 2),
    )
    shutil.rmtree(run.path / "shards")
    return run


def check_two_classes(answers):
    """Refuse answers that are all right or all wrong: there is nothing to tell apart.

    Parameters
    ----------
    answers : DataFrame

    Raises
    ------
    ValueError
        Says how many, shows three graded examples and what to try.
    """
    if answers["correct"].nunique() > 1:
        return
    verdict = "right" if answers["correct"].iloc[0] else "wrong"
    examples = "\n".join(
        f"  {row.question}  ->  {row.response.strip()!r}  (graded {verdict})"
        for row in answers.head(3).itertuples()
    )
    raise ValueError(
        f"All {len(answers)} answers are {verdict}, so there is no error to detect:\n{examples}\n"
        "Look whether the grading is fair; else take another question file or another model."
    )


def _check_whole(name, value):
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")


def _check_context(lm, questions, prompts, max_new_tokens):
    """Refuse questions that do not fit the model's context, before any work."""
    room = getattr(lm.model.config.get_text_config(), "max_position_embeddings", None)
    for i, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"Question {questions['id'].iloc[i]} has no token in this model.")
        if room and len(prompt) + max_new_tokens > room:
            raise ValueError(
                f"Question {questions['id'].iloc[i]} takes {len(prompt)} tokens; with "
                f"max_new_tokens={max_new_tokens} that is more than the model's context of "
                f"{room}. Shorten the question or lower max_new_tokens."
            )


def _fingerprint(questions):
    """Hash of all that is asked and accepted."""
    rows = questions[["id", "question", "answers"]].to_json(orient="values", force_ascii=False)
    lists = sorted({repr(c) for c in questions["candidates"] if c is not None})
    return hashlib.sha256((rows + "".join(lists)).encode()).hexdigest()


def _claim(run, parameters, batch_size):
    """Refuse a directory that holds another run; else the batch size that the run began with.

    The batch size changes the last bits of an activation, so a resumed run keeps its first one.
    """
    path = run.path / "run.json"
    if not path.exists():
        write_json(path, {"parameters": parameters, "batch_size": batch_size})
        return batch_size
    try:
        claimed = json.loads(path.read_text(encoding="utf-8"))
        theirs, batch_size = claimed["parameters"], claimed["batch_size"]
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged: {error}. Use another run directory.") from error
    differing = [name for name in parameters if parameters[name] != theirs.get(name)]
    if differing:
        changes = "; ".join(f"{n} was {theirs.get(n)!r}, now {parameters[n]!r}" for n in differing)
        raise ValueError(
            f"{run.path} holds a run with other parameters: {changes}. Give another run "
            "directory, or delete this one."
        )
    return batch_size


def _fitting_batch(lm, prompts, max_new_tokens):
    """Rows for which keys, values and activations take a quarter of the free memory at most."""
    config = lm.model.config.get_text_config()
    longest = max(map(len, prompts)) + max_new_tokens
    item = lm.model.dtype.itemsize
    # Two for keys and values, two for the room to grow; wide heads are counted as if not grouped.
    a_token = config.num_hidden_layers * config.hidden_size * item
    a_row = 4 * longest * a_token + max_new_tokens * a_token
    most = 128
    if lm.device.type == "cuda":
        free, most = torch.cuda.mem_get_info(lm.device)[0], 512
    elif hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        free = 4 << 30
    fitting = max(1, free // 4 // a_row)
    return min(most, 1 << (int(fitting).bit_length() - 1))


@dataclass
class _Extraction:
    """One run's extraction: what is asked, of whom, and where it goes."""

    lm: object
    questions: pd.DataFrame
    prompts: list
    path: Path
    sites: tuple
    max_new_tokens: int
    batch_size: int
    seconds: float = 0.0

    @property
    def shards(self):
        """The ranges of questions that are worked on and stored as one."""
        n, size = len(self.prompts), self._shard_size
        return [range(start, min(start + size, n)) for start in range(0, n, size)]

    @property
    def _shard_size(self):
        return min(_SHARD, len(self.prompts))

    def store_path(self, site):
        return self.path / store_name(site, self.sites)

    def _shard_path(self, shard):
        return self.path / "shards" / f"{shard:05d}.parquet"

    def run(self, progress):
        """Go through all shards that are not there yet."""
        prefix = None
        correct = done = 0
        bar = tqdm(total=len(self.prompts), desc="Answering", unit="question", disable=not progress)
        with bar:
            for shard, members in enumerate(self.shards):
                if self._is_there(shard):
                    rows = pd.read_parquet(self._shard_path(shard))
                    bar.update(len(rows))
                    done, correct = done + len(rows), correct + rows["correct"].sum()
                    continue
                prefix = prefix or CachedPrefix(self.lm, self.prompts)
                while True:
                    try:
                        rows, activations = self._answer(members, prefix, bar, done, correct)
                        break
                    except torch.OutOfMemoryError:
                        if self.batch_size == 1:
                            raise
                        self.batch_size //= 2
                        bar.write(f"Out of memory: going on with batches of {self.batch_size}.")
                    torch.cuda.empty_cache()
                self._store(shard, members, rows, activations)
                done, correct = done + len(rows), correct + rows["correct"].sum()

    def _answer(self, members, prefix, bar, done, correct):
        """Answers and activations of one shard, in the order of its questions."""
        rows = [None] * len(members)
        captured = dict.fromkeys(self.sites)
        before = bar.n
        for response in generate(
            self.lm,
            [self.prompts[i] for i in members],
            self.sites,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
            prefix=prefix,
        ):
            i = response.index
            row, positions = self._grade(self.questions.iloc[members[i]], response)
            rows[i] = row
            for site in self.sites:
                values = _in_half_precision(response.activations[site].float().cpu().numpy())
                if captured[site] is None:
                    shape = (len(members), values.shape[1], len(TOKENS), values.shape[2])
                    captured[site] = np.full(shape, np.nan, dtype=values.dtype)
                elif values.dtype != captured[site].dtype:
                    captured[site] = captured[site].astype(np.float32)
                for t, position in enumerate(positions):
                    if position != MISSING:
                        captured[site][i, :, t] = values[position + 1]
            done, correct = done + 1, correct + row["correct"]
            bar.set_postfix_str(f"{correct / done:.0%} correct", refresh=False)
            bar.update()
        bar.n = before + len(members)
        return pd.DataFrame(rows), captured

    def _grade(self, question, response):
        """One row of the answers, and where the named tokens are in the response."""
        text, offsets = decode_with_offsets(self.lm.tokenizer, response.token_ids)
        span = find_span(text, question["question"], question["candidates"])
        tokens = None if span is None else span_tokens(offsets, span)
        if tokens is not None:
            # Verified by decoding: a name must never hit a token that lacks the answer.
            ids = response.token_ids[tokens[0] : tokens[1] + 1]
            decoded, _ = decode_with_offsets(self.lm.tokenizer, ids)
            if text[slice(*span)] not in decoded:
                tokens = None
        start, end = span if tokens is not None else (-1, -1)
        exact_answer = text[start:end] if tokens is not None else ""
        positions = token_positions(len(response.token_ids), tokens)
        row = {
            "id": question["id"],
            "question": question["question"],
            "prompt": self.lm.prompt(question["question"]),
            "response": text,
            "correct": grade(
                text,
                question["answers"],
                question=question["question"],
                candidates=question["candidates"],
            ),
            "exact_answer": exact_answer,
            "answer": _answer_name(exact_answer, question["candidates"]),
            "answer_start": start,
            "answer_end": end,
            "n_tokens": len(response.token_ids),
            "finished": response.finished,
            "refusal": is_refusal(text),
            "accepted": "|".join(question["answers"]),
            "token_ids": response.token_ids,
            "token_starts": [first for first, _ in offsets],
            "positions": positions,
        }
        row |= _summary("logprob", response.logprobs)
        answer = response.logprobs[tokens[0] : tokens[1] + 1] if tokens is not None else []
        row |= _summary("answer_logprob", answer)
        return row, positions

    def _store(self, shard, members, rows, captured):
        """Write one shard: activations first, its answers last, since they say that it is there."""
        for site, values in captured.items():
            array = self._array(site, values)
            array[members.start : members.stop] = values
        with replacing(self._shard_path(shard)) as temporary:
            rows.to_parquet(temporary, index=False)

    def _array(self, site, values):
        """The store's array that these values fit in, made or widened if need be."""
        path = self.store_path(site)
        if not path.exists():
            return self._create(path, site, values.shape, values.dtype)
        array = zarr.open_group(path, mode="r+")["activation"]
        if np.can_cast(values.dtype, array.dtype):
            return array
        wide = path.with_name(f".{path.name}.wide")
        shutil.rmtree(wide, ignore_errors=True)
        new = self._create(wide, site, values.shape, values.dtype)
        for shard, members in enumerate(self.shards):
            if self._shard_path(shard).exists():
                part = slice(members.start, members.stop)
                new[part] = array[part].astype(values.dtype)
        shutil.rmtree(path)
        wide.rename(path)
        return new

    def _create(self, path, site, shape, dtype):
        """An empty store of one file a shard, in which every cell has its own checksum."""
        layers, tokens, features = shape[1:]
        group = zarr.create_group(
            path,
            overwrite=True,
            attributes={
                "model": self.lm.name,
                "revision": self.lm.revision,
                "site": site,
                "schema_version": SCHEMA_VERSION,
                "dtype_reason": "float16 overflows" if dtype == np.float32 else "float16 suffices",
            },
        )
        return group.create_array(
            "activation",
            shape=(len(self.prompts), layers, tokens, features),
            dtype=dtype,
            chunks=(self._shard_size, 1, 1, features),
            shards=(self._shard_size, layers, tokens, features),
            compressors=[Crc32cCodec()],
            fill_value=np.nan,
            dimension_names=("example", "layer", "token", "feature"),
        )

    def _is_there(self, shard):
        stores = [self.store_path(site) / f"activation/c/{shard}/0/0/0" for site in self.sites]
        return self._shard_path(shard).exists() and all(path.exists() for path in stores)

    def collect(self):
        """Put the shards' answers together, and name the coordinates of the stores."""
        parts = [pd.read_parquet(self._shard_path(shard)) for shard in range(len(self.shards))]
        answers = pd.concat(parts, ignore_index=True)
        text = np.dtypes.StringDType()
        for site in self.sites:
            path = self.store_path(site)
            layers = zarr.open_group(path, mode="r")["activation"].shape[1]
            names = xr.Dataset(
                coords={
                    "layer": np.arange(layers),
                    "token": np.array(TOKENS, dtype=text),
                    "correct": ("example", answers["correct"].to_numpy(bool)),
                    **{name: ("example", answers[name].to_numpy(text)) for name in _TEXT_COORDS},
                }
            )
            encoding = {name: {"compressors": (Crc32cCodec(),)} for name in names.coords}
            names.to_zarr(path, mode="a", consolidated=False, encoding=encoding)
        with replacing(self.path / "answers.parquet") as temporary:
            answers.to_parquet(temporary, index=False)
        return answers


def _answer_name(exact_answer, candidates):
    """One name for all ways to give an answer: "Indian" and "India" are the same."""
    named = candidates.canonical(exact_answer) if candidates is not None else None
    return named or normalize(exact_answer)


def _in_half_precision(values):
    """As float16, unless that overflows: some residual streams pass its largest value, 65504."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.isfinite(half).all() else values


def _summary(name, logprobs):
    """Mean, least and greatest of some tokens' log-probabilities; NaN of none."""
    if not len(logprobs):
        return dict.fromkeys((f"{name}_mean", f"{name}_min", f"{name}_max"), np.nan)
    return {
        f"{name}_mean": float(np.mean(logprobs)),
        f"{name}_min": float(np.min(logprobs)),
        f"{name}_max": float(np.max(logprobs)),
    }
