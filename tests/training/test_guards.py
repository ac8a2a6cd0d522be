"""A signal is a flag; the handlers of before come back. A gradient that is no number changes nothing."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch

from babygpt.errors import NotFiniteError, Stopped
from babygpt.training.guards import Asked, SignalGuard, SkippedSteps, requeue
from fits import Recorder, StopHereError, trainer_of, weights_equal

ALONE: Any = SimpleNamespace(world_size=1, global_step=1)


@pytest.mark.parametrize(("handler", "stop"), [(signal.SIG_DFL, signal.SIGHUP), (signal.SIG_IGN, 0)])
def test_a_hangup_stops_unless_it_is_ignored(handler: signal.Handlers, stop: int) -> None:
    """nohup has it ignored."""
    before = signal.signal(signal.SIGHUP, handler)
    try:
        guard = SignalGuard()
        with guard.installed():
            guard.on_train_start(ALONE, ALONE)
            os.kill(os.getpid(), signal.SIGHUP)
            assert guard.asked(ALONE) == Asked(stop, False)
        assert signal.getsignal(signal.SIGHUP) is handler
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_only_raises_a_flag(signum: signal.Signals) -> None:
    before = signal.getsignal(signum)
    guard = SignalGuard()
    with guard.installed():
        guard.raise_if_asked()
        assert guard.asked(ALONE) == Asked(0, False)
        os.kill(os.getpid(), signum)
        assert guard.asked(ALONE) == Asked(signum, False)
        with pytest.raises(Stopped) as caught:
            guard.raise_if_asked()
        assert caught.value.signum == signum
    assert signal.getsignal(signum) is before


def test_a_second_ctrl_c_stops_at_once() -> None:
    guard = SignalGuard()
    with guard.installed():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Stopped) as caught:
            os.kill(os.getpid(), signal.SIGINT)
        assert caught.value.at_once
        assert caught.value.signum == signal.SIGINT


def test_handlers_put_in_since_are_taken_over_again() -> None:
    guard = SignalGuard()
    with guard.installed():
        signal.signal(
            signal.SIGTERM, signal.SIG_IGN
        )  # as Lightning does between our start and the first step
        guard.on_train_start(ALONE, ALONE)
        os.kill(os.getpid(), signal.SIGTERM)
        assert guard.asked(ALONE).stop == signal.SIGTERM


def test_usr1_saves_once_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    guard = SignalGuard()
    with guard.installed():
        os.kill(os.getpid(), signal.SIGUSR1)
        assert guard.asked(ALONE) == Asked(0, True)
        assert guard.asked(ALONE) == Asked(0, False)
        guard.raise_if_asked()


@pytest.mark.parametrize(
    ("environment", "stops"),
    [
        ({"SLURM_JOB_ID": "42"}, True),
        ({"SLURM_JOB_ID": "42", "SLURM_JOB_NAME": "bash"}, False),
        ({"SLURM_JOB_ID": "42; rm"}, False),
    ],
)
def test_under_slurm_usr1_stops(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], stops: bool
) -> None:
    monkeypatch.delenv("SLURM_JOB_NAME", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    guard = SignalGuard()
    with guard.installed():
        os.kill(os.getpid(), signal.SIGUSR1)
        assert guard.asked(ALONE) == (Asked(signal.SIGUSR1, False) if stops else Asked(0, True))


def test_a_job_is_queued_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setenv("PATH", str(tmp_path))
    requeue("42", said.append)
    assert "could not be queued again" in said.pop()
    program = tmp_path / "scontrol"
    program.write_text(f"#!{shutil.which('sh', path='/bin:/usr/bin')}\necho $1 $2 > {tmp_path / 'asked'}\n")
    program.chmod(0o755)
    requeue("42", said.append)
    assert (tmp_path / "asked").read_text() == "requeue 42\n"
    assert said == ["slurm: job 42 is queued again"]


def test_ranks_agree_about_once_a_second_whatever_their_steps_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks of unlike clocks, each with a signal of its own: they ask at the same steps and hear the same."""
    clock = [0.0]
    monkeypatch.setattr("babygpt.training.guards.time.monotonic", lambda: clock[0])

    def rank(others: list[list[float]]) -> tuple[SignalGuard, Any, list[int]]:
        guard, checks = SignalGuard(), []

        def reduce(mine: Any, reduce_op: str) -> Any:
            assert reduce_op == "max"
            checks.append(trainer.global_step)
            return torch.stack([mine, *map(torch.tensor, others)]).max(0).values

        trainer: Any = SimpleNamespace(
            world_size=2, global_step=0, strategy=SimpleNamespace(root_device="cpu", reduce=reduce)
        )
        guard.on_train_start(trainer, ALONE)
        return guard, trainer, checks

    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    try:
        guard, trainer, checks = rank([[15.0, 0.0, 0.25]])
        heard = []
        for step in range(1, 11):
            clock[0] += 0.1
            trainer.global_step = step
            heard.append(guard.asked(trainer).stop)
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    assert checks == [1, 5, 9], "the slowest rank takes 0.25 s a step: every fourth"
    assert [step for step, stop in enumerate(heard, 1) if stop == 15] == checks


def test_outside_the_main_thread_it_does_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[Any] = []

    def work() -> None:
        with SignalGuard().installed():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


# -- gradients that are no numbers ---------------------------------------------------------------------------


def test_ten_in_a_row_end_the_run_and_others_do_not() -> None:
    skipped = SkippedSteps()
    for step in (3, *range(5, 14), *range(20, 29)):
        skipped.add(step)
    with pytest.raises(NotFiniteError, match=r"in the 10 steps up to 29"):
        skipped.add(29)


class Spoil(L.Callback):
    """Puts a NaN into one gradient of some steps and looks at what an update does."""

    def __init__(self, steps: set[int]) -> None:
        self.steps = steps
        self.before: dict[str, torch.Tensor] = {}
        self.same: dict[int, bool] = {}

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if trainer.global_step in self.steps:
            next(pl_module.parameters()).grad.view(-1)[7] = float("nan")
        self.before = self._all(pl_module, optimizer)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        after = self._all(pl_module, trainer.optimizers[0])
        self.same[trainer.global_step - 1] = self.before.keys() == after.keys() and all(
            torch.equal(self.before[k], v) for k, v in after.items()
        )

    def _all(self, module: Any, optimizer: Any) -> dict[str, torch.Tensor]:
        found = {f"weight {n}": p.detach().clone() for n, p in module.named_parameters()}
        for number, state in optimizer.state_dict()["state"].items():
            found |= {f"state {number} {k}": torch.as_tensor(v).clone() for k, v in state.items()}
        return found


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("first", [0, 3])
def test_a_step_with_a_nan_changes_no_bit(
    make_data: Any, make_module: Any, optimizer: str, first: int
) -> None:
    spoil = Spoil({first, 5})
    module = make_module(optimizer=optimizer, warmup=0.0)
    trainer_of(callbacks=[spoil], max_steps=7, log_every_n_steps=1, gradient_clip_val=1.0).fit(
        module, datamodule=make_data(4)
    )
    assert {step for step, same in spoil.same.items() if same} == {first, 5}
    assert module.skipped.steps == [first + 1, 6]
    assert [r.step for r in module.meter.drain() if r.skipped] == [first + 1, 6]


def test_skips_are_remembered_over_a_stop(make_data: Any, make_module: Any, tmp_path: Path) -> None:
    def fit(stop: int | None, start: Path | None) -> Any:
        module = make_module()
        recorder = Recorder(stop_after=stop, save_to=tmp_path / f"at-{stop}")
        trainer = trainer_of(callbacks=[Spoil({2, 6}), recorder], max_steps=9)
        with suppress(StopHereError):
            trainer.fit(module, datamodule=make_data(4), ckpt_path=None if start is None else str(start))
        return module

    whole = fit(None, None)
    fit(4, None)
    resumed = fit(None, tmp_path / "at-4")
    assert resumed.skipped.steps == whole.skipped.steps == [3, 7]
    assert weights_equal(resumed, whole)
