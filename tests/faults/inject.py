"""The k-th call on a file of a run fails, once; then the command is given again.

Calls are those of the command and its kernels on the run directory, the questions and the model:
reads (open, read, pread, mmap ...), writes (open, write, fsync, rename, unlink ...) and looks
(stat, opendir, readdir ...). Right is a run that ends as the undisturbed one, or in a sentence and
then, when the command is given again, as the undisturbed one. Everything else is listed.

The run is whole, papermill's kernels too, but its processes are forked (see zygote.py), and it
begins with the stage in which the call is, as the undisturbed run did, and ends with it. The report
is made with the last stage; the step of that name is the command on a finished run.
Charts are not drawn and probes are fitted in one process, as neither touches a file of the run.
"""

import json
import mmap
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import time
from collections import Counter, defaultdict
from contextlib import contextmanager
from errno import EIO, EMFILE, ENOSPC, ESTALE, errorcode
from itertools import islice, zip_longest
from pathlib import Path

import zygote
from campaign import STEPS, Campaign, contents
from flips import _kind

from probekit.run.directory import Run
from probekit.run.manifest import REPORT

HERE = Path(__file__).resolve().parent
ERRORS = (EIO, EMFILE, ENOSPC, ESTALE)
KINDS = ("reads", "writes", "looks")
_SECONDS = 120  # that a command may take: it takes five
_HEADER = struct.Struct("=iiiiq3qq")
_RECORD = struct.Struct("=ii24s224s")
_SIZE, _RECORDS, _FOLDERS = 4096, 1 << 16, (56, 1024)  # as in inject.c


class Shim:
    """What makes calls fail: the compiled inject.c, and the file that tells it which.

    Parameters
    ----------
    folder : Path
    roots : sequence of Path
        At most three folders whose files count.
    """

    def __init__(self, folder, roots):
        self.library, self.file = folder / "inject.so", folder / "inject.state"
        compiler = shutil.which("cc")
        if compiler is None or sys.platform != "linux":
            raise FileNotFoundError("there is no C compiler (cc), or this is not Linux")
        command = [compiler, "-shared", "-fPIC", "-O2", "-o", self.library, HERE / "inject.c"]
        subprocess.run([*command, "-ldl"], check=True)
        self.file.write_bytes(bytes(_SIZE))
        os.truncate(self.file, _SIZE + _RECORDS * _RECORD.size)
        with open(self.file, "r+b") as file:
            self.state = mmap.mmap(file.fileno(), 0)
        for i, root in enumerate(roots):
            start = _FOLDERS[0] + i * _FOLDERS[1]
            name = os.fsencode(f"{root}/")
            self.state[start : start + len(name)] = name

    @property
    def environment(self):
        """What processes need to be started with."""
        return {"LD_PRELOAD": str(self.library), "PROBEKIT_FAULT_FILE": str(self.file)}

    @contextmanager
    def counting(self, kind="reads", k=0, error=0):
        """Count calls from one on; the k-th of a kind fails."""
        _HEADER.pack_into(self.state, 0, 1, KINDS.index(kind), error, 0, k, 0, 0, 0, 0)
        try:
            yield
        finally:
            struct.pack_into("=i", self.state, 0, 0)

    def calls(self):
        """What was counted: (kind, k, call, path) of each."""
        *_, n = _HEADER.unpack_from(self.state)
        assert n <= _RECORDS
        counts, calls = Counter(), []
        for i in range(n):
            kind, _, call, path = _RECORD.unpack_from(self.state, _SIZE + i * _RECORD.size)
            counts[kind] += 1
            call, path = (
                text.partition(b"\0")[0].decode(errors="replace") for text in (call, path)
            )
            calls.append((KINDS[kind], counts[kind], call, path))
        return calls


class Calls(Campaign):
    """A campaign whose processes are forked and preloaded, with steps of few seconds.

    Parameters
    ----------
    folder : Path
        Must be empty.
    steps : sequence of str
        In which calls fail; what comes before the first is made, what comes after the last is not.
    """

    def __init__(self, folder, steps=STEPS):
        self.folder, self.steps, self.calls = folder / "calls", steps, {}
        self.place = self.folder / "disk"
        self.run = Run(self.place / "run")
        self.folder.mkdir(parents=True)
        roots = [self.run.path, self.folder / "questions", self.folder / "model"]
        self.shim = Shim(self.folder, roots)
        self.parameters = {**self._tiny(48), "max_new_tokens": 12, "folds": 2, "n_permutations": 1}
        self._start()
        self.put(None)
        for step in STEPS[: STEPS.index(steps[-1]) + 1]:
            with self.shim.counting():
                code, said = self.complete(step)
            assert code == 0, said
            self.calls[step] = self.shim.calls()
            shutil.copytree(self.run.path, self.after(step).path)
        for step in steps:
            # What the command reads of earlier steps, when it begins with this one, counts too.
            self.put(self.before(step))
            with self.shim.counting():
                code, said = self.complete(step)
            assert code == 0, said
            assert not self.differing(step), f"{step} is never the same: {self.differing(step)}"
            self.calls[step] = self.shim.calls()

    def _start(self):
        self.environment = os.environ | self.shim.environment
        self.environment |= {
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "GIT_DIR": os.devnull,  # manifests name no commit, which may change meanwhile
        }
        self.zygote = zygote.Started(self.folder, self.environment, "blank")
        self.environment["JUPYTER_PATH"] = self.zygote.jupyter_path
        self.zygote.wait()

    def close(self):
        """End all processes."""
        self.zygote.close()

    def complete(self, step):
        """Give the command, which ends with a step: its exit code (None: it hangs) and stderr.

        What follows a step depends on the files that it leaves alone.
        """
        _, *arguments = self.command()
        if step != REPORT:
            code = "import functools, sys\nfrom probekit.__main__ import main\n"
            code += "from probekit.pipeline import notebooks as n\n"
            code += f"stages = {STEPS[: STEPS.index(step) + 1]}\n"
            code += "n.run_pipeline = functools.partial(n.run_pipeline, stages=stages)\n"
            code += f"sys.exit(main({arguments[2:]}))"
            arguments = ["-c", code]
        with open(self.folder / "said", "w+") as said, open(os.devnull, "r+") as null:
            streams = null.fileno(), null.fileno(), said.fileno()
            with zygote.ask(self.zygote.socket, arguments, streams, self.environment) as connection:
                connection.settimeout(_SECONDS)
                try:
                    code = int(connection.recv(16))
                except TimeoutError:
                    code = None
            said.seek(0)
            return code, said.read()

    def differing(self, step):
        """Names of the files that are not as the undisturbed run's after a step."""
        self.expected = contents(self.after(step))
        return super().differing()

    def chosen(self, kind, n, chance, among=None):
        """So many calls of a kind, (step, k, call, path): none twice before each file has had one.

        0 means all. They are chosen among all that were counted, or those that are given.
        """
        alike = defaultdict(list)
        for step in self.steps:
            for of, k, call, path in among or self.calls[step]:
                if of == kind:
                    alike[step, call, self.named(path)].append((step, k, call, path))
        for group in alike.values():
            chance.shuffle(group)
        groups = list(alike.values())
        chance.shuffle(groups)
        rounds = (call for row in zip_longest(*groups) for call in row if call)
        return list(islice(rounds, n or None))

    def storing(self):
        """The calls of the extract stage between the first shard's activations and the last's."""
        calls = self.calls["extract"]
        moved = [i for i, (*_, call, path) in enumerate(calls) if _is_shard(call, path)]
        return calls[moved[0] + 1 : moved[-1]]

    def named(self, path):
        """A path inside the run, or that of questions or model, without what is random in it."""
        path = re.sub(r"/\.([^/]+)\.\w{8}\.part$", r"/\1", path)
        path = re.sub(r"\.[0-9a-f]{32}\.partial$|-[0-9a-f]{64}(?=\.parquet)", "", path)
        return os.path.relpath(path, self.run.path if "/disk/" in path else self.folder)

    def verdict(self, step, kind, k, error):
        """Let a call fail, and give the command again: what came out, and whether that is right."""
        self.put(self.before(step))
        with self.shim.counting(kind, k, error):
            code, stderr = self.complete(step)
        hit = [c for c in self.shim.calls() if c[:2] == (kind, k)]
        if not hit:
            return {"verdict": "not reached"}
        _, _, call, path = hit[0]
        found = {"call": call, "path": self.named(path), "said": self._sentence(stderr)}
        if code == 0:
            differing = self.differing(step)
            wrong = f"exit 0 and other content: {', '.join(differing)}" if differing else ""
            return found | {"verdict": "the same", "wrong": wrong}
        wrong = self._unclear(code, stderr, found, error)
        again, stderr = self.complete(step)
        if again != 0:
            wrong += f"; does not go on: exit {again}: {self._sentence(stderr)}"
        elif differing := self.differing(step):
            wrong += f"; goes on to other content: {', '.join(differing)}"
        return found | {"verdict": "refused", "wrong": wrong.removeprefix("; ")}

    def _unclear(self, code, stderr, found, error):
        """What is wrong with how a command failed, or nothing."""
        if code != 1:
            return "it hangs" if code is None else f"exit {code}"
        if "Traceback" in stderr or not found["said"]:
            return "a traceback"
        # Of which file, or at least of what.
        names = {part for part in Path(found["path"]).parts if part not in ("model", "notebooks")}
        found["named"] = any(name in found["said"] for name in names)
        if not found["named"] and os.strerror(error) not in found["said"]:
            return "neither file nor cause is named"
        return ""

    def _sentence(self, stderr):
        """What the command said at last, without bars and where its notebook is."""
        said = stderr.rpartition("probekit: ")[2] if "probekit: " in stderr else ""
        said = said if said or "Traceback" not in stderr else stderr.strip().splitlines()[-1]
        said = "" if "%|" in said else said  # nothing but bars
        return said.partition("\nThe notebook as far")[0].replace(str(self.folder), "")[:400]


def _is_shard(call, path):
    return call == "rename" and re.search(r"/activation/c/\d+/0/0/0$", path)


def campaign(folder, options):
    """Let calls fail, one at a time, and print what came out; returns how often that was wrong."""
    try:
        here = Calls(folder, options.steps or STEPS)
    except FileNotFoundError as error:
        print(f"calls: skipped, {error}")
        return 0
    try:
        return _campaign(here, options)
    finally:
        here.close()


def _campaign(here, options):
    for step in here.steps:
        counts = Counter(kind for kind, *_ in here.calls[step])
        print(f"{step}: " + ", ".join(f"{counts[kind]:,} {kind}" for kind in KINDS))
    chance = random.Random(options.seed)  # noqa: S311
    wanted = dict.fromkeys(("reads", "writes"), options.calls) | {"looks": options.looks}
    faults = []
    for kind, n in wanted.items():
        if n is None:
            continue
        for i, (step, k, *_) in enumerate(here.chosen(kind, n, chance)):
            errors = ERRORS if options.errors == "all" else [ERRORS[i % len(ERRORS)]]
            faults += [(step, kind, k, error) for error in errors]
    part, parts = map(int, options.part.split("/"))
    faults = faults[part - 1 :: parts]
    table, failures, start = defaultdict(Counter), [], time.monotonic()
    for step, kind, k, error in faults:
        found = here.verdict(step, kind, k, error)
        wrong = found.get("wrong")
        of = step, kind, found.get("call", "-"), _kind(found.get("path", "-"))
        table[of][errorcode[error]] += 1
        table[of]["wrong" if wrong else found["verdict"]] += 1
        table[of]["no name"] += found.get("named") is False
        if options.log:
            found = {"step": step, "kind": kind, "k": k, "error": errorcode[error]} | found
            with open(options.log, "a") as log:
                log.write(json.dumps(found) + "\n")
        if wrong:
            failures.append(found)
            what = f"{step} {kind} {k}: {found['call']} of {found['path']}, {errorcode[error]}"
            print(f"{what}: {wrong}\n    {found['said']}", flush=True)
    columns = [*(errorcode[e] for e in ERRORS), "the same", "refused", "no name"]
    columns += ["not reached", "wrong"]
    print(f"\n{'step':10} {'calls':6} {'call':8} {'file':28} " + " ".join(columns))
    total = Counter()
    for (step, kind, call, file), counts in sorted(table.items()):
        row = " ".join(f"{counts[name]:{len(name)}}" for name in columns)
        print(f"{step:10} {kind:6} {call:8} {file[:28]:28} {row}")
        total += counts
        total[kind] += sum(counts[errorcode[e]] for e in ERRORS)
    seconds = time.monotonic() - start
    print(", ".join(f"{n} {name}" for name, n in total.items()) + f"; {seconds:.0f} s")
    return len(failures)
