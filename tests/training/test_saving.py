"""When a run saves: decided from the step, the clock, the disk and the signals alone."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from babygpt.checkpoints import link_last
from babygpt.errors import SpaceError, Stopped
from babygpt.files import publish_folder, verify_folder
from babygpt.training import saving
from babygpt.training.guards import Asked
from babygpt.training.saving import RunCheckpoints, SavePlan, settle
from babygpt.training.writer import BackgroundWriter


class Fit:
    """A fit of which only the hooks are real: steps, validations, and a folder for each save."""

    def __init__(self, folder: Path, **plan: Any) -> None:
        defaults: dict[str, Any] = {
            "total_steps": 10,
            "validate_every": 4,
            "every_steps": 4,
            "every_minutes": None,
            "keep": 2,
        }
        self.plan = SavePlan(folder, **{**defaults, **plan})
        self.signum, self.save_asked = 0, False
        guard: Any = SimpleNamespace(asked=self._asked)
        self.events: list[str] = []
        self.writer = BackgroundWriter()
        self.callback = RunCheckpoints(
            self.plan, guard, lambda: self.events.append("flush"), self.events.append, self.writer
        )
        self.trainer: Any = SimpleNamespace(
            global_step=0,
            world_size=1,
            is_global_zero=True,
            should_stop=False,
            sanity_checking=False,
            state=SimpleNamespace(fn="fit"),
            callback_metrics={},
            strategy=SimpleNamespace(barrier=lambda name: None),
            save_checkpoint=self._save,
        )
        self.module: Any = SimpleNamespace(flush=lambda: self.events.append("read"), spike=None)
        self.saved: list[str] = []
        self.callback.on_train_start(self.trainer, self.module)

    def _asked(self, trainer: Any) -> Asked:
        asked, self.save_asked = Asked(self.signum, self.save_asked), False
        return asked

    def _save(self, path: Path) -> None:
        assert self.events[-2:] == ["read", "flush"], "metrics reach the disk before the step they belong to"
        self.saved.append(path.name)

    def step(self, val_loss: float = 5.0, micro_batches: int = 2) -> None:
        for micro in range(micro_batches):
            if micro == micro_batches - 1:
                self.trainer.global_step += 1
            self.callback.on_train_batch_end(self.trainer, self.module, None, None, micro)
        if self.plan.validates(self.trainer.global_step):
            self.trainer.callback_metrics["val_loss"] = torch.tensor(val_loss)
            self.callback.on_validation_end(self.trainer, self.module)
        self.writer.join()


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(**plan: Any) -> Fit:
        (tmp_path / "recipe.yaml").touch()
        made = Fit(tmp_path / "checkpoints", **plan)
        monkeypatch.setattr(
            saving, "copy_checkpoint", lambda path, name: made.saved.append(name) or path.with_name(name)
        )
        for name in ("link_last", "keep"):
            monkeypatch.setattr(saving, name, lambda *a, **k: None)
        return made

    return make


def test_nothing_is_saved_into_a_run_folder_that_is_gone(fit: Any, tmp_path: Path) -> None:
    run = fit()
    for _ in range(3):
        run.step()
    (tmp_path / "recipe.yaml").unlink()
    with pytest.raises(FileNotFoundError, match=r"the run folder is gone: .*recipe\.yaml"):
        run.step()
    assert run.saved == []


def test_a_step_that_validates_is_saved_once_after_its_validation(fit: Any) -> None:
    run = fit()
    for loss in (9.0, 9.0, 9.0, 5.0):
        run.step(loss)
    assert run.saved == ["babygpt-5.00", "step-000004"]
    for loss in (9.0, 9.0, 9.0, 6.0):
        run.step(loss)
    assert run.saved[2:] == ["step-000008"], "a worse loss is no new best"
    for _ in range(2):
        run.step(4.0)
    assert run.saved[3:] == ["babygpt-4.00", "step-000010"], "the last step is validated and saved"
    assert run.trainer.should_stop


def test_a_loss_that_is_no_number_is_no_best(fit: Any) -> None:
    run = fit()
    for loss in (9.0, 9.0, 9.0, float("nan")):
        run.step(loss)
    assert run.saved == ["step-000004"]


def test_saves_between_validations(fit: Any) -> None:
    run = fit(every_steps=3)
    for _ in range(10):
        run.step()
    assert run.saved == ["step-000003", "babygpt-5.00", "step-000006", "step-000009", "step-000010"]


def test_without_a_cadence_only_the_best_and_the_last_are_saved(fit: Any) -> None:
    run = fit(every_steps=None)
    for _ in range(10):
        run.step()
    assert run.saved == ["babygpt-5.00", "step-000010"]


def test_minutes(fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(saving.time, "monotonic", lambda: clock[0])
    run = fit(every_steps=None, every_minutes=2, validate_every=100)
    for _ in range(9):
        clock[0] += 50
        run.step()
    assert run.saved == ["step-000003", "step-000006", "step-000009"]


@pytest.mark.parametrize(("at", "saved"), [(2, ["step-000002"]), (4, ["step-000004"])])
def test_a_signal_saves_at_the_steps_end_and_stops(fit: Any, at: int, saved: list[str]) -> None:
    run = fit()
    for _ in range(at - 1):
        run.step()
    run.signum = signal.SIGTERM
    with pytest.raises(Stopped) as caught:
        run.step()
    assert caught.value.signum == signal.SIGTERM
    assert run.saved == saved


def test_a_save_that_was_asked_for_goes_on(fit: Any) -> None:
    run = fit()
    run.step()
    run.save_asked = True
    for _ in range(2):
        run.step()
    assert run.saved == ["step-000002"]


def test_a_validation_outside_the_fit_saves_nothing(fit: Any) -> None:
    run = fit()
    run.trainer.state.fn = "validate"
    run.callback.on_validation_end(run.trainer, run.module)
    run.trainer.state.fn = "fit"
    run.trainer.sanity_checking = True
    run.callback.on_validation_end(run.trainer, run.module)
    assert run.saved == []


def test_a_name_in_use_is_never_written_over(fit: Any, tmp_path: Path) -> None:
    run = fit()
    for taken in ("step-000003", "step-000003-v1"):
        (tmp_path / "checkpoints" / taken).mkdir(parents=True)
    run.signum = signal.SIGTERM
    run.trainer.global_step = 2
    with pytest.raises(Stopped):
        run.step(micro_batches=1)
    assert run.saved == ["step-000003-v2"]


def test_a_write_that_failed_ends_the_run_at_the_next_steps_end(fit: Any) -> None:
    run = fit(validate_every=100, every_steps=2)
    follow: list[str] = []

    def fails(path: Path) -> None:
        def write() -> None:
            raise SpaceError("the disk is full")

        run.writer.submit(write)
        run.writer.submit(lambda: follow.append("kept"))

    run.trainer.save_checkpoint = fails
    for _ in range(2):
        run.step()
    with pytest.raises(SpaceError, match="the disk is full"):
        run.step()
    assert follow == [], "nothing is deleted for a save that failed"


def test_one_save_is_under_way_at_a_time(fit: Any) -> None:
    run = fit(validate_every=100, every_steps=1)
    under_way, most, lock = [0], [0], threading.Lock()

    def slow(path: Path) -> None:
        assert under_way[0] == 0, "the state is copied only when the save before is on the disk"

        def write() -> None:
            with lock:
                under_way[0] += 1
                most[0] = max(most[0], under_way[0])
            time.sleep(0.02)
            under_way[0] -= 1

        run.writer.submit(write)

    run.trainer.save_checkpoint = slow
    for _ in range(4):
        run.trainer.global_step += 1
        run.callback.on_train_batch_end(run.trainer, run.module, None, None, 0)
    run.callback.on_train_end(run.trainer, run.module)
    assert under_way[0] == 0
    assert most[0] == 1
    assert 0.04 < run.callback.stalled < 10


def published(folder: Path, name: str, step: int) -> Path:
    return publish_folder(
        folder, name, lambda inside: (inside / "model.safetensors").write_bytes(b"x"), {"step": step}
    )


@pytest.mark.parametrize("last", ["none", "older", "a file"])
def test_what_a_killed_process_had_begun_is_ended(tmp_path: Path, last: str) -> None:
    older, newest = published(tmp_path, "step-000003", 3), published(tmp_path, "babygpt-2.00", 6)
    (tmp_path / ".partial-step-000006-ab").mkdir()
    if last == "older":
        link_last(tmp_path, older)
    elif last == "a file":
        (tmp_path / "last").write_text("step-000003\n")
    settle(tmp_path, newest)
    assert {p.name for p in tmp_path.iterdir()} == {"step-000003", "babygpt-2.00", "step-000006", "last"}
    assert verify_folder(tmp_path / "step-000006").facts["step"] == 6
    assert (tmp_path / "last").resolve().name == "step-000006"


@pytest.mark.parametrize("link", [True, False])
def test_where_nothing_is_left_to_do_nothing_changes(tmp_path: Path, link: bool) -> None:
    newest = published(tmp_path, "step-000006", 6)
    if link:
        link_last(tmp_path, newest)
    else:
        (tmp_path / "last").write_text("step-000006\n")
    before = {p: p.lstat().st_mtime_ns for p in [tmp_path, *tmp_path.iterdir()]}
    settle(tmp_path, newest)
    assert {p: p.lstat().st_mtime_ns for p in [tmp_path, *tmp_path.iterdir()]} == before
