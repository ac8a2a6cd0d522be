"""The runs themselves that `test_verb` leaves out: torch.compile, and the mends of what compilers say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from babygpt.doctor import probe


def found(monkeypatch: pytest.MonkeyPatch, compiled: Callable[[Any], Any]) -> dict[str, Any]:
    """The finding where torch.compile does this to a function."""
    said: list[dict[str, Any]] = []
    monkeypatch.setattr(torch, "compile", compiled)
    probe.main("compile", said.append)
    begun, finding = said
    assert begun == {"begun": "compile"}
    return finding


def test_compiled_as_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(monkeypatch, lambda f: f)["status"] == "ok"
    # Another order of the same sums is rounding.
    assert found(monkeypatch, lambda f: lambda x: f(x.double()).float())["status"] == "ok"


def test_compiled_to_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = found(monkeypatch, lambda f: lambda x: f(x) * 1.001)
    assert wrong["status"] == "fault"
    assert "something else than eager" in wrong["what"]


@pytest.mark.parametrize(
    ("message", "mend"),
    [
        ("fatal error: Python.h: No such file", "python3-dev"),
        ("InvalidCxxCompiler: No working C++ compiler found", "apt install g++"),
        ("no kernel image is available for execution on the device", "build of torch"),
        ("", "--machine.device"),
    ],
)
def test_a_compiler_that_fails(monkeypatch: pytest.MonkeyPatch, message: str, mend: str) -> None:
    def fail(function: Any) -> Any:
        raise RuntimeError(f"\n{message}\nmore")

    failed = found(monkeypatch, fail)
    assert failed["status"] == "fault"
    assert message in failed["what"]
    assert mend in failed["mend"]
