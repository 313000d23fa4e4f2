"""Only what is not there is absent, only what is damaged goes, and only what is ours is opened."""

import asyncio
import errno
import io
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from nightly import is_nightly
from test_mending import (
    ACTIVATIONS,
    asked,  # noqa: F401, a fixture
    contents,
    extracted,
    finished,  # noqa: F401, a fixture
    flip,
    lm,  # noqa: F401, a fixture
    run,  # noqa: F401, a fixture
)

from probekit.extraction.store import ActivationStore
from probekit.probing.cells import read_cell
from probekit.probing.workers import StoredActivations
from probekit.run.activations import read_store
from probekit.run.files import DamagedError
from probekit.run.manifest import sealed
from probekit.tokens import TOKENS

# zarr leaves coroutines behind where a write of its own fails.
pytestmark = [
    pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

N, SHARD, SHAPE = 14, 4, (3, len(TOKENS), 8)
SHARDS = [range(start, min(start + SHARD, N)) for start in range(0, N, SHARD)]
LABELS = ("id", "question", "exact_answer", "answer")
ANSWERS = pd.DataFrame({name: [f"{name} {i}" for i in range(N)] for name in LABELS})
ANSWERS["correct"] = np.arange(N) % 3 == 0
RANDOM = np.random.default_rng(0)
VALUES = RANDOM.standard_normal((N, *SHAPE)).astype(np.float16)
VALUES[:, :, 5] = np.nan
FAULTS = [errno.EIO, errno.EMFILE, errno.ESTALE, errno.ENOMEM]


def store_at(path):
    return ActivationStore(path, N, SHARD, {"model": "m", "revision": "r", "site": "mlp_out"})


def filled(path, shards=SHARDS):
    store = store_at(path)
    for members in shards:
        store.write(members, VALUES[members.start : members.stop])
    return store


@pytest.fixture
def store(tmp_path):
    store = filled(tmp_path / "run/activations.zarr")
    store.name_coordinates(ANSWERS, LABELS)
    return store


def files(folder):
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class Faults:
    """Fails once: at the k-th time that something below a folder is opened, listed or looked at."""

    def __init__(self, monkeypatch, folder):
        self.folder, self.number, self.at, self.count = str(folder), None, None, 0
        for module, name in ((io, "open"), (os, "open"), (os, "scandir"), (os, "lstat")):
            monkeypatch.setattr(module, name, self._failing(getattr(module, name)))
        monkeypatch.setattr("builtins.open", io.open)

    def _failing(self, original):
        def call(path=".", *args, **options):
            if not isinstance(path, int) and str(path).startswith(self.folder):
                self.count += 1
                if self.count == self.at:
                    raise OSError(self.number, os.strerror(self.number), str(path))
            return original(path, *args, **options)

        return call

    def arm(self, number, at):
        self.number, self.at, self.count = number, at, 0


# A failed read is not damage


@pytest.mark.parametrize("number", FAULTS)
def test_no_failed_read_makes_a_store_anything_else(store, monkeypatch, number):
    """Each call with one of the four errors; of half of the calls, but at night."""
    before, faults = files(store.path), Faults(monkeypatch, store.path)
    uses = {
        "has": lambda: store.has(1),
        "is_intact": lambda: store.is_intact(1),
        "check": lambda: store.check(ANSWERS) or True,
        "write": lambda: store.write(SHARDS[1], VALUES[4:8]) or True,
    }
    for name, use in uses.items():
        faults.arm(number, None)
        assert use()
        of = 1 if is_nightly() else 2
        for k in range(1 + of * FAULTS.index(number), faults.count + 1, of * len(FAULTS)):
            faults.arm(number, k)
            try:
                assert use() or name == "has", "a read that failed was taken for damage"
            except (OSError, ValueError) as error:
                assert os.strerror(number) in str(error)
                assert "again" in str(error), "what to do"
            faults.arm(number, None)
            if name == "write":
                use()
            assert files(store.path) == before


@pytest.mark.parametrize("number", FAULTS)
def test_a_run_of_which_a_read_failed_ends_the_same(lm, run, asked, monkeypatch, number):  # noqa: F811
    """At some of the calls, at others for each error; `make faults` has all of them."""
    whole = contents(run)
    faults = Faults(monkeypatch, run.path)

    def interrupt():
        (run.path / "manifests/extract.json").unlink(missing_ok=True)
        (run.path / "answers.parquet").unlink(missing_ok=True)

    interrupt()
    faults.arm(number, None)
    extracted(lm, run.path)
    n_calls, n_tried, refused = faults.count, 12 if is_nightly() else 4, 0
    assert n_calls > 100
    step = n_calls // n_tried
    for k in range(1 + FAULTS.index(number) * step // 4, n_calls + 1, step):
        interrupt()
        faults.arm(number, k)
        try:
            extracted(lm, run.path)
        except (OSError, ValueError) as error:
            refused += 1
            assert "again" in str(error), "a sentence that says what to do"
            faults.arm(number, None)
            extracted(lm, run.path)
        assert contents(run) == whole
    assert refused >= n_tried // 2
    assert asked == [], "nothing was lost, so nothing is asked again"


def test_a_failed_read_of_the_manifest_is_not_a_damaged_one(lm, run, monkeypatch):  # noqa: F811
    before, original = contents(run), Path.read_text

    def failing(path, **options):
        if path.name == "extract.json":
            raise OSError(errno.EIO, "Input/output error")
        return original(path, **options)

    monkeypatch.setattr(Path, "read_text", failing)
    with pytest.raises(OSError, match="could not be read"):
        extracted(lm, run.path)
    monkeypatch.undo()
    assert contents(run) == before


# What goes while a run writes, or while it is read


@pytest.mark.parametrize("name", ["activations.zarr", f"{ACTIVATIONS}/c/0", "shards"])
@pytest.mark.parametrize("when", [6, 14])
def test_what_is_deleted_meanwhile_is_missed(lm, asked, tmp_path, name, when):  # noqa: F811
    def judge(question, response, answers):
        judged.append(question)
        if len(judged) == when:
            shutil.rmtree(path / name)
        return len(response) % 2 == 1

    path, judged = tmp_path / "whole", []
    whole = contents(extracted(lm, path, judge=lambda *_: judge_nothing(*_)))
    path = tmp_path / "run"
    judge.__name__ = "<lambda>"
    with pytest.raises(ValueError, match=r"(not there|missing|no longer).* again"):
        extracted(lm, path, judge=judge)
    assert not (path / "manifests/extract.json").exists()
    assert contents(extracted(lm, path, judge=judge)) == whole


def judge_nothing(question, response, answers):
    return len(response) % 2 == 1


def test_a_finished_run_that_loses_a_shard_while_it_is_checked(lm, run, monkeypatch):  # noqa: F811
    begin = type(run).begin

    def losing(self, *args, **options):
        (run.path / ACTIVATIONS / "c/2/0/0/0").unlink()
        return begin(self, *args, **options)

    whole = contents(run)
    with monkeypatch.context() as patches:
        patches.setattr(type(run), "begin", losing)
        with pytest.raises(ValueError, match=r"c/2/0/0/0 is missing.* again"):
            extracted(lm, run.path)
    assert contents(extracted(lm, run.path)) == whole


def test_a_shard_that_goes_while_it_is_read_is_no_missing_token(run):  # noqa: F811
    activations = run.activations()
    cell = read_cell(activations, 1, 0, np.arange(14))
    assert np.isfinite(cell).all()
    sent = StoredActivations.of(activations, np.arange(14))  # to another process
    for name in ("c/1/0/0/0", "c"):
        path = run.path / ACTIVATIONS / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        for dataset in (activations, sent.activations):
            with pytest.raises(ValueError, match=r"activations\.zarr is damaged.*extract stage"):
                read_cell(dataset, 1, 0, np.arange(14))


def test_a_store_of_the_users_own_is_read_as_before(run, tmp_path):  # noqa: F811
    """By another writer, compressed; nothing is known of its shards."""
    activations = run.activations().load()
    theirs = tmp_path / "theirs.zarr"
    xr.Dataset({"activation": activations["activation"].variable}).to_zarr(
        theirs, consolidated=False
    )
    lazy = xr.open_zarr(theirs, chunks=None, consolidated=False)
    np.testing.assert_array_equal(
        read_cell(lazy, 1, 0, np.arange(14)), read_cell(activations, 1, 0, np.arange(14))
    )


def test_a_manifest_that_leaves_out_a_shard_hides_nothing(run):  # noqa: F811
    manifest = run.path / "manifests/extract.json"
    content = json.loads(manifest.read_text())
    del content["outputs"][f"{ACTIVATIONS}/c/1/0/0/0"]
    manifest.write_text(json.dumps(sealed(content)))
    run.activations()
    (run.path / ACTIVATIONS / "c/1/0/0/0").unlink()
    with pytest.raises(ValueError, match="c/1/0/0/0 is missing"):
        run.activations()


# Killed at any step


class DiedError(Exception):
    pass


def test_a_store_is_widened_or_is_as_it_was_whenever_it_is_killed(tmp_path, monkeypatch):
    wide = 1e6 * VALUES[8:12].astype(np.float32)
    narrow = filled(tmp_path / "narrow/a.zarr", [SHARDS[k] for k in (0, 1, 3)]).path
    steps, fatal = [], [None]

    def dying(name, original):
        def step(*args, **options):
            steps.append(name)
            # The dead do nothing more, in no thread.
            if fatal[0] and len(steps) >= fatal[0]:
                raise DiedError(name)
            return original(*args, **options)

        return step

    for name in ("rename", "replace", "unlink", "rmdir", "mkdir", "fsync"):
        # Nobody cuts the power here.
        original = getattr(os, name) if name != "fsync" else lambda handle: None
        monkeypatch.setattr(os, name, dying(name, original))

    def widened(path, at):
        store = store_at(Path(shutil.copytree(narrow, path)))
        steps.clear()
        fatal[0] = at
        try:
            store.write(SHARDS[2], wide)
        finally:
            while asyncio.all_tasks(zarr.core.sync._get_loop()):
                time.sleep(0.001)  # zarr's threads go on where one of them failed
            fatal[0] = None
        return store

    expected = files(widened(tmp_path / "whole.zarr", None).path)
    expected = {name.replace("whole.zarr", "died.zarr"): c for name, c in expected.items()}
    whole, path = list(steps), tmp_path / "died.zarr"
    assert {"rename", "replace", "unlink", "rmdir", "fsync"} <= {*steps}
    for k, name in enumerate(whole, start=1):
        if name in ("mkdir", "replace", "fsync") and k % (4 if is_nightly() else 12):
            continue  # zarr's own steps are many, and alike
        with pytest.raises(DiedError):
            widened(path, k)
        after = store_at(path)
        after.settle()
        assert all(map(after.is_intact, (0, 1, 3))), f"lost at step {k}, {steps[-1]}"
        after.write(SHARDS[2], wide)
        found = files(path)  # the labels' step takes away what a killed write has left
        assert {n: c for n, c in found.items() if not n.endswith(".partial")} == expected
        assert sorted(os.listdir(tmp_path)) == ["died.zarr", "narrow", "whole.zarr"]
        shutil.rmtree(path)


def test_what_is_damaged_is_not_carried_into_a_wider_store(tmp_path):
    store = filled(tmp_path / "a.zarr")
    flip(store.path / "activation/c/1/0/0/0", 100)
    store.write(SHARDS[0], 1e6 * VALUES[:4].astype(np.float32))
    assert [store.is_intact(k) for k in range(4)] == [True, False, True, True]
    with pytest.raises(ValueError, match=r"c/1/0/0/0 is missing.* again"):
        store.name_coordinates(ANSWERS, LABELS)


def test_a_shard_is_on_the_disk_before_its_answers_say_so(lm, asked, tmp_path, monkeypatch):  # noqa: F811
    synced, fsync = [], os.fsync

    def recording(handle):
        synced.append(os.path.relpath(os.readlink(f"/proc/self/fd/{handle}"), tmp_path))
        fsync(handle)

    if not os.path.exists("/proc/self/fd"):
        pytest.skip("no /proc")
    monkeypatch.setattr(os, "fsync", recording)
    extracted(lm, tmp_path)
    for k in range(4):
        part = next(i for i, name in enumerate(synced) if name.startswith(f"shards/.0000{k}-"))
        file = f"{ACTIVATIONS}/c/{k}/0/0/0"
        for name in (file, *map(str, Path(file).parents)):
            assert name in synced[:part], f"{name} before the answers of shard {k}"
        assert synced[part + 1] == "shards", "the new name too"
    assert {"activations.zarr/correct/c/0", "activations.zarr/zarr.json", "manifests"} <= {*synced}


# A store that somebody else made


def change(name, **changes):
    """Change the metadata of an array of the store, or of its group."""

    def changing(path):
        file = path / name / "zarr.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return changing


def codecs(*names):
    return [{"name": name} for name in names]


def format_2(path):
    """As zarr 2 had it: objects by a codec that runs code where it is decoded."""
    shutil.rmtree(path)
    (path / "activation").mkdir(parents=True)
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    beside_format_3(path)


def beside_format_3(path):
    (path / "activation/.zarray").write_text(
        json.dumps(
            {
                "zarr_format": 2,
                "shape": [1],
                "chunks": [1],
                "dtype": "|O",
                "fill_value": None,
                "order": "C",
                "compressor": None,
                "filters": [{"id": "pickle", "protocol": 5}],
            }
        )
    )
    (path / "activation/0").write_bytes(b"cos\nmkdir\n(S'executed'\ntR.")


def link(name):
    def linking(path):
        target, kept = path / name, path.parent / "elsewhere"
        target.rename(kept)
        target.symlink_to(kept)

    return linking


def pipe(path):
    (path / "activation/c/0/0/0/0").unlink()
    os.mkfifo(path / "activation/c/0/0/0/0")


HUGE = 10**12
HOSTILE = {
    "format 2": format_2,
    "format 2 beside 3": beside_format_3,
    "format 2 group beside 3": lambda path: (path / ".zgroup").write_text('{"zarr_format": 2}'),
    "format 2 declared": change("activation", zarr_format=2),
    "a stranger's codec": change("activation", codecs=codecs("numcodecs.pickle")),
    "of a label": change("id", codecs=codecs("vlen-utf8", "gzip", "crc32c")),
    "inside the shard": change(
        "activation",
        codecs=[
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": [SHARD, 1, 1, SHAPE[-1]],
                    "codecs": codecs("bytes", "zstd", "crc32c"),
                    "index_codecs": codecs("bytes", "crc32c"),
                },
            }
        ],
    ),
    "no checksum": change("correct", codecs="bytes"),
    "huge": change("activation", shape=[N, HUGE, HUGE, HUGE]),
    "huge and consistent": change(
        "activation",
        shape=[N, *SHAPE[:2], HUGE],
        chunk_grid={
            "name": "regular",
            "configuration": {"chunk_shape": [SHARD, *SHAPE[:2], HUGE]},
        },
        codecs=[
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": [SHARD, 1, 1, HUGE],
                    "codecs": codecs("bytes", "crc32c"),
                    "index_codecs": codecs("bytes", "crc32c"),
                },
            }
        ],
    ),
    "a huge label": change("id", shape=[HUGE]),
    "more answers": change("activation", shape=[N + 1, *SHAPE]),
    "fewer answers": change("activation", shape=[N - 1, *SHAPE]),
    "other keys": change(
        "activation", chunk_key_encoding={"name": "v2", "configuration": {"separator": "."}}
    ),
    "another grid": change("activation", chunk_grid={"name": "rectilinear", "configuration": {}}),
    "a transformer": change("activation", storage_transformers=codecs("x")),
    "another type": change("id", data_type="variable_length_bytes"),
    "other dimensions": change("activation", dimension_names=["layer", "example", "a", "b"]),
    "an array for a group": change("", node_type="array"),
    "consolidated": change("", consolidated_metadata={"kind": "inline", "metadata": {}}),
    "no dict": lambda path: (path / "activation/zarr.json").write_text("[]"),
    "a store as link": lambda path: link(path.name)(path.parent),
    "metadata as link": link("zarr.json"),
    "an array as link": link("activation"),
    "a shard as link": link("activation/c/1/0/0/0"),
    "shards as link": link("activation/c"),
    "a label as link": link("id/c/0"),
    "a pipe": pipe,
    "a stranger's file": lambda path: (path / "thesis.tex").write_text("mine"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_store_is_refused_in_a_sentence_and_left_alone(store, name, monkeypatch):
    folder = store.path.parent
    monkeypatch.chdir(folder.parent)
    HOSTILE[name](store.path)
    before = files(folder)

    def refused(use):
        with pytest.raises(ValueError, match=r"^(/|It).*[ /][\s\S]*\.$"):
            use()
        assert files(folder) == before

    refused(lambda: read_store(store.path, ANSWERS["id"]))
    refused(lambda: store.check(ANSWERS))
    if name != "a huge label":  # which the one who writes makes again
        refused(lambda: store.write(SHARDS[0], VALUES[:4]))
        other = filled(folder.parent / "other.zarr", SHARDS[:1])
        refused(lambda: store.adopt(SHARDS[0], other))
    if name in ("a huge label", "huge and consistent"):
        return
    refused(lambda: store_at(store.path).is_intact(0) or not_whole())
    if "answers" not in name:
        # As what a killed run has left, which would be moved into its place, or deleted.
        store.path.rename(store._beside("whole"))
        before = files(folder)
        refused(store.settle)
    assert not Path("executed").exists()


def not_whole():
    raise ValueError("It is not whole.")


def test_the_labels_are_those_of_the_answers(store):
    for change_answers in (
        lambda a: a[::-1],
        lambda a: a.head(N - 1),
        lambda a: a.assign(id="same"),
        lambda a: a.assign(correct=~a["correct"]),
        lambda a: a.assign(exact_answer="x"),
    ):
        with pytest.raises(ValueError, match="Run the same again"):
            store.check(change_answers(ANSWERS))
    store.check(ANSWERS)


def test_activations_of_other_answers_are_not_read(run):  # noqa: F811
    answers = run.answers()
    for other in (answers[::-1].reset_index(drop=True), answers.head(13)):
        begun = run.begin("extract", {})
        other.to_parquet(run.path / "answers.parquet")
        begun.finish([run.path / "answers.parquet", run.path / "activations.zarr"], sites=["a"])
        with pytest.raises(ValueError, match=r"activations\.zarr is damaged: .*answers"):
            run.activations()


@pytest.mark.parametrize("other", [(N + 1, SHARD), (N, SHARD + 1)])
def test_a_store_of_another_run_is_refused(store, other):
    before = files(store.path)
    theirs = ActivationStore(store.path, *other, {})
    with pytest.raises(ValueError, match="holds activations of 14 answers in shards of 4"):
        theirs.has(0)
    with pytest.raises(ValueError, match=r"shape \(3, 15, 8\) .* \(2, 15, 8\)"):
        store.write(SHARDS[0], VALUES[:4, :2])
    assert files(store.path) == before


@pytest.mark.filterwarnings("ignore:Object at .DS_Store")
def test_a_store_as_old_as_the_oldest_is_read(store):
    """What is left out, and what systems put beside it."""
    (store.path / ".DS_Store").write_bytes(b"x")
    (store.path / "activation/.nfs0001").write_bytes(b"x")
    file = store.path / "activation/zarr.json"
    metadata = json.loads(file.read_text())
    del metadata["storage_transformers"]
    metadata["chunk_key_encoding"] = {"name": "default"}
    file.write_text(json.dumps(metadata))
    found = read_store(store.path, ANSWERS["id"])
    np.testing.assert_array_equal(found["activation"], VALUES)
    assert list(found.coords) == sorted([*LABELS, "correct", "layer", "token"])


@pytest.mark.parametrize("damage", [lambda f: f.write_text("{"), Path.unlink], ids=["text", "gone"])
def test_damaged_metadata_of_ours_are_made_again(store, damage):
    damage(store.path / "activation/zarr.json")
    assert not store.has(0)
    store.write(SHARDS[0], VALUES[:4])
    assert [store.is_intact(k) for k in range(4)] == [True, False, False, False]


def test_links_beside_the_store_are_not_followed(lm, run, tmp_path):  # noqa: F811
    """Where answers are read, written and deleted."""
    part = next((run.path / "shards").glob("00002-*"))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / part.name).write_bytes(part.read_bytes())
    (run.path / "manifests/extract.json").unlink()
    shutil.move(part, tmp_path / "kept")
    for place in (part, run.path / "shards/by-workers-1", run.path / ".activations.zarr.whole"):
        place.symlink_to(mine / part.name if place == part else mine)
        with pytest.raises(ValueError, match="symbolic link"):
            extracted(lm, run.path)
        place.unlink()
    shutil.rmtree(run.path / "shards")
    (run.path / "shards").symlink_to(mine)
    with pytest.raises(ValueError, match="symbolic link"):
        extracted(lm, run.path)
    assert os.listdir(mine) == [part.name]


def test_another_writer_of_zarr_makes_no_store_of_ours(tmp_path):
    """The allowed codecs are those that are written: compressed by default, it is refused."""
    zarr.create_group(tmp_path / "a.zarr").create_array("activation", data=VALUES)
    with pytest.raises(ValueError, match="not a file that probekit writes"):
        read_store(tmp_path / "a.zarr", ANSWERS["id"])
    with pytest.raises(DamagedError, match="not there"):
        read_store(tmp_path / "b.zarr", ANSWERS["id"])
