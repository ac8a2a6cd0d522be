"""int64 arrays that are computed where they are looked at: of a billion windows they take no memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.mixins import NDArrayOperatorsMixin

__all__ = ["Computed", "Numbers", "Progression"]

Int64s = npt.NDArray[np.int64]


class Computed(NDArrayOperatorsMixin):
    """An int64 array that is computed where it is looked at, and takes no memory.

    Args:
        count: numbers in all.
    """

    dtype = np.dtype(np.int64)

    def __init__(self, count: int) -> None:
        self._count = count

    def at(self, places: Int64s) -> Int64s:
        """The numbers at places from 0 to count - 1, int64 of their shape."""
        raise NotImplementedError

    def one(self, place: int) -> int:
        """The number at one place; a loader asks so, window by window, and arrays of one number are slow."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, int) and -self._count <= index < self._count:
            return self.one(index if index >= 0 else index + self._count)
        if isinstance(index, slice):
            index = np.arange(self._count, dtype=np.int64)[index]
        places = np.asarray(index)
        if places.dtype == np.bool_:
            places = np.flatnonzero(places)
        if places.size and not (-self._count <= places.min() and places.max() < self._count):
            raise IndexError(f"{index} in an array of {self._count}")
        found = self.at(np.where(places < 0, places + self._count, places))
        return found if found.ndim else found[()]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Int64s:
        del copy
        whole: Int64s = np.asarray(self[:], dtype=dtype)
        return whole

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        arrays = [np.asarray(each) if isinstance(each, Computed) else each for each in inputs]
        return getattr(ufunc, method)(*arrays, **kwargs)

    def sum(self) -> int:
        """Of all numbers."""
        return int(np.asarray(self).sum())

    def tolist(self) -> list[int]:
        """As a list."""
        return list(np.asarray(self).tolist())


class Progression(Computed):
    """first, first + step, first + 2 * step, ..., and a last number of its own.

    Args:
        count: numbers in all.
        first: the first.
        step: between two of them.
        last: the last, whatever the others.
    """

    def __init__(self, count: int, first: int, step: int, last: int) -> None:
        super().__init__(count)
        self._first, self._step, self._last = first, step, last

    def at(self, places: Int64s) -> Int64s:
        """The numbers at places, int64 of their shape."""
        return np.where(places == self._count - 1, self._last, self._first + self._step * places)

    def one(self, place: int) -> int:
        """The number at one place."""
        return self._last if place == self._count - 1 else self._first + self._step * place

    def sum(self) -> int:
        """Of all numbers, in O(1)."""
        n = self._count - 1
        return n * self._first + self._step * (n * (n - 1) // 2) + self._last if self._count else 0


Numbers = Int64s | Computed
