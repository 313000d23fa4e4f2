"""Campaigns of faults against `probekit run`: kills, flipped bytes, full disks, failing calls.

    make faults                                                  # all four, with a tiny model
    make faults ARGS="kills --model real --kills 14 --seed 1"
    make faults ARGS="flips --model real --folder /tmp/faults"   # what is there is used again

    make faults ARGS="calls --part 1/2 --log calls.jsonl"        # one of two processes

Each begins with an undisturbed run and keeps what is there when each of its stages is finished.
Every fault is then tried on a copy, at the same path, the same command is run again, and each
file is compared with the undisturbed run's: its bytes, but for times, how far progress bars are,
and ids that are drawn at random. Prints a table; the exit code is 1 if anything differs.
"""

# ruff: noqa: E402
import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import psutil
from tiny import STOPS, save_tiny_model, write_questions

from probekit.run.directory import Run
from probekit.run.manifest import REPORT, STAGES

STEPS = (*STAGES, REPORT)
WITH = {
    "tiny": {"max_new_tokens": 12},
    "real": {"model": "smollm2", "limit": 60, "max_new_tokens": 32},
}
_TICK = 0.02  # seconds
SMALL = {"folds": 3, "n_permutations": 3}


class Campaign:
    """An undisturbed run, step by step, and the place where others are disturbed.

    Parameters
    ----------
    folder : Path
    model : {"tiny", "real"}
    """

    def __init__(self, folder, model):
        self.folder = folder / model
        self.place = self.folder / "disk"  # where a small disk may be mounted
        self.run = Run(self.place / "run")
        self.parameters = WITH[model] | SMALL
        if model == "tiny":
            self.parameters |= self._tiny()
        self._undisturbed()
        self.expected = contents(self.after(REPORT))

    def _tiny(self, n=600):  # three shards
        model, questions = self.folder / "model", self.folder / "questions"
        if not questions.exists():
            save_tiny_model(model, STOPS)
            write_questions(questions, n)
        return {"model": str(model), "questions": str(questions / "questions.csv")}

    def _undisturbed(self):
        """Run stage by stage, and keep what is there after each, with the seconds it took."""
        if self.after(REPORT).path.exists():
            self.seconds = json.loads((self.folder / "seconds.json").read_text())
            return
        self.seconds = {}
        self.put(None)
        for n, step in enumerate(STEPS):
            stages = list(STAGES[: n + 1])
            code = f"import probekit; probekit.run_pipeline({str(self.run.path)!r}, stages={stages}"
            code += f", progress=False, **{self.parameters})"
            command = self.command() if step == REPORT else [sys.executable, "-c", code]
            with open(self.folder / "undisturbed.log", "w+") as log:
                process = subprocess.Popen(command, stdout=log, stderr=log)
                # What a disturbed run takes from the command's start to the end of the stage.
                self.seconds[step] = wait(process)
                log.seek(0)
                assert process.returncode == 0, log.read()[-3000:]
            shutil.copytree(self.run.path, self.after(step).path)
        (self.folder / "seconds.json").write_text(json.dumps(self.seconds))
        print("undisturbed:", ", ".join(f"{s} {t:.0f} s" for s, t in self.seconds.items()))

    def after(self, step):
        """What the undisturbed run was when a step of it was finished."""
        return Run(self.folder / "after" / step)

    def before(self, step):
        """The step before one, or None."""
        return STEPS[STEPS.index(step) - 1] if step != STEPS[0] else None

    def put(self, step):
        """Bring the place into the state after a step; None empties it."""
        shutil.rmtree(self.run.path, ignore_errors=True)
        self.place.mkdir(parents=True, exist_ok=True)
        if step is not None:
            shutil.copytree(self.after(step).path, self.run.path)

    def command(self):
        """What a user would type."""
        command = [sys.executable, "-m", "probekit", "run", "--run-dir", str(self.run.path)]
        return command + [
            part for name, value in self.parameters.items() for part in ("-p", name, str(value))
        ]

    def start(self):
        """Start the command, in a process group of its own."""
        return subprocess.Popen(
            self.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip

    def complete(self):
        """Run the command to its end: exit code, seconds, what it said at last and before."""
        start = time.monotonic()
        done = subprocess.run(self.command(), capture_output=True, text=True, timeout=1800)
        lines = [line for line in re.split(r"[\r\n]", done.stderr) if line.startswith("probekit: ")]
        lines = [line for line in lines if "%|" not in line]  # progress bars
        return done.returncode, time.monotonic() - start, "\n".join(lines) or done.stderr[-500:]

    def step_in_progress(self):
        """The first step that is not finished."""
        return next((s for s in STEPS if not self.run.pipeline_record(s).exists()), "finished")

    def differing(self):
        """Names of the files that are not as the undisturbed run's, with what is missing."""
        found = contents(self.run)
        names = sorted({*found, *self.expected})
        return [name for name in names if found.get(name) != self.expected.get(name)]


def wait(process, seconds=1800, file=None):
    """Let seconds pass, or less if a process is over or a file is there before; return them.

    While the machine sleeps no time passes here, unlike by the clock.
    """
    ticks = 0
    while ticks * _TICK < seconds and process.poll() is None and not (file and file.exists()):
        time.sleep(_TICK)
        ticks += 1
    return ticks * _TICK


def kill(process, everything=True):
    """SIGKILL to a command's process group; to its kernel and workers too, or not."""
    children = psutil.Process(process.pid).children(recursive=True) if everything else []
    os.killpg(process.pid, 9)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait()


# What of a file must be equal

_RANDOM = [
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UUID"),  # xarray's HTML
    (r"T_[0-9a-f]{5}", "STYLE"),  # pandas' styles
    (r"IPY_MODEL_[0-9a-f]{32}|\b[0-9a-f]{32}\b", "WIDGET"),
    (r"/tmp/ipykernel_\d+", "KERNEL"),  # noqa: S108
    (r"\bcell-id=[0-9a-f]{8}\b", "CELL"),  # papermill's, of the cell it injects
]
_TIMES = ("started", "seconds", "seal")
# An extract stage that mends a run says so in its notebook, once per damaged file.
_MENDED = r"\S+ is missing or damaged: it is made again\.\n"
_MENDED_AREA = (
    r'<div class="output_area">\n<div class="[^"]*output_stdout output_text">\n'
    rf"<pre>(?:{_MENDED})+</pre>\n</div>\n</div>\n"
)
# What is left in a report of progress bars; where nothing was left to do there was none.
_EMPTY_AREA = (
    r'<div class="output_wrapper">\s*<div class="output">\s*'
    r'(?:<div class="output_area">\s*</div>\s*)+</div>\s*</div>\s*'
)


def contents(run):
    """What must be equal of every file of a run, by name; the lock's own are left out."""
    files = {str(p.relative_to(run.path)): p for p in run.path.rglob("*") if p.is_file()}
    return {name: _kept(name, p) for name, p in files.items() if not name.startswith(".lock")}


def _kept(name, path):
    content = path.read_bytes()
    if name.startswith("manifests/"):
        return _without_times(json.loads(content))
    if name.endswith(".ipynb"):
        return _notebook(json.loads(content))
    if name == "report.html":
        return _report(content.decode())
    return content


def _without_times(manifest):
    """A manifest or record; notebooks' and reports' own hashes are of their times too."""
    manifest = {name: value for name, value in manifest.items() if name not in _TIMES}
    for name in ("manifest", "executed notebook"):
        manifest.pop(name, None)
    for listed in ("inputs", "outputs"):
        if listed in manifest:
            manifest[listed] = {
                name: digest
                for name, digest in manifest[listed].items()
                if not name.endswith((".ipynb", "report.html"))
                and not (name.startswith("manifests/") and manifest["stage"] == REPORT)
            }
    return manifest


def _notebook(notebook):
    """Sources and outputs, but for stderr, where the progress bars are, and what was mended."""
    kept = []
    for cell in notebook["cells"]:
        outputs = [
            o
            for o in cell.get("outputs", [])
            if o.get("name") != "stderr" and not re.fullmatch(f"(?:{_MENDED})+", _text(o))
        ]
        kept.append([cell["source"], cell.get("execution_count"), outputs])
    return _without_random(json.dumps(kept))


def _text(output):
    """What a stream printed; a notebook may hold it by lines."""
    return "".join(output.get("text", ""))


def _report(page):
    """Without the times and hashes that its manifests tell of executed notebooks."""
    page = re.sub(_MENDED_AREA, "", page)
    page = re.sub(_EMPTY_AREA, "", page)
    page = re.sub(r"\d{4}-\d\d-\d\dT[\d:+]+", "TIME", page)
    page = re.sub(r"[\d.,]+ s\b", "SECONDS", page)
    page = re.sub(r"(notebooks/[\w.]+ipynb\W.*?)[0-9a-f]{64}", r"\1HASH", page)
    return _without_random(page)


def _without_random(text):
    for pattern, name in _RANDOM:
        text = re.sub(pattern, name, text)
    return text


def main():
    """Run a campaign, or all."""
    import flips
    import full
    import inject
    import kills

    campaigns = {"kills": kills.campaign, "flips": flips.campaign, "full": full.campaign}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*campaigns, "calls"]
    parser.add_argument("campaign", nargs="?", choices=[*names, "all"], default="all")
    parser.add_argument("--model", choices=WITH, default="tiny")
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where runs lie (default: a temporary one)")
    group = parser.add_argument_group("calls that fail")
    group.add_argument("--calls", type=int, default=400, help="reads, and writes; 0: all")
    group.add_argument("--looks", type=int, help="stat and the like (default: none); 0: all")
    group.add_argument("--errors", choices=["all", "rotate"], default="rotate")
    group.add_argument("--steps", nargs="*", choices=STEPS, help="in which calls fail")
    group.add_argument("--part", default="1/1", help="1/2 and 2/2 share the work")
    group.add_argument("--log", type=Path, help="add each fault to this file, a JSON line each")
    options = parser.parse_args()
    names = names if options.campaign == "all" else [options.campaign]
    with tempfile.TemporaryDirectory(prefix="probekit-faults-") as temporary:
        folder, failures = options.folder or Path(temporary), 0
        # After a campaign that failed the others are run too.
        if set(names) - {"calls"}:
            here = Campaign(folder, options.model)
            failures += sum(campaigns[name](here, options) for name in names if name in campaigns)
        if "calls" in names:
            failures += inject.campaign(Path(temporary), options)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
