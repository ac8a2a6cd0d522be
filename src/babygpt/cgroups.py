"""What a container may use of its computer: the limits of Linux control groups, version 2 and 1.

A limit binds everything below it, so that the smallest on the way from the process's own group to the root counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Limits", "limits"]

_ROOT, _OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# Version 1 says "no limit" by the largest multiple of a page that fits into 63 bits.
_NO_LIMIT = 2**60


@dataclass(frozen=True)
class Limits:
    """What this process may use; None where nothing is set, and where there are no control groups.

    Args:
        cores: processor time a second, in seconds.
        memory: bytes.
        memory_free: bytes of it that are left; files in the page cache count as free, since they give way.
    """

    cores: float | None = None
    memory: int | None = None
    memory_free: int | None = None


def limits(root: Path = _ROOT, own: Path = _OWN) -> Limits:
    """Reads the limits of this process.

    Args:
        root: where the control groups are mounted.
        own: the file that names the process's groups.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return Limits()
    cores: list[float] = []
    memory: list[tuple[int, int]] = []
    for _, controllers, path in (line for line in lines if len(line) == 3):
        names = controllers.split(",")
        for group in _upwards(root, controllers, path):
            if not controllers or "cpu" in names:
                cores += _cores(group)
            if not controllers or "memory" in names:
                memory += _memory(group)
    return Limits(
        cores=min(cores, default=None),
        memory=min((limit for limit, _ in memory), default=None),
        memory_free=min((max(0, limit - used) for limit, used in memory), default=None),
    )


def _upwards(root: Path, controllers: str, path: str) -> Iterator[Path]:
    """The group and those around it; inside a container its own is often mounted as the root."""
    top = root / controllers if controllers else root
    group = top / path.strip("/")
    while group != top and top in group.parents:
        yield group
        group = group.parent
    yield top


def _cores(group: Path) -> Iterator[float]:
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (group / "cpu.max").read_text().split()
        yield int(quota) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = ((group / f"cpu.cfs_{what}_us").read_text() for what in ("quota", "period"))
        if int(quota) > 0:
            yield int(quota) / int(period)


def _memory(group: Path) -> Iterator[tuple[int, int]]:
    """Limit and use, the pages of files that can be given up not counted."""
    for limit_file, use_file, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        with suppress(OSError, ValueError):
            limit = int((group / limit_file).read_text())
            if limit < _NO_LIMIT:
                stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                yield limit, int((group / use_file).read_text()) - int(stat.get(cached, 0))
