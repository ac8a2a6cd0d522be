"""What the chaos tests share: a server that forks runs, a corpus, and the figures at the end of a session."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from forking import ForkServer

_FIGURES: list[str] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _FIGURES:
        terminalreporter.section("chaos")
        for line in _FIGURES:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def figures() -> list[str]:
    """Lines for the end of the session."""
    return _FIGURES


@pytest.fixture(scope="session")
def forks() -> Iterator[ForkServer]:
    """Forks runs."""
    with tempfile.TemporaryDirectory(prefix="forks-") as folder, ForkServer(Path(folder)) as server:
        yield server


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents of uneven length: about 32 steps an epoch."""
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    documents = [
        f"Document {n}. " + " ".join(f"word{(n * k) % 17} is {k} of {n}" for k in range(1, 4 + n % 11))
        for n in range(40)
    ]
    path.write_text("".join(json.dumps({"text": d}) + "\n" for d in documents))
    return path


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that counts, records, fails or kills at changes to files."""
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl", "-lpthread"], check=True)
    return library


@pytest.fixture(scope="session")
def shimmed(shim: Path) -> Iterator[ForkServer]:
    """Forks processes with the shim in them."""
    with (
        tempfile.TemporaryDirectory(prefix="forks-") as folder,
        ForkServer(Path(folder), {"LD_PRELOAD": str(shim)}, "publishing:warm_up") as server,
    ):
        yield server


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: flushing costs nothing there."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="chaos-", dir=memory) as folder:
        yield Path(folder)
