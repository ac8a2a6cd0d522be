"""Limits of control groups, read from trees like those of Linux, against what was written there."""

from __future__ import annotations

from pathlib import Path

import pytest

from babygpt import cgroups, computer
from babygpt.cgroups import Limits, limits

GIB = 2**30


def tree(folder: Path, own: str, files: dict[str, str]) -> Limits:
    """The limits where these files are mounted, and the process is in these groups."""
    root = folder / "cgroup"
    root.mkdir()
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    (folder / "own").write_text(own)
    return limits(root, folder / "own")


def test_version_2_inside_a_container(tmp_path: Path) -> None:
    found = tree(
        tmp_path,
        "0::/\n",
        {
            "cpu.max": "150000 100000\n",
            "memory.max": f"{4 * GIB}\n",
            "memory.current": f"{3 * GIB}\n",
            "memory.stat": f"anon {GIB}\ninactive_file {2 * GIB}\n",
        },
    )
    assert found == Limits(1.5, 4 * GIB, 3 * GIB)


def test_the_tightest_limit_on_the_way_to_the_root_counts(tmp_path: Path) -> None:
    memory = {"memory.current": "0\n", "memory.stat": "inactive_file 0\n"}
    groups = {"a": str(2 * GIB), "a/b": "max", "a/b/c": str(8 * GIB)}
    files = {f"{path}/{name}": value for path in groups for name, value in memory.items()}
    files |= {f"{path}/memory.max": value for path, value in groups.items()}
    files |= {"a/b/c/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}
    assert tree(tmp_path, "0::/a/b/c\n", files) == Limits(3.0, 2 * GIB, 2 * GIB)


def test_version_1(tmp_path: Path) -> None:
    found = tree(
        tmp_path,
        "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n0::/\n",
        {
            "cpu,cpuacct/docker/x/cpu.cfs_quota_us": "200000\n",
            "cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000\n",
            "memory/docker/x/memory.limit_in_bytes": f"{GIB}\n",
            "memory/docker/x/memory.usage_in_bytes": f"{2 * GIB}\n",
            "memory/docker/x/memory.stat": "total_inactive_file 0\n",
            "memory/memory.limit_in_bytes": "9223372036854771712\n",
            "memory/memory.usage_in_bytes": "1\n",
            "memory/memory.stat": "total_inactive_file 0\n",
        },
    )
    assert found == Limits(2.0, GIB, 0)


@pytest.mark.parametrize("own", ["", "0::/\n", "0::/../../etc\n", "nonsense\n", "1:cpu:/x\n"])
def test_no_limit(tmp_path: Path, own: str) -> None:
    files = {"cpu.max": "max 100000\n", "memory.max": "max\n", "cpu/cpu.cfs_quota_us": "-1\n"}
    assert tree(tmp_path, own, {**files, "cpu/cpu.cfs_period_us": "100000\n"}) == Limits()


def test_no_control_groups(tmp_path: Path) -> None:
    assert limits(tmp_path, tmp_path / "missing") == Limits()


def test_the_machine_keeps_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cgroups.limits is computer.limits
    whole = computer.memory_total()
    monkeypatch.setattr(computer, "limits", lambda: Limits(0.5, GIB, GIB // 4))
    assert computer.usable_cores() == 1
    assert computer.memory_total() == GIB < whole
    assert computer.memory_available("cpu") == GIB // 4
