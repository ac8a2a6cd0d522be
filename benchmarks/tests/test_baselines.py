from __future__ import annotations

import math
import shutil
import subprocess
from collections import Counter

import numpy as np
import pytest
from baselines import unigram_bits, xz_bytes


def test_unigram_by_hand() -> None:
    train, held_out = [0, 0, 0, 2], [0, 1, 2, 2]
    seen = Counter(train)
    bits = -sum(math.log2((seen[t] + 1) / (4 + 3)) for t in held_out)
    assert unigram_bits(np.array(train), np.array(held_out), 3) == pytest.approx(bits, rel=1e-12)


@pytest.mark.skipif(shutil.which("xz") is None, reason="no xz here")
def test_xz_is_the_programs() -> None:
    text = b"a text that says little, and says it often. " * 400
    ours = subprocess.run(["xz", "-9", "-c"], input=text, capture_output=True, check=True).stdout
    assert xz_bytes(text) == len(ours)
