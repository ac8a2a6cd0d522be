"""Memory that was freed, given back to the system.

The C library keeps freed memory for later. What later asks for may not fit what it kept, so that a long run over
pieces of uneven size goes on growing, slowly, without needing more. A call takes about a millisecond.
"""

from __future__ import annotations

import ctypes
import sys

__all__ = ["give_back"]


def give_back() -> None:
    """Returns freed memory to the system, where the C library (glibc) can be asked to."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
