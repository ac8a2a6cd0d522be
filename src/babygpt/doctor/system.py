"""What the system gives: memory, files, clock, encodings and a compiler; nothing here imports torch."""

from __future__ import annotations

import locale
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from babygpt.computer import cpu_memory_available, memory_total
from babygpt.doctor.findings import Finding, fault, ok, warning

__all__ = ["check_clock", "check_compiler", "check_encoding", "check_limits", "check_memory"]

_GIB = 2**30
_LEAST_MEMORY, _LITTLE_MEMORY = 0.5 * _GIB, 2 * _GIB
_LITTLE_SHARED = 2**28
_SHARED = Path("/dev/shm")
# The store, its windows, checkpoints and loader workers each hold some tens of files open.
_FEW_FILES = 512
# No run of this package can be older than its first release.
_FIRST_RELEASE = time.mktime((2025, 6, 1, 0, 0, 0, 0, 0, 0))
_COMPILERS = {"Windows": ("cl",), "Darwin": ("clang++", "g++")}
_ON_OTHERS = ("g++", "clang++", "c++")
_GET_COMPILER = {
    "Windows": "Install the Visual Studio build tools and run in their command prompt",
    "Darwin": "xcode-select --install",
}


def check_memory() -> Iterator[Finding]:
    """Whether there is memory to train in, and to hand batches over from loader processes."""
    free, total = cpu_memory_available(), memory_total()
    what = f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB are free"
    if free < _LEAST_MEMORY:
        yield fault("memory", what, "End other programs, or give the container more memory")
    elif free < _LITTLE_MEMORY:
        yield warning("memory", f"only {what}", "End other programs, or train a small preset")
    else:
        yield ok("memory", what)
    if _SHARED.is_dir():
        shared = shutil.disk_usage(_SHARED).free
        if shared < _LITTLE_SHARED:
            yield warning(
                "shared memory",
                f"{_SHARED} has {shared / 2**20:.0f} MiB left, and loader workers hand batches over in it",
                "Start the container with --shm-size 2g, or train with --machine.workers 0",
            )


def check_limits() -> Iterator[Finding]:
    """Whether the shell's limits on files leave room for a run."""
    if sys.platform == "win32":
        return
    import resource

    files, largest = (
        resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        resource.getrlimit(resource.RLIMIT_FSIZE)[0],
    )
    sound = True
    if files != resource.RLIM_INFINITY and files < _FEW_FILES:
        sound = False
        yield warning("open files", f"at most {files} may be open at once", "ulimit -n 4096, before the run")
    if largest != resource.RLIM_INFINITY:
        sound = False
        yield fault(
            "file size",
            f"no file may be larger than {largest / 1e6:,.0f} MB, and a checkpoint is",
            "ulimit -f unlimited, before the run",
        )
    if sound:
        yield ok("file limits", "files may be as many and as large as needed")


def check_clock() -> Iterator[Finding]:
    """Whether the clock is right as far as can be told without asking anyone."""
    now = time.time()
    if now < _FIRST_RELEASE:
        when = time.strftime("%Y-%m-%d", time.gmtime(now))
        yield fault(
            "clock", f"it shows {when}: certificates look invalid", "Set the clock, by NTP if you can"
        )
    else:
        yield ok("clock", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now)))


def check_encoding() -> Iterator[Finding]:
    """Whether text and file names are UTF-8."""
    found = {
        "file names": sys.getfilesystemencoding(),
        "text": locale.getpreferredencoding(False) if not sys.flags.utf8_mode else "utf-8",
        "the terminal": getattr(sys.stdout, "encoding", None) or "utf-8",
    }
    other = {
        what: name for what, name in found.items() if name.lower().replace("-", "") not in ("utf8", "cp65001")
    }
    if other:
        said = ", ".join(f"{name} for {what}" for what, name in other.items())
        yield warning("encoding", f"{said}, where UTF-8 is needed", "Set PYTHONUTF8=1, or LC_ALL=C.UTF-8")
    else:
        yield ok("encoding", "UTF-8")


def check_compiler() -> Iterator[Finding]:
    """Whether there is a C++ compiler for torch.compile."""
    system = platform.system()
    names = (os.environ["CXX"],) if os.environ.get("CXX") else _COMPILERS.get(system, _ON_OTHERS)
    found = next(filter(None, map(shutil.which, names)), None)
    if found:
        yield ok("compiler", found)
    else:
        yield warning(
            "compiler",
            f"no C++ compiler ({', '.join(names)}) is there, which torch.compile needs on the CPU",
            _GET_COMPILER.get(
                system, "Install g++ (Debian, Ubuntu: apt install g++), or set CXX to a compiler"
            ),
        )
