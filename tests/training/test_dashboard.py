"""The lines a terminal shows of a run: at any size, and a curve that is where its values are."""

from __future__ import annotations

import math

import pytest

from babygpt.training.dashboard import Status, Trace, braille, clock, lines

FULL = Status(
    1240, 10_000, 3754, 3.412, 3.501, 33.15, 2.9e-4, 1.2, 12_345, 0.45, 93e9, 3 * 2**30, 24 * 2**30,
    "diverging: the training loss has risen from 2.3 at step 30 to 4.5", tuple(9 / (n + 1) for n in range(200)),
)  # fmt: skip


def test_eighty_columns_hold_everything() -> None:
    shown = lines(FULL, 80, 24)
    assert len(shown) <= 10
    text = "\n".join(line.plain for line in shown)
    for part in (
        "step 1,240/10,000", "12%, 1:02:34 left", "loss 3.412", "validation 3.501 (perplexity 33.15)",
        "lr 2.90e-04", "gradient norm 1.20", "12,345 tokens/s", "45% of 93 GFLOP/s (measured)",
        "memory 3.0 of 24.0 GiB", "diverging: the training loss has risen from 2.3 at step 30 to 4.5",
    ):  # fmt: skip
        assert part in text, part


@pytest.mark.parametrize("width", [1, 7, 20, 40, 80, 300])
@pytest.mark.parametrize("height", [1, 2, 8, 24, 100])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_no_size_is_broken(width: int, height: int, ascii_only: bool) -> None:
    for status in (FULL, Status(0, 0), Status(1, 10, loss=math.nan, trace=(2.0, 2.0))):
        shown = lines(status, width, height, ascii_only=ascii_only)
        assert 1 <= len(shown) <= max(1, height - 1)
        assert all(line.cell_len <= width for line in shown)
        assert not ascii_only or all(line.plain.isascii() for line in shown)


def test_a_loss_that_is_no_number_says_so() -> None:
    assert "loss not finite" in lines(Status(1, 10, loss=math.nan), 80, 24)[1].plain


def dots(rows: list[str]) -> set[tuple[int, int]]:
    """The dots by (x, y) from the upper left, by the order in which Unicode numbers them."""
    places = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3)]
    return {
        (2 * column + places[bit][0], 4 * row + places[bit][1])
        for row, text in enumerate(rows)
        for column, char in enumerate(text)
        for bit in range(8)
        if (ord(char) - 0x2800) >> bit & 1
    }


def test_a_curve_has_its_dots_where_the_values_are() -> None:
    assert dots(braille([7, 6, 5, 4, 3, 2, 1, 0], 4, 2, 0, 7)) == {(n, n) for n in range(8)}
    level = dots(braille([5.0], 3, 1, 0, 5))
    assert level == {(n, 0) for n in range(6)}
    jump = dots(braille([0, 0, 3, 3], 2, 1, 0, 3))
    assert jump == {(0, 3), (1, 3), (2, 2), (2, 1), (2, 0), (3, 0)}, "the curve hangs together"
    beyond = dots(braille([99, -99], 1, 1, 0, 3))
    assert {(0, 0), (1, 3)} <= beyond


def test_a_trace_keeps_means_of_equally_many() -> None:
    trace = Trace()
    for n in range(4000):
        trace.add(float(n))
        trace.add(math.nan)
    assert 128 <= len(trace.points) <= 256
    each = 4000 // len(trace.points)
    assert trace.points[:2] == [(each - 1) / 2, each + (each - 1) / 2]


def test_a_clock() -> None:
    assert [clock(s) for s in (0, 59.9, 60, 3599, 3600, 86_399)] == [
        "0:00", "0:59", "1:00", "59:59", "1:00:00", "23:59:59",
    ]  # fmt: skip
