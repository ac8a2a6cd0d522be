"""Callbacks put together do what they do one by one, hook by hook and in their order."""

from __future__ import annotations

from typing import Any

import lightning as L

from babygpt.training.together import Together
from fits import trainer_of


class Notes(L.Callback):
    """Notes some of its hooks."""

    def __init__(self, name: str, notes: list[tuple[str, str]]) -> None:
        self.name, self.notes = name, notes

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.notes.append((self.name, "setup"))

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.notes.append((self.name, f"batch {batch_idx}"))

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self.notes.append((self.name, "save"))


class NotesMore(Notes):
    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.notes.append((self.name, f"update {len(optimizer.param_groups)}"))

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.notes.append((self.name, type(exception).__name__))


class Stops(L.Callback):
    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 1:
            trainer.save_checkpoint(trainer.default_root_dir + "/saved")
            raise KeyError


def test_as_one_by_one(make_data: Any, make_module: Any, tmp_path: Any) -> None:
    def noted(name: str, together: bool) -> list[tuple[str, str]]:
        log: list[tuple[str, str]] = []
        callbacks = [Notes("a", log), NotesMore("b", log), Stops()]
        given = [Together(*callbacks)] if together else callbacks
        trainer = trainer_of(callbacks=given, max_steps=3, default_root_dir=str(tmp_path / name))
        try:
            trainer.fit(make_module(), datamodule=make_data(4))
        except KeyError:
            return log
        raise AssertionError("the callback's error is lost")

    wanted = noted("apart", together=False)
    assert len({what for _, what in wanted}) == 6
    assert noted("together", together=True) == wanted


def test_hooks_that_none_has_stay_empty() -> None:
    assert set(vars(Together(L.Callback(), Stops()))) == {"on_train_batch_end"}
