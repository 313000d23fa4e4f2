"""A byte flipped in each file of a finished run, one at a time."""

import random
import re
import shutil
import time
from collections import defaultdict

from campaign import REPORT, STAGES

from probekit.mending import _claimed
from probekit.pipeline import _outdated
from probekit.report import TEMPLATE
from probekit.resources import sha256

_WHY_NOT = {
    "lock": "nothing is read from it but who is told to hold the lock",
    "a shard's answers": "a second copy, not read; compared with the hash in its name before it is",
}


def campaign(here, options):
    """Flip, see who notices, and mend one file of each kind; returns how many went unnoticed."""
    chance = random.Random(options.seed)  # noqa: S311
    here.put(REPORT)
    run = here.run
    assert noticed(here) == {}, "the undisturbed run is as it should be"
    found, unnoticed, files = defaultdict(lambda: defaultdict(int)), [], defaultdict(list)
    for path in sorted(p for p in run.path.rglob("*") if p.is_file() and p.stat().st_size):
        name, whole = str(path.relative_to(run.path)), path.read_bytes()
        kind = _kind(name)
        files[kind].append(name)
        for position in {0, len(whole) - 1, chance.randrange(len(whole))}:
            spoilt = bytearray(whole)
            spoilt[position] ^= 1 << chance.randrange(8)
            path.write_bytes(spoilt)
            by = noticed(here)
            for reader, said in by.items():
                found[kind][reader] += 1
                files[kind, reader] = said.replace(str(run.path), "RUN")
            found[kind]["flips"] += 1
            if not by and kind not in _WHY_NOT:
                unnoticed.append((name, position))
            path.write_bytes(whole)
    print(f"{'kind of file':22} {'files':>5} {'flips':>5}  noticed by; the last message")
    for kind, counts in found.items():
        flips = counts.pop("flips")
        print(f"{kind:22} {len(files[kind]):5} {flips:5}  {_WHY_NOT.get(kind, '')}")
        for reader, n in counts.items():
            print(f"{'':34}  {n:4} {reader}: {files[kind, reader]}")
    print(f"{len(unnoticed)} unnoticed: {unnoticed}")
    failures = len(unnoticed)
    print(f"\n{'mended':60} {'again':>7}  run again; files that differ")
    for kind in found:
        name = chance.choice(files[kind])
        here.put(REPORT)
        path = run.path / name
        spoilt = bytearray(path.read_bytes())
        spoilt[chance.randrange(len(spoilt))] ^= 1
        path.write_bytes(spoilt)
        start = time.time()
        code, seconds, said = here.complete()
        differing = here.differing() if code == 0 else [said]
        redone = [s for s in STAGES if run.executed_notebook(s).stat().st_mtime > start]
        if kind in _WHY_NOT or kind == "run.json":
            differing = [d for d in differing if d != name]
        failures += bool(differing)
        print(
            f"{name[:60]:60} {seconds:6.1f}s  {', '.join(redone) or 'nothing'}; "
            f"{', '.join(differing) or f'none of {len(here.expected)}'}",
            flush=True,
        )
    return failures


def noticed(here):
    """Which uses of a run notice that something is wrong, and what they say."""
    run, by = here.run, {}
    for reader, read in {
        "probekit run": lambda: _again(here),
        "extract": lambda: _claim(run),
        "run.answers": run.answers,
        "run.activations": lambda: run.activations().load(),
        "run.grid": lambda: [run.grid(split) for split in ("random", "answer", "published")],
        "run.controls": lambda: [run.controls(split) for split in ("random", "answer")],
    }.items():
        try:
            read()
        except (ValueError, FileNotFoundError) as error:
            by[reader] = str(error)
    return by


def _again(here):
    """What `probekit run` looks at before it runs a stage, for all stages."""
    for stage in STAGES:
        why = _outdated(here.run, stage, here.parameters)
        if why:
            raise ValueError(f"{stage}: {why}, run again")
    key = {"template": sha256(TEMPLATE)}
    why = here.run.outdated(REPORT, here.run.pipeline_record(REPORT), key)
    if why:
        raise ValueError(f"report: {why}, made again")


def _claim(run):
    """What `extract` looks at of run.json, which it mends by the manifest."""
    manifest = run.path / "manifests/extract.json"
    beside = shutil.move(manifest, run.path / "manifests/.extract.beside")
    try:
        _claimed(run, run.path / "run.json")
    finally:
        shutil.move(beside, manifest)


def _kind(name):
    for pattern, kind in {
        r"\.lock/.*": "lock",
        r"shards/.*": "a shard's answers",
        r"activations\w*\.zarr/activation/c/.*": "a shard's activations",
        r"activations\w*\.zarr/.*zarr\.json": "the store's metadata",
        r"activations\w*\.zarr/.*": "the store's labels",
        r"manifests/\..*": "record of a notebook",
        r"manifests/.*": "manifest",
        r"notebooks/.*": "executed notebook",
        r"figures/.*": "figure",
    }.items():
        if re.fullmatch(pattern, name):
            return kind
    return name
