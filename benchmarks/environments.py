"""A virtual environment for each contender, made once from a requirement file of exact pins."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

__all__ = ["BENCHMARKS", "PROJECT", "interpreter"]

BENCHMARKS = Path(__file__).resolve().parent
PROJECT = BENCHMARKS.parent


def interpreter(name: str, folder: Path, pip_arguments: list[str]) -> Path:
    """The Python of an environment; it is made first if it is not there or its requirement file has changed.

    Args:
        name: of the requirement file, without `.txt`.
        folder: that holds the environments.
        pip_arguments: further ones for `pip install`, an index with another build of torch, say.

    Raises:
        SystemExit: pip failed; its own message went to standard error.
    """
    requirements = BENCHMARKS / "requirements" / f"{name}.txt"
    home, key = folder / name, _key(requirements)
    python = home / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    complete = home / "complete"
    if complete.exists() and complete.read_text(encoding="utf-8") == key:
        return python
    print(f"making the environment {name} ...", flush=True)
    shutil.rmtree(home, ignore_errors=True)
    venv.create(home, with_pip=True)
    command = [str(python), "-m", "pip", "install", "--quiet", *pip_arguments, "-r", str(requirements)]
    # Paths inside a requirement file are relative to where pip runs.
    if subprocess.run(command, cwd=PROJECT, check=False).returncode:
        raise SystemExit(f"the environment {name} could not be made from {requirements}")
    complete.write_text(key, encoding="utf-8")
    return python


def _key(requirements: Path) -> str:
    """Changes with the requirement file and whatever it is made from."""
    digest = hashlib.sha256(requirements.read_bytes())
    if "-e ." in requirements.read_text(encoding="utf-8"):
        for name in ("constraints.txt", "pyproject.toml"):
            digest.update((PROJECT / name).read_bytes())
    digest.update(sys.version.encode())
    digest.update(str(PROJECT).encode())
    return digest.hexdigest()[:12]
