"""Runs that torchrun starts, and runs whose reader goes away. Cost: 15 to 65 s each beside other work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import runs
from babygpt.files import read_manifest

pytestmark = pytest.mark.chaos

ELASTIC = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
TORCHRUN = (*ELASTIC, "-m", "babygpt")
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
    ours, torchruns = done.stderr.split("Traceback (most recent call last):")
    assert ours.count("babygpt train: ") == 1, done.stderr
    (message,) = (line for line in ours.splitlines() if line.startswith("babygpt train: "))
    assert f"{tmp_path / 'missing.txt'}: " in message
    report = torchruns.splitlines()
    assert report[-2].startswith("  traceback : babygpt train: "), "the root cause, whoever was asked for it"
    assert report[-2].endswith(message.removeprefix("babygpt train: "))
    assert report[-4].startswith("  exitcode  : 2")
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


def children_of(pid: int) -> Iterator[tuple[int, dict[str, str]]]:
    """The processes that one has started, each with its environment."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            variables = Path(f"/proc/{child}/environ").read_text().split("\0")
            yield int(child), dict(line.split("=", 1) for line in variables if "=" in line)


def test_torchrun_starts_a_killed_run_again_and_it_ends_as_if_nothing_had_been(
    tiny_gpt2: Path, text: Path, tmp_path: Path
) -> None:
    words = arguments(tiny_gpt2, text, budget__steps=240, checkpoint__every_steps=40)
    undisturbed = torchrun(tmp_path, *words, "--out", "undisturbed")
    assert undisturbed.returncode == 0, undisturbed.stderr[-3000:]

    started = (*ELASTIC, "--max-restarts", "1", "-m", "babygpt", *words, "--out", "killed")
    with (tmp_path / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, *started],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    checkpoints = tmp_path / "killed" / "checkpoints"
    until = time.monotonic() + 120
    while not (checkpoints / "step-000040").is_dir():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.005)
    (victim,) = (pid for pid, variables in children_of(process.pid) if variables.get("RANK") == "1")
    os.kill(victim, signal.SIGKILL)
    assert process.wait(120) == 0, (tmp_path / "stderr").read_text()[-3000:]

    said = (tmp_path / "stderr").read_text()
    assert said.count("restart 1 of 1: going on with killed as --resume would") == 1
    assert said.count("validation at step       0") == 1, "not begun anew"
    last = [tmp_path / name / "checkpoints" / "step-000240" for name in ("killed", "undisturbed")]
    assert runs.fingerprint(last[0]) == runs.fingerprint(last[1])
    steps = [line["step"] for line in runs.lines_of(tmp_path / "killed" / "metrics.jsonl")]
    assert steps == sorted(steps)


def test_a_further_process_that_is_killed_before_training_ends_the_run_with_a_word(
    tiny_gpt2: Path, text: Path, tmp_path: Path
) -> None:
    words = arguments(tiny_gpt2, text, budget__steps=3, machine__devices=2, machine__micro_batch=1)
    with (tmp_path / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, *COMMAND, *words, "--out", tmp_path / "run"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    until = time.monotonic() + 120
    while not (
        started := [pid for pid, values in children_of(process.pid) if values.get("LOCAL_RANK") == "1"]
    ):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    os.kill(started[0], signal.SIGKILL)
    assert process.wait(120) == 1
    said = (tmp_path / "stderr").read_text().splitlines()
    assert said[-1] == "process 1 of this computer has ended (-9), and this one has waited for it in vain"
