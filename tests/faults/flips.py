"""A byte flipped in each file of a finished run, one at a time; or the file cut off, or deleted."""

import random
import re
import time
from collections import Counter, defaultdict
from functools import cache
from itertools import product

from campaign import REPORT, STAGES

from probekit.extraction.store import _claimed
from probekit.pipeline import notebooks
from probekit.pipeline.report import TEMPLATE
from probekit.run.files import sha256

WAYS = ("flipped", "cut", "deleted")
_WHY_NOT = {
    "lock": "nothing is read from it but who is told to hold the lock",
    "a shard's answers": "a second copy, not read; compared with the hash in its name before it is",
}


def campaign(here, options):
    """Spoil each file, see who notices, and mend one of each kind; returns what went wrong."""
    chance = random.Random(options.seed)  # noqa: S311
    here.put(REPORT)
    # Of a run's files none decides what notebooks declare, and to read it takes most of the time.
    notebooks.notebook_parameters = cache(notebooks.notebook_parameters)
    assert noticed(here) == {}, "the undisturbed run is as it should be"
    files = _detect(here, chance)
    return files.pop("unnoticed") + _mend(here, chance, files)


def _detect(here, chance):
    """Print who notices what; returns the files of each kind, and how often nobody noticed."""
    run, tried, by = here.run, defaultdict(Counter), defaultdict(dict)
    files, unnoticed = defaultdict(list), []
    for path in sorted(p for p in run.path.rglob("*") if p.is_file() and p.stat().st_size):
        name, whole = str(path.relative_to(run.path)), path.read_bytes()
        kind = _kind(name)
        files[kind].append(name)
        for way in WAYS:
            for spoilt in spoil(whole, way, chance):
                _write(path, spoilt)
                said = noticed(here)
                tried[kind][way] += 1
                for reader, sentence in said.items():
                    count, _ = by[kind].get(reader, (0, ""))
                    by[kind][reader] = count + 1, sentence.replace(str(run.path), "RUN")
                if not said and kind not in _WHY_NOT:
                    unnoticed.append((way, name))
        _write(path, whole)
    print(f"{'kind of file':22} {'files':>5} {' '.join(WAYS)}  noticed by; the last message")
    for kind, count in tried.items():
        ways = " ".join(f"{count[way]:{len(way)}}" for way in WAYS)
        print(f"{kind:22} {len(files[kind]):5} {ways}  {_WHY_NOT.get(kind, '')}")
        for reader, (n, said) in by[kind].items():
            print(f"{'':34}  {n:4} {reader}: {said}")
    print(f"{len(unnoticed)} unnoticed: {unnoticed}\n", flush=True)
    return files | {"unnoticed": len(unnoticed)}


def _mend(here, chance, files):
    """Spoil a file of each kind in each way, and run the same command again."""
    print(f"{'mended':60} {'was':8} {'again':>7}  run again; files that differ")
    failures = 0
    for way, kind in product(WAYS, files):
        name = chance.choice(files[kind])
        here.put(REPORT)
        path = here.run.path / name
        _write(path, spoil(path.read_bytes(), way, chance)[-1])
        start = time.time()
        code, seconds, said = here.complete()
        differing = here.differing() if code == 0 else [said]
        redone = [s for s in STAGES if here.run.executed_notebook(s).stat().st_mtime > start]
        if kind in _WHY_NOT or kind == "run.json":
            differing = [d for d in differing if d != name]
        failures += bool(differing)
        print(
            f"{name[:60]:60} {way:8} {seconds:6.1f}s  {', '.join(redone) or 'nothing'}; "
            f"{', '.join(differing) or f'none of {len(here.expected)}'}",
            flush=True,
        )
    return failures


def spoil(whole, way, chance):
    """A file's content after a fault, once or more often; None where it is gone."""
    if way == "deleted":
        return [None]
    anywhere = chance.randrange(len(whole))
    if way == "cut":
        return [b"", whole[:anywhere]]
    spoilt = []
    for position in (0, len(whole) - 1, anywhere):
        bit = 1 << chance.randrange(8)
        spoilt.append(whole[:position] + bytes([whole[position] ^ bit]) + whole[position + 1 :])
    return spoilt


def _write(path, content):
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


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
        why = notebooks._outdated(here.run, stage, here.parameters)
        if why:
            raise ValueError(f"{stage}: {why}, run again")
    key = {"template": sha256(TEMPLATE)}
    why = here.run.outdated(REPORT, key)
    if why:
        raise ValueError(f"report: {why}, made again")


def _claim(run):
    """What `extract` looks at of run.json, which it mends by the manifest."""
    manifest = run.path / "manifests/extract.json"
    beside = manifest.with_name(".extract.beside")
    if manifest.exists():
        manifest.rename(beside)
    try:
        _claimed(run, run.path / "run.json")
    finally:
        if beside.exists():
            beside.rename(manifest)


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
