import errno
import os
import subprocess
import sys

import numpy as np
import psutil
import pytest
import torch

from probekit.extraction import memory
from probekit.probing.grid import _processes

GB = 10**9


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Control groups and a process in them, as the system shows them."""

    def make(cgroup, mounts, **groups):
        for path, files in groups.items():
            folder = tmp_path / "mount" / path.strip("_").replace("__", "/")
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                (folder / name.replace("_", ".", 1)).write_text(f"{content}\n")
        (tmp_path / "cgroup").write_text(cgroup)
        (tmp_path / "mountinfo").write_text(mounts.format(place=tmp_path / "mount"))
        (tmp_path / "vmstat").write_text("nr_free_pages 7\noom_kill 41\n")
        monkeypatch.setattr(memory, "_PROCESS", tmp_path)
        monkeypatch.setattr(memory, "_COUNTED", (tmp_path / "vmstat", "oom_kill"))
        return tmp_path / "mount"

    return make


V2 = "30 23 0:26 / {place} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "35 31 0:32 {root} {{place}} rw - cgroup cgroup rw,memory\n"


def group(most, used, inactive=0, kills=0):
    events = f"low 0\nhigh 0\nmax 9\noom 2\noom_kill {kills}\noom_group_kill 0"
    stat = f"anon 5\ninactive_anon 99\ninactive_file {inactive}\nactive_file 77"
    return {
        "memory_max": most, "memory_current": used, "memory_stat": stat, "memory_events": events,
    }  # fmt: skip


def test_the_smallest_of_all_groups_above_counts(system):
    outer, inner = group(3 * GB, 2 * GB, GB // 2, 5), group("max", GB, kills=3)
    system("0::/user/job\n", V2, user=outer, user__job=inner)
    assert memory.available() == min(3 * GB // 2, psutil.virtual_memory().available)
    assert list(memory.deaths().values()) == [3, 41], "its own group's, then the machine's"


def test_more_than_is_allowed_leaves_nothing(system):
    system("0::/job\n", V2, job=group(GB, 2 * GB))
    assert memory.available() == 0


@pytest.mark.parametrize(("path", "root"), [("/docker/a", "/"), ("/docker/a", "/docker/a")])
def test_version_1_and_containers_that_see_only_their_own(system, path, root):
    files = {
        "memory_limit_in_bytes": GB,
        "memory_usage_in_bytes": GB // 2,
        "memory_stat": f"inactive_file 1\ntotal_inactive_file {GB // 4}",
        "memory_oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2",
    }
    place = "docker__a" if root == "/" else "_"
    system(f"5:cpu:/x\n4:memory:{path}\n0::/\n", V1.format(root=root), **{place: files})
    assert memory.available() == 3 * GB // 4
    assert list(memory.deaths().values()) == [2, 41]


def test_a_system_without_groups(system, tmp_path):
    system("", "")
    assert memory.available() == pytest.approx(psutil.virtual_memory().available, rel=0.5)
    assert list(memory.deaths().values()) == [41]
    for name in ("cgroup", "mountinfo", "vmstat"):
        (tmp_path / name).unlink()
    assert memory.available() > 0
    assert memory.deaths() == {}
    assert not memory.ran_out({})


def test_a_group_that_was_made_again_is_another(system):
    place = system("0::/job\n", V2, job=group(GB, 0, kills=0))
    before = memory.deaths()
    (place / "job").rename(place / "old")
    system("0::/job\n", V2, job=group(GB, 0, kills=0))
    assert before != memory.deaths()
    assert not memory.ran_out(before)
    (place.parent / "vmstat").write_text("oom_kill 42\n")
    assert memory.ran_out(before)


@pytest.mark.parametrize(
    ("free", "kept", "expected"), [((8, 2), (0, 0), 2), ((8, 1), (0, 1), 2), ((2, 9), (2, 2), 4)]
)
def test_the_fullest_gpu_decides_and_what_torch_keeps_for_later_is_free(
    monkeypatch, free, kept, expected
):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda d: (free[d] * GB, 80 * GB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda d: (5 + kept[d]) * GB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda d: 5 * GB)
    assert memory.on_gpus({0, 1}) == expected * GB


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_says_that_memory_ran_out(error, expected):
    assert memory.is_out_of_memory(error) == expected


@pytest.mark.parametrize("make", [torch.empty, np.empty])
def test_too_large_a_tensor_or_array_on_the_cpu(make):
    with pytest.raises((RuntimeError, MemoryError)) as error:
        make(10**16)
    assert memory.is_out_of_memory(error.value)


def test_only_the_processors_that_this_process_may_use_are_counted():
    command = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    command += (
        "from probekit.probing.grid import _processes; print(_processes(64, 0, 0, None, None))"
    )
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1"
    assert _processes(64, 0, 0, None, None) <= os.cpu_count()
