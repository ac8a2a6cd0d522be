"""The rules of the house that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import babygpt

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "babygpt"
FILES = sorted(PACKAGE.rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# Answering `--help` takes under a second only as long as none of these imports torch or its friends.
LIGHT = [
    "errors",
    "names",
    "disk",
    "files",
    "fields",
    "recipe",
    "machine",
    "settings",
    "arguments",
    "verify",
    "cli",
]
HEAVY = {"torch", "transformers", "lightning", "datasets", "tokenizers", "pyarrow", "numpy"}


def tree_of(text: str) -> dict[str, str]:
    """Path -> description, from the first fenced block whose first line is `src/babygpt/`.

    A line is `name  description`, indented below its folder; a folder's name ends in a slash. A line that
    begins with anything else goes on with the description above it.
    """
    block = re.search(r"^```\w*\n(src/babygpt/.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert block, "ARCHITECTURE.md has no fenced block that begins with src/babygpt/"
    folders: list[tuple[int, str]] = []
    found: dict[str, str] = {}
    for line in block[1].splitlines():
        entry = re.match(r"( *)([\w./-]+(?:\.\w+|/))(?:\s+(.*))?$", line)
        if not entry:
            continue
        indent, name, description = len(entry[1]), entry[2], entry[3] or ""
        while folders and folders[-1][0] >= indent:
            folders.pop()
        path = (folders[-1][1] if folders else "") + name
        assert path not in found, f"{path} is listed twice"
        found[path] = description.strip()
        if name.endswith("/"):
            folders.append((indent, path))
    return found


def test_no_file_of_the_package_is_over_400_lines() -> None:
    lengths = {str(f.relative_to(ROOT)): len(f.read_text(encoding="utf-8").splitlines()) for f in FILES}
    assert {name: lines for name, lines in lengths.items() if lines > 400} == {}


def test_the_architecture_lists_every_file_with_a_line() -> None:
    listed = tree_of((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"))
    wanted = {f.relative_to(ROOT).as_posix() for f in FILES if f.name != "__init__.py" or f.parent == PACKAGE}
    wanted |= {f.parent.relative_to(ROOT).as_posix() + "/" for f in FILES}
    wanted.add("src/babygpt/model/presets/")
    assert sorted(wanted - listed.keys()) == [], "not listed"
    assert sorted(path for path in listed if not (ROOT / path).exists()) == [], "listed, but not there"
    assert sorted(path for path, line in listed.items() if not line and path != "src/babygpt/") == [], (
        "without a line"
    )


def test_the_changelog_begins_with_this_version() -> None:
    heading = re.search(
        r"^## +\[?(\d\S*?)\]?(?:\s|$)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert heading
    assert heading[1] == babygpt.__version__


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_no_pickle_no_remote_code_no_print(file: Path) -> None:
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names) if any(
                n.name.split(".")[0] in ("pickle", "dill", "marshal") for n in names
            ):
                found.append((node.lineno, "pickle"))
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in ("pickle", "dill", "marshal"):
                found.append((node.lineno, "pickle"))
            case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="load" | "save")):
                found.append((node.lineno, "torch.load and torch.save pickle"))
            case ast.keyword(arg="trust_remote_code", value=value) if not (
                isinstance(value, ast.Constant) and value.value is False
            ):
                found.append((node.value.lineno, "trust_remote_code"))
            case ast.Call(func=ast.Name(id="print")) if file != PACKAGE / "cli.py":
                found.append((node.lineno, "print"))
    assert found == []


@pytest.mark.parametrize(
    ("name", "refused", "taken"),
    [
        ("lightning", ["2.6.2", "2.6.3", "2.6.4"], "2.6.5"),  # 2.6.2 and 2.6.3 were malicious
        ("torch", ["2.5", "2.9.1", "2.10"], "2.11"),  # CVE-2025-32434, CVE-2026-24747
        ("transformers", ["5.2"], "5.3"),  # CVE-2026-4372
    ],
)
def test_versions_with_known_holes_are_refused(name: str, refused: list[str], taken: str) -> None:
    (required,) = [r for r in map(Requirement, PROJECT["dependencies"]) if r.name == name]
    assert [v for v in refused if v in required.specifier] == []
    assert taken in required.specifier


def test_the_constraints_fit_the_ranges_and_name_no_build() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    wanted = map(Requirement, [*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())])
    for required in wanted:
        assert pins[required.name.lower().replace("_", "-")] in required.specifier, required
    assert [name for name, version in pins.items() if Version(version).local] == []


def test_nothing_of_the_command_line_imports_torch() -> None:
    imports = ", ".join(f"babygpt.{name}" for name in LIGHT)
    code = f"import sys, {imports}; print(*sorted({HEAVY} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
