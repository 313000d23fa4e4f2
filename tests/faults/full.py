"""A disk that is full or read-only, in every stage; then it is not, and the command goes on."""

import random
import shutil
from itertools import product

from campaign import STEPS
from small_disk import small_disk

_SHARES = (0.02, 0.5, 0.95, None)
_SAYS = {
    True: "cannot be written: Read-only file system",
    False: "cannot be written: No space left",
}


def campaign(here, options):
    """Give each step less room than it takes, or none; returns how often the result was another."""
    chance = random.Random(options.seed)  # noqa: S311
    print(f"{'full in':10} {'room':>13} {'of':>10} {'again':>7}  what it said; files that differ")
    failures = 0
    for step, share in product(STEPS, _SHARES):
        before = here.before(step)
        used = _kilobytes(here.after(before).path) if before else 0
        needed = _kilobytes(here.after(step).path) - used
        room = int(needed * (share or 2) * chance.uniform(0.9, 1)) + 8
        shutil.rmtree(here.run.path, ignore_errors=True)
        with small_disk(here.place, used + room) as disk:
            if disk is None:
                print("skipped: no file system can be mounted here, that takes root")
                return 0
            here.put(before)
            if share is None:
                disk.protect()
            code, _, said = here.complete()
            clear = code == 1 and _SAYS[share is None] in said and "Traceback" not in said
            disk.grow(200_000 + used + needed)
            again, seconds, problem = here.complete()
            differing = here.differing() if again == 0 else [problem]
        failures += bool(differing or not clear)
        print(
            f"{step:10} {f'{room:,} kB' if share else 'read-only':>13} {needed:7,} kB "
            f"{seconds:6.1f}s  exit {code}: {said}; "
            f"{', '.join(differing) or f'none of {len(here.expected)}'}",
            flush=True,
        )
    print(f"{failures} of {len(STEPS) * len(_SHARES)} without a clear error, or ended otherwise")
    return failures


def _kilobytes(folder):
    """What files take on a disk that is divided into pages."""
    paths = list(folder.rglob("*"))
    return sum(-(-p.stat().st_size // 4096) * 4 if p.is_file() else 0 for p in paths)
