"""One flipped byte or one cut in any file of a run's newest checkpoint: named, said aloud, and gone round."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import runs
from babygpt.checkpoints import newest
from babygpt.cli import main
from forking import ForkServer

pytestmark = pytest.mark.chaos

FILES = (
    "README.md",
    "config.json",
    "generation_config.json",
    "manifest.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "training/optimizer.safetensors",
    "training/state.json",
)
STEPS = 9


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0x10
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture(scope="module")
def run(forks: ForkServer, tiny_gpt2: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stopped after step 6, with checkpoints of 3 and 6."""
    folder = tmp_path_factory.mktemp("damage")
    given = runs.recipe(tiny_gpt2, text, budget__steps=STEPS, validate__every_steps=STEPS)
    given |= {"out": folder / "run", "checkpoint.every_steps": 3}
    events = [(2 * 5 + 1, 15)]
    child = forks.run("runs:train_with_events", runs.arguments(given), events, output=folder / "out.txt")
    assert child.wait() == 143, child.text()
    return folder / "run"


@pytest.fixture(scope="module")
def expected(forks: ForkServer, run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The end of the run where nothing is damaged."""
    return go_on(forks, run, tmp_path_factory.mktemp("undamaged"))[0]


def go_on(forks: ForkServer, run: Path, folder: Path) -> tuple[dict[str, Any], str]:
    out = folder / "resumed"
    shutil.copytree(run, out, symlinks=True)
    given = {"resume": out, **runs.MACHINE}
    child = forks.run("runs:train_with_events", runs.arguments(given), [], output=folder / "out.txt")
    assert child.wait() == 0, child.text()
    return runs.fingerprint(out / "checkpoints" / f"step-{STEPS:06d}"), child.text()


def test_these_are_the_files(run: Path) -> None:
    checkpoint = run / "checkpoints" / "step-000006"
    assert sorted(
        p.relative_to(checkpoint).as_posix() for p in checkpoint.rglob("*") if p.is_file()
    ) == sorted(FILES)


@pytest.mark.parametrize("damage", [flipped, cut])
@pytest.mark.parametrize("file", FILES)
def test_the_file_is_named_and_the_one_before_is_taken(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, damage: Callable[[Path], None]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out, symlinks=True)
    checkpoint = out / "checkpoints" / "step-000006"
    damage(checkpoint / file)
    assert main(["checkpoint", "verify", str(out)]) == 2
    said = capsys.readouterr().err
    assert "step-000006" in said
    assert file in said
    messages: list[str] = []
    assert newest(out / "checkpoints", messages.append) == out / "checkpoints" / "step-000003"
    assert [m for m in messages if m.startswith("step-000006 is passed over: ") and file in m]


@pytest.mark.parametrize("file", ["model.safetensors", "training/state.json", "manifest.json"])
def test_a_run_goes_on_from_the_one_before_to_the_same_end(
    forks: ForkServer, run: Path, expected: dict[str, Any], tmp_path: Path, file: str
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(run, damaged, symlinks=True)
    flipped(damaged / "checkpoints" / "step-000006" / file)
    found, said = go_on(forks, damaged, tmp_path)
    assert found == expected
    assert "resume: step-000006 is passed over" in said
    assert file in said
