"""What is damaged is noticed, named, and made again, and nothing else is."""

import importlib
import json
import random
import shutil

import numpy as np
import pytest

from probekit import Run, extract, load_model, read_questions
from probekit.probing.cells import read_cell
from probekit.run.files import sha256
from probekit.run.manifest import fingerprint, sealed, unsealed

extract_module, shards_module = (
    importlib.import_module("probekit.extraction.one_pass"),
    importlib.import_module("probekit.extraction.shards"),
)
ACTIVATIONS = "activations.zarr/activation"


def odd(question, response, answers):
    return len(response) % 2 == 1


@pytest.fixture(scope="module")
def lm(stopping_model_dir):
    return load_model(stopping_model_dir)


@pytest.fixture
def asked(monkeypatch):
    """Shards of four questions; collects how many questions each call of the model answers."""
    counts, generate = [], shards_module.generate

    def counting(lm, prompts, *args, **options):
        counts.append(len(prompts))
        return generate(lm, prompts, *args, **options)

    monkeypatch.setattr(extract_module, "SHARD", 4)
    monkeypatch.setattr(shards_module, "generate", counting)
    return counts


def extracted(lm, path, **options):
    questions = read_questions("cities", limit=14)
    given = {"max_new_tokens": 8, "judge": odd, "batch_size": 4, "progress": False}
    return extract(lm, questions, Run(path), **given | options)


@pytest.fixture(scope="module")
def finished(lm, tmp_path_factory):
    """A finished run in shards of four. Read only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extract_module, "SHARD", 4)
        return extracted(lm, tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture
def run(finished, asked, tmp_path):
    """A run of one's own, to be spoilt."""
    return Run(shutil.copytree(finished.path, tmp_path / "run"))


def contents(run):
    """All files of a run; of manifests what they say but for times."""
    files = {p.relative_to(run.path).as_posix(): p for p in run.path.rglob("*") if p.is_file()}
    return {
        name: fingerprint(json.loads(path.read_text()))
        if name.startswith("manifests/")
        else path.read_bytes()
        for name, path in files.items()
    }


def flip(path, position=None, bit=1):
    spoilt = bytearray(path.read_bytes())
    spoilt[len(spoilt) // 2 if position is None else position] ^= bit
    path.write_bytes(spoilt)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def read_all(run):
    return run.answers(), run.activations().load()


@pytest.mark.parametrize("spoil", [flip, truncate, lambda path: path.unlink()], ids="ftd")
@pytest.mark.parametrize(
    ("name", "again"),
    [
        (f"{ACTIVATIONS}/c/1/0/0/0", [4]),
        (f"{ACTIVATIONS}/c/3/0/0/0", [2]),
        (f"{ACTIVATIONS}/zarr.json", []),
        ("activations.zarr/zarr.json", []),
        ("activations.zarr/correct/c/0", []),
        ("activations.zarr/question/zarr.json", []),
        ("answers.parquet", []),
        ("manifests/extract.json", []),
    ],
)
def test_only_what_is_damaged_is_made_again(lm, run, asked, capsys, name, again, spoil):
    whole = contents(run)
    spoil(run.path / name)
    with pytest.raises((ValueError, FileNotFoundError), match="Run the extract stage") as e:
        read_all(run)
    assert name in str(e.value) or "no finished extract stage" in str(e.value)
    extracted(lm, run.path)
    assert asked == again
    assert contents(run) == whole
    if not name.startswith("manifests"):
        assert f"{name} is missing or damaged: it is made again" in capsys.readouterr().out


def test_several_at_once(lm, run, asked):
    whole = contents(run)
    flip(run.path / ACTIVATIONS / "c/0/0/0/0")
    flip(run.path / "answers.parquet")
    flip(next((run.path / "shards").glob("00002-*")))
    (run.path / ACTIVATIONS / "zarr.json").unlink()
    extracted(lm, run.path)
    assert asked == [4, 4]
    assert contents(run) == whole


def test_a_second_copy_of_the_answers_is_checked_before_it_is_used(lm, run, asked):
    whole = contents(run)
    flip(next((run.path / "shards").glob("00002-*")))
    read_all(run)
    extracted(lm, run.path)
    assert asked == [], "the table is there, so nothing is made of the copy"
    (run.path / "answers.parquet").unlink()
    extracted(lm, run.path)
    assert asked == [4]
    assert contents(run) == whole


def test_shards_of_an_interrupted_run_are_checked_before_they_are_built_upon(lm, run, asked):
    whole = contents(run)
    for name in ("manifests/extract.json", "answers.parquet", f"{ACTIVATIONS}/c/0/0/0/0"):
        (run.path / name).unlink()
    flip(run.path / ACTIVATIONS / "c/2/0/0/0", -300)
    truncate(run.path / ACTIVATIONS / "c/3/0/0/0")
    (run.path / "shards/by-workers-0").mkdir()
    (run.path / "shards/.00003.probekit-k3_x9abc.part").touch()
    extracted(lm, run.path)
    assert asked == [4, 4, 2]
    assert contents(run) == whole


def test_an_interrupted_run_whose_store_cannot_be_read_begins_anew(lm, run, asked):
    whole = contents(run)
    (run.path / "manifests/extract.json").unlink()
    (run.path / ACTIVATIONS / "zarr.json").write_text("{")
    extracted(lm, run.path)
    assert asked == [4, 4, 4, 2]
    assert contents(run) == whole


@pytest.mark.parametrize("spoil", [flip, truncate, lambda path: path.unlink()], ids="ftd")
def test_whose_run_it_is_is_known_from_the_manifest_too(lm, run, asked, spoil):
    whole = contents(run)
    spoil(run.path / "run.json")
    with pytest.raises(ValueError, match="other parameters: max_new_tokens was 8, now 9"):
        extracted(lm, run.path, max_new_tokens=9)
    extracted(lm, run.path, batch_size=2)
    assert asked == []
    assert contents(run) == whole
    spoil(run.path / "run.json")
    (run.path / "manifests/extract.json").unlink()
    with pytest.raises(ValueError, match=r"run\.json is (damaged: |not there)"):
        extracted(lm, run.path)


def test_a_large_shard_is_compared_in_full_where_probes_are_to_be_fitted(run, monkeypatch):
    monkeypatch.setattr("probekit.run.manifest.LARGE", 100)
    record, manifest = run.pipeline_record("extract"), run.path / "manifests/extract.json"
    record.write_text(json.dumps({"manifest": sha256(manifest)}))
    flip(run.path / ACTIVATIONS / "c/1/0/0/0", 200)
    assert run.outdated("extract", {}) is None
    expected = "activations.zarr/activation/c/1/0/0/0 is missing or damaged"
    assert run.outdated("extract", {}, thorough=True) == expected
    with pytest.raises(ValueError, match=r"activations\.zarr is damaged: .*checksum.* extract st"):
        for layer in range(3):
            for token in range(15):
                read_cell(run.activations(), layer, token, np.arange(14))


# Manifests


def test_no_flipped_bit_of_a_manifest_goes_unnoticed(run):
    path = run.path / "manifests/extract.json"
    text, known = path.read_bytes(), run.manifest("extract")
    chance = random.Random(0)  # noqa: S311
    for _ in range(300):
        flip(path, chance.randrange(len(text)), 1 << chance.randrange(8))
        try:
            assert run.manifest("extract") == known, "another way to write the same"
        except ValueError as error:
            assert "extract.json is damaged" in str(error)
        path.write_bytes(text)


def test_a_seal_is_of_all_that_is_sealed():
    content = {"a": 1, "b": {"c": [1.5, "ü", None]}}
    assert unsealed(sealed(sealed(content))) == content
    for other in (content, sealed(content) | {"a": 2}, sealed(content) | {"d": 1}, [], None):
        with pytest.raises(ValueError, match="does not hold what was written"):
            unsealed(other)


def test_the_next_stage_is_not_run_again_for_an_input_that_was_made_again_the_same(lm, run):
    manifest = run.path / "manifests/extract.json"
    run.begin("probe", {}, inputs=[manifest]).finish([])
    record = run.pipeline_record("probe")
    probe = run.path / "manifests/probe.json"
    record.write_text(json.dumps({"manifest": sha256(probe)}))
    before = manifest.read_bytes()
    flip(run.path / ACTIVATIONS / "c/1/0/0/0")
    extracted(lm, run.path)
    written = json.loads(manifest.read_bytes())
    manifest.write_text(json.dumps(sealed(written | {"seconds": 1e6})))
    assert manifest.read_bytes() != before
    assert run.outdated("probe", {}) is None
    manifest.write_text(json.dumps(sealed(written | {"results": {}})))
    assert run.outdated("probe", {}) == "manifests/extract.json has changed"
    flip(manifest)
    assert run.outdated("probe", {}) == "manifests/extract.json is missing or damaged"
