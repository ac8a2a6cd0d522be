"""The rules of the house that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import babygpt

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "babygpt"
FILES = sorted(PACKAGE.rglob("*.py"))

# Answering `--help` takes under a second only as long as none of these imports torch or its friends.
LIGHT = [
    "errors",
    "names",
    "presets",
    "tokenizer_names",
    "disk",
    "files",
    "fields",
    "recipe",
    "cgroups",
    "machine",
    "computer",
    "machines",
    "settings",
    "arguments",
    "verify",
    "run_folder",
    "report.verb",
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


PICKLES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}
# As they are called: the last two parts of a dotted name.
FORBIDDEN_CALLS = {
    **dict.fromkeys(["torch.load", "torch.save", "torch.jit.load", "np.save", "pd.read_pickle"], "pickle"),
    **dict.fromkeys(
        ["yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"], "an open YAML loader"
    ),
    **dict.fromkeys(["eval", "exec", "compile", "__import__", "os.system", "os.popen"], "runs text"),
}


def forbidden_in(source: str, *, may_print: bool = False) -> list[tuple[int, str]]:
    """Line and reason of all that a file of the package may not do."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names) if PICKLES & {n.name.split(".")[0] for n in names}:
                found.append((node.lineno, "pickle"))
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in PICKLES:
                found.append((node.lineno, "pickle"))
            case ast.ImportFrom(module="yaml" | "torch", names=names) if {
                "load",
                "Loader",
                "UnsafeLoader",
            } & {n.name for n in names}:
                found.append((node.lineno, "a loader under another name"))
            case ast.Attribute(value=ast.Name(id="yaml"), attr="Loader" | "FullLoader" | "UnsafeLoader"):
                found.append((node.lineno, "an open YAML loader"))
            case ast.Call(func=function) if ast.unparse(function) in FORBIDDEN_CALLS:
                found.append((node.lineno, FORBIDDEN_CALLS[ast.unparse(function)]))
            case ast.keyword(arg="trust_remote_code" | "allow_pickle" | "shell", value=value) if not (
                isinstance(value, ast.Constant) and value.value is False
            ):
                found.append((node.value.lineno, str(node.arg)))
            case ast.Call(func=ast.Name(id="print")) if not may_print:
                found.append((node.lineno, "print"))
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_no_pickle_no_remote_code_no_print(file: Path) -> None:
    assert forbidden_in(file.read_text(encoding="utf-8"), may_print=file == PACKAGE / "cli.py") == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "import a, dill.source", "from pickle import loads", "from yaml import load",
        "torch.load(f)", "torch.load(f, weights_only=True)", "np.load(f, allow_pickle=True)",
        "yaml.load(f, Loader=yaml.SafeLoader)", "yaml.load_all(f)", "x(Loader=yaml.UnsafeLoader)",
        "eval(x)", "exec(x)", "__import__(x)", "os.system(x)", "run(x, shell=True)", "run(x, shell=flag)",
        "f(trust_remote_code=True)", "f(trust_remote_code=settings.trust)", "print(x)",
    ],
)  # fmt: skip
def test_the_rule_finds_what_it_forbids(source: str) -> None:
    assert [line for line, _ in forbidden_in(source)] == [1]


def test_nothing_of_the_command_line_imports_torch() -> None:
    imports = ", ".join(f"babygpt.{name}" for name in LIGHT)
    code = f"import sys, {imports}; print(*sorted({HEAVY} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
