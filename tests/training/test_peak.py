"""What a device multiplies at most: operations over seconds, and nothing of the run is touched."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch

from babygpt.training import peak
from babygpt.training.peak import matrix_peak


def test_it_is_operations_over_the_seconds_of_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peak._SIZES, "cpu", (100, 4))
    clock = itertools.chain.from_iterable(
        (10.0 * n, 10.0 * n + (0.02 if n == 1 else 0.05)) for n in itertools.count()
    )
    monkeypatch.setattr(peak, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    # Four products of a million multiplications and as many sums, in the two hundredths of a second of the second try.
    assert matrix_peak(torch.device("cpu"), "32-true") == pytest.approx(4 * 2e6 / 0.02)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16), ("64-true", torch.float64)],
)
def test_it_multiplies_what_the_run_does_and_draws_nothing_from_it(
    monkeypatch: pytest.MonkeyPatch, precision: str, dtype: torch.dtype
) -> None:
    monkeypatch.setitem(peak._SIZES, "cpu", (64, 1))
    seen: set[torch.dtype] = set()
    wait = peak._wait
    monkeypatch.setattr(peak, "_wait", lambda product: (seen.add(product.dtype), wait(product)))
    before = torch.get_rng_state()
    assert matrix_peak(torch.device("cpu"), precision) > 0
    assert seen == {dtype}
    assert torch.equal(torch.get_rng_state(), before)
