"""Counts in words, at the borders of their units."""

from __future__ import annotations

import pytest

from babygpt.units import file_size_words, flops_words, seconds_words, size_words


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 MiB"), (2**30 - 2**20, "1023 MiB"), (2**30, "1.00 GiB"), (5 << 29, "2.50 GiB")],
)
def test_bytes_of_memory(count: int, words: str) -> None:
    assert size_words(count) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (5000, "5.0 kB"), (10**5, "0.1 MB"), (10**9 - 1, "1000.0 MB"),
     (10**9, "1.00 GB")],
)  # fmt: skip
def test_bytes_of_files(count: int, words: str) -> None:
    assert file_size_words(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(4.25, "4.2 s"), (10, "10 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2.0 h")],
)
def test_seconds(seconds: float, words: str) -> None:
    assert seconds_words(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(9.31e10, "93.1 GFLOP/s"), (1e12, "1 TFLOP/s"), (9.89e14, "989 TFLOP/s"), (1.5e15, "1.5 PFLOP/s")],
)
def test_operations_a_second(count: float, words: str) -> None:
    assert flops_words(count) == words
