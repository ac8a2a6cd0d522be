from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from babygpt.data.efficiency import packing_statistics
from babygpt.data.packing import Windows, pack

packings = st.sampled_from(["stream", "isolated", "padded"])


def held(windows: Windows) -> list[set[int]]:
    """The positions that may be targets of each piece."""
    pairs = zip(windows.starts.tolist(), windows.lengths.tolist(), strict=True)
    return [set(range(start + 1, start + length)) for start, length in pairs]


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=40),
    st.integers(2, 17),
    packings,
    st.booleans(),
    st.sampled_from(["split", "cut", "drop"]),
)
def test_statistics_are_those_of_counting(lengths, block: int, packing, masked: bool, too_long) -> None:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    mask = [n % 5 == 0 for n in range(int(offsets[-1]))]
    cumsum = np.concatenate([[0], np.cumsum(mask)]).astype(np.int64) if masked else None
    try:
        too_long = "split" if packing == "stream" else too_long
        windows = pack(offsets, block, packing, cumsum, too_long=too_long, may_be_short=True)
    except ValueError:
        return  # nothing is a target
    found = packing_statistics(offsets, windows, packing)
    pieces = held(windows)
    documents = [set(range(a, b)) for a, b in pairwise(offsets.tolist())]
    cuts = [sum(bool(document & piece) for piece in pieces) for document in documents]
    assert found.documents_cut == sum(n > 1 for n in cuts)
    assert found.pieces_cut == sum(n - 1 for n in cuts if n > 1)
    assert found.tokens_cut == sum(len(d) for d, n in zip(documents, cuts, strict=True) if n > 1)
    assert found.documents_left_out == sum(n == 0 for n in cuts)
    pairs = zip(windows.starts.tolist(), windows.lengths.tolist(), strict=True)
    inside = {p for start, length in pairs for p in range(start, start + length)}
    assert found.tokens_left_out == sum(lengths) - len(inside)
    assert found.padding == found.positions - sum(map(int, windows.lengths))
    assert found.targets == sum(
        p in piece and (not masked or mask[p]) for piece in pieces for p in range(len(mask))
    )
    assert (found.documents, found.tokens) == (len(lengths), sum(lengths))
    ordered = sorted(lengths)
    for share, length in found.quantiles:
        assert length in ordered
        assert sum(n <= length for n in ordered) >= share * len(ordered)
        assert sum(n < length for n in ordered) <= share * len(ordered)


def test_it_is_said_in_words() -> None:
    offsets = np.array([0, 3, 15, 16, 20])
    found = packing_statistics(offsets, pack(offsets, 10, "isolated"), "isolated")
    assert found.note() == (
        "packing isolated: 2 windows of 10, 0.00% padding; 1 split in 1 of 4 documents (60.0% of the tokens);"
        " 1 tokens and 1 whole documents are in no window"
    )
    assert [line.split()[0] for line in found.lines()] == [
        "documents",
        "length",
        "windows",
        "padding",
        "split",
        "targets",
    ]
    assert "mean 5.0; shortest 1" in found.lines()[1]
    assert json.loads(json.dumps(found.to_dict()))["target_share"] == pytest.approx(16 / 20)
    whole = packing_statistics(np.array([0, 4]), pack(np.array([0, 4]), 10, "padded"), "padded")
    assert "60.00% padding; no document is split" in whole.note()
