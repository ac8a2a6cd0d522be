"""Between two readings of the meter a step reads one number off its device: whether its gradient is finite.

On a GPU each such reading waits for all that is under way. Without one they are seen just as well: whatever reads a
tensor's value into Python is counted, with the function that asked.
"""

from __future__ import annotations

import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from architectures import save_tiny
from babygpt import BabyGPT, LLMDataModule
from babygpt.data.labels import IGNORED
from babygpt.model.loss import _counted_rows
from fits import trainer_of

INTERVAL = 3
# What waits for a device inside torch, and the ways from a tensor to Python that go by none of them.
_WAITS = {torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.equal}
_WAYS_OUT = {"tolist", "numpy", "cpu", "__array__"}
# Never on a device: masks that are still with the loader, and what Lightning's bar shows of `train_loss`.
# Which rows have a target is looked for on a CPU alone, as `test_targets_on_a_device_are_not_looked_at` shows.
_ON_THE_CPU = {"module.py on_before_batch_transfer", "apply_func.py to_item", "loss.py _counted_rows"}


def _caller() -> str:
    """The innermost function of neither torch nor this file."""
    frames = [f for f in traceback.extract_stack() if "/torch/" not in f.filename and f.filename != __file__]
    return f"{Path(frames[-1].filename).name} {frames[-1].name}"


class _Waits(TorchDispatchMode):
    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in _WAITS:
            self.seen.append(_caller())
        return func(*args, **(kwargs or {}))


class _WaysOut(TorchFunctionMode):
    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _WAYS_OUT:
            self.seen.append(_caller())
        return func(*args, **(kwargs or {}))


class _ByStep(L.Callback):
    """What was read in each optimiser step."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.steps: dict[int, Counter[str]] = {}

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        mine = [name for name in self.seen if name not in _ON_THE_CPU]
        self.steps[trainer.global_step] = self.steps.get(trainer.global_step, Counter()) + Counter(mine)
        self.seen.clear()


def test_targets_on_a_device_are_not_looked_at() -> None:
    """Tensors without data, which nothing can be read from."""
    assert _counted_rows(torch.full((64,), IGNORED, device="meta")) is None
    found = _counted_rows(torch.tensor([IGNORED, 3, IGNORED]))
    assert found is not None
    assert found.tolist() == [1]


@pytest.mark.parametrize(("kind", "optimizer"), [("gpt2", "adamw"), ("llama", "muon")])
def test_one_number_a_step(tiny_gpt2: Path, corpus: Path, tmp_path: Path, kind: str, optimizer: str) -> None:
    folder = save_tiny(kind, tiny_gpt2, tmp_path / kind)
    data = LLMDataModule(str(folder), 2, path=str(corpus), block=32, global_batch_size=4)
    by_step = _ByStep()
    trainer = trainer_of(
        callbacks=[by_step],
        max_steps=2 * INTERVAL,
        accumulate_grad_batches=2,
        log_every_n_steps=INTERVAL,
        gradient_clip_val=1.0,
    )
    with _Waits(by_step.seen), _WaysOut(by_step.seen):
        trainer.fit(BabyGPT(str(folder), 1e-3, optimizer=optimizer), datamodule=data)
    for step in (2, 4, 5):
        assert by_step.steps[step] == Counter({"module.py _is_finite": 1}), step
    assert by_step.steps[INTERVAL]["meter.py flush"] == 2, (
        "losses and norms, each for the whole interval at once"
    )


def test_what_the_bar_shows_is_on_the_cpu(make_data: Any, make_module: Any, monkeypatch: Any) -> None:
    """A plain number Lightning would put on the device."""
    given: list[Any] = []
    real = BabyGPT.log

    def log(self: BabyGPT, name: str, value: Any, **kwargs: Any) -> None:
        given.append((name, value)) if kwargs.get("prog_bar") else None
        real(self, name, value, **kwargs)

    monkeypatch.setattr(BabyGPT, "log", log)
    trainer_of(max_steps=2, log_every_n_steps=1).fit(make_module(), datamodule=make_data(4))
    assert [name for name, _ in given] == ["train_loss"] * 2
    assert all(isinstance(value, torch.Tensor) and value.device.type == "cpu" for _, value in given)
