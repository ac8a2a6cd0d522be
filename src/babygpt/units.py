"""Counts in the unit that suits them."""

from __future__ import annotations

__all__ = ["file_size_words", "flops_words", "seconds_words", "size_words"]

_GIB, _MIB = 2**30, 2**20


def size_words(count: float) -> str:
    """Bytes of memory, as `1.25 GiB` or `612 MiB`."""
    return f"{count / _GIB:.2f} GiB" if count >= _GIB else f"{count / _MIB:.0f} MiB"


def file_size_words(count: float) -> str:
    """Bytes of files, in powers of ten as file systems count them: `1.25 GB`, `4.9 MB`, `5.0 kB` or `12 bytes`."""
    if count >= 1e9:
        return f"{count / 1e9:.2f} GB"
    if count >= 1e5:
        return f"{count / 1e6:.1f} MB"
    return f"{count / 1e3:.1f} kB" if count >= 1e3 else f"{count:.0f} bytes"


def seconds_words(seconds: float) -> str:
    """Seconds, as `4.2 s`, `95 s`, `12 min` or `3.5 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def flops_words(count: float) -> str:
    """Operations a second, as `93.1 GFLOP/s` or `1.2 TFLOP/s`."""
    for unit, size in (("PFLOP/s", 1e15), ("TFLOP/s", 1e12)):
        if count >= size:
            return f"{count / size:,.3g} {unit}"
    return f"{count / 1e9:,.3g} GFLOP/s"
