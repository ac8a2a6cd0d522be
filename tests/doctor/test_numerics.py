"""The process of the numeric runs: broken, killed or hanging, it becomes a finding and never the doctor's end."""

from __future__ import annotations

from pathlib import Path

import pytest

from babygpt.doctor import numerics
from babygpt.doctor.findings import Finding


def faults(monkeypatch: pytest.MonkeyPatch, folder: Path, torch: str) -> list[Finding]:
    """What is found where torch is this text."""
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").write_text(torch)
    monkeypatch.syspath_prepend(folder)
    with numerics.started("numerics") as probe:
        found = probe.findings()
    assert probe.process.returncode is not None
    return [each for each in found if each.status == "fault"]


def test_a_torch_that_does_not_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = "print('noise'); raise OSError('libtorch_cpu.so: cannot open shared object file')"
    (found,) = faults(monkeypatch, tmp_path, text)
    assert found.about == "torch"
    assert found.what == "cannot be imported: OSError: libtorch_cpu.so: cannot open shared object file"
    assert "--force-reinstall" in found.mend


def test_a_torch_for_another_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (found,) = faults(monkeypatch, tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    assert "SIGILL" in found.what
    assert "another build" in found.mend


def test_a_torch_that_leaves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = "import os; os.write(2, b'no such driver\\n'); os._exit(3)"
    (found,) = faults(monkeypatch, tmp_path, text)
    assert found.what == "a tiny run of imports ended with 3: no such driver"


def test_a_torch_that_never_comes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(numerics._SECONDS, "numerics", 1.0)
    (found,) = faults(monkeypatch, tmp_path, "import time; time.sleep(600)")
    assert "did not end in 1 s" in found.what
