from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from babygpt.data.joined import join_windows
from babygpt.data.packing import (
    Windows,
    describe_too_long,
    isolated_windows,
    pack,
    padded_windows,
    stream_windows,
)
from babygpt.errors import DataError

lengths_of_documents = st.lists(st.integers(0, 40), min_size=1, max_size=60)
blocks = st.integers(2, 17)


def offsets_of(lengths: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def cumsum_of(mask: np.ndarray, dtype: type = np.uint32) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(mask)]).astype(dtype)


def targets_met(windows: Windows, mask: np.ndarray | None = None) -> Counter[int]:
    """How often each position is a target, told piece by piece: a piece's first token is none."""
    met: Counter[int] = Counter()
    for start, length in zip(windows.starts.tolist(), windows.lengths.tolist(), strict=True):
        met.update(p for p in range(start + 1, start + length) if mask is None or mask[p])
    return met


def check_counts(windows: Windows, mask: np.ndarray | None = None) -> None:
    for w in range(len(windows)):
        pieces = range(int(windows.offsets[w]), int(windows.offsets[w + 1]))
        assert sum(int(windows.lengths[p]) for p in pieces) <= windows.block
        positions = (
            q for p in pieces for q in range(windows.starts[p] + 1, windows.starts[p] + windows.lengths[p])
        )
        assert windows.targets[w] == sum(1 if mask is None else bool(mask[q]) for q in positions)
    assert windows.offsets[0] == 0
    assert windows.offsets[-1] == len(windows.starts)
    assert (windows.targets > 0).all()
    for name in ("starts", "lengths", "offsets", "targets"):
        assert getattr(windows, name).dtype == np.int64


@given(st.integers(0, 300), blocks)
def test_stream_makes_every_token_but_the_first_a_target_once(num_tokens: int, block: int) -> None:
    windows = stream_windows(num_tokens, block)
    assert targets_met(windows) == Counter(range(1, num_tokens))
    check_counts(windows)
    assert (windows.lengths[:-1] == block).all()
    assert (windows.lengths >= 2).all()


@given(lengths_of_documents, blocks, st.sampled_from([isolated_windows, padded_windows]))
def test_documents_are_whole_or_split_with_each_token_but_the_first_a_target_once(
    lengths, block, make
) -> None:
    offsets = offsets_of(lengths)
    windows = make(offsets, block)
    first = {int(o) for o, n in zip(offsets, lengths, strict=False) if n}
    assert targets_met(windows) == Counter(set(range(int(offsets[-1]))) - first)
    check_counts(windows)
    pieces = set(zip(windows.starts.tolist(), windows.lengths.tolist(), strict=True))
    for start, length in zip(offsets[:-1].tolist(), lengths, strict=True):
        if 2 <= length <= block:
            assert (start, length) in pieces
    for start, length in pieces:  # no piece reaches into another document
        document = np.searchsorted(offsets, start, side="right") - 1
        assert start + length <= offsets[document + 1]


@given(lengths_of_documents, blocks, st.data(), st.sampled_from([np.int64, np.uint32]))
def test_masks_keep_every_target_once_and_drop_windows_without(lengths, block, data, dtype) -> None:
    offsets = offsets_of(lengths)
    num_tokens = int(offsets[-1])
    bits = data.draw(st.lists(st.booleans(), min_size=num_tokens, max_size=num_tokens))
    mask = np.array(bits, dtype=bool)
    cumsum = cumsum_of(mask, dtype)
    wanted = {p for p in range(num_tokens) if mask[p]}
    stream = stream_windows(num_tokens, block, cumsum)
    assert targets_met(stream, mask) == Counter(wanted - {0})
    check_counts(stream, mask)
    firsts = set(offsets[:-1].tolist())
    for make in (isolated_windows, padded_windows):
        windows = make(offsets, block, cumsum)
        assert targets_met(windows, mask) == Counter(wanted - firsts)
        check_counts(windows, mask)


@given(lengths_of_documents, blocks, st.data(), st.sampled_from(["stream", "isolated", "padded"]))
def test_with_prompts_the_windows_are_those_without_masks(lengths, block, data, packing) -> None:
    offsets = offsets_of(lengths)
    num_tokens = int(offsets[-1])
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=num_tokens, max_size=num_tokens)), dtype=bool)
    try:
        plain = pack(offsets, block, packing, may_be_short=True)
    except DataError:
        return  # nothing but documents of one token
    if not any(mask[p] for p in targets_met(plain)):
        with pytest.raises(DataError, match="is a target"):
            pack(offsets, block, packing, cumsum_of(mask), may_be_short=True, with_prompts=True)
        return
    windows = pack(offsets, block, packing, cumsum_of(mask), may_be_short=True, with_prompts=True)
    for name in ("starts", "lengths", "offsets"):
        assert getattr(windows, name)[:].tolist() == getattr(plain, name)[:].tolist()
    for number in range(len(windows)):
        few = np.array([number, number])
        assert windows.predicted(few) == 2 * plain.targets[number]
        pieces = windows.pieces_of(np.array([number]))
        held = [
            p for q in pieces for p in range(windows.starts[q] + 1, windows.starts[q] + windows.lengths[q])
        ]
        assert windows.targets[number] == mask[held].sum()
    assert windows.predicted(np.array([], dtype=np.int64)) == 0


def slow_best_fit_decreasing(lengths: list[int], block: int) -> int:
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [(room, number) for number, room in enumerate(rooms) if room >= length]
        if fitting:
            rooms[min(fitting)[1]] -= length
        else:
            rooms.append(block - length)
    return len(rooms)


@given(st.lists(st.integers(2, 30), min_size=1, max_size=80), st.integers(30, 60))
def test_isolated_fills_as_few_windows_as_plain_best_fit_decreasing(lengths: list[int], block: int) -> None:
    assert len(isolated_windows(offsets_of(lengths), block)) == slow_best_fit_decreasing(lengths, block)


def test_isolated_is_deterministic_and_packs_tightly() -> None:
    lengths = np.random.default_rng(0).geometric(1 / 300, 20_000)
    offsets = offsets_of(lengths.tolist())
    one, two = isolated_windows(offsets, 1024), isolated_windows(offsets, 1024)
    for name in ("starts", "lengths", "offsets", "targets"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert one.lengths.sum() / (len(one) * 1024) > 0.999
    assert one.targets.sum() == (lengths - 1).sum()


@pytest.mark.parametrize("num_tokens", [10, 11, 29, 30])
def test_computed_numbers_are_the_same_one_by_one_and_as_arrays(num_tokens: int) -> None:
    apart, windows = stream_windows(12, 4), stream_windows(num_tokens, 4)
    for of in (windows, join_windows([apart, windows], [12, num_tokens])):
        for numbers in (of.starts, of.lengths, of.offsets, of.targets):
            count = len(numbers)
            whole = np.asarray(numbers).tolist()
            assert [numbers[n] for n in range(count)] == whole
            assert [numbers[n] for n in range(-count, 0)] == whole
            assert numbers[np.arange(-count, count)].tolist() == whole * 2
            for outside in (count, -count - 1):
                with pytest.raises(IndexError):
                    numbers[outside]
                with pytest.raises(IndexError):
                    numbers[np.array([0, outside])]


def test_pieces_of_a_window_stand_in_the_order_of_the_data() -> None:
    windows = isolated_windows(offsets_of([3, 5, 2, 4, 3, 3]), 10)
    for w in range(len(windows)):
        starts = windows.starts[windows.offsets[w] : windows.offsets[w + 1]]
        assert (np.diff(starts) > 0).all()


def test_pack_says_both_numbers_when_the_stream_is_shorter_than_a_window() -> None:
    with pytest.raises(DataError, match=r"9 tokens, one window needs 10") as error:
        pack(offsets_of([4, 5]), 10, "stream")
    assert "data.block" in str(error.value)
    assert len(pack(offsets_of([4, 5]), 10, "stream", may_be_short=True)) == 1
    assert len(pack(offsets_of([4, 5]), 10, "isolated")) == 1


def test_pack_refuses_data_without_a_target() -> None:
    for packing in ("stream", "isolated", "padded"):
        with pytest.raises(DataError, match="not one of the 20 tokens is a target"):
            pack(offsets_of([20]), 10, packing, np.zeros(21, np.uint32))
    with pytest.raises(DataError, match="not one of the 3 tokens"):
        pack(offsets_of([1, 1, 1]), 10, "isolated")


def test_pack_refuses_a_block_without_target_and_an_unknown_packing() -> None:
    with pytest.raises(DataError, match="window of 1 tokens"):
        pack(offsets_of([20]), 1, "stream")
    with pytest.raises(DataError, match="unknown packing 'loose'"):
        pack(offsets_of([20]), 4, "loose")  # type: ignore[arg-type]


@given(lengths_of_documents, blocks, st.sampled_from([isolated_windows, padded_windows]), st.integers(0, 9))
def test_too_long_documents_are_cut_or_dropped_and_the_others_left_as_they_are(
    lengths, block, make, seed
) -> None:
    offsets = offsets_of(lengths)
    mask = np.random.default_rng(seed).random(offsets[-1]) < 0.7
    kept = {"cut": [min(n, block) for n in lengths], "drop": [n if n <= block else 0 for n in lengths]}
    for too_long, counts in kept.items():
        windows = make(offsets, block, cumsum_of(mask), too_long)
        wanted = (p for at, n in zip(offsets.tolist(), counts, strict=False) for p in range(at + 1, at + n))
        assert targets_met(windows, mask) == Counter(p for p in wanted if mask[p])
        check_counts(windows, mask)


def test_what_becomes_of_too_long_documents_is_counted() -> None:
    offsets = offsets_of([3, 10, 4, 5, 7])
    said = "2 of 5 documents are longer than a window of 5 tokens (the longest has 10): "
    assert describe_too_long(offsets, 5, "split") == (
        f"{said}split into pieces that overlap by one token, all 17 tokens kept"
    )
    assert describe_too_long(offsets, 5, "cut") == f"{said}cut to their first 5 tokens, 7 of 29 tokens lost"
    assert describe_too_long(offsets, 5, "drop") == f"{said}left out, 17 of 29 tokens lost"
    assert describe_too_long(offsets, 10, "drop") is None


@pytest.mark.parametrize("packing", ["isolated", "padded"])
def test_too_long_documents_are_refused_on_request(packing) -> None:
    offsets = offsets_of([3, 10, 4])
    with pytest.raises(DataError, match=r"data\.too_long: 1 of 3 documents .* data\.block of 10"):
        pack(offsets, 5, packing, too_long="refuse")
    assert len(pack(offsets, 10, packing, too_long="refuse").starts) == 3
    with pytest.raises(DataError, match=r"is a target in what .* drop leaves"):
        pack(offsets_of([9]), 5, packing, too_long="drop")
