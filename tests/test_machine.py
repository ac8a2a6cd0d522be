"""What may be asked of a computer, and how one is told of."""

from __future__ import annotations

import pytest

from babygpt.errors import MachineError
from babygpt.machine import MachineFacts, MachineRequest


def test_one_line_for_people() -> None:
    laptop = MachineFacts("A Processor", ("cpu",), 0, 2, 2, 24 * 2**30, ())
    assert laptop.describe() == "A Processor, 2 cores, 24 GiB"
    server = MachineFacts("A GPU", ("cuda", "cpu"), 8, 64, 64, 512 * 2**30, ("cuda",))
    assert server.describe() == "8 x A GPU, 512 GiB"
    assert server.bf16("cuda")
    assert not server.bf16("cpu")


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [("micro_batch", 0, 1), ("workers", -1, 0), ("devices", 0, 1), ("nodes", 0, 1), ("micro_batch", 1.5, 1),
     ("devices", True, 1), ("nodes", "two", 1)],
)  # fmt: skip
def test_numbers_out_of_range(name: str, value: object, least: int) -> None:
    with pytest.raises(MachineError) as caught:
        MachineRequest(**{name: value})  # type: ignore[arg-type]
    assert str(caught.value).startswith(f"machine.{name}: ")
    assert f"at least {least}" in str(caught.value)
