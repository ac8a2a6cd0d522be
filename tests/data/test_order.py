from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from babygpt.data.order import Order, data_step, permute, skips_of
from babygpt.errors import DataError, RecipeError


@pytest.mark.parametrize("size", [*range(1, 70), 127, 128, 129, 1000, 4095, 4096, 4097, 65_537, 300_001])
def test_every_epoch_is_a_permutation(size: int) -> None:
    for epoch in (0, 1, 7):
        sent = permute(np.arange(size), size, seed=3, epoch=epoch)
        assert sent.dtype == np.int64
        np.testing.assert_array_equal(np.sort(sent), np.arange(size))


@given(st.integers(1, 500), st.integers(1, 70), st.integers(-(2**70), 2**70), st.integers(0, 3))
def test_an_epoch_holds_every_window_once(num_windows: int, batch: int, seed: int, epoch: int) -> None:
    order = Order(num_windows, batch, seed)
    assert order.steps_per_epoch == -(-num_windows // batch)
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    held = [order.windows_of(step) for step in steps]
    assert all(len(windows) == batch for windows in held[:-1])
    assert 1 <= len(held[-1]) <= batch
    np.testing.assert_array_equal(np.sort(np.concatenate(held)), np.arange(num_windows))


def test_epochs_and_seeds_differ() -> None:
    size = 1000
    seen = {tuple(permute(np.arange(size), size, s, e).tolist()) for s in range(5) for e in range(5)}
    assert len(seen) == 25


def test_the_batch_size_only_cuts_the_epoch_differently() -> None:
    whole = Order(100, 100, 5).windows_of(0)
    cut = Order(100, 7, 5)
    np.testing.assert_array_equal(
        np.concatenate([cut.windows_of(s) for s in range(cut.steps_per_epoch)]), whole
    )


@pytest.mark.parametrize(("size", "batch"), [(4095, 7), (4097, 4096), (20_000, 9_001), (12_288, 4_000)])
def test_stretches_computed_at_once_join_to_the_permutation(size: int, batch: int) -> None:
    order = Order(size, batch, 11)
    for epoch in (0, 2):
        wanted = permute(np.arange(size), size, 11, epoch)
        # Backwards, so that nothing depends on what was asked before; and what is handed out may be written to.
        for inside in reversed(range(order.steps_per_epoch)):
            step = epoch * order.steps_per_epoch + inside
            found = order.windows_of(step)
            np.testing.assert_array_equal(found, wanted[inside * batch : (inside + 1) * batch])
            found[:] = -1
            np.testing.assert_array_equal(
                order.windows_of(step), wanted[inside * batch : (inside + 1) * batch]
            )


def test_the_order_is_frozen() -> None:
    # Recorded once: a run begun with one version must go on in the same order with the next.
    assert permute(np.arange(10), 10, seed=0, epoch=0).tolist() == [0, 3, 6, 2, 8, 7, 5, 9, 1, 4]
    assert permute(np.arange(10), 10, seed=0, epoch=1).tolist() == [0, 6, 5, 9, 1, 2, 7, 8, 4, 3]
    assert Order(1_000_003, 8, 1234).windows_of(250_001).tolist() == [189796, 170407, 641108]


def test_any_step_is_entered_at_once_in_a_huge_corpus() -> None:
    order = Order(10**12, 4, 0)
    windows = order.windows_of(10**13)
    assert len(set(windows.tolist())) == 4
    assert ((windows >= 0) & (windows < 10**12)).all()


@pytest.mark.parametrize("size", [5, 16, 40])
def test_where_a_window_lands_is_spread_evenly(size: int) -> None:
    epochs = 2000
    landed = np.array([permute(np.arange(size), size, 0, epoch) for epoch in range(epochs)])
    for position in (0, size // 2, size - 1):
        counts = np.bincount(landed[:, position], minlength=size)
        chi_squared = ((counts - epochs / size) ** 2 / (epochs / size)).sum()
        freedom = size - 1
        assert chi_squared < freedom + 6 * (2 * freedom) ** 0.5
    # Neighbours are torn apart as often as chance would: 2 / size of them stay neighbours.
    together = (np.abs(np.diff(landed, axis=1)) == 1).mean()
    assert together == pytest.approx(2 / size, rel=0.05)


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="no window"):
        Order(0, 4, 0)
    with pytest.raises(RecipeError, match=r"data\.global_batch_size"):
        Order(4, 0, 0)
    with pytest.raises(ValueError, match="below 0"):
        Order(4, 2, 0).windows_of(-1)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), max_size=6))
def test_rollbacks_leave_out_what_lay_between(decisions: list[tuple[int, int]]) -> None:
    """Against a run that is played through: its data are a tape, and going back never winds the tape back."""
    done: list[int] = []  # the data step of each completed step
    rollbacks: list[tuple[int, int]] = []
    tape = 0
    for to, further in decisions:
        while len(done) < to + further:
            done.append(tape)
            tape += 1
        if to < len(done):
            rollbacks.append((to, len(done)))
            del done[to:]
    for _ in range(60):
        done.append(tape)
        tape += 1
    skips = skips_of(rollbacks)
    assert [data_step(step, skips) for step in range(len(done))] == done
