"""Versions where nothing is stood in for: this installation, and a file that hides a package."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest

from babygpt.doctor import versions


def test_a_file_that_hides_a_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert [each.status for each in versions.check_origins()] == ["ok"]
    (tmp_path / "tokenizers.py").write_text("")
    monkeypatch.delitem(sys.modules, "tokenizers")
    monkeypatch.syspath_prepend(tmp_path)
    (found,) = versions.check_origins()
    assert found.status == "fault"
    assert found.what == f"{tmp_path / 'tokenizers.py'} hides the installed package"


def test_run_from_source(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    (found,) = versions.check_packages()
    assert found.status == "warning"
    assert "is not installed" in found.what


def test_packages_that_quarrel(monkeypatch: pytest.MonkeyPatch) -> None:
    wants = {"babygpt": ["torch>=2.11", 'rensa>=0.5; extra == "dedup"'], "torch": ["sympy>=99", "numpy>=1"]}
    monkeypatch.setattr(metadata, "requires", wants.__getitem__)
    found = [each for each in versions.check_packages() if each.status != "ok"]
    assert [(each.about, each.status) for each in found] == [("torch", "warning")]
    assert found[0].what.startswith("asks for sympy>=99, and ")


def test_a_damaged_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "unknown" if name == "torch" else real(name))
    found = next(each for each in versions.check_packages() if each.about == "torch")
    assert found.status == "fault"
    assert "damaged" in found.what
