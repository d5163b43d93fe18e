"""Memory and CPU limits, in file trees like those of kernels and container engines, and in real control groups."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import psutil
import pytest

from imagegen_core.resources.control_groups import MemoryLimit, cpu_limit, memory_limit
from imagegen_core.resources.cpus import usable_cpus
from imagegen_core.resources.memory import system_memory

MB = 1_000_000
NO_LIMIT_V1 = "9223372036854771712"  # PAGE_COUNTER_MAX in pages, as version 1 writes it
V2 = "30 23 0:26 {top} {point} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = "35 31 0:32 {top} {point} rw,relatime shared:9 - cgroup cgroup rw,{controllers}"


def _tree(root: Path, group: str, mounts: str, files: dict[str, str]) -> Path:
    """Create a root folder with ``/proc/self/cgroup``, ``/proc/self/mountinfo`` and the groups' files."""
    for name, text in {"proc/self/cgroup": group, "proc/self/mountinfo": mounts, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def _v2(folder: str, limit: str = "max", used: int = 0, cache: int = 0, **more: str) -> dict[str, str]:
    active = cache // 3
    statistics = f"anon {used - cache}\nfile {cache}\nactive_file {active}\ninactive_file {cache - active}"
    return {
        f"{folder}/memory.max": limit,
        f"{folder}/memory.current": str(used),
        f"{folder}/memory.stat": statistics,
        **{f"{folder}/{name.replace('_', '.', 1)}": text for name, text in more.items()},
    }


def _v1(folder: str, limit: str = NO_LIMIT_V1, used: int = 0, cache: int = 0) -> dict[str, str]:
    return {
        f"{folder}/memory.limit_in_bytes": limit,
        f"{folder}/memory.usage_in_bytes": str(used),
        f"{folder}/memory.stat": f"cache 1\ninactive_file 7\ntotal_active_file {cache // 3}\n"
        f"total_inactive_file {cache - cache // 3}",
    }


def test_limits_of_a_version_2_container(tmp_path: Path) -> None:
    """Docker and Kubernetes: the container's own group is the mounted root."""
    mount = V2.format(top="/", point="/sys/fs/cgroup")
    files = _v2("sys/fs/cgroup", "2000000000", used=700 * MB, cache=200 * MB, cpu_max="150000 100000")
    root = _tree(tmp_path, "0::/", mount, files)
    assert memory_limit(root) == MemoryLimit(2000 * MB, 1500 * MB)
    assert cpu_limit(root) == 1.5


def test_limits_of_a_version_2_service_include_those_of_its_slices(tmp_path: Path) -> None:
    """The total comes from the tightest group, and the available memory from the fullest group."""
    mount = V2.format(top="/", point="/sys/fs/cgroup")
    slice_ = "sys/fs/cgroup/system.slice"
    files = {
        **_v2(slice_, "4000000000", used=3900 * MB, cpu_max="100000 100000"),
        **_v2(f"{slice_}/imagegen.service", "3000000000", used=500 * MB, cpu_max="max 100000"),
    }
    root = _tree(tmp_path, "0::/system.slice/imagegen.service", mount, files)
    assert memory_limit(root) == MemoryLimit(3000 * MB, 100 * MB)
    assert cpu_limit(root) == 1.0


def test_memory_high_limits_memory_like_memory_max(tmp_path: Path) -> None:
    mount = V2.format(top="/", point="/sys/fs/cgroup")
    files = _v2("sys/fs/cgroup", "3000000000", used=500 * MB, memory_high="1000000000")
    assert memory_limit(_tree(tmp_path, "0::/", mount, files)) == MemoryLimit(1000 * MB, 500 * MB)


def test_limits_of_a_version_1_container_that_sees_its_hosts_path(tmp_path: Path) -> None:
    """Docker without a namespace for control groups: only the container's own group is mounted, below its name."""
    group = "12:cpu,cpuacct:/docker/4f2e\n5:memory:/docker/4f2e\n1:name=systemd:/docker/4f2e"
    mounts = "\n".join(
        [
            V1.format(top="/docker/4f2e", point="/sys/fs/cgroup/memory", controllers="memory"),
            V1.format(top="/docker/4f2e", point="/sys/fs/cgroup/cpu,cpuacct", controllers="cpu,cpuacct"),
        ]
    )
    files = _v1("sys/fs/cgroup/memory", "2000000000", used=900 * MB, cache=400 * MB)
    files |= {
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
    }
    root = _tree(tmp_path, group, mounts, files)
    assert memory_limit(root) == MemoryLimit(2000 * MB, 1500 * MB)
    assert cpu_limit(root) == 0.5
    assert usable_cpus(root) == 1


def test_a_hybrid_layout_uses_the_version_1_controllers(tmp_path: Path) -> None:
    """systemd's hybrid layout: the controllers are version 1, and a version 2 without controllers is mounted too."""
    mounts = "\n".join(
        [
            V2.format(top="/", point="/sys/fs/cgroup/unified"),
            V1.format(top="/", point="/sys/fs/cgroup/memory", controllers="memory"),
        ]
    )
    files = _v1("sys/fs/cgroup/memory") | _v1("sys/fs/cgroup/memory/user", "1000000000", used=100 * MB)
    root = _tree(tmp_path, "4:memory:/user/me\n0::/user/me", mounts, files | _v1("sys/fs/cgroup/memory/user/me"))
    assert memory_limit(root) == MemoryLimit(1000 * MB, 900 * MB)


@pytest.mark.parametrize("path", ["/../other", "/elsewhere/deep"])
def test_a_group_outside_the_mount_has_the_limits_of_the_mount(tmp_path: Path, path: str) -> None:
    mount = V2.format(top="/pod", point=r"/sys/fs/a\040cgroup")
    root = _tree(tmp_path, f"0::{path}", mount, _v2("sys/fs/a cgroup", "1000000000", used=MB))
    assert memory_limit(root) == MemoryLimit(1000 * MB, 999 * MB)


@pytest.mark.parametrize(
    ("group", "mounts", "files"),
    [
        ("", "", {}),
        ("0::/", "", {}),
        ("0::/", V2.format(top="/", point="/sys/fs/cgroup"), {}),
        ("0::/", V2.format(top="/", point="/sys/fs/cgroup"), _v2("sys/fs/cgroup", cpu_max="max 100000")),
        ("not\nwhat a kernel writes", "nor - this", {"sys/fs/cgroup/memory.max": "many"}),
        ("4:memory:/", V1.format(top="/", point="/m", controllers="memory"), _v1("m")),
    ],
)
def test_without_a_limit_the_machines_memory_counts(
    tmp_path: Path, group: str, mounts: str, files: dict[str, str]
) -> None:
    root = _tree(tmp_path, group, mounts, files)
    assert system_memory(root).total == psutil.virtual_memory().total
    assert cpu_limit(root) is None


def test_a_system_without_control_groups_has_no_limits(tmp_path: Path) -> None:
    assert memory_limit(tmp_path) is None
    assert cpu_limit(tmp_path) is None
    assert usable_cpus(tmp_path) >= 1


@pytest.mark.parametrize(("quota", "cpus"), [("1000 100000", 1), ("100000 100000", 1), ("99999999 100000", None)])
def test_a_quota_allows_between_one_cpu_and_all_cpus(tmp_path: Path, quota: str, cpus: int | None) -> None:
    mount = V2.format(top="/", point="/sys/fs/cgroup")
    root = _tree(tmp_path, "0::/", mount, {"sys/fs/cgroup/cpu.max": quota})
    assert usable_cpus(root) == (cpus or len(os.sched_getaffinity(0)))


def _own_folder(controller: str) -> Path | None:
    """Return this process's version 1 group if the machine mounts the controller alone, else None."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == controller:
            return Path("/sys/fs/cgroup", controller, path.lstrip("/"))
    return None


@pytest.fixture
def groups() -> Iterator[list[Path]]:
    """Real groups below this process's own: 300 MB of memory, and half a CPU's time."""
    folders: list[Path] = []
    limits = {"memory": {"memory.limit_in_bytes": "300000000"}, "cpu": {"cpu.cfs_quota_us": "50000"}}
    try:
        for controller, values in limits.items():
            parent = _own_folder(controller)
            if parent is None or not os.access(parent, os.W_OK):
                pytest.skip("creating control groups needs root and version 1")
            folders.append(parent / f"imagegen-test-{os.getpid()}")
            folders[-1].mkdir()
            for name, value in values.items():
                (folders[-1] / name).write_text(value)
        yield folders
    finally:
        for group in folders:
            if group.exists():
                group.rmdir()


def test_a_process_reads_the_limits_of_real_groups(groups: list[Path]) -> None:
    """Anonymous memory counts as used, and a file that was just written does not."""
    code = dedent(
        f"""
        import os, pathlib
        for group in {[str(group) for group in groups]!r}:
            pathlib.Path(group, "cgroup.procs").write_text(str(os.getpid()))
        from imagegen_core.resources.cpus import usable_cpus
        from imagegen_core.resources.memory import system_memory
        before = system_memory()
        held = bytearray(b"x" * 100_000_000)
        pathlib.Path("cached").write_bytes(bytes(50_000_000))
        after = system_memory()
        print(before.total, before.available - after.available, usable_cpus())
        """
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    total, used, cpus = map(int, result.stdout.split())
    assert 299 * MB < total <= 300 * MB
    assert 95 * MB < used < 125 * MB
    assert cpus == 1


def test_torch_uses_no_more_threads_than_the_quota_allows(groups: list[Path]) -> None:
    code = dedent(
        f"""
        import os, pathlib
        pathlib.Path({str(groups[1])!r}, "cgroup.procs").write_text(str(os.getpid()))
        import torch
        torch.set_num_threads(2)
        from imagegen_core.diffusion.device import limit_threads
        limit_threads()
        print(torch.get_num_threads())
        """
    )

    def threads(**variables: str) -> str:
        environ = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | variables
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ)
        return result.stdout.strip()

    assert threads() == "1"
    assert threads(OMP_NUM_THREADS="2") == "2"


def test_a_limit_above_the_machines_memory_limits_nothing(tmp_path: Path) -> None:
    """Its statistics are not read either, because the kernel takes long to sum them up."""
    mount = V2.format(top="/", point="/sys/fs/cgroup")
    root = _tree(tmp_path, "0::/", mount, _v2("sys/fs/cgroup", "2000000000", used=700 * MB))
    assert memory_limit(root, 2000 * MB + 1) == MemoryLimit(2000 * MB, 1300 * MB)
    (root / "sys/fs/cgroup/memory.stat").write_text("anon damaged")
    assert memory_limit(root, 2000 * MB) is None
