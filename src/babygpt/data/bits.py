"""Yes or no for each of many documents, eight in a byte."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Bits"]

_AT_ONCE = 1 << 13  # bytes made into objects


@dataclass(frozen=True)
class Bits:
    """A row of bits.

    Attributes:
        packed: uint8 [ceil(count / 8)], the first bit the lowest.
        count: how many.
    """

    packed: npt.NDArray[np.uint8]
    count: int

    @classmethod
    def of(cls, flags: npt.NDArray[np.bool_]) -> Bits:
        """Those of a bool array."""
        return cls(np.packbits(flags, bitorder="little"), len(flags))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> bool:
        return bool(self.packed[number >> 3] >> (number & 7) & 1)

    def __iter__(self) -> Iterator[bool]:
        left = self.count
        for start in range(0, len(self.packed), _AT_ONCE):
            part = np.unpackbits(self.packed[start : start + _AT_ONCE], count=None, bitorder="little")
            yield from part[:left].astype(np.bool_).tolist()
            left -= len(part)
