from __future__ import annotations

from types import SimpleNamespace

import pytest

from babygpt.data import transfer
from babygpt.data.transfer import BrokenOffError, part_of


def test_a_server_cannot_make_a_run_wait_for_days(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(transfer.time, "sleep", waited.append)
    failing = [BrokenOffError("503", wait=999_999.0), BrokenOffError("503", wait=7.0)]

    def part(start: int, size: int) -> bytes:
        if failing:
            raise failing.pop(0)
        return bytes(size)

    assert part_of(SimpleNamespace(shown="there", part=part), 0, 3, lambda text: None) == bytes(3)  # type: ignore[arg-type]
    assert waited == [30.0, 7.0]
