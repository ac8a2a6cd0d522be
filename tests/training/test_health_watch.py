"""What is said of a run's health while it trains, of runs made sick on purpose."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from babygpt.cli import main
from babygpt.training.callbacks import RunFiles
from babygpt.training.health_watch import HealthWatch


def test_a_run_that_diverges_is_told_so_once_and_a_sound_one_nothing(
    tiny_gpt2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("".join(f"Number {n % 7} is {n % 5}. " for n in range(600)))
    words = ["train", "--model.name", tiny_gpt2, "--data.path", tmp_path / "text.txt", "--data.block", 16]
    words += ["--data.global_batch_size", 4, "--budget.steps", 120, "--validate.every_steps", 20]
    words += ["--optim.name", "adamw", "--checkpoint.keep", 1]
    for rate, out, sick in ((1e-3, "sound", False), (5.0, "sick", True)):
        more = ["--optim.lr", rate, "--out", tmp_path / out, "--schedule.warmup", 0.6]
        assert main([str(word) for word in [*words, *more]]) == 0
        # Other work on this computer may keep the batches waiting, which is said, too.
        said = [line for line in capsys.readouterr().err.splitlines() if "until the next batch" not in line]
        findings = [line for line in said if "health at step" in line]
        assert len(findings) == sick, said
        assert all("has risen from" in line for line in findings)


def test_time_that_goes_by_between_batches_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, said = [0.0], list[str]()
    monkeypatch.setattr("babygpt.training.health_watch.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    watch = HealthWatch(RunFiles(tmp_path), [], 1000, said.append)
    trainer: Any = SimpleNamespace(
        global_step=0, accumulate_grad_batches=2, is_global_zero=True, sanity_checking=False
    )

    def work(steps: int, waited: float, worked: float) -> None:
        for _ in range(steps):
            for micro in range(2):
                clock[0] += waited
                watch.on_train_batch_start(trainer, None, None, micro)
                clock[0] += worked
                trainer.global_step += micro
                watch.on_train_batch_end(trainer, None, None, None, micro)

    work(150, waited=0.01, worked=1.0)
    clock[0] += 1000.0
    watch.on_validation_end(trainer, None)  # which took that long
    work(50, waited=0.01, worked=1.0)
    assert not said
    work(200, waited=0.6, worked=0.4)
    assert len(said) == 1
    assert "of the time goes by until the next batch is there" in said[0]
    assert said[0].startswith("health at step 300: ")


def test_a_damaged_line_of_the_run_before_is_passed_over(tmp_path: Path) -> None:
    odd: list[dict[str, Any]] = [
        {"step": 1, "train_loss": "x", "lr": []},
        {"step": 2, "train_loss": 10**400, "lr": 0.1},
        {"step": "3", "train_loss": 2.0},
        {"step": 2**70, "train_loss": 2.0},
        {"step": 4, "val_loss": "x"},
        {"step": 5, "val_loss": None},
    ]
    said = list[str]()
    HealthWatch(RunFiles(tmp_path), odd, 1000, said.append)
    assert not said


def test_a_long_run_is_not_held_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks become rarer as each takes longer, and see every line once."""
    listeners: list[Any] = []
    files: Any = SimpleNamespace(tell=listeners.append)
    looks: list[int] = []
    seen: list[int] = []

    def findings(curves: Any) -> tuple[()]:
        looks.append(trainer.global_step)
        seen.append(len(curves.steps))
        return ()

    monkeypatch.setattr("babygpt.training.health_watch.findings", findings)
    trainer: Any = SimpleNamespace(global_step=0)
    watch = HealthWatch(files, [], 50_000, list[str]().append)
    looks.clear()
    trainer: Any = SimpleNamespace(
        global_step=0, accumulate_grad_batches=1, is_global_zero=True, sanity_checking=False
    )
    for step in range(1, 50_001):
        trainer.global_step = step
        for listener in listeners:
            listener([{"step": step, "train_loss": 2.0, "lr": 0.1}])
        watch.on_train_batch_end(trainer, None, None, None, 0)
    assert looks[:100] == list(range(100, 10_001, 100))
    assert len(looks) < 100 + 100 * 1.7
    assert seen[1:] == looks
