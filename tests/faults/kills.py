"""kill -9 at random moments of every stage, and the same command again."""

import random
import time
from collections import Counter

from campaign import STEPS, kill


def campaign(here, options):
    """Kill as often as asked for, spread over the steps; returns how often files differed.

    Every other time the command alone is killed, and its kernel is left to notice.
    """
    chance = random.Random(options.seed)  # noqa: S311
    print(f"{'killed in':12} {'after':>7} {'with':8} {'left':32} {'again':>7}  files that differ")
    killed, failures = Counter(), 0
    for n in range(options.kills):
        step = STEPS[n % len(STEPS)]
        before = here.before(step)
        here.put(before)
        # Not in the seconds in which Python starts, mostly: nothing is written then.
        seconds = here.seconds[step] * chance.uniform(0.25, 1)
        process = here.start()
        time.sleep(seconds)
        everything = n % 2 == 0
        if process.poll() is None:
            kill(process, everything)
        step_was = here.step_in_progress()
        killed[step_was] += 1
        left = _left(here)
        code, again, said = here.complete()
        differing = here.differing() if code == 0 else [said]
        failures += bool(differing)
        print(
            f"{step_was:12} {seconds:6.1f}s {'kernel' if everything else 'alone':8} {left:32} "
            f"{again:6.1f}s  {', '.join(differing) or f'none of {len(here.expected)}'}",
            flush=True,
        )
    print(f"{sum(killed.values())} kills:", ", ".join(f"{s} {c}" for s, c in killed.items()))
    print(f"{failures} of {options.kills} ended otherwise than the undisturbed run")
    return failures


def _left(here):
    """What a kill left: files, shards, and things half written."""
    paths = [p for p in here.run.path.rglob("*") if p.is_file() and ".lock" not in p.parts]
    shards = sum(p.parent.name == "shards" for p in paths)
    half = sum(p.name.endswith((".part", ".partial", ".unfinished.ipynb")) for p in paths)
    return f"{len(paths)} files, {shards} shards, {half} half"
