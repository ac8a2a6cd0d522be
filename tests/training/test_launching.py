"""Processes that torchrun and srun start are one run: one folder, one voice, one end. Real processes, on the CPU.

Cost: 12 s on two quiet cores, most of it imports.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from babygpt.files import read_manifest

pytestmark = pytest.mark.distributed

TORCHRUN = (
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "2",
    "-m",
    "babygpt",
)


def arguments(model: Path, folder: Path, **more: object) -> list[str]:
    text = folder / "text.txt"
    text.write_text("\n\n".join(f"Document {n} tells of {n * n} things." for n in range(60)))
    fields: dict[str, object] = {
        "model.name": model,
        "data.path": text,
        "data.block": 32,
        "data.global_batch_size": 4,
        "budget.steps": 3,
        "machine.device": "cpu",
        "machine.precision": "32-true",
    }
    fields |= {name.replace("__", "."): value for name, value in more.items()}
    return ["train", *(part for name, value in fields.items() for part in (f"--{name}", str(value)))]


def test_torchrun_starts_one_run(tiny_gpt2: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [*TORCHRUN, *arguments(tiny_gpt2, tmp_path), "--json"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
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


def test_a_refusal_ends_all_tasks_of_srun_at_once_and_is_said_once(tiny_gpt2: Path, tmp_path: Path) -> None:
    """Two tasks on each of two computers: the numbers do not fit what is asked for."""
    began = time.monotonic()
    tasks = []
    for rank in range(4):
        variables = {
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_PROCID": str(rank),
            "SLURM_LOCALID": str(rank % 2),
            "SLURM_NODEID": str(rank // 2),
            "SLURM_STEP_NUM_TASKS": "4",
            "SLURM_STEP_NUM_NODES": "2",
            "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
            "SLURM_STEP_NODELIST": "localhost",
        }
        tasks.append(
            subprocess.Popen(
                [sys.executable, "-m", "babygpt", *arguments(tiny_gpt2, tmp_path, machine__devices=3)],
                cwd=tmp_path,
                env={**os.environ, **variables},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    ended = [(*task.communicate(timeout=90), task.returncode) for task in tasks]
    assert [code for *_, code in ended] == [2, 2, 2, 2], ended
    assert [err for _, err, _ in ended][1:] == ["", "", ""]
    assert ended[0][1] == (
        "babygpt train: machine.devices: 3 asked for, but srun started 2 processes on each of 2 computers."
        " Leave machine.devices out, which takes what was started, or start others.\n"
    )
    assert not (tmp_path / "runs").exists()
    assert time.monotonic() - began < 60
