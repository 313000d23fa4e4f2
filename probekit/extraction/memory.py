"""How much memory there is for this process, and whether it ran out.

What a container may take is up to its control groups; the machine's numbers say nothing of it.
"""

import errno
import hashlib
from pathlib import Path

import psutil
import torch

_PROCESS = Path("/proc/self")
_COUNTED = Path("/proc/vmstat"), "oom_kill"

# Files of a control group, version 2 and version 1: the most, what is used, and what of that is
# copies of files that the system drops when it needs room; and where deaths are counted.
_FILES = {
    "cgroup2": ("memory.max", "memory.current", "inactive_file", "memory.events"),
    "cgroup": (
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
        "memory.oom_control",
    ),
}

# What torch says where it raises no OutOfMemoryError: on the CPU, on Apple's chips, in a library.
_SAID = (
    "DefaultCPUAllocator",
    "not enough memory",
    "out of memory",
    "allocate memory",
    "_STATUS_ALLOC_FAILED",  # of cuBLAS, cuDNN, cuSOLVER
)


def is_out_of_memory(error):
    """Whether an error says that there was no memory for a tensor, an array or anything else."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID)


def available():
    """Bytes that this process may still take: of the machine, and of its control groups."""
    free = [psutil.virtual_memory().available]
    for kind, group in _groups():
        most, used, dropped, _ = _FILES[kind]
        limit, usage = _number(group / most), _number(group / used)
        if limit is not None and usage is not None:
            free.append(limit - usage + (_number(group / "memory.stat", dropped) or 0))
    return max(0, min(free))


def on_gpus(devices):
    """Bytes that this process may still take on the fullest of some GPUs."""
    # What torch keeps for tensors to come is taken, as the driver sees it, but nothing is in it.
    return min(
        torch.cuda.mem_get_info(device)[0]
        + torch.cuda.memory_reserved(device)
        - torch.cuda.memory_allocated(device)
        for device in devices
    )


def deaths():
    """Processes that were killed for lack of memory, by counter; the most specific one first."""
    boot = _read(Path("/proc/sys/kernel/random/boot_id"))
    counted = {boot: _number(*_COUNTED)}
    # Only its own group: what is counted above it are other processes too.
    for kind, group in _groups()[:1]:
        # Another container's group may have the same name, but is another folder.
        counter = f"{boot} {group} {group.stat().st_ino}"
        counted = {counter: _number(group / _FILES[kind][3], "oom_kill"), **counted}
    # By hashes, since they are written into the run directory.
    return {
        hashlib.sha256(counter.encode()).hexdigest()[:16]: n
        for counter, n in counted.items()
        if n is not None
    }


def ran_out(before):
    """Whether memory ran out since `deaths` gave `before`: the first counter in both decides."""
    now = deaths()
    return next((now[counter] > n for counter, n in before.items() if counter in now), False)


def _groups():
    """The control groups of memory that this process is in: kind and folder, its own first."""
    mounts = {}
    for line in _read(_PROCESS / "mountinfo").splitlines():
        mount, _, system = line.partition(" - ")
        kind, _, options = system.split(" ", 2)
        if kind in _FILES:
            root, place = mount.split()[3:5]
            mounts[kind if kind == "cgroup2" else options] = kind, root, place
    for line in _read(_PROCESS / "cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        for options, (kind, root, place) in mounts.items():
            has_memory = "memory" in controllers.split(",") and "memory" in options.split(",")
            if not (has_memory if kind == "cgroup" else number == "0"):
                continue
            # In a container the mount may begin at its group, by the name that this has outside.
            inside = Path(path).relative_to(root) if Path(path).is_relative_to(root) else Path()
            group = Path(place, inside)
            groups = [g for g in (group, *group.parents) if g.is_relative_to(place)]
            found = [(kind, g) for g in groups if (g / _FILES[kind][0]).exists()]
            if found:
                return found
    return []


def _read(path):
    try:
        return path.read_text().strip()
    except OSError:  # another system, or one that doesn't show it
        return ""


def _number(path, name=None):
    """The number in a file, or after a name in it; None if there is none."""
    for line in _read(path).splitlines():
        key, _, value = line.rpartition(" ")
        if key == (name or "") and value.isdecimal():
            return int(value)
    return None
