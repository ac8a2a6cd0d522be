from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from babygpt.data.batches import make_batch
from babygpt.data.joined import JoinedStore, join_windows, parts_of
from babygpt.data.packing import pack

FIELDS = ("starts", "lengths", "offsets", "targets")
corpora = st.lists(st.lists(st.integers(2, 12), min_size=1, max_size=6), min_size=1, max_size=4)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    corpora, st.integers(2, 9), st.sampled_from(["stream", "isolated", "padded"]), st.booleans(), st.data()
)
def test_joined_stores_are_one_store_of_all_their_documents(
    make_store, corpora, block, packing, masked, data
) -> None:
    """Against a store into which the same documents were written, and arrays put behind one another by numpy."""
    documents = [
        [list(range(100 * s + 20 * d, 100 * s + 20 * d + n)) for d, n in enumerate(c)]
        for s, c in enumerate(corpora)
    ]
    masks = [[[k % 3 != 2 or k < 2 for k in range(len(d))] for d in c] for c in documents]
    # One source has no masks where the others have some: all of it is a target.
    stores = [
        make_store(d, m if masked and s else None)
        for s, (d, m) in enumerate(zip(documents, masks, strict=True))
    ]
    joined = JoinedStore(stores)
    flat_masks = [m if s else [True] * len(m) for s, c in enumerate(masks) for m in c] if masked else None
    whole = make_store([d for c in documents for d in c], flat_masks)
    assert (joined.num_tokens, joined.num_documents) == (whole.num_tokens, whole.num_documents)
    assert joined.manifest.num_targets == whole.manifest.num_targets
    assert joined.manifest.bytes_per_target == pytest.approx(whole.manifest.bytes_per_target)
    np.testing.assert_array_equal(joined.offsets, whole.offsets)
    start = data.draw(st.integers(0, whole.num_tokens))
    length = data.draw(st.integers(0, whole.num_tokens - start))
    np.testing.assert_array_equal(joined.ids(start, length), whole.ids(start, length))
    np.testing.assert_array_equal(joined.target_mask(start, length), whole.target_mask(start, length))
    number = data.draw(st.integers(0, len(whole) - 1))
    np.testing.assert_array_equal(joined.document(number), whole.document(number))
    if joined.has_targets:
        positions = np.arange(whole.num_tokens + 1)
        np.testing.assert_array_equal(joined.target_cumsum()[positions], whole.target_cumsum()[positions])
    parts = [pack(s.offsets, block, packing, s.target_cumsum(), may_be_short=True) for s in stores]
    windows = join_windows(parts, [s.num_tokens for s in stores])
    assert len(windows) == sum(map(len, parts))
    at = 0
    for store, part in zip(stores, parts, strict=True):
        for number in range(len(part)):
            ours = make_batch(joined, windows, np.array([at + number]), 0)
            theirs = make_batch(store, part, np.array([number]), 0)
            assert all((ours[name] == theirs[name]).all() for name in theirs)
            assert windows.targets[at + number] == part.targets[number]
        at += len(part)
    for name in FIELDS:
        array = getattr(windows, name)
        assert array.dtype == np.int64
        assert [array[n] for n in range(len(array))] == array.tolist() == array[-len(array) :].tolist()
        assert array.sum() == sum(array.tolist())
        assert array[-1] == array.tolist()[-1]


def test_it_is_picklable_and_says_its_parts(make_store) -> None:
    stores = [make_store([[1, 2, 3]]), make_store([[4, 5]])]
    joined = JoinedStore(stores)
    content = pickle.dumps(joined)
    assert pickle.loads(content).ids(0, 5).tolist() == [1, 2, 3, 4, 5]
    assert parts_of(joined) == tuple(stores)
    assert parts_of(stores[0]) == (stores[0],)
    assert JoinedStore(stores[::-1]).manifest.fingerprint != joined.manifest.fingerprint
    with pytest.raises(IndexError, match="of stores of 5"):
        joined.ids(3, 3)
    windows = join_windows([pack(s.offsets, 5, "padded") for s in stores], [3, 2])
    with pytest.raises(IndexError, match="in an array of 2"):
        windows.targets[2]
