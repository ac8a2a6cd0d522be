from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from babygpt.data.arrow import open_store
from babygpt.data.split import choose, copy_split
from babygpt.data.writing import StoreWriter
from babygpt.errors import DataError


@given(st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=50), st.floats(0.001, 0.999))
def test_each_side_has_documents_and_equal_ones_share_a_side(drawn: list[int], fraction: float) -> None:
    hashes = np.array([*drawn, *drawn[:3]], dtype=np.uint64)
    if len(set(drawn)) < 2:
        return
    held_out = choose(hashes, fraction)
    assert held_out.any()
    assert not held_out.all()
    assert not set(hashes[held_out].tolist()) & set(hashes[~held_out].tolist())
    assert hashes[held_out].max() < hashes[~held_out].min()


def test_the_share_is_the_fraction_and_does_not_depend_on_the_others() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64 - 1, 20_000, dtype=np.uint64)
    held_out = choose(hashes, 0.05)
    assert held_out.mean() == pytest.approx(0.05, abs=0.005)
    np.testing.assert_array_equal(choose(hashes[:5000], 0.05), held_out[:5000])


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.floats(0.01, 0.9), st.booleans())
def test_the_tail_is_the_last_tokens(
    make_store, tokenizer, tmp_path: Path, lengths, fraction, masked
) -> None:
    documents = [[*range(300, 300 + length), 0] for length in lengths]
    masks = [[n % 3 != 0 for n in range(len(d))] for d in documents] if masked else None
    whole = make_store(documents, masks)
    name = uuid.uuid4().hex  # the folder outlives an example
    text = lambda ids: len(tokenizer.decode(ids, skip_special_tokens=True).encode())  # noqa: E731
    kept = [[i for n, i in enumerate(d) if not masked or n % 3] for d in documents]
    sizes = [text(ids) for ids in kept]
    writers = [
        StoreWriter(tmp_path / name / side, vocab_size=1000, eos_id=0, tokenizer_identity="", masked=masked)
        for side in ("train", "val")
    ]
    behind = max(2, round(fraction * whole.num_tokens))
    if whole.num_tokens - behind < 2:
        with pytest.raises(DataError, match="too few"):
            copy_split(whole, sizes, fraction, *writers, tokenizer)
        return
    with writers[0], writers[1]:
        copy_split(whole, sizes, fraction, *writers, tokenizer)
    train, val = (open_store(tmp_path / name / side) for side in ("train", "val"))
    assert val.num_tokens == behind
    joined = np.concatenate([train.ids(0, train.num_tokens), val.ids(0, val.num_tokens)])
    np.testing.assert_array_equal(joined, whole.ids(0, whole.num_tokens))
    if masked:
        masks_joined = [store.target_mask(0, store.num_tokens) for store in (train, val)]
        np.testing.assert_array_equal(np.concatenate(masks_joined), whole.target_mask(0, whole.num_tokens))
    assert writers[0].target_bytes + writers[1].target_bytes == sum(sizes)
    flat = [i for ids in documents for i in ids]
    bits = [n % 3 != 0 for d in documents for n in range(len(d))] if masked else [True] * len(flat)
    tail = [i for i, bit in list(zip(flat, bits, strict=True))[-behind:] if bit]
    assert writers[1].target_bytes == pytest.approx(text(tail), abs=4)  # a character may be cut in two
