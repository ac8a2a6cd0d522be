"""Runs that torchrun starts, and runs whose reader goes away. Cost: 20 to 55 s each beside other work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import runs
from babygpt.files import read_manifest

pytestmark = pytest.mark.chaos

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "babygpt")
COMMAND = ("-m", "babygpt")


def arguments(model: Path, text: Path, **more: object) -> list[str]:
    return runs.arguments(runs.recipe(model, text, model__dropout=0.0, **more))


def torchrun(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command by two processes, in a folder, to its end."""
    return subprocess.run(
        [sys.executable, *TORCHRUN, *words],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_torchrun_starts_one_run(tiny_gpt2: Path, text: Path, tmp_path: Path) -> None:
    done = torchrun(tmp_path, *arguments(tiny_gpt2, text, budget__steps=3), "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    (out,) = (tmp_path / "runs").iterdir()
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["steps"] == 3
    assert done.stderr.count("run: runs/") == 1
    assert done.stderr.count("validation at step       3") == 1
    plan = json.loads((out / "machine.json").read_text())["plan"]
    assert (plan["devices"], plan["nodes"], plan["strategy"]) == (2, 1, "ddp")
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps if "train_loss" in line] == [1, 2, 3]
    assert read_manifest(out / "checkpoints" / "step-000003").facts["step"] == 3


def test_what_one_process_refuses_ends_both_and_is_said_once(tiny_gpt2: Path, tmp_path: Path) -> None:
    done = torchrun(tmp_path, *arguments(tiny_gpt2, tmp_path / "missing.txt"))
    assert done.returncode == 1, "torchrun has no other code"
    assert done.stderr.count("babygpt train: ") == 1, done.stderr
    assert "exitcode  : 2" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("started", [COMMAND, TORCHRUN])
def test_a_reader_that_goes_away_ends_no_run(
    tiny_gpt2: Path, text: Path, tmp_path: Path, started: tuple[str, ...]
) -> None:
    process = subprocess.Popen(
        [sys.executable, *started, *arguments(tiny_gpt2, text, budget__steps=300, out=tmp_path / "run")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("validation at step       0"):
            break
    process.stderr.close()
    assert process.wait(120) == 0
    assert read_manifest(tmp_path / "run" / "checkpoints" / "step-000300").facts["step"] == 300


def test_a_terminal_that_is_closed_saves_and_stops(tiny_gpt2: Path, text: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            *COMMAND,
            *arguments(tiny_gpt2, text, budget__steps=100_000, validate__every_steps=5, out=tmp_path / "run"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # these tests may run under nohup
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("validation at step       5"):
            break
    process.stderr.close()
    os.kill(process.pid, signal.SIGHUP)
    assert process.wait(120) == 128 + signal.SIGHUP
    steps = [
        line["step"] for line in runs.lines_of(tmp_path / "run" / "metrics.jsonl") if "train_loss" in line
    ]
    assert len(steps) >= 5
    assert (tmp_path / "run" / "checkpoints" / f"step-{len(steps):06}").is_dir()
