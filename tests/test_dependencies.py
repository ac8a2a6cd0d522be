"""The versions that are installed: pinned, hashed, and none with a hole that is known here."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
KNOWN = ROOT / "src" / "babygpt" / "known_vulnerable.toml"
HOLES = tomllib.loads(KNOWN.read_text(encoding="utf-8"))["hole"]
SETS = {
    "train": [*PYPROJECT["project"]["dependencies"], *PYPROJECT["build-system"]["requires"]],
    **EXTRAS,
}


def lines_of(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8").replace("\\\n", "")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def pins() -> dict[str, Version]:
    found = map(Requirement, lines_of(ROOT / "constraints.txt"))
    return {canonicalize_name(r.name): pinned(r) for r in found}


def pinned(requirement: Requirement) -> Version:
    (only,) = requirement.specifier
    assert only.operator == "=="
    return Version(only.version)


def locked(name: str) -> dict[str, tuple[Version, Marker | None, list[str]]]:
    """Package -> version, marker and hashes of a requirement file."""
    found = {}
    for line in lines_of(ROOT / "requirements" / f"{name}.txt"):
        requirement = Requirement(line.partition("--hash")[0])
        hashes = re.findall(r"--hash=sha256:([0-9a-f]{64})(?=\s|$)", line)
        assert len(hashes) == line.count("--hash")
        found[canonicalize_name(requirement.name)] = pinned(requirement), requirement.marker, hashes
    return found


def test_the_constraints_fit_the_ranges_and_name_no_build() -> None:
    for required in map(Requirement, chain(*SETS.values())):
        assert pins()[canonicalize_name(required.name)] in required.specifier, required
    assert [name for name, version in pins().items() if version.local] == []


@pytest.mark.parametrize("name", SETS)
def test_every_locked_file_has_a_hash_and_the_version_of_the_constraints(name: str) -> None:
    for package, (version, _, hashes) in locked(name).items():
        assert hashes, package
        assert len(set(hashes)) == len(hashes), package
        assert pins()[package] == version, package


def test_the_locks_hold_every_pin_once_but_those_of_a_build_of_torch() -> None:
    names = sorted(chain(*(locked(name) for name in SETS)))
    assert names == sorted(pins().keys() - {"torch"})


@pytest.mark.parametrize("name", SETS)
def test_the_locks_hold_what_the_project_asks_for(name: str) -> None:
    here = {package for each in ("train", name) for package in locked(each)}
    wanted = {canonicalize_name(Requirement(r).name) for r in SETS[name]} - {"torch"}
    assert sorted(wanted - here) == []


def test_nothing_is_left_out_on_a_common_platform() -> None:
    """What a marker leaves out, it leaves out on Windows or on machines that nobody trains on."""
    common = [
        {"sys_platform": system, "platform_machine": machine, "platform_python_implementation": "CPython"}
        for system, machine in (
            ("linux", "x86_64"),
            ("linux", "aarch64"),
            ("darwin", "arm64"),
            ("win32", "AMD64"),
        )
    ]
    left_out = set()
    for name in SETS:
        for package, (_, marker, _) in locked(name).items():
            for version in ("3.11", "3.12", "3.13", "3.14"):
                environments = [{**e, "python_full_version": f"{version}.0"} for e in common]
                if marker and not all(marker.evaluate(e) for e in environments):
                    left_out.add(package)
    assert left_out == {"colorama", "httpx2-jsfetch"}


@pytest.mark.parametrize("hole", HOLES, ids=lambda h: f"{h['package']}{h['affected']}-{h['id']}")
def test_no_version_with_a_known_hole(hole: dict[str, Any]) -> None:
    assert hole.keys() == {"package", "affected", "id", "what"}
    affected = SpecifierSet(hole["affected"], prereleases=True)
    package = canonicalize_name(hole["package"])
    if package in pins():
        assert pins()[package] not in affected, "pinned in constraints.txt"
    for requirement in map(Requirement, chain(*SETS.values())):
        if canonicalize_name(requirement.name) == package:
            allowed = [s.version for s in requirement.specifier if s.operator in (">=", "==", "~=")]
            named = [s.version for s in affected if s.operator == "=="]
            assert allowed, "has no lower bound"
            assert max(map(Version, allowed)) not in affected, "the lower bound of pyproject.toml"
            assert [v for v in named if v in requirement.specifier] == [], "allowed by pyproject.toml"


def test_the_check_finds_a_hole(monkeypatch: pytest.MonkeyPatch) -> None:
    for affected in ("<99", "==2.6.6", ">=2.6.5"):
        hole = {"package": "Lightning", "affected": affected, "id": "x", "what": "x"}
        with pytest.raises(AssertionError):
            test_no_version_with_a_known_hole(hole)
    monkeypatch.setitem(SETS, "train", ["lightning>=2.6.2"])
    with pytest.raises(AssertionError):
        test_no_version_with_a_known_hole(HOLES[0])
