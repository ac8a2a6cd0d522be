from __future__ import annotations

import mmap
import sys

import pytest

from babygpt.data import bounds

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="has no such limits")


def take(size: int, prot: int = mmap.PROT_READ | mmap.PROT_WRITE) -> None:
    """Asks the system for memory, and touches none of it."""
    mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=prot).close()


def test_memory_is_bounded_and_addresses_are_not() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    with bounds.bounded():
        take(bounds.MEMORY // 2)
        take(16 << 30, mmap.PROT_READ)
        with pytest.raises(OSError, match="Cannot allocate memory"):
            take(bounds.MEMORY + (1 << 20))
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
