from __future__ import annotations

import numpy as np
import pytest

from babygpt.data.bits import Bits


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, (1 << 16) + 3])
def test_bits_are_the_flags_they_were_made_of(count: int) -> None:
    flags = np.random.default_rng(count).random(count) < 0.3
    bits = Bits.of(flags)
    assert len(bits) == count
    assert list(bits) == flags.tolist()
    assert [bits[n] for n in range(0, count, 97)] == flags[::97].tolist()
    assert bits.packed.nbytes == (count + 7) // 8
