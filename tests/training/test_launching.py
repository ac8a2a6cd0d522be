"""Tasks that srun starts have one voice and one end; tests/chaos/test_launches.py has runs that torchrun starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.chaos


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


def test_a_refusal_ends_all_tasks_of_srun_at_once_and_is_said_once(tiny_gpt2: Path, tmp_path: Path) -> None:
    """A task on each of two computers, where more are asked for."""
    tasks = []
    for rank in range(2):
        variables = {
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_PROCID": str(rank),
            "SLURM_LOCALID": "0",
            "SLURM_NODEID": str(rank),
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_STEP_NUM_NODES": "2",
            "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
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
    # The first waits for imports; when it has ended, so has the other.
    limits = (200, 20)
    ended = [(*t.communicate(timeout=limit), t.returncode) for t, limit in zip(tasks, limits, strict=True)]
    assert [code for *_, code in ended] == [2, 2], ended
    assert ended[0][1] == (
        "babygpt train: machine.devices: 3 asked for, but srun started 1 process on each of 2 computers."
        " Leave machine.devices out, which takes what was started, or start others.\n"
    )
    assert ended[1][1] == ""
    assert not (tmp_path / "runs").exists()
