"""kill -9 at random moments of every stage, and the same command again."""

import random
from collections import Counter

from campaign import STEPS, kill, wait

from probekit.run.manifest import REPORT


def campaign(here, options):
    """Kill as often as asked for, spread over the steps; returns how often files differed.

    In every other round the moment is drawn from the time in which the stage itself is at work, a
    small part of what the command takes. Every other time the command alone is killed, and its
    kernel is left to notice.
    """
    chance = random.Random(options.seed)  # noqa: S311
    print(f"{'killed in':12} {'after':>7} {'with':8} {'left':32} {'again':>7}  files that differ")
    killed, equal = Counter(), Counter()
    while killed.total() < options.kills:
        n = killed.total()
        step = STEPS[n % len(STEPS)]
        here.put(here.before(step))
        process = here.start()
        if n // len(STEPS) % 2 and step != REPORT:
            seconds = wait(process, file=here.run.path / ".lock/stage.json")
            takes = min(here.after(step).manifest(step)["seconds"], here.seconds[step])
            seconds += wait(process, takes * chance.random())
        else:
            # Not in the seconds in which Python starts, mostly: nothing is written then.
            seconds = wait(process, here.seconds[step] * chance.uniform(0.25, 1))
        everything = chance.random() < 0.5
        if process.poll() is not None:
            continue  # too late, once more
        kill(process, everything)
        step_was = here.step_in_progress()
        killed[step_was] += 1
        left = _left(here)
        code, again, said = here.complete()
        differing = here.differing() if code == 0 else [said]
        equal[step_was] += not differing
        print(
            f"{step_was:12} {seconds:6.1f}s {'kernel' if everything else 'alone':8} {left:32} "
            f"{again:6.1f}s  {', '.join(differing) or f'none of {len(here.expected)}'}",
            flush=True,
        )
    print("ended as the undisturbed run:")
    for step, n in killed.items():
        print(f"{step:12} {equal[step]} of {n}")
    print(f"{'all':12} {equal.total()} of {killed.total()}")
    return killed.total() - equal.total()


def _left(here):
    """What a kill left: files, shards, and things half written."""
    paths = [p for p in here.run.path.rglob("*") if p.is_file() and ".lock" not in p.parts]
    shards = sum(p.parent.name == "shards" for p in paths)
    half = sum(p.name.endswith((".part", ".partial", ".unfinished.ipynb")) for p in paths)
    return f"{len(paths)} files, {shards} shards, {half} half"
