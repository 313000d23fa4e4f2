import dataclasses
import datetime
import hashlib
import importlib
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
import zarr
from architectures import ARCHITECTURES, Architecture, plain_activations
from nightly import is_nightly, quarter
from tiny import tiny_sizes, tiny_tokenizer, write_questions
from tokenizers import Regex, normalizers
from transformers import LlamaConfig, LlamaForCausalLM

from probekit import Run, extract, load_model, read_questions
from probekit.extraction import memory
from probekit.extraction.asking import point_to_answers
from probekit.extraction.models import LanguageModel
from probekit.run.manifest import fingerprint, sealed
from probekit.tokens import LAST_PROMPT_TOKEN, MISSING, TOKENS

# `probekit.extract` is the function.
extract_module = importlib.import_module("probekit.extraction.one_pass")
shards_module = importlib.import_module("probekit.extraction.shards")
store_module = importlib.import_module("probekit.extraction.store")
generation = importlib.import_module("probekit.extraction.generation")

OPTIONS = {"max_new_tokens": 10, "batch_size": 4, "progress": False}


@pytest.fixture(scope="module")
def model_dir(stopping_model_dir):
    return stopping_model_dir


@pytest.fixture(scope="module")
def lm(model_dir):
    return load_model(model_dir)


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    return read_questions(write_questions(tmp_path_factory.mktemp("q") / "24", 24))


SITES = ("resid_post", "mlp_out", "mlp_act", "attn_out")


@pytest.fixture(scope="module")
def finished(lm, questions, tmp_path_factory):
    """A finished run of all sites. Read only."""
    return extract(lm, questions, Run(tmp_path_factory.mktemp("run") / "all"), SITES, **OPTIONS)


def files_of(run):
    """Contents of all that a run holds, but for times and the checkout's state."""
    contents = {}
    for path in sorted(p for p in run.path.rglob("*") if p.is_file()):
        name = str(path.relative_to(run.path))
        contents[name] = path.read_bytes()
        if name == "manifests/extract.json":
            contents[name] = fingerprint(json.loads(contents[name]))
    return contents


def check_same(run, expected):
    found = files_of(run)
    assert sorted(found) == sorted(expected)
    assert [name for name in found if found[name] != expected[name]] == []


# What is stored


def test_the_questions_exercise_what_can_go_wrong(finished):
    answers = finished.answers()
    assert answers["n_tokens"].nunique() >= 4
    assert (answers["n_tokens"] < 8).any()
    assert set(answers["finished"]) == {True, False}
    assert set(answers["correct"]) == {True, False}
    assert 0 < (answers["exact_answer"] == "").sum() < len(answers) - 4


def test_files(finished):
    stores = {"activations.zarr", *(f"activations_{site}.zarr" for site in SITES[1:])}
    names = {path.name for path in finished.path.iterdir()}
    assert names == stores | {".lock", "answers.parquet", "manifests", "run.json", "shards"}
    hidden = [path.name for path in finished.path.rglob(".*")]
    assert hidden == [".lock"], "nothing temporary is left"


def test_answers(finished, questions, lm):
    answers = finished.answers()
    assert answers["id"].tolist() == questions["id"].tolist(), "in the question file's order"
    assert answers["question"].tolist() == questions["question"].tolist()
    for row in answers.itertuples():
        assert row.prompt == lm.prompt(row.question)
        assert row.response == lm.tokenizer.decode(row.token_ids, skip_special_tokens=True)
        assert len(row.token_ids) == row.n_tokens == len(row.token_starts)
        assert not set(row.token_ids) & lm.stop_ids
        if row.exact_answer:
            assert row.response[row.answer_start : row.answer_end] == row.exact_answer
        else:
            assert (row.answer_start, row.answer_end) == (-1, -1)
            assert np.isnan(row.answer_logprob_mean)
        if row.n_tokens:
            assert row.logprob_min <= row.logprob_mean <= row.logprob_max <= 0
        else:
            assert np.isnan(row.logprob_mean)


def test_groups_of_questions_go_with_the_answers(finished, lm, questions, tmp_path):
    groups = [f"topic {i % 3}" for i in range(len(questions))]
    run = extract(lm, questions.assign(group=groups), Run(tmp_path / "grouped"), **OPTIONS)
    assert run.answers()["group"].tolist() == groups
    assert run.activations()["group"].to_numpy().tolist() == groups
    assert set(finished.answers()["group"]) == {""}, "where none was named"


def test_named_positions_hold_what_they_name(finished, lm):
    for row in finished.answers().itertuples():
        at = dict(zip(TOKENS, row.positions, strict=True))
        if not row.exact_answer:
            assert at["exact_answer_first"] == MISSING
            continue
        first, last = at["exact_answer_first"], at["exact_answer_last"]

        def decoded(ids):
            return lm.tokenizer.decode(ids, skip_special_tokens=True)

        assert row.exact_answer in decoded(row.token_ids[first : last + 1])
        # No fewer tokens would do.
        assert row.exact_answer not in decoded(row.token_ids[first + 1 : last + 1])
        assert row.exact_answer not in decoded(row.token_ids[first:last])


@pytest.mark.parametrize("site", SITES)
def test_activations_are_those_of_a_plain_forward_pass(finished, lm, site, monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "tiny", Architecture(None, {}, ARCHITECTURES["llama"].paths))
    activations, answers = finished.activations(site), finished.answers()
    assert activations["activation"].dims == ("example", "layer", "token", "feature")
    assert activations["activation"].dtype == np.float16
    assert activations["token"].to_numpy().tolist() == list(TOKENS)
    assert activations["layer"].to_numpy().tolist() == [0, 1, 2]
    for name in ("id", "exact_answer", "answer", "correct"):
        assert activations[name].dims == ("example",)
        assert activations[name].to_numpy().tolist() == answers[name].tolist()
    assert activations.attrs["site"] == site
    assert activations.attrs["model"] == lm.name
    assert activations.attrs["revision"] == lm.revision
    assert activations.attrs["schema_version"] == 1
    values = activations["activation"].to_numpy()
    for i, row in enumerate(answers.itertuples()):
        prompt = lm.tokenizer(row.prompt, add_special_tokens=False).input_ids
        plain, _ = plain_activations(lm.model, "tiny", prompt + list(row.token_ids))
        for t, position in enumerate(row.positions):
            if position == MISSING:
                assert np.isnan(values[i, :, t]).all()
            else:
                assert position >= LAST_PROMPT_TOKEN
                expected = plain[site][len(prompt) + position].numpy()
                np.testing.assert_allclose(values[i, :, t], expected, rtol=2e-3, atol=1e-3)


def test_certainty_is_that_of_a_plain_forward_pass(finished, lm, monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "tiny", Architecture(None, {}, ARCHITECTURES["llama"].paths))
    for row in finished.answers().to_dict("records"):
        prompt = lm.tokenizer(row["prompt"], add_special_tokens=False).input_ids
        _, logits = plain_activations(lm.model, "tiny", prompt + list(row["token_ids"]))
        logs = logits[len(prompt) - 1 : -1].double().log_softmax(-1)
        at = dict(zip(TOKENS, row["positions"], strict=True))
        first, last = at["exact_answer_first"], at["exact_answer_last"]
        within = slice(0) if first == MISSING else slice(first, last + 1)
        for of, tokens in (("", slice(None)), ("answer_", within)):
            said = logs[range(row["n_tokens"]), list(row["token_ids"])][tokens].numpy()
            entropies = -(logs.exp() * logs).sum(-1)[tokens].numpy()
            for name, values, kinds in (
                ("logprob", said, ("mean", "min", "max")),
                ("entropy", entropies, ("mean", "max")),
            ):
                for kind in kinds:
                    expected = getattr(values, kind)() if len(values) else np.nan
                    found = row[f"{of}{name}_{kind}"]
                    assert found == pytest.approx(expected, abs=1e-4, nan_ok=True)


def test_labels_are_in_the_order_of_their_names(finished):
    """Not in the file system's, which differs from folder to folder, and with it a grid's bytes."""
    labels = list(finished.activations().coords)
    assert labels == sorted(labels)


def test_the_default_site_is_the_first(finished):
    xr.testing.assert_identical(finished.activations(), finished.activations("resid_post"))
    with pytest.raises(ValueError, match=r"no site 'mlp'.*It has: resid_post, mlp_out"):
        finished.activations("mlp")


def test_the_manifest_says_what_was_done(finished, lm):
    manifest = finished.manifest("extract")
    answers = finished.answers()
    assert manifest["parameters"]["model"] == lm.name
    assert manifest["parameters"]["revision"] == lm.revision
    assert manifest["parameters"]["max_new_tokens"] == 10
    results = manifest["results"]
    assert results["n_examples"] == 24
    assert results["n_correct"] == answers["correct"].sum()
    assert results["n_without_exact_answer"] == (answers["exact_answer"] == "").sum()
    assert results["n_unfinished"] == (~answers["finished"]).sum()
    assert all(len(output["sha256"]) == 64 for output in manifest["outputs"].values())


def test_one_site_alone_is_the_same(finished, lm, questions, tmp_path):
    run = extract(lm, questions, Run(tmp_path / "one"), "mlp_act", **OPTIONS)
    xr.testing.assert_identical(run.activations(), finished.activations("mlp_act"))
    assert not (run.path / "activations_mlp_act.zarr").exists()


def test_the_batch_size_makes_no_difference_but_rounding(finished, lm, questions, tmp_path):
    options = OPTIONS | {"batch_size": 24}
    run = extract(lm, questions, Run(tmp_path / "24"), "resid_post", **options)
    columns = ["id", "response", "correct", "exact_answer", "n_tokens", "finished"]
    pd.testing.assert_frame_equal(run.answers()[columns], finished.answers()[columns])
    xr.testing.assert_allclose(run.activations(), finished.activations(), rtol=2e-3, atol=2e-3)


def test_the_batch_size_is_found(lm, questions, tmp_path):
    run = extract(lm, questions, Run(tmp_path / "r"), **OPTIONS | {"batch_size": None})
    assert 1 <= run.manifest("extract")["results"]["batch_size"] <= 256


# float16 or float32


def test_values_beyond_float16_are_kept_in_float32(model_dir, questions, tmp_path, monkeypatch):
    lm = load_model(model_dir)
    layer = lm.model.model.layers[1].mlp.down_proj
    with torch.no_grad():
        layer.weight *= 1e5
    monkeypatch.setattr(extract_module, "SHARD", 5)
    run = extract(lm, questions, Run(tmp_path / "wide"), ("resid_post", "attn_out"), **OPTIONS)
    wide, narrow = run.activations("resid_post"), run.activations("attn_out")
    assert wide["activation"].dtype == np.float32
    assert wide.attrs["dtype_reason"] == "float16 overflows"
    assert np.nanmax(np.abs(wide["activation"])) > 65504
    assert np.isfinite(wide["activation"].sel(token="last_q")).all()
    assert narrow["activation"].dtype == np.float16
    assert narrow.attrs["dtype_reason"] == "float16 suffices"


def test_the_store_is_widened_when_a_later_shard_overflows(lm, questions, tmp_path, monkeypatch):
    monkeypatch.setattr(extract_module, "SHARD", 5)
    original = generation.generate
    shards = []

    def scaling(lm, prompts, sites, **options):
        shards.append(len(prompts))
        for response in original(lm, prompts, sites, **options):
            scale = 1e6 if len(shards) == 3 else 1
            scaled = {site: scale * found for site, found in response.activations.items()}
            yield dataclasses.replace(response, activations=scaled)

    plain = extract(lm, questions, Run(tmp_path / "plain"), **OPTIONS)
    monkeypatch.setattr(shards_module, "generate", scaling)
    run = extract(lm, questions, Run(tmp_path / "wide"), **OPTIONS)
    found, expected = run.activations(), plain.activations()
    assert len(shards) == 5
    assert found["activation"].dtype == np.float32
    assert found.attrs["dtype_reason"] == "float16 overflows"
    scaled_shard = np.zeros(24, bool)
    scaled_shard[10:15] = True
    others = ~scaled_shard
    np.testing.assert_array_equal(
        found["activation"][others], expected["activation"][others].astype(np.float32)
    )
    assert np.nanmax(np.abs(found["activation"][scaled_shard])) > 65504
    hidden = [path.name for path in run.path.glob(".*")]
    assert hidden == [".lock"], "the narrow store's replacement is moved, not left"


# Numbers that are none


def overflowing(model_dir):
    """The tiny model in float16, whose activations pass the largest number of that."""
    lm = load_model(model_dir, dtype=torch.float16)
    with torch.no_grad():
        lm.model.model.layers[1].mlp.down_proj.weight *= 5e4
    return lm


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}], ids=["likeliest", "drawn"])
def test_logits_that_overflow_end_the_run_at_once(model_dir, questions, tmp_path, options):
    """They counted as empty responses, all of them wrong."""
    lm, run = overflowing(model_dir), Run(tmp_path / "r")
    with pytest.raises(ValueError, match=r"torch\.float16 at question 'q\d+', \d+ .*bfloat16 or"):
        extract(lm, questions, run, **OPTIONS | options)
    assert not list((run.path / "shards").glob("*.parquet"))


@pytest.mark.parametrize("how", ["judge", "copied"])
def test_logits_that_overflow_elsewhere_end_the_run_too(lm, model_dir, questions, tmp_path, how):
    bad = overflowing(model_dir)
    options = {"judge": bad} if how == "judge" else {}
    if how == "copied":
        with pytest.raises(ValueError, match=r"at question 'Where"):
            point_to_answers(bad, ["Where is it?"], ["In Rome."], 4)
        return
    with pytest.raises(ValueError, match=r"NaN or infinity in torch\.float16"):
        extract(lm, questions, Run(tmp_path / "r"), **OPTIONS | options)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_activations_that_are_no_numbers_are_not_stored(
    lm, questions, tmp_path, monkeypatch, number
):
    """NaN would read as a token that the response does not have."""
    original = generation.generate

    def spoilt(*args, **options):
        for response in original(*args, **options):
            activations = response.activations["mlp_out"].clone()
            activations[-1, 1, 3] = number
            yield dataclasses.replace(response, activations={"mlp_out": activations})

    monkeypatch.setattr(shards_module, "generate", spoilt)
    with pytest.raises(ValueError, match=r"NaN or infinity in torch\.float32 at question 'q"):
        extract(lm, questions, Run(tmp_path / "r"), **OPTIONS)


# Out of memory


def no_room_for_a_tensor():
    torch.empty(10**16)


def no_room_for_an_array():
    np.empty(10**16)


def no_room_on_a_gpu():
    raise torch.OutOfMemoryError("no memory")


@pytest.mark.parametrize("fails", [no_room_for_a_tensor, no_room_for_an_array, no_room_on_a_gpu])
def test_a_smaller_batch_is_recorded_at_once(lm, questions, tmp_path, monkeypatch, fails, capsys):
    original, batch_sizes, run = generation.generate, [], Run(tmp_path / "r")

    def scarce(*args, batch_size, **options):
        batch_sizes.append(batch_size)
        if batch_size > 6:
            fails()
        if len(batch_sizes) < 3:
            raise DiedError
        yield from original(*args, batch_size=batch_size, **options)

    monkeypatch.setattr(shards_module, "generate", scarce)
    with pytest.raises(DiedError):
        extract(lm, questions, run, **OPTIONS | {"batch_size": 13})
    assert batch_sizes == [13, 6]
    assert "Out of memory: going on with batches of 6" in capsys.readouterr().out
    extract(lm, questions, run, **OPTIONS | {"batch_size": 13})
    assert batch_sizes == [13, 6, 6]
    assert recorded(run)["batch_size"] == run.manifest("extract")["results"]["batch_size"] == 6


def test_an_error_that_is_not_of_memory_is_not_taken_for_one(lm, questions, tmp_path, monkeypatch):
    def broken(*args, **options):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        yield

    monkeypatch.setattr(shards_module, "generate", broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        extract(lm, questions, Run(tmp_path / "r"), **OPTIONS)


def recorded(run):
    return json.loads((run.path / "run.json").read_text())


@pytest.fixture
def interrupted(lm, questions, tmp_path, monkeypatch):
    """A run in batches of 8 without its second shard, and the batches of what follows."""
    monkeypatch.setattr(extract_module, "SHARD", 12)
    original, batch_sizes = generation.generate, []

    def counting(*args, batch_size, **options):
        batch_sizes.append(batch_size)
        if len(batch_sizes) == 2:
            raise DiedError
        return original(*args, batch_size=batch_size, **options)

    run = Run(tmp_path / "r")
    monkeypatch.setattr(shards_module, "generate", counting)
    with pytest.raises(DiedError):
        extract(lm, questions, run, **OPTIONS | {"batch_size": 8})
    assert "deaths" not in recorded(run), "it was not killed"
    batch_sizes[:] = [8, 8]
    return run, batch_sizes


@pytest.mark.parametrize(
    ("given", "fitting", "taken"),
    [(2, 256, 2), (16, 256, 8), (8, 1, 8), (None, 256, 8), (None, 4, 4)],
)
def test_a_run_goes_on_with_its_batch_size_or_a_smaller_one(
    lm, questions, interrupted, monkeypatch, capsys, given, fitting, taken
):
    run, batch_sizes = interrupted
    monkeypatch.setattr(extract_module, "fitting_batch", lambda *args: fitting)
    extract(lm, questions, run, **OPTIONS | {"batch_size": given})
    assert batch_sizes[2:] == [taken]
    assert recorded(run)["batch_size"] == run.manifest("extract")["results"]["batch_size"] == taken
    said = "There is less memory than when this run began: going on with batches of 4 instead of 8"
    assert (said in capsys.readouterr().out) == (given is None and taken < 8)


@pytest.mark.parametrize(
    ("died", "now", "taken"),
    [
        ({"group": 0, "machine": 5}, {"group": 1, "machine": 6}, 4),
        # Somebody else's process, in another group.
        ({"group": 0, "machine": 5}, {"group": 0, "machine": 6}, 8),
        # This one's group is gone, as a container that is started again has another.
        ({"group": 0, "machine": 5}, {"other": 0, "machine": 6}, 4),
        ({"group": 0, "machine": 5}, {"other": 3, "machine": 5}, 8),
        # Another machine, or the same one started again.
        ({"group": 0, "machine": 5}, {"other": 1, "later": 1}, 8),
        ({}, {}, 8),
    ],
)
def test_after_a_kill_batches_are_smaller_only_if_it_was_for_memory(
    lm, questions, interrupted, monkeypatch, capsys, died, now, taken
):
    run, batch_sizes = interrupted
    content = {"parameters": recorded(run)["parameters"], "batch_size": 8, "deaths": died}
    (run.path / "run.json").write_text(json.dumps(sealed(content)))
    monkeypatch.setattr(memory, "deaths", lambda: now)
    extract(lm, questions, run, **OPTIONS | {"batch_size": 8})
    assert batch_sizes[2:] == [taken]
    said = "Memory ran out the last time: going on with batches of 4 instead of 8"
    assert (said in capsys.readouterr().out) == (taken < 8)
    assert "deaths" not in recorded(run)


@pytest.mark.parametrize(
    "spoilt", [{"batch_size": "8"}, {"deaths": [1]}, {"deaths": {"a": "b"}}, {"parameters": []}]
)
def test_what_is_recorded_may_come_from_somebody_else(lm, questions, interrupted, spoilt):
    run, _ = interrupted
    content = recorded(run) | spoilt
    (run.path / "run.json").write_text(json.dumps(sealed(content)))
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        extract(lm, questions, run, **OPTIONS)


HUNGRY = """
import sys
import probekit
model, questions, folder = sys.argv[1:]
probekit.extract(
    probekit.load_model(model), probekit.read_questions(questions), probekit.Run(folder),
    judge=lambda question, response, answers: "Lyon" in question, max_new_tokens=4,
    batch_size=16, progress=False,
)
"""


@pytest.fixture
def small_group():
    """Start a command in a control group of 1,000 MB, which the system kills when it has more."""
    group = _group_of_1000_megabytes()
    if group is None:
        pytest.skip("no control group can be made here: that takes root, outside most containers")
    join = f'echo $$ > {group}/cgroup.procs && exec "$@"'

    def run(*command):
        command = ["sh", "-c", join, "sh", *map(str, command)]
        return subprocess.run(command, capture_output=True, text=True, timeout=500)

    yield run
    group.rmdir()


def _group_of_1000_megabytes():
    for place, limits in (
        ("/sys/fs/cgroup/memory", ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]),
        ("/sys/fs/cgroup", ["memory.max", "memory.swap.max"]),
    ):
        group = Path(place, f"probekit-test-{os.getpid()}")
        try:
            group.mkdir()
        except OSError:
            continue
        for limit in (group / name for name in limits):
            try:
                limit.write_text("0" if limit.name == "memory.swap.max" else "1000000000")
            except OSError:
                if limit.name == limits[0]:
                    group.rmdir()
                    break
        else:
            return group
    return None


def test_a_run_that_is_killed_for_memory_ends_when_it_is_started_again(tmp_path, small_group):
    tokenizer = tiny_tokenizer()
    # A megabyte of keys and values a token: 16 rows of some 40 tokens are too much beside Python
    # and torch, which take 0.5 GB.
    sizes = tiny_sizes(tokenizer) | {"num_attention_heads": 8, "num_key_value_heads": 8}
    config = LlamaConfig(num_hidden_layers=2, head_dim=8192, **sizes)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    table = write_questions(tmp_path / "questions", 16)
    command = [sys.executable, "-c", HUNGRY, tmp_path / "model", table, tmp_path / "run"]
    tries = [small_group(*command)]
    assert tries[0].returncode in (-9, 137), tries[0].stderr
    while tries[-1].returncode:
        assert len(tries) < 4, tries[-1].stderr
        tries.append(small_group(*command))
        assert "Memory ran out the last time: going on with batches of" in tries[-1].stdout
    run = Run(tmp_path / "run")
    assert len(run.answers()) == 16
    assert run.manifest("extract")["results"]["batch_size"] == 16 >> (len(tries) - 1)
    assert np.isfinite(run.activations()["activation"].sel(token="last_q")).all()


def test_out_of_memory_halves_the_batch_and_goes_on(lm, questions, finished, tmp_path, monkeypatch):
    original, batch_sizes = generation.generate, []

    def scarce(*args, batch_size, **options):
        batch_sizes.append(batch_size)
        responses = original(*args, batch_size=batch_size, **options)
        yield next(responses)
        if batch_size > 3:
            responses.close()
            raise torch.OutOfMemoryError("no memory")
        yield from responses

    monkeypatch.setattr(shards_module, "generate", scarce)
    run = extract(lm, questions, Run(tmp_path / "r"), "resid_post", **OPTIONS | {"batch_size": 13})
    assert batch_sizes[:3] == [13, 6, 3]
    assert run.manifest("extract")["results"]["batch_size"] == 3
    columns = ["id", "response", "correct", "exact_answer", "n_tokens", "finished"]
    pd.testing.assert_frame_equal(run.answers()[columns], finished.answers()[columns])
    xr.testing.assert_allclose(run.activations(), finished.activations(), rtol=2e-3, atol=2e-3)


def test_out_of_memory_for_one_row_is_an_error(lm, questions, tmp_path, monkeypatch):
    def none_at_all(*args, **options):
        raise torch.OutOfMemoryError("no memory")
        yield

    monkeypatch.setattr(shards_module, "generate", none_at_all)
    run = Run(tmp_path / "r")
    with pytest.raises(torch.OutOfMemoryError):
        extract(lm, questions, run, **OPTIONS)
    with pytest.raises(FileNotFoundError, match="no finished extract stage"):
        run.answers()


# Going on after an interruption


class DiedError(RuntimeError):
    pass


@pytest.mark.parametrize("after", [False, True], ids=["before it", "after it"])
def test_a_run_that_dies_at_any_file_ends_the_same(lm, questions, tmp_path, monkeypatch, after):
    """Every file is moved into its place when it is complete: die at each of the moves."""
    monkeypatch.setattr(extract_module, "SHARD", 3)
    few = questions.head(8)
    options = OPTIONS | {"max_new_tokens": 6}
    original, moves, fatal = pathlib.Path.replace, [], [None]

    def replace(self, target):
        moves.append(Path(target).name)
        dies = len(moves) == fatal[0]
        if dies and not after:
            raise DiedError(moves[-1])
        original(self, target)
        if dies:
            raise DiedError(moves[-1])

    monkeypatch.setattr(pathlib.Path, "replace", replace)
    expected = files_of(extract(lm, few, Run(tmp_path / "whole"), **options))
    n_moves = len(moves)
    assert {"run.json", "answers.parquet", "extract.json"} <= set(moves)
    assert sum(name.startswith("00001-") for name in moves) == 1
    assert n_moves > 15
    # Each kind of file once, the first and the last of them; at night all.
    kinds = [re.sub(r"[0-9a-f]{8,}|\d", "", name) for name in moves]
    few_moments = {kinds.index(kind) + 1 for kind in kinds}
    few_moments |= {n_moves - kinds[::-1].index(kind) for kind in kinds}
    for moment in range(1, n_moves + 1) if is_nightly() else sorted(few_moments):
        run = Run(tmp_path / f"died-{moment}")
        moves.clear()
        fatal[0] = moment
        with pytest.raises(DiedError) as death:
            extract(lm, few, run, **options)
        fatal[0] = None
        if not (after and str(death.value) == "extract.json"):
            assert not (run.path / "manifests/extract.json").exists()
        extract(lm, few, run, **options)
        check_same(run, expected)


def test_what_is_there_is_not_made_again(lm, questions, tmp_path, monkeypatch):
    monkeypatch.setattr(extract_module, "SHARD", 6)
    original, asked = generation.generate, []

    def dying(lm, prompts, sites, **options):
        if len(asked) == 2:
            raise DiedError
        asked.append(len(prompts))
        yield from original(lm, prompts, sites, **options)

    run = Run(tmp_path / "r")
    monkeypatch.setattr(shards_module, "generate", dying)
    with pytest.raises(DiedError):
        extract(lm, questions, run, **OPTIONS)
    assert asked == [6, 6]
    with pytest.raises(FileNotFoundError, match="no finished extract stage"):
        run.activations()
    asked.clear()
    asked += ["another", "two", "three"]
    extract(lm, questions, run, **OPTIONS)
    assert asked[3:] == [6, 6]
    assert run.answers()["id"].tolist() == questions["id"].tolist()
    # A finished run is made again from what is stored, without asking anything.
    extract(lm, questions, run, **OPTIONS)
    assert asked[5:] == []
    assert run.manifest("extract")["results"]["n_examples"] == 24


COMMAND = """
import importlib
import sys
import probekit
module = importlib.import_module("probekit.extraction.one_pass")
module.SHARD = 4
model, questions, *folders = sys.argv[1:]
lm = probekit.load_model(model)
for folder in folders:
    probekit.extract(
        lm, probekit.read_questions(questions), probekit.Run(folder), ("mlp_out", "mlp_act"),
        max_new_tokens=12, batch_size=3, progress=False,
    )
"""


def start(model_dir, table, *folders):
    command = [sys.executable, "-c", COMMAND, str(model_dir), str(table), *map(str, folders)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def test_kill_9_at_random_moments(model_dir, tmp_path):
    table = write_questions(tmp_path / "questions", 60)
    # Another seed tries other moments: PROBEKIT_KILL_SEED=21 make test ARGS="-k kill_9"
    chance = random.Random(int(os.environ.get("PROBEKIT_KILL_SEED", "20")))  # noqa: S311
    folders = [tmp_path / f"killed-{i}" for i in range(quarter(3))]
    # Each is killed some milliseconds after it has finished some shards of its 15.
    moments = [(chance.randrange(0, 11), chance.uniform(0, 0.04)) for _ in folders]
    processes = [start(model_dir, table, folder) for folder in folders]
    for folder, (shards, delay), process in zip(folders, moments, processes, strict=True):
        # Waiting for one after the other would let the others finish.
        process.due = folder / "shards", f"{shards:05d}-*.parquet", delay
    waiting = list(processes)
    deadline = time.monotonic() + 240
    while waiting:
        assert time.monotonic() < deadline
        for process in list(waiting):
            shards, last, delay = process.due
            if list(shards.glob(last)):
                time.sleep(delay)
                process.kill()
                waiting.remove(process)
            else:
                assert process.poll() is None, process.stderr.read()
        time.sleep(0.001)
    for process, folder in zip(processes, folders, strict=True):
        process.communicate()
        assert process.returncode == -9, "it finished before it was killed"
        assert not (folder / "manifests").exists()
    again = start(model_dir, table, *folders, tmp_path / "undisturbed")
    _, errors = again.communicate(timeout=240)
    assert again.returncode == 0, errors
    expected = files_of(Run(tmp_path / "undisturbed"))
    assert len(expected) > 30
    for folder in folders:
        check_same(Run(folder), expected)


# Damage


def damaged_copy(finished, tmp_path):
    return Run(shutil.copytree(finished.path, tmp_path / "damaged"))


def flip(path, position):
    contents = bytearray(path.read_bytes())
    contents[position] ^= 0x01
    path.write_bytes(contents)


def read_everything(run, sites=SITES):
    run.answers()
    for site in sites:
        run.activations(site).load()


@pytest.mark.parametrize("site", ["resid_post", "mlp_act"])
def test_a_flipped_byte_in_any_file_is_detected(finished, tmp_path, site):
    run = damaged_copy(finished, tmp_path)
    read_everything(run, [site])
    store = "activations.zarr" if site == SITES[0] else f"activations_{site}.zarr"
    paths = [p for p in (run.path / store).rglob("*") if p.is_file()]
    assert len(paths) > 15
    chance = random.Random(0)  # noqa: S311
    undetected = []
    for path in [*paths, run.path / "answers.parquet"]:
        size = path.stat().st_size
        for position in {0, size - 1, chance.randrange(size)}:
            flip(path, position)
            try:
                read_everything(run, [site])
                undetected.append((str(path.relative_to(run.path)), position))
            except ValueError:
                pass
            flip(path, position)
    assert undetected == []
    read_everything(run)


def test_a_flipped_byte_in_a_large_shard_is_detected_by_the_store_itself(finished, tmp_path):
    """Of large files only the size is compared before: every cell has its own checksum."""
    run = damaged_copy(finished, tmp_path)
    path = run.path / "activations.zarr/activation/c/0/0/0/0"
    chance = random.Random(1)  # noqa: S311
    for _ in range(20):
        position = chance.randrange(path.stat().st_size)
        flip(path, position)
        with pytest.raises(ValueError, match="checksum"):
            zarr.open_group(run.path / "activations.zarr", mode="r")["activation"][:]
        flip(path, position)


def test_a_missing_shard_is_detected(finished, tmp_path):
    run = damaged_copy(finished, tmp_path)
    (run.path / "activations_mlp_out.zarr/activation/c/0/0/0/0").unlink()
    with pytest.raises(ValueError, match="damaged"):
        run.activations("mlp_out")
    run.activations("resid_post").load()


def test_a_missing_store_is_detected(finished, tmp_path):
    run = damaged_copy(finished, tmp_path)
    shutil.rmtree(run.path / "activations_mlp_out.zarr")
    with pytest.raises(FileNotFoundError, match=r"activations_mlp_out.*is not there"):
        run.activations("mlp_out")
    (run.path / "answers.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"answers\.parquet is not there"):
        run.answers()


@pytest.mark.parametrize(
    "name",
    [
        "activations.zarr/activation/c/0/0/0/0",
        "activations.zarr/activation/zarr.json",
        "activations.zarr/zarr.json",
        "activations_mlp_act.zarr/correct/c/0",
        "answers.parquet",
    ],
)
def test_extracting_again_repairs_what_is_damaged(lm, questions, finished, tmp_path, name):
    """It is what the error says to do."""
    run = damaged_copy(finished, tmp_path)
    flip(run.path / name, 200 if "json" in name else -1)
    with pytest.raises(ValueError, match="Run the extract stage again"):
        read_everything(run)
    extract(lm, questions, run, SITES, **OPTIONS)
    check_same(run, files_of(finished))


# Prompts

FIRST, NEXT = datetime.datetime(2026, 2, 25), datetime.datetime(2026, 2, 26)
TODAY = "Today is {{ strftime_now('%d %b %Y') }}.\n"


@pytest.fixture
def today(monkeypatch):
    """Set today's date, for us and for transformers."""

    def on(day):
        ours = type("date", (datetime.date,), {"today": lambda: day.date()})
        theirs = type("datetime", (datetime.datetime,), {"now": lambda: day})
        monkeypatch.setattr(store_module, "date", ours)
        monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", theirs)

    on(FIRST)
    # The random weights answer a longer prompt in other words, all of them wrong.
    monkeypatch.setattr(extract_module, "check_two_classes", lambda *_: None)
    return on


@pytest.fixture
def dated(model_dir, tmp_path):
    """A model whose prompts begin with today's date."""
    folder = shutil.copytree(model_dir, tmp_path / "dated")
    path = folder / "chat_template.jinja"
    path.write_text(TODAY + path.read_text())
    return load_model(folder)


@pytest.fixture
def days(monkeypatch):
    """The days in the prompts that a model is given meanwhile."""
    original, found = LanguageModel.tokenize, set()

    def noting(lm, prompt):
        found.update(re.findall("Today is (.*)[.]\n", prompt))
        return original(lm, prompt)

    monkeypatch.setattr(LanguageModel, "tokenize", noting)
    return found


def die_after(monkeypatch, n_shards, *args, **options):
    """Extract until some shards are done."""
    answer, done = extract_module.answer_shard, []

    def dying(*args):
        if len(done) == n_shards:
            raise DiedError
        done.append(1)
        return answer(*args)

    with monkeypatch.context() as patch:
        patch.setattr(extract_module, "answer_shard", dying)
        with pytest.raises(DiedError):
            extract(*args, **options)


@pytest.mark.parametrize("judged", [False, True], ids=["by P(True)", "by a judge"])
def test_a_run_keeps_its_first_day(
    lm, dated, questions, tmp_path, monkeypatch, today, days, judged
):
    monkeypatch.setattr(extract_module, "SHARD", 12)
    asked, options = (lm, {"judge": dated}) if judged else (dated, {"p_true": True})
    run = Run(tmp_path / "r")
    die_after(monkeypatch, 1, asked, questions, run, **OPTIONS, **options)
    today(NEXT)
    extract(asked, questions, run, **OPTIONS, **options)
    assert days == {"25 Feb 2026"}
    assert recorded(run)["parameters"]["day"] == "2026-02-25"
    assert run.manifest("extract")["parameters"]["day"] == "2026-02-25"
    assert run.answers()["prompt"].str.startswith("Today is 25 Feb 2026.").all() == (not judged)
    (run.path / "run.json").unlink()
    extract(asked, questions, run, **OPTIONS, **options)
    assert recorded(run)["parameters"]["day"] == "2026-02-25", "the manifest has it too"
    extract(asked, questions, Run(tmp_path / "other"), **OPTIONS, **options)
    assert days == {"25 Feb 2026", "26 Feb 2026"}


@pytest.mark.parametrize("lacking", [["doubt", "kind"], ["answer_entropy_mean"]], ids=str)
def test_answers_of_an_earlier_version_are_not_mixed(lm, questions, tmp_path, monkeypatch, lacking):
    monkeypatch.setattr(extract_module, "SHARD", 12)
    run = Run(tmp_path / "r")
    die_after(monkeypatch, 1, lm, questions, run, **OPTIONS)
    (part,) = (run.path / "shards").glob("*.parquet")
    content = pd.read_parquet(part).drop(columns=lacking).to_parquet(index=False)
    part.unlink()
    earlier = part.with_name(f"00000-{hashlib.sha256(content).hexdigest()}.parquet")
    earlier.write_bytes(content)
    with pytest.raises(ValueError, match="earlier version, which graded by other rules"):
        extract(lm, questions, run, **OPTIONS)
    assert earlier.read_bytes() == content, "nothing is lost"


def test_prompts_without_a_date_need_no_day(finished):
    assert "day" not in recorded(finished)["parameters"]


@pytest.mark.parametrize("n_shards", [1, 2], ids=["unfinished", "finished"])
def test_a_run_from_before_days_were_recorded_goes_on(
    dated, questions, tmp_path, monkeypatch, today, days, n_shards
):
    monkeypatch.setattr(extract_module, "SHARD", 12)
    run = Run(tmp_path / "r")
    if n_shards == 1:
        die_after(monkeypatch, 1, dated, questions, run, **OPTIONS)
    else:
        extract(dated, questions, run, **OPTIONS)
    content = recorded(run)
    del content["parameters"]["day"]
    (run.path / "run.json").write_text(json.dumps(sealed(content)))
    today(NEXT)
    extract(dated, questions, run, **OPTIONS)
    assert "day" not in recorded(run)["parameters"], "which it was is not known"
    asked_on = run.answers()["prompt"].str.extract("Today is (.*)[.]")[0].tolist()
    assert asked_on[: 12 * n_shards] == ["25 Feb 2026"] * 12 * n_shards
    assert asked_on[12 * n_shards :] == ["26 Feb 2026"] * 12 * (2 - n_shards)


@pytest.mark.parametrize("day", ["26 Feb", "", None, 20260225, ["2026-02-25"]])
def test_a_day_that_is_none(lm, questions, interrupted, day):
    run, _ = interrupted
    content = recorded(run)
    content["parameters"]["day"] = day
    (run.path / "run.json").write_text(json.dumps(sealed(content)))
    with pytest.raises(ValueError, match=r"run\.json is damaged.*isoformat"):
        extract(lm, questions, run, **OPTIONS)


@pytest.mark.parametrize(
    "template", ["Hello!", "{{ raise_exception('no') }}", "{{ messages[0]['content'][:9] }}"]
)
@pytest.mark.parametrize("whose", ["model", "judge"])
def test_a_template_that_loses_the_question_is_refused_before_any_work(
    lm, dated, questions, tmp_path, template, whose
):
    dated.tokenizer.chat_template = template
    run = Run(tmp_path / "r")
    asked, options = (dated, {}) if whose == "model" else (lm, {"judge": dated})
    with pytest.raises(ValueError, match=r"chat template of .* cannot be used"):
        extract(asked, questions, run, **OPTIONS, **options)
    assert not run.path.exists()


def test_different_questions_that_are_one_prompt_are_refused(dated, questions, tmp_path):
    run = Run(tmp_path / "r")
    backend = dated.tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Lowercase()
    twice = questions.head(2).assign(question=["Where  is Łódź?", "where is łódź? "])
    extract(dated, twice, run, **OPTIONS, judge=lambda question, *_: question[0] == "W")
    backend.normalizer = normalizers.Replace(Regex("[0-9]"), "")
    with pytest.raises(ValueError, match=r"number 0.* and .*number 20.* same prompt"):
        extract(dated, questions, Run(tmp_path / "other"), **OPTIONS)
    assert not (tmp_path / "other").exists()


# Refused


def test_a_directory_of_another_run_is_refused(lm, questions, finished):
    with pytest.raises(ValueError, match="other parameters: max_new_tokens was 10, now 11"):
        extract(lm, questions, finished, SITES, **OPTIONS | {"max_new_tokens": 11})
    assert len(finished.answers()) == 24, "what is there is left alone"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"site": "mlp_out"}, "sites was"),
        ({"questions": 23}, "questions was .* n_questions was 24, now 23"),
        ({"p_true": True}, "p_true was False, now True"),
    ],
)
def test_other_parameters_are_named(lm, questions, finished, tmp_path, change, named):
    run = damaged_copy(finished, tmp_path)
    if "questions" in change:
        questions, change = questions.head(change["questions"]), {}
    with pytest.raises(ValueError, match=f"other parameters: .*{named}.*another run directory"):
        extract(lm, questions, run, **{"site": SITES, **OPTIONS, **change})


def test_a_damaged_claim_is_refused(lm, questions, tmp_path):
    run = Run(tmp_path / "r")
    run.begin("probe", {}).finish([])  # a folder of ours, not one that holds some run.json
    for text in ("{", "[]", "{}"):
        (run.path / "run.json").write_text(text)
        with pytest.raises(ValueError, match=r"run\.json is damaged"):
            extract(lm, questions, run, **OPTIONS)


@pytest.mark.parametrize("verdict", ["right", "wrong"])
def test_all_right_or_all_wrong(lm, questions, tmp_path, verdict):
    run = Run(tmp_path / "r")
    with pytest.raises(ValueError, match=f"All 24 answers are {verdict}") as error:
        extract(lm, questions, run, judge=lambda *_: verdict == "right", **OPTIONS)
    lines = str(error.value).splitlines()
    # The causes come first; the middle of a long message is left out.
    assert "no probe can be fitted" in lines[1]
    assert "graded fairly" in lines[-4]
    assert f"Graded {verdict} were" in lines[-4]
    shown = [line.strip().split("  ->")[0] for line in lines[-3:]]
    asked = questions["question"].tolist()[:3]
    assert all(q.startswith(s.removesuffix("…")) for s, q in zip(shown, asked, strict=True))
    assert not (run.path / "manifests").exists()
    with pytest.raises(FileNotFoundError, match="no finished extract stage"):
        run.answers()


def test_a_question_beyond_the_context(lm, questions, tmp_path):
    long = questions.copy()
    long.loc[3, "question"] = "Where is it? " * 100
    run = Run(tmp_path / "r")
    with pytest.raises(ValueError, match=r"Question q21 takes \d+ tokens; .* context of 512"):
        extract(lm, long, run, **OPTIONS)
    with pytest.raises(ValueError, match="lower max_new_tokens"):
        extract(lm, questions, run, **OPTIONS | {"max_new_tokens": 500})
    assert not run.path.exists()


def test_a_question_beyond_the_context_once_its_response_is_shown(lm, questions, tmp_path):
    """Models that count positions fail there, others write nonsense: both after hours of work."""
    long = questions.copy()
    long.loc[3, "question"] = "Where is Lyon? " * 50
    run = Run(tmp_path / "r")
    for options, message in (
        ({"p_true": True}, r"to ask for P\(True\); .* context of 512 of .*\. Leave p_true out, "),
        ({"judge": lm}, "to judge its response; .* Take another judge, shorten"),
    ):
        with pytest.raises(ValueError, match=r"Question q21 takes up to \d+ tokens " + message):
            extract(lm, long, run, **OPTIONS | options)
    long.loc[3, "candidates"] = None
    with pytest.raises(ValueError, match=r"to copy its exact answer; .* Give it candidates"):
        extract(lm, long, run, **OPTIONS)
    assert not run.path.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number of at least 1, got 0"),
        ({"batch_size": -3}, "batch_size must be a whole number of at least 1, got -3"),
        ({"site": "mlp"}, "site must be one of mlp_out, .* or several .* got 'mlp'"),
        ({"site": ["mlp_out", "mlp"]}, "or several such as 'mlp_out, mlp_act'; got"),
        ({"site": []}, r"or several such as 'mlp_out, mlp_act'; got \[\]"),
        ({"site": ["mlp_out", "mlp_out"]}, "site names one twice"),
        ({"n_samples": 3}, "Set a temperature"),
        ({"temperature": -1}, "temperature must be a number from 0 to 100, got -1"),
        ({"top_p": 0}, "top_p must be a number from 1e-06 to 1, got 0"),
    ],
)
def test_values_that_cannot_be_used(lm, questions, tmp_path, options, message):
    run = Run(tmp_path / "r")
    with pytest.raises(ValueError, match=message):
        extract(lm, questions, run, **OPTIONS | options)
    assert not run.path.exists()


def test_things_of_the_wrong_kind(lm, questions, tmp_path):
    run = Run(tmp_path / "r")
    with pytest.raises(
        TypeError, match="lm must be a LanguageModel, from load_model; got 'smollm2'"
    ):
        extract("smollm2", questions, run)
    with pytest.raises(TypeError, match=r"questions must be a DataFrame, .* got 'cities'"):
        extract(lm, "cities", run)
    with pytest.raises(TypeError, match="run must be a Run, such as"):
        extract(lm, questions, str(tmp_path))
